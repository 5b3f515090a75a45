//! A trace played again: its world goes on as recorded, and where copies are is decided afresh.
//!
//! By plan steps, not by the actors: after each event and each copy that ends, the leader's own decisions
//! (`actors::balance`) are asked what to begin, with the engine and policy that are tried; a copy takes as long as its
//! bytes do at the rate that plans reckon with. Splits, sizes, joins and failures are the world's, as recorded.
//!
//! What the trace tells of its own placements is measured beside it, by the same rules.

use super::how::How;
use super::stand::Stand;
use super::what_if::{balance, down_for};
use super::{Error, Lines};
use crate::actors::balance::course::Course;
use crate::actors::balance::decide::{self, Wanted};
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::operation::{Kind, cause};
use crate::model::trace::{Event, Line, Timed, TraceShard, World};
use crate::placement::{Snapshot, WaveLimits};
use crate::simulation::measures::thrash_percent;
use crate::simulation::{NodeSample, Sample};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Rounds of decisions at one moment, at most.
const ROUNDS_MAX: u32 = 200;

/// What became of a cluster over a trace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// Copies that came to a node.
    pub moves: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// The worst balance at any moment: the fullest node's part of its fair share, in thousandths.
    pub worst_milli: u64,
    /// Its mean over time.
    pub mean_milli: u64,
    /// At the end.
    pub end_milli: u64,
    /// How much nodes' replicas went up and down against their trend, as in cases.
    pub thrash_percent: u64,
    /// Shards with fewer live copies than wanted, times how long.
    pub short_shard_s: u64,
    /// Copies under way at the end.
    pub unfinished: u64,
}

/// Plays a trace; first what was recorded, then each way to decide, in order.
///
/// # Errors
/// The trace cannot be read, or an engine does not take the cluster.
pub fn replay(path: &Path, until_ms: Option<u64>, ways: &[How]) -> Result<(Outcome, Vec<Outcome>), Error> {
    let mut lines = Lines::new(&path.display().to_string(), super::open(path)?);
    let mut recorded = Meter::default();
    let mut ours: Option<Vec<Ours<'_>>> = None;
    while let Some(line) = lines.next()? {
        let Line::Event(timed) = line else {
            lines.take(line)?;
            continue;
        };
        if until_ms.is_some_and(|until_ms| timed.at_ms > until_ms) {
            break;
        }
        if ours.is_none() {
            lines.world.whole().map_err(|why| lines.wrong(why))?;
            ours = Some(begin(&lines.world, ways)?);
        }
        if timed.at_ms > lines.world.at_ms {
            recorded.pass(&lines.world, timed.at_ms);
        }
        recorded.count(&lines.world, &timed.event);
        lines.take(Line::Event(timed.clone()))?;
        for player in ours.iter_mut().flatten() {
            player.happen(&timed)?;
        }
    }
    let end_ms = until_ms.unwrap_or(0).max(lines.world.at_ms);
    recorded.pass(&lines.world, end_ms);
    let mut ours = match ours {
        Some(ours) => ours,
        None => begin(&lines.world, ways)?,
    };
    let outcomes = ours.iter_mut().map(|player| player.end(end_ms)).collect::<Result<_, _>>()?;
    let unfinished = lines.world.operations.values().filter(|(_, kind)| kind.target().is_some()).count();
    Ok((recorded.outcome(&lines.world, unfinished as u64), outcomes))
}

fn begin<'a>(world: &World, ways: &'a [How]) -> Result<Vec<Ours<'a>>, Error> {
    ways.iter().map(|how| Ours::begin(world, how)).collect()
}

/// Measures a world as time passes.
#[derive(Debug, Default)]
struct Meter {
    moves: u64,
    bytes: u64,
    worst_milli: u64,
    milli_ms: u128,
    short_shard_ms: u128,
    passed_ms: u64,
    samples: Vec<Sample>,
}

impl Meter {
    /// The world stays so until then, but for its growth.
    fn pass(&mut self, world: &World, to_ms: u64) {
        let milli = balance(world).worst_milli();
        self.worst_milli = self.worst_milli.max(milli);
        let ms = to_ms.saturating_sub(world.at_ms);
        self.milli_ms += u128::from(milli) * u128::from(ms);
        self.passed_ms += ms;
        self.short_shard_ms += short(world) as u128 * u128::from(ms);
        self.samples.push(sample(world));
    }

    /// Counts the copies that an event tells of.
    fn count(&mut self, world: &World, event: &Event) {
        let Event::ShardPlaced { table, shard, nodes, .. } = event else { return };
        if let Some(was) = world.shards.get(&(*table, *shard)) {
            let new = nodes.iter().filter(|node| !was.nodes.contains(node)).count() as u64;
            self.moves += new;
            self.bytes = self.bytes.saturating_add(was.bytes.saturating_mul(new));
        }
    }

    fn outcome(&self, world: &World, unfinished: u64) -> Outcome {
        let mean = self.milli_ms.checked_div(u128::from(self.passed_ms));
        let whole = |number: u128| u64::try_from(number).unwrap_or(u64::MAX);
        let end_milli = balance(world).worst_milli();
        Outcome {
            moves: self.moves,
            bytes_moved: self.bytes,
            worst_milli: self.worst_milli.max(end_milli),
            mean_milli: mean.map_or(end_milli, whole),
            end_milli,
            thrash_percent: thrash_percent(&self.samples),
            short_shard_s: whole(self.short_shard_ms / 1_000),
            unfinished,
        }
    }
}

/// Shards with fewer live copies than wanted.
fn short(world: &World) -> usize {
    let live = |node: &&NodeId| world.nodes.get(*node).is_some_and(|node| node.live);
    let lacks = |shard: &&TraceShard| {
        let wanted = world.tables.get(&shard.table).map_or(0, |table| table.replicas as usize);
        shard.nodes.iter().filter(live).count() < wanted
    };
    world.shards.values().filter(lacks).count()
}

fn sample(world: &World) -> Sample {
    let mut nodes: BTreeMap<NodeId, NodeSample> = BTreeMap::new();
    for shard in world.shards.values() {
        for node in &shard.nodes {
            let node = nodes.entry(node.clone()).or_default();
            node.replicas += 1;
            node.partitions += u64::from(shard.hi - shard.lo);
        }
    }
    Sample { at_ms: world.at_ms, nodes, lag: None, shards: Vec::new() }
}

/// A copy under way.
struct Copy {
    table: TableId,
    kind: Kind,
    done_ms: u64,
}

/// The world with our decisions.
struct Ours<'a> {
    how: &'a How,
    world: World,
    meter: Meter,
    copies: BTreeMap<OperationId, Copy>,
    next: u64,
    course: Course,
    /// What was decided on last, if nothing was to be begun.
    even: Option<Snapshot>,
    /// Nodes whose record is gone while we have copies there.
    gone: BTreeSet<NodeId>,
    /// Where shards were that are no more, for those made out of them.
    parents: Vec<TraceShard>,
}

impl<'a> Ours<'a> {
    fn begin(world: &World, how: &'a How) -> Result<Self, Error> {
        let mut world = world.clone();
        world.operations.clear();
        let mut player = Self {
            how,
            world,
            meter: Meter::default(),
            copies: BTreeMap::new(),
            next: 1,
            course: Course::default(),
            even: None,
            gone: BTreeSet::new(),
            parents: Vec::new(),
        };
        player.decide()?;
        Ok(player)
    }

    fn happen(&mut self, timed: &Timed) -> Result<(), Error> {
        let new_moment = timed.at_ms > self.world.at_ms;
        if new_moment {
            // All of one moment has happened before anything is decided on it.
            self.decide()?;
            self.go_on(timed.at_ms)?;
        }
        self.take(&timed.event);
        Ok(())
    }

    fn end(&mut self, end_ms: u64) -> Result<Outcome, Error> {
        self.decide()?;
        self.go_on(end_ms)?;
        Ok(self.meter.outcome(&self.world, self.copies.len() as u64))
    }

    /// Time passes: copies end, and others begin.
    fn go_on(&mut self, to_ms: u64) -> Result<(), Error> {
        loop {
            let next =
                self.copies.values().map(|copy| copy.done_ms).min().filter(|done_ms| *done_ms <= to_ms);
            let now_ms = next.unwrap_or(to_ms);
            self.meter.pass(&self.world, now_ms);
            self.world.grow(now_ms);
            if next.is_none() {
                return Ok(());
            }
            let done: Vec<OperationId> =
                self.copies.iter().filter(|(_, copy)| copy.done_ms <= now_ms).map(|(id, _)| *id).collect();
            for id in done {
                self.arrive(id);
            }
            self.decide()?;
        }
    }

    /// A copy has ended.
    fn arrive(&mut self, id: OperationId) {
        self.world.operations.remove(&id);
        let Some(Copy { table, kind, .. }) = self.copies.remove(&id) else { return };
        let (shard, from, to) = match kind {
            Kind::Move { shard, from, to } => (shard, Some(from), to),
            Kind::Add { shard, to } => (shard, None, to),
            _ => return,
        };
        let live = self.world.nodes.get(&to).is_some_and(|node| node.live);
        let Some(shard) = self.world.shards.get_mut(&(table, shard)).filter(|_| live) else { return };
        if shard.nodes.contains(&to) {
            return;
        }
        self.meter.moves += 1;
        self.meter.bytes = self.meter.bytes.saturating_add(shard.bytes);
        match from.and_then(|from| shard.nodes.iter().position(|node| *node == from)) {
            Some(place) => shard.nodes[place] = to,
            None => shard.nodes.push(to),
        }
        self.lead();
    }

    /// What was recorded of the world happens; what was decided then does not.
    fn take(&mut self, event: &Event) {
        match event {
            Event::ShardPlaced { .. } | Event::OperationBegun { .. } | Event::OperationEnded { .. } => return,
            Event::NodeRemoved { node } => {
                self.gone.insert(node.clone());
                if let Some(record) = self.world.nodes.get_mut(node) {
                    (record.live, record.state) = (false, NodeState::Draining);
                }
            }
            Event::ShardGone { table, shard } => {
                self.parents.extend(self.world.shards.remove(&(*table, *shard)));
                self.copies.retain(|_, copy| copy.table != *table || !copy.kind.touches(*shard));
            }
            Event::ShardMade { shard } => {
                let made = self.inherited(shard);
                self.world.shards.insert((shard.table, shard.shard), made);
            }
            Event::TableDropped { table } => {
                self.copies.retain(|_, copy| copy.table != *table);
                // The recorded world had it, so this one has.
                let _ = self.world.apply(event.clone());
            }
            Event::NodeJoined { node } => {
                // One that was removed and is back may still have copies here.
                self.gone.remove(&node.id);
                self.world.nodes.remove(&node.id);
                self.world.down_since_ms.remove(&node.id);
                let _ = self.world.apply(event.clone());
            }
            other => {
                // It made sense in the recorded world, whose nodes, tables and shards are the same.
                let _ = self.world.apply(other.clone());
            }
        }
        let copies = &self.copies;
        self.world.operations.retain(|id, _| copies.contains_key(id));
        self.lead();
    }

    /// A shard that was made out of another is where that one was.
    fn inherited(&self, shard: &TraceShard) -> TraceShard {
        let there = self.world.shards.values().chain(self.parents.iter().rev());
        let mut parents = there.filter(|of| of.table == shard.table && of.lo < shard.hi && shard.lo < of.hi);
        let mut made = shard.clone();
        if let Some(parent) = parents.next() {
            made.nodes.clone_from(&parent.nodes);
        }
        made
    }

    /// The first copy that lives leads; nodes that are gone and empty are forgotten.
    fn lead(&mut self) {
        let nodes = &self.world.nodes;
        for shard in self.world.shards.values_mut() {
            shard.leader =
                shard.nodes.iter().find(|id| nodes.get(*id).is_some_and(|node| node.live)).cloned();
        }
        let holds = |node: &NodeId| self.world.shards.values().any(|shard| shard.nodes.contains(node));
        let empty: Vec<NodeId> = self.gone.iter().filter(|node| !holds(node)).cloned().collect();
        for node in empty {
            self.gone.remove(&node);
            self.world.nodes.remove(&node);
            self.world.down_since_ms.remove(&node);
        }
    }

    /// Begins what the balancer would begin now.
    fn decide(&mut self) -> Result<(), Error> {
        for _ in 0..ROUNDS_MAX {
            let begun = self.round()?;
            if !self.begin_all(begun) {
                break;
            }
        }
        Ok(())
    }

    fn round(&mut self) -> Result<Wanted, Error> {
        let mut lost = down_for(&self.world, self.how.down_after_ms);
        lost.extend(self.gone.iter().cloned());
        let stand = Stand::of(&self.world, lost);
        let snapshot = stand.sight(decide::snapshot);
        let rough = decide::rough(&snapshot);
        if self.even.as_ref() == Some(&rough) {
            return Ok(Wanted::new());
        }
        let towards = self.course.towards(&snapshot);
        let limits = decide::limits(&snapshot, &self.how.balance);
        let proposal = self.how.resume(&snapshot, &limits, &towards)?;
        self.course.keep(&snapshot, &proposal);
        let begun = stand.sight(|sight| decide::begin(sight, &proposal, &self.how.balance, cause::BALANCE));
        self.even = begun.is_empty().then_some(rough);
        Ok(begun)
    }

    /// Whether anything was done at once, so that there may be more to decide.
    fn begin_all(&mut self, begun: Wanted) -> bool {
        let mut at_once = false;
        for (table, kinds) in begun {
            for (kind, _) in kinds {
                match kind {
                    Kind::Move { shard, .. } | Kind::Add { shard, .. } => self.begin_copy(table, shard, kind),
                    kind => at_once |= self.do_at_once(table, &kind),
                }
            }
        }
        self.lead();
        at_once
    }

    fn begin_copy(&mut self, table: TableId, shard: ShardId, kind: Kind) {
        let bytes = self.world.shards.get(&(table, shard)).map_or(0, |shard| shard.bytes);
        let id = OperationId(self.next);
        self.next += 1;
        let done_ms = self.world.at_ms + self.copy_ms(bytes);
        self.world.operations.insert(id, (table, kind.clone()));
        self.copies.insert(id, Copy { table, kind, done_ms });
    }

    /// How long a copy takes: a node's copies share its rate.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "milliseconds above 0, below ages"
    )]
    fn copy_ms(&self, bytes: u64) -> u64 {
        let rate =
            WaveLimits::default().bytes_per_second / f64::from(self.how.balance.copies_per_node_max.max(1));
        (bytes as f64 / rate * 1e3).ceil() as u64 + 1
    }

    fn do_at_once(&mut self, table: TableId, kind: &Kind) -> bool {
        match kind {
            Kind::Lead { shard, to } => {
                let Some(shard) = self.world.shards.get_mut(&(table, *shard)) else { return false };
                let Some(place) = shard.nodes.iter().position(|node| node == to) else { return false };
                let node = shard.nodes.remove(place);
                shard.nodes.insert(0, node);
                place > 0
            }
            Kind::Remove { shard, from } => {
                let Some(shard) = self.world.shards.get_mut(&(table, *shard)) else { return false };
                let before = shard.nodes.len();
                if before > 1 {
                    shard.nodes.retain(|node| node != from);
                }
                shard.nodes.len() < before
            }
            _ => false,
        }
    }
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
