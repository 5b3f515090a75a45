//! The rows of one partition in a simulated replica, by offset and row number: runs of offsets rather than offsets,
//! so that a day of contiguous ingest costs some words.

use std::collections::{BTreeMap, BTreeSet};

/// What a partition holds. Nothing is known of a row but its name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeldRows {
    /// First rows of messages: from the first offset of a run to one past its last. Runs never touch.
    runs: BTreeMap<i64, i64>,
    /// Rows other than a message's first.
    others: BTreeSet<(i64, u32)>,
    /// Messages of which there is a first row.
    firsts: u64,
    /// Rows that came a second time. A real server keeps both; this one counts.
    doubled: u64,
}

impl HeldRows {
    /// Puts a row in.
    pub fn insert(&mut self, offset: i64, row: u32) {
        if row > 0 {
            self.doubled += u64::from(!self.others.insert((offset, row)));
        } else if let Some(mut last) = self.runs.last_entry().filter(|last| *last.get() == offset) {
            // Nearly all rows come in their order.
            *last.get_mut() += 1;
            self.firsts += 1;
        } else if self.has_first(offset) {
            self.doubled += 1;
        } else {
            self.firsts += 1;
            let (mut first, mut end) = (offset, offset + 1);
            if let Some((before, before_end)) = self.runs.range(..offset).next_back()
                && *before_end == offset
            {
                first = *before;
            }
            if let Some(after_end) = self.runs.remove(&end) {
                end = after_end;
            }
            self.runs.insert(first, end);
        }
    }

    /// Takes a row out; tells whether it was there.
    pub fn remove(&mut self, offset: i64, row: u32) -> bool {
        if row > 0 {
            return self.others.remove(&(offset, row));
        }
        let run = self.runs.range(..=offset).next_back().map(|(first, end)| (*first, *end));
        let Some((first, end)) = run.filter(|(_, end)| offset < *end) else { return false };
        self.runs.remove(&first);
        let rests = [(first, offset), (offset + 1, end)];
        self.runs.extend(rests.into_iter().filter(|(first, end)| first < end));
        self.firsts -= 1;
        true
    }

    fn has_first(&self, offset: i64) -> bool {
        self.runs.range(..=offset).next_back().is_some_and(|(_, end)| offset < *end)
    }

    /// Rows in all, doubled ones too: what `count()` says.
    pub fn count(&self) -> u64 {
        self.distinct() + self.doubled
    }

    /// Rows that differ: what `uniqExact(offset, row)` says.
    pub fn distinct(&self) -> u64 {
        self.firsts + self.others.len() as u64
    }

    /// Rows that came more than once.
    pub fn doubled(&self) -> u64 {
        self.doubled
    }

    /// As text, for [`HeldRows::decode`].
    pub(super) fn encode(&self) -> String {
        let runs = self.runs.iter().map(|(first, end)| format!("run {first} {end}\n"));
        let others = self.others.iter().map(|(offset, row)| format!("row {offset} {row}\n"));
        runs.chain(others).chain([format!("doubled {} 0\n", self.doubled)]).collect()
    }

    /// Reads what [`HeldRows::encode`] wrote.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut held = Self::default();
        for line in text.lines() {
            let [kind, one, two] = line.split(' ').collect::<Vec<_>>().try_into().ok()?;
            let one: i64 = one.parse().ok()?;
            match kind {
                "run" => {
                    let end: i64 = two.parse().ok()?;
                    held.firsts += u64::try_from(end - one).ok()?;
                    held.runs.insert(one, end);
                }
                "row" => drop(held.others.insert((one, two.parse().ok()?))),
                "doubled" => held.doubled = u64::try_from(one).ok()?,
                _ => return None,
            }
        }
        Some(held)
    }

    /// The highest offset.
    pub fn max_offset(&self) -> Option<i64> {
        let first = self.runs.values().next_back().map(|end| end - 1);
        first.max(self.others.last().map(|(offset, _)| *offset))
    }

    /// Runs of offsets that have a first row: from the first to one past the last.
    pub fn runs(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        self.runs.iter().map(|(first, end)| (*first, *end))
    }

    /// Every row from an offset on, sorted.
    pub fn from(&self, offset: i64) -> Vec<(i64, u32)> {
        let reaching = self.runs.range(..offset).next_back().filter(|(_, end)| **end > offset);
        let later = self.runs.range(offset..);
        let runs = reaching.into_iter().chain(later).map(|(first, end)| (*first.max(&offset), *end));
        let firsts = runs.flat_map(|(first, end)| (first..end).map(|offset| (offset, 0)));
        let mut rows: Vec<(i64, u32)> = firsts.chain(self.others.range((offset, 0)..).copied()).collect();
        if !self.others.is_empty() {
            rows.sort_unstable();
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_hold_what_a_plain_set_holds(
            rows in prop::collection::vec((0i64..40, 0u32..3), 0..120),
            gone in prop::collection::vec((0i64..40, 0u32..3), 0..40),
            from in -1i64..45,
        ) {
            let (mut held, mut plain, mut doubled) = (HeldRows::default(), BTreeSet::new(), 0);
            for (offset, row) in rows {
                held.insert(offset, row);
                doubled += u64::from(!plain.insert((offset, row)));
            }
            for (offset, row) in gone {
                prop_assert_eq!(held.remove(offset, row), plain.remove(&(offset, row)));
            }
            prop_assert_eq!(held.distinct(), plain.len() as u64);
            prop_assert_eq!(held.doubled(), doubled);
            prop_assert_eq!(held.max_offset(), plain.last().map(|(offset, _)| *offset));
            prop_assert_eq!(held.from(from), plain.range((from, 0)..).copied().collect::<Vec<_>>());
            prop_assert_eq!(HeldRows::decode(&held.encode()), Some(held.clone()));
            let ends: Vec<_> = held.runs().collect();
            prop_assert!(ends.windows(2).all(|two| two[0].1 < two[1].0), "runs touch: {:?}", ends);
        }
    }
}
