//! How fast one node takes rows from Kafka, beside the same rows piped straight into `clickhouse-client` on the same
//! server, in one run: `make bench-ingest`. Real Kafka, real ClickHouse, one daemon; ratios, not assertions.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, dead_code)]

#[path = "../tests/real/support/mod.rs"]
mod support;

use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::names::TopicPartition;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Instant;
use support::cluster::Cluster;

/// What clickhouse_sinker publishes for one Kafka partition, 754-byte rows, on 48 cores.
const SINKER_ROWS_PER_S: f64 = 142_000.0;
const PARTITIONS: u64 = 4;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("one node, {PARTITIONS} partitions; every rate in rows a second");
        for (size, rows) in [(200, 6_000_000), (750, 2_000_000)] {
            measure(size, rows).await;
        }
        println!(
            "for reference: clickhouse_sinker publishes {SINKER_ROWS_PER_S:.0} rows/s a Kafka partition (754 B, \
             48 cores)"
        );
    });
}

async fn measure(size: usize, rows: u64) {
    let mut cluster = Cluster::start(1, 1).await;
    let ddl = "CREATE TABLE bench.t (id UInt64, user UInt64, at DateTime, note String) \
               ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (user, at)";
    let partitions = PARTITIONS.to_string();
    let made = cluster.cli(&["table", "create", ddl, "--partitions", &partitions, "--partition-by", "id"]);
    made.unwrap_or_else(|error| panic!("{error}"));
    cluster.nodes[0].kill_daemon();
    let text = |id: u64| row(id, size);
    let produced = Instant::now();
    for start in (0..rows).step_by(20_000) {
        let message = |id: u64| Outgoing {
            target: TopicPartition { topic: format!("bench.t.{}", id % PARTITIONS), partition: 0 },
            payload: Some(text(id).into()),
            headers: vec![],
        };
        cluster.client.produce((start..rows.min(start + 20_000)).map(message).collect()).await.unwrap();
    }
    println!("{size:>4} B  {rows} rows waiting in Kafka after {:.0} s", produced.elapsed().as_secs_f64());
    let direct = direct(&cluster, rows, text).await;
    cluster.nodes[0].start_daemon();
    let (ingest, peak_mb) = ingest(&cluster, rows).await;
    println!(
        "{size:>4} B  from Kafka {ingest:>8.0}   clickhouse-client {direct:>8.0}   ratio {:.2}   \
         daemon's peak memory {peak_mb} MB",
        ingest / direct
    );
}

fn row(id: u64, size: usize) -> String {
    let user = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let head = format!("{{\"id\":{id},\"user\":{user},\"at\":\"2026-01-05 00:00:00\",\"note\":\"");
    let fill = size.saturating_sub(head.len() + 2);
    let mut text = head;
    text.extend(
        (0..fill).map(|at| char::from(b'a' + u8::try_from((id as usize * 7 + at * at) % 26).unwrap())),
    );
    text.push_str("\"}");
    text
}

/// The same rows, by the client that comes with the server, into a table of the same definition.
async fn direct(cluster: &Cluster, rows: u64, text: impl Fn(u64) -> String) -> f64 {
    let node = &cluster.nodes[0];
    node.query(
        "CREATE TABLE IF NOT EXISTS default.direct (id UInt64, user UInt64, at DateTime, note String) \
        ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (user, at)",
    )
    .await
    .unwrap();
    let file = cluster.folder.path().join("rows.json");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for id in 0..rows {
        writeln!(out, "{}", text(id)).unwrap();
    }
    out.into_inner().unwrap();
    let began = Instant::now();
    let status = Command::new("clickhouse-client")
        .args(["--port", &node.server.tcp_port().to_string(), "--password", "pass'word"])
        .args(["--query", "INSERT INTO default.direct FORMAT JSONEachRow"])
        .stdin(Stdio::from(std::fs::File::open(&file).unwrap()))
        .status()
        .unwrap();
    assert!(status.success());
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    std::fs::remove_file(&file).unwrap();
    node.query("DROP TABLE default.direct").await.unwrap();
    rate
}

/// From the daemon's start to the last row: its start counts against us.
async fn ingest(cluster: &Cluster, rows: u64) -> (f64, u64) {
    let node = &cluster.nodes[0];
    let began = Instant::now();
    loop {
        let shown = node.query("SELECT count() FROM bench.t").await;
        let count: u64 = shown.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if count >= rows {
            if count != rows {
                doubled(cluster).await;
            }
            assert_eq!(count, rows, "rows doubled");
            let status = std::fs::read_to_string(format!("/proc/{}/status", node.daemon_pid())).unwrap();
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            let kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
            return (rows as f64 / began.elapsed().as_secs_f64(), kb / 1024);
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// What there is to know when the impossible happened.
async fn doubled(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    for partition in 0..PARTITIONS {
        let source = TopicPartition { topic: format!("bench.t.{partition}"), partition: 0 };
        println!("{source}: {:?}", cluster.client.watermarks(&source).await);
    }
    let table = cluster.table("bench.t").unwrap();
    let name = converthouse::model::TableName { database: "bench".into(), table: "t".into() };
    let database = converthouse::model::names::replica_database(&name, table.id, table.shards[0].id);
    let sql = format!(
        "SELECT _cvh_partition, count(), uniqExact(_cvh_offset), min(_cvh_offset), max(_cvh_offset) \
         FROM `{database}`.local GROUP BY _cvh_partition ORDER BY _cvh_partition"
    );
    println!("{}", node.query(&sql).await.unwrap());
    println!("{}", node.log_tail());
}
