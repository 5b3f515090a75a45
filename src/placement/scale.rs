//! Weights on one scale: what counts is how much goals weigh beside each other.
//!
//! Engines have temperatures and charges in the cost of moving a mean replica. So a problem is solved with weights in
//! which that is 1, and scores and bounds are put back onto the policy's own scale afterwards.

use super::policy::Weights;
use super::problem::Problem;

/// How many times as much as a copy any goal weighs at the most before copies count as cheaper than they are to the
/// engines' temperatures.
const STEEPEST: f64 = 64.0;

/// What weighs 1 on the engines' scale, in the policy's; `None` if that is 1 already or nothing weighs anything.
fn unit(weights: &Weights) -> Option<f64> {
    let copies = weights.moved.max(weights.copies);
    let balance = [weights.replicas, weights.leaders, weights.bytes, weights.writes, weights.reads];
    let steepest = balance.into_iter().fold(0.0, f64::max);
    let unit = match () {
        () if copies > 0.0 => copies.max(steepest / STEEPEST),
        () if steepest > 0.0 => steepest,
        () => weights.leader_changes.max(weights.per_table),
    };
    (unit > 0.0 && unit != 1.0 && unit.is_finite()).then_some(unit)
}

/// Twelve digits, so that weights that are the same but for their scale become the same numbers.
fn rounded(number: f64) -> f64 {
    format!("{number:.11e}").parse().unwrap_or(number)
}

/// The same problem on the engines' scale, and what its scores are to be multiplied by; none if it is on it.
pub(super) fn scaled(problem: &Problem) -> Option<(Problem, f64)> {
    let unit = unit(&problem.policy.weights)?;
    let mut scaled = problem.clone();
    for name in Weights::NAMES {
        if let Some(weight) = scaled.policy.weights.named(name) {
            *weight = rounded(*weight / unit);
        }
    }
    scaled.policy.hysteresis = rounded(scaled.policy.hysteresis / unit);
    Some((scaled, unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_clusters_and_of_the_yardstick_are_on_the_scale() {
        assert_eq!(unit(&Weights::CLUSTER), None);
        assert_eq!(unit(&Weights::YARDSTICK), None);
        assert_eq!(unit(&Weights { moved: 7.0, ..Weights::YARDSTICK }), Some(7.0));
        assert_eq!(unit(&Weights { moved: 0.0, bytes: 3.0, ..Weights::YARDSTICK }), Some(3.0));
        assert_eq!(unit(&Weights { moved: 0.5, bytes: 320.0, ..Weights::YARDSTICK }), Some(5.0));
    }
}
