//! The store in memory, with faults on demand: for tests and for the simulator.
//!
//! Deterministic: ordered maps only, `tokio`'s clock only, no thread. Nothing survives the process.

use super::expiry::{Driver, Expiring, lease_added};
use super::state::{Plan, State, WatcherId};
use super::{Compare, Error, KeyValue, LeaseId, MetaStore, Revision, TxnOutcome, WatchBatch, Write};
use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// A handle on a store in memory. Clones share the store and the faults; [`MemoryStore::client`] shares the store only.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    faults: Faults,
    watch_patience: Option<Duration>,
}

struct Shared {
    state: Mutex<State>,
    last_lease: Mutex<i64>,
    driver: Driver,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        let (state, last_lease) = (Mutex::default(), Mutex::new(0));
        let shared = Arc::new(Shared { state, last_lease, driver: Driver::default() });
        Self { faults: Faults::new(&shared), shared, watch_patience: None }
    }

    /// The same store, whose watches may fall silent ([`Faults::mute_watches`]): see [`MetaStore::watch_patience`].
    #[must_use]
    pub fn with_watch_patience(self, patience: Duration) -> Self {
        Self { watch_patience: Some(patience), ..self }
    }

    /// The same store as seen by somebody else: with faults of its own, none yet.
    pub fn client(&self) -> Self {
        let (shared, faults) = (self.shared.clone(), Faults::new(&self.shared));
        Self { shared, faults, watch_patience: self.watch_patience }
    }

    /// The faults of this handle and its clones.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Forgets the history up to and including the revision; watches that start there end with `Compacted`.
    pub fn compact(&self, revision: Revision) {
        self.shared.state().compact(revision);
    }

    /// The newest revision, without I/O or faults: for checks of the simulator.
    pub fn revision(&self) -> Revision {
        self.shared.state().revision()
    }

    /// Everything under the prefix, without I/O or faults: for checks of the simulator.
    pub fn peek(&self, prefix: &str) -> Vec<KeyValue> {
        self.shared.now().range(prefix)
    }

    async fn call<T>(&self, run: impl FnOnce(&mut State) -> Result<T, Error>) -> Result<T, Error> {
        let pause_ms = self.faults.start().await?;
        let result = run(&mut self.shared.now());
        self.faults.end(pause_ms).await.map_err(Error::Unreachable)?;
        result
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state with all leases ended whose time is up.
    fn now(&self) -> MutexGuard<'_, State> {
        let (mut state, now) = (self.state(), Instant::now());
        while let Some(commit) = state.due(now).and_then(|lease| state.plan_end(lease)) {
            state.apply(commit);
        }
        state
    }
}

impl Expiring for Shared {
    fn next_expiry(&self) -> Option<Instant> {
        self.state().next_expiry()
    }

    fn expire(self: Arc<Self>) -> BoxFuture<'static, ()> {
        drop(self.now());
        futures::future::ready(()).boxed()
    }

    fn driver(&self) -> &Driver {
        &self.driver
    }
}

#[async_trait]
impl MetaStore for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.call(|state| Ok(state.get(key))).await
    }

    async fn range(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), Error> {
        self.call(|state| Ok((state.revision(), state.range(prefix)))).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, Error> {
        let pause_ms = self.faults.start().await?;
        let lost = self.faults.take_lost_answer();
        if lost == Some(false) {
            return Err(Error::OutcomeUnknown("injected: request lost".to_owned()));
        }
        let outcome = {
            let mut state = self.shared.now();
            match state.plan(&compares, &writes)? {
                Plan::Refused => TxnOutcome::Refused,
                Plan::Commit(commit) => {
                    let revision = commit.revision;
                    state.apply(commit);
                    TxnOutcome::Committed(revision)
                }
            }
        };
        self.faults.end(pause_ms).await.map_err(Error::OutcomeUnknown)?;
        match lost {
            Some(_) => Err(Error::OutcomeUnknown("injected: answer lost".to_owned())),
            None => Ok(outcome),
        }
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, Error> {
        let lease = {
            let mut last = self.shared.last_lease.lock().unwrap_or_else(PoisonError::into_inner);
            *last += 1;
            LeaseId(*last)
        };
        let ttl = Duration::from_millis(ttl_ms);
        let granted = self.call(|state| {
            state.grant(lease, ttl, Instant::now());
            Ok(lease)
        });
        let granted = granted.await;
        // Also when the answer was lost: the lease is there and must end.
        lease_added(&self.shared);
        granted
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.call(|state| state.renew(lease, Instant::now())).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        let end = |state: &mut State| {
            if let Some(commit) = state.plan_end(lease) {
                state.apply(commit);
            }
            Ok(())
        };
        self.call(end).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<BoxStream<'static, Result<WatchBatch, Error>>, Error> {
        let register = |state: &mut State| {
            let id = state.watch(prefix, from)?;
            self.faults.lock().watches.insert(id);
            Ok(Watch { id, shared: self.shared.clone(), faults: self.faults.clone() })
        };
        let watch = self.call(register).await?;
        let poll = move |cx: &mut Context<'_>| {
            if watch.faults.lock().muted.contains(&watch.id) {
                return Poll::Pending;
            }
            watch.shared.state().poll(watch.id, cx)
        };
        Ok(futures::stream::poll_fn(poll).boxed())
    }

    fn watch_patience(&self) -> Option<Duration> {
        self.watch_patience
    }
}

/// Unregisters a watcher when its stream is dropped.
struct Watch {
    id: WatcherId,
    shared: Arc<Shared>,
    faults: Faults,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.faults.forget(self.id);
        self.shared.state().unwatch(self.id);
    }
}

/// What goes wrong for one handle, on demand.
#[derive(Clone)]
pub struct Faults {
    plan: Arc<Mutex<FaultPlan>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct FaultPlan {
    down: bool,
    fail: u32,
    lose_committed: u32,
    lose_uncommitted: u32,
    latency_ms: u64,
    watches: BTreeSet<WatcherId>,
    muted: BTreeSet<WatcherId>,
}

impl Faults {
    fn new(shared: &Arc<Shared>) -> Self {
        Self { plan: Arc::default(), shared: shared.clone() }
    }

    /// The next `calls` calls fail as [`Error::Unreachable`] and do nothing.
    pub fn fail_next(&self, calls: u32) {
        self.lock().fail = calls;
    }

    /// While `true`: every call fails as [`Error::Unreachable`] (one under way, if it writes, as
    /// [`Error::OutcomeUnknown`]); running watches break.
    pub fn set_unreachable(&self, down: bool) {
        self.lock().down = down;
        if down {
            self.end_watches(Some(&Error::Unreachable("injected: cut off".to_owned())));
        }
    }

    /// The next `transactions` are made, but answered by [`Error::OutcomeUnknown`].
    pub fn lose_answers_committed(&self, transactions: u32) {
        self.lock().lose_committed = transactions;
    }

    /// The next `transactions` are not made, and answered by [`Error::OutcomeUnknown`].
    pub fn lose_answers_uncommitted(&self, transactions: u32) {
        self.lock().lose_uncommitted = transactions;
    }

    /// Breaks the watches of this handle: they end without an error, as broken connections do.
    pub fn drop_watches(&self) {
        self.end_watches(None);
    }

    /// The running watches of this handle tell nothing any more and do not end, as those of a member that has stalled.
    pub fn mute_watches(&self) {
        let mut plan = self.lock();
        plan.muted = plan.watches.clone();
    }

    /// Those that were muted tell what they have not told.
    pub fn unmute_watches(&self) {
        self.lock().muted.clear();
    }

    fn forget(&self, watch: WatcherId) {
        let mut plan = self.lock();
        plan.watches.remove(&watch);
        plan.muted.remove(&watch);
    }

    /// Every call takes so long: half of it before the effect, half after.
    pub fn set_latency_ms(&self, latency_ms: u64) {
        self.lock().latency_ms = latency_ms;
    }

    fn end_watches(&self, error: Option<&Error>) {
        let watches = self.lock().watches.clone();
        let mut state = self.shared.state();
        for id in watches {
            state.end_watch(id, error.cloned());
        }
    }

    /// A request's way to the store. Returns how long the answer's way takes, in milliseconds.
    async fn start(&self) -> Result<u64, Error> {
        let latency_ms = self.lock().latency_ms;
        if latency_ms > 0 {
            sleep(Duration::from_millis(latency_ms / 2)).await;
        }
        let mut plan = self.lock();
        if plan.down || plan.fail > 0 {
            plan.fail = plan.fail.saturating_sub(1);
            return Err(Error::Unreachable("injected: no connection".to_owned()));
        }
        Ok(latency_ms - latency_ms / 2)
    }

    /// The answer's way back.
    async fn end(&self, pause_ms: u64) -> Result<(), String> {
        if pause_ms > 0 {
            sleep(Duration::from_millis(pause_ms)).await;
        }
        if self.lock().down { Err("injected: connection lost".to_owned()) } else { Ok(()) }
    }

    /// Whether this transaction's answer is lost, and if so whether it is made.
    fn take_lost_answer(&self) -> Option<bool> {
        let mut plan = self.lock();
        if plan.lose_committed > 0 {
            plan.lose_committed -= 1;
            return Some(true);
        }
        if plan.lose_uncommitted > 0 {
            plan.lose_uncommitted -= 1;
            return Some(false);
        }
        None
    }

    fn lock(&self) -> MutexGuard<'_, FaultPlan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[path = "memory_tests.rs"]
mod tests;
