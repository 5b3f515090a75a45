//! What may happen to a simulated cluster: the vocabulary of cases and sweeps.

use super::cluster::Cluster;
use super::failure::Failure;
use super::node::{LATENCY_MS, Port};
use super::setup::NewTable;
use crate::adapters::faults::{Crash, Weather};
use crate::model::control::{Asked, DropTable};
use crate::model::{NodeId, NodeState, ShardId, TableName};
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
            | Self::SlowNode { node, .. }
            | Self::Cut { node, .. }
            | Self::Join { node }
            | Self::FillDisk { node }
            | Self::FreeDisk { node }
            | Self::SetNode { node, .. }
            | Self::Lead { to: node, .. }
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
            | Self::Lead { table, .. } => Some(table),
            _ => None,
        }
    }
}

/// The full name of a case's table.
pub fn full_name(table: &str) -> TableName {
    TableName { database: "d".into(), table: table.to_owned() }
}

const DISK_BYTES: u64 = 1 << 40;

impl Cluster {
    /// The node that is meant.
    fn target(&self, target: &Target) -> Result<NodeId, Failure> {
        if target == "leader" {
            // Between two leaders the first node is as good as any.
            let first = || self.node_ids().into_iter().next();
            return self.leader().or_else(first).ok_or_else(|| self.failure("there is no node"));
        }
        target.parse().map_err(|error| self.failure(format!("{error}")))
    }

    /// Lets an event happen. Requests to the cluster go their own way: they may fail, as an operator's may.
    pub fn happen(&self, event: &Event) -> Result<(), Failure> {
        let at = |target: &Target| self.target(target);
        match event {
            Event::CreateTable(table) => self.request_in_background(table.clone()),
            Event::DropTable { table } => self.drop_in_background(full_name(table)),
            Event::Produce { table, messages } => {
                if let Some(record) = self.table(&full_name(table)) {
                    self.produce_everywhere(&record, *messages);
                }
            }
            Event::KillDaemon { node } => self.kill_daemon(at(node)?.as_str())?,
            Event::StartDaemon { node } => self.start_daemon(at(node)?.as_str())?,
            Event::StallDaemon { node } => self.stall_daemon(at(node)?.as_str(), true)?,
            Event::ResumeDaemon { node } => self.stall_daemon(at(node)?.as_str(), false)?,
            Event::CrashDaemon { node, port, at_change, after } => {
                let crash = Crash { at_change: *at_change, after: *after };
                self.crash_daemon_at(at(node)?.as_str(), *port, crash)?;
            }
            Event::StopClickhouse { node } => self.set_clickhouse(at(node)?.as_str(), false)?,
            Event::StartClickhouse { node } => self.set_clickhouse(at(node)?.as_str(), true)?,
            Event::StopNode { node } => self.set_machine(&at(node)?, false)?,
            Event::StartNode { node } => self.set_machine(&at(node)?, true)?,
            Event::LoseNode { node } => {
                let node = at(node)?;
                self.set_machine(&node, false)?;
                self.with(node.as_str(), |sim| sim.lost = true)?;
            }
            Event::ReplaceDisk { node } => {
                let node = at(node)?;
                self.set_clickhouse(node.as_str(), false)?;
                self.row(&format!("script replaces the disk of {node}"));
                self.with(node.as_str(), |sim| sim.server.replace_disk())?;
            }
            Event::StopZone { zone } => self.set_zone(zone, false)?,
            Event::StartZone { zone } => self.set_zone(zone, true)?,
            Event::SlowNode { node, latency_ms, copy_bytes_per_s } => {
                let node = at(node)?;
                self.row(&format!(
                    "script slows {node}: {latency_ms} ms a call, {copy_bytes_per_s} bytes/s of copies"
                ));
                self.with(node.as_str(), |sim| {
                    sim.server.set_latency_ms((*latency_ms).max(LATENCY_MS));
                    sim.server.set_copy_rate(*copy_bytes_per_s);
                })?;
            }
            Event::Rate { table, messages_per_s, partitions } => {
                self.row(&format!(
                    "script sets the rate of {table} to {messages_per_s} messages/s a partition"
                ));
                self.rate(table, *partitions, *messages_per_s);
            }
            Event::Cut { node, ports } => self.cut(at(node)?.as_str(), ports, true)?,
            Event::Join { node } => self.cut(at(node)?.as_str(), &[], false)?,
            Event::Part { from, to } => self.part(&at(from)?, &at(to)?),
            Event::Weather { weather } => self.set_weather_everywhere(weather.weather()),
            Event::Down { port } => self.set_down(*port, true),
            Event::Up { port } => self.set_down(*port, false),
            Event::FillDisk { node } => self.set_disk(at(node)?.as_str(), 0)?,
            Event::FreeDisk { node } => self.set_disk(at(node)?.as_str(), DISK_BYTES)?,
            Event::Drift { node, ppm } => self.with(at(node)?.as_str(), |sim| sim.drift_ppm = *ppm)?,
            Event::AddNode {} => self.add_node().map(|_| ())?,
            Event::SetNode { node, state } => self.set_node_in_background(at(node)?, *state),
            Event::Split { .. } | Event::Merge { .. } | Event::Move { .. } | Event::Lead { .. } => {
                self.operate(event)?;
            }
        }
        Ok(())
    }

    fn set_machine(&self, node: &NodeId, up: bool) -> Result<(), Failure> {
        self.set_clickhouse(node.as_str(), up)?;
        if up { self.start_daemon(node.as_str()) } else { self.kill_daemon(node.as_str()) }
    }

    fn set_zone(&self, zone: &str, up: bool) -> Result<(), Failure> {
        let nodes = self.0.nodes.borrow();
        let there: Vec<NodeId> =
            nodes.iter().filter(|(_, sim)| sim.record.zone() == zone).map(|(id, _)| id.clone()).collect();
        drop(nodes);
        there.iter().try_for_each(|node| self.set_machine(node, up))
    }

    fn operate(&self, event: &Event) -> Result<(), Failure> {
        let (table, asked) = match event {
            Event::Split { table, shard } => {
                (table, Asked::Split { shard: shard.map(ShardId), cut: None, by_bytes: false })
            }
            Event::Merge { table, left, right } => {
                (table, Asked::Merge { left: ShardId(*left), right: ShardId(*right) })
            }
            Event::Move { table, shard, from, to } => {
                let (from, to) = (self.target(from)?, self.target(to)?);
                // Zones are judged by the invariants; what an operator insists on has to go well too.
                (table, Asked::Move { shard: ShardId(*shard), from, to, force: true })
            }
            Event::Lead { table, shard, to } => {
                (table, Asked::Lead { shard: ShardId(*shard), to: self.target(to)? })
            }
            _ => return Ok(()),
        };
        self.operate_in_background(table, asked);
        Ok(())
    }

    fn request_in_background(&self, table: NewTable) {
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            if let Err(failure) = cluster.request_table(&table).await {
                cluster.row(&format!("script could not create {}: {}", table.full_name(), failure.what));
            }
        });
    }

    fn drop_in_background(&self, name: TableName) {
        let cluster = self.clone();
        self.row(&format!("script drops {name}"));
        tokio::task::spawn_local(async move {
            let request = DropTable {
                database: name.database.clone(),
                table: name.table.clone(),
                delete_topics: false,
                if_exists: true,
            };
            let drop = |daemon: std::sync::Arc<dyn crate::adapters::peers::Daemon>| {
                let request = request.clone();
                async move { daemon.drop_table(request).await }
            };
            if let Err(failure) = cluster.ask("drop the table", drop).await {
                cluster.row(&format!("script could not drop {name}: {}", failure.what));
            }
        });
    }

    fn part(&self, from: &NodeId, to: &NodeId) {
        self.row(&format!("script parts {from} from {to}"));
        self.network().part(&super::daemon_url(from), &super::daemon_url(to), true);
    }

    fn set_disk(&self, node: &str, free_bytes: u64) -> Result<(), Failure> {
        self.row(&format!("script leaves {free_bytes} bytes free on {node}"));
        self.with(node, |sim| sim.server.set_disk(DISK_BYTES, free_bytes))
    }

    /// Cuts a daemon off from some ports (all if none is named), or joins it to all again.
    fn cut(&self, node: &str, ports: &[Port], cut: bool) -> Result<(), Failure> {
        self.row(&format!("script {} {node}", if cut { "cuts off" } else { "joins" }));
        let from_server =
            ports.is_empty() || ports.contains(&Port::ClickHouse) || ports.contains(&Port::Routes);
        self.0.dark.borrow_mut().cut(node, self.now_ms(), cut && from_server);
        let all = Port::ALL;
        let ports = if ports.is_empty() { all.as_slice() } else { ports };
        self.with(node, |sim| {
            for port in ports {
                if let Some(line) = sim.line_to(*port) {
                    line.set_weather(Weather { cut, ..line.weather() });
                }
            }
        })
    }
}
