//! Follows the store without faults or delay, revision by revision: writes the journal's rows and checks what must
//! hold of every change. What readers see is checked by `readers`.

use super::cluster::{Cluster, Inner};
use super::rows;
use crate::actors::mirror::read;
use crate::adapters::metadata::{Change, MemoryStore, MetaStore, Revision};
use crate::model::invariants;
use crate::model::names;
use crate::model::table::{ReplicaState, Shard, ShardState};
use crate::model::view::{ClusterView, Record};
use crate::model::{NodeId, PartitionId, ShardId, Table, TableId};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Weak;
use std::time::Duration;

/// A replica that becomes readable may lack messages that are younger than this: reports of it take their time.
const REPORT_AGE_MAX_MS: u64 = 30_000;

/// The leader knows others' progress from reports that may be as old as this; in rough weather some do not arrive.
const KNOWN_AGE_MAX_MS: u64 = 5_000;

/// Messages that a replica does not hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lacks {
    /// Of any age.
    all: u64,
    /// Of those that have been there for `REPORT_AGE_MAX_MS`.
    old: u64,
}

/// What replicas lacked lately.
#[derive(Default)]
pub(super) struct Lacked {
    /// When, and how much.
    lately: BTreeMap<(TableId, ShardId, NodeId), VecDeque<(u64, Lacks)>>,
    /// Shards with a replica that cannot be read.
    waiting: BTreeSet<(TableId, ShardId)>,
}

impl Lacked {
    /// The store changed.
    fn step(&mut self, before: &ClusterView, after: &ClusterView) {
        for table in after.tables.keys().filter(|table| !after.same_shards(before, **table)) {
            for (_, shard) in after.changed_shards(before, *table) {
                if shard.replicas.iter().any(|replica| replica.state != ReplicaState::Ready) {
                    self.waiting.insert((*table, shard.id));
                } else {
                    self.waiting.remove(&(*table, shard.id));
                }
            }
        }
        self.waiting.retain(|(table, shard)| after.shard(*table, *shard).is_some());
    }
}

/// Runs for as long as the store lives.
pub(super) async fn observe(store: MemoryStore, cluster: Weak<Inner>) {
    let root = {
        let Some(inner) = cluster.upgrade() else { return };
        inner.seen.borrow_mut().complete = true;
        inner.keys.root().to_owned()
    };
    let Ok(mut batches) = store.watch(&root, 1).await else { return };
    while let Some(Ok(batch)) = batches.next().await {
        let Some(cluster) = cluster.upgrade().map(Cluster) else { return };
        let mut changes = batch.changes.into_iter().peekable();
        while let Some(revision) = changes.peek().map(Change::revision) {
            let mut one = Vec::new();
            while let Some(change) = changes.next_if(|change| change.revision() == revision) {
                one.push(change);
            }
            cluster.step(revision, &one);
        }
    }
}

/// In a world of more shards than this, only what those lacked is noted that have a replica which cannot be read.
const NOTED_MAX: usize = 100;

/// Notes what the replicas lack, for as long as the cluster lives.
pub(super) async fn note_lacks(cluster: Weak<Inner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(KNOWN_AGE_MAX_MS / 10)).await;
        let Some(cluster) = cluster.upgrade().map(Cluster) else { return };
        cluster.note_lacks();
        cluster.note_sites();
    }
}

impl Cluster {
    /// One revision of the store: one step of the cluster.
    fn step(&self, revision: Revision, changes: &[Change]) {
        let mut records = Vec::new();
        for change in changes {
            match read::read(self.keys(), change) {
                Ok(record) => records.extend(record),
                Err(error) => {
                    self.journal().violation("NOT-SILENT", &format!("a record cannot be read: {error}"));
                }
            }
        }
        let led = records.iter().any(|record| matches!(record, Record::Table(..) | Record::Shard(..)));
        let before = self.0.seen.borrow().clone();
        self.0.seen.borrow_mut().apply(revision, records);
        let after = self.0.seen.borrow();
        rows::changes(&before, &after).iter().for_each(|row| self.row(row));
        self.0.measures.borrow_mut().step(self.now_ms(), &before, &after);
        self.0.dark.borrow_mut().step(self.now_ms(), &before, &after);
        self.0.lacked.borrow_mut().step(&before, &after);
        let author = self.journal().take_author(revision);
        if led {
            self.check_author(&before, author.as_deref());
        }
        for violation in invariants::check(&before, &after) {
            self.journal().violation(violation.invariant.as_str(), &violation.what);
        }
        self.check_readable(&before, &after);
        self.check_zones(&before, &after);
    }

    /// What a leader writes is written by the one that leads (FENCED).
    fn check_author(&self, before: &ClusterView, author: Option<&str>) {
        let leads = before.leader.as_ref().map(|leader| format!("{}.store", leader.node));
        if author != leads.as_deref() {
            let (author, leads) = (author.unwrap_or("somebody"), leads.as_deref().unwrap_or("nobody"));
            self.journal().violation("FENCED", &format!("{author} wrote, while {leads} leads"));
        }
    }

    /// A replica that becomes readable has caught up, unless there is none better.
    fn check_readable(&self, before: &ClusterView, after: &ClusterView) {
        for (table, record) in after.tables.iter().map(|(id, table)| (*id, &table.record)) {
            for (was, shard) in after.changed_shards(before, table) {
                let readable = |shard: &Shard, node: &NodeId| {
                    shard.replica_on(node).is_some_and(|replica| replica.state == ReplicaState::Ready)
                };
                // Nobody reads a child before it replaces its parents; it then holds what they held on the same node.
                if shard.state != ShardState::Serving {
                    continue;
                }
                // Who was read before and goes on being read.
                let stay: Vec<&NodeId> =
                    shard.ready_nodes().filter(|node| was.is_some_and(|was| readable(was, node))).collect();
                for node in shard.ready_nodes().filter(|node| !stay.contains(node)) {
                    let database = names::replica_database(&record.name, record.id, shard.id);
                    let lacks = self.lacks(record, shard, node, &database);
                    // Where all lag, a copy may lag half as much again as the best of the others does or did.
                    let allowed = self.0.shared.setup.options.rules.caught_up_lag_max;
                    let least = |lacks: fn(&Lacks) -> u64| {
                        let lately = |other: &&NodeId| {
                            let now = lacks(&self.lacks(record, shard, other, &database));
                            self.lacked_lately(shard, other).iter().map(lacks).fold(now, u64::max)
                        };
                        stay.iter().map(lately).min()
                    };
                    // What a leader knows of one whose rows have just gone with its disk was right a moment ago.
                    let lost = self.server(node.as_str()).is_some_and(|server| server.has_lost_rows());
                    let known = self.lacked_lately(shard, node).into_iter().filter(|_| lost);
                    let lacks = known.fold(lacks, |one, other| Lacks {
                        all: one.all.min(other.all),
                        old: one.old.min(other.old),
                    });
                    let worse = |own: u64, least: u64| own > allowed + least + least / 2;
                    let (Some(elsewhere), Some(all)) = (least(|l| l.old), least(|l| l.all)) else { continue };
                    if worse(lacks.old, elsewhere) && worse(lacks.all, all) {
                        let lacks = lacks.old;
                        let what = format!(
                            "{} {} on {node} is readable and lacks {lacks} old messages, another {elsewhere}",
                            record.name, shard.id
                        );
                        self.journal().violation("NOT-SILENT", &what);
                    }
                }
            }
        }
    }

    fn note_lacks(&self) {
        let (view, now_ms) = (self.view(), self.now_ms());
        let mut lacked = std::mem::take(&mut *self.0.lacked.borrow_mut());
        // Also of those that all can be read: one may leave the routes and be back before the next look, by what was
        // reported of its peers before (sweep seeds 755, 4899).
        let all =
            || view.shards.iter().flat_map(|(table, shards)| shards.keys().map(|shard| (*table, *shard)));
        let noted = match all().nth(NOTED_MAX) {
            Some(_) => lacked.waiting.clone(),
            None => all().collect(),
        };
        for (table, shard) in noted {
            let Some(table) = view.tables.get(&table).map(|table| &table.record) else { continue };
            let Some(shard) = view.shard(table.id, shard) else { continue };
            let database = names::replica_database(&table.name, table.id, shard.id);
            // Also those that only come to be readable: reports of them may be as old.
            for node in shard.replicas.iter().map(|replica| &replica.node) {
                let lacks = self.lacks(table, shard, node, &database);
                let noted = lacked.lately.entry((table.id, shard.id, node.clone())).or_default();
                noted.push_back((now_ms, lacks));
            }
        }
        lacked.lately.retain(|_, noted| {
            while noted.front().is_some_and(|(at_ms, _)| now_ms - at_ms > KNOWN_AGE_MAX_MS) {
                noted.pop_front();
            }
            !noted.is_empty()
        });
        *self.0.lacked.borrow_mut() = lacked;
    }

    fn lacked_lately(&self, shard: &Shard, node: &NodeId) -> Vec<Lacks> {
        let lacked = self.0.lacked.borrow();
        let noted = lacked.lately.get(&(shard.table, shard.id, node.clone()));
        noted.into_iter().flatten().map(|(_, lacks)| *lacks).collect()
    }

    fn lacks(&self, table: &Table, shard: &Shard, node: &NodeId, database: &str) -> Lacks {
        let older = |age_ms| self.lacked(table, shard, node, database, age_ms);
        Lacks { all: older(0), old: older(REPORT_AGE_MAX_MS) }
    }

    /// Messages that a replica does not hold though they have been there for so long.
    pub(super) fn lacked(
        &self,
        table: &Table,
        shard: &Shard,
        node: &NodeId,
        database: &str,
        age_ms: u64,
    ) -> u64 {
        let held = self.server(node.as_str()).and_then(|server| server.peek(database));
        let held: BTreeMap<_, _> = held.unwrap_or_default();
        let missing = |partition: PartitionId| {
            let next = held.get(&partition).and_then(|rows| rows.max_offset()).map_or(0, |max| max + 1);
            self.kafka().waiting(&names::topic_partition(&table.source, partition), next, age_ms)
        };
        shard.range.partitions().map(missing).sum()
    }
}
