//! Every statement that we send to a server, as data. [`sql::render`](super::sql::render) is the one place where
//! they become text, with fixed questions about system tables of [`survey`](super::survey). Only the demo, which shows
//! what a user would type, has SQL of its own.

use super::RemoteReplica;
use crate::model::table::{Column, MessageFormat, Schema};
use crate::model::{PartitionId, TableName};

/// One statement. Names and literals are unquoted here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Statement<'a> {
    /// Version and uptime.
    Server,
    /// Total and free bytes of the disk that holds new parts.
    Disk,
    /// Names of all databases.
    Databases,
    /// `CREATE DATABASE IF NOT EXISTS`.
    CreateDatabase(&'a str),
    /// `ATTACH DATABASE IF NOT EXISTS`: loads what there is of it, and makes an empty one of nothing.
    AttachDatabase(&'a str),
    /// `DETACH DATABASE IF EXISTS`: the server forgets it until it is attached.
    DetachDatabase(&'a str),
    /// `DROP DATABASE IF EXISTS`, waiting until its tables are out of use.
    DropDatabase(&'a str),
    /// Names of a database's tables.
    Tables(&'a str),
    /// How the server describes a table; no row if there is none.
    Table(&'a TableName),
    /// A table's columns, in order.
    Columns(&'a TableName),
    /// The user's own statement, under our name.
    CreateUserTable {
        /// Our name for it.
        name: &'a TableName,
        /// What stood behind the user's name for it.
        definition: &'a str,
    },
    /// A table with the user's columns only, as the schema says: to prove that the schema says everything.
    CreatePlain {
        /// Name.
        name: &'a TableName,
        /// The user's table.
        schema: &'a Schema,
    },
    /// The local table of a replica: hidden columns, user's columns, guard.
    CreateLocal {
        /// Name.
        name: &'a TableName,
        /// The user's table.
        schema: &'a Schema,
    },
    /// The table without rows that gates stand on.
    CreateGateSource {
        /// Replica database.
        database: &'a str,
        /// The user's table; only the columns matter.
        schema: &'a Schema,
    },
    /// A gate: a view through which inserts reach the local table. Not `IF NOT EXISTS`: a number is used once.
    CreateGate {
        /// Replica database.
        database: &'a str,
        /// The user's table; only the columns matter.
        schema: &'a Schema,
        /// The gate's number.
        number: u64,
    },
    /// A gate that lets nothing through: it keeps the number from being used again.
    CreateClosedGate {
        /// Replica database.
        database: &'a str,
        /// The gate's number.
        number: u64,
    },
    /// A view that answers nothing of interest, to see whether the server can make anything.
    CreateProbe(&'a TableName),
    /// Takes up the folder of a table that the server does not know.
    AttachTable {
        /// The table's name.
        name: &'a TableName,
        /// What the server itself said of such a table behind its name.
        definition: &'a str,
    },
    /// Gives a table another name that is free.
    Rename {
        /// What it is called.
        from: &'a TableName,
        /// What it is to be called.
        to: &'a TableName,
    },
    /// ClickHouse's partition, its id, name and rows of every active part of a table.
    Parts(&'a TableName),
    /// Removes all parts of a ClickHouse partition, waiting for merges; no error if there are none.
    DropPartition {
        /// Table.
        name: &'a TableName,
        /// As in `system.parts`.
        partition_id: &'a str,
    },
    /// Puts the parts that `source` has of a ClickHouse partition in place of those that the table has, as hard links.
    ReplacePartition {
        /// Table.
        name: &'a TableName,
        /// As in `system.parts`.
        partition_id: &'a str,
        /// Another table of this server with the same stored columns and keys.
        source: &'a TableName,
    },
    /// Reads one partition of a replica on another server into a table. Holds a password.
    CopyRows {
        /// Table.
        into: &'a TableName,
        /// The columns to take, hidden ones too.
        columns: &'a [String],
        /// Where from.
        source: &'a RemoteReplica,
        /// Which partition.
        partition: PartitionId,
    },
    /// Bytes, rows and parts of a replica on another server by ClickHouse partition. Holds a password.
    RemoteSizes(&'a RemoteReplica),
    /// Where the server's disks begin and of what kind each is, that of the configured `path` first.
    DataRoots,
    /// A table's folders.
    DataPaths(&'a TableName),
    /// Where each of the server's disks begins, its size and what is free of it; sizes of 0 where it does not tell.
    DiskSpaces,
    /// Ids of a table's mutations, those that are done too, as far as the server remembers them.
    Mutations(&'a TableName),
    /// How many mutations of a table are not done.
    PendingMutations(&'a TableName),
    /// The same of a replica on another server. Holds a password.
    RemoteMutations(&'a RemoteReplica),
    /// Whether the server may merge parts of a table. It forgets that one may not when it starts anew.
    Merges {
        /// Table.
        name: &'a TableName,
        /// Whether.
        allowed: bool,
    },
    /// Hard links of a ClickHouse partition's parts, under a name.
    FreezePartition {
        /// Table.
        name: &'a TableName,
        /// As in `system.parts`.
        partition_id: &'a str,
        /// The name.
        frozen: &'a str,
    },
    /// Takes up a part that lies in the table's folder for detached ones.
    AttachPart {
        /// Table.
        name: &'a TableName,
        /// The part.
        part: &'a str,
    },
    /// Ids of the queries that users started and that run.
    UserQueries,
    /// `DROP TABLE IF EXISTS`, waiting until it is out of use.
    DropTable(&'a TableName),
    /// Asks the server to stop every query whose id begins so.
    KillQueries(&'a str),
    /// How many queries run whose id begins so.
    RunningQueries(&'a str),
    /// The head of an insert; rows follow.
    Insert {
        /// Into what.
        name: &'a TableName,
        /// Column list; none for JSON, which names its own.
        columns: &'a [String],
        /// How the rows are written.
        format: MessageFormat,
    },
    /// A table of this session alone, with the user's columns.
    CreateTemporary {
        /// Name.
        table: &'a str,
        /// The user's table; only the columns matter.
        schema: &'a Schema,
    },
    /// The head of an insert into a session's table.
    InsertTemporary {
        /// Name.
        table: &'a str,
        /// Column list; none for JSON.
        columns: &'a [String],
        /// How the rows are written.
        format: MessageFormat,
    },
    /// Nothing but the type of an expression, beside a column so that an aggregate is an error.
    TypeOf {
        /// A session's table.
        table: &'a str,
        /// The user's expression.
        expression: &'a str,
        /// Any column of it.
        beside: &'a str,
    },
    /// The expression mod `partitions` for each row, in order.
    PartitionsOf {
        /// A session's table.
        table: &'a str,
        /// The user's expression.
        expression: &'a str,
        /// `P`.
        partitions: u32,
    },
    /// Drops a session's table.
    DropTemporary(&'a str),
    /// Whether a partition of a replica holds rows, and the highest offset.
    HighestOffset {
        /// Replica database.
        database: &'a str,
        /// Partition.
        partition: PartitionId,
    },
    /// Offset and row number of what a partition holds from an offset on.
    Holdings {
        /// Replica database.
        database: &'a str,
        /// Partition.
        partition: PartitionId,
        /// First offset of interest.
        from: u64,
    },
    /// Rows, distinct rows, messages, lowest and highest offset and a hash of a range of a partition's offsets.
    Digest {
        /// Replica database.
        database: &'a str,
        /// Partition.
        partition: PartitionId,
        /// First offset.
        from: u64,
        /// One past the last.
        below: u64,
        /// The columns that count, in an order of their own.
        columns: &'a [Column],
    },
    /// Bytes, rows and parts of every local table.
    Sizes,
    /// The user-facing table.
    CreateDistributed {
        /// Name.
        name: &'a TableName,
        /// The user's name for it: the same, or another while it is being replaced.
        user: &'a TableName,
        /// The user's table; only the columns matter.
        schema: &'a Schema,
        /// Cluster.
        cluster: &'a str,
        /// Sharding key.
        sharding_key: &'a str,
    },
    /// The table whose rows go to the daemon.
    CreateInsertTable {
        /// Name.
        name: &'a TableName,
        /// The user's table; only the columns matter.
        schema: &'a Schema,
        /// The daemon.
        url: &'a str,
    },
    /// Puts `fresh` in the place of `name`, in one step where the server can; afterwards `fresh` is the old one
    /// where [`exchange`](super::versions::Capabilities::exchange) is there, else `retired` is.
    Replace {
        /// The name that stays.
        name: &'a TableName,
        /// The new table.
        fresh: &'a TableName,
        /// Where the old one goes on servers without an exchange.
        retired: &'a TableName,
    },
    /// `SYSTEM RELOAD CONFIG`.
    ReloadConfig,
    /// A cluster's replicas.
    Cluster(&'a str),
    /// What a trace is made of.
    Survey(super::survey::Question),
}
