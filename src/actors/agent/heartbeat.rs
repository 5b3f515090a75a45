//! The agent's report to the leader: everything it observes of its node, in one message.

use super::{Agent, reconcile};
use crate::model::ids::{ShardId, TableId};
use crate::model::observed::{Heartbeat, ReplicaObservation};
use crate::model::shared::Shared;
use actix::prelude::*;
use std::collections::BTreeMap;

impl Agent {
    /// The report as of now; the node's gauges are set along with it.
    fn report(&mut self) -> Shared<Heartbeat> {
        let (changes, revision) = (self.sight.changes(), self.view.read().revision);
        let known = self.told.as_ref().filter(|told| (told.0, told.1) == (changes, revision));
        if let Some((_, _, told)) = known {
            return told.clone();
        }
        self.gauge();
        let told = Shared::from(self.heartbeat());
        self.told = Some((changes, revision, told.clone()));
        told
    }

    fn heartbeat(&self) -> Heartbeat {
        let sight = &*self.sight;
        let mut replicas: BTreeMap<TableId, BTreeMap<ShardId, ReplicaObservation>> = BTreeMap::new();
        for ((table, shard), running) in &self.running {
            let mut seen = sight.observed.get(&(*table, *shard)).cloned().unwrap_or_default();
            if let Some(sizes) = sight.sizes.get(&running.database) {
                (seen.bytes, seen.rows, seen.parts) = (sizes.bytes, sizes.rows, sizes.parts);
            }
            if seen.problem.is_none() {
                seen.problem = sight.routes.problems.get(table).cloned();
            }
            seen.seeding = sight.seeding.get(&(*table, *shard)).cloned();
            seen.serving &= sight.up;
            replicas.entry(*table).or_default().insert(*shard, seen);
        }
        let dropped = match &sight.databases {
            Some(all) => {
                let sure = |table: &TableId| !sight.unsure.contains_key(table);
                reconcile::dropped(&self.view.read(), &sight.routes.undistributed, all, sure)
            }
            None => Vec::new(),
        };
        let server = sight.server.as_ref();
        Heartbeat {
            node: self.ports.node.clone(),
            incarnation: self.ports.incarnation,
            clickhouse_up: sight.up,
            clickhouse_error: sight.error.clone(),
            kafka_error: sight.kafka_error.clone(),
            clickhouse_version: server.map_or_else(String::new, |info| info.version.clone()),
            disk_free_bytes: server.map_or(0, |info| info.disk_free_bytes),
            disk_total_bytes: server.map_or(0, |info| info.disk_total_bytes),
            replicas,
            epochs: sight.routes.epochs.clone(),
            settled: sight.routes.settled.clone(),
            dropped,
        }
    }

    /// Sends it to whoever leads. Losing one loses nothing; one is under way at most.
    pub(super) fn beat(&mut self, ctx: &mut Context<Self>) {
        let heartbeat = self.report();
        let leader = self.view.read().leader.clone();
        let Some(leader) = leader else { return };
        if std::mem::replace(&mut self.beating, true) {
            return;
        }
        let daemon = self.ports.neighbours.daemon(&leader.daemon_url);
        self.then(ctx, async move { daemon.heartbeat(heartbeat).await }, |agent, result, _| {
            agent.beating = false;
            if let Err(error) = result {
                tracing::debug!(%error, "the leader did not take the heartbeat");
            }
        });
    }
}
