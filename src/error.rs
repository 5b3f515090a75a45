//! Stable error codes and the one question every caller of an adapter asks: may I try again?
//!
//! Each module has its own `thiserror` enum; each variant maps to a [`Code`], listed with its remedy in
//! `docs/operations.md` (a test keeps that list complete). This module knows no module's errors.

use std::fmt;

/// Whether an effect that failed may be run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Retry {
    /// It certainly did not happen, or doing it twice is harmless: try again, with back-off.
    Safe,
    /// It will fail the same way until somebody changes something.
    Never,
    /// It may have happened (a deadline passed, a connection broke after sending): look before trying again.
    OutcomeUnknown,
}

/// A stable, documented error code, shown as `CVH-0421`. Never reused for another meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CVH-{:04}", self.0)
    }
}

/// What every error type of this crate can say about itself.
pub trait Coded: std::error::Error {
    /// The stable code.
    fn code(&self) -> Code;
    /// Whether the failed effect may be run again.
    fn retry(&self) -> Retry;
    /// What the operator can do about it, one sentence; empty if there is nothing but to wait.
    fn remedy(&self) -> &'static str;
    /// As shown to people: the code, then what is wrong (`CVH-0401: …`).
    fn told(&self) -> String {
        format!("{}: {self}", self.code())
    }
}

/// Ranges of codes, one a module, so that two modules never clash.
pub mod ranges {
    /// Names, ids, ranges, DDL rules (`model`).
    pub const MODEL: u16 = 100;
    /// Configuration files and command line.
    pub const CONFIG: u16 = 200;
    /// Metadata store.
    pub const METADATA: u16 = 300;
    /// ClickHouse.
    pub const CLICKHOUSE: u16 = 400;
    /// Kafka.
    pub const KAFKA: u16 = 500;
    /// Generated cluster files.
    pub const ROUTES: u16 = 600;
    /// Ingest: reasons why a partition or a message is held back.
    pub const INGEST: u16 = 700;
    /// Control: requests refused by the leader.
    pub const CONTROL: u16 = 800;
    /// Placement: instance files, reasons.
    pub const PLACEMENT: u16 = 900;
    /// Processes that we start (servers of the demo, managed etcd).
    pub const COMPUTE: u16 = 1000;
    /// Simulator: cases and traces.
    pub const SIMULATION: u16 = 1100;
}
