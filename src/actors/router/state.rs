//! What a node's ClickHouse should know of tables, and what is still to be done for it.
//!
//! Pure. Compares the view with what has been achieved; the shell does one round at a time.

use super::made::{MadeRoutes, Routed};
use crate::adapters::clickhouse::DistributedTable;
use crate::adapters::routes::{self, render};
use crate::model::ids::{Epoch, TableId};
use crate::model::names;
use crate::model::routes::RouteGroup;
use crate::model::shared::Shared;
use crate::model::table::{Publisher, Table, TableName, TableState};
use crate::model::view::{ClusterView, Versioned};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One round of work.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Round {
    /// Every table's routes, with the user-facing tables to be there: the whole content of the cluster file.
    pub routes: Vec<Arc<Routed>>,
    /// The records of these tables.
    pub records: BTreeMap<TableId, Shared<Versioned<Table>>>,
    /// Tables whose user-facing tables must go first.
    pub undistribute: BTreeMap<TableId, (TableName, String)>,
}

/// Derives the round from the view. A table without complete routes has none yet: a query must see every row.
pub fn round(
    view: &ClusterView,
    made: &MadeRoutes,
    groups: &[RouteGroup],
    insert_base_url: Option<&str>,
) -> Round {
    let mut round = Round::default();
    for (id, table) in &view.tables {
        let record = &table.record;
        if record.state == TableState::Dropping {
            let cluster = names::cluster(&record.name, *id, None);
            round.undistribute.insert(*id, (record.name.clone(), cluster));
        } else if record.epoch != Epoch(0) {
            round.records.insert(*id, table.clone());
            round.routes.extend(made.routes(view, table, groups, insert_base_url));
        }
    }
    round
}

/// Whether the store knows of everything that the present file was written for, of the tables of which nothing has been
/// loaded since this daemon began. Epochs alone would not do: an older state that was restored soon publishes the same
/// ones again, by another run of a daemon.
///
/// # Errors
/// [`routes::Error::Ahead`].
pub fn known(file: &str, round: &Round, achieved: &Achieved) -> Result<(), routes::Error> {
    let topologies = render::topologies(file);
    let first = |table: &&Arc<Routed>| !achieved.epochs.contains_key(&table.routes.table);
    for table in round.routes.iter().filter(first) {
        let routes = &table.routes;
        let (cluster, store) = (routes.cluster(), routes.epoch);
        let Some((file_epoch, by)) = topologies.get(cluster.as_str()).copied() else { continue };
        if file_epoch > store {
            let (file, store) = (file_epoch.to_string(), store.to_string());
            return Err(routes::Error::Ahead { cluster, file, store });
        }
        let Some(record) = round.records.get(&routes.table).map(|table| &table.record) else { continue };
        let next = record.next_shard;
        if let Some(shard) = render::newest_shard(file, &routes.name, routes.table).filter(|s| *s >= next) {
            let (file, store) = (format!("shard s{shard}"), format!("none from s{next} on"));
            return Err(routes::Error::Ahead { cluster, file, store });
        }
        if let (Some(by), Some(other)) = (by, record.publisher(file_epoch))
            && by != other
        {
            let of = |publisher: Publisher| format!("{file_epoch} by {publisher}");
            return Err(routes::Error::Ahead { cluster, file: of(by), store: of(other) });
        }
    }
    Ok(())
}

/// What has been achieved.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Achieved {
    /// The newest topology loaded, by table.
    pub epochs: BTreeMap<TableId, Epoch>,
    /// What was loaded of each, as [`Routed::content`] has it.
    pub contents: BTreeMap<TableId, u64>,
    /// User-facing tables that stand.
    pub distributed: BTreeMap<TableId, Shared<DistributedTable>>,
    /// Tables being dropped whose user-facing tables are gone.
    pub undistributed: BTreeSet<TableId>,
    /// What cannot be done, by table.
    pub problems: BTreeMap<TableId, String>,
}

impl Achieved {
    /// Whether the server has loaded exactly these routes. The epoch alone does not say: a node's address, user or
    /// password may change without a new topology.
    pub fn loaded(&self, table: &Routed) -> bool {
        let routes = &table.routes;
        self.epochs.get(&routes.table) == Some(&routes.epoch)
            && self.contents.get(&routes.table) == Some(&table.content)
    }

    /// Notes that the server has.
    pub fn load(&mut self, table: &Routed) {
        self.epochs.insert(table.routes.table, table.routes.epoch);
        self.contents.insert(table.routes.table, table.content);
    }

    /// Keeps what was loaded of those tables only.
    pub fn keep_loaded(&mut self, keep: impl Fn(&TableId) -> bool) {
        self.epochs.retain(|id, _| keep(id));
        self.contents.retain(|id, _| keep(id));
    }

    /// Whether a round has nothing left to do.
    pub fn covers(&self, round: &Round) -> bool {
        let stands =
            |table: &Arc<Routed>| self.distributed.get(&table.routes.table) == Some(&table.distributed);
        round.routes.iter().all(|table| self.loaded(table) && stands(table))
            && self.epochs.len() == round.routes.len()
            && self.distributed.len() == round.routes.len()
            && round.undistribute.keys().all(|id| self.undistributed.contains(id))
            && self.undistributed.len() == round.undistribute.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::table::decide_tests::table;
    use crate::model::node::{ClickHouseEndpoint, Secret};
    use crate::model::routes::{RouteReplica, RouteShard, TableRoutes};
    use crate::model::table::PUBLISHERS_MAX;
    use crate::model::{PartitionRange, ShardId};

    fn routed(endpoint: ClickHouseEndpoint, grouped: bool) -> Arc<Routed> {
        let replica = RouteReplica { node: "n1".parse().unwrap(), endpoint, database: "d".into() };
        let range = PartitionRange::new(0, 4).unwrap();
        let shard = RouteShard { shard: ShardId(0), range, replicas: vec![replica] };
        let shards = vec![shard];
        let group = grouped.then(|| ("read".to_owned(), shards.clone()));
        let table = table(TableState::Active, 3, 1);
        let (id, name, epoch) = (table.id, table.name.clone(), table.epoch);
        let routes = TableRoutes {
            table: id,
            name,
            epoch,
            partitions: 4,
            groups: group.into_iter().collect(),
            shards,
        };
        Arc::new(Routed::new(&table, routes, None))
    }

    fn round(routes: &Arc<Routed>) -> Round {
        Round { routes: vec![routes.clone()], ..Round::default() }
    }

    fn done(achieved: &mut Achieved, routed: &Routed) {
        achieved.load(routed);
        achieved.distributed.insert(routed.routes.table, routed.distributed.clone());
    }

    #[test]
    fn a_file_of_a_later_topology_than_the_stores_is_told_from_one_of_an_earlier() {
        let endpoint = ClickHouseEndpoint {
            host: "h".into(),
            port: 9000,
            secure: false,
            user: String::new(),
            password: Secret::new(""),
        };
        let mut now = round(&routed(endpoint, true));
        let none = Achieved::default();
        let cluster = now.routes[0].routes.cluster();
        let file = |epoch: u64| {
            let other = TableRoutes { epoch: Epoch(epoch), ..now.routes[0].routes.clone() };
            render::render(&[other])
        };
        let at = now.routes[0].routes.epoch;
        assert_eq!(known("", &now, &none), Ok(()));
        // A shard that the store has not made, whatever the epochs.
        let mut record = table(TableState::Active, at.0, 2);
        record.published_by = [(Epoch(at.0 - 1), Publisher(40)), (at, Publisher(70))].into();
        let (id, name) = (record.id, record.name.clone());
        now.records.insert(id, Versioned { record, revision: 80 }.into());
        let naming = |shard| file(at.0 - 1) + &names::replica_database(&name, id, ShardId(shard)) + "<";
        assert_eq!(known(&naming(1), &now, &none), Ok(()));
        assert!(matches!(known(&naming(12), &now, &none), Err(routes::Error::Ahead { .. })));
        // The same epoch, published in a state of the store that is no more.
        let published = |epoch, by| {
            let routes = TableRoutes { epoch: Epoch(epoch), ..now.routes[0].routes.clone() };
            render::file([(&routes, Some(Publisher(by)), "")].into_iter())
        };
        assert_eq!(known(&published(at.0, 70), &now, &none), Ok(()));
        assert_eq!(known(&published(at.0 - 1, 40), &now, &none), Ok(()));
        assert_eq!(known(&published(at.0 - 2, 40), &now, &none), Ok(()), "too long ago");
        let (file_has, store_has) =
            (format!("{at} by {}", Publisher(60)), format!("{at} by {}", Publisher(70)));
        let other = routes::Error::Ahead { cluster: cluster.clone(), file: file_has, store: store_has };
        assert_eq!(known(&published(at.0, 60), &now, &none), Err(other));
        assert_eq!(known(&file(at.0), &now, &none), Ok(()));
        assert_eq!(known(&file(at.0 - 1), &now, &none), Ok(()));
        let (higher, store) = (Epoch(at.0 + 1).to_string(), at.to_string());
        let ahead = routes::Error::Ahead { cluster, file: higher, store };
        assert_eq!(known(&file(at.0 + 1), &now, &none), Err(ahead));
        assert_eq!(
            known(&file(at.0 + 1), &Round::default(), &none),
            Ok(()),
            "of a table that the store does not know"
        );
    }

    #[test]
    fn publishers_are_remembered_by_the_epoch_that_they_began_with() {
        let mut record = table(TableState::Active, 0, 1);
        [7, 7, 9].into_iter().for_each(|by| record.publish(Publisher(by)));
        assert_eq!(record.published_by, [(Epoch(1), Publisher(7)), (Epoch(3), Publisher(9))].into());
        let publishers = [0, 1, 2, 3, 9].map(|epoch| record.publisher(Epoch(epoch)).map(|by| by.0));
        assert_eq!(publishers, [None, Some(7), Some(7), Some(9), Some(9)]);
        (100..300).for_each(|by| record.publish(Publisher(by)));
        assert_eq!(record.published_by.len(), PUBLISHERS_MAX);
        assert_eq!(record.publisher(record.epoch), Some(Publisher(299)));
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
        achieved.load(&routed(endpoint(), false));
        assert!(!achieved.covers(&round(&routed(endpoint(), false))), "the user-facing table is missing");
        done(&mut achieved, &routed(endpoint(), false));
        assert!(achieved.covers(&round(&routed(endpoint(), false))));
        let changed = [
            ClickHouseEndpoint { host: "other".into(), ..endpoint() },
            ClickHouseEndpoint { port: 9001, ..endpoint() },
            ClickHouseEndpoint { secure: true, ..endpoint() },
            ClickHouseEndpoint { user: "other".into(), ..endpoint() },
            ClickHouseEndpoint { password: Secret::new("other"), ..endpoint() },
        ];
        for endpoint in changed {
            let new = routed(endpoint.clone(), false);
            assert!(!achieved.covers(&round(&new)), "{endpoint:?}");
            let mut achieved = achieved.clone();
            done(&mut achieved, &new);
            assert!(achieved.covers(&round(&new)));
        }
        // A group's members change with labels.
        assert!(!achieved.covers(&round(&routed(endpoint(), true))));
        achieved.keep_loaded(|_| false);
        assert!(!achieved.covers(&Round::default()), "a table too many stands");
        achieved.distributed.clear();
        assert!(achieved.covers(&Round::default()) && !achieved.covers(&round(&routed(endpoint(), false))));
    }
}
