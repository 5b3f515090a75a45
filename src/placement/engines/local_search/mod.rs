//! Local search on flat arrays: see `anneal` for the moves, `near` for which of them are worth trying, `state` for the
//! energy, `polish` for the end.

pub mod anneal;
mod near;
mod polish;
mod ranges;
pub mod state;

use super::repair::standing;
use super::{Engine, Outcome, Progress};
use crate::placement::bound::Prices;
use crate::placement::budget::{Both, Budget, Part, WorkBudget};
use crate::placement::caps::Caps;
use crate::placement::policy::Tolerance;
use crate::placement::problem::{NONE, Problem};
use crate::placement::solution::Solution;
pub use anneal::{Dice, Schedule, anneal, level_leaders};
use near::Near;
pub use near::Places;
use polish::polish;
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
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        let start = standing(problem);
        if !usable(problem, &start) {
            return Outcome { solution: start, bound: 0.0, work: 1 };
        }
        progress(&Progress { phase: "annealing", bound: 0.0, score: None, best: Some(&start) });
        search(problem, start, &Prices::zero(problem.nodes.len()), How::course(Course::HOT), seed, budget)
    }
}

/// Whether there is anything to search from: every slot placed, some node to move to.
pub fn usable(problem: &Problem, start: &Solution) -> bool {
    !start.nodes.contains(&NONE) && !problem.balanced.is_empty() && !start.nodes.is_empty()
}

/// How a search anneals: its first temperature, in cost of moving a mean replica, and how steeply loads outside
/// their ranges are charged at the start and at the end (bytes, counts).
#[derive(Debug, Clone, Copy)]
pub struct Course {
    /// First and last temperature.
    pub heat: (f64, f64),
    /// Charge per squared mean replica of bytes.
    pub size: (f64, f64),
    /// Charge per squared replica or leader.
    pub count: (f64, f64),
}

impl Course {
    /// Big worlds, from a placement by good prices.
    pub const WARM: Self = Self { heat: (0.007, 0.001), size: (0.002, 10.0), count: (0.05, 10.0) };
    /// From anything; what works without prices too.
    pub const HOT: Self = Self { heat: (0.05, 0.001), size: (0.01, 10.0), count: (1.0, 10.0) };
    /// Small worlds: big replicas need much heat, and levels end the finer the fewer replicas there are.
    pub const SMALL: Self = Self { heat: (0.1, 0.001), size: (0.01, 30.0), count: (1.0, 10.0) };
    /// After one big replica was put elsewhere: only what makes up for it moves.
    pub const AGAIN: Self = Self { heat: (0.01, 0.001), size: (0.03, 30.0), count: (1.0, 10.0) };
}

/// How to search.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// Temperatures and charges.
    pub course: Course,
    /// Slots that stay until the end.
    pub stuck: &'a [usize],
    /// Where shards are worth trying; everywhere if that is not known.
    pub places: Option<&'a Places>,
}

impl How<'_> {
    /// Everywhere, with nothing held.
    pub fn course(course: Course) -> Self {
        Self { course, stuck: &[], places: None }
    }
}

/// Anneals from `start` under `prices` until the budget ends, then quenches.
pub fn search(
    problem: &Problem,
    start: Solution,
    prices: &Prices,
    how: How<'_>,
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let state = State::new(problem, &start, prices, &Ranges::new(problem, Tolerance::default()));
    run(state, how, seed, budget)
}

/// As [`search`], from a `start` that keeps to the caps, with no more copied than they allow, and towards what can be
/// reached with that.
pub fn search_within(
    problem: &Problem,
    start: &Solution,
    (caps, reachable): (Caps, Tolerance),
    course: Course,
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let prices = Prices::zero(problem.nodes.len());
    let mut state = State::new(problem, start, &prices, &Ranges::new(problem, reachable));
    state.limit(caps);
    run(state, How::course(course), seed, budget)
}

fn run(mut state: State<'_>, how: How<'_>, seed: u64, budget: &mut dyn Budget) -> Outcome {
    let problem = state.problem;
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let all = movable(problem);
    if !how.stuck.is_empty() {
        state.stuck = vec![false; problem.replicas()];
        how.stuck.iter().for_each(|&slot| state.stuck[slot] = true);
    }
    let free: Vec<u32> = all.iter().copied().filter(|&slot| !state.is_stuck(slot as usize)).collect();
    let mut near = how.places.map(Near::new);
    let Course { heat, size, count } = how.course;
    // A limit of time holds for the end too; one of work may be overrun by what the end is bounded by.
    let timed = budget.seconds_left().is_some();
    let mut part = Part::new(budget, if timed { 1.0 - END } else { 1.0 });
    let mut work =
        anneal(&mut state, &free, near.as_mut(), Schedule { heat, size, count }, &mut dice, &mut part);
    state.stuck.clear();
    let last = (heat.1, heat.1 / 2.0);
    let cold = Schedule { heat: last, size: (size.1, size.1 * 2.0), count: (count.1, count.1) };
    // Never more than the annealing itself took: budgets are small where worlds are huge.
    let few = (problem.replicas() as u64 * 8).min(1 << 22).min(work);
    let own = WorkBudget::new(few);
    if few > 0 && timed {
        work += anneal(&mut state, &all, near.as_mut(), cold, &mut dice, &mut Both { part: budget, own });
    } else if few > 0 {
        work += anneal(&mut state, &all, near.as_mut(), cold, &mut dice, &mut { own });
    }
    if near.is_some() && state.weighs_no_more() {
        work += polish(&mut state, work);
    }
    Outcome { solution: state.solution(), bound: 0.0, work }
}

/// Which part of its time a search ends with.
const END: f64 = 0.04;

/// Slots that may change.
fn movable(problem: &Problem) -> Vec<u32> {
    let shards = (0..problem.shards()).filter(|&shard| !problem.frozen[shard]);
    shards.flat_map(|shard| problem.slots(shard)).map(|slot| slot as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::policy::{Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    #[test]
    fn an_exchange_costs_what_its_moves_do_one_after_the_other() {
        let nodes = (0..4).map(|zone| NodeSpec {
            zone,
            rack: zone,
            capacity_bytes: 1 << 20,
            weight: 1.0,
            takes: true,
            holds: true,
        });
        let shard = |n: u32| ShardSpec {
            load: Load {
                bytes: u64::from(10 + n * n),
                write_rate: f64::from(n % 5),
                read_rate: f64::from(n % 3),
            },
            table: n % 2,
            replicas: 1,
            present: vec![n * n % 4],
            ..ShardSpec::default()
        };
        let weights = Weights { per_table: 3.0, writes: 2.0, reads: 5.0, ..Weights::YARDSTICK };
        let policy = Policy { weights, ..Policy::default() };
        let problem = Problem::new(nodes.collect::<Vec<_>>(), (0..16).map(shard), &policy);
        let start = Solution { nodes: (0..16).map(|n| n * n % 4).collect() };
        let prices = Prices::zero(problem.nodes.len());
        let mut state = State::new(&problem, &start, &prices, &Ranges::new(&problem, Tolerance::default()));
        let mut tried = 0;
        for slot in 0..16 {
            for other in 0..16 {
                let (a, b) = (state.nodes[slot], state.nodes[other]);
                if a == b {
                    continue;
                }
                let at_once = state.exchange(slot, other);
                let first = state.relocation(slot, b);
                state.relocate(slot, b);
                let second = state.relocation(other, a);
                state.relocate(other, a);
                assert!(
                    (at_once - first - second).abs() < 1e-9,
                    "{slot} {other}: {at_once}, {first}, {second}"
                );
                tried += 1;
            }
        }
        assert!(tried > 100);
    }

    pub(super) fn full_world(capacities: &[u64], shards: &[(u64, u32)], weights: Weights) -> Problem {
        let node = |(n, &capacity_bytes): (usize, &u64)| {
            let zone = n as u32;
            NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
        };
        let shard = |&(bytes, on): &(u64, u32)| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas: 1,
            present: vec![on],
            ..ShardSpec::default()
        };
        let policy = Policy { weights, watermark: 1.0, hysteresis: 0.0, ..Policy::default() };
        Problem::new(capacities.iter().enumerate().map(node).collect(), shards.iter().map(shard), &policy)
    }

    #[test]
    fn a_node_may_be_filled_to_its_last_byte_and_not_beyond() {
        // Both nodes are exactly full; node 2 has room for exactly 30 more.
        let shards = [(30, 0), (70, 0), (29, 1), (71, 1), (7, 2)];
        let problem = full_world(&[100, 100, 37], &shards, Weights::YARDSTICK);
        let start = standing(&problem);
        let prices = Prices::zero(3);
        let state = State::new(&problem, &start, &prices, &Ranges::new(&problem, Tolerance::default()));
        let step = 500.0;
        assert!(state.relocation(0, 2).abs() < step, "fills the node exactly: {}", state.relocation(0, 2));
        assert!(state.relocation(1, 2) > step, "70 do not fit");
        assert!(state.exchange(0, 2) > step, "node 1 would hold a byte too much: {}", state.exchange(0, 2));
        assert!(state.exchange(1, 3) > step && state.has_room(2, 30) && !state.has_room(2, 31));
    }

    #[test]
    fn goals_of_no_weight_copy_nothing() {
        let shards: Vec<(u64, u32)> = (0..40).map(|s| (10 + s % 7, 0)).collect();
        let weights = Weights { replicas: 0.0, leaders: 0.0, bytes: 0.0, ..Weights::YARDSTICK };
        let problem = full_world(&[1000, 1000, 1000], &shards, weights);
        for engine in [&LocalSearch as &dyn Engine, &crate::placement::engines::Greedy] {
            let found = engine.solve(&problem, 1, &mut WorkBudget::new(100_000), &mut |_| {});
            let name = engine.name();
            assert_eq!(crate::placement::objective::moved(&problem, &found.solution), (0, 0, 0), "{name}");
        }
    }

    #[test]
    fn only_how_weights_stand_to_each_other_counts() {
        let shards: Vec<(u64, u32)> = (0..40).map(|s| (10 + s * s % 37, s as u32 % 2)).collect();
        let solve = |by: f64| {
            let mut weights = Weights { bytes: 2.0, moved: 0.5, ..Weights::YARDSTICK };
            Weights::NAMES.into_iter().for_each(|name| *weights.named(name).expect("a goal") *= by);
            let problem = full_world(&[1000, 1000, 2000], &shards, weights);
            let budget = &mut WorkBudget::new(100_000);
            crate::placement::decide(
                &problem,
                &crate::placement::engines::Hybrid::HEURISTIC,
                1,
                budget,
                &mut |_| {},
            )
        };
        let (one, seven) = (solve(1.0), solve(7.0));
        assert_eq!(one.solution, seven.solution);
        assert!((one.after.total * 7.0 - seven.after.total).abs() < 1e-9);
        assert!((one.bound * 7.0 - seven.bound).abs() < 1e-6 && one.bound <= one.after.total);
    }

    #[test]
    fn a_limit_of_time_holds_for_the_end_of_a_search_too() {
        struct Clock(u64);
        impl Budget for Clock {
            fn spend(&mut self, work: u64) -> f64 {
                self.0 += work;
                self.0 as f64 / 100_000.0
            }
            fn seconds_left(&mut self) -> Option<f64> {
                Some(1.0)
            }
            fn for_thread(&mut self, _: f64, _: usize) -> Box<dyn Budget + Send> {
                Box::new(Clock(self.0))
            }
        }
        let shards: Vec<(u64, u32)> = (0..3000).map(|s| (10 + s % 7, 0)).collect();
        let problem = full_world(&[100_000; 3], &shards, Weights::YARDSTICK);
        let mut clock = Clock(0);
        let found = LocalSearch.solve(&problem, 1, &mut clock, &mut |_| {});
        // A look at the clock comes every 4096 proposals.
        assert!((90_000..=104_096).contains(&found.work), "{}", found.work);
    }
}
