//! Per-shard pricing: given a price per replica, leader and unit of size on every node, what each shard's
//! cheapest placement costs, and what all of them together would put on the nodes.
//!
//! Exact for shards that must spread over distinct zones; for the others (more replicas than zones, or very
//! many zones) a relaxation that lets new replicas share the cheapest node, so that the sum never exceeds
//! the truth.

use super::envelope::{Envelope, Line};
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;

/// Prices of the nodes: multipliers of the balance rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Prices {
    /// Of any replica.
    pub replica: Vec<f64>,
    /// Of leading.
    pub leader: Vec<f64>,
    /// Of a unit of size.
    pub size: Vec<f64>,
}

impl Prices {
    /// No prices at all.
    pub fn zero(nodes: usize) -> Self {
        Self { replica: vec![0.0; nodes], leader: vec![0.0; nodes], size: vec![0.0; nodes] }
    }

    /// By dimension: 0 replicas, 1 leaders, 2 size.
    pub fn row(&self, row: usize) -> &[f64] {
        [&self.replica, &self.leader, &self.size][row]
    }

    /// See [`Prices::row`].
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        [&mut self.replica, &mut self.leader, &mut self.size][row]
    }
}

/// What the shards' cheapest placements cost and put on the nodes.
#[derive(Debug, Clone, Default)]
pub struct Priced {
    /// Sum over shards, in units of the mean replica's move.
    pub cost: f64,
    /// Replicas by node.
    pub replicas: Vec<f64>,
    /// Leaders by node.
    pub leaders: Vec<f64>,
    /// Size by node.
    pub sizes: Vec<f64>,
    /// Where the last shard would go, the leader first.
    pub chosen: Vec<u32>,
    /// Where all shards would go, if that is wanted.
    pub solution: Option<Solution>,
}

/// More zones than this, and zones are no longer told apart.
const ZONES_MAX: usize = 24;

/// The problem in the form that pricing walks: shards by growing size, scaled.
pub struct Pricing<'a> {
    problem: &'a Problem,
    order: Vec<u32>,
    /// Bytes of a unit of size: the mean replica.
    pub unit_bytes: f64,
    /// Cost of moving a unit of size.
    move_cost: f64,
    /// Cost of a copy, whatever its size.
    copy_cost: f64,
    /// Cost of changing one leader.
    pub leader_cost: f64,
    zones: Vec<Vec<u32>>,
    zone_of: Vec<usize>,
    followers: Vec<Envelope>,
    leaders: Vec<Envelope>,
}

/// One way to place one replica.
#[derive(Debug, Clone, Copy)]
struct Choice {
    cost: f64,
    node: u32,
}

impl<'a> Pricing<'a> {
    /// Sorts the shards and groups the nodes, once.
    pub fn new(problem: &'a Problem) -> Self {
        let mut order: Vec<u32> = (0..problem.shards() as u32).collect();
        order.sort_by_key(|&shard| (problem.bytes[shard as usize], shard));
        let replicas = (problem.replicas() as f64).max(1.0);
        let unit_bytes = (problem.total_bytes / replicas).max(f64::MIN_POSITIVE);
        let mut zones: Vec<Vec<u32>> = Vec::new();
        let mut zone_of = vec![0; problem.nodes.len()];
        let mut named: std::collections::BTreeMap<u32, usize> = std::collections::BTreeMap::new();
        for (n, node) in problem.nodes.iter().enumerate() {
            let next = named.len();
            let zone = *named.entry(node.zone).or_insert(next);
            zone_of[n] = zone;
            zones.resize_with(zones.len().max(zone + 1), Vec::new);
            if node.takes {
                zones[zone].push(n as u32);
            }
        }
        if zones.len() > ZONES_MAX {
            zones = vec![problem.takers().collect()];
            zone_of.fill(0);
        }
        let weights = &problem.policy.weights;
        Self {
            order,
            unit_bytes,
            move_cost: weights.moved,
            copy_cost: weights.copies,
            leader_cost: weights.leader_changes * replicas / (problem.shards() as f64).max(1.0),
            followers: vec![Envelope::default(); zones.len()],
            leaders: vec![Envelope::default(); zones.len()],
            zones,
            zone_of,
            problem,
        }
    }

    /// The problem.
    pub fn problem(&self) -> &'a Problem {
        self.problem
    }

    /// Number of shards.
    pub fn shards(&self) -> usize {
        self.order.len()
    }

    /// Size of a shard's replica, in mean replicas.
    #[inline]
    pub fn size(&self, shard: usize) -> f64 {
        self.problem.bytes[shard] as f64 / self.unit_bytes
    }

    /// Cost of copying a replica of this size.
    #[inline]
    pub fn copy(&self, size: f64) -> f64 {
        self.move_cost * size + self.copy_cost
    }

    /// The cheapest placement under `prices` of each shard, or of every `stride`-th from `first` by size.
    pub fn price(&mut self, prices: &Prices, first: usize, stride: usize, priced: &mut Priced) {
        let mut lines = Vec::new();
        for (zone, nodes) in self.zones.iter().enumerate() {
            let line = |&node: &u32, base: f64| Line { base, slope: prices.size[node as usize], node };
            lines.clear();
            lines.extend(nodes.iter().map(|n| line(n, prices.replica[*n as usize])));
            self.followers[zone].rebuild(&mut lines);
            lines.clear();
            let led = |n: u32| prices.replica[n as usize] + prices.leader[n as usize];
            lines.extend(nodes.iter().map(|n| line(n, led(*n))));
            self.leaders[zone].rebuild(&mut lines);
        }
        let problem = self.problem;
        let nodes = problem.nodes.len();
        priced.cost = 0.0;
        for tally in [&mut priced.replicas, &mut priced.leaders, &mut priced.sizes] {
            tally.clear();
            tally.resize(nodes, 0.0);
        }
        let zones = self.zones.len();
        let mut walk = Walk {
            pricing: self,
            prices,
            hints: vec![(0, 0); zones],
            options: Vec::new(),
            follow: vec![Choice { cost: f64::INFINITY, node: 0 }; zones],
            lead: vec![Choice { cost: f64::INFINITY, node: 0 }; zones],
            ranked: Vec::new(),
        };
        for &shard in self.order.iter().skip(first).step_by(stride) {
            priced.chosen.clear();
            walk.shard(shard as usize, priced);
            if let Some(solution) = &mut priced.solution {
                solution.nodes[problem.slots(shard as usize)].copy_from_slice(&priced.chosen);
            }
        }
    }
}

/// One pass over the shards in growing size.
struct Walk<'a, 'p> {
    pricing: &'p Pricing<'a>,
    prices: &'p Prices,
    hints: Vec<(usize, usize)>,
    options: Vec<Choice>,
    follow: Vec<Choice>,
    lead: Vec<Choice>,
    ranked: Vec<usize>,
}

impl Walk<'_, '_> {
    fn stay(&self, node: u32, size: f64) -> f64 {
        self.prices.replica[node as usize] + self.prices.size[node as usize] * size
    }

    fn take(&self, priced: &mut Priced, node: u32, size: f64, leads: bool) {
        if leads {
            priced.chosen.insert(0, node);
        } else {
            priced.chosen.push(node);
        }
        priced.replicas[node as usize] += 1.0;
        priced.sizes[node as usize] += size;
        if leads {
            priced.leaders[node as usize] += 1.0;
        }
    }

    fn shard(&mut self, shard: usize, priced: &mut Priced) {
        let problem = self.pricing.problem;
        let size = self.pricing.size(shard);
        let slots = problem.slots(shard).len();
        if problem.frozen[shard] || slots == 0 {
            for (index, &node) in problem.present(shard).iter().enumerate() {
                let led = if index == 0 { self.prices.leader[node as usize] } else { 0.0 };
                priced.cost += self.stay(node, size) + led;
                self.take(priced, node, size, index == 0);
            }
            return;
        }
        if problem.zone_cap[shard] == 1 && self.pricing.zones.len() >= slots && self.pricing.zones.len() > 1 {
            self.spread(shard, size, slots, priced);
        } else {
            self.relaxed(shard, size, slots, priced);
        }
    }

    /// The cheapest new follower and leader of every zone.
    fn cheapest(&mut self, shard: usize, size: f64) {
        let pricing = self.pricing;
        let led = !pricing.problem.present(shard).is_empty();
        let (new, lead) = (pricing.copy(size), if led { pricing.leader_cost } else { 0.0 });
        let none = Choice { cost: f64::INFINITY, node: 0 };
        for zone in 0..pricing.zones.len() {
            let hint = &mut self.hints[zone];
            let found = pricing.followers[zone].walk(size, &mut hint.0);
            self.follow[zone] =
                found.map_or(none, |line| Choice { cost: line.at(size) + new, node: line.node });
            let found = pricing.leaders[zone].walk(size, &mut hint.1);
            self.lead[zone] =
                found.map_or(none, |line| Choice { cost: line.at(size) + new + lead, node: line.node });
        }
    }

    fn changed(&self, index: usize) -> f64 {
        if index == 0 { 0.0 } else { self.pricing.leader_cost }
    }

    /// Distinct zones: the cheapest zones for followers, and the zone where leading costs the least more.
    fn spread(&mut self, shard: usize, size: f64, slots: usize, priced: &mut Priced) {
        self.cheapest(shard, size);
        let problem = self.pricing.problem;
        for (index, &node) in problem.present(shard).iter().enumerate() {
            if !problem.nodes[node as usize].holds {
                continue;
            }
            let zone = self.pricing.zone_of[node as usize];
            let cost = self.stay(node, size);
            let led = cost + self.prices.leader[node as usize] + self.changed(index);
            if cost < self.follow[zone].cost {
                self.follow[zone] = Choice { cost, node };
            }
            if led < self.lead[zone].cost {
                self.lead[zone] = Choice { cost: led, node };
            }
        }
        let follow = &self.follow;
        self.ranked.clear();
        self.ranked.extend(0..follow.len());
        if slots < follow.len() {
            self.ranked.select_nth_unstable_by(slots - 1, |&a, &b| {
                follow[a].cost.total_cmp(&follow[b].cost).then(a.cmp(&b))
            });
        }
        let inside = &self.ranked[..slots];
        let worst =
            *inside.iter().max_by(|&&a, &&b| follow[a].cost.total_cmp(&follow[b].cost)).expect("slots > 0");
        let total: f64 = inside.iter().map(|&zone| follow[zone].cost).sum();
        let mut best = (f64::INFINITY, 0, 0);
        for (rank, &zone) in self.ranked.iter().enumerate() {
            let replaced = if rank < slots { zone } else { worst };
            let cost = total - follow[replaced].cost + self.lead[zone].cost;
            if cost < best.0 {
                best = (cost, zone, replaced);
            }
        }
        let (cost, leader, replaced) = best;
        priced.cost += cost;
        self.take(priced, self.lead[leader].node, size, true);
        for &zone in &self.ranked[..slots] {
            if zone != replaced {
                self.take(priced, self.follow[zone].node, size, false);
            }
        }
    }

    /// No zones: present nodes once each, the cheapest new node as often as needed.
    fn relaxed(&mut self, shard: usize, size: f64, slots: usize, priced: &mut Priced) {
        self.cheapest(shard, size);
        let least = |options: &[Choice]| {
            let by = |a: &&Choice, b: &&Choice| a.cost.total_cmp(&b.cost);
            *options.iter().min_by(by).expect("there is a zone")
        };
        let (new, mut lead) = (least(&self.follow), least(&self.lead));
        let problem = self.pricing.problem;
        self.options.clear();
        for (index, &node) in problem.present(shard).iter().enumerate() {
            if problem.nodes[node as usize].holds {
                let cost = self.stay(node, size);
                let led = cost + self.prices.leader[node as usize] + self.changed(index);
                lead = if led < lead.cost { Choice { cost: led, node } } else { lead };
                self.options.push(Choice { cost, node });
            }
        }
        // The leader's choice is made apart from the followers': cheaper than any real placement.
        let mut options = std::mem::take(&mut self.options);
        options.retain(|option| option.cost < new.cost);
        options.sort_unstable_by(|a, b| a.cost.total_cmp(&b.cost));
        priced.cost += lead.cost;
        self.take(priced, lead.node, size, true);
        for index in 0..slots - 1 {
            let option = options.get(index).copied().unwrap_or(new);
            priced.cost += option.cost;
            self.take(priced, option.node, size, false);
        }
        self.options = options;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::constraint::broken;
    use crate::placement::objective::moved;
    use crate::placement::policy::Policy;
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;
    use proptest::prelude::*;

    /// Cost of a real placement under prices, in the pricing's units.
    fn cost(problem: &Problem, pricing: &Pricing<'_>, prices: &Prices, placed: &[u32]) -> f64 {
        let (_, copies, changes) = moved(problem, &Solution { nodes: placed.to_vec() });
        let size = pricing.size(0);
        let priced = placed.iter().map(|&n| prices.replica[n as usize] + prices.size[n as usize] * size);
        copies as f64 * pricing.copy(size)
            + changes as f64 * pricing.leader_cost
            + priced.sum::<f64>()
            + prices.leader[placed[0] as usize]
    }

    proptest! {
        #[test]
        fn no_placement_of_a_shard_is_cheaper_than_its_price(
            zones in prop::collection::vec(0u32..4, 3..7),
            states in prop::collection::vec(0u8..6, 7),
            present in prop::collection::vec(0u32..3, 0..3),
            replicas in 1u32..4,
            charges in prop::collection::vec((-4i32..5, -4i32..5, -4i32..5), 7),
        ) {
            let nodes: Vec<NodeSpec> = zones.iter().zip(&states).enumerate().map(|(n, (&zone, &state))| {
                let (takes, holds) = (state > 1, state > 0);
                NodeSpec { zone, rack: n as u32, capacity_bytes: 0, weight: 1.0, takes, holds }
            }).collect();
            let mut there: Vec<u32> = Vec::new();
            present.iter().for_each(|n| if !there.contains(n) { there.push(*n) });
            let load = Load { bytes: 7, ..Load::default() };
            let spec = ShardSpec { load, replicas, present: there, ..ShardSpec::default() };
            let problem = Problem::new(nodes, [spec], &Policy::default());
            let mut prices = Prices::zero(zones.len());
            for (n, &(replica, leader, size)) in charges.iter().enumerate().take(zones.len()) {
                if problem.nodes[n].takes {
                    prices.replica[n] = replica.into();
                    prices.leader[n] = leader.into();
                    prices.size[n] = size.into();
                }
            }
            let mut pricing = Pricing::new(&problem);
            let mut priced = Priced { solution: Some(Solution::empty(&problem)), ..Priced::default() };
            pricing.price(&prices, 0, 1, &mut priced);
            let slots = problem.replicas();
            for code in 0..zones.len().pow(slots as u32) {
                let digit = |at: usize| (code / zones.len().pow(at as u32) % zones.len()) as u32;
                let placed: Vec<u32> = (0..slots).map(digit).collect();
                if !placed.is_empty() && broken(&problem, &Solution { nodes: placed.clone() }).is_empty() {
                    let real = cost(&problem, &pricing, &prices, &placed);
                    prop_assert!(priced.cost <= real + 1e-9, "{placed:?}: {} > {real}", priced.cost);
                }
            }
        }
    }
}
