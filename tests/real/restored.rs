//! An older state of the metadata store, restored: what was split since is not removed because that state does not
//! know of it, until somebody says that it is to be so.

use super::elastic::operate;
use super::support::cluster::{Cluster, DDL, PARTITIONS};
use converthouse::model::control::ClusterStatus;
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

/// A table of one shard with two copies and 800 rows; what is moved is moved by hand.
async fn whole(nodes: usize) -> Cluster {
    let cluster = Cluster::start_standalone(nodes).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "1", "--replicas", "2", "--partition-by", "user"];
    let made = cluster.cli(&[&["table", "create", DDL, "--wait-complete"], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.cli(&["balance", "off"]).unwrap_or_else(|error| panic!("{error}"));
    cluster.produce(0..800).await;
    cluster.prove_events(800, 0).await;
    cluster
}

/// The store as it is, and another as it was.
struct Stores {
    present: PathBuf,
    kept: PathBuf,
}

impl Stores {
    fn of(cluster: &Cluster) -> Self {
        let folder = cluster.folder.path();
        Self { present: folder.join("daemon/metadata.redb"), kept: folder.join("kept.redb") }
    }

    fn keep(&self, cluster: &mut Cluster) {
        cluster.nodes[0].stop_daemon();
        std::fs::copy(&self.present, &self.kept).unwrap();
        cluster.nodes[0].start_daemon();
        cluster.until("the daemon to lead again", |status| status.tables[0].complete);
    }

    fn restore(&self, cluster: &mut Cluster) {
        cluster.nodes[0].stop_daemon();
        std::fs::copy(&self.kept, &self.present).unwrap();
        cluster.nodes[0].start_daemon();
    }
}

fn refusals(status: &ClusterStatus) -> usize {
    status.problems.iter().filter(|problem| problem.contains("CVH-0602")).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_of_the_store_removes_nothing_and_changes_no_route_until_it_is_told_to() {
    let mut cluster = whole(2).await;
    let stores = Stores::of(&cluster);
    stores.keep(&mut cluster);
    operate(&cluster, &["shard", "split", "shop.events"]);
    for node in 0..2 {
        until("the halves alone", async || shards_on(&cluster, node).await == ["s1", "s2"]).await;
    }

    stores.restore(&mut cluster);
    cluster.until("the older state to be told, on both nodes", |status| refusals(status) == 2);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_made_since_the_older_state_stays_however_many_topologies_that_publishes() {
    let mut cluster = whole(3).await;
    let stores = Stores::of(&cluster);
    stores.keep(&mut cluster);
    let table = cluster.table("shop.events").unwrap();
    let [shard] = &table.shards[..] else { panic!("{:?}", table.shards) };
    let holds = |node: &str| shard.replicas.iter().any(|replica| replica.node.as_str() == node);
    let (at, to) = (0..).zip(["n1", "n2", "n3"]).find(|(_, node)| !holds(node)).unwrap();
    // Not moved: whether the copy that it is moved from has been removed by then would be left to chance.
    operate(&cluster, &["shard", "add", "shop.events", "s0", to]);
    let published = cluster.table("shop.events").unwrap().epoch;

    stores.restore(&mut cluster);
    let began = Instant::now();
    cluster
        .until("the older state to be told, by the nodes that it speaks of", |status| refusals(status) == 2);
    // It goes on: its epochs pass the files'.
    let leaders: Vec<String> = shard.replicas.iter().map(|replica| replica.node.to_string()).collect();
    for leader in leaders.iter().cycle() {
        if cluster.table("shop.events").unwrap().epoch > published {
            break;
        }
        // Refused while another is under way.
        let _ = cluster.cli(&["shard", "lead", "shop.events", "s0", leader, "--no-wait"]);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(began.elapsed().as_secs() < 90, "{:?}", cluster.table("shop.events"));
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shards_on(&cluster, at).await, ["s0"], "the copy that the older state does not know");
    assert_eq!(refusals(&cluster.status().unwrap()), 2);
    assert_eq!(all_rows(&cluster, at).await, "800\t800", "by the routes from before");
}
