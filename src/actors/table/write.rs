//! Writes a table's steps, each as one transaction fenced by the term and by the records that it was decided from.

use super::Basis;
use super::decide::Step;
use super::operate::Change;
use crate::actors::leader::{Lead, operations};
use crate::actors::placement::{FindNodes, PlaceShards, PlacementActor};
use crate::adapters::metadata::{Compare, Revision, TxnOutcome, Write, records::Record as _};
use crate::error::Coded as _;
use crate::model::ids::{NodeId, ShardId};
use crate::model::names;
use crate::model::operation::{Kind, Operation, cause};
use crate::model::range::PartitionRange;
use crate::model::table::{Shard, Table, TableState};
use actix::prelude::*;
use std::collections::BTreeMap;

/// Does what a step says; returns the store's revision after it, or `None` if there is no room for it at the moment.
pub(super) async fn carry_out(
    lead: Lead,
    placement: Addr<PlacementActor>,
    basis: Basis,
    step: Step,
) -> Result<Option<Revision>, String> {
    let revision = match step {
        Step::AddReplicas(shards) => return add(&lead, &placement, &basis, shards).await,
        Step::Rebuild(lost) => return rebuild(&lead, &placement, &basis, lost).await,
        Step::PlaceShards(missing) => place(&lead, &placement, &basis, missing).await,
        Step::Write(change) => write(&lead, &basis, &change).await,
        Step::RemoveLost(lost) => {
            let remove = |(shard, from): (ShardId, NodeId)| {
                let reason = format!("{} {from}", cause::LOST);
                (Kind::Remove { shard, from }, reason)
            };
            begin(&lead, &basis, lost.into_iter().map(remove).collect()).await
        }
        Step::End(operation) => end(&lead, *operation).await,
        Step::Expire(operation) => expire(&lead, *operation).await,
        Step::DeleteTopics => delete_topics(&lead, &basis).await,
        Step::Forget(shards) => forget(&lead, &basis, &shards).await,
    };
    revision.map(Some)
}

async fn place(
    lead: &Lead,
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    missing: Vec<(ShardId, PartitionRange)>,
) -> Result<Revision, String> {
    let table = &basis.table.record;
    let shards = missing.iter().map(|(id, _)| *id).collect();
    let ask = PlaceShards { shards, replicas: table.replicas };
    let placed = placement.send(ask).await.map_err(|error| error.to_string())??;
    let mut records = Vec::new();
    for (id, range) in missing {
        let nodes = placed.get(&id).filter(|nodes| !nodes.is_empty());
        let nodes = nodes.ok_or_else(|| format!("no node can take shard {id}: none is live and active"))?;
        records.push(Shard::new(table.id, id, range, nodes.iter().cloned()));
    }
    let reasons = vec![format!("{} shards placed", records.len())];
    write(lead, basis, &Change { shards: records, reasons, ..Change::default() }).await
}

/// One more replica for each of these shards, where placement finds a node.
async fn add(
    lead: &Lead,
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    shards: Vec<ShardId>,
) -> Result<Option<Revision>, String> {
    let found = targets(placement, basis, shards).await?;
    let added = found.into_iter().map(|(shard, to)| (Kind::Add { shard, to }, cause::WANTED.to_owned()));
    begin_some(lead, basis, added.collect()).await
}

/// Moves away from nodes that have been down for too long.
async fn rebuild(
    lead: &Lead,
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    lost: Vec<(ShardId, NodeId)>,
) -> Result<Option<Revision>, String> {
    let found = targets(placement, basis, lost.iter().map(|(shard, _)| *shard).collect()).await?;
    let moves = lost.into_iter().filter_map(|(shard, from)| {
        let to = found.get(&shard)?.clone();
        let reason = format!("{} {from}", cause::LOST);
        Some((Kind::Move { shard, from, to }, reason))
    });
    begin_some(lead, basis, moves.collect()).await
}

async fn targets(
    placement: &Addr<PlacementActor>,
    basis: &Basis,
    shards: Vec<ShardId>,
) -> Result<BTreeMap<ShardId, NodeId>, String> {
    let ask = FindNodes { table: basis.table.record.id, shards };
    placement.send(ask).await.map_err(|error| error.to_string())?
}

/// Copies of other tables may have taken the room since it was decided.
async fn begin_some(
    lead: &Lead,
    basis: &Basis,
    kinds: Vec<(Kind, String)>,
) -> Result<Option<Revision>, String> {
    if kinds.is_empty() {
        return Ok(None);
    }
    begin(lead, basis, kinds).await.map(Some)
}

async fn begin(lead: &Lead, basis: &Basis, kinds: Vec<(Kind, String)>) -> Result<Revision, String> {
    let wanted = BTreeMap::from([(basis.table.record.id, kinds)]);
    operations::begin_all(lead, wanted).await.map_err(|error| error.to_string())
}

/// An operation's next state.
async fn become_so(lead: &Lead, operation: &Operation) -> Result<Revision, String> {
    let key = lead.keys.operation(operation.id);
    let before = lead.view.read().operations.get(&operation.id).cloned();
    let before = before.ok_or("the operation's record is gone")?;
    if !before.record.state.may_become(operation.state) {
        return Err(format!(
            "{} is {:?} and cannot become {:?}",
            operation.id, before.record.state, operation.state
        ));
    }
    let compares = vec![Compare::ModifiedAt(key.clone(), before.revision)];
    let writes = vec![Write::Put { key, value: operation.encode(), lease: None }];
    committed(lead.write(compares, writes).await)
}

/// An operation has taken too long.
async fn expire(lead: &Lead, operation: Operation) -> Result<Revision, String> {
    let revision = become_so(lead, &operation).await?;
    let (what, why) = (operation.kind.to_string(), operation.outcome);
    tracing::warn!(id = %operation.id, what, why, "operation takes too long: undoing it");
    Ok(revision)
}

/// An operation is over.
async fn end(lead: &Lead, mut operation: Operation) -> Result<Revision, String> {
    operation.ended_unix_ms = lead.clock.unix_ms();
    let revision = become_so(lead, &operation).await?;
    let took_ms = operation.ended_unix_ms.saturating_sub(operation.started_unix_ms);
    let (what, state, why) = (operation.kind.to_string(), operation.state, operation.outcome.clone());
    lead.metrics.elastic.operation_ended(&operation.kind, state, took_ms);
    tracing::info!(id = %operation.id, what, ?state, why, took_ms, "operation ends");
    Ok(revision)
}

/// One transaction: the shards, and the table's next epoch with them if routes change.
async fn write(lead: &Lead, basis: &Basis, change: &Change) -> Result<Revision, String> {
    let table = &basis.table;
    let table_key = lead.keys.table(table.record.id);
    let mut compares = vec![Compare::ModifiedAt(table_key.clone(), table.revision)];
    let mut writes = Vec::new();
    for shard in &change.shards {
        if let Some(wrong) = basis.shards.get(&shard.id).and_then(|before| before.record.illegal(shard)) {
            return Err(wrong);
        }
        let key = lead.keys.shard(shard.table, shard.id);
        compares.push(match basis.shards.get(&shard.id) {
            Some(before) => Compare::ModifiedAt(key.clone(), before.revision),
            None => Compare::Absent(key.clone()),
        });
        writes.push(Write::Put { key, value: shard.encode(), lease: None });
    }
    compares.extend(change.counted_on.iter().map(|node| Compare::Present(lead.keys.live(node))));
    compares.extend(change.counted_out.iter().map(|node| Compare::Absent(lead.keys.live(node))));
    for id in &change.delete {
        let key = lead.keys.shard(table.record.id, *id);
        if let Some(before) = basis.shards.get(id) {
            compares.push(Compare::ModifiedAt(key.clone(), before.revision));
        }
        writes.push(Write::Delete(key));
    }
    if change.publish {
        let mut record = table.record.clone();
        if record.state != TableState::Active && !record.state.may_become(TableState::Active) {
            return Err(format!("{} is {:?} and is published no more", record.name, record.state));
        }
        record.publish(lead.publisher);
        record.state = TableState::Active;
        tracing::info!(table = %record.name, epoch = %record.epoch, "topology published");
        writes.push(Write::Put { key: table_key, value: record.encode(), lease: None });
    }
    let revision = committed(lead.write(compares, writes).await)?;
    for reason in &change.reasons {
        tracing::info!(table = %table.record.name, change = reason, "table changed");
    }
    Ok(revision)
}

/// Deletes the topics, once: the record says when they are gone, and until then no other table may be made on them
/// (`leader::create`). Whoever reads them still reads for a table that is being dropped.
async fn delete_topics(lead: &Lead, basis: &Basis) -> Result<Revision, String> {
    let table = &basis.table.record;
    // A deposed leader that wakes up would take away the topics of a table that has been made again since. Kafka
    // deletes by name, so what is between this look and its request remains.
    if !lead.stands().await.map_err(|error| error.told())? {
        return Err("the term is over".into());
    }
    let topics: Vec<String> = names::topics(&table.source, table.partitions).into_iter().collect();
    lead.kafka.delete_topics(&topics).await.map_err(|error| error.told())?;
    tracing::info!(table = %table.name, topics = topics.len(), "topics deleted");
    let key = lead.keys.table(table.id);
    let compares = vec![Compare::ModifiedAt(key.clone(), basis.table.revision)];
    let value = Table { delete_topics: false, ..table.clone() }.encode();
    committed(lead.write(compares, vec![Write::Put { key, value, lease: None }]).await)
}

/// Every node has let go: the records, the table's own with the last shards'.
async fn forget(lead: &Lead, basis: &Basis, shards: &[ShardId]) -> Result<Revision, String> {
    let table = &basis.table.record;
    let last = shards.len() == basis.shards.len();
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
