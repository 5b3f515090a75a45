//! One step of lease, registration and election. Each may be repeated at any time.

use super::super::mirror::View;
use super::standing::Standing;
use crate::adapters::clock::Clock;
use crate::adapters::metadata::keys::Keys;
use crate::adapters::metadata::records::{Leader, Live, Record as _};
use crate::adapters::metadata::{self, Compare, LeaseId, MetaStore, TxnOutcome, Write};
use crate::error::{Coded, Retry};
use crate::model::{Node, NodeId, Term};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Who stands, and with what.
#[derive(Clone)]
pub struct Candidate {
    /// The store.
    pub store: Arc<dyn MetaStore>,
    /// Its keys.
    pub keys: Keys,
    /// What it holds.
    pub view: View,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// This run of the daemon.
    pub incarnation: u64,
    /// How others reach it.
    pub daemon_url: String,
    /// The nodes that it serves; the first is its name in the leader key.
    pub nodes: Vec<Node>,
    /// Length of the lease.
    pub lease_ttl_ms: u64,
}

/// The candidate, shared.
#[derive(Clone)]
pub struct Member(Arc<Candidate>);

impl Member {
    pub(super) fn new(candidate: Candidate) -> Self {
        Self(Arc::new(candidate))
    }

    /// A third of the lease: two renewals may be lost.
    pub(super) fn renew_every_ms(&self) -> u64 {
        (self.0.lease_ttl_ms / 3).max(50)
    }

    /// Now, and the length of the lease, both in milliseconds: what [`Standing`] judges lateness by.
    pub(super) fn time(&self) -> (u64, u64) {
        (self.0.clock.now_ms(), self.0.lease_ttl_ms)
    }

    /// Whether this daemon sees everything that was written before a term began.
    pub(super) fn has_seen(&self, term: Term) -> bool {
        self.0.view.read().revision >= term.0
    }

    /// Whether one of our nodes has lost its liveness.
    pub(super) fn misses_itself(&self, touched: &BTreeSet<NodeId>) -> bool {
        let view = self.0.view.read();
        self.0.nodes.iter().any(|node| touched.contains(&node.id) && !view.is_live(&node.id))
    }
}

/// Lease, then registration, then election. What fails now is tried again with the next step.
pub async fn step(member: Member, before: Standing) -> Standing {
    let me = &member.0;
    let began_ms = me.clock.now_ms();
    let mut now = before.clone();
    match renew(me, before.lease).await {
        Ok(lease) => {
            if before.lease != Some(lease) {
                now = Standing { lease: Some(lease), ..before.without_lease() };
            }
            now.renewed_ms = began_ms;
            register(me, lease, &mut now).await;
            now.term = campaign(me, lease, &now).await;
        }
        Err(metadata::Error::LeaseGone(_)) => {
            tracing::warn!("the lease has expired: taking a new one");
            now = before.without_lease();
        }
        Err(error) => tracing::warn!(%error, "the lease cannot be renewed"),
    }
    now
}

async fn renew(me: &Candidate, lease: Option<LeaseId>) -> Result<LeaseId, metadata::Error> {
    match lease {
        None => me.store.grant_lease(me.lease_ttl_ms).await,
        Some(lease) => me.store.keep_alive(lease).await.map(|()| lease),
    }
}

async fn register(me: &Candidate, lease: LeaseId, standing: &mut Standing) {
    let gone: Vec<NodeId> = {
        let view = me.view.read();
        let seen = |id: &&NodeId| view.complete && !view.is_live(id);
        standing.registered.iter().filter(seen).cloned().collect()
    };
    for id in gone {
        standing.registered.remove(&id);
    }
    for node in &me.nodes {
        if standing.registered.contains(&node.id) {
            continue;
        }
        match register_one(me, lease, node).await {
            Ok(true) => {
                tracing::info!(node = %node.id, "node registered");
                standing.registered.insert(node.id.clone());
            }
            Ok(false) => tracing::warn!(node = %node.id,
                "another daemon (or this one's run before) still holds the node: waiting for its lease to end"),
            Err(error) => tracing::warn!(node = %node.id, %error, "the node cannot be registered"),
        }
    }
}

/// Writes the node's record and its liveness. What the operator set by command stays as it is.
async fn register_one(me: &Candidate, lease: LeaseId, node: &Node) -> Result<bool, metadata::Error> {
    let (key, live_key) = (me.keys.node(&node.id), me.keys.live(&node.id));
    let before = me.store.get(&key).await?;
    let mut record = node.clone();
    if let Some(stored) = before.as_ref().and_then(|pair| Node::decode(&key, &pair.value).ok()) {
        record.state = stored.state;
    }
    let live = Live { node: node.id.clone(), incarnation: me.incarnation, daemon_url: me.daemon_url.clone() };
    if let Some(pair) = me.store.get(&live_key).await? {
        if pair.lease == Some(lease) {
            return Ok(true);
        }
        return Ok(false);
    }
    let unchanged = match &before {
        Some(pair) => Compare::ModifiedAt(key.clone(), pair.mod_revision),
        None => Compare::Absent(key.clone()),
    };
    let writes = vec![
        Write::Put { key, value: record.encode(), lease: None },
        Write::Put { key: live_key.clone(), value: live.encode(), lease: Some(lease) },
    ];
    let outcome = me.store.txn(vec![Compare::Absent(live_key), unchanged], writes).await?;
    Ok(matches!(outcome, TxnOutcome::Committed(_)))
}

/// Takes the vacant seat, or finds out who has it.
async fn campaign(me: &Candidate, lease: LeaseId, standing: &Standing) -> Option<Term> {
    let key = me.keys.leader();
    let held = match me.store.get(&key).await {
        Ok(held) => held,
        Err(error) => {
            tracing::warn!(%error, "cannot see who leads");
            return standing.term;
        }
    };
    if let Some(pair) = held {
        if pair.lease != Some(lease) {
            return None;
        }
        let term = Term(pair.create_revision);
        if standing.given_up < Some(term) {
            // Also how a campaign whose outcome was unknown is found to have been won.
            return Some(term);
        }
        vacate(me, &key, term).await?;
    }
    let first = me.nodes.first()?;
    let leader = Leader { node: first.id.clone(), daemon_url: me.daemon_url.clone() };
    let put = Write::Put { key: key.clone(), value: leader.encode(), lease: Some(lease) };
    match me.store.txn(vec![Compare::Absent(key)], vec![put]).await {
        Ok(TxnOutcome::Committed(revision)) => Some(Term(revision)),
        Ok(TxnOutcome::Refused) => None,
        Err(error) => {
            if error.retry() != Retry::OutcomeUnknown {
                tracing::warn!(%error, "the election failed");
            }
            None
        }
    }
}

/// Takes our own key of a term away that this daemon stepped down from, though the store has kept its lease: the next
/// leader, whoever it is, has a term of its own. `None` if nobody knows whether it is gone.
async fn vacate(me: &Candidate, key: &str, term: Term) -> Option<()> {
    let still = Compare::CreatedAt(key.to_owned(), term.0);
    match me.store.txn(vec![still], vec![Write::Delete(key.to_owned())]).await {
        Ok(_) => Some(()),
        Err(error) => {
            tracing::warn!(%error, term = term.0, "the seat that was left cannot be vacated");
            None
        }
    }
}

/// Ends the lease, and with it liveness and leadership.
pub async fn resign(member: &Member, standing: &Standing) {
    if let Some(lease) = standing.lease
        && let Err(error) = member.0.store.revoke_lease(lease).await
    {
        tracing::warn!(%error, "the lease could not be ended: it will expire by itself");
    }
}

#[cfg(test)]
#[path = "step_tests.rs"]
mod tests;
