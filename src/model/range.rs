//! Partition ranges `[lo, hi)`: what a shard owns.

use super::ids::PartitionId;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A non-empty contiguous range of partitions, `lo` included, `hi` excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PartitionRange {
    lo: u32,
    hi: u32,
}

impl PartitionRange {
    /// `None` if the range would be empty.
    pub fn new(lo: u32, hi: u32) -> Option<Self> {
        (lo < hi).then_some(Self { lo, hi })
    }

    /// First partition.
    pub fn lo(self) -> u32 {
        self.lo
    }

    /// One past the last partition.
    pub fn hi(self) -> u32 {
        self.hi
    }

    /// How many partitions: the shard's weight in `remote_servers`.
    pub fn width(self) -> u32 {
        self.hi - self.lo
    }

    /// Whether the partition is in the range.
    pub fn contains(self, partition: PartitionId) -> bool {
        (self.lo..self.hi).contains(&partition.0)
    }

    /// The partitions in order.
    pub fn partitions(self) -> impl DoubleEndedIterator<Item = PartitionId> + Clone {
        (self.lo..self.hi).map(PartitionId)
    }

    /// What is in both; `None` if nothing is.
    pub fn common(self, other: Self) -> Option<Self> {
        Self::new(self.lo.max(other.lo), self.hi.min(other.hi))
    }

    /// Cuts before `cut`; `None` unless both halves are non-empty.
    pub fn split_at(self, cut: u32) -> Option<(Self, Self)> {
        Some((Self::new(self.lo, cut)?, Self::new(cut, self.hi)?))
    }

    /// The middle cut of C9; `None` for a single partition.
    pub fn split_middle(self) -> Option<(Self, Self)> {
        self.split_at(self.lo + self.width() / 2)
    }

    /// `0..partitions` in `shards` ranges whose widths differ by at most one, the wider ones first.
    /// `None` unless `1 <= shards <= partitions`.
    pub fn divide(partitions: u32, shards: u32) -> Option<Vec<Self>> {
        if shards == 0 || shards > partitions {
            return None;
        }
        let (width, wider) = (partitions / shards, partitions % shards);
        let mut lo = 0;
        let ranges = (0..shards).map(|shard| {
            let hi = lo + width + u32::from(shard < wider);
            let range = Self { lo, hi };
            lo = hi;
            range
        });
        Some(ranges.collect())
    }
}

impl fmt::Display for PartitionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.lo, self.hi)
    }
}

/// Whether the ranges, in order, cover `0..partitions` with no gap and no overlap.
pub fn covers(ranges: impl IntoIterator<Item = PartitionRange>, partitions: u32) -> bool {
    let mut next = 0;
    for range in ranges {
        if range.lo != next {
            return false;
        }
        next = range.hi;
    }
    next == partitions
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_division_covers_all_partitions_evenly(partitions in 1u32..2000, shards in 1u32..300) {
            match PartitionRange::divide(partitions, shards) {
                None => prop_assert!(shards > partitions),
                Some(ranges) => {
                    prop_assert_eq!(ranges.len() as u32, shards);
                    prop_assert!(covers(ranges.iter().copied(), partitions));
                    let widths: Vec<u32> = ranges.iter().map(|range| range.width()).collect();
                    prop_assert!(widths.iter().max().unwrap() - widths.iter().min().unwrap() <= 1);
                }
            }
        }
    }

    #[test]
    fn the_middle_cut_is_the_seed_documents() {
        let (left, right) = PartitionRange::new(0, 10).unwrap().split_middle().unwrap();
        assert_eq!((left.to_string(), right.to_string()), ("[0, 5)".into(), "[5, 10)".into()));
        assert!(PartitionRange::new(3, 4).unwrap().split_middle().is_none());
    }
}
