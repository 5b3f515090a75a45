//! One simulated node: its ClickHouse server, its cluster file, and its daemon while that runs.

use super::journal::Journal;
use super::process::Process;
use super::setup::{NodeSaid, Sabotage, Setup};
use crate::actors::{self, LocalNode, Made, Recorder, Running, SpawnError, World};
use crate::adapters::clickhouse::{FaultyClickHouse, SimClickHouse, SimServers};
use crate::adapters::clock::SimClock;
use crate::adapters::faults::{Lifeline, Line, Weather};
use crate::adapters::kafka::{FaultyKafka, SimKafka};
use crate::adapters::machine::Boot;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::metadata::{FaultyStore, MemoryStore};
use crate::adapters::offload::Inline;
use crate::adapters::peers::sim::SimNetwork;
use crate::adapters::recording::MemoryRecording;
use crate::adapters::routes::{FaultyRoutes, SimRoutes};
use crate::model::invariants::Invariant;
use crate::model::node::{ClickHouseEndpoint, NodeState, Secret};
use crate::model::{Node, NodeId};
use crate::telemetry::Metrics;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::LocalSet;

/// The parts outside that a daemon talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Port {
    /// The metadata store.
    Store,
    /// The message queue.
    Kafka,
    /// Its ClickHouse.
    ClickHouse,
    /// Its cluster file.
    Routes,
    /// The other daemons.
    Peers,
}

impl Port {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Store, Self::Kafka, Self::ClickHouse, Self::Routes, Self::Peers];

    /// In rows and cases.
    pub fn name(self) -> &'static str {
        match self {
            Self::Store => "store",
            Self::Kafka => "kafka",
            Self::ClickHouse => "clickhouse",
            Self::Routes => "routes",
            Self::Peers => "peers",
        }
    }
}

/// What all nodes of a cluster share.
#[derive(Clone)]
pub struct Shared {
    pub(super) journal: Journal,
    pub(super) store: MemoryStore,
    pub(super) made: Made,
    pub(super) kafka: SimKafka,
    pub(super) network: SimNetwork,
    pub(super) servers: SimServers,
    pub(super) setup: Arc<Setup>,
    pub(super) recording: MemoryRecording,
}

struct Daemon {
    lifeline: Lifeline,
    lines: BTreeMap<Port, Line>,
    running: Running,
    metrics: Metrics,
}

impl Daemon {
    fn rows_found_missing(&self) -> u64 {
        self.metrics.invariant_violations(Invariant::NoLoss).get()
    }
}

/// See the module.
pub struct SimNode {
    /// As it registers itself.
    pub(super) record: Node,
    /// Its server.
    pub(super) server: SimClickHouse,
    routes: SimRoutes,
    runs: u64,
    /// How often its machine was started anew since its kernel first ran.
    boots: u32,
    /// How fast its clock goes, in parts per million too fast.
    pub(super) drift_ppm: i64,
    /// It is gone for good: no repair brings it back.
    pub(super) lost: bool,
    daemon: Option<Daemon>,
    /// What daemons that were killed had found missing.
    found_missing: u64,
}

/// What a call of a healthy server takes.
pub(super) const LATENCY_MS: u64 = 2;

/// How others reach a node's daemon.
pub fn daemon_url(id: &NodeId) -> String {
    format!("sim://{id}")
}

impl SimNode {
    /// A node whose server is up and whose daemon does not run yet.
    pub fn new(
        id: NodeId,
        mut labels: BTreeMap<String, String>,
        capacity_bytes: u64,
        said: &NodeSaid,
    ) -> Self {
        let routes = SimRoutes::new();
        let server = SimClickHouse::new(routes.clone());
        server.set_latency_ms(LATENCY_MS);
        labels.extend(said.labels.clone());
        let capacity_bytes = said.capacity_bytes.unwrap_or(capacity_bytes);
        if capacity_bytes > 0 {
            server.set_disk(capacity_bytes, capacity_bytes.saturating_sub(said.foreign_bytes));
        }
        let clickhouse = ClickHouseEndpoint {
            host: id.to_string(),
            port: 9_000,
            secure: false,
            user: String::new(),
            password: Secret::default(),
        };
        let daemon_url = daemon_url(&id);
        let state = NodeState::Active;
        let weight_milli = said.weight_milli.unwrap_or(1_000);
        let record = Node { id, labels, capacity_bytes, weight_milli, state, clickhouse, daemon_url };
        Self {
            record,
            server,
            routes,
            runs: 0,
            boots: 0,
            drift_ppm: 0,
            lost: false,
            daemon: None,
            found_missing: 0,
        }
    }

    /// Starts the daemon: the same wiring as in production, over lines of its own.
    pub fn start(&mut self, shared: &Shared) -> Result<(), SpawnError> {
        if self.daemon.is_some() {
            return Ok(());
        }
        self.runs += 1;
        let lifeline = Lifeline::default();
        let lines: BTreeMap<Port, Line> =
            Port::ALL.into_iter().map(|port| (port, self.line(port, &lifeline, shared))).collect();
        let set = LocalSet::new();
        let metrics = Metrics::new();
        let running = {
            let _inside = set.enter();
            let recording = shared.setup.recorded.then(|| Arc::new(shared.recording.clone()) as Recorder);
            actors::spawn_recorded(self.world(&lines, metrics.clone(), shared), recording)?
        };
        set.spawn_local(shared.network.serve(&self.record.daemon_url, running.daemon.clone()));
        tokio::task::spawn_local(Process::new(set, lifeline.clone()));
        self.daemon = Some(Daemon { lifeline, lines, running, metrics });
        Ok(())
    }

    fn line(&self, port: Port, lifeline: &Lifeline, shared: &Shared) -> Line {
        let name = format!("{}.{}", self.record.id, port.name());
        let seed = shared.setup.seed.wrapping_mul(1_000_003).wrapping_add(self.runs);
        let line = Line::new(&name, seed, lifeline.clone(), Arc::new(shared.journal.clone()));
        line.set_weather(shared.setup.weather);
        line
    }

    fn world(&self, lines: &BTreeMap<Port, Line>, metrics: Metrics, shared: &Shared) -> World {
        let line = |port: Port| lines[&port].clone();
        let seed = shared.setup.seed
            ^ (self.runs << 32)
            ^ u64::from(crc32fast::hash(self.record.id.as_str().as_bytes()));
        let sabotage = shared.setup.sabotage;
        let mut store = FaultyStore::new(shared.store.client(), line(Port::Store));
        if sabotage == Some(Sabotage::NoFence) {
            store = store.without_fence(Keys::new(&shared.setup.cluster).leader());
        }
        let mut options = shared.setup.options.clone();
        if let Some(sabotage) = sabotage {
            sabotage.spoil(&mut options);
        }
        if sabotage == Some(Sabotage::GatesStayOpen) {
            self.server.leave_gates_open();
        }
        let mut node = self.record.clone();
        if sabotage == Some(Sabotage::IgnoreZones) {
            node.labels.remove("zone");
        }
        World {
            cluster: shared.setup.cluster.clone(),
            daemon_url: self.record.daemon_url.clone(),
            insert_base_url: None,
            incarnation: self.runs,
            boot: Some(self.boot()),
            store: Arc::new(store),
            made: shared.made.clone(),
            kafka: Arc::new(FaultyKafka::new(shared.kafka.clone(), line(Port::Kafka))),
            peers: Arc::new(shared.network.peers(&self.record.daemon_url, line(Port::Peers))),
            clock: Arc::new(SimClock::new(1_700_000_000_000, seed).drifting(self.drift_ppm)),
            solver: Arc::new(Inline),
            metrics,
            nodes: vec![LocalNode {
                node,
                clickhouse: Arc::new(FaultyClickHouse::new(self.server.clone(), line(Port::ClickHouse))),
                routes: Arc::new(FaultyRoutes::new(self.routes.clone(), line(Port::Routes))),
            }],
            groups: Vec::new(),
            options,
        }
    }

    /// The line of the running daemon to a port.
    pub fn line_to(&self, port: Port) -> Option<&Line> {
        self.daemon.as_ref().map(|daemon| &daemon.lines[&port])
    }

    /// Whether a daemon was started and has not died. One whose root actors died counts as dead.
    pub fn daemon_runs(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| !daemon.lifeline.is_over() && daemon.running.healthy())
    }

    /// How often its daemon found that a table lacks rows which were committed. Nothing but a new disk and lost power
    /// take rows from a server, so without these it never may: that the daemon reads them again from the topic would
    /// hide that they were not published whole.
    pub fn rows_found_missing(&self) -> u64 {
        self.found_missing + self.daemon.as_ref().map_or(0, Daemon::rows_found_missing)
    }

    /// Ends the daemon without a goodbye.
    pub fn kill(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.found_missing += daemon.rows_found_missing();
            daemon.lifeline.cut();
        }
    }

    fn boot(&self) -> Boot {
        Boot(crc32fast::hash(format!("{} {}", self.record.id, self.boots).as_bytes()))
    }

    /// The machine's power goes: daemon and server are down, and its next start is another. Tells how many rows went.
    pub fn lose_power(&mut self, is_lost: impl FnMut() -> bool) -> u64 {
        self.boots += 1;
        self.server.lose_power(is_lost)
    }

    /// Lets the daemon's process stand still, or go on.
    pub fn stall(&self, stalled: bool) {
        match &self.daemon {
            Some(daemon) if stalled => daemon.lifeline.stall(),
            Some(daemon) => daemon.lifeline.resume(),
            None => {}
        }
    }

    /// Ends the faults of the machine itself: its disk has room, its clock keeps time from the next start on, no
    /// crash waits.
    pub fn repair(&mut self) {
        self.drift_ppm = 0;
        if self.record.capacity_bytes == 0 {
            self.server.set_disk(1 << 40, 1 << 40);
        } else if self.server.disk().1 == 0 {
            let room = self.record.capacity_bytes;
            self.server.set_disk(room, room.saturating_sub(self.server.bytes()));
        }
        self.server.set_latency_ms(LATENCY_MS);
        self.server.set_copy_rate(0);
        self.server.forget_faults();
        self.daemon.iter().flat_map(|daemon| daemon.lines.values()).for_each(Line::forget_crash);
    }

    /// Sets the weather between the daemon and a port.
    pub fn set_weather(&self, port: Port, weather: Weather) {
        if let Some(line) = self.line_to(port) {
            line.set_weather(weather);
        }
    }
}
