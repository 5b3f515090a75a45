//! Which partitions' brokers do not answer, by asking each once something is wrong.
//!
//! librdkafka tells of brokers, not of partitions, and says nothing when one is back and sends no message. So from the
//! first sign of trouble on, partitions are asked in turn until all have answered in a row. Pure: the lane asks.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::time::{Duration, Instant};

/// How long to wait after a question without an answer: each costs the lane's other partitions its time.
const PAUSE: Duration = Duration::from_secs(3);
/// So many partitions that do not answer, while none does, stand for all.
const SAMPLE: usize = 3;

/// What an answer means.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// It did not answer before.
    Back,
    /// It was not known to be away.
    AsBefore,
}

/// See the module's text.
#[derive(Debug)]
pub(super) struct Absence<P> {
    /// When to ask next; `None` if all is well.
    due: Option<Instant>,
    away: BTreeSet<P>,
    /// Whom we asked last.
    last: Option<P>,
    /// Answers in a row.
    answers: usize,
}

impl<P> Default for Absence<P> {
    fn default() -> Self {
        Self { due: None, away: BTreeSet::new(), last: None, answers: 0 }
    }
}

impl<P: Ord + Copy> Absence<P> {
    /// Something is wrong somewhere.
    pub(super) fn suspect(&mut self, now: Instant) {
        self.answers = 0;
        self.due.get_or_insert(now);
    }

    /// Whether it did not answer when it was asked last.
    pub(super) fn is_away(&self, place: &P) -> bool {
        self.away.contains(place)
    }

    /// Whom to ask now.
    pub(super) fn next<'a>(
        &mut self,
        now: Instant,
        all: impl ExactSizeIterator<Item = &'a P> + Clone,
    ) -> Option<P>
    where
        P: 'a,
    {
        self.due.filter(|due| *due <= now)?;
        if self.answers >= all.len() {
            (self.due, self.answers) = (None, 0);
            self.away.clear();
            return None;
        }
        let behind = (self.last.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded);
        let next = all.clone().find(|place| std::ops::RangeBounds::contains(&behind, *place));
        self.last = next.or_else(|| all.min()).copied();
        self.last
    }

    /// It answered.
    pub(super) fn answered(&mut self, place: P) -> Answer {
        self.answers += 1;
        if self.away.remove(&place) { Answer::Back } else { Answer::AsBefore }
    }

    /// Its messages come, which is an answer.
    pub(super) fn heard(&mut self, place: &P) {
        self.away.remove(place);
    }

    /// It did not answer: those that are away from now on, and were not before.
    pub(super) fn silent<'a>(
        &mut self,
        place: P,
        now: Instant,
        all: impl ExactSizeIterator<Item = &'a P>,
    ) -> Vec<P>
    where
        P: 'a,
    {
        let none_answers = self.answers == 0;
        self.answers = 0;
        self.due = Some(now + PAUSE);
        let mut found: Vec<P> = self.away.insert(place).then_some(place).into_iter().collect();
        if none_answers && self.away.len() >= SAMPLE {
            found.extend(all.filter(|place| self.away.insert(**place)));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [u32; 5] = [1, 2, 3, 4, 5];

    #[test]
    fn partitions_of_a_broker_that_is_down_are_found_and_noticed_when_it_is_back() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        assert_eq!(absence.next(now, ALL.iter()), None, "nothing is wrong");
        absence.suspect(now);
        let down = |place: u32| place == 2;
        let (mut told, mut back) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            let Some(place) = absence.next(now, ALL.iter()) else {
                now += PAUSE;
                continue;
            };
            if down(place) {
                told.extend(absence.silent(place, now, ALL.iter()));
            } else {
                assert_eq!(absence.answered(place), Answer::AsBefore);
            }
        }
        assert_eq!(told, [2], "once, and no other");
        while let Some(place) = absence.next(now + PAUSE, ALL.iter()) {
            if absence.answered(place) == Answer::Back {
                back.push(place);
            }
        }
        assert_eq!((back, absence.due), (vec![2], None), "and then it is quiet again");
    }

    #[test]
    fn when_none_answers_some_stand_for_all() {
        let (mut absence, mut now) = (Absence::default(), Instant::now());
        absence.suspect(now);
        let mut told = Vec::new();
        for _ in 0..3 {
            let place = absence.next(now, ALL.iter()).unwrap();
            told.extend(absence.silent(place, now, ALL.iter()));
            now += PAUSE;
        }
        assert_eq!(told, ALL);
        absence.heard(&4);
        assert!(!absence.is_away(&4) && absence.is_away(&5), "messages are an answer");
    }
}
