//! How good a solution is: the policy's weighted sum of worst deviations, copies and leader changes.
//!
//! With [`Weights::YARDSTICK`](super::policy::Weights::YARDSTICK) the total is `Z` of
//! `scripts/placement/evaluate.py`, which judges independently.

use super::problem::{Fair, NONE, Problem};
use super::solution::{Held, Solution, held};
use serde::Serialize;

/// A solution's terms, unweighted, and their weighted sum. All are shares, so no unit.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Score {
    /// Weighted sum: what engines minimise.
    pub total: f64,
    /// Worst deviation of replica count.
    pub replicas: f64,
    /// Worst deviation of leader count.
    pub leaders: f64,
    /// Worst deviation of bytes.
    pub bytes: f64,
    /// Share of bytes copied.
    pub moved: f64,
    /// Share of replicas copied.
    pub copied: f64,
    /// Share of shards whose leader changes.
    pub leader_changes: f64,
    /// Share of replicas above their table's fair share on a node.
    pub per_table: f64,
    /// Worst deviation of write rate.
    pub writes: f64,
    /// Worst deviation of read rate.
    pub reads: f64,
    /// Bytes copied.
    pub bytes_moved: u64,
    /// Copies made.
    pub copies: u64,
}

/// Scores a solution.
pub fn score(problem: &Problem, solution: &Solution) -> Score {
    let held = held(problem, solution);
    let worst = |load: fn(&Held) -> f64, fair: fn(&Fair) -> f64| {
        let deviation = |&n: &u32| deviation(load(&held[n as usize]), fair(&problem.fair[n as usize]));
        problem.balanced.iter().map(deviation).fold(0.0, f64::max)
    };
    let (bytes_moved, copies, changes) = moved(problem, solution);
    let mut score = Score {
        replicas: worst(|h| f64::from(h.replicas), |f| f.replicas),
        leaders: worst(|h| f64::from(h.leaders), |f| f.leaders),
        bytes: worst(|h| h.bytes as f64, |f| f.bytes),
        writes: worst(|h| h.writes, |f| f.writes),
        reads: worst(|h| h.reads, |f| f.reads),
        moved: bytes_moved as f64 / problem.total_bytes.max(1.0),
        copied: copies as f64 / (problem.replicas() as f64).max(1.0),
        leader_changes: changes as f64 / (problem.shards() as f64).max(1.0),
        bytes_moved,
        copies,
        ..Score::default()
    };
    if problem.policy.weights.per_table != 0.0 {
        score.per_table = per_table(problem, solution);
    }
    let w = &problem.policy.weights;
    let beyond = &problem.policy.tolerance;
    score.total = w.replicas * (score.replicas - beyond.replicas).max(0.0)
        + w.leaders * (score.leaders - beyond.leaders).max(0.0)
        + w.bytes * (score.bytes - beyond.bytes).max(0.0)
        + w.moved * score.moved
        + w.copies * score.copied
        + w.leader_changes * score.leader_changes
        + w.per_table * score.per_table
        + w.writes * score.writes
        + w.reads * score.reads;
    score
}

/// Relative deviation of a load from its fair share; 0 where the share is 0 (there is nothing to share).
#[inline]
pub fn deviation(load: f64, fair: f64) -> f64 {
    if fair > 0.0 { (load - fair).abs() / fair } else { 0.0 }
}

/// Bytes copied, copies made, leaders changed.
pub fn moved(problem: &Problem, solution: &Solution) -> (u64, u64, u64) {
    let (mut bytes, mut copies, mut changes) = (0, 0, 0);
    for shard in 0..problem.shards() {
        let placed = solution.of(problem, shard);
        let new = placed.iter().filter(|&&node| node != NONE && !problem.holds(shard, node)).count() as u64;
        bytes += new * problem.bytes[shard];
        copies += new;
        let leader = problem.leader(shard);
        let changed = leader != NONE && placed.first().is_some_and(|&node| node != leader);
        changes += u64::from(changed);
    }
    (bytes, copies, changes)
}

/// Share of all replicas that stand above their table's fair share on a node, rounded up. A table's fair
/// share on a node is by the same shares as the replica count's.
fn per_table(problem: &Problem, solution: &Solution) -> f64 {
    let mut counts = vec![0u32; problem.nodes.len()];
    let mut excess = 0.0;
    let mut shards: Vec<u32> = (0..problem.shards() as u32).collect();
    shards.sort_by_key(|&shard| problem.table[shard as usize]);
    for group in shards.chunk_by(|&a, &b| problem.table[a as usize] == problem.table[b as usize]) {
        counts.fill(0);
        for &shard in group {
            let placed = solution.of(problem, shard as usize).iter().filter(|&&node| node != NONE);
            placed.for_each(|&node| counts[node as usize] += 1);
        }
        let ceiling = table_ceilings(problem, counts.iter().map(|&count| f64::from(count)).sum());
        let above = |&n: &u32| (f64::from(counts[n as usize]) - ceiling[n as usize]).max(0.0);
        excess += problem.balanced.iter().map(above).sum::<f64>();
    }
    excess / (problem.replicas() as f64).max(1.0)
}

/// How many of a table's replicas each node may hold before some count as too many.
pub fn table_ceilings(problem: &Problem, replicas: f64) -> Vec<f64> {
    let whole: f64 = problem.fair.iter().map(|fair| fair.replicas).sum();
    let share = |fair: &Fair| if whole > 0.0 { fair.replicas / whole } else { 0.0 };
    problem.fair.iter().map(|fair| (replicas * share(fair) - 1e-9).ceil()).collect()
}
