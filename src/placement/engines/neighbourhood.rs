//! Integer programs on small parts of a placement, one after the other: what annealing leaves on small worlds.
//!
//! A part is either a few nodes and the shards that move on them, or a few shards and all nodes. Moved shards are
//! chosen first, since copies are where the score is left. A part's answer is taken if it betters the whole.

use super::Progress;
use super::local_search::Dice;
use super::milp::{MilpLimits, Part};
use crate::placement::budget::Budget;
use crate::placement::objective::{deviation, score};
use crate::placement::problem::Problem;
use crate::placement::solution::{Solution, held};
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

/// What progress calls it.
pub const NEIGHBOURHOODS: &str = "neighbourhoods";

/// Binaries of one part.
const BINARIES: usize = 900;
/// Ends when so many parts in a row brought nothing.
const PATIENCE: u32 = 60;
/// Ends when the score is this near to the bound, relatively.
const NEAR: f64 = 2e-3;
/// Seconds that one part may take, under a budget of time.
const SECONDS_MAX: f64 = 2.0;
/// Tree nodes that one part may take.
const TREE_NODES: u64 = 60;

/// Betters `best` part by part until the budget ends, the bound is near, or nothing helps; answers the work spent.
pub fn improve(
    problem: &Problem,
    best: &mut Solution,
    bound: f64,
    seed: u64,
    budget: &mut dyn Budget,
    progress: &mut dyn FnMut(&Progress<'_>),
) -> u64 {
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let (mut work, mut stale) = (0, 0);
    let mut least = score(problem, best).total;
    progress(&Progress { phase: NEIGHBOURHOODS, bound, score: Some(least), best: Some(best) });
    for turn in 0u32.. {
        if stale >= PATIENCE || least - bound < NEAR * bound || budget.spend(0) >= 1.0 {
            break;
        }
        let (shards, nodes) = if turn % 2 == 0 {
            few_nodes(problem, best, &mut dice)
        } else {
            few_shards(problem, best, &mut dice)
        };
        let seconds = budget.seconds_left().map(|seconds| (seconds * 0.8).min(SECONDS_MAX));
        let limits = MilpLimits { seconds, tree_nodes: TREE_NODES, gap: 1e-4 };
        let Some(found) = Part::new(problem, best, &shards, &nodes).solve(&limits) else { break };
        work += found.work;
        budget.spend(found.work);
        stale += 1;
        if found.score < least - 1e-9 {
            (stale, least) = (0, found.score);
            *best = found.solution;
            progress(&Progress { phase: NEIGHBOURHOODS, bound, score: Some(least), best: Some(best) });
        }
    }
    work
}

/// Whether a shard has a copy that is not where it was, or another leader.
fn moved(problem: &Problem, solution: &Solution, shard: usize) -> bool {
    let placed = solution.of(problem, shard);
    placed.iter().any(|&node| !problem.holds(shard, node)) || placed.first() != problem.present(shard).first()
}

/// Some of `shards`, the moved ones first, each kind in random order.
fn sample(
    problem: &Problem,
    solution: &Solution,
    mut shards: Vec<u32>,
    count: usize,
    dice: &mut Dice,
) -> Vec<u32> {
    for at in (1..shards.len()).rev() {
        shards.swap(at, dice.below(at + 1));
    }
    let (first, rest): (Vec<u32>, Vec<u32>) =
        shards.into_iter().partition(|&shard| moved(problem, solution, shard as usize));
    // Two thirds moved ones: the others are what they can be exchanged for.
    let most = (count * 2 / 3).max(count.saturating_sub(rest.len()));
    let taken = first.len().min(most);
    first.into_iter().take(most).chain(rest.into_iter().take(count - taken)).collect()
}

/// A node, often one of the worst ones, a few others, and shards that they hold or held.
fn few_nodes(problem: &Problem, solution: &Solution, dice: &mut Dice) -> (Vec<u32>, Vec<u32>) {
    let load = held(problem, solution);
    let off = |n: u32| deviation(load[n as usize].bytes as f64, problem.fair[n as usize].bytes);
    let mut nodes = Vec::new();
    let count = 4.min(problem.balanced.len());
    while nodes.len() < count {
        let draw = |dice: &mut Dice| problem.balanced[dice.below(problem.balanced.len())];
        let (a, b) = (draw(dice), draw(dice));
        let node = if nodes.is_empty() && off(b) > off(a) { b } else { a };
        if !nodes.contains(&node) {
            nodes.push(node);
        }
    }
    let on = |&shard: &u32| {
        let here = |node: &u32| nodes.contains(node);
        !problem.frozen[shard as usize] && solution.of(problem, shard as usize).iter().any(here)
    };
    let shards: Vec<u32> = (0..problem.shards() as u32).filter(on).collect();
    let most = BINARIES / (2 * count.max(1));
    (sample(problem, solution, shards, most, dice), nodes)
}

/// Some shards, all nodes.
fn few_shards(problem: &Problem, solution: &Solution, dice: &mut Dice) -> (Vec<u32>, Vec<u32>) {
    let shards = (0..problem.shards() as u32).filter(|&shard| !problem.frozen[shard as usize]).collect();
    let count = (BINARIES / (2 * problem.nodes.len().max(1))).max(2);
    let nodes = (0..problem.nodes.len() as u32).collect();
    (sample(problem, solution, shards, count, dice), nodes)
}
