//! The default engine: prices, rounding, repair, annealing; anytime.
//!
//! 1. The bound's ascent finds prices for replicas, leaders and bytes on every node, and a lower bound.
//! 2. Each shard takes its cheapest placement under prices that follow the loads: near balance and bound.
//! 3. What breaks a hard rule is repaired.
//! 4. Annealing under the same prices brings counts to their rounding floor and bytes level.
//!    On small worlds it draws near places alone, and ends with a polish of the worst node.
//! 5. There big replicas are put elsewhere one by one, each time followed by a short annealing of the others, in rounds
//!    that go on from the best so far, and integer programs on neighbourhoods take what that leaves.

use super::kicks::Kicks;
use super::local_search::{Course, Dice, How, Places, search, usable};
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
            let places = Places::new(problem, &priced.prices);
            let small =
                Small { problem, priced: &priced, places: places.as_ref(), starts: [&start, &present] };
            small.search(&mut best, seed, share, budget, progress);
            if exact && best.rank.0 == 0 {
                best.work += improve(problem, &mut best.solution, priced.bound, seed, budget, progress);
            }
        } else {
            // Giants may be rounded to where nothing else finds room: then the search starts from what is there.
            let blocked = broken(problem, &start).len() > best.rank.0;
            let (from, course) = if blocked { (present, Course::HOT) } else { (start, Course::WARM) };
            if !blocked {
                // Whoever interrupts the search gets no less.
                best.take(problem, Outcome { solution: from.clone(), bound: 0.0, work: 0 });
            }
            let mut part = Part::new(budget, 0.97);
            best.take(problem, search(problem, from, &priced.prices, How::course(course), seed, &mut part));
            best.tell(priced.bound, progress);
        }
        Outcome { solution: best.solution, bound: priced.bound, work: best.work }
    }
}

/// What all searches of a small world have in common.
#[derive(Clone, Copy)]
struct Small<'a> {
    problem: &'a Problem,
    priced: &'a PricedStart,
    places: Option<&'a Places>,
    starts: [&'a Solution; 2],
}

impl Small<'_> {
    /// Rounds of chains side by side, within `share` of the budget: in the first one each anneals from every start by
    /// itself, then all go on from the best there is.
    fn search(
        self,
        best: &mut Best,
        seed: u64,
        share: f64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) {
        let mut spent = 0.0;
        for round in 0..ROUNDS {
            let part =
                if round == 0 { share * FIRST_ROUND } else { (share - spent) / (ROUNDS - round) as f64 };
            if round > 0 && budget.spend(0) >= 1.0 {
                return;
            }
            // Budgets of threads are parts of what is left.
            let left = part / (1.0 - spent);
            spent += part;
            let seed = seed.wrapping_add(round * ROUND_SEED);
            let from = (round > 0).then_some(&*best);
            for chain in self.chains(from, seed, left, budget) {
                budget.spend(chain.work);
                best.take_best(chain);
            }
            best.tell(self.priced.bound, progress);
        }
    }

    /// Several searches side by side, each with its own draws: the answer depends on no thread's speed under a budget
    /// of work. `part` is of what is left of the budget.
    fn chains(self, from: Option<&Best>, seed: u64, part: f64, budget: &mut dyn Budget) -> Vec<Best> {
        let chain = |number: u64, mut budget: Box<dyn Budget + Send>| {
            let seed = seed.wrapping_mul(CHAINS as u64).wrapping_add(number);
            let mut best = match from {
                Some(best) => Best { work: 0, ..best.clone() },
                None => self.annealed(seed, budget.as_mut()),
            };
            self.kicked(&mut best, seed, budget.as_mut());
            best
        };
        let budgets: Vec<_> = (0..CHAINS).map(|_| budget.for_thread(part, CHAINS)).collect();
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

    /// The better of what annealing makes of the starts, and of the last of them itself.
    fn annealed(self, seed: u64, budget: &mut dyn Budget) -> Best {
        let [_, present] = self.starts;
        let mut best = Best { rank: rank(self.problem, present), solution: present.clone(), work: 0 };
        for (turn, from) in (0u64..).zip(self.starts) {
            let how = How { places: self.places, ..How::course(Course::SMALL) };
            let seed = seed.wrapping_add(turn * 1_000);
            let part = &mut Part::new(budget, FIRST);
            best.take(self.problem, search(self.problem, from.clone(), &self.priced.prices, how, seed, part));
        }
        best
    }

    /// Puts one big replica elsewhere and lets the others make up for it, again and again until the budget ends.
    fn kicked(self, best: &mut Best, seed: u64, budget: &mut dyn Budget) {
        let Self { problem, priced, places, .. } = self;
        let kicks = Kicks::new(problem, &priced.prices);
        let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
        let mut walk = best.solution.clone();
        for turn in 2u64.. {
            if budget.spend(0) >= 1.0 {
                return;
            }
            let mut from = walk.clone();
            let Some(slot) = kicks.kick(&mut from, &mut dice) else { return };
            let mut rest = Part::new(budget, 1.0);
            let own = WorkBudget::new(problem.replicas() as u64 * KICK_WORK);
            let mut part = Both { part: &mut rest, own };
            let how = How { course: Course::AGAIN, stuck: &[slot], places };
            let before = best.rank;
            let found = search(problem, from, &priced.prices, how, seed.wrapping_add(turn), &mut part);
            if found.work == 0 {
                // The replica that was put elsewhere is the only one that may move: nothing can make up for it.
                return;
            }
            let (broken, score) = rank(problem, &found.solution);
            if (broken, score) <= (before.0, before.1 * WORSE) {
                walk.clone_from(&found.solution);
            }
            best.take(problem, found);
        }
    }
}

/// Broken rules first, then the score.
fn rank(problem: &Problem, solution: &Solution) -> (usize, f64) {
    (broken(problem, solution).len(), score(problem, solution).total)
}

/// The best placement so far.
#[derive(Clone)]
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
}

/// Searches side by side on small worlds.
const CHAINS: usize = 2;
/// Rounds of them, each from the best that the one before found.
const ROUNDS: u64 = 4;
/// Which part of the budget the first round takes.
const FIRST_ROUND: f64 = 0.4;
/// Which part of the first round's budget each of a chain's first annealings takes.
const FIRST: f64 = 0.25;
/// From one round's seed to the next one's.
const ROUND_SEED: u64 = 77_777;
/// Fewer replicas than this, and integer programs follow where they are wanted.
const TINY: usize = 1_000;
/// Fewer replicas than this, and big replicas are put elsewhere one by one.
const SMALL: usize = 6_000;
/// How much worse than the best a placement may be from which the next big replica is put elsewhere.
const WORSE: f64 = 1.004;
/// Proposals for every replica after a big one was put elsewhere.
const KICK_WORK: u64 = 1_000;

/// A score that can be reached, found by a short search within a tenth of the budget.
fn scout(problem: &Problem, present: &Solution, seed: u64, budget: &mut dyn Budget) -> f64 {
    let mut part = Part::new(budget, 0.1);
    let mut budget = Both { part: &mut part, own: WorkBudget::new(problem.replicas() as u64 * 100) };
    let prices = Prices::zero(problem.nodes.len());
    let found = search(problem, present.clone(), &prices, How::course(Course::HOT), seed, &mut budget);
    score(problem, &found.solution).total
}
