//! Bytes of fetched messages that a client's lanes have handed out, wherever they are now.
//!
//! A chunk's buffer counts from the moment it is filled until the last one who holds a part of it lets go, so a batch
//! that waits or is being inserted counts as well as what lies in a lane. Lanes fetch no more while it is used up.

use super::Message;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// See the module.
#[derive(Debug)]
pub(super) struct Budget {
    bytes_max: usize,
    used: AtomicUsize,
}

impl Budget {
    /// Nothing is used yet.
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            used: AtomicUsize::new(0),
        })
    }

    /// Whether it is used up.
    pub(super) fn spent(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.bytes_max
    }

    /// A chunk's buffer, counted with its list of messages until it is dropped.
    pub(super) fn count(self: &Arc<Self>, payload: Vec<u8>, messages: usize) -> Bytes {
        let bytes = payload.capacity() + messages * size_of::<Message>();
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Bytes::from_owner(Counted { payload, bytes, budget: Arc::clone(self) })
    }
}

struct Counted {
    payload: Vec<u8>,
    bytes: usize,
    budget: Arc<Budget>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.payload
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_counts_until_its_last_part_is_let_go() {
        let budget = Budget::new(100);
        let buffer = budget.count(vec![0; 60], 1);
        assert!(!budget.spent());
        let part = buffer.slice(3..5);
        let other = budget.count(vec![0; 60], 0);
        drop(buffer);
        assert!(budget.spent(), "a part of it is still held");
        drop(part);
        assert!(!budget.spent());
        drop(other);
        assert_eq!(budget.used.load(Ordering::Relaxed), 0);
    }
}
