//! Copying a replica's history from another node: by parts where that works, else by a select, partition by partition.
//!
//! Which way is taken, and why not by parts, is told with the progress. A copy that is not wanted any more is let go:
//! its future is dropped, which ends the stream, and the server is told to stop what it runs when the replica goes.

use super::seed::Source;
use super::work::Job;
use crate::actors::agent::ReplicaNews;
use crate::actors::throttle::Throttle;
use crate::adapters::clickhouse::{self, CopyLimits, Pieces, ReplicaTables};
use crate::adapters::kafka::{self, Committed};
use crate::adapters::peers::{self, PieceStream};
use crate::error::Coded;
use crate::model::names::{self, TopicPartition};
use crate::model::observed::{CopyWay, Seeding};
use crate::model::parts::{Piece, WantedParts, kept_free_bytes};
use crate::model::table::{Replica, ReplicaState, ShardState};
use crate::model::view::ClusterView;
use crate::model::{NodeId, PartitionId};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How many sources are tried for one partition before the whole is tried again later (H8).
const SOURCES_MAX: usize = 5;
/// How often parts are asked for of one source, if the copy breaks off, before a select is tried.
const PARTS_TRIES: u32 = 3;
/// Wait before the next try, times the tries made.
const PARTS_RETRY: Duration = Duration::from_secs(1);
/// Silence of the sender after which a copy by parts is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// What a select may take whatever it copies, and how slow it may be beside that.
const SELECT_DEADLINE_MS: u64 = 10 * 60_000;
const SELECT_BYTES_PER_S_MIN: u64 = 1 << 20;
/// Where nothing is known of the size.
const SELECT_DEADLINE_UNKNOWN_MS: u64 = 60 * 60_000;
/// Between two reports of a copy that goes on.
const REPORT_EVERY_MS: u64 = 1_000;

/// Why a partition did not come by parts.
enum NoParts {
    /// There is no such way: by a select then.
    Declined(String),
    /// Not by any way, from this source, now.
    NotNow(String),
    /// It broke off.
    Broke(String),
}

/// Counts what comes, and reports it.
#[derive(Clone)]
struct Meter {
    job: Job,
    began_ms: u64,
    state: Arc<Mutex<(Seeding, u64)>>,
}

impl Meter {
    fn new(job: &Job, of: u32, bytes_of: u64) -> Self {
        let now_ms = job.ports.clock.now_ms();
        let seeding = Seeding { of, bytes_of, ..Seeding::default() };
        Self { job: job.clone(), began_ms: now_ms, state: Arc::new(Mutex::new((seeding, now_ms))) }
    }

    /// Changes the report; sends it if it is time to, or at once.
    fn note(&self, at_once: bool, change: impl FnOnce(&mut Seeding)) {
        let now_ms = self.job.ports.clock.now_ms();
        let told = {
            let mut state = self.state.lock().expect("nothing panics while it is held");
            let (seeding, told_ms) = &mut *state;
            change(seeding);
            seeding.elapsed_ms = now_ms - self.began_ms;
            let due = at_once || now_ms >= *told_ms + REPORT_EVERY_MS;
            due.then(|| {
                self.job.take_share();
                *told_ms = now_ms;
                seeding.clone()
            })
        };
        if let Some(seeding) = told {
            self.job.tell(ReplicaNews::Seeding(seeding));
        }
    }
}

/// A node's share of the cluster's pace: by the replicas that are being copied to it, of all that are. Every daemon
/// counts them in the same records, so that the shares make up the whole.
fn share(cluster_bytes_per_s: u64, view: &ClusterView, node: &NodeId) -> u64 {
    let shards = view.shards.values().flat_map(|shards| shards.values());
    let replicas = shards.flat_map(|shard| &shard.record.replicas);
    let copied = |replica: &&Replica| replica.state == ReplicaState::Creating && replica.copy_from.is_some();
    let (mut ours, mut all) = (0, 0);
    for replica in replicas.filter(copied) {
        all += 1;
        ours += u64::from(replica.node == *node);
    }
    // One that the records do not show (a half of a split whose parent is not here) counts too.
    let (ours, all) = if ours == 0 { (1, all + 1) } else { (ours, all) };
    (cluster_bytes_per_s / all * ours).max(1)
}

impl Job {
    /// Keeps the node to its share, which others that come and go change.
    fn take_share(&self) {
        let cluster = self.ports.cluster_bytes_per_s;
        if cluster > 0 {
            self.ports.takes.share(share(cluster, &self.view.read(), &self.ports.node));
        }
    }

    pub(super) async fn copy(&self, tables: &ReplicaTables, sources: &[Source]) -> Result<(), String> {
        let _permit = self.ports.copies.acquire().await;
        let (server, database) = (&self.ports.clickhouse, &self.database);
        let nonce = self.ports.clock.random();
        server.begin_seed(tables, nonce).await.map_err(|e| e.told())?;
        let range = self.shard.range;
        let sizes = self.sizes_of(sources).await;
        let bytes_of = range.partitions().filter_map(|partition| sizes.get(&partition)).sum();
        self.check_room(bytes_of).await?;
        let meter = Meter::new(self, range.width(), bytes_of);
        let (mut positions, mut declined) = (Vec::new(), BTreeMap::new());
        let mut before = 0;
        for (done, partition) in (0u32..).zip(range.partitions()) {
            meter.note(true, |seeding| (seeding.done, seeding.bytes_done) = (done, before));
            let topic = names::topic_partition(&self.table.source, partition);
            let having =
                sources.iter().filter(|source| source.shard.range.contains(partition)).take(SOURCES_MAX);
            let (mut last, mut copied) = ("no source".to_owned(), false);
            let bytes = sizes.get(&partition).copied();
            for source in having {
                // Read before the copy: the copy then holds every row below it that the source holds for certain.
                let position = self.position_of(source, &topic).await.map_err(|e| e.told())?;
                match self.copy_one(nonce, source, partition, bytes, &mut declined, &meter).await {
                    Ok(rows) => {
                        let metric = &self.ports.metrics;
                        metric.copied_rows(&self.table.name.to_string()).inc_by(rows);
                        positions.push((topic.clone(), position));
                        copied = true;
                        break;
                    }
                    Err(error) => last = format!("from {}: {error}", source.node),
                }
            }
            if !copied {
                return Err(format!("{partition} cannot be copied {last}"));
            }
            before += bytes.unwrap_or(0);
        }
        self.record(positions).await.map_err(|e| e.told())?;
        server.finish_seed(database, nonce).await.map_err(|e| e.told())
    }

    /// What the sources had done is done here too: the topics are read from there on. Where one has recorded nothing,
    /// what this node recorded of a copy that it had before must not stand.
    async fn record(&self, positions: Vec<(TopicPartition, Option<Committed>)>) -> Result<(), kafka::Error> {
        // A half that is not published yet may still be given up: its parent's own positions must stand then.
        let group = match self.shard.state {
            ShardState::Preparing => names::preparing_group(&self.ports.group),
            _ => self.ports.group.clone(),
        };
        let bare: Vec<TopicPartition> = positions
            .iter()
            .filter(|(_, position)| position.is_none())
            .map(|(topic, _)| topic.clone())
            .collect();
        self.unrecord(&group, &bare).await?;
        let known = positions.into_iter().filter_map(|(topic, position)| Some((topic, position?)));
        self.ports.kafka.commit(&group, &known.collect::<Vec<_>>()).await
    }

    /// Overwrites what a group has recorded of these topics by nothing that says anything: brokers take none back.
    pub(super) async fn unrecord(&self, group: &str, topics: &[TopicPartition]) -> Result<(), kafka::Error> {
        let recorded = self.ports.kafka.committed(group, topics).await?;
        let stale = topics.iter().zip(recorded).filter(|(_, recorded)| recorded.is_some());
        let nothing = Committed { next: 0, metadata: String::new() };
        let overwritten: Vec<_> = stale.map(|(topic, _)| (topic.clone(), nothing.clone())).collect();
        if overwritten.is_empty() {
            return Ok(());
        }
        self.ports.kafka.commit(group, &overwritten).await
    }

    /// Bytes by partition, of the first source that tells them; nothing depends on it but deadlines and reports.
    async fn sizes_of(&self, sources: &[Source]) -> BTreeMap<PartitionId, u64> {
        let mut sizes = BTreeMap::new();
        for source in sources {
            if source.shard.range.partitions().all(|partition| sizes.contains_key(&partition)) {
                continue;
            }
            let Ok(told) = self.ports.clickhouse.remote_sizes(&source.replica).await else { continue };
            for partition in source.shard.range.partitions() {
                let bytes = told.get(&partition).map_or(0, |size| size.bytes);
                sizes.entry(partition).or_insert(bytes);
            }
        }
        sizes
    }

    /// Refuses to fill the disk, as far as the server tells what is free.
    async fn check_room(&self, bytes: u64) -> Result<(), String> {
        let info = self.ports.clickhouse.server_info().await.map_err(|e| e.told())?;
        let kept = kept_free_bytes(info.disk_total_bytes);
        if info.disk_total_bytes == 0 || info.disk_free_bytes >= bytes.saturating_add(kept) {
            return Ok(());
        }
        let free = info.disk_free_bytes;
        Err(format!(
            "{bytes} bytes are to be copied, and {free} are free on the disk, of which {kept} are kept so"
        ))
    }

    async fn copy_one(
        &self,
        nonce: u64,
        source: &Source,
        partition: PartitionId,
        bytes: Option<u64>,
        declined: &mut BTreeMap<NodeId, String>,
        meter: &Meter,
    ) -> Result<u64, String> {
        if !declined.contains_key(&source.node) {
            meter.note(false, |seeding| seeding.way = CopyWay::Parts);
            let why = match self.by_parts_again(nonce, source, partition, meter).await {
                Ok(rows) => return Ok(rows),
                Err(NoParts::NotNow(error)) => return Err(error),
                Err(NoParts::Declined(why) | NoParts::Broke(why)) => why,
            };
            tracing::info!(table = %self.table.name, shard = %self.shard.id, from = %source.node, why,
                "copying by a select rather than by parts");
            declined.insert(source.node.clone(), why);
        }
        let why = declined.get(&source.node).cloned().unwrap_or_default();
        meter.note(true, |seeding| seeding.way = CopyWay::Select { why });
        let limits = self.select_limits(bytes);
        let server = &self.ports.clickhouse;
        let copied = server.copy_partition(&self.database, nonce, &source.replica, partition, limits).await;
        if copied.is_ok() {
            let bytes = bytes.unwrap_or(0);
            self.ports.metrics.copied_bytes("select").inc_by(bytes);
            meter.note(false, |seeding| seeding.bytes_moved += bytes);
        }
        copied.map_err(|e| e.told())
    }

    /// The deadline grows with the size; the pace is this node's, shared among the copies that may run.
    fn select_limits(&self, bytes: Option<u64>) -> CopyLimits {
        let bytes_per_s = match self.ports.takes.bytes_per_s() {
            0 => 0,
            all => (all / self.ports.copies_max.max(1)).max(1),
        };
        let slowest = match bytes_per_s {
            0 => SELECT_BYTES_PER_S_MIN,
            pace => (pace / 4).clamp(1, SELECT_BYTES_PER_S_MIN),
        };
        let deadline_ms = bytes.map_or(SELECT_DEADLINE_UNKNOWN_MS, |bytes| {
            SELECT_DEADLINE_MS.saturating_add(bytes.saturating_mul(1_000) / slowest)
        });
        CopyLimits { deadline_ms, bytes_per_s }
    }

    /// What came whole is not sent again, so a copy that breaks off is worth another try.
    async fn by_parts_again(
        &self,
        nonce: u64,
        source: &Source,
        partition: PartitionId,
        meter: &Meter,
    ) -> Result<u64, NoParts> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.by_parts(nonce, source, partition, meter).await {
                Err(NoParts::Broke(why)) if tries < PARTS_TRIES => {
                    tracing::info!(table = %self.table.name, shard = %self.shard.id, %partition, why,
                        "a copy by parts broke off: trying again");
                    tokio::time::sleep(PARTS_RETRY * tries).await;
                }
                done => return done,
            }
        }
    }

    async fn by_parts(
        &self,
        nonce: u64,
        source: &Source,
        partition: PartitionId,
        meter: &Meter,
    ) -> Result<u64, NoParts> {
        let (server, database) = (&self.ports.clickhouse, self.database.as_str());
        let from = format!("{}/{}", source.node, source.replica.database);
        let held = server.files_held(database, nonce, &from, partition).await.map_err(told)?;
        let version = server.server_info().await.map_err(told)?.version;
        let wanted =
            WantedParts { database: source.replica.database.clone(), partition, version, held: held.clone() };
        let daemon = self.ports.neighbours.daemon(&source.daemon_url);
        let sending = daemon.send_partition(source.node.clone(), wanted).await;
        let pieces = sending.map_err(|error| match error {
            peers::Error::Refused(_) => NoParts::NotNow(error.told()),
            _ => NoParts::Broke(format!("the daemon of {}: {}", source.node, error.told())),
        })?;
        let pieces = watched(pieces, self.ports.takes.clone(), meter.clone());
        server.take_partition(database, nonce, &from, partition, held, pieces).await.map_err(told)
    }
}

/// What an error of our own server means for a copy by parts.
fn told(error: clickhouse::Error) -> NoParts {
    match error {
        clickhouse::Error::NotByParts(reason) => NoParts::Declined(reason),
        // No other way has more room.
        clickhouse::Error::Overloaded { code: 243, .. } | clickhouse::Error::Missing(_) => {
            NoParts::NotNow(error.told())
        }
        _ => NoParts::Broke(error.told()),
    }
}

/// The pieces at the node's pace, counted; silence is an error.
fn watched(pieces: PieceStream, throttle: Throttle, meter: Meter) -> Pieces {
    let failed = |message: String| clickhouse::Error::Overloaded { code: 0, message };
    let next = move |(mut pieces, throttle, meter): (PieceStream, Throttle, Meter)| async move {
        let piece = match tokio::time::timeout(SILENCE, pieces.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(piece))) => Ok(piece),
            Ok(Some(Err(error))) => Err(failed(error.told())),
            Err(_) => Err(failed(format!("nothing came for {} s", SILENCE.as_secs()))),
        };
        if let Ok(Piece::Data(content)) = &piece {
            let bytes = content.len() as u64;
            throttle.take(bytes).await;
            meter.job.ports.metrics.copied_bytes("parts").inc_by(bytes);
            meter.note(false, |seeding| {
                seeding.bytes_done += bytes;
                seeding.bytes_moved += bytes;
            });
        }
        Some((piece, (pieces, throttle, meter)))
    };
    futures::stream::unfold((pieces, throttle, meter), next).boxed()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::range::PartitionRange;
    use crate::model::table::Shard;
    use crate::model::view::Versioned;
    use crate::model::{ShardId, TableId};

    #[test]
    fn nodes_share_the_pace_of_the_cluster_by_what_is_copied_to_each() {
        let node = |name: &str| name.parse::<NodeId>().unwrap();
        let mut view = ClusterView::default();
        let table = TableId(uuid::Uuid::from_u128(1));
        // Three copies to n2 and one to n3; the replica on n1 is no copy, and s9 is made from its topics.
        for (id, to) in [(0, Some("n2")), (1, Some("n2")), (2, Some("n2")), (3, Some("n3")), (9, None)] {
            let mut shard =
                Shard::new(table, ShardId(id), PartitionRange::new(id, id + 1).unwrap(), [node("n1")]);
            let copies = to.map(|to| Replica { copy_from: Some(node("n1")), ..Replica::creating(node(to)) });
            shard.replicas.extend(copies);
            let record = Versioned { record: shard, revision: 1 }.into();
            view.shards.entry(table).or_default().insert(ShardId(id), record);
        }
        assert_eq!(share(400, &view, &node("n2")), 300);
        assert_eq!(share(400, &view, &node("n3")), 100);
        assert_eq!(share(400, &view, &node("n1")), 80, "a copy that no record shows");
        assert_eq!(share(2, &view, &node("n3")), 1, "never without any pace at all");
    }
}
