//! How a shard's bytes lie over its partitions, as far as reports tell. Bytes by partition are not known: the messages
//! that each partition has taken of its topic stand for its share of them, whatever their size and whatever a TTL has
//! removed since. Where a cut by that measure is, and what the halves hold. Pure.

use crate::model::ids::NodeId;
use crate::model::observed::{Heartbeat, told};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::Shard;
use std::collections::BTreeMap;

/// Messages that a shard's partitions have taken, by the replica that has taken most; `None` if nothing is known.
fn weights(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>, shard: &Shard) -> Option<BTreeMap<u32, u64>> {
    let taken = |node: &NodeId| -> Option<BTreeMap<u32, u64>> {
        let partitions = &told(heartbeats, shard, node)?.partitions;
        Some(partitions.iter().map(|(id, p)| (id.0, u64::try_from(p.next_offset).unwrap_or(0))).collect())
    };
    let all = shard.replicas.iter().filter_map(|replica| taken(&replica.node));
    all.max_by_key(|taken| taken.values().sum::<u64>()).filter(|taken| taken.values().any(|count| *count > 0))
}

/// The first partition of the right half such that the halves have taken the most equal numbers of messages; `None` if
/// nothing is known of them, or there is but one partition.
pub fn cut(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>, shard: &Shard) -> Option<u32> {
    let weights = weights(heartbeats, shard)?;
    let weight = |partition: u32| weights.get(&partition).copied().unwrap_or(0);
    let whole: u64 = (shard.range.lo()..shard.range.hi()).map(weight).sum();
    let mut left = 0;
    let cuts = (shard.range.lo() + 1..shard.range.hi()).map(|cut| {
        left += weight(cut - 1);
        (left.abs_diff(whole - left), cut)
    });
    // Of two that are as good, the nearer to the middle.
    let middle = |cut: u32| (cut - shard.range.lo()).abs_diff(shard.range.hi() - cut);
    cuts.min_by_key(|(difference, cut)| (*difference, middle(*cut), *cut)).map(|(_, cut)| cut)
}

/// A part's share of a shard's bytes: by what its partitions have taken, or by their number if that is not known.
pub fn share(
    heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>,
    shard: &Shard,
    part: PartitionRange,
) -> (u64, u64) {
    let Some(weights) = weights(heartbeats, shard) else {
        return (u64::from(part.width()), u64::from(shard.range.width()));
    };
    let within = weights.range(part.lo()..part.hi()).map(|(_, count)| count).sum();
    (within, weights.values().sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::observed::{PartitionProgress, ReplicaObservation};
    use crate::model::{PartitionId, ShardId, TableId};

    fn shard_with(taken: &[i64]) -> (BTreeMap<NodeId, Shared<Heartbeat>>, Shard) {
        let (node, table): (NodeId, _) = ("n1".parse().unwrap(), TableId(uuid::Uuid::from_u128(1)));
        let width = u32::try_from(taken.len()).unwrap();
        let range = PartitionRange::new(4, 4 + width).unwrap();
        let shard = Shard::new(table, ShardId(0), range, [node.clone()]);
        let progress =
            |next_offset: &i64| PartitionProgress { next_offset: *next_offset, ..Default::default() };
        let partitions = (4..).map(PartitionId).zip(taken.iter().map(progress)).collect();
        let seen = ReplicaObservation { partitions, ..ReplicaObservation::default() };
        let heartbeat = Heartbeat::of_healthy(
            node.clone(),
            BTreeMap::from([(table, BTreeMap::from([(ShardId(0), seen)]))]),
        );
        (BTreeMap::from([(node, heartbeat.into())]), shard)
    }

    #[test]
    fn the_cut_is_where_the_halves_have_taken_the_most_equal_numbers_of_messages() {
        let cut = |taken: &[i64]| {
            let (heartbeats, shard) = shard_with(taken);
            cut(&heartbeats, &shard)
        };
        assert_eq!(cut(&[10, 10, 10, 10]), Some(6), "the middle, where all are alike");
        assert_eq!(cut(&[90, 5, 5, 10]), Some(5), "one partition weighs most");
        assert_eq!(cut(&[1, 1, 1, 97]), Some(7));
        assert_eq!(cut(&[0, 0, 0, 0]), None, "nothing is known: the middle, then");
        assert_eq!(cut(&[5]), None, "one partition is not cut");
    }

    #[test]
    fn halves_share_the_bytes_as_their_partitions_do() {
        let range = |lo, hi| PartitionRange::new(lo, hi).unwrap();
        let (heartbeats, shard) = shard_with(&[90, 5, 5, 0]);
        assert_eq!(share(&heartbeats, &shard, range(4, 5)), (90, 100));
        assert_eq!(share(&BTreeMap::new(), &shard, range(4, 5)), (1, 4));
    }
}
