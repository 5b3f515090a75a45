//! A node in the leader's eyes: takes its heartbeats, and says since when it has been fit to lead.
//!
//! Whether a node lives is told by its lease in the view; this actor adds what only heartbeats tell.

use super::leader::Lead;
use super::table::{Review, TableActor};
use crate::model::NodeId;
use crate::model::observed::Heartbeat;
use actix::prelude::*;
use std::time::Duration;

/// The actor.
pub struct NodeActor {
    lead: Lead,
    id: NodeId,
    was_fit: Option<bool>,
}

/// A report of this node, and the tables that it concerns.
#[derive(Message)]
#[rtype(result = "()")]
pub struct HeartbeatCame {
    /// The report.
    pub heartbeat: Heartbeat,
    /// Their actors.
    pub tables: Vec<Addr<TableActor>>,
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
        if let Some(received) = reports.received_ms.get(&self.id) {
            self.lead.metrics.heartbeat_age(self.id.as_str(), now_ms.saturating_sub(*received));
        }
        if self.was_fit != Some(fit) {
            self.was_fit = Some(fit);
            tracing::info!(node = %self.id, live, fit, "node changed");
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.judge();
        ctx.run_later(Duration::from_secs(1), |node, ctx| node.tick(ctx));
    }
}

impl Actor for NodeActor {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tick(ctx);
    }
}

impl Handler<HeartbeatCame> for NodeActor {
    type Result = ();
    fn handle(&mut self, came: HeartbeatCame, _: &mut Context<Self>) {
        {
            let mut reports = self.lead.observed.write();
            reports.received_ms.insert(self.id.clone(), self.lead.clock.now_ms());
            reports.heartbeats.insert(self.id.clone(), came.heartbeat);
        }
        self.judge();
        came.tables.iter().for_each(|table| table.do_send(Review));
    }
}
