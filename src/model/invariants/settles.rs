//! SETTLES, as far as records show it: what is under way counts. The cluster itself begins nothing on a shard that an
//! operation is busy with, since it would be planned on what is about to change, and replicas would go there and back.
//!
//! An operator may ask for what must wait for something else. That plans end shows in time only, which records do not
//! tell: the simulator looks at that.

use super::{Invariant, Violation};
use crate::model::operation::Operation;
use crate::model::shared::Shared;
use crate::model::view::ClusterView;

/// Operations that the cluster began by itself beside an older one on the same shard that has not ended.
pub fn check(before: &ClusterView, after: &ClusterView) -> Vec<Violation> {
    if Shared::same(&before.operations, &after.operations) {
        return Vec::new();
    }
    let new = after.open_operations().filter(|op| op.is_own() && !before.operations.contains_key(&op.id));
    let beside = |new: &Operation| {
        let busy = |old: &&Operation| {
            let shared = new.kind.shards().into_iter().any(|shard| old.kind.touches(shard));
            old.id < new.id && old.table == new.table && shared
        };
        let old = after.open_operations().find(busy)?;
        let what = format!(
            "{} ({}, {}) was begun while {} ({}) is under way",
            new.id, new.kind, new.reason, old.id, old.kind
        );
        Some(Violation::new(Invariant::Settles, what))
    };
    new.filter_map(beside).collect()
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Cluster, ids};
    use super::*;
    use crate::model::ReplicaState::Ready;
    use crate::model::ShardId;
    use crate::model::operation::{Kind, State, cause};

    fn lead(shard: u32) -> Kind {
        Kind::Lead { shard: ShardId(shard), to: "n2".parse().unwrap() }
    }

    #[test]
    fn an_operation_of_the_clusters_own_beside_another_is_found_once() {
        let mut cluster = Cluster::new(2);
        cluster.shard(0, 0..4, &[("n1", Ready), ("n2", Ready)]);
        cluster.shard(1, 4..8, &[("n1", Ready), ("n2", Ready)]);
        let split = Kind::Split { shard: ShardId(0), cut: 2, left: ShardId(2), right: ShardId(3) };
        cluster.operate(1, split, State::Running, "asked for");
        let before = cluster.view();
        cluster.operate(2, lead(1), State::Running, cause::BALANCE);
        cluster.operate(3, lead(0), State::Running, "asked for");
        assert_eq!(check(&before, &cluster.view()), [], "another shard, or an operator's wish");
        cluster.operate(4, lead(2), State::Running, "balance: counts");
        let bad = cluster.view();
        assert_eq!(ids(&check(&before, &bad)), ["SETTLES"]);
        assert_eq!(check(&bad, &bad), [], "told already");
    }

    #[test]
    fn what_has_ended_is_in_nobodys_way() {
        let mut cluster = Cluster::new(2);
        cluster.shard(0, 0..8, &[("n1", Ready), ("n2", Ready)]);
        cluster.operate(1, lead(0), State::Done, cause::BALANCE);
        let before = cluster.view();
        cluster.operate(2, lead(0), State::Running, cause::BALANCE);
        assert_eq!(check(&before, &cluster.view()), []);
    }
}
