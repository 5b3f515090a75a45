//! Waiting until a node is empty: how far it is, and what blocks it.

use super::Failure;
use super::output::counted;
use super::patience::Patience;
use crate::adapters::peers::Daemon;
use crate::model::NodeId;
use crate::model::balance::BalanceMode;
use crate::model::control::{ClusterStatus, NodeStatus, OperationStatus};
use crate::model::hold::HoldStatus;
use crate::model::operation::Kind;
use indicatif::{ProgressBar, ProgressStyle};
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Reasons shown at once.
const REASONS_MAX: usize = 3;

/// Shows how far it is: a bar on a terminal, else a line whenever something is different.
struct Shown {
    bar: Option<ProgressBar>,
    said: String,
    lines: bool,
}

impl Shown {
    fn new(progress: bool) -> Self {
        let terminal = progress && std::io::stderr().is_terminal();
        let bar = terminal.then(|| {
            let bar = ProgressBar::new(0);
            // A template that cannot be read leaves the plain bar.
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}, {eta} left  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        Self { bar, said: String::new(), lines: progress && !terminal }
    }

    fn show(&mut self, node: &NodeId, left: u32, blocks: &[String]) {
        let why = blocks.iter().take(REASONS_MAX).cloned().collect::<Vec<_>>().join("; ");
        if let Some(bar) = &self.bar {
            // What is there at first is all there is, unless more comes.
            bar.set_length(bar.length().unwrap_or(0).max(left.into()));
            bar.set_position(bar.length().unwrap_or(0).saturating_sub(left.into()));
            bar.set_message(why.clone());
        }
        let line = format!("{} left on {node}; {why}", counted(left, "replica", "replicas"));
        if self.lines && line != self.said {
            // Nobody is left to tell if this fails.
            let _ = writeln!(std::io::stderr(), "{line}");
            self.said = line;
        }
    }
}

/// Waits until a node holds no replica.
pub(super) async fn emptied(
    daemon: Arc<dyn Daemon>,
    node: NodeId,
    progress: bool,
    mut patience: Patience,
) -> Result<NodeStatus, Failure> {
    let (mut shown, mut seen) = (Shown::new(progress), String::new());
    let late = format!("node {node} is not empty");
    loop {
        // A leader that changes meanwhile is no reason to give up.
        if let Ok(status) = daemon.cluster_status().await {
            let operations = daemon.operations().await.unwrap_or_default();
            let blocks = blocks(&node, &status, &operations);
            if let Some(found) = status.nodes.into_iter().find(|found| found.id == node) {
                if found.replicas == 0 {
                    shown.bar.iter().for_each(ProgressBar::finish_and_clear);
                    return Ok(found);
                }
                shown.show(&node, found.replicas, &blocks);
                seen = format!("{} {operations:?}", found.replicas);
            }
        }
        patience.seen(&seen, &late, "look with `converthouse op list`")?;
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What keeps a node from being emptied, or what is at work on it, the heaviest first. Pure.
fn blocks(node: &NodeId, status: &ClusterStatus, operations: &[OperationStatus]) -> Vec<String> {
    let mut blocks = Vec::new();
    match status.balance.mode {
        Some(BalanceMode::On) | None => {}
        Some(mode) => {
            let mode = if mode == BalanceMode::Off { "off" } else { "advisory" };
            blocks.push(format!("balancing is {mode}: nothing moves by itself"));
        }
    }
    let on_node = |hold: &&HoldStatus| {
        let of = |name: &crate::model::TableName| {
            let tables = status.tables.iter();
            let mut tables = tables.filter(|t| t.database == name.database && t.table == name.table);
            tables.any(|table| {
                let shards = table.shards.iter().filter(|s| hold.scope.shard.is_none_or(|id| id == s.id));
                shards.flat_map(|shard| &shard.replicas).any(|replica| replica.node == *node)
            })
        };
        hold.scope.table.as_ref().is_none_or(of)
    };
    blocks.extend(status.holds.iter().filter(on_node).map(ToString::to_string));
    blocks.extend(status.balance.waits_for.iter().map(|what| format!("the balancer waits: {what}")));
    let from = |status: &&OperationStatus| {
        status.operation.state.is_open()
            && matches!(&status.operation.kind, Kind::Move { from, .. } | Kind::Remove { from, .. } if from == node)
    };
    let moving: Vec<&OperationStatus> = operations.iter().filter(from).collect();
    blocks.extend(moving.iter().filter_map(|status| status.waiting_for.clone()));
    if moving.is_empty() && blocks.is_empty() {
        blocks.push("no replica is on its way: `converthouse plan` says why each stays".to_owned());
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::balance::BalanceStatus;
    use crate::model::hold::{Brake, NamedScope};
    use crate::model::operation::{Operation, State, WaitCode};
    use crate::model::{OperationId, ShardId, TableId};

    fn cluster(mode: BalanceMode) -> ClusterStatus {
        ClusterStatus {
            cluster: "c".into(),
            leader: None,
            term: 0,
            nodes: vec![],
            tables: vec![],
            healthy: true,
            problems: vec![],
            balance: BalanceStatus { mode: Some(mode), ..BalanceStatus::default() },
            holds: vec![],
            unread: false,
        }
    }

    #[test]
    fn what_blocks_a_drain_is_told() {
        let node: NodeId = "n1".parse().unwrap();
        let on = cluster(BalanceMode::On);
        assert_eq!(
            blocks(&node, &on, &[]),
            ["no replica is on its way: `converthouse plan` says why each stays"]
        );
        let hold = HoldStatus {
            scope: NamedScope { table: None, shard: None },
            brake: Brake::Freeze,
            reason: "audit".into(),
            since_unix_ms: 0,
            until_unix_ms: 1,
        };
        let off = ClusterStatus { holds: vec![hold], ..cluster(BalanceMode::Off) };
        assert_eq!(
            blocks(&node, &off, &[]),
            ["balancing is off: nothing moves by itself", "the cluster is frozen (audit)"]
        );
        let moving = |from: &str| OperationStatus {
            operation: Operation {
                id: OperationId(1),
                table: TableId(uuid::Uuid::nil()),
                kind: Kind::Move {
                    shard: ShardId(0),
                    from: from.parse().unwrap(),
                    to: "n3".parse().unwrap(),
                },
                state: State::Running,
                reason: String::new(),
                outcome: String::new(),
                started_unix_ms: 0,
                ended_unix_ms: 0,
            },
            table_name: None,
            waiting_for: Some(format!("a copy from {from}")),
            waiting_code: Some(WaitCode::Copying),
            took_ms: 0,
            copy: None,
        };
        assert_eq!(blocks(&node, &on, &[moving("n2"), moving("n1")]), ["a copy from n1"]);
    }
}
