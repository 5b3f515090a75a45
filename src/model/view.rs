//! The cluster as the metadata store describes it: every daemon mirrors it, every decision starts from it.
//!
//! Pure. Batches of the store's changes are applied whole, so a view is always one revision of the store and a
//! table's epoch and shards in it belong together (ONE-EPOCH).

use super::balance::{BalanceSetting, PlanRun};
use super::hold::{Hold, Scope};
use super::ids::{NodeId, OperationId, ShardId, TableId};
use super::node::Node;
use super::operation::Operation;
use super::shards::Shards;
use super::shared::Shared;
use super::table::{Shard, Table, TableName, TableState};
use std::collections::{BTreeMap, BTreeSet};

/// A record with the store revision of its last write, for compare-and-swap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The record.
    pub record: T,
    /// Store revision of its last write.
    pub revision: i64,
}

/// A record of a view that is kept beyond it: it shares the view's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept<T>(Shared<Versioned<T>>);

impl<T> Kept<T> {
    /// Whether both are one place in memory: then they are equal. If not, they may be.
    pub fn same(one: &Self, other: &Self) -> bool {
        Shared::same(&one.0, &other.0)
    }
}

impl<T> From<&Shared<Versioned<T>>> for Kept<T> {
    fn from(record: &Shared<Versioned<T>>) -> Self {
        Self(record.clone())
    }
}

impl<T> std::ops::Deref for Kept<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0.record
    }
}

/// Who leads the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    /// First node of the leading daemon.
    pub node: NodeId,
    /// Its gRPC address.
    pub daemon_url: String,
    /// Revision at which its key was created.
    pub term: super::Term,
}

/// A node whose daemon holds a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// Distinguishes one run of the daemon from the next.
    pub incarnation: u64,
    /// Its gRPC address.
    pub daemon_url: String,
}

/// One record of the store; `None` where it was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// `leader`.
    Leader(Option<Leader>),
    /// `nodes/<id>`.
    Node(NodeId, Option<Versioned<Node>>),
    /// `live/<id>`.
    Live(NodeId, Option<Live>),
    /// `tables/<id>`.
    Table(TableId, Option<Shared<Versioned<Table>>>),
    /// `shards/<table>/<id>`.
    Shard(TableId, ShardId, Option<Shared<Versioned<Shard>>>),
    /// `ops/<id>`.
    Operation(OperationId, Option<Shared<Versioned<Operation>>>),
    /// `holds/…`.
    Hold(Scope, Option<Versioned<Hold>>),
    /// `balance`.
    Balance(Option<Versioned<BalanceSetting>>),
    /// `plan`.
    PlanRun(Option<Box<Versioned<PlanRun>>>),
}

/// What a batch of records touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// The leader changed.
    pub leader: bool,
    /// Nodes whose record or lease changed.
    pub nodes: BTreeSet<NodeId>,
    /// Tables that changed, by themselves, by a shard or by an operation.
    pub tables: BTreeSet<TableId>,
}

/// The mirror. Clones share what they have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// Store revision that this is.
    pub revision: i64,
    /// The first snapshot has been applied.
    pub complete: bool,
    /// The cluster's leader.
    pub leader: Option<Leader>,
    /// Registered nodes.
    pub nodes: Shared<BTreeMap<NodeId, Versioned<Node>>>,
    /// Nodes with a lease.
    pub live: Shared<BTreeMap<NodeId, Live>>,
    /// Tables.
    pub tables: BTreeMap<TableId, Shared<Versioned<Table>>>,
    /// Shards by table.
    pub shards: BTreeMap<TableId, Shared<Shards>>,
    /// Operations, open and ended.
    pub operations: Shared<BTreeMap<OperationId, Shared<Versioned<Operation>>>>,
    /// Pauses and freezes, those that are over among them.
    pub holds: BTreeMap<Scope, Versioned<Hold>>,
    /// What was said of balancing at run time.
    pub balance: Option<Versioned<BalanceSetting>>,
    /// The plan that was applied last.
    pub run: Option<Versioned<PlanRun>>,
}

/// Where history begins never changes, and is long: all versions of a table's record share it.
fn keep_origins(new: &mut Shared<Versioned<Table>>, old: &Shared<Versioned<Table>>) {
    let (ours, theirs) = (&new.record.origin_offsets, &old.record.origin_offsets);
    if !Shared::same(ours, theirs) && ours == theirs {
        new.record.origin_offsets = old.record.origin_offsets.clone();
    }
}

impl ClusterView {
    /// Applies one batch that brings the view to `revision`.
    pub fn apply(&mut self, revision: i64, records: Vec<Record>) -> Touched {
        let mut touched = Touched::default();
        for record in records {
            match record {
                Record::Leader(leader) => {
                    touched.leader = true;
                    self.leader = leader;
                }
                Record::Node(id, node) => {
                    put(&mut self.nodes, id.clone(), node);
                    touched.nodes.insert(id);
                }
                Record::Live(id, live) => {
                    put(&mut self.live, id.clone(), live);
                    touched.nodes.insert(id);
                }
                Record::Table(id, mut table) => {
                    if let (Some(new), Some(old)) = (&mut table, self.tables.get(&id)) {
                        keep_origins(new, old);
                    }
                    put(&mut self.tables, id, table);
                    touched.tables.insert(id);
                }
                Record::Shard(table, id, shard) => {
                    put(self.shards.entry(table).or_default(), id, shard);
                    if self.shards.get(&table).is_some_and(|shards| shards.is_empty()) {
                        self.shards.remove(&table);
                    }
                    touched.tables.insert(table);
                }
                Record::Operation(id, operation) => {
                    let before = self.operations.get(&id);
                    touched.tables.extend(before.map(|operation| operation.record.table));
                    touched.tables.extend(operation.as_ref().map(|operation| operation.record.table));
                    put(&mut self.operations, id, operation);
                }
                Record::Hold(scope, hold) => {
                    match scope {
                        Scope::Cluster => touched.tables.extend(self.tables.keys()),
                        Scope::Table(id) | Scope::Shard(id, _) => touched.tables.extend([id]),
                    }
                    put(&mut self.holds, scope, hold);
                }
                Record::Balance(setting) => self.balance = setting,
                Record::PlanRun(run) => self.run = run.map(|run| *run),
            }
        }
        self.revision = self.revision.max(revision);
        touched
    }

    /// Replaces everything by a snapshot; what was there before or is there now counts as touched.
    pub fn reset(&mut self, revision: i64, records: Vec<Record>) -> Touched {
        let before = std::mem::take(self);
        self.complete = true;
        let mut touched = self.apply(revision, records);
        touched.leader = true;
        touched.nodes.extend(before.nodes.keys().chain(before.live.keys()).cloned());
        touched.tables.extend(before.tables.into_keys().chain(before.shards.into_keys()));
        touched
    }

    /// A shard's record.
    pub fn shard(&self, table: TableId, shard: ShardId) -> Option<&Shard> {
        self.shards.get(&table)?.get(&shard).map(|shard| &shard.record)
    }

    /// Whether two views have a table's shards in common, unchanged; quick, and `false` now and then though they have.
    pub fn same_shards(&self, other: &Self, table: TableId) -> bool {
        match (self.shards.get(&table), other.shards.get(&table)) {
            (Some(own), Some(others)) => Shared::same(own, others),
            (own, others) => own.is_none() && others.is_none(),
        }
    }

    /// A table's shards that are not as they were in another view, with what they were.
    pub fn changed_shards<'a>(
        &'a self,
        before: &'a Self,
        table: TableId,
    ) -> impl Iterator<Item = (Option<&'a Shard>, &'a Shard)> {
        let now = self.shards.get(&table).filter(|_| !self.same_shards(before, table));
        let old = before.shards.get(&table);
        now.into_iter().flat_map(|shards| shards.iter()).filter_map(move |(id, shard)| {
            let was = old.and_then(|shards| shards.get(id));
            let changed = was.is_none_or(|was| !Shared::same(was, shard) && was.record != shard.record);
            changed.then(|| (was.map(|was| &was.record), &shard.record))
        })
    }

    /// The table of that name that is not being dropped.
    pub fn table_named<'a>(&'a self, name: &TableName) -> Option<&'a Table> {
        let tables = self.tables.values().map(|table| &table.record);
        tables.filter(|table| table.name == *name).find(|table| table.state != TableState::Dropping)
    }

    /// The table of that name; if there is none, one that is being dropped.
    pub fn table_last_named<'a>(&'a self, name: &TableName) -> Option<&'a Table> {
        let any = || self.tables.values().map(|table| &table.record).find(|table| table.name == *name);
        self.table_named(name).or_else(any)
    }

    /// A table's shards, in number order.
    pub fn shards_of(&self, table: TableId) -> impl Iterator<Item = &Shard> {
        self.shards.get(&table).into_iter().flat_map(|shards| shards.values().map(|shard| &shard.record))
    }

    /// All tables' shards.
    pub fn all_shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.values().flat_map(|shards| shards.values()).map(|shard| &shard.record)
    }

    /// Operations that are not ended, oldest first.
    pub fn open_operations(&self) -> impl Iterator<Item = &Operation> {
        self.operations.values().map(|operation| &operation.record).filter(|op| op.state.is_open())
    }

    /// Whether a node's daemon holds a lease.
    pub fn is_live(&self, node: &NodeId) -> bool {
        self.live.contains_key(node)
    }

    /// The nodes without their versions.
    pub fn node_records(&self) -> BTreeMap<NodeId, Node> {
        self.nodes.iter().map(|(id, node)| (id.clone(), node.record.clone())).collect()
    }
}

fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) {
    match value {
        Some(value) => map.insert(key, value),
        None => map.remove(&key),
    };
}
