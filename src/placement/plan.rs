//! A plan: the steps from what is there to a placement, as data.
//!
//! A plan is printed, saved, compared and applied elsewhere; [`sequence`](super::sequence) makes it, and
//! [`replay`](super::replay) checks it.

use super::problem::Problem;
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
    /// For a copy: the node that it is read from; none if there is no complete copy on a live node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<u32>,
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
    /// Shards that do not get all the way, sorted, and why.
    pub left: Vec<Left>,
}

/// A shard that a plan does not bring all the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Left {
    /// The shard.
    pub shard: u32,
    /// What holds it up when the plan has ended.
    #[serde(flatten)]
    pub why: Stuck,
}

/// What holds a shard up when a plan has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "why")]
pub enum Stuck {
    /// Its copy does not fit on a node below the watermark, and no order of steps was found that makes room.
    NoRoom {
        /// The node.
        node: u32,
    },
    /// A copy that is to go is still needed: too few others are complete.
    Needed {
        /// The copy's node.
        node: u32,
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
}

/// Copies, leaders and disks as a plan goes on.
#[derive(Clone)]
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

    /// Whether one more copy of a shard leaves a node below the watermark.
    pub fn fits(&self, problem: &Problem, shard: usize, node: u32) -> bool {
        let bytes = problem.bytes[shard];
        bytes == 0 || self.used[node as usize].saturating_add(bytes) as f64 <= problem.room_bytes(node)
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
