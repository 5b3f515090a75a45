//! What the lines of a trace so far amount to, and which line makes no sense in it.

use super::{Event, Header, Line, Timed, TraceNode, TraceShard, TraceTable, VERSION};
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::operation::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// See the module.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// The first line.
    pub header: Option<Header>,
    /// Time of the newest event, after the header's start.
    pub at_ms: u64,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, TraceNode>,
    /// Tables.
    pub tables: BTreeMap<TableId, TraceTable>,
    /// Shards, with their bytes at [`Self::at_ms`].
    pub shards: BTreeMap<(TableId, ShardId), TraceShard>,
    /// Nodes that are down, and since when; from the beginning for those that the snapshot shows so.
    pub down_since_ms: BTreeMap<NodeId, u64>,
    /// Operations under way.
    pub operations: BTreeMap<OperationId, (TableId, Kind)>,
    happened: bool,
}

/// Most bytes of a disk or a shard, and by how many of them one grows in a second: sums and shares of such can be
/// counted.
const BYTES_MAX: u64 = 1 << 60;
/// Latest event: a hundred years after the start.
const AT_MAX_MS: u64 = 100 * 366 * 86_400_000;

fn countable(what: impl std::fmt::Display, bytes: u64) -> Result<(), String> {
    if bytes <= BYTES_MAX { Ok(()) } else { Err(format!("{what} has {bytes} bytes: 2^60 at most")) }
}

fn missing(what: impl std::fmt::Display) -> String {
    format!("there is no {what} then")
}

impl World {
    /// The version that lines are read by.
    pub fn version(&self) -> u32 {
        self.header.as_ref().map_or(VERSION, |header| header.version)
    }

    /// Takes the next line.
    ///
    /// # Errors
    /// Why it makes no sense here; the world may then be half-way.
    pub fn take(&mut self, line: Line) -> Result<(), String> {
        match (&self.header, line) {
            (None, Line::Header(header)) => {
                if header.version == 0 {
                    return Err("version 0 was never written".to_owned());
                }
                self.header = Some(header);
                Ok(())
            }
            (None, _) => Err("the first line is not a header".to_owned()),
            (Some(_), Line::Header(_)) => Err("a second header".to_owned()),
            (Some(_), Line::Event(timed)) => self.happen(timed),
            (Some(_), _) if self.happened => Err("the snapshot goes on after an event".to_owned()),
            (Some(_), Line::Node(node)) => self.node(node),
            (Some(_), Line::Table(table)) => self.table(table),
            (Some(_), Line::Shard(shard)) => self.shard(shard),
        }
    }

    fn happen(&mut self, Timed { at_ms, event }: Timed) -> Result<(), String> {
        if at_ms < self.at_ms {
            return Err(format!("it is earlier ({at_ms} ms) than the one before ({} ms)", self.at_ms));
        }
        if at_ms > AT_MAX_MS {
            return Err(format!("it is {at_ms} ms after the start: a hundred years at most"));
        }
        if !self.happened {
            self.whole()?;
        }
        self.happened = true;
        self.grow(at_ms);
        self.apply(event)
    }

    /// Lets time pass without events: shards grow at their rates.
    pub fn grow(&mut self, to_ms: u64) {
        let passed_ms = u128::from(to_ms.saturating_sub(self.at_ms));
        for shard in self.shards.values_mut().filter(|shard| shard.bytes_per_s > 0) {
            let more = passed_ms * u128::from(shard.bytes_per_s) / 1_000;
            shard.bytes = shard.bytes.saturating_add(u64::try_from(more).unwrap_or(u64::MAX)).min(BYTES_MAX);
        }
        self.at_ms = self.at_ms.max(to_ms);
    }

    /// Lets something happen now.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn apply(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::NodeJoined { node } => self.node(node)?,
            Event::NodeDied { node } => {
                self.known(&node)?.live = false;
                self.down_since_ms.entry(node).or_insert(self.at_ms);
            }
            Event::NodeReturned { node } => {
                self.known(&node)?.live = true;
                self.down_since_ms.remove(&node);
            }
            Event::NodeState { node, state } => self.known(&node)?.state = state,
            Event::NodeRemoved { node } => {
                self.known(&node)?;
                if let Some(shard) = self.shards.values().find(|shard| shard.nodes.contains(&node)) {
                    return Err(format!("node {node} still has a copy of shard {}", shard.shard));
                }
                self.nodes.remove(&node);
                self.down_since_ms.remove(&node);
            }
            Event::TableCreated { table } => self.table(table)?,
            Event::TableDropped { table } => {
                self.tables.remove(&table).ok_or_else(|| missing(format!("table {table}")))?;
                self.shards.retain(|(of, _), _| *of != table);
            }
            Event::ShardMade { shard } => self.shard(shard)?,
            Event::ShardGone { table, shard } => {
                let gone = self.shards.remove(&(table, shard));
                gone.ok_or_else(|| missing(format!("shard {shard} of table {table}")))?;
            }
            Event::ShardPlaced { table, shard, nodes, leader } => self.place(table, shard, nodes, leader)?,
            Event::Sizes { table, bytes } => {
                for (shard, bytes) in bytes {
                    countable(format!("shard {shard}"), bytes)?;
                    self.shard_of(table, shard)?.bytes = bytes;
                }
            }
            Event::Ingest { table, bytes_per_s } => self.ingest(table, bytes_per_s)?,
            Event::OperationBegun { id, table, operation, .. } => {
                if !self.tables.contains_key(&table) {
                    return Err(missing(format!("table {table}")));
                }
                if self.operations.insert(id, (table, operation)).is_some() {
                    return Err(format!("operation {id} is under way already"));
                }
            }
            Event::OperationEnded { id, .. } => {
                self.operations.remove(&id).ok_or_else(|| missing(format!("operation {id}")))?;
            }
        }
        Ok(())
    }

    fn known(&mut self, node: &NodeId) -> Result<&mut TraceNode, String> {
        self.nodes.get_mut(node).ok_or_else(|| missing(format!("node {node}")))
    }

    fn shard_of(&mut self, table: TableId, shard: ShardId) -> Result<&mut TraceShard, String> {
        let known = self.shards.get_mut(&(table, shard));
        known.ok_or_else(|| missing(format!("shard {shard} of table {table}")))
    }

    fn node(&mut self, node: TraceNode) -> Result<(), String> {
        let id = node.id.clone();
        countable(format!("node {id}"), node.capacity_bytes)?;
        if !node.live {
            self.down_since_ms.insert(id.clone(), self.at_ms);
        }
        match self.nodes.insert(id.clone(), node) {
            Some(_) => Err(format!("node {id} is there twice")),
            None => Ok(()),
        }
    }

    fn table(&mut self, table: TraceTable) -> Result<(), String> {
        if table.partitions == 0 || table.replicas == 0 {
            return Err(format!("table {}.{} has no partitions or no replicas", table.database, table.table));
        }
        let id = table.id;
        match self.tables.insert(id, table) {
            Some(_) => Err(format!("table {id} is there twice")),
            None => Ok(()),
        }
    }

    fn shard(&mut self, shard: TraceShard) -> Result<(), String> {
        let table = self.tables.get(&shard.table).ok_or_else(|| missing(format!("table {}", shard.table)))?;
        let (id, partitions) = (shard.shard, table.partitions);
        if shard.lo >= shard.hi || shard.hi > partitions {
            let range = format!("[{}, {})", shard.lo, shard.hi);
            return Err(format!("shard {id} holds {range} of partitions 0 to {partitions}"));
        }
        countable(format!("shard {id}"), shard.bytes.max(shard.bytes_per_s))?;
        self.copies(id, &shard.nodes, shard.leader.as_ref())?;
        match self.shards.insert((shard.table, id), shard) {
            Some(_) => Err(format!("shard {id} of the table is there twice")),
            None => Ok(()),
        }
    }

    fn copies(&self, id: ShardId, nodes: &[NodeId], leader: Option<&NodeId>) -> Result<(), String> {
        let distinct: BTreeSet<&NodeId> = nodes.iter().collect();
        if distinct.len() != nodes.len() {
            return Err(format!("shard {id} has two copies on one node"));
        }
        if let Some(node) = nodes.iter().find(|node| !self.nodes.contains_key(*node)) {
            return Err(missing(format!("node {node} (of shard {id})")));
        }
        match leader.filter(|leader| !nodes.contains(leader)) {
            Some(leader) => Err(format!("shard {id} is led by {leader}, which has no copy")),
            None => Ok(()),
        }
    }

    fn place(
        &mut self,
        table: TableId,
        id: ShardId,
        nodes: Vec<NodeId>,
        leader: Option<NodeId>,
    ) -> Result<(), String> {
        self.copies(id, &nodes, leader.as_ref())?;
        let shard = self.shard_of(table, id)?;
        shard.nodes = nodes;
        shard.leader = leader;
        Ok(())
    }

    fn ingest(&mut self, id: TableId, bytes_per_s: u64) -> Result<(), String> {
        let partitions = self.tables.get(&id).map(|table| u64::from(table.partitions));
        let partitions = partitions.ok_or_else(|| missing(format!("table {id}")))?;
        for shard in self.shards.values_mut().filter(|shard| shard.table == id) {
            let width = u128::from(shard.hi - shard.lo);
            let part = u128::from(bytes_per_s) * width / u128::from(partitions);
            shard.bytes_per_s = u64::try_from(part).unwrap_or(u64::MAX).min(BYTES_MAX);
        }
        Ok(())
    }

    /// Whether each table's shards cover its partitions once: asked where the snapshot ends.
    ///
    /// # Errors
    /// Which table's do not.
    pub fn whole(&self) -> Result<(), String> {
        if self.header.is_none() {
            return Err("it is empty: not even a header".to_owned());
        }
        for table in self.tables.values() {
            let mut ranges: Vec<(u32, u32)> =
                self.shards.values().filter(|s| s.table == table.id).map(|s| (s.lo, s.hi)).collect();
            ranges.sort_unstable();
            let end = ranges.iter().try_fold(0, |next, (lo, hi)| (*lo == next).then_some(*hi));
            if end != Some(table.partitions) {
                let name = format!("{}.{}", table.database, table.table);
                return Err(format!("the shards of {name} do not cover its partitions once each"));
            }
        }
        Ok(())
    }

    /// Bytes of all copies.
    pub fn stored_bytes(&self) -> u64 {
        let stored = self.shards.values().map(|shard| shard.bytes.saturating_mul(shard.nodes.len() as u64));
        stored.fold(0, u64::saturating_add)
    }
}
