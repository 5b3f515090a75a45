//! `converthouse demo`: real servers on this machine, shown working and cleaned up.

use super::{Context, Failure};
use clap::Args;

/// Options of `demo`.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// A real Kafka to use (`host:port`) rather than the broker inside this process
    #[arg(long, value_name = "BROKERS")]
    kafka: Option<String>,
    /// Rows to ingest
    #[arg(long, default_value_t = 1_000_000)]
    rows: u64,
    /// Leave everything running at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(super) fn run(self, _: &Context) -> Result<(), Failure> {
        let what = format!("this build has no demo ({} rows, {:?}, {})", self.rows, self.kafka, self.keep);
        Err(Failure::failed(what, "take a later build"))
    }
}
