//! The replica: consumes its partitions and writes them to the local table, each row once.
//!
//! So far only the pure part that turns messages into rows.

pub mod encode;
