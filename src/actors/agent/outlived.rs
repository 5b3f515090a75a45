//! Removing a replica database whose parts live on in others: what a split or merge linked out of it must be on the
//! disk first. Not when it is linked: then rows stand still.

use super::reconcile::{self, Found};
use crate::adapters::clickhouse::{self, ClickHouse};
use crate::model::NodeId;
use crate::model::table::{ShardState, TableState};
use crate::model::view::ClusterView;
use std::sync::Arc;

/// Whether others may have been made out of a left-over database on its node: its shard was split or merged.
pub fn was_linked(view: &ClusterView, node: &NodeId, database: &str) -> bool {
    let Found::Left(table, shard) = reconcile::judge(view, node, database) else { return false };
    let dropping = view.tables.get(&table).is_some_and(|table| table.record.state == TableState::Dropping);
    let over = view.shard(table, shard).is_none_or(|shard| shard.state == ShardState::Retired);
    over && !dropping
}

/// Removes a replica database; if others were linked from it, once all is on the disk. Tells why that cannot be seen to
/// from here, if so, and what came of the removal.
pub async fn remove(
    server: Arc<dyn ClickHouse>,
    database: String,
    linked: bool,
) -> (Option<String>, Result<(), clickhouse::Error>) {
    let unseen = match if linked { server.sync_disks().await } else { Ok(()) } {
        Ok(()) => None,
        Err(clickhouse::Error::NotByParts(why)) => Some(why),
        Err(error) => return (None, Err(error)),
    };
    (unseen, server.drop_replica(&database).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clickhouse::{ReplicaTables, SimClickHouse};
    use crate::adapters::routes::SimRoutes;

    #[tokio::test(start_paused = true)]
    async fn what_was_linked_is_on_the_disk_before_its_source_goes() {
        const DATABASE: &str = "d__t__cvh00000000_s0";
        let server = SimClickHouse::new(SimRoutes::new());
        let ddl = "CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a";
        let (_, schema) = server.parse_ddl(ddl, 1).await.unwrap();
        for (linked, syncs) in [(false, 0), (true, 1)] {
            let tables = ReplicaTables { database: DATABASE.into(), schema: schema.clone() };
            server.create_replica(&tables).await.unwrap();
            let removed = remove(Arc::new(server.clone()), DATABASE.into(), linked).await;
            assert_eq!((removed, server.syncs()), ((None, Ok(())), syncs));
            assert!(!server.has_local(DATABASE).await.unwrap());
        }
        server.create_replica(&ReplicaTables { database: DATABASE.into(), schema }).await.unwrap();
        server.set_sync(Err(clickhouse::Error::NotByParts("no disk here".into())));
        let removed = remove(Arc::new(server.clone()), DATABASE.into(), true).await;
        assert_eq!(removed, (Some("no disk here".to_owned()), Ok(())), "it is not held up");
        let broken = clickhouse::Error::Overloaded { code: 0, message: "input/output error".into() };
        server.set_sync(Err(broken.clone()));
        let removed = remove(Arc::new(server.clone()), DATABASE.into(), true).await;
        assert_eq!(removed, (None, Err(broken)), "and here it is");
    }
}
