//! A case: a world, what happens to it and when, and what must hold. Read from a file or drawn by a sweep.

use super::event::{Event, Named};
use super::node::Port;
use super::setup::{NewTable, Setup};
use crate::actors::Options;
use crate::actors::table::decide::Rules;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A length of virtual time, in files as `250ms`, `5s`, `3m`, `2h` or `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub u64);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("{text:?} is no length of time: write 250ms, 5s, 3m, 2h or 1d");
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*unit_ms).map(Self).ok_or_else(wrong)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let fits = |(_, unit_ms): &&(&str, u64)| span.0.is_multiple_of(*unit_ms);
        let (name, unit_ms) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        format!("{}{name}", span.0 / unit_ms)
    }
}

fn three() -> u32 {
    3
}

fn two() -> u32 {
    2
}

/// The world that a case begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    /// Nodes `n1` to `n<nodes>`.
    #[serde(default = "three")]
    pub nodes: u32,
    /// Zones, in turn over the nodes; 0 for none.
    #[serde(default)]
    pub zones: u32,
    /// Readers that query all the time.
    #[serde(default = "two")]
    pub readers: u32,
    /// What every daemon's calls meet.
    #[serde(default)]
    pub weather: Named,
}

/// A table that is made once all daemons run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableSpec {
    /// `d.<name>`.
    pub name: String,
    /// `P`.
    pub partitions: u32,
    /// Shards to begin with.
    pub shards: u32,
    /// Replicas a shard.
    pub replicas: u32,
    /// Messages that come into each partition every second, until faults end.
    #[serde(default)]
    pub messages_per_s: u64,
}

impl TableSpec {
    /// The table without its load.
    pub fn table(&self) -> NewTable {
        let Self { partitions, shards, replicas, .. } = *self;
        NewTable { name: self.name.clone(), partitions, shards, replicas }
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// After the tables stand.
    pub at: Span,
    /// What.
    pub event: Event,
}

/// What must hold. Times and counts are from the moment that the tables stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Once faults have ended, everything is complete and every message in every replica within this.
    pub heals_within: Option<Span>,
    /// So many of a hundred queries get their answer, at least.
    pub answered_percent_min: Option<u64>,
    /// Time that shards are led by a node that is not live, summed over shards, at most.
    pub leaderless_max: Option<Span>,
    /// Topologies published, at most.
    pub epochs_max: Option<u64>,
    /// Leaderships that change, at most.
    pub leader_changes_max: Option<u64>,
    /// Replicas that are added, at most.
    pub moves_max: Option<u64>,
    /// Replicas on the fullest node over the mean, at the end, in thousandths, at most.
    pub replica_spread_milli_max: Option<u64>,
    /// The same for leaderships.
    pub leader_spread_milli_max: Option<u64>,
    /// Replicas on a node at the end: fewest and most.
    pub replicas: BTreeMap<String, (u64, u64)>,
    /// Shards that a node leads at the end: fewest and most.
    pub leaders: BTreeMap<String, (u64, u64)>,
}

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Short name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// All randomness comes from it.
    pub seed: u64,
    /// Fails for this known reason; it then must fail.
    pub issue: Option<String>,
    /// The world.
    pub world: WorldSpec,
    /// Tables.
    pub tables: Vec<TableSpec>,
    /// What happens, in the order of time.
    pub events: Vec<Timed>,
    /// When faults end and the cluster must heal.
    pub faults_end: Span,
    /// What must hold.
    pub expect: Expect,
}

/// Most nodes of a case.
const NODES_MAX: u32 = 10_000;
/// Most partitions of a case's table.
const PARTITIONS_MAX: u32 = 65_536;

impl Case {
    /// The cluster's beginning.
    pub fn setup(&self) -> Setup {
        // A case's load is small: what counts as far behind is in proportion.
        let rules = Rules { caught_up_lag_max: 200, behind_lag_min: 2_000, ..Options::default().rules };
        let options = Options { rules, ..Options::default() };
        Setup {
            zones: self.world.zones,
            weather: self.world.weather.weather(),
            options,
            ..Setup::nodes(self.world.nodes).seed(self.seed)
        }
    }

    /// What makes it impossible, if anything: the number of the event (from 1) where one is to blame, and why.
    pub fn impossible(&self) -> Option<(Option<usize>, String)> {
        self.impossible_world().map(|why| (None, why)).or_else(|| self.impossible_event())
    }

    fn impossible_world(&self) -> Option<String> {
        let nodes = self.world.nodes;
        if nodes == 0 || nodes > NODES_MAX {
            return Some(format!("world: nodes must be 1 to {NODES_MAX}, not {nodes}"));
        }
        let mut names = BTreeSet::new();
        for table in &self.tables {
            let NewTable { name, partitions, shards, replicas } = table.table();
            if !names.insert(name.clone()) {
                return Some(format!("table {name} is there twice"));
            }
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(legal) {
                return Some(format!("table {name:?}: names are letters, digits and _"));
            }
            if partitions == 0 || partitions > PARTITIONS_MAX {
                return Some(format!("table {name}: partitions must be 1 to {PARTITIONS_MAX}"));
            }
            if shards == 0 || shards > partitions {
                return Some(format!("table {name}: shards must be 1 to {partitions} (its partitions)"));
            }
            if replicas == 0 || replicas > nodes {
                return Some(format!("table {name}: replicas must be 1 to {nodes} (the nodes)"));
            }
        }
        None
    }

    fn impossible_event(&self) -> Option<(Option<usize>, String)> {
        let mut before = Span(0);
        let mut tables: BTreeSet<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        let mut nodes = self.world.nodes;
        for (number, Timed { at, event }) in self.events.iter().enumerate() {
            let blame = |why: String| Some((Some(number + 1), why));
            if *at < before {
                return blame("it is earlier than the one before: sort them by time".into());
            }
            if *at > self.faults_end {
                return blame(format!("it is after faults_end ({})", String::from(self.faults_end)));
            }
            before = *at;
            for target in event.targets() {
                let known = (1..=nodes).any(|n| *target == format!("n{n}")) || target == "leader";
                if !known {
                    return blame(format!("there is no node {target:?} then: n1 to n{nodes}, or leader"));
                }
            }
            if let Some(table) = event.table()
                && !tables.contains(table)
            {
                return blame(format!("there is no table {table:?}"));
            }
            match event {
                Event::AddNode {} => nodes += 1,
                Event::CreateTable(table) => {
                    tables.insert(&table.name);
                }
                Event::Down { port } | Event::Up { port } if !matches!(port, Port::Store | Port::Kafka) => {
                    return blame("only store and kafka are shared; use cut or stop-clickhouse".into());
                }
                _ => {}
            }
        }
        None
    }
}
