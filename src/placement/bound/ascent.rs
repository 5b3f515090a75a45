//! The search for good prices: sweeps over batches of shards, then a bundle of tangents, on the Lagrangian dual.
//!
//! Steps are taken in relative units (a price times the node's fair share), where all three dimensions have
//! the same scale. Deterministic; stops by count or when told to.

use super::bundle::Bundle;
use super::giants::{Forced, giant_floor, trade};
use super::pricing::{Priced, Prices, Pricing};
use super::row::{Case, Row};
use crate::placement::budget::Budget;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// When the ascent ends.
#[derive(Debug, Clone, Copy)]
pub struct AscentLimits {
    /// Steps at most.
    pub steps: u32,
    /// Ends when this many steps in a row bring less than `gain` of the value.
    pub patience: u32,
    /// See `patience`.
    pub gain: f64,
}

/// The state of the ascent: the best prices so far, and the bound that they prove.
pub struct Ascent<'a> {
    pricing: Pricing<'a>,
    rows: [Row; 3],
    /// What giants force on counts and bytes together.
    forced: Vec<Forced>,
    scale: f64,
    prices: Prices,
    /// The best bound's prices, in units of the mean replica's move.
    pub best_prices: Prices,
    best: f64,
    /// Shards priced.
    pub work: u64,
    /// A score known to be reachable.
    pub above: f64,
}

/// Which part of the way to a reachable score the first step takes, if the slope held.
const FIRST: f64 = 0.3;
/// Ends when the tangents promise less than this, relatively.
const CLOSE: f64 = 1e-7;

impl<'a> Ascent<'a> {
    /// Starts at no prices.
    pub fn new(problem: &'a Problem) -> Self {
        let pricing = Pricing::new(problem);
        let scale = (problem.replicas() as f64).max(1.0);
        let (weights, nodes) = (&problem.policy.weights, &problem.balanced);
        let unit = pricing.unit_bytes;
        let (fair, off) = (|n: u32| problem.fair[n as usize], &problem.policy.tolerance);
        let rows = [
            Row::counts(weights.replicas * scale, nodes, problem.is_closed(), |n| fair(n).replicas)
                .tolerating(off.replicas),
            Row::counts(weights.leaders * scale, nodes, problem.is_closed(), |n| fair(n).leaders)
                .tolerating(off.leaders),
            Row::amounts(weights.bytes * scale, nodes, |n| fair(n).bytes / unit, giant_floor(problem))
                .tolerating(off.bytes),
        ];
        let forced = rows[0].next().map_or(Vec::new(), |next| trade(problem, rows[0].floor, next));
        let none = Prices::zero(problem.nodes.len());
        Self {
            pricing,
            rows,
            forced,
            scale,
            prices: none.clone(),
            best_prices: none,
            best: f64::NEG_INFINITY,
            work: 0,
            above: f64::INFINITY,
        }
    }

    /// The best bound so far, in units of the score; 0 before the first step.
    pub fn bound(&self) -> f64 {
        (self.best / self.scale - 1e-9).max(0.0)
    }

    /// What the rows cost at the least without any prices, in units of the score.
    pub fn floor(&self) -> f64 {
        let alone = |row: &Row| row.cost(row.floor);
        let [replicas, leaders, bytes] = &self.rows;
        let both = |forced: &Forced| replicas.cost(forced.count) + bytes.cost(forced.bytes);
        let together = self.forced.iter().map(both).min_by(f64::total_cmp);
        (together.unwrap_or(alone(replicas) + alone(bytes)) + alone(leaders)) / self.scale
    }

    /// The rows' least deviations.
    pub fn floors(&self) -> [f64; 3] {
        [0, 1, 2].map(|row| self.rows[row].floor)
    }

    /// Ascends by a bundle of tangents from the best prices until `limits` or the budget ends.
    pub fn run(&mut self, limits: AscentLimits, budget: &mut dyn Budget) {
        let mut priced = Priced::default();
        let mut centre = self.best_prices.clone();
        let (mut value, slope) = self.tangent(&centre, &mut priced);
        if value > self.best {
            (self.best, self.best_prices) = (value, centre.clone());
        }
        let steepness = slope.iter().map(|slope| slope * slope).sum::<f64>();
        let aim = if self.above.is_finite() { self.above * self.scale - value } else { 0.0 };
        let reach = FIRST * aim.max(1e-3 * value.abs()).max(1e-9 * self.scale) / steepness.max(1e-12);
        let mut bundle = Bundle::new(slope, reach);
        let mut history = vec![self.best];
        while history.len() <= limits.steps as usize && budget.spend(0) < 1.0 {
            let step = bundle.step();
            let (there, by) = self.stepped(&centre, &step.by);
            let (found, slope) = self.tangent(&there, &mut priced);
            if bundle.seen(&by, step.promise, found - value, slope) {
                (centre, value) = (there, found);
            }
            if value > self.best {
                (self.best, self.best_prices) = (value, centre.clone());
            }
            self.spend(self.pricing.shards(), budget);
            history.push(self.best);
            let back = history.len().saturating_sub(limits.patience as usize + 1);
            let stale = self.best - history[back] < limits.gain * self.best.abs();
            if step.promise < CLOSE * self.best.abs() || (history.len() > limits.patience as usize && stale) {
                break;
            }
        }
    }

    /// The dual's value at some prices, and its slope in relative units.
    fn tangent(&mut self, prices: &Prices, priced: &mut Priced) -> (f64, Vec<f64>) {
        self.pricing.price(prices, 0, 1, priced);
        let cases = self.cases(prices);
        let loads = [&priced.replicas, &priced.leaders, &priced.sizes];
        let nodes = loads[0].len();
        let mut slopes = vec![0.0; 3 * nodes];
        for (row, case) in cases.iter().enumerate() {
            let into = &mut slopes[row * nodes..(row + 1) * nodes];
            self.rows[row].slopes(*case, prices.row(row), loads[row], into);
        }
        (priced.cost + cases.iter().map(|case| case.value).sum::<f64>(), slopes)
    }

    /// The prices after a step in relative units, and the step as far as prices may go.
    fn stepped(&self, from: &Prices, by: &[f64]) -> (Prices, Vec<f64>) {
        let mut prices = from.clone();
        let nodes = from.replica.len();
        let mut made = vec![0.0; by.len()];
        for (row, of) in self.rows.iter().enumerate() {
            let charges = prices.row_mut(row);
            for (&node, &fair) in of.nodes.iter().zip(&of.fair) {
                charges[node as usize] += by[row * nodes + node as usize] / fair;
            }
            of.project(charges);
            for (&node, &fair) in of.nodes.iter().zip(&of.fair) {
                let node = node as usize;
                made[row * nodes + node] = (charges[node] - from.row(row)[node]) * fair;
            }
        }
        (prices, made)
    }

    fn spend(&mut self, shards: usize, budget: &mut dyn Budget) -> f64 {
        self.work += shards as u64;
        budget.spend(shards as u64)
    }

    /// The coarse phase: small steps after small batches of shards, each batch of all sizes, the step's rate
    /// falling from `rates.0` to `rates.1`; the prices' mean over a pass is what is kept.
    pub fn sweep(&mut self, passes: u32, batch: usize, rates: (f64, f64), budget: &mut dyn Budget) {
        let mut priced = Priced::default();
        let batches = (self.pricing.shards() / batch.max(1)).clamp(1, 1000);
        for pass in 0..passes {
            let part = budget.spend(0).max(f64::from(pass) / f64::from(passes));
            if part >= 1.0 {
                break;
            }
            let rate = rates.0 * (rates.1 / rates.0).powf(part);
            let mut mean = Prices::zero(self.prices.replica.len());
            for batch in 0..batches {
                let first = (batch * 7919 + pass as usize * 31) % batches;
                self.pricing.price(&self.prices, first, batches, &mut priced);
                self.follow(rate / batches as f64, batches as f64, &priced);
                for row in 0..3 {
                    let part = mean.row_mut(row).iter_mut().zip(self.prices.row(row));
                    part.for_each(|(mean, price)| *mean += price / batches as f64);
                }
            }
            for row in 0..3 {
                self.rows[row].project(mean.row_mut(row));
            }
            let value = self.value(&mean, &mut priced);
            self.spend(2 * self.pricing.shards(), budget);
            if value > self.best {
                self.best = value;
                self.best_prices = mean;
            }
        }
        self.prices = self.best_prices.clone();
    }

    /// A placement by the best prices, which on the way follow the loads that they bring about: near balance,
    /// near the bound's cost, hard rules kept but for room.
    pub fn round(&mut self, batch: usize, rate: f64) -> Solution {
        let batches = (self.pricing.shards() / batch.max(1)).clamp(1, 1000);
        let solution = Some(Solution::empty(self.pricing.problem()));
        let mut priced = Priced { solution, ..Priced::default() };
        self.prices = self.best_prices.clone();
        for batch in 0..batches {
            self.pricing.price(&self.prices, (batch * 7919) % batches, batches, &mut priced);
            self.follow(rate / batches as f64, batches as f64, &priced);
        }
        self.prices = self.best_prices.clone();
        priced.solution.unwrap_or_else(|| Solution::empty(self.pricing.problem()))
    }

    /// Where each row's bound is attained; counts and bytes together, where giants tie them.
    fn cases(&self, prices: &Prices) -> [Case; 3] {
        let [counts, leaders, bytes] = &self.rows;
        let led = leaders.bound(&prices.leader);
        let pair = |(at, forced): (usize, &Forced)| {
            let lowest = if at == 0 { counts.lowest(&prices.replica) } else { None };
            let count = lowest.unwrap_or_else(|| counts.beyond(&prices.replica, forced.count));
            (count, bytes.beyond(&prices.size, forced.bytes))
        };
        let pairs = self.forced.iter().enumerate().map(pair);
        let least = pairs.min_by(|a, b| (a.0.value + a.1.value).total_cmp(&(b.0.value + b.1.value)));
        let (count, size) =
            least.unwrap_or_else(|| (counts.bound(&prices.replica), bytes.bound(&prices.size)));
        [count, led, size]
    }

    fn value(&mut self, prices: &Prices, priced: &mut Priced) -> f64 {
        self.pricing.price(prices, 0, 1, priced);
        priced.cost + self.cases(prices).iter().map(|case| case.value).sum::<f64>()
    }

    fn follow(&mut self, rate: f64, times: f64, priced: &Priced) {
        let unit = self.scale / (self.rows[0].nodes.len() as f64).max(1.0);
        let loads = [&priced.replicas, &priced.leaders, &priced.sizes];
        let mut slopes = vec![0.0; self.prices.replica.len()];
        let cases = self.cases(&self.prices);
        for (row, load) in loads.into_iter().enumerate() {
            let prices = self.prices.row_mut(row);
            let case = cases[row];
            let load: Vec<f64> = load.iter().map(|load| load * times).collect();
            self.rows[row].slopes(case, prices, &load, &mut slopes);
            for (&node, &fair) in self.rows[row].nodes.iter().zip(&self.rows[row].fair) {
                prices[node as usize] += rate * unit * slopes[node as usize] / fair;
            }
            self.rows[row].project(prices);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::constraint::broken;
    use crate::placement::objective::score;
    use crate::placement::policy::{Policy, Tolerance};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_prices_give_a_bound(
            zones in prop::collection::vec(0u32..4, 2..5),
            sizes in prop::collection::vec(0u64..50, 1..5),
            present in prop::collection::vec(0u32..2, 5),
            replicas in 1u32..3,
            states in prop::collection::vec(0u8..6, 5),
            charges in prop::collection::vec(prop::collection::vec(-20.0f64..20.0, 3), 5),
            above in 0.0f64..3.0,
            off in prop_oneof![Just((0.0, 0.0, 0.0)), (0.0f64..0.7, 0.0f64..0.7, 0.0f64..0.7)],
        ) {
            let node = |(n, &zone): (usize, &u32)| {
                let (takes, holds) = (states[n] > 1, states[n] > 0);
                NodeSpec { zone, rack: n as u32, capacity_bytes: 500, weight: 1.0, takes, holds }
            };
            let nodes: Vec<NodeSpec> = zones.iter().enumerate().map(node).collect();
            let shards = sizes.iter().zip(&present).map(|(&bytes, &on)| {
                let load = Load { bytes, ..Load::default() };
                ShardSpec { load, replicas, present: vec![on], ..ShardSpec::default() }
            });
            let tolerance = Tolerance { replicas: off.0, leaders: off.1, bytes: off.2 };
            let policy = Policy { watermark: 1.0, tolerance, ..Policy::default() };
            let problem = Problem::new(nodes, shards, &policy);
            let mut ascent = Ascent::new(&problem);
            let mut prices = Prices::zero(zones.len());
            for (n, charge) in charges.iter().enumerate().take(zones.len()) {
                if problem.nodes[n].takes {
                    (0..3).for_each(|row| prices.row_mut(row)[n] = charge[row]);
                }
            }
            (0..3).for_each(|row| ascent.rows[row].project(prices.row_mut(row)));
            ascent.above = above;
            let limits = AscentLimits { steps: 50, patience: 50, gain: 0.0 };
            ascent.run(limits, &mut WorkBudget::new(1 << 20));
            let value = ascent.value(&prices, &mut Priced::default()) / ascent.scale;
            let value = value.max(ascent.bound());
            let slots = problem.replicas();
            for code in 0..zones.len().pow(slots as u32).min(20_000) {
                let digit = |at: usize| (code / zones.len().pow(at as u32) % zones.len()) as u32;
                let solution = Solution { nodes: (0..slots).map(digit).collect() };
                if broken(&problem, &solution).is_empty() {
                    let score = score(&problem, &solution).total;
                    prop_assert!(value <= score + 1e-6, "{value} > {score} {solution:?}");
                }
            }
        }
    }
}
