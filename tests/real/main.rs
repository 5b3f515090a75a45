//! Tests against real servers: ClickHouse, etcd, Kafka, Prometheus. One module a theme, one module a line, in order.
//!
//! `scripts/provision.sh` (run by `make test`) sets up what they need; each test starts its own servers on
//! 127.0.0.1, on free ports, in a folder of its own, and ends them.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros
)]

mod clickhouse;
mod clickhouse_current;
mod clickhouse_faults;
mod credentials;
mod dashboards;
mod demo;
mod elastic;
mod faults;
mod formats;
mod history;
mod imports;
mod ingest;
mod kafka;
mod leaving;
mod metadata;
mod metadata_faults;
mod offsets;
mod parts;
mod provisioned;
mod pruning;
mod refusals;
mod restored;
mod secure;
mod seeding;
mod stalls;
mod standalone;
mod steering;
mod support;
mod trace_import;
mod upkeep;
mod verify;
