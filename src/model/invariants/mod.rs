//! The system's invariants as predicates: what may never be seen in the store's records, whatever was decided.
//!
//! Each looks at the view before a change and after it, and says what is broken. The mirror of every daemon asks them
//! with each change and counts what they find; the simulator asks them after every step. They repeat no decision's
//! reasoning, so that a wrong decision does not pass its own test. What records do not show is not looked at here:
//! a lost row (NO-LOSS) is found by the replica, what readers still see (RETIRE) by reports, time (SETTLES) by nobody
//! in production. Pure.

pub mod fenced;
pub mod keep_copies;
pub mod one_epoch;
pub mod settles;
pub mod valid;
pub mod zones;

#[cfg(test)]
#[path = "fixture_tests.rs"]
mod fixture;

use super::view::ClusterView;
use std::fmt;

/// The names of `ARCHITECTURE.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// A query reads one topology, which covers every partition once.
    OneEpoch,
    /// A message ends in every replica or in the dead-letter topic.
    NoLoss,
    /// Who was deposed changes nothing.
    Fenced,
    /// A complete copy goes only when enough others stay.
    KeepCopies,
    /// Replicas of a shard are where they may be.
    Valid,
    /// Without events plans end.
    Settles,
    /// What readers may still see is not dropped.
    Retire,
    /// Nothing is wrong, late or refused without being told.
    NotSilent,
}

impl Invariant {
    /// As in metrics, tests and documents.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OneEpoch => "ONE-EPOCH",
            Self::NoLoss => "NO-LOSS",
            Self::Fenced => "FENCED",
            Self::KeepCopies => "KEEP-COPIES",
            Self::Valid => "VALID",
            Self::Settles => "SETTLES",
            Self::Retire => "RETIRE",
            Self::NotSilent => "NOT-SILENT",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Something that may not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant it breaks.
    pub invariant: Invariant,
    /// What was seen, for a person.
    pub what: String,
}

impl Violation {
    fn new(invariant: Invariant, what: impl Into<String>) -> Self {
        Self { invariant, what: what.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// All predicates. `after` may be any number of changes later than `before`. Nothing is found if `after` is of an
/// earlier revision: the store was restored from a backup, and its history is another one.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    if !before.complete || !after.complete || after.revision < before.revision {
        return Vec::new();
    }
    let predicates = [fenced::check, keep_copies::check, one_epoch::check, settles::check, valid::check];
    predicates.iter().flat_map(|predicate| predicate(before, after)).collect()
}
