//! The default engine: prices, rounding, repair, annealing; anytime.
//!
//! 1. The bound's ascent finds prices for replicas, leaders and bytes on every node, and a lower bound.
//! 2. Each shard takes its cheapest placement under prices that follow the loads: near balance and bound.
//! 3. What breaks a hard rule is repaired.
//! 4. Annealing under the same prices brings counts to their rounding floor and bytes level.
//! 5. On small worlds integer programs on neighbourhoods take what annealing leaves.

use super::local_search::{search, usable};
use super::neighbourhood::improve;
use super::repair::{repair, standing};
use super::{Engine, Outcome, Progress};
use crate::placement::bound::{Prices, prices_and_bound, wants_aim};
use crate::placement::budget::{Budget, Part, WorkBudget};
use crate::placement::constraint::broken;
use crate::placement::objective::score;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// Prices, rounding, annealing, and integer programs on neighbourhoods.
#[derive(Debug, Clone, Copy, Default)]
pub struct Hybrid {
    exact: bool,
}

impl Hybrid {
    /// With integer programs after annealing, on worlds that are small enough for them.
    pub const EXACT: Self = Self { exact: true };
    /// Without them: what actors use, since HiGHS may overrun its limits.
    pub const HEURISTIC: Self = Self { exact: false };
}

impl Engine for Hybrid {
    fn name(&self) -> &'static str {
        "hybrid"
    }

    fn solve(
        &self,
        problem: &Problem,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress),
    ) -> Outcome {
        let present = standing(problem);
        if !usable(problem, &present) {
            return Outcome { solution: present, bound: 0.0, work: 1 };
        }
        progress(&Progress { phase: "prices", bound: 0.0, score: None });
        let above = if wants_aim(problem) { scout(problem, &present, seed, budget) } else { f64::INFINITY };
        let priced = prices_and_bound(problem, above, &mut Part::new(budget, 0.3));
        let reach = score(problem, &present).total - priced.bound;
        if reach < problem.policy.hysteresis && broken(problem, &present).is_empty() {
            return Outcome { solution: present, bound: priced.bound, work: priced.work };
        }
        let mut start = priced.solution;
        repair(problem, &mut start);
        progress(&Progress { phase: "annealing", bound: priced.bound, score: None });
        let small = problem.replicas() < SMALL;
        let exact = self.exact && small && problem.balanced.len() > 1;
        let mut whole = Part::new(budget, if exact { 0.5 } else { 1.0 });
        let starts = if small { &STARTS[..] } else { &STARTS[..1] };
        // Giant shards may be rounded to where nothing else finds room: then the search starts from what is there.
        let blocked = broken(problem, &start).len() > broken(problem, &present).len();
        let (mut best, mut work) = (present.clone(), priced.work);
        let mut least = rank(problem, &best);
        for (turn, &heat) in starts.iter().enumerate() {
            let heat = if starts.len() > 1 || blocked { heat } else { HEAT };
            let share = 0.97 / (starts.len() - turn) as f64;
            let mut part = Part::new(&mut whole, share);
            let seed = seed.wrapping_add(turn as u64);
            let from = if turn % 2 == 0 && !blocked { start.clone() } else { present.clone() };
            let found = search(problem, from, &priced.prices, heat, seed, &mut part);
            let found_rank = rank(problem, &found.solution);
            work += found.work;
            if found_rank < least {
                (best, least) = (found.solution, found_rank);
            }
            progress(&Progress { phase: "annealing", bound: priced.bound, score: Some(least.1) });
            if whole.spend(0) >= 1.0 {
                break;
            }
        }
        if exact && broken(problem, &best).is_empty() {
            work += improve(problem, &mut best, priced.bound, seed, budget, progress);
        }
        Outcome { solution: best, bound: priced.bound, work }
    }
}

/// Broken rules first, then the score.
fn rank(problem: &Problem, solution: &Solution) -> (usize, f64) {
    (broken(problem, solution).len(), score(problem, solution).total)
}

/// Fewer replicas than this, and annealing starts several times at these heats; else once at `HEAT`.
const SMALL: usize = 6_000;
const STARTS: [f64; 4] = [0.05, 0.1, 0.05, 0.02];
const HEAT: f64 = 0.007;

/// A score that can be reached, found by a short search within a tenth of the budget.
fn scout(problem: &Problem, present: &Solution, seed: u64, budget: &mut dyn Budget) -> f64 {
    let mut part = Part::new(budget, 0.1);
    let mut budget = Both { part: &mut part, own: WorkBudget::new(problem.replicas() as u64 * 100) };
    let prices = Prices::zero(problem.nodes.len());
    let found = search(problem, present.clone(), &prices, STARTS[0], seed, &mut budget);
    score(problem, &found.solution).total
}

/// Ends when either of two budgets does.
struct Both<'a> {
    part: &'a mut dyn Budget,
    own: WorkBudget,
}

impl Budget for Both<'_> {
    fn spend(&mut self, work: u64) -> f64 {
        self.part.spend(work).max(self.own.spend(work))
    }
}
