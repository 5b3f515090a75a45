//! Observed state: what agents see and report. Never stored; each report replaces the one before.

use super::ids::{Epoch, NodeId, PartitionId, ShardId, TableId};
use super::shared::Shared;
use super::table::Shard;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Why a partition of a replica does not move on. Shown to the operator with its code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Stall {
    /// The topic does not exist (yet), or no longer.
    TopicMissing,
    /// Offsets `from..to` were wanted and are no longer in the topic (retention, or truncated).
    OffsetsGone {
        /// First offset wanted.
        from: i64,
        /// First offset that the topic still has.
        to: i64,
    },
    /// The topic was deleted and created again, or went backwards: what stands at the last offset taken differs.
    TopicReplaced {
        /// The next offset that was wanted.
        next: i64,
        /// The topic's end now.
        end: i64,
    },
    /// ClickHouse refuses inserts for a reason that is not the data's (disk full, read-only, too many parts).
    ServerRefuses {
        /// What the server said, shortened.
        error: String,
    },
    /// Dead-letter topic cannot be written, so the bad message is held back rather than dropped.
    DeadLetterUnavailable {
        /// What the broker said.
        error: String,
    },
    /// Kafka cannot be reached.
    KafkaUnreachable {
        /// What the client said.
        error: String,
    },
}

impl Stall {
    /// Every reason's code.
    pub const REASONS: [&str; 6] = [
        "topic_missing",
        "offsets_gone",
        "topic_replaced",
        "server_refuses",
        "dead_letter_unavailable",
        "kafka_unreachable",
    ];

    /// As in JSON.
    pub fn reason(&self) -> &'static str {
        let [missing, gone, replaced, refuses, dead_letter, kafka] = Self::REASONS;
        match self {
            Self::TopicMissing => missing,
            Self::OffsetsGone { .. } => gone,
            Self::TopicReplaced { .. } => replaced,
            Self::ServerRefuses { .. } => refuses,
            Self::DeadLetterUnavailable { .. } => dead_letter,
            Self::KafkaUnreachable { .. } => kafka,
        }
    }
}

/// One partition of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PartitionProgress {
    /// The next offset to be taken from the topic; everything below is in the table or in the dead-letter topic.
    pub next_offset: i64,
    /// The topic's end as last seen; lag is `end_offset - next_offset`.
    pub end_offset: i64,
    /// One past what may be in the table beyond: an insert is under way, or was when the last run ended.
    pub reach_offset: i64,
    /// Why it does not move on, if so.
    pub stall: Option<Stall>,
}

/// One replica as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ReplicaObservation {
    /// Which life of the replica this is of: as in its record.
    pub since: Epoch,
    /// Its tables stand and it has taken its first look at its topics.
    pub serving: bool,
    /// Its table was gone, or was made anew and has not been compared with its topics yet: nothing may be read of it.
    pub bare: bool,
    /// Compressed bytes on disk.
    pub bytes: u64,
    /// Rows held.
    pub rows: u64,
    /// Active parts.
    pub parts: u64,
    /// By partition.
    pub partitions: BTreeMap<PartitionId, PartitionProgress>,
    /// Messages put into the dead-letter topic since the daemon started.
    pub dead_letters: u64,
    /// How old it lets a batch grow before it inserts it.
    pub batch_age_ms: u64,
    /// Why it is not serving, if the reason is not simply that it is being made.
    pub problem: Option<String>,
    /// How far its history has been copied, while it is.
    pub seeding: Option<Seeding>,
}

/// Progress of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Seeding {
    /// Partitions copied.
    pub done: u32,
    /// Of so many.
    pub of: u32,
    /// Bytes that are there.
    pub bytes_done: u64,
    /// Of so many; 0 if that is not known.
    pub bytes_of: u64,
    /// Bytes that were moved for it in this attempt: what an earlier one had brought is not.
    pub bytes_moved: u64,
    /// How long this attempt has taken.
    pub elapsed_ms: u64,
    /// How it is copied.
    pub way: CopyWay,
}

/// How rows come from another server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(tag = "by", rename_all = "snake_case")]
pub enum CopyWay {
    /// As the files of parts.
    #[default]
    Parts,
    /// As the answer to a select.
    Select {
        /// Why not by parts.
        why: String,
    },
}

impl Seeding {
    /// How long the rest will take if it goes on like this; `None` while that cannot be told.
    pub fn left_ms(&self) -> Option<u64> {
        let moved = u128::from(self.bytes_moved);
        let left = u128::from(self.bytes_of.saturating_sub(self.bytes_done));
        let known = self.bytes_of > 0 && moved > 0 && self.elapsed_ms >= 1_000;
        known.then(|| u64::try_from(left * u128::from(self.elapsed_ms) / moved).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Seeding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        write!(f, "{} of {} partitions copied", self.done, self.of)?;
        if self.bytes_of > 0 {
            write!(f, ", {} of {} MiB", self.bytes_done / MIB, self.bytes_of / MIB)?;
        }
        if let Some(left_ms) = self.left_ms() {
            write!(f, ", about {} s to go", left_ms.div_ceil(1_000))?;
        }
        match &self.way {
            CopyWay::Parts => Ok(()),
            CopyWay::Select { why } => write!(f, ", by a select (not by parts: {why})"),
        }
    }
}

impl ReplicaObservation {
    /// Whether a partition stands still: then its lag is what was known when it still moved.
    pub fn stalled(&self) -> bool {
        self.partitions.values().any(|partition| partition.stall.is_some())
    }

    /// Messages not yet taken, over all partitions, as far as the replica knows by itself.
    pub fn lag(&self) -> u64 {
        self.lag_to(&BTreeMap::new())
    }

    /// Messages not yet taken, over all partitions, where topics are known to reach to `ends` at least.
    pub fn lag_to(&self, ends: &BTreeMap<PartitionId, i64>) -> u64 {
        self.lags_to(ends).sum()
    }

    /// The same of the partition that lacks most.
    pub fn worst_lag_to(&self, ends: &BTreeMap<PartitionId, i64>) -> u64 {
        self.lags_to(ends).max().unwrap_or(0)
    }

    /// What is missing at best: as far as the replica knows by itself, if all that is under way is in already.
    pub fn least_lag(&self) -> u64 {
        self.least_lags().sum()
    }

    /// The same of the partition that lacks most.
    pub fn worst_least_lag(&self) -> u64 {
        self.least_lags().max().unwrap_or(0)
    }

    fn least_lags(&self) -> impl Iterator<Item = u64> {
        let reach = |progress: &PartitionProgress| progress.reach_offset.max(progress.next_offset);
        self.partitions.values().map(move |p| u64::try_from(p.end_offset - reach(p)).unwrap_or(0))
    }

    fn lags_to(&self, ends: &BTreeMap<PartitionId, i64>) -> impl Iterator<Item = u64> {
        self.partitions.iter().map(|(id, progress)| {
            let end = ends.get(id).map_or(progress.end_offset, |end| progress.end_offset.max(*end));
            u64::try_from(end - progress.next_offset).unwrap_or(0)
        })
    }
}

/// What a node has last told of its replica of a shard, of whatever life that is.
pub fn told<'a>(
    heartbeats: &'a BTreeMap<NodeId, Shared<Heartbeat>>,
    shard: &Shard,
    node: &NodeId,
) -> Option<&'a ReplicaObservation> {
    heartbeats.get(node)?.replicas.get(&shard.table)?.get(&shard.id)
}

/// Whether a node's ClickHouse answers, as far as is known: no report says that it does not.
pub fn answers(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>, node: &NodeId) -> bool {
    heartbeats.get(node).is_none_or(|heartbeat| heartbeat.clickhouse_up)
}

/// How far topics reach, by what any of these replicas has seen of them. A replica whose lane is busy hears of new
/// messages late; what stalls for its topic's sake may speak of one that is no more.
pub fn ends<'a>(replicas: impl IntoIterator<Item = &'a ReplicaObservation>) -> BTreeMap<PartitionId, i64> {
    let mut ends = BTreeMap::new();
    let partitions = replicas.into_iter().flat_map(|replica| &replica.partitions);
    let of_another = |seen: &PartitionProgress| {
        let stall = seen.stall.as_ref();
        stall.is_some_and(|stall| {
            matches!(stall, Stall::TopicMissing | Stall::OffsetsGone { .. } | Stall::TopicReplaced { .. })
        })
    };
    for (id, seen) in partitions.filter(|(_, seen)| !of_another(seen)) {
        let end = ends.entry(*id).or_insert(0);
        *end = seen.end_offset.max(seen.next_offset).max(*end);
    }
    ends
}

/// What an agent reports of its node: one message for all its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Whose report.
    pub node: NodeId,
    /// Distinguishes one run of the daemon from the next.
    pub incarnation: u64,
    /// Whether its ClickHouse answered the last probe.
    pub clickhouse_up: bool,
    /// Why it did not; empty if it did.
    pub clickhouse_error: String,
    /// Server version, once known.
    pub clickhouse_version: String,
    /// Why Kafka cannot be used from there, with what helps; empty if it can.
    pub kafka_error: String,
    /// Disk: bytes free and in all, where ClickHouse keeps its data; 0 if not known.
    pub disk_free_bytes: u64,
    /// Total size of that disk.
    pub disk_total_bytes: u64,
    /// By table and shard.
    pub replicas: BTreeMap<TableId, BTreeMap<ShardId, ReplicaObservation>>,
    /// The newest topology that its ClickHouse has loaded, by table.
    pub epochs: BTreeMap<TableId, Epoch>,
    /// The newest topology, by table, that every query still running on its ClickHouse began under (RETIRE).
    pub settled: BTreeMap<TableId, Epoch>,
    /// Tables whose every trace is gone from the node.
    pub dropped: Vec<TableId>,
}

impl Heartbeat {
    /// Of a first run beside a server that is up and holds these replicas; nothing else is known.
    pub fn of_healthy(
        node: NodeId,
        replicas: BTreeMap<TableId, BTreeMap<ShardId, ReplicaObservation>>,
    ) -> Self {
        Self {
            node,
            incarnation: 1,
            clickhouse_up: true,
            clickhouse_error: String::new(),
            clickhouse_version: String::new(),
            kafka_error: String::new(),
            disk_free_bytes: 0,
            disk_total_bytes: 0,
            replicas,
            epochs: BTreeMap::new(),
            settled: BTreeMap::new(),
            dropped: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_tells_how_far_it_is_and_how() {
        let mut seeding = Seeding { done: 1, of: 4, ..Seeding::default() };
        assert_eq!(seeding.to_string(), "1 of 4 partitions copied");
        (seeding.bytes_done, seeding.bytes_of) = (100 << 20, 400 << 20);
        (seeding.bytes_moved, seeding.elapsed_ms) = (50 << 20, 10_000);
        assert_eq!(seeding.to_string(), "1 of 4 partitions copied, 100 of 400 MiB, about 60 s to go");
        seeding.way = CopyWay::Select { why: "no folder".into() };
        seeding.bytes_moved = 0;
        assert_eq!(
            seeding.to_string(),
            "1 of 4 partitions copied, 100 of 400 MiB, by a select (not by parts: no folder)"
        );
    }
}
