//! The hard rules: which are broken by a solution, and where a replica may go without breaking one.
//!
//! It states rules, it repairs nothing.

use super::problem::{NONE, Problem};
use super::solution::{Solution, held};
use serde::Serialize;

/// A broken hard rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case", tag = "rule")]
pub enum Broken {
    /// A shard has no node for one of its replicas.
    Missing {
        /// The shard.
        shard: u32,
    },
    /// Two replicas of a shard on one node.
    SameNode {
        /// The shard.
        shard: u32,
        /// The node.
        node: u32,
    },
    /// A replica on a node that may not hold it: draining, down, excluded, or new on a cordoned one.
    Forbidden {
        /// The shard.
        shard: u32,
        /// The node.
        node: u32,
    },
    /// More replicas of a shard in a zone or rack than need be.
    Crowded {
        /// The shard.
        shard: u32,
    },
    /// A shard that is not on a node that it is pinned to.
    Unpinned {
        /// The shard.
        shard: u32,
        /// The node.
        node: u32,
    },
    /// A node filled above the watermark.
    Overfull {
        /// The node.
        node: u32,
    },
}

/// Whether `node` may take the place of `slot` among `placed`, room aside.
pub fn fits(problem: &Problem, shard: usize, placed: &[u32], slot: usize, node: u32) -> bool {
    problem.may_hold(shard, node) && spreads(problem, shard, placed, slot, node)
}

/// Whether `node` in the place of `slot` keeps the shard's nodes distinct and spread over zones and racks.
#[inline]
pub fn spreads(problem: &Problem, shard: usize, placed: &[u32], slot: usize, node: u32) -> bool {
    let spec = &problem.nodes[node as usize];
    let (mut zone, mut rack) = (problem.zone_cap[shard], problem.rack_cap(shard, spec.zone));
    for (index, &other) in placed.iter().enumerate() {
        if index == slot || other == NONE {
            continue;
        }
        let there = &problem.nodes[other as usize];
        if other == node {
            return false;
        }
        if there.zone == spec.zone {
            zone = zone.saturating_sub(1);
            if there.rack == spec.rack {
                rack = rack.saturating_sub(1);
            }
        }
    }
    zone > 0 && rack > 0
}

/// Every hard rule that a solution breaks, sorted by rule, shard and node. Frozen shards break none.
pub fn broken(problem: &Problem, solution: &Solution) -> Vec<Broken> {
    let mut found = Vec::new();
    for shard in (0..problem.shards()).filter(|&shard| !problem.frozen[shard]) {
        let placed = solution.of(problem, shard);
        let id = shard as u32;
        for (slot, &node) in placed.iter().enumerate() {
            if node == NONE {
                found.push(Broken::Missing { shard: id });
            } else if placed[..slot].contains(&node) {
                found.push(Broken::SameNode { shard: id, node });
            } else if !problem.may_hold(shard, node) {
                found.push(Broken::Forbidden { shard: id, node });
            } else if !spreads(problem, shard, &placed[..slot], slot, node) {
                found.push(Broken::Crowded { shard: id });
            }
        }
        let unpinned = problem.pins(shard).filter(|node| !placed.contains(node));
        found.extend(unpinned.map(|node| Broken::Unpinned { shard: id, node }));
    }
    for (node, held) in held(problem, solution).iter().enumerate() {
        if held.bytes as f64 > problem.room_bytes(node as u32) {
            found.push(Broken::Overfull { node: node as u32 });
        }
    }
    found.sort_unstable();
    found
}
