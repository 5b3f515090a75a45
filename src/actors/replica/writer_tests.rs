//! Batches with messages that the server cannot read: what goes in, what goes aside, and at what cost.

use super::buffer::Batch;
use super::state::Outcome;
use super::work::{Job, Told};
use crate::actors::Neighbours;
use crate::actors::agent::FromReplica;
use crate::actors::mirror::View;
use crate::actors::node_ports::{InsertRoom, NodePorts};
use crate::actors::throttle::Throttle;
use crate::adapters::clickhouse::{ClickHouse, ReplicaTables, SimClickHouse};
use crate::adapters::clock::SimClock;
use crate::adapters::kafka::sim::SimKafka;
use crate::adapters::kafka::{Chunk, Kafka, Message, NewTopic};
use crate::adapters::peers::grpc::GrpcPeers;
use crate::adapters::routes::SimRoutes;
use crate::model::names::{self, TopicPartition};
use crate::model::observed::Stall;
use crate::model::range::PartitionRange;
use crate::model::table::{BatchLimits, MessageFormat, ReplicationMode, Source, TableState, TopicLayout};
use crate::model::view::{Kept, Versioned};
use crate::model::{Epoch, PartitionId, Shard, ShardId, Table, TableId};
use crate::telemetry::Metrics;
use actix::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::Semaphore;

pub(super) const DATABASE: &str = "d__t__cvh00000000_s0";
pub(super) const P: PartitionId = PartitionId(3);

struct Deaf;

impl Actor for Deaf {
    type Context = Context<Self>;
}

impl Handler<FromReplica> for Deaf {
    type Result = ();
    fn handle(&mut self, _: FromReplica, _: &mut Context<Self>) {}
}

pub(super) struct Stage {
    pub(super) server: SimClickHouse,
    kafka: SimKafka,
    pub(super) job: Job,
    gate: u64,
}

pub(super) async fn stage() -> Stage {
    stage_of("CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a").await
}

/// A replica whose server cannot read what says `bad`, and not write what says `zero`.
async fn stage_of(ddl: &str) -> Stage {
    let server = SimClickHouse::new(SimRoutes::new());
    server.refuse_rows(|row| String::from_utf8_lossy(row).contains("bad"));
    server.refuse_rows_in_parts(|row| String::from_utf8_lossy(row).contains("zero"));
    let (name, schema) = server.parse_ddl(ddl, 1).await.unwrap();
    server
        .create_replica(&ReplicaTables { database: DATABASE.into(), schema: schema.clone() })
        .await
        .unwrap();
    let gate = server.renew_gate(DATABASE).await.unwrap();
    let source = Source {
        topic_prefix: "d.t".into(),
        layout: TopicLayout::TopicPerPartition,
        format: MessageFormat::JSONEachRow,
        format_settings: BTreeMap::new(),
        batch: BatchLimits::default(),
    };
    let table = Table {
        id: TableId(uuid::Uuid::nil()),
        name,
        state: TableState::Active,
        schema,
        ddl: ddl.into(),
        partitions: 8,
        replicas: 1,
        partition_by: "a".into(),
        mode: ReplicationMode::Log,
        source,
        epoch: Epoch(1),
        next_shard: 1,
        origin_offsets: Default::default(),
        delete_topics: false,
        published_by: BTreeMap::new(),
    };
    let kafka = SimKafka::new();
    let ports = NodePorts {
        node: "n1".parse().unwrap(),
        cluster: "c".into(),
        incarnation: 1,
        boot: None,
        group: "g".into(),
        clickhouse: Arc::new(server.clone()),
        kafka: Arc::new(kafka.clone()),
        clock: Arc::new(SimClock::new(0, 1)),
        routes: Arc::new(SimRoutes::new()),
        metrics: Metrics::default(),
        inserts: InsertRoom::new(4, 1 << 20),
        insert_deadline_ms: 60_000,
        recoveries: Arc::new(Semaphore::new(1)),
        copies: Arc::new(Semaphore::new(1)),
        copies_max: 1,
        takes: Throttle::new(Arc::new(SimClock::new(0, 1)), 0),
        cluster_bytes_per_s: 0,
        neighbours: Neighbours {
            peers: Arc::new(GrpcPeers::new(Default::default())),
            own_url: String::new(),
            own: Arc::default(),
        },
    };
    let range = PartitionRange::new(0, 8).unwrap();
    let shard = Shard::new(table.id, ShardId(0), range, [ports.node.clone()]);
    // Nobody listens: inserts tell the agent nothing.
    let agent = Context::<Deaf>::new().address().recipient();
    let (view, table, database) =
        (View::default(), Kept::from(&Versioned { record: table, revision: 1 }.into()), DATABASE.to_owned());
    let job =
        Job { ports, view, agent, shard, table, database, told: Told::default(), parting: Arc::default() };
    Stage { server, kafka, job, gate }
}

impl Stage {
    async fn with_dead_letters(self) -> Self {
        let name = names::dead_letter_topic(&self.job.table.source);
        let topic = NewTopic { name, partitions: 1, replication: 1, settings: vec![] };
        self.kafka.create_topics(&[topic]).await.unwrap();
        self
    }

    pub(super) async fn insert(&self, texts: &[String]) -> Outcome {
        self.job.clone().insert(P, 1, self.gate, batch(texts), BTreeSet::new()).await
    }

    fn offsets(&self) -> Vec<i64> {
        self.server.contents(DATABASE, P).into_iter().map(|(offset, _)| offset).collect()
    }

    fn inserts(&self) -> u64 {
        self.job.ports.metrics.insert_seconds.get_sample_count()
    }
}

fn batch(texts: &[String]) -> Batch {
    let (mut payload, mut messages) = (Vec::new(), Vec::new());
    for (offset, text) in (0..).zip(texts) {
        let (start, len) = (u32::try_from(payload.len()).unwrap(), u32::try_from(text.len()).unwrap());
        payload.extend_from_slice(text.as_bytes());
        messages.push(Message { offset, timestamp_ms: 0, start, len, tombstone: false });
    }
    let source = TopicPartition { topic: "d.t.3".into(), partition: 0 };
    Batch { messages: messages.len(), chunks: vec![Chunk { source, messages, payload: payload.into() }] }
}

pub(super) fn texts(count: i64, bad: impl Fn(i64) -> bool) -> Vec<String> {
    (0..count).map(|n| if bad(n) { format!("{{\"bad\":{n}}}") } else { format!("{{\"a\":{n}}}") }).collect()
}

#[tokio::test(start_paused = true)]
async fn thousands_of_messages_of_another_schema_cost_a_few_inserts() {
    let stage = stage().await.with_dead_letters().await;
    let bad = |n: i64| n % 3 != 0;
    let Outcome::Done(done) = stage.insert(&texts(9_000, bad)).await else { panic!("not done") };
    assert_eq!((done.rows, done.dead_letters), (3_000, 6_000));
    assert_eq!((done.next, done.last_row_offset), (9_000, Some(8_997)));
    assert_eq!(stage.offsets(), (0..9_000).filter(|n| !bad(*n)).collect::<Vec<_>>());
    assert!(stage.inserts() < 25, "{}", stage.inserts());
}

#[tokio::test(start_paused = true)]
async fn where_rows_do_not_stand_alone_the_bad_messages_are_found_by_halves() {
    for odd in ["{\"a\":1}{\"a\":2}", "{\"a\":\n1}", "[{\"a\":1},{\"a\":2}]"] {
        let stage = stage().await.with_dead_letters().await;
        let mut texts = texts(64, |n| n == 17);
        texts[40] = odd.into();
        // One row of the message is bad: none of its rows may go in.
        texts[50] = "{\"a\":1} {\"bad\":2}".into();
        // No rows at all: as many rows as messages must not be taken for one row each.
        texts[60] = "[]".into();
        let Outcome::Done(done) = stage.insert(&texts).await else { panic!("not done") };
        assert_eq!(done.dead_letters, 2);
        let wanted: BTreeSet<i64> = (0..64).filter(|n| ![17, 50, 60].contains(n)).collect();
        assert_eq!(stage.offsets().into_iter().collect::<BTreeSet<_>>(), wanted, "{odd:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn dead_letters_that_cannot_be_sent_double_no_row() {
    let stage = stage().await;
    let outcome = stage.insert(&texts(10, |n| n == 4)).await;
    assert!(matches!(outcome, Outcome::Unknown(_)), "the rows are in: {outcome:?}");
    let stage = self::stage().await;
    let outcome = stage.insert(&texts(3, |_| true)).await;
    assert!(matches!(outcome, Outcome::Again(..)), "no row is in: {outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_takes_no_insert_at_all_has_no_message_put_aside() {
    let stage = stage().await.with_dead_letters().await;
    stage.server.refuse_settings(true);
    let outcome = stage.insert(&texts(1_000, |_| false)).await;
    assert!(matches!(outcome, Outcome::Again(_, Stall::ServerRefuses { .. })), "{outcome:?}");
    assert!(stage.inserts() <= 2, "{}", stage.inserts());
    stage.server.refuse_settings(false);
    let Outcome::Done(done) = stage.insert(&texts(1_000, |_| false)).await else { panic!("not done") };
    assert_eq!((done.rows, done.dead_letters), (1_000, 0));
    let stage = self::stage().await.with_dead_letters().await;
    let Outcome::Done(done) = stage.insert(&texts(10, |_| true)).await else { panic!("not done") };
    assert_eq!((done.rows, done.dead_letters), (0, 10), "a topic of bad messages alone drains");
}

/// ClickHouse computes the sorting key of each part by itself, when earlier parts of the insert are in.
#[tokio::test(start_paused = true)]
async fn rows_that_went_in_before_a_later_part_failed_are_not_inserted_again() {
    let ddl = "CREATE TABLE d.t (ts DateTime, a Int64, b Int64) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) \
               ORDER BY intDiv(a, b)";
    for poison in [&[40][..], &[20, 40], &[0, 13, 20, 33, 40, 63]] {
        for spoilt in [&[][..], &[5, 45]] {
            let stage = stage_of(ddl).await.with_dead_letters().await;
            let text = |n: i64| {
                let word = if poison.contains(&n) { "zero" } else { "good" };
                let word = if spoilt.contains(&n) { "bad" } else { word };
                // The second half in February, but for every fifth message.
                format!(
                    "{{\"ts\":\"2026-0{}-05 00:00:00\",\"{word}\":{n}}}",
                    if n < 32 || n % 5 == 0 { 1 } else { 2 }
                )
            };
            let outcome = stage.insert(&(0..64).map(text).collect::<Vec<_>>()).await;
            let Outcome::Done(done) = outcome else { panic!("not done: {outcome:?}") };
            let good: Vec<i64> = (0..64).filter(|n| !poison.contains(n) && !spoilt.contains(n)).collect();
            assert_eq!(stage.offsets(), good);
            assert_eq!(stage.server.rows(DATABASE), (good.len() as u64, 0), "none twice");
            assert_eq!((done.rows, done.last_row_offset), (good.len() as u64, good.last().copied()));
            assert_eq!(done.dead_letters, 64 - done.rows);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bad_message_that_the_dead_letter_topic_takes_only_in_part_stops_nothing() {
    let stage = stage().await.with_dead_letters().await;
    stage.kafka.set_payload_bytes_max(1_000_000);
    let mut texts = texts(10, |n| n == 2);
    texts[5] = format!("{{\"bad\":\"{}\"}}", "x".repeat(1_020_000));
    texts[6] = format!("{{\"bad\":\"{}\"}}", "x".repeat(200_000));
    let outcome = stage.insert(&texts).await;
    let Outcome::Done(done) = outcome else { panic!("not done: {outcome:?}") };
    assert_eq!((done.rows, done.dead_letters), (7, 3));
    let topic = names::dead_letter_topic(&stage.job.table.source);
    let source = TopicPartition { topic, partition: 0 };
    assert_eq!(stage.kafka.ends(&source).map(|ends| ends.high), Some(3), "each once");
    let mut sizes = Vec::new();
    for offset in 0..3 {
        let chunk = stage.kafka.peek(&source, offset).await.unwrap().unwrap();
        sizes.push(chunk.messages[0].len as usize);
    }
    sizes.sort_unstable();
    assert_eq!(sizes, [texts[2].len(), 64 << 10, texts[6].len()]);
}
