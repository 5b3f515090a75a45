//! The baseline that schedulers such as PD use: while it helps, take a replica off the most loaded node and
//! put it on the least loaded one that may have it; then the same for leaders. One pass, no way back.

use super::repair::standing;
use super::{Engine, Outcome, Progress};
use crate::placement::bound::Prices;
use crate::placement::budget::Budget;
use crate::placement::engines::local_search::{Ranges, State};
use crate::placement::policy::Tolerance;
use crate::placement::problem::Problem;

/// One greedy pass.
#[derive(Debug, Clone, Copy, Default)]
pub struct Greedy;

impl Engine for Greedy {
    fn name(&self) -> &'static str {
        "greedy"
    }

    fn solve(
        &self,
        problem: &Problem,
        _seed: u64,
        budget: &mut dyn Budget,
        progress: &mut dyn FnMut(&Progress<'_>),
    ) -> Outcome {
        progress(&Progress { phase: "greedy pass", bound: 0.0, score: None, best: None });
        let solution = standing(problem);
        if solution.nodes.contains(&crate::placement::problem::NONE) || problem.balanced.is_empty() {
            return Outcome { solution, bound: 0.0, work: 1 };
        }
        let prices = Prices::zero(problem.nodes.len());
        let within = Tolerance { bytes: 0.02, ..Tolerance::default() };
        let mut state = State::new(problem, &solution, &prices, &Ranges::new(problem, within));
        let mut work = 0;
        let weights = &problem.policy.weights;
        let loads: [(Load, f64); 2] = [(by_bytes, weights.bytes), (by_replicas, weights.replicas)];
        for (by, _) in loads.into_iter().filter(|(_, weight)| *weight > 0.0) {
            work += level(&mut state, by, budget);
        }
        if weights.leaders > 0.0 {
            work += level_leaders(&mut state, budget);
        }
        Outcome { solution: state.solution(), bound: 0.0, work }
    }
}

/// A node's load, relative to its fair share.
type Load = fn(&State<'_>, u32) -> f64;

fn by_bytes(state: &State<'_>, node: u32) -> f64 {
    let site = &state.sites[node as usize];
    if site.fair > 0.0 { site.size / site.fair } else { 1.0 }
}

fn by_replicas(state: &State<'_>, node: u32) -> f64 {
    let fair = state.problem.fair[node as usize].replicas;
    if fair > 0.0 { state.sites[node as usize].replicas / fair } else { 1.0 }
}

/// Hot to cold until the hottest node has nothing that helps.
fn level(state: &mut State<'_>, load: Load, budget: &mut dyn Budget) -> u64 {
    let nodes = state.problem.balanced.clone();
    let takers: Vec<u32> = state.problem.takers().collect();
    let (mut work, mut stuck) = (0, vec![false; state.sites.len()]);
    for _ in 0..state.nodes.len() {
        let open = nodes.iter().copied().filter(|&n| !stuck[n as usize]);
        let Some(hot) = open.max_by(|&a, &b| load(state, a).total_cmp(&load(state, b))) else { break };
        let mut cold = takers.clone();
        cold.sort_by(|&a, &b| load(state, a).total_cmp(&load(state, b)).then(a.cmp(&b)));
        work += takers.len() as u64;
        if load(state, hot) <= 1.02 || budget.spend(takers.len() as u64) >= 1.0 {
            break;
        }
        let before = load(state, hot);
        let looked = state.on[hot as usize].len() as u64;
        let found = cold.iter().take(16).find_map(|&to| {
            let fits = |&&slot: &&u32| {
                let (slot, shard) = (slot as usize, state.shard_of[slot as usize] as usize);
                let site = &state.sites[to as usize];
                !state.problem.frozen[shard]
                    && state.fits(shard, slot, to)
                    && state.has_room(to, state.problem.bytes[shard])
                    && site.size + state.size[shard] <= site.fair * before
            };
            let excess = state.sites[hot as usize].size - state.sites[hot as usize].fair;
            let off = |slot: u32| (state.size[state.shard_of[slot as usize] as usize] - excess).abs();
            let slots = state.on[hot as usize].iter().filter(fits);
            slots.copied().min_by(|&a, &b| off(a).total_cmp(&off(b)).then(a.cmp(&b))).map(|slot| (slot, to))
        });
        match found {
            Some((slot, to)) if load(state, to) < before => {
                for slot in alike(state, slot, hot, to) {
                    state.relocate(slot as usize, to);
                }
            }
            _ => stuck[hot as usize] = true,
        }
        work += looked;
        if budget.spend(looked) >= 1.0 {
            break;
        }
    }
    work
}

/// A slot and those of shards of the same size that can follow it: half of what the hot node has too much and the
/// cold one too little of. Where a node has hundreds of thousands of equal shards, a look at all of them a move would
/// never end.
fn alike(state: &State<'_>, slot: u32, hot: u32, to: u32) -> Vec<u32> {
    let problem = state.problem;
    let size_of = |slot: u32| state.size[state.shard_of[slot as usize] as usize];
    let size = size_of(slot);
    let room = |over: f64, under: f64| over.min(under).max(0.0) / 2.0;
    let (from, into) = (&state.sites[hot as usize], &state.sites[to as usize]);
    let by_size = room(from.size - from.fair, into.fair.min(into.room) - into.size) / size;
    let by_size = if size > 0.0 { by_size } else { f64::INFINITY };
    let fair = |node: u32| problem.fair[node as usize].replicas;
    let by_count = room(from.replicas - fair(hot), fair(to) - into.replicas);
    let count = by_size.min(by_count) as usize;
    let movable = |&other: &u32| {
        let shard = state.shard_of[other as usize] as usize;
        other != slot
            && size_of(other) == size
            && !problem.frozen[shard]
            && state.fits(shard, other as usize, to)
    };
    let mut found = vec![slot];
    if count > 1 {
        found.extend(state.on[hot as usize].iter().copied().filter(movable).take(count - 1));
    }
    found
}

/// Leaders from nodes with too many to replicas on nodes with too few.
fn level_leaders(state: &mut State<'_>, budget: &mut dyn Budget) -> u64 {
    let mut work = 0;
    for _ in 0..4 {
        let mut changed = false;
        for shard in (0..state.problem.shards()).filter(|&shard| !state.problem.frozen[shard]) {
            let slots = state.problem.slots(shard);
            let rel = |slot: usize, more: f64| {
                let node = state.nodes[slot] as usize;
                (state.sites[node].leaders + more) / state.problem.fair[node].leaders.max(1e-9)
            };
            let first = slots.start;
            let best = slots.clone().skip(1).min_by(|&a, &b| rel(a, 1.0).total_cmp(&rel(b, 1.0)));
            if let Some(slot) = best.filter(|&slot| rel(slot, 1.0) < rel(first, 0.0)) {
                state.lead(slot);
                changed = true;
            }
        }
        work += state.problem.shards() as u64;
        if !changed || budget.spend(state.problem.shards() as u64) >= 1.0 {
            break;
        }
    }
    work
}
