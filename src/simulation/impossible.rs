//! What makes a case impossible, and which part of it is to blame. Pure.

use super::case::{Case, Span, Timed};
use super::event::Event;
use super::judge::Band;
use super::node::Port;
use super::samples::PLACES_MAX;
use super::setup::NewTable;
use super::world::{NodeSpec, TableSpec};
use std::collections::{BTreeMap, BTreeSet};

/// A part of a case, by its place in the case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What stands outside of all others.
    Case,
    /// The world.
    World,
    /// A node that differs.
    Node(usize),
    /// A table.
    Table(usize),
    /// An event.
    Event(usize),
    /// What must hold.
    Expect,
}

/// Why a case cannot be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// What is to blame.
    pub part: Part,
    /// Its field.
    pub field: &'static str,
    /// Why.
    pub why: String,
}

/// Most nodes of a case.
const NODES_MAX: u32 = 10_000;
/// Most times as many messages in one partition as in another.
const SKEW_MAX: u64 = 1_000_000;
/// Most messages of one partition, those before anything happens or those of a second, with all its skew.
const MESSAGES_MAX: u64 = 1_000_000_000;
/// Latest end of faults: ten years.
const FAULTS_END_MAX_MS: u64 = 10 * 365 * 86_400_000;
/// Most partitions of a case's table.
const PARTITIONS_MAX: u32 = 65_536;

type Checked = Result<(), Wrong>;

fn wrong(part: Part, field: &'static str, why: impl Into<String>) -> Checked {
    Err(Wrong { part, field, why: why.into() })
}

fn is_node(name: &str, nodes: u32) -> bool {
    (1..=nodes).any(|n| name == format!("n{n}"))
}

/// A table that is there from the start, or that an event makes.
fn table_possible(part: Part, table: &NewTable, nodes: u32) -> Checked {
    let NewTable { name, partitions, shards, replicas } = table;
    let legal = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(legal) {
        return wrong(part, "name", format!("table {name:?}: names are letters, digits and _"));
    }
    if !(1..=PARTITIONS_MAX).contains(partitions) {
        return wrong(part, "partitions", format!("table {name}: partitions must be 1 to {PARTITIONS_MAX}"));
    }
    if *shards == 0 || shards > partitions {
        let why = format!("table {name}: shards must be 1 to {partitions} (its partitions)");
        return wrong(part, "shards", why);
    }
    if *replicas == 0 || *replicas > nodes {
        return wrong(part, "replicas", format!("table {name}: replicas must be 1 to {nodes} (the nodes)"));
    }
    Ok(())
}

impl Case {
    /// What makes it impossible, if anything.
    ///
    /// # Errors
    /// With the first part that is wrong.
    pub fn possible(&self) -> Checked {
        let nodes = self.world.nodes;
        if !(1..=NODES_MAX).contains(&nodes) {
            let why = format!("world: nodes must be 1 to {NODES_MAX}, not {nodes}");
            return wrong(Part::World, "nodes", why);
        }
        if self.issue.as_ref().is_some_and(|issue| issue.fails_with.trim().is_empty()) {
            return wrong(Part::Case, "fails_with", "fails_with: write what the failure says");
        }
        if self.faults_end.0 > FAULTS_END_MAX_MS {
            return wrong(Part::Case, "faults_end", "faults_end: at most ten years");
        }
        self.nodes_possible()?;
        self.tables_possible()?;
        self.events_possible()?;
        self.expect_possible()
    }

    /// Those that join included.
    fn nodes_in_all(&self) -> u32 {
        let joins = self.events.iter().filter(|timed| matches!(timed.event, Event::AddNode {})).count();
        self.world.nodes.saturating_add(u32::try_from(joins).unwrap_or(u32::MAX))
    }

    fn nodes_possible(&self) -> Checked {
        let most = self.nodes_in_all();
        let mut names = BTreeSet::new();
        for (at, node) in self.nodes.iter().enumerate() {
            let NodeSpec { name, capacity, weight_milli, foreign, .. } = node;
            let wrong = |field, why| wrong(Part::Node(at), field, why);
            if !names.insert(name) {
                return wrong("name", format!("node {name} is there twice"));
            }
            if !is_node(name, most) {
                let why = format!("node {name:?}: there are only n1 to n{most}, those that join included");
                return wrong("name", why);
            }
            if *weight_milli == Some(0) {
                let why =
                    format!("node {name}: weight_milli must be above 0; drain a node that gets nothing");
                return wrong("weight_milli", why);
            }
            let capacity = capacity.unwrap_or(self.world.capacity);
            if foreign.0 > capacity.0 {
                let why = format!(
                    "node {name}: foreign data ({} bytes) does not fit its capacity ({})",
                    foreign.0, capacity.0
                );
                return wrong("foreign", why);
            }
        }
        Ok(())
    }

    fn tables_possible(&self) -> Checked {
        let nodes = self.world.nodes;
        let mut names = BTreeSet::new();
        for (at, table) in self.tables.iter().enumerate() {
            let TableSpec { name, leaders_on, skew, history, messages_per_s, .. } = table;
            let part = Part::Table(at);
            if !names.insert(name) {
                return wrong(part, "name", format!("table {name} is there twice"));
            }
            table_possible(part, &table.table(), nodes)?;
            if let Some(node) = leaders_on.as_ref().filter(|node| !is_node(node, nodes)) {
                let why = format!("table {name}: leaders_on: there is no node {node:?}: n1 to n{nodes}");
                return wrong(part, "leaders_on", why);
            }
            if skew.iter().any(|times| *times > SKEW_MAX) {
                let why = format!("table {name}: skew: at most {SKEW_MAX} times as many messages");
                return wrong(part, "skew", why);
            }
            let most = skew.iter().copied().max().unwrap_or(1).max(1);
            for (field, messages) in [("history", history), ("messages_per_s", messages_per_s)] {
                if messages.saturating_mul(most) > MESSAGES_MAX {
                    let why = format!(
                        "table {name}: {field}: at most {MESSAGES_MAX} messages in a partition, its skew included"
                    );
                    return wrong(part, field, why);
                }
            }
        }
        Ok(())
    }

    fn has_zone(&self, zone: &str) -> bool {
        let labelled = self.nodes.iter().any(|node| node.labels.get("zone").is_some_and(|of| of == zone));
        labelled || (1..=self.world.zones).any(|n| zone == format!("z{n}"))
    }

    fn events_possible(&self) -> Checked {
        let mut before = Span(0);
        let tables = self.tables.iter().map(|table| (table.name.as_str(), table.partitions));
        let mut tables: BTreeMap<&str, u32> = tables.collect();
        let mut nodes = self.world.nodes;
        for (number, Timed { at, event }) in self.events.iter().enumerate() {
            let part = Part::Event(number);
            if *at < before {
                return wrong(part, "at", "it is earlier than the one before: sort them by time");
            }
            if *at > self.faults_end {
                let end = String::from(self.faults_end);
                return wrong(part, "at", format!("it is after faults_end ({end})"));
            }
            before = *at;
            for target in event.targets() {
                if !is_node(target, nodes) && target != "leader" {
                    let why = format!("there is no node {target:?} then: n1 to n{nodes}, or leader");
                    return wrong(part, "node", why);
                }
            }
            if let Some(table) = event.table().filter(|table| !tables.contains_key(table)) {
                return wrong(part, "table", format!("there is no table {table:?}"));
            }
            if let Some(zone) = event.zone().filter(|zone| !self.has_zone(zone)) {
                return wrong(part, "zone", format!("there is no node in zone {zone:?}"));
            }
            match event {
                Event::AddNode {} => nodes += 1,
                Event::CreateTable(table) => {
                    table_possible(part, table, nodes)?;
                    tables.insert(&table.name, table.partitions);
                }
                Event::Rate { table, partitions, .. } => self.rate_possible(part, table, *partitions)?,
                Event::Down { port } | Event::Up { port } if !matches!(port, Port::Store | Port::Kafka) => {
                    return wrong(
                        part,
                        "port",
                        "only store and kafka are shared; use cut or stop-clickhouse",
                    );
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn rate_possible(&self, part: Part, table: &str, partitions: Option<(u32, u32)>) -> Checked {
        let Some(spec) = self.tables.iter().find(|spec| spec.name == table) else {
            let why = format!("table {table:?} is made by an event: nothing flows into such; use produce");
            return wrong(part, "table", why);
        };
        match partitions {
            Some((from, to)) if from >= to || to > spec.partitions => {
                let most = spec.partitions;
                let why = format!("partitions [{from}, {to}]: first and one past the last, of 0 to {most}");
                wrong(part, "partitions", why)
            }
            _ => Ok(()),
        }
    }

    fn expect_possible(&self) -> Checked {
        let (expect, part, nodes) = (&self.expect, Part::Expect, self.nodes_in_all());
        for (field, named) in [("replicas", &expect.replicas), ("leaders", &expect.leaders)] {
            if let Some(node) = named.keys().find(|node| !is_node(node, nodes)) {
                let why = format!("expect: {field}: there is no node {node:?}: n1 to n{nodes}");
                return wrong(part, field, why);
            }
        }
        let made = self.events.iter().filter_map(|timed| match &timed.event {
            Event::CreateTable(table) => Some(table.name.as_str()),
            _ => None,
        });
        let tables: BTreeSet<&str> =
            self.tables.iter().map(|table| table.name.as_str()).chain(made).collect();
        if let Some(table) = expect.shards.keys().find(|table| !tables.contains(table.as_str())) {
            return wrong(part, "shards", format!("expect: shards: there is no table {table:?}"));
        }
        let named =
            |field, bands: &BTreeMap<String, Band>| bands.values().map(|band| (field, *band)).collect();
        let bands: [Vec<(&'static str, Band)>; 5] = [
            named("replicas", &expect.replicas),
            named("leaders", &expect.leaders),
            named("shards", &expect.shards),
            expect.replicas_each.map(|band| ("replicas_each", band)).into_iter().collect(),
            expect.leaders_each.map(|band| ("leaders_each", band)).into_iter().collect(),
        ];
        if let Some((field, (fewest, most))) = bands.concat().into_iter().find(|(_, band)| band.0 > band.1) {
            return wrong(part, field, format!("expect: {field}: [{fewest}, {most}] is fewest, then most"));
        }
        let shards: usize = self.tables.iter().map(|table| table.shards as usize).sum();
        if expect.lag_max.is_some() && shards > PLACES_MAX {
            let why = format!(
                "expect: lag_max: lag is not looked at where there are more than {PLACES_MAX} shards"
            );
            return wrong(part, "lag_max", why);
        }
        Ok(())
    }
}
