//! Parents and children of a split or merge on one node: when a parent must stop taking messages, and when it may
//! not begin to.
//!
//! Pure but for the senders that it keeps. A parent goes on taking messages while its children link its parts for
//! the first time; it stops when all of them wait for that, and never starts again beside a child that
//! links them for the last time, or is whole: both would read the same topics.

use super::reconcile::Place;
use crate::actors::replica::handover::Stands;
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::view::ClusterView;
use std::collections::BTreeMap;
use tokio::sync::oneshot;

/// How far a replica's seeding has come.
#[derive(Debug)]
pub enum Stage {
    /// It has no local table yet.
    Unseeded,
    /// It waits for its parents to stop.
    Linked(oneshot::Sender<Stands>),
    /// Its parents have stopped for it.
    Released,
    /// Its local table is whole.
    Seeded,
}

/// What is known of the node's replicas.
#[derive(Debug, Default)]
pub struct Lineage {
    stages: BTreeMap<Place, Stage>,
    /// Where parents that have stopped stood.
    stands: BTreeMap<Place, Stands>,
}

/// The children of a shard on a node.
fn children<'a>(
    view: &'a ClusterView,
    node: &'a NodeId,
    (table, parent): Place,
) -> impl Iterator<Item = Place> + 'a {
    let shards = view.shards.get(&table).into_iter();
    shards.flat_map(move |shards| shards.children(node, parent)).map(move |shard| (table, shard.id))
}

impl Lineage {
    /// A replica told how far it is.
    pub fn put(&mut self, place: Place, stage: Stage) {
        self.stages.insert(place, stage);
    }

    /// Only replicas that still run matter.
    pub fn retain(&mut self, keep: impl Fn(&Place) -> bool) {
        self.stages.retain(|place, _| keep(place));
        self.stands.retain(|place, _| keep(place));
    }

    /// A parent has stopped for its children, and told where it stands.
    pub fn parted(&mut self, place: Place, stands: Stands) {
        self.stands.insert(place, stands);
    }

    /// It takes messages again.
    pub fn goes_on(&mut self, place: Place) {
        self.stands.remove(&place);
    }

    /// Where the parents of a shard stood when they stopped.
    fn stood(&self, view: &ClusterView, (table, shard): Place) -> Stands {
        let shard = view.shards.get(&table).and_then(|shards| shards.get(&shard));
        let parents = shard.into_iter().flat_map(|shard| &shard.record.parents);
        let stands = parents.filter_map(|parent| self.stands.get(&(table, *parent)));
        stands.flatten().map(|(partition, stand)| (*partition, stand.clone())).collect()
    }

    fn is_seeded(&self, place: &Place) -> bool {
        matches!(self.stages.get(place), Some(Stage::Seeded))
    }

    /// Whether a shard's replica may take messages here; `runs` says whether it does now.
    pub fn may_run(&self, view: &ClusterView, node: &NodeId, place: Place, runs: bool) -> bool {
        let mut children = children(view, node, place).peekable();
        if children.peek().is_none() {
            return true;
        }
        let (mut all_linked, mut known) = (true, true);
        for child in children {
            match self.stages.get(&child) {
                // One that was released links for the last time: what came now would be in some ClickHouse partitions
                // of it and not in others. A child that failed and begins again needs the parent's table alone.
                Some(Stage::Seeded | Stage::Released) => return false,
                Some(Stage::Linked(_)) => {}
                Some(Stage::Unseeded) => all_linked = false,
                None => (all_linked, known) = (false, false),
            }
        }
        !all_linked && (known || runs)
    }

    /// Children all of whose parents have stopped; each is told so.
    pub fn release(&mut self, view: &ClusterView, runs: impl Fn(&Place) -> bool) {
        let free = |(table, shard): &Place| {
            let shard = view.shards.get(table).and_then(|shards| shards.get(shard));
            shard.is_none_or(|shard| shard.record.parents.iter().all(|parent| !runs(&(*table, *parent))))
        };
        let linked = |(place, stage): (&Place, &Stage)| {
            (matches!(stage, Stage::Linked(_)) && free(place)).then_some(*place)
        };
        for place in self.stages.iter().filter_map(linked).collect::<Vec<_>>() {
            if let Some(Stage::Linked(sender)) = self.stages.insert(place, Stage::Released) {
                // A receiver that is gone belongs to an attempt that was given up.
                let _ = sender.send(self.stood(view, place));
            }
        }
    }

    /// Whether a child on this node may still have to be made out of that database.
    pub fn is_needed(&self, view: &ClusterView, node: &NodeId, table: TableId, parent: ShardId) -> bool {
        children(view, node, (table, parent)).any(|child| !self.is_seeded(&child))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::replica::handover::Stand;
    use crate::actors::replica::recovery::Start;
    use crate::model::view::Versioned;
    use crate::model::{PartitionId, PartitionRange, Shard};

    const PARENT: ShardId = ShardId(0);
    const LEFT: ShardId = ShardId(1);
    const RIGHT: ShardId = ShardId(2);

    fn table() -> TableId {
        TableId(uuid::Uuid::nil())
    }

    fn node() -> NodeId {
        "n1".parse().unwrap()
    }

    fn view(children: &[ShardId]) -> ClusterView {
        let mut view = ClusterView::default();
        let range = PartitionRange::new(0, 8).unwrap();
        let shard = |id, parents: Vec<ShardId>| Shard { parents, ..Shard::new(table(), id, range, [node()]) };
        let mut put = |record: Shard| {
            let of = view.shards.entry(table()).or_default();
            of.insert(record.id, Versioned { record, revision: 1 }.into());
        };
        put(shard(PARENT, vec![]));
        children.iter().for_each(|id| put(shard(*id, vec![PARENT])));
        view
    }

    fn runs(lineage: &Lineage, view: &ClusterView, now: bool) -> bool {
        lineage.may_run(view, &node(), (table(), PARENT), now)
    }

    #[test]
    fn a_parent_takes_messages_until_all_its_children_have_linked_it() {
        let (view, mut lineage) = (view(&[LEFT, RIGHT]), Lineage::default());
        assert!(runs(&lineage, &view, true), "what the children do is not known yet: it goes on");
        lineage.put((table(), LEFT), Stage::Unseeded);
        let (left, mut left_stopped) = oneshot::channel();
        let (right, mut right_stopped) = oneshot::channel();
        lineage.put((table(), LEFT), Stage::Linked(left));
        assert!(runs(&lineage, &view, true));
        lineage.release(&view, |_| true);
        assert!(left_stopped.try_recv().is_err(), "the parent still runs");
        lineage.put((table(), RIGHT), Stage::Linked(right));
        assert!(!runs(&lineage, &view, true));
        lineage.release(&view, |_| false);
        let none = || Ok(Stands::new());
        assert_eq!((left_stopped.try_recv(), right_stopped.try_recv()), (none(), none()));
        assert!(!runs(&lineage, &view, false));
        assert!(lineage.is_needed(&view, &node(), table(), PARENT));
        lineage.put((table(), LEFT), Stage::Seeded);
        lineage.put((table(), RIGHT), Stage::Seeded);
        assert!(!lineage.is_needed(&view, &node(), table(), PARENT));
    }

    #[test]
    fn a_parent_tells_all_its_children_where_it_stood_until_it_goes_on() {
        let (view, mut lineage) = (view(&[LEFT, RIGHT]), Lineage::default());
        let stand = Stand { gate: 7, start: Start::default() };
        let stands = Stands::from([(PartitionId(3), stand)]);
        lineage.parted((table(), PARENT), stands.clone());
        let told = |lineage: &mut Lineage, child| {
            let (to, mut told) = oneshot::channel();
            lineage.put((table(), child), Stage::Linked(to));
            lineage.release(&view, |_| false);
            told.try_recv().unwrap()
        };
        assert_eq!(told(&mut lineage, LEFT), stands);
        assert_eq!(told(&mut lineage, RIGHT), stands);
        assert_eq!(told(&mut lineage, RIGHT), stands, "it begins again, and the parent has not moved");
        lineage.goes_on((table(), PARENT));
        assert_eq!(told(&mut lineage, LEFT), Stands::new());
    }

    #[test]
    fn after_a_restart_a_parent_waits_until_its_children_have_said_how_far_they_are() {
        let (view, mut lineage) = (view(&[LEFT, RIGHT]), Lineage::default());
        assert!(!runs(&lineage, &view, false));
        lineage.put((table(), LEFT), Stage::Unseeded);
        lineage.put((table(), RIGHT), Stage::Unseeded);
        assert!(runs(&lineage, &view, false), "both will link it again");
        lineage.put((table(), LEFT), Stage::Seeded);
        assert!(!runs(&lineage, &view, true), "a child reads the same topics");
    }

    /// Found by reading: the other child's last link failed, and the parent went on beside this one's.
    #[test]
    fn a_parent_stays_stopped_for_a_released_child_when_the_other_begins_again() {
        let (view, mut lineage) = (view(&[LEFT, RIGHT]), Lineage::default());
        for child in [LEFT, RIGHT] {
            lineage.put((table(), child), Stage::Linked(oneshot::channel().0));
        }
        lineage.release(&view, |_| false);
        lineage.put((table(), LEFT), Stage::Unseeded);
        assert!(!runs(&lineage, &view, false) && !runs(&lineage, &view, true));
        lineage.put((table(), RIGHT), Stage::Unseeded);
        assert!(runs(&lineage, &view, false), "both begin again");
    }

    #[test]
    fn a_split_given_up_lets_the_parent_go_on() {
        let mut lineage = Lineage::default();
        lineage.put((table(), LEFT), Stage::Seeded);
        let without = view(&[]);
        lineage.retain(|(_, shard)| *shard == PARENT);
        assert!(runs(&lineage, &without, false));
    }
}
