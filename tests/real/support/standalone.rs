//! Standalone mode: one daemon with a store of its own that serves several ClickHouse servers; and Kafka.

use super::cluster::{Cluster, INSERT_DEADLINE_MS, LEASE_TTL_MS, Node, start_server};
use super::kafka::TestKafka;
use converthouse::adapters::compute::clickhouse_server::Place;
use converthouse::adapters::compute::process::{Launch, free_port};
use tempfile::TempDir;

impl Cluster {
    /// So many servers, all served by the first node's daemon.
    pub async fn start_standalone(nodes: usize) -> Self {
        Self::start_standalone_on(nodes, TestKafka::start(1, &[]).await, "").await
    }

    /// The same, with those brokers, and more lines about them in the daemon's configuration.
    pub async fn start_standalone_on(nodes: usize, kafka: TestKafka, settings: &str) -> Self {
        let folder = TempDir::with_prefix("converthouse-standalone-").unwrap();
        let (grpc, http) = (free_port().unwrap(), free_port().unwrap());
        let brokers: Vec<_> = kafka.brokers.bootstrap().split(',').map(str::to_owned).collect();
        let mut config = format!(
            "[cluster]\nname = \"test\"\n[daemon]\nnode = \"n1\"\ndata_dir = {:?}\n\
             grpc_listen = \"127.0.0.1:{grpc}\"\nhttp_listen = \"127.0.0.1:{http}\"\n\
             [metadata]\nkind = \"embedded\"\nlease_ttl_ms = {LEASE_TTL_MS}\n[kafka]\nbrokers = {brokers:?}\n{settings}\
             [ingest]\ninsert_deadline_ms = {INSERT_DEADLINE_MS}\n[log]\nlevel = \"info,converthouse=debug\"\n",
            folder.path().join("daemon"),
        );
        let (grpc_url, http_url) = (format!("http://127.0.0.1:{grpc}"), format!("http://127.0.0.1:{http}"));
        let mut started = Vec::new();
        for number in 1..=nodes {
            let id = format!("n{number}");
            let own = folder.path().join(&id);
            let server = start_server(&id, &own, None, Place::default()).await;
            config += &format!(
                "[[node]]\nid = \"{id}\"\nlabels = {{ zone = \"z{number}\" }}\n\
                 clickhouse_url = {:?}\nclickhouse_password = \"pass'word\"\nclickhouse_port = {}\n\
                 routes_file = {:?}\n",
                server.url(),
                server.tcp_port(),
                server.routes_file(),
            );
            let launch = Launch::new(format!("daemon-{id}"), super::cluster::program(), &own)
                .args(["server", "--config"])
                .arg(folder.path().join("n1/converthouse.toml").as_os_str());
            let (grpc_url, http_url) = (grpc_url.clone(), http_url.clone());
            let (daemon, mute, route_port) = (None, false, server.tcp_port());
            started.push(Node { id, server, launch, daemon, grpc_url, http_url, route_port, mute });
        }
        std::fs::write(folder.path().join("n1/converthouse.toml"), config).unwrap();
        started[0].start_daemon();
        let mut cluster = Self::without_nodes(folder, Vec::new(), kafka);
        cluster.nodes = started;
        cluster.until("a leader and all nodes live", |status| {
            status.leader.is_some() && status.nodes.iter().filter(|node| node.live).count() == nodes
        });
        cluster
    }
}
