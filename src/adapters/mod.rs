//! Ports: one trait per outside part, its verbs ours. Each folder holds the trait (`mod.rs`), the real side, the
//! simulated side and the conformance suite that both pass.
//!
//! Only here may code look at the wall clock, start threads or do I/O.

pub mod clickhouse;
pub mod clock;
pub mod compute;
pub mod kafka;
pub mod metadata;
pub mod peers;
pub mod routes;
