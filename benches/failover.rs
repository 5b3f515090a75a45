//! How long a cluster is without its leader, and a shard without its own, after `kill -9` of a daemon, against the
//! lease: `make bench-failover`. Real ClickHouse, Kafka and a three-member etcd.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, dead_code)]

#[path = "../tests/real/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};
use support::cluster::{Cluster, LEASE_TTL_MS};

const ROUNDS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut cluster = Cluster::start(3, 1).await;
        cluster.create_events(6);
        println!("lease {LEASE_TTL_MS} ms, {ROUNDS} rounds; times in ms from kill -9");
        let mut leader_times = Vec::new();
        let mut shard_times = Vec::new();
        for _ in 0..ROUNDS {
            leader_times.push(leader_killed(&mut cluster).await);
            shard_times.push(node_killed(&mut cluster).await);
        }
        report("leader's daemon -> another leader has written a record", &leader_times);
        report("a node's daemon -> its shard leaderships moved", &shard_times);
    });
}

fn report(what: &str, times: &[Duration]) {
    let ms: Vec<u128> = times.iter().map(Duration::as_millis).collect();
    let mean = ms.iter().sum::<u128>() as f64 / ms.len() as f64;
    let worst = *ms.iter().max().unwrap();
    println!(
        "{what}: mean {mean:.0}, worst {worst}, {:.2} of the lease on average; {ms:?}",
        mean / LEASE_TTL_MS as f64
    );
}

async fn wait(mut done: impl FnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    began.elapsed()
}

/// Until another leader has written a record: that somebody was elected is not that somebody acts.
async fn leader_killed(cluster: &mut Cluster) -> Duration {
    let leader = cluster.leader();
    let old = cluster.status().unwrap().term;
    cluster.nodes[leader].kill_daemon();
    let write = ["hold", "pause", "--for", "1s", "--reason", "to see a leader write"];
    let took = wait(|| cluster.cli(&write).is_ok()).await;
    assert!(cluster.status().unwrap().term > old, "the dead one wrote");
    whole_again(cluster, leader).await;
    took
}

async fn node_killed(cluster: &mut Cluster) -> Duration {
    let victim = (cluster.leader() + 1) % 3;
    let id = cluster.nodes[victim].id.clone();
    cluster.nodes[victim].kill_daemon();
    let led = |status: &converthouse::model::control::ClusterStatus| {
        let shards = || status.tables.iter().flat_map(|table| &table.shards);
        shards().any(|shard| shard.leader.as_ref().is_some_and(|leader| leader.as_str() == id))
    };
    let took = wait(|| cluster.status().is_ok_and(|status| !led(&status))).await;
    whole_again(cluster, victim).await;
    took
}

/// Starts the daemon again and waits until leaderships are where placement wants them.
async fn whole_again(cluster: &mut Cluster, number: usize) {
    cluster.nodes[number].start_daemon();
    wait(|| {
        cluster.status().is_ok_and(|status| {
            let mut shards = status.tables.iter().flat_map(|table| &table.shards);
            status.tables.iter().all(|table| table.complete) && shards.all(|s| s.leader == s.preferred_leader)
        })
    })
    .await;
}
