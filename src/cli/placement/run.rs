//! Runs a solve on a thread of its own, with limits, progress and Ctrl-C.

use super::positive;
use crate::adapters::clock::{Clock, SystemClock};
use crate::cli::{Context, Failure};
use crate::placement::budget::Budget;
use crate::placement::engines::{NAMES, Progress, by_name};
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
use crate::placement::verdict::{Decision, decide, judged};
use clap::Args;
use futures::future::{self, Either};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// What a solve may take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// Seconds that a solve may take
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = positive)]
    pub(super) time_limit: f64,
    /// Work that a solve may take, in proposals: repeats exactly, whatever the machine
    #[arg(long, value_name = "PROPOSALS")]
    pub(super) work_limit: Option<u64>,
    /// Same seed and work limit, same placement
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

/// A limit on time and work, and a way to stop earlier.
struct Meter {
    clock: SystemClock,
    time_ms: f64,
    work: Option<u64>,
    spent: u64,
    stop: Arc<AtomicBool>,
}

impl Meter {
    fn new(limits: &Limits, stop: &Arc<AtomicBool>) -> Self {
        let time_ms = limits.time_limit * 1e3;
        Self { clock: SystemClock::new(), time_ms, work: limits.work_limit, spent: 0, stop: stop.clone() }
    }
}

impl Budget for Meter {
    fn spend(&mut self, work: u64) -> f64 {
        self.spent += work;
        if self.stop.load(Ordering::Relaxed) {
            return 1.0;
        }
        match self.work {
            Some(limit) => self.spent as f64 / limit.max(1) as f64,
            None => self.clock.now_ms() as f64 / self.time_ms,
        }
    }

    fn seconds_left(&mut self) -> Option<f64> {
        let left = (self.time_ms - self.clock.now_ms() as f64) / 1e3;
        self.work.is_none().then(|| left.max(0.0))
    }

    fn work_left(&mut self) -> f64 {
        self.work.map_or(0.0, |limit| limit.saturating_sub(self.spent) as f64)
    }

    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send> {
        let time_ms = (self.time_ms - self.clock.now_ms() as f64).max(0.0) * share;
        let work = self.work.map(|_| (self.work_left() * share / threads.max(1) as f64) as u64);
        Box::new(Self { clock: SystemClock::new(), time_ms, work, spent: 0, stop: self.stop.clone() })
    }
}

/// Sets the flag at the first Ctrl-C.
async fn stop_on_interrupt(mut interrupts: Signal, flag: Arc<AtomicBool>) -> Signal {
    if interrupts.recv().await.is_none() {
        future::pending::<()>().await;
    }
    flag.store(true, Ordering::Relaxed);
    eprintln!("stopping: the best placement so far follows (Ctrl-C again: none)");
    interrupts
}

/// The second Ctrl-C ends the process as usual.
async fn end_on_interrupt(mut interrupts: Signal) {
    if interrupts.recv().await.is_some() {
        std::process::exit(130);
    }
}

/// Seconds that a solve is waited for after Ctrl-C: HiGHS looks at no flag.
const PATIENCE: Duration = Duration::from_secs(5);

/// The best placement so far and its bound.
type SoFar = Arc<Mutex<Option<(Solution, f64)>>>;

/// A decision and how many seconds it took. The solve runs on a thread of its own beside a task that waits for Ctrl-C;
/// what does not end soon after that is no longer waited for, and the best that it has told of is taken.
pub(super) fn solved(
    context: &Context,
    problem: &Arc<Problem>,
    engine: &str,
    limits: &Limits,
) -> Result<(Decision, f64), Failure> {
    let engine = by_name(engine).ok_or_else(|| Failure::usage("no such engine", "see --help"))?;
    if let Some(reason) = engine.refuses(problem) {
        let others = NAMES.iter().filter(|name| **name != engine.name()).copied().collect::<Vec<_>>();
        return Err(Failure::usage(reason, &format!("use another engine: {}", others.join(", "))));
    }
    let (stop, so_far, clock) =
        (Arc::new(AtomicBool::new(false)), SoFar::default(), Arc::new(SystemClock::new()));
    let (answer, answered) = oneshot::channel();
    let solve = {
        let (problem, limits, stop) = (problem.clone(), limits.clone(), stop.clone());
        let (so_far, clock) = (so_far.clone(), clock.clone());
        move || {
            let mut meter = Meter::new(&limits, &stop);
            let mut report = |progress: &Progress<'_>| told(progress, &so_far, clock.now_ms());
            let _ = answer.send(decide(&problem, engine.as_ref(), limits.seed, &mut meter, &mut report));
        }
    };
    let crashed = || Failure::failed("the solve failed", "report this with the instance");
    let decision = context.block_on(async {
        // Before the solve begins: nothing is lost that comes early.
        let interrupts = signal(SignalKind::interrupt());
        let interrupts = interrupts.map_err(|e| Failure::failed(format!("no signals: {e}"), "try again"))?;
        let thread = std::thread::Builder::new().name("solve".to_owned()).spawn(solve);
        thread.map_err(|e| Failure::failed(format!("cannot start: {e}"), "free some resources"))?;
        let stopped = stop_on_interrupt(interrupts, stop);
        match future::select(answered, Box::pin(stopped)).await {
            Either::Left((decision, _)) => decision.map_err(|_| crashed()),
            Either::Right((more, answered)) => {
                tokio::spawn(end_on_interrupt(more));
                let best = || so_far.lock().ok().and_then(|mut so_far| so_far.take());
                match tokio::time::timeout(PATIENCE, answered).await {
                    Ok(decision) => decision.map_err(|_| crashed()),
                    Err(_) => {
                        let (solution, bound) = best().ok_or_else(crashed)?;
                        Ok(judged(problem, solution, bound))
                    }
                }
            }
        }
    })?;
    Ok((decision, clock.now_ms() as f64 / 1e3))
}

/// Shows progress, and keeps the best placement so far.
fn told(progress: &Progress<'_>, so_far: &SoFar, now_ms: u64) {
    let seconds = now_ms as f64 / 1e3;
    let some = |name: &str, value: f64| format!(", {name} {value:.5}");
    let bound = if progress.bound > 0.0 { some("bound", progress.bound) } else { String::new() };
    let score = progress.score.map_or(String::new(), |score| some("score", score));
    eprintln!("{seconds:>7.1} s  {}{score}{bound}", progress.phase);
    if let (Some(best), Ok(mut so_far)) = (progress.best, so_far.lock()) {
        *so_far = Some((best.clone(), progress.bound));
    }
}
