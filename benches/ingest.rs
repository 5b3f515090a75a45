//! How fast one node takes rows from Kafka, beside the same rows piped straight into `clickhouse-client` on the same
//! server, in one run: `make bench-ingest`. The client puts them into a table like the shard's own, with the same
//! hidden columns and keys, filled from the row itself; then into one of the user's columns alone. Then queries through
//! the `Distributed` table, beside the same ones to such a plain table of the same rows. Real Kafka, real ClickHouse,
//! one daemon; ratios, not assertions. Each run does assert that every row is there once.
//!
//! `cargo bench --bench ingest -- small 10` runs ten short rounds of 200-byte rows.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, dead_code)]

#[path = "../tests/real/support/mod.rs"]
mod support;

use converthouse::adapters::kafka::{Kafka, Outgoing};
use converthouse::model::names::TopicPartition;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, Node};

/// What clickhouse_sinker publishes for one Kafka partition, 754-byte rows, on 48 cores.
const SINKER_ROWS_PER_S: f64 = 142_000.0;
const PARTITIONS: u64 = 8;
const COLUMNS: &str = "id UInt64, user UInt64, at DateTime, note String";
const ENGINE: &str = "ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (user, at)";
/// How often each query is asked of each table.
const ASKED: usize = 15;
/// Of the client's rate, with rows of either size.
const AIM: f64 = 0.7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let rounds = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(1);
    let small = arguments.iter().any(|argument| argument == "small");
    let plan: &[(usize, u64)] =
        if small { &[(200, 1_500_000)] } else { &[(200, 6_000_000), (750, 2_000_000)] };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        println!("one node, {PARTITIONS} partitions; every rate in rows a second");
        for _ in 0..rounds {
            for (size, rows) in plan {
                measure(*size, *rows).await;
            }
        }
        println!(
            "for reference: clickhouse_sinker publishes {SINKER_ROWS_PER_S:.0} rows/s a Kafka partition (754 B, \
             48 cores)"
        );
    });
}

async fn measure(size: usize, rows: u64) {
    let mut cluster = Cluster::start(1, 1).await;
    let ddl = &format!("CREATE TABLE bench.t ({COLUMNS}) {ENGINE}");
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
    read_once(&cluster, rows);
    let [same, plain] = direct(&cluster, rows, text).await;
    cluster.nodes[0].start_daemon();
    let took = ingest(&cluster, rows).await;
    println!(
        "{size:>4} B  from Kafka: from the daemon's start {:>7.0}, from the first row to the last {:>7.0}",
        took.from_start, took.from_first_row
    );
    for (into, rate) in [("the same table", same), ("one without the hidden columns", plain)] {
        println!(
            "{:>6}  clickhouse-client into {into:<30} {rate:>7.0}   ratio {:.2}, {:.2} (aim: {AIM})",
            "",
            took.from_start / rate,
            took.from_first_row / rate
        );
    }
    queries(&cluster.nodes[0]).await;
    println!(
        "{:>6}  first row after {:.1} s   daemon: {} MB at its peak, {:.1} s of processor time",
        "",
        took.first_row.as_secs_f64(),
        took.peak_mb,
        took.processor_s
    );
}

/// Reads all of it once, as any consumer does. A broker that has just started translates what it runs while it runs it,
/// on the cores that everything shares here: that was a sixth of all processor time, and is none in service.
fn read_once(cluster: &Cluster, rows: u64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", cluster.kafka.brokers.bootstrap());
    config.set("group.id", "warm").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().unwrap();
    let mut all = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        all.add_partition_offset(&format!("bench.t.{partition}"), 0, Offset::Beginning).unwrap();
    }
    consumer.assign(&all).unwrap();
    let mut read = 0;
    while read < rows {
        let message = consumer.poll(Duration::from_secs(30)).expect("more is there");
        message.unwrap();
        read += 1;
    }
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

/// The same rows, by the client that comes with the server, rows a second: into a table that is made like the shard's
/// own, and into one of the user's definition, without the three hidden columns.
async fn direct(cluster: &Cluster, rows: u64, text: impl Fn(u64) -> String) -> [f64; 2] {
    let file = cluster.folder.path().join("rows.json");
    let mut out = std::io::BufWriter::new(std::fs::File::create(&file).unwrap());
    for id in 0..rows {
        writeln!(out, "{}", text(id)).unwrap();
    }
    out.into_inner().unwrap();
    // As the shard's own but for its guard, which lets in what comes from Kafka alone: the same content in the end.
    let same = format!(
        "CREATE TABLE default.direct (_cvh_partition UInt32 DEFAULT toUInt32(id % {PARTITIONS}), \
         _cvh_offset UInt64 DEFAULT intDiv(id, {PARTITIONS}), _cvh_row UInt32 DEFAULT 0, {COLUMNS}) \
         ENGINE = MergeTree PARTITION BY (_cvh_partition, toYYYYMM(at)) ORDER BY (user, at)"
    );
    let plain = format!("CREATE TABLE default.direct ({COLUMNS}) {ENGINE}");
    let mut rates = [0.0; 2];
    for (rate, ddl) in rates.iter_mut().zip([same.as_str(), plain.as_str()]) {
        *rate = piped(&cluster.nodes[0], ddl, &file, rows).await;
    }
    std::fs::remove_file(&file).unwrap();
    rates
}

/// A file of rows through `clickhouse-client` into a table that is there for this alone.
async fn piped(node: &Node, ddl: &str, file: &std::path::Path, rows: u64) -> f64 {
    node.query(ddl).await.unwrap();
    let began = Instant::now();
    let status = Command::new("clickhouse-client")
        .args(["--port", &node.server.tcp_port().to_string(), "--password", "pass'word"])
        .args(["--query", "INSERT INTO default.direct (id, user, at, note) FORMAT JSONEachRow"])
        .stdin(Stdio::from(std::fs::File::open(file).unwrap()))
        .status()
        .unwrap();
    let rate = rows as f64 / began.elapsed().as_secs_f64();
    assert!(status.success());
    assert_eq!(node.query("SELECT count() FROM default.direct").await.unwrap(), rows.to_string());
    if ddl.contains("_cvh_partition") {
        let made = "SELECT uniqExact(_cvh_partition), max(_cvh_offset) + 1 FROM default.direct";
        assert_eq!(node.query(made).await.unwrap(), format!("{PARTITIONS}\t{}", rows.div_ceil(PARTITIONS)));
    }
    node.query("DROP TABLE default.direct").await.unwrap();
    rate
}

/// What a query costs through the `Distributed` table, whose rows lie in a partition of their own for each of the
/// topic's, beside the same query to a plain table: medians, asked by turns.
async fn queries(node: &Node) {
    node.query(&format!("CREATE TABLE default.plain ({COLUMNS}) {ENGINE}")).await.unwrap();
    node.query("INSERT INTO default.plain SELECT id, user, at, note FROM bench.t").await.unwrap();
    while node.query("SELECT count() FROM system.merges").await.unwrap() != "0" {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let asked = [
        ("count and sum", "SELECT count(), sum(user) FROM", ""),
        ("group by", "SELECT user % 1000 AS k, count(), max(id) FROM", "GROUP BY k ORDER BY k LIMIT 10"),
        ("one user", "SELECT count(), sum(id) FROM", "WHERE user = 12345"),
    ];
    for (what, head, tail) in asked {
        let mut times = [Vec::new(), Vec::new()];
        let mut answers = [String::new(), String::new()];
        for _ in 0..ASKED {
            for (at, table) in ["bench.t", "default.plain"].into_iter().enumerate() {
                let began = Instant::now();
                answers[at] = node.query(&format!("{head} {table} {tail}")).await.unwrap();
                times[at].push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
        assert_eq!(answers[0], answers[1], "{what}");
        let [through, plain] = times.map(|mut times| {
            times.sort_by(f64::total_cmp);
            times[ASKED / 2]
        });
        println!(
            "{:>6}  query {what:<14} {through:>7.1} ms, plain {plain:>7.1} ms   ratio {:.2}",
            "",
            through / plain
        );
    }
    node.query("DROP TABLE default.plain").await.unwrap();
}

/// The table of the one replica there is.
fn own_table(cluster: &Cluster) -> String {
    let table = cluster.table("bench.t").unwrap();
    let name = converthouse::model::TableName { database: "bench".into(), table: "t".into() };
    let database = converthouse::model::names::replica_database(&name, table.id, table.shards[0].id);
    format!("`{database}`.local")
}

struct Took {
    /// Rows a second, the daemon's start included.
    from_start: f64,
    /// Rows a second since the first were seen.
    from_first_row: f64,
    first_row: Duration,
    peak_mb: u64,
    processor_s: f64,
}

/// Until every row is there, and once.
async fn ingest(cluster: &Cluster, rows: u64) -> Took {
    let node = &cluster.nodes[0];
    let began = Instant::now();
    let mut first: Option<(Duration, u64)> = None;
    loop {
        let shown = node.query("SELECT count() FROM bench.t").await;
        let count: u64 = shown.ok().and_then(|text| text.parse().ok()).unwrap_or(0);
        if count > 0 && first.is_none() {
            first = Some((began.elapsed(), count));
        }
        if count >= rows {
            let elapsed = began.elapsed();
            let (first_row, before) = first.unwrap();
            once(cluster, rows).await;
            let (peak_mb, processor_s) = used(node.daemon_pid());
            return Took {
                from_start: rows as f64 / elapsed.as_secs_f64(),
                from_first_row: (rows - before) as f64 / (elapsed - first_row).as_secs_f64(),
                first_row,
                peak_mb,
                processor_s,
            };
        }
        // Often enough for the figures, and seldom enough not to be in them.
        tokio::time::sleep(Duration::from_millis(if first.is_none() { 50 } else { 250 })).await;
    }
}

/// Peak memory and processor time of a process.
fn used(pid: u32) -> (u64, f64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let kb: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    (kb / 1024, ticks / 100.0)
}

/// Every offset of every partition is there, and once.
async fn once(cluster: &Cluster, rows: u64) {
    let node = &cluster.nodes[0];
    let sql = format!(
        "SELECT sum(c), sum(u), sum(m) FROM (SELECT count() AS c, uniqExact(_cvh_offset, _cvh_row) AS u, \
         max(_cvh_offset) + 1 AS m FROM {} GROUP BY _cvh_partition)",
        own_table(cluster)
    );
    let found = node.query(&sql).await.unwrap();
    if found != format!("{rows}\t{rows}\t{rows}") {
        doubled(cluster).await;
        panic!("rows, different ones, offsets: {found}");
    }
}

/// What there is to know when the impossible happened.
async fn doubled(cluster: &Cluster) {
    let node = &cluster.nodes[0];
    for partition in 0..PARTITIONS {
        let source = TopicPartition { topic: format!("bench.t.{partition}"), partition: 0 };
        println!("{source}: {:?}", cluster.client.watermarks(&source).await);
    }
    let sql = format!(
        "SELECT _cvh_partition, count(), uniqExact(_cvh_offset), min(_cvh_offset), max(_cvh_offset) \
         FROM {} GROUP BY _cvh_partition ORDER BY _cvh_partition",
        own_table(cluster)
    );
    println!("{}", node.query(&sql).await.unwrap());
    println!("{}", node.log_tail());
}
