//! Local search on flat arrays: see `anneal` for the moves, `state` for the energy.

pub mod anneal;
mod ranges;
pub mod state;

use super::repair::standing;
use super::{Engine, Outcome, Progress};
use crate::placement::bound::Prices;
use crate::placement::budget::{Budget, WorkBudget};
use crate::placement::problem::{NONE, Problem};
use crate::placement::solution::Solution;
pub use anneal::{Dice, Schedule, anneal, level_leaders};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;
pub use ranges::zone_floor;
pub use state::{Ranges, State};

/// Annealing from what is there, without prices.
#[derive(Debug, Clone, Copy, Default)]
pub struct LocalSearch;

impl Engine for LocalSearch {
    fn name(&self) -> &'static str {
        "local-search"
    }

    fn solve(
        &self,
        problem: &Problem,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress),
    ) -> Outcome {
        let start = standing(problem);
        if !usable(problem, &start) {
            return Outcome { solution: start, bound: 0.0, work: 1 };
        }
        progress(&Progress { phase: "annealing", bound: 0.0, score: None });
        search(problem, start, &Prices::zero(problem.nodes.len()), 0.05, seed, budget)
    }
}

/// Whether there is anything to search from: every slot placed, some node to move to.
pub fn usable(problem: &Problem, start: &Solution) -> bool {
    !start.nodes.contains(&NONE) && !problem.balanced.is_empty() && !start.nodes.is_empty()
}

/// Anneals from `start` under `prices` until the budget ends, then quenches. `heat` is the first temperature,
/// in cost of moving a mean replica; small worlds need more of it.
pub fn search(
    problem: &Problem,
    start: Solution,
    prices: &Prices,
    heat: f64,
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let mut state = State::new(problem, &start, prices, &Ranges::new(problem, 0.0));
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let movable = movable(problem);
    let soft = if heat > 0.01 { (0.01, 1.0) } else { (0.002, 0.05) };
    let schedule = Schedule { heat: (heat, 0.001), size: (soft.0, 10.0), count: (soft.1, 10.0) };
    let mut work = anneal(&mut state, &movable, schedule, &mut dice, budget);
    let cold = Schedule { heat: (0.001, 0.0005), size: (10.0, 20.0), count: (10.0, 10.0) };
    let few = (problem.replicas() as u64 * 8).min(1 << 22);
    work += anneal(&mut state, &movable, cold, &mut dice, &mut WorkBudget::new(few));
    Outcome { solution: state.solution(), bound: 0.0, work }
}

/// Slots that may change.
fn movable(problem: &Problem) -> Vec<u32> {
    let shards = (0..problem.shards()).filter(|&shard| !problem.frozen[shard]);
    shards.flat_map(|shard| problem.slots(shard)).map(|slot| slot as u32).collect()
}
