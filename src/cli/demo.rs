//! `converthouse demo`: real servers on this machine, shown working and cleaned up.

use super::{Context, Failure};
use crate::demo::{self, Voice};
use crate::telemetry;
use clap::Args;
use std::path::PathBuf;

/// Options of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// A real Kafka to use (`host:port`) rather than the broker inside this process; the demo makes topics
    /// `converthouse-demo-….*` there, and deletes them at its end
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// Rows to ingest
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    rows: u64,
    /// Keep the demo's folder (configuration, logs, data) and say where it is
    #[arg(long)]
    keep: bool,
    /// Leave the cluster running once everything is proven, until Ctrl-C, and say how to reach it
    #[arg(long)]
    stay: bool,
    /// Where to put that folder [default: the system's folder for temporary files]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// What to log beside the story
    #[arg(long, default_value = "error", value_name = "LEVEL")]
    log: String,
}

impl Demo {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let log = telemetry::LogOptions { level: self.log, format: telemetry::LogFormat::Text };
        let started = telemetry::start_logs(&log);
        started.map_err(|e| Failure::failed(format!("cannot start logging: {e}"), "correct --log"))?;
        let options = demo::Options {
            kafka: self.kafka,
            rows: self.rows,
            keep: self.keep,
            stay: self.stay,
            folder: self.folder,
            voice: if context.json() { Voice::Err } else { Voice::Out },
        };
        let proven = demo::run(options).map_err(|error| Failure::failed(error.what, &error.remedy))?;
        if context.json() { context.print(&proven, String::new) } else { Ok(()) }
    }
}
