//! An operation on the wire: the same messages in the store's records and in answers to operators.

use crate::model::ids::InvalidId;
use crate::model::operation::{Kind, Operation, State};
use crate::model::{NodeId, OperationId, ShardId};
use crate::wire::{self, operation_record as w};

/// A whole operation for the wire.
pub(super) fn to_wire(operation: &Operation) -> wire::OperationRecord {
    wire::OperationRecord {
        id: operation.id.0,
        table: operation.table.to_string(),
        state: state_to_wire(operation.state),
        reason: operation.reason.clone(),
        outcome: operation.outcome.clone(),
        started_unix_ms: operation.started_unix_ms,
        ended_unix_ms: operation.ended_unix_ms,
        kind: Some(kind_to_wire(&operation.kind)),
    }
}

/// See [`to_wire`]; an error names the field and says what is wrong with it.
pub(super) fn from_wire(wire: wire::OperationRecord) -> Result<Operation, (&'static str, String)> {
    let kind = wire.kind.ok_or(("kind", "not given".to_owned()))?;
    let table = wire.table.parse().map_err(|error: InvalidId| ("table", error.to_string()))?;
    let state = state_from_wire(wire.state);
    Ok(Operation {
        id: OperationId(wire.id),
        table,
        kind: kind_from_wire(kind)?,
        state: state.ok_or(("state", format!("{} is no state known here", wire.state)))?,
        reason: wire.reason,
        outcome: wire.outcome,
        started_unix_ms: wire.started_unix_ms,
        ended_unix_ms: wire.ended_unix_ms,
    })
}

/// An operation's state for the wire.
fn state_to_wire(state: State) -> i32 {
    let wire = match state {
        State::Running => wire::OperationStateRecord::Running,
        State::Cancelling => wire::OperationStateRecord::Cancelling,
        State::Done => wire::OperationStateRecord::Done,
        State::Cancelled => wire::OperationStateRecord::Cancelled,
        State::Failed => wire::OperationStateRecord::Failed,
    };
    wire.into()
}

/// See [`state_to_wire`]; `None` for a number that this version does not know.
fn state_from_wire(number: i32) -> Option<State> {
    Some(match wire::OperationStateRecord::try_from(number).ok()? {
        wire::OperationStateRecord::Running => State::Running,
        wire::OperationStateRecord::Cancelling => State::Cancelling,
        wire::OperationStateRecord::Done => State::Done,
        wire::OperationStateRecord::Cancelled => State::Cancelled,
        wire::OperationStateRecord::Failed => State::Failed,
        wire::OperationStateRecord::Unspecified => return None,
    })
}

fn node(field: &'static str, text: &str) -> Result<NodeId, (&'static str, String)> {
    text.parse().map_err(|error: InvalidId| (field, error.to_string()))
}

/// An operation's kind for the wire.
fn kind_to_wire(kind: &Kind) -> w::Kind {
    let name = NodeId::to_string;
    match kind {
        Kind::Split { shard, cut, left, right } => {
            w::Kind::Split(wire::SplitRecord { shard: shard.0, cut: *cut, left: left.0, right: right.0 })
        }
        Kind::Merge { left, right, into } => {
            w::Kind::Merge(wire::MergeRecord { left: left.0, right: right.0, into: into.0 })
        }
        Kind::Move { shard, from, to } => {
            w::Kind::Move(wire::MoveRecord { shard: shard.0, from: name(from), to: name(to) })
        }
        Kind::Add { shard, to } => w::Kind::Add(wire::AddRecord { shard: shard.0, to: name(to) }),
        Kind::Remove { shard, from } => {
            w::Kind::Remove(wire::RemoveRecord { shard: shard.0, from: name(from) })
        }
        Kind::Lead { shard, to } => w::Kind::Lead(wire::LeadRecord { shard: shard.0, to: name(to) }),
    }
}

/// See [`kind_to_wire`]; an error names the field.
fn kind_from_wire(kind: w::Kind) -> Result<Kind, (&'static str, String)> {
    Ok(match kind {
        w::Kind::Split(s) => Kind::Split {
            shard: ShardId(s.shard),
            cut: s.cut,
            left: ShardId(s.left),
            right: ShardId(s.right),
        },
        w::Kind::Merge(m) => {
            Kind::Merge { left: ShardId(m.left), right: ShardId(m.right), into: ShardId(m.into) }
        }
        w::Kind::Move(m) => Kind::Move {
            shard: ShardId(m.shard),
            from: node("move.from", &m.from)?,
            to: node("move.to", &m.to)?,
        },
        w::Kind::Add(a) => Kind::Add { shard: ShardId(a.shard), to: node("add.to", &a.to)? },
        w::Kind::Remove(r) => Kind::Remove { shard: ShardId(r.shard), from: node("remove.from", &r.from)? },
        w::Kind::Lead(l) => Kind::Lead { shard: ShardId(l.shard), to: node("lead.to", &l.to)? },
    })
}
