//! What the leader asks of placement: the cluster as it is goes in, a verdict and the steps to it come out.
//!
//! How to call it. Make a [`Snapshot`] of what the records say and what heartbeats report, call [`plan`], do the
//! steps that wait for nothing, and call [`resume`] with the verdict's placement whenever the snapshot has changed.
//! It is level-triggered: a caller that lost the placement calls [`plan`] anew, and a plan made on the planned
//! state is empty. With [`resume`] no replica goes there and back. Drop the placement (pass an empty one) when
//! the cluster has changed so much that a new search is worth more than finishing, such as when a node joined.
//!
//! - *In-flight work counts once.* A copy that is being made is listed as a replica with `complete: false`. It
//!   counts as load where it is, it is no further move, and it is never a reason to drop another copy: the
//!   steps wait for it first ([`ClusterAction::Await`]). Shards under any other operation are `frozen`.
//! - *A move takes three looks.* The plan says add `c`, which replaces `b`, then remove `b`. The caller records both:
//!   `c` is being made, `b` is `leaving`. The next plan is await `c`, remove `b`; once `c` is complete it is remove
//!   `b`, and then nothing. A move that is under way is not reconsidered, unless a rule forbids what it leads to.
//! - *Leaders* are preferred leaders: [`ClusterAction::Lead`] puts a node first in the shard's list. A copy whose
//!   node still leads is dropped only once leadership has gone.
//! - *Steps* may be done one by one in the order given, or all of one wave at the same time; each names what it
//!   waits for. [`Proposal::ready`] are those that wait for nothing.
//! - *Work* is bounded by [`Limits::work`], not by time (a million takes about a third of a second), so the answer
//!   is the same on every machine. A cluster within the policy's hysteresis of what could be reached at best is
//!   seen at once and costs one look at every replica.

use super::engines::repair::{committed, standing};
use super::engines::{Engine, of_planner};
use super::ids::Ids;
use super::plan::{Action, Left, Plan, Stuck};
use super::policy::Policy;
use super::problem::Problem;
use super::sequence::{WaveLimits, sequence};
use super::snapshot::Snapshot;
use super::solution::Solution;
use super::verdict::{Decision, Verdict, pursue, settle, verdict};
use crate::model::balance::Planner;
use crate::model::{NodeId, ShardId, TableId};
use std::collections::BTreeMap;

/// What a call of [`plan`] may take, and what its waves may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Same snapshot, policy, seed and work, same answer.
    pub seed: u64,
    /// Work units for one solve. An answer is solved again until it stands: mostly twice, at most 65 times (5 times
    /// without hysteresis).
    pub work: u64,
    /// Who solves.
    pub planner: Planner,
    /// What a wave of steps may do.
    pub waves: WaveLimits,
}

impl Default for Limits {
    fn default() -> Self {
        Self { seed: 1, work: 1_000_000, planner: Planner::default(), waves: WaveLimits::default() }
    }
}

/// What a step does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterAction {
    /// Makes a copy on the node; done when it is complete.
    Add,
    /// Waits until the copy that the node is making is complete.
    Await,
    /// Makes the node the preferred leader; done when it leads.
    Lead,
    /// Drops the node's copy.
    Remove,
}

/// One step, by ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterStep {
    /// The table.
    pub table: TableId,
    /// The shard.
    pub shard: ShardId,
    /// What is done.
    pub action: ClusterAction,
    /// Where.
    pub node: NodeId,
    /// Of an [`ClusterAction::Add`]: the node whose copy goes once this one is complete.
    pub replaces: Option<NodeId>,
    /// Bytes copied.
    pub bytes: u64,
    /// Steps of one wave may run at the same time.
    pub wave: u32,
    /// Steps that must have finished before, by their place in [`Proposal::steps`].
    pub after: Vec<u32>,
}

/// What holds a shard up when all steps are done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeldUp {
    /// Its copy does not fit on this node below the watermark, and no order of steps was found that makes room.
    NoRoom(NodeId),
    /// The copy on this node is still needed: too few others are complete.
    Needed(NodeId),
}

/// Where replicas should be, why, and the steps that lead there.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Where, why, and how good it is.
    pub verdict: Verdict,
    /// The steps, in an order in which they may run one by one.
    pub steps: Vec<ClusterStep>,
    /// Number of waves.
    pub waves: u32,
    /// Estimated duration in seconds.
    pub seconds: f64,
    /// Most bytes that each node holds at any moment.
    pub peak_bytes: BTreeMap<NodeId, u64>,
    /// Shards that do not get all the way, and what holds each up.
    pub left: Vec<(TableId, ShardId, HeldUp)>,
}

impl Proposal {
    /// Steps that wait for nothing.
    pub fn ready(&self) -> impl Iterator<Item = &ClusterStep> {
        self.steps.iter().filter(|step| step.after.is_empty() && step.wave == 0)
    }
}

/// What should change in a cluster, by the default engine, and the steps to it. Never fails: what cannot be had is
/// named in the verdict's compromises and in `left`.
///
/// ```
/// use converthouse::placement::{Limits, Policy, Snapshot, plan};
/// let proposal = plan(&Snapshot::default(), &Policy::default(), &Limits::default());
/// assert!(proposal.steps.is_empty());
/// ```
pub fn plan(snapshot: &Snapshot, policy: &Policy, limits: &Limits) -> Proposal {
    resume(snapshot, policy, limits, &BTreeMap::new())
}

/// [`plan`], but as long as `towards`, an earlier verdict's placement, keeps the rules and is not reached, the way
/// to it is what comes out, without a search.
pub fn resume(
    snapshot: &Snapshot,
    policy: &Policy,
    limits: &Limits,
    towards: &BTreeMap<(TableId, ShardId), Vec<NodeId>>,
) -> Proposal {
    let (problem, ids) = Ids::of(snapshot, policy);
    let pursued = target(&problem, &ids, towards).and_then(|target| pursue(&problem, target));
    let decision = pursued.unwrap_or_else(|| search(&problem, of_planner(limits.planner).as_ref(), limits));
    proposal(&problem, &ids, &decision, limits)
}

/// The way to `towards` and nothing else; `None` if it is reached or breaks more rules than what is there.
pub fn toward(
    snapshot: &Snapshot,
    policy: &Policy,
    limits: &Limits,
    towards: &BTreeMap<(TableId, ShardId), Vec<NodeId>>,
) -> Option<Proposal> {
    let (problem, ids) = Ids::of(snapshot, policy);
    let decision = pursue(&problem, target(&problem, &ids, towards)?)?;
    Some(proposal(&problem, &ids, &decision, limits))
}

/// [`plan`], unless the engine does not take the cluster.
///
/// # Errors
/// Why it does not.
pub fn try_plan(snapshot: &Snapshot, policy: &Policy, limits: &Limits) -> Result<Proposal, String> {
    let (problem, ids) = Ids::of(snapshot, policy);
    let engine = of_planner(limits.planner);
    if let Some(why) = engine.refuses(&problem) {
        return Err(why);
    }
    let decision = search(&problem, engine.as_ref(), limits);
    Ok(proposal(&problem, &ids, &decision, limits))
}

fn search(problem: &Problem, engine: &dyn Engine, limits: &Limits) -> Decision {
    let committed = committed(problem);
    settle(committed.as_ref().unwrap_or(problem), engine, limits.seed, limits.work)
}

fn proposal(problem: &Problem, ids: &Ids, decision: &Decision, limits: &Limits) -> Proposal {
    let dense = sequence(problem, &decision.solution, &limits.waves);
    let left = |left: &Left| {
        let (table, shard) = ids.shards[left.shard as usize];
        let name = |node: u32| ids.nodes[node as usize].clone();
        let why = match left.why {
            Stuck::NoRoom { node } => HeldUp::NoRoom(name(node)),
            Stuck::Needed { node } => HeldUp::Needed(name(node)),
        };
        (table, shard, why)
    };
    Proposal {
        steps: steps(ids, &dense),
        waves: dense.waves,
        seconds: dense.seconds,
        peak_bytes: ids.nodes.iter().cloned().zip(dense.peak_bytes).collect(),
        left: dense.left.iter().map(left).collect(),
        verdict: verdict(problem, ids, decision),
    }
}

/// A placement by ids as a solution; shards that it does not name, and frozen ones, stay.
fn target(
    problem: &Problem,
    ids: &Ids,
    towards: &BTreeMap<(TableId, ShardId), Vec<NodeId>>,
) -> Option<Solution> {
    if towards.is_empty() {
        return None;
    }
    let mut solution = standing(problem);
    for (shard, key) in ids.shards.iter().enumerate().filter(|(shard, _)| !problem.frozen[*shard]) {
        let slots = &mut solution.nodes[problem.slots(shard)];
        let nodes = towards.get(key).map(|nodes| nodes.iter().map(|node| ids.node(node)));
        let nodes: Option<Vec<u32>> = nodes.and_then(Iterator::collect);
        if let Some(nodes) = nodes.filter(|nodes| nodes.len() == slots.len()) {
            slots.copy_from_slice(&nodes);
        }
    }
    Some(solution)
}

fn steps(ids: &Ids, plan: &Plan) -> Vec<ClusterStep> {
    let name = |node: u32| ids.nodes[node as usize].clone();
    let named = |step: &super::plan::Step| {
        let (table, shard) = ids.shards[step.shard as usize];
        let (action, node) = match step.action {
            Action::Add { node } => (ClusterAction::Add, node),
            Action::Await { node } => (ClusterAction::Await, node),
            Action::Lead { node } => (ClusterAction::Lead, node),
            Action::Remove { node } => (ClusterAction::Remove, node),
        };
        ClusterStep {
            table,
            shard,
            action,
            node: name(node),
            replaces: step.replaces.map(name),
            bytes: step.bytes,
            wave: step.wave,
            after: step.after.clone(),
        }
    };
    plan.steps.iter().map(named).collect()
}
