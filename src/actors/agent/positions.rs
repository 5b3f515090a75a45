//! Positions on their way to Kafka: the newest of each replica's partition, recorded all in one call.
//!
//! A child's are recorded aside until it has taken its parents' place, in a group of their own. A split or merge may be
//! undone until then, and the parent goes on from what it has recorded itself: what a child has done is not in the
//! parent's table. A child that is started again finds its own there (`replica/work`).

use super::Agent;
use super::reconcile::Place;
use crate::adapters::kafka::{Committed, Error, Kafka};
use crate::model::names::{self, TopicPartition};
use crate::model::table::ShardState;
use crate::model::view::ClusterView;
use actix::prelude::*;
use std::collections::BTreeMap;

/// Of one group, and whose each is.
type Taken = BTreeMap<TopicPartition, (Place, Committed)>;

/// What is to be recorded now.
#[derive(Debug, Default)]
struct Due {
    own: Taken,
    aside: Taken,
}

#[derive(Debug)]
struct Kept {
    position: Committed,
    /// It is recorded aside, or about to be.
    aside: bool,
}

/// What is to be recorded, and whose it is. Parents come before their children, so that the latter's stand.
#[derive(Debug, Default)]
pub(super) struct Positions(BTreeMap<(TopicPartition, Place), Kept>);

impl Positions {
    pub(super) fn put(&mut self, place: Place, source: TopicPartition, position: Committed) {
        self.0.insert((source, place), Kept { position, aside: false });
    }

    /// Not recorded after all; what has come since is newer.
    fn put_back(&mut self, Due { own, aside }: Due) {
        for (source, (place, position)) in own {
            self.0.entry((source, place)).or_insert(Kept { position, aside: false });
        }
        for (source, (place, _)) in aside {
            self.0.get_mut(&(source, place)).into_iter().for_each(|kept| kept.aside = false);
        }
    }

    /// Takes what may be recorded now, and drops what is of shards that are no more.
    fn take(&mut self, view: &ClusterView) -> Due {
        let mut due = Due::default();
        for ((source, place), kept) in std::mem::take(&mut self.0) {
            let shard = view.shards.get(&place.0).and_then(|shards| shards.get(&place.1));
            match shard.map(|shard| shard.record.state) {
                Some(ShardState::Preparing) => {
                    if !kept.aside {
                        due.aside.insert(source.clone(), (place, kept.position.clone()));
                    }
                    self.0.insert((source, place), Kept { aside: true, ..kept });
                }
                Some(ShardState::Serving | ShardState::Retired) => {
                    due.own.insert(source, (place, kept.position));
                }
                None => {}
            }
        }
        due
    }
}

/// Records what was taken; gives it back if that cannot be told to have happened.
async fn record(kafka: &dyn Kafka, group: &str, taken: Taken) -> Result<(), (Taken, Error)> {
    if taken.is_empty() {
        return Ok(());
    }
    let positions: Vec<_> =
        taken.iter().map(|(source, (_, position))| (source.clone(), position.clone())).collect();
    kafka.commit(group, &positions).await.map_err(|error| (taken, error))
}

impl Agent {
    /// Records in Kafka what may be.
    pub(super) fn commit(&mut self, ctx: &mut Context<Self>) {
        if self.committing {
            return;
        }
        let due = self.positions.take(&self.view.read());
        if due.own.is_empty() && due.aside.is_empty() {
            return;
        }
        self.committing = true;
        let (kafka, group) = (self.ports.kafka.clone(), self.ports.group.clone());
        let work = async move {
            let own = record(kafka.as_ref(), &group, due.own).await;
            let aside = record(kafka.as_ref(), &names::preparing_group(&group), due.aside).await;
            let (mut left, mut failure) = (Due::default(), None);
            for (result, left) in [(own, &mut left.own), (aside, &mut left.aside)] {
                if let Err((taken, error)) = result {
                    (*left, failure) = (taken, Some(error));
                }
            }
            (left, failure)
        };
        self.then(ctx, work, |agent, (left, failure), _| {
            agent.committing = false;
            if let Some(error) = failure {
                tracing::warn!(%error, "offsets could not be recorded in Kafka: trying again");
                agent.positions.put_back(left);
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
    fn what_a_child_has_done_is_recorded_aside_until_it_is_published_and_never_if_it_is_given_up() {
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
        assert_eq!(taken.own[&source].1.next, 10, "the parent's own");
        assert_eq!(taken.aside[&source].1.next, 12, "the child's");
        assert!(positions.take(&view).aside.is_empty(), "once");
        positions.put_back(taken);
        let again = positions.take(&view);
        assert_eq!((again.own[&source].1.next, again.aside[&source].1.next), (10, 12));
        positions.put_back(again);
        put(&mut view, 0, ShardState::Retired);
        put(&mut view, 1, ShardState::Serving);
        assert_eq!(positions.take(&view).own[&source].1.next, 12);
        assert!(positions.0.is_empty());
        positions.put((table, ShardId(7)), source, committed(13));
        assert!(positions.take(&view).own.is_empty() && positions.0.is_empty(), "of a shard that is no more");
    }
}
