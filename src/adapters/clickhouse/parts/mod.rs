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
//! It is declined, with the reason, where the daemon does not find the server's folder, where a disk is not a plain
//! local one, and where the sender's server is newer than the taker's.

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
use folder::Located;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

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
}

/// Runs file work beside the runtime.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(ended) => Err(ended.to_string()),
    }
}

/// A file operation that failed for a reason that may pass.
fn trouble(what: &str, error: &str) -> Error {
    Error::Overloaded { code: 0, message: format!("{what}: {error}") }
}

impl HttpClickHouse {
    /// Where the server's disks begin, that of the configured `path` first.
    async fn disk_roots(&self) -> Result<Vec<String>, Error> {
        let rows = self.look(&Statement::DataRoots, "disks", Doing::Read).await?;
        let mut roots = Vec::new();
        for row in rows {
            match row.as_slice() {
                [path, kind] if kind == "local" => roots.push(path.clone()),
                [path, kind] => {
                    return Err(Error::NotByParts(format!("the disk at {path:?} of the server is {kind}")));
                }
                _ => return Err(ddl::refused("disks not understood".to_owned())),
            }
        }
        Ok(roots)
    }

    /// A table's folders: one on each disk that it may use.
    async fn folders_of(&self, table: &TableName) -> Result<Vec<Located>, Error> {
        let access = self.parts();
        if access.options.off {
            return Err(Error::NotByParts("it is switched off there".to_owned()));
        }
        let roots = self.disk_roots().await?;
        let paths = self.names(&Statement::DataPaths(table)).await?;
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

    /// The same as the daemon finds them; none where nothing is copied by parts.
    async fn roots_here(&self) -> Result<Vec<PathBuf>, Error> {
        let options = &self.parts().options;
        if options.off {
            return Ok(Vec::new());
        }
        let roots = match self.disk_roots().await {
            Err(Error::NotByParts(_)) => return Ok(Vec::new()),
            roots => roots?,
        };
        let here = |(at, root): (usize, String)| {
            options.data_folder.clone().filter(|_| at == 0).unwrap_or_else(|| PathBuf::from(root))
        };
        Ok(roots.into_iter().enumerate().map(here).collect())
    }

    /// See [`ClickHouse::sweep_parts`](super::ClickHouse::sweep_parts).
    pub(super) async fn sweep(&self) -> Result<(), Error> {
        let roots = self.roots_here().await?;
        if roots.is_empty() {
            return Ok(());
        }
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
        swept.await.map_err(|error| trouble("what earlier copies left cannot be removed", &error))
    }

    /// Where files are gathered for a replica, one folder a disk; they need not be there.
    pub(super) async fn taken_folders(&self, database: &str) -> Result<Vec<PathBuf>, Error> {
        let Some(name) = names::taken_folder(database) else { return Ok(Vec::new()) };
        let roots = self.roots_here().await?;
        Ok(roots.into_iter().map(|root| root.join(names::TAKEN_FOLDER).join(&name)).collect())
    }

    /// Has what was gathered reach the disk, before the replica counts as whole: its source may go then, and old parts
    /// that a power failure took would not be missed.
    pub(super) async fn sync_taken(&self, folders: &[PathBuf]) -> Result<(), Error> {
        let folders = folders.to_vec();
        let synced = blocking(move || folders.iter().try_for_each(|folder| folder::sync(folder)));
        synced.await.map_err(|error| trouble("what was copied is not safe on the disk", &error))
    }

    /// Removes what was gathered; what cannot be removed now goes with a later sweep.
    pub(super) async fn forget_taken(&self, folders: Vec<PathBuf>) {
        let removed = blocking(move || folders.iter().try_for_each(|folder| folder::remove(folder)));
        if let Err(error) = removed.await {
            tracing::info!(error, "what was gathered for a copy is not removed yet");
        }
    }
}
