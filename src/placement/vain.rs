//! Takes back what a search moved in vain: copies and leader changes without which the score is no worse.
//!
//! Annealing ends at a small heat, and charges every node's excess where the score counts the worst node's alone: a few
//! copies may be left that brought nothing. It looks at one change at a time, and moves nothing elsewhere.

use super::candidates::Loads;
use super::constraint::fits;
use super::objective::score;
use super::problem::{NONE, Problem};
use super::solution::{Solution, held};

/// What it may cost in all, in loads looked at: some tenths of a second, whatever the world. With a thousand nodes
/// that is enough for the first few thousand changes.
const COST_MAX: usize = 100_000_000;
/// Loads that a look at a change reads on each node: five kinds, before and after.
const LOOK: usize = 10;
/// Rounds: what is taken back may make something else vain.
const ROUNDS: usize = 3;

/// Takes back every copy, and every change of a leader, without which the rules hold as well and the score is no worse.
pub fn take_back(problem: &Problem, solution: &mut Solution) {
    let mut allowed = COST_MAX;
    for _ in 0..ROUNDS {
        let copied: Vec<(usize, usize)> = copies(problem, solution).collect();
        let led: Vec<(usize, usize)> = leaders(problem, solution).collect();
        let mut back = Back::new(problem, solution, allowed);
        copied.into_iter().for_each(|(shard, slot)| back.copy(shard, slot));
        led.into_iter().for_each(|(shard, slot)| back.leader(shard, slot));
        allowed = back.allowed;
        if !back.any {
            return;
        }
    }
}

/// Slots whose replica is a copy, by shard.
fn copies<'a>(problem: &'a Problem, solution: &'a Solution) -> impl Iterator<Item = (usize, usize)> + 'a {
    (0..problem.shards()).filter(|&shard| !problem.frozen[shard]).flat_map(move |shard| {
        let placed = solution.of(problem, shard);
        let new = move |slot: &usize| placed[*slot] != NONE && !problem.holds(shard, placed[*slot]);
        (0..placed.len()).filter(new).map(move |slot| (shard, slot))
    })
}

/// Shards that another replica leads now, and where the one that led stands.
fn leaders<'a>(problem: &'a Problem, solution: &'a Solution) -> impl Iterator<Item = (usize, usize)> + 'a {
    (0..problem.shards()).filter(|&shard| !problem.frozen[shard]).filter_map(|shard| {
        let leader = Some(problem.leader(shard)).filter(|leader| *leader != NONE)?;
        let at = solution.of(problem, shard).iter().position(|&node| node == leader)?;
        (at > 0).then_some((shard, at))
    })
}

struct Back<'a> {
    problem: &'a Problem,
    solution: &'a mut Solution,
    loads: Loads<'a>,
    total: f64,
    /// What the term of tables can change by one replica, which the loads do not tell.
    tables: f64,
    /// What may still be spent.
    allowed: usize,
    any: bool,
}

impl<'a> Back<'a> {
    fn new(problem: &'a Problem, solution: &'a mut Solution, allowed: usize) -> Self {
        let loads = Loads::but_tables(problem, held(problem, solution));
        let tables = problem.policy.weights.per_table / (problem.replicas() as f64).max(1.0);
        let total = score(problem, solution).total;
        Self { problem, solution, loads, total, tables, allowed, any: false }
    }

    /// Whether that may still be spent, which it is then.
    fn spends(&mut self, cost: usize) -> bool {
        let left = self.allowed.checked_sub(cost);
        self.allowed = left.unwrap_or(0);
        left.is_some()
    }

    /// What a whole score costs.
    fn scoring(&self) -> usize {
        let problem = self.problem;
        let tables =
            if self.tables > 0.0 { problem.tables * problem.nodes.len() + problem.shards() } else { 0 };
        3 * problem.replicas() + tables
    }

    /// A copy: its replica stays on one of the nodes that it was to leave.
    fn copy(&mut self, shard: usize, slot: usize) {
        let problem = self.problem;
        let placed = self.solution.of(problem, shard).to_vec();
        if problem.is_pinned(shard, placed[slot]) || !self.spends(LOOK * problem.nodes.len()) {
            return;
        }
        let left = problem.present(shard).iter().copied().filter(|node| !placed.contains(node));
        let may = |&node: &u32| {
            let bytes = self.loads.held[node as usize].bytes + problem.bytes[shard];
            fits(problem, shard, &placed, slot, node) && bytes as f64 <= problem.room_bytes(node)
        };
        let change = |node: u32| self.loads.gone(shard, &placed, slot, node).sum();
        let best = left.filter(may).map(|node| (change(node), node)).min_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((change, node)) = best {
            let at = problem.slots(shard).start + slot;
            self.try_out(change, |solution| solution.nodes[at] = node);
        }
    }

    /// The leader that it had leads on.
    fn leader(&mut self, shard: usize, at: usize) {
        let first = self.problem.slots(shard).start;
        let placed = self.solution.of(self.problem, shard);
        let (leads, led) = (placed[0], placed[at]);
        if leads != NONE && self.spends(LOOK * self.problem.nodes.len()) {
            let change = self.loads.led(shard, leads, led).sum();
            self.try_out(change, |solution| solution.nodes.swap(first, first + at));
        }
    }

    /// Does what is no worse, `change` being what it changes of the score but for tables.
    fn try_out(&mut self, change: f64, doing: impl FnOnce(&mut Solution)) {
        if change > self.tables + ROUNDING || !self.spends(self.scoring()) {
            return;
        }
        let mut next = self.solution.clone();
        doing(&mut next);
        let total = score(self.problem, &next).total;
        if total <= self.total + ROUNDING {
            self.loads.held = held(self.problem, &next);
            (*self.solution, self.total, self.any) = (next, total, true);
        }
    }
}

/// Sums in another order differ by less.
const ROUNDING: f64 = 1e-12;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Load;
    use crate::placement::policy::{Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};

    fn problem(replicas: u32, shards: &[(u64, &[u32])]) -> Problem {
        let node =
            |n| NodeSpec { zone: n, rack: n, capacity_bytes: 100, weight: 1.0, takes: true, holds: true };
        let shard = |&(bytes, on): &(u64, &[u32])| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas,
            present: on.to_vec(),
            ..ShardSpec::default()
        };
        let policy = Policy { weights: Weights::YARDSTICK, hysteresis: 0.0, ..Policy::default() };
        Problem::new((0..3).map(node).collect(), shards.iter().map(shard), &policy)
    }

    fn taken_back(problem: &Problem, nodes: &[u32]) -> Vec<u32> {
        let mut solution = Solution { nodes: nodes.to_vec() };
        take_back(problem, &mut solution);
        solution.nodes
    }

    #[test]
    fn what_brings_nothing_is_taken_back_and_what_does_is_not() {
        let on_first = problem(1, &[(10, &[0]), (10, &[0]), (10, &[0])]);
        assert_eq!(taken_back(&on_first, &[0, 1, 2]), [0, 1, 2], "even");
        let even = problem(1, &[(10, &[0]), (10, &[1]), (10, &[2])]);
        assert_eq!(taken_back(&even, &[1, 0, 2]), [1, 0, 2], "one by one neither may go back");
        assert_eq!(taken_back(&even, &[0, 2, 2]), [0, 1, 2]);
        let full = problem(1, &[(80, &[0]), (20, &[0]), (1, &[1])]);
        assert_eq!(taken_back(&full, &[0, 2, 1]), [0, 2, 1], "there is no room for it any more");
        let led = problem(2, &[(10, &[0, 1]), (10, &[1, 2]), (10, &[2, 0])]);
        assert_eq!(taken_back(&led, &[1, 0, 1, 2, 2, 0]), [0, 1, 1, 2, 2, 0], "two leaders on node 1");
        let new = problem(2, &[(10, &[])]);
        assert_eq!(taken_back(&new, &[0, NONE]), [0, NONE], "a hole is no leader");
    }
}
