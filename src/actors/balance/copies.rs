//! Copies under way, against the limits: each counts once, whoever asked for it, where it arrives and where it comes
//! from. Pure.
//!
//! What the balancer begins, what is rebuilt after a loss and what is added where replicas are missing keep to the same
//! limits. What an operator asks for begins at once, and counts for the others.

use crate::model::balance::BalanceRules;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::observed::{Heartbeat, ReplicaObservation, told};
use crate::model::operation::Operation;
use crate::model::shared::Shared;
use crate::model::table::{ReplicaState, Shard};
use crate::model::view::Live;
use std::collections::BTreeMap;

/// See the module.
#[derive(Debug, Clone)]
pub struct Copies<'a> {
    all_max: u32,
    per_node_max: u32,
    all: u32,
    to: BTreeMap<NodeId, u32>,
    from: BTreeMap<NodeId, u32>,
    /// Of `from`, those whose source has been chosen.
    given: BTreeMap<NodeId, u32>,
    /// Nodes that are up; `None`: all.
    live: Option<&'a BTreeMap<NodeId, Live>>,
}

impl<'a> Copies<'a> {
    /// None under way.
    pub fn none(rules: &BalanceRules) -> Self {
        let (to, from, given) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (all_max, per_node_max) = (rules.copies_max, rules.copies_per_node_max);
        Self { all_max, per_node_max, all: 0, to, from, given, live: None }
    }

    /// Those of the open operations. One whose copy is complete only waits for what it replaces to be let go of; one to
    /// a node that is down stands still.
    pub fn of<'b>(
        rules: &BalanceRules,
        open: impl IntoIterator<Item = &'b Operation>,
        shard: &dyn Fn(TableId, ShardId) -> Option<&'b Shard>,
        live: &'a BTreeMap<NodeId, Live>,
    ) -> Self {
        let mut copies = Self { live: Some(live), ..Self::none(rules) };
        for operation in open {
            let Some(target) = operation.kind.target().filter(|target| live.contains_key(*target)) else {
                continue;
            };
            let shard = operation.kind.touched().next().and_then(|id| shard(operation.table, id));
            let Some(shard) = shard else { continue };
            match shard.replica_on(target) {
                Some(replica) if replica.state != ReplicaState::Creating => {}
                Some(replica) => {
                    copies.arrive(target);
                    let source = replica.copy_from.as_ref();
                    source.into_iter().for_each(|source| {
                        *copies.from.entry(source.clone()).or_default() += 1;
                        *copies.given.entry(source.clone()).or_default() += 1;
                    });
                }
                None => copies.count(shard, target),
            }
        }
        copies
    }

    fn arrive(&mut self, target: &NodeId) {
        self.all += 1;
        *self.to.entry(target.clone()).or_default() += 1;
    }

    /// The copy that one more would be taken from, as far as can be told: that on the node that gives the fewest.
    fn source<'b>(&self, shard: &'b Shard) -> Option<(u32, &'b NodeId)> {
        let gives = |node: &NodeId| self.from.get(node).copied().unwrap_or(0);
        let up = |node: &&NodeId| self.live.is_none_or(|live| live.contains_key(*node));
        shard.ready_nodes().filter(up).map(|node| (gives(node), node)).min()
    }

    /// One more.
    pub fn count(&mut self, shard: &Shard, target: &NodeId) {
        self.arrive(target);
        if let Some((gives, source)) = self.source(shard) {
            self.from.insert(source.clone(), gives + 1);
        }
    }

    /// Whether a copy of the shard may be begun anywhere.
    pub fn has_source(&self, shard: &Shard) -> bool {
        self.all < self.all_max && self.source(shard).is_none_or(|(gives, _)| gives < self.per_node_max)
    }

    /// Whether one may be begun there.
    pub fn has_room(&self, shard: &Shard, target: &NodeId) -> bool {
        self.has_source(shard) && self.to.get(target).copied().unwrap_or(0) < self.per_node_max
    }

    /// Copies that are being taken from a node, in the whole cluster.
    pub fn given_by(&self, node: &NodeId) -> u32 {
        self.given.get(node).copied().unwrap_or(0)
    }
}

/// Whether a new replica of the shard has nothing to be copied: no copy is readable, or all that is known of one says
/// that it is empty.
pub fn has_nothing(heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>, shard: &Shard) -> bool {
    let seen = |node: &NodeId| told(heartbeats, shard, node);
    // Sizes are not known yet where a daemon has just started: nor has an empty copy taken any message.
    let empty = |seen: &ReplicaObservation| {
        let taken = seen.partitions.values().any(|partition| partition.next_offset > 0);
        seen.rows == 0 && seen.bytes == 0 && !taken
    };
    let mut known = shard.ready_nodes().filter_map(seen).filter(|seen| seen.serving).peekable();
    shard.ready_nodes().next().is_none() || known.peek().is_some() && known.all(empty)
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, RULES, id};
    use super::*;
    use crate::model::operation::Kind;
    use crate::model::table::Replica;

    fn copies<'a>(cluster: &'a Cluster, rules: &BalanceRules) -> Copies<'a> {
        let view = &cluster.view;
        let shard = |table, id| view.shard(table, id);
        Copies::of(rules, view.open_operations(), &shard, &view.live)
    }

    #[test]
    fn copies_count_where_they_arrive_and_where_they_come_from() {
        // s0 and s1 are on n1 alone, s2 on n2, s3 on n3.
        let mut cluster = Cluster::new(4).table(8, 4, 1, |_| 100);
        let on_n1 = cluster.shard(0).replicas.clone();
        cluster.shard(1).replicas = on_n1;
        let room = |cluster: &Cluster, shard: u32, to: &str, rules: &BalanceRules| {
            let shard = cluster.view.shard(cluster.of(), ShardId(shard)).unwrap();
            copies(cluster, rules).has_room(shard, &id(to))
        };
        let one = BalanceRules { copies_per_node_max: 1, ..RULES };
        assert!(room(&cluster, 1, "n4", &one));
        cluster.operation(Kind::Add { shard: ShardId(0), to: id("n3") });
        assert!(!room(&cluster, 2, "n3", &one), "one arrives there");
        assert!(room(&cluster, 2, "n4", &one));
        assert!(!room(&cluster, 1, "n4", &one), "n1 will give one as it is");
        assert!(room(&cluster, 1, "n4", &RULES));
        assert!(!room(&cluster, 2, "n4", &BalanceRules { copies_max: 1, ..RULES }));
        let ready = |node| Replica { state: ReplicaState::Ready, ..Replica::creating(id(node)) };
        let replica = Replica { copy_from: Some(id("n1")), ..Replica::creating(id("n3")) };
        cluster.shard(0).replicas.push(replica);
        assert_eq!(copies(&cluster, &one).given_by(&id("n1")), 1);
        assert!(!room(&cluster, 1, "n4", &one), "it gives one");
        cluster.shard(0).replicas[1].state = ReplicaState::Ready;
        assert!(room(&cluster, 1, "n3", &one), "that copy is complete");
        cluster.shard(0).replicas[1].state = ReplicaState::Creating;
        cluster.view.live.remove(&id("n3"));
        assert!(room(&cluster, 1, "n4", &one), "a copy to a node that is down stands still");
        cluster.operation(Kind::Add { shard: ShardId(1), to: id("n2") });
        cluster.shard(2).replicas = vec![ready("n1"), ready("n3")];
        assert!(!room(&cluster, 2, "n4", &one), "n1 gives one, and n3 is down");
    }
}
