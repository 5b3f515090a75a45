//! What befalls the cluster, drawn from a seed: an operation is begun, and while it runs a blow falls; one blow at a
//! time, each undone before the next, so that no shard loses all its replicas at once and a query has nothing to
//! fail for.
//!
//! Blows are dealt from a shuffled deck, so none comes twice before each came once.

use super::blows::{BLOWS, Blow};
use super::support::cluster::Cluster;
use super::support::disk::SmallDisk;
use super::support::readers::Readers;
use super::watcher::Down;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long an operation that was asked for may take to begin: a joined or drained node waits for the balancer.
const BEGINS_WITHIN: Duration = Duration::from_secs(8);
/// After a blow all must be well again within this.
const WHOLE_WITHIN: Duration = Duration::from_secs(240);
/// A blow falls so long after the operation has begun, at most.
const INTO_MS: usize = 900;

pub struct Nemesis<'a> {
    dice: Xoshiro256PlusPlus,
    pub(super) down: Down,
    pub(super) cluster_name: String,
    /// The first node's, where one can be had.
    pub(super) disk: Option<&'a SmallDisk>,
    pub done: BTreeMap<String, u64>,
    /// Blows, and those that fell while an operation was open.
    pub blows: u64,
    pub hits: u64,
    /// Blows that did not come up.
    pub left: BTreeSet<Blow>,
}

impl<'a> Nemesis<'a> {
    pub fn new(seed: u64, down: Down, cluster_name: String, disk: Option<&'a SmallDisk>) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        let left = BLOWS.into_iter().collect();
        Self { dice, down, cluster_name, disk, done: BTreeMap::new(), blows: 0, hits: 0, left }
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.dice.random_range(0..limit)
    }

    pub(super) fn count(&mut self, what: impl Into<String>) {
        *self.done.entry(what.into()).or_default() += 1;
    }

    fn deal(&mut self) -> Vec<Blow> {
        let mut deck = BLOWS.to_vec();
        for last in (1..deck.len()).rev() {
            deck.swap(last, self.below(last + 1));
        }
        deck
    }

    /// One thing after the other until the time is over. The sentence comes first: all shards split, a node joins.
    pub async fn rage(&mut self, cluster: &mut Cluster, readers: &Readers, time: Duration) {
        let until = Instant::now() + time;
        self.split(cluster);
        self.recover(cluster, Duration::ZERO).await;
        self.join(cluster, readers).await;
        let mut deck = Vec::new();
        while Instant::now() < until {
            let blow = deck.pop().unwrap_or_else(|| {
                deck = self.deal();
                deck.pop().unwrap()
            });
            if !self.impossible(cluster).contains(&blow) {
                self.strike(cluster, readers, blow).await;
            }
        }
    }

    /// Blows for which this machine has not what they need.
    pub fn impossible(&self, cluster: &Cluster) -> BTreeSet<Blow> {
        let disk = self.disk.is_none().then_some(Blow::DiskFilled);
        let namespace = cluster.namespace.is_none().then_some(Blow::CablePulled);
        disk.into_iter().chain(namespace).collect()
    }

    async fn strike(&mut self, cluster: &mut Cluster, readers: &Readers, blow: Blow) {
        let drained = self.begin(cluster, readers).await;
        let began = Instant::now();
        while open(cluster).is_empty() && began.elapsed() < BEGINS_WITHIN {
            sleep(Duration::from_millis(100)).await;
        }
        sleep(Duration::from_millis(self.below(INTO_MS) as u64)).await;
        let struck = open(cluster);
        self.blows += 1;
        self.hits += u64::from(!struck.is_empty());
        let during = match struck.iter().map(String::as_str).collect::<Vec<_>>().join(", ") {
            kinds if kinds.is_empty() => "nothing under way".to_owned(),
            kinds => format!("during {kinds}"),
        };
        println!("{blow}, {during}");
        self.left.remove(&blow);
        let how = self.fall(cluster, blow).await;
        self.count(format!("{blow}{how}, {during}"));
        self.recover(cluster, Duration::from_millis(500)).await;
        if let Some(id) = drained {
            self.ask(cluster, "node used again", &["node", "activate", &id]);
        }
    }

    /// Nothing is broken any more: waits until everything stands and no operation is open.
    pub async fn heal(&mut self, cluster: &mut Cluster) {
        for node in 0..cluster.nodes.len() {
            let id = cluster.nodes[node].id.clone();
            cluster.cli(&["node", "activate", &id]).ok();
        }
        self.recover(cluster, Duration::from_secs(1)).await;
    }

    /// Waits until every shard has its replicas, so that the next blow does not hit the last one.
    async fn recover(&mut self, cluster: &Cluster, pause: Duration) {
        sleep(pause).await;
        let began = Instant::now();
        loop {
            let whole = cluster.status().is_ok_and(|status| {
                status.leader.is_some()
                    && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
                    && status.tables.iter().all(|table| table.complete)
            });
            if whole && open(cluster).is_empty() {
                return;
            }
            if began.elapsed() > WHOLE_WITHIN {
                let (status, operations) = (cluster.status(), operations(cluster));
                let queries = running_queries(cluster).await;
                panic!("not whole again: {status:#?}\n{operations:#?}\n{}\n{queries}", logs(cluster));
            }
            sleep(Duration::from_millis(300)).await;
        }
    }
}

/// Kinds of the operations that are open.
fn open(cluster: &Cluster) -> BTreeSet<String> {
    let listed = operations(cluster);
    let open =
        listed.iter().filter(|operation| ["running", "cancelling"].contains(&text(&operation["state"])));
    open.map(|operation| text(&operation["kind"]["kind"]).to_owned()).collect()
}

/// How many operations ended how, as far as they are kept.
pub fn ended(cluster: &Cluster) -> BTreeMap<String, u64> {
    let mut ended = BTreeMap::new();
    for operation in operations(cluster) {
        let name = format!("{} {}", text(&operation["kind"]["kind"]), text(&operation["state"]));
        *ended.entry(name).or_default() += 1;
    }
    ended
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn operations(cluster: &Cluster) -> Vec<serde_json::Value> {
    let said = cluster.cli(&["op", "list", "--json"]).unwrap_or_default();
    serde_json::from_str(&said).unwrap_or_default()
}

/// What each server is at: a query that never ends holds back whatever it may read.
async fn running_queries(cluster: &Cluster) -> String {
    let mut all = String::new();
    for node in &cluster.nodes {
        let asked =
            node.query("SELECT elapsed, is_initial_query, query_id, query FROM system.processes").await;
        all += &format!("{}:\n{}\n", node.id, asked.unwrap_or_else(|error| error));
    }
    all
}

fn logs(cluster: &Cluster) -> String {
    let tails = cluster.nodes.iter().map(|node| node.log_tail());
    tails.chain([cluster.kafka.brokers.log_tail(0, 60)]).collect::<Vec<_>>().join("\n")
}
