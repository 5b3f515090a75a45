//! The checker of plans: replays one step by step and finds the first broken promise.
//!
//! It shares [`World`] with the planner, which knows what is there and which copy may go, and no reasoning: limits
//! of waves, peaks and what holds shards up are worked out anew here. It mends nothing.

use super::plan::{Action, Plan, Step, Stuck, World};
use super::problem::{NONE, Problem};
use super::sequence::WaveLimits;
use super::solution::Solution;
use petgraph::algo::is_cyclic_directed;
use std::collections::{BTreeMap, BTreeSet};

/// How a plan breaks its promise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A step waits for itself or for a later one, or belongs to an earlier wave than the step before it.
    #[error("step {step} waits for one that does not come before it")]
    Order {
        /// The step.
        step: usize,
    },
    /// A copy is made where there is one, dropped where there is none, or read where none is complete.
    #[error("step {step} adds what is there, or removes or reads what is not")]
    Absent {
        /// The step.
        step: usize,
    },
    /// A copy does not fit below the watermark, with all of its wave begun and nothing of it ended.
    #[error("step {step} fills a node above the watermark")]
    Full {
        /// The step.
        step: usize,
    },
    /// A shard has fewer complete copies than before, or loses its leader's.
    #[error("step {step} drops a copy that is needed")]
    Needed {
        /// The step.
        step: usize,
    },
    /// More copies at the same time than a wave may have, into a node, out of it, or of a table.
    #[error("step {step} is one copy too many in its wave")]
    Crowd {
        /// The step.
        step: usize,
    },
    /// The plan says other bytes or another peak than its steps make.
    #[error("what the plan says of node {node} is not so")]
    Told {
        /// The node.
        node: usize,
    },
    /// The plan says another duration than its waves' copies take.
    #[error("the plan takes another time than it says")]
    Time,
    /// The plan does not lead to the placement, and gives no reason that is true.
    #[error("shard {shard} does not end where it should")]
    End {
        /// The shard.
        shard: usize,
    },
}

impl Plan {
    /// Replays the plan step by step; the first broken promise, if any.
    pub fn check(&self, problem: &Problem, target: &Solution, limits: &WaveLimits) -> Result<(), Flaw> {
        if is_cyclic_directed(&self.graph()) {
            return Err(Flaw::Order { step: 0 });
        }
        let limits = limits.usable();
        let mut replay = Replay { problem, world: World::new(problem), wave: Wave::first(problem) };
        let mut peak = replay.world.used.clone();
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        let mut seconds = 0.0;
        for (at, step) in self.steps.iter().enumerate() {
            let before = at.checked_sub(1).map_or(0, |before| self.steps[before].wave);
            // A shard's steps wait for one another: no copy goes while the one that replaces it is being made.
            let alone = last.insert(step.shard, at as u32).is_some_and(|last| !step.after.contains(&last));
            let early = step.after.iter().any(|&before| before as usize >= at);
            if early || alone || step.wave < before {
                return Err(Flaw::Order { step: at });
            }
            if step.wave > before {
                seconds += replay.wave.seconds(&limits);
                replay.wave = Wave::default();
            }
            replay.step(at, step, &limits)?;
            let used = peak.iter_mut().zip(&replay.world.used);
            used.for_each(|(peak, used)| *peak = (*peak).max(*used));
        }
        if let Some(node) = (0..peak.len()).find(|&node| self.peak_bytes.get(node) != Some(&peak[node])) {
            return Err(Flaw::Told { node });
        }
        let last = if self.steps.is_empty() { 0.0 } else { replay.wave.seconds(&limits) };
        if (seconds + last - self.seconds).abs() > 1e-6 * self.seconds.max(1.0) {
            return Err(Flaw::Time);
        }
        let astray = |&shard: &usize| !self.is_settled(&replay, target, shard);
        (0..problem.shards()).find(astray).map_or(Ok(()), |shard| Err(Flaw::End { shard }))
    }

    /// Whether a shard is where it should be, or, on the way there, has a reason that is true.
    fn is_settled(&self, replay: &Replay<'_>, target: &Solution, shard: usize) -> bool {
        let (problem, world) = (replay.problem, &replay.world);
        let wanted: Vec<u32> = target.of(problem, shard).iter().copied().filter(|&n| n != NONE).collect();
        let on = &world.on[shard];
        let there = on.len() == wanted.len() && on.iter().all(|node| wanted.contains(node));
        let there = there && (wanted.is_empty() || world.leader[shard] == wanted.first().copied());
        let left = self.left.binary_search_by_key(&(shard as u32), |left| left.shard);
        let Ok(left) = left else { return there };
        let on_the_way = on.iter().all(|node| wanted.contains(node) || problem.holds(shard, *node));
        let held_up = match self.left[left].why {
            Stuck::NoRoom { node } => {
                wanted.contains(&node) && !on.contains(&node) && !world.fits(problem, shard, node)
            }
            Stuck::Needed { node } => {
                let all = wanted.iter().all(|wanted| on.contains(wanted));
                all && on.contains(&node) && !wanted.contains(&node) && !world.may_drop(problem, shard, node)
            }
        };
        !there && on_the_way && held_up
    }
}

/// Copies that have begun in a wave.
#[derive(Default)]
struct Wave {
    into: BTreeMap<u32, u32>,
    out: BTreeMap<u32, u32>,
    tables: BTreeMap<u32, u32>,
    shards: BTreeSet<u32>,
    /// Bytes that copies bring into a node or read from it.
    moved: BTreeMap<u32, u64>,
    /// Something has ended: no more copies begin.
    ended: bool,
}

impl Wave {
    /// The first one begins with the copies that are being made.
    fn first(problem: &Problem) -> Self {
        let mut wave = Self::default();
        for &(shard, node) in problem.making() {
            *wave.into.entry(node).or_default() += 1;
            *wave.moved.entry(node).or_default() += problem.bytes[shard as usize];
            *wave.tables.entry(problem.table[shard as usize]).or_default() += 1;
        }
        wave
    }

    /// How long its copies take: what the busiest node brings in and sends.
    fn seconds(&self, limits: &WaveLimits) -> f64 {
        self.moved.values().copied().max().unwrap_or(0) as f64 / limits.bytes_per_second
    }

    /// Counts a copy; answers whether the wave may have it.
    fn takes(&mut self, step: &Step, node: u32, table: u32, limits: &WaveLimits) -> bool {
        let one = |counts: &mut BTreeMap<u32, u32>, key: u32, most: u32| {
            let count = counts.entry(key).or_default();
            *count += 1;
            *count <= most
        };
        for end in [Some(node), step.source].into_iter().flatten() {
            *self.moved.entry(end).or_default() += step.bytes;
        }
        one(&mut self.into, node, limits.copies_in_max)
            && step.source.is_none_or(|source| one(&mut self.out, source, limits.copies_out_max))
            && one(&mut self.tables, table, limits.copies_per_table_max)
            && self.shards.insert(step.shard)
            && !self.ended
    }
}

struct Replay<'a> {
    problem: &'a Problem,
    world: World,
    wave: Wave,
}

impl Replay<'_> {
    fn step(&mut self, at: usize, step: &Step, limits: &WaveLimits) -> Result<(), Flaw> {
        let (shard, world) = (step.shard as usize, &mut self.world);
        match step.action {
            Action::Add { node } => self.add(at, step, node, limits)?,
            Action::Await { node } => {
                if !world.unsound.remove(&(step.shard, node)) {
                    return Err(Flaw::Absent { step: at });
                }
            }
            Action::Lead { node } => {
                if !world.is_sound(shard, node) {
                    return Err(Flaw::Absent { step: at });
                }
                world.leader[shard] = Some(node);
            }
            Action::Remove { node } => {
                let Some(place) = world.on[shard].iter().position(|&other| other == node) else {
                    return Err(Flaw::Absent { step: at });
                };
                if !world.may_drop(self.problem, shard, node) || world.leader[shard] == Some(node) {
                    return Err(Flaw::Needed { step: at });
                }
                world.on[shard].swap_remove(place);
                world.unsound.remove(&(step.shard, node));
                world.used[node as usize] -= self.problem.bytes[shard];
                self.wave.ended = true;
            }
        }
        Ok(())
    }

    fn add(&mut self, at: usize, step: &Step, node: u32, limits: &WaveLimits) -> Result<(), Flaw> {
        let (shard, world) = (step.shard as usize, &mut self.world);
        let complete = |other: &u32| world.is_sound(shard, *other);
        let sourced = match step.source {
            Some(source) => complete(&source),
            None => !world.on[shard].iter().any(complete),
        };
        if world.on[shard].contains(&node) || !sourced {
            return Err(Flaw::Absent { step: at });
        }
        if !world.fits(self.problem, shard, node) {
            return Err(Flaw::Full { step: at });
        }
        if step.bytes != self.problem.bytes[shard] {
            return Err(Flaw::Told { node: node as usize });
        }
        if !self.wave.takes(step, node, self.problem.table[shard], limits) {
            return Err(Flaw::Crowd { step: at });
        }
        world.used[node as usize] += self.problem.bytes[shard];
        world.on[shard].push(node);
        Ok(())
    }
}
