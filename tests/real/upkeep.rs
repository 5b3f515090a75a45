//! What the cluster does by itself, on real servers under ingest: splits when nodes join, rebuilds what is lost, takes
//! copies from the most advanced replica, uses a node again that was drained.

use super::elastic::{all_right, create};
use super::support::cluster::Cluster;
use super::support::link::Weather;
use super::support::producer::Producer;
use super::support::readers::{Readers, prepare};
use converthouse::model::control::{ClusterStatus, TableStatus};

fn ok(cluster: &Cluster, arguments: &[&str]) -> String {
    cluster.cli(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

fn rows_everywhere(cluster: &Cluster) {
    cluster.until("rows in every shard", |status| {
        let shards = status.tables.iter().flat_map(|table| &table.shards);
        shards.flat_map(|shard| &shard.replicas).all(|replica| replica.rows > 0)
    });
}

/// Nodes that hold a replica that can be read, by shard.
fn holders(table: &TableStatus) -> Vec<Vec<String>> {
    let ready = |state: &str| ["ready", "leader"].contains(&state);
    let of = |shard: &converthouse::model::control::ShardStatus| {
        let replicas = shard.replicas.iter().filter(|replica| ready(&replica.state));
        replicas.map(|replica| replica.node.to_string()).collect()
    };
    table.shards.iter().map(of).collect()
}

fn held_by(status: &ClusterStatus, node: &str) -> u32 {
    status.nodes.iter().find(|n| n.id.as_str() == node).map_or(0, |n| n.replicas)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_splits_by_itself_when_a_node_joins_and_a_drained_node_is_used_again() {
    let mut cluster = Cluster::start(2, 1).await;
    let table = create(&cluster, 1).await;
    let stream = Producer::start(&cluster, 20_000);
    stream.flow(20_000).await;
    rows_everywhere(&cluster);
    let readers = Readers::of(&cluster, 2).await;
    cluster.add_node().await;
    cluster.nodes[2].until_routed(&table.cluster, "shop", "events").await;
    readers.add(&cluster.nodes[2], &table.cluster).await;
    cluster.until("two shards over three nodes", |status| {
        let table = &status.tables[0];
        table.shards.len() == 2 && table.complete && (1..=3).all(|n| held_by(status, &format!("n{n}")) > 0)
    });
    let operations = ok(&cluster, &["op", "list"]);
    assert!(operations.contains("nodes joined, or the shard has grown"), "{operations}");
    ok(&cluster, &["node", "drain", "n2", "--wait"]);
    assert_eq!(held_by(&cluster.status().unwrap(), "n2"), 0);
    ok(&cluster, &["node", "activate", "n2"]);
    cluster.until("the node to be used again", |status| {
        held_by(status, "n2") > 0 && status.tables.iter().all(|table| table.complete)
    });
    readers.flow(20).await;
    let rows = stream.end().await;
    all_right(&readers.end().await);
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_lost_node_held_is_rebuilt_elsewhere_and_then_it_is_forgotten() {
    let mut cluster = Cluster::start(4, 1).await;
    for node in &mut cluster.nodes {
        node.reconfigure("[log]", "[failover]\ndown_after_ms = 4000\n[log]");
        node.kill_daemon();
        node.start_daemon();
    }
    cluster.until("all nodes again", |status| {
        status.leader.is_some()
            && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
    });
    create(&cluster, 4).await;
    let stream = Producer::start(&cluster, 10_000);
    stream.flow(20_000).await;
    rows_everywhere(&cluster);
    let refused = cluster.cli(&["node", "remove", "n4"]).unwrap_err();
    assert!(refused.contains("CVH-0804") && refused.contains("the daemon of n4 runs"), "{refused}");
    // What the store says of it is looked at before it is rebuilt: a freeze keeps it there for that time.
    ok(&cluster, &["hold", "freeze", "--for", "10m", "--reason", "test"]);
    let mut lost = cluster.nodes.pop().unwrap();
    lost.kill_daemon();
    lost.server.kill().unwrap();
    cluster.until("its lease to be over", |status| status.nodes.iter().any(|node| !node.live));
    let refused = cluster.cli(&["node", "remove", "n4"]).unwrap_err();
    assert!(refused.contains("n4 still holds s") && refused.contains("of shop.events"), "{refused}");
    ok(&cluster, &["hold", "release"]);
    cluster.until("two replicas of each shard on nodes that live", |status| {
        let held = holders(&status.tables[0]);
        held.iter().all(|nodes| nodes.len() == 2 && !nodes.contains(&"n4".to_owned()))
            && held_by(status, "n4") == 0
    });
    let operations = ok(&cluster, &["op", "list"]);
    assert!(operations.contains("down for too long: node n4"), "{operations}");
    ok(&cluster, &["node", "remove", "n4"]);
    cluster.until("it to be forgotten", |status| status.nodes.len() == 3);
    let gone = cluster.cli(&["node", "remove", "n4"]).unwrap_err();
    assert!(gone.contains("CVH-0802"), "{gone}");
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_taken_from_the_most_advanced_replica() {
    let mut cluster = Cluster::start_linked(3, None, None).await;
    for node in &mut cluster.nodes {
        // Lags within ten messages of each other are alike.
        node.reconfigure("[log]", "[failover]\npreferred_leader_lag_max = 10\n[log]");
        node.kill_daemon();
        node.start_daemon();
    }
    cluster.until("all nodes again", |status| {
        status.leader.is_some()
            && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
    });
    ok(&cluster, &["balance", "off"]);
    let table = create(&cluster, 1).await;
    for node in &cluster.nodes {
        prepare(node, &table.cluster).await;
    }
    cluster.produce(0..10_000).await;
    cluster.until("both replicas to have taken all", |status| {
        let mut replicas = status.tables.iter().flat_map(|t| &t.shards).flat_map(|s| &s.replicas);
        replicas.all(|replica| replica.rows == 10_000)
    });
    let holds = || holders(&cluster.table("shop.events").unwrap()).remove(0);
    if !holds().contains(&"n1".to_owned()) {
        let from = holds().remove(0);
        ok(&cluster, &["shard", "move", "shop.events", "s0", &from, "n1"]);
    }
    let (other, free) = match holds().contains(&"n2".to_owned()) {
        true => ("n2", "n3"),
        false => ("n3", "n2"),
    };
    // The first node by name lives and can be read, but hears nothing from Kafka any more: without a look at how far
    // each has come it would be the source.
    let links = cluster.links.as_ref().unwrap();
    links.kafka.iter().for_each(|link| link.set(Weather::Silent));
    cluster.produce(10_000..20_000).await;
    cluster.until("one replica to lag behind the other", |status| {
        let replicas = &status.tables[0].shards[0].replicas;
        let lag = |node: &str| replicas.iter().find(|r| r.node.as_str() == node).and_then(|r| r.lag);
        lag("n1").is_some_and(|lag| lag >= 5_000) && lag(other) == Some(0)
    });
    ok(&cluster, &["shard", "add", "shop.events", "s0", free]);
    let copied: usize =
        cluster.nodes.iter().map(|node| node.said(&format!("s0 is copied from {other} to {free}"))).sum();
    assert!(copied >= 1, "not from {other} to {free}");
    cluster.links.as_ref().unwrap().kafka.iter().for_each(|link| link.set(Weather::Fair));
    let refused = cluster.cli(&["shard", "add", "shop.events", "s0", free]).unwrap_err();
    assert!(refused.contains("has a replica of s0 already"), "{refused}");
    ok(&cluster, &["shard", "remove", "shop.events", "s0", other]);
    let refused = cluster.cli(&["shard", "remove", "shop.events", "s0", "n1"]).unwrap_err();
    assert!(refused.contains("CVH-0804") && refused.contains("wants 2"), "{refused}");
    cluster.prove_events(20_000, 0).await;
}
