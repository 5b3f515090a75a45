//! `converthouse placement solve|evaluate|explain`: the placement engine on instance files, without a daemon.
//!
//! Progress goes to standard error; Ctrl-C ends a solve with the best placement found so far.

mod run;

use super::{Align, Context, Exit, Failure, Table, human_bytes, read_file};
use crate::placement::constraint::broken;
use crate::placement::engines::{NAMES, by_name};
use crate::placement::explain::{Why, candidates, unmended};
use crate::placement::instance::{Instance, write_solution};
use crate::placement::objective::{Score, score};
use crate::placement::plan::{Action, Plan};
use crate::placement::policy::{Goal, Policy};
use crate::placement::policy_file::PolicyFile;
use crate::placement::problem::Problem;
use crate::placement::sequence::{WaveLimits, sequence};
use crate::placement::solution::Solution;
use crate::placement::verdict::Decision;
use clap::{Args, Subcommand, ValueEnum};
use run::{Limits, solved};
use serde_json::{Value, json};
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
    },
    /// Say why a shard moves or stays, and what every node would mean for it
    Explain(Explain),
    /// Compare engines on an instance file
    Bench {
        /// The instance
        instance: PathBuf,
        #[command(flatten)]
        limits: Limits,
    },
}

/// What a solve is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum GoalName {
    /// Everything the objective asks
    Balance,
    /// Leaders alone, no copies
    Leaders,
    /// Bring nodes below the watermark with few bytes
    Relieve,
    /// Only what hard rules ask
    Repair,
}

impl From<GoalName> for Goal {
    fn from(name: GoalName) -> Self {
        match name {
            GoalName::Balance => Self::Balance,
            GoalName::Leaders => Self::Leaders,
            GoalName::Relieve => Self::Relieve,
            GoalName::Repair => Self::Repair,
        }
    }
}

/// `placement solve`.
#[derive(Debug, Args)]
pub(super) struct Solve {
    /// The instance
    instance: PathBuf,
    /// How to solve it
    #[arg(long, default_value = NAMES[0], value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    engine: String,
    #[command(flatten)]
    limits: Limits,
    /// What is wanted, as a TOML file: order and weights of goals, tolerances, limits, pins, exclusions
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// What it is for [default: balance, or what the policy says]
    #[arg(long, value_enum)]
    goal: Option<GoalName>,
    /// Copy at most so many bytes (of the instance's unit)
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Make at most so many copies
    #[arg(long, value_name = "COPIES")]
    max_moves: Option<u64>,
    /// Order the moves into waves: no disk above the watermark, no copy dropped too early
    #[arg(long)]
    plan: bool,
    /// Units of the instance's sizes that a node copies in a second, for the plan's duration
    #[arg(long, default_value_t = 100.0, value_name = "RATE", value_parser = positive)]
    copy_rate: f64,
    /// Write the placement here
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// `placement explain`.
#[derive(Debug, Args)]
pub(super) struct Explain {
    /// The instance
    instance: PathBuf,
    /// The shard, by its place in the instance, from 0
    shard: usize,
    /// A solution to explain; without it one is found first
    #[arg(long, value_name = "FILE")]
    solution: Option<PathBuf>,
    #[command(flatten)]
    limits: Limits,
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
            Self::Evaluate { instance, solution } => evaluate(context, &instance, &solution),
            Self::Explain(command) => command.run(context),
            Self::Bench { instance, limits } => bench(context, &instance, &limits),
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

fn read_solution(problem: &Problem, instance: &Instance, path: &Path) -> Result<Solution, Failure> {
    let text = read_file(path)?;
    let read = instance.read_solution(&path.display().to_string(), &text);
    let nodes = read.map_err(|e| Failure::coded(&e, Exit::Failed))?;
    if nodes.len() == problem.replicas() {
        return Ok(Solution { nodes });
    }
    let message = format!("{}: fewer replicas can be placed than the instance asks for", path.display());
    Err(Failure::failed(message, "add nodes to the instance, or ask for fewer replicas"))
}

fn terms(score: &Score) -> Value {
    json!({
        "z": score.total, "replicas": score.replicas, "leaders": score.leaders, "bytes": score.bytes,
        "moved": score.moved, "leader_changes": score.leader_changes,
        "bytes_moved": score.bytes_moved, "copies": score.copies, "copied": score.copied,
    })
}

fn line(score: &Score, broken: usize) -> String {
    format!(
        "Z={:.5}  Dr={:.5}  Dl={:.5}  Db={:.5}  M={:.5}  L={:.5}  broken={broken}",
        score.total, score.replicas, score.leaders, score.bytes, score.moved, score.leader_changes
    )
}

impl Solve {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let instance = read_instance(&self.instance)?;
        let file = self.policy.as_deref().map(|path| read_policy(path, &instance)).transpose()?;
        let file = file.unwrap_or_default();
        let written = file.policy(Policy::yardstick(instance.watermark));
        let policy = Policy {
            goal: self.goal.map_or(written.goal, Goal::from),
            bytes_max: self.max_bytes.or(written.bytes_max),
            moves_max: self.max_moves.or(written.moves_max),
            ..written
        };
        let problem = Arc::new(instance.problem_with(&policy, &file));
        let (decision, seconds) = solved(context, &problem, &self.engine, &self.limits)?;
        if let Some(out) = &self.out {
            let write = std::fs::write(out, write_solution(&problem, &decision.solution));
            write.map_err(|e| {
                Failure::failed(format!("{}: {e}", out.display()), "name a file that may be written")
            })?;
        }
        let waves = WaveLimits { bytes_per_second: self.copy_rate, ..file.waves };
        let plan = self.plan.then(|| sequence(&problem, &decision.solution, &waves));
        let mut result = json!({
            "engine": self.engine,
            "seconds": seconds,
            "seed": self.limits.seed,
            "work": decision.work,
            "before": terms(&decision.before),
            "after": terms(&decision.after),
            "bound": decision.bound,
            "gap": decision.gap(),
            "least_bytes": decision.least_bytes,
            "broken": decision.broken.len(),
            "compromises": problem.compromises.len(),
        });
        if let Some(plan) = &plan {
            result["plan"] = json!(plan);
            result["plan"]["fullest"] = json!(fullest(&problem, plan));
        }
        context.print(&result, || {
            let gap = decision.gap().map_or("none".to_owned(), |gap| format!("{:.2} %", gap * 100.0));
            format!(
                "{}\nbound={:.5}  gap={gap}  seconds={seconds:.1}  engine={}\n\
                 moved {} in {} copies; before: Z={:.5}\n{}",
                line(&decision.after, decision.broken.len()),
                decision.bound,
                self.engine,
                human_bytes(decision.after.bytes_moved),
                decision.after.copies,
                decision.before.total,
                plan.as_ref().map_or(String::new(), |plan| summary(&problem, plan, context)),
            )
        })
    }
}

/// The node whose disk is the fullest at any moment of a plan, and how full.
fn fullest(problem: &Problem, plan: &Plan) -> (usize, f64) {
    let share = |(node, &peak): (usize, &u64)| {
        let capacity = problem.nodes[node].capacity_bytes;
        (node, if capacity > 0 { peak as f64 / capacity as f64 } else { 0.0 })
    };
    plan.peak_bytes.iter().enumerate().map(share).max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or((0, 0.0))
}

/// Waves of a plan that are printed; `--json` has all of them.
const WAVES_SHOWN: u32 = 20;

fn summary(problem: &Problem, plan: &Plan, context: &Context) -> String {
    let (node, share) = fullest(problem, plan);
    let mut table = Table::new(&[
        ("WAVE", Align::Right),
        ("COPIES", Align::Right),
        ("BYTES", Align::Right),
        ("LEADERS", Align::Right),
        ("DROPS", Align::Right),
    ]);
    for wave in 0..plan.waves.min(WAVES_SHOWN) {
        let of = |kind: fn(&Action) -> bool| {
            plan.steps.iter().filter(move |step| step.wave == wave && kind(&step.action))
        };
        let copies = of(|action| matches!(action, Action::Add { .. }));
        let bytes = copies.clone().map(|step| step.bytes).sum();
        table.row(vec![
            wave.to_string(),
            copies.count().to_string(),
            human_bytes(bytes),
            of(|action| matches!(action, Action::Lead { .. })).count().to_string(),
            of(|action| matches!(action, Action::Remove { .. })).count().to_string(),
        ]);
    }
    let more = plan.waves.saturating_sub(WAVES_SHOWN);
    let more = if more > 0 { format!("and {more} more waves\n") } else { String::new() };
    format!(
        "plan: {} steps in {} waves, about {:.0} s; fullest disk: node {node} at {:.1} %; \
         left where they are: {}\n{}{more}",
        plan.steps.len(),
        plan.waves,
        plan.seconds,
        share * 100.0,
        plan.left.len(),
        table.text(0, context.colour())
    )
}

fn evaluate(context: &Context, instance: &Path, solution: &Path) -> Result<(), Failure> {
    let instance = read_instance(instance)?;
    let problem = instance.problem();
    let solution = read_solution(&problem, &instance, solution)?;
    let (score, broken) = (score(&problem, &solution), broken(&problem, &solution).len());
    let mut result = terms(&score);
    result["broken"] = json!(broken);
    context.print(&result, || format!("{}\n", line(&score, broken)))
}

impl Explain {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let instance = read_instance(&self.instance)?;
        let problem = Arc::new(instance.problem());
        if self.shard >= problem.shards() {
            let message = format!("there is no shard {}: shards are 0 to {}", self.shard, problem.shards());
            return Err(Failure::usage(message, "count shards from 0"));
        }
        let (solution, why) = match &self.solution {
            Some(path) => {
                let solution = read_solution(&problem, &instance, path)?;
                let why = crate::placement::explain::reasons(&problem, &solution, false);
                (solution, why[self.shard])
            }
            None => {
                let (decision, _) = solved(context, &problem, NAMES[0], &self.limits)?;
                (decision.solution, decision.reasons[self.shard])
            }
        };
        let placed = solution.of(&problem, self.shard).to_vec();
        let found = candidates(&problem, &solution, self.shard);
        let unmended: Vec<Why> = unmended(&problem, &solution)
            .into_iter()
            .filter(|(shard, _)| *shard as usize == self.shard)
            .map(|(_, why)| why)
            .collect();
        let result = json!({
            "shard": self.shard,
            "present": problem.present(self.shard),
            "placed": placed,
            "reason": why.code(),
            "sentence": why.sentence(),
            "unmended": unmended.iter().map(|why| why.code()).collect::<Vec<_>>(),
            "candidates": found,
        });
        context.print(&result, || {
            let mut table = Table::new(&[
                ("NODE", Align::Right),
                ("IN PLACE OF", Align::Right),
                ("SCORE CHANGE", Align::Right),
                ("FORBIDDEN", Align::Left),
            ]);
            for candidate in &found {
                let change = format!("{:+.6}", candidate.change);
                let instead = placed.get(candidate.slot).map_or(String::new(), ToString::to_string);
                let rule = candidate.forbidden.unwrap_or("").to_owned();
                table.row(vec![candidate.node.to_string(), instead, change, rule]);
            }
            format!(
                "shard {}: {:?} -> {placed:?} (the leader first)\n{}: {}\n{}\nother nodes, the best first:\n{}",
                self.shard,
                problem.present(self.shard),
                why.code(),
                why.sentence(),
                unmended
                    .iter()
                    .map(|why| format!("cannot be mended: {}\n", why.sentence()))
                    .collect::<String>(),
                table.text(0, context.colour())
            )
        })
    }
}

fn bench(context: &Context, path: &Path, limits: &Limits) -> Result<(), Failure> {
    let problem = Arc::new(read_instance(path)?.problem());
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
    let gap = |decision: &Decision| (decision.after.total / bound - 1.0) * 100.0;
    let result: Vec<Value> = rows
        .iter()
        .map(|(engine, decision, seconds)| {
            let mut row = terms(&decision.after);
            row["engine"] = json!(engine);
            row["seconds"] = json!(seconds);
            row["bound"] = json!(bound);
            row["gap"] = json!(gap(decision) / 100.0);
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
            let gap = format!("{:.2}", gap(decision));
            let broken = decision.broken.len().to_string();
            table.row(vec![(*engine).to_owned(), z, gap, broken, format!("{seconds:.1}")]);
        }
        format!("bound {bound:.5}\n{}", table.text(0, context.colour()))
    })
}
