//! What the demo plays on: servers, broker, daemon, and plain ClickHouse clients for asking.

use super::Options;
use super::topics::Topics;
use crate::adapters::clickhouse;
use crate::adapters::compute::clickhouse_server::{self, ClickHouseServer};
use crate::adapters::compute::process::{Launch, Process, free_port};
use crate::adapters::kafka::embedded::EmbeddedKafka;
use crate::adapters::kafka::{self, Kafka, KafkaClient, NewTopic};
use crate::adapters::peers::grpc::{GrpcPeers, Options as PeerOptions};
use crate::adapters::peers::{Daemon, Peers as _};
use crate::daemon::Error;
use crate::error::Coded;
use crate::model::node::Secret;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Nodes that the demo begins with.
pub const NODES: usize = 3;
/// Longest wait for the daemon's orderly end.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Everything that runs.
pub struct Scene {
    /// The servers, in node order.
    pub servers: Vec<ClickHouseServer>,
    /// The broker.
    pub kafka: Arc<dyn Kafka>,
    /// The daemon's verbs, over gRPC.
    pub daemon: Arc<dyn Daemon>,
    /// Where they are.
    pub grpc_url: String,
    /// What topics begin with.
    pub prefix: String,
    cluster: String,
    process: Process,
    launch: Launch,
    ports: (u16, u16),
    brokers: String,
    /// Where everything is kept.
    pub folder: Folder,
}

/// A folder that goes with its owner.
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    fn make(options: &Options) -> Result<Self, Error> {
        let base = options.folder.clone().unwrap_or_else(std::env::temp_dir);
        let path = base.join(format!("converthouse-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            Error::new(format!("{}: {error}", path.display()), "choose another folder with --folder")
        })?;
        Ok(Self { path, keep: options.keep })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep {
            // What cannot be removed stays in the system's folder for temporary files.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// A node's name.
pub fn node(number: usize) -> String {
    format!("n{}", number + 1)
}

/// Starts servers, broker and daemon.
pub async fn set(options: &Options, topics: &Topics) -> Result<Scene, Error> {
    let folder = Folder::make(options)?;
    let mut servers = Vec::new();
    for number in 0..NODES {
        servers.push(server(folder.path(), number).await?);
    }
    let (kafka, brokers): (Arc<dyn Kafka>, String) = match &options.kafka {
        Some(brokers) => {
            let client = KafkaClient::new(kafka::Options::new(brokers.clone()));
            (Arc::new(client.map_err(|error| Error::of(&error))?), brokers.clone())
        }
        None => {
            let embedded = EmbeddedKafka::start(1).map_err(|error| Error::of(&error))?;
            let brokers = embedded.bootstrap().to_owned();
            (Arc::new(embedded), brokers)
        }
    };
    let (grpc, http) = (free_port(), free_port());
    let (grpc, http) = (grpc.map_err(|error| Error::of(&error))?, http.map_err(|error| Error::of(&error))?);
    let file = folder.path().join("converthouse.toml");
    let program = std::env::current_exe()
        .map_err(|error| Error::new(error, "run it from a file that is still there"))?;
    let launch = Launch::new("converthouse", program, folder.path()).args(["server", "--config"]).arg(&file);
    let prefix = topics.prefix().to_owned();
    // The cluster's name is in the names of consumer groups.
    let cluster = if topics.on_real() { prefix.clone() } else { "demo".to_owned() };
    configure(&file, (&cluster, folder.path()), &servers, &brokers, (grpc, http))?;
    let process = launch.start().map_err(|error| Error::of(&error))?;
    let grpc_url = format!("http://127.0.0.1:{grpc}");
    let daemon = GrpcPeers::new(PeerOptions::default()).daemon(&grpc_url);
    let ports = (grpc, http);
    Ok(Scene { servers, kafka, daemon, grpc_url, prefix, cluster, process, launch, ports, brokers, folder })
}

async fn server(folder: &Path, number: usize) -> Result<ClickHouseServer, Error> {
    let options = clickhouse_server::Options {
        name: format!("clickhouse-{}", node(number)),
        folder: folder.join(node(number)),
        data: None,
        password: Secret::new(""),
        place: clickhouse_server::Place::default(),
    };
    let mut server = ClickHouseServer::prepare(options).map_err(|error| Error::of(&error))?;
    server.start().await.map_err(|error| Error::of(&error))?;
    Ok(server)
}

/// Writes the file that an operator would write for this.
fn configure(
    file: &Path,
    (cluster, folder): (&str, &Path),
    servers: &[ClickHouseServer],
    brokers: &str,
    (grpc, http): (u16, u16),
) -> Result<(), Error> {
    let brokers: Vec<&str> = brokers.split(',').collect();
    let mut text = format!(
        "[cluster]\nname = \"{cluster}\"\n\n[daemon]\nnode = \"n1\"\ndata_dir = {:?}\n\
         grpc_listen = \"127.0.0.1:{grpc}\"\nhttp_listen = \"127.0.0.1:{http}\"\n\n\
         [metadata]\nkind = \"embedded\"\n\n[kafka]\nbrokers = {brokers:?}\n",
        folder.join("daemon").display().to_string()
    );
    for (number, server) in servers.iter().enumerate() {
        write!(
            text,
            "\n[[node]]\nid = \"{}\"\nlabels = {{ zone = \"z{}\" }}\nclickhouse_url = \"{}\"\n\
             clickhouse_host = \"127.0.0.1\"\nclickhouse_port = {}\nroutes_file = {:?}\n",
            node(number),
            number + 1,
            server.url(),
            server.tcp_port(),
            server.routes_file().display().to_string()
        )
        .expect("writing to a string");
    }
    std::fs::write(file, text).map_err(|error| {
        Error::new(format!("{}: {error}", file.display()), "choose another folder with --folder")
    })
}

impl Scene {
    /// Makes the table's topics as a user may who wants them otherwise than the daemon makes them. The embedded broker
    /// makes them for nobody else.
    pub async fn make_topics(&self, topics: &Topics) -> Result<(), Error> {
        topics.claim().await?;
        let topic = |name: String| NewTopic { name, partitions: 1, replication: -1, settings: Vec::new() };
        let topics: Vec<NewTopic> = topics.names().into_iter().map(topic).collect();
        self.kafka.create_topics(&topics).await.map_err(|error| Error::of(&error))
    }

    /// Starts one more server; the daemon knows nothing of it yet.
    pub async fn add_server(&mut self) -> Result<(), Error> {
        let server = server(self.folder.path(), self.servers.len()).await?;
        self.servers.push(server);
        Ok(())
    }

    /// Ends the daemon, in good order.
    pub fn stop_daemon(&mut self) -> Result<(), Error> {
        self.process.stop(STOP_WITHIN).map(|_| ()).map_err(|error| Error::of(&error))
    }

    /// Ends the daemon and starts it again, with all servers in its file.
    pub fn restart_daemon(&mut self) -> Result<(), Error> {
        let folder = self.folder.path();
        let file = folder.join("converthouse.toml");
        configure(&file, (&self.cluster, folder), &self.servers, &self.brokers, self.ports)?;
        self.stop_daemon()?;
        self.process = self.launch.start().map_err(|error| Error::of(&error))?;
        Ok(())
    }

    /// Asks a server as any client would; the answer is tab-separated.
    pub async fn ask(&self, number: usize, query: &str) -> Result<String, Error> {
        let client = clickhouse::http::plain(&self.servers[number].url());
        let asked = async {
            let mut cursor = client.query(query).fetch_bytes("TabSeparated")?;
            cursor.collect().await
        };
        let told = |error: ::clickhouse::error::Error| {
            Error::new(format!("query on {}: {error}", node(number)), "see the server's log with --keep")
        };
        let bytes = asked.await.map_err(told)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    }
}

/// An adapter's error as the demo's.
pub fn of(error: &impl Coded) -> Error {
    Error::of(error)
}
