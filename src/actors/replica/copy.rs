//! Copying a replica's history from another node: by parts where that works, else by a select, partition by partition.
//!
//! Which way is taken, and why not by parts, is told with the progress. A copy that is not wanted any more is let go:
//! its future is dropped, which ends the stream, and the server is told to stop what it runs when the replica goes.

use super::meter::Meter;
use super::seed::Source;
use super::work::Job;
use crate::actors::throttle::Throttle;
use crate::adapters::clickhouse::{self, CopyLimits, Pieces, ReplicaTables};
use crate::adapters::kafka::{self, Committed};
use crate::adapters::peers::{self, PieceStream};
use crate::error::Coded;
use crate::model::names::{self, TopicPartition};
use crate::model::observed::CopyWay;
use crate::model::parts::{HeldFile, Piece, WantedParts};
use crate::model::table::{Replica, ReplicaState, ShardState};
use crate::model::view::ClusterView;
use crate::model::{NodeId, PartitionId};
use futures::future::{Either, select};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// How many sources are tried for one partition before the whole is tried again later (H8).
const SOURCES_MAX: usize = 5;
/// How often parts are asked for of one source, if the copy breaks off, before a select is tried.
const PARTS_TRIES: u32 = 3;
/// Wait before the next try, times the tries made.
const PARTS_RETRY: Duration = Duration::from_secs(1);
/// Silence of the sender after which a copy by parts is given up, beside what it takes to look at a file that is here.
const SILENCE: Duration = Duration::from_secs(60);
/// How slow the sender's disk may be while it does.
const CHECKSUM_BYTES_PER_S_MIN: u64 = 20 << 20;
/// How often it is looked whether a shard that is being copied has been frozen.
const FROZEN_LOOK: Duration = Duration::from_secs(1);
/// What a select may take whatever it copies, and how slow it may be beside that.
const SELECT_DEADLINE_MS: u64 = 10 * 60_000;
const SELECT_BYTES_PER_S_MIN: u64 = 1 << 20;
/// Where nothing is known of the size.
const SELECT_DEADLINE_UNKNOWN_MS: u64 = 60 * 60_000;
/// Partitions that are on their way by parts at once: while the server takes one up, another comes. More of them would
/// be noticed by queries.
const PARTITIONS_AT_ONCE: usize = 2;

/// Why a partition did not come by parts.
enum NoParts {
    /// There is no such way: by a select then.
    Declined(String),
    /// Not by any way, from this source, now.
    NotNow(String),
    /// It broke off.
    Broke(String),
}

/// Told of bytes that have come.
type Count = Box<dyn Fn(u64) + Send>;

/// One attempt at all of a replica.
struct Pass<'a> {
    nonce: u64,
    sources: &'a [Source],
    /// Bytes by partition, as far as they are known.
    sizes: BTreeMap<PartitionId, u64>,
    meter: Meter,
    /// Who does not send parts, and why.
    declined: Mutex<BTreeMap<NodeId, String>>,
    /// Held by the select that runs.
    selects: tokio::sync::Mutex<()>,
}

impl Pass<'_> {
    fn bytes_of(&self, partition: PartitionId) -> u64 {
        self.sizes.get(&partition).copied().unwrap_or(0)
    }

    fn declined(&self, source: &Source) -> Option<String> {
        self.declined.lock().expect("nothing panics while it is held").get(&source.node).cloned()
    }

    fn decline(&self, source: &Source, why: String) {
        self.declined.lock().expect("nothing panics while it is held").insert(source.node.clone(), why);
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

/// The silence that is no reason to give up: nothing comes while the sender looks whether a file that is here is the
/// one that it has.
fn silence_max(held: &[HeldFile]) -> Duration {
    let largest = held.iter().map(|file| file.bytes).max().unwrap_or(0);
    SILENCE + Duration::from_secs(largest / CHECKSUM_BYTES_PER_S_MIN)
}

impl Job {
    /// Keeps the node to its share, which others that come and go change.
    pub(super) fn take_share(&self) {
        let cluster = self.ports.cluster_bytes_per_s;
        if cluster > 0 {
            self.ports.takes.share(share(cluster, &self.view.read(), &self.ports.node));
        }
    }

    /// Copies, unless the shard is frozen or is so meanwhile: what is deleted by hand elsewhere under a freeze would
    /// come back with what was taken before.
    pub(super) async fn copy(&self, tables: &ReplicaTables, sources: &[Source]) -> Result<(), String> {
        if let Some(why) = self.frozen() {
            return Err(why);
        }
        let copying = Box::pin(self.copy_all(tables, sources));
        match select(copying, std::pin::pin!(self.until_frozen())).await {
            Either::Left((copied, _)) => copied,
            Either::Right((why, copying)) => {
                drop(copying);
                // To begin anew ends what the server still runs for it.
                let server = &self.ports.clickhouse;
                if let Err(error) = server.begin_seed(tables, self.ports.clock.random()).await {
                    tracing::info!(table = %self.table.name, shard = %self.shard.id, %error,
                        "what a copy has left is not cleared away yet");
                }
                Err(why)
            }
        }
    }

    /// In which words the shard is frozen. The halves of a split that has begun are made all the same, as a split is
    /// finished.
    fn frozen(&self) -> Option<String> {
        let view = self.view.read();
        let shard = view.shard(self.table.id, self.shard.id);
        if shard.map_or(self.shard.state, |shard| shard.state) == ShardState::Preparing {
            return None;
        }
        // Not by this node's clock: a freeze ends when whoever leads takes its record away.
        view.frozen(self.table.id, self.shard.id, 0).map(ToString::to_string)
    }

    async fn until_frozen(&self) -> String {
        loop {
            tokio::time::sleep(FROZEN_LOOK).await;
            if let Some(why) = self.frozen() {
                return why;
            }
        }
    }

    /// What was copied must be on the disk before its source may go: what a power failure took of it would not be
    /// missed. Returns why that cannot be seen to from here, if so.
    async fn keep(&self) -> Result<Option<String>, String> {
        match self.ports.clickhouse.sync_disks().await {
            Ok(()) => Ok(None),
            Err(clickhouse::Error::NotByParts(why)) => Ok(Some(why)),
            Err(error) => Err(error.told()),
        }
    }

    async fn copy_all(&self, tables: &ReplicaTables, sources: &[Source]) -> Result<(), String> {
        let _permit = self.ports.copies.acquire().await;
        let (server, database) = (&self.ports.clickhouse, &self.database);
        let nonce = self.ports.clock.random();
        server.begin_seed(tables, nonce).await.map_err(|e| e.told())?;
        let range = self.shard.range;
        let sizes = self.sizes_of(sources).await;
        let bytes_of = range.partitions().filter_map(|partition| sizes.get(&partition)).sum();
        self.check_room(nonce, bytes_of).await?;
        let (meter, declined, selects) =
            (Meter::new(self, range.width(), bytes_of), Mutex::default(), tokio::sync::Mutex::default());
        let pass = Pass { nonce, sources, sizes, meter, declined, selects };
        let copying = range.partitions().map(|partition| self.copy_partition(&pass, partition));
        let positions =
            futures::stream::iter(copying).buffered(PARTITIONS_AT_ONCE).try_collect::<Vec<_>>().await?;
        self.record(positions).await.map_err(|e| e.told())?;
        if let Some(why) = self.keep().await? {
            tracing::info!(table = %self.table.name, shard = %self.shard.id, why,
                "when the copy is safe on its disk is left to the server");
        }
        if let Some(why) = self.frozen() {
            return Err(why);
        }
        server.finish_seed(database, nonce).await.map_err(|e| e.told())?;
        // Its new name too.
        self.keep().await.map(drop)
    }

    /// Copies a partition from the first source that gives it; returns its topic, and the source's position.
    async fn copy_partition(
        &self,
        pass: &Pass<'_>,
        partition: PartitionId,
    ) -> Result<(TopicPartition, Option<Committed>), String> {
        let has = |source: &&Source| source.shard.range.contains(partition);
        let mut last = "no source".to_owned();
        for source in pass.sources.iter().filter(has).take(SOURCES_MAX) {
            match self.copy_one(pass, source, partition).await {
                Ok((rows, position)) => {
                    self.ports.metrics.copied_rows(&self.table.name.to_string()).inc_by(rows);
                    pass.meter.whole(partition, pass.bytes_of(partition));
                    return Ok((names::topic_partition(&self.table.source, partition), position));
                }
                Err(error) => last = format!("from {}: {error}", source.node),
            }
        }
        Err(format!("{partition} cannot be copied {last}"))
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

    /// Refuses to fill the disks, as far as the server tells what is free.
    async fn check_room(&self, nonce: u64, bytes: u64) -> Result<(), String> {
        match self.ports.clickhouse.room(&self.database, nonce).await.map_err(|e| e.told())? {
            Some(room) if room < bytes => Err(format!(
                "{bytes} bytes are to be copied, and the disk has room for {room} beside what is kept free"
            )),
            _ => Ok(()),
        }
    }

    /// Copies a partition; returns its rows, and the source's position before they were taken: the copy holds every row
    /// below it. It is read before each try, since a try may take hours, after which the topic may not go back as far.
    async fn copy_one(
        &self,
        pass: &Pass<'_>,
        source: &Source,
        partition: PartitionId,
    ) -> Result<(u64, Option<Committed>), String> {
        let Pass { nonce, meter, .. } = pass;
        if pass.declined(source).is_none() {
            meter.note(false, |seeding| seeding.way = CopyWay::Parts);
            let why = match self.by_parts_again(*nonce, source, partition, meter).await {
                Ok(copied) => return Ok(copied),
                Err(NoParts::NotNow(error)) => return Err(error),
                Err(NoParts::Declined(why) | NoParts::Broke(why)) => why,
            };
            tracing::info!(table = %self.table.name, shard = %self.shard.id, from = %source.node, why,
                "copying by a select rather than by parts");
            pass.decline(source, why);
        }
        // One at a time: each has the whole pace of the copy.
        let _alone = pass.selects.lock().await;
        let why = pass.declined(source).unwrap_or_default();
        meter.note(true, |seeding| seeding.way = CopyWay::Select { why });
        let bytes = pass.sizes.get(&partition).copied();
        let (server, limits) = (&self.ports.clickhouse, self.select_limits(bytes));
        let position = self.position_before(source, partition).await?;
        let copied = server.copy_partition(&self.database, *nonce, &source.replica, partition, limits).await;
        if copied.is_ok() {
            let bytes = bytes.unwrap_or(0);
            self.ports.metrics.copied_bytes("select").inc_by(bytes);
            meter.note(false, |seeding| seeding.bytes_moved += bytes);
        }
        copied.map(|rows| (rows, position)).map_err(|e| e.told())
    }

    async fn position_before(
        &self,
        source: &Source,
        partition: PartitionId,
    ) -> Result<Option<Committed>, String> {
        let topic = names::topic_partition(&self.table.source, partition);
        self.position_of(source, &topic).await.map_err(|e| e.told())
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
    ) -> Result<(u64, Option<Committed>), NoParts> {
        let mut tries = 0;
        loop {
            tries += 1;
            let position = self.position_before(source, partition).await.map_err(NoParts::NotNow)?;
            meter.begins(partition);
            match self.by_parts(nonce, source, partition, meter).await {
                Ok(rows) => return Ok((rows, position)),
                Err(NoParts::Broke(why)) if tries < PARTS_TRIES => {
                    tracing::info!(table = %self.table.name, shard = %self.shard.id, %partition, why,
                        "a copy by parts broke off: trying again");
                    tokio::time::sleep(PARTS_RETRY * tries).await;
                }
                Err(failed) => return Err(failed),
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
        let (throttle, meter) = (self.ports.takes.clone(), meter.clone());
        let count = Box::new(move |bytes| meter.comes(partition, bytes));
        let pieces = watched(pieces, silence_max(&held), throttle, count);
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

/// The pieces at the node's pace, counted; longer silence is an error.
fn watched(pieces: PieceStream, silence_max: Duration, throttle: Throttle, count: Count) -> Pieces {
    let failed = |message: String| clickhouse::Error::Overloaded { code: 0, message };
    let next = move |(mut pieces, throttle, count): (PieceStream, Throttle, Count)| async move {
        let piece = match tokio::time::timeout(silence_max, pieces.next()).await {
            Ok(None) => return None,
            Ok(Some(Ok(piece))) => Ok(piece),
            Ok(Some(Err(error))) => Err(failed(error.told())),
            Err(_) => Err(failed(format!("nothing came for {} s", silence_max.as_secs()))),
        };
        if let Ok(Piece::Data(content)) = &piece {
            let bytes = content.len() as u64;
            throttle.take(bytes).await;
            count(bytes);
        }
        Some((piece, (pieces, throttle, count)))
    };
    futures::stream::unfold((pieces, throttle, count), next).boxed()
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

    #[test]
    fn a_large_file_that_is_here_gives_the_sender_time_to_look_at_its_own() {
        let held = |bytes: u64| HeldFile { part: "p".into(), file: "f".into(), bytes, checksum: 0 };
        assert_eq!(silence_max(&[]), SILENCE);
        assert_eq!(silence_max(&[held(1 << 20)]), SILENCE);
        assert_eq!(
            silence_max(&[held(1 << 30), held(200 << 30), held(5)]),
            SILENCE + Duration::from_secs(10_240)
        );
    }
}
