//! Since when nobody can be reading an older topology: the queries that ran when an epoch had been loaded have ended.
//!
//! Pure. A query keeps the topology that it began with, also for the parts that it has not asked for yet; only when
//! it has ended may what it reads be removed (RETIRE).

use crate::model::ids::{Epoch, TableId};
use std::collections::{BTreeMap, BTreeSet};

/// What has settled, and what is waited for.
#[derive(Debug, Default)]
pub struct Settling {
    /// The newest topology that all running queries began under, by table.
    pub settled: BTreeMap<TableId, Epoch>,
    waiting: Vec<(BTreeMap<TableId, Epoch>, BTreeSet<String>)>,
    newest: BTreeMap<TableId, Epoch>,
}

impl Settling {
    /// Whether a look at the running queries could bring anything.
    pub fn is_open(&self, loaded: &BTreeMap<TableId, Epoch>) -> bool {
        !self.waiting.is_empty() || self.newest != *loaded
    }

    /// The queries that run now, looked at after `loaded` had been loaded. True if anything settled by it.
    pub fn look(&mut self, loaded: &BTreeMap<TableId, Epoch>, running: &BTreeSet<String>) -> bool {
        let before = self.settled.clone();
        if self.newest != *loaded {
            let new = loaded.iter().filter(|(table, epoch)| self.newest.get(table) != Some(epoch));
            self.waiting.push((new.map(|(table, epoch)| (*table, *epoch)).collect(), running.clone()));
            self.newest.clone_from(loaded);
        }
        for (_, queries) in &mut self.waiting {
            queries.retain(|query| running.contains(query));
        }
        // One that runs for days sees many topologies: of those that wait for the same, the newest is enough.
        self.waiting.dedup_by(|(later, queries), (epochs, same)| {
            let alike = queries == same;
            if alike {
                epochs.append(later);
            }
            alike
        });
        let (over, open) = std::mem::take(&mut self.waiting).into_iter().partition(|(_, q)| q.is_empty());
        self.waiting = open;
        let over: Vec<(BTreeMap<TableId, Epoch>, BTreeSet<String>)> = over;
        for (table, epoch) in over.into_iter().flat_map(|(epochs, _)| epochs) {
            let settled = self.settled.entry(table).or_insert(epoch);
            *settled = (*settled).max(epoch);
        }
        self.settled.retain(|table, _| loaded.contains_key(table));
        self.settled != before
    }

    /// The server was restarted: what it loaded is not known.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs(epoch: u64) -> BTreeMap<TableId, Epoch> {
        BTreeMap::from([(TableId(uuid::Uuid::nil()), Epoch(epoch))])
    }

    fn queries(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|id| (*id).to_owned()).collect()
    }

    #[test]
    fn an_epoch_settles_when_the_queries_from_before_it_have_ended() {
        let mut settling = Settling::default();
        assert!(settling.is_open(&epochs(1)));
        assert!(settling.look(&epochs(1), &queries(&[])));
        assert!(!settling.is_open(&epochs(1)));
        assert!(!settling.look(&epochs(2), &queries(&["a", "b"])));
        assert_eq!(settling.settled, epochs(1));
        assert!(!settling.look(&epochs(2), &queries(&["b", "c"])), "b began before");
        assert!(settling.look(&epochs(2), &queries(&["c"])), "c began after");
        assert_eq!(settling.settled, epochs(2));
    }

    #[test]
    fn a_query_that_never_ends_keeps_one_note_however_many_topologies_it_sees() {
        let mut settling = Settling::default();
        for epoch in 1..100 {
            settling.look(&epochs(epoch), &queries(&["stuck"]));
        }
        assert_eq!(settling.waiting.len(), 1);
        assert!(settling.settled.is_empty());
        settling.look(&epochs(99), &queries(&[]));
        assert_eq!(settling.settled, epochs(99));
    }

    #[test]
    fn a_table_settles_though_another_ones_topology_is_waited_for() {
        let other = TableId(uuid::Uuid::max());
        let both = |epoch| BTreeMap::from_iter(epochs(1).into_iter().chain([(other, Epoch(epoch))]));
        let mut settling = Settling::default();
        settling.look(&both(1), &queries(&[]));
        settling.look(&both(2), &queries(&["stuck"]));
        assert_eq!(settling.settled, both(1));
        settling.look(&both(2), &queries(&[]));
        assert_eq!(settling.settled, both(2));
    }

    #[test]
    fn a_query_that_never_ends_holds_back_the_epochs_that_came_after_it_began() {
        let mut settling = Settling::default();
        settling.look(&epochs(1), &queries(&[]));
        settling.look(&epochs(2), &queries(&["stuck"]));
        settling.look(&epochs(3), &queries(&["stuck", "x"]));
        settling.look(&epochs(3), &queries(&["stuck"]));
        assert_eq!(settling.settled, epochs(1));
        settling.look(&epochs(3), &queries(&[]));
        assert_eq!(settling.settled, epochs(3));
    }
}
