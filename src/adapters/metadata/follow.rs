//! Keeps a copy of a prefix current, whatever happens to the connection: range, then watch, again where it broke.
//!
//! What a caller applies in order to a map is, at each revision told, exactly what the store held at that revision:
//! no change is missed, none is told twice. A broken watch goes on after the last revision told; only if that part of
//! history is gone, a new snapshot comes.
//!
//! A watch may also stay open and tell nothing, though there is something to tell: a member whose disk has stalled, a
//! connection of which one end is gone. Where that can be ([`MetaStore::watch_patience`]), a silent watch is compared
//! with the store's newest revision, and everything is read again if it stays behind.

use super::{Change, Error, KeyValue, MetaStore, Revision, Update, WatchBatch};
use crate::error::{Code, Coded};
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The first pause after a failure; each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(3);

/// What a read has seen may still be on its way to the watch for so long.
const ON_ITS_WAY: Duration = Duration::from_secs(3);
/// The longest patience with a silent watch. Each time that everything was read again and nothing had been missed (the
/// newer revisions are of keys outside the prefix) it is twice as long.
const PATIENCE_MAX: Duration = Duration::from_secs(600);

/// Follows everything under the prefix. The stream never ends by itself.
///
/// First comes [`Update::Snapshot`] (or [`Update::Unreachable`], then it). [`Update::Unreachable`] comes once an
/// outage, and again if its reason becomes another; the next update of another kind ends the outage, if need be with
/// [`Update::Changes`] that hold none. A watch that had fallen silent is told as an outage just before the snapshot
/// that ends it.
pub fn follow(store: Arc<dyn MetaStore>, prefix: String) -> BoxStream<'static, Update> {
    let (patience, stage) = (store.watch_patience(), Stage::Read);
    let follower = Follower { store, prefix, stage, failures: 0, told_outage: None, patience, keys: 0 };
    stream::unfold(follower, |mut follower| async move {
        let update = follower.next().await;
        Some((update, follower))
    })
    .boxed()
}

type Watch = BoxStream<'static, Result<WatchBatch, Error>>;

enum Stage {
    /// Nothing is known: range.
    Read,
    /// Everything up to the revision has been told: watch on.
    Resume(Revision),
    /// Watching; everything up to the revision has been told.
    Watch(Revision, Watch),
    /// The watch has told nothing, but the store has come to the second revision.
    Behind(Revision, Revision, Watch),
    /// It stayed behind: range, though something up to the revision was told.
    Doubt(Revision),
    /// Read, and the outage told.
    Found(Revision, Vec<KeyValue>),
}

struct Follower {
    store: Arc<dyn MetaStore>,
    prefix: String,
    stage: Stage,
    /// In a row, for the back-off.
    failures: u32,
    /// The outage that was told.
    told_outage: Option<Code>,
    /// How long the watch may tell nothing.
    patience: Option<Duration>,
    /// How many keys there are by what was told.
    keys: usize,
}

impl Follower {
    async fn next(&mut self) -> Update {
        loop {
            // Without another word from what is done, all is read.
            let update = match std::mem::replace(&mut self.stage, Stage::Read) {
                Stage::Read => self.read().await,
                Stage::Resume(told) => self.resume(told).await,
                Stage::Watch(told, watch) => self.watch(told, watch).await,
                Stage::Behind(told, store, watch) => self.catch_up(told, store, watch).await,
                Stage::Doubt(told) => self.read_again(told).await,
                Stage::Found(revision, all) => {
                    self.stage = Stage::Resume(revision);
                    Some(Update::Snapshot(revision, all))
                }
            };
            if let Some(update) = update {
                return update;
            }
        }
    }

    async fn read(&mut self) -> Option<Update> {
        Self::pause(self.failures).await;
        match self.store.range(&self.prefix).await {
            Ok((revision, all)) => {
                self.reached();
                self.keys = all.len();
                self.stage = Stage::Resume(revision);
                Some(Update::Snapshot(revision, all))
            }
            Err(error) => self.failed(&error),
        }
    }

    async fn resume(&mut self, told: Revision) -> Option<Update> {
        Self::pause(self.failures).await;
        match self.store.watch(&self.prefix, told + 1).await {
            Ok(watch) => {
                self.stage = Stage::Watch(told, watch);
                // The failures are forgotten by the first item only: a watch may open and break at once, for ever.
                let over = self.told_outage.take();
                over.map(|_| Update::Changes(WatchBatch { revision: told, changes: Vec::new() }))
            }
            // All must be read.
            Err(Error::Compacted { .. }) => None,
            Err(error) => self.lost(told, &error),
        }
    }

    async fn watch(&mut self, told: Revision, mut watch: Watch) -> Option<Update> {
        if let Some(item) = hear(&mut watch, self.patience).await {
            return self.watched(told, watch, item);
        }
        // No key is there: the answer is the store's newest revision, and costs nothing else.
        match self.store.range(&format!("{}\u{10FFFF}", self.prefix)).await {
            Ok((revision, _)) if revision > told => {
                self.stage = Stage::Behind(told, revision, watch);
                None
            }
            Ok(_) => {
                self.stage = Stage::Watch(told, watch);
                None
            }
            Err(error) => self.lost(told, &error),
        }
    }

    /// Whether the watch tells by itself what the store has.
    async fn catch_up(&mut self, told: Revision, store: Revision, mut watch: Watch) -> Option<Update> {
        if let Some(item) = hear(&mut watch, Some(ON_ITS_WAY)).await {
            return self.watched(told, watch, item);
        }
        tracing::debug!(told, store, "the watch is silent: reading everything again");
        self.stage = Stage::Doubt(told);
        None
    }

    async fn read_again(&mut self, told: Revision) -> Option<Update> {
        match self.store.range(&self.prefix).await {
            Ok((revision, all)) => {
                self.reached();
                let newer = all.iter().any(|kv| kv.mod_revision > told);
                // If none is newer, those that are there were there; fewer of them means that some went.
                let missed = newer || all.len() != self.keys;
                self.keys = all.len();
                if missed {
                    self.patience = self.store.watch_patience();
                    self.stage = Stage::Found(revision, all);
                    return Some(Update::Unreachable(Error::Silent { told, found: revision }));
                }
                // All that was told is still so: there is nothing to say.
                self.patience = self.patience.map(|patience| (patience * 2).min(PATIENCE_MAX));
                self.stage = Stage::Resume(revision);
                None
            }
            Err(error) => self.lost(told, &error),
        }
    }

    fn watched(
        &mut self,
        told: Revision,
        watch: Watch,
        item: Option<Result<WatchBatch, Error>>,
    ) -> Option<Update> {
        match item {
            Some(Ok(mut batch)) => {
                self.reached();
                self.stage = Stage::Watch(batch.revision.max(told), watch);
                // No store repeats a change; should one do so all the same, it ends here.
                batch.changes.retain(|change| change.revision() > told);
                if batch.changes.is_empty() {
                    return None;
                }
                self.patience = self.store.watch_patience();
                self.count(&batch.changes);
                Some(Update::Changes(batch))
            }
            // All must be read.
            Some(Err(Error::Compacted { .. })) => None,
            // A broken stream is no outage yet: most often another member takes over at once.
            Some(Err(_)) | None => {
                self.stage = Stage::Resume(told);
                self.failures = self.failures.saturating_add(1);
                None
            }
        }
    }

    fn count(&mut self, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Put(kv) if kv.create_revision == kv.mod_revision => self.keys += 1,
                Change::Put(_) => {}
                Change::Delete { .. } => self.keys = self.keys.saturating_sub(1),
            }
        }
    }

    /// Everything up to the revision was told, and for now there is no more to be had.
    fn lost(&mut self, told: Revision, error: &Error) -> Option<Update> {
        self.stage = Stage::Resume(told);
        self.failed(error)
    }

    fn reached(&mut self) {
        self.failures = 0;
        self.told_outage = None;
    }

    fn failed(&mut self, error: &Error) -> Option<Update> {
        self.failures = self.failures.saturating_add(1);
        let before = self.told_outage.replace(error.code());
        (before != self.told_outage).then(|| Update::Unreachable(error.clone()))
    }

    /// No pause at first, none after the first failure; then longer and longer ones.
    async fn pause(failures: u32) {
        if let Some(doublings) = failures.checked_sub(2) {
            let factor = 1u32 << doublings.min(10);
            sleep((BACK_OFF_MIN * factor).min(BACK_OFF_MAX)).await;
        }
    }
}

/// The next item of a watch; `None` if it says nothing for too long.
async fn hear(watch: &mut Watch, patience: Option<Duration>) -> Option<Option<Result<WatchBatch, Error>>> {
    match patience {
        Some(patience) => timeout(patience, watch.next()).await.ok(),
        None => Some(watch.next().await),
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
