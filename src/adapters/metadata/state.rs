//! The store's rules as plain data: keys, revisions, leases, history, watchers. What the in-memory store and the
//! embedded one have in common.
//!
//! A write is planned first ([`State::plan`], no change) and applied after ([`State::apply`]), so that the embedded
//! store can make the plan durable in between. Time is an argument; there is no I/O and no lock here.

use super::{Change, Compare, Error, KeyValue, LeaseId, Revision, WatchBatch, Write};
use super::{TXN_BYTES_MAX, TXN_WRITES_MAX};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Changes kept for watches that start in the past; older ones are compacted.
const HISTORY_CHANGES_MAX: usize = 20_000;
/// Changes kept for one slow watcher; beyond, it must read everything again.
const QUEUE_CHANGES_MAX: usize = 200_000;

/// What a transaction would do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// A compare does not hold.
    Refused,
    /// This, which may be nothing.
    Commit(Commit),
}

/// Changes to be made at one revision, in order. Without changes no revision is taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// The state's revision afterwards.
    pub revision: Revision,
    /// What changes.
    pub changes: Vec<Change>,
    /// The lease that ends with it.
    pub ended_lease: Option<LeaseId>,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    expires: Instant,
    keys: BTreeSet<String>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    from: Revision,
    queue: VecDeque<WatchBatch>,
    queued_changes: usize,
    ended: Option<Option<Error>>,
    waker: Option<Waker>,
}

/// A watcher's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct WatcherId(u64);

/// Everything a store knows.
#[derive(Debug, Default)]
pub(super) struct State {
    revision: Revision,
    /// Revisions up to this one cannot be watched any more.
    compacted: Revision,
    keys: BTreeMap<String, KeyValue>,
    leases: BTreeMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
    /// The lease whose end is just being made durable: it can be renewed no more.
    ending: Option<LeaseId>,
    history: VecDeque<WatchBatch>,
    history_changes: usize,
    watchers: BTreeMap<WatcherId, Watcher>,
    /// Watchers by prefix, and how many prefixes there are of each length: a change finds its watchers by a few
    /// look-ups, however many there are.
    prefixes: BTreeMap<String, BTreeSet<WatcherId>>,
    lengths: BTreeMap<usize, usize>,
    last_watcher: u64,
}

impl State {
    /// A state read from disk; its history begins now, its leases get their whole time again.
    pub fn restored(
        revision: Revision,
        keys: BTreeMap<String, KeyValue>,
        leases: impl IntoIterator<Item = (LeaseId, Duration)>,
        now: Instant,
    ) -> Self {
        let mut state = Self { revision, compacted: revision, ..Self::default() };
        for (lease, ttl) in leases {
            state.grant(lease, ttl, now);
        }
        for kv in keys.values() {
            if let Some(lease) = kv.lease.and_then(|lease| state.leases.get_mut(&lease)) {
                lease.keys.insert(kv.key.clone());
            }
        }
        state.keys = keys;
        state
    }

    /// The newest revision.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.keys.get(key).cloned()
    }

    pub fn range(&self, prefix: &str) -> Vec<KeyValue> {
        self.under(prefix).cloned().collect()
    }

    fn under<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a KeyValue> {
        let from = self.keys.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        from.take_while(move |(key, _)| key.starts_with(prefix)).map(|(_, value)| value)
    }

    /// What the transaction would do now. Writes that break a rule are an error even if a compare does not hold.
    pub fn plan(&self, compares: &[Compare], writes: &[Write]) -> Result<Plan, Error> {
        check_request(compares, writes)?;
        if !compares.iter().all(|compare| self.holds(compare)) {
            return Ok(Plan::Refused);
        }
        let revision = self.revision + 1;
        let mut changes = Vec::with_capacity(writes.len());
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    if let Some(gone) = lease.filter(|lease| !self.leases.contains_key(lease)) {
                        return Err(Error::LeaseGone(gone));
                    }
                    let create_revision = self.keys.get(key).map_or(revision, |old| old.create_revision);
                    let (key, value, lease) = (key.clone(), value.clone(), *lease);
                    changes.push(Change::Put(KeyValue {
                        key,
                        value,
                        create_revision,
                        mod_revision: revision,
                        lease,
                    }));
                }
                Write::Delete(key) if self.keys.contains_key(key) => {
                    changes.push(Change::Delete { key: key.clone(), revision });
                }
                Write::Delete(_) => {}
                Write::DeletePrefix(prefix) => changes
                    .extend(self.under(prefix).map(|old| Change::Delete { key: old.key.clone(), revision })),
            }
        }
        let revision = if changes.is_empty() { self.revision } else { revision };
        Ok(Plan::Commit(Commit { revision, changes, ended_lease: None }))
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::CreatedAt(key, at) => self.keys.get(key).is_some_and(|kv| kv.create_revision == *at),
            Compare::ModifiedAt(key, at) => self.keys.get(key).is_some_and(|kv| kv.mod_revision == *at),
        }
    }

    /// What the end of a lease would do; `None` if there is no such lease.
    pub fn plan_end(&self, lease: LeaseId) -> Option<Commit> {
        let revision = self.revision + 1;
        let delete = |key: &String| Change::Delete { key: key.clone(), revision };
        let changes: Vec<Change> = self.leases.get(&lease)?.keys.iter().map(delete).collect();
        let revision = if changes.is_empty() { self.revision } else { revision };
        Some(Commit { revision, changes, ended_lease: Some(lease) })
    }

    /// What the end of the first lease does whose time is up, from now on for certain; `None` if there is none.
    pub fn begin_end(&mut self, now: Instant) -> Option<Commit> {
        let lease = self.due(now)?;
        self.ending = Some(lease);
        self.plan_end(lease)
    }

    /// Makes a planned commit real and tells watchers. The plan must be of this very state.
    pub fn apply(&mut self, commit: Commit) {
        if let Some(lease) = commit.ended_lease.and_then(|lease| Some((lease, self.leases.remove(&lease)?))) {
            self.deadlines.remove(&(lease.1.expires, lease.0));
            self.ending = None;
        }
        if commit.changes.is_empty() {
            return;
        }
        assert_eq!(commit.revision, self.revision + 1, "a plan is applied to the state that it was made of");
        self.revision = commit.revision;
        for change in &commit.changes {
            let (key, new) = match change {
                Change::Put(new) => (&new.key, Some(new.clone())),
                Change::Delete { key, .. } => (key, None),
            };
            let lease = new.as_ref().and_then(|new| new.lease);
            let old = match new {
                Some(new) => self.keys.insert(key.clone(), new),
                None => self.keys.remove(key),
            };
            if let Some(lease) = old.and_then(|old| old.lease).and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.remove(key);
            }
            if let Some(lease) = lease.and_then(|lease| self.leases.get_mut(&lease)) {
                lease.keys.insert(key.clone());
            }
        }
        let batch = WatchBatch { revision: commit.revision, changes: commit.changes };
        self.deliver(&batch);
        self.history_changes += batch.changes.len();
        self.history.push_back(batch);
        while self.history_changes > HISTORY_CHANGES_MAX && self.history.len() > 1 {
            let oldest = self.history[0].revision;
            self.compact(oldest);
        }
    }

    /// Forgets history up to and including `revision`. Watchers that run already are not harmed.
    pub fn compact(&mut self, revision: Revision) {
        let revision = revision.min(self.revision);
        self.compacted = self.compacted.max(revision);
        while self.history.front().is_some_and(|batch| batch.revision <= revision) {
            self.history_changes -= self.history.pop_front().map_or(0, |batch| batch.changes.len());
        }
    }

    // ---- leases

    /// A new lease under the given number.
    pub fn grant(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        let expires = now + ttl;
        self.deadlines.insert((expires, lease));
        self.leases.insert(lease, Lease { ttl, expires, keys: BTreeSet::new() });
    }

    pub fn renew(&mut self, lease: LeaseId, now: Instant) -> Result<(), Error> {
        let ending = self.ending == Some(lease);
        let held = self.leases.get_mut(&lease).filter(|_| !ending).ok_or(Error::LeaseGone(lease))?;
        self.deadlines.remove(&(held.expires, lease));
        held.expires = now + held.ttl;
        self.deadlines.insert((held.expires, lease));
        Ok(())
    }

    /// Gives every lease its whole time again: nobody could renew.
    pub fn renew_all(&mut self, now: Instant) {
        self.ending = None;
        self.deadlines.clear();
        for (id, lease) in &mut self.leases {
            lease.expires = now + lease.ttl;
            self.deadlines.insert((lease.expires, *id));
        }
    }

    /// The first lease whose time is up.
    pub fn due(&self, now: Instant) -> Option<LeaseId> {
        self.deadlines.first().filter(|(expires, _)| *expires <= now).map(|(_, lease)| *lease)
    }

    /// When the next lease ends, unless renewed.
    pub fn next_expiry(&self) -> Option<Instant> {
        self.deadlines.first().map(|(expires, _)| *expires)
    }

    // ---- watches

    /// Registers a watcher and gives it what history holds.
    pub fn watch(&mut self, prefix: &str, from: Revision) -> Result<WatcherId, Error> {
        if from < 1 {
            return Err(Error::Invalid(format!("cannot watch from revision {from}: the first one is 1")));
        }
        if from <= self.compacted {
            return Err(Error::Compacted { oldest: self.compacted + 1 });
        }
        self.last_watcher += 1;
        let id = WatcherId(self.last_watcher);
        let mut watcher = Watcher {
            prefix: prefix.to_owned(),
            from,
            queue: VecDeque::new(),
            queued_changes: 0,
            ended: None,
            waker: None,
        };
        let first = self.history.partition_point(|batch| batch.revision < from);
        for batch in self.history.range(first..) {
            watcher.offer(batch);
        }
        self.watchers.insert(id, watcher);
        let same = self.prefixes.entry(prefix.to_owned()).or_default();
        if same.is_empty() {
            *self.lengths.entry(prefix.len()).or_default() += 1;
        }
        same.insert(id);
        Ok(id)
    }

    /// What a watcher has to tell next.
    pub fn poll(&mut self, id: WatcherId, cx: &Context<'_>) -> Poll<Option<Result<WatchBatch, Error>>> {
        let Some(watcher) = self.watchers.get_mut(&id) else { return Poll::Ready(None) };
        if let Some(batch) = watcher.queue.pop_front() {
            watcher.queued_changes -= batch.changes.len();
            return Poll::Ready(Some(Ok(batch)));
        }
        if let Some(end) = watcher.ended.take() {
            self.unwatch(id);
            return Poll::Ready(end.map(Err));
        }
        watcher.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends a watcher: with an error, or silently as a broken connection does.
    pub fn end_watch(&mut self, id: WatcherId, error: Option<Error>) {
        if let Some(watcher) = self.watchers.get_mut(&id) {
            watcher.end(error);
        }
    }

    /// Forgets a watcher.
    pub fn unwatch(&mut self, id: WatcherId) {
        let Some(watcher) = self.watchers.remove(&id) else { return };
        let Some(same) = self.prefixes.get_mut(&watcher.prefix) else { return };
        same.remove(&id);
        if same.is_empty() {
            self.prefixes.remove(&watcher.prefix);
            let length = watcher.prefix.len();
            if let Some(count) = self.lengths.get_mut(&length) {
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&length);
                }
            }
        }
    }

    fn deliver(&mut self, batch: &WatchBatch) {
        let mut touched = BTreeSet::new();
        for change in &batch.changes {
            let key = change.key();
            let heads =
                self.lengths.keys().map_while(|length| (*length <= key.len()).then(|| key.get(..*length)));
            for prefix in heads.flatten() {
                touched.extend(self.prefixes.get(prefix).into_iter().flatten().copied());
            }
        }
        for id in touched {
            if let Some(watcher) = self.watchers.get_mut(&id) {
                watcher.offer(batch);
            }
        }
    }
}

impl Watcher {
    fn offer(&mut self, batch: &WatchBatch) {
        if batch.revision < self.from || self.ended.is_some() {
            return;
        }
        let mine = batch.changes.iter().filter(|change| change.key().starts_with(&self.prefix));
        let changes: Vec<Change> = mine.cloned().collect();
        if changes.is_empty() {
            return;
        }
        self.queued_changes += changes.len();
        if self.queued_changes > QUEUE_CHANGES_MAX {
            self.queue.clear();
            self.end(Some(Error::Compacted { oldest: batch.revision + 1 }));
            return;
        }
        self.queue.push_back(WatchBatch { revision: batch.revision, changes });
        self.wake();
    }

    fn end(&mut self, error: Option<Error>) {
        self.ended = Some(error);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The limits that every store keeps, so that what runs on one runs on all.
pub(super) fn check_request(compares: &[Compare], writes: &[Write]) -> Result<(), Error> {
    let count = compares.len() + writes.len();
    if count > TXN_WRITES_MAX {
        let reason =
            format!("{count} compares and writes in one transaction, at most {TXN_WRITES_MAX} may be");
        return Err(Error::Invalid(reason));
    }
    let bytes: usize = writes.iter().map(Write::bytes).sum();
    if bytes > TXN_BYTES_MAX {
        let reason = format!("{bytes} bytes in one transaction, at most {TXN_BYTES_MAX} may be");
        return Err(Error::Invalid(reason));
    }
    let mut written = BTreeSet::new();
    for write in writes {
        let key = write.key();
        if key.is_empty() && !matches!(write, Write::DeletePrefix(_)) {
            return Err(Error::Invalid("an empty key".to_owned()));
        }
        if !matches!(write, Write::DeletePrefix(_)) && !written.insert(key) {
            return Err(Error::Invalid(format!("key {key:?} is written twice in one transaction")));
        }
    }
    for (index, write) in writes.iter().enumerate() {
        let Write::DeletePrefix(prefix) = write else { continue };
        let others = writes.iter().enumerate().filter(|(other, _)| *other != index);
        for (_, other) in others {
            let nested = matches!(other, Write::DeletePrefix(_)) && prefix.starts_with(other.key());
            if other.key().starts_with(prefix.as_str()) || nested {
                let key = other.key();
                return Err(Error::Invalid(format!("key {key:?} is written twice in one transaction")));
            }
        }
    }
    Ok(())
}
