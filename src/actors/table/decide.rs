//! What a table needs next: the leader's decisions for one table.
//!
//! Pure: the desired records, what was observed and which nodes live go in; at most one step comes out, to be
//! written in one transaction. Level-triggered: a new leader that knows nothing but the records goes on where the
//! old one stopped. The caller does not ask again before the last step shows in the view (work in flight counts
//! once).

use super::missing;
use super::operate::{self, Change, Progress, Scene};
use super::readiness::{lag, readiness};
use crate::actors::balance::copies::Copies;
use crate::model::ids::{NodeId, OperationId, PartitionId, ShardId};
use crate::model::observed::{Heartbeat, ReplicaObservation, answers, told};
use crate::model::operation::{Operation, State};
use crate::model::range::{PartitionRange, covers};
use crate::model::shared::Shared;
use crate::model::table::{Replica, ReplicaState, Shard, ShardState, Table, TableState};
use std::collections::{BTreeMap, BTreeSet};

/// Records written in one step at most; far below what a store takes in one transaction.
pub const RECORDS_MAX: usize = 50;

/// The rules' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A replica with at most this many messages to go may be read and may lead.
    pub caught_up_lag_max: u64,
    /// A replica that serves readers and falls behind by more than this leaves the routes.
    pub behind_lag_min: u64,
    /// How long a preferred leader must have been fit before it gets its leadership back.
    pub preferred_after_ms: u64,
    /// How long a node may be down before its replicas are rebuilt elsewhere.
    pub down_after_ms: u64,
    /// How long an operation may take beside what its bytes take; then it is undone, or finished if that is late.
    pub operation_deadline_ms: u64,
    /// How slow copies may be.
    pub copy_bytes_per_s_min: u64,
    /// How long a node that is down may keep replicas that left the routes from being removed: queries of its
    /// ClickHouse may still read them.
    pub initiator_grace_ms: u64,
    /// How long a shard that is split or merged may stand still on a node that has linked it for the last time, while
    /// others have not.
    pub standstill_ms_max: u64,
    /// Broken on purpose. The daemon never sets it.
    pub left_out: Option<LeftOut>,
}

/// Rules that are left out on purpose, for the simulator to show that it would notice if one were forgotten
/// (`simulation::Sabotage`). Nothing else sets one, and each is asked for at the rule itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// What left the routes goes at once, whoever may still read it.
    Acknowledgements,
    /// Operations under way are not counted when others are begun.
    InFlight,
    /// A replica that moves leaves its old node before the new one has it.
    AddFirst,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            caught_up_lag_max: 10_000,
            behind_lag_min: 1_000_000,
            preferred_after_ms: 3_000,
            down_after_ms: 30 * 60_000,
            operation_deadline_ms: 6 * 3_600_000,
            copy_bytes_per_s_min: 1 << 20,
            initiator_grace_ms: 60_000,
            standstill_ms_max: 60_000,
            left_out: None,
        }
    }
}

/// What the leader knows, besides the table's own records.
#[derive(Debug, Clone, Copy)]
pub struct Knowledge<'a> {
    /// Nodes that are registered.
    pub registered: &'a BTreeSet<NodeId>,
    /// Nodes whose daemon holds a lease.
    pub live: &'a BTreeSet<NodeId>,
    /// Nodes that may be given new replicas.
    pub open: &'a BTreeSet<NodeId>,
    /// The newest heartbeats.
    pub heartbeats: &'a BTreeMap<NodeId, Shared<Heartbeat>>,
    /// Since when each node has been fit to lead, on the leader's clock; absent if it is not.
    pub fit_since_ms: &'a BTreeMap<NodeId, u64>,
    /// Since when each node has not been fit, on the same clock; absent if it is.
    pub unfit_since_ms: &'a BTreeMap<NodeId, u64>,
    /// Since when each node certainly answers nobody, likewise.
    pub dark_since_ms: &'a BTreeMap<NodeId, u64>,
    /// The leader's clock.
    pub now_ms: u64,
    /// The wall clock, which operations' records have.
    pub now_unix_ms: u64,
    /// The table's frozen shards, and in which words: nothing moves nor splits there.
    pub frozen: &'a BTreeMap<ShardId, String>,
    /// When operations were last seen to be held, by the wall clock: by a freeze, or since it was not their turn.
    pub held_unix_ms: &'a BTreeMap<OperationId, u64>,
    /// Since when shards have stood still for a split or merge, on the leader's clock.
    pub still_since_ms: &'a BTreeMap<OperationId, u64>,
    /// Copies under way in the whole cluster.
    pub copies: &'a Copies<'a>,
}

impl Knowledge<'_> {
    /// Whether a node has been down for so long, as far as this leader knows.
    pub fn down_for(&self, node: &NodeId, for_ms: u64) -> bool {
        down_for(self.unfit_since_ms, node, self.now_ms, for_ms)
    }
}

/// Whether a node has not been fit for so long.
pub fn down_for(unfit_since_ms: &BTreeMap<NodeId, u64>, node: &NodeId, now_ms: u64, for_ms: u64) -> bool {
    unfit_since_ms.get(node).is_some_and(|since| now_ms.saturating_sub(*since) >= for_ms)
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These shards have no record: place them and write them.
    PlaceShards(Vec<(ShardId, PartitionRange)>),
    /// These shards have fewer replicas than wanted, and a node could take one.
    AddReplicas(Vec<ShardId>),
    /// Write these records; `publish` takes the table to its next epoch in the same transaction.
    Write(Change),
    /// These shards' replicas on nodes that have been down for too long are to be rebuilt elsewhere.
    Rebuild(Vec<(ShardId, NodeId)>),
    /// These replicas on such nodes go: there are enough without them.
    RemoveLost(Vec<(ShardId, NodeId)>),
    /// An operation is over.
    End(Box<Operation>),
    /// An operation has taken too long: it is to be undone.
    Expire(Box<Operation>),
    /// The table is being dropped, its topics with it: delete them, and note in its record that they are gone.
    DeleteTopics,
    /// Every node has let go of the table: remove these shards' records, and the table's with the last of them.
    Forget(Vec<ShardId>),
}

/// The next step, if any. `open` are the table's operations that have not ended, oldest first.
pub fn decide(
    table: &Table,
    shards: &[&Shard],
    open: &[&Operation],
    known: &Knowledge<'_>,
    rules: &Rules,
) -> Option<Step> {
    if table.state == TableState::Dropping {
        // Topics before anything that waits for nodes: they hold back a new table of that name until they are gone.
        let topics = || table.delete_topics.then_some(Step::DeleteTopics);
        return abandon(open).or_else(topics).or_else(|| forget(table, shards, known));
    }
    if table.state == TableState::Creating {
        let missing = missing(table, shards);
        if !missing.is_empty() {
            return Some(Step::PlaceShards(missing));
        }
    }
    let scene = Scene { table, shards, open, known, rules };
    let missing = || missing::short(&scene).or_else(|| missing::rebuild(&scene));
    update(&scene).or_else(|| operations(&scene)).or_else(missing)
}

/// Whether nothing comes of waiting either: all is as wanted, nobody is down, nothing is held or under way. Then a next
/// step begins with a change of the records, of what nodes report, or of their leases.
pub fn rests(
    table: &Table,
    shards: &[&Shard],
    open: &[&Operation],
    known: &Knowledge<'_>,
    rules: &Rules,
) -> bool {
    let scene = Scene { table, shards, open, known, rules };
    let nobody_waits = open.is_empty() && known.frozen.is_empty() && known.unfit_since_ms.is_empty();
    let rests = |shard: &&Shard| shard_rests(&scene, shard) && !missing::lacks(&scene, shard);
    table.state == TableState::Active && nobody_waits && shards.iter().all(rests)
}

/// Operations of a table that is being dropped have nothing left to do.
fn abandon(open: &[&Operation]) -> Option<Step> {
    let operation = (*open.first()?).clone();
    Some(Step::End(Box::new(Operation {
        state: State::Failed,
        outcome: "the table is being dropped".to_owned(),
        ..operation
    })))
}

/// The oldest operation that can go on does.
fn operations(scene: &Scene<'_>) -> Option<Step> {
    scene.open.iter().find_map(|operation| match operate::advance(operation, scene) {
        Progress::Waiting(wait) => {
            let outcome = operate::expired(operation, scene, &wait)?;
            let state = State::Cancelling;
            Some(Step::Expire(Box::new(Operation { state, outcome, ..(*operation).clone() })))
        }
        Progress::Step(change) => Some(Step::Write(change)),
        Progress::Ended(state, outcome) => {
            // Why it was to be undone is why it was.
            let outcome = match (state, outcome.is_empty(), operation.outcome.is_empty()) {
                (State::Done, false, false) => format!("{}; {outcome}", operation.outcome),
                (State::Done, ..) | (_, false, _) => outcome,
                (_, true, _) => operation.outcome.clone(),
            };
            Some(Step::End(Box::new(Operation { state, outcome, ..(*operation).clone() })))
        }
    })
}

/// While a table is created its shards are numbers `0..next_shard` over equal ranges.
fn missing(table: &Table, shards: &[&Shard]) -> Vec<(ShardId, PartitionRange)> {
    let ranges = PartitionRange::divide(table.partitions, table.next_shard).unwrap_or_default();
    let numbered = (0..).map(ShardId).zip(ranges);
    let absent = numbered.filter(|(id, _)| !shards.iter().any(|shard| shard.id == *id));
    absent.take(RECORDS_MAX).collect()
}

fn forget(table: &Table, shards: &[&Shard], known: &Knowledge<'_>) -> Option<Step> {
    let let_go = |node: &NodeId| known.heartbeats.get(node).is_some_and(|h| h.dropped.contains(&table.id));
    let all = known.registered.iter().all(let_go);
    all.then(|| Step::Forget(shards.iter().map(|shard| shard.id).take(RECORDS_MAX).collect()))
}

/// Whether a shard is in the topology, no operation is busy with it, and it is not frozen.
pub(super) fn idle(scene: &Scene<'_>, shard: &Shard) -> bool {
    let forgets = scene.rules.left_out == Some(LeftOut::InFlight);
    let at_work = || !forgets && scene.open.iter().any(|op| op.kind.touches(shard.id));
    shard.state == ShardState::Serving && !at_work() && !scene.known.frozen.contains_key(&shard.id)
}

fn update(scene: &Scene<'_>) -> Option<Step> {
    let (table, shards) = (scene.table, scene.shards);
    let mut change = Change::default();
    let mut routable = true;
    let at_work = |shard: &&&Shard| shard.state != ShardState::Retired && !shard_rests(scene, shard);
    for shard in shards.iter().filter(at_work) {
        let mut reasons = Vec::new();
        let next = next_shard(scene, shard, &mut reasons);
        let serving = shard.state == ShardState::Serving;
        let is_written = next != **shard && change.shards.len() < RECORDS_MAX;
        // What this transaction has no room for is published as it was.
        let published = if is_written { &next } else { *shard };
        routable &= !serving || published.ready_nodes().next().is_some();
        if is_written {
            change.publish |= serving;
            change.shards.push(next);
            change.reasons.append(&mut reasons);
        }
    }
    let whole = covers(sorted_ranges(shards), table.partitions);
    let first = table.epoch.0 == 0 || table.state == TableState::Creating;
    change.publish = whole && routable && (first || change.publish);
    (change.publish || !change.shards.is_empty()).then_some(Step::Write(change))
}

fn sorted_ranges(shards: &[&Shard]) -> Vec<PartitionRange> {
    let serving = shards.iter().filter(|shard| shard.state == ShardState::Serving);
    let mut ranges: Vec<_> = serving.map(|shard| shard.range).collect();
    ranges.sort();
    ranges
}

/// What a replica's node says of it, if it serves.
pub(super) fn seen<'a>(
    shard: &Shard,
    node: &NodeId,
    known: &Knowledge<'a>,
) -> Option<&'a ReplicaObservation> {
    let heartbeat = known.heartbeats.get(node)?;
    if !known.live.contains(node) || !heartbeat.clickhouse_up {
        return None;
    }
    let seen = told(known.heartbeats, shard, node)?;
    (seen.serving && of_this_life(shard, node, seen)).then_some(seen)
}

/// Whether a report is of the copy that is there now: the node may have had one before, which was removed.
pub(super) fn of_this_life(shard: &Shard, node: &NodeId, seen: &ReplicaObservation) -> bool {
    shard.replica_on(node).is_none_or(|replica| replica.since == seen.since)
}

/// Whether a replica has told that its table is gone, or was made again and has not been compared with its topics yet.
pub fn bare(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>, shard: &Shard, node: &NodeId) -> bool {
    told(heartbeats, shard, node).is_some_and(|seen| seen.bare && of_this_life(shard, node, seen))
}

/// A node that certainly cannot serve: no lease, or its own daemon says that ClickHouse is down.
pub(super) fn down(node: &NodeId, known: &Knowledge<'_>) -> bool {
    !known.live.contains(node) || !answers(known.heartbeats, node)
}

/// Whether nothing can be to be done about a shard: all its copies are in the routes, up and near the topics' ends, and
/// the one leads that should. Quick, since nearly all of a large cluster's shards are so; what is not is looked at with
/// care.
fn shard_rests(scene: &Scene<'_>, shard: &Shard) -> bool {
    let known = scene.known;
    let fine = |replica: &Replica| {
        replica.state == ReplicaState::Ready
            && !down(&replica.node, known)
            && !bare(known.heartbeats, shard, &replica.node)
    };
    let led = shard.leader.is_some() && shard.leader.as_ref() == shard.preferred_leader();
    if shard.state != ShardState::Serving || !led || !shard.replicas.iter().all(fine) {
        return false;
    }
    let reported = |replica: &Replica| told(known.heartbeats, shard, &replica.node);
    let reported = || shard.replicas.iter().filter_map(reported);
    let reach = |id: &PartitionId| {
        let seen = reported().filter_map(|copy| copy.partitions.get(id));
        seen.map(|seen| seen.end_offset.max(seen.next_offset)).max().unwrap_or(0)
    };
    // No copy lacks more than this, whatever ends are believed.
    let lag_max = |copy: &ReplicaObservation| -> u64 {
        let lags = copy.partitions.iter().map(|(id, seen)| reach(id).saturating_sub(seen.next_offset));
        lags.map(|lag| u64::try_from(lag).unwrap_or(0)).sum()
    };
    reported().all(|copy| lag_max(copy) <= scene.rules.behind_lag_min)
}

fn next_shard(scene: &Scene<'_>, shard: &Shard, reasons: &mut Vec<String>) -> Shard {
    let mut next = shard.clone();
    readiness(scene, &mut next, reasons);
    if shard.state == ShardState::Serving {
        next.leader = leader(&next, scene.known, scene.rules);
    }
    if next.leader != shard.leader {
        let name = |node: &Option<NodeId>| node.as_ref().map_or("none".to_owned(), NodeId::to_string);
        reasons.push(format!("{} leader {} -> {}", shard.id, name(&shard.leader), name(&next.leader)));
    }
    if next != *shard {
        next.epoch = shard.epoch.next();
    }
    next
}

/// Who should lead: the present leader while it can; the preferred one once it has been fit for a while (H4);
/// else the first in placement's order that can.
pub(super) fn leader(shard: &Shard, known: &Knowledge<'_>, rules: &Rules) -> Option<NodeId> {
    let can = |node: &NodeId| {
        shard.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Ready)
            && !down(node, known)
    };
    let settled = |node: &NodeId| {
        let since = known.fit_since_ms.get(node);
        since.is_some_and(|since| known.now_ms.saturating_sub(*since) >= rules.preferred_after_ms)
            && lag(shard, node, known).is_some_and(|lag| lag <= rules.caught_up_lag_max)
    };
    let preferred = shard.preferred_leader().filter(|node| can(node));
    match (&shard.leader, preferred) {
        (Some(leader), Some(preferred)) if leader != preferred && settled(preferred) => {
            Some(preferred.clone())
        }
        (Some(leader), _) if can(leader) => Some(leader.clone()),
        _ => {
            let ready = shard.ready_nodes().filter(|node| can(node));
            let lag = |node: &NodeId| lag(shard, node, known).unwrap_or(u64::MAX);
            let order = |node: &NodeId| shard.replicas.iter().position(|replica| &replica.node == node);
            let first = ready.min_by_key(|node| (lag(node) > rules.caught_up_lag_max, order(node)));
            first.cloned().or_else(|| shard.leader.clone())
        }
    }
}
