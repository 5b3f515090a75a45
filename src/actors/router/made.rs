//! Routes and cluster files, made once for as long as what they are made of is the same.
//!
//! A cluster file holds every table's routes. When one table's topology changes, the text of the others is taken from
//! before; and daemons of one process that have come to the same view, as a simulator's thousand do, share all of it.
//! Changes no outcome: what is equal in memory only by chance is made again.

use crate::adapters::clickhouse::{ClusterReplica, DistributedTable};
use crate::adapters::routes::render;
use crate::model::ids::TableId;
use crate::model::names;
use crate::model::routes::{self, RouteGroup, TableRoutes};
use crate::model::shards::Shards;
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Publisher, Table};
use crate::model::view::{ClusterView, Versioned};
use crate::model::{Node, NodeId};
use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files that are remembered, which can be large: followers are at most a topology apart, as a rule.
const FILES_KEPT: usize = 2;

/// A table's routes, and what follows from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Routed {
    /// The routes.
    pub routes: TableRoutes,
    /// Who published them.
    pub publisher: Option<Publisher>,
    /// A hash of all that is written of them, credentials too: so it stays in this process, and is shown nowhere.
    pub content: u64,
    /// Their part of the cluster file.
    pub text: String,
    /// What the server shows of each cluster once it has read the file.
    pub expected: Vec<(String, Vec<ClusterReplica>)>,
    /// The user-facing tables over them.
    pub distributed: Shared<DistributedTable>,
}

impl Routed {
    /// What follows from these routes of `table`.
    pub fn new(table: &Table, routes: TableRoutes, insert_base_url: Option<&str>) -> Self {
        let mut hasher = DefaultHasher::new();
        routes.hash(&mut hasher);
        Self {
            content: hasher.finish(),
            text: render::clusters_of(&routes),
            expected: render::expected(&routes),
            distributed: distributed(table, &routes, insert_base_url).into(),
            publisher: table.publisher(routes.epoch),
            routes,
        }
    }
}

fn distributed(table: &Table, routes: &TableRoutes, insert_base_url: Option<&str>) -> DistributedTable {
    // The insert table speaks JSON; rows of other formats are sent by `converthouse insert` or straight to topics.
    let speaks_json = table.source.format == MessageFormat::JSONEachRow;
    let insert_url = insert_base_url
        .filter(|_| speaks_json)
        .map(|base| format!("{base}{}", names::insert_path(&table.name)));
    DistributedTable {
        name: table.name.clone(),
        schema: table.schema.clone(),
        cluster: routes.cluster(),
        sharding_key: table.partition_by.clone(),
        insert_url,
    }
}

type Nodes = Shared<BTreeMap<NodeId, Versioned<Node>>>;

/// What a table's routes were made of, and the routes; none while some shard has no readable replica.
struct Entry {
    table: Shared<Versioned<Table>>,
    shards: Option<Shared<Shards>>,
    nodes: Nodes,
    routed: Option<Arc<Routed>>,
}

#[derive(Default)]
struct Inner {
    tables: BTreeMap<TableId, Entry>,
    files: VecDeque<(Vec<Arc<Routed>>, Arc<str>)>,
}

/// See the module. Clones are handles on the same memory; who shares it has the same route groups and the same
/// address for inserts.
#[derive(Clone, Default)]
pub struct MadeRoutes(Arc<Mutex<Inner>>);

impl MadeRoutes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A table's routes by this view; none while some shard has no readable replica.
    pub fn routes(
        &self,
        view: &ClusterView,
        table: &Shared<Versioned<Table>>,
        groups: &[RouteGroup],
        insert_base_url: Option<&str>,
    ) -> Option<Arc<Routed>> {
        let id = table.record.id;
        let shards = view.shards.get(&id);
        let mut inner = self.inner();
        inner.tables.retain(|id, _| view.tables.contains_key(id));
        let same = |kept: &&Entry| {
            let shards_same = match (&kept.shards, shards) {
                (Some(one), Some(other)) => Shared::same(one, other),
                (one, other) => one.is_none() && other.is_none(),
            };
            shards_same && Shared::same(&kept.table, table) && Shared::same(&kept.nodes, &view.nodes)
        };
        if let Some(kept) = inner.tables.get(&id).filter(same) {
            return kept.routed.clone();
        }
        let records: Vec<_> = view.shards_of(id).cloned().collect();
        let routes = routes::derive(&table.record, &records, &view.node_records(), groups);
        let routed = routes.map(|routes| Arc::new(Routed::new(&table.record, routes, insert_base_url)));
        let (shards, nodes) = (shards.cloned(), view.nodes.clone());
        inner.tables.insert(id, Entry { table: table.clone(), shards, nodes, routed: routed.clone() });
        routed
    }

    /// The whole cluster file of these tables.
    pub fn file(&self, tables: &[Arc<Routed>]) -> Arc<str> {
        let mut inner = self.inner();
        let same = |(made, _): &&(Vec<Arc<Routed>>, Arc<str>)| {
            made.len() == tables.len() && made.iter().zip(tables).all(|(one, other)| Arc::ptr_eq(one, other))
        };
        if let Some((_, file)) = inner.files.iter().find(same) {
            return file.clone();
        }
        let parts = tables.iter().map(|table| (&table.routes, table.publisher, table.text.as_str()));
        let file: Arc<str> = render::file(parts).into();
        if inner.files.len() >= FILES_KEPT {
            inner.files.pop_front();
        }
        inner.files.push_back((tables.to_vec(), file.clone()));
        file
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::table::decide_tests::table;
    use crate::model::table::{Replica, ReplicaState, Shard, ShardState, TableState};
    use crate::model::view::Record;
    use crate::model::{Epoch, PartitionRange, ShardId};

    fn shard(table: &Table, node: &str) -> Record {
        let node: NodeId = node.parse().unwrap();
        let range = PartitionRange::new(0, table.partitions).unwrap();
        let ready = Replica { state: ReplicaState::Ready, ..Replica::creating(node.clone()) };
        let shard = Shard {
            state: ShardState::Serving,
            leader: Some(node.clone()),
            replicas: vec![ready],
            ..Shard::new(table.id, ShardId(0), range, [node])
        };
        Record::Shard(table.id, ShardId(0), Some(Versioned { record: shard, revision: 1 }.into()))
    }

    fn record(table: &Table) -> Record {
        Record::Table(table.id, Some(Versioned { record: table.clone(), revision: 1 }.into()))
    }

    fn all(made: &MadeRoutes, view: &ClusterView) -> Vec<Arc<Routed>> {
        view.tables.values().filter_map(|table| made.routes(view, table, &[], None)).collect()
    }

    #[test]
    fn only_what_changed_is_made_again_and_daemons_with_one_view_share_it() {
        let one = table(TableState::Active, 1, 1);
        let mut other = Table { id: TableId(uuid::Uuid::from_u128(77)), ..one.clone() };
        other.name.table = "other".into();
        let mut view = ClusterView::default();
        let node = Node::plain(&"n1".parse().unwrap());
        let nodes = Record::Node(node.id.clone(), Some(Versioned { record: node, revision: 1 }));
        view.apply(1, vec![nodes, record(&one), record(&other), shard(&one, "n1"), shard(&other, "n1")]);
        let made = MadeRoutes::default();
        let before = all(&made, &view);
        let file = made.file(&before);
        assert_eq!(before.len(), 2);
        assert_eq!(*file, render::render(&[before[0].routes.clone(), before[1].routes.clone()]));
        let shared = made.clone().file(&all(&made.clone(), &view.clone()));
        assert!(Arc::ptr_eq(&file, &shared), "who has the same view takes the same file");
        let next = Table { epoch: Epoch(2), ..other.clone() };
        view.apply(2, vec![record(&next)]);
        let after = all(&made, &view);
        let kept = after.iter().filter(|new| before.iter().any(|old| Arc::ptr_eq(new, old))).count();
        assert_eq!(kept, 1, "the other table's routes are those of before");
        let changed = made.file(&after);
        assert_ne!(changed, file);
        assert_eq!(*changed, render::render(&[after[0].routes.clone(), after[1].routes.clone()]));
    }

    #[test]
    fn a_table_that_nobody_can_read_whole_has_no_routes() {
        let one = table(TableState::Active, 1, 1);
        let mut view = ClusterView::default();
        view.apply(1, vec![record(&one)]);
        assert!(all(&MadeRoutes::default(), &view).is_empty());
    }
}
