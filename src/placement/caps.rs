//! How much may be copied in all: bytes and copies.

use super::objective::moved;
use super::problem::Problem;
use super::solution::Solution;

/// The most that may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes.
    pub bytes: u64,
    /// Copies.
    pub copies: u64,
}

impl Caps {
    /// No limit.
    pub const NONE: Self = Self { bytes: u64::MAX, copies: u64::MAX };

    /// What the policy allows, or what `base`, the repaired present, copies if that is more: repairs come first.
    pub fn of(problem: &Problem, base: &Solution) -> Self {
        let (bytes, copies, _) = moved(problem, base);
        let most = |max: Option<u64>, base: u64| max.map_or(u64::MAX, |max| max.max(base));
        Self { bytes: most(problem.policy.bytes_max, bytes), copies: most(problem.policy.moves_max, copies) }
    }

    /// Whether so many bytes and copies are allowed; leader changes, the third, are free.
    pub fn allow(&self, (bytes, copies, _): (u64, u64, u64)) -> bool {
        bytes <= self.bytes && copies <= self.copies
    }
}
