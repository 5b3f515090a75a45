//! `converthouse balance`: what the cluster may do by itself, and how far it is from balance.

use super::output::{bytes, or_dash, printable};
use super::{Context, Failure, plan};
use crate::adapters::peers::known;
use crate::model::balance::{BalanceMode, BalanceStatus, SetBalance};
use clap::{Args, Subcommand};
use std::fmt::Write as _;

/// Subcommands of `balance`.
#[derive(Debug, Subcommand)]
pub(super) enum BalanceCommand {
    /// Show it
    Show,
    /// Nothing splits or moves by itself
    Off(Why),
    /// The plan is made and shown, not carried out
    Advisory(Why),
    /// Shards split and move by themselves
    On(Why),
    /// What the leader's configuration says
    Configured(Why),
}

/// Options of a change.
#[derive(Debug, Args)]
pub(super) struct Why {
    /// Why, for those who look later
    #[arg(long, default_value = "", value_name = "TEXT")]
    reason: String,
}

impl BalanceCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let (mode, reason) = match self {
            Self::Show => {
                let status = context.block_on(async move { Ok(known(daemon.cluster_status().await?)?) })?;
                return context.print(&status.balance, || text(&status.balance));
            }
            Self::Off(why) => (Some(BalanceMode::Off), why.reason),
            Self::Advisory(why) => (Some(BalanceMode::Advisory), why.reason),
            Self::On(why) => (Some(BalanceMode::On), why.reason),
            Self::Configured(why) => (None, why.reason),
        };
        let request = SetBalance { mode, reason };
        let status = context.block_on(async move { Ok(daemon.set_balance(request).await?) })?;
        context.print(&status, || text(&status))
    }
}

fn word(mode: BalanceMode) -> &'static str {
    match mode {
        BalanceMode::Off => "off",
        BalanceMode::Advisory => "advisory",
        BalanceMode::On => "on",
    }
}

/// A few lines.
pub(super) fn text(status: &BalanceStatus) -> String {
    let mut text = format!("balance {}", or_dash(status.mode.map(word)));
    if status.mode != status.configured {
        let why = if status.reason.is_empty() { "no reason given" } else { &status.reason };
        let _ = write!(text, " (configured: {}; {})", or_dash(status.configured.map(word)), printable(why));
    }
    text.push('\n');
    if let Some(planned) = status.planned {
        let (splits, moves) = (planned.splits, planned.moves);
        let (splits_said, moves_said) = (plan::splits_said(splits), plan::moves_said(moves));
        let size = format!("{splits_said}, {moves_said}, {}", bytes(planned.bytes));
        let line = if splits + moves == 0 { "in balance".to_owned() } else { size };
        let _ = writeln!(text, "planned {line}");
    }
    if let Some(what) = &status.waits_for {
        let _ = writeln!(text, "waits   {}", printable(what));
    }
    if let Some(run) = &status.run {
        let _ = writeln!(text, "applied {}", plan::run_line(run));
    }
    text
}
