//! A copy in the routes whose table is gone (a disk replaced): it leaves them, and is filled again once nobody reads
//! it.

use super::decide_tests::{World, id, shard, step, table, world, written};
use crate::model::ids::{Epoch, ShardId, TableId};
use crate::model::table::ReplicaState::{Behind, Ready};
use crate::model::table::*;

/// That node's table is gone.
fn loses(world: &mut World, node: &str) {
    let replicas = &mut world.heartbeats.get_mut(&id(node)).unwrap().replicas;
    let seen = replicas.get_mut(&TableId(uuid::Uuid::nil())).unwrap().get_mut(&ShardId(0)).unwrap();
    (seen.serving, seen.bare) = (false, true);
}

fn settle(world: &mut World, epoch: u64) {
    world.heartbeats.values_mut().for_each(|heartbeat| {
        heartbeat.settled.insert(TableId(uuid::Uuid::nil()), Epoch(epoch));
    });
}

/// Found by reading: it stayed in the routes for ever, and answered with what its topics still had.
#[test]
fn a_copy_whose_table_is_gone_leaves_the_routes_and_is_filled_again_once_nobody_reads_it() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let mut world = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    settle(&mut world, 3);
    loses(&mut world, "n2");
    let (next, publish) = written(step(&table, &[&now], &world, 0));
    assert!(publish);
    assert_eq!((next.replicas[1].state, next.replicas[1].left_at), (Behind, Some(Epoch(4))));
    let published = Table { epoch: Epoch(4), ..table };
    assert_eq!(step(&published, &[&next], &world, 0), None, "queries of before may still be sent to it");
    settle(&mut world, 4);
    let (free, _) = written(step(&published, &[&next], &world, 0));
    assert_eq!((free.replicas[1].state, free.replicas[1].left_at), (Behind, None));
}

#[test]
fn a_copy_that_is_late_is_better_than_one_without_a_table() {
    let table = table(TableState::Active, 3, 1);
    let alone = shard(&[("n1", Behind), ("n2", Ready)], Some("n2"));
    let mut world = world(&[("n1", true, Some(900_000)), ("n2", true, Some(0))]);
    assert_eq!(step(&table, &[&alone], &world, 0), None, "it lags far behind");
    loses(&mut world, "n2");
    let (next, publish) = written(step(&table, &[&alone], &world, 0));
    let states: Vec<ReplicaState> = next.replicas.iter().map(|replica| replica.state).collect();
    assert_eq!((publish, states, next.leader), (true, vec![Ready, Behind], Some(id("n1"))));
}

#[test]
fn the_last_copy_stays_in_the_routes_though_its_table_is_gone() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let mut both = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    loses(&mut both, "n1");
    loses(&mut both, "n2");
    assert_eq!(step(&table, &[&now], &both, 0), None, "without any the shard would seem to be empty");
}
