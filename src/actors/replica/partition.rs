//! One partition of a replica: where it stands between looking, fetching and inserting.
//!
//! Pure; the replica's `state` drives it.

use super::buffer::{Buffer, Limits};
use super::marks::Marks;
use super::position::Position;
use super::recovery::Start;
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
    /// How far the table had come when.
    pub(super) marks: Marks,
    /// What is recorded says less than it can once nothing has come for a while.
    pub(super) unsettled: bool,
    /// The next batch waits for nothing: its messages have waited while nobody took them.
    at_once: bool,
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
            marks: Marks::default(),
            unsettled: false,
            at_once: false,
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

    /// Goes on from where a look says, as the assignment of that number.
    pub(super) fn go_on(
        &mut self,
        id: PartitionId,
        assignment: u32,
        start: Start,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        // Not before: what has not been compared with its topic must not pass for complete. Nor does a copy whose
        // ClickHouse partitions were frozen one after the other, or what a machine lost with its power, as long as it
        // has holes.
        self.looked |= start.held.is_empty();
        effects.extend(start.looked_back.map(|(from, to)| Effect::LookBack(id, from, to)));
        effects.extend(start.unproven.map(|(from, to)| Effect::Unproven(id, from, to)));
        effects.extend(start.lost_from.map(|from| Effect::LostRows(id, from)));
        self.phase = Phase::Streaming;
        self.paused = false;
        // What the server refused to insert is settled by an insert that succeeds, not by a look, unless there is
        // nothing left to insert.
        let refused = self.doubts > 0 && matches!(self.stall, Some(Stall::ServerRefuses { .. }));
        if !refused || start.from >= start.end {
            (self.failures, self.stall) = (0, None);
        }
        if let Some((fingerprint, offset)) = start.fingerprint {
            self.position.fingerprint = Some(fingerprint);
            self.position.fingerprint_at = (offset != start.from - 1).then_some(offset);
        } else if self.next != start.from {
            // It is of the message before `next`, and says nothing of another place.
            (self.position.fingerprint, self.position.fingerprint_at) = (None, None);
        }
        self.next = start.from;
        // What the table holds beyond was put in before we knew.
        self.reach = start.held.last().map_or(start.from, |(offset, _)| start.from.max(offset + 1));
        self.read_to = start.from;
        self.end = start.end;
        self.position.last_row_offset = start.last_row_offset;
        self.position.safe = start.safe;
        self.marks = Marks::begin(now_ms, start.from, start.safe);
        self.unsettled = start.unsettled;
        self.at_once = start.at_once;
        self.held = start.held;
        self.assignment = Some(assignment);
        effects.push(Effect::Assign(id, start.from, assignment));
    }

    /// Records how far it has come.
    pub(super) fn commit(&mut self, id: PartitionId, now_ms: u64, effects: &mut Vec<Effect>) {
        self.marks.reach(now_ms, self.next);
        self.position.safe = self.marks.safe();
        self.unsettled = self.position.safe != Some(self.next);
        effects.push(Effect::Commit(id, self.next, self.position.clone()));
    }

    /// Records an idle partition once more, when all of it is safe; returns when that is. Else the machine's next start
    /// would have its newest rows looked through however long they had been there, and messages missed that were not
    /// rows and have left the topic since.
    fn settle(&mut self, id: PartitionId, now_ms: u64, effects: &mut Vec<Effect>) -> Option<u64> {
        let due = self.marks.settled_at_ms().filter(|_| self.unsettled && self.position.boot.is_some())?;
        if due > now_ms {
            return Some(due);
        }
        self.commit(id, now_ms, effects);
        None
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
    fn pass(&mut self, id: PartitionId, now_ms: u64, effects: &mut Vec<Effect>) {
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
        effects.push(Effect::Report);
        self.commit(id, now_ms, effects);
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
        self.pass(id, now_ms, effects);
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
            Phase::Streaming => match self.buffer.due_at_ms(limits) {
                Some(_) if self.at_once => now_ms,
                Some(due) => due,
                None => return self.settle(id, now_ms, effects),
            },
        };
        if due > now_ms {
            return Some(due);
        }
        self.at_once = false;
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
