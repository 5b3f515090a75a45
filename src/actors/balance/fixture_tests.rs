//! A made-up cluster for the balancer's tests, on which everything that is begun succeeds at once.

use super::course::{self, Course};
use super::decide::{self, Sight, Wanted, splits};
use crate::actors::leader::operations::split_kind;
use crate::actors::table::decide_tests;
use crate::model::balance::{BalanceMode, BalanceRules, Planner};
use crate::model::hold::{Brake, Hold, Scope};
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::node::{Node, NodeState};
use crate::model::observed::{Heartbeat, ReplicaObservation};
use crate::model::operation::{Kind, Operation, State};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::{Replica, ReplicaState, Shard, Table, TableState};
use crate::model::view::{ClusterView, Live, Versioned};
use crate::placement::{Policy, Proposal, plan};
use std::collections::BTreeMap;

pub(in crate::actors) const NOW: u64 = 1_000;
pub(in crate::actors) const RULES: BalanceRules = BalanceRules {
    mode: BalanceMode::On,
    every_ms: 1_000,
    copies_max: 8,
    copies_per_node_max: 2,
    replicas_per_node_min: 4,
    split_above_bytes: 0,
    split_at: crate::model::balance::SplitAt::Middle,
    operation_deadline_ms: 6 * 3_600_000,
    solve_deadline_ms: 1_000,
    planner: Planner::Hybrid,
};

pub(in crate::actors) fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

pub(in crate::actors) fn versioned<T>(record: T) -> Shared<Versioned<T>> {
    Versioned { record, revision: 1 }.into()
}

/// A cluster whose reports are made of its records: each partition has so many bytes.
pub(in crate::actors) struct Cluster {
    pub(in crate::actors) view: ClusterView,
    pub(in crate::actors) partition_bytes: Vec<u64>,
    pub(in crate::actors) course: Course,
    /// Nodes whose servers do not answer.
    pub(in crate::actors) deaf: Vec<NodeId>,
    /// Disks that are known: in all, and free.
    pub(in crate::actors) disks: BTreeMap<NodeId, (u64, u64)>,
}

impl Cluster {
    /// Nodes `n1`… and no table.
    pub(in crate::actors) fn new(nodes: u32) -> Self {
        let mut cluster = Self {
            view: ClusterView { complete: true, ..ClusterView::default() },
            partition_bytes: Vec::new(),
            course: Course::default(),
            deaf: Vec::new(),
            disks: BTreeMap::new(),
        };
        (1..=nodes).for_each(|number| cluster.join(&format!("n{number}")));
        cluster
    }

    pub(in crate::actors) fn join(&mut self, name: &str) {
        let node = Node::plain(&id(name));
        self.view.nodes.insert(id(name), Versioned { record: node, revision: 1 });
        self.view.live.insert(id(name), Live { incarnation: 1, daemon_url: String::new() });
    }

    pub(in crate::actors) fn set(&mut self, node: &str, state: NodeState) {
        self.view.nodes.get_mut(&id(node)).unwrap().record.state = state;
    }

    pub(in crate::actors) fn capacity(&mut self, node: &str, bytes: u64) {
        self.view.nodes.get_mut(&id(node)).unwrap().record.capacity_bytes = bytes;
    }

    pub(in crate::actors) fn disk(&mut self, node: &str, total_bytes: u64, free_bytes: u64) {
        self.disks.insert(id(node), (total_bytes, free_bytes));
    }

    /// A table of so many shards of equal ranges, replica by replica round the nodes.
    pub(in crate::actors) fn table(
        mut self,
        partitions: u32,
        shards: u32,
        replicas: u32,
        bytes: impl Fn(u32) -> u64,
    ) -> Self {
        let table = Table {
            partitions,
            replicas,
            next_shard: shards,
            ..decide_tests::table(TableState::Active, 1, shards)
        };
        let nodes: Vec<NodeId> = self.view.nodes.keys().cloned().collect();
        let ranges = PartitionRange::divide(partitions, shards).unwrap();
        for (number, range) in ranges.into_iter().enumerate() {
            let on = (0..replicas as usize).map(|replica| nodes[(number + replica) % nodes.len()].clone());
            let mut shard = Shard::new(table.id, ShardId(number as u32), range, on);
            shard.replicas.iter_mut().for_each(|replica| replica.state = ReplicaState::Ready);
            shard.leader = shard.preferred_leader().cloned();
            self.put(shard);
        }
        self.partition_bytes = (0..partitions).map(bytes).collect();
        self.view.tables.insert(table.id, versioned(table));
        self
    }

    pub(in crate::actors) fn put(&mut self, shard: Shard) {
        self.view.shards.entry(shard.table).or_default().insert(shard.id, versioned(shard));
    }

    pub(in crate::actors) fn of(&self) -> TableId {
        *self.view.tables.keys().next().unwrap()
    }

    pub(in crate::actors) fn shard(&mut self, number: u32) -> &mut Shard {
        let of = self.of();
        &mut self.view.shards.get_mut(&of).unwrap().get_mut(&ShardId(number)).unwrap().record
    }

    pub(in crate::actors) fn bytes(&self, shard: &Shard) -> u64 {
        shard.range.partitions().map(|partition| self.partition_bytes[partition.0 as usize]).sum()
    }

    pub(in crate::actors) fn heartbeats(&self) -> BTreeMap<NodeId, Shared<Heartbeat>> {
        let heartbeat = |node: &NodeId| {
            let held = self.view.shards_of(self.of()).filter(|shard| shard.replica_on(node).is_some());
            let seen = |shard: &Shard| ReplicaObservation {
                serving: true,
                bytes: self.bytes(shard),
                ..ReplicaObservation::default()
            };
            let held = held.map(|shard| (shard.id, seen(shard))).collect();
            let mut heartbeat = Heartbeat::of_healthy(node.clone(), BTreeMap::from([(self.of(), held)]));
            heartbeat.clickhouse_up = !self.deaf.contains(node);
            let disk = self.disks.get(node).copied().unwrap_or_default();
            (heartbeat.disk_total_bytes, heartbeat.disk_free_bytes) = disk;
            (node.clone(), Shared::from(heartbeat))
        };
        self.view.live.keys().map(heartbeat).collect()
    }

    pub(in crate::actors) fn see<T>(&self, with: impl FnOnce(&Sight<'_>) -> T) -> T {
        let heartbeats = self.heartbeats();
        with(&Sight {
            view: &self.view,
            heartbeats: &heartbeats,
            lost: &|_| false,
            now_unix_ms: NOW,
            forgets: false,
        })
    }

    pub(in crate::actors) fn splits(&self, rules: &BalanceRules) -> Vec<u32> {
        self.see(|sight| splits(sight, rules)).into_iter().map(|(_, shard)| shard.0).collect()
    }

    pub(in crate::actors) fn proposal(&self) -> Proposal {
        let snapshot = self.see(decide::snapshot);
        plan(&snapshot, &Policy::default(), &decide::limits(&snapshot, &RULES))
    }

    pub(in crate::actors) fn begin(&self) -> Vec<Kind> {
        let proposal = self.proposal();
        kinds(self.see(|sight| decide::begin(sight, &proposal, &RULES, "balance")))
    }

    /// The same by the course that was set out on.
    pub(in crate::actors) fn on_course(&mut self) -> Vec<Kind> {
        let snapshot = self.see(decide::snapshot);
        let towards = self.course.towards(&snapshot);
        let proposal = course::solve(&snapshot, &towards, &RULES);
        self.course.keep(&snapshot, &proposal);
        kinds(self.see(|sight| decide::begin(sight, &proposal, &RULES, "balance")))
    }

    pub(in crate::actors) fn hold(&mut self, scope: Scope, brake: Brake, until_unix_ms: u64) {
        let hold = Hold { brake, reason: "audit".into(), since_unix_ms: 0, until_unix_ms };
        self.view.holds.insert(scope, Versioned { record: hold, revision: 1 });
    }

    /// One that has ended.
    pub(in crate::actors) fn end(&mut self, kind: Kind, state: State, ended_unix_ms: u64) {
        self.operation(kind);
        let last = self.view.operations.values_mut().next_back().unwrap();
        (last.record.state, last.record.ended_unix_ms) = (state, ended_unix_ms);
    }

    pub(in crate::actors) fn operation(&mut self, kind: Kind) {
        let number = OperationId(self.view.operations.len() as u64 + 1);
        let operation = Operation {
            id: number,
            table: self.of(),
            kind,
            state: State::Running,
            reason: String::new(),
            outcome: String::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
        };
        self.view.operations.insert(number, versioned(operation));
    }

    /// Carries an operation out at once; bytes copied.
    pub(in crate::actors) fn carry_out(&mut self, kind: &Kind) -> u64 {
        let ready = |node: &NodeId| Replica { state: ReplicaState::Ready, ..Replica::creating(node.clone()) };
        match kind {
            Kind::Split { shard, cut, left, right } => {
                let of = self.of();
                let parent = self.view.shards.get_mut(&of).unwrap().remove(shard).unwrap().record.clone();
                let (low, high) = parent.range.split_at(*cut).unwrap();
                self.put(Shard { id: *left, range: low, ..parent.clone() });
                self.put(Shard { id: *right, range: high, ..parent });
                self.view.tables.get_mut(&of).unwrap().record.next_shard = right.0 + 1;
                return 0;
            }
            Kind::Move { shard, from, to } => {
                let shard = self.shard(shard.0);
                let place = shard.replicas.iter().position(|replica| replica.node == *from).unwrap();
                shard.replicas[place] = ready(to);
            }
            Kind::Add { shard, to } => self.shard(shard.0).replicas.push(ready(to)),
            Kind::Remove { shard, from } => self.shard(shard.0).replicas.retain(|r| r.node != *from),
            Kind::Lead { shard, to } => self.shard(shard.0).replicas.sort_by_key(|r| r.node != *to),
            Kind::Merge { .. } => panic!("the balancer merges nothing"),
        }
        let id = kind.shards()[0].0;
        let shard = self.shard(id);
        shard.leader = shard.preferred_leader().cloned();
        let shard = shard.clone();
        if kind.target().is_some() { self.bytes(&shard) } else { 0 }
    }

    /// Bytes that each node holds.
    pub(in crate::actors) fn held(&self) -> BTreeMap<NodeId, u64> {
        let on = |node: &NodeId| {
            let shards = self.view.shards_of(self.of()).filter(|shard| shard.replica_on(node).is_some());
            (node.clone(), shards.map(|shard| self.bytes(shard)).sum())
        };
        self.view.nodes.keys().map(on).collect()
    }

    /// Rounds until nothing is begun any more; bytes copied.
    pub(in crate::actors) fn settle(&mut self, rules: &BalanceRules) -> u64 {
        let mut copied = 0;
        for _ in 0..200 {
            let split = self.see(|sight| splits(sight, rules));
            for (table, shard) in &split {
                let kind = split_kind(&self.view, (*table, *shard), None, 0).expect("it can be split");
                self.carry_out(&kind);
            }
            let begun = if split.is_empty() { self.on_course() } else { Vec::new() };
            if begun.is_empty() && split.is_empty() {
                return copied;
            }
            copied += begun.iter().map(|kind| self.carry_out(kind)).sum::<u64>();
        }
        panic!("it does not settle");
    }
}

pub(in crate::actors) fn kinds(wanted: Wanted) -> Vec<Kind> {
    wanted.into_values().flatten().map(|(kind, _)| kind).collect()
}
