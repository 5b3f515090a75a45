//! Fair shares: what of all load a node should have, in every dimension of balance.
//!
//! They follow from nodes, shards and the policy alone, so a [`Problem`] works them out once.

use super::policy::Share;
use super::problem::{NodeSpec, Problem};

/// Fair shares of one node, in each dimension's own unit; 0 in all for a node that is not balanced.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fair {
    /// Replicas.
    pub replicas: f64,
    /// Leaders.
    pub leaders: f64,
    /// Bytes.
    pub bytes: f64,
    /// Write rate.
    pub writes: f64,
    /// Read rate.
    pub reads: f64,
}

impl Problem {
    /// Fair shares over the balanced nodes of all load that is not stuck on others.
    pub(super) fn share_out(&mut self) {
        let mut all = Fair::default();
        for shard in 0..self.shards() {
            let slots = self.slots(shard).len() as f64;
            all.replicas += slots;
            all.leaders += f64::from(u8::from(slots > 0.0));
            all.bytes += self.bytes[shard] as f64 * slots;
            all.writes += self.writes[shard] * slots;
            all.reads += self.reads[shard];
            let stuck = self.present(shard).iter().enumerate();
            for (index, &node) in stuck {
                let node = &self.nodes[node as usize];
                if !node.takes && (node.holds || self.frozen[shard]) {
                    all.replicas -= 1.0;
                    all.bytes -= self.bytes[shard] as f64;
                    all.writes -= self.writes[shard];
                    all.leaders -= f64::from(u8::from(index == 0));
                    all.reads -= if index == 0 { self.reads[shard] } else { 0.0 };
                }
            }
        }
        let equal = self.policy.share == Share::Equal;
        let weight = |node: &NodeSpec| if equal { 1.0 } else { node.weight };
        let known = self.balanced.iter().all(|&n| self.nodes[n as usize].capacity_bytes > 0);
        let room = |node: &NodeSpec| if known { node.capacity_bytes as f64 } else { node.weight };
        let of = |f: &dyn Fn(&NodeSpec) -> f64| -> f64 {
            self.balanced.iter().map(|&n| f(&self.nodes[n as usize])).sum()
        };
        let (weights, rooms) = (of(&weight), of(&room));
        for &n in &self.balanced {
            let node = &self.nodes[n as usize];
            let count = |sum: f64| (sum * weight(node) / weights).max(0.0);
            let disk = room(node) / rooms;
            self.fair[n as usize] = Fair {
                replicas: whole(count(all.replicas)),
                leaders: whole(count(all.leaders)),
                bytes: (all.bytes * disk).max(0.0),
                writes: count(all.writes),
                reads: count(all.reads),
            };
        }
    }
}

/// A fair share that only rounding keeps from being a whole number, as that number: else no placement would seem to
/// meet it, and a bound would lie above what can be had.
fn whole(share: f64) -> f64 {
    let near = share.round();
    if (share - near).abs() <= 1e-9 * near.max(1.0) { near } else { share }
}
