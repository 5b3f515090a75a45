//! Since when a partition's messages have been in its table: those that have been there for a minute outlive the power.
//!
//! Pure. ClickHouse does not sync its parts. Linux writes back within some 35 s what was written, whatever comes after
//! it; so what a machine that loses power has lost is of the last minute, and may have holes. Merges change nothing in
//! that: ClickHouse keeps the parts that a merge was made of for eight minutes, and takes them where the merged one is
//! broken.

use std::collections::VecDeque;

/// What has been in a table for so long is on its disk.
pub(super) const SAFE_AFTER_MS: u64 = 60_000;
/// A partition into which nothing has come for so long records once more how far it is safe: all the way.
pub(super) const SETTLE_AFTER_MS: u64 = 70_000;
/// Marks are so far apart, so a minute has thirteen at most beside the newest.
const MARK_EVERY_MS: u64 = 5_000;

/// When the table had come how far.
#[derive(Debug, Default)]
pub(super) struct Marks {
    safe: Option<i64>,
    /// Time, and the offset below which everything was in the table by then; oldest first.
    marks: VecDeque<(u64, i64)>,
}

impl Marks {
    /// Everything below `next` is in the table by now, since whenever; below `safe`, where that is known, for long.
    pub(super) fn begin(now_ms: u64, next: i64, safe: Option<i64>) -> Self {
        Self { safe, marks: [(now_ms, next)].into() }
    }

    /// Everything below `next` is in the table by now.
    pub(super) fn reach(&mut self, now_ms: u64, next: i64) {
        while let Some((at_ms, old)) = self.marks.front().copied()
            && at_ms + SAFE_AFTER_MS <= now_ms
        {
            self.safe = self.safe.max(Some(old));
            self.marks.pop_front();
        }
        // The newest mark is exact, whenever the last insert was; those before it are apart.
        let before = self.marks.len().checked_sub(2).and_then(|at| self.marks.get(at)).copied();
        if let (Some((before, _)), Some((newest, _))) = (before, self.marks.back())
            && *newest < before + MARK_EVERY_MS
        {
            self.marks.pop_back();
        }
        self.marks.push_back((now_ms, next));
    }

    /// Everything below has been in the table for [`SAFE_AFTER_MS`] at the latest [`Marks::reach`].
    pub(super) fn safe(&self) -> Option<i64> {
        self.safe
    }

    /// When everything has, if nothing comes until then.
    pub(super) fn settled_at_ms(&self) -> Option<u64> {
        self.marks.back().map(|(at_ms, _)| at_ms + SETTLE_AFTER_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_been_there_for_a_minute_is_safe_and_nothing_younger() {
        let mut marks = Marks::begin(1_000, 100, Some(40));
        assert_eq!(marks.safe(), Some(40), "what was recorded");
        marks.reach(30_000, 200);
        marks.reach(60_999, 300);
        assert_eq!(marks.safe(), Some(40));
        marks.reach(61_000, 310);
        assert_eq!(marks.safe(), Some(100), "was there when this run began");
        marks.reach(90_000, 320);
        assert_eq!(marks.safe(), Some(200));
        assert_eq!(marks.settled_at_ms(), Some(160_000));
        marks.reach(160_000, 320);
        assert_eq!(marks.safe(), Some(320), "all of it");
    }

    #[test]
    fn nothing_is_safe_before_it_is_known_to_be() {
        let mut marks = Marks::begin(0, 100, None);
        marks.reach(59_999, 200);
        assert_eq!(marks.safe(), None);
        marks.reach(60_000, 200);
        assert_eq!(marks.safe(), Some(100));
    }

    #[test]
    fn marks_are_few_however_many_inserts_there_are_and_lose_five_seconds_at_most() {
        let mut marks = Marks::begin(0, 0, Some(0));
        for at in 1..=5_000u64 {
            let now_ms = at * 100;
            // One message every 100 ms.
            marks.reach(now_ms, i64::try_from(at).unwrap());
            assert!(marks.marks.len() <= 15, "{}", marks.marks.len());
            let oldest =
                i64::try_from(now_ms.saturating_sub(SAFE_AFTER_MS + MARK_EVERY_MS + 100) / 100).unwrap();
            let newest = i64::try_from(now_ms.saturating_sub(SAFE_AFTER_MS) / 100).unwrap();
            let safe = marks.safe().unwrap();
            assert!(oldest <= safe && safe <= newest, "{safe} at {now_ms}");
        }
    }
}
