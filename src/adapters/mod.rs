//! Ports: one trait per outside part, its verbs ours. Each folder holds the trait (`mod.rs`), the real side, the
//! simulated side and the conformance suite that both pass.
//!
//! Only here may code look at the wall clock, start threads or do I/O: clippy.toml's bans are lifted.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros)]

mod balance_wire;
pub mod clickhouse;
pub mod clock;
pub mod compute;
pub mod faults;
pub mod kafka;
pub mod machine;
pub mod metadata;
pub mod offload;
mod operation_wire;
pub mod peers;
pub mod recording;
pub mod routes;
mod schema_wire;
