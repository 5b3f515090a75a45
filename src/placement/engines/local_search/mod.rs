//! Local search on flat arrays: see `anneal` for the moves, `state` for the energy.

pub mod anneal;
mod ranges;
pub mod state;

use super::repair::standing;
use super::{Engine, Outcome, Progress};
use crate::placement::bound::Prices;
use crate::placement::budget::{Budget, WorkBudget};
use crate::placement::caps::Caps;
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
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        let start = standing(problem);
        if !usable(problem, &start) {
            return Outcome { solution: start, bound: 0.0, work: 1 };
        }
        progress(&Progress { phase: "annealing", bound: 0.0, score: None, best: Some(&start) });
        search(problem, start, &Prices::zero(problem.nodes.len()), (Course::HOT, &[]), seed, budget)
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
    pub const SMALL: Self = Self { heat: (0.1, 0.005), size: (0.01, 30.0), count: (1.0, 10.0) };
    /// After one big replica was put elsewhere: only what makes up for it moves.
    pub const AGAIN: Self = Self { heat: (0.02, 0.005), size: (0.03, 30.0), count: (1.0, 10.0) };
}

/// Anneals from `start` under `prices` until the budget ends, then quenches. The `stuck` slots stay until then.
pub fn search(
    problem: &Problem,
    start: Solution,
    prices: &Prices,
    how: (Course, &[usize]),
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let state = State::new(problem, &start, prices, &Ranges::new(problem, 0.0));
    run(state, how, seed, budget)
}

/// As [`search`], from a `start` that keeps to `caps`, with no more copied than they allow.
pub fn search_within(
    problem: &Problem,
    start: &Solution,
    caps: Caps,
    course: Course,
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let prices = Prices::zero(problem.nodes.len());
    let mut state = State::new(problem, start, &prices, &Ranges::new(problem, 0.0));
    state.limit(caps);
    run(state, (course, &[]), seed, budget)
}

fn run(
    mut state: State<'_>,
    (course, stuck): (Course, &[usize]),
    seed: u64,
    budget: &mut dyn Budget,
) -> Outcome {
    let problem = state.problem;
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let all = movable(problem);
    if !stuck.is_empty() {
        state.stuck = vec![false; problem.replicas()];
        stuck.iter().for_each(|&slot| state.stuck[slot] = true);
    }
    let free: Vec<u32> = all.iter().copied().filter(|&slot| !state.is_stuck(slot as usize)).collect();
    let Course { heat, size, count } = course;
    let mut work = anneal(&mut state, &free, Schedule { heat, size, count }, &mut dice, budget);
    state.stuck.clear();
    let last = (heat.1, heat.1 / 2.0);
    let cold = Schedule { heat: last, size: (size.1, size.1 * 2.0), count: (count.1, count.1) };
    // Never more than the annealing itself took: budgets are small where worlds are huge.
    let few = (problem.replicas() as u64 * 8).min(1 << 22).min(work);
    if few > 0 {
        work += anneal(&mut state, &all, cold, &mut dice, &mut WorkBudget::new(few));
    }
    Outcome { solution: state.solution(), bound: 0.0, work }
}

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
        let mut state = State::new(&problem, &start, &prices, &Ranges::new(&problem, 0.0));
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
}
