//! The placement problem on dense ordinals: what every engine, bound and plan works on.
//!
//! Nodes and shards are numbers `0..`; ids are converted at the edge (`snapshot`, `instance`). Everything
//! derived from the policy (fair shares, caps per zone and rack, slots a shard really has) is worked out
//! here, once, so that engines need no case distinctions. It holds no solution and decides nothing.

use super::narrow::Narrowed;
use super::policy::Policy;
use super::rooms::Rooms;
pub use super::shares::Fair;
use super::snapshot::Load;
use serde::Serialize;

/// "No node": an ordinal that is never valid.
pub const NONE: u32 = u32::MAX;

/// A node, by ordinal.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// Zone ordinal.
    pub zone: u32,
    /// Rack ordinal, unique over all zones.
    pub rack: u32,
    /// Disk that replicas may fill, in bytes; 0 is not known.
    pub capacity_bytes: u64,
    /// Relative share of counts; above 0.
    pub weight: f64,
    /// May be given new replicas.
    pub takes: bool,
    /// May keep the replicas that it has.
    pub holds: bool,
}

/// A shard, by ordinal.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ShardSpec {
    /// Load of each replica.
    pub load: Load,
    /// Table ordinal.
    pub table: u32,
    /// Replicas wanted.
    pub replicas: u32,
    /// Nodes that hold it (or are getting it), distinct, the preferred leader first.
    pub present: Vec<u32>,
    /// Those of `present` whose copy cannot be counted on: still being made, or on a node that is down.
    pub unsound: Vec<u32>,
    /// Those of `unsound` that are being made now, on nodes that are up.
    pub making: Vec<u32>,
    /// Those of `present` that a move under way is to drop.
    pub leaving: Vec<u32>,
    /// Stays as it is.
    pub frozen: bool,
    /// Nodes that must hold a replica.
    pub pinned: Vec<u32>,
    /// Nodes that must not.
    pub excluded: Vec<u32>,
}

/// What keeps a shard from having what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Compromise {
    /// Fewer nodes may hold it than it wants replicas.
    TooFewNodes,
    /// Fewer zones than replicas: some zone holds two.
    TooFewZones,
    /// Racks as well.
    TooFewRacks,
    /// It is pinned to more nodes of one zone or rack than would be allowed.
    PinnedTogether,
    /// No node may hold it: it stays where it is.
    NoNode,
    /// It breaks rules that the policy's goal leaves alone.
    NotCovered,
}

/// The problem. Built by [`Problem::new`]; read-only afterwards.
#[derive(Debug, Clone)]
pub struct Problem {
    /// Nodes by ordinal.
    pub nodes: Vec<NodeSpec>,
    /// The policy it was built with.
    pub policy: Policy,
    /// Bytes of a shard's replica.
    pub bytes: Vec<u64>,
    /// Write rate of a shard's replica.
    pub writes: Vec<f64>,
    /// Read rate of a shard's leader.
    pub reads: Vec<f64>,
    /// Table of a shard.
    pub table: Vec<u32>,
    /// Number of tables.
    pub tables: usize,
    /// Whether a shard stays as it is.
    pub frozen: Vec<bool>,
    /// Replicas of one zone that a shard may have.
    pub zone_cap: Vec<u8>,
    /// By shard: which of `rack_caps` holds for it.
    rack_class: Vec<u32>,
    /// Replicas of one rack that a shard may have, by zone; 1 in zones beyond the list's end.
    rack_caps: Vec<Vec<u8>>,
    /// Nodes whose loads are measured, sorted: those that take new replicas, or would but for [`Self::onto`].
    pub balanced: Vec<u32>,
    /// See [`Self::is_closed`].
    closed: bool,
    /// Fair shares by node.
    pub fair: Vec<Fair>,
    /// Bytes of all wanted replicas: what shares of bytes moved are of.
    pub total_bytes: f64,
    /// Compromises by shard, sorted.
    pub compromises: Vec<(u32, Compromise)>,
    /// Replicas asked for, by shard; slots may be fewer.
    asked: Vec<u32>,
    slots: Vec<u32>,
    present_at: Vec<u32>,
    present: Vec<u32>,
    /// (shard, node), sorted.
    unsound: Vec<(u32, u32)>,
    /// (shard, node), sorted.
    making: Vec<(u32, u32)>,
    /// (shard, node), sorted.
    leaving: Vec<(u32, u32)>,
    /// (shard, node), sorted.
    pinned: Vec<(u32, u32)>,
    /// (shard, node), sorted.
    excluded: Vec<(u32, u32)>,
}

impl Problem {
    /// Builds the problem. Never fails: what cannot be had becomes a [`Compromise`].
    pub fn new(
        mut nodes: Vec<NodeSpec>,
        shards: impl IntoIterator<Item = ShardSpec>,
        policy: &Policy,
    ) -> Self {
        let narrowed = Narrowed::new(&mut nodes, policy.goal);
        let mut problem = Self {
            policy: policy.clone(),
            bytes: Vec::new(),
            writes: Vec::new(),
            reads: Vec::new(),
            table: Vec::new(),
            tables: 0,
            frozen: Vec::new(),
            zone_cap: Vec::new(),
            rack_class: Vec::new(),
            rack_caps: vec![Vec::new()],
            balanced: (0..nodes.len() as u32).filter(|&n| nodes[n as usize].takes).collect(),
            closed: nodes.iter().all(|node| node.takes || !node.holds),
            fair: vec![Fair::default(); nodes.len()],
            total_bytes: 0.0,
            compromises: Vec::new(),
            asked: Vec::new(),
            slots: vec![0],
            present_at: vec![0],
            present: Vec::new(),
            unsound: Vec::new(),
            making: Vec::new(),
            leaving: Vec::new(),
            pinned: Vec::new(),
            excluded: Vec::new(),
            nodes,
        };
        let mut rooms = Rooms::new(&problem.nodes);
        for spec in shards {
            problem.add(spec, &mut rooms, &narrowed);
        }
        problem.unsound.sort_unstable();
        problem.making.sort_unstable();
        problem.leaving.sort_unstable();
        problem.pinned.sort_unstable();
        problem.excluded.sort_unstable();
        problem.share_out();
        problem
    }

    fn add(&mut self, mut spec: ShardSpec, rooms: &mut Rooms, narrowed: &Narrowed) {
        let shard = self.bytes.len() as u32;
        let wanted = spec.replicas;
        let mut waived = narrowed.waive(&mut spec);
        let mut room = rooms.of(&self.nodes, &spec);
        waived |= narrowed.widen(&self.nodes, &spec, &mut room);
        let nowhere = room.nodes == 0;
        let frozen = spec.frozen || nowhere;
        let slots = if frozen { spec.present.len() as u32 } else { spec.replicas.min(room.nodes) };
        let notes = [
            (nowhere && !spec.frozen, Compromise::NoNode),
            (waived && !frozen, Compromise::NotCovered),
            (!frozen && slots < spec.replicas, Compromise::TooFewNodes),
            (!frozen && room.zone_cap > 1 && !room.pinned, Compromise::TooFewZones),
            (!frozen && !room.racks.is_empty() && !room.pinned, Compromise::TooFewRacks),
            (!frozen && room.pinned, Compromise::PinnedTogether),
        ];
        self.compromises.extend(notes.iter().filter(|(yes, _)| *yes).map(|(_, why)| (shard, *why)));
        self.bytes.push(spec.load.bytes);
        self.writes.push(spec.load.write_rate);
        self.reads.push(spec.load.read_rate);
        self.table.push(spec.table);
        self.tables = self.tables.max(spec.table as usize + 1);
        self.frozen.push(frozen);
        self.zone_cap.push(room.zone_cap);
        let known = self.rack_caps.iter().position(|caps| *caps == room.racks);
        let class = known.unwrap_or(self.rack_caps.len());
        if known.is_none() {
            self.rack_caps.push(room.racks);
        }
        self.rack_class.push(class as u32);
        self.asked.push(wanted);
        self.slots.push(self.slots[shard as usize] + slots);
        self.end_present(&spec.present);
        self.unsound.extend(spec.unsound.iter().map(|&node| (shard, node)));
        self.making.extend(spec.making.iter().map(|&node| (shard, node)));
        self.leaving.extend(spec.leaving.iter().map(|&node| (shard, node)));
        self.pinned.extend(spec.pinned.iter().map(|&node| (shard, node)));
        self.excluded.extend(spec.excluded.iter().map(|&node| (shard, node)));
        self.total_bytes += spec.load.bytes as f64 * f64::from(slots);
    }

    /// Ends a shard's list of present nodes. The order of followers means nothing: it is made the same always.
    fn end_present(&mut self, nodes: &[u32]) {
        let start = self.present.len();
        self.present.extend_from_slice(nodes);
        if let Some(followers) = self.present[start..].get_mut(1..) {
            followers.sort_unstable();
        }
        self.present_at.push(self.present.len() as u32);
    }

    /// The problem as it will stand once a solution is in place.
    pub fn after(&self, solution: &super::solution::Solution) -> Self {
        let mut next = self.clone();
        next.present.clear();
        next.unsound.clear();
        next.making.clear();
        next.leaving.clear();
        next.present_at.truncate(1);
        for shard in 0..self.shards() {
            let placed = solution.of(self, shard).iter().copied().filter(|&node| node != NONE);
            next.end_present(&placed.collect::<Vec<u32>>());
        }
        next.share_out();
        next
    }

    /// The same problem with some shards frozen where a solution has them, if they break no rule there.
    pub fn with_settled(&self, shards: &[usize], solution: &super::solution::Solution) -> Self {
        let mut next = self.clone();
        next.present.clear();
        next.present_at.truncate(1);
        for shard in 0..self.shards() {
            let placed = solution.of(self, shard);
            let good = |(slot, &node): (usize, &u32)| {
                node != NONE
                    && self.may_hold(shard, node)
                    && super::constraint::spreads(self, shard, &placed[..slot], slot, node)
            };
            let pinned = self.pins(shard).all(|pin| placed.contains(&pin));
            if shards.binary_search(&shard).is_ok() && pinned && placed.iter().enumerate().all(good) {
                next.end_present(placed);
                next.frozen[shard] = true;
            } else {
                next.end_present(self.present(shard));
            }
        }
        next.share_out();
        next
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.bytes.len()
    }

    /// Number of replicas in a solution.
    pub fn replicas(&self) -> usize {
        self.slots[self.shards()] as usize
    }

    /// Where a shard's replicas stand in a solution's flat list.
    pub fn slots(&self, shard: usize) -> std::ops::Range<usize> {
        self.slots[shard] as usize..self.slots[shard + 1] as usize
    }

    /// Nodes that hold a shard now, the preferred leader first.
    pub fn present(&self, shard: usize) -> &[u32] {
        &self.present[self.present_at[shard] as usize..self.present_at[shard + 1] as usize]
    }

    /// Who leads a shard now, or [`NONE`].
    pub fn leader(&self, shard: usize) -> u32 {
        self.present(shard).first().copied().unwrap_or(NONE)
    }

    /// Whether a node holds a shard now.
    pub fn holds(&self, shard: usize, node: u32) -> bool {
        self.present(shard).contains(&node)
    }

    /// Replicas that a shard asks for; it may have fewer slots where nodes are missing.
    pub fn asked(&self, shard: usize) -> usize {
        self.asked[shard] as usize
    }

    /// Whether a present copy is complete, on a live node.
    pub fn is_sound(&self, shard: usize, node: u32) -> bool {
        self.unsound.is_empty() || self.unsound.binary_search(&(shard as u32, node)).is_err()
    }

    /// Copies that are being made: shard and node, sorted.
    pub fn making(&self) -> &[(u32, u32)] {
        &self.making
    }

    /// Whether a move under way is to drop a present copy.
    pub fn is_leaving(&self, shard: usize, node: u32) -> bool {
        self.leaving.binary_search(&(shard as u32, node)).is_ok()
    }

    /// Whether a shard's replica must be on a node.
    pub fn is_pinned(&self, shard: usize, node: u32) -> bool {
        !self.pinned.is_empty() && self.pinned.binary_search(&(shard as u32, node)).is_ok()
    }

    /// Nodes that a shard is pinned to.
    pub fn pins(&self, shard: usize) -> impl Iterator<Item = u32> + '_ {
        let at = self.pinned.partition_point(|&(s, _)| (s as usize) < shard);
        self.pinned[at..].iter().take_while(move |&&(s, _)| s as usize == shard).map(|&(_, n)| n)
    }

    /// Whether a node may hold a shard's replica, spread and room aside.
    pub fn may_hold(&self, shard: usize, node: u32) -> bool {
        let spec = &self.nodes[node as usize];
        let there = if spec.takes { true } else { spec.holds && self.holds(shard, node) };
        there && !self.is_excluded(shard, node)
    }

    /// Replicas of one rack that a shard may have in a zone.
    pub fn rack_cap(&self, shard: usize, zone: u32) -> u8 {
        self.rack_caps[self.rack_class[shard] as usize].get(zone as usize).copied().unwrap_or(1)
    }

    /// What one copy of a shard's replica adds to the score.
    pub fn copy_cost(&self, shard: usize) -> f64 {
        let weights = &self.policy.weights;
        weights.moved * self.bytes[shard] as f64 / self.total_bytes.max(1.0)
            + weights.copies / (self.replicas() as f64).max(1.0)
    }

    /// Whether a node must not hold a shard.
    pub fn is_excluded(&self, shard: usize, node: u32) -> bool {
        !self.excluded.is_empty() && self.excluded.binary_search(&(shard as u32, node)).is_ok()
    }

    /// Bytes that a node's replicas may fill, a whole number; infinite if its capacity is not known. What a share of
    /// the capacity falls short of one by rounding is not lost: with 0.29 of 100 bytes 29 may be filled.
    pub fn room_bytes(&self, node: u32) -> f64 {
        match self.nodes[node as usize].capacity_bytes {
            0 => f64::INFINITY,
            capacity => (capacity as f64 * self.policy.watermark + 1e-6).floor(),
        }
    }

    /// Whether every replica that may move stands on a balanced node in every placement: no cordoned node keeps any.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Nodes that take new replicas.
    pub fn takers(&self) -> impl Iterator<Item = u32> + '_ {
        self.balanced.iter().copied().filter(|&node| self.nodes[node as usize].takes)
    }

    /// The same problem, measured alike, in which none but `nodes` are given new replicas.
    pub fn onto(&self, nodes: &[u32]) -> Self {
        let mut next = self.clone();
        for (node, spec) in (0..).zip(&mut next.nodes) {
            spec.takes &= nodes.contains(&node);
        }
        next
    }

    /// Whether pins or exclusions exist at all; engines take a faster way if not.
    pub fn has_exceptions(&self) -> bool {
        !self.pinned.is_empty() || !self.excluded.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::budget::WorkBudget;
    use crate::placement::decide;
    use crate::placement::engines::Hybrid;
    use crate::placement::policy::{Share, Weights};

    fn node(zone: u32, capacity_bytes: u64) -> NodeSpec {
        NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
    }

    fn shard(replicas: u32, present: &[u32]) -> ShardSpec {
        let load = Load { bytes: 10, ..Load::default() };
        ShardSpec { load, replicas, present: present.to_vec(), ..ShardSpec::default() }
    }

    #[test]
    fn caps_grow_only_as_far_as_zones_are_missing() {
        let nodes = vec![node(0, 1), node(1, 1), node(1, 1), node(1, 1), node(1, 1)];
        let problem = Problem::new(nodes, [1, 2, 3, 4, 9].map(|r| shard(r, &[])), &Policy::default());
        assert_eq!(problem.zone_cap, [1, 1, 2, 3, 4]);
        assert_eq!(problem.slots(4).len(), 5);
        assert!(problem.compromises.contains(&(4, Compromise::TooFewNodes)));
        assert!(!problem.compromises.iter().any(|&(s, _)| s == 1));
    }

    #[test]
    fn racks_are_shared_only_where_their_zone_has_to_take_more() {
        // Zone 0 is one rack of three nodes, zone 1 has three racks of one.
        let at = |zone: u32, rack: u32| NodeSpec { rack, ..node(zone, 1) };
        let nodes = vec![at(0, 0), at(0, 0), at(0, 0), at(1, 1), at(1, 2), at(1, 3)];
        let problem = Problem::new(nodes, [2, 3, 4, 5].map(|r| shard(r, &[])), &Policy::default());
        assert_eq!(problem.zone_cap, [1, 2, 2, 3]);
        let caps: Vec<_> = (0..4).map(|s| [problem.rack_cap(s, 0), problem.rack_cap(s, 1)]).collect();
        assert_eq!(caps, [[1, 1], [1, 1], [2, 1], [2, 1]]);
        assert_eq!(problem.compromises.iter().filter(|(_, why)| *why == Compromise::TooFewRacks).count(), 2);
    }

    #[test]
    fn shares_go_by_capacity_over_the_nodes_that_take() {
        let mut nodes = vec![node(0, 100), node(1, 300), node(2, 100)];
        nodes[2].takes = false;
        nodes[2].holds = false;
        let problem = Problem::new(nodes, [shard(2, &[0, 2]), shard(2, &[0, 1])], &Policy::default());
        assert_eq!(problem.balanced, [0, 1]);
        assert_eq!(problem.fair[1].bytes, 30.0);
        assert_eq!(problem.fair[0].replicas, 2.0);
        assert_eq!(problem.fair[2], Fair::default());
    }

    #[test]
    fn counts_are_shared_by_weight_or_equally() {
        let mut nodes = vec![node(0, 100), node(1, 100)];
        nodes[1].weight = 3.0;
        let shards: Vec<ShardSpec> = (0..8).map(|_| shard(1, &[0])).collect();
        let placed = |share: Share| {
            let weights = Weights { bytes: 0.0, ..Weights::default() };
            let policy = Policy { weights, share, hysteresis: 0.0, watermark: 1.0, ..Policy::default() };
            let problem = Problem::new(nodes.clone(), shards.clone(), &policy);
            let fair: Vec<f64> = problem.fair.iter().map(|fair| fair.replicas).collect();
            let mut budget = WorkBudget::new(100_000);
            let found = decide(&problem, &Hybrid::HEURISTIC, 1, &mut budget, &mut |_| {});
            (fair, found.solution.nodes.iter().filter(|node| **node == 1).count())
        };
        assert_eq!(placed(Share::Weight), (vec![2.0, 6.0], 6));
        assert_eq!(placed(Share::Equal), (vec![4.0, 4.0], 4));
    }

    #[test]
    fn with_no_node_left_a_shard_stays() {
        let mut nodes = vec![node(0, 100)];
        nodes[0].takes = false;
        nodes[0].holds = false;
        let problem = Problem::new(nodes, [shard(2, &[0])], &Policy::default());
        assert!(problem.frozen[0]);
        assert_eq!(problem.compromises, [(0, Compromise::NoNode)]);
    }
}
