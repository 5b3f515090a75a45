//! VALID, as far as records show it: copies of a shard are on different, registered nodes, and one of them leads.
//!
//! Zones are looked at by [`super::zones`], watermarks by nobody: whether a better node could have been had depends on
//! disks and servers, which reports tell and records do not.

use super::{Invariant, Violation};
use crate::model::Shard;
use crate::model::view::ClusterView;
use std::collections::BTreeSet;

/// Two copies on one node, a leader without a copy, a range beyond the table's partitions. A fault that was there
/// before and was not touched is not told again.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    let mut found = Vec::new();
    for (id, table) in &after.tables {
        for (_, shard) in after.changed_shards(before, *id) {
            let place = || format!("{} {}", table.record.name, shard.id);
            let mut tell = |what: String| found.push(Violation::new(Invariant::Valid, what));
            if let Some(node) = twice(shard) {
                tell(format!("{} has two replicas on {node}", place()));
            }
            if let Some(leader) = shard.leader.as_ref().filter(|node| shard.replica_on(node).is_none()) {
                tell(format!("{} is led by {leader}, which holds no replica of it", place()));
            }
            if shard.range.hi() > table.record.partitions {
                tell(format!("{} owns {}, of {} partitions", place(), shard.range, table.record.partitions));
            }
        }
    }
    found
}

fn twice(shard: &Shard) -> Option<&crate::model::NodeId> {
    let mut seen = BTreeSet::new();
    shard.replicas.iter().map(|replica| &replica.node).find(|node| !seen.insert(*node))
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};
    use super::*;
    use crate::model::ReplicaState::Ready;

    #[test]
    fn two_copies_on_one_node_are_found_once() {
        let mut cluster = Cluster::new(2);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready)]);
        let good = cluster.view();
        assert_eq!(check(&ClusterView::default(), &good), []);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n1", Ready)]);
        let bad = cluster.view();
        assert_eq!(ids(&check(&good, &bad)), ["VALID"]);
        assert_eq!(check(&bad, &bad), [], "told already");
    }

    #[test]
    fn a_leader_without_a_copy_and_a_range_too_wide_are_found() {
        let mut cluster = Cluster::new(2);
        cluster.shard(0, 0..8, &[("n1", Ready)]);
        let good = cluster.view();
        cluster.edit(0, |shard| shard.leader = Some("n2".parse().unwrap()));
        assert!(check(&good, &cluster.view())[0].what.contains("led by n2"));
        cluster.shard(0, 0..9, &[("n1", Ready)]);
        assert!(check(&good, &cluster.view())[0].what.contains("[0, 9), of 8"));
    }
}
