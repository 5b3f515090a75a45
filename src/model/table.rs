//! Tables, shards and replicas as desired: what the metadata store holds.

use super::ids::{Epoch, NodeId, PartitionId, ShardId, TableId};
use super::range::PartitionRange;
use super::shared::Shared;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

/// A table's name as the user says it. Both parts may hold any character that ClickHouse allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// Database.
    pub database: String,
    /// Table within it.
    pub table: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.database, self.table)
    }
}

/// One column as the server described it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Name, unquoted.
    pub name: String,
    /// Type in ClickHouse's words.
    pub data_type: String,
    /// `DEFAULT`, `MATERIALIZED`, `ALIAS` or empty.
    pub default_kind: String,
    /// The expression behind it.
    pub default_expression: String,
    /// What follows type and default where rows are stored: `COMMENT '...' CODEC(...)`, either, or empty.
    pub codec: String,
}

impl Column {
    /// Whether an insert may name it.
    pub fn insertable(&self) -> bool {
        !matches!(self.default_kind.as_str(), "MATERIALIZED" | "ALIAS")
    }
}

/// The user's table as ClickHouse itself parsed it: no SQL is parsed at home.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// The user's columns in order, without the hidden ones.
    pub columns: Vec<Column>,
    /// Engine name, such as `MergeTree` or `ReplacingMergeTree`.
    pub engine: String,
    /// The engine's own arguments in parentheses, without keys and settings (`(ver)`), or empty.
    pub engine_arguments: String,
    /// The user's `PARTITION BY` expression, or empty.
    pub partition_key: String,
    /// `ORDER BY`.
    pub sorting_key: String,
    /// `PRIMARY KEY` where it differs from the sorting key, or empty.
    pub primary_key: String,
    /// `SAMPLE BY`, or empty.
    pub sampling_key: String,
    /// `TTL …`, or empty.
    pub ttl: String,
    /// `SETTINGS` of the engine, `k = v, …`, or empty.
    pub settings: String,
}

/// How rows are written in messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MessageFormat {
    /// One JSON object a row.
    JSONEachRow,
    /// Comma-separated.
    CSV,
    /// Tab-separated.
    TSV,
}

impl fmt::Display for MessageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl std::str::FromStr for MessageFormat {
    type Err = super::ids::InvalidId;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "jsoneachrow" | "json" => Ok(Self::JSONEachRow),
            "csv" => Ok(Self::CSV),
            "tsv" | "tabseparated" => Ok(Self::TSV),
            _ => Err(super::ids::InvalidId {
                text: text.to_owned(),
                kind: "message format",
                rule: "one of JSONEachRow, CSV, TSV",
            }),
        }
    }
}

/// How partitions lie on Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
pub enum TopicLayout {
    /// Partition `p` is topic `<prefix>.<p>`, its Kafka partition 0.
    #[default]
    TopicPerPartition,
    /// Partition `p` is Kafka partition `p` of topic `<prefix>`.
    OneTopic,
}

/// Where a table's messages come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Topic prefix, `<db>.<table>` by default, in Kafka's alphabet.
    pub topic_prefix: String,
    /// How partitions lie on it.
    pub layout: TopicLayout,
    /// How rows are written.
    pub format: MessageFormat,
    /// Server settings for parsing, such as `input_format_skip_unknown_fields`.
    pub format_settings: BTreeMap<String, String>,
    /// When an insert is due.
    pub batch: BatchLimits,
}

/// When a batch is inserted: at the first limit reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchLimits {
    /// Messages. A message may have several rows: what bounds an insert then is `bytes_max`. An insert is one block
    /// in any case, since `max_insert_block_size` is set far above both.
    pub rows_max: u32,
    /// Bytes of message payload.
    pub bytes_max: u32,
    /// Time since the first message of the batch was fetched.
    pub age_max_ms: u64,
}

impl BatchLimits {
    /// What [`Self::rows_max`] may be.
    pub const ROWS: RangeInclusive<u32> = 1..=1_000_000;
    /// What [`Self::age_max_ms`] may be.
    pub const AGE_MS: RangeInclusive<u64> = 10..=3_600_000;
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { rows_max: 262_144, bytes_max: 64 << 20, age_max_ms: 1_000 }
    }
}

/// Who replicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum ReplicationMode {
    /// Every replica consumes its partitions' topics by itself.
    #[default]
    Log,
}

/// A table's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableState {
    /// Shards are being written; a new leader takes it up again.
    Creating,
    /// In use.
    Active,
    /// Being removed from every node; ends with the records gone.
    Dropping,
}

impl TableState {
    /// The legal transitions, all of them.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Creating => next != Self::Creating,
            Self::Active => next == Self::Dropping,
            Self::Dropping => false,
        }
    }
}

/// A logical table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Identity.
    pub id: TableId,
    /// The user's name for it.
    pub name: TableName,
    /// Life.
    pub state: TableState,
    /// What the user's DDL said, as ClickHouse parsed it.
    pub schema: Schema,
    /// The user's DDL, for `table show`.
    pub ddl: String,
    /// `P`: number of partitions, fixed for ever.
    pub partitions: u32,
    /// Wanted replicas a shard.
    pub replicas: u32,
    /// Integer expression over the user's columns; partition = value mod `P`.
    pub partition_by: String,
    /// Who replicates.
    pub mode: ReplicationMode,
    /// Where messages come from.
    pub source: Source,
    /// The published topology's version; 0 until the first publication.
    pub epoch: Epoch,
    /// The next shard number; numbers are never used again.
    pub next_shard: u32,
    /// Kafka's first readable offset of each partition when the table was created: where history begins.
    pub origin_offsets: Shared<BTreeMap<PartitionId, i64>>,
    /// Also delete the topics once dropped.
    pub delete_topics: bool,
    /// From which epoch on topologies were published by whom. The newest [`PUBLISHERS_MAX`].
    pub published_by: BTreeMap<Epoch, Publisher>,
}

/// The run of a daemon that published topologies, by a number of chance. An epoch that has two publishers was published
/// in two states of the store, of which one is no more: terms would not tell, since a store that goes on from the same
/// state counts on from the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Publisher(pub u64);

impl fmt::Display for Publisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A cluster file that is older than so many changes of the leader is not told from one of another state of the store
/// any more.
pub const PUBLISHERS_MAX: usize = 64;

impl Table {
    /// The next topology.
    pub fn publish(&mut self, publisher: Publisher) {
        self.epoch = self.epoch.next();
        if self.published_by.values().next_back() != Some(&publisher) {
            self.published_by.insert(self.epoch, publisher);
        }
        while self.published_by.len() > PUBLISHERS_MAX {
            self.published_by.pop_first();
        }
    }

    /// Who published a topology; `None` of one of which it is not remembered.
    pub fn publisher(&self, epoch: Epoch) -> Option<Publisher> {
        self.published_by.range(..=epoch).next_back().map(|(_, publisher)| *publisher)
    }
}

/// A replica's life in the leader's eyes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicaState {
    /// Wanted there; not in routes.
    Creating,
    /// In routes.
    Ready,
    /// A copy that was ready and fell behind (its node was down); out of routes until it has caught up.
    Behind,
    /// Out of routes for good; goes once nobody can be reading it any more (RETIRE).
    Leaving,
}

impl ReplicaState {
    /// The legal transitions of one life, all of them. What was ready when its node was lost is behind at once;
    /// what was to leave may stay after all, and catches up first.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Creating => matches!(next, Self::Ready | Self::Behind),
            Self::Ready => matches!(next, Self::Behind | Self::Leaving),
            Self::Behind => matches!(next, Self::Ready | Self::Leaving),
            Self::Leaving => next == Self::Behind,
        }
    }

    /// Whether all rows up to some offset are there: ready, or ready once and late since.
    pub fn is_complete(self) -> bool {
        matches!(self, Self::Ready | Self::Behind)
    }
}

/// The copy of a shard on one node, as desired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// Where.
    pub node: NodeId,
    /// Life.
    pub state: ReplicaState,
    /// The node whose copy its history is first taken from; `None` for one that takes all of it from the topics.
    pub copy_from: Option<NodeId>,
    /// The first topology without it, once it is leaving; or once it is behind, until it is known that nobody reads it.
    pub left_at: Option<Epoch>,
    /// The shard's epoch that began with it: what was seen of a copy that was there before is not of this one.
    pub since: Epoch,
}

impl Replica {
    /// A copy to be made there, which takes its history from the topics.
    pub fn creating(node: NodeId) -> Self {
        Self { node, state: ReplicaState::Creating, copy_from: None, left_at: None, since: Epoch(0) }
    }
}

/// A shard's life. Shards never change their range: a split or merge makes new ones beside the old (ONE-EPOCH).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ShardState {
    /// Being made out of its parents, which readers still see.
    Preparing,
    /// In the topology.
    Serving,
    /// Its children took its place; goes once nobody can be reading it any more (RETIRE).
    Retired,
}

impl ShardState {
    /// The legal transitions, all of them.
    pub fn may_become(self, next: Self) -> bool {
        matches!((self, next), (Self::Preparing, Self::Serving) | (Self::Serving, Self::Retired))
    }
}

/// A contiguous range of a table's partitions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// Its table.
    pub table: TableId,
    /// Number within the table.
    pub id: ShardId,
    /// Version of this shard's membership; grows with each change of range, replicas or leader (H3).
    pub epoch: Epoch,
    /// Partitions it owns.
    pub range: PartitionRange,
    /// Copies, in placement's order: the first is the preferred leader (H4).
    pub replicas: Vec<Replica>,
    /// First in the routes, and the copy that new ones are made from where nothing speaks against it; `None` while no
    /// replica is ready.
    pub leader: Option<NodeId>,
    /// Life.
    pub state: ShardState,
    /// The shards that it was made out of, whose copies on the same node its own are made from without copying.
    pub parents: Vec<ShardId>,
    /// The first topology without it, once it is retired.
    pub retired_at: Option<Epoch>,
    /// The shards that its parents were made out of, and so on back, oldest first: a partition that has had no message
    /// since then is recorded in Kafka under one of them. The newest [`ANCESTORS_MAX`].
    pub ancestors: Vec<ShardId>,
}

/// A partition without a message through so many splits and merges of its shard has its table looked through from the
/// beginning.
pub const ANCESTORS_MAX: usize = 256;

impl Shard {
    /// A shard of a new table, with copies to be made on those nodes.
    pub fn new(
        table: TableId,
        id: ShardId,
        range: PartitionRange,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> Self {
        Self {
            table,
            id,
            epoch: Epoch(1),
            range,
            replicas: nodes.into_iter().map(Replica::creating).collect(),
            leader: None,
            state: ShardState::Serving,
            parents: Vec::new(),
            retired_at: None,
            ancestors: Vec::new(),
        }
    }

    /// What a child of these has for ancestors besides them.
    pub fn ancestors_by(parents: &[&Shard]) -> Vec<ShardId> {
        let back = parents.iter().flat_map(|parent| parent.ancestors.iter().chain(&parent.parents));
        let all: BTreeSet<ShardId> = back.copied().collect();
        let too_old = all.len().saturating_sub(ANCESTORS_MAX);
        all.into_iter().skip(too_old).collect()
    }

    /// What this shard's record must not become: a state that its own, or a replica's, does not lead to.
    pub fn illegal(&self, next: &Self) -> Option<String> {
        if self.state != next.state && !self.state.may_become(next.state) {
            return Some(format!("{} is {:?} and cannot become {:?}", self.id, self.state, next.state));
        }
        let of = |replica: &Replica| self.replica_on(&replica.node).filter(|was| was.since == replica.since);
        next.replicas.iter().find_map(|replica| {
            let (was, now) = (of(replica)?.state, replica.state);
            let wrong = was != now && !was.may_become(now);
            wrong.then(|| format!("{} on {} is {was:?} and cannot become {now:?}", self.id, replica.node))
        })
    }

    /// The replica on a node, if one is wanted there.
    pub fn replica_on(&self, node: &NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| &replica.node == node)
    }

    /// The node that placement would have lead.
    pub fn preferred_leader(&self) -> Option<&NodeId> {
        self.replicas.first().map(|replica| &replica.node)
    }

    /// Nodes whose replica is in routes.
    pub fn ready_nodes(&self) -> impl Iterator<Item = &NodeId> {
        self.replicas.iter().filter(|r| r.state == ReplicaState::Ready).map(|r| &r.node)
    }

    /// Which life of its replica a node has, or had from the shard's beginning.
    pub fn life_on(&self, node: &NodeId) -> Epoch {
        self.replica_on(node).map_or(Epoch(0), |replica| replica.since)
    }

    /// A replica that is on its way here or away, if any.
    pub fn moving(&self) -> Option<&Replica> {
        self.replicas.iter().find(|r| matches!(r.state, ReplicaState::Creating | ReplicaState::Leaving))
    }

    /// Replicas that are to stay.
    pub fn staying(&self) -> impl Iterator<Item = &Replica> {
        self.replicas.iter().filter(|r| r.state != ReplicaState::Leaving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By row and column in the order of `all`.
    fn matrix<S: Copy, const N: usize>(all: [S; N], may: fn(S, S) -> bool) -> [[u8; N]; N] {
        all.map(|from| all.map(|to| u8::from(may(from, to))))
    }

    #[test]
    fn lives_go_the_legal_ways_alone() {
        let tables = [TableState::Creating, TableState::Active, TableState::Dropping];
        assert_eq!(matrix(tables, TableState::may_become), [[0, 1, 1], [0, 0, 1], [0, 0, 0]]);
        let shards = [ShardState::Preparing, ShardState::Serving, ShardState::Retired];
        assert_eq!(matrix(shards, ShardState::may_become), [[0, 1, 0], [0, 0, 1], [0, 0, 0]]);
        use ReplicaState::{Behind, Creating, Leaving, Ready};
        let replicas = matrix([Creating, Ready, Behind, Leaving], ReplicaState::may_become);
        assert_eq!(replicas, [[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 0, 1], [0, 0, 1, 0]]);
    }

    #[test]
    fn a_record_that_goes_back_is_told_and_a_new_life_is_none_of_the_old_one() {
        let node: NodeId = "n1".parse().unwrap();
        let range = PartitionRange::new(0, 4).unwrap();
        let new = Shard::new(TableId(uuid::Uuid::nil()), ShardId(3), range, [node]);
        let mut ready = new.clone();
        ready.replicas[0].state = ReplicaState::Ready;
        assert_eq!((new.illegal(&new), new.illegal(&ready)), (None, None));
        assert_eq!(ready.illegal(&new).unwrap(), "s3 on n1 is Ready and cannot become Creating");
        let mut again = new.clone();
        again.replicas[0].since = Epoch(7);
        assert_eq!(ready.illegal(&again), None);
        let retired = Shard { state: ShardState::Retired, ..ready.clone() };
        assert_eq!(ready.illegal(&retired), None);
        assert_eq!(retired.illegal(&ready).unwrap(), "s3 is Retired and cannot become Serving");
    }
}
