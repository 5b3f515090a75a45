//! What is held, what takes too long, and what is given up.

use super::*;
use crate::actors::table::decide::{self, Step};

#[test]
fn frozen_shards_neither_move_nor_split() {
    let mut world = to_n3();
    world.frozen.insert(ShardId(0), "frozen: audit".into());
    assert_eq!(world.waits_for(), "the freeze of s0 to end (frozen: audit)");
    world.frozen.clear();
    world.step();
    world.frozen.insert(ShardId(0), "frozen: audit".into());
    world.ready(0, "n3");
    assert_eq!(
        world.waits_for(),
        "the freeze of s0 to end (frozen: audit)",
        "not even the last step is made"
    );
    world.cancel();
    assert!(matches!(world.next(), Progress::Step(_)), "what an operator cancels is undone all the same");
    let mut world = split();
    world.frozen.insert(ShardId(0), "frozen: audit".into());
    assert_eq!(world.waits_for(), "the freeze of s0 to end (frozen: audit)");
}

#[test]
fn a_split_that_has_begun_is_finished_in_spite_of_a_freeze() {
    let mut world = split();
    world.step();
    world.frozen.insert(ShardId(0), "frozen: audit".into());
    for child in [1, 2] {
        world.ready(child, "n1");
        world.ready(child, "n2");
    }
    assert!(world.step().publish, "messages go to the children already: readers must follow");
}

#[test]
fn an_operation_may_take_as_long_as_its_bytes_and_no_longer() {
    let mut world = to_n3();
    world.step();
    let table = world.table.id;
    let replicas = &mut world.heartbeats.get_mut(&id("n1")).unwrap().replicas;
    replicas.get_mut(&table).unwrap().get_mut(&ShardId(0)).unwrap().bytes = 3_600 << 20;
    let hours = |hours: u64| hours * 3_600_000;
    for (after_ms, over) in [(hours(6), false), (hours(7) - 1, false), (hours(7), true)] {
        world.now_unix_ms = after_ms;
        assert_eq!(world.expires(), over, "{after_ms}: an hour for 3 600 MiB beside the six");
    }
    world.frozen.insert(ShardId(0), "frozen: audit".into());
    assert!(!world.expires(), "an operator holds it");
    let mut split = split();
    split.step();
    split.now_unix_ms = hours(6);
    assert!(split.expires(), "nothing is copied for a split");
}

#[test]
fn the_time_that_an_operation_was_held_does_not_count() {
    let hours = |hours: u64| hours * 3_600_000;
    let mut world = to_n3();
    world.step();
    world.now_unix_ms = hours(8);
    world.held_unix_ms.insert(OperationId(1), hours(7));
    assert!(!world.expires(), "a freeze of seven hours has just ended");
    world.now_unix_ms = hours(13);
    assert!(world.expires());
    world.held_unix_ms.clear();
    world.operations.insert(0, Operation { id: OperationId(0), ..split().operations.remove(0) });
    assert!(!world.expires(), "it is not its turn");
}

#[test]
fn a_merge_whose_shards_could_not_be_brought_together_ends_and_makes_room_for_others() {
    let mut world = World::new(Kind::Merge { left: ShardId(0), right: ShardId(1), into: ShardId(2) });
    let table = world.table.id;
    world.shard(0).range = PartitionRange::new(0, 4).unwrap();
    let mut other = Shard::new(table, ShardId(1), PartitionRange::new(4, 8).unwrap(), [id("n1"), id("n3")]);
    other.replicas.iter_mut().for_each(|replica| replica.state = ReplicaState::Ready);
    world.shards.push(other);
    assert_eq!(world.ended(), State::Failed);
}

#[test]
fn a_leadership_is_not_waited_for_where_its_node_is_lost() {
    let mut world = World::new(Kind::Lead { shard: ShardId(0), to: id("n2") });
    world.down.insert(id("n2"), 90_000);
    assert_eq!(world.waits_for(), "the replica of s0 on n2 to be readable");
    world.down.insert(id("n2"), 10_000);
    assert_eq!(world.ended(), State::Failed);
}

#[test]
fn a_child_knows_all_that_its_shard_was_before() {
    let mut world = split();
    world.shard(0).parents = vec![ShardId(90), ShardId(91)];
    world.shard(0).ancestors = vec![ShardId(80)];
    let change = world.step();
    assert_eq!(change.shards[0].ancestors, [80, 90, 91].map(ShardId));
    let many = Shard { ancestors: (0..300).map(ShardId).collect(), ..change.shards[0].clone() };
    let kept = Shard::ancestors_by(&[&many]);
    assert_eq!((kept.len(), kept.last()), (ANCESTORS_MAX, Some(&ShardId(299))), "the newest");
}

#[test]
fn a_split_that_holds_fresh_rows_back_for_too_long_is_given_up_and_says_why() {
    let mut world = split();
    world.step();
    let table = world.table.id;
    let still = |world: &World| {
        let mut still = None;
        world.with(|scene| still = Some(crate::actors::table::still(scene)));
        still.unwrap()
    };
    // No child is whole anywhere: the shard goes on taking messages.
    for heartbeat in world.heartbeats.values_mut() {
        let replicas = heartbeat.replicas.get_mut(&table).unwrap();
        [1, 2].map(ShardId).iter().for_each(|child| replicas.get_mut(child).unwrap().serving = false);
    }
    assert_eq!(still(&world), BTreeMap::new());
    // Its last link takes its time on n1.
    let mut linking = world.heartbeats[&id("n1")].clone();
    let parent = linking.replicas.get_mut(&table).unwrap().remove(&ShardId(0));
    let before = world.heartbeats.insert(id("n1"), linking).unwrap();
    assert!(parent.is_some() && !still(&world).is_empty());
    world.heartbeats.insert(id("n1"), before);
    // It is whole there; on n2 a mutation is in the way.
    let child = |world: &mut World, node: &str, change: &dyn Fn(&mut ReplicaObservation)| {
        let replicas = world.heartbeats.get_mut(&id(node)).unwrap().replicas.get_mut(&table).unwrap();
        change(replicas.get_mut(&ShardId(1)).unwrap());
    };
    child(&mut world, "n1", &|seen| seen.serving = true);
    child(&mut world, "n2", &|seen| seen.problem = Some("CVH-0411: a mutation is not done".into()));
    world.ready(1, "n1");
    assert_eq!(still(&world), BTreeMap::from([(OperationId(1), 100_000)]));
    world.still_since_ms.insert(OperationId(1), 40_001);
    assert!(!world.expires());
    world.still_since_ms.insert(OperationId(1), 40_000);
    // A report that fails to come does not begin the time anew.
    child(&mut world, "n1", &|seen| seen.serving = false);
    assert_eq!(still(&world), BTreeMap::from([(OperationId(1), 40_000)]));
    let mut why = None;
    world.with(|scene| {
        let Progress::Waiting(wait) = advance(scene.open[0], scene) else { panic!("it goes on") };
        why = expired(scene.open[0], scene, &wait);
    });
    let why = why.unwrap();
    assert_eq!(
        why,
        "s0 stood still for 60 s where the nodes were done with it; waited for s1 to be readable on n2: \
         CVH-0411: a mutation is not done"
    );
    world.cancel();
    world.operations[0].outcome = why.clone();
    world.step();
    assert_eq!(still(&world), BTreeMap::new(), "the shard goes on");
    let mut end = None;
    world.with(|scene| {
        end = decide::decide(scene.table, scene.shards, scene.open, scene.known, scene.rules);
    });
    let Some(Step::End(operation)) = end else { panic!("{end:?}") };
    assert_eq!((operation.state, operation.outcome), (State::Cancelled, why), "as `op list` then says");
}

/// Found by a sweep (seed 2882): it waited for hours, and all that was to be done about its shard with it.
#[test]
fn no_copy_is_begun_on_a_node_that_was_cordoned_meanwhile_and_one_that_was_begun_goes_on() {
    let mut world = World::new(Kind::Add { shard: ShardId(0), to: id("n3") });
    world.cordoned.insert(id("n3"));
    assert_eq!(world.ended(), State::Failed);
    world.down.insert(id("n3"), 95_000);
    assert_eq!(
        world.waits_for(),
        "node n3 to be up and to take replicas",
        "it may be back, and taken into use"
    );
    world.down.clear();
    world.cordoned.clear();
    world.step();
    world.cordoned.insert(id("n3"));
    assert!(world.waits_for().starts_with("the copy of s0 on n3"), "{}", world.waits_for());
    let mut moved = to_n3();
    moved.cordoned.insert(id("n3"));
    assert_eq!(moved.ended(), State::Failed);
}
