//! Another daemon, or this one: the same verbs by mailbox, by gRPC, or simulated.
//!
//! A daemon that does not lead passes control requests on to the one that does.

pub mod convert;
pub mod deadline;
pub mod grpc;
pub mod local;
pub mod sim;
pub mod status;

use crate::error::{Code, Coded, Retry, ranges};
use crate::model::balance::{ApplyPlan, BalanceStatus, PlanRunStatus, SetBalance};
use crate::model::control::{Begun, NodeStatus, Operate, OperationStatus};
use crate::model::control::{ClusterStatus, CreateTable, DropTable, InsertRows, Inserted, TableStatus};
use crate::model::control::{DdlAsked, ParsedDdl};
use crate::model::hold::{HoldStatus, SetHold};
use crate::model::observed::Heartbeat;
use crate::model::parts::{Piece, WantedParts};
use crate::model::plan::ClusterPlan;
use crate::model::routes::TableRoutes;
use crate::model::shared::Shared;
use crate::model::verify::{Digest, DigestAsked, PartitionVerdict};
use crate::model::{NodeId, NodeState, OperationId, TableName, Term};
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::sync::Arc;

/// Why a control request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The request itself is wrong; says what and where.
    #[error("{0}")]
    Invalid(String),
    /// No such table, node or shard.
    #[error("{0} does not exist")]
    NotFound(String),
    /// It is there already.
    #[error("{0} exists")]
    Exists(String),
    /// The cluster's state forbids it (too few nodes for the replicas, a drop under way).
    #[error("{0}")]
    Refused(String),
    /// No daemon leads at the moment, or this one leads no more.
    #[error("no daemon leads the cluster at the moment: {0}")]
    NoLeader(String),
    /// A part that is needed (metadata store, ClickHouse, Kafka, a peer) does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Sent, and no answer in time.
    #[error("no answer in time, it may still be carried out: {0}")]
    OutcomeUnknown(String),
    /// What was asked for is paused or frozen.
    #[error("{0}")]
    Held(String),
    /// The world that the request speaks of is no more; says what has changed.
    #[error("{0}")]
    Stale(String),
    /// Sent, and no answer in time; but what was sent has a name, and may be sent again under it.
    #[error("it is not known whether the batch is in: {0}")]
    BatchUnknown(String),
    /// A bug: an actor died or an answer made no sense.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// What a daemon answers that has not read the metadata store yet: it does not know what there is.
    pub fn unread() -> Self {
        Self::Unavailable("not ready: the metadata store has not been read yet".to_owned())
    }

    /// The same of an insert whose batch has a name.
    #[must_use]
    pub fn of_batch(self) -> Self {
        match self {
            Self::OutcomeUnknown(text) => Self::BatchUnknown(text),
            other => other,
        }
    }
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::CONTROL
                + match self {
                    Self::Invalid(_) => 1,
                    Self::NotFound(_) => 2,
                    Self::Exists(_) => 3,
                    Self::Refused(_) => 4,
                    Self::NoLeader(_) => 5,
                    Self::Unavailable(_) => 6,
                    Self::OutcomeUnknown(_) => 7,
                    Self::Internal(_) => 8,
                    Self::Held(_) => 9,
                    Self::Stale(_) => 10,
                    Self::BatchUnknown(_) => 11,
                },
        )
    }

    fn retry(&self) -> Retry {
        match self {
            // Twice is once.
            Self::NoLeader(_) | Self::Unavailable(_) | Self::BatchUnknown(_) => Retry::Safe,
            Self::OutcomeUnknown(_) => Retry::OutcomeUnknown,
            _ => Retry::Never,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "correct the request",
            Self::NotFound(_) => "check the name with `converthouse table list` or `node list`",
            Self::Exists(_) => "choose another name, or drop it first",
            Self::Refused(_) => "see `converthouse status` for the cluster's state",
            Self::NoLeader(_) => "try again in a few seconds; see `converthouse status`",
            Self::Unavailable(_) => "bring the named part back and try again",
            Self::OutcomeUnknown(_) => "look with `converthouse table show` before trying again",
            Self::BatchUnknown(_) => "repeat the insert with the same batch name: it goes in once",
            Self::Held(_) => "wait for its end, or release it with `converthouse hold release`",
            Self::Stale(_) => "make a new plan with `converthouse plan`",
            Self::Internal(_) => "report this as a bug, with the daemon's log",
        }
    }
}

/// What is shown of a cluster as a list.
///
/// # Errors
/// Whoever told it knows nothing yet: an empty list would say that there is nothing.
pub fn known(status: ClusterStatus) -> Result<ClusterStatus, Error> {
    if status.unread { Err(Error::unread()) } else { Ok(status) }
}

/// A certificate and its key, PEM, and who is trusted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of those who sign the other side's.
    pub ca_pem: String,
    /// One's own, shown to a side that asks for one.
    pub identity: Option<TlsIdentity>,
}

/// One's own certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// Chain, PEM.
    pub certificate_pem: String,
    /// Private key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsIdentity(***)")
    }
}

/// The leader's answer to a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartbeatReply {
    /// The leader's term.
    pub term: Term,
}

/// What a daemon does for others. Requests that only the leader can answer are passed on to it.
#[async_trait]
pub trait Daemon: Send + Sync + 'static {
    /// Makes a table; returns once its records are written. `table_status` tells when it is usable.
    async fn create_table(&self, request: CreateTable) -> Result<TableStatus, Error>;
    /// Begins to drop a table.
    async fn drop_table(&self, request: DropTable) -> Result<(), Error>;
    /// One table.
    async fn table_status(&self, name: TableName) -> Result<TableStatus, Error>;
    /// Everything.
    async fn cluster_status(&self) -> Result<ClusterStatus, Error>;
    /// A table's routes as published; answered by any daemon from its own view.
    async fn routes(&self, name: TableName) -> Result<TableRoutes, Error>;
    /// The same, and again with every new epoch.
    async fn watch_routes(
        &self,
        name: TableName,
    ) -> Result<BoxStream<'static, Result<TableRoutes, Error>>, Error>;
    /// Puts rows into their topics; answered by any daemon.
    async fn insert(&self, request: InsertRows) -> Result<Inserted, Error>;
    /// Begins operations; returns once they are recorded. What of a request for all shards could not be is told.
    async fn operate(&self, request: Operate) -> Result<Begun, Error>;
    /// Has an operation undone, or finished where it cannot be undone any more.
    async fn cancel_operation(&self, id: OperationId) -> Result<OperationStatus, Error>;
    /// All operations, open and lately ended, oldest first.
    async fn operations(&self) -> Result<Vec<OperationStatus>, Error>;
    /// Says what is wanted of a node.
    async fn set_node_state(&self, node: NodeId, state: NodeState) -> Result<NodeStatus, Error>;
    /// Forgets a node whose daemon is gone. Refused while it still holds anything, naming what.
    async fn remove_node(&self, node: NodeId) -> Result<(), Error>;
    /// Makes a plan for the whole cluster; changes nothing.
    async fn make_plan(&self) -> Result<ClusterPlan, Error>;
    /// Has exactly that plan carried out; [`Error::Stale`] if its world is no more.
    async fn apply_plan(&self, request: ApplyPlan) -> Result<PlanRunStatus, Error>;
    /// Begins no further step of the plan that is being carried out.
    async fn cancel_plan(&self) -> Result<PlanRunStatus, Error>;
    /// Says what the cluster may do by itself, until said otherwise.
    async fn set_balance(&self, request: SetBalance) -> Result<BalanceStatus, Error>;
    /// Pauses, freezes or releases; answers what holds now.
    async fn set_hold(&self, request: SetHold) -> Result<Vec<HoldStatus>, Error>;
    /// An agent's report. Refused with [`Error::NoLeader`] by a daemon that does not lead (never passed on).
    async fn heartbeat(&self, heartbeat: Shared<Heartbeat>) -> Result<HeartbeatReply, Error>;
    /// Has a server beside this daemon read a table that is to be made; makes nothing. [`Error::Invalid`] is the
    /// server's word on the table; every other error says nothing of it, and another daemon may be asked.
    async fn parse_ddl(&self, asked: DdlAsked) -> Result<ParsedDdl, Error>;
    /// The parts of a replica on a node beside this daemon: see
    /// [`ClickHouse::send_partition`](crate::adapters::clickhouse::ClickHouse::send_partition). What only has no such
    /// way is [`Piece::Declined`]; [`Error::Refused`] is a replica that must not be copied now in any way.
    async fn send_partition(&self, node: NodeId, wanted: WantedParts) -> Result<PieceStream, Error>;
    /// What a replica on a node beside this daemon holds of a range.
    async fn digest(&self, asked: DigestAsked) -> Result<Digest, Error>;
    /// Compares a table's replicas with each other and with its topics, so many rows a second (0: no limit); answered
    /// by any daemon. A verdict a partition, as they are found.
    async fn verify(&self, name: TableName, rows_per_s: u64) -> Result<VerdictStream, Error>;
}

/// Verdicts as they are found.
pub type VerdictStream = BoxStream<'static, Result<PartitionVerdict, Error>>;

/// Parts on their way from another daemon.
pub type PieceStream = BoxStream<'static, Result<Piece, Error>>;

/// How daemons are reached.
pub trait Peers: Send + Sync + 'static {
    /// The daemon at an address (`http://host:port`). Connects lazily; calls have deadlines of their own.
    fn daemon(&self, url: &str) -> Arc<dyn Daemon>;
}
