//! One ClickHouse server, as the daemon beside it uses it. Verbs are ours; SQL lives in `sql` alone.
//!
//! # Contract (`conformance` runs on real servers and on the simulated one)
//! - Every verb may be called twice: creating what is there and removing what is not is no error; creating over
//!   something of the same name but another shape is [`Error::Conflict`].
//! - Every verb ends by its deadline; a write that did not answer by then is [`Retry::OutcomeUnknown`].
//! - [`ClickHouse::insert`] is one block: each ClickHouse partition of it is in the table wholly or not at all.
//! - After [`ClickHouse::renew_gate`] returns, no insert through an earlier gate of that replica runs or will
//!   ever take effect, whoever sent it (FENCED). This is what makes "look, then insert the rest" exact.
//! - A replica whose rows come from elsewhere is *seeded*: filled in a staging table of one nonce, which then
//!   becomes the local table in one step. So a local table that stands is whole. Whoever seeds under another
//!   nonce touches nothing of it, and of two that finish the first one stands. What an earlier verb of a nonce left
//!   running on the server takes no effect any more once the next one of that nonce has begun its work.

pub mod conformance;
mod ddl;
mod digest;
mod elsewhere;
mod errcode;
mod expressions;
mod faulty;
mod frame;
mod gates;
mod guard;
pub mod http;
mod parts;
mod real;
mod renames;
mod scratch;
mod seed;
mod sim;
mod sim_ddl;
mod sim_judge;
mod sim_pace;
mod sim_parts;
mod sim_power;
mod sim_refusals;
mod sim_rows;
mod sim_seed;
mod sim_world;
mod spoilt;
mod sql;
mod staging;
mod statement;
mod survey;
mod tsv;
mod user_tables;
mod versions;

pub use ddl::engine_allowed;
pub use faulty::FaultyClickHouse;
pub use gates::{Opened, Shut};
pub use parts::ByParts;
pub use real::HttpClickHouse;
pub use sim::{InsertFault, SimClickHouse};
pub use sim_rows::HeldRows;
pub use sim_seed::SimServers;
pub use survey::{ClusterLine, Held, Survey, Written};
pub use versions::Capabilities;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::node::Secret;
use crate::model::parts::{HeldFile, Piece, WantedParts};
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Schema};
use crate::model::verify::Digest;
use crate::model::{PartitionId, PartitionRange, TableName};
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerInfo {
    /// `SELECT version()`.
    pub version: String,
    /// Seconds since it started: a smaller one than before means a restart.
    pub uptime_s: u64,
    /// Size of the disk that holds its data; 0 where the server does not tell.
    pub disk_total_bytes: u64,
    /// What is free of it.
    pub disk_free_bytes: u64,
}

/// A shard's replica database as we make it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaTables {
    /// `names::replica_database(..)`.
    pub database: String,
    /// The user's table, as parsed.
    pub schema: Schema,
}

/// A batch of rows on its way into a replica.
#[derive(Debug, Clone)]
pub struct Insert {
    /// Replica database.
    pub database: String,
    /// The gate to go through.
    pub gate: u64,
    /// Column list for CSV and TSV: hidden columns first, then the user's insertable ones. JSON names its own.
    pub columns: Vec<String>,
    /// How `body` is written; each row carries the hidden columns (see `actors::replica::encode`).
    pub format: MessageFormat,
    /// Parsing settings of the table.
    pub format_settings: BTreeMap<String, String>,
    /// Rows in the body, for block size settings; one insert is one block.
    pub rows: u32,
    /// Rows that cannot be read are left out, instead of refusing all of them; which ones is not told. Each row must
    /// be a line of its own, and a message's only one.
    pub skip_bad_rows: bool,
    /// The rows.
    pub body: Bytes,
    /// Unique; shows in the server's process list and query log.
    pub query_id: String,
    /// After this the outcome is unknown.
    pub deadline_ms: u64,
}

/// A message's rows that a replica holds: `(offset, row)` pairs, sorted, from some offset on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Holdings {
    /// The highest offset that the partition holds at all.
    pub max_offset: Option<i64>,
    /// Every `(offset, row)` with offset >= the one asked for, sorted.
    pub rows: Vec<(i64, u32)>,
}

/// One line of `system.clusters`, for reading a published topology back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClusterReplica {
    /// From 1.
    pub shard_num: u32,
    /// Weight.
    pub shard_weight: u32,
    /// From 1.
    pub replica_num: u32,
    /// As written in the file.
    pub host_name: String,
    /// Native port.
    pub port: u16,
    /// Empty if none.
    pub default_database: String,
}

/// The user-facing tables of a logical table on one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributedTable {
    /// The user's name for it.
    pub name: TableName,
    /// User's columns.
    pub schema: Schema,
    /// Cluster to ask.
    pub cluster: String,
    /// Sharding key: the partition expression.
    pub sharding_key: String,
    /// Where `INSERT INTO <name>__insert` sends its rows: the daemon's HTTP address; `None` makes no such table.
    pub insert_url: Option<String>,
}

/// Sizes of one replica database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicaSizes {
    /// Compressed bytes on disk, active parts.
    pub bytes: u64,
    /// Rows in active parts.
    pub rows: u64,
    /// Active parts.
    pub parts: u64,
}

/// A replica on another server, as ClickHouse reaches it there: native protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteReplica {
    /// Name or address of the host.
    pub host: String,
    /// Native port.
    pub port: u16,
    /// Empty for ClickHouse's default user.
    pub user: String,
    /// Its password.
    pub password: Secret,
    /// TLS between the servers.
    pub secure: bool,
    /// The replica database there.
    pub database: String,
}

/// What a copy by a select may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyLimits {
    /// After this it has failed.
    pub deadline_ms: u64,
    /// Bytes a second; 0 is no limit.
    pub bytes_per_s: u64,
}

/// A partition's parts on their way.
pub type Pieces = BoxStream<'static, Result<Piece, Error>>;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No connection; nothing was sent.
    #[error("ClickHouse at {url} cannot be reached: {reason}")]
    Unreachable {
        /// Server.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// Sent, and no answer in time or the connection broke.
    #[error("ClickHouse did not say what became of {what}: {reason}")]
    OutcomeUnknown {
        /// The verb.
        what: String,
        /// What happened to the connection.
        reason: String,
    },
    /// The server refused user or password.
    #[error("ClickHouse refused the credentials: {0}")]
    Denied(String),
    /// The rows do not fit the table: not the server's fault, nor a passing one. Where parts are computed from rows as
    /// they are written, some of an insert's parts may be in.
    #[error("ClickHouse cannot take these rows (code {code}): {message}")]
    BadRows {
        /// Server's own error code.
        code: u32,
        /// Server's text, shortened.
        message: String,
    },
    /// The server refuses to write for a reason that may pass (disk full, too many parts, memory, read-only).
    #[error("ClickHouse refuses for now (code {code}): {message}")]
    Overloaded {
        /// Server's own error code.
        code: u32,
        /// Server's text, shortened.
        message: String,
    },
    /// The statement is wrong for this server: the user's DDL or expression, or a missing feature.
    #[error("ClickHouse refuses the statement (code {code}): {message}")]
    Refused {
        /// Server's own error code.
        code: u32,
        /// Server's text, shortened.
        message: String,
    },
    /// The gate (or the replica's database) is not there (any more).
    #[error("{0} does not exist on the server")]
    Missing(String),
    /// Something of that name but another shape is there.
    #[error("{0} exists on the server and is not what it should be")]
    Conflict(String),
    /// A file that a failed `CREATE` of that name has left on the server is in the way of another.
    #[error("{0} cannot be made: a file that an earlier, failed CREATE has left on the server is in the way")]
    Spoilt(String),
    /// Parts cannot be sent or taken as files here: see [`parts`](self::parts). Rows can be copied all the same.
    #[error("no copy by parts: {0}")]
    NotByParts(String),
    /// A table has mutations that are not done: a copy of it would be without them.
    #[error("{0} has mutations that are not done, which a copy would lack")]
    Mutating(String),
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::CLICKHOUSE
                + match self {
                    Self::Unreachable { .. } => 1,
                    Self::OutcomeUnknown { .. } => 2,
                    Self::Denied(_) => 3,
                    Self::BadRows { .. } => 4,
                    Self::Overloaded { .. } => 5,
                    Self::Refused { .. } => 6,
                    Self::Missing(_) => 7,
                    Self::Conflict(_) => 8,
                    Self::Spoilt(_) => 9,
                    Self::NotByParts(_) => 10,
                    Self::Mutating(_) => 11,
                },
        )
    }

    fn retry(&self) -> Retry {
        match self {
            Self::Unreachable { .. } | Self::Overloaded { .. } | Self::Mutating(_) => Retry::Safe,
            Self::OutcomeUnknown { .. } => Retry::OutcomeUnknown,
            Self::Denied(_)
            | Self::BadRows { .. }
            | Self::Refused { .. }
            | Self::Missing(_)
            | Self::Conflict(_)
            | Self::Spoilt(_)
            | Self::NotByParts(_) => Retry::Never,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => {
                "check that the server runs and that [[node]] clickhouse_url names it"
            }
            Self::OutcomeUnknown { .. } => "nothing to do: the daemon looks what happened and goes on",
            Self::Denied(_) => "check clickhouse_user and clickhouse_password of the node",
            Self::BadRows { .. } => "see the dead-letter topic: each message there carries its error",
            Self::Overloaded { .. } => "free disk, or let merges catch up; ingest goes on by itself",
            Self::Refused { .. } => "correct the statement that the message quotes",
            Self::Missing(_) => "nothing to do: the daemon makes it again",
            Self::Conflict(_) => {
                "move the table of that name away; the daemon does not overwrite what is not its own"
            }
            Self::NotByParts(_) => {
                "nothing to do: rows are copied by a SELECT; see [transfer] for what files need"
            }
            Self::Mutating(_) => {
                "let the mutation end, or KILL MUTATION: see system.mutations; the copy goes on by itself"
            }
            Self::Spoilt(_) => "restart clickhouse-server: it removes such files when it starts",
        }
    }
}

/// One server.
#[async_trait]
pub trait ClickHouse: Send + Sync + 'static {
    /// Version, uptime, disk. Also the probe for "is it up".
    async fn server_info(&self) -> Result<ServerInfo, Error>;

    /// Lets ClickHouse parse the user's `CREATE TABLE` in a scratch database named with `nonce`, reads the result
    /// back and removes it. Leaves nothing behind, also when it fails; also removes scratch left by a crash.
    async fn parse_ddl(&self, ddl: &str, nonce: u64) -> Result<(TableName, Schema), Error>;

    /// The type of an expression over the table's columns, such as `UInt64`.
    async fn type_of(&self, schema: &Schema, expression: &str) -> Result<String, Error>;

    /// The partition expression's value mod `partitions` for every row of `body`, in order, by the server's own
    /// functions. This is how an insert through the daemon finds each row's topic.
    async fn partitions_of(
        &self,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error>;

    /// Makes database, local table and the gate's source.
    async fn create_replica(&self, replica: &ReplicaTables) -> Result<(), Error>;

    /// Whether the replica's local table stands: only then has it been made, or seeded to the end.
    async fn has_local(&self, database: &str) -> Result<bool, Error>;

    /// Makes database, gate source and the empty staging table of that nonce, defined as the local table would be;
    /// removes staging tables of other nonces. One of this nonce that is there is kept as it is.
    /// [`Error::Conflict`] if the local table is there already.
    async fn begin_seed(&self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error>;

    /// Makes the staging table hold exactly the rows that `source`'s local table, on the same server, has in the
    /// partitions of `range`, without copying them. Rows of other partitions stay as they are.
    ///
    /// May be called while the source takes inserts, to have most done early: each call brings over what differs.
    /// Once [`ClickHouse::close_gates`] of the source has returned, the result is exact. Returns how many ClickHouse
    /// partitions it had to touch. Missing if staging table or source's local table is not there.
    async fn link_partitions(
        &self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<u64, Error>;

    /// Makes the staging table hold exactly the rows that a replica on another server has of one partition at one
    /// moment during the call. Returns how many. What fails, or is not copied by its deadline, may be tried
    /// again; nothing that it left on its way takes effect later. Missing if the staging table is not there; a
    /// source that cannot be read, or has no such table, is [`Error::Overloaded`].
    async fn copy_partition(
        &self,
        database: &str,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        limits: CopyLimits,
    ) -> Result<u64, Error>;

    /// What a replica on another server holds by partition: its active parts.
    async fn remote_sizes(
        &self,
        source: &RemoteReplica,
    ) -> Result<BTreeMap<PartitionId, ReplicaSizes>, Error>;

    /// The parts that a replica here has of one partition, as files, for the daemon of another server: every row that
    /// was there at the call, and maybe some that came since. Nothing of the replica changes; what is made on the way
    /// goes with the stream. [`Error::NotByParts`] says why there is no such way, [`Error::Mutating`] why not now.
    async fn send_partition(&self, wanted: WantedParts) -> Result<Pieces, Error>;

    /// The files that earlier calls of [`ClickHouse::take_partition`] got whole of that source (`from` names it, the
    /// same at each call) and partition, under whatever nonce. [`Error::NotByParts`] if none can be taken here.
    async fn files_held(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
    ) -> Result<Vec<HeldFile>, Error>;

    /// Makes the staging table hold exactly the rows of what another server sends of one partition; `held` is what
    /// was said to it to be here. Returns how many. What fails may be tried again, and does not send again what came
    /// whole. Given up in the middle, it stops taking and changes nothing.
    async fn take_partition(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
        held: Vec<HeldFile>,
        pieces: Pieces,
    ) -> Result<u64, Error>;

    /// Removes what copies by parts that do not run any more have left on the server's disks, and nothing else.
    async fn sweep_parts(&self) -> Result<(), Error>;

    /// Bytes that may still come to a staging table beside what copies leave free of its disks, with what earlier calls
    /// of [`ClickHouse::take_partition`] have brought of them. `None` where the server does not tell.
    async fn room(&self, database: &str, nonce: u64) -> Result<Option<u64>, Error>;

    /// Returns when all that the server has written until now is on its disks: a power failure takes none of it.
    /// [`Error::NotByParts`] where the daemon does not find them.
    async fn sync_disks(&self) -> Result<(), Error>;

    /// The staging table becomes the local table. If there is one already, all staging tables are removed and it
    /// is no error: somebody else finished. Missing if there is neither. Tells whether this nonce's table is the one
    /// that stands; one that may have become so in an earlier call counts as somebody else's.
    async fn finish_seed(&self, database: &str, nonce: u64) -> Result<bool, Error>;

    /// Removes the database and all in it.
    async fn drop_replica(&self, database: &str) -> Result<(), Error>;

    /// Every database whose name is one of ours (`names::parse_replica_database`).
    /// If nothing has changed since it was last asked, it may be the same place in memory.
    async fn replica_databases(&self) -> Result<Shared<Vec<String>>, Error>;

    /// Closes every gate of the replica, waits for the inserts inside (killing them first), and opens a new one.
    /// Returns its number, greater than any before; also another than any that a replica of that name had which was
    /// dropped since: an insert that is late may be later than the drop.
    async fn open_gate(&self, database: &str) -> Result<Opened, Error>;
    /// The same, for its number.
    async fn renew_gate(&self, database: &str) -> Result<u64, Error> {
        self.open_gate(database).await.map(|opened| opened.number)
    }

    /// Closes every gate of the replica and waits for the inserts inside; opens none. A later
    /// [`ClickHouse::renew_gate`] gives a number greater than any before. No error if there is no such database.
    /// Returns what [`ClickHouse::newest_gate`] goes on to say until somebody opens one again.
    async fn shut_gates(&self, database: &str) -> Result<Shut, Error>;
    /// The same, for the number.
    async fn close_gates(&self, database: &str) -> Result<u64, Error> {
        self.shut_gates(database).await.map(|shut| shut.number)
    }
    /// The number of the newest gate, open or closed; 0 if there is none.
    async fn newest_gate(&self, database: &str) -> Result<u64, Error>;

    /// One batch through a gate. One of no rows changes nothing, and fails as any other where the server takes none.
    async fn insert(&self, insert: Insert) -> Result<(), Error>;

    /// What one partition of a replica holds from `from` on.
    async fn holdings(&self, database: &str, partition: PartitionId, from: i64) -> Result<Holdings, Error>;

    /// What a partition of a replica holds within a range of offsets, in numbers that are the same for the same rows
    /// on any server; columns that each server computes by itself do not count. Slow rather than a burden.
    async fn digest(
        &self,
        database: &str,
        partition: PartitionId,
        from: i64,
        below: i64,
    ) -> Result<Digest, Error>;

    /// Bytes, rows and parts by replica database.
    async fn sizes(&self) -> Result<Shared<BTreeMap<String, ReplicaSizes>>, Error>;

    /// Makes the `Distributed` table under the user's name (and the insert table), replacing one of ours whose
    /// columns, cluster or key differ. One that is not ours is [`Error::Conflict`].
    async fn create_distributed(&self, table: &DistributedTable) -> Result<(), Error>;

    /// Removes the user-facing tables, if they are ours.
    async fn drop_distributed(&self, name: &TableName, cluster: &str) -> Result<(), Error>;

    /// Makes the server read its configuration again.
    async fn reload_config(&self) -> Result<(), Error>;

    /// A cluster as the server sees it; empty if it knows none of that name.
    async fn cluster(&self, name: &str) -> Result<Arc<Vec<ClusterReplica>>, Error>;

    /// Ids of the queries that users started on this server and that still run: none of ours, none that another
    /// server sent here as part of its own.
    async fn running_queries(&self) -> Result<BTreeSet<String>, Error>;
}
