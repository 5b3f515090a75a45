//! What every actor of one node shares: the node's ports, limits and counters. Cheap to clone.

use crate::adapters::clickhouse::ClickHouse;
use crate::adapters::clock::Clock;
use crate::adapters::kafka::Kafka;
use crate::adapters::routes::RoutesFile;
use crate::model::NodeId;
use crate::telemetry::Metrics;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// See the module.
#[derive(Clone)]
pub struct NodePorts {
    /// Whose.
    pub node: NodeId,
    /// Of which cluster.
    pub cluster: String,
    /// This run of the daemon.
    pub incarnation: u64,
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
    /// Inserts that may run at once on the node's server.
    pub inserts: Arc<Semaphore>,
    /// How long an insert may take before its outcome counts as unknown.
    pub insert_deadline_ms: u64,
    /// Partitions that may be looked up at once.
    pub recoveries: Arc<Semaphore>,
    /// Replicas that may be copied to the node at once.
    pub copies: Arc<Semaphore>,
}
