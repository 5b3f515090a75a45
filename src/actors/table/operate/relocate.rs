//! Moving copies and leaderships: add first, publish, only then remove.

use super::{Change, Progress, Scene, not_there, step, waiting};
use crate::actors::table::decide::{self, LeftOut};
use crate::actors::table::readiness;
use crate::model::ids::{NodeId, ShardId};
use crate::model::observed::{ReplicaObservation, answers, told};
use crate::model::operation::{State, WaitCode};
use crate::model::table::{Replica, ReplicaState, Shard, ShardState};

fn done() -> Progress {
    Progress::Ended(State::Done, String::new())
}

fn cancelled() -> Progress {
    Progress::Ended(State::Cancelled, String::new())
}

/// Given up for that reason: only what was being cancelled is cancelled.
fn given_up(cancel: bool, why: String) -> Progress {
    Progress::Ended(if cancel { State::Cancelled } else { State::Failed }, why)
}

fn serving<'a>(scene: &Scene<'a>, id: ShardId) -> Option<&'a Shard> {
    scene.shard(id).filter(|shard| shard.state == ShardState::Serving)
}

pub(super) fn move_replica(
    scene: &Scene<'_>,
    cancel: bool,
    id: ShardId,
    from: &NodeId,
    to: &NodeId,
) -> Progress {
    let Some(shard) = serving(scene, id) else { return not_there(id) };
    let (source, target) = (shard.replica_on(from), shard.replica_on(to));
    let leaving = |replica: Option<&Replica>| replica.is_some_and(|r| r.state == ReplicaState::Leaving);
    match (source, target) {
        (None, Some(target)) if target.state != ReplicaState::Leaving => done(),
        (None, _) => given_up(cancel, format!("there is no replica of {id} on {from} any more")),
        // What cannot be undone any more is finished.
        (Some(_), Some(_)) if leaving(source) => leave(scene, shard, from),
        (Some(_), None) if cancel => cancelled(),
        // Half-way out it is neither needed nor gone: to end here would leave it so for good.
        (Some(_), Some(_)) if leaving(target) => leave(scene, shard, to),
        (Some(_), Some(_)) if cancel => {
            let left = unless_lost(scene, cancel, shard, to, leave(scene, shard, to));
            let needed = || given_up(cancel, format!("the copy of {id} on {to} is needed and stays"));
            if comes_back(scene, shard) { left } else { or_if_few(left, needed) }
        }
        (Some(_), _) if abandoned(scene, to) => match target {
            None => given_up(cancel, format!("node {to} has been down for too long")),
            Some(_) => leave(scene, shard, to),
        },
        (Some(_), None) if removes_first(scene) => leave(scene, shard, from),
        (Some(_), None) => bring(scene, shard, to),
        (Some(_), Some(target)) if target.state == ReplicaState::Ready && !scene.down(to) => {
            unless_lost(scene, cancel, shard, to, replace(scene, shard, from, to))
        }
        (Some(_), Some(_)) => arriving(scene, shard, to),
    }
}

/// What it comes to, unless that is to wait for further copies.
fn or_if_few(progress: Progress, instead: impl FnOnce() -> Progress) -> Progress {
    match progress {
        Progress::Waiting(wait) if wait.code == WaitCode::FewCopies => instead(),
        progress => progress,
    }
}

/// Whether a copy is down that may be back: else what has too few copies now would wait for ever.
fn comes_back(scene: &Scene<'_>, shard: &Shard) -> bool {
    shard.staying().any(|replica| scene.down(&replica.node) && !abandoned(scene, &replica.node))
}

/// What a move or removal comes to: while no copy can go since a further one is lost for good, it would wait for ever,
/// and the lost one with it, which is not rebuilt while this is under way. Then the copy that was made for the move, or
/// was to be removed, takes the lost one's place, and it is to be asked for again.
fn unless_lost(scene: &Scene<'_>, cancel: bool, shard: &Shard, to: &NodeId, progress: Progress) -> Progress {
    if !matches!(&progress, Progress::Waiting(wait) if wait.code == WaitCode::FewCopies) {
        return progress;
    }
    let Some(lost) = shard.staying().find(|replica| abandoned(scene, &replica.node)) else { return progress };
    given_up(cancel, format!("the copy of {} on {} is lost: that on {to} stays instead", shard.id, lost.node))
}

pub(super) fn add(scene: &Scene<'_>, cancel: bool, id: ShardId, to: &NodeId) -> Progress {
    let Some(shard) = serving(scene, id) else { return not_there(id) };
    match shard.replica_on(to).map(|replica| replica.state) {
        None if cancel => cancelled(),
        None if abandoned(scene, to) => given_up(cancel, format!("node {to} has been down for too long")),
        None => bring(scene, shard, to),
        Some(ReplicaState::Ready) if !cancel => done(),
        Some(ReplicaState::Leaving) => leave(scene, shard, to),
        // Too late to be undone if it is needed.
        Some(_) if cancel || abandoned(scene, to) => or_if_few(leave(scene, shard, to), done),
        Some(_) => arriving(scene, shard, to),
    }
}

pub(super) fn remove(scene: &Scene<'_>, cancel: bool, id: ShardId, from: &NodeId) -> Progress {
    let Some(shard) = serving(scene, id) else { return not_there(id) };
    match shard.replica_on(from).map(|replica| replica.state) {
        None => done(),
        Some(state) if cancel && state != ReplicaState::Leaving => cancelled(),
        // Nothing else may go as a last resort: what is lost for good to a move may be back yet, with all its rows.
        Some(state) => {
            let left = leave_for(scene, shard, from, hopeless(scene, shard, from));
            let alone = others(scene, shard, from).is_empty();
            match state == ReplicaState::Leaving || abandoned(scene, from) || alone {
                true => left,
                false => unless_lost(scene, cancel, shard, from, left),
            }
        }
    }
}

pub(super) fn lead(scene: &Scene<'_>, cancel: bool, id: ShardId, to: &NodeId) -> Progress {
    let Some(shard) = serving(scene, id) else { return not_there(id) };
    if shard.leader.as_ref() == Some(to) && shard.preferred_leader() == Some(to) {
        return done();
    }
    if cancel {
        return cancelled();
    }
    match shard.replica_on(to) {
        None => Progress::Ended(State::Failed, format!("{to} has no replica of {id}")),
        Some(_) if abandoned(scene, to) => given_up(cancel, format!("node {to} has been down for too long")),
        Some(replica) if replica.state != ReplicaState::Ready || scene.down(to) => {
            waiting(WaitCode::NodeDown, format!("the replica of {id} on {to} to be readable"))
        }
        Some(_) => {
            let mut next = shard.clone();
            next.replicas.sort_by_key(|replica| &replica.node != to);
            next.leader = Some(to.clone());
            next.epoch = shard.epoch.next();
            step(vec![next], true, format!("{id} is led by {to}"))
        }
    }
}

/// See [`LeftOut::AddFirst`].
fn removes_first(scene: &Scene<'_>) -> bool {
    scene.rules.left_out == Some(LeftOut::AddFirst)
}

/// Whether a node has been down for so long that its copies are rebuilt elsewhere.
pub(super) fn abandoned(scene: &Scene<'_>, node: &NodeId) -> bool {
    !scene.known.registered.contains(node) || scene.known.down_for(node, scene.rules.down_after_ms)
}

fn arriving(scene: &Scene<'_>, shard: &Shard, to: &NodeId) -> Progress {
    let seen = told(scene.known.heartbeats, shard, to);
    let (code, how) = match (scene.problem(shard.id, to), seen) {
        (Some(problem), _) => problem,
        (None, Some(seen)) => {
            let how = match (&seen.seeding, readiness::lag(shard, to, scene.known)) {
                (Some(seeding), _) => seeding.to_string(),
                (None, Some(lag)) => format!("{lag} messages behind"),
                (None, None) => "looking where to begin".to_owned(),
            };
            (WaitCode::Copying, how)
        }
        (None, None) => (WaitCode::Copying, "nothing reported yet".to_owned()),
    };
    waiting(code, format!("the copy of {} on {to}: {how}", shard.id))
}

/// The copy that a new one is best taken from (H8): the most advanced, then the one on the node that gives the fewest
/// copies, of any tables.
fn source(scene: &Scene<'_>, shard: &Shard) -> Option<NodeId> {
    let lag = |node: &NodeId| readiness::lag(shard, node, scene.known).unwrap_or(u64::MAX);
    let gives = |node: &NodeId| scene.known.copies.given_by(node);
    // Lags within a batch or two of each other are alike.
    let ready = scene.ready_live(shard);
    ready.min_by_key(|node| (lag(node) / scene.rules.caught_up_lag_max.max(1), gives(node), *node)).cloned()
}

fn bring(scene: &Scene<'_>, shard: &Shard, to: &NodeId) -> Progress {
    if let Some(busy) = scene.at_rest(shard) {
        return busy;
    }
    let known = scene.known;
    if !known.open.contains(to) {
        // It was cordoned or drained after this had been asked for, and that may last.
        if known.live.contains(to) && answers(known.heartbeats, to) {
            return given_up(false, format!("node {to} takes no new replicas: it is cordoned or drained"));
        }
        return waiting(WaitCode::NodeDown, format!("node {to} to be up and to take replicas"));
    }
    let copy_from = source(scene, shard);
    if copy_from.is_none() && shard.ready_nodes().next().is_some() {
        return waiting(WaitCode::NodeDown, format!("a copy of {} on a node that is up", shard.id));
    }
    let mut next = shard.clone();
    let reason = match &copy_from {
        Some(from) => format!("{} is copied from {from} to {to}", shard.id),
        None => format!("{} is made on {to}", shard.id),
    };
    next.epoch = shard.epoch.next();
    next.replicas.push(Replica { copy_from, since: next.epoch, ..Replica::creating(to.clone()) });
    step(vec![next], false, reason)
}

/// `to` takes the place of `from` in the routes, in placement's order, and as the leader if it led.
fn replace(scene: &Scene<'_>, shard: &Shard, from: &NodeId, to: &NodeId) -> Progress {
    let mut next = shard.clone();
    let place = |node: &NodeId| next.replicas.iter().position(|replica| &replica.node == node);
    if let (Some(source), Some(target)) = (place(from), place(to)) {
        next.replicas.swap(source, target);
    }
    if next.leader.as_ref() == Some(from) {
        next.leader = Some(to.clone());
    }
    leave(scene, &next, from)
}

/// The complete live copies besides one, by nodes that this leader has heard of.
fn others(scene: &Scene<'_>, shard: &Shard, node: &NodeId) -> Vec<NodeId> {
    let heard = |other: &&NodeId| *other != node && scene.known.heartbeats.contains_key(*other);
    scene.ready_live(shard).filter(heard).cloned().collect()
}

/// A node with a readable copy of which this leader has not heard yet, though a daemon holds its lease: what it has is
/// not known, which is not the same as dead. One that stays silent for as long as a node may be down is.
fn unheard<'s>(scene: &Scene<'_>, shard: &'s Shard, besides: &NodeId) -> Option<&'s NodeId> {
    let silent = |node: &NodeId| {
        let known = scene.known;
        known.live.contains(node) && !known.heartbeats.contains_key(node) && !abandoned(scene, node)
    };
    shard.ready_nodes().find(|node| *node != besides && silent(node))
}

/// A replica goes: out of the routes while enough complete live copies remain, then out of the records once nobody
/// can be reading it.
fn leave(scene: &Scene<'_>, shard: &Shard, node: &NodeId) -> Progress {
    leave_for(scene, shard, node, false)
}

/// The same; `hopeless` if nothing more will come of waiting for others.
fn leave_for(scene: &Scene<'_>, shard: &Shard, node: &NodeId, hopeless: bool) -> Progress {
    let Some(replica) = shard.replica_on(node) else { return done() };
    match replica.state {
        ReplicaState::Creating => {
            let reason = format!("{} is not made on {node} after all", shard.id);
            step(vec![without(shard, node)], false, reason)
        }
        ReplicaState::Leaving => go(scene, shard, replica, hopeless),
        ReplicaState::Ready | ReplicaState::Behind => leave_routes(scene, shard, replica, hopeless),
    }
}

fn without(shard: &Shard, node: &NodeId) -> Shard {
    let mut next = shard.clone();
    next.replicas.retain(|replica| &replica.node != node);
    next.epoch = shard.epoch.next();
    next
}

/// It has left the routes, and its rows go with its record. The copies that were counted on then may have died since:
/// one that is as good as they were stays after all.
fn go(scene: &Scene<'_>, shard: &Shard, replica: &Replica, hopeless: bool) -> Progress {
    let node = &replica.node;
    let others = others(scene, shard, node);
    let few = !removes_first(scene) && others.len() < scene.table.replicas as usize;
    if let Some(silent) = unheard(scene, shard, node).filter(|_| few) {
        return first_report(shard, silent);
    }
    if few && whole(scene, shard, node) {
        let mut next = shard.clone();
        for replica in next.replicas.iter_mut().filter(|replica| &replica.node == node) {
            (replica.state, replica.left_at) = (ReplicaState::Behind, None);
        }
        next.epoch = shard.epoch.next();
        return step(vec![next], false, format!("{} stays on {node}: others have died", shard.id));
    }
    if few && others.is_empty() && !hopeless {
        return few_copies(shard, node, (1, 0));
    }
    let what = format!("{} on {node}", shard.id);
    let epoch = replica.left_at.unwrap_or(scene.table.epoch);
    scene.readers_left(&what, epoch).unwrap_or_else(|| {
        let reasons = vec![format!("{what} is read by nobody any more")];
        let counted_on = if removes_first(scene) { Vec::new() } else { others };
        let shards = vec![without(shard, node)];
        Progress::Step(Change { shards, counted_on, reasons, ..Change::default() })
    })
}

/// Whether the node of a copy is lost for good, and those that live have lost their tables: then its record can go, as
/// an operator may ask for, and what the topics still hold is what there is.
fn hopeless(scene: &Scene<'_>, shard: &Shard, node: &NodeId) -> bool {
    let mut live = shard.ready_nodes().filter(|other| *other != node && !scene.down(other)).peekable();
    let bare = |other: &NodeId| decide::bare(scene.known.heartbeats, shard, other);
    abandoned(scene, node) && live.peek().is_some() && live.all(bare)
}

/// Whether a copy that is not in the routes could be.
fn whole(scene: &Scene<'_>, shard: &Shard, node: &NodeId) -> bool {
    let seen = decide::seen(shard, node, scene.known);
    let lag = readiness::lag(shard, node, scene.known);
    seen.is_some_and(|seen| !seen.stalled()) && lag.is_some_and(|lag| lag <= scene.rules.behind_lag_min)
}

/// Whether a copy that is behind is known to be none that could be in the routes. One that only does not serve at the
/// moment may be whole again with the next report. (One that is in the routes counts by itself.)
fn poor(scene: &Scene<'_>, shard: &Shard, replica: &Replica) -> bool {
    let (node, known) = (&replica.node, scene.known);
    let late = |lag: u64| lag > scene.rules.behind_lag_min;
    replica.state != ReplicaState::Behind
        || scene.down(node)
        || decide::bare(known.heartbeats, shard, node)
        || decide::seen(shard, node, known).is_some_and(ReplicaObservation::stalled)
        || readiness::lag(shard, node, known).is_some_and(late)
}

fn first_report(shard: &Shard, node: &NodeId) -> Progress {
    let what =
        format!("the first report of {node} to this leader, which says how its copy of {} is", shard.id);
    waiting(WaitCode::Unheard, what)
}

fn few_copies(shard: &Shard, node: &NodeId, (enough, there): (usize, usize)) -> Progress {
    let id = shard.id;
    let what = format!("{enough} complete live copies of {id} besides the one on {node}; there are {there}");
    waiting(WaitCode::FewCopies, what)
}

/// Out of the routes, if the others that are complete and live are enough.
fn leave_routes(scene: &Scene<'_>, shard: &Shard, replica: &Replica, hopeless: bool) -> Progress {
    let node = &replica.node;
    let others = others(scene, shard, node);
    let counts = scene.ready_live(shard).any(|ready| ready == node);
    // By the same measure as in [`go`]: else it would leave, stay after all, and leave again, an epoch each.
    let enough = match counts || !poor(scene, shard, replica) {
        _ if removes_first(scene) || hopeless => 0,
        true => scene.table.replicas as usize,
        false => 1,
    };
    if others.len() < enough {
        if let Some(silent) = unheard(scene, shard, node) {
            return first_report(shard, silent);
        }
        return few_copies(shard, node, (enough, others.len()));
    }
    let mut next = shard.clone();
    for replica in next.replicas.iter_mut().filter(|replica| &replica.node == node) {
        replica.state = ReplicaState::Leaving;
        replica.left_at = Some(scene.next_epoch());
    }
    // Placement's order has no place for what leaves.
    next.replicas.sort_by_key(|replica| replica.state == ReplicaState::Leaving);
    next.leader = decide::leader(&next, scene.known, scene.rules);
    next.epoch = shard.epoch.next();
    // Also for one that was not in the routes: who is read first may change with it.
    let reasons = vec![format!("{} leaves {node}", shard.id)];
    let (shards, publish) = (vec![next], true);
    Progress::Step(Change { shards, counted_on: others, publish, reasons, ..Change::default() })
}
