//! How a simulated server seeds replicas: staging tables, links within it, copies from other simulated servers.
//!
//! A staging table is a [`Replica`] that is not yet among the replicas. A partition is selected whole, at one moment; a
//! link or a copy by parts takes one ClickHouse partition after the other ([`PartitionRows::half_of`]).

use super::sim::SimClickHouse;
use super::sim_rows::HeldRows;
use super::sim_world::{ReadFiles, Replica, World};
use super::{Error, RemoteReplica, ReplicaTables};
use crate::model::parts::kept_free_bytes;
use crate::model::verify::Digest;
use crate::model::{PartitionId, PartitionRange};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, Weak};

type Address = (String, u16);

/// Which simulated servers reach each other, by host and native port.
#[derive(Clone, Default)]
pub struct SimServers {
    servers: Arc<Mutex<BTreeMap<Address, Weak<Mutex<World>>>>>,
    files: ReadFiles,
}

impl SimServers {
    /// One without servers.
    pub fn new() -> Self {
        Self::default()
    }

    /// A server answers at this address from now on.
    pub(super) fn add(&self, host: &str, port: u16, world: &Arc<Mutex<World>>) {
        let mut servers = self.servers.lock().expect("no panic while held");
        servers.insert((host.to_owned(), port), Arc::downgrade(world));
    }

    pub(super) fn files(&self) -> &ReadFiles {
        &self.files
    }

    fn find(&self, host: &str, port: u16) -> Option<SimClickHouse> {
        let servers = self.servers.lock().expect("no panic while held");
        servers.get(&(host.to_owned(), port))?.upgrade().map(SimClickHouse::of)
    }
}

/// Links within the server.
impl SimClickHouse {
    /// One partition after the other, each in two steps, as a real server links one ClickHouse partition after the
    /// other: what is given up on the way, or dies with the server, has linked some.
    pub(super) async fn link(
        &self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<u64, Error> {
        let mut linked = 0;
        for partition in self.call(|world| world.differing(database, nonce, source, range)).await? {
            let mut rows = self.call(|world| world.linkable(source, partition)).await?;
            let link = |world: &mut World| {
                rows.half_of(&world.linkable(source, partition)?);
                Ok(world.seed(database, nonce)?.put(partition, rows))
            };
            linked += self.call(link).await?;
        }
        Ok(linked)
    }
}

/// What copies take, and what rows weigh.
impl SimClickHouse {
    /// What one row takes in replicas whose database begins like this: so few messages stand for long history.
    pub fn weigh_rows(&self, database: &str, bytes: u64) {
        self.world().row_bytes.insert(database.to_owned(), bytes);
    }

    /// Bytes that came with copies so far.
    pub fn copied_bytes(&self) -> u64 {
        self.world().copied_bytes
    }

    /// How often all that it holds was written to its disks.
    pub fn syncs(&self) -> u64 {
        self.world().syncs
    }

    /// What comes of it from now on.
    pub fn set_sync(&self, ends: Result<(), Error>) {
        self.world().sync_ends = ends;
    }

    /// Gives it an empty disk, while it is down: its tables and databases are gone, also those of users.
    pub fn replace_disk(&self) {
        self.world().lose_all();
    }

    /// Whether it ever was given an empty disk.
    pub fn disk_replaced(&self) -> bool {
        self.world().disk_replaced
    }

    /// Whether it ever lost rows: with its disk, or with the power.
    pub fn has_lost_rows(&self) -> bool {
        let world = self.world();
        world.disk_replaced || world.power_took_rows
    }

    /// The disk: in all, and free.
    pub fn disk(&self) -> (u64, u64) {
        let world = self.world();
        (world.disk_total_bytes, world.disk_free_bytes)
    }
}

/// What a partition of a replica is made of.
#[derive(Clone, Default)]
pub(super) struct PartitionRows {
    rows: HeldRows,
    months: BTreeSet<String>,
    bytes: u64,
}

impl PartitionRows {
    pub fn row_count(&self) -> u64 {
        self.rows.count()
    }

    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// With every other pair of the messages that have come until the later look: as of ClickHouse partitions that are
    /// frozen one after the other, while rows come into all. Holes above what was there at first are the point.
    pub fn half_of(&mut self, later: &Self) {
        let from = self.rows.max_offset().map_or(i64::MIN, |newest| newest + 1);
        let came = later.rows.from(from).into_iter().filter(|(offset, _)| offset / 2 % 2 == 1);
        let before = self.rows.count();
        came.for_each(|(offset, row)| self.rows.insert(offset, row));
        if self.rows.count() > before {
            self.bytes = later.bytes * self.rows.count() / later.rows.count().max(1);
            self.months.extend(later.months.iter().cloned());
        }
    }

    /// As the text of a file.
    pub fn encode(&self) -> String {
        let months = self.months.iter().cloned().collect::<Vec<_>>().join(",");
        format!("{} {months}\n{}", self.bytes, self.rows.encode())
    }

    /// Reads what [`PartitionRows::encode`] wrote.
    pub fn decode(text: &str) -> Option<Self> {
        let (head, rows) = text.split_once('\n')?;
        let (bytes, months) = head.split_once(' ')?;
        let months = months.split(',').map(str::to_owned).collect();
        Some(Self { rows: HeldRows::decode(rows)?, months, bytes: bytes.parse().ok()? })
    }
}

/// A server's error as the one that asked it tells it.
pub(super) fn told_by(source: &RemoteReplica, error: Error) -> Error {
    match error {
        Error::Unreachable { .. } | Error::Missing(_) => unreachable(source),
        other => other,
    }
}

pub(super) fn unreachable(source: &RemoteReplica) -> Error {
    let message = format!("All connection tries failed: {}:{}", source.host, source.port);
    Error::Overloaded { code: 279, message }
}

impl World {
    pub fn begin_seed(&mut self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error> {
        self.check_disk()?;
        if self.replicas.contains_key(&replica.database) {
            return Err(Error::Conflict(format!("{}.local", replica.database)));
        }
        let key = (replica.database.clone(), nonce);
        self.drop_seeds(&replica.database, Some(nonce));
        match self.seeds.get(&key) {
            Some(there) if there.schema != replica.schema => Err(Error::Conflict(replica.database.clone())),
            Some(_) => Ok(()),
            None => {
                self.seeds.insert(key, Replica::new(replica.schema.clone()));
                Ok(())
            }
        }
    }

    pub fn seed(&mut self, database: &str, nonce: u64) -> Result<&mut Replica, Error> {
        let missing = || Error::Missing(format!("{database}.seed_{nonce}"));
        self.seeds.get_mut(&(database.to_owned(), nonce)).ok_or_else(missing)
    }

    /// The partitions of which a staging table does not hold what a replica here does.
    fn differing(
        &mut self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<Vec<PartitionId>, Error> {
        self.replica(source)?;
        let (from, seed) = (&self.replicas[source], (database.to_owned(), nonce));
        let Some(seed) = self.seeds.get(&seed) else { return Ok(range.partitions().collect()) };
        if seed.schema != from.schema {
            let message = "Tables have different structure".to_owned();
            return Err(Error::Refused { code: 122, message });
        }
        let differs = |partition: &PartitionId| from.rows.get(&partition.0) != seed.rows.get(&partition.0);
        Ok(range.partitions().filter(differs).collect())
    }

    /// What a replica here holds of a partition, if that may be linked.
    fn linkable(&mut self, source: &str, partition: PartitionId) -> Result<PartitionRows, Error> {
        let mutating = self.mutating;
        let rows = self.replica(source)?.taken(partition);
        if mutating { Err(Error::Mutating(source.to_owned())) } else { Ok(rows) }
    }

    /// Files that came with earlier copies take no room here, and so need none again.
    pub fn room(&mut self, database: &str, nonce: u64) -> Result<Option<u64>, Error> {
        self.seed(database, nonce)?;
        let (all, free) = (self.disk_total_bytes, self.disk_free_bytes);
        Ok((all > 0).then(|| free.saturating_sub(kept_free_bytes(all))))
    }

    pub fn sync(&mut self) -> Result<(), Error> {
        self.syncs += 1;
        self.sync_ends.clone()
    }

    pub fn finish_seed(&mut self, database: &str, nonce: u64) -> Result<bool, Error> {
        let ours = !self.replicas.contains_key(database);
        if ours {
            let seed = self.seeds.remove(&(database.to_owned(), nonce));
            let missing = || Error::Missing(format!("{database}.seed_{nonce}"));
            self.replicas.insert(database.to_owned(), seed.ok_or_else(missing)?);
        }
        self.drop_seeds(database, None);
        self.taken.retain(|(seeded, _, _), _| seeded != database);
        Ok(ours)
    }

    /// Another server, as this one reaches it.
    pub fn peer(&self, source: &RemoteReplica) -> Result<SimClickHouse, Error> {
        let found = self.network.as_ref().and_then(|network| network.find(&source.host, source.port));
        found.ok_or_else(|| unreachable(source))
    }
}

impl Replica {
    /// What a partition holds within a range. Doubled rows are counted with the whole: it is not known which they are.
    pub fn digest(&self, partition: PartitionId, from: i64, below: i64) -> Digest {
        let Some(held) = self.rows.get(&partition.0) else { return Digest::default() };
        let mut rows = held.from(from);
        rows.retain(|(offset, _)| *offset < below);
        let messages: BTreeSet<i64> = rows.iter().map(|(offset, _)| *offset).collect();
        let distinct = rows.len() as u64;
        let whole = distinct == held.distinct();
        let of =
            |(offset, row): &(i64, u32)| u64::from(crc32fast::hash(format!("{offset} {row}").as_bytes()));
        Digest {
            rows: distinct + if whole { held.doubled() } else { 0 },
            distinct,
            messages: messages.len() as u64,
            min_offset: messages.first().copied(),
            max_offset: messages.last().copied(),
            hash: rows.iter().map(of).fold(0, u64::wrapping_add),
        }
    }

    /// All that it holds of a partition.
    pub fn taken(&self, partition: PartitionId) -> PartitionRows {
        let rows = self.rows.get(&partition.0).cloned().unwrap_or_default();
        let months = self.seen.iter().filter(|(of, _)| *of == partition.0).map(|(_, month)| month.clone());
        let bytes = self.bytes * rows.count() / self.row_count().max(1);
        PartitionRows { months: months.collect(), rows, bytes }
    }

    /// Makes the partition hold this and nothing else. Returns how many ClickHouse partitions that touched.
    pub fn put(&mut self, partition: PartitionId, new: PartitionRows) -> u64 {
        let old = self.taken(partition);
        if old.rows == new.rows {
            return 0;
        }
        let touched = old.months.union(&new.months).count() as u64;
        self.bytes = self.bytes - old.bytes + new.bytes;
        self.seen.retain(|(of, _)| *of != partition.0);
        self.seen.extend(new.months.into_iter().map(|month| (partition.0, month)));
        self.parts = self.seen.len() as u64;
        if new.rows.count() == 0 {
            self.rows.remove(&partition.0);
        } else {
            self.rows.insert(partition.0, new.rows);
        }
        touched
    }
}
