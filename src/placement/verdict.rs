//! The verdict: what is proposed, what it costs and brings, how far it is from the best possible, and why.
//!
//! [`decide`] works on a dense problem; [`plan`](super::plan()) on a snapshot by ids. Both are pure and repeat
//! exactly for the same input, seed and work budget.

use super::bound::{least_deviations, least_score, prices_and_bound};
use super::budget::{Budget, Part, WorkBudget};
use super::budgeted::best_within;
use super::constraint::{Broken, broken};
use super::engines::milp::PROGRAM;
use super::engines::repair::{repair, standing};
use super::engines::{Engine, Outcome, Progress};
use super::explain::{Untaken, Why, reasons};
use super::goals::leaders;
use super::ids::Ids;
use super::newcomers::onto_newcomers;
use super::objective::{Score, score};
use super::policy::Goal;
use super::problem::{Compromise, NONE, Problem};
use super::relief::{Relief, relief};
use super::scale::scaled;
use super::solution::Solution;
use super::vain::take_back;
use crate::model::{NodeId, ShardId, TableId};
use std::collections::BTreeMap;

/// A verdict on a dense problem.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Where replicas should be.
    pub solution: Solution,
    /// The score of what is there now, hard rules repaired: what the proposal is measured by.
    pub before: Score,
    /// The score of the proposal.
    pub after: Score,
    /// No placement that keeps the hard rules, and is of the goal's kind, scores less.
    pub bound: f64,
    /// For the goals `relieve` and `repair`: no placement that keeps the hard rules copies fewer bytes.
    pub least_bytes: Option<u64>,
    /// Hard rules that the proposal still breaks, since they cannot be kept.
    pub broken: Vec<Broken>,
    /// By shard.
    pub reasons: Vec<Why>,
    /// What was found and not taken.
    pub untaken: Untaken,
    /// Work spent.
    pub work: u64,
}

impl Decision {
    /// How far the score is from the bound, as a share of the bound; none without a bound, and none where rules are
    /// broken: the bound is for placements that keep them.
    pub fn gap(&self) -> Option<f64> {
        self.gap_to(self.bound)
    }

    /// The same, to another bound.
    pub fn gap_to(&self, bound: f64) -> Option<f64> {
        let judged = bound > 0.0 && self.broken.is_empty();
        judged.then(|| (self.after.total / bound - 1.0).max(0.0))
    }
}

/// Rounds of solving the proposal again, so that a proposal stands when it is solved anew. Each round betters
/// the balance by more than the hysteresis and what it moves, so that there are few; without hysteresis the number
/// is what ends them.
const ROUNDS_MAX: (usize, usize) = (64, 4);

/// Decides with an engine. A proposal that betters the repaired present by less than the policy's hysteresis
/// is not taken, and one that is taken stands: deciding again on it moves nothing, for the same work budget.
pub fn decide(
    problem: &Problem,
    engine: &dyn Engine,
    seed: u64,
    budget: &mut dyn Budget,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Decision {
    let Some((scaled, unit)) = scaled(problem) else {
        return decided(problem, engine, seed, budget, progress);
    };
    let mut said = |said: &Progress<'_>| {
        let score = said.score.map(|score| score * unit);
        progress(&Progress { bound: said.bound * unit, score, ..said.clone() });
    };
    let found = decided(&scaled, engine, seed, budget, &mut said);
    let before = Score { total: found.before.total * unit, ..found.before };
    let after = score(problem, &found.solution);
    Decision { before, after, bound: found.bound * unit * (1.0 - 1e-9), ..found }
}

/// [`decide`], on the engines' scale.
fn decided(
    problem: &Problem,
    engine: &dyn Engine,
    seed: u64,
    budget: &mut dyn Budget,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> Decision {
    let present = standing(problem);
    let before = score(problem, &present);
    let least = least_score(problem);
    let close = before.total - least < problem.policy.hysteresis && broken(problem, &present).is_empty();
    let limited = problem.policy.bytes_max.is_some() || problem.policy.moves_max.is_some();
    let (mut least_bytes, mut untaken) = (None, Untaken::default());
    let mut outcome = match problem.policy.goal {
        // Nothing could better it by the hysteresis, whatever the engine finds.
        Goal::Balance if close => {
            untaken.all = before.total - least > 1e-9;
            Outcome { solution: present.clone(), bound: least, work: budget_work(problem) }
        }
        Goal::Balance => {
            let bound = if engine.proves() { 0.0 } else { proved(problem, budget) };
            let mut rest = Part::new(budget, 1.0);
            let found = if limited {
                let (found, free) = best_within(problem, &present, engine, seed, &mut rest, progress);
                untaken.budget = free;
                found
            } else {
                engine.solve(problem, seed, &mut rest, progress)
            };
            let mut solution = found.solution;
            take_back(problem, &mut solution);
            Outcome { solution, bound: found.bound.max(bound).max(least), ..found }
        }
        Goal::Leaders => Outcome {
            solution: leaders(problem, &present, seed, budget),
            bound: leaders_bound(problem, &before),
            work: budget_work(problem),
        },
        Goal::Relieve | Goal::Repair => {
            let (exact, best) = (engine.is_exact(), Some(&present));
            if exact {
                progress(&Progress { phase: PROGRAM, bound: least, score: None, best });
            }
            let Relief { solution, least_bytes: bytes, work } = relief(problem, &present, exact, budget);
            least_bytes = Some(bytes);
            let share = bytes as f64 / problem.total_bytes.max(1.0);
            Outcome { solution, bound: least + problem.policy.weights.moved * share, work }
        }
    };
    outcome.solution.sort_followers(problem);
    let (bound, work) = (outcome.bound, outcome.work);
    let mut solution = outcome.solution;
    if keeps(problem, &present, &solution) {
        let found = std::mem::replace(&mut solution, present);
        let gains = score(problem, &found).total < before.total;
        let rules = broken(problem, &found).len() <= broken(problem, &solution).len();
        untaken.hysteresis = (gains && rules && problem.policy.hysteresis > 0.0).then_some(found);
    }
    Decision { least_bytes, work, ..decision(problem, solution, before, bound, untaken) }
}

/// What is there now is kept: the proposal breaks more rules, or is not better by enough. For the goals that only
/// the rules matter to, it is better if it copies fewer bytes.
fn keeps(problem: &Problem, present: &Solution, found: &Solution) -> bool {
    let (kept, found_broken) = (broken(problem, present).len(), broken(problem, found).len());
    if kept != found_broken {
        return kept < found_broken;
    }
    let (before, after) = (score(problem, present), score(problem, found));
    match problem.policy.goal {
        Goal::Relieve | Goal::Repair => after.bytes_moved >= before.bytes_moved,
        _ if problem.policy.hysteresis > 0.0 => after.total + problem.policy.hysteresis > before.total,
        _ => after.total >= before.total,
    }
}

/// A decision for `solution`, such as the best one that an engine had when it was no longer waited for.
pub fn judged(problem: &Problem, solution: Solution, bound: f64) -> Decision {
    let before = score(problem, &standing(problem));
    decision(problem, solution, before, bound.max(least_score(problem)), Untaken::default())
}

fn decision(problem: &Problem, solution: Solution, before: Score, bound: f64, untaken: Untaken) -> Decision {
    Decision {
        before,
        after: score(problem, &solution),
        bound,
        least_bytes: None,
        broken: broken(problem, &solution),
        reasons: reasons(problem, &solution, &untaken),
        untaken,
        work: 0,
        solution,
    }
}

/// A bound for an engine that looks for none, within a part of the budget.
pub(super) fn proved(problem: &Problem, budget: &mut dyn Budget) -> f64 {
    if problem.balanced.is_empty() || problem.replicas() == 0 {
        return 0.0;
    }
    prices_and_bound(problem, f64::INFINITY, &mut Part::new(budget, BOUND_SHARE)).bound
}

/// Which part of a budget goes to the bound of an engine that looks for none.
const BOUND_SHARE: f64 = 0.15;

/// With copies where they are only what leaders and their reads make can change.
fn leaders_bound(problem: &Problem, before: &Score) -> f64 {
    let weights = &problem.policy.weights;
    let [_, least, _] = least_deviations(problem);
    before.total
        - weights.leaders * (before.leaders - least).max(0.0)
        - weights.leader_changes * before.leader_changes
        - weights.reads * before.reads
        - 1e-9
}

fn budget_work(problem: &Problem) -> u64 {
    problem.replicas() as u64
}

/// The decision to go on towards `target`, an earlier proposal's solution, hard rules repaired; none if it is
/// reached or breaks more rules than what is there.
pub fn pursue(problem: &Problem, mut target: Solution) -> Option<Decision> {
    let present = standing(problem);
    repair(problem, &mut target);
    target.sort_followers(problem);
    let before = score(problem, &present);
    let worse = broken(problem, &target).len() > broken(problem, &present).len();
    if target == present || worse {
        return None;
    }
    let bound = least_score(problem);
    Some(Decision {
        work: budget_work(problem),
        ..decision(problem, target, before, bound, Untaken::default())
    })
}

/// [`decide`], repeated on its own proposal until that stands; once only under a budget of bytes or moves,
/// which is a part of the way on purpose. Nodes that joined are given their share first: see [`onto_newcomers`]. So are
/// those that a proposal leaves with hardly anything: who asks again begins with them.
pub fn settle(problem: &Problem, engine: &dyn Engine, seed: u64, work: u64) -> Decision {
    let limited = problem.policy.bytes_max.is_some() || problem.policy.moves_max.is_some();
    let solve = |problem: &Problem| {
        let onto = if limited { None } else { onto_newcomers(problem, engine, seed, work) };
        onto.unwrap_or_else(|| decide(problem, engine, seed, &mut WorkBudget::new(work), &mut |_| {}))
    };
    let first = solve(problem);
    settled(problem, first, &mut |next| Some(solve(next)))
}

/// A decision once it stands: `solve` is asked for one on its own proposal, and again, until it moves nothing more or
/// answers none. Under a budget of bytes or moves it is not asked.
pub fn settled(
    problem: &Problem,
    mut decision: Decision,
    solve: &mut dyn FnMut(&Problem) -> Option<Decision>,
) -> Decision {
    if problem.policy.bytes_max.is_some() || problem.policy.moves_max.is_some() {
        return decision;
    }
    let rounds = if problem.policy.hysteresis > 0.0 { ROUNDS_MAX.0 } else { ROUNDS_MAX.1 };
    for _ in 0..rounds {
        let Some(next) = solve(&problem.after(&decision.solution)) else { break };
        if next.untaken.hysteresis.is_some() {
            decision.untaken.hysteresis = next.untaken.hysteresis;
        }
        if next.solution == decision.solution {
            break;
        }
        decision.work += next.work;
        decision.solution = next.solution;
    }
    decision.after = score(problem, &decision.solution);
    decision.broken = broken(problem, &decision.solution);
    decision.reasons = reasons(problem, &decision.solution, &decision.untaken);
    decision
}

/// One shard's change.
#[derive(Debug, Clone, PartialEq)]
pub struct Move {
    /// Its table.
    pub table: TableId,
    /// The shard.
    pub shard: ShardId,
    /// Nodes that get a copy.
    pub add: Vec<NodeId>,
    /// Nodes that lose theirs.
    pub remove: Vec<NodeId>,
    /// All its nodes afterwards, the preferred leader first.
    pub nodes: Vec<NodeId>,
    /// Bytes copied.
    pub bytes: u64,
    /// Why.
    pub why: Why,
}

/// A verdict by ids.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Where every shard's replicas should be, the preferred leader first.
    pub placement: BTreeMap<(TableId, ShardId), Vec<NodeId>>,
    /// Shards that change, in order of table and shard.
    pub moves: Vec<Move>,
    /// The score of what is there now, hard rules repaired.
    pub before: Score,
    /// The score of the proposal.
    pub after: Score,
    /// No placement that keeps the hard rules scores less.
    pub bound: f64,
    /// See [`Decision::gap`].
    pub gap: Option<f64>,
    /// Why each shard moves or stays.
    pub reasons: BTreeMap<(TableId, ShardId), Why>,
    /// What could not be kept, one line each.
    pub compromises: Vec<String>,
    /// Work spent.
    pub work: u64,
}

/// A decision in ids.
pub fn verdict(problem: &Problem, ids: &Ids, decision: &Decision) -> Verdict {
    let name = |&node: &u32| ids.nodes[node as usize].clone();
    let (mut placement, mut reasons) = (BTreeMap::new(), BTreeMap::new());
    let mut moves = Vec::new();
    for (shard, &(table, id)) in ids.shards.iter().enumerate() {
        let placed: Vec<u32> =
            decision.solution.of(problem, shard).iter().copied().filter(|&node| node != NONE).collect();
        let present = problem.present(shard);
        let nodes: Vec<NodeId> = placed.iter().map(name).collect();
        if placed != present {
            let add: Vec<NodeId> = placed.iter().filter(|node| !present.contains(node)).map(name).collect();
            let remove = present.iter().filter(|node| !placed.contains(node)).map(name).collect();
            let bytes = problem.bytes[shard] * add.len() as u64;
            let same_set = placed.len() == present.len() && add.is_empty();
            if !same_set || placed.first() != present.first() {
                let why = decision.reasons[shard];
                moves.push(Move { table, shard: id, add, remove, nodes: nodes.clone(), bytes, why });
            }
        }
        placement.insert((table, id), nodes);
        reasons.insert((table, id), decision.reasons[shard]);
    }
    Verdict {
        placement,
        moves,
        before: decision.before,
        after: decision.after,
        bound: decision.bound,
        gap: decision.gap(),
        reasons,
        compromises: compromises(problem, ids, decision),
        work: decision.work,
    }
}

fn compromises(problem: &Problem, ids: &Ids, decision: &Decision) -> Vec<String> {
    let shard = |shard: u32| {
        let (table, id) = ids.shards[shard as usize];
        format!("{}/{id}", table.short())
    };
    let node = |node: u32| &ids.nodes[node as usize];
    let mut lines: Vec<String> = Vec::new();
    for &(s, why) in &problem.compromises {
        let text = match why {
            Compromise::TooFewNodes => "fewer nodes may hold it than it wants replicas",
            Compromise::TooFewZones => "fewer zones than replicas: some share a zone",
            Compromise::TooFewRacks => "fewer racks than replicas: some share a rack",
            Compromise::PinnedTogether => "pinned to nodes of one zone or rack: they share it",
            Compromise::NoNode => "no node may hold it: it stays where it is",
            Compromise::NotCovered => "it breaks a rule that the goal leaves alone",
        };
        lines.push(format!("{}: {text}", shard(s)));
    }
    for rule in &decision.broken {
        lines.push(match *rule {
            Broken::Missing { shard: s } => format!("{}: no node for one of its replicas", shard(s)),
            Broken::SameNode { shard: s, node: n } => format!("{}: twice on {}", shard(s), node(n)),
            Broken::Forbidden { shard: s, node: n } => format!("{}: must not be on {}", shard(s), node(n)),
            Broken::Crowded { shard: s } => format!("{}: replicas share a zone or rack", shard(s)),
            Broken::Unpinned { shard: s, node: n } => {
                format!("{}: cannot be on {} as pinned", shard(s), node(n))
            }
            Broken::Overfull { node: n } => format!("node {}: above the watermark, nowhere to go", node(n)),
        });
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::engines::Hybrid;
    use crate::placement::policy::{Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    /// All is even but for the tables: each of two has most of its shards on a node of its own.
    #[test]
    fn a_table_that_stands_on_one_node_is_spread_if_tables_weigh() {
        let node =
            |n| NodeSpec { zone: n, rack: n, capacity_bytes: 1000, weight: 1.0, takes: true, holds: true };
        let shard = |(table, on)| ShardSpec {
            load: Load { bytes: 10, ..Load::default() },
            table,
            replicas: 1,
            present: vec![on],
            ..ShardSpec::default()
        };
        let placed =
            [(0, 0), (0, 0), (0, 0), (0, 0), (0, 1), (0, 1), (1, 1), (1, 1), (1, 2), (1, 2), (1, 2), (1, 2)];
        let solve = |per_table: f64| {
            let weights = Weights { per_table, ..Weights::YARDSTICK };
            let policy = Policy { weights, hysteresis: 0.0, ..Policy::default() };
            let problem = Problem::new((0..3).map(node).collect(), placed.into_iter().map(shard), &policy);
            decide(&problem, &Hybrid::HEURISTIC, 1, &mut WorkBudget::new(200_000), &mut |_| {})
        };
        let (without, with) = (solve(0.0), solve(5.0));
        assert_eq!((without.after.moved, without.after.replicas), (0.0, 0.0), "nothing to do");
        assert!(with.before.per_table > 0.3, "{:?}", with.before);
        assert_eq!((with.after.per_table, with.after.replicas), (0.0, 0.0), "{:?}", with.after);
        assert_eq!(with.after.copies, 4, "two of each table");
    }
}
