//! An operation's record in the store.

use super::records::{DecodeError, Problem, Record, VERSION, record};
use crate::adapters::operation_wire;
use crate::model::operation::Operation;
use crate::wire;
use prost::Message;

record!(Operation, wire::OperationRecord, to_wire, from_wire);

fn to_wire(operation: &Operation) -> wire::OperationRecord {
    operation_wire::to_wire(operation)
}

fn from_wire(wire: wire::OperationRecord) -> Result<Operation, Problem> {
    operation_wire::from_wire(wire).map_err(|(field, reason)| Problem::Invalid { field, reason })
}
