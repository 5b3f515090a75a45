//! One simulated topic partition: runs of messages, with or without content.

use super::{Chunk, Message};
use crate::model::names::TopicPartition;
use bytes::Bytes;
use std::collections::VecDeque;

/// Consecutive messages that came at once.
struct Run {
    first: i64,
    count: u64,
    timestamp_ms: i64,
    body: Body,
}

enum Body {
    Payloads(Vec<Option<Bytes>>),
    /// The same for each message.
    Same(Bytes),
}

impl Run {
    fn end(&self) -> i64 {
        self.first + i64::try_from(self.count).unwrap_or(i64::MAX)
    }
}

/// See the module's text.
#[derive(Default)]
pub(super) struct SimLog {
    low: i64,
    high: i64,
    runs: VecDeque<Run>,
}

impl SimLog {
    pub(super) fn low(&self) -> i64 {
        self.low
    }

    pub(super) fn high(&self) -> i64 {
        self.high
    }

    fn push(&mut self, count: u64, timestamp_ms: i64, body: Body) -> i64 {
        let first = self.high;
        if count > 0 {
            let run = Run { first, count, timestamp_ms, body };
            self.high = run.end();
            self.runs.push_back(run);
        }
        first
    }

    pub(super) fn append(&mut self, payloads: Vec<Option<Bytes>>, timestamp_ms: i64) -> i64 {
        self.push(payloads.len() as u64, timestamp_ms, Body::Payloads(payloads))
    }

    pub(super) fn append_same(&mut self, count: u64, payload: Bytes, timestamp_ms: i64) -> i64 {
        self.push(count, timestamp_ms, Body::Same(payload))
    }

    pub(super) fn skip(&mut self, count: u64) -> i64 {
        self.high += i64::try_from(count).unwrap_or(i64::MAX);
        self.high
    }

    pub(super) fn truncate(&mut self, before: i64) {
        self.low = self.low.max(before.min(self.high));
        while self.runs.front().is_some_and(|run| run.end() <= self.low) {
            self.runs.pop_front();
        }
    }

    /// How many messages from an offset on came up to that time.
    pub(super) fn count(&self, from: i64, until_ms: i64) -> u64 {
        let behind = self.runs.partition_point(|run| run.end() <= from);
        let runs = self.runs.iter().skip(behind).take_while(|run| run.timestamp_ms <= until_ms);
        runs.map(|run| u64::try_from(run.end() - run.first.max(from)).unwrap_or(0)).sum()
    }

    /// Messages from an offset on, of one run, within limits of number and bytes; `None` at the end.
    pub(super) fn read(
        &self,
        source: &TopicPartition,
        from: i64,
        (count_max, bytes_max): (usize, usize),
    ) -> Option<Chunk> {
        let index = self.runs.partition_point(|run| run.end() <= from);
        let run = self.runs.get(index)?;
        let skipped = usize::try_from((from - run.first).max(0)).unwrap_or(usize::MAX);
        let left = usize::try_from(run.count).unwrap_or(usize::MAX) - skipped;
        let mut payload = Vec::new();
        let mut messages = Vec::new();
        let mut bytes = 0;
        for place in (skipped..).take(left.min(count_max)) {
            if bytes >= bytes_max {
                break;
            }
            let (start, content) = match &run.body {
                Body::Same(payload) => (0, Some(payload)),
                Body::Payloads(payloads) => (payload.len(), payloads[place].as_ref()),
            };
            let length = content.map_or(0, Bytes::len);
            bytes += length;
            if let (Body::Payloads(_), Some(content)) = (&run.body, content) {
                payload.extend_from_slice(content);
            }
            messages.push(Message {
                offset: run.first + i64::try_from(place).unwrap_or(i64::MAX),
                timestamp_ms: run.timestamp_ms,
                start: u32::try_from(start).unwrap_or(u32::MAX),
                len: u32::try_from(length).unwrap_or(u32::MAX),
                tombstone: content.is_none(),
            });
        }
        let payload = match &run.body {
            Body::Same(payload) => payload.clone(),
            Body::Payloads(_) => payload.into(),
        };
        Some(Chunk { source: source.clone(), messages, payload })
    }
}
