//! Hard rules with the fewest bytes: what must be copied whatever happens, and proof that less does not do.
//!
//! Copies for nodes that go, missing replicas and spread are forced, each of its shard's size. A node above the
//! watermark has to lose replicas of at least its excess: the least sum of their sizes that covers it is a bound, and
//! where the chosen ones find room elsewhere it is the answer. On small worlds one integer program settles what is
//! left between the two, such as when others have to make room first.

use super::budget::Budget;
use super::constraint::{broken, spreads};
use super::engines::local_search::usable;
use super::engines::milp::{BINARIES_MAX, Part, limits};
use super::engines::repair::cover;
use super::objective::moved;
use super::policy::Weights;
use super::problem::Problem;
use super::solution::Solution;

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
    // Bytes are whole, so what is proved is rounded up, but for what the solver's own tolerances are worth.
    let proved = (found.bound * problem.total_bytes - 1e-3).ceil().max(0.0) as u64;
    relief.least_bytes = relief.least_bytes.max(proved.min(moved(problem, &found.solution).0));
    relief.solution = found.solution;
    lead_as_before(problem, &mut relief.solution);
    relief
}

/// Bytes that must be copied for the hard rules: what has to be anyhow, and for every node above the watermark the
/// least sum of replicas that covers its excess. Copies made meanwhile may land anywhere, so they do not count.
pub(super) fn least_bytes(problem: &Problem) -> u64 {
    let mut forced = 0;
    let mut stays = vec![0u64; problem.nodes.len()];
    let mut movable: Vec<Vec<u64>> = vec![Vec::new(); problem.nodes.len()];
    for shard in 0..problem.shards() {
        let bytes = problem.bytes[shard];
        if problem.frozen[shard] {
            problem.present(shard).iter().for_each(|&node| stays[node as usize] += bytes);
            continue;
        }
        let present = || problem.present(shard).iter().copied().filter(|&node| problem.may_hold(shard, node));
        let keeps = keeps(problem, shard);
        forced += (problem.slots(shard).len() - keeps) as u64 * bytes;
        // With more copies than it can keep, any of them may go for nothing: it is not counted on any node.
        if present().count() == keeps {
            for node in present() {
                if problem.is_pinned(shard, node) {
                    stays[node as usize] += bytes;
                } else {
                    movable[node as usize].push(bytes);
                }
            }
        }
    }
    // Each copy that has to go from a node is one more: its shard can keep all that it has.
    let least = |(node, sizes): (usize, &Vec<u64>)| {
        let used = stays[node] as f64 + sizes.iter().sum::<u64>() as f64;
        let excess = (used - problem.room_bytes(node as u32)).max(0.0) as u64;
        let covered = (excess > 0).then(|| cover(sizes, excess)).flatten();
        covered.filter(|covered| covered.least).map_or(excess, |covered| covered.bytes)
    };
    forced + movable.iter().enumerate().map(least).sum::<u64>()
}

/// How many of a shard's copies it can keep at the most, room aside. Racks lie in zones, so it does not matter which
/// are counted first.
fn keeps(problem: &Problem, shard: usize) -> usize {
    let mut kept: Vec<u32> = Vec::new();
    for &node in problem.present(shard) {
        if problem.may_hold(shard, node) && spreads(problem, shard, &kept, usize::MAX, node) {
            kept.push(node);
        }
    }
    let new_pins = problem.pins(shard).filter(|&pin| !problem.holds(shard, pin)).count();
    kept.len().min(problem.slots(shard).len().saturating_sub(new_pins))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::engines::Hybrid;
    use crate::placement::policy::{Goal, Policy};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use crate::placement::verdict::decide;
    use crate::placement::{Decision, problem::Compromise};
    use proptest::prelude::*;

    fn node(zone: u32, capacity_bytes: u64) -> NodeSpec {
        NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
    }

    fn shard(bytes: u64, replicas: u32, present: &[u32]) -> ShardSpec {
        let load = Load { bytes, ..Load::default() };
        ShardSpec { load, replicas, present: present.to_vec(), ..ShardSpec::default() }
    }

    fn solve(goal: Goal, nodes: Vec<NodeSpec>, shards: Vec<ShardSpec>) -> Decision {
        let policy = Policy { goal, watermark: 1.0, hysteresis: 0.0, ..Policy::default() };
        let problem = Problem::new(nodes, shards, &policy);
        decide(&problem, &Hybrid::EXACT, 1, &mut WorkBudget::new(1_000_000), &mut |_| {})
    }

    #[test]
    fn a_copy_that_has_to_go_anyway_may_leave_a_full_node_for_nothing() {
        // X is on A and B of one zone, so one of them goes to C; if that is A's, Y stays.
        let world = || {
            (vec![node(0, 11), node(0, 100), node(1, 100)], vec![shard(10, 2, &[0, 1]), shard(6, 1, &[0])])
        };
        let (nodes, shards) = world();
        let repaired = solve(Goal::Repair, nodes, shards);
        assert_eq!((repaired.least_bytes, repaired.after.bytes_moved), (Some(10), 10));
        // For the full node alone 6 are enough: that X's copies share a zone is left as it is.
        let (nodes, shards) = world();
        let relieved = solve(Goal::Relieve, nodes, shards);
        assert_eq!((relieved.least_bytes, relieved.after.bytes_moved), (Some(6), 6));
        assert_eq!(relieved.solution.nodes[..2], [0, 1]);
    }

    #[test]
    fn relief_leaves_all_that_is_on_no_full_node() {
        // Node 2 drains, shard 1 lacks a copy, shard 2 is excluded where it is: only node 0 is relieved.
        let mut nodes = vec![node(0, 10), node(1, 100), node(2, 100)];
        (nodes[2].takes, nodes[2].holds) = (false, false);
        let shards = vec![
            shard(6, 1, &[0]),
            shard(3, 2, &[1]),
            ShardSpec { excluded: vec![1], ..shard(2, 1, &[1]) },
            shard(5, 1, &[2]),
            shard(7, 1, &[0]),
        ];
        let relieved = solve(Goal::Relieve, nodes.clone(), shards.clone());
        assert_eq!((relieved.after.bytes_moved, relieved.solution.nodes), (6, vec![1, 1, 1, 2, 0]));
        let problem =
            Problem::new(nodes.clone(), shards.clone(), &Policy { goal: Goal::Relieve, ..Policy::default() });
        let waived = [1, 2, 3].map(|shard| (shard, Compromise::NotCovered));
        assert_eq!(problem.compromises, waived);
        assert!(relieved.bound <= relieved.after.total + 1e-9);
        let repaired = solve(Goal::Repair, nodes, shards);
        // What is missing and what is excluded has nowhere to go but to node 0, which both others leave for it.
        assert_eq!(repaired.after.bytes_moved, 3 + 2 + 5 + 6 + 7);
    }

    prop_compose! {
        fn world()(
            zones in prop::collection::vec((0u32..3, 4u64..40, 0u8..6), 2..5),
            shards in prop::collection::vec(
                (0u64..20, 1u32..3, prop::collection::vec(0usize..4, 0..4), 0u8..6, 0usize..4),
                1..4,
            ),
        ) -> (Vec<NodeSpec>, Vec<ShardSpec>) {
            let nodes: Vec<NodeSpec> = zones.iter().map(|&(zone, capacity, kind)| {
                let (takes, holds) = (kind > 1, kind != 0);
                NodeSpec { takes, holds, ..node(zone, capacity) }
            }).collect();
            let shards = shards.iter().map(|(bytes, replicas, spots, kind, one)| {
                let mut on: Vec<u32> = Vec::new();
                for spot in spots.iter().map(|spot| (spot % nodes.len()) as u32) {
                    if !on.contains(&spot) {
                        on.push(spot);
                    }
                }
                let one = vec![(one % nodes.len()) as u32];
                let mut shard = shard(*bytes, *replicas, &on);
                match kind {
                    0 => shard.pinned = one,
                    1 => shard.excluded = one,
                    2 => shard.frozen = true,
                    _ => {}
                }
                shard
            }).collect();
            (nodes, shards)
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// By trying every placement.
        #[test]
        fn no_placement_that_keeps_the_rules_copies_less((nodes, shards) in world(), relieve in any::<bool>()) {
            let goal = if relieve { Goal::Relieve } else { Goal::Repair };
            let policy = Policy { goal, watermark: 1.0, ..Policy::default() };
            let problem = Problem::new(nodes, shards, &policy);
            let (nodes, slots) = (problem.nodes.len() as u64, problem.replicas() as u32);
            let frozen = |slot: usize| (0..problem.shards()).find(|&s| problem.slots(s).contains(&slot))
                .filter(|&s| problem.frozen[s]).map(|s| problem.present(s)[slot - problem.slots(s).start]);
            let mut least = u64::MAX;
            for code in 0..nodes.pow(slots) {
                let at = |slot: u32| frozen(slot as usize).unwrap_or((code / nodes.pow(slot) % nodes) as u32);
                let solution = Solution { nodes: (0..slots).map(at).collect() };
                if broken(&problem, &solution).is_empty() {
                    least = least.min(moved(&problem, &solution).0);
                }
            }
            prop_assert!(least_bytes(&problem) <= least, "{} {least}", least_bytes(&problem));
        }
    }
}
