//! Where a leader's trace goes: the port, files on disk, and memory for the simulator.
//!
//! What is told must never hold an actor up, so nothing here waits: what cannot be taken is refused, and the trace is
//! begun anew later, from a whole snapshot.

mod files;
mod memory;

pub use files::{FileRecording, Unwritable};
pub use memory::MemoryRecording;

/// Takes traces, line by line. Called by actors: returns at once.
pub trait Recording: Send + Sync + 'static {
    /// Begins a new trace with these lines, each without its end. `false`: it cannot be begun now.
    fn begin(&self, start_unix_ms: u64, term: i64, lines: Vec<String>) -> bool;

    /// Goes on with the trace that was begun last. `false`: a new one has to be begun, since this one is full, or lines
    /// of it were lost.
    fn append(&self, lines: Vec<String>) -> bool;
}
