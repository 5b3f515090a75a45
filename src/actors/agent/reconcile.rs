//! What a node should hold, against what it holds: the agent's decisions.
//!
//! Pure and level-triggered: an agent that starts from nothing ends in the same state. What no record speaks of is
//! never removed: a metadata store that was lost must not take the data with it.

use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::ingest::Held;
use crate::model::names;
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
    /// Wanted here.
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
            let here = view.shard(*id, shard).is_some_and(|shard| shard.replica_on(node).is_some());
            if here { Found::Kept } else { Found::Left(*id, shard) }
        }
    }
}

/// Tables being dropped of which nothing is left here.
pub fn dropped(view: &ClusterView, undistributed: &BTreeSet<TableId>, databases: &[String]) -> Vec<TableId> {
    let gone = |id: &TableId| {
        let held = |database: &String| {
            names::parse_replica_database(database).is_some_and(|(short, _)| short == id.short())
        };
        undistributed.contains(id) && !databases.iter().any(held)
    };
    let dropping = view.tables.iter().filter(|(_, table)| table.record.state == TableState::Dropping);
    dropping.map(|(id, _)| *id).filter(gone).collect()
}
