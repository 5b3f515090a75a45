//! What leaves, and what stays after all since others have died meanwhile.

use super::*;

fn loses(world: &mut World, node: &str) {
    let (table, since) = (world.table.id, world.shard(0).replica_on(&id(node)).unwrap().since);
    let replicas = &mut world.heartbeats.get_mut(&id(node)).unwrap().replicas;
    let seen = replicas.get_mut(&table).unwrap().get_mut(&ShardId(0)).unwrap();
    (seen.serving, seen.bare, seen.since) = (false, true, since);
}

fn state(world: &mut World, node: &str) -> Option<ReplicaState> {
    world.shard(0).replica_on(&id(node)).map(|replica| replica.state)
}

/// n1's copy has left the routes for n3's.
fn replaced() -> World {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.step();
    assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Leaving));
    world.settle();
    world
}

/// Found by reading: the only live copy was removed, since the others lived when it left the routes.
#[test]
fn a_copy_that_leaves_stays_after_all_when_those_that_were_counted_on_have_died() {
    for dead in [vec!["n3"], vec!["n2", "n3"]] {
        let mut world = replaced();
        world.down.extend(dead.iter().map(|node| (id(node), 95_000)));
        world.step();
        assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Behind), "{dead:?}");
        assert_eq!(world.shard(0).replica_on(&id("n1")).unwrap().left_at, None);
        let waits = world.waits_for();
        assert!(waits.starts_with("the copy of s0 on n3"), "{waits}");
    }
    let mut world = replaced();
    loses(&mut world, "n3");
    world.step();
    assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Behind), "n3's table is gone");
}

#[test]
fn a_copy_that_leaves_on_a_node_that_is_down_waits_while_there_is_no_other() {
    let mut world = replaced();
    world.down.extend(["n1", "n2", "n3"].map(|node| (id(node), 40_000)));
    assert!(world.waits_for().starts_with("1 complete live copies of s0 besides the one on n1"));
    world.down.remove(&id("n2"));
    let gone = world.step();
    assert_eq!(
        (state(&mut world, "n1"), gone.counted_on),
        (None, vec![id("n2")]),
        "it must live as it is written"
    );
}

#[test]
fn a_copy_that_was_behind_and_leaves_does_not_come_back_again_and_again() {
    let mut world = World::new(Kind::Remove { shard: ShardId(0), from: id("n2") });
    world.shard(0).replicas[1].state = ReplicaState::Behind;
    loses(&mut world, "n2");
    world.step();
    assert_eq!(state(&mut world, "n2"), Some(ReplicaState::Leaving), "it is no copy to be kept");
    world.settle();
    world.step();
    assert_eq!((state(&mut world, "n2"), world.ended()), (None, State::Done));
}

/// Found by reading: it waited for ever, and its shard with it.
#[test]
fn a_cancelled_move_whose_copies_are_both_needed_ends() {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.shard(0).replicas[1].state = ReplicaState::Behind;
    assert!(world.waits_for().starts_with("2 complete live copies"), "{}", world.waits_for());
    world.cancel();
    assert_eq!(world.ended(), State::Cancelled);
    assert_eq!(state(&mut world, "n3"), Some(ReplicaState::Ready));
}

/// Found by reading: a rebuild under way would have done without them all.
#[test]
fn a_move_never_lets_the_last_whole_copy_go_though_its_node_is_lost() {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.shard(0).replicas.retain(|replica| replica.node != id("n2"));
    loses(&mut world, "n3");
    world.down.insert(id("n1"), 10_000);
    world.ended();
    assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Ready));
    assert_eq!(state(&mut world, "n3"), Some(ReplicaState::Ready));
}

/// The other copy is lost with its node, the last one's table is gone: only an operator can say that this is so.
#[test]
fn the_record_of_a_lost_copy_can_be_removed_though_the_last_ones_table_is_gone() {
    let mut world = World::new(Kind::Remove { shard: ShardId(0), from: id("n1") });
    loses(&mut world, "n2");
    world.down.insert(id("n1"), 95_000);
    assert!(world.waits_for().starts_with("1 complete live copies"), "it may come back");
    world.down.insert(id("n1"), 10_000);
    world.step();
    assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Leaving));
}
