//! Positions on their way to Kafka: the newest of each replica's partition, recorded all in one call.
//!
//! A child's wait until it has taken its parents' place. A split or merge may be undone until then, and the parent goes
//! on from what it has recorded itself: what a child has done is not in the parent's table.

use super::Agent;
use super::reconcile::Place;
use crate::adapters::kafka::Committed;
use crate::model::names::TopicPartition;
use crate::model::table::ShardState;
use crate::model::view::ClusterView;
use actix::prelude::*;
use std::collections::BTreeMap;

/// What is to be recorded, and whose it is. Parents come before their children, so that the latter's stand.
#[derive(Debug, Default)]
pub(super) struct Positions(BTreeMap<(TopicPartition, Place), Committed>);

impl Positions {
    pub(super) fn put(&mut self, place: Place, source: TopicPartition, position: Committed) {
        self.0.insert((source, place), position);
    }

    /// Not recorded after all; what has come since is newer.
    fn put_back(&mut self, taken: BTreeMap<TopicPartition, (Place, Committed)>) {
        for (source, (place, position)) in taken {
            self.0.entry((source, place)).or_insert(position);
        }
    }

    /// Takes what may be recorded now, and drops what is of shards that are no more.
    fn take(&mut self, view: &ClusterView) -> BTreeMap<TopicPartition, (Place, Committed)> {
        let mut due = BTreeMap::new();
        for ((source, place), position) in std::mem::take(&mut self.0) {
            let shard = view.shards.get(&place.0).and_then(|shards| shards.get(&place.1));
            match shard.map(|shard| shard.record.state) {
                Some(ShardState::Preparing) => drop(self.0.insert((source, place), position)),
                Some(ShardState::Serving | ShardState::Retired) => {
                    drop(due.insert(source, (place, position)))
                }
                None => {}
            }
        }
        due
    }
}

impl Agent {
    /// Records in Kafka what may be.
    pub(super) fn commit(&mut self, ctx: &mut Context<Self>) {
        if self.committing {
            return;
        }
        let due = self.positions.take(&self.view.read());
        if due.is_empty() {
            return;
        }
        self.committing = true;
        let (kafka, group) = (self.ports.kafka.clone(), self.ports.group.clone());
        let work = async move {
            let positions: Vec<_> =
                due.iter().map(|(source, (_, position))| (source.clone(), position.clone())).collect();
            let result = kafka.commit(&group, &positions).await;
            (due, result)
        };
        self.then(ctx, work, |agent, (due, result), _| {
            agent.committing = false;
            if let Err(error) = result {
                tracing::warn!(%error, "offsets could not be recorded in Kafka: trying again");
                agent.positions.put_back(due);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Versioned;
    use crate::model::{PartitionRange, Shard, ShardId, TableId};

    fn committed(next: i64) -> Committed {
        Committed { next, metadata: String::new() }
    }

    #[test]
    fn what_a_child_has_done_is_recorded_once_it_is_published_and_never_if_it_is_given_up() {
        let table = TableId(uuid::Uuid::nil());
        let source = TopicPartition { topic: "t.0".into(), partition: 0 };
        let mut view = ClusterView::default();
        let put = |view: &mut ClusterView, id: u32, state: ShardState| {
            let range = PartitionRange::new(0, 4).unwrap();
            let record = Shard { state, ..Shard::new(table, ShardId(id), range, []) };
            view.shards
                .entry(table)
                .or_default()
                .insert(ShardId(id), Versioned { record, revision: 1 }.into());
        };
        put(&mut view, 0, ShardState::Serving);
        put(&mut view, 1, ShardState::Preparing);
        let mut positions = Positions::default();
        positions.put((table, ShardId(0)), source.clone(), committed(10));
        positions.put((table, ShardId(1)), source.clone(), committed(12));
        let taken = positions.take(&view);
        assert_eq!(taken[&source].1.next, 10, "the parent's own");
        positions.put_back(taken);
        put(&mut view, 0, ShardState::Retired);
        put(&mut view, 1, ShardState::Serving);
        assert_eq!(positions.take(&view)[&source].1.next, 12);
        assert!(positions.take(&view).is_empty());
        positions.put((table, ShardId(7)), source, committed(13));
        assert!(positions.take(&view).is_empty() && positions.0.is_empty(), "of a shard that is no more");
    }
}
