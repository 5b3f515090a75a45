//! The course that the balancer has set out on: where its newest plan leads.
//!
//! A plan takes many rounds. One that is looked for anew in each of them, on a cluster that is half-way, finds other
//! ways that are as good, and copies go there and back. So the way is kept until it is reached, and given up only when
//! the cluster is another one: nodes come, go or change, or shards are made. How full disks are changes all the time.
//! Not stored: a new leader looks anew. Pure.

use super::decide;
use super::pursue::Towards;
use crate::model::balance::BalanceRules;
use crate::model::ids::{ShardId, TableId};
use crate::placement::{NodeView, Policy, Proposal, Snapshot, resume};

/// See the module.
#[derive(Debug, Default)]
pub struct Course {
    towards: Towards,
    /// The nodes and shards that it was found for.
    nodes: Vec<NodeView>,
    shards: Vec<(TableId, ShardId, u32)>,
}

/// Shards, and how many replicas each wants.
fn shards(snapshot: &Snapshot) -> Vec<(TableId, ShardId, u32)> {
    snapshot.shards.iter().map(|shard| (shard.table, shard.shard, shard.replicas_wanted)).collect()
}

/// Nodes, without what passes.
fn nodes(snapshot: &Snapshot) -> Vec<NodeView> {
    snapshot.nodes.iter().map(|node| NodeView { capacity_bytes: 0, ..node.clone() }).collect()
}

impl Course {
    /// Where to go on to; empty if a new way is to be looked for.
    pub fn towards(&self, snapshot: &Snapshot) -> Towards {
        let same = self.nodes == nodes(snapshot) && self.shards == shards(snapshot);
        if same { self.towards.clone() } else { Towards::new() }
    }

    /// Goes on to where a proposal leads.
    pub fn keep(&mut self, snapshot: &Snapshot, proposal: &Proposal) {
        self.towards = proposal.verdict.placement.clone();
        self.nodes = nodes(snapshot);
        self.shards = shards(snapshot);
    }
}

/// The way to `towards`; once that is reached, or if it is empty, the way that a new search finds.
pub fn solve(snapshot: &Snapshot, towards: &Towards, rules: &BalanceRules) -> Proposal {
    resume(snapshot, &Policy::default(), &decide::limits(snapshot, rules), towards)
}
