//! Hard rules with the fewest bytes: what must be copied whatever happens, and proof that less does not do.
//!
//! Copies for nodes that go, missing replicas and spread are forced, each of its shard's size. A node above the
//! watermark has to lose replicas of at least its excess: the least sum of their sizes that covers it is a bound, and
//! where the chosen ones find room elsewhere it is the answer. On small worlds one integer program settles what is
//! left between the two, such as when others have to make room first.

use super::budget::Budget;
use super::constraint::broken;
use super::engines::local_search::usable;
use super::engines::milp::{BINARIES_MAX, Part, limits};
use super::engines::repair::{cover, mended};
use super::objective::moved;
use super::policy::Weights;
use super::problem::{NONE, Problem};
use super::solution::{Solution, held};

/// A placement for the rules alone.
pub(super) struct Relief {
    /// Where replicas should be.
    pub solution: Solution,
    /// No placement that keeps the hard rules copies less.
    pub least_bytes: u64,
    /// Work spent.
    pub work: u64,
}

/// Only bytes count.
const BYTES: Weights = Weights {
    replicas: 0.0,
    leaders: 0.0,
    bytes: 0.0,
    moved: 1.0,
    copies: 0.0,
    leader_changes: 0.0,
    per_table: 0.0,
    writes: 0.0,
    reads: 0.0,
};

/// The cheapest repair, from `base`, the repaired present.
pub(super) fn relief(problem: &Problem, base: &Solution, exact: bool, budget: &mut dyn Budget) -> Relief {
    let mut relief =
        Relief { solution: base.clone(), least_bytes: least_bytes(problem), work: problem.replicas() as u64 };
    let copied = moved(problem, base).0;
    let small = Part::binaries(problem.shards(), problem.nodes.len()) <= BINARIES_MAX;
    let done = copied <= relief.least_bytes && broken(problem, base).is_empty();
    if done || !exact || !small || !usable(problem, base) {
        return relief;
    }
    let mut light = problem.clone();
    light.policy.weights = BYTES;
    let Some(found) = Part::whole(&light, base).strict().solve(&limits(budget, 0.0)) else { return relief };
    budget.spend(found.work);
    relief.work += found.work;
    if found.score.is_infinite() {
        return relief;
    }
    // Bytes are whole, so what is proved is rounded up.
    let proved = (found.bound * problem.total_bytes).ceil().max(0.0) as u64;
    relief.least_bytes = relief.least_bytes.max(proved.min(moved(problem, &found.solution).0));
    relief.solution = found.solution;
    lead_as_before(problem, &mut relief.solution);
    relief
}

/// Bytes that must be copied for the hard rules: what has to be anyhow, and for every node above the watermark the
/// least sum of replicas that covers its excess. Copies made meanwhile may land anywhere, so they do not count.
pub(super) fn least_bytes(problem: &Problem) -> u64 {
    let mut kept = mended(problem);
    let forced = moved(problem, &kept).0;
    for shard in 0..problem.shards() {
        let slots = &mut kept.nodes[problem.slots(shard)];
        slots
            .iter_mut()
            .filter(|node| **node != NONE && !problem.holds(shard, **node))
            .for_each(|n| *n = NONE);
    }
    let used = held(problem, &kept);
    let over = |node: u32| (used[node as usize].bytes as f64 - problem.room_bytes(node)).ceil();
    let hot: Vec<u32> = (0..problem.nodes.len() as u32).filter(|&node| over(node) > 0.0).collect();
    if hot.is_empty() {
        return forced;
    }
    let mut sizes: Vec<Vec<u64>> = vec![Vec::new(); problem.nodes.len()];
    for shard in (0..problem.shards()).filter(|&shard| !problem.frozen[shard]) {
        let there = kept.of(problem, shard).iter().filter(|&&node| node != NONE);
        there.for_each(|&node| sizes[node as usize].push(problem.bytes[shard]));
    }
    let least = |&node: &u32| {
        let excess = over(node) as u64;
        let covered = cover(&sizes[node as usize], excess);
        covered.filter(|covered| covered.least).map_or(excess, |covered| covered.bytes)
    };
    // A shard's replicas on two nodes: each of them would be copied.
    forced + hot.iter().map(least).sum::<u64>()
}

/// A shard that keeps its leader's copy keeps its leader.
fn lead_as_before(problem: &Problem, solution: &mut Solution) {
    for shard in 0..problem.shards() {
        let placed = &mut solution.nodes[problem.slots(shard)];
        let leader = problem.leader(shard);
        let kept = placed.iter().position(|&node| node == leader);
        let kept = kept.or_else(|| placed.iter().position(|&node| problem.holds(shard, node)));
        if let Some(slot) = kept.filter(|&slot| slot > 0) {
            placed.swap(0, slot);
        }
    }
}
