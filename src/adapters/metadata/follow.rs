//! Keeps a copy of a prefix current, whatever happens to the connection: range, then watch, again where it broke.
//!
//! What a caller applies in order to a map is, at each revision told, exactly what the store held at that revision:
//! no change is missed, none is told twice. A broken watch goes on after the last revision told; only if that part of
//! history is gone, a new snapshot comes.

use super::{Error, MetaStore, Revision, Update, WatchBatch};
use crate::error::{Code, Coded};
use futures::stream::{self, BoxStream, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The first pause after a failure; each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(3);

/// Follows everything under the prefix. The stream never ends by itself.
///
/// First comes [`Update::Snapshot`] (or [`Update::Unreachable`], then it). [`Update::Unreachable`] comes once an
/// outage, and again if its reason becomes another; the next update of another kind ends the outage, if need be with
/// [`Update::Changes`] that hold none.
pub fn follow(store: Arc<dyn MetaStore>, prefix: String) -> BoxStream<'static, Update> {
    let follower = Follower { store, prefix, stage: Stage::Read, failures: 0, told_outage: None };
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
}

struct Follower {
    store: Arc<dyn MetaStore>,
    prefix: String,
    stage: Stage,
    /// In a row, for the back-off.
    failures: u32,
    /// The outage that was told.
    told_outage: Option<Code>,
}

impl Follower {
    async fn next(&mut self) -> Update {
        loop {
            let update = match &mut self.stage {
                Stage::Read => self.read().await,
                Stage::Resume(told) => {
                    let told = *told;
                    self.resume(told).await
                }
                Stage::Watch(told, watch) => {
                    let (told, item) = (*told, watch.next().await);
                    self.watched(told, item)
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
            Err(Error::Compacted { .. }) => {
                self.stage = Stage::Read;
                None
            }
            Err(error) => self.failed(&error),
        }
    }

    fn watched(&mut self, told: Revision, item: Option<Result<WatchBatch, Error>>) -> Option<Update> {
        match item {
            Some(Ok(mut batch)) => {
                self.reached();
                if let Stage::Watch(told, _) = &mut self.stage {
                    *told = batch.revision.max(*told);
                }
                // No store repeats a change; should one do so all the same, it ends here.
                batch.changes.retain(|change| change.revision() > told);
                (!batch.changes.is_empty()).then_some(Update::Changes(batch))
            }
            Some(Err(Error::Compacted { .. })) => {
                self.stage = Stage::Read;
                None
            }
            // A broken stream is no outage yet: most often another member takes over at once.
            Some(Err(_)) | None => {
                self.stage = Stage::Resume(told);
                self.failures = self.failures.saturating_add(1);
                None
            }
        }
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

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
