//! `converthouse demo`: three real ClickHouse servers and one daemon on this machine, from nothing to proof.
//!
//! Makes a table of 4 shards x 2 replicas, brings rows in through Kafka, asks through plain ClickHouse on every
//! node, kills a server, asks on, brings it back. Then, with rows and queries all the time: splits the shards, has a
//! fourth node join, drains the first, kills another. Says what was proven. Leaves nothing running, however it ends;
//! its folder goes too, unless asked to keep it, and so do its topics on a Kafka that is not its own.

mod elastic;
mod progress;
mod scene;
mod steps;
mod topics;
mod traffic;

use crate::daemon::{Error, terminated};
use actix::prelude::*;
use std::io::Write;
use std::path::PathBuf;
use tokio::signal::unix::SignalKind;
use topics::Topics;

/// What the demo does.
#[derive(Debug, Clone)]
pub struct Options {
    /// Brokers of a real Kafka; `None` runs an embedded one.
    pub kafka: Option<String>,
    /// Rows brought in before the fault.
    pub rows: u64,
    /// Keep the folder (logs, data, configuration) and say where it is.
    pub keep: bool,
    /// Once everything is proven, leave the cluster running until Ctrl-C.
    pub stay: bool,
    /// Where to put it; `None` is the system's folder for temporary files.
    pub folder: Option<PathBuf>,
    /// Where the story goes.
    pub voice: Voice,
}

/// What it came to.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Proven {
    /// The servers' version.
    pub clickhouse: String,
    /// A sentence each.
    pub proven: Vec<String>,
    /// What it took.
    pub seconds: f64,
}

/// Where the story goes. A reader who has had enough of it ends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Voice {
    /// Standard output.
    Out,
    /// Standard error: the result is for a program.
    Err,
}

impl Voice {
    /// A line of it.
    pub fn line(self, text: &str) {
        let _ = match self {
            Self::Out => writeln!(std::io::stdout(), "{text}"),
            Self::Err => writeln!(std::io::stderr(), "{text}"),
        };
    }
}

/// Runs it to its end. An error says which proof failed.
pub fn run(options: Options) -> Result<Proven, Error> {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    });
    system.block_on(async move {
        let topics = Topics::new(options.kafka.as_deref())?;
        let result = {
            let mut stop = std::pin::pin!(futures::FutureExt::fuse(interrupted()));
            let mut play = std::pin::pin!(futures::FutureExt::fuse(steps::play(&options, &topics)));
            futures::select_biased! {
                result = play => result,
                () = stop => Err(Error::new("interrupted", "run it again")),
            }
        };
        // Everything that ran has ended with it.
        let deleted = topics.delete(options.voice).await;
        let proven = result?;
        deleted?;
        Ok(proven)
    })
}

async fn interrupted() {
    terminated([SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]).await;
}
