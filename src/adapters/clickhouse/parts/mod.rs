//! Copies by parts on the real server: `FREEZE`, files from daemon to daemon, `ATTACH`.
//!
//! # What makes it safe
//! - The sender freezes under a fresh name of ours and sends the hard links, so neither merges nor a drop change what
//!   it reads. They go when the copy ends, however it ends; those of a process that died go with the next sweep.
//! - The taker gathers files in a folder of its own, where they outlive the copy that brought them: one that is tried
//!   again, by a later run of the daemon too, is sent only what is missing. What was gathered goes when the replica
//!   is whole, or no longer wanted here.
//! - Only whole parts, of a copy that came in wholly, are linked into `detached/`, and that of a table which was made
//!   for this one attempt and which nobody else names: no part of anybody else is there, none of ours can be taken up
//!   twice. From there the staging table gets its partition as by any other copy (see `seed`).
//! - `ATTACH` into a table without views fires none. It would drop pending mutations, so a replica that has any is
//!   not sent.
//!
//! It is declined, with the reason, where the daemon does not find the server's folder, where it is not the server's
//! user (what the server freezes, only that user can remove), where a disk of the table is not a plain local one, and
//! where the sender's server is newer than the taker's.

pub(super) mod folder;
mod send;
mod take;

use super::errcode::Doing;
use super::real::HttpClickHouse;
use super::statement::Statement;
use super::versions::Release;
use super::{Error, ddl};
use crate::model::TableName;
use crate::model::names;
use crate::model::parts::kept_free_bytes;
use crate::model::table::Schema;
use folder::Located;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// ClickHouse's number for a disk that is full.
const NO_SPACE: u32 = 243;
/// What servers call a plain disk.
const LOCAL: &str = "local";

/// Whether and how this daemon reaches its server's files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ByParts {
    /// Never copy by parts.
    pub off: bool,
    /// Where the folder that the server calls its `path` is for this daemon; `None`: at the same place.
    pub data_folder: Option<PathBuf>,
}

/// What a server's adapter knows of copies by parts.
#[derive(Default)]
pub(super) struct Access {
    pub options: ByParts,
    /// Names of what is frozen for copies that run.
    active: Arc<Mutex<BTreeSet<String>>>,
    /// Bytes that are still to come to disks, by their roots.
    promised: take::Promised,
}

/// Runs file work beside the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}

/// Something that failed for a reason that may pass.
fn trouble(what: &str, error: &str) -> Error {
    Error::Overloaded { code: 0, message: format!("{what}: {error}") }
}

/// A file operation that failed: for a reason that may pass, or one that no other try heals.
fn on_disk(what: &str, error: &io::Error) -> Error {
    match error.kind() {
        ErrorKind::PermissionDenied => Error::NotByParts(format!(
            "{what}: {error}; the daemon has to run as the server's user, see docs/installing.md"
        )),
        ErrorKind::ReadOnlyFilesystem | ErrorKind::CrossesDevices | ErrorKind::Unsupported => {
            Error::NotByParts(format!("{what}: {error}"))
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
            Error::Overloaded { code: NO_SPACE, message: format!("{what}: {error}") }
        }
        _ => trouble(what, &error.to_string()),
    }
}

/// Bytes that may come to a table, by its folders and the server's disks (where each begins, its size and what is free
/// of it), beside what is kept free; `None` where the server does not tell.
fn room_of(folders: &[String], disks: &[(String, u64, u64)]) -> Option<u64> {
    let disk_of = |folder: &String| {
        let holding = disks.iter().filter(|(root, _, _)| Path::new(folder).strip_prefix(root).is_ok());
        holding.max_by_key(|(root, _, _)| root.len())
    };
    let used: Option<BTreeSet<&(String, u64, u64)>> = folders.iter().map(disk_of).collect();
    let used = used.filter(|used| !used.is_empty() && used.iter().all(|(_, all, _)| *all > 0))?;
    let room = |(_, all, free): &&(String, u64, u64)| free.saturating_sub(kept_free_bytes(*all));
    Some(used.iter().map(room).fold(0, u64::saturating_add))
}

/// Whether rows of a table stay until they are removed: other engines merge some away, and some expire.
fn keeps_rows(schema: &Schema) -> bool {
    schema.engine == "MergeTree" && schema.ttl.is_empty()
}

impl HttpClickHouse {
    /// Where the server's disks begin and of what kind each is, that of the configured `path` first.
    async fn disks(&self) -> Result<Vec<(String, String)>, Error> {
        let rows = self.look(&Statement::DataRoots, "disks", Doing::Read).await?;
        let disk = |row: &Vec<String>| Some((row.first()?.clone(), row.get(1)?.clone()));
        let disks: Option<Vec<_>> = rows.iter().map(disk).collect();
        disks.ok_or_else(|| ddl::refused("disks not understood".to_owned()))
    }

    /// A table's folders: one on each disk that it may use, in its storage policy's order.
    async fn folders_of(&self, table: &TableName) -> Result<Vec<Located>, Error> {
        let access = self.parts();
        if access.options.off {
            return Err(Error::NotByParts("it is switched off there".to_owned()));
        }
        let (roots, kinds): (Vec<String>, Vec<String>) = self.disks().await?.into_iter().unzip();
        let paths = self.names(&Statement::DataPaths(table)).await?;
        let mut of_paths = paths.iter().filter_map(|path| folder::root_of(&roots, path));
        if let Some(at) = of_paths.find(|at| kinds[*at] != LOCAL) {
            let (path, kind) = (&roots[at], &kinds[at]);
            return Err(Error::NotByParts(format!("the disk at {path:?} of the server is {kind}")));
        }
        let here = access.options.data_folder.as_deref();
        let located: Option<Vec<Located>> =
            paths.iter().map(|path| folder::locate(&roots, here, path)).collect();
        located.filter(|located| !located.is_empty()).ok_or_else(|| {
            Error::NotByParts(format!("{table} has no folder on a disk of the server ({})", paths.join(", ")))
        })
    }

    /// Whether parts that a server of release `from` wrote can be taken up by one of release `to`.
    fn check_releases(from: &str, to: &str) -> Result<(), Error> {
        if Release::of(from) <= Release::of(to) {
            return Ok(());
        }
        Err(Error::NotByParts(format!("its server, {from}, is newer than this one, {to}")))
    }

    /// Where the server's plain disks begin, as the daemon finds them.
    async fn roots_here(&self) -> Result<Vec<PathBuf>, Error> {
        let data_folder = &self.parts().options.data_folder;
        let disks = self.disks().await?.into_iter().enumerate().filter(|(_, (_, kind))| kind == LOCAL);
        let here = |(at, (root, _)): (usize, (String, String))| {
            data_folder.clone().filter(|_| at == 0).unwrap_or_else(|| PathBuf::from(root))
        };
        Ok(disks.map(here).collect())
    }

    /// See [`ClickHouse::sweep_parts`](super::ClickHouse::sweep_parts).
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        if self.parts().options.off {
            return Ok(());
        }
        let roots = self.roots_here().await?;
        // Listed after the roots: a replica that is begun now has no files here yet.
        let mut wanted = BTreeSet::new();
        for database in self.names(&Statement::Databases).await? {
            let Some(folder) = names::taken_folder(&database) else { continue };
            if self.described(&Self::local(&database)).await?.is_none() {
                wanted.insert(folder);
            }
        }
        let active = self.parts().active.clone();
        let swept = blocking(move || {
            for root in &roots {
                // Asked name by name: a copy may begin while we list.
                let is_active = |name: &str| active.lock().expect("no panic while held").contains(name);
                folder::sweep_frozen(root, is_active)?;
                folder::sweep_taken(root, &wanted)?;
            }
            Ok(())
        });
        swept.await.map_err(|error| on_disk("what earlier copies left cannot be removed", &error))
    }

    /// Where files are gathered for a replica, one folder a disk; they need not be there.
    pub(super) async fn taken_folders(&self, database: &str) -> Result<Vec<PathBuf>, Error> {
        let name = names::taken_folder(database).filter(|_| !self.parts().options.off);
        let Some(name) = name else { return Ok(Vec::new()) };
        let roots = self.roots_here().await?;
        Ok(roots.into_iter().map(|root| root.join(names::TAKEN_FOLDER).join(&name)).collect())
    }

    /// See [`ClickHouse::room`](super::ClickHouse::room).
    pub(super) async fn room_for(&self, database: &str, nonce: u64) -> Result<Option<u64>, Error> {
        let table = self.staging(database, nonce).await?.0;
        let rows = self.look(&Statement::DiskSpaces, "disks", Doing::Read).await?;
        let number = |row: &Vec<String>, at: usize| row.get(at)?.parse::<u64>().ok();
        let disk = |row: &Vec<String>| Some((row.first()?.clone(), number(row, 1)?, number(row, 2)?));
        let disks: Option<Vec<_>> = rows.iter().map(disk).collect();
        let disks = disks.ok_or_else(|| ddl::refused("disks not understood".to_owned()))?;
        let Some(room) = room_of(&self.names(&Statement::DataPaths(&table)).await?, &disks) else {
            return Ok(None);
        };
        let gathered = self.taken_folders(database).await?;
        let there =
            blocking(move || gathered.iter().try_fold(0, |sum, at| Ok(sum + folder::bytes_in(at)?))).await;
        Ok(Some(room.saturating_add(there.unwrap_or(0))))
    }

    /// See [`ClickHouse::sync_disks`](super::ClickHouse::sync_disks).
    pub(super) async fn sync_roots(&self) -> Result<(), Error> {
        let roots = self.roots_here().await?;
        let synced = blocking(move || roots.iter().try_for_each(|root| folder::sync(root))).await;
        synced.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::PermissionDenied => {
                Error::NotByParts(format!("a disk of the server is out of its daemon's reach: {error}"))
            }
            _ => on_disk("what the server wrote is not safe on its disk", &error),
        })
    }

    /// Removes what was gathered; what cannot be removed now goes with a later sweep.
    pub(super) async fn forget_taken(&self, folders: Vec<PathBuf>) {
        let removed = blocking(move || folders.iter().try_for_each(|folder| folder::remove(folder)));
        if let Err(error) = removed.await {
            tracing::info!(%error, "what was gathered for a copy is not removed yet");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let told = |kind: ErrorKind| on_disk("parts", &io::Error::new(kind, "/ch/shadow: no"));
        for (kind, by_parts) in [
            (ErrorKind::PermissionDenied, false),
            (ErrorKind::ReadOnlyFilesystem, false),
            (ErrorKind::CrossesDevices, false),
            (ErrorKind::StorageFull, true),
            (ErrorKind::NotFound, true),
            (ErrorKind::InvalidData, true),
        ] {
            let error = told(kind);
            assert_eq!(matches!(error, Error::Overloaded { .. }), by_parts, "{error:?}");
            assert!(error.to_string().contains("/ch/shadow"), "{error}");
        }
        assert!(matches!(told(ErrorKind::StorageFull), Error::Overloaded { code: 243, .. }));
        assert!(told(ErrorKind::PermissionDenied).to_string().contains("run as the server's user"));
    }

    #[test]
    fn room_is_that_of_the_disks_which_the_table_uses() {
        const GIB: u64 = 1 << 30;
        let disk = |root: &str, all: u64, free: u64| (root.to_owned(), all * GIB, free * GIB);
        let disks = [disk("/ch/", 100, 6), disk("/ch/two/", 1000, 310), disk("/three/", 1000, 700)];
        let room = |folders: &[&str]| {
            room_of(&folders.iter().map(|&folder| folder.to_owned()).collect::<Vec<_>>(), &disks)
        };
        assert_eq!(room(&["/ch/store/a/"]), Some(GIB), "a twentieth is kept");
        assert_eq!(room(&["/ch/store/a/", "/ch/two/store/a/"]), Some(301 * GIB), "10 GiB at the most");
        assert_eq!(room(&["/ch/two/store/a/", "/ch/two/store/b/"]), Some(300 * GIB), "each once");
        assert_eq!((room(&[]), room(&["/elsewhere/a/"])), (None, None));
        assert_eq!(room_of(&["/ch/a".to_owned()], &[(String::new(), 0, 0)]), None, "what is not told");
    }
}
