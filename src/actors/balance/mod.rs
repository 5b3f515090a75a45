//! The balancer: looks at the whole cluster every few seconds while this daemon leads, and begins the operations that
//! bring it into balance. `decide` says which; a table's actor carries them out.

pub mod decide;

use super::leader::Lead;
use super::leader::operations::{begin_all, split_kind};
use super::table::decide::down_for;
use crate::model::control::BalanceMode;
use crate::model::ids::{NodeId, TableId};
use crate::model::operation::Kind;
use crate::placement::{Limits, Policy, Proposal, Snapshot, plan};
use actix::prelude::*;
use decide::Sight;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// The actor.
pub struct Balancer {
    lead: Lead,
    busy: bool,
    blind: Option<String>,
    /// What was planned on last, and there was nothing to begin.
    even: Option<Snapshot>,
}

impl Balancer {
    /// Balances while that term lasts.
    pub fn new(lead: Lead) -> Self {
        Self { lead, busy: false, blind: None, even: None }
    }

    fn round(&mut self, ctx: &mut Context<Self>) {
        let rules = self.lead.balance;
        ctx.run_later(Duration::from_millis(rules.every_ms.max(100)), |actor, ctx| actor.round(ctx));
        if rules.mode == BalanceMode::Off || self.busy {
            return;
        }
        let begun = self.decide();
        if begun.is_empty() || rules.mode != BalanceMode::On {
            return;
        }
        self.busy = true;
        let lead = self.lead.clone();
        let work = async move {
            // What could not be written is decided anew in the next round.
            if let Err(error) = begin_all(&lead, begun).await {
                tracing::info!(%error, "operations were not begun: deciding again");
            }
        };
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|(), actor, _| actor.busy = false));
    }

    fn decide(&mut self) -> BTreeMap<TableId, Vec<(Kind, String)>> {
        let (view, reports) = (self.lead.view.read(), self.lead.observed.read());
        let now_ms = self.lead.clock.now_ms();
        let down_after_ms = self.lead.rules.down_after_ms;
        let lost = |node: &NodeId| down_for(&reports.unfit_since_ms, node, now_ms, down_after_ms);
        let sight = Sight { view: &view, heartbeats: &reports.heartbeats, lost: &lost };
        let blind = decide::blind(&sight);
        if blind != self.blind {
            tracing::debug!(waits_for = ?blind, "balancer");
            self.blind.clone_from(&blind);
        }
        if blind.is_some() {
            return BTreeMap::new();
        }
        let rules = &self.lead.balance;
        let splits = decide::splits(&sight, rules);
        if !splits.is_empty() {
            let mut begun: BTreeMap<TableId, Vec<(Kind, String)>> = BTreeMap::new();
            for (table, shard) in splits {
                let kinds = begun.entry(table).or_default();
                let kind = split_kind(&view, table, shard, kinds.len());
                kinds.extend(kind.map(|kind| (kind, "nodes joined, or the shard has grown".to_owned())));
            }
            return begun;
        }
        // Moving what is about to be split would copy it for nothing.
        let splitting = |kind: &Kind| matches!(kind, Kind::Split { .. } | Kind::Merge { .. });
        if view.open_operations().any(|operation| splitting(&operation.kind)) {
            return BTreeMap::new();
        }
        let snapshot = decide::snapshot(&sight);
        let rough = decide::rough(&snapshot);
        if self.even.as_ref() == Some(&rough) {
            return BTreeMap::new();
        }
        let limits = Limits { work: decide::work(&snapshot), ..Limits::default() };
        let proposal: Option<Proposal> =
            catch_unwind(AssertUnwindSafe(|| plan(&snapshot, &Policy::default(), &limits))).ok();
        let Some(proposal) = proposal else {
            tracing::error!("the placement engine panicked: nothing is moved");
            return BTreeMap::new();
        };
        let moves = proposal.verdict.moves.len();
        self.lead.metrics.planned_moves.set(i64::try_from(moves).unwrap_or(i64::MAX));
        let begun = decide::begin(&sight, &proposal, rules);
        self.even = begun.is_empty().then_some(rough);
        begun
    }
}

impl Actor for Balancer {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.round(ctx);
    }
}
