//! Which nodes are worth trying for each shard: those that cost little more than its cheapest ones under good prices.
//!
//! A change whose *regret* (what a place costs above the dearest one that the shard's cheapest placement takes in
//! that zone, or at all where it takes none) is many times the temperature is hardly ever accepted. With good
//! prices that is nearly every change that could be drawn, so drawing from the others alone is most of a search's
//! speed: at 30 x 1000 some five places a shard are left of thirty. Leaders' prices are left out: leaders change
//! places by transfers. It moves nothing.

use crate::placement::bound::Prices;
use crate::placement::problem::Problem;

/// By shard: the nodes that may hold it, by growing regret, as far as they are near at any temperature.
#[derive(Debug, Clone)]
pub struct Places {
    by_shard: Vec<Vec<(f64, u32)>>,
    words: usize,
}

/// Regrets up to so many temperatures, and so much more, are looked at: in cost of moving a mean replica.
const MARGIN: (f64, f64) = (10.0, 0.1);
/// The highest temperature for which places are kept.
const HEAT_MAX: f64 = 0.1;
/// More shards times nodes than this, and lists of places would cost more than they bring.
const PLACES_MAX: usize = 2_000_000;

impl Places {
    /// Under `prices`; none if bytes have no price, since then what is cheap says nothing of where bytes are wanted,
    /// and none on worlds that are too big.
    pub fn new(problem: &Problem, prices: &Prices) -> Option<Self> {
        let nodes = problem.nodes.len();
        if problem.shards().saturating_mul(nodes) > PLACES_MAX
            || prices.size.iter().all(|&price| price == 0.0)
        {
            return None;
        }
        let mut zones: Vec<u32> = problem.nodes.iter().map(|node| node.zone).collect();
        zones.sort_unstable();
        zones.dedup();
        let ordinal = |zone: u32| zones.partition_point(|&other| other < zone);
        let zone_of: Vec<usize> = problem.nodes.iter().map(|node| ordinal(node.zone)).collect();
        let places = |shard| regrets(problem, prices, (&zone_of, zones.len()), shard);
        Some(Self { by_shard: (0..problem.shards()).map(places).collect(), words: nodes.div_ceil(64) })
    }
}

fn regrets(
    problem: &Problem,
    prices: &Prices,
    (zone_of, zones): (&[usize], usize),
    shard: usize,
) -> Vec<(f64, u32)> {
    if problem.frozen[shard] {
        return Vec::new();
    }
    let weights = &problem.policy.weights;
    let mean = (problem.total_bytes / problem.replicas().max(1) as f64).max(f64::MIN_POSITIVE);
    let size = problem.bytes[shard] as f64 / mean;
    let cost = |node: u32| {
        let copy = if problem.holds(shard, node) { 0.0 } else { weights.moved * size + weights.copies };
        prices.replica[node as usize] + prices.size[node as usize] * size + copy
    };
    let nodes = (0..problem.nodes.len() as u32).filter(|&node| problem.may_hold(shard, node));
    let mut places: Vec<(f64, u32)> = nodes.map(|node| (cost(node), node)).collect();
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    // The cheapest placement takes so many of each zone: another place there takes that of the dearest of them.
    let (mut taken, mut dearest) = (vec![(0, 0.0); zones], 0.0);
    let mut wanted = problem.slots(shard).len();
    for &(cost, node) in &places {
        let (count, of_zone) = &mut taken[zone_of[node as usize]];
        if wanted > 0 && *count < problem.zone_cap[shard] {
            (*count, *of_zone, dearest) = (*count + 1, cost, cost);
            wanted -= 1;
        }
    }
    for (cost, node) in &mut places {
        let (count, of_zone) = taken[zone_of[*node as usize]];
        let full = count >= problem.zone_cap[shard];
        *cost = (*cost - if full { of_zone } else { dearest }).max(0.0);
    }
    places.retain(|place| place.0 <= HEAT_MAX * MARGIN.0 + MARGIN.1);
    places.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    places.shrink_to_fit();
    places
}

/// The places that are near at some temperature.
pub struct Near<'a> {
    places: &'a Places,
    /// Bits by shard and node.
    bits: Vec<u64>,
    counts: Vec<u32>,
    /// Slots that have more than one place to be, or are where they should not.
    pub free: Vec<u32>,
}

impl<'a> Near<'a> {
    /// Nothing is near before [`Near::cool`].
    pub fn new(places: &'a Places) -> Self {
        let shards = places.by_shard.len();
        Self { places, bits: vec![0; shards * places.words], counts: vec![0; shards], free: Vec::new() }
    }

    /// What is near at `heat`, for the slots in `movable`; `at` gives a slot's shard and node.
    pub fn cool(&mut self, heat: f64, problem: &Problem, movable: &[u32], at: impl Fn(u32) -> (usize, u32)) {
        let margin = heat * MARGIN.0 + MARGIN.1;
        self.bits.fill(0);
        for (shard, places) in self.places.by_shard.iter().enumerate() {
            let count = places.partition_point(|place| place.0 <= margin);
            self.counts[shard] = count as u32;
            for &(_, node) in &places[..count] {
                self.bits[shard * self.places.words + node as usize / 64] |= 1 << (node % 64);
            }
        }
        let free = |&slot: &u32| {
            let (shard, node) = at(slot);
            self.counts[shard] as usize > problem.slots(shard).len() || !self.has(shard, node)
        };
        self.free = movable.iter().copied().filter(free).collect();
    }

    /// Whether a node is near for a shard.
    #[inline]
    pub fn has(&self, shard: usize, node: u32) -> bool {
        self.bits[shard * self.places.words + node as usize / 64] >> (node % 64) & 1 == 1
    }

    /// A shard's near nodes, by growing regret.
    #[inline]
    pub fn of(&self, shard: usize) -> &[(f64, u32)] {
        &self.places.by_shard[shard][..self.counts[shard] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::placement::policy::{Policy, Weights};
    use crate::placement::problem::{NodeSpec, ShardSpec};
    use crate::placement::snapshot::Load;

    /// Zones 0, 0, 1, 1, 2; shard 0 stands on nodes 0 and 2, shard 1 (three times as big) on nodes 1 and 3.
    fn world() -> Problem {
        let node =
            |zone| NodeSpec { zone, rack: zone, capacity_bytes: 1000, weight: 1.0, takes: true, holds: true };
        let shard = |(bytes, present): (u64, Vec<u32>)| ShardSpec {
            load: Load { bytes, ..Load::default() },
            replicas: 2,
            present,
            ..ShardSpec::default()
        };
        let policy = Policy { weights: Weights::YARDSTICK, ..Policy::default() };
        let shards = [(10, vec![0, 2]), (30, vec![1, 3])].into_iter().map(shard);
        Problem::new([0, 0, 1, 1, 2].into_iter().map(node).collect(), shards, &policy)
    }

    fn priced() -> (Problem, Places) {
        let (problem, mut prices) = (world(), Prices::zero(5));
        prices.size = vec![0.0, 0.0, 0.4, 0.1, 0.0];
        let places = Places::new(&problem, &prices).unwrap();
        (problem, places)
    }

    #[test]
    fn what_a_place_costs_above_the_cheapest_of_its_zone_or_of_the_zones_chosen_is_its_regret() {
        let (_, places) = priced();
        // Shard 0's replicas are half a mean one: a copy costs 0.5. Zones 0 (nothing) and 1 (0.2, at home) are the
        // cheapest.
        let close = |found: &[(f64, u32)], wanted: &[(f64, u32)]| {
            let same = |(a, b): (&(f64, u32), &(f64, u32))| (a.0 - b.0).abs() < 1e-9 && a.1 == b.1;
            found.len() == wanted.len() && found.iter().zip(wanted).all(same)
        };
        let of = &places.by_shard[0];
        assert!(close(of, &[(0.0, 0), (0.0, 2), (0.3, 4), (0.35, 3), (0.5, 1)]), "{of:?}");
        // The other's are one and a half: no other place is near at any temperature.
        let of = &places.by_shard[1];
        assert!(close(of, &[(0.0, 1), (0.0, 3)]), "{of:?}");
    }

    #[test]
    fn what_has_one_place_to_be_is_drawn_only_where_it_is_not_there() {
        let (problem, places) = priced();
        let mut near = Near::new(&places);
        let mut free = |heat: f64, placed: [u32; 4]| {
            let at = |slot: u32| (slot as usize / 2, placed[slot as usize]);
            near.cool(heat, &problem, &[0, 1, 2, 3], at);
            (near.free.clone(), near.of(0).len(), near.has(0, 4))
        };
        assert_eq!(free(0.0, [0, 2, 1, 3]), (vec![], 2, false));
        assert_eq!(free(0.0, [0, 4, 1, 3]), (vec![1], 2, false), "node 4 is not near for shard 0");
        assert_eq!(free(0.02, [0, 2, 1, 3]), (vec![0, 1], 3, true));
        assert_eq!(free(HEAT_MAX, [0, 2, 1, 3]), (vec![0, 1], 5, true));
    }

    #[test]
    fn bytes_without_a_price_tell_nothing() {
        assert!(Places::new(&world(), &Prices::zero(5)).is_none());
    }
}
