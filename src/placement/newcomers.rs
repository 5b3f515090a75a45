//! Nodes that joined get their share from all others, before anything moves between those.
//!
//! Copies of small shards between old nodes cost few bytes, so a search that weighs bytes alone makes thousands of
//! them to level what is level already (4100 of 6500, where two nodes joined the 40 of Cruise Control's random world).
//! Here a search gives new replicas to newcomers alone, as long as that betters anything by more than the hysteresis;
//! only then one may move anything, for the same price. It decides nothing where no node is new, and a node is new by
//! what it holds: one that a proposal leaves nearly empty is filled in the next round of the same plan.

use super::bound::least_score;
use super::budget::WorkBudget;
use super::constraint::broken;
use super::engines::Engine;
use super::engines::repair::standing;
use super::policy::Goal;
use super::problem::Problem;
use super::verdict::{Decision, decide, proved};

/// A node with less than this part of its fair share of replicas is a newcomer.
const NEW: f64 = 0.5;

/// Nodes that have hardly anything of what they should have, if there are others that do.
fn newcomers(problem: &Problem) -> Vec<u32> {
    let mut held = vec![0.0; problem.nodes.len()];
    let present = (0..problem.shards()).flat_map(|shard| problem.present(shard));
    present.for_each(|&node| held[node as usize] += 1.0);
    let is_new = |&node: &u32| held[node as usize] < NEW * problem.fair[node as usize].replicas;
    let new: Vec<u32> = problem.takers().filter(is_new).collect();
    if new.len() == problem.takers().count() { Vec::new() } else { new }
}

/// What to give to newcomers, and nothing else: none if no node is new, or if that would not be worth it, or if
/// a hard rule needs a replica elsewhere.
pub fn onto_newcomers(problem: &Problem, engine: &dyn Engine, seed: u64, work: u64) -> Option<Decision> {
    let new = if problem.policy.goal == Goal::Balance { newcomers(problem) } else { Vec::new() };
    if new.is_empty() {
        return None;
    }
    let present = standing(problem);
    let decision = decide(&problem.onto(&new), engine, seed, &mut WorkBudget::new(work), &mut |_| {});
    let kept = decision.broken.len() > broken(problem, &present).len() || decision.after.copies == 0;
    // A bound on placements with new replicas on newcomers alone is none on all.
    let bound = || proved(problem, &mut WorkBudget::new(work)).max(least_score(problem));
    (!kept).then(|| Decision { bound: bound(), ..decision })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::engines::Hybrid;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use crate::placement::verdict::settle;

    /// As many shards on each of `old` nodes, of sizes from 1 to 2^11, and nodes with none of them.
    fn world(old: u32, new: u32, each: u32) -> Problem {
        let node =
            |zone| NodeSpec { zone, rack: zone, capacity_bytes: 0, weight: 1.0, takes: true, holds: true };
        let shard = |number: u32| ShardSpec {
            load: Load { bytes: 1 << (number / old % 12), ..Load::default() },
            replicas: 1,
            present: vec![number % old],
            ..ShardSpec::default()
        };
        Problem::new((0..old + new).map(node).collect(), (0..old * each).map(shard), &Policy::default())
    }

    fn moves_to(problem: &Problem, decision: &Decision, wanted: impl Fn(u32) -> bool) -> usize {
        let moved = (0..problem.shards()).flat_map(|shard| {
            decision.solution.of(problem, shard).iter().filter(move |&&node| !problem.holds(shard, node))
        });
        moved.filter(|&&node| wanted(node)).count()
    }

    #[test]
    fn what_joins_is_filled_and_nothing_moves_between_the_others() {
        let problem = world(6, 2, 60);
        assert_eq!(newcomers(&problem), [6, 7]);
        let decision = settle(&problem, &Hybrid::HEURISTIC, 1, 300_000);
        assert_eq!(moves_to(&problem, &decision, |node| node < 6), 0, "{:?}", decision.after);
        assert_eq!(moves_to(&problem, &decision, |node| node >= 6), 90);
        assert!(decision.bound <= decision.after.total, "{} > {}", decision.bound, decision.after.total);
        let again = settle(&problem.after(&decision.solution), &Hybrid::HEURISTIC, 1, 300_000);
        assert_eq!(again.after.copies, 0, "a plan on the planned state is empty");
    }

    #[test]
    fn a_cluster_without_newcomers_or_of_nothing_else_is_left_to_the_engine() {
        assert!(newcomers(&world(6, 0, 10)).is_empty());
        let empty =
            world(4, 0, 10).after(&crate::placement::solution::Solution { nodes: vec![u32::MAX; 40] });
        assert!(newcomers(&empty).is_empty());
    }

    #[test]
    fn what_a_rule_needs_elsewhere_goes_elsewhere() {
        // The newcomer has no room for what the drained node holds.
        let mut problem = world(3, 1, 12);
        problem.nodes[0].takes = false;
        problem.nodes[0].holds = false;
        problem.nodes[3].capacity_bytes = 1_000;
        let decision = settle(&problem, &Hybrid::HEURISTIC, 1, 300_000);
        assert!(decision.broken.is_empty(), "{:?}", decision.broken);
        assert!(moves_to(&problem, &decision, |node| node < 3) > 0);
    }
}
