//! The demo's story, step by step; each step proves something or fails the demo.

use super::progress::Progress;
use super::scene::{self, NODES, Scene, node};
use super::topics::Topics;
use super::{Options, Proven, Voice, elastic, interrupted};
use crate::adapters::clock::{Clock, SystemClock};
use crate::adapters::kafka::Outgoing;
use crate::daemon::Error;
use crate::model::NodeId;
use crate::model::control::{CreateTable, TableStatus};
use crate::model::names::TopicPartition;
use crate::model::table::{BatchLimits, MessageFormat, TableName, TopicLayout};
use std::collections::BTreeMap;
use std::time::Duration;

/// Partitions of the table.
pub const PARTITIONS: u64 = 64;
const SHARDS: u32 = 4;
const REPLICAS: u32 = 2;
const DDL: &str = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, amount UInt32) \
                   ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (user, at)";
/// What a query must show, however the cluster is: every row once.
const PROOF: &str = "SELECT count(), uniqExact(id), sum(id) FROM shop.events";
/// Longest wait for any step; for rows, as long as none comes.
const STEP_DEADLINE_MS: u64 = 180_000;
/// All of it takes no longer.
const DEADLINE_S: u64 = 300;
/// What is promised of it, on a machine that has nothing else to do.
const PROMISED_S: u64 = 120;
/// Both with so many rows; what is more may take as long as it does at the slowest pace that is believed.
const ROWS_WITHIN: u64 = 1_000_000;
const ROWS_PER_S_MIN: u64 = 2_000;

/// What is shown, and what was proven so far.
pub struct Report {
    began: SystemClock,
    proven: Vec<String>,
    voice: Voice,
}

impl Report {
    /// Says it, with the time.
    pub fn say(&self, text: &str) {
        self.voice.line(&format!("[{:5.1} s] {text}", seconds(&self.began)));
    }

    /// Says it, and notes it for the end.
    pub fn prove(&mut self, text: String) {
        self.say(&format!("proven: {text}"));
        self.proven.push(text);
    }
}

/// The whole story.
pub async fn play(options: &Options, topics: &Topics) -> Result<Proven, Error> {
    let voice = options.voice;
    let mut report = Report { began: SystemClock::new(), proven: Vec::new(), voice };
    let deadline = within(DEADLINE_S, options.rows);
    let proving = prove(options, topics, &mut report);
    let undone = |_| Err(failed(&format!("it was not done after {} s", deadline.as_secs())));
    let (mut scene, version) = tokio::time::timeout(deadline, proving).await.unwrap_or_else(undone)?;
    voice.line(&format!("\nWhat was proven, on ClickHouse {version}:"));
    report.proven.iter().for_each(|line| voice.line(&format!("  - {line}")));
    if options.keep {
        voice.line(&format!("Everything is kept in {}", scene.folder.path().display()));
    }
    let timed = |what: &str, took: f64| {
        voice.line(&format!("{what} took {took:.0} s."));
        late(took, within(PROMISED_S, options.rows)).into_iter().for_each(|line| voice.line(&line));
    };
    // How long somebody looks at what stays is not the demo's affair.
    let proven_s = seconds(&report.began);
    if options.stay {
        timed("All that", proven_s);
        stay(&scene, voice).await;
    }
    let ending = SystemClock::new();
    scene.stop_daemon()?;
    // Nobody needs their data any more: an orderly end of each would take many seconds.
    for server in &mut scene.servers {
        server.kill().map_err(|error| scene::of(&error))?;
    }
    let took = proven_s + seconds(&ending);
    if options.stay {
        voice.line("All processes ended.");
    } else {
        timed("All processes ended; it", took);
    }
    Ok(Proven { clickhouse: version, proven: report.proven, seconds: (took * 10.0).round() / 10.0 })
}

/// So many seconds, and more for more rows than those are meant for.
fn within(seconds: u64, rows: u64) -> Duration {
    Duration::from_secs(seconds + rows.saturating_sub(ROWS_WITHIN) / ROWS_PER_S_MIN)
}

/// Says so if it took longer than was promised: no failure, a slow machine proves as much as a fast one.
fn late(took: f64, promised: Duration) -> Option<String> {
    let warning = || {
        let promised = promised.as_secs();
        format!(
            "WARNING: that is more than the {promised} s promised: this machine is slow, or busy with other work."
        )
    };
    (took > promised.as_secs_f64()).then(warning)
}

/// Everything that is proven; what it was proven on, and on which version.
async fn prove(options: &Options, topics: &Topics, report: &mut Report) -> Result<(Scene, String), Error> {
    report.say(&format!("starting {NODES} ClickHouse servers, a broker and a daemon"));
    let mut scene = scene::set(options, topics).await?;
    let version = scene.ask(0, "SELECT version()").await?;
    report.say(&format!("ClickHouse {version} runs {NODES} times; daemon at {}", scene.grpc_url));
    create(&scene, topics, report).await?;
    ingest(&scene, 0..options.rows, report).await?;
    everywhere(&scene, options.rows, report).await?;
    let rows = lose_a_server(&mut scene, options.rows, report).await?;
    elastic::play(&mut scene, rows, report).await?;
    Ok((scene, version))
}

/// Says how the cluster is reached, and leaves it alone until somebody has seen enough.
async fn stay(scene: &Scene, voice: Voice) {
    voice.line("\nThe cluster goes on until Ctrl-C. In another terminal:");
    voice.line(&format!("  export CONVERTHOUSE_SERVER={}", scene.grpc_url));
    voice.line(
        "  converthouse status; converthouse table show shop.events; converthouse routes shop.events --json",
    );
    for (number, server) in scene.servers.iter().enumerate() {
        let sql = "SELECT count() FROM shop.events";
        let port = server.tcp_port();
        voice.line(&format!("  clickhouse-client --port {port} --query '{sql}'   # {}", node(number)));
    }
    interrupted().await;
}

async fn create(scene: &Scene, topics: &Topics, report: &mut Report) -> Result<(), Error> {
    let request = CreateTable {
        ddl: DDL.into(),
        partitions: u32::try_from(PARTITIONS).expect("small"),
        shards: SHARDS,
        replicas: REPLICAS,
        partition_by: "user".into(),
        topic_prefix: topics.on_real().then(|| topics.prefix().to_owned()),
        layout: TopicLayout::TopicPerPartition,
        topic_replication: -1,
        format: MessageFormat::JSONEachRow,
        format_settings: BTreeMap::new(),
        batch: BatchLimits::default(),
        first_node: None,
        dry_run: false,
        if_not_exists: false,
    };
    let flags = format!("--shards {SHARDS} --replicas {REPLICAS} --partition-by user");
    report.say(&format!("converthouse table create {flags} \\\n          {DDL:?}"));
    let began = SystemClock::new();
    let daemon = scene.daemon.clone();
    until("the daemon to lead", async || {
        Ok(daemon
            .cluster_status()
            .await
            .is_ok_and(|s| s.leader.is_some() && s.nodes.iter().filter(|n| n.live).count() == NODES))
    })
    .await?;
    scene.make_topics(topics).await?;
    daemon.create_table(request).await.map_err(|error| scene::of(&error))?;
    until("the table to be complete", async || Ok(status(scene).await?.complete)).await?;
    let table = status(scene).await?;
    report.prove(format!(
        "a table of {SHARDS} shards x {REPLICAS} replicas over {PARTITIONS} partitions stands on {NODES} servers, \
         {:.1} s after one command",
        seconds(&began)
    ));
    show(&table, report.voice);
    Ok(())
}

fn show(table: &TableStatus, voice: Voice) {
    for shard in &table.shards {
        let replicas: Vec<String> =
            shard.replicas.iter().map(|replica| format!("{} ({})", replica.node, replica.state)).collect();
        voice.line(&format!("          {} {}  {}", shard.id, shard.range, replicas.join(", ")));
    }
}

/// How the table stands.
pub async fn status(scene: &Scene) -> Result<TableStatus, Error> {
    let name = TableName { database: "shop".into(), table: "events".into() };
    scene.daemon.table_status(name).await.map_err(|error| scene::of(&error))
}

/// The message of a row, to a topic of that prefix.
pub fn message(prefix: &str, id: u64) -> Outgoing {
    let user = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40;
    let text = format!(
        "{{\"id\":{id},\"user\":{user},\"at\":\"2026-{:02}-{:02} 12:00:00\",\"amount\":{}}}",
        1 + id / 1_000 % 2,
        1 + id % 28,
        id % 1_000
    );
    let topic = format!("{prefix}.{}", user % PARTITIONS);
    let target = TopicPartition { topic, partition: 0 };
    Outgoing { target, payload: Some(text.into()), headers: Vec::new() }
}

/// Sends rows to their topics, as any producer would, and meanwhile waits until a query counts them.
async fn ingest(scene: &Scene, ids: std::ops::Range<u64>, report: &Report) -> Result<(), Error> {
    let began = SystemClock::new();
    let rows = ids.end - ids.start;
    let sending = async {
        send(scene, ids.clone()).await?;
        let sent = seconds(&began);
        report.say(&format!("{rows} messages sent to {PARTITIONS} topics in {sent:.1} s"));
        Ok(())
    };
    futures::try_join!(sending, until_counted(scene, ids.clone(), report))?;
    let took = seconds(&began);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = rows as f64 / took;
    report.say(&format!(
        "all {} rows are readable, {took:.1} s after the first was sent ({rate:.0} rows/s)",
        ids.end
    ));
    Ok(())
}

async fn send(scene: &Scene, ids: std::ops::Range<u64>) -> Result<(), Error> {
    let mut next = ids.start;
    while next < ids.end {
        let end = ids.end.min(next + 20_000);
        let messages = (next..end).map(|id| message(&scene.prefix, id)).collect();
        scene.kafka.produce(messages).await.map_err(|error| scene::of(&error))?;
        next = end;
    }
    Ok(())
}

/// Shows how many of them a node counts, until it counts all.
async fn until_counted(scene: &Scene, ids: std::ops::Range<u64>, report: &Report) -> Result<(), Error> {
    let mut progress = Progress::of(ids.end - ids.start)?;
    let (clock, mut moved_ms, mut counted) = (SystemClock::new(), 0, ids.start);
    while counted < ids.end {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let alive = (0..NODES).find(|n| scene.servers[*n].is_running()).unwrap_or(0);
        let shown = scene.ask(alive, "SELECT count() FROM shop.events").await.unwrap_or_default();
        let now = shown.parse().unwrap_or(counted);
        if now > counted {
            (counted, moved_ms) = (now, clock.now_ms());
            progress.reached(counted - ids.start, report);
        } else if clock.now_ms() - moved_ms > STEP_DEADLINE_MS {
            let wait_s = STEP_DEADLINE_MS / 1_000;
            return Err(failed(&format!(
                "of {} rows {counted} were readable, and no more for {wait_s} s",
                ids.end
            )));
        }
    }
    check(&counted.to_string(), &ids.end.to_string(), "rows that are readable")
}

/// Every node answers the same, and each row counts once.
pub async fn everywhere(scene: &Scene, rows: u64, report: &mut Report) -> Result<(), Error> {
    let expected = format!("{rows}\t{rows}\t{}", u128::from(rows) * u128::from(rows - 1) / 2);
    until_equal(scene, rows).await?;
    let nodes = scene.servers.len();
    for number in 0..nodes {
        let shown = scene.ask(number, PROOF).await?;
        check(&shown, &expected, &format!("{PROOF} on {}", node(number)))?;
    }
    report.prove(format!(
        "plain ClickHouse on each of the {nodes} nodes counts {rows} rows, each exactly once"
    ));
    report.prove(format!("the {REPLICAS} replicas of every shard hold the same rows, offset by offset"));
    Ok(())
}

/// Waits until every replica holds all its rows: one may have the last of them a moment before the other, and the
/// balancer may just be moving one.
async fn until_equal(scene: &Scene, rows: u64) -> Result<(), Error> {
    let equal = async || Ok(replicas_equal(scene, rows).await.is_ok());
    match until("every replica to hold all rows", equal).await {
        Ok(()) => Ok(()),
        // With what differs.
        Err(_) => replicas_equal(scene, rows).await,
    }
}

/// Compares replicas by count and content of their local tables; together they hold every row once.
async fn replicas_equal(scene: &Scene, rows: u64) -> Result<(), Error> {
    let table = status(scene).await?;
    let mut total = 0;
    for shard in &table.shards {
        let mut answers = Vec::new();
        for replica in &shard.replicas {
            let number = (0..scene.servers.len()).find(|n| node(*n) == replica.node.as_str()).unwrap_or(0);
            let database = crate::model::names::replica_database(
                &TableName { database: "shop".into(), table: "events".into() },
                table.id,
                shard.id,
            );
            let query = format!(
                "SELECT count(), uniqExact(_cvh_partition, _cvh_offset), sum(cityHash64(id, user, at, amount, \
                 _cvh_partition, _cvh_offset)) FROM `{database}`.local"
            );
            answers.push(scene.ask(number, &query).await?);
        }
        if answers.iter().any(|answer| *answer != answers[0]) {
            return Err(failed(&format!("replicas of {} differ: {answers:?}", shard.id)));
        }
        let mut words = answers[0].split('\t');
        let (count, unique) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        check(unique, count, &format!("distinct offsets of {}", shard.id))?;
        total += count.parse::<u64>().unwrap_or(0);
    }
    check(&total.to_string(), &rows.to_string(), "rows over all shards")
}

/// Kills a server under ingest, asks the others, brings it back, waits until it has caught up.
async fn lose_a_server(scene: &mut Scene, rows: u64, report: &mut Report) -> Result<u64, Error> {
    let victim = 1;
    let is_victim = |of: &Option<NodeId>| of.as_ref().is_some_and(|id| id.as_str() == node(victim));
    let led = |table: &TableStatus| table.shards.iter().filter(|s| is_victim(&s.leader)).count();
    let before = led(&status(scene).await?);
    report.say(&format!("kill -9 of ClickHouse on {}, which leads {before} shard(s)", node(victim)));
    scene.servers[victim].kill().map_err(|error| scene::of(&error))?;
    let began = SystemClock::new();
    for number in (0..NODES).filter(|n| *n != victim) {
        let shown = scene.ask(number, "SELECT count(), uniqExact(id) FROM shop.events").await?;
        check(
            &shown,
            &format!("{rows}\t{rows}"),
            &format!("count on {} with {} dead", node(number), node(victim)),
        )?;
    }
    report.prove(format!("with {} dead the others count every row once", node(victim)));
    until("leaderships to move", async || Ok(led(&status(scene).await?) == 0)).await?;
    report.say(&format!("its leaderships moved after {:.1} s", seconds(&began)));
    let more = rows + (rows / 10).max(1);
    ingest(scene, rows..more, report).await?;
    report.prove(format!("{} further rows were taken in while {} was dead", more - rows, node(victim)));
    scene.servers[victim].start().await.map_err(|error| scene::of(&error))?;
    report.say(&format!("{} is back", node(victim)));
    let began = SystemClock::new();
    until("it to catch up and lead again", async || {
        let table = status(scene).await?;
        let caught_up = table.shards.iter().flat_map(|s| &s.replicas).all(|r| r.lag == Some(0));
        // Those that it is to lead: when it was killed, some may have been led by whoever was ready first.
        let leads = table.shards.iter().all(|s| is_victim(&s.leader) || !is_victim(&s.preferred_leader));
        Ok(table.complete && caught_up && leads)
    })
    .await?;
    until_equal(scene, more).await?;
    let took = seconds(&began);
    report.prove(format!(
        "{} caught up, leads its shards again and holds the same rows as its peers ({took:.1} s)",
        node(victim)
    ));
    let shown = scene.ask(victim, "SELECT count(), uniqExact(id) FROM shop.events").await?;
    check(&shown, &format!("{more}\t{more}"), &format!("count on {}", node(victim)))?;
    report.prove(format!("after all of it every one of {more} rows counts exactly once"));
    Ok(more)
}

/// Waits for something that comes true by itself.
pub async fn until(what: &str, check: impl AsyncFn() -> Result<bool, Error>) -> Result<(), Error> {
    let began = SystemClock::new();
    while !check().await? {
        if began.now_ms() > STEP_DEADLINE_MS {
            return Err(failed(&format!("waited {} s for {what}", STEP_DEADLINE_MS / 1_000)));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(())
}

/// Time since the clock was made.
#[expect(clippy::cast_precision_loss, reason = "for people")]
pub fn seconds(clock: &SystemClock) -> f64 {
    clock.now_ms() as f64 / 1_000.0
}

/// An error unless it is as expected.
pub fn check(shown: &str, expected: &str, what: &str) -> Result<(), Error> {
    if shown == expected {
        return Ok(());
    }
    Err(failed(&format!("{what}: {shown:?}, where {expected:?} was expected")))
}

/// The demo's error.
pub fn failed(what: &str) -> Error {
    Error::new(format!("not proven: {what}"), "run again with --keep and look at the logs in its folder")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_ends_by_a_deadline_and_says_if_it_took_longer_than_promised() {
        let deadlines = [1, 1_000_000, 3_000_000].map(|rows| within(DEADLINE_S, rows).as_secs());
        assert_eq!(deadlines, [300, 300, 1_300]);
        let promised = within(PROMISED_S, 1_000_000);
        assert_eq!([1.0, 119.9, 120.0].map(|took| late(took, promised)), [None, None, None]);
        assert!(
            late(120.5, promised).is_some_and(|warning| warning.contains("more than the 120 s promised"))
        );
        assert_eq!(late(120.5, within(PROMISED_S, 3_000_000)), None);
    }
}
