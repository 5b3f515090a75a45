//! Splits, moves, drains and joins on real servers, under ingest, with readers that judge every answer.

use super::support::cluster::{Cluster, Node, PARTITIONS};
use super::support::producer::Producer;
use super::support::readers::{Readers, Verdict, prepare};
use converthouse::model::control::{NodeStatus, OperationStatus, TableStatus};
use converthouse::model::operation::State;
use std::collections::BTreeMap;

/// The usual table in one month, so that every batch is one ClickHouse partition: prefixes are exact at any moment.
const DDL: &str = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, note String) \
                   ENGINE = MergeTree ORDER BY (user, at)";

pub async fn create(cluster: &Cluster, shards: u32) -> TableStatus {
    let (partitions, shards) = (PARTITIONS.to_string(), shards.to_string());
    let numbers =
        ["--partitions", &partitions, "--shards", &shards, "--replicas", "2", "--partition-by", "user"];
    let made = cluster.cli(&[&["table", "create", DDL], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    let table = cluster.table("shop.events").unwrap();
    for node in &cluster.nodes {
        prepare(node, &table.cluster).await;
    }
    table
}

pub fn operate(cluster: &Cluster, arguments: &[&str]) -> Vec<OperationStatus> {
    let said = cluster.cli(&[arguments, &["--json"]].concat()).unwrap_or_else(|error| panic!("{error}"));
    let ended: Vec<OperationStatus> = serde_json::from_str(&said).unwrap();
    assert!(!ended.is_empty());
    for status in &ended {
        assert_eq!(status.operation.state, State::Done, "{status:?}");
    }
    ended
}

pub fn all_right(verdict: &Verdict) {
    assert_eq!(verdict.wrong, Vec::<String>::new(), "of {} answers", verdict.answered);
    assert_eq!(verdict.unexplained, Vec::<String>::new(), "of {} answers", verdict.answered);
    let Verdict { answered, judged, .. } = verdict;
    println!("{answered} queries answered, {judged} judged by what every copy held: 0 wrong, 0 failed");
    assert!(*judged > 0, "nothing was known to judge answers by");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shards_split_merge_and_move_under_ingest_and_every_query_counts_every_row_once() {
    let cluster = Cluster::start(3, 1).await;
    let table = create(&cluster, 2).await;
    // What is moved here is moved by hand.
    cluster.cli(&["balance", "off"]).unwrap_or_else(|error| panic!("{error}"));
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(20_000).await;
    cluster.until("rows in every shard", |status| {
        let shards = status.tables.iter().flat_map(|table| &table.shards);
        shards.flat_map(|shard| &shard.replicas).all(|replica| replica.rows > 0)
    });
    let readers = Readers::of(&cluster, 3).await;
    readers.flow(20).await;
    for status in operate(&cluster, &["shard", "split", "shop.events"]) {
        let operation = &status.operation;
        println!("{} took {} ms", operation.kind, operation.ended_unix_ms - operation.started_unix_ms);
    }
    readers.flow(20).await;
    let split = cluster.table("shop.events").unwrap();
    assert_eq!((table.shards.len(), split.shards.len()), (2, 4));
    // The halves of one shard are on the same nodes.
    let halves = [&split.shards[0], &split.shards[1]].map(|shard| shard.id.to_string());
    operate(&cluster, &["shard", "merge", "shop.events", &halves[0], &halves[1]]);
    readers.flow(20).await;
    let merged = cluster.table("shop.events").unwrap();
    assert_eq!(merged.shards.len(), 3);
    assert_eq!(merged.shards[0].range, table.shards[0].range);
    let shard = &merged.shards[1];
    let holds = |node: &str| shard.replicas.iter().any(|replica| replica.node.as_str() == node);
    let from = shard.leader.clone().unwrap();
    let to = ["n1", "n2", "n3"].into_iter().find(|node| !holds(node)).unwrap();
    operate(&cluster, &["shard", "move", "shop.events", &shard.id.to_string(), from.as_str(), to]);
    readers.flow(20).await;
    stream.flow(5_000).await;
    let rows = stream.end().await;
    all_right(&readers.end().await);
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_joins_one_is_drained_and_one_dies_under_ingest() {
    let mut cluster = Cluster::start(3, 1).await;
    let table = create(&cluster, 4).await;
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(20_000).await;
    cluster.until("rows in every shard", |status| {
        let shards = status.tables.iter().flat_map(|table| &table.shards);
        shards.flat_map(|shard| &shard.replicas).all(|replica| replica.rows > 0)
    });
    cluster.add_node().await;
    cluster.nodes[3].until_routed(&table.cluster, "shop", "events").await;
    prepare(&cluster.nodes[3], &table.cluster).await;
    let readers = Readers::of(&cluster, 3).await;
    cluster.until("the new node to hold its share", |status| {
        let held: Vec<u32> = status.nodes.iter().map(|node| node.replicas).collect();
        held.len() == 4 && held.iter().max().unwrap() - held.iter().min().unwrap() <= 1
    });
    let drained = cluster.cli(&["node", "drain", "n1", "--wait"]);
    drained.unwrap_or_else(|error| panic!("{error}"));
    readers.flow(30).await;
    all_right(&readers.end().await);
    cluster.nodes[1].kill_daemon();
    stream.flow(5_000).await;
    cluster.nodes[1].start_daemon();
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

/// Bytes by shard's database, as its server has them once it has merged what it can: what is compared is rows, not how
/// far merges have come.
async fn merged_bytes(node: &Node) -> BTreeMap<String, u64> {
    let databases =
        node.query("SELECT DISTINCT database FROM system.parts WHERE active AND table = 'local'").await;
    for database in databases.unwrap().lines() {
        node.query(&format!("OPTIMIZE TABLE `{database}`.local FINAL")).await.unwrap();
    }
    let bytes = "SELECT database, sum(bytes_on_disk) FROM system.parts WHERE active AND table = 'local' \
                 GROUP BY database";
    let rows = node.query(bytes).await.unwrap();
    let row =
        |row: &str| row.split_once('\t').map(|(database, bytes)| (database.into(), bytes.parse().unwrap()));
    rows.lines().filter_map(row).collect()
}

/// Shards are alike here, so nothing excuses the cluster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fourth_node_gets_a_quarter_of_the_bytes_and_nothing_else_moves() {
    let mut cluster = Cluster::start(3, 1).await;
    create(&cluster, 8).await;
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(200_000).await;
    let mut before = Vec::new();
    for node in &cluster.nodes {
        before.push(merged_bytes(node).await);
    }
    cluster.add_node().await;
    cluster.until("four copies on each node, and two that lead", |status| {
        let even = |node: &NodeStatus| (node.replicas, node.leaders) == (4, 2);
        status.nodes.len() == 4 && status.nodes.iter().all(even) && status.tables[0].complete
    });
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
    let (mut held, mut moved) = (Vec::new(), 0);
    for (number, node) in cluster.nodes.iter().enumerate() {
        let now = merged_bytes(node).await;
        let new = |database: &str| before.get(number).is_none_or(|before| !before.contains_key(database));
        moved += now.iter().filter(|(database, _)| new(database)).map(|(_, bytes)| bytes).sum::<u64>();
        held.push(now.values().sum::<u64>());
    }
    let share = held.iter().sum::<u64>() / 4;
    println!("bytes by node {held:?}, moved {moved}: a quarter of all is {share}");
    assert!(held.iter().all(|held| held.abs_diff(share) * 20 <= share), "not within 5 %: {held:?}");
    // Less than a quarter would not do: the new node had nothing.
    assert!(moved * 10 <= share * 11, "{moved} bytes moved of {held:?}");
    let plan = cluster.cli(&["plan", "--json"]).unwrap_or_else(|error| panic!("{error}"));
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    for what in ["splits", "moves"] {
        assert_eq!(plan[what], serde_json::json!([]), "a second plan moves on: {plan}");
    }
}
