//! What a node should hold, against what it holds: the agent's decisions.
//!
//! Pure and level-triggered: an agent that starts from nothing ends in the same state. What no record speaks of is
//! never removed: a metadata store that was lost must not take the data with it.

use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::ingest::Held;
use crate::model::names;
use crate::model::node::Node;
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, Table, TableState};
use crate::model::view::{ClusterView, Kept, Versioned};
use std::collections::{BTreeMap, BTreeSet};

/// A shard's place on a node.
pub type Place = (TableId, ShardId);

/// A replica that a node should run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The table.
    pub table: Kept<Table>,
    /// The shard.
    pub shard: Shared<Versioned<Shard>>,
}

/// The replicas that `node` should run.
pub fn wanted(view: &ClusterView, node: &NodeId) -> BTreeMap<Place, Wanted> {
    let mut wanted = BTreeMap::new();
    for (id, table) in &view.tables {
        if table.record.state == TableState::Dropping {
            continue;
        }
        let shards = view.shards.get(id).into_iter().flat_map(|shards| shards.on(node));
        let shards = shards.filter(|shard| shard.record.state != ShardState::Retired);
        for shard in shards {
            let table = Kept::from(table);
            wanted.insert((*id, shard.record.id), Wanted { table, shard: shard.clone() });
        }
    }
    wanted
}

/// What that is of each table.
pub fn held(wanted: &BTreeMap<Place, Wanted>) -> BTreeMap<TableId, Held> {
    let mut held: BTreeMap<TableId, Held> = BTreeMap::new();
    for ((table, _), wanted) in wanted {
        let held = held.entry(*table).or_default();
        held.partitions += wanted.shard.record.range.width();
        held.shards += 1;
    }
    held
}

/// Whether a running replica must be started anew: only what it was started with matters, not who leads.
pub fn outdated(node: &NodeId, running: &Wanted, wanted: &Wanted) -> bool {
    let since = |wanted: &Wanted| wanted.shard.record.replica_on(node).map(|replica| replica.since);
    since(running) != since(wanted)
        || running.shard.record.range != wanted.shard.record.range
        || !Kept::same(&running.table, &wanted.table) && other_table(&running.table, &wanted.table)
}

/// Whether a table is another one to those who consume into it.
fn other_table(one: &Table, other: &Table) -> bool {
    one.schema != other.schema || one.source != other.source || one.origin_offsets != other.origin_offsets
}

/// Whether a table asks of a node what it runs already, replica by replica: then there is nothing to reconcile.
pub fn same<'a>(
    view: &ClusterView,
    node: &NodeId,
    table: TableId,
    running: impl Iterator<Item = &'a Wanted>,
) -> bool {
    let record = view.tables.get(&table).map(|table| &table.record);
    let record = record.filter(|record| record.state != TableState::Dropping);
    let shards = view.shards.get(&table).filter(|_| record.is_some());
    let here = shards.into_iter().flat_map(|shards| shards.on(node));
    let mut here = here.filter(|shard| shard.record.state != ShardState::Retired);
    let mut running = running.peekable();
    let other =
        running.peek().is_some_and(|first| record.is_none_or(|record| other_table(&first.table, record)));
    let all = running.all(|runs| here.next().is_some_and(|shard| Shared::same(shard, &runs.shard)));
    !other && all && here.next().is_none()
}

/// A replica database found on the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Wanted here, or on another node that is this server too.
    Kept,
    /// Of a known table, not assigned to this node (any more), or of a table that is being dropped: to go.
    Left(TableId, ShardId),
    /// Of no known table: not touched, reported.
    Foreign,
}

/// What is to become of a database whose name is one of ours.
pub fn judge(view: &ClusterView, node: &NodeId, database: &str) -> Found {
    let Some((short, shard)) = names::parse_replica_database(database) else { return Found::Foreign };
    let of_name = |(id, table): &(&TableId, &Table)| {
        id.short() == short && names::replica_database(&table.name, **id, shard) == database
    };
    let known = view.tables.iter().map(|(id, table)| (id, &table.record)).find(of_name);
    match known {
        None => Found::Foreign,
        Some((id, table)) if table.state == TableState::Dropping => Found::Left(*id, shard),
        // While a table is being created its shards are still being written: nothing is left over yet.
        Some((_, table)) if table.state == TableState::Creating => Found::Kept,
        Some((id, _)) => {
            let on = |node: &NodeId| view.shard(*id, shard).is_some_and(|s| s.replica_on(node).is_some());
            match on(node) || same_server(view, node).any(on) {
                true => Found::Kept,
                false => Found::Left(*id, shard),
            }
        }
    }
}

/// Other nodes whose records name the ClickHouse server of this one: it was given another name, and its old record
/// stands. What is assigned to them is on this server.
pub fn same_server<'a>(view: &'a ClusterView, node: &'a NodeId) -> impl Iterator<Item = &'a NodeId> {
    let place = |node: &'a Versioned<Node>| {
        let endpoint = &node.record.clickhouse;
        (endpoint.host.as_str(), endpoint.port)
    };
    let own = view.nodes.get(node).map(place).filter(|(host, _)| !host.is_empty());
    let others = view.nodes.iter().filter(move |(id, _)| *id != node);
    others.filter(move |&(_, other)| own == Some(place(other))).map(|(id, _)| id)
}

/// Tables being dropped of which nothing is left here, as far as the last look at the databases is `sure` to tell.
pub fn dropped(
    view: &ClusterView,
    undistributed: &BTreeSet<TableId>,
    databases: &[String],
    sure: impl Fn(&TableId) -> bool,
) -> Vec<TableId> {
    let gone = |id: &TableId| {
        let held = |database: &String| {
            names::parse_replica_database(database).is_some_and(|(short, _)| short == id.short())
        };
        undistributed.contains(id) && sure(id) && !databases.iter().any(held)
    };
    let dropping = view.tables.iter().filter(|(_, table)| table.record.state == TableState::Dropping);
    dropping.map(|(id, _)| *id).filter(gone).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::balance::fixture::{Cluster, id};

    /// A node that was renamed in its configuration: its former name still holds the replicas.
    #[test]
    fn what_a_server_holds_under_another_name_is_not_left_over() {
        let mut cluster = Cluster::new(2).table(4, 1, 1, |_| 100);
        cluster.join("n9");
        let table = cluster.view.tables[&cluster.of()].record.clone();
        let holder = cluster.shard(0).replicas[0].node.clone();
        let database = names::replica_database(&table.name, table.id, ShardId(0));
        let judged = |cluster: &Cluster| judge(&cluster.view, &id("n9"), &database);
        assert_eq!(judged(&cluster), Found::Left(table.id, ShardId(0)), "another server's");
        let endpoint = cluster.view.nodes[&holder].record.clickhouse.clone();
        cluster.view.nodes.get_mut(&id("n9")).unwrap().record.clickhouse = endpoint;
        assert_eq!(judged(&cluster), Found::Kept);
        cluster.view.nodes.get_mut(&id("n9")).unwrap().record.clickhouse.port += 1;
        assert_eq!(judged(&cluster), Found::Left(table.id, ShardId(0)), "two servers of one host");
    }
}
