//! Observed state: what agents see and report. Never stored; each report replaces the one before.

use super::ids::{Epoch, NodeId, PartitionId, ShardId, TableId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

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

/// One partition of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PartitionProgress {
    /// The next offset to be taken from the topic; everything below is in the table or in the dead-letter topic.
    pub next_offset: i64,
    /// The topic's end as last seen; lag is `end_offset - next_offset`.
    pub end_offset: i64,
    /// Why it does not move on, if so.
    pub stall: Option<Stall>,
}

/// One replica as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct ReplicaObservation {
    /// Its tables stand and it has taken its first look at its topics.
    pub serving: bool,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seeding {
    /// Partitions copied.
    pub done: u32,
    /// Of so many.
    pub of: u32,
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

    fn lags_to(&self, ends: &BTreeMap<PartitionId, i64>) -> impl Iterator<Item = u64> {
        self.partitions.iter().map(|(id, progress)| {
            let end = ends.get(id).map_or(progress.end_offset, |end| progress.end_offset.max(*end));
            u64::try_from(end - progress.next_offset).unwrap_or(0)
        })
    }
}

/// How far topics reach, by what any of these replicas has seen of them. A replica whose lane is busy hears of new
/// messages late; what stalls may speak of a topic that is no more.
pub fn ends<'a>(replicas: impl IntoIterator<Item = &'a ReplicaObservation>) -> BTreeMap<PartitionId, i64> {
    let mut ends = BTreeMap::new();
    let partitions = replicas.into_iter().flat_map(|replica| &replica.partitions);
    for (id, seen) in partitions.filter(|(_, seen)| seen.stall.is_none()) {
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
