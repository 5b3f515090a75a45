//! Room for inserts' bodies: one limit for all that are in memory at one time, over HTTP and gRPC.
//!
//! Bytes are counted from when they arrive until the insert that holds them has ended, whoever still waits for it.

use crate::adapters::peers::Error;
use crate::adapters::peers::grpc::INSERT_BYTES_MAX;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bodies in memory at one time, all inserts together.
const BYTES_MAX: usize = 8 * INSERT_BYTES_MAX;

/// See the module. Clones are handles on the same room.
#[derive(Debug, Clone, Default)]
pub struct Room(Arc<AtomicUsize>);

impl Room {
    /// A place for one body, empty so far.
    pub fn enter(&self) -> Held {
        Held { bytes: AtomicUsize::new(0), of: self.clone() }
    }

    /// Bytes that are held now.
    pub fn held_bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The bytes of one body; given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    bytes: AtomicUsize,
    of: Room,
}

impl Held {
    /// Counts further bytes.
    ///
    /// # Errors
    /// [`Error::Unavailable`] if there is no room for them: the body is to be let go.
    pub fn take(&self, bytes: usize) -> Result<(), Error> {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.of.0.fetch_add(bytes, Ordering::Relaxed) + bytes > BYTES_MAX {
            let text = "too many large inserts at one time; nothing was inserted; try again in a moment";
            return Err(Error::Unavailable(text.into()));
        }
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.0.fetch_sub(*self.bytes.get_mut(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bodies_share_one_limit_and_give_back_what_they_took() {
        let room = Room::default();
        let (one, other) = (room.enter(), room.clone().enter());
        one.take(BYTES_MAX - 10).unwrap();
        other.take(10).unwrap();
        assert!(
            matches!(other.take(1), Err(Error::Unavailable(text)) if text.contains("nothing was inserted"))
        );
        drop(other);
        assert_eq!(room.held_bytes(), BYTES_MAX - 10);
        one.take(10).unwrap();
        drop(one);
        assert_eq!(room.held_bytes(), 0);
    }
}
