//! A simulated cluster and its verbs: what a script, a case or a sweep does to it and asks of it.

use super::failure::Failure;
use super::journal::Journal;
use super::judge::Check;
use super::measures::Measures;
use super::node::{Port, Shared, SimNode};
use super::observer::{self, Lacked};
use super::operate::some;
use super::readers::{Dark, Tally};
use super::samples::Sample;
use super::setup::{NewTable, Setup};
use super::sites::Sites;
use crate::actors::Made;
use crate::actors::mirror::made::MadeViews;
use crate::adapters::clickhouse::{SimClickHouse, SimServers};
use crate::adapters::clock::{Clock, SimClock};
use crate::adapters::faults::{Crash, Lifeline, Line, Weather};
use crate::adapters::kafka::SimKafka;
use crate::adapters::metadata::MemoryStore;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::peers::sim::SimNetwork;
use crate::adapters::peers::{self, Daemon, Peers};
use crate::adapters::recording::MemoryRecording;
use crate::error::{Coded, Retry};
use crate::model::control::{ClusterStatus, TableStatus};
use crate::model::names;
use crate::model::view::ClusterView;
use crate::model::{NodeId, PartitionId, Table, TableName};
use bytes::Bytes;
use std::cell::{Cell, Ref, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How often a condition is looked at.
const LOOK_EVERY_MS: u64 = 50;
/// How long a request is tried again before the script fails.
const ASK_WITHIN_MS: u64 = 60_000;

pub(super) struct Inner {
    pub(super) shared: Shared,
    pub(super) clock: Arc<SimClock>,
    pub(super) keys: Keys,
    pub(super) nodes: RefCell<BTreeMap<NodeId, SimNode>>,
    pub(super) seen: RefCell<ClusterView>,
    payload: Bytes,
    line: Line,
    pub(super) tally: RefCell<Tally>,
    pub(super) measures: RefCell<Measures>,
    pub(super) dark: RefCell<Dark>,
    pub(super) lacked: RefCell<Lacked>,
    pub(super) sites: RefCell<Sites>,
    pub(super) samples: RefCell<Vec<Sample>>,
    pub(super) settle_ms: Cell<u64>,
    pub(super) checks: RefCell<Vec<Check>>,
    pub(super) rates: RefCell<BTreeMap<(String, u32), u64>>,
    weather: Cell<Weather>,
    /// What rows weigh, by the beginning of the replica's database.
    row_bytes: RefCell<BTreeMap<String, u64>>,
    /// Shared parts that nobody reaches.
    down: RefCell<BTreeSet<Port>>,
}

/// A simulated cluster. Clones are handles on the same one.
#[derive(Clone)]
pub struct Cluster(pub(super) Rc<Inner>);

impl Cluster {
    /// The nodes of the setup with their servers up; no daemon runs yet. Only within [`super::run`].
    pub(super) fn new(setup: &Setup) -> Self {
        let clock = Arc::new(SimClock::new(1_700_000_000_000, setup.seed));
        let journal = Journal::new(clock.clone());
        let shared = Shared {
            journal: journal.clone(),
            store: MemoryStore::new(),
            made: Made { views: Some(MadeViews::default()), ..Made::default() },
            kafka: SimKafka::new(),
            network: SimNetwork::new(),
            servers: SimServers::new(),
            setup: Arc::new(setup.clone()),
            recording: MemoryRecording::default(),
        };
        let keys = Keys::new(&setup.cluster);
        let seen = RefCell::default();
        let measures = RefCell::default();
        let line = Line::new("operator", setup.seed, Lifeline::default(), Arc::new(journal));
        let payload = Bytes::from_static(b"1,\"2026-01-01 00:00:00\"\n");
        let (nodes, tally) = (RefCell::default(), RefCell::default());
        let samples = RefCell::default();
        let (weather, down) = (Cell::new(setup.weather), RefCell::default());
        let inner = Inner {
            shared,
            clock,
            keys,
            nodes,
            seen,
            payload,
            line,
            tally,
            measures,
            dark: RefCell::default(),
            lacked: RefCell::default(),
            sites: RefCell::default(),
            samples,
            settle_ms: Cell::default(),
            checks: RefCell::default(),
            rates: RefCell::default(),
            weather,
            row_bytes: RefCell::default(),
            down,
        };
        let cluster = Self(Rc::new(inner));
        (0..setup.nodes).for_each(|_| {
            cluster.new_node();
        });
        tokio::task::spawn_local(observer::observe(cluster.shared_store(), Rc::downgrade(&cluster.0)));
        tokio::task::spawn_local(observer::note_lacks(Rc::downgrade(&cluster.0)));
        cluster
    }

    fn shared_store(&self) -> MemoryStore {
        self.0.shared.store.client()
    }

    fn new_node(&self) -> NodeId {
        let setup = &self.0.shared.setup;
        let mut nodes = self.0.nodes.borrow_mut();
        let number = nodes.len() + 1;
        let id: NodeId = format!("n{number}").parse().expect("letters and digits");
        let mut labels = BTreeMap::new();
        if setup.zones > 0 {
            labels.insert("zone".to_owned(), format!("z{}", (number - 1) % setup.zones as usize + 1));
        }
        let said = setup.nodes_said.get(id.as_str()).cloned().unwrap_or_default();
        let node = SimNode::new(id.clone(), labels, setup.capacity_bytes, &said);
        self.0.row_bytes.borrow().iter().for_each(|(head, bytes)| node.server.weigh_rows(head, *bytes));
        let endpoint = &node.record.clickhouse;
        node.server.join(&self.0.shared.servers, &endpoint.host, endpoint.port);
        nodes.insert(id.clone(), node);
        id
    }

    // --- what is done to it ---

    /// Starts every daemon and waits until all nodes are registered and one leads.
    pub async fn start(&self) -> Result<(), Failure> {
        for id in self.node_ids() {
            self.start_daemon(id.as_str())?;
        }
        let all = self.node_ids().len();
        self.until("all nodes to be live and one to lead", 60_000, |cluster| {
            let view = cluster.view();
            view.leader.is_some() && view.live.len() == all
        })
        .await
    }

    /// Starts a node's daemon, if it does not run; not that of a node that is gone for good.
    pub fn start_daemon(&self, node: &str) -> Result<(), Failure> {
        let started = self.with(node, |sim| {
            if sim.lost {
                return Ok(());
            }
            if !sim.daemon_runs() {
                sim.kill();
            }
            let started = sim.start(&self.0.shared);
            Port::ALL.into_iter().for_each(|port| sim.set_weather(port, self.weather_at(port)));
            started
        })?;
        self.row(&format!("script starts daemon {node}"));
        started.map_err(|error| self.failure(error.to_string()))
    }

    /// Kills a node's daemon: every actor and every call under way ends without a goodbye.
    pub fn kill_daemon(&self, node: &str) -> Result<(), Failure> {
        self.row(&format!("script kills daemon {node}"));
        self.with(node, SimNode::kill)
    }

    /// Lets a node's daemon stand still, as a suspended machine does, or go on. It does not notice.
    pub fn stall_daemon(&self, node: &str, stalled: bool) -> Result<(), Failure> {
        self.row(&format!("script {} daemon {node}", if stalled { "stalls" } else { "resumes" }));
        self.with(node, |sim| sim.stall(stalled))
    }

    /// Lets a node's daemon die before or after a change that it makes at a port.
    pub fn crash_daemon_at(&self, node: &str, port: Port, crash: Crash) -> Result<(), Failure> {
        self.with(node, |sim| sim.line_to(port).map(|line| line.crash_at(crash))).map(|_| ())
    }

    /// Takes a node's ClickHouse down, or brings it up as after a restart.
    pub fn set_clickhouse(&self, node: &str, up: bool) -> Result<(), Failure> {
        self.row(&format!("script takes clickhouse of {node} {}", if up { "up" } else { "down" }));
        if up && self.with(node, |sim| sim.lost)? {
            return Ok(());
        }
        self.0.dark.borrow_mut().down(node, self.now_ms(), !up);
        self.with(node, |sim| sim.server.set_up(up))
    }

    /// Sets the weather between a node's running daemon and a port.
    pub fn set_weather(&self, node: &str, port: Port, weather: Weather) -> Result<(), Failure> {
        self.with(node, |sim| sim.set_weather(port, weather))
    }

    /// Sets the weather everywhere, also for daemons that are started later.
    pub fn set_weather_everywhere(&self, weather: Weather) {
        self.row(&format!("script sets the weather: {weather:?}"));
        self.0.weather.set(weather);
        for (id, node) in &*self.0.nodes.borrow() {
            Port::ALL.into_iter().for_each(|port| node.set_weather(port, self.weather_at(port)));
            self.0.dark.borrow_mut().cut(id.as_str(), self.now_ms(), weather.cut);
        }
    }

    /// Lets nobody reach a shared part, or everybody.
    pub fn set_down(&self, port: Port, down: bool) {
        self.row(&format!("script takes {} {}", port.name(), if down { "down" } else { "up" }));
        if down {
            self.0.down.borrow_mut().insert(port);
        } else {
            self.0.down.borrow_mut().remove(&port);
        }
        for node in self.0.nodes.borrow().values() {
            node.set_weather(port, self.weather_at(port));
        }
    }

    /// What calls meet where nothing else is said.
    pub(super) fn weather(&self) -> Weather {
        self.0.weather.get()
    }

    fn weather_at(&self, port: Port) -> Weather {
        let cut = self.0.down.borrow().contains(&port);
        Weather { cut, ..self.0.weather.get() }
    }

    pub(super) fn end_downs(&self) {
        self.0.down.borrow_mut().clear();
    }

    /// Adds a node with a server that is up, starts its daemon, and tells its name.
    pub fn add_node(&self) -> Result<NodeId, Failure> {
        let id = self.new_node();
        self.start_daemon(id.as_str())?;
        Ok(id)
    }

    /// Makes a table and waits until every wanted replica of it is ready.
    pub async fn create_table(&self, table: &NewTable) -> Result<Table, Failure> {
        self.request_table(table).await?;
        let name = table.full_name();
        self.until_complete(&name, 120_000).await?;
        self.table(&name).ok_or_else(|| self.failure(format!("table {name} is gone")))
    }

    /// Has a table's record written, tried again where that may be.
    pub async fn request_table(&self, table: &NewTable) -> Result<TableStatus, Failure> {
        self.row(&format!("script creates {}", table.full_name()));
        self.ask("create the table", |daemon| {
            let request = table.request();
            async move { daemon.create_table(request).await }
        })
        .await
    }

    /// Puts so many messages into one partition's topic.
    pub fn produce(&self, table: &Table, partition: PartitionId, count: u64) {
        let source = names::topic_partition(&table.source, partition);
        let first = self.0.shared.kafka.append_same(&source, count, &self.0.payload);
        assert!(first.is_some(), "the topic of {} {partition} is there", table.name);
    }

    /// Says what a row of a table takes on disks, so that few messages stand for much data.
    pub fn weigh_rows(&self, table: &TableName, bytes: u64) {
        let head = names::replica_databases(table);
        for node in self.0.nodes.borrow().values() {
            node.server.weigh_rows(&head, bytes);
        }
        self.0.row_bytes.borrow_mut().insert(head, bytes);
    }

    /// Whether a node is gone for good.
    pub fn is_lost(&self, node: &NodeId) -> bool {
        self.0.nodes.borrow().get(node).is_some_and(|node| node.lost)
    }

    /// Puts so many messages into each partition's topic.
    pub fn produce_everywhere(&self, table: &Table, count: u64) {
        (0..table.partitions).for_each(|partition| self.produce(table, PartitionId(partition), count));
    }

    /// Asks any daemon that runs, as the command line does; tries again for a minute where that may help.
    ///
    /// # Errors
    /// What the cluster answered last.
    pub async fn ask<T, F>(&self, what: &str, request: impl Fn(Arc<dyn Daemon>) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, peers::Error>>,
    {
        let until_ms = self.now_ms() + ASK_WITHIN_MS;
        let mut tries = 0;
        loop {
            let answer = match self.any_daemon(tries) {
                Some(daemon) => request(daemon).await,
                None => Err(peers::Error::Unavailable("no daemon runs".into())),
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if error.retry() == Retry::Never || self.now_ms() > until_ms {
                return Err(self.failure(format!("cannot {what}: {}: {error}", error.code())));
            }
            tries += 1;
            self.advance(500).await?;
        }
    }

    fn any_daemon(&self, turn: usize) -> Option<Arc<dyn Daemon>> {
        let nodes = self.0.nodes.borrow();
        let running: Vec<&SimNode> = nodes.values().filter(|node| node.daemon_runs()).collect();
        let node = running.get(turn % running.len().max(1))?;
        let peers = self.0.shared.network.peers("sim://operator", self.0.line.clone());
        Some(peers.daemon(&node.record.daemon_url))
    }

    // --- time ---

    /// Virtual milliseconds since the run began.
    pub fn now_ms(&self) -> u64 {
        self.0.clock.now_ms()
    }

    /// Lets virtual time pass; fails at once if an invariant was broken.
    pub async fn advance(&self, ms: u64) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_millis(ms)).await;
        let nodes = self.0.nodes.borrow();
        // A copy of a table that stands on a new disk comes with the position of the one that is gone, also elsewhere.
        let lost = nodes.values().any(|node| node.server.has_lost_rows());
        for (id, node) in nodes.iter().filter(|_| !lost) {
            if node.rows_found_missing() > 0 {
                return Err(self.failure(format!("NO-LOSS: {id} found rows missing that were committed")));
            }
        }
        drop(nodes);
        match self.0.shared.journal.first_violation() {
            Some(violation) => Err(self.failure(format!("an invariant is broken: {violation}"))),
            None => Ok(()),
        }
    }

    /// Lets time pass until the condition holds.
    pub async fn until(
        &self,
        what: &str,
        within_ms: u64,
        condition: impl Fn(&Self) -> bool,
    ) -> Result<(), Failure> {
        let until_ms = self.now_ms() + within_ms;
        while !condition(self) {
            if self.now_ms() >= until_ms {
                return Err(self.failure(format!("waited {within_ms} ms in vain for {what}")));
            }
            self.advance(LOOK_EVERY_MS).await?;
        }
        Ok(())
    }

    /// Lets time pass until the table is complete in its leader's eyes: all wanted replicas ready, routes loaded.
    pub async fn until_complete(&self, name: &TableName, within_ms: u64) -> Result<(), Failure> {
        let until_ms = self.now_ms() + within_ms;
        loop {
            let status = self.table_status(name).await;
            let waiting = match &status {
                Ok(status) if status.complete => return Ok(()),
                Ok(status) => some(&status.waiting_for),
                Err(failure) => failure.to_string(),
            };
            if self.now_ms() >= until_ms {
                let so = format!("{name} is not complete within {within_ms} ms: {waiting}");
                return Err(self.failure(so + &self.under_way().await));
            }
            self.advance(200).await?;
        }
    }

    // --- what is asked of it ---

    /// Every node's name.
    pub fn node_ids(&self) -> Vec<NodeId> {
        self.0.nodes.borrow().keys().cloned().collect()
    }

    /// The cluster as the store holds it.
    pub fn view(&self) -> Ref<'_, ClusterView> {
        self.0.seen.borrow()
    }

    /// The traces that leaders have recorded, as text, oldest first.
    pub fn traces(&self) -> Vec<String> {
        self.0.shared.recording.traces()
    }

    /// The node whose daemon leads, by the store.
    pub fn leader(&self) -> Option<NodeId> {
        self.view().leader.as_ref().map(|leader| leader.node.clone())
    }

    /// A table's record.
    pub fn table(&self, name: &TableName) -> Option<Table> {
        self.view().table_named(name).cloned()
    }

    /// A table in its leader's eyes.
    pub async fn table_status(&self, name: &TableName) -> Result<TableStatus, Failure> {
        let ask = |daemon: Arc<dyn Daemon>| async move { daemon.table_status(name.clone()).await };
        self.ask("ask how the table stands", ask).await
    }

    /// Everything in its leader's eyes.
    pub async fn status(&self) -> Result<ClusterStatus, Failure> {
        self.ask("ask how the cluster stands", |daemon| async move { daemon.cluster_status().await }).await
    }

    /// A node's server; clones are handles on it.
    pub fn server(&self, node: &str) -> Option<SimClickHouse> {
        let nodes = self.0.nodes.borrow();
        nodes.get(&node.parse().ok()?).map(|node| node.server.clone())
    }

    /// Whether a node's daemon runs.
    pub fn daemon_runs(&self, node: &NodeId) -> bool {
        self.0.nodes.borrow().get(node).is_some_and(SimNode::daemon_runs)
    }

    /// The message queue.
    pub fn kafka(&self) -> &SimKafka {
        &self.0.shared.kafka
    }

    /// The metadata store.
    pub fn store(&self) -> &MemoryStore {
        &self.0.shared.store
    }

    /// The store's keys.
    pub fn keys(&self) -> &Keys {
        &self.0.keys
    }

    /// The network between daemons.
    pub fn network(&self) -> &SimNetwork {
        &self.0.shared.network
    }

    /// The journal.
    pub fn journal(&self) -> &Journal {
        &self.0.shared.journal
    }

    /// A number below `below` from the run's seed.
    pub fn random(&self, below: u64) -> u64 {
        self.0.clock.random() % below.max(1)
    }

    /// Writes a row of the script's own.
    pub fn row(&self, text: &str) {
        self.0.shared.journal.row(text);
    }

    /// A failure of the script's own.
    pub fn failure(&self, what: impl Into<String>) -> Failure {
        Failure { at_ms: self.now_ms(), what: what.into() }
    }

    pub(super) fn with<T>(&self, node: &str, then: impl FnOnce(&mut SimNode) -> T) -> Result<T, Failure> {
        let mut nodes = self.0.nodes.borrow_mut();
        let found = nodes.iter_mut().find(|(id, _)| id.as_str() == node).map(|(_, node)| then(node));
        drop(nodes);
        found.ok_or_else(|| self.failure(format!("there is no node {node}")))
    }
}
