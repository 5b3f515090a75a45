//! Simulated annealing over relocations, exchanges and leader transfers.
//!
//! Targets are chosen by small tournaments of what nodes charge, replicas that were moved are offered their
//! old homes, and penalties stiffen while the temperature falls.

use super::state::State;
use crate::placement::budget::Budget;
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// Temperatures and stiffness at the start and at the end, in cost of moving a mean replica.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Temperature.
    pub heat: (f64, f64),
    /// Charge per unit of size squared outside the range.
    pub size: (f64, f64),
    /// Charge per replica or leader squared outside the range.
    pub count: (f64, f64),
}

/// Proposals between two looks at the budget.
const BATCH: u64 = 4096;

/// Random draws.
pub struct Dice(pub Xoshiro256PlusPlus);

impl Dice {
    /// A number below `n`, which is above 0.
    #[inline]
    pub fn below(&mut self, n: usize) -> usize {
        (((self.0.next_u64() >> 32) * n as u64) >> 32) as usize
    }

    /// A number in 0..1.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.0.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

/// Anneals until the budget ends. `movable` lists the slots that may change.
pub fn anneal(
    state: &mut State<'_>,
    movable: &[u32],
    schedule: Schedule,
    dice: &mut Dice,
    budget: &mut dyn Budget,
) -> u64 {
    let takers: Vec<u32> = state.problem.takers().collect();
    if movable.is_empty() || takers.is_empty() {
        return 0;
    }
    let mut spent = 0;
    loop {
        let part = budget.spend(if spent == 0 { 0 } else { BATCH });
        if part >= 1.0 {
            return spent;
        }
        let between = |(from, to): (f64, f64)| from * (to / from).powf(part);
        let heat = between(schedule.heat);
        state.stiffen([between(schedule.count), between(schedule.count), between(schedule.size)]);
        for _ in 0..BATCH {
            let slot = movable[dice.below(movable.len())] as usize;
            match dice.below(16) {
                0..7 => relocate(state, slot, &takers, heat, dice),
                7..13 => exchange(state, slot, &takers, heat, dice),
                _ => transfer(state, slot, heat, dice),
            }
        }
        spent += BATCH;
    }
}

/// Levels leaders by transfers alone, until the budget or enough work is spent.
pub fn level_leaders(state: &mut State<'_>, seed: u64, budget: &mut dyn Budget) {
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let open = |slot: &usize| !state.problem.frozen[state.shard_of[*slot] as usize];
    let movable: Vec<usize> = (0..state.nodes.len()).filter(open).collect();
    let batches = (movable.len() as u64 * 400 / BATCH).max(4);
    for batch in 0..batches {
        if movable.is_empty() || budget.spend(BATCH) >= 1.0 {
            return;
        }
        let heat = 0.1 * 0.001f64.powf(batch as f64 / batches as f64);
        for _ in 0..BATCH {
            transfer(state, movable[dice.below(movable.len())], heat, &mut dice);
        }
    }
}

#[inline]
fn accepts(change: f64, heat: f64, dice: &mut Dice) -> bool {
    change <= 0.0 || (change < heat * 12.0 && dice.unit() < (-change / heat).exp())
}

/// A home of a slot's shard that it does not use, if the slot's replica was moved.
#[inline]
fn home(state: &State<'_>, slot: usize, dice: &mut Dice) -> Option<u32> {
    let shard = state.shard_of[slot] as usize;
    let present = state.problem.present(shard);
    if present.is_empty() || present.contains(&state.nodes[slot]) {
        return None;
    }
    Some(present[dice.below(present.len())])
}

/// The cheapest of a few nodes for a slot's replica.
#[inline]
fn tournament(state: &State<'_>, slot: usize, takers: &[u32], rounds: usize, dice: &mut Dice) -> u32 {
    let shard = state.shard_of[slot] as usize;
    let size = state.size[shard];
    let bytes = || state.problem.bytes[shard] as i64;
    let leads = if state.leads(slot) { 1.0 } else { 0.0 };
    let mut best = takers[dice.below(takers.len())];
    let mut least = state.charge(best, 1.0, leads, size, bytes);
    for _ in 1..rounds {
        let node = takers[dice.below(takers.len())];
        let charge = state.charge(node, 1.0, leads, size, bytes);
        if charge < least {
            (best, least) = (node, charge);
        }
    }
    best
}

#[inline]
fn relocate(state: &mut State<'_>, slot: usize, takers: &[u32], heat: f64, dice: &mut Dice) {
    let to = match home(state, slot, dice) {
        Some(node) if dice.below(4) == 0 => node,
        _ => tournament(state, slot, takers, 4, dice),
    };
    if to == state.nodes[slot] || !state.fits(state.shard_of[slot] as usize, slot, to) {
        return;
    }
    if accepts(state.relocation(slot, to), heat, dice) && state.affords(&[(slot, to)]) {
        state.relocate(slot, to);
    }
}

#[inline]
fn exchange(state: &mut State<'_>, slot: usize, takers: &[u32], heat: f64, dice: &mut Dice) {
    let to = match home(state, slot, dice) {
        Some(node) if dice.below(2) == 0 => node,
        _ => takers[dice.below(takers.len())],
    };
    let from = state.nodes[slot];
    let there = &state.on[to as usize];
    if to == from || there.is_empty() {
        return;
    }
    let other = there[dice.below(there.len())] as usize;
    let (s, t) = (state.shard_of[slot], state.shard_of[other]);
    if s == t || state.problem.frozen[t as usize] || state.is_stuck(other) {
        return;
    }
    let change = state.exchange(slot, other);
    if !accepts(change, heat, dice) {
        return;
    }
    if state.fits(s as usize, slot, to)
        && state.fits(t as usize, other, from)
        && state.affords(&[(slot, to), (other, from)])
    {
        state.relocate(slot, to);
        state.relocate(other, from);
    }
}

#[inline]
fn transfer(state: &mut State<'_>, slot: usize, heat: f64, dice: &mut Dice) {
    let first = state.problem.slots(state.shard_of[slot] as usize).start;
    if slot != first && !state.is_stuck(first) && accepts(state.transfer(slot), heat, dice) {
        state.lead(slot);
    }
}
