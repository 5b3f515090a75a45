//! How long a command waits for what it has begun: as long as something moves, or as long as it was told to.

use super::Failure;
use crate::adapters::clock::{Clock as _, SystemClock};
use std::time::Duration;

/// Nothing has moved for so long: no more is to be expected soon.
const STILL_MAX: Duration = Duration::from_secs(300);

/// See the module.
pub(super) struct Patience {
    /// Given by `--timeout`.
    whole: Option<Duration>,
    clock: SystemClock,
    began_ms: u64,
    moved_ms: u64,
    last: String,
}

impl Patience {
    /// From now on.
    pub(super) fn new(whole: Option<Duration>) -> Self {
        let clock = SystemClock::new();
        let now_ms = clock.now_ms();
        Self { whole, clock, began_ms: now_ms, moved_ms: now_ms, last: String::new() }
    }

    /// What is seen now; whatever differs from the last time is progress. An error once it is over: `what` says of
    /// what, `look` where to look.
    pub(super) fn seen(&mut self, now: &str, what: &str, look: &'static str) -> Result<(), Failure> {
        let now_ms = self.clock.now_ms();
        if now != self.last {
            now.clone_into(&mut self.last);
            self.moved_ms = now_ms;
        }
        let since = |ms: u64| Duration::from_millis(now_ms.saturating_sub(ms));
        let late = match self.whole {
            Some(whole) => (since(self.began_ms) >= whole).then(|| format!("after {whole:?}")),
            None => (since(self.moved_ms) >= STILL_MAX)
                .then(|| format!("and nothing has moved for {STILL_MAX:?}")),
        };
        match late {
            None => Ok(()),
            Some(late) => Err(Failure::unavailable(format!("{what} {late}; it goes on"), look)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_moves_is_waited_for_and_what_stands_still_is_not() {
        let mut patience = Patience::new(None);
        for bytes in 0..10 {
            patience
                .seen(&format!("{bytes} MiB"), "o1 has not ended", "")
                .unwrap_or_else(|_| panic!("{bytes}"));
            tokio::time::sleep(STILL_MAX - Duration::from_secs(1)).await;
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let late = patience.seen("9 MiB", "o1 has not ended", "").unwrap_err();
        assert!(late.text(false).contains("o1 has not ended and nothing has moved for 300s; it goes on"));
        let mut told = Patience::new(Some(Duration::from_secs(5)));
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(told.seen("moves", "", "").is_err(), "who says how long means it");
    }
}
