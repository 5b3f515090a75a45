//! Split and merge: new shards are made beside the old ones, out of their copies on the same nodes and without
//! copying; one transaction puts them into the topology; the old ones go when nobody can be reading them.
//!
//! While the children are prepared readers see the parents, which stand still from the moment that a node has linked
//! their parts, so every replica of a child starts with what its parent's replica showed.

use super::relocate::abandoned;
use super::{Change, Progress, Scene, Wait, not_there, step, waiting};
use crate::model::ids::{Epoch, NodeId, ShardId};
use crate::model::operation::{State, WaitCode};
use crate::model::range::PartitionRange;
use crate::model::table::{Replica, ReplicaState, Shard, ShardState};
use std::collections::BTreeSet;

pub(super) fn split(
    scene: &Scene<'_>,
    cancel: bool,
    parent: ShardId,
    cut: u32,
    children: [ShardId; 2],
) -> Progress {
    let ranges = |parents: &[&Shard]| {
        let (left, right) = parents[0].range.split_at(cut)?;
        Some(vec![left, right])
    };
    reshape(scene, cancel, &[parent], &children, &ranges)
}

pub(super) fn merge(scene: &Scene<'_>, cancel: bool, parents: [ShardId; 2], child: ShardId) -> Progress {
    let ranges = |parents: &[&Shard]| {
        let (left, right) = (parents[0].range, parents[1].range);
        (left.hi() == right.lo())
            .then(|| PartitionRange::new(left.lo(), right.hi()))?
            .map(|range| vec![range])
    };
    reshape(scene, cancel, &parents, &[child], &ranges)
}

/// The children's ranges, or `None` if the parents' do not allow it.
type Ranges<'a> = &'a dyn Fn(&[&Shard]) -> Option<Vec<PartitionRange>>;

fn reshape(
    scene: &Scene<'_>,
    cancel: bool,
    parents: &[ShardId],
    children: &[ShardId],
    ranges: Ranges<'_>,
) -> Progress {
    let old: Vec<&Shard> = parents.iter().filter_map(|id| scene.shard(*id)).collect();
    let new: Vec<&Shard> = children.iter().filter_map(|id| scene.shard(*id)).collect();
    let missing = parents.iter().find(|id| scene.shard(**id).is_none());
    match (missing, new.len() == children.len()) {
        (Some(_), true) if new.iter().all(|shard| shard.state == ShardState::Serving) && old.is_empty() => {
            let late = || "its result was published already, so it was finished".to_owned();
            Progress::Ended(State::Done, cancel.then(late).unwrap_or_default())
        }
        (None, false) if cancel && new.is_empty() => Progress::Ended(State::Cancelled, String::new()),
        (None, false) if new.is_empty() => begin(scene, &old, children, ranges),
        (None, true) if old.iter().all(|shard| shard.state == ShardState::Serving) => {
            if cancel {
                return undo(&new);
            }
            publish(scene, &old, &new)
        }
        (_, true) => retire(scene, cancel, &old, &new),
        (Some(id), false) => not_there(*id),
        (None, false) => not_there(children[0]),
    }
}

fn begin(scene: &Scene<'_>, old: &[&Shard], children: &[ShardId], ranges: Ranges<'_>) -> Progress {
    let refused = |why: String| Progress::Ended(State::Failed, why);
    if let Some(shard) = old.iter().find(|shard| shard.state != ShardState::Serving) {
        return refused(format!("shard {} is not in the topology", shard.id));
    }
    if let Some(busy) = old.iter().find_map(|shard| scene.at_rest(shard)) {
        return busy;
    }
    let nodes: Vec<&NodeId> = old[0].replicas.iter().map(|replica| &replica.node).collect();
    let apart = |shard: &&&Shard| {
        shard.replicas.len() != nodes.len() || nodes.iter().any(|node| shard.replica_on(node).is_none())
    };
    if let Some(other) = old.iter().find(apart) {
        // Their copies were to be brought together before, and nothing else is done about them while this one is open.
        return refused(format!(
            "{} and {} are not on the same nodes: a move for it did not succeed, or copies were added; ask again",
            old[0].id, other.id
        ));
    }
    let Some(ranges) = ranges(old) else {
        return refused("the partition ranges do not allow it".to_owned());
    };
    let parents: Vec<ShardId> = old.iter().map(|shard| shard.id).collect();
    let made = children.iter().zip(&ranges).map(|(id, range)| Shard {
        state: ShardState::Preparing,
        parents: parents.clone(),
        ancestors: Shard::ancestors_by(old),
        ..Shard::new(scene.table.id, *id, *range, nodes.iter().map(|node| (*node).clone()))
    });
    let named: Vec<String> =
        children.iter().zip(&ranges).map(|(id, range)| format!("{id} {range}")).collect();
    step(made.collect(), false, format!("{} to be prepared", named.join(", ")))
}

/// Back to what it was: the children's databases go with their records, the parents take messages again.
fn undo(new: &[&Shard]) -> Progress {
    let delete: Vec<ShardId> = new.iter().map(|shard| shard.id).collect();
    let reasons = vec![format!("{} children given up", delete.len())];
    Progress::Step(Change { delete, reasons, ..Change::default() })
}

fn publish(scene: &Scene<'_>, old: &[&Shard], new: &[&Shard]) -> Progress {
    for child in new {
        let ready = |node: &NodeId| {
            child.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Ready)
        };
        // A child must be readable wherever its parent is, or a copy would be lost (KEEP-COPIES).
        let lacking = old.iter().flat_map(|parent| scene.ready_live(parent)).find(|node| !ready(node));
        if let Some(node) = lacking {
            let what = format!("{} to be readable on {node}", child.id);
            return match scene.problem(child.id, node) {
                Some((code, problem)) => waiting(code, format!("{what}: {problem}")),
                None => waiting(WaitCode::Linking, what),
            };
        }
        // Where none of the parent's readable copies is up for a moment, those of the children that are may be dead.
        if scene.ready_live(child).next().is_none() {
            let what = format!("{} to be readable anywhere: its nodes are down", child.id);
            return waiting(WaitCode::NodeDown, what);
        }
    }
    let epoch = scene.next_epoch();
    let published = new.iter().map(|child| serving(child, old));
    let retired = old.iter().map(|parent| retired(parent, epoch));
    let reason = format!("{} took the place of {}", some(new), some(old));
    let (counted_on, counted_out) = counted(scene, old, new);
    let (shards, reasons) = (published.chain(retired).collect(), vec![reason]);
    Progress::Step(Change { shards, counted_on, counted_out, publish: true, reasons, ..Change::default() })
}

/// The nodes whose copies the children live on, and those that are left behind without one since they are down.
fn counted(scene: &Scene<'_>, old: &[&Shard], new: &[&Shard]) -> (Vec<NodeId>, Vec<NodeId>) {
    let nodes: BTreeSet<&NodeId> = old.iter().flat_map(|parent| parent.ready_nodes()).collect();
    let whole = |node: &NodeId| new.iter().all(|child| child.ready_nodes().any(|ready| ready == node));
    let on = nodes.iter().copied().filter(|node| !scene.down(node));
    let out = nodes.iter().copied().filter(|node| !whole(node) && !scene.known.live.contains(*node));
    (on.cloned().collect(), out.cloned().collect())
}

/// Some shards, by name.
fn some(shards: &[&Shard]) -> String {
    shards.iter().map(|shard| shard.id.to_string()).collect::<Vec<_>>().join(", ")
}

fn serving(child: &Shard, old: &[&Shard]) -> Shard {
    let ready =
        |node: &&NodeId| child.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Ready);
    let leader = old[0].leader.as_ref().filter(ready).or_else(|| child.ready_nodes().next()).cloned();
    Shard { state: ShardState::Serving, leader, epoch: child.epoch.next(), ..child.clone() }
}

fn retired(parent: &Shard, epoch: Epoch) -> Shard {
    Shard {
        state: ShardState::Retired,
        retired_at: Some(epoch),
        epoch: parent.epoch.next(),
        leader: None,
        ..parent.clone()
    }
}

/// The parents go. What is to be undone by then is finished, without waiting for halves that a node cannot make: they
/// are copied from other nodes, as where a node's copies are given up.
fn retire(scene: &Scene<'_>, cancel: bool, old: &[&Shard], new: &[&Shard]) -> Progress {
    for parent in old {
        let epoch = parent.retired_at.unwrap_or(scene.table.epoch);
        if let Some(wait) = scene.readers_left(&parent.id.to_string(), epoch) {
            return wait;
        }
    }
    if let Some(wait) = old.iter().find_map(|parent| unlinked(scene, parent, new)).filter(|_| !cancel) {
        return wait;
    }
    let counted_on = match made_elsewhere(scene, old, new) {
        Ok(counted_on) => counted_on,
        Err(wait) => return Progress::Waiting(wait),
    };
    let delete: Vec<ShardId> = old.iter().map(|shard| shard.id).collect();
    let mut reasons: Vec<String> =
        delete.iter().map(|id| format!("{id} is read by nobody any more")).collect();
    if cancel && old.iter().any(|parent| unlinked(scene, parent, new).is_some()) {
        reasons.push(format!("{} are copied where they are not made yet: it was cancelled", some(new)));
    }
    Progress::Step(Change { delete, counted_on, reasons, ..Change::default() })
}

/// The nodes whose copies of the children are counted on where a parent's whole copy goes of which they were not made
/// there. A child of which no copy lives, by what this leader has heard, may have its rows in no other place: then the
/// parents stay (KEEP-COPIES).
fn made_elsewhere(scene: &Scene<'_>, old: &[&Shard], new: &[&Shard]) -> Result<Vec<NodeId>, Wait> {
    let mut counted_on = BTreeSet::new();
    for child in new {
        let made = |node: &NodeId| child.replica_on(node).is_some_and(|replica| replica.state.is_complete());
        let only = |parent: &&Shard| {
            let mut whole = parent.replicas.iter().filter(|replica| replica.state.is_complete());
            let found = whole.find(|replica| !made(&replica.node))?;
            Some((parent.id, found.node.clone()))
        };
        let Some((parent, node)) = old.iter().find_map(only) else { continue };
        let heard = |node: &&NodeId| scene.known.heartbeats.contains_key(*node);
        let live: Vec<&NodeId> = scene.ready_live(child).filter(heard).collect();
        if live.is_empty() {
            let what = format!(
                "a copy of {} that can be read on a node that is up: until then the one of {parent} on {node} stays",
                child.id
            );
            return Err(Wait { code: WaitCode::FewCopies, what });
        }
        counted_on.extend(live.into_iter().cloned());
    }
    Ok(counted_on.into_iter().collect())
}

/// A node that was down while its neighbours linked has the parent whole still: the children there are linked from it
/// when it is back, not copied. It is waited for until its copies are given up.
fn unlinked(scene: &Scene<'_>, parent: &Shard, new: &[&Shard]) -> Option<Progress> {
    let creating = |child: &&Shard, node: &NodeId| {
        child.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Creating)
    };
    let waited_for = |replica: &&Replica| {
        let node = &replica.node;
        replica.state.is_complete()
            && new.iter().any(|child| creating(child, node))
            && !abandoned(scene, node)
    };
    let node = &parent.replicas.iter().find(waited_for)?.node;
    let what = format!("{} to be made of {} on {node}", some(new), parent.id);
    Some(match new.iter().find_map(|child| scene.problem(child.id, node)) {
        Some((code, problem)) => waiting(code, format!("{what}: {problem}")),
        None => waiting(WaitCode::Linking, what),
    })
}
