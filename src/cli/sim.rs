//! `converthouse sim run|sweep|new|what-if|replay`: the simulator, without servers and in virtual time.

use super::engine::Engine;
use super::replay::Replay;
use super::what_if::WhatIf;
use super::{Align, Context, Exit, Failure, Table, human_bytes};
use crate::simulation::case::Case;
use crate::simulation::{self, Run, case_file, report, sweep};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::ops::ControlFlow;
use std::path::PathBuf;

/// Subcommands of `sim`.
#[derive(Debug, Subcommand)]
pub(super) enum SimCommand {
    /// Play cases; exit status 1 if one does not hold
    Run(Play),
    /// Play random worlds and faults; tells the smallest seed that fails
    Sweep(Sweep),
    /// Print a case with every field explained
    New,
    /// Plan what would be done in a trace's cluster if nodes were added, drained or lost
    WhatIf(WhatIf),
    /// Play a trace again, with what was recorded beside what would have been decided
    Replay(Replay),
}

/// `sim run`.
#[derive(Debug, Args)]
pub(super) struct Play {
    /// Case files, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Play with this seed rather than the case's own
    #[arg(long)]
    seed: Option<u64>,
    /// Have plans looked for by this engine; given several times, each case is played with each
    #[arg(long, value_name = "NAME", value_enum)]
    engine: Vec<Engine>,
    /// Print what was decided, one row each
    #[arg(long)]
    rows: bool,
    /// Write a page with charts to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Each case with each of the engines; as it says itself if none is named.
fn with_engines(cases: Vec<Case>, engines: &[Engine]) -> Vec<Case> {
    let several = engines.len() > 1;
    let with = |case: &Case, engine: Engine| {
        let mut case = case.clone();
        case.policy.engine = Some(engine.into());
        if several {
            case.name = format!("{} ({})", case.name, engine.name());
        }
        case
    };
    if engines.is_empty() {
        return cases;
    }
    cases.iter().flat_map(|case| engines.iter().map(move |engine| with(case, *engine))).collect()
}

/// `sim sweep`.
#[derive(Debug, Args)]
pub(super) struct Sweep {
    /// How many seeds
    #[arg(long, default_value_t = 100, value_name = "N")]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 1, value_name = "SEED")]
    from: u64,
    /// Only this seed, with everything that was decided
    #[arg(long, conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
}

impl SimCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Run(play) => play.run(context),
            Self::Sweep(sweep) => sweep.run(context),
            Self::New => context.emit(case_file::TEMPLATE),
            Self::WhatIf(what_if) => what_if.run(context),
            Self::Replay(replay) => replay.run(context),
        }
    }
}

fn judged(run: &Run) -> String {
    run.failure.clone().unwrap_or_else(|| "ok".to_owned())
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03}", ms / 1_000, ms % 1_000)
}

fn shown(case: &Case, run: &Run) -> Value {
    json!({
        "case": case.name, "seed": run.seed, "passed": run.passed(), "failure": run.failure,
        "violations": run.violations, "virtual_ms": run.virtual_ms, "events": run.events,
        "digest": format!("{:016x}", run.digest), "measures": run.measures, "queries": run.tally, "rows": run.rows,
        "moves_bound": run.measures.moves_bound(), "redundant_moves": run.measures.redundant_moves(),
        "thrash_percent": run.thrash_percent(), "settle_ms": run.settle_ms, "checks": run.checks,
    })
}

/// Thousandths as a number with two digits after the point.
fn hundredths(milli: u64) -> String {
    format!("{}.{:02}", milli / 1_000, milli % 1_000 / 10)
}

fn table(runs: &[(Case, Run)], colour: bool) -> String {
    let columns = [
        ("CASE", Align::Left),
        ("MOVES", Align::Right),
        ("BOUND", Align::Right),
        ("REDUNDANT", Align::Right),
        ("BYTES", Align::Right),
        ("THRASH %", Align::Right),
        ("SETTLED S", Align::Right),
        ("WORST BALANCE", Align::Right),
        ("QUERIES", Align::Right),
        ("WRONG", Align::Right),
        ("VERDICT", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for (case, run) in runs {
        let m = &run.measures;
        let count = |ending: &str| run.tally.get(ending).copied().unwrap_or(0);
        let known = case.issue.as_ref().map(|issue| format!("fails as known: {}", issue.is));
        table.row(vec![
            case.name.clone(),
            m.replicas_added.to_string(),
            m.moves_bound().to_string(),
            m.redundant_moves().to_string(),
            human_bytes(m.copied_bytes),
            run.thrash_percent().to_string(),
            seconds(run.settle_ms),
            hundredths(m.replica_spread_milli.max(m.leader_spread_milli)),
            run.tally.values().sum::<u64>().to_string(),
            count("wrong").to_string(),
            known.filter(|_| run.passed()).unwrap_or_else(|| judged(run)),
        ]);
    }
    table.text(0, colour)
}

impl Play {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let files = case_file::find(&self.paths).map_err(|e| Failure::coded(&e, Exit::Usage))?;
        let cases: Result<Vec<Case>, _> = files.iter().map(|file| case_file::read(file)).collect();
        let mut cases = cases.map_err(|e| Failure::coded(&e, Exit::Usage))?;
        if cases.is_empty() {
            return Err(Failure::usage(
                "there is no case in these folders",
                "name a .toml file, or see `sim new`",
            ));
        }
        if let Some(seed) = self.seed {
            cases.iter_mut().for_each(|case| case.seed = seed);
        }
        let cases = with_engines(cases, &self.engine);
        let progress = std::io::stderr().is_terminal();
        let (count, mut ended) = (cases.len(), 0);
        let runs = simulation::play_all(&cases, |case, run| {
            ended += 1;
            if progress {
                eprintln!("{ended}/{count} {}: {}", case.name, judged(run));
            }
        });
        let runs: Vec<(Case, Run)> = cases.into_iter().zip(runs).collect();
        if let Some(file) = &self.report {
            let unwritable =
                |e| Failure::failed(format!("{}: {e}", file.display()), "name a file that may be written");
            std::fs::write(file, report::page(&runs)).map_err(unwritable)?;
        }
        let all: Vec<Value> = runs.iter().map(|(case, run)| shown(case, run)).collect();
        context.print(&all, || {
            let rows = |(case, run): &(Case, Run)| format!("{}: {}\n{run}\n", case.name, case.about);
            let rows: String = if self.rows { runs.iter().map(rows).collect() } else { String::new() };
            format!("{rows}{}", table(&runs, context.colour()))
        })?;
        let failed: Vec<&str> =
            runs.iter().filter(|(_, run)| !run.passed()).map(|(case, _)| case.name.as_str()).collect();
        if failed.is_empty() {
            return Ok(());
        }
        let remedy = "see what was decided with --rows";
        Err(Failure::failed(
            format!("{} of {count} cases do not hold: {}", failed.len(), failed.join(", ")),
            remedy,
        ))
    }
}

impl Sweep {
    fn run(self, context: &Context) -> Result<(), Failure> {
        if let Some(seed) = self.seed {
            return Self::one(context, seed);
        }
        let progress = std::io::stderr().is_terminal();
        let (mut failed, mut digests) = (BTreeMap::new(), BTreeMap::new());
        let (mut played, mut virtual_ms, mut events) = (0, 0, 0);
        let seeds = self.from..self.from.saturating_add(self.seeds);
        sweep::all(seeds, simulation::play, |seed, run| {
            played += 1;
            virtual_ms += run.virtual_ms;
            events += run.events;
            digests.insert(seed, run.digest);
            if !run.passed() {
                eprintln!("seed {seed}: {}", judged(&run));
                failed.insert(seed, judged(&run));
            } else if progress && played % 10 == 0 {
                eprintln!("{played} of {} seeds played, {} failed so far", self.seeds, failed.len());
            }
            ControlFlow::Continue(())
        });
        let digest = sweep::digest(digests.into_values());
        let result = json!({
            "seeds": self.seeds, "from": self.from, "virtual_ms": virtual_ms, "events": events,
            "digest": format!("{digest:016x}"),
            "failed": failed.iter().map(|(seed, why)| json!({ "seed": seed, "failure": why })).collect::<Vec<_>>(),
        });
        let summary = format!(
            "{} seeds, {} virtual seconds, {events} events, digest {digest:016x}",
            self.seeds,
            seconds(virtual_ms)
        );
        context.print(&result, || format!("{summary}, {} failed\n", failed.len()))?;
        match failed.first_key_value() {
            None => Ok(()),
            Some((seed, why)) => Err(Failure::failed(
                format!("{} of {} seeds fail; the smallest is {seed}: {why}", failed.len(), self.seeds),
                &format!("repeat it with `converthouse sim sweep --seed {seed}`"),
            )),
        }
    }

    fn one(context: &Context, seed: u64) -> Result<(), Failure> {
        let case = sweep::draw(seed);
        let run = simulation::play(&case);
        context.print(&shown(&case, &run), || format!("{case:#?}\n{run}"))?;
        if run.passed() { Ok(()) } else { Err(Failure::failed(format!("seed {seed}: {}", judged(&run)), "")) }
    }
}
