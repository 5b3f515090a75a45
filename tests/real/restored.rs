//! An older state of the metadata store, restored: what was split since is not removed because that state does not
//! know of it, until somebody says that it is to be so.

use super::elastic::operate;
use super::support::cluster::{Cluster, DDL, PARTITIONS};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Replica databases of a node, by their shards.
async fn shards_on(cluster: &Cluster, node: usize) -> Vec<String> {
    let sql = "SELECT name FROM system.databases WHERE name LIKE 'shop\\_\\_events%' ORDER BY name";
    let names = cluster.nodes[node].query(sql).await.unwrap();
    names.lines().filter_map(|name| Some(name.rsplit_once('_')?.1.to_owned())).collect()
}

async fn all_rows(cluster: &Cluster, node: usize) -> String {
    cluster.nodes[node].query("SELECT count(), uniqExact(id) FROM shop.events").await.unwrap_or_default()
}

async fn until(what: &str, wanted: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !wanted().await {
        assert!(began.elapsed().as_secs() < 90, "waited for {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_of_the_store_removes_nothing_and_changes_no_route_until_it_is_told_to() {
    let mut cluster = Cluster::start_standalone(2).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "1", "--replicas", "2", "--partition-by", "user"];
    let made = cluster.cli(&[&["table", "create", DDL, "--wait-complete"], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.cli(&["balance", "off"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..800).await;
    cluster.prove_events(800, 0).await;

    let store = cluster.folder.path().join("daemon/metadata.redb");
    let kept = cluster.folder.path().join("kept.redb");
    cluster.nodes[0].stop_daemon();
    std::fs::copy(&store, &kept).unwrap();
    cluster.nodes[0].start_daemon();
    cluster.until("the daemon to lead again", |status| status.tables[0].complete);
    operate(&cluster, &["shard", "split", "shop.events"]);
    for node in 0..2 {
        until("the halves alone", async || shards_on(&cluster, node).await == ["s1", "s2"]).await;
    }

    cluster.nodes[0].stop_daemon();
    std::fs::copy(&kept, &store).unwrap();
    cluster.nodes[0].start_daemon();
    cluster.until("the older state to be told, on both nodes", |status| {
        status.problems.iter().filter(|problem| problem.contains("CVH-0602")).count() == 2
    });
    cluster.produce(800..1_000).await;
    // The shard that the older state knows is made again from its topics, unread; nothing else changes.
    until("the old shard on both", async || {
        shards_on(&cluster, 0).await.len() == 3 && shards_on(&cluster, 1).await.len() == 3
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    for node in 0..2 {
        assert_eq!(shards_on(&cluster, node).await, ["s0", "s1", "s2"]);
        assert_eq!(all_rows(&cluster, node).await, "800\t800", "by the routes from before");
    }

    // So be it: the older state, from what the topics hold.
    cluster.nodes[0].stop_daemon();
    let files: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.server.routes_file()).collect();
    files.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    cluster.nodes[0].start_daemon();
    for node in 0..2 {
        until("the shard of the older state alone", async || shards_on(&cluster, node).await == ["s0"]).await;
        until("its rows", async || all_rows(&cluster, node).await == "1000\t1000").await;
    }
    assert!(cluster.status().unwrap().problems.is_empty(), "{:?}", cluster.status().unwrap().problems);
}
