//! The dimensions of balance that an integer program weighs.

use crate::placement::bound::least_deviations;
use crate::placement::problem::{Fair, Problem};
use crate::placement::solution::Held;

/// One dimension of balance.
pub(super) struct Row {
    pub weight: f64,
    pub load: fn(&Held) -> f64,
    pub fair: fn(&Fair) -> f64,
    /// Load of a shard's replica, and of its leader on top.
    pub replica: fn(&Problem, usize) -> f64,
    pub leader: fn(&Problem, usize) -> f64,
    pub least: f64,
    pub tolerance: f64,
}

/// The dimensions that the policy weighs.
pub(super) fn rows(problem: &Problem) -> Vec<Row> {
    let weights = &problem.policy.weights;
    let [replicas, leaders, bytes] = least_deviations(problem);
    let off = &problem.policy.tolerance;
    let rows = vec![
        Row {
            weight: weights.replicas,
            load: |held| f64::from(held.replicas),
            fair: |fair| fair.replicas,
            replica: |_, _| 1.0,
            leader: |_, _| 0.0,
            least: replicas,
            tolerance: off.replicas,
        },
        Row {
            weight: weights.leaders,
            load: |held| f64::from(held.leaders),
            fair: |fair| fair.leaders,
            replica: |_, _| 0.0,
            leader: |_, _| 1.0,
            least: leaders,
            tolerance: off.leaders,
        },
        Row {
            weight: weights.bytes,
            load: |held| held.bytes as f64,
            fair: |fair| fair.bytes,
            replica: |problem, shard| problem.bytes[shard] as f64,
            leader: |_, _| 0.0,
            least: bytes,
            tolerance: off.bytes,
        },
        Row {
            weight: weights.writes,
            load: |held| held.writes,
            fair: |fair| fair.writes,
            replica: |problem, shard| problem.writes[shard],
            leader: |_, _| 0.0,
            least: 0.0,
            tolerance: 0.0,
        },
        Row {
            weight: weights.reads,
            load: |held| held.reads,
            fair: |fair| fair.reads,
            replica: |_, _| 0.0,
            leader: |problem, shard| problem.reads[shard],
            least: 0.0,
            tolerance: 0.0,
        },
    ];
    rows.into_iter().filter(|row| row.weight != 0.0).collect()
}
