//! The taker: gathers the files that are sent, checks them, and has the server take the parts up.

use super::folder::{self, Located, Spool};
use super::{Error, HttpClickHouse, blocking, trouble};
use crate::adapters::clickhouse::Pieces;
use crate::adapters::clickhouse::gates::hash_of;
use crate::adapters::clickhouse::statement::Statement;
use crate::model::names;
use crate::model::parts::{self, Arrived, HeldFile, Intake, PartFiles, Piece};
use crate::model::{PartitionId, TableName};
use futures::StreamExt;
use std::fs::File;
use std::io::{self, Write};
use tokio::sync::mpsc;

/// Pieces that wait to be written.
const PIECES_AHEAD: usize = 4;

impl HttpClickHouse {
    /// Where files for a replica's partition from one source gather, and where the staging table is. Another copy may
    /// be renaming it at the moment, which moves it.
    async fn spool(
        &self,
        database: &str,
        nonce: u64,
        (from, partition): (&str, PartitionId),
    ) -> Result<(Spool, Located), Error> {
        let own = names::taken_folder(database).ok_or_else(|| Error::Missing(database.to_owned()))?;
        let mut known = self.staging(database, nonce).await?.0;
        let at = loop {
            let reached = self.reached(&known).await;
            let now = self.staging(database, nonce).await?.0;
            if std::mem::replace(&mut known, now.clone()) == now {
                break reached?;
            }
        };
        let attempt = crate::adapters::clickhouse::spoilt::by_chance();
        let taken = at.root.join(names::TAKEN_FOLDER).join(own);
        Ok((Spool::new(taken.join(partition.0.to_string()).join(hash_of(from)), attempt), at))
    }

    /// A table's folder, which must be there.
    async fn reached(&self, table: &TableName) -> Result<Located, Error> {
        let at = self.folders_of(table).await?.swap_remove(0);
        let path = at.path();
        match blocking(move || std::fs::metadata(path)).await {
            Ok(_) => Ok(at),
            Err(error) => Err(Error::NotByParts(format!(
                "the folder of {table} is out of this daemon's reach: {error}"
            ))),
        }
    }

    /// See [`ClickHouse::files_held`](crate::adapters::clickhouse::ClickHouse::files_held).
    pub(in crate::adapters::clickhouse) async fn held(
        &self,
        database: &str,
        nonce: u64,
        from: &str,
        partition: PartitionId,
    ) -> Result<Vec<HeldFile>, Error> {
        let (spool, _) = self.spool(database, nonce, (from, partition)).await?;
        let looked = blocking(move || spool.held()).await;
        looked.map_err(|error| trouble("files from before cannot be read", &error))
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
        let (spool, at) = self.spool(database, nonce, (from, partition)).await?;
        let announced = match pieces.next().await {
            Some(Ok(Piece::Begin(parts))) => parts,
            Some(Ok(Piece::Declined(reason))) => return Err(Error::NotByParts(reason)),
            Some(Err(error)) => return Err(error),
            Some(Ok(_)) | None => return Err(ended()),
        };
        check_room(&at, &announced, &held).await?;
        let intake = Intake::new(announced.clone(), held).map_err(|what| trouble("parts", &what))?;
        gather(&spool, intake, pieces).await?;
        let (_, tables) = self.staging(database, nonce).await?;
        let (target, prefix) = self.begin_copy(database, nonce, partition, tables).await;
        let rows = announced.iter().map(|part| part.rows).sum();
        let copied = match self.attach(&target, nonce, &spool, announced, &prefix).await {
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
    /// engines may merge some away at once.
    async fn attach(
        &self,
        target: &TableName,
        nonce: u64,
        spool: &Spool,
        parts: Vec<PartFiles>,
        prefix: &str,
    ) -> Result<bool, Error> {
        let schema = self.make_copy_table(target, nonce).await?;
        let at = self.folders_of(target).await?.swap_remove(0);
        let (spool, names) = (spool.clone(), parts.iter().map(|part| part.name.clone()).collect::<Vec<_>>());
        let linked = blocking(move || spool.link(&parts, &at.path().join("detached"))).await;
        linked
            .map_err(|error| trouble(&format!("parts cannot be put into the folder of {target}"), &error))?;
        for part in &names {
            let attach = Statement::AttachPart { name: target, part };
            let settings = crate::adapters::clickhouse::seed::with_id(prefix);
            self.change(&attach, &format!("part {part} of {target}"), settings).await?;
        }
        Ok(schema.engine == "MergeTree")
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

/// Refuses what would fill the disk.
async fn check_room(at: &Located, parts: &[PartFiles], held: &[HeldFile]) -> Result<(), Error> {
    let there: u64 = held.iter().map(|file| file.bytes).sum();
    let needed = parts::bytes_of(parts).saturating_sub(there);
    let root = at.root.clone();
    let (free, all) =
        blocking(move || folder::space(&root)).await.map_err(|error| trouble("disk", &error))?;
    let kept = parts::kept_free_bytes(all);
    if free >= needed.saturating_add(kept) {
        return Ok(());
    }
    let message = format!("{needed} bytes to come, {free} are free, of which {kept} are kept so");
    Err(Error::Overloaded { code: 243, message })
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
    let written = writing.await.unwrap_or_else(|ended| Err(ended.to_string()));
    match (failed, written) {
        (Some(error), _) => Err(error),
        (None, written) => written.map_err(|error| trouble("parts", &error)),
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
                open.insert(into).write_all(&content)?;
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
