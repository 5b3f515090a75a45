//! What a simulated server holds: replicas, gates, clusters. No time passes here.

use super::sim::InsertFault;
use super::sim_power::Unwritten;
use super::sim_refusals::Refusals;
use super::sim_rows::HeldRows;
use super::sim_seed::SimServers;
use super::{ClusterReplica, DistributedTable, Error, Holdings, Insert, Opened, ReplicaSizes};
use crate::adapters::routes::SimRoutes;
use crate::model::names::gate;
use crate::model::parts::HeldFile;
use crate::model::shared::Shared;
use crate::model::table::{MessageFormat, Schema};
use crate::model::{PartitionId, TableName};
use bytes::Bytes;
use quick_xml::events::Event;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Parts of one time part before merges catch up.
const PARTS_UNMERGED_MAX: u64 = 8;
/// Text of a row to its compressed size.
const COMPRESSION: u64 = 4;

pub(super) struct World {
    pub version: String,
    pub up: bool,
    pub latency_ms: u64,
    pub started: Instant,
    pub disk_total_bytes: u64,
    pub disk_free_bytes: u64,
    pub replicas: BTreeMap<String, Replica>,
    /// Staging tables by replica database and nonce.
    pub seeds: BTreeMap<(String, u64), Replica>,
    /// The other servers that it can reach.
    pub network: Option<SimServers>,
    /// What a copy of a partition takes beside the calls.
    pub copy_ms: u64,
    /// Bytes that leave or come with copies in a second; 0: at once.
    pub copy_bytes_per_s: u64,
    /// Until when what is under way takes up that pace.
    pub sending_until: Instant,
    /// The same for what comes.
    pub taking_until: Instant,
    /// Bytes that came with copies so far.
    pub copied_bytes: u64,
    /// What one row takes on the disk, by the beginning of the replica's database; others by their text.
    pub row_bytes: BTreeMap<String, u64>,
    /// Why its daemon cannot copy by parts.
    pub no_parts: Option<String>,
    /// Files of parts that came whole, by replica database, source and partition.
    pub taken: BTreeMap<(String, String, u32), BTreeMap<HeldFile, Bytes>>,
    /// Whether its tables have mutations that are not done.
    pub mutating: bool,
    /// Queries of users that run.
    pub queries: BTreeSet<String>,
    pub distributed: BTreeMap<TableName, DistributedTable>,
    pub foreign: BTreeSet<TableName>,
    told_sizes: Shared<BTreeMap<String, ReplicaSizes>>,
    told_databases: Shared<Vec<String>>,
    pub clusters: Clusters,
    pub faults: VecDeque<InsertFault>,
    pub refusals: Refusals,
    /// Broken on purpose: see [`SimClickHouse::leave_gates_open`](super::SimClickHouse::leave_gates_open).
    pub gates_stay_open: bool,
    /// How often all was written to its disks, and what comes of it.
    pub syncs: u64,
    pub sync_ends: Result<(), Error>,
    /// Whether it ever lost what it kept.
    pub disk_replaced: bool,
    /// Whether rows ever went with the power.
    pub power_took_rows: bool,
    /// What power would take.
    pub unwritten: Unwritten,
    /// Gates made so far: no number comes again.
    gates: u64,
    routes: SimRoutes,
}

impl World {
    pub fn new(routes: SimRoutes, started: Instant) -> Self {
        Self {
            version: "18.16.1".into(),
            up: true,
            latency_ms: 0,
            started,
            disk_total_bytes: 1 << 40,
            disk_free_bytes: 1 << 40,
            replicas: BTreeMap::new(),
            seeds: BTreeMap::new(),
            network: None,
            copy_ms: 0,
            copy_bytes_per_s: 0,
            sending_until: started,
            taking_until: started,
            copied_bytes: 0,
            row_bytes: BTreeMap::new(),
            no_parts: None,
            taken: BTreeMap::new(),
            mutating: false,
            queries: BTreeSet::new(),
            distributed: BTreeMap::new(),
            foreign: BTreeSet::new(),
            told_sizes: Shared::default(),
            told_databases: Shared::default(),
            clusters: Clusters::default(),
            faults: VecDeque::new(),
            refusals: Refusals::default(),
            gates_stay_open: false,
            syncs: 0,
            sync_ends: Ok(()),
            disk_replaced: false,
            power_took_rows: false,
            unwritten: Unwritten::default(),
            gates: 0,
            routes,
        }
    }

    pub fn check_up(&self) -> Result<(), Error> {
        let down =
            || Error::Unreachable { url: "sim://clickhouse".into(), reason: "connection refused".into() };
        if self.up { Ok(()) } else { Err(down()) }
    }

    pub fn replica(&mut self, database: &str) -> Result<&mut Replica, Error> {
        self.replicas.get_mut(database).ok_or_else(|| Error::Missing(database.to_owned()))
    }

    /// Opens a replica's next gate.
    pub fn open_gate(&mut self, database: &str) -> Result<(Opened, Arc<Notify>), Error> {
        self.gates += 1;
        let number = self.gates;
        Ok(self.replica(database)?.open_gate(number))
    }

    /// An insert begins: its gate must be open. Tells since when the server runs: an insert dies with it.
    pub fn enter(&mut self, insert: &Insert) -> Result<Instant, Error> {
        self.check_up()?;
        let missing = || Error::Missing(format!("{}.{}", insert.database, gate(insert.gate)));
        let replica = self.replicas.get_mut(&insert.database).ok_or_else(missing)?;
        let shut = !replica.open || replica.gate != insert.gate;
        if shut && !self.gates_stay_open {
            return Err(missing());
        }
        replica.inside += 1;
        Ok(self.started)
    }

    /// An insert has ended, one way or another.
    pub fn leave(&mut self, insert: &Insert) {
        if let Some(replica) = self.replicas.get_mut(&insert.database) {
            replica.inside = replica.inside.saturating_sub(1);
            replica.left.notify_waiters();
        }
    }

    /// Puts the rows of an insert in place; `half` stops after the first time part.
    pub fn write(&mut self, insert: &Insert, half: bool) -> Result<(), Error> {
        self.check_disk()?;
        self.refusals.settings()?;
        let mut rows = rows_of(insert.format, &insert.body)?;
        if insert.skip_bad_rows {
            rows.retain(|row| self.refusals.row(row.text).is_ok());
        }
        rows.iter().try_for_each(|row| self.refusals.row(row.text))?;
        let row_bytes = self.row_bytes.iter().find(|(head, _)| insert.database.starts_with(head.as_str()));
        let row_bytes = row_bytes.map(|(_, bytes)| *bytes);
        let timed = !self.replica(&insert.database)?.schema.partition_key.is_empty();
        let mut parts: BTreeMap<(u32, &str), Vec<&Row<'_>>> = BTreeMap::new();
        for row in &rows {
            let time = if timed { month(row.text) } else { "" };
            parts.entry((row.partition, time)).or_default().push(row);
        }
        let failure =
            |rows: &Vec<&Row<'_>>| rows.iter().find_map(|row| self.refusals.in_part(row.text).err());
        let failed = parts.values().enumerate().find_map(|(at, rows)| Some((at, failure(rows)?)));
        let written = failed.as_ref().map_or(parts.len(), |(at, _)| *at);
        let taken = if half { written.min(1) } else { written };
        let size = |rows: &Vec<&Row<'_>>| {
            let text = || rows.iter().map(|row| row.text.len() as u64).sum::<u64>() / COMPRESSION + 1;
            row_bytes.map_or_else(text, |each| each * rows.len() as u64)
        };
        let bytes = parts.values().take(taken).map(size).sum();
        self.check_room(bytes)?;
        for ((partition, _), rows) in parts.iter().take(taken) {
            let named = rows.iter().map(|row| (row.offset, row.number));
            self.unwritten.add(&insert.database, *partition, named, size(rows));
        }
        let replica = self.replica(&insert.database)?;
        parts.into_iter().take(taken).for_each(|(part, rows)| replica.add_part(part, &rows));
        replica.bytes += bytes;
        self.disk_free_bytes = self.disk_free_bytes.saturating_sub(bytes);
        failed.map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Drops a replica, and what was to become one.
    pub fn forget(&mut self, database: &str) {
        self.drop_seeds(database, None);
        self.unwritten.drop_of(database);
        if let Some(gone) = self.replicas.remove(database) {
            self.free(database, &gone);
        }
    }

    /// Drops what was to become a replica, but for that of a nonce.
    pub fn drop_seeds(&mut self, database: &str, keep: Option<u64>) {
        let over = |(seeded, nonce): &(String, u64)| seeded == database && Some(*nonce) != keep;
        let over: Vec<_> = self.seeds.keys().filter(|seed| over(seed)).cloned().collect();
        for seed in over {
            if let Some(gone) = self.seeds.remove(&seed) {
                self.free(database, &gone);
            }
        }
    }

    /// What every replica that holds parts takes; as it was last told, if that is true still.
    pub fn sizes(&mut self) -> Shared<BTreeMap<String, ReplicaSizes>> {
        let filled = self.replicas.iter().filter(|(_, replica)| replica.parts > 0);
        let now = filled.map(|(database, replica)| (database, replica.sizes()));
        if !now.clone().eq(self.told_sizes.iter().map(|(database, sizes)| (database, *sizes))) {
            let now: BTreeMap<_, _> = now.map(|(database, sizes)| (database.clone(), sizes)).collect();
            self.told_sizes = now.into();
        }
        self.told_sizes.clone()
    }

    /// The databases of replicas, also of those that are only being filled; told likewise.
    pub fn databases(&mut self) -> Shared<Vec<String>> {
        if self.seeds.is_empty() && self.replicas.keys().eq(self.told_databases.iter()) {
            return self.told_databases.clone();
        }
        let seeded = self.seeds.keys().map(|(database, _)| database);
        let all: BTreeSet<&String> = self.replicas.keys().chain(seeded).collect();
        self.told_databases = all.into_iter().cloned().collect::<Vec<_>>().into();
        self.told_databases.clone()
    }

    /// Everything that it kept is gone.
    pub fn lose_all(&mut self) {
        // Who waits for inserts to end has nothing left to wait for.
        self.replicas.values().for_each(|replica| replica.left.notify_waiters());
        self.replicas.clear();
        self.seeds.clear();
        self.taken.clear();
        self.distributed.clear();
        self.foreign.clear();
        self.disk_free_bytes = self.disk_total_bytes;
        self.unwritten.clear();
        self.disk_replaced = true;
    }

    /// Reads the cluster file.
    pub fn load_clusters(&mut self) -> Result<(), Error> {
        let Some(text) = self.routes.text() else {
            self.clusters = Clusters::default();
            return Ok(());
        };
        let unreadable = |error| Error::Refused { code: 1000, message: format!("cluster file: {error}") };
        let own = ReadFiles::default();
        let files = self.network.as_ref().map_or(&own, SimServers::files);
        self.clusters = files.read(&text).map_err(unreadable)?;
        Ok(())
    }
}

/// A shard's replica.
pub(super) struct Replica {
    pub schema: Schema,
    /// The newest gate; 0 before the first.
    pub gate: u64,
    /// Whether it is open.
    pub open: bool,
    /// Inserts that have entered a gate and not ended.
    pub inside: u64,
    /// Told whenever one ends.
    left: Arc<Notify>,
    /// By partition.
    pub rows: BTreeMap<u32, HeldRows>,
    pub bytes: u64,
    pub parts: u64,
    /// ClickHouse partitions: partition and time part.
    pub seen: BTreeSet<(u32, String)>,
}

impl Replica {
    pub fn new(schema: Schema) -> Self {
        Self {
            schema,
            gate: 0,
            open: false,
            inside: 0,
            left: Arc::new(Notify::new()),
            rows: BTreeMap::new(),
            bytes: 0,
            parts: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Closes the gate, opens the one of that number; tells of it, and who tells of inserts that end.
    fn open_gate(&mut self, number: u64) -> (Opened, Arc<Notify>) {
        let is_first = std::mem::replace(&mut self.gate, number) == 0;
        self.open = true;
        (Opened { number, is_first }, self.left.clone())
    }

    /// Closes the gate; tells its number, and who tells of inserts that end.
    pub fn close_gate(&mut self) -> (u64, Arc<Notify>) {
        self.open = false;
        (self.gate, self.left.clone())
    }

    fn add_part(&mut self, (partition, time): (u32, &str), rows: &[&Row<'_>]) {
        let held = self.rows.entry(partition).or_default();
        for row in rows {
            held.insert(row.offset, row.number);
        }
        self.seen.insert((partition, time.to_owned()));
        self.parts = (self.parts + 1).min(self.seen.len() as u64 * PARTS_UNMERGED_MAX);
    }

    pub fn row_count(&self) -> u64 {
        self.rows.values().map(HeldRows::count).sum()
    }

    pub fn doubled(&self) -> u64 {
        self.rows.values().map(HeldRows::doubled).sum()
    }

    pub fn sizes(&self) -> ReplicaSizes {
        ReplicaSizes { bytes: self.bytes, rows: self.row_count(), parts: self.parts }
    }

    pub fn holdings(&self, partition: PartitionId, from: i64) -> Holdings {
        let Some(rows) = self.rows.get(&partition.0) else { return Holdings::default() };
        Holdings { max_offset: rows.max_offset(), rows: rows.from(from) }
    }
}

/// One row of an insert's body.
pub(super) struct Row<'a> {
    partition: u32,
    offset: i64,
    number: u32,
    text: &'a [u8],
}

/// Cuts a body into rows by the hidden columns in front of each. A line without them goes on the row before it.
pub(super) fn rows_of(format: MessageFormat, body: &[u8]) -> Result<Vec<Row<'_>>, Error> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    let mut start = 0;
    let mut open_quote = false;
    for line in body.split_inclusive(|byte| *byte == b'\n') {
        let (from, to) = (start, start + line.len());
        start = to;
        let hidden = if open_quote { None } else { hidden(format, line) };
        if format == MessageFormat::CSV {
            open_quote ^= line.iter().filter(|byte| **byte == b'"').count() % 2 == 1;
        }
        match (hidden, rows.last_mut()) {
            (Some((partition, offset, number)), _) => {
                rows.push(Row { partition, offset, number, text: &body[from..to] });
            }
            (None, Some(row)) => row.text = &body[to - row.text.len() - line.len()..to],
            (None, None) => {
                let message = "a row without its hidden columns".to_owned();
                return Err(Error::BadRows { code: 117, message });
            }
        }
    }
    Ok(rows)
}

/// The hidden columns in front of a row, if it begins with them.
fn hidden(format: MessageFormat, line: &[u8]) -> Option<(u32, i64, u32)> {
    let [before_partition, before_offset, before_row] = match format {
        MessageFormat::JSONEachRow => JSON_HEADS,
        MessageFormat::CSV => ["", ",", ","],
        MessageFormat::TSV => ["", "\t", "\t"],
    };
    let (partition, rest) = number(line.strip_prefix(before_partition.as_bytes())?)?;
    let (offset, rest) = number(rest.strip_prefix(before_offset.as_bytes())?)?;
    let row = match rest.strip_prefix(before_row.as_bytes()) {
        Some(rest) => number(rest)?.0,
        // A field that is not there has its type's default.
        None if format == MessageFormat::JSONEachRow => 0,
        None => return None,
    };
    Some((partition, offset, row))
}

/// What stands in front of the hidden columns of a JSON row.
const JSON_HEADS: [&str; 3] = ["{\"_cvh_partition\":", ",\"_cvh_offset\":", ",\"_cvh_row\":"];

/// A whole number that a text begins with, and what follows it.
fn number<T: std::str::FromStr>(text: &[u8]) -> Option<(T, &[u8])> {
    let digits = text.iter().position(|byte| !byte.is_ascii_digit() && *byte != b'-').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    Some((std::str::from_utf8(number).ok()?.parse().ok()?, rest))
}

/// The first `YYYY-MM` of a row.
fn month(text: &[u8]) -> &str {
    let mut dashes = text.iter().enumerate().filter(|(_, byte)| **byte == b'-').map(|(at, _)| at);
    let around = |dash: usize| Some((text.get(dash.checked_sub(4)?..dash)?, text.get(dash + 1..dash + 3)?));
    let is_month = |dash: &usize| {
        around(*dash).is_some_and(|(year, month)| year.iter().chain(month).all(u8::is_ascii_digit))
    };
    let found = dashes.find(is_month).map(|dash| &text[dash - 4..dash + 3]);
    found.and_then(|month| std::str::from_utf8(month).ok()).unwrap_or_default()
}

/// What `system.clusters` shows, by cluster.
pub(super) type Clusters = Arc<BTreeMap<String, Arc<Vec<ClusterReplica>>>>;

/// Files that are remembered: servers are at most a topology apart, as a rule.
const FILES_KEPT: usize = 2;

/// Cluster files that servers of one network have read: those that are one place in memory are read once.
#[derive(Clone, Default)]
pub(super) struct ReadFiles(Arc<Mutex<VecDeque<ReadFile>>>);

/// A file's text, and what it says.
type ReadFile = (Arc<str>, Clusters);

impl ReadFiles {
    fn read(&self, text: &Arc<str>) -> Result<Clusters, String> {
        let mut files = self.0.lock().expect("no panic while held");
        if let Some((_, clusters)) = files.iter().find(|(read, _)| Arc::ptr_eq(read, text)) {
            return Ok(clusters.clone());
        }
        let clusters = clusters_of(text)?.into_iter().map(|(name, replicas)| (name, Arc::new(replicas)));
        let clusters = Clusters::new(clusters.collect());
        if files.len() >= FILES_KEPT {
            files.pop_front();
        }
        files.push_back((text.clone(), clusters.clone()));
        Ok(clusters)
    }
}

/// What `system.clusters` would show of a cluster file.
fn clusters_of(text: &str) -> Result<BTreeMap<String, Vec<ClusterReplica>>, String> {
    let mut reader = quick_xml::Reader::from_str(text);
    let mut path: Vec<String> = Vec::new();
    let mut clusters: BTreeMap<String, Vec<ClusterReplica>> = BTreeMap::new();
    let (mut shard_num, mut shard_weight, mut replica_num) = (0, 1, 0);
    let mut value = String::new();
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => {
                path.push(start.name().as_ref().to_owned());
                value.clear();
                match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                    ["yandex", "remote_servers", _] => shard_num = 0,
                    ["yandex", "remote_servers", _, "shard"] => {
                        (shard_num, shard_weight, replica_num) = (shard_num + 1, 1, 0);
                    }
                    ["yandex", "remote_servers", cluster, "shard", "replica"] => {
                        replica_num += 1;
                        clusters.entry(cluster.to_owned()).or_default().push(ClusterReplica {
                            shard_num,
                            shard_weight,
                            replica_num,
                            host_name: String::new(),
                            port: 0,
                            default_database: String::new(),
                        });
                    }
                    _ => {}
                }
            }
            Event::Text(text) => value.push_str(&text),
            Event::GeneralRef(name) => {
                let escaped = format!("&{};", &*name);
                let text = quick_xml::escape::unescape(&escaped).map_err(|error| error.to_string())?;
                value.push_str(&text);
            }
            Event::End(_) => {
                let element = path.pop().unwrap_or_default();
                let replica = path.get(2).and_then(|cluster| clusters.get_mut(cluster)?.last_mut());
                match (element.as_str(), replica) {
                    ("weight", _) => shard_weight = value.parse().unwrap_or(1),
                    ("host", Some(replica)) => replica.host_name.clone_from(&value),
                    ("port", Some(replica)) => replica.port = value.parse().unwrap_or(0),
                    ("default_database", Some(replica)) => replica.default_database.clone_from(&value),
                    _ => {}
                }
                value.clear();
            }
            Event::Eof => return Ok(clusters),
            _ => {}
        }
    }
}
