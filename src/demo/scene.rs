//! What the demo plays on: servers, broker, daemon, and plain ClickHouse clients for asking.

use super::Options;
use crate::adapters::compute::clickhouse_server::{self, ClickHouseServer};
use crate::adapters::kafka::embedded::EmbeddedKafka;
use crate::adapters::kafka::{self, Kafka, KafkaClient};
use crate::config::{self, Config};
use crate::daemon::{self, Error, Started};
use crate::error::Coded;
use crate::model::node::Secret;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Nodes of the demo.
pub const NODES: usize = 3;

/// Everything that runs.
pub struct Scene {
    /// The servers, in node order.
    pub servers: Vec<ClickHouseServer>,
    /// The broker.
    pub kafka: Arc<dyn Kafka>,
    /// The daemon.
    pub started: Started,
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
pub async fn set(options: &Options) -> Result<Scene, Error> {
    let folder = Folder::make(options)?;
    let mut servers = Vec::new();
    for number in 0..NODES {
        let options = clickhouse_server::Options {
            name: format!("clickhouse-{}", node(number)),
            folder: folder.path().join(node(number)),
            data: None,
            password: Secret::new(""),
        };
        let mut server = ClickHouseServer::prepare(options).map_err(|error| Error::of(&error))?;
        server.start().await.map_err(|error| Error::of(&error))?;
        servers.push(server);
    }
    let kafka: Arc<dyn Kafka> = match &options.kafka {
        Some(brokers) => Arc::new(
            KafkaClient::new(kafka::Options::new(brokers.clone())).map_err(|error| Error::of(&error))?,
        ),
        None => Arc::new(EmbeddedKafka::start(1).map_err(|error| Error::of(&error))?),
    };
    let started = daemon::start(configuration(folder.path(), &servers)?, Some(kafka.clone())).await?;
    Ok(Scene { servers, kafka, started, folder })
}

/// The file that an operator would write for this.
fn configuration(folder: &Path, servers: &[ClickHouseServer]) -> Result<Config, Error> {
    let mut text = format!(
        "[cluster]\nname = \"demo\"\n\n[daemon]\nnode = \"n1\"\ndata_dir = {:?}\ngrpc_listen = \"127.0.0.1:0\"\n\
         http_listen = \"127.0.0.1:0\"\n\n[metadata]\nkind = \"embedded\"\n\n[kafka]\nkind = \"embedded\"\n",
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
    let path = folder.join("converthouse.toml");
    // For whoever looks into a kept folder; the text itself is what is read.
    let _ = std::fs::write(&path, &text);
    config::parse(&text, &path.display().to_string(), folder)
        .map_err(|error| Error::new(error, "this is a bug in the demo"))
}

impl Scene {
    /// Asks a server as any client would; the answer is tab-separated.
    pub async fn ask(&self, number: usize, query: &str) -> Result<String, Error> {
        let client =
            ::clickhouse::Client::default().with_url(self.servers[number].url()).with_validation(false);
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
