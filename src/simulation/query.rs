//! A query as ClickHouse makes it: one topology for the whole of it, one replica a shard, each read at its moment.
//!
//! The initiator takes the cluster of the user's `Distributed` table as its server has it loaded, picks a replica of
//! each shard, goes to the next one where a server does not answer, and puts the answers together. Sub-queries of
//! one query may start late (a full pool, a retry): that is what retired shards must outlive. The judgement of what
//! came back is [`judge`], pure.

use crate::adapters::clickhouse::{ClusterReplica, Error, HeldRows, SimClickHouse};
use crate::model::{PartitionId, Table, TableName};
use std::collections::BTreeMap;

/// How a query ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It saw these rows: each shard's partitions.
    Rows(Vec<BTreeMap<PartitionId, HeldRows>>),
    /// The initiator is down or has no such table (yet).
    NoTable,
    /// No replica of a shard answers.
    Unavailable,
    /// A server that answers holds no such database.
    Missing(String),
}

/// The topology that a query begun at this server now would use.
pub fn topology(initiator: &SimClickHouse, table: &TableName) -> Option<Vec<Vec<ClusterReplica>>> {
    let cluster = initiator.distributed().get(table)?.cluster.clone();
    let lines = initiator.topology(&cluster)?;
    let mut shards: BTreeMap<u32, Vec<ClusterReplica>> = BTreeMap::new();
    for line in lines.iter() {
        shards.entry(line.shard_num).or_default().push(line.clone());
    }
    Some(shards.into_values().collect())
}

/// One shard's part of a query: the replicas are tried in that order.
pub fn read_shard<'a>(
    replicas: impl Iterator<Item = &'a ClusterReplica>,
    server: impl Fn(&str) -> Option<SimClickHouse>,
) -> Result<BTreeMap<PartitionId, HeldRows>, Answer> {
    for replica in replicas {
        let Some(server) = server(&replica.host_name) else { continue };
        match server.read(&replica.default_database) {
            Ok(rows) => return Ok(rows),
            // ClickHouse asks for the table's state first, and goes on to the next replica; here that would hide a
            // shard that was dropped too early.
            Err(Error::Missing(_)) if server.disk_replaced() => {}
            Err(Error::Missing(what)) => {
                return Err(Answer::Missing(format!("{what} on {}", replica.host_name)));
            }
            Err(_) => {}
        }
    }
    Err(Answer::Unavailable)
}

/// What ONE-EPOCH forbids in these rows, if anything: per partition a gap-free prefix of offsets, no row twice.
pub fn judge(table: &Table, shards: &[BTreeMap<PartitionId, HeldRows>]) -> Option<String> {
    for partition in (0..table.partitions).map(PartitionId) {
        let mut held =
            shards.iter().filter_map(|shard| shard.get(&partition)).filter(|rows| rows.count() > 0);
        let Some(rows) = held.next() else { continue };
        if held.next().is_some() {
            return Some(format!("{partition} is in two shards of one query"));
        }
        if let Some(wrong) = judge_rows(table, partition, rows) {
            return Some(format!("{partition} {wrong}"));
        }
    }
    None
}

/// The same for one partition of one replica.
pub fn judge_rows(table: &Table, partition: PartitionId, rows: &HeldRows) -> Option<String> {
    if rows.count() == 0 {
        return None;
    }
    let origin = table.origin_offsets.get(&partition).copied().unwrap_or(0);
    let max = rows.max_offset().unwrap_or(origin);
    let expected = u64::try_from(max + 1 - origin).unwrap_or(0);
    if rows.doubled() > 0 {
        return Some(format!("has {} rows twice", rows.doubled()));
    }
    let runs: Vec<(i64, i64)> = rows.runs().collect();
    let whole = runs == [(origin, max + 1)] && rows.distinct() == expected;
    (!whole).then(|| format!("has holes: offsets {runs:?}, from {origin} on expected"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{Epoch, TableId};
    use crate::model::table::{ReplicationMode, Schema, Source, TableState};
    use crate::simulation::NewTable;

    fn table() -> Table {
        let request = NewTable::named("t").request();
        let schema = Schema { engine: "MergeTree".into(), ..Schema::default() };
        let source = Source {
            topic_prefix: "d.t".into(),
            layout: request.layout,
            format: request.format,
            format_settings: BTreeMap::new(),
            batch: request.batch,
        };
        Table {
            id: TableId(uuid::Uuid::nil()),
            name: NewTable::named("t").full_name(),
            state: TableState::Active,
            schema,
            ddl: request.ddl,
            partitions: 2,
            replicas: 1,
            partition_by: "id".into(),
            mode: ReplicationMode::Log,
            source,
            epoch: Epoch(1),
            next_shard: 2,
            origin_offsets: BTreeMap::from([(PartitionId(1), 5)]).into(),
            delete_topics: false,
            published_by: BTreeMap::new(),
        }
    }

    fn rows(offsets: impl IntoIterator<Item = i64>) -> HeldRows {
        let mut rows = HeldRows::default();
        offsets.into_iter().for_each(|offset| rows.insert(offset, 0));
        rows
    }

    #[test]
    fn a_gap_a_double_and_a_partition_in_two_shards_are_seen() {
        let whole = BTreeMap::from([(PartitionId(0), rows(0..10)), (PartitionId(1), rows(5..7))]);
        assert_eq!(judge(&table(), std::slice::from_ref(&whole)), None);
        assert_eq!(judge(&table(), &[]), None, "nothing is a prefix");
        let bad = [
            (vec![BTreeMap::from([(PartitionId(0), rows((0..4).chain(5..9)))])], "holes"),
            (vec![BTreeMap::from([(PartitionId(0), rows(1..4))])], "holes"),
            (vec![BTreeMap::from([(PartitionId(1), rows(0..7))])], "holes"),
            (vec![BTreeMap::from([(PartitionId(0), rows([0, 1, 1]))])], "twice"),
            (vec![whole.clone(), BTreeMap::from([(PartitionId(0), rows(0..1))])], "two shards"),
        ];
        for (shards, expected) in bad {
            let said = judge(&table(), &shards).unwrap();
            assert!(said.contains(expected), "{said}");
        }
    }
}
