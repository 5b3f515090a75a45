//! A case: a world, what happens to it and when, and what must hold. Read from a file or drawn by a sweep.

use super::event::Event;
use super::setup::Setup;

pub use super::impossible::{Part, Wrong};
pub use super::judge::Expect;
pub use super::world::{NodeSpec, PolicySpec, Size, TableSpec, WorldSpec};
use crate::actors::Options;
use crate::actors::table::decide::Rules;
use serde::{Deserialize, Serialize};

/// A length of virtual time, in files as `250ms`, `5s`, `3m`, `2h` or `1d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(pub u64);

const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl TryFrom<String> for Span {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(digits);
        let wrong = || format!("{text:?} is no length of time: write 250ms, 5s, 3m, 2h or 1d");
        let (_, unit_ms) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        number.checked_mul(*unit_ms).map(Self).ok_or_else(wrong)
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        let fits = |(_, unit_ms): &&(&str, u64)| span.0.is_multiple_of(*unit_ms);
        let (name, unit_ms) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        format!("{}{name}", span.0 / unit_ms)
    }
}

/// An event and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timed {
    /// After the tables stand.
    pub at: Span,
    /// What.
    pub event: Event,
}

/// Why a case is known to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where that is told.
    pub is: String,
    /// What its failure, and each invariant that it breaks, says.
    pub fails_with: String,
}

/// A case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Case {
    /// Short name.
    pub name: String,
    /// What it shows.
    pub about: String,
    /// All randomness comes from it.
    pub seed: u64,
    /// Fails for a known reason; it then must fail, and so.
    pub issue: Option<Issue>,
    /// The world.
    pub world: WorldSpec,
    /// Nodes that differ from the others.
    pub nodes: Vec<NodeSpec>,
    /// Numbers that differ from the defaults.
    pub policy: PolicySpec,
    /// Tables.
    pub tables: Vec<TableSpec>,
    /// What happens, in the order of time.
    pub events: Vec<Timed>,
    /// When faults end and the cluster must heal.
    pub faults_end: Span,
    /// What must hold.
    pub expect: Expect,
}

impl Case {
    /// The cluster's beginning.
    pub fn setup(&self) -> Setup {
        // A case's load is small: what counts as far behind is in proportion.
        let rules = Rules { caught_up_lag_max: 200, behind_lag_min: 2_000, ..Options::default().rules };
        let mut options = Options { rules, ..Options::default() };
        self.policy.apply(&mut options);
        Setup {
            zones: self.world.zones,
            capacity_bytes: self.world.capacity.0,
            nodes_said: self.nodes.iter().map(|node| (node.name.clone(), node.said())).collect(),
            weather: self.world.weather.weather(),
            options,
            ..Setup::nodes(self.world.nodes).seed(self.seed)
        }
    }
}
