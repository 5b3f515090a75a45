//! Where a replica's partition goes on after any restart, or why it cannot.
//!
//! Pure. A commit in Kafka says what was done, the table says what it holds; where they disagree the table is
//! right about rows and the commit about messages that have none. Rows that the table holds at or above the start
//! are skipped one by one: a batch that spans two time partitions may be half there, so a maximum would not do.
//!
//! A machine that lost power may have lost any of the newest parts, and kept others: where it was started anew since
//! the commit, the look begins at what was safe then. The set of what is held is a minute of rows there: at 100 000
//! rows a second in one partition some millions of entries, for as long as it takes to go through them.

use super::position::Position;
use crate::adapters::clickhouse::Holdings;
use crate::adapters::kafka::Watermarks;
use crate::adapters::machine::Boot;
use crate::model::observed::Stall;
use std::collections::BTreeSet;
use std::ops::Range;

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
    /// This start of the machine, if it tells.
    pub boot: Option<Boot>,
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
    /// Everything below was in the table a minute before, or before the machine was started, as far as is known.
    pub safe: Option<i64>,
    /// What is recorded says less than can be said a while after `from`: of another start, or not all of it safe.
    pub unsettled: bool,
    /// What comes first has waited already: it is inserted without waiting for more.
    pub at_once: bool,
    /// The commit's fingerprint and the offset of its message, where that is one below `from`.
    pub fingerprint: Option<(u32, i64)>,
    /// The machine was started anew since the commit: from the first offset up to the second, exclusive, rows that
    /// were committed may be missing.
    pub looked_back: Option<(i64, i64)>,
    /// Of those, what the topic has no more: from the first offset without rows to the last, exclusive. They may have
    /// had none (tombstones, dead letters, marks of transactions), or have lost them.
    pub unproven: Option<(i64, i64)>,
}

/// The first offset whose rows must be looked up, given the commit and the highest offset that the table holds. A
/// commit is believed however far it is behind: a copy by parts may have holes from it on, since one ClickHouse
/// partition after the other is frozen while rows come into all. Not beyond what was safe, though, where the machine
/// was started anew since.
pub fn look_from(
    origin: i64,
    committed: Option<&(i64, Position)>,
    max_offset: Option<i64>,
    boot: Option<Boot>,
) -> i64 {
    let newest = max_offset.map_or(origin, |max| (max + 1 - SPAN).max(origin));
    let Some((next, position)) = committed else { return newest };
    let lost = lost(position, max_offset);
    match look_back(committed, boot) {
        // That the newest rows are gone too is what is to be expected, as long as they reach what was safe. A table
        // that does not has lost more than power takes: it was put back from a backup, say.
        Some(back) if lost && max_offset.is_none_or(|max| max + 1 < back.start) => newest.min(back.start),
        Some(back) => back.start,
        None if lost => newest,
        None => *next,
    }
}

/// Committed offsets whose rows may have gone with the power.
fn look_back(committed: Option<&(i64, Position)>, boot: Option<Boot>) -> Option<Range<i64>> {
    let (next, position) = committed.filter(|(_, position)| position.is_before(boot))?;
    Some(position.safe.map_or(*next, |safe| safe.min(*next))..*next)
}

fn lost(position: &Position, max_offset: Option<i64>) -> bool {
    position.last_row_offset.is_some_and(|row| max_offset.is_none_or(|max| max < row))
}

/// Decides.
pub fn plan(findings: &Findings) -> Result<Start, Stall> {
    let Findings { origin, committed, holdings, watermarks, fingerprint, boot } = findings;
    let committed = committed.as_ref();
    let from = look_from(*origin, committed, holdings.max_offset, *boot);
    let back = look_back(committed, *boot);
    let lost_from = committed
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
    let unproven = taken_by_retention(from..watermarks.low, &held, back.as_ref())?;
    let from = from.max(watermarks.low);
    let held = held.into_iter().filter(|(offset, _)| *offset >= from).collect();
    let safe = match committed {
        Some((_, position)) if back.is_none() => position.safe.map(|safe| safe.min(from)),
        _ => Some(from),
    };
    let settled = |(next, position): &(i64, Position)| position.boot == *boot && position.safe == Some(*next);
    Ok(Start {
        from,
        end: watermarks.high,
        held,
        last_row_offset: holdings.max_offset,
        lost_from,
        safe,
        unsettled: committed.is_some_and(|committed| !settled(committed)),
        at_once: false,
        fingerprint: committed.and_then(fingerprinted).filter(|(_, offset)| *offset < from),
        looked_back: back.filter(|back| !back.is_empty()).map(|back| (back.start, back.end)),
        unproven,
    })
}

/// A commit's fingerprint and its message's offset.
pub fn fingerprinted((next, position): &(i64, Position)) -> Option<(u32, i64)> {
    Some((position.fingerprint?, position.fingerprint_at.unwrap_or(next - 1)))
}

/// What retention took is no loss where the table holds every offset of it. Where it does not, the replica must not go
/// on by itself; but for what is looked back at, which was committed: nobody could ever tell more of it.
fn taken_by_retention(
    taken: Range<i64>,
    held: &BTreeSet<(i64, u32)>,
    back: Option<&Range<i64>>,
) -> Result<Option<(i64, i64)>, Stall> {
    let to = taken.end;
    let offsets: BTreeSet<i64> = held.iter().map(|(offset, _)| *offset).collect();
    let mut unproven = None;
    for gone in taken.filter(|offset| !offsets.contains(offset)) {
        if !back.is_some_and(|back| back.contains(&gone)) {
            return Err(Stall::OffsetsGone { from: gone, to });
        }
        let (first, _) = unproven.unwrap_or((gone, gone));
        unproven = Some((first, gone + 1));
    }
    Ok(unproven)
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
            boot: None,
        }
    }

    #[test]
    fn a_fresh_replica_starts_where_history_began() {
        let start = Start { end: 10, safe: Some(0), ..Start::default() };
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
        assert_eq!(look_from(0, Some(&(5, position)), Some(3 * SPAN), None), 5);
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

    const THEN: Option<Boot> = Some(Boot(1));
    const NOW: Option<Boot> = Some(Boot(2));

    /// Committed up to 100 in an earlier start of the machine, 60 of it safe; what is held, and what the topic has.
    fn started_anew(held: impl Iterator<Item = i64>, low: i64) -> Findings {
        let rows: Vec<(i64, u32)> = held.map(|offset| (offset, 0)).collect();
        let mut findings = findings(Some((100, Some(99))), &rows, low, 120);
        findings.committed.iter_mut().for_each(|(_, position)| {
            (position.safe, position.boot) = (Some(60), THEN);
        });
        findings.boot = NOW;
        findings
    }

    /// An older part is lost while a newer one is there: the table's newest offset says nothing of it.
    #[test]
    fn a_hole_that_the_power_left_is_looked_for_from_what_was_safe_on() {
        let holed = || (0..100).filter(|offset| !(70..80).contains(offset));
        let start = plan(&started_anew(holed(), 0)).unwrap();
        assert_eq!((start.from, start.looked_back), (60, Some((60, 100))));
        let held: BTreeSet<(i64, u32)> =
            (60..100).filter(|o| !(70..80).contains(o)).map(|o| (o, 0)).collect();
        assert_eq!(start.held, held, "what is there is skipped, what is not is read again");
        assert_eq!((start.safe, start.unsettled), (Some(60), true));
        assert_eq!(start.fingerprint, None, "it is of a message that is still to come");
        // Without a word of the start, by either side, the hole is passed over.
        for (then, now) in [(None, NOW), (THEN, None), (NOW, NOW)] {
            let mut unknown = started_anew(holed(), 0);
            unknown.committed.iter_mut().for_each(|(_, position)| position.boot = then);
            unknown.boot = now;
            let start = plan(&unknown).unwrap();
            assert_eq!((start.from, start.looked_back), (100, None), "{then:?} {now:?}");
            assert_eq!((start.safe, start.fingerprint), (Some(60), Some((7, 99))));
        }
    }

    #[test]
    fn the_look_begins_at_what_was_safe_or_earlier_if_more_is_missing_than_power_takes() {
        let committed = |safe| {
            let position = Position { safe, boot: THEN, ..position(Some(99), Some(7)) };
            (100, position)
        };
        let from = |safe, max, boot| look_from(5, Some(&committed(safe)), max, boot);
        assert_eq!(from(Some(60), Some(99), NOW), 60);
        assert_eq!(from(Some(60), Some(99), THEN), 100);
        assert_eq!(from(Some(100), Some(99), NOW), 100, "all of it was safe");
        assert_eq!(from(None, Some(99), NOW), 100, "how much was safe is not known");
        assert_eq!(from(Some(60), Some(80), NOW), 60, "the newest rows went too");
        assert_eq!(from(Some(60), Some(59), NOW), 60, "all went that could");
        assert_eq!(from(Some(60), Some(40), NOW), 5, "a backup was put back");
        assert_eq!(from(Some(60), None, NOW), 5);
        let early = (100, Position { safe: Some(2), boot: THEN, ..position(Some(99), None) });
        assert_eq!(look_from(5, Some(&early), None, NOW), 2, "whichever is lower");
    }

    #[test]
    fn rows_that_the_power_took_from_the_end_are_told_and_read_again() {
        let start = plan(&started_anew((0..90).filter(|offset| *offset != 65), 0)).unwrap();
        assert_eq!((start.from, start.lost_from), (60, Some(90)));
        assert_eq!(start.held.len(), 29);
    }

    #[test]
    fn what_retention_took_of_the_look_back_is_told_and_gone_on_behind() {
        let whole = plan(&started_anew(0..100, 80)).unwrap();
        assert_eq!((whole.from, whole.unproven), (80, None), "all of it is held");
        let holed = plan(&started_anew((0..100).filter(|offset| ![62, 70].contains(offset)), 80)).unwrap();
        assert_eq!((holed.from, holed.unproven), (80, Some((62, 71))));
        assert_eq!((holed.held.len(), holed.safe), (20, Some(80)));
        // All of it is gone, and nothing has come since: it is recorded, so that it is not told for ever.
        let mut all = started_anew((0..100).filter(|offset| *offset != 62), 100);
        all.fingerprint = None;
        let all = plan(&all).unwrap();
        assert_eq!((all.from, all.unproven, all.unsettled), (100, Some((62, 63)), true));
        assert_eq!(all.fingerprint, Some((7, 99)), "a later topic is still told from this one");
        // What was never committed is another matter, and so is what was safe.
        let beyond = plan(&started_anew(0..100, 110));
        assert_eq!(beyond, Err(Stall::OffsetsGone { from: 100, to: 110 }));
        let before = plan(&started_anew(0..10, 80));
        assert_eq!(before, Err(Stall::OffsetsGone { from: 10, to: 80 }));
    }

    #[test]
    fn what_is_recorded_of_an_earlier_start_or_not_all_safe_is_to_be_recorded_once_more() {
        let unsettled = |safe, boot| {
            let mut findings = started_anew(0..100, 0);
            findings.committed.iter_mut().for_each(|(_, position)| {
                (position.safe, position.boot) = (safe, boot);
            });
            plan(&findings).unwrap().unsettled
        };
        assert!(unsettled(Some(60), NOW) && unsettled(None, None) && unsettled(Some(100), THEN));
        assert!(!unsettled(Some(100), NOW));
    }
}
