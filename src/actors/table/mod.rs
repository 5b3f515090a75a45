//! A table in the leader's hands: takes it from record to record until everything wanted is there.
//!
//! A shell round `decide`: one step at a time, each one transaction under the term's fence and compared with the
//! records it was decided from. The next is decided only when the view shows the last.

pub mod decide;
#[cfg(test)]
mod decide_tests;

use super::leader::Lead;
use super::placement::{AddReplicas, PlaceShards, PlacementActor};
use super::replica::state::backoff_ms;
use crate::adapters::metadata::{Compare, Revision, TxnOutcome, Write, records::Record as _};
use crate::error::Coded as _;
use crate::model::ids::{Epoch, NodeId, ShardId, TableId};
use crate::model::names;
use crate::model::node::NodeState;
use crate::model::range::PartitionRange;
use crate::model::table::{Replica, ReplicaState, Shard, Table, TableState};
use crate::model::view::Versioned;
use actix::prelude::*;
use decide::{Knowledge, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something may have changed: decide again.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Review;

/// The actor.
pub struct TableActor {
    lead: Lead,
    placement: Addr<PlacementActor>,
    id: TableId,
    busy: bool,
    /// Our last write: nothing is decided before the view shows it.
    written: Revision,
    failures: u32,
}

/// What a step was decided from, for compare-and-swap.
struct Basis {
    table: Versioned<Table>,
    shards: BTreeMap<ShardId, Versioned<Shard>>,
}

impl TableActor {
    /// The table of that id.
    pub fn new(lead: Lead, placement: Addr<PlacementActor>, id: TableId) -> Self {
        Self { lead, placement, id, busy: false, written: 0, failures: 0 }
    }

    fn review(&mut self, ctx: &mut Context<Self>) {
        if self.busy {
            return;
        }
        let Some((basis, step)) = self.decide() else { return };
        self.busy = true;
        let work = carry_out(self.lead.clone(), self.placement.clone(), basis, step);
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|result, table, ctx| {
            table.busy = false;
            match result {
                Ok(revision) => {
                    table.failures = 0;
                    table.written = revision;
                    table.review(ctx);
                }
                Err(error) => {
                    tracing::warn!(table = %table.id, error, "a step was not made: deciding again");
                    let wait = Duration::from_millis(backoff_ms(table.failures));
                    table.failures += 1;
                    table.busy = true;
                    ctx.run_later(wait, |table, ctx| {
                        table.busy = false;
                        table.review(ctx);
                    });
                }
            }
        }));
    }

    fn decide(&self) -> Option<(Basis, Step)> {
        let view = self.lead.view.read();
        if view.revision < self.written {
            return None;
        }
        let table = view.tables.get(&self.id)?.clone();
        let shards = view.shards.get(&self.id).cloned().unwrap_or_default();
        let reports = self.lead.observed.read();
        let registered: BTreeSet<NodeId> = view.nodes.keys().cloned().collect();
        let live: BTreeSet<NodeId> = view.live.keys().cloned().collect();
        let takes = |id: &&NodeId| {
            view.nodes.get(*id).is_some_and(|node| node.record.state == NodeState::Active)
                && reports.heartbeats.get(*id).is_none_or(|heartbeat| heartbeat.clickhouse_up)
        };
        let open: BTreeSet<NodeId> = live.iter().filter(takes).cloned().collect();
        let known = Knowledge {
            registered: &registered,
            live: &live,
            open: &open,
            heartbeats: &reports.heartbeats,
            fit_since_ms: &reports.fit_since_ms,
            now_ms: self.lead.clock.now_ms(),
        };
        let list: Vec<&Shard> = shards.values().map(|shard| &shard.record).collect();
        let step = decide::decide(&table.record, &list, &known, &self.lead.rules)?;
        Some((Basis { table, shards }, step))
    }
}

impl Actor for TableActor {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.review(ctx);
    }
}

impl Handler<Review> for TableActor {
    type Result = ();
    fn handle(&mut self, _: Review, ctx: &mut Context<Self>) {
        self.review(ctx);
    }
}

async fn carry_out(
    lead: Lead,
    placement: Addr<PlacementActor>,
    basis: Basis,
    step: Step,
) -> Result<Revision, String> {
    match step {
        Step::PlaceShards(missing) => place(&lead, &placement, &basis, missing).await,
        Step::AddReplicas(shards) => add(&lead, &placement, &basis, shards).await,
        Step::Write { shards, publish, reasons } => write(&lead, &basis, &shards, publish, &reasons).await,
        Step::Forget(shards) => forget(&lead, &basis, &shards).await,
    }
}

async fn place(
    lead: &Lead,
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    missing: Vec<(ShardId, PartitionRange)>,
) -> Result<Revision, String> {
    let table = &basis.table.record;
    let shards = missing.iter().map(|(id, _)| *id).collect();
    let ask = PlaceShards { shards, replicas: table.replicas, first_node: None };
    let placed = placement.send(ask).await.map_err(|error| error.to_string())??;
    let mut records = Vec::new();
    for (id, range) in missing {
        let nodes = placed.get(&id).filter(|nodes| !nodes.is_empty());
        let nodes = nodes.ok_or_else(|| format!("no node can take shard {id}: none is live and active"))?;
        let replica = |node: &NodeId| Replica { node: node.clone(), state: ReplicaState::Creating };
        let replicas = nodes.iter().map(replica).collect();
        records.push(Shard { table: table.id, id, epoch: Epoch(1), range, replicas, leader: None });
    }
    write(lead, basis, &records, false, &[format!("{} shards placed", records.len())]).await
}

async fn add(
    lead: &Lead,
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    shards: Vec<ShardId>,
) -> Result<Revision, String> {
    let ask = AddReplicas { table: basis.table.record.id, shards };
    let found = placement.send(ask).await.map_err(|error| error.to_string())??;
    let (mut records, mut reasons) = (Vec::new(), Vec::new());
    for (id, node) in found {
        let Some(shard) = basis.shards.get(&id) else { continue };
        let mut shard = shard.record.clone();
        reasons.push(format!("{id} gets a replica on {node}"));
        shard.replicas.push(Replica { node, state: ReplicaState::Creating });
        shard.epoch = shard.epoch.next();
        records.push(shard);
    }
    if records.is_empty() {
        return Err("no node can take a further replica".into());
    }
    write(lead, basis, &records, false, &reasons).await
}

/// One transaction: the shards, and the table's next epoch with them if routes change.
async fn write(
    lead: &Lead,
    basis: &Basis,
    shards: &[Shard],
    publish: bool,
    reasons: &[String],
) -> Result<Revision, String> {
    let table = &basis.table;
    let table_key = lead.keys.table(table.record.id);
    let mut compares = vec![Compare::ModifiedAt(table_key.clone(), table.revision)];
    let mut writes = Vec::new();
    for shard in shards {
        let key = lead.keys.shard(shard.table, shard.id);
        compares.push(match basis.shards.get(&shard.id) {
            Some(before) => Compare::ModifiedAt(key.clone(), before.revision),
            None => Compare::Absent(key.clone()),
        });
        writes.push(Write::Put { key, value: shard.encode(), lease: None });
    }
    if publish {
        let mut record = table.record.clone();
        record.epoch = record.epoch.next();
        record.state = TableState::Active;
        tracing::info!(table = %record.name, epoch = %record.epoch, "topology published");
        writes.push(Write::Put { key: table_key, value: record.encode(), lease: None });
    }
    let revision = committed(lead.write(compares, writes).await)?;
    for reason in reasons {
        tracing::info!(table = %table.record.name, change = reason, "table changed");
    }
    Ok(revision)
}

/// Every node has let go: topics if wanted, then the records, the table's own with the last shards'.
async fn forget(lead: &Lead, basis: &Basis, shards: &[ShardId]) -> Result<Revision, String> {
    let table = &basis.table.record;
    let last = shards.len() == basis.shards.len();
    if last && table.delete_topics {
        // A deposed leader that wakes up would take away the topics of a table that has been made again since.
        if !lead.stands().await.map_err(|error| error.told())? {
            return Err("the term is over".into());
        }
        let partitions = (0..table.partitions).map(crate::model::PartitionId);
        let mut topics: BTreeSet<String> =
            partitions.map(|p| names::topic_partition(&table.source, p).topic).collect();
        topics.insert(names::dead_letter_topic(&table.source));
        let topics: Vec<String> = topics.into_iter().collect();
        lead.kafka.delete_topics(&topics).await.map_err(|error| error.to_string())?;
    }
    let key = lead.keys.table(table.id);
    let compares = vec![Compare::ModifiedAt(key.clone(), basis.table.revision)];
    let mut writes: Vec<Write> =
        shards.iter().map(|shard| Write::Delete(lead.keys.shard(table.id, *shard))).collect();
    if last {
        writes.push(Write::Delete(key));
        tracing::info!(table = %table.name, "table dropped everywhere");
        lead.metrics.forget_spread(&table.name.to_string());
    }
    committed(lead.write(compares, writes).await)
}

/// A refused or unknown write is no trouble: the view will show what is, and the next decision starts from there.
fn committed(outcome: Result<TxnOutcome, crate::adapters::metadata::Error>) -> Result<Revision, String> {
    match outcome {
        Ok(TxnOutcome::Committed(revision)) => Ok(revision),
        Ok(TxnOutcome::Refused) => Err("the records changed meanwhile, or the term is over".into()),
        Err(error) => Err(error.to_string()),
    }
}
