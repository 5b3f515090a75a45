//! The sender: freezes the parts of a partition and reads their files.

use super::folder::{self, CHUNK_BYTES, Located};
use super::{Error, HttpClickHouse, blocking, keeps_rows, on_disk, trouble};
use crate::adapters::clickhouse::http::Settings;
use crate::adapters::clickhouse::staging::Contents;
use crate::adapters::clickhouse::statement::Statement;
use crate::adapters::clickhouse::{Pieces, ddl, scratch};
use crate::model::TableName;
use crate::model::names;
use crate::model::parts::{self, FileSize, HeldFile, PartFiles, Piece, WantedParts};
use bytes::Bytes;
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

/// Pieces that wait for whoever takes them.
const PIECES_AHEAD: usize = 4;

type Sent = Result<Piece, Error>;

/// What is frozen under one name; removed when it is let go.
struct Frozen {
    name: String,
    folders: Vec<Located>,
    active: Arc<Mutex<BTreeSet<String>>>,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for folder in &self.folders {
            let shadow = folder.root.join("shadow").join(&self.name);
            if let Err(error) = folder::remove(&shadow) {
                tracing::warn!(folder = %shadow.display(), %error, "frozen parts are not removed yet");
            }
        }
        self.active.lock().expect("no panic while held").remove(&self.name);
    }
}

impl HttpClickHouse {
    /// See [`ClickHouse::send_partition`](crate::adapters::clickhouse::ClickHouse::send_partition).
    pub(in crate::adapters::clickhouse) async fn send(&self, wanted: WantedParts) -> Result<Pieces, Error> {
        ddl::check_replica_database(&wanted.database)?;
        let local = Self::local(&wanted.database);
        let Some(described) = self.described(&local).await? else {
            return Err(Error::Missing(local.to_string()));
        };
        let schema = scratch::schema_of(&described, Vec::new())?;
        Self::check_releases(&self.release().await?, &wanted.version)?;
        let frozen = self.frozen(&local).await?;
        let mutations = self.mutations(&local).await?;
        let of_partition = |mut contents: Contents| {
            contents.retain(|_, content| content.partition == wanted.partition);
            contents.into_iter().map(|(id, content)| (id, content.rows)).collect::<BTreeMap<_, _>>()
        };
        let before = of_partition(self.contents(&local).await?);
        for id in before.keys() {
            let freeze = Statement::FreezePartition { name: &local, partition_id: id, frozen: &frozen.name };
            self.change(&freeze, &format!("partition {id} of {local}"), Settings::new()).await?;
        }
        // One that has begun since may have changed some of the parts.
        self.check_mutations_since(&local, &mutations).await?;
        let (frozen, found) = blocking(move || {
            let found = frozen.parts();
            Ok((frozen, found))
        })
        .await
        .map_err(|error| on_disk("frozen parts", &error))?;
        let (found, paths) = found.map_err(|error| Error::NotByParts(error.to_string()))?;
        // Where rows go by themselves, what was there may be so no more.
        let keeps = keeps_rows(&schema);
        let after = if keeps { before.clone() } else { of_partition(self.contents(&local).await?) };
        if found.is_empty() && !after.is_empty() {
            let at = frozen.folders.iter().map(|folder| folder.root.display().to_string());
            let at = at.collect::<Vec<_>>().join(", ");
            return Err(Error::NotByParts(format!("what its server froze is not below {at} for its daemon")));
        }
        if keeps { check_whole(&before, &found) } else { check_some(&before, &after, &found) }?;
        Ok(frozen.stream(found, paths, wanted.held))
    }

    /// A fresh name for what is frozen of a table, once it is certain that it can be read and removed again.
    async fn frozen(&self, local: &TableName) -> Result<Frozen, Error> {
        let folders = self.folders_of(local).await?;
        let looked = {
            let folders = folders.clone();
            blocking(move || folders.iter().try_for_each(|folder| std::fs::metadata(folder.path()).map(drop)))
        };
        looked.await.map_err(|error| {
            Error::NotByParts(format!("the folder of {local} is out of its daemon's reach: {error}"))
        })?;
        let active = self.parts().active.clone();
        let name = names::frozen(&Uuid::new_v4().simple().to_string());
        // First of all: a sweep would take it for a leftover.
        active.lock().expect("no panic while held").insert(name.clone());
        let frozen = Frozen { name: name.clone(), folders: folders.clone(), active };
        let checked = blocking(move || folders.iter().try_for_each(|at| folder::check_source(at, &name)));
        checked.await.map_err(|error| on_disk(&format!("parts of {local} cannot be frozen"), &error))?;
        Ok(frozen)
    }
}

/// Refuses to send less than there was before the first freeze: each ClickHouse partition is frozen by a statement of
/// its own, and what removes the folder between two of them (another daemon's sweep, an operator) leaves later ones.
fn check_whole(expected: &BTreeMap<String, u64>, found: &[PartFiles]) -> Result<(), Error> {
    for (id, rows) in expected {
        let of_id = found.iter().filter(|part| parts::partition_id(&part.name) == Some(id.as_str()));
        let frozen: u64 = of_id.map(|part| part.rows).sum();
        if frozen < *rows {
            let what = format!("{frozen} of {rows} rows of ClickHouse partition {id} are there");
            return Err(trouble("frozen parts", &what));
        }
    }
    Ok(())
}

/// The same where rows go by themselves, so that there may be fewer at any time: something of all that is still there
/// must have been frozen.
fn check_some(
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
    found: &[PartFiles],
) -> Result<(), Error> {
    let frozen: BTreeSet<&str> = found.iter().filter_map(|part| parts::partition_id(&part.name)).collect();
    let stands = |id: &&String| before[*id] > 0 && after.get(*id).is_some_and(|rows| *rows > 0);
    match before.keys().filter(stands).find(|id| !frozen.contains(id.as_str())) {
        Some(id) => Err(trouble("frozen parts", &format!("none of ClickHouse partition {id} is there"))),
        None => Ok(()),
    }
}

impl Frozen {
    /// Everything that was frozen, and where it is.
    fn parts(&self) -> std::io::Result<(Vec<PartFiles>, BTreeMap<String, PathBuf>)> {
        let (mut found, mut paths) = (Vec::new(), BTreeMap::new());
        for folder in &self.folders {
            let at = folder.frozen(&self.name);
            let parts = match folder::frozen_parts(&at) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                parts => parts?,
            };
            paths.extend(parts.iter().map(|part| (part.name.clone(), at.join(&part.name))));
            found.extend(parts);
        }
        Ok((found, paths))
    }

    fn stream(self, found: Vec<PartFiles>, paths: BTreeMap<String, PathBuf>, held: Vec<HeldFile>) -> Pieces {
        let (pieces, receiver) = mpsc::channel::<Sent>(PIECES_AHEAD);
        tokio::task::spawn_blocking(move || {
            let held: BTreeSet<HeldFile> = held.into_iter().collect();
            if let Err(error) = send_all(&pieces, &found, &paths, &held) {
                // Who took it may be gone: then nobody is there to be told either.
                let _ = pieces.blocking_send(Err(on_disk("frozen parts cannot be read", &error)));
            }
            drop(self);
        });
        ReceiverStream::new(receiver).boxed()
    }
}

/// Sends everything; `Ok` too if nobody takes it any more.
fn send_all(
    pieces: &mpsc::Sender<Sent>,
    found: &[PartFiles],
    paths: &BTreeMap<String, PathBuf>,
    held: &BTreeSet<HeldFile>,
) -> std::io::Result<()> {
    parts::check(found).map_err(|what| std::io::Error::new(std::io::ErrorKind::InvalidData, what))?;
    if pieces.blocking_send(Ok(Piece::Begin(found.to_vec()))).is_err() {
        return Ok(());
    }
    for part in found {
        let Some(folder) = paths.get(&part.name) else { continue };
        for file in &part.files {
            if !send_file(pieces, &part.name, file, &folder.join(&file.name), held)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether somebody still takes it.
fn send_file(
    pieces: &mpsc::Sender<Sent>,
    part: &str,
    file: &FileSize,
    path: &Path,
    held: &BTreeSet<HeldFile>,
) -> std::io::Result<bool> {
    let same = |held: &&HeldFile| held.part == part && held.file == file.name && held.bytes == file.bytes;
    if let Some(there) = held.iter().find(same) {
        let (_, checksum) = folder::checksum(path)?;
        if checksum == there.checksum {
            return Ok(pieces.blocking_send(Ok(Piece::End { checksum, held: true })).is_ok());
        }
    }
    let (mut source, mut hasher) = (folder::of(path, File::open(path))?, crc32fast::Hasher::new());
    let chunk_bytes = usize::try_from(file.bytes).unwrap_or(CHUNK_BYTES).clamp(1, CHUNK_BYTES);
    loop {
        let mut chunk = Vec::with_capacity(chunk_bytes);
        source.by_ref().take(chunk_bytes as u64).read_to_end(&mut chunk)?;
        if chunk.is_empty() {
            let end = Piece::End { checksum: hasher.finalize(), held: false };
            return Ok(pieces.blocking_send(Ok(end)).is_ok());
        }
        hasher.update(&chunk);
        if pieces.blocking_send(Ok(Piece::Data(Bytes::from(chunk)))).is_err() {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_frozen_by_half_is_not_sent() {
        let part = |name: &str, rows| PartFiles { name: name.into(), rows, files: Vec::new() };
        let expected = BTreeMap::from([("7-201801".to_owned(), 30), ("7-201802".to_owned(), 5)]);
        let january = [part("7-201801_1_4_1", 20), part("7-201801_5_5_0", 10)];
        let february = part("7-201802_2_2_0_9", 6);
        let whole = [january.as_slice(), std::slice::from_ref(&february)].concat();
        assert_eq!(check_whole(&expected, &whole), Ok(()), "rows that came since are no fault");
        for lacking in [&whole[1..], &whole[..2], &[]] {
            assert!(check_whole(&expected, lacking).is_err(), "{lacking:?}");
        }
    }

    #[test]
    fn rows_that_expire_while_parts_are_frozen_are_not_missed() {
        let part = |name: &str, rows| PartFiles { name: name.into(), rows, files: Vec::new() };
        let rows = |told: &[(&str, u64)]| {
            told.iter().map(|(id, rows)| ((*id).to_owned(), *rows)).collect::<BTreeMap<_, _>>()
        };
        let before = rows(&[("7-201801", 30), ("7-201802", 5), ("7-201803", 1)]);
        let found = [part("7-201801_1_4_2", 3), part("7-201802_2_2_0", 5)];
        assert!(check_whole(&before, &found).is_err());
        let after = rows(&[("7-201801", 2), ("7-201802", 50)]);
        assert_eq!(check_some(&before, &after, &found), Ok(()), "all of March has expired");
        assert!(check_some(&before, &before, &found).is_err(), "March is still there");
        assert!(check_some(&before, &after, &found[1..]).is_err(), "removed in between");
    }
}
