//! Actors: thin shells round pure states. [`spawn`] is the one wiring, for the daemon, the demo, tests and the
//! simulator alike.
//!
//! ```text
//!            Mirror ── view ──┬── Leadership ── Coordinator ──┬── TableActor per table
//!                             │   (lease, term)  (leader half) ├── NodeActor per node
//!                             │                                └── PlacementActor
//!                             ├── Agent per local node ── ReplicaActor per replica ── LaneReader per lane
//!                             └── Router per local node
//! ```
//! No actor knows a wall clock, a socket or a file: everything outside comes in through [`World`].

pub mod agent;
pub mod balance;
pub mod daemon;
pub mod insert;
pub mod lane_reader;
pub mod leader;
pub mod leadership;
pub mod mirror;
pub mod node;
pub mod node_ports;
pub mod placement;
pub mod replica;
pub mod router;
pub mod table;
pub mod throttle;
pub mod verify;
#[cfg(test)]
mod warden_tests;

use crate::adapters::clickhouse::ClickHouse;
use crate::adapters::clock::Clock;
use crate::adapters::kafka::Kafka;
use crate::adapters::machine::Boot;
use crate::adapters::metadata::MetaStore;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::offload::Offload;
use crate::adapters::peers::{Daemon, Peers};
use crate::adapters::recording::Recording;
use crate::adapters::routes::RoutesFile;
use crate::error::Coded as _;
use crate::model::Node;
use crate::model::balance::BalanceRules;
use crate::model::routes::RouteGroup;
use crate::model::table::{BatchLimits, Publisher};
use crate::model::{ingest, names};
use crate::telemetry::Metrics;
use actix::prelude::*;
use agent::Agent;
use agent::lanes::Lanes;
use daemon::{Beside, LocalDaemon};
use leader::observed::{Observed, Seen};
use leader::{Coordinator, Lead};
use leadership::{Candidate, Leadership, Resign, Seat};
use mirror::made::MadeViews;
use mirror::{Mirror, Observe, View};
use node_ports::{InsertRoom, NodePorts};
use router::made::MadeRoutes;
use router::{Introduce, Router};
use std::sync::{Arc, OnceLock};
use table::decide::Rules;
use throttle::Throttle;
use tokio::sync::Semaphore;

/// Numbers that an operator may set; defaults suit a cluster of ordinary machines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Length of the daemon's lease: the time after which others take over from one that died.
    pub lease_ttl_ms: u64,
    /// How often an agent looks round (probe, commits, heartbeat), and the leader at everything.
    pub tick_ms: u64,
    /// Consumers (lanes) that a node runs at most; how many it needs follows from what it holds (H7).
    pub lanes_max: u32,
    /// Volume of one partition a day, by which consumers are counted.
    pub daily_bytes_per_partition: u64,
    /// Inserts that may run at once on a node's server.
    pub inserts_at_once: u32,
    /// How long an insert may take before its outcome counts as unknown.
    pub insert_deadline_ms: u64,
    /// Replicas that may be copied to a node at once.
    pub copies_at_once: u32,
    /// Bytes a second that copies may bring to a node, and as many that they may take from it; 0 is no limit.
    pub transfer_bytes_per_s: u64,
    /// Bytes a second that all copies of the cluster may move together; 0 is no limit.
    pub cluster_transfer_bytes_per_s: u64,
    /// Inserts a second that a node's server should have to take; batches grow older to keep to it.
    pub inserts_per_s: u32,
    /// How old batches grow for that at most.
    pub batch_age_max_ms: u64,
    /// What a node holds in memory between Kafka and its server, in bytes, over all its partitions: half for messages
    /// that wait or are inserted, a quarter for rows being sent, a quarter for what its lanes have fetched.
    pub buffer_bytes: u64,
    /// Copies of a new topic on brokers, where the request does not say; -1 is the brokers' default.
    pub topic_replication: i32,
    /// The leader's rules.
    pub rules: Rules,
    /// The balancer's.
    pub balance: BalanceRules,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lease_ttl_ms: 5_000,
            tick_ms: 1_000,
            lanes_max: 4,
            daily_bytes_per_partition: 36_000_000_000,
            inserts_at_once: 4,
            insert_deadline_ms: 60_000,
            copies_at_once: 2,
            transfer_bytes_per_s: 0,
            cluster_transfer_bytes_per_s: 0,
            inserts_per_s: 50,
            batch_age_max_ms: 10_000,
            buffer_bytes: 384 << 20,
            topic_replication: -1,
            rules: Rules::default(),
            balance: BalanceRules::default(),
        }
    }
}

/// No partition's share of the memory is smaller: where that comes to more than there is, lanes wait for room.
const BATCH_MIN_BYTES: u64 = 256 << 10;

impl Options {
    /// When a batch is due on a node that holds so many partitions: within the table's limits, the node's memory,
    /// and old enough that all partitions together keep to the inserts a second.
    pub fn limits(&self, table: &BatchLimits, partitions_on_node: u32) -> replica::Limits {
        let partitions = u64::from(partitions_on_node.max(1));
        // A partition has a batch that is inserted and the next one, which waits.
        let share = (self.buffer_bytes / 2 / partitions / 2).max(BATCH_MIN_BYTES);
        let bytes_max = u64::from(table.bytes_max).min(share);
        replica::Limits {
            messages_max: table.rows_max as usize,
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            age_max_ms: ingest::batch_age_ms(
                table.age_max_ms,
                partitions_on_node,
                self.inserts_per_s,
                self.batch_age_max_ms,
            ),
        }
    }
}

/// A ClickHouse server beside this daemon.
#[derive(Clone)]
pub struct LocalNode {
    /// As it registers itself.
    pub node: Node,
    /// The server.
    pub clickhouse: Arc<dyn ClickHouse>,
    /// Its generated cluster file.
    pub routes: Arc<dyn RoutesFile>,
}

/// What several daemons of one process need only make once. A daemon by itself has it to itself.
#[derive(Clone, Default)]
pub struct Made {
    /// Views; none are kept by a daemon that is alone.
    pub views: Option<MadeViews>,
    /// Routes and cluster files.
    pub routes: MadeRoutes,
}

/// Everything outside that a daemon's actors need.
#[derive(Clone)]
pub struct World {
    /// Cluster name.
    pub cluster: String,
    /// How other daemons reach this one.
    pub daemon_url: String,
    /// Where this daemon's ClickHouse servers send inserted rows (`http://host:port`); `None` for no insert tables.
    pub insert_base_url: Option<String>,
    /// Distinguishes this run of the daemon from the next.
    pub incarnation: u64,
    /// This start of the machine that daemon and servers run on, if it tells.
    pub boot: Option<Boot>,
    /// The metadata store.
    pub store: Arc<dyn MetaStore>,
    /// What daemons of this process that follow the same store have made already.
    pub made: Made,
    /// The message queue.
    pub kafka: Arc<dyn Kafka>,
    /// The other daemons.
    pub peers: Arc<dyn Peers>,
    /// Time and random numbers.
    pub clock: Arc<dyn Clock>,
    /// Where long computations run.
    pub solver: Arc<dyn Offload>,
    /// Counters.
    pub metrics: Metrics,
    /// Servers; one in cluster mode, several in standalone mode.
    pub nodes: Vec<LocalNode>,
    /// Route groups beside each table's own cluster (H1).
    pub groups: Vec<RouteGroup>,
    /// Numbers.
    pub options: Options,
}

/// The other daemons, and this one without a detour.
#[derive(Clone)]
pub struct Neighbours {
    peers: Arc<dyn Peers>,
    own_url: String,
    own: Arc<OnceLock<Arc<dyn Daemon>>>,
}

impl Neighbours {
    /// This daemon's own address.
    pub fn own_url(&self) -> &str {
        &self.own_url
    }

    /// The daemon at that address.
    pub fn daemon(&self, url: &str) -> Arc<dyn Daemon> {
        match self.own.get() {
            Some(own) if url == self.own_url => own.clone(),
            _ => self.peers.daemon(url),
        }
    }
}

/// Where a leader's trace goes.
pub type Recorder = Arc<dyn Recording>;

/// A daemon's actors, running.
pub struct Running {
    /// Its verbs.
    pub daemon: Arc<dyn Daemon>,
    /// What it knows of the store.
    pub view: View,
    leadership: Addr<Leadership>,
    mirror: Addr<Mirror>,
    beside: Vec<(Addr<Agent>, Addr<Router>)>,
}

impl Running {
    /// Whether all of the daemon's root actors live. If one died, the process should end and be started anew:
    /// everything is level-triggered, so a fresh start from the store is the one way back that is always right.
    pub fn healthy(&self) -> bool {
        let beside = self.beside.iter().all(|(agent, router)| agent.connected() && router.connected());
        self.leadership.connected() && self.mirror.connected() && beside
    }

    /// Gives up leadership and lease. Inserts under way end as they will: the next run looks before it inserts.
    pub async fn stop(self) {
        // A daemon that has died has nothing to give up.
        let _ = self.leadership.send(Resign).await;
    }
}

/// Why actors could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start: {0}")]
pub struct SpawnError(String);

/// Starts a daemon's actors. Must be called within an actix System.
pub fn spawn(world: World) -> Result<Running, SpawnError> {
    spawn_recorded(world, None)
}

/// The same; while it leads, a trace of the cluster goes to `recording`, if there is one.
pub fn spawn_recorded(world: World, recording: Option<Recorder>) -> Result<Running, SpawnError> {
    let first = world.nodes.first().ok_or_else(|| SpawnError("no node is configured".into()))?.clone();
    let keys = Keys::new(&world.cluster);
    let view = View::default();
    let seat = Seat::default();
    let (store, metrics) = (world.store.clone(), world.metrics.clone());
    let mirror = Mirror::new(store, keys.clone(), view.clone(), metrics, world.made.views.clone()).start();
    let neighbours = Neighbours {
        peers: world.peers.clone(),
        own_url: world.daemon_url.clone(),
        own: Arc::new(OnceLock::new()),
    };
    let daemon: Arc<dyn Daemon> = Arc::new(LocalDaemon {
        cluster: world.cluster.clone(),
        url: world.daemon_url.clone(),
        view: view.clone(),
        seat: seat.clone(),
        neighbours: neighbours.clone(),
        clickhouse: first.clickhouse.clone(),
        kafka: world.kafka.clone(),
        groups: world.groups.clone(),
        clock: world.clock.clone(),
        nodes: world.nodes.iter().map(|local| (local.node.id.clone(), beside(&world, local))).collect(),
    });
    // Set once, here.
    let _ = neighbours.own.set(daemon.clone());
    let mut beside_nodes = Vec::new();
    for local in &world.nodes {
        beside_nodes.push(spawn_node(&world, local, &view, &neighbours, &mirror)?);
    }
    let candidate = Candidate {
        store: world.store.clone(),
        keys: keys.clone(),
        view: view.clone(),
        clock: world.clock.clone(),
        incarnation: world.incarnation,
        daemon_url: world.daemon_url.clone(),
        nodes: world.nodes.iter().map(|local| local.node.clone()).collect(),
        lease_ttl_ms: world.options.lease_ttl_ms,
    };
    let crown = crown(&world, neighbours, keys, view.clone(), recording);
    let leadership = Leadership::new(candidate, seat, crown, world.metrics.clone()).start();
    mirror.do_send(Observe(leadership.clone().recipient()));
    Ok(Running { daemon, view, leadership, mirror, beside: beside_nodes })
}

fn beside(world: &World, local: &LocalNode) -> Beside {
    let sends = Throttle::new(world.clock.clone(), world.options.transfer_bytes_per_s);
    Beside { clickhouse: local.clickhouse.clone(), sends }
}

fn spawn_node(
    world: &World,
    local: &LocalNode,
    view: &View,
    neighbours: &Neighbours,
    mirror: &Addr<Mirror>,
) -> Result<(Addr<Agent>, Addr<Router>), SpawnError> {
    let options = &world.options;
    let id = local.node.id.clone();
    let ports = NodePorts {
        node: id.clone(),
        cluster: world.cluster.clone(),
        incarnation: world.incarnation,
        boot: world.boot,
        group: names::consumer_group(&world.cluster, &id),
        clickhouse: local.clickhouse.clone(),
        kafka: world.kafka.clone(),
        clock: world.clock.clone(),
        routes: local.routes.clone(),
        metrics: world.metrics.clone(),
        insert_deadline_ms: options.insert_deadline_ms,
        inserts: InsertRoom::new(options.inserts_at_once, options.buffer_bytes / 4),
        recoveries: Arc::new(Semaphore::new(8)),
        copies: Arc::new(Semaphore::new(options.copies_at_once.max(1) as usize)),
        copies_max: u64::from(options.copies_at_once.max(1)),
        takes: Throttle::new(world.clock.clone(), options.transfer_bytes_per_s),
        cluster_bytes_per_s: options.cluster_transfer_bytes_per_s,
        neighbours: neighbours.clone(),
    };
    // The first lane is made here, so that settings which Kafka's client refuses end the start, with the reason.
    let mut lanes = Lanes::new(world.kafka.clone(), &id);
    lanes.widen(1).map_err(|error| SpawnError(error.told()))?;
    let (groups, insert_url) = (world.groups.clone(), world.insert_base_url.clone());
    let made = world.made.routes.clone();
    let router = Router::new(ports.clone(), view.clone(), made, groups, insert_url).start();
    let agent = Agent::new(ports, options.clone(), view.clone(), lanes, router.clone());
    let agent = agent.start();
    router.do_send(Introduce(agent.clone()));
    mirror.do_send(Observe(agent.clone().recipient()));
    mirror.do_send(Observe(router.clone().recipient()));
    Ok((agent, router))
}

fn crown(
    world: &World,
    neighbours: Neighbours,
    keys: Keys,
    view: View,
    recording: Option<Recorder>,
) -> leadership::Crown {
    let world = world.clone();
    Box::new(move |term| {
        let lead = Lead {
            cluster: world.cluster.clone(),
            term,
            publisher: Publisher(world.incarnation),
            store: world.store.clone(),
            keys: keys.clone(),
            view: view.clone(),
            observed: Observed::default(),
            neighbours: neighbours.clone(),
            kafka: world.kafka.clone(),
            clock: world.clock.clone(),
            metrics: world.metrics.clone(),
            topic_replication: world.options.topic_replication,
            tick_ms: world.options.tick_ms,
            rules: world.options.rules,
            balance: world.options.balance,
            solver: world.solver.clone(),
            seen: Seen::default(),
            recording: recording.clone(),
            creating: Arc::default(),
        };
        Coordinator::new(lead).start()
    })
}
