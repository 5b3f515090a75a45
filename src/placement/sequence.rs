//! Puts the moves to a placement into an order that keeps every promise at every step.
//!
//! A copy is added before the one that it replaces is dropped; leadership leaves before its copy goes; no
//! disk goes above the watermark at any moment. Moves that wait for each other's room in a cycle are broken by
//! taking the smallest of them through a third node. What still cannot move stays, and is named.

use super::constraint::spreads;
use super::plan::{Action, Plan, Step, World};
use super::problem::{NONE, Problem};
use super::solution::Solution;
use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;
use std::collections::BTreeMap;

/// What a wave may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WaveLimits {
    /// Copies that one node may receive at the same time.
    pub copies_in_max: u32,
    /// Copies that one node may send at the same time.
    pub copies_out_max: u32,
    /// Bytes a second of one node's copies, in or out.
    pub bytes_per_second: f64,
}

impl Default for WaveLimits {
    fn default() -> Self {
        Self { copies_in_max: 2, copies_out_max: 2, bytes_per_second: 100e6 }
    }
}

/// One replica's way: from a node that drops it to a node that gets it; either may be missing.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Leg {
    shard: u32,
    from: Option<u32>,
    to: Option<u32>,
}

/// The plan from what is there to `target`.
pub fn sequence(problem: &Problem, target: &Solution, limits: &WaveLimits) -> Plan {
    let mut planner = Planner::new(problem, target, *limits);
    let mut legs = planner.legs();
    while !legs.is_empty() {
        let before = legs.len();
        legs = planner.wave(legs);
        if legs.len() == before && !planner.detour(&mut legs) {
            break;
        }
    }
    let mut left: Vec<u32> = legs.iter().map(|leg| leg.shard).collect();
    left.sort_unstable();
    left.dedup();
    planner.settle_leaders(&left);
    let mut plan = planner.plan;
    plan.left = left;
    plan.peak_bytes = planner.peak;
    plan.waves = planner.wave;
    plan
}

struct Planner<'a> {
    problem: &'a Problem,
    target: &'a Solution,
    limits: WaveLimits,
    world: World,
    peak: Vec<u64>,
    plan: Plan,
    wave: u32,
    /// The last step of each shard.
    last: BTreeMap<u32, u32>,
    /// Steps that freed room on a node in the wave before.
    freed: BTreeMap<u32, Vec<u32>>,
}

impl<'a> Planner<'a> {
    fn new(problem: &'a Problem, target: &'a Solution, limits: WaveLimits) -> Self {
        let world = World::new(problem);
        let peak = world.used.clone();
        let (last, freed) = (BTreeMap::new(), BTreeMap::new());
        Self { problem, target, limits, world, peak, plan: Plan::default(), wave: 0, last, freed }
    }

    /// Every shard's changes, those off lost and full nodes first, then the biggest.
    fn legs(&self) -> Vec<Leg> {
        let mut legs = Vec::new();
        for shard in 0..self.problem.shards() {
            let (present, placed) = (self.problem.present(shard), self.target.of(self.problem, shard));
            let add = placed.iter().copied().filter(|node| *node != NONE && !present.contains(node));
            let mut remove: Vec<u32> =
                present.iter().copied().filter(|node| !placed.contains(node)).collect();
            remove.sort_by_key(|&node| self.problem.nodes[node as usize].holds);
            let mut remove = remove.into_iter();
            for to in add {
                legs.push(Leg { shard: shard as u32, from: remove.next(), to: Some(to) });
            }
            legs.extend(remove.map(|node| Leg { shard: shard as u32, from: Some(node), to: None }));
        }
        let urgent = |leg: &Leg| {
            let hot = |node: u32| self.world.used[node as usize] as f64 > self.problem.room_bytes(node);
            leg.from.is_none_or(|node| !self.problem.nodes[node as usize].holds || hot(node))
        };
        let bytes = |leg: &Leg| self.problem.bytes[leg.shard as usize];
        legs.sort_by_key(|leg| (leg.to.is_some(), !urgent(leg), std::cmp::Reverse(bytes(leg)), leg.shard));
        legs
    }

    fn push(&mut self, shard: u32, action: Action, bytes: u64, mut after: Vec<u32>) -> u32 {
        after.extend(self.last.get(&shard));
        after.sort_unstable();
        after.dedup();
        let at = self.plan.steps.len() as u32;
        self.plan.steps.push(Step { shard, action, bytes, wave: self.wave, after });
        self.last.insert(shard, at);
        at
    }

    /// Starts what can start now, ends it, and answers what is left.
    fn wave(&mut self, legs: Vec<Leg>) -> Vec<Leg> {
        let nodes = self.problem.nodes.len();
        let (mut into, mut out) = (vec![0u32; nodes], vec![0u32; nodes]);
        let mut moved = vec![0u64; nodes];
        let (mut started, mut left, mut busy) = (Vec::new(), Vec::new(), BTreeMap::new());
        for leg in legs {
            let bytes = self.problem.bytes[leg.shard as usize];
            let Some(to) = leg.to else {
                started.push(leg);
                continue;
            };
            let source = leg.from.or_else(|| self.world.on[leg.shard as usize].first().copied());
            let room = self.world.used[to as usize].saturating_add(bytes) as f64;
            let fits = bytes == 0 || room <= self.problem.room_bytes(to);
            let free = into[to as usize] < self.limits.copies_in_max
                && source.is_none_or(|node| out[node as usize] < self.limits.copies_out_max)
                && !busy.contains_key(&leg.shard)
                && !self.world.on[leg.shard as usize].contains(&to);
            if !fits || !free {
                left.push(leg);
                continue;
            }
            into[to as usize] += 1;
            moved[to as usize] += bytes;
            if let Some(node) = source {
                out[node as usize] += 1;
                moved[node as usize] += bytes;
            }
            busy.insert(leg.shard, ());
            let after = self.freed.get(&to).cloned().unwrap_or_default();
            self.push(leg.shard, Action::Add { node: to }, bytes, after);
            self.world.used[to as usize] += bytes;
            self.world.on[leg.shard as usize].push(to);
            self.peak[to as usize] = self.peak[to as usize].max(self.world.used[to as usize]);
            started.push(leg);
        }
        self.freed.clear();
        for leg in &started {
            if let Some(node) = leg.from {
                self.drop_copy(leg.shard, node);
            }
        }
        if !started.is_empty() {
            let most = moved.iter().copied().max().unwrap_or(0) as f64;
            self.plan.seconds += most / self.limits.bytes_per_second.max(1.0);
            self.wave += 1;
        }
        left
    }

    /// Drops a copy; its leadership goes first.
    fn drop_copy(&mut self, shard: u32, node: u32) {
        let s = shard as usize;
        if self.world.leader[s] == Some(node) {
            let wanted = self.target.of(self.problem, s).first().copied();
            let there = |to: &u32| *to != node && self.world.on[s].contains(to);
            let next =
                wanted.filter(there).or_else(|| self.world.on[s].iter().copied().find(|to| *to != node));
            self.world.leader[s] = next;
            if let Some(to) = next {
                self.push(shard, Action::Lead { node: to }, 0, Vec::new());
            }
        }
        let at = self.push(shard, Action::Remove { node }, 0, Vec::new());
        self.freed.entry(node).or_default().push(at);
        self.world.on[s].retain(|&other| other != node);
        self.world.used[node as usize] -= self.problem.bytes[s];
    }

    /// Nothing can start: takes the smallest leg of a cycle of nodes that wait for each other through a node
    /// with room. Answers whether there is one.
    fn detour(&mut self, legs: &mut [Leg]) -> bool {
        let mut graph = DiGraph::<u32, ()>::new();
        let places: Vec<_> = (0..self.problem.nodes.len() as u32).map(|n| graph.add_node(n)).collect();
        for leg in legs.iter() {
            if let (Some(from), Some(to)) = (leg.from, leg.to) {
                graph.add_edge(places[from as usize], places[to as usize], ());
            }
        }
        let mut ring = vec![usize::MAX; places.len()];
        for (number, component) in tarjan_scc(&graph).into_iter().enumerate() {
            component.iter().for_each(|&place| ring[graph[place] as usize] = number);
        }
        let circular = |leg: &Leg| match (leg.from, leg.to) {
            (Some(from), Some(to)) => ring[from as usize] == ring[to as usize],
            _ => false,
        };
        let mut order: Vec<usize> = (0..legs.len()).filter(|&at| legs[at].from.is_some()).collect();
        order.sort_by_key(|&at| (!circular(&legs[at]), self.problem.bytes[legs[at].shard as usize], at));
        for at in order {
            let leg = legs[at];
            let (Some(from), Some(to)) = (leg.from, leg.to) else { continue };
            if let Some(third) = self.third(leg.shard as usize, from, to) {
                legs[at] = Leg { shard: leg.shard, from: Some(third), to: Some(to) };
                let rest = self.wave(vec![Leg { shard: leg.shard, from: Some(from), to: Some(third) }]);
                return rest.is_empty();
            }
        }
        false
    }

    /// A node with room for a shard on its way, spread kept; the emptiest one.
    fn third(&self, shard: usize, from: u32, to: u32) -> Option<u32> {
        let on = &self.world.on[shard];
        let slot = on.iter().position(|&node| node == from)?;
        let bytes = self.problem.bytes[shard];
        let room =
            |node: u32| self.problem.room_bytes(node) - (self.world.used[node as usize] + bytes) as f64;
        let open = (0..self.problem.nodes.len() as u32).filter(|&node| {
            node != to
                && !on.contains(&node)
                && self.problem.may_hold(shard, node)
                && spreads(self.problem, shard, on, slot, node)
                && room(node) >= 0.0
        });
        open.max_by(|&a, &b| room(a).total_cmp(&room(b)).then(b.cmp(&a)))
    }

    /// Leadership where the placement wants it, where the copies are there.
    fn settle_leaders(&mut self, left: &[u32]) {
        let mut any = false;
        for shard in 0..self.problem.shards() {
            let wanted = self.target.of(self.problem, shard).first().copied().filter(|&node| node != NONE);
            let there = wanted.is_some_and(|node| self.world.on[shard].contains(&node));
            if there && self.world.leader[shard] != wanted && !left.contains(&(shard as u32)) {
                self.world.leader[shard] = wanted;
                self.push(shard as u32, Action::Lead { node: wanted.unwrap_or(NONE) }, 0, Vec::new());
                any = true;
            }
        }
        self.wave += u32::from(any);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::Load;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use proptest::prelude::*;

    fn world(rooms: &[u64], shards: &[(u64, Vec<u32>)]) -> Problem {
        let node = |(n, &capacity_bytes): (usize, &u64)| {
            let zone = n as u32;
            NodeSpec { zone, rack: zone, capacity_bytes, weight: 1.0, takes: true, holds: true }
        };
        let shard = |(bytes, present): &(u64, Vec<u32>)| ShardSpec {
            load: Load { bytes: *bytes, ..Load::default() },
            replicas: present.len() as u32,
            present: present.clone(),
            ..ShardSpec::default()
        };
        let policy = Policy { watermark: 1.0, ..Policy::default() };
        Problem::new(rooms.iter().enumerate().map(node).collect(), shards.iter().map(shard), &policy)
    }

    #[test]
    fn full_nodes_change_places_through_a_third() {
        let problem = world(&[10, 10, 10], &[(9, vec![0]), (8, vec![1])]);
        let target = Solution { nodes: vec![1, 0] };
        let plan = sequence(&problem, &target, &WaveLimits::default());
        assert_eq!(plan.check(&problem, &target), Ok(()));
        assert_eq!((plan.left.len(), plan.peak_bytes.clone()), (0, vec![9, 9, 8]));
        assert!(plan.steps.iter().any(|step| step.action == Action::Add { node: 2 }), "{plan:?}");
    }

    #[test]
    fn with_no_room_anywhere_shards_stay_and_are_named() {
        let problem = world(&[10, 10], &[(9, vec![0]), (8, vec![1])]);
        let target = Solution { nodes: vec![1, 0] };
        let plan = sequence(&problem, &target, &WaveLimits::default());
        assert_eq!(plan.check(&problem, &target), Ok(()));
        assert_eq!((plan.steps.len(), plan.left), (0, vec![0, 1]));
    }

    #[test]
    fn the_checker_sees_a_copy_dropped_too_early() {
        let problem = world(&[10, 10], &[(1, vec![0])]);
        let target = Solution { nodes: vec![1] };
        let mut plan = sequence(&problem, &target, &WaveLimits::default());
        plan.steps.retain(|step| !matches!(step.action, Action::Add { .. } | Action::Lead { .. }));
        plan.steps.iter_mut().for_each(|step| step.after.clear());
        assert_eq!(plan.check(&problem, &target), Err(Flaw::Needed { step: 0 }));
    }

    use crate::placement::plan::Flaw;

    proptest! {
        #[test]
        fn every_plan_replays(
            nodes in 2usize..8,
            moves in prop::collection::vec((0u64..10, 0u32..8, 0u32..8, 0u32..8, 0u32..8), 0..30),
            slack in 0u64..12,
        ) {
            let n = nodes as u32;
            let pair = |a: u32, b: u32| {
                let (a, b) = (a % n, b % n);
                if a == b { vec![a, (a + 1) % n] } else { vec![a, b] }
            };
            let shards: Vec<_> = moves.iter().map(|&(bytes, a, b, _, _)| (bytes, pair(a, b))).collect();
            let mut before = vec![0; nodes];
            let mut after = vec![0; nodes];
            let mut target = Vec::new();
            for &(bytes, a, b, c, d) in &moves {
                pair(a, b).iter().for_each(|&node| before[node as usize] += bytes);
                pair(c, d).iter().for_each(|&node| after[node as usize] += bytes);
                target.extend(pair(c, d));
            }
            let rooms: Vec<u64> = before.iter().zip(&after).map(|(a, b)| (*a).max(*b) + slack + 1).collect();
            let problem = world(&rooms, &shards);
            let target = Solution { nodes: target };
            let plan = sequence(&problem, &target, &WaveLimits::default());
            prop_assert_eq!(plan.check(&problem, &target), Ok(()));
            for (node, &peak) in plan.peak_bytes.iter().enumerate() {
                prop_assert!(peak as f64 <= problem.room_bytes(node as u32));
            }
        }
    }
}
