//! The next step of an operation: the leader's decisions for splits, merges and moves.
//!
//! Pure and level-triggered. How far an operation has come is read off the shards' records, so a step may be asked
//! for any number of times, by any leader; each step is one transaction. What it waits for is said in words, for the
//! operator. No shard's range ever changes (ONE-EPOCH), nothing is removed before enough complete live copies are
//! elsewhere (KEEP-COPIES), and not before nobody can be reading it (RETIRE).

mod relocate;
mod reshape;
#[cfg(test)]
mod tests;

use super::decide::{self, Knowledge, LeftOut, Rules};
use crate::model::ids::{Epoch, NodeId, ShardId};
use crate::model::operation::{Kind, Operation, State, WaitCode};
use crate::model::table::{ReplicaState, Shard, ShardState, Table};

/// The code of what a server says of tables with mutations that are not done; a test compares.
const MUTATING: &str = "CVH-0411";

/// How an operation goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Write this, then ask again.
    Step(Change),
    /// Nothing to be done before this is so.
    Waiting(Wait),
    /// It is over: how, and why if not as wanted.
    Ended(State, String),
}

/// What an operation waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// For programs.
    pub code: WaitCode,
    /// For people: `… to end`, `… to be complete`.
    pub what: String,
}

fn waiting(code: WaitCode, what: impl Into<String>) -> Progress {
    Progress::Waiting(Wait { code, what: what.into() })
}

/// What one step writes, in one transaction.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Change {
    /// New and changed shards.
    pub shards: Vec<Shard>,
    /// Records that go.
    pub delete: Vec<ShardId>,
    /// Nodes whose copies are counted on as one is given up: each must hold its lease as this is written, since what
    /// was seen of it may be old by then, above all by a leader that has just become it (KEEP-COPIES).
    pub counted_on: Vec<NodeId>,
    /// Nodes whose copies are given up since they are down: none may hold a lease as this is written, for the same
    /// reason.
    pub counted_out: Vec<NodeId>,
    /// Routes change: the table's next epoch.
    pub publish: bool,
    /// For the log: one line a change.
    pub reasons: Vec<String>,
}

/// What an operation is decided from.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// Its table.
    pub table: &'a Table,
    /// The table's shards.
    pub shards: &'a [&'a Shard],
    /// All open operations of the table, this one among them, oldest first.
    pub open: &'a [&'a Operation],
    /// What was observed.
    pub known: &'a Knowledge<'a>,
    /// The rules' numbers.
    pub rules: &'a Rules,
}

/// The next step of `operation`.
pub fn advance(operation: &Operation, scene: &Scene<'_>) -> Progress {
    if let Some(wait) = held(operation, scene) {
        return match operation.state {
            State::Cancelling => Progress::Ended(State::Cancelled, operation.outcome.clone()),
            _ => Progress::Waiting(wait),
        };
    }
    let cancel = operation.state == State::Cancelling;
    match &operation.kind {
        Kind::Split { shard, cut, left, right } => {
            reshape::split(scene, cancel, *shard, *cut, [*left, *right])
        }
        Kind::Merge { left, right, into } => reshape::merge(scene, cancel, [*left, *right], *into),
        Kind::Move { shard, from, to } => relocate::move_replica(scene, cancel, *shard, from, to),
        Kind::Add { shard, to } => relocate::add(scene, cancel, *shard, to),
        Kind::Remove { shard, from } => relocate::remove(scene, cancel, *shard, from),
        Kind::Lead { shard, to } => relocate::lead(scene, cancel, *shard, to),
    }
}

/// What keeps an operation from being looked at: an earlier one on the same shard, or a freeze.
pub fn held(operation: &Operation, scene: &Scene<'_>) -> Option<Wait> {
    let earlier = scene.open.iter().take_while(|other| other.id < operation.id);
    let mut shared =
        earlier.filter(|other| operation.kind.shards().iter().any(|shard| other.kind.touches(*shard)));
    if let Some(other) = shared.next() {
        return Some(Wait { code: WaitCode::Turn, what: format!("{} ({}) to end", other.id, other.kind) });
    }
    scene.frozen(operation).map(|what| Wait { code: WaitCode::Frozen, what })
}

/// Why an operation that waits is to be undone: it has taken longer than anything of its size should, since it was last
/// seen to be held. What an operator holds waits for the operator, and what comes after another waits for that.
pub fn expired(operation: &Operation, scene: &Scene<'_>, wait: &Wait) -> Option<String> {
    if operation.state != State::Running || matches!(wait.code, WaitCode::Frozen | WaitCode::Turn) {
        return None;
    }
    let still_ms = scene.known.still_since_ms.get(&operation.id);
    let still_ms = still_ms.map(|since| scene.known.now_ms.saturating_sub(*since));
    if still_ms.is_some_and(|still_ms| still_ms >= scene.rules.standstill_ms_max) {
        let (of, limit_s) = (operation.kind.shards()[0], scene.rules.standstill_ms_max / 1_000);
        return Some(format!(
            "{of} stood still for {limit_s} s where the nodes were done with it; waited for {}",
            wait.what
        ));
    }
    let copied = operation.kind.target().map_or(0, |_| {
        let shards = operation.kind.shards();
        let reports = scene.known.heartbeats.values().filter_map(|h| h.replicas.get(&scene.table.id));
        let seen = reports.flat_map(|replicas| shards.iter().filter_map(|shard| replicas.get(shard)));
        seen.map(|replica| replica.bytes).max().unwrap_or(0)
    });
    let pace = scene.rules.copy_bytes_per_s_min.max(1);
    let copy_ms = copied.saturating_mul(1_000) / pace;
    let deadline_ms = scene.rules.operation_deadline_ms.saturating_add(copy_ms);
    let held_unix_ms = scene.known.held_unix_ms.get(&operation.id).copied().unwrap_or(0);
    let took_ms = scene.known.now_unix_ms.saturating_sub(operation.started_unix_ms.max(held_unix_ms));
    (took_ms >= deadline_ms)
        .then(|| format!("not done within {} min; waited for {}", deadline_ms / 60_000, wait.what))
}

/// The children of a split or merge that are there and not published yet.
fn preparing<'a>(operation: &Operation, scene: &Scene<'a>) -> Vec<&'a Shard> {
    let children = made(&operation.kind).into_iter().filter_map(|id| scene.shard(id));
    children.filter(|child| child.state == ShardState::Preparing).collect()
}

/// Whether there are any.
pub fn is_prepared(operation: &Operation, scene: &Scene<'_>) -> bool {
    !preparing(operation, scene).is_empty()
}

/// Whether a shard stands still for a split or merge on a node where it is read: its agent runs the children and not
/// the shard any more, or says that a child has taken over.
pub fn stands_still(operation: &Operation, scene: &Scene<'_>) -> bool {
    let (children, known) = (preparing(operation, scene), scene.known);
    let stopped = |parent: &Shard, node: &NodeId| {
        let runs = known.heartbeats.get(node).and_then(|seen| seen.replicas.get(&scene.table.id));
        let runs = |shard: &Shard| runs.is_some_and(|runs| runs.contains_key(&shard.id));
        children.iter().any(|child| runs(child)) && !runs(parent)
            || children.iter().any(|child| decide::seen(child, node, known).is_some())
    };
    let parents: Vec<&Shard> = operation.kind.shards().iter().filter_map(|id| scene.shard(*id)).collect();
    parents.iter().any(|parent| scene.ready_live(parent).any(|node| stopped(parent, node)))
}

/// The shards that a split or merge makes.
fn made(kind: &Kind) -> Vec<ShardId> {
    match kind {
        Kind::Split { left, right, .. } => vec![*left, *right],
        Kind::Merge { into, .. } => vec![*into],
        _ => Vec::new(),
    }
}

impl<'a> Scene<'a> {
    fn shard(&self, id: ShardId) -> Option<&'a Shard> {
        self.shards.iter().copied().find(|shard| shard.id == id)
    }

    /// Why an operation stands still: one of its shards is frozen. What is being undone goes on, and so does a split
    /// or merge whose children have been made: messages go to them already, and readers would see ever older rows.
    fn frozen(&self, operation: &Operation) -> Option<String> {
        let made = made(&operation.kind).first().is_some_and(|child| self.shard(*child).is_some());
        if made || operation.state == State::Cancelling {
            return None;
        }
        let shards = operation.kind.shards();
        let frozen = shards.iter().find_map(|id| Some((id, self.known.frozen.get(id)?)));
        frozen.map(|(id, why)| format!("the freeze of {id} to end ({why})"))
    }

    /// A node that certainly cannot serve.
    fn down(&self, node: &NodeId) -> bool {
        decide::down(node, self.known)
    }

    /// Copies that can be read, whose nodes are up and which have not lost their table.
    pub(super) fn ready_live<'s>(&'s self, shard: &'s Shard) -> impl Iterator<Item = &'s NodeId> {
        let bare = |node: &NodeId| decide::bare(self.known.heartbeats, shard, node);
        shard.ready_nodes().filter(move |node| !self.down(node) && !bare(node))
    }

    /// The first topology that a step of now could publish.
    pub(super) fn next_epoch(&self) -> Epoch {
        self.table.epoch.next()
    }

    /// The nodes on which a query that began before `epoch` may still run. A node that has certainly been down for long
    /// does not count: it will load the newest topology before its daemon calls itself up again. One that this leader
    /// does not hear from, though its daemon holds a lease, does (sweep seed 5976).
    pub(super) fn unsettled(&self, epoch: Epoch) -> Vec<&'a NodeId> {
        self.unsettled_within(epoch, self.rules.initiator_grace_ms)
    }

    /// The same, of those that have not been down for so long.
    pub(super) fn unsettled_within(&self, epoch: Epoch, grace_ms: u64) -> Vec<&'a NodeId> {
        let settled = |node: &&NodeId| {
            let heartbeat = self.known.heartbeats.get(*node);
            let settled = heartbeat.and_then(|heartbeat| heartbeat.settled.get(&self.table.id));
            settled.is_some_and(|settled| *settled >= epoch)
        };
        let (dark, now_ms) = (self.known.dark_since_ms, self.known.now_ms);
        let long_dark = |node: &&NodeId| decide::down_for(dark, node, now_ms, grace_ms);
        self.known.registered.iter().filter(|node| !settled(node) && !long_dark(node)).collect()
    }

    /// `None` once nobody can be reading what left the routes with `epoch`.
    fn readers_left(&self, what: &str, epoch: Epoch) -> Option<Progress> {
        if self.rules.left_out == Some(LeftOut::Acknowledgements) {
            return None;
        }
        let nodes = self.unsettled(epoch);
        let names: Vec<&str> = nodes.iter().map(|node| node.as_str()).take(5).collect();
        (!nodes.is_empty()).then(|| {
            let on = names.join(", ");
            waiting(
                WaitCode::Queries,
                format!("queries from before epoch {epoch} that may read {what} on {on}"),
            )
        })
    }

    /// The replicas of a shard that no other change is under way for; else what to wait for.
    fn at_rest(&self, shard: &Shard) -> Option<Progress> {
        let replica = shard.moving()?;
        let what = if replica.state == ReplicaState::Creating { "to be complete" } else { "to be gone" };
        let what = format!("the replica of {} on {} {what}", shard.id, replica.node);
        Some(waiting(WaitCode::ReplicaInFlight, what))
    }

    /// What a node says that keeps it from making a replica, with its code.
    fn problem(&self, shard: ShardId, node: &NodeId) -> Option<(WaitCode, String)> {
        let seen = self.known.heartbeats.get(node)?.replicas.get(&self.table.id)?.get(&shard)?;
        let problem = seen.problem.clone()?;
        // As the node's server told it: the text is for people, its code is for us.
        let code = if problem.contains(MUTATING) { WaitCode::Mutations } else { WaitCode::NodeProblem };
        Some((code, problem))
    }
}

/// The record is gone or not what it should be: nothing can be done, and nothing was lost by it.
fn not_there(shard: ShardId) -> Progress {
    Progress::Ended(State::Failed, format!("shard {shard} is not there any more"))
}

fn step(shards: Vec<Shard>, publish: bool, reason: String) -> Progress {
    Progress::Step(Change { shards, publish, reasons: vec![reason], ..Change::default() })
}
