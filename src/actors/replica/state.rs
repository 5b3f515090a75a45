//! What a replica does next: events in, effects out.
//!
//! Pure. Knows no server and no clock; the shell in `mod.rs` runs the effects and feeds their outcomes back, each
//! carrying the attempt that it belongs to, so that a late answer to an old question changes nothing.

use super::buffer::{Batch, Limits};
use super::partition::{Partition, Phase};
use super::position::Position;
use super::recovery::Start;
use crate::adapters::kafka::Chunk;
use crate::model::names::TopicPartition;
use crate::model::observed::{PartitionProgress, ReplicaObservation, Stall};
use crate::model::{PartitionId, PartitionRange};
use std::collections::{BTreeMap, BTreeSet};

/// First wait after a failure; doubles up to [`BACKOFF_MAX_MS`].
pub const BACKOFF_MIN_MS: u64 = 250;
/// Longest wait between tries.
pub const BACKOFF_MAX_MS: u64 = 10_000;

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// The actor began, or the server restarted: make sure of everything again.
    Begin,
    /// Tables stand and a new gate is open; whether the local table was missing.
    Prepared(u32, bool, Result<u64, String>),
    /// A partition's looks are done.
    Recovered(PartitionId, u32, Result<Start, Stall>),
    /// The lane brought messages, for the assignment of that number.
    Fetched(PartitionId, u32, Chunk),
    /// The topic's end.
    End(PartitionId, i64),
    /// No message is left below that offset, in the assignment of that number.
    Passed(PartitionId, u32, i64),
    /// The lane lost the partition, in the assignment of that number.
    Lost(PartitionId, u32, Stall),
    /// Its broker does not answer, in the assignment of that number; an end or messages follow once it does.
    Unreachable(PartitionId, u32, String),
    /// An insert ended.
    Inserted(PartitionId, u32, Outcome),
    /// Batches are due by these limits from now on.
    Adjust(Limits),
    /// Take no more messages: its halves take over once what is being inserted has ended.
    Part,
    /// A wait is over, or a batch may be due.
    Tick,
}

/// How an insert ended.
#[derive(Debug)]
pub enum Outcome {
    /// Everything below is in the table or the dead-letter topic.
    Done(Done),
    /// Certainly nothing of it was inserted: the same batch again later.
    Again(Batch, Stall),
    /// Some of it may be in the table, by us or by whoever closed the gate: look.
    Unknown(String),
    /// It was not begun: the replica is to stop for its halves.
    Unsent,
}

/// What an insert achieved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// The next offset to take.
    pub next: i64,
    /// Highest offset with rows, if the batch had any.
    pub last_row_offset: Option<i64>,
    /// Fingerprint of the batch's last message.
    pub fingerprint: u32,
    /// Rows inserted.
    pub rows: u64,
    /// Messages put into the dead-letter topic.
    pub dead_letters: u64,
}

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect {
    /// Make the tables and open a new gate.
    Prepare {
        /// To be returned with the outcome.
        attempt: u32,
    },
    /// Look up commit, table and topic.
    Recover {
        /// Which.
        partition: PartitionId,
        /// To be returned with the outcome.
        attempt: u32,
        /// How far it had come in this run, or when that began, if it had: Kafka forgets what was recorded when a
        /// topic is deleted.
        known: Option<(i64, Position)>,
    },
    /// Read from the offset on, as the assignment of that number.
    Assign(PartitionId, i64, u32),
    /// Read no more.
    Unassign(PartitionId),
    /// Stop bringing messages.
    Pause(PartitionId),
    /// Bring them again.
    Resume(PartitionId),
    /// Insert through this gate; rows that the table holds already are left out.
    Insert {
        /// Which.
        partition: PartitionId,
        /// To be returned with the outcome.
        attempt: u32,
        /// Gate to go through.
        gate: u64,
        /// What.
        batch: Batch,
        /// `(offset, row)` pairs that are in the table.
        held: BTreeSet<(i64, u32)>,
    },
    /// Record the position in Kafka.
    Commit(PartitionId, i64, Position),
    /// Send [`Event::Tick`] at this time.
    WakeAt(u64),
    /// The observation changed.
    Report,
    /// An outcome is unknown: what was said.
    Doubt(PartitionId, String),
    /// Rows that were committed are not in the table: read again from here.
    LostRows(PartitionId, i64),
    /// The machine was started anew since the commit: what was committed of these offsets is looked through.
    LookBack(PartitionId, i64, i64),
    /// Some of these offsets had no rows, or lost them with the machine's power; the topic has them no more.
    Unproven(PartitionId, i64, i64),
    /// The topic had no message from the first offset up to the second, exclusive.
    Gap(PartitionId, i64, i64),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Closed { until_ms: u64 },
    Opening,
    Open(u64),
}

/// The state.
#[derive(Debug)]
pub struct State {
    pub(super) gate: Gate,
    attempt: u32,
    failures: u32,
    pub(super) partitions: BTreeMap<PartitionId, Partition>,
    pub(super) parting: bool,
    limits: Limits,
    wake_at_ms: Option<u64>,
    problem: Option<String>,
    dead_letters: u64,
    /// The table was missing when it was last prepared for: true until all of it has been looked at.
    made_anew: bool,
}

impl State {
    /// A replica whose history starts at `start`; `source` names each partition's topic.
    pub fn new(
        start: &Position,
        range: PartitionRange,
        limits: Limits,
        source: impl Fn(PartitionId) -> TopicPartition,
    ) -> Self {
        let partition = |id: PartitionId| Partition::new(source(id), start.clone());
        Self {
            gate: Gate::Closed { until_ms: 0 },
            attempt: 0,
            failures: 0,
            partitions: range.partitions().map(|id| (id, partition(id))).collect(),
            parting: false,
            limits,
            wake_at_ms: None,
            problem: None,
            dead_letters: 0,
            made_anew: false,
        }
    }

    /// A partition's topic.
    pub fn source(&self, partition: PartitionId) -> Option<&TopicPartition> {
        self.partitions.get(&partition).map(|p| &p.source)
    }

    /// All partitions and their topics.
    pub fn sources(&self) -> impl Iterator<Item = (PartitionId, &TopicPartition)> {
        self.partitions.iter().map(|(id, p)| (*id, &p.source))
    }

    /// What the leader is told; sizes are added by the agent.
    pub fn observe(&self) -> ReplicaObservation {
        let progress = |p: &Partition| PartitionProgress {
            next_offset: p.next,
            end_offset: p.end.max(p.next),
            reach_offset: p.reach.max(p.next),
            stall: p.stall.clone(),
        };
        let looked = self.partitions.values().all(|p| p.looked);
        ReplicaObservation {
            serving: matches!(self.gate, Gate::Open(_)) && looked,
            bare: self.made_anew && !looked,
            partitions: self.partitions.iter().map(|(id, p)| (*id, progress(p))).collect(),
            dead_letters: self.dead_letters,
            batch_age_ms: self.limits.age_max_ms,
            problem: self.problem.clone(),
            ..ReplicaObservation::default()
        }
    }

    /// The one entry.
    pub fn on(&mut self, event: Event, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.parting && !matches!(event, Event::Inserted(..)) {
            return effects;
        }
        // Messages of one partition concern no other; everything else may.
        let only = match &event {
            Event::Fetched(id, ..) | Event::End(id, _) | Event::Passed(id, ..) => Some(*id),
            _ => None,
        };
        match event {
            Event::Begin => self.begin(&mut effects),
            Event::Prepared(attempt, anew, result) => {
                self.prepared(attempt, anew, result, now_ms, &mut effects);
            }
            Event::Recovered(id, attempt, result) => {
                self.recovered(id, attempt, result, now_ms, &mut effects)
            }
            Event::Fetched(id, assignment, chunk) => {
                self.fetched(id, assignment, chunk, now_ms, &mut effects)
            }
            Event::End(id, end) => {
                if let Some(p) = self.partitions.get_mut(&id)
                    && (p.reached() || p.end != end)
                {
                    p.end = end;
                    effects.push(Effect::Report);
                }
            }
            Event::Passed(id, assignment, next) => {
                if let Some(p) = self.partitions.get_mut(&id)
                    && p.assignment == Some(assignment)
                {
                    p.read_on(id, next, &mut effects);
                }
            }
            Event::Unreachable(id, assignment, error) => {
                if let Some(p) = self.partitions.get_mut(&id)
                    && p.assignment == Some(assignment)
                    && p.stall.is_none()
                {
                    p.stall = Some(Stall::KafkaUnreachable { error });
                    effects.push(Effect::Report);
                }
            }
            Event::Lost(id, assignment, stall) => self.lost(id, assignment, stall, now_ms, &mut effects),
            Event::Inserted(id, attempt, outcome) => {
                self.inserted(id, attempt, outcome, now_ms, &mut effects)
            }
            Event::Adjust(limits) => {
                self.limits = limits;
                effects.push(Effect::Report);
            }
            Event::Part => {
                self.parting = true;
                self.partitions.iter_mut().for_each(|(id, p)| p.detach(*id, &mut effects));
            }
            Event::Tick => self.wake_at_ms = None,
        }
        self.advance(only, now_ms, &mut effects);
        effects
    }

    /// Everything is looked at again; inserts under way end as they will, their answers count for nothing.
    fn begin(&mut self, effects: &mut Vec<Effect>) {
        // Nor does the answer of a preparation under way, which may be making the table anew.
        let unheard = self.gate == Gate::Opening;
        self.made_anew |= unheard;
        self.gate = Gate::Closed { until_ms: 0 };
        for (id, p) in &mut self.partitions {
            p.looked &= !unheard;
            p.restart(*id, 0, effects);
        }
    }

    fn prepared(
        &mut self,
        attempt: u32,
        anew: bool,
        result: Result<u64, String>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        // A look that began since is right: to begin another one now would miss what is being inserted.
        if self.gate != Gate::Opening || attempt != self.attempt {
            return;
        }
        if anew {
            self.made_anew = true;
            self.partitions.iter_mut().for_each(|(id, p)| p.forget(*id, effects));
        }
        effects.push(Effect::Report);
        match result {
            Ok(gate) => {
                self.gate = Gate::Open(gate);
                self.failures = 0;
                self.problem = None;
            }
            Err(problem) => {
                self.gate = Gate::Closed { until_ms: now_ms + backoff_ms(self.failures) };
                self.failures += 1;
                self.problem = Some(problem);
            }
        }
    }

    fn recovered(
        &mut self,
        id: PartitionId,
        attempt: u32,
        result: Result<Start, Stall>,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(p) = self.partitions.get_mut(&id) else { return };
        if p.phase != Phase::Recovering || attempt != p.attempt {
            return;
        }
        effects.push(Effect::Report);
        match result {
            Ok(start) => p.go_on(id, attempt, start, now_ms, effects),
            Err(stall) => {
                p.stall = Some(stall);
                p.phase = Phase::Waiting { until_ms: now_ms + backoff_ms(p.failures) };
                p.failures += 1;
            }
        }
    }

    fn fetched(
        &mut self,
        id: PartitionId,
        assignment: u32,
        mut chunk: Chunk,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(p) = self.partitions.get_mut(&id) else { return };
        if p.assignment != Some(assignment) {
            return;
        }
        if p.reached() {
            effects.push(Effect::Report);
        }
        // The lane promises each message once; what was taken already is not taken again whatever it does.
        chunk.messages.retain(|message| message.offset >= p.read_to);
        for message in &chunk.messages {
            p.read_on(id, message.offset, effects);
            p.read_to = message.offset + 1;
        }
        p.end = p.end.max(p.read_to);
        p.buffer.push(chunk, now_ms);
    }

    fn lost(
        &mut self,
        id: PartitionId,
        assignment: u32,
        stall: Stall,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(p) = self.partitions.get_mut(&id) else { return };
        if p.assignment != Some(assignment) {
            return;
        }
        effects.push(Effect::Report);
        p.stall = Some(stall);
        let until_ms = now_ms + backoff_ms(p.failures);
        p.failures += 1;
        match p.phase {
            // A look now would miss the rows that are on their way: it follows when the insert has ended.
            Phase::Inserting { .. } => p.detach(id, effects),
            _ => p.restart(id, until_ms, effects),
        }
    }

    fn inserted(
        &mut self,
        id: PartitionId,
        attempt: u32,
        outcome: Outcome,
        now_ms: u64,
        effects: &mut Vec<Effect>,
    ) {
        let Some(p) = self.partitions.get_mut(&id) else { return };
        let Phase::Inserting { gate } = p.phase else { return };
        if attempt != p.attempt {
            return;
        }
        effects.push(Effect::Report);
        match outcome {
            Outcome::Done(done) => {
                (p.phase, p.doubts) = (Phase::Streaming, 0);
                if p.assignment.is_some() {
                    (p.failures, p.stall) = (0, None);
                }
                p.next = done.next;
                p.held = p.held.split_off(&(done.next, 0));
                p.looked |= p.held.is_empty();
                p.position.last_row_offset = p.position.last_row_offset.max(done.last_row_offset);
                p.position.fingerprint = Some(done.fingerprint);
                p.position.fingerprint_at = None;
                self.dead_letters += done.dead_letters;
                p.commit(id, now_ms, effects);
            }
            Outcome::Unsent => (p.phase, p.reach) = (Phase::Streaming, p.next),
            Outcome::Again(batch, stall) => {
                p.reach = p.next;
                p.buffer.put_back(batch);
                p.stall = Some(stall);
                p.phase = Phase::Holding { until_ms: now_ms + backoff_ms(p.failures) };
                p.failures += 1;
            }
            Outcome::Unknown(reason) => {
                effects.push(Effect::Doubt(id, reason.clone()));
                // Once is an accident; twice in a row is a server that cannot (a disk that is full, say).
                if p.doubts > 0 {
                    p.stall = Some(Stall::ServerRefuses { error: reason });
                }
                p.restart(id, now_ms + backoff_ms(p.doubts), effects);
                p.doubts += 1;
                self.close(gate);
                return;
            }
        }
        if p.assignment.is_none() && !self.parting {
            p.restart(id, now_ms + backoff_ms(p.failures), effects);
        }
    }

    /// A gate through which something unknown went is of no use; a later one stays.
    fn close(&mut self, gate: u64) {
        if self.gate == Gate::Open(gate) {
            self.gate = Gate::Closed { until_ms: 0 };
        }
    }

    /// Starts whatever can be started, and asks to be woken when the next thing is due.
    fn advance(&mut self, only: Option<PartitionId>, now_ms: u64, effects: &mut Vec<Effect>) {
        if self.parting {
            return;
        }
        let mut wake: Option<u64> = None;
        let mut wake_at = |at: u64| wake = Some(wake.map_or(at, |old| old.min(at)));
        match self.gate {
            Gate::Closed { until_ms } if until_ms <= now_ms => {
                self.attempt += 1;
                self.gate = Gate::Opening;
                effects.push(Effect::Prepare { attempt: self.attempt });
            }
            Gate::Closed { until_ms } => wake_at(until_ms),
            Gate::Opening => {}
            Gate::Open(gate) => {
                let concerned = match only {
                    Some(id) => self.partitions.range_mut(id..=id),
                    None => self.partitions.range_mut(..),
                };
                for (id, p) in concerned {
                    if let Some(at) = p.advance(*id, gate, &self.limits, now_ms, effects) {
                        wake_at(at);
                    }
                    p.regulate(*id, &self.limits, effects);
                }
            }
        }
        if let Some(at) = wake
            && self.wake_at_ms.is_none_or(|armed| at < armed)
        {
            self.wake_at_ms = Some(at);
            effects.push(Effect::WakeAt(at));
        }
    }
}

/// The wait before the next try.
pub fn backoff_ms(failures: u32) -> u64 {
    (BACKOFF_MIN_MS << failures.min(8)).min(BACKOFF_MAX_MS)
}
