//! What the leader knows from heartbeats. Starts empty with each term; nothing of it is stored.

use crate::model::NodeId;
use crate::model::balance::PlannedSize;
use crate::model::observed::Heartbeat;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// The newest reports.
#[derive(Debug, Default)]
pub struct Reports {
    /// Last heartbeat, by node.
    pub heartbeats: BTreeMap<NodeId, Heartbeat>,
    /// Grows whenever a report says something new, or a node becomes fit or unfit.
    pub news: u64,
    /// When it came, on the leader's clock.
    pub received_ms: BTreeMap<NodeId, u64>,
    /// Since when the node has been fit to lead shards; absent if it is not.
    pub fit_since_ms: BTreeMap<NodeId, u64>,
    /// Since when it has not been, as far as this leader knows; absent if it is.
    pub unfit_since_ms: BTreeMap<NodeId, u64>,
}

impl Reports {
    /// A report in place of the node's last.
    pub fn take(&mut self, heartbeat: Heartbeat) {
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
