//! What-if on a made-up cluster: the plans are production's, and lead where they say.

use super::*;
use crate::model::balance::Planner;
use crate::model::ids::TableId;
use crate::simulation::trace::generate::{self, Wanted};

fn whole() -> World {
    let mut world = World::default();
    let lines = generate::lines(Wanted { nodes: 12, days: 1, seed: 5 });
    lines.into_iter().for_each(|line| world.take(line).unwrap());
    for node in world.nodes.values_mut() {
        node.live = true;
    }
    world.down_since_ms.clear();
    world
}

/// A smaller one, which is planned for sooner.
fn world() -> World {
    let mut world = whole();
    let few: Vec<TableId> = world.tables.keys().skip(3).copied().collect();
    few.into_iter().for_each(|table| world.apply(Event::TableDropped { table }).unwrap());
    world
}

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

fn held(answer: &Answer, node: &str) -> (u64, u64) {
    let (now, then) = answer.nodes[&id(node)];
    (now.replicas, then.replicas)
}

#[test]
fn nodes_that_join_get_their_share_and_what_is_drained_or_lost_ends_empty() {
    let change = Change {
        add: vec![Joining::Count(2), Joining::Labelled([("zone".to_owned(), "z9".to_owned())].into())],
        drain: vec![id("n3")],
        remove: vec![id("n4")],
        ..Change::default()
    };
    let answer = answer(world(), &change, &How::default()).unwrap();
    assert_eq!(answer.added, ["new1", "new2", "new3"].map(id));
    for new in ["new1", "new2", "new3"] {
        let (now, then) = held(&answer, new);
        assert!(now == 0 && (15..25).contains(&then), "{new}: {now} {then}");
    }
    for old in ["n3", "n4"] {
        let (now, then) = held(&answer, old);
        assert!(now > 5 && then == 0, "{old}: {now} {then}");
    }
    let (before, after) = (answer.before, answer.after);
    assert!(after.worst_milli() < 1_150 && before.worst_milli() > 1_500, "{before:?} {after:?}");
    let plan = &answer.plan;
    assert!(plan.bytes > 0 && plan.seconds > 0 && plan.bound > 0.0 && plan.gap.is_some());
    assert!(plan.moves.iter().any(|of| of.reason == "node_gone"));
}

#[test]
fn a_plan_on_what_a_plan_leads_to_is_empty() {
    let (world, how) = (world(), How::default());
    let first = plan(&world, BTreeSet::new(), &how).unwrap();
    assert!(!first.is_empty());
    let then = carried_out(&world, &first);
    assert!(plan(&then, BTreeSet::new(), &how).unwrap().is_empty());
}

#[test]
fn splits_come_before_moves_and_keep_bytes() {
    let mut how = How::default();
    let mut world = world();
    // One shard with all partitions of its table, as wide as the others together.
    let table = *world.tables.keys().next().unwrap();
    let bytes: u64 =
        world.shards.values().filter(|shard| shard.table == table).map(|shard| shard.bytes).sum();
    world.shards.retain(|(of, shard), _| *of != table || shard.0 == 0);
    let only = world.shards.get_mut(&(table, ShardId(0))).unwrap();
    (only.hi, only.bytes) = (40, bytes);
    how.balance.split_above_bytes = bytes / 8;
    let plan = plan(&world, BTreeSet::new(), &how).unwrap();
    assert!(plan.splits.len() >= 7, "{} splits", plan.splits.len());
    let then = carried_out(&world, &plan);
    assert_eq!(then.whole(), Ok(()));
    let after: u64 = then.shards.values().filter(|shard| shard.table == table).map(|shard| shard.bytes).sum();
    assert!(bytes - after < 100, "{bytes} {after}");
}

#[test]
fn a_node_that_is_down_for_long_counts_as_lost_and_one_for_a_while_does_not() {
    let mut world = world();
    world.apply(Event::NodeDied { node: id("n5") }).unwrap();
    let since_ms = world.at_ms;
    world.grow(since_ms + 60_000);
    assert!(down_for(&world, How::default().down_after_ms).is_empty());
    world.grow(since_ms + 30 * 60_000);
    assert_eq!(down_for(&world, How::default().down_after_ms), [id("n5")].into());
    let answer = answer(world, &Change::default(), &How::default()).unwrap();
    assert_eq!(held(&answer, "n5").1, 0);
}

#[test]
fn what_cannot_be_changed_is_told() {
    let of = |change: Change, how: How| match answer(whole(), &change, &how) {
        Err(error) => error.to_string(),
        Ok(_) => "it was planned".to_owned(),
    };
    let drain = Change { drain: vec![id("n99")], ..Change::default() };
    assert_eq!(of(drain, How::default()), "--drain: there is no node n99 then");
    let both = Change { drain: vec![id("n1")], remove: vec![id("n1")], ..Change::default() };
    assert_eq!(of(both, How::default()), "--remove: node n1 is drained already");
    let milp = How::default().by(Planner::Milp);
    let said = of(Change::default(), milp);
    assert!(said.starts_with("the milp engine takes up to 5000 binaries"), "{said}");
}
