//! Long computations: beside the actors' thread in a daemon, on it in the simulator.
//!
//! An actor that computes for seconds answers nobody meanwhile. Who computes must be pure and bounded by work: nothing
//! here can stop it, a caller that has waited for long enough lets go of the answer.

use async_trait::async_trait;
use futures::FutureExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// A computation without an answer of its own.
pub type Work = Box<dyn FnOnce() + Send>;

/// It ended by a panic: a bug, and there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the computation panicked")]
pub struct Panicked;

/// Where long computations run. One at a time: a second one waits for the first.
#[async_trait]
pub trait Offload: Send + Sync + 'static {
    /// Runs it to its end, also if nobody waits for it any more.
    async fn run(&self, work: Work) -> Result<(), Panicked>;
}

/// [`Offload::run`] with an answer.
pub async fn answer<T: Send + 'static>(
    offload: &dyn Offload,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    let place = Arc::new(Mutex::new(None));
    let there = place.clone();
    let put = move || {
        let answer = work();
        *there.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(answer);
    };
    offload.run(Box::new(put)).await?;
    let answer = place.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    answer.ok_or(Panicked)
}

/// On a thread of its own.
#[derive(Debug)]
pub struct Threads {
    turn: Arc<Semaphore>,
}

impl Threads {
    /// Starts no thread yet.
    pub fn new() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)) }
    }
}

impl Default for Threads {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Offload for Threads {
    async fn run(&self, work: Work) -> Result<(), Panicked> {
        let turn = self.turn.clone().acquire_owned().await.map_err(|_| Panicked)?;
        let guarded = move || {
            let _turn = turn;
            catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
        };
        tokio::task::spawn_blocking(guarded).map(|ended| ended.unwrap_or(Err(Panicked))).await
    }
}

/// Here and now, in no virtual time: runs repeat.
#[derive(Debug, Default, Clone, Copy)]
pub struct Inline;

#[async_trait]
impl Offload for Inline {
    async fn run(&self, work: Work) -> Result<(), Panicked> {
        catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    async fn conforms(offload: &dyn Offload) {
        assert_eq!(answer(offload, || 6 * 7).await, Ok(42));
        assert_eq!(answer(offload, || -> u8 { panic!("on purpose") }).await, Err(Panicked));
        assert_eq!(answer(offload, || "and on").await, Ok("and on"), "a panic spoils nothing");
    }

    #[tokio::test]
    async fn both_sides_answer_and_catch_panics() {
        conforms(&Inline).await;
        conforms(&Threads::new()).await;
    }

    #[tokio::test]
    async fn others_go_on_meanwhile_and_the_next_waits_for_its_turn() {
        let threads = Threads::new();
        let (release, held) = std::sync::mpsc::channel::<()>();
        let long = answer(&threads, move || held.recv().is_ok());
        let given_up = tokio::time::timeout(Duration::from_millis(20), long).await;
        assert!(given_up.is_err(), "this thread was free to see the time pass");
        let mut next = Box::pin(answer(&threads, || 1));
        assert!(futures::poll!(&mut next).is_pending(), "one at a time, also if nobody waits for the first");
        release.send(()).unwrap();
        assert_eq!(next.await, Ok(1));
    }
}
