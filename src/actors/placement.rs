//! The placement actor: asks the placement engine where new replicas go.
//!
//! A shell: the engine is pure and lives in `crate::placement`. A panic in it is caught, counted and answered with
//! an error; the cluster stays as it is.

use super::balance::copies::{Copies, has_nothing};
use super::balance::decide::{self, Sight};
use super::leader::observed::Observed;
use super::mirror::View;
use super::table::decide::down_for;
use crate::adapters::clock::Clock;
use crate::model::balance::BalanceRules;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::observed::answers;
use crate::model::table::Shard;
use crate::placement::{Load, NewShard, NewTable, NodeView, Policy, ShardView, Snapshot, place_new};
use crate::telemetry::Metrics;
use actix::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The actor.
pub struct PlacementActor {
    view: View,
    observed: Observed,
    clock: Arc<dyn Clock>,
    /// Nodes that are down for so long hold nothing that counts.
    down_after_ms: u64,
    /// How many copies may be under way.
    rules: BalanceRules,
    metrics: Metrics,
    /// Nodes that were found for shards, and when: until the records show it they count as if they had them.
    promised: BTreeMap<(TableId, ShardId), (NodeId, u64)>,
}

/// What the records do not show by then was not written.
const PROMISE_MS: u64 = 10_000;

/// Place these new shards of a table.
#[derive(Message)]
#[rtype(result = "Result<BTreeMap<ShardId, Vec<NodeId>>, String>")]
pub struct PlaceShards {
    /// The shards.
    pub shards: Vec<ShardId>,
    /// Replicas each.
    pub replicas: u32,
}

/// Find one more node for each of these shards, the most urgent first, as far as copies may be begun.
#[derive(Message)]
#[rtype(result = "Result<BTreeMap<ShardId, NodeId>, String>")]
pub struct FindNodes {
    /// Their table.
    pub table: TableId,
    /// The shards.
    pub shards: Vec<ShardId>,
}

impl PlacementActor {
    /// Works on that view and those reports; nodes that are down for `down_after_ms` are lost.
    pub fn new(
        view: View,
        observed: Observed,
        clock: Arc<dyn Clock>,
        down_after_ms: u64,
        rules: BalanceRules,
        metrics: Metrics,
    ) -> Self {
        Self { view, observed, clock, down_after_ms, rules, metrics, promised: BTreeMap::new() }
    }

    /// New replicas go to nodes that are up; how long others have been down makes no difference here.
    fn snapshot(&self) -> Snapshot {
        let (view, reports) = (self.view.read(), self.observed.read());
        let heartbeats = &reports.heartbeats;
        let down = |node: &NodeId| !view.is_live(node) || !answers(heartbeats, node);
        decide::placed(&Sight { view: &view, heartbeats, lost: &down, now_unix_ms: 0, forgets: false })
    }

    fn lost(&self) -> BTreeSet<NodeId> {
        let (reports, now_ms) = (self.observed.read(), self.clock.now_ms());
        let unfit = &reports.unfit_since_ms;
        unfit.keys().filter(|id| down_for(unfit, id, now_ms, self.down_after_ms)).cloned().collect()
    }
}

fn guarded<T>(metrics: &Metrics, work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| {
        tracing::error!("the placement engine panicked: nothing is placed");
        metrics.actor_deaths("placement").inc();
        "the placement engine failed; see the daemon's log".to_owned()
    })
}

impl Actor for PlacementActor {
    type Context = Context<Self>;
}

impl Handler<PlaceShards> for PlacementActor {
    type Result = Result<BTreeMap<ShardId, Vec<NodeId>>, String>;
    fn handle(&mut self, message: PlaceShards, _: &mut Context<Self>) -> Self::Result {
        let snapshot = self.snapshot();
        let shards = message.shards.iter().map(|shard| NewShard { shard: *shard, load: Load::default() });
        let table = NewTable { replicas: message.replicas, shards: shards.collect() };
        let placed = guarded(&self.metrics, || place_new(&snapshot, &Policy::default(), &table))?;
        for compromise in &placed.compromises {
            tracing::warn!(compromise, "placement could not keep every rule");
        }
        Ok(placed.shards)
    }
}

impl Handler<FindNodes> for PlacementActor {
    type Result = Result<BTreeMap<ShardId, NodeId>, String>;
    fn handle(&mut self, message: FindNodes, _: &mut Context<Self>) -> Self::Result {
        let (snapshot, now_ms) = (self.snapshot(), self.clock.now_ms());
        let shown = |(table, shard): (TableId, ShardId), node: &NodeId| {
            let held = snapshot.shards.iter().find(|s| s.table == table && s.shard == shard);
            held.is_none_or(|held| held.replicas.iter().any(|replica| replica.node == *node))
        };
        self.promised.retain(|key, (node, at_ms)| now_ms < *at_ms + PROMISE_MS && !shown(*key, node));
        let asked: Vec<(TableId, ShardId)> =
            message.shards.iter().map(|shard| (message.table, *shard)).collect();
        let others = self.promised.iter().filter(|(key, _)| !asked.contains(key));
        let promised: BTreeMap<(TableId, ShardId), NodeId> =
            others.map(|(key, (node, _))| (*key, node.clone())).collect();
        let lost = self.lost();
        let found = {
            let (view, reports) = (self.view.read(), self.observed.read());
            let heartbeats = &reports.heartbeats;
            let record = |table, id| view.shard(table, id);
            let mut copies = Copies::of(&self.rules, view.open_operations(), &record, &view.live);
            let counts =
                |(table, id): (TableId, ShardId)| record(table, id).filter(|s| !has_nothing(heartbeats, s));
            for (key, node) in &promised {
                counts(*key).into_iter().for_each(|shard| copies.count(shard, node));
            }
            let pace = Pace { copies, counts: &counts };
            let is_lost = |node: &NodeId| lost.contains(node);
            let sight = Sight { view: &view, heartbeats, lost: &is_lost, now_unix_ms: 0, forgets: false };
            let mut rooms = decide::free(&sight);
            for (key, node) in &promised {
                let to_come = record(key.0, key.1).map_or(0, |shard| decide::bytes(&sight, shard));
                rooms.entry(node.clone()).and_modify(|room| *room = room.saturating_sub(to_come));
            }
            let promised = promised.into_values().collect();
            guarded(&self.metrics, || find(&snapshot, &lost, rooms, pace, &asked, promised))?
        };
        self.promised.extend(found.iter().map(|(key, node)| (*key, (node.clone(), now_ms))));
        Ok(found.into_iter().map(|((_, shard), node)| (shard, node)).collect())
    }
}

/// How many copies may be begun.
struct Pace<'a> {
    /// Those under way.
    copies: Copies<'a>,
    /// The record of a shard of which there is something to copy.
    counts: &'a dyn Fn((TableId, ShardId)) -> Option<&'a Shard>,
}

/// One more node for each of these shards, in this order, while copies may be begun: one that has none of it, with room
/// for its bytes, in another zone or at least another rack if possible, and with the fewest replicas for its weight, of
/// those that it has, that are promised to it, and that are found for it here. Pure.
fn find(
    snapshot: &Snapshot,
    lost: &BTreeSet<NodeId>,
    mut rooms: BTreeMap<NodeId, u64>,
    mut pace: Pace<'_>,
    asked: &[(TableId, ShardId)],
    promised: Vec<NodeId>,
) -> BTreeMap<(TableId, ShardId), NodeId> {
    let mut found = BTreeMap::new();
    let shards: BTreeMap<(TableId, ShardId), &ShardView> =
        snapshot.shards.iter().map(|shard| ((shard.table, shard.shard), shard)).collect();
    let mut loads: BTreeMap<&NodeId, usize> = BTreeMap::new();
    let there = snapshot.shards.iter().flat_map(|shard| &shard.replicas).map(|replica| &replica.node);
    there.chain(&promised).for_each(|node| *loads.entry(node).or_default() += 1);
    for key in asked {
        let Some(held) = shards.get(key) else { continue };
        let holds = |node: &NodeView| held.replicas.iter().any(|replica| replica.node == node.id);
        // Nodes that hold it are out; zones that hold it come last. What a lost node holds may be what is to be
        // replaced.
        let holders = snapshot.nodes.iter().filter(|node| holds(node) && !lost.contains(&node.id));
        let (zones, racks): (Vec<&str>, Vec<_>) = holders.map(|node| (node.zone(), node.rack())).unzip();
        let beside = |node: &NodeView| {
            let zone = zones.iter().filter(|zone| **zone == node.zone()).count();
            (zone, racks.iter().filter(|rack| **rack == node.rack()).count())
        };
        let full = |node: &NodeView| rooms.get(&node.id).is_some_and(|room| *room < held.load.bytes);
        let counted = (pace.counts)(*key);
        let in_turn = |node: &NodeView| counted.is_none_or(|shard| pace.copies.has_room(shard, &node.id));
        let free = snapshot.nodes.iter().filter(|node| node.takes_new() && !holds(node) && in_turn(node));
        let load = |node: &NodeView| {
            loads.get(&node.id).map_or(0, |held| held * 1000 / node.weight_milli.max(1) as usize)
        };
        let best = free.min_by_key(|node| (full(node), beside(node), load(node), node.id.clone()));
        if let Some(node) = best {
            *loads.entry(&node.id).or_default() += 1;
            counted.into_iter().for_each(|shard| pace.copies.count(shard, &node.id));
            let room = rooms.get_mut(&node.id);
            room.into_iter().for_each(|room| *room = room.saturating_sub(held.load.bytes));
            found.insert(*key, node.id.clone());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::node::NodeState;
    use crate::model::range::PartitionRange;
    use crate::placement::ReplicaView;

    fn id(name: &str) -> NodeId {
        name.parse().unwrap()
    }

    fn table() -> TableId {
        TableId(uuid::Uuid::from_u128(1))
    }

    fn node(name: &str) -> NodeView {
        NodeView {
            id: id(name),
            labels: BTreeMap::new(),
            capacity_bytes: 0,
            weight_milli: 1_000,
            state: NodeState::Active,
            up: true,
        }
    }

    fn shard(number: u32, on: &[&str]) -> ShardView {
        let replica = |name: &&str| ReplicaView { node: id(name), complete: true, leaving: false };
        ShardView {
            table: table(),
            shard: ShardId(number),
            load: Load { bytes: 100, ..Load::default() },
            replicas_wanted: 2,
            replicas: on.iter().map(replica).collect(),
            leader: None,
            frozen: false,
            pinned: Vec::new(),
            excluded: Vec::new(),
        }
    }

    fn at_once() -> Pace<'static> {
        Pace { copies: Copies::none(&BalanceRules::default()), counts: &|_| None }
    }

    #[test]
    fn as_many_get_a_node_as_copies_may_be_begun_and_the_first_asked_for_are_the_first() {
        let snapshot = Snapshot {
            nodes: ["n1", "n2", "n3"].map(node).to_vec(),
            shards: (0..6).map(|number| shard(number, &["n1"])).collect(),
        };
        let range = PartitionRange::new(0, 8).unwrap();
        let records: Vec<Shard> =
            (0..6).map(|number| Shard::new(table(), ShardId(number), range, [])).collect();
        let asked: Vec<_> = [5, 1, 0, 2, 3, 4].map(|number| (table(), ShardId(number))).to_vec();
        let found = |copies_max: u32, copies_per_node_max: u32, bare: u32| -> Vec<u32> {
            let rules = BalanceRules { copies_max, copies_per_node_max, ..BalanceRules::default() };
            let counts = |(_, id): (TableId, ShardId)| records.get(id.0 as usize).filter(|_| id.0 != bare);
            let pace = Pace { copies: Copies::none(&rules), counts: &counts };
            let found = find(&snapshot, &BTreeSet::new(), BTreeMap::new(), pace, &asked, Vec::new());
            found.keys().map(|(_, shard)| shard.0).collect()
        };
        assert_eq!(found(8, 1, 9), [1, 5], "one to each of n2 and n3");
        assert_eq!(found(3, 2, 9), [0, 1, 5]);
        assert_eq!(found(1, 2, 4), [4, 5], "what has nothing to copy does not wait");
        assert_eq!(found(8, 8, 9), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn shards_that_want_a_node_at_the_same_time_do_not_all_get_the_emptiest() {
        let snapshot = Snapshot {
            nodes: ["n1", "n2", "n3"].map(node).to_vec(),
            shards: (0..4).map(|number| shard(number, &["n1"])).collect(),
        };
        let asked: Vec<_> = (0..4).map(|number| (table(), ShardId(number))).collect();
        let on = |promised: &[&str], asked: &[(TableId, ShardId)]| -> Vec<String> {
            let promised = promised.iter().map(|name| id(name)).collect();
            let found = find(&snapshot, &BTreeSet::new(), BTreeMap::new(), at_once(), asked, promised);
            found.values().map(NodeId::to_string).collect()
        };
        assert_eq!(on(&[], &asked), ["n2", "n3", "n2", "n3"]);
        assert_eq!(on(&["n2", "n2"], &asked[..1]), ["n3"], "what another table was promised counts");
    }

    #[test]
    fn a_lost_copy_goes_to_the_zone_that_lost_it_where_there_is_room() {
        let zoned = |name: &str, zone: &str| NodeView {
            labels: BTreeMap::from([("zone".to_owned(), zone.to_owned())]),
            ..node(name)
        };
        let mut nodes = vec![zoned("n1", "a"), zoned("n2", "b"), zoned("n3", "a"), zoned("n4", "b")];
        nodes[1].up = false;
        // n4 has more of other shards: only the zone speaks for it.
        let snapshot = Snapshot { nodes, shards: vec![shard(0, &["n1", "n2"]), shard(1, &["n4"])] };
        let asked = [(table(), ShardId(0))];
        let found = |lost: &[&str], rooms: &[(&str, u64)]| {
            let rooms = rooms.iter().map(|(name, room)| (id(name), *room)).collect();
            let lost = lost.iter().map(|name| id(name)).collect();
            find(&snapshot, &lost, rooms, at_once(), &asked, Vec::new()).remove(&asked[0])
        };
        assert_eq!(found(&["n2"], &[]), Some(id("n4")));
        assert_eq!(found(&["n2"], &[("n3", 100), ("n4", 100)]), Some(id("n4")));
        assert_eq!(found(&["n2"], &[("n3", 100), ("n4", 99)]), Some(id("n3")), "n4's disk is full");
        assert_eq!(found(&[], &[]), Some(id("n3")), "n2 is down for a moment: its zone has a copy");
    }

    #[test]
    fn where_zones_must_be_shared_racks_are_not() {
        let racked = |(name, zone, rack): (&str, &str, &str)| NodeView {
            labels: [("zone", zone), ("rack", rack)].map(|(key, value)| (key.into(), value.into())).into(),
            ..node(name)
        };
        let found = |nodes: &[(&str, &str, &str)], on: &[&str]| {
            let nodes = nodes.iter().copied().map(racked).collect();
            let snapshot = Snapshot { nodes, shards: vec![shard(0, on)] };
            let asked = [(table(), ShardId(0))];
            find(&snapshot, &BTreeSet::new(), BTreeMap::new(), at_once(), &asked, Vec::new())
                .remove(&asked[0])
        };
        let nodes = [("n1", "a", "r1"), ("n2", "a", "r1"), ("n3", "a", "r2"), ("n4", "b", "r1")];
        assert_eq!(found(&nodes[..3], &["n1"]), Some(id("n3")), "one zone: the other rack");
        assert_eq!(found(&nodes, &["n1"]), Some(id("n4")), "racks of other zones are others");
        assert_eq!(found(&nodes, &["n1", "n4"]), Some(id("n3")), "every zone has one");
        assert_eq!(found(&nodes, &["n1", "n3", "n4"]), Some(id("n2")));
    }
}
