//! The default engine: prices, rounding, repair, annealing; anytime.
//!
//! 1. The bound's ascent finds prices for replicas, leaders and bytes on every node, and a lower bound.
//! 2. Each shard takes its cheapest placement under prices that follow the loads: near balance and bound.
//! 3. What breaks a hard rule is repaired.
//! 4. Annealing under the same prices brings counts to their rounding floor and bytes level.
//! 5. On small worlds big replicas are put elsewhere one by one, each time followed by a short annealing of the
//!    others, and integer programs on neighbourhoods take what that leaves.

use super::kicks::Kicks;
use super::local_search::{Course, Dice, search, usable};
use super::neighbourhood::improve;
use super::repair::{repair, standing};
use super::{Engine, Outcome, Progress};
use crate::placement::bound::{PricedStart, Prices, prices_and_bound, wants_aim};
use crate::placement::budget::{Both, Budget, Part, WorkBudget};
use crate::placement::constraint::broken;
use crate::placement::objective::score;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

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

    fn proves(&self) -> bool {
        true
    }

    fn is_exact(&self) -> bool {
        self.exact
    }

    fn solve(
        &self,
        problem: &Problem,
        seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        let present = standing(problem);
        if !usable(problem, &present) {
            return Outcome { solution: present, bound: 0.0, work: 1 };
        }
        progress(&Progress { phase: "prices", bound: 0.0, score: None, best: Some(&present) });
        let above = if wants_aim(problem) { scout(problem, &present, seed, budget) } else { f64::INFINITY };
        let priced = prices_and_bound(problem, above, &mut Part::new(budget, 0.3));
        let reach = score(problem, &present).total - priced.bound;
        if reach < problem.policy.hysteresis && broken(problem, &present).is_empty() {
            return Outcome { solution: present, bound: priced.bound, work: priced.work };
        }
        let mut start = priced.solution.clone();
        repair(problem, &mut start);
        progress(&Progress { phase: "annealing", bound: priced.bound, score: None, best: Some(&present) });
        let mut best = Best { rank: rank(problem, &present), solution: present.clone(), work: priced.work };
        if problem.replicas() < SMALL {
            let exact = self.exact && problem.replicas() < TINY && problem.balanced.len() > 1;
            let share = if exact { 0.75 } else { 1.0 };
            for chain in chains(problem, &priced, [&start, &present], seed, share, budget) {
                budget.spend(chain.work);
                best.take_best(chain);
            }
            best.tell(priced.bound, progress);
            if exact && best.rank.0 == 0 {
                best.work += improve(problem, &mut best.solution, priced.bound, seed, budget, progress);
            }
        } else {
            // Giants may be rounded to where nothing else finds room: then the search starts from what is there.
            let blocked = broken(problem, &start).len() > best.rank.0;
            let (from, course) = if blocked { (present, Course::HOT) } else { (start, Course::WARM) };
            let mut part = Part::new(budget, 0.97);
            best.take(problem, search(problem, from, &priced.prices, (course, &[]), seed, &mut part));
            best.tell(priced.bound, progress);
        }
        Outcome { solution: best.solution, bound: priced.bound, work: best.work }
    }
}

/// Several searches side by side, each with its own draws: the answer depends on no thread's speed under a budget
/// of work.
fn chains(
    problem: &Problem,
    priced: &PricedStart,
    starts: [&Solution; 2],
    seed: u64,
    share: f64,
    budget: &mut dyn Budget,
) -> Vec<Best> {
    let chain = |number: u64, mut budget: Box<dyn Budget + Send>| {
        let seed = seed.wrapping_mul(CHAINS as u64).wrapping_add(number);
        let [_, present] = starts;
        let mut best = Best { rank: rank(problem, present), solution: present.clone(), work: 0 };
        for (turn, from) in (0u64..).zip(starts) {
            let mut part = Part::new(budget.as_mut(), FIRST);
            let seed = seed.wrapping_add(turn * 1_000);
            best.take(
                problem,
                search(problem, from.clone(), &priced.prices, (Course::SMALL, &[]), seed, &mut part),
            );
        }
        best.kicked(problem, priced, seed, budget.as_mut());
        best
    };
    let budgets: Vec<_> = (0..CHAINS).map(|_| budget.for_thread(share, CHAINS)).collect();
    std::thread::scope(|scope| {
        let numbered = budgets.into_iter().enumerate();
        let threads: Vec<_> =
            numbered.map(|(number, budget)| scope.spawn(move || chain(number as u64, budget))).collect();
        // A panic in a search is a defect: it goes on here and is not hidden behind the other's answer.
        let joined = |thread: std::thread::ScopedJoinHandle<'_, Best>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(joined).collect()
    })
}

/// Broken rules first, then the score.
fn rank(problem: &Problem, solution: &Solution) -> (usize, f64) {
    (broken(problem, solution).len(), score(problem, solution).total)
}

/// The best placement so far.
struct Best {
    rank: (usize, f64),
    solution: Solution,
    work: u64,
}

impl Best {
    fn tell(&self, bound: f64, progress: &mut dyn FnMut(&Progress<'_>)) {
        let (score, best) = (Some(self.rank.1), Some(&self.solution));
        progress(&Progress { phase: "annealing", bound, score, best });
    }

    fn take(&mut self, problem: &Problem, found: Outcome) {
        let rank = rank(problem, &found.solution);
        self.work += found.work;
        if rank < self.rank {
            (self.rank, self.solution) = (rank, found.solution);
        }
    }

    fn take_best(&mut self, other: Self) {
        self.work += other.work;
        if other.rank < self.rank {
            (self.rank, self.solution) = (other.rank, other.solution);
        }
    }

    /// Puts one big replica elsewhere and lets the others make up for it, again and again until the budget ends.
    fn kicked(&mut self, problem: &Problem, priced: &PricedStart, seed: u64, budget: &mut dyn Budget) {
        let kicks = Kicks::new(problem, &priced.prices);
        let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
        let mut walk = self.solution.clone();
        for turn in 2u64.. {
            if budget.spend(0) >= 1.0 {
                return;
            }
            let mut from = walk.clone();
            let Some(slot) = kicks.kick(&mut from, &mut dice) else { return };
            let mut rest = Part::new(budget, 1.0);
            let own = WorkBudget::new(problem.replicas() as u64 * KICK_WORK);
            let mut part = Both { part: &mut rest, own };
            let course = (Course::AGAIN, &[slot][..]);
            let seed = seed.wrapping_add(turn);
            let before = self.rank;
            let found = search(problem, from, &priced.prices, course, seed, &mut part);
            if found.work == 0 {
                // The replica that was put elsewhere is the only one that may move: nothing can make up for it.
                return;
            }
            let (broken, score) = rank(problem, &found.solution);
            if (broken, score) <= (before.0, before.1 * WORSE) {
                walk.clone_from(&found.solution);
            }
            self.take(problem, found);
        }
    }
}

/// Searches side by side on small worlds.
const CHAINS: usize = 2;
/// Which part of a chain's budget each of its first annealings takes.
const FIRST: f64 = 0.12;
/// Fewer replicas than this, and integer programs follow where they are wanted.
const TINY: usize = 1_000;
/// Fewer replicas than this, and big replicas are put elsewhere one by one.
const SMALL: usize = 6_000;
/// How much worse than the best a placement may be from which the next big replica is put elsewhere.
const WORSE: f64 = 1.004;
/// Proposals for every replica after a big one was put elsewhere.
const KICK_WORK: u64 = 500;

/// A score that can be reached, found by a short search within a tenth of the budget.
fn scout(problem: &Problem, present: &Solution, seed: u64, budget: &mut dyn Budget) -> f64 {
    let mut part = Part::new(budget, 0.1);
    let mut budget = Both { part: &mut part, own: WorkBudget::new(problem.replicas() as u64 * 100) };
    let prices = Prices::zero(problem.nodes.len());
    let found = search(problem, present.clone(), &prices, (Course::HOT, &[]), seed, &mut budget);
    score(problem, &found.solution).total
}
