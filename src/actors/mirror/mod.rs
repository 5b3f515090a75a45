//! The mirror: follows the metadata store and keeps the daemon's one view of it.
//!
//! Other actors of the daemon read the shared view and are told what was touched. Writes nothing.

pub mod made;
pub mod read;

use crate::adapters::metadata::keys::Keys;
use crate::adapters::metadata::{self, Change, MetaStore, Update, follow};
use crate::adapters::peers::Error;
use crate::error::{Code, Coded as _, ranges};
use crate::model::invariants;
use crate::model::table::{Table, TableName};
use crate::model::view::{ClusterView, Record, Touched};
use crate::telemetry::Metrics;
use actix::prelude::*;
use made::{Made, MadeViews};
use std::sync::{Arc, RwLock, RwLockReadGuard};

/// Code under which unreadable records are counted: `records::DecodeError`.
const UNREADABLE: Code = Code(ranges::METADATA + 12);

/// The daemon's view, read by all its actors, written by its mirror alone.
#[derive(Clone, Default)]
pub struct View {
    known: Arc<RwLock<ClusterView>>,
    outage: Arc<RwLock<Option<metadata::Error>>>,
}

impl View {
    /// The view as of now. Held for a moment only, never over an await.
    pub fn read(&self) -> RwLockReadGuard<'_, ClusterView> {
        self.known.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Why the store is not followed at the moment, with the remedy; `None` if it is.
    pub fn outage(&self) -> Option<String> {
        let outage = self.outage.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        outage.as_ref().map(|error| format!("{}; {}", error.told(), error.remedy()))
    }

    /// For tests: what is known is this from now on.
    #[cfg(test)]
    pub fn set(&self, known: ClusterView) {
        *self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner) = known;
    }

    fn set_outage(&self, outage: Option<metadata::Error>) {
        *self.outage.write().unwrap_or_else(std::sync::PoisonError::into_inner) = outage;
    }
}

/// The table of that name that is not being dropped.
///
/// # Errors
/// There is none; or the store has not been read yet, and nobody can tell.
pub fn table_named<'a>(view: &'a ClusterView, name: &TableName) -> Result<&'a Table, Error> {
    if !view.complete {
        return Err(Error::unread());
    }
    view.table_named(name).ok_or_else(|| Error::NotFound(format!("table {name}")))
}

/// The view changed.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct ViewChanged(pub Arc<Touched>);

/// Tell me of changes; the first comes at once if there is a view.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Observe(pub Recipient<ViewChanged>);

/// The actor.
pub struct Mirror {
    store: Arc<dyn MetaStore>,
    keys: Keys,
    view: View,
    observers: Vec<Recipient<ViewChanged>>,
    metrics: Metrics,
    common: Option<MadeViews>,
}

impl Mirror {
    /// Mirrors what the store holds under these keys into `view`.
    pub fn new(
        store: Arc<dyn MetaStore>,
        keys: Keys,
        view: View,
        metrics: Metrics,
        common: Option<MadeViews>,
    ) -> Self {
        Self { store, keys, view, observers: Vec::new(), metrics, common }
    }

    fn update(&mut self, update: Update) {
        let batch = match &update {
            Update::Snapshot(revision, _) => (*revision, true),
            Update::Changes(batch) => (batch.revision, false),
            Update::Unreachable(error) => {
                tracing::warn!(%error, code = %error.code(), remedy = error.remedy(),
                    "the metadata store is not followed: what is known stays in force");
                self.metrics.metadata_errors(error.code()).inc();
                self.view.set_outage(Some(error.clone()));
                return;
            }
        };
        let before = self.view.read().clone();
        let known = self.common.as_ref().and_then(|common| common.made(&before, batch));
        let made = known.unwrap_or_else(|| {
            let made = self.make(&before, update);
            if let Some(common) = &self.common {
                common.remember(before, batch, made.clone());
            }
            made
        });
        *self.view.known.write().unwrap_or_else(std::sync::PoisonError::into_inner) = made.view;
        self.view.set_outage(None);
        for violation in made.broken {
            tracing::error!(invariant = %violation.invariant, violation.what, "an invariant is broken: this is a bug");
            self.metrics.invariant_violations(violation.invariant).inc();
        }
        self.observers.retain(Recipient::connected);
        for observer in &self.observers {
            observer.do_send(ViewChanged(made.touched.clone()));
        }
    }

    /// The view after an update.
    fn make(&self, before: &ClusterView, update: Update) -> Made {
        let mut view = before.clone();
        let touched = match update {
            Update::Snapshot(revision, pairs) => {
                let records = pairs.into_iter().filter_map(|pair| self.decode(&Change::Put(pair)));
                view.reset(revision, records.collect())
            }
            Update::Changes(batch) => {
                let records = batch.changes.iter().filter_map(|change| self.decode(change)).collect();
                view.apply(batch.revision, records)
            }
            Update::Unreachable(_) => Touched::default(),
        };
        let broken = invariants::check(before, &view);
        Made { view, touched: Arc::new(touched), broken }
    }

    /// A record that cannot be read is left out, loudly: one bad record must not stop the cluster.
    fn decode(&self, change: &Change) -> Option<Record> {
        match read::read(&self.keys, change) {
            Ok(record) => record,
            Err(error) => {
                tracing::error!(%error, "a record of the metadata store cannot be read: it is ignored");
                self.metrics.metadata_errors(UNREADABLE).inc();
                None
            }
        }
    }
}

impl Actor for Mirror {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let updates = follow::follow(self.store.clone(), self.keys.root().to_owned());
        ctx.add_stream(updates);
    }
}

impl StreamHandler<Update> for Mirror {
    fn handle(&mut self, update: Update, _: &mut Context<Self>) {
        self.update(update);
    }
}

impl Handler<Observe> for Mirror {
    type Result = ();
    fn handle(&mut self, Observe(observer): Observe, _: &mut Context<Self>) {
        let touched = {
            let view = self.view.read();
            Touched {
                leader: true,
                nodes: view.nodes.keys().chain(view.live.keys()).cloned().collect(),
                tables: view.tables.keys().copied().collect(),
            }
        };
        if self.view.read().complete {
            observer.do_send(ViewChanged(Arc::new(touched)));
        }
        self.observers.push(observer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::peers::known;
    use crate::error::Retry;

    #[test]
    fn before_the_store_was_read_nothing_is_said_to_be_missing() {
        let name = TableName { database: "d".into(), table: "t".into() };
        let mut view = ClusterView::default();
        let early = table_named(&view, &name).unwrap_err();
        assert_eq!((early.code().to_string().as_str(), early.retry()), ("CVH-0806", Retry::Safe));
        let listed = |view: &ClusterView| {
            use crate::actors::leader::status;
            let (reports, balancing) = (Default::default(), Default::default());
            known(status::cluster("c", view, &reports, status::balance(view, None, &balancing), 0))
        };
        assert_eq!(listed(&view).unwrap_err(), early, "no empty list either");
        view.reset(1, Vec::new());
        assert!(matches!(table_named(&view, &name), Err(Error::NotFound(_))));
        assert!(listed(&view).is_ok());
    }
}
