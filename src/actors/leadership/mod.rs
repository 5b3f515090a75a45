//! Leadership: the daemon's lease, its nodes' registration, and the election.
//!
//! One lease carries everything that must vanish with the daemon: its nodes' liveness and, if it was elected, the
//! leader key. A daemon that could not renew its lease in time steps down by itself before others may take over,
//! and even if it did not, every write of its term is fenced.

mod step;

use super::leader::{Coordinator, StepDown};
use super::mirror::ViewChanged;
use crate::model::Term;
use actix::prelude::*;
use std::sync::{Arc, RwLock};
use std::time::Duration;
use step::{Member, Standing};

pub use step::Candidate;

/// The coordinator of this daemon, while it leads.
#[derive(Clone, Default)]
pub struct Seat(Arc<RwLock<Option<Addr<Coordinator>>>>);

impl Seat {
    /// The coordinator, if this daemon leads.
    pub fn get(&self) -> Option<Addr<Coordinator>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    fn set(&self, coordinator: Option<Addr<Coordinator>>) {
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = coordinator;
    }
}

/// Makes the coordinator of a term.
pub type Crown = Box<dyn Fn(Term) -> Addr<Coordinator>>;

/// The actor.
pub struct Leadership {
    member: Member,
    standing: Standing,
    pub(super) seat: Seat,
    crown: Crown,
    busy: bool,
    again: bool,
}

impl Leadership {
    /// Stands for election as that member.
    pub fn new(candidate: Candidate, seat: Seat, crown: Crown) -> Self {
        let member = Member::new(candidate);
        Self { member, standing: Standing::default(), seat, crown, busy: false, again: false }
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy, true) {
            self.again = true;
            return;
        }
        let work = step::step(self.member.clone(), self.standing.clone());
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|standing, leadership, ctx| {
            leadership.busy = false;
            leadership.settle(standing);
            if std::mem::take(&mut leadership.again) {
                leadership.step(ctx);
            }
        }));
    }

    /// Takes the seat of a new term, or leaves that of an old one.
    fn settle(&mut self, standing: Standing) {
        let (before, now) = (self.standing.term, standing.term);
        self.standing = standing;
        let dead = self.seat.get().is_some_and(|coordinator| !coordinator.connected());
        if dead {
            tracing::error!("the coordinator died: making it anew from the store");
        }
        if before != now || dead {
            if let Some(coordinator) = self.seat.get() {
                coordinator.do_send(StepDown);
            }
            self.seat.set(None);
        }
        self.sit();
    }

    /// Takes the seat once this daemon sees all that leaders before it have written: not everything that a leader does
    /// is compared with the records.
    fn sit(&self) {
        if let Some(term) = self.standing.term.filter(|term| self.member.has_seen(*term))
            && self.seat.get().is_none()
        {
            self.seat.set(Some((self.crown)(term)));
        }
    }

    /// A term ends by itself when the lease could not be renewed for its whole length.
    fn expire(&mut self) {
        if let Some(expired) = self.member.expired(&self.standing) {
            tracing::warn!("the lease could not be renewed in time: stepping down");
            self.settle(expired);
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        self.expire();
        self.step(ctx);
        let wait = Duration::from_millis(self.member.renew_every_ms());
        ctx.run_later(wait, |leadership, ctx| leadership.tick(ctx));
    }
}

impl Actor for Leadership {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.tick(ctx);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        if let Some(coordinator) = self.seat.get() {
            coordinator.do_send(StepDown);
        }
        self.seat.set(None);
    }
}

impl Handler<ViewChanged> for Leadership {
    type Result = ();
    /// A vacant seat, or one taken by somebody else, is acted on at once.
    fn handle(&mut self, ViewChanged(touched): ViewChanged, ctx: &mut Context<Self>) {
        if touched.leader || self.member.misses_itself(&touched.nodes) {
            self.step(ctx);
        }
        match self.seat.get() {
            Some(coordinator) => coordinator.do_send(ViewChanged(touched)),
            None => self.sit(),
        }
    }
}

/// Gives up lease and seat, so that others need not wait for them to expire.
#[derive(Message, Clone, Copy)]
#[rtype(result = "()")]
pub struct Resign;

impl Handler<Resign> for Leadership {
    type Result = ResponseActFuture<Self, ()>;
    fn handle(&mut self, _: Resign, _: &mut Context<Self>) -> Self::Result {
        let standing = self.standing.clone();
        self.settle(Standing::default());
        let member = self.member.clone();
        let work = async move { step::resign(&member, &standing).await };
        Box::pin(actix::fut::wrap_future::<_, Self>(work).map(|(), _, ctx: &mut Context<Self>| ctx.stop()))
    }
}
