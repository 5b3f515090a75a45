//! The way of a plan that was applied: which of its splits and moves are next, and when it has ended.
//!
//! The record says where everything is to be; how far it is, is read off the shards' records, so any leader goes on.
//! Splits first, then the moves, both by the balancer's own rules for what may run at once. Pure.

use super::decide::{self, Sight, Wanted};
use crate::model::balance::{BalanceRules, Cut, PlanRun, PlanRunStatus, RunState, Target};
use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::operation::{Kind, cause};
use crate::model::table::{Shard, ShardState};
use crate::model::view::ClusterView;
use crate::placement::{Move, Policy, Proposal, Snapshot, toward};
use std::collections::BTreeMap;

/// Splits begun in one round at most.
const SPLITS_MAX: usize = 40;

/// Where shards are to be, for placement.
pub type Towards = BTreeMap<(TableId, ShardId), Vec<NodeId>>;

/// What is next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// These splits are begun.
    Begin(Wanted),
    /// What is under way ends first.
    Wait,
    /// The splits are made: the moves towards this are next.
    Move(Towards),
    /// It is over.
    Ended(RunState, String),
}

/// The next part of a plan that is being carried out.
pub fn next(sight: &Sight<'_>, run: &PlanRun) -> Next {
    let mut begun = Wanted::new();
    let mut waits = false;
    for cut in run.splits.iter().filter(|cut| !made(sight.view, cut)) {
        waits = true;
        match split(sight, cut, &begun) {
            Ok(true) if begun.values().map(Vec::len).sum::<usize>() < SPLITS_MAX => {
                begun.entry(cut.table).or_default().push((cut.kind(), cause::PLAN.to_owned()));
            }
            Ok(_) => {}
            Err(why) => return Next::Ended(RunState::Failed, why),
        }
    }
    if !begun.is_empty() {
        return Next::Begin(begun);
    }
    if waits {
        return Next::Wait;
    }
    let towards = towards(sight.view, &run.targets);
    if towards.is_empty() { Next::Ended(RunState::Done, String::new()) } else { Next::Move(towards) }
}

/// Whether a split's children have taken their parent's place, and perhaps have been split again.
fn made(view: &ClusterView, cut: &Cut) -> bool {
    let shard = |id| view.shard(cut.table, id);
    let gone = shard(cut.shard).is_none_or(|parent| parent.state == ShardState::Retired);
    // Another split may have taken the numbers.
    let cut_there = shard(cut.left).is_none_or(|left| left.range.hi() == cut.cut)
        && shard(cut.right).is_none_or(|right| right.range.lo() == cut.cut);
    gone && taken(view, cut) && cut_there
}

/// Whether the split's numbers have been given out.
fn taken(view: &ClusterView, cut: &Cut) -> bool {
    view.tables.get(&cut.table).is_some_and(|table| table.record.next_shard > cut.right.0)
}

/// Whether a split that is not made may be begun now.
fn split(sight: &Sight<'_>, cut: &Cut, begun: &Wanted) -> Result<bool, String> {
    let view = sight.view;
    let Some(table) = view.tables.get(&cut.table).map(|table| &table.record) else {
        return Err("a table of the plan was dropped".to_owned());
    };
    if sight.touched(cut.table, cut.shard) {
        return Ok(false);
    }
    let shard = view.shards_of(cut.table).find(|shard| shard.id == cut.shard);
    let serving = shard.is_some_and(|shard| shard.state == ShardState::Serving);
    // Numbers are given out in order: with the splits before this one of the same round, its own are next.
    let given = begun.get(&cut.table).map_or(0, Vec::len);
    let next = table.next_shard + 2 * u32::try_from(given).unwrap_or(u32::MAX);
    if taken(view, cut) {
        let ours = |kind: &Kind| matches!(kind, Kind::Split { left, .. } if *left == cut.left);
        let undone = view.operations.values().map(|operation| &operation.record);
        let undone = undone.filter(|operation| operation.table == cut.table).find(|o| ours(&o.kind));
        return Err(match undone {
            Some(split) => format!("its split {} ({}) was undone: {}", split.id, split.kind, split.outcome),
            None => format!("shards of {} were made otherwise meanwhile", table.name),
        });
    }
    Ok(serving && next == cut.left.0 && !shard.is_some_and(|shard| held(sight, shard)))
}

fn held(sight: &Sight<'_>, shard: &Shard) -> bool {
    sight.view.held(shard.table, shard.id, sight.now_unix_ms).is_some()
}

/// Those targets that are not reached; shards that are gone count as reached.
fn towards(view: &ClusterView, targets: &[Target]) -> Towards {
    let off = |target: &&Target| {
        let shard = view.shards.get(&target.table).and_then(|shards| shards.get(&target.shard));
        shard.is_some_and(|shard| !reached(&shard.record, target))
    };
    targets.iter().filter(off).map(|t| ((t.table, t.shard), t.nodes.clone())).collect()
}

fn reached(shard: &Shard, target: &Target) -> bool {
    let staying: Vec<&NodeId> = shard.staying().map(|replica| &replica.node).collect();
    let same = staying.len() == target.nodes.len() && target.nodes.iter().all(|node| staying.contains(&node));
    let leads = staying.first().copied() == target.nodes.first();
    shard.state != ShardState::Serving || same && leads && shard.moving().is_none()
}

/// The way to the targets; `None` if it is barred: a rule would be broken, or has to be mended elsewhere first.
pub fn way(snapshot: &Snapshot, towards: &Towards, rules: &BalanceRules) -> Option<Proposal> {
    let found = toward(snapshot, &Policy::default(), &decide::limits(snapshot, rules), towards);
    found.filter(|proposal| keeps(proposal, towards))
}

/// Whether a proposal does what is aimed at and nothing else. Placement mends broken rules on the way: what it mends
/// is not the plan.
fn keeps(proposal: &Proposal, towards: &Towards) -> bool {
    let verdict = &proposal.verdict;
    let besides = |m: &Move| !m.add.is_empty() && !towards.contains_key(&(m.table, m.shard));
    let leads_there = |(key, nodes): (&(TableId, ShardId), &Vec<NodeId>)| {
        let placed = verdict.placement.get(key);
        placed.is_none_or(|placed| {
            placed.first() == nodes.first() && placed.iter().all(|node| nodes.contains(node))
        })
    };
    !verdict.moves.iter().any(besides) && towards.iter().all(leads_there)
}

/// What a way that is barred means for the plan: what is under way or held may open it again, else it is given up.
pub fn barred(sight: &Sight<'_>, towards: &Towards) -> Next {
    let returns = |node: &NodeId| !decide::is_up(sight, node) && !(sight.lost)(node);
    let waits = towards.values().flatten().any(returns)
        || towards.keys().any(|(table, id)| {
            let shard = sight.view.shards_of(*table).find(|shard| shard.id == *id);
            let at_rest = shard.is_none_or(|shard| shard.moving().is_none() && !held(sight, shard));
            !at_rest || sight.touched(*table, *id)
        });
    if waits {
        return Next::Wait;
    }
    let why =
        "what it asks for would break a rule now (a node that is down or drained, zones, or a full disk)";
    Next::Ended(RunState::Failed, why.to_owned())
}

/// How far a plan is.
pub fn status(view: &ClusterView, run: &PlanRun) -> PlanRunStatus {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let open = run.state == RunState::Running;
    let left = |left: usize| if open { count(left) } else { 0 };
    // Targets may be of shards that are not made yet: those that are not reached are left all the same.
    let is = |target: &&Target| {
        let shard = view.shards.get(&target.table).and_then(|shards| shards.get(&target.shard));
        shard.is_none_or(|shard| !reached(&shard.record, target))
    };
    let splits_left = run.splits.iter().filter(|cut| !made(view, cut)).count();
    let unmade = run.targets.iter().filter(is).count();
    let moves_left = if splits_left > 0 { unmade } else { towards(view, &run.targets).len() };
    PlanRunStatus {
        state: run.state,
        outcome: run.outcome.clone(),
        started_unix_ms: run.started_unix_ms,
        ended_unix_ms: run.ended_unix_ms,
        splits: count(run.splits.len()),
        splits_left: left(splits_left),
        moves: count(run.targets.len()),
        moves_left: left(moves_left),
    }
}
