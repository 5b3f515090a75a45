//! What a request for operations means, and which records of ended ones go.

use super::*;
use crate::actors::balance::fixture::{Cluster, id};
use crate::model::hold::{Brake, Scope};

#[test]
fn all_shards_are_split_however_many_and_what_is_busy_is_told() {
    let mut cluster = Cluster::new(3).table(300, 100, 1, |_| 100);
    let table = cluster.view.tables[&cluster.of()].record.clone();
    cluster.operation(Kind::Lead { shard: ShardId(7), to: id("n1") });
    cluster.hold(Scope::Shard(table.id, ShardId(8)), Brake::Freeze, u64::MAX);
    let all = every(&cluster.view, &table).unwrap();
    assert_eq!(all.len(), 100);
    let (kinds, skipped) = cluster.see(|sight| splits_of(sight, &table, &all, false));
    assert_eq!(kinds.len(), 98, "not only as many as one transaction takes");
    let made: Vec<u32> = kinds.iter().flat_map(Kind::touched).map(|id| id.0).filter(|n| *n >= 100).collect();
    assert_eq!(made, (100..296).collect::<Vec<u32>>(), "each number once");
    let told: Vec<String> = skipped.iter().map(|left| format!("{}: {}", left.shard, left.why)).collect();
    assert_eq!(told[0], "s7: o1 (lead s7 by n1) is under way");
    assert!(told[1].starts_with("s8: frozen"), "{told:?}");
    // A part that comes later takes those that are still there, by the numbers of then.
    let later = Table { next_shard: 400, ..table };
    cluster.carry_out(&kinds[0]);
    let (kinds, skipped) = cluster.see(|sight| splits_of(sight, &later, &all[..2], false));
    assert_eq!(kinds[0].touched().nth(1), Some(ShardId(400)));
    assert_eq!(skipped[0].why, "it is not in the topology any more");
}

fn ended(cluster: &mut Cluster, number: u64, ended_unix_ms: u64) {
    cluster.operation(Kind::Lead { shard: ShardId(0), to: id("n1") });
    let operations = &mut cluster.view.operations;
    let record = &mut operations.get_mut(&OperationId(number)).unwrap().record;
    (record.state, record.ended_unix_ms) = (State::Done, ended_unix_ms);
}

#[test]
fn an_operation_that_took_long_is_not_forgotten_as_it_ends() {
    const HOUR: u64 = 3_600_000;
    let mut cluster = Cluster::new(1).table(1, 1, 1, |_| 100);
    // The first was begun before all others and has only just ended.
    ended(&mut cluster, 1, 10 * HOUR);
    (2..=210).for_each(|number| ended(&mut cluster, number, HOUR + number));
    let gone: Vec<u64> = surplus(&cluster.view, 10 * HOUR).into_iter().map(|id| id.0).collect();
    assert_eq!(gone, (2..=11).collect::<Vec<u64>>(), "those that ended first");
    assert!(surplus(&cluster.view, HOUR).is_empty(), "whoever waits for one of them has not looked yet");
    // The one that carries the numbers stays, whenever it ended.
    ended(&mut cluster, 211, 0);
    assert!(!surplus(&cluster.view, 10 * HOUR).contains(&OperationId(211)));
}

#[test]
fn what_is_published_is_not_undone_and_is_said_to_be() {
    let mut cluster = Cluster::new(3).table(8, 1, 1, |_| 100);
    let split = Kind::Split { shard: ShardId(0), cut: 4, left: ShardId(1), right: ShardId(2) };
    cluster.operation(split.clone());
    let is =
        |cluster: &Cluster| is_published(&cluster.view, &cluster.view.operations[&OperationId(1)].record);
    assert!(!is(&cluster));
    cluster.carry_out(&split);
    assert!(is(&cluster));
}
