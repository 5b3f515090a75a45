//! How a plan is looked for on a trace: engine, placement policy, the balancer's numbers. From a file, or the defaults.

use super::Error;
use crate::actors::Options;
use crate::actors::balance::pursue::Towards;
use crate::model::balance::{BalanceRules, Planner};
use crate::placement::{Limits, Policy, Proposal, Snapshot, toward, try_plan};
use crate::simulation::case::PolicySpec;
use crate::simulation::case_file::line_at;
use serde::Deserialize;
use std::path::Path;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct How {
    /// What placement aims at.
    pub placement: Policy,
    /// The balancer's numbers, and who looks for plans.
    pub balance: BalanceRules,
    /// How long a node may be down before its replicas are rebuilt elsewhere.
    pub down_after_ms: u64,
}

impl Default for How {
    fn default() -> Self {
        Self::of(Policy::default(), &PolicySpec::default())
    }
}

/// A file: `[policy]` as in a case, `[placement]` as placement's own words.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Document {
    policy: PolicySpec,
    placement: Policy,
}

impl How {
    fn of(placement: Policy, policy: &PolicySpec) -> Self {
        let mut options = Options::default();
        policy.apply(&mut options);
        let Options { rules, balance, .. } = options;
        Self { placement, balance, down_after_ms: rules.down_after_ms }
    }

    /// The same with plans looked for by another engine.
    #[must_use]
    pub fn by(&self, planner: Planner) -> Self {
        Self { balance: BalanceRules { planner, ..self.balance }, ..self.clone() }
    }

    /// From a policy file.
    ///
    /// # Errors
    /// It cannot be read, or what is wrong in which line.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| super::file_error(path, &error))?;
        Self::parse(&file, &text)
    }

    fn parse(file: &str, text: &str) -> Result<Self, Error> {
        let wrong = |line, reason| Error::Policy { file: file.to_owned(), line, reason };
        let document: Document = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| line_at(text, span.start));
            wrong(line, error.message().to_owned())
        })?;
        let line = |key: &str| {
            text.lines().position(|line| line.trim_start().starts_with(key)).map_or(1, |at| at + 1)
        };
        match impossible(&document.placement) {
            Some((key, reason)) => Err(wrong(line(key), format!("{key}: {reason}"))),
            None => Ok(Self::of(document.placement, &document.policy)),
        }
    }

    /// The way to where an earlier proposal led, as long as that keeps the rules and is not reached; then as
    /// [`How::propose`].
    ///
    /// # Errors
    /// As that.
    pub fn resume(&self, snapshot: &Snapshot, limits: &Limits, towards: &Towards) -> Result<Proposal, Error> {
        let pursued = toward(snapshot, &self.placement, limits, towards);
        pursued.map_or_else(|| self.propose(snapshot, limits), Ok)
    }

    /// What the engine proposes for a cluster, within the work that the leader gives it.
    ///
    /// # Errors
    /// It does not take the cluster.
    pub fn propose(&self, snapshot: &Snapshot, limits: &Limits) -> Result<Proposal, Error> {
        try_plan(snapshot, &self.placement, limits).map_err(Error::Impossible)
    }
}

/// A key whose number makes no sense, and why.
fn impossible(policy: &Policy) -> Option<(&'static str, &'static str)> {
    let weights = policy.weights;
    let named = [
        ("replicas", weights.replicas),
        ("leaders", weights.leaders),
        ("bytes", weights.bytes),
        ("moved", weights.moved),
        ("copies", weights.copies),
        ("leader_changes", weights.leader_changes),
        ("per_table", weights.per_table),
        ("writes", weights.writes),
        ("reads", weights.reads),
        ("hysteresis", policy.hysteresis),
    ];
    if !(policy.watermark > 0.0 && policy.watermark <= 1.0) {
        return Some(("watermark", "it is a share of the disk, above 0 and at most 1"));
    }
    let bad = named.iter().find(|(_, number)| !(0.0..=1e6).contains(number));
    bad.map(|(key, _)| (*key, "it should be 0 or more"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_file_changes_what_it_names_and_nothing_else() {
        let text = "[policy]\ndown_after = \"2h\"\ncopies_max = 3\n\
                    [placement]\nwatermark = 0.7\n[placement.weights]\nbytes = 2.0\n";
        let how = How::parse("p.toml", text).unwrap();
        let mut expected = How { down_after_ms: 7_200_000, ..How::default() };
        expected.balance.copies_max = 3;
        expected.placement.watermark = 0.7;
        expected.placement.weights.bytes = 2.0;
        assert_eq!(how, expected);
        assert_eq!(How::parse("p.toml", "").unwrap(), How::default());
    }

    #[test]
    fn what_is_wrong_in_a_policy_file_is_told_with_its_line() {
        for (text, said) in [
            ("[placement]\nwatermark = 1.5\n", "p.toml:2: watermark: it is a share"),
            ("[placement.weights]\nbytes = 1.0\nmoved = -1.0\n", "p.toml:3: moved: it should be 0"),
            ("[policy]\ncolour = 1\n", "p.toml:2: unknown field `colour`"),
            ("[policy]\n\ndown_after = \"5 years\"\n", "p.toml:3: \"5 years\" is no length of time"),
        ] {
            let error = How::parse("p.toml", text).unwrap_err().to_string();
            assert!(error.starts_with(said), "{said:?} is not in {error:?}");
        }
    }
}
