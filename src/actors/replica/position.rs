//! What a node records in Kafka beside a partition's next offset, so that a later look can tell a table that lost
//! rows, a topic that was made anew, and another table's leftovers from the real thing.
//!
//! Pure. The text form is one short line, versioned: `cvh1 t=1f3a9c2d s=3 row=12344 fp=0a1b2c3d`, with ` at=12345`
//! where the fingerprint is of an earlier message than the one right before the position.

use crate::adapters::kafka::{Chunk, Message};
use crate::model::{ShardId, TableId};
use std::fmt::Write;

/// The metadata of a committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// First eight hex digits of the table that took the messages.
    pub table: String,
    /// Its shard.
    pub shard: ShardId,
    /// The highest offset whose rows were put into the table, if any were.
    pub last_row_offset: Option<i64>,
    /// Fingerprint of the last message below the committed offset.
    pub fingerprint: Option<u32>,
    /// That message's offset; `None`: the committed offset less one.
    pub fingerprint_at: Option<i64>,
}

impl Position {
    /// A position of that table and shard at the start of history.
    pub fn start(table: TableId, shard: ShardId) -> Self {
        Self { table: table.short(), shard, last_row_offset: None, fingerprint: None, fingerprint_at: None }
    }

    /// Without what it says of rows: for a table whose rows go by themselves (TTL), where rows that are not there
    /// any more are no loss.
    #[must_use]
    pub fn without_rows(self) -> Self {
        Self { last_row_offset: None, ..self }
    }

    /// As stored.
    pub fn encode(&self) -> String {
        let mut text = format!("cvh1 t={} s={}", self.table, self.shard.0);
        if let Some(offset) = self.last_row_offset {
            write!(text, " row={offset}").expect("writing to a string");
        }
        if let Some(fingerprint) = self.fingerprint {
            write!(text, " fp={fingerprint:08x}").expect("writing to a string");
        }
        if let Some(offset) = self.fingerprint_at {
            write!(text, " at={offset}").expect("writing to a string");
        }
        text
    }

    /// `None` for anything that is not ours.
    pub fn decode(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next() != Some("cvh1") {
            return None;
        }
        let mut position = Self {
            table: String::new(),
            shard: ShardId(0),
            last_row_offset: None,
            fingerprint: None,
            fingerprint_at: None,
        };
        for word in words {
            match word.split_once('=')? {
                ("t", table) => position.table = table.to_owned(),
                ("s", shard) => position.shard = shard.parse().ok()?,
                ("row", offset) => position.last_row_offset = Some(offset.parse().ok()?),
                ("fp", hex) => position.fingerprint = Some(u32::from_str_radix(hex, 16).ok()?),
                ("at", offset) => position.fingerprint_at = Some(offset.parse().ok()?),
                _ => {} // a newer daemon's word
            }
        }
        (!position.table.is_empty()).then_some(position)
    }
}

/// A message's fingerprint: its payload and time. Two topics that differ at an offset differ here.
pub fn fingerprint(chunk: &Chunk, message: &Message) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(&message.timestamp_ms.to_le_bytes());
    hash.update(&[u8::from(message.tombstone)]);
    hash.update(chunk.payload_of(message));
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn a_position_survives_its_text() {
        let table = TableId(Uuid::from_u128(0x1f3a_9c2d << 96));
        let mut position = Position::start(table, ShardId(3));
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.last_row_offset = Some(12_344);
        position.fingerprint = Some(0x0a1b_2c3d);
        assert_eq!(position.encode(), "cvh1 t=1f3a9c2d s=3 row=12344 fp=0a1b2c3d");
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.fingerprint_at = Some(12_346);
        assert_eq!(Position::decode(&position.encode()), Some(position));
    }

    #[test]
    fn what_others_stored_is_not_taken_for_ours() {
        for text in ["", "cvh2 t=1", "cvh1", "cvh1 t=1 s=x", "cvh1 nonsense", "{\"a\":1}"] {
            assert_eq!(Position::decode(text), None, "{text:?}");
        }
    }
}
