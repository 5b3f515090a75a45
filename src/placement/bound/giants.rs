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
    nodes: f64,
}

/// The biggest shards up to one of them.
struct Prefix {
    /// Bytes of the smallest one's replica.
    least: f64,
    shards: f64,
    replicas: f64,
    bytes: f64,
}

/// The least worst deviation of bytes that giant shards force; 0 where some node holds replicas without taking
/// new ones, since what stands there is not shared out.
pub fn giant_floor(problem: &Problem) -> f64 {
    if !problem.is_closed() || problem.balanced.is_empty() {
        return 0.0;
    }
    let (classes, prefixes) = (classes(problem), prefixes(problem));
    let fits = |off: f64| prefixes.iter().all(|prefix| holds(&classes, prefix, off));
    if fits(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1e-3);
    while !fits(high) {
        low = high;
        high *= 2.0;
        if high > 1e6 {
            // No placement keeps the watermark: the bound is about those that do.
            return 0.0;
        }
    }
    for _ in 0..40 {
        let middle = (low + high) / 2.0;
        if fits(middle) { high = middle } else { low = middle }
    }
    low
}

fn classes(problem: &Problem) -> Vec<Class> {
    let mut counts: BTreeMap<(u64, u64), f64> = BTreeMap::new();
    for &node in &problem.balanced {
        let (fair, room) = (problem.fair[node as usize].bytes, problem.room_bytes(node));
        *counts.entry((fair.to_bits(), room.to_bits())).or_default() += 1.0;
    }
    let class =
        |((fair, room), nodes)| Class { fair: f64::from_bits(fair), room: f64::from_bits(room), nodes };
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

/// Whether the nodes may hold a prefix's replicas with no node above its fair share by more than `off`.
fn holds(classes: &[Class], prefix: &Prefix, off: f64) -> bool {
    let (mut places, mut room) = (0.0, 0.0);
    for class in classes {
        let most = (class.fair * (1.0 + off)).min(class.room) * (1.0 + 1e-9);
        let each = (most / prefix.least).floor().min(prefix.shards);
        places += each * class.nodes;
        room += if each >= 1.0 { most * class.nodes } else { 0.0 };
    }
    places >= prefix.replicas && room >= prefix.bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    fn floor(capacities: &[u64], replicas: u32, sizes: &[u64]) -> f64 {
        let node = |(n, &capacity_bytes): (usize, &u64)| {
            let zone = n as u32;
            NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
        };
        let nodes = capacities.iter().enumerate().map(node).collect();
        let shard = |&bytes: &u64| {
            let load = Load { bytes, ..Load::default() };
            ShardSpec { load, replicas, present: (0..replicas).collect(), ..ShardSpec::default() }
        };
        giant_floor(&Problem::new(nodes, sizes.iter().map(shard), &Policy::default()))
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
}
