//! What a node records in Kafka beside a partition's next offset, so that a later look can tell a table that lost
//! rows, a topic that was made anew, and the leftovers of another table, or of an earlier copy of the same shard, from
//! the real thing.
//!
//! Pure. The text form is one short line, versioned: `cvh1 t=1f3a9c2d s=3 l=7 row=12344 fp=0a1b2c3d`, with ` at=12345`
//! where the fingerprint is of an earlier message than the one right before the position, and without ` l=` for the
//! copies that a shard began with. ` safe=12000 boot=5d6e7f80` tells what outlives the power, and is not there in what
//! older daemons recorded.

use crate::adapters::kafka::{Chunk, Message};
use crate::adapters::machine::Boot;
use crate::model::table::Shard;
use crate::model::{Epoch, NodeId, ShardId, TableId};
use std::fmt::Write;

/// The metadata of a committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// First eight hex digits of the table that took the messages.
    pub table: String,
    /// Its shard.
    pub shard: ShardId,
    /// Which life of its replica: the shard's epoch when the node was given it. A node that had the shard before has
    /// recorded how far that copy had come, which says nothing of this one.
    pub life: Epoch,
    /// The highest offset whose rows were put into the table, if any were.
    pub last_row_offset: Option<i64>,
    /// Fingerprint of the last message below the committed offset.
    pub fingerprint: Option<u32>,
    /// That message's offset; `None`: the committed offset less one.
    pub fingerprint_at: Option<i64>,
    /// All messages below have been in the table for a minute at least, or never were rows: on the disk whatever
    /// becomes of the machine.
    pub safe: Option<i64>,
    /// The start of the machine in which it was recorded, if that was known. Where another runs now, the table may
    /// have holes from `safe` on.
    pub boot: Option<Boot>,
}

impl Position {
    /// A position of that replica at the start of history.
    pub fn start(table: TableId, shard: ShardId, life: Epoch) -> Self {
        Self {
            table: table.short(),
            shard,
            life,
            last_row_offset: None,
            fingerprint: None,
            fingerprint_at: None,
            safe: None,
            boot: None,
        }
    }

    /// Whether the machine was started since, or is another. Never told where one of both starts is not known.
    pub fn is_before(&self, boot: Option<Boot>) -> bool {
        matches!((self.boot, boot), (Some(then), Some(now)) if then != now)
    }

    /// Whether it tells how far the shard's replica on that node has come: recorded by itself, or by a parent or one
    /// before it, which it began as. Never by a child: that goes on where the parent has stopped.
    pub fn tells_of(&self, shard: &Shard, node: &NodeId) -> bool {
        let began_as = || shard.parents.iter().chain(&shard.ancestors).any(|one| *one == self.shard);
        self.is_of(shard, node) || (self.table == shard.table.short() && began_as())
    }

    /// Whether the shard's replica on that node has recorded it itself, or it came with its copy.
    pub fn is_of(&self, shard: &Shard, node: &NodeId) -> bool {
        self.table == shard.table.short() && self.shard == shard.id && self.life == shard.life_on(node)
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
        if self.life != Epoch(0) {
            write!(text, " l={}", self.life.0).expect("writing to a string");
        }
        if let Some(offset) = self.last_row_offset {
            write!(text, " row={offset}").expect("writing to a string");
        }
        if let Some(fingerprint) = self.fingerprint {
            write!(text, " fp={fingerprint:08x}").expect("writing to a string");
        }
        if let Some(offset) = self.fingerprint_at {
            write!(text, " at={offset}").expect("writing to a string");
        }
        if let Some(offset) = self.safe {
            write!(text, " safe={offset}").expect("writing to a string");
        }
        if let Some(boot) = self.boot {
            write!(text, " boot={boot}").expect("writing to a string");
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
            life: Epoch(0),
            last_row_offset: None,
            fingerprint: None,
            fingerprint_at: None,
            safe: None,
            boot: None,
        };
        for word in words {
            match word.split_once('=')? {
                ("t", table) => position.table = table.to_owned(),
                ("s", shard) => position.shard = shard.parse().ok()?,
                ("l", life) => position.life = Epoch(life.parse().ok()?),
                ("row", offset) => position.last_row_offset = Some(offset.parse().ok()?),
                ("fp", hex) => position.fingerprint = Some(u32::from_str_radix(hex, 16).ok()?),
                ("at", offset) => position.fingerprint_at = Some(offset.parse().ok()?),
                ("safe", offset) => position.safe = Some(offset.parse().ok()?),
                ("boot", hex) => position.boot = Some(Boot::parse(hex)?),
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
        let mut position = Position::start(table, ShardId(3), Epoch(0));
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.last_row_offset = Some(12_344);
        position.fingerprint = Some(0x0a1b_2c3d);
        assert_eq!(position.encode(), "cvh1 t=1f3a9c2d s=3 row=12344 fp=0a1b2c3d");
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.fingerprint_at = Some(12_346);
        position.life = Epoch(7);
        assert_eq!(position.encode(), "cvh1 t=1f3a9c2d s=3 l=7 row=12344 fp=0a1b2c3d at=12346");
        assert_eq!(Position::decode(&position.encode()), Some(position.clone()));
        position.safe = Some(12_000);
        position.boot = Some(Boot(0x0d6e_7f80));
        let text = "cvh1 t=1f3a9c2d s=3 l=7 row=12344 fp=0a1b2c3d at=12346 safe=12000 boot=0d6e7f80";
        assert_eq!(position.encode(), text);
        assert_eq!(Position::decode(text), Some(position));
    }

    #[test]
    fn what_an_older_daemon_recorded_tells_no_start_of_the_machine() {
        let older = Position::decode("cvh1 t=1f3a9c2d s=3 row=12344 fp=0a1b2c3d").unwrap();
        assert_eq!((older.safe, older.boot), (None, None));
        assert!(!older.is_before(Some(Boot(1))));
        let known = Position { boot: Some(Boot(1)), ..older };
        assert!(known.is_before(Some(Boot(2))));
        assert!(!known.is_before(Some(Boot(1))) && !known.is_before(None));
    }

    #[test]
    fn a_position_tells_of_the_copy_that_recorded_it_and_of_what_was_made_of_it() {
        let (table, node) = (TableId(Uuid::nil()), "n1".parse::<NodeId>().unwrap());
        let range = crate::model::PartitionRange::new(0, 4).unwrap();
        let mut shard = Shard::new(table, ShardId(3), range, [node.clone()]);
        shard.parents = vec![ShardId(1)];
        shard.ancestors = vec![ShardId(0)];
        shard.replicas[0].since = Epoch(7);
        let tells = |id, life| Position::start(table, ShardId(id), Epoch(life)).tells_of(&shard, &node);
        assert!(tells(3, 7) && tells(1, 0) && tells(1, 5) && tells(0, 0));
        assert!(!tells(3, 0), "of a copy that the node had before");
        assert!(!tells(4, 0), "of a child, or of anything else");
        let other = Position { table: "ffffffff".into(), ..Position::start(table, ShardId(3), Epoch(7)) };
        assert!(!other.tells_of(&shard, &node));
    }

    #[test]
    fn what_others_stored_is_not_taken_for_ours() {
        for text in ["", "cvh2 t=1", "cvh1", "cvh1 t=1 s=x", "cvh1 t=1 boot=x", "cvh1 nonsense", "{\"a\":1}"]
        {
            assert_eq!(Position::decode(text), None, "{text:?}");
        }
    }
}
