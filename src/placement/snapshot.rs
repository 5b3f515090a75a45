//! The cluster as placement sees it: by ids, in any order, desired, observed and in-flight work put together.
//!
//! This is the input at the edge; engines work on the dense `Problem` built from it.

use crate::model::{Node, NodeId, NodeState, ShardId, TableId};
use std::collections::BTreeMap;

/// What a replica costs the node that holds it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Load {
    /// Compressed bytes on disk.
    pub bytes: u64,
    /// Rows written a second.
    pub write_rate: f64,
    /// Reads a second; all of it lands on the leader.
    pub read_rate: f64,
}

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeView {
    /// Its name.
    pub id: NodeId,
    /// Labels; `zone` and `rack` are looked at.
    pub labels: BTreeMap<String, String>,
    /// Disk that tables may fill, in bytes; 0 means not known, and then shares go by weight.
    pub capacity_bytes: u64,
    /// Relative share of the load, in thousandths.
    pub weight_milli: u32,
    /// What the operator wants of it.
    pub state: NodeState,
    /// Whether it is alive, by its lease.
    pub up: bool,
}

impl NodeView {
    /// From the stored node and whether its daemon holds a lease.
    pub fn new(node: &Node, up: bool) -> Self {
        Self {
            id: node.id.clone(),
            labels: node.labels.clone(),
            capacity_bytes: node.capacity_bytes,
            weight_milli: node.weight_milli,
            state: node.state,
            up,
        }
    }

    /// Whether it may be given new replicas.
    pub fn takes_new(&self) -> bool {
        self.up && self.state == NodeState::Active
    }

    /// The zone; a node without the label is a zone of its own.
    pub fn zone(&self) -> &str {
        self.labels.get("zone").map_or(self.id.as_str(), String::as_str)
    }

    /// The rack within the zone; a node without the label is a rack of its own.
    pub fn rack(&self) -> (&str, &str) {
        (self.zone(), self.labels.get("rack").map_or(self.id.as_str(), String::as_str))
    }
}

/// A copy of a shard, there or on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaView {
    /// Where.
    pub node: NodeId,
    /// Whether the copy is complete; one that is being made counts as load, not as a copy to fall back on.
    pub complete: bool,
    /// Whether a move under way is to drop it once the copy that replaces it is complete.
    pub leaving: bool,
}

/// A shard.
#[derive(Debug, Clone, PartialEq)]
pub struct ShardView {
    /// Its table.
    pub table: TableId,
    /// Its number.
    pub shard: ShardId,
    /// Load of each replica.
    pub load: Load,
    /// How many replicas are wanted.
    pub replicas_wanted: u32,
    /// Copies, in placement's order, the preferred leader first; those being removed are not listed.
    pub replicas: Vec<ReplicaView>,
    /// Who leads now.
    pub leader: Option<NodeId>,
    /// An operation is in flight, or the operator froze it: it stays as it is.
    pub frozen: bool,
    /// Nodes that must hold a replica.
    pub pinned: Vec<NodeId>,
    /// Nodes that must not.
    pub excluded: Vec<NodeId>,
}

/// Everything that a decision sees.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Snapshot {
    /// Nodes, in any order.
    pub nodes: Vec<NodeView>,
    /// Shards of all tables, in any order.
    pub shards: Vec<ShardView>,
}
