//! Routes: a table's topology as a query layer sees it, and as ClickHouse's `remote_servers` gets it.
//!
//! Pure. Shards in range order with `weight = hi - lo`: ClickHouse's own rule `key % sum(weights)` then lands
//! each partition on the shard that owns it (H10), so pruning by the sharding key stays right (S5).

use super::ids::{Epoch, NodeId, ShardId, TableId};
use super::names;
use super::node::{ClickHouseEndpoint, Node};
use super::range::PartitionRange;
use super::table::{Shard, ShardState, Table, TableName};
use std::collections::BTreeMap;

/// One replica to ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteReplica {
    /// Where.
    pub node: NodeId,
    /// How ClickHouse servers reach it.
    pub endpoint: ClickHouseEndpoint,
    /// The database that holds the shard there.
    pub database: String,
}

/// One shard to ask: any one of its replicas.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RouteShard {
    /// Shard.
    pub shard: ShardId,
    /// Partitions; the width is the weight.
    pub range: PartitionRange,
    /// Leader first.
    pub replicas: Vec<RouteReplica>,
}

/// A table's topology at one epoch.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TableRoutes {
    /// Identity.
    pub table: TableId,
    /// The user's name.
    pub name: TableName,
    /// Version.
    pub epoch: Epoch,
    /// `P`.
    pub partitions: u32,
    /// In range order, gap-free.
    pub shards: Vec<RouteShard>,
    /// Route groups beside the table's own cluster: name and the label that its nodes must have (H1).
    pub groups: BTreeMap<String, Vec<RouteShard>>,
}

impl TableRoutes {
    /// The table's own cluster name.
    pub fn cluster(&self) -> String {
        names::cluster(&self.name, self.table, None)
    }
}

/// What a group admits: nodes whose label `key` is `value`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RouteGroup {
    /// Suffix of the cluster's name, such as `read` or `dc1`.
    pub name: String,
    /// Label looked at.
    pub label: String,
    /// Its value.
    pub value: String,
}

/// Derives a table's routes; `None` until every shard has a ready replica (a query must see every row).
pub fn derive(
    table: &Table,
    shards: &[Shard],
    nodes: &BTreeMap<NodeId, Node>,
    groups: &[RouteGroup],
) -> Option<TableRoutes> {
    let serving = |shard: &&Shard| shard.table == table.id && shard.state == ShardState::Serving;
    let mut ordered: Vec<&Shard> = shards.iter().filter(serving).collect();
    ordered.sort_by_key(|shard| shard.range);
    let all = ordered.iter().map(|shard| route(table, shard, nodes)).collect::<Vec<_>>();
    let complete = super::range::covers(all.iter().map(|shard| shard.range), table.partitions)
        && all.iter().all(|shard| !shard.replicas.is_empty());
    if !complete {
        return None;
    }
    let admits = |group: &RouteGroup, node: &NodeId| {
        nodes.get(node).and_then(|node| node.labels.get(&group.label)) == Some(&group.value)
    };
    let grouped = groups.iter().map(|group| {
        let mut shards = all.clone();
        for shard in &mut shards {
            let inside: Vec<_> = shard.replicas.iter().filter(|r| admits(group, &r.node)).cloned().collect();
            // A shard without a copy in the group is read where it is: a group narrows, it never hides rows.
            if !inside.is_empty() {
                shard.replicas = inside;
            }
        }
        (group.name.clone(), shards)
    });
    Some(TableRoutes {
        table: table.id,
        name: table.name.clone(),
        epoch: table.epoch,
        partitions: table.partitions,
        groups: grouped.collect(),
        shards: all,
    })
}

fn route(table: &Table, shard: &Shard, nodes: &BTreeMap<NodeId, Node>) -> RouteShard {
    let database = names::replica_database(&table.name, table.id, shard.id);
    let mut ready: Vec<&NodeId> = shard.ready_nodes().collect();
    ready.sort_by_key(|node| (Some(*node) != shard.leader.as_ref(), (*node).clone()));
    let replica = |node: &NodeId| {
        let endpoint = nodes.get(node)?.clickhouse.clone();
        Some(RouteReplica { node: node.clone(), endpoint, database: database.clone() })
    };
    RouteShard {
        shard: shard.id,
        range: shard.range,
        replicas: ready.into_iter().filter_map(replica).collect(),
    }
}
