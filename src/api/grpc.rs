//! The gRPC server: `Control`, `Routing`, `Agent` and `Transfer` over a [`Daemon`], with health and reflection.
//!
//! Each call runs as a task of its own: a caller that goes away does not stop half of a change, and a panic is
//! that call's error, not the connection's end.

use super::around::Around;
use super::http::Readiness;
use super::{Held, Room, Stop, stop_when, until_stopped};
use crate::adapters::peers::convert::{self, Malformed};
use crate::adapters::peers::grpc::MESSAGE_BYTES_MAX;
use crate::adapters::peers::status::to_status;
use crate::adapters::peers::{Daemon, Error, Tls, deadline, known};
use crate::model::control::DdlAsked;
use crate::model::{OperationId, TableName};
use crate::wire::agent_server::{Agent, AgentServer};
use crate::wire::control_server::{Control, ControlServer};
use crate::wire::routing_server::{Routing, RoutingServer};
use crate::wire::transfer_server::{Transfer, TransferServer};
use crate::wire::{self, DESCRIPTORS};
use futures::future::Either;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

/// Between two looks at the daemon's readiness.
const READINESS_EVERY: Duration = Duration::from_millis(500);

/// Why the server could not start or go on.
#[derive(Debug, thiserror::Error)]
#[error("gRPC server: {0}")]
pub struct ServeError(String);

#[derive(Clone)]
struct Service {
    daemon: Arc<dyn Daemon>,
    stop: Stop,
}

/// Serves until `shutdown` completes; then watches end, other calls get a few seconds.
///
/// The health of each service is that it is served; the server's as a whole (the empty name) is the daemon's readiness,
/// as `/readyz` tells it.
///
/// Bodies of inserts share `room` with those that come in elsewhere.
///
/// With `tls` the server shows its identity, and with a `ca_pem` it takes only clients that show one signed by it.
pub async fn serve(
    listener: TcpListener,
    daemon: Arc<dyn Daemon>,
    tls: Option<Tls>,
    readiness: Readiness,
    room: Room,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let failed = |e: &dyn std::error::Error| ServeError(chain(e));
    let stop = stop_when(shutdown);
    let service = Service { daemon, stop: stop.clone() };
    let mut server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20);
    if let Some(tls) = tls {
        server = server.tls_config(server_tls(&tls)?).map_err(|e| failed(&e))?;
    }
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ControlServer<Service>>().await;
    health.set_serving::<RoutingServer<Service>>().await;
    health.set_serving::<AgentServer<Service>>().await;
    health.set_serving::<TransferServer<Service>>().await;
    tell_readiness(&health, &readiness).await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .map_err(|e| failed(&e))?;
    let control = ControlServer::new(service.clone())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let routing = RoutingServer::new(service.clone()).max_encoding_message_size(MESSAGE_BYTES_MAX);
    let agent = AgentServer::new(service.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let transfer = TransferServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let running = server
        .add_service(health_service)
        .add_service(reflection)
        .add_service(Around::new(control, &room))
        .add_service(Around::new(routing, &room))
        .add_service(Around::new(agent, &room))
        .add_service(Around::new(transfer, &room))
        .serve_with_incoming_shutdown(TcpIncoming::from(listener).with_nodelay(Some(true)), stop.clone());
    let told = async {
        loop {
            tokio::time::sleep(READINESS_EVERY).await;
            tell_readiness(&health, &readiness).await;
        }
    };
    let ended = until_stopped(running, stop);
    futures::pin_mut!(told, ended);
    match futures::future::select(ended, told).await {
        Either::Left((ended, _)) => ended.map_err(|e| failed(&e)),
        Either::Right((never, _)) => never,
    }
}

async fn tell_readiness(health: &HealthReporter, readiness: &Readiness) {
    let status = if readiness().is_empty() { ServingStatus::Serving } else { ServingStatus::NotServing };
    health.set_service_status("", status).await;
}

fn server_tls(tls: &Tls) -> Result<ServerTlsConfig, ServeError> {
    let Some(identity) = &tls.identity else {
        return Err(ServeError("TLS needs a certificate and a key".into()));
    };
    let identity = Identity::from_pem(&identity.certificate_pem, &identity.key_pem);
    let mut config = ServerTlsConfig::new().identity(identity);
    if !tls.ca_pem.is_empty() {
        config = config.client_ca_root(Certificate::from_pem(&tls.ca_pem));
    }
    Ok(config)
}

/// An error with its reasons: transports hide theirs.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Runs one call as a task, which knows how long the caller waits.
async fn run<T: Send + 'static>(
    work: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> Result<T, Status> {
    let ended = tokio::spawn(deadline::until(deadline::current(), work)).await;
    let outcome = ended.unwrap_or_else(|e| Err(Error::Internal(format!("the call ended early: {e}"))));
    outcome.map_err(|error| to_status(&error))
}

fn malformed(error: Malformed) -> Status {
    to_status(&error.into_request_error())
}

fn name(database: String, table: String) -> Result<TableName, Status> {
    for (field, text) in [("database", &database), ("table", &table)] {
        if text.is_empty() {
            return Err(malformed(Malformed::absent(field)));
        }
    }
    Ok(TableName { database, table })
}

#[tonic::async_trait]
impl Control for Service {
    async fn create_table(
        &self,
        request: Request<wire::CreateTableRequest>,
    ) -> Result<Response<wire::CreateTableResponse>, Status> {
        let request = convert::create_from_wire(request.into_inner()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let status = run(async move { daemon.create_table(request).await }).await?;
        Ok(Response::new(wire::CreateTableResponse { table: Some(convert::table_to_wire(status)) }))
    }

    async fn drop_table(
        &self,
        request: Request<wire::DropTableRequest>,
    ) -> Result<Response<wire::DropTableResponse>, Status> {
        let request = convert::drop_from_wire(request.into_inner());
        name(request.database.clone(), request.table.clone())?;
        let daemon = self.daemon.clone();
        run(async move { daemon.drop_table(request).await }).await?;
        Ok(Response::new(wire::DropTableResponse {}))
    }

    async fn table_status(
        &self,
        request: Request<wire::TableStatusRequest>,
    ) -> Result<Response<wire::TableStatusResponse>, Status> {
        let request = request.into_inner();
        let (daemon, name) = (self.daemon.clone(), name(request.database, request.table)?);
        let status = run(async move { daemon.table_status(name).await }).await?;
        Ok(Response::new(wire::TableStatusResponse { table: Some(convert::table_to_wire(status)) }))
    }

    async fn list_tables(
        &self,
        _: Request<wire::ListTablesRequest>,
    ) -> Result<Response<wire::ListTablesResponse>, Status> {
        let daemon = self.daemon.clone();
        let status = run(async move { known(daemon.cluster_status().await?) }).await?;
        let tables = status.tables.into_iter().map(convert::table_to_wire).collect();
        Ok(Response::new(wire::ListTablesResponse { tables }))
    }

    async fn list_nodes(
        &self,
        _: Request<wire::ListNodesRequest>,
    ) -> Result<Response<wire::ListNodesResponse>, Status> {
        let daemon = self.daemon.clone();
        let status = run(async move { known(daemon.cluster_status().await?) }).await?;
        let nodes = status.nodes.into_iter().map(convert::node_to_wire).collect();
        Ok(Response::new(wire::ListNodesResponse { nodes }))
    }

    async fn cluster_status(
        &self,
        _: Request<wire::ClusterStatusRequest>,
    ) -> Result<Response<wire::ClusterStatusResponse>, Status> {
        let daemon = self.daemon.clone();
        let status = run(async move { daemon.cluster_status().await }).await?;
        Ok(Response::new(convert::cluster_to_wire(status)))
    }

    async fn operate(
        &self,
        request: Request<wire::OperateRequest>,
    ) -> Result<Response<wire::OperateResponse>, Status> {
        let request = convert::operate_from_wire(request.into_inner()).map_err(malformed)?;
        name(request.database.clone(), request.table.clone())?;
        let daemon = self.daemon.clone();
        let begun = run(async move { daemon.operate(request).await }).await?;
        Ok(Response::new(convert::begun_to_wire(begun)))
    }

    async fn cancel_operation(
        &self,
        request: Request<wire::CancelOperationRequest>,
    ) -> Result<Response<wire::CancelOperationResponse>, Status> {
        let (daemon, id) = (self.daemon.clone(), OperationId(request.into_inner().id));
        let operation = run(async move { daemon.cancel_operation(id).await }).await?;
        let operation = Some(convert::operation_to_wire(operation));
        Ok(Response::new(wire::CancelOperationResponse { operation }))
    }

    async fn list_operations(
        &self,
        _: Request<wire::ListOperationsRequest>,
    ) -> Result<Response<wire::ListOperationsResponse>, Status> {
        let daemon = self.daemon.clone();
        let listed = run(async move { daemon.operations().await }).await?;
        let operations = listed.into_iter().map(convert::operation_to_wire).collect();
        Ok(Response::new(wire::ListOperationsResponse { operations }))
    }

    async fn set_node_state(
        &self,
        request: Request<wire::SetNodeStateRequest>,
    ) -> Result<Response<wire::SetNodeStateResponse>, Status> {
        let request = request.into_inner();
        let node = convert::node("node", &request.node).map_err(malformed)?;
        let state = convert::node_state_from_wire(request.state).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let node = run(async move { daemon.set_node_state(node, state).await }).await?;
        Ok(Response::new(wire::SetNodeStateResponse { node: Some(convert::node_to_wire(node)) }))
    }

    async fn remove_node(
        &self,
        request: Request<wire::RemoveNodeRequest>,
    ) -> Result<Response<wire::RemoveNodeResponse>, Status> {
        let node = convert::node("node", &request.into_inner().node).map_err(malformed)?;
        let daemon = self.daemon.clone();
        run(async move { daemon.remove_node(node).await }).await?;
        Ok(Response::new(wire::RemoveNodeResponse {}))
    }

    async fn make_plan(
        &self,
        _: Request<wire::MakePlanRequest>,
    ) -> Result<Response<wire::MakePlanResponse>, Status> {
        let daemon = self.daemon.clone();
        let plan = run(async move { daemon.make_plan().await }).await?;
        Ok(Response::new(wire::MakePlanResponse { plan: Some(convert::plan_to_wire(plan)) }))
    }

    async fn apply_plan(
        &self,
        request: Request<wire::ApplyPlanRequest>,
    ) -> Result<Response<wire::ApplyPlanResponse>, Status> {
        let request = convert::apply_from_wire(request.get_ref()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let begun = run(async move { daemon.apply_plan(request).await }).await?;
        Ok(Response::new(wire::ApplyPlanResponse { run: Some(convert::run_to_wire(begun)) }))
    }

    async fn cancel_plan(
        &self,
        _: Request<wire::CancelPlanRequest>,
    ) -> Result<Response<wire::CancelPlanResponse>, Status> {
        let daemon = self.daemon.clone();
        let ended = run(async move { daemon.cancel_plan().await }).await?;
        Ok(Response::new(wire::CancelPlanResponse { run: Some(convert::run_to_wire(ended)) }))
    }

    async fn set_balance(
        &self,
        request: Request<wire::SetBalanceRequest>,
    ) -> Result<Response<wire::SetBalanceResponse>, Status> {
        let request = convert::set_balance_from_wire(request.into_inner()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let balance = run(async move { daemon.set_balance(request).await }).await?;
        Ok(Response::new(wire::SetBalanceResponse { balance: Some(convert::balance_to_wire(balance)) }))
    }

    async fn set_hold(
        &self,
        request: Request<wire::SetHoldRequest>,
    ) -> Result<Response<wire::SetHoldResponse>, Status> {
        let request = convert::set_hold_from_wire(request.into_inner()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let holds = run(async move { daemon.set_hold(request).await }).await?;
        Ok(Response::new(wire::SetHoldResponse { holds: convert::holds_to_wire(holds) }))
    }

    async fn insert(
        &self,
        request: Request<wire::InsertRequest>,
    ) -> Result<Response<wire::InsertResponse>, Status> {
        let held = request.extensions().get::<Arc<Held>>().cloned();
        let request = convert::insert_from_wire(request.into_inner()).map_err(malformed)?;
        name(request.database.clone(), request.table.clone())?;
        let daemon = self.daemon.clone();
        let insert = async move {
            let inserted = daemon.insert(request).await;
            // The rows were in memory until now, whether the caller still waits or not.
            drop(held);
            inserted
        };
        let inserted = run(insert).await?;
        Ok(Response::new(wire::InsertResponse {
            rows: inserted.rows,
            partitions: inserted.partitions,
            before: inserted.before,
        }))
    }
}

#[tonic::async_trait]
impl Routing for Service {
    type WatchRoutesStream = BoxStream<'static, Result<wire::WatchRoutesResponse, Status>>;

    async fn get_routes(
        &self,
        request: Request<wire::GetRoutesRequest>,
    ) -> Result<Response<wire::GetRoutesResponse>, Status> {
        let request = request.into_inner();
        let (daemon, name) = (self.daemon.clone(), name(request.database, request.table)?);
        let routes = run(async move { daemon.routes(name).await }).await?;
        Ok(Response::new(wire::GetRoutesResponse { routes: Some(convert::routes_to_wire(routes)) }))
    }

    async fn watch_routes(
        &self,
        request: Request<wire::WatchRoutesRequest>,
    ) -> Result<Response<Self::WatchRoutesStream>, Status> {
        let request = request.into_inner();
        let (daemon, name) = (self.daemon.clone(), name(request.database, request.table)?);
        let stream = run(async move { daemon.watch_routes(name).await }).await?;
        let answer = |item: Result<_, Error>| match item {
            Ok(routes) => Ok(wire::WatchRoutesResponse { routes: Some(convert::routes_to_wire(routes)) }),
            Err(error) => Err(to_status(&error)),
        };
        // A watch has no end of its own: the daemon's stop ends it, else nothing could stop gracefully.
        Ok(Response::new(stream.map(answer).take_until(self.stop.clone()).boxed()))
    }

    async fn create_shard(
        &self,
        request: Request<wire::CreateShardRequest>,
    ) -> Result<Response<wire::CreateShardResponse>, Status> {
        let request = request.into_inner();
        let table = request.table.ok_or_else(|| malformed(Malformed::absent("table")))?;
        let here = wire::CreateTableRequest { first_node: Some(request.node), ..table };
        let create = convert::create_from_wire(here).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let status = run(async move { daemon.create_table(create).await }).await?;
        Ok(Response::new(wire::CreateShardResponse { table: Some(convert::table_to_wire(status)) }))
    }
}

#[tonic::async_trait]
impl Agent for Service {
    async fn heartbeat(
        &self,
        request: Request<wire::HeartbeatRequest>,
    ) -> Result<Response<wire::HeartbeatResponse>, Status> {
        let heartbeat = convert::heartbeat_from_wire(request.get_ref()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let reply = run(async move { daemon.heartbeat(heartbeat.into()).await }).await?;
        Ok(Response::new(wire::HeartbeatResponse { term: reply.term.0 }))
    }

    async fn parse_ddl(
        &self,
        request: Request<wire::ParseDdlRequest>,
    ) -> Result<Response<wire::ParseDdlResponse>, Status> {
        let wire::ParseDdlRequest { ddl, partition_by } = request.into_inner();
        let (daemon, asked) = (self.daemon.clone(), DdlAsked { ddl, partition_by });
        let parsed = run(async move { daemon.parse_ddl(asked).await }).await?;
        Ok(Response::new(convert::parsed_to_wire(parsed)))
    }
}

#[tonic::async_trait]
impl Transfer for Service {
    type VerifyStream = BoxStream<'static, Result<wire::VerifyResponse, Status>>;
    type SendPartitionStream = BoxStream<'static, Result<wire::SendPartitionResponse, Status>>;

    async fn send_partition(
        &self,
        request: Request<wire::SendPartitionRequest>,
    ) -> Result<Response<Self::SendPartitionStream>, Status> {
        let (node, wanted) = convert::wanted_from_wire(request.into_inner()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let pieces = run(async move { daemon.send_partition(node, wanted).await }).await?;
        let answer = |piece: Result<_, Error>| match piece {
            Ok(piece) => Ok(convert::piece_to_wire(piece)),
            Err(error) => Err(to_status(&error)),
        };
        Ok(Response::new(pieces.map(answer).take_until(self.stop.clone()).boxed()))
    }

    async fn digest(
        &self,
        request: Request<wire::DigestRequest>,
    ) -> Result<Response<wire::DigestResponse>, Status> {
        let asked = convert::digest_asked_from_wire(request.into_inner()).map_err(malformed)?;
        let daemon = self.daemon.clone();
        let digest = run(async move { daemon.digest(asked).await }).await?;
        Ok(Response::new(convert::digest_to_wire(digest)))
    }

    async fn verify(
        &self,
        request: Request<wire::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let wire::VerifyRequest { database, table, rows_per_s } = request.into_inner();
        let (daemon, name) = (self.daemon.clone(), name(database, table)?);
        let verdicts = run(async move { daemon.verify(name, rows_per_s).await }).await?;
        let answer = |verdict: Result<_, Error>| match verdict {
            Ok(verdict) => Ok(convert::verdict_to_wire(verdict)),
            Err(error) => Err(to_status(&error)),
        };
        let stop = self.stop.clone();
        // Cut short must not look like done.
        let cut = async move {
            let stopping =
                || Error::Unavailable("the daemon is stopping, and has not compared all".to_owned());
            stop.now_or_never().map(|()| Err(to_status(&stopping())))
        };
        let cut = stream::once(cut).filter_map(std::future::ready);
        Ok(Response::new(verdicts.map(answer).take_until(self.stop.clone()).chain(cut).boxed()))
    }
}
