//! Splits after their publication: what their parents' copies are still good for.

use super::*;
use crate::actors::table::decide::{self, Step};

/// n2 was down while the halves were made: they are on n1 alone.
fn without_n2() -> World {
    let mut world = split();
    world.step();
    world.down.insert(id("n2"), 95_000);
    world.ready(1, "n1");
    world.ready(2, "n1");
    assert!(world.step().publish);
    world.settle();
    world
}

#[test]
fn halves_on_a_node_that_comes_back_are_made_before_their_parent_goes() {
    let mut world = split();
    world.step();
    world.down.insert(id("n2"), 95_000);
    world.ready(1, "n1");
    world.ready(2, "n1");
    world.step();
    world.down.clear();
    world.settle();
    assert_eq!(world.waits_for(), "s1, s2 to be made of s0 on n2");
    world.ready(1, "n2");
    assert_eq!(world.waits_for(), "s1, s2 to be made of s0 on n2");
    world.ready(2, "n2");
    assert_eq!(world.step().delete, [ShardId(0)]);
}

/// Found by reading: n2 was given up, and what it still held whole went with the parent's record.
#[test]
fn a_parents_last_whole_copy_stays_until_a_half_lives() {
    let mut world = without_n2();
    world.down.extend([(id("n1"), 80_000), (id("n2"), 10_000)]);
    let stays = "a copy of s1 that can be read on a node that is up: until then the one of s0 on n2 stays";
    assert_eq!(world.waits_for(), stays);
    world.cancel();
    assert_eq!(world.waits_for(), stays, "nor does it go at an operator's word");
    world.operations[0].state = State::Running;
    let mut back = without_n2();
    back.down = BTreeMap::from([(id("n1"), 80_000)]);
    assert_eq!(back.waits_for(), "s1, s2 to be made of s0 on n2");
    world.down.remove(&id("n1"));
    let gone = world.step();
    assert_eq!(
        (gone.delete, gone.counted_on),
        (vec![ShardId(0)], vec![id("n1")]),
        "it must live as it is written"
    );
}

#[test]
fn where_all_halves_were_made_their_parent_goes_whoever_is_down() {
    let mut world = split();
    world.step();
    world.halves_ready();
    world.step();
    world.settle();
    world.down.extend([(id("n1"), 80_000), (id("n2"), 80_000)]);
    let gone = world.step();
    assert_eq!((gone.delete, gone.counted_on), (vec![ShardId(0)], vec![]), "the halves have all that it has");
}

/// Found by reading: nothing ended it while n2 was up and could not link its halves.
#[test]
fn a_published_split_ends_when_it_is_cancelled_though_a_node_cannot_make_its_halves() {
    let mut world = without_n2();
    world.down.clear();
    assert_eq!(world.waits_for(), "s1, s2 to be made of s0 on n2");
    world.cancel();
    world.operations[0].outcome = "cancelled by an operator".into();
    let gone = world.step();
    assert_eq!((gone.delete, gone.counted_on), (vec![ShardId(0)], vec![id("n1")]));
    assert!(gone.reasons[1].contains("copied where they are not made yet"), "{:?}", gone.reasons);
    world.ready(1, "n2");
    world.ready(2, "n2");
    let mut end = None;
    world.with(|scene| {
        end = decide::decide(scene.table, scene.shards, scene.open, scene.known, scene.rules);
    });
    let Some(Step::End(operation)) = end else { panic!("{end:?}") };
    let outcome = "cancelled by an operator; its result was published already, so it was finished";
    assert_eq!((operation.state, operation.outcome.as_str()), (State::Done, outcome));
}
