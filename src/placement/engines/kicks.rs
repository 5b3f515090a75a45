//! Moves of one big replica that annealing alone cannot make, since it takes many small ones to make up for it.
//!
//! It only chooses: the caller anneals what follows, with the replica held where it was put.

use super::local_search::Dice;
use crate::placement::bound::{Prices, Pricing};
use crate::placement::constraint::spreads;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// How many of a replica's cheapest other nodes it may be put on.
const CHEAPEST: usize = 3;
/// Draws before giving up.
const DRAWS: usize = 50;

/// What every kick looks at.
pub struct Kicks<'a> {
    problem: &'a Problem,
    prices: &'a Prices,
    pricing: Pricing<'a>,
    /// Sums of the shards' squared sizes: the big ones are drawn the most often.
    sums: Vec<f64>,
}

impl<'a> Kicks<'a> {
    /// Under these prices.
    pub fn new(problem: &'a Problem, prices: &'a Prices) -> Self {
        let pricing = Pricing::new(problem);
        let mut sum = 0.0;
        let weight = |shard: usize| if problem.frozen[shard] { 0.0 } else { pricing.size(shard).powi(2) };
        let add = |shard: usize| {
            sum += weight(shard);
            sum
        };
        let sums = (0..problem.shards()).map(add).collect();
        Self { problem, prices, pricing, sums }
    }

    /// Puts a replica on one of the nodes that are the cheapest for it; answers its slot. None if none can move.
    pub fn kick(&self, solution: &mut Solution, dice: &mut Dice) -> Option<usize> {
        let total = self.sums.last().copied().filter(|&total| total > 0.0)?;
        for _ in 0..DRAWS {
            let at = dice.unit() * total;
            let shard = self.sums.partition_point(|&sum| sum <= at).min(self.sums.len() - 1);
            let slots = self.problem.slots(shard);
            if slots.is_empty() || self.problem.frozen[shard] {
                continue;
            }
            let slot = slots.start + dice.below(slots.len());
            let offers = self.offers(solution, shard, slot);
            if !offers.is_empty() {
                solution.nodes[slot] = offers[dice.below(offers.len().min(CHEAPEST))].1;
                return Some(slot);
            }
        }
        None
    }

    /// The other nodes that a replica may stand on, the cheapest first.
    fn offers(&self, solution: &Solution, shard: usize, slot: usize) -> Vec<(f64, u32)> {
        let (problem, placed) = (self.problem, solution.of(self.problem, shard));
        let index = slot - problem.slots(shard).start;
        if problem.is_pinned(shard, placed[index]) {
            return Vec::new();
        }
        let size = self.pricing.size(shard);
        let cost = |node: u32| {
            let copy = if problem.holds(shard, node) { 0.0 } else { self.pricing.move_cost * size };
            (self.prices.replica[node as usize] + self.prices.size[node as usize] * size + copy, node)
        };
        let may = |&node: &u32| {
            !placed.contains(&node)
                && problem.may_hold(shard, node)
                && spreads(problem, shard, placed, index, node)
        };
        let mut offers: Vec<(f64, u32)> = (0..problem.nodes.len() as u32).filter(may).map(cost).collect();
        offers.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        offers
    }
}
