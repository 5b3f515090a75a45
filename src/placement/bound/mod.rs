//! A lower bound on the objective: the Lagrangian relaxation of the balance rows, priced shard by shard.
//!
//! Any prices give a valid bound, so the search for good prices (sweeps, then a bundle of tangents) may stop
//! at any moment. The prices are also what guides local search. Per-table, write and read terms are bounded
//! by zero. The bound holds for solutions that break no hard rule.

mod ascent;
mod bundle;
mod envelope;
mod giants;
mod pricing;
mod row;

pub use ascent::{Ascent, AscentLimits};
pub use envelope::{Envelope, Line};
pub use giants::giant_floor;
pub use pricing::{Priced, Prices, Pricing};
pub use row::Row;

use super::budget::{Budget, Part};
use super::problem::Problem;
use super::solution::Solution;

/// What the bound leaves for the search.
pub struct PricedStart {
    /// Prices of the nodes.
    pub prices: Prices,
    /// No placement that keeps the hard rules scores less.
    pub bound: f64,
    /// A placement by those prices; it may break the rule on room.
    pub solution: Solution,
    /// Work spent.
    pub work: u64,
}

/// From this many nodes on, the ascent starts with sweeps in small batches.
const SWEEP_NODES: usize = 60;

/// Steps by tangents.
const STEPS: AscentLimits = AscentLimits { steps: 3000, patience: 300, gain: 1e-5 };

/// A lower bound without any search: what rounding and giant shards force. Takes one look at every shard.
pub fn least_score(problem: &Problem) -> f64 {
    Ascent::new(problem).floor()
}

/// The least worst deviation of replicas, leaders and bytes: what rounding and giant shards force.
pub fn least_deviations(problem: &Problem) -> [f64; 3] {
    Ascent::new(problem).floors()
}

/// Whether the ascent wants a reachable score to aim at: small worlds do without sweeps.
pub fn wants_aim(problem: &Problem) -> bool {
    problem.balanced.len() < SWEEP_NODES
}

/// Finds prices and the bound that they prove, within a budget; usually ends before it does. `above` is a
/// score known to be reachable, or infinity.
pub fn prices_and_bound(problem: &Problem, above: f64, budget: &mut dyn Budget) -> PricedStart {
    let mut ascent = Ascent::new(problem);
    ascent.above = above;
    if problem.balanced.len() >= SWEEP_NODES {
        let mut part = Part::new(budget, 0.7);
        ascent.sweep(40, 200, (2.0, 0.02), &mut part);
    }
    ascent.run(STEPS, budget);
    let solution = ascent.round(200, 1.0);
    PricedStart { prices: ascent.best_prices.clone(), bound: ascent.bound(), solution, work: ascent.work }
}
