//! What a lane has fetched and nobody has taken yet, shared between its thread and its caller.
//!
//! Everything the contract promises about pausing and unassigning is kept here, under one lock: a partition's
//! fetched chunks lie in its own queue, so taking the partition away takes them away, and pausing it passes it over.
//! Each assignment has a number; what the thread fetched for an earlier one is dropped when it arrives. Memory is
//! bounded: the thread stops fetching when [`QUEUED_MAX_BYTES`] wait for the caller, and holds paused partitions at the
//! broker's side when more than [`PARKED_MAX_BYTES`] of them wait. This module knows no librdkafka.

use super::{Chunk, Fetched};
use crate::model::names::TopicPartition;
use std::collections::{BTreeMap, VecDeque};

/// Fetched and ready for the caller: above this the lane fetches no more.
pub(super) const QUEUED_MAX_BYTES: usize = 8 << 20;
/// Fetched for paused partitions: above this they are held.
pub(super) const PARKED_MAX_BYTES: usize = 8 << 20;

/// What the lane's thread must do at librdkafka's side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Read a partition from an offset on, as assignment number `.2`.
    Start(TopicPartition, i64, u64),
    /// Read it no more.
    Stop(TopicPartition),
    /// Let a held partition go on.
    Release(TopicPartition),
}

#[derive(Default)]
struct Part {
    assignment: u64,
    chunks: VecDeque<Chunk>,
    bytes: usize,
    end: Option<i64>,
    /// Follows the chunks: there is no message between the last of them and this offset.
    passed: Option<i64>,
    /// Why its broker does not answer.
    away: Option<String>,
    /// `OutOfRange` or `TopicMissing`: follows the chunks, then the partition is gone.
    last: Option<Fetched>,
    paused: bool,
    held: bool,
    in_turn: bool,
}

impl Part {
    fn has_something(&self) -> bool {
        let told = self.end.is_some() || self.passed.is_some() || self.away.is_some() || self.last.is_some();
        told || !self.chunks.is_empty()
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct Mailbox {
    parts: BTreeMap<TopicPartition, Part>,
    turn: VecDeque<TopicPartition>,
    commands: Vec<Command>,
    trouble: Option<String>,
    assignments: u64,
    queued_bytes: usize,
    parked_bytes: usize,
}

impl Mailbox {
    pub(super) fn assign(&mut self, source: &TopicPartition, from: i64) {
        self.remove(source);
        self.assignments += 1;
        let part = Part { assignment: self.assignments, ..Part::default() };
        self.parts.insert(source.clone(), part);
        self.commands.push(Command::Start(source.clone(), from, self.assignments));
    }

    pub(super) fn unassign(&mut self, source: &TopicPartition) {
        self.remove(source);
        self.commands.push(Command::Stop(source.clone()));
    }

    fn remove(&mut self, source: &TopicPartition) {
        if let Some(part) = self.parts.remove(source) {
            *self.pool(part.paused) -= part.bytes;
        }
    }

    fn pool(&mut self, paused: bool) -> &mut usize {
        if paused { &mut self.parked_bytes } else { &mut self.queued_bytes }
    }

    pub(super) fn pause(&mut self, source: &TopicPartition) {
        let Some(part) = self.parts.get_mut(source).filter(|part| !part.paused) else { return };
        part.paused = true;
        let bytes = part.bytes;
        self.queued_bytes -= bytes;
        self.parked_bytes += bytes;
    }

    /// Whether there is something to yield now.
    pub(super) fn resume(&mut self, source: &TopicPartition) -> bool {
        let Some(part) = self.parts.get_mut(source).filter(|part| part.paused) else { return false };
        part.paused = false;
        if std::mem::take(&mut part.held) {
            self.commands.push(Command::Release(source.clone()));
        }
        let bytes = part.bytes;
        self.parked_bytes -= bytes;
        self.queued_bytes += bytes;
        self.queue_turn(source)
    }

    fn queue_turn(&mut self, source: &TopicPartition) -> bool {
        let Some(part) = self.parts.get_mut(source) else { return false };
        if part.paused || !part.has_something() {
            return false;
        }
        if !std::mem::replace(&mut part.in_turn, true) {
            self.turn.push_back(source.clone());
        }
        true
    }

    /// The next thing to yield: partitions take turns.
    pub(super) fn next(&mut self) -> Option<Fetched> {
        if let Some(text) = self.trouble.take() {
            return Some(Fetched::Trouble(text));
        }
        while let Some(source) = self.turn.pop_front() {
            // A partition assigned anew may stand here twice; the second time it has nothing, or its turn again.
            let Some(part) = self.parts.get_mut(&source) else { continue };
            part.in_turn = false;
            if part.paused || !part.has_something() {
                continue;
            }
            if let Some(why) = part.away.take() {
                self.queue_turn(&source);
                return Some(Fetched::Unreachable(source, why));
            }
            if let Some(end) = part.end.take() {
                self.queue_turn(&source);
                return Some(Fetched::End(source, end));
            }
            if let Some(chunk) = part.chunks.pop_front() {
                let bytes = chunk.bytes();
                part.bytes -= bytes;
                self.queued_bytes -= bytes;
                self.queue_turn(&source);
                return Some(Fetched::Chunk(chunk));
            }
            if let Some(next) = part.passed.take() {
                self.queue_turn(&source);
                return Some(Fetched::Passed(source, next));
            }
            let last = part.last.take();
            self.parts.remove(&source);
            return last;
        }
        None
    }

    pub(super) fn take_commands(&mut self) -> Vec<Command> {
        std::mem::take(&mut self.commands)
    }

    /// Whether the caller has enough to do.
    pub(super) fn full(&self) -> bool {
        self.queued_bytes >= QUEUED_MAX_BYTES
    }

    fn of(&mut self, source: &TopicPartition, assignment: u64) -> Option<&mut Part> {
        self.parts.get_mut(source).filter(|part| part.assignment == assignment)
    }

    /// Takes in what was fetched. Whether the caller must be woken.
    pub(super) fn deliver(&mut self, assignment: u64, chunk: Chunk) -> bool {
        let bytes = chunk.bytes();
        let source = chunk.source.clone();
        let Some(part) = self.of(&source, assignment) else { return false };
        part.chunks.push_back(chunk);
        part.bytes += bytes;
        let paused = part.paused;
        *self.pool(paused) += bytes;
        self.queue_turn(&source)
    }

    /// Notes a partition's end.
    pub(super) fn end(&mut self, source: &TopicPartition, assignment: u64, end: i64) -> bool {
        let Some(part) = self.of(source, assignment) else { return false };
        (part.end, part.away) = (Some(end), None);
        self.queue_turn(source)
    }

    /// Notes that no message is left below an offset.
    pub(super) fn passed(&mut self, source: &TopicPartition, assignment: u64, next: i64) -> bool {
        let Some(part) = self.of(source, assignment) else { return false };
        part.passed = Some(next);
        self.queue_turn(source)
    }

    /// Notes that a partition's broker does not answer: what was heard of its end before is out of date.
    pub(super) fn away(&mut self, source: &TopicPartition, assignment: u64, why: String) -> bool {
        let Some(part) = self.of(source, assignment) else { return false };
        (part.end, part.away) = (None, Some(why));
        self.queue_turn(source)
    }

    /// Notes why a partition ends here.
    pub(super) fn last(&mut self, source: &TopicPartition, assignment: u64, last: Fetched) -> bool {
        let Some(part) = self.of(source, assignment) else { return false };
        (part.end, part.away) = (None, None);
        part.last = Some(last);
        self.queue_turn(source)
    }

    pub(super) fn trouble(&mut self, text: String) {
        self.trouble = Some(text);
    }

    /// Whether the thread was told to hold it and not yet to let it go.
    pub(super) fn held(&self, source: &TopicPartition) -> bool {
        self.parts.get(source).is_some_and(|part| part.held)
    }

    /// Paused partitions that the thread must hold now, because too much lies here for them.
    pub(super) fn hold_parked(&mut self) -> Vec<TopicPartition> {
        if self.parked_bytes < PARKED_MAX_BYTES {
            return Vec::new();
        }
        let loose = self.parts.iter_mut().filter(|(_, part)| part.paused && !part.held);
        loose
            .map(|(source, part)| {
                part.held = true;
                source.clone()
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use bytes::Bytes;

    fn source(n: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: n }
    }

    fn chunk(n: i32, offset: i64, bytes: usize) -> Chunk {
        let len = u32::try_from(bytes).unwrap();
        Chunk {
            source: source(n),
            messages: vec![Message { offset, timestamp_ms: -1, start: 0, len, tombstone: false }],
            payload: Bytes::from(vec![0; bytes]),
        }
    }

    fn offset_of(fetched: Option<Fetched>) -> Option<i64> {
        match fetched {
            Some(Fetched::Chunk(chunk)) => Some(chunk.messages[0].offset),
            _ => None,
        }
    }

    #[test]
    fn what_was_fetched_for_an_earlier_assignment_is_dropped() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 5);
        assert!(mailbox.deliver(1, chunk(0, 5, 10)));
        mailbox.assign(&source(0), 7);
        assert!(!mailbox.deliver(1, chunk(0, 6, 10)), "too late");
        assert!(mailbox.deliver(2, chunk(0, 7, 10)));
        assert_eq!(offset_of(mailbox.next()), Some(7));
        assert_eq!(mailbox.next(), None);
        mailbox.deliver(2, chunk(0, 8, 10));
        mailbox.unassign(&source(0));
        assert_eq!(mailbox.next(), None);
        assert_eq!((mailbox.queued_bytes, mailbox.parked_bytes), (0, 0));
        let starts = [Command::Start(source(0), 5, 1), Command::Start(source(0), 7, 2)];
        assert_eq!(mailbox.take_commands(), [&starts[..], &[Command::Stop(source(0))]].concat());
    }

    #[test]
    fn a_paused_partition_is_passed_over_and_goes_on_where_it_was() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 0);
        mailbox.assign(&source(1), 0);
        mailbox.deliver(1, chunk(0, 0, 10));
        mailbox.deliver(2, chunk(1, 0, 10));
        mailbox.pause(&source(0));
        mailbox.deliver(1, chunk(0, 1, 10));
        mailbox.end(&source(0), 1, 2);
        assert!(matches!(mailbox.next(), Some(Fetched::Chunk(c)) if c.source == source(1)));
        assert_eq!(mailbox.next(), None);
        assert!(mailbox.resume(&source(0)));
        assert!(!mailbox.resume(&source(0)), "twice is once");
        assert_eq!(mailbox.next(), Some(Fetched::End(source(0), 2)));
        assert_eq!(offset_of(mailbox.next()), Some(0));
        assert_eq!(offset_of(mailbox.next()), Some(1));
        assert_eq!(mailbox.next(), None);
    }

    #[test]
    fn too_much_for_paused_partitions_holds_them_and_too_much_for_the_caller_fills_the_box() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 0);
        mailbox.assign(&source(1), 0);
        mailbox.take_commands();
        mailbox.pause(&source(0));
        mailbox.deliver(1, chunk(0, 0, PARKED_MAX_BYTES));
        assert!(!mailbox.full(), "what is paused does not stop the others");
        assert_eq!(mailbox.hold_parked(), [source(0)]);
        assert_eq!(mailbox.hold_parked(), []);
        mailbox.deliver(2, chunk(1, 0, QUEUED_MAX_BYTES));
        assert!(mailbox.full());
        mailbox.resume(&source(0));
        assert_eq!(mailbox.take_commands(), [Command::Release(source(0))]);
        while mailbox.next().is_some() {}
        assert!(!mailbox.full());
    }

    #[test]
    fn partitions_take_turns() {
        let mut mailbox = Mailbox::default();
        for n in 0..2 {
            mailbox.assign(&source(n), 0);
            mailbox.deliver(1 + n as u64, chunk(n, 0, 1));
            mailbox.deliver(1 + n as u64, chunk(n, 1, 1));
        }
        let mut order = Vec::new();
        while let Some(Fetched::Chunk(chunk)) = mailbox.next() {
            order.push((chunk.source.partition, chunk.messages[0].offset));
        }
        assert_eq!(order, [(0, 0), (1, 0), (0, 1), (1, 1)]);
    }

    #[test]
    fn a_hole_is_passed_behind_the_messages_before_it() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 0);
        mailbox.deliver(1, chunk(0, 0, 1));
        mailbox.end(&source(0), 1, 3);
        assert!(mailbox.passed(&source(0), 1, 3));
        assert_eq!(mailbox.next(), Some(Fetched::End(source(0), 3)));
        assert_eq!(offset_of(mailbox.next()), Some(0));
        assert_eq!((mailbox.next(), mailbox.next()), (Some(Fetched::Passed(source(0), 3)), None));
        assert!(!mailbox.passed(&source(0), 7, 3), "of another assignment");
    }

    #[test]
    fn a_broker_that_is_away_or_back_is_told_by_the_last_that_was_heard() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 0);
        mailbox.end(&source(0), 1, 5);
        mailbox.away(&source(0), 1, "gone".into());
        assert_eq!(mailbox.next(), Some(Fetched::Unreachable(source(0), "gone".into())));
        assert_eq!(mailbox.next(), None, "the end heard before counts no more");
        mailbox.away(&source(0), 1, "gone".into());
        mailbox.end(&source(0), 1, 6);
        assert_eq!((mailbox.next(), mailbox.next()), (Some(Fetched::End(source(0), 6)), None));
    }

    #[test]
    fn the_reason_why_a_partition_ends_follows_its_messages() {
        let mut mailbox = Mailbox::default();
        mailbox.assign(&source(0), 0);
        mailbox.deliver(1, chunk(0, 0, 1));
        mailbox.last(&source(0), 1, Fetched::TopicMissing(source(0)));
        assert_eq!(offset_of(mailbox.next()), Some(0));
        assert_eq!(mailbox.next(), Some(Fetched::TopicMissing(source(0))));
        assert_eq!(mailbox.next(), None);
        assert!(!mailbox.deliver(1, chunk(0, 1, 1)), "it is assigned no more");
    }
}
