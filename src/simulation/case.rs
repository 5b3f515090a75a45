//! A case: a world, what happens to it and when, and what must hold. Read from a file or drawn by a sweep.

use super::event::Event;
use super::node::Port;
use super::setup::{NewTable, Setup};

pub use super::judge::Expect;
pub use super::world::{NodeSpec, PolicySpec, Size, TableSpec, WorldSpec};
use crate::actors::Options;
use crate::actors::table::decide::Rules;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

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

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// After the tables stand.
    pub at: Span,
    /// What.
    pub event: Event,
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
    /// Nodes that differ from the others.
    pub nodes: Vec<NodeSpec>,
    /// Numbers that differ from the defaults.
    pub policy: PolicySpec,
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
/// Most times as many messages in one partition as in another.
const SKEW_MAX: u64 = 1_000_000;
/// Most partitions of a case's table.
const PARTITIONS_MAX: u32 = 65_536;

impl Case {
    /// The cluster's beginning.
    pub fn setup(&self) -> Setup {
        // A case's load is small: what counts as far behind is in proportion.
        let rules = Rules { caught_up_lag_max: 200, behind_lag_min: 2_000, ..Options::default().rules };
        let mut options = Options { rules, ..Options::default() };
        self.policy.apply(&mut options);
        Setup {
            zones: self.world.zones,
            capacity_bytes: self.world.capacity.0,
            nodes_said: self.nodes.iter().map(|node| (node.name.clone(), node.said())).collect(),
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
        if let Some(why) = self.impossible_node() {
            return Some(why);
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
            if let Some(node) =
                table.leaders_on.as_ref().filter(|node| !(1..=nodes).any(|n| **node == format!("n{n}")))
            {
                return Some(format!("table {name}: leaders_on: there is no node {node:?}: n1 to n{nodes}"));
            }
            if table.skew.iter().any(|times| *times > SKEW_MAX) {
                return Some(format!("table {name}: skew: at most {SKEW_MAX} times as many messages"));
            }
        }
        None
    }

    fn has_zone(&self, zone: &str) -> bool {
        let labelled = self.nodes.iter().any(|node| node.labels.get("zone").is_some_and(|of| of == zone));
        labelled || (1..=self.world.zones).any(|n| zone == format!("z{n}"))
    }

    fn impossible_node(&self) -> Option<String> {
        let joins = self.events.iter().filter(|timed| matches!(timed.event, Event::AddNode {})).count();
        let most = self.world.nodes as usize + joins;
        let mut names = BTreeSet::new();
        for NodeSpec { name, capacity, weight_milli, foreign, .. } in &self.nodes {
            if !names.insert(name) {
                return Some(format!("node {name} is there twice"));
            }
            if !(1..=most).any(|n| *name == format!("n{n}")) {
                return Some(format!(
                    "node {name:?}: there are only n1 to n{most}, those that join included"
                ));
            }
            if *weight_milli == Some(0) {
                return Some(format!(
                    "node {name}: weight_milli must be above 0; drain a node that gets nothing"
                ));
            }
            let capacity = capacity.unwrap_or(self.world.capacity);
            if foreign.0 > capacity.0 {
                return Some(format!(
                    "node {name}: foreign data ({} bytes) does not fit its capacity ({})",
                    foreign.0, capacity.0
                ));
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
            if let Some(zone) = event.zone()
                && !self.has_zone(zone)
            {
                return blame(format!("there is no node in zone {zone:?}"));
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
