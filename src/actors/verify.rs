//! Compares the replicas of a table with each other and with their topics, partition by partition, on any daemon.
//!
//! Each partition is compared below the position that all its replicas have recorded: what is below is in the table
//! or among the dead letters, and changes no more. One replica is asked at a time, in slices that bound its memory,
//! with a pause after each that keeps to a pace. What differs is narrowed down by halving, so the first offsets are
//! told; a stretch that is not whole is read in the topic, where offsets may have no message or one without rows. It
//! changes nothing. It does not look into messages: a row that every replica lacks of a message that gave
//! others is not seen.

mod topic;

use super::Neighbours;
use super::mirror::{View, table_named};
use super::replica::encode;
use super::replica::position::Position;
use crate::adapters::clock::Clock;
use crate::adapters::kafka::{Chunk, Kafka, Message, Watermarks};
use crate::adapters::peers::Error;
use crate::error::Coded as _;
use crate::model::names::{self, TopicPartition};
use crate::model::table::{Shard, ShardState, Table, TableName};
use crate::model::verify::{Difference, Digest, DigestAsked, PartitionVerdict};
use crate::model::{NodeId, PartitionId};
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use topic::Reader;

/// Offsets that are looked at in one go: the server keeps each in memory.
const SLICE: i64 = 4_000_000;
/// Offsets that are told of one difference.
const TOLD_MAX: usize = 5;
/// A stretch of offsets so short is read in the topic rather than halved, and so many messages at a time.
const READ_MAX: u64 = 4_096;
/// Dead letters that are read to compare with.
const LETTERS_MAX: usize = 100_000;

/// What a comparison needs.
pub struct Verification {
    /// What the store holds.
    pub view: View,
    /// The other daemons, and this one.
    pub neighbours: Neighbours,
    /// Topics and positions.
    pub kafka: Arc<dyn Kafka>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Cluster name.
    pub cluster: String,
    /// Rows a second that replicas should have to read for it; 0 is no limit.
    pub rows_per_s: u64,
}

/// Payloads of dead letters: lengths and checksums.
type Letters = BTreeSet<(u32, u32)>;

struct State {
    verification: Verification,
    table: Table,
    left: Vec<(Shard, PartitionId)>,
    letters: Option<Result<Letters, String>>,
    reader: Reader,
    /// Partitions in a row that could not be compared at all.
    failed: usize,
}

/// After so many partitions in a row that could not be compared at all it ends.
const FAILED_MAX: usize = 3;

/// What a stretch of a topic should have brought.
#[derive(Default)]
struct Owed {
    /// Messages with rows.
    messages: u64,
    /// The first of them.
    first: Vec<i64>,
    /// Messages that are dead letters.
    dead: u64,
    /// Offsets without a message, or with one without rows.
    empty: u64,
}

impl Verification {
    /// The verdicts, in the order of partitions.
    ///
    /// # Errors
    /// There is no such table, or nobody can tell yet.
    pub fn run(self, name: &TableName) -> Result<BoxStream<'static, Result<PartitionVerdict, Error>>, Error> {
        let (table, mut left) = {
            let view = self.view.read();
            let table = table_named(&view, name)?.clone();
            let shards = view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving);
            let of =
                |shard: &Shard| shard.range.partitions().map(|id| (shard.clone(), id)).collect::<Vec<_>>();
            let left: Vec<_> = shards.flat_map(of).collect();
            (table, left)
        };
        left.sort_by_key(|(_, partition)| std::cmp::Reverse(*partition));
        let reader = Reader::new(self.kafka.clone());
        let state = State { verification: self, table, left, letters: None, reader, failed: 0 };
        let next = |mut state: State| async move {
            let (shard, partition) = state.left.pop()?;
            let mut verdict = PartitionVerdict::blank(shard.id, partition);
            // One partition's trouble does not hide how the others are; if all have it, nothing is gained by going on.
            match state.check(&shard, &mut verdict).await {
                Ok(()) => state.failed = 0,
                Err(error) if state.failed + 1 >= FAILED_MAX => {
                    state.left.clear();
                    return Some((Err(error), state));
                }
                Err(error) => {
                    state.failed += 1;
                    verdict.unchecked.push(error.told());
                }
            }
            Some((Ok(verdict), state))
        };
        Ok(stream::unfold(state, next).boxed())
    }
}

impl State {
    async fn check(&mut self, shard: &Shard, verdict: &mut PartitionVerdict) -> Result<(), Error> {
        let partition = verdict.partition;
        let topic = names::topic_partition(&self.table.source, partition);
        let kafka = &self.verification.kafka;
        let watermarks = kafka.watermarks(&topic).await.map_err(of_kafka)?;
        let origin = self.table.origin_offsets.get(&partition).copied().unwrap_or(0);
        verdict.topic_from = watermarks.low.max(origin);
        let mut below = i64::MAX;
        let mut nodes = Vec::new();
        for node in shard.ready_nodes() {
            let passed = self.passed(shard, node, &topic).await?;
            match passed.or_else(|| untouched(watermarks, origin)) {
                Some(next) => {
                    below = below.min(next);
                    nodes.push(node.clone());
                }
                None => verdict.unchecked.push(format!("{node} has recorded no position")),
            }
        }
        verdict.below = if nodes.is_empty() { verdict.topic_from } else { below };
        for node in nodes {
            match self.digest(&node, shard, partition, (0, verdict.below)).await {
                Ok(digest) => drop(verdict.replicas.insert(node, digest)),
                Err(error) => verdict.unchecked.push(format!("{node}: {}", error.told())),
            }
        }
        self.judge(shard, &topic, verdict).await
    }

    /// The offset that a replica has passed, as it recorded it.
    async fn passed(
        &self,
        shard: &Shard,
        node: &NodeId,
        topic: &TopicPartition,
    ) -> Result<Option<i64>, Error> {
        let group = names::consumer_group(&self.verification.cluster, node);
        let kafka = &self.verification.kafka;
        let recorded = kafka.committed(&group, std::slice::from_ref(topic)).await.map_err(of_kafka)?;
        let ours = |position: &Position| position.tells_of(shard, node);
        let recorded = recorded.into_iter().next().flatten();
        Ok(recorded.filter(|at| Position::decode(&at.metadata).as_ref().is_some_and(ours)).map(|at| at.next))
    }

    /// What a node holds of a range, at the pace.
    async fn digest(
        &self,
        node: &NodeId,
        shard: &Shard,
        partition: PartitionId,
        (from, below): (i64, i64),
    ) -> Result<Digest, Error> {
        let verification = &self.verification;
        let url = verification.view.read().nodes.get(node).map(|node| node.record.daemon_url.clone());
        let url = url.ok_or_else(|| Error::NotFound(format!("node {node}")))?;
        let daemon = verification.neighbours.daemon(&url);
        let database = names::replica_database(&self.table.name, self.table.id, shard.id);
        let (mut sum, mut at) = (Digest::default(), from);
        while at < below {
            let end = below.min(at.saturating_add(SLICE));
            let began_ms = verification.clock.now_ms();
            let asked = DigestAsked {
                node: node.clone(),
                database: database.clone(),
                partition,
                from: at,
                below: end,
            };
            let digest = daemon.digest(asked).await?;
            let due_ms = (digest.rows * 1_000).checked_div(verification.rows_per_s).unwrap_or(0);
            let rest_ms = due_ms.saturating_sub(verification.clock.now_ms() - began_ms);
            if rest_ms > 0 {
                tokio::time::sleep(Duration::from_millis(rest_ms)).await;
            }
            (sum, at) = (sum.with(digest), end);
        }
        Ok(sum)
    }

    async fn judge(
        &mut self,
        shard: &Shard,
        topic: &TopicPartition,
        verdict: &mut PartitionVerdict,
    ) -> Result<(), Error> {
        let doubled = |(node, digest): (&NodeId, &Digest)| {
            let rows = digest.rows - digest.distinct.min(digest.rows);
            (rows > 0).then(|| Difference::Doubled { node: node.clone(), rows })
        };
        verdict.differences.extend(verdict.replicas.iter().filter_map(doubled));
        let held = verdict.replicas.clone();
        let Some((first, of_first)) = held.iter().next() else { return Ok(()) };
        if !self.table.schema.ttl.is_empty() {
            verdict.notes.push("rows expire, on each server in its own time: they are not compared".into());
            return Ok(());
        }
        let mut alike = true;
        for (node, digest) in held.iter().filter(|(_, digest)| *digest != of_first) {
            alike = false;
            let offsets = self.differing(shard, verdict, (first, node), of_first.with(*digest)).await?;
            let (node, other) = (node.clone(), first.clone());
            verdict.differences.push(Difference::Differing { node, other, offsets });
        }
        // What all hold alike is looked for in the topic once.
        for node in held.keys().take(if alike { 1 } else { held.len() }) {
            self.against_topic(shard, topic, verdict, node).await?;
        }
        Ok(())
    }

    /// The first offsets at which two replicas differ.
    async fn differing(
        &self,
        shard: &Shard,
        verdict: &PartitionVerdict,
        (one, other): (&NodeId, &NodeId),
        both: Digest,
    ) -> Result<Vec<i64>, Error> {
        let mut found = Vec::new();
        let (Some(lowest), Some(highest)) = (both.min_offset, both.max_offset) else { return Ok(found) };
        let mut ranges = vec![(lowest, highest + 1)];
        while let Some((from, below)) = ranges.pop().filter(|_| found.len() < TOLD_MAX) {
            let here = self.digest(one, shard, verdict.partition, (from, below)).await?;
            let there = self.digest(other, shard, verdict.partition, (from, below)).await?;
            if here == there {
                continue;
            }
            if below - from == 1 {
                found.push(from);
                continue;
            }
            let middle = from + (below - from) / 2;
            ranges.extend([(middle, below), (from, middle)]);
        }
        Ok(found)
    }

    /// Looks in the topic for what a replica has no row of.
    async fn against_topic(
        &mut self,
        shard: &Shard,
        topic: &TopicPartition,
        verdict: &mut PartitionVerdict,
        node: &NodeId,
    ) -> Result<(), Error> {
        (verdict.dead_letters, verdict.empty) = (0, 0);
        let mut missing = Vec::new();
        let mut ranges = vec![(verdict.topic_from, verdict.below)];
        ranges.retain(|(from, below)| from < below);
        while let Some((from, below)) = ranges.pop().filter(|_| missing.len() < TOLD_MAX) {
            let held = self.digest(node, shard, verdict.partition, (from, below)).await?.messages;
            let width = below.abs_diff(from);
            if held == width {
                continue;
            }
            let middle = from + (below - from) / 2;
            if held > 0 && width > READ_MAX {
                ranges.extend([(middle, below), (from, middle)]);
                continue;
            }
            let owed = match self.owed(topic, (from, below), verdict).await {
                Ok(owed) => owed,
                Err(why) => {
                    verdict.unchecked.push(format!("offsets from {from} on: {why}"));
                    break;
                }
            };
            if held > 0 && held != owed.messages {
                ranges.extend([(middle, below), (from, middle)]);
                continue;
            }
            verdict.dead_letters += owed.dead;
            verdict.empty += owed.empty;
            if held == 0 {
                missing.extend(owed.first);
            }
        }
        if !missing.is_empty() {
            missing.truncate(TOLD_MAX);
            verdict.differences.push(Difference::Missing { node: node.clone(), offsets: missing });
        }
        Ok(())
    }

    /// What stands in a stretch of the topic; of a long one, until there are enough messages that have rows.
    async fn owed(
        &mut self,
        topic: &TopicPartition,
        (from, below): (i64, i64),
        verdict: &mut PartitionVerdict,
    ) -> Result<Owed, String> {
        let (mut owed, mut at) = (Owed::default(), from);
        while at < below && owed.first.len() < TOLD_MAX {
            let format = self.table.source.format;
            let (mut seen, mut found) = (0, Vec::new());
            let mut take = |chunk: &Chunk, message: &Message| {
                let payload = chunk.payload_of(message);
                // What cannot be cut into rows is a dead letter, or should be.
                if encode::split(format, payload).map_or(true, |rows| !rows.is_empty()) {
                    found.push((message.offset, (message.len, crc32fast::hash(payload))));
                }
                seen += 1;
                seen < READ_MAX
            };
            let next = self.reader.read(topic, (at, below), &mut take).await?;
            owed.empty += next.abs_diff(at) - found.len() as u64;
            for (offset, payload) in found {
                if self.is_dead(payload, verdict).await {
                    owed.dead += 1;
                } else {
                    owed.messages += 1;
                    owed.first.push(offset);
                }
            }
            at = next;
        }
        owed.first.truncate(TOLD_MAX);
        Ok(owed)
    }

    async fn is_dead(&mut self, payload: (u32, u32), verdict: &mut PartitionVerdict) -> bool {
        if self.letters.is_none() {
            self.letters = Some(self.read_letters().await);
        }
        match &self.letters {
            Some(Ok(letters)) => letters.contains(&payload),
            Some(Err(why)) => {
                let what = format!("dead letters cannot be read: {why}");
                if !verdict.unchecked.contains(&what) {
                    verdict.unchecked.push(what);
                }
                false
            }
            None => false,
        }
    }

    async fn read_letters(&mut self) -> Result<Letters, String> {
        let source = TopicPartition { topic: names::dead_letter_topic(&self.table.source), partition: 0 };
        let watermarks = self.verification.kafka.watermarks(&source).await.map_err(|e| e.told())?;
        let mut letters = Letters::new();
        let mut take = |chunk: &Chunk, message: &Message| {
            letters.insert((message.len, crc32fast::hash(chunk.payload_of(message))));
            letters.len() < LETTERS_MAX
        };
        self.reader.read(&source, (watermarks.low, watermarks.high), &mut take).await?;
        Ok(letters)
    }
}

/// Where a replica stands that has recorded nothing because there never was anything to take.
fn untouched(watermarks: Watermarks, origin: i64) -> Option<i64> {
    (watermarks.high <= origin).then_some(origin)
}

fn of_kafka(error: crate::adapters::kafka::Error) -> Error {
    Error::Unavailable(error.told())
}
