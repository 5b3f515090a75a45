//! What a case expects, and whether it came so: every expectation beside what was measured. Pure but for asking.

use super::case::{Case, Span};
use super::cluster::Cluster;
use super::failure::Failure;
use super::measures::{self, Measures};
use super::samples::Sample;
use super::world::Size;
use crate::model::table::ShardState;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Fewest and most.
pub type Band = (u64, u64);

/// What must hold. Times and counts are from the moment that the tables stand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// Once faults have ended, everything is complete and every message in every replica within this.
    pub heals_within: Option<Span>,
    /// From the last event on, until no replica and no leadership changes any more, before faults end.
    pub settled_within: Option<Span>,
    /// Judge bands, spreads and moves as they are when faults end, not after everything was repaired.
    pub before_repair: bool,
    /// So many of a hundred queries get their answer, at least.
    pub answered_percent_min: Option<u64>,
    /// Time that shards are led by a node that is not live, summed over shards, at most.
    pub leaderless_max: Option<Span>,
    /// Time that shards have no ready replica on a live node, summed over shards, at most.
    pub dark_max: Option<Span>,
    /// Time that shards have fewer ready replicas on live nodes than wanted, summed over shards, at most.
    pub under_replicated_max: Option<Span>,
    /// Topologies published, at most.
    pub epochs_max: Option<u64>,
    /// Leaderships that change, at most.
    pub leader_changes_max: Option<u64>,
    /// Replicas that are added, at most.
    pub moves_max: Option<u64>,
    /// Of those, beyond what the nodes' gains ask for, at most.
    pub redundant_moves_max: Option<u64>,
    /// Bytes that come with copies, at most.
    pub copied_bytes_max: Option<Size>,
    /// What the case asks the cluster for and is refused, at most.
    pub refused_max: Option<u64>,
    /// How much nodes' replicas go up and down against their trend, in hundredths of the range, at most.
    pub thrash_percent_max: Option<u64>,
    /// Replicas on the fullest node over the mean, by weight, in thousandths, at most.
    pub replica_spread_milli_max: Option<u64>,
    /// The same for leaderships.
    pub leader_spread_milli_max: Option<u64>,
    /// The same for the replicas of the table that is spread worst.
    pub table_spread_milli_max: Option<u64>,
    /// The same for bytes.
    pub byte_spread_milli_max: Option<u64>,
    /// The share of all bytes on the node that holds most, in thousandths, at most.
    pub byte_share_milli_max: Option<u64>,
    /// How full the fullest disk is, in thousandths, at most.
    pub disk_milli_max: Option<u64>,
    /// Messages that the worst readable replica lacks when faults end, at most.
    pub lag_max: Option<u64>,
    /// A plan that is made at the end is empty.
    pub plan_is_empty: bool,
    /// Replicas on a node: fewest and most.
    pub replicas: BTreeMap<String, Band>,
    /// Shards that a node leads: fewest and most.
    pub leaders: BTreeMap<String, Band>,
    /// Replicas on each node that `replicas` does not name.
    pub replicas_each: Option<Band>,
    /// Shards that each node leads that `leaders` does not name.
    pub leaders_each: Option<Band>,
    /// Shards of a table that queries are sent to: fewest and most.
    pub shards: BTreeMap<String, Band>,
}

/// One expectation, and what came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was expected.
    pub what: String,
    /// What was measured.
    pub measured: u64,
    /// Fewest and most.
    pub band: Band,
}

impl Check {
    /// Whether it came so.
    pub fn holds(&self) -> bool {
        (self.band.0..=self.band.1).contains(&self.measured)
    }
}

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, measured, band } = self;
        match *band {
            (0, max) => write!(f, "{what}: {measured}, at most {max} expected"),
            (min, u64::MAX) => write!(f, "{what}: {measured}, at least {min} expected"),
            (min, max) => write!(f, "{what}: {measured}, {min} to {max} expected"),
        }
    }
}

/// What is judged: measures, the cluster as it stands, and what came before.
pub(super) struct Seen {
    pub measures: Measures,
    pub last: Sample,
    pub samples: Vec<Sample>,
    /// Serving shards of each table.
    pub shards: BTreeMap<String, u64>,
}

impl Seen {
    fn most(&self, of: impl Fn(&super::NodeSample) -> u64) -> u64 {
        self.last.nodes.values().map(of).max().unwrap_or(0)
    }

    /// The share of the node that holds most of the bytes, in thousandths.
    pub fn byte_share_milli(&self) -> u64 {
        let all: u64 = self.last.nodes.values().map(|node| node.bytes).sum();
        (self.most(|node| node.bytes) * 1_000).checked_div(all).unwrap_or(0)
    }

    fn byte_spread_milli(&self) -> u64 {
        self.byte_share_milli() * self.last.nodes.len() as u64
    }

    fn disk_milli(&self) -> u64 {
        self.most(|node| (node.disk_used_bytes * 1_000).checked_div(node.disk_bytes).unwrap_or(0))
    }
}

impl Expect {
    /// Every expectation beside what was seen, but for those that have to be asked for.
    pub(super) fn checks(&self, seen: &Seen, healed_ms: u64, settle_ms: u64, percent: u64) -> Vec<Check> {
        let m = &seen.measures;
        let span = |span: Option<Span>| span.map(|span| span.0);
        let at_most = [
            ("milliseconds to heal", healed_ms, span(self.heals_within)),
            ("milliseconds to settle", settle_ms, span(self.settled_within)),
            ("leaderless shard-milliseconds", m.leaderless_shard_ms, span(self.leaderless_max)),
            ("shard-milliseconds without a live copy", m.dark_shard_ms, span(self.dark_max)),
            (
                "under-replicated shard-milliseconds",
                m.under_replicated_shard_ms,
                span(self.under_replicated_max),
            ),
            ("epochs", m.epochs, self.epochs_max),
            ("leader changes", m.leader_changes, self.leader_changes_max),
            ("replicas added", m.replicas_added, self.moves_max),
            ("redundant moves", m.redundant_moves(), self.redundant_moves_max),
            ("bytes copied", m.copied_bytes, self.copied_bytes_max.map(|size| size.0)),
            ("requests that were refused", m.refused, self.refused_max),
            ("thrash in percent", measures::thrash_percent(&seen.samples), self.thrash_percent_max),
            ("replica spread in thousandths", m.replica_spread_milli, self.replica_spread_milli_max),
            ("leader spread in thousandths", m.leader_spread_milli, self.leader_spread_milli_max),
            ("worst table's spread in thousandths", m.table_spread_milli, self.table_spread_milli_max),
            ("byte spread in thousandths", seen.byte_spread_milli(), self.byte_spread_milli_max),
            ("largest share of bytes in thousandths", seen.byte_share_milli(), self.byte_share_milli_max),
            ("fullest disk in thousandths", seen.disk_milli(), self.disk_milli_max),
            // Where it was not looked at nobody can say that it is small.
            ("messages that a readable replica lacks", seen.last.lag.unwrap_or(u64::MAX), self.lag_max),
        ];
        let check = |what: String, measured, band| Check { what, measured, band };
        let mut checks: Vec<Check> = at_most
            .into_iter()
            .filter_map(|(what, value, max)| Some(check(what.to_owned(), value, (0, max?))))
            .collect();
        if let Some(min) = self.answered_percent_min {
            checks.push(check("percent of queries answered".into(), percent, (min, u64::MAX)));
        }
        let bands =
            [("replicas", &self.replicas, self.replicas_each), ("leaders", &self.leaders, self.leaders_each)];
        for (what, named, each) in bands {
            let known = seen.last.nodes.keys().map(|id| id.to_string());
            let missing = named.keys().filter(|name| !seen.last.nodes.keys().any(|id| id.as_str() == **name));
            for node in known.chain(missing.cloned()) {
                let Some(band) = named.get(&node).copied().or(each) else { continue };
                let held = seen.last.nodes.iter().find(|(id, _)| id.as_str() == node);
                let held = held.map(|(_, node)| node.clone()).unwrap_or_default();
                let measured = if what == "replicas" { held.replicas } else { held.leaders };
                checks.push(check(format!("{what} on {node}"), measured, band));
            }
        }
        for (table, band) in &self.shards {
            let measured = seen.shards.get(table).copied().unwrap_or(0);
            checks.push(check(format!("shards of {table}"), measured, *band));
        }
        checks
    }
}

impl Cluster {
    /// What is to be judged, as it is now.
    pub(super) fn seen(&self) -> Seen {
        let view = self.view();
        let serving =
            |table| view.shards_of(table).filter(|shard| shard.state == ShardState::Serving).count();
        let tables = view.tables.values().map(|table| &table.record);
        let shards = tables.map(|table| (table.name.table.clone(), serving(table.id) as u64)).collect();
        Seen { measures: self.measures(), last: self.sample(), samples: self.samples(), shards }
    }

    /// Judges what was seen.
    pub(super) async fn judge(
        &self,
        case: &Case,
        seen: &Seen,
        (healed_ms, settle_ms): (u64, u64),
    ) -> Result<(), Failure> {
        let tally = self.tally();
        let answered = tally.get("answered").copied().unwrap_or(0);
        let percent = (answered * 100).checked_div(tally.values().sum()).unwrap_or(100);
        let mut checks = case.expect.checks(seen, healed_ms, settle_ms, percent);
        if case.expect.plan_is_empty {
            let plan = self.ask("make a plan", |daemon| async move { daemon.make_plan().await }).await?;
            let left = (plan.moves.len() + plan.splits.len()) as u64;
            checks.push(Check {
                what: "steps of a plan made at the end".into(),
                measured: left,
                band: (0, 0),
            });
        }
        let failed: Vec<String> =
            checks.iter().filter(|check| !check.holds()).map(Check::to_string).collect();
        self.0.checks.replace(checks);
        if failed.is_empty() {
            return Ok(());
        }
        Err(self.failure(failed.join("; ") + &self.under_way().await))
    }
}
