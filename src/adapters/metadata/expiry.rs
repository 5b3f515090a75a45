//! Ends leases in time: one sleeping task a store, made when the first lease is granted.
//!
//! A task and not a thread, so that it sleeps on `tokio`'s clock, also a paused one. Should its runtime go, calls to
//! the store still end what is due first (so nobody sees an expired key), and the next call starts a new task.

use futures::future::BoxFuture;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::time::Instant;

/// A store whose leases end.
pub(super) trait Expiring: Send + Sync + 'static {
    /// When the next one ends, unless renewed.
    fn next_expiry(&self) -> Option<Instant>;
    /// Ends those whose time is up.
    fn expire(self: Arc<Self>) -> BoxFuture<'static, ()>;
    /// The store's driver.
    fn driver(&self) -> &Driver;
}

/// A store's part of it. Dropping it ends the task.
#[derive(Debug, Default)]
pub(super) struct Driver {
    running: Arc<AtomicBool>,
    wake: Arc<Notify>,
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// After a lease was granted: it may be the first to end now.
pub(super) fn lease_added<S: Expiring>(store: &Arc<S>) {
    let driver = store.driver();
    if !driver.running.swap(true, Ordering::SeqCst) {
        let running = Running(driver.running.clone());
        tokio::spawn(drive(Arc::downgrade(store), driver.wake.clone(), running));
    }
    driver.wake.notify_one();
}

/// Says that the task is gone, however it went.
struct Running(Arc<AtomicBool>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

async fn drive<S: Expiring>(store: Weak<S>, wake: Arc<Notify>, _running: Running) {
    loop {
        let next = match store.upgrade() {
            Some(store) => store.next_expiry(),
            None => return,
        };
        // The store must not be held while waiting, or it would live on.
        match next {
            None => wake.notified().await,
            Some(at) => {
                if tokio::time::timeout_at(at, wake.notified()).await.is_err() {
                    let Some(store) = store.upgrade() else { return };
                    store.expire().await;
                }
            }
        }
    }
}
