//! A table in the leader's hands: takes it from record to record until everything wanted is there.
//!
//! A shell round `decide`: one step at a time, each one transaction under the term's fence and compared with the
//! records it was decided from. The next is decided only when the view shows the last.

#[cfg(test)]
mod bare_tests;
pub mod decide;
#[cfg(test)]
pub(super) mod decide_tests;
mod missing;
pub mod operate;
mod readiness;
pub mod write;

use super::balance::copies::Copies;
use super::leader::Lead;
use super::leader::observed::Reports;
use super::placement::PlacementActor;
use super::replica::state::backoff_ms;
use crate::adapters::clock::Clock;
use crate::adapters::metadata::Revision;
use crate::model::balance::BalanceRules;
use crate::model::control::OperationStatus;
use crate::model::ids::{NodeId, OperationId, ShardId, TableId};
use crate::model::node::NodeState;
use crate::model::observed::{Seeding, answers};
use crate::model::operation::Operation;
use crate::model::shards::Shards;
use crate::model::shared::Shared;
use crate::model::table::{Shard, Table};
use crate::model::view::{ClusterView, Versioned};
use actix::prelude::*;
use decide::{Knowledge, Step};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Something may have changed: decide again.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Review;

/// A node reported something new of it: decide again, soon. Of a table with many shards that is not done at every
/// report: a large cluster's come all the time, and a look costs as much as the table is large.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Heard;

/// Shards that are looked at in a millisecond at most, for reports' sake.
const SHARDS_PER_MS: u64 = 10;

/// A round is over, and nothing else is known to have changed: decide again where time alone may bring something.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Round;

/// The actor.
pub struct TableActor {
    lead: Lead,
    placement: Addr<PlacementActor>,
    id: TableId,
    busy: bool,
    /// A look is on its way.
    asked: bool,
    /// One will be, for reports' sake.
    hearing: bool,
    /// When the last one was, and how many shards there were.
    looked: (u64, u64),
    /// The last look found nothing to be done now or later.
    rests: bool,
    /// Our last write: nothing is decided before the view shows it.
    written: Revision,
    failures: u32,
    /// When open operations were last seen to be held, by the wall clock. A new leader begins without.
    held_unix_ms: BTreeMap<OperationId, u64>,
    /// Since when shards have stood still for a split or merge, on the leader's clock. Likewise.
    still_since_ms: BTreeMap<OperationId, u64>,
}

/// What a step was decided from, for compare-and-swap.
struct Basis {
    table: Shared<Versioned<Table>>,
    shards: Shared<Shards>,
}

impl TableActor {
    /// The table of that id.
    pub fn new(lead: Lead, placement: Addr<PlacementActor>, id: TableId) -> Self {
        let (looked, written, failures) = ((0, 0), 0, 0);
        let (busy, asked, hearing, rests) = (false, false, false, false);
        Self {
            lead,
            placement,
            id,
            busy,
            asked,
            hearing,
            looked,
            rests,
            written,
            failures,
            held_unix_ms: BTreeMap::new(),
            still_since_ms: BTreeMap::new(),
        }
    }

    /// Nothing once the leader whose table it was is none: a step that failed would be tried for ever.
    fn review(&mut self, ctx: &mut Context<Self>) {
        if self.busy || !ctx.connected() {
            return;
        }
        let Some((basis, step)) = self.decide() else { return };
        self.busy = true;
        let work = write::carry_out(self.lead.clone(), self.placement.clone(), basis, step);
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|result, table, ctx| {
            table.busy = false;
            match result {
                // There is no room for it: it is decided again with whatever changes, in the next round at the latest.
                Ok(None) => table.failures = 0,
                Ok(Some(revision)) => {
                    table.failures = 0;
                    table.written = revision;
                    table.review(ctx);
                }
                Err(error) => {
                    tracing::warn!(table = %table.id, error, "a step was not made: deciding again");
                    let wait = Duration::from_millis(backoff_ms(table.failures));
                    table.failures += 1;
                    table.busy = true;
                    ctx.run_later(wait, |table, ctx| {
                        table.busy = false;
                        table.review(ctx);
                    });
                }
            }
        }));
    }

    fn decide(&mut self) -> Option<(Basis, Step)> {
        self.rests = false;
        let view = self.lead.view.read();
        if view.revision < self.written {
            return None;
        }
        let table = view.tables.get(&self.id)?.clone();
        let shards = view.shards.get(&self.id).cloned().unwrap_or_default();
        let reports = self.lead.observed.read();
        let nodes = Nodes::of(&view, &reports);
        let frozen = view.frozen_shards(self.id, self.lead.clock.unix_ms());
        let list: Vec<&Shard> = shards.values().map(|shard| &shard.record).collect();
        let (open, rules) = (open(&view, self.id), &self.lead.rules);
        let copies = copies(&view, &self.lead.balance);
        let (held_before, still_before) =
            (std::mem::take(&mut self.held_unix_ms), std::mem::take(&mut self.still_since_ms));
        let seen = Seen { frozen: &frozen, held_unix_ms: &held_before, still_since_ms: &still_before };
        let known = nodes.knowledge(&reports, self.lead.clock.as_ref(), &seen, &copies);
        let scene = operate::Scene { table: &table.record, shards: &list, open: &open, known: &known, rules };
        (self.held_unix_ms, self.still_since_ms) = (held(&scene), still(&scene));
        let known =
            Knowledge { held_unix_ms: &self.held_unix_ms, still_since_ms: &self.still_since_ms, ..known };
        self.looked = (known.now_ms, list.len() as u64);
        let step = decide::decide(&table.record, &list, &open, &known, rules);
        self.rests = step.is_none() && decide::rests(&table.record, &list, &open, &known, rules);
        Some((Basis { table, shards }, step?))
    }
}

/// When each open operation was last seen to be held, this look included.
fn held(scene: &operate::Scene<'_>) -> BTreeMap<OperationId, u64> {
    let before = scene.known.held_unix_ms;
    let of = |operation: &&Operation| {
        let now = operate::held(operation, scene).map(|_| scene.known.now_unix_ms);
        Some((operation.id, now.or_else(|| before.get(&operation.id).copied())?))
    };
    scene.open.iter().filter_map(of).collect()
}

/// Since when shards have stood still for each open operation, as far as this leader has seen.
fn still(scene: &operate::Scene<'_>) -> BTreeMap<OperationId, u64> {
    let before = scene.known.still_since_ms;
    let of = |operation: &&Operation| {
        let since = before.get(&operation.id).copied();
        let since = since.or_else(|| operate::stands_still(operation, scene).then_some(scene.known.now_ms));
        Some((operation.id, since.filter(|_| operate::is_prepared(operation, scene))?))
    };
    scene.open.iter().filter_map(of).collect()
}

/// The copies that are under way in the whole cluster.
fn copies<'a>(view: &'a ClusterView, rules: &BalanceRules) -> Copies<'a> {
    let shard = |table, id| view.shard(table, id);
    Copies::of(rules, view.open_operations(), &shard, &view.live)
}

/// A table's operations that have not ended, oldest first.
fn open(view: &ClusterView, table: TableId) -> Vec<&Operation> {
    view.open_operations().filter(|operation| operation.table == table).collect()
}

/// What a table's actor has seen besides reports.
struct Seen<'a> {
    frozen: &'a BTreeMap<ShardId, String>,
    held_unix_ms: &'a BTreeMap<OperationId, u64>,
    still_since_ms: &'a BTreeMap<OperationId, u64>,
}

/// Nodes as decisions see them.
struct Nodes {
    registered: BTreeSet<NodeId>,
    live: BTreeSet<NodeId>,
    open: BTreeSet<NodeId>,
}

impl Nodes {
    fn of(view: &ClusterView, reports: &Reports) -> Self {
        let live: BTreeSet<NodeId> = view.live.keys().cloned().collect();
        let takes = |id: &&NodeId| {
            view.nodes.get(*id).is_some_and(|node| node.record.state == NodeState::Active)
                && answers(&reports.heartbeats, id)
        };
        let open = live.iter().filter(takes).cloned().collect();
        Self { registered: view.nodes.keys().cloned().collect(), live, open }
    }

    fn knowledge<'a>(
        &'a self,
        reports: &'a Reports,
        clock: &dyn Clock,
        seen: &Seen<'a>,
        copies: &'a Copies<'a>,
    ) -> Knowledge<'a> {
        Knowledge {
            registered: &self.registered,
            live: &self.live,
            open: &self.open,
            heartbeats: &reports.heartbeats,
            fit_since_ms: &reports.fit_since_ms,
            unfit_since_ms: &reports.unfit_since_ms,
            dark_since_ms: &reports.dark_since_ms,
            now_ms: clock.now_ms(),
            now_unix_ms: clock.unix_ms(),
            frozen: seen.frozen,
            held_unix_ms: seen.held_unix_ms,
            still_since_ms: seen.still_since_ms,
            copies,
        }
    }
}

/// Every operation, and what the open ones wait for.
pub fn progress(view: &ClusterView, reports: &Reports, lead: &Lead) -> Vec<OperationStatus> {
    let (nodes, copies) = (Nodes::of(view, reports), copies(view, &lead.balance));
    let (rules, clock) = (&lead.rules, lead.clock.as_ref());
    let (now_unix_ms, none) = (clock.unix_ms(), BTreeMap::new());
    let said = |operation: &Operation| {
        let table = view.tables.get(&operation.table).map(|table| &table.record);
        let waiting = table.filter(|_| operation.state.is_open()).and_then(|table| {
            let shards: Vec<&Shard> = view.shards_of(table.id).collect();
            let open = open(view, table.id);
            let frozen = view.frozen_shards(table.id, now_unix_ms);
            let seen = Seen { frozen: &frozen, held_unix_ms: &none, still_since_ms: &none };
            let known = nodes.knowledge(reports, clock, &seen, &copies);
            let scene = operate::Scene { table, shards: &shards, open: &open, known: &known, rules };
            match operate::advance(operation, &scene) {
                operate::Progress::Waiting(wait) => Some(wait),
                _ => None,
            }
        });
        let told = OperationStatus::of(operation.clone(), table.map(|table| table.name.to_string()));
        if !operation.state.is_open() {
            return told;
        }
        OperationStatus {
            waiting_code: waiting.as_ref().map(|wait| wait.code),
            waiting_for: waiting.map(|wait| wait.what),
            took_ms: now_unix_ms.saturating_sub(operation.started_unix_ms),
            copy: copy_of(operation, reports),
            ..told
        }
    };
    view.operations.values().map(|operation| said(&operation.record)).collect()
}

/// How far the copy is that an operation makes.
fn copy_of(operation: &Operation, reports: &Reports) -> Option<Seeding> {
    let replicas = reports.heartbeats.get(operation.kind.target()?)?.replicas.get(&operation.table)?;
    operation.kind.shards().iter().find_map(|shard| replicas.get(shard)?.seeding.clone())
}

impl Actor for TableActor {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.review(ctx);
    }
}

impl Handler<Review> for TableActor {
    type Result = ();
    fn handle(&mut self, _: Review, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.asked, true) {
            ctx.notify(Look);
        }
    }
}

impl Handler<Heard> for TableActor {
    type Result = ();
    fn handle(&mut self, _: Heard, ctx: &mut Context<Self>) {
        let (looked_ms, shards) = self.looked;
        let due_ms = looked_ms + shards / SHARDS_PER_MS;
        match due_ms.saturating_sub(self.lead.clock.now_ms()) {
            0 => self.handle(Review, ctx),
            wait_ms if !std::mem::replace(&mut self.hearing, true) => {
                ctx.run_later(Duration::from_millis(wait_ms), |table, ctx| {
                    table.hearing = false;
                    table.handle(Review, ctx);
                });
            }
            _ => {}
        }
    }
}

impl Handler<Round> for TableActor {
    type Result = ();
    fn handle(&mut self, _: Round, ctx: &mut Context<Self>) {
        if !self.rests {
            self.handle(Review, ctx);
        }
    }
}

/// Comes after all reviews that were asked for by then: as many as nodes report at once, and one look is enough.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
struct Look;

impl Handler<Look> for TableActor {
    type Result = ();
    fn handle(&mut self, _: Look, ctx: &mut Context<Self>) {
        self.asked = false;
        self.review(ctx);
    }
}
