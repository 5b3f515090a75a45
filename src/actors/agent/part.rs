//! A parent stops for its halves, which have linked it and wait: between two batches, and it tells where it stands.

use super::Agent;
use super::reconcile::Place;
use crate::actors::replica::handover::Stands;
use crate::actors::replica::{HandOver, StopReplica};
use actix::prelude::*;
use std::time::Duration;
use tokio::sync::oneshot;

/// A parent tells where it stands within half of that, if its actor lives.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

impl Agent {
    /// Has parents stop; each is let go once it has told where it stands.
    pub(super) fn part(&mut self, parents: Vec<Place>, ctx: &mut Context<Self>) {
        for place in parents {
            let Some(running) = self.running.get_mut(&place) else { continue };
            if !running.address.connected() || std::mem::replace(&mut running.parting, true) {
                continue;
            }
            let (to, stands) = oneshot::channel();
            running.address.do_send(HandOver(to));
            let told = async move {
                let told = tokio::time::timeout(TOLD_WITHIN, stands).await;
                told.ok().and_then(Result::ok).unwrap_or_default()
            };
            self.then(ctx, told, move |agent, stands, ctx| agent.parted(place, stands, ctx));
        }
    }

    fn parted(&mut self, place: Place, stands: Stands, ctx: &mut Context<Self>) {
        // Another one may have been started since.
        if self.running.get(&place).is_some_and(|running| running.parting) {
            self.stop(place);
            self.lineage.parted(place, stands);
        }
        self.reconcile(ctx);
    }

    /// Stops a replica.
    pub(super) fn stop(&mut self, place: Place) {
        if let Some(running) = self.running.remove(&place) {
            if !running.address.connected() {
                tracing::error!(table = %place.0, shard = %place.1, "a replica actor died: making it anew");
                self.ports.metrics.actor_deaths("replica").inc();
            }
            running.address.do_send(StopReplica);
        }
        self.sight.stopped(place, self.probing);
        let sight = self.sight.change();
        sight.observed.remove(&place);
        sight.seeding.remove(&place);
    }
}
