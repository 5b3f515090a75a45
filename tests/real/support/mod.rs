//! Start-up code that themes share, one module a server; and what the proof does with whole clusters.

pub mod blackout;
pub mod certificates;
pub mod clickhouse;
pub mod cluster;
pub mod disk;
pub mod etcd;
pub mod floors;
pub mod kafka;
pub mod link;
pub mod links;
pub mod producer;
pub mod readers;
