//! Daemons of this process by a plain call; all others by whatever reaches them.

use super::{Daemon, Peers};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// In front of another [`Peers`]: addresses that are this process's own need no network.
pub struct LocalPeers {
    here: Mutex<BTreeMap<String, Arc<dyn Daemon>>>,
    elsewhere: Arc<dyn Peers>,
}

impl LocalPeers {
    /// Nobody is here yet.
    pub fn new(elsewhere: Arc<dyn Peers>) -> Self {
        Self { here: Mutex::new(BTreeMap::new()), elsewhere }
    }

    /// From now on `url` is this daemon. Replaces an earlier one of that address.
    pub fn register(&self, url: &str, daemon: Arc<dyn Daemon>) {
        self.here.lock().expect("nothing panics while it is held").insert(url.to_owned(), daemon);
    }

    /// The process no longer serves `url` itself.
    pub fn forget(&self, url: &str) {
        self.here.lock().expect("nothing panics while it is held").remove(url);
    }
}

impl Peers for LocalPeers {
    fn daemon(&self, url: &str) -> Arc<dyn Daemon> {
        let here = self.here.lock().expect("nothing panics while it is held").get(url).cloned();
        here.unwrap_or_else(|| self.elsewhere.daemon(url))
    }
}
