//! Constructive repair: makes any placement keep the hard rules as far as they can be kept.
//!
//! Replicas that may stay stay; the others, and missing ones, go where loads are the lowest. One pass over
//! shards, and a second that empties nodes above their watermark. It optimises nothing else.

use crate::placement::constraint::{fits, spreads};
use crate::placement::problem::{NONE, Problem};
use crate::placement::solution::{Held, Solution, held};

/// What is there now, repaired: what every engine starts from and every proposal is measured by.
pub fn standing(problem: &Problem) -> Solution {
    let mut solution = chosen(problem).map_or_else(|| Solution::present(problem), |(solution, _)| solution);
    repair(problem, &mut solution);
    solution.sort_followers(problem);
    solution
}

/// The problem with moves that are under way taken as done: a shard with a copy that is leaving or incomplete, and
/// with more copies than wanted, keeps those that are not leaving and is frozen so. None if there is no such
/// shard. What an engine finds for it is a solution of `problem` too.
pub fn committed(problem: &Problem) -> Option<Problem> {
    let (solution, mut many) = chosen(problem)?;
    let moving = |shard: usize, &node: &u32| {
        problem.is_leaving(shard, node) || !problem.is_sound(shard, node) && problem.may_hold(shard, node)
    };
    many.retain(|&shard| problem.present(shard).iter().any(|node| moving(shard, node)));
    (!many.is_empty()).then(|| problem.with_settled(&many, &solution))
}

/// Which copies stay of shards that have too many (those not leaving, complete ones, then those on the least
/// loaded nodes), and those shards.
fn chosen(problem: &Problem) -> Option<(Solution, Vec<usize>)> {
    let surplus = |&s: &usize| !problem.frozen[s] && problem.present(s).len() > problem.slots(s).len();
    let many: Vec<usize> = (0..problem.shards()).filter(surplus).collect();
    if many.is_empty() {
        return None;
    }
    let mut solution = Solution::present(problem);
    let mut bench = Bench::new(problem, &solution);
    many.iter().for_each(|&shard| bench.choose(&mut solution, shard));
    Some((solution, many))
}

/// Repairs `solution` in place.
pub fn repair(problem: &Problem, solution: &mut Solution) {
    mend(problem, solution).unload(solution);
}

fn mend<'a>(problem: &'a Problem, solution: &mut Solution) -> Bench<'a> {
    let mut bench = Bench::new(problem, solution);
    (0..problem.shards())
        .filter(|&shard| !problem.frozen[shard])
        .for_each(|shard| bench.mend(solution, shard));
    bench
}

/// Sizes that cover an excess with a small sum.
#[derive(Debug, PartialEq)]
pub struct Cover {
    /// Which sizes, by their place in the list.
    pub taken: Vec<usize>,
    /// Their sum.
    pub bytes: u64,
    /// No other choice has a smaller sum.
    pub least: bool,
}

/// How many choices are looked at for one cover.
const CHOICES_MAX: u32 = 100_000;

/// The least sum of some of `sizes` that is at least `excess`; none if all of them are not enough.
pub fn cover(sizes: &[u64], excess: u64) -> Option<Cover> {
    let mut order: Vec<usize> = (0..sizes.len()).filter(|&at| sizes[at] > 0).collect();
    order.sort_by_key(|&at| (std::cmp::Reverse(sizes[at]), at));
    let mut rest: Vec<u64> = vec![0; order.len() + 1];
    (0..order.len()).rev().for_each(|at| rest[at] = rest[at + 1].saturating_add(sizes[order[at]]));
    if rest[0] < excess {
        return None;
    }
    // Depth first, each size taken before it is left out; the path holds the places in `order` that are taken.
    let (mut path, mut sum, mut at): (Vec<usize>, u64, usize) = (Vec::new(), 0, 0);
    let (mut best, mut bytes) = (Vec::new(), u64::MAX);
    for _ in 0..CHOICES_MAX {
        if sum >= excess && sum < bytes {
            (best, bytes) = (path.clone(), sum);
        }
        let hopeless = sum >= excess || at == order.len() || sum.saturating_add(rest[at]) < excess;
        if !hopeless {
            path.push(at);
            sum += sizes[order[at]];
            at += 1;
            continue;
        }
        let last = if bytes == excess { None } else { path.pop() };
        let Some(last) = last else {
            let taken = best.iter().map(|&at| order[at]).collect();
            return Some(Cover { taken, bytes, least: true });
        };
        sum -= sizes[order[last]];
        at = last + 1;
    }
    (bytes < u64::MAX).then(|| Cover {
        taken: best.iter().map(|&at| order[at]).collect(),
        bytes,
        least: false,
    })
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

    /// Chooses the copies that stay of a shard that has too many.
    fn choose(&mut self, solution: &mut Solution, shard: usize) {
        let problem = self.problem;
        let (slots, present) = (problem.slots(shard), problem.present(shard));
        let wanted = slots.len();
        for (slot, &node) in solution.nodes[slots.clone()].iter().enumerate() {
            self.take(shard, node, slot == 0);
        }
        let rank = |&at: &usize| {
            let node = present[at];
            let (out, leaving) = (!problem.may_hold(shard, node), problem.is_leaving(shard, node));
            ((out, leaving, !problem.is_sound(shard, node)), self.load_with(shard, node))
        };
        let mut order: Vec<usize> = (0..present.len()).collect();
        order.sort_by(|a, b| {
            let (a, b) = (rank(a), rank(b));
            a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
        });
        let (mut chosen, mut nodes) = (Vec::new(), Vec::new());
        for spread in [true, false] {
            for &at in &order {
                let fits = !spread || spreads(problem, shard, &nodes, usize::MAX, present[at]);
                if nodes.len() < wanted && fits && !chosen.contains(&at) {
                    chosen.push(at);
                    nodes.push(present[at]);
                }
            }
        }
        chosen.sort_unstable();
        for (slot, at) in slots.zip(chosen) {
            solution.nodes[slot] = present[at];
            self.put(shard, present[at], slot == problem.slots(shard).start);
        }
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
                (placed[slot] == NONE || !self.problem.is_pinned(shard, placed[slot]))
                    && spreads(self.problem, shard, placed, slot, pin)
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

    /// Moves replicas off nodes above their watermark: those of the least bytes that are enough, if all of them find
    /// room, else the smallest one that is enough or the biggest one that has somewhere to go, and so on.
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
            if self.cover(solution, node as u32, &list) {
                continue;
            }
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

    /// Moves replicas of the least bytes that cover a node's excess, the biggest first; answers whether all of them
    /// found room. If not, nothing has changed.
    fn cover(&mut self, solution: &mut Solution, node: u32, list: &[(u64, u32)]) -> bool {
        let problem = self.problem;
        let sizes: Vec<u64> = list.iter().map(|&(bytes, _)| bytes).collect();
        let excess = (self.held[node as usize].bytes as f64 - problem.room_bytes(node)).ceil() as u64;
        let Some(cover) = cover(&sizes, excess) else { return false };
        let mut gone: Vec<(usize, usize, u32)> = Vec::new();
        for shard in cover.taken.iter().map(|&at| list[at].1 as usize) {
            let placed = &mut solution.nodes[problem.slots(shard)];
            let slot = placed.iter().position(|&other| other == node);
            let to = slot.and_then(|slot| self.best(shard, placed, slot));
            let to = to.filter(|&to| self.load_with(shard, to) < 1e6);
            let (Some(slot), Some(to)) = (slot, to) else {
                for (shard, slot, to) in gone {
                    self.take(shard, to, slot == 0);
                    self.put(shard, node, slot == 0);
                    solution.nodes[problem.slots(shard)][slot] = node;
                }
                return false;
            };
            self.take(shard, node, slot == 0);
            self.put(shard, to, slot == 0);
            placed[slot] = to;
            gone.push((shard, slot, to));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_cover_is_the_least(sizes in prop::collection::vec(0u64..60, 0..11), excess in 1u64..200) {
            let sums = (0u32..1 << sizes.len()).map(|code| {
                let taken = |&at: &usize| code >> at & 1 == 1;
                (0..sizes.len()).filter(taken).map(|at| sizes[at]).sum::<u64>()
            });
            let least = sums.filter(|&sum| sum >= excess).min();
            let found = cover(&sizes, excess);
            prop_assert_eq!(found.as_ref().map(|cover| cover.bytes), least);
            if let Some(found) = found {
                prop_assert!(found.least);
                prop_assert_eq!(found.taken.iter().map(|&at| sizes[at]).sum::<u64>(), found.bytes);
            }
        }
    }
}
