//! ClickHouse in `tokio`'s time, without a server: the same contract, deterministic, and faults on request.
//!
//! It keeps offsets and row numbers of what it was given, sizes, and nothing else of a row. Of a row's text it reads
//! the hidden columns and, for time parts, the first `YYYY-MM`. An insert goes on when its sender gives up, as on a
//! real server. It evaluates no SQL: see `sim_ddl` for how far it reads a `CREATE TABLE`.

use super::sim_seed::{SimServers, told_by};
use super::sim_world::{Replica, World};
use super::{
    ClickHouse, ClusterReplica, CopyLimits, DistributedTable, Error, Holdings, Insert, Opened, Pieces,
    RemoteReplica, ReplicaSizes, ReplicaTables, ServerInfo, Shut, ddl, sim_ddl,
};
use crate::adapters::routes::SimRoutes;
use crate::model::names::gate;
use crate::model::parts::{HeldFile, WantedParts};
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Schema, TableName};
use crate::model::{PartitionId, PartitionRange, verify::Digest};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// What becomes of one insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertFault {
    /// It never reaches the server.
    LostRequest,
    /// It is carried out; the answer never arrives.
    LostAnswer,
    /// It is carried out so much later, unless its gate is closed by then; the sender is told nothing.
    Late {
        /// How much later.
        by_ms: u64,
    },
    /// The first time part goes in, then the server dies for a moment: the sender is told nothing.
    HalfIn,
    /// It takes so much longer and is answered.
    Slow {
        /// How much longer.
        by_ms: u64,
    },
}

/// A simulated server. Clones are handles on the same one.
#[derive(Clone)]
pub struct SimClickHouse {
    world: Arc<Mutex<World>>,
}

impl SimClickHouse {
    /// An empty server, up and without latency, that reads its clusters from `routes`. Made inside the runtime whose
    /// time it keeps.
    pub fn new(routes: SimRoutes) -> Self {
        Self::of(Arc::new(Mutex::new(World::new(routes, Instant::now()))))
    }

    pub(super) fn of(world: Arc<Mutex<World>>) -> Self {
        Self { world }
    }

    /// Joins a network under an address, by which other servers there copy from it; it copies from those.
    pub fn join(&self, network: &SimServers, host: &str, port: u16) {
        network.add(host, port, &self.world);
        self.world().network = Some(network.clone());
    }

    /// What a copy of one partition takes beside the calls.
    pub fn set_copy_ms(&self, copy_ms: u64) {
        self.world().copy_ms = copy_ms;
    }

    /// The queries of users that run on it.
    pub fn set_running_queries(&self, ids: BTreeSet<String>) {
        self.world().queries = ids;
    }

    /// A user's query begins here; it ends with [`SimClickHouse::end_query`] or with the server.
    pub fn begin_query(&self, id: &str) {
        self.world().queries.insert(id.to_owned());
    }

    /// It ends; tells whether it still ran.
    pub fn end_query(&self, id: &str) -> bool {
        self.world().queries.remove(id)
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic while held")
    }

    /// What each call takes.
    pub fn set_latency_ms(&self, latency_ms: u64) {
        self.world().latency_ms = latency_ms;
    }

    /// Takes the server down, or brings it up again as after a restart: what it holds is still there.
    pub fn set_up(&self, up: bool) {
        let mut world = self.world();
        if up && !world.up {
            world.started = Instant::now();
            // A file that cannot be read changes nothing.
            let _ = world.load_clusters();
        }
        if !up {
            world.queries.clear();
        }
        world.up = up;
    }

    /// Broken on purpose: a gate that was closed or replaced still lets inserts in. Shows that the simulator would
    /// notice if inserts were not fenced.
    pub fn leave_gates_open(&self) {
        self.world().gates_stay_open = true;
    }

    /// The disk: writes are refused when nothing is free.
    pub fn set_disk(&self, total_bytes: u64, free_bytes: u64) {
        let mut world = self.world();
        (world.disk_total_bytes, world.disk_free_bytes) = (total_bytes, free_bytes);
    }

    /// The version it tells.
    pub fn set_version(&self, version: &str) {
        version.clone_into(&mut self.world().version);
    }

    /// What becomes of the next insert; several are taken in turn.
    pub fn fail_next_insert(&self, fault: InsertFault) {
        self.world().faults.push_back(fault);
    }

    /// Inserts that were to fail no longer do.
    pub fn forget_faults(&self) {
        self.world().faults.clear();
    }

    /// A table that is somebody else's stands under this name.
    pub fn add_foreign_table(&self, name: TableName) {
        self.world().foreign.insert(name);
    }

    /// The user-facing tables that are there.
    pub fn distributed(&self) -> BTreeMap<TableName, DistributedTable> {
        self.world().distributed.clone()
    }

    /// Waits as long as a call takes, then looks at the server if it is up.
    pub(super) async fn call<T>(
        &self,
        then: impl FnOnce(&mut World) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let latency_ms = self.world().latency_ms;
        if latency_ms > 0 {
            sleep(Duration::from_millis(latency_ms)).await;
        }
        let mut world = self.world();
        world.check_up()?;
        then(&mut world)
    }

    /// Waits until no insert is inside a replica whose gate was closed; `left` tells of each that ends.
    async fn wait_for_inserts(&self, database: &str, left: &Notify) -> Result<(), Error> {
        loop {
            // Made before looking, so that a leaver between look and wait is not missed.
            let leaving = left.notified();
            let inside = |world: &mut World| world.replicas.get(database).map_or(0, |replica| replica.inside);
            if self.call(|world| Ok(inside(world) == 0)).await? {
                return Ok(());
            }
            leaving.await;
        }
    }

    async fn copied(
        &self,
        database: &str,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        own_bytes_per_s: u64,
    ) -> Result<u64, Error> {
        let (peer, copy_ms, run) = self
            .call(|world| {
                world.check_disk()?;
                world.seed(database, nonce)?;
                Ok((world.peer(source)?, world.copy_ms, world.started))
            })
            .await?;
        let snapshot = peer
            .call(|world| {
                let (mutating, run) = (world.mutating, world.started);
                let rows = world.replica(&source.database)?.taken(partition);
                if mutating { Err(Error::Mutating(source.database.clone())) } else { Ok((rows, run)) }
            })
            .await;
        let (rows, theirs) = snapshot.map_err(|error| told_by(source, error))?;
        sleep(Duration::from_millis(copy_ms)).await;
        self.come_through(&peer, rows.bytes(), own_bytes_per_s).await;
        let died = self.copy_died(run, (&peer, theirs), source);
        died.map_or(Ok(()), Err)?;
        self.call(|world| world.put_copy((database, nonce), partition, rows)).await
    }

    /// The server's side of an insert; goes on whether or not the sender waits.
    async fn take(self, insert: Insert, fault: Option<InsertFault>) -> Result<(), Error> {
        let world = || self.world();
        let latency_ms = world().latency_ms;
        let late_ms = match fault {
            Some(InsertFault::Late { by_ms } | InsertFault::Slow { by_ms }) => by_ms,
            _ => 0,
        };
        if late_ms > 0 {
            sleep(Duration::from_millis(late_ms)).await;
        }
        let run = world().enter(&insert)?;
        // Within the gate: a renewal waits for what is here.
        if latency_ms > 0 {
            sleep(Duration::from_millis(latency_ms)).await;
        }
        let mut world = world();
        world.leave(&insert);
        world.check_up()?;
        if world.started != run {
            return Err(unknown(&insert.database, "the server was restarted meanwhile"));
        }
        world.write(&insert, fault == Some(InsertFault::HalfIn))
    }
}

fn unknown(what: &str, reason: &str) -> Error {
    Error::OutcomeUnknown { what: what.to_owned(), reason: reason.to_owned() }
}

#[async_trait]
impl ClickHouse for SimClickHouse {
    async fn server_info(&self) -> Result<ServerInfo, Error> {
        self.call(|world| {
            Ok(ServerInfo {
                version: world.version.clone(),
                uptime_s: world.started.elapsed().as_secs(),
                disk_total_bytes: world.disk_total_bytes,
                disk_free_bytes: world.disk_free_bytes,
            })
        })
        .await
    }

    async fn parse_ddl(&self, ddl: &str, _nonce: u64) -> Result<(TableName, Schema), Error> {
        self.call(|world| sim_ddl::parse(ddl, &world.version)).await
    }

    async fn type_of(&self, schema: &Schema, expression: &str) -> Result<String, Error> {
        self.call(|_| sim_ddl::type_of(schema, expression)).await
    }

    async fn partitions_of(
        &self,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error> {
        self.call(|_| sim_ddl::partitions(schema, expression, partitions, format, &body)).await
    }

    async fn create_replica(&self, replica: &ReplicaTables) -> Result<(), Error> {
        ddl::check_replica_database(&replica.database)?;
        self.call(|world| {
            world.check_disk()?;
            match world.replicas.get(&replica.database) {
                Some(there) if there.schema != replica.schema => {
                    Err(Error::Conflict(replica.database.clone()))
                }
                Some(_) => Ok(()),
                None => {
                    let made = Replica::new(replica.schema.clone());
                    world.replicas.insert(replica.database.clone(), made);
                    Ok(())
                }
            }
        })
        .await
    }

    async fn drop_replica(&self, database: &str) -> Result<(), Error> {
        ddl::check_replica_database(database)?;
        self.close_gates(database).await?;
        self.call(|world| {
            world.forget(database);
            world.taken.retain(|(seeded, _, _), _| seeded != database);
            Ok(())
        })
        .await
    }

    async fn has_local(&self, database: &str) -> Result<bool, Error> {
        self.call(|world| Ok(world.replicas.contains_key(database))).await
    }

    async fn begin_seed(&self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error> {
        ddl::check_replica_database(&replica.database)?;
        self.call(|world| world.begin_seed(replica, nonce)).await
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
        let copying = self.copied(database, nonce, source, partition, limits.bytes_per_s);
        let deadline = Duration::from_millis(limits.deadline_ms);
        let late = || super::elsewhere::copy_is_late(source, partition, deadline);
        timeout(deadline, copying).await.unwrap_or_else(|_| Err(late()))
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
        self.held_files(database, nonce, (from, partition)).await
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
        self.take_parts((database, nonce), (from, partition), held, pieces).await
    }

    async fn sweep_parts(&self) -> Result<(), Error> {
        self.sweep().await
    }

    async fn room(&self, database: &str, nonce: u64) -> Result<Option<u64>, Error> {
        self.call(|world| world.room(database, nonce)).await
    }

    async fn sync_disks(&self) -> Result<(), Error> {
        self.world().sync()
    }

    async fn finish_seed(&self, database: &str, nonce: u64) -> Result<bool, Error> {
        self.call(|world| world.finish_seed(database, nonce)).await
    }

    async fn replica_databases(&self) -> Result<Shared<Vec<String>>, Error> {
        self.call(|world| Ok(world.databases())).await
    }

    async fn open_gate(&self, database: &str) -> Result<Opened, Error> {
        let (opened, left) = self
            .call(|world| {
                world.check_disk()?;
                world.open_gate(database)
            })
            .await?;
        self.wait_for_inserts(database, &left).await?;
        Ok(opened)
    }

    async fn shut_gates(&self, database: &str) -> Result<Shut, Error> {
        let closed = self.call(|world| Ok(world.replicas.get_mut(database).map(Replica::close_gate))).await?;
        let Some((number, left)) = closed else { return Ok(Shut::default()) };
        self.wait_for_inserts(database, &left).await?;
        Ok(Shut { number, over: (number > 0).then_some(number) })
    }

    async fn newest_gate(&self, database: &str) -> Result<u64, Error> {
        self.call(|world| Ok(world.replicas.get(database).map_or(0, |replica| replica.gate))).await
    }

    async fn insert(&self, insert: Insert) -> Result<(), Error> {
        let (fault, up) = {
            let mut world = self.world();
            (world.faults.pop_front(), world.check_up())
        };
        up?;
        let deadline = Duration::from_millis(insert.deadline_ms);
        let what = format!("{}.{}", insert.database, gate(insert.gate));
        if fault == Some(InsertFault::LostRequest) {
            sleep(deadline).await;
            return Err(unknown(&what, "no answer in time"));
        }
        let working = tokio::spawn(self.clone().take(insert, fault));
        match (timeout(deadline, working).await, fault) {
            (Err(_), _) => Err(unknown(&what, "no answer in time")),
            (Ok(_), Some(InsertFault::LostAnswer | InsertFault::Late { .. } | InsertFault::HalfIn)) => {
                Err(unknown(&what, "the connection broke"))
            }
            (Ok(done), _) => done.unwrap_or_else(|_| Err(unknown(&what, "the server died"))),
        }
    }

    async fn holdings(&self, database: &str, partition: PartitionId, from: i64) -> Result<Holdings, Error> {
        self.call(|world| Ok(world.replica(database)?.holdings(partition, from))).await
    }

    async fn digest(
        &self,
        database: &str,
        partition: PartitionId,
        from: i64,
        below: i64,
    ) -> Result<Digest, Error> {
        self.call(|world| Ok(world.replica(database)?.digest(partition, from, below))).await
    }

    async fn sizes(&self) -> Result<Shared<BTreeMap<String, ReplicaSizes>>, Error> {
        self.call(|world| Ok(world.sizes())).await
    }

    async fn create_distributed(&self, table: &DistributedTable) -> Result<(), Error> {
        self.call(|world| {
            world.check_disk()?;
            if world.foreign.contains(&table.name) {
                return Err(Error::Conflict(table.name.to_string()));
            }
            if !world.clusters.contains_key(&table.cluster) {
                // Old servers take it and fail at the first query; new ones refuse. The stricter one is simulated.
                let message = format!("requested cluster {} not found", table.cluster);
                return Err(Error::Refused { code: 701, message });
            }
            world.distributed.insert(table.name.clone(), table.clone());
            Ok(())
        })
        .await
    }

    async fn drop_distributed(&self, name: &TableName, cluster: &str) -> Result<(), Error> {
        self.call(|world| {
            world.distributed.retain(|other, table| other != name || table.cluster != cluster);
            Ok(())
        })
        .await
    }

    async fn reload_config(&self) -> Result<(), Error> {
        self.call(World::load_clusters).await
    }

    async fn cluster(&self, name: &str) -> Result<Arc<Vec<ClusterReplica>>, Error> {
        self.call(|world| Ok(world.clusters.get(name).cloned().unwrap_or_default())).await
    }

    async fn running_queries(&self) -> Result<BTreeSet<String>, Error> {
        self.call(|world| Ok(world.queries.clone())).await
    }
}

#[cfg(test)]
#[path = "sim_tests.rs"]
mod tests;
