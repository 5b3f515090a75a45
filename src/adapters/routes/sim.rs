//! A cluster file in memory, with a disk that can fail.

use super::{Error, RoutesFile};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Debug, Default)]
struct Content {
    text: Option<Arc<str>>,
    failing: bool,
}

/// A simulated file. Clones are handles on the same one.
#[derive(Debug, Clone, Default)]
pub struct SimRoutes {
    content: Arc<Mutex<Content>>,
}

impl SimRoutes {
    /// No file yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.content.lock().expect("no panic while held")
    }

    /// What the server would read.
    pub fn text(&self) -> Option<Arc<str>> {
        self.content().text.clone()
    }

    /// Lets every call fail, or work again.
    pub fn set_failing(&self, failing: bool) {
        self.content().failing = failing;
    }

    fn check(content: &Content) -> Result<(), Error> {
        let failed = || Error::Failed { path: "simulated".into(), reason: "no space left on device".into() };
        if content.failing { Err(failed()) } else { Ok(()) }
    }
}

#[async_trait]
impl RoutesFile for SimRoutes {
    async fn read(&self) -> Result<Option<Arc<str>>, Error> {
        let content = self.content();
        Self::check(&content)?;
        Ok(content.text.clone())
    }

    async fn replace(&self, text: &Arc<str>) -> Result<(), Error> {
        let mut content = self.content();
        Self::check(&content)?;
        content.text = Some(text.clone());
        Ok(())
    }
}
