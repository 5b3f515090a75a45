//! Plans on small worlds, each replayed by the checker.

use super::*;
use crate::placement::Load;
use crate::placement::policy::Policy;
use crate::placement::problem::{NodeSpec, ShardSpec};
use crate::placement::replay::Flaw;
use proptest::prelude::*;

fn world(rooms: &[u64], shards: &[(u64, Vec<u32>)]) -> Problem {
    let node = |(n, &capacity_bytes): (usize, &u64)| {
        let zone = n as u32;
        NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
    };
    let shard = |(bytes, present): &(u64, Vec<u32>)| ShardSpec {
        load: Load { bytes: *bytes, ..Load::default() },
        replicas: present.len() as u32,
        present: present.clone(),
        ..ShardSpec::default()
    };
    let policy = Policy { watermark: 1.0, ..Policy::default() };
    Problem::new(rooms.iter().enumerate().map(node).collect(), shards.iter().map(shard), &policy)
}

#[test]
fn full_nodes_change_places_through_a_third() {
    let problem = world(&[10, 10, 10], &[(9, vec![0]), (8, vec![1])]);
    let target = Solution { nodes: vec![1, 0] };
    let plan = sequence(&problem, &target, &WaveLimits::default());
    assert_eq!(plan.check(&problem, &target, &WaveLimits::default()), Ok(()));
    assert_eq!((plan.left.len(), plan.peak_bytes.clone()), (0, vec![9, 9, 8]));
    assert!(plan.steps.iter().any(|step| step.action == Action::Add { node: 2 }), "{plan:?}");
}

/// Sweep seeds 847, 947 and 991: two copies were in one zone until the other one had gone its way.
#[test]
fn copies_change_places_within_their_zones() {
    let mut problem = world(&[10; 4], &[(1, vec![0, 1])]);
    (0..4).for_each(|node| problem.nodes[node].zone = node as u32 % 2);
    let target = Solution { nodes: vec![3, 2] };
    let plan = sequence(&problem, &target, &WaveLimits::default());
    let added = plan.steps.iter().filter(|step| matches!(step.action, Action::Add { .. }));
    let mut pairs: Vec<_> = added.map(|step| (step.replaces, step.action)).collect();
    pairs.sort_by_key(|(from, _)| *from);
    assert_eq!(pairs, [(Some(0), Action::Add { node: 2 }), (Some(1), Action::Add { node: 3 })]);
}

#[test]
fn with_no_room_anywhere_shards_stay_and_are_named() {
    let problem = world(&[10, 10], &[(9, vec![0]), (8, vec![1])]);
    let target = Solution { nodes: vec![1, 0] };
    let plan = sequence(&problem, &target, &WaveLimits::default());
    assert_eq!(plan.check(&problem, &target, &WaveLimits::default()), Ok(()));
    let left = [(0, 1), (1, 0)].map(|(shard, node)| Left { shard, why: Stuck::NoRoom { node } });
    assert_eq!((plan.steps.len(), plan.left), (0, left.to_vec()));
}

#[test]
fn the_checker_sees_a_copy_dropped_too_early() {
    let problem = world(&[10, 10], &[(1, vec![0])]);
    let target = Solution { nodes: vec![1] };
    let mut plan = sequence(&problem, &target, &WaveLimits::default());
    plan.steps.retain(|step| !matches!(step.action, Action::Add { .. } | Action::Lead { .. }));
    plan.steps.iter_mut().for_each(|step| step.after.clear());
    assert_eq!(plan.check(&problem, &target, &WaveLimits::default()), Err(Flaw::Needed { step: 0 }));
}

#[test]
fn the_checker_believes_no_false_reason() {
    let problem = world(&[10, 10], &[(9, vec![0]), (8, vec![1])]);
    let (target, limits) = (Solution { nodes: vec![1, 0] }, WaveLimits::default());
    let good = sequence(&problem, &target, &limits);
    let mut silent = good.clone();
    silent.left.pop();
    assert_eq!(silent.check(&problem, &target, &limits), Err(Flaw::End { shard: 1 }));
    let mut wrong = good.clone();
    wrong.left[0].why = Stuck::Needed { node: 0 };
    assert_eq!(wrong.check(&problem, &target, &limits), Err(Flaw::End { shard: 0 }));
    // Shard 0 would fit if shard 1 were not there: an excuse that holds for nobody.
    let roomy = world(&[20, 20], &[(9, vec![0]), (8, vec![1])]);
    let idle = Plan { peak_bytes: vec![9, 8], ..good };
    assert_eq!(idle.check(&roomy, &target, &limits), Err(Flaw::End { shard: 0 }));
}

#[test]
fn the_checker_counts_copies_of_a_wave() {
    let problem = world(&[90, 90], &[(1, vec![0]), (1, vec![0]), (1, vec![0])]);
    let target = Solution { nodes: vec![1, 1, 1] };
    let wide = WaveLimits { copies_in_max: 3, copies_out_max: 3, ..WaveLimits::default() };
    let plan = sequence(&problem, &target, &wide);
    assert_eq!((plan.waves, plan.check(&problem, &target, &wide)), (1, Ok(())));
    for narrow in [
        WaveLimits { copies_in_max: 2, ..wide },
        WaveLimits { copies_out_max: 2, ..wide },
        WaveLimits { copies_per_table_max: 2, ..wide },
    ] {
        assert!(matches!(plan.check(&problem, &target, &narrow), Err(Flaw::Crowd { .. })));
        let kept = sequence(&problem, &target, &narrow);
        assert_eq!((kept.waves, kept.check(&problem, &target, &narrow)), (2, Ok(())));
    }
}

#[test]
fn a_copy_on_a_node_that_is_down_takes_no_time() {
    let mut shards = [(100, vec![0, 1]), (100, vec![0, 1])].map(|(bytes, present)| ShardSpec {
        load: Load { bytes, ..Load::default() },
        replicas: 2,
        present,
        unsound: vec![0],
        ..ShardSpec::default()
    });
    let node =
        |n: u32| NodeSpec { zone: n, rack: n, capacity_bytes: 1000, weight: 1.0, takes: n > 0, holds: n > 0 };
    let seconds = |shards: &[ShardSpec]| {
        let problem = Problem::new((0..4).map(node).collect(), shards.to_vec(), &Policy::default());
        let target = Solution { nodes: vec![1, 2, 1, 3] };
        let limits = WaveLimits { bytes_per_second: 100.0, ..WaveLimits::default() };
        let plan = sequence(&problem, &target, &limits);
        assert_eq!(plan.check(&problem, &target, &limits), Ok(()));
        plan.seconds
    };
    // Node 1 sends two copies; a third one that is being made, into node 1, comes on top.
    assert_eq!(seconds(&shards), 2.0);
    (shards[0].present, shards[0].unsound, shards[0].making) = (vec![2, 1], vec![1], vec![1]);
    assert_eq!(seconds(&shards), 2.0);
}

proptest! {
    #[test]
    fn every_plan_replays(
        nodes in 2usize..8,
        moves in prop::collection::vec((0u64..10, 0u32..8, 0u32..8, 0u32..8, 0u32..8), 0..30),
        slack in 0u64..12,
    ) {
        let n = nodes as u32;
        let pair = |a: u32, b: u32| {
            let (a, b) = (a % n, b % n);
            if a == b { vec![a, (a + 1) % n] } else { vec![a, b] }
        };
        let shards: Vec<_> = moves.iter().map(|&(bytes, a, b, _, _)| (bytes, pair(a, b))).collect();
        let mut before = vec![0; nodes];
        let mut after = vec![0; nodes];
        let mut target = Vec::new();
        for &(bytes, a, b, c, d) in &moves {
            pair(a, b).iter().for_each(|&node| before[node as usize] += bytes);
            pair(c, d).iter().for_each(|&node| after[node as usize] += bytes);
            target.extend(pair(c, d));
        }
        let rooms: Vec<u64> = before.iter().zip(&after).map(|(a, b)| (*a).max(*b) + slack + 1).collect();
        let problem = world(&rooms, &shards);
        let target = Solution { nodes: target };
        let plan = sequence(&problem, &target, &WaveLimits::default());
        prop_assert_eq!(plan.check(&problem, &target, &WaveLimits::default()), Ok(()));
        for (node, &peak) in plan.peak_bytes.iter().enumerate() {
            prop_assert!(peak as f64 <= problem.room_bytes(node as u32));
        }
    }

    /// Copies that are being made, on lost nodes or leaving, surplus and missing ones, tight limits and disks.
    #[test]
    fn every_plan_of_a_cluster_at_work_replays(
        nodes in 2usize..7,
        shards in prop::collection::vec(
            (0u64..10, 0u32..3, prop::collection::vec((0u32..7, 0u8..8), 0..4), prop::collection::vec(0u32..7, 1..4)),
            0..16,
        ),
        lost in prop::option::of(0u32..7),
        slack in 0u64..10,
        (into, out, per_table) in (1u32..3, 1u32..3, 1u32..5),
    ) {
        let n = nodes as u32;
        let lost = lost.map(|lost| lost % n).filter(|_| n > 2);
        let mut specs = Vec::new();
        let (mut before, mut after, mut target) = (vec![0; nodes], vec![0; nodes], Vec::new());
        for (bytes, table, present, wanted) in &shards {
            let mut spec = ShardSpec {
                load: Load { bytes: *bytes, ..Load::default() },
                table: *table,
                ..ShardSpec::default()
            };
            for &(node, state) in present.iter().map(|(node, state)| (node % n, state)).collect::<Vec<_>>().iter() {
                if spec.present.contains(&node) {
                    continue;
                }
                spec.present.push(node);
                before[node as usize] += bytes;
                if *state == 0 && Some(node) != lost {
                    spec.making.push(node);
                }
                if *state == 0 || Some(node) == lost {
                    spec.unsound.push(node);
                }
            }
            let mut goal: Vec<u32> = Vec::new();
            for node in wanted.iter().map(|node| node % n).filter(|node| Some(*node) != lost) {
                if !goal.contains(&node) {
                    goal.push(node);
                    after[node as usize] += bytes;
                }
            }
            if goal.is_empty() {
                let node = (0..n).find(|node| Some(*node) != lost).expect("another node");
                goal.push(node);
                after[node as usize] += bytes;
            }
            spec.replicas = goal.len() as u32;
            specs.push(spec);
            target.extend(goal);
        }
        let room = |node: u32| before[node as usize].max(after[node as usize]) + slack + 1;
        let node = |node: u32| {
            let up = Some(node) != lost;
            NodeSpec { zone: node, rack: node, capacity_bytes: room(node), weight: 1.0, takes: up, holds: up }
        };
        let policy = Policy { watermark: 1.0, ..Policy::default() };
        let problem = Problem::new((0..n).map(node).collect(), specs, &policy);
        let target = Solution { nodes: target };
        prop_assert_eq!(target.nodes.len(), problem.replicas());
        let limits = WaveLimits {
            copies_in_max: into,
            copies_out_max: out,
            copies_per_table_max: per_table,
            ..WaveLimits::default()
        };
        let plan = sequence(&problem, &target, &limits);
        prop_assert_eq!(plan.check(&problem, &target, &limits), Ok(()), "{:?}", plan);
    }
}
