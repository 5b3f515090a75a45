//! `converthouse placement solve|evaluate|explain`: the placement engine on instance files, without a daemon.
//!
//! Progress goes to standard error; Ctrl-C ends a solve with the best placement found so far.

mod explain;
mod run;
mod solve;

use super::{Align, Context, Exit, Failure, Table, human_bytes, read_file};
use crate::placement::constraint::Broken;
use crate::placement::engines::{NAMES, by_name};
use crate::placement::instance::{Instance, judged};
use crate::placement::objective::{Score, score};
use crate::placement::policy::Policy;
use crate::placement::policy_file::PolicyFile;
use crate::placement::problem::Problem;
use crate::placement::solution::{Solution, held};
use crate::placement::verdict::Decision;
use clap::{Args, Subcommand};
use explain::Explain;
use run::{Limits, solved};
use serde_json::{Value, json};
use solve::Solve;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Subcommands of `placement`.
#[derive(Debug, Subcommand)]
pub(super) enum PlacementCommand {
    /// Find a placement for an instance file
    Solve(Solve),
    /// Judge a solution file: score, its terms, broken rules
    Evaluate {
        /// The instance
        instance: PathBuf,
        /// The solution
        solution: PathBuf,
        #[command(flatten)]
        wanted: Wanted,
    },
    /// Say why a shard moves or stays, and what every node would mean for it
    Explain(Explain),
    /// Compare engines on an instance file
    Bench {
        /// The instance
        instance: PathBuf,
        #[command(flatten)]
        wanted: Wanted,
        #[command(flatten)]
        limits: Limits,
    },
}

/// What is wanted of a placement.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// What is wanted, as a TOML file: order and weights of goals, tolerances, limits, pins, exclusions
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// By how much a placement must better the score to be proposed, unless the policy says otherwise: less is not worth
/// a copy, and a placement that was found stands when it is solved again.
const GAIN_MIN: f64 = 0.001;

impl Wanted {
    /// The instance, and what the policy's file says.
    fn read(&self, instance: &Path) -> Result<(Instance, PolicyFile), Failure> {
        let instance = read_instance(instance)?;
        let file = self.policy.as_deref().map(|path| read_policy(path, &instance)).transpose()?;
        Ok((instance, file.unwrap_or_default()))
    }

    /// What holds where the policy's file says nothing.
    fn base(&self, watermark: f64) -> Policy {
        Policy { hysteresis: GAIN_MIN, ..Policy::yardstick(watermark) }
    }

    /// The instance as a problem.
    fn problem(&self, path: &Path) -> Result<(Instance, Problem), Failure> {
        let (instance, file) = self.read(path)?;
        let problem = instance.problem_with(&file.policy(self.base(instance.watermark)), &file);
        Ok((instance, problem))
    }
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number > 0.0 && number < 1e7 => Ok(number),
        _ => Err("a number of seconds above 0 is needed".to_owned()),
    }
}

impl PlacementCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Solve(command) => command.run(context),
            Self::Evaluate { instance, solution, wanted } => evaluate(context, &instance, &solution, &wanted),
            Self::Explain(command) => command.run(context),
            Self::Bench { instance, wanted, limits } => bench(context, &instance, &wanted, &limits),
        }
    }
}

fn read_instance(path: &Path) -> Result<Instance, Failure> {
    let text = read_file(path)?;
    let read = Instance::read(&path.display().to_string(), &text);
    read.map_err(|e| Failure::coded(&e, Exit::Failed))
}

fn read_policy(path: &Path, instance: &Instance) -> Result<PolicyFile, Failure> {
    let text = read_file(path)?;
    let size = (instance.nodes.len(), instance.sizes.len(), instance.replicas);
    let read = PolicyFile::read(&path.display().to_string(), &text, size);
    read.map_err(|e| Failure::coded(&e, Exit::Failed))
}

/// A solution file as a solution, and the rules that it breaks.
fn read_solution(
    problem: &Problem,
    instance: &Instance,
    path: &Path,
) -> Result<(Solution, Vec<Broken>), Failure> {
    let text = read_file(path)?;
    let read = instance.read_solution(&path.display().to_string(), &text);
    Ok(judged(problem, &read.map_err(|e| Failure::coded(&e, Exit::Failed))?))
}

fn terms(score: &Score) -> Value {
    json!({
        "z": score.total, "replicas": score.replicas, "leaders": score.leaders, "bytes": score.bytes,
        "moved": score.moved, "leader_changes": score.leader_changes,
        "bytes_moved": score.bytes_moved, "copies": score.copies, "copied": score.copied,
        "per_table": score.per_table, "writes": score.writes, "reads": score.reads,
    })
}

fn line(score: &Score, broken: usize) -> String {
    format!(
        "Z={:.5}  Dr={:.5}  Dl={:.5}  Db={:.5}  M={:.5}  L={:.5}  broken={broken}",
        score.total, score.replicas, score.leaders, score.bytes, score.moved, score.leader_changes
    )
}

fn gap_text(gap: Option<f64>) -> String {
    gap.map_or("-".to_owned(), |gap| format!("{:.2} %", gap * 100.0))
}

/// Broken rules that are printed; `--json` has all of them.
const BROKEN_SHOWN: usize = 10;

/// The rules that a placement breaks, the first ones by name.
fn broken_text(problem: &Problem, solution: &Solution, rules: &[Broken]) -> String {
    let load = if rules.is_empty() { Vec::new() } else { held(problem, solution) };
    let text = |rule: &Broken| match *rule {
        Broken::Missing { shard } => format!("shard {shard}: no node for one of its replicas"),
        Broken::SameNode { shard, node } => format!("shard {shard}: twice on node {node}"),
        Broken::Forbidden { shard, node } => format!("shard {shard}: must not be on node {node}"),
        Broken::Crowded { shard } => format!("shard {shard}: replicas share a zone or rack"),
        Broken::Unpinned { shard, node } => format!("shard {shard}: not on node {node} as pinned"),
        Broken::Overfull { node } => {
            let over = load[node as usize].bytes as f64 - problem.room_bytes(node);
            format!("node {node}: {} above the watermark", human_bytes(over.max(0.0) as u64))
        }
    };
    let lines = rules.iter().take(BROKEN_SHOWN).map(|rule| format!("broken: {}\n", text(rule)));
    let more = rules.len().saturating_sub(BROKEN_SHOWN);
    lines.collect::<String>() + &if more > 0 { format!("and {more} more broken\n") } else { String::new() }
}

fn evaluate(context: &Context, path: &Path, solution: &Path, wanted: &Wanted) -> Result<(), Failure> {
    let (instance, problem) = wanted.problem(path)?;
    let (solution, rules) = read_solution(&problem, &instance, solution)?;
    let score = score(&problem, &solution);
    let mut result = terms(&score);
    result["broken"] = json!(rules.len());
    result["broken_rules"] = json!(rules);
    context.print(&result, || {
        format!("{}\n{}", line(&score, rules.len()), broken_text(&problem, &solution, &rules))
    })
}

fn bench(context: &Context, path: &Path, wanted: &Wanted, limits: &Limits) -> Result<(), Failure> {
    let problem = Arc::new(wanted.problem(path)?.1);
    let mut rows = Vec::new();
    for engine in NAMES {
        if let Some(reason) = by_name(engine).and_then(|engine| engine.refuses(&problem)) {
            eprintln!("{engine} is left out: {reason}");
            continue;
        }
        let (decision, seconds) = solved(context, &problem, engine, limits)?;
        rows.push((engine, decision, seconds));
    }
    let bound = rows.iter().map(|(_, decision, _)| decision.bound).fold(0.0, f64::max);
    // Each by the best bound of all.
    let gap = |decision: &Decision| decision.gap_to(bound);
    let result: Vec<Value> = rows
        .iter()
        .map(|(engine, decision, seconds)| {
            let mut row = terms(&decision.after);
            row["engine"] = json!(engine);
            row["seconds"] = json!(seconds);
            row["bound"] = json!(bound);
            row["gap"] = json!(gap(decision));
            row["broken"] = json!(decision.broken.len());
            row
        })
        .collect();
    context.print(&result, || {
        let mut table = Table::new(&[
            ("ENGINE", Align::Left),
            ("Z", Align::Right),
            ("GAP %", Align::Right),
            ("BROKEN", Align::Right),
            ("SECONDS", Align::Right),
        ]);
        for (engine, decision, seconds) in &rows {
            let z = format!("{:.5}", decision.after.total);
            let gap = gap(decision).map_or("-".to_owned(), |gap| format!("{:.2}", gap * 100.0));
            let broken = decision.broken.len().to_string();
            table.row(vec![(*engine).to_owned(), z, gap, broken, format!("{seconds:.1}")]);
        }
        format!("bound {bound:.5}\n{}", table.text(0, context.colour()))
    })
}
