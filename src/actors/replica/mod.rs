//! The replica: consumes its partitions and writes them to the local table, each row once.
//!
//! The actor is a shell: `state` decides, `work` does, `recovery` says where to go on after any restart. Splits and
//! moves are not its business; it holds one range of partitions from birth to stop.

pub mod buffer;
mod copy;
#[cfg(test)]
mod copy_tests;
pub mod encode;
pub mod handover;
mod marks;
mod meter;
mod partition;
pub mod position;
#[cfg(test)]
mod power_tests;
pub mod recovery;
pub mod seed;
pub mod state;
#[cfg(test)]
mod state_tests;
mod work;
mod writer;
#[cfg(test)]
mod writer_tests;

use super::agent::{FromReplica, ReplicaNews};
use super::lane_reader::{Flow, FromLane, LaneReader, Subscribe, Unsubscribe};
use super::mirror::View;
use super::node_ports::NodePorts;
use crate::adapters::kafka::{Committed, Fetched};
use crate::model::invariants::Invariant;
use crate::model::names::{self, TopicPartition};
use crate::model::observed::{ReplicaObservation, Stall};
use crate::model::view::Kept;
use crate::model::{PartitionId, ReplicaId, Shard, Table};
use actix::prelude::*;
use handover::Stands;
use position::Position;
use state::{Effect, Event, State};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use work::{Job, Told};

pub use buffer::Limits;

/// How long what is being inserted may take when the replica is to stop. Of a partition where it takes longer nothing
/// is told: closing its gates waits for its inserts, and its halves look what came of them.
const HAND_OVER_WITHIN: Duration = Duration::from_millis(500);

/// The actor.
pub struct ReplicaActor {
    id: ReplicaId,
    job: Job,
    state: State,
    lanes: Vec<Addr<LaneReader>>,
    agent: Recipient<FromReplica>,
    by_source: BTreeMap<TopicPartition, PartitionId>,
    /// Who is to be told where it stands when it has come to rest.
    heir: Option<oneshot::Sender<Stands>>,
    /// The one wait: the state asks for another only if that is over sooner, or after this one.
    wake: Option<SpawnHandle>,
}

impl ReplicaActor {
    /// A replica of `shard` on the node of these ports, reading through these lanes.
    pub fn new(
        ports: NodePorts,
        view: View,
        table: Kept<Table>,
        shard: &Shard,
        limits: Limits,
        lanes: Vec<Addr<LaneReader>>,
        agent: Recipient<FromReplica>,
    ) -> Self {
        let id = ReplicaId { table: table.id, shard: shard.id, node: ports.node.clone() };
        let source = |partition| names::topic_partition(&table.source, partition);
        let start = Position::start(table.id, shard.id, shard.life_on(&ports.node));
        let start = Position { boot: ports.boot, ..start };
        let state = State::new(&start, shard.range, limits, source);
        let by_source = state.sources().map(|(id, source)| (source.clone(), id)).collect();
        let database = names::replica_database(&table.name, table.id, shard.id);
        let (shard, told) = (shard.clone(), Told::default());
        let parting = Arc::default();
        let job = Job { ports, view, agent: agent.clone(), table, shard, database, told, parting };
        Self { id, job, state, lanes, agent, by_source, heir: None, wake: None }
    }

    fn handle(&mut self, event: Event, ctx: &mut Context<Self>) {
        let effects = self.state.on(event, self.job.ports.clock.now_ms());
        for effect in effects {
            self.perform(effect, ctx);
        }
        if self.state.at_rest() {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        if let Some(heir) = self.heir.take() {
            // Who does not wait any more has its halves look.
            let _ = heir.send(self.state.stands());
        }
    }

    /// A lane of its own for each partition in turn, so that a busy table uses all of them.
    fn lane(&self, partition: PartitionId) -> &Addr<LaneReader> {
        &self.lanes[partition.0 as usize % self.lanes.len()]
    }

    fn perform(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        match effect {
            Effect::Prepare { attempt } => {
                later(ctx, self.job.clone().prepare(), move |(anew, result)| {
                    Event::Prepared(attempt, anew, result)
                });
            }
            Effect::Recover { partition, attempt, known } => {
                let Some(source) = self.state.source(partition).cloned() else { return };
                later(ctx, self.job.clone().recover(partition, source, known), move |result| {
                    Event::Recovered(partition, attempt, result)
                });
            }
            Effect::Insert { partition, attempt, gate, batch, held } => {
                let insert = self.job.clone().insert(partition, attempt, gate, batch, held);
                later(ctx, insert, move |outcome| Event::Inserted(partition, attempt, outcome));
            }
            Effect::Assign(partition, from, assignment) => {
                let Some(source) = self.state.source(partition).cloned() else { return };
                let to = ctx.address().recipient();
                self.lane(partition).do_send(Subscribe { source, from, assignment, to });
            }
            Effect::Unassign(partition) => self.unsubscribe(partition, ctx),
            Effect::Pause(partition) => self.flow(partition, false, ctx),
            Effect::Resume(partition) => self.flow(partition, true, ctx),
            Effect::Commit(partition, next, position) => {
                let Some(source) = self.state.source(partition).cloned() else { return };
                let committed = Committed { next, metadata: position.encode() };
                self.tell(ReplicaNews::Commit(source, committed));
            }
            Effect::WakeAt(at_ms) => {
                let wait = at_ms.saturating_sub(self.job.ports.clock.now_ms());
                let wake = ctx.run_later(Duration::from_millis(wait), |actor, ctx| {
                    actor.wake = None;
                    actor.handle(Event::Tick, ctx);
                });
                if let Some(later) = self.wake.replace(wake) {
                    ctx.cancel_future(later);
                }
            }
            Effect::Report => {
                let since = self.job.since();
                self.tell(ReplicaNews::Observed(ReplicaObservation { since, ..self.state.observe() }));
            }
            Effect::Doubt(..)
            | Effect::Gap(..)
            | Effect::LookBack(..)
            | Effect::Unproven(..)
            | Effect::LostRows(..) => self.log(effect),
        }
    }

    /// Logs and counts what somebody may have to know; nothing else comes of it.
    fn log(&self, effect: Effect) {
        match effect {
            Effect::Doubt(partition, reason) => {
                tracing::info!(replica = %self.id, %partition, reason,
                    "an insert's outcome is unknown: looking what the table holds");
            }
            Effect::Gap(partition, from, to) => {
                // One offset is what the end of a transaction takes.
                if to - from > 1 {
                    tracing::info!(replica = %self.id, %partition, from, to,
                        "the topic has no messages there: a transaction that was given up, or compaction");
                }
                let gap = u64::try_from(to - from).unwrap_or(0);
                self.job.ports.metrics.offset_gaps(&self.job.table.name.to_string()).inc_by(gap);
            }
            Effect::LookBack(partition, from, to) => {
                tracing::info!(replica = %self.id, %partition, from, to,
                    "the machine was started anew, or is another: looking whether the newest rows are all there");
            }
            Effect::Unproven(partition, from, to) => {
                tracing::warn!(table = %self.job.table.name, shard = %self.id.shard, %partition, from, to,
                    remedy = "compare the replicas with `converthouse verify`",
                    "the machine was started anew, and the topic no longer has what the table may have lost by it: \
                     going on behind it");
            }
            Effect::LostRows(partition, from) => {
                tracing::error!(replica = %self.id, %partition, from, invariant = %Invariant::NoLoss,
                    "the table has lost rows that were committed: reading them again from the topic");
                self.job.ports.metrics.invariant_violations(Invariant::NoLoss).inc();
            }
            _ => {}
        }
    }

    fn flow(&self, partition: PartitionId, on: bool, ctx: &Context<Self>) {
        if let Some(source) = self.state.source(partition).cloned() {
            let to = ctx.address().recipient();
            self.lane(partition).do_send(Flow { source, to, on });
        }
    }

    fn unsubscribe(&self, partition: PartitionId, ctx: &Context<Self>) {
        if let Some(source) = self.state.source(partition).cloned() {
            let to = ctx.address().recipient();
            self.lane(partition).do_send(Unsubscribe { source, to });
        }
    }

    fn tell(&self, news: ReplicaNews) {
        self.agent.do_send(FromReplica { table: self.id.table, shard: self.id.shard, news });
    }
}

/// Runs an effect beside the mailbox; its outcome comes back as an event.
fn later<T: 'static>(
    ctx: &mut Context<ReplicaActor>,
    work: impl Future<Output = T> + 'static,
    event: impl FnOnce(T) -> Event + 'static,
) {
    ctx.spawn(actix::fut::wrap_future::<_, ReplicaActor>(work).map(move |out, actor, ctx| {
        actor.handle(event(out), ctx);
    }));
}

impl Actor for ReplicaActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        tracing::info!(replica = %self.id, database = %self.job.database, "replica starts");
        self.handle(Event::Begin, ctx);
    }

    fn stopped(&mut self, ctx: &mut Context<Self>) {
        for partition in self.state.sources().map(|(id, _)| id).collect::<Vec<_>>() {
            self.unsubscribe(partition, ctx);
        }
    }
}

/// The server was restarted, or something else makes a fresh look advisable.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct LookAgain;

/// Other limits from the next batch on.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Adjust(pub Limits);

/// Stop consuming; what is under way is left to its fate.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct StopReplica;

/// Take no more messages, end what is being inserted, and tell where it stands: it is to be stopped for its halves.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HandOver(pub oneshot::Sender<Stands>);

impl Handler<HandOver> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, HandOver(heir): HandOver, ctx: &mut Context<Self>) {
        self.heir = Some(heir);
        self.job.parting.notify_waiters();
        self.handle(Event::Part, ctx);
        ctx.run_later(HAND_OVER_WITHIN, |actor, _| actor.hand_over());
    }
}

impl Handler<LookAgain> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, _: LookAgain, ctx: &mut Context<Self>) {
        self.handle(Event::Begin, ctx);
    }
}

impl Handler<Adjust> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, Adjust(limits): Adjust, ctx: &mut Context<Self>) {
        self.handle(Event::Adjust(limits), ctx);
    }
}

impl Handler<StopReplica> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, _: StopReplica, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<FromLane> for ReplicaActor {
    type Result = ();
    fn handle(&mut self, message: FromLane, ctx: &mut Context<Self>) {
        let FromLane { assignment, fetched } = message;
        let find = |source: &TopicPartition| self.by_source.get(source).copied();
        let lost = |source: TopicPartition, stall| find(&source).map(|id| Event::Lost(id, assignment, stall));
        let event = match fetched {
            Fetched::Chunk(chunk) => find(&chunk.source).map(|id| Event::Fetched(id, assignment, chunk)),
            Fetched::End(source, end) => find(&source).map(|id| Event::End(id, end)),
            Fetched::Passed(source, next) => find(&source).map(|id| Event::Passed(id, assignment, next)),
            Fetched::OutOfRange { source, wanted, low, .. } if wanted < low => {
                lost(source, Stall::OffsetsGone { from: wanted, to: low })
            }
            Fetched::OutOfRange { source, wanted, high, .. } => {
                lost(source, Stall::TopicReplaced { next: wanted, end: high })
            }
            Fetched::TopicMissing(source) => lost(source, Stall::TopicMissing),
            Fetched::Unreachable(source, error) => {
                find(&source).map(|id| Event::Unreachable(id, assignment, error))
            }
            Fetched::Trouble(_) => None, // the lane reader logs it; the lane goes on by itself
        };
        if let Some(event) = event {
            self.handle(event, ctx);
        }
    }
}
