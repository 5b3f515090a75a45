//! Start-up code that themes share.

pub mod clickhouse;
