//! Ids to ordinals and back: a snapshot becomes a dense problem here, and nowhere else.
//!
//! Ordinals follow the order of ids, so the order in which a snapshot lists things changes nothing.

use super::policy::Policy;
use super::problem::{NodeSpec, Problem, ShardSpec};
use super::snapshot::{ShardView, Snapshot};
use crate::model::{NodeId, NodeState, ShardId, TableId};
use std::collections::BTreeMap;

/// The ids behind a problem's ordinals, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ids {
    /// Nodes.
    pub nodes: Vec<NodeId>,
    /// Shards.
    pub shards: Vec<(TableId, ShardId)>,
}

impl Ids {
    /// A snapshot's problem. Replicas on nodes that the snapshot does not list count as lost.
    pub fn of(snapshot: &Snapshot, policy: &Policy) -> (Problem, Self) {
        let mut views: Vec<_> = snapshot.nodes.iter().collect();
        views.sort_by(|a, b| a.id.cmp(&b.id));
        views.dedup_by(|a, b| a.id == b.id);
        let zones = ranks(views.iter().map(|view| view.zone()));
        let racks = ranks(views.iter().map(|view| view.rack()));
        let spec = |view: &&super::snapshot::NodeView| NodeSpec {
            zone: zones[view.zone()],
            rack: racks[&view.rack()],
            capacity_bytes: view.capacity_bytes,
            weight: f64::from(view.weight_milli.max(1)) / 1000.0,
            takes: view.takes_new(),
            holds: view.up && view.state != NodeState::Draining,
        };
        let nodes: Vec<NodeSpec> = views.iter().map(spec).collect();
        let ids: Vec<NodeId> = views.iter().map(|view| view.id.clone()).collect();
        let mut shards: Vec<&ShardView> = snapshot.shards.iter().collect();
        shards.sort_by_key(|view| (view.table, view.shard));
        shards.dedup_by_key(|view| (view.table, view.shard));
        let tables = ranks(shards.iter().map(|view| view.table));
        let ordinals = |names: &mut dyn Iterator<Item = &NodeId>| {
            let mut found: Vec<u32> = Vec::new();
            for node in names.filter_map(|name| ids.binary_search(name).ok()) {
                if !found.contains(&(node as u32)) {
                    found.push(node as u32);
                }
            }
            found
        };
        let down: Vec<bool> = views.iter().map(|view| !view.up).collect();
        let specs = shards.iter().map(|view| {
            let present = ordinals(&mut view.replicas.iter().map(|replica| &replica.node));
            let making = view.replicas.iter().filter(|replica| !replica.complete);
            let mut unsound = ordinals(&mut making.map(|replica| &replica.node));
            let making = unsound.iter().copied().filter(|&node| !down[node as usize]).collect();
            unsound.extend(present.iter().filter(|&&node| down[node as usize]));
            unsound.sort_unstable();
            unsound.dedup();
            let leaving = view.replicas.iter().filter(|replica| replica.leaving);
            ShardSpec {
                load: view.load,
                table: tables[&view.table],
                replicas: view.replicas_wanted,
                present,
                unsound,
                making,
                leaving: ordinals(&mut leaving.map(|replica| &replica.node)),
                frozen: view.frozen,
                pinned: ordinals(&mut view.pinned.iter()),
                excluded: ordinals(&mut view.excluded.iter()),
            }
        });
        let problem = Problem::new(nodes, specs.collect::<Vec<_>>(), policy);
        let shards = shards.iter().map(|view| (view.table, view.shard)).collect();
        (problem, Self { nodes: ids, shards })
    }

    /// The ordinal of a node.
    pub fn node(&self, id: &NodeId) -> Option<u32> {
        self.nodes.binary_search(id).ok().map(|at| at as u32)
    }

    /// The ordinal of a shard.
    pub fn shard(&self, table: TableId, shard: ShardId) -> Option<usize> {
        self.shards.binary_search(&(table, shard)).ok()
    }
}

/// Each distinct value's place among them, sorted.
fn ranks<T: Ord>(values: impl Iterator<Item = T>) -> BTreeMap<T, u32> {
    let mut ranks: BTreeMap<T, u32> = values.map(|value| (value, 0)).collect();
    ranks.values_mut().enumerate().for_each(|(at, rank)| *rank = at as u32);
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::snapshot::{Load, NodeView, ReplicaView};
    use proptest::prelude::*;

    fn name(n: usize) -> NodeId {
        format!("n{n:03}").parse().expect("a node name")
    }

    fn view(n: usize) -> NodeView {
        NodeView {
            id: name(n),
            labels: [("zone".to_owned(), format!("z{}", n % 3))].into(),
            capacity_bytes: 1 + n as u64,
            weight_milli: 1000,
            state: NodeState::Active,
            up: true,
        }
    }

    fn shard(number: u32, on: &[usize]) -> ShardView {
        let whole = |&n: &usize| ReplicaView { node: name(n), complete: true, leaving: false };
        ShardView {
            table: TableId(uuid::Uuid::from_u128(u128::from(number % 4))),
            shard: ShardId(number),
            load: Load { bytes: u64::from(number) + 1, ..Load::default() },
            replicas_wanted: 2,
            replicas: on.iter().map(whole).collect(),
            leader: None,
            frozen: false,
            pinned: vec![],
            excluded: vec![],
        }
    }

    proptest! {
        /// Whatever the order and however often something is listed.
        #[test]
        fn ids_become_ordinals_and_back(
            nodes in prop::collection::vec(0usize..20, 1..30),
            shards in prop::collection::vec((0u32..30, 0usize..25), 0..30),
        ) {
            let snapshot = Snapshot {
                nodes: nodes.iter().map(|&n| view(n)).collect(),
                shards: shards.iter().map(|&(number, on)| shard(number, &[on, (on + 1) % 25])).collect(),
            };
            let (problem, ids) = Ids::of(&snapshot, &Policy::default());
            for n in 0..25 {
                let at = ids.node(&name(n));
                prop_assert_eq!(at.is_some(), nodes.contains(&n));
                if let Some(at) = at.map(|at| at as usize) {
                    prop_assert_eq!(&ids.nodes[at], &name(n));
                    prop_assert_eq!(problem.nodes[at].capacity_bytes, 1 + n as u64);
                }
            }
            prop_assert_eq!(ids.nodes.len(), problem.nodes.len());
            for number in 0..30 {
                let table = TableId(uuid::Uuid::from_u128(u128::from(number % 4)));
                let at = ids.shard(table, ShardId(number));
                let first = shards.iter().find(|(listed, _)| *listed == number);
                prop_assert_eq!(at.is_some(), first.is_some());
                let (Some(at), Some((_, on))) = (at, first) else { continue };
                prop_assert_eq!(ids.shards[at], (table, ShardId(number)));
                prop_assert_eq!(problem.bytes[at], u64::from(number) + 1);
                // Nodes that are not listed are lost.
                let known: Vec<u32> = [*on, (on + 1) % 25].iter().filter_map(|&n| ids.node(&name(n))).collect();
                prop_assert_eq!(problem.present(at), &known[..]);
            }
            prop_assert_eq!(ids.shards.len(), problem.shards());
        }
    }
}
