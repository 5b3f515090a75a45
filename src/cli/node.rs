//! `converthouse node list`.

use super::output::{Align, Table, bytes, or_dash};
use super::{Context, Failure};
use crate::model::NodeState;
use crate::model::control::NodeStatus;
use clap::Subcommand;

/// Subcommands of `node`.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List nodes
    List,
}

impl NodeCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let Self::List = self;
        let daemon = context.daemon()?;
        let status = context.block_on(async move { Ok(daemon.cluster_status().await?) })?;
        context.print(&status.nodes, || nodes(&status.nodes, 0, context.colour()))
    }
}

/// One line a node.
pub(super) fn nodes(list: &[NodeStatus], indent: usize, colour: bool) -> String {
    use Align::{Left, Right};
    let mut out = Table::new(&[
        ("NODE", Left),
        ("DAEMON", Left),
        ("CLICKHOUSE", Left),
        ("VERSION", Left),
        ("STATE", Left),
        ("REPLICAS", Right),
        ("LEADERS", Right),
        ("STORED", Right),
        ("DISK FREE", Right),
        ("LABELS", Left),
        ("ADDRESS", Left),
    ]);
    for node in list {
        let state = match node.state {
            NodeState::Active => "active",
            NodeState::Cordoned => "cordoned",
            NodeState::Draining => "draining",
        };
        let disk = (node.disk_total_bytes > 0).then(|| bytes(node.disk_free_bytes));
        let labels: Vec<String> = node.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        out.row([
            node.id.to_string(),
            if node.live { "live".into() } else { "gone".into() },
            node.clickhouse_up.map_or("-".into(), |up| if up { "up".into() } else { "down".into() }),
            or_dash(Some(node.clickhouse_version.as_str()).filter(|version| !version.is_empty())),
            state.into(),
            node.replicas.to_string(),
            node.leaders.to_string(),
            bytes(node.bytes),
            or_dash(disk),
            or_dash(Some(labels.join(",")).filter(|labels| !labels.is_empty())),
            node.clickhouse.clone(),
        ]);
    }
    out.text(indent, colour)
}
