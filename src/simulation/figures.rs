//! The figures of cases as text: what `simulations/figures.txt` holds of those that ship. Pure.
//!
//! Moments that shift a little with every change of the actors (event counts, digests, milliseconds) are left out: the
//! file is to be read by people who ask whether a policy has become better or worse.

use super::Run;
use super::case::Case;
use std::fmt::Write as _;

const HEAD: &str = "\
# What the cases that ship come to: replicas added, the fewest that give every node what it gained, those beyond; how
# much nodes' partitions went there and back (percent); from the last event until nothing changed any more (seconds);
# the fullest node over the mean (replicas, leaderships); answers that were wrong. Written by tests/simulation.rs; see
# docs/simulation.md.
";

/// One line a case.
pub fn text<'a>(runs: impl IntoIterator<Item = (&'a Case, &'a Run)>) -> String {
    let mut text = HEAD.to_owned();
    let titles = ["moves", "bound", "beyond", "thrash", "settled", "replicas", "leaders", "wrong"];
    let _ = write!(text, "\n{:<28}", "case");
    titles.iter().for_each(|title| {
        let _ = write!(text, "{title:>9}");
    });
    text.push('\n');
    for (case, run) in runs {
        let m = &run.measures;
        let hundredths = |milli: u64| format!("{}.{:02}", milli / 1_000, milli % 1_000 / 10);
        let cells = [
            m.replicas_added.to_string(),
            m.moves_bound().to_string(),
            m.redundant_moves().to_string(),
            run.thrash_percent().to_string(),
            (run.settle_ms / 1_000).to_string(),
            hundredths(m.replica_spread_milli),
            hundredths(m.leader_spread_milli),
            run.tally.get("wrong").copied().unwrap_or(0).to_string(),
        ];
        let _ = write!(text, "{:<28}", case.name);
        cells.iter().for_each(|cell| {
            let _ = write!(text, "{cell:>9}");
        });
        text.push('\n');
    }
    text
}
