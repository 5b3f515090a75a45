//! Leadership: the daemon's lease, its nodes' registration, and the election.
//!
//! One lease carries everything that must vanish with the daemon: its nodes' liveness and, if it was elected, the
//! leader key. A daemon that could not renew its lease in time steps down by itself before others may take over,
//! and even if it did not, every write of its term is fenced. Having stepped down it leads again only by an election
//! that it wins anew (see [`standing`]).

mod standing;
mod step;

use super::leader::{Coordinator, StepDown};
use super::mirror::ViewChanged;
use crate::model::Term;
use crate::telemetry::Metrics;
use actix::prelude::*;
use standing::{Ending, Standing};
use std::sync::{Arc, RwLock};
use std::time::Duration;
use step::Member;

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
    metrics: Metrics,
    busy: bool,
    again: bool,
    resigned: bool,
}

impl Leadership {
    /// Stands for election as that member.
    pub fn new(candidate: Candidate, seat: Seat, crown: Crown, metrics: Metrics) -> Self {
        let (member, standing) = (Member::new(candidate), Standing::default());
        Self { member, standing, seat, crown, metrics, busy: false, again: false, resigned: false }
    }

    fn step(&mut self, ctx: &mut Context<Self>) {
        if self.resigned {
            return;
        }
        if std::mem::replace(&mut self.busy, true) {
            self.again = true;
            return;
        }
        let work = step::step(self.member.clone(), self.standing.clone());
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|answer, leadership, ctx| {
            leadership.busy = false;
            leadership.take(answer);
            if std::mem::take(&mut leadership.again) {
                leadership.step(ctx);
            }
        }));
    }

    /// Takes a step's answer, which may have come late.
    fn take(&mut self, answer: Standing) {
        if self.resigned {
            return;
        }
        let (now_ms, ttl_ms) = self.member.time();
        let next = self.standing.answered(answer, now_ms, ttl_ms);
        let ending = self.standing.ended(&next, now_ms, ttl_ms);
        self.settle(next, ending);
    }

    /// Takes the seat of a new term, or leaves that of an old one.
    fn settle(&mut self, standing: Standing, ending: Option<Ending>) {
        let (before, now) = (self.standing.term, standing.term);
        self.standing = standing;
        let dead = self.seat.get().is_some_and(|coordinator| !coordinator.connected());
        let ending = ending.or(dead.then_some(Ending::CoordinatorDied));
        if let Some(ending) = ending {
            let term = before.map_or(0, |term| term.0);
            self.metrics.terms_ended(ending.word()).inc();
            match ending {
                Ending::Resigned => tracing::info!(term, why = ending.told(), "stepping down"),
                Ending::CoordinatorDied => tracing::error!(term, why = ending.told(), "stepping down"),
                _ => tracing::warn!(term, why = ending.told(), "stepping down"),
            }
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
        let (now_ms, ttl_ms) = self.member.time();
        if let Some(term) = self.standing.term.filter(|term| self.member.has_seen(*term))
            && self.seat.get().is_none()
            && !self.standing.is_over(now_ms, ttl_ms)
        {
            self.seat.set(Some((self.crown)(term)));
        }
    }

    /// A term ends by itself when the lease could not be renewed for its whole length.
    fn expire(&mut self) {
        let (now_ms, ttl_ms) = self.member.time();
        if self.standing.term.is_some() && self.standing.is_over(now_ms, ttl_ms) {
            self.settle(self.standing.clone().stepped_down(), Some(Ending::LeaseLate));
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
        self.resigned = true;
        let ending = standing.term.map(|_| Ending::Resigned);
        self.settle(Standing::default(), ending);
        let member = self.member.clone();
        let work = async move { step::resign(&member, &standing).await };
        Box::pin(actix::fut::wrap_future::<_, Self>(work).map(|(), _, ctx: &mut Context<Self>| ctx.stop()))
    }
}
