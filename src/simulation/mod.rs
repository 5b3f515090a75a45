//! The simulator: the production actors, wired by the same [`crate::actors::spawn`], in virtual time over simulated
//! ports. One seed and one script in, one bit-identical run out. It has no actor of its own.
//!
//! # How to write a test
//! ```
//! use converthouse::simulation::{self, NewTable, Setup};
//!
//! let setup = Setup::nodes(3).seed(7);
//! let run = simulation::run(&setup, async |cluster| {
//!     cluster.start().await?; // all daemons; one leads
//!     cluster.start_readers(2); // check ONE-EPOCH and RETIRE all the time
//!     let table = cluster.create_table(&NewTable { shards: 4, ..NewTable::named("t") }).await?;
//!     cluster.produce_everywhere(&table, 100); // messages into each partition's topic
//!     let leader = cluster.leader().expect("started");
//!     cluster.kill_daemon(leader.as_str())?; // like kill -9
//!     cluster.until("another leader", 30_000, |c| c.leader().is_some_and(|l| l != leader)).await?;
//!     cluster.heal(120_000).await // ends faults; everything must be complete and hold every message once
//! });
//! assert!(run.passed(), "{run}");
//! ```
//! - Verbs: `start_daemon`, `kill_daemon`, `stall_daemon` (a process that stands still and does not notice: a zombie
//!   when it goes on), `crash_daemon_at` (before or after the n-th change at a port), `set_clickhouse`,
//!   `set_weather` (latency, loss, unknown outcomes, partial success, cut; see [`Weather`]), `add_node`,
//!   `network().part(..)`, `server("n1")` (the simulated server with faults of its own), `kafka()`, `store()`.
//! - Time: `advance(ms)`, `until(what, within_ms, |cluster| ..)`, `until_complete(&name, within_ms)`.
//! - Looks: `view()` (the store, without faults or delay), `table_status`, `status`, `query`, `tally`, `lacking`.
//! - Requests to the cluster: `ask("do it", |daemon| async move { daemon.verb(..).await })`, tried again as a client
//!   does.
//! - Every verb that lets time pass fails as soon as a reader or a check has found a broken invariant. A panic in any
//!   actor fails the run.
//! - `run.rows` is what the leader decided and the script did, one line each; `run.digest` takes in every call of
//!   every port. [`twice`] runs a script again and compares.
//!
//! [`Weather`]: crate::adapters::faults::Weather

pub mod case;
pub mod case_file;
mod cluster;
pub mod event;
mod failure;
pub mod figures;
mod happen;
mod impossible;
mod journal;
mod judge;
mod measures;
mod node;
mod observer;
mod operate;
mod panics;
mod play;
mod process;
pub mod query;
mod readers;
pub mod report;
pub mod rows;
mod samples;
mod setup;
mod sites;
pub mod sweep;
mod sweep_wide;
pub mod trace;
mod world;

pub use crate::adapters::faults::{Crash, Weather};
pub use cluster::Cluster;
pub use failure::Failure;
pub use journal::Journal;
pub use judge::Check;
pub use measures::Measures;
pub use node::{Port, daemon_url};
pub use play::{play, play_all, play_on};
pub use readers::Tally;
pub use samples::{NodeSample, Sample, ShardSample};
pub use setup::{NewTable, NodeSaid, Sabotage, Setup};

use std::fmt;

/// What became of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The seed.
    pub seed: u64,
    /// Why it failed, if it did.
    pub failure: Option<String>,
    /// Every broken invariant.
    pub violations: Vec<String>,
    /// Decisions and verbs, one line each.
    pub rows: Vec<String>,
    /// Events of all kinds.
    pub events: u64,
    /// Over all events, their times and endings.
    pub digest: u64,
    /// Virtual time at the end.
    pub virtual_ms: u64,
    /// How the readers' queries ended.
    pub tally: Tally,
    /// What was measured.
    pub measures: Measures,
    /// From the last event until no replica and no leadership changed any more.
    pub settle_ms: u64,
    /// What was expected, beside what was measured.
    pub checks: Vec<Check>,
    /// What it looked like from time to time.
    pub samples: Vec<Sample>,
}

impl Run {
    /// How much nodes' replicas went up and down against their trend, in hundredths of the range.
    pub fn thrash_percent(&self) -> u64 {
        measures::thrash_percent(&self.samples)
    }

    /// Whether nothing went wrong.
    pub fn passed(&self) -> bool {
        self.failure.is_none() && self.violations.is_empty()
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|row| writeln!(f, "{row}"))?;
        self.violations.iter().try_for_each(|violation| writeln!(f, "violation: {violation}"))?;
        let ended = self.failure.as_ref().map_or_else(|| "passed".to_owned(), |why| format!("failed: {why}"));
        let queries: Vec<String> =
            self.tally.iter().map(|(ending, count)| format!("{count} {ending}")).collect();
        writeln!(
            f,
            "seed {} {}, {} events, digest {:016x}, queries: {}; {ended}",
            self.seed,
            rows::stamp(self.virtual_ms),
            self.events,
            self.digest,
            if queries.is_empty() { "none".to_owned() } else { queries.join(", ") }
        )
    }
}

/// What the failure of a run begins with in which an actor panicked.
const PANICKED: &str = "an actor panicked: ";

/// Runs a script on a cluster of its own, in virtual time, on this thread.
pub fn run(setup: &Setup, script: impl AsyncFnOnce(&Cluster) -> Result<(), Failure>) -> Run {
    panics::collect();
    let system = actix::System::with_tokio_rt(|| {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().expect("a runtime without sockets needs nothing")
    });
    let mut run = system.block_on(async {
        let cluster = Cluster::new(setup);
        let failure = script(&cluster).await.err().map(|failure| failure.to_string());
        let journal = cluster.journal();
        let (events, digest) = journal.digest();
        let run = Run {
            seed: setup.seed,
            failure,
            violations: journal.violations(),
            rows: journal.rows(),
            events,
            digest,
            virtual_ms: cluster.now_ms(),
            tally: cluster.tally(),
            measures: cluster.measures(),
            settle_ms: cluster.0.settle_ms.get(),
            checks: cluster.0.checks.borrow().clone(),
            samples: cluster.samples(),
        };
        for id in cluster.node_ids() {
            // Its name was just asked for.
            let _ = cluster.kill_daemon(id.as_str());
        }
        run
    });
    drop(system);
    if let Some(panic) = panics::collected().into_iter().next() {
        // What else failed may have come of it.
        let besides = run.failure.take().map_or_else(String::new, |failure| format!("; {failure}"));
        run.failure = Some(format!("{PANICKED}{panic}{besides}"));
    }
    run
}

/// Runs a script twice; a difference is a failure of the first run.
pub fn twice(setup: &Setup, script: impl AsyncFn(&Cluster) -> Result<(), Failure>) -> Run {
    let mut first = run(setup, &script);
    let second = run(setup, &script);
    if first != second {
        let differ = first.rows.iter().zip(&second.rows).find(|(one, other)| one != other);
        let place =
            differ.map_or_else(|| "in no row".to_owned(), |(one, other)| format!("{one:?} / {other:?}"));
        first.failure.get_or_insert(format!("the second run differs: {place}"));
    }
    first
}
