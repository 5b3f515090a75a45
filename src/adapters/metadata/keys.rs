//! Where things are in the store: the one place that knows the key layout.
//!
//! ```text
//! /converthouse/<cluster>/v1/leader                          who leads (lease)
//!                            nodes/<node>                    what the operator says of a node
//!                            live/<node>                     which daemon serves it now (lease)
//!                            tables/<table>                  a logical table
//!                            names/<database>/<name>         the one table of that name
//!                            shards/<table>/<shard>          a shard and its replicas
//!                            ops/<operation>                 work in flight
//!                            holds/cluster                   a pause or freeze of everything
//!                            holds/<table>[/<shard>]         the same of a table or a shard
//!                            balance                         what was said of balancing at run time
//!                            plan                            the plan that is being carried out
//! ```
//! Names that users choose are escaped: letters, digits, `_` and `-` stand for themselves, every other byte is `%xx`.
//! So no name holds a slash, and a prefix that ends in a slash never takes in a neighbour (`a/` is not a part
//! of `ab/`).

use crate::model::hold::Scope;
use crate::model::{NodeId, OperationId, ShardId, TableId, TableName};
use std::fmt::{self, Write as _};

/// What a key stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// The leader's key.
    Leader,
    /// A node as desired.
    Node(NodeId),
    /// A node's running daemon.
    Live(NodeId),
    /// A table.
    Table(TableId),
    /// The claim of a name.
    Name(TableName),
    /// A shard.
    Shard(TableId, ShardId),
    /// Work in flight.
    Operation(OperationId),
    /// A pause or freeze.
    Hold(Scope),
    /// What was said of balancing.
    Balance,
    /// The plan that is being carried out.
    Plan,
}

/// A key that is not one of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {key:?} in the metadata store is not one of Converthouse's layout: {reason}")]
pub struct InvalidKey {
    /// The full key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The keys of one cluster. All methods that build a key need no I/O and cannot fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Keys of the named cluster. Any name will do.
    pub fn new(cluster: &str) -> Self {
        Self { root: format!("/converthouse/{}/v1/", Escaped(cluster)) }
    }

    /// The prefix of everything.
    pub fn root(&self) -> &str {
        &self.root
    }

    /// The leader's key.
    pub fn leader(&self) -> String {
        self.key("leader")
    }

    /// The prefix of all nodes.
    pub fn nodes(&self) -> String {
        self.key("nodes/")
    }

    /// A node as desired.
    pub fn node(&self, node: &NodeId) -> String {
        self.key(format_args!("nodes/{node}"))
    }

    /// The prefix of all running daemons.
    pub fn live_nodes(&self) -> String {
        self.key("live/")
    }

    /// A node's running daemon.
    pub fn live(&self, node: &NodeId) -> String {
        self.key(format_args!("live/{node}"))
    }

    /// The prefix of all tables.
    pub fn tables(&self) -> String {
        self.key("tables/")
    }

    /// A table.
    pub fn table(&self, table: TableId) -> String {
        self.key(format_args!("tables/{table}"))
    }

    /// The prefix of all names.
    pub fn names(&self) -> String {
        self.key("names/")
    }

    /// The claim of a name.
    pub fn name(&self, name: &TableName) -> String {
        self.key(format_args!("names/{}/{}", Escaped(&name.database), Escaped(&name.table)))
    }

    /// The prefix of all shards of all tables.
    pub fn all_shards(&self) -> String {
        self.key("shards/")
    }

    /// The prefix of a table's shards.
    pub fn shards(&self, table: TableId) -> String {
        self.key(format_args!("shards/{table}/"))
    }

    /// A shard.
    pub fn shard(&self, table: TableId, shard: ShardId) -> String {
        self.key(format_args!("shards/{table}/{shard}"))
    }

    /// The prefix of all work in flight.
    pub fn operations(&self) -> String {
        self.key("ops/")
    }

    /// Work in flight.
    pub fn operation(&self, id: OperationId) -> String {
        self.key(format_args!("ops/{id}"))
    }

    /// A pause or freeze.
    pub fn hold(&self, scope: Scope) -> String {
        match scope {
            Scope::Cluster => self.key("holds/cluster"),
            Scope::Table(table) => self.key(format_args!("holds/{table}")),
            Scope::Shard(table, shard) => self.key(format_args!("holds/{table}/{shard}")),
        }
    }

    /// What was said of balancing.
    pub fn balance(&self) -> String {
        self.key("balance")
    }

    /// The plan that is being carried out.
    pub fn plan(&self) -> String {
        self.key("plan")
    }

    /// The key that stands for this.
    pub fn of(&self, key: &Key) -> String {
        match key {
            Key::Leader => self.leader(),
            Key::Node(node) => self.node(node),
            Key::Live(node) => self.live(node),
            Key::Table(table) => self.table(*table),
            Key::Name(name) => self.name(name),
            Key::Shard(table, shard) => self.shard(*table, *shard),
            Key::Operation(id) => self.operation(*id),
            Key::Hold(scope) => self.hold(*scope),
            Key::Balance => self.balance(),
            Key::Plan => self.plan(),
        }
    }

    /// Reads a key of a watch or range.
    ///
    /// # Errors
    /// If it is not exactly what [`Keys::of`] would build, in this cluster.
    pub fn parse(&self, key: &str) -> Result<Key, InvalidKey> {
        let invalid = |reason: String| InvalidKey { key: key.to_owned(), reason };
        let path = key.strip_prefix(&self.root).ok_or_else(|| invalid(format!("not under {}", self.root)))?;
        let parsed = parse_path(path).map_err(invalid)?;
        // One key, one text: `s01` and `%61` are refused, or two keys would stand for one thing.
        let canonical = self.of(&parsed);
        if canonical == key { Ok(parsed) } else { Err(invalid(format!("it would be written {canonical}"))) }
    }

    fn key(&self, path: impl fmt::Display) -> String {
        format!("{}{path}", self.root)
    }
}

fn parse_path(path: &str) -> Result<Key, String> {
    fn id<T: std::str::FromStr<Err: fmt::Display>>(text: &str) -> Result<T, String> {
        text.parse().map_err(|error: T::Err| error.to_string())
    }
    let segments: Vec<&str> = path.split('/').collect();
    Ok(match segments[..] {
        ["leader"] => Key::Leader,
        ["nodes", node] => Key::Node(id(node)?),
        ["live", node] => Key::Live(id(node)?),
        ["tables", table] => Key::Table(id(table)?),
        ["names", database, table] => {
            Key::Name(TableName { database: unescape(database)?, table: unescape(table)? })
        }
        ["shards", table, shard] => Key::Shard(id(table)?, id(shard)?),
        ["ops", operation] => Key::Operation(id(operation)?),
        ["holds", "cluster"] => Key::Hold(Scope::Cluster),
        ["holds", table] => Key::Hold(Scope::Table(id(table)?)),
        ["holds", table, shard] => Key::Hold(Scope::Shard(id(table)?, id(shard)?)),
        ["balance"] => Key::Balance,
        ["plan"] => Key::Plan,
        _ => return Err("unknown kind of key".to_owned()),
    })
}

/// A text with every unusual byte as `%xx`.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            if byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-' {
                f.write_char(char::from(byte))?;
            } else {
                write!(f, "%{byte:02x}")?;
            }
        }
        Ok(())
    }
}

fn unescape(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
            let byte = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
            bytes.push(byte.ok_or_else(|| format!("{text:?} ends or goes on wrongly after '%'"))?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).map_err(|_| format!("{text:?} is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn keys() -> Keys {
        Keys::new("prod")
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let (table, shard) = (TableId(Uuid::from_u128(0xabc)), ShardId(7));
        let id = "00000000000000000000000000000abc";
        let root = "/converthouse/prod/v1";
        let name = TableName { database: "shop".into(), table: "a.b/c".into() };
        for (key, text) in [
            (Key::Leader, format!("{root}/leader")),
            (Key::Node("n-1".parse().unwrap()), format!("{root}/nodes/n-1")),
            (Key::Live("n-1".parse().unwrap()), format!("{root}/live/n-1")),
            (Key::Table(table), format!("{root}/tables/{id}")),
            (Key::Name(name), format!("{root}/names/shop/a%2eb%2fc")),
            (Key::Shard(table, shard), format!("{root}/shards/{id}/s7")),
            (Key::Operation(OperationId(3)), format!("{root}/ops/o3")),
            (Key::Hold(Scope::Cluster), format!("{root}/holds/cluster")),
            (Key::Hold(Scope::Table(table)), format!("{root}/holds/{id}")),
            (Key::Hold(Scope::Shard(table, shard)), format!("{root}/holds/{id}/s7")),
            (Key::Balance, format!("{root}/balance")),
            (Key::Plan, format!("{root}/plan")),
        ] {
            assert_eq!(keys().of(&key), text);
            assert_eq!(keys().parse(&text), Ok(key));
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_with_the_reason() {
        let id = "00000000000000000000000000000abc";
        for (path, reason) in [
            ("", "unknown kind"),
            ("leaders", "unknown kind"),
            ("nodes/", "not a node name"),
            ("nodes/N", "not a node name"),
            ("tables/xyz", "not a table id"),
            ("shards/00000000000000000000000000000abc", "unknown kind"),
            ("names/a/%6", "after '%'"),
            ("names/a/%ff", "not UTF-8"),
            ("names/a/%61", "would be written"),
            ("names/a/b/c", "unknown kind"),
        ] {
            let error = keys().parse(&format!("{}{path}", keys().root())).unwrap_err();
            assert!(error.to_string().contains(reason), "{error}");
        }
        let twice = keys().parse(&format!("{}shards/{id}/s07", keys().root())).unwrap_err();
        assert!(twice.reason.ends_with("/s7"), "{twice}");
        assert!(keys().parse(&Keys::new("prod2").leader()).is_err(), "another cluster's key");
    }

    proptest! {
        #[test]
        fn any_name_round_trips_and_stays_in_its_segment(database in ".*", table in ".*", cluster in ".*") {
            let keys = Keys::new(&cluster);
            let name = TableName { database, table };
            let text = keys.name(&name);
            prop_assert_eq!(text.matches('/').count(), 6);
            prop_assert_eq!(keys.parse(&text), Ok(Key::Name(name)));
        }

        #[test]
        fn no_cluster_holds_the_keys_of_another(one in ".*", other in ".*") {
            prop_assume!(one != other);
            prop_assert!(!Keys::new(&one).root().starts_with(Keys::new(&other).root()));
        }

        #[test]
        fn any_text_is_read_without_panic(path in ".*") {
            let _ = keys().parse(&format!("{}{path}", keys().root()));
            let _ = keys().parse(&format!("{}names/a/{path}", keys().root()));
        }
    }
}
