//! The sender: freezes the parts of a partition and reads their files.

use super::folder::{self, CHUNK_BYTES, Located};
use super::{Error, HttpClickHouse, blocking, trouble};
use crate::adapters::clickhouse::http::Settings;
use crate::adapters::clickhouse::statement::Statement;
use crate::adapters::clickhouse::{Pieces, ddl};
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
        if self.described(&local).await?.is_none() {
            return Err(Error::Missing(local.to_string()));
        }
        Self::check_releases(&self.release().await?, &wanted.version)?;
        let folders = self.folders_of(&local).await?;
        // Before anything is frozen: what cannot be reached cannot be removed either.
        let looked = {
            let folders = folders.clone();
            blocking(move || folders.iter().try_for_each(|folder| std::fs::metadata(folder.path()).map(drop)))
        };
        looked.await.map_err(|error| {
            Error::NotByParts(format!("the folder of {local} is out of its daemon's reach: {error}"))
        })?;
        self.check_mutations(&local).await?;
        let contents = self.contents(&local).await?;
        let of_partition = contents.iter().filter(|(_, content)| content.partition == wanted.partition);
        let expected: BTreeMap<String, u64> =
            of_partition.map(|(id, content)| (id.clone(), content.rows)).collect();
        let active = self.parts().active.clone();
        let name = names::frozen(&Uuid::new_v4().simple().to_string());
        active.lock().expect("no panic while held").insert(name.clone());
        let frozen = Frozen { name, folders, active };
        for id in expected.keys() {
            let freeze = Statement::FreezePartition { name: &local, partition_id: id, frozen: &frozen.name };
            self.change(&freeze, &format!("partition {id} of {local}"), Settings::new()).await?;
        }
        let (frozen, found) = blocking(move || {
            let found = frozen.parts();
            Ok((frozen, found))
        })
        .await
        .map_err(|error| trouble("frozen parts", &error))?;
        let (found, paths) = found.map_err(|error| Error::NotByParts(error.to_string()))?;
        if found.is_empty() && !expected.is_empty() {
            let at = frozen.folders.iter().map(|folder| folder.root.display().to_string());
            let at = at.collect::<Vec<_>>().join(", ");
            return Err(Error::NotByParts(format!("what its server froze is not below {at} for its daemon")));
        }
        check_whole(&expected, &found)?;
        Ok(frozen.stream(found, paths, wanted.held))
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
                let _ = pieces.blocking_send(Err(trouble("frozen parts cannot be read", &error.to_string())));
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
    let (mut source, mut hasher) = (File::open(path)?, crc32fast::Hasher::new());
    loop {
        let mut chunk = vec![0; CHUNK_BYTES.min(usize::try_from(file.bytes).unwrap_or(CHUNK_BYTES).max(1))];
        let read = source.read(&mut chunk)?;
        if read == 0 {
            let end = Piece::End { checksum: hasher.finalize(), held: false };
            return Ok(pieces.blocking_send(Ok(end)).is_ok());
        }
        chunk.truncate(read);
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
}
