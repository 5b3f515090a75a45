//! The product's sentence, proven on real servers: ingest, readers that judge every answer, and a nemesis that joins,
//! splits, moves, drains, kills, stops, cuts off and fills a disk, by a seed. No row lost, none twice, no answer wrong.
//!
//! `make proof MINUTES=10 SEED=3` runs it for longer; `make test` for two minutes. A disk is filled where a small file
//! system can be mounted (by root, and always in CI), and a node's cable is pulled where it can have a network
//! namespace of its own; elsewhere the list of what was done says that it was not.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    dead_code
)]

mod blows;
mod nemesis;
#[path = "../real/support/mod.rs"]
mod support;
mod watcher;
mod works;

use nemesis::Nemesis;
use std::time::{Duration, Instant};
use support::cluster::{Cluster, PARTITIONS};
use support::disk::SmallDisk;
use support::namespace::Namespace;
use support::producer::Producer;
use support::readers::Readers;
use watcher::{Down, Watcher};

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
    println!("proof: {minutes} minutes, seed {seed}, at least {rate} rows/s");
    // Taken away after the cluster.
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mount(&folder.path().join("disk"), DISK_MEBIBYTES);
    let data = disk.as_ref().map(|disk| disk.path().join("data"));
    let mut cluster = Cluster::start_linked(4, data, Namespace::make()).await;
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "2", "--replicas", "2", "--partition-by", "user"];
    cluster
        .cli(&[&["table", "create", DDL], &numbers[..]].concat())
        .unwrap_or_else(|error| panic!("{error}"));
    let name = cluster.table("shop.events").unwrap().cluster;
    // A broker that is killed must not bring it below what is demanded.
    let producer = Producer::start(&cluster, rate + rate / 40);
    producer.flow(20_000).await;
    cluster.until("rows in every shard", |status| {
        let shards = status.tables.iter().flat_map(|table| &table.shards);
        shards.flat_map(|shard| &shard.replicas).all(|replica| replica.rows > 0)
    });
    let down = Down::default();
    let readers = Readers::start(4, down.servers.clone());
    for node in &cluster.nodes {
        readers.add(node, &name).await;
    }
    let watcher = Watcher::start(&cluster, down.clone(), producer.sent());
    let mut nemesis = Nemesis::new(seed, down, name, disk.as_ref());
    nemesis.rage(&mut cluster, &readers, Duration::from_secs(60 * minutes)).await;
    nemesis.heal(&mut cluster).await;
    let sent_per_s = producer.rows_per_s();
    let rows = producer.end().await;
    let caught_up = Instant::now();
    let tally = Tally::once_settled(&cluster, rows).await;
    let caught_up = caught_up.elapsed();
    let times = watcher.end().await;
    let verdict = readers.end().await;
    println!("what was done:");
    nemesis.done.iter().for_each(|(what, times)| println!("  {times:>4}  {what}"));
    println!("operations, as far as they are kept:");
    nemesis::ended(&cluster).iter().for_each(|(what, times)| println!("  {times:>4}  {what}"));
    println!("blows {}, of these while an operation was under way {}", nemesis.blows, nemesis.hits);
    if !nemesis.left.is_empty() {
        println!("blows that did NOT come up in this time: {:?}", nemesis.left);
    }
    print!("{verdict}{times}");
    println!("rows sent {rows}, lost {}, twice {}", tally.lost, tally.twice);
    let pace = if sent_per_s >= rate as f64 { "as demanded" } else { "LESS than demanded" };
    println!(
        "rows/s sent {sent_per_s:.0}, demanded {rate}: {pace}; every replica had them {:.1} s after the last",
        caught_up.as_secs_f64()
    );
    assert_eq!((tally.lost, tally.twice), (0, 0));
    cluster.prove_events(rows, 0).await;
    assert_eq!(verdict.wrong, Vec::<String>::new());
    assert_eq!(verdict.unexplained, Vec::<String>::new());
    assert!(verdict.answered >= 100 * minutes, "{} answers are too few to prove anything", verdict.answered);
    assert!(verdict.judged > verdict.unjudged, "{} of {} judged", verdict.judged, verdict.answered);
    assert!(nemesis.hits > 0, "no operation was hit");
    // In less time not everything comes up, and a machine that has others to serve may be slow for a while.
    if minutes >= 10 {
        assert_eq!(nemesis.left, nemesis.impossible(&cluster), "these blows did not come up");
        let ended = nemesis::ended(&cluster);
        let undone =
            ["split done", "merge done", "move done"].into_iter().find(|what| !ended.contains_key(*what));
        assert_eq!(undone, None, "of {ended:?}");
        let asked = ["asked: node joined", "asked: node drained"];
        let unasked = asked.into_iter().find(|what| !nemesis.done.contains_key(*what));
        assert_eq!(unasked, None, "of {:?}", nemesis.done);
        assert!(sent_per_s >= rate as f64, "{sent_per_s:.0} rows/s sent, {rate} demanded");
    }
}

/// What is there at the end, by the answers of all nodes: the worst.
struct Tally {
    lost: u64,
    twice: u64,
}

impl Tally {
    /// Once nothing is missing, or nothing has come for a while.
    async fn once_settled(cluster: &Cluster, rows: u64) -> Self {
        let (mut before, mut since) = (0, Instant::now());
        loop {
            let (mut least, mut twice) = (u64::MAX, 0);
            for node in &cluster.nodes {
                let said = node.query("SELECT count(), uniqExact(id) FROM shop.events").await.unwrap();
                let (count, distinct) = said.split_once('\t').unwrap();
                let (count, distinct): (u64, u64) = (count.parse().unwrap(), distinct.parse().unwrap());
                (least, twice) = (least.min(distinct), twice.max(count - distinct));
            }
            if least != before {
                (before, since) = (least, Instant::now());
            }
            if least >= rows || since.elapsed() > Duration::from_secs(60) {
                return Self { lost: rows.saturating_sub(least), twice };
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }
}
