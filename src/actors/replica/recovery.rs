//! Where a replica's partition goes on after any restart, or why it cannot.
//!
//! Pure. A commit in Kafka says what was done, the table says what it holds; where they disagree the table is
//! right about rows and the commit about messages that have none. Rows that the table holds at or above the start
//! are skipped one by one: a batch that spans two time partitions may be half there, so a maximum would not do.

use super::position::Position;
use crate::adapters::clickhouse::Holdings;
use crate::adapters::kafka::Watermarks;
use crate::model::observed::Stall;
use std::collections::BTreeSet;

/// No batch spans more offsets than this, so only the newest `SPAN` offsets of a partition can be half there.
pub const SPAN: i64 = 1 << 20;

/// What was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Where history began when the table was made.
    pub origin: i64,
    /// This table's and shard's commit, if there is one, with its next offset.
    pub committed: Option<(i64, Position)>,
    /// The table's rows from [`look_from`] on.
    pub holdings: Holdings,
    /// The topic's ends.
    pub watermarks: Watermarks,
    /// Fingerprint of the message that the committed one is of, if it can still be read.
    pub fingerprint: Option<u32>,
}

/// Where to go on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Start {
    /// First offset to be read.
    pub from: i64,
    /// The topic's end.
    pub end: i64,
    /// Rows at or above `from` that the table holds already.
    pub held: BTreeSet<(i64, u32)>,
    /// The highest offset with rows in the table.
    pub last_row_offset: Option<i64>,
    /// The table had lost rows that were committed: offsets from here on are read again.
    pub lost_from: Option<i64>,
}

/// The first offset whose rows must be looked up, given the commit and the highest offset that the table holds. A
/// commit is believed however far it is behind: a copy by parts may have holes from it on, since one ClickHouse
/// partition after the other is frozen while rows come into all.
pub fn look_from(origin: i64, committed: Option<&(i64, Position)>, max_offset: Option<i64>) -> i64 {
    let newest = max_offset.map_or(origin, |max| (max + 1 - SPAN).max(origin));
    match committed {
        Some((next, position)) if !lost(position, max_offset) => *next,
        _ => newest,
    }
}

fn lost(position: &Position, max_offset: Option<i64>) -> bool {
    position.last_row_offset.is_some_and(|row| max_offset.is_none_or(|max| max < row))
}

/// Decides.
pub fn plan(findings: &Findings) -> Result<Start, Stall> {
    let Findings { origin, committed, holdings, watermarks, fingerprint } = findings;
    let from = look_from(*origin, committed.as_ref(), holdings.max_offset);
    let lost_from = committed
        .as_ref()
        .filter(|(_, position)| lost(position, holdings.max_offset))
        .map(|_| holdings.max_offset.map_or(*origin, |max| max + 1));
    if let Some((next, position)) = committed {
        let differs = matches!((position.fingerprint, fingerprint), (Some(a), Some(b)) if a != *b);
        if differs || *next > watermarks.high {
            return Err(Stall::TopicReplaced { next: *next, end: watermarks.high });
        }
    }
    let held: BTreeSet<(i64, u32)> = holdings.rows.iter().copied().filter(|(o, _)| *o >= from).collect();
    // Kafka forgets a group's offsets with the topic: the table still knows how far it had come.
    let reached = holdings.max_offset.map_or(from, |max| from.max(max + 1));
    if reached > watermarks.high {
        return Err(Stall::TopicReplaced { next: reached, end: watermarks.high });
    }
    let from = if from < watermarks.low {
        // What retention took is no loss where the table holds every offset of it.
        let offsets: BTreeSet<i64> = held.iter().map(|(offset, _)| *offset).collect();
        if let Some(gone) = (from..watermarks.low).find(|offset| !offsets.contains(offset)) {
            return Err(Stall::OffsetsGone { from: gone, to: watermarks.low });
        }
        watermarks.low
    } else {
        from
    };
    let held = held.into_iter().filter(|(offset, _)| *offset >= from).collect();
    Ok(Start { from, end: watermarks.high, held, last_row_offset: holdings.max_offset, lost_from })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Epoch, ShardId, TableId};

    fn position(row: Option<i64>, fp: Option<u32>) -> Position {
        let start = Position::start(TableId(uuid::Uuid::nil()), ShardId(1), Epoch(0));
        Position { last_row_offset: row, fingerprint: fp, ..start }
    }

    fn findings(committed: Option<(i64, Option<i64>)>, held: &[(i64, u32)], low: i64, high: i64) -> Findings {
        let max_offset = held.iter().map(|(offset, _)| *offset).max();
        Findings {
            origin: 0,
            committed: committed.map(|(next, row)| (next, position(row, Some(7)))),
            holdings: Holdings { max_offset, rows: held.to_vec() },
            watermarks: Watermarks { low, high },
            fingerprint: Some(7),
        }
    }

    #[test]
    fn a_fresh_replica_starts_where_history_began() {
        let start = Start { end: 10, ..Start::default() };
        assert_eq!(plan(&findings(None, &[], 0, 10)), Ok(start));
    }

    #[test]
    fn rows_above_the_commit_are_skipped_one_by_one() {
        let start = plan(&findings(Some((5, Some(4))), &[(4, 0), (6, 0), (6, 2), (9, 0)], 0, 20)).unwrap();
        assert_eq!(start.from, 5);
        assert_eq!(start.held, BTreeSet::from([(6, 0), (6, 2), (9, 0)]));
        assert_eq!(start.lost_from, None);
    }

    #[test]
    fn a_table_that_lost_rows_reads_them_again_and_says_so() {
        let start = plan(&findings(Some((100, Some(99))), &[(40, 0), (41, 0)], 0, 200)).unwrap();
        assert_eq!((start.from, start.lost_from), (0, Some(42)));
        assert_eq!(start.held.len(), 2);
        let empty = plan(&findings(Some((100, Some(99))), &[], 0, 200)).unwrap();
        assert_eq!((empty.from, empty.lost_from), (0, Some(0)));
    }

    #[test]
    fn rows_that_expired_are_not_lost() {
        let mut expired = findings(Some((100, Some(99))), &[], 90, 200);
        expired.committed = expired.committed.map(|(next, position)| (next, position.without_rows()));
        let start = plan(&expired).unwrap();
        assert_eq!(
            (start.from, start.lost_from),
            (100, None),
            "nothing is read again, nor missed in the topic"
        );
    }

    #[test]
    fn messages_without_rows_above_the_last_row_are_not_lost_rows() {
        let start = plan(&findings(Some((100, Some(80))), &[(80, 0)], 0, 100)).unwrap();
        assert_eq!((start.from, start.lost_from), (100, None));
    }

    #[test]
    fn an_expired_commit_is_replaced_by_what_the_table_holds() {
        let held: Vec<(i64, u32)> = (SPAN..2 * SPAN).map(|offset| (offset, 0)).step_by(1000).collect();
        let start = plan(&findings(None, &held, 0, 3 * SPAN)).unwrap();
        assert!(start.from > SPAN - 1000 && start.from <= SPAN, "{}", start.from);
    }

    #[test]
    fn a_copy_is_looked_through_from_its_position_on_whatever_it_holds_beyond() {
        let position = position(Some(4), Some(7));
        assert_eq!(look_from(0, Some(&(5, position)), Some(3 * SPAN)), 5);
    }

    #[test]
    fn offsets_gone_from_the_topic_stall_unless_they_are_held() {
        let stall = plan(&findings(Some((5, Some(4))), &[(4, 0)], 8, 20));
        assert_eq!(stall, Err(Stall::OffsetsGone { from: 5, to: 8 }));
        let held = plan(&findings(Some((5, Some(4))), &[(4, 0), (5, 0), (6, 0), (7, 0)], 8, 20)).unwrap();
        assert_eq!(held.from, 8);
    }

    #[test]
    fn a_position_behind_offsets_without_a_message_is_gone_on_from() {
        // Messages 0 to 9, the end of their transaction at 10; retention takes everything.
        let mut passed = findings(Some((11, Some(9))), &[(9, 0)], 11, 11);
        passed.fingerprint = None;
        assert_eq!(plan(&passed).map(|start| (start.from, start.end)), Ok((11, 11)));
        passed.watermarks = Watermarks { low: 0, high: 14 };
        assert_eq!(plan(&passed).map(|start| (start.from, start.lost_from)), Ok((11, None)));
    }

    #[test]
    fn a_topic_made_anew_is_noticed() {
        let shorter = plan(&findings(Some((5, Some(4))), &[(4, 0)], 0, 3));
        assert_eq!(shorter, Err(Stall::TopicReplaced { next: 5, end: 3 }));
        let mut other = findings(Some((5, Some(4))), &[(4, 0)], 0, 30);
        other.fingerprint = Some(8);
        assert_eq!(plan(&other), Err(Stall::TopicReplaced { next: 5, end: 30 }));
        // The commits went with the old topic.
        let empty = plan(&findings(None, &[(3, 0), (4, 0)], 0, 0));
        assert_eq!(empty, Err(Stall::TopicReplaced { next: 5, end: 0 }));
    }
}
