//! How much may be copied in all: bytes and copies; and how even a placement can be with so little.

use super::objective::moved;
use super::policy::Tolerance;
use super::problem::Problem;
use super::solution::{Solution, held};

/// The most that may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes.
    pub bytes: u64,
    /// Copies.
    pub copies: u64,
}

impl Caps {
    /// No limit.
    pub const NONE: Self = Self { bytes: u64::MAX, copies: u64::MAX };

    /// What the policy allows, or what `base`, the repaired present, copies if that is more: repairs come first.
    pub fn of(problem: &Problem, base: &Solution) -> Self {
        let (bytes, copies, _) = moved(problem, base);
        let most = |max: Option<u64>, base: u64| max.map_or(u64::MAX, |max| max.max(base));
        Self { bytes: most(problem.policy.bytes_max, bytes), copies: most(problem.policy.moves_max, copies) }
    }

    /// Whether so many bytes and copies are allowed; leader changes, the third, are free.
    pub fn allow(&self, (bytes, copies, _): (u64, u64, u64)) -> bool {
        bytes <= self.bytes && copies <= self.copies
    }
}

/// The least worst deviations that can be had with what `caps` leave, from `base`. Who aims at less serves the nodes
/// with the biggest shares first, and the worst one stays as it is.
pub fn reachable(problem: &Problem, base: &Solution, caps: Caps) -> Tolerance {
    let (bytes, copies, _) = moved(problem, base);
    let held = held(problem, base);
    let nodes = || problem.balanced.iter().map(|&node| (&held[node as usize], &problem.fair[node as usize]));
    let sizes: Vec<(f64, f64)> = nodes().map(|(held, fair)| (held.bytes as f64, fair.bytes)).collect();
    let counts: Vec<(f64, f64)> =
        nodes().map(|(held, fair)| (f64::from(held.replicas), fair.replicas)).collect();
    Tolerance {
        replicas: least_deviation(&counts, caps.copies.saturating_sub(copies) as f64),
        leaders: 0.0,
        bytes: least_deviation(&sizes, caps.bytes.saturating_sub(bytes) as f64),
    }
}

/// The least worst deviation of loads from their fair shares after so much has moved.
fn least_deviation(nodes: &[(f64, f64)], left: f64) -> f64 {
    let suffices = |off: f64| {
        let over: f64 = nodes.iter().map(|&(load, fair)| (load - fair * (1.0 + off)).max(0.0)).sum();
        let under: f64 = nodes.iter().map(|&(load, fair)| (fair * (1.0 - off) - load).max(0.0)).sum();
        over.max(under) <= left
    };
    let worst = nodes.iter().filter(|node| node.1 > 0.0).map(|&(load, fair)| (load / fair - 1.0).abs());
    let (mut low, mut high) = (0.0, worst.fold(0.0, f64::max));
    if suffices(0.0) {
        return 0.0;
    }
    for _ in 0..50 {
        let middle = (low + high) / 2.0;
        if suffices(middle) { high = middle } else { low = middle }
    }
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_move_says_how_even_loads_can_get() {
        let nodes = [(30.0, 20.0), (0.0, 10.0)];
        for (left, worst) in [(0.0, 1.0), (5.0, 0.5), (10.0, 0.0), (99.0, 0.0)] {
            assert!((least_deviation(&nodes, left) - worst).abs() < 1e-9, "{left}");
        }
    }
}
