//! How simulated servers copy by parts: a partition is one part of two files, frozen in two steps and sent piece
//! by piece.

use super::sim::SimClickHouse;
use super::sim_seed::{PartitionRows, told_by};
use super::versions::Release;
use super::{Error, Pieces, RemoteReplica, ReplicaSizes};
use crate::model::PartitionId;
use crate::model::parts::{Arrived, FileSize, HeldFile, Intake, PartFiles, Piece, WantedParts};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The files of a part: a small one, and one that travels in several pieces.
const FILES: [&str; 2] = ["columns.txt", "rows.bin"];
const COLUMNS: &[u8] = b"columns format version: 1";
/// Pieces of the larger one.
const PIECES: usize = 4;

fn broken(what: &str) -> Error {
    Error::Overloaded { code: 0, message: format!("parts: {what}") }
}

impl SimClickHouse {
    /// Takes copies by parts away from its daemon, for that reason, or gives them back.
    pub fn set_no_parts(&self, reason: Option<&str>) {
        self.world().no_parts = reason.map(str::to_owned);
    }

    /// Its tables have mutations that are not done, or none.
    pub fn set_mutating(&self, mutating: bool) {
        self.world().mutating = mutating;
    }

    fn may_copy(&self) -> Result<(), Error> {
        self.world().no_parts.clone().map_or(Ok(()), |reason| Err(Error::NotByParts(reason)))
    }

    pub(super) async fn sizes_elsewhere(
        &self,
        source: &RemoteReplica,
    ) -> Result<BTreeMap<PartitionId, ReplicaSizes>, Error> {
        let peer = self.call(|world| world.peer(source)).await?;
        let sizes = peer.call(|world| {
            let Ok(replica) = world.replica(&source.database) else { return Ok(BTreeMap::new()) };
            let size = |(partition, parts): (u32, u64)| {
                let rows = replica.taken(PartitionId(partition));
                (PartitionId(partition), ReplicaSizes { bytes: rows.bytes(), rows: rows.row_count(), parts })
            };
            let mut parts: BTreeMap<u32, u64> = BTreeMap::new();
            for (partition, _) in &replica.seen {
                *parts.entry(*partition).or_default() += 1;
            }
            Ok(parts.into_iter().map(size).collect())
        });
        sizes.await.map_err(|error| told_by(source, error))
    }

    pub(super) async fn send(&self, wanted: WantedParts) -> Result<Pieces, Error> {
        self.may_copy()?;
        let (mut rows, copy_ms) = self
            .call(|world| {
                let (from, to) = (&world.version, &wanted.version);
                if Release::of(from) > Release::of(to) {
                    return Err(Error::NotByParts(format!(
                        "its server, {from}, is newer than this one, {to}"
                    )));
                }
                let (copy_ms, mutating) = (world.copy_ms, world.mutating);
                let replica = world.replica(&wanted.database)?;
                if mutating {
                    return Err(Error::Mutating(wanted.database.clone()));
                }
                Ok((replica.taken(wanted.partition), copy_ms))
            })
            .await?;
        sleep(Duration::from_millis(copy_ms / 4)).await;
        let later = self.call(|world| {
            let taken = world.replica(&wanted.database)?.taken(wanted.partition);
            if world.mutating { Err(Error::Mutating(wanted.database.clone())) } else { Ok(taken) }
        });
        rows.half_of(&later.await?);
        if rows.row_count() == 0 {
            return Ok(stream::iter([Ok(Piece::Begin(Vec::new()))]).boxed());
        }
        let files = [Bytes::from_static(COLUMNS), Bytes::from(rows.encode())];
        let name = format!("{}_1_{}_0", wanted.partition.0, rows.row_count());
        let size =
            |(name, content): (&str, &Bytes)| FileSize { name: name.into(), bytes: content.len() as u64 };
        let sizes = FILES.into_iter().zip(&files).map(size).collect();
        let part = PartFiles { name: name.clone(), rows: rows.row_count(), files: sizes };
        let mut pieces = vec![Piece::Begin(vec![part])];
        for (file, content) in FILES.into_iter().zip(files) {
            let checksum = crc32fast::hash(&content);
            let file =
                HeldFile { part: name.clone(), file: file.into(), bytes: content.len() as u64, checksum };
            let held = wanted.held.contains(&file);
            let at_once = content.len().div_ceil(PIECES).max(1);
            let chunks = (0..content.len()).step_by(at_once).filter(|_| !held);
            pieces.extend(chunks.map(|at| Piece::Data(content.slice(at..content.len().min(at + at_once)))));
            pieces.push(Piece::End { checksum, held });
        }
        let count = pieces.len() as u64;
        let wait = Duration::from_millis((copy_ms - copy_ms / 4) / count);
        let (server, bytes) = (self.clone(), rows.bytes() / count);
        let timely = move |piece| {
            let server = server.clone();
            async move {
                sleep(wait).await;
                server.let_out(bytes).await;
                Ok(piece)
            }
        };
        Ok(stream::iter(pieces).then(timely).boxed())
    }

    pub(super) async fn held_files(
        &self,
        database: &str,
        nonce: u64,
        (from, partition): (&str, PartitionId),
    ) -> Result<Vec<HeldFile>, Error> {
        self.may_copy()?;
        self.call(|world| {
            world.seed(database, nonce)?;
            let key = (database.to_owned(), from.to_owned(), partition.0);
            Ok(world.taken.get(&key).into_iter().flat_map(BTreeMap::keys).cloned().collect())
        })
        .await
    }

    pub(super) async fn take_parts(
        &self,
        (database, nonce): (&str, u64),
        (from, partition): (&str, PartitionId),
        held: Vec<HeldFile>,
        mut pieces: Pieces,
    ) -> Result<u64, Error> {
        self.call(|world| {
            world.check_disk()?;
            world.seed(database, nonce).map(|_| ())
        })
        .await?;
        let begun = Instant::now();
        let announced = match pieces.next().await {
            Some(Ok(Piece::Begin(parts))) => parts,
            Some(Ok(Piece::Declined(reason))) => return Err(Error::NotByParts(reason)),
            Some(Err(error)) => return Err(error),
            _ => return Err(broken("the other daemon broke off")),
        };
        let rows_told: u64 = announced.iter().map(|part| part.rows).sum();
        let mut intake = Intake::new(announced, held).map_err(|what| broken(&what))?;
        let key = (database.to_owned(), from.to_owned(), partition.0);
        let (mut content, mut rows) = (BytesMut::new(), PartitionRows::default());
        while let Some((part, file)) = intake.current().map(|(part, file)| (part.clone(), file.clone())) {
            let piece = pieces.next().await.ok_or_else(|| broken("the other daemon broke off"))??;
            let told = if let Piece::End { checksum, .. } = &piece { *checksum } else { 0 };
            let name = HeldFile { part: part.name, file: file.name, bytes: file.bytes, checksum: told };
            let whole = match intake.take(piece).map_err(|what| broken(&what))? {
                Arrived::Write(more) => {
                    content.extend_from_slice(&more);
                    continue;
                }
                Arrived::Whole => content.split().freeze(),
                // Of its name there may be others, of another content.
                Arrived::Held => {
                    let held = self.world().taken.get(&key).and_then(|files| files.get(&name).cloned());
                    held.ok_or_else(|| broken("what was held is gone"))?
                }
            };
            if !name.part.starts_with(&format!("{}_", partition.0)) {
                return Err(broken("of another partition"));
            }
            if name.file == FILES[1] {
                let text = String::from_utf8_lossy(&whole);
                rows = PartitionRows::decode(&text).ok_or_else(|| broken("not understood"))?;
            }
            self.call(|world| Ok(world.taken.entry(key.clone()).or_default().insert(name, whole))).await?;
        }
        if rows.row_count() != rows_told {
            return Err(broken("other rows than were told of"));
        }
        self.let_in(rows.bytes(), begun).await;
        self.call(|world| world.put_copy((database, nonce), partition, rows)).await
    }

    pub(super) async fn sweep(&self) -> Result<(), Error> {
        self.call(|world| {
            let seeds = &world.seeds;
            world.taken.retain(|(database, _, _), _| seeds.keys().any(|(seeded, _)| seeded == database));
            Ok(())
        })
        .await
    }
}
