//! Changes of shards and nodes that a case asks the cluster for, as an operator would.

use super::cluster::Cluster;
use super::event::full_name;
use super::failure::Failure;
use crate::adapters::peers::Daemon;
use crate::model::control::{Asked, Operate, OperationStatus};
use crate::model::{NodeId, NodeState, OperationId, ShardId, TableName};
use std::sync::Arc;

/// The first few of many lines.
pub(super) fn some(lines: &[String]) -> String {
    let few = lines.iter().take(SHOWN_MAX).map(String::as_str).collect::<Vec<_>>().join("; ");
    let more = lines.len().saturating_sub(SHOWN_MAX);
    if more > 0 { format!("{few}; and {more} more") } else { few }
}

/// Lines that a failure shows.
const SHOWN_MAX: usize = 5;

impl Cluster {
    /// What is under way and what it waits for, for who has to find out why a run failed.
    pub(super) async fn under_way(&self) -> String {
        let asked = self.ask("list operations", |daemon| async move { daemon.operations().await }).await;
        let Ok(operations) = asked else { return String::new() };
        let open = operations.iter().filter(|status| status.operation.state.is_open());
        let told = |status: &OperationStatus| {
            let waits =
                status.waiting_for.as_ref().map_or_else(String::new, |what| format!(" waits for {what}"));
            format!("{} {}{waits}", status.operation.id, status.operation.kind)
        };
        let open: Vec<String> = open.map(told).collect();
        if open.is_empty() {
            "; nothing is under way".into()
        } else {
            format!("; under way: {}", some(&open))
        }
    }

    /// Asks for a change of a table's shards. Refusals are told in a row: an operator may ask for what cannot be.
    pub(super) fn operate_in_background(&self, table: &str, asked: Asked) {
        let name = full_name(table);
        self.row(&format!("script asks of {name}: {}", serde_json::to_string(&asked).unwrap_or_default()));
        let request = Operate {
            database: name.database.clone(),
            table: name.table.clone(),
            asked,
            reason: "the case asks for it".into(),
            dry_run: false,
        };
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            let operate = |daemon: Arc<dyn Daemon>| {
                let request = request.clone();
                async move { daemon.operate(request).await }
            };
            if let Err(failure) = cluster.ask("change its shards", operate).await {
                cluster.refused(&format!("is refused: {}", failure.what));
            }
        });
    }

    /// The cluster did not do what a script asked for.
    pub(super) fn refused(&self, what: &str) {
        self.row(&format!("script {what}"));
        self.0.measures.borrow_mut().refused += 1;
    }

    /// Asks for every operation on a table that is under way to be undone.
    pub(super) fn cancel_in_background(&self, table: &str) {
        let name = full_name(table);
        self.row(&format!("script cancels what is under way on {name}"));
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            let Some(table) = cluster.table(&name) else { return };
            let open = |cluster: &Self| -> Vec<OperationId> {
                let view = cluster.view();
                view.open_operations().filter(|op| op.table == table.id).map(|op| op.id).collect()
            };
            for id in open(&cluster) {
                let cancel = |daemon: Arc<dyn Daemon>| async move { daemon.cancel_operation(id).await };
                if let Err(failure) = cluster.ask("cancel an operation", cancel).await {
                    cluster.refused(&format!("is refused: {}", failure.what));
                }
            }
        });
    }

    /// Has a node lead a shard.
    pub(super) async fn lead(&self, table: &TableName, shard: ShardId, node: &str) -> Result<(), Failure> {
        let to = node.parse().map_err(|error| self.failure(format!("{error}")))?;
        let request = Operate {
            database: table.database.clone(),
            table: table.table.clone(),
            asked: Asked::Lead { shard, to },
            reason: "the case asks for it".into(),
            dry_run: false,
        };
        let operate = |daemon: Arc<dyn Daemon>| {
            let request = request.clone();
            async move { daemon.operate(request).await }
        };
        self.ask("have a node lead", operate).await.map(|_| ())
    }

    /// Asks for a node to be drained, cordoned or used again.
    pub(super) fn set_node_in_background(&self, node: NodeId, state: NodeState) {
        self.row(&format!("script wants {node} {}", format!("{state:?}").to_lowercase()));
        let cluster = self.clone();
        tokio::task::spawn_local(async move {
            let set = |daemon: Arc<dyn Daemon>| {
                let node = node.clone();
                async move { daemon.set_node_state(node, state).await }
            };
            if let Err(failure) = cluster.ask("set the node's state", set).await {
                cluster.refused(&format!("is refused: {}", failure.what));
            }
        });
    }
}
