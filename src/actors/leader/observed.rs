//! What the leader knows from heartbeats. Starts empty with each term; nothing of it is stored.

use crate::model::NodeId;
use crate::model::balance::PlannedSize;
use crate::model::observed::Heartbeat;
use crate::model::shared::Shared;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The newest reports.
#[derive(Debug, Default)]
pub struct Reports {
    /// Last heartbeat, by node.
    pub heartbeats: BTreeMap<NodeId, Shared<Heartbeat>>,
    /// Grows whenever a report says something new, or a node becomes fit or unfit.
    pub news: u64,
    /// When it came, on the leader's clock.
    pub received_ms: BTreeMap<NodeId, u64>,
    /// Since when the node has been fit to lead shards; absent if it is not.
    pub fit_since_ms: BTreeMap<NodeId, u64>,
    /// Since when it has not been, as far as this leader knows; absent if it is.
    pub unfit_since_ms: BTreeMap<NodeId, u64>,
    /// Since when it certainly answers nobody: its daemon holds no lease, or says so of its server, just now. One that
    /// this leader does not hear from may do so all the same.
    pub dark_since_ms: BTreeMap<NodeId, u64>,
}

impl Reports {
    /// A report in place of the node's last.
    pub fn take(&mut self, heartbeat: Shared<Heartbeat>) {
        if self.heartbeats.get(&heartbeat.node) != Some(&heartbeat) {
            self.news += 1;
            self.heartbeats.insert(heartbeat.node.clone(), heartbeat);
        }
    }
}

/// Shared by the leader half's actors: written by node actors, read by all.
#[derive(Debug, Clone, Default)]
pub struct Observed(Arc<RwLock<Reports>>);

impl Observed {
    /// Held for a moment only, never over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, Reports> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The same.
    pub fn write(&self) -> RwLockWriteGuard<'_, Reports> {
        self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// How balancing stands, as far as this term has looked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balancing {
    /// The newest plan.
    pub planned: Option<PlannedSize>,
    /// Why nothing can be planned.
    pub waits_for: Option<String>,
    /// Bytes a second that copies brought to a node lately; `None` before there was any.
    pub pace_bytes_per_s: Option<u64>,
}

/// Fewer bytes say nothing of a copy's pace.
const TELLING_BYTES: u64 = 16 << 20;

impl Balancing {
    /// Takes in how fast copies are now, on average of the nodes that get any: smoothed over some rounds.
    pub fn measure(&mut self, heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>) {
        let of_node = |heartbeat: &Shared<Heartbeat>| -> u64 {
            let replicas = heartbeat.replicas.values().flat_map(BTreeMap::values);
            let copies = replicas.filter_map(|replica| replica.seeding.as_ref());
            let telling = copies.filter(|copy| copy.bytes_moved >= TELLING_BYTES && copy.elapsed_ms >= 1_000);
            telling.map(|copy| copy.bytes_moved.saturating_mul(1_000) / copy.elapsed_ms).sum()
        };
        let nodes: Vec<u64> = heartbeats.values().map(of_node).filter(|pace| *pace > 0).collect();
        if nodes.is_empty() {
            return;
        }
        let now = nodes.iter().sum::<u64>() / nodes.len() as u64;
        let before = self.pace_bytes_per_s.unwrap_or(now);
        self.pace_bytes_per_s = Some((before / 4 * 3 + now / 4).max(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::observed::{ReplicaObservation, Seeding};
    use crate::model::{ShardId, TableId};

    #[test]
    fn the_pace_is_what_nodes_took_in_lately() {
        let copies = |copies: &[(u64, u64)]| {
            let seeding = |(bytes_moved, elapsed_ms): &(u64, u64)| {
                let (bytes_moved, elapsed_ms) = (*bytes_moved, *elapsed_ms);
                let seeding = Some(Seeding { bytes_moved, elapsed_ms, ..Seeding::default() });
                ReplicaObservation { seeding, ..ReplicaObservation::default() }
            };
            let of: BTreeMap<ShardId, ReplicaObservation> =
                (0..).map(ShardId).zip(copies.iter().map(seeding)).collect();
            BTreeMap::from([(TableId(uuid::Uuid::nil()), of)])
        };
        let node = |name: &str, replicas| {
            let node: NodeId = name.parse().unwrap();
            let heartbeat = Heartbeat::of_healthy(node.clone(), replicas);
            (node, Shared::from(heartbeat))
        };
        let mut seen = Balancing::default();
        seen.measure(&BTreeMap::from([node("n1", copies(&[(1, 5_000)]))]));
        assert_eq!(seen.pace_bytes_per_s, None, "too little to tell");
        let two = copies(&[(400 << 20, 4_000), (200 << 20, 4_000)]);
        let heartbeats = BTreeMap::from([
            node("n1", two),
            node("n2", copies(&[(200 << 20, 4_000)])),
            node("n3", copies(&[])),
        ]);
        seen.measure(&heartbeats);
        assert_eq!(seen.pace_bytes_per_s, Some(100 << 20), "150 and 50 MiB/s");
        seen.measure(&BTreeMap::from([node("n1", copies(&[(80 << 20, 4_000)]))]));
        assert_eq!(seen.pace_bytes_per_s, Some(80 << 20));
    }
}

/// The balancer's word for those who ask. A lock of its own: it is written while reports are read.
#[derive(Debug, Clone, Default)]
pub struct Seen(Arc<Mutex<Balancing>>);

impl Seen {
    /// As it stands.
    pub fn get(&self) -> Balancing {
        self.lock().clone()
    }

    /// Held for a moment only, never over an await.
    pub fn lock(&self) -> MutexGuard<'_, Balancing> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
