//! What balances and brakes, on the wire: the same numbers in the store's records and in answers to operators.

use crate::model::balance::{BalanceMode, RunState};
use crate::model::hold::Brake;
use crate::wire;

/// 0 for none.
pub(super) fn mode_to_wire(mode: Option<BalanceMode>) -> i32 {
    let wire = match mode {
        None => wire::BalanceModeRecord::Unspecified,
        Some(BalanceMode::Off) => wire::BalanceModeRecord::Off,
        Some(BalanceMode::Advisory) => wire::BalanceModeRecord::Advisory,
        Some(BalanceMode::On) => wire::BalanceModeRecord::On,
    };
    wire.into()
}

/// See [`mode_to_wire`]; an error says what is wrong with the number.
pub(super) fn mode_from_wire(number: i32) -> Result<Option<BalanceMode>, String> {
    let wire = wire::BalanceModeRecord::try_from(number).map_err(|_| unknown(number, "mode"))?;
    Ok(match wire {
        wire::BalanceModeRecord::Unspecified => None,
        wire::BalanceModeRecord::Off => Some(BalanceMode::Off),
        wire::BalanceModeRecord::Advisory => Some(BalanceMode::Advisory),
        wire::BalanceModeRecord::On => Some(BalanceMode::On),
    })
}

/// 0 for none.
pub(super) fn brake_to_wire(brake: Option<Brake>) -> i32 {
    let wire = match brake {
        None => wire::BrakeRecord::Unspecified,
        Some(Brake::Pause) => wire::BrakeRecord::Pause,
        Some(Brake::Freeze) => wire::BrakeRecord::Freeze,
    };
    wire.into()
}

/// See [`brake_to_wire`].
pub(super) fn brake_from_wire(number: i32) -> Result<Option<Brake>, String> {
    Ok(match wire::BrakeRecord::try_from(number).map_err(|_| unknown(number, "brake"))? {
        wire::BrakeRecord::Unspecified => None,
        wire::BrakeRecord::Pause => Some(Brake::Pause),
        wire::BrakeRecord::Freeze => Some(Brake::Freeze),
    })
}

/// A plan's life.
pub(super) fn run_state_to_wire(state: RunState) -> i32 {
    let wire = match state {
        RunState::Running => wire::PlanRunStateRecord::Running,
        RunState::Done => wire::PlanRunStateRecord::Done,
        RunState::Cancelled => wire::PlanRunStateRecord::Cancelled,
        RunState::Failed => wire::PlanRunStateRecord::Failed,
    };
    wire.into()
}

/// See [`run_state_to_wire`].
pub(super) fn run_state_from_wire(number: i32) -> Result<RunState, String> {
    Ok(match wire::PlanRunStateRecord::try_from(number).map_err(|_| unknown(number, "state"))? {
        wire::PlanRunStateRecord::Unspecified => return Err("not given".to_owned()),
        wire::PlanRunStateRecord::Running => RunState::Running,
        wire::PlanRunStateRecord::Done => RunState::Done,
        wire::PlanRunStateRecord::Cancelled => RunState::Cancelled,
        wire::PlanRunStateRecord::Failed => RunState::Failed,
    })
}

fn unknown(number: i32, what: &str) -> String {
    format!("{number} is no {what} known here")
}
