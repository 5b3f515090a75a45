//! `converthouse plan`: what the cluster would do to be in balance; `plan apply` has exactly that done.

use super::output::{Align, Table, bytes, counted, printable};
use super::patience::Patience;
use super::{Context, Failure};
use crate::adapters::peers::Daemon;
use crate::model::balance::{ApplyPlan, PlanRunStatus, RunState};
use crate::model::plan::{ClusterPlan, PlanScore, StepAction};
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Lines of one part of a plan that people are shown.
const LINES_MAX: usize = 20;

/// Options of `plan`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Plan {
    /// Also save the plan, for `plan apply`
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Show every move and every shard that stays, not only the first ones
    #[arg(long)]
    all: bool,
    #[command(subcommand)]
    command: Option<PlanCommand>,
}

/// Subcommands of `plan`.
#[derive(Debug, Subcommand)]
pub(super) enum PlanCommand {
    /// Have exactly a saved plan carried out; refused if the cluster is not what it was when the plan was made
    Apply {
        /// As saved by `plan --out`
        file: PathBuf,
        /// Check everything, change nothing
        #[arg(long)]
        dry_run: bool,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
    /// Begin no further step of the plan that is being carried out; what has begun goes on to its end
    Cancel,
}

impl Plan {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        match self.command {
            None => {
                let plan = context.block_on(async move { Ok(daemon.make_plan().await?) })?;
                if let Some(file) = &self.out {
                    save(file, &plan)?;
                }
                context.print(&plan, || text(&plan, self.all, context.colour()))
            }
            Some(PlanCommand::Apply { file, dry_run, no_wait }) => {
                let plan = read(&file)?;
                let waits = !dry_run && !no_wait;
                let ended = apply(context, daemon, ApplyPlan { plan, dry_run }, waits)?;
                context.print(&ended, || said(&ended, dry_run))?;
                judge(&ended, dry_run)
            }
            Some(PlanCommand::Cancel) => {
                let ended = context.block_on(async move { Ok(daemon.cancel_plan().await?) })?;
                context.print(&ended, || said(&ended, false))
            }
        }
    }
}

fn save(file: &Path, plan: &ClusterPlan) -> Result<(), Failure> {
    let json =
        serde_json::to_string_pretty(plan).map_err(|e| Failure::failed(format!("no JSON: {e}"), ""))?;
    let unwritable =
        |e| Failure::failed(format!("{}: {e}", file.display()), "name a file that may be written");
    std::fs::write(file, format!("{json}\n")).map_err(unwritable)
}

fn read(file: &Path) -> Result<ClusterPlan, Failure> {
    let malformed = |e| {
        let place = format!("{}: {e}", file.display());
        Failure::failed(place, "name a file that `converthouse plan --out` has saved, unchanged")
    };
    serde_json::from_str(&super::read_file(file)?).map_err(malformed)
}

/// Has a plan carried out, and waits for its end.
fn apply(
    context: &Context,
    daemon: Arc<dyn Daemon>,
    request: ApplyPlan,
    waits: bool,
) -> Result<PlanRunStatus, Failure> {
    let progress = !context.json() && std::io::stderr().is_terminal();
    let patience = context.patience();
    context.block_on(async move {
        let begun = daemon.apply_plan(request).await?;
        if !waits || begun.state != RunState::Running {
            return Ok(begun);
        }
        ended(daemon, begun.started_unix_ms, progress, patience).await
    })
}

async fn ended(
    daemon: Arc<dyn Daemon>,
    started_unix_ms: u64,
    progress: bool,
    mut patience: Patience,
) -> Result<PlanRunStatus, Failure> {
    let mut seen = String::new();
    let bar = if progress { ProgressBar::new(1) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}") {
        bar.set_style(style);
    }
    loop {
        // A leader that changes meanwhile is no reason to give up.
        let status = daemon.cluster_status().await.ok();
        let run = status.and_then(|status| status.balance.run);
        if let Some(run) = run.filter(|run| run.started_unix_ms == started_unix_ms) {
            if run.state != RunState::Running {
                bar.finish_and_clear();
                return Ok(run);
            }
            // A long copy moves the plan on though no move has ended.
            seen = format!("{run:?} {:?}", daemon.operations().await.unwrap_or_default());
            let (all, left) = (run.splits + run.moves, run.splits_left + run.moves_left);
            bar.set_length(all.into());
            bar.set_position(all.saturating_sub(left).into());
            bar.set_message(format!(
                "{} and {} left",
                splits_said(run.splits_left),
                moves_said(run.moves_left)
            ));
        }
        let look = "look with `converthouse balance show` and `converthouse op list`";
        patience.seen(&seen, "the plan has not ended", look)?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) fn splits_said(count: impl Into<u64>) -> String {
    counted(count, "split", "splits")
}

pub(super) fn moves_said(count: impl Into<u64>) -> String {
    counted(count, "move", "moves")
}

/// One word for a plan's life.
fn state(state: RunState) -> &'static str {
    match state {
        RunState::Running => "running",
        RunState::Done => "done",
        RunState::Cancelled => "cancelled",
        RunState::Failed => "failed",
    }
}

fn said(run: &PlanRunStatus, dry_run: bool) -> String {
    if dry_run {
        let (splits, moves) = (splits_said(run.splits), moves_said(run.moves));
        return format!("the plan fits: {splits} and {moves} would be made\n");
    }
    format!("{}\n", run_line(run))
}

/// A plan's run in a line.
pub(super) fn run_line(run: &PlanRunStatus) -> String {
    let (splits, moves) = (splits_said(run.splits), moves_said(run.moves));
    let why = if run.outcome.is_empty() { String::new() } else { format!(": {}", printable(&run.outcome)) };
    match run.state {
        RunState::Running => format!(
            "plan running: {} of {splits} and {} of {moves} made",
            run.splits.saturating_sub(run.splits_left),
            run.moves.saturating_sub(run.moves_left),
        ),
        ended => format!("plan {} ({splits}, {moves}){why}", state(ended)),
    }
}

fn judge(run: &PlanRunStatus, dry_run: bool) -> Result<(), Failure> {
    if dry_run || matches!(run.state, RunState::Running | RunState::Done) {
        return Ok(());
    }
    let why = format!("the plan ended as {}: {}", state(run.state), run.outcome);
    Err(Failure::failed(why, "see `converthouse status`, then make a new plan"))
}

/// A duration as people say it.
fn duration(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7_199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3_600)),
    }
}

/// The plan for people.
pub(super) fn text(plan: &ClusterPlan, all: bool, colour: bool) -> String {
    if plan.is_empty() {
        return format!("nothing to be done\n{}{}", scores(plan, colour), stays(plan, all));
    }
    let mut text = format!(
        "{}, then {} with {} of {} in {}, about {}\n",
        splits_said(plan.splits.len() as u64),
        moves_said(plan.moves.len() as u64),
        counted(plan.copies, "copy", "copies"),
        bytes(plan.bytes),
        counted(plan.waves, "wave", "waves"),
        duration(plan.seconds),
    );
    text.push_str(&scores(plan, colour));
    text.push_str(&splits(plan, all));
    text.push_str(&steps(plan, all, colour));
    text.push_str(&stays(plan, all));
    for line in &plan.compromises {
        let _ = writeln!(text, "cannot be kept: {}", printable(line));
    }
    text
}

fn scores(plan: &ClusterPlan, colour: bool) -> String {
    use Align::{Left, Right};
    let mut out = Table::new(&[("SCORE", Left), ("NOW", Right), ("THEN", Right)]);
    let of = |name: &str, score: fn(&PlanScore) -> f64| {
        [name.to_owned(), format!("{:.4}", score(&plan.before)), format!("{:.4}", score(&plan.after))]
    };
    out.row(of("total", |score| score.total));
    out.row(of("replicas", |score| score.replicas));
    out.row(of("leaders", |score| score.leaders));
    out.row(of("bytes", |score| score.bytes));
    out.row(of("bytes copied", |score| score.moved));
    out.row(of("replicas copied", |score| score.copied));
    out.row(of("leader changes", |score| score.leader_changes));
    let gap = plan.gap.map_or_else(|| "not known".to_owned(), |gap| format!("{:.1} %", gap * 100.0));
    let proof = match plan.bound {
        bound if bound > 0.0 => format!("no placement scores below {bound:.4}; gap {gap}"),
        _ => "no bound was looked for".to_owned(),
    };
    format!("\n{}{}{proof}\n", out.text(0, colour), short(plan))
}

/// That not all moves get where the score is for.
fn short(plan: &ClusterPlan) -> String {
    let held: BTreeSet<_> = plan.stays.iter().map(|stays| (stays.table, stays.shard)).collect();
    let short = plan.moves.iter().filter(|of| held.contains(&(of.table, of.shard))).count() as u64;
    let shards = counted(short, "shard does", "shards do");
    if short > 0 {
        format!("THEN is where all moves lead; {shards} not get there, as told below\n")
    } else {
        String::new()
    }
}

fn limit(all: bool) -> usize {
    if all { usize::MAX } else { LINES_MAX }
}

fn more(count: usize, all: bool) -> String {
    let more = count.saturating_sub(limit(all));
    if more > 0 { format!("  … and {more} more; --all shows them\n") } else { String::new() }
}

fn splits(plan: &ClusterPlan, all: bool) -> String {
    let mut text = String::new();
    if !plan.splits.is_empty() {
        text.push_str("\nsplits\n");
    }
    for split in plan.splits.iter().take(limit(all)) {
        let (name, shard) = (printable(&split.table_name), split.shard);
        let _ = writeln!(text, "  {name} {shard} at {} into {}, {}", split.cut, split.left, split.right);
    }
    text.push_str(&more(plan.splits.len(), all));
    text
}

fn steps(plan: &ClusterPlan, all: bool, colour: bool) -> String {
    use Align::{Left, Right};
    if plan.steps.is_empty() {
        return String::new();
    }
    let moves: BTreeMap<_, _> = plan.moves.iter().map(|m| ((m.table, m.shard), m)).collect();
    let mut out = Table::new(&[
        ("WAVE", Right),
        ("TABLE", Left),
        ("SHARD", Left),
        ("STEP", Left),
        ("BYTES", Right),
        ("WHY", Left),
    ]);
    for step in plan.steps.iter().take(limit(all)) {
        let of = moves.get(&(step.table, step.shard));
        let what = match (step.action, &step.replaces) {
            (StepAction::Add, Some(from)) => format!("copy to {}, for the one on {from}", step.node),
            (StepAction::Add, None) => format!("copy to {}", step.node),
            (StepAction::Await, _) => format!("wait for the copy on {}", step.node),
            (StepAction::Lead, _) => format!("lead by {}", step.node),
            (StepAction::Remove, _) => format!("remove from {}", step.node),
        };
        out.row([
            (step.wave + 1).to_string(),
            of.map_or_else(|| step.table.short(), |of| of.table_name.clone()),
            step.shard.to_string(),
            what,
            if step.bytes > 0 { bytes(step.bytes) } else { "-".to_owned() },
            of.map_or_else(|| "-".to_owned(), |of| of.reason.clone()),
        ]);
    }
    format!("\n{}{}", out.text(0, colour), more(plan.steps.len(), all))
}

/// Shards that stay: how many for each reason; each of them with `--all`.
fn stays(plan: &ClusterPlan, all: bool) -> String {
    let mut text = String::new();
    let mut reasons: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for stay in &plan.stays {
        *reasons.entry((&stay.reason, &stay.why)).or_default() += 1;
    }
    if !reasons.is_empty() {
        text.push_str("\nshards that stay\n");
    }
    for ((reason, why), count) in reasons {
        let _ = writeln!(text, "  {count} {}: {}", printable(reason), printable(why));
    }
    for stay in plan.stays.iter().filter(|_| all) {
        let _ =
            writeln!(text, "  {} {}: {}", printable(&stay.table_name), stay.shard, printable(&stay.reason));
    }
    text
}
