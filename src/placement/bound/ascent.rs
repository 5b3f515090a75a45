//! The search for good prices: a volume-style subgradient ascent on the Lagrangian dual.
//!
//! Steps are taken in relative units (a price times the node's fair share), where all three dimensions have
//! the same scale. Deterministic; stops by count or when told to.

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
    /// What a step counts for in the mean over the steps, at the least.
    pub share: f64,
    /// How near the target is: a part of the way from the best bound to the score known to be reachable, or to
    /// 1 % more than the best bound.
    pub aim: f64,
}

impl Default for AscentLimits {
    fn default() -> Self {
        Self { steps: 400, patience: 60, gain: 1e-4, share: 0.05, aim: 1.0 }
    }
}

/// The state of the ascent: the best prices so far, and the loads averaged over the steps.
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
    mean: [Vec<f64>; 3],
    /// Steps taken.
    pub steps: u32,
    /// Shards priced.
    pub work: u64,
    factor: f64,
    /// A score known to be reachable.
    pub above: f64,
    stale: u32,
    history: Vec<f64>,
    /// By row and node: how far the load was from what the row would have, averaged over the steps.
    slopes: [Vec<f64>; 3],
}

/// Steps without a gain after which they get shorter.
const STALE: u32 = 20;

impl<'a> Ascent<'a> {
    /// Starts at no prices.
    pub fn new(problem: &'a Problem) -> Self {
        let pricing = Pricing::new(problem);
        let scale = (problem.replicas() as f64).max(1.0);
        let (weights, nodes) = (&problem.policy.weights, &problem.balanced);
        let unit = pricing.unit_bytes;
        let fair = |n: u32| problem.fair[n as usize];
        let rows = [
            Row::counts(weights.replicas * scale, nodes, problem.is_closed(), |n| fair(n).replicas),
            Row::counts(weights.leaders * scale, nodes, problem.is_closed(), |n| fair(n).leaders),
            Row::amounts(weights.bytes * scale, nodes, |n| fair(n).bytes / unit, giant_floor(problem)),
        ];
        let forced = rows[0].next().map_or(Vec::new(), |next| trade(problem, rows[0].floor, next));
        let none = Prices::zero(problem.nodes.len());
        let mean = std::array::from_fn(|_| vec![0.0; problem.nodes.len()]);
        Self {
            pricing,
            rows,
            forced,
            scale,
            prices: none.clone(),
            best_prices: none,
            best: f64::NEG_INFINITY,
            mean,
            steps: 0,
            work: 0,
            factor: 0.5,
            above: f64::INFINITY,
            stale: 0,
            history: Vec::new(),
            slopes: std::array::from_fn(|_| vec![0.0; problem.nodes.len()]),
        }
    }

    /// The best bound so far, in units of the score; 0 before the first step.
    pub fn bound(&self) -> f64 {
        (self.best / self.scale - 1e-9).max(0.0)
    }

    /// What the rows cost at the least without any prices, in units of the score.
    pub fn floor(&self) -> f64 {
        let alone = |row: &Row| row.weight * row.floor;
        let [replicas, leaders, bytes] = &self.rows;
        let both = |forced: &Forced| replicas.weight * forced.count + bytes.weight * forced.bytes;
        let together = self.forced.iter().map(both).min_by(f64::total_cmp);
        (together.unwrap_or(alone(replicas) + alone(bytes)) + alone(leaders)) / self.scale
    }

    /// The rows' least deviations.
    pub fn floors(&self) -> [f64; 3] {
        [0, 1, 2].map(|row| self.rows[row].floor)
    }

    /// Replicas, leaders and size on every node, averaged over the steps: a fractional placement.
    pub fn loads(&self) -> &[Vec<f64>; 3] {
        &self.mean
    }

    /// Ascends until `limits` or the budget ends.
    pub fn run(&mut self, limits: AscentLimits, budget: &mut dyn Budget) {
        let mut priced = Priced::default();
        self.history.clear();
        (self.factor, self.stale, self.steps) = (0.5, 0, 0);
        self.prices = self.best_prices.clone();
        while self.history.len() < limits.steps as usize && budget.spend(0) < 1.0 {
            self.step(limits, &mut priced);
            self.spend(self.pricing.shards(), budget);
            let back = self.history.len().saturating_sub(limits.patience as usize + 1);
            let gained = self.best - self.history[back];
            if self.history.len() > limits.patience as usize && gained < limits.gain * self.best.abs() {
                break;
            }
        }
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
            let mut mean = Prices::zero(self.mean[0].len());
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

    /// What the next step aims at: the score known to be reachable, else a little above the best.
    fn target(&self, aim: f64) -> f64 {
        if self.above.is_finite() {
            self.best.max(0.0) + aim * (self.above * self.scale - self.best.max(0.0))
        } else {
            self.best + aim * (0.01 * self.best.abs() + 1e-4 * self.scale)
        }
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
        let mut slopes = vec![0.0; self.mean[0].len()];
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

    fn step(&mut self, limits: AscentLimits, priced: &mut Priced) {
        self.pricing.price(&self.prices, 0, 1, priced);
        let cases = self.cases(&self.prices);
        let value = priced.cost + cases.iter().map(|case| case.value).sum::<f64>();
        let loads = [&priced.replicas, &priced.leaders, &priced.sizes];
        let share = if self.steps == 0 { 1.0 } else { (2.0 / f64::from(self.steps + 2)).max(limits.share) };
        for (mean, load) in self.mean.iter_mut().zip(loads) {
            mean.iter_mut().zip(load).for_each(|(mean, load)| *mean += share * (load - *mean));
        }
        if value > self.best {
            if value > self.best + 1e-4 * self.best.abs() {
                self.factor = (self.factor * 1.05).min(1.5);
                self.stale = 0;
            }
            self.best = value;
            self.best_prices = self.prices.clone();
        } else {
            self.stale += 1;
            if self.stale >= STALE {
                self.stale = 0;
                self.factor *= 0.7;
                self.prices = self.best_prices.clone();
            }
        }
        let mut slopes = vec![0.0; self.mean[0].len()];
        let mut norm = 0.0;
        for (row, case) in cases.iter().enumerate() {
            slopes.fill(0.0);
            let prices = [&self.prices.replica, &self.prices.leader, &self.prices.size][row];
            // The mean over the steps, of what is wanted as of what is there: at a kink, where the row's case
            // changes from step to step, the last step's wish alone would lead nowhere.
            self.rows[row].slopes(*case, prices, loads[row], &mut slopes);
            let mean = &mut self.slopes[row];
            mean.iter_mut().zip(&slopes).for_each(|(mean, slope)| *mean += share * (slope - *mean));
            norm += mean.iter().map(|slope| slope * slope).sum::<f64>();
        }
        let target = self.target(limits.aim);
        let length = self.factor * (target - value).max(1e-3 * self.best.abs()) / norm.max(1e-12);
        let prices = [&mut self.prices.replica, &mut self.prices.leader, &mut self.prices.size];
        for (row, prices) in prices.into_iter().enumerate() {
            for (&node, &fair) in self.rows[row].nodes.iter().zip(&self.rows[row].fair) {
                prices[node as usize] += length * self.slopes[row][node as usize] / fair;
            }
            self.rows[row].project(prices);
        }
        self.steps += 1;
        self.history.push(self.best);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::constraint::broken;
    use crate::placement::objective::score;
    use crate::placement::policy::Policy;
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
            let policy = Policy { watermark: 1.0, ..Policy::default() };
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
            let limits = AscentLimits { steps: 50, patience: 50, gain: 0.0, ..AscentLimits::default() };
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
