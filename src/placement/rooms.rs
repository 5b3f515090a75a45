//! How many nodes a shard may go to, and how many of its replicas a zone and a rack have to take.
//!
//! Nodes lie in racks and racks in zones, so the caps are nested: whatever is placed within them can be completed
//! node by node, and no greedy choice leads into a dead end. Zones come first: their cap is the least with which all
//! replicas find a node, and under it racks hold as few as they can. It places nothing.

use super::problem::{NodeSpec, ShardSpec};
use std::collections::BTreeMap;

/// How many nodes there are to go to, and how far they spread.
#[derive(Debug, Clone, Default)]
pub(super) struct Room {
    /// Nodes that may hold the shard.
    pub nodes: u32,
    /// Replicas of one zone that it may have.
    pub zone_cap: u8,
    /// Replicas of one rack that it may have, by zone; empty if that is one everywhere.
    pub racks: Vec<u8>,
    /// Pins ask for more in a zone or rack than would be allowed.
    pub pinned: bool,
}

/// Works out [`Room`]s; those without exceptions depend on the replica count alone and are remembered.
pub(super) struct Rooms {
    /// Nodes by zone and rack.
    sizes: BTreeMap<(u32, u32), u32>,
    plain: Vec<Option<Room>>,
}

impl Rooms {
    pub fn new(nodes: &[NodeSpec]) -> Self {
        let mut sizes = BTreeMap::new();
        for node in nodes.iter().filter(|node| node.takes) {
            *sizes.entry((node.zone, node.rack)).or_default() += 1;
        }
        Self { sizes, plain: Vec::new() }
    }

    pub fn of(&mut self, nodes: &[NodeSpec], spec: &ShardSpec) -> Room {
        let keeps = |&&n: &&u32| !nodes[n as usize].takes && nodes[n as usize].holds;
        let usual = spec.excluded.is_empty() && spec.pinned.len() < 2;
        if usual && !spec.present.iter().any(|n| keeps(&n)) {
            let wanted = spec.replicas as usize;
            if self.plain.len() <= wanted {
                self.plain.resize(wanted + 1, None);
            }
            let sizes = &self.sizes;
            return self.plain[wanted].get_or_insert_with(|| room(sizes, spec.replicas)).clone();
        }
        let mut sizes = self.sizes.clone();
        let place = |n: u32| (nodes[n as usize].zone, nodes[n as usize].rack);
        for &n in spec.present.iter().filter(keeps).filter(|n| !spec.excluded.contains(n)) {
            *sizes.entry(place(n)).or_default() += 1;
        }
        for &n in spec.excluded.iter().filter(|&&n| nodes[n as usize].takes) {
            sizes.entry(place(n)).and_modify(|size| *size -= 1);
        }
        let mut room = room(&sizes, spec.replicas);
        let may = |n: u32| nodes[n as usize].takes || (keeps(&&n) && spec.present.contains(&n));
        let pins = spec.pinned.iter().copied().filter(|&n| may(n) && !spec.excluded.contains(&n));
        room.allow(&pins.take(spec.replicas as usize).map(place).collect::<Vec<_>>());
        room
    }
}

impl Room {
    /// Lets nodes that the shard is pinned to be together in their zones and racks.
    pub fn allow(&mut self, pins: &[(u32, u32)]) {
        for &(zone, rack) in pins {
            let inside = pins.iter().filter(|pin| pin.0 == zone).count().min(255) as u8;
            let close = pins.iter().filter(|pin| **pin == (zone, rack)).count().min(255) as u8;
            if inside > self.zone_cap {
                (self.zone_cap, self.pinned) = (inside, true);
            }
            if close > self.racks.get(zone as usize).copied().unwrap_or(1) {
                self.racks.resize(self.racks.len().max(zone as usize + 1), 1);
                (self.racks[zone as usize], self.pinned) = (close, true);
            }
        }
    }
}

fn room(sizes: &BTreeMap<(u32, u32), u32>, wanted: u32) -> Room {
    let nodes = sizes.values().sum::<u32>();
    let wanted = wanted.min(nodes);
    let mut zones: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    sizes.iter().for_each(|(&(zone, _), &size)| zones.entry(zone).or_default().push(size));
    // What a zone takes while a rack takes so many at most.
    let holds = |racks: &[u32], rack_cap: u32| racks.iter().map(|&size| size.min(rack_cap)).sum::<u32>();
    let all = |zone_cap: u32, rack_cap: u32| {
        zones.values().map(|racks| holds(racks, rack_cap).min(zone_cap)).sum::<u32>() >= wanted
    };
    let zone_cap = (1..=wanted).find(|&cap| all(cap, u32::MAX)).unwrap_or(1);
    let rack_cap = (1..=zone_cap).find(|&cap| all(zone_cap, cap)).unwrap_or(1);
    let mut racks = Vec::new();
    for (&zone, sizes) in zones.iter().filter(|_| rack_cap > 1) {
        // Not more than the zone needs to take what it takes at the common cap.
        let most = holds(sizes, rack_cap).min(zone_cap);
        let cap = (1..=rack_cap).find(|&cap| holds(sizes, cap) >= most).unwrap_or(rack_cap);
        racks.resize(zone as usize, 1);
        racks.push(cap.min(255) as u8);
    }
    Room { nodes, zone_cap: zone_cap.min(255) as u8, racks, pinned: false }
}
