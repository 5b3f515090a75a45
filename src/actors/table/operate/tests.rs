//! Operations as tables: records and observations in, the next step out.

mod held;
mod leaving;
mod published;

use super::{Change, MUTATING, Progress, Scene, advance, expired};
use crate::actors::balance::copies::Copies;
use crate::actors::table::decide::{Knowledge, Rules};
use crate::actors::table::decide_tests;
use crate::model::balance::BalanceRules;
use crate::model::ids::{Epoch, NodeId, OperationId, PartitionId, ShardId};
use crate::model::observed::{Heartbeat, PartitionProgress, ReplicaObservation};
use crate::model::operation::{Kind, Operation, State, WaitCode};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::*;
use crate::model::view::Live;
use std::collections::{BTreeMap, BTreeSet};

fn id(name: &str) -> NodeId {
    name.parse().unwrap()
}

/// A table of one shard `s0` with copies on the first two of the nodes n1 to n3, and what is known of it.
struct World {
    table: Table,
    shards: Vec<Shard>,
    operations: Vec<Operation>,
    nodes: BTreeSet<NodeId>,
    down: BTreeMap<NodeId, u64>,
    cordoned: BTreeSet<NodeId>,
    heartbeats: BTreeMap<NodeId, Shared<Heartbeat>>,
    frozen: BTreeMap<ShardId, String>,
    held_unix_ms: BTreeMap<OperationId, u64>,
    still_since_ms: BTreeMap<OperationId, u64>,
    now_unix_ms: u64,
}

impl World {
    fn new(kind: Kind) -> Self {
        let nodes: BTreeSet<NodeId> = ["n1", "n2", "n3"].map(id).into();
        let table = table();
        let range = PartitionRange::new(0, 8).unwrap();
        let mut shard = Shard::new(table.id, ShardId(0), range, [id("n1"), id("n2")]);
        shard.replicas.iter_mut().for_each(|replica| replica.state = ReplicaState::Ready);
        shard.leader = Some(id("n1"));
        let operation = Operation {
            id: OperationId(1),
            table: table.id,
            kind,
            state: State::Running,
            reason: String::new(),
            outcome: String::new(),
            started_unix_ms: 0,
            ended_unix_ms: 0,
        };
        let heartbeats = nodes.iter().map(|node| (node.clone(), heartbeat(node).into())).collect();
        let (down, frozen) = (BTreeMap::new(), BTreeMap::new());
        let (shards, operations) = (vec![shard], vec![operation]);
        let (held_unix_ms, still_since_ms) = (BTreeMap::new(), BTreeMap::new());
        Self {
            table,
            shards,
            operations,
            nodes,
            down,
            cordoned: BTreeSet::new(),
            heartbeats,
            frozen,
            held_unix_ms,
            still_since_ms,
            now_unix_ms: 0,
        }
    }

    fn next(&self) -> Progress {
        let mut next = None;
        self.with(|scene| next = Some(advance(scene.open.last().unwrap(), scene)));
        next.unwrap()
    }

    fn with(&self, with: impl FnOnce(&Scene<'_>)) {
        let live: BTreeSet<NodeId> =
            self.nodes.iter().filter(|node| !self.down.contains_key(*node)).cloned().collect();
        let open: BTreeSet<NodeId> = live.difference(&self.cordoned).cloned().collect();
        let shard = |_, id| self.shards.iter().find(|shard| shard.id == id);
        let rules = BalanceRules::default();
        let lease = |node: &NodeId| (node.clone(), Live { incarnation: 1, daemon_url: String::new() });
        let leases = live.iter().map(lease).collect();
        let copies = Copies::of(&rules, &self.operations, &shard, &leases);
        let known = Knowledge {
            registered: &self.nodes,
            live: &live,
            open: &open,
            heartbeats: &self.heartbeats,
            fit_since_ms: &BTreeMap::new(),
            unfit_since_ms: &self.down,
            dark_since_ms: &self.down,
            now_ms: 100_000,
            now_unix_ms: self.now_unix_ms,
            frozen: &self.frozen,
            held_unix_ms: &self.held_unix_ms,
            still_since_ms: &self.still_since_ms,
            copies: &copies,
        };
        let shards: Vec<&Shard> = self.shards.iter().collect();
        let begun: Vec<&Operation> = self.operations.iter().collect();
        let rules = Rules { initiator_grace_ms: 10_000, down_after_ms: 50_000, ..Rules::default() };
        let scene = Scene { table: &self.table, shards: &shards, open: &begun, known: &known, rules: &rules };
        with(&scene);
    }

    /// Writes what the next step says, as the store would; it must be one.
    fn step(&mut self) -> Change {
        let Progress::Step(change) = self.next() else { panic!("no step: {:?}", self.next()) };
        for shard in &change.shards {
            self.shards.retain(|other| other.id != shard.id);
            self.shards.push(shard.clone());
        }
        self.shards.retain(|shard| !change.delete.contains(&shard.id));
        if change.publish {
            self.table.epoch = self.table.epoch.next();
        }
        change
    }

    fn waits_for(&self) -> String {
        match self.next() {
            Progress::Waiting(wait) => wait.what,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the operation has taken too long.
    fn expires(&self) -> bool {
        let mut known = None;
        self.with(|scene| {
            let operation = scene.open.last().unwrap();
            let Progress::Waiting(wait) = advance(operation, scene) else { panic!("it waits for nothing") };
            known = Some(expired(operation, scene, &wait));
        });
        known.unwrap().is_some()
    }

    fn ended(&self) -> State {
        match self.next() {
            // Else its table stood still: the same step would be refused again and again.
            Progress::Ended(state, _) if self.operations.last().unwrap().state.may_become(state) => state,
            other => panic!("{other:?}"),
        }
    }

    fn shard(&mut self, shard: u32) -> &mut Shard {
        self.shards.iter_mut().find(|s| s.id == ShardId(shard)).unwrap()
    }

    fn ready(&mut self, shard: u32, node: &str) {
        let replicas = &mut self.shard(shard).replicas;
        replicas.iter_mut().find(|replica| replica.node == id(node)).unwrap().state = ReplicaState::Ready;
    }

    /// Both halves of the split are made on both nodes of their parent.
    fn halves_ready(&mut self) {
        for (shard, node) in [(1, "n1"), (1, "n2"), (2, "n1"), (2, "n2")] {
            self.ready(shard, node);
        }
    }

    /// Every node's older queries have ended.
    fn settle(&mut self) {
        let (table, epoch) = (self.table.id, self.table.epoch);
        self.heartbeats.values_mut().for_each(|heartbeat| {
            heartbeat.settled.insert(table, epoch);
        });
    }

    fn cancel(&mut self) {
        self.operations.last_mut().unwrap().state = State::Cancelling;
    }
}

fn heartbeat(node: &NodeId) -> Heartbeat {
    let seen = ReplicaObservation { serving: true, ..ReplicaObservation::default() };
    let shards: BTreeMap<ShardId, ReplicaObservation> = (0..4).map(|s| (ShardId(s), seen.clone())).collect();
    Heartbeat::of_healthy(node.clone(), BTreeMap::from([(table().id, shards)]))
}

fn table() -> Table {
    decide_tests::table(TableState::Active, 3, 3)
}

fn split() -> World {
    World::new(Kind::Split { shard: ShardId(0), cut: 4, left: ShardId(1), right: ShardId(2) })
}

fn to_n3() -> World {
    World::new(Kind::Move { shard: ShardId(0), from: id("n1"), to: id("n3") })
}

/// What n3's copy of `s0` is made from, with a topic of 100 000 messages of which a copy has taken `taken`.
fn source_of(world: &mut World, taken: [(&str, i64); 2]) -> Option<NodeId> {
    for (node, next_offset) in taken {
        let report = world.heartbeats.get_mut(&id(node)).unwrap();
        let copy = report.replicas.get_mut(&table().id).unwrap().get_mut(&ShardId(0)).unwrap();
        let progress = PartitionProgress { next_offset, end_offset: 100_000, ..PartitionProgress::default() };
        copy.partitions = BTreeMap::from([(PartitionId(0), progress)]);
    }
    world.step().shards[0].replica_on(&id("n3")).unwrap().copy_from.clone()
}

#[test]
fn a_copy_comes_from_the_most_advanced_copy_then_from_the_one_that_gives_the_fewest() {
    assert_eq!(source_of(&mut to_n3(), [("n1", 20_000), ("n2", 100_000)]), Some(id("n2")));
    assert_eq!(source_of(&mut to_n3(), [("n1", 100_000), ("n2", 20_000)]), Some(id("n1")));
    // A batch or so apart is alike; then it is the one with less to do.
    let mut world = to_n3();
    let range = PartitionRange::new(0, 8).unwrap();
    let mut busy = Shard::new(table().id, ShardId(9), range, [id("n1"), id("n3")]);
    busy.replicas[1].copy_from = Some(id("n1"));
    world.shards.push(busy);
    // It may be of any table.
    let kind = Kind::Add { shard: ShardId(9), to: id("n3") };
    world.operations.insert(0, Operation { id: OperationId(0), kind, ..world.operations[0].clone() });
    assert_eq!(source_of(&mut world, [("n1", 100_000), ("n2", 99_000)]), Some(id("n2")));
    // A node that is down gives nothing, however far it had come.
    let mut world = to_n3();
    world.down.insert(id("n2"), 99_000);
    assert_eq!(source_of(&mut world, [("n1", 20_000), ("n2", 100_000)]), Some(id("n1")));
}

#[test]
fn a_split_prepares_publishes_and_removes_in_this_order() {
    let mut world = split();
    let begun = world.step();
    assert!(!begun.publish, "readers see the parent while the children are made");
    assert_eq!(begun.shards.iter().map(|s| s.range.to_string()).collect::<Vec<_>>(), ["[0, 4)", "[4, 8)"]);
    assert!(begun.shards.iter().all(|s| s.state == ShardState::Preparing && s.parents == [ShardId(0)]));
    assert_eq!(world.waits_for(), "s1 to be readable on n1");
    for (shard, node) in [(1, "n1"), (1, "n2"), (2, "n1")] {
        world.ready(shard, node);
    }
    assert_eq!(world.waits_for(), "s2 to be readable on n2", "no copy may be lost by a split");
    world.ready(2, "n2");
    let published = world.step();
    assert!(published.publish);
    assert_eq!(published.shards.len(), 3, "in one transaction");
    assert_eq!((published.counted_on, published.counted_out), (vec![id("n1"), id("n2")], vec![]));
    assert_eq!(world.shard(1).leader, Some(id("n1")), "whoever led the parent leads");
    assert_eq!(world.shard(0).retired_at, Some(Epoch(4)));
    assert!(world.waits_for().contains("n1, n2, n3"), "{}", world.waits_for());
    world.settle();
    assert_eq!(world.step().delete, [ShardId(0)]);
    assert_eq!(world.ended(), State::Done);
}

#[test]
fn a_split_goes_on_without_a_copy_that_nobody_can_read_anyway() {
    let mut world = split();
    world.step();
    world.down.insert(id("n2"), 95_000);
    world.ready(1, "n1");
    world.ready(2, "n1");
    let published = world.step();
    assert!(published.publish);
    // Whoever decides from what it saw some time ago must not leave a copy behind that lives by now.
    assert_eq!((published.counted_on, published.counted_out), (vec![id("n1")], vec![id("n2")]));
    world.nodes.iter().for_each(|node| {
        if *node != id("n2") {
            world.heartbeats.get_mut(node).unwrap().settled.insert(world.table.id, Epoch(4));
        }
    });
    assert!(world.waits_for().contains("epoch e4"), "{}: its ClickHouse may still answer", world.waits_for());
    world.down.insert(id("n2"), 60_000);
    // Found by reading: without it the halves on n2 would have to be copied, though all is there.
    assert_eq!(world.waits_for(), "s1, s2 to be made of s0 on n2");
    world.down.insert(id("n2"), 10_000);
    assert_eq!(world.step().delete, [ShardId(0)], "it is given up");
}

#[test]
fn a_split_waits_while_none_of_its_copies_that_can_be_read_is_up() {
    let mut world = split();
    world.step();
    world.shard(0).replicas[1].state = ReplicaState::Behind;
    for (shard, node) in [(1, "n1"), (1, "n2"), (2, "n2")] {
        world.ready(shard, node);
    }
    // n1's server gave no answer just now: its copy of s0 would be left behind for a dead one.
    world.down.extend([(id("n1"), 99_000), (id("n2"), 10_000)]);
    assert_eq!(world.waits_for(), "s1 to be readable anywhere: its nodes are down");
}

#[test]
fn a_split_is_undone_before_it_is_published_and_finished_after() {
    let mut world = split();
    world.step();
    world.cancel();
    assert_eq!(world.step().delete, [ShardId(1), ShardId(2)]);
    assert_eq!(world.ended(), State::Cancelled);
    let mut late = split();
    late.step();
    late.halves_ready();
    late.step();
    late.cancel();
    late.settle();
    assert_eq!(late.step().delete, [ShardId(0)]);
    assert_eq!(late.ended(), State::Done);
}

#[test]
fn a_split_waits_for_a_replica_that_is_coming_or_going() {
    let mut world = split();
    world.shard(0).replicas[1].state = ReplicaState::Leaving;
    assert_eq!(world.waits_for(), "the replica of s0 on n2 to be gone");
}

#[test]
fn a_merge_takes_neighbours_on_the_same_nodes_only() {
    let mut world = split();
    world.step();
    world.halves_ready();
    world.step();
    world.settle();
    world.step();
    world.operations[0].kind = Kind::Merge { left: ShardId(1), right: ShardId(2), into: ShardId(3) };
    let begun = world.step();
    assert_eq!((begun.shards[0].range.to_string().as_str(), begun.shards[0].parents.len()), ("[0, 8)", 2));
    world.ready(3, "n1");
    world.ready(3, "n2");
    assert!(world.step().publish);
    world.settle();
    assert_eq!(world.step().delete, [ShardId(1), ShardId(2)]);
    assert_eq!(world.ended(), State::Done);
}

#[test]
fn a_move_adds_before_it_removes_and_the_new_copy_takes_the_old_ones_place() {
    let mut world = to_n3();
    let begun = world.step();
    assert!(!begun.publish);
    assert_eq!(begun.shards[0].replicas[2].copy_from, Some(id("n1")));
    assert!(world.waits_for().starts_with("the copy of s0 on n3"), "{}", world.waits_for());
    world.ready(0, "n3");
    let replaced = world.step();
    assert!(replaced.publish);
    assert_eq!(replaced.counted_on, [id("n3"), id("n2")], "they must live as it is written");
    let order: Vec<(&str, ReplicaState)> =
        replaced.shards[0].replicas.iter().map(|r| (r.node.as_str(), r.state)).collect();
    assert_eq!(
        order,
        [("n3", ReplicaState::Ready), ("n2", ReplicaState::Ready), ("n1", ReplicaState::Leaving)]
    );
    assert_eq!(world.shard(0).leader, Some(id("n3")), "it led, so its successor does");
    assert!(world.waits_for().contains("queries from before epoch e4"));
    world.settle();
    world.step();
    assert!(world.shard(0).replica_on(&id("n1")).is_none());
    assert_eq!(world.ended(), State::Done);
}

#[test]
fn a_live_copy_stays_while_another_is_down() {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.down.insert(id("n2"), 99_000);
    assert_eq!(
        world.waits_for(),
        "2 complete live copies of s0 besides the one on n1; there are 1",
        "n2 may never come back"
    );
    world.down = BTreeMap::from([(id("n1"), 99_000)]);
    let left = world.step();
    assert!(left.publish, "what is down is no live copy");
    assert!(!left.counted_on.contains(&id("n1")), "{:?}", left.counted_on);
}

#[test]
fn a_move_whose_target_dies_for_good_is_given_up() {
    let mut world = to_n3();
    world.step();
    world.down.insert(id("n3"), 10_000);
    world.step();
    assert!(world.shard(0).replica_on(&id("n3")).is_none());
    assert_eq!(world.ended(), State::Failed);
}

#[test]
fn what_nobody_cancelled_fails_where_it_cannot_be() {
    let mut gone = to_n3();
    gone.shard(0).replicas.retain(|replica| replica.node != id("n1"));
    assert_eq!(gone.ended(), State::Failed, "the copy to be moved is not there any more");
    let mut add = World::new(Kind::Add { shard: ShardId(0), to: id("n3") });
    add.down.insert(id("n3"), 10_000);
    assert_eq!(add.ended(), State::Failed);
    add.cancel();
    assert_eq!(add.ended(), State::Cancelled);
}

#[test]
fn a_move_ends_where_another_copy_is_lost_for_good_and_leaves_the_new_one_in_its_place() {
    let moved = |cancel: bool| {
        let mut world = to_n3();
        world.step();
        world.ready(0, "n3");
        world.down.insert(id("n2"), 90_000);
        if cancel {
            world.cancel();
        }
        assert!(world.waits_for().starts_with("2 complete live copies"), "it may come back yet");
        world.down.insert(id("n2"), 10_000);
        world.ended()
    };
    assert_eq!(moved(false), State::Failed, "what is lost is rebuilt only once this has ended");
    assert_eq!(moved(true), State::Cancelled);
}

#[test]
fn an_added_copy_that_is_needed_by_now_stays_though_it_is_cancelled() {
    let mut world = World::new(Kind::Add { shard: ShardId(0), to: id("n3") });
    world.step();
    world.ready(0, "n3");
    world.down.insert(id("n2"), 90_000);
    world.cancel();
    assert_eq!(world.ended(), State::Done);
}

#[test]
fn a_move_that_is_cancelled_late_takes_the_published_copy_out_of_the_routes_first() {
    let mut world = to_n3();
    world.step();
    world.ready(0, "n3");
    world.cancel();
    assert!(world.step().publish);
    assert_eq!(world.shard(0).replica_on(&id("n3")).unwrap().state, ReplicaState::Leaving);
    world.settle();
    world.step();
    assert_eq!(world.ended(), State::Cancelled);
}

#[test]
fn a_leader_is_changed_in_one_step_and_preferred_from_then_on() {
    let mut world = World::new(Kind::Lead { shard: ShardId(0), to: id("n2") });
    assert!(world.step().publish);
    assert_eq!(world.shard(0).preferred_leader(), Some(&id("n2")));
    assert_eq!(world.ended(), State::Done);
}

#[test]
fn operations_on_the_same_shard_take_turns() {
    let mut world = to_n3();
    let first = Operation { id: OperationId(0), ..split().operations.remove(0) };
    world.operations.insert(0, first);
    assert_eq!(world.waits_for(), "o0 (split s0 at 4 into s1, s2) to end");
    world.cancel();
    assert_eq!(world.ended(), State::Cancelled);
}

#[test]
fn a_shard_that_is_gone_ends_the_operation() {
    let mut world = to_n3();
    world.shards.clear();
    assert_eq!(world.ended(), State::Failed);
}

#[test]
fn what_a_node_cannot_do_is_told_with_its_code() {
    use crate::error::Coded as _;
    let told = crate::adapters::clickhouse::Error::Mutating("d.local".into()).told();
    assert!(told.starts_with(MUTATING), "{told}");
    let mut world = split();
    world.step();
    let table = world.table.id;
    let problem = |world: &mut World, node: &str, problem: &str| {
        let replicas = &mut world.heartbeats.get_mut(&id(node)).unwrap().replicas;
        let seen = replicas.get_mut(&table).unwrap().get_mut(&ShardId(1)).unwrap();
        seen.problem = Some(problem.to_owned());
    };
    let waits = |world: &World| match world.next() {
        Progress::Waiting(wait) => (wait.code, wait.what),
        other => panic!("{other:?}"),
    };
    assert_eq!(waits(&world).0, WaitCode::Linking);
    problem(&mut world, "n1", &told);
    assert_eq!(waits(&world), (WaitCode::Mutations, format!("s1 to be readable on n1: {told}")));
    problem(&mut world, "n1", "the disk is full");
    assert_eq!(waits(&world).0, WaitCode::NodeProblem);
}
