//! What befalls the cluster, drawn from a seed: one thing at a time, each undone before the next, so that no shard
//! loses all its replicas at once and a query has nothing to fail for.

use super::DISK_MEBIBYTES;
use super::support::cluster::{Cluster, LEASE_TTL_MS};
use super::support::disk::SmallDisk;
use super::support::link::Weather;
use super::support::readers::{Outages, Readers};
use converthouse::model::control::ClusterStatus;
use converthouse::model::observed::Stall;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::time::sleep;

const NODES_MAX: usize = 6;
const SHARDS_MAX: usize = 8;

pub struct Nemesis<'a> {
    dice: Xoshiro256PlusPlus,
    outages: Outages,
    cluster_name: String,
    /// The first node's, where one can be had.
    disk: Option<&'a SmallDisk>,
    pub done: BTreeMap<String, u64>,
}

impl<'a> Nemesis<'a> {
    pub fn new(seed: u64, outages: Outages, cluster_name: String, disk: Option<&'a SmallDisk>) -> Self {
        let dice = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self { dice, outages, cluster_name, disk, done: BTreeMap::new() }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.dice.random_range(0..limit)
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.done.entry(what.into()).or_default() += 1;
    }

    /// One thing after the other until the time is over. The sentence comes first: all shards split, a node joins.
    pub async fn rage(&mut self, cluster: &mut Cluster, readers: &Readers, time: Duration) {
        let until = Instant::now() + time;
        self.split(cluster);
        self.join(cluster, readers).await;
        while Instant::now() < until {
            match self.below(13) {
                0 => self.kill_daemon(cluster, false).await,
                1 => self.kill_daemon(cluster, true).await,
                2 => self.kill_clickhouse(cluster).await,
                3 => self.kill_etcd(cluster).await,
                4 => self.kill_broker(cluster).await,
                5 => self.stop_daemon(cluster).await,
                6 => self.cut_off(cluster, Weather::Silent).await,
                7 => self.cut_off(cluster, Weather::Cut).await,
                8 => self.drain(cluster),
                9 => self.move_one(cluster),
                10 => self.restart_everything(cluster).await,
                11 => self.fill_disk(cluster).await,
                _ if self.below(2) == 0 => self.join(cluster, readers).await,
                _ => self.split(cluster),
            }
            self.recover(cluster, Duration::from_millis(500)).await;
        }
    }

    /// Nothing is broken any more: waits until everything stands and no operation is open.
    pub async fn heal(&mut self, cluster: &mut Cluster) {
        for node in 0..cluster.nodes.len() {
            let id = cluster.nodes[node].id.clone();
            cluster.cli(&["node", "activate", &id]).ok();
        }
        self.recover(cluster, Duration::from_secs(1)).await;
        for state in ["done", "failed", "cancelled"] {
            let ended = operations(cluster).iter().filter(|operation| operation["state"] == state).count();
            if ended > 0 {
                self.done.insert(format!("operations {state}, as far as they are kept"), ended as u64);
            }
        }
    }

    /// Waits until every shard has its replicas, so that the next blow does not hit the last one.
    async fn recover(&mut self, cluster: &Cluster, pause: Duration) {
        sleep(pause).await;
        let mut waited = Duration::ZERO;
        loop {
            let whole = cluster.status().is_ok_and(|status| {
                status.leader.is_some()
                    && status.nodes.iter().all(|node| node.live && node.clickhouse_up == Some(true))
                    && status.tables.iter().all(|table| table.complete)
            });
            if whole && operations(cluster).iter().all(|operation| operation["state"] != "running") {
                return;
            }
            assert!(
                waited < Duration::from_secs(240),
                "not whole again: {:#?}\n{:#?}\n{}",
                cluster.status(),
                operations(cluster),
                logs(cluster)
            );
            sleep(Duration::from_millis(300)).await;
            waited += Duration::from_millis(300);
        }
    }

    async fn kill_daemon(&mut self, cluster: &mut Cluster, leader: bool) {
        let victim = if leader { cluster.leader() } else { self.below(cluster.nodes.len()) };
        self.count(if leader { "daemon that leads killed" } else { "daemon killed" });
        cluster.nodes[victim].kill_daemon();
        sleep(Duration::from_millis(2 * LEASE_TTL_MS)).await;
        cluster.nodes[victim].start_daemon();
    }

    async fn kill_clickhouse(&mut self, cluster: &mut Cluster) {
        let victim = self.below(cluster.nodes.len());
        self.count("ClickHouse killed");
        let id = cluster.nodes[victim].id.clone();
        self.outages.begin(&id);
        cluster.nodes[victim].server.kill().unwrap();
        sleep(Duration::from_secs(3)).await;
        cluster.nodes[victim].server.start().await.unwrap();
        self.outages.end(&id);
    }

    async fn kill_etcd(&mut self, cluster: &mut Cluster) {
        let member = self.below(3);
        self.count("etcd member killed");
        cluster.kill_etcd(member);
        sleep(Duration::from_secs(3)).await;
        cluster.start_etcd(member);
        // Two at a time are too few.
        sleep(Duration::from_secs(5)).await;
    }

    async fn kill_broker(&mut self, cluster: &mut Cluster) {
        self.count("Kafka killed");
        cluster.kafka.brokers.kill(0).unwrap();
        sleep(Duration::from_secs(1)).await;
        cluster.kafka.brokers.restart(0).await.unwrap();
    }

    async fn stop_daemon(&mut self, cluster: &mut Cluster) {
        let victim = self.below(cluster.nodes.len());
        self.count("daemon stopped past its lease (SIGSTOP)");
        cluster.nodes[victim].pause_daemon();
        sleep(Duration::from_millis(3 * LEASE_TTL_MS)).await;
        cluster.nodes[victim].resume_daemon();
    }

    /// All at once: daemons, servers, the store, the queue.
    async fn restart_everything(&mut self, cluster: &mut Cluster) {
        self.count("everything killed and started again");
        // From the first to the last: in between, one that still runs finds all replicas of a shard dead.
        cluster.nodes.iter().for_each(|node| self.outages.begin(&node.id));
        cluster.kill_everything();
        cluster.start_daemons();
        cluster.start_store();
        cluster.start_queue().await;
        cluster.start_servers().await;
        // Those that are up already ask those that are not.
        cluster.nodes.iter().for_each(|node| self.outages.end(&node.id));
    }

    /// The first node's disk is full until that is told, or for a while; then there is room again.
    async fn fill_disk(&mut self, cluster: &Cluster) {
        let Some(disk) = self.disk else {
            self.count("disk NOT filled: no small file system can be mounted here");
            return;
        };
        disk.fill();
        let mut told = false;
        for _ in 0..40 {
            sleep(Duration::from_millis(500)).await;
            told = cluster.status().is_ok_and(|status| full_disk_told(&status));
            if told {
                break;
            }
        }
        sleep(Duration::from_secs(2)).await;
        disk.grow(DISK_MEBIBYTES);
        self.count(if told { "disk full, and told" } else { "disk full for 20 s, nothing refused" });
    }

    /// Only the first node's daemon reaches everything over links.
    async fn cut_off(&mut self, cluster: &mut Cluster, weather: Weather) {
        self.count(format!("daemon cut off from everything ({weather:?})"));
        let set = |cluster: &Cluster, weather| {
            let links = cluster.links.as_ref().unwrap();
            let all = links.clickhouse.iter().chain(&links.etcd).chain(&links.kafka);
            all.for_each(|link| link.set(weather));
        };
        cluster.nodes[0].mute = true;
        set(cluster, weather);
        sleep(Duration::from_millis(4 * LEASE_TTL_MS)).await;
        set(cluster, Weather::Fair);
        cluster.nodes[0].mute = false;
    }

    /// Asks; what is refused because something else is under way is no fault.
    fn ask(&mut self, cluster: &Cluster, what: &str, arguments: &[&str]) {
        match cluster.cli(arguments) {
            Ok(_) => self.count(what),
            Err(error) => {
                println!("{what}: {}", error.lines().next().unwrap_or_default());
                self.count(format!("{what}: refused or not in time"));
            }
        }
    }

    fn split(&mut self, cluster: &Cluster) {
        let shards = cluster.table("shop.events").map_or(SHARDS_MAX, |table| table.shards.len());
        if shards < SHARDS_MAX {
            self.ask(cluster, "all shards split", &["shard", "split", "shop.events"]);
        }
    }

    fn drain(&mut self, cluster: &Cluster) {
        let id = cluster.nodes[self.below(cluster.nodes.len())].id.clone();
        self.ask(cluster, "node drained", &["node", "drain", &id, "--wait"]);
        self.ask(cluster, "node used again", &["node", "activate", &id]);
    }

    fn move_one(&mut self, cluster: &Cluster) {
        let Ok(table) = cluster.table("shop.events") else { return };
        let shard = &table.shards[self.below(table.shards.len())];
        let holds = |node: &str| shard.replicas.iter().any(|replica| replica.node.as_str() == node);
        let free: Vec<&str> =
            cluster.nodes.iter().map(|node| node.id.as_str()).filter(|node| !holds(node)).collect();
        let from = shard.replicas[self.below(shard.replicas.len())].node.to_string();
        if let Some(to) = free.get(self.below(free.len().max(1))) {
            let id = shard.id.to_string();
            self.ask(cluster, "replica moved", &["shard", "move", "shop.events", &id, &from, to]);
        }
    }

    async fn join(&mut self, cluster: &mut Cluster, readers: &Readers) {
        if cluster.nodes.len() >= NODES_MAX {
            return;
        }
        self.count("node joined");
        cluster.add_node().await;
        let node = cluster.nodes.last().unwrap();
        node.until_routed(&self.cluster_name, "shop", "events").await;
        readers.add(node, &self.cluster_name).await;
    }
}

/// Whether a replica says that its server refuses rows for want of room.
fn full_disk_told(status: &ClusterStatus) -> bool {
    let replicas = status.tables.iter().flat_map(|table| &table.shards).flat_map(|shard| &shard.replicas);
    let mut stalls = replicas.flat_map(|replica| replica.stalls.values());
    stalls.any(|stall| matches!(stall, Stall::ServerRefuses { .. }))
        || status.problems.iter().any(|problem| problem.contains("space"))
}

fn operations(cluster: &Cluster) -> Vec<serde_json::Value> {
    let said = cluster.cli(&["op", "list", "--json"]).unwrap_or_default();
    serde_json::from_str(&said).unwrap_or_default()
}

fn logs(cluster: &Cluster) -> String {
    let tails: Vec<String> = cluster.nodes.iter().map(|node| node.log_tail()).collect();
    tails.join("\n")
}
