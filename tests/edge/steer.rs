//! Plans, balancing, pauses and freezes over the wire.

use super::edge::{Asked, Edge, name, samples};
use super::{client, edge, node};
use converthouse::adapters::peers::Daemon;
use converthouse::model::balance::{ApplyPlan, BalanceMode, RunState, SetBalance};
use converthouse::model::hold::{Brake, NamedScope, SetHold};
use converthouse::model::{ShardId, TableName};
use converthouse::wire;
use converthouse::wire::control_client::ControlClient;

/// A plan to be applied.
pub fn apply() -> ApplyPlan {
    ApplyPlan { plan: samples::plan(), dry_run: true }
}

/// A mode to be set.
pub fn set_balance(mode: Option<BalanceMode>) -> SetBalance {
    SetBalance { mode, reason: "é".into() }
}

/// A brake to be set on a table.
pub fn set_hold(shard: Option<ShardId>, brake: Option<Brake>) -> SetHold {
    let scope = NamedScope { table: Some(name()), shard };
    SetHold { scope, brake, reason: "audit".into(), ttl_ms: 7_200_000 }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn plans_survive_the_wire() {
    let edge = Edge::start();
    let daemon = client(&edge);
    assert_eq!(daemon.make_plan().await.unwrap(), samples::plan());
    assert_eq!(daemon.apply_plan(apply()).await.unwrap(), samples::run(RunState::Running));
    assert_eq!(edge.daemon.last(), Asked::ApplyPlan(Box::new(apply())));
    assert_eq!(daemon.cancel_plan().await.unwrap(), samples::run(RunState::Cancelled));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn balancing_and_holds_survive_the_wire() {
    let edge = Edge::start();
    let daemon = client(&edge);
    for mode in [None, Some(BalanceMode::Off), Some(BalanceMode::Advisory), Some(BalanceMode::On)] {
        assert_eq!(daemon.set_balance(set_balance(mode)).await.unwrap(), samples::balance());
        assert_eq!(edge.daemon.last(), Asked::Balance(set_balance(mode)));
    }
    for (shard, brake) in [(None, None), (Some(ShardId(3)), Some(Brake::Pause)), (None, Some(Brake::Freeze))]
    {
        assert_eq!(daemon.set_hold(set_hold(shard, brake)).await.unwrap(), samples::holds());
        assert_eq!(edge.daemon.last(), Asked::Hold(set_hold(shard, brake)));
    }
    let everything = SetHold { scope: NamedScope { table: None, shard: None }, ..set_hold(None, None) };
    daemon.set_hold(everything.clone()).await.unwrap();
    assert_eq!(edge.daemon.last(), Asked::Hold(everything));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_makes_no_sense_in_a_plan_or_hold_is_named() {
    let edge = edge::Edge::start();
    let mut client = ControlClient::connect(edge.grpc.clone()).await.unwrap();
    let refused = client.apply_plan(wire::ApplyPlanRequest::default()).await.unwrap_err();
    assert_eq!(refused.message(), "plan: not given");
    let TableName { database, table } = name();
    let good = wire::ClusterPlan { world: Some(wire::PlanWorld::default()), ..wire::ClusterPlan::default() };
    let step = wire::PlannedStep { table: edge::id().to_string(), action: 9, ..wire::PlannedStep::default() };
    let bad_step = wire::ClusterPlan { steps: vec![step], ..good.clone() };
    let bad_node = wire::PlannedMove {
        table: edge::id().to_string(),
        nodes: vec![node("n1").into(), "N 2".into()],
        ..wire::PlannedMove::default()
    };
    let bad_move = wire::ClusterPlan { moves: vec![bad_node], ..good };
    for (plan, place) in [
        (wire::ClusterPlan::default(), "plan.world: not given"),
        (bad_step, "plan.steps[0].action: 9 is no action known here"),
        (bad_move, "plan.moves[0].nodes: \"N 2\" is not a node name"),
    ] {
        let request = wire::ApplyPlanRequest { plan: Some(plan), dry_run: false };
        let refused = client.apply_plan(request).await.unwrap_err();
        assert!(refused.message().starts_with(place), "{}", refused.message());
    }
    let scope = |database, table, shard| wire::HoldScope { database, table, shard };
    for (scope, place) in [
        (scope(Some(database), None, None), "scope.table: not given"),
        (scope(None, Some(table), None), "scope.database: not given"),
        (scope(None, None, Some(1)), "scope.table: not given"),
    ] {
        let request = wire::SetHoldRequest { scope: Some(scope), ..wire::SetHoldRequest::default() };
        assert_eq!(client.set_hold(request).await.unwrap_err().message(), place);
    }
}
