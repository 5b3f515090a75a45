//! Goals narrower than the whole objective: leaders alone, and a part of the way to a placement.
//!
//! Each starts from the repaired present; none asks an engine.

use super::bound::Prices;
use super::budget::Budget;
use super::caps::{Caps, reachable};
use super::engines::local_search::{Ranges, State, level_leaders, usable};
use super::objective::{deviation, moved, score};
use super::policy::Tolerance;
use super::problem::{NONE, Problem};
use super::solution::{Solution, held};

/// Levels leaders with no copy, from `base`.
pub fn leaders(problem: &Problem, base: &Solution, seed: u64, budget: &mut dyn Budget) -> Solution {
    if !usable(problem, base) {
        return base.clone();
    }
    let prices = Prices::zero(problem.nodes.len());
    let mut state = State::new(problem, base, &prices, &Ranges::new(problem, Tolerance::default()));
    level_leaders(&mut state, seed, budget);
    let found = state.solution();
    if score(problem, &found).total < score(problem, base).total { found } else { base.clone() }
}

/// As much of the way from `base` to `target` as `bytes_max` and `moves_max` allow, the most balance per byte
/// first. What `base` copies (repairs of hard rules) comes first and is not held back.
pub fn within(problem: &Problem, base: &Solution, target: &Solution) -> Solution {
    let (bytes_max, moves_max) = (problem.policy.bytes_max, problem.policy.moves_max);
    let (bytes, copies, _) = moved(problem, target);
    if bytes_max.is_none_or(|max| bytes <= max) && moves_max.is_none_or(|max| copies <= max) {
        return target.clone();
    }
    let mut walk = Walk::new(problem, base);
    let changed = |&shard: &u32| base.of(problem, shard as usize) != target.of(problem, shard as usize);
    let mut left: Vec<u32> = (0..problem.shards() as u32).filter(changed).collect();
    let (bytes_max, moves_max) = (bytes_max.unwrap_or(u64::MAX), moves_max.unwrap_or(u64::MAX));
    while !left.is_empty() {
        let mut ranked: Vec<(f64, u32)> =
            left.iter().map(|&shard| (walk.worth(target, shard as usize), shard)).collect();
        ranked.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        // A round takes the best part of what is left, then asks again: worth falls as others move. What has lost most
        // of it meanwhile waits: its node is served.
        let round = (ranked.len() / 16).max(8);
        let mut taken = Vec::new();
        for &(worth, shard) in ranked.iter().take(round) {
            let still = worth > 0.0 && walk.worth(target, shard as usize) > worth / 2.0;
            if still && walk.take(target, shard as usize, bytes_max, moves_max) {
                taken.push(shard);
            }
        }
        if taken.is_empty() {
            break;
        }
        left.retain(|shard| !taken.contains(shard));
    }
    walk.solution
}

/// A solution on its way, with its loads in relative units.
struct Walk<'a> {
    problem: &'a Problem,
    solution: Solution,
    /// Replicas, leaders and bytes by node.
    load: Vec<[f64; 3]>,
    bytes: u64,
    copies: u64,
    /// What can be reached at best: nothing is gained within it.
    off: Tolerance,
}

impl<'a> Walk<'a> {
    fn new(problem: &'a Problem, base: &Solution) -> Self {
        let held = held(problem, base);
        let load =
            held.iter().map(|h| [f64::from(h.replicas), f64::from(h.leaders), h.bytes as f64]).collect();
        let (bytes, copies, _) = moved(problem, base);
        let off = reachable(problem, base, Caps::of(problem, base));
        Self { problem, solution: base.clone(), load, bytes, copies, off }
    }

    /// What a shard puts on its nodes, `sign` times.
    fn put(&mut self, shard: usize, nodes: &[u32], sign: f64) {
        for (slot, &node) in nodes.iter().enumerate().filter(|(_, node)| **node != NONE) {
            let load = &mut self.load[node as usize];
            load[0] += sign;
            load[1] += if slot == 0 { sign } else { 0.0 };
            load[2] += sign * self.problem.bytes[shard] as f64;
        }
    }

    /// Squared relative deviations of some nodes, beyond what can be reached.
    fn unrest(&self, nodes: &[u32]) -> f64 {
        let off = |&node: &u32| {
            let (fair, load) = (&self.problem.fair[node as usize], &self.load[node as usize]);
            let part = |load: f64, fair: f64, off: f64| (deviation(load, fair) - off).max(0.0).powi(2);
            part(load[0], fair.replicas, self.off.replicas)
                + part(load[1], fair.leaders, self.off.leaders)
                + part(load[2], fair.bytes, self.off.bytes)
        };
        nodes.iter().map(off).sum()
    }

    /// Balance gained per byte copied if a shard went where `target` has it.
    fn worth(&mut self, target: &Solution, shard: usize) -> f64 {
        let (old, new) = (self.solution.of(self.problem, shard).to_vec(), target.of(self.problem, shard));
        let mut all: Vec<u32> = old.iter().chain(new).copied().collect();
        all.sort_unstable();
        all.dedup();
        all.retain(|&node| node != NONE);
        let before = self.unrest(&all);
        self.put(shard, &old, -1.0);
        self.put(shard, new, 1.0);
        let gain = before - self.unrest(&all);
        self.put(shard, new, -1.0);
        self.put(shard, &old, 1.0);
        gain / (self.cost(shard, new).0 as f64 + 1.0)
    }

    fn cost(&self, shard: usize, nodes: &[u32]) -> (u64, u64) {
        let copies =
            nodes.iter().filter(|&&node| node != NONE && !self.problem.holds(shard, node)).count() as u64;
        (copies * self.problem.bytes[shard], copies)
    }

    /// Moves a shard if the limits and disks allow; answers whether it did.
    fn take(&mut self, target: &Solution, shard: usize, bytes_max: u64, moves_max: u64) -> bool {
        let slots = self.problem.slots(shard);
        let (old, new) = (self.solution.nodes[slots.clone()].to_vec(), target.of(self.problem, shard));
        let (more, less) = (self.cost(shard, new), self.cost(shard, &old));
        let bytes = self.bytes - less.0 + more.0;
        let copies = self.copies - less.1 + more.1;
        let room = |node: &u32| {
            *node == NONE
                || old.contains(node)
                || self.load[*node as usize][2] + self.problem.bytes[shard] as f64
                    <= self.problem.room_bytes(*node)
        };
        if bytes > bytes_max.max(self.bytes) || copies > moves_max.max(self.copies) || !new.iter().all(room) {
            return false;
        }
        self.put(shard, &old, -1.0);
        self.put(shard, new, 1.0);
        self.solution.nodes[slots].copy_from_slice(new);
        (self.bytes, self.copies) = (bytes, copies);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::engines::Hybrid;
    use crate::placement::explain::Why;
    use crate::placement::policy::{Goal, Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use crate::placement::verdict::decide;

    fn world(policy: &Policy, capacities: &[u64], shards: &[(u64, &[u32])]) -> Problem {
        let node = |(n, &capacity_bytes): (usize, &u64)| {
            let zone = n as u32;
            NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
        };
        let shard = |&(bytes, present): &(u64, &[u32])| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas: present.len() as u32,
            present: present.to_vec(),
            ..ShardSpec::default()
        };
        Problem::new(capacities.iter().enumerate().map(node).collect(), shards.iter().map(shard), policy)
    }

    fn solve(problem: &Problem) -> crate::placement::Decision {
        decide(problem, &Hybrid::HEURISTIC, 1, &mut WorkBudget::new(200_000), &mut |_| {})
    }

    #[test]
    fn uneven_leaders_alone_are_levelled_with_no_copy() {
        let shards: [(u64, &[u32]); 6] =
            [(1, &[0, 1]), (1, &[0, 2]), (1, &[1, 2]), (1, &[0, 1]), (1, &[0, 2]), (1, &[1, 2])];
        // Replicas and bytes are even: whoever may copy has no reason to.
        for goal in [Goal::Leaders, Goal::Balance] {
            let decision = solve(&world(&Policy { goal, ..Policy::default() }, &[100, 100, 100], &shards));
            assert_eq!((decision.after.copies, decision.after.leaders), (0, 0.0), "{decision:?}");
        }
    }

    #[test]
    fn a_full_disk_is_relieved_with_the_fewest_bytes() {
        let policy = Policy { goal: Goal::Relieve, watermark: 0.8, ..Policy::default() };
        let shards: [(u64, &[u32]); 4] = [(50, &[0]), (30, &[0]), (12, &[0]), (6, &[0])];
        let decision = solve(&world(&policy, &[100, 100, 100], &shards));
        // 98 held, 80 allowed: 18 must go, and 12 and 6 are just that.
        assert!(decision.broken.is_empty());
        assert_eq!((decision.after.bytes_moved, decision.least_bytes), (18, Some(18)));
    }

    #[test]
    fn relief_that_needs_room_elsewhere_is_the_least_too() {
        // 28 is the least that covers an excess of 25, and fits nowhere until 10 has gone from node 1 to node 2.
        let policy = Policy { goal: Goal::Relieve, watermark: 1.0, ..Policy::default() };
        let shards: [(u64, &[u32]); 5] = [(28, &[0]), (67, &[0]), (30, &[0]), (10, &[1]), (65, &[2])];
        let problem = world(&policy, &[100, 32, 78], &shards);
        let exact = decide(&problem, &Hybrid::EXACT, 1, &mut WorkBudget::new(2_000_000), &mut |_| {});
        assert!(exact.broken.is_empty(), "{exact:?}");
        assert_eq!((exact.after.bytes_moved, exact.least_bytes), (38, Some(38)));
    }

    #[test]
    fn a_byte_budget_is_kept_and_used() {
        let shards: Vec<(u64, &[u32])> = (0..40).map(|_| (10, &[0][..])).collect();
        let free = Policy { watermark: 1.0, ..Policy::default() };
        let capped = Policy { bytes_max: Some(100), ..free.clone() };
        let all = solve(&world(&free, &[500; 4], &shards));
        let some = solve(&world(&capped, &[500; 4], &shards));
        assert!(all.after.bytes_moved > 250, "{}", all.after.bytes_moved);
        assert_eq!(some.after.bytes_moved, 100);
        assert!(some.after.total < some.before.total);
    }

    #[test]
    fn a_small_budget_serves_the_worst_nodes_whatever_their_size() {
        // Eight hot nodes and two empty ones, of which one is thrice as big.
        let sizes: Vec<(u64, [u32; 1])> = (0..400).map(|s| (50 + s * 37 % 101, [s as u32 % 8])).collect();
        let shards: Vec<(u64, &[u32])> = sizes.iter().map(|(bytes, on)| (*bytes, &on[..])).collect();
        let total: u64 = sizes.iter().map(|(bytes, _)| bytes).sum();
        let capacities = [[total / 6; 8].as_slice(), &[total / 6, total / 2]].concat();
        for percent in [1, 5, 20] {
            let most = total * percent / 100;
            let weights =
                Weights { replicas: 0.0, leaders: 0.0, copies: 0.0, per_table: 0.0, ..Weights::CLUSTER };
            let policy = Policy {
                bytes_max: Some(most),
                weights,
                hysteresis: 0.0,
                watermark: 1.0,
                ..Policy::default()
            };
            let problem = world(&policy, &capacities, &shards);
            let base = Solution::present(&problem);
            let best = reachable(&problem, &base, Caps::of(&problem, &base)).bytes;
            let found = solve(&problem);
            assert!(found.after.bytes_moved <= most);
            assert!(found.after.bytes <= best * 1.1 + 0.005, "{percent} %: {} {best}", found.after.bytes);
        }
    }

    #[test]
    fn what_a_budget_holds_back_says_so() {
        let shards: Vec<(u64, &[u32])> = (0..40).map(|_| (10, &[0][..])).collect();
        let policy = Policy { watermark: 1.0, bytes_max: Some(100), ..Policy::default() };
        let found = solve(&world(&policy, &[500; 4], &shards));
        let count = |why: Why| found.reasons.iter().filter(|&&reason| reason == why).count();
        assert_eq!(count(Why::NotWorthIt), 0);
        assert!(count(Why::Budget) > 10 && count(Why::InPlace) >= 5, "{:?}", found.reasons);
    }
}
