//! The blows, one by one; each is undone when it returns.

use super::DISK_MEBIBYTES;
use super::nemesis::Nemesis;
use super::support::cluster::{Cluster, LEASE_TTL_MS};
use super::support::link::Weather;
use super::support::readers::way_to;
use converthouse::model::control::ClusterStatus;
use converthouse::model::observed::Stall;
use std::fmt;
use std::time::Duration;
use tokio::time::sleep;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Blow {
    DaemonKilled,
    LeaderKilled,
    ServerKilled,
    EtcdMemberKilled,
    BrokerKilled,
    DaemonStopped,
    SilentNetwork,
    CutNetwork,
    CablePulled,
    EverythingRestarted,
    DiskFilled,
    /// Nothing: the operation runs to its end.
    Nothing,
}

pub const BLOWS: [Blow; 12] = [
    Blow::DaemonKilled,
    Blow::LeaderKilled,
    Blow::ServerKilled,
    Blow::EtcdMemberKilled,
    Blow::BrokerKilled,
    Blow::DaemonStopped,
    Blow::SilentNetwork,
    Blow::CutNetwork,
    Blow::CablePulled,
    Blow::EverythingRestarted,
    Blow::DiskFilled,
    Blow::Nothing,
];

impl fmt::Display for Blow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DaemonKilled => "daemon killed",
            Self::LeaderKilled => "daemon that leads killed",
            Self::ServerKilled => "ClickHouse killed",
            Self::EtcdMemberKilled => "etcd member killed",
            Self::BrokerKilled => "Kafka killed",
            Self::DaemonStopped => "daemon stopped past its lease (SIGSTOP)",
            Self::SilentNetwork => "daemon cut off, nobody is told",
            Self::CutNetwork => "node cut off, connections reset",
            Self::CablePulled => "node cut off (network namespace), nobody is told",
            Self::EverythingRestarted => "everything killed and started again",
            Self::DiskFilled => "disk filled",
            Self::Nothing => "no blow",
        })
    }
}

impl Nemesis<'_> {
    /// Lets it fall and undoes it; says more of it, if there is more to say.
    pub(super) async fn fall(&mut self, cluster: &mut Cluster, blow: Blow) -> &'static str {
        match blow {
            Blow::DaemonKilled => self.kill_daemon(cluster, false).await,
            Blow::LeaderKilled => self.kill_daemon(cluster, true).await,
            Blow::ServerKilled => self.kill_clickhouse(cluster).await,
            Blow::EtcdMemberKilled => self.kill_etcd(cluster).await,
            Blow::BrokerKilled => kill_broker(cluster).await,
            Blow::DaemonStopped => self.stop_daemon(cluster).await,
            Blow::SilentNetwork => self.cut_off(cluster, Weather::Silent).await,
            Blow::CutNetwork => self.cut_off(cluster, Weather::Cut).await,
            Blow::CablePulled => self.pull_cable(cluster).await,
            Blow::EverythingRestarted => self.restart_everything(cluster).await,
            Blow::DiskFilled => return self.fill_disk(cluster).await,
            Blow::Nothing => {}
        }
        ""
    }

    async fn kill_daemon(&mut self, cluster: &mut Cluster, leader: bool) {
        let victim = if leader { cluster.leader() } else { self.below(cluster.nodes.len()) };
        let id = cluster.nodes[victim].id.clone();
        self.down.daemons.begin(&id);
        cluster.nodes[victim].kill_daemon();
        sleep(Duration::from_millis(2 * LEASE_TTL_MS)).await;
        cluster.nodes[victim].start_daemon();
        self.down.daemons.end(&id);
    }

    async fn kill_clickhouse(&mut self, cluster: &mut Cluster) {
        let victim = self.below(cluster.nodes.len());
        let id = cluster.nodes[victim].id.clone();
        self.down.servers.begin(&id);
        cluster.nodes[victim].server.kill().unwrap();
        sleep(Duration::from_secs(3)).await;
        cluster.nodes[victim].server.start().await.unwrap();
        self.down.servers.end(&id);
    }

    async fn kill_etcd(&mut self, cluster: &mut Cluster) {
        let member = self.below(3);
        cluster.kill_etcd(member);
        sleep(Duration::from_secs(3)).await;
        cluster.start_etcd(member);
        // Two at a time are too few.
        sleep(Duration::from_secs(5)).await;
    }

    async fn stop_daemon(&mut self, cluster: &mut Cluster) {
        let victim = self.below(cluster.nodes.len());
        let id = cluster.nodes[victim].id.clone();
        self.down.daemons.begin(&id);
        cluster.nodes[victim].pause_daemon();
        sleep(Duration::from_millis(3 * LEASE_TTL_MS)).await;
        cluster.nodes[victim].resume_daemon();
        self.down.daemons.end(&id);
    }

    /// All at once: daemons, servers, the store, the queue.
    async fn restart_everything(&mut self, cluster: &mut Cluster) {
        // From the first to the last: in between, one that still runs finds all replicas of a shard dead.
        cluster.nodes.iter().for_each(|node| self.down.servers.begin(&node.id));
        cluster.kill_everything();
        cluster.start_daemons();
        cluster.start_store();
        cluster.start_queue().await;
        cluster.start_servers().await;
        // Those that are up already ask those that are not.
        cluster.nodes.iter().for_each(|node| self.down.servers.end(&node.id));
    }

    /// The first node's disk is full until that is told, or for a while; then there is room again.
    async fn fill_disk(&mut self, cluster: &Cluster) -> &'static str {
        let Some(disk) = self.disk else { return " NOT: no small file system can be mounted here" };
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
        if told { " and told" } else { " for 20 s, nothing refused" }
    }

    /// The second node, daemon and server, is alone: nothing comes, nothing goes, and whoever is connected to it waits.
    async fn pull_cable(&mut self, cluster: &mut Cluster) {
        let Some(namespace) = &cluster.namespace else { return };
        let id = cluster.nodes[1].id.clone();
        cluster.nodes[1].mute = true;
        self.down.daemons.begin(&id);
        self.down.servers.begin(&id);
        self.down.servers.begin(&way_to(&id));
        namespace.pull();
        sleep(Duration::from_millis(4 * LEASE_TTL_MS)).await;
        namespace.plug();
        self.down.servers.end(&way_to(&id));
        self.down.servers.end(&id);
        self.down.daemons.end(&id);
        cluster.nodes[1].mute = false;
    }

    /// The first node, whose network goes over links: its daemon reaches nothing and nobody reaches it. Where
    /// connections are reset, the other servers do not reach its server either; where nobody is told that would make
    /// queries wait, since a link that is dumb takes connections, as a network that is gone does not.
    async fn cut_off(&mut self, cluster: &mut Cluster, weather: Weather) {
        let id = cluster.nodes[0].id.clone();
        cluster.nodes[0].mute = true;
        self.down.daemons.begin(&id);
        let links = cluster.links.as_ref().unwrap();
        links.set(weather);
        if weather == Weather::Cut {
            self.down.servers.cut(&id);
            links.set_native(weather);
        }
        sleep(Duration::from_millis(4 * LEASE_TTL_MS)).await;
        links.set(Weather::Fair);
        links.set_native(Weather::Fair);
        self.down.daemons.end(&id);
        cluster.nodes[0].mute = false;
    }
}

async fn kill_broker(cluster: &mut Cluster) {
    cluster.kafka.brokers.kill(0).unwrap();
    sleep(Duration::from_secs(1)).await;
    cluster.kafka.brokers.restart(0).await.unwrap();
}

/// Whether a replica says that its server refuses rows for want of room.
fn full_disk_told(status: &ClusterStatus) -> bool {
    let replicas = status.tables.iter().flat_map(|table| &table.shards).flat_map(|shard| &shard.replicas);
    let mut stalls = replicas.flat_map(|replica| replica.stalls.values());
    stalls.any(|stall| matches!(stall, Stall::ServerRefuses { .. }))
        || status.problems.iter().any(|problem| problem.contains("space"))
}
