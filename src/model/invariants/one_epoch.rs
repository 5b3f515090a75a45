//! ONE-EPOCH, as far as records show it: a published topology covers every partition once, each topology has a number
//! of its own, numbers only grow, and a shard's number is never used again.

use super::{Invariant, Violation};
use crate::model::range::covers;
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, Table, TableState};
use crate::model::view::ClusterView;
use crate::model::{Epoch, NodeId, PartitionRange, ShardId, TableId};

/// A topology with a hole, two topologies of one number, a number that went back, a shard number used again.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    let mut found = Vec::new();
    let same_nodes = Shared::same(&before.nodes, &after.nodes);
    for (id, now) in &after.tables {
        let same_table = before.tables.get(id).is_some_and(|old| Shared::same(old, now));
        let now = &now.record;
        let same = same_nodes && same_table && after.same_shards(before, *id);
        if now.state == TableState::Dropping || same {
            continue;
        }
        let old = before.tables.get(id).map(|table| &table.record);
        let mut tell = |what: String| {
            found.push(Violation::new(Invariant::OneEpoch, format!("{} {}: {what}", now.name, now.epoch)));
        };
        let topology = topology(after, now);
        if now.epoch > Epoch(0) && topology.is_none() {
            tell(format!(
                "the published shards do not cover 0..{} with a readable copy each",
                now.partitions
            ));
        }
        let Some(old) = old else { continue };
        if now.partitions != old.partitions {
            tell(format!("P was {} and is {}", old.partitions, now.partitions));
        }
        if now.epoch < old.epoch {
            tell(format!("its epoch was {}", old.epoch));
        }
        let before_that = self::topology(before, old);
        if now.epoch == old.epoch && now.epoch > Epoch(0) && topology != before_that {
            tell("its topology changed and its epoch did not".into());
        }
        for shard in reused(before, after, *id, old) {
            tell(format!("{shard} is the number of an earlier shard"));
        }
    }
    found
}

/// Shards in range order, each with the nodes that readers ask.
type Topology<'a> = Vec<(ShardId, PartitionRange, Vec<&'a NodeId>)>;

/// What a reader sees, without addresses: those may change by themselves.
fn topology<'a>(view: &'a ClusterView, table: &Table) -> Option<Topology<'a>> {
    let serving = view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving);
    let known = |node: &&NodeId| view.nodes.contains_key(*node);
    let read = |shard: &'a Shard| {
        let mut nodes: Vec<&NodeId> = shard.ready_nodes().filter(known).collect();
        // The leader is asked first.
        nodes.sort_by_key(|node| (Some(*node) != shard.leader.as_ref(), *node));
        (shard.id, shard.range, nodes)
    };
    let mut topology: Topology<'a> = serving.map(read).collect();
    topology.sort_by_key(|(_, range, _)| *range);
    let covers = covers(topology.iter().map(|(_, range, _)| *range), table.partitions);
    (covers && topology.iter().all(|(_, _, nodes)| !nodes.is_empty())).then_some(topology)
}

/// New shards whose number is below those that were free. While a table is made its numbers are all taken at once.
fn reused(before: &ClusterView, after: &ClusterView, id: TableId, old: &Table) -> Vec<ShardId> {
    if old.state == TableState::Creating {
        return Vec::new();
    }
    let known = |shard: ShardId| before.shard(id, shard).is_some();
    let new = after.shards_of(id).map(|shard| shard.id).filter(|shard| !known(*shard));
    // An operation takes the numbers of the shards that it will make when it is recorded.
    let taken = |shard: &ShardId| {
        let of_table = before.operations.values().filter(|operation| operation.record.table == id);
        of_table.map(|operation| &operation.record.kind).any(|kind| kind.touches(*shard))
    };
    new.filter(|shard| shard.0 < old.next_shard && !taken(shard)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};
    use super::*;
    use crate::model::ReplicaState::{Behind, Creating, Ready};

    fn of_two_shards() -> Cluster {
        let mut cluster = Cluster::new(3);
        cluster.shard(0, 0..4, &[("n1", Ready), ("n2", Ready)]);
        cluster.shard(1, 4..8, &[("n2", Ready), ("n3", Creating)]);
        cluster
    }

    fn told(before: &ClusterView, cluster: &Cluster) -> String {
        let found = check(before, &cluster.view());
        assert!(found.iter().all(|violation| violation.invariant == Invariant::OneEpoch));
        found.into_iter().map(|violation| violation.what).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn a_change_that_is_published_is_fine() {
        let mut cluster = of_two_shards();
        let before = cluster.view();
        assert_eq!(check(&ClusterView::default(), &before), []);
        cluster.shard(1, 4..8, &[("n2", Ready), ("n3", Ready)]);
        cluster.publish();
        assert_eq!(told(&before, &cluster), "");
        // A copy that nobody reads yet is no part of the topology.
        let before = cluster.view();
        cluster.shard(1, 4..8, &[("n2", Ready), ("n3", Ready), ("n1", Creating)]);
        assert_eq!(told(&before, &cluster), "");
    }

    #[test]
    fn a_hole_an_overlap_and_an_unreadable_shard_are_found() {
        let before = of_two_shards().view();
        let mut cluster = of_two_shards();
        cluster.shard(1, 5..8, &[("n2", Ready)]);
        cluster.publish();
        assert!(told(&before, &cluster).contains("do not cover 0..8"));
        cluster.shard(1, 3..8, &[("n2", Ready)]);
        assert!(told(&before, &cluster).contains("do not cover 0..8"));
        cluster.shard(1, 4..8, &[("n2", Behind)]);
        assert!(told(&before, &cluster).contains("do not cover 0..8"));
    }

    #[test]
    fn one_number_for_two_topologies_is_found() {
        let mut cluster = of_two_shards();
        let before = cluster.view();
        cluster.shard(1, 4..8, &[("n2", Ready), ("n3", Ready)]);
        assert!(told(&before, &cluster).contains("its epoch did not"));
        cluster.publish();
        let later = cluster.view();
        assert_eq!(ids(&check(&later, &before)), ["ONE-EPOCH"], "numbers go forward only");
    }

    #[test]
    fn a_shard_number_is_used_once() {
        let mut cluster = of_two_shards();
        cluster.forget(0);
        cluster.shard(2, 0..4, &[("n1", Ready)]);
        cluster.publish();
        let before = cluster.view();
        cluster.forget(2);
        cluster.shard(0, 0..4, &[("n1", Ready)]);
        cluster.publish();
        assert!(told(&before, &cluster).contains("s0 is the number of an earlier shard"));
    }
}
