//! Standalone mode, from end to end: one process, an embedded store, several ClickHouse servers. And what of the
//! formats, the layouts of topics and gRPC's own verbs is the same in every mode, through a real daemon.

use super::support::cluster::{Cluster, DDL};
use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::names::TopicPartition;
use converthouse::wire;
use converthouse::wire::routing_client::RoutingClient;
use std::time::{Duration, Instant};

const PARTITIONS: u64 = 4;
/// Rows of one message.
const ROWS: u64 = 5;

/// Message `number` of each partition, whose rows `write` writes.
fn messages(
    numbers: std::ops::Range<u64>,
    one_topic: Option<&str>,
    write: fn(u64) -> String,
) -> Vec<Outgoing> {
    let message = |number: u64, partition: u64| {
        let target = match one_topic {
            Some(topic) => {
                TopicPartition { topic: topic.into(), partition: i32::try_from(partition).unwrap() }
            }
            None => TopicPartition { topic: format!("shop.lines.{partition}"), partition: 0 },
        };
        let rows = (0..ROWS).map(|row| write((number * ROWS + row) * PARTITIONS + partition));
        // A producer may end its last row or not.
        let text = rows.collect::<Vec<_>>().join("\n") + if number.is_multiple_of(2) { "\n" } else { "" };
        Outgoing { target, payload: Some(text.into()), headers: vec![] }
    };
    numbers.flat_map(|number| (0..PARTITIONS).map(move |partition| message(number, partition))).collect()
}

fn csv(id: u64) -> String {
    format!("{id},\"say \"\"{id}\"\", twice\nover two lines\"")
}

fn tsv(id: u64) -> String {
    format!("{id}\ta tab\\tand a line\\nand a back\\\\slash of {id}")
}

fn create(cluster: &Cluster, table: &str, more: &[&str]) {
    let ddl = format!("CREATE TABLE shop.{table} (id UInt64, note String) ENGINE = MergeTree ORDER BY id");
    let numbers = ["--partitions", "4", "--shards", "2", "--replicas", "2", "--partition-by", "id"];
    let made = cluster.cli(&[&["table", "create", &ddl, "--wait-complete"], &numbers[..], more].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_takes_csv_and_tsv_messages_of_several_rows_for_several_servers_across_a_kill() {
    let mut cluster = Cluster::start_standalone(2).await;
    create(&cluster, "orders", &["--format", "CSV", "--topic-layout", "one-topic"]);
    create(&cluster, "lines", &["--format", "TSV"]);
    let orders = |numbers| messages(numbers, Some("shop.orders"), csv);
    let lines = |numbers| messages(numbers, None, tsv);
    cluster.client.produce([orders(0..60), lines(0..60)].concat()).await.unwrap();
    cluster.nodes[0].kill_daemon();
    cluster.client.produce([orders(60..100), lines(60..100)].concat()).await.unwrap();
    cluster.nodes[0].start_daemon();
    let rows = 100 * ROWS * PARTITIONS;
    // Several rows have one offset here: that none is missing shows in the ids, below.
    cluster.prove("shop.orders", rows, 1).await;
    cluster.prove("shop.lines", rows, 1).await;
    let whole = format!("{rows}\t{rows}\t{}\t{rows}", rows - 1);
    for node in &cluster.nodes {
        for (table, note) in [
            ("orders", "concat('say \"', toString(id), '\", twice\\nover two lines')"),
            ("lines", "concat('a tab\\tand a line\\nand a back\\\\slash of ', toString(id))"),
        ] {
            let sql =
                format!("SELECT count(), uniqExact(id), max(id), countIf(note = {note}) FROM shop.{table}");
            assert_eq!(node.query(&sql).await.unwrap(), whole, "{table} on {}", node.id);
        }
    }
    // Kafka knows one topic of four partitions, and four of one.
    let of = |topic: &str, partition| TopicPartition { topic: topic.into(), partition };
    for source in [of("shop.orders", 3), of("shop.lines.3", 0)] {
        assert_eq!(cluster.client.watermarks(&source).await.unwrap().high, 100, "{source:?}");
    }
}

fn cut(routes: &wire::Routes) -> Vec<(u32, u32)> {
    routes.shards.iter().map(|shard| (shard.range_lo, shard.range_hi)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_that_calls_gets_its_shard_here_and_a_watch_of_routes_shows_every_epoch_to_the_end() {
    let mut cluster = Cluster::start_standalone(2).await;
    let mut routing = RoutingClient::connect(cluster.nodes[0].grpc_url.clone()).await.unwrap();
    let table = wire::CreateTableRequest {
        ddl: "CREATE TABLE shop.calls (id UInt64) ENGINE = MergeTree ORDER BY id".into(),
        partitions: 8,
        shards: 1,
        replicas: 2,
        partition_by: "id".into(),
        format: wire::RowFormat::JsonEachRow as i32,
        ..Default::default()
    };
    let request = wire::CreateShardRequest { node: "n2".into(), table: Some(table) };
    let nowhere = wire::CreateShardRequest { node: "n9".into(), ..request.clone() };
    let refused = routing.create_shard(nowhere).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    assert!(refused.message().contains("node n9 does not exist"), "{refused}");
    // Had it left anything of the table, this one would be refused.
    let made = routing.create_shard(request.clone()).await.unwrap().into_inner().table.unwrap();
    assert_eq!(made.shards.len(), 1, "{made:?}");
    assert_eq!(made.shards[0].replicas[0].node, "n2", "the caller's own copy is the first, at once");
    let again = routing.create_shard(request).await.unwrap_err();
    assert_eq!(again.code(), tonic::Code::AlreadyExists, "{again}");
    cluster.until("the table to be complete", |status| status.tables.iter().all(|table| table.complete));

    let asked = wire::WatchRoutesRequest { database: "shop".into(), table: "calls".into() };
    let mut watch = routing.watch_routes(asked.clone()).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap().routes.unwrap();
    assert_eq!(cut(&first), [(0, 8)]);
    let nodes: Vec<_> = first.shards[0].replicas.iter().map(|replica| replica.node.as_str()).collect();
    assert_eq!(nodes, ["n2", "n1"], "the leader first");
    cluster.cli(&["shard", "split", "shop.calls", "s0", "--at", "3"]).unwrap();
    cluster.cli(&["shard", "split", "shop.calls", "s2"]).unwrap();
    let mut epoch = first.epoch;
    let mut seen = vec![cut(&first)];
    while seen.last().unwrap().len() < 3 {
        let next =
            tokio::time::timeout(Duration::from_secs(30), watch.message()).await.expect("told in time");
        let routes = next.unwrap().expect("it goes on").routes.unwrap();
        assert!(routes.epoch > epoch, "{} after {epoch}", routes.epoch);
        epoch = routes.epoch;
        if seen.last() != Some(&cut(&routes)) {
            seen.push(cut(&routes));
        }
    }
    assert!(seen.contains(&vec![(0, 3), (3, 8)]), "{seen:?}");
    let unknown = wire::WatchRoutesRequest { table: "nobody".into(), ..asked };
    assert_eq!(routing.watch_routes(unknown).await.unwrap_err().code(), tonic::Code::NotFound);
    // A watch that is open holds up nobody's end.
    assert!(cluster.nodes[0].stop_daemon().success());
    let end = tokio::time::timeout(Duration::from_secs(5), watch.message()).await.expect("it ends");
    assert!(matches!(end, Ok(None) | Err(_)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_replica_of_the_first_shard_takes_rows_and_answers_before_there_is_a_second() {
    let mut cluster = Cluster::start_standalone(2).await;
    cluster.nodes[1].server.kill().unwrap();
    cluster.until("the second server to be known to be down", |status| {
        status.nodes.iter().any(|node| node.id.as_str() == "n2" && node.clickhouse_up == Some(false))
    });
    let numbers = ["--partitions", "8", "--replicas", "2", "--partition-by", "user", "--first-node", "n1"];
    let made = cluster.cli(&[&["table", "create", DDL], &numbers[..]].concat());
    let made = made.unwrap_or_else(|error| panic!("{error}"));
    assert!(made.contains("usable; further replicas follow by themselves"), "{made}");
    cluster.produce(0..1_000).await;
    let began = Instant::now();
    loop {
        // The table is usable: whoever asks it is answered, from the first time on.
        let shown = cluster.nodes[0].query("SELECT count(), uniqExact(id) FROM shop.events").await.unwrap();
        if shown == "1000\t1000" {
            break;
        }
        assert!(began.elapsed().as_secs() < 30, "{shown}:\n{}", cluster.nodes[0].log_tail());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let table = cluster.table("shop.events").unwrap();
    let on: Vec<_> = table.shards[0].replicas.iter().map(|replica| replica.node.as_str()).collect();
    assert_eq!((table.shards.len(), on), (1, vec!["n1"]), "{table:?}");
    assert!(table.usable && !table.complete, "{table:?}");
    assert!(table.waiting_for.iter().any(|what| what == "1 more node(s) for shard s0"), "{table:?}");
    cluster.nodes[1].server.start().await.unwrap();
    cluster.prove_events(1_000, 0).await;
    let replicas = cluster.table("shop.events").unwrap().shards[0].replicas.len();
    assert_eq!(replicas, 2, "the second has followed by itself");
}
