//! The store in one file, for one process: standalone mode, demos, laptops.
//!
//! Everything is kept in memory as well ([`State`](super::state)), read from the file once at the start. A write is
//! planned, made durable in the file ([`file`](super::file)) and only then shown and answered; so an answered write
//! survives a `kill -9` at any moment, and nothing that was seen is taken back.
//!
//! - Leases are kept with their time to live. After a restart each gets its whole time once more, then ends.
//!   Renewals are not written down. The same after the file had failed and is opened again.
//! - History is kept in memory only: a watch from before the start of the process is told
//!   [`Error::Compacted`](super::Error).
//! - If the file fails during a write (disk full), that write's outcome is unknown; the next call opens the file
//!   again, sees which it was, and goes on.

use super::expiry::{Driver, Expiring, lease_added};
use super::file::{Loaded, StoreFile};
use super::state::{Commit, Plan, State, WatcherId};
use super::{Compare, Error, KeyValue, LeaseId, MetaStore, Revision, TxnOutcome, WatchBatch, Write};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long the file may still be in use when it is opened.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(1);

/// A handle on the store in a file. Clones share it; the file is released when the last one (and the last watch) goes.
#[derive(Clone)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// Held through a whole write: there is one at a time, and the state changes only under it.
    disk: Mutex<Disk>,
    /// Held for moments only, also by readers.
    state: Mutex<State>,
    driver: Driver,
}

struct Disk {
    /// `None` after a failed write, until it could be opened again.
    file: Option<StoreFile>,
    /// What the failed write would have done, if it was made.
    in_doubt: Option<Commit>,
    last_lease: i64,
}

impl EmbeddedStore {
    /// Opens the file, or makes a new one (with its folder) if there is none.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it open, [`Error::Damaged`] if it is none of ours or broken,
    /// [`Error::Unreachable`] if the operating system refuses.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let (path, now) = (path.as_ref().to_owned(), Instant::now());
        let shared = blocking(move || {
            let (file, loaded) = open_patiently(&path)?;
            let Loaded { revision, last_lease, keys, leases } = loaded;
            let state = Mutex::new(State::restored(revision, keys, leases, now));
            let disk = Mutex::new(Disk { file: Some(file), in_doubt: None, last_lease });
            Ok(Arc::new(Shared { path, disk, state, driver: Driver::default() }))
        });
        let shared = shared.await?;
        lease_added(&shared);
        Ok(Self { shared })
    }

    /// Forgets the history up to and including the revision (the file holds none).
    pub fn compact(&self, revision: Revision) {
        self.shared.state().compact(revision);
    }

    /// Reads the state, after leases whose time is up have been ended.
    async fn read<T>(&self, read: impl FnOnce(&mut State) -> T) -> Result<T, Error> {
        self.expire_due().await?;
        Ok(read(&mut self.shared.state()))
    }

    async fn expire_due(&self) -> Result<(), Error> {
        let now = Instant::now();
        if self.shared.state().due(now).is_none() {
            return Ok(());
        }
        let shared = self.shared.clone();
        blocking(move || shared.expire_until(now)).await
    }

    /// Runs a write on a thread that may wait for the disk. It runs to its end even if nobody waits any more.
    async fn write<T: Send + 'static>(
        &self,
        write: impl FnOnce(&Shared, &mut Disk) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let (shared, now) = (self.shared.clone(), Instant::now());
        let run = move || {
            shared.expire_until(now)?;
            let mut disk = shared.disk();
            shared.recover(&mut disk)?;
            write(&shared, &mut disk)
        };
        blocking(run).await
    }
}

/// A predecessor that is just ending may have the file for a moment yet.
fn open_patiently(path: &Path) -> Result<(StoreFile, Loaded), Error> {
    const PAUSE: Duration = Duration::from_millis(20);
    for _ in 0..PREDECESSOR_PATIENCE.as_millis() / PAUSE.as_millis() {
        match StoreFile::open(path) {
            Err(Error::InUse { .. }) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    StoreFile::open(path)
}

/// Where redb is called: it waits for the disk. A panic in it means that the file made no sense to it.
async fn blocking<T: Send + 'static>(
    run: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(run).await {
        Ok(done) => done,
        Err(error) => Err(Error::OutcomeUnknown(format!("the file's thread ended: {error}"))),
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After a failed write: opens the file again and settles what became of that write.
    fn recover(&self, disk: &mut Disk) -> Result<(), Error> {
        if disk.file.is_some() {
            return Ok(());
        }
        let (file, loaded) = StoreFile::reopen(&self.path)?;
        let mut state = self.state();
        if let Some(commit) = disk.in_doubt.take() {
            let ended = commit.ended_lease.is_some_and(|lease| !loaded.leases.contains_key(&lease));
            if ended || (!commit.changes.is_empty() && loaded.revision == commit.revision) {
                state.apply(commit);
            }
        }
        if loaded.revision != state.revision() {
            let path = self.path.display().to_string();
            let reason = format!("it holds revision {}, expected {}", loaded.revision, state.revision());
            return Err(Error::Damaged { path, reason });
        }
        // While the file could not be had no lease that was due could be renewed either.
        state.renew_all(Instant::now());
        tracing::info!(path = %self.path.display(), revision = loaded.revision, "metadata file opened again");
        disk.last_lease = disk.last_lease.max(loaded.last_lease);
        disk.file = Some(file);
        Ok(())
    }

    /// Makes a planned commit durable, then shows it. The disk must be held since before it was planned.
    fn commit(&self, disk: &mut Disk, commit: Commit) -> Result<(), Error> {
        if commit.changes.is_empty() && commit.ended_lease.is_none() {
            return Ok(());
        }
        let file = disk.file.as_mut().expect("recovered before every write");
        if let Err(error) = file.write(&commit) {
            tracing::warn!(path = %self.path.display(), %error, "metadata file failed");
            disk.file = None;
            disk.in_doubt = Some(commit);
            return Err(error);
        }
        self.state().apply(commit);
        Ok(())
    }

    fn expire_until(&self, now: Instant) -> Result<(), Error> {
        let mut disk = self.disk();
        while self.state().due(now).is_some() {
            // A failed write may have been that very end, or have put more keys on the lease: that is settled first.
            self.recover(&mut disk)?;
            let Some(commit) = self.state().begin_end(now) else { break };
            self.commit(&mut disk, commit)?;
        }
        Ok(())
    }
}

impl Expiring for Shared {
    fn next_expiry(&self) -> Option<Instant> {
        self.state().next_expiry()
    }

    fn expire(self: Arc<Self>) -> BoxFuture<'static, ()> {
        let now = Instant::now();
        async move {
            if let Err(error) = blocking(move || self.expire_until(now)).await {
                // Every call tries again first, so nobody sees a key that should be gone.
                tracing::warn!(%error, "a lease could not be ended");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        .boxed()
    }

    fn driver(&self) -> &Driver {
        &self.driver
    }
}

#[async_trait]
impl MetaStore for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.read(|state| state.get(key)).await
    }

    async fn range(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), Error> {
        self.read(|state| (state.revision(), state.range(prefix))).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, Error> {
        let write = move |shared: &Shared, disk: &mut Disk| {
            let plan = shared.state().plan(&compares, &writes)?;
            match plan {
                Plan::Refused => Ok(TxnOutcome::Refused),
                Plan::Commit(commit) => {
                    let revision = commit.revision;
                    shared.commit(disk, commit)?;
                    Ok(TxnOutcome::Committed(revision))
                }
            }
        };
        self.write(write).await
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, Error> {
        let now = Instant::now();
        let grant = move |shared: &Shared, disk: &mut Disk| {
            // A number is never given twice, also if writing it down failed half-way.
            disk.last_lease += 1;
            let lease = LeaseId(disk.last_lease);
            let file = disk.file.as_mut().expect("recovered before every write");
            if let Err(error) = file.add_lease(lease, ttl_ms) {
                disk.file = None;
                return Err(error);
            }
            shared.state().grant(lease, Duration::from_millis(ttl_ms), now);
            Ok(lease)
        };
        let lease = self.write(grant).await?;
        lease_added(&self.shared);
        Ok(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.read(|state| state.renew(lease, Instant::now())).await?
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let revoke = move |shared: &Shared, disk: &mut Disk| {
            let plan = shared.state().plan_end(lease);
            plan.map_or(Ok(()), |commit| shared.commit(disk, commit))
        };
        self.write(revoke).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<BoxStream<'static, Result<WatchBatch, Error>>, Error> {
        let id = self.read(|state| state.watch(prefix, from)).await??;
        let watch = Watch { id, shared: self.shared.clone() };
        Ok(futures::stream::poll_fn(move |cx| watch.shared.state().poll(watch.id, cx)).boxed())
    }
}

/// Unregisters a watcher when its stream is dropped.
struct Watch {
    id: WatcherId,
    shared: Arc<Shared>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.state().unwatch(self.id);
    }
}

#[cfg(test)]
#[path = "embedded_tests.rs"]
mod tests;
