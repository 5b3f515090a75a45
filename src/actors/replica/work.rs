//! The replica's effects: prepare, recover, insert. Plain async functions over the ports; no state of their own.
//!
//! Every call has a deadline; an answer that did not come is an unknown outcome, never a failure.

use super::buffer::Batch;
use super::encode::{self, encode};
use super::position::{Position, fingerprint};
use super::recovery::{self, Findings, Start};
use super::state::{Done, Outcome};
use crate::actors::agent::FromReplica;
use crate::actors::mirror::View;
use crate::actors::node_ports::NodePorts;
use crate::adapters::clickhouse::{self, Insert, ReplicaTables};
use crate::adapters::kafka::{self, Chunk, Message, Outgoing};
use crate::error::{Coded, Retry};
use crate::model::names::{self, TopicPartition};
use crate::model::observed::Stall;
use crate::model::{PartitionId, Shard, Table};
use actix::Recipient;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What stays the same over a replica's life.
#[derive(Clone)]
pub struct Job {
    /// The node's ports.
    pub ports: NodePorts,
    /// What the store holds.
    pub view: View,
    /// Who is told what happens.
    pub agent: Recipient<FromReplica>,
    /// The shard, as it was when the replica was started.
    pub shard: Shard,
    /// The table, as it was when the replica was started.
    pub table: Arc<Table>,
    /// The replica's database.
    pub database: String,
}

impl Job {
    /// Makes the tables, where they are missing, with what history there is to take over, and opens a new gate.
    pub async fn prepare(self) -> Result<u64, String> {
        self.seed().await?;
        let tables = ReplicaTables { database: self.database.clone(), schema: self.table.schema.clone() };
        let server = &self.ports.clickhouse;
        server.create_replica(&tables).await.map_err(|e| e.told())?;
        server.renew_gate(&self.database).await.map_err(|e| e.told())
    }

    /// Looks up where a partition goes on.
    pub async fn recover(self, partition: PartitionId, source: TopicPartition) -> Result<Start, Stall> {
        let _permit = self.ports.recoveries.acquire().await;
        let findings = self.find(partition, &source).await?;
        recovery::plan(&findings)
    }

    async fn find(&self, partition: PartitionId, source: &TopicPartition) -> Result<Findings, Stall> {
        let kafka = &self.ports.kafka;
        let watermarks = kafka.watermarks(source).await.map_err(stall_of)?;
        let recorded =
            kafka.committed(&self.ports.group, std::slice::from_ref(source)).await.map_err(stall_of)?;
        let ours = |position: &Position| {
            let lineage = position.shard == self.shard.id || self.shard.parents.contains(&position.shard);
            lineage && position.table == self.table.id.short()
        };
        let expires = !self.table.schema.ttl.is_empty();
        let trusted = |position: Position| if expires { position.without_rows() } else { position };
        let committed = recorded.into_iter().next().flatten().and_then(|commit| {
            let position = Position::decode(&commit.metadata).filter(ours)?;
            Some((commit.next, trusted(position)))
        });
        let origin = self.table.origin_offsets.get(&partition).copied().unwrap_or(watermarks.low);
        // The table is asked twice at most: for its newest offset, and for all rows that may have to be skipped.
        let server = &self.ports.clickhouse;
        let refused = |e: clickhouse::Error| Stall::ServerRefuses { error: e.told() };
        let newest = server.holdings(&self.database, partition, i64::MAX).await.map_err(refused)?.max_offset;
        let from = recovery::look_from(origin, committed.as_ref(), newest);
        let holdings = server.holdings(&self.database, partition, from).await.map_err(refused)?;
        let fingerprint = match &committed {
            Some((next, position)) if position.fingerprint.is_some() && *next > watermarks.low => {
                self.fingerprint_at(source, next - 1).await?
            }
            _ => None,
        };
        Ok(Findings { origin, committed, holdings, watermarks, fingerprint })
    }

    async fn fingerprint_at(&self, source: &TopicPartition, offset: i64) -> Result<Option<u32>, Stall> {
        let chunk = self.ports.kafka.peek(source, offset).await.map_err(stall_of)?;
        let at = |chunk: Chunk| {
            let message = chunk.messages.iter().find(|message| message.offset == offset)?;
            Some(fingerprint(&chunk, message))
        };
        Ok(chunk.and_then(at))
    }

    /// Inserts a batch: rows into the table, what cannot be a row into the dead-letter topic.
    pub async fn insert(
        self,
        partition: PartitionId,
        attempt: u32,
        gate: u64,
        batch: Batch,
        held: BTreeSet<(i64, u32)>,
    ) -> Outcome {
        let Some((next, last_fingerprint)) = end_of(&batch) else {
            return Outcome::Unknown("empty batch".into());
        };
        let permit = self.ports.inserts.clone().acquire_owned().await;
        let mut writer =
            Writer { job: &self, partition, attempt, gate, held, sent: 0, rows: 0, last_row: None };
        let messages = writer.messages_of(&batch);
        let mut dead = Vec::new();
        let written = writer.write(&messages, &mut dead).await;
        drop(permit);
        let (rows, last_row_offset) = (writer.rows, writer.last_row);
        match written {
            Ok(()) => {}
            Err(error) => return failed(&error, writer.rows > 0, batch),
        }
        let dead_letters = dead.len() as u64;
        self.ports.metrics.dead_letters(&self.table.name.to_string()).inc_by(dead_letters);
        if let Err(error) = self.bury(partition, dead).await {
            // Rows of the batch that are in already must not go in again: only a look tells.
            return match rows {
                0 => Outcome::Again(batch, Stall::DeadLetterUnavailable { error }),
                _ => Outcome::Unknown(error),
            };
        }
        Outcome::Done(Done { next, last_row_offset, fingerprint: last_fingerprint, rows, dead_letters })
    }

    /// Sends messages to the dead-letter topic, with their error and where they came from.
    async fn bury(&self, partition: PartitionId, dead: Vec<DeadLetter>) -> Result<(), String> {
        if dead.is_empty() {
            return Ok(());
        }
        let topic = names::dead_letter_topic(&self.table.source);
        let source = names::topic_partition(&self.table.source, partition);
        let outgoing = dead.into_iter().map(|letter| {
            tracing::warn!(table = %self.table.name, %partition, offset = letter.offset, error = %letter.error,
                "message goes to the dead-letter topic");
            Outgoing {
                target: TopicPartition { topic: topic.clone(), partition: 0 },
                payload: Some(letter.payload),
                headers: vec![
                    ("cvh-error".into(), letter.error),
                    ("cvh-table".into(), self.table.name.to_string()),
                    ("cvh-partition".into(), partition.0.to_string()),
                    ("cvh-topic".into(), source.topic.clone()),
                    ("cvh-topic-partition".into(), source.partition.to_string()),
                    ("cvh-offset".into(), letter.offset.to_string()),
                    ("cvh-node".into(), self.ports.node.to_string()),
                ],
            }
        });
        self.ports.kafka.produce(outgoing.collect()).await.map_err(|error| error.told())
    }
}

/// A message that cannot become rows.
struct DeadLetter {
    offset: i64,
    payload: Bytes,
    error: String,
}

/// A message of a batch.
#[derive(Clone)]
struct Item {
    offset: i64,
    payload: Bytes,
}

/// One batch on its way.
struct Writer<'a> {
    job: &'a Job,
    partition: PartitionId,
    attempt: u32,
    gate: u64,
    held: BTreeSet<(i64, u32)>,
    sent: u32,
    rows: u64,
    last_row: Option<i64>,
}

impl Writer<'_> {
    fn messages_of(&self, batch: &Batch) -> Vec<Item> {
        let items = |chunk: &Chunk| {
            let slice = |m: &Message| Item {
                offset: m.offset,
                payload: chunk.payload.slice(m.start as usize..(m.start + m.len) as usize),
            };
            chunk.messages.iter().map(slice).collect::<Vec<_>>()
        };
        batch.chunks.iter().flat_map(items).collect()
    }

    /// Inserts the messages; where the server cannot take the rows, halves them until the bad one stands alone.
    fn write<'b>(
        &'b mut self,
        messages: &'b [Item],
        dead: &'b mut Vec<DeadLetter>,
    ) -> BoxFuture<'b, Result<(), clickhouse::Error>> {
        Box::pin(async move {
            let encoded = self.encode(messages, dead).await;
            if encoded.rows == 0 {
                return Ok(());
            }
            let last = encoded.last_row;
            match self.send(encoded.body, encoded.rows).await {
                Ok(()) => {
                    self.rows += u64::from(encoded.rows);
                    self.last_row = self.last_row.max(last);
                    Ok(())
                }
                Err(clickhouse::Error::BadRows { code, message }) => match messages {
                    [] => Ok(()),
                    [single] => {
                        let error = format!("ClickHouse error {code}: {message}");
                        dead.push(DeadLetter {
                            offset: single.offset,
                            payload: single.payload.clone(),
                            error,
                        });
                        Ok(())
                    }
                    more => {
                        dead.truncate(encoded.dead_before);
                        let (left, right) = more.split_at(more.len() / 2);
                        self.write(left, dead).await?;
                        self.write(right, dead).await
                    }
                },
                Err(error) => Err(error),
            }
        })
    }

    async fn encode(&self, messages: &[Item], dead: &mut Vec<DeadLetter>) -> Encoded {
        let dead_before = dead.len();
        let size: usize = messages.iter().map(|item| item.payload.len() + 72).sum();
        let (mut body, mut rows, mut last_row) = (Vec::with_capacity(size), 0, None);
        let format = self.job.table.source.format;
        for (index, item) in messages.iter().enumerate() {
            // Other actors share this thread: let them in between, some milliseconds of work each.
            if index % 16_384 == 16_383 {
                tokio::task::yield_now().await;
            }
            let skip = |row: u32| !self.held.is_empty() && self.held.contains(&(item.offset, row));
            match encode(format, &item.payload, self.partition, item.offset, &skip, &mut body) {
                Ok(0) => {}
                Ok(written) => {
                    rows += written;
                    last_row = Some(item.offset);
                }
                Err(reason) => {
                    let error = reason.told();
                    dead.push(DeadLetter { offset: item.offset, payload: item.payload.clone(), error });
                }
            }
        }
        Encoded { body: body.into(), rows, last_row, dead_before }
    }

    async fn send(&mut self, body: Bytes, rows: u32) -> Result<(), clickhouse::Error> {
        let source = &self.job.table.source;
        let mut format_settings = source.format_settings.clone();
        for (key, value) in encode::required_settings(source.format) {
            format_settings.insert((*key).to_owned(), (*value).to_owned());
        }
        self.sent += 1;
        let query_id = format!(
            "cvh-{}-g{}-{}-{:x}-{}-{}",
            self.job.database, self.gate, self.partition, self.job.ports.incarnation, self.attempt, self.sent
        );
        let insert = Insert {
            database: self.job.database.clone(),
            gate: self.gate,
            columns: encode::columns(&self.job.table.schema),
            format: source.format,
            format_settings,
            rows,
            body,
            query_id,
            deadline_ms: self.job.ports.insert_deadline_ms,
        };
        let metrics = &self.job.ports.metrics;
        let began = self.job.ports.clock.now_ms();
        let bytes = insert.body.len() as u64;
        let result = self.job.ports.clickhouse.insert(insert).await;
        let took_ms = self.job.ports.clock.now_ms() - began;
        #[expect(clippy::cast_precision_loss, reason = "durations are small")]
        metrics.insert_seconds.observe(took_ms as f64 / 1_000.0);
        if result.is_ok() {
            let table = self.job.table.name.to_string();
            metrics.ingest_rows(&table).inc_by(u64::from(rows));
            metrics.ingest_bytes(&table).inc_by(bytes);
        }
        result
    }
}

struct Encoded {
    body: Bytes,
    rows: u32,
    last_row: Option<i64>,
    dead_before: usize,
}

fn end_of(batch: &Batch) -> Option<(i64, u32)> {
    let chunk = batch.chunks.last()?;
    let message = chunk.messages.last()?;
    Some((message.offset + 1, fingerprint(chunk, message)))
}

/// What an error of an insert means for its batch.
fn failed(error: &clickhouse::Error, partly: bool, batch: Batch) -> Outcome {
    if partly {
        return Outcome::Unknown(error.told());
    }
    match (error, error.retry()) {
        // Whoever closed the gate may have inserted the same rows since.
        (clickhouse::Error::Missing(_), _) | (_, Retry::OutcomeUnknown) => Outcome::Unknown(error.told()),
        _ => Outcome::Again(batch, Stall::ServerRefuses { error: error.told() }),
    }
}

fn stall_of(error: kafka::Error) -> Stall {
    match error {
        kafka::Error::TopicMissing(_) => Stall::TopicMissing,
        other => Stall::KafkaUnreachable { error: other.told() },
    }
}
