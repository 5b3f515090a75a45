//! A trace's cluster as the balancer would see it: records and reports made up from what the trace knows.
//!
//! So that plans come out of the code that makes them in production. What no trace holds (schemas, addresses) stays
//! empty: no plan depends on it.

use crate::actors::balance::decide::Sight;
use crate::model::ids::{Epoch, NodeId, TableId};
use crate::model::node::{ClickHouseEndpoint, Node, Secret};
use crate::model::observed::{Heartbeat, ReplicaObservation};
use crate::model::operation::{Operation, State};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::{
    BatchLimits, MessageFormat, Replica, ReplicaState, ReplicationMode, Schema, Shard, Source, Table,
    TableName, TableState, TopicLayout,
};
use crate::model::trace::{TraceNode, TraceShard, TraceTable, World};
use crate::model::view::{ClusterView, Live, Record, Versioned};
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Clone)]
pub struct Stand {
    view: ClusterView,
    heartbeats: BTreeMap<NodeId, Shared<Heartbeat>>,
    lost: BTreeSet<NodeId>,
    now_unix_ms: u64,
}

impl Stand {
    /// A world, where the replicas of `lost` nodes are to be rebuilt elsewhere.
    pub fn of(world: &World, lost: BTreeSet<NodeId>) -> Self {
        let start_unix_ms = world.header.as_ref().map_or(0, |header| header.start_unix_ms);
        let now_unix_ms = start_unix_ms.saturating_add(world.at_ms);
        let mut view = ClusterView { complete: true, ..ClusterView::default() };
        view.apply(1, records(world, now_unix_ms));
        Self { view, heartbeats: heartbeats(world), lost, now_unix_ms }
    }

    /// Hands what the balancer would see to `with`.
    pub fn sight<T>(&self, with: impl FnOnce(&Sight<'_>) -> T) -> T {
        let lost = |node: &NodeId| self.lost.contains(node);
        let (view, heartbeats) = (&self.view, &self.heartbeats);
        with(&Sight { view, heartbeats, lost: &lost, now_unix_ms: self.now_unix_ms, forgets: false })
    }

    /// That moment on the wall clock.
    pub fn now_unix_ms(&self) -> u64 {
        self.now_unix_ms
    }
}

/// As views keep records of that kind.
fn versioned<T, V: From<Versioned<T>>>(record: T) -> V {
    Versioned { record, revision: 1 }.into()
}

fn records(world: &World, now_unix_ms: u64) -> Vec<Record> {
    let nodes = world.nodes.values().map(|of| Record::Node(of.id.clone(), Some(versioned(node(of)))));
    let live = world.nodes.values().filter(|node| node.live).map(|node| {
        let live = Live { incarnation: 1, daemon_url: String::new() };
        Record::Live(node.id.clone(), Some(live))
    });
    let next = |of: TableId| {
        let shards = world.shards.keys().filter(|(table, _)| *table == of);
        shards.map(|(_, shard)| shard.0 + 1).max().unwrap_or(0)
    };
    let tables =
        world.tables.values().map(|of| Record::Table(of.id, Some(versioned(table(of, next(of.id))))));
    let shards = world
        .shards
        .values()
        .filter_map(|of| Some(Record::Shard(of.table, of.shard, Some(versioned(shard(of)?)))));
    let operations = world.operations.iter().map(|(id, (table, kind))| {
        let operation = Operation {
            id: *id,
            table: *table,
            kind: kind.clone(),
            state: State::Running,
            reason: String::new(),
            outcome: String::new(),
            started_unix_ms: now_unix_ms,
            ended_unix_ms: 0,
        };
        Record::Operation(*id, Some(versioned(operation)))
    });
    nodes.chain(live).chain(tables).chain(shards).chain(operations).collect()
}

fn node(of: &TraceNode) -> Node {
    let clickhouse = ClickHouseEndpoint {
        host: String::new(),
        port: 0,
        secure: false,
        user: String::new(),
        password: Secret::default(),
    };
    Node {
        id: of.id.clone(),
        labels: of.labels.clone(),
        capacity_bytes: of.capacity_bytes,
        weight_milli: of.weight_milli,
        state: of.state,
        clickhouse,
        daemon_url: String::new(),
    }
}

fn table(of: &TraceTable, next_shard: u32) -> Table {
    let schema = Schema::default();
    let source = Source {
        topic_prefix: String::new(),
        layout: TopicLayout::default(),
        format: MessageFormat::JSONEachRow,
        format_settings: BTreeMap::new(),
        batch: BatchLimits::default(),
    };
    Table {
        id: of.id,
        name: TableName { database: of.database.clone(), table: of.table.clone() },
        state: TableState::Active,
        schema,
        ddl: String::new(),
        partitions: of.partitions,
        replicas: of.replicas,
        partition_by: String::new(),
        mode: ReplicationMode::default(),
        source,
        epoch: Epoch(1),
        next_shard,
        origin_offsets: Default::default(),
        delete_topics: false,
        published_by: BTreeMap::new(),
    }
}

fn shard(of: &TraceShard) -> Option<Shard> {
    let range = PartitionRange::new(of.lo, of.hi)?;
    let mut shard = Shard::new(of.table, of.shard, range, []);
    let ready = |node: &NodeId| Replica { state: ReplicaState::Ready, ..Replica::creating(node.clone()) };
    shard.replicas = of.nodes.iter().map(ready).collect();
    shard.leader.clone_from(&of.leader);
    Some(shard)
}

/// Each live node reports what it holds, and that nobody else has anything on its disk: a trace does not tell.
fn heartbeats(world: &World) -> BTreeMap<NodeId, Shared<Heartbeat>> {
    let report = |node: &TraceNode| Heartbeat {
        disk_total_bytes: node.capacity_bytes,
        disk_free_bytes: node.capacity_bytes,
        ..Heartbeat::of_healthy(node.id.clone(), BTreeMap::new())
    };
    let live = world.nodes.values().filter(|node| node.live);
    let mut reports: BTreeMap<NodeId, Shared<Heartbeat>> =
        live.map(|node| (node.id.clone(), report(node).into())).collect();
    for shard in world.shards.values() {
        for node in &shard.nodes {
            let Some(report) = reports.get_mut(node) else { continue };
            let seen =
                ReplicaObservation { serving: true, bytes: shard.bytes, ..ReplicaObservation::default() };
            report.disk_free_bytes = report.disk_free_bytes.saturating_sub(shard.bytes);
            report.replicas.entry(shard.table).or_default().insert(shard.shard, seen);
        }
    }
    reports
}
