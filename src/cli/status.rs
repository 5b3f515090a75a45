//! `converthouse status`: the cluster at a glance.

use super::node::nodes;
use super::output::{or_dash, printable};
use super::table::tables;
use super::{Context, Failure, balance, hold};
use crate::model::control::ClusterStatus;
use clap::Args;

/// Options of `status`.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// End with code 1 if the cluster is not healthy
    #[arg(long)]
    check: bool,
}

impl Status {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let status = context.block_on(async move { Ok(daemon.cluster_status().await?) })?;
        context.print(&status, || text(&status, context.colour()))?;
        if self.check && !status.healthy {
            let what = format!("cluster {} is not healthy", status.cluster);
            return Err(Failure::failed(what, "see the problems above"));
        }
        Ok(())
    }
}

fn text(status: &ClusterStatus, colour: bool) -> String {
    let (good, bad, plain) = if colour { ("\x1b[32m", "\x1b[31m", "\x1b[0m") } else { ("", "", "") };
    let health =
        if status.healthy { format!("{good}healthy{plain}") } else { format!("{bad}not healthy{plain}") };
    let up = status.nodes.iter().filter(|node| node.live && node.clickhouse_up == Some(true)).count();
    let mut text = format!(
        "cluster {}: {health}\nleader  {} (term {}), {up} of {} nodes up\n",
        printable(&status.cluster),
        or_dash(status.leader.as_ref()),
        status.term,
        status.nodes.len(),
    );
    text.push_str(&balance::text(&status.balance));
    text.push('\n');
    text.push_str(&nodes(&status.nodes, 0, colour));
    text.push('\n');
    if status.tables.is_empty() {
        text.push_str("no tables\n");
    } else {
        text.push_str(&tables(&status.tables, 0, colour));
    }
    if !status.holds.is_empty() {
        text.push_str("\nheld\n");
        text.push_str(&hold::text(&status.holds, colour));
    }
    if !status.problems.is_empty() {
        text.push_str("\nproblems\n");
        for problem in &status.problems {
            text.push_str(&format!("  {bad}-{plain} {}\n", printable(problem)));
        }
    }
    text
}
