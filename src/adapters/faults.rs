//! What goes wrong between a daemon and a part outside it: one vocabulary for every simulated port, seeded.
//!
//! A [`Line`] stands before each simulated part, one a daemon and port. Its [`Weather`] says how long calls take and
//! how many are refused, lost on the way there (nothing happened), lost on the way back (it happened, nobody was
//! told) or carried out in part; a [`Crash`] ends the daemon before or after a step. The [`Lifeline`] is the
//! daemon's process: once it is cut no call of that daemon has an effect any more, whoever still holds the future.
//! Nothing here decides what a port's call means; each port translates [`Trouble`] into its own error.

use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// What calls meet, each drawn anew from the line's seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weather {
    /// Shortest and longest time that each way takes.
    pub latency_ms: (u64, u64),
    /// Calls in a thousand that fail before anything is sent.
    pub refused_per_mille: u32,
    /// Calls in a thousand whose request gets lost.
    pub request_lost_per_mille: u32,
    /// Calls in a thousand whose answer gets lost.
    pub answer_lost_per_mille: u32,
    /// Calls in a thousand that are carried out in part and answered by nothing, where the port has such calls.
    pub partial_per_mille: u32,
    /// Nothing gets through.
    pub cut: bool,
}

impl Weather {
    /// No faults, 1 ms each way.
    pub const FAIR: Self = Self {
        latency_ms: (1, 1),
        refused_per_mille: 0,
        request_lost_per_mille: 0,
        answer_lost_per_mille: 0,
        partial_per_mille: 0,
        cut: false,
    };

    /// A network one would complain about: every kind of fault, a few calls in a hundred.
    pub const ROUGH: Self = Self {
        latency_ms: (1, 80),
        refused_per_mille: 15,
        request_lost_per_mille: 15,
        answer_lost_per_mille: 15,
        partial_per_mille: 15,
        cut: false,
    };
}

impl Default for Weather {
    fn default() -> Self {
        Self::FAIR
    }
}

/// Why a call did not come back with the part's own answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// Nothing was sent.
    Refused,
    /// No answer: it may have been carried out.
    Lost,
}

/// Where a daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crash {
    /// At the call of this number from now on, counted from 1, over all verbs of the line that change something.
    pub at_change: u32,
    /// After the call took effect, rather than before.
    pub after: bool,
}

/// Sees how calls end: for a run's digest.
pub trait Witness: Send + Sync + 'static {
    /// A call of `verb` on `line` ended so.
    fn saw(&self, line: &str, verb: &str, ending: &str);

    /// A write over `line` made this revision of the store.
    fn wrote(&self, line: &str, revision: i64);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Stalled,
    Over,
}

/// A daemon's process. Clones are handles on the same one.
#[derive(Clone)]
pub struct Lifeline(Arc<Mutex<(Life, Option<Waker>)>>);

impl Default for Lifeline {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Life::Running, None))))
    }
}

impl Lifeline {
    fn lock(&self) -> MutexGuard<'_, (Life, Option<Waker>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, life: Life) {
        let waker = {
            let mut state = self.lock();
            if state.0 == Life::Over {
                return;
            }
            state.0 = life;
            state.1.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Ends the process as `kill -9` does: no call of it has an effect from here on.
    pub fn cut(&self) {
        self.set(Life::Over);
    }

    /// Stops the process for a while, as a machine does that swaps or is suspended; it does not notice.
    pub fn stall(&self) {
        self.set(Life::Stalled);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.set(Life::Running);
    }

    /// Whether the process has ended.
    pub fn is_over(&self) -> bool {
        self.lock().0 == Life::Over
    }

    /// Whether the process may run now; if not, `waker` is woken when that changes.
    pub fn may_run(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        state.1 = Some(waker.clone());
        state.0 == Life::Running
    }

    /// Goes on at once while the process lives, and never once it is over.
    async fn pass(&self) {
        if self.is_over() {
            std::future::pending::<()>().await;
        }
    }
}

struct State {
    weather: Weather,
    rng: Xoshiro256PlusPlus,
    crash: Option<Crash>,
}

/// What a call is: whether its loss leaves something open, and how long its sender waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// The port's verb.
    pub verb: &'static str,
    /// Whether it changes anything.
    pub changes: bool,
    /// How long its sender waits for an answer.
    pub deadline_ms: u64,
    /// How long until its sender notices that request or answer was lost on the way; the deadline, unless it asks.
    pub lost_after_ms: u64,
}

impl Call {
    /// A question: changes nothing.
    pub fn asks(verb: &'static str, deadline_ms: u64) -> Self {
        Self { verb, changes: false, deadline_ms, lost_after_ms: deadline_ms }
    }

    /// A change.
    pub fn changes(verb: &'static str, deadline_ms: u64) -> Self {
        Self { verb, changes: true, deadline_ms, lost_after_ms: deadline_ms }
    }
}

/// The way of one daemon to one part outside. Clones are handles on the same one.
#[derive(Clone)]
pub struct Line {
    name: Arc<str>,
    lifeline: Lifeline,
    witness: Arc<dyn Witness>,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Fine,
    Refused,
    RequestLost,
    AnswerLost,
}

struct Draw {
    there_ms: u64,
    back_ms: u64,
    fate: Fate,
    /// A broken connection is noticed at once, silence only at the deadline.
    silent: bool,
}

impl Line {
    /// A line in fair weather. Equal names and seeds meet equal faults.
    pub fn new(name: &str, seed: u64, lifeline: Lifeline, witness: Arc<dyn Witness>) -> Self {
        let seed = seed ^ (u64::from(crc32fast::hash(name.as_bytes())) << 16);
        let rng = Xoshiro256PlusPlus::seed_from_u64(seed);
        let state = State { weather: Weather::FAIR, rng, crash: None };
        Self {
            name: name.into(),
            lifeline,
            witness,
            state: Arc::new(Mutex::new(state)),
            changed: Arc::new(Notify::new()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the weather; calls under way keep theirs, except that nothing gets through a cut.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
        self.changed.notify_waiters();
    }

    /// The weather now.
    pub fn weather(&self) -> Weather {
        self.state().weather
    }

    /// Lets the daemon die at one of the next changes.
    pub fn crash_at(&self, crash: Crash) {
        self.state().crash = Some(crash);
    }

    /// A write over it made this revision of the store.
    pub fn wrote(&self, revision: i64) {
        self.witness.wrote(&self.name, revision);
    }

    /// Lets it live after all.
    pub fn forget_crash(&self) {
        self.state().crash = None;
    }

    /// One of the next call's chances in a thousand, such as [`Weather::partial_per_mille`].
    pub fn happens(&self, per_mille: u32) -> bool {
        per_mille > 0 && self.state().rng.random_range(0..1000) < per_mille
    }

    /// Waits for the other side of a wire that is not cut.
    pub async fn until_open(&self) {
        self.until(|weather| !weather.cut).await;
    }

    /// Waits until nothing gets through.
    pub async fn until_cut(&self) {
        self.until(|weather| weather.cut).await;
    }

    async fn until(&self, holds: impl Fn(&Weather) -> bool) {
        loop {
            // Made before looking, so that a change between look and wait is not missed.
            let changed = self.changed.notified();
            if holds(&self.weather()) {
                return;
            }
            changed.await;
        }
    }

    /// What one way takes now.
    pub async fn delay(&self) {
        let wait_ms = {
            let mut state = self.state();
            let (shortest, longest) = state.weather.latency_ms;
            state.rng.random_range(shortest..=longest.max(shortest))
        };
        if wait_ms > 0 {
            sleep(Duration::from_millis(wait_ms)).await;
        }
    }

    fn draw(&self, changes: bool) -> Draw {
        let mut state = self.state();
        let weather = state.weather;
        let (shortest, longest) = weather.latency_ms;
        let mut way = || state.rng.random_range(shortest..=longest.max(shortest));
        let (there_ms, back_ms) = (way(), way());
        let chance = state.rng.random_range(0..1000);
        let limits = [
            (weather.refused_per_mille, Fate::Refused),
            (weather.request_lost_per_mille, Fate::RequestLost),
            (weather.answer_lost_per_mille, Fate::AnswerLost),
        ];
        let mut fate = Fate::Fine;
        let mut limit = 0;
        for (per_mille, what) in limits {
            if chance >= limit && chance < limit + per_mille {
                fate = what;
            }
            limit += per_mille;
        }
        let silent = changes && state.rng.random_range(0..2) == 0;
        Draw { there_ms, back_ms, fate, silent }
    }

    /// Whether the daemon dies at this change; counts it otherwise.
    fn crashes(&self, after: bool) -> bool {
        let mut state = self.state();
        let Some(crash) = &mut state.crash else { return false };
        if crash.after != after {
            return false;
        }
        crash.at_change = crash.at_change.saturating_sub(1);
        if crash.at_change > 0 {
            return false;
        }
        state.crash = None;
        true
    }

    async fn crash_point(&self, call: &Call, after: bool) {
        if call.changes && self.crashes(after) {
            self.witness.saw(&self.name, call.verb, if after { "dies after" } else { "dies before" });
            self.lifeline.cut();
        }
        self.lifeline.pass().await;
    }

    async fn lost(&self, call: &Call, silent: bool) {
        if silent {
            sleep(Duration::from_millis(call.lost_after_ms)).await;
        }
        self.witness.saw(&self.name, call.verb, "lost");
    }

    /// Carries a call over the line. `effect` is what the part does, run at most once and at one moment; `failed`
    /// says the line's trouble in the port's own words.
    ///
    /// # Errors
    /// The part's own, or what `failed` makes of the line's.
    pub async fn carry<T, E>(
        &self,
        call: Call,
        effect: impl Future<Output = Result<T, E>> + Send,
        failed: impl Fn(Trouble) -> E + Send,
    ) -> Result<T, E> {
        self.lifeline.pass().await;
        let draw = self.draw(call.changes);
        sleep(Duration::from_millis(draw.there_ms)).await;
        if self.weather().cut || draw.fate == Fate::Refused {
            self.witness.saw(&self.name, call.verb, "refused");
            return Err(failed(Trouble::Refused));
        }
        if draw.fate == Fate::RequestLost {
            self.lost(&call, draw.silent).await;
            return Err(failed(Trouble::Lost));
        }
        self.crash_point(&call, false).await;
        let ended = timeout(Duration::from_millis(call.deadline_ms), effect).await;
        self.crash_point(&call, true).await;
        let Ok(result) = ended else {
            self.witness.saw(&self.name, call.verb, "late");
            return Err(failed(Trouble::Lost));
        };
        sleep(Duration::from_millis(draw.back_ms)).await;
        if draw.fate == Fate::AnswerLost || self.weather().cut {
            self.lost(&call, draw.silent).await;
            return Err(failed(Trouble::Lost));
        }
        self.lifeline.pass().await;
        self.witness.saw(&self.name, call.verb, if result.is_ok() { "done" } else { "failed" });
        result
    }
}
