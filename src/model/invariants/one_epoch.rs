//! ONE-EPOCH, as far as records show it: a published topology covers every partition once, each topology has a number
//! of its own, numbers only grow, and a shard's number is never used again.

use super::{Invariant, Violation};
use crate::model::table::{Table, TableState};
use crate::model::view::ClusterView;
use crate::model::{Epoch, NodeId, PartitionRange, ShardId, TableId, routes};

/// A topology with a hole, two topologies of one number, a number that went back, a shard number used again.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, now) in &after.tables {
        let now = &now.record;
        if now.state == TableState::Dropping {
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

type Topology = Vec<(ShardId, PartitionRange, Vec<NodeId>)>;

/// What a reader sees, without addresses: those may change by themselves.
fn topology(view: &ClusterView, table: &Table) -> Option<Topology> {
    let shards: Vec<_> = view.shards_of(table.id).cloned().collect();
    let routes = routes::derive(table, &shards, &view.node_records(), &[])?;
    let nodes = |shard: &routes::RouteShard| shard.replicas.iter().map(|r| r.node.clone()).collect();
    Some(routes.shards.iter().map(|shard| (shard.shard, shard.range, nodes(shard))).collect())
}

/// New shards whose number is below those that were free. While a table is made its numbers are all taken at once.
fn reused(before: &ClusterView, after: &ClusterView, id: TableId, old: &Table) -> Vec<ShardId> {
    if old.state == TableState::Creating {
        return Vec::new();
    }
    let known = |shard: ShardId| before.shards_of(id).any(|old| old.id == shard);
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
