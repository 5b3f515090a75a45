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
            self.newest.clone_from(loaded);
            self.waiting.push((loaded.clone(), running.clone()));
        }
        for (_, queries) in &mut self.waiting {
            queries.retain(|query| running.contains(query));
        }
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
