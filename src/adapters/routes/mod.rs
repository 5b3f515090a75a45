//! The generated cluster file: `remote_servers` in the server's `config.d/`, and the reload that makes it live.
//!
//! The renderer is pure; the port only replaces a file. Reload and read-back go through the ClickHouse port.

mod faulty;
mod file;
pub mod render;
mod sim;

pub use faulty::FaultyRoutes;
pub use file::FileRoutes;
pub use sim::SimRoutes;

use crate::error::{Code, Coded, Retry, ranges};
use async_trait::async_trait;
use std::sync::Arc;

/// Why the file could not be replaced or read, or must not be replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The system refuses.
    #[error("cluster file {path}: {reason}")]
    Failed {
        /// The file.
        path: String,
        /// What the system said.
        reason: String,
    },
    /// It is of a topology that the metadata store does not know: an older state of the store has been restored.
    #[error(
        "{cluster}: the cluster file is of {file}, the metadata store knows {store}: it holds an older state than this \
         node has seen, so no database is removed here and routes stay as they are"
    )]
    Ahead {
        /// The table's cluster.
        cluster: String,
        /// The epoch or the shard that the file has.
        file: String,
        /// What the store has of it.
        store: String,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::ROUTES
                + match self {
                    Self::Failed { .. } => 1,
                    Self::Ahead { .. } => 2,
                },
        )
    }
    fn retry(&self) -> Retry {
        match self {
            Self::Failed { .. } => Retry::Safe,
            Self::Ahead { .. } => Retry::Never,
        }
    }
    fn remedy(&self) -> &'static str {
        match self {
            Self::Failed { .. } => {
                "let the daemon's user write in the folder named by [[node]] routes_file, on a disk with room"
            }
            Self::Ahead { .. } => {
                "restore the newest snapshot of the store; or, to take the older state as it is, remove the node's \
                 routes_file and restart its daemon: databases that the older state does not name are removed then"
            }
        }
    }
}

/// Where one ClickHouse server's generated clusters stand.
#[async_trait]
pub trait RoutesFile: Send + Sync + 'static {
    /// The present content; `None` if there is no file.
    async fn read(&self) -> Result<Option<Arc<str>>, Error>;
    /// Replaces the content in one step: a reader sees the old or the new, and so does a machine that lost power.
    async fn replace(&self, content: &Arc<str>) -> Result<(), Error>;
}
