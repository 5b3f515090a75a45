//! Which shards lack a replica, and which replicas are lost for good: what is to be made elsewhere now.
//!
//! Pure. Copies keep to the cluster's limits, those of the shards with the fewest copies first; what finds no room
//! waits for a later round. What has nothing to be copied does not wait.

use super::decide::{RECORDS_MAX, Step, idle};
use super::operate::Scene;
use crate::actors::balance::copies::has_nothing;
use crate::model::ids::{NodeId, ShardId};
use crate::model::table::{Replica, ReplicaState, Shard};

/// The nodes that could be given a replica of the shard.
fn takers<'a>(scene: &Scene<'a>, shard: &'a Shard) -> impl Iterator<Item = &'a NodeId> {
    scene.known.open.iter().filter(|node| shard.replica_on(node).is_none())
}

/// Whether a copy of the shard may be begun now.
fn has_room(scene: &Scene<'_>, shard: &Shard) -> bool {
    let copies = scene.known.copies;
    has_nothing(scene.known.heartbeats, shard)
        || takers(scene, shard).any(|node| copies.has_room(shard, node))
}

/// Copies that can be read and whose nodes are up.
fn live(scene: &Scene<'_>, shard: &Shard) -> usize {
    scene.ready_live(shard).count()
}

/// Whether a node's copies are given up.
fn lost(scene: &Scene<'_>, node: &NodeId) -> bool {
    scene.known.down_for(node, scene.rules.down_after_ms)
}

/// Whether a replica never was complete and never will be: it is no copy, and nothing else is done about its shard
/// while it counts as on its way.
fn stillborn(scene: &Scene<'_>, replica: &Replica) -> bool {
    replica.state == ReplicaState::Creating && lost(scene, &replica.node)
}

/// Whether a shard has fewer replicas than wanted, and a node could take one.
pub(super) fn lacks(scene: &Scene<'_>, shard: &Shard) -> bool {
    let few = shard.staying().count() < scene.table.replicas as usize;
    few && takers(scene, shard).next().is_some() && !shard.staying().any(|replica| stillborn(scene, replica))
}

pub(super) fn short(scene: &Scene<'_>) -> Option<Step> {
    let short = scene.shards.iter().copied().filter(|shard| lacks(scene, shard));
    let mut short: Vec<&Shard> = short.filter(|shard| idle(scene, shard) && has_room(scene, shard)).collect();
    short.sort_by_key(|shard| (live(scene, shard), shard.id));
    let short: Vec<ShardId> = short.into_iter().map(|shard| shard.id).take(RECORDS_MAX).collect();
    (!short.is_empty()).then_some(Step::AddReplicas(short))
}

/// Replicas on nodes that have been down for `down_after_ms`, one a shard: to go where there are enough without them,
/// else to be made where another node could take them and a live copy is left to take them from.
pub(super) fn rebuild(scene: &Scene<'_>) -> Option<Step> {
    if !scene.known.unfit_since_ms.keys().any(|node| lost(scene, node)) {
        return None;
    }
    let lost_copies = |fits: &dyn Fn(&Shard, &Replica) -> bool| -> Vec<(ShardId, NodeId)> {
        let lost_copy = |shard: &&Shard| {
            let replica =
                shard.staying().find(|replica| lost(scene, &replica.node) && fits(shard, replica))?;
            idle(scene, shard).then(|| (live(scene, shard), shard.id, replica.node.clone()))
        };
        let mut lost: Vec<_> = scene.shards.iter().filter_map(lost_copy).collect();
        lost.sort();
        lost.into_iter().map(|(_, shard, node)| (shard, node)).take(RECORDS_MAX).collect()
    };
    let surplus = lost_copies(&|shard, replica| {
        let in_the_way = stillborn(scene, replica) && takers(scene, shard).next().is_some();
        in_the_way || live(scene, shard) >= scene.table.replicas as usize
    });
    if !surplus.is_empty() {
        return Some(Step::RemoveLost(surplus));
    }
    let rebuild = lost_copies(&|shard, _| {
        takers(scene, shard).next().is_some() && live(scene, shard) > 0 && has_room(scene, shard)
    });
    (!rebuild.is_empty()).then_some(Step::Rebuild(rebuild))
}
