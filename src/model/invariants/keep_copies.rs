//! KEEP-COPIES: a complete copy that lives is given up only when as many as wanted stay; the last one never.

use super::{Invariant, Violation};
use crate::model::table::{Replica, Shard, ShardState, TableState};
use crate::model::view::ClusterView;
use crate::model::{NodeId, TableId};
use std::collections::BTreeSet;

/// For every shard that lost a copy: the complete ones that stay for each of its partitions, whatever shard now
/// holds them. A table that is being dropped may lose all.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, table) in &after.tables {
        if table.record.state == TableState::Dropping || after.same_shards(before, *id) {
            continue;
        }
        for shard in before.shards_of(*id).filter(|shard| serves(shard) && gave_up(shard, after)) {
            let live = |node: &&NodeId| before.is_live(node);
            let had = shard.ready_nodes().filter(live).count();
            let stay = fewest(after, *id, shard);
            let name = &table.record.name;
            let mut tell = |what: String| found.push(Violation::new(Invariant::KeepCopies, what));
            if stay.complete == 0 {
                tell(format!("{name} {}: no complete replica is left", shard.id));
            } else if lost_live(before, shard, after) && stay.live < had.min(table.record.replicas as usize) {
                let wanted = table.record.replicas;
                tell(format!("{name} {}: {} live replicas are left, of {wanted}", shard.id, stay.live));
            }
        }
    }
    found
}

fn complete(replica: &&Replica) -> bool {
    replica.state.is_complete()
}

/// In the topology: what is being prepared or retired is no copy that readers can count on.
fn serves(shard: &Shard) -> bool {
    shard.state == ShardState::Serving
}

/// The shards of a table that hold a partition now.
fn holders(view: &ClusterView, table: TableId, partition: u32) -> impl Iterator<Item = &Shard> {
    let partition = crate::model::PartitionId(partition);
    view.shards_of(table).filter(move |shard| serves(shard) && shard.range.contains(partition))
}

/// Whether a complete copy on that node is one no more.
fn gone(after: &ClusterView, shard: &Shard, node: &NodeId) -> bool {
    let held = |now: &Shard| now.replica_on(node).as_ref().is_some_and(complete);
    // The same shard, unless it was split or merged: then whoever holds its partitions.
    match after.shard(shard.table, shard.id).filter(|now| serves(now)) {
        Some(now) => !held(now),
        None => points(after, shard).into_iter().any(|point| !holders(after, shard.table, point).any(held)),
    }
}

fn gave_up(shard: &Shard, after: &ClusterView) -> bool {
    shard.replicas.iter().filter(complete).any(|replica| gone(after, shard, &replica.node))
}

fn lost_live(before: &ClusterView, shard: &Shard, after: &ClusterView) -> bool {
    shard.ready_nodes().any(|node| before.is_live(node) && gone(after, shard, node))
}

struct Stay {
    complete: usize,
    live: usize,
}

/// One partition of each stretch of the shard's that the same shards hold now.
fn points(after: &ClusterView, shard: &Shard) -> BTreeSet<u32> {
    let ends = after.shards_of(shard.table).flat_map(|now| [now.range.lo(), now.range.hi()]);
    let inside = |point: &u32| (shard.range.lo()..shard.range.hi()).contains(point);
    ends.chain([shard.range.lo()]).filter(inside).collect()
}

/// The copies of the partition, of those that the shard owned, with the fewest.
fn fewest(after: &ClusterView, table: TableId, shard: &Shard) -> Stay {
    let mut stay = Stay { complete: usize::MAX, live: usize::MAX };
    for point in points(after, shard) {
        let (mut complete_nodes, mut live_nodes) = (BTreeSet::new(), BTreeSet::new());
        for now in holders(after, table, point) {
            complete_nodes.extend(now.replicas.iter().filter(complete).map(|replica| &replica.node));
            live_nodes.extend(now.ready_nodes().filter(|node| after.is_live(node)));
        }
        stay.complete = stay.complete.min(complete_nodes.len());
        stay.live = stay.live.min(live_nodes.len());
    }
    stay
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};
    use super::*;
    use crate::model::ReplicaState::{Behind, Creating, Ready};

    fn of_two() -> Cluster {
        let mut cluster = Cluster::new(3);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready)]);
        cluster
    }

    #[test]
    fn a_copy_may_go_once_another_is_complete_and_not_before() {
        let mut cluster = of_two();
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready), ("n3", Creating)]);
        let copying = cluster.view();
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready), ("n3", Ready)]);
        let copied = cluster.view();
        cluster.shard(0, 0..8, &[("n1", Ready), ("n3", Ready)]);
        assert_eq!(check(&copied, &cluster.view()), []);
        assert_eq!(check(&copying, &copied), []);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n3", Creating)]);
        assert_eq!(ids(&check(&copying, &cluster.view())), ["KEEP-COPIES"]);
    }

    #[test]
    fn a_dead_nodes_copy_may_go_but_never_the_last() {
        let mut cluster = of_two();
        cluster.die("n2");
        let before = cluster.view();
        cluster.shard(0, 0..8, &[("n1", Ready), ("n3", Creating)]);
        assert_eq!(check(&before, &cluster.view()), []);
        cluster.die("n1");
        let before = cluster.view();
        cluster.shard(0, 0..8, &[("n3", Creating)]);
        assert_eq!(ids(&check(&before, &cluster.view())), ["KEEP-COPIES"]);
    }

    #[test]
    fn leaving_the_routes_is_no_loss() {
        let mut cluster = of_two();
        let before = cluster.view();
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Behind)]);
        assert_eq!(check(&before, &cluster.view()), []);
    }

    #[test]
    fn a_shard_that_was_split_lives_on_in_its_halves() {
        let mut cluster = of_two();
        let before = cluster.view();
        cluster.forget(0);
        cluster.shard(1, 0..3, &[("n1", Ready), ("n2", Ready)]);
        cluster.shard(2, 3..8, &[("n1", Ready), ("n2", Ready)]);
        assert_eq!(check(&before, &cluster.view()), []);
        cluster.shard(2, 3..8, &[("n1", Ready), ("n2", Creating)]);
        assert_eq!(ids(&check(&before, &cluster.view())), ["KEEP-COPIES"]);
        cluster.forget(2);
        assert!(check(&before, &cluster.view())[0].what.contains("no complete replica"));
    }

    #[test]
    fn a_dropped_table_may_lose_all() {
        let mut cluster = of_two();
        let before = cluster.view();
        cluster.drop_table();
        cluster.forget(0);
        assert_eq!(check(&before, &cluster.view()), []);
    }
}
