//! The daemon's own verbs, for gRPC, HTTP and the other daemons: answered here, or passed on to whoever leads.

use super::leader::steer::{Apply, Balance, Brake, CancelPlan, PlanAsked};
use super::leader::{
    Begin, Cancel, ClusterAsked, Create, Drop, OperationsAsked, RemoveNode, SetNodeState, TableAsked,
    TakeHeartbeat, parse, status,
};
use super::leadership::Seat;
use super::mirror::{View, table_named};
use super::throttle::Throttle;
use super::verify::Verification;
use super::{Neighbours, insert};
use crate::adapters::clickhouse::{self, ClickHouse};
use crate::adapters::clock::Clock;
use crate::adapters::kafka::Kafka;
use crate::adapters::peers::{Daemon, Error, HeartbeatReply, PieceStream, VerdictStream};
use crate::error::Coded as _;
use crate::model::balance::{ApplyPlan, BalanceStatus, PlanRunStatus, SetBalance};
use crate::model::control::{Begun, NodeStatus, Operate, OperationStatus};
use crate::model::control::{ClusterStatus, CreateTable, DropTable, InsertRows, Inserted, TableStatus};
use crate::model::control::{DdlAsked, ParsedDdl};
use crate::model::hold::{HoldStatus, SetHold};
use crate::model::ids::Epoch;
use crate::model::observed::Heartbeat;
use crate::model::parts::{Piece, WantedParts};
use crate::model::plan::ClusterPlan;
use crate::model::routes::{self, RouteGroup, TableRoutes};
use crate::model::shared::Shared;
use crate::model::verify::{Digest, DigestAsked};
use crate::model::{NodeId, NodeState, OperationId, TableName};
use actix::dev::ToEnvelope;
use actix::prelude::*;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::leader::Coordinator;

/// How often a watch looks for a new epoch: the view is in memory, a look costs next to nothing.
const WATCH_EVERY_MS: u64 = 100;

/// See the module.
pub struct LocalDaemon {
    /// Cluster name.
    pub cluster: String,
    /// This daemon's address.
    pub url: String,
    /// What the store holds.
    pub view: View,
    /// The coordinator, while this daemon leads.
    pub seat: Seat,
    /// The other daemons.
    pub neighbours: Neighbours,
    /// The server that evaluates partition expressions, and is the first to be asked what a table is.
    pub clickhouse: Arc<dyn ClickHouse>,
    /// Where inserted rows go.
    pub kafka: Arc<dyn Kafka>,
    /// Route groups.
    pub groups: Vec<RouteGroup>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// The nodes of this daemon.
    pub nodes: BTreeMap<NodeId, Beside>,
}

/// A server beside the daemon, as other daemons may use it.
pub struct Beside {
    /// The server.
    pub clickhouse: Arc<dyn ClickHouse>,
    /// The pace of what is copied from it.
    pub sends: Throttle,
}

/// Who answers a request for the leader.
enum Leading {
    Here(Addr<Coordinator>),
    There(Arc<dyn Daemon>),
}

impl LocalDaemon {
    fn leading(&self) -> Result<Leading, Error> {
        if let Some(coordinator) = self.seat.get() {
            return Ok(Leading::Here(coordinator));
        }
        match self.view.read().leader.clone() {
            Some(leader) if leader.daemon_url != self.url => {
                Ok(Leading::There(self.neighbours.daemon(&leader.daemon_url)))
            }
            Some(_) => Err(Error::NoLeader("this daemon is just taking the lead".into())),
            None => {
                let why = self.view.outage();
                Err(Error::NoLeader(why.unwrap_or_else(|| "an election is under way".to_owned())))
            }
        }
    }

    fn beside(&self, node: &NodeId) -> Result<&Beside, Error> {
        self.nodes.get(node).ok_or_else(|| Error::NotFound(format!("node {node} at {}", self.url)))
    }

    fn derive(&self, name: &TableName) -> Result<TableRoutes, Error> {
        let view = self.view.read();
        let table = table_named(&view, name)?;
        let shards: Vec<_> = view.shards_of(table.id).cloned().collect();
        let routes = routes::derive(table, &shards, &view.node_records(), &self.groups);
        routes
            .filter(|routes| routes.epoch > Epoch(0))
            .ok_or_else(|| Error::Unavailable(format!("table {name} has no published topology yet")))
    }
}

async fn ask<M>(coordinator: &Addr<Coordinator>, message: M) -> Result<M::Result, Error>
where
    M: Message + Send + 'static,
    M::Result: Send,
    Coordinator: Handler<M>,
    <Coordinator as Actor>::Context: ToEnvelope<Coordinator, M>,
{
    coordinator.send(message).await.map_err(|_| Error::NoLeader("this daemon leads no more".into()))
}

#[async_trait]
impl Daemon for LocalDaemon {
    async fn create_table(&self, request: CreateTable) -> Result<TableStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Create(request)).await?,
            Leading::There(daemon) => daemon.create_table(request).await,
        }
    }

    async fn drop_table(&self, request: DropTable) -> Result<(), Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Drop(request)).await?,
            Leading::There(daemon) => daemon.drop_table(request).await,
        }
    }

    async fn table_status(&self, name: TableName) -> Result<TableStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, TableAsked(name)).await?,
            Leading::There(daemon) => daemon.table_status(name).await,
        }
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        match self.leading() {
            Ok(Leading::Here(coordinator)) => ask(&coordinator, ClusterAsked).await,
            Ok(Leading::There(daemon)) => daemon.cluster_status().await,
            // Without a leader this daemon says what it knows by itself: an operator in trouble needs it most.
            Err(Error::NoLeader(_)) => {
                let (view, now_unix_ms) = (self.view.read(), self.clock.unix_ms());
                let balance = status::balance(&view, None, &Default::default());
                let mut known =
                    status::cluster(&self.cluster, &view, &Default::default(), balance, now_unix_ms);
                if !view.complete {
                    known
                        .problems
                        .push("the metadata store has not been read yet: no table is known".to_owned());
                }
                known.problems.extend(self.view.outage());
                Ok(known)
            }
            Err(error) => Err(error),
        }
    }

    async fn routes(&self, name: TableName) -> Result<TableRoutes, Error> {
        self.derive(&name)
    }

    async fn watch_routes(
        &self,
        name: TableName,
    ) -> Result<BoxStream<'static, Result<TableRoutes, Error>>, Error> {
        let first = self.derive(&name)?;
        let (view, groups) = (self.view.clone(), self.groups.clone());
        let table = first.table;
        let changes = stream::unfold(Some(first.epoch), move |last| {
            let (view, groups) = (view.clone(), groups.clone());
            async move {
                let last = last?;
                loop {
                    tokio::time::sleep(Duration::from_millis(WATCH_EVERY_MS)).await;
                    let view = view.read();
                    let Some(record) = view.tables.get(&table) else {
                        return Some((Err(Error::NotFound(format!("table {table}"))), None));
                    };
                    if record.record.epoch == last {
                        continue;
                    }
                    let shards: Vec<_> = view.shards_of(table).cloned().collect();
                    if let Some(routes) =
                        routes::derive(&record.record, &shards, &view.node_records(), &groups)
                    {
                        let epoch = routes.epoch;
                        return Some((Ok(routes), Some(epoch)));
                    }
                }
            }
        });
        Ok(stream::once(async { Ok(first) }).chain(changes).boxed())
    }

    async fn insert(&self, request: InsertRows) -> Result<Inserted, Error> {
        let name = TableName { database: request.database, table: request.table };
        let table = {
            let view = self.view.read();
            table_named(&view, &name)?.clone()
        };
        let batch = request.batch.map(|batch| (self.cluster.as_str(), batch));
        let rows = insert::Rows { table: &table, format: request.format, body: request.body };
        rows.insert(self.clickhouse.as_ref(), self.kafka.as_ref(), batch).await
    }

    async fn operate(&self, request: Operate) -> Result<Begun, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Begin(request)).await?,
            Leading::There(daemon) => daemon.operate(request).await,
        }
    }

    async fn cancel_operation(&self, id: OperationId) -> Result<OperationStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Cancel(id)).await?,
            Leading::There(daemon) => daemon.cancel_operation(id).await,
        }
    }

    async fn operations(&self) -> Result<Vec<OperationStatus>, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, OperationsAsked).await,
            Leading::There(daemon) => daemon.operations().await,
        }
    }

    async fn set_node_state(&self, node: NodeId, state: NodeState) -> Result<NodeStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, SetNodeState(node, state)).await?,
            Leading::There(daemon) => daemon.set_node_state(node, state).await,
        }
    }

    async fn remove_node(&self, node: NodeId) -> Result<(), Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, RemoveNode(node)).await?,
            Leading::There(daemon) => daemon.remove_node(node).await,
        }
    }

    async fn make_plan(&self) -> Result<ClusterPlan, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, PlanAsked).await?,
            Leading::There(daemon) => daemon.make_plan().await,
        }
    }

    async fn apply_plan(&self, request: ApplyPlan) -> Result<PlanRunStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Apply(request)).await?,
            Leading::There(daemon) => daemon.apply_plan(request).await,
        }
    }

    async fn cancel_plan(&self) -> Result<PlanRunStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, CancelPlan).await?,
            Leading::There(daemon) => daemon.cancel_plan().await,
        }
    }

    async fn set_balance(&self, request: SetBalance) -> Result<BalanceStatus, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Balance(request)).await?,
            Leading::There(daemon) => daemon.set_balance(request).await,
        }
    }

    async fn set_hold(&self, request: SetHold) -> Result<Vec<HoldStatus>, Error> {
        match self.leading()? {
            Leading::Here(coordinator) => ask(&coordinator, Brake(request)).await?,
            Leading::There(daemon) => daemon.set_hold(request).await,
        }
    }

    async fn heartbeat(&self, heartbeat: Shared<Heartbeat>) -> Result<HeartbeatReply, Error> {
        let coordinator =
            self.seat.get().ok_or_else(|| Error::NoLeader("this daemon does not lead".into()))?;
        ask(&coordinator, TakeHeartbeat(heartbeat)).await?
    }

    async fn parse_ddl(&self, asked: DdlAsked) -> Result<ParsedDdl, Error> {
        let beside = self.nodes.values().map(|node| &node.clickhouse);
        let further = beside.filter(|server| !Arc::ptr_eq(server, &self.clickhouse));
        let servers = std::iter::once(&self.clickhouse).chain(further).cloned().collect();
        parse::here(servers, self.clock.as_ref(), &asked).await
    }

    async fn send_partition(&self, node: NodeId, wanted: WantedParts) -> Result<PieceStream, Error> {
        let here = self.beside(&node)?;
        let pieces = match here.clickhouse.send_partition(wanted).await {
            Ok(pieces) => pieces,
            Err(clickhouse::Error::NotByParts(reason)) => {
                return Ok(stream::iter([Ok(Piece::Declined(reason))]).boxed());
            }
            Err(error) => return Err(of_server(&error)),
        };
        let sends = here.sends.clone();
        let paced = move |piece: Result<Piece, clickhouse::Error>| {
            let sends = sends.clone();
            async move {
                if let Ok(Piece::Data(content)) = &piece {
                    sends.take(content.len() as u64).await;
                }
                piece.map_err(|error| of_server(&error))
            }
        };
        Ok(pieces.then(paced).boxed())
    }

    async fn digest(&self, asked: DigestAsked) -> Result<Digest, Error> {
        let DigestAsked { node, database, partition, from, below } = asked;
        let here = self.beside(&node)?;
        let digest = here.clickhouse.digest(&database, partition, from, below).await;
        digest.map_err(|error| of_server(&error))
    }

    async fn verify(&self, name: TableName, rows_per_s: u64) -> Result<VerdictStream, Error> {
        let verification = Verification {
            view: self.view.clone(),
            neighbours: self.neighbours.clone(),
            kafka: self.kafka.clone(),
            clock: self.clock.clone(),
            cluster: self.cluster.clone(),
            rows_per_s,
        };
        verification.run(&name)
    }
}

/// An error of the server beside the daemon, as another daemon is told it.
fn of_server(error: &clickhouse::Error) -> Error {
    match error {
        clickhouse::Error::Missing(name) => Error::NotFound(name.clone()),
        clickhouse::Error::Mutating(_) => Error::Refused(error.told()),
        _ => Error::Unavailable(error.told()),
    }
}
