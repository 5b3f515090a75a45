//! What happened in a run: one readable row a decision, and a digest of everything.
//!
//! The digest takes in each call of each port with its virtual time and ending, so two runs that differ anywhere
//! differ here; the rows take in what the leader wrote and what the script did. Kept in memory; rows are few.

use super::rows::stamp;
use crate::adapters::clock::{Clock, SimClock};
use crate::adapters::faults::Witness;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

#[derive(Debug)]
struct Log {
    hash: u64,
    events: u64,
    rows: Vec<String>,
    violations: Vec<String>,
    /// Which line wrote which revision of the store.
    authors: BTreeMap<i64, String>,
}

/// A run's journal. Clones are handles on the same one.
#[derive(Clone)]
pub struct Journal {
    clock: Arc<SimClock>,
    log: Arc<Mutex<Log>>,
}

impl Journal {
    /// An empty one, in the time of that clock.
    pub fn new(clock: Arc<SimClock>) -> Self {
        let log = Log {
            hash: FNV_OFFSET,
            events: 0,
            rows: Vec::new(),
            violations: Vec::new(),
            authors: BTreeMap::new(),
        };
        Self { clock, log: Arc::new(Mutex::new(log)) }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, parts: [&str; 3]) {
        let now_ms = self.clock.now_ms();
        let mut log = self.log();
        log.events += 1;
        let mut hash = log.hash;
        let mut take = |bytes: &[u8]| {
            for byte in bytes {
                hash = (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
            }
        };
        take(&now_ms.to_le_bytes());
        for part in parts {
            take(part.as_bytes());
            take(&[0]);
        }
        log.hash = hash;
    }

    /// Writes a row.
    pub fn row(&self, text: &str) {
        self.hash(["row", text, ""]);
        let row = format!("{} {text}", stamp(self.clock.now_ms()));
        self.log().rows.push(row);
    }

    /// Takes something into the digest that is not worth a row.
    pub fn note(&self, what: &str, value: &str) {
        self.hash(["note", what, value]);
    }

    /// An invariant does not hold.
    pub fn violation(&self, id: &str, text: &str) {
        self.row(&format!("VIOLATION {id}: {text}"));
        let told = format!("{} {id}: {text}", stamp(self.clock.now_ms()));
        self.log().violations.push(told);
    }

    /// Which line wrote a revision of the store, if one did; told once.
    pub fn take_author(&self, revision: i64) -> Option<String> {
        self.log().authors.remove(&revision)
    }

    /// Rows so far.
    pub fn rows(&self) -> Vec<String> {
        self.log().rows.clone()
    }

    /// Violations so far.
    pub fn violations(&self) -> Vec<String> {
        self.log().violations.clone()
    }

    /// The first violation, if there is one.
    pub fn first_violation(&self) -> Option<String> {
        self.log().violations.first().cloned()
    }

    /// Events taken in, and their digest.
    pub fn digest(&self) -> (u64, u64) {
        let log = self.log();
        (log.events, log.hash)
    }
}

impl Witness for Journal {
    fn saw(&self, line: &str, verb: &str, ending: &str) {
        self.hash([line, verb, ending]);
    }

    fn wrote(&self, line: &str, revision: i64) {
        self.log().authors.insert(revision, line.to_owned());
    }
}
