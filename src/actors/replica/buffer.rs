//! Messages fetched and not yet inserted, of one partition, and when a batch of them is due.
//!
//! Pure. Holds the lane's chunks as they came; nothing is copied until the batch is encoded.

use super::recovery::SPAN;
use crate::adapters::kafka::Chunk;
use std::collections::VecDeque;

/// When a batch is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages in a batch.
    pub messages_max: usize,
    /// Bytes of messages in a batch, as they lie in memory.
    pub bytes_max: usize,
    /// Time since the batch's first message was fetched.
    pub age_max_ms: u64,
}

/// Contiguous messages of one partition, to be one insert.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    /// In offset order.
    pub chunks: Vec<Chunk>,
    /// Messages in all.
    pub messages: usize,
}

impl Batch {
    /// One past the last offset; `None` for an empty batch.
    pub fn next_offset(&self) -> Option<i64> {
        Some(self.chunks.last()?.messages.last()?.offset + 1)
    }
}

/// The buffer.
#[derive(Debug, Default)]
pub struct Buffer {
    chunks: VecDeque<Chunk>,
    messages: usize,
    bytes: usize,
    first_at_ms: u64,
}

impl Buffer {
    /// Adds a chunk that was fetched at `now_ms`.
    pub fn push(&mut self, chunk: Chunk, now_ms: u64) {
        if chunk.messages.is_empty() {
            return;
        }
        if self.messages == 0 {
            self.first_at_ms = now_ms;
        }
        self.messages += chunk.messages.len();
        self.bytes += chunk.bytes();
        self.chunks.push_back(chunk);
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// Whether a whole further batch waits already: time to stop fetching.
    pub fn is_full(&self, limits: &Limits) -> bool {
        self.messages >= limits.messages_max || self.bytes >= limits.bytes_max
    }

    /// When the next batch is due; `None` while nothing waits.
    pub fn due_at_ms(&self, limits: &Limits) -> Option<u64> {
        if self.is_empty() {
            None
        } else if self.is_full(limits) {
            Some(0)
        } else {
            Some(self.first_at_ms.saturating_add(limits.age_max_ms))
        }
    }

    /// Takes the oldest messages, within the limits, at least one.
    pub fn take(&mut self, limits: &Limits, now_ms: u64) -> Batch {
        let mut batch = Batch::default();
        let mut bytes = 0;
        let mut first = None;
        while let Some(mut chunk) = self.chunks.pop_front() {
            let base = *first.get_or_insert(chunk.messages[0].offset);
            let room = limits.messages_max.max(1) - batch.messages;
            let in_span = chunk.messages.partition_point(|message| message.offset < base + SPAN);
            let fits = chunk.messages.len().min(room).min(in_span);
            if fits == 0 || (bytes > 0 && bytes + chunk.bytes() > limits.bytes_max) {
                self.chunks.push_front(chunk);
                break;
            }
            let rest = chunk.messages.split_off(fits);
            let split = !rest.is_empty();
            if split {
                let payload = chunk.payload.clone();
                self.chunks.push_front(Chunk { source: chunk.source.clone(), messages: rest, payload });
            }
            bytes += chunk.bytes();
            batch.messages += chunk.messages.len();
            batch.chunks.push(chunk);
            if split {
                break;
            }
        }
        self.messages -= batch.messages;
        self.bytes = self.chunks.iter().map(Chunk::bytes).sum();
        self.first_at_ms = now_ms;
        batch
    }

    /// Puts a batch that was not inserted back in front.
    pub fn put_back(&mut self, batch: Batch) {
        self.messages += batch.messages;
        for chunk in batch.chunks.into_iter().rev() {
            self.bytes += chunk.bytes();
            self.chunks.push_front(chunk);
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::kafka::Message;
    use crate::model::names::TopicPartition;
    use proptest::prelude::*;

    fn chunk(first: i64, count: u32, size: u32) -> Chunk {
        let message = |i: u32| Message {
            offset: first + i64::from(i),
            timestamp_ms: 0,
            start: i * size,
            len: size,
            tombstone: false,
        };
        Chunk {
            source: TopicPartition { topic: "t".into(), partition: 0 },
            messages: (0..count).map(message).collect(),
            payload: vec![b'x'; (count * size) as usize].into(),
        }
    }

    proptest! {
        #[test]
        fn batches_hand_out_every_message_once_in_order(
            chunks in prop::collection::vec((1u32..40, 1u32..50), 1..20),
            messages_max in 1usize..60, bytes_max in 1usize..2000,
        ) {
            let limits = Limits { messages_max, bytes_max, age_max_ms: 5 };
            let mut buffer = Buffer::default();
            let mut next = 0;
            for (count, size) in chunks {
                buffer.push(chunk(next, count, size), 0);
                next += i64::from(count);
            }
            let mut seen = Vec::new();
            let mut returned = false;
            while !buffer.is_empty() {
                let batch = buffer.take(&limits, 0);
                prop_assert!(batch.messages > 0 && batch.messages <= messages_max);
                if !returned {
                    returned = true;
                    buffer.put_back(batch);
                    continue;
                }
                seen.extend(batch.chunks.iter().flat_map(|c| &c.messages).map(|m| m.offset));
            }
            prop_assert_eq!(seen, (0..next).collect::<Vec<_>>());
            prop_assert_eq!(buffer.bytes, 0);
        }
    }

    #[test]
    fn a_batch_is_due_when_full_or_old() {
        let limits = Limits { messages_max: 10, bytes_max: 1000, age_max_ms: 50 };
        let mut buffer = Buffer::default();
        assert_eq!(buffer.due_at_ms(&limits), None);
        buffer.push(chunk(0, 3, 10), 100);
        assert_eq!(buffer.due_at_ms(&limits), Some(150));
        buffer.push(chunk(3, 7, 10), 120);
        assert_eq!(buffer.due_at_ms(&limits), Some(0));
    }

    #[test]
    fn a_batch_never_spans_more_offsets_than_recovery_looks_back() {
        let limits = Limits { messages_max: 1000, bytes_max: 1 << 20, age_max_ms: 50 };
        let mut buffer = Buffer::default();
        buffer.push(chunk(0, 1, 10), 0);
        buffer.push(chunk(SPAN, 1, 10), 0);
        assert_eq!(buffer.take(&limits, 0).next_offset(), Some(1));
    }
}
