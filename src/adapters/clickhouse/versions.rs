//! What a server version can do: the one place that decides it, so that nothing else compares versions.
//!
//! Thresholds are the first release known to have a feature or a later one: without it everything still works.
//! Only 18.16.1 and 26.9 are run in tests. An unreadable version counts as the oldest.

/// What one server can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// `CODEC(…)` on columns, and `system.columns.compression_codec`.
    pub codecs: bool,
    /// `throwIf` takes a message.
    pub throw_message: bool,
    /// Fields that a JSON row leaves out get the column's `DEFAULT` (`input_format_defaults_for_omitted_fields`).
    /// Older servers give the type's empty value over HTTP, so there a guard must be `MATERIALIZED` to be
    /// evaluated; newer ones refuse a materialized view that writes into a `MATERIALIZED` column.
    pub defaults_for_omitted: bool,
    /// `input_format_parallel_parsing`, which cuts one body into several blocks and must be switched off.
    pub parallel_parsing: bool,
    /// `max_partitions_per_insert_block`, 100 by default, which a late batch may exceed.
    pub partitions_per_insert: bool,
    /// `async_insert`, which acknowledges what is not yet in the table and must be switched off.
    pub async_insert: bool,
    /// `DROP … SYNC`: returns when nothing uses the table any more. Older servers always do.
    pub drop_sync: bool,
    /// `EXCHANGE TABLES`.
    pub exchange: bool,
    /// `system.disks`, and that tables tell `data_paths`.
    pub disks: bool,
    /// That `system.disks` tells which are encrypted.
    pub encrypted_disks: bool,
    /// `queryID()`.
    pub query_id: bool,
    /// `insert_deduplication_token` with `non_replicated_deduplication_window`.
    pub deduplication_token: bool,
    /// The settings `limit` and `offset`, which cut every answer, and `read_overflow_mode_leaf`.
    pub limit_setting: bool,
    /// `use_query_cache`, by which an answer may be one from before.
    pub query_cache: bool,
}

/// A release: year and number. What one wrote, it and later ones read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Release(u32, u32);

impl Release {
    /// By `SELECT version()`.
    pub fn of(version: &str) -> Self {
        let mut numbers = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        Self(numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
    }
}

impl Capabilities {
    /// Decides by `SELECT version()`, such as `18.16.1` or `26.9.2.1`.
    pub fn of(version: &str) -> Self {
        let at = Release::of(version);
        let since = |year, release| at >= Release(year, release);
        Self {
            codecs: since(20, 1),
            throw_message: since(20, 1),
            defaults_for_omitted: since(20, 1),
            parallel_parsing: since(20, 1),
            partitions_per_insert: since(20, 1),
            async_insert: since(22, 1),
            drop_sync: since(21, 1),
            exchange: since(21, 1),
            disks: since(20, 1),
            encrypted_disks: since(21, 10),
            query_id: since(21, 10),
            deduplication_token: since(22, 3),
            limit_setting: since(21, 3),
            query_cache: since(23, 5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_server_has_nothing_new_and_the_new_one_everything() {
        let old = Capabilities::of("18.16.1");
        let new = Capabilities::of("26.9.2.1");
        assert!(!old.codecs && !old.drop_sync && !old.exchange && !old.deduplication_token);
        assert!(new.codecs && new.drop_sync && new.exchange && new.deduplication_token);
        assert_eq!(Capabilities::of("nonsense"), old);
        assert_eq!(Capabilities::of(""), old);
        assert!(!Capabilities::of("21.8.15.7").async_insert && Capabilities::of("21.8.15.7").drop_sync);
    }
}
