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
    /// User-facing tables that stand.
    pub distributed: BTreeMap<TableId, DistributedTable>,
    /// Tables being dropped whose user-facing tables are gone.
    pub undistributed: BTreeSet<TableId>,
    /// What cannot be done, by table.
    pub problems: BTreeMap<TableId, String>,
}

impl Achieved {
    /// Whether a round has nothing left to do.
    pub fn covers(&self, round: &Round) -> bool {
        let loaded = |routes: &TableRoutes| self.epochs.get(&routes.table) == Some(&routes.epoch);
        round.routes.iter().all(loaded)
            && self.epochs.len() == round.routes.len()
            && round.distributed == self.distributed
            && round.undistribute.keys().all(|id| self.undistributed.contains(id))
            && self.undistributed.len() == round.undistribute.len()
    }
}
