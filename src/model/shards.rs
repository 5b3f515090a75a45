//! A table's shards as a view holds them: by number, and by the nodes that hold them.
//!
//! The second is made when it is first asked for and forgotten when anything changes: agents ask what is on their own
//! node, out of very many. Pure.

use super::ids::{NodeId, ShardId};
use super::shared::Shared;
use super::table::Shard;
use super::view::Versioned;
use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

type Records = BTreeMap<ShardId, Shared<Versioned<Shard>>>;

/// See the module. Reads and writes like the map that it is.
#[derive(Debug, Default)]
pub struct Shards {
    records: Records,
    on: OnceLock<BTreeMap<NodeId, Vec<ShardId>>>,
}

impl Shards {
    /// Those that have a replica on a node, in number order.
    pub fn on(&self, node: &NodeId) -> impl Iterator<Item = &Shard> {
        let on = self.on.get_or_init(|| {
            let mut on: BTreeMap<NodeId, Vec<ShardId>> = BTreeMap::new();
            for (id, shard) in &self.records {
                for replica in &shard.record.replicas {
                    let held = match on.get_mut(&replica.node) {
                        Some(held) => held,
                        None => on.entry(replica.node.clone()).or_default(),
                    };
                    if held.last() != Some(id) {
                        held.push(*id);
                    }
                }
            }
            on
        });
        let here = on.get(node).into_iter().flatten();
        here.filter_map(|id| self.records.get(id)).map(|shard| &shard.record)
    }
}

impl Deref for Shards {
    type Target = Records;
    fn deref(&self) -> &Records {
        &self.records
    }
}

impl DerefMut for Shards {
    fn deref_mut(&mut self) -> &mut Records {
        self.on = OnceLock::new();
        &mut self.records
    }
}

impl Clone for Shards {
    /// A clone is made to be changed.
    fn clone(&self) -> Self {
        Self { records: self.records.clone(), on: OnceLock::new() }
    }
}

impl PartialEq for Shards {
    fn eq(&self, other: &Self) -> bool {
        self.records == other.records
    }
}

impl Eq for Shards {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{PartitionRange, TableId};

    #[test]
    fn what_is_on_a_node_follows_every_change() {
        let node = |name: &str| -> NodeId { name.parse().unwrap() };
        let shard = |id: u32, on: &[&str]| {
            let range = PartitionRange::new(id, id + 1).unwrap();
            let table = TableId(uuid::Uuid::nil());
            let record = Shard::new(table, ShardId(id), range, on.iter().map(|name| node(name)));
            Shared::from(Versioned { record, revision: 1 })
        };
        let on = |shards: &Shards, name: &str| shards.on(&node(name)).map(|s| s.id.0).collect::<Vec<_>>();
        let mut shards = Shards::default();
        shards.insert(ShardId(1), shard(1, &["n1", "n2"]));
        shards.insert(ShardId(0), shard(0, &["n2"]));
        assert_eq!((on(&shards, "n1"), on(&shards, "n2"), on(&shards, "n3")), (vec![1], vec![0, 1], vec![]));
        let before = shards.clone();
        shards.insert(ShardId(1), shard(1, &["n1", "n3"]));
        assert_eq!((on(&shards, "n2"), on(&shards, "n3")), (vec![0], vec![1]));
        assert_eq!(on(&before, "n2"), [0, 1]);
    }
}
