//! Properties on worlds with racks, pins, exclusions, frozen shards, tight disks, tables that are spread, and budgets.

use super::{accepted, config, node, shard};
use converthouse::model::{NodeId, NodeState};
use converthouse::placement::bound::prices_and_bound;
use converthouse::placement::budget::WorkBudget;
use converthouse::placement::constraint::{Broken, broken};
use converthouse::placement::engines::repair::standing;
use converthouse::placement::engines::{Engine, Hybrid, NAMES, by_name};
use converthouse::placement::ids::Ids;
use converthouse::placement::objective::{moved, score};
use converthouse::placement::policy::{Goal, Tolerance, Weights};
use converthouse::placement::problem::{NodeSpec, Problem, ShardSpec};
use converthouse::placement::sequence::sequence;
use converthouse::placement::solution::Solution;
use converthouse::placement::{
    Decision, Limits, Load, NodeView, Policy, ShardView, Snapshot, WaveLimits, decide, plan,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WORK: u64 = 20_000;

pub fn solve(problem: &Problem, engine: &dyn Engine, work: u64) -> Decision {
    solve_seeded(problem, engine, 1, work)
}

pub fn solve_seeded(problem: &Problem, engine: &dyn Engine, seed: u64, work: u64) -> Decision {
    decide(problem, engine, seed, &mut WorkBudget::new(work), &mut |_| {})
}

prop_compose! {
    /// Up to 10 nodes in zones and racks; some shards pinned, excluded or frozen; disks down to nearly full.
    pub fn odd_world()(
        nodes in 2usize..10,
        zones in 1usize..4,
        racks in prop::collection::vec(0u8..3, 10),
        states in prop::collection::vec(0u8..16, 10),
        rows in prop::collection::vec(
            (0u64..300, 1u32..5, prop::collection::vec(0usize..10, 0..4), 0u8..12, 0usize..10, 0usize..10),
            0..30,
        ),
        fill in 1.2f64..4.0,
    ) -> Snapshot {
        let total: u64 = rows.iter().map(|row| row.0 * u64::from(row.1.min(nodes as u32))).sum();
        let capacity = (total as f64 * fill / nodes as f64) as u64 + 300;
        let view = |n: usize| {
            let (state, up) = match states[n] {
                0 => (NodeState::Draining, true),
                1 => (NodeState::Cordoned, true),
                2 => (NodeState::Active, false),
                _ => (NodeState::Active, true),
            };
            let mut view = node(n, n % zones, capacity * (1 + n as u64 % 2), state, up);
            view.labels.insert("rack".to_owned(), format!("r{}", racks[n]));
            view
        };
        let nodes: Vec<NodeView> = (0..nodes).map(view).collect();
        let id = |n: usize| nodes[n % nodes.len()].id.clone();
        let shards = rows.iter().enumerate().map(|(number, (bytes, replicas, spots, kind, one, other))| {
            let mut on: Vec<NodeId> = Vec::new();
            for spot in spots.iter().map(|&spot| id(spot)) {
                if !on.contains(&spot) {
                    on.push(spot);
                }
            }
            let mut shard = shard(number as u32, *bytes, *replicas, &on);
            match kind {
                0 => shard.frozen = true,
                1 => shard.pinned = vec![id(*one)],
                2 => shard.pinned = vec![id(*one), id(*other)],
                3 => shard.excluded = vec![id(*one), id(*other)],
                _ => {}
            }
            shard
        });
        let shards = shards.collect();
        Snapshot { nodes, shards }
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    let tolerance = prop_oneof![Just(0.0), 0.0f64..0.5];
    let goal = prop_oneof![3 => Just(Goal::Balance), 1 => Just(Goal::Repair), 1 => Just(Goal::Relieve)];
    let hysteresis = prop_oneof![Just(0.0), Just(0.01)];
    (prop_oneof![Just(0.0), Just(1.0)], tolerance, 0.5f64..1.0, hysteresis, goal).prop_map(
        |(per_table, off, watermark, hysteresis, goal)| Policy {
            goal,
            weights: Weights { per_table, writes: per_table, reads: per_table, ..Weights::default() },
            tolerance: Tolerance { replicas: off, leaders: off, bytes: off },
            watermark,
            hysteresis,
            ..Policy::default()
        },
    )
}

/// As many distinct zones, and then racks, as a shard can have on the nodes that may hold it, by trying all.
fn widest(problem: &Problem, shard: usize) -> (usize, usize) {
    let open: Vec<u32> = (0..problem.nodes.len() as u32).filter(|&n| problem.may_hold(shard, n)).collect();
    let slots = problem.slots(shard).len();
    let sets = (0u32..1 << open.len()).filter(|code| code.count_ones() as usize == slots);
    let spread = |code: u32| {
        spread_of(
            problem,
            &open
                .iter()
                .enumerate()
                .filter(|(at, _)| code >> at & 1 == 1)
                .map(|(_, &n)| n)
                .collect::<Vec<_>>(),
        )
    };
    sets.map(spread).max().unwrap_or((0, 0))
}

fn spread_of(problem: &Problem, nodes: &[u32]) -> (usize, usize) {
    let zones: BTreeSet<u32> = nodes.iter().map(|&n| problem.nodes[n as usize].zone).collect();
    let racks: BTreeSet<u32> = nodes.iter().map(|&n| problem.nodes[n as usize].rack).collect();
    (zones.len(), racks.len())
}

proptest! {
    #![proptest_config(config(24))]

    #[test]
    fn rules_hold_and_nothing_gets_worse(world in odd_world(), policy in policies(), seed in 0u64..9) {
        let (problem, ids) = Ids::of(&world, &policy);
        let start = broken(&problem, &standing(&problem));
        for name in NAMES.into_iter().filter(|name| *name != "milp") {
            let engine = by_name(name).expect("an engine");
            let found = decide(&problem, engine.as_ref(), seed, &mut WorkBudget::new(WORK), &mut |_| {});
            prop_assert!(found.broken.len() <= start.len(), "{name}: {:?} {start:?}", found.broken);
            let better = found.broken.len() < start.len() || found.after.total <= found.before.total + 1e-9;
            prop_assert!(better, "{name}: {} {}", found.after.total, found.before.total);
            if found.broken.is_empty() {
                prop_assert!(found.bound <= found.after.total + 1e-6, "{name}: {found:?}");
            }
            for view in world.shards.iter().filter(|view| view.frozen) {
                let at = ids.shard(view.table, view.shard).expect("listed");
                prop_assert_eq!(found.solution.of(&problem, at), problem.present(at), "{}", view.shard);
            }
            let missing = found.broken.iter().any(|rule| matches!(rule, Broken::Missing { .. }));
            prop_assert!(!missing, "{name}: caps that cannot be kept: {:?}", found.broken);
        }
    }

    #[test]
    fn a_repair_spreads_as_far_as_zones_and_racks_exist(world in odd_world()) {
        let policy = Policy { watermark: 1.0, ..Policy::default() };
        let mut world = world;
        world.shards.iter_mut().for_each(|shard| {
            shard.pinned.clear();
            shard.load.bytes = 0;
        });
        let (problem, _) = Ids::of(&world, &policy);
        let found = standing(&problem);
        for at in (0..problem.shards()).filter(|&at| !problem.frozen[at]) {
            let placed = found.of(&problem, at);
            let (zones, racks) = spread_of(&problem, placed);
            let (zones_max, racks_max) = widest(&problem, at);
            // Caps say how many a zone must take; racks are looked at under that, so two replicas share one only
            // where their zone has to take more than it has racks.
            prop_assert!(zones == zones_max || problem.zone_cap[at] > 1, "{at}: {placed:?}");
            prop_assert!(racks == racks_max || problem.zone_cap[at] > 1, "{at}: {placed:?}");
            let caps = (0..placed.len()).all(|slot| {
                converthouse::placement::constraint::spreads(&problem, at, &placed[..slot], slot, placed[slot])
            });
            prop_assert!(caps, "{at}: {placed:?}");
        }
    }

    #[test]
    fn plans_of_odd_worlds_replay(world in odd_world(), policy in policies(), copies in 1u32..3) {
        let (problem, _) = Ids::of(&world, &policy);
        let found = solve(&problem, &Hybrid::HEURISTIC, WORK);
        let limits = WaveLimits { copies_in_max: copies, copies_out_max: copies, ..WaveLimits::default() };
        let plan = sequence(&problem, &found.solution, &limits);
        prop_assert_eq!(plan.check(&problem, &found.solution, &limits), Ok(()));
    }

    #[test]
    fn a_proposal_for_an_odd_world_stands(world in odd_world(), policy in policies()) {
        let limits = Limits { work: WORK, ..Limits::default() };
        let policy = Policy { hysteresis: 0.01, ..policy };
        let verdict = plan(&world, &policy, &limits).verdict;
        let again = plan(&accepted(&world, &verdict), &policy, &limits).verdict;
        prop_assert!(again.moves.is_empty(), "{:?}", again.moves);
    }

    #[test]
    fn budgets_hold_back_all_but_repairs(
        world in odd_world(),
        policy in policies(),
        bytes_max in prop::option::of(0u64..800),
        moves_max in prop::option::of(0u64..8),
    ) {
        let policy = Policy { bytes_max, moves_max, hysteresis: 0.0, ..policy };
        let (problem, _) = Ids::of(&world, &policy);
        let found = solve(&problem, &Hybrid::HEURISTIC, WORK);
        let (bytes, copies) = (found.before.bytes_moved, found.before.copies);
        prop_assert!(bytes_max.is_none_or(|max| found.after.bytes_moved <= max.max(bytes)));
        prop_assert!(moves_max.is_none_or(|max| found.after.copies <= max.max(copies)));
        if found.broken.is_empty() {
            prop_assert!(found.bound <= found.after.total + 1e-6, "{} {}", found.bound, found.after.total);
        }
    }

    /// Only replicas of the node that goes are copied when only the rules matter.
    #[test]
    fn a_removed_node_alone_gives_up_replicas(world in odd_world(), gone in any::<prop::sample::Index>()) {
        let policy = Policy { goal: Goal::Repair, watermark: 1.0, ..Policy::default() };
        let mut world = world;
        world.nodes.iter_mut().for_each(|node| node.capacity_bytes = 1 << 40);
        let repaired = plan(&world, &policy, &Limits::default()).verdict;
        let mut world = accepted(&world, &repaired);
        let gone = gone.index(world.nodes.len());
        world.nodes[gone].state = NodeState::Draining;
        let id = world.nodes[gone].id.clone();
        let (problem, _) = Ids::of(&world, &policy);
        let verdict = plan(&world, &policy, &Limits::default()).verdict;
        for moved in &verdict.moves {
            let shard = |s: &&ShardView| (s.table, s.shard) == (moved.table, moved.shard);
            let shard = world.shards.iter().find(shard).expect("listed");
            let held = shard.replicas.iter().any(|replica| replica.node == id);
            // With a node less, zones or pins may ask for less: a shard may then have more replicas than it can keep.
            prop_assert!(held || moved.add.is_empty(), "{moved:?} {:?}", problem.compromises);
            prop_assert!(moved.add.len() <= 1, "{moved:?}");
        }
    }
}

/// A small world by dense ordinals: sizes, where each shard is, and a policy.
pub fn small(sizes: &[u64], at: &[u32], nodes: &[u32], policy: &Policy) -> Problem {
    let node = |&n: &u32| NodeSpec {
        zone: n % 3,
        rack: n,
        capacity_bytes: 150 + 50 * u64::from(n % 2),
        weight: 1.0,
        takes: true,
        holds: true,
    };
    let place = |n: u32| nodes.iter().position(|&m| m == n % nodes.len() as u32).expect("a node") as u32;
    let shard = |(&bytes, &at): (&u64, &u32)| ShardSpec {
        load: Load { bytes, ..Load::default() },
        replicas: 1,
        present: vec![place(at)],
        ..ShardSpec::default()
    };
    Problem::new(nodes.iter().map(node).collect(), sizes.iter().zip(at).map(shard), policy)
}

proptest! {
    #![proptest_config(config(12))]

    /// The best balance for a budget of bytes, by trying every placement.
    #[test]
    fn a_budget_is_spent_in_the_best_way(
        sizes in prop::collection::vec(1u64..30, 1..6),
        at in prop::collection::vec(0u32..3, 6),
        bytes_max in 0u64..60,
    ) {
        let policy = Policy { bytes_max: Some(bytes_max), hysteresis: 0.0, ..Policy::default() };
        let problem = small(&sizes, &at, &[0, 1, 2], &policy);
        let mut least = f64::INFINITY;
        for code in 0..3u32.pow(sizes.len() as u32) {
            let nodes = (0..sizes.len() as u32).map(|s| code / 3u32.pow(s) % 3).collect();
            let solution = Solution { nodes };
            if moved(&problem, &solution).0 <= bytes_max && broken(&problem, &solution).is_empty() {
                least = least.min(score(&problem, &solution).total);
            }
        }
        let found = solve(&problem, &Hybrid::EXACT, 1_000_000);
        prop_assert!(found.after.bytes_moved <= bytes_max);
        prop_assert!(found.after.total <= least + 1e-4, "{} {least}", found.after.total);
        prop_assert!(found.bound <= least + 1e-6, "{} {least}", found.bound);
    }
}

proptest! {
    #![proptest_config(config(3))]

    /// Big enough for the sweeps of the bound.
    #[test]
    fn many_nodes_keep_rules_and_bound(
        nodes in 60u32..80,
        sizes in prop::collection::vec(1u64..500, 120..180),
        zones in 2u32..6,
        seed in 0u64..9,
    ) {
        let total: u64 = sizes.iter().sum();
        let node = |n: u32| NodeSpec {
            zone: n % zones,
            rack: n / 2,
            capacity_bytes: 1000 + total * 6 / u64::from(nodes),
            weight: 1.0,
            takes: n != 7,
            holds: n != 7,
        };
        let shard = |(s, &bytes): (usize, &u64)| {
            let first = s as u32 % (nodes / 2);
            ShardSpec {
                load: Load { bytes, ..Load::default() },
                replicas: 2,
                present: vec![first, (first + 1) % nodes],
                table: s as u32 % 5,
                ..ShardSpec::default()
            }
        };
        let policy = Policy {
            weights: Weights { per_table: 0.5, ..Weights::default() },
            hysteresis: 0.0,
            ..Policy::default()
        };
        let problem =
            Problem::new((0..nodes).map(node).collect(), sizes.iter().enumerate().map(shard), &policy);
        let priced = prices_and_bound(&problem, f64::INFINITY, &mut WorkBudget::new(60_000));
        let found =
            decide(&problem, &Hybrid::HEURISTIC, seed, &mut WorkBudget::new(150_000), &mut |_| {});
        prop_assert!(found.broken.is_empty(), "{:?}", found.broken);
        prop_assert!(found.after.total < found.before.total);
        let bound = priced.bound.max(found.bound);
        prop_assert!(bound > 0.0 && bound <= found.after.total + 1e-6, "{bound} {}", found.after.total);
        let per_node: BTreeMap<u32, usize> =
            found.solution.nodes.iter().fold(BTreeMap::new(), |mut counts, &node| {
                *counts.entry(node).or_default() += 1;
                counts
            });
        prop_assert!(!per_node.contains_key(&7));
    }
}
