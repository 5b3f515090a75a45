//! A simulated server at the far end of a [`Line`]: what the daemon beside it sees of it.

use super::{
    ClickHouse, ClusterReplica, CopyLimits, DistributedTable, Error, Holdings, Insert, InsertFault, Opened,
    Pieces, RemoteReplica, ReplicaSizes, ReplicaTables, ServerInfo, Shut, SimClickHouse,
};
use crate::adapters::faults::{Call, Line, Trouble};
use crate::model::parts::{HeldFile, WantedParts};
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Schema};
use crate::model::verify::Digest;
use crate::model::{PartitionId, PartitionRange, TableName};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;

/// How long a daemon waits for what is not an insert.
const DEADLINE_MS: u64 = 30_000;
/// When a daemon sees that no copy runs that it waits for.
const LOST_COPY_MS: u64 = 30_000;
/// When links break off that are carried out in part: within the second partition, at the pace of a healthy server.
const LINKS_BREAK_OFF_MS: u64 = 9;
/// How long a partition's parts may take to come; who sends them tells of what is slower.
const TAKE_DEADLINE_MS: u64 = 24 * 3_600_000;

/// See the module.
pub struct FaultyClickHouse {
    server: SimClickHouse,
    line: Line,
}

impl FaultyClickHouse {
    /// The server behind that line.
    pub fn new(server: SimClickHouse, line: Line) -> Self {
        Self { server, line }
    }

    async fn ask<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        self.carry(Call::asks(verb, DEADLINE_MS), effect).await
    }

    async fn change<T>(
        &self,
        verb: &'static str,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        self.carry(Call::changes(verb, DEADLINE_MS), effect).await
    }

    async fn carry<T>(
        &self,
        call: Call,
        effect: impl Future<Output = Result<T, Error>> + Send,
    ) -> Result<T, Error> {
        let url = || "sim://clickhouse".to_owned();
        let failed = |trouble| match (trouble, call.changes) {
            (Trouble::Lost, true) => {
                Error::OutcomeUnknown { what: call.verb.into(), reason: "simulated: no answer".into() }
            }
            _ => Error::Unreachable { url: url(), reason: "simulated: no connection".into() },
        };
        self.line.carry(call, effect, failed).await
    }
}

#[async_trait]
impl ClickHouse for FaultyClickHouse {
    async fn server_info(&self) -> Result<ServerInfo, Error> {
        self.ask("server_info", self.server.server_info()).await
    }

    async fn parse_ddl(&self, ddl: &str, nonce: u64) -> Result<(TableName, Schema), Error> {
        self.change("parse_ddl", self.server.parse_ddl(ddl, nonce)).await
    }

    async fn type_of(&self, schema: &Schema, expression: &str) -> Result<String, Error> {
        self.ask("type_of", self.server.type_of(schema, expression)).await
    }

    async fn partitions_of(
        &self,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error> {
        let work = self.server.partitions_of(schema, expression, partitions, format, body);
        self.ask("partitions_of", work).await
    }

    async fn create_replica(&self, replica: &ReplicaTables) -> Result<(), Error> {
        self.change("create_replica", self.server.create_replica(replica)).await
    }

    async fn drop_replica(&self, database: &str) -> Result<(), Error> {
        self.change("drop_replica", self.server.drop_replica(database)).await
    }

    async fn replica_databases(&self) -> Result<Shared<Vec<String>>, Error> {
        self.ask("replica_databases", self.server.replica_databases()).await
    }

    async fn open_gate(&self, database: &str) -> Result<Opened, Error> {
        self.change("open_gate", self.server.open_gate(database)).await
    }

    async fn has_local(&self, database: &str) -> Result<bool, Error> {
        self.ask("has_local", self.server.has_local(database)).await
    }

    async fn shut_gates(&self, database: &str) -> Result<Shut, Error> {
        self.change("shut_gates", self.server.shut_gates(database)).await
    }

    async fn newest_gate(&self, database: &str) -> Result<u64, Error> {
        self.ask("newest_gate", self.server.newest_gate(database)).await
    }

    async fn begin_seed(&self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error> {
        self.change("begin_seed", self.server.begin_seed(replica, nonce)).await
    }

    async fn link_partitions(
        &self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<u64, Error> {
        let breaks_off = self.line.happens(self.line.weather().partial_per_mille);
        let deadline_ms = if breaks_off { LINKS_BREAK_OFF_MS } else { DEADLINE_MS };
        let links = self.server.link_partitions(database, nonce, source, range);
        self.carry(Call::changes("link_partitions", deadline_ms), links).await
    }

    async fn copy_partition(
        &self,
        database: &str,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        limits: CopyLimits,
    ) -> Result<u64, Error> {
        let work = self.server.copy_partition(database, nonce, source, partition, limits);
        // Longer than the copy may take, which tells of its own lateness; whether it runs at all is looked after.
        let call = Call {
            lost_after_ms: LOST_COPY_MS,
            ..Call::changes("copy_partition", limits.deadline_ms.saturating_add(DEADLINE_MS))
        };
        self.carry(call, work).await
    }

    async fn remote_sizes(
        &self,
        source: &RemoteReplica,
    ) -> Result<BTreeMap<PartitionId, ReplicaSizes>, Error> {
        self.ask("remote_sizes", self.server.remote_sizes(source)).await
    }

    async fn send_partition(&self, wanted: WantedParts) -> Result<Pieces, Error> {
        self.ask("send_partition", self.server.send_partition(wanted)).await
    }

    async fn files_held(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
    ) -> Result<Vec<HeldFile>, Error> {
        self.ask("files_held", self.server.files_held(database, nonce, from, partition)).await
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
        let work = self.server.take_partition(database, nonce, from, partition, held, pieces);
        let call = Call { lost_after_ms: LOST_COPY_MS, ..Call::changes("take_partition", TAKE_DEADLINE_MS) };
        self.carry(call, work).await
    }

    async fn sweep_parts(&self) -> Result<(), Error> {
        self.change("sweep_parts", self.server.sweep_parts()).await
    }

    async fn room(&self, database: &str, nonce: u64) -> Result<Option<u64>, Error> {
        self.ask("room", self.server.room(database, nonce)).await
    }

    /// The daemon's own work on the disks beside it: nothing goes over the line.
    async fn sync_disks(&self) -> Result<(), Error> {
        self.server.sync_disks().await
    }

    async fn finish_seed(&self, database: &str, nonce: u64) -> Result<bool, Error> {
        self.change("finish_seed", self.server.finish_seed(database, nonce)).await
    }

    async fn running_queries(&self) -> Result<BTreeSet<String>, Error> {
        self.ask("running_queries", self.server.running_queries()).await
    }

    /// Faults on the server's side of an insert (partly in, late, slow) are the weather's too.
    async fn insert(&self, insert: Insert) -> Result<(), Error> {
        let deadline_ms = insert.deadline_ms;
        let partial = self.line.weather().partial_per_mille;
        let fault =
            [InsertFault::HalfIn, InsertFault::Late { by_ms: 20_000 }, InsertFault::Slow { by_ms: 2_000 }]
                .into_iter()
                .find(|_| self.line.happens(partial));
        let work = async move {
            if let Some(fault) = fault {
                self.server.fail_next_insert(fault);
            }
            self.server.insert(insert).await
        };
        self.carry(Call::changes("insert", deadline_ms), work).await
    }

    async fn holdings(&self, database: &str, partition: PartitionId, from: i64) -> Result<Holdings, Error> {
        self.ask("holdings", self.server.holdings(database, partition, from)).await
    }

    async fn digest(
        &self,
        database: &str,
        partition: PartitionId,
        from: i64,
        below: i64,
    ) -> Result<Digest, Error> {
        self.ask("digest", self.server.digest(database, partition, from, below)).await
    }

    async fn sizes(&self) -> Result<Shared<BTreeMap<String, ReplicaSizes>>, Error> {
        self.ask("sizes", self.server.sizes()).await
    }

    async fn create_distributed(&self, table: &DistributedTable) -> Result<(), Error> {
        self.change("create_distributed", self.server.create_distributed(table)).await
    }

    async fn drop_distributed(&self, name: &TableName, cluster: &str) -> Result<(), Error> {
        self.change("drop_distributed", self.server.drop_distributed(name, cluster)).await
    }

    async fn reload_config(&self) -> Result<(), Error> {
        self.change("reload_config", self.server.reload_config()).await
    }

    async fn cluster(&self, name: &str) -> Result<Arc<Vec<ClusterReplica>>, Error> {
        self.ask("cluster", self.server.cluster(name)).await
    }
}
