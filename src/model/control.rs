//! What is asked of a daemon and what it answers: the control requests, before any wire format.

use super::balance::BalanceStatus;
use super::batch::BatchName;
use super::hold::HoldStatus;
use super::ids::{Epoch, NodeId, PartitionId, ShardId, TableId};
use super::node::NodeState;
use super::observed::{Seeding, Stall};
use super::operation::{Operation, WaitCode};
use super::range::PartitionRange;
use super::table::{BatchLimits, MessageFormat, Schema, ShardState, TableName, TableState, TopicLayout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `table create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateTable {
    /// The user's ordinary ClickHouse `CREATE TABLE`.
    pub ddl: String,
    /// `P`.
    pub partitions: u32,
    /// Shards to begin with.
    pub shards: u32,
    /// Replicas a shard.
    pub replicas: u32,
    /// Integer expression; row's partition = value mod `P`.
    pub partition_by: String,
    /// Topic prefix; `None` is `<db>.<table>`.
    pub topic_prefix: Option<String>,
    /// How partitions lie on Kafka.
    pub layout: TopicLayout,
    /// Copies of a new topic on brokers; -1 is the brokers' default.
    pub topic_replication: i32,
    /// How rows are written in messages.
    pub format: MessageFormat,
    /// Server settings for parsing.
    pub format_settings: BTreeMap<String, String>,
    /// When an insert is due.
    pub batch: BatchLimits,
    /// Nodes that the first shards' first replicas go to, else placement's choice (for a ClickHouse that calls).
    pub first_node: Option<NodeId>,
    /// Check everything, change nothing.
    pub dry_run: bool,
    /// The table is there with the same definition: answer it rather than refuse.
    pub if_not_exists: bool,
}

/// What a server is to say of a table that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DdlAsked {
    /// The user's ordinary ClickHouse `CREATE TABLE`.
    pub ddl: String,
    /// The user's partition expression.
    pub partition_by: String,
}

/// What it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsedDdl {
    /// The table's name.
    pub name: TableName,
    /// The table.
    pub schema: Schema,
    /// The partition expression's type, or why the server refuses it.
    pub partition_by: Result<String, String>,
}

/// `table drop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropTable {
    /// `db.table` as the user says it; see [`resolve`](crate::model::TableName).
    pub database: String,
    /// Table.
    pub table: String,
    /// Also delete its topics.
    pub delete_topics: bool,
    /// No error if there is none.
    pub if_exists: bool,
}

/// One replica, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Where.
    pub node: NodeId,
    /// `creating`, `ready`, `leader`, `down`.
    pub state: String,
    /// Messages not yet taken; `None` if its node does not report.
    pub lag: Option<u64>,
    /// Compressed bytes.
    pub bytes: u64,
    /// Rows.
    pub rows: u64,
    /// Messages in the dead-letter topic since the daemon started.
    pub dead_letters: u64,
    /// Partitions that do not move on, and why.
    pub stalls: BTreeMap<PartitionId, Stall>,
    /// Why it is not ready, if known.
    pub problem: Option<String>,
}

/// One shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardStatus {
    /// Number.
    pub id: ShardId,
    /// Version.
    pub epoch: Epoch,
    /// Partitions.
    pub range: PartitionRange,
    /// Messages that one replica has and another lacks, over the partitions; `None` unless two report.
    pub spread: Option<u64>,
    /// `serving`, or what it is on its way to or from.
    pub state: ShardState,
    /// Leader, if any.
    pub leader: Option<NodeId>,
    /// Leader that placement prefers.
    pub preferred_leader: Option<NodeId>,
    /// Copies.
    pub replicas: Vec<ReplicaStatus>,
}

/// One table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableStatus {
    /// Identity.
    pub id: TableId,
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// Life.
    pub state: TableState,
    /// Published topology.
    pub epoch: Epoch,
    /// `P`.
    pub partitions: u32,
    /// Wanted replicas a shard.
    pub replicas: u32,
    /// Partition expression.
    pub partition_by: String,
    /// `remote_servers` cluster.
    pub cluster: String,
    /// Topic prefix.
    pub topic_prefix: String,
    /// How rows are written.
    pub format: MessageFormat,
    /// How old a batch grows before it is inserted, on the node that lets it grow oldest; `None` if none reports.
    pub batch_age_ms: Option<u64>,
    /// The user's DDL.
    pub ddl: String,
    /// Shards in range order.
    pub shards: Vec<ShardStatus>,
    /// Newest epoch that each reporting node has loaded.
    pub acknowledged: BTreeMap<NodeId, Epoch>,
    /// Every shard has a ready replica and every live node has loaded the newest epoch.
    pub usable: bool,
    /// Usable, and every wanted replica is ready. Of a table that is being dropped: every live node has let go of it,
    /// and its topics are gone if they were to be.
    pub complete: bool,
    /// What keeps it from being complete, one line each.
    pub waiting_for: Vec<String>,
    /// Pauses and freezes that concern it.
    pub holds: Vec<HoldStatus>,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Name.
    pub id: NodeId,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// What the operator wants of it.
    pub state: NodeState,
    /// Its daemon holds a lease.
    pub live: bool,
    /// Its ClickHouse answered the last probe; `None` if nothing was reported to this leader yet.
    pub clickhouse_up: Option<bool>,
    /// Version.
    pub clickhouse_version: String,
    /// `host:port` of the native protocol.
    pub clickhouse: String,
    /// Daemon's gRPC address.
    pub daemon_url: String,
    /// Replicas assigned.
    pub replicas: u32,
    /// Shards led.
    pub leaders: u32,
    /// Bytes held.
    pub bytes: u64,
    /// Disk.
    pub disk_total_bytes: u64,
    /// Free of it.
    pub disk_free_bytes: u64,
}

/// `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// Cluster name.
    pub cluster: String,
    /// Node whose daemon leads the cluster, if one does.
    pub leader: Option<NodeId>,
    /// Its term.
    pub term: i64,
    /// Nodes.
    pub nodes: Vec<NodeStatus>,
    /// Tables.
    pub tables: Vec<TableStatus>,
    /// Everything fine; else `problems` says what is not.
    pub healthy: bool,
    /// One line each.
    pub problems: Vec<String>,
    /// How balancing stands.
    pub balance: BalanceStatus,
    /// Pauses and freezes in force.
    pub holds: Vec<HoldStatus>,
    /// Whoever answers has not read the metadata store yet: that there is no table says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unread: bool,
}

/// Rows for a table, by way of the daemon (C5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InsertRows {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// How `body` is written.
    pub format: MessageFormat,
    /// The rows.
    pub body: bytes::Bytes,
    /// Names them: they go in whole or not at all, and once, however often they are sent.
    pub batch: Option<BatchName>,
}

/// What became of them: all are in their topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inserted {
    /// Rows sent.
    pub rows: u64,
    /// Topics they went to.
    pub partitions: u32,
    /// A batch of that name was in before: nothing was sent now.
    #[serde(default)]
    pub before: bool,
}

/// A change of a table's shards, as asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Asked {
    /// Splits a shard, in the middle of its partitions unless a cut is given.
    Split {
        /// Which; `None`: every shard that has more than one partition.
        shard: Option<ShardId>,
        /// First partition of the right half.
        cut: Option<u32>,
        /// Without a cut: where the halves have taken the most equal numbers of messages, rather than in the
        /// middle.
        #[serde(default)]
        by_bytes: bool,
    },
    /// Merges two neighbours.
    Merge {
        /// One.
        left: ShardId,
        /// The one right above it.
        right: ShardId,
    },
    /// Moves a replica.
    Move {
        /// Whose.
        shard: ShardId,
        /// Where it is.
        from: NodeId,
        /// Where it goes.
        to: NodeId,
        /// Also where its zone or rack has a copy already, or its disk would be filled above the watermark.
        #[serde(default)]
        force: bool,
    },
    /// Has another replica lead, and prefers it from now on.
    Lead {
        /// Whose.
        shard: ShardId,
        /// Who.
        to: NodeId,
    },
    /// Makes a further replica.
    Add {
        /// Whose.
        shard: ShardId,
        /// Where.
        to: NodeId,
        /// As for a move.
        #[serde(default)]
        force: bool,
    },
    /// Takes away a replica, of which there are more than the table wants.
    Remove {
        /// Whose.
        shard: ShardId,
        /// Where.
        from: NodeId,
    },
}

/// `table split` and its like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operate {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// What.
    pub asked: Asked,
    /// Why, for those who look later.
    pub reason: String,
    /// Check everything, change nothing.
    pub dry_run: bool,
}

/// What a request for operations came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Begun {
    /// What was begun.
    pub operations: Vec<OperationStatus>,
    /// What was not, of a request for all shards.
    pub skipped: Vec<Skipped>,
}

/// A shard that a request for all shards has left as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Which.
    pub shard: ShardId,
    /// Why, for people.
    pub why: String,
}

/// One operation, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationStatus {
    /// The record.
    #[serde(flatten)]
    pub operation: Operation,
    /// Its table's name, if the table is still there.
    pub table_name: Option<String>,
    /// What an open operation waits for; `None` if it is at work, over, or nothing is known yet.
    pub waiting_for: Option<String>,
    /// The same as a code.
    pub waiting_code: Option<WaitCode>,
    /// How long it took, or has taken so far, by the leader's clock.
    pub took_ms: u64,
    /// How far the copy is that it waits for.
    pub copy: Option<Seeding>,
}

impl OperationStatus {
    /// What the record says.
    pub fn of(operation: Operation, table_name: Option<String>) -> Self {
        let took_ms = operation.ended_unix_ms.saturating_sub(operation.started_unix_ms);
        Self { operation, table_name, waiting_for: None, waiting_code: None, took_ms, copy: None }
    }
}
