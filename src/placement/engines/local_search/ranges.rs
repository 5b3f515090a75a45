//! Which loads count as balanced: the rounding floor for counts, a tolerance for bytes, and for both what
//! zones make impossible to better.

use super::state::Ranges;
use crate::placement::bound::{Row, giant_floor};
use crate::placement::policy::Tolerance;
use crate::placement::problem::{Fair, Problem};

impl Ranges {
    /// Ranges within `tolerance` of the fair share, or the policy's where that is more.
    pub fn new(problem: &Problem, tolerance: Tolerance) -> Self {
        let unit = (problem.total_bytes / (problem.replicas() as f64).max(1.0)).max(f64::MIN_POSITIVE);
        let nodes = problem.nodes.len();
        let mut ranges = Self { low: vec![[0.0; 3]; nodes], high: vec![[f64::INFINITY; 3]; nodes] };
        let fair = |n: u32| &problem.fair[n as usize];
        let counts = [
            (
                Row::counts(1.0, &problem.balanced, problem.is_closed(), |n| fair(n).replicas),
                zone_floor(problem, |f| f.replicas, 1.0),
            ),
            (Row::counts(1.0, &problem.balanced, problem.is_closed(), |n| fair(n).leaders), 0.0),
        ];
        let off = tolerance.or_more(&problem.policy.tolerance);
        for (dimension, ((row, forced), off)) in counts.iter().zip([off.replicas, off.leaders]).enumerate() {
            let forced = &forced.max(off);
            for (at, (&node, &fair)) in row.nodes.iter().zip(&row.fair).enumerate() {
                let (mut low, mut high) = row.range(at);
                if *forced > row.floor {
                    (low, high) =
                        ((fair * (1.0 - forced) + 1e-7).floor(), (fair * (1.0 + forced) - 1e-7).ceil());
                }
                ranges.low[node as usize][dimension] = low;
                ranges.high[node as usize][dimension] = high;
            }
        }
        // What one giant shard or the zones force on some node may as well be allowed to all.
        let mean = problem.total_bytes / problem.replicas().max(1) as f64;
        let forced = zone_floor(problem, |f| f.bytes, mean).max(giant_floor(problem));
        let tolerance = off.bytes.max(forced);
        for &n in &problem.balanced {
            let fair = fair(n).bytes / unit;
            ranges.low[n as usize][2] = fair * (1.0 - tolerance);
            ranges.high[n as usize][2] = fair * (1.0 + tolerance);
        }
        ranges
    }
}

/// The least worst deviation that zones force: a zone holds at most one replica of a shard (or its cap), so
/// a zone with more than its part of the fair shares leaves the excess to others.
pub fn zone_floor(problem: &Problem, fair: fn(&Fair) -> f64, mean: f64) -> f64 {
    let zones = problem.nodes.iter().map(|node| node.zone as usize + 1).max().unwrap_or(0);
    let mut shares = vec![0.0; zones];
    problem
        .balanced
        .iter()
        .for_each(|&n| shares[problem.nodes[n as usize].zone as usize] += fair(&problem.fair[n as usize]));
    let total: f64 = shares.iter().sum();
    let per_replica = |shard: usize| if mean == 1.0 { 1.0 } else { problem.bytes[shard] as f64 };
    let most = |shard: usize| {
        let slots = problem.slots(shard).len() as f64;
        per_replica(shard) * slots.min(f64::from(problem.zone_cap[shard]))
    };
    let cap: f64 = (0..problem.shards()).map(most).sum();
    shares.retain(|&share| share > 0.0);
    let fits = |off: f64| {
        let held = shares.iter().map(|&share| (share * (1.0 + off)).min(cap)).sum::<f64>();
        held >= total * (1.0 - 1e-9) && shares.iter().all(|&share| share * (1.0 - off) <= cap * (1.0 + 1e-9))
    };
    let (mut low, mut high) = (0.0, 1e-6);
    if fits(0.0) {
        return 0.0;
    }
    while !fits(high) && high < 1e6 {
        low = high;
        high *= 2.0;
    }
    for _ in 0..60 {
        let middle = (low + high) / 2.0;
        if fits(middle) { high = middle } else { low = middle }
    }
    high
}
