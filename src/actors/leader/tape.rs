//! The leader's record of its cluster: what it looks like and what happens to it, as a trace.
//!
//! A new trace begins with each term, as soon as all nodes have reported, and again when events cannot tell what
//! changed or the sink has lost some. Looked at every few seconds, so what comes and goes between two looks is not in
//! it, operations aside. Decides nothing; nothing that goes wrong here is more than a trace that is missing.

use super::Lead;
use crate::actors::balance::decide;
use crate::adapters::recording::Recording;
use crate::model::ids::{NodeId, OperationId};
use crate::model::node::Node;
use crate::model::observed::{Heartbeat, told};
use crate::model::operation::{Operation, State};
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, Table, TableState};
use crate::model::trace::{
    Event, Header, Line, Origin, Timed, TraceNode, TraceShard, TraceTable, VERSION, World, changes, snapshot,
};
use crate::model::view::ClusterView;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Between two looks.
const LOOK_EVERY_MS: u64 = 5_000;
/// Between two looks at sizes.
const SIZES_EVERY_MS: u64 = 60_000;
/// Until a trace that could not be begun is tried again, beyond the next look.
const AGAIN_AFTER_MS: u64 = 60_000;
/// How long the first look waits for nodes that do not report.
const SILENT_MS_MAX: u64 = 60_000;

/// See the module.
pub struct Tape {
    sink: Arc<dyn Recording>,
    began_ms: u64,
    looked_ms: Option<u64>,
    sized_ms: u64,
    revision: i64,
    /// What the trace amounts to so far; none while it has not begun.
    told: Option<World>,
    /// Operations that had ended by the last look: what began and ended since is told too.
    over: BTreeSet<OperationId>,
}

impl Tape {
    /// Nothing is told yet.
    pub fn new(sink: Arc<dyn Recording>, now_ms: u64) -> Self {
        Self {
            sink,
            began_ms: now_ms,
            looked_ms: None,
            sized_ms: 0,
            revision: -1,
            told: None,
            over: BTreeSet::new(),
        }
    }

    /// Looks, if it is time, and tells what has happened.
    pub fn look(&mut self, lead: &Lead) {
        let now_ms = lead.clock.now_ms();
        if self.looked_ms.is_some_and(|looked_ms| now_ms < looked_ms + LOOK_EVERY_MS) {
            return;
        }
        self.looked_ms = Some(now_ms);
        if self.told.is_none() {
            self.begin(lead, now_ms);
            return;
        }
        let sizes = now_ms >= self.sized_ms + SIZES_EVERY_MS;
        let (view, reports) = (lead.view.read(), lead.observed.read());
        if view.revision == self.revision && !sizes {
            return;
        }
        let Some(told) = self.told.take() else { return };
        let seen = Look { view: &view, heartbeats: &reports.heartbeats, told: &told, sizes }.world();
        let Some(mut events) = changes(&told, &seen) else { return };
        // Operations begin before what they change and end after it.
        let mut all = begun(&told, &self.over, &view, &seen);
        let ended = ended(&told, &all, &view);
        all.append(&mut events);
        all.extend(ended);
        self.told = self.tell(lead, told, all);
        self.over = over(&view);
        if self.told.is_some() {
            self.revision = view.revision;
            self.sized_ms = if sizes { now_ms } else { self.sized_ms };
        }
    }

    /// Begins a trace, once the nodes have reported.
    fn begin(&mut self, lead: &Lead, now_ms: u64) {
        let blind =
            crate::actors::balance::look(lead, |sight| sight.view.complete && decide::blind(sight).is_none());
        let (view, reports) = (lead.view.read(), lead.observed.read());
        let waits = !blind && now_ms < self.began_ms + SILENT_MS_MAX;
        if waits || !view.complete {
            return;
        }
        let (version, cluster, origin) = (VERSION, lead.cluster.clone(), Origin::Recorded);
        let start_unix_ms = lead.clock.unix_ms();
        let header = Header { version, cluster, start_unix_ms, origin };
        let nothing = World::default();
        let look = Look { view: &view, heartbeats: &reports.heartbeats, told: &nothing, sizes: true };
        let mut world = look.world();
        let mut lines = vec![Line::Header(header.clone())];
        lines.extend(snapshot(&world));
        self.over = over(&view);
        let open = begun(&world, &self.over, &view, &world);
        world.header = Some(header.clone());
        let begins = |event: Event| Line::Event(Timed { at_ms: 0, event });
        lines.extend(open.iter().cloned().map(begins));
        let text = lines.iter().map(Line::text).collect();
        // One that cannot be begun now is begun later.
        self.looked_ms = Some(now_ms + AGAIN_AFTER_MS);
        if self.sink.begin(start_unix_ms, lead.term.0, text)
            && open.into_iter().all(|event| world.apply(event).is_ok())
        {
            (self.told, self.looked_ms) = (Some(world), Some(now_ms));
            (self.revision, self.sized_ms) = (view.revision, now_ms);
        }
    }

    /// Tells events; what the trace then amounts to, or nothing if it has to be begun anew.
    fn tell(&self, lead: &Lead, mut told: World, events: Vec<Event>) -> Option<World> {
        if events.is_empty() {
            return Some(told);
        }
        let start_unix_ms = told.header.as_ref().map_or(0, |header| header.start_unix_ms);
        // A clock that was set back does not take the trace back.
        let at_ms = lead.clock.unix_ms().saturating_sub(start_unix_ms).max(told.at_ms);
        let mut lines = Vec::with_capacity(events.len());
        for event in events {
            let timed = Timed { at_ms, event };
            lines.push(Line::Event(timed.clone()).text());
            if let Err(why) = told.take(Line::Event(timed)) {
                tracing::warn!(why, "what happened makes no trace: a new one is begun");
                return None;
            }
        }
        self.sink.append(lines).then_some(told)
    }
}

/// Operations that have ended.
fn over(view: &ClusterView) -> BTreeSet<OperationId> {
    let ended = view.operations.iter().filter(|(_, operation)| !operation.record.state.is_open());
    ended.map(|(id, _)| *id).collect()
}

/// Operations that the trace does not know yet; `over` had ended by the last look.
fn begun(told: &World, over: &BTreeSet<OperationId>, view: &ClusterView, seen: &World) -> Vec<Event> {
    let new = |operation: &&Operation| {
        !told.operations.contains_key(&operation.id)
            && !over.contains(&operation.id)
            && seen.tables.contains_key(&operation.table)
    };
    let event = |operation: &Operation| {
        let copied = operation.kind.target().and(operation.kind.shards().first().copied());
        let shard = copied.and_then(|shard| seen.shards.get(&(operation.table, shard)));
        Event::OperationBegun {
            id: operation.id,
            table: operation.table,
            operation: operation.kind.clone(),
            bytes: shard.map_or(0, |shard| shard.bytes),
            reason: operation.reason.clone(),
        }
    };
    view.operations.values().map(|operation| &operation.record).filter(new).map(event).collect()
}

/// Operations that the trace holds for open, those just begun with them, and that are not.
fn ended(told: &World, begun: &[Event], view: &ClusterView) -> Vec<Event> {
    let state = |id: &OperationId| view.operations.get(id).map_or(State::Done, |of| of.record.state);
    let just = begun.iter().filter_map(|event| match event {
        Event::OperationBegun { id, .. } => Some(id),
        _ => None,
    });
    let over = told.operations.keys().chain(just).filter(|id| !state(id).is_open());
    over.map(|id| Event::OperationEnded { id: *id, state: state(id) }).collect()
}

/// What is looked at.
struct Look<'a> {
    view: &'a ClusterView,
    heartbeats: &'a BTreeMap<NodeId, Shared<Heartbeat>>,
    /// What the trace amounts to so far.
    told: &'a World,
    /// Whether sizes are looked at too.
    sizes: bool,
}

impl Look<'_> {
    /// The cluster as records and reports show it. Tables that are being made or dropped are left out, and nodes that
    /// have just joined until they report: nobody knows their disk.
    fn world(&self) -> World {
        let mut world = World::default();
        for record in self.view.nodes.values().map(|record| &record.record) {
            let live = self.view.is_live(&record.id);
            let known = self.told.nodes.contains_key(&record.id) || self.heartbeats.contains_key(&record.id);
            if known || !live {
                world.nodes.insert(record.id.clone(), self.node(record, live));
            }
        }
        for table in self.view.tables.values().map(|table| &table.record) {
            if table.state != TableState::Active || !covers(table, self.view) {
                continue;
            }
            let (database, name) = (table.name.database.clone(), table.name.table.clone());
            let (id, partitions, replicas) = (table.id, table.partitions, table.replicas);
            world.tables.insert(id, TraceTable { id, database, table: name, partitions, replicas });
            for record in self.view.shards_of(id).filter(|shard| shard.state == ShardState::Serving) {
                let shard = self.shard(record, &world);
                world.shards.insert((id, record.id), shard);
            }
        }
        world
    }

    fn node(&self, of: &Node, live: bool) -> TraceNode {
        // A disk that changes its size makes no other node.
        let seen = || self.heartbeats.get(&of.id).map_or(0, |heartbeat| heartbeat.disk_total_bytes);
        let disk = || self.told.nodes.get(&of.id).map_or_else(seen, |node| node.capacity_bytes);
        TraceNode {
            id: of.id.clone(),
            labels: of.labels.clone(),
            capacity_bytes: if of.capacity_bytes > 0 { of.capacity_bytes } else { disk() },
            weight_milli: of.weight_milli,
            state: of.state,
            live,
        }
    }

    fn shard(&self, of: &Shard, world: &World) -> TraceShard {
        let copies = of
            .replicas
            .iter()
            .filter(|copy| copy.state.is_complete() && world.nodes.contains_key(&copy.node));
        let nodes: Vec<NodeId> = copies.map(|copy| copy.node.clone()).collect();
        let reported = |node: &NodeId| Some(told(self.heartbeats, of, node)?.bytes);
        let told = self.told.shards.get(&(of.table, of.id)).map(|shard| shard.bytes);
        let now = || nodes.iter().filter_map(reported).max();
        let bytes = if self.sizes { now().or(told) } else { told.or_else(now) };
        TraceShard {
            table: of.table,
            shard: of.id,
            lo: of.range.lo(),
            hi: of.range.hi(),
            leader: of.leader.clone().filter(|leader| nodes.contains(leader)),
            bytes: bytes.unwrap_or(0),
            bytes_per_s: 0,
            nodes,
        }
    }
}

fn covers(table: &Table, view: &ClusterView) -> bool {
    let serving = view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving);
    serving.map(|shard| shard.range.width()).sum::<u32>() == table.partitions
}
