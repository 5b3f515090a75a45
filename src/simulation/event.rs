//! What may happen to a simulated cluster: the vocabulary of cases and sweeps.

use super::node::Port;
use super::setup::NewTable;
use crate::adapters::faults::Weather;
use crate::model::{NodeState, TableName};
use serde::{Deserialize, Serialize};

/// A node by its name, or `leader`: the one whose daemon leads when the event comes.
pub type Target = String;

/// Kinds of weather that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Named {
    /// No faults, 1 ms each way.
    #[default]
    Fair,
    /// Every kind of fault, a few calls in a hundred.
    Rough,
}

impl Named {
    /// Its numbers.
    pub fn weather(self) -> Weather {
        match self {
            Self::Fair => Weather::FAIR,
            Self::Rough => Weather::ROUGH,
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Event {
    /// A table is made.
    CreateTable(NewTable),
    /// A table is dropped.
    DropTable {
        /// Its name.
        table: String,
    },
    /// Messages come into each partition at once.
    Produce {
        /// The table.
        table: String,
        /// Messages a partition.
        messages: u64,
    },
    /// A daemon dies as by `kill -9`.
    KillDaemon {
        /// Whose.
        node: Target,
    },
    /// A daemon is started.
    StartDaemon {
        /// Whose.
        node: Target,
    },
    /// A daemon's process stands still.
    StallDaemon {
        /// Whose.
        node: Target,
    },
    /// It goes on.
    ResumeDaemon {
        /// Whose.
        node: Target,
    },
    /// A daemon will die at one of its next changes at a port.
    CrashDaemon {
        /// Whose.
        node: Target,
        /// Which port.
        port: Port,
        /// At which change from now, from 1.
        at_change: u32,
        /// After it took effect.
        after: bool,
    },
    /// A ClickHouse server dies.
    StopClickhouse {
        /// Whose.
        node: Target,
    },
    /// It is started again, with what it held.
    StartClickhouse {
        /// Whose.
        node: Target,
    },
    /// A machine dies: daemon and server.
    StopNode {
        /// Which.
        node: Target,
    },
    /// It is started again.
    StartNode {
        /// Which.
        node: Target,
    },
    /// A daemon reaches nothing at some ports.
    Cut {
        /// Whose.
        node: Target,
        /// Which; all if none is named.
        #[serde(default)]
        ports: Vec<Port>,
    },
    /// It reaches them again.
    Join {
        /// Whose.
        node: Target,
    },
    /// Daemons of one node do not reach those of another.
    Part {
        /// Who calls in vain.
        from: Target,
        /// Who is not reached.
        to: Target,
    },
    /// What every daemon's calls meet from now on.
    Weather {
        /// Which.
        weather: Named,
    },
    /// Nobody reaches a shared part.
    Down {
        /// `store` or `kafka`.
        port: Port,
    },
    /// It is there again.
    Up {
        /// Which.
        port: Port,
    },
    /// A machine is gone for good: no repair brings it back.
    LoseNode {
        /// Which.
        node: Target,
    },
    /// A node's disk is replaced by an empty one. Its server is down until it is started, and then holds nothing.
    ReplaceDisk {
        /// Whose.
        node: Target,
    },
    /// A machine loses power: daemon and server are down until it is started, and of the parts that were inserted in
    /// the last half minute some are gone then, older ones and newer ones as it comes.
    LosePower {
        /// Which.
        node: Target,
    },
    /// All machines of a zone die.
    StopZone {
        /// Which.
        zone: String,
    },
    /// They are started again.
    StartZone {
        /// Which.
        zone: String,
    },
    /// A node's server answers late, or its disk and network let copies through slowly; until faults end.
    SlowNode {
        /// Whose.
        node: Target,
        /// What each call takes, in milliseconds.
        #[serde(default)]
        latency_ms: u64,
        /// Bytes a second of copies; 0 for as fast as they come.
        #[serde(default)]
        copy_bytes_per_s: u64,
    },
    /// So many messages come into each partition every second from now on.
    Rate {
        /// The table.
        table: String,
        /// How many.
        messages_per_s: u64,
        /// First partition and one past the last; all if left out.
        partitions: Option<(u32, u32)>,
    },
    /// A node's disk is full.
    FillDisk {
        /// Whose.
        node: Target,
    },
    /// It has room again.
    FreeDisk {
        /// Whose.
        node: Target,
    },
    /// A node's clock goes wrong, from the next start of its daemon on.
    Drift {
        /// Whose.
        node: Target,
        /// Parts per million too fast; negative for too slow.
        ppm: i64,
    },
    /// A node joins.
    AddNode {},
    /// A shard is split in the middle, or each shard if none is named.
    Split {
        /// The table.
        table: String,
        /// Its number.
        shard: Option<u32>,
    },
    /// Two neighbours become one.
    Merge {
        /// The table.
        table: String,
        /// The lower.
        left: u32,
        /// The upper.
        right: u32,
    },
    /// A replica goes to another node.
    Move {
        /// The table.
        table: String,
        /// Its number.
        shard: u32,
        /// Where it is.
        from: Target,
        /// Where it goes.
        to: Target,
    },
    /// Another replica leads.
    Lead {
        /// The table.
        table: String,
        /// Its number.
        shard: u32,
        /// Who.
        to: Target,
    },
    /// A shard gets one more replica.
    AddReplica {
        /// The table.
        table: String,
        /// Its number.
        shard: u32,
        /// Where.
        to: Target,
    },
    /// A shard has one replica less.
    RemoveReplica {
        /// The table.
        table: String,
        /// Its number.
        shard: u32,
        /// Where it is.
        from: Target,
    },
    /// Every operation on a table that is under way is to be undone.
    CancelOperations {
        /// The table.
        table: String,
    },
    /// The operator wants a node `draining`, `cordoned` or `active`.
    SetNode {
        /// Which.
        node: Target,
        /// What of it.
        state: NodeState,
    },
}

impl Event {
    /// The nodes that it names.
    pub fn targets(&self) -> Vec<&Target> {
        match self {
            Self::KillDaemon { node }
            | Self::StartDaemon { node }
            | Self::StallDaemon { node }
            | Self::ResumeDaemon { node }
            | Self::CrashDaemon { node, .. }
            | Self::StopClickhouse { node }
            | Self::StartClickhouse { node }
            | Self::StopNode { node }
            | Self::StartNode { node }
            | Self::LoseNode { node }
            | Self::ReplaceDisk { node }
            | Self::LosePower { node }
            | Self::SlowNode { node, .. }
            | Self::Cut { node, .. }
            | Self::Join { node }
            | Self::FillDisk { node }
            | Self::FreeDisk { node }
            | Self::SetNode { node, .. }
            | Self::Lead { to: node, .. }
            | Self::AddReplica { to: node, .. }
            | Self::RemoveReplica { from: node, .. }
            | Self::Drift { node, .. } => vec![node],
            Self::Part { from, to } | Self::Move { from, to, .. } => vec![from, to],
            Self::CreateTable(_)
            | Self::DropTable { .. }
            | Self::Produce { .. }
            | Self::Rate { .. }
            | Self::StopZone { .. }
            | Self::StartZone { .. }
            | Self::Split { .. }
            | Self::Merge { .. }
            | Self::CancelOperations { .. }
            | Self::Weather { .. }
            | Self::Down { .. }
            | Self::Up { .. }
            | Self::AddNode {} => Vec::new(),
        }
    }

    /// The zone that it names.
    pub fn zone(&self) -> Option<&str> {
        match self {
            Self::StopZone { zone } | Self::StartZone { zone } => Some(zone),
            _ => None,
        }
    }

    /// The table that it needs to be there.
    pub fn table(&self) -> Option<&str> {
        match self {
            Self::DropTable { table }
            | Self::Produce { table, .. }
            | Self::Rate { table, .. }
            | Self::Split { table, .. }
            | Self::Merge { table, .. }
            | Self::Move { table, .. }
            | Self::Lead { table, .. }
            | Self::AddReplica { table, .. }
            | Self::RemoveReplica { table, .. }
            | Self::CancelOperations { table } => Some(table),
            _ => None,
        }
    }
}

/// The full name of a case's table.
pub fn full_name(table: &str) -> TableName {
    TableName { database: "d".into(), table: table.to_owned() }
}
