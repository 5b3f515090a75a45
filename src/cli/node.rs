//! `converthouse node list|drain|cordon|activate|remove`.

use super::output::{Align, Table, bytes, or_dash};
use super::{Context, Failure, drain};
use crate::adapters::peers::known;
use crate::model::control::NodeStatus;
use crate::model::{NodeId, NodeState};
use clap::Subcommand;
use serde::Serialize;

/// Subcommands of `node`.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List nodes
    List,
    /// Have a node emptied: its replicas move to other nodes, then it may be taken away
    Drain {
        /// Its name
        node: NodeId,
        /// Wait until it is empty, and say what it waits for
        #[arg(long)]
        wait: bool,
    },
    /// Give a node nothing new; it keeps what it has
    Cordon {
        /// Its name
        node: NodeId,
    },
    /// Take a drained or cordoned node back into use
    Activate {
        /// Its name
        node: NodeId,
    },
    /// Forget a node that is empty, or lost and rebuilt elsewhere; its daemon must be stopped
    Remove {
        /// Its name
        node: NodeId,
    },
}

/// What `node remove` answers.
#[derive(Serialize)]
struct Removed {
    node: NodeId,
    removed: bool,
}

impl NodeCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let (node, state, waits) = match self {
            Self::List => {
                let status = context.block_on(async move { Ok(known(daemon.cluster_status().await?)?) })?;
                return context.print(&status.nodes, || nodes(&status.nodes, 0, context.colour()));
            }
            Self::Remove { node } => {
                let id = node.clone();
                context.block_on(async move { Ok(daemon.remove_node(id).await?) })?;
                let removed = Removed { node, removed: true };
                return context.print(&removed, || format!("node {} is forgotten\n", removed.node));
            }
            Self::Drain { node, wait } => (node, NodeState::Draining, wait),
            Self::Cordon { node } => (node, NodeState::Cordoned, false),
            Self::Activate { node } => (node, NodeState::Active, false),
        };
        let patience = context.patience();
        let progress = !context.json();
        let status = context.block_on(async move {
            let status = daemon.set_node_state(node.clone(), state).await?;
            if !waits {
                return Ok(status);
            }
            drain::emptied(daemon, node, progress, patience).await
        })?;
        context.print(&status, || nodes(std::slice::from_ref(&status), 0, context.colour()))
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
