//! How events come about: what each does to the cluster.

use super::cluster::Cluster;
use super::event::{Event, Target, full_name};
use super::failure::Failure;
use super::node::{LATENCY_MS, Port};
use super::setup::NewTable;
use crate::adapters::faults::{Crash, Weather};
use crate::model::control::{Asked, DropTable};
use crate::model::{NodeId, ShardId, TableName};

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
            Event::LoseNode { node } | Event::ReplaceDisk { node } | Event::LosePower { node } => {
                self.break_machine(event, &at(node)?)?;
            }
            Event::StopZone { zone } => self.set_zone(zone, false)?,
            Event::StartZone { zone } => self.set_zone(zone, true)?,
            Event::SlowNode { node, latency_ms, copy_bytes_per_s } => {
                self.slow(&at(node)?, *latency_ms, *copy_bytes_per_s)?;
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
            Event::CancelOperations { table } => self.cancel_in_background(table),
            Event::Split { .. }
            | Event::Merge { .. }
            | Event::Move { .. }
            | Event::Lead { .. }
            | Event::AddReplica { .. }
            | Event::RemoveReplica { .. } => self.operate(event)?,
        }
        Ok(())
    }

    fn slow(&self, node: &NodeId, latency_ms: u64, copy_bytes_per_s: u64) -> Result<(), Failure> {
        let row =
            format!("script slows {node}: {latency_ms} ms a call, {copy_bytes_per_s} bytes/s of copies");
        self.row(&row);
        self.with(node.as_str(), |sim| {
            sim.server.set_latency_ms(latency_ms.max(LATENCY_MS));
            sim.server.set_copy_rate(copy_bytes_per_s);
        })
    }

    /// A machine is down, and has lost something by it.
    fn break_machine(&self, event: &Event, node: &NodeId) -> Result<(), Failure> {
        match event {
            Event::LoseNode { .. } => {
                self.set_machine(node, false)?;
                self.with(node.as_str(), |sim| sim.lost = true)
            }
            Event::ReplaceDisk { .. } => {
                self.set_clickhouse(node.as_str(), false)?;
                self.row(&format!("script replaces the disk of {node}"));
                self.with(node.as_str(), |sim| sim.server.replace_disk())
            }
            Event::LosePower { .. } => {
                self.set_machine(node, false)?;
                let lost = self.with(node.as_str(), |sim| sim.lose_power(|| self.random(2) == 0))?;
                self.row(&format!("script cuts the power of {node}: {lost} rows are gone"));
                Ok(())
            }
            _ => Ok(()),
        }
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
            Event::AddReplica { table, shard, to } => {
                (table, Asked::Add { shard: ShardId(*shard), to: self.target(to)?, force: true })
            }
            Event::RemoveReplica { table, shard, from } => {
                (table, Asked::Remove { shard: ShardId(*shard), from: self.target(from)? })
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
                cluster.refused(&format!("could not create {}: {}", table.full_name(), failure.what));
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
                cluster.refused(&format!("could not drop {name}: {}", failure.what));
            }
        });
    }

    fn part(&self, from: &NodeId, to: &NodeId) {
        self.row(&format!("script parts {from} from {to}"));
        self.network().part(&super::daemon_url(from), &super::daemon_url(to), true);
        self.0.sites.borrow_mut().part(true);
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
