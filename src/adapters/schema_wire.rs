//! A table's definition on the wire: the same message in the store's records and between daemons.

use crate::model::table::{Column, Schema};
use crate::wire;

/// A schema for the wire.
pub(super) fn to_wire(schema: &Schema) -> wire::SchemaRecord {
    let column = |column: &Column| wire::ColumnRecord {
        name: column.name.clone(),
        data_type: column.data_type.clone(),
        default_kind: column.default_kind.clone(),
        default_expression: column.default_expression.clone(),
        codec: column.codec.clone(),
    };
    wire::SchemaRecord {
        columns: schema.columns.iter().map(column).collect(),
        engine: schema.engine.clone(),
        engine_arguments: schema.engine_arguments.clone(),
        partition_key: schema.partition_key.clone(),
        sorting_key: schema.sorting_key.clone(),
        primary_key: schema.primary_key.clone(),
        sampling_key: schema.sampling_key.clone(),
        ttl: schema.ttl.clone(),
        settings: schema.settings.clone(),
    }
}

/// See [`to_wire`].
pub(super) fn from_wire(wire: wire::SchemaRecord) -> Schema {
    let column = |column: wire::ColumnRecord| Column {
        name: column.name,
        data_type: column.data_type,
        default_kind: column.default_kind,
        default_expression: column.default_expression,
        codec: column.codec,
    };
    Schema {
        columns: wire.columns.into_iter().map(column).collect(),
        engine: wire.engine,
        engine_arguments: wire.engine_arguments,
        partition_key: wire.partition_key,
        sorting_key: wire.sorting_key,
        primary_key: wire.primary_key,
        sampling_key: wire.sampling_key,
        ttl: wire.ttl,
        settings: wire.settings,
    }
}
