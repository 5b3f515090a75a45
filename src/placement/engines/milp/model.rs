//! The placement of some shards on some nodes as an integer program; everything else stays where it is.
//!
//! Binaries say which node holds a replica and which leads; continuous variables hold the worst deviations. The
//! model is written with `good_lp` and handed to HiGHS, whose inner model takes the warm start, the limits and
//! answers with the bound that it proved. One thread and a fixed seed: the same model and limits without seconds
//! give the same answer.

use super::rows::rows;
use crate::placement::caps::Caps;
use crate::placement::constraint::broken;
use crate::placement::objective::{deviation, moved, score, table_ceilings};
use crate::placement::problem::{NONE, Problem};
use crate::placement::solution::{Held, Solution, held};
use good_lp::solvers::highs::highs;
use good_lp::{Constraint, Expression, ProblemVariables, SolverModel, Variable, constraint, variable};
use std::collections::BTreeMap;

/// What HiGHS may take.
#[derive(Debug, Clone, Copy)]
pub struct MilpLimits {
    /// Seconds; none for an answer that repeats exactly. HiGHS may overrun it.
    pub seconds: Option<f64>,
    /// Nodes of the search tree.
    pub tree_nodes: u64,
    /// Ends at this relative gap.
    pub gap: f64,
}

/// What a solve of a part found.
#[derive(Debug, Clone)]
pub struct Found {
    /// The whole placement; the start's if nothing better was found.
    pub solution: Solution,
    /// Its score; infinite if it is the start's and that is not good enough.
    pub score: f64,
    /// No placement that differs from the start in this part alone and keeps the hard rules scores less.
    pub bound: f64,
    /// Work spent, in units of the budget.
    pub work: u64,
}

/// Shards and nodes that may change.
#[derive(Debug)]
pub struct Part<'a> {
    problem: &'a Problem,
    base: &'a Solution,
    shards: Vec<u32>,
    open: Vec<bool>,
    caps: Caps,
    strict: bool,
}

/// Work units that a variable counts for at the least.
const COLUMN_WORK: u64 = 50;
/// Work units that one simplex iteration counts for.
const ITERATION_WORK: u64 = 40;

impl<'a> Part<'a> {
    /// These shards' replicas on these nodes; frozen shards never change. `base` has no gaps.
    pub fn new(problem: &'a Problem, base: &'a Solution, shards: &[u32], nodes: &[u32]) -> Self {
        let mut open = vec![false; problem.nodes.len()];
        nodes.iter().for_each(|&node| open[node as usize] = true);
        let free = |&&shard: &&u32| !problem.frozen[shard as usize];
        let shards = shards.iter().filter(free).copied().collect();
        Self { problem, base, shards, open, caps: Caps::NONE, strict: false }
    }

    /// The same, with no more copied in all than `caps` allow. `base` keeps to them.
    pub fn within(self, caps: Caps) -> Self {
        Self { caps, ..self }
    }

    /// The same, with no node above its watermark, also if `base` has one there: no answer is then as good as `base`.
    pub fn strict(self) -> Self {
        Self { strict: true, ..self }
    }

    /// The whole problem.
    pub fn whole(problem: &'a Problem, base: &'a Solution) -> Self {
        let shards: Vec<u32> = (0..problem.shards() as u32).collect();
        let nodes: Vec<u32> = (0..problem.nodes.len() as u32).collect();
        Self::new(problem, base, &shards, &nodes)
    }

    /// How many binaries a model of so many shards on so many nodes has at most.
    pub fn binaries(shards: usize, nodes: usize) -> usize {
        shards.saturating_mul(nodes).saturating_mul(2)
    }

    /// Solves it from `base`. None if HiGHS fails; what it finds is checked by the rules and the objective.
    pub fn solve(&self, limits: &MilpLimits) -> Option<Found> {
        let sick = self.strict && !broken(self.problem, self.base).is_empty();
        let start = if sick { f64::INFINITY } else { score(self.problem, self.base).total };
        if self.shards.is_empty() {
            return Some(Found { solution: self.base.clone(), score: start, bound: start, work: 1 });
        }
        let mut program = Program::new(self);
        for &shard in &self.shards {
            program.shard(shard as usize);
        }
        program.balance();
        program.tables();
        program.limit();
        program.solve(limits, start)
    }
}

/// The program as it is built.
struct Program<'a> {
    part: &'a Part<'a>,
    variables: ProblemVariables,
    /// Values of the start, by variable.
    start: Vec<f64>,
    objective: Expression,
    /// What the objective has without any variable.
    constant: f64,
    constraints: Vec<Constraint>,
    /// Replica-on-node by shard.
    replicas: BTreeMap<u32, Vec<(u32, Variable, usize)>>,
    /// Leader-on-node by shard.
    leaders: BTreeMap<u32, Vec<(u32, Variable, usize)>>,
    /// What stays on each node, whatever the variables.
    fixed: Vec<Held>,
    /// Bytes copied and copies made by variables, and apart from them.
    copied: (Expression, Expression),
    fixed_copies: (u64, u64),
}

impl<'a> Program<'a> {
    fn new(part: &'a Part<'a>) -> Self {
        let (bytes, copies, changes) = moved(part.problem, part.base);
        let weights = &part.problem.policy.weights;
        let constant = weights.moved * bytes as f64 / part.problem.total_bytes.max(1.0)
            + weights.copies * copies as f64 / (part.problem.replicas() as f64).max(1.0)
            + weights.leader_changes * changes as f64 / part.problem.shards() as f64;
        Self {
            part,
            variables: ProblemVariables::new(),
            start: Vec::new(),
            objective: Expression::default(),
            constant,
            constraints: Vec::new(),
            replicas: BTreeMap::new(),
            leaders: BTreeMap::new(),
            fixed: held(part.problem, part.base),
            copied: (Expression::default(), Expression::default()),
            fixed_copies: (bytes, copies),
        }
    }

    fn binary(&mut self, value: bool, pinned: bool, cost: f64) -> (Variable, usize) {
        let definition = variable().integer().min(u8::from(pinned)).max(1);
        let added = self.variables.add(definition);
        self.start.push(f64::from(u8::from(value)));
        self.objective.add_mul(cost, added);
        // The constant holds the start's cost; the variables hold it from here on.
        self.constant -= if value { cost } else { 0.0 };
        (added, self.start.len() - 1)
    }

    fn amount(&mut self, min: f64, value: f64, cost: f64) -> Variable {
        let added = self.variables.add(variable().min(min));
        self.start.push(value.max(min));
        self.objective.add_mul(cost, added);
        added
    }

    /// What a shard's replicas on open nodes are to them is no longer fixed.
    fn release(&mut self, shard: usize) {
        let (problem, part) = (self.part.problem, self.part);
        let is_open = |node: u32| node != NONE && part.open[node as usize];
        let placed = part.base.of(problem, shard);
        for (slot, &node) in placed.iter().enumerate().filter(|(_, node)| is_open(**node)) {
            if !problem.holds(shard, node) {
                self.fixed_copies.0 -= problem.bytes[shard];
                self.fixed_copies.1 -= 1;
            }
            let on = &mut self.fixed[node as usize];
            on.replicas -= 1;
            on.bytes -= problem.bytes[shard];
            on.writes -= problem.writes[shard];
            if slot == 0 {
                on.leaders -= 1;
                on.reads -= problem.reads[shard];
            }
        }
    }

    /// A shard's variables: its replicas on open nodes are free, the others stay.
    fn shard(&mut self, shard: usize) {
        let (problem, part) = (self.part.problem, self.part);
        let placed = part.base.of(problem, shard);
        let is_open = |node: u32| node != NONE && part.open[node as usize];
        let free = placed.iter().filter(|&&node| is_open(node)).count();
        if free == 0 {
            return;
        }
        let stays: Vec<u32> = placed.iter().copied().filter(|&node| !is_open(node)).collect();
        let leads = is_open(placed[0]);
        self.release(shard);
        let copy = problem.copy_cost(shard);
        let change = problem.policy.weights.leader_changes / problem.shards() as f64;
        let (mut replicas, mut leaders) = (Vec::new(), Vec::new());
        let (mut count, mut leader) = (Expression::default(), Expression::default());
        let (mut zones, mut racks) = (BTreeMap::new(), BTreeMap::new());
        for node in (0..problem.nodes.len() as u32).filter(|&node| is_open(node)) {
            let clash = |of: fn(&Problem, u32) -> u32, cap: u8| {
                let same =
                    stays.iter().filter(|&&other| other != NONE && of(problem, other) == of(problem, node));
                same.count() >= usize::from(cap)
            };
            let possible = problem.may_hold(shard, node)
                && !clash(zone_of, problem.zone_cap[shard])
                && !clash(rack_of, problem.rack_cap(shard, zone_of(problem, node)));
            if !possible {
                continue;
            }
            let cost = if problem.holds(shard, node) { 0.0 } else { copy };
            let (x, at) = self.binary(placed.contains(&node), problem.is_pinned(shard, node), cost);
            replicas.push((node, x, at));
            if !problem.holds(shard, node) {
                self.copied.0.add_mul(problem.bytes[shard] as f64, x);
                self.copied.1.add_mul(1.0, x);
            }
            count += x;
            *zones.entry(zone_of(problem, node)).or_insert_with(Expression::default) += x;
            let rack = (zone_of(problem, node), rack_of(problem, node));
            *racks.entry(rack).or_insert_with(Expression::default) += x;
            if leads {
                let old = problem.leader(shard);
                let cost = if old == node || old == NONE { 0.0 } else { change };
                let (l, at) = self.binary(placed[0] == node, false, cost);
                leaders.push((node, l, at));
                leader += l;
                self.constraints.push(constraint!(l <= x));
            }
        }
        self.constraints.push(constraint!(count == free as f64));
        if leads {
            self.constraints.push(constraint!(leader == 1.0));
        }
        let cap = problem.zone_cap[shard];
        self.spread(shard, &stays, zones.into_iter().map(|(zone, held)| (zone, held, cap)), zone_of);
        let racks = racks.into_iter();
        let racks = racks.map(|((zone, rack), held)| (rack, held, problem.rack_cap(shard, zone)));
        self.spread(shard, &stays, racks, rack_of);
        self.replicas.insert(shard as u32, replicas);
        self.leaders.insert(shard as u32, leaders);
    }

    fn spread(
        &mut self,
        shard: usize,
        stays: &[u32],
        groups: impl Iterator<Item = (u32, Expression, u8)>,
        of: fn(&Problem, u32) -> u32,
    ) {
        let (problem, slots) = (self.part.problem, self.part.problem.slots(shard).len());
        for (group, held, cap) in groups {
            let there = stays.iter().filter(|&&node| node != NONE && of(problem, node) == group).count();
            let left = f64::from(cap) - there as f64;
            if left < slots as f64 {
                self.constraints.push(constraint!(held <= left));
            }
        }
    }

    /// The worst deviation of every dimension, and the room on every node.
    fn balance(&mut self) {
        let (problem, base) = (self.part.problem, held(self.part.problem, self.part.base));
        for row in rows(problem) {
            let off =
                |n: u32| deviation((row.load)(&base[n as usize]), (row.fair)(&problem.fair[n as usize]));
            let worst = problem.balanced.iter().map(|&n| off(n)).fold(0.0, f64::max);
            let closed = problem.balanced.iter().filter(|&&n| !self.part.open[n as usize]);
            let least = closed.map(|&n| off(n)).fold(row.least, f64::max);
            let dev = self.amount(least.max(row.tolerance), worst, row.weight);
            self.constant -= row.weight * row.tolerance;
            let mut loads = self.loads(row.replica, row.leader);
            for &n in &problem.balanced {
                let fair = (row.fair)(&problem.fair[n as usize]);
                let Some(load) = loads.remove(&n).filter(|_| fair > 0.0) else { continue };
                let there = (row.load)(&self.fixed[n as usize]) / fair;
                let load = load * (1.0 / fair);
                self.constraints.push(constraint!(load.clone() - dev <= 1.0 - there));
                self.constraints.push(constraint!(load + dev >= 1.0 - there));
            }
        }
        let loads = self.loads(|problem, shard| problem.bytes[shard] as f64, |_, _| 0.0);
        for (n, load) in loads {
            let room = problem.room_bytes(n);
            // What is over the watermark already may stay so, where the rules cannot be kept.
            let room = if self.part.strict { room } else { room.max(base[n as usize].bytes as f64) };
            let room = room - self.fixed[n as usize].bytes as f64;
            if room.is_finite() {
                let unit = problem.room_bytes(n).max(1.0);
                self.constraints.push(constraint!(load * (1.0 / unit) <= room / unit));
            }
        }
    }

    /// Load of the variables on every node that has one.
    fn loads(
        &self,
        replica: fn(&Problem, usize) -> f64,
        leader: fn(&Problem, usize) -> f64,
    ) -> BTreeMap<u32, Expression> {
        let mut loads: BTreeMap<u32, Expression> = BTreeMap::new();
        for (list, load) in [(&self.replicas, replica), (&self.leaders, leader)] {
            for (&shard, variables) in list {
                let load = load(self.part.problem, shard as usize);
                for &(node, variable, _) in variables {
                    let on = loads.entry(node).or_default();
                    if load != 0.0 {
                        on.add_mul(load, variable);
                    }
                }
            }
        }
        loads
    }

    /// Replicas above their table's fair share, if the policy weighs them.
    fn tables(&mut self) {
        let problem = self.part.problem;
        let weight = problem.policy.weights.per_table / (problem.replicas() as f64).max(1.0);
        if weight == 0.0 {
            return;
        }
        let mut totals = vec![0.0; problem.tables];
        let mut counts: BTreeMap<(u32, u32), f64> = BTreeMap::new();
        for shard in 0..problem.shards() {
            totals[problem.table[shard] as usize] += problem.slots(shard).len() as f64;
            for &node in self.part.base.of(problem, shard).iter().filter(|node| **node != NONE) {
                *counts.entry((problem.table[shard], node)).or_default() += 1.0;
            }
        }
        let ceilings: Vec<Vec<f64>> = totals.iter().map(|&total| table_ceilings(problem, total)).collect();
        let mut terms: BTreeMap<(u32, u32), (Expression, f64)> = BTreeMap::new();
        for (&shard, variables) in &self.replicas {
            for &(node, variable, at) in variables {
                let term = terms.entry((problem.table[shard as usize], node)).or_default();
                term.0 += variable;
                term.1 += self.start[at];
            }
        }
        let balanced = |node: u32| problem.balanced.binary_search(&node).is_ok();
        let above =
            |key: &(u32, u32), count: f64| (count - ceilings[key.0 as usize][key.1 as usize]).max(0.0);
        for (key, &count) in counts.iter().filter(|(key, _)| balanced(key.1)) {
            if !terms.contains_key(key) {
                self.constant += weight * above(key, count);
            }
        }
        for (key, (term, free)) in terms.into_iter().filter(|(key, _)| balanced(key.1)) {
            let count = counts.get(&key).copied().unwrap_or(0.0);
            let excess = self.amount(0.0, above(&key, count), weight);
            let ceiling = ceilings[key.0 as usize][key.1 as usize] - (count - free);
            self.constraints.push(constraint!(term - excess <= ceiling));
        }
    }

    /// No more is copied than the caps allow.
    fn limit(&mut self) {
        let caps = self.part.caps;
        let (bytes, copies) = std::mem::take(&mut self.copied);
        if caps.bytes < u64::MAX {
            let unit = (caps.bytes as f64).max(1.0);
            let left = caps.bytes.saturating_sub(self.fixed_copies.0) as f64;
            self.constraints.push(constraint!(bytes * (1.0 / unit) <= left / unit));
        }
        if caps.copies < u64::MAX {
            let left = caps.copies.saturating_sub(self.fixed_copies.1) as f64;
            self.constraints.push(constraint!(copies <= left));
        }
    }

    fn solve(self, limits: &MilpLimits, start: f64) -> Option<Found> {
        let (part, constant) = (self.part, self.constant);
        let mut model = self.variables.minimise(self.objective).using(highs);
        for constraint in self.constraints {
            model.add_constraint(constraint);
        }
        let mut model = model.try_into_inner().ok()?;
        model.make_quiet();
        let nodes = i32::try_from(limits.tree_nodes).unwrap_or(i32::MAX);
        model.try_set_option("threads", 1).ok()?;
        model.try_set_option("parallel", "off").ok()?;
        model.try_set_option("random_seed", 1).ok()?;
        model.try_set_option("mip_max_nodes", nodes).ok()?;
        model.try_set_option("mip_rel_gap", limits.gap).ok()?;
        model.try_set_option("mip_abs_gap", limits.gap.min(1e-6)).ok()?;
        if let Some(seconds) = limits.seconds {
            model.try_set_option("time_limit", seconds.max(0.01)).ok()?;
        }
        model.try_set_solution(Some(&self.start), None, None, None).ok()?;
        let solved = model.try_solve().ok()?;
        let work = self.start.len() as u64 * COLUMN_WORK
            + solved.simplex_iteration_count().max(0) as u64 * ITERATION_WORK;
        let bound = solved.double_info_value(c"mip_dual_bound").ok().filter(|bound| bound.is_finite());
        let slack = |bound: f64| 1e-9 * (bound.abs() + constant.abs());
        let bound = bound.map_or(0.0, |bound| bound + constant - slack(bound)).min(start);
        let kept = Found { solution: part.base.clone(), score: start, bound, work };
        if solved.primal_solution_status() != ::highs::HighsSolutionStatus::Feasible {
            return Some(kept);
        }
        let values = solved.get_solution();
        let mut solution = part.base.clone();
        for (&shard, replicas) in &self.replicas {
            let chosen = |list: &[(u32, Variable, usize)]| -> Vec<u32> {
                let on = list.iter().filter(|&&(_, _, at)| values.columns()[at] > 0.5);
                on.map(|&(node, _, _)| node).collect()
            };
            let leader = self.leaders.get(&shard).and_then(|list| chosen(list).first().copied());
            let slots = part.problem.slots(shard as usize);
            place(&mut solution.nodes[slots], &part.open, chosen(replicas), leader);
        }
        let worse = broken(part.problem, &solution).len() > broken(part.problem, part.base).len();
        let worse = worse || !part.caps.allow(moved(part.problem, &solution));
        let found = score(part.problem, &solution).total;
        if worse || found >= start || solution.nodes.contains(&NONE) {
            return Some(kept);
        }
        Some(Found { solution, score: found, ..kept })
    }
}

fn zone_of(problem: &Problem, node: u32) -> u32 {
    problem.nodes[node as usize].zone
}

fn rack_of(problem: &Problem, node: u32) -> u32 {
    problem.nodes[node as usize].rack
}

/// Puts the chosen nodes into a shard's open slots; those that stay keep their slots.
fn place(placed: &mut [u32], open: &[bool], mut chosen: Vec<u32>, leader: Option<u32>) {
    let is_open = |node: u32| node != NONE && open[node as usize];
    let mut gaps = Vec::new();
    for (slot, node) in placed.iter_mut().enumerate() {
        if !is_open(*node) {
            continue;
        }
        match chosen.iter().position(|other| other == node) {
            Some(at) => drop(chosen.swap_remove(at)),
            None => {
                *node = NONE;
                gaps.push(slot);
            }
        }
    }
    chosen.sort_unstable();
    gaps.into_iter().zip(chosen).for_each(|(slot, node)| placed[slot] = node);
    if let Some(slot) = leader.and_then(|leader| placed.iter().position(|&node| node == leader)) {
        placed.swap(0, slot);
    }
}
