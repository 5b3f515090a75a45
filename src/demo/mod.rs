//! `converthouse demo`: three real ClickHouse servers and one daemon on this machine, from nothing to proof.
//!
//! Makes a table of 4 shards x 2 replicas, brings rows in through Kafka, asks through plain ClickHouse on every
//! node, kills a server, asks on, brings it back. Then, with rows and queries all the time: splits the shards, has a
//! fourth node join, drains the first, kills another. Says what was proven. Leaves nothing running; its folder goes
//! too, unless asked to keep it.

mod elastic;
mod scene;
mod steps;
mod traffic;

use crate::daemon::Error;
use actix::prelude::*;
use std::path::PathBuf;

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
}

/// Runs it to its end. An error says which proof failed.
pub fn run(options: Options) -> Result<(), Error> {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    });
    system.block_on(async move {
        let mut stop = std::pin::pin!(futures::FutureExt::fuse(interrupted()));
        let mut play = std::pin::pin!(futures::FutureExt::fuse(steps::play(options)));
        futures::select_biased! {
            result = play => result,
            () = stop => Err(Error::new("interrupted", "run it again")),
        }
    })
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}
