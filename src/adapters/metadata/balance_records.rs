//! The records of what balances and brakes: what was said at run time, holds, the plan that is being carried out.

use super::records::{DecodeError, Problem, Record, VERSION, id, invalid, record};
use crate::adapters::balance_wire;
use crate::model::ShardId;
use crate::model::balance::{BalanceSetting, Cut, PlanRun, Target};
use crate::model::hold::Hold;
use crate::wire;
use prost::Message;

record!(BalanceSetting, wire::BalanceRecord, setting_to_wire, setting_from_wire);
record!(Hold, wire::HoldRecord, hold_to_wire, hold_from_wire);
record!(PlanRun, wire::PlanRunRecord, run_to_wire, run_from_wire);

fn setting_to_wire(setting: &BalanceSetting) -> wire::BalanceRecord {
    wire::BalanceRecord {
        mode: balance_wire::mode_to_wire(Some(setting.mode)),
        reason: setting.reason.clone(),
        since_unix_ms: setting.since_unix_ms,
    }
}

fn setting_from_wire(wire: wire::BalanceRecord) -> Result<BalanceSetting, Problem> {
    let mode = balance_wire::mode_from_wire(wire.mode).map_err(|reason| invalid("mode", reason))?;
    let mode = mode.ok_or(Problem::Missing("mode"))?;
    Ok(BalanceSetting { mode, reason: wire.reason, since_unix_ms: wire.since_unix_ms })
}

fn hold_to_wire(hold: &Hold) -> wire::HoldRecord {
    wire::HoldRecord {
        brake: balance_wire::brake_to_wire(Some(hold.brake)),
        reason: hold.reason.clone(),
        since_unix_ms: hold.since_unix_ms,
        until_unix_ms: hold.until_unix_ms,
    }
}

fn hold_from_wire(wire: wire::HoldRecord) -> Result<Hold, Problem> {
    let brake = balance_wire::brake_from_wire(wire.brake).map_err(|reason| invalid("brake", reason))?;
    Ok(Hold {
        brake: brake.ok_or(Problem::Missing("brake"))?,
        reason: wire.reason,
        since_unix_ms: wire.since_unix_ms,
        until_unix_ms: wire.until_unix_ms,
    })
}

fn run_to_wire(run: &PlanRun) -> wire::PlanRunRecord {
    let split = |split: &Cut| wire::SplitOfTableRecord {
        table: split.table.to_string(),
        split: Some(wire::SplitRecord {
            shard: split.shard.0,
            cut: split.cut,
            left: split.left.0,
            right: split.right.0,
        }),
    };
    let target = |target: &Target| wire::TargetRecord {
        table: target.table.to_string(),
        shard: target.shard.0,
        nodes: target.nodes.iter().map(ToString::to_string).collect(),
    };
    wire::PlanRunRecord {
        state: balance_wire::run_state_to_wire(run.state),
        outcome: run.outcome.clone(),
        started_unix_ms: run.started_unix_ms,
        ended_unix_ms: run.ended_unix_ms,
        splits: run.splits.iter().map(split).collect(),
        targets: run.targets.iter().map(target).collect(),
    }
}

fn run_from_wire(wire: wire::PlanRunRecord) -> Result<PlanRun, Problem> {
    let split = |of: &wire::SplitOfTableRecord| {
        let split = of.split.ok_or(Problem::Missing("splits.split"))?;
        Ok(Cut {
            table: id("splits.table", &of.table)?,
            shard: ShardId(split.shard),
            cut: split.cut,
            left: ShardId(split.left),
            right: ShardId(split.right),
        })
    };
    let target = |target: &wire::TargetRecord| {
        Ok(Target {
            table: id("targets.table", &target.table)?,
            shard: ShardId(target.shard),
            nodes: target
                .nodes
                .iter()
                .map(|node| id("targets.nodes", node))
                .collect::<Result<_, Problem>>()?,
        })
    };
    Ok(PlanRun {
        state: balance_wire::run_state_from_wire(wire.state).map_err(|reason| invalid("state", reason))?,
        outcome: wire.outcome,
        started_unix_ms: wire.started_unix_ms,
        ended_unix_ms: wire.ended_unix_ms,
        splits: wire.splits.iter().map(split).collect::<Result<_, Problem>>()?,
        targets: wire.targets.iter().map(target).collect::<Result<_, Problem>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableId;
    use crate::model::balance::{BalanceMode, RunState};
    use crate::model::hold::Brake;

    #[test]
    fn what_balances_and_brakes_survives_the_store() {
        for mode in [BalanceMode::Off, BalanceMode::Advisory, BalanceMode::On] {
            let setting = BalanceSetting { mode, reason: "é".into(), since_unix_ms: 7 };
            assert_eq!(BalanceSetting::decode("k", &setting.encode()), Ok(setting));
        }
        for brake in [Brake::Pause, Brake::Freeze] {
            let hold = Hold { brake, reason: String::new(), since_unix_ms: 1, until_unix_ms: u64::MAX };
            assert_eq!(Hold::decode("k", &hold.encode()), Ok(hold));
        }
        let table = TableId(uuid::Uuid::from_u128(9));
        for state in [RunState::Running, RunState::Done, RunState::Cancelled, RunState::Failed] {
            let run = PlanRun {
                state,
                outcome: "late".into(),
                started_unix_ms: 1,
                ended_unix_ms: 2,
                splits: vec![Cut { table, shard: ShardId(0), cut: 4, left: ShardId(1), right: ShardId(2) }],
                targets: vec![Target { table, shard: ShardId(2), nodes: vec!["n2".parse().unwrap()] }],
            };
            assert_eq!(PlanRun::decode("k", &run.encode()), Ok(run));
        }
    }

    #[test]
    fn a_record_without_its_word_or_with_a_newer_one_is_refused() {
        let refused = |wire: wire::HoldRecord| hold_from_wire(wire).unwrap_err().to_string();
        assert_eq!(refused(wire::HoldRecord::default()), "field brake is missing");
        let newer = wire::HoldRecord { brake: 77, ..wire::HoldRecord::default() };
        assert_eq!(refused(newer), "field brake: 77 is no brake known here");
        assert!(setting_from_wire(wire::BalanceRecord::default()).is_err());
        assert!(run_from_wire(wire::PlanRunRecord::default()).is_err());
        let bad = wire::TargetRecord { table: "x".into(), ..wire::TargetRecord::default() };
        let state = balance_wire::run_state_to_wire(RunState::Running);
        let run = wire::PlanRunRecord { state, targets: vec![bad], ..wire::PlanRunRecord::default() };
        assert!(run_from_wire(run).unwrap_err().to_string().contains("targets.table"));
    }
}
