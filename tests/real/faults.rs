//! Every part is killed with SIGKILL while rows come in; afterwards each replica holds each row once, without a gap,
//! and replicas are equal.

use super::stalls::inserts;
use super::support::cluster::{Cluster, DDL, PARTITIONS};
use super::support::producer::Producer;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_during_ingest_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for round in 0..3 {
        stream.flow(5_000).await;
        let victim = (cluster.leader() + round) % 3;
        cluster.nodes[victim].kill_daemon();
        stream.flow(5_000).await;
        cluster.nodes[victim].start_daemon();
    }
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_killed_during_create_leaves_the_table_to_the_next() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader();
    let other = (leader + 1) % 3;
    let made = cluster.nodes[leader].cli(&[
        "table",
        "create",
        DDL,
        "--partitions",
        "8",
        "--shards",
        "8",
        "--replicas",
        "2",
        "--partition-by",
        "user",
        "--no-wait",
    ]);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.nodes[leader].kill_daemon();
    let survivor = cluster.nodes[other].grpc_url.clone();
    assert!(!survivor.is_empty());
    cluster.produce(0..10_000).await;
    cluster.until("another daemon to lead", |status| {
        status.leader.as_ref().is_some_and(|id| id.as_str() != format!("n{}", leader + 1))
    });
    cluster.nodes[leader].start_daemon();
    cluster.prove_events(10_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_made_though_the_leaders_clickhouse_is_down() {
    let mut cluster = Cluster::start(3, 1).await;
    let leader = cluster.leader();
    cluster.nodes[leader].server.kill().unwrap();
    let numbers =
        ["--partitions", "8", "--shards", "4", "--replicas", "2", "--partition-by", "user", "--no-wait"];
    let arguments = [&["table", "create", DDL][..], &numbers[..]].concat();
    let made = cluster.nodes[leader].cli(&arguments);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.nodes[leader].server.start().await.unwrap();
    cluster.produce(0..2_000).await;
    cluster.prove_events(2_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clickhouse_killed_during_inserts_over_two_months_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for round in 0..4 {
        stream.flow(3_000).await;
        cluster.nodes[round % 3].server.kill().unwrap();
        stream.flow(2_000).await;
        cluster.nodes[round % 3].server.start().await.unwrap();
    }
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

/// Has a command carried out, by whichever leader there is before long.
async fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let asked = std::time::Instant::now();
    loop {
        match cluster.cli(arguments) {
            Ok(said) => return said,
            Err(error) => assert!(asked.elapsed().as_secs() < 30, "{arguments:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_member_killed_stops_neither_ingest_nor_control() {
    let mut cluster = Cluster::start(3, 1).await;
    cluster.create_events(4);
    let stream = Producer::start(&cluster, 20_000);
    for member in 0..3 {
        stream.flow(3_000).await;
        cluster.kill_etcd(member);
        for node in &cluster.nodes {
            inserts(node).await;
        }
        // What an operator asks for is written to the store by whoever leads, and comes back by the mirrors.
        let reason = format!("without member {member}");
        done(&cluster, &["hold", "pause", "shop.events", "--for", "1h", "--reason", &reason]).await;
        let held = done(&cluster, &["hold", "list"]).await;
        assert!(held.contains(&reason), "{held}");
        stream.flow(3_000).await;
        cluster.start_etcd(member);
        stream.flow(3_000).await;
    }
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

/// Of the usual table: one for each partition, and the one for dead letters.
const TOPICS: u64 = PARTITIONS + 1;

/// On which brokers a topic's one partition is, and on which of them it is in sync.
#[derive(Debug)]
struct Copies {
    on: Vec<i32>,
    in_sync: Vec<i32>,
}

/// Those of the usual table's topics, as the brokers tell.
fn copies(cluster: &Cluster) -> Result<BTreeMap<String, Copies>, KafkaError> {
    let mut config = ClientConfig::new();
    let looker: BaseConsumer =
        config.set("bootstrap.servers", cluster.kafka.brokers.bootstrap()).create().unwrap();
    let told = looker.fetch_metadata(None, Duration::from_secs(10))?;
    let copies = |topic: &MetadataTopic| {
        let partition = topic.partitions().first()?;
        let copies = Copies { on: partition.replicas().to_vec(), in_sync: partition.isr().to_vec() };
        Some((topic.name().to_owned(), copies))
    };
    let own = told.topics().iter().filter(|topic| topic.name().starts_with("shop.events."));
    Ok(own.filter_map(copies).collect())
}

/// Waits until all of the table's topics are as wanted. While a broker goes or comes the others may not tell.
async fn until_copies(cluster: &Cluster, what: &str, wanted: impl Fn(&Copies) -> bool) {
    let began = Instant::now();
    loop {
        let told = copies(cluster);
        let all =
            |topics: &BTreeMap<String, Copies>| topics.len() as u64 == TOPICS && topics.values().all(&wanted);
        if told.as_ref().is_ok_and(all) {
            return;
        }
        assert!(began.elapsed().as_secs() < 90, "waited for {what}: {told:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kafka_broker_killed_loses_and_doubles_nothing() {
    let mut cluster = Cluster::start(3, 3).await;
    // By themselves these brokers make three.
    let copies_wanted = ["--topic-replication", "2"];
    let numbers = ["--partitions", "8", "--shards", "4", "--replicas", "2", "--partition-by", "user"];
    let made = cluster.cli(&[&["table", "create", DDL], &numbers[..], &copies_wanted[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    let topics = copies(&cluster).unwrap();
    let own = (0..PARTITIONS).map(|partition| format!("shop.events.{partition}"));
    let own: BTreeSet<String> = own.chain(["shop.events.dead-letter".to_owned()]).collect();
    assert_eq!(topics.keys().cloned().collect::<BTreeSet<_>>(), own);
    assert!(topics.values().all(|copies| copies.on.len() == 2), "{topics:?}");
    let stream = Producer::start(&cluster, 20_000);
    for broker in 0..2 {
        stream.flow(3_000).await;
        cluster.kafka.brokers.kill(broker).unwrap();
        let id = i32::try_from(broker + 1).unwrap();
        until_copies(&cluster, "the others to go on alone", |copies| !copies.in_sync.contains(&id)).await;
        stream.flow(3_000).await;
        cluster.kafka.brokers.restart(broker).await.unwrap();
        // Else a topic's only copy in sync might be on the next one.
        until_copies(&cluster, "both copies to be in sync", |copies| copies.in_sync.len() == 2).await;
    }
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_killed_and_daemons_started_first_wait_for_the_rest_and_go_on() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.produce(0..5_000).await;
    cluster.kill_everything();
    cluster.start_daemons();
    // Without its store a daemon still answers, and says what is missing.
    let began = std::time::Instant::now();
    let told = loop {
        match cluster.cli(&["status"]) {
            Ok(told) => break told,
            Err(error) => assert!(began.elapsed().as_secs() < 20, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert!(told.contains("no daemon leads"), "{told}");
    cluster.start_store();
    cluster.until("servers that are down to be told", |status| {
        status.problems.iter().filter(|problem| problem.contains("CVH-0401")).count() >= 2
    });
    cluster.until("brokers that are down to be told by each node, with what helps", |status| {
        let words = ["Kafka does not answer it", "CVH-0501", "[kafka] brokers"];
        let told = |problem: &&String| words.iter().all(|word| problem.contains(word));
        status.problems.iter().filter(told).count() == 2
    });
    cluster.start_servers().await;
    cluster.start_queue().await;
    cluster.until("brokers that are back not to be told", |status| {
        !status.problems.iter().any(|problem| problem.contains("Kafka does not answer it"))
    });
    cluster.produce(5_000..8_000).await;
    cluster.prove_events(8_000, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_for_clickhouse_is_told_with_its_code_and_stops_nobody_else() {
    let mut cluster = Cluster::start(2, 1).await;
    cluster.create_events(2);
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].reconfigure("clickhouse_password = \"pass'word\"", "clickhouse_password = \"wrong\"");
    cluster.nodes[0].start_daemon();
    cluster.until("the refusal to be told", |status| {
        status.problems.iter().any(|problem| problem.contains("n1") && problem.contains("CVH-0403"))
    });
    cluster.produce(0..3_000).await;
    cluster.nodes[0].kill_daemon();
    cluster.nodes[0].reconfigure("clickhouse_password = \"wrong\"", "clickhouse_password = \"pass'word\"");
    cluster.nodes[0].start_daemon();
    cluster.prove_events(3_000, 0).await;
}
