//! Constructive repair: makes any placement keep the hard rules as far as they can be kept.
//!
//! Replicas that may stay stay; the others, and missing ones, go where loads are the lowest. One pass over
//! shards, and a second that empties nodes above their watermark. It optimises nothing else.

use crate::placement::constraint::{fits, spreads};
use crate::placement::problem::{NONE, Problem};
use crate::placement::solution::{Held, Solution, held};

/// Repairs `solution` in place.
pub fn repair(problem: &Problem, solution: &mut Solution) {
    let mut bench = Bench::new(problem, solution);
    for shard in 0..problem.shards() {
        if !problem.frozen[shard] {
            bench.mend(solution, shard);
        }
    }
    bench.unload(solution);
}

/// Loads as they change during the repair.
struct Bench<'a> {
    problem: &'a Problem,
    held: Vec<Held>,
}

impl<'a> Bench<'a> {
    fn new(problem: &'a Problem, solution: &Solution) -> Self {
        Self { problem, held: held(problem, solution) }
    }

    fn put(&mut self, shard: usize, node: u32, leads: bool) {
        let held = &mut self.held[node as usize];
        held.replicas += 1;
        held.bytes += self.problem.bytes[shard];
        held.leaders += u32::from(leads);
    }

    fn take(&mut self, shard: usize, node: u32, leads: bool) {
        if node == NONE {
            return;
        }
        let held = &mut self.held[node as usize];
        held.replicas -= 1;
        held.bytes -= self.problem.bytes[shard];
        held.leaders -= u32::from(leads);
    }

    /// How loaded a node would be with one more replica of a shard; above 1e6 if it has no room.
    fn load_with(&self, shard: usize, node: u32) -> f64 {
        let (held, fair) = (&self.held[node as usize], &self.problem.fair[node as usize]);
        let bytes = (held.bytes + self.problem.bytes[shard]) as f64;
        let over = if bytes > self.problem.room_bytes(node) { 1e6 } else { 0.0 };
        let part = |load: f64, fair: f64| if fair > 0.0 { load / fair } else { 1e3 };
        over + part(f64::from(held.replicas + 1), fair.replicas) + part(bytes, fair.bytes)
    }

    /// The least loaded node for a slot. Nodes that hold the shard already win over copies.
    fn best(&self, shard: usize, placed: &[u32], slot: usize) -> Option<u32> {
        let nodes = 0..self.problem.nodes.len() as u32;
        let open = nodes.filter(|&node| fits(self.problem, shard, placed, slot, node));
        let rank = |&node: &u32| {
            let load = self.load_with(shard, node);
            if self.problem.holds(shard, node) && load < 1e6 { load - 1e4 } else { load }
        };
        open.map(|node| (rank(&node), node)).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, node)| node)
    }

    fn mend(&mut self, solution: &mut Solution, shard: usize) {
        let slots = self.problem.slots(shard);
        let placed = &mut solution.nodes[slots];
        let led = placed.first().copied();
        for slot in 0..placed.len() {
            let node = placed[slot];
            let bad = node != NONE
                && !(self.problem.may_hold(shard, node)
                    && spreads(self.problem, shard, &placed[..slot], slot, node));
            if bad {
                self.take(shard, node, slot == 0);
                placed[slot] = NONE;
            }
        }
        for pin in self.problem.pins(shard) {
            if placed.contains(&pin) || !self.problem.may_hold(shard, pin) {
                continue;
            }
            let yields = |&slot: &usize| {
                placed[slot] == NONE
                    || (!self.problem.is_pinned(shard, placed[slot])
                        && spreads(self.problem, shard, placed, slot, pin))
            };
            if let Some(slot) = (0..placed.len()).rev().find(yields) {
                self.take(shard, placed[slot], slot == 0);
                placed[slot] = pin;
                self.put(shard, pin, slot == 0);
            }
        }
        for slot in 0..placed.len() {
            if placed[slot] == NONE
                && let Some(node) = self.best(shard, placed, slot)
            {
                placed[slot] = node;
                self.put(shard, node, slot == 0);
            }
        }
        if placed.first().copied() != led {
            self.lead(shard, placed);
        }
    }

    /// A new leader's place goes to a replica that stays, the least leading one, rather than to a new copy.
    fn lead(&mut self, shard: usize, placed: &mut [u32]) {
        let Some(&first) = placed.first() else { return };
        if first == self.problem.leader(shard) || first == NONE {
            return;
        }
        let rank = |node: u32| {
            let new = !self.problem.holds(shard, node);
            let fair = self.problem.fair[node as usize].leaders;
            let load = f64::from(self.held[node as usize].leaders) / fair.max(1e-9);
            (new, load)
        };
        let ranked = (0..placed.len()).filter(|&slot| placed[slot] != NONE).min_by(|&a, &b| {
            let (x, y) = (rank(placed[a]), rank(placed[b]));
            x.0.cmp(&y.0).then(x.1.total_cmp(&y.1))
        });
        if let Some(slot) = ranked.filter(|&slot| slot != 0) {
            self.held[placed[0] as usize].leaders -= 1;
            self.held[placed[slot] as usize].leaders += 1;
            placed.swap(0, slot);
        }
    }

    /// Moves replicas off nodes above their watermark, with few bytes: the smallest one that is enough, or
    /// else the biggest one that has somewhere to go, and so on.
    fn unload(&mut self, solution: &mut Solution) {
        let problem = self.problem;
        let over = |held: &[Held], node: usize| held[node].bytes as f64 - problem.room_bytes(node as u32);
        let hot: Vec<usize> = (0..problem.nodes.len()).filter(|&node| over(&self.held, node) > 0.0).collect();
        if hot.is_empty() {
            return;
        }
        let mut there: Vec<Vec<(u64, u32)>> = vec![Vec::new(); problem.nodes.len()];
        for shard in (0..problem.shards()).filter(|&shard| !problem.frozen[shard] && problem.bytes[shard] > 0)
        {
            for &node in solution.of(problem, shard) {
                if node != NONE && hot.contains(&(node as usize)) && !problem.is_pinned(shard, node) {
                    there[node as usize].push((problem.bytes[shard], shard as u32));
                }
            }
        }
        for node in hot {
            let mut list = std::mem::take(&mut there[node]);
            list.sort_unstable();
            while over(&self.held, node) > 0.0 && !list.is_empty() {
                let excess = over(&self.held, node);
                let enough = list.partition_point(|&(bytes, _)| (bytes as f64) < excess);
                let (_, shard) = list.remove(enough.min(list.len() - 1));
                let shard = shard as usize;
                let placed = &mut solution.nodes[problem.slots(shard)];
                let slot = placed.iter().position(|&other| other as usize == node);
                let Some(slot) = slot else { continue };
                let to = self.best(shard, placed, slot).filter(|&to| self.load_with(shard, to) < 1e6);
                if let Some(to) = to {
                    self.take(shard, node as u32, slot == 0);
                    self.put(shard, to, slot == 0);
                    placed[slot] = to;
                }
            }
        }
    }
}
