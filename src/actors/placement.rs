//! The placement actor: asks the placement engine where new replicas go.
//!
//! A shell: the engine is pure and lives in `crate::placement`. A panic in it is caught, counted and answered with
//! an error; the cluster stays as it is.

use super::balance::decide::{self, Sight};
use super::leader::observed::Observed;
use super::mirror::View;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::placement::{Load, NewShard, NewTable, NodeView, Policy, ShardView, Snapshot, place_new};
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
pub struct FindNodes {
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
        let (view, reports) = (self.view.read(), self.observed.read());
        // New replicas go to nodes that live; how long others have been gone makes no difference here.
        let heartbeats = &reports.heartbeats;
        decide::snapshot(&Sight { view: &view, heartbeats, lost: &|_| false, now_unix_ms: 0, forgets: false })
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

impl Handler<FindNodes> for PlacementActor {
    type Result = Result<BTreeMap<ShardId, NodeId>, String>;
    fn handle(&mut self, message: FindNodes, _: &mut Context<Self>) -> Self::Result {
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
