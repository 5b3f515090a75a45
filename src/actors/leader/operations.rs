//! Operations as asked for by an operator: check, number, record. The table's actor carries them out.

use super::create::of_metadata;
use super::{Lead, status, target};
use crate::actors::balance::decide::{Sight, Wanted};
use crate::actors::balance::{look, weights};
use crate::adapters::metadata::{Compare, Revision, TXN_WRITES_MAX, TxnOutcome, Write, records::Record as _};
use crate::adapters::peers::Error;
use crate::model::control::{Asked, Begun, NodeStatus, Operate, OperationStatus, Skipped};
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::operation::{Kind, Operation, State};
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, Table, TableName, TableState};
use crate::model::view::{ClusterView, Versioned};

/// How often a record that changed at the same moment is read again.
const TRIES_MAX: u32 = 20;
/// Operations that one transaction begins.
const BEGIN_MAX: usize = 40;
/// Ended operations that are kept for people to look at.
const ENDED_KEPT: usize = 200;
/// However many they are, up to a limit, those are kept that ended so lately: whoever waits for one looks now and then.
const ENDED_LATELY_MS: u64 = 15 * 60_000;
/// That limit.
const ENDED_MAX: usize = 2_000;
/// Older ones that go with one record.
const ENDED_DROPPED_MAX: usize = 20;

/// What a request means for a table, and which shards it leaves as they are.
type Decided = (Vec<Kind>, Vec<Skipped>);

/// Records the operations that a request asks for.
pub async fn operate(lead: Lead, request: Operate) -> Result<Begun, Error> {
    if let Asked::Split { shard: None, cut: None, by_bytes } = request.asked {
        return split_every(&lead, &request, by_bytes).await;
    }
    let decided = |sight: &Sight<'_>, table: &Table| {
        let kinds = kinds(sight, table, &request.asked)?;
        refuse_frozen(sight, table, kinds.iter().flat_map(Kind::shards))?;
        Ok((kinds, Vec::new()))
    };
    Ok(part(&lead, &request, 0, &decided).await?.0)
}

/// Splits all shards, as many in one transaction as a store takes.
async fn split_every(lead: &Lead, request: &Operate, by_bytes: bool) -> Result<Begun, Error> {
    let wide = look(lead, |sight| every(sight.view, &named(sight.view, request)?.record))?;
    let mut begun = Begun::default();
    let mut after = 0;
    // What is only shown is numbered in one go.
    let at_once = if request.dry_run { wide.len() } else { BEGIN_MAX };
    for some in wide.chunks(at_once) {
        let decided = |sight: &Sight<'_>, table: &Table| Ok(splits_of(sight, table, some, by_bytes));
        match part(lead, request, after, &decided).await {
            Ok((more, revision)) => {
                begun.operations.extend(more.operations);
                begun.skipped.extend(more.skipped);
                after = revision;
            }
            Err(error) if begun.operations.is_empty() => return Err(error),
            Err(error) => {
                begun.skipped.extend(some.iter().map(|id| Skipped { shard: *id, why: error.to_string() }));
            }
        }
    }
    if begun.operations.is_empty() {
        look(lead, |sight| refuse_frozen(sight, &named(sight.view, request)?.record, wide.iter().copied()))?;
        let why: Vec<String> =
            begun.skipped.iter().take(5).map(|left| format!("{}: {}", left.shard, left.why)).collect();
        return Err(Error::Refused(format!("no shard can be split now: {}", why.join("; "))));
    }
    Ok(begun)
}

/// The table that a request is about.
fn named<'a>(view: &'a ClusterView, request: &Operate) -> Result<&'a Shared<Versioned<Table>>, Error> {
    let name = TableName { database: request.database.clone(), table: request.table.clone() };
    let found = view.table_named(&name).and_then(|table| view.tables.get(&table.id));
    found.ok_or_else(|| Error::NotFound(format!("table {name}")))
}

/// Records operations in one transaction, decided from a view that is not older than `after`. The store's revision
/// comes with them.
async fn part(
    lead: &Lead,
    request: &Operate,
    after: Revision,
    decided: &dyn Fn(&Sight<'_>, &Table) -> Result<Decided, Error>,
) -> Result<(Begun, Revision), Error> {
    let reason = if request.reason.is_empty() { "asked for" } else { request.reason.as_str() };
    for _ in 0..TRIES_MAX {
        let found = look(lead, |sight| -> Result<_, Error> {
            if sight.view.revision < after {
                return Ok(None);
            }
            let table = named(sight.view, request)?;
            Ok(Some((table.clone(), decided(sight, &table.record)?)))
        })?;
        if let Some((table, (kinds, skipped))) = found {
            let id = table.record.id;
            let operations = numbered(lead, kinds.into_iter().map(|kind| (id, kind, reason.to_owned())));
            let recorded = match request.dry_run || operations.is_empty() {
                true => Some(after),
                false => record(lead, std::slice::from_ref(&table), &operations).await?,
            };
            if let Some(revision) = recorded {
                let name = &table.record.name;
                let operations = operations.into_iter().map(|operation| said(name, operation)).collect();
                return Ok((Begun { operations, skipped }, revision));
            }
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Err(Error::Unavailable(format!("table {}.{} keeps changing: try again", request.database, request.table)))
}

/// Nothing is begun where an operator has said that nothing is to move.
fn refuse_frozen(
    sight: &Sight<'_>,
    table: &Table,
    mut shards: impl Iterator<Item = ShardId>,
) -> Result<(), Error> {
    match shards.find_map(|id| Some((id, sight.view.frozen(table.id, id, sight.now_unix_ms)?))) {
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

/// The operations that ended first, where they are too many to keep: not those that were begun first, of which one that
/// took hours would go with its end. The newest stays always: it carries the numbers. Pure.
fn surplus(view: &ClusterView, now_unix_ms: u64) -> Vec<OperationId> {
    let newest = view.operations.keys().next_back();
    let ended = view.operations.values().map(|operation| &operation.record).filter(|op| !op.state.is_open());
    let mut ended: Vec<(u64, OperationId)> = ended.map(|op| (op.ended_unix_ms, op.id)).collect();
    ended.sort_unstable();
    let before = now_unix_ms.saturating_sub(ENDED_LATELY_MS);
    let earlier = ended.iter().filter(|(ended_ms, _)| *ended_ms < before).count();
    let surplus =
        ended.len().saturating_sub(ENDED_KEPT).min(earlier.max(ended.len().saturating_sub(ENDED_MAX)));
    let surplus = ended.into_iter().take(surplus).map(|(_, id)| id).filter(|id| Some(id) != newest);
    surplus.take(ENDED_DROPPED_MAX).collect()
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
    let surplus = surplus(&lead.view.read(), lead.clock.unix_ms());
    writes.extend(surplus.into_iter().map(|id| Write::Delete(lead.keys.operation(id))));
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

/// Records operations that a policy wants, of any tables: as many of the first as one transaction takes, all of these
/// or none. What is left is wanted again when they are under way.
pub async fn begin_all(lead: &Lead, wanted: Wanted) -> Result<Revision, Error> {
    let wanted = fitting(wanted);
    let tables: Vec<Shared<Versioned<Table>>> = {
        let view = lead.view.read();
        wanted.keys().filter_map(|id| view.tables.get(id).cloned()).collect()
    };
    let kinds = wanted
        .into_iter()
        .flat_map(|(table, kinds)| kinds.into_iter().map(move |(kind, reason)| (table, kind, reason)));
    let operations = numbered(lead, kinds);
    let changed = || Error::Unavailable("the records changed at the same moment".to_owned());
    record(lead, &tables, &operations).await?.ok_or_else(changed)
}

/// The first of these, as many as [`record`] can put into one transaction: a table's record is compared and perhaps
/// written, and so is each operation; older ones and the leader's fence go with them. Pure.
fn fitting(wanted: Wanted) -> Wanted {
    let mut room = TXN_WRITES_MAX - ENDED_DROPPED_MAX - 1;
    let mut fitting = Wanted::new();
    for (table, mut kinds) in wanted {
        kinds.truncate(room.saturating_sub(2) / 2);
        if kinds.is_empty() {
            break;
        }
        room -= 2 + 2 * kinds.len();
        fitting.insert(table, kinds);
    }
    fitting
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

/// Every shard that has more than one partition, by their ranges. Pure.
fn every(view: &ClusterView, table: &Table) -> Result<Vec<ShardId>, Error> {
    in_use(table)?;
    let serving = view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving);
    let mut wide: Vec<&Shard> = serving.filter(|shard| shard.range.width() > 1).collect();
    wide.sort_by_key(|shard| shard.range);
    if wide.is_empty() {
        let name = &table.name;
        return Err(Error::Refused(format!("no shard of {name} can be split: each has one partition")));
    }
    Ok(wide.into_iter().map(|shard| shard.id).collect())
}

/// The splits of those shards that are neither busy nor frozen, and why others are left. Pure.
fn splits_of(sight: &Sight<'_>, table: &Table, shards: &[ShardId], by_bytes: bool) -> Decided {
    let view = sight.view;
    let open = |id| view.open_operations().find(|op| op.table == table.id && op.kind.touches(id));
    let (mut kinds, mut skipped) = (Vec::new(), Vec::new());
    for id in shards {
        let serving = view.shard(table.id, *id).filter(|shard| shard.state == ShardState::Serving);
        let frozen = view.frozen(table.id, *id, sight.now_unix_ms).map(ToString::to_string);
        let found = match (serving, open(*id)) {
            _ if frozen.is_some() => Err(frozen.unwrap_or_default()),
            (_, Some(operation)) => Err(format!("{} ({}) is under way", operation.id, operation.kind)),
            (None, None) => Err("it is not in the topology any more".to_owned()),
            (Some(shard), None) => {
                let next = table.next_shard + 2 * u32::try_from(kinds.len()).unwrap_or(u32::MAX / 2);
                let cut = by_bytes.then(|| weights::cut(sight.heartbeats, shard)).flatten();
                split(shard, cut, next).map_err(|error| error.to_string())
            }
        };
        match found {
            Ok(kind) => kinds.push(kind),
            Err(why) => skipped.push(Skipped { shard: *id, why }),
        }
    }
    (kinds, skipped)
}

fn in_use(table: &Table) -> Result<(), Error> {
    match table.state {
        TableState::Active => Ok(()),
        _ => Err(Error::Refused(format!("table {} is not in use yet, or no more", table.name))),
    }
}

/// What a request means for the table as it stands. Pure.
fn kinds(sight: &Sight<'_>, table: &Table, asked: &Asked) -> Result<Vec<Kind>, Error> {
    in_use(table)?;
    let (view, heartbeats) = (sight.view, sight.heartbeats);
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
        Asked::Split { cut: Some(_), by_bytes: true, .. } => Err(Error::Invalid(
            "a cut is given, or found by what partitions have taken: say only one of them".to_owned(),
        )),
        Asked::Split { shard: Some(id), cut, by_bytes } => {
            let shard = shard(*id)?;
            let cut = cut.or_else(|| by_bytes.then(|| weights::cut(heartbeats, shard)).flatten());
            Ok(vec![split(shard, cut, table.next_shard)?])
        }
        // Of all shards without a cut: see `split_every`.
        Asked::Split { shard: None, .. } => {
            Err(Error::Invalid("a cut needs a shard: name the shard to be cut there".to_owned()))
        }
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
        Asked::Move { shard: id, from, to, force } => {
            let shard = shard(*id)?;
            on(shard, from)?;
            target::check(sight, shard, Some(from), to, *force)?;
            Ok(vec![Kind::Move { shard: *id, from: from.clone(), to: to.clone() }])
        }
        Asked::Lead { shard: id, to } => {
            on(shard(*id)?, to)?;
            Ok(vec![Kind::Lead { shard: *id, to: to.clone() }])
        }
        Asked::Add { shard: id, to, force } => {
            target::check(sight, shard(*id)?, None, to, *force)?;
            Ok(vec![Kind::Add { shard: *id, to: to.clone() }])
        }
        Asked::Remove { shard: id, from } => {
            let shard = shard(*id)?;
            on(shard, from)?;
            let (others, wanted) = (shard.staying().filter(|r| r.node != *from).count(), table.replicas);
            if others < wanted as usize && !target::hopeless(sight, shard, from) {
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

/// Whether readers see already what a split or merge has made: nothing takes that back.
fn is_published(view: &ClusterView, operation: &Operation) -> bool {
    let made = operation.kind.touched().filter(|id| !operation.kind.shards().contains(id));
    let serving =
        |id| view.shard(operation.table, id).is_some_and(|shard| shard.state == ShardState::Serving);
    made.into_iter().any(serving)
}

/// What is said then to whoever would have it undone.
const FINISHED: &str =
    ": it is published already and is finished; copies that a node cannot make are brought from another";

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
        let view = lead.view.read();
        if operation.state == State::Cancelling && is_published(&view, &operation) {
            operation.outcome.push_str(FINISHED);
        }
        let name = view.tables.get(&operation.table).map(|table| table.record.name.to_string());
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

#[cfg(test)]
mod tests;
