//! A whole cluster of real parts: three etcd members, Kafka, and on each node a ClickHouse server with its daemon.

use super::etcd::{managed, peer, start_three};
use super::kafka::TestKafka;
use super::link::Link;
use super::links::Links;
use super::namespace::Namespace;
use converthouse::adapters::compute::clickhouse_server::{ClickHouseServer, Options, Place};
use converthouse::adapters::compute::etcd_member::{EtcdMember, Peer};
use converthouse::adapters::compute::process::{Launch, Process, free_port};
use converthouse::adapters::kafka::{Kafka, KafkaClient, Outgoing};
use converthouse::model::control::{ClusterStatus, TableStatus};
use converthouse::model::names::{self, TopicPartition};
use converthouse::model::node::Secret;
use converthouse::model::table::TableName;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait for anything that comes true by itself.
const SETTLES_WITHIN: Duration = Duration::from_secs(90);
/// The lease of the daemons under test.
pub const LEASE_TTL_MS: u64 = 2_000;
/// How long their inserts may take.
pub const INSERT_DEADLINE_MS: u64 = 20_000;

pub struct Node {
    pub id: String,
    pub server: ClickHouseServer,
    pub(super) launch: Launch,
    pub(super) daemon: Option<Process>,
    pub grpc_url: String,
    pub http_url: String,
    /// Where routes say that its server's native protocol is.
    pub route_port: u16,
    /// It cannot answer for the cluster at the moment: paused, or cut off.
    pub mute: bool,
}

pub struct Cluster {
    pub nodes: Vec<Node>,
    pub links: Option<Links>,
    /// The members that daemons run themselves, if `etcd` is empty.
    pub(super) members: Vec<Peer>,
    pub etcd: Vec<(EtcdMember, Option<Process>)>,
    pub kafka: TestKafka,
    pub client: KafkaClient,
    /// The second node's network, if it has one of its own.
    pub namespace: Option<Namespace>,
    // Dropped last.
    pub folder: TempDir,
}

/// The program under test: `CONVERTHOUSE_BINARY` if that is set, such as an optimised one, else the one built with the
/// tests.
pub fn program() -> std::ffi::OsString {
    std::env::var_os("CONVERTHOUSE_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_converthouse").into())
}

/// The table that most faults are tried on: its rows' ids are 0, 1, 2, …, in two months.
pub const DDL: &str = "CREATE TABLE shop.events (id UInt64, user UInt64, at DateTime, note String) \
                       ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (user, at)";
pub const PARTITIONS: u64 = 8;

fn new_folder() -> TempDir {
    TempDir::with_prefix("converthouse-cluster-").unwrap()
}

impl Cluster {
    /// Starts everything, with so many brokers, and waits until a daemon leads.
    pub async fn start(nodes: usize, brokers: usize) -> Self {
        Self::start_with(nodes, brokers, None).await
    }

    /// The same, with the first node's data elsewhere.
    pub async fn start_with(nodes: usize, brokers: usize, data: Option<PathBuf>) -> Self {
        let folder = new_folder();
        let etcd = start_three(folder.path());
        let mut cluster = Self::without_nodes(folder, etcd, TestKafka::start(brokers, &[]).await);
        cluster.start_nodes(nodes, data).await;
        cluster
    }

    /// The same, with a metadata store that the daemons form themselves.
    pub async fn start_managed(nodes: usize) -> Self {
        let mut cluster = Self::without_nodes(new_folder(), Vec::new(), TestKafka::start(1, &[]).await);
        cluster.members = (1..=nodes).map(|number| peer(format!("n{number}"))).collect();
        cluster.start_nodes(nodes, None).await;
        cluster
    }

    /// The same, with one broker, and all that the first node's daemon says and hears going over links; that node's
    /// data elsewhere; and the second node in a network of its own, if that is given.
    pub async fn start_linked(nodes: usize, data: Option<PathBuf>, namespace: Option<Namespace>) -> Self {
        let folder = new_folder();
        let etcd = start_three(folder.path());
        let (links, kafka) = Links::to_store_and_queue(&etcd[0].0.peers).await;
        let mut cluster = Self::without_nodes(folder, etcd, kafka);
        (cluster.links, cluster.namespace) = (Some(links), namespace);
        cluster.start_nodes(nodes, data).await;
        cluster
    }

    pub(super) fn without_nodes(
        folder: TempDir,
        etcd: Vec<(EtcdMember, Option<Process>)>,
        kafka: TestKafka,
    ) -> Self {
        let (client, nodes, members) = (kafka.client(), Vec::new(), Vec::new());
        Self { nodes, links: None, members, etcd, kafka, client, namespace: None, folder }
    }

    async fn start_nodes(&mut self, nodes: usize, data: Option<PathBuf>) {
        for number in 0..nodes {
            let node = self.node(number, data.clone().filter(|_| number == 0)).await;
            self.nodes.push(node);
        }
        self.until("a leader and all nodes live", |status| {
            status.leader.is_some() && status.nodes.iter().filter(|n| n.live).count() == nodes
        });
    }

    /// What node `number`'s daemon is to reach etcd, Kafka and its ClickHouse by; the first as configuration.
    async fn addresses(&mut self, number: usize, server: &ClickHouseServer) -> (String, Vec<String>, String) {
        let running = |urls: Vec<String>| format!("kind = \"etcd\"\nendpoints = {urls:?}\n");
        match self.links.as_mut().filter(|_| number == 0) {
            Some(links) => {
                links.clickhouse.push(Link::to(server.http_port()).await);
                let url = |link: &Link| format!("http://127.0.0.1:{}", link.port());
                let broker = |link: &Link| format!("127.0.0.1:{}", link.port());
                let etcd = running(links.etcd.iter().map(url).collect());
                (etcd, links.kafka.iter().map(broker).collect(), url(&links.clickhouse[0]))
            }
            None => {
                let etcd = match self.etcd.first() {
                    Some((member, _)) => {
                        running(member.peers.iter().map(|peer| peer.client_url.clone()).collect())
                    }
                    None => managed(&self.members),
                };
                let brokers = self.kafka.brokers.bootstrap().split(',').map(str::to_owned).collect();
                (etcd, brokers, server.url())
            }
        }
    }

    async fn node(&mut self, number: usize, data: Option<PathBuf>) -> Node {
        let id = format!("n{}", number + 1);
        let folder = self.folder.path().join(&id);
        let place = match (&self.namespace, number) {
            (None, _) => Place::default(),
            (Some(namespace), 1) => namespace.place(),
            (Some(namespace), _) => namespace.outside(),
        };
        let (host, within) = (place.address.clone(), place.command.clone());
        let server = start_server(&id, &folder, data, place).await;
        let (grpc, http) = (free_port().unwrap(), free_port().unwrap());
        let (store, brokers, clickhouse_url) = self.addresses(number, &server).await;
        let (door, native) = match self.links.as_mut().filter(|_| number == 0) {
            Some(links) => links.doors(grpc, server.tcp_port()).await,
            None => (grpc, server.tcp_port()),
        };
        let config = format!(
            "[cluster]\nname = \"test\"\n[daemon]\nnode = \"{id}\"\ndata_dir = {:?}\n\
             grpc_listen = \"{host}:{grpc}\"\n\
             grpc_advertise = \"http://{host}:{door}\"\nhttp_listen = \"{host}:{http}\"\n[metadata]\n{store}\
             lease_ttl_ms = {LEASE_TTL_MS}\n[kafka]\nbrokers = {brokers:?}\n\
             [ingest]\ninsert_deadline_ms = {INSERT_DEADLINE_MS}\n[[node]]\nid = \"{id}\"\n\
             labels = {{ zone = \"z{number}\" }}\nclickhouse_url = {clickhouse_url:?}\nclickhouse_user = \"default\"\n\
             clickhouse_password = \"pass'word\"\nclickhouse_host = \"{host}\"\nclickhouse_port = {native}\n\
             routes_file = {:?}\n[log]\nlevel = \"info,converthouse=debug\"\n",
            folder.join("daemon"),
            server.routes_file(),
        );
        let file = folder.join("converthouse.toml");
        std::fs::write(&file, config).unwrap();
        let launch = Launch::new(format!("daemon-{id}"), program(), &folder)
            .args(["server", "--config"])
            .arg(file.as_os_str())
            .within(&within);
        let (grpc_url, http_url) = (format!("http://{host}:{grpc}"), format!("http://{host}:{http}"));
        let (daemon, mute, route_port) = (None, false, native);
        let mut node = Node { id, server, launch, daemon, grpc_url, http_url, route_port, mute };
        node.start_daemon();
        node
    }

    /// A further node, with a server and a daemon of its own.
    pub async fn add_node(&mut self) {
        let node = self.node(self.nodes.len(), None).await;
        self.nodes.push(node);
    }

    /// Runs the command line against a daemon that is alive.
    pub fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let answers = |node: &&Node| node.daemon.is_some() && !node.mute;
        let node = self.nodes.iter().find(answers).expect("a daemon lives");
        node.cli(arguments)
    }

    pub fn status(&self) -> Result<ClusterStatus, String> {
        let text = self.cli(&["status", "--json"])?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    pub fn table(&self, name: &str) -> Result<TableStatus, String> {
        let text = self.cli(&["table", "show", name, "--json"])?;
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
    }

    /// Waits until the cluster's status is as wanted.
    pub fn until(&self, what: &str, wanted: impl Fn(&ClusterStatus) -> bool) {
        let began = Instant::now();
        loop {
            let status = self.status();
            // A daemon that has just been started knows of no table; one that cannot read the store says why, by code.
            let says = |status: &ClusterStatus, what| status.problems.iter().any(|told| told.contains(what));
            let knows = |status: &&ClusterStatus| !says(status, "not been read yet") || says(status, "CVH-");
            if status.as_ref().ok().filter(knows).is_some_and(&wanted) {
                return;
            }
            let logs = || self.nodes.iter().map(Node::log_tail).collect::<Vec<_>>().join("\n");
            assert!(began.elapsed() < SETTLES_WITHIN, "waited for {what}: {status:#?}\n{}", logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Makes the usual table of `shards` x 2 replicas and waits until it is complete.
    pub fn create_events(&self, shards: u32) {
        let (partitions, shards) = (PARTITIONS.to_string(), shards.to_string());
        let made = self.cli(&[
            "table",
            "create",
            DDL,
            "--partitions",
            &partitions,
            "--shards",
            &shards,
            "--replicas",
            "2",
            "--partition-by",
            "user",
        ]);
        made.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Number of the node whose daemon leads.
    pub fn leader(&self) -> usize {
        // Of one look: by the next one that leader may be gone.
        let seen = std::cell::RefCell::new(None);
        self.until("a leader", |status| {
            seen.replace(status.leader.clone());
            status.leader.is_some()
        });
        let leader = seen.into_inner().unwrap();
        self.nodes.iter().position(|node| node.id == leader.as_str()).unwrap()
    }

    pub fn kill_etcd(&mut self, number: usize) {
        self.etcd[number].1.take().unwrap().kill().unwrap();
    }

    pub fn start_etcd(&mut self, number: usize) {
        let (member, process) = &mut self.etcd[number];
        *process = Some(member.start().unwrap());
    }

    /// Waits until every replica has taken everything, then proves that each holds each row once, and its peers the
    /// same ones; and that a query on every node counts each row once.
    pub async fn prove_events(&self, rows: u64, dead_letters: u64) {
        self.prove("shop.events", rows, dead_letters).await;
        for node in &self.nodes {
            let shown = node.query("SELECT count(), uniqExact(id), max(id) FROM shop.events").await.unwrap();
            assert_eq!(shown, format!("{rows}\t{rows}\t{}", rows - 1), "on {}", node.id);
        }
    }

    /// The same for any table, without the last.
    pub async fn prove(&self, name: &str, rows: u64, dead_letters: u64) {
        let settled = |status: &ClusterStatus| {
            let table =
                status.tables.iter().find(|table| format!("{}.{}", table.database, table.table) == name);
            table.is_some_and(|table| {
                let replicas = || table.shards.iter().flat_map(|shard| &shard.replicas);
                table.complete
                    && replicas().all(|replica| replica.lag == Some(0) && replica.stalls.is_empty())
            })
        };
        self.until("all replicas to have taken everything", settled);
        // A lag of 0 is as old as the last look at the topics: what was sent since may still be on its way.
        let began = Instant::now();
        loop {
            match self.holds_each_row_once(name, rows, dead_letters).await {
                Ok(()) => return,
                Err(problem) => assert!(began.elapsed() < Duration::from_secs(20), "{problem}"),
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
    }

    async fn holds_each_row_once(&self, name: &str, rows: u64, dead_letters: u64) -> Result<(), String> {
        let table = self.table(name)?;
        let mut total = 0;
        let name = TableName { database: table.database.clone(), table: table.table.clone() };
        for shard in &table.shards {
            let database = names::replica_database(&name, table.id, shard.id);
            let mut peers = Vec::new();
            for replica in &shard.replicas {
                let node = self.nodes.iter().find(|node| node.id == replica.node.as_str()).unwrap();
                peers.push((node.id.clone(), node.rows_of(&database).await?));
            }
            if peers.iter().any(|peer| peer.1 != peers[0].1) {
                return Err(format!("replicas of {} differ: {peers:?}", shard.id));
            }
            for partition in &peers[0].1 {
                let [number, count, unique, min, max, _] = partition[..] else { panic!("{partition:?}") };
                if count != unique {
                    return Err(format!("partition {number}: a row stands twice: {partition:?}"));
                }
                if dead_letters == 0 && (min, max) != (0, count - 1) {
                    return Err(format!("partition {number}: an offset is missing: {partition:?}"));
                }
                total += count;
            }
        }
        if total == rows { Ok(()) } else { Err(format!("{total} rows over all shards, {rows} were sent")) }
    }

    /// Sends ids `range` to their topics, as a producer of one's own would; each is acknowledged.
    pub async fn produce(&self, range: std::ops::Range<u64>) {
        let ids: Vec<u64> = range.collect();
        for some in ids.chunks(5_000) {
            self.client.produce(some.iter().map(|id| event(*id)).collect()).await.unwrap();
        }
    }
}

/// A node's ClickHouse server.
pub(super) async fn start_server(
    id: &str,
    folder: &Path,
    data: Option<PathBuf>,
    place: Place,
) -> ClickHouseServer {
    let (name, folder) = (format!("clickhouse-{id}"), folder.to_owned());
    let options = Options { name, folder, data, password: Secret::new("pass'word"), place };
    let mut server = ClickHouseServer::prepare(options).unwrap();
    server.start().await.unwrap_or_else(|error| panic!("{error}"));
    server
}

/// A row of `shop.events`; consecutive ones lie in two months, so that a batch spans two time partitions.
pub fn event(id: u64) -> Outgoing {
    let user = id.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let month = 1 + id % 2;
    let text = format!(
        "{{\"id\":{id},\"user\":{user},\"at\":\"2026-0{month}-05 00:00:00\",\"note\":\"some text of row {id}\"}}"
    );
    let topic = format!("shop.events.{}", user % PARTITIONS);
    Outgoing {
        target: TopicPartition { topic, partition: 0 },
        payload: Some(text.into()),
        headers: Vec::new(),
    }
}

impl Node {
    /// Changes the daemon's configuration file; it is read with the next start.
    pub fn reconfigure(&self, from: &str, to: &str) {
        let file = self.server.folder().join("converthouse.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&file, text.replace(from, to)).unwrap();
    }

    pub fn start_daemon(&mut self) {
        self.daemon = Some(self.launch.start().unwrap());
    }

    pub fn kill_daemon(&mut self) {
        self.daemon.take().unwrap().kill().unwrap();
    }

    /// Asks the daemon to end (SIGTERM); how it ended.
    pub fn stop_daemon(&mut self) -> std::process::ExitStatus {
        self.daemon.take().unwrap().stop(Duration::from_secs(30)).unwrap()
    }

    /// Holds the daemon in its tracks (SIGSTOP): its connections stay open, it knows of nothing.
    pub fn pause_daemon(&mut self) {
        self.mute = true;
        self.daemon.as_ref().unwrap().pause();
    }

    /// Lets it go on.
    pub fn resume_daemon(&mut self) {
        self.mute = false;
        self.daemon.as_ref().unwrap().resume();
    }

    #[allow(dead_code)] // for the benchmarks, which share this file
    pub fn daemon_pid(&self) -> u32 {
        self.daemon.as_ref().unwrap().pid()
    }

    /// How often the daemon's log has said so.
    pub fn said(&self, what: &str) -> usize {
        let log = std::fs::read_to_string(self.daemon.as_ref().unwrap().log()).unwrap();
        log.matches(what).count()
    }

    /// Its `/metrics`.
    pub fn metrics(&self) -> String {
        self.get("/metrics")
    }

    /// What its HTTP port answers.
    pub fn get(&self, path: &str) -> String {
        let mut stream =
            std::net::TcpStream::connect(self.http_url.strip_prefix("http://").unwrap()).unwrap();
        let request = format!("GET {path} HTTP/1.0\r\nHost: x\r\n\r\n");
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let text = std::io::read_to_string(stream).unwrap();
        text.split_once("\r\n\r\n").expect("head and body").1.to_owned()
    }

    /// One of them, summed over its labels; 0 if it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.metrics();
        let of = |line: &&str| line.split(['{', ' ']).next() == Some(name);
        text.lines().filter(of).filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    pub fn log_tail(&self) -> String {
        self.daemon.as_ref().map_or_else(String::new, |daemon| daemon.log_tail(40))
    }

    /// Runs the command line against this daemon.
    pub fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let output = std::process::Command::new(program())
            .args(["--server", &self.grpc_url])
            .args(arguments)
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// A client of its server.
    pub fn client(&self) -> clickhouse::Client {
        clickhouse::Client::default()
            .with_url(self.server.url())
            .with_user("default")
            .with_password("pass'word")
            .with_compression(clickhouse::Compression::None)
            .with_validation(false)
    }

    /// Asks the server as any client would.
    pub async fn query(&self, sql: &str) -> Result<String, String> {
        let client = self.client();
        let answer = async { client.query_raw(sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
        match answer.await {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until queries of a table can begin here: its routes are loaded, and the table that users see is there.
    pub async fn until_routed(&self, cluster: &str, database: &str, table: &str) {
        let sql = format!(
            "SELECT (SELECT count() FROM system.clusters WHERE cluster = '{cluster}') > 0 AND \
             (SELECT count() FROM system.tables WHERE database = '{database}' AND name = '{table}') > 0"
        );
        let began = Instant::now();
        while !self.query(&sql).await.is_ok_and(|shown| shown == "1") {
            assert!(began.elapsed() < SETTLES_WITHIN, "{} never got its routes and tables", self.id);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// By partition: number, rows, distinct rows, first and last offset, hash of the content. A replica that is being
    /// moved may have gone since it was listed.
    async fn rows_of(&self, database: &str) -> Result<Vec<Vec<u64>>, String> {
        let quoted = format!("`{}`", database.replace('\\', "\\\\").replace('`', "\\`"));
        let sql = format!(
            "SELECT _cvh_partition, count(), uniqExact(_cvh_offset, _cvh_row), min(_cvh_offset), max(_cvh_offset), \
             sum(cityHash64(*)) FROM {quoted}.local GROUP BY _cvh_partition ORDER BY _cvh_partition"
        );
        let text = self.query(&sql).await.map_err(|error| format!("{}: {sql}: {error}", self.id))?;
        let numbers = |line: &str| line.split('\t').map(|word| word.parse().unwrap()).collect();
        Ok(text.lines().map(numbers).collect())
    }
}
