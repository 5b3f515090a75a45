//! A cluster's trace as data: what it looked like at some moment, and what happened to it then.
//!
//! A trace is lines of JSON: a [`Header`], the snapshot (`node`, `table`, `shard` lines, in any number), then `event`
//! lines in the order of time. Each line stands for itself, so a trace can be written and read as it comes. [`World`]
//! is what the lines so far amount to; a line that makes no sense in it is refused. Pure: no file is opened here.

mod diff;
mod world;

pub use diff::{changes, snapshot};
pub use world::World;

use super::ids::{NodeId, OperationId, ShardId, TableId};
use super::node::NodeState;
use super::operation::{Kind, State};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that is written, and the newest one whose every field is known.
pub const VERSION: u32 = 1;

/// Where a trace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A daemon wrote it while it led.
    Recorded,
    /// It was made of a cluster's system tables.
    Imported,
    /// It is made up.
    Generated,
}

/// The first line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// [`VERSION`] of the writer.
    pub version: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The moment that times count from, on the wall clock.
    pub start_unix_ms: u64,
    /// Where it comes from.
    pub origin: Origin,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceNode {
    /// Its name.
    pub id: NodeId,
    /// Labels such as `zone`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Disk that tables may fill, in bytes; 0 means not known.
    #[serde(default)]
    pub capacity_bytes: u64,
    /// Relative share of the load, in thousandths.
    #[serde(default = "normal_milli")]
    pub weight_milli: u32,
    /// What the operator wants of it.
    #[serde(default)]
    pub state: NodeState,
    /// Its daemon holds a lease.
    #[serde(default = "yes")]
    pub live: bool,
}

fn normal_milli() -> u32 {
    1_000
}

fn yes() -> bool {
    true
}

/// A table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceTable {
    /// Identity.
    pub id: TableId,
    /// Database.
    pub database: String,
    /// Name within it.
    pub table: String,
    /// `P`.
    pub partitions: u32,
    /// Wanted replicas a shard.
    pub replicas: u32,
}

/// A shard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceShard {
    /// Its table.
    pub table: TableId,
    /// Its number.
    pub shard: ShardId,
    /// First partition.
    pub lo: u32,
    /// One past the last.
    pub hi: u32,
    /// Where its copies are, the preferred leader first.
    pub nodes: Vec<NodeId>,
    /// Who leads.
    pub leader: Option<NodeId>,
    /// Compressed bytes of one copy.
    pub bytes: u64,
    /// How fast it grows.
    #[serde(default)]
    pub bytes_per_s: u64,
}

/// What happened. Kinds are written as `"event": "node-died"` and the like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// A node joined.
    NodeJoined {
        /// Which.
        node: TraceNode,
    },
    /// A node's daemon lost its lease.
    NodeDied {
        /// Which.
        node: NodeId,
    },
    /// It came back.
    NodeReturned {
        /// Which.
        node: NodeId,
    },
    /// The operator wants something else of it: `draining` and the like.
    NodeState {
        /// Which.
        node: NodeId,
        /// What.
        state: NodeState,
    },
    /// Its record is gone.
    NodeRemoved {
        /// Which.
        node: NodeId,
    },
    /// A table was made; its shards follow.
    TableCreated {
        /// Which.
        table: TraceTable,
    },
    /// It was dropped, with its shards.
    TableDropped {
        /// Which.
        table: TableId,
    },
    /// A shard was made, by a split, a merge or with its table.
    ShardMade {
        /// Which.
        shard: TraceShard,
    },
    /// A shard is no more.
    ShardGone {
        /// Its table.
        table: TableId,
        /// Its number.
        shard: ShardId,
    },
    /// A shard has other copies, or another leader.
    ShardPlaced {
        /// Its table.
        table: TableId,
        /// Its number.
        shard: ShardId,
        /// Where its copies are, the preferred leader first.
        nodes: Vec<NodeId>,
        /// Who leads.
        leader: Option<NodeId>,
    },
    /// Sizes were looked at: bytes of one copy, by shard.
    Sizes {
        /// Their table.
        table: TableId,
        /// By number.
        bytes: Vec<(ShardId, u64)>,
    },
    /// A table grows faster or slower; its shards by their share of the partitions.
    Ingest {
        /// Which.
        table: TableId,
        /// Bytes of one copy of all of it.
        bytes_per_s: u64,
    },
    /// An operation began.
    OperationBegun {
        /// Number.
        id: OperationId,
        /// Whose shards.
        table: TableId,
        /// What.
        operation: Kind,
        /// Bytes that it has to copy.
        bytes: u64,
        /// Why.
        reason: String,
    },
    /// It ended.
    OperationEnded {
        /// Number.
        id: OperationId,
        /// How.
        state: State,
    },
}

impl Event {
    /// Its kind, as written.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NodeJoined { .. } => "node-joined",
            Self::NodeDied { .. } => "node-died",
            Self::NodeReturned { .. } => "node-returned",
            Self::NodeState { .. } => "node-state",
            Self::NodeRemoved { .. } => "node-removed",
            Self::TableCreated { .. } => "table-created",
            Self::TableDropped { .. } => "table-dropped",
            Self::ShardMade { .. } => "shard-made",
            Self::ShardGone { .. } => "shard-gone",
            Self::ShardPlaced { .. } => "shard-placed",
            Self::Sizes { .. } => "sizes",
            Self::Ingest { .. } => "ingest",
            Self::OperationBegun { .. } => "operation-begun",
            Self::OperationEnded { .. } => "operation-ended",
        }
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timed {
    /// After the header's start.
    pub at_ms: u64,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Line {
    /// The first.
    Header(Header),
    /// A node of the snapshot.
    Node(TraceNode),
    /// A table of it.
    Table(TraceTable),
    /// A shard of it.
    Shard(TraceShard),
    /// What happened then.
    Event(Timed),
}

impl Line {
    /// As text, without the line's end.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("maps with text keys, numbers and lists are JSON")
    }

    /// Reads a line. Unknown fields are refused, unless the trace's `version` is newer than [`VERSION`].
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, version: u32) -> Result<Self, String> {
        let given: serde_json::Value =
            serde_json::from_str(text).map_err(|e| format!("it is no JSON: {e}"))?;
        let line: Self = serde_json::from_value(given.clone()).map_err(|error| error.to_string())?;
        let newer = version > VERSION || matches!(&line, Self::Header(header) if header.version > VERSION);
        if !newer {
            let understood = serde_json::to_value(&line).map_err(|error| error.to_string())?;
            if let Some(field) = unknown(&given, &understood) {
                return Err(format!("unknown field `{field}`"));
            }
        }
        Ok(line)
    }
}

/// A field that was given and not understood.
fn unknown(given: &serde_json::Value, understood: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    match (given, understood) {
        (Value::Object(given), Value::Object(understood)) => {
            given.iter().find_map(|(key, value)| match understood.get(key) {
                None => Some(key.clone()),
                Some(there) => unknown(value, there),
            })
        }
        (Value::Array(given), Value::Array(understood)) => {
            given.iter().zip(understood).find_map(|(value, there)| unknown(value, there))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_itself_again_and_unknown_fields_are_refused_unless_the_version_is_newer() {
        let died = Line::Event(Timed { at_ms: 5, event: Event::NodeDied { node: "n1".parse().unwrap() } });
        let text = died.text();
        assert_eq!(text, r#"{"event":{"at_ms":5,"event":"node-died","node":"n1"}}"#);
        assert_eq!(Line::parse(&text, VERSION), Ok(died.clone()));
        let more = text.replace("\"at_ms\"", "\"colour\":1,\"at_ms\"");
        assert_eq!(Line::parse(&more, VERSION), Err("unknown field `colour`".to_owned()));
        assert_eq!(Line::parse(&more, VERSION + 1), Ok(died));
    }

    #[test]
    fn what_is_no_line_is_told() {
        for (text, said) in [
            ("{\"node\":", "it is no JSON"),
            ("{\"cat\":{}}", "unknown variant `cat`"),
            (r#"{"node":{"id":"N 1"}}"#, "is not a node name"),
            (r#"{"node":{"id":"n1","capacity_bytes":-1}}"#, "invalid value: integer `-1`"),
        ] {
            let told = Line::parse(text, VERSION).unwrap_err();
            assert!(told.contains(said), "{said:?} is not in {told:?}");
        }
    }
}
