//! The balancer's decisions on made-up clusters, and what they come to when everything that is begun succeeds.

use super::decide::{self, Sight, blind};
use super::fixture::{Cluster, NOW, RULES, id, kinds};
use super::forecast::{Ahead, Forecast};
use super::pursue::{self, Next};
use crate::actors::leader::gauges::{Counts, counts};
use crate::model::balance::{BalanceRules, Cut, PlanRun, RunState, Target};
use crate::model::hold::{Brake, Scope};
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::observed::Heartbeat;
use crate::model::operation::{Kind, State};
use crate::model::plan::{PlannedMove, World};
use crate::model::shared::Shared;
use crate::model::table::TableState;
use crate::model::view::ClusterView;
use crate::placement::{Policy, plan};
use std::collections::BTreeMap;

#[test]
fn nothing_is_decided_blindly() {
    let cluster = Cluster::new(2).table(8, 2, 1, |_| 100);
    let why = |view: &ClusterView, heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>| {
        blind(&Sight { view, heartbeats, lost: &|_| false, now_unix_ms: NOW, forgets: false })
    };
    let mut heartbeats = cluster.heartbeats();
    assert_eq!(why(&cluster.view, &heartbeats), None);
    assert_eq!(why(&ClusterView::default(), &heartbeats).unwrap(), "the records are not known yet");
    heartbeats.remove(&id("n2"));
    assert_eq!(why(&cluster.view, &heartbeats).unwrap(), "node n2 has not reported yet");
    let mut creating = cluster.view.clone();
    creating.tables.values_mut().next().unwrap().record.state = TableState::Creating;
    assert_eq!(why(&creating, &cluster.heartbeats()).unwrap(), "table d.t is being created");
}

#[test]
fn shards_split_when_there_are_too_few_for_the_nodes_or_one_has_grown() {
    let cluster = Cluster::new(3).table(64, 3, 2, |_| 100);
    assert_eq!(cluster.splits(&RULES), [0, 1, 2], "three nodes want twelve replicas, so six shards");
    assert_eq!(cluster.splits(&BalanceRules { replicas_per_node_min: 2, ..RULES }), [0; 0]);
    let grown = Cluster::new(3).table(64, 3, 2, |partition| if partition < 21 { 1_000 } else { 1 });
    let by_size = BalanceRules { replicas_per_node_min: 0, split_above_bytes: 20_000, ..RULES };
    assert_eq!(grown.splits(&by_size), [0], "only the one that has grown");
    let narrow = Cluster::new(3).table(3, 3, 2, |_| 1_000_000);
    assert_eq!(
        narrow.splits(&BalanceRules { split_above_bytes: 1, ..RULES }),
        [0; 0],
        "one partition is one"
    );
}

#[test]
fn what_is_held_or_at_work_is_left_alone() {
    let mut cluster = Cluster::new(3).table(64, 3, 2, |_| 100);
    let of = cluster.of();
    cluster.hold(Scope::Shard(of, ShardId(1)), Brake::Pause, NOW + 1);
    cluster.operation(Kind::Split { shard: ShardId(2), cut: 50, left: ShardId(3), right: ShardId(4) });
    assert_eq!(cluster.splits(&RULES), [0]);
    cluster.hold(Scope::Table(of), Brake::Freeze, NOW);
    assert_eq!(cluster.splits(&RULES), [0], "a hold that is over holds nothing");
    cluster.hold(Scope::Cluster, Brake::Pause, NOW + 1);
    assert_eq!(cluster.splits(&RULES), [0; 0]);
    cluster.join("n4");
    assert_eq!(cluster.begin(), [], "nor does anything move");
    let codes = |cluster: &Cluster| -> Vec<String> {
        let plan = cluster.see(|sight| Forecast::of(sight, &RULES, "c")).plan(&cluster.proposal(), NOW);
        plan.stays.into_iter().map(|stay| format!("{} {}: {}", stay.shard, stay.reason, stay.why)).collect()
    };
    assert_eq!(codes(&cluster), ["s0 paused: audit", "s1 paused: audit", "s2 paused: audit"]);
    cluster.view.holds.clear();
    let last = codes(&cluster).pop().unwrap();
    assert_eq!(last, "s2 in_flight: o1 (split s2 at 50 into s3, s4) is under way");
}

#[test]
fn copies_begin_only_as_far_as_the_limits_go() {
    let mut cluster = Cluster::new(3).table(48, 48, 1, |_| 100);
    cluster.join("n4");
    let targets = |kinds: &[Kind]| kinds.iter().filter(|kind| kind.target() == Some(&id("n4"))).count();
    assert_eq!(targets(&cluster.begin()), 2, "two at once to one node");
    cluster.operation(Kind::Move { shard: ShardId(0), from: id("n1"), to: id("n4") });
    assert_eq!(targets(&cluster.begin()), 1, "what is under way counts");
    let strict = BalanceRules { copies_max: 1, ..RULES };
    let proposal = cluster.proposal();
    let begun = kinds(cluster.see(|sight| decide::begin(sight, &proposal, &strict, "balance")));
    assert_eq!(begun.iter().filter(|kind| kind.target().is_some()).count(), 0);
}

#[test]
fn what_is_under_way_counts_as_done_in_the_snapshot() {
    let mut cluster = Cluster::new(3).table(8, 4, 1, |_| 100);
    cluster.operation(Kind::Move { shard: ShardId(0), from: id("n1"), to: id("n3") });
    cluster.operation(Kind::Split { shard: ShardId(1), cut: 3, left: ShardId(4), right: ShardId(5) });
    let snapshot = cluster.see(decide::snapshot);
    let shard = |number| snapshot.shards.iter().find(|shard| shard.shard == ShardId(number)).unwrap();
    let replicas: Vec<_> =
        shard(0).replicas.iter().map(|r| (r.node.as_str(), r.complete, r.leaving)).collect();
    assert_eq!(replicas, [("n1", true, true), ("n3", false, false)]);
    assert!(shard(1).frozen && !shard(0).frozen);
}

/// The requirement in figures, for several sizes and skews.
#[test]
fn a_fourth_node_gets_its_share_and_little_more_is_copied_than_must_be() {
    let cases = [(64, 1, 0, 8), (64, 2, 0, 4), (128, 2, 3, 8), (256, 2, 1, 16), (256, 3, 1, 8)];
    for (partitions, replicas, skew, replicas_per_node_min) in cases {
        let rules = BalanceRules { replicas_per_node_min, ..RULES };
        let mut cluster =
            Cluster::new(3).table(partitions, 3, replicas, |p| 1_000 + u64::from(p % 7) * 10 * skew);
        cluster.settle(&rules);
        let total: u64 = cluster.held().values().sum();
        cluster.join("n4");
        let copied = cluster.settle(&rules);
        let mean = total / 4;
        for (node, bytes) in cluster.held() {
            let off = bytes.abs_diff(mean) * 100;
            assert!(off <= 5 * mean, "{partitions} x {replicas}: {node} holds {bytes} of {mean}");
        }
        // What the new node holds in the end had to be copied there.
        let least = cluster.held()[&id("n4")];
        assert!(
            copied * 10 <= least * 11,
            "{partitions} x {replicas}: {copied} bytes copied, {least} at least"
        );
        let again = cluster.see(|sight| Forecast::of(sight, &rules, "c")).plan(&cluster.proposal(), NOW);
        assert!(again.is_empty(), "a second plan is empty: {:?}", again.moves);
    }
}

#[test]
fn a_plan_shows_what_the_balancer_then_does() {
    let mut cluster = Cluster::new(3).table(64, 3, 2, |_| 1_000);
    cluster.settle(&RULES);
    cluster.join("n4");
    cluster.join("n5");
    let forecast = cluster.see(|sight| Forecast::of(sight, &RULES, "c"));
    let proposal = plan(&forecast.snapshot, &Policy::default(), &decide::limits(&forecast.snapshot, &RULES));
    let shown = forecast.plan(&proposal, NOW);
    assert!(!shown.splits.is_empty() && shown.after.total < shown.before.total, "{shown:?}");
    assert!(shown.bound <= shown.after.total && shown.seconds > 0 && shown.waves > 1);
    assert_eq!(shown.bytes, shown.moves.iter().map(|of| of.bytes).sum::<u64>());
    let copied = cluster.settle(&RULES);
    assert_eq!(copied, shown.bytes, "the bytes shown are the bytes copied");
    let now = |m: &PlannedMove| -> Vec<NodeId> {
        let shard = cluster.view.shards_of(m.table).find(|shard| shard.id == m.shard).unwrap();
        shard.replicas.iter().map(|replica| replica.node.clone()).collect()
    };
    for of in &shown.moves {
        let (mut wanted, mut is) = (of.nodes.clone(), now(of));
        assert_eq!(wanted.first(), is.first(), "{}", of.shard);
        wanted.sort();
        is.sort();
        assert_eq!(wanted, is, "{}", of.shard);
    }
}

fn run_of(cuts: Vec<Cut>, targets: &[(u32, &[&str])], table: TableId) -> PlanRun {
    let target = |(shard, nodes): &(u32, &[&str])| Target {
        table,
        shard: ShardId(*shard),
        nodes: nodes.iter().map(|node| id(node)).collect(),
    };
    PlanRun {
        state: RunState::Running,
        outcome: String::new(),
        started_unix_ms: 0,
        ended_unix_ms: 0,
        splits: cuts,
        targets: targets.iter().map(target).collect(),
    }
}

#[test]
fn an_applied_plan_splits_then_moves_then_ends() {
    let mut cluster = Cluster::new(3).table(8, 2, 1, |_| 100);
    let table = cluster.of();
    let cut = |shard, cut, left| Cut {
        table,
        shard: ShardId(shard),
        cut,
        left: ShardId(left),
        right: ShardId(left + 1),
    };
    // The third cuts a child of the first.
    let cuts = vec![cut(0, 2, 2), cut(1, 6, 4), cut(2, 1, 6)];
    let run = run_of(cuts, &[(7, &["n3"]), (5, &["n3"])], table);
    let next = |cluster: &Cluster| cluster.see(|sight| pursue::next(sight, &run));
    for expected in [vec![0, 1], vec![2]] {
        let Next::Begin(begun) = next(&cluster) else { panic!("{:?}", next(&cluster)) };
        let begun = kinds(begun);
        let of: Vec<u32> = begun.iter().map(|kind| kind.shards()[0].0).collect();
        assert_eq!(of, expected);
        begun.iter().for_each(|kind| {
            cluster.carry_out(kind);
        });
    }
    assert_eq!(cluster.see(|sight| pursue::status(sight.view, &run)).moves_left, 2);
    let Next::Move(towards) = next(&cluster) else { panic!("{:?}", next(&cluster)) };
    let snapshot = cluster.see(decide::snapshot);
    let way = pursue::way(&snapshot, &towards, &RULES).expect("no rule is in the way");
    let begun = kinds(cluster.see(|sight| decide::begin(sight, &way, &RULES, "plan")));
    assert_eq!(begun.len(), 2, "{begun:?}");
    begun.iter().for_each(|kind| {
        cluster.carry_out(kind);
    });
    assert_eq!(next(&cluster), Next::Ended(RunState::Done, String::new()));
    let status = pursue::status(&cluster.view, &run);
    assert_eq!((status.splits, status.splits_left, status.moves, status.moves_left), (3, 0, 2, 0));
}

#[test]
fn an_applied_plan_is_given_up_when_its_shards_were_made_otherwise() {
    for (shard, elsewhere) in [(1, 6), (0, 3)] {
        let mut cluster = Cluster::new(3).table(8, 2, 1, |_| 100);
        let table = cluster.of();
        let cut = Cut { table, shard: ShardId(0), cut: 2, left: ShardId(2), right: ShardId(3) };
        let run = run_of(vec![cut], &[], table);
        let other =
            Kind::Split { shard: ShardId(shard), cut: elsewhere, left: ShardId(2), right: ShardId(3) };
        cluster.carry_out(&other);
        let ended = cluster.see(|sight| pursue::next(sight, &run));
        let why = "shards of d.t were made otherwise meanwhile".to_owned();
        assert_eq!(ended, Next::Ended(RunState::Failed, why), "s{shard} was cut at {elsewhere}");
    }
}

#[test]
fn a_way_that_is_barred_is_waited_for_only_while_something_may_open_it() {
    let mut cluster = Cluster::new(3).table(8, 2, 1, |_| 100);
    let table = cluster.of();
    let run = run_of(vec![], &[(0, &["n3"])], table);
    cluster.view.nodes.get_mut(&id("n3")).unwrap().record.state = NodeState::Draining;
    let Next::Move(towards) = cluster.see(|sight| pursue::next(sight, &run)) else { panic!() };
    assert!(pursue::way(&cluster.see(decide::snapshot), &towards, &RULES).is_none());
    let barred = |cluster: &Cluster| cluster.see(|sight| pursue::barred(sight, &towards));
    assert!(matches!(barred(&cluster), Next::Ended(RunState::Failed, _)), "{:?}", barred(&cluster));
    let live = cluster.view.live.remove(&id("n3")).unwrap();
    assert_eq!(barred(&cluster), Next::Wait, "it is back soon, or lost");
    cluster.view.live.insert(id("n3"), live);
    cluster.hold(Scope::Shard(table, ShardId(0)), Brake::Freeze, NOW + 1);
    assert_eq!(barred(&cluster), Next::Wait);
}

#[test]
fn a_plan_refuses_cuts_that_cannot_be() {
    let cluster = Cluster::new(3).table(8, 2, 1, |_| 100);
    let table = cluster.of();
    let split = |shard, cut, left, right| {
        let cut = Cut { table, shard: ShardId(shard), cut, left: ShardId(left), right: ShardId(right) };
        cluster.see(|sight| Ahead::now(sight).split(cut))
    };
    assert!(split(0, 2, 2, 3));
    assert!(!split(9, 2, 2, 3), "no such shard");
    assert!(!split(0, 5, 2, 3), "the cut is outside");
    assert!(!split(0, 2, 1, 3), "the number is taken");
    assert!(!split(0, 2, 2, 2), "one number for both");
}

#[test]
fn the_world_is_another_when_a_shard_or_node_changes_and_the_same_when_bytes_do() {
    let mut cluster = Cluster::new(3).table(8, 2, 1, |_| 100);
    let then = World::of(&cluster.view, NOW);
    cluster.partition_bytes[0] = 7_000;
    assert_eq!(then.changes(&World::of(&cluster.view, NOW)), Vec::<String>::new());
    let shard = cluster.shard(1);
    shard.epoch = shard.epoch.next();
    cluster.view.live.remove(&id("n2"));
    cluster.hold(Scope::Cluster, Brake::Pause, NOW + 1);
    let changes = then.changes(&World::of(&cluster.view, NOW));
    let expected = [
        "node n2 is gone",
        "shard s1 of d.t has changed (e2 instead of e1)",
        "the cluster is paused (audit)",
    ];
    assert_eq!(changes, expected);
}

#[test]
fn what_is_lacking_and_left_is_counted() {
    let mut cluster = Cluster::new(3).table(8, 4, 2, |_| 100);
    let count = |cluster: &Cluster| counts(&cluster.view, &cluster.heartbeats(), NOW);
    assert_eq!(count(&cluster), Counts::default());
    cluster.operation(Kind::Move { shard: ShardId(0), from: id("n1"), to: id("n3") });
    cluster.operation(Kind::Lead { shard: ShardId(1), to: id("n3") });
    let table = cluster.of();
    cluster.hold(Scope::Shard(table, ShardId(2)), Brake::Pause, NOW + 1);
    // n2 holds s0, s1 and s3's copies and leads s1.
    cluster.view.live.remove(&id("n2"));
    let expected = Counts { under_replicated: 3, leaderless: 1, held: 1, moves_open: 2, bytes_open: 200 };
    assert_eq!(count(&cluster), expected);
}

#[test]
fn a_split_that_was_given_up_is_not_begun_again_at_once_and_later_each_time() {
    let mut cluster = Cluster::new(3).table(64, 3, 2, |_| 100);
    let kind = Kind::Split { shard: ShardId(1), cut: 30, left: ShardId(3), right: ShardId(4) };
    let after_min = |cluster: &Cluster, minutes: u64| -> Vec<u32> {
        let heartbeats = cluster.heartbeats();
        let (view, lost) = (&cluster.view, |_: &NodeId| false);
        let now_unix_ms = NOW + minutes * 60_000;
        let sight = Sight { view, heartbeats: &heartbeats, lost: &lost, now_unix_ms, forgets: false };
        assert_eq!(
            decide::waits_to_split(view, now_unix_ms),
            !decide::splits(&sight, &RULES).contains(&(cluster.of(), ShardId(1)))
        );
        decide::splits(&sight, &RULES).into_iter().map(|(_, shard)| shard.0).collect()
    };
    assert_eq!(after_min(&cluster, 0), [0, 1, 2]);
    for (times, minutes) in [(1, 10), (2, 20), (3, 40), (9, 360)] {
        while cluster.view.operations.len() < times {
            cluster.end(kind.clone(), State::Cancelled, NOW);
        }
        assert_eq!(after_min(&cluster, minutes - 1), [0, 2], "{times}");
        assert_eq!(after_min(&cluster, minutes), [0, 1, 2], "{times}");
    }
}

#[test]
fn a_node_whose_disk_others_fill_is_no_target() {
    let mut cluster = Cluster::new(3).table(48, 48, 1, |_| 100);
    cluster.join("n4");
    cluster.join("n5");
    let targets = |cluster: &Cluster, node: &str| {
        cluster.begin().iter().filter(|kind| kind.target() == Some(&id(node))).count()
    };
    for node in ["n1", "n2", "n3", "n4", "n5"] {
        cluster.disk(node, 100_000, 90_000);
    }
    assert!(targets(&cluster, "n4") > 0 && targets(&cluster, "n5") > 0);
    cluster.disk("n4", 100_000, 15_000);
    assert_eq!(targets(&cluster, "n4"), 0, "it is full to the watermark, with nothing of ours");
    assert!(targets(&cluster, "n5") > 0);
    // There is room for one copy and not for two, also while the first is on its way.
    cluster.disk("n4", 100_000, 15_150);
    assert_eq!(targets(&cluster, "n4"), 1);
    cluster.operation(Kind::Move { shard: ShardId(0), from: id("n1"), to: id("n4") });
    assert_eq!(targets(&cluster, "n4"), 0);
    cluster.disk("n4", 100_000, 50_000);
    let node = |cluster: &Cluster, node: &str| {
        cluster.see(decide::snapshot).nodes.into_iter().find(|n| n.id == id(node)).unwrap().capacity_bytes
    };
    assert_eq!(
        (node(&cluster, "n4"), node(&cluster, "n5")),
        (50_000, 90_000),
        "what others have is not ours to fill"
    );
}

/// Found by reading: others' shares went by its disk, which is not known then, and copies to it waited.
#[test]
fn a_node_whose_server_is_down_is_no_target_and_moves_nothing_between_others() {
    let mut cluster = Cluster::new(3).table(48, 48, 1, |_| 100);
    for (node, bytes) in [("n1", 100_000), ("n2", 100_000), ("n3", 100_000)] {
        cluster.disk(node, bytes, bytes - 1_600);
    }
    assert_eq!(cluster.begin(), []);
    cluster.join("n4");
    assert!(!cluster.begin().is_empty());
    cluster.deaf.push(id("n4"));
    assert_eq!(cluster.begin(), []);
}

/// Found by reading: with every tenth of a disk that merges filled or freed, another way was looked for.
#[test]
fn a_course_is_kept_though_disks_fill() {
    let mut cluster = Cluster::new(3).table(48, 48, 1, |_| 100);
    cluster.join("n4");
    let fills = |cluster: &mut Cluster, free| {
        for node in ["n1", "n2", "n3", "n4"] {
            cluster.disk(node, 100_000, free);
        }
    };
    fills(&mut cluster, 90_000);
    cluster.on_course();
    let before = cluster.see(decide::snapshot);
    let course = cluster.course.towards(&before);
    fills(&mut cluster, 70_000);
    let after = cluster.see(decide::snapshot);
    assert_ne!(before.nodes, after.nodes);
    assert!(!course.is_empty() && decide::same_shape(&before, &after));
    assert_eq!(cluster.course.towards(&after), course);
}

/// C9: all shards of a table are split since a node joins, if the policy wants so many for each.
#[test]
fn a_node_that_joins_has_all_shards_split_where_each_node_is_to_have_so_many() {
    let mut cluster = Cluster::new(4).table(64, 8, 2, |_| 100);
    assert_eq!(cluster.splits(&RULES), [0; 0], "four replicas for each of the four");
    cluster.join("n5");
    assert_eq!(cluster.splits(&RULES), [0, 1, 2, 3, 4, 5, 6, 7]);
    let usual = BalanceRules::default();
    assert_eq!(cluster.splits(&usual), [0; 0], "by default it gets whole shards");
}
