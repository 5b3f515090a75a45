//! Puts the moves to a placement into an order that keeps every promise at every step.
//!
//! A copy is added, and complete, before the one that it replaces is dropped; a copy that is being made already
//! counts as load from the start, and as a copy only once it was waited for; leadership leaves before its copy
//! goes; no disk goes above the watermark at any moment. Moves that wait for each other's room in a cycle are
//! broken by taking the smallest of them through a third node. What still cannot move stays, and is named.

use super::constraint::spreads;
use super::plan::{Action, Left, Plan, Step, Stuck, World};
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
    /// Copies of one table at the same time.
    pub copies_per_table_max: u32,
    /// Bytes a second of one node's copies, in or out.
    pub bytes_per_second: f64,
}

impl Default for WaveLimits {
    fn default() -> Self {
        Self { copies_in_max: 2, copies_out_max: 2, copies_per_table_max: u32::MAX, bytes_per_second: 100e6 }
    }
}

impl WaveLimits {
    /// At least one copy of each kind: with none no plan would ever end.
    pub fn usable(self) -> Self {
        Self {
            copies_in_max: self.copies_in_max.max(1),
            copies_out_max: self.copies_out_max.max(1),
            copies_per_table_max: self.copies_per_table_max.max(1),
            bytes_per_second: self.bytes_per_second.max(1.0),
        }
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

/// Detours that are taken back and not tried again, at most.
const REGRETS_MAX: usize = 32;

/// The plan from what is there to `target`.
pub fn sequence(problem: &Problem, target: &Solution, limits: &WaveLimits) -> Plan {
    let mut planner = Planner::new(problem, target, limits.usable());
    let legs = planner.legs();
    legs.into_iter().for_each(|leg| planner.enqueue(leg));
    let mut barred = BTreeSet::new();
    while let Some((before, hop)) = planner.run(&barred) {
        // A copy went to a third node and cannot go on: as if it had not gone.
        planner = before;
        barred.insert((hop.shard, hop.from));
        if barred.len() > REGRETS_MAX {
            break;
        }
    }
    planner.finish()
}

#[derive(Clone)]
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
    /// Copies on third nodes that have not gone on yet: shard and node.
    parked: BTreeSet<(u32, u32)>,
}

/// What the nodes do in one wave.
struct Tally {
    into: Vec<u32>,
    out: Vec<u32>,
    moved: Vec<u64>,
    tables: BTreeMap<u32, u32>,
    busy: BTreeSet<u32>,
}

impl<'a> Planner<'a> {
    fn new(problem: &'a Problem, target: &'a Solution, limits: WaveLimits) -> Self {
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
            parked: BTreeSet::new(),
        }
    }

    /// Wave after wave until nothing can start. If a copy is then stuck on a third node: how things stood before the
    /// first such detour, and whose it was.
    fn run(&mut self, barred: &BTreeSet<(u32, Option<u32>)>) -> Option<(Self, Leg)> {
        let (mut detours, mut before) = (0, None);
        while !self.queues.is_empty() {
            if self.next_wave(LOOK) || self.next_wave(usize::MAX) || self.sit_out() {
                continue;
            }
            detours += 1;
            if detours > DETOURS_MAX {
                break;
            }
            let now = self.parked.is_empty().then(|| self.clone());
            let Some(hop) = self.detour(barred) else { break };
            before = now.map(|now| (now, hop)).or(before);
        }
        before.filter(|_| !self.parked.is_empty())
    }

    /// The plan as far as it goes, and why it goes no further.
    fn finish(mut self) -> Plan {
        let mut left: Vec<Left> = self.queues.values().flatten().map(|leg| self.held_up(leg)).collect();
        left.sort_unstable();
        left.dedup_by_key(|left| left.shard);
        self.settle_leaders(&left);
        let mut plan = self.plan;
        plan.left = left;
        plan.peak_bytes = self.peak;
        plan.waves = self.wave;
        plan
    }

    fn held_up(&self, leg: &Leg) -> Left {
        let shard = leg.shard as usize;
        let open = leg.to.filter(|to| !self.world.on[shard].contains(to));
        let why = match (open, leg.from) {
            (Some(node), _) => Stuck::NoRoom { node },
            (None, from) => Stuck::Needed { node: from.or(leg.to).unwrap_or(NONE) },
        };
        Left { shard: leg.shard, why }
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
            let mut pairs: Vec<(u32, Option<u32>)> = awaited.chain(added).map(|&to| (to, None)).collect();
            // Within a zone where that can be: else two copies would be in one while the other is still to come.
            let zone = |node: u32| self.problem.nodes[node as usize].zone;
            for (to, from) in &mut pairs {
                let same = remove.iter().position(|&node| zone(node) == zone(*to));
                *from = same.map(|at| remove.remove(at));
            }
            let mut remove = remove.into_iter();
            let shard = shard as u32;
            for (to, from) in pairs {
                legs.push(Leg { shard, from: from.or_else(|| remove.next()), to: Some(to), rank: 0 });
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
        self.plan.steps.push(Step {
            shard,
            action,
            replaces: None,
            source: None,
            bytes,
            wave: self.wave,
            after,
        });
        self.last.insert(shard, at);
        at
    }

    /// What nodes do already when a wave begins: in the first one, the copies that are on their way.
    fn tally(&self) -> Tally {
        let nodes = self.problem.nodes.len();
        let mut tally = Tally {
            into: vec![0; nodes],
            out: vec![0; nodes],
            moved: vec![0; nodes],
            tables: BTreeMap::new(),
            busy: BTreeSet::new(),
        };
        if self.wave == 0 {
            for &(shard, node) in self.problem.making() {
                tally.into[node as usize] += 1;
                tally.moved[node as usize] += self.problem.bytes[shard as usize];
                *tally.tables.entry(self.problem.table[shard as usize]).or_default() += 1;
            }
        }
        tally
    }

    /// Waits for copies that are on their way, if there are any that the first wave has to wait for.
    fn sit_out(&mut self) -> bool {
        if self.wave > 0 || self.problem.making().is_empty() {
            return false;
        }
        let most = self.tally().moved.into_iter().max().unwrap_or(0);
        self.plan.seconds += most as f64 / self.limits.bytes_per_second;
        self.wave = 1;
        true
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
        // The copy that it was to be read from may have gone meanwhile.
        let there = Some(source).filter(|&node| self.world.is_sound(shard, node));
        let source = there.or_else(|| self.source(&leg));
        let fits = self.world.fits(self.problem, shard, to);
        let table = self.problem.table[shard];
        let free = tally.into[node] < self.limits.copies_in_max
            && source.is_none_or(|node| tally.out[node as usize] < self.limits.copies_out_max)
            && tally.tables.get(&table).is_none_or(|&copies| copies < self.limits.copies_per_table_max)
            && !tally.busy.contains(&leg.shard)
            && !self.world.on[shard].contains(&to);
        if !fits || !free {
            return false;
        }
        tally.into[node] += 1;
        tally.moved[node] += bytes;
        *tally.tables.entry(table).or_default() += 1;
        if let Some(source) = source {
            tally.out[source as usize] += 1;
            tally.moved[source as usize] += bytes;
        }
        tally.busy.insert(leg.shard);
        let after = self.freed.get(&to).cloned().unwrap_or_default();
        let at = self.push(leg.shard, Action::Add { node: to }, bytes, after);
        let step = &mut self.plan.steps[at as usize];
        (step.replaces, step.source) = (leg.from, source);
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
            self.plan.seconds += most / self.limits.bytes_per_second;
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
        self.parked.remove(&(shard, node));
        self.world.used[node as usize] -= self.problem.bytes[s];
    }

    /// Nothing can start: takes the smallest leg of a cycle of nodes that wait for each other through a node
    /// with room. Answers which, if there is one.
    fn detour(&mut self, barred: &BTreeSet<(u32, Option<u32>)>) -> Option<Leg> {
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
        let open = |leg: &&Leg| leg.from.is_some() && leg.to.is_some();
        let tried = |leg: &Leg| barred.contains(&(leg.shard, leg.from));
        let mut order: Vec<&Leg> = legs.iter().filter(open).filter(|leg| !tried(leg)).collect();
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
            self.parked.insert((leg.shard, third));
            return Some(leg);
        }
        None
    }

    /// A node with room for a shard on its way, spread kept; the emptiest one.
    fn third(&self, shard: usize, from: u32, to: u32) -> Option<u32> {
        let on = &self.world.on[shard];
        let slot = on.iter().position(|&node| node == from)?;
        let room = |node: u32| self.problem.room_bytes(node) - self.world.used[node as usize] as f64;
        let open = (0..self.problem.nodes.len() as u32).filter(|&node| {
            node != to
                && !on.contains(&node)
                && self.problem.may_hold(shard, node)
                && spreads(self.problem, shard, on, slot, node)
                && self.world.fits(self.problem, shard, node)
        });
        open.max_by(|&a, &b| room(a).total_cmp(&room(b)).then(b.cmp(&a)))
    }

    /// Leadership where the placement wants it, where the copies are there.
    fn settle_leaders(&mut self, left: &[Left]) {
        let mut any = false;
        for shard in 0..self.problem.shards() {
            let wanted = self.target.of(self.problem, shard).first().copied().filter(|&node| node != NONE);
            let (Some(node), id) = (wanted, shard as u32) else { continue };
            let there = self.world.on[shard].contains(&node);
            if !there
                || self.world.leader[shard] == wanted
                || left.binary_search_by_key(&id, |left| left.shard).is_ok()
            {
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
mod tests;
