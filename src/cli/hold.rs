//! `converthouse hold`: pauses and freezes, with a reason and an end.

use super::output::{Align, Table};
use super::{Context, Failure, parse_name};
use crate::adapters::peers::known;
use crate::model::ShardId;
use crate::model::hold::{Brake, HoldStatus, NamedScope, SetHold};
use crate::model::table::TableName;
use clap::{Args, Subcommand};
use std::time::{Duration, UNIX_EPOCH};

/// Subcommands of `hold`.
#[derive(Debug, Subcommand)]
pub(super) enum HoldCommand {
    /// List pauses and freezes in force
    List,
    /// The cluster begins nothing by itself there; what has begun, and what an operator asks for, is done
    Pause(Set),
    /// Nothing moves nor splits there, whoever asks for it; moves under way stand still
    Freeze(Set),
    /// End a pause or freeze
    Release(Scope),
}

/// What is held.
#[derive(Debug, Args)]
pub(super) struct Scope {
    /// db.table; without it the whole cluster
    #[arg(value_parser = parse_name)]
    table: Option<TableName>,
    /// Only this shard
    #[arg(requires = "table")]
    shard: Option<ShardId>,
}

/// Options of `hold pause` and `hold freeze`.
#[derive(Debug, Args)]
pub(super) struct Set {
    #[command(flatten)]
    scope: Scope,
    /// Why, for those who look later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// For how long, such as 30m, 2h or 7d; at most 90d
    #[arg(long = "for", value_name = "DURATION", value_parser = duration_ms)]
    ttl_ms: u64,
}

/// `90s`, `30m`, `2h 15m`, `7d`.
fn duration_ms(text: &str) -> Result<u64, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let ms = u64::try_from(duration.as_millis()).map_err(|_| "too long".to_owned())?;
    if ms > 0 { Ok(ms) } else { Err("it has to be longer than nothing".to_owned()) }
}

impl From<Scope> for NamedScope {
    fn from(scope: Scope) -> Self {
        Self { table: scope.table, shard: scope.shard }
    }
}

impl HoldCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let request = match self {
            Self::List => {
                let status = context.block_on(async move { Ok(known(daemon.cluster_status().await?)?) })?;
                return context.print(&status.holds, || text(&status.holds, context.colour()));
            }
            Self::Pause(set) => set.request(Brake::Pause),
            Self::Freeze(set) => set.request(Brake::Freeze),
            Self::Release(scope) => {
                SetHold { scope: scope.into(), brake: None, reason: String::new(), ttl_ms: 0 }
            }
        };
        let holds = context.block_on(async move { Ok(daemon.set_hold(request).await?) })?;
        context.print(&holds, || text(&holds, context.colour()))
    }
}

impl Set {
    fn request(self, brake: Brake) -> SetHold {
        let (scope, brake) = (self.scope.into(), Some(brake));
        SetHold { scope, brake, reason: self.reason, ttl_ms: self.ttl_ms }
    }
}

/// A moment on the wall clock, to the second.
fn moment(unix_ms: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_millis(unix_ms));
    at.map_or_else(|| "-".to_owned(), |at| humantime::format_rfc3339_seconds(at).to_string())
}

/// One line a hold.
pub(super) fn text(holds: &[HoldStatus], colour: bool) -> String {
    use Align::Left;
    if holds.is_empty() {
        return "nothing is paused or frozen\n".to_owned();
    }
    let mut out = Table::new(&[("WHAT", Left), ("STATE", Left), ("UNTIL", Left), ("REASON", Left)]);
    for hold in holds {
        out.row([
            hold.scope.to_string(),
            hold.brake.code().to_owned(),
            moment(hold.until_unix_ms),
            hold.reason.clone(),
        ]);
    }
    out.text(0, colour)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_moments() {
        assert_eq!(duration_ms("90s"), Ok(90_000));
        assert_eq!(duration_ms("1d 2h"), Ok(93_600_000));
        for wrong in ["", "h", "5", "-1m", "0m", "99999999999999999999d", "5é"] {
            assert!(duration_ms(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(moment(1_700_000_000_000), "2023-11-14T22:13:20Z");
    }
}
