//! Balancing, pauses and freezes of the `Control` service.

use super::{Malformed, each};
use crate::adapters::balance_wire;
use crate::model::balance::{BalanceStatus, PlanRunStatus, PlannedSize, SetBalance};
use crate::model::hold::{HoldStatus, NamedScope, SetHold};
use crate::model::{ShardId, TableName};
use crate::wire;

/// What the cluster may do by itself.
pub fn set_balance_from_wire(w: wire::SetBalanceRequest) -> Result<SetBalance, Malformed> {
    Ok(SetBalance { mode: mode("mode", w.mode)?, reason: w.reason })
}

/// See [`set_balance_from_wire`].
pub fn set_balance_to_wire(m: SetBalance) -> wire::SetBalanceRequest {
    wire::SetBalanceRequest { mode: balance_wire::mode_to_wire(m.mode), reason: m.reason }
}

fn mode(field: &str, number: i32) -> Result<Option<crate::model::balance::BalanceMode>, Malformed> {
    balance_wire::mode_from_wire(number).map_err(|reason| Malformed::new(field, reason))
}

/// How balancing stands.
pub fn balance_from_wire(w: &wire::BalanceStatus) -> Result<BalanceStatus, Malformed> {
    let planned = w.planned.as_ref();
    let planned = planned.map(|p| PlannedSize { splits: p.splits, moves: p.moves, bytes: p.bytes });
    Ok(BalanceStatus {
        mode: mode("mode", w.mode)?,
        configured: mode("configured", w.configured)?,
        reason: w.reason.clone(),
        planned,
        waits_for: w.waits_for.clone(),
        run: w.run.as_ref().map(run_from_wire).transpose().map_err(|error| error.within("run"))?,
    })
}

/// See [`balance_from_wire`].
pub fn balance_to_wire(m: BalanceStatus) -> wire::BalanceStatus {
    let size = |p: PlannedSize| wire::PlannedSize { splits: p.splits, moves: p.moves, bytes: p.bytes };
    wire::BalanceStatus {
        mode: balance_wire::mode_to_wire(m.mode),
        configured: balance_wire::mode_to_wire(m.configured),
        reason: m.reason,
        planned: m.planned.map(size),
        waits_for: m.waits_for,
        run: m.run.map(run_to_wire),
    }
}

/// A plan being carried out.
pub fn run_from_wire(w: &wire::PlanRunStatus) -> Result<PlanRunStatus, Malformed> {
    let state = balance_wire::run_state_from_wire(w.state);
    Ok(PlanRunStatus {
        state: state.map_err(|reason| Malformed::new("state", reason))?,
        outcome: w.outcome.clone(),
        started_unix_ms: w.started_unix_ms,
        ended_unix_ms: w.ended_unix_ms,
        splits: w.splits,
        splits_left: w.splits_left,
        moves: w.moves,
        moves_left: w.moves_left,
    })
}

/// See [`run_from_wire`].
pub fn run_to_wire(m: PlanRunStatus) -> wire::PlanRunStatus {
    wire::PlanRunStatus {
        state: balance_wire::run_state_to_wire(m.state),
        outcome: m.outcome,
        started_unix_ms: m.started_unix_ms,
        ended_unix_ms: m.ended_unix_ms,
        splits: m.splits,
        splits_left: m.splits_left,
        moves: m.moves,
        moves_left: m.moves_left,
    }
}

/// A brake to be set or released.
pub fn set_hold_from_wire(w: wire::SetHoldRequest) -> Result<SetHold, Malformed> {
    let scope = scope_from_wire(w.scope.unwrap_or_default())?;
    let brake = balance_wire::brake_from_wire(w.brake).map_err(|reason| Malformed::new("brake", reason))?;
    Ok(SetHold { scope, brake, reason: w.reason, ttl_ms: w.ttl_ms })
}

/// See [`set_hold_from_wire`].
pub fn set_hold_to_wire(m: SetHold) -> wire::SetHoldRequest {
    let (scope, brake) = (Some(scope_to_wire(m.scope)), balance_wire::brake_to_wire(m.brake));
    wire::SetHoldRequest { scope, brake, reason: m.reason, ttl_ms: m.ttl_ms }
}

fn scope_from_wire(w: wire::HoldScope) -> Result<NamedScope, Malformed> {
    let table = match (w.database, w.table) {
        (None, None) => None,
        (Some(database), Some(table)) => Some(TableName { database, table }),
        (None, Some(_)) => return Err(Malformed::absent("scope.database")),
        (Some(_), None) => return Err(Malformed::absent("scope.table")),
    };
    if table.is_none() && w.shard.is_some() {
        return Err(Malformed::absent("scope.table"));
    }
    Ok(NamedScope { table, shard: w.shard.map(ShardId) })
}

fn scope_to_wire(m: NamedScope) -> wire::HoldScope {
    let (database, table) = m.table.map(|name| (name.database, name.table)).unzip();
    wire::HoldScope { database, table, shard: m.shard.map(|shard| shard.0) }
}

/// Holds in force.
pub fn holds_from_wire(w: &[wire::HoldStatus]) -> Result<Vec<HoldStatus>, Malformed> {
    each("holds", w, |hold| {
        let brake = balance_wire::brake_from_wire(hold.brake);
        let brake = brake.map_err(|reason| Malformed::new("brake", reason))?;
        Ok(HoldStatus {
            scope: scope_from_wire(hold.scope.clone().unwrap_or_default())?,
            brake: brake.ok_or_else(|| Malformed::absent("brake"))?,
            reason: hold.reason.clone(),
            since_unix_ms: hold.since_unix_ms,
            until_unix_ms: hold.until_unix_ms,
        })
    })
}

/// See [`holds_from_wire`].
pub fn holds_to_wire(m: Vec<HoldStatus>) -> Vec<wire::HoldStatus> {
    let hold = |m: HoldStatus| wire::HoldStatus {
        scope: Some(scope_to_wire(m.scope)),
        brake: balance_wire::brake_to_wire(Some(m.brake)),
        reason: m.reason,
        since_unix_ms: m.since_unix_ms,
        until_unix_ms: m.until_unix_ms,
    };
    m.into_iter().map(hold).collect()
}
