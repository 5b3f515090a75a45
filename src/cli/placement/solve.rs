//! `converthouse placement solve`: a placement for an instance file, with reasons.

use super::run::{By, Limits, solved};
use super::{Wanted, broken_text, gap_text, line, positive, terms};
use crate::cli::{Align, Context, Failure, Table, human_bytes};
use crate::placement::constraint::Broken;
use crate::placement::explain::Why;
use crate::placement::instance::{judged, rows, write_solution};
use crate::placement::plan::{Action, Plan, Stuck};
use crate::placement::policy::{Goal, Policy};
use crate::placement::problem::{Compromise, NONE, Problem};
use crate::placement::sequence::{WaveLimits, sequence};
use crate::placement::verdict::Decision;
use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// `placement solve`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Solve {
    /// The instance
    instance: PathBuf,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    wanted: Wanted,
    /// Copy at most so many bytes (of the instance's unit); what hard rules ask is copied all the same
    #[arg(long, value_name = "BYTES")]
    max_bytes: Option<u64>,
    /// Make at most so many copies; those that hard rules ask for are made all the same
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

/// One shard's change.
#[derive(Serialize)]
struct Moved {
    shard: usize,
    add: Vec<u32>,
    remove: Vec<u32>,
    /// All its nodes afterwards, the leader first.
    nodes: Vec<u32>,
    bytes: u64,
    why: Why,
}

/// A shard that stays, and why.
#[derive(Serialize)]
struct Stays {
    shard: usize,
    why: Why,
}

/// What could not be had for a shard.
#[derive(Serialize)]
struct Compromised {
    shard: u32,
    why: Compromise,
}

/// The result, as in JSON.
#[derive(Serialize)]
struct Solved {
    #[serde(flatten)]
    head: Value,
    reasons: BTreeMap<&'static str, usize>,
    moves: Vec<Moved>,
    /// But for those that stay since no better place is worth it.
    stays: Vec<Stays>,
    broken_rules: Vec<Broken>,
    compromised: Vec<Compromised>,
}

impl Solve {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (instance, file) = self.wanted.read(&self.instance)?;
        let written = file.policy(self.wanted.base(instance.watermark));
        let policy = Policy {
            goal: self.by.goal(&written),
            bytes_max: self.max_bytes.or(written.bytes_max),
            moves_max: self.max_moves.or(written.moves_max),
            ..written
        };
        let problem = Arc::new(instance.problem_with(&policy, &file));
        let (decision, seconds) = solved(context, &problem, &self.by.engine, &self.limits)?;
        if let Some(out) = &self.out {
            let write = std::fs::write(out, write_solution(&problem, &decision.solution));
            write.map_err(|e| {
                Failure::failed(format!("{}: {e}", out.display()), "name a file that may be written")
            })?;
        }
        // Judged by all rules: a narrow goal leaves some broken, and so do shards with too few nodes.
        let whole = (policy.goal == Goal::Relieve)
            .then(|| instance.problem_with(&Policy { goal: Goal::Balance, ..policy.clone() }, &file));
        let (_, rules) = judged(whole.as_ref().unwrap_or(&problem), &rows(&problem, &decision.solution));
        let waves = WaveLimits { bytes_per_second: self.copy_rate, ..file.waves };
        let plan = self.plan.then(|| sequence(&problem, &decision.solution, &waves));
        let gap = decision.gap().filter(|_| rules.is_empty());
        let mut head = json!({
            "engine": self.by.engine,
            "seconds": seconds,
            "seed": self.limits.seed,
            "work": decision.work,
            "before": terms(&decision.before),
            "after": terms(&decision.after),
            "bound": decision.bound,
            "gap": gap,
            "least_bytes": decision.least_bytes,
            "broken": rules.len(),
            "compromises": problem.compromises.len(),
        });
        if let Some(plan) = &plan {
            head["plan"] = json!(plan);
            head["plan"]["fullest"] = json!(fullest(&problem, plan));
        }
        let engine = self.by.engine;
        let text = || {
            format!(
                "{}\nbound={:.5}  gap={}  seconds={seconds:.1}  engine={engine}\n\
                 moved {} in {} copies; before: Z={:.5}\n{}{}{}{}{}",
                line(&decision.after, rules.len()),
                decision.bound,
                gap_text(gap),
                human_bytes(decision.after.bytes_moved),
                decision.after.copies,
                decision.before.total,
                least_text(&decision),
                over_budget(&policy, &decision),
                reasons_text(&decision),
                broken_text(&problem, &decision.solution, &rules),
                plan.as_ref().map_or(String::new(), |plan| summary(&problem, plan, context)),
            )
        };
        if context.global.json {
            return context.print(&result(&problem, &decision, head, &rules), text);
        }
        context.emit(&text())
    }
}

/// What is forced anyhow, for goals that only rules matter to.
fn least_text(decision: &Decision) -> String {
    decision
        .least_bytes
        .map_or(String::new(), |least| format!("at least {} have to move\n", human_bytes(least)))
}

/// That a budget was not kept, since hard rules come first.
fn over_budget(policy: &Policy, decision: &Decision) -> String {
    let after = &decision.after;
    let over = policy.bytes_max.is_some_and(|max| after.bytes_moved > max)
        || policy.moves_max.is_some_and(|max| after.copies > max);
    let note = "more is copied than the budget says: hard rules ask for it, and come first\n";
    if over { note.to_owned() } else { String::new() }
}

fn result(problem: &Problem, decision: &Decision, head: Value, rules: &[Broken]) -> Solved {
    let (mut moves, mut stays) = (Vec::new(), Vec::new());
    for (shard, &why) in decision.reasons.iter().enumerate() {
        let placed = decision.solution.of(problem, shard).iter().copied().filter(|&node| node != NONE);
        let (present, nodes) = (problem.present(shard), placed.collect::<Vec<u32>>());
        let add: Vec<u32> = nodes.iter().copied().filter(|node| !present.contains(node)).collect();
        let remove: Vec<u32> = present.iter().copied().filter(|node| !nodes.contains(node)).collect();
        if !add.is_empty() || !remove.is_empty() || nodes.first() != present.first() {
            let bytes = problem.bytes[shard] * add.len() as u64;
            moves.push(Moved { shard, add, remove, nodes, bytes, why });
        } else if why != Why::InPlace {
            stays.push(Stays { shard, why });
        }
    }
    Solved {
        head,
        reasons: counted(decision),
        moves,
        stays,
        broken_rules: rules.to_vec(),
        compromised: problem.compromises.iter().map(|&(shard, why)| Compromised { shard, why }).collect(),
    }
}

/// Shards by reason.
fn counted(decision: &Decision) -> BTreeMap<&'static str, usize> {
    decision.reasons.iter().fold(BTreeMap::new(), |mut counts, why| {
        *counts.entry(why.code()).or_default() += 1;
        counts
    })
}

fn reasons_text(decision: &Decision) -> String {
    let counts: Vec<String> =
        counted(decision).into_iter().map(|(code, count)| format!("{code} {count}")).collect();
    format!("shards by reason: {}\n", counts.join(", "))
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
         left where they are: {}\n{}{}{more}",
        plan.steps.len(),
        plan.waves,
        plan.seconds,
        share * 100.0,
        plan.left.len(),
        left_text(plan),
        table.text(0, context.colour())
    )
}

/// Shards that a plan leaves where they are, the first ones by name.
fn left_text(plan: &Plan) -> String {
    let why = |stuck: &Stuck| match stuck {
        Stuck::NoRoom { node } => format!("no order of steps makes room for it on node {node}"),
        Stuck::Needed { node } => format!("its copy on node {node} is needed until others are complete"),
    };
    let named = plan.left.iter().take(LEFT_SHOWN);
    let lines = named.map(|left| format!("  shard {}: {}\n", left.shard, why(&left.why)));
    let more = plan.left.len().saturating_sub(LEFT_SHOWN);
    lines.collect::<String>() + &if more > 0 { format!("  and {more} more\n") } else { String::new() }
}

/// Shards left by a plan that are printed; `--json` has all of them.
const LEFT_SHOWN: usize = 10;
