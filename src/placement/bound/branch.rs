//! Branch and bound on the biggest shards, whose replicas the relaxation cuts in pieces although they are whole.
//!
//! A node of the tree decides for some big shards where a replica must or must not stand; its value is the
//! relaxation's bound under that. The least value over the leaves is a bound of the whole problem, at every moment.
//! The best leaves' decisions and prices are where the search starts from. Shards that are not among the biggest
//! stay in pieces.

use super::ascent::{Ascent, AscentLimits};
use super::pricing::Prices;
use crate::placement::budget::Budget;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
use std::collections::BTreeMap;

/// By shard: nodes on which a replica must stand (true) or must not (false).
pub type Decided = BTreeMap<u32, Vec<(u32, bool)>>;

/// How many of the biggest shards may be decided.
const WATCHED: usize = 48;
/// Leaves of the tree, at most.
const LEAVES_MAX: usize = 2000;
/// A replica is in pieces if this much of it is elsewhere.
const PIECE: f64 = 0.02;

/// A leaf of the tree.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// What was decided on the way.
    pub decided: Decided,
    /// The prices of its bound.
    pub prices: Prices,
    /// Its bound, in units of the score.
    pub bound: f64,
    /// The shard and node to decide next; none if all big replicas are whole.
    next: Option<(u32, u32)>,
}

/// Grows the tree from `prices` until the budget ends, the bound reaches `above`, or nothing is left to decide.
/// Answers the leaves, the lowest bound first, and the work spent.
pub fn branch(problem: &Problem, prices: &Prices, above: f64, budget: &mut dyn Budget) -> (Vec<Leaf>, u64) {
    let mut ascent = Ascent::new(problem);
    ascent.above = above;
    let big = ascent.watch(WATCHED);
    let first = AscentLimits { steps: 400, patience: 100, gain: 1e-5 };
    let mut leaves = vec![grow(&mut ascent, &big, prices, Decided::new(), 0.0, first, budget)];
    let limits = AscentLimits { steps: 120, patience: 30, gain: 1e-4 };
    while leaves.len() < LEAVES_MAX && budget.spend(0) < 1.0 {
        let least = (0..leaves.len()).min_by(|&a, &b| leaves[a].bound.total_cmp(&leaves[b].bound));
        let Some(at) = least.filter(|&at| leaves[at].bound < above * (1.0 - 1e-4)) else { break };
        let Some((shard, node)) = leaves[at].next else { break };
        let leaf = leaves.swap_remove(at);
        for must in [true, false] {
            let mut decided = leaf.decided.clone();
            decided.entry(shard).or_default().push((node, must));
            leaves.push(grow(&mut ascent, &big, &leaf.prices, decided, leaf.bound, limits, budget));
        }
    }
    leaves.sort_by(|a, b| a.bound.total_cmp(&b.bound));
    (leaves, ascent.work)
}

fn grow(
    ascent: &mut Ascent<'_>,
    big: &[u32],
    prices: &Prices,
    decided: Decided,
    above: f64,
    limits: AscentLimits,
    budget: &mut dyn Budget,
) -> Leaf {
    ascent.restart(prices, &decided);
    ascent.run(limits, budget);
    let nodes = prices.size.len();
    let piece = |at: usize, node: usize| {
        let part = ascent.fractions().get(at * nodes + node).copied().unwrap_or(0.0);
        let is_open = !decided.get(&big[at]).is_some_and(|list| list.iter().any(|&(n, _)| n as usize == node));
        if is_open { part.min(1.0 - part) } else { 0.0 }
    };
    let pieces = (0..big.len()).flat_map(|at| (0..nodes).map(move |node| (at, node)));
    let weigh = |(at, node): (usize, usize)| {
        let part = piece(at, node);
        (if part > PIECE { part * ascent.size(big[at]) } else { 0.0 }, at, node)
    };
    let most = pieces.map(weigh).max_by(|a, b| a.0.total_cmp(&b.0).then((b.1, b.2).cmp(&(a.1, a.2))));
    let next = most.filter(|&(weight, _, _)| weight > 0.0).map(|(_, at, node)| (big[at], node as u32));
    let bound = ascent.bound().max(above);
    Leaf { decided, prices: ascent.best_prices.clone(), bound, next }
}

/// A placement by a leaf's prices, which follow the loads.
pub fn rounded(problem: &Problem, leaf: &Leaf) -> Solution {
    let mut ascent = Ascent::new(problem);
    ascent.watch(WATCHED);
    ascent.restart(&leaf.prices, &leaf.decided);
    ascent.round(200, 1.0)
}
