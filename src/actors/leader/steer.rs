//! How an operator steers what the cluster does by itself: plans made, applied and cancelled; balancing off, advisory
//! or on; pauses and freezes. All of it is recorded, so it outlives whoever leads.

use super::create::of_metadata;
use super::{Coordinator, Lead, status};
use crate::actors::balance::forecast::{Ahead, Forecast};
use crate::actors::balance::{decide, look, pursue};
use crate::adapters::metadata::{Compare, Revision, TxnOutcome, Write, records::Record as _};
use crate::adapters::offload;
use crate::adapters::peers::Error;
use crate::model::balance::{
    ApplyPlan, BalanceSetting, BalanceStatus, Cut, PlanRun, PlanRunStatus, RunState, SetBalance, Target,
};
use crate::model::hold::{Hold, HoldStatus, Scope, SetHold};
use crate::model::plan::{ClusterPlan, PlannedMove, VERSION, World};
use crate::model::table::ShardState;
use crate::model::view::ClusterView;
use crate::placement::{Policy, Snapshot, plan};
use actix::prelude::*;
use pursue::Towards;
use std::time::Duration;

/// Differences between two worlds that are told one by one.
const CHANGES_TOLD: usize = 5;
/// The largest record of a plan: stores take no more in one value.
const RUN_BYTES_MAX: usize = 1_000_000;
/// The longest hold: one that is wanted for longer is looked at again.
const HOLD_MS_MAX: u64 = 90 * 24 * 3_600_000;
/// How long an answer waits for this daemon's own view to show what was written.
const SHOWN_WITHIN_MS: u64 = 2_000;

/// Make a plan.
#[derive(Message)]
#[rtype(result = "Result<ClusterPlan, Error>")]
pub struct PlanAsked;

impl Handler<PlanAsked> for Coordinator {
    type Result = ResponseFuture<Result<ClusterPlan, Error>>;
    fn handle(&mut self, _: PlanAsked, _: &mut Context<Self>) -> Self::Result {
        Box::pin(make_plan(self.lead.clone()))
    }
}

/// Have a plan carried out.
#[derive(Message)]
#[rtype(result = "Result<PlanRunStatus, Error>")]
pub struct Apply(pub ApplyPlan);

impl Handler<Apply> for Coordinator {
    type Result = ResponseFuture<Result<PlanRunStatus, Error>>;
    fn handle(&mut self, Apply(request): Apply, _: &mut Context<Self>) -> Self::Result {
        Box::pin(apply(self.lead.clone(), request))
    }
}

/// Begin no further step of the plan.
#[derive(Message)]
#[rtype(result = "Result<PlanRunStatus, Error>")]
pub struct CancelPlan;

impl Handler<CancelPlan> for Coordinator {
    type Result = ResponseFuture<Result<PlanRunStatus, Error>>;
    fn handle(&mut self, _: CancelPlan, _: &mut Context<Self>) -> Self::Result {
        let lead = self.lead.clone();
        let cancelled = "cancelled by an operator; what had begun goes on to its end";
        Box::pin(async move { end_run(&lead, RunState::Cancelled, cancelled.to_owned()).await })
    }
}

/// Say what the cluster may do by itself.
#[derive(Message)]
#[rtype(result = "Result<BalanceStatus, Error>")]
pub struct Balance(pub SetBalance);

impl Handler<Balance> for Coordinator {
    type Result = ResponseFuture<Result<BalanceStatus, Error>>;
    fn handle(&mut self, Balance(request): Balance, _: &mut Context<Self>) -> Self::Result {
        Box::pin(set_balance(self.lead.clone(), request))
    }
}

/// Pause, freeze or release.
#[derive(Message)]
#[rtype(result = "Result<Vec<HoldStatus>, Error>")]
pub struct Brake(pub SetHold);

impl Handler<Brake> for Coordinator {
    type Result = ResponseFuture<Result<Vec<HoldStatus>, Error>>;
    fn handle(&mut self, Brake(request): Brake, _: &mut Context<Self>) -> Self::Result {
        Box::pin(set_hold(self.lead.clone(), request))
    }
}

/// Solves beside the actors' thread, within the deadline.
async fn solve<T: Send + 'static>(
    lead: &Lead,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    let deadline = Duration::from_millis(lead.balance.solve_deadline_ms.max(1));
    match tokio::time::timeout(deadline, offload::answer(lead.solver.as_ref(), work)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Error::Internal(format!("the placement engine failed: {error}"))),
        Err(_) => Err(Error::Unavailable(format!("no plan was found within {deadline:?}"))),
    }
}

async fn make_plan(lead: Lead) -> Result<ClusterPlan, Error> {
    let forecast = look(&lead, |sight| match decide::blind(sight) {
        Some(why) => Err(Error::Unavailable(format!("no plan can be made yet: {why}"))),
        None => Ok(Forecast::of(sight, &lead.balance, &lead.cluster)),
    })?;
    let (snapshot, mut limits) =
        (forecast.snapshot.clone(), decide::limits(&forecast.snapshot, &lead.balance));
    if let Some(pace) = lead.seen.get().pace_bytes_per_s {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let pace = pace as f64;
        limits.waves.bytes_per_second = pace;
    }
    let proposal = solve(&lead, move || plan(&snapshot, &Policy::default(), &limits)).await?;
    Ok(forecast.plan(&proposal, lead.clock.unix_ms()))
}

/// A plan that fits the world, as it would be recorded and looked at.
struct Fitting {
    run: PlanRun,
    snapshot: Snapshot,
    towards: Towards,
}

/// Checks a plan against the world as it is.
fn fit(lead: &Lead, plan: &ClusterPlan) -> Result<Fitting, Error> {
    if plan.version != VERSION {
        let version = plan.version;
        return Err(Error::Invalid(format!("the plan has version {version}; this daemon reads {VERSION}")));
    }
    if plan.cluster != lead.cluster {
        return Err(Error::Invalid(format!(
            "the plan is of cluster {}, this is {}",
            plan.cluster, lead.cluster
        )));
    }
    look(lead, |sight| {
        if let Some(why) = decide::blind(sight) {
            return Err(Error::Unavailable(format!("the plan cannot be checked yet: {why}")));
        }
        let changes = plan.world.changes(&World::of(sight.view, sight.now_unix_ms));
        if !changes.is_empty() {
            return Err(Error::Stale(format!("the world has changed: {}", told(&changes))));
        }
        if sight.view.run.as_ref().is_some_and(|run| run.record.state == RunState::Running) {
            return Err(Error::Refused(
                "another plan is being carried out: see `converthouse plan cancel`".into(),
            ));
        }
        let mut ahead = Ahead::now(sight);
        let cuts: Vec<Cut> = plan.splits.iter().map(Cut::from).collect();
        for (cut, split) in cuts.iter().zip(&plan.splits) {
            if !ahead.split(*cut) {
                let (shard, name) = (split.shard, &split.table_name);
                return Err(Error::Invalid(format!("splits: shard {shard} of {name} cannot be split so")));
            }
        }
        let snapshot = ahead.snapshot(sight);
        let targets = targets(plan, &snapshot)?;
        let run = PlanRun {
            state: RunState::Running,
            outcome: String::new(),
            started_unix_ms: sight.now_unix_ms,
            ended_unix_ms: 0,
            splits: cuts,
            targets,
        };
        let towards = run.targets.iter().map(|t| ((t.table, t.shard), t.nodes.clone())).collect();
        Ok(Fitting { run, snapshot, towards })
    })
}

/// The first few changes, and how many more there are.
fn told(changes: &[String]) -> String {
    let more = changes.len().saturating_sub(CHANGES_TOLD);
    let first = changes.iter().take(CHANGES_TOLD).cloned().collect::<Vec<_>>().join("; ");
    if more > 0 { format!("{first}; and {more} more") } else { first }
}

/// Where the plan's moves lead; each must be of a shard and on nodes that are there.
fn targets(plan: &ClusterPlan, snapshot: &Snapshot) -> Result<Vec<Target>, Error> {
    let target = |of: &PlannedMove| {
        let invalid =
            |what: String| Error::Invalid(format!("moves: shard {} of {}: {what}", of.shard, of.table_name));
        let shard = snapshot.shards.iter().find(|s| s.table == of.table && s.shard == of.shard);
        let shard = shard.ok_or_else(|| invalid("there is no such shard".to_owned()))?;
        if of.nodes.len() != shard.replicas_wanted as usize {
            return Err(invalid(format!("{} replicas are wanted", shard.replicas_wanted)));
        }
        for (at, node) in of.nodes.iter().enumerate() {
            if !snapshot.nodes.iter().any(|known| known.id == *node) {
                return Err(invalid(format!("there is no node {node}")));
            }
            if of.nodes[..at].contains(node) {
                return Err(invalid(format!("it is twice on {node}")));
            }
        }
        Ok(Target { table: of.table, shard: of.shard, nodes: of.nodes.clone() })
    };
    plan.moves.iter().map(target).collect()
}

async fn apply(lead: Lead, request: ApplyPlan) -> Result<PlanRunStatus, Error> {
    let Fitting { mut run, snapshot, towards } = fit(&lead, &request.plan)?;
    if !towards.is_empty() {
        let rules = lead.balance;
        let way = solve(&lead, move || pursue::way(&snapshot, &towards, &rules)).await?;
        if way.is_none() {
            return Err(Error::Refused("the plan would break a placement rule now".to_owned()));
        }
    }
    if request.plan.is_empty() {
        (run.state, run.ended_unix_ms) = (RunState::Done, run.started_unix_ms);
    }
    if !request.dry_run && run.state == RunState::Running {
        let known = lead.view.read().run.as_ref().map(|run| run.revision);
        let (splits, moves) = (run.splits.len(), run.targets.len());
        put_run(&lead, &run, known).await?;
        tracing::info!(splits, moves, "a plan is being carried out");
    }
    Ok(pursue::status(&lead.view.read(), &run))
}

async fn put_run(lead: &Lead, run: &PlanRun, known: Option<Revision>) -> Result<(), Error> {
    let (key, value) = (lead.keys.plan(), run.encode());
    if value.len() > RUN_BYTES_MAX {
        return Err(Error::Refused("the plan is too large to be recorded".to_owned()));
    }
    let compare = match known {
        Some(revision) => Compare::ModifiedAt(key.clone(), revision),
        None => Compare::Absent(key.clone()),
    };
    put(lead, vec![compare], Write::Put { key, value, lease: None }).await
}

/// Writes, and waits until this daemon's view shows it.
async fn put(lead: &Lead, compares: Vec<Compare>, write: Write) -> Result<(), Error> {
    match lead.write(compares, vec![write]).await {
        Ok(TxnOutcome::Committed(revision)) => {
            let shown = async {
                while lead.view.read().revision < revision {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            // A view that is late says what was; the record stands all the same.
            let _ = tokio::time::timeout(Duration::from_millis(SHOWN_WITHIN_MS), shown).await;
            Ok(())
        }
        Ok(TxnOutcome::Refused) => Err(Error::Unavailable(
            "it was changed at the same moment, or the term is over: try again".into(),
        )),
        Err(error) => Err(of_metadata(&error)),
    }
}

/// Ends the plan that is being carried out.
pub async fn end_run(lead: &Lead, state: RunState, outcome: String) -> Result<PlanRunStatus, Error> {
    let found = lead.view.read().run.clone();
    let open = found.filter(|run| run.record.state == RunState::Running);
    let open = open.ok_or_else(|| Error::NotFound("a plan that is being carried out".to_owned()))?;
    let run = PlanRun { state, outcome, ended_unix_ms: lead.clock.unix_ms(), ..open.record };
    put_run(lead, &run, Some(open.revision)).await?;
    tracing::info!(?state, why = run.outcome, "the plan has ended");
    Ok(pursue::status(&lead.view.read(), &run))
}

async fn set_balance(lead: Lead, request: SetBalance) -> Result<BalanceStatus, Error> {
    let key = lead.keys.balance();
    let write = match request.mode {
        None => Write::Delete(key),
        Some(mode) => {
            let since_unix_ms = lead.clock.unix_ms();
            let setting = BalanceSetting { mode, reason: request.reason.clone(), since_unix_ms };
            Write::Put { key, value: setting.encode(), lease: None }
        }
    };
    put(&lead, Vec::new(), write).await?;
    tracing::info!(mode = ?request.mode, why = request.reason, "what the cluster may do by itself was set");
    Ok(status::balance(&lead.view.read(), Some(lead.balance.mode), &lead.seen.get()))
}

/// What a request means.
fn scope(view: &ClusterView, request: &SetHold) -> Result<Scope, Error> {
    let (name, shard) = match (&request.scope.table, request.scope.shard) {
        (None, None) => return Ok(Scope::Cluster),
        (None, Some(_)) => return Err(Error::Invalid("a shard needs its table".to_owned())),
        (Some(name), shard) => (name, shard),
    };
    let table = view.table_named(name).ok_or_else(|| Error::NotFound(format!("table {name}")))?;
    let Some(id) = shard else { return Ok(Scope::Table(table.id)) };
    let there = view.shards_of(table.id).any(|s| s.id == id && s.state == ShardState::Serving);
    there
        .then_some(Scope::Shard(table.id, id))
        .ok_or_else(|| Error::NotFound(format!("shard {id} of table {name}")))
}

async fn set_hold(lead: Lead, request: SetHold) -> Result<Vec<HoldStatus>, Error> {
    let scope = scope(&lead.view.read(), &request)?;
    let key = lead.keys.hold(scope);
    let write = match request.brake {
        None if !lead.view.read().holds.contains_key(&scope) => {
            return Err(Error::NotFound(format!("a pause or freeze of {}", request.scope)));
        }
        None => Write::Delete(key),
        Some(_) if request.reason.trim().is_empty() => {
            return Err(Error::Invalid("reason: say why, for those who look later".to_owned()));
        }
        Some(_) if request.ttl_ms == 0 || request.ttl_ms > HOLD_MS_MAX => {
            return Err(Error::Invalid("ttl_ms: above 0, and 90 days at most".to_owned()));
        }
        Some(brake) => {
            let since_unix_ms = lead.clock.unix_ms();
            let until_unix_ms = since_unix_ms + request.ttl_ms;
            let hold = Hold { brake, reason: request.reason.clone(), since_unix_ms, until_unix_ms };
            Write::Put { key, value: hold.encode(), lease: None }
        }
    };
    put(&lead, Vec::new(), write).await?;
    let code = request.brake.map_or("released", crate::model::hold::Brake::code);
    tracing::info!(scope = %request.scope, code, why = request.reason, "hold set");
    Ok(lead.view.read().holds_in_force(None, lead.clock.unix_ms()))
}

/// Removes the records of holds that are over or hold nothing any more; what fails is tried again later.
pub async fn release_idle(lead: &Lead, idle: &[Scope]) {
    for scope in idle {
        let Some(revision) = lead.view.read().holds.get(scope).map(|hold| hold.revision) else { continue };
        let key = lead.keys.hold(*scope);
        let compares = vec![Compare::ModifiedAt(key.clone(), revision)];
        match lead.write(compares, vec![Write::Delete(key)]).await {
            Ok(_) => tracing::info!(?scope, "a pause or freeze is over"),
            Err(error) => tracing::info!(%error, "the end of a hold was not recorded: trying again"),
        }
    }
}
