//! The store in memory at the far end of a [`Line`]: what one simulated daemon sees of it.

use super::{
    Compare, Error, KeyValue, LeaseId, MemoryStore, MetaStore, Revision, TxnOutcome, WatchBatch, Write,
};
use crate::adapters::faults::{Call, Line, Trouble};
use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};
use std::future::Future;

/// How long a daemon waits for the store's answer, as etcd's client does.
const DEADLINE_MS: u64 = 3_000;

/// See the module.
pub struct FaultyStore {
    store: MemoryStore,
    line: Line,
    unfenced: Option<String>,
}

impl FaultyStore {
    /// The store behind that line.
    pub fn new(store: MemoryStore, line: Line) -> Self {
        Self { store, line, unfenced: None }
    }

    /// Broken on purpose: writes go through without the fence of that leader key. Shows that the simulator would
    /// notice if it were forgotten.
    #[must_use]
    pub fn without_fence(self, leader_key: String) -> Self {
        Self { unfenced: Some(leader_key), ..self }
    }

    async fn ask<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let failed = |_| Error::Unreachable("simulated: no answer".into());
        self.line.carry(Call::asks(verb, DEADLINE_MS), effect, failed).await
    }

    async fn change<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let failed = |trouble| match trouble {
            Trouble::Refused => Error::Unreachable("simulated: no connection".into()),
            Trouble::Lost => Error::OutcomeUnknown("simulated: no answer".into()),
        };
        self.line.carry(Call::changes(verb, DEADLINE_MS), effect, failed).await
    }
}

fn is_fence(compare: &Compare, leader: &str) -> bool {
    matches!(compare, Compare::CreatedAt(key, _) if key == leader)
}

#[async_trait]
impl MetaStore for FaultyStore {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, Error> {
        self.ask("get", self.store.get(key)).await
    }

    async fn range(&self, prefix: &str) -> Result<(Revision, Vec<KeyValue>), Error> {
        self.ask("range", self.store.range(prefix)).await
    }

    async fn txn(&self, compares: Vec<Compare>, writes: Vec<Write>) -> Result<TxnOutcome, Error> {
        let compares = match &self.unfenced {
            Some(leader) => compares.into_iter().filter(|compare| !is_fence(compare, leader)).collect(),
            None => compares,
        };
        let write = async {
            let outcome = self.store.txn(compares, writes).await;
            if let Ok(TxnOutcome::Committed(revision)) = outcome {
                self.line.wrote(revision);
            }
            outcome
        };
        self.change("txn", write).await
    }

    async fn grant_lease(&self, ttl_ms: u64) -> Result<LeaseId, Error> {
        self.change("grant_lease", self.store.grant_lease(ttl_ms)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask("keep_alive", self.store.keep_alive(lease)).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), Error> {
        self.change("revoke_lease", self.store.revoke_lease(lease)).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> Result<BoxStream<'static, Result<WatchBatch, Error>>, Error> {
        let changes = self.ask("watch", self.store.watch(prefix, from)).await?;
        let (line, cut) = (self.line.clone(), self.line.clone());
        let delayed = changes.then(move |batch| {
            let line = line.clone();
            async move {
                line.delay().await;
                batch
            }
        });
        // A connection that breaks ends the stream; what was on its way is lost with it.
        Ok(delayed.take_until(async move { cut.until_cut().await }).boxed())
    }
}
