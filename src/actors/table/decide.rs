//! What a table needs next: the leader's decisions for one table.
//!
//! Pure: the desired records, what was observed and which nodes live go in; at most one step comes out, to be
//! written in one transaction. Level-triggered: a new leader that knows nothing but the records goes on where the
//! old one stopped. The caller does not ask again before the last step shows in the view (work in flight counts
//! once).

use crate::model::ids::{NodeId, ShardId};
use crate::model::observed::{Heartbeat, ReplicaObservation};
use crate::model::range::{PartitionRange, covers};
use crate::model::table::{Replica, ReplicaState, Shard, Table, TableState};
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
    pub heartbeats: &'a BTreeMap<NodeId, Heartbeat>,
    /// Since when each node has been fit to lead, on the leader's clock; absent if it is not.
    pub fit_since_ms: &'a BTreeMap<NodeId, u64>,
    /// The leader's clock.
    pub now_ms: u64,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// These shards have no record: place them and write them.
    PlaceShards(Vec<(ShardId, PartitionRange)>),
    /// These shards have fewer replicas than wanted, and a node could take one.
    AddReplicas(Vec<ShardId>),
    /// Write these records; `publish` takes the table to its next epoch in the same transaction.
    Write {
        /// Changed shards.
        shards: Vec<Shard>,
        /// Routes change: next epoch, and the table is in use.
        publish: bool,
        /// For the log: one line a change.
        reasons: Vec<String>,
    },
    /// Every node has let go of the table: remove these shards' records, and the table's with the last of them.
    Forget(Vec<ShardId>),
}

/// The next step, if any.
pub fn decide(table: &Table, shards: &[&Shard], known: &Knowledge<'_>, rules: &Rules) -> Option<Step> {
    if table.state == TableState::Dropping {
        return forget(table, shards, known);
    }
    if table.state == TableState::Creating {
        let missing = missing(table, shards);
        if !missing.is_empty() {
            return Some(Step::PlaceShards(missing));
        }
    }
    update(table, shards, known, rules).or_else(|| short(table, shards, known))
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

fn short(table: &Table, shards: &[&Shard], known: &Knowledge<'_>) -> Option<Step> {
    let could_take = |shard: &Shard| known.open.iter().any(|node| shard.replica_on(node).is_none());
    let lacks = |shard: &&&Shard| shard.replicas.len() < table.replicas as usize && could_take(shard);
    let short: Vec<ShardId> = shards.iter().filter(lacks).map(|shard| shard.id).take(RECORDS_MAX).collect();
    (!short.is_empty()).then_some(Step::AddReplicas(short))
}

fn update(table: &Table, shards: &[&Shard], known: &Knowledge<'_>, rules: &Rules) -> Option<Step> {
    let (mut changed, mut reasons) = (Vec::new(), Vec::new());
    let mut routable = true;
    for shard in shards {
        let next = next_shard(table, shard, known, rules, &mut reasons);
        routable &= next.ready_nodes().next().is_some();
        if next != **shard && changed.len() < RECORDS_MAX {
            changed.push(next);
        }
    }
    let whole = covers(sorted_ranges(shards), table.partitions);
    let first = table.epoch.0 == 0 || table.state == TableState::Creating;
    let publish = whole && routable && (first || !changed.is_empty());
    (publish || !changed.is_empty()).then_some(Step::Write { shards: changed, publish, reasons })
}

fn sorted_ranges(shards: &[&Shard]) -> Vec<PartitionRange> {
    let mut ranges: Vec<_> = shards.iter().map(|shard| shard.range).collect();
    ranges.sort();
    ranges
}

fn seen<'a>(
    table: &Table,
    shard: &Shard,
    node: &NodeId,
    known: &Knowledge<'a>,
) -> Option<&'a ReplicaObservation> {
    let heartbeat = known.heartbeats.get(node)?;
    if !known.live.contains(node) || !heartbeat.clickhouse_up {
        return None;
    }
    heartbeat.replicas.get(&table.id)?.get(&shard.id).filter(|seen| seen.serving)
}

/// A node that certainly cannot serve: no lease, or its own daemon says that ClickHouse is down.
fn down(node: &NodeId, known: &Knowledge<'_>) -> bool {
    !known.live.contains(node) || known.heartbeats.get(node).is_some_and(|heartbeat| !heartbeat.clickhouse_up)
}

fn next_shard(
    table: &Table,
    shard: &Shard,
    known: &Knowledge<'_>,
    rules: &Rules,
    reasons: &mut Vec<String>,
) -> Shard {
    let mut next = shard.clone();
    readiness(table, &mut next, known, rules, reasons);
    next.leader = leader(table, &next, known, rules);
    if next.leader != shard.leader {
        let name = |node: &Option<NodeId>| node.as_ref().map_or("none".to_owned(), NodeId::to_string);
        reasons.push(format!("{} leader {} -> {}", shard.id, name(&shard.leader), name(&next.leader)));
    }
    if next != *shard {
        next.epoch = shard.epoch.next();
    }
    next
}

/// Replicas that became readable or are so no longer. The last readable one stays, whatever its state: stale rows
/// are late, no rows would be wrong.
fn readiness(
    table: &Table,
    next: &mut Shard,
    known: &Knowledge<'_>,
    rules: &Rules,
    reasons: &mut Vec<String>,
) {
    let observed: Vec<Option<&ReplicaObservation>> =
        next.replicas.iter().map(|replica| seen(table, next, &replica.node, known)).collect();
    let mut ready = next.ready_nodes().count();
    let shard = next.id;
    // Those that can be read first, so that one that cannot is not kept for want of another.
    for (replica, observed) in next.replicas.iter_mut().zip(&observed) {
        let Some(observed) = observed else { continue };
        let caught_up = observed.lag() <= rules.caught_up_lag_max && !observed.stalled();
        if replica.state != ReplicaState::Ready && (caught_up || ready == 0) {
            reasons.push(format!("{shard} replica on {} is readable", replica.node));
            replica.state = ReplicaState::Ready;
            ready += 1;
        }
    }
    for (replica, observed) in next.replicas.iter_mut().zip(&observed) {
        let behind = observed.is_some_and(|o| o.lag() > rules.behind_lag_min)
            && fresher(replica, &observed_lags(known, table, shard));
        if replica.state == ReplicaState::Ready && ready > 1 && (down(&replica.node, known) || behind) {
            reasons.push(format!("{shard} replica on {} leaves the routes", replica.node));
            replica.state = ReplicaState::Behind;
            ready -= 1;
        }
    }
}

fn observed_lags(known: &Knowledge<'_>, table: &Table, shard: ShardId) -> BTreeMap<NodeId, u64> {
    let lag = |(node, heartbeat): (&NodeId, &Heartbeat)| {
        let seen = heartbeat.replicas.get(&table.id)?.get(&shard)?;
        (seen.serving && !down(node, known)).then(|| (node.clone(), seen.lag()))
    };
    known.heartbeats.iter().filter_map(lag).collect()
}

/// Whether another copy is well ahead of this one: if all lag alike (a burst of ingest), none leaves the routes.
fn fresher(replica: &Replica, lags: &BTreeMap<NodeId, u64>) -> bool {
    let own = lags.get(&replica.node).copied().unwrap_or(u64::MAX);
    lags.values().any(|lag| *lag < own / 2)
}

/// Who should lead: the present leader while it can; the preferred one once it has been fit for a while (H4);
/// else the first in placement's order that can.
fn leader(table: &Table, shard: &Shard, known: &Knowledge<'_>, rules: &Rules) -> Option<NodeId> {
    let can = |node: &NodeId| {
        shard.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Ready)
            && !down(node, known)
    };
    let settled = |node: &NodeId| {
        let since = known.fit_since_ms.get(node);
        since.is_some_and(|since| known.now_ms.saturating_sub(*since) >= rules.preferred_after_ms)
            && seen(table, shard, node, known).is_some_and(|seen| seen.lag() <= rules.caught_up_lag_max)
    };
    let preferred = shard.preferred_leader().filter(|node| can(node));
    match (&shard.leader, preferred) {
        (Some(leader), Some(preferred)) if leader != preferred && settled(preferred) => {
            Some(preferred.clone())
        }
        (Some(leader), _) if can(leader) => Some(leader.clone()),
        _ => {
            let ready = shard.ready_nodes().filter(|node| can(node));
            let lag =
                |node: &NodeId| seen(table, shard, node, known).map_or(u64::MAX, ReplicaObservation::lag);
            let order = |node: &NodeId| shard.replicas.iter().position(|replica| &replica.node == node);
            let first = ready.min_by_key(|node| (lag(node) > rules.caught_up_lag_max, order(node)));
            first.cloned().or_else(|| shard.leader.clone())
        }
    }
}
