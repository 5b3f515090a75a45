//! The state of local search: flat arrays, loads by node, and the change in energy of a move in O(1).
//!
//! Energy = cost of copies and leader changes + what nodes charge by price + penalties outside the ranges
//! that count as balanced. All sizes are in mean replicas. It proposes no moves.

use crate::placement::bound::Prices;
use crate::placement::caps::Caps;
use crate::placement::constraint::spreads;
use crate::placement::objective::{moved, table_ceilings};
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// A node: its load, its prices, and the ranges within which nothing is charged.
#[derive(Debug, Clone, Copy, Default)]
pub struct Site {
    /// Replicas held.
    pub replicas: f64,
    /// Leaders held.
    pub leaders: f64,
    /// Size held.
    pub size: f64,
    /// Price of a replica, a leader, a unit of size.
    pub price: [f64; 3],
    /// Balanced range of replicas, leaders, size.
    pub low: [f64; 3],
    /// See `low`.
    pub high: [f64; 3],
    /// A little less than the size that fits below the watermark: from here on bytes are looked at.
    pub room: f64,
    /// Bytes held.
    pub used: u64,
    /// Bytes that fit below the watermark.
    pub room_bytes: u64,
    /// Fair share of size.
    pub fair: f64,
    /// Zone ordinal.
    pub zone: u32,
    /// Takes new replicas.
    pub takes: bool,
}

/// How steeply leaving a range is charged, by dimension, and what is beyond the watermark.
#[derive(Debug, Clone, Copy)]
pub struct Stiffness {
    /// Replicas, leaders, size: per unit squared.
    pub by: [f64; 3],
}

/// Other dimensions, kept only if the policy weighs them.
#[derive(Debug, Clone, Default)]
struct Extra {
    /// Replicas by table and node.
    tables: Vec<u32>,
    ceilings: Vec<u32>,
    table_cost: f64,
    writes: Vec<f64>,
    reads: Vec<f64>,
    write_cost: f64,
    read_cost: f64,
}

/// Charge per unit of size above the watermark: more than any balance can bring.
const OVERFULL: f64 = 1e3;

/// What a goal's weight steepens charges by at the most: steeper ones would freeze the search at any temperature.
const GOAL_MAX: f64 = 4.0;

/// The state.
pub struct State<'a> {
    /// The problem.
    pub problem: &'a Problem,
    /// Nodes of all slots.
    pub nodes: Vec<u32>,
    /// Shard of every slot.
    pub shard_of: Vec<u32>,
    /// Size of every shard, in mean replicas.
    pub size: Vec<f64>,
    /// Nodes.
    pub sites: Vec<Site>,
    /// Slots on every node.
    pub on: Vec<Vec<u32>>,
    at: Vec<u32>,
    /// Slots that stay for the moment; empty if there are none.
    pub stuck: Vec<bool>,
    /// Cost of changing a leader.
    pub leader_cost: f64,
    /// Cost of copying a unit of size, and of a copy whatever its size.
    move_cost: (f64, f64),
    /// Penalties.
    pub stiffness: Stiffness,
    /// What replicas, leaders and size weigh, at most [`GOAL_MAX`].
    goals: [f64; 3],
    /// Bytes of a mean replica.
    unit: f64,
    /// What may be copied, and what is, in bytes and copies; none if there is no limit.
    caps: Option<(Caps, [i64; 2])>,
    plain: bool,
    extra: Option<Box<Extra>>,
}

#[inline]
fn outside(load: f64, low: f64, high: f64) -> f64 {
    let off = (load - high).max(low - load).max(0.0);
    off * off
}

impl<'a> State<'a> {
    /// From a solution without gaps.
    pub fn new(problem: &'a Problem, solution: &Solution, prices: &Prices, ranges: &Ranges) -> Self {
        let replicas = (problem.replicas() as f64).max(1.0);
        let unit = (problem.total_bytes / replicas).max(f64::MIN_POSITIVE);
        let mut shard_of = vec![0; problem.replicas()];
        (0..problem.shards()).for_each(|shard| shard_of[problem.slots(shard)].fill(shard as u32));
        let site = |n: usize| Site {
            price: [prices.replica[n], prices.leader[n], prices.size[n]],
            low: ranges.low[n],
            high: ranges.high[n],
            // Sums of fractions are good for so many digits.
            room: problem.room_bytes(n as u32) / unit * (1.0 - 1e-9),
            room_bytes: problem.room_bytes(n as u32) as u64,
            fair: problem.fair[n].bytes / unit,
            zone: problem.nodes[n].zone,
            takes: problem.nodes[n].takes,
            ..Site::default()
        };
        let weights = &problem.policy.weights;
        let mut state = Self {
            problem,
            nodes: solution.nodes.clone(),
            shard_of,
            size: problem.bytes.iter().map(|&bytes| bytes as f64 / unit).collect(),
            sites: (0..problem.nodes.len()).map(site).collect(),
            on: vec![Vec::new(); problem.nodes.len()],
            at: vec![0; problem.replicas()],
            stuck: Vec::new(),
            leader_cost: weights.leader_changes * replicas / (problem.shards() as f64).max(1.0),
            move_cost: (weights.moved, weights.copies),
            stiffness: Stiffness { by: [1.0, 1.0, 0.1] },
            goals: [weights.replicas, weights.leaders, weights.bytes].map(|weight| weight.min(GOAL_MAX)),
            unit,
            caps: None,
            plain: !problem.has_exceptions() && problem.zone_cap.iter().all(|&cap| cap == 1),
            extra: None,
        };
        for slot in 0..state.nodes.len() {
            let node = state.nodes[slot] as usize;
            let shard = state.shard_of[slot] as usize;
            state.at[slot] = state.on[node].len() as u32;
            state.on[node].push(slot as u32);
            let leads = state.leads(slot);
            let size = state.size[shard];
            let site = &mut state.sites[node];
            site.replicas += 1.0;
            site.size += size;
            site.used += problem.bytes[shard];
            site.leaders += f64::from(u8::from(leads));
        }
        state.extra = state.extras();
        state
    }

    /// Charges so much outside the ranges, each goal by its weight.
    pub fn stiffen(&mut self, by: [f64; 3]) {
        self.stiffness.by = std::array::from_fn(|goal| by[goal] * self.goals[goal]);
    }

    /// Whether so many more bytes leave a node below its watermark.
    pub fn has_room(&self, node: u32, bytes: u64) -> bool {
        let site = &self.sites[node as usize];
        site.used.saturating_add(bytes) <= site.room_bytes
    }

    /// Keeps to `caps` from here on.
    pub fn limit(&mut self, caps: Caps) {
        let (bytes, copies, _) = moved(self.problem, &self.solution());
        self.caps = (caps != Caps::NONE).then_some((caps, [bytes as i64, copies as i64]));
    }

    /// Whether what may be copied is enough for a slot's replica on `to`, and for others that move with it.
    #[inline]
    pub fn affords(&self, moves: &[(usize, u32)]) -> bool {
        let Some((caps, [bytes, copies])) = &self.caps else { return true };
        let more = moves.iter().fold([0, 0], |sum, &(slot, to)| {
            let more = self.copied(slot, to);
            [sum[0] + more[0], sum[1] + more[1]]
        });
        let within = |now: i64, more: i64, cap: u64| more <= 0 || (now + more) as u64 <= cap;
        within(*bytes, more[0], caps.bytes) && within(*copies, more[1], caps.copies)
    }

    /// How many more bytes and copies are copied if a slot's replica goes to `to`.
    fn copied(&self, slot: usize, to: u32) -> [i64; 2] {
        let shard = self.shard_of[slot] as usize;
        let copy = |node: u32| i64::from(!self.problem.holds(shard, node));
        let more = copy(to) - copy(self.nodes[slot]);
        [more * self.problem.bytes[shard] as i64, more]
    }

    fn extras(&self) -> Option<Box<Extra>> {
        let (problem, weights) = (self.problem, &self.problem.policy.weights);
        let tables = weights.per_table > 0.0 && problem.tables * self.sites.len() <= 32 << 20;
        if !tables && weights.writes == 0.0 && weights.reads == 0.0 {
            return None;
        }
        let mut extra = Extra::default();
        if tables {
            let mut totals = vec![0.0; problem.tables];
            (0..problem.shards())
                .for_each(|s| totals[problem.table[s] as usize] += problem.slots(s).len() as f64);
            let ceilings = totals.iter().flat_map(|&total| table_ceilings(problem, total));
            extra.ceilings = ceilings.map(|c| c.min(f64::from(u32::MAX)) as u32).collect();
            extra.tables = vec![0; problem.tables * self.sites.len()];
            extra.table_cost = weights.per_table;
        }
        let loaded =
            |cost: f64, sum: f64| if sum > 0.0 { cost * problem.replicas() as f64 / sum } else { 0.0 };
        let fair = |f: fn(&crate::placement::problem::Fair) -> f64| problem.fair.iter().map(f).sum::<f64>();
        extra.write_cost = loaded(weights.writes, fair(|f| f.writes));
        extra.read_cost = loaded(weights.reads, fair(|f| f.reads));
        extra.writes = vec![0.0; self.sites.len()];
        extra.reads = vec![0.0; self.sites.len()];
        for slot in 0..self.nodes.len() {
            let (node, shard) = (self.nodes[slot] as usize, self.shard_of[slot] as usize);
            extra.writes[node] += problem.writes[shard];
            if self.leads(slot) {
                extra.reads[node] += problem.reads[shard];
            }
            if tables {
                extra.tables[problem.table[shard] as usize * self.sites.len() + node] += 1;
            }
        }
        Some(Box::new(extra))
    }

    /// The placement as it is now.
    pub fn solution(&self) -> Solution {
        Solution { nodes: self.nodes.clone() }
    }

    /// Whether a slot stays for the moment.
    #[inline]
    pub fn is_stuck(&self, slot: usize) -> bool {
        !self.stuck.is_empty() && self.stuck[slot]
    }

    /// Whether a slot is its shard's leader.
    #[inline]
    pub fn leads(&self, slot: usize) -> bool {
        self.problem.slots(self.shard_of[slot] as usize).start == slot
    }

    /// Whether a slot's replica may take the place `node` as far as rules go, room aside.
    #[inline]
    pub fn fits(&self, shard: usize, slot: usize, node: u32) -> bool {
        let slots = self.problem.slots(shard);
        if self.plain {
            let to = &self.sites[node as usize];
            if !to.takes && !self.problem.may_hold(shard, node) {
                return false;
            }
            let clash =
                |&other: &usize| other != slot && self.sites[self.nodes[other] as usize].zone == to.zone;
            return !slots.into_iter().any(|other| clash(&other));
        }
        let start = slots.start;
        !self.problem.is_pinned(shard, self.nodes[slot])
            && self.problem.may_hold(shard, node)
            && spreads(self.problem, shard, &self.nodes[slots], slot - start, node)
    }

    /// Cost of a shard's replica standing on a node: nothing where it is now.
    #[inline]
    fn copy(&self, shard: usize, node: u32) -> f64 {
        if self.problem.holds(shard, node) {
            0.0
        } else {
            self.size[shard] * self.move_cost.0 + self.move_cost.1
        }
    }

    #[inline]
    fn led(&self, shard: usize, node: u32) -> f64 {
        let leader = self.problem.leader(shard);
        if leader == node || leader == u32::MAX { 0.0 } else { self.leader_cost }
    }

    /// Change of a node's charges for changes in its load. `bytes` is asked, for the same as `size`, only where a node
    /// is nearly full.
    #[inline]
    pub fn charge(&self, node: u32, replicas: f64, leaders: f64, size: f64, bytes: impl Fn() -> i64) -> f64 {
        let site = &self.sites[node as usize];
        let by = &self.stiffness.by;
        let mut change = site.price[2] * size
            + by[2]
                * (outside(site.size + size, site.low[2], site.high[2])
                    - outside(site.size, site.low[2], site.high[2]));
        if replicas != 0.0 {
            change += site.price[0] * replicas
                + by[0]
                    * (outside(site.replicas + replicas, site.low[0], site.high[0])
                        - outside(site.replicas, site.low[0], site.high[0]));
        }
        if leaders != 0.0 {
            change += site.price[1] * leaders
                + by[1]
                    * (outside(site.leaders + leaders, site.low[1], site.high[1])
                        - outside(site.leaders, site.low[1], site.high[1]));
        }
        if site.size + size.max(0.0) > site.room {
            // In whole bytes, so that a node may be filled to the last one and not beyond. The step at the border
            // keeps out even the slightest excess.
            let charged = |used: u64| {
                let over = used.saturating_sub(site.room_bytes);
                if over > 0 { OVERFULL * (1.0 + over as f64 / self.unit) } else { 0.0 }
            };
            change += charged(site.used.saturating_add_signed(bytes())) - charged(site.used);
        }
        change
    }

    /// Change in energy if a slot's replica goes to `to`. The caller has asked [`State::fits`].
    pub fn relocation(&self, slot: usize, to: u32) -> f64 {
        let shard = self.shard_of[slot] as usize;
        let from = self.nodes[slot];
        let size = self.size[shard];
        let mut change = self.copy(shard, to) - self.copy(shard, from);
        let mut leads = 0.0;
        if self.leads(slot) {
            leads = 1.0;
            change += self.led(shard, to) - self.led(shard, from);
        }
        let bytes = || self.problem.bytes[shard] as i64;
        change +=
            self.charge(from, -1.0, -leads, -size, || -bytes()) + self.charge(to, 1.0, leads, size, bytes);
        if let Some(extra) = &self.extra {
            let reads = leads * self.problem.reads[shard];
            change += self.extra_loads(extra, from, to, self.problem.writes[shard], reads)
                + self.extra_table(extra, shard, from, to);
        }
        change
    }

    /// Change in energy if two slots of different shards change places. The caller has asked [`State::fits`].
    pub fn exchange(&self, slot: usize, other: usize) -> f64 {
        let (s, t) = (self.shard_of[slot] as usize, self.shard_of[other] as usize);
        let (a, b) = (self.nodes[slot], self.nodes[other]);
        let mut change = self.copy(s, b) - self.copy(s, a) + self.copy(t, a) - self.copy(t, b);
        let (mut ls, mut lt) = (0.0, 0.0);
        if self.leads(slot) {
            ls = 1.0;
            change += self.led(s, b) - self.led(s, a);
        }
        if self.leads(other) {
            lt = 1.0;
            change += self.led(t, a) - self.led(t, b);
        }
        let size = self.size[t] - self.size[s];
        let bytes = || self.problem.bytes[t] as i64 - self.problem.bytes[s] as i64;
        change +=
            self.charge(a, 0.0, lt - ls, size, bytes) + self.charge(b, 0.0, ls - lt, -size, || -bytes());
        if let Some(extra) = &self.extra {
            // Both at once: what one gives the other takes the place of.
            let (writes, reads) = (&self.problem.writes, &self.problem.reads);
            change += self.extra_loads(extra, a, b, writes[s] - writes[t], ls * reads[s] - lt * reads[t]);
            if self.problem.table[s] != self.problem.table[t] {
                change += self.extra_table(extra, s, a, b) + self.extra_table(extra, t, b, a);
            }
        }
        change
    }

    /// The part of [`State::exchange`] that copies and leader changes cost.
    pub fn exchange_copies(&self, slot: usize, other: usize) -> f64 {
        let moved = |slot: usize, to: u32| {
            let (shard, from) = (self.shard_of[slot] as usize, self.nodes[slot]);
            let led = if self.leads(slot) { self.led(shard, to) - self.led(shard, from) } else { 0.0 };
            self.copy(shard, to) - self.copy(shard, from) + led
        };
        moved(slot, self.nodes[other]) + moved(other, self.nodes[slot])
    }

    /// Whether nothing but counts, bytes, copies and leader changes is weighed, without a cap on copies.
    pub fn weighs_no_more(&self) -> bool {
        self.extra.is_none() && self.caps.is_none()
    }

    /// Change in energy if a shard's leadership goes from its leader to the replica in `slot`.
    pub fn transfer(&self, slot: usize) -> f64 {
        let shard = self.shard_of[slot] as usize;
        let (from, to) = (self.nodes[self.problem.slots(shard).start], self.nodes[slot]);
        let mut change = self.led(shard, to) - self.led(shard, from)
            + self.charge(from, 0.0, -1.0, 0.0, || 0)
            + self.charge(to, 0.0, 1.0, 0.0, || 0);
        if let Some(extra) = &self.extra {
            change += self.extra_loads(extra, from, to, 0.0, self.problem.reads[shard]);
        }
        change
    }

    /// Change of what writes and reads cost where `from` gives some to `to`.
    fn extra_loads(&self, extra: &Extra, from: u32, to: u32, writes: f64, reads: f64) -> f64 {
        let off = |fair: f64, load: f64, more: f64| {
            if fair > 0.0 { ((load + more - fair).powi(2) - (load - fair).powi(2)) / fair } else { 0.0 }
        };
        let [give, get] = [(from, -1.0), (to, 1.0)].map(|(node, sign)| {
            let (node, fair) = (node as usize, &self.problem.fair[node as usize]);
            extra.write_cost * off(fair.writes, extra.writes[node], sign * writes)
                + extra.read_cost * off(fair.reads, extra.reads[node], sign * reads)
        });
        give + get
    }

    /// Change of what a table's unevenness costs if a shard's replica goes from here to there.
    fn extra_table(&self, extra: &Extra, shard: usize, from: u32, to: u32) -> f64 {
        if extra.tables.is_empty() {
            return 0.0;
        }
        let row = self.problem.table[shard] as usize * self.sites.len();
        let (from, to) = (row + from as usize, row + to as usize);
        let (gain, loss) =
            (extra.tables[from] > extra.ceilings[from], extra.tables[to] >= extra.ceilings[to]);
        extra.table_cost * (f64::from(u8::from(loss)) - f64::from(u8::from(gain)))
    }

    /// Moves a slot's replica.
    pub fn relocate(&mut self, slot: usize, to: u32) {
        let shard = self.shard_of[slot] as usize;
        let from = self.nodes[slot];
        let leads = f64::from(u8::from(self.leads(slot)));
        let size = self.size[shard];
        if self.caps.is_some() {
            let more = self.copied(slot, to);
            if let Some((_, now)) = &mut self.caps {
                *now = [now[0] + more[0], now[1] + more[1]];
            }
        }
        let bytes = self.problem.bytes[shard];
        let site = &mut self.sites[from as usize];
        site.replicas -= 1.0;
        site.leaders -= leads;
        site.size -= size;
        site.used -= bytes;
        let site = &mut self.sites[to as usize];
        site.replicas += 1.0;
        site.leaders += leads;
        site.size += size;
        site.used += bytes;
        if let Some(extra) = &mut self.extra {
            extra.writes[from as usize] -= self.problem.writes[shard];
            extra.writes[to as usize] += self.problem.writes[shard];
            extra.reads[from as usize] -= self.problem.reads[shard] * leads;
            extra.reads[to as usize] += self.problem.reads[shard] * leads;
            if !extra.tables.is_empty() {
                let row = self.problem.table[shard] as usize * self.sites.len();
                extra.tables[row + from as usize] -= 1;
                extra.tables[row + to as usize] += 1;
            }
        }
        let at = self.at[slot] as usize;
        let list = &mut self.on[from as usize];
        list.swap_remove(at);
        if let Some(&moved) = list.get(at) {
            self.at[moved as usize] = at as u32;
        }
        self.at[slot] = self.on[to as usize].len() as u32;
        self.on[to as usize].push(slot as u32);
        self.nodes[slot] = to;
    }

    /// Gives leadership to the replica in `slot`, which changes places with the leader's.
    pub fn lead(&mut self, slot: usize) {
        let shard = self.shard_of[slot] as usize;
        let first = self.problem.slots(shard).start;
        let (from, to) = (self.nodes[first], self.nodes[slot]);
        self.sites[from as usize].leaders -= 1.0;
        self.sites[to as usize].leaders += 1.0;
        if let Some(extra) = &mut self.extra {
            extra.reads[from as usize] -= self.problem.reads[shard];
            extra.reads[to as usize] += self.problem.reads[shard];
        }
        self.nodes.swap(first, slot);
        self.at.swap(first, slot);
        self.on[from as usize][self.at[slot] as usize] = slot as u32;
        self.on[to as usize][self.at[first] as usize] = first as u32;
    }
}

/// By node: the loads that count as balanced, for replicas, leaders and size (in mean replicas).
#[derive(Debug, Clone)]
pub struct Ranges {
    /// Lower ends.
    pub low: Vec<[f64; 3]>,
    /// Upper ends.
    pub high: Vec<[f64; 3]>,
}
