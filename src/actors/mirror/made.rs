//! Views that several daemons of one process make of one store: each is made once.
//!
//! In the simulator a thousand daemons follow one store. The view that one of them has made of a batch is taken by all
//! others that come to the same batch from an equal view: nothing is decoded twice, and what they know is in memory
//! once. A daemon by itself has nobody to share with. Changes no outcome: a mirror that has missed something has
//! another view before the batch, and so makes the one after it by itself.

use crate::adapters::metadata::Revision;
use crate::model::invariants::Violation;
use crate::model::view::{ClusterView, Touched};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Views that are remembered: followers are a few revisions apart at most.
const KEPT: usize = 32;

/// What became of a view by a batch.
#[derive(Clone)]
pub(super) struct Made {
    /// The view after it.
    pub view: ClusterView,
    /// What it touched.
    pub touched: Arc<Touched>,
    /// What it broke.
    pub broken: Vec<Violation>,
}

struct Step {
    before: ClusterView,
    batch: Batch,
    made: Made,
}

/// Which batch: the revision that it brings, and whether it is a snapshot.
pub(super) type Batch = (Revision, bool);

/// See the module. Clones are handles on the same memory.
#[derive(Clone, Default)]
pub struct MadeViews(Arc<Mutex<VecDeque<Step>>>);

impl MadeViews {
    fn steps(&self) -> MutexGuard<'_, VecDeque<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What another daemon has made of that batch on an equal view.
    pub(super) fn made(&self, before: &ClusterView, batch: Batch) -> Option<Made> {
        let steps = self.steps();
        let same = |step: &&Step| step.batch == batch && step.before == *before;
        steps.iter().rev().find(same).map(|step| step.made.clone())
    }

    /// Remembers what was made.
    pub(super) fn remember(&self, before: ClusterView, batch: Batch, made: Made) {
        let mut steps = self.steps();
        if steps.len() >= KEPT {
            steps.pop_front();
        }
        steps.push_back(Step { before, batch, made });
    }
}
