//! A table's shards as a view holds them: by number, and by the nodes that hold them.
//!
//! The second is made when it is first asked for and forgotten when anything changes: agents ask what is on their own
//! node, out of very many, and what was made of what. Pure.

use super::ids::{NodeId, ShardId};
use super::shared::Shared;
use super::table::Shard;
use super::view::Versioned;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;

type Records = BTreeMap<ShardId, Shared<Versioned<Shard>>>;

/// See the module. Reads and writes like the map that it is.
#[derive(Debug, Default)]
pub struct Shards {
    records: Records,
    index: OnceLock<Index>,
}

#[derive(Debug)]
struct Index {
    on: BTreeMap<NodeId, Vec<ShardId>>,
    /// Shards that others have been made of.
    parents: BTreeSet<ShardId>,
}

impl Shards {
    fn index(&self) -> &Index {
        self.index.get_or_init(|| {
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
            let parents = self.records.values().flat_map(|shard| &shard.record.parents);
            Index { on, parents: parents.copied().collect() }
        })
    }

    /// Those that have a replica on a node, in number order.
    pub fn on(&self, node: &NodeId) -> impl Iterator<Item = &Shared<Versioned<Shard>>> {
        let here = self.index().on.get(node).into_iter().flatten();
        here.filter_map(|id| self.records.get(id))
    }

    /// Those on a node that were made of that shard.
    pub fn children<'a>(
        &'a self,
        node: &NodeId,
        parent: ShardId,
    ) -> impl Iterator<Item = &'a Shard> + use<'a> {
        let any = self.index().parents.contains(&parent);
        let here = any.then(|| self.index().on.get(node)).flatten().into_iter().flatten();
        let here = here.filter_map(|id| self.records.get(id)).map(|shard| &shard.record);
        here.filter(move |shard| shard.parents.contains(&parent))
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
        self.index = OnceLock::new();
        &mut self.records
    }
}

impl Clone for Shards {
    /// A clone is made to be changed.
    fn clone(&self) -> Self {
        Self { records: self.records.clone(), index: OnceLock::new() }
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
        let on =
            |shards: &Shards, name: &str| shards.on(&node(name)).map(|s| s.record.id.0).collect::<Vec<_>>();
        let mut shards = Shards::default();
        shards.insert(ShardId(1), shard(1, &["n1", "n2"]));
        shards.insert(ShardId(0), shard(0, &["n2"]));
        assert_eq!((on(&shards, "n1"), on(&shards, "n2"), on(&shards, "n3")), (vec![1], vec![0, 1], vec![]));
        let before = shards.clone();
        shards.insert(ShardId(1), shard(1, &["n1", "n3"]));
        assert_eq!((on(&shards, "n2"), on(&shards, "n3")), (vec![0], vec![1]));
        assert_eq!(on(&before, "n2"), [0, 1]);
        let of = |shards: &Shards, name: &str, parent| shards.children(&node(name), ShardId(parent)).count();
        assert_eq!(of(&shards, "n1", 0), 0);
        shards.get_mut(&ShardId(1)).unwrap().record.parents = vec![ShardId(0)];
        assert_eq!((of(&shards, "n1", 0), of(&shards, "n2", 0), of(&shards, "n1", 1)), (1, 0, 0));
    }
}
