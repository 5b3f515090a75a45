//! The exact engine: the whole problem as one integer program, from the best placement that the default engine's
//! heuristics find in a third of the budget.
//!
//! HiGHS finds nothing useful cold from some ten thousand binaries on and then overruns every limit, so worlds with
//! more than [`BINARIES_MAX`] are refused. Under a work limit the search tree is cut instead of the time, so that
//! the answer repeats exactly.

mod model;
mod rows;

use super::hybrid::Hybrid;
use super::local_search::usable;
use super::{Engine, Outcome, Progress};
use crate::placement::budget::{Budget, Part as Share};
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
pub use model::{Found, MilpLimits, Part};

/// What progress calls it.
pub const PROGRAM: &str = "integer program";

/// Binaries that one model may have.
pub const BINARIES_MAX: usize = 5_000;
/// Work units that a node of the search tree counts for at the least.
const TREE_NODE_WORK: f64 = 20_000.0;

/// The integer program.
#[derive(Debug, Clone, Copy, Default)]
pub struct Milp;

impl Engine for Milp {
    fn name(&self) -> &'static str {
        "milp"
    }

    fn proves(&self) -> bool {
        true
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn refuses(&self, problem: &Problem) -> Option<String> {
        let binaries = Part::binaries(problem.shards(), problem.nodes.len());
        (binaries > BINARIES_MAX).then(|| {
            format!(
                "the milp engine takes up to {BINARIES_MAX} binaries, and {} shards on {} nodes are {binaries}",
                problem.shards(),
                problem.nodes.len()
            )
        })
    }

    fn solve(
        &self,
        problem: &Problem,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        let start = Hybrid::HEURISTIC.solve(problem, seed, &mut Share::new(budget, 0.33), progress);
        if self.refuses(problem).is_some() || !usable(problem, &start.solution) {
            return start;
        }
        let part = Part::whole(problem, &start.solution);
        progress(&Progress { phase: PROGRAM, bound: start.bound, score: None, best: Some(&start.solution) });
        let found = part.solve(&limits(budget, 1e-4));
        let Some(found) = found else { return start };
        let work = start.work + found.work;
        budget.spend(found.work);
        let solution: Solution = found.solution;
        let best = Some(&solution);
        progress(&Progress { phase: PROGRAM, bound: found.bound, score: Some(found.score), best });
        Outcome { solution, bound: start.bound.max(found.bound), work }
    }
}

/// What is left of a budget, for HiGHS: seconds if the budget has a clock, else a cut search tree.
pub fn limits(budget: &mut dyn Budget, gap: f64) -> MilpLimits {
    // HiGHS looks at its clock between its own phases only: it gets less than there is.
    let seconds = budget.seconds_left().map(|seconds| seconds * 0.85);
    let work = budget.work_left();
    let tree_nodes = match seconds {
        Some(_) if work <= 0.0 => u64::from(u32::MAX >> 1),
        _ => (work / TREE_NODE_WORK).clamp(1.0, 1e6) as u64,
    };
    MilpLimits { seconds, tree_nodes, gap }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::constraint::broken;
    use crate::placement::objective::score;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    fn world(nodes: u32, sizes: &[u64]) -> Problem {
        let node = |n| NodeSpec {
            zone: n % 3,
            rack: n,
            capacity_bytes: 1000,
            weight: 1.0,
            takes: n != 1,
            holds: n != 1,
        };
        let shard = |(s, &bytes): (usize, &u64)| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas: 2,
            present: vec![s as u32 % 2, 2],
            ..ShardSpec::default()
        };
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        Problem::new((0..nodes).map(node).collect(), sizes.iter().enumerate().map(shard), &policy)
    }

    #[test]
    fn a_small_world_is_solved_to_its_bound() {
        let problem = world(5, &[30, 20, 20, 15, 10, 10, 5, 5]);
        let solve = || Milp.solve(&problem, 1, &mut WorkBudget::new(3_000_000), &mut |_| {});
        let found = solve();
        let reached = score(&problem, &found.solution).total;
        assert!(broken(&problem, &found.solution).is_empty());
        assert!(found.bound <= reached + 1e-9 && reached <= found.bound * 1.01, "{} {reached}", found.bound);
        assert_eq!(solve().solution, found.solution);
    }

    #[test]
    fn a_part_changes_nothing_else_and_never_for_the_worse() {
        let problem = world(6, &[30, 20, 20, 15, 10, 10, 5, 5]);
        let base = crate::placement::engines::repair::standing(&problem);
        let limits = MilpLimits { seconds: None, tree_nodes: 100, gap: 1e-6 };
        let found = Part::new(&problem, &base, &[0, 3, 4], &[0, 3]).solve(&limits).expect("HiGHS answers");
        assert!(found.score <= score(&problem, &base).total && found.bound <= found.score + 1e-9);
        for shard in 0..problem.shards() {
            let (before, after) = (base.of(&problem, shard), found.solution.of(&problem, shard));
            for (old, new) in before.iter().zip(after).filter(|(old, new)| old != new) {
                let open = |node: &u32| [0, 3].contains(node);
                assert!(
                    [0, 3, 4].contains(&shard) && open(old) && open(new),
                    "{shard}: {before:?} {after:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_too_big_is_refused_with_the_reason() {
        let problem = world(60, &[1; 50]);
        let reason = Milp.refuses(&problem).expect("too big");
        assert!(reason.contains("6000") && reason.contains("5000"), "{reason}");
        assert!(Milp.refuses(&world(5, &[1; 8])).is_none());
    }
}
