//! `converthouse routes DB.T`: where a table's rows are read.

use super::output::{Align, Table};
use super::{Context, Failure, parse_name, quote_name};
use crate::model::routes::{RouteReplica, RouteShard, TableRoutes};
use crate::model::{Epoch, NodeId, PartitionRange, ShardId, TableId, TableName};
use clap::Args;
use futures::StreamExt;
use serde::Serialize;
use std::collections::BTreeMap;

/// Options of `routes`.
#[derive(Debug, Args)]
pub(super) struct Routes {
    /// db.table
    #[arg(value_parser = parse_name)]
    name: TableName,
    /// Print them again with every new epoch, until Ctrl-C; with --json, one line each
    #[arg(long, short)]
    watch: bool,
}

/// Routes as `--json` shows them; passwords are not part of them.
#[derive(Serialize)]
struct RoutesView<'a> {
    id: TableId,
    database: &'a str,
    table: &'a str,
    epoch: Epoch,
    partitions: u32,
    cluster: String,
    shards: Vec<ShardView<'a>>,
    groups: BTreeMap<&'a str, Vec<ShardView<'a>>>,
}

#[derive(Serialize)]
struct ShardView<'a> {
    shard: ShardId,
    range: PartitionRange,
    weight: u32,
    replicas: Vec<ReplicaView<'a>>,
}

#[derive(Serialize)]
struct ReplicaView<'a> {
    node: &'a NodeId,
    host: &'a str,
    port: u16,
    secure: bool,
    user: &'a str,
    database: &'a str,
}

fn shard_view(shard: &RouteShard) -> ShardView<'_> {
    ShardView {
        shard: shard.shard,
        range: shard.range,
        weight: shard.range.width(),
        replicas: shard.replicas.iter().map(replica_view).collect(),
    }
}

fn replica_view(replica: &RouteReplica) -> ReplicaView<'_> {
    let RouteReplica { node, endpoint, database } = replica;
    let (host, user) = (&endpoint.host, &endpoint.user);
    ReplicaView { node, host, port: endpoint.port, secure: endpoint.secure, user, database }
}

fn view(routes: &TableRoutes) -> RoutesView<'_> {
    RoutesView {
        id: routes.table,
        database: &routes.name.database,
        table: &routes.name.table,
        epoch: routes.epoch,
        partitions: routes.partitions,
        cluster: routes.cluster(),
        shards: routes.shards.iter().map(shard_view).collect(),
        groups: routes
            .groups
            .iter()
            .map(|(name, group)| (name.as_str(), group.iter().map(shard_view).collect()))
            .collect(),
    }
}

fn text(routes: &TableRoutes, colour: bool) -> String {
    use Align::{Left, Right};
    let mut text = format!("{}  {}  cluster {}\n", quote_name(&routes.name), routes.epoch, routes.cluster());
    let groups = routes.groups.iter().map(|(name, shards)| (format!("\ngroup {name}\n"), shards));
    for (head, shards) in std::iter::once((String::new(), &routes.shards)).chain(groups) {
        let columns = [
            ("SHARD", Left),
            ("PARTITIONS", Left),
            ("WEIGHT", Right),
            ("NODE", Left),
            ("ADDRESS", Left),
            ("DATABASE", Left),
        ];
        let mut out = Table::new(&columns);
        for shard in shards {
            for (at, replica) in shard.replicas.iter().enumerate() {
                let front = |text: String| if at == 0 { text } else { String::new() };
                let secure = if replica.endpoint.secure { " (secure)" } else { "" };
                out.row([
                    front(shard.shard.to_string()),
                    front(shard.range.to_string()),
                    front(shard.range.width().to_string()),
                    replica.node.to_string(),
                    format!("{}:{}{secure}", replica.endpoint.host, replica.endpoint.port),
                    replica.database.clone(),
                ]);
            }
        }
        text.push_str(&head);
        text.push_str(&out.text(0, colour));
    }
    text
}

impl Routes {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        if !self.watch {
            let routes = context.block_on(async move { Ok(daemon.routes(self.name).await?) })?;
            return context.print(&view(&routes), || text(&routes, context.colour()));
        }
        context.block_on(async move {
            let mut stream = daemon.watch_routes(self.name).await?;
            while let Some(routes) = stream.next().await {
                let routes = routes?;
                if context.json() {
                    // One line each, so that a reader knows where one ends.
                    let line = serde_json::to_string(&view(&routes)).unwrap_or_default();
                    context.emit(&format!("{line}\n"))?;
                } else {
                    context.emit(&format!("{}\n", text(&routes, context.colour())))?;
                }
            }
            Err(Failure::unavailable("the daemon ended the watch", "it may be stopping; ask another one"))
        })
    }
}
