//! Traces in memory, for the simulator.

use super::Recording;
use std::sync::{Arc, Mutex, MutexGuard};

/// See the module. Clones share what is recorded.
#[derive(Debug, Clone, Default)]
pub struct MemoryRecording(Arc<Mutex<Vec<String>>>);

impl MemoryRecording {
    /// All traces so far as text, oldest first.
    pub fn traces(&self) -> Vec<String> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Recording for MemoryRecording {
    fn begin(&self, _: u64, _: i64, lines: Vec<String>) -> bool {
        self.lock().push(super::files::text(&lines));
        true
    }

    fn append(&self, lines: Vec<String>) -> bool {
        let mut traces = self.lock();
        let Some(trace) = traces.last_mut() else { return false };
        trace.push_str(&super::files::text(&lines));
        true
    }
}
