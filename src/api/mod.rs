//! The edges by which others reach a daemon: gRPC for daemons and tools, HTTP for ClickHouse, Prometheus and probes.
//!
//! Nothing is decided here: requests are read, handed to a [`Daemon`](crate::adapters::peers::Daemon), and its
//! answers written.

mod around;
pub mod grpc;
pub mod http;
mod room;

pub use room::{Held, Room};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use std::time::Duration;

/// How long requests under way may take to end once the daemon stops, in milliseconds.
const GRACE_MS: u64 = 5_000;

/// "Stop now", for as many as wait for it.
type Stop = Shared<BoxFuture<'static, ()>>;

fn stop_when(shutdown: impl Future<Output = ()> + Send + 'static) -> Stop {
    shutdown.boxed().shared()
}

/// Runs a server until it ends by itself or, once told to stop, for the grace time at most.
async fn until_stopped<E>(server: impl Future<Output = Result<(), E>>, stop: Stop) -> Result<(), E> {
    let late = async {
        stop.await;
        tokio::time::sleep(Duration::from_millis(GRACE_MS)).await;
    };
    futures::pin_mut!(server, late);
    match futures::future::select(server, late).await {
        futures::future::Either::Left((ended, _)) => ended,
        futures::future::Either::Right(_) => Ok(()),
    }
}
