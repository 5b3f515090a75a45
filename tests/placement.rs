//! Properties of placement, on random worlds: hard rules, idempotence, independence of order, bound.

#[path = "placement/changes.rs"]
mod changes;
#[path = "placement/exceptions.rs"]
mod exceptions;
#[path = "placement/feasibility.rs"]
mod feasibility;
#[path = "placement/found.rs"]
mod found;

use converthouse::model::{NodeId, NodeState, ShardId, TableId};
use converthouse::placement::bound::prices_and_bound;
use converthouse::placement::budget::WorkBudget;
use converthouse::placement::constraint::broken;
use converthouse::placement::engines::repair::standing;
use converthouse::placement::engines::{NAMES, Outcome, by_name};
use converthouse::placement::ids::Ids;
use converthouse::placement::objective::score;
use converthouse::placement::policy::Weights;
use converthouse::placement::solution::Solution;
use converthouse::placement::{
    ClusterAction, ClusterStep, Limits, Load, NodeView, Policy, ReplicaView, ShardView, Snapshot, Verdict,
    plan, resume,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const WORK: u64 = 30_000;

fn limits() -> Limits {
    Limits { work: WORK, ..Limits::default() }
}

fn propose(snapshot: &Snapshot, policy: &Policy) -> Verdict {
    plan(snapshot, policy, &limits()).verdict
}

/// `CONVERTHOUSE_PROPERTY_TIMES` asks for that many times as many worlds; `make test` draws the same ones each time.
fn config(cases: u32) -> ProptestConfig {
    let times = std::env::var("CONVERTHOUSE_PROPERTY_TIMES");
    let times: u32 = times.map_or(1, |times| times.parse().expect("a number of times"));
    ProptestConfig { cases: cases * times, failure_persistence: None, ..ProptestConfig::default() }
}

fn node(index: usize, zone: usize, capacity: u64, state: NodeState, up: bool) -> NodeView {
    NodeView {
        id: format!("n{index:03}").parse().expect("a node name"),
        labels: [("zone".to_owned(), format!("z{zone}"))].into(),
        capacity_bytes: capacity,
        weight_milli: 1000,
        state,
        up,
    }
}

fn table(number: u32) -> TableId {
    TableId(uuid::Uuid::from_u128(u128::from(number) + 1))
}

fn whole(node: &NodeId) -> ReplicaView {
    ReplicaView { node: node.clone(), complete: true, leaving: false }
}

fn shard(number: u32, bytes: u64, replicas: u32, on: &[NodeId]) -> ShardView {
    ShardView {
        table: table(number % 3),
        shard: ShardId(number),
        load: Load { bytes, write_rate: 1.0, read_rate: 1.0 },
        replicas_wanted: replicas,
        replicas: on.iter().map(whole).collect(),
        leader: on.first().cloned(),
        frozen: false,
        pinned: vec![],
        excluded: vec![],
    }
}

prop_compose! {
    /// A world of up to 12 nodes in up to 4 zones, skewed, with drained, cordoned and lost nodes.
    fn world()(
        nodes in 1usize..12,
        zones in 1usize..5,
        replicas in 1u32..4,
        sizes in prop::collection::vec(prop_oneof![Just(0u64), 1u64..2000, 1u64..200], 0..60),
        states in prop::collection::vec(0u8..20, 12),
        spots in prop::collection::vec(prop::collection::vec(any::<prop::sample::Index>(), 0..4), 60),
    ) -> Snapshot {
        let total: u64 = sizes.iter().sum::<u64>() * u64::from(replicas);
        let capacity = (total * 2 / nodes as u64).max(4000);
        let state = |n: usize| match states[n] {
            0 => (NodeState::Draining, true),
            1 => (NodeState::Cordoned, true),
            2 => (NodeState::Active, false),
            _ => (NodeState::Active, true),
        };
        let view = |n| node(n, n % zones, capacity * (1 + n as u64 % 2), state(n).0, state(n).1);
        let nodes: Vec<NodeView> = (0..nodes).map(view).collect();
        let shards = sizes.iter().enumerate().map(|(number, &bytes)| {
            let mut on: Vec<NodeId> = Vec::new();
            for spot in &spots[number] {
                let id = nodes[spot.index(nodes.len()) * spot.index(nodes.len()) / nodes.len()].id.clone();
                if !on.contains(&id) {
                    on.push(id);
                }
            }
            shard(number as u32, bytes, replicas, &on)
        });
        let shards = shards.collect();
        Snapshot { nodes, shards }
    }
}

fn accepted(snapshot: &Snapshot, verdict: &Verdict) -> Snapshot {
    let mut next = snapshot.clone();
    for shard in &mut next.shards {
        let nodes = &verdict.placement[&(shard.table, shard.shard)];
        shard.replicas = nodes.iter().map(whole).collect();
    }
    next
}

proptest! {
    #![proptest_config(config(32))]

    #[test]
    fn rules_are_kept_where_they_can_be(world in world()) {
        let verdict = propose(&world, &Policy::default());
        let active: Vec<&NodeView> = world.nodes.iter().filter(|node| node.takes_new()).collect();
        let zones: BTreeSet<&str> = active.iter().map(|node| node.zone()).collect();
        for shard in &world.shards {
            let nodes = &verdict.placement[&(shard.table, shard.shard)];
            let distinct: BTreeSet<_> = nodes.iter().collect();
            prop_assert_eq!(distinct.len(), nodes.len());
            if active.is_empty() {
                continue;
            }
            prop_assert!(nodes.len() >= (shard.replicas_wanted as usize).min(active.len()));
            let view = |id: &NodeId| world.nodes.iter().find(|node| &node.id == id).expect("a listed node");
            prop_assert!(nodes.iter().all(|id| view(id).up && view(id).state != NodeState::Draining));
            if zones.len() >= shard.replicas_wanted as usize {
                let used: BTreeSet<&str> = nodes.iter().map(|id| view(id).zone()).collect();
                prop_assert_eq!(used.len(), nodes.len());
            }
        }
    }

    #[test]
    fn a_proposal_stands_and_is_never_worse_than_the_start(world in world()) {
        let verdict = propose(&world, &Policy::default());
        // Unless the start broke a rule that it could not be rid of by itself: rules come first, whatever they cost.
        let of = |world: &Snapshot| Ids::of(world, &Policy::default()).0;
        let (problem, next) = (of(&world), of(&accepted(&world, &verdict)));
        let start = broken(&problem, &standing(&problem));
        let then = broken(&next, &Solution::present(&next));
        let worse = verdict.after.total > verdict.before.total + 1e-9;
        prop_assert!(!worse || then.len() < start.len(), "{start:?} then {then:?}");
        let again = propose(&accepted(&world, &verdict), &Policy::default());
        prop_assert!(again.moves.is_empty(), "{:?}", again.moves);
    }

    #[test]
    fn the_order_of_nodes_and_shards_changes_nothing(world in world(), turn in 0usize..60) {
        let verdict = propose(&world, &Policy::default());
        let mut turned = world.clone();
        turned.nodes.reverse();
        let turn = turn % turned.shards.len().max(1);
        turned.shards.rotate_left(turn);
        prop_assert_eq!(propose(&turned, &Policy::default()).moves, verdict.moves);
    }

    #[test]
    fn no_engine_scores_below_the_bound(world in world(), seed in 0u64..100) {
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        let (problem, _) = Ids::of(&world, &policy);
        let priced = prices_and_bound(&problem, 1.0, &mut WorkBudget::new(WORK));
        // Integer programs have their own test: they take long.
        for name in NAMES.into_iter().filter(|name| *name != "milp") {
            let engine = by_name(name).expect("an engine");
            let outcome = engine.solve(&problem, seed, &mut WorkBudget::new(WORK), &mut |_| {});
            if broken(&problem, &outcome.solution).is_empty() {
                let score = score(&problem, &outcome.solution).total;
                let best = priced.bound.max(outcome.bound);
                prop_assert!(best <= score + 1e-6, "{name}: {best} > {score}");
            }
        }
    }
}

proptest! {
    #![proptest_config(config(16))]

    #[test]
    fn a_byte_budget_holds_back_all_but_repairs(world in world(), bytes_max in 0u64..2000) {
        let policy = Policy { bytes_max: Some(bytes_max), hysteresis: 0.0, ..Policy::default() };
        let verdict = propose(&world, &policy);
        let repairs = verdict.before.bytes_moved;
        prop_assert!(verdict.after.bytes_moved <= bytes_max.max(repairs), "{}", verdict.after.bytes_moved);
    }

    #[test]
    fn a_budget_of_copies_holds_back_all_but_repairs(world in world(), moves_max in 0u64..10) {
        let policy = Policy { moves_max: Some(moves_max), hysteresis: 0.0, ..Policy::default() };
        let verdict = propose(&world, &policy);
        let repairs = verdict.before.copies;
        prop_assert!(verdict.after.copies <= moves_max.max(repairs), "{}", verdict.after.copies);
    }

    /// With equal shards every copy that an added node asks for goes to it.
    #[test]
    fn adding_a_node_moves_nothing_between_old_ones(nodes in 3usize..7, shards in 20u32..60) {
        let views: Vec<NodeView> = (0..=nodes).map(|n| node(n, n, 1 << 20, NodeState::Active, true)).collect();
        let on = |s: u32| {
            let at = |k: u32| views[(s + k) as usize % nodes].id.clone();
            [at(0), at(1 + s / nodes as u32 % (nodes as u32 - 1))]
        };
        let shards: Vec<ShardView> = (0..shards).map(|s| shard(s, 100, 2, &on(s))).collect();
        let mut world = Snapshot { nodes: views[..nodes].to_vec(), shards };
        let first = propose(&world, &Policy::default());
        world = accepted(&world, &first);
        world.nodes.push(views[nodes].clone());
        let verdict = propose(&world, &Policy::default());
        let between = verdict.moves.iter().flat_map(|m| &m.add).filter(|id| **id != views[nodes].id).count();
        prop_assert!(between <= 2, "{between} copies between old nodes");
        prop_assert!(verdict.after.copies <= 2 * world.shards.len() as u64 / (nodes as u64 + 1) + 3);
    }

    #[test]
    fn removing_one_node_moves_little_more_than_its_share(nodes in 4usize..8, shards in 20u32..60) {
        let views: Vec<NodeView> = (0..nodes).map(|n| node(n, n, 1 << 20, NodeState::Active, true)).collect();
        let on = |s: u32| {
            let at = |k: u32| views[(s + k) as usize % nodes].id.clone();
            [at(0), at(1 + s / nodes as u32 % (nodes as u32 - 1))]
        };
        let shards: Vec<ShardView> = (0..shards).map(|s| shard(s, 100, 2, &on(s))).collect();
        let mut world = Snapshot { nodes: views, shards };
        let first = propose(&world, &Policy::default());
        world = accepted(&world, &first);
        world.nodes[0].state = NodeState::Draining;
        let lost = world.nodes[0].id.clone();
        let held = world.shards.iter().filter(|s| s.replicas.iter().any(|r| r.node == lost)).count() as u64;
        let verdict = propose(&world, &Policy::default());
        prop_assert!(verdict.after.copies >= held);
        prop_assert!(verdict.after.copies <= held + 2, "{} copies for {held}", verdict.after.copies);
    }
}

proptest! {
    #![proptest_config(config(4))]

    #[test]
    fn the_integer_program_keeps_rules_and_bound(world in world(), seed in 0u64..100) {
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        let mut world = world;
        world.shards.truncate(12);
        let (problem, _) = Ids::of(&world, &policy);
        let solve = |name: &str| {
            let engine = by_name(name).expect("an engine");
            engine.solve(&problem, seed, &mut WorkBudget::new(WORK), &mut |_| {})
        };
        let (kept, exact) = (solve("pinned"), solve("milp"));
        let broken = |outcome: &Outcome| broken(&problem, &outcome.solution).len();
        prop_assert!(broken(&exact) <= broken(&kept));
        if broken(&exact) == 0 {
            let score = score(&problem, &exact.solution).total;
            prop_assert!(exact.bound <= score + 1e-6, "{} > {score}", exact.bound);
        }
    }
}

/// Does the steps that wait for nothing as a leader would: copies begin incomplete and are listed last.
fn carry_out(world: &mut Snapshot, ready: &[ClusterStep]) {
    for step in ready {
        let (node, id) = (&step.node, (step.table, step.shard));
        let shard = world.shards.iter_mut().find(|s| (s.table, s.shard) == id).expect("listed");
        let copies = &mut shard.replicas;
        let at = copies.iter().position(|replica| &replica.node == node);
        let leaves = |replica: &&mut ReplicaView| step.replaces.as_ref() == Some(&replica.node);
        copies.iter_mut().filter(leaves).for_each(|replica| replica.leaving = true);
        match (step.action, at) {
            (ClusterAction::Add, None) => {
                copies.push(ReplicaView { complete: false, ..whole(node) });
            }
            (ClusterAction::Await, Some(at)) => assert!(!copies[at].complete),
            (ClusterAction::Lead, Some(at)) => copies[..=at].rotate_right(1),
            (ClusterAction::Remove, Some(at)) => drop(copies.remove(at)),
            (action, at) => panic!("{action:?} of {node} at {at:?}"),
        }
    }
}

fn sound(world: &Snapshot, shard: &ShardView) -> usize {
    let up = |id: &NodeId| world.nodes.iter().any(|node| &node.id == id && node.up);
    shard.replicas.iter().filter(|replica| replica.complete && up(&replica.node)).count()
}

proptest! {
    #![proptest_config(config(12))]

    /// A leader that plans anew at every step ends, keeps copies, and copies nothing there and back.
    #[test]
    fn planning_anew_at_every_step_settles(world in world(), late in prop::collection::vec(0u8..3, 60)) {
        let mut world = world;
        let needed: Vec<usize> =
            world.shards.iter().map(|s| sound(&world, s).min(s.replicas_wanted as usize)).collect();
        let (mut added, mut towards) = (BTreeSet::new(), BTreeMap::new());
        for round in 0usize.. {
            prop_assert!(round < 400, "no end");
            let limits = Limits { work: 10_000, ..limits() };
            let proposal = resume(&world, &Policy::default(), &limits, &towards);
            towards.clone_from(&proposal.verdict.placement);
            if proposal.steps.is_empty() {
                break;
            }
            let ready: Vec<ClusterStep> = proposal.ready().cloned().collect();
            // With nothing to begin, copies that are on their way are waited for.
            let on_its_way = |shard: &ShardView| shard.replicas.iter().any(|replica| !replica.complete);
            prop_assert!(!ready.is_empty() || world.shards.iter().any(on_its_way));
            // A copy on a node that is not its goal lets others pass on full disks.
            let goal = |step: &&ClusterStep| towards[&(step.table, step.shard)].contains(&step.node);
            for step in ready.iter().filter(|step| step.action == ClusterAction::Add).filter(goal) {
                let (shard, node) = (step.shard, &step.node);
                prop_assert!(added.insert((step.table, shard, node.clone())), "{shard} twice to {node}");
            }
            carry_out(&mut world, &ready);
            for (at, shard) in world.shards.iter().enumerate() {
                prop_assert!(sound(&world, shard) >= needed[at], "{} lost a copy", shard.shard);
            }
            for (at, shard) in world.shards.iter_mut().enumerate() {
                if (round + at + usize::from(late[at])) % 3 == 0 {
                    shard.replicas.iter_mut().for_each(|replica| replica.complete = true);
                }
            }
        }
    }
}

#[test]
fn an_incomplete_copy_lets_no_other_go() {
    let views: Vec<NodeView> = (0..3).map(|n| node(n, n, 1000, NodeState::Active, true)).collect();
    let ids: Vec<NodeId> = views.iter().map(|view| view.id.clone()).collect();
    let mut world = Snapshot { nodes: views, shards: vec![shard(0, 10, 1, &ids[..1])] };
    world.nodes[0].state = NodeState::Draining;
    let actions = |world: &Snapshot| -> Vec<(ClusterAction, String)> {
        let steps = plan(world, &Policy::default(), &limits()).steps;
        steps.iter().map(|step| (step.action, step.node.to_string())).collect()
    };
    let n = |index: usize| format!("n{index:03}");
    let first = actions(&world);
    let to = first[0].1.clone();
    let out = |then: ClusterAction| {
        vec![(then, to.clone()), (ClusterAction::Lead, to.clone()), (ClusterAction::Remove, n(0))]
    };
    assert_eq!(first, out(ClusterAction::Add));
    world.shards[0].replicas[0].leaving = true;
    world.shards[0].replicas.push(ReplicaView { complete: false, ..whole(&to.parse().expect("a name")) });
    assert_eq!(actions(&world), out(ClusterAction::Await));
    world.shards[0].replicas[1].complete = true;
    assert_eq!(actions(&world), out(ClusterAction::Add)[1..]);
    // The only complete copy stays when the node that was to replace it is lost, until the next one is there.
    world.shards[0].replicas[1].complete = false;
    world.nodes.iter_mut().filter(|node| node.id.as_str() == to).for_each(|node| node.up = false);
    let third = if to == n(1) { n(2) } else { n(1) };
    assert_eq!(actions(&world)[0], (ClusterAction::Add, third));
}

/// Once every kick of the only replica that may move was followed by a search that spent nothing, for ever.
#[test]
fn a_world_with_one_replica_that_may_move_is_solved() {
    let nodes: Vec<NodeView> = (0..3).map(|n| node(n, n, 100_000, NodeState::Active, true)).collect();
    let home = std::slice::from_ref(&nodes[0].id);
    for (count, weights) in [(4, Weights::CLUSTER), (4, Weights::YARDSTICK), (40, Weights::YARDSTICK)] {
        let mut shards: Vec<ShardView> = (0..count).map(|s| shard(s, 100 + u64::from(s), 1, home)).collect();
        shards[1..].iter_mut().for_each(|shard| shard.frozen = true);
        let policy = Policy { weights, hysteresis: 0.0, ..Policy::default() };
        let verdict = propose(&Snapshot { nodes: nodes.clone(), shards: shards.clone() }, &policy);
        for shard in &shards[1..] {
            assert_eq!(verdict.placement[&(shard.table, shard.shard)], home);
        }
        assert_ne!(verdict.placement[&(shards[0].table, shards[0].shard)], home);
    }
}

/// Every engine, on one thread after the other and on four at once: the same answer.
#[test]
fn threads_change_nothing() {
    let views: Vec<NodeView> = (0..6).map(|n| node(n, n % 3, 4000, NodeState::Active, true)).collect();
    let ids: Vec<NodeId> = views.iter().map(|view| view.id.clone()).collect();
    let shards = (0..40).map(|s| shard(s, u64::from(s * 7 % 31), 2, &ids[(s % 2) as usize..][..2]));
    let (problem, _) = Ids::of(&Snapshot { nodes: views, shards: shards.collect() }, &Policy::default());
    for name in NAMES {
        let solve = || {
            let engine = by_name(name).expect("an engine");
            engine.solve(&problem, 7, &mut WorkBudget::new(WORK), &mut |_| {}).solution
        };
        let alone = solve();
        std::thread::scope(|scope| {
            let runs: Vec<_> = (0..4).map(|_| scope.spawn(solve)).collect();
            for run in runs {
                assert_eq!(run.join().expect("it ends"), alone, "{name}");
            }
        });
    }
}

/// Node counts of which whole shares are no whole numbers in floating point, if they are taken as parts of one.
#[test]
fn where_shares_are_whole_numbers_the_bound_is_what_can_be_had() {
    for nodes in [49, 75, 98, 103, 107] {
        let ids: Vec<NodeView> =
            (0..nodes).map(|n| node(n, n % 3, 1 << 40, NodeState::Active, true)).collect();
        let shards = ids.iter().zip(0..).map(|(node, n)| shard(n, 1_000, 1, std::slice::from_ref(&node.id)));
        let snapshot = Snapshot { shards: shards.collect(), nodes: ids.clone() };
        let verdict = propose(&snapshot, &Policy::default());
        assert!(
            verdict.bound <= verdict.after.total + 1e-9,
            "{nodes}: {} {}",
            verdict.bound,
            verdict.after.total
        );
        assert_eq!(verdict.moves.len(), 0, "{nodes}");
    }
}
