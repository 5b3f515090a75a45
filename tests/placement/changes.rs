//! Properties of what changes: nodes that are added, names that are others, leaders alone, rules where there is room.

use super::exceptions::{odd_world, small, solve, solve_seeded};
use super::{accepted, config, node, propose, shard};
use converthouse::model::{NodeId, NodeState};
use converthouse::placement::bound::least_score;
use converthouse::placement::constraint::{Broken, broken};
use converthouse::placement::engines::{Engine, Hybrid, Milp, NAMES, by_name};
use converthouse::placement::ids::Ids;
use converthouse::placement::objective::score;
use converthouse::placement::policy::Goal;
use converthouse::placement::problem::{NodeSpec, Problem, ShardSpec};
use converthouse::placement::solution::Solution;
use converthouse::placement::{Load, NodeView, Policy, Snapshot};
use proptest::prelude::*;
use std::collections::BTreeSet;

prop_compose! {
    /// Nodes of several sizes in zones of their own, the last one to three of them new, and shards of several sizes.
    fn growth()(
        old in prop::collection::vec(1u64..4, 3..7),
        new in prop::collection::vec(1u64..4, 1..4),
        rows in prop::collection::vec((1u64..400, 1u32..4, any::<prop::sample::Index>()), 20..60),
    ) -> (Snapshot, Vec<NodeView>) {
        let total: u64 = rows.iter().map(|row| row.0 * u64::from(row.1)).sum();
        let sizes: Vec<u64> = old.iter().chain(&new).copied().collect();
        let view = |(n, size): (usize, &u64)| node(n, n, 500 + total * size, NodeState::Active, true);
        let mut views: Vec<NodeView> = sizes.iter().enumerate().map(view).collect();
        let new = views.split_off(old.len());
        let shards = rows.iter().enumerate().map(|(number, (bytes, replicas, first))| {
            let at = |k: usize| views[(first.index(views.len()) + k) % views.len()].id.clone();
            let on: Vec<NodeId> = (0..*replicas as usize).map(at).collect();
            shard(number as u32, *bytes, *replicas, &on)
        });
        let shards = shards.collect();
        (Snapshot { nodes: views, shards }, new)
    }
}

proptest! {
    #![proptest_config(config(24))]

    /// Each copy from an old node to an old one is one that balance needs: without it rules or the score are worse.
    #[test]
    fn added_nodes_move_nothing_between_old_ones_in_vain((world, new) in growth()) {
        let policy = Policy::default();
        let mut world = accepted(&world, &propose(&world, &policy));
        world.nodes.extend(new.clone());
        let verdict = propose(&world, &policy);
        let (problem, ids) = Ids::of(&world, &policy);
        let (goal, _) = Ids::of(&accepted(&world, &verdict), &policy);
        let reached = Solution::present(&goal);
        let after = score(&problem, &reached).total;
        let ordinal = |id: &NodeId| ids.node(id).expect("listed");
        let new: BTreeSet<&NodeId> = new.iter().map(|view| &view.id).collect();
        for moved in &verdict.moves {
            let at = ids.shard(moved.table, moved.shard).expect("listed");
            for to in moved.add.iter().filter(|to| !new.contains(to)) {
                let slot = problem.slots(at).find(|&slot| reached.nodes[slot] == ordinal(to)).expect("placed");
                for from in &moved.remove {
                    let mut undone = reached.clone();
                    undone.nodes[slot] = ordinal(from);
                    let worse = !broken(&problem, &undone).is_empty();
                    prop_assert!(worse || score(&problem, &undone).total > after - 1e-9, "{} in vain", moved.shard);
                }
            }
        }
    }

    /// With room for all, what is asked for is had, but for pins that no placement can keep.
    #[test]
    fn where_there_is_room_every_rule_is_kept(world in odd_world()) {
        let mut world = world;
        world.nodes.iter_mut().for_each(|node| node.capacity_bytes = 1 << 40);
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        let (problem, _) = Ids::of(&world, &policy);
        for name in NAMES.into_iter().filter(|name| *name != "milp") {
            let engine = by_name(name).expect("an engine");
            for rule in solve(&problem, engine.as_ref(), 20_000).broken {
                let Broken::Unpinned { shard, node } = rule else {
                    return Err(TestCaseError::fail(format!("{name}: {rule:?}")));
                };
                let pins = problem.pins(shard as usize).count();
                let hopeless = !problem.may_hold(shard as usize, node) || pins > problem.slots(shard as usize).len();
                prop_assert!(hopeless, "{name}: {rule:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(12))]

    /// Names mean nothing: with nodes and shards called otherwise the start, its rules and bound, and the best
    /// placement score the same.
    #[test]
    fn a_permutation_of_ids_changes_nothing(
        sizes in prop::collection::vec(1u64..30, 1..6),
        at in prop::collection::vec(0u32..4, 6),
        nodes in Just(vec![0u32, 1, 2, 3]).prop_shuffle(),
        turn in 0usize..6,
    ) {
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        let plain = small(&sizes, &at, &[0, 1, 2, 3], &policy);
        let turn = turn % sizes.len();
        let rotated = |list: &[u64]| [&list[turn..], &list[..turn]].concat();
        let places: Vec<u32> = [&at[turn..sizes.len()], &at[..turn]].concat();
        let other = small(&rotated(&sizes), &places, &nodes, &policy);
        prop_assert!((least_score(&plain) - least_score(&other)).abs() < 1e-9);
        for engine in [&Milp as &dyn Engine, &Hybrid::EXACT] {
            let (one, two) = (solve(&plain, engine, 400_000), solve(&other, engine, 400_000));
            prop_assert!((one.before.total - two.before.total).abs() < 1e-9);
            let (best, other) = (one.after.total, two.after.total);
            prop_assert!((best - other).abs() < 2e-4, "{}: {best} {other}", engine.name());
            prop_assert_eq!(one.broken.len(), two.broken.len());
        }
    }

    /// By trying every choice of leaders.
    #[test]
    fn leaders_alone_are_placed_in_the_best_way(
        rows in prop::collection::vec((0u32..4, 1u32..4, 1u32..4), 1..7),
        seed in 0u64..9,
    ) {
        let node = |n: u32| NodeSpec { zone: n, rack: n, capacity_bytes: 1000, weight: 1.0, takes: true, holds: true };
        let spec = |&(first, step, replicas): &(u32, u32, u32)| ShardSpec {
            load: Load { bytes: 5, ..Load::default() },
            replicas: replicas.min(2),
            present: (0..replicas.min(2)).map(|k| (first + k * step) % 4).collect(),
            ..ShardSpec::default()
        };
        let policy = Policy { goal: Goal::Leaders, hysteresis: 0.0, ..Policy::default() };
        let problem = Problem::new((0..4).map(node).collect(), rows.iter().map(spec), &policy);
        let present = Solution::present(&problem);
        let mut least = f64::INFINITY;
        for code in 0u32..1 << problem.shards() {
            let mut solution = present.clone();
            for shard in (0..problem.shards()).filter(|shard| code >> shard & 1 == 1) {
                solution.nodes[problem.slots(shard)].reverse();
            }
            least = least.min(score(&problem, &solution).total);
        }
        let engine = Hybrid::HEURISTIC;
        let found = solve_seeded(&problem, &engine, seed, 20_000);
        prop_assert_eq!(found.after.copies, 0);
        prop_assert!(found.bound <= least + 1e-9, "{} {least}", found.bound);
        prop_assert!(found.after.total <= least + 1e-9, "{} {least}", found.after.total);
    }
}
