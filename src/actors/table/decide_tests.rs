//! The leader's decisions for a table, one situation a test.

use super::decide::{Knowledge, RECORDS_MAX, Rules, Step, decide};
use super::operate::Change;
use crate::actors::balance::copies::Copies;
use crate::model::balance::BalanceRules;
use crate::model::ids::{Epoch, NodeId, OperationId, PartitionId, ShardId, TableId};
use crate::model::observed::{Heartbeat, PartitionProgress, ReplicaObservation, Stall};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::*;
use std::collections::{BTreeMap, BTreeSet};

const RULES: Rules = Rules {
    caught_up_lag_max: 10,
    behind_lag_min: 100,
    preferred_after_ms: 1_000,
    down_after_ms: 60_000,
    operation_deadline_ms: 6 * 3_600_000,
    copy_bytes_per_s_min: 1 << 20,
    initiator_grace_ms: 5_000,
    standstill_ms_max: 60_000,
    left_out: None,
};

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A table of 8 partitions and 2 replicas a shard.
pub(in crate::actors) fn table(state: TableState, epoch: u64, shards: u32) -> Table {
    let schema = Schema { engine: "MergeTree".into(), sorting_key: "a".into(), ..Schema::default() };
    let source = Source {
        topic_prefix: "d.t".into(),
        layout: TopicLayout::TopicPerPartition,
        format: MessageFormat::JSONEachRow,
        format_settings: BTreeMap::new(),
        batch: BatchLimits::default(),
    };
    Table {
        id: TableId(uuid::Uuid::nil()),
        name: TableName { database: "d".into(), table: "t".into() },
        state,
        schema,
        ddl: String::new(),
        partitions: 8,
        replicas: 2,
        partition_by: "a".into(),
        mode: ReplicationMode::Log,
        source,
        epoch: Epoch(epoch),
        next_shard: shards,
        origin_offsets: Default::default(),
        delete_topics: false,
        published_by: BTreeMap::new(),
    }
}

fn shard(replicas: &[(&str, ReplicaState)], leader: Option<&str>) -> Shard {
    let replica =
        |(node, state): &(&str, ReplicaState)| Replica { state: *state, ..Replica::creating(id(node)) };
    let range = PartitionRange::new(0, 8).unwrap();
    Shard {
        replicas: replicas.iter().map(replica).collect(),
        leader: leader.map(id),
        ..Shard::new(TableId(uuid::Uuid::nil()), ShardId(0), range, [])
    }
}

/// Where the topic of the one partition ends.
const END: i64 = 1_000_000;

/// What the leader knows: nodes that live, and each one's lag (`None`: it does not serve).
struct World {
    live: BTreeSet<NodeId>,
    registered: BTreeSet<NodeId>,
    heartbeats: BTreeMap<NodeId, Shared<Heartbeat>>,
    fit_since_ms: BTreeMap<NodeId, u64>,
    unfit_since_ms: BTreeMap<NodeId, u64>,
    frozen: BTreeMap<ShardId, String>,
    held_unix_ms: BTreeMap<OperationId, u64>,
    copies: Copies<'static>,
}

fn world(nodes: &[(&str, bool, Option<i64>)]) -> World {
    let heartbeat = |node: &str, lag: Option<i64>| {
        let next_offset = lag.map_or(0, |lag| END - lag);
        let progress = PartitionProgress { next_offset, end_offset: END, ..PartitionProgress::default() };
        let seen = ReplicaObservation {
            serving: lag.is_some(),
            partitions: [(PartitionId(0), progress)].into(),
            ..ReplicaObservation::default()
        };
        Heartbeat::of_healthy(id(node), [(TableId(uuid::Uuid::nil()), [(ShardId(0), seen)].into())].into())
    };
    World {
        live: nodes.iter().filter(|n| n.1).map(|n| id(n.0)).collect(),
        registered: nodes.iter().map(|n| id(n.0)).collect(),
        heartbeats: nodes.iter().map(|n| (id(n.0), heartbeat(n.0, n.2).into())).collect(),
        fit_since_ms: nodes.iter().filter(|n| n.1).map(|n| (id(n.0), 0)).collect(),
        unfit_since_ms: nodes.iter().filter(|n| !n.1).map(|n| (id(n.0), 0)).collect(),
        frozen: BTreeMap::new(),
        held_unix_ms: BTreeMap::new(),
        copies: Copies::none(&BalanceRules::default()),
    }
}

fn step(table: &Table, shards: &[&Shard], world: &World, now_ms: u64) -> Option<Step> {
    let known = Knowledge {
        registered: &world.registered,
        live: &world.live,
        open: &world.live,
        heartbeats: &world.heartbeats,
        fit_since_ms: &world.fit_since_ms,
        unfit_since_ms: &world.unfit_since_ms,
        dark_since_ms: &world.unfit_since_ms,
        now_unix_ms: 0,
        now_ms,
        frozen: &world.frozen,
        held_unix_ms: &world.held_unix_ms,
        still_since_ms: &BTreeMap::new(),
        copies: &world.copies,
    };
    decide(table, shards, &[], &known, &RULES)
}

fn written(step: Option<Step>) -> (Shard, bool) {
    match step {
        Some(Step::Write(Change { mut shards, publish, .. })) if shards.len() == 1 => {
            (shards.remove(0), publish)
        }
        other => panic!("{other:?}"),
    }
}

use ReplicaState::{Behind, Creating, Ready};

#[test]
fn a_new_table_has_its_missing_shards_placed_also_by_a_later_leader() {
    let table = table(TableState::Creating, 0, 2);
    let mut half = shard(&[("n1", Creating)], None);
    half.range = PartitionRange::new(0, 4).unwrap();
    let missing = Step::PlaceShards(vec![(ShardId(1), PartitionRange::new(4, 8).unwrap())]);
    assert_eq!(step(&table, &[&half], &world(&[("n1", true, None)]), 0), Some(missing));
}

#[test]
fn a_table_is_published_when_every_shard_has_a_readable_replica_and_not_before() {
    let table = table(TableState::Creating, 0, 1);
    let new = shard(&[("n1", Creating), ("n2", Creating)], None);
    assert_eq!(step(&table, &[&new], &world(&[("n1", true, None), ("n2", true, None)]), 0), None);
    let (next, publish) =
        written(step(&table, &[&new], &world(&[("n1", true, None), ("n2", true, Some(0))]), 0));
    assert!(publish);
    assert_eq!((next.replicas[0].state, next.replicas[1].state), (Creating, Ready));
    assert_eq!((next.leader, next.epoch), (Some(id("n2")), Epoch(2)));
}

#[test]
fn a_lost_nodes_leadership_moves_at_once_and_its_replica_leaves_the_routes() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let (next, publish) =
        written(step(&table, &[&now], &world(&[("n1", false, Some(0)), ("n2", true, Some(0))]), 0));
    assert!(publish);
    assert_eq!(next.leader, Some(id("n2")));
    assert_eq!(next.replicas[0].state, Behind);
}

#[test]
fn the_last_readable_replica_stays_in_the_routes_whatever_happens() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Behind)], Some("n1"));
    let dead = world(&[("n1", false, Some(0)), ("n2", false, Some(0))]);
    assert_eq!(step(&table, &[&now], &dead, 0), None);
}

#[test]
fn a_node_that_comes_back_is_read_again_only_when_it_has_caught_up() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Behind), ("n2", Ready)], Some("n2"));
    let late = world(&[("n1", true, Some(500)), ("n2", true, Some(0))]);
    assert_eq!(step(&table, &[&now], &late, 5_000), None);
    let (next, publish) =
        written(step(&table, &[&now], &world(&[("n1", true, Some(3)), ("n2", true, Some(0))]), 500));
    assert_eq!((publish, next.replicas[0].state), (true, Ready));
    assert_eq!(next.leader, Some(id("n2")), "not fit for long enough to lead again");
}

#[test]
fn a_copy_that_stands_still_is_not_taken_for_one_that_has_caught_up() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    let mut gone = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    let seen = gone.heartbeats.get_mut(&id("n1")).unwrap().replicas.get_mut(&table.id).unwrap();
    let partition = seen.get_mut(&ShardId(0)).unwrap().partitions.get_mut(&PartitionId(0)).unwrap();
    partition.stall = Some(Stall::OffsetsGone { from: 0, to: 9 });
    assert_eq!(step(&table, &[&now], &gone, 0), None, "its history is gone from the topic: it has no rows");
}

#[test]
fn a_copy_that_has_not_heard_of_its_topics_end_is_measured_by_what_others_know() {
    let table = table(TableState::Active, 3, 1);
    let hears = |world: &mut World, node: &str, end: i64| {
        let seen = world.heartbeats.get_mut(&id(node)).unwrap().replicas.get_mut(&table.id).unwrap();
        seen.get_mut(&ShardId(0)).unwrap().partitions.get_mut(&PartitionId(0)).unwrap().end_offset = end;
    };
    let new = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    let mut late = world(&[("n1", true, Some(5_000)), ("n2", true, Some(0))]);
    hears(&mut late, "n1", END - 5_000);
    assert_eq!(step(&table, &[&new], &late, 0), None, "it lacks messages that it does not know of");
    let old = shard(&[("n1", Ready), ("n2", Ready)], Some("n2"));
    let mut burst = world(&[("n1", true, Some(5_000)), ("n2", true, Some(5_000))]);
    hears(&mut burst, "n2", END - 5_000);
    assert_eq!(
        step(&table, &[&old], &burst, 0),
        None,
        "both lack the same: the first to know is not the slower"
    );
}

/// What a node says of the shard's partitions: the next offset it takes, and the end it knows.
fn says(world: &mut World, node: &str, partitions: &[(i64, i64)]) {
    let table = world.heartbeats.get_mut(&id(node)).unwrap().replicas.values_mut().next().unwrap();
    let progress = |(next_offset, end_offset): &(i64, i64)| PartitionProgress {
        next_offset: *next_offset,
        end_offset: *end_offset,
        ..PartitionProgress::default()
    };
    table.get_mut(&ShardId(0)).unwrap().partitions =
        (0..).map(PartitionId).zip(partitions.iter().map(progress)).collect();
}

#[test]
fn where_all_lag_one_partition_far_behind_is_not_made_up_for_by_others() {
    let table = table(TableState::Active, 3, 1);
    let new = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    let mut late = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    says(&mut late, "n2", &[(1_000, 1_500), (1_000, 1_500)]);
    says(&mut late, "n1", &[(100, 1_500), (1_500, 1_500)]);
    assert_eq!(step(&table, &[&new], &late, 0), None, "1400 of one instead of 500 of each");
    says(&mut late, "n1", &[(900, 1_500), (900, 1_500)]);
    assert_eq!(written(step(&table, &[&new], &late, 0)).0.replicas[0].state, Ready);
}

#[test]
fn what_others_lack_is_what_they_said_themselves() {
    let table = table(TableState::Active, 3, 1);
    let new = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    let mut old = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    // Its report is older than the messages that the other has just heard of.
    says(&mut old, "n2", &[(1_000, 1_000)]);
    says(&mut old, "n1", &[(1_000, 1_500)]);
    assert_eq!(step(&table, &[&new], &old, 0), None);
}

#[test]
fn what_others_insert_may_be_there_before_they_can_tell() {
    let table = table(TableState::Active, 3, 1);
    let new = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    let mut late = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    says(&mut late, "n1", &[(0, 750)]);
    says(&mut late, "n2", &[(10, 750)]);
    assert_eq!(written(step(&table, &[&new], &late, 0)).0.replicas[0].state, Ready, "both lack nearly all");
    let seen = late.heartbeats.get_mut(&id("n2")).unwrap().replicas.get_mut(&table.id).unwrap();
    let partitions = &mut seen.get_mut(&ShardId(0)).unwrap().partitions;
    partitions.get_mut(&PartitionId(0)).unwrap().reach_offset = 750;
    assert_eq!(step(&table, &[&new], &late, 0), None, "the other may hold all of it by now");
}

#[test]
fn a_readable_copy_of_which_nothing_is_known_may_hold_everything() {
    let table = table(TableState::Active, 3, 1);
    let new = shard(&[("n1", Creating), ("n2", Ready), ("n3", Ready)], Some("n2"));
    let all_lag = world(&[("n1", true, Some(500)), ("n2", true, Some(500)), ("n3", true, Some(500))]);
    assert_eq!(written(step(&table, &[&new], &all_lag, 0)).0.replicas[0].state, Ready);
    let silent = world(&[("n1", true, Some(500)), ("n2", true, Some(500)), ("n3", true, None)]);
    assert_eq!(step(&table, &[&new], &silent, 0), None);
    let caught_up = world(&[("n1", true, Some(5)), ("n2", true, Some(500)), ("n3", true, None)]);
    assert_eq!(written(step(&table, &[&new], &caught_up, 0)).0.replicas[0].state, Ready);
}

#[test]
fn what_was_seen_of_an_earlier_copy_on_the_same_node_is_not_of_this_one() {
    let table = table(TableState::Active, 3, 1);
    let mut new = shard(&[("n1", Creating), ("n2", Ready)], Some("n2"));
    new.replicas[0].since = Epoch(7);
    let mut well = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    assert_eq!(step(&table, &[&new], &well, 0), None, "the report is of a copy that was removed");
    let seen = well.heartbeats.get_mut(&id("n1")).unwrap().replicas.get_mut(&table.id).unwrap();
    seen.get_mut(&ShardId(0)).unwrap().since = Epoch(7);
    assert_eq!(written(step(&table, &[&new], &well, 0)).0.replicas[0].state, Ready);
}

#[test]
fn a_table_of_more_shards_than_one_transaction_takes_is_published_with_the_last_of_them() {
    let count = RECORDS_MAX + 10;
    let wide = Table { partitions: 8 * count as u32, ..table(TableState::Creating, 0, count as u32) };
    let range = |number: u32| PartitionRange::new(8 * number, 8 * number + 8).unwrap();
    let new =
        |number| Shard { id: ShardId(number), range: range(number), ..shard(&[("n1", Creating)], None) };
    let mut shards: Vec<Shard> = (0..count as u32).map(new).collect();
    let mut known = world(&[("n1", true, Some(0))]);
    let seen = known.heartbeats.get_mut(&id("n1")).unwrap().replicas.get_mut(&wide.id).unwrap();
    let observation = seen[&ShardId(0)].clone();
    shards.iter().for_each(|shard| {
        seen.insert(shard.id, observation.clone());
    });
    let step = |shards: &[Shard]| match step(&wide, &shards.iter().collect::<Vec<_>>(), &known, 0) {
        Some(Step::Write(change)) => change,
        other => panic!("{other:?}"),
    };
    let first = step(&shards);
    assert_eq!((first.shards.len(), first.publish), (RECORDS_MAX, false), "ten cannot be read yet");
    for written in first.shards {
        let place = shards.iter().position(|shard| shard.id == written.id).unwrap();
        shards[place] = written;
    }
    let last = step(&shards);
    assert_eq!((last.shards.len(), last.publish), (10, true));
}

#[test]
fn the_preferred_leader_regains_its_shard_once_it_has_been_fit_for_a_while() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n2"));
    let well = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    assert_eq!(step(&table, &[&now], &well, 999), None);
    assert_eq!(written(step(&table, &[&now], &well, 1_000)).0.leader, Some(id("n1")));
}

#[test]
fn a_replica_far_behind_its_peers_leaves_the_routes_but_a_burst_that_hits_all_changes_nothing() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n2"));
    let burst = world(&[("n1", true, Some(5_000)), ("n2", true, Some(6_000))]);
    assert_eq!(step(&table, &[&now], &burst, 0), None);
    let slow = world(&[("n1", true, Some(5_000)), ("n2", true, Some(0))]);
    assert_eq!(written(step(&table, &[&now], &slow, 0)).0.replicas[0].state, Behind);
}

#[test]
fn a_copy_that_heard_of_nothing_is_not_read_while_the_one_that_did_looks_again() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Behind)], Some("n1"));
    let mut known = world(&[("n1", true, Some(20)), ("n2", true, Some(0))]);
    let mut set = |node: &str, serving: bool, progress: [i64; 2]| {
        let replicas = known.heartbeats.get_mut(&id(node)).unwrap().replicas.get_mut(&table.id).unwrap();
        let seen = replicas.get_mut(&ShardId(0)).unwrap();
        seen.serving = serving;
        let partition = seen.partitions.get_mut(&PartitionId(0)).unwrap();
        [partition.next_offset, partition.end_offset] = progress;
    };
    set("n1", false, [2_133, 2_153]);
    set("n2", true, [0, 0]);
    assert_eq!(step(&table, &[&now], &known, 0), None);
    // Nor while that one's server refuses inserts.
    let replicas = known.heartbeats.get_mut(&id("n1")).unwrap().replicas.get_mut(&table.id).unwrap();
    let refuses = Some(Stall::ServerRefuses { error: "too many parts".into() });
    replicas.get_mut(&ShardId(0)).unwrap().partitions.get_mut(&PartitionId(0)).unwrap().stall = refuses;
    assert_eq!(step(&table, &[&now], &known, 0), None);
    // Nor while a new leader has heard nothing of it.
    known.heartbeats.remove(&id("n1"));
    assert_eq!(step(&table, &[&now], &known, 0), None);
    known.live.remove(&id("n1"));
    let (alone, _) = written(step(&table, &[&now], &known, 0));
    assert_eq!(alone.replicas[1].state, Ready, "it is all there is");
}

#[test]
fn a_shard_short_of_replicas_gets_one_when_a_node_is_there_for_it() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready)], Some("n1"));
    assert_eq!(step(&table, &[&now], &world(&[("n1", true, Some(0))]), 0), None);
    let mut two = world(&[("n1", true, Some(0)), ("n2", true, None)]);
    assert_eq!(step(&table, &[&now], &two, 0), Some(Step::AddReplicas(vec![ShardId(0)])));
    two.frozen.insert(ShardId(0), "frozen: audit".into());
    assert_eq!(step(&table, &[&now], &two, 0), None, "not while it is frozen");
}

#[test]
fn a_copy_that_is_lost_for_good_is_made_elsewhere_or_goes_where_there_are_enough_without_it() {
    let table = table(TableState::Active, 3, 1);
    let down_ms = RULES.down_after_ms;
    let two = shard(&[("n1", Ready), ("n2", Behind)], Some("n1"));
    let known = world(&[("n1", true, Some(0)), ("n2", false, None), ("n3", true, Some(0))]);
    let lost = vec![(ShardId(0), id("n2"))];
    assert_eq!(step(&table, &[&two], &known, down_ms - 1), None, "it may come back");
    assert_eq!(step(&table, &[&two], &known, down_ms), Some(Step::Rebuild(lost.clone())));
    let three = shard(&[("n1", Ready), ("n3", Ready), ("n2", Behind)], Some("n1"));
    assert_eq!(step(&table, &[&three], &known, down_ms), Some(Step::RemoveLost(lost)));
}

#[test]
fn copies_that_are_missing_are_made_as_far_as_the_limits_go_those_of_the_fewest_copies_first() {
    let table = Table { replicas: 3, ..table(TableState::Active, 3, 3) };
    let down_ms = RULES.down_after_ms;
    let number = |number, replicas: &[(&str, ReplicaState)]| {
        let range = PartitionRange::new(8 * number, 8 * number + 8).unwrap();
        Shard { id: ShardId(number), range, ..shard(replicas, Some("n1")) }
    };
    let shards = [
        number(0, &[("n1", Ready), ("n3", Ready)]),
        number(1, &[("n1", Ready)]),
        number(2, &[("n1", Ready), ("n3", Ready)]),
    ];
    let mut lost = [
        number(0, &[("n1", Ready), ("n3", Ready), ("n2", Behind)]),
        number(1, &[("n1", Ready), ("n3", Behind), ("n2", Behind)]),
    ];
    // What n3 says is of an earlier copy.
    lost[1].replicas[1].since = Epoch(7);
    let up = [("n1", true, Some(0)), ("n3", true, Some(0)), ("n4", true, Some(0))];
    let mut known = world(&[&up[..], &[("n2", false, None)]].concat());
    for heartbeat in known.heartbeats.values_mut() {
        let of = heartbeat.replicas.get_mut(&table.id).unwrap();
        let seen = ReplicaObservation { rows: 9, bytes: 9, ..of[&ShardId(0)].clone() };
        of.extend((0..3).map(|id| (ShardId(id), seen.clone())));
    }
    let next =
        |known: &World, shards: &[Shard]| step(&table, &shards.iter().collect::<Vec<_>>(), known, down_ms);
    let first = [1, 0, 2].map(ShardId).to_vec();
    assert_eq!(next(&known, &shards), Some(Step::AddReplicas(first)));
    let on_n2 = |shard| (ShardId(shard), id("n2"));
    assert_eq!(next(&known, &lost), Some(Step::Rebuild(vec![on_n2(1), on_n2(0)])));
    // As many are under way as may be.
    (0..BalanceRules::default().copies_max).for_each(|_| known.copies.count(&shards[0], &id("n9")));
    assert_eq!((next(&known, &shards), next(&known, &lost)), (None, None));
    // The first copies of an empty table have nothing to wait for.
    for heartbeat in known.heartbeats.values_mut() {
        let of = heartbeat.replicas.get_mut(&table.id).unwrap();
        of.values_mut().for_each(|seen| *seen = ReplicaObservation { serving: true, ..Default::default() });
    }
    assert_eq!(next(&known, &shards), Some(Step::AddReplicas([1, 0, 2].map(ShardId).to_vec())));
}

#[test]
fn nothing_is_left_to_do_once_everything_stands() {
    let table = table(TableState::Active, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let well = world(&[("n1", true, Some(0)), ("n2", true, Some(0))]);
    assert_eq!(step(&table, &[&now], &well, 99_999), None);
}

#[test]
fn a_dropped_table_is_forgotten_when_every_registered_node_has_let_go() {
    let table = table(TableState::Dropping, 3, 1);
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let mut all = world(&[("n1", true, None), ("n2", true, None)]);
    assert_eq!(step(&table, &[&now], &all, 0), None);
    for heartbeat in all.heartbeats.values_mut() {
        heartbeat.dropped.push(table.id);
    }
    assert_eq!(step(&table, &[&now], &all, 0), Some(Step::Forget(vec![ShardId(0)])));
}

#[test]
fn topics_of_a_dropped_table_are_deleted_first_whatever_nodes_are_down() {
    let table = Table { delete_topics: true, ..table(TableState::Dropping, 3, 1) };
    let now = shard(&[("n1", Ready), ("n2", Ready)], Some("n1"));
    let down = world(&[("n1", true, None), ("n2", false, None)]);
    assert_eq!(step(&table, &[&now], &down, 0), Some(Step::DeleteTopics));
    let deleted = Table { delete_topics: false, ..table };
    assert_eq!(step(&deleted, &[&now], &down, 0), None, "once, and not again");
}

#[test]
fn a_copy_that_was_never_complete_on_a_node_that_is_lost_makes_room_for_another() {
    let table = table(TableState::Active, 3, 1);
    let down_ms = RULES.down_after_ms;
    let now = shard(&[("n1", Ready), ("n2", Creating)], Some("n1"));
    let known = world(&[("n1", true, Some(0)), ("n2", false, None), ("n3", true, Some(0))]);
    assert_eq!(step(&table, &[&now], &known, down_ms - 1), None, "it may come back");
    assert_eq!(step(&table, &[&now], &known, down_ms), Some(Step::RemoveLost(vec![(ShardId(0), id("n2"))])));
    let without = shard(&[("n1", Ready)], Some("n1"));
    assert_eq!(step(&table, &[&without], &known, down_ms), Some(Step::AddReplicas(vec![ShardId(0)])));
    let nowhere = world(&[("n1", true, Some(0)), ("n2", false, None)]);
    assert_eq!(step(&table, &[&now], &nowhere, down_ms), None, "nobody could take it");
    let three = Table { replicas: 3, ..table };
    let two_lost = shard(&[("n1", Ready), ("n3", Creating)], Some("n1"));
    let known = world(&[("n1", true, Some(0)), ("n3", false, None), ("n4", true, Some(0))]);
    let next = step(&three, &[&two_lost], &known, down_ms);
    assert_eq!(next, Some(Step::RemoveLost(vec![(ShardId(0), id("n3"))])), "before another is added");
}
