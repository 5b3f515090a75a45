//! A node in the leader's eyes: takes its heartbeats, and says since when it has been fit to lead.
//!
//! Whether a node lives is told by its lease in the view; this actor adds what only heartbeats tell.

use super::leader::Lead;
use super::table::{Heard, TableActor};
use crate::model::observed::Heartbeat;
use crate::model::shared::Shared;
use crate::model::{NodeId, TableId};
use actix::prelude::*;
use std::time::Duration;

/// The actor.
pub struct NodeActor {
    lead: Lead,
    id: NodeId,
    was_fit: Option<bool>,
}

/// A report says nothing of now once so many more should have come.
const FRESH_TICKS: u64 = 3;

/// A report of this node, and the tables that it concerns.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HeartbeatCame {
    /// The report.
    pub heartbeat: Shared<Heartbeat>,
    /// Their actors.
    pub tables: Vec<(TableId, Addr<TableActor>)>,
}

impl NodeActor {
    /// The node of that name.
    pub fn new(lead: Lead, id: NodeId) -> Self {
        Self { lead, id, was_fit: None }
    }

    fn judge(&mut self) {
        let now_ms = self.lead.clock.now_ms();
        let live = self.lead.view.read().is_live(&self.id);
        let mut reports = self.lead.observed.write();
        let fit = live && reports.heartbeats.get(&self.id).is_some_and(|heartbeat| heartbeat.clickhouse_up);
        if fit {
            reports.fit_since_ms.entry(self.id.clone()).or_insert(now_ms);
            reports.unfit_since_ms.remove(&self.id);
        } else {
            reports.fit_since_ms.remove(&self.id);
            reports.unfit_since_ms.entry(self.id.clone()).or_insert(now_ms);
        }
        let received_ms = reports.received_ms.get(&self.id).copied();
        let fresh =
            received_ms.is_some_and(|at| now_ms.saturating_sub(at) <= FRESH_TICKS * self.lead.tick_ms);
        if !live || fresh && !fit {
            reports.dark_since_ms.entry(self.id.clone()).or_insert(now_ms);
        } else {
            reports.dark_since_ms.remove(&self.id);
        }
        if let Some(received) = received_ms {
            self.lead.metrics.heartbeat_age(self.id.as_str(), now_ms.saturating_sub(received));
        }
        if self.was_fit != Some(fit) {
            self.was_fit = Some(fit);
            reports.news += 1;
            tracing::info!(node = %self.id, live, fit, "node changed");
        }
    }

    /// A pending timer keeps an actor alive, so it looks whether its leader still is.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return;
        }
        self.judge();
        ctx.run_later(Duration::from_millis(self.lead.tick_ms), |node, ctx| node.tick(ctx));
    }
}

/// Whether a report says anything of a table that the one before did not.
fn news(before: &Heartbeat, now: &Heartbeat, table: TableId) -> bool {
    let up = |heartbeat: &Heartbeat| (heartbeat.clickhouse_up, heartbeat.incarnation);
    up(before) != up(now)
        || before.replicas.get(&table) != now.replicas.get(&table)
        || before.epochs.get(&table) != now.epochs.get(&table)
        || before.settled.get(&table) != now.settled.get(&table)
        || before.dropped.contains(&table) != now.dropped.contains(&table)
}

impl Actor for NodeActor {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tick(ctx);
    }
}

impl Handler<HeartbeatCame> for NodeActor {
    type Result = ();
    fn handle(&mut self, came: HeartbeatCame, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return;
        }
        let HeartbeatCame { heartbeat, mut tables } = came;
        {
            let mut reports = self.lead.observed.write();
            reports.received_ms.insert(self.id.clone(), self.lead.clock.now_ms());
            if let Some(before) = reports.heartbeats.get(&self.id) {
                tables.retain(|(table, _)| news(before, &heartbeat, *table));
            }
            reports.take(heartbeat);
        }
        self.judge();
        tables.iter().for_each(|(_, table)| table.do_send(Heard));
    }
}
