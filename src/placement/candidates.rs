//! What every other node would mean for one shard: the rule that forbids it, or what it would change of the score.
//!
//! One replica moves at a time, or one follower leads; the rest stays: it says why a shard is not elsewhere, not what
//! an exchange of several would bring.

use super::constraint::fits;
use super::objective::{deviation, table_ceilings};
use super::problem::{Fair, NONE, Problem};
use super::solution::{Held, Solution, held};
use serde::Serialize;

/// What a node would mean for a shard.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// The node.
    pub node: u32,
    /// The rule that forbids it, if one does.
    pub forbidden: Option<&'static str>,
    /// The slot that it would take, 0 the leader's, where that betters the score most.
    pub slot: usize,
    /// Change of the score if the shard's replica in that slot went there; below 0 is better.
    pub change: f64,
    /// The same by term: `change` is their sum.
    pub terms: Terms,
}

/// What a change adds to each term of the score, weighed: below 0 is better.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Terms {
    /// Worst deviation of replica counts.
    pub replicas: f64,
    /// Worst deviation of leader counts.
    pub leaders: f64,
    /// Worst deviation of bytes.
    pub bytes: f64,
    /// Worst deviation of write rates.
    pub writes: f64,
    /// Worst deviation of read rates.
    pub reads: f64,
    /// Replicas above their table's share.
    pub per_table: f64,
    /// The copy: its share of bytes, and of copies.
    pub copied: f64,
    /// The change of the leader.
    pub leader_changes: f64,
}

impl Terms {
    /// What a change adds to the score.
    pub fn sum(&self) -> f64 {
        let balance = self.replicas + self.leaders + self.bytes + self.writes + self.reads + self.per_table;
        balance + self.copied + self.leader_changes
    }
}

/// A follower as its shard's leader.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transfer {
    /// The follower's node.
    pub node: u32,
    /// Change of the score if it led; below 0 is better.
    pub change: f64,
    /// The same by term.
    pub terms: Terms,
}

/// Every follower of a shard as its leader, the best first; none of a frozen shard.
pub fn transfers(problem: &Problem, solution: &Solution, shard: usize) -> Vec<Transfer> {
    let placed = solution.of(problem, shard);
    let [leader, followers @ ..] = placed else { return Vec::new() };
    if problem.frozen[shard] || *leader == NONE {
        return Vec::new();
    }
    let loads = Loads::new(problem, solution, shard);
    let transfer = |&node: &u32| {
        let terms = loads.led(shard, *leader, node);
        Transfer { node, change: terms.sum(), terms }
    };
    let mut found: Vec<Transfer> = followers.iter().filter(|node| **node != NONE).map(transfer).collect();
    found.sort_by(|a, b| a.change.total_cmp(&b.change).then(a.node.cmp(&b.node)));
    found
}

/// Every node as a place for one of a shard's replicas, the best first, forbidden ones last.
pub fn candidates(problem: &Problem, solution: &Solution, shard: usize) -> Vec<Candidate> {
    let placed = solution.of(problem, shard);
    let loads = Loads::new(problem, solution, shard);
    let mut found: Vec<Candidate> = Vec::new();
    for node in 0..problem.nodes.len() as u32 {
        if placed.contains(&node) {
            continue;
        }
        let frozen = problem.frozen[shard];
        let may = |slot: &usize| !frozen && !problem.is_pinned(shard, placed[*slot]);
        let slots = (0..placed.len()).filter(may).filter(|&slot| fits(problem, shard, placed, slot, node));
        let terms = |slot: usize| loads.gone(shard, placed, slot, node);
        let best = slots.map(|slot| (terms(slot), slot)).min_by(|a, b| a.0.sum().total_cmp(&b.0.sum()));
        found.push(match best {
            Some((terms, slot)) => {
                let bytes = (loads.held[node as usize].bytes + problem.bytes[shard]) as f64;
                let full = bytes > problem.room_bytes(node);
                let forbidden = full.then_some("above the watermark");
                Candidate { node, forbidden, slot, change: terms.sum(), terms }
            }
            None => {
                let rule = match () {
                    () if frozen => "the shard is frozen",
                    () if problem.is_excluded(shard, node) => "excluded for this shard",
                    () if !problem.nodes[node as usize].holds => "draining or down",
                    () if !problem.nodes[node as usize].takes => "takes no new replicas",
                    () if !(0..placed.len()).any(|slot| may(&slot)) => {
                        "its replicas are pinned where they are"
                    }
                    () => "its zone or rack holds a replica already",
                };
                Candidate { node, forbidden: Some(rule), slot: 0, change: 0.0, terms: Terms::default() }
            }
        });
    }
    found.sort_by(|a, b| {
        let rank = |c: &Candidate| c.forbidden.is_some();
        rank(a).cmp(&rank(b)).then(a.change.total_cmp(&b.change)).then(a.node.cmp(&b.node))
    });
    found
}

/// What a placement puts on the nodes, as far as one shard's moves change it.
pub(super) struct Loads<'a> {
    problem: &'a Problem,
    pub(super) held: Vec<Held>,
    /// Replicas of the shard's table, and how many are not too many, by node; none where tables are not weighed.
    of_table: Option<(Vec<f64>, Vec<f64>)>,
}

impl<'a> Loads<'a> {
    /// Of all but tables, whose term is left out.
    pub(super) fn but_tables(problem: &'a Problem, held: Vec<Held>) -> Self {
        Self { problem, held, of_table: None }
    }

    fn new(problem: &'a Problem, solution: &Solution, shard: usize) -> Self {
        let weighed = problem.policy.weights.per_table != 0.0;
        let of_table = weighed.then(|| {
            let mut counts = vec![0.0; problem.nodes.len()];
            let of_it = (0..problem.shards()).filter(|&s| problem.table[s] == problem.table[shard]);
            for &node in of_it.flat_map(|s| solution.of(problem, s)).filter(|&&node| node != NONE) {
                counts[node as usize] += 1.0;
            }
            let ceilings = table_ceilings(problem, counts.iter().sum());
            (counts, ceilings)
        });
        Self { problem, held: held(problem, solution), of_table }
    }

    /// Change of the score if one replica moved.
    pub(super) fn gone(&self, shard: usize, placed: &[u32], slot: usize, to: u32) -> Terms {
        let (problem, from) = (self.problem, placed[slot]);
        let weights = &problem.policy.weights;
        let copied = |node: u32| if problem.holds(shard, node) { 0.0 } else { 1.0 };
        Terms {
            per_table: weights.per_table * self.table_excess(from, to) / (problem.replicas() as f64).max(1.0),
            copied: (copied(to) - copied(from)) * problem.copy_cost(shard),
            leader_changes: if slot == 0 { self.other_leader(shard, from, to) } else { 0.0 },
            ..self.balance(&|node| self.moved(shard, (slot, from, to), node))
        }
    }

    /// Change of the score if another replica led.
    pub(super) fn led(&self, shard: usize, from: u32, to: u32) -> Terms {
        let led = |node: u32| {
            let (mut held, reads) = (self.held[node as usize], self.problem.reads[shard]);
            if node == to {
                (held.leaders, held.reads) = (held.leaders + 1, held.reads + reads);
            } else if node == from {
                (held.leaders, held.reads) = (held.leaders - 1, held.reads - reads);
            }
            held
        };
        Terms { leader_changes: self.other_leader(shard, from, to), ..self.balance(&led) }
    }

    /// What a change of a shard's leader adds, or takes back.
    fn other_leader(&self, shard: usize, from: u32, to: u32) -> f64 {
        let changed = |node: u32| f64::from(u8::from(![node, NONE].contains(&self.problem.leader(shard))));
        self.problem.policy.weights.leader_changes * (changed(to) - changed(from))
            / self.problem.shards() as f64
    }

    /// What other loads than those there are add to the deviations.
    fn balance(&self, after: &dyn Fn(u32) -> Held) -> Terms {
        let problem = self.problem;
        let (w, off) = (&problem.policy.weights, &problem.policy.tolerance);
        let row = |weight: f64, off: f64, of: fn(&Held) -> f64, fair: fn(&Fair) -> f64| {
            let worst = |load: &dyn Fn(u32) -> Held| {
                let off = |&node: &u32| deviation(of(&load(node)), fair(&problem.fair[node as usize]));
                problem.balanced.iter().map(off).fold(0.0, f64::max)
            };
            let cost = |load: &dyn Fn(u32) -> Held| (worst(load) - off).max(0.0);
            if weight == 0.0 { 0.0 } else { weight * (cost(after) - cost(&|node| self.held[node as usize])) }
        };
        Terms {
            replicas: row(w.replicas, off.replicas, |h| f64::from(h.replicas), |f| f.replicas),
            leaders: row(w.leaders, off.leaders, |h| f64::from(h.leaders), |f| f.leaders),
            bytes: row(w.bytes, off.bytes, |h| h.bytes as f64, |f| f.bytes),
            writes: row(w.writes, 0.0, |h| h.writes, |f| f.writes),
            reads: row(w.reads, 0.0, |h| h.reads, |f| f.reads),
            ..Terms::default()
        }
    }

    /// What a node would hold.
    fn moved(&self, shard: usize, (slot, from, to): (usize, u32, u32), node: u32) -> Held {
        let (problem, mut held) = (self.problem, self.held[node as usize]);
        let (leads, bytes, writes) = (slot == 0, problem.bytes[shard], problem.writes[shard]);
        let reads = if leads { problem.reads[shard] } else { 0.0 };
        if node == to {
            held.replicas += 1;
            held.leaders += u32::from(leads);
            held.bytes += bytes;
            (held.writes, held.reads) = (held.writes + writes, held.reads + reads);
        } else if node == from {
            held.replicas -= 1;
            held.leaders -= u32::from(leads);
            held.bytes -= bytes;
            (held.writes, held.reads) = (held.writes - writes, held.reads - reads);
        }
        held
    }

    /// How many more replicas of the shard's table would stand above its share on their node.
    fn table_excess(&self, from: u32, to: u32) -> f64 {
        let Some((counts, ceilings)) = &self.of_table else { return 0.0 };
        let above = |node: u32, more: f64| {
            let (node, counted) = (node as usize, self.problem.balanced.binary_search(&node).is_ok());
            if counted { (counts[node] + more - ceilings[node]).max(0.0) } else { 0.0 }
        };
        above(from, -1.0) - above(from, 0.0) + above(to, 1.0) - above(to, 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::engines::repair::standing;
    use crate::placement::objective::score;
    use crate::placement::policy::{Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use proptest::prelude::*;

    /// In a zone of its own.
    fn node(n: u32) -> NodeSpec {
        NodeSpec { zone: n, rack: n, capacity_bytes: 100, weight: 1.0, takes: true, holds: true }
    }

    #[test]
    fn pins_and_freezes_forbid_candidates() {
        let shard = |on: &[u32]| ShardSpec { replicas: 2, present: on.to_vec(), ..ShardSpec::default() };
        let shards = vec![
            ShardSpec { pinned: vec![0], ..shard(&[0, 1]) },
            ShardSpec { pinned: vec![0, 1], ..shard(&[0, 1]) },
            ShardSpec { frozen: true, ..shard(&[0, 1]) },
        ];
        let problem = Problem::new((0..3).map(node).collect(), shards, &Policy::default());
        let solution = standing(&problem);
        let found: Vec<Candidate> = (0..3).flat_map(|shard| candidates(&problem, &solution, shard)).collect();
        assert_eq!((found[0].forbidden, found[0].slot), (None, 1), "the other one may go");
        assert_eq!(found[1].forbidden, Some("its replicas are pinned where they are"));
        assert_eq!(found[2].forbidden, Some("the shard is frozen"));
    }

    #[test]
    fn what_keeps_a_node_from_taking_anything_is_said() {
        let states = [(true, true), (false, true), (false, false)];
        let nodes = states.iter().zip(0..).map(|(&(takes, holds), n)| NodeSpec { takes, holds, ..node(n) });
        let shard = ShardSpec { replicas: 1, present: vec![0], ..ShardSpec::default() };
        let problem = Problem::new(nodes.collect(), [shard], &Policy::default());
        let found = candidates(&problem, &standing(&problem), 0);
        let said: Vec<_> = found.iter().map(|found| (found.node, found.forbidden)).collect();
        assert_eq!(said, [(1, Some("takes no new replicas")), (2, Some("draining or down"))]);
    }

    #[test]
    fn what_keeps_a_shard_from_a_node_is_said() {
        // Nodes 0 and 1 are one zone, node 3 is full.
        let nodes: Vec<NodeSpec> = (0..5).map(|n| NodeSpec { zone: n.max(1), ..node(n) }).collect();
        let load = |bytes| Load { bytes, ..Load::default() };
        let shard = |bytes, on: &[u32], replicas| ShardSpec {
            load: load(bytes),
            replicas,
            present: on.to_vec(),
            ..ShardSpec::default()
        };
        let shards = [ShardSpec { excluded: vec![4], ..shard(10, &[0, 2], 2) }, shard(80, &[3], 1)];
        let problem = Problem::new(nodes, shards, &Policy { watermark: 0.85, ..Policy::default() });
        let solution = Solution { nodes: vec![0, 2, 3] };
        let said = |problem: &Problem| -> Vec<(u32, Option<&'static str>)> {
            let mut found = candidates(problem, &solution, 0);
            found.sort_by_key(|found| found.node);
            found.iter().map(|found| (found.node, found.forbidden)).collect()
        };
        let full = Some("above the watermark");
        assert_eq!(said(&problem), [(1, None), (3, full), (4, Some("excluded for this shard"))]);
        let pinned = [ShardSpec { pinned: vec![0], ..shard(10, &[0, 2], 2) }, shard(80, &[3], 1)];
        let problem = Problem::new(problem.nodes.clone(), pinned, &problem.policy);
        let beside = Some("its zone or rack holds a replica already");
        assert_eq!(said(&problem)[0], (1, beside), "the replica in its zone has to stay");
    }

    proptest! {
        #[test]
        fn the_change_is_that_of_the_score(
            shards in prop::collection::vec((1u64..20, 0u32..5, 1u32..5, 0u32..2, 0u8..9, 0u8..9), 3..12),
        ) {
            let spec = |&(bytes, first, next, table, writes, reads): &(u64, u32, u32, u32, u8, u8)| ShardSpec {
                load: Load { bytes, write_rate: writes.into(), read_rate: reads.into() },
                table,
                replicas: 2,
                present: vec![first, (first + next) % 5],
                ..ShardSpec::default()
            };
            let weights = Weights { per_table: 2.0, writes: 0.7, reads: 0.3, ..Weights::CLUSTER };
            let nodes = (0..5).map(|n| NodeSpec { capacity_bytes: 1000, ..node(n) }).collect();
            let problem = Problem::new(nodes, shards.iter().map(spec), &Policy { weights, ..Policy::default() });
            let start = standing(&problem);
            let before = score(&problem, &start).total;
            for shard in 0..problem.shards() {
                for found in candidates(&problem, &start, shard).iter().filter(|c| c.forbidden.is_none()) {
                    let mut after = start.clone();
                    after.nodes[problem.slots(shard).start + found.slot] = found.node;
                    let change = score(&problem, &after).total - before;
                    prop_assert!((change - found.change).abs() < 1e-9, "{change} {found:?}");
                    prop_assert!((found.terms.sum() - found.change).abs() < 1e-9);
                }
                for found in transfers(&problem, &start, shard) {
                    let mut after = start.clone();
                    let slots = problem.slots(shard);
                    let slot = slots.clone().find(|&slot| after.nodes[slot] == found.node).expect("a follower");
                    after.nodes.swap(slots.start, slot);
                    let change = score(&problem, &after).total - before;
                    prop_assert!((change - found.change).abs() < 1e-9, "{change} {found:?}");
                }
            }
        }
    }
}
