//! Puts the moves to a placement into an order that keeps every promise at every step.
//!
//! A copy is added, and complete, before the one that it replaces is dropped; a copy that is being made already
//! counts as load from the start, and as a copy only once it was waited for; leadership leaves before its copy
//! goes; no disk goes above the watermark at any moment. Moves that wait for each other's room in a cycle are
//! broken by taking the smallest of them through a third node. What still cannot move stays, and is named.

use super::constraint::spreads;
use super::plan::{Action, Plan, Step, World};
use super::problem::{NONE, Problem};
use super::solution::Solution;
use petgraph::algo::tarjan_scc;
use petgraph::graph::DiGraph;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

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
    /// Legs of a low rank start first.
    rank: u32,
}

/// How many blocked legs of one source a wave looks past before it takes the next source.
const LOOK: usize = 256;
/// Legs taken through a third node in one plan, at most.
const DETOURS_MAX: usize = 1000;

/// The plan from what is there to `target`.
pub fn sequence(problem: &Problem, target: &Solution, limits: &WaveLimits) -> Plan {
    let mut planner = Planner::new(problem, target, *limits);
    let legs = planner.legs();
    legs.into_iter().for_each(|leg| planner.enqueue(leg));
    let mut detours = 0;
    while !planner.queues.is_empty() {
        if planner.next_wave(LOOK) || planner.next_wave(usize::MAX) {
            continue;
        }
        detours += 1;
        if detours > DETOURS_MAX || !planner.detour() {
            break;
        }
    }
    let mut left: Vec<u32> = planner.queues.values().flatten().map(|leg| leg.shard).collect();
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
    /// What is still to be done, by the node that copies are read from ([`NONE`] if there is none).
    queues: BTreeMap<u32, VecDeque<Leg>>,
    /// The last step of each shard.
    last: BTreeMap<u32, u32>,
    /// Steps that freed room on a node in the wave before.
    freed: BTreeMap<u32, Vec<u32>>,
}

/// What the nodes do in one wave.
struct Tally {
    into: Vec<u32>,
    out: Vec<u32>,
    moved: Vec<u64>,
    busy: BTreeSet<u32>,
}

impl<'a> Planner<'a> {
    fn new(problem: &'a Problem, target: &'a Solution, limits: WaveLimits) -> Self {
        let limits = WaveLimits {
            copies_in_max: limits.copies_in_max.max(1),
            copies_out_max: limits.copies_out_max.max(1),
            ..limits
        };
        let world = World::new(problem);
        let peak = world.used.clone();
        Self {
            problem,
            target,
            limits,
            world,
            peak,
            plan: Plan::default(),
            wave: 0,
            queues: BTreeMap::new(),
            last: BTreeMap::new(),
            freed: BTreeMap::new(),
        }
    }

    /// Every shard's changes, those off lost and full nodes first, then the biggest. What is dropped is paired
    /// with copies on their way first.
    fn legs(&self) -> Vec<Leg> {
        let mut legs = Vec::new();
        for shard in 0..self.problem.shards() {
            let (present, placed) = (self.problem.present(shard), self.target.of(self.problem, shard));
            let mut remove: Vec<u32> =
                present.iter().copied().filter(|node| !placed.contains(node)).collect();
            if remove.is_empty() && placed.iter().all(|node| *node == NONE || present.contains(node)) {
                continue;
            }
            remove.sort_by_key(|&node| self.problem.nodes[node as usize].holds);
            let coming = |node: &&u32| self.world.unsound.contains(&(shard as u32, **node));
            let awaited = placed.iter().filter(coming).take(remove.len());
            let added = placed.iter().filter(|node| **node != NONE && !present.contains(node));
            let mut remove = remove.into_iter();
            let shard = shard as u32;
            for &to in awaited.chain(added) {
                legs.push(Leg { shard, from: remove.next(), to: Some(to), rank: 0 });
            }
            legs.extend(remove.map(|node| Leg { shard, from: Some(node), to: None, rank: 0 }));
        }
        let urgent = |leg: &Leg| {
            let hot = |node: u32| self.world.used[node as usize] as f64 > self.problem.room_bytes(node);
            leg.from.is_none_or(|node| !self.problem.nodes[node as usize].holds || hot(node))
        };
        let bytes = |leg: &Leg| self.problem.bytes[leg.shard as usize];
        legs.sort_by_key(|leg| (leg.to.is_some(), !urgent(leg), std::cmp::Reverse(bytes(leg)), leg.shard));
        legs.iter_mut().enumerate().for_each(|(rank, leg)| leg.rank = rank as u32);
        legs
    }

    /// Where a leg's copy is read from: the copy that goes, if it is complete, else another complete one.
    fn source(&self, leg: &Leg) -> Option<u32> {
        let shard = leg.shard as usize;
        let sound = |node: &u32| self.world.is_sound(shard, *node);
        leg.from.filter(sound).or_else(|| self.world.on[shard].iter().copied().find(sound))
    }

    fn enqueue(&mut self, leg: Leg) {
        let key = self.source(&leg).unwrap_or(NONE);
        self.queues.entry(key).or_default().push_back(leg);
    }

    fn push(&mut self, shard: u32, action: Action, bytes: u64, mut after: Vec<u32>) -> u32 {
        after.extend(self.last.get(&shard));
        after.sort_unstable();
        after.dedup();
        let at = self.plan.steps.len() as u32;
        self.plan.steps.push(Step { shard, action, replaces: None, bytes, wave: self.wave, after });
        self.last.insert(shard, at);
        at
    }

    /// What nodes do already when a wave begins: in the first one, the copies that are on their way.
    fn tally(&self) -> Tally {
        let nodes = self.problem.nodes.len();
        let mut tally =
            Tally { into: vec![0; nodes], out: vec![0; nodes], moved: vec![0; nodes], busy: BTreeSet::new() };
        if self.wave == 0 {
            for &(shard, node) in &self.world.unsound {
                tally.into[node as usize] += 1;
                tally.moved[node as usize] += self.problem.bytes[shard as usize];
            }
        }
        tally
    }

    /// Starts what can start now, and ends it; answers whether anything was.
    fn next_wave(&mut self, look: usize) -> bool {
        let mut tally = self.tally();
        let mut heads: Vec<(u32, u32)> =
            self.queues.iter().filter_map(|(&key, queue)| Some((queue.front()?.rank, key))).collect();
        heads.sort_unstable();
        let mut started = Vec::new();
        for (_, key) in heads {
            let Some(mut queue) = self.queues.remove(&key) else { continue };
            let mut blocked = Vec::new();
            while blocked.len() < look
                && (key == NONE || tally.out[key as usize] < self.limits.copies_out_max)
                && let Some(leg) = queue.pop_front()
            {
                if self.start(leg, key, &mut tally) { started.push(leg) } else { blocked.push(leg) }
            }
            blocked.into_iter().rev().for_each(|leg| queue.push_front(leg));
            if !queue.is_empty() {
                self.queues.insert(key, queue);
            }
        }
        self.end(&started, &tally);
        !started.is_empty()
    }

    fn start(&mut self, leg: Leg, source: u32, tally: &mut Tally) -> bool {
        let shard = leg.shard as usize;
        let bytes = self.problem.bytes[shard];
        let Some(to) = leg.to else {
            return leg.from.is_some_and(|node| self.world.may_drop(self.problem, shard, node));
        };
        let node = to as usize;
        if self.world.unsound.contains(&(leg.shard, to)) && !tally.busy.contains(&leg.shard) {
            tally.busy.insert(leg.shard);
            self.push(leg.shard, Action::Await { node: to }, 0, Vec::new());
            return true;
        }
        let room = self.world.used[node].saturating_add(bytes) as f64;
        let fits = bytes == 0 || room <= self.problem.room_bytes(to);
        let free = tally.into[node] < self.limits.copies_in_max
            && !tally.busy.contains(&leg.shard)
            && !self.world.on[shard].contains(&to);
        if !fits || !free {
            return false;
        }
        tally.into[node] += 1;
        tally.moved[node] += bytes;
        if source != NONE {
            tally.out[source as usize] += 1;
            tally.moved[source as usize] += bytes;
        }
        tally.busy.insert(leg.shard);
        let after = self.freed.get(&to).cloned().unwrap_or_default();
        let at = self.push(leg.shard, Action::Add { node: to }, bytes, after);
        self.plan.steps[at as usize].replaces = leg.from;
        self.world.used[node] += bytes;
        self.world.on[shard].push(to);
        self.world.unsound.insert((leg.shard, to));
        self.peak[node] = self.peak[node].max(self.world.used[node]);
        true
    }

    /// Ends a wave: what was started is complete, and what it replaces goes.
    fn end(&mut self, started: &[Leg], tally: &Tally) {
        self.freed.clear();
        for leg in started {
            if let Some(to) = leg.to {
                self.world.unsound.remove(&(leg.shard, to));
            }
        }
        for &leg in started {
            match leg.from {
                Some(node) if self.world.may_drop(self.problem, leg.shard as usize, node) => {
                    self.drop_copy(leg.shard, node);
                }
                Some(_) => self.enqueue(Leg { to: None, ..leg }),
                None => {}
            }
        }
        if !started.is_empty() {
            let most = tally.moved.iter().copied().max().unwrap_or(0) as f64;
            self.plan.seconds += most / self.limits.bytes_per_second.max(1.0);
            self.wave += 1;
        }
    }

    /// Drops a copy; its leadership goes first.
    fn drop_copy(&mut self, shard: u32, node: u32) {
        let s = shard as usize;
        if self.world.leader[s] == Some(node) {
            let wanted = self.target.of(self.problem, s).first().copied();
            let there = |to: &u32| *to != node && self.world.is_sound(s, *to);
            let next = wanted.filter(there).or_else(|| self.world.on[s].iter().copied().find(there));
            self.world.leader[s] = next;
            if let Some(to) = next {
                self.push(shard, Action::Lead { node: to }, 0, Vec::new());
            }
        }
        let at = self.push(shard, Action::Remove { node }, 0, Vec::new());
        self.freed.entry(node).or_default().push(at);
        self.world.on[s].retain(|&other| other != node);
        self.world.unsound.remove(&(shard, node));
        self.world.used[node as usize] -= self.problem.bytes[s];
    }

    /// Nothing can start: takes the smallest leg of a cycle of nodes that wait for each other through a node
    /// with room. Answers whether there is one.
    fn detour(&mut self) -> bool {
        let mut graph = DiGraph::<u32, ()>::new();
        let places: Vec<_> = (0..self.problem.nodes.len() as u32).map(|n| graph.add_node(n)).collect();
        let legs: Vec<Leg> = self.queues.values().flatten().copied().collect();
        for leg in &legs {
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
        let mut order: Vec<&Leg> = legs.iter().filter(|leg| leg.from.is_some() && leg.to.is_some()).collect();
        order.sort_by_key(|leg| (!circular(leg), self.problem.bytes[leg.shard as usize], leg.rank));
        for &leg in order {
            let (Some(from), Some(to)) = (leg.from, leg.to) else { continue };
            let Some(third) = self.third(leg.shard as usize, from, to) else { continue };
            let hop = Leg { to: Some(third), ..leg };
            let key = self.source(&hop).unwrap_or(NONE);
            let mut tally = self.tally();
            if !self.start(hop, key, &mut tally) {
                continue;
            }
            self.queues.values_mut().for_each(|queue| queue.retain(|other| *other != leg));
            self.queues.retain(|_, queue| !queue.is_empty());
            self.end(&[hop], &tally);
            self.enqueue(Leg { from: Some(third), ..leg });
            return true;
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
            let (Some(node), id) = (wanted, shard as u32) else { continue };
            let there = self.world.on[shard].contains(&node);
            if !there || self.world.leader[shard] == wanted || left.binary_search(&id).is_ok() {
                continue;
            }
            if self.world.unsound.remove(&(id, node)) {
                self.push(id, Action::Await { node }, 0, Vec::new());
            }
            self.world.leader[shard] = wanted;
            self.push(id, Action::Lead { node }, 0, Vec::new());
            any = true;
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
