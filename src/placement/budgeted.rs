//! The best placement of which no more is copied than a budget of bytes and copies allows.
//!
//! Copied bytes get a price: the engine is asked with ever dearer bytes until it copies little enough, then between
//! the last two prices. What it finds is cut to the budget where it is above it. Then the budget is a constraint: of
//! one integer program on small worlds, of local search on others. Each price proves a bound as well: what the engine
//! proves at it, less what the price is paid for all that may be copied.

use super::budget::{Budget, Part};
use super::caps::{Caps, reachable};
use super::constraint::broken;
use super::engines::local_search::{Course, search_within, usable};
use super::engines::milp::{BINARIES_MAX, PROGRAM, Part as Program, limits};
use super::engines::{Engine, Outcome, Progress};
use super::goals::within;
use super::objective::{moved, score};
use super::problem::Problem;
use super::solution::Solution;

/// How often the engine is asked again with another price.
const PRICES: u32 = 4;
/// The same where an integer program follows, which needs the rest of the budget.
const PRICES_EXACT: u32 = 1;
/// Share of what is left of the budget that the engine takes each time.
const SHARE: f64 = 0.25;
/// Share of what is left of the budget that goes to prices: the search at the end needs the rest.
const PRICING: f64 = 0.85;
/// The first price of all bytes, over what the policy weighs them.
const FIRST: f64 = 1.0;
/// By how much the price grows while still too much is copied.
const GROWTH: f64 = 4.0;

/// Finds it, from `base`, the repaired present; what `base` copies is not held back. With it comes what the engine
/// found that copies too much, if it did.
pub(super) fn best_within(
    problem: &Problem,
    base: &Solution,
    engine: &dyn Engine,
    seed: u64,
    budget: &mut dyn Budget,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> (Outcome, Option<Solution>) {
    let caps = Caps::of(problem, base);
    // What the engine has meanwhile copies too much, or is scored by other weights.
    let mut quiet = |said: &Progress<'_>| progress(&Progress { score: None, best: None, ..said.clone() });
    let first = engine.solve(problem, seed, &mut Part::new(budget, SHARE), &mut quiet);
    let mut best = Best { problem, caps, outcome: Outcome { solution: base.clone(), ..first.clone() } };
    let fits = caps.allow(moved(problem, &first.solution));
    if fits {
        // The budget seems to be no limit: the engine gets the rest of its time.
        best.take(first.solution.clone());
        if !best.is_exact(engine) {
            let again = engine.solve(problem, seed, &mut Part::new(budget, 1.0), &mut quiet);
            best.outcome.bound = best.outcome.bound.max(again.bound);
            best.outcome.work += again.work;
            best.take(again.solution);
            return (best.outcome, None);
        }
    } else {
        best.take(within(problem, base, &first.solution));
        best.price(base, engine, seed, &mut Part::new(budget, PRICING), &mut quiet);
    }
    if usable(problem, &best.outcome.solution) {
        best.refine(base, engine, seed, budget, progress);
    }
    (best.outcome, (!fits).then_some(first.solution))
}

/// The best placement so far that keeps to the caps.
struct Best<'a> {
    problem: &'a Problem,
    caps: Caps,
    outcome: Outcome,
}

impl Best<'_> {
    fn take(&mut self, found: Solution) {
        let rank =
            |solution: &Solution| (broken(self.problem, solution).len(), score(self.problem, solution).total);
        if self.caps.allow(moved(self.problem, &found)) && rank(&found) < rank(&self.outcome.solution) {
            self.outcome.solution = found;
        }
    }

    /// Asks the engine at prices that make it copy about as much as the caps allow.
    fn price(
        &mut self,
        base: &Solution,
        engine: &dyn Engine,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) {
        let (problem, caps) = (self.problem, self.caps);
        let (mut low, mut high) = (0.0, f64::INFINITY);
        let prices = if self.is_exact(engine) { PRICES_EXACT } else { PRICES };
        for _ in 0..prices {
            if caps.bytes == u64::MAX || budget.spend(0) >= 1.0 {
                break;
            }
            let price = match (low, high) {
                (0.0, f64::INFINITY) => FIRST,
                (low, f64::INFINITY) => low * GROWTH,
                (low, high) => (low.max(high / GROWTH / GROWTH) * high).sqrt(),
            };
            let mut dearer = problem.clone();
            dearer.policy.weights.moved += price;
            let found = engine.solve(&dearer, seed, &mut Part::new(budget, SHARE), progress);
            let paid = price * caps.bytes as f64 / problem.total_bytes.max(1.0);
            self.outcome.bound = self.outcome.bound.max(found.bound - paid);
            self.outcome.work += found.work;
            let fits = caps.allow(moved(problem, &found.solution));
            self.take(if fits { found.solution } else { within(problem, base, &found.solution) });
            if fits {
                high = price;
            } else {
                low = price;
            }
        }
    }

    /// Whether the budget ends as a constraint of one integer program.
    fn is_exact(&self, engine: &dyn Engine) -> bool {
        engine.is_exact()
            && Program::binaries(self.problem.shards(), self.problem.nodes.len()) <= BINARIES_MAX
    }

    /// With the caps as a constraint.
    fn refine(
        &mut self,
        base: &Solution,
        engine: &dyn Engine,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) {
        let problem = self.problem;
        let exact = self.is_exact(engine);
        let bound = self.outcome.bound;
        progress(&Progress {
            phase: "within the budget",
            bound,
            score: None,
            best: Some(&self.outcome.solution),
        });
        let share = if exact { 0.1 } else { 1.0 };
        let start = self.outcome.solution.clone();
        let aim = (self.caps, reachable(problem, base, self.caps));
        let found = search_within(problem, &start, aim, Course::AGAIN, seed, &mut Part::new(budget, share));
        self.outcome.work += found.work;
        self.take(found.solution);
        if !exact {
            return;
        }
        let start = self.outcome.solution.clone();
        let program = Program::whole(problem, &start).within(self.caps);
        progress(&Progress { phase: PROGRAM, bound, score: None, best: Some(&start) });
        if let Some(found) = program.solve(&limits(budget, 1e-4)) {
            budget.spend(found.work);
            self.outcome.work += found.work;
            self.outcome.bound = self.outcome.bound.max(found.bound);
            self.take(found.solution);
        }
    }
}
