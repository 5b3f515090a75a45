//! Every kind of actor is killed in turn by a panic of its own. Either its parent makes it again from the store, or
//! the daemon says that it must end, and its next run goes on. Both are shown by work: old tables and a new one take
//! rows.

use super::agent::Agent;
use super::balance::Balancer;
use super::lane_reader::LaneReader;
use super::leader::Coordinator;
use super::leadership::Leadership;
use super::mirror::Mirror;
use super::node::NodeActor;
use super::placement::PlacementActor;
use super::replica::ReplicaActor;
use super::router::Router;
use super::table::TableActor;
use super::{LocalNode, Made, Options, Running, World, spawn};
use crate::adapters::clickhouse::SimClickHouse;
use crate::adapters::clock::SimClock;
use crate::adapters::kafka::sim::SimKafka;
use crate::adapters::metadata::MemoryStore;
use crate::adapters::offload::Inline;
use crate::adapters::peers::grpc::GrpcPeers;
use crate::adapters::routes::{RoutesFile as _, SimRoutes};
use crate::model::control::CreateTable;
use crate::model::names::{self, TopicPartition};
use crate::model::table::{BatchLimits, MessageFormat, TopicLayout};
use crate::model::{Node, ShardId, TableName};
use crate::telemetry::Metrics;
use actix::prelude::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::LocalSet;

#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
struct Die;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Coordinator,
    Placement,
    Balancer,
    Table,
    Node,
    Replica,
    Leadership,
    Mirror,
    Agent,
    Router,
    LaneReader,
}

/// Those of a parent that can make them again.
const CHILDREN: [Kind; 6] =
    [Kind::Coordinator, Kind::Placement, Kind::Balancer, Kind::Table, Kind::Node, Kind::Replica];
/// Those without which the daemon must end.
const ROOTS: [Kind; 5] = [Kind::Leadership, Kind::Mirror, Kind::Agent, Kind::Router, Kind::LaneReader];

/// Who is of that kind just now, as the parent knows it.
#[derive(Message)]
#[rtype(result = "Vec<Recipient<Die>>")]
struct Who(Kind);

macro_rules! mortal {
    ($($actor:ty),*) => {$(
        impl Handler<Die> for $actor {
            type Result = ();
            fn handle(&mut self, _: Die, _: &mut Context<Self>) {
                panic!("told to die");
            }
        }
    )*};
}

mortal!(
    Agent,
    Balancer,
    Coordinator,
    LaneReader,
    Leadership,
    Mirror,
    NodeActor,
    PlacementActor,
    ReplicaActor,
    Router,
    TableActor
);

fn all<'a, A>(addresses: impl IntoIterator<Item = &'a Addr<A>>) -> Vec<Recipient<Die>>
where
    A: Actor<Context = Context<A>> + Handler<Die>,
{
    addresses.into_iter().map(|address| address.clone().recipient()).collect()
}

impl Handler<Who> for Leadership {
    type Result = ResponseFuture<Vec<Recipient<Die>>>;
    fn handle(&mut self, Who(kind): Who, _: &mut Context<Self>) -> Self::Result {
        let coordinator = self.seat.get();
        Box::pin(async move {
            match (coordinator, kind) {
                (None, _) => vec![],
                (Some(coordinator), Kind::Coordinator) => all([&coordinator]),
                (Some(coordinator), _) => coordinator.send(Who(kind)).await.unwrap_or_default(),
            }
        })
    }
}

impl Handler<Who> for Coordinator {
    type Result = MessageResult<Who>;
    fn handle(&mut self, Who(kind): Who, _: &mut Context<Self>) -> Self::Result {
        MessageResult(match kind {
            Kind::Placement => all([&self.placement]),
            Kind::Balancer => all([&self.balancer]),
            Kind::Table => all(self.tables.values()),
            _ => all(self.nodes.values()),
        })
    }
}

impl Handler<Who> for Agent {
    type Result = MessageResult<Who>;
    fn handle(&mut self, Who(kind): Who, _: &mut Context<Self>) -> Self::Result {
        MessageResult(match kind {
            Kind::LaneReader => all(self.lanes.readers()),
            _ => all(self.running.values().map(|running| &running.address)),
        })
    }
}

/// What outlives a daemon.
struct Outside {
    store: MemoryStore,
    kafka: SimKafka,
    server: SimClickHouse,
    routes: SimRoutes,
    runs: u64,
    tables: u64,
    rows: u64,
    metrics: Metrics,
}

impl Outside {
    fn new() -> Self {
        let routes = SimRoutes::new();
        let (store, kafka, server) =
            (MemoryStore::new(), SimKafka::new(), SimClickHouse::new(routes.clone()));
        Self { store, kafka, server, routes, runs: 0, tables: 0, rows: 0, metrics: Metrics::new() }
    }

    fn start(&mut self) -> Running {
        let store = self.store.client();
        self.start_with(store)
    }

    fn start_with(&mut self, store: MemoryStore) -> Running {
        self.runs += 1;
        let node = Node { daemon_url: "sim://n1".into(), ..Node::plain(&"n1".parse().unwrap()) };
        let (clickhouse, routes) = (Arc::new(self.server.clone()), Arc::new(self.routes.clone()));
        let world = World {
            cluster: "c".into(),
            daemon_url: node.daemon_url.clone(),
            insert_base_url: None,
            made: Made::default(),
            incarnation: self.runs,
            boot: None,
            store: Arc::new(store),
            kafka: Arc::new(self.kafka.clone()),
            peers: Arc::new(GrpcPeers::new(Default::default())),
            clock: Arc::new(SimClock::new(1_700_000_000_000, self.runs)),
            solver: Arc::new(Inline),
            metrics: self.metrics.clone(),
            nodes: vec![LocalNode { node, clickhouse, routes }],
            groups: vec![],
            options: Options::default(),
        };
        spawn(world).unwrap()
    }

    fn name(number: u64) -> TableName {
        TableName { database: "d".into(), table: format!("t{number}") }
    }

    /// A further table is made, and rows come into all.
    async fn works(&mut self, running: &Running, after: Kind) {
        let number = self.tables;
        let create = CreateTable {
            ddl: format!("CREATE TABLE d.t{number} (a UInt64) ENGINE = MergeTree ORDER BY a"),
            partitions: 2,
            shards: 2,
            replicas: 1,
            partition_by: "a".into(),
            topic_prefix: None,
            layout: TopicLayout::TopicPerPartition,
            topic_replication: 1,
            format: MessageFormat::JSONEachRow,
            format_settings: BTreeMap::new(),
            batch: BatchLimits::default(),
            first_node: None,
            dry_run: false,
            if_not_exists: true,
        };
        until(after, "a table to be made", async || {
            let made = running.daemon.create_table(create.clone()).await;
            made.is_ok_and(|table| table.complete)
        })
        .await;
        (self.tables, self.rows) = (number + 1, self.rows + 1);
        for number in 0..self.tables {
            let source = TopicPartition { topic: format!("d.t{number}.1"), partition: 0 };
            self.kafka.append(&source, vec![Some(Bytes::from_static(b"{\"a\":1}"))]).unwrap();
        }
        for number in 0..self.tables {
            let name = Self::name(number);
            let table = running.daemon.table_status(name.clone()).await.unwrap();
            let database = names::replica_database(&name, table.id, ShardId(1));
            let rows = self.rows - number;
            until(after, "rows to come in once", async || self.server.rows(&database) == (rows, 0)).await;
        }
    }
}

async fn until(after: Kind, what: &str, mut come: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if come().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{after:?} died: waited in vain for {what}");
}

async fn who(running: &Running, kind: Kind) -> Vec<Recipient<Die>> {
    let (agent, router) = &running.beside[0];
    match kind {
        Kind::Leadership => all([&running.leadership]),
        Kind::Mirror => all([&running.mirror]),
        Kind::Agent => all([agent]),
        Kind::Router => all([router]),
        Kind::LaneReader | Kind::Replica => agent.send(Who(kind)).await.unwrap_or_default(),
        _ => running.leadership.send(Who(kind)).await.unwrap_or_default(),
    }
}

async fn kill(running: &Running, kind: Kind) {
    let victims = who(running, kind).await;
    assert!(!victims.is_empty(), "there is no {kind:?}");
    for victim in victims {
        assert!(victim.send(Die).await.is_err(), "{kind:?} lives on");
    }
}

#[tokio::test(start_paused = true)]
async fn an_actor_that_dies_is_made_again_by_its_parent_and_the_work_goes_on() {
    let mut outside = Outside::new();
    let (metrics, set) = (outside.metrics.clone(), LocalSet::new());
    let work = async {
        let running = outside.start();
        for kind in CHILDREN {
            outside.works(&running, kind).await;
            kill(&running, kind).await;
            until(kind, "it to be made again", async || {
                let now = who(&running, kind).await;
                !now.is_empty() && now.iter().all(Recipient::connected)
            })
            .await;
            outside.works(&running, kind).await;
            assert!(running.healthy(), "{kind:?} died");
            let counted = match kind {
                Kind::Coordinator => metrics.terms_ended("coordinator_died").get(),
                _ => metrics.actor_deaths(&format!("{kind:?}").to_lowercase()).get(),
            };
            assert!(counted > 0, "nobody counts that {kind:?} died");
        }
    };
    set.run_until(work).await;
}

#[tokio::test(start_paused = true)]
async fn a_daemon_without_a_root_actor_says_so_and_its_next_run_goes_on() {
    let mut outside = Outside::new();
    for kind in ROOTS {
        let set = LocalSet::new();
        let work = async {
            let running = outside.start();
            outside.works(&running, kind).await;
            assert!(running.healthy());
            kill(&running, kind).await;
            until(kind, "it to be noticed", async || !running.healthy()).await;
        };
        set.run_until(work).await;
        // The process ends, with all that still ran in it.
        drop(set);
        let set = LocalSet::new();
        let work = async {
            let running = outside.start();
            outside.works(&running, kind).await;
        };
        set.run_until(work).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_leader_had_at_work_ends_with_its_term_and_its_gauges_with_it() {
    let mut outside = Outside::new();
    let metrics = outside.metrics.clone();
    let ages = || {
        let shown = metrics.registry().gather();
        let ages = shown.iter().find(|family| family.name() == "converthouse_heartbeat_age_seconds");
        ages.map_or(0, |family| family.get_metric().len())
    };
    let set = LocalSet::new();
    let work = async {
        let running = outside.start();
        outside.works(&running, Kind::Coordinator).await;
        let mut theirs = Vec::new();
        for kind in [Kind::Placement, Kind::Balancer, Kind::Table, Kind::Node] {
            let those = who(&running, kind).await;
            assert!(!those.is_empty(), "there is no {kind:?}");
            theirs.extend(those.iter().map(|one| (kind, one.downgrade())));
        }
        assert_eq!(ages(), 1);
        running.leadership.send(super::leadership::Resign).await.unwrap();
        until(Kind::Coordinator, "its actors to end", async || {
            theirs.iter().all(|(_, one)| one.upgrade().is_none())
        })
        .await;
        assert_eq!(ages(), 0);
    };
    set.run_until(work).await;
}

/// The answers come after the lease's time, and tell that the key was still there.
#[tokio::test(start_paused = true)]
async fn who_stepped_down_does_not_lead_again_by_a_late_answer() {
    let mut outside = Outside::new();
    let (store, metrics, set) = (outside.store.client(), outside.metrics.clone(), LocalSet::new());
    let work = async {
        let running = outside.start_with(store.clone());
        outside.works(&running, Kind::Coordinator).await;
        store.faults().set_latency_ms(4_000);
        until(Kind::Coordinator, "it to step down", async || metrics.leader.get() == 0).await;
        for _ in 0..600 {
            tokio::time::sleep(Duration::from_millis(50)).await;
            assert_eq!(metrics.leader.get(), 0, "it leads, and has won nothing");
        }
        assert_eq!(metrics.terms_ended("lease_late").get(), 1);
        store.faults().set_latency_ms(0);
        until(Kind::Coordinator, "it to win", async || metrics.leader.get() == 1).await;
        outside.works(&running, Kind::Coordinator).await;
    };
    set.run_until(work).await;
}

/// Whoever manages the machine's configuration may have purged it, and the server reads that by itself.
#[tokio::test(start_paused = true)]
async fn a_routes_file_that_was_changed_or_removed_is_written_again() {
    let mut outside = Outside::new();
    let set = LocalSet::new();
    let work = async {
        let running = outside.start();
        outside.works(&running, Kind::Router).await;
        let written = outside.routes.text().unwrap();
        assert!(written.contains("d__t0"), "{written}");
        outside.routes.set_failing(true);
        let loaded =
            async || running.daemon.table_status(Outside::name(0)).await.is_ok_and(|table| table.complete);
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(loaded().await, "a file that cannot be read is not one that was changed");
        }
        outside.routes.set_failing(false);
        outside.routes.replace(&"<yandex/>".into()).await.unwrap();
        until(Kind::Router, "the file", async || outside.routes.text() == Some(written.clone())).await;
        outside.works(&running, Kind::Router).await;
    };
    set.run_until(work).await;
}
