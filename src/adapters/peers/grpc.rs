//! Other daemons by gRPC.
//!
//! Connections are made at the first call and again when lost. Every call has a deadline: that of the caller on whose
//! behalf it is made ([`deadline`]), else one of its own. One that passes is [`Error::OutcomeUnknown`] for what changes
//! something and [`Error::Unavailable`] for what does not.
//! Nothing is retried here: who calls knows whether it may.

use super::deadline::{self, Telling};
use super::status::{Effect, from_status, is_expired};
use super::{Daemon, Error, HeartbeatReply, Peers, PieceStream, Tls, VerdictStream, convert};
use crate::model::balance::{ApplyPlan, BalanceStatus, PlanRunStatus, SetBalance};
use crate::model::control::{Begun, NodeStatus, Operate, OperationStatus};
use crate::model::control::{ClusterStatus, CreateTable, DropTable, InsertRows, Inserted, TableStatus};
use crate::model::control::{DdlAsked, ParsedDdl};
use crate::model::hold::{HoldStatus, SetHold};
use crate::model::observed::Heartbeat;
use crate::model::parts::WantedParts;
use crate::model::plan::ClusterPlan;
use crate::model::routes::TableRoutes;
use crate::model::shared::Shared;
use crate::model::verify::{Digest, DigestAsked};
use crate::model::{NodeId, NodeState, OperationId, TableName, Term};
use crate::wire;
use crate::wire::agent_client::AgentClient;
use crate::wire::control_client::ControlClient;
use crate::wire::routing_client::RoutingClient;
use crate::wire::transfer_client::TransferClient;
use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Response, Status};

/// Largest body of one insert.
pub const INSERT_BYTES_MAX: usize = 64 << 20;
/// Largest message either way: an insert's body and its names.
pub const MESSAGE_BYTES_MAX: usize = INSERT_BYTES_MAX + (1 << 20);
/// What may be on its way to us in one answer: some pieces of a file that is copied. A connection has room for twice as
/// many answers as copies take, so that others come through.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// A piece of a file comes in a frame or two, rather than in dozens: each is a read of its own.
const FRAME_BYTES_MAX: u32 = 512 << 10;

/// For one slice of a comparison.
const DIGEST_TIMEOUT_MS: u64 = 330_000;

/// How daemons are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// For making a connection.
    pub connect_timeout_ms: u64,
    /// For what only asks.
    pub read_timeout_ms: u64,
    /// For what changes something; creating a table of many topics takes its time.
    pub write_timeout_ms: u64,
    /// For a heartbeat.
    pub heartbeat_timeout_ms: u64,
    /// Needed for `https://` addresses.
    pub tls: Option<Tls>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout_ms: 3_000,
            read_timeout_ms: 10_000,
            write_timeout_ms: 120_000,
            heartbeat_timeout_ms: 5_000,
            tls: None,
        }
    }
}

/// Reaches daemons by gRPC; one connection an address.
pub struct GrpcPeers {
    options: Options,
    daemons: Mutex<BTreeMap<String, Arc<dyn Daemon>>>,
}

impl GrpcPeers {
    /// Connects to nothing yet.
    pub fn new(options: Options) -> Self {
        Self { options, daemons: Mutex::new(BTreeMap::new()) }
    }
}

impl Peers for GrpcPeers {
    fn daemon(&self, url: &str) -> Arc<dyn Daemon> {
        let mut daemons = self.daemons.lock().expect("nothing panics while it is held");
        let make = || -> Arc<dyn Daemon> { Arc::new(GrpcDaemon::new(url, self.options.clone())) };
        daemons.entry(url.to_owned()).or_insert_with(make).clone()
    }
}

/// One daemon.
pub struct GrpcDaemon {
    url: String,
    options: Options,
    /// Made at the first call, since it must be made inside a runtime.
    channel: OnceLock<Result<Channel, Error>>,
}

impl GrpcDaemon {
    /// The daemon at `http(s)://host:port`; a bad address is an error of each call.
    pub fn new(url: &str, options: Options) -> Self {
        Self { url: url.to_owned(), options, channel: OnceLock::new() }
    }

    fn channel(&self) -> Result<Channel, Error> {
        self.channel.get_or_init(|| connect(&self.url, &self.options)).clone()
    }

    fn control(&self) -> Result<ControlClient<InterceptedService<Channel, Telling>>, Error> {
        let client = ControlClient::with_interceptor(self.channel()?, Telling);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn routing(&self) -> Result<RoutingClient<Channel>, Error> {
        Ok(RoutingClient::new(self.channel()?).max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    fn transfer(&self) -> Result<TransferClient<Channel>, Error> {
        let client = TransferClient::new(self.channel()?);
        Ok(client.max_decoding_message_size(MESSAGE_BYTES_MAX).max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    async fn call<T>(
        &self,
        effect: Effect,
        time: Time,
        call: impl Future<Output = Result<Response<T>, Status>>,
    ) -> Result<T, Error> {
        let Time { until, given_ms } = time;
        match timeout_at(until, deadline::until(Some(until), call)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if !is_expired(&status) => Err(from_status(&status, &self.url, effect)),
            Ok(Err(_)) | Err(_) => {
                let late = format!("the daemon at {} did not answer within {given_ms} ms", self.url);
                Err(match effect {
                    Effect::Read => Error::Unavailable(late),
                    Effect::Write => Error::OutcomeUnknown(late),
                })
            }
        }
    }

    async fn read<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        self.call(Effect::Read, Time::of_caller_or(self.options.read_timeout_ms), call).await
    }

    async fn write<T>(&self, call: impl Future<Output = Result<Response<T>, Status>>) -> Result<T, Error> {
        self.call(Effect::Write, Time::of_caller_or(self.options.write_timeout_ms), call).await
    }
}

/// How long a call may take.
struct Time {
    until: Instant,
    given_ms: u64,
}

impl Time {
    fn of(given_ms: u64) -> Self {
        Self { until: Instant::now() + Duration::from_millis(given_ms), given_ms }
    }

    /// What is left to the caller on whose behalf it is made; else so long.
    fn of_caller_or(own_ms: u64) -> Self {
        let Some(until) = deadline::current() else { return Self::of(own_ms) };
        let left = until.saturating_duration_since(Instant::now());
        Self { until, given_ms: u64::try_from(left.as_millis()).unwrap_or(u64::MAX) }
    }
}

fn connect(url: &str, options: &Options) -> Result<Channel, Error> {
    let bad = |reason: String| Error::Invalid(format!("{url:?} is no daemon's address: {reason}"));
    let secure = url.starts_with("https://");
    if !secure && !url.starts_with("http://") {
        return Err(bad("it must be http://host:port or https://host:port".into()));
    }
    let mut endpoint = Endpoint::from_shared(url.to_owned())
        .map_err(|e| bad(e.to_string()))?
        .connect_timeout(Duration::from_millis(options.connect_timeout_ms))
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(8 * STREAM_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX);
    if secure {
        let Some(tls) = &options.tls else {
            return Err(bad("https needs the certificates that are trusted".into()));
        };
        let mut config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&tls.ca_pem));
        if let Some(identity) = &tls.identity {
            config = config.identity(Identity::from_pem(&identity.certificate_pem, &identity.key_pem));
        }
        endpoint = endpoint.tls_config(config).map_err(|e| bad(e.to_string()))?;
    }
    Ok(endpoint.connect_lazy())
}

/// The statuses inside answers are messages of their own in protobuf, so they may be absent.
fn present<T>(answer: Option<T>, field: &str) -> Result<T, Error> {
    answer.ok_or_else(|| convert::Malformed::absent(field).into_answer_error())
}

fn table(answer: Option<wire::TableStatus>) -> Result<TableStatus, Error> {
    convert::table_from_wire(&present(answer, "table")?).map_err(convert::Malformed::into_answer_error)
}

fn operations(answer: Vec<wire::OperationStatus>) -> Result<Vec<OperationStatus>, Error> {
    let read = answer.into_iter().map(convert::operation_from_wire).collect::<Result<_, _>>();
    read.map_err(convert::Malformed::into_answer_error)
}

fn run(answer: Option<wire::PlanRunStatus>) -> Result<PlanRunStatus, Error> {
    convert::run_from_wire(&present(answer, "run")?).map_err(convert::Malformed::into_answer_error)
}

fn routes(answer: Option<wire::Routes>) -> Result<TableRoutes, Error> {
    convert::routes_from_wire(&present(answer, "routes")?).map_err(convert::Malformed::into_answer_error)
}

#[async_trait]
impl Daemon for GrpcDaemon {
    async fn create_table(&self, request: CreateTable) -> Result<TableStatus, Error> {
        let mut client = self.control()?;
        table(self.write(client.create_table(convert::create_to_wire(request))).await?.table)
    }

    async fn drop_table(&self, request: DropTable) -> Result<(), Error> {
        let mut client = self.control()?;
        self.write(client.drop_table(convert::drop_to_wire(request))).await.map(|_| ())
    }

    async fn table_status(&self, name: TableName) -> Result<TableStatus, Error> {
        let mut client = self.control()?;
        let request = wire::TableStatusRequest { database: name.database, table: name.table };
        table(self.read(client.table_status(request)).await?.table)
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let mut client = self.control()?;
        let answer = self.read(client.cluster_status(wire::ClusterStatusRequest {})).await?;
        convert::cluster_from_wire(&answer).map_err(convert::Malformed::into_answer_error)
    }

    async fn routes(&self, name: TableName) -> Result<TableRoutes, Error> {
        let mut client = self.routing()?;
        let request = wire::GetRoutesRequest { database: name.database, table: name.table };
        routes(self.read(client.get_routes(request)).await?.routes)
    }

    async fn watch_routes(
        &self,
        name: TableName,
    ) -> Result<BoxStream<'static, Result<TableRoutes, Error>>, Error> {
        let mut client = self.routing()?;
        let request = wire::WatchRoutesRequest { database: name.database, table: name.table };
        let stream = self.read(client.watch_routes(request)).await?;
        let url = self.url.clone();
        let read = move |item: Result<wire::WatchRoutesResponse, Status>| match item {
            Ok(answer) => routes(answer.routes),
            Err(status) => Err(from_status(&status, &url, Effect::Read)),
        };
        Ok(stream.map(read).boxed())
    }

    async fn insert(&self, request: InsertRows) -> Result<Inserted, Error> {
        let mut client = self.control()?;
        if request.body.len() > INSERT_BYTES_MAX {
            let (bytes, limit) = (request.body.len(), INSERT_BYTES_MAX);
            return Err(Error::Invalid(format!("{bytes} bytes in one insert; at most {limit} are taken")));
        }
        let named = request.batch.is_some();
        let answer = self.write(client.insert(convert::insert_to_wire(request))).await;
        let answer = answer.map_err(|error| if named { error.of_batch() } else { error })?;
        Ok(Inserted { rows: answer.rows, partitions: answer.partitions, before: answer.before })
    }

    async fn operate(&self, request: Operate) -> Result<Begun, Error> {
        let mut client = self.control()?;
        let answer = self.write(client.operate(convert::operate_to_wire(request))).await?;
        convert::begun_from_wire(answer).map_err(convert::Malformed::into_answer_error)
    }

    async fn cancel_operation(&self, id: OperationId) -> Result<OperationStatus, Error> {
        let mut client = self.control()?;
        let answer = self.write(client.cancel_operation(wire::CancelOperationRequest { id: id.0 })).await?;
        let operation = present(answer.operation, "operation")?;
        convert::operation_from_wire(operation).map_err(convert::Malformed::into_answer_error)
    }

    async fn operations(&self) -> Result<Vec<OperationStatus>, Error> {
        let mut client = self.control()?;
        operations(self.read(client.list_operations(wire::ListOperationsRequest {})).await?.operations)
    }

    async fn set_node_state(&self, node: NodeId, state: NodeState) -> Result<NodeStatus, Error> {
        let mut client = self.control()?;
        let state = convert::node_state_to_wire(state);
        let request = wire::SetNodeStateRequest { node: node.into(), state };
        let answer = present(self.write(client.set_node_state(request)).await?.node, "node")?;
        convert::node_from_wire(&answer).map_err(convert::Malformed::into_answer_error)
    }

    async fn remove_node(&self, node: NodeId) -> Result<(), Error> {
        let mut client = self.control()?;
        let request = wire::RemoveNodeRequest { node: node.into() };
        self.write(client.remove_node(request)).await.map(|_| ())
    }

    async fn make_plan(&self) -> Result<ClusterPlan, Error> {
        let mut client = self.control()?;
        let plan = self.read(client.make_plan(wire::MakePlanRequest {})).await?.plan;
        convert::plan_from_wire(&present(plan, "plan")?).map_err(convert::Malformed::into_answer_error)
    }

    async fn apply_plan(&self, request: ApplyPlan) -> Result<PlanRunStatus, Error> {
        let mut client = self.control()?;
        run(self.write(client.apply_plan(convert::apply_to_wire(request))).await?.run)
    }

    async fn cancel_plan(&self) -> Result<PlanRunStatus, Error> {
        let mut client = self.control()?;
        run(self.write(client.cancel_plan(wire::CancelPlanRequest {})).await?.run)
    }

    async fn set_balance(&self, request: SetBalance) -> Result<BalanceStatus, Error> {
        let mut client = self.control()?;
        let answer = self.write(client.set_balance(convert::set_balance_to_wire(request))).await?;
        let balance = present(answer.balance, "balance")?;
        convert::balance_from_wire(&balance).map_err(convert::Malformed::into_answer_error)
    }

    async fn set_hold(&self, request: SetHold) -> Result<Vec<HoldStatus>, Error> {
        let mut client = self.control()?;
        let answer = self.write(client.set_hold(convert::set_hold_to_wire(request))).await?;
        convert::holds_from_wire(&answer.holds).map_err(convert::Malformed::into_answer_error)
    }

    async fn heartbeat(&self, heartbeat: Shared<Heartbeat>) -> Result<HeartbeatReply, Error> {
        let mut client = AgentClient::new(self.channel()?).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let call = client.heartbeat(convert::heartbeat_to_wire(&heartbeat));
        let answer = self.call(Effect::Read, Time::of(self.options.heartbeat_timeout_ms), call).await?;
        Ok(HeartbeatReply { term: Term(answer.term) })
    }

    async fn parse_ddl(&self, asked: DdlAsked) -> Result<ParsedDdl, Error> {
        let mut client = AgentClient::new(self.channel()?).max_encoding_message_size(MESSAGE_BYTES_MAX);
        let DdlAsked { ddl, partition_by } = asked;
        let answer = self.read(client.parse_ddl(wire::ParseDdlRequest { ddl, partition_by })).await?;
        convert::parsed_from_wire(answer).map_err(convert::Malformed::into_answer_error)
    }

    async fn send_partition(&self, node: NodeId, wanted: WantedParts) -> Result<PieceStream, Error> {
        let mut client = self.transfer()?;
        // Freezing many parts takes its time, as a change does.
        let request = convert::wanted_to_wire(&node, wanted);
        let call = client.send_partition(request);
        let stream = self.call(Effect::Read, Time::of(self.options.write_timeout_ms), call).await?;
        let url = self.url.clone();
        let read = move |piece: Result<_, Status>| match piece {
            Ok(piece) => convert::piece_from_wire(piece).map_err(convert::Malformed::into_answer_error),
            Err(status) => Err(from_status(&status, &url, Effect::Read)),
        };
        Ok(stream.map(read).boxed())
    }

    async fn digest(&self, asked: DigestAsked) -> Result<Digest, Error> {
        let mut client = self.transfer()?;
        // It reads millions of rows, slowly.
        let call = client.digest(convert::digest_asked_to_wire(asked));
        let answer = self.call(Effect::Read, Time::of(DIGEST_TIMEOUT_MS), call).await?;
        Ok(convert::digest_from_wire(&answer))
    }

    async fn verify(&self, name: TableName, rows_per_s: u64) -> Result<VerdictStream, Error> {
        let mut client = self.transfer()?;
        let request = wire::VerifyRequest { database: name.database, table: name.table, rows_per_s };
        let stream = self.read(client.verify(request)).await?;
        let url = self.url.clone();
        let read = move |verdict: Result<_, Status>| match verdict {
            Ok(verdict) => convert::verdict_from_wire(verdict).map_err(convert::Malformed::into_answer_error),
            Err(status) => Err(from_status(&status, &url, Effect::Read)),
        };
        Ok(stream.map(read).boxed())
    }
}
