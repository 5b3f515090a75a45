//! What a replica tells its children as it stops for a split or merge: where each partition stands. They go on from
//! there and need not look it up in tables and topics, which takes the longer the more there is, while no rows go in.
//!
//! Pure. What a replica remembers is what its table holds as long as nobody else has put anything in. So it counts
//! only if the replica's own gate was the last one open when the gates of its table were closed for good, and for a
//! child's table that was linked behind that, is the one that stands, and has had no gate before. Where any of this is
//! not known the child looks, as after any restart. What it does not do: compare the topic with what was recorded of
//! it. One that is deleted and made anew, and longer, just while nobody reads it is read on.

use super::partition::{Partition, Phase};
use super::recovery::Start;
use super::state::{Gate, State};
use crate::model::PartitionId;
use crate::model::observed::Stall;
use crate::model::range::PartitionRange;
use std::collections::BTreeMap;

/// Where a partition stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The gate through which the replica has inserted since it looked last.
    pub gate: u64,
    /// Where a look would say that it goes on.
    pub start: Start,
}

/// Partitions of which that is known.
pub type Stands = BTreeMap<PartitionId, Stand>;

/// Where partitions go on.
pub type Starts = BTreeMap<PartitionId, Start>;

/// Where partitions of a range go on, if the newest gate when its table's were closed had that number.
pub fn starts(
    stands: &Stands,
    range: PartitionRange,
    newest: Option<u64>,
) -> impl Iterator<Item = (PartitionId, Start)> {
    let known = stands.iter().filter(move |(id, stand)| range.contains(**id) && Some(stand.gate) == newest);
    known.map(|(id, stand)| (*id, stand.start.clone()))
}

/// Whether its topic is not the one that it was, or does not go back as far any more: that is looked into.
fn is_lost(p: &Partition) -> bool {
    let lost = |stall: &Stall| {
        matches!(stall, Stall::TopicMissing | Stall::TopicReplaced { .. } | Stall::OffsetsGone { .. })
    };
    p.stall.as_ref().is_some_and(lost)
}

impl State {
    /// Whether it has been told to stop and the last insert has ended.
    pub fn at_rest(&self) -> bool {
        let inserting = |p: &Partition| matches!(p.phase, Phase::Inserting { .. });
        self.parting && !self.partitions.values().any(inserting)
    }

    /// Where its partitions stand that have come to rest; of others nothing is told.
    pub fn stands(&self) -> Stands {
        let Gate::Open(gate) = self.gate else { return Stands::new() };
        // What is being looked at, or waits for that, is not known.
        let is_known =
            |p: &Partition| matches!(p.phase, Phase::Streaming | Phase::Holding { .. }) && !is_lost(p);
        let stand = |p: &Partition| {
            let of = |fingerprint| (fingerprint, p.position.fingerprint_at.unwrap_or(p.next - 1));
            let start = Start {
                from: p.next,
                end: p.end,
                held: p.held.clone(),
                last_row_offset: p.position.last_row_offset,
                safe: p.position.safe,
                unsettled: true,
                at_once: true,
                fingerprint: p.position.fingerprint.map(of),
                ..Start::default()
            };
            Stand { gate, start }
        };
        let known = self.partitions.iter().filter(|(_, p)| is_known(p));
        known.map(|(id, p)| (*id, stand(p))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_counts_only_where_nobody_else_had_a_gate() {
        let stand = |from| Stand { gate: 7, start: Start { from, end: 90, ..Start::default() } };
        let stands = Stands::from([(PartitionId(1), stand(10)), (PartitionId(2), stand(20))]);
        let of = |lo, hi, newest| {
            let range = PartitionRange::new(lo, hi).unwrap();
            starts(&stands, range, newest).map(|(id, start)| (id.0, start.from)).collect::<Vec<_>>()
        };
        assert_eq!(of(0, 2, Some(7)), [(1, 10)]);
        assert_eq!(of(0, 4, Some(7)), [(1, 10), (2, 20)]);
        assert_eq!(of(0, 4, Some(8)), [], "another has opened one since");
        assert_eq!(of(0, 4, None), [], "it is not known who has");
    }
}
