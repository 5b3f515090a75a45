//! What stands under the keys: one version byte, then a protobuf record; and the model types that they become.
//!
//! Reading is strict: an unknown version, a cut-off record, an unknown enum number or a missing field is a typed
//! error that names the key. A daemon that meets one is older than who wrote it, or the store is damaged: it must
//! not guess. The wire types never leave this file.

use crate::adapters::schema_wire;
use crate::error::{Code, Coded, Retry, ranges};
use crate::model::node::{ClickHouseEndpoint, Secret};
use crate::model::table::{BatchLimits, MessageFormat, Publisher, ReplicationMode, Source, TopicLayout};
use crate::model::{Epoch, Node, NodeId, NodeState, PartitionId, PartitionRange};
use crate::model::{
    Replica, ReplicaState, Shard, ShardId, ShardState, Table, TableId, TableName, TableState,
};
use crate::wire;
use prost::Message;
use std::fmt;

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;

/// Why a value could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("record {key:?} in the metadata store cannot be read: {problem}")]
pub struct DecodeError {
    /// The record's full key.
    pub key: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No bytes at all.
    #[error("it is empty")]
    Empty,
    /// Written by a version that this one does not know.
    #[error("it has version {0}, this program reads version {VERSION}")]
    UnknownVersion(u8),
    /// Not protobuf, or cut off.
    #[error("it is damaged or cut off ({0})")]
    Damaged(String),
    /// An enum number that this version does not know.
    #[error("field {field} has the unknown number {number}")]
    UnknownEnum {
        /// Field.
        field: &'static str,
        /// What stands there.
        number: i32,
    },
    /// A field that must be there.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field whose content breaks the model's rules.
    #[error("field {field}: {reason}")]
    Invalid {
        /// Field.
        field: &'static str,
        /// The rule that it breaks.
        reason: String,
    },
}

impl Coded for DecodeError {
    fn code(&self) -> Code {
        Code(
            ranges::METADATA
                + match self.problem {
                    Problem::UnknownVersion(_) | Problem::UnknownEnum { .. } => 11,
                    _ => 12,
                },
        )
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn remedy(&self) -> &'static str {
        match self.problem {
            Problem::UnknownVersion(_) | Problem::UnknownEnum { .. } => {
                "a newer Converthouse wrote it: upgrade this daemon"
            }
            _ => "restore the metadata store from a backup, or remove the record if its table is not needed",
        }
    }
}

/// A type that is kept in the store.
pub trait Record: Sized {
    /// The value for the store.
    fn encode(&self) -> Vec<u8>;

    /// Reads a value of the store; `key` is for the error only.
    ///
    /// # Errors
    /// [`DecodeError`], with the key and what is wrong.
    fn decode(key: &str, value: &[u8]) -> Result<Self, DecodeError>;
}

/// Who leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// The node whose daemon leads.
    pub node: NodeId,
    /// That daemon's gRPC address.
    pub daemon_url: String,
}

/// A running daemon; gone with its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// The node that it serves.
    pub node: NodeId,
    /// Distinguishes one run of the daemon from the next.
    pub incarnation: u64,
    /// Its gRPC address.
    pub daemon_url: String,
}

/// Ties a model type to its wire type.
macro_rules! record {
    ($model:ty, $wire:ty, $to:ident, $from:ident) => {
        impl Record for $model {
            fn encode(&self) -> Vec<u8> {
                let wire: $wire = $to(self);
                let mut value = Vec::with_capacity(1 + wire.encoded_len());
                value.push(VERSION);
                wire.encode(&mut value).expect("a Vec grows as needed");
                value
            }

            fn decode(key: &str, value: &[u8]) -> Result<Self, DecodeError> {
                let read = || {
                    let wire = match value.split_first() {
                        None => return Err(Problem::Empty),
                        Some((&VERSION, body)) => {
                            <$wire>::decode(body).map_err(|error| Problem::Damaged(error.to_string()))?
                        }
                        Some((&other, _)) => return Err(Problem::UnknownVersion(other)),
                    };
                    $from(wire)
                };
                read().map_err(|problem| DecodeError { key: key.to_owned(), problem })
            }
        }
    };
}

pub(super) use record;

record!(Leader, wire::LeaderRecord, leader_to_wire, leader_from_wire);
record!(Live, wire::LiveRecord, live_to_wire, live_from_wire);
record!(TableId, wire::NameRecord, name_to_wire, name_from_wire);
record!(Node, wire::NodeRecord, node_to_wire, node_from_wire);
record!(Table, wire::TableRecord, table_to_wire, table_from_wire);
record!(Shard, wire::ShardRecord, shard_to_wire, shard_from_wire);

/// Ties a model enum to its wire enum, both ways, each number in one place.
macro_rules! numbers {
    ($model:ty, $wire:ty, $to:ident, $from:ident: $($variant:ident),+) => {
        fn $to(model: $model) -> i32 {
            match model {
                $(<$model>::$variant => <$wire>::$variant as i32,)+
            }
        }

        fn $from(field: &'static str, number: i32) -> Result<$model, Problem> {
            match <$wire>::try_from(number) {
                $(Ok(<$wire>::$variant) => Ok(<$model>::$variant),)+
                Ok(<$wire>::Unspecified) => Err(Problem::Missing(field)),
                Err(_) => Err(Problem::UnknownEnum { field, number }),
            }
        }
    };
}

numbers!(NodeState, wire::NodeStateRecord, node_state_to, node_state_from: Active, Cordoned, Draining);
numbers!(TableState, wire::TableStateRecord, table_state_to, table_state_from: Creating, Active, Dropping);
numbers!(
    ReplicaState, wire::ReplicaStateRecord, replica_state_to, replica_state_from: Creating, Ready, Behind, Leaving
);
numbers!(ShardState, wire::ShardStateRecord, shard_state_to, shard_state_from: Preparing, Serving, Retired);
numbers!(ReplicationMode, wire::ReplicationModeRecord, mode_to, mode_from: Log);
numbers!(TopicLayout, wire::TopicLayoutRecord, layout_to, layout_from: TopicPerPartition, OneTopic);

fn format_to(format: MessageFormat) -> i32 {
    let wire = match format {
        MessageFormat::JSONEachRow => wire::MessageFormatRecord::JsonEachRow,
        MessageFormat::CSV => wire::MessageFormatRecord::Csv,
        MessageFormat::TSV => wire::MessageFormatRecord::Tsv,
    };
    wire as i32
}

fn format_from(field: &'static str, number: i32) -> Result<MessageFormat, Problem> {
    match wire::MessageFormatRecord::try_from(number) {
        Ok(wire::MessageFormatRecord::JsonEachRow) => Ok(MessageFormat::JSONEachRow),
        Ok(wire::MessageFormatRecord::Csv) => Ok(MessageFormat::CSV),
        Ok(wire::MessageFormatRecord::Tsv) => Ok(MessageFormat::TSV),
        Ok(wire::MessageFormatRecord::Unspecified) => Err(Problem::Missing(field)),
        Err(_) => Err(Problem::UnknownEnum { field, number }),
    }
}

pub(super) fn invalid(field: &'static str, reason: impl fmt::Display) -> Problem {
    Problem::Invalid { field, reason: reason.to_string() }
}

pub(super) fn id<T: std::str::FromStr<Err: fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<T, Problem> {
    if text.is_empty() {
        return Err(Problem::Missing(field));
    }
    text.parse().map_err(|error: T::Err| invalid(field, error))
}

/// `None` for an empty text.
fn optional<T: std::str::FromStr<Err: fmt::Display>>(
    field: &'static str,
    text: &str,
) -> Result<Option<T>, Problem> {
    if text.is_empty() { Ok(None) } else { id(field, text).map(Some) }
}

/// `None` for 0: no topology has that number.
fn epoch(number: u64) -> Option<Epoch> {
    (number > 0).then_some(Epoch(number))
}

fn range(lo: u32, hi: u32) -> Result<PartitionRange, Problem> {
    PartitionRange::new(lo, hi).ok_or_else(|| invalid("lo, hi", format!("[{lo}, {hi}) is empty")))
}

fn leader_to_wire(leader: &Leader) -> wire::LeaderRecord {
    wire::LeaderRecord { node: leader.node.to_string(), daemon_url: leader.daemon_url.clone() }
}

fn leader_from_wire(wire: wire::LeaderRecord) -> Result<Leader, Problem> {
    Ok(Leader { node: id("node", &wire.node)?, daemon_url: wire.daemon_url })
}

fn live_to_wire(live: &Live) -> wire::LiveRecord {
    let (node, daemon_url) = (live.node.to_string(), live.daemon_url.clone());
    wire::LiveRecord { node, incarnation: live.incarnation, daemon_url }
}

fn live_from_wire(wire: wire::LiveRecord) -> Result<Live, Problem> {
    let node = id("node", &wire.node)?;
    Ok(Live { node, incarnation: wire.incarnation, daemon_url: wire.daemon_url })
}

fn name_to_wire(table: &TableId) -> wire::NameRecord {
    wire::NameRecord { table: table.to_string() }
}

fn name_from_wire(wire: wire::NameRecord) -> Result<TableId, Problem> {
    id("table", &wire.table)
}

fn node_to_wire(node: &Node) -> wire::NodeRecord {
    let endpoint = &node.clickhouse;
    wire::NodeRecord {
        id: node.id.to_string(),
        labels: node.labels.clone(),
        capacity_bytes: node.capacity_bytes,
        weight_milli: node.weight_milli,
        state: node_state_to(node.state),
        clickhouse: Some(wire::EndpointRecord {
            host: endpoint.host.clone(),
            port: endpoint.port.into(),
            secure: endpoint.secure,
            user: endpoint.user.clone(),
            password: endpoint.password.expose().to_owned(),
        }),
        daemon_url: node.daemon_url.clone(),
    }
}

fn node_from_wire(wire: wire::NodeRecord) -> Result<Node, Problem> {
    let endpoint = wire.clickhouse.ok_or(Problem::Missing("clickhouse"))?;
    let port = endpoint.port.try_into().map_err(|_| invalid("clickhouse.port", "above 65535"))?;
    Ok(Node {
        id: id("id", &wire.id)?,
        labels: wire.labels,
        capacity_bytes: wire.capacity_bytes,
        weight_milli: wire.weight_milli,
        state: node_state_from("state", wire.state)?,
        clickhouse: ClickHouseEndpoint {
            host: endpoint.host,
            port,
            secure: endpoint.secure,
            user: endpoint.user,
            password: Secret::new(endpoint.password),
        },
        daemon_url: wire.daemon_url,
    })
}

fn table_to_wire(table: &Table) -> wire::TableRecord {
    wire::TableRecord {
        id: table.id.to_string(),
        database: table.name.database.clone(),
        table: table.name.table.clone(),
        state: table_state_to(table.state),
        schema: Some(schema_wire::to_wire(&table.schema)),
        ddl: table.ddl.clone(),
        partitions: table.partitions,
        replicas: table.replicas,
        partition_by: table.partition_by.clone(),
        mode: mode_to(table.mode),
        source: Some(source_to_wire(&table.source)),
        epoch: table.epoch.0,
        next_shard: table.next_shard,
        origin_offsets: table
            .origin_offsets
            .iter()
            .map(|(partition, offset)| (partition.0, *offset))
            .collect(),
        delete_topics: table.delete_topics,
        published_by: table.published_by.iter().map(|(from, by)| (from.0, by.0)).collect(),
    }
}

fn table_from_wire(wire: wire::TableRecord) -> Result<Table, Problem> {
    let origin = wire.origin_offsets.into_iter().map(|(partition, offset)| (PartitionId(partition), offset));
    let origin: std::collections::BTreeMap<PartitionId, i64> = origin.collect();
    Ok(Table {
        id: id("id", &wire.id)?,
        name: TableName { database: wire.database, table: wire.table },
        state: table_state_from("state", wire.state)?,
        schema: schema_wire::from_wire(wire.schema.ok_or(Problem::Missing("schema"))?),
        ddl: wire.ddl,
        partitions: wire.partitions,
        replicas: wire.replicas,
        partition_by: wire.partition_by,
        mode: mode_from("mode", wire.mode)?,
        source: source_from_wire(wire.source.ok_or(Problem::Missing("source"))?)?,
        epoch: Epoch(wire.epoch),
        next_shard: wire.next_shard,
        origin_offsets: origin.into(),
        delete_topics: wire.delete_topics,
        published_by: wire.published_by.into_iter().map(|(from, by)| (Epoch(from), Publisher(by))).collect(),
    })
}

fn source_to_wire(source: &Source) -> wire::SourceRecord {
    wire::SourceRecord {
        topic_prefix: source.topic_prefix.clone(),
        layout: layout_to(source.layout),
        format: format_to(source.format),
        format_settings: source.format_settings.clone(),
        batch_rows_max: source.batch.rows_max,
        batch_bytes_max: source.batch.bytes_max,
        batch_age_max_ms: source.batch.age_max_ms,
    }
}

fn source_from_wire(wire: wire::SourceRecord) -> Result<Source, Problem> {
    Ok(Source {
        topic_prefix: wire.topic_prefix,
        layout: layout_from("source.layout", wire.layout)?,
        format: format_from("source.format", wire.format)?,
        format_settings: wire.format_settings,
        batch: BatchLimits {
            rows_max: wire.batch_rows_max,
            bytes_max: wire.batch_bytes_max,
            age_max_ms: wire.batch_age_max_ms,
        },
    })
}

fn shard_to_wire(shard: &Shard) -> wire::ShardRecord {
    let replica = |replica: &Replica| wire::ReplicaRecord {
        node: replica.node.to_string(),
        state: replica_state_to(replica.state),
        copy_from: replica.copy_from.as_ref().map(NodeId::to_string).unwrap_or_default(),
        left_at: replica.left_at.map_or(0, |epoch| epoch.0),
        since: replica.since.0,
    };
    wire::ShardRecord {
        table: shard.table.to_string(),
        id: shard.id.0,
        epoch: shard.epoch.0,
        lo: shard.range.lo(),
        hi: shard.range.hi(),
        replicas: shard.replicas.iter().map(replica).collect(),
        leader: shard.leader.as_ref().map(NodeId::to_string).unwrap_or_default(),
        state: shard_state_to(shard.state),
        parents: shard.parents.iter().map(|parent| parent.0).collect(),
        retired_at: shard.retired_at.map_or(0, |epoch| epoch.0),
        ancestors: shard.ancestors.iter().map(|ancestor| ancestor.0).collect(),
    }
}

fn shard_from_wire(wire: wire::ShardRecord) -> Result<Shard, Problem> {
    let replica = |replica: &wire::ReplicaRecord| {
        let node = id("replicas.node", &replica.node)?;
        let state = replica_state_from("replicas.state", replica.state)?;
        let copy_from = optional("replicas.copy_from", &replica.copy_from)?;
        let since = Epoch(replica.since);
        Ok(Replica { node, state, copy_from, left_at: epoch(replica.left_at), since })
    };
    // Records of versions that could not split say nothing: they serve.
    let state = match wire.state {
        0 => ShardState::Serving,
        number => shard_state_from("state", number)?,
    };
    Ok(Shard {
        table: id("table", &wire.table)?,
        id: ShardId(wire.id),
        epoch: Epoch(wire.epoch),
        range: range(wire.lo, wire.hi)?,
        replicas: wire.replicas.iter().map(replica).collect::<Result<_, Problem>>()?,
        leader: optional("leader", &wire.leader)?,
        state,
        parents: wire.parents.into_iter().map(ShardId).collect(),
        retired_at: epoch(wire.retired_at),
        ancestors: wire.ancestors.into_iter().map(ShardId).collect(),
    })
}

#[cfg(test)]
#[path = "records_tests.rs"]
mod tests;
