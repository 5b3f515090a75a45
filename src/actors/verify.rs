//! Compares the replicas of a table with each other and with their topics, partition by partition, on any daemon.
//!
//! Each partition is compared below the position that all its replicas have recorded: what is below is in the table
//! or among the dead letters, and changes no more. One replica is asked at a time, in slices that bound its memory,
//! with a pause after each that keeps to a pace. What differs is narrowed down by halving, so the first offsets are
//! told. It changes nothing. It does not look into messages: a row that every replica lacks of a message that gave
//! others is not seen.

use super::Neighbours;
use super::mirror::View;
use super::replica::encode;
use super::replica::position::Position;
use crate::adapters::clock::Clock;
use crate::adapters::kafka::{Fetched, Kafka};
use crate::adapters::peers::Error;
use crate::error::Coded as _;
use crate::model::names::{self, TopicPartition};
use crate::model::table::{Shard, ShardState, Table, TableName};
use crate::model::verify::{Difference, Digest, DigestAsked, PartitionVerdict};
use crate::model::{NodeId, PartitionId};
use futures::stream::{self, BoxStream, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// Offsets that are looked at in one go: the server keeps each in memory.
const SLICE: i64 = 4_000_000;
/// Offsets that are told of one difference.
const TOLD_MAX: usize = 5;
/// Offsets without a row that are looked up in the topic, for each partition.
const LOOKED_UP_MAX: usize = 200;
/// Dead letters that are read to compare with.
const LETTERS_MAX: usize = 100_000;
/// Wait for the next dead letter.
const LETTER_WAIT: Duration = Duration::from_secs(20);

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
}

impl Verification {
    /// The verdicts, in the order of partitions.
    ///
    /// # Errors
    /// There is no such table.
    pub fn run(self, name: &TableName) -> Result<BoxStream<'static, Result<PartitionVerdict, Error>>, Error> {
        let (table, mut left) = {
            let view = self.view.read();
            let table =
                view.table_named(name).cloned().ok_or_else(|| Error::NotFound(format!("table {name}")))?;
            let shards = view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving);
            let of =
                |shard: &Shard| shard.range.partitions().map(|id| (shard.clone(), id)).collect::<Vec<_>>();
            let left: Vec<_> = shards.flat_map(of).collect();
            (table, left)
        };
        left.sort_by_key(|(_, partition)| std::cmp::Reverse(*partition));
        let state = State { verification: self, table, left, letters: None };
        let next = |mut state: State| async move {
            let (shard, partition) = state.left.pop()?;
            let verdict = state.check(&shard, partition).await;
            Some((verdict, state))
        };
        Ok(stream::unfold(state, next).boxed())
    }
}

impl State {
    async fn check(&mut self, shard: &Shard, partition: PartitionId) -> Result<PartitionVerdict, Error> {
        let topic = names::topic_partition(&self.table.source, partition);
        let kafka = &self.verification.kafka;
        let watermarks = kafka.watermarks(&topic).await.map_err(of_kafka)?;
        let origin = self.table.origin_offsets.get(&partition).copied().unwrap_or(0);
        let mut verdict = PartitionVerdict {
            shard: shard.id,
            partition,
            topic_from: watermarks.low.max(origin),
            below: i64::MAX,
            replicas: BTreeMap::new(),
            differences: Vec::new(),
            dead_letters: 0,
            empty: 0,
            unchecked: Vec::new(),
        };
        let mut nodes = Vec::new();
        for node in shard.ready_nodes() {
            match self.passed(shard, node, &topic).await? {
                Some(next) => {
                    verdict.below = verdict.below.min(next);
                    nodes.push(node.clone());
                }
                None => verdict.unchecked.push(format!("{node} has recorded no position")),
            }
        }
        if nodes.is_empty() {
            verdict.below = verdict.topic_from;
            return Ok(verdict);
        }
        for node in nodes {
            match self.digest(&node, shard, partition, (0, verdict.below)).await {
                Ok(digest) => drop(verdict.replicas.insert(node, digest)),
                Err(error) => verdict.unchecked.push(format!("{node}: {}", error.told())),
            }
        }
        self.judge(shard, &topic, &mut verdict).await?;
        Ok(verdict)
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
        let short = self.table.id.short();
        let ours = |position: &Position| {
            position.table == short && (position.shard == shard.id || shard.parents.contains(&position.shard))
        };
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
            verdict
                .unchecked
                .push("rows expire, on each server in its own time: they are not compared".into());
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

    /// Looks up the offsets of which a replica has no row.
    async fn against_topic(
        &mut self,
        shard: &Shard,
        topic: &TopicPartition,
        verdict: &mut PartitionVerdict,
        node: &NodeId,
    ) -> Result<(), Error> {
        (verdict.dead_letters, verdict.empty) = (0, 0);
        let (mut ranges, mut missing, mut looked_up) =
            (vec![(verdict.topic_from, verdict.below)], Vec::new(), 0);
        while let Some((from, below)) = ranges.pop().filter(|(from, below)| from < below) {
            let held = self.digest(node, shard, verdict.partition, (from, below)).await?;
            if held.messages == below.abs_diff(from) {
                continue;
            }
            if below - from > 1 && held.messages > 0 {
                let middle = from + (below - from) / 2;
                ranges.extend([(middle, below), (from, middle)]);
                continue;
            }
            for offset in from..below {
                if looked_up == LOOKED_UP_MAX {
                    let what = format!("{node}: offsets from {offset} on without rows: too many to look up");
                    verdict.unchecked.push(what);
                    ranges.clear();
                    break;
                }
                looked_up += 1;
                match self.payload_at(topic, offset).await? {
                    None => verdict.empty += 1,
                    Some(payload) if self.is_dead(payload, verdict).await? => verdict.dead_letters += 1,
                    Some(_) => missing.push(offset),
                }
            }
        }
        if !missing.is_empty() {
            missing.truncate(TOLD_MAX);
            verdict.differences.push(Difference::Missing { node: node.clone(), offsets: missing });
        }
        Ok(())
    }

    /// Length and checksum of a message's payload; `None` if it has no rows to give, or is not there.
    async fn payload_at(&self, topic: &TopicPartition, offset: i64) -> Result<Option<(u32, u32)>, Error> {
        let chunk = self.verification.kafka.peek(topic, offset).await.map_err(of_kafka)?;
        Ok(chunk.and_then(|chunk| {
            let message = chunk.messages.iter().find(|message| message.offset == offset)?;
            let payload = chunk.payload_of(message);
            let rows = encode::split(self.table.source.format, payload);
            let blank = rows.is_ok_and(|rows| rows.is_empty());
            (!blank).then(|| (message.len, crc32fast::hash(payload)))
        }))
    }

    async fn is_dead(&mut self, payload: (u32, u32), verdict: &mut PartitionVerdict) -> Result<bool, Error> {
        if self.letters.is_none() {
            self.letters = Some(self.read_letters().await);
        }
        match &self.letters {
            Some(Ok(letters)) => Ok(letters.contains(&payload)),
            Some(Err(why)) => {
                let what = format!("dead letters cannot be read: {why}");
                if !verdict.unchecked.contains(&what) {
                    verdict.unchecked.push(what);
                }
                Ok(false)
            }
            None => Ok(false),
        }
    }

    async fn read_letters(&self) -> Result<Letters, String> {
        let kafka = &self.verification.kafka;
        let source = TopicPartition { topic: names::dead_letter_topic(&self.table.source), partition: 0 };
        let watermarks = kafka.watermarks(&source).await.map_err(|e| e.told())?;
        let (mut letters, mut next) = (Letters::new(), watermarks.low);
        if next >= watermarks.high {
            return Ok(letters);
        }
        let lane = kafka.lane("verify").map_err(|e| e.told())?;
        lane.assign(&source, next);
        while next < watermarks.high && letters.len() < LETTERS_MAX {
            let fetched = tokio::time::timeout(LETTER_WAIT, lane.next()).await;
            match fetched.map_err(|_| format!("nothing came for {} s", LETTER_WAIT.as_secs()))? {
                Fetched::Chunk(chunk) => {
                    for message in &chunk.messages {
                        letters.insert((message.len, crc32fast::hash(chunk.payload_of(message))));
                        next = message.offset + 1;
                    }
                }
                Fetched::End(_, end) => next = next.max(end),
                Fetched::OutOfRange { .. } | Fetched::TopicMissing(_) => break,
                Fetched::Unreachable(..) | Fetched::Trouble(_) => {}
            }
        }
        lane.unassign(&source);
        Ok(letters)
    }
}

fn of_kafka(error: crate::adapters::kafka::Error) -> Error {
    Error::Unavailable(error.told())
}
