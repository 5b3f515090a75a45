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

/// Sweep seed 332: it waited for the lost one, and nothing else could be done about the shard.
#[test]
fn a_removal_ends_where_another_copy_is_lost_for_good() {
    let mut world = World::new(Kind::Remove { shard: ShardId(0), from: id("n2") });
    let third = Replica { state: ReplicaState::Ready, ..Replica::creating(id("n3")) };
    world.shard(0).replicas.push(third);
    world.down.insert(id("n3"), 90_000);
    assert!(world.waits_for().starts_with("2 complete live copies"), "it may come back yet");
    world.down.insert(id("n3"), 10_000);
    assert_eq!(world.ended(), State::Failed);
    assert_eq!(state(&mut world, "n2"), Some(ReplicaState::Ready));
}

fn wait_code(world: &World) -> WaitCode {
    match world.next() {
        Progress::Waiting(wait) => wait.code,
        other => panic!("{other:?}"),
    }
}

/// Found by reading: right after an election all copies whose nodes had not reported yet counted as dead.
#[test]
fn a_new_leader_waits_for_the_first_reports_of_the_copies_that_it_would_count_on() {
    let mut world = replaced();
    let unheard = ["n2", "n3"].map(|node| (id(node), world.heartbeats.remove(&id(node)).unwrap()));
    assert_eq!(wait_code(&world), WaitCode::Unheard, "n1's copy neither goes nor stays yet");
    let said = world.waits_for();
    assert!(said.starts_with("the first report of n3 to this leader"), "{said}");
    // Without a lease it is down, and the copy that leaves stays.
    let mut dead = replaced();
    dead.heartbeats.remove(&id("n3"));
    dead.down.insert(id("n3"), 95_000);
    dead.step();
    assert_eq!(state(&mut dead, "n1"), Some(ReplicaState::Behind));
    world.heartbeats.extend(unheard);
    world.step();
    assert_eq!(state(&mut world, "n1"), None);
    let mut add = World::new(Kind::Add { shard: ShardId(0), to: id("n3") });
    add.step();
    add.ready(0, "n3");
    add.cancel();
    add.heartbeats.retain(|node, _| *node == id("n3"));
    assert_eq!(wait_code(&add), WaitCode::Unheard, "it is not needed for certain");
}

/// Found by reading: the operation ended, and nobody else goes on with what is leaving.
#[test]
fn an_operation_does_not_end_while_a_copy_is_half_way_out() {
    for kind in [to_n3().operations.remove(0).kind, Kind::Add { shard: ShardId(0), to: id("n3") }] {
        let mut world = World::new(kind);
        world.step();
        world.ready(0, "n3");
        world.cancel();
        world.step();
        assert_eq!(state(&mut world, "n3"), Some(ReplicaState::Leaving));
        loses(&mut world, "n3");
        world.down.extend(["n1", "n2"].map(|node| (id(node), 10_000)));
        assert_eq!(wait_code(&world), WaitCode::FewCopies);
        world.down.clear();
        world.settle();
        world.step();
        assert_eq!(state(&mut world, "n3"), None);
        assert_eq!(world.ended(), State::Cancelled);
    }
}

/// Found by reading: it left with one other copy, stayed since there were not two, and left again, an epoch each.
#[test]
fn a_copy_that_must_stay_does_not_leave_and_stay_in_turns() {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.shard(0).replicas[0].state = ReplicaState::Behind;
    world.down.insert(id("n2"), 95_000);
    let before = world.table.epoch;
    for _ in 0..10 {
        if matches!(world.next(), Progress::Step(_)) {
            world.step();
        }
    }
    assert_eq!((wait_code(&world), world.table.epoch), (WaitCode::FewCopies, before));
    assert_eq!(state(&mut world, "n1"), Some(ReplicaState::Behind));
}
