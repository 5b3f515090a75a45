//! What an agent knows of its node. It is told to the leader once more each round, however little has changed: the
//! report is made anew only if something has ([`Counted`] knows), else it is the same place in memory.

use super::RoutesStand;
use super::reconcile::Place;
use crate::adapters::clickhouse::{ReplicaSizes, ServerInfo};
use crate::model::TableId;
use crate::model::observed::{ReplicaObservation, Seeding};
use crate::model::shared::Shared;
use std::collections::BTreeMap;
use std::ops::Deref;

/// A value that counts how often it may have been changed: it is read as itself, and written to by
/// [`Counted::change`] alone.
#[derive(Debug, Default)]
pub(super) struct Counted<T> {
    value: T,
    changes: u64,
}

impl<T> Counted<T> {
    /// To write to it.
    pub(super) fn change(&mut self) -> &mut T {
        self.changes += 1;
        &mut self.value
    }

    /// How often that was asked for.
    pub(super) fn changes(&self) -> u64 {
        self.changes
    }
}

impl<T> Deref for Counted<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sight {
    /// How each replica stands, by its own word.
    pub(super) observed: BTreeMap<Place, ReplicaObservation>,
    /// How far copies are.
    pub(super) seeding: BTreeMap<Place, Seeding>,
    /// What the server holds, by database.
    pub(super) sizes: Shared<BTreeMap<String, ReplicaSizes>>,
    /// Our databases there, once looked for.
    pub(super) databases: Option<Shared<Vec<String>>>,
    /// Tables of which a replica ran here until just now, and how many more looks at the databases it takes to know
    /// what it has left: what it had asked of the server may still come.
    pub(super) unsure: BTreeMap<TableId, u8>,
    /// The server, once it has answered.
    pub(super) server: Option<ServerInfo>,
    /// Whether it answered the last look.
    pub(super) up: bool,
    /// Why it did not.
    pub(super) error: String,
    /// Why Kafka cannot be used from here, with what helps; empty if it can.
    pub(super) kafka_error: String,
    /// Its clusters and user-facing tables.
    pub(super) routes: RoutesStand,
}

impl Default for Sight {
    fn default() -> Self {
        Self {
            observed: BTreeMap::new(),
            seeding: BTreeMap::new(),
            sizes: Shared::default(),
            databases: None,
            unsure: BTreeMap::new(),
            server: None,
            up: false,
            error: "not looked at yet".to_owned(),
            kafka_error: String::new(),
            routes: RoutesStand::default(),
        }
    }
}

/// Looks that begin after a replica has stopped before what the server holds of its table is believed.
const LOOKS: u8 = 2;

impl Counted<Sight> {
    /// A replica stops; a look that is under way says nothing of it.
    pub(super) fn stopped(&mut self, (table, _): Place, looking: bool) {
        self.change().unsure.insert(table, LOOKS + u8::from(looking));
    }

    /// The databases were looked at.
    pub(super) fn looked(&mut self) {
        if !self.unsure.is_empty() {
            let unsure = &mut self.change().unsure;
            unsure.values_mut().for_each(|looks| *looks -= 1);
            unsure.retain(|_, looks| *looks > 0);
        }
    }

    /// What these replicas told last is true no more: their tables are gone. They will tell again.
    pub(super) fn no_longer_serve(&mut self, gone: &[Place]) {
        for place in gone {
            self.change().observed.entry(*place).and_modify(|seen| (seen.serving, seen.bare) = (false, true));
        }
    }

    /// A replica tells how it stands; whether it begins or ceases to serve.
    pub(super) fn observe(&mut self, place: Place, seen: ReplicaObservation) -> bool {
        let before = self.observed.get(&place);
        if before == Some(&seen) {
            return false;
        }
        let turned = before.is_some_and(|before| before.serving) != seen.serving;
        self.change().observed.insert(place, seen);
        turned
    }

    /// The server answered, or did not; its uptime alone is no news.
    pub(super) fn answered(&mut self, server: Result<ServerInfo, String>) {
        let (server, error) = match server {
            Ok(server) => (Some(server), String::new()),
            Err(error) => (self.server.clone(), error),
        };
        let told =
            |server: &ServerInfo| (server.version.clone(), server.disk_total_bytes, server.disk_free_bytes);
        let up = error.is_empty();
        let same = (self.up, &self.error) == (up, &error)
            && self.server.as_ref().map(told) == server.as_ref().map(told);
        if same {
            // Not told to anyone.
            self.value.server = server;
        } else {
            let sight = self.change();
            (sight.server, sight.up, sight.error) = (server, up, error);
        }
    }

    /// What it holds.
    pub(super) fn holds(&mut self, sizes: Shared<BTreeMap<String, ReplicaSizes>>) {
        if self.sizes != sizes {
            self.change().sizes = sizes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{ShardId, TableId};

    #[test]
    fn what_is_no_news_counts_as_no_change() {
        let mut sight = Counted::<Sight>::default();
        let place = (TableId(uuid::Uuid::nil()), ShardId(0));
        let seen = ReplicaObservation { serving: true, rows: 1, ..ReplicaObservation::default() };
        assert!(sight.observe(place, seen.clone()), "it begins to serve");
        assert!(!sight.observe(place, seen.clone()));
        assert_eq!(sight.changes(), 1);
        assert!(!sight.observe(place, ReplicaObservation { rows: 2, ..seen }));
        assert_eq!(sight.changes(), 2);
        let server = |uptime_s, disk_free_bytes| ServerInfo {
            version: "18.16.1".into(),
            uptime_s,
            disk_total_bytes: 9,
            disk_free_bytes,
        };
        for (answer, changes) in [
            (Ok(server(1, 5)), 3),
            (Ok(server(2, 5)), 3),
            (Ok(server(2, 4)), 4),
            (Err("no answer"), 5),
            (Err("no answer"), 5),
            (Err("refused"), 6),
            (Ok(server(1, 4)), 7),
        ] {
            sight.answered(answer.clone().map_err(str::to_owned));
            assert_eq!(sight.changes(), changes, "{answer:?}");
        }
        assert_eq!(sight.server.as_ref().map(|server| server.uptime_s), Some(1), "known all the same");
        sight.holds(Shared::default());
        assert_eq!(sight.changes(), 7);
    }

    /// Found by a flaky test: a table that was dropped while its replica was being made was said to be gone by a look
    /// from before, and its database stood for ever.
    #[test]
    fn what_a_stopped_replica_left_is_known_by_looks_that_begin_after_it_stopped() {
        let place = (TableId(uuid::Uuid::nil()), ShardId(0));
        for (looking, looks) in [(false, 2), (true, 3)] {
            let mut sight: Counted<Sight> = Counted::default();
            sight.stopped(place, looking);
            for _ in 0..looks {
                assert!(sight.unsure.contains_key(&place.0), "{looking}");
                sight.looked();
            }
            assert!(sight.unsure.is_empty(), "{looking}");
            let changes = sight.changes();
            sight.looked();
            assert_eq!(sight.changes(), changes, "nothing more to tell");
        }
    }
}
