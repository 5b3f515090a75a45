//! The balancer: looks at the whole cluster every few seconds while this daemon leads, and begins the operations that
//! bring it into balance. `decide` says which; a table's actor carries them out.
//!
//! A plan that an operator has applied goes before everything else (`pursue`), whatever the mode. Looking for a plan
//! takes long in large clusters, so it happens beside this thread; what was found is begun only if the cluster is
//! still what it was planned for.

pub mod copies;
pub mod course;
pub mod decide;
#[cfg(test)]
#[path = "fixture_tests.rs"]
pub(super) mod fixture;
pub mod forecast;
pub mod pursue;
pub mod rooms;
#[cfg(test)]
mod tests;
pub mod weights;

use super::leader::operations::{begin_all, split_kind};
use super::leader::{Lead, steer};
use super::table::decide::{LeftOut, down_for};
use crate::adapters::metadata::Revision;
use crate::adapters::offload;
use crate::model::balance::{BalanceMode, PlannedSize, RunState};
use crate::model::ids::NodeId;
use crate::model::operation::{Kind, Operation, cause};
use crate::model::view::ClusterView;
use crate::placement::{Proposal, Snapshot};
use actix::prelude::*;
use course::Course;
use decide::{Sight, Wanted};
use forecast::Ahead;
use pursue::{Next, Towards};
use std::time::Duration;

/// A split takes seconds; so long at most do moves of others wait for it.
const SPLITS_WAITED_FOR_MS: u64 = 120_000;

/// The actor.
pub struct Balancer {
    lead: Lead,
    busy: bool,
    /// What was planned on last, and in which mode, if nothing was to be begun.
    even: Option<(BalanceMode, Snapshot)>,
    /// Where the plan that is being carried out leads.
    course: Course,
    /// The store's revision and the reports by which the last round found nothing to be done.
    rested: Option<(Revision, u64)>,
}

/// What a round comes to.
enum Look {
    /// Nothing to be done now.
    Rest,
    /// These operations are begun.
    Begin(Wanted),
    /// A plan is looked for.
    Solve(Box<Task>),
    /// The plan that was applied is over.
    End(RunState, String),
}

/// A plan to be looked for.
struct Task {
    snapshot: Snapshot,
    purpose: Purpose,
}

#[derive(Clone)]
enum Purpose {
    /// To be carried out, on the course that was set out on.
    Balance(Towards),
    /// To be shown only, after so many splits.
    Advise(usize),
    /// The way of the plan that was applied.
    Pursue(Towards),
}

/// Hands what is seen now to `with`.
pub(super) fn look<T>(lead: &Lead, with: impl FnOnce(&Sight<'_>) -> T) -> T {
    let (view, reports) = (lead.view.read(), lead.observed.read());
    let now_ms = lead.clock.now_ms();
    let down_after_ms = lead.rules.down_after_ms;
    let lost = |node: &NodeId| down_for(&reports.unfit_since_ms, node, now_ms, down_after_ms);
    let now_unix_ms = lead.clock.unix_ms();
    let forgets = lead.rules.left_out == Some(LeftOut::InFlight);
    with(&Sight { view: &view, heartbeats: &reports.heartbeats, lost: &lost, now_unix_ms, forgets })
}

/// What the balancer may do now.
pub(super) fn mode(lead: &Lead, view: &ClusterView) -> BalanceMode {
    view.balance.as_ref().map_or(lead.balance.mode, |setting| setting.record.mode)
}

impl Balancer {
    /// Balances while that term lasts.
    pub fn new(lead: Lead) -> Self {
        Self { lead, busy: false, even: None, course: Course::default(), rested: None }
    }

    /// A pending timer keeps an actor alive, so it looks whether its leader still is.
    fn round(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return;
        }
        let every_ms = self.lead.balance.every_ms.max(100);
        ctx.run_later(Duration::from_millis(every_ms), |actor, ctx| actor.round(ctx));
        if self.busy {
            return;
        }
        let look = self.look();
        self.act(look, ctx);
    }

    fn act(&mut self, look: Look, ctx: &mut Context<Self>) {
        match look {
            Look::Rest => self.tidy(ctx),
            Look::Begin(begun) => self.begin(begun, ctx),
            Look::Solve(task) => self.solve(*task, ctx),
            Look::End(state, why) => self.end(state, why, ctx),
        }
    }

    /// What this round is to do.
    fn look(&mut self) -> Look {
        let lead = self.lead.clone();
        let seen = {
            let (view, reports) = (lead.view.read(), lead.observed.read());
            // What passes with time alone is looked at in every round.
            let splits_later = decide::waits_to_split(&view, lead.clock.unix_ms());
            let timeless = view.holds.is_empty() && reports.unfit_since_ms.is_empty() && !splits_later;
            timeless.then_some((view.revision, reports.news))
        };
        if seen.is_some() && self.rested == seen {
            return Look::Rest;
        }
        let (look, waits_for) = look(&lead, |sight| {
            lead.seen.lock().measure(sight.heartbeats);
            let mode = mode(&lead, sight.view);
            let run = sight.view.run.as_ref().filter(|run| run.record.state == RunState::Running);
            if mode == BalanceMode::Off && run.is_none() {
                self.even = None;
                return (Look::Rest, None);
            }
            if let Some(blind) = decide::blind(sight) {
                return (Look::Rest, Some(blind));
            }
            let look = match run {
                Some(run) => self.pursued(sight, pursue::next(sight, &run.record)),
                None => self.balance(sight, mode),
            };
            (look, None)
        });
        let mut planning = lead.seen.lock();
        if waits_for != planning.waits_for {
            tracing::debug!(?waits_for, "balancer");
            planning.waits_for = waits_for;
        }
        let rests = matches!(look, Look::Rest);
        if rests && self.even.is_none() {
            planning.planned = None;
        }
        self.rested = seen.filter(|_| rests && self.even.is_some());
        look
    }

    fn pursued(&self, sight: &Sight<'_>, next: Next) -> Look {
        match next {
            Next::Begin(begun) => Look::Begin(begun),
            Next::Wait => Look::Rest,
            Next::Ended(state, why) => Look::End(state, why),
            Next::Move(towards) => {
                let snapshot = decide::snapshot(sight);
                Look::Solve(Box::new(Task { snapshot, purpose: Purpose::Pursue(towards) }))
            }
        }
    }

    fn balance(&mut self, sight: &Sight<'_>, mode: BalanceMode) -> Look {
        let rules = &self.lead.balance;
        let splits = decide::splits(sight, rules);
        if !splits.is_empty() && mode == BalanceMode::On {
            let count = u32::try_from(splits.len()).unwrap_or(u32::MAX);
            self.show(PlannedSize { splits: count, ..PlannedSize::default() }, false);
            let mut begun = Wanted::new();
            for (table, shard) in splits {
                let kinds = begun.entry(table).or_default();
                let cut = decide::cut(sight, rules, table, shard);
                let kind = split_kind(sight.view, (table, shard), cut, kinds.len());
                kinds.extend(kind.map(|kind| (kind, cause::GROWN.to_owned())));
            }
            return Look::Begin(begun);
        }
        // Moving what is about to be split would copy it for nothing. One that takes long waits for something, which
        // others, and nodes to be emptied, need not wait for.
        let splitting = |operation: &Operation| {
            matches!(operation.kind, Kind::Split { .. } | Kind::Merge { .. })
                && sight.now_unix_ms < operation.started_unix_ms + SPLITS_WAITED_FOR_MS
        };
        if sight.under_way().any(splitting) {
            self.even = None;
            return Look::Rest;
        }
        let (snapshot, purpose) = match mode {
            BalanceMode::On => {
                let snapshot = decide::snapshot(sight);
                let towards = self.course.towards(&snapshot);
                (snapshot, Purpose::Balance(towards))
            }
            BalanceMode::Off | BalanceMode::Advisory => {
                let ahead = Ahead::of(sight, rules);
                (ahead.snapshot(sight), Purpose::Advise(ahead.cuts.len()))
            }
        };
        let even =
            |(then, rough): &(BalanceMode, Snapshot)| *then == mode && *rough == decide::rough(&snapshot);
        if self.even.as_ref().is_some_and(even) {
            return Look::Rest;
        }
        Look::Solve(Box::new(Task { snapshot, purpose }))
    }

    fn begin(&mut self, begun: Wanted, ctx: &mut Context<Self>) {
        let lead = self.lead.clone();
        self.then(
            ctx,
            async move {
                // What could not be written is decided anew in the next round.
                if let Err(error) = begin_all(&lead, begun).await {
                    tracing::info!(%error, "operations were not begun: deciding again");
                }
            },
            |_, (), _| {},
        );
    }

    fn solve(&mut self, task: Task, ctx: &mut Context<Self>) {
        let (rules, solver) = (self.lead.balance, self.lead.solver.clone());
        let (snapshot, purpose) = (task.snapshot.clone(), task.purpose.clone());
        let deadline = Duration::from_millis(rules.solve_deadline_ms.max(1));
        let looked = self.lead.metrics.elastic.plan_seconds.clone();
        let clock = self.lead.clock.clone();
        let work = async move {
            let began_ms = clock.now_ms();
            let found = offload::answer(solver.as_ref(), move || match &purpose {
                Purpose::Pursue(towards) => pursue::way(&snapshot, towards, &rules),
                Purpose::Balance(towards) => Some(course::solve(&snapshot, towards, &rules)),
                Purpose::Advise(_) => Some(course::solve(&snapshot, &Towards::new(), &rules)),
            });
            let found = tokio::time::timeout(deadline, found).await;
            #[expect(clippy::cast_precision_loss, reason = "the deadline comes first")]
            looked.observe(clock.now_ms().saturating_sub(began_ms) as f64 / 1_000.0);
            found
        };
        self.then(ctx, work, move |actor, found, ctx| match found {
            Ok(Ok(proposal)) => actor.found(&task, proposal, ctx),
            Ok(Err(error)) => tracing::error!(%error, "the placement engine failed: nothing is moved"),
            Err(_) => tracing::warn!(?deadline, "no plan was found in time: nothing is moved"),
        });
    }

    /// Begins what was found, if the cluster is still what it was found for and it is still wanted.
    fn found(&mut self, task: &Task, proposal: Option<Proposal>, ctx: &mut Context<Self>) {
        let lead = self.lead.clone();
        let next = look(&lead, |sight| {
            let run = sight.view.run.as_ref().is_some_and(|run| run.record.state == RunState::Running);
            let proposal = match (&task.purpose, proposal) {
                (Purpose::Pursue(towards), None) if run => {
                    return self.pursued(sight, pursue::barred(sight, towards));
                }
                (_, None) => return Look::Rest,
                (_, Some(proposal)) => proposal,
            };
            let splits = if let Purpose::Advise(splits) = task.purpose { splits } else { 0 };
            self.show(forecast::size(splits, &proposal), matches!(task.purpose, Purpose::Advise(_)));
            let (who, wanted) = match task.purpose {
                Purpose::Advise(_) => {
                    self.even = Some((BalanceMode::Advisory, decide::rough(&task.snapshot)));
                    return Look::Rest;
                }
                Purpose::Balance(_) => (cause::BALANCE, !run && mode(&lead, sight.view) == BalanceMode::On),
                Purpose::Pursue(_) => (cause::PLAN, run),
            };
            if !wanted || !decide::same_shape(&decide::snapshot(sight), &task.snapshot) {
                return Look::Rest;
            }
            let begun = decide::begin(sight, &proposal, &lead.balance, who);
            let balance = matches!(task.purpose, Purpose::Balance(_));
            if balance {
                self.course.keep(&task.snapshot, &proposal);
            }
            // What waits for its turn or for others begins when they end, which the snapshot need not show: what is
            // under way is in it as done.
            let even = proposal.steps.is_empty() && balance;
            self.even = even.then(|| (BalanceMode::On, decide::rough(&task.snapshot)));
            if begun.is_empty() { Look::Rest } else { Look::Begin(begun) }
        });
        self.act(next, ctx);
    }

    /// Shows how big the newest plan is.
    fn show(&self, size: PlannedSize, advice: bool) {
        let mut seen = self.lead.seen.lock();
        if advice && seen.planned != Some(size) && size != PlannedSize::default() {
            let PlannedSize { splits, moves, bytes } = size;
            tracing::info!(
                splits,
                moves,
                bytes,
                "the cluster could be in better balance; this is only advice"
            );
        }
        seen.planned = Some(size);
    }

    fn end(&mut self, state: RunState, why: String, ctx: &mut Context<Self>) {
        let lead = self.lead.clone();
        self.then(
            ctx,
            async move {
                if let Err(error) = steer::end_run(&lead, state, why).await {
                    tracing::info!(%error, "the plan's end was not recorded: deciding again");
                }
            },
            |_, (), _| {},
        );
    }

    /// Records of holds that hold nothing any more go.
    fn tidy(&mut self, ctx: &mut Context<Self>) {
        let lead = self.lead.clone();
        let idle = lead.view.read().idle_holds(lead.clock.unix_ms());
        if idle.is_empty() {
            return;
        }
        self.then(ctx, async move { steer::release_idle(&lead, &idle).await }, |_, (), _| {});
    }

    fn then<T: 'static>(
        &mut self,
        ctx: &mut Context<Self>,
        work: impl Future<Output = T> + 'static,
        after: impl FnOnce(&mut Self, T, &mut Context<Self>) + 'static,
    ) {
        self.busy = true;
        ctx.spawn(actix::fut::wrap_future::<_, Self>(work).map(|out, actor, ctx| {
            actor.busy = false;
            after(actor, out, ctx);
        }));
    }
}

impl Actor for Balancer {
    type Context = Context<Self>;
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.round(ctx);
    }
}
