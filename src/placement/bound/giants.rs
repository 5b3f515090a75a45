//! What shards that cannot be cut force: the least worst deviation of bytes under heavy tails.
//!
//! Pigeonholes, for every `k`: the `k` biggest replicas, each of at least the `k`-th's bytes, have to stand on nodes
//! that can hold one of them at all, no more of them than fit, and no two of one shard on a node. The least
//! deviation at which no pigeonhole is overfull is a bound. It looks at no zones and no present placement.

use crate::placement::problem::Problem;
use std::collections::BTreeMap;

/// How many of the biggest shards are looked at one by one; then every so many more by a twentieth.
const EVERY: usize = 200;
/// How many of the biggest shards are looked at.
const SHARDS_MAX: usize = 20_000;

/// Nodes of one size.
struct Class {
    fair: f64,
    room: f64,
    /// Fair share of replicas.
    count: f64,
    nodes: f64,
}

/// A pair of deviations of which no placement stays below both: it has at least `count`, or more than the next
/// pair's `count` and at least that one's `bytes`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Forced {
    /// Of replica counts.
    pub count: f64,
    /// Of bytes.
    pub bytes: f64,
}

/// What is the same for all deviations.
struct Giants {
    classes: Vec<Class>,
    prefixes: Vec<Prefix>,
    /// Bytes of the `n` smallest shards.
    smallest: Vec<f64>,
}

/// More sizes of nodes than this, and `trade` looks at none.
const CLASSES_MAX: usize = 64;
/// Steps of `trade`.
const STEPS: usize = 16;

/// The biggest shards up to one of them.
struct Prefix {
    /// Bytes of the smallest one's replica.
    least: f64,
    shards: f64,
    replicas: f64,
    bytes: f64,
}

/// The least worst deviation of bytes that giant shards force, whatever the counts; 0 where some node holds replicas
/// without taking new ones, since what stands there is not shared out.
pub fn giant_floor(problem: &Problem) -> f64 {
    Giants::new(problem).map_or(0.0, |giants| giants.floor(f64::INFINITY))
}

/// What giants force on counts and bytes together, if that is more than each alone: a node with a giant has to hold
/// its count of others too, or counts are uneven. `level` is the deviation of counts below `next` on the lowest
/// rounding level. By growing deviation of counts: the first pair is for the lowest level, each later one for
/// counts at least that uneven.
pub fn trade(problem: &Problem, level: f64, next: f64) -> Vec<Forced> {
    let Some(giants) = Giants::new(problem).filter(|giants| giants.classes.len() <= CLASSES_MAX) else {
        return Vec::new();
    };
    let (first, last) = (giants.floor(level), giants.floor(f64::INFINITY));
    if first <= last + 1e-9 || next >= 1.0 {
        return Vec::new();
    }
    let step = |step: usize| next + (1.0 - next) * step as f64 / STEPS as f64;
    let mut forced = vec![Forced { count: level, bytes: first }];
    // Counts between this step's deviation and the next one's: bytes as the more uneven end allows.
    forced.extend((0..STEPS).map(|at| Forced { count: step(at), bytes: giants.floor(step(at + 1)) }));
    forced
}

impl Giants {
    fn new(problem: &Problem) -> Option<Self> {
        if !problem.is_closed() || problem.balanced.is_empty() {
            return None;
        }
        let mut sizes: Vec<u64> = problem.bytes.clone();
        sizes.sort_unstable();
        let mut sum = 0.0;
        let mut smallest = vec![0.0];
        smallest.extend(sizes.iter().map(|&size| {
            sum += size as f64;
            sum
        }));
        Some(Self { classes: classes(problem), prefixes: prefixes(problem), smallest })
    }

    /// The least deviation of bytes at which no pigeonhole is overfull while counts are off by `uneven` at most.
    fn floor(&self, uneven: f64) -> f64 {
        // Where not even the watermark can be kept, what is forced is what is forced without it.
        self.least(uneven, true).or_else(|| self.least(uneven, false)).unwrap_or(0.0)
    }

    fn least(&self, uneven: f64, room: bool) -> Option<f64> {
        let fits = |off: f64| self.prefixes.iter().all(|prefix| self.holds(prefix, off, uneven, room));
        if fits(0.0) {
            return Some(0.0);
        }
        let (mut low, mut high) = (0.0, 1e-3);
        while !fits(high) {
            (low, high) = (high, high * 2.0);
            if high > 1e6 {
                return None;
            }
        }
        for _ in 0..40 {
            let middle = (low + high) / 2.0;
            if fits(middle) { high = middle } else { low = middle }
        }
        Some(low)
    }

    /// Whether the nodes may hold a prefix's replicas with no node above its fair share by more than `off`.
    fn holds(&self, prefix: &Prefix, off: f64, uneven: f64, room: bool) -> bool {
        let (mut places, mut free) = (0.0, 0.0);
        for class in &self.classes {
            let most = (class.fair * (1.0 + off)).min(if room { class.room } else { f64::INFINITY });
            let most = most * (1.0 + 1e-9);
            let count = (class.count * (1.0 - uneven) - 1e-7).ceil().max(0.0);
            // With more giants there are fewer small ones, and never less in bytes.
            let others = |giants: f64| self.others(count - giants);
            let fits = |giants: f64| giants * prefix.least + others(giants) <= most;
            let (mut each, mut beyond) = (0.0, (most / prefix.least).floor().min(prefix.shards) + 1.0);
            while beyond - each > 1.0 {
                let middle = ((each + beyond) / 2.0).floor();
                if fits(middle) { each = middle } else { beyond = middle }
            }
            places += each * class.nodes;
            free += if each >= 1.0 { (most - others(each)) * class.nodes } else { 0.0 };
        }
        places >= prefix.replicas && free >= prefix.bytes
    }

    fn others(&self, count: f64) -> f64 {
        self.smallest[(count.max(0.0) as usize).min(self.smallest.len() - 1)]
    }
}

fn classes(problem: &Problem) -> Vec<Class> {
    let mut counts: BTreeMap<[u64; 3], f64> = BTreeMap::new();
    for &node in &problem.balanced {
        let (fair, room) = (&problem.fair[node as usize], problem.room_bytes(node));
        let key = [fair.bytes, room, fair.replicas].map(f64::to_bits);
        *counts.entry(key).or_default() += 1.0;
    }
    let class = |(key, nodes): ([u64; 3], f64)| {
        let [fair, room, count] = key.map(f64::from_bits);
        Class { fair, room, count, nodes }
    };
    counts.into_iter().map(class).collect()
}

fn prefixes(problem: &Problem) -> Vec<Prefix> {
    let free = |&shard: &usize| !problem.frozen[shard] && problem.bytes[shard] > 0;
    let mut sizes: Vec<(u64, usize)> = (0..problem.shards())
        .filter(free)
        .map(|shard| (problem.bytes[shard], problem.slots(shard).len()))
        .filter(|&(_, slots)| slots > 0)
        .collect();
    let most = SHARDS_MAX.min(sizes.len());
    if most < sizes.len() {
        sizes.select_nth_unstable_by(most, |a, b| b.cmp(a));
        sizes.truncate(most);
    }
    sizes.sort_unstable_by(|a, b| b.cmp(a));
    let (mut replicas, mut bytes, mut next) = (0.0, 0.0, 0);
    let mut prefixes = Vec::new();
    for (at, &(size, slots)) in sizes.iter().enumerate() {
        replicas += slots as f64;
        bytes += size as f64 * slots as f64;
        if at >= next {
            prefixes.push(Prefix { least: size as f64, shards: (at + 1) as f64, replicas, bytes });
            next = if at < EVERY { at + 1 } else { at + at / 20 };
        }
    }
    prefixes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    fn floor(capacities: &[u64], replicas: u32, sizes: &[u64]) -> f64 {
        giant_floor(&world(capacities, replicas, sizes))
    }

    fn world(capacities: &[u64], replicas: u32, sizes: &[u64]) -> Problem {
        let node = |(n, &capacity_bytes): (usize, &u64)| {
            let zone = n as u32;
            NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
        };
        let nodes = capacities.iter().enumerate().map(node).collect();
        let shard = |&bytes: &u64| {
            let load = Load { bytes, ..Load::default() };
            ShardSpec { load, replicas, present: (0..replicas).collect(), ..ShardSpec::default() }
        };
        Problem::new(nodes, sizes.iter().map(shard), &Policy::default())
    }

    #[test]
    fn giants_force_what_pigeonholes_say() {
        // One giant of 90 on a node whose fair share is 50.
        assert!((floor(&[1000, 1000], 1, &[90, 10]) - 0.8).abs() < 1e-6);
        // Three equal ones on two nodes: one node has two of them, 2 / 1.5 of its share.
        assert!((floor(&[1000, 1000], 1, &[30, 30, 30]) - 1.0 / 3.0).abs() < 1e-6);
        // Both replicas of the giant: the second stands on a small node.
        assert!((floor(&[2000, 1000, 1000], 2, &[60, 20]) - 0.5).abs() < 1e-6);
        assert_eq!(floor(&[1000, 1000], 2, &[60, 20]), 0.0);
    }

    #[test]
    fn a_node_with_a_giant_holds_its_count_too_or_counts_are_uneven() {
        // One giant of 90 and nine of 10 on two nodes, five each: the giant's node holds at least 130, or fewer.
        let sizes = [90, 10, 10, 10, 10, 10, 10, 10, 10, 10];
        let forced = trade(&world(&[1000, 1000], 1, &sizes), 0.0, 0.2);
        assert!((forced[0].bytes - 40.0 / 90.0).abs() < 1e-6, "{forced:?}");
        assert!((forced[1].bytes - 30.0 / 90.0).abs() < 0.12, "{forced:?}");
        assert!(
            forced.windows(2).all(|pair| pair[0].count < pair[1].count && pair[0].bytes >= pair[1].bytes)
        );
        assert!(trade(&world(&[1000, 1000], 1, &[10; 10]), 0.0, 0.2).is_empty());
    }

    #[test]
    fn what_fits_nowhere_is_forced_without_the_watermark() {
        assert!(floor(&[50, 50], 1, &[90, 10]) > 0.7);
    }
}
