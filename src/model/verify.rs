//! Whether the replicas of a shard hold the same, and what their topic has: what is compared, and what may be wrong.
//!
//! Pure. Each partition is compared below an offset that every replica has passed, so that ingest does not disturb.

use super::ids::{NodeId, PartitionId, ShardId};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// What a replica holds of a partition within a range of offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest {
    /// Rows.
    pub rows: u64,
    /// Rows that differ in offset or number within their message.
    pub distinct: u64,
    /// Messages that have rows.
    pub messages: u64,
    /// The lowest offset.
    pub min_offset: Option<i64>,
    /// The highest.
    pub max_offset: Option<i64>,
    /// Of everything in the rows, whatever their order.
    pub hash: u64,
}

impl Digest {
    /// Of this and of what is in another range.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            distinct: self.distinct + other.distinct,
            messages: self.messages + other.messages,
            min_offset: self.min_offset.into_iter().chain(other.min_offset).min(),
            max_offset: self.max_offset.max(other.max_offset),
            hash: self.hash.wrapping_add(other.hash),
        }
    }
}

/// A range of a partition's offsets, and where to look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DigestAsked {
    /// On which node.
    pub node: NodeId,
    /// Its replica database.
    pub database: String,
    /// Partition.
    pub partition: PartitionId,
    /// First offset.
    pub from: i64,
    /// One past the last.
    pub below: i64,
}

/// What is wrong with a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Difference {
    /// Rows that a replica holds more than once.
    Doubled {
        /// Whose.
        node: NodeId,
        /// How many too many.
        rows: u64,
    },
    /// Two replicas do not hold the same.
    Differing {
        /// One.
        node: NodeId,
        /// The one that it was compared with.
        other: NodeId,
        /// Offsets of messages that differ, the first ones.
        offsets: Vec<i64>,
    },
    /// Messages that the topic has, of which a replica has no row and which no dead letter is made of.
    Missing {
        /// Whose.
        node: NodeId,
        /// Their offsets, the first ones.
        offsets: Vec<i64>,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |offsets: &[i64]| offsets.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::Doubled { node, rows } => write!(f, "{rows} rows stand twice on {node}"),
            Self::Differing { node, other, offsets } => {
                write!(f, "{node} and {other} differ, first at offsets {}", list(offsets))
            }
            Self::Missing { node, offsets } => {
                write!(f, "{node} lacks messages of the topic, first at offsets {}", list(offsets))
            }
        }
    }
}

/// How a partition was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionVerdict {
    /// Its shard.
    pub shard: ShardId,
    /// Which.
    pub partition: PartitionId,
    /// What the topic still has begins here.
    pub topic_from: i64,
    /// Everything below this offset was compared.
    pub below: i64,
    /// What each replica holds of it.
    pub replicas: BTreeMap<NodeId, Digest>,
    /// What is wrong.
    pub differences: Vec<Difference>,
    /// Messages that are dead letters rather than rows.
    pub dead_letters: u64,
    /// Offsets that have no rows to give: the topic has no message there, or an empty one.
    pub empty: u64,
    /// What could not be looked at, and why.
    pub unchecked: Vec<String>,
    /// What is not compared by its nature.
    pub notes: Vec<String>,
}

impl PartitionVerdict {
    /// Nothing is known yet.
    pub fn blank(shard: ShardId, partition: PartitionId) -> Self {
        Self {
            shard,
            partition,
            topic_from: 0,
            below: 0,
            replicas: BTreeMap::new(),
            differences: Vec::new(),
            dead_letters: 0,
            empty: 0,
            unchecked: Vec::new(),
            notes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_ranges_add_up() {
        let one = Digest {
            rows: 3,
            distinct: 2,
            messages: 2,
            min_offset: Some(1),
            max_offset: Some(5),
            hash: u64::MAX,
        };
        let two =
            Digest { rows: 1, distinct: 1, messages: 1, min_offset: Some(9), max_offset: Some(9), hash: 2 };
        let both =
            Digest { rows: 4, distinct: 3, messages: 3, min_offset: Some(1), max_offset: Some(9), hash: 1 };
        assert_eq!(one.with(two), both);
        assert_eq!(two.with(one), both);
        assert_eq!(one.with(Digest::default()), one);
    }
}
