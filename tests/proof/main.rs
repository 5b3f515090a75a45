//! The product's sentence, proven on real servers: ingest, readers that judge every answer, and a nemesis that joins,
//! splits, moves, drains, kills, stops, cuts off and fills a disk, by a seed. No row lost, none twice, no answer wrong.
//!
//! `make proof MINUTES=10 SEED=3` runs it for longer; `make test` for two minutes. A disk is filled where a small file
//! system can be mounted (by root, and always in CI); elsewhere the list of what was done says that it was not.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    dead_code
)]

mod nemesis;
#[path = "../real/support/mod.rs"]
mod support;
mod watcher;

use nemesis::Nemesis;
use std::time::Duration;
use support::cluster::{Cluster, PARTITIONS};
use support::disk::SmallDisk;
use support::producer::Producer;
use support::readers::{Outages, Readers};
use watcher::Watcher;

/// One month, so that every batch is one ClickHouse partition: each is there whole or not at all, at any moment.
const DDL: &str = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, note String) \
                   ENGINE = MergeTree ORDER BY (user, at)";

/// The first node's disk while it is not full; memory is taken only as far as it is used.
pub const DISK_MEBIBYTES: u32 = 4_096;

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    if text.is_empty() { default } else { text.parse().unwrap_or_else(|_| panic!("{name}={text}: a number")) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_query_counts_every_row_once_whatever_happens() {
    let minutes = number("CONVERTHOUSE_PROOF_MINUTES", 2);
    let seed = number("CONVERTHOUSE_PROOF_SEED", 1);
    let rate = number("CONVERTHOUSE_PROOF_ROWS_PER_S", 20_000);
    println!("proof: {minutes} minutes, seed {seed}, at most {rate} rows/s");
    // Taken away after the cluster.
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), DISK_MEBIBYTES);
    let data = disk.as_ref().map(|disk| disk.path().join("data"));
    let mut cluster = Cluster::start_linked(4, data).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "2", "--replicas", "2", "--partition-by", "user"];
    cluster
        .cli(&[&["table", "create", DDL], &numbers[..]].concat())
        .unwrap_or_else(|error| panic!("{error}"));
    let name = cluster.table("shop.events").unwrap().cluster;
    let producer = Producer::start(&cluster, rate);
    producer.flow(20_000).await;
    cluster.until("rows in every shard", |status| {
        let shards = status.tables.iter().flat_map(|table| &table.shards);
        shards.flat_map(|shard| &shard.replicas).all(|replica| replica.rows > 0)
    });
    let outages = Outages::default();
    let readers = Readers::start(4, outages.clone());
    for node in &cluster.nodes {
        readers.add(node, &name).await;
    }
    let watcher = Watcher::start(&cluster);
    let mut nemesis = Nemesis::new(seed, outages, name, disk.as_ref());
    nemesis.rage(&mut cluster, &readers, Duration::from_secs(60 * minutes)).await;
    nemesis.heal(&mut cluster).await;
    let rows = producer.end().await;
    let times = watcher.end().await;
    let verdict = readers.end().await;
    println!("what was done:");
    nemesis.done.iter().for_each(|(what, times)| println!("  {times:>4}  {what}"));
    println!("{verdict}{times}");
    // Lost or double rows are found here.
    cluster.prove_events(rows, 0).await;
    println!(
        "{rows} rows sent, each once in each replica of its shard and in the answer of each node: 0 lost, 0 twice"
    );
    assert_eq!(verdict.wrong, Vec::<String>::new());
    assert_eq!(verdict.unexplained, Vec::<String>::new());
    assert!(verdict.answered >= 100 * minutes, "{} answers are too few to prove anything", verdict.answered);
}
