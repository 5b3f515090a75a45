//! Properties of placement, on random worlds: hard rules, idempotence, independence of order, bound.

use converthouse::model::{NodeId, NodeState, ShardId, TableId};
use converthouse::placement::bound::prices_and_bound;
use converthouse::placement::budget::WorkBudget;
use converthouse::placement::constraint::broken;
use converthouse::placement::engines::{NAMES, by_name};
use converthouse::placement::ids::Ids;
use converthouse::placement::objective::score;
use converthouse::placement::{Load, NodeView, Policy, ReplicaView, ShardView, Snapshot, Verdict, propose};
use proptest::prelude::*;
use std::collections::BTreeSet;

const WORK: u64 = 60_000;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
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

fn shard(number: u32, bytes: u64, replicas: u32, on: &[NodeId]) -> ShardView {
    let replica = |node: &NodeId| ReplicaView { node: node.clone(), complete: true };
    ShardView {
        table: table(number % 3),
        shard: ShardId(number),
        load: Load { bytes, write_rate: 1.0, read_rate: 1.0 },
        replicas_wanted: replicas,
        replicas: on.iter().map(replica).collect(),
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
        shard.replicas = nodes.iter().map(|n| ReplicaView { node: n.clone(), complete: true }).collect();
    }
    next
}

proptest! {
    #![proptest_config(config(48))]

    #[test]
    fn rules_are_kept_where_they_can_be(world in world()) {
        let verdict = propose(&world, &Policy::default(), 1, WORK);
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
        let verdict = propose(&world, &Policy::default(), 1, WORK);
        prop_assert!(verdict.after.total <= verdict.before.total + 1e-9);
        let again = propose(&accepted(&world, &verdict), &Policy::default(), 1, WORK);
        prop_assert!(again.moves.is_empty(), "{:?}", again.moves);
    }

    #[test]
    fn the_order_of_nodes_and_shards_changes_nothing(world in world(), turn in 0usize..60) {
        let verdict = propose(&world, &Policy::default(), 1, WORK);
        let mut turned = world.clone();
        turned.nodes.reverse();
        let turn = turn % turned.shards.len().max(1);
        turned.shards.rotate_left(turn);
        prop_assert_eq!(propose(&turned, &Policy::default(), 1, WORK).moves, verdict.moves);
    }

    #[test]
    fn no_engine_scores_below_the_bound(world in world(), seed in 0u64..100) {
        let policy = Policy { hysteresis: 0.0, ..Policy::default() };
        let (problem, _) = Ids::of(&world, &policy);
        let priced = prices_and_bound(&problem, 1.0, &mut WorkBudget::new(WORK));
        for name in NAMES {
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
    #![proptest_config(config(24))]

    #[test]
    fn a_byte_budget_holds_back_all_but_repairs(world in world(), bytes_max in 0u64..2000) {
        let policy = Policy { bytes_max: Some(bytes_max), hysteresis: 0.0, ..Policy::default() };
        let verdict = propose(&world, &policy, 1, WORK);
        let repairs = verdict.before.bytes_moved;
        prop_assert!(verdict.after.bytes_moved <= bytes_max.max(repairs), "{}", verdict.after.bytes_moved);
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
        let first = propose(&world, &Policy::default(), 1, WORK);
        world = accepted(&world, &first);
        world.nodes[0].state = NodeState::Draining;
        let lost = world.nodes[0].id.clone();
        let held = world.shards.iter().filter(|s| s.replicas.iter().any(|r| r.node == lost)).count() as u64;
        let verdict = propose(&world, &Policy::default(), 1, WORK);
        prop_assert!(verdict.after.copies >= held);
        prop_assert!(verdict.after.copies <= held + 2, "{} copies for {held}", verdict.after.copies);
    }
}

/// Odd worlds: each gives the best possible placement and says what could not be kept.
#[test]
fn odd_worlds_get_an_answer_with_reasons() {
    let up = |n: usize, zone: usize| node(n, zone, 1000, NodeState::Active, true);
    let full = |nodes: &[NodeView]| -> Vec<NodeId> { nodes.iter().map(|n| n.id.clone()).collect() };
    let check = |what: &str, nodes: Vec<NodeView>, shards: Vec<ShardView>, wanted: &str| {
        let verdict = propose(&Snapshot { nodes, shards: shards.clone() }, &Policy::default(), 1, WORK);
        for shard in &shards {
            assert!(!verdict.placement[&(shard.table, shard.shard)].is_empty(), "{what}: no answer");
        }
        let said = verdict.compromises.join("\n");
        assert!(said.contains(wanted), "{what}: {wanted:?} expected in {said:?}");
    };
    let pair = vec![up(0, 0), up(1, 1)];
    let ids = full(&pair);
    check(
        "over-full",
        pair.clone(),
        vec![shard(0, 990, 1, &ids[..1]), shard(1, 990, 1, &ids[..1])],
        "watermark",
    );
    check("too few zones", vec![up(0, 0), up(1, 0)], vec![shard(0, 1, 2, &ids[..1])], "share a zone");
    check("too few nodes", pair.clone(), vec![shard(0, 1, 5, &ids[..1])], "fewer nodes");
    let mut drained = pair.clone();
    drained.iter_mut().for_each(|n| n.state = NodeState::Draining);
    check("drained, nowhere to go", drained, vec![shard(0, 1, 1, &ids[..1])], "no node may hold it");
    let mut down = pair.clone();
    down.iter_mut().for_each(|n| n.up = false);
    check("all down", down, vec![shard(0, 1, 2, &ids)], "no node may hold it");
    check(
        "one giant",
        pair.clone(),
        vec![shard(0, 5000, 1, &ids[..1]), shard(1, 1, 1, &ids[..1])],
        "watermark",
    );
    let zeros = (0..40).map(|s| shard(s, 0, 1, &ids[..1])).collect();
    check("zero bytes", pair, zeros, "");
    let many: Vec<ShardView> = (0..50_000).map(|s| shard(s, 1, 1, &ids[..1])).collect();
    let wide =
        vec![node(0, 0, 1 << 20, NodeState::Active, true), node(1, 1, 1 << 20, NodeState::Active, true)];
    check("tiny shards", wide, many, "");
}
