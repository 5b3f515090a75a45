//! Moves of one big replica that annealing alone cannot make, since it takes many small ones to make up for it.
//!
//! Under good prices the score is above the bound by what replicas *regret*: what their place costs above their
//! cheapest one. A replica is drawn by its regret and put on one of its cheapest places. It only chooses: the caller
//! anneals what follows, with the replica held where it was put.

use super::local_search::Dice;
use crate::placement::bound::{Prices, Pricing};
use crate::placement::constraint::spreads;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// How many of a replica's cheapest other nodes it may be put on.
const CHEAPEST: usize = 3;

/// What every kick looks at.
pub struct Kicks<'a> {
    problem: &'a Problem,
    prices: &'a Prices,
    pricing: Pricing<'a>,
}

impl<'a> Kicks<'a> {
    /// Under these prices.
    pub fn new(problem: &'a Problem, prices: &'a Prices) -> Self {
        Self { problem, prices, pricing: Pricing::new(problem) }
    }

    /// Puts a replica elsewhere; answers its slot. None if none regrets its place.
    pub fn kick(&self, solution: &mut Solution, dice: &mut Dice) -> Option<usize> {
        let mut sum = 0.0;
        let mut sums = Vec::with_capacity(solution.nodes.len());
        for shard in 0..self.problem.shards() {
            for slot in self.problem.slots(shard) {
                let least =
                    self.offers(solution, shard, slot).iter().map(|offer| offer.0).min_by(f64::total_cmp);
                let cost = self.cost(shard, solution.nodes[slot]);
                sum += least.map_or(0.0, |least| (cost - least).max(0.0));
                sums.push((sum, shard));
            }
        }
        let at = dice.unit() * sum;
        let slot = sums.partition_point(|&(sum, _)| sum <= at);
        let &(_, shard) = sums.get(slot)?;
        let mut offers = self.offers(solution, shard, slot);
        offers.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        offers.truncate(CHEAPEST);
        solution.nodes[slot] = offers.get(dice.below(offers.len().max(1)))?.1;
        Some(slot)
    }

    fn cost(&self, shard: usize, node: u32) -> f64 {
        let size = self.pricing.size(shard);
        let copy = if self.problem.holds(shard, node) { 0.0 } else { self.pricing.copy(size) };
        self.prices.replica[node as usize] + self.prices.size[node as usize] * size + copy
    }

    /// The other nodes that a replica may stand on, with what they cost.
    fn offers(&self, solution: &Solution, shard: usize, slot: usize) -> Vec<(f64, u32)> {
        let (problem, placed) = (self.problem, solution.of(self.problem, shard));
        let index = slot - problem.slots(shard).start;
        if problem.frozen[shard] || problem.is_pinned(shard, placed[index]) {
            return Vec::new();
        }
        let may = |&node: &u32| {
            !placed.contains(&node)
                && problem.may_hold(shard, node)
                && spreads(problem, shard, placed, index, node)
        };
        let nodes = (0..problem.nodes.len() as u32).filter(may);
        nodes.map(|node| (self.cost(shard, node), node)).collect()
    }
}
