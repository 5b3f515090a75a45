//! Processes that we start: ClickHouse servers of the demo and the tests, managed etcd members, Kafka brokers.
//!
//! [`process`] starts, watches and ends one child process. Whoever knows a server's flags and configuration builds
//! on it (here: [`etcd_member`]); nothing in this module knows more than one process at a time.

pub mod clickhouse_server;
pub mod etcd_member;
pub mod kafka_broker;
pub mod process;
