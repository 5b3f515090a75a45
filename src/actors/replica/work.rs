//! The replica's effects: prepare, recover, insert. Plain async functions over the ports; no state of their own.
//!
//! Every call has a deadline; an answer that did not come is an unknown outcome, never a failure.

use super::buffer::Batch;
use super::handover::Starts;
use super::position::{Position, fingerprint};
use super::recovery::{self, Findings, Start};
use super::state::{Done, Outcome};
use super::writer::{self, DeadLetter, Writer, Written, messages_of};
use crate::actors::agent::{FromReplica, ReplicaNews};
use crate::actors::mirror::View;
use crate::actors::node_ports::NodePorts;
use crate::adapters::clickhouse::{self, ReplicaTables};
use crate::adapters::kafka::{self, Chunk, Committed, Outgoing};
use crate::error::{Coded, Retry};
use crate::model::names::{self, TopicPartition};
use crate::model::observed::Stall;
use crate::model::view::Kept;
use crate::model::{Epoch, PartitionId, Shard, Table};
use actix::Recipient;
use bytes::Bytes;
use futures::future::{Either, select};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// What is left of a dead letter that its topic does not take whole. Up to this they go together: no topic is made to
/// take so little.
const CUT_BYTES: usize = 64 << 10;

/// How long after the table is whole a gate must be open, or what a parent has told is not believed any more.
const TOLD_FOR_MS: u64 = 60_000;

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
    pub table: Kept<Table>,
    /// The replica's database.
    pub database: String,
    /// Where partitions go on, as parents have told; each counts once.
    pub told: Told,
    /// The replica is about to stop for its halves: what waits for room to be inserted is not inserted any more.
    pub parting: Arc<Notify>,
}

/// See [`Job::told`].
pub type Told = Arc<Mutex<Starts>>;

impl Job {
    /// Which life of the replica this is.
    pub fn since(&self) -> Epoch {
        self.shard.life_on(&self.ports.node)
    }

    /// Makes the tables, where they are missing, with what history there is to take over, and opens a new gate. Tells
    /// whether the local table was missing, and the gate.
    pub async fn prepare(self) -> (bool, Result<u64, String>) {
        self.tell_of(Starts::new());
        let there = match self.ports.clickhouse.has_local(&self.database).await {
            Ok(there) => self.clear_left_over(there).await,
            Err(error) => Err(error.told()),
        };
        match there {
            Ok(there) => (!there, self.stand(there).await),
            Err(error) => (false, Err(error)),
        }
    }

    async fn stand(&self, there: bool) -> Result<u64, String> {
        let server = &self.ports.clickhouse;
        let mut starts = Starts::new();
        if there {
            self.tell(ReplicaNews::Seeded);
            server.create_replica(&self.tables()).await.map_err(|e| e.told())?;
        } else {
            // What it was filled in was made as it should be: nothing is compared while its parents stand still.
            starts = self.seed().await?;
            self.tell(ReplicaNews::Seeded);
        }
        let whole_ms = self.ports.clock.now_ms();
        let opened = server.open_gate(&self.database).await.map_err(|e| e.told())?;
        // Another run of the daemon may have put something in meanwhile, or all may be another's by now if this one
        // slept.
        let is_sure = opened.is_first && self.ports.clock.now_ms() < whole_ms + TOLD_FOR_MS;
        self.tell_of(if is_sure { starts } else { Starts::new() });
        Ok(opened.number)
    }

    /// Partitions go on there; for others it is looked up.
    fn tell_of(&self, starts: Starts) {
        *self.told.lock().expect("nothing panics while it is held") = starts;
    }

    /// The tables that it is made of.
    pub(super) fn tables(&self) -> ReplicaTables {
        ReplicaTables { database: self.database.clone(), schema: self.table.schema.clone() }
    }

    /// Looks up where a partition goes on.
    pub async fn recover(
        self,
        partition: PartitionId,
        source: TopicPartition,
        known: Option<(i64, Position)>,
    ) -> Result<Start, Stall> {
        let told = self.told.lock().expect("nothing panics while it is held").remove(&partition);
        if let Some(start) = told {
            return Ok(start);
        }
        let _permit = self.ports.recoveries.acquire().await;
        let findings = self.find(partition, &source, known).await?;
        recovery::plan(&findings)
    }

    async fn find(
        &self,
        partition: PartitionId,
        source: &TopicPartition,
        known: Option<(i64, Position)>,
    ) -> Result<Findings, Stall> {
        let watermarks = self.ports.kafka.watermarks(source).await.map_err(stall_of)?;
        let expires = !self.table.schema.ttl.is_empty();
        let trusted = |(next, position): (i64, Position)| {
            (next, if expires { position.without_rows() } else { position })
        };
        let committed = self.recorded(source).await?.or(known).map(trusted);
        let origin = self.table.origin_offsets.get(&partition).copied().unwrap_or(watermarks.low);
        let server = &self.ports.clickhouse;
        let refused = |e: clickhouse::Error| Stall::ServerRefuses { error: e.told() };
        // Each look reads all of a partition's offsets. If the newest row that was recorded is there, one is enough: it
        // tells too what may have to be skipped.
        let guess = committed.as_ref().map_or(i64::MAX, |(next, position)| {
            position.last_row_offset.map_or(*next, |row| row.min(*next))
        });
        let boot = self.ports.boot;
        let mut holdings = server.holdings(&self.database, partition, guess).await.map_err(refused)?;
        let from = recovery::look_from(origin, committed.as_ref(), holdings.max_offset, boot);
        if from < guess {
            holdings = server.holdings(&self.database, partition, from).await.map_err(refused)?;
        }
        let fingerprint = match committed.as_ref().and_then(recovery::fingerprinted) {
            Some((_, offset)) if offset >= watermarks.low => self.fingerprint_at(source, offset).await?,
            _ => None,
        };
        Ok(Findings { origin, committed, holdings, watermarks, fingerprint, boot })
    }

    /// What is recorded of this replica: by itself, or by what it was made out of.
    async fn recorded(&self, source: &TopicPartition) -> Result<Option<(i64, Position)>, Stall> {
        let (shard, node) = (&self.shard, &self.ports.node);
        let told = self.recorded_in(&self.ports.group, source).await?;
        let told = told.filter(|(_, position)| position.tells_of(shard, node));
        let own = |(_, position): &(i64, Position)| position.is_of(shard, node);
        if shard.parents.is_empty() || told.as_ref().is_some_and(own) {
            return Ok(told);
        }
        // Of the time before it was published, when it might still have been given up.
        let early = self.recorded_in(&names::preparing_group(&self.ports.group), source).await?;
        // Even where a parent here had come further: a half that was copied is what its source was.
        let Some((next, position)) = early.filter(own) else { return Ok(told) };
        // It goes where the others are, once it may.
        self.tell(ReplicaNews::Commit(source.clone(), Committed { next, metadata: position.encode() }));
        Ok(Some((next, position)))
    }

    async fn recorded_in(
        &self,
        group: &str,
        source: &TopicPartition,
    ) -> Result<Option<(i64, Position)>, Stall> {
        let recorded = self.ports.kafka.committed(group, std::slice::from_ref(source)).await;
        let recorded = recorded.map_err(stall_of)?.into_iter().next().flatten();
        Ok(recorded.and_then(|commit| Some((commit.next, Position::decode(&commit.metadata)?))))
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
        let mut writer = Writer::new(&self, partition, attempt, gate, held);
        let mut dead = Vec::new();
        let messages = messages_of(&batch);
        let taking = std::pin::pin!(self.ports.inserts.take(writer::memory_for(&messages)));
        let room = match select(taking, std::pin::pin!(self.parting.notified())).await {
            Either::Left((room, _)) => room,
            Either::Right(_) => return Outcome::Unsent,
        };
        let written = writer.write(&messages, &mut dead).await;
        drop(room);
        let Written { rows, last_row: last_row_offset, landed } = writer.written();
        if let Err(error) = written {
            return failed(&error, landed, batch);
        }
        let dead_letters = dead.len() as u64;
        self.ports.metrics.dead_letters(&self.table.name.to_string()).inc_by(dead_letters);
        if let Err(error) = self.bury(partition, dead).await {
            // The batch again as it is would double the rows that are in.
            let stall = Stall::DeadLetterUnavailable { error: error.clone() };
            return if landed { Outcome::Unknown(error) } else { Outcome::Again(batch, stall) };
        }
        Outcome::Done(Done { next, last_row_offset, fingerprint: last_fingerprint, rows, dead_letters })
    }

    /// Sends messages to the dead-letter topic, with their error and where they came from. A large one goes by itself,
    /// so that its refusal is its own, and cut if the topic does not take it whole: else its partition would stand
    /// still for good.
    async fn bury(&self, partition: PartitionId, dead: Vec<DeadLetter>) -> Result<(), String> {
        let outgoing = dead.into_iter().map(|letter| self.outgoing(partition, letter));
        let is_large = |letter: &Outgoing| payload_bytes(letter) > CUT_BYTES;
        let (large, others): (Vec<Outgoing>, Vec<Outgoing>) = outgoing.partition(is_large);
        let kafka = &self.ports.kafka;
        for letter in large {
            let sent = match kafka.produce(vec![letter.clone()]).await {
                Err(kafka::Error::TooLarge(_)) => kafka.produce(vec![cut(letter)]).await,
                sent => sent,
            };
            sent.map_err(|error| error.told())?;
        }
        if others.is_empty() {
            return Ok(());
        }
        kafka.produce(others).await.map_err(|error| error.told())
    }

    fn outgoing(&self, partition: PartitionId, letter: DeadLetter) -> Outgoing {
        tracing::warn!(table = %self.table.name, %partition, offset = letter.offset, error = %letter.error,
            "message goes to the dead-letter topic");
        let source = names::topic_partition(&self.table.source, partition);
        Outgoing {
            target: TopicPartition { topic: names::dead_letter_topic(&self.table.source), partition: 0 },
            payload: Some(letter.payload),
            headers: vec![
                ("cvh-error".into(), letter.error),
                ("cvh-table".into(), self.table.name.to_string()),
                ("cvh-partition".into(), partition.0.to_string()),
                ("cvh-topic".into(), source.topic),
                ("cvh-topic-partition".into(), source.partition.to_string()),
                ("cvh-offset".into(), letter.offset.to_string()),
                ("cvh-node".into(), self.ports.node.to_string()),
            ],
        }
    }
}

fn payload_bytes(letter: &Outgoing) -> usize {
    letter.payload.as_ref().map_or(0, Bytes::len)
}

/// The beginning of a dead letter, with a header that says how large it was.
fn cut(mut letter: Outgoing) -> Outgoing {
    letter.headers.push(("cvh-original-size".into(), payload_bytes(&letter).to_string()));
    letter.payload = letter.payload.map(|payload| payload.slice(..payload.len().min(CUT_BYTES)));
    letter
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_cut_says_how_large_it_was() {
        let target = TopicPartition { topic: "d.t.dead-letter".into(), partition: 0 };
        let letter = Outgoing { target, payload: Some(vec![b'x'; 1_020_000].into()), headers: vec![] };
        let cut = cut(letter);
        assert_eq!(payload_bytes(&cut), CUT_BYTES);
        assert_eq!(cut.headers, [("cvh-original-size".to_owned(), "1020000".to_owned())]);
    }
}
