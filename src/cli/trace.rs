//! `converthouse trace show|generate|import`: traces of clusters, without servers.

use super::import::Import;
use super::{Align, Context, Exit, Failure, Table, human_bytes};
use crate::simulation::trace::{self, Summary, generate};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Subcommands of `trace`.
#[derive(Debug, Subcommand)]
pub(super) enum TraceCommand {
    /// Read a trace to its end and say what is in it
    Show {
        /// The trace; compressed if it ends in .zst
        file: PathBuf,
    },
    /// Make one up: ingest by the hour of the day, growth, failures, joins, drains
    Generate(Generate),
    /// Make one of a cluster's system tables: system.clusters, system.parts, system.part_log
    Import(Import),
}

/// `trace generate`.
#[derive(Debug, Args)]
pub(super) struct Generate {
    /// Nodes at the start
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=10_000))]
    nodes: u32,
    /// How many days
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=366))]
    days: u32,
    /// Same seed, same trace
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to; compressed if it ends in .zst
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl TraceCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Show { file } => {
                let summary = trace::read(&file).map_err(|error| Failure::coded(&error, Exit::Failed))?;
                context.print(&shown(&summary), || text(&summary, context.colour()))
            }
            Self::Import(import) => import.run(context),
            Self::Generate(Generate { nodes, days, seed, out }) => {
                let lines = generate::lines(generate::Wanted { nodes, days, seed });
                trace::write(&out, &lines).map_err(|error| Failure::coded(&error, Exit::Failed))?;
                let result = json!({ "file": out.display().to_string(), "lines": lines.len() });
                context.print(&result, || format!("{} lines in {}\n", lines.len(), out.display()))
            }
        }
    }
}

fn shown(summary: &Summary) -> Value {
    let world = &summary.world;
    let live = world.nodes.values().filter(|node| node.live).count();
    json!({
        "cluster": world.header.as_ref().map(|header| &header.cluster),
        "origin": world.header.as_ref().map(|header| header.origin),
        "version": world.version(),
        "start_unix_ms": world.header.as_ref().map(|header| header.start_unix_ms),
        "span_ms": world.at_ms, "nodes": world.nodes.len(), "live": live, "tables": world.tables.len(),
        "shards": world.shards.len(), "bytes": world.stored_bytes(), "events": summary.events,
    })
}

fn text(summary: &Summary, colour: bool) -> String {
    let world = &summary.world;
    let cluster = world.header.as_ref().map_or("", |header| header.cluster.as_str());
    let live = world.nodes.values().filter(|node| node.live).count();
    let span_s = world.at_ms / 1_000;
    let (hours, minutes) = (span_s / 3_600, span_s / 60 % 60);
    let head = format!(
        "cluster {}, {hours} h {minutes} min; at its end:\n{} nodes ({live} live), {} tables, {} shards, {}\n",
        super::output::printable(cluster),
        world.nodes.len(),
        world.tables.len(),
        world.shards.len(),
        human_bytes(world.stored_bytes()),
    );
    if summary.events.is_empty() {
        return head;
    }
    let mut table = Table::new(&[("EVENT", Align::Left), ("COUNT", Align::Right)]);
    for (kind, count) in &summary.events {
        table.row([(*kind).to_owned(), count.to_string()]);
    }
    format!("{head}\n{}", table.text(0, colour))
}
