//! The taker: gathers the files that are sent, checks them, and has the server take the parts up.

use super::folder::{self, Located, Spool};
use super::{Error, HttpClickHouse, NO_SPACE, blocking, keeps_rows, on_disk, trouble};
use crate::adapters::clickhouse::Pieces;
use crate::adapters::clickhouse::gates::hash_of;
use crate::adapters::clickhouse::statement::Statement;
use crate::model::names;
use crate::model::parts::{self, Arrived, HeldFile, Intake, PartFiles, Piece};
use crate::model::{PartitionId, TableName};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

/// Pieces that wait to be written.
const PIECES_AHEAD: usize = 4;
/// Parts that the server is asked to take up at once.
const ATTACHES_AT_ONCE: usize = 4;

/// Where a partition's files may gather, and the staging table's folder on the same disk.
type Place = (Spool, Located);

impl HttpClickHouse {
    /// Where files for a replica's partition from one source may gather: on each disk that the staging table may use,
    /// in its storage policy's order. Another copy may be renaming it at the moment, which moves it.
    async fn places(
        &self,
        database: &str,
        nonce: u64,
        (from, partition): (&str, PartitionId),
    ) -> Result<Vec<Place>, Error> {
        let own = names::taken_folder(database).ok_or_else(|| Error::Missing(database.to_owned()))?;
        let mut known = self.staging(database, nonce).await?.0;
        let reached = loop {
            let reached = self.reached(&known).await;
            let now = self.staging(database, nonce).await?.0;
            if std::mem::replace(&mut known, now.clone()) == now {
                break reached?;
            }
        };
        let attempt = crate::adapters::clickhouse::spoilt::by_chance();
        let place = |at: Located| {
            let taken = at.root.join(names::TAKEN_FOLDER).join(&own);
            (Spool::new(taken.join(partition.0.to_string()).join(hash_of(from)), attempt), at)
        };
        Ok(reached.into_iter().map(place).collect())
    }

    /// A table's folders, which must be there and the daemon's to use.
    async fn reached(&self, table: &TableName) -> Result<Vec<Located>, Error> {
        let folders = self.folders_of(table).await?;
        let there = folders.clone();
        let looked = blocking(move || there.iter().try_for_each(|at| std::fs::metadata(at.path()).map(drop)));
        looked.await.map_err(|error| {
            Error::NotByParts(format!("the folder of {table} is out of this daemon's reach: {error}"))
        })?;
        let probe = format!(".{:08x}", crate::adapters::clickhouse::spoilt::by_chance());
        let there = folders.clone();
        let checked = blocking(move || there.iter().try_for_each(|at| folder::check_target(at, &probe)));
        checked.await.map_err(|error| on_disk(&format!("parts cannot gather for {table}"), &error))?;
        Ok(folders)
    }

    /// See [`ClickHouse::files_held`](crate::adapters::clickhouse::ClickHouse::files_held).
    pub(in crate::adapters::clickhouse) async fn held(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
    ) -> Result<Vec<HeldFile>, Error> {
        let places = self.places(database, nonce, (from, partition)).await?;
        let looked = blocking(move || fullest(&places)?.map_or(Ok(Vec::new()), |at| places[at].0.held()));
        looked.await.map_err(|error| on_disk("files from before cannot be read", &error))
    }

    /// See [`ClickHouse::take_partition`](crate::adapters::clickhouse::ClickHouse::take_partition).
    pub(in crate::adapters::clickhouse) async fn take(
        &self,
        database: &str,
        nonce: u64,
        (from, partition): (&str, PartitionId),
        held: Vec<HeldFile>,
        mut pieces: Pieces,
    ) -> Result<u64, Error> {
        let places = self.places(database, nonce, (from, partition)).await?;
        let announced = match pieces.next().await {
            Some(Ok(Piece::Begin(parts))) => parts,
            Some(Ok(Piece::Declined(reason))) => return Err(Error::NotByParts(reason)),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => return Err(ended()),
        };
        let ((spool, at), promise) = place_for(places, &announced, &held, &self.parts().promised).await?;
        let intake = Intake::new(announced.clone(), held).map_err(|what| trouble("parts", &what))?;
        gather(&spool, intake, pieces).await?;
        drop(promise);
        let (_, tables) = self.staging(database, nonce).await?;
        let (target, prefix) = self.begin_copy(database, nonce, partition, tables).await;
        let rows = announced.iter().map(|part| part.rows).sum();
        let copied = match self.attach(&target, nonce, (&spool, &at), announced, &prefix).await {
            Ok(counts) => {
                let checked = self.check_taken(&target, partition, counts.then_some(rows)).await;
                if checked.is_err() {
                    // They would be offered as held again.
                    let _ = blocking(move || spool.prepare(&[])).await;
                }
                checked
            }
            Err(error) => Err(error),
        };
        self.end_copy(database, nonce, partition, (&target, &prefix), copied).await
    }

    /// Makes a table for these parts alone, and has it take them up. Tells whether their rows can be counted on: other
    /// engines, and a TTL, may take some away at once.
    async fn attach(
        &self,
        target: &TableName,
        nonce: u64,
        (spool, beside): (&Spool, &Located),
        parts: Vec<PartFiles>,
        prefix: &str,
    ) -> Result<bool, Error> {
        let schema = self.make_copy_table(target, nonce).await?;
        let mut folders = self.folders_of(target).await?.into_iter();
        // Of the same disk: elsewhere the files cannot be linked to.
        let at = folders.find(|at| at.root == beside.root).ok_or_else(|| {
            Error::NotByParts(format!("{target} has no folder below {}", beside.root.display()))
        })?;
        let (spool, names) = (spool.clone(), parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>());
        let linked = blocking(move || spool.link(&parts, &at.path().join("detached"))).await;
        linked
            .map_err(|error| on_disk(&format!("parts cannot be put into the folder of {target}"), &error))?;
        let attach = async |part: String| {
            let attach = Statement::AttachPart { name: target, part: &part };
            let settings = crate::adapters::clickhouse::seed::with_id(prefix);
            self.change(&attach, &format!("part {part} of {target}"), settings).await
        };
        let attaching = futures::stream::iter(names).map(attach).buffer_unordered(ATTACHES_AT_ONCE);
        attaching.try_collect::<()>().await?;
        Ok(keeps_rows(&schema))
    }

    /// Rows of what was taken up: those of one partition and no other, and as many as were told of.
    async fn check_taken(
        &self,
        target: &TableName,
        partition: PartitionId,
        told: Option<u64>,
    ) -> Result<u64, Error> {
        let contents = self.contents(target).await?;
        if let Some(other) = contents.values().find(|content| content.partition != partition) {
            return Err(trouble("parts", &format!("some of {} came for {partition}", other.partition)));
        }
        let rows = contents.values().map(|content| content.rows).sum();
        match told {
            Some(told) if told != rows => {
                Err(trouble("parts", &format!("{rows} rows of {partition} came, and {told} were told of")))
            }
            _ => Ok(rows),
        }
    }
}

fn ended() -> Error {
    trouble("parts", "the other daemon broke off")
}

/// The place that holds most of what an earlier copy brought, if any does.
fn fullest(places: &[Place]) -> io::Result<Option<usize>> {
    let mut fullest = None;
    for (at, (spool, _)) in places.iter().enumerate() {
        let bytes = spool.bytes()?;
        if bytes > fullest.map_or(0, |(_, most)| most) {
            fullest = Some((at, bytes));
        }
    }
    Ok(fullest.map(|(at, _)| at))
}

/// Where what arrives goes.
#[derive(Debug, PartialEq, Eq)]
enum Choice {
    /// To this place.
    At(usize),
    /// To another than the one that holds a part of it, which is of no use there.
    Anew(usize),
    /// To none.
    Nowhere,
}

/// Chooses among places by the bytes that each can still take: the one that holds some of it, else the first that
/// takes all.
fn choose(room: &[u64], all_bytes: u64, held: Option<(usize, u64)>) -> Choice {
    if let Some((at, there)) = held
        && room[at] >= all_bytes.saturating_sub(there)
    {
        return Choice::At(at);
    }
    match (room.iter().position(|room| *room >= all_bytes), held) {
        (None, _) => Choice::Nowhere,
        (Some(_), Some((holding, _))) => Choice::Anew(holding),
        (Some(first), None) => Choice::At(first),
    }
}

/// Bytes that are still to come to disks, by their roots: other partitions choose at the same moment.
pub(super) type Promised = Arc<Mutex<BTreeMap<PathBuf, u64>>>;

/// Room on a disk that is taken until it is dropped.
struct Promise {
    promised: Promised,
    root: PathBuf,
    bytes: u64,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut promised = self.promised.lock().expect("no panic while held");
        if let Some(bytes) = promised.get_mut(&self.root) {
            *bytes = bytes.saturating_sub(self.bytes);
        }
    }
}

/// Chooses where parts are to gather, so that no disk is filled, and takes the room there.
async fn place_for(
    mut places: Vec<Place>,
    parts: &[PartFiles],
    held: &[HeldFile],
    promised: &Promised,
) -> Result<(Place, Promise), Error> {
    let there: u64 = held.iter().map(|file| file.bytes).sum();
    let (all_bytes, has_some) = (parts::bytes_of(parts), !held.is_empty());
    let (looking, promises) = (places.clone(), promised.clone());
    let looked = blocking(move || {
        let spaces: io::Result<Vec<_>> = looking.iter().map(|(_, at)| folder::space(&at.root)).collect();
        let spaces = spaces?;
        let mut to_come = promises.lock().expect("no panic while held");
        let taken = |at: &Located| to_come.get(&at.root).copied().unwrap_or(0);
        let room = |((free, all), (_, at)): (&(u64, u64), &Place)| {
            free.saturating_sub(parts::kept_free_bytes(*all)).saturating_sub(taken(at))
        };
        let room: Vec<u64> = spaces.iter().zip(&looking).map(room).collect();
        let holding = if has_some { fullest(&looking)? } else { None };
        let chosen = choose(&room, all_bytes, holding.map(|at| (at, there)));
        if let Choice::Anew(at) = chosen {
            looking[at].0.prepare(&[])?;
        }
        // Taken here: whoever asked may be gone by now, and then it is given back.
        let taken = match chosen {
            Choice::At(at) => {
                let (root, bytes) = (looking[at].1.root.clone(), all_bytes.saturating_sub(there));
                *to_come.entry(root.clone()).or_default() += bytes;
                Some((at, Promise { promised: promises.clone(), root, bytes }))
            }
            Choice::Anew(_) | Choice::Nowhere => None,
        };
        Ok((taken, chosen, spaces))
    });
    let (taken, chosen, spaces) = looked.await.map_err(|error| on_disk("disk", &error))?;
    match (taken, chosen) {
        (Some((at, promise)), _) => Ok((places.swap_remove(at), promise)),
        (None, Choice::Anew(_)) => {
            Err(trouble("disk", "the one that holds some of the files is too full: all go to another"))
        }
        (None, _) if places.len() > 1 => Err(Error::NotByParts(format!(
            "{all_bytes} bytes fit on none of the {} disks of the table as a whole",
            places.len()
        ))),
        (None, _) => {
            let (free, all) = spaces[0];
            let (needed, kept) = (all_bytes.saturating_sub(there), parts::kept_free_bytes(all));
            let message = format!("{needed} bytes to come, {free} are free, of which {kept} are kept so");
            Err(Error::Overloaded { code: NO_SPACE, message })
        }
    }
}

/// Writes what arrives until all of it is there.
async fn gather(spool: &Spool, intake: Intake, mut pieces: Pieces) -> Result<(), Error> {
    let (to_disk, arriving) = mpsc::channel(PIECES_AHEAD);
    let spool = spool.clone();
    let writing = tokio::spawn(blocking(move || write_all(&spool, intake, arriving)));
    let mut failed = None;
    while let Some(piece) = pieces.next().await {
        match piece {
            // The writer says itself why it takes no more.
            Ok(piece) => {
                if to_disk.send(piece).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(to_disk);
    let written = writing.await.unwrap_or_else(|ended| Err(io::Error::other(ended)));
    match (failed, written) {
        (Some(error), _) => Err(error),
        (None, written) => written.map_err(|error| on_disk("parts", &error)),
    }
}

/// The writer's thread: whole files only get their names.
fn write_all(spool: &Spool, mut intake: Intake, mut arriving: mpsc::Receiver<Piece>) -> io::Result<()> {
    let odd = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    spool.prepare(intake.parts())?;
    let mut open: Option<File> = None;
    while let Some((part, file)) = intake.current().map(|(part, file)| (part.name.clone(), file.name.clone()))
    {
        let Some(piece) = arriving.blocking_recv() else {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the other daemon broke off"));
        };
        match intake.take(piece).map_err(odd)? {
            Arrived::Write(content) => {
                let into = match open.take() {
                    Some(into) => into,
                    None => spool.begin(&part, &file)?,
                };
                folder::of(Path::new(&file), open.insert(into).write_all(&content))?;
            }
            Arrived::Whole => {
                if open.take().is_none() {
                    spool.begin(&part, &file)?; // an empty one
                }
                spool.end(&part, &file)?;
            }
            Arrived::Held => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arrives_goes_to_the_first_disk_that_takes_it_and_to_what_is_there_of_it() {
        for (room, held, chosen) in [
            (&[100, 100][..], None, Choice::At(0)),
            (&[99, 100], None, Choice::At(1)),
            (&[99, 99], None, Choice::Nowhere),
            (&[99], None, Choice::Nowhere),
            // An earlier attempt brought 60 of the 100.
            (&[40], Some((0, 60)), Choice::At(0)),
            (&[100, 40], Some((1, 60)), Choice::At(1)),
            (&[39, 100], Some((0, 60)), Choice::Anew(0)),
            (&[39, 99], Some((0, 60)), Choice::Nowhere),
        ] {
            assert_eq!(choose(room, 100, held), chosen, "{room:?} {held:?}");
        }
    }

    #[test]
    fn the_disk_that_holds_some_of_it_is_found() {
        let disks = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let place = |disk: &tempfile::TempDir| {
            let at = Located { root: disk.path().to_owned(), below: "t".into() };
            (Spool::new(disk.path().join("cvh_taken/a"), 1), at)
        };
        let places: Vec<Place> = disks.iter().map(place).collect();
        assert_eq!(fullest(&places).unwrap(), None);
        std::fs::create_dir_all(disks[1].path().join("cvh_taken/a/p")).unwrap();
        std::fs::write(disks[1].path().join("cvh_taken/a/p/f"), "abc").unwrap();
        assert_eq!(fullest(&places).unwrap(), Some(1));
    }
}
