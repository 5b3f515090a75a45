//! The daemon's one configuration file (TOML): read, checked as a whole, every problem told at once.
//!
//! `schema` has every key with its default and meaning; `docs/configuration.md` and `converthouse config example`
//! are made from it. Nothing here reads the environment.

mod assemble;
pub mod document;
mod reader;
pub mod schema;
mod store;
pub mod units;

use crate::adapters::peers::Tls;
use crate::error::{Code, Coded, Retry, ranges};
use crate::model::NodeId;
use crate::model::balance::BalanceRules;
use crate::model::node::{ClickHouseEndpoint, Secret};
use crate::model::routes::RouteGroup;
use crate::telemetry::LogOptions;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that holds together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Cluster name.
    pub cluster: String,
    /// This process.
    pub daemon: DaemonOptions,
    /// Metadata store.
    pub metadata: MetadataOptions,
    /// Message queue.
    pub kafka: KafkaOptions,
    /// Nodes that this process serves: exactly one unless the store is embedded.
    pub nodes: Vec<NodeOptions>,
    /// From Kafka into ClickHouse.
    pub ingest: IngestOptions,
    /// When nodes go and come.
    pub failover: FailoverOptions,
    /// The balancer's rules.
    pub balance: BalanceRules,
    /// How replicas are copied.
    pub transfer: TransferOptions,
    /// Further clusters per table.
    pub route_groups: Vec<RouteGroup>,
    /// Logs.
    pub log: LogOptions,
}

impl Config {
    /// One process that serves several ClickHouse servers on an embedded store.
    pub fn standalone(&self) -> bool {
        matches!(self.metadata.store, StoreOptions::Embedded { .. })
    }
}

/// This process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DaemonOptions {
    /// The node that it stands for, one of [`Config::nodes`].
    pub node: NodeId,
    /// What it keeps.
    pub data_dir: PathBuf,
    /// `host:port` of gRPC.
    pub grpc_listen: String,
    /// How other daemons reach it, `http(s)://host:port`. With port 0 in `grpc_listen` and no advertised address
    /// given, the port here is 0 too: put the one that was bound in its place.
    pub grpc_advertise: String,
    /// `host:port` of HTTP.
    pub http_listen: String,
    /// How ClickHouse beside it reaches that; the same holds for port 0.
    pub http_advertise: String,
    /// TLS for gRPC, both as server and as client of other daemons.
    pub tls: Option<Tls>,
    /// Where traces of the cluster go while this daemon leads.
    pub record: Option<RecordOptions>,
}

/// Traces on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordOptions {
    /// Their folder.
    pub folder: PathBuf,
    /// All of them together, at most.
    pub bytes_max: u64,
}

/// Metadata store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataOptions {
    /// Which.
    pub store: StoreOptions,
    /// A daemon not heard of for so long counts as gone.
    pub lease_ttl_ms: u64,
}

/// Which metadata store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreOptions {
    /// One that runs already.
    Etcd {
        /// Client addresses.
        endpoints: Vec<String>,
        /// How to be let in.
        access: EtcdAccess,
    },
    /// Members that daemons run.
    Managed {
        /// All of them.
        members: Vec<EtcdMember>,
        /// Program.
        binary: PathBuf,
        /// What this daemon's member listens on, if not what its URLs say.
        listen: Option<std::net::IpAddr>,
        /// How to be let in.
        access: EtcdAccess,
    },
    /// A file of this process.
    Embedded {
        /// The file.
        path: PathBuf,
    },
}

/// User and certificates for etcd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EtcdAccess {
    /// User and password, with authentication on.
    pub user: Option<(String, Secret)>,
    /// TLS.
    pub tls: Option<Tls>,
}

/// A member of a managed etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdMember {
    /// Whose daemon runs it.
    pub node: NodeId,
    /// For clients.
    pub client_url: String,
    /// For members.
    pub peer_url: String,
}

/// Message queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// `None`: a broker inside this process.
    pub brokers: Option<Vec<String>>,
    /// Copies of a new topic; -1 is the brokers' default.
    pub replication: i32,
    /// librdkafka's settings; some are secret, so all are kept as such.
    pub settings: BTreeMap<String, Secret>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeOptions {
    /// Name.
    pub id: NodeId,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Disk that tables may fill; 0 is not known.
    pub capacity_bytes: u64,
    /// Share of the load, in thousandths.
    pub weight_milli: u32,
    /// ClickHouse's HTTP address from here.
    pub clickhouse_url: String,
    /// User for the daemon's statements.
    pub clickhouse_user: String,
    /// Its password.
    pub clickhouse_password: Secret,
    /// How other servers reach it, and as whom.
    pub endpoint: ClickHouseEndpoint,
    /// Cluster file to write.
    pub routes_file: PathBuf,
    /// The server's data folder, where it is not as the server says.
    pub clickhouse_data: Option<PathBuf>,
}

/// From Kafka into ClickHouse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IngestOptions {
    /// Consumers of a node at most.
    pub lanes_max: u32,
    /// Volume of one partition a day.
    pub daily_bytes_per_partition: u64,
    /// Inserts a second into one ClickHouse at most.
    pub inserts_per_s: u32,
    /// How long an insert may take before its outcome counts as unknown.
    pub insert_deadline_ms: u64,
    /// How old batches grow for that at most.
    pub batch_age_max_ms: u64,
    /// Memory for what is between Kafka and ClickHouse, of all nodes of this daemon.
    pub buffer_bytes: u64,
}

/// How replicas are copied from node to node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransferOptions {
    /// As files of parts, where that works.
    pub by_parts: bool,
    /// Bytes a second to, and from, each node; 0 is no limit.
    pub bytes_per_s: u64,
    /// Bytes a second of all copies in the cluster; 0 is no limit.
    pub cluster_bytes_per_s: u64,
    /// Replicas that are copied to one node at once.
    pub copies_at_once: u32,
}

/// When nodes go and come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailoverOptions {
    /// Gone for so long, replicas are rebuilt elsewhere.
    pub down_after_ms: u64,
    /// Lag, in messages, with which a preferred leader may lead again.
    pub preferred_leader_lag_max: u64,
}

/// One thing wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, from 1.
    pub line: Option<usize>,
    /// Key as in the file, such as `node[2].weight`.
    pub key: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{} {}\n      remedy: {}", self.key, self.what, self.remedy)
    }
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file.
    #[error("{path}: {reason}")]
    Unreadable {
        /// File.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// Not TOML.
    #[error("{path} is not TOML: {reason}")]
    Syntax {
        /// File.
        path: String,
        /// Where and what, in lines.
        reason: String,
    },
    /// Everything that is wrong with it.
    #[error("{path}: {}{}", problem_count(.problems), problem_lines(.problems))]
    Problems {
        /// File.
        path: String,
        /// At least one.
        problems: Vec<Problem>,
    },
}

fn problem_count(problems: &[Problem]) -> String {
    format!("{} problem{}", problems.len(), if problems.len() == 1 { "" } else { "s" })
}

fn problem_lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::CONFIG
                + match self {
                    Self::Unreadable { .. } => 1,
                    Self::Syntax { .. } => 2,
                    Self::Problems { .. } => 3,
                },
        )
    }

    fn retry(&self) -> Retry {
        Retry::Never
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "name a file that may be read; `converthouse config example` prints one"
            }
            Self::Syntax { .. } => "correct the line; `converthouse config example` prints a good file",
            Self::Problems { .. } => "correct the lines; docs/configuration.md explains every key",
        }
    }
}

/// Reads and checks a file, and the password files and certificates that it names.
pub fn load(path: &Path) -> Result<Config, Error> {
    let named = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::Unreadable { path: named.clone(), reason: error.to_string() })?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, &named, folder)
}

/// Checks a text; `path` names it in errors, relative paths in it start at `folder`.
pub fn parse(text: &str, path: &str, folder: &Path) -> Result<Config, Error> {
    let root = toml::de::DeTable::parse(text)
        .map_err(|error| Error::Syntax { path: path.into(), reason: place(text, &error) })?;
    let mut reader = reader::Reader::new(text, folder);
    let config = assemble::config(&mut reader, root.get_ref());
    let problems = reader.into_problems();
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => {
            assert!(!problems.is_empty(), "what cannot be assembled has a problem on the list");
            Err(Error::Problems { path: path.into(), problems })
        }
    }
}

/// Line, column and what is wrong there. Never the line itself, as TOML's own message has it: it may hold a password.
fn place(text: &str, error: &toml::de::Error) -> String {
    let Some(before) = error.span().and_then(|span| text.get(..span.start)) else {
        return error.message().to_owned();
    };
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!("line {line}, column {column}: {}", error.message())
}

#[cfg(test)]
mod tests;
