//! The agent: makes one node what the metadata store says, and reports what it sees.
//!
//! Starts and stops replicas, removes what is left over, records offsets in Kafka in batches, and sends one
//! heartbeat for the whole node. It decides nothing about the cluster.

mod gauges;
pub mod heartbeat;
pub mod lanes;
pub mod lineage;
mod outlived;
mod part;
mod positions;
mod queue;
pub mod reconcile;
mod refresh;
mod sight;

use super::Options;
use super::mirror::{View, ViewChanged};
use super::node_ports::NodePorts;
use super::replica::handover::Stands;
use super::replica::{Adjust, LookAgain, ReplicaActor, StopReplica};
use super::router::{Router, ServerSeen};
use crate::adapters::clickhouse::{self, ClickHouse, ReplicaSizes, ServerInfo};
use crate::adapters::kafka::Committed;
use crate::error::Coded;
use crate::model::ids::{Epoch, ShardId, TableId};
use crate::model::ingest;
use crate::model::names::{self, TopicPartition};
use crate::model::observed::{Heartbeat, ReplicaObservation, Seeding};
use crate::model::shared::Shared;
use crate::model::table::TableState;
use actix::prelude::*;
use lanes::Lanes;
use lineage::{Lineage, Stage};
use positions::Positions;
use queue::Queue;
use reconcile::{Found, Place, Wanted};
use sight::{Counted, Sight};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::time::Duration;
use tokio::sync::oneshot;

/// From a replica to its agent.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromReplica {
    /// Its table.
    pub table: TableId,
    /// Its shard.
    pub shard: ShardId,
    /// What.
    pub news: ReplicaNews,
}

/// What a replica tells.
pub enum ReplicaNews {
    /// How it stands.
    Observed(ReplicaObservation),
    /// A position to be recorded in Kafka, soon.
    Commit(TopicPartition, Committed),
    /// It has no local table yet.
    Unseeded,
    /// It has linked what its parents hold, and waits for them to stop, and to tell where they stand.
    Linked(oneshot::Sender<Stands>),
    /// Its history is being copied.
    Seeding(Seeding),
    /// Its local table is whole.
    Seeded,
}

/// From the router: what its server's clusters and `Distributed` tables are now.
#[derive(Message, Debug, Clone, Default)]
#[rtype(result = "()")]
pub struct RoutesStand {
    /// Newest topology loaded, by table.
    pub epochs: BTreeMap<TableId, Epoch>,
    /// The newest that no running query began before, by table.
    pub settled: BTreeMap<TableId, Epoch>,
    /// Tables being dropped that the server's users no longer see.
    pub undistributed: BTreeSet<TableId>,
    /// Why a table's user-facing tables cannot be made.
    pub problems: BTreeMap<TableId, String>,
}

/// A look that failed sooner than this is repeated after as long, before the server counts as down.
const DOUBTED_MS: u64 = 300;

async fn look_at(server: &dyn ClickHouse) -> Result<Seen, clickhouse::Error> {
    let info = server.server_info().await?;
    let sizes = server.sizes().await?;
    let databases = server.replica_databases().await?;
    Ok((info, sizes, databases))
}

/// A look at the server: itself, sizes by database, our databases on it.
type Seen = (ServerInfo, Shared<BTreeMap<String, ReplicaSizes>>, Shared<Vec<String>>);

pub(super) struct Running {
    wanted: Wanted,
    /// Its database on the server.
    database: String,
    pub(super) address: Addr<ReplicaActor>,
    /// It is about to stop for its halves.
    parting: bool,
}

/// The actor.
pub struct Agent {
    ports: NodePorts,
    options: Options,
    view: View,
    pub(super) lanes: Lanes,
    partitions: u32,
    router: Addr<Router>,
    pub(super) running: BTreeMap<Place, Running>,
    /// What is known of the node.
    sight: Counted<Sight>,
    /// What was last told of it, at which count of its changes and which revision of the view.
    told: Option<(u64, i64, Shared<Heartbeat>)>,
    shown: gauges::Shown,
    named: gauges::Named,
    lineage: Lineage,
    positions: Positions,
    committing: bool,
    refresh_at_ms: Option<u64>,
    probing: bool,
    /// Whether it was told that the server's disks are out of the daemon's reach.
    unsynced: bool,
    /// The replica database that is being removed.
    cleaning: Option<String>,
    /// The view's revision at which nothing was left to be removed, while nothing else has changed.
    clean_at: Option<i64>,
    beating: bool,
    queue: Queue,
    /// The revision of the view that what runs was last held against.
    reconciled: Option<i64>,
}

impl Agent {
    /// The agent of the node of these ports.
    pub fn new(ports: NodePorts, options: Options, view: View, lanes: Lanes, router: Addr<Router>) -> Self {
        Self {
            ports,
            options,
            view,
            lanes,
            partitions: 0,
            router,
            running: BTreeMap::new(),
            sight: Counted::default(),
            told: None,
            shown: gauges::Shown::new(),
            named: gauges::Named::new(),
            lineage: Lineage::default(),
            positions: Positions::default(),
            committing: false,
            refresh_at_ms: None,
            probing: false,
            unsynced: false,
            cleaning: None,
            clean_at: None,
            beating: false,
            queue: Queue::default(),
            reconciled: None,
        }
    }

    /// Starts what should run, stops what should not; a replica that died is made anew.
    fn reconcile(&mut self, ctx: &mut Context<Self>) {
        let mut parting = Vec::new();
        let wanted = {
            let view = self.view.read();
            if !view.complete {
                return;
            }
            self.reconciled = Some(view.revision);
            let mut wanted = reconcile::wanted(&view, &self.ports.node);
            self.lineage.retain(|place| wanted.contains_key(place));
            let runs = |place: &Place| self.running.contains_key(place);
            wanted.retain(|place, _| {
                let (runs, node) = (runs(place), &self.ports.node);
                let may_run = self.lineage.may_run(&view, node, *place, runs);
                parting.extend((runs && !may_run).then_some(*place));
                may_run
            });
            wanted
        };
        self.part(parting, ctx);
        let node = &self.ports.node;
        let stale = |(place, running): (&Place, &Running)| {
            let other = |wanted: &Wanted| reconcile::outdated(node, &running.wanted, wanted);
            let gone = !running.parting && wanted.get(place).is_none_or(other);
            (gone || !running.address.connected()).then_some(*place)
        };
        for place in self.running.iter().filter_map(stale).collect::<Vec<_>>() {
            self.stop(place);
        }
        self.make_room(&wanted);
        self.lineage.release(&self.view.read(), |place| self.running.contains_key(place));
        for (place, wanted) in wanted {
            if let Some(running) = self.running.get_mut(&place) {
                running.wanted = wanted;
            } else if !self.is_removing(&wanted) {
                let running = self.start_replica(wanted, ctx);
                self.running.insert(place, running);
                self.lineage.goes_on(place);
                self.sight.change();
            }
        }
    }

    /// Whether an earlier copy's database of that name is just being removed: the new one would go with it.
    fn is_removing(&self, wanted: &Wanted) -> bool {
        let (table, shard) = (&wanted.table, wanted.shard.record.id);
        self.cleaning
            .as_ref()
            .is_some_and(|name| *name == names::replica_database(&table.name, table.id, shard))
    }

    /// Lanes and batches follow what the node holds.
    fn make_room(&mut self, wanted: &BTreeMap<Place, Wanted>) {
        let held = reconcile::held(wanted);
        let options = &self.options;
        let lanes =
            ingest::lanes(held.values().copied(), options.daily_bytes_per_partition, options.lanes_max);
        if let Err(error) = self.lanes.widen(lanes) {
            tracing::warn!(node = %self.ports.node, %error, code = %error.code(), "no further Kafka lane can be made");
        }
        let partitions = held.values().map(|held| held.partitions).sum();
        if std::mem::replace(&mut self.partitions, partitions) != partitions {
            for running in self.running.values() {
                let limits = self.options.limits(&running.wanted.table.source.batch, partitions);
                running.address.do_send(Adjust(limits));
            }
        }
    }

    fn start_replica(&self, wanted: Wanted, ctx: &mut Context<Self>) -> Running {
        let limits = self.options.limits(&wanted.table.source.batch, self.partitions);
        let (ports, lanes) = (self.ports.clone(), self.lanes.readers().to_vec());
        let news = ctx.address().recipient();
        let (view, table) = (self.view.clone(), wanted.table.clone());
        let actor = ReplicaActor::new(ports, view, table, &wanted.shard.record, limits, lanes, news);
        let database = names::replica_database(&wanted.table.name, wanted.table.id, wanted.shard.record.id);
        Running { address: actor.start(), database, parting: false, wanted }
    }

    /// A replica is further with its history: its parents may have to stop, or may go on.
    fn staged(&mut self, place: Place, stage: Stage, ctx: &mut Context<Self>) {
        self.lineage.put(place, stage);
        self.clean_at = None;
        self.reconcile(ctx);
    }

    /// Looks at the server: is it up, was it restarted, how big is what it holds.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.probing, true) {
            return;
        }
        let (server, clock) = (self.ports.clickhouse.clone(), self.ports.clock.clone());
        let look = async move {
            let began_ms = clock.now_ms();
            let first = look_at(server.as_ref()).await;
            if first.is_ok() || clock.now_ms() - began_ms > DOUBTED_MS {
                return first;
            }
            // One lost connection is not yet a server that is down: leaderships and routes depend on this.
            tokio::time::sleep(Duration::from_millis(DOUBTED_MS)).await;
            look_at(server.as_ref()).await
        };
        self.then(ctx, look, |agent, seen, ctx| {
            agent.probing = false;
            agent.seen(seen, ctx);
        });
    }

    fn seen(&mut self, seen: Result<Seen, clickhouse::Error>, ctx: &mut Context<Self>) {
        let (was_up, was) = (self.sight.up, self.sight.server.as_ref().map(|server| server.uptime_s));
        self.sight.answered(seen.as_ref().map(|seen| seen.0.clone()).map_err(Coded::told));
        self.ports.metrics.clickhouse_up(self.ports.node.as_str()).set(i64::from(self.sight.up));
        match seen {
            Ok((info, sizes, databases)) => {
                // One that came up again right after it was last asked has been up for as long as it had then.
                let gone = self.gone(&databases);
                let restarted = was.is_some_and(|before| info.uptime_s < before) || !gone.is_empty();
                self.sight.no_longer_serve(&gone);
                self.sight.holds(sizes);
                self.sight.looked();
                if self.sight.databases.as_ref() != Some(&databases) {
                    self.sight.change().databases = Some(databases);
                    self.clean_at = None;
                }
                if restarted {
                    tracing::warn!(node = %self.ports.node, "ClickHouse was restarted: looking at every replica again");
                    self.running.values().for_each(|running| running.address.do_send(LookAgain));
                }
                if restarted || !was_up {
                    self.sweep(ctx);
                    self.router.do_send(ServerSeen { restarted });
                }
                self.clean_up(ctx);
            }
            Err(error) if was_up => {
                tracing::warn!(node = %self.ports.node, %error, code = %error.code(), "ClickHouse does not answer");
            }
            Err(_) => {}
        }
    }

    /// Replicas that run and whose databases the server had when it was last asked, and has no more.
    fn gone(&self, databases: &Shared<Vec<String>>) -> Vec<Place> {
        let Some(before) = self.sight.databases.as_ref().filter(|before| *before != databases) else {
            return Vec::new();
        };
        let [before, now]: [BTreeSet<&String>; 2] = [before.iter().collect(), databases.iter().collect()];
        let is_gone =
            |running: &Running| before.contains(&running.database) && !now.contains(&running.database);
        self.running.iter().filter(|(_, running)| is_gone(running)).map(|(place, _)| *place).collect()
    }

    /// Clears away what copies by parts of an earlier run, of this daemon or of the server, have left on its disks.
    fn sweep(&self, ctx: &mut Context<Self>) {
        let server = self.ports.clickhouse.clone();
        self.then(ctx, async move { server.sweep_parts().await }, |agent, swept, _| {
            if let Err(error) = swept {
                tracing::info!(node = %agent.ports.node, %error, "leftovers of copies are not looked for");
            }
        });
    }

    /// Removes replica databases that are assigned elsewhere or whose table is being dropped, one at a time.
    fn clean_up(&mut self, ctx: &mut Context<Self>) {
        let revision = self.view.read().revision;
        if self.cleaning.is_some() || self.clean_at == Some(revision) {
            return;
        }
        let Some(database) = self.left_over() else {
            self.clean_at = Some(revision);
            return;
        };
        self.cleaning = Some(database.clone());
        tracing::info!(node = %self.ports.node, %database, "removing a replica that is no longer assigned here");
        let linked = outlived::was_linked(&self.view.read(), &self.ports.node, &database);
        let work = outlived::remove(self.ports.clickhouse.clone(), database.clone(), linked);
        self.then(ctx, work, move |agent, (unseen, result), ctx| {
            (agent.cleaning, agent.clean_at) = (None, None);
            if let Some(why) = unseen.filter(|_| !std::mem::replace(&mut agent.unsynced, true)) {
                tracing::warn!(node = %agent.ports.node, why,
                    "when what was linked for a split is safe on the disk is left to the server");
            }
            match result {
                Ok(()) => {
                    agent
                        .sight
                        .change()
                        .databases
                        .iter_mut()
                        .for_each(|all| all.retain(|one| *one != database));
                    agent.clean_up(ctx);
                }
                Err(error) => tracing::warn!(%database, %error, "could not remove it: trying again"),
            }
            // It may be wanted here again.
            agent.reconcile(ctx);
        });
    }

    fn left_over(&self) -> Option<String> {
        let view = self.view.read();
        if !view.complete {
            return None;
        }
        let left = |database: &&String| match reconcile::judge(&view, &self.ports.node, database) {
            Found::Left(id, shard) => {
                let dropping = view.tables.get(&id).is_some_and(|t| t.record.state == TableState::Dropping);
                let routes = &self.sight.routes;
                let needed = || self.lineage.is_needed(&view, &self.ports.node, id, shard);
                match dropping {
                    // Users must not see a Distributed table whose shards are gone.
                    true => routes.undistributed.contains(&id),
                    // A topology that this node has loaded: so the store is not one that was restored from before it.
                    false => routes.epochs.contains_key(&id) && !needed(),
                }
            }
            Found::Kept | Found::Foreign => false,
        };
        self.sight.databases.iter().flat_map(|all| all.iter()).find(left).cloned()
    }

    fn then<T: 'static>(
        &self,
        ctx: &mut Context<Self>,
        work: impl Future<Output = T> + 'static,
        after: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(after_swapped(after)));
    }

    /// Re-armed after each round rather than by an interval, so that a slow round is never followed by a burst.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.lanes.broken() {
            tracing::error!(node = %self.ports.node, "a lane's actor died: this daemon must be started anew");
            ctx.stop();
            return;
        }
        let died = self.running.values().any(|running| !running.address.connected());
        if died || self.reconciled != Some(self.view.read().revision) {
            self.reconcile(ctx);
        }
        self.probe(ctx);
        self.ask_kafka(ctx);
        self.commit(ctx);
        self.refresh(ctx);
        self.beat(ctx);
        ctx.run_later(Duration::from_millis(self.options.tick_ms), |agent, ctx| agent.tick(ctx));
    }
}

fn after_swapped<T: 'static>(
    after: impl FnOnce(&mut Agent, T, &mut Context<Agent>) + 'static,
) -> impl FnOnce(T, &mut Agent, &mut Context<Agent>) {
    move |out, agent, ctx| after(agent, out, ctx)
}

impl Actor for Agent {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tick(ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.running.values().for_each(|running| running.address.do_send(StopReplica));
    }
}

impl Handler<ViewChanged> for Agent {
    type Result = ();
    fn handle(&mut self, ViewChanged(touched): ViewChanged, ctx: &mut Context<Self>) {
        let same = {
            let (view, node) = (self.view.read(), &self.ports.node);
            let runs = |table: TableId| {
                let places = (table, ShardId(0))..=(table, ShardId(u32::MAX));
                self.running.range(places).map(|(_, running)| &running.wanted)
            };
            touched.tables.iter().all(|table| reconcile::same(&view, node, *table, runs(*table)))
        };
        if !same {
            self.reconcile(ctx);
        }
    }
}

impl Handler<FromReplica> for Agent {
    type Result = ();
    fn handle(&mut self, FromReplica { table, shard, news }: FromReplica, ctx: &mut Context<Self>) {
        let place = (table, shard);
        if !self.running.contains_key(&place) {
            return; // stopped meanwhile
        }
        match news {
            ReplicaNews::Observed(observation) => {
                // What the leader may be waiting for is told at once.
                if self.sight.observe(place, observation) {
                    self.beat(ctx);
                }
            }
            ReplicaNews::Seeding(seeding) => {
                self.sight.change().seeding.insert(place, seeding);
            }
            ReplicaNews::Unseeded => self.staged(place, Stage::Unseeded, ctx),
            ReplicaNews::Linked(stopped) => self.staged(place, Stage::Linked(stopped), ctx),
            ReplicaNews::Seeded => {
                self.sight.change().seeding.remove(&place);
                self.staged(place, Stage::Seeded, ctx);
            }
            ReplicaNews::Commit(source, committed) => self.positions.put(place, source, committed),
        }
    }
}

impl Handler<RoutesStand> for Agent {
    type Result = ();
    fn handle(&mut self, stand: RoutesStand, ctx: &mut Context<Self>) {
        self.sight.change().routes = stand;
        self.clean_at = None;
        self.clean_up(ctx);
        self.beat(ctx);
    }
}
