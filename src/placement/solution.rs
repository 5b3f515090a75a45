//! A placement of every shard, and the loads that it puts on nodes.
//!
//! Flat: the replicas of shard `s` stand at `problem.slots(s)`, the leader first. It knows no rules.

use super::problem::{NONE, Problem};

/// Node ordinals of every replica, shard after shard, each shard's leader first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Solution {
    /// Node ordinals; [`NONE`] where nothing is placed yet.
    pub nodes: Vec<u32>,
}

impl Solution {
    /// Nothing placed yet.
    pub fn empty(problem: &Problem) -> Self {
        Self { nodes: vec![NONE; problem.replicas()] }
    }

    /// What is there now, as far as it fits the slots; the rest is [`NONE`].
    pub fn present(problem: &Problem) -> Self {
        let mut solution = Self::empty(problem);
        for shard in 0..problem.shards() {
            let slots = &mut solution.nodes[problem.slots(shard)];
            slots.iter_mut().zip(problem.present(shard)).for_each(|(slot, &node)| *slot = node);
        }
        solution
    }

    /// Puts every shard's followers into the order of their ordinals, which means nothing.
    pub fn sort_followers(&mut self, problem: &Problem) {
        for shard in 0..problem.shards() {
            if let Some(followers) = self.nodes[problem.slots(shard)].get_mut(1..) {
                followers.sort_unstable();
            }
        }
    }

    /// A shard's nodes, the leader first.
    pub fn of<'a>(&'a self, problem: &Problem, shard: usize) -> &'a [u32] {
        &self.nodes[problem.slots(shard)]
    }
}

/// What a solution puts on one node.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Held {
    /// Replicas.
    pub replicas: u32,
    /// Leaders.
    pub leaders: u32,
    /// Bytes.
    pub bytes: u64,
    /// Write rate.
    pub writes: f64,
    /// Read rate.
    pub reads: f64,
}

/// What a solution puts on every node.
pub fn held(problem: &Problem, solution: &Solution) -> Vec<Held> {
    let mut held = vec![Held::default(); problem.nodes.len()];
    for shard in 0..problem.shards() {
        for (index, &node) in solution.of(problem, shard).iter().enumerate() {
            if node == NONE {
                continue;
            }
            let on = &mut held[node as usize];
            on.replicas += 1;
            on.bytes += problem.bytes[shard];
            on.writes += problem.writes[shard];
            if index == 0 {
                on.leaders += 1;
                on.reads += problem.reads[shard];
            }
        }
    }
    held
}
