//! The contract of [`ClickHouse`](super::ClickHouse) as a suite: the real servers and the simulated one pass it.
//!
//! Part of the library so that unit tests and `tests/` run the very same checks. A check panics with what it found.
//! Each works in databases of its own, so a server may hold other things and several suites may run on one.

mod copies;
mod gates;
mod inserts;
mod parts;
mod seeding;
mod tables;

use super::{ClickHouse, CopyLimits, Error, Insert, RemoteReplica, ReplicaTables};
use crate::model::names::{OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN, replica_database};
use crate::model::node::ClickHouseEndpoint;
use crate::model::table::{Column, MessageFormat, Schema};
use crate::model::{PartitionId, PartitionRange, ShardId, TableId, TableName};
use bytes::Bytes;
use copies::*;
use gates::*;
use inserts::*;
use parts::*;
use seeding::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use tables::*;
use uuid::Uuid;

/// A server that the one under test can copy from; it may be the same.
#[derive(Clone)]
pub struct Other {
    /// As a daemon beside it uses it.
    pub server: Arc<dyn ClickHouse>,
    /// As the server under test reaches it.
    pub endpoint: ClickHouseEndpoint,
}

/// How many partitions a table has in checks that look at all.
const PARTITIONS: u32 = 10;

/// Runs every check on one server. `run` makes names differ from another run's on the same server.
pub async fn run_all(server: Arc<dyn ClickHouse>, other: Other, run: u32) {
    macro_rules! run {
        ($($check:ident),+ $(,)?) => {
            let mut check = 0;
            $(
                check += 1;
                tracing::debug!(check = stringify!($check), "conformance");
                $check(Subject::new(server.clone(), other.clone(), run, check)).await;
            )+
        };
    }
    run!(
        a_server_tells_its_version,
        a_replica_is_made_once_and_twice_and_removed,
        a_replica_of_another_shape_is_a_conflict,
        rows_go_in_and_are_held,
        an_insert_over_two_time_parts_is_held_whole,
        every_format_goes_in,
        bad_rows_are_told_apart_and_leave_nothing,
        bad_rows_are_left_out_where_that_is_asked_for,
        an_insert_of_no_rows_is_taken_and_changes_nothing,
        an_insert_without_its_gate_is_missing,
        a_renewed_gate_has_a_higher_number_and_the_old_one_is_closed,
        an_insert_during_a_renewal_is_wholly_in_or_never,
        closed_gates_stay_closed_and_their_numbers_never_come_again,
        a_replica_made_again_does_not_take_what_was_sent_to_the_one_before,
        links_give_the_sources_rows_once,
        links_made_during_inserts_are_exact_after_the_gates_closed,
        a_replica_splits_in_two_that_go_on_by_themselves,
        two_replicas_become_one,
        of_two_that_seed_one_stands,
        what_is_not_there_cannot_be_seeded,
        a_copy_gives_one_partition_as_it_is_elsewhere,
        a_copy_that_fails_leaves_the_rest_alone,
        digests_tell_equal_ranges_from_others,
        parts_give_one_partition_as_it_is_elsewhere,
        parts_that_break_off_are_not_sent_again,
        parts_that_are_not_as_told_change_nothing,
        a_newer_server_sends_no_parts,
        a_staging_table_tells_its_room_and_disks_are_synced_where_they_are_found,
        sizes_count_what_is_there,
        other_databases_are_not_touched,
    );
}

/// One check's share of a server.
struct Subject {
    server: Arc<dyn ClickHouse>,
    other: Other,
    database: String,
    name: TableName,
}

impl Subject {
    fn new(server: Arc<dyn ClickHouse>, other: Other, run: u32, check: u32) -> Self {
        let name = TableName { database: format!("conf.{run}"), table: format!("t`{check}'\"日") };
        let table = TableId(Uuid::from_u128((u128::from(run) << 96) + u128::from(check)));
        let database = replica_database(&name, table, ShardId(check));
        Self { server, other, database, name }
    }

    /// Another shard of the table on the same server.
    fn beside(&self, shard: u32) -> Self {
        let (server, other, name) = (self.server.clone(), self.other.clone(), self.name.clone());
        let database = replica_database(&name, TableId(Uuid::from_u128(u128::from(shard))), ShardId(shard));
        Self { server, other, database, name }
    }

    /// The like on the other server.
    fn elsewhere(&self, shard: u32) -> Self {
        Self { server: self.other.server.clone(), ..self.beside(shard) }
    }

    /// It, as the server under test reaches it on the other server.
    fn remote(&self) -> RemoteReplica {
        let ClickHouseEndpoint { host, port, secure, user, password } = self.other.endpoint.clone();
        RemoteReplica { host, port, user, password, secure, database: self.database.clone() }
    }

    fn replica(&self) -> ReplicaTables {
        ReplicaTables { database: self.database.clone(), schema: schema() }
    }

    /// Makes the replica and its first gate.
    async fn with_gate(&self) -> u64 {
        self.server.create_replica(&self.replica()).await.expect("a replica is made");
        self.server.renew_gate(&self.database).await.expect("a gate opens")
    }

    fn insert(&self, gate: u64, format: MessageFormat, body: String, rows: u32) -> Insert {
        let columns = [PARTITION_COLUMN, OFFSET_COLUMN, ROW_COLUMN, "ts", "text", "odd `name'"];
        Insert {
            database: self.database.clone(),
            gate,
            columns: columns.map(str::to_owned).to_vec(),
            format,
            format_settings: BTreeMap::new(),
            rows,
            skip_bad_rows: false,
            body: Bytes::from(body),
            query_id: format!("conformance-{}", Uuid::new_v4()),
            deadline_ms: 60_000,
        }
    }

    /// Puts one row for each offset into a partition.
    async fn put(&self, gate: u64, partition: u32, offsets: std::ops::Range<i64>) -> Result<(), Error> {
        let rows = u32::try_from(offsets.end - offsets.start).expect("few");
        let lines = offsets.map(|offset| csv(partition, offset, "2026-01-02 00:00:00"));
        self.server.insert(self.insert(gate, MessageFormat::CSV, lines.collect(), rows)).await
    }

    /// Puts rows into a partition, in two months.
    async fn fill(&self, gate: u64, partition: u32, offsets: std::ops::Range<i64>) {
        let rows = u32::try_from(offsets.end - offsets.start).expect("few");
        let ts = |offset: i64| format!("2026-0{}-03 00:00:00", 1 + offset % 2);
        let body: String = offsets.map(|offset| csv(partition, offset, &ts(offset))).collect();
        let insert = self.insert(gate, MessageFormat::CSV, body, rows);
        self.server.insert(insert).await.expect("inserted");
    }

    /// Offsets by partition, of ten partitions.
    async fn all(&self) -> Vec<Vec<i64>> {
        let mut all = Vec::new();
        for partition in 0..PARTITIONS {
            all.push(self.held(partition, 0).await);
        }
        all
    }

    async fn held(&self, partition: u32, from: i64) -> Vec<i64> {
        let held = self.server.holdings(&self.database, PartitionId(partition), from).await;
        held.expect("holdings are told").rows.into_iter().map(|(offset, _)| offset).collect()
    }

    async fn end(self) {
        self.server.drop_replica(&self.database).await.expect("a replica is removed");
    }
}

fn csv(partition: u32, offset: i64, ts: &str) -> String {
    format!("{partition},{offset},0,\"{ts}\",\"text {offset}\",{offset}\n")
}

fn column(name: &str, data_type: &str, default: Option<(&str, &str)>) -> Column {
    let (kind, expression) = default.unwrap_or_default();
    Column {
        name: name.into(),
        data_type: data_type.into(),
        default_kind: kind.into(),
        default_expression: expression.into(),
        codec: String::new(),
    }
}

/// Time parts, an odd name, and one column of each default kind.
fn schema() -> Schema {
    Schema {
        columns: vec![
            column("ts", "DateTime", None),
            column("text", "String", None),
            column("odd `name'", "Int64", Some(("DEFAULT", "length(text)"))),
            column("upper", "String", Some(("MATERIALIZED", "upper(text)"))),
            column("next", "DateTime", Some(("ALIAS", "ts + 1"))),
        ],
        engine: "MergeTree".into(),
        engine_arguments: String::new(),
        partition_key: "toYYYYMM(ts)".into(),
        sorting_key: "ts, text".into(),
        primary_key: "ts".into(),
        sampling_key: String::new(),
        ttl: String::new(),
        settings: "index_granularity = 4096".into(),
    }
}
