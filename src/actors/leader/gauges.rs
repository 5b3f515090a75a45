//! What the leader shows in metrics: how far copies and leaderships are from what is wanted, and what is left to do.
//!
//! Counted anew from records and reports, each time that either has changed; nothing else is kept.

use super::observed::Balancing;
use super::{Lead, status};
use crate::actors::balance;
use crate::adapters::metadata::Revision;
use crate::model::balance::{BalanceMode, PlannedSize};
use crate::model::ids::NodeId;
use crate::model::observed::{Heartbeat, answers, told};
use crate::model::operation::Kind;
use crate::model::shared::Shared;
use crate::model::table::{Shard, ShardState, TableState};
use crate::model::view::ClusterView;
use std::collections::BTreeMap;

/// Counts over all shards in the topologies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Shards with fewer readable copies on live nodes than wanted.
    pub under_replicated: u64,
    /// Shards that no live node leads.
    pub leaderless: u64,
    /// Shards that are paused or frozen.
    pub held: u64,
    /// Moves, additions, removals and leaderships under way.
    pub moves_open: u64,
    /// Bytes that copies under way still lack.
    pub bytes_open: u64,
}

fn number(count: impl TryInto<i64>) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Counts. Pure.
pub fn counts(
    view: &ClusterView,
    heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>,
    now_unix_ms: u64,
) -> Counts {
    let mut counts = Counts::default();
    let up = |node: &NodeId| view.is_live(node) && answers(heartbeats, node);
    let active = view.tables.values().map(|table| &table.record).filter(|t| t.state == TableState::Active);
    for table in active {
        for shard in view.shards_of(table.id).filter(|shard| shard.state == ShardState::Serving) {
            let readable = shard.ready_nodes().filter(|node| up(node)).count();
            counts.under_replicated += u64::from(readable < table.replicas as usize);
            counts.leaderless += u64::from(!shard.leader.as_ref().is_some_and(up));
            counts.held += u64::from(view.held(table.id, shard.id, now_unix_ms).is_some());
        }
    }
    for operation in view.open_operations() {
        let (Kind::Move { shard, .. }
        | Kind::Add { shard, .. }
        | Kind::Remove { shard, .. }
        | Kind::Lead { shard, .. }) = &operation.kind
        else {
            continue;
        };
        counts.moves_open += 1;
        let shard = view.shards_of(operation.table).find(|known| known.id == *shard);
        if let (Some(target), Some(shard)) = (operation.kind.target(), shard) {
            counts.bytes_open += lacking(shard, target, heartbeats);
        }
    }
    counts
}

/// What a copy that is being made lacks, against the largest that is whole.
fn lacking(shard: &Shard, target: &NodeId, heartbeats: &BTreeMap<NodeId, Shared<Heartbeat>>) -> u64 {
    let bytes = |node: &NodeId| told(heartbeats, shard, node).map_or(0, |seen| seen.bytes);
    let whole = shard.ready_nodes().filter(|node| *node != target).map(bytes).max().unwrap_or(0);
    whole.saturating_sub(bytes(target))
}

/// What the gauges were last set from.
#[derive(Debug, Default)]
pub struct Shown(Option<(Revision, u64, Balancing)>);

impl Shown {
    /// Sets the leader's gauges, if anything is new.
    pub fn show(&mut self, lead: &Lead) {
        let now = {
            let (view, reports) = (lead.view.read(), lead.observed.read());
            // A hold may end by itself.
            view.holds.is_empty().then(|| (view.revision, reports.news, lead.seen.get()))
        };
        if now.is_none() || self.0 != now {
            show(lead);
            self.0 = now;
        }
    }
}

fn show(lead: &Lead) {
    let (view, reports) = (lead.view.read(), lead.observed.read());
    let mut spreads: BTreeMap<String, u64> = BTreeMap::new();
    for (id, table) in &view.tables {
        let spread = view.shards_of(*id).filter_map(|shard| status::spread(&view, &reports, shard)).max();
        let name = table.record.name.to_string();
        let worst = spreads.entry(lead.metrics.label(&name).to_owned()).or_default();
        *worst = spread.unwrap_or(0).max(*worst);
    }
    for (label, spread) in spreads {
        lead.metrics.replication_spread(&label).set(number(spread));
    }
    let counts = counts(&view, &reports.heartbeats, lead.clock.unix_ms());
    let PlannedSize { splits, moves, bytes } = lead.seen.get().planned.unwrap_or_default();
    let shown = &lead.metrics.elastic;
    shown.under_replicated_shards.set(number(counts.under_replicated));
    shown.leaderless_shards.set(number(counts.leaderless));
    shown.held_shards.set(number(counts.held));
    shown.planned_splits.set(number(splits));
    shown.planned_moves.set(number(moves));
    shown.planned_bytes.set(number(bytes));
    shown.moves_left.set(number(counts.moves_open + u64::from(moves)));
    shown.bytes_left.set(number(counts.bytes_open.saturating_add(bytes)));
    shown.balance_mode.set(match balance::mode(lead, &view) {
        BalanceMode::Off => 0,
        BalanceMode::Advisory => 1,
        BalanceMode::On => 2,
    });
    for name in Kind::NAMES {
        let open = view.open_operations().filter(|operation| operation.kind.name() == name).count();
        shown.operations_open(name).set(number(open));
    }
}
