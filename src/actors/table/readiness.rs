//! Which replicas can be read: what joins the routes, and what leaves them. Pure; asked by [`super::decide`].

use super::decide::{Knowledge, Rules, bare, down, of_this_life, seen};
use super::operate::Scene;
use crate::model::ids::{NodeId, PartitionId, ShardId};
use crate::model::observed::{self, ReplicaObservation};
use crate::model::table::{Replica, ReplicaState, Shard, ShardState};
use std::collections::BTreeMap;

/// The copies that can be read, as far as is known.
struct Readable<'a> {
    /// What was seen of them.
    seen: Vec<&'a ReplicaObservation>,
    /// Nothing is known of some that are up: they may hold everything.
    unknown: bool,
    /// Some of those are on nodes that a new leader has not heard of yet: nor is it known how far the topics reach.
    unheard: bool,
}

/// Whether a copy holds what a reader may expect: little is missing, or, where all lag, at most half as much again as
/// elsewhere. The worst partition counts too: much of one that lies back far is not made up for by little of many.
/// What others lack is by their own word, an old report beside a newly heard end would make them worse than they are;
/// and at best, since what they insert may be there before they can tell.
fn caught_up(copy: &ReplicaObservation, ready: &Readable<'_>, ends: &Ends, rules: &Rules) -> bool {
    let no_worse = |own: u64, least: fn(&ReplicaObservation) -> u64| {
        let least = ready.seen.iter().map(|other| least(other)).min().unwrap_or(0);
        own <= least.saturating_add(least / 2)
    };
    !ready.unheard && copy.lag_to(ends) <= rules.caught_up_lag_max
        || !ready.unknown
            && no_worse(copy.lag_to(ends), ReplicaObservation::least_lag)
            && no_worse(copy.worst_lag_to(ends), ReplicaObservation::worst_least_lag)
}

/// A child's copy begins with all that its parents' copies on the same node hold: where those can be read, it can be
/// too, however much is still to come from the topics.
fn inherits(scene: &Scene<'_>, child: &Shard, node: &NodeId) -> bool {
    let ready = |parent: &ShardId| {
        let parent = scene.shards.iter().find(|shard| shard.id == *parent);
        parent.and_then(|p| p.replica_on(node)).is_some_and(|r| r.state == ReplicaState::Ready)
    };
    child.state == ShardState::Preparing && child.parents.iter().all(ready)
}

/// Replicas that became readable or are so no longer. The last readable one stays, whatever its state: stale rows
/// are late, no rows would be wrong. One whose table is gone shows none, or in the end some with holes: it goes as soon
/// as there is another.
pub(super) fn readiness(scene: &Scene<'_>, next: &mut Shard, reasons: &mut Vec<String>) {
    let Scene { known, rules, .. } = *scene;
    let observed: Vec<Option<&ReplicaObservation>> =
        next.replicas.iter().map(|replica| seen(next, &replica.node, known)).collect();
    let inherits: Vec<bool> =
        next.replicas.iter().map(|replica| inherits(scene, next, &replica.node)).collect();
    let bare: Vec<bool> =
        next.replicas.iter().map(|replica| bare(known.heartbeats, next, &replica.node)).collect();
    let shard = next.id;
    let ends = ends(next, known);
    let up: Vec<&NodeId> = scene.ready_live(next).collect();
    let readable: Vec<Option<&ReplicaObservation>> = up.iter().map(|node| seen(next, node, known)).collect();
    let readable = Readable {
        unknown: readable.iter().any(Option::is_none),
        unheard: up.iter().any(|node| !known.heartbeats.contains_key(*node)),
        seen: readable.into_iter().flatten().collect(),
    };
    let alone = next.state == ShardState::Serving;
    // In the routes, and of those how many have their table.
    let mut ready = next.ready_nodes().count();
    let mut sound = next.replicas.iter().zip(&bare).filter(|(r, bare)| is_ready(r) && !**bare).count();
    // Those that can be read first, so that one that cannot is not kept for want of another.
    for ((replica, observed), inherits) in next.replicas.iter_mut().zip(&observed).zip(inherits) {
        let Some(observed) = observed else { continue };
        let waits = matches!(replica.state, ReplicaState::Creating | ReplicaState::Behind);
        let caught_up = caught_up(observed, &readable, &ends, rules) && !observed.stalled();
        let good = caught_up || inherits || (alone && sound == 0);
        if waits && good {
            reasons.push(format!("{shard} replica on {} is readable", replica.node));
            (replica.state, replica.left_at) = (ReplicaState::Ready, None);
            (ready, sound) = (ready + 1, sound + 1);
        }
    }
    for ((replica, observed), bare) in next.replicas.iter_mut().zip(&observed).zip(&bare) {
        let behind = observed.is_some_and(|copy| {
            copy.lag_to(&ends) > rules.behind_lag_min && fresher(copy, &readable.seen, &ends)
        });
        let worse = ready > 1 && (down(&replica.node, known) || behind) || sound > 0 && *bare;
        if is_ready(replica) && worse {
            reasons.push(format!("{shard} replica on {} leaves the routes", replica.node));
            (replica.state, replica.left_at) = (ReplicaState::Behind, Some(scene.next_epoch()));
            (ready, sound) = (ready - 1, sound - usize::from(!*bare));
        }
        // It waits for that before it is filled again: what comes has holes until it has been compared with its topics.
        // Longer than before something is dropped: a query that comes all the same would not fail, but count wrong.
        let read = |epoch| !scene.unsettled_within(epoch, rules.down_after_ms).is_empty();
        let unread = replica.left_at.is_some_and(|epoch| !read(epoch));
        if replica.state == ReplicaState::Behind && *bare && unread {
            reasons.push(format!("{shard} replica on {} may be filled again", replica.node));
            replica.left_at = None;
        }
    }
}

fn is_ready(replica: &Replica) -> bool {
    replica.state == ReplicaState::Ready
}

/// How far topics reach.
type Ends = BTreeMap<PartitionId, i64>;

/// How far a shard's topics reach, by what any of its copies has ever said, also one that does not serve at the moment:
/// while the only readable copy looks again after an insert, its peer would seem to lack nothing (sweep seed 694).
fn ends(shard: &Shard, known: &Knowledge<'_>) -> Ends {
    let said = |replica: &Replica| {
        observed::told(known.heartbeats, shard, &replica.node)
            .filter(|seen| of_this_life(shard, &replica.node, seen))
    };
    observed::ends(shard.replicas.iter().filter_map(said))
}

/// Messages that a copy has not taken yet, if it serves.
pub(super) fn lag(shard: &Shard, node: &NodeId, known: &Knowledge<'_>) -> Option<u64> {
    Some(seen(shard, node, known)?.lag_to(&ends(shard, known)))
}

/// Whether another copy is well ahead of this one: if all lag alike (a burst of ingest), none leaves the routes.
fn fresher(copy: &ReplicaObservation, readable: &[&ReplicaObservation], ends: &Ends) -> bool {
    readable.iter().any(|other| other.lag_to(ends) < copy.lag_to(ends) / 2)
}
