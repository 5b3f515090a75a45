//! VALID's rule on zones: a copy that the cluster places by itself shares no zone with another of its shard while a
//! node of a zone without one could have taken it.
//!
//! Which nodes could is not in the records (servers that are down, full disks), so the mirror does not ask this; the
//! simulator does, which knows. An operator may place copies as he likes, also by a plan that he applies.

use super::{Invariant, Violation};
use crate::model::operation::{Kind, Operation, cause};
use crate::model::shared::Shared;
use crate::model::view::ClusterView;
use crate::model::{NodeId, Shard};
use std::collections::{BTreeMap, BTreeSet};

/// A node as one sees it who knows more than the records tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// Its zone.
    pub zone: String,
    /// Whether it certainly could take a copy, and whoever leads knows that.
    pub fit: bool,
}

/// A copy that is to be made: on which node, and which nodes hold others.
struct Placed<'a> {
    shard: &'a Shard,
    to: &'a NodeId,
    /// Those that live and stay.
    others: Vec<&'a NodeId>,
    /// Those, and whoever else has one now or is to get one.
    held: Vec<&'a NodeId>,
    why: String,
}

/// Copies placed since `before` in a zone that holds another, where that need not be.
pub fn check(
    before: &ClusterView,
    after: &ClusterView,
    sites: impl FnOnce() -> BTreeMap<NodeId, Site>,
) -> Vec<Violation> {
    let mut placed = made(before, after);
    if !Shared::same(&before.operations, &after.operations) {
        let new = after.open_operations().filter(|op| !before.operations.contains_key(&op.id));
        placed.extend(new.filter(|op| is_own(op)).filter_map(|op| wanted(before, after, op)));
    }
    if placed.is_empty() {
        return Vec::new();
    }
    let sites = sites();
    placed.iter().filter_map(|copy| crowded(after, copy, &sites)).collect()
}

/// Whether the cluster chose the node.
fn is_own(operation: &Operation) -> bool {
    operation.is_own() && !operation.reason.starts_with(cause::PLAN)
}

/// The copy that an operation is to make.
fn wanted<'a>(
    before: &'a ClusterView,
    after: &'a ClusterView,
    operation: &'a Operation,
) -> Option<Placed<'a>> {
    let (id, from, to) = match &operation.kind {
        Kind::Move { shard, from, to } => (*shard, Some(from), to),
        Kind::Add { shard, to } => (*shard, None, to),
        _ => return None,
    };
    let shard = after.shard(operation.table, id)?;
    let stays = |node: &&NodeId| Some(*node) != from && *node != to;
    let others = shard.staying().map(|replica| &replica.node).filter(stays);
    let open = after.open_operations().filter(|op| op.table == operation.table && op.kind.touches(id));
    let coming = open.filter_map(|op| op.kind.target()).filter(stays);
    Some(Placed {
        shard,
        to,
        others: others.filter(|node| before.is_live(node)).collect(),
        held: shard.replicas.iter().map(|replica| &replica.node).filter(stays).chain(coming).collect(),
        why: format!("{} ({}, {})", operation.id, operation.kind, operation.reason),
    })
}

/// The copies of new tables' shards: each beside those that were placed before it.
fn made<'a>(before: &'a ClusterView, after: &'a ClusterView) -> Vec<Placed<'a>> {
    let new = |table| {
        let changed = after.changed_shards(before, table);
        changed.filter(|(was, shard)| was.is_none() && shard.parents.is_empty()).map(|(_, shard)| shard)
    };
    let copies = |shard: &'a Shard| {
        let nodes: Vec<&NodeId> = shard.replicas.iter().map(|replica| &replica.node).collect();
        (1..nodes.len()).map(move |at| Placed {
            shard,
            to: nodes[at],
            others: nodes[..at].to_vec(),
            held: nodes.clone(),
            why: "the table's making".to_owned(),
        })
    };
    after.tables.keys().flat_map(|table| new(*table)).flat_map(copies).collect()
}

fn crowded(view: &ClusterView, copy: &Placed<'_>, sites: &BTreeMap<NodeId, Site>) -> Option<Violation> {
    let zone = |node: &NodeId| sites.get(node).map(|site| site.zone.as_str());
    let own = zone(copy.to)?;
    let beside = copy.others.iter().find(|node| zone(node) == Some(own))?;
    let held: BTreeSet<&str> = copy.held.iter().filter_map(|node| zone(node)).collect();
    let better = sites.iter().find(|(_, site)| site.fit && !held.contains(site.zone.as_str()))?;
    let table = view.tables.get(&copy.shard.table).map(|table| table.record.name.to_string());
    let what = format!(
        "{} {}: {} puts a copy on {} in zone {own}, where {beside} has one, and {} in {} has none",
        table.unwrap_or_default(),
        copy.shard.id,
        copy.why,
        copy.to,
        better.0,
        better.1.zone
    );
    Some(Violation::new(Invariant::Valid, what))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};
    use super::*;
    use crate::model::ReplicaState::{Creating, Ready};
    use crate::model::ShardId;
    use crate::model::operation::State;

    /// Nodes in zones; those in capitals cannot take copies.
    fn sites(zones: &[(&str, &str)]) -> BTreeMap<NodeId, Site> {
        let site = |(node, zone): &(&str, &str)| {
            let fit = zone.chars().all(char::is_lowercase);
            (node.parse().unwrap(), Site { zone: zone.to_lowercase(), fit })
        };
        zones.iter().map(site).collect()
    }

    fn add(to: &str) -> Kind {
        Kind::Add { shard: ShardId(0), to: to.parse().unwrap() }
    }

    #[test]
    fn a_copy_beside_another_in_its_zone_is_found_where_another_zone_has_room() {
        let mut cluster = Cluster::new(4);
        cluster.shard(0, 0..8, &[("n1", Ready)]);
        let before = cluster.view();
        let found = |kind: Kind, why: &str, zones: &[(&str, &str)]| {
            let mut cluster = Cluster::new(4);
            cluster.shard(0, 0..8, &[("n1", Ready)]);
            cluster.operate(1, kind, State::Running, why);
            ids(&check(&before, &cluster.view(), || sites(zones)))
        };
        let two = [("n1", "a"), ("n2", "a"), ("n3", "b")];
        assert_eq!(found(add("n2"), cause::WANTED, &two), ["VALID"]);
        assert_eq!(found(add("n3"), cause::WANTED, &two), [""; 0]);
        assert_eq!(found(add("n2"), "asked for", &two), [""; 0], "an operator may");
        assert_eq!(found(add("n2"), cause::PLAN, &two), [""; 0], "also by a plan");
        let full = [("n1", "a"), ("n2", "a"), ("n3", "B")];
        assert_eq!(found(add("n2"), cause::WANTED, &full), [""; 0], "n3 cannot take it");
        let moved = Kind::Move { shard: ShardId(0), from: "n1".parse().unwrap(), to: "n2".parse().unwrap() };
        assert_eq!(found(moved, cause::BALANCE, &two), [""; 0], "the other one goes");
    }

    #[test]
    fn a_new_tables_copies_are_spread() {
        let mut cluster = Cluster::new(4);
        let before = cluster.view();
        cluster.shard(0, 0..8, &[("n1", Creating), ("n2", Creating)]);
        let after = cluster.view();
        let found = |zones: &[(&str, &str)]| ids(&check(&before, &after, || sites(zones)));
        assert_eq!(found(&[("n1", "a"), ("n2", "a"), ("n3", "b")]), ["VALID"]);
        assert_eq!(found(&[("n1", "a"), ("n2", "b"), ("n3", "c")]), [""; 0]);
        assert_eq!(found(&[("n1", "a"), ("n2", "a"), ("n3", "a")]), [""; 0], "there is one zone");
        assert_eq!(ids(&check(&after, &after, || sites(&[]))), [""; 0], "told already");
    }

    #[test]
    fn a_dead_nodes_copy_crowds_nobody_out() {
        let mut cluster = Cluster::new(4);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready)]);
        cluster.die("n2");
        let before = cluster.view();
        cluster.operate(1, add("n4"), State::Running, cause::WANTED);
        let zones = || sites(&[("n1", "a"), ("n2", "b"), ("n3", "c"), ("n4", "b")]);
        assert_eq!(check(&before, &cluster.view(), zones), []);
    }
}
