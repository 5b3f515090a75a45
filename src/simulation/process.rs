//! One daemon's process within the simulation's one thread: all its actors, killed or stalled as one.
//!
//! Actors that are started while a `LocalSet` is entered, and all that those start in turn, run on it. So a set of
//! its own is a process: dropped, it takes every actor and every future under way with it, without a goodbye;
//! not polled, it stands still and does not notice.

use crate::adapters::faults::Lifeline;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::task::LocalSet;

/// See the module. Ends when its lifeline is cut.
pub struct Process {
    set: Option<LocalSet>,
    lifeline: Lifeline,
}

impl Process {
    /// What runs on that set lives by that lifeline.
    pub fn new(set: LocalSet, lifeline: Lifeline) -> Self {
        Self { set: Some(set), lifeline }
    }
}

impl Future for Process {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let may_run = self.lifeline.may_run(context.waker());
        if may_run && let Some(set) = &mut self.set {
            // A set whose tasks have all ended is a process that waits for its end.
            let _ = Pin::new(set).poll(context);
        }
        if self.lifeline.is_over() {
            self.set = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}
