//! First placement of a new table's shards: greedy, one pass, deterministic.
//!
//! Spreads over zones, then racks, then nodes as far as they exist; levels the table's own replicas and
//! leaders first, then the cluster's, then bytes, each by the node's weight or capacity. It moves nothing
//! that is already there; the engines do that.

use super::{Load, NodeView, Policy, Snapshot};
use crate::model::{NodeId, ShardId};
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

/// A shard to be placed.
#[derive(Debug, Clone, PartialEq)]
pub struct NewShard {
    /// Its number.
    pub shard: ShardId,
    /// Expected load of each replica; zeros if nothing is known.
    pub load: Load,
}

/// A table to be placed.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTable {
    /// Replicas a shard; at least 1.
    pub replicas: u32,
    /// Its shards, in the order in which they are placed.
    pub shards: Vec<NewShard>,
}

/// Where the shards go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NewPlacement {
    /// By shard: nodes, the preferred leader first. Fewer than wanted where there are too few nodes.
    pub shards: BTreeMap<ShardId, Vec<NodeId>>,
    /// What could not be kept, one line each, such as too few nodes or zones.
    pub compromises: Vec<String>,
}

/// Chooses nodes for a new table's shards. Same input, same output, in whatever order nodes are listed.
///
/// ```
/// use converthouse::model::{NodeState, ShardId};
/// use converthouse::placement::{Load, NewShard, NewTable, NodeView, Policy, Snapshot, place_new};
///
/// let node = |name: &str, zone: &str| NodeView {
///     id: name.parse().unwrap(),
///     labels: [("zone".to_owned(), zone.to_owned())].into(),
///     capacity_bytes: 1 << 40,
///     weight_milli: 1000,
///     state: NodeState::Active,
///     up: true,
/// };
/// let nodes = vec![node("a", "z1"), node("b", "z2"), node("c", "z2")];
/// let snapshot = Snapshot { nodes, shards: vec![] };
/// let shards = (0..4).map(|s| NewShard { shard: ShardId(s), load: Load::default() }).collect();
/// let table = NewTable { replicas: 2, shards };
/// let placed = place_new(&snapshot, &Policy::default(), &table);
/// assert!(placed.shards.values().all(|nodes| nodes.iter().any(|n| n.as_str() == "a")));
/// assert!(placed.compromises.is_empty());
/// ```
pub fn place_new(snapshot: &Snapshot, policy: &Policy, table: &NewTable) -> NewPlacement {
    let mut tallies = tallies(snapshot);
    let mut placed = NewPlacement::default();
    let mut notes = BTreeSet::new();
    for shard in &table.shards {
        let chosen = choose(&tallies, policy, shard, table.replicas);
        notes.extend(compromises(&tallies, policy, &chosen, table.replicas, shard.load.bytes));
        for (index, &at) in chosen.iter().enumerate() {
            let tally = &mut tallies[at];
            tally.table_replicas += 1;
            tally.replicas += 1;
            tally.bytes += shard.load.bytes;
            if index == 0 {
                tally.table_leaders += 1;
                tally.leaders += 1;
            }
        }
        placed.shards.insert(shard.shard, chosen.iter().map(|&at| tallies[at].node.id.clone()).collect());
    }
    placed.compromises = notes.into_iter().collect();
    placed
}

/// A node that may take replicas, and what it holds so far.
struct Tally<'a> {
    node: &'a NodeView,
    weight: f64,
    replicas: u64,
    leaders: u64,
    bytes: u64,
    table_replicas: u64,
    table_leaders: u64,
}

impl Tally<'_> {
    /// Share of its disk that would be in use with `more` bytes; 0 if its capacity is not known.
    fn fullness(&self, more: u64) -> f64 {
        match self.node.capacity_bytes {
            0 => 0.0,
            capacity => (self.bytes + more) as f64 / capacity as f64,
        }
    }
}

fn tallies(snapshot: &Snapshot) -> Vec<Tally<'_>> {
    let tally = |node| Tally {
        node,
        weight: f64::from(node.weight_milli.max(1)),
        replicas: 0,
        leaders: 0,
        bytes: 0,
        table_replicas: 0,
        table_leaders: 0,
    };
    let takers = snapshot.nodes.iter().filter(|node| node.takes_new());
    let mut by_id: BTreeMap<&NodeId, Tally<'_>> = takers.map(|node| (&node.id, tally(node))).collect();
    for shard in &snapshot.shards {
        for (index, replica) in shard.replicas.iter().enumerate() {
            if let Some(tally) = by_id.get_mut(&replica.node) {
                tally.replicas += 1;
                tally.bytes += shard.load.bytes;
                tally.leaders += u64::from(index == 0);
            }
        }
    }
    by_id.into_values().collect()
}

/// Nodes for one shard, the leader first.
fn choose(tallies: &[Tally<'_>], policy: &Policy, shard: &NewShard, replicas: u32) -> Vec<usize> {
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < replicas as usize {
        let free = (0..tallies.len()).filter(|at| !chosen.contains(at));
        let best = free.min_by(|&a, &b| {
            let clash = |at: usize| clashes(tallies, &chosen, at);
            let (x, y) = (&tallies[a], &tallies[b]);
            let over = |t: &Tally<'_>| t.fullness(shard.load.bytes) > policy.watermark;
            let rooms = over(x).cmp(&over(y));
            rooms.then(clash(a).cmp(&clash(b))).then_with(|| emptier(x, y, shard.load.bytes))
        });
        match best {
            Some(at) => chosen.push(at),
            None => break,
        }
    }
    let leader = (0..chosen.len()).min_by(|&a, &b| {
        let (x, y) = (&tallies[chosen[a]], &tallies[chosen[b]]);
        let per = |n: u64, t: &Tally<'_>| n as f64 / t.weight;
        per(x.table_leaders, x)
            .total_cmp(&per(y.table_leaders, y))
            .then(per(x.leaders, x).total_cmp(&per(y.leaders, y)))
    });
    if let Some(leader) = leader {
        chosen.swap(0, leader);
    }
    chosen
}

/// How badly a node repeats what is chosen: replicas already in its zone, then in its rack.
fn clashes(tallies: &[Tally<'_>], chosen: &[usize], at: usize) -> (usize, usize) {
    let node = tallies[at].node;
    let zone = chosen.iter().filter(|&&other| tallies[other].node.zone() == node.zone()).count();
    let rack = chosen.iter().filter(|&&other| tallies[other].node.rack() == node.rack()).count();
    (zone, rack)
}

fn emptier(x: &Tally<'_>, y: &Tally<'_>, more: u64) -> Ordering {
    let per = |n: u64, t: &Tally<'_>| (n + 1) as f64 / t.weight;
    per(x.table_replicas, x)
        .total_cmp(&per(y.table_replicas, y))
        .then(per(x.replicas, x).total_cmp(&per(y.replicas, y)))
        .then(x.fullness(more).total_cmp(&y.fullness(more)))
        .then(x.node.id.cmp(&y.node.id))
}

fn compromises(
    tallies: &[Tally<'_>],
    policy: &Policy,
    chosen: &[usize],
    replicas: u32,
    bytes: u64,
) -> Vec<String> {
    let mut notes = Vec::new();
    if chosen.len() < replicas as usize {
        notes.push(format!("{replicas} replicas wanted, only {} node(s) may take one", tallies.len()));
    }
    let distinct: BTreeSet<&str> = chosen.iter().map(|&at| tallies[at].node.zone()).collect();
    if distinct.len() < chosen.len() {
        notes.push(format!(
            "replicas share a zone: {} zone(s) for {} replicas",
            distinct.len(),
            chosen.len()
        ));
    }
    for &at in chosen {
        if tallies[at].fullness(bytes) > policy.watermark {
            notes.push(format!("node {} goes above the watermark {}", tallies[at].node.id, policy.watermark));
        }
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeState, TableId};
    use crate::placement::{ReplicaView, ShardView};
    use proptest::prelude::*;

    fn node(index: usize, zone: usize) -> NodeView {
        NodeView {
            id: format!("n{index}").parse().unwrap(),
            labels: [("zone".to_owned(), format!("z{zone}"))].into(),
            capacity_bytes: 1000,
            weight_milli: 1000,
            state: NodeState::Active,
            up: true,
        }
    }

    fn table(shards: u32, replicas: u32) -> NewTable {
        let shard = |s| NewShard { shard: ShardId(s), load: Load::default() };
        NewTable { replicas, shards: (0..shards).map(shard).collect() }
    }

    fn counts(placed: &NewPlacement, leaders_only: bool) -> BTreeMap<NodeId, usize> {
        let mut counts = BTreeMap::new();
        for nodes in placed.shards.values() {
            for node in nodes.iter().take(if leaders_only { 1 } else { usize::MAX }) {
                *counts.entry(node.clone()).or_default() += 1;
            }
        }
        counts
    }

    proptest! {
        #[test]
        fn a_new_table_is_level_spread_and_independent_of_node_order(
            nodes in 3usize..20,
            zones in 1usize..5,
            shards in 1u32..60,
            replicas in 1u32..4,
            turn in 0usize..20,
        ) {
            let zones = zones.min(nodes);
            let mut views: Vec<NodeView> = (0..nodes).map(|n| node(n, n % zones)).collect();
            let wanted = table(shards, replicas);
            let snapshot = Snapshot { nodes: views.clone(), shards: vec![] };
            let placed = place_new(&snapshot, &Policy::default(), &wanted);
            for nodes in placed.shards.values() {
                let distinct: BTreeSet<_> = nodes.iter().collect();
                prop_assert_eq!(distinct.len(), replicas as usize);
                let zone_of = |id: &NodeId| views.iter().find(|v| &v.id == id).unwrap().zone().to_owned();
                let spread: BTreeSet<_> = nodes.iter().map(zone_of).collect();
                prop_assert_eq!(spread.len(), zones.min(replicas as usize));
            }
            if nodes % zones == 0 {
                let counts = counts(&placed, false);
                let least = if counts.len() < nodes { 0 } else { *counts.values().min().unwrap() };
                prop_assert!(counts.values().max().unwrap() - least <= 1, "{counts:?}");
            }
            views.rotate_left(turn % nodes);
            let turned = Snapshot { nodes: views, shards: vec![] };
            prop_assert_eq!(place_new(&turned, &Policy::default(), &wanted), placed);
        }
    }

    #[test]
    fn leaders_are_level_too() {
        let snapshot = Snapshot { nodes: (0..4).map(|n| node(n, n % 2)).collect(), shards: vec![] };
        let leaders = counts(&place_new(&snapshot, &Policy::default(), &table(16, 2)), true);
        assert!(leaders.values().all(|&count| count == 4), "{leaders:?}");
    }

    #[test]
    fn what_cannot_be_kept_is_said_and_the_rest_is_done() {
        let snapshot = Snapshot { nodes: vec![node(0, 0), node(1, 0)], shards: vec![] };
        let placed = place_new(&snapshot, &Policy::default(), &table(2, 3));
        assert!(placed.shards.values().all(|nodes| nodes.len() == 2));
        assert_eq!(placed.compromises.len(), 2, "{:?}", placed.compromises);
        let nothing = place_new(&Snapshot::default(), &Policy::default(), &table(1, 1));
        assert_eq!(nothing.shards[&ShardId(0)], vec![]);
        assert_eq!(nothing.compromises.len(), 1);
    }

    #[test]
    fn full_draining_and_down_nodes_get_nothing_while_others_can() {
        let mut nodes: Vec<NodeView> = (0..5).map(|n| node(n, n)).collect();
        nodes[0].state = NodeState::Draining;
        nodes[1].up = false;
        nodes[2].capacity_bytes = 10;
        let mut wanted = table(6, 2);
        wanted.shards.iter_mut().for_each(|shard| shard.load.bytes = 20);
        let placed = place_new(&Snapshot { nodes, shards: vec![] }, &Policy::default(), &wanted);
        let used: Vec<String> = counts(&placed, false).keys().map(ToString::to_string).collect();
        assert_eq!(used, ["n3", "n4"]);
        assert!(placed.compromises.is_empty(), "{:?}", placed.compromises);
    }

    #[test]
    fn what_is_there_already_counts() {
        let nodes: Vec<NodeView> = (0..3).map(|n| node(n, n)).collect();
        let there = ShardView {
            table: TableId(uuid::Uuid::from_u128(1)),
            shard: ShardId(0),
            load: Load { bytes: 5, ..Load::default() },
            replicas_wanted: 1,
            replicas: vec![ReplicaView { node: "n0".parse().unwrap(), complete: true, leaving: false }],
            leader: None,
            frozen: false,
            pinned: vec![],
            excluded: vec![],
        };
        let snapshot = Snapshot { nodes, shards: vec![there] };
        let one = table(1, 1);
        let placed = place_new(&snapshot, &Policy::default(), &one);
        assert_eq!(placed.shards[&ShardId(0)][0].as_str(), "n1");
    }
}
