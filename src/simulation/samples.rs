//! A run looked at from time to time: what each node holds, where each shard is, how far ingest is behind. For reports.

use super::cluster::Cluster;
use crate::model::table::{ReplicaState, ShardState};
use crate::model::{NodeId, names};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Shards beyond which a sample shows no places and no lag.
pub(super) const PLACES_MAX: usize = 2_000;

/// One node at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct NodeSample {
    /// Replicas that it should hold.
    pub replicas: u64,
    /// Partitions of shards in the topology that it should hold: a split or a merge changes nothing in it.
    pub partitions: u64,
    /// Shards that it leads.
    pub leaders: u64,
    /// Bytes of its disk that are taken, others' included.
    pub disk_used_bytes: u64,
    /// Its disk.
    pub disk_bytes: u64,
    /// Bytes that its server holds.
    pub bytes: u64,
    /// Its daemon holds a lease.
    pub live: bool,
    /// Its server answers.
    pub up: bool,
}

/// One shard at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShardSample {
    /// Table and number.
    pub name: String,
    /// First partition and one past the last.
    pub range: (u32, u32),
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Where readers go.
    pub ready: Vec<NodeId>,
    /// Where else a copy is, or is made.
    pub other: Vec<NodeId>,
}

/// The cluster at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// Virtual time.
    pub at_ms: u64,
    /// By node.
    pub nodes: BTreeMap<NodeId, NodeSample>,
    /// Messages that the worst readable replica lacks; none where there are too many to look at.
    pub lag: Option<u64>,
    /// In order; empty if there are too many.
    pub shards: Vec<ShardSample>,
}

impl Cluster {
    /// Takes a sample every so often, to the end of the run.
    pub fn start_samples(&self, every_ms: u64) {
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            loop {
                let sample = cluster.sample();
                cluster.0.samples.borrow_mut().push(sample);
                tokio::time::sleep(Duration::from_millis(every_ms)).await;
            }
        });
    }

    /// The samples taken.
    pub fn samples(&self) -> Vec<Sample> {
        self.0.samples.borrow().clone()
    }

    pub(super) fn sample(&self) -> Sample {
        let view = self.view();
        let mut nodes: BTreeMap<NodeId, NodeSample> = BTreeMap::new();
        for id in self.node_ids() {
            let server = self.server(id.as_str());
            let up = server.as_ref().is_some_and(|server| server.is_up());
            let (disk_bytes, free) = server.as_ref().map_or((0, 0), |server| server.disk());
            let disk_used_bytes = disk_bytes - free;
            let bytes = server.map_or(0, |server| server.bytes());
            nodes.insert(
                id.clone(),
                NodeSample {
                    bytes,
                    disk_bytes,
                    disk_used_bytes,
                    live: view.is_live(&id),
                    up,
                    ..NodeSample::default()
                },
            );
        }
        let few = view.all_shards().count() <= PLACES_MAX;
        let (mut shards, mut lag) = (Vec::new(), few.then_some(0));
        for table in view.tables.values().map(|table| &table.record) {
            for shard in view.shards_of(table.id) {
                let database = names::replica_database(&table.name, table.id, shard.id);
                for replica in &shard.replicas {
                    let leads = shard.leader.as_ref() == Some(&replica.node);
                    let node = nodes.entry(replica.node.clone()).or_default();
                    node.replicas += 1;
                    if shard.state == ShardState::Serving {
                        node.partitions += u64::from(shard.range.width());
                    }
                    node.leaders += u64::from(leads);
                    if few && replica.state == ReplicaState::Ready {
                        lag = lag.max(Some(self.lacked(table, shard, &replica.node, &database, 0)));
                    }
                }
                if few {
                    let (ready, other): (Vec<_>, Vec<_>) =
                        shard.replicas.iter().partition(|replica| replica.state == ReplicaState::Ready);
                    let node = |replica: &crate::model::Replica| replica.node.clone();
                    shards.push(ShardSample {
                        name: format!("{} {}", table.name, shard.id),
                        range: (shard.range.lo(), shard.range.hi()),
                        leader: shard.leader.clone(),
                        ready: ready.into_iter().map(node).collect(),
                        other: other.into_iter().map(node).collect(),
                    });
                }
            }
        }
        Sample { at_ms: self.now_ms(), nodes, lag, shards }
    }
}
