//! Two worlds too large to be played replica by replica: the engine plans them whole, and the plan made on the planned
//! state is empty. Both are re-created after their sources' descriptions: Cruise Control's random cluster (40 nodes, 10
//! racks, 50 001 replicas of 3000 tables) and Elasticsearch's three nodes that become six with 30 240 shards.

use converthouse::model::{NodeId, NodeState, ShardId, TableId};
use converthouse::placement::{
    Limits, Load, NodeView, Policy, Proposal, ReplicaView, ShardView, Snapshot, plan,
};
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

fn node(number: u32, rack: Option<u32>) -> NodeView {
    NodeView {
        id: format!("n{number}").parse().expect("letters and digits"),
        labels: rack.map(|rack| ("zone".to_owned(), format!("z{rack}"))).into_iter().collect(),
        capacity_bytes: 1 << 40,
        weight_milli: 1_000,
        state: NodeState::Active,
        up: true,
    }
}

fn shard(table: u32, number: u32, bytes: u64, nodes: &[&NodeView]) -> ShardView {
    let replica = |node: &&NodeView| ReplicaView { node: node.id.clone(), complete: true, leaving: false };
    ShardView {
        table: TableId(uuid::Uuid::from_u128(u128::from(table) + 1)),
        shard: ShardId(number),
        load: Load { bytes, ..Load::default() },
        replicas_wanted: u32::try_from(nodes.len()).expect("few"),
        replicas: nodes.iter().map(replica).collect(),
        leader: nodes.first().map(|node| node.id.clone()),
        frozen: false,
        pinned: Vec::new(),
        excluded: Vec::new(),
    }
}

/// The cluster once a proposal has been carried out.
fn carried_out(snapshot: &Snapshot, proposal: &Proposal) -> Snapshot {
    let mut after = snapshot.clone();
    for shard in &mut after.shards {
        let Some(nodes) = proposal.verdict.placement.get(&(shard.table, shard.shard)) else { continue };
        let replica = |node: &NodeId| ReplicaView { node: node.clone(), complete: true, leaving: false };
        shard.replicas = nodes.iter().map(replica).collect();
        shard.leader = nodes.first().cloned();
    }
    after
}

fn held(snapshot: &Snapshot) -> BTreeMap<NodeId, usize> {
    let mut held: BTreeMap<NodeId, usize> = snapshot.nodes.iter().map(|node| (node.id.clone(), 0)).collect();
    for replica in snapshot.shards.iter().flat_map(|shard| &shard.replicas) {
        *held.entry(replica.node.clone()).or_default() += 1;
    }
    held
}

/// Plans, carries out, plans again: the second plan must be empty, no hard rule broken, and nothing worse than before.
#[allow(clippy::disallowed_methods)]
fn converges(what: &str, snapshot: &Snapshot) -> (Proposal, Snapshot) {
    let began = Instant::now();
    let proposal = plan(snapshot, &Policy::default(), &Limits::default());
    let took_s = began.elapsed().as_secs_f64();
    let verdict = &proposal.verdict;
    let (before, now) = (&verdict.before, &verdict.after);
    println!(
        "{what}: planned in {took_s:.1} s, {} copies in {} waves; worst deviation of replicas {:.3} -> {:.3}, of \
        leaders {:.3} -> {:.3}, of bytes {:.3} -> {:.3}",
        now.copies,
        proposal.waves,
        before.replicas,
        now.replicas,
        before.leaders,
        now.leaders,
        before.bytes,
        now.bytes
    );
    let worse = |was: f64, is: f64| is > was + 1e-9;
    assert!(!worse(before.total, now.total), "{what}: the whole is worse");
    assert!(!worse(before.replicas, now.replicas), "{what}: counts are worse");
    assert!(!worse(before.leaders, now.leaders), "{what}: leaderships are worse");
    assert!(!worse(before.bytes, now.bytes), "{what}: bytes are worse");
    assert_eq!(proposal.left, [], "{what}: all get there");
    let after = carried_out(snapshot, &proposal);
    rules_hold(what, &after);
    let again = plan(&after, &Policy::default(), &Limits::default());
    assert_eq!(again.steps, [], "{what}: a plan made on the planned state is empty");
    (proposal, after)
}

fn rules_hold(what: &str, snapshot: &Snapshot) {
    let nodes: BTreeMap<&NodeId, &NodeView> = snapshot.nodes.iter().map(|node| (&node.id, node)).collect();
    for shard in &snapshot.shards {
        let on: Vec<&NodeView> = shard.replicas.iter().map(|replica| nodes[&replica.node]).collect();
        let zones: BTreeSet<&str> = on.iter().map(|node| node.zone()).collect();
        assert_eq!(on.len(), shard.replicas_wanted as usize, "{what}: {} has its copies", shard.shard);
        assert_eq!(zones.len(), on.len(), "{what}: {} has each copy in a zone of its own", shard.shard);
        assert!(on.iter().all(|node| node.up), "{what}: {} is on no dead node", shard.shard);
    }
}

/// 40 nodes in 10 racks, 3000 tables, 16 667 shards in three copies on nodes drawn at random, one a rack.
fn random_world() -> Snapshot {
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(3_140);
    let nodes: Vec<NodeView> = (0..40).map(|number| node(number, Some(number % 10))).collect();
    let shards = (0..16_667).map(|number| {
        let mut on: Vec<&NodeView> = Vec::new();
        while on.len() < 3 {
            let drawn = &nodes[dice.random_range(0..nodes.len())];
            if on.iter().all(|other| other.zone() != drawn.zone()) {
                on.push(drawn);
            }
        }
        // Sizes of very different orders, as tables have them.
        let bytes = 1_u64 << dice.random_range(20..32_u32);
        shard(number % 3_000, number / 3_000, bytes, &on)
    });
    let shards = shards.collect();
    Snapshot { shards, nodes }
}

#[test]
fn cruise_controls_random_world_converges() {
    let world = random_world();
    assert_eq!(held(&world).values().sum::<usize>(), 50_001);
    let (_, even) = converges("random world", &world);
    for dead in [1, 5] {
        let mut world = even.clone();
        // Of different racks, so that every shard keeps a copy.
        world
            .nodes
            .iter_mut()
            .filter(|node| (0..dead).any(|n| node.id.as_str() == format!("n{n}")))
            .for_each(|node| {
                node.up = false;
            });
        let (proposal, after) = converges(&format!("{dead} dead"), &world);
        let down = |node: &NodeId| world.nodes.iter().any(|seen| seen.id == *node && !seen.up);
        let lost: usize = held(&world).iter().filter(|(node, _)| down(node)).map(|(_, count)| count).sum();
        let copies = proposal.verdict.after.copies as usize;
        assert!(copies * 10 <= lost * 11, "{dead} dead: {copies} copies where {lost} were lost");
        assert_eq!(
            held(&after).iter().filter(|(node, _)| down(node)).map(|(_, count)| count).sum::<usize>(),
            0
        );
    }
    let mut world = even;
    world.nodes.extend((40..42).map(|number| node(number, Some(number % 10))));
    let (proposal, after) = converges("two more nodes", &world);
    let new = |node: &NodeId| ["n40", "n41"].contains(&node.as_str());
    let between_old = proposal.verdict.moves.iter().flat_map(|m| &m.add).filter(|to| !new(to)).count();
    assert_eq!(between_old, 0, "nothing moves between nodes that were there");
    assert!(held(&after)[&"n40".parse::<NodeId>().expect("a name")] > 1_000);
}

#[test]
fn elasticsearchs_three_nodes_become_six() {
    let old: Vec<NodeView> = (0..3).map(|number| node(number, None)).collect();
    let mut dice = Xoshiro256PlusPlus::seed_from_u64(6);
    let shards = (0..30_240).map(|number| {
        let bytes = dice.random_range(1..64_u64) << 20;
        shard(number / 30, number % 30, bytes, &[&old[number as usize % 3]])
    });
    let shards = shards.collect();
    let world = Snapshot { shards, nodes: (0..6).map(|number| node(number, None)).collect() };
    let (proposal, after) = converges("three become six", &world);
    assert!(proposal.verdict.after.copies < 15_120 * 102 / 100, "few more than the bound of 15 120");
    for (node, count) in held(&after) {
        assert!((4_990..=5_090).contains(&count), "{node} has {count} of 5040");
    }
}

/// Five copies become three while two nodes are down: what goes is what does not live.
#[test]
fn asims_recently_down_nodes_lose_their_copies_first() {
    let mut nodes: Vec<NodeView> = (0..5).map(|number| node(number, None)).collect();
    nodes[1].up = false;
    nodes[3].up = false;
    let all: Vec<&NodeView> = nodes.iter().collect();
    let of_five = |number: u32| {
        let turned: Vec<&NodeView> = (0..5).map(|place| all[(number as usize + place) % 5]).collect();
        ShardView { replicas_wanted: 3, ..shard(0, number, 1 << 28, &turned) }
    };
    let shards = (0..100).map(of_five).collect();
    let world = Snapshot { shards, nodes };
    let (proposal, after) = converges("recently down", &world);
    assert_eq!(proposal.verdict.after.copies, 0, "three live copies are there");
    let counts: Vec<usize> = held(&after).into_values().collect();
    assert_eq!(counts, [100, 0, 100, 0, 100]);
}
