//! How many bytes a second a node may send or take: whoever moves bytes asks first, and waits for its turn.
//!
//! All copies of a node share one, so each byte counts once, however many run. It holds nothing back for later: who
//! was idle starts at once and is then paced. A share of a pace that the whole cluster keeps to may make it slower.

use crate::adapters::clock::Clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// See the module. Clones share the pace.
#[derive(Clone)]
pub struct Throttle {
    clock: Arc<dyn Clock>,
    bytes_per_s: u64,
    /// What it may not exceed besides, which changes; 0 is no limit.
    share_bytes_per_s: Arc<AtomicU64>,
    /// When the next byte may go, in microseconds.
    free_at_us: Arc<Mutex<u64>>,
}

impl Throttle {
    /// So many bytes a second; 0 is as many as there are.
    pub fn new(clock: Arc<dyn Clock>, bytes_per_s: u64) -> Self {
        Self { clock, bytes_per_s, share_bytes_per_s: Arc::default(), free_at_us: Arc::default() }
    }

    /// Its share of the cluster's pace from now on; 0 is no limit.
    pub fn share(&self, bytes_per_s: u64) {
        self.share_bytes_per_s.store(bytes_per_s, Ordering::Relaxed);
    }

    /// Its limit; 0 is none.
    pub fn bytes_per_s(&self) -> u64 {
        match (self.bytes_per_s, self.share_bytes_per_s.load(Ordering::Relaxed)) {
            (own, 0) => own,
            (0, share) => share,
            (own, share) => own.min(share),
        }
    }

    /// Waits until so many bytes may go.
    pub async fn take(&self, bytes: u64) {
        let bytes_per_s = self.bytes_per_s();
        if bytes_per_s == 0 || bytes == 0 {
            return;
        }
        let now_us = self.clock.now_ms().saturating_mul(1_000);
        let wait_us = {
            let mut free_at_us = self.free_at_us.lock().expect("nothing panics while it is held");
            let begins_us = now_us.max(*free_at_us);
            *free_at_us = begins_us.saturating_add(bytes.saturating_mul(1_000_000) / bytes_per_s);
            begins_us - now_us
        };
        if wait_us >= 1_000 {
            tokio::time::sleep(Duration::from_micros(wait_us)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clock::SystemClock;

    #[tokio::test(start_paused = true)]
    async fn copies_of_a_node_share_the_pace() {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let throttle = Throttle::new(clock.clone(), 1_000_000);
        let copy = |throttle: Throttle| async move {
            for _ in 0..50 {
                throttle.take(100_000).await;
            }
        };
        futures::join!(copy(throttle.clone()), copy(throttle.clone()));
        // Ten million bytes; what goes last need not be waited for.
        assert!((9_800..=10_000).contains(&clock.now_ms()), "{}", clock.now_ms());
        let unlimited = Throttle::new(clock.clone(), 0);
        let before_ms = clock.now_ms();
        unlimited.take(u64::MAX).await;
        assert_eq!(clock.now_ms(), before_ms);
        throttle.share(500_000);
        assert_eq!(throttle.bytes_per_s(), 500_000, "its share of the cluster's pace is less");
        throttle.share(2_000_000);
        assert_eq!(throttle.bytes_per_s(), 1_000_000);
        unlimited.share(7);
        assert_eq!(unlimited.bytes_per_s(), 7);
    }
}
