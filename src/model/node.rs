//! Nodes: what the operator says of a host, as kept in the metadata store.

use super::ids::NodeId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the operator wants of a node. Whether it is up is observed, not desired: see `observed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Takes new replicas.
    #[default]
    Active,
    /// Keeps what it has, takes nothing new.
    Cordoned,
    /// To be emptied.
    Draining,
}

/// How ClickHouse on a node is reached by other ClickHouse servers (native protocol).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ClickHouseEndpoint {
    /// Host name or address as other nodes resolve it.
    pub host: String,
    /// Native protocol port (`tcp_port`, or `tcp_port_secure` if `secure`).
    pub port: u16,
    /// TLS between servers.
    pub secure: bool,
    /// The user that distributed queries run as on this node; empty means ClickHouse's default.
    pub user: String,
    /// Its password. Stored in the metadata store and in the generated cluster file; never logged.
    pub password: Secret,
}

/// A text that must not appear in logs: `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A host with one ClickHouse server and one daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// The operator's name for it.
    pub id: NodeId,
    /// Labels such as `zone`, `rack`, `dc`.
    pub labels: BTreeMap<String, String>,
    /// Disk that tables may fill, in bytes; 0 means not known.
    pub capacity_bytes: u64,
    /// Relative share of the load, in thousandths (1000 is a normal node).
    pub weight_milli: u32,
    /// What the operator wants of it.
    pub state: NodeState,
    /// Its ClickHouse server, as the other servers reach it.
    pub clickhouse: ClickHouseEndpoint,
    /// Its daemon's gRPC address, `http(s)://host:port`.
    pub daemon_url: String,
}

#[cfg(test)]
impl Node {
    /// A node of which tests want nothing but its name.
    pub fn plain(id: &NodeId) -> Self {
        let (host, user, password) = (id.to_string(), String::new(), Secret::default());
        Self {
            id: id.clone(),
            labels: BTreeMap::new(),
            capacity_bytes: 0,
            weight_milli: 1_000,
            state: NodeState::Active,
            clickhouse: ClickHouseEndpoint { host, port: 9_000, secure: false, user, password },
            daemon_url: String::new(),
        }
    }
}

impl Node {
    /// The zone that the node is in; a node without the label is a zone of its own.
    pub fn zone(&self) -> &str {
        self.labels.get("zone").map_or(self.id.as_str(), String::as_str)
    }
}
