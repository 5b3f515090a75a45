//! Ingest rules that need no I/O: how many consumers a node runs (H7), and how old its batches grow.

/// What one consumer takes in a day, in bytes: 360 GB, the seed document's figure.
pub const CONSUMER_DAILY_BYTES: u64 = 360_000_000_000;

/// How many consumers (lanes) a table wants for `partitions` partitions of `daily_bytes` each, and never more
/// than it has shards. From the seed document's table: 10 partitions of 360 GB/day want 10 consumers, of
/// 160 GB/day 5 consumers with 2 partitions each.
pub fn consumers(partitions: u32, daily_bytes: u64, shards: u32) -> u32 {
    if partitions == 0 || shards == 0 {
        return 0;
    }
    let each = (CONSUMER_DAILY_BYTES / daily_bytes.max(1)).clamp(1, u64::from(partitions));
    let each = u32::try_from(each).expect("clamped to a u32");
    partitions.div_ceil(each).min(shards)
}

/// What a node holds of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Held {
    /// Partitions.
    pub partitions: u32,
    /// Shards that they lie in.
    pub shards: u32,
}

/// How many consumers (lanes) a node runs for what it holds: as many as its tables want by [`consumers`], at least
/// one, at most `lanes_max`.
pub fn lanes(tables: impl IntoIterator<Item = Held>, daily_bytes: u64, lanes_max: u32) -> u32 {
    let wanted = tables.into_iter().map(|held| consumers(held.partitions, daily_bytes, held.shards));
    wanted.fold(0, u32::saturating_add).clamp(1, lanes_max.max(1))
}

/// How old a node lets a batch of a table grow before it inserts it.
///
/// Each partition is an insert of its own, and ClickHouse wants few: `partitions` on the node share `inserts_per_s`,
/// so batches of busy nodes grow older than the table asks. Not older than `age_max_ms`, though: rows that come
/// late are seen by users, inserts beyond the budget only by the server.
pub fn batch_age_ms(table_age_ms: u64, partitions: u32, inserts_per_s: u32, age_max_ms: u64) -> u64 {
    let spread_ms = u64::from(partitions) * 1_000 / u64::from(inserts_per_s.max(1));
    table_age_ms.max(spread_ms.min(age_max_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_follow_what_the_node_holds() {
        let gb = 1_000_000_000;
        let of = |tables: &[(u32, u32)]| {
            let held =
                tables.iter().map(|(partitions, shards)| Held { partitions: *partitions, shards: *shards });
            lanes(held, 36 * gb, 8)
        };
        assert_eq!(of(&[]), 1, "the first table need not wait for one");
        assert_eq!(of(&[(10, 1)]), 1);
        assert_eq!(of(&[(64, 16)]), 7);
        assert_eq!(of(&[(64, 2)]), 2, "never more consumers than shards");
        assert_eq!(of(&[(10, 1), (20, 4)]), 3, "tables add up");
        assert_eq!(of(&[(1024, 64)]), 8, "the operator's limit");
    }

    #[test]
    fn batches_grow_older_with_partitions_up_to_a_limit() {
        assert_eq!(batch_age_ms(1_000, 8, 20, 10_000), 1_000);
        assert_eq!(batch_age_ms(1_000, 64, 20, 10_000), 3_200);
        assert_eq!(batch_age_ms(1_000, 1024, 20, 10_000), 10_000);
        assert_eq!(batch_age_ms(30_000, 1024, 20, 10_000), 30_000, "what a table asks for itself it gets");
    }

    #[test]
    fn consumers_follow_the_seed_documents_table() {
        let gb = 1_000_000_000;
        assert_eq!(consumers(10, 360 * gb, 10), 10);
        assert_eq!(consumers(10, 160 * gb, 10), 5);
        assert_eq!(consumers(10, 360 * gb, 4), 4, "more consumers than shards gain nothing");
        assert_eq!(consumers(10, 3_600 * gb, 10), 10, "a partition is never shared");
        assert_eq!(consumers(1024, 0, 64), 1);
        assert_eq!(consumers(0, gb, 3), 0);
    }
}
