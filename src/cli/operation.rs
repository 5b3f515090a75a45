//! `converthouse op list|show|cancel`, and how a command that begins operations shows and awaits them.

use super::output::{Align, Table};
use super::patience::Patience;
use super::{Context, Failure};
use crate::adapters::peers::Daemon;
use crate::model::OperationId;
use crate::model::control::{Asked, Begun, Operate, OperationStatus};
use crate::model::operation::State;
use crate::model::table::TableName;
use clap::{Args, Subcommand};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(300);

/// Subcommands of `op`.
#[derive(Debug, Subcommand)]
pub(super) enum OperationCommand {
    /// List operations, open ones and those that ended lately
    List {
        /// Only those that have not ended
        #[arg(long)]
        open: bool,
    },
    /// Show one operation, and what it waits for
    Show {
        /// Its number, as in `op list`
        id: OperationId,
    },
    /// Have an operation undone; one that cannot be undone any more is finished instead
    Cancel {
        /// Its number, as in `op list`
        id: OperationId,
    },
}

/// Options of every command that begins operations.
#[derive(Debug, Args)]
pub(super) struct Begin {
    /// Why, for those who look later
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
    /// Check everything and show what would be begun, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until it has ended
    #[arg(long)]
    no_wait: bool,
}

impl OperationCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        match self {
            Self::List { open } => {
                let mut listed = context.block_on(async move { Ok(daemon.operations().await?) })?;
                listed.retain(|status| !open || status.operation.state.is_open());
                context.print(&listed, || table(&listed, context.colour()))
            }
            Self::Show { id } => {
                let listed = context.block_on(async move { Ok(daemon.operations().await?) })?;
                let found = listed.into_iter().find(|status| status.operation.id == id);
                let found = found.ok_or_else(|| {
                    Failure::from(crate::adapters::peers::Error::NotFound(format!("operation {id}")))
                })?;
                context.print(&found, || table(std::slice::from_ref(&found), context.colour()))
            }
            Self::Cancel { id } => {
                let status = context.block_on(async move { Ok(daemon.cancel_operation(id).await?) })?;
                context.print(&status, || table(std::slice::from_ref(&status), context.colour()))
            }
        }
    }
}

/// One line an operation.
fn table(list: &[OperationStatus], colour: bool) -> String {
    use Align::{Left, Right};
    let columns =
        [("OP", Left), ("TABLE", Left), ("STATE", Left), ("WHAT", Left), ("TOOK", Right), ("NOTE", Left)];
    let mut out = Table::new(&columns);
    for OperationStatus { operation, table_name, waiting_for, .. } in list {
        let took = match operation.ended_unix_ms {
            0 => "-".to_owned(),
            ended => format!("{:.1} s", seconds(ended.saturating_sub(operation.started_unix_ms))),
        };
        let waits = waiting_for.as_ref().map(|what| format!("waits for {what}"));
        let ended = Some(operation.outcome.clone()).filter(|outcome| !outcome.is_empty());
        out.row([
            operation.id.to_string(),
            table_name.clone().unwrap_or_else(|| "(dropped)".to_owned()),
            state(operation.state).to_owned(),
            operation.kind.to_string(),
            took,
            waits.or(ended).unwrap_or_else(|| operation.reason.clone()),
        ]);
    }
    out.text(0, colour)
}

#[expect(clippy::cast_precision_loss, reason = "durations are small")]
fn seconds(ms: u64) -> f64 {
    ms as f64 / 1_000.0
}

fn state(state: State) -> &'static str {
    match state {
        State::Running => "running",
        State::Cancelling => "cancelling",
        State::Done => "done",
        State::Cancelled => "cancelled",
        State::Failed => "failed",
    }
}

impl Begin {
    /// Begins what is asked for, waits for its end, and shows it.
    pub(super) fn run(self, context: &Context, name: TableName, asked: Asked) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let TableName { database, table: name } = name;
        let dry_run = self.dry_run;
        let request = Operate { database, table: name, asked, reason: self.reason, dry_run };
        let waits = !self.no_wait && !dry_run;
        let progress = !context.json() && std::io::stderr().is_terminal();
        let patience = context.patience();
        let ended = context.block_on(async move {
            let Begun { operations, skipped } = daemon.operate(request).await?;
            for left in skipped {
                // Nobody is left to tell if this fails.
                let _ = writeln!(std::io::stderr(), "left as it is: {}: {}", left.shard, left.why);
            }
            if !waits {
                return Ok(operations);
            }
            let ids: Vec<OperationId> = operations.iter().map(|status| status.operation.id).collect();
            await_end(daemon, &ids, progress, patience).await
        })?;
        context.print(&ended, || table(&ended, context.colour()))?;
        let bad =
            |status: &&OperationStatus| matches!(status.operation.state, State::Failed | State::Cancelled);
        ended.iter().find(bad).map_or(Ok(()), |status| {
            let operation = &status.operation;
            let why = format!(
                "operation {} ({}) ended as {}: {}",
                operation.id,
                operation.kind,
                state(operation.state),
                operation.outcome
            );
            Err(Failure::failed(why, "see `converthouse status`, then try again"))
        })
    }
}

async fn await_end(
    daemon: Arc<dyn Daemon>,
    ids: &[OperationId],
    progress: bool,
    mut patience: Patience,
) -> Result<Vec<OperationStatus>, Failure> {
    let numbers: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let late = format!("{} not ended", numbers.join(", "));
    let (mut shown, mut seen) = (String::new(), String::new());
    loop {
        // A leader that changes meanwhile is no reason to give up.
        if let Ok(mut all) = daemon.operations().await {
            all.retain(|status| ids.contains(&status.operation.id));
            let open: Vec<&OperationStatus> =
                all.iter().filter(|status| status.operation.state.is_open()).collect();
            if open.is_empty() && all.len() == ids.len() {
                return Ok(all);
            }
            seen = format!("{all:?}");
            let what = open.first().and_then(|status| status.waiting_for.clone()).unwrap_or_default();
            let line = format!("{} of {} ended; waits for {what}", all.len() - open.len(), ids.len());
            if progress && line != shown {
                // Nobody is left to tell if this fails.
                let _ = writeln!(std::io::stderr(), "{line}");
                shown = line;
            }
        }
        patience.seen(&seen, &late, "look with `converthouse op list`")?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
