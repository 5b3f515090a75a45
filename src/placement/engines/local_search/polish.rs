//! What annealing leaves of the worst deviation of bytes: exchanges between the worst node and the others, the best
//! one first, by the score itself.
//!
//! Annealing charges every node's excess, the score the worst one alone: a last exchange of two replicas of nearly one
//! size is worth many bytes copied, and is hardly ever drawn. Counts stay; leaders' counts stay within their ranges.

use super::state::State;

/// Exchanges at the most.
const STEPS: u32 = 30;
/// Pairs looked at for every replica, at the most; a look is much less than a proposal.
const PAIRS: u64 = 2_000;
/// Pairs that count as one unit of work.
const PAIRS_PER_WORK: u64 = 16;
/// At most one part in so many of what annealing took.
const PART: u64 = 8;
/// What an exchange has to bring, in cost of moving a mean replica.
const GAIN: f64 = 1e-6;

/// Exchanges until nothing helps or enough was looked at: no more than a part of the `annealed` work, and never more
/// than so much a replica. Answers the work.
pub fn polish(state: &mut State<'_>, annealed: u64) -> u64 {
    let most = (state.problem.replicas() as u64 * PAIRS).min(annealed * PAIRS_PER_WORK / PART);
    let mut looked = 0;
    for _ in 0..STEPS {
        let Some(worst) = Worst::of(state) else { break };
        let pairs = (state.on[worst.node as usize].len() * state.problem.replicas()) as u64;
        if looked + pairs > most {
            break;
        }
        looked += pairs;
        let Some((slot, other)) = worst.best_exchange(state) else { break };
        let to = state.nodes[other];
        state.relocate(slot, to);
        state.relocate(other, worst.node);
    }
    looked / PAIRS_PER_WORK
}

/// The node that is off most, and how far the others are.
struct Worst {
    node: u32,
    off: f64,
    /// The next two.
    next: [(f64, u32); 2],
}

impl Worst {
    /// None where there are fewer than three nodes.
    fn of(state: &State<'_>) -> Option<Self> {
        let nodes = state.problem.balanced.iter();
        let mut nodes: Vec<(f64, u32)> = nodes.map(|&node| (off(state, node, 0.0), node)).collect();
        nodes.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        match nodes[..] {
            [(off, node), second, third, ..] => Some(Self { node, off, next: [second, third] }),
            _ => None,
        }
    }

    /// How far the worst of all but this node and `other` is off.
    fn rest(&self, other: u32) -> f64 {
        if self.next[0].1 == other { self.next[1].0 } else { self.next[0].0 }
    }

    /// The exchange with another node that betters the score most.
    fn best_exchange(&self, state: &State<'_>) -> Option<(usize, usize)> {
        let (mut best, mut least) = (None, -GAIN);
        for &slot in &state.on[self.node as usize] {
            for &node in state.problem.balanced.iter().filter(|&&node| node != self.node) {
                for &other in &state.on[node as usize] {
                    let (slot, other) = (slot as usize, other as usize);
                    let Some(change) = self.change(state, slot, other) else { continue };
                    if change < least && may(state, slot, other) {
                        (best, least) = (Some((slot, other)), change);
                    }
                }
            }
        }
        best
    }

    /// What an exchange changes, in cost of moving a mean replica; none if the worst deviation does not fall.
    #[inline]
    fn change(&self, state: &State<'_>, slot: usize, other: usize) -> Option<f64> {
        let size = |slot: usize| state.size[state.shard_of[slot] as usize];
        let (node, more) = (state.nodes[other], size(other) - size(slot));
        let here = off(state, self.node, more);
        if here >= self.off {
            return None;
        }
        let there = off(state, node, -more);
        let gain = cost(state, here.max(there).max(self.rest(node))) - cost(state, self.off);
        (gain < 0.0).then(|| gain + state.exchange_copies(slot, other))
    }
}

/// How far a node's bytes are off with so much more.
#[inline]
fn off(state: &State<'_>, node: u32, more: f64) -> f64 {
    let site = &state.sites[node as usize];
    if site.fair > 0.0 { (site.size + more - site.fair).abs() / site.fair } else { 0.0 }
}

/// What a worst deviation of bytes costs.
fn cost(state: &State<'_>, off: f64) -> f64 {
    let policy = &state.problem.policy;
    policy.weights.bytes * state.problem.replicas() as f64 * (off - policy.tolerance.bytes).max(0.0)
}

/// Whether two slots may change places.
fn may(state: &State<'_>, slot: usize, other: usize) -> bool {
    let problem = state.problem;
    let (s, t) = (state.shard_of[slot] as usize, state.shard_of[other] as usize);
    let (a, b) = (state.nodes[slot], state.nodes[other]);
    let room = |node: u32, comes: usize, goes: usize| {
        let (comes, goes) = (problem.bytes[comes], problem.bytes[goes]);
        comes <= goes || state.has_room(node, comes - goes)
    };
    let more = f64::from(u8::from(state.leads(other))) - f64::from(u8::from(state.leads(slot)));
    let leads = |node: u32, more: f64| {
        let site = &state.sites[node as usize];
        more == 0.0 || (site.low[1]..=site.high[1]).contains(&(site.leaders + more))
    };
    s != t
        && !problem.frozen[s]
        && !problem.frozen[t]
        && leads(a, more)
        && leads(b, -more)
        && room(a, t, s)
        && room(b, s, t)
        && state.fits(s, slot, b)
        && state.fits(t, other, a)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::bound::Prices;
    use crate::placement::constraint::broken;
    use crate::placement::engines::local_search::Ranges;
    use crate::placement::engines::local_search::tests::full_world;
    use crate::placement::objective::score;
    use crate::placement::policy::{Policy, Tolerance, Weights};
    use crate::placement::problem::{NodeSpec, Problem, ShardSpec};
    use crate::placement::snapshot::Load;
    use crate::placement::solution::Solution;
    use proptest::prelude::*;

    fn policy() -> Policy {
        Policy { weights: Weights::YARDSTICK, hysteresis: 0.0, ..Policy::default() }
    }

    fn polished(problem: &Problem) -> Solution {
        let start = Solution::present(problem);
        let ranges = Ranges::new(problem, Tolerance::default());
        let mut state = State::new(problem, &start, &Prices::zero(problem.nodes.len()), &ranges);
        polish(&mut state, u64::from(u32::MAX));
        state.solution()
    }

    #[test]
    fn the_worst_node_exchanges_what_levels_it_for_the_fewest_bytes() {
        // Node 0 holds 40 too much: 50 for 10 does it, and so does 490 for 450 at ten times the bytes.
        let sizes = [(490, 0), (50, 0), (500, 0), (450, 1), (500, 1), (10, 1), (1000, 2), (1000, 3)];
        let problem = full_world(&[10_000; 4], &sizes, Weights::YARDSTICK);
        assert_eq!(polished(&problem).nodes, [0, 1, 0, 1, 1, 0, 2, 3]);
    }

    proptest! {
        #[test]
        fn it_is_never_worse_and_breaks_no_rule(
            sizes in prop::collection::vec((1u64..100, 0u32..4), 8..30),
            room in 200u64..2000,
        ) {
            let problem = full_world(&[room; 4], &sizes, Weights::YARDSTICK);
            let (start, found) = (Solution::present(&problem), polished(&problem));
            prop_assert!(score(&problem, &found).total <= score(&problem, &start).total + 1e-12);
            prop_assert!(broken(&problem, &found).len() <= broken(&problem, &start).len());
        }

        #[test]
        fn followers_pins_and_frozen_shards_are_heeded(
            sizes in prop::collection::vec((1u64..100, 0u32..3, 0u32..2, 0u32..2, 0u8..6), 8..30),
        ) {
            let node = |n: u32| NodeSpec {
                zone: n / 2,
                rack: n,
                capacity_bytes: 10_000,
                weight: 1.0,
                takes: true,
                holds: true,
            };
            let shard = |&(bytes, without, a, b, kind): &(u64, u32, u32, u32, u8)| {
                let zones = [(without + 1) % 3, (without + 2) % 3];
                let present = vec![zones[0] * 2 + a, zones[1] * 2 + b];
                let pinned = if kind == 1 { vec![present[1]] } else { vec![] };
                let load = Load { bytes, ..Load::default() };
                ShardSpec { load, replicas: 2, present, pinned, frozen: kind == 0, ..ShardSpec::default() }
            };
            let problem = Problem::new((0..6).map(node).collect(), sizes.iter().map(shard), &policy());
            let (start, found) = (Solution::present(&problem), polished(&problem));
            prop_assert!(broken(&problem, &found).is_empty());
            let (before, after) = (score(&problem, &start), score(&problem, &found));
            prop_assert!(after.total <= before.total + 1e-12 && after.replicas == before.replicas);
            for (shard, &(.., kind)) in sizes.iter().enumerate() {
                prop_assert!(kind != 0 || found.of(&problem, shard) == start.of(&problem, shard));
            }
        }
    }
}
