//! Every name that we give to things on servers, in one place: replica databases, clusters, topics, groups.
//!
//! A name carries the first eight hex digits of the table's id, so that a table dropped and created again never
//! meets what a node that was down kept of the old one, and `a__b`.`c` never meets `a`.`b__c`.

use super::batch::BatchName;
use super::ids::{NodeId, PartitionId, ShardId, TableId};
use super::table::{Source, TableName, TopicLayout};
use std::collections::BTreeSet;

/// Hidden column: the row's partition.
pub const PARTITION_COLUMN: &str = "_cvh_partition";
/// Hidden column: the offset of the row's message.
pub const OFFSET_COLUMN: &str = "_cvh_offset";
/// Hidden column: the row's number within its message, from 0.
pub const ROW_COLUMN: &str = "_cvh_row";
/// Prefix of every name that is ours among the user's columns.
pub const HIDDEN_PREFIX: &str = "_cvh_";
/// The local table's name within its replica database.
pub const LOCAL_TABLE: &str = "local";
/// Database for reading the user's DDL back; its tables live for a moment.
pub const SCRATCH_DATABASE_PREFIX: &str = "_cvh_scratch_";
/// What every replica database's name contains, before the table's short id.
const REPLICA_INFIX: &str = "__cvh";

/// The database that holds one shard's replica: `<db>__<table>__cvh<table id>_s<shard>`.
///
/// A dot becomes `_`: ClickHouse's `remote()` takes a database's name apart at one, however it is quoted. What tells
/// one table's from another's is the id.
pub fn replica_database(name: &TableName, table: TableId, shard: ShardId) -> String {
    format!("{}{}_{shard}", replica_databases(name), table.short())
}

/// How the databases of all replicas of tables of that name begin, whatever their ids.
pub fn replica_databases(name: &TableName) -> String {
    let user = format!("{}__{}", name.database, name.table).replace('.', "_");
    format!("{user}{REPLICA_INFIX}")
}

/// Reads back what [`replica_database`] wrote: the table's short id and the shard.
pub fn parse_replica_database(database: &str) -> Option<(String, ShardId)> {
    let (_, tail) = database.rsplit_once(REPLICA_INFIX)?;
    let (short, shard) = tail.split_once('_')?;
    let hex = short.len() == 8 && short.bytes().all(|b| b.is_ascii_hexdigit());
    let shard = shard.strip_prefix('s')?.parse().ok()?;
    hex.then(|| (short.to_owned(), shard))
}

/// A name as an XML element and a cluster: letters, digits and `_` stay, anything else becomes `_`.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}

/// The `remote_servers` cluster of a table, optionally of one route group (H1).
pub fn cluster(name: &TableName, table: TableId, group: Option<&str>) -> String {
    let base = format!("cvh_{}_{}_{}", plain(&name.database), plain(&name.table), table.short());
    group.map_or(base.clone(), |group| format!("{base}__{}", plain(group)))
}

/// A name in Kafka's alphabet (`[a-zA-Z0-9_-]` here, the dot being our separator); every other byte as `_xx`.
fn kafka_plain(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("_{byte:02x}"));
        }
    }
    out
}

/// The default topic prefix of a table: `<db>.<table>`.
pub fn topic_prefix(name: &TableName) -> String {
    format!("{}.{}", kafka_plain(&name.database), kafka_plain(&name.table))
}

/// A Kafka partition of a topic. Never to be taken for our [`PartitionId`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic.
    pub topic: String,
    /// Kafka's partition number within it.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}[{}]", self.topic, self.partition)
    }
}

/// Where the messages of a partition are.
pub fn topic_partition(source: &Source, partition: PartitionId) -> TopicPartition {
    match source.layout {
        TopicLayout::TopicPerPartition => {
            TopicPartition { topic: format!("{}.{}", source.topic_prefix, partition.0), partition: 0 }
        }
        TopicLayout::OneTopic => TopicPartition {
            topic: source.topic_prefix.clone(),
            partition: i32::try_from(partition.0).expect("P is at most 65536"),
        },
    }
}

/// The topic that takes messages which ClickHouse refuses.
pub fn dead_letter_topic(source: &Source) -> String {
    format!("{}.dead-letter", source.topic_prefix)
}

/// Every topic of a table: its partitions' and the one for dead letters.
pub fn topics(source: &Source, partitions: u32) -> BTreeSet<String> {
    let of_partitions = (0..partitions).map(|p| topic_partition(source, PartitionId(p)).topic);
    of_partitions.chain([dead_letter_topic(source)]).collect()
}

/// The Kafka group under which a node commits offsets; the commit's metadata names table and shard.
pub fn consumer_group(cluster: &str, node: &NodeId) -> String {
    format!("converthouse.{}.{}", kafka_plain(cluster), node)
}

/// The group beside that one for positions of shards that are not published yet.
pub fn preparing_group(group: &str) -> String {
    format!("{group}.preparing")
}

/// What Kafka knows an import batch by: the group that holds its mark, and the transactional id of who sends it.
pub fn import_batch(cluster: &str, table: TableId, batch: &BatchName) -> String {
    format!("converthouse.{}.import.{table}.{batch}", kafka_plain(cluster))
}

/// The gate of a replica: inserts go through the view `gate_<n>`; closing it fences whoever still writes.
pub fn gate(number: u64) -> String {
    format!("gate_{number}")
}

/// A gate that is closed, and only keeps its number from coming again.
pub fn shut_gate(number: u64) -> String {
    format!("shut_{number}")
}

/// The table in which a replica is seeded: `seed_<nonce>_<generation>`. Each verb that changes it begins by raising
/// the generation, so that what is still on its way to an earlier one finds no table.
pub fn staging(nonce: u64, generation: u64) -> String {
    format!("seed_{nonce}_{generation}")
}

/// Reads back what [`staging`] wrote: nonce and generation.
pub fn parse_staging(table: &str) -> Option<(u64, u64)> {
    let (nonce, generation) = table.strip_prefix("seed_")?.split_once('_')?;
    let (nonce, generation) = (nonce.parse().ok()?, generation.parse().ok()?);
    (staging(nonce, generation) == table).then_some((nonce, generation))
}

/// What the names of all tables begin with into which a partition is copied for a staging table.
pub fn copy_prefix(nonce: u64, partition: PartitionId) -> String {
    format!("copy_{nonce}_{}_", partition.0)
}

/// The nonce of a table whose name begins with [`copy_prefix`].
pub fn parse_copy(table: &str) -> Option<u64> {
    table.strip_prefix("copy_")?.split_once('_')?.0.parse().ok()
}

/// Folder, at the root of a server's disk, in which parts gather that come from another server.
pub const TAKEN_FOLDER: &str = "cvh_taken";
/// What the names of all our freezes begin with.
const FROZEN_PREFIX: &str = "cvh_send_";

/// The name under which parts are frozen to be sent; `nonce` makes it a fresh one.
pub fn frozen(nonce: &str) -> String {
    format!("{FROZEN_PREFIX}{nonce}")
}

/// Whether something frozen is ours.
pub fn is_frozen(name: &str) -> bool {
    name.starts_with(FROZEN_PREFIX)
}

/// What a replica's own folder within [`TAKEN_FOLDER`] is called; `None` for a database that is none of ours.
pub fn taken_folder(database: &str) -> Option<String> {
    parse_replica_database(database).map(|(table, shard)| format!("{table}_{shard}"))
}

/// The table through which a client inserts by plain ClickHouse: `<table>__insert`.
pub fn insert_table(name: &TableName) -> TableName {
    TableName { database: name.database.clone(), table: format!("{}__insert", name.table) }
}

/// Path and query, on a daemon's HTTP address, by which a ClickHouse `URL` table inserts into this one.
///
/// The names are in the query: ClickHouse's HTTP client (seen on 18.16.1) undoes `%2F` in a path, and sends a query
/// as it is.
pub fn insert_path(name: &TableName) -> String {
    let (database, table) = (percent_encoded(&name.database), percent_encoded(&name.table));
    format!("/insert?database={database}&table={table}&format=JSONEachRow")
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn name(database: &str, table: &str) -> TableName {
        TableName { database: database.into(), table: table.into() }
    }

    #[test]
    fn replica_databases_round_trip_even_for_odd_names() {
        let table = TableId(Uuid::from_u128(0xdead_beef << 96));
        for odd in [name("shop", "events"), name("a.b", "c`d'e"), name("a__cvh00000000_s1", "日本")] {
            let database = replica_database(&odd, table, ShardId(7));
            assert_eq!(
                parse_replica_database(&database),
                Some(("deadbeef".into(), ShardId(7))),
                "{database}"
            );
        }
        assert!(!replica_database(&name("a.b", "c.d"), table, ShardId(7)).contains('.'));
        assert_eq!(parse_replica_database("shop__events"), None);
    }

    #[test]
    fn only_staging_tables_are_taken_for_them() {
        assert_eq!(parse_staging(&staging(u64::MAX, 3)), Some((u64::MAX, 3)));
        for other in ["local", "seed_", "seed_7", "seed_7_", "seed_07_1", "seed_7_1_1", "seed_-7_1", "gate_1"]
        {
            assert_eq!(parse_staging(other), None, "{other}");
        }
        assert_eq!(parse_copy(&(copy_prefix(7, PartitionId(3)) + "x")), Some(7));
        assert_eq!(parse_copy("copy_"), None);
    }

    #[test]
    fn topics_keep_to_kafkas_alphabet() {
        assert_eq!(topic_prefix(&name("shop", "events")), "shop.events");
        assert_eq!(topic_prefix(&name("a.b", "ü")), "a_2eb._c3_bc");
    }
}
