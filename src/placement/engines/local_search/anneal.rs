//! Simulated annealing over relocations, exchanges and leader transfers.
//!
//! Targets are chosen by small tournaments of what nodes charge, replicas that were moved are offered their
//! old homes, and penalties stiffen while the temperature falls.

use super::near::Near;
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

/// Which places are near is looked at again when the temperature has fallen to this part.
const COOLER: f64 = 0.95;
/// Slots of a node that are drawn until one may go where another comes from.
const DRAWS: u32 = 16;
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

/// Anneals until the budget ends. `movable` lists the slots that may change; with `near`, nearly all changes that are
/// proposed are near ones.
pub fn anneal(
    state: &mut State<'_>,
    movable: &[u32],
    mut near: Option<&mut Near<'_>>,
    schedule: Schedule,
    dice: &mut Dice,
    budget: &mut dyn Budget,
) -> u64 {
    let takers: Vec<u32> = state.problem.takers().collect();
    if movable.is_empty() || takers.is_empty() {
        return 0;
    }
    let (mut spent, mut cooled) = (0, f64::INFINITY);
    loop {
        let part = budget.spend(if spent == 0 { 0 } else { BATCH });
        if part >= 1.0 {
            return spent;
        }
        let between = |(from, to): (f64, f64)| from * (to / from).powf(part);
        let heat = between(schedule.heat);
        state.stiffen([between(schedule.count), between(schedule.count), between(schedule.size)]);
        match &mut near {
            Some(near) => {
                if heat < cooled * COOLER {
                    cooled = heat;
                    let at = |slot: u32| (state.shard_of[slot as usize] as usize, state.nodes[slot as usize]);
                    near.cool(heat, state.problem, movable, at);
                }
                propose_near(state, near, (movable, &takers), heat, dice);
            }
            None => propose(state, movable, &takers, heat, dice),
        }
        spent += BATCH;
    }
}

fn propose(state: &mut State<'_>, movable: &[u32], takers: &[u32], heat: f64, dice: &mut Dice) {
    for _ in 0..BATCH {
        let slot = movable[dice.below(movable.len())] as usize;
        match dice.below(16) {
            0..7 => relocate(state, slot, takers, heat, dice),
            7..13 => exchange(state, slot, takers, heat, dice),
            _ => transfer(state, slot, heat, dice),
        }
    }
}

/// As [`propose`], near places but for one proposal of sixteen: what is far may be what brings counts back.
fn propose_near(
    state: &mut State<'_>,
    near: &Near<'_>,
    (movable, takers): (&[u32], &[u32]),
    heat: f64,
    dice: &mut Dice,
) {
    let free = if near.free.is_empty() { movable } else { &near.free };
    for _ in 0..BATCH {
        let slot = free[dice.below(free.len())] as usize;
        match dice.below(32) {
            0..10 => relocate_near(state, near, slot, heat, dice),
            10..25 => exchange_near(state, near, slot, heat, dice),
            // Leadership may also go between copies that stay.
            25..30 => transfer(state, movable[dice.below(movable.len())] as usize, heat, dice),
            30 => relocate(state, movable[dice.below(movable.len())] as usize, takers, heat, dice),
            _ => exchange(state, movable[dice.below(movable.len())] as usize, takers, heat, dice),
        }
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
fn relocate_near(state: &mut State<'_>, near: &Near<'_>, slot: usize, heat: f64, dice: &mut Dice) {
    let shard = state.shard_of[slot] as usize;
    let Some(to) = drawn(near, shard, dice) else { return };
    if to == state.nodes[slot] || !state.fits(shard, slot, to) {
        return;
    }
    if accepts(state.relocation(slot, to), heat, dice) && state.affords(&[(slot, to)]) {
        state.relocate(slot, to);
    }
}

/// One of a shard's near nodes.
#[inline]
fn drawn(near: &Near<'_>, shard: usize, dice: &mut Dice) -> Option<u32> {
    let places = near.of(shard);
    if places.is_empty() { None } else { Some(places[dice.below(places.len())].1) }
}

#[inline]
fn exchange_near(state: &mut State<'_>, near: &Near<'_>, slot: usize, heat: f64, dice: &mut Dice) {
    let (s, from) = (state.shard_of[slot] as usize, state.nodes[slot]);
    let Some(to) = drawn(near, s, dice) else { return };
    let there = state.on[to as usize].len();
    if to == from || there == 0 || !state.fits(s, slot, to) {
        return;
    }
    for _ in 0..DRAWS {
        let other = state.on[to as usize][dice.below(there)] as usize;
        let t = state.shard_of[other] as usize;
        if s == t || !near.has(t, from) || state.problem.frozen[t] || state.is_stuck(other) {
            continue;
        }
        if accepts(state.exchange(slot, other), heat, dice)
            && state.fits(t, other, from)
            && state.affords(&[(slot, to), (other, from)])
        {
            state.relocate(slot, to);
            state.relocate(other, from);
        }
        return;
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
