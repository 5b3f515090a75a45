//! The baseline that keeps what is there, and only repairs broken hard rules.

use super::repair::standing;
use super::{Engine, Outcome, Progress};
use crate::placement::budget::Budget;
use crate::placement::problem::Problem;

/// Keeps what is there.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pinned;

impl Engine for Pinned {
    fn name(&self) -> &'static str {
        "pinned"
    }

    fn solve(
        &self,
        problem: &Problem,
        _seed: u64,
        budget: &mut dyn Budget,
        _progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        let solution = standing(problem);
        budget.spend(problem.replicas() as u64);
        Outcome { solution, bound: 0.0, work: problem.replicas() as u64 }
    }
}
