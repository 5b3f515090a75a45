//! The placement actor: asks the placement engine where new replicas go.
//!
//! A shell: the engine is pure and lives in `crate::placement`. A panic in it is caught, counted and answered with
//! an error; the cluster stays as it is.

use super::leader::observed::Observed;
use super::mirror::View;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::table::ReplicaState;
use crate::placement::{
    Load, NewShard, NewTable, NodeView, Policy, ReplicaView, ShardView, Snapshot, place_new,
};
use actix::prelude::*;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The actor.
pub struct PlacementActor {
    view: View,
    observed: Observed,
}

/// Place these new shards of a table.
#[derive(Message)]
#[rtype(result = "Result<BTreeMap<ShardId, Vec<NodeId>>, String>")]
pub struct PlaceShards {
    /// The shards.
    pub shards: Vec<ShardId>,
    /// Replicas each.
    pub replicas: u32,
    /// Where the first one's first replica goes, if it may.
    pub first_node: Option<NodeId>,
}

/// Find one more node for each of these shards.
#[derive(Message)]
#[rtype(result = "Result<BTreeMap<ShardId, NodeId>, String>")]
pub struct AddReplicas {
    /// Their table.
    pub table: TableId,
    /// The shards.
    pub shards: Vec<ShardId>,
}

impl PlacementActor {
    /// Works on that view and those reports.
    pub fn new(view: View, observed: Observed) -> Self {
        Self { view, observed }
    }

    fn snapshot(&self) -> Snapshot {
        let view = self.view.read();
        let reports = self.observed.read();
        let nodes = view.nodes.values().map(|n| NodeView::new(&n.record, view.is_live(&n.record.id)));
        let shard = |shard: &crate::model::Shard| {
            let bytes =
                |node: &NodeId| reports.heartbeats.get(node)?.replicas.get(&shard.table)?.get(&shard.id);
            let largest = shard.replicas.iter().filter_map(|r| bytes(&r.node)).map(|seen| seen.bytes).max();
            ShardView {
                table: shard.table,
                shard: shard.id,
                load: Load { bytes: largest.unwrap_or(0), ..Load::default() },
                replicas_wanted: view.tables.get(&shard.table).map_or(1, |table| table.record.replicas),
                replicas: shard
                    .replicas
                    .iter()
                    .map(|r| ReplicaView {
                        node: r.node.clone(),
                        complete: r.state != ReplicaState::Creating,
                        leaving: false,
                    })
                    .collect(),
                leader: shard.leader.clone(),
                frozen: false,
                pinned: Vec::new(),
                excluded: Vec::new(),
            }
        };
        let shards = view.shards.values().flat_map(BTreeMap::values).map(|s| shard(&s.record));
        Snapshot { nodes: nodes.collect(), shards: shards.collect() }
    }
}

fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!("the placement engine panicked: nothing is placed");
        "the placement engine failed; see the daemon's log".to_owned()
    })
}

impl Actor for PlacementActor {
    type Context = Context<Self>;
}

impl Handler<PlaceShards> for PlacementActor {
    type Result = Result<BTreeMap<ShardId, Vec<NodeId>>, String>;
    fn handle(&mut self, message: PlaceShards, _: &mut Context<Self>) -> Self::Result {
        let snapshot = self.snapshot();
        let shards = message.shards.iter().map(|shard| NewShard { shard: *shard, load: Load::default() });
        let table = NewTable {
            replicas: message.replicas,
            shards: shards.collect(),
            first_node: message.first_node.clone(),
        };
        let placed = guarded(|| place_new(&snapshot, &Policy::default(), &table))?;
        for compromise in &placed.compromises {
            tracing::warn!(compromise, "placement could not keep every rule");
        }
        Ok(placed.shards)
    }
}

impl Handler<AddReplicas> for PlacementActor {
    type Result = Result<BTreeMap<ShardId, NodeId>, String>;
    fn handle(&mut self, message: AddReplicas, _: &mut Context<Self>) -> Self::Result {
        let snapshot = self.snapshot();
        let find = |id: &ShardId| {
            let held = snapshot.shards.iter().find(|s| s.table == message.table && s.shard == *id)?;
            let holds = |node: &NodeView| held.replicas.iter().any(|replica| replica.node == node.id);
            // Nodes that hold it are out; zones that hold it come last.
            let zones: Vec<&str> =
                snapshot.nodes.iter().filter(|node| holds(node)).map(NodeView::zone).collect();
            let free = snapshot.nodes.iter().filter(|node| node.takes_new() && !holds(node));
            let load = |node: &NodeView| {
                let on = |s: &&ShardView| s.replicas.iter().any(|replica| replica.node == node.id);
                snapshot.shards.iter().filter(on).count() * 1000 / node.weight_milli.max(1) as usize
            };
            let best = free.min_by_key(|node| (zones.contains(&node.zone()), load(node), node.id.clone()));
            best.map(|node| (*id, node.id.clone()))
        };
        guarded(|| message.shards.iter().filter_map(find).collect())
    }
}
