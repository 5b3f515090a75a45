//! Converthouse: the control plane that makes unmodified ClickHouse elastic.
//!
//! # Map
//! | module | what it holds |
//! |---|---|
//! | [`model`] | the field's words: ids, ranges, tables, shards, topology, operations; pure |
//! | [`error`] | stable error codes, and what may be retried |
//! | [`placement`] | where replicas and leaders should be, and a proof of how good that is; pure |
//! | [`adapters`] | one port (trait) per outside part: real side, simulated side, conformance suite |
//! | [`actors`] | thin shells round pure states; [`actors::spawn`] is the one wiring |
//! | [`api`] | gRPC and HTTP edges; converts wire types to the model and back |
//! | [`simulation`] | the production actors in virtual time over simulated adapters |
//! | [`daemon`] | real parts behind the ports, actors wired to them, servers in front |
//! | [`demo`] | the daemon and real servers on one machine, from nothing to proof |
//! | [`cli`] | one subcommand a file |
//! | [`wire`] | generated protobuf types |
//! | [`config`], [`telemetry`] | options of every component; logs, metrics |
//!
//! # The layer rule
//! `model`, `error` < `placement` and the traits of `adapters/*/mod.rs` < `actors` < `api`, `simulation`, `cli`.
//! Each layer imports only what stands before it. `tests/tidy.rs` enforces it.

pub mod actors;
pub mod adapters;
pub mod api;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod error;
pub mod model;
pub mod placement;
pub mod simulation;
pub mod telemetry;
pub mod wire;
