//! The plan for the whole cluster, ahead of time: what the balancer would do, step by step, if nothing else happened.
//!
//! Splits come before moves, so the cluster as it will be after them is made up first, each half with its share of
//! the bytes, and moves are planned on that. Pure; the solving itself is the caller's, who may do it elsewhere.

use super::decide::{self, Sight};
use super::weights;
use crate::actors::leader::operations::split_kind;
use crate::model::balance::{BalanceRules, Cut, PlannedSize};
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::observed::{Heartbeat, ReplicaObservation};
use crate::model::operation::Kind;
use crate::model::plan::{
    self, ClusterPlan, PlanScore, PlannedMove, PlannedSplit, PlannedStay, PlannedStep, StepAction, World,
};
use crate::model::range::PartitionRange;
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState};
use crate::model::view::{ClusterView, Versioned};
use crate::placement::explain::Why;
use crate::placement::objective::Score;
use crate::placement::{ClusterAction, ClusterStep, HeldUp, Move, Proposal, Snapshot};
use std::collections::{BTreeMap, BTreeSet};

/// The cluster as it will be once shards have been split.
pub struct Ahead {
    /// The records.
    view: ClusterView,
    /// The reports.
    heartbeats: BTreeMap<NodeId, Shared<Heartbeat>>,
    /// What is split, in this order.
    pub cuts: Vec<Cut>,
}

impl Ahead {
    /// As it is.
    pub fn now(sight: &Sight<'_>) -> Self {
        Self { view: sight.view.clone(), heartbeats: sight.heartbeats.clone(), cuts: Vec::new() }
    }

    /// After all the splits that the policy asks for. It comes to an end, since each makes ranges narrower.
    pub fn of(sight: &Sight<'_>, rules: &BalanceRules) -> Self {
        let mut ahead = Self::now(sight);
        let mut made = usize::MAX;
        while made != ahead.cuts.len() {
            made = ahead.cuts.len();
            for (table, shard) in decide::splits(&ahead.sight(sight), rules) {
                let at = decide::cut(&ahead.sight(sight), rules, table, shard);
                let kind = split_kind(&ahead.view, (table, shard), at, 0);
                if let Some(Kind::Split { shard, cut, left, right }) = kind {
                    ahead.split(Cut { table, shard, cut, left, right });
                }
            }
        }
        ahead
    }

    /// The made-up cluster in place of the real one.
    fn sight<'a>(&'a self, real: &Sight<'a>) -> Sight<'a> {
        Sight { view: &self.view, heartbeats: &self.heartbeats, ..*real }
    }

    /// The made-up cluster as placement sees it.
    pub fn snapshot(&self, real: &Sight<'_>) -> Snapshot {
        decide::snapshot(&self.sight(real))
    }

    /// Puts a shard's halves in its place; `false` if the shard cannot be cut there, or the numbers are not free.
    pub fn split(&mut self, cut: Cut) -> bool {
        let Some(table) = self.view.tables.get_mut(&cut.table) else { return false };
        let free = cut.left.0 >= table.record.next_shard && cut.right.0 > cut.left.0;
        let shards = self.view.shards.get_mut(&cut.table);
        let Some(shards) = shards.filter(|_| free) else { return false };
        let parent = shards.get(&cut.shard).filter(|shard| shard.record.state == ShardState::Serving);
        let Some(parent) = parent.map(|shard| shard.record.clone()) else { return false };
        let Some((left, right)) = parent.range.split_at(cut.cut) else { return false };
        table.record.next_shard = cut.right.0 + 1;
        shards.remove(&cut.shard);
        for (id, range) in [(cut.left, left), (cut.right, right)] {
            let record = Shard { id, range, parents: vec![parent.id], ..parent.clone() };
            shards.insert(id, Versioned { record, revision: 0 }.into());
        }
        for (id, range) in [(cut.left, left), (cut.right, right)] {
            let part = weights::share(&self.heartbeats, &parent, range);
            self.report(&parent, (id, range), part);
        }
        self.cuts.push(cut);
        true
    }

    /// Each node that holds the parent reports the child with its part of the bytes.
    fn report(
        &mut self,
        parent: &Shard,
        (child, range): (ShardId, PartitionRange),
        (part, whole): (u64, u64),
    ) {
        for heartbeat in self.heartbeats.values_mut() {
            let Some(shards) = heartbeat.replicas.get_mut(&parent.table) else { continue };
            let Some(of) = shards.get(&parent.id) else { continue };
            let bytes = u128::from(of.bytes) * u128::from(part) / u128::from(whole.max(1));
            let bytes = u64::try_from(bytes).unwrap_or(of.bytes);
            // What each partition has taken is kept: the half may be cut again.
            let mut partitions = of.partitions.clone();
            partitions.retain(|partition, _| range.contains(*partition));
            let seen =
                ReplicaObservation { serving: true, bytes, partitions, ..ReplicaObservation::default() };
            shards.insert(child, seen);
        }
    }
}

/// A plan in the making: all that is to be said of the world, before moves are looked for.
pub struct Forecast {
    cluster: String,
    world: World,
    splits: Vec<PlannedSplit>,
    names: BTreeMap<TableId, String>,
    /// Shards that may not move, and why.
    bound: BTreeMap<(TableId, ShardId), (String, String)>,
    /// What moves are looked for on.
    pub snapshot: Snapshot,
}

impl Forecast {
    /// Of the cluster as it is.
    pub fn of(sight: &Sight<'_>, rules: &BalanceRules, cluster: &str) -> Self {
        let ahead = Ahead::of(sight, rules);
        let view = sight.view;
        let names = view.tables.iter().map(|(id, table)| (*id, table.record.name.to_string())).collect();
        let mut forecast = Self {
            cluster: cluster.to_owned(),
            world: World::of(view, sight.now_unix_ms),
            splits: Vec::new(),
            names,
            bound: bound(sight),
            snapshot: ahead.snapshot(sight),
        };
        forecast.splits = ahead.cuts.iter().map(|cut| forecast.named(cut)).collect();
        forecast
    }

    fn name(&self, table: TableId) -> String {
        self.names.get(&table).cloned().unwrap_or_else(|| table.to_string())
    }

    fn named(&self, cut: &Cut) -> PlannedSplit {
        let Cut { table, shard, cut, left, right } = *cut;
        PlannedSplit { table, table_name: self.name(table), shard, cut, left, right }
    }

    /// The plan, with the moves that were found.
    pub fn plan(&self, proposal: &Proposal, now_unix_ms: u64) -> ClusterPlan {
        let verdict = &proposal.verdict;
        let moved: BTreeSet<_> = verdict.moves.iter().map(|m| (m.table, m.shard)).collect();
        let staying = verdict.reasons.iter().filter(|(key, _)| !moved.contains(key));
        let mut stays: Vec<PlannedStay> = staying.map(|(key, why)| self.stay(*key, *why)).collect();
        let left = proposal.left.iter().map(|(table, shard, why)| self.left(*table, *shard, why));
        stays.extend(left);
        ClusterPlan {
            version: plan::VERSION,
            cluster: self.cluster.clone(),
            made_unix_ms: now_unix_ms,
            world: self.world.clone(),
            splits: self.splits.clone(),
            moves: verdict.moves.iter().map(|m| self.planned(m)).collect(),
            steps: proposal.steps.iter().map(step).collect(),
            waves: proposal.waves,
            copies: proposal.steps.iter().filter(|step| step.action == ClusterAction::Add).count() as u64,
            bytes: size(0, proposal).bytes,
            seconds: whole_seconds(proposal.seconds),
            before: score(&verdict.before),
            after: score(&verdict.after),
            bound: verdict.bound,
            gap: verdict.gap,
            stays,
            compromises: verdict.compromises.clone(),
        }
    }

    fn planned(&self, of: &Move) -> PlannedMove {
        PlannedMove {
            table: of.table,
            table_name: self.name(of.table),
            shard: of.shard,
            nodes: of.nodes.clone(),
            add: of.add.clone(),
            remove: of.remove.clone(),
            bytes: of.bytes,
            reason: of.why.code().to_owned(),
        }
    }

    fn stay(&self, (table, shard): (TableId, ShardId), why: Why) -> PlannedStay {
        let own = || (why.code().to_owned(), why.sentence().to_owned());
        let (reason, why) = self.bound.get(&(table, shard)).cloned().unwrap_or_else(own);
        PlannedStay { table, table_name: self.name(table), shard, reason, why }
    }

    /// A shard that does not get all the way.
    fn left(&self, table: TableId, shard: ShardId, why: &HeldUp) -> PlannedStay {
        let (reason, why) = match why {
            HeldUp::NoRoom(node) => {
                ("no_room", format!("no order of steps makes room for it on {node} below the watermark"))
            }
            HeldUp::Needed(node) => {
                ("still_needed", format!("its copy on {node} is needed until others are complete"))
            }
        };
        PlannedStay { table, table_name: self.name(table), shard, reason: reason.to_owned(), why }
    }
}

/// How big a plan is.
pub fn size(splits: usize, proposal: &Proposal) -> PlannedSize {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let bytes = proposal.steps.iter().map(|step| step.bytes).sum();
    PlannedSize { splits: count(splits), moves: count(proposal.verdict.moves.len()), bytes }
}

/// Shards that stay because of an operation under way or a hold, with code and sentence.
fn bound(sight: &Sight<'_>) -> BTreeMap<(TableId, ShardId), (String, String)> {
    let mut bound = BTreeMap::new();
    for shard in sight.view.all_shards() {
        let mut open = sight.view.open_operations();
        let at_work = open.find(|op| op.table == shard.table && op.kind.touches(shard.id));
        let held = sight.view.held(shard.table, shard.id, sight.now_unix_ms);
        let why = match (held, at_work) {
            (Some(hold), _) => (hold.brake.code().to_owned(), hold.reason.clone()),
            (None, Some(op)) => ("in_flight".to_owned(), format!("{} ({}) is under way", op.id, op.kind)),
            (None, None) => continue,
        };
        bound.insert((shard.table, shard.id), why);
    }
    bound
}

fn step(of: &ClusterStep) -> PlannedStep {
    let action = match of.action {
        ClusterAction::Add => StepAction::Add,
        ClusterAction::Await => StepAction::Await,
        ClusterAction::Lead => StepAction::Lead,
        ClusterAction::Remove => StepAction::Remove,
    };
    PlannedStep {
        wave: of.wave,
        table: of.table,
        shard: of.shard,
        action,
        node: of.node.clone(),
        replaces: of.replaces.clone(),
        bytes: of.bytes,
        after: of.after.clone(),
    }
}

fn score(of: &Score) -> PlanScore {
    PlanScore {
        total: of.total,
        replicas: of.replicas,
        leaders: of.leaders,
        bytes: of.bytes,
        moved: of.moved,
        copied: of.copied,
        leader_changes: of.leader_changes,
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an estimate, and no plan takes so long"
)]
fn whole_seconds(seconds: f64) -> u64 {
    seconds.ceil().max(0.0) as u64
}
