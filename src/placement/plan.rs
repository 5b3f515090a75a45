//! A plan: the steps from what is there to a placement, as data, and the checker that replays it.
//!
//! A plan is printed, saved, compared and applied elsewhere; [`sequence`](super::sequence) makes it.

use super::problem::{NONE, Problem};
use super::solution::Solution;
use petgraph::algo::is_cyclic_directed;
use petgraph::graph::{DiGraph, NodeIndex};
use serde::Serialize;
use std::collections::BTreeSet;

/// What a step does to a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "action")]
pub enum Action {
    /// Makes a copy on a node.
    Add {
        /// Where.
        node: u32,
    },
    /// Waits until a copy that is being made already is complete.
    Await {
        /// Where.
        node: u32,
    },
    /// Gives leadership to a node that holds a complete copy.
    Lead {
        /// To whom.
        node: u32,
    },
    /// Drops the copy on a node.
    Remove {
        /// Where.
        node: u32,
    },
}

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// The shard.
    pub shard: u32,
    /// What is done.
    #[serde(flatten)]
    pub action: Action,
    /// For a copy: the node whose copy goes once this one is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces: Option<u32>,
    /// Bytes copied.
    pub bytes: u64,
    /// Steps of one wave may run at the same time.
    pub wave: u32,
    /// Steps that must have finished before, by their place in the plan.
    pub after: Vec<u32>,
}

/// A plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Plan {
    /// Steps, in an order in which they may run one by one.
    pub steps: Vec<Step>,
    /// Number of waves.
    pub waves: u32,
    /// Estimated duration, in seconds.
    pub seconds: f64,
    /// Most bytes that each node holds at any moment.
    pub peak_bytes: Vec<u64>,
    /// Shards that do not get all the way, sorted: no order of steps keeps disks below the watermark, or a
    /// copy is still needed since too few others are complete.
    pub left: Vec<u32>,
}

/// How a plan breaks its promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A step waits for itself or for a later one.
    #[error("step {step} waits for one that does not come before it")]
    Order {
        /// The step.
        step: usize,
    },
    /// A copy is made where there is one, or dropped where there is none.
    #[error("step {step} adds what is there or removes what is not")]
    Absent {
        /// The step.
        step: usize,
    },
    /// A copy does not fit below the watermark.
    #[error("step {step} fills a node above the watermark")]
    Full {
        /// The step.
        step: usize,
    },
    /// A shard has fewer complete copies than before, or loses its leader's.
    #[error("step {step} drops a copy that is needed")]
    Needed {
        /// The step.
        step: usize,
    },
    /// The plan does not lead to the placement.
    #[error("shard {shard} does not end where it should")]
    End {
        /// The shard.
        shard: usize,
    },
}

impl Plan {
    /// The steps and what each waits for, as a graph.
    pub fn graph(&self) -> DiGraph<usize, ()> {
        let mut graph = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..self.steps.len()).map(|step| graph.add_node(step)).collect();
        for (at, step) in self.steps.iter().enumerate() {
            for &before in &step.after {
                graph.add_edge(nodes[before as usize], nodes[at], ());
            }
        }
        graph
    }

    /// Replays the plan step by step; the first broken promise, if any.
    pub fn check(&self, problem: &Problem, target: &Solution) -> Result<(), Flaw> {
        if is_cyclic_directed(&self.graph()) {
            return Err(Flaw::Order { step: 0 });
        }
        let mut world = World::new(problem);
        for (at, step) in self.steps.iter().enumerate() {
            if step.after.iter().any(|&before| before as usize >= at) {
                return Err(Flaw::Order { step: at });
            }
            replay(problem, &mut world, at, step)?;
        }
        for shard in 0..problem.shards() {
            let mut wanted: Vec<u32> =
                target.of(problem, shard).iter().copied().filter(|&node| node != NONE).collect();
            let leader = wanted.first().copied();
            let mut there = world.on[shard].clone();
            wanted.sort_unstable();
            there.sort_unstable();
            let good = there == wanted && (world.leader[shard] == leader || wanted.is_empty());
            if !good && self.left.binary_search(&(shard as u32)).is_err() {
                return Err(Flaw::End { shard });
            }
        }
        Ok(())
    }
}

fn replay(problem: &Problem, world: &mut World, at: usize, step: &Step) -> Result<(), Flaw> {
    let shard = step.shard as usize;
    let bytes = problem.bytes[shard];
    match step.action {
        Action::Add { node } => {
            if world.on[shard].contains(&node) {
                return Err(Flaw::Absent { step: at });
            }
            world.used[node as usize] += bytes;
            if bytes > 0 && world.used[node as usize] as f64 > problem.room_bytes(node) {
                return Err(Flaw::Full { step: at });
            }
            world.on[shard].push(node);
        }
        Action::Await { node } => {
            if !world.unsound.remove(&(step.shard, node)) {
                return Err(Flaw::Absent { step: at });
            }
        }
        Action::Lead { node } => {
            if !world.on[shard].contains(&node) || world.unsound.contains(&(step.shard, node)) {
                return Err(Flaw::Absent { step: at });
            }
            world.leader[shard] = Some(node);
        }
        Action::Remove { node } => {
            let Some(place) = world.on[shard].iter().position(|&other| other == node) else {
                return Err(Flaw::Absent { step: at });
            };
            if !world.may_drop(problem, shard, node) || world.leader[shard] == Some(node) {
                return Err(Flaw::Needed { step: at });
            }
            world.on[shard].swap_remove(place);
            world.unsound.remove(&(step.shard, node));
            world.used[node as usize] -= bytes;
        }
    }
    Ok(())
}

/// Copies, leaders and disks as a plan goes on.
pub(super) struct World {
    /// Nodes with a copy, by shard.
    pub on: Vec<Vec<u32>>,
    /// Leaders, by shard.
    pub leader: Vec<Option<u32>>,
    /// Bytes on nodes.
    pub used: Vec<u64>,
    /// Shard and node of copies that cannot be counted on: being made, or on a node that is down.
    pub unsound: BTreeSet<(u32, u32)>,
}

impl World {
    /// What is there now.
    pub fn new(problem: &Problem) -> Self {
        let mut used = vec![0; problem.nodes.len()];
        let mut unsound = BTreeSet::new();
        for shard in 0..problem.shards() {
            for &node in problem.present(shard) {
                used[node as usize] += problem.bytes[shard];
                if !problem.is_sound(shard, node) {
                    unsound.insert((shard as u32, node));
                }
            }
        }
        let shards = 0..problem.shards();
        Self {
            on: shards.clone().map(|shard| problem.present(shard).to_vec()).collect(),
            leader: shards.map(|shard| problem.present(shard).first().copied()).collect(),
            used,
            unsound,
        }
    }

    /// Whether a shard has a complete copy on a live node.
    pub fn is_sound(&self, shard: usize, node: u32) -> bool {
        self.on[shard].contains(&node) && !self.unsound.contains(&(shard as u32, node))
    }

    /// Whether a copy may go: a complete one when as many complete ones remain as there were, or as are asked
    /// for; one that cannot be counted on when complete ones stand for all that there were.
    pub fn may_drop(&self, problem: &Problem, shard: usize, node: u32) -> bool {
        let others = self.on[shard].iter().filter(|&&other| other != node && self.is_sound(shard, other));
        let present = problem.present(shard);
        let there = if self.is_sound(shard, node) {
            present.iter().filter(|&&node| problem.is_sound(shard, node)).count()
        } else {
            present.len()
        };
        others.count() >= there.min(problem.asked(shard))
    }
}
