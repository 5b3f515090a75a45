//! The gRPC server and its client over a real connection, in front of a daemon in memory: every method, every error,
//! streams, limits, deadlines, garbage. And the HTTP edge, byte by byte.

// Clippy knows tests only by `#[test]`.
#![allow(clippy::unwrap_used)]

#[path = "edge/mod.rs"]
mod edge;
#[path = "edge/http.rs"]
mod http;
#[path = "edge/limits.rs"]
mod limits;
#[path = "edge/secure.rs"]
mod secure;
#[path = "edge/steer.rs"]
mod steer;

use converthouse::adapters::peers::grpc::{GrpcDaemon, GrpcPeers, INSERT_BYTES_MAX, Options};
use converthouse::adapters::peers::local::LocalPeers;
use converthouse::adapters::peers::{Daemon, Error, Peers};
use converthouse::error::{Coded, Retry};
use converthouse::model::control::{Asked as Change, CreateTable, DdlAsked, DropTable, InsertRows};
use converthouse::model::control::{Inserted, Operate};
use converthouse::model::observed::{
    CopyWay, Heartbeat, PartitionProgress, ReplicaObservation, Seeding, Stall,
};
use converthouse::model::operation::State;
use converthouse::model::parts::{HeldFile, WantedParts};
use converthouse::model::shared::Shared;
use converthouse::model::table::{BatchLimits, MessageFormat, TopicLayout};
use converthouse::model::verify::DigestAsked;
use converthouse::model::{Epoch, NodeId, NodeState, OperationId, PartitionId, ShardId, TableName};
use converthouse::wire;
use edge::samples::begun;
use edge::{Asked, Edge, Mood, cluster, digest, id, name, operation, pieces, routes, table, verdicts};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;

fn node(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn client(edge: &Edge) -> GrpcDaemon {
    GrpcDaemon::new(&edge.grpc, Options::default())
}

fn hasty(edge: &Edge) -> GrpcDaemon {
    let options = Options {
        read_timeout_ms: 200,
        write_timeout_ms: 200,
        heartbeat_timeout_ms: 200,
        ..Options::default()
    };
    GrpcDaemon::new(&edge.grpc, options)
}

fn create() -> CreateTable {
    CreateTable {
        ddl: "CREATE TABLE shop.`événements` (a UInt8)\nENGINE = MergeTree ORDER BY a".into(),
        partitions: 64,
        shards: 4,
        replicas: 2,
        partition_by: "a % 64".into(),
        topic_prefix: Some("shop.e".into()),
        layout: TopicLayout::OneTopic,
        topic_replication: 3,
        format: MessageFormat::TSV,
        format_settings: BTreeMap::from([("input_format_skip_unknown_fields".into(), "1".into())]),
        batch: BatchLimits { rows_max: 1, bytes_max: 2, age_max_ms: 3 },
        first_node: Some(node("n1")),
        dry_run: true,
        if_not_exists: true,
    }
}

fn ddl_asked() -> DdlAsked {
    DdlAsked { ddl: "CREATE …".into(), partition_by: "a".into() }
}

fn drop_table() -> DropTable {
    DropTable { database: "a".into(), table: "b".into(), delete_topics: true, if_exists: true }
}

fn insert(body: &[u8]) -> InsertRows {
    let TableName { database, table } = name();
    InsertRows { database, table, format: MessageFormat::CSV, body: body.to_vec().into(), batch: None }
}

fn heartbeat() -> Shared<Heartbeat> {
    let progress = |stall| PartitionProgress { next_offset: 5, end_offset: 9, reach_offset: 7, stall };
    let observation = ReplicaObservation {
        since: Epoch(6),
        serving: true,
        bare: true,
        bytes: 1,
        rows: 2,
        parts: 3,
        partitions: BTreeMap::from([
            (PartitionId(0), progress(None)),
            (PartitionId(9), progress(Some(Stall::KafkaUnreachable { error: "no".into() }))),
        ]),
        dead_letters: 4,
        batch_age_ms: 3_200,
        problem: Some("slow".into()),
        seeding: Some(Seeding {
            done: 2,
            of: 3,
            bytes_done: 4,
            bytes_of: 5,
            bytes_moved: 6,
            elapsed_ms: 7,
            way: CopyWay::Select { why: "no folder".into() },
        }),
    };
    Shared::from(Heartbeat {
        node: node("n1"),
        incarnation: u64::MAX,
        clickhouse_up: true,
        clickhouse_error: "refused".into(),
        clickhouse_version: "18.16.1".into(),
        kafka_error: "no broker".into(),
        disk_free_bytes: 1,
        disk_total_bytes: 2,
        replicas: BTreeMap::from([(id(), BTreeMap::from([(ShardId(3), observation)]))]),
        epochs: BTreeMap::from([(id(), Epoch(7))]),
        settled: BTreeMap::from([(id(), Epoch(6))]),
        dropped: vec![id()],
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_request_and_answer_survives_the_wire() {
    let edge = Edge::start();
    let daemon = client(&edge);
    let created = daemon.create_table(create()).await.unwrap();
    assert_eq!((created.usable, created.shards), (false, table().shards));
    assert_eq!(edge.daemon.last(), Asked::Create(create()));
    daemon.drop_table(drop_table()).await.unwrap();
    assert_eq!(edge.daemon.last(), Asked::Drop(drop_table()));
    assert_eq!(daemon.table_status(name()).await.unwrap(), table());
    assert_eq!(edge.daemon.last(), Asked::Table(name()));
    assert_eq!(daemon.cluster_status().await.unwrap(), cluster());
    assert_eq!(daemon.routes(name()).await.unwrap(), routes(3));
    let inserted = daemon.insert(insert(b"1\n\xff\n")).await.unwrap();
    assert_eq!(inserted, Inserted { rows: 2, partitions: 7, before: false });
    assert_eq!(edge.daemon.last(), Asked::Insert(insert(b"1\n\xff\n")));
    let named = InsertRows { batch: Some("load-7".parse().unwrap()), ..insert(b"1\n") };
    daemon.insert(named.clone()).await.unwrap();
    assert_eq!(edge.daemon.last(), Asked::Insert(named.clone()));
    edge.daemon.set(Mood::Fails(Error::OutcomeUnknown("late".into())));
    assert_eq!(daemon.insert(named).await, Err(Error::BatchUnknown("late".into())));
    edge.daemon.set(Mood::Well);
    assert_eq!(daemon.heartbeat(heartbeat()).await.unwrap().term.0, 42);
    assert_eq!(edge.daemon.last(), Asked::Heartbeat(heartbeat()));
    let held = HeldFile { part: "1_1_1_0".into(), file: "a.bin".into(), bytes: 3, checksum: u32::MAX };
    let (database, version) = ("d".to_owned(), "18.16.1".to_owned());
    let wanted = WantedParts { database, partition: PartitionId(9), version, held: vec![held] };
    let sent = daemon.send_partition(node("n1"), wanted.clone()).await.unwrap();
    assert_eq!(sent.map(Result::unwrap).collect::<Vec<_>>().await, pieces());
    assert_eq!(edge.daemon.last(), Asked::Parts(node("n1"), wanted));
    let (database, partition) = ("d".to_owned(), PartitionId(9));
    let asked = DigestAsked { node: node("n1"), database, partition, from: i64::MIN, below: i64::MAX };
    assert_eq!(daemon.digest(asked.clone()).await.unwrap(), digest());
    assert_eq!(edge.daemon.last(), Asked::Digest(asked));
    let found = daemon.verify(name(), 7).await.unwrap();
    assert_eq!(found.map(Result::unwrap).collect::<Vec<_>>().await, verdicts());
    assert_eq!(edge.daemon.last(), Asked::Verify(name(), 7));
    for partition_by in ["a", ""] {
        let asked = DdlAsked { partition_by: partition_by.into(), ..ddl_asked() };
        let parsed = daemon.parse_ddl(asked.clone()).await.unwrap();
        assert_eq!(parsed, edge::samples::parsed(partition_by.is_empty()));
        assert_eq!(edge.daemon.last(), Asked::ParseDdl(asked));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn operations_and_node_states_survive_the_wire() {
    let edge = Edge::start();
    let daemon = client(&edge);
    let (shard, to) = (ShardId(2), node("n3"));
    for change in [
        Change::Split { shard: Some(shard), cut: Some(9), by_bytes: false },
        Change::Split { shard: None, cut: None, by_bytes: true },
        Change::Add { shard, to: to.clone(), force: false },
        Change::Remove { shard, from: to.clone() },
        Change::Merge { left: ShardId(1), right: shard },
        Change::Move { shard, from: node("n1"), to: to.clone(), force: true },
        Change::Lead { shard, to: to.clone() },
    ] {
        let request = operate(change);
        assert_eq!(daemon.operate(request.clone()).await.unwrap(), begun());
        assert_eq!(edge.daemon.last(), Asked::Operate(request));
    }
    assert_eq!(daemon.cancel_operation(OperationId(7)).await.unwrap(), operation(State::Cancelling));
    assert_eq!(edge.daemon.last(), Asked::Cancel(OperationId(7)));
    assert_eq!(daemon.operations().await.unwrap(), [operation(State::Running), operation(State::Done)]);
    for state in [NodeState::Active, NodeState::Cordoned, NodeState::Draining] {
        let answered = daemon.set_node_state(to.clone(), state).await.unwrap();
        assert_eq!((&answered.id, answered.state), (&to, state));
        assert_eq!(edge.daemon.last(), Asked::NodeState(to.clone(), state));
    }
    daemon.remove_node(to.clone()).await.unwrap();
    assert_eq!(edge.daemon.last(), Asked::RemoveNode(to));
}

fn operate(asked: Change) -> Operate {
    let TableName { database, table } = name();
    Operate { database, table, asked, reason: "it grew".into(), dry_run: true }
}

/// Calls every method once; what each made of it.
async fn all(daemon: &dyn Daemon) -> Vec<(&'static str, Error)> {
    vec![
        ("create_table", daemon.create_table(create()).await.unwrap_err()),
        ("drop_table", daemon.drop_table(drop_table()).await.unwrap_err()),
        ("table_status", daemon.table_status(name()).await.unwrap_err()),
        ("cluster_status", daemon.cluster_status().await.unwrap_err()),
        ("routes", daemon.routes(name()).await.unwrap_err()),
        ("watch_routes", daemon.watch_routes(name()).await.err().unwrap()),
        ("insert", daemon.insert(insert(b"1\n")).await.unwrap_err()),
        (
            "operate",
            daemon.operate(operate(Change::Merge { left: ShardId(1), right: ShardId(2) })).await.unwrap_err(),
        ),
        ("cancel_operation", daemon.cancel_operation(OperationId(1)).await.unwrap_err()),
        ("operations", daemon.operations().await.unwrap_err()),
        ("set_node_state", daemon.set_node_state(node("n1"), NodeState::Draining).await.unwrap_err()),
        ("remove_node", daemon.remove_node(node("n1")).await.unwrap_err()),
        ("make_plan", daemon.make_plan().await.unwrap_err()),
        ("apply_plan", daemon.apply_plan(steer::apply()).await.unwrap_err()),
        ("cancel_plan", daemon.cancel_plan().await.unwrap_err()),
        ("set_balance", daemon.set_balance(steer::set_balance(None)).await.unwrap_err()),
        ("set_hold", daemon.set_hold(steer::set_hold(None, None)).await.unwrap_err()),
        ("heartbeat", daemon.heartbeat(heartbeat()).await.unwrap_err()),
        ("parse_ddl", daemon.parse_ddl(ddl_asked()).await.unwrap_err()),
    ]
}

const WRITES: [&str; 11] = [
    "create_table",
    "drop_table",
    "insert",
    "operate",
    "cancel_operation",
    "set_node_state",
    "remove_node",
    "apply_plan",
    "cancel_plan",
    "set_balance",
    "set_hold",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_error_comes_back_as_it_was_from_every_method() {
    let edge = Edge::start();
    let daemon = client(&edge);
    let text = || "tablé `x`\n".to_owned();
    for error in [
        Error::Invalid(text()),
        Error::NotFound(text()),
        Error::Exists(text()),
        Error::Refused(text()),
        Error::NoLeader(text()),
        Error::Unavailable(text()),
        Error::OutcomeUnknown(text()),
        Error::Held(text()),
        Error::Stale(text()),
        Error::Internal(String::new()),
    ] {
        edge.daemon.set(Mood::Fails(error.clone()));
        for (method, answered) in all(&daemon).await {
            assert_eq!(answered, error, "{method}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_error_of_a_megabyte_still_arrives() {
    let edge = Edge::start();
    edge.daemon.set(Mood::Fails(Error::Invalid("é".repeat(1 << 19))));
    let error = client(&edge).cluster_status().await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.ends_with('…') && text.len() < 2_000), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_panic_is_that_calls_error_and_the_next_call_works() {
    let edge = Edge::start();
    let daemon = client(&edge);
    edge.daemon.set(Mood::Panics);
    for (method, error) in all(&daemon).await {
        assert!(
            matches!(&error, Error::Internal(text) if text.contains("told to panic")),
            "{method}: {error}"
        );
    }
    edge.daemon.set(Mood::Well);
    daemon.cluster_status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deadline_leaves_a_write_unknown_and_a_read_unavailable() {
    let edge = Edge::start();
    edge.daemon.set(Mood::Hangs);
    for (method, error) in all(&hasty(&edge)).await {
        let expected = if WRITES.contains(&method) { Retry::OutcomeUnknown } else { Retry::Safe };
        assert_eq!(error.retry(), expected, "{method}: {error}");
        assert!(error.to_string().contains("200 ms"), "{method}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_daemon_that_was_never_reached_did_nothing() {
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let daemon = GrpcDaemon::new(&format!("http://127.0.0.1:{port}"), Options::default());
    for (method, error) in all(&daemon).await {
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("refused")), "{method}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_connection_that_breaks_after_sending_leaves_a_write_unknown() {
    // Speaks just enough TCP to take a request and hang up.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut buffer).await;
        }
    });
    let daemon = GrpcDaemon::new(&url, Options::default());
    let error = daemon.drop_table(drop_table()).await.unwrap_err();
    assert_eq!(error.retry(), Retry::OutcomeUnknown, "{error}");
    let error = daemon.cluster_status().await.unwrap_err();
    assert_eq!(error.retry(), Retry::Safe, "{error}");
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn bad_addresses_are_refused_by_name() {
    for url in ["", "n1:7400", "ftp://n1", "http://", "http://a b", "https://n1:7400"] {
        let error = GrpcDaemon::new(url, Options::default()).cluster_status().await.unwrap_err();
        assert!(
            matches!(&error, Error::Invalid(text) if text.contains(&format!("{url:?}"))),
            "{url}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_watch_shows_each_epoch_and_then_the_daemons_end() {
    let mut edge = Edge::start();
    let daemon = client(&edge);
    let mut watch = daemon.watch_routes(name()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), routes(3));
    for epoch in 4..8 {
        edge.daemon.epochs.send(Ok(routes(epoch))).unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap(), routes(epoch));
    }
    edge.daemon.epochs.send(Err(Error::NotFound("it".into()))).unwrap();
    assert_eq!(watch.next().await.unwrap(), Err(Error::NotFound("it".into())));
    let mut watch = daemon.watch_routes(name()).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap(), routes(3));
    // A watch that is open must not hold up the daemon's stop.
    tokio::task::spawn_blocking(move || edge.stop()).await.unwrap();
    let end = watch.next().await;
    assert!(end.is_none() || end.is_some_and(|item| item.unwrap_err().retry() == Retry::Safe));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn large_inserts_pass_and_too_large_ones_are_refused_before_sending() {
    let edge = Edge::start();
    let daemon = client(&edge);
    let body = vec![b'\n'; INSERT_BYTES_MAX];
    daemon.insert(insert(&body)).await.unwrap();
    let asked = edge.daemon.asked.lock().unwrap().len();
    let error = daemon.insert(insert(&[body, vec![b'\n']].concat())).await.unwrap_err();
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    assert_eq!(edge.daemon.asked.lock().unwrap().len(), asked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_makes_no_sense_is_named_field_by_field() {
    let edge = Edge::start();
    let channel = tonic::transport::Endpoint::from_shared(edge.grpc.clone()).unwrap().connect_lazy();
    let mut control = wire::control_client::ControlClient::new(channel.clone());
    let good = || wire::CreateTableRequest { format: 1, ..Default::default() };
    for (request, field) in [
        (wire::CreateTableRequest { format: 0, ..good() }, "format: not given"),
        (wire::CreateTableRequest { format: 99, ..good() }, "format: 99"),
        (wire::CreateTableRequest { topic_mapping: -5, ..good() }, "topic_mapping: -5"),
        (wire::CreateTableRequest { first_node: Some("N 1".into()), ..good() }, "first_node: \"N 1\""),
    ] {
        let status = control.create_table(request).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(field), "{status}");
    }
    let status = control.table_status(wire::TableStatusRequest::default()).await.unwrap_err();
    assert!(status.message().contains("database: not given"), "{status}");
    let mut agent = wire::agent_client::AgentClient::new(channel.clone());
    let report = || wire::ReplicaReport { table_id: id().to_string(), ..Default::default() };
    for (replicas, field) in [
        (vec![report(), report()], "replicas[1]: this replica is reported twice"),
        (vec![wire::ReplicaReport { table_id: "x".into(), ..report() }], "replicas[0].table_id: \"x\""),
        (
            vec![wire::ReplicaReport {
                partitions: vec![wire::PartitionReport {
                    stall: Some(wire::StallReport { reason: None }),
                    ..Default::default()
                }],
                ..report()
            }],
            "replicas[0].stall.reason: not given",
        ),
    ] {
        let request = wire::HeartbeatRequest { node: "n1".into(), replicas, ..Default::default() };
        let status = agent.heartbeat(request).await.unwrap_err();
        assert!(status.message().contains(field), "{status}");
    }
    assert!(edge.daemon.asked.lock().unwrap().is_empty(), "nothing of it reached the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_clickhouse_that_calls_gets_its_first_shard_on_its_own_node() {
    let edge = Edge::start();
    let channel = tonic::transport::Endpoint::from_shared(edge.grpc.clone()).unwrap().connect_lazy();
    let mut routing = wire::routing_client::RoutingClient::new(channel);
    let table = wire::CreateTableRequest {
        ddl: "CREATE TABLE …".into(),
        partitions: 16,
        shards: 1,
        replicas: 2,
        partition_by: "a".into(),
        format: 1,
        ..Default::default()
    };
    let request = wire::CreateShardRequest { node: "n2".into(), table: Some(table) };
    let answer = routing.create_shard(request).await.unwrap().into_inner();
    assert_eq!(answer.table.unwrap().id, id().to_string());
    let Asked::Create(asked) = edge.daemon.last() else { panic!() };
    assert_eq!(asked.first_node, Some(node("n2")));
    // What was left out has its defaults.
    assert_eq!((asked.batch, asked.topic_replication), (BatchLimits::default(), -1));
    let none = wire::CreateShardRequest { node: "n2".into(), table: None };
    assert!(routing.create_shard(none).await.unwrap_err().message().contains("table: not given"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn lists_health_and_reflection_are_served() {
    let edge = Edge::start();
    let channel = tonic::transport::Endpoint::from_shared(edge.grpc.clone()).unwrap().connect_lazy();
    let mut control = wire::control_client::ControlClient::new(channel.clone());
    let tables = control.list_tables(wire::ListTablesRequest {}).await.unwrap().into_inner().tables;
    let nodes = control.list_nodes(wire::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!((tables.len(), nodes.len()), (1, 3));
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    for service in ["", "converthouse.v1.Control", "converthouse.v1.Routing", "converthouse.v1.Agent"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.into() };
        assert_eq!(health.check(request).await.unwrap().into_inner().status, 1, "{service:?} is serving");
    }
    let whole = tonic_health::pb::HealthCheckRequest { service: String::new() };
    let mut seen = health.watch(whole).await.unwrap().into_inner();
    assert_eq!(seen.message().await.unwrap().unwrap().status, 1);
    edge.not_ready.lock().unwrap().push("no daemon leads the cluster".into());
    assert_eq!(seen.message().await.unwrap().unwrap().status, 2, "not ready, so not serving");
    edge.not_ready.lock().unwrap().clear();
    assert_eq!(seen.message().await.unwrap().unwrap().status, 1);
    use tonic_reflection::pb::v1 as reflection;
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let ask = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(reflection::server_reflection_request::MessageRequest::ListServices(
            String::new(),
        )),
    };
    let answers = client.server_reflection_info(futures::stream::iter([ask])).await.unwrap();
    let answer = answers.into_inner().next().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains("converthouse.v1.Routing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn peers_share_a_connection_and_this_process_needs_none() {
    let edge = Edge::start();
    let elsewhere = Arc::new(GrpcPeers::new(Options::default()));
    assert!(Arc::ptr_eq(&elsewhere.daemon(&edge.grpc), &elsewhere.daemon(&edge.grpc)));
    let peers = LocalPeers::new(elsewhere);
    let here: Arc<dyn Daemon> = Arc::new(edge::Fake::default());
    peers.register("http://here:1", here.clone());
    assert!(Arc::ptr_eq(&peers.daemon("http://here:1"), &here));
    assert_eq!(peers.daemon(&edge.grpc).cluster_status().await.unwrap(), cluster());
    peers.forget("http://here:1");
    assert!(!Arc::ptr_eq(&peers.daemon("http://here:1"), &here));
}
