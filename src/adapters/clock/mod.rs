//! Time and randomness: the one place that they come from.
//!
//! Monotonic time and every timer come from `tokio::time`, so that the simulator's paused clock is theirs too.

use rand::{Rng, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::sync::Mutex;
use tokio::time::Instant;

/// Time and random numbers. One is made inside the runtime that it serves.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds on `tokio`'s clock since this clock was made: for deadlines, ages, ordering.
    fn now_ms(&self) -> u64;
    /// Milliseconds since 1970. May jump; never used for ordering, nor for deadlines but those that people set in hours
    /// and days.
    fn unix_ms(&self) -> u64;
    /// A random number.
    fn random(&self) -> u64;
}

fn elapsed_ms(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The machine's clock and entropy.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts at 0 now.
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        elapsed_ms(self.start)
    }

    fn unix_ms(&self) -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    fn random(&self) -> u64 {
        u64::from_le_bytes(uuid::Uuid::new_v4().as_bytes()[..8].try_into().expect("eight bytes"))
    }
}

/// Virtual time and seeded numbers, for the simulator.
#[derive(Debug)]
pub struct SimClock {
    start: Instant,
    epoch_ms: u64,
    drift_ppm: i64,
    rng: Mutex<Xoshiro256PlusPlus>,
}

impl SimClock {
    /// A clock whose wall shows `epoch_ms` now.
    pub fn new(epoch_ms: u64, seed: u64) -> Self {
        let rng = Mutex::new(Xoshiro256PlusPlus::seed_from_u64(seed));
        Self { start: Instant::now(), epoch_ms, drift_ppm: 0, rng }
    }

    /// The same clock, which goes fast by so many millionths, or slow. Timers are not the clock's: they keep time.
    #[must_use]
    pub fn drifting(self, drift_ppm: i64) -> Self {
        Self { drift_ppm, ..self }
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> u64 {
        let elapsed = i128::from(elapsed_ms(self.start));
        let shown = elapsed + elapsed * i128::from(self.drift_ppm) / 1_000_000;
        u64::try_from(shown).unwrap_or(0)
    }

    fn unix_ms(&self) -> u64 {
        self.epoch_ms + self.now_ms()
    }

    fn random(&self) -> u64 {
        self.rng.lock().expect("no panic while held").next_u64()
    }
}
