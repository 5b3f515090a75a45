//! `converthouse server`: the daemon.

use super::{Context, Failure};
use crate::config;
use crate::daemon;
use crate::telemetry;
use clap::Args;
use std::path::PathBuf;

/// Options of `server`.
#[derive(Debug, Args)]
pub(super) struct Server {
    /// The daemon's configuration file; `converthouse config example` prints one
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Check the file and end
    #[arg(long)]
    check: bool,
}

impl Server {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        if self.check {
            return super::config::check(context, &self.config);
        }
        context.no_json("server", "leave --json out; for its log, set [log] format = \"json\"")?;
        let config = config::load(&self.config)?;
        let started = telemetry::start_logs(&config.log);
        started.map_err(|e| Failure::failed(format!("cannot start logging: {e}"), "correct [log] level"))?;
        daemon::run(config).map_err(|error| Failure::failed(error.what, &error.remedy))
    }
}
