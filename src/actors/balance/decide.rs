//! Which operations keep the cluster in balance: the leader's decisions for all tables together.
//!
//! Pure. What the records, the open operations and the heartbeats say becomes placement's snapshot, in which work in
//! flight counts once; what placement proposes becomes operations, as many at once as the limits allow. C9: when
//! nodes have joined and a table has too few shards to go round, its shards are split first.

use super::copies::Copies;
use super::{rooms, weights};
use crate::model::balance::{BalanceRules, SplitAt};
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::observed::{Heartbeat, answers, told};
use crate::model::operation::{Kind, Operation, State};
use crate::model::shared::Shared;
use crate::model::table::{ReplicaState, Shard, ShardState, Table, TableState};
use crate::model::view::ClusterView;
use crate::placement::{
    ClusterAction, ClusterStep, Limits, Load, NodeView, Proposal, ReplicaView, ShardView, Snapshot,
    WaveLimits,
};
use std::collections::BTreeMap;

/// Leaderships that change hands in one round at most.
const LEADS_MAX: usize = 30;
/// Tables' shards that are split in one round at most.
const SPLITS_MAX: usize = 40;

/// What is known besides the records.
#[derive(Clone, Copy)]
pub struct Sight<'a> {
    /// The records.
    pub view: &'a ClusterView,
    /// The newest heartbeats.
    pub heartbeats: &'a BTreeMap<NodeId, Shared<Heartbeat>>,
    /// Nodes that have been down for so long that their replicas are rebuilt elsewhere.
    pub lost: &'a dyn Fn(&NodeId) -> bool,
    /// The wall clock, for pauses and freezes.
    pub now_unix_ms: u64,
    /// Broken on purpose: see [`LeftOut::InFlight`].
    ///
    /// [`LeftOut::InFlight`]: crate::actors::table::decide::LeftOut::InFlight
    pub forgets: bool,
}

impl<'a> Sight<'a> {
    /// The operations that are under way.
    pub(super) fn under_way(&self) -> impl Iterator<Item = &'a Operation> {
        let forgets = self.forgets;
        self.view.open_operations().filter(move |_| !forgets)
    }

    /// Whether one of them concerns a shard.
    pub(super) fn touched(&self, table: TableId, shard: ShardId) -> bool {
        self.under_way().any(|operation| operation.table == table && operation.kind.touches(shard))
    }

    /// Whether a shard is paused or frozen: nothing is begun by itself there.
    fn held(&self, shard: &Shard) -> bool {
        self.view.held(shard.table, shard.id, self.now_unix_ms).is_some()
    }
}

/// Why nothing may be decided yet; `None` if all that live have reported.
pub fn blind(sight: &Sight<'_>) -> Option<String> {
    let view = sight.view;
    if !view.complete {
        return Some("the records are not known yet".to_owned());
    }
    let silent = view.live.keys().find(|node| !sight.heartbeats.contains_key(*node));
    if let Some(node) = silent {
        return Some(format!("node {node} has not reported yet"));
    }
    let creating = view.tables.values().find(|table| table.record.state == TableState::Creating);
    creating.map(|table| format!("table {} is being created", table.record.name))
}

/// How long a shard whose split was given up is not split again by itself; twice as long each further time.
const AGAIN_MS: u64 = 10 * 60_000;
/// So long at most.
const AGAIN_MS_MAX: u64 = 6 * 3_600_000;

/// Until when shards whose splits were given up are not split again, as far as the records still tell.
fn put_off(view: &ClusterView) -> BTreeMap<(TableId, ShardId), u64> {
    let ended = view.operations.values().map(|operation| &operation.record);
    let mut given_up: BTreeMap<(TableId, ShardId), (u32, u64)> = BTreeMap::new();
    for operation in ended.filter(|operation| matches!(operation.state, State::Cancelled | State::Failed)) {
        if let Kind::Split { shard, .. } = operation.kind {
            let (times, last) = given_up.entry((operation.table, shard)).or_default();
            (*times, *last) = (*times + 1, (*last).max(operation.ended_unix_ms));
        }
    }
    let until = |(times, last): (u32, u64)| last + (AGAIN_MS << (times - 1).min(10)).min(AGAIN_MS_MAX);
    given_up.into_iter().map(|(shard, given_up)| (shard, until(given_up))).collect()
}

/// Whether time alone will let a shard be split that may not be now.
pub fn waits_to_split(view: &ClusterView, now_unix_ms: u64) -> bool {
    put_off(view)
        .into_iter()
        .any(|((table, shard), until)| until > now_unix_ms && view.shard(table, shard).is_some())
}

/// Shards to be split, by table, because nodes have joined or a shard has grown.
pub fn splits(sight: &Sight<'_>, rules: &BalanceRules) -> Vec<(TableId, ShardId)> {
    let view = sight.view;
    let active = |node: &NodeId| {
        is_up(sight, node) && view.nodes.get(node).is_some_and(|n| n.record.state == NodeState::Active)
    };
    let nodes = view.nodes.keys().filter(|node| active(node)).count();
    let (mut splits, put_off) = (Vec::new(), put_off(view));
    for (id, table) in view.tables.iter().filter(|(_, table)| table.record.state == TableState::Active) {
        let wanted = wanted_shards(&table.record, nodes, rules);
        let shards: Vec<&Shard> = view.shards_of(*id).filter(|s| s.state == ShardState::Serving).collect();
        let grown =
            |shard: &&&Shard| rules.split_above_bytes > 0 && bytes(sight, shard) > rules.split_above_bytes;
        let busy = |shard: &&&Shard| {
            let moves = sight.touched(*id, shard.id) || shard.moving().is_some();
            let later = put_off.get(&(*id, shard.id)).is_some_and(|until| *until > sight.now_unix_ms);
            moves || later || shard.range.width() < 2 || sight.held(shard)
        };
        let few = shards.len() < wanted;
        // A round of splits is of all shards of the widest kind, so that halves stay equal.
        let widest = shards.iter().map(|shard| shard.range.width()).max().unwrap_or(1);
        let chosen = shards
            .iter()
            .filter(|shard| grown(shard) || few && shard.range.width() * 2 > widest)
            .filter(|shard| !busy(shard));
        splits.extend(chosen.map(|shard| (*id, shard.id)));
    }
    splits.truncate(SPLITS_MAX);
    splits
}

/// Where the policy has a shard cut, if not in the middle.
pub fn cut(sight: &Sight<'_>, rules: &BalanceRules, table: TableId, id: ShardId) -> Option<u32> {
    let by_bytes = rules.split_at == SplitAt::Bytes;
    let shard = sight.view.shards.get(&table)?.get(&id).filter(|_| by_bytes)?;
    weights::cut(sight.heartbeats, &shard.record)
}

/// Shards that a table needs for every node to hold its share.
fn wanted_shards(table: &Table, nodes: usize, rules: &BalanceRules) -> usize {
    let replicas = nodes * rules.replicas_per_node_min as usize;
    replicas.div_ceil(table.replicas.max(1) as usize).min(table.partitions as usize)
}

/// The largest that any node reports: copies that are being made are not whole yet.
pub fn bytes(sight: &Sight<'_>, shard: &Shard) -> u64 {
    let of = |node: &NodeId| told(sight.heartbeats, shard, node);
    shard.replicas.iter().filter_map(|replica| of(&replica.node)).map(|seen| seen.bytes).max().unwrap_or(0)
}

/// Whether a node can take copies now: its daemon lives and, as far as is known, so does its server.
pub fn is_up(sight: &Sight<'_>, node: &NodeId) -> bool {
    sight.view.is_live(node) && answers(sight.heartbeats, node)
}

/// The nodes as placement sees them.
pub fn nodes(sight: &Sight<'_>) -> Vec<NodeView> {
    let view = sight.view;
    let ours = |heartbeat: &Heartbeat| -> u64 {
        let held = heartbeat.replicas.iter().flat_map(|(table, shards)| {
            let known = view.shards.get(table);
            shards.iter().filter(move |(id, _)| known.is_some_and(|known| known.get(id).is_some()))
        });
        held.map(|(_, seen)| seen.bytes).sum()
    };
    let node = |record: &crate::model::Node| {
        let lost = (sight.lost)(&record.id);
        let mut node = NodeView::new(record, !lost);
        // One that is down for a while keeps what it has and gets nothing.
        if !is_up(sight, &record.id) && node.state == NodeState::Active {
            node.state = NodeState::Cordoned;
        }
        let seen = sight.heartbeats.get(&record.id).map(|seen| &**seen);
        node.capacity_bytes = rooms::capacity(node.capacity_bytes, seen, seen.map_or(0, ours));
        node
    };
    view.nodes.values().map(|record| node(&record.record)).collect()
}

/// The cluster as the balancer has it planned: a node whose disk is full to the watermark, whoever filled it, keeps
/// what it has and gets nothing.
pub fn snapshot(sight: &Sight<'_>) -> Snapshot {
    let mut snapshot = placed(sight);
    for node in snapshot.nodes.iter_mut().filter(|node| node.state == NodeState::Active) {
        let seen = sight.heartbeats.get(&node.id);
        if seen.is_some_and(|seen| rooms::room(seen) == Some(0)) {
            node.state = NodeState::Cordoned;
        }
    }
    snapshot
}

/// The cluster as placement sees it.
pub fn placed(sight: &Sight<'_>) -> Snapshot {
    let view = sight.view;
    let serving = view.all_shards().filter(|shard| shard.state == ShardState::Serving);
    let mut open: BTreeMap<(TableId, ShardId), Vec<&Operation>> = BTreeMap::new();
    for operation in sight.under_way() {
        for id in operation.kind.touched() {
            open.entry((operation.table, id)).or_default().push(operation);
        }
    }
    let open = |shard: &Shard| open.get(&(shard.table, shard.id)).map_or(&[][..], Vec::as_slice);
    Snapshot {
        nodes: nodes(sight),
        shards: serving.filter_map(|record| shard(sight, record, open(record))).collect(),
    }
}

/// A shard as placement sees it, with the operations that are under way on it.
fn shard(sight: &Sight<'_>, shard: &Shard, open: &[&Operation]) -> Option<ShardView> {
    let table = sight.view.tables.get(&shard.table).map(|table| &table.record)?;
    if table.state == TableState::Dropping {
        return None;
    }
    let replica = |replica: &crate::model::Replica| ReplicaView {
        node: replica.node.clone(),
        complete: replica.state != ReplicaState::Creating,
        leaving: false,
    };
    let mut replicas: Vec<ReplicaView> = shard.staying().map(replica).collect();
    let mut frozen = sight.held(shard);
    for operation in open {
        in_flight(operation, &mut replicas, &mut frozen);
    }
    Some(ShardView {
        table: shard.table,
        shard: shard.id,
        // An empty shard is not moved for nothing either.
        load: Load { bytes: bytes(sight, shard).max(1), ..Load::default() },
        replicas_wanted: table.replicas,
        replicas,
        leader: shard.leader.clone(),
        frozen,
        pinned: Vec::new(),
        excluded: Vec::new(),
    })
}

/// What an open operation will have done counts as done, and the shard is left alone.
fn in_flight(operation: &Operation, replicas: &mut Vec<ReplicaView>, frozen: &mut bool) {
    let arrives = |replicas: &mut Vec<ReplicaView>, to: &NodeId| {
        if !replicas.iter().any(|replica| &replica.node == to) {
            replicas.push(ReplicaView { node: to.clone(), complete: false, leaving: false });
        }
    };
    let leaves = |replicas: &mut Vec<ReplicaView>, from: &NodeId| {
        replicas
            .iter_mut()
            .filter(|replica| &replica.node == from)
            .for_each(|replica| replica.leaving = true);
    };
    match &operation.kind {
        Kind::Move { from, to, .. } => {
            arrives(replicas, to);
            leaves(replicas, from);
        }
        Kind::Add { to, .. } => arrives(replicas, to),
        Kind::Remove { from, .. } => leaves(replicas, from),
        Kind::Lead { to, .. } => replicas.sort_by_key(|replica| &replica.node != to),
        Kind::Split { .. } | Kind::Merge { .. } => *frozen = true,
    }
}

/// Work units a replica for one plan; a plan that is not found within them is found by the next ones.
const WORK_PER_REPLICA: u64 = 500;
/// Shares that bytes are looked at in: a shard that grew by less changes no plan worth making.
const BYTE_SHARES: u64 = 200;

/// Work for one plan, by the cluster's size.
fn work(snapshot: &Snapshot) -> u64 {
    let replicas: usize = snapshot.shards.iter().map(|shard| shard.replicas.len()).sum();
    (replicas as u64 * WORK_PER_REPLICA).clamp(2_000, 1_000_000)
}

/// The snapshot with bytes as rough shares of the whole: where two are equal, what could be begun is the same.
pub fn rough(snapshot: &Snapshot) -> Snapshot {
    let total: u64 = snapshot.shards.iter().map(|shard| shard.load.bytes).sum();
    let mut rough = snapshot.clone();
    for shard in &mut rough.shards {
        shard.load.bytes = shard.load.bytes.saturating_mul(BYTE_SHARES) / total.max(1);
    }
    rough
}

/// What is wanted: operations by table, each with its reason.
pub type Wanted = BTreeMap<TableId, Vec<(Kind, String)>>;

/// What a plan may take and what its waves may do, by the cluster's size and rules.
pub fn limits(snapshot: &Snapshot, rules: &BalanceRules) -> Limits {
    let copies = rules.copies_per_node_max.max(1);
    let waves = WaveLimits { copies_in_max: copies, copies_out_max: copies, ..WaveLimits::default() };
    Limits { work: work(snapshot), waves, planner: rules.planner, ..Limits::default() }
}

/// Whether two snapshots differ by nothing but loads and disks: a plan made on one is a plan of the other, as far as
/// there is room when its copies begin.
pub fn same_shape(one: &Snapshot, other: &Snapshot) -> bool {
    let bare = |snapshot: &Snapshot| {
        let mut bare = snapshot.clone();
        bare.shards.iter_mut().for_each(|shard| shard.load = Load::default());
        bare.nodes.iter_mut().for_each(|node| node.capacity_bytes = 0);
        bare
    };
    bare(one) == bare(other)
}

/// The operations to be begun now, of those that placement proposes; `who` says on whose behalf.
pub fn begin(sight: &Sight<'_>, proposal: &Proposal, rules: &BalanceRules, who: &str) -> Wanted {
    let view = sight.view;
    let shard = |table, id| view.shard(table, id);
    let mut copies = Copies::of(rules, sight.under_way(), &shard, &view.live);
    let mut free = free(sight);
    let mut begun = Wanted::new();
    let mut leads = 0;
    for step in proposal.ready() {
        if sight.touched(step.table, step.shard) {
            continue;
        }
        let taken = begun
            .get(&step.table)
            .is_some_and(|kinds| kinds.iter().any(|(kind, _)| kind.touches(step.shard)));
        let Some(kind) = kind(step).filter(|_| !taken) else { continue };
        match kind.target() {
            Some(target) => {
                let Some(shard) = view.shard(step.table, step.shard) else { continue };
                let room = free.get_mut(target);
                if !copies.has_room(shard, target) || room.as_ref().is_some_and(|room| **room < step.bytes) {
                    continue;
                }
                room.into_iter().for_each(|room| *room -= step.bytes);
                copies.count(shard, target);
            }
            None if leads >= LEADS_MAX => continue,
            None => leads += 1,
        }
        let why = proposal.verdict.reasons.get(&(step.table, step.shard));
        let why = why.map_or_else(|| who.to_owned(), |why| format!("{who}: {}", why.code()));
        begun.entry(step.table).or_default().push((kind, why));
    }
    begun
}

fn kind(step: &ClusterStep) -> Option<Kind> {
    let (shard, node) = (step.shard, step.node.clone());
    match (step.action, &step.replaces) {
        (ClusterAction::Add, Some(from)) => Some(Kind::Move { shard, from: from.clone(), to: node }),
        (ClusterAction::Add, None) => Some(Kind::Add { shard, to: node }),
        (ClusterAction::Lead, _) => Some(Kind::Lead { shard, to: node }),
        (ClusterAction::Remove, _) => Some(Kind::Remove { shard, from: node }),
        (ClusterAction::Await, _) => None,
    }
}

/// What disks have room for, when the copies under way have arrived.
pub fn free(sight: &Sight<'_>) -> BTreeMap<NodeId, u64> {
    let mut free = rooms::rooms(sight.heartbeats);
    for operation in sight.under_way() {
        let shard = operation.kind.touched().next().and_then(|id| sight.view.shard(operation.table, id));
        let (Some(target), Some(shard)) = (operation.kind.target(), shard) else { continue };
        let there = told(sight.heartbeats, shard, target).map_or(0, |seen| seen.bytes);
        let to_come = bytes(sight, shard).saturating_sub(there);
        free.entry(target.clone()).and_modify(|room| *room = room.saturating_sub(to_come));
    }
    free
}
