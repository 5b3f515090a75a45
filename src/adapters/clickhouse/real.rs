//! The real server: each verb as a sequence of statements.

use super::errcode::{self, Doing};
use super::http::{Call, Settings, Transport};
use super::parts::{Access, ByParts};
use super::seed::Memory;
use super::statement::Statement;
use super::versions::Capabilities;
use super::{
    ClickHouse, ClusterReplica, CopyLimits, DistributedTable, Error, Holdings, Insert, Opened, Pieces,
    RemoteReplica, ReplicaSizes, ReplicaTables, ServerInfo, Shut, ddl,
};
use crate::adapters::clock::{Clock, SystemClock};
use crate::model::names::{self, LOCAL_TABLE, parse_replica_database};
use crate::model::node::Secret;
use crate::model::parts::{HeldFile, WantedParts};
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Schema};
use crate::model::verify::Digest;
use crate::model::{PartitionId, PartitionRange, TableName};
use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// For looks at system tables.
const READ_DEADLINE: Duration = Duration::from_secs(15);
/// How often a system table is looked at that is said not to be there: so 18.16 answers if one of the tables that it is
/// about to tell of goes at that moment.
const LOOKS_MAX: u32 = 5;
/// For looks that read a whole partition of data.
pub(super) const SCAN_DEADLINE: Duration = Duration::from_secs(300);
/// For making and dropping; a drop waits for the queries that use the table.
pub(super) const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

/// A ClickHouse server over HTTP.
pub struct HttpClickHouse {
    transport: Transport,
    clock: SystemClock,
    /// Learnt from the first answer, and again with every [`ClickHouse::server_info`]: servers are upgraded.
    capabilities: Mutex<Option<Capabilities>>,
    /// What staging tables are made of.
    seeding: Mutex<Memory>,
    /// Replicas whose gates were closed for good; each is held while that is done: who does so at the same moment finds
    /// them closed.
    closed: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<Shut>>>>,
    parts: Access,
}

impl HttpClickHouse {
    /// `url` is `http(s)://host:port` of the server's HTTP interface. Nothing is sent yet.
    pub fn new(url: &str, user: &str, password: &Secret) -> Self {
        Self {
            transport: Transport::new(url, user, password),
            clock: SystemClock::new(),
            capabilities: Mutex::new(None),
            seeding: Mutex::default(),
            closed: Mutex::default(),
            parts: Access::default(),
        }
    }

    /// The same, with another way to its files than that they are where the server says.
    #[must_use]
    pub fn with_parts(mut self, options: ByParts) -> Self {
        self.parts.options = options;
        self
    }

    pub(super) fn parts(&self) -> &Access {
        &self.parts
    }

    pub(super) fn seeding(&self) -> MutexGuard<'_, Memory> {
        self.seeding.lock().expect("no panic while held")
    }

    pub(super) fn closed(&self) -> MutexGuard<'_, BTreeMap<String, Arc<tokio::sync::Mutex<Shut>>>> {
        self.closed.lock().expect("no panic while held")
    }

    pub(super) fn unix_s(&self) -> u64 {
        self.clock.unix_ms() / 1000
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// What the server can do; asks it the first time.
    pub(super) async fn capabilities(&self) -> Result<Capabilities, Error> {
        let known = *self.capabilities.lock().expect("no panic while held");
        match known {
            Some(known) => Ok(known),
            None => self.version().await.map(|(_, _, can)| can),
        }
    }

    /// The server's version, as it tells it.
    pub(super) async fn release(&self) -> Result<String, Error> {
        self.version().await.map(|(version, _, _)| version)
    }

    async fn version(&self) -> Result<(String, u64, Capabilities), Error> {
        let call = Call {
            statement: &Statement::Server,
            doing: Doing::Read,
            what: "version",
            settings: Settings::new(),
            deadline: READ_DEADLINE,
        };
        let rows = self.transport.rows(call, &Capabilities::of("")).await?;
        let Some([version, uptime]) = rows.first().and_then(|row| row.first_chunk::<2>()) else {
            let reason = "it does not answer like ClickHouse".to_owned();
            return Err(Error::Unreachable { url: self.transport.url().to_owned(), reason });
        };
        let can = Capabilities::of(version);
        *self.capabilities.lock().expect("no panic while held") = Some(can);
        Ok((version.clone(), uptime.parse().unwrap_or(0), can))
    }

    /// Runs a statement that changes something.
    pub(super) fn change<'a>(
        &'a self,
        statement: &'a Statement<'a>,
        what: &'a str,
        settings: Settings,
    ) -> BoxFuture<'a, Result<(), Error>> {
        // Boxed, as `look` is: dozens of callers wait for it, and the compiler would look into each anew.
        Box::pin(async move {
            let can = self.capabilities().await?;
            let call = Call { statement, doing: Doing::Change, what, settings, deadline: CHANGE_DEADLINE };
            self.transport.execute(call, &can).await
        })
    }

    /// The rows of a look.
    pub(super) fn look<'a>(
        &'a self,
        statement: &'a Statement<'a>,
        what: &'a str,
        doing: Doing,
    ) -> BoxFuture<'a, Result<Vec<Vec<String>>, Error>> {
        Box::pin(async move {
            let can = self.capabilities().await?;
            let mut looks = 1;
            loop {
                let settings = Settings::new();
                let call = Call { statement, doing, what, settings, deadline: READ_DEADLINE };
                match self.transport.rows(call, &can).await {
                    Err(Error::Missing(_)) if looks < LOOKS_MAX => looks += 1,
                    rows => return rows,
                }
            }
        })
    }

    /// The first column of a look.
    pub(super) async fn names(&self, statement: &Statement<'_>) -> Result<Vec<String>, Error> {
        let rows = self.look(statement, "system tables", Doing::Read).await?;
        Ok(rows.into_iter().filter_map(|row| row.into_iter().next()).collect())
    }

    async fn scan(&self, statement: &Statement<'_>, what: &str, format: &str) -> Result<Bytes, Error> {
        let can = self.capabilities().await?;
        let call =
            Call { statement, doing: Doing::Read, what, settings: Settings::new(), deadline: SCAN_DEADLINE };
        self.transport.bytes(call, &can, format).await
    }
}

/// Settings that make one insert one block, acknowledged only when it is in the table.
pub(super) fn insert_settings(
    format_settings: &BTreeMap<String, String>,
    bad_rows_max: u32,
    can: &Capabilities,
) -> Settings {
    // Before the user's, who may want it: a message of another table must be an error, and is one on old servers.
    let mut settings: Settings = vec![("input_format_skip_unknown_fields".to_owned(), "0".to_owned())];
    settings.extend(format_settings.iter().map(|(name, value)| (name.clone(), value.clone())));
    let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
    set("max_insert_block_size", "1000000000");
    // Without parallel parsing a body is one block already; to be gathered anyhow it would be copied once more.
    let gather_rows = if can.parallel_parsing { "1000000000" } else { "0" };
    set("min_insert_block_size_rows", gather_rows);
    set("min_insert_block_size_bytes", "0");
    // A value of the wrong kind must be an error of its row, not a guess.
    set("input_format_allow_errors_num", &bad_rows_max.to_string());
    set("input_format_allow_errors_ratio", "0");
    if can.parallel_parsing {
        set("input_format_parallel_parsing", "0");
    }
    if can.async_insert {
        set("async_insert", "0");
    }
    if can.partitions_per_insert {
        set("max_partitions_per_insert_block", "0");
    }
    settings
}

#[async_trait]
impl ClickHouse for HttpClickHouse {
    async fn server_info(&self) -> Result<ServerInfo, Error> {
        let (version, uptime_s, _) = self.version().await?;
        let rows = self.look(&Statement::Disk, "disk", Doing::Read).await?;
        let number = |at: usize| rows.first().and_then(|row| row.get(at)?.parse().ok()).unwrap_or(0);
        Ok(ServerInfo { version, uptime_s, disk_total_bytes: number(0), disk_free_bytes: number(1) })
    }

    async fn parse_ddl(&self, ddl: &str, nonce: u64) -> Result<(TableName, Schema), Error> {
        self.schema_by_scratch(ddl, nonce).await
    }

    async fn type_of(&self, schema: &Schema, expression: &str) -> Result<String, Error> {
        self.expression_type(schema, expression).await
    }

    async fn partitions_of(
        &self,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error> {
        self.evaluate_partitions(schema, expression, partitions, format, body).await
    }

    async fn create_replica(&self, replica: &ReplicaTables) -> Result<(), Error> {
        self.make_replica(replica).await
    }

    async fn has_local(&self, database: &str) -> Result<bool, Error> {
        Ok(self.described(&Self::local(database)).await?.is_some())
    }

    async fn begin_seed(&self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error> {
        self.begin(replica, nonce).await
    }

    async fn link_partitions(
        &self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<u64, Error> {
        self.link(database, nonce, source, range).await
    }

    async fn copy_partition(
        &self,
        database: &str,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        limits: CopyLimits,
    ) -> Result<u64, Error> {
        self.copy(database, nonce, source, partition, limits).await
    }

    async fn remote_sizes(
        &self,
        source: &RemoteReplica,
    ) -> Result<BTreeMap<PartitionId, ReplicaSizes>, Error> {
        self.sizes_elsewhere(source).await
    }

    async fn send_partition(&self, wanted: WantedParts) -> Result<Pieces, Error> {
        self.send(wanted).await
    }

    async fn files_held(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
    ) -> Result<Vec<HeldFile>, Error> {
        self.held(database, nonce, from, partition).await
    }

    async fn take_partition(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
        held: Vec<HeldFile>,
        pieces: Pieces,
    ) -> Result<u64, Error> {
        self.take(database, nonce, (from, partition), held, pieces).await
    }

    async fn sweep_parts(&self) -> Result<(), Error> {
        self.sweep().await
    }

    async fn room(&self, database: &str, nonce: u64) -> Result<Option<u64>, Error> {
        self.room_for(database, nonce).await
    }

    async fn sync_disks(&self) -> Result<(), Error> {
        self.sync_roots().await
    }

    async fn finish_seed(&self, database: &str, nonce: u64) -> Result<bool, Error> {
        self.finish(database, nonce).await
    }

    async fn drop_replica(&self, database: &str) -> Result<(), Error> {
        ddl::check_replica_database(database)?;
        // A copy that is not wanted any more would hold its table until it ended by itself.
        self.kill(&super::seed::id_prefix_of_all(database)).await?;
        self.remove_database(database).await?;
        self.closed().remove(database);
        self.seeding().retain(|(seeded, _), _| seeded != database);
        if let Ok(gathered) = self.taken_folders(database).await {
            self.forget_taken(gathered).await;
        }
        Ok(())
    }

    async fn replica_databases(&self) -> Result<Shared<Vec<String>>, Error> {
        let mut found = self.names(&Statement::Databases).await?;
        found.retain(|database| parse_replica_database(database).is_some());
        Ok(found.into())
    }

    async fn open_gate(&self, database: &str) -> Result<Opened, Error> {
        self.renew(database).await
    }

    async fn shut_gates(&self, database: &str) -> Result<Shut, Error> {
        self.close(database).await
    }

    async fn newest_gate(&self, database: &str) -> Result<u64, Error> {
        self.newest(database).await
    }

    async fn insert(&self, insert: Insert) -> Result<(), Error> {
        let can = self.capabilities().await?;
        let name = TableName { database: insert.database.clone(), table: names::gate(insert.gate) };
        let columns = if insert.format == MessageFormat::JSONEachRow { &[][..] } else { &insert.columns };
        let statement = Statement::Insert { name: &name, columns, format: insert.format };
        let bad_rows_max = if insert.skip_bad_rows { insert.rows } else { 0 };
        let mut settings = insert_settings(&insert.format_settings, bad_rows_max, &can);
        settings.push(("query_id".into(), super::gates::query_id(&insert)));
        let deadline = Duration::from_millis(insert.deadline_ms);
        let what = name.to_string();
        let call = Call { statement: &statement, doing: Doing::Insert, what: &what, settings, deadline };
        match self.transport.insert(call, &can, insert.body).await {
            Err(Error::Refused { code: errcode::NO_DATA, .. }) if insert.rows == 0 => Ok(()),
            outcome => outcome,
        }
    }

    async fn holdings(&self, database: &str, partition: PartitionId, from: i64) -> Result<Holdings, Error> {
        // Each of the two reads all of the partition's offsets, so only one is asked where it tells both.
        let mut rows = Vec::new();
        if from < i64::MAX {
            let held = Statement::Holdings { database, partition, from: u64::try_from(from).unwrap_or(0) };
            rows = offsets(&self.scan(&held, database, "RowBinary").await?);
        }
        if let Some((offset, _)) = rows.last() {
            return Ok(Holdings { max_offset: Some(*offset), rows });
        }
        let highest = Statement::HighestOffset { database, partition };
        let told = super::tsv::rows(&self.scan(&highest, database, "TabSeparated").await?);
        match told.first().and_then(|row| row.first_chunk::<2>()) {
            Some([count, max]) if count != "0" => Ok(Holdings { max_offset: max.parse().ok(), rows }),
            _ => Ok(Holdings::default()),
        }
    }

    async fn digest(
        &self,
        database: &str,
        partition: PartitionId,
        from: i64,
        below: i64,
    ) -> Result<Digest, Error> {
        self.digest_of(database, partition, (from, below)).await
    }

    async fn sizes(&self) -> Result<Shared<BTreeMap<String, ReplicaSizes>>, Error> {
        let rows = self.look(&Statement::Sizes, "system.parts", Doing::Read).await?;
        let number = |text: &String| text.parse().unwrap_or(0);
        let sizes = rows.into_iter().filter_map(|row| {
            let [database, bytes, rows, parts] = row.first_chunk::<4>()?;
            parse_replica_database(database)?;
            let sizes = ReplicaSizes { bytes: number(bytes), rows: number(rows), parts: number(parts) };
            Some((database.clone(), sizes))
        });
        Ok(Shared::from(sizes.collect::<BTreeMap<_, _>>()))
    }

    async fn create_distributed(&self, table: &DistributedTable) -> Result<(), Error> {
        self.make_distributed(table).await
    }

    async fn drop_distributed(&self, name: &TableName, cluster: &str) -> Result<(), Error> {
        self.remove_distributed(name, cluster).await
    }

    async fn reload_config(&self) -> Result<(), Error> {
        self.change(&Statement::ReloadConfig, "configuration", Settings::new()).await
    }

    async fn cluster(&self, name: &str) -> Result<Arc<Vec<ClusterReplica>>, Error> {
        let rows = self.look(&Statement::Cluster(name), "system.clusters", Doing::Read).await?;
        let replica = |row: Vec<String>| {
            let [shard_num, shard_weight, replica_num, host_name, port, default_database] =
                row.try_into().ok()?;
            Some(ClusterReplica {
                shard_num: shard_num.parse().ok()?,
                shard_weight: shard_weight.parse().ok()?,
                replica_num: replica_num.parse().ok()?,
                host_name,
                port: port.parse().ok()?,
                default_database,
            })
        };
        Ok(Arc::new(rows.into_iter().filter_map(replica).collect()))
    }

    async fn running_queries(&self) -> Result<BTreeSet<String>, Error> {
        Ok(self.names(&Statement::UserQueries).await?.into_iter().collect())
    }
}

/// Pairs of `UInt64` and `UInt32` in `RowBinary`.
fn offsets(body: &[u8]) -> Vec<(i64, u32)> {
    let (pairs, _) = body.as_chunks::<12>();
    let pair = |pair: &[u8; 12]| {
        let (offset, row) = pair.split_at(8);
        let offset = u64::from_le_bytes(offset.try_into().expect("eight bytes"));
        let row = u32::from_le_bytes(row.try_into().expect("four bytes"));
        (i64::try_from(offset).unwrap_or(i64::MAX), row)
    };
    pairs.iter().map(pair).collect()
}

impl HttpClickHouse {
    /// The local table of a replica database.
    pub(super) fn local(database: &str) -> TableName {
        TableName { database: database.to_owned(), table: LOCAL_TABLE.to_owned() }
    }
}
