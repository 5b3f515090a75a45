//! Why a simulated run is not what it should be.

use super::rows::stamp;

/// Says when, in virtual time, and what.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {what}", stamp(*.at_ms))]
pub struct Failure {
    /// When.
    pub at_ms: u64,
    /// What.
    pub what: String,
}
