//! A daemon in memory behind the real servers, for the tests of both edges: gRPC, HTTP and the command line.

// Each test binary uses its own half of this; clippy knows tests only by `#[test]`.
#![allow(dead_code, clippy::unwrap_used, clippy::disallowed_methods)]

pub mod samples;

use async_trait::async_trait;
use converthouse::adapters::peers::{Daemon, Error, HeartbeatReply, PieceStream, Tls, VerdictStream};
use converthouse::api;
use converthouse::model::balance::{ApplyPlan, BalanceStatus, PlanRunStatus, RunState, SetBalance};
use converthouse::model::control::{
    Begun, ClusterStatus, CreateTable, DdlAsked, DropTable, InsertRows, Inserted, NodeStatus, Operate,
    OperationStatus, ParsedDdl, ReplicaStatus, ShardStatus, TableStatus,
};
use converthouse::model::hold::{HoldStatus, SetHold};
use converthouse::model::node::{ClickHouseEndpoint, Secret};
use converthouse::model::observed::{Heartbeat, Stall};
use converthouse::model::operation::{Kind, Operation, State};
use converthouse::model::parts::{FileSize, PartFiles, Piece, WantedParts};
use converthouse::model::plan::ClusterPlan;
use converthouse::model::routes::{RouteReplica, RouteShard, TableRoutes};
use converthouse::model::shared::Shared;
use converthouse::model::table::{MessageFormat, ShardState};
use converthouse::model::verify::{Digest, DigestAsked};
use converthouse::model::{
    Epoch, NodeId, NodeState, OperationId, PartitionId, PartitionRange, ShardId, TableId, TableName,
    TableState, Term,
};
use converthouse::telemetry::Metrics;
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, oneshot};

pub use samples::{digest, verdicts};

/// What was asked of the daemon.
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    Create(CreateTable),
    Drop(DropTable),
    Table(TableName),
    Cluster,
    Routes(TableName),
    Watch(TableName),
    Insert(InsertRows),
    Heartbeat(Shared<Heartbeat>),
    Operate(Operate),
    Cancel(OperationId),
    Operations,
    NodeState(NodeId, NodeState),
    RemoveNode(NodeId),
    MakePlan,
    ApplyPlan(Box<ApplyPlan>),
    CancelPlan,
    Balance(SetBalance),
    Hold(SetHold),
    Parts(NodeId, WantedParts),
    Digest(DigestAsked),
    Verify(TableName, u64),
    ParseDdl(DdlAsked),
}

/// How it answers.
#[derive(Debug, Clone, Default)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// With this.
    Fails(Error),
    /// Not at all.
    Hangs,
    /// By panicking.
    Panics,
}

pub struct Fake {
    pub asked: Mutex<Vec<Asked>>,
    pub mood: Mutex<Mood>,
    /// Answers to `table_status`, first to last; the last one stays.
    pub tables: Mutex<Vec<Result<TableStatus, Error>>>,
    pub epochs: broadcast::Sender<Result<TableRoutes, Error>>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            asked: Mutex::default(),
            mood: Mutex::default(),
            tables: Mutex::new(vec![Ok(table())]),
            epochs: broadcast::channel(16).0,
        }
    }
}

impl Fake {
    async fn note(&self, asked: Asked) -> Result<(), Error> {
        self.asked.lock().unwrap().push(asked);
        let mood = self.mood.lock().unwrap().clone();
        match mood {
            Mood::Well => Ok(()),
            Mood::Fails(error) => Err(error),
            Mood::Hangs => std::future::pending().await,
            Mood::Panics => panic!("the fake daemon was told to panic"),
        }
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    pub fn last(&self) -> Asked {
        self.asked.lock().unwrap().last().cloned().expect("something was asked")
    }
}

/// What it sends of any partition.
pub fn pieces() -> Vec<Piece> {
    let files = vec![FileSize { name: "a.bin".into(), bytes: 3 }];
    let part = PartFiles { name: "1_1_1_0".into(), rows: 1, files };
    let content = bytes::Bytes::from_static(b"abc");
    vec![Piece::Begin(vec![part]), Piece::Data(content), Piece::End { checksum: 7, held: false }]
}

#[async_trait]
impl Daemon for Fake {
    async fn create_table(&self, request: CreateTable) -> Result<TableStatus, Error> {
        self.note(Asked::Create(request)).await?;
        Ok(TableStatus { usable: false, complete: false, ..table() })
    }

    async fn drop_table(&self, request: DropTable) -> Result<(), Error> {
        self.note(Asked::Drop(request)).await
    }

    async fn table_status(&self, name: TableName) -> Result<TableStatus, Error> {
        self.note(Asked::Table(name)).await?;
        let mut tables = self.tables.lock().unwrap();
        if tables.len() > 1 { tables.remove(0) } else { tables[0].clone() }
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        self.note(Asked::Cluster).await?;
        Ok(cluster())
    }

    async fn routes(&self, name: TableName) -> Result<TableRoutes, Error> {
        self.note(Asked::Routes(name)).await?;
        Ok(routes(3))
    }

    async fn watch_routes(
        &self,
        name: TableName,
    ) -> Result<BoxStream<'static, Result<TableRoutes, Error>>, Error> {
        let later = tokio_stream::wrappers::BroadcastStream::new(self.epochs.subscribe());
        self.note(Asked::Watch(name)).await?;
        let later = later.map(|item| item.unwrap_or_else(|e| Err(Error::Internal(e.to_string()))));
        Ok(futures::stream::iter([Ok(routes(3))]).chain(later).boxed())
    }

    async fn insert(&self, request: InsertRows) -> Result<Inserted, Error> {
        let rows = request.body.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count();
        self.note(Asked::Insert(request)).await?;
        Ok(Inserted { rows: rows as u64, partitions: 7, before: false })
    }

    async fn operate(&self, request: Operate) -> Result<Begun, Error> {
        self.note(Asked::Operate(request)).await?;
        Ok(samples::begun())
    }

    async fn cancel_operation(&self, id: OperationId) -> Result<OperationStatus, Error> {
        self.note(Asked::Cancel(id)).await?;
        Ok(operation(State::Cancelling))
    }

    async fn operations(&self) -> Result<Vec<OperationStatus>, Error> {
        self.note(Asked::Operations).await?;
        Ok(vec![operation(State::Running), operation(State::Done)])
    }

    async fn set_node_state(&self, node: NodeId, state: NodeState) -> Result<NodeStatus, Error> {
        self.note(Asked::NodeState(node.clone(), state)).await?;
        let first = cluster().nodes.remove(0);
        Ok(NodeStatus { id: node, state, ..first })
    }

    async fn remove_node(&self, node: NodeId) -> Result<(), Error> {
        self.note(Asked::RemoveNode(node)).await
    }

    async fn make_plan(&self) -> Result<ClusterPlan, Error> {
        self.note(Asked::MakePlan).await?;
        Ok(samples::plan())
    }

    async fn apply_plan(&self, request: ApplyPlan) -> Result<PlanRunStatus, Error> {
        self.note(Asked::ApplyPlan(Box::new(request))).await?;
        Ok(samples::run(RunState::Running))
    }

    async fn cancel_plan(&self) -> Result<PlanRunStatus, Error> {
        self.note(Asked::CancelPlan).await?;
        Ok(samples::run(RunState::Cancelled))
    }

    async fn set_balance(&self, request: SetBalance) -> Result<BalanceStatus, Error> {
        self.note(Asked::Balance(request)).await?;
        Ok(samples::balance())
    }

    async fn set_hold(&self, request: SetHold) -> Result<Vec<HoldStatus>, Error> {
        self.note(Asked::Hold(request)).await?;
        Ok(samples::holds())
    }

    async fn send_partition(&self, node: NodeId, wanted: WantedParts) -> Result<PieceStream, Error> {
        self.note(Asked::Parts(node, wanted)).await?;
        Ok(futures::stream::iter(pieces().into_iter().map(Ok)).boxed())
    }

    async fn digest(&self, asked: DigestAsked) -> Result<Digest, Error> {
        self.note(Asked::Digest(asked)).await?;
        Ok(digest())
    }

    async fn verify(&self, name: TableName, rows_per_s: u64) -> Result<VerdictStream, Error> {
        self.note(Asked::Verify(name, rows_per_s)).await?;
        Ok(futures::stream::iter(verdicts().into_iter().map(Ok)).boxed())
    }

    async fn parse_ddl(&self, asked: DdlAsked) -> Result<ParsedDdl, Error> {
        let refused = asked.partition_by.is_empty();
        self.note(Asked::ParseDdl(asked)).await?;
        Ok(samples::parsed(refused))
    }

    async fn heartbeat(&self, heartbeat: Shared<Heartbeat>) -> Result<HeartbeatReply, Error> {
        self.note(Asked::Heartbeat(heartbeat)).await?;
        Ok(HeartbeatReply { term: Term(42) })
    }
}

/// A split of shard 1, in that state.
pub fn operation(state: State) -> OperationStatus {
    let over = !state.is_open();
    OperationStatus {
        operation: Operation {
            id: OperationId(if over { 3 } else { 4 }),
            table: id(),
            kind: Kind::Split { shard: ShardId(1), cut: 6, left: ShardId(4), right: ShardId(5) },
            state,
            reason: "asked for".into(),
            outcome: String::new(),
            started_unix_ms: 1_000,
            ended_unix_ms: if over { 2_500 } else { 0 },
        },
        table_name: Some("shop.t".into()),
        waiting_for: (!over).then(|| "s4 to be readable on n2".into()),
        waiting_code: (!over).then_some(converthouse::model::operation::WaitCode::Linking),
        took_ms: if over { 1_500 } else { 61_000 },
        copy: None,
    }
}

pub fn name() -> TableName {
    TableName { database: "shop".into(), table: "événements `x`".into() }
}

pub fn id() -> TableId {
    "deadbeef000000000000000000000001".parse().unwrap()
}

pub fn range(lo: u32, hi: u32) -> PartitionRange {
    PartitionRange::new(lo, hi).unwrap()
}

fn replica(node: &str, state: &str, lag: Option<u64>) -> ReplicaStatus {
    ReplicaStatus {
        node: node.parse().unwrap(),
        state: state.into(),
        lag,
        bytes: 1_500_000,
        rows: 20_000,
        dead_letters: 1,
        stalls: BTreeMap::new(),
        problem: None,
    }
}

/// A table with everything that a status can say.
pub fn table() -> TableStatus {
    let mut down = replica("n2", "down", None);
    down.problem = Some("its node is gone".into());
    let mut stalled = replica("n3", "ready", Some(12));
    let stalls = [
        Stall::OffsetsGone { from: 5, to: 9 },
        Stall::TopicMissing,
        Stall::TopicReplaced { next: 7, end: 2 },
        Stall::ServerRefuses { error: "disk full".into() },
        Stall::DeadLetterUnavailable { error: "down".into() },
        Stall::KafkaUnreachable { error: "refused".into() },
    ];
    stalled.stalls = stalls.into_iter().enumerate().map(|(p, s)| (PartitionId(8 + p as u32), s)).collect();
    let shard = |shard: u32, range, replicas| ShardStatus {
        id: ShardId(shard),
        epoch: Epoch(2),
        range,
        spread: (shard == 1).then_some(9),
        state: ShardState::Serving,
        leader: Some("n1".parse().unwrap()),
        preferred_leader: Some("n2".parse().unwrap()),
        replicas,
    };
    TableStatus {
        id: id(),
        database: name().database,
        table: name().table,
        state: TableState::Active,
        epoch: Epoch(3),
        partitions: 16,
        replicas: 2,
        partition_by: "cityHash64(user)".into(),
        cluster: "cvh_shop_x_deadbeef".into(),
        topic_prefix: "shop.x".into(),
        format: MessageFormat::JSONEachRow,
        batch_age_ms: Some(3_200),
        ddl: "CREATE TABLE shop.x (user String) ENGINE = MergeTree ORDER BY user".into(),
        shards: vec![
            shard(0, range(0, 8), vec![replica("n1", "leader", Some(0)), down]),
            shard(1, range(8, 16), vec![replica("n1", "leader", Some(3)), stalled]),
        ],
        acknowledged: BTreeMap::from([("n1".parse().unwrap(), Epoch(3)), ("n3".parse().unwrap(), Epoch(2))]),
        usable: true,
        complete: false,
        waiting_for: vec!["s0 on n2: its node is gone".into()],
        holds: samples::holds(),
    }
}

pub fn cluster() -> ClusterStatus {
    let node = |id: &str, live, clickhouse_up| NodeStatus {
        id: id.parse().unwrap(),
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        state: NodeState::Active,
        live,
        clickhouse_up,
        clickhouse_version: "18.16.1".into(),
        clickhouse: format!("{id}:9000"),
        daemon_url: format!("http://{id}:7400"),
        replicas: 2,
        leaders: 1,
        bytes: 3_000_000,
        disk_total_bytes: 2_000_000_000_000,
        disk_free_bytes: 1_250_000_000_000,
    };
    let draining =
        NodeStatus { state: NodeState::Draining, labels: BTreeMap::new(), ..node("n3", true, None) };
    let cordoned = NodeStatus { state: NodeState::Cordoned, ..node("n2", false, Some(false)) };
    ClusterStatus {
        cluster: "production".into(),
        leader: Some("n1".parse().unwrap()),
        term: 42,
        nodes: vec![node("n1", true, Some(true)), cordoned, draining],
        tables: vec![table()],
        healthy: false,
        problems: vec!["n2 is gone".into()],
        balance: samples::balance(),
        holds: samples::holds(),
        unread: false,
    }
}

/// Routes as the wire carries them: without passwords.
pub fn routes(epoch: u64) -> TableRoutes {
    let replica = |node: &str| RouteReplica {
        node: node.parse().unwrap(),
        endpoint: ClickHouseEndpoint {
            host: format!("{node}.example.org"),
            port: 9440,
            secure: true,
            user: "reader".into(),
            password: Secret::default(),
        },
        database: "shop__x__cvhdeadbeef_s0".into(),
    };
    let shard = |shard: u32, range, nodes: &[&str]| RouteShard {
        shard: ShardId(shard),
        range,
        replicas: nodes.iter().map(|node| replica(node)).collect(),
    };
    TableRoutes {
        table: id(),
        name: name(),
        epoch: Epoch(epoch),
        partitions: 16,
        shards: vec![shard(0, range(0, 8), &["n1", "n2"]), shard(1, range(8, 16), &["n3"])],
        groups: BTreeMap::from([("dc1".into(), vec![shard(0, range(0, 16), &["n2"])])]),
    }
}

/// Both servers of one fake daemon, on a thread and runtime of their own; they end when it is dropped.
pub struct Edge {
    pub daemon: Arc<Fake>,
    pub grpc: String,
    pub http: String,
    pub metrics: Metrics,
    pub not_ready: Arc<Mutex<Vec<String>>>,
    pub room: api::Room,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Edge {
    pub fn start() -> Self {
        Self::with_tls(None)
    }

    pub fn with_tls(tls: Option<Tls>) -> Self {
        let daemon = Arc::new(Fake::default());
        let (metrics, not_ready) = (Metrics::new(), Arc::new(Mutex::new(Vec::new())));
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let room = api::Room::default();
        let rooms = (room.clone(), room.clone());
        let scheme = if tls.is_some() { "https" } else { "http" };
        let (served, registry, reasons) = (daemon.clone(), metrics.registry().clone(), not_ready.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let grpc = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                let http = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
                tell.send((grpc.local_addr().unwrap(), http.local_addr().unwrap())).unwrap();
                let stop = futures::FutureExt::shared(async move { drop(stopped.await) });
                let readiness: api::http::Readiness = Arc::new(move || reasons.lock().unwrap().clone());
                let (reasons, end) = (readiness.clone(), stop.clone());
                let serve = api::grpc::serve(grpc, served.clone(), tls, reasons, rooms.0, end);
                let serve_http = api::http::serve(http, served, registry, readiness, rooms.1, stop);
                let (grpc, http) = futures::join!(serve, serve_http);
                grpc.unwrap();
                http.unwrap();
            });
            // Calls that hang are left behind.
            runtime.shutdown_timeout(Duration::from_millis(100));
        });
        let (grpc, http) = told.recv().expect("both servers listen");
        Self {
            daemon,
            grpc: format!("{scheme}://localhost:{}", grpc.port()),
            http: http.to_string(),
            metrics,
            not_ready,
            room,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// Waits until the daemon has been asked so many times.
    pub fn until_asked(&self, times: usize) {
        for _ in 0..500 {
            if self.daemon.asked.lock().unwrap().len() >= times {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the daemon was not asked {times} times");
    }

    /// Stops the servers and waits for their end.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the servers end well");
        }
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            thread.join().expect("the servers end well");
        }
    }
}
