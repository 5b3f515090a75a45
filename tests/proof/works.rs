//! What the operator and the cluster do meanwhile: operations, begun and not waited for.

use super::nemesis::Nemesis;
use super::support::cluster::Cluster;
use super::support::readers::Readers;
use converthouse::model::control::{ShardStatus, TableStatus};
use std::collections::BTreeSet;

const NODES_MAX: usize = 6;
const SHARDS_MAX: usize = 8;

impl Nemesis<'_> {
    /// Asks; what is refused because something else is under way is no fault.
    pub(super) fn ask(&mut self, cluster: &Cluster, what: &str, arguments: &[&str]) -> bool {
        let said = cluster.cli(arguments);
        match &said {
            Ok(_) => self.count(format!("asked: {what}")),
            Err(error) => {
                println!("{what}: {}", error.lines().next().unwrap_or_default());
                self.count(format!("asked: {what}: refused"));
            }
        }
        said.is_ok()
    }

    /// Begins something by the dice; a node that is drained is named.
    pub(super) async fn begin(&mut self, cluster: &mut Cluster, readers: &Readers) -> Option<String> {
        let table = cluster.table("shop.events").ok()?;
        match self.below(5) {
            0 if cluster.nodes.len() < NODES_MAX => self.join(cluster, readers).await,
            1 => return self.drain(cluster),
            2 if table.shards.len() < SHARDS_MAX => self.split(cluster),
            2 | 3 if self.merge(cluster, &table) => {}
            _ => self.move_one(cluster, &table),
        }
        None
    }

    pub(super) fn split(&mut self, cluster: &Cluster) {
        self.ask(cluster, "all shards split", &["shard", "split", "shop.events", "--no-wait"]);
    }

    /// Two neighbours on the same nodes, if there are any.
    fn merge(&mut self, cluster: &Cluster, table: &TableStatus) -> bool {
        let nodes = |shard: &ShardStatus| -> BTreeSet<String> {
            shard.replicas.iter().map(|replica| replica.node.to_string()).collect()
        };
        let mut pairs = table.shards.windows(2);
        let Some(pair) = pairs.find(|pair| nodes(&pair[0]) == nodes(&pair[1])) else { return false };
        let (left, right) = (pair[0].id.to_string(), pair[1].id.to_string());
        self.ask(cluster, "shards merged", &["shard", "merge", "shop.events", &left, &right, "--no-wait"])
    }

    fn drain(&mut self, cluster: &Cluster) -> Option<String> {
        let id = cluster.nodes[self.below(cluster.nodes.len())].id.clone();
        self.ask(cluster, "node drained", &["node", "drain", &id]).then_some(id)
    }

    fn move_one(&mut self, cluster: &Cluster, table: &TableStatus) {
        let shard = &table.shards[self.below(table.shards.len())];
        let holds = |node: &str| shard.replicas.iter().any(|replica| replica.node.as_str() == node);
        let free: Vec<&str> =
            cluster.nodes.iter().map(|node| node.id.as_str()).filter(|node| !holds(node)).collect();
        let from = shard.replicas[self.below(shard.replicas.len())].node.to_string();
        if let Some(to) = free.get(self.below(free.len().max(1))) {
            let id = shard.id.to_string();
            self.ask(
                cluster,
                "replica moved",
                &["shard", "move", "shop.events", &id, &from, to, "--no-wait"],
            );
        }
    }

    pub(super) async fn join(&mut self, cluster: &mut Cluster, readers: &Readers) {
        self.count("asked: node joined");
        cluster.add_node().await;
        let node = cluster.nodes.last().unwrap();
        node.until_routed(&self.cluster_name, "shop", "events").await;
        readers.add(node, &self.cluster_name).await;
    }
}
