//! The leader half: runs on the daemon that was elected, for as long as its term lasts.
//!
//! The coordinator keeps one table actor per table and one node actor per node, hands them what concerns them, and
//! takes control requests. Decisions are in `table::decide` and `placement`; every write carries the term's fence.

pub mod create;
pub mod gauges;
pub mod observed;
pub mod operations;
pub mod parse;
pub mod remove;
pub mod status;
pub mod steer;
mod tape;
mod target;

use super::balance::Balancer;
use super::mirror::{View, ViewChanged};
use super::node::{HeartbeatCame, NodeActor};
use super::placement::PlacementActor;
use super::table::{Review, Round, TableActor};
use super::{Neighbours, Recorder};
use crate::adapters::clock::Clock;
use crate::adapters::kafka::Kafka;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::metadata::{self, Compare, MetaStore, Write};
use crate::adapters::offload::Offload;
use crate::adapters::peers::{Error, HeartbeatReply};
use crate::model::balance::BalanceRules;
use crate::model::control::{
    Begun, ClusterStatus, CreateTable, DropTable, NodeStatus, Operate, OperationStatus, TableStatus,
};
use crate::model::observed::Heartbeat;
use crate::model::shared::Shared;
use crate::model::table::Publisher;
use crate::model::{NodeId, NodeState, OperationId, TableId, TableName, Term};
use crate::telemetry::Metrics;
use actix::prelude::*;
use observed::{Observed, Reports, Seen};
use std::collections::BTreeMap;
use std::sync::Arc;
use tape::Tape;

use super::table::decide::Rules;

/// What the actors of one term share. Cheap to clone.
#[derive(Clone)]
pub struct Lead {
    /// Cluster name.
    pub cluster: String,
    /// The term: every write is fenced with it.
    pub term: Term,
    /// Under which topologies are published.
    pub publisher: Publisher,
    /// The store.
    pub store: Arc<dyn MetaStore>,
    /// Its keys.
    pub keys: Keys,
    /// What it holds.
    pub view: View,
    /// What agents report.
    pub observed: Observed,
    /// This daemon and the others, whose servers parse users' DDL.
    pub neighbours: Neighbours,
    /// The message queue.
    pub kafka: Arc<dyn Kafka>,
    /// Time and random numbers.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Metrics,
    /// Copies of a new topic on brokers, where the request does not say.
    pub topic_replication: i32,
    /// Between two rounds of looking at everything.
    pub tick_ms: u64,
    /// Numbers of the rules.
    pub rules: Rules,
    /// The balancer's.
    pub balance: BalanceRules,
    /// Where plans are looked for.
    pub solver: Arc<dyn Offload>,
    /// How balancing stands.
    pub seen: Seen,
    /// Where the leader's trace goes.
    pub recording: Option<Recorder>,
    /// Held while a table's record is written.
    pub creating: Arc<tokio::sync::Mutex<()>>,
}

impl Lead {
    /// One transaction of this term: nothing is written once the term is over (FENCED).
    pub async fn write(
        &self,
        mut compares: Vec<Compare>,
        writes: Vec<Write>,
    ) -> Result<metadata::TxnOutcome, metadata::Error> {
        compares.push(metadata::fence(&self.keys.leader(), self.term));
        self.store.txn(compares, writes).await
    }

    /// Whether the term still stands, by the store's word of this moment: to be asked before anything is done that
    /// the store cannot fence (FENCED). A leader that was stopped for long does not know.
    ///
    /// # Errors
    /// As the store's: then nobody knows.
    pub async fn stands(&self) -> Result<bool, metadata::Error> {
        let leader = self.store.get(&self.keys.leader()).await?;
        Ok(leader.is_some_and(|pair| pair.create_revision == self.term.0))
    }
}

/// The actor.
pub struct Coordinator {
    tape: Option<Tape>,
    shown: gauges::Shown,
    lead: Lead,
    pub(super) placement: Addr<PlacementActor>,
    pub(super) balancer: Addr<Balancer>,
    pub(super) tables: BTreeMap<TableId, Addr<TableActor>>,
    pub(super) nodes: BTreeMap<NodeId, Addr<NodeActor>>,
}

fn placement(lead: &Lead) -> PlacementActor {
    PlacementActor::new(
        lead.view.clone(),
        lead.observed.clone(),
        lead.clock.clone(),
        lead.rules.down_after_ms,
        lead.balance,
        lead.metrics.clone(),
    )
}

impl Coordinator {
    /// Leads with that.
    pub fn new(lead: Lead) -> Self {
        let placement = placement(&lead).start();
        let balancer = Balancer::new(lead.clone()).start();
        let tape = lead.recording.clone().map(|sink| Tape::new(sink, lead.clock.now_ms()));
        let shown = gauges::Shown::default();
        Self { lead, placement, balancer, tables: BTreeMap::new(), nodes: BTreeMap::new(), tape, shown }
    }

    /// One actor for each record; one that died is made anew from the store.
    fn reconcile(&mut self) {
        if !self.placement.connected() {
            tracing::error!("the placement actor died: making it anew");
            self.lead.metrics.actor_deaths("placement").inc();
            self.placement = placement(&self.lead).start();
            self.tables.clear();
        }
        if !self.balancer.connected() {
            tracing::error!("the balancer died: making it anew");
            self.lead.metrics.actor_deaths("balancer").inc();
            self.balancer = Balancer::new(self.lead.clone()).start();
        }
        let view = self.lead.view.read();
        let lives = |kind: &str, connected: bool| {
            if !connected {
                tracing::error!(kind, "an actor died: making it anew");
                self.lead.metrics.actor_deaths(kind).inc();
            }
            connected
        };
        self.tables.retain(|id, table| view.tables.contains_key(id) && lives("table", table.connected()));
        self.nodes.retain(|id, node| view.nodes.contains_key(id) && lives("node", node.connected()));
        let new: Vec<TableId> =
            view.tables.keys().copied().filter(|id| !self.tables.contains_key(id)).collect();
        for id in new {
            let (lead, placement) = (self.lead.clone(), self.placement.clone());
            self.tables.insert(id, TableActor::new(lead, placement, id).start());
        }
        let new: Vec<NodeId> =
            view.nodes.keys().filter(|id| !self.nodes.contains_key(*id)).cloned().collect();
        for id in new {
            self.nodes.insert(id.clone(), NodeActor::new(self.lead.clone(), id).start());
        }
    }

    /// What a daemon's former run reported says nothing of what its node holds now.
    fn forget_former_runs(&self) {
        let view = self.lead.view.read();
        let mut reports = self.lead.observed.write();
        reports.heartbeats.retain(|node, heartbeat| {
            view.live.get(node).is_none_or(|live| live.incarnation == heartbeat.incarnation)
        });
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.reconcile();
        self.shown.show(&self.lead);
        if let Some(tape) = &mut self.tape {
            tape.look(&self.lead);
        }
        self.tables.values().for_each(|table| table.do_send(Round));
        let wait = std::time::Duration::from_millis(self.lead.tick_ms);
        ctx.run_later(wait, |coordinator, ctx| coordinator.tick(ctx));
    }
}

impl Actor for Coordinator {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        tracing::info!(term = self.lead.term.0, "this daemon leads the cluster");
        self.lead.metrics.leader.set(1);
        self.tick(ctx);
    }
    fn stopped(&mut self, _: &mut Context<Self>) {
        tracing::info!(term = self.lead.term.0, "this daemon leads no more");
        self.lead.metrics.leader.set(0);
        self.lead.metrics.forget_heartbeats();
    }
}

/// The term is over.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct StepDown;

impl Handler<StepDown> for Coordinator {
    type Result = ();
    fn handle(&mut self, _: StepDown, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl Handler<ViewChanged> for Coordinator {
    type Result = ();
    fn handle(&mut self, ViewChanged(touched): ViewChanged, _: &mut Context<Self>) {
        self.reconcile();
        self.forget_former_runs();
        // A node's coming or going concerns every table.
        if touched.nodes.is_empty() {
            let concerned = touched.tables.iter().filter_map(|id| self.tables.get(id));
            concerned.for_each(|table| table.do_send(Review));
        } else {
            self.tables.values().for_each(|table| table.do_send(Review));
        }
    }
}

/// An agent's report came in.
#[derive(Message)]
#[rtype(result = "Result<HeartbeatReply, Error>")]
pub struct TakeHeartbeat(pub Shared<Heartbeat>);

impl Handler<TakeHeartbeat> for Coordinator {
    type Result = Result<HeartbeatReply, Error>;
    fn handle(&mut self, TakeHeartbeat(heartbeat): TakeHeartbeat, _: &mut Context<Self>) -> Self::Result {
        let Some(node) = self.nodes.get(&heartbeat.node) else {
            return Err(Error::NotFound(format!("node {}", heartbeat.node)));
        };
        let live = self.lead.view.read().live.get(&heartbeat.node).map(|live| live.incarnation);
        if live.is_some_and(|incarnation| incarnation != heartbeat.incarnation) {
            // A zombie's, or one that is ahead of the records: the next one will do.
            return Ok(HeartbeatReply { term: self.lead.term });
        }
        let known = |reports: &Reports| {
            let before = reports.heartbeats.get(&heartbeat.node);
            before.is_some_and(|before| Shared::same(before, &heartbeat))
        };
        let mut concerned = Vec::new();
        if !known(&self.lead.observed.read()) {
            concerned.extend(heartbeat.replicas.keys().copied());
            concerned.extend(&heartbeat.dropped);
        }
        let tables = concerned.iter().filter_map(|id| Some((*id, self.tables.get(id)?.clone()))).collect();
        node.do_send(HeartbeatCame { heartbeat, tables });
        Ok(HeartbeatReply { term: self.lead.term })
    }
}

/// Make a table.
#[derive(Message)]
#[rtype(result = "Result<TableStatus, Error>")]
pub struct Create(pub CreateTable);

impl Handler<Create> for Coordinator {
    type Result = ResponseFuture<Result<TableStatus, Error>>;
    fn handle(&mut self, Create(request): Create, _: &mut Context<Self>) -> Self::Result {
        Box::pin(create::create_table(self.lead.clone(), request))
    }
}

/// Begin to drop a table.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct Drop(pub DropTable);

impl Handler<Drop> for Coordinator {
    type Result = ResponseFuture<Result<(), Error>>;
    fn handle(&mut self, Drop(request): Drop, _: &mut Context<Self>) -> Self::Result {
        Box::pin(remove::drop_table(self.lead.clone(), request))
    }
}

/// Begin operations.
#[derive(Message)]
#[rtype(result = "Result<Begun, Error>")]
pub struct Begin(pub Operate);

impl Handler<Begin> for Coordinator {
    type Result = ResponseFuture<Result<Begun, Error>>;
    fn handle(&mut self, Begin(request): Begin, _: &mut Context<Self>) -> Self::Result {
        Box::pin(operations::operate(self.lead.clone(), request))
    }
}

/// Have an operation undone.
#[derive(Message)]
#[rtype(result = "Result<OperationStatus, Error>")]
pub struct Cancel(pub OperationId);

impl Handler<Cancel> for Coordinator {
    type Result = ResponseFuture<Result<OperationStatus, Error>>;
    fn handle(&mut self, Cancel(id): Cancel, _: &mut Context<Self>) -> Self::Result {
        Box::pin(operations::cancel(self.lead.clone(), id))
    }
}

/// Say what is wanted of a node.
#[derive(Message)]
#[rtype(result = "Result<NodeStatus, Error>")]
pub struct SetNodeState(pub NodeId, pub NodeState);

impl Handler<SetNodeState> for Coordinator {
    type Result = ResponseFuture<Result<NodeStatus, Error>>;
    fn handle(&mut self, SetNodeState(id, state): SetNodeState, _: &mut Context<Self>) -> Self::Result {
        Box::pin(operations::set_node_state(self.lead.clone(), id, state))
    }
}

/// Forget a node.
#[derive(Message)]
#[rtype(result = "Result<(), Error>")]
pub struct RemoveNode(pub NodeId);

impl Handler<RemoveNode> for Coordinator {
    type Result = ResponseFuture<Result<(), Error>>;
    fn handle(&mut self, RemoveNode(id): RemoveNode, _: &mut Context<Self>) -> Self::Result {
        Box::pin(remove::remove_node(self.lead.clone(), id))
    }
}

/// All operations, oldest first.
#[derive(Message)]
#[rtype(result = "Vec<OperationStatus>")]
pub struct OperationsAsked;

impl Handler<OperationsAsked> for Coordinator {
    type Result = MessageResult<OperationsAsked>;
    fn handle(&mut self, _: OperationsAsked, _: &mut Context<Self>) -> Self::Result {
        let (view, reports) = (self.lead.view.read(), self.lead.observed.read());
        MessageResult(super::table::progress(&view, &reports, &self.lead))
    }
}

/// How a table stands.
#[derive(Message)]
#[rtype(result = "Result<TableStatus, Error>")]
pub struct TableAsked(pub TableName);

impl Handler<TableAsked> for Coordinator {
    type Result = Result<TableStatus, Error>;
    fn handle(&mut self, TableAsked(name): TableAsked, _: &mut Context<Self>) -> Self::Result {
        let view = self.lead.view.read();
        let reports = self.lead.observed.read();
        status::named(&view, &reports, &name, self.lead.clock.unix_ms())
    }
}

/// How everything stands.
#[derive(Message)]
#[rtype(result = "ClusterStatus")]
pub struct ClusterAsked;

impl Handler<ClusterAsked> for Coordinator {
    type Result = MessageResult<ClusterAsked>;
    fn handle(&mut self, _: ClusterAsked, _: &mut Context<Self>) -> Self::Result {
        let view = self.lead.view.read();
        let reports = self.lead.observed.read();
        let balance = status::balance(&view, Some(self.lead.balance.mode), &self.lead.seen.get());
        let now_unix_ms = self.lead.clock.unix_ms();
        MessageResult(status::cluster(&self.lead.cluster, &view, &reports, balance, now_unix_ms))
    }
}
