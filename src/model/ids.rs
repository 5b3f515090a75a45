//! Newtyped ids. Each has one text form (`Display`, `FromStr`) used in keys, logs and on the command line.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use uuid::Uuid;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {rule}")]
pub struct InvalidId {
    /// The text as given.
    pub text: String,
    /// What it was read as.
    pub kind: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

/// A node's name, chosen by the operator: lower-case letters, digits and inner hyphens, at most 63 characters
/// (so that it can stand in keys, topics and XML unescaped).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(String);

impl NodeId {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let good = !text.is_empty()
            && text.len() <= 63
            && text.chars().all(|c| plain(c) || c == '-')
            && text.starts_with(plain)
            && text.ends_with(plain);
        if good {
            return Ok(Self(text.to_owned()));
        }
        let rule = "1 to 63 lower-case letters, digits and inner hyphens";
        Err(InvalidId { text: text.to_owned(), kind: "node name", rule })
    }
}

impl TryFrom<String> for NodeId {
    type Error = InvalidId;
    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<NodeId> for String {
    fn from(id: NodeId) -> String {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A table's identity; stays through renames, differs when a dropped table is created again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TableId(pub Uuid);

impl TableId {
    /// The first eight hex digits: the part that stands in names on servers.
    pub fn short(&self) -> String {
        self.0.simple().to_string()[..8].to_owned()
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

impl FromStr for TableId {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let rule = "32 hex digits";
        Uuid::parse_str(text).map(Self).map_err(|_| InvalidId {
            text: text.to_owned(),
            kind: "table id",
            rule,
        })
    }
}

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident($inner:ty), $letter:literal, $kind:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($letter, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix($letter).unwrap_or(text);
                let rule = concat!("a number, with or without a leading '", $letter, "'");
                let canonical = digits.bytes().all(|b| b.is_ascii_digit());
                match digits.parse() {
                    Ok(number) if canonical => Ok(Self(number)),
                    _ => Err(InvalidId { text: text.to_owned(), kind: $kind, rule }),
                }
            }
        }
    };
}

numbered!(
    /// A shard's number, unique within its table for ever: a split gives new numbers.
    ShardId(u32), "s", "shard id"
);
numbered!(
    /// One hash bucket of a table, `0..P`. Not a ClickHouse partition.
    PartitionId(u32), "p", "partition"
);
numbered!(
    /// The version of a table's topology; grows by one with every published change.
    Epoch(u64), "e", "epoch"
);

numbered!(
    /// An operation's number, unique within the cluster.
    OperationId(u64), "o", "operation id"
);

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// A cluster leader's term: the store revision at which its leader key was created. Writes of a term are
/// compared with the key's create revision, so a deposed leader's writes fail (FENCED).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Term(pub i64);

/// The copy of one shard on one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ReplicaId {
    /// The shard's table.
    pub table: TableId,
    /// The shard.
    pub shard: ShardId,
    /// Where the copy is.
    pub node: NodeId,
}

impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.table.short(), self.shard, self.node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_through_their_text() {
        assert_eq!("s12".parse::<ShardId>().unwrap(), ShardId(12));
        assert_eq!("12".parse::<ShardId>().unwrap().to_string(), "s12");
        assert_eq!("e7".parse::<Epoch>().unwrap().next().to_string(), "e8");
        let table = TableId(Uuid::from_u128(0x1f3a_9c2d << 96));
        assert_eq!(table.to_string().parse::<TableId>().unwrap(), table);
        assert_eq!(table.short(), "1f3a9c2d");
    }

    #[test]
    fn bad_ids_say_what_they_break() {
        for bad in ["", "N1", "-a", "a-", "a.b", "é", &"x".repeat(64)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:?}");
        }
        for bad in ["", "s", "s-1", "+3", "s99999999999"] {
            assert!(bad.parse::<ShardId>().is_err(), "{bad:?}");
        }
    }
}
