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

/// Why the file could not be replaced or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cluster file {path}: {reason}")]
pub struct Error {
    /// The file.
    pub path: String,
    /// What the system said.
    pub reason: String,
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(ranges::ROUTES + 1)
    }
    fn retry(&self) -> Retry {
        Retry::Safe
    }
    fn remedy(&self) -> &'static str {
        "let the daemon's user write in the folder named by [[node]] routes_file, on a disk with room"
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
