//! Small clusters for the predicates' tests: one table of eight partitions, nodes `n1`, `n2`, ….

use super::Violation;
use crate::model::operation::{Kind, Operation, State};
use crate::model::table::{BatchLimits, MessageFormat, ReplicationMode, Schema, Source, TopicLayout};
use crate::model::view::{ClusterView, Leader, Live, Versioned};
use crate::model::{
    Epoch, Node, NodeId, OperationId, PartitionRange, Replica, ReplicaState, Shard, ShardId, Table, TableId,
    TableName, TableState, Term,
};
use std::collections::BTreeMap;

const TABLE: TableId = TableId(uuid::Uuid::from_u128(7));

pub(super) struct Cluster(ClusterView);

/// The invariants that were found broken.
pub(super) fn ids(found: &[Violation]) -> Vec<&'static str> {
    found.iter().map(|violation| violation.invariant.as_str()).collect()
}

fn node(id: &NodeId) -> Node {
    Node { daemon_url: format!("http://{id}:7400"), ..Node::plain(id) }
}

fn table() -> Table {
    let name = TableName { database: "shop".into(), table: "events".into() };
    let source = Source {
        topic_prefix: "shop.events".into(),
        layout: TopicLayout::TopicPerPartition,
        format: MessageFormat::JSONEachRow,
        format_settings: BTreeMap::new(),
        batch: BatchLimits::default(),
    };
    let schema = Schema { engine: "MergeTree".into(), sorting_key: "user".into(), ..Schema::default() };
    Table {
        id: TABLE,
        name,
        state: TableState::Active,
        schema,
        ddl: String::new(),
        partitions: 8,
        replicas: 2,
        partition_by: "user".into(),
        mode: ReplicationMode::Log,
        source,
        epoch: Epoch(1),
        next_shard: 0,
        origin_offsets: Default::default(),
        delete_topics: false,
        published_by: BTreeMap::new(),
    }
}

impl Cluster {
    pub(super) fn new(nodes: u32) -> Self {
        let mut view = ClusterView { complete: true, ..ClusterView::default() };
        for number in 1..=nodes {
            let id: NodeId = format!("n{number}").parse().unwrap();
            let live = Live { incarnation: 1, daemon_url: format!("http://{id}:7400") };
            view.nodes.insert(id.clone(), Versioned { record: node(&id), revision: 1 });
            view.live.insert(id, live);
        }
        view.tables.insert(TABLE, Versioned { record: table(), revision: 1 }.into());
        Self(view)
    }

    pub(super) fn view(&self) -> ClusterView {
        self.0.clone()
    }

    pub(super) fn lead(&mut self, node: &str, term: i64) {
        let leader = Leader { node: node.parse().unwrap(), daemon_url: String::new(), term: Term(term) };
        self.0.leader = Some(leader);
    }

    pub(super) fn die(&mut self, node: &str) {
        self.0.live.remove(&node.parse().unwrap());
    }

    fn table(&mut self) -> &mut Table {
        &mut self.0.tables.get_mut(&TABLE).unwrap().record
    }

    pub(super) fn publish(&mut self) {
        let table = self.table();
        table.epoch = table.epoch.next();
    }

    pub(super) fn drop_table(&mut self) {
        self.table().state = TableState::Dropping;
    }

    /// Writes a shard; the first replica leads.
    pub(super) fn shard(&mut self, id: u32, range: std::ops::Range<u32>, replicas: &[(&str, ReplicaState)]) {
        let replica = |(node, state): &(&str, ReplicaState)| Replica {
            state: *state,
            ..Replica::creating(node.parse().unwrap())
        };
        let replicas: Vec<Replica> = replicas.iter().map(replica).collect();
        let range = PartitionRange::new(range.start, range.end).unwrap();
        let shard = Shard {
            leader: replicas.first().map(|replica| replica.node.clone()),
            replicas,
            ..Shard::new(TABLE, ShardId(id), range, [])
        };
        let table = self.table();
        table.next_shard = table.next_shard.max(id + 1);
        let record = Versioned { record: shard, revision: 1 }.into();
        self.0.shards.entry(TABLE).or_default().insert(ShardId(id), record);
    }

    pub(super) fn edit(&mut self, id: u32, change: impl FnOnce(&mut Shard)) {
        change(&mut self.0.shards.get_mut(&TABLE).unwrap().get_mut(&ShardId(id)).unwrap().record);
    }

    pub(super) fn operate(&mut self, id: u64, kind: Kind, state: State, reason: &str) {
        let record = Operation {
            id: OperationId(id),
            table: TABLE,
            kind,
            state,
            reason: reason.into(),
            outcome: String::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
        };
        self.0.operations.insert(OperationId(id), Versioned { record, revision: 1 }.into());
    }

    pub(super) fn forget(&mut self, id: u32) {
        self.0.shards.get_mut(&TABLE).unwrap().remove(&ShardId(id));
    }
}
