//! Ingest rules that need no I/O: how many consumers a node runs (H7).

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

#[cfg(test)]
mod tests {
    use super::*;

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
