//! A cluster file in memory at the far end of a [`Line`]: what one simulated daemon sees of its own disk.

use super::{Error, RoutesFile, SimRoutes};
use crate::adapters::faults::{Call, Line};
use async_trait::async_trait;
use std::sync::Arc;

/// A disk does not take longer; the line's deadline matters little here.
const DEADLINE_MS: u64 = 1_000;

/// See the module.
pub struct FaultyRoutes {
    file: SimRoutes,
    line: Line,
}

impl FaultyRoutes {
    /// The file behind that line.
    pub fn new(file: SimRoutes, line: Line) -> Self {
        Self { file, line }
    }
}

fn failed() -> Error {
    Error::Failed { path: "simulated".into(), reason: "input/output error".into() }
}

#[async_trait]
impl RoutesFile for FaultyRoutes {
    async fn read(&self) -> Result<Option<Arc<str>>, Error> {
        let call = Call::asks("read", DEADLINE_MS);
        self.line.carry(call, self.file.read(), |_| failed()).await
    }

    async fn replace(&self, content: &Arc<str>) -> Result<(), Error> {
        let call = Call::changes("replace", DEADLINE_MS);
        self.line.carry(call, self.file.replace(content), |_| failed()).await
    }
}
