//! What every actor of one node shares: the node's ports, limits and counters. Cheap to clone.

use super::Neighbours;
use super::throttle::Throttle;
use crate::adapters::clickhouse::ClickHouse;
use crate::adapters::clock::Clock;
use crate::adapters::kafka::Kafka;
use crate::adapters::machine::Boot;
use crate::adapters::routes::RoutesFile;
use crate::model::NodeId;
use crate::telemetry::Metrics;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Clone)]
pub struct NodePorts {
    /// Whose.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: String,
    /// This run of the daemon.
    pub incarnation: u64,
    /// This start of the machine, if it tells.
    pub boot: Option<Boot>,
    /// Group under which offsets are recorded.
    pub group: String,
    /// The ClickHouse server beside the daemon.
    pub clickhouse: Arc<dyn ClickHouse>,
    /// The message queue.
    pub kafka: Arc<dyn Kafka>,
    /// The generated cluster file.
    pub routes: Arc<dyn RoutesFile>,
    /// Time and random numbers.
    pub clock: Arc<dyn Clock>,
    /// Counters.
    pub metrics: Metrics,
    /// How long an insert may take before its outcome counts as unknown.
    pub insert_deadline_ms: u64,
    /// Inserts that may run at once on the node's server, and the memory for their rows.
    pub inserts: InsertRoom,
    /// Partitions that may be looked up at once.
    pub recoveries: Arc<Semaphore>,
    /// Replicas that may be copied to the node at once.
    pub copies: Arc<Semaphore>,
    /// How many those are.
    pub copies_max: u64,
    /// The pace of what is copied to the node.
    pub takes: Throttle,
    /// The pace of all copies in the cluster, of which the node's take their share; 0 is no limit.
    pub cluster_bytes_per_s: u64,
    /// The other daemons.
    pub neighbours: Neighbours,
}

/// Room for inserts: so many at once, so many bytes of rows on their way. An insert too big for all of it goes alone.
#[derive(Clone)]
pub struct InsertRoom {
    inserts: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    kib_max: u32,
}

/// Taken until it is dropped.
pub struct InsertPermit {
    _insert: Option<OwnedSemaphorePermit>,
    _kib: Option<OwnedSemaphorePermit>,
}

impl InsertRoom {
    /// All of it free.
    pub fn new(inserts_at_once: u32, bytes: u64) -> Self {
        let kib_max =
            u32::try_from((bytes >> 10).clamp(1, Semaphore::MAX_PERMITS as u64)).unwrap_or(u32::MAX);
        Self {
            inserts: Arc::new(Semaphore::new(inserts_at_once.max(1) as usize)),
            kib: Arc::new(Semaphore::new(kib_max as usize)),
            kib_max,
        }
    }

    /// Waits for room for an insert of so many bytes of rows.
    pub async fn take(&self, bytes: usize) -> InsertPermit {
        let kib = u32::try_from(bytes >> 10).unwrap_or(u32::MAX).clamp(1, self.kib_max);
        // Nobody closes them.
        let insert = self.inserts.clone().acquire_owned().await.ok();
        InsertPermit { _insert: insert, _kib: self.kib.clone().acquire_many_owned(kib).await.ok() }
    }
}
