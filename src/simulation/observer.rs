//! Follows the store without faults or delay, revision by revision: writes the journal's rows and checks what must
//! hold of every change.

use super::journal::Journal;
use super::rows;
use crate::actors::mirror::read;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::metadata::{Change, MemoryStore, MetaStore, Revision};
use crate::model::view::ClusterView;
use futures::StreamExt;
use std::cell::RefCell;
use std::rc::Rc;

/// The cluster as the store holds it now.
pub type Seen = Rc<RefCell<ClusterView>>;

/// Runs for as long as the store lives.
pub async fn observe(store: MemoryStore, keys: Keys, seen: Seen, journal: Journal) {
    let Ok(mut batches) = store.watch(keys.root(), 1).await else { return };
    seen.borrow_mut().complete = true;
    while let Some(Ok(batch)) = batches.next().await {
        let mut changes = batch.changes.into_iter().peekable();
        while let Some(revision) = changes.peek().map(Change::revision) {
            let mut one = Vec::new();
            while let Some(change) = changes.next_if(|change| change.revision() == revision) {
                one.push(change);
            }
            apply(&keys, &seen, &journal, revision, &one);
        }
    }
}

/// One revision of the store: one step of the cluster.
fn apply(keys: &Keys, seen: &Seen, journal: &Journal, revision: Revision, changes: &[Change]) {
    let mut records = Vec::new();
    for change in changes {
        match read::read(keys, change) {
            Ok(record) => records.extend(record),
            Err(error) => journal.violation("NOT-SILENT", &format!("a record cannot be read: {error}")),
        }
    }
    let before = seen.borrow().clone();
    seen.borrow_mut().apply(revision, records);
    let after = seen.borrow();
    rows::changes(&before, &after).iter().for_each(|row| journal.row(row));
}
