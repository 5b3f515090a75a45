//! What a node's ClickHouse should know of tables, and what is still to be done for it.
//!
//! Pure. Compares the view with what has been achieved; the shell does one round at a time.

use crate::adapters::clickhouse::DistributedTable;
use crate::model::ids::{Epoch, TableId};
use crate::model::names;
use crate::model::routes::{self, RouteGroup, TableRoutes};
use crate::model::table::{MessageFormat, Table, TableName, TableState};
use crate::model::view::ClusterView;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

/// One round of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// Every table's routes: the whole content of the cluster file.
    pub routes: Vec<TableRoutes>,
    /// User-facing tables to be there.
    pub distributed: BTreeMap<TableId, DistributedTable>,
    /// Tables whose user-facing tables must go first.
    pub undistribute: BTreeMap<TableId, (TableName, String)>,
}

/// Derives the round from the view. A table without complete routes has none yet: a query must see every row.
pub fn round(view: &ClusterView, groups: &[RouteGroup], insert_base_url: Option<&str>) -> Round {
    let nodes = view.node_records();
    let mut round = Round::default();
    for (id, table) in &view.tables {
        let table = &table.record;
        if table.state == TableState::Dropping {
            let cluster = names::cluster(&table.name, *id, None);
            round.undistribute.insert(*id, (table.name.clone(), cluster));
            continue;
        }
        if table.epoch == Epoch(0) {
            continue;
        }
        let shards: Vec<_> = view.shards_of(*id).cloned().collect();
        if let Some(routes) = routes::derive(table, &shards, &nodes, groups) {
            round.distributed.insert(*id, distributed(table, &routes, insert_base_url));
            round.routes.push(routes);
        }
    }
    round
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

/// What has been achieved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Achieved {
    /// The newest topology loaded, by table.
    pub epochs: BTreeMap<TableId, Epoch>,
    /// What was loaded of each, as [`content`] has it.
    pub contents: BTreeMap<TableId, u64>,
    /// User-facing tables that stand.
    pub distributed: BTreeMap<TableId, DistributedTable>,
    /// Tables being dropped whose user-facing tables are gone.
    pub undistributed: BTreeSet<TableId>,
    /// What cannot be done, by table.
    pub problems: BTreeMap<TableId, String>,
}

impl Achieved {
    /// Whether the server has loaded exactly these routes. The epoch alone does not say: a node's address, user or
    /// password may change without a new topology.
    pub fn loaded(&self, routes: &TableRoutes) -> bool {
        self.epochs.get(&routes.table) == Some(&routes.epoch)
            && self.contents.get(&routes.table) == Some(&content(routes))
    }

    /// Notes that the server has.
    pub fn load(&mut self, routes: &TableRoutes) {
        self.epochs.insert(routes.table, routes.epoch);
        self.contents.insert(routes.table, content(routes));
    }

    /// Keeps what was loaded of those tables only.
    pub fn keep_loaded(&mut self, keep: impl Fn(&TableId) -> bool) {
        self.epochs.retain(|id, _| keep(id));
        self.contents.retain(|id, _| keep(id));
    }

    /// Whether a round has nothing left to do.
    pub fn covers(&self, round: &Round) -> bool {
        round.routes.iter().all(|routes| self.loaded(routes))
            && self.epochs.len() == round.routes.len()
            && round.distributed == self.distributed
            && round.undistribute.keys().all(|id| self.undistributed.contains(id))
            && self.undistributed.len() == round.undistribute.len()
    }
}

/// A hash of all that is written of a table's routes, credentials too: so it stays in this process, and is shown
/// nowhere.
fn content(routes: &TableRoutes) -> u64 {
    let mut hasher = DefaultHasher::new();
    routes.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::node::{ClickHouseEndpoint, Secret};
    use crate::model::routes::{RouteReplica, RouteShard};
    use crate::model::{PartitionRange, ShardId};

    fn routes(endpoint: ClickHouseEndpoint) -> TableRoutes {
        let replica = RouteReplica { node: "n1".parse().unwrap(), endpoint, database: "d".into() };
        let range = PartitionRange::new(0, 4).unwrap();
        let shard = RouteShard { shard: ShardId(0), range, replicas: vec![replica] };
        TableRoutes {
            table: TableId(uuid::Uuid::nil()),
            name: TableName { database: "a".into(), table: "b".into() },
            epoch: Epoch(3),
            partitions: 4,
            groups: BTreeMap::new(),
            shards: vec![shard],
        }
    }

    fn round(routes: TableRoutes) -> Round {
        Round { routes: vec![routes], ..Round::default() }
    }

    #[test]
    fn whatever_is_written_of_a_node_is_loaded_again_when_it_changes() {
        let endpoint = || ClickHouseEndpoint {
            host: "h".into(),
            port: 9000,
            secure: false,
            user: "u".into(),
            password: Secret::new("p"),
        };
        let mut achieved = Achieved::default();
        achieved.load(&routes(endpoint()));
        assert!(achieved.covers(&round(routes(endpoint()))));
        let changed = [
            ClickHouseEndpoint { host: "other".into(), ..endpoint() },
            ClickHouseEndpoint { port: 9001, ..endpoint() },
            ClickHouseEndpoint { secure: true, ..endpoint() },
            ClickHouseEndpoint { user: "other".into(), ..endpoint() },
            ClickHouseEndpoint { password: Secret::new("other"), ..endpoint() },
        ];
        for endpoint in changed {
            let new = routes(endpoint.clone());
            assert!(!achieved.covers(&round(new.clone())), "{endpoint:?}");
            let mut achieved = achieved.clone();
            achieved.load(&new);
            assert!(achieved.covers(&round(new)));
        }
        // A group's members change with labels.
        let mut grouped = routes(endpoint());
        grouped.groups.insert("read".into(), grouped.shards.clone());
        assert!(!achieved.covers(&round(grouped)));
        achieved.keep_loaded(|_| false);
        assert!(achieved.covers(&Round::default()) && !achieved.covers(&round(routes(endpoint()))));
    }
}
