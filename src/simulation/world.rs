//! What a case begins with: nodes, tables with their history and load, and the numbers of its policy.

use super::case::Span;
use super::event::Named;
use super::setup::{NewTable, NodeSaid};
use crate::actors::Options;
use crate::model::balance::{BalanceMode, Planner};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Bytes, in files as `100`, or `"286MiB"`, `"512GiB"`, `"2TiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(try_from = "Written")]
pub struct Size(pub u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Number(i64),
    Text(String),
}

const UNITS: [(&str, u64); 5] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl TryFrom<Written> for Size {
    type Error = String;
    fn try_from(written: Written) -> Result<Self, String> {
        let text = match written {
            Written::Number(number) => {
                return u64::try_from(number)
                    .map(Self)
                    .map_err(|_| format!("a size of {number} bytes is below 0"));
            }
            Written::Text(text) => text,
        };
        let wrong = || format!("{text:?} is no size: write 286MiB, 512GiB or 2TiB");
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let (_, bytes) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*bytes).map(Self).ok_or_else(wrong)
    }
}

fn three() -> u32 {
    3
}

fn two() -> u32 {
    2
}

/// The world that a case begins with.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorldSpec {
    /// Nodes `n1` to `n<nodes>`.
    #[serde(default = "three")]
    pub nodes: u32,
    /// Zones, in turn over the nodes; 0 for none.
    #[serde(default)]
    pub zones: u32,
    /// Disk of each node; 0 for one that is never full.
    #[serde(default)]
    pub capacity: Size,
    /// Readers that query all the time.
    #[serde(default = "two")]
    pub readers: u32,
    /// What every daemon's calls meet.
    #[serde(default)]
    pub weather: Named,
}

impl Default for WorldSpec {
    fn default() -> Self {
        Self { nodes: three(), zones: 0, capacity: Size(0), readers: two(), weather: Named::Fair }
    }
}

/// A node that differs from the others; it may be one that joins later.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeSpec {
    /// Which.
    pub name: String,
    /// Labels, over those that all have.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Its disk.
    pub capacity: Option<Size>,
    /// Its share of the load, in thousandths of a normal node's.
    pub weight_milli: Option<u32>,
    /// What others keep on its disk.
    #[serde(default)]
    pub foreign: Size,
}

impl NodeSpec {
    /// For the setup.
    pub fn said(&self) -> NodeSaid {
        NodeSaid {
            labels: self.labels.clone(),
            capacity_bytes: self.capacity.map(|size| size.0),
            weight_milli: self.weight_milli,
            foreign_bytes: self.foreign.0,
        }
    }
}

/// A table that is made once all daemons run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
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
    /// What a message's rows take on a disk; 0 for as little as its text does.
    #[serde(default)]
    pub message: Size,
    /// Messages in each partition before anything happens.
    #[serde(default)]
    pub history: u64,
    /// How many times as many messages come into the first partition, the second, ..., in turn; all once if empty.
    #[serde(default)]
    pub skew: Vec<u64>,
    /// The node that leads every shard that it has a replica of, before anything happens.
    pub leaders_on: Option<String>,
}

impl TableSpec {
    /// The table without its load.
    pub fn table(&self) -> NewTable {
        let Self { partitions, shards, replicas, .. } = *self;
        NewTable { name: self.name.clone(), partitions, shards, replicas }
    }

    /// How many times as many messages as others a partition gets.
    pub fn times(&self, partition: u32) -> u64 {
        let turn = partition as usize % self.skew.len().max(1);
        self.skew.get(turn).copied().unwrap_or(1)
    }
}

/// The numbers that a case's cluster goes by, where they differ from the defaults.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicySpec {
    /// What the balancer may do.
    pub balance: Option<BalanceMode>,
    /// Who looks for plans.
    pub engine: Option<Planner>,
    /// Between two looks of it.
    pub every: Option<Span>,
    /// Copies under way at most.
    pub copies_max: Option<u32>,
    /// Copies under way to one node at most.
    pub copies_per_node_max: Option<u32>,
    /// A table with fewer replicas than this a node is split.
    pub replicas_per_node_min: Option<u32>,
    /// A shard with more than this is split.
    pub split_above: Option<Size>,
    /// How long a node may be down before its replicas are rebuilt elsewhere.
    pub down_after: Option<Span>,
}

impl PolicySpec {
    /// Puts its numbers in place.
    pub fn apply(&self, options: &mut Options) {
        let balance = &mut options.balance;
        balance.mode = self.balance.unwrap_or(balance.mode);
        balance.planner = self.engine.unwrap_or(balance.planner);
        balance.every_ms = self.every.map_or(balance.every_ms, |span| span.0);
        balance.copies_max = self.copies_max.unwrap_or(balance.copies_max);
        balance.copies_per_node_max = self.copies_per_node_max.unwrap_or(balance.copies_per_node_max);
        balance.replicas_per_node_min = self.replicas_per_node_min.unwrap_or(balance.replicas_per_node_min);
        balance.split_above_bytes = self.split_above.map_or(balance.split_above_bytes, |size| size.0);
        let rules = &mut options.rules;
        rules.down_after_ms = self.down_after.map_or(rules.down_after_ms, |span| span.0);
    }
}
