//! Operations that were begun, a plan, its run, balancing and holds, with every field set to something.

use super::{id, name, operation};
use converthouse::model::balance::{BalanceMode, BalanceStatus, PlanRunStatus, PlannedSize, RunState};
use converthouse::model::control::{Begun, Skipped};
use converthouse::model::hold::{Brake, HoldStatus, NamedScope};
use converthouse::model::operation::State;
use converthouse::model::plan::{
    self, ClusterPlan, NodeStand, PlanScore, PlannedMove, PlannedSplit, PlannedStay, PlannedStep, StepAction,
    TableStand, World,
};
use converthouse::model::{Epoch, NodeId, NodeState, OperationId, ShardId};
use std::collections::BTreeMap;

/// The answer to a request for operations.
pub fn begun() -> Begun {
    let skipped = vec![Skipped { shard: ShardId(9), why: "o4 (lead s9 by n1) is under way".into() }];
    Begun { operations: vec![operation(State::Done)], skipped }
}

fn node(text: &str) -> NodeId {
    text.parse().unwrap()
}

fn world() -> World {
    let stand = |state, live| NodeStand {
        state,
        live,
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        capacity_bytes: 2_000_000_000_000,
        weight_milli: 1_500,
    };
    let table = TableStand {
        name: name().to_string(),
        replicas: 2,
        next_shard: 2,
        shards: BTreeMap::from([(ShardId(0), Epoch(3)), (ShardId(1), Epoch(5))]),
    };
    World {
        revision: 77,
        nodes: BTreeMap::from([
            (node("n1"), stand(NodeState::Active, true)),
            (node("n2"), stand(NodeState::Draining, false)),
            (node("n3"), stand(NodeState::Cordoned, true)),
        ]),
        tables: BTreeMap::from([(id(), table)]),
        operations: [OperationId(4)].into(),
        holds: ["the cluster is paused (é)".to_owned()].into(),
    }
}

fn step(action: StepAction, node: NodeId, bytes: u64, wave: u32, after: Vec<u32>) -> PlannedStep {
    let replaces = (bytes > 0).then(|| "n2".parse().unwrap());
    PlannedStep { wave, table: id(), shard: ShardId(2), action, node, replaces, bytes, after }
}

/// One split, then one of its halves moves.
pub fn plan() -> ClusterPlan {
    let table_name = name().to_string();
    let score = |total, bytes| PlanScore {
        total,
        replicas: 0.25,
        leaders: 0.5,
        bytes,
        moved: 0.125,
        copied: 0.5,
        leader_changes: 0.75,
    };
    ClusterPlan {
        version: plan::VERSION,
        cluster: "production".into(),
        made_unix_ms: 1_700_000_000_000,
        world: world(),
        splits: vec![PlannedSplit {
            table: id(),
            table_name: table_name.clone(),
            shard: ShardId(0),
            cut: 4,
            left: ShardId(2),
            right: ShardId(3),
        }],
        moves: vec![PlannedMove {
            table: id(),
            table_name: table_name.clone(),
            shard: ShardId(2),
            nodes: vec![node("n3"), node("n1")],
            add: vec![node("n3")],
            remove: vec![node("n2")],
            bytes: 1_500_000,
            reason: "node_gone".into(),
        }],
        steps: vec![
            step(StepAction::Add, node("n3"), 1_500_000, 0, vec![]),
            step(StepAction::Await, node("n3"), 0, 0, vec![]),
            step(StepAction::Lead, node("n3"), 0, 1, vec![0, 1]),
            step(StepAction::Remove, node("n2"), 0, 1, vec![2]),
        ],
        waves: 2,
        copies: 1,
        bytes: 1_500_000,
        seconds: 150,
        before: score(1.5, 0.5),
        after: score(0.375, 0.125),
        bound: 0.25,
        gap: Some(0.5),
        stays: vec![PlannedStay {
            table: id(),
            table_name,
            shard: ShardId(1),
            reason: "paused".into(),
            why: "audit\u{1b}[2J".into(),
        }],
        compromises: vec!["fewer zones than replicas".into()],
    }
}

/// A plan being carried out, half-way, or ended so.
pub fn run(state: RunState) -> PlanRunStatus {
    let open = state == RunState::Running;
    PlanRunStatus {
        state,
        outcome: if open { String::new() } else { "cancelled by an operator".into() },
        started_unix_ms: 1_700_000_000_000,
        ended_unix_ms: if open { 0 } else { 1_700_000_009_000 },
        splits: 1,
        splits_left: 0,
        moves: 3,
        moves_left: if open { 2 } else { 0 },
    }
}

/// Advisory, though it is configured as on.
pub fn balance() -> BalanceStatus {
    BalanceStatus {
        mode: Some(BalanceMode::Advisory),
        configured: Some(BalanceMode::On),
        reason: "while the disks are replaced".into(),
        planned: Some(PlannedSize { splits: 1, moves: 3, bytes: 4_500_000 }),
        waits_for: Some("node n2 has not reported yet".into()),
        run: Some(run(RunState::Running)),
    }
}

/// One of each scope.
pub fn holds() -> Vec<HoldStatus> {
    let hold = |table, shard, brake, reason: &str| HoldStatus {
        scope: NamedScope { table, shard },
        brake,
        reason: reason.into(),
        since_unix_ms: 1_700_000_000_000,
        until_unix_ms: 1_700_086_400_000,
    };
    vec![
        hold(None, None, Brake::Pause, "quarter's end"),
        hold(Some(name()), None, Brake::Freeze, "backup"),
        hold(Some(name()), Some(ShardId(1)), Brake::Freeze, "being looked at"),
    ]
}
