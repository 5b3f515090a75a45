//! Operations as asked for by an operator: check, number, record. The table's actor carries them out.

use super::create::of_metadata;
use super::{Lead, status};
use crate::actors::balance::weights;
use crate::adapters::metadata::{Compare, Revision, TxnOutcome, Write, records::Record as _};
use crate::adapters::peers::Error;
use crate::model::control::{Asked, NodeStatus, Operate, OperationStatus};
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::observed::Heartbeat;
use crate::model::operation::{Kind, Operation, State};
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, Table, TableName, TableState};
use crate::model::view::{ClusterView, Versioned};
use std::collections::BTreeMap;

/// How often a record that changed at the same moment is read again.
const TRIES_MAX: u32 = 5;
/// Operations that one request may begin.
const BEGIN_MAX: usize = 40;
/// Ended operations that are kept for people to look at.
const ENDED_KEPT: usize = 200;
/// Older ones that go with one record.
const ENDED_DROPPED_MAX: usize = 20;

/// Records the operations that a request asks for.
pub async fn operate(lead: Lead, request: Operate) -> Result<Vec<OperationStatus>, Error> {
    let name = TableName { database: request.database.clone(), table: request.table.clone() };
    for _ in 0..TRIES_MAX {
        let (table, kinds) = {
            let view = lead.view.read();
            let record = view.table_named(&name).map(|table| table.id);
            let found = record.and_then(|id| view.tables.get(&id).cloned());
            let table = found.ok_or_else(|| Error::NotFound(format!("table {name}")))?;
            let reports = lead.observed.read();
            let kinds = kinds(&view, &reports.heartbeats, &table.record, &request.asked)?;
            refuse_frozen(&view, &table.record, &kinds, lead.clock.unix_ms())?;
            (table, kinds)
        };
        let reason = if request.reason.is_empty() { "asked for" } else { request.reason.as_str() };
        let id = table.record.id;
        let operations = numbered(&lead, kinds.into_iter().map(|kind| (id, kind, reason.to_owned())));
        if request.dry_run {
            return Ok(operations.into_iter().map(|operation| said(&name, operation)).collect());
        }
        if record(&lead, std::slice::from_ref(&table), &operations).await?.is_some() {
            return Ok(operations.into_iter().map(|operation| said(&name, operation)).collect());
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(Error::Unavailable(format!("table {name} keeps changing: try again")))
}

/// Nothing is begun where an operator has said that nothing is to move.
fn refuse_frozen(view: &ClusterView, table: &Table, kinds: &[Kind], now_unix_ms: u64) -> Result<(), Error> {
    let frozen = |id: &ShardId| Some((*id, view.frozen(table.id, *id, now_unix_ms)?));
    match kinds.iter().flat_map(Kind::shards).find_map(|id| frozen(&id)) {
        Some((id, hold)) => Err(Error::Held(format!("shard {id} of {} is {hold}", table.name))),
        None => Ok(()),
    }
}

fn said(name: &TableName, operation: Operation) -> OperationStatus {
    OperationStatus::of(operation, Some(name.to_string()))
}

/// Operations to be recorded, numbered after all that there are.
fn numbered(lead: &Lead, kinds: impl IntoIterator<Item = (TableId, Kind, String)>) -> Vec<Operation> {
    let newest = lead.view.read().operations.keys().next_back().map_or(0, |id| id.0);
    let operation = |(number, (table, kind, reason))| Operation {
        id: OperationId(number),
        table,
        kind,
        state: State::Running,
        reason,
        outcome: String::new(),
        started_unix_ms: lead.clock.unix_ms(),
        ended_unix_ms: 0,
    };
    (newest + 1..).zip(kinds).map(operation).collect()
}

/// The oldest ended operations that are too many to keep. The newest stays always: it carries the numbers.
fn surplus(view: &ClusterView) -> Vec<OperationId> {
    let ended = view.operations.values().map(|operation| &operation.record).filter(|op| !op.state.is_open());
    let ended: Vec<OperationId> = ended.map(|operation| operation.id).collect();
    let surplus = ended.len().saturating_sub(ENDED_KEPT).min(ENDED_DROPPED_MAX);
    ended[..surplus].to_vec()
}

/// Numbers of new shards are taken in the same transaction; the oldest ended operations go with it. `None` if the
/// records changed meanwhile.
async fn record(
    lead: &Lead,
    tables: &[Shared<Versioned<Table>>],
    operations: &[Operation],
) -> Result<Option<Revision>, Error> {
    let (mut compares, mut writes) = (Vec::new(), Vec::new());
    for table in tables {
        let mut next = table.record.clone();
        let of_table = operations.iter().filter(|operation| operation.table == next.id);
        next.next_shard = of_table.filter_map(made).max().unwrap_or(next.next_shard);
        let key = lead.keys.table(next.id);
        compares.push(Compare::ModifiedAt(key.clone(), table.revision));
        if next != table.record {
            writes.push(Write::Put { key, value: next.encode(), lease: None });
        }
    }
    for operation in operations {
        let key = lead.keys.operation(operation.id);
        compares.push(Compare::Absent(key.clone()));
        writes.push(Write::Put { key, value: operation.encode(), lease: None });
    }
    writes.extend(surplus(&lead.view.read()).into_iter().map(|id| Write::Delete(lead.keys.operation(id))));
    match lead.write(compares, writes).await {
        Ok(TxnOutcome::Committed(revision)) => {
            for operation in operations {
                let (id, what) = (operation.id, operation.kind.to_string());
                tracing::info!(%id, what, why = operation.reason, "operation begins");
            }
            Ok(Some(revision))
        }
        Ok(TxnOutcome::Refused) => Ok(None),
        Err(error) => Err(of_metadata(&error)),
    }
}

/// The first free shard number after an operation that makes shards.
fn made(operation: &Operation) -> Option<u32> {
    match operation.kind {
        Kind::Split { right, .. } => Some(right.0 + 1),
        Kind::Merge { into, .. } => Some(into.0 + 1),
        _ => None,
    }
}

/// Records operations that a policy wants, of any tables, all or none.
pub async fn begin_all(
    lead: &Lead,
    wanted: BTreeMap<TableId, Vec<(Kind, String)>>,
) -> Result<Revision, Error> {
    let tables: Vec<Shared<Versioned<Table>>> = {
        let view = lead.view.read();
        wanted.keys().filter_map(|id| view.tables.get(id).cloned()).collect()
    };
    let kinds = wanted
        .into_iter()
        .flat_map(|(table, kinds)| kinds.into_iter().map(move |(kind, reason)| (table, kind, reason)));
    let operations = numbered(lead, kinds.take(BEGIN_MAX));
    let changed = || Error::Unavailable("the records changed at the same moment".to_owned());
    record(lead, &tables, &operations).await?.ok_or_else(changed)
}

/// The split of a shard in the middle or at a cut, numbered as the `nth` of its table in one request. Pure.
pub fn split_kind(
    view: &ClusterView,
    (table, id): (TableId, ShardId),
    cut: Option<u32>,
    nth: usize,
) -> Option<Kind> {
    let shard = &view.shards.get(&table)?.get(&id)?.record;
    let next = view.tables.get(&table)?.record.next_shard + 2 * u32::try_from(nth).ok()?;
    split(shard, cut, next).ok()
}

/// The splits of every shard that can be split and is not busy. Pure.
fn split_all(
    view: &ClusterView,
    heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>,
    table: &Table,
    by_bytes: bool,
) -> Result<Vec<Kind>, Error> {
    let busy = |id| view.open_operations().any(|op| op.table == table.id && op.kind.touches(id));
    let mut wide: Vec<&Shard> = view
        .shards_of(table.id)
        .filter(|s| s.state == ShardState::Serving && s.range.width() > 1 && !busy(s.id))
        .collect();
    wide.sort_by_key(|shard| shard.range);
    if wide.is_empty() {
        let name = &table.name;
        return Err(Error::Refused(format!("no shard of {name} can be split: each has one partition")));
    }
    let numbers = (table.next_shard..).step_by(2);
    let cut = |shard: &Shard| by_bytes.then(|| weights::cut(heartbeats, shard)).flatten();
    wide.iter().take(BEGIN_MAX).zip(numbers).map(|(s, next)| split(s, cut(s), next)).collect()
}

/// What a request means for the table as it stands. Pure.
fn kinds(
    view: &ClusterView,
    heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>,
    table: &Table,
    asked: &Asked,
) -> Result<Vec<Kind>, Error> {
    if table.state != TableState::Active {
        return Err(Error::Refused(format!("table {} is not in use yet, or no more", table.name)));
    }
    let shard = |id: ShardId| {
        let found = view.shards_of(table.id).find(|shard| shard.id == id);
        let serving = found.filter(|shard| shard.state == ShardState::Serving);
        serving.ok_or_else(|| Error::NotFound(format!("shard {id} of table {}", table.name)))
    };
    let on = |shard: &Shard, node: &NodeId| {
        let held = shard.replica_on(node).is_some();
        held.then_some(()).ok_or_else(|| Error::Refused(format!("{node} has no replica of {}", shard.id)))
    };
    match asked {
        Asked::Split { cut: Some(_), by_bytes: true, .. } => {
            Err(Error::Invalid("a cut is given, or found by bytes: say only one of them".to_owned()))
        }
        Asked::Split { shard: Some(id), cut, by_bytes } => {
            let shard = shard(*id)?;
            let cut = cut.or_else(|| by_bytes.then(|| weights::cut(heartbeats, shard)).flatten());
            Ok(vec![split(shard, cut, table.next_shard)?])
        }
        Asked::Split { shard: None, cut: Some(_), .. } => {
            Err(Error::Invalid("a cut needs a shard: name the shard to be cut there".to_owned()))
        }
        Asked::Split { shard: None, cut: None, by_bytes } => split_all(view, heartbeats, table, *by_bytes),
        Asked::Merge { left, right } => {
            let (one, other) = (shard(*left)?, shard(*right)?);
            if one.range.hi() != other.range.lo() {
                return Err(Error::Refused(format!(
                    "{left} {} and {right} {} are no neighbours in that order",
                    one.range, other.range
                )));
            }
            let merge = Kind::Merge { left: *left, right: *right, into: ShardId(table.next_shard) };
            Ok(gather(view, one, other)?.into_iter().chain([merge]).collect())
        }
        Asked::Move { shard: id, from, to } => {
            let shard = shard(*id)?;
            on(shard, from)?;
            not_on(view, shard, to)?;
            Ok(vec![Kind::Move { shard: *id, from: from.clone(), to: to.clone() }])
        }
        Asked::Lead { shard: id, to } => {
            on(shard(*id)?, to)?;
            Ok(vec![Kind::Lead { shard: *id, to: to.clone() }])
        }
        Asked::Add { shard: id, to } => {
            not_on(view, shard(*id)?, to)?;
            Ok(vec![Kind::Add { shard: *id, to: to.clone() }])
        }
        Asked::Remove { shard: id, from } => {
            let shard = shard(*id)?;
            on(shard, from)?;
            let (others, wanted) = (shard.staying().filter(|r| r.node != *from).count(), table.replicas);
            if others < wanted as usize {
                return Err(Error::Refused(format!(
                    "{id} would have {others} replicas and {} wants {wanted}: move it, or add another first",
                    table.name
                )));
            }
            Ok(vec![Kind::Remove { shard: *id, from: from.clone() }])
        }
    }
}

/// The moves that bring two shards onto the same nodes, for a merge that waits for them: the second one's copies to the
/// first one's nodes, or the other way where those may be given nothing.
fn gather(view: &ClusterView, left: &Shard, right: &Shard) -> Result<Vec<Kind>, Error> {
    let takes =
        |node: &&NodeId| view.nodes.get(*node).is_some_and(|node| node.record.state == NodeState::Active);
    let lacks = |shard: &Shard, of: &Shard| -> Vec<NodeId> {
        let nodes = of.staying().map(|replica| &replica.node);
        nodes.filter(|node| shard.replica_on(node).is_none()).cloned().collect()
    };
    for (stays, moves) in [(left, right), (right, left)] {
        let (from, to) = (lacks(stays, moves), lacks(moves, stays));
        if from.len() == to.len() && to.iter().all(|node| takes(&node)) {
            let pairs = from.into_iter().zip(to);
            return Ok(pairs.map(|(from, to)| Kind::Move { shard: moves.id, from, to }).collect());
        }
    }
    Err(Error::Refused(format!(
        "{} and {} are on different nodes and cannot be brought together: one of them has more replicas, or nodes of \
         both are drained or cordoned; wait until that is over, or `shard move` them",
        left.id, right.id
    )))
}

/// A node that could take a replica.
fn not_on(view: &ClusterView, shard: &Shard, to: &NodeId) -> Result<(), Error> {
    if !view.nodes.contains_key(to) {
        return Err(Error::NotFound(format!("node {to}")));
    }
    match shard.replica_on(to) {
        Some(_) => Err(Error::Refused(format!("{to} has a replica of {} already", shard.id))),
        None => Ok(()),
    }
}

fn split(shard: &Shard, cut: Option<u32>, next: u32) -> Result<Kind, Error> {
    let middle = shard.range.split_middle().map(|(_, right)| right.lo());
    let cut = cut.or(middle).filter(|cut| shard.range.split_at(*cut).is_some());
    let cut = cut.ok_or_else(|| {
        Error::Refused(format!(
            "{} {} cannot be cut there: both halves need partitions",
            shard.id, shard.range
        ))
    })?;
    Ok(Kind::Split { shard: shard.id, cut, left: ShardId(next), right: ShardId(next + 1) })
}

/// Has an operation undone; one that has ended already is shown as it is.
pub async fn cancel(lead: Lead, id: OperationId) -> Result<OperationStatus, Error> {
    for _ in 0..TRIES_MAX {
        let found = lead.view.read().operations.get(&id).cloned();
        let found = found.ok_or_else(|| Error::NotFound(format!("operation {id}")))?;
        let mut operation = found.record.clone();
        if operation.state.may_become(State::Cancelling) {
            operation.state = State::Cancelling;
            operation.outcome = "cancelled by an operator".to_owned();
            let key = lead.keys.operation(id);
            let compares = vec![Compare::ModifiedAt(key.clone(), found.revision)];
            let writes = vec![Write::Put { key, value: operation.encode(), lease: None }];
            match lead.write(compares, writes).await {
                Ok(TxnOutcome::Committed(_)) => {}
                Ok(TxnOutcome::Refused) => {
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    continue;
                }
                Err(error) => return Err(of_metadata(&error)),
            }
        }
        let name = lead.view.read().tables.get(&operation.table).map(|t| t.record.name.to_string());
        return Ok(OperationStatus::of(operation, name));
    }
    Err(Error::Unavailable(format!("operation {id} keeps changing: try again")))
}

/// Says what is wanted of a node.
pub async fn set_node_state(lead: Lead, id: NodeId, state: NodeState) -> Result<NodeStatus, Error> {
    for _ in 0..TRIES_MAX {
        let found = lead.view.read().nodes.get(&id).cloned();
        let mut found = found.ok_or_else(|| Error::NotFound(format!("node {id}")))?;
        found.record.state = state;
        let key = lead.keys.node(&id);
        let compares = vec![Compare::ModifiedAt(key.clone(), found.revision)];
        let writes = vec![Write::Put { key, value: found.record.encode(), lease: None }];
        match lead.write(compares, writes).await {
            Ok(TxnOutcome::Committed(_)) => {
                tracing::info!(node = %id, ?state, "node's state set");
                let (view, reports) = (lead.view.read(), lead.observed.read());
                return Ok(NodeStatus { state, ..status::node(&view, &reports, &id) });
            }
            Ok(TxnOutcome::Refused) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            Err(error) => return Err(of_metadata(&error)),
        }
    }
    Err(Error::Unavailable(format!("node {id} keeps changing: try again")))
}
