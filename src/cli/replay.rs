//! `converthouse sim replay`: a trace played again, what was recorded beside what would have been decided.

use super::engine::Engine;
use super::what_if::{share, span};
use super::{Align, Context, Exit, Failure, Table, human_bytes};
use crate::simulation::case::Span;
use crate::simulation::trace;
use crate::simulation::trace::how::How;
use crate::simulation::trace::replay::{Outcome, replay};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// What the daemon's own way is called beside engines.
const OWN: &str = "daemon";

/// `sim replay`.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The trace
    trace: PathBuf,
    /// Decide with this engine rather than as the daemon does; again for more, side by side
    #[arg(long, value_name = "NAME", value_enum)]
    engine: Vec<Engine>,
    /// A file with [policy] as in a case, and [placement]; see docs/simulation.md
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Play until then, such as 36h after the trace's start [default: to its end]
    #[arg(long, value_name = "TIME", value_parser = span)]
    until: Option<Span>,
}

impl Replay {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let how = self.policy.as_deref().map_or_else(|| Ok(How::default()), How::read);
        let how = how.map_err(|error| Failure::coded(&error, Exit::Usage))?;
        let ways: Vec<How> = match self.engine.as_slice() {
            [] => vec![how],
            engines => engines.iter().map(|engine| how.by((*engine).into())).collect(),
        };
        let (recorded, ours) = replay(&self.trace, self.until.map(|until| until.0), &ways)
            .map_err(|error: trace::Error| Failure::coded(&error, Exit::Failed))?;
        let names: Vec<String> = match self.engine.as_slice() {
            [] => vec![OWN.to_owned()],
            engines => engines.iter().map(|engine| engine.name()).collect(),
        };
        let each: Vec<_> = names
            .iter()
            .zip(&ours)
            .map(|(name, outcome)| json!({ "engine": name, "outcome": outcome }))
            .collect();
        context.print(&json!({ "recorded": recorded, "replayed": each }), || {
            text(&recorded, &names, &ours, context.colour())
        })
    }
}

fn text(recorded: &Outcome, names: &[String], ours: &[Outcome], colour: bool) -> String {
    let columns: Vec<(&str, Align)> = [("MEASURE", Align::Left), ("RECORDED", Align::Right)]
        .into_iter()
        .chain(names.iter().map(|name| (name.as_str(), Align::Right)))
        .collect();
    let mut table = Table::new(&columns);
    let mut row = |name: &str, of: &dyn Fn(&Outcome) -> String| {
        table.row([name.to_owned(), of(recorded)].into_iter().chain(ours.iter().map(of)));
    };
    row("moves", &|outcome| outcome.moves.to_string());
    row("bytes moved", &|outcome| human_bytes(outcome.bytes_moved));
    row("worst balance", &|outcome| share(outcome.worst_milli));
    row("mean balance", &|outcome| share(outcome.mean_milli));
    row("balance at the end", &|outcome| share(outcome.end_milli));
    row("thrash %", &|outcome| outcome.thrash_percent.to_string());
    row("shard hours short of a copy", &|outcome| (outcome.short_shard_s / 3_600).to_string());
    row("copies under way at the end", &|outcome| outcome.unfinished.to_string());
    table.text(0, colour)
}
