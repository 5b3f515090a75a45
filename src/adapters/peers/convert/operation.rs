//! Operations of the `Control` service.

use super::{Malformed, node};
use crate::adapters::operation_wire;
use crate::model::ShardId;
use crate::model::control::{Asked, Begun, Operate, OperationStatus, Skipped};
use crate::model::operation::WaitCode;
use crate::wire::{self, operate_request::Change};

/// A request for operations.
pub fn operate_from_wire(w: wire::OperateRequest) -> Result<Operate, Malformed> {
    let asked = match w.change.ok_or_else(|| Malformed::absent("change"))? {
        Change::Split(split) => {
            Asked::Split { shard: split.shard.map(ShardId), cut: split.cut, by_bytes: split.by_bytes }
        }
        Change::Merge(merge) => Asked::Merge { left: ShardId(merge.left), right: ShardId(merge.right) },
        Change::Move(m) => Asked::Move {
            shard: ShardId(m.shard),
            from: node("move.from", &m.from)?,
            to: node("move.to", &m.to)?,
            force: m.force,
        },
        Change::Lead(lead) => Asked::Lead { shard: ShardId(lead.shard), to: node("lead.to", &lead.to)? },
        Change::Add(add) => {
            Asked::Add { shard: ShardId(add.shard), to: node("add.to", &add.to)?, force: add.force }
        }
        Change::Remove(remove) => {
            Asked::Remove { shard: ShardId(remove.shard), from: node("remove.from", &remove.from)? }
        }
    };
    Ok(Operate { database: w.database, table: w.table, asked, reason: w.reason, dry_run: w.dry_run })
}

/// See [`operate_from_wire`].
pub fn operate_to_wire(m: Operate) -> wire::OperateRequest {
    let change = match m.asked {
        Asked::Split { shard, cut, by_bytes } => {
            Change::Split(wire::SplitShard { shard: shard.map(|s| s.0), cut, by_bytes })
        }
        Asked::Merge { left, right } => Change::Merge(wire::MergeShards { left: left.0, right: right.0 }),
        Asked::Move { shard, from, to, force } => {
            Change::Move(wire::MoveReplica { shard: shard.0, from: from.into(), to: to.into(), force })
        }
        Asked::Lead { shard, to } => Change::Lead(wire::LeadShard { shard: shard.0, to: to.into() }),
        Asked::Add { shard, to, force } => {
            Change::Add(wire::AddReplica { shard: shard.0, to: to.into(), force })
        }
        Asked::Remove { shard, from } => {
            Change::Remove(wire::RemoveReplica { shard: shard.0, from: from.into() })
        }
    };
    let (database, table) = (m.database, m.table);
    wire::OperateRequest { database, table, reason: m.reason, dry_run: m.dry_run, change: Some(change) }
}

/// What was begun.
pub fn begun_from_wire(w: wire::OperateResponse) -> Result<Begun, Malformed> {
    let operations = w.operations.into_iter().map(operation_from_wire).collect::<Result<_, _>>()?;
    let skipped = w.skipped.into_iter().map(|s| Skipped { shard: ShardId(s.shard), why: s.why }).collect();
    Ok(Begun { operations, skipped })
}

/// See [`begun_from_wire`].
pub fn begun_to_wire(m: Begun) -> wire::OperateResponse {
    let operations = m.operations.into_iter().map(operation_to_wire).collect();
    let skipped =
        m.skipped.into_iter().map(|s| wire::SkippedShard { shard: s.shard.0, why: s.why }).collect();
    wire::OperateResponse { operations, skipped }
}

/// One operation.
pub fn operation_from_wire(w: wire::OperationStatus) -> Result<OperationStatus, Malformed> {
    let record = w.operation.ok_or_else(|| Malformed::absent("operation"))?;
    let operation =
        operation_wire::from_wire(record).map_err(|(field, reason)| Malformed::new(field, reason))?;
    // A code of a newer daemon is none here; its words are.
    let waiting_code = w.waiting_code.as_deref().and_then(WaitCode::from_code);
    Ok(OperationStatus { operation, table_name: w.table_name, waiting_for: w.waiting_for, waiting_code })
}

/// See [`operation_from_wire`].
pub fn operation_to_wire(m: OperationStatus) -> wire::OperationStatus {
    wire::OperationStatus {
        operation: Some(operation_wire::to_wire(&m.operation)),
        table_name: m.table_name,
        waiting_for: m.waiting_for,
        waiting_code: m.waiting_code.map(|code| code.code().to_owned()),
    }
}
