//! Runs a solve on a thread of its own, with limits, progress and Ctrl-C.

use super::positive;
use crate::adapters::clock::{Clock, SystemClock};
use crate::cli::{Context, Failure};
use crate::placement::budget::Budget;
use crate::placement::engines::repair::standing;
use crate::placement::engines::{Engine, NAMES, Progress, by_name, is_program};
use crate::placement::policy::{Goal, Policy};
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
use crate::placement::verdict::{Decision, decide, judged, settled};
use clap::{Args, ValueEnum};
use futures::future::{self, Either};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

/// What a solve is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum GoalName {
    /// Everything the objective asks
    Balance,
    /// Leaders alone, no copies
    Leaders,
    /// Bring nodes below the watermark with few bytes, and leave all else as it is
    Relieve,
    /// Only what hard rules ask
    Repair,
}

impl From<GoalName> for Goal {
    fn from(name: GoalName) -> Self {
        match name {
            GoalName::Balance => Self::Balance,
            GoalName::Leaders => Self::Leaders,
            GoalName::Relieve => Self::Relieve,
            GoalName::Repair => Self::Repair,
        }
    }
}

/// How to solve, and what for.
#[derive(Debug, Clone, Args)]
pub(super) struct By {
    /// How to solve it
    #[arg(long, default_value = NAMES[0], value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    pub(super) engine: String,
    /// What it is for [default: balance, or what the policy says]
    #[arg(long, value_enum)]
    goal: Option<GoalName>,
}

impl By {
    /// What it is for, under a policy that was read.
    pub(super) fn goal(&self, written: &Policy) -> Goal {
        self.goal.map_or(written.goal, Goal::from)
    }
}

/// What a solve may take.
#[derive(Debug, Clone, Args)]
pub(crate) struct Limits {
    /// Seconds that a solve may take [default: 10, or no limit with --work-limit]
    #[arg(long, value_name = "SECONDS", value_parser = positive)]
    pub(super) time_limit: Option<f64>,
    /// Work that a solve may take, in proposals, and as much again each time that it is solved anew until it stands:
    /// repeats exactly, whatever the machine, unless a limit of time ends it
    #[arg(long, value_name = "PROPOSALS")]
    pub(super) work_limit: Option<u64>,
    /// Same seed and work limit, same placement
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
}

impl Limits {
    /// Seconds that a solve may take, if it is limited so.
    fn seconds(&self) -> Option<f64> {
        self.time_limit.or(self.work_limit.is_none().then_some(SECONDS))
    }
}

/// Seconds that a solve may take if nothing is said.
const SECONDS: f64 = 10.0;

/// Where a solve is: what it is at, and how much of its limit is used up.
struct Shown {
    phase: Mutex<&'static str>,
    permille: AtomicU32,
}

impl Default for Shown {
    fn default() -> Self {
        Self { phase: Mutex::new("starting"), permille: AtomicU32::default() }
    }
}

/// A limit on time, on work, or on both, and a way to stop earlier.
struct Meter {
    clock: Arc<SystemClock>,
    shown: Arc<Shown>,
    time_ms: Option<f64>,
    work: Option<u64>,
    spent: u64,
    stop: Arc<AtomicBool>,
}

impl Meter {
    fn new(limits: &Limits, link: &Link) -> Self {
        let (time_ms, work) = (limits.seconds().map(|seconds| seconds * 1e3), limits.work_limit);
        let Link { clock, shown, stop, .. } = link.clone();
        Self { clock, shown, time_ms, work, spent: 0, stop }
    }

    fn left_ms(&self) -> Option<f64> {
        self.time_ms.map(|limit| (limit - self.clock.now_ms() as f64).max(0.0))
    }
}

impl Budget for Meter {
    fn spend(&mut self, work: u64) -> f64 {
        self.spent += work;
        if self.stop.load(Ordering::Relaxed) {
            return 1.0;
        }
        let time = self.time_ms.map_or(0.0, |limit| self.clock.now_ms() as f64 / limit);
        let used = time.max(self.work.map_or(0.0, |limit| self.spent as f64 / limit.max(1) as f64));
        self.shown.permille.store((used.min(1.0) * 1e3) as u32, Ordering::Relaxed);
        used
    }

    fn seconds_left(&mut self) -> Option<f64> {
        self.left_ms().map(|left| left / 1e3)
    }

    fn work_left(&mut self) -> f64 {
        self.work.map_or(0.0, |limit| limit.saturating_sub(self.spent) as f64)
    }

    fn for_thread(&mut self, share: f64, threads: usize) -> Box<dyn Budget + Send> {
        let time_ms = self.left_ms().map(|left| left * share);
        let work = self.work.map(|_| (self.work_left() * share / threads.max(1) as f64) as u64);
        let clock = Arc::new(SystemClock::new());
        // What is shown is the whole's, not that of a thread's part.
        Box::new(Self { clock, shown: Arc::default(), time_ms, work, spent: 0, stop: self.stop.clone() })
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

/// How long a solve may overrun its limit of time in an integer program: HiGHS looks at its clock between its phases.
const GRACE: Duration = Duration::from_secs(1);

/// The best placement so far.
struct Best {
    solution: Solution,
    bound: f64,
    /// It was told of before an integer program.
    in_program: bool,
}

type SoFar = Arc<Mutex<Option<Best>>>;

/// What a solve and whoever waits for it tell each other.
#[derive(Clone)]
struct Link {
    clock: Arc<SystemClock>,
    shown: Arc<Shown>,
    stop: Arc<AtomicBool>,
    so_far: SoFar,
}

impl Default for Link {
    fn default() -> Self {
        let clock = Arc::new(SystemClock::new());
        Self { clock, shown: Arc::default(), stop: Arc::default(), so_far: SoFar::default() }
    }
}

/// How often it is said how far a solve is while it tells nothing itself.
const TOLD_EVERY: Duration = Duration::from_secs(5);

/// Says so until the solve ends.
async fn said(Link { clock, shown, .. }: Link, limit_s: Option<f64>) {
    loop {
        tokio::time::sleep(TOLD_EVERY).await;
        let (phase, now_s) = (shown.phase.lock().map_or("", |phase| *phase), clock.now_ms() as f64 / 1e3);
        // Searches side by side have budgets of their own, which are counted when they end.
        let spent = f64::from(shown.permille.load(Ordering::Relaxed)) / 1e3;
        let used = spent.max(limit_s.map_or(0.0, |limit| now_s / limit)).min(1.0);
        eprintln!("{now_s:>7.1} s  {phase}, {:.0} % of the limit", used * 100.0);
    }
}

/// Ends once a limit of time is overrun in the middle of an integer program, with the best so far. Whatever else runs
/// over ends soon by itself, with something better.
async fn overrun(seconds: Option<f64>, so_far: SoFar) -> Best {
    let Some(seconds) = seconds else { return future::pending().await };
    tokio::time::sleep(Duration::from_secs_f64(seconds) + GRACE).await;
    loop {
        let best = so_far.lock().ok().and_then(|mut best| best.take_if(|best| best.in_program));
        if let Some(best) = best {
            return best;
        }
        tokio::time::sleep(GRACE).await;
    }
}

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
    let link = Link::default();
    let (answer, answered) = oneshot::channel();
    let solve = {
        let (problem, limits, link) = (problem.clone(), limits.clone(), link.clone());
        move || {
            let _ = answer.send(stands(&problem, engine.as_ref(), &limits, &link));
        }
    };
    let decision = context.block_on(async {
        // Before the solve begins: nothing is lost that comes early.
        let interrupts = signal(SignalKind::interrupt());
        let interrupts = interrupts.map_err(|e| Failure::failed(format!("no signals: {e}"), "try again"))?;
        let thread = std::thread::Builder::new().name("solve".to_owned()).spawn(solve);
        thread.map_err(|e| Failure::failed(format!("cannot start: {e}"), "free some resources"))?;
        let stopped = Box::pin(stop_on_interrupt(interrupts, link.stop.clone()));
        let overrun = Box::pin(overrun(limits.seconds(), link.so_far.clone()));
        let ticker = tokio::spawn(said(link.clone(), limits.seconds()));
        let ended = match future::select(answered, future::select(stopped, overrun)).await {
            Either::Left((decision, _)) => decision.map_err(|_| crashed()),
            Either::Right((Either::Right((best, _)), _)) => {
                link.stop.store(true, Ordering::Relaxed);
                Ok(judged(problem, best.solution, best.bound))
            }
            Either::Right((Either::Left((more, _)), answered)) => {
                tokio::spawn(end_on_interrupt(more));
                let best = || link.so_far.lock().ok().and_then(|mut so_far| so_far.take());
                match tokio::time::timeout(PATIENCE, answered).await {
                    Ok(decision) => decision.map_err(|_| crashed()),
                    Err(_) => {
                        let best = best().ok_or_else(crashed)?;
                        Ok(judged(problem, best.solution, best.bound))
                    }
                }
            }
        };
        ticker.abort();
        ended
    })?;
    Ok((decision, link.clock.now_ms() as f64 / 1e3))
}

fn crashed() -> Failure {
    Failure::failed("the solve failed", "report this with the instance")
}

/// Decides, and decides again on what was decided until that stands: each time with the work that is allowed, or in
/// what is left of the time.
fn stands(problem: &Problem, engine: &dyn Engine, limits: &Limits, link: &Link) -> Decision {
    // Whoever interrupts an engine that tells of nothing gets what is there, repaired.
    if let Ok(mut so_far) = link.so_far.lock() {
        *so_far = Some(Best { solution: standing(problem), bound: 0.0, in_program: false });
    }
    let mut report = |progress: &Progress<'_>| told(progress, link);
    let first = decide(problem, engine, limits.seed, &mut Meter::new(limits, link), &mut report);
    // From here on progress is measured from elsewhere: what is there is the best so far.
    if let Ok(mut so_far) = link.so_far.lock() {
        *so_far = Some(Best { solution: first.solution.clone(), bound: first.bound, in_program: true });
    }
    settled(problem, first, &mut |next| {
        let mut meter = Meter::new(limits, link);
        let ended = meter.spend(0) >= 1.0;
        (!ended).then(|| decide(next, engine, limits.seed, &mut meter, &mut |_| {}))
    })
}

/// Shows progress, and keeps the best placement so far.
fn told(progress: &Progress<'_>, link: &Link) {
    let seconds = link.clock.now_ms() as f64 / 1e3;
    if let Ok(mut phase) = link.shown.phase.lock() {
        *phase = progress.phase;
    }
    let some = |name: &str, value: f64| format!(", {name} {value:.5}");
    let bound = if progress.bound > 0.0 { some("bound", progress.bound) } else { String::new() };
    let score = progress.score.map_or(String::new(), |score| some("score", score));
    eprintln!("{seconds:>7.1} s  {}{score}{bound}", progress.phase);
    if let (Some(best), Ok(mut so_far)) = (progress.best, link.so_far.lock()) {
        let in_program = is_program(progress.phase);
        *so_far = Some(Best { solution: best.clone(), bound: progress.bound, in_program });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_integer_program_is_not_waited_for_beyond_the_limit() {
        let best = |in_program| Best { solution: Solution { nodes: vec![3] }, bound: 0.5, in_program };
        let so_far = SoFar::default();
        let wait = |seconds: u64, limit: Option<f64>| {
            tokio::time::timeout(Duration::from_secs(seconds), overrun(limit, so_far.clone()))
        };
        *so_far.lock().unwrap() = Some(best(false));
        assert!(wait(1000, Some(900.0)).await.is_err(), "it ends by itself");
        *so_far.lock().unwrap() = Some(best(true));
        assert!(wait(1000, None).await.is_err(), "no limit");
        assert!(wait(900, Some(900.0)).await.is_err(), "too early");
        assert_eq!(wait(902, Some(900.0)).await.unwrap().solution.nodes, [3]);
    }

    #[test]
    fn limits_of_time_and_work_both_count() {
        let limits = |time_limit, work_limit| Limits { time_limit, work_limit, seed: 1 };
        assert_eq!(limits(None, None).seconds(), Some(SECONDS));
        assert_eq!(limits(None, Some(7)).seconds(), None);
        assert_eq!(limits(Some(2.0), Some(7)).seconds(), Some(2.0));
        let link = Link::default();
        let mut meter = Meter::new(&limits(Some(1e6), Some(100)), &link);
        assert!(meter.seconds_left().is_some() && meter.spend(50) < 1.0 && meter.work_left() == 50.0);
        assert_eq!(link.shown.permille.load(Ordering::Relaxed), 500);
        assert!(meter.spend(50) >= 1.0);
        let mut meter = Meter::new(&limits(Some(1e-9), Some(100)), &link);
        while link.clock.now_ms() == 0 {}
        assert!(meter.spend(0) >= 1.0);
    }
}
