//! A made-up trace: a cluster whose ingest follows the day and grows, whose nodes fail, join and are emptied.
//!
//! The same wish gives the same lines, on every machine: whole numbers and one seed, no clock.

use crate::model::ids::{NodeId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::trace::{Event, Header, Line, Origin, Timed, TraceNode, TraceShard, TraceTable, VERSION};
use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::{BTreeMap, BTreeSet};

/// Ingest by the hour of the day, as a percentage of its mean or so.
const DAY_PERCENT: [u64; 24] = [
    55, 45, 40, 38, 40, 50, 65, 85, 105, 125, 140, 145, 140, 138, 140, 145, 150, 155, 150, 140, 120, 100, 80,
    65,
];
const HOUR_MS: u64 = 3_600_000;
const TABLES: u64 = 10;
const SHARDS: u32 = 40;
const REPLICAS: u32 = 2;
const ZONES: u64 = 3;
/// 1 January 2026.
const START_UNIX_MS: u64 = 1_767_225_600_000;

/// What is wished for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Nodes at the start; at least 3.
    pub nodes: u32,
    /// How long.
    pub days: u32,
    /// Another seed, another cluster.
    pub seed: u64,
}

struct Maker {
    random: Xoshiro256PlusPlus,
    lines: Vec<Line>,
    at_ms: u64,
    nodes: BTreeSet<NodeId>,
    down: BTreeMap<NodeId, u64>,
    shards: BTreeMap<(TableId, ShardId), Vec<NodeId>>,
    rates: BTreeMap<TableId, u64>,
}

/// The trace.
pub fn lines(wanted: Wanted) -> Vec<Line> {
    let mut maker = Maker {
        random: Xoshiro256PlusPlus::seed_from_u64(wanted.seed),
        lines: Vec::new(),
        at_ms: 0,
        nodes: BTreeSet::new(),
        down: BTreeMap::new(),
        shards: BTreeMap::new(),
        rates: BTreeMap::new(),
    };
    let nodes = u64::from(wanted.nodes.max(3));
    maker.snapshot(nodes);
    let hours = u64::from(wanted.days) * 24;
    for hour in 0..=hours {
        maker.hour(hour, nodes);
    }
    maker.lines
}

fn named(number: u64) -> NodeId {
    format!("n{number}").parse().expect("a letter and a number are a node's name")
}

fn node(number: u64) -> TraceNode {
    TraceNode {
        id: named(number),
        labels: BTreeMap::from([("zone".to_owned(), format!("z{}", number % ZONES + 1))]),
        capacity_bytes: 2_000_000_000_000,
        weight_milli: 1_000,
        state: NodeState::Active,
        live: true,
    }
}

impl Maker {
    fn below(&mut self, end: u64) -> u64 {
        self.random.next_u64() % end.max(1)
    }

    fn event(&mut self, event: Event) {
        self.lines.push(Line::Event(Timed { at_ms: self.at_ms, event }));
    }

    fn snapshot(&mut self, nodes: u64) {
        self.lines.push(Line::Header(Header {
            version: VERSION,
            cluster: "generated".to_owned(),
            start_unix_ms: START_UNIX_MS,
            origin: Origin::Generated,
        }));
        for number in 1..=nodes {
            self.nodes.insert(named(number));
            self.lines.push(Line::Node(node(number)));
        }
        for number in 1..=TABLES {
            let id = TableId(uuid::Uuid::from_u128(u128::from(number)));
            self.lines.push(Line::Table(TraceTable {
                id,
                database: "shop".to_owned(),
                table: format!("events{number}"),
                partitions: SHARDS,
                replicas: REPLICAS,
            }));
            let rate = 500_000 + self.below(3_500_000);
            self.rates.insert(id, rate);
            let base = 4_000_000_000 + self.below(24_000_000_000);
            for shard in 0..SHARDS {
                self.shard(id, shard, base, nodes);
            }
        }
    }

    fn shard(&mut self, table: TableId, number: u32, base: u64, nodes: u64) {
        // Neighbours are of different zones.
        let first = self.below(nodes - 1) + 1;
        let nodes = vec![named(first), named(first + 1)];
        let bytes = base / 2 + self.below(base);
        let shard = ShardId(number);
        self.shards.insert((table, shard), nodes.clone());
        let leader = nodes.first().cloned();
        let (lo, hi) = (number, number + 1);
        self.lines.push(Line::Shard(TraceShard {
            table,
            shard,
            lo,
            hi,
            nodes,
            leader,
            bytes,
            bytes_per_s: 0,
        }));
    }

    fn hour(&mut self, hour: u64, nodes: u64) {
        self.at_ms = hour * HOUR_MS;
        for (table, rate) in self.rates.clone() {
            // Two percent more each day.
            let percent = DAY_PERCENT[(hour % 24) as usize];
            let bytes_per_s = rate * percent / 100 * (1_200 + hour) / 1_200;
            self.event(Event::Ingest { table, bytes_per_s });
        }
        let back: Vec<NodeId> =
            self.down.iter().filter(|(_, until)| **until <= hour).map(|(node, _)| node.clone()).collect();
        for node in back {
            self.down.remove(&node);
            self.event(Event::NodeReturned { node });
        }
        if self.below(12) == 0 {
            self.at_ms += self.below(HOUR_MS);
            let victim = named(self.below(nodes) + 1);
            let hours = 1 + self.below(4);
            if self.nodes.contains(&victim) && self.down.insert(victim.clone(), hour + hours).is_none() {
                self.event(Event::NodeDied { node: victim });
            }
        }
        let day = hour / 24;
        match hour % 24 {
            10 if day % 3 == 1 => {
                let node = node(nodes + day);
                self.nodes.insert(node.id.clone());
                self.event(Event::NodeJoined { node });
            }
            12 if day % 4 == 2 => self.empty(day),
            _ => {}
        }
    }

    /// A node's copies go elsewhere, and then it goes.
    fn empty(&mut self, day: u64) {
        let leaving = named(day);
        if !self.nodes.contains(&leaving) || self.down.contains_key(&leaving) || self.nodes.len() < 4 {
            return;
        }
        self.event(Event::NodeState { node: leaving.clone(), state: NodeState::Draining });
        self.nodes.remove(&leaving);
        let others: Vec<NodeId> = self.nodes.iter().cloned().collect();
        for ((table, shard), mut nodes) in self.shards.clone() {
            let Some(at) = nodes.iter().position(|node| *node == leaving) else { continue };
            let first = self.below(others.len() as u64) as usize;
            let free = others.iter().cycle().skip(first).find(|node| !nodes.contains(node));
            let Some(free) = free.cloned() else { continue };
            nodes[at] = free;
            self.shards.insert((table, shard), nodes.clone());
            let leader = nodes.first().cloned();
            self.event(Event::ShardPlaced { table, shard, nodes, leader });
        }
        self.event(Event::NodeRemoved { node: leaving });
    }
}
