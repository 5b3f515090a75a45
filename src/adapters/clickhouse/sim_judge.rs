//! What a judge sees of a simulated server: all of it, at once, also while the server is down. No part of the port.

use super::sim_rows::HeldRows;
use super::{ClusterReplica, Error, SimClickHouse};
use crate::model::PartitionId;
use std::collections::BTreeMap;
use std::sync::Arc;

impl SimClickHouse {
    /// Rows of a replica, and how many of them it holds more than once.
    pub fn rows(&self, database: &str) -> (u64, u64) {
        self.world().replicas.get(database).map_or((0, 0), |replica| (replica.row_count(), replica.doubled()))
    }

    /// Everything that a partition of a replica holds, for judging; the port's own verb takes time and may fail.
    pub fn contents(&self, database: &str, partition: PartitionId) -> Vec<(i64, u32)> {
        let world = self.world();
        let rows = world.replicas.get(database).and_then(|replica| replica.rows.get(&partition.0));
        rows.map(|rows| rows.from(i64::MIN)).unwrap_or_default()
    }

    /// Bytes of all replicas, also while the server is down: for judging.
    pub fn bytes(&self) -> u64 {
        self.world().replicas.values().map(|replica| replica.bytes).sum()
    }

    /// Whether it answers.
    pub fn is_up(&self) -> bool {
        self.world().up
    }

    /// A cluster as queries begun now would use it; `None` while the server is down or knows none of that name.
    pub fn topology(&self, cluster: &str) -> Option<Arc<Vec<ClusterReplica>>> {
        let world = self.world();
        world.clusters.get(cluster).filter(|_| world.up).cloned()
    }

    /// What stands in a replica's local table, also while the server is down: for judging.
    pub fn peek(&self, database: &str) -> Option<BTreeMap<PartitionId, HeldRows>> {
        let world = self.world();
        let rows = world.replicas.get(database)?.rows.iter();
        Some(rows.map(|(partition, rows)| (PartitionId(*partition), rows.clone())).collect())
    }

    /// What a query finds in a replica's local table at this moment, by partition.
    ///
    /// # Errors
    /// [`Error::Unreachable`] while the server is down, [`Error::Missing`] if the database is not there.
    pub fn read(&self, database: &str) -> Result<BTreeMap<PartitionId, HeldRows>, Error> {
        let mut world = self.world();
        world.check_up()?;
        let rows = world.replica(database)?.rows.iter();
        Ok(rows.map(|(partition, rows)| (PartitionId(*partition), rows.clone())).collect())
    }
}
