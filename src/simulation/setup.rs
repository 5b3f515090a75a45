//! What a simulated cluster begins with, and a table to be made in it.

use crate::actors::Options;
use crate::actors::table::decide::LeftOut;
use crate::adapters::faults::Weather;
use crate::model::TableName;
use crate::model::control::CreateTable;
use crate::model::invariants::Invariant;
use crate::model::table::{BatchLimits, MessageFormat, TopicLayout};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A cluster's beginning. Equal setups and scripts give equal runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Cluster name.
    pub cluster: String,
    /// Nodes `n1` to `n<nodes>`.
    pub nodes: u32,
    /// Zones `z1` to `z<zones>` in turn over the nodes; 0 for nodes without the label.
    pub zones: u32,
    /// Disk of each node, in bytes; 0 for one that is never full.
    pub capacity_bytes: u64,
    /// What is said of single nodes, by name; also of those that join later.
    pub nodes_said: BTreeMap<String, NodeSaid>,
    /// All randomness comes from it.
    pub seed: u64,
    /// The actors' numbers.
    pub options: Options,
    /// What every daemon's calls meet from the start.
    pub weather: Weather,
    /// Longest time from the moment a query reads its topology until its last sub-query reads its replica.
    pub query_spread_ms: u64,
    /// What is broken on purpose, to see that it is noticed.
    pub sabotage: Option<Sabotage>,
    /// Whether leaders record traces: see [`Cluster::traces`](super::Cluster::traces).
    pub recorded: bool,
}

/// What a node has that others have not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSaid {
    /// Its labels, over those that all have.
    pub labels: BTreeMap<String, String>,
    /// Its disk, in bytes.
    pub capacity_bytes: Option<u64>,
    /// Its share of the load, in thousandths of a normal node's.
    pub weight_milli: Option<u32>,
    /// Bytes on its disk that are somebody else's.
    pub foreign_bytes: u64,
}

/// Mistakes that the simulator must find. Each breaks one rule of the system at its ports or numbers, or, where the
/// rule is a decision's own, through [`LeftOut`]; the actors are those of production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Writes of a leader are not fenced by its term.
    NoFence,
    /// A replica is published however far it is behind.
    PublishEarly,
    /// Old shards and replicas are dropped before the servers have acknowledged that nobody reads them.
    DropEarly,
    /// A gate that was closed still lets inserts in.
    GatesStayOpen,
    /// Operations under way are not counted when others are begun.
    ForgetInFlight,
    /// A replica that moves is removed before the new one is there.
    RemoveFirst,
    /// Copies are placed without regard to zones: no node tells in which it is.
    IgnoreZones,
}

impl Sabotage {
    /// All of them, each with the invariant that it breaks.
    pub const ALL: [(Self, Invariant); 7] = [
        (Self::NoFence, Invariant::Fenced),
        (Self::PublishEarly, Invariant::NotSilent),
        (Self::DropEarly, Invariant::Retire),
        (Self::GatesStayOpen, Invariant::OneEpoch),
        (Self::ForgetInFlight, Invariant::Settles),
        (Self::RemoveFirst, Invariant::KeepCopies),
        (Self::IgnoreZones, Invariant::Valid),
    ];

    /// The actors' numbers with this mistake in them.
    pub(super) fn spoil(self, options: &mut Options) {
        match self {
            Self::PublishEarly => options.rules.caught_up_lag_max = u64::MAX,
            Self::DropEarly => options.rules.left_out = Some(LeftOut::Acknowledgements),
            Self::ForgetInFlight => options.rules.left_out = Some(LeftOut::InFlight),
            Self::RemoveFirst => options.rules.left_out = Some(LeftOut::AddFirst),
            Self::NoFence | Self::GatesStayOpen | Self::IgnoreZones => {} // at the ports: see `SimNode`
        }
    }
}

impl Setup {
    /// So many nodes in fair weather, seed 1.
    pub fn nodes(nodes: u32) -> Self {
        Self {
            cluster: "sim".into(),
            nodes,
            zones: 0,
            capacity_bytes: 0,
            nodes_said: BTreeMap::new(),
            seed: 1,
            options: Options::default(),
            weather: Weather::FAIR,
            query_spread_ms: 3_000,
            sabotage: None,
            recorded: false,
        }
    }

    /// The same with another seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }
}

/// A table to be made. Its rows are `(id UInt64, ts DateTime)`, one a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTable {
    /// Its name; the database is `d`.
    pub name: String,
    /// `P`.
    pub partitions: u32,
    /// Shards to begin with.
    pub shards: u32,
    /// Replicas a shard.
    pub replicas: u32,
}

impl NewTable {
    /// `d.<name>`: 8 partitions, 2 shards, 2 replicas.
    pub fn named(name: &str) -> Self {
        Self { name: name.into(), partitions: 8, shards: 2, replicas: 2 }
    }

    /// Its full name.
    pub fn full_name(&self) -> TableName {
        TableName { database: "d".into(), table: self.name.clone() }
    }

    /// The request that makes it; may be sent again.
    pub fn request(&self) -> CreateTable {
        let columns = "(id UInt64, ts DateTime)";
        let ddl = format!("CREATE TABLE d.{} {columns} ENGINE = MergeTree ORDER BY id", self.name);
        CreateTable {
            ddl,
            partitions: self.partitions,
            shards: self.shards,
            replicas: self.replicas,
            partition_by: "id".into(),
            topic_prefix: None,
            layout: TopicLayout::OneTopic,
            topic_replication: -1,
            format: MessageFormat::CSV,
            format_settings: BTreeMap::new(),
            batch: BatchLimits::default(),
            first_node: None,
            dry_run: false,
            if_not_exists: true,
        }
    }
}
