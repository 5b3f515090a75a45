//! Chunks out of what librdkafka yields: for a lane, and for a look at one message.

use super::budget::Budget;
use super::lane::WAIT;
use super::raw::{Item, RawConsumer, unknown};
use super::{Chunk, Error, Message};
use crate::model::names::TopicPartition;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::sync::Arc;
use std::time::Instant;

/// Copies a run of messages into one buffer.
pub(super) fn chunk(source: TopicPartition, run: &[Item], budget: &Arc<Budget>) -> Chunk {
    let mut payload = Vec::with_capacity(run.iter().map(Item::len).sum());
    let mut messages = Vec::with_capacity(run.len());
    for item in run {
        let text = item.payload();
        messages.push(Message {
            offset: item.offset(),
            timestamp_ms: item.timestamp_ms(),
            start: u32::try_from(payload.len()).expect("a chunk is far below 4 GB"),
            len: u32::try_from(item.len()).expect("a message is far below 4 GB"),
            tombstone: text.is_none(),
        });
        payload.extend_from_slice(text.unwrap_or_default());
    }
    let payload = budget.count(payload, messages.len());
    Chunk { source, messages, payload }
}

/// Waits for the first messages of the one partition that `raw` reads; `None` if there are none.
pub(super) fn first_chunk(
    raw: &RawConsumer,
    source: &TopicPartition,
    budget: &Arc<Budget>,
    until: Instant,
) -> Result<Option<Chunk>, Error> {
    let mut batch = Vec::new();
    while Instant::now() < until {
        raw.take(1, WAIT, &mut batch);
        if raw.missing().contains(source) {
            return Err(Error::TopicMissing(source.topic.clone()));
        }
        let Some(item) = batch.first() else { continue };
        match item.event() {
            None => return Ok(Some(chunk(source.clone(), &batch, budget))),
            Some(Code::PartitionEOF | Code::AutoOffsetReset) => return Ok(None),
            Some(code) if unknown(code) => return Err(Error::TopicMissing(source.topic.clone())),
            Some(_) => batch.clear(),
        }
    }
    Err(Error::Unreachable(format!("{source}: no message and no end in time")))
}
