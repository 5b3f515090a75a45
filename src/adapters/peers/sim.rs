//! Daemons of a simulated cluster among themselves: what gRPC is to real ones, without sockets.
//!
//! A call runs in the callee's own process: if that dies in the middle, the caller is told that the outcome is
//! unknown. Nothing is serialised; `convert` is tested by itself.

use super::{Daemon, Error, HeartbeatReply, Peers, PieceStream, VerdictStream};
use crate::adapters::faults::{Call, Line, Trouble};
use crate::model::balance::{ApplyPlan, BalanceStatus, PlanRunStatus, SetBalance};
use crate::model::control::{Begun, NodeStatus, Operate, OperationStatus};
use crate::model::control::{ClusterStatus, CreateTable, DropTable, InsertRows, Inserted, TableStatus};
use crate::model::hold::{HoldStatus, SetHold};
use crate::model::observed::Heartbeat;
use crate::model::parts::WantedParts;
use crate::model::plan::ClusterPlan;
use crate::model::routes::TableRoutes;
use crate::model::shared::Shared;
use crate::model::verify::{Digest, DigestAsked};
use crate::model::{NodeId, NodeState, OperationId, TableName};
use async_trait::async_trait;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// How long a question may take.
const READ_DEADLINE_MS: u64 = 10_000;
/// How long a change may take.
const WRITE_DEADLINE_MS: u64 = 120_000;
/// How long a heartbeat may take.
const HEARTBEAT_DEADLINE_MS: u64 = 5_000;
/// Pieces of parts that may be on their way.
const PIECES_AHEAD: usize = 4;

type Work = Box<dyn FnOnce(Arc<dyn Daemon>) -> BoxFuture<'static, ()> + Send>;

#[derive(Default)]
struct Wires {
    daemons: BTreeMap<String, mpsc::UnboundedSender<Work>>,
    /// Pairs (from, to) that do not reach each other.
    parted: BTreeSet<(String, String)>,
}

/// The network between daemons. Clones are handles on the same one.
#[derive(Clone, Default)]
pub struct SimNetwork(Arc<Mutex<Wires>>);

impl SimNetwork {
    /// Nobody is there yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers calls to `url` by `daemon`, for as long as the future is polled; run it in the daemon's process.
    pub fn serve(&self, url: &str, daemon: Arc<dyn Daemon>) -> impl Future<Output = ()> + use<> {
        let (calls, mut incoming) = mpsc::unbounded_channel::<Work>();
        self.wires().daemons.insert(url.to_owned(), calls);
        async move {
            while let Some(work) = incoming.recv().await {
                tokio::task::spawn_local(work(daemon.clone()));
            }
        }
    }

    /// Lets calls from one daemon to another come to nothing, or through again.
    pub fn part(&self, from: &str, to: &str, parted: bool) {
        let pair = (from.to_owned(), to.to_owned());
        let mut wires = self.wires();
        if parted {
            wires.parted.insert(pair);
        } else {
            wires.parted.remove(&pair);
        }
    }

    /// Everybody reaches everybody.
    pub fn join_all(&self) {
        self.wires().parted.clear();
    }

    /// The network as the daemon at `from` sees it, over that line.
    pub fn peers(&self, from: &str, line: Line) -> SimPeers {
        SimPeers { network: self.clone(), from: from.to_owned(), line }
    }
}

/// See [`SimNetwork::peers`].
#[derive(Clone)]
pub struct SimPeers {
    network: SimNetwork,
    from: String,
    line: Line,
}

impl Peers for SimPeers {
    fn daemon(&self, url: &str) -> Arc<dyn Daemon> {
        Arc::new(SimPeer { peers: self.clone(), url: url.to_owned() })
    }
}

struct SimPeer {
    peers: SimPeers,
    url: String,
}

impl SimPeer {
    /// Hands the work over and waits for its answer.
    async fn reach<T: Send + 'static>(
        &self,
        work: impl FnOnce(Arc<dyn Daemon>) -> BoxFuture<'static, Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let refused = || Error::Unavailable(format!("the daemon at {} cannot be reached", self.url));
        let answer = {
            let wires = self.peers.network.wires();
            if wires.parted.contains(&(self.peers.from.clone(), self.url.clone())) {
                return Err(refused());
            }
            let calls = wires.daemons.get(&self.url).ok_or_else(refused)?;
            let (told, answer) = oneshot::channel();
            let work: Work = Box::new(move |daemon| {
                let work = work(daemon);
                Box::pin(async move {
                    // Who asked may have given up.
                    let _ = told.send(work.await);
                })
            });
            calls.send(work).map_err(|_| refused())?;
            answer
        };
        let broken = || Error::OutcomeUnknown(format!("the daemon at {} broke the connection", self.url));
        answer.await.unwrap_or_else(|_| Err(broken()))
    }

    async fn call<T: Send + 'static>(
        &self,
        call: Call,
        work: impl FnOnce(Arc<dyn Daemon>) -> BoxFuture<'static, Result<T, Error>> + Send + 'static,
    ) -> Result<T, Error> {
        let failed = |trouble| match (trouble, call.changes) {
            (Trouble::Lost, true) => {
                Error::OutcomeUnknown(format!("the daemon at {} did not answer", self.url))
            }
            _ => Error::Unavailable(format!("the daemon at {} did not answer", self.url)),
        };
        self.peers.line.carry(call, self.reach(work), failed).await
    }
}

fn asks(verb: &'static str) -> Call {
    Call::asks(verb, READ_DEADLINE_MS)
}

fn changes(verb: &'static str) -> Call {
    Call::changes(verb, WRITE_DEADLINE_MS)
}

#[async_trait]
impl Daemon for SimPeer {
    async fn create_table(&self, request: CreateTable) -> Result<TableStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.create_table(request).await })
        };
        self.call(changes("create_table"), work).await
    }

    async fn drop_table(&self, request: DropTable) -> Result<(), Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.drop_table(request).await })
        };
        self.call(changes("drop_table"), work).await
    }

    async fn table_status(&self, name: TableName) -> Result<TableStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.table_status(name).await })
        };
        self.call(asks("table_status"), work).await
    }

    async fn cluster_status(&self) -> Result<ClusterStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.cluster_status().await })
        };
        self.call(asks("cluster_status"), work).await
    }

    async fn routes(&self, name: TableName) -> Result<TableRoutes, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.routes(name).await })
        };
        self.call(asks("routes"), work).await
    }

    async fn watch_routes(
        &self,
        name: TableName,
    ) -> Result<BoxStream<'static, Result<TableRoutes, Error>>, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.watch_routes(name).await })
        };
        self.call(asks("watch_routes"), work).await
    }

    async fn insert(&self, request: InsertRows) -> Result<Inserted, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.insert(request).await })
        };
        self.call(changes("insert"), work).await
    }

    async fn operate(&self, request: Operate) -> Result<Begun, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.operate(request).await })
        };
        self.call(changes("operate"), work).await
    }

    async fn cancel_operation(&self, id: OperationId) -> Result<OperationStatus, Error> {
        let work = move |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.cancel_operation(id).await })
        };
        self.call(changes("cancel_operation"), work).await
    }

    async fn operations(&self) -> Result<Vec<OperationStatus>, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.operations().await })
        };
        self.call(asks("operations"), work).await
    }

    async fn set_node_state(&self, node: NodeId, state: NodeState) -> Result<NodeStatus, Error> {
        let work = move |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.set_node_state(node, state).await })
        };
        self.call(changes("set_node_state"), work).await
    }

    async fn remove_node(&self, node: NodeId) -> Result<(), Error> {
        let work = move |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.remove_node(node).await })
        };
        self.call(changes("remove_node"), work).await
    }

    async fn make_plan(&self) -> Result<ClusterPlan, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.make_plan().await })
        };
        self.call(asks("make_plan"), work).await
    }

    async fn apply_plan(&self, request: ApplyPlan) -> Result<PlanRunStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.apply_plan(request).await })
        };
        self.call(changes("apply_plan"), work).await
    }

    async fn cancel_plan(&self) -> Result<PlanRunStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.cancel_plan().await })
        };
        self.call(changes("cancel_plan"), work).await
    }

    async fn set_balance(&self, request: SetBalance) -> Result<BalanceStatus, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.set_balance(request).await })
        };
        self.call(changes("set_balance"), work).await
    }

    async fn set_hold(&self, request: SetHold) -> Result<Vec<HoldStatus>, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.set_hold(request).await })
        };
        self.call(changes("set_hold"), work).await
    }

    async fn heartbeat(&self, heartbeat: Shared<Heartbeat>) -> Result<HeartbeatReply, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.heartbeat(heartbeat).await })
        };
        let call = Call::asks("heartbeat", HEARTBEAT_DEADLINE_MS);
        self.call(call, work).await
    }

    /// The pieces are handed over by a task of the callee's process: when that dies, they stop.
    async fn send_partition(&self, node: NodeId, wanted: WantedParts) -> Result<PieceStream, Error> {
        let (network, pair) = (self.peers.network.clone(), (self.peers.from.clone(), self.url.clone()));
        let work = move |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, Result<PieceStream, Error>> {
            Box::pin(async move {
                let mut pieces = daemon.send_partition(node, wanted).await?;
                let (hand, taken) = mpsc::channel(PIECES_AHEAD);
                tokio::task::spawn_local(async move {
                    while let Some(piece) = pieces.next().await {
                        let parted = network.wires().parted.contains(&pair);
                        if parted || hand.send(piece).await.is_err() {
                            return;
                        }
                    }
                });
                Ok(ReceiverStream::new(taken).boxed())
            })
        };
        self.call(asks("send_partition"), work).await
    }

    async fn digest(&self, asked: DigestAsked) -> Result<Digest, Error> {
        let work = |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.digest(asked).await })
        };
        self.call(asks("digest"), work).await
    }

    async fn verify(&self, name: TableName, rows_per_s: u64) -> Result<VerdictStream, Error> {
        let work = move |daemon: Arc<dyn Daemon>| -> BoxFuture<'static, _> {
            Box::pin(async move { daemon.verify(name, rows_per_s).await })
        };
        self.call(asks("verify"), work).await
    }
}
