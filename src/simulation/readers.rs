//! Readers and the final check: queries at random initiators all the time (ONE-EPOCH, RETIRE), and at the end every
//! message in every replica once (NO-LOSS).

use super::cluster::Cluster;
use super::failure::Failure;
use super::node::SimNode;
use super::query::{self, Answer};
use crate::adapters::clickhouse::{ClusterReplica, HeldRows};
use crate::model::shared::Shared;
use crate::model::table::{Shard, TableState};
use crate::model::view::ClusterView;
use crate::model::{PartitionId, Table, TableName, names};
use std::collections::BTreeMap;
use std::time::Duration;

/// What readers met, by how queries ended.
pub type Tally = BTreeMap<&'static str, u64>;

/// Since when nodes have had no daemon, as the store knows it, or one that is cut off from its server.
#[derive(Debug, Default)]
pub(super) struct Dark {
    since_ms: BTreeMap<String, u64>,
    cut_since_ms: BTreeMap<String, u64>,
    /// Since when servers are down: one that is cut off then comes up with the routes that it had before.
    down_since_ms: BTreeMap<String, u64>,
    /// The last time without a daemon that is over: since when, until when.
    last_ms: BTreeMap<String, (u64, u64)>,
}

impl Dark {
    /// How long a daemon that is back may take to bring its server's routes up to date.
    const BACK_MS: u64 = 15_000;

    /// The store changed.
    pub(super) fn step(&mut self, now_ms: u64, before: &ClusterView, view: &ClusterView) {
        if Shared::same(&before.nodes, &view.nodes) && Shared::same(&before.live, &view.live) {
            return;
        }
        for node in view.nodes.keys() {
            if !view.is_live(node) {
                self.since_ms.entry(node.to_string()).or_insert(now_ms);
            } else if let Some(since) = self.since_ms.remove(node.as_str()) {
                self.ended(node.as_str(), since, now_ms);
            }
        }
    }

    /// A daemon is cut off from its server or its cluster file, or no more.
    pub(super) fn cut(&mut self, node: &str, now_ms: u64, cut: bool) {
        if cut {
            let since_ms = self.down_since_ms.get(node).copied().unwrap_or(now_ms);
            self.cut_since_ms.entry(node.to_owned()).or_insert(since_ms);
        } else if let Some(since) = self.cut_since_ms.remove(node) {
            self.ended(node, since, now_ms);
        }
    }

    /// It was so until now; a longer time that has just ended counts still.
    fn ended(&mut self, node: &str, since_ms: u64, now_ms: u64) {
        let longer = |(since, until): &(u64, u64)| {
            until - since > now_ms - since_ms && now_ms <= until + Self::BACK_MS
        };
        if !self.last_ms.get(node).is_some_and(longer) {
            self.last_ms.insert(node.to_owned(), (since_ms, now_ms));
        }
    }

    /// A server is down, or up again.
    pub(super) fn down(&mut self, node: &str, now_ms: u64, down: bool) {
        if down {
            self.down_since_ms.entry(node.to_owned()).or_insert(now_ms);
        } else if let Some(since) = self.down_since_ms.remove(node) {
            // Nobody has waited for it, and its file may be as old as what its daemon had heard by then (seed 125).
            self.ended(node, since, now_ms);
        }
    }

    /// Whether a node has been so for this long, or was until just before a query began.
    fn long(&self, node: &str, now_ms: u64, began_ms: u64, for_ms: u64) -> bool {
        let since = [self.since_ms.get(node), self.cut_since_ms.get(node)];
        let now = since.into_iter().flatten().any(|since| now_ms - since >= for_ms);
        let last = self.last_ms.get(node);
        now || last.is_some_and(|(since, until)| until - since >= for_ms && began_ms <= until + Self::BACK_MS)
    }
}

/// Whether a database, and whatever is said of it, is of this table, and not of one of that name that was dropped
/// before it was made: a server whose daemon is away still has that one's routes.
fn is_of(table: &Table, said: &str) -> bool {
    let database = said.split(' ').next().unwrap_or(said);
    names::parse_replica_database(database).is_some_and(|(short, _)| short == table.id.short())
}

impl Cluster {
    /// One query at a node's server, judged: what it saw, in rows by partition.
    ///
    /// # Errors
    /// If the answer breaks ONE-EPOCH or a shard was retired too early; also recorded in the journal.
    pub async fn query(&self, initiator: &str, name: &TableName) -> Result<Answer, Failure> {
        let server = self.server(initiator).ok_or_else(|| self.failure(format!("no node {initiator}")))?;
        let Some(topology) = query::topology(&server, name) else { return Ok(Answer::NoTable) };
        let (id, began_ms) = (format!("q{:x}", self.random(u64::MAX)), self.now_ms());
        server.begin_query(&id);
        let answer = self.sub_queries(&topology).await;
        if !server.end_query(&id) {
            // The initiator died, and the query with it.
            return Ok(Answer::Unavailable);
        }
        match answer {
            Answer::Missing(what) => self.missing(initiator, name, began_ms, &what),
            Answer::Rows(shards) => {
                let databases = || topology.iter().flatten().map(|replica| &replica.default_database);
                let table =
                    self.table(name).filter(|table| databases().all(|database| is_of(table, database)));
                let wrong = table.and_then(|table| query::judge(&table, &shards));
                let Some(wrong) = wrong else { return Ok(Answer::Rows(shards)) };
                self.journal().violation("ONE-EPOCH", &format!("a query of {name} at {initiator}: {wrong}"));
                Err(self.failure(wrong))
            }
            ended => Ok(ended),
        }
    }

    /// Asks each shard of a topology at its moment: sub-queries of one query do not all start at once.
    async fn sub_queries(&self, topology: &[Vec<ClusterReplica>]) -> Answer {
        let late_ms = if self.random(4) == 0 { self.0.shared.setup.query_spread_ms } else { 20 };
        let until_ms = self.now_ms() + self.random(late_ms + 1);
        let mut shards = Vec::new();
        for replicas in topology {
            let rest_ms = until_ms.saturating_sub(self.now_ms());
            tokio::time::sleep(Duration::from_millis(self.random(rest_ms + 1))).await;
            match self.sub_query(replicas) {
                Ok(rows) => shards.push(rows),
                Err(ended) => return ended,
            }
        }
        Answer::Rows(shards)
    }

    fn sub_query(&self, replicas: &[ClusterReplica]) -> Result<BTreeMap<PartitionId, HeldRows>, Answer> {
        let first = usize::try_from(self.random(replicas.len() as u64)).unwrap_or(0);
        let (before, after) = replicas.split_at(first);
        query::read_shard(after.iter().chain(before), |host| self.server(host))
    }

    /// A database that a query was sent to is not there: legal only for a table that is being dropped, and at a node
    /// whose server no daemon has reached for so long that nothing waited for it.
    fn missing(
        &self,
        initiator: &str,
        name: &TableName,
        began_ms: u64,
        what: &str,
    ) -> Result<Answer, Failure> {
        let lives = |table: &Table| table.state != TableState::Dropping && is_of(table, what);
        let dropped = !self.table(name).as_ref().is_some_and(lives);
        let grace_ms = self.0.shared.setup.options.rules.initiator_grace_ms;
        if !dropped && self.0.dark.borrow().long(initiator, self.now_ms(), began_ms, grace_ms) {
            return Ok(Answer::Unavailable);
        }
        if !dropped {
            let query =
                format!("a query of {name}, begun at {initiator} {} ms ago,", self.now_ms() - began_ms);
            self.journal().violation("RETIRE", &format!("{query} found {what} gone"));
            return Err(self.failure(format!("{what} is gone")));
        }
        Ok(Answer::Missing(what.to_owned()))
    }

    /// Starts so many readers; each asks a random node about a random table again and again, to the end of the run.
    pub fn start_readers(&self, readers: u32) {
        for _ in 0..readers {
            let cluster = self.clone();
            tokio::task::spawn_local(async move {
                loop {
                    tokio::time::sleep(Duration::from_millis(100 + cluster.random(900))).await;
                    cluster.read_once().await;
                }
            });
        }
    }

    async fn read_once(&self) {
        let nodes = self.node_ids();
        let tables: Vec<TableName> = self.view().tables.values().map(|t| t.record.name.clone()).collect();
        let pick = |count: usize| usize::try_from(self.random(count as u64)).unwrap_or(0);
        let (Some(node), Some(table)) = (nodes.get(pick(nodes.len())), tables.get(pick(tables.len()))) else {
            return;
        };
        let ended = match self.query(node.as_str(), table).await {
            Ok(Answer::Rows(shards)) => {
                let rows: u64 = shards.iter().flat_map(BTreeMap::values).map(|rows| rows.count()).sum();
                self.journal().note("rows seen", &rows.to_string());
                "answered"
            }
            Ok(Answer::NoTable) => "no table",
            Ok(Answer::Unavailable) => "unavailable",
            Ok(Answer::Missing(_)) => "dropped",
            Err(_) => "wrong",
        };
        *self.0.tally.borrow_mut().entry(ended).or_default() += 1;
    }

    /// How the readers' queries have ended so far.
    pub fn tally(&self) -> Tally {
        self.0.tally.borrow().clone()
    }

    /// What keeps a replica from holding every message of its partitions exactly once; `None` if it does.
    pub fn lacking(&self, table: &Table, shard: &Shard) -> Option<String> {
        let database = names::replica_database(&table.name, table.id, shard.id);
        for replica in &shard.replicas {
            let held = self.server(replica.node.as_str())?.read(&database).ok();
            let Some(held) = held else { return Some(format!("{database} is not on {}", replica.node)) };
            for partition in shard.range.partitions() {
                let ends = self.kafka().ends(&names::topic_partition(&table.source, partition));
                let Some(ends) = ends else { return Some(format!("the topic of {partition} is gone")) };
                let rows = held.get(&partition).cloned().unwrap_or_default();
                if let Some(wrong) = query::judge_rows(table, partition, &rows) {
                    return Some(format!("{partition} of {database} on {} {wrong}", replica.node));
                }
                let next = rows.max_offset().map_or(0, |max| max + 1);
                if next != ends.high {
                    return Some(format!(
                        "{partition} of {database} on {} has offsets below {next} of {}",
                        replica.node, ends.high
                    ));
                }
            }
        }
        None
    }

    /// What of any table is not in every replica exactly once, if anything.
    pub fn anything_lacking(&self) -> Option<String> {
        let view = self.view();
        let tables = view.tables.values().filter(|table| table.record.state != TableState::Dropping);
        let mut shards =
            tables.flat_map(|table| view.shards_of(table.record.id).map(move |shard| (&table.record, shard)));
        shards.find_map(|(table, shard)| self.lacking(table, shard))
    }

    /// Waits until every message of every table is in every replica exactly once (NO-LOSS).
    pub async fn until_nothing_lacks(&self, within_ms: u64) -> Result<(), Failure> {
        let done = self.until("every message in every replica", within_ms, |cluster| {
            cluster.anything_lacking().is_none()
        });
        let Err(failure) = done.await else { return Ok(()) };
        if self.journal().first_violation().is_some() {
            return Err(failure); // not for want of time
        }
        let Some(lacking) = self.anything_lacking() else { return Err(failure) };
        self.journal().violation("NO-LOSS", &lacking);
        Err(self.failure(format!("{}: {lacking}", failure.what)))
    }

    /// All faults stop, everything is started, and the cluster must heal: daemons live, tables complete, nothing
    /// lacking.
    pub async fn heal(&self, within_ms: u64) -> Result<(), Failure> {
        self.row("script ends all faults");
        let until_ms = self.now_ms() + within_ms;
        self.network().join_all();
        self.0.sites.borrow_mut().part(false);
        self.end_downs();
        for id in self.node_ids().into_iter().filter(|id| !self.is_lost(id)) {
            self.stall_daemon(id.as_str(), false)?;
            if !self.server(id.as_str()).is_some_and(|server| server.is_up()) {
                self.set_clickhouse(id.as_str(), true)?;
            }
            self.with(id.as_str(), SimNode::repair)?;
            if !self.daemon_runs(&id) {
                self.start_daemon(id.as_str())?;
            }
        }
        self.set_weather_everywhere(crate::adapters::faults::Weather::FAIR);
        let left = |cluster: &Self| until_ms.saturating_sub(cluster.now_ms());
        let all = self.node_ids().iter().filter(|id| !self.is_lost(id)).count();
        self.until("all nodes to be live and one to lead", left(self), |cluster| {
            let view = cluster.view();
            view.leader.is_some() && view.live.len() == all
        })
        .await?;
        // A node that is lost never lets go of what was dropped.
        if all == self.node_ids().len() {
            self.until("dropped tables to be gone", left(self), |cluster| {
                !cluster.view().tables.values().any(|t| t.record.state == TableState::Dropping)
            })
            .await?;
        }
        let kept = |cluster: &Self| -> Vec<TableName> {
            let view = cluster.view();
            let tables = view.tables.values().map(|table| &table.record);
            tables.filter(|t| t.state != TableState::Dropping).map(|t| t.name.clone()).collect()
        };
        for name in kept(self) {
            self.until_complete(&name, left(self)).await?;
        }
        self.until_nothing_lacks(left(self)).await
    }
}
