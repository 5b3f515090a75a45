//! The router: keeps one server's generated cluster file and its user-facing tables in step with the topology.
//!
//! One round at a time: drop what users must no longer see, replace the file, reload, read back, then make what
//! they should see. An epoch counts as loaded only when the server itself shows it.

pub mod made;
pub mod settle;
pub mod state;

use super::agent::{Agent, RoutesStand};
use super::mirror::{View, ViewChanged};
use super::node_ports::NodePorts;
use super::replica::state::backoff_ms;
use crate::adapters::clickhouse::{self, DistributedTable};
use crate::error::Coded;
use crate::model::routes::RouteGroup;
use crate::model::shared::Shared;
use crate::model::view::Versioned;
use crate::model::{Node, NodeId, Table, TableId};
use actix::prelude::*;
use made::{MadeRoutes, Routed};
use settle::Settling;
use state::{Achieved, Round};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often a changed file is looked for in `system.clusters` before the round is tried again.
const READ_BACKS_MAX: u32 = 30;
/// The wait between two looks.
const READ_BACK_MS: u64 = 100;
/// How often running queries are looked at while an epoch has not settled.
const SETTLE_EVERY_MS: u64 = 500;
/// How often the file is compared with what was written, while there is nothing to do.
const CHECK_EVERY_MS: u64 = 20_000;

/// The server answers again, perhaps after a restart.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct ServerSeen {
    /// Whether it was restarted.
    pub restarted: bool,
}

/// Who is told how routes stand.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Introduce(pub Addr<Agent>);

type Tables = BTreeMap<TableId, Shared<Versioned<Table>>>;
type Nodes = Shared<BTreeMap<NodeId, Versioned<Node>>>;

/// The actor.
pub struct Router {
    ports: NodePorts,
    view: View,
    made: MadeRoutes,
    groups: Vec<RouteGroup>,
    insert_base_url: Option<String>,
    agent: Option<Addr<Agent>>,
    achieved: Achieved,
    /// The tables and nodes for which all is achieved: while they are the same, nothing is to be done.
    covered: Option<(Tables, Nodes)>,
    /// What was written last.
    file: Option<Arc<str>>,
    /// How often what was achieved was forgotten: a round that began before tells nothing of the time since.
    life: u64,
    settling: Settling,
    looking: bool,
    /// The next look at running queries.
    look_again: Option<SpawnHandle>,
    busy: bool,
    waiting: bool,
    failures: u32,
    /// The error that was logged last.
    told: String,
}

impl Router {
    /// The router of the node of these ports.
    pub fn new(
        ports: NodePorts,
        view: View,
        made: MadeRoutes,
        groups: Vec<RouteGroup>,
        insert_base_url: Option<String>,
    ) -> Self {
        Self {
            ports,
            view,
            made,
            groups,
            insert_base_url,
            agent: None,
            achieved: Achieved::default(),
            covered: None,
            file: None,
            life: 0,
            settling: Settling::default(),
            looking: false,
            look_again: None,
            busy: false,
            waiting: false,
            failures: 0,
            told: String::new(),
        }
    }

    fn advance(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.waiting {
            return;
        }
        let round = {
            let view = self.view.read();
            if !view.complete {
                return;
            }
            let same = |(tables, nodes): &(Tables, Nodes)| {
                Shared::same(nodes, &view.nodes) && *tables == view.tables
            };
            if self.covered.as_ref().is_some_and(same) {
                return;
            }
            let round = state::round(&view, &self.made, &self.groups, self.insert_base_url.as_deref());
            if self.achieved.covers(&round) {
                self.covered = Some((view.tables.clone(), view.nodes.clone()));
                return;
            }
            round
        };
        self.covered = None;
        self.busy = true;
        let (file, life) = (self.made.file(&round.routes), self.life);
        self.file = Some(file.clone());
        let work = Work { ports: self.ports.clone(), achieved: self.achieved.clone(), round, file };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work.run()).map(
            move |(achieved, error), router, ctx| {
                router.busy = false;
                router.achieved = achieved;
                if router.life != life {
                    router.forget();
                }
                router.tell();
                router.settle(ctx);
                match error {
                    None => {
                        router.failures = 0;
                        router.advance(ctx);
                    }
                    Some(error) => router.wait(&error, ctx),
                }
            },
        ));
    }

    /// A round that failed is tried again, later and later: the server may be down for long.
    fn wait(&mut self, error: &str, ctx: &mut Context<Self>) {
        if self.failures == 0 || self.told != error {
            tracing::warn!(node = %self.ports.node, error, "routes are not up to date: trying again");
            error.clone_into(&mut self.told);
        }
        self.waiting = true;
        let wait = Duration::from_millis(backoff_ms(self.failures).min(3_000));
        self.failures += 1;
        ctx.run_later(wait, |router, ctx| {
            router.waiting = false;
            router.advance(ctx);
        });
    }

    /// Looks at the running queries until every one from before the newest epoch has ended.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        if !self.settling.is_open(&self.achieved.epochs) || std::mem::replace(&mut self.looking, true) {
            return;
        }
        // One chain of looks: this one takes the place of that which was to come.
        self.look_again.take().map(|later| ctx.cancel_future(later));
        let (server, loaded, life) = (self.ports.clickhouse.clone(), self.achieved.epochs.clone(), self.life);
        let look = async move { server.running_queries().await };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(look).map(move |running, router, ctx| {
            router.looking = false;
            // What was loaded before the look is what the look is about; a server that does not answer is asked again.
            if let Ok(running) = running
                && router.life == life
                && router.settling.look(&loaded, &running)
            {
                router.tell();
            }
            let wait = Duration::from_millis(SETTLE_EVERY_MS);
            router.look_again = Some(ctx.run_later(wait, |router, ctx| {
                router.look_again = None;
                router.settle(ctx);
            }));
        }));
    }

    /// Whether the file is still as it was written: whoever manages the machine's configuration may have removed it or
    /// put an older one in its place, which the server reads by itself.
    fn check(&mut self, ctx: &mut Context<Self>) {
        if self.busy || self.waiting || self.covered.is_none() {
            return;
        }
        let (routes, file, life) = (self.ports.routes.clone(), self.file.clone(), self.life);
        let read = async move { routes.read().await };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(read).map(move |present, router, ctx| {
            let meanwhile = router.busy || router.life != life || router.file != file;
            // One that cannot be read now is looked at again.
            if meanwhile || present.map_or(true, |present| present == file) {
                return;
            }
            tracing::warn!(node = %router.ports.node, "the routes file is not what was written: writing it again");
            router.life += 1;
            router.forget();
            router.tell();
            router.advance(ctx);
        }));
    }

    /// Nothing is known of what the server has loaded and made.
    fn forget(&mut self) {
        self.covered = None;
        self.achieved.keep_loaded(|_| false);
        self.settling.forget();
        self.achieved.distributed.clear();
    }

    fn tell(&self) {
        if let Some(agent) = &self.agent {
            agent.do_send(RoutesStand {
                epochs: self.achieved.epochs.clone(),
                settled: self.settling.settled.clone(),
                undistributed: self.achieved.undistributed.clone(),
                problems: self.achieved.problems.clone(),
            });
        }
    }
}

/// One round under way.
struct Work {
    ports: NodePorts,
    achieved: Achieved,
    round: Round,
    file: Arc<str>,
}

impl Work {
    async fn run(mut self) -> (Achieved, Option<String>) {
        let result = self.steps().await;
        (self.achieved, result.err())
    }

    async fn steps(&mut self) -> Result<(), String> {
        // A dropped table's leftovers must not keep the others' routes from their users.
        let undistributed = self.undistribute().await;
        let stale = |table: &&Arc<Routed>| !self.achieved.loaded(table);
        let stale: Vec<TableId> =
            self.round.routes.iter().filter(stale).map(|table| table.routes.table).collect();
        if let Err(error) = self.publish().await {
            self.achieved.problems.extend(stale.into_iter().map(|table| (table, error.clone())));
            return Err(error);
        }
        self.distribute().await.and(undistributed)
    }

    async fn undistribute(&mut self) -> Result<(), String> {
        let mut first_error = None;
        self.achieved.undistributed.retain(|id| self.round.undistribute.contains_key(id));
        for (id, (name, cluster)) in &self.round.undistribute {
            if self.achieved.undistributed.contains(id) {
                continue;
            }
            match self.ports.clickhouse.drop_distributed(name, cluster).await {
                Ok(()) => {
                    self.achieved.distributed.remove(id);
                    self.achieved.undistributed.insert(*id);
                }
                Err(error) => {
                    first_error.get_or_insert(error.told());
                    if matches!(error, clickhouse::Error::Unreachable { .. }) {
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn publish(&mut self) -> Result<(), String> {
        let present = self.ports.routes.read().await.map_err(|e| e.told())?;
        state::known(present.as_deref().unwrap_or_default(), &self.round, &self.achieved)
            .map_err(|e| e.told())?;
        let same = |present: Arc<str>| Arc::ptr_eq(&present, &self.file) || present == self.file;
        let changed = !present.is_some_and(same);
        if changed {
            self.ports.routes.replace(&self.file).await.map_err(|e| e.told())?;
        }
        let routes = std::mem::take(&mut self.round.routes);
        self.achieved.keep_loaded(|id| routes.iter().any(|table| table.routes.table == *id));
        let stale: Vec<&Arc<Routed>> = routes.iter().filter(|table| !self.achieved.loaded(table)).collect();
        if changed || !stale.is_empty() {
            self.ports.clickhouse.reload_config().await.map_err(|e| e.told())?;
        }
        for table in stale {
            self.read_back(table).await?;
            self.achieved.load(table);
            let (name, epoch) = (&table.routes.name, table.routes.epoch);
            tracing::info!(node = %self.ports.node, table = %name, %epoch, "routes loaded");
        }
        self.round.routes = routes;
        Ok(())
    }

    /// Waits until the server shows the topology: only then is the epoch acknowledged.
    async fn read_back(&self, table: &Routed) -> Result<(), String> {
        for (cluster, expected) in &table.expected {
            let mut tries = 0;
            loop {
                let shown = self.ports.clickhouse.cluster(cluster).await.map_err(|e| e.told())?;
                if *shown == *expected {
                    break;
                }
                tries += 1;
                if tries > READ_BACKS_MAX {
                    return Err(format!(
                        "the server does not show cluster {cluster} as written after a reload; is the \
                        routes file in its config.d folder?"
                    ));
                }
                tokio::time::sleep(Duration::from_millis(READ_BACK_MS)).await;
            }
        }
        Ok(())
    }

    /// One table's conflict must not keep the others from their users.
    async fn distribute(&mut self) -> Result<(), String> {
        let mut first_error = None;
        let wanted: BTreeMap<TableId, &Shared<DistributedTable>> =
            self.round.routes.iter().map(|table| (table.routes.table, &table.distributed)).collect();
        self.achieved.distributed.retain(|id, _| wanted.contains_key(id));
        self.achieved.problems.clear();
        for (id, table) in wanted {
            if self.achieved.distributed.get(&id) == Some(table) {
                continue;
            }
            match self.ports.clickhouse.create_distributed(table).await {
                Ok(()) => {
                    self.achieved.distributed.insert(id, table.clone());
                }
                Err(error) => {
                    self.achieved.problems.insert(id, error.told());
                    first_error.get_or_insert(error.told());
                    if matches!(error, clickhouse::Error::Unreachable { .. }) {
                        break;
                    }
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }
}

impl Actor for Router {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(Duration::from_millis(CHECK_EVERY_MS), Self::check);
        self.advance(ctx);
    }
}

impl Handler<ViewChanged> for Router {
    type Result = ();
    fn handle(&mut self, _: ViewChanged, ctx: &mut Context<Self>) {
        self.advance(ctx);
    }
}

impl Handler<Introduce> for Router {
    type Result = ();
    fn handle(&mut self, Introduce(agent): Introduce, _: &mut Context<Self>) {
        self.agent = Some(agent);
        self.tell();
    }
}

impl Handler<ServerSeen> for Router {
    type Result = ();
    /// What a restarted server loaded is looked at again: its disk may have been replaced.
    fn handle(&mut self, seen: ServerSeen, ctx: &mut Context<Self>) {
        if seen.restarted {
            self.life += 1;
            self.forget();
        }
        self.advance(ctx);
    }
}
