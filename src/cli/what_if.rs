//! `converthouse sim what-if`: the plan that a trace's cluster would make if it had other nodes.

use super::engine::Engine;
use super::output::counted;
use super::{Align, Context, Exit, Failure, Table, human_bytes, plan};
use crate::config::units::parse_bytes;
use crate::model::ids::NodeId;
use crate::simulation::case::Span;
use crate::simulation::trace;
use crate::simulation::trace::how::How;
use crate::simulation::trace::what_if::{Answer, Balance, Change, Joining, answer};
use clap::Args;
use std::path::PathBuf;

/// Nodes that one command may add.
const ADD_MAX: u32 = 10_000;

/// How plans are looked for.
#[derive(Debug, Args)]
pub(super) struct HowArgs {
    /// Look for plans with this engine rather than as the daemon does
    #[arg(long, value_name = "NAME", value_enum)]
    engine: Option<Engine>,
    /// A file with [policy] as in a case, and [placement]; see docs/simulation.md
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

impl HowArgs {
    pub(super) fn how(&self) -> Result<How, Failure> {
        let read = self.policy.as_deref().map_or_else(|| Ok(How::default()), How::read);
        let how = read.map_err(|error| Failure::coded(&error, Exit::Usage))?;
        Ok(self.engine.map_or(how.clone(), |engine| how.by(engine.into())))
    }
}

/// `sim what-if`.
#[derive(Debug, Args)]
pub(super) struct WhatIf {
    /// The trace
    trace: PathBuf,
    /// Add N nodes, spread over the zones, or one with these labels (zone=z1,rack=r2); again for more
    #[arg(long, value_name = "N|LABELS", value_parser = joining)]
    add: Vec<Joining>,
    /// Disk of the added nodes, such as 2TB [default: the median of the others]
    #[arg(long, value_name = "BYTES", requires = "add", value_parser = parse_bytes)]
    capacity: Option<u64>,
    /// Empty this node; again for more
    #[arg(long, value_name = "NODE")]
    drain: Vec<NodeId>,
    /// Lose this node for good; again for more
    #[arg(long, value_name = "NODE")]
    remove: Vec<NodeId>,
    /// The cluster as it was then, such as 36h after the trace's start [default: at its end]
    #[arg(long, value_name = "TIME", value_parser = span)]
    at: Option<Span>,
    /// Show every move and every shard that stays, not only the first ones
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    how: HowArgs,
}

pub(super) fn span(text: &str) -> Result<Span, String> {
    Span::try_from(text.to_owned())
}

fn joining(text: &str) -> Result<Joining, String> {
    if let Ok(count) = text.parse::<u32>() {
        let fits = (1..=ADD_MAX).contains(&count);
        return fits.then_some(Joining::Count(count)).ok_or_else(|| format!("1 to {ADD_MAX} nodes"));
    }
    let label = |pair: &str| {
        let (key, value) = pair.split_once('=').unwrap_or_default();
        let whole = !key.is_empty() && !value.is_empty();
        whole.then(|| (key.to_owned(), value.to_owned())).ok_or_else(|| {
            format!("{pair:?} is neither a number of nodes nor a label: write zone=z1 or zone=z1,rack=r2")
        })
    };
    text.split(',').map(label).collect::<Result<_, _>>().map(Joining::Labelled)
}

impl WhatIf {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let failed = |error: trace::Error| Failure::coded(&error, Exit::Failed);
        let how = self.how.how()?;
        let world = trace::world_at(&self.trace, self.at.map(|at| at.0)).map_err(failed)?;
        let change =
            Change { add: self.add, capacity_bytes: self.capacity, drain: self.drain, remove: self.remove };
        let answer = answer(world, &change, &how).map_err(failed)?;
        context.print(&answer, || text(&answer, &change, self.all, context.colour()))
    }
}

/// Thousandths of a fair share as a number with three digits after the point.
pub(super) fn share(milli: u64) -> String {
    format!("{}.{:03}", milli / 1_000, milli % 1_000)
}

fn text(answer: &Answer, change: &Change, all: bool, colour: bool) -> String {
    let mut out = Table::new(&[
        ("FULLEST NODE, OF ITS SHARE", Align::Left),
        ("NOW", Align::Right),
        ("THEN", Align::Right),
    ]);
    let of = |name: &str, of: fn(&Balance) -> u64| {
        [name.to_owned(), share(of(&answer.before)), share(of(&answer.after))]
    };
    out.row(of("replicas", |balance| balance.replicas_milli));
    out.row(of("leaders", |balance| balance.leaders_milli));
    out.row(of("bytes", |balance| balance.bytes_milli));
    let balance = out.text(0, colour);
    format!("{}\n{balance}{}", plan::text(&answer.plan, all, colour), concerned(answer, change, colour))
}

/// The nodes that the question is about.
fn concerned(answer: &Answer, change: &Change, colour: bool) -> String {
    let mut out = Table::new(&[
        ("NODE", Align::Left),
        ("REPLICAS NOW", Align::Right),
        ("THEN", Align::Right),
        ("BYTES NOW", Align::Right),
        ("THEN", Align::Right),
    ]);
    let concerned: Vec<&NodeId> = answer.added.iter().chain(&change.drain).chain(&change.remove).collect();
    for id in &concerned {
        let (now, then) = answer.nodes.get(*id).copied().unwrap_or_default();
        let replicas = [now.replicas.to_string(), then.replicas.to_string()];
        let bytes = [human_bytes(now.bytes), human_bytes(then.bytes)];
        out.row([id.to_string()].into_iter().chain(replicas).chain(bytes));
    }
    match concerned.len() {
        0 => String::new(),
        count => format!(
            "\n{}, {} in all\n{}",
            counted(count as u64, "node", "nodes"),
            answer.nodes.len(),
            out.text(0, colour)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_added_by_number_or_by_labels() {
        assert_eq!(joining("3"), Ok(Joining::Count(3)));
        let labels = [("rack".to_owned(), "r2".to_owned()), ("zone".to_owned(), "z1".to_owned())];
        assert_eq!(joining("zone=z1,rack=r2"), Ok(Joining::Labelled(labels.into())));
        for wrong in ["0", "10001", "zone", "zone=", "=z1", "zone=z1,", ""] {
            assert!(joining(wrong).is_err(), "{wrong:?}");
        }
    }
}
