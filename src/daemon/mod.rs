//! The daemon: real parts behind the ports, the actors wired to them, and the servers in front.
//!
//! `run` is what `converthouse server` does. Nothing is decided here.

mod parts;

use crate::actors::{self, Made, Running, World};
use crate::adapters::clock::{Clock, SystemClock};
use crate::adapters::compute::etcd_member::ManagedEtcd;
use crate::adapters::machine::Boot;
use crate::adapters::offload::Threads;
use crate::adapters::peers::Daemon;
use crate::adapters::peers::grpc::{GrpcPeers, Options as PeerOptions};
use crate::api;
use crate::config::Config;
use crate::telemetry::Metrics;
use actix::prelude::*;
use futures::future::{FutureExt, select_all};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// Longest wait for a graceful end.
const STOP_AFTER_MS: u64 = 10_000;
/// How often the root actors are looked at.
const WATCH_EVERY_MS: u64 = 1_000;

/// Why the daemon cannot run, with what to do about it.
#[derive(Debug, thiserror::Error)]
#[error("{what}\nremedy: {remedy}")]
pub struct Error {
    /// What went wrong.
    pub what: String,
    /// What the operator can do.
    pub remedy: String,
}

impl Error {
    pub(crate) fn new(what: impl ToString, remedy: impl ToString) -> Self {
        Self { what: what.to_string(), remedy: remedy.to_string() }
    }

    pub(crate) fn of(error: &impl crate::error::Coded) -> Self {
        Self::new(error.told(), error.remedy())
    }
}

/// Runs a daemon until it is told to stop (SIGTERM, SIGINT).
pub fn run(config: Config) -> Result<(), Error> {
    let system = System::with_tokio_rt(|| {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be built")
    });
    system.block_on(async move {
        let stop = terminated([SignalKind::terminate(), SignalKind::interrupt()]);
        let mut stop = std::pin::pin!(stop.fuse());
        let starting = start(config).fuse();
        let mut starting = std::pin::pin!(starting);
        let started = futures::select_biased! {
            () = stop => return Ok(()),
            started = starting => started?,
        };
        let result = {
            let mut dead = std::pin::pin!(started.dead().fuse());
            futures::select_biased! {
                () = stop => {
                    tracing::info!("stopping");
                    Ok(())
                }
                what = dead => Err(Error::new(
                    format!("{what} died: this is a bug, see the log"),
                    "let the service manager start the daemon again: it goes on where it was",
                )),
            }
        };
        started.stop().await;
        result
    })
}

/// Completes when the process is asked to end, by one of these signals.
pub(crate) async fn terminated<const N: usize>(kinds: [SignalKind; N]) {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(error) => {
                tracing::error!(%error, "cannot listen for signals");
                std::future::pending::<()>().await;
            }
        }
    };
    select_all(kinds.map(|kind| wait(kind).boxed_local())).await;
}

/// A daemon that runs.
pub struct Started {
    /// Its verbs.
    pub daemon: Arc<dyn Daemon>,
    /// Where gRPC listens, `http(s)://host:port`.
    pub grpc_url: String,
    /// Where HTTP listens.
    pub http_url: String,
    running: Running,
    etcd: Option<ManagedEtcd>,
    stop: Arc<Notify>,
    stopping: Arc<AtomicBool>,
    servers: Vec<(&'static str, tokio::task::JoinHandle<()>)>,
}

impl Started {
    /// Completes with the name of what died.
    pub async fn dead(&self) -> &'static str {
        loop {
            tokio::time::sleep(Duration::from_millis(WATCH_EVERY_MS)).await;
            if !self.running.healthy() {
                return "a root actor";
            }
            if let Some((name, _)) = self.servers.iter().find(|(_, server)| server.is_finished()) {
                return name;
            }
        }
    }

    /// Gives up leadership and lease, lets requests end, then stops.
    pub async fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        let ending = async {
            self.running.stop().await;
            self.stop.notify_waiters();
            for (_, server) in self.servers {
                // A server that panicked has ended too.
                let _ = server.await;
            }
        };
        if tokio::time::timeout(Duration::from_millis(STOP_AFTER_MS), ending).await.is_err() {
            tracing::warn!("not everything ended in time");
        }
        if let Some(etcd) = self.etcd
            && let Err(error) = etcd.stop(Duration::from_millis(STOP_AFTER_MS)).await
        {
            tracing::warn!(%error, "the etcd member did not end as asked");
        }
    }
}

/// Starts a daemon inside the running System.
async fn start(mut config: Config) -> Result<Started, Error> {
    let grpc = bind(&config.daemon.grpc_listen, "grpc_listen").await?;
    let http = bind(&config.daemon.http_listen, "http_listen").await?;
    parts::fill_ports(&mut config, port(&grpc)?, port(&http)?);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let metrics = Metrics::new();
    let etcd = parts::managed_etcd(&config).await?;
    let store = parts::store(&config).await?;
    let kafka = parts::kafka(&config)?;
    let peers = PeerOptions { tls: config.daemon.tls.clone(), ..PeerOptions::default() };
    let tls = peers.tls.clone();
    let world = World {
        cluster: config.cluster.clone(),
        daemon_url: config.daemon.grpc_advertise.clone(),
        insert_base_url: Some(config.daemon.http_advertise.clone()),
        made: Made::default(),
        incarnation: clock.random(),
        boot: Boot::current(),
        store,
        kafka,
        peers: Arc::new(GrpcPeers::new(peers)),
        clock,
        solver: Arc::new(Threads::new()),
        metrics: metrics.clone(),
        nodes: parts::nodes(&config),
        groups: config.route_groups.clone(),
        options: parts::options(&config),
    };
    let running = actors::spawn_recorded(world, parts::recording(&config)?)
        .map_err(|error| Error::new(error, "correct the configuration"))?;
    let (stop, stopping) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let daemon = running.daemon.clone();
    let readiness = readiness(&running, stopping.clone());
    let (room, registry) = (api::Room::default(), metrics.registry().clone());
    let serve_grpc =
        api::grpc::serve(grpc, daemon.clone(), tls, readiness.clone(), room.clone(), notified(&stop));
    let serve_http = api::http::serve(http, daemon.clone(), registry, readiness, room, notified(&stop));
    let servers = vec![
        ("the gRPC server", tokio::spawn(logged("gRPC", serve_grpc))),
        ("the HTTP server", tokio::spawn(logged("HTTP", serve_http))),
    ];
    let (grpc_url, http_url) = (config.daemon.grpc_advertise, config.daemon.http_advertise);
    tracing::info!(grpc_url, http_url, cluster = config.cluster, "daemon started");
    Ok(Started { daemon, grpc_url, http_url, running, etcd, stop, stopping, servers })
}

fn notified(stop: &Arc<Notify>) -> impl Future<Output = ()> + Send + 'static {
    let stop = stop.clone();
    async move { stop.notified().await }
}

async fn logged<E: std::fmt::Display>(name: &'static str, serving: impl Future<Output = Result<(), E>>) {
    if let Err(error) = serving.await {
        tracing::error!(%error, name, "a server ended");
    }
}

fn readiness(running: &Running, stopping: Arc<AtomicBool>) -> api::http::Readiness {
    let known = running.view.clone();
    Arc::new(move || {
        let outage = known.outage();
        let view = known.read();
        let mut reasons = Vec::new();
        if stopping.load(Ordering::Relaxed) {
            reasons.push("the daemon is stopping".to_owned());
        }
        if !view.complete {
            reasons.push("the metadata store has not been read yet".to_owned());
        } else if view.leader.is_none() {
            reasons.push("no daemon leads the cluster".to_owned());
        }
        if !reasons.is_empty() {
            reasons.extend(outage);
        }
        reasons
    })
}

async fn bind(address: &str, key: &str) -> Result<TcpListener, Error> {
    let remedy = "choose another address, or stop what listens there";
    TcpListener::bind(address)
        .await
        .map_err(|error| Error::new(format!("[daemon] {key} = {address:?}: cannot listen: {error}"), remedy))
}

fn port(listener: &TcpListener) -> Result<u16, Error> {
    let address = listener.local_addr().map_err(|error| Error::new(error, "try again"))?;
    Ok(address.port())
}
