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
#[allow(dead_code)] // for the proof, which shares this folder
pub mod namespace;
pub mod producer;
pub mod readers;
#[allow(dead_code)] // for the proof, which shares this folder
pub mod standalone;

/// A test cannot run for want of something. In CI that is a failure; elsewhere it is said past the capture of tests'
/// output, and `make test` counts such a test as skipped.
pub fn missing(what: &str) {
    use std::io::Write;
    let name = std::thread::current().name().unwrap_or("a test").to_owned();
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci.is_empty() || ci == "false"),
        "in CI nothing is skipped: {what}"
    );
    // Not `eprintln!`: that is what is captured.
    std::io::stderr().write_all(format!("SKIPPED: {name}: {what}\n").as_bytes()).unwrap();
}
