//! One partition of a replica: where it stands between looking, fetching and inserting.
//!
//! Pure; the replica's `state` drives it.

use super::buffer::{Buffer, Limits};
use super::position::Position;
use super::state::Effect;
use crate::model::PartitionId;
use crate::model::names::TopicPartition;
use crate::model::observed::Stall;
use std::collections::BTreeSet;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To be recovered when a gate is open and the time has come.
    Waiting {
        until_ms: u64,
    },
    Recovering,
    Streaming,
    Inserting {
        gate: u64,
    },
    /// A batch waits in the buffer for a second try.
    Holding {
        until_ms: u64,
    },
}

#[derive(Debug)]
pub(super) struct Partition {
    pub(super) source: TopicPartition,
    pub(super) phase: Phase,
    pub(super) attempt: u32,
    pub(super) assignment: Option<u32>,
    pub(super) failures: u32,
    /// Inserts in a row whose outcome was unknown.
    pub(super) doubts: u32,
    pub(super) next: i64,
    /// One past what may be in the table: inserts under way, and those whose outcome is not known yet.
    pub(super) reach: i64,
    /// Everything below was taken from the lane, or is not there.
    pub(super) read_to: i64,
    pub(super) end: i64,
    pub(super) position: Position,
    pub(super) held: BTreeSet<(i64, u32)>,
    pub(super) buffer: Buffer,
    pub(super) paused: bool,
    pub(super) looked: bool,
    pub(super) stall: Option<Stall>,
}

impl Partition {
    /// Nothing is known of it yet.
    pub(super) fn new(source: TopicPartition, position: Position) -> Self {
        Self {
            source,
            phase: Phase::Waiting { until_ms: 0 },
            attempt: 0,
            assignment: None,
            failures: 0,
            doubts: 0,
            next: 0,
            reach: 0,
            read_to: 0,
            end: 0,
            position,
            held: BTreeSet::new(),
            buffer: Buffer::default(),
            paused: false,
            looked: false,
            stall: None,
        }
    }

    /// Back to the beginning: whatever was fetched or is under way no longer counts.
    pub(super) fn restart(&mut self, id: PartitionId, until_ms: u64, effects: &mut Vec<Effect>) {
        self.attempt += 1;
        self.phase = Phase::Waiting { until_ms };
        self.detach(id, effects);
    }

    /// The table is not the one of before: nothing that was seen of that one is true of it.
    pub(super) fn forget(&mut self, id: PartitionId, effects: &mut Vec<Effect>) {
        (self.next, self.reach, self.end, self.looked) = (0, 0, 0, false);
        self.held.clear();
        self.position.last_row_offset = None;
        (self.position.fingerprint, self.position.fingerprint_at) = (None, None);
        self.restart(id, 0, effects);
    }

    /// Its broker answers; whether it had not before.
    pub(super) fn reached(&mut self) -> bool {
        self.stall.take_if(|stall| matches!(stall, Stall::KafkaUnreachable { .. })).is_some()
    }

    /// Takes no more messages, and forgets those that wait.
    pub(super) fn detach(&mut self, id: PartitionId, effects: &mut Vec<Effect>) {
        self.buffer.clear();
        // What was read and is not in counts as not read.
        self.read_to = self.next;
        self.paused = false;
        if self.assignment.take().is_some() {
            effects.push(Effect::Unassign(id));
        }
    }

    /// The topic has no message from where reading is up to this offset.
    pub(super) fn read_on(&mut self, id: PartitionId, to: i64, effects: &mut Vec<Effect>) {
        if to > self.read_to {
            effects.push(Effect::Gap(id, self.read_to, to));
            self.read_to = to;
            self.end = self.end.max(to);
        }
    }

    /// Takes offsets without a message as done, once every message before them is.
    fn pass(&mut self, id: PartitionId, effects: &mut Vec<Effect>) {
        let all_in = self.phase == Phase::Streaming && self.buffer.is_empty();
        if !all_in || self.read_to <= self.next {
            return;
        }
        // The fingerprint stays that of the last message, which is not right before any more.
        if self.position.fingerprint.is_some() {
            self.position.fingerprint_at.get_or_insert(self.next - 1);
        }
        self.next = self.read_to;
        self.held = self.held.split_off(&(self.next, 0));
        self.looked |= self.held.is_empty();
        effects.extend([Effect::Report, Effect::Commit(id, self.next, self.position.clone())]);
    }

    /// Fetching pauses while a whole further batch waits.
    pub(super) fn regulate(&mut self, id: PartitionId, limits: &Limits, effects: &mut Vec<Effect>) {
        let full = self.buffer.is_full(limits);
        if self.assignment.is_some() && full != self.paused {
            self.paused = full;
            effects.push(if full { Effect::Pause(id) } else { Effect::Resume(id) });
        }
    }

    /// Starts what can be started; returns when to look again.
    pub(super) fn advance(
        &mut self,
        id: PartitionId,
        gate: u64,
        limits: &Limits,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<u64> {
        self.pass(id, effects);
        let due = match self.phase {
            Phase::Waiting { until_ms } if until_ms <= now_ms => {
                self.attempt += 1;
                self.phase = Phase::Recovering;
                let taken = self.position.fingerprint.is_some();
                let known = taken.then(|| (self.next, self.position.clone()));
                effects.push(Effect::Recover { partition: id, attempt: self.attempt, known });
                return None;
            }
            Phase::Waiting { until_ms } => return Some(until_ms),
            Phase::Recovering | Phase::Inserting { .. } => return None,
            Phase::Holding { until_ms } => until_ms,
            Phase::Streaming => self.buffer.due_at_ms(limits)?,
        };
        if due > now_ms {
            return Some(due);
        }
        let batch = self.buffer.take(limits, now_ms);
        self.attempt += 1;
        self.phase = Phase::Inserting { gate };
        self.reach = self.reach.max(batch.next_offset().unwrap_or(0));
        let held = match batch.next_offset() {
            Some(next) => self.held.range(..(next, 0)).copied().collect(),
            None => BTreeSet::new(),
        };
        effects.push(Effect::Insert { partition: id, attempt: self.attempt, gate, batch, held });
        None
    }
}
