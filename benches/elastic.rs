//! What elasticity costs, on real ClickHouse, Kafka and etcd: `make bench-elastic`. For each size of a shard, in one
//! run: the time of a split from its start to its publication and the pause of ingest in it; copies by parts beside
//! `cp` of the same files and `INSERT SELECT remote()`; queries and ingest during a move beside idle. Figures and
//! ratios, not assertions; that every row is there once at the end is asserted.
//!
//! `cargo bench --bench elastic -- 1 10 50` takes shards of so many million rows; `small` one of 200 000.
#![allow(missing_docs, clippy::unwrap_used, clippy::disallowed_methods, clippy::disallowed_types)]
#![allow(clippy::cast_precision_loss, dead_code)]

#[path = "../tests/real/support/mod.rs"]
mod support;

use converthouse::adapters::clickhouse::{
    ClickHouse, CopyLimits, HttpClickHouse, RemoteReplica, ReplicaTables,
};
use converthouse::adapters::kafka::{Kafka, KafkaClient};
use converthouse::adapters::peers::Daemon;
use converthouse::adapters::peers::grpc::{GrpcDaemon, Options};
use converthouse::model::control::TableStatus;
use converthouse::model::node::Secret;
use converthouse::model::parts::WantedParts;
use converthouse::model::table::ShardState;
use converthouse::model::{PartitionId, ShardId, TableId, TableName, names};
use futures::StreamExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use support::cluster::{Cluster, DDL, Node, PARTITIONS, event};

/// Rows a second while something is measured.
const STEADY_ROWS_PER_S: u64 = 5_000;
/// Batches are inserted so often, hence how long a gap between inserts is without any pause.
const BATCH_AGE_MS: u64 = 100;
/// Each of two readers asks once in so many times that an answer takes one who asks alone, during a move and at rest:
/// readers that ask as fast as they are answered would fill the machine at rest, and measure who gets how much of it.
const ASK_ONCE_IN: u32 = 4;
/// How often it is looked whether rows go in: more often takes the servers' time from what is measured.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long queries and ingest are watched at rest.
const IDLE: Duration = Duration::from_secs(15);

/// What the program allocates with: copies are taken by this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut sizes: Vec<u64> = arguments.iter().filter_map(|argument| argument.parse().ok()).collect();
    sizes.iter_mut().for_each(|millions| *millions *= 1_000_000);
    if arguments.iter().any(|argument| argument == "small") {
        sizes.push(200_000);
    }
    if sizes.is_empty() {
        sizes = vec![1_000_000, 10_000_000, 50_000_000];
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        for rows in sizes {
            measure(rows).await;
        }
    });
}

async fn measure(rows: u64) {
    let cluster = Cluster::start(3, 1).await;
    for node in &cluster.nodes {
        node.reconfigure("[log]", "[balance]\nmode = \"off\"\n[log]");
        // To see what takes how long: "info,converthouse::adapters::clickhouse::http=trace", say.
        if let Ok(level) = std::env::var("CONVERTHOUSE_BENCH_LOG") {
            node.reconfigure("info,converthouse=debug", &level);
        }
    }
    let mut cluster = cluster;
    for node in &mut cluster.nodes {
        node.kill_daemon();
        node.start_daemon();
    }
    cluster.until("a leader and all nodes", |status| {
        status.leader.is_some()
            && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
    });
    let (partitions, age) = (PARTITIONS.to_string(), BATCH_AGE_MS.to_string());
    let numbers =
        ["--partitions", &partitions, "--replicas", "2", "--partition-by", "user", "--batch-age-ms", &age];
    let made = cluster.cli(&[&["table", "create", DDL], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    let filled = Instant::now();
    for start in (0..rows).step_by(20_000) {
        let batch = (start..rows.min(start + 20_000)).map(event).collect();
        cluster.client.produce(batch).await.unwrap();
    }
    until_rows(&cluster, rows).await;
    println!("\n{rows} rows in one shard of two replicas, after {:.0} s", filled.elapsed().as_secs_f64());
    let stream = Steady::start(&cluster.client, rows);
    tokio::time::sleep(Duration::from_secs(3)).await;
    split(&cluster).await;
    copies(&cluster).await;
    under_way(&cluster).await;
    let rows = stream.end().await;
    cluster.prove_events(rows, 0).await;
}

async fn until_rows(cluster: &Cluster, rows: u64) {
    loop {
        let table = cluster.table("shop.events");
        let replicas = table.iter().flat_map(|table| &table.shards).flat_map(|shard| &shard.replicas);
        let held: Vec<u64> = replicas.map(|replica| replica.rows).collect();
        if held.len() == 2 && held.iter().all(|held| *held >= rows) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A producer that keeps to its pace.
struct Steady {
    stop: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Steady {
    fn start(client: &KafkaClient, from: u64) -> Self {
        let (stop, client) = (Arc::new(AtomicBool::new(false)), client.clone());
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let (mut next, some) = (from, STEADY_ROWS_PER_S / 50);
            let mut every = tokio::time::interval(Duration::from_millis(20));
            while !stopped.load(Ordering::Relaxed) {
                every.tick().await;
                client.produce((next..next + some).map(event).collect()).await.unwrap();
                next += some;
            }
            next
        });
        Self { stop, task }
    }

    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

fn daemon(node: &Node) -> GrpcDaemon {
    GrpcDaemon::new(&node.grpc_url, Options::default())
}

fn name() -> TableName {
    TableName { database: "shop".into(), table: "events".into() }
}

/// The longest time without a row going in, and what it is taken of.
#[derive(Clone, Copy, Default)]
struct Gap {
    rows: f64,
    longest: Duration,
    since: Option<Instant>,
}

impl Gap {
    fn see(&mut self, rows: f64) {
        let now = Instant::now();
        let since = *self.since.get_or_insert(now);
        self.longest = self.longest.max(now - since);
        if rows > self.rows {
            (self.rows, self.since) = (rows, Some(now));
        }
    }
}

/// The longest times without a row going in, until told to stop: into the table on any node, and into that of the
/// node that waited longest.
fn longest_gaps(urls: Vec<String>, stop: &Arc<AtomicBool>) -> tokio::task::JoinHandle<[Duration; 2]> {
    let stop = stop.clone();
    tokio::task::spawn_blocking(move || {
        let (mut cluster, mut nodes) = (Gap::default(), vec![Gap::default(); urls.len()]);
        while !stop.load(Ordering::Relaxed) {
            let rows: Vec<f64> = urls.iter().map(|url| ingested(url)).collect();
            cluster.see(rows.iter().sum());
            nodes.iter_mut().zip(&rows).for_each(|(node, rows)| node.see(*rows));
            std::thread::sleep(LOOK_EVERY);
        }
        [cluster.longest, nodes.iter().map(|node| node.longest).max().unwrap_or_default()]
    })
}

/// Rows that a daemon has inserted.
fn ingested(url: &str) -> f64 {
    let mut stream = std::net::TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /metrics HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let text = std::io::read_to_string(stream).unwrap();
    let of = |line: &&str| line.starts_with("converthouse_ingest_rows_total{");
    text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// The longest time for which a node's server had no newer row to show, by the routes that it had loaded.
async fn readable_gap(node: &Node, table: &TableStatus, stop: &AtomicBool) -> Duration {
    let databases =
        format!("SELECT default_database FROM system.clusters WHERE cluster = '{}'", table.cluster);
    let rows = format!(
        "SELECT sum(rows) FROM system.parts WHERE active AND table = 'local' AND database IN ({databases})"
    );
    let mut gap = Gap::default();
    while !stop.load(Ordering::Relaxed) {
        gap.see(node.query(&rows).await.unwrap().parse().unwrap());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    gap.longest
}

/// Of inserts over the cluster, of inserts on one node, and of what that node's server shows.
async fn gaps<T>(
    cluster: &Cluster,
    table: &TableStatus,
    work: impl Future<Output = T>,
) -> ([Duration; 3], T) {
    let stop = Arc::new(AtomicBool::new(false));
    let holds =
        |node: &&Node| table.shards[0].replicas.iter().any(|replica| replica.node.as_str() == node.id);
    let holders: Vec<&Node> = cluster.nodes.iter().filter(holds).collect();
    let watched = longest_gaps(holders.iter().map(|node| node.http_url.clone()).collect(), &stop);
    let worked = async {
        let out = work.await;
        stop.store(true, Ordering::Relaxed);
        out
    };
    let (out, readable) = tokio::join!(worked, readable_gap(holders[0], table, &stop));
    let [all, one] = watched.await.unwrap();
    ([all, one, readable], out)
}

async fn split(cluster: &Cluster) {
    let table = cluster.table("shop.events").unwrap();
    let (idle, ()) = gaps(cluster, &table, tokio::time::sleep(Duration::from_secs(4))).await;
    let asked = daemon(&cluster.nodes[0]);
    let mut took = Duration::ZERO;
    let (gap, ()) = gaps(cluster, &table, async {
        let began = Instant::now();
        cluster.cli(&["shard", "split", "shop.events", "--no-wait"]).unwrap();
        loop {
            let now = asked.table_status(name()).await.unwrap();
            let serving = now.shards.iter().filter(|shard| shard.state == ShardState::Serving).count();
            if serving == 2 && now.epoch > table.epoch {
                took = began.elapsed();
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Until rows go into the halves everywhere: the pause does not end as they are published.
        tokio::time::sleep(Duration::from_secs(2)).await;
    })
    .await;
    let ms = |gap: Duration| gap.as_millis();
    println!(
        "split: published after {} ms; longest gap between inserts over the cluster {} ms ({} ms without a split), on \
         one node {} ms ({} ms), between newer rows that a query sees there {} ms ({} ms)",
        took.as_millis(),
        ms(gap[0]),
        ms(idle[0]),
        ms(gap[1]),
        ms(idle[1]),
        ms(gap[2]),
        ms(idle[2])
    );
    cluster.until("the split to have ended", |status| {
        status.tables[0].shards.len() == 2 && status.tables[0].complete
    });
}

fn client(node: &Node) -> HttpClickHouse {
    HttpClickHouse::new(&node.server.url(), "default", &Secret::new("pass'word"))
}

fn data(node: &Node) -> PathBuf {
    node.server.folder().join("data")
}

fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
    let size = |entry: std::fs::DirEntry| {
        if entry.file_type().unwrap().is_dir() {
            bytes_in(&entry.path())
        } else {
            entry.metadata().unwrap().len()
        }
    };
    entries.map(size).sum()
}

/// One shard's partitions onto the node that has none of it, in three ways.
async fn copies(cluster: &Cluster) {
    let table = cluster.table("shop.events").unwrap();
    let shard = &table.shards[0];
    let database = names::replica_database(&name(), table.id, shard.id);
    let holds = |node: &&Node| shard.replicas.iter().any(|replica| replica.node.as_str() == node.id);
    let from = cluster.nodes.iter().find(holds).unwrap();
    let to = cluster.nodes.iter().find(|node| !holds(node)).unwrap();
    let server = client(to);
    let (_, schema) = server.parse_ddl(DDL, 7).await.unwrap();
    // A table that no record speaks of: the daemon there lets it be.
    let target = names::replica_database(&name(), TableId(uuid::Uuid::from_u128(9 << 96)), ShardId(9));
    let partitions: Vec<PartitionId> = shard.range.partitions().collect();
    let version = server.server_info().await.unwrap().version;

    from.query(&format!("ALTER TABLE `{database}`.local FREEZE WITH NAME 'bench'")).await.unwrap();
    let frozen = data(from).join("shadow/bench");
    let bytes = bytes_in(&frozen);
    let mb_per_s = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
    let copied = data(to).join("bench_cp");
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    // The first round warms what caches there are.
    for round in 0..4_u64 {
        let began = Instant::now();
        let status = Command::new("cp").arg("-r").arg(&frozen).arg(&copied).status().unwrap();
        let cp = began.elapsed();
        assert!(status.success());
        std::fs::remove_dir_all(&copied).unwrap();

        let nonce = 1_000 + round * 2;
        let tables = ReplicaTables { database: target.clone(), schema: schema.clone() };
        server.begin_seed(&tables, nonce).await.unwrap();
        let peer = daemon(from);
        let began = Instant::now();
        let copy = async |partition: &PartitionId| {
            let wanted = WantedParts {
                database: database.clone(),
                partition: *partition,
                version: version.clone(),
                held: Vec::new(),
            };
            let sent = peer.send_partition(from.id.parse().unwrap(), wanted).await.unwrap();
            let failed = |error: converthouse::adapters::peers::Error| {
                converthouse::adapters::clickhouse::Error::Overloaded { code: 0, message: error.to_string() }
            };
            let pieces = sent.map(move |piece| piece.map_err(failed)).boxed();
            server.take_partition(&target, nonce, "bench", *partition, Vec::new(), pieces).await.unwrap();
        };
        // As many at once as `replica/copy` has.
        futures::stream::iter(&partitions).for_each_concurrent(2, copy).await;
        let parts = began.elapsed();
        server.drop_replica(&target).await.unwrap();

        server.begin_seed(&tables, nonce + 1).await.unwrap();
        let remote = RemoteReplica {
            host: "127.0.0.1".into(),
            port: from.server.tcp_port(),
            user: "default".into(),
            password: Secret::new("pass'word"),
            secure: false,
            database: database.clone(),
        };
        let began = Instant::now();
        for partition in &partitions {
            let limits = CopyLimits { deadline_ms: 3_600_000, bytes_per_s: 0 };
            server.copy_partition(&target, nonce + 1, &remote, *partition, limits).await.unwrap();
        }
        let select = began.elapsed();
        server.drop_replica(&target).await.unwrap();
        if round > 0 {
            for (times, took) in times.iter_mut().zip([cp, parts, select]) {
                times.push(took);
            }
        }
    }
    std::fs::remove_dir_all(&frozen).unwrap();
    let [cp, parts, select] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    println!(
        "copy of {} MB in {} partitions, MB/s, median of three: cp {:.0}   by parts {:.0}   select {:.0}   \
         parts/cp {:.2}   parts/select {:.1}",
        bytes / 1_000_000,
        partitions.len(),
        mb_per_s(cp),
        mb_per_s(parts),
        mb_per_s(select),
        cp.as_secs_f64() / parts.as_secs_f64(),
        select.as_secs_f64() / parts.as_secs_f64()
    );
}

/// What is asked, in turn.
fn question(number: u64) -> String {
    match number % 3 {
        0 => "SELECT count() FROM shop.events".to_owned(),
        1 => "SELECT user % 10 AS u, count() FROM shop.events GROUP BY u ORDER BY u".to_owned(),
        _ => format!("SELECT count() FROM shop.events WHERE user = {}", number * 7),
    }
}

/// How long an answer takes, on average.
async fn alone(node: &Node) -> Duration {
    const ASKED: u32 = 15;
    let began = Instant::now();
    for number in 0..ASKED {
        node.query(&question(number.into())).await.unwrap();
    }
    began.elapsed() / ASKED
}

/// Queries that one reader has answered, in microseconds.
fn reader(
    node: &Node,
    every: Duration,
    stop: &Arc<AtomicBool>,
    asked: &Arc<AtomicU64>,
) -> tokio::task::JoinHandle<Vec<u64>> {
    let (client, stop, asked) = (node.client(), stop.clone(), asked.clone());
    tokio::spawn(async move {
        let mut times = Vec::new();
        let mut every = tokio::time::interval(every);
        while !stop.load(Ordering::Relaxed) {
            // From when it was to be asked: one that is late by the one before it counts as late.
            let began = every.tick().await;
            let number = asked.fetch_add(1, Ordering::Relaxed);
            let sql = question(number);
            let answer = async { client.query_raw(&sql).fetch_bytes("TabSeparated")?.collect().await };
            answer.await.unwrap_or_else(|error| panic!("{sql}: {error}"));
            times.push(u64::try_from(began.elapsed().as_micros()).unwrap());
        }
        times
    })
}

struct Watched {
    p95_ms: f64,
    queries_per_s: f64,
    rows_per_s: f64,
    took: Duration,
}

/// Two readers while `work` goes on, and what the nodes with replicas of the first shard ingest.
async fn watch<T>(cluster: &Cluster, every: Duration, work: impl Future<Output = T>) -> Watched {
    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let readers: Vec<_> =
        cluster.nodes.iter().take(2).map(|node| reader(node, every, &stop, &asked)).collect();
    let rows = || cluster.nodes.iter().map(|node| ingested(&node.http_url)).sum::<f64>();
    let (before, began) = (rows(), Instant::now());
    work.await;
    let took = began.elapsed();
    let rows_per_s = (rows() - before) / took.as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for reader in readers {
        times.extend(reader.await.unwrap());
    }
    times.sort_unstable();
    let p95_ms = times[times.len() * 95 / 100] as f64 / 1_000.0;
    Watched { p95_ms, queries_per_s: times.len() as f64 / took.as_secs_f64(), rows_per_s, took }
}

async fn under_way(cluster: &Cluster) {
    let table = cluster.table("shop.events").unwrap();
    let shard = &table.shards[0];
    let from = shard.leader.clone().unwrap().to_string();
    let holds = |node: &&Node| shard.replicas.iter().any(|replica| replica.node.as_str() == node.id);
    let to = cluster.nodes.iter().find(|node| !holds(node)).unwrap().id.clone();
    let every = alone(&cluster.nodes[0]).await * ASK_ONCE_IN;
    let idle = watch(cluster, every, tokio::time::sleep(IDLE)).await;
    let asked = daemon(&cluster.nodes[0]);
    let moved = watch(cluster, every, async {
        let id = shard.id.to_string();
        cluster.cli(&["shard", "move", "shop.events", &id, &from, &to, "--no-wait"]).unwrap();
        while asked.operations().await.unwrap().iter().any(|status| status.operation.state.is_open()) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    println!(
        "queries p95 {:.1} ms at rest, {:.1} ms during a move of {:.1} s ({:.2}); {:.0} and {:.0} queries/s; \
         ingest {:.0} and {:.0} rows/s over the replicas ({:.2})",
        idle.p95_ms,
        moved.p95_ms,
        moved.took.as_secs_f64(),
        moved.p95_ms / idle.p95_ms,
        idle.queries_per_s,
        moved.queries_per_s,
        idle.rows_per_s,
        moved.rows_per_s,
        moved.rows_per_s / idle.rows_per_s
    );
}
