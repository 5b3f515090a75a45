//! Where a new replica's history comes from, and how it gets here: linked from the parents of a split on the same
//! node, copied from another node's replica (see `copy`), or none (all of it is in the topics).
//!
//! A replica is filled in a staging table that becomes the local table in one step, so one that stands is whole and
//! is never seeded again. Everything here may be done over after any failure.

use super::handover::{self, Starts};
use super::position::Position;
use super::work::Job;
use crate::actors::agent::{FromReplica, ReplicaNews};
use crate::adapters::clickhouse::{RemoteReplica, ReplicaTables};
use crate::adapters::kafka::{self, Committed};
use crate::error::Coded;
use crate::model::ids::{Epoch, NodeId, ShardId, TableId};
use crate::model::names::{self, TopicPartition};
use crate::model::range::PartitionRange;
use crate::model::table::{Replica, ReplicaState, Shard, ShardState};
use crate::model::view::ClusterView;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::oneshot;

/// Where a replica's history is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seed {
    /// In the topics.
    Fresh,
    /// In these databases on the same server.
    Link(Vec<(String, PartitionRange)>),
    /// On other nodes; any of them will do for the partitions that it has.
    Copy(Vec<Source>),
    /// Nowhere at the moment.
    Nowhere(String),
}

/// A replica to copy from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where.
    pub node: NodeId,
    /// The shard that it is of: this one, or a parent.
    pub shard: Shard,
    /// How it is reached.
    pub replica: RemoteReplica,
    /// The daemon beside it.
    pub daemon_url: String,
}

/// Where the history of `shard`'s replica on `node` is, given the replica databases that are whole on that node.
pub fn plan(
    view: &ClusterView,
    table: TableId,
    shard: &Shard,
    node: &NodeId,
    whole: &BTreeSet<String>,
) -> Seed {
    let Some(record) = view.tables.get(&table).map(|table| &table.record) else {
        return Seed::Nowhere("its table is not known any more".to_owned());
    };
    let database = |id: ShardId| names::replica_database(&record.name, table, id);
    let parents: Vec<&Shard> =
        view.shards_of(table).filter(|other| shard.parents.contains(&other.id)).collect();
    if !shard.parents.is_empty() {
        // Each parent gives what it has, and no more: to link a range makes it what the parent holds there, so the
        // second of two that merge would take away what the first gave.
        let of = |parent: &&Shard| Some((database(parent.id), shard.range.common(parent.range)?));
        let here: Vec<_> = parents.iter().filter_map(of).collect();
        let is_whole = here.len() == shard.parents.len();
        if is_whole && here.iter().all(|(database, _)| whole.contains(database)) {
            return Seed::Link(here);
        }
    }
    if is_fresh(shard, node) {
        return Seed::Fresh;
    }
    let preferred = shard.replica_on(node).and_then(|replica| replica.copy_from.clone());
    let copies = |from: &Shard| {
        let mut nodes: Vec<NodeId> =
            from.ready_nodes().filter(|other| *other != node && view.is_live(other)).cloned().collect();
        nodes.sort_by_key(|other| (Some(other) != preferred.as_ref(), Some(other) != from.leader.as_ref()));
        let source = |other: NodeId| {
            let record = &view.nodes.get(&other)?.record;
            let (endpoint, daemon_url) = (record.clickhouse.clone(), record.daemon_url.clone());
            Some(Source {
                node: other,
                shard: from.clone(),
                replica: RemoteReplica {
                    host: endpoint.host,
                    port: endpoint.port,
                    user: endpoint.user,
                    password: endpoint.password,
                    secure: endpoint.secure,
                    database: database(from.id),
                },
                daemon_url,
            })
        };
        nodes.into_iter().filter_map(source).collect::<Vec<_>>()
    };
    let mut sources = copies(shard);
    let serving = parents.iter().filter(|parent| parent.state != ShardState::Preparing);
    sources.extend(serving.flat_map(|parent| copies(parent)));
    let has = |partition| sources.iter().any(|source| source.shard.range.contains(partition));
    match shard.range.partitions().find(|partition| !has(*partition)) {
        Some(partition) => Seed::Nowhere(format!(
            "no copy of {partition} can be read on a node that is up; if none ever will be again, remove those that \
             are lost (`converthouse shard remove`), and what the topics still hold is what there is"
        )),
        None => Seed::Copy(sources),
    }
}

/// Whether its topics are all that the replica is to be made of. A new table's is. One that was whole before and has
/// gone (a disk replaced) is copied from another as long as there is one, even if that is down for the moment: its
/// topics may not hold everything any more.
fn is_fresh(shard: &Shard, node: &NodeId) -> bool {
    let replica = shard.replica_on(node);
    if replica.is_some_and(|replica| replica.state != ReplicaState::Creating) {
        let whole = |other: &&Replica| other.state != ReplicaState::Creating && other.node != *node;
        return !shard.replicas.iter().any(|other| whole(&other));
    }
    shard.parents.is_empty() && replica.is_none_or(|replica| replica.copy_from.is_none())
}

/// Whether what a node has recorded of a shard's partitions is of a copy that it had before, and nothing of the one
/// that it is to have now: a copy that was made records its positions before it becomes the local table.
fn of_earlier_life(recorded: &[Position], shard: &Shard, node: &NodeId) -> bool {
    let of_shard = |position: &&Position| position.table == shard.table.short() && position.shard == shard.id;
    let mut earlier = recorded.iter().filter(of_shard).filter(|position| position.life < shard.life_on(node));
    earlier.next().is_some() && !recorded.iter().any(|position| position.is_of(shard, node))
}

impl Job {
    /// Removes the local table of a copy that the node had before and gave up, if it is still there as a new one is to
    /// be copied. Whether one is there then.
    pub(super) async fn clear_left_over(&self, there: bool) -> Result<bool, String> {
        if !there || !self.is_left_over().await? || !matches!(self.plan_seed().await?, Seed::Copy(_)) {
            return Ok(there);
        }
        tracing::info!(table = %self.table.name, shard = %self.shard.id, database = %self.database,
            "removing what is left of an earlier copy before the new one is made");
        self.ports.clickhouse.drop_replica(&self.database).await.map_err(|e| e.told())?;
        Ok(false)
    }

    /// Only of a copy that nobody counts on yet, and that can be made again: in doubt it is no leftover.
    async fn is_left_over(&self) -> Result<bool, String> {
        let (shard, node) = (&self.shard, &self.ports.node);
        let copied = {
            let view = self.view.read();
            let replica = view.shard(self.table.id, shard.id).and_then(|shard| shard.replica_on(node));
            replica.is_some_and(|replica| {
                let new = replica.state == ReplicaState::Creating && replica.copy_from.is_some();
                new && replica.since == self.since() && self.since() != Epoch(0)
            })
        };
        if !copied {
            return Ok(false);
        }
        let kafka = &self.ports.kafka;
        let recorded = kafka.committed(&self.ports.group, &self.topics()).await.map_err(|e| e.told())?;
        let decoded = recorded.into_iter().flatten().filter_map(|at| Position::decode(&at.metadata));
        Ok(of_earlier_life(&decoded.collect::<Vec<_>>(), shard, node))
    }

    /// Makes the local table, which is not there, whole, if there is anything to take over; else it is made empty.
    ///
    /// Returns where partitions go on, as far as that is known without a look.
    pub(super) async fn seed(&self) -> Result<Starts, String> {
        let tables = self.tables();
        let plan = self.plan_seed().await;
        if !matches!(plan, Ok(Seed::Link(_))) {
            self.tell(ReplicaNews::Unseeded);
        }
        match plan? {
            Seed::Fresh => self.begin_again().await?,
            Seed::Nowhere(why) => return Err(why),
            Seed::Link(parents) => return self.link(&tables, &parents).await,
            // All copies have gone: what its topics hold is what there is.
            Seed::Copy(sources) if self.was_whole() == Some(true) && self.all_bare(&sources).await? => {
                self.begin_again().await?;
            }
            Seed::Copy(sources) => {
                self.unread()?;
                return self.copy(&tables, &sources).await.map(|()| Starts::new());
            }
        }
        self.ports.clickhouse.create_replica(&tables).await.map_err(|e| e.told())?;
        Ok(Starts::new())
    }

    fn topics(&self) -> Vec<TopicPartition> {
        let topic = |partition| names::topic_partition(&self.table.source, partition);
        self.shard.range.partitions().map(topic).collect()
    }

    async fn plan_seed(&self) -> Result<Seed, String> {
        let server = &self.ports.clickhouse;
        let parents = |id: &ShardId| names::replica_database(&self.table.name, self.table.id, *id);
        let mut whole = BTreeSet::new();
        for database in self.shard.parents.iter().map(parents) {
            if server.has_local(&database).await.map_err(|e| e.told())? {
                whole.insert(database);
            }
        }
        let view = self.view.read();
        let shards = view.shards.get(&self.table.id);
        let shard = shards.and_then(|shards| shards.get(&self.shard.id)).map_or(&self.shard, |s| &s.record);
        Ok(plan(&view, self.table.id, shard, &self.ports.node, &whole))
    }

    /// Whether no query can be sent to a copy that was whole before and has gone: as long as one can, there must be no
    /// table here, for what a copy by parts brings has holes at first. ClickHouse asks another replica then.
    fn unread(&self) -> Result<(), String> {
        let view = self.view.read();
        let replica =
            view.shard(self.table.id, self.shard.id).and_then(|shard| shard.replica_on(&self.ports.node));
        match replica.map(|replica| (replica.state, replica.left_at)) {
            None | Some((ReplicaState::Creating, _) | (ReplicaState::Behind, None)) => Ok(()),
            Some((ReplicaState::Leaving, _)) => {
                Err("its table is gone, and so will be its record".to_owned())
            }
            Some((ReplicaState::Ready | ReplicaState::Behind, _)) => {
                Err("its table is gone: it is made again once no query can be sent here".to_owned())
            }
        }
    }

    fn was_whole(&self) -> Option<bool> {
        let view = self.view.read();
        let replica = view.shard(self.table.id, self.shard.id)?.replica_on(&self.ports.node)?;
        Some(replica.state != ReplicaState::Creating)
    }

    /// What was recorded of a table that has gone must not stand where nobody would miss its rows: whether they went by
    /// themselves (TTL) cannot be told. Elsewhere the position says that they are missing.
    async fn begin_again(&self) -> Result<(), String> {
        if self.was_whole() != Some(true) || self.table.schema.ttl.is_empty() {
            return Ok(());
        }
        let topics = self.topics();
        for group in [self.ports.group.clone(), names::preparing_group(&self.ports.group)] {
            self.unrecord(&group, &topics).await.map_err(|e| e.told())?;
        }
        Ok(())
    }

    /// Whether the sources, for all that the records say, have no row.
    async fn all_bare(&self, sources: &[Source]) -> Result<bool, String> {
        for source in sources {
            let sizes = self.ports.clickhouse.remote_sizes(&source.replica).await.map_err(|e| e.told())?;
            if sizes.values().any(|size| size.rows > 0) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Most is linked while the parents still take messages; then they stop, and only what changed since is linked
    /// again: the pause does not grow with the data.
    async fn link(
        &self,
        tables: &ReplicaTables,
        parents: &[(String, PartitionRange)],
    ) -> Result<Starts, String> {
        let (server, database) = (&self.ports.clickhouse, &self.database);
        let nonce = self.ports.clock.random();
        server.begin_seed(tables, nonce).await.map_err(|e| e.told())?;
        // Not before: what an earlier attempt left on its way might still become the table, and its parents may go on.
        self.tell(ReplicaNews::Unseeded);
        for (parent, range) in parents {
            server.link_partitions(database, nonce, parent, *range).await.map_err(|e| e.told())?;
        }
        // Where a half looks for what it has recorded; the first who asks of a group waits for its coordinator.
        let _ = self.ports.kafka.committed(&names::preparing_group(&self.ports.group), &self.topics()).await;
        let (stopped, parents_stopped) = oneshot::channel();
        self.tell(ReplicaNews::Linked(stopped));
        let stands = parents_stopped.await.map_err(|_| "the agent gave the split up".to_owned())?;
        let (mut closed, mut starts) = (Vec::new(), BTreeMap::new());
        for (parent, range) in parents {
            let shut = server.shut_gates(parent).await.map_err(|e| e.told())?;
            closed.push((parent, shut.number));
            starts.extend(handover::starts(&stands, *range, shut.over));
            server.link_partitions(database, nonce, parent, *range).await.map_err(|e| e.told())?;
        }
        // An earlier run of the daemon, or one that should not be there, may have opened one meanwhile: what came in
        // through it is linked by chance.
        for (parent, gate) in closed {
            if server.newest_gate(parent).await.map_err(|e| e.told())? != gate {
                return Err(format!("somebody has opened {parent} while it was linked"));
            }
        }
        let ours = server.finish_seed(database, nonce).await.map_err(|e| e.told())?;
        Ok(if ours { starts } else { Starts::new() })
    }

    /// How far another node's replica has come, as it recorded it, to be recorded as ours.
    ///
    /// The start of its machine and what was safe there are taken over as they are: it may be looking for what its
    /// machine lost with the power, and the copy then has the same holes. As the start is none of ours, the copy is
    /// looked through from there on too; else that costs a minute's rows.
    ///
    /// # Errors
    /// That Kafka cannot tell: a copy without its position would not know of expired rows that they had been there.
    pub(super) async fn position_of(
        &self,
        source: &Source,
        topic: &TopicPartition,
    ) -> Result<Option<Committed>, kafka::Error> {
        let group = names::consumer_group(&self.ports.cluster, &source.node);
        let recorded = self.ports.kafka.committed(&group, std::slice::from_ref(topic)).await?;
        let of_source = |committed: Committed| {
            let theirs = Position::decode(&committed.metadata)?;
            let ours = Position { shard: self.shard.id, life: self.since(), ..theirs.clone() };
            let committed = Committed { next: committed.next, metadata: ours.encode() };
            theirs.tells_of(&source.shard, &source.node).then_some(committed)
        };
        Ok(recorded.into_iter().next().flatten().and_then(of_source))
    }

    pub(super) fn tell(&self, news: ReplicaNews) {
        self.agent.do_send(FromReplica { table: self.table.id, shard: self.shard.id, news });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_the_node_had_before_is_told_from_the_one_that_was_just_made() {
        let (table, node) = (TableId(uuid::Uuid::nil()), "n1".parse::<NodeId>().unwrap());
        let range = PartitionRange::new(0, 4).unwrap();
        let mut shard = Shard::new(table, ShardId(3), range, [node.clone()]);
        shard.replicas[0].since = Epoch(7);
        let at = |id, life| Position::start(table, ShardId(id), Epoch(life));
        let left = |recorded: &[Position]| of_earlier_life(recorded, &shard, &node);
        assert!(left(&[at(3, 0), at(3, 2)]));
        assert!(!left(&[]), "nothing was ever taken: there is nothing to be rid of");
        assert!(!left(&[at(3, 7)]), "made, and its leader not told yet");
        assert!(!left(&[at(3, 2), at(3, 7)]), "a late word of the old one does not undo the new one");
        assert!(!left(&[at(1, 2)]), "of another shard");
    }
}
