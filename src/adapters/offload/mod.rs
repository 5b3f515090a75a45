//! Long computations: beside the actors' thread in a daemon, on it in the simulator.
//!
//! [`spread`] is for programs that have nothing else to do: it works on many numbers on all cores and waits.
//!
//! An actor that computes for seconds answers nobody meanwhile. Who computes must be pure and bounded by work: nothing
//! here can stop it, a caller that has waited for long enough lets go of the answer.

use async_trait::async_trait;
use futures::FutureExt;
use std::ops::ControlFlow;
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

/// Works on each of these numbers, on all cores, and tells each outcome here as it comes, until it has heard
/// `Break`; what has begun by then is still told. So the smallest number of some outcome is the same however many
/// cores there are.
pub fn spread<T: Send>(
    numbers: impl Iterator<Item = u64> + Send,
    work: impl Fn(u64) -> T + Sync,
    mut told: impl FnMut(u64, T) -> ControlFlow<()>,
) {
    let numbers = Mutex::new(Some(numbers));
    let next = || {
        let mut numbers = numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        numbers.as_mut().and_then(Iterator::next)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (outcomes, received) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..threads {
            let (outcomes, next, work) = (outcomes.clone(), &next, &work);
            scope.spawn(move || {
                while let Some(number) = next() {
                    // Who listens does so until all threads have ended.
                    let _ = outcomes.send((number, work(number)));
                }
            });
        }
        drop(outcomes);
        for (number, outcome) in received {
            if told(number, outcome).is_break() {
                numbers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            }
        }
    });
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

    #[test]
    fn numbers_are_worked_on_in_order_until_it_is_enough() {
        let mut all = Vec::new();
        spread(
            1..=20,
            |number| number * 2,
            |number, twice| {
                all.push((number, twice));
                ControlFlow::Continue(())
            },
        );
        all.sort_unstable();
        assert_eq!(all, (1..=20).map(|number| (number, number * 2)).collect::<Vec<_>>());
        let mut some = Vec::new();
        spread(
            1..,
            |number| number,
            |number, _| {
                some.push(number);
                if number >= 5 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            },
        );
        some.sort_unstable();
        assert_eq!(
            some,
            (1..=some.len() as u64).collect::<Vec<_>>(),
            "nothing before an outcome is left out"
        );
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
