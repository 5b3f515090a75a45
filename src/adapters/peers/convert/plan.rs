//! Plans of the `Control` service.

use super::{Malformed, each, node, optional_node, table_id};
use crate::model::balance::ApplyPlan;
use crate::model::plan::{
    ClusterPlan, NodeStand, PlanScore, PlannedMove, PlannedSplit, PlannedStay, PlannedStep, StepAction,
    TableStand, World,
};
use crate::model::{Epoch, NodeId, NodeState, OperationId, ShardId};
use crate::wire;

/// A plan to be carried out.
pub fn apply_from_wire(w: &wire::ApplyPlanRequest) -> Result<ApplyPlan, Malformed> {
    let plan = w.plan.as_ref().ok_or_else(|| Malformed::absent("plan"))?;
    let plan = plan_from_wire(plan).map_err(|error| error.within("plan"))?;
    Ok(ApplyPlan { plan, dry_run: w.dry_run })
}

/// See [`apply_from_wire`].
pub fn apply_to_wire(m: ApplyPlan) -> wire::ApplyPlanRequest {
    wire::ApplyPlanRequest { plan: Some(plan_to_wire(m.plan)), dry_run: m.dry_run }
}

/// A plan.
pub fn plan_from_wire(w: &wire::ClusterPlan) -> Result<ClusterPlan, Malformed> {
    let world = w.world.as_ref().ok_or_else(|| Malformed::absent("world"))?;
    Ok(ClusterPlan {
        version: w.version,
        cluster: w.cluster.clone(),
        made_unix_ms: w.made_unix_ms,
        world: world_from_wire(world).map_err(|error| error.within("world"))?,
        splits: each("splits", &w.splits, split_from_wire)?,
        moves: each("moves", &w.moves, move_from_wire)?,
        steps: each("steps", &w.steps, step_from_wire)?,
        waves: w.waves,
        copies: w.copies,
        bytes: w.bytes,
        seconds: w.seconds,
        before: score_from_wire(w.before.unwrap_or_default()),
        after: score_from_wire(w.after.unwrap_or_default()),
        bound: w.bound,
        gap: w.gap,
        stays: each("stays", &w.stays, stay_from_wire)?,
        compromises: w.compromises.clone(),
    })
}

/// See [`plan_from_wire`].
pub fn plan_to_wire(m: ClusterPlan) -> wire::ClusterPlan {
    wire::ClusterPlan {
        version: m.version,
        cluster: m.cluster,
        made_unix_ms: m.made_unix_ms,
        world: Some(world_to_wire(m.world)),
        splits: m.splits.into_iter().map(split_to_wire).collect(),
        moves: m.moves.into_iter().map(move_to_wire).collect(),
        steps: m.steps.into_iter().map(step_to_wire).collect(),
        waves: m.waves,
        copies: m.copies,
        bytes: m.bytes,
        seconds: m.seconds,
        before: Some(score_to_wire(m.before)),
        after: Some(score_to_wire(m.after)),
        bound: m.bound,
        gap: m.gap,
        stays: m.stays.into_iter().map(stay_to_wire).collect(),
        compromises: m.compromises,
    }
}

fn world_from_wire(w: &wire::PlanWorld) -> Result<World, Malformed> {
    let nodes = w.nodes.iter().map(|(id, stand)| {
        let state = state_from_wire(stand.state).map_err(|error| error.within(&format!("nodes.{id}")))?;
        let stand = NodeStand {
            state,
            live: stand.live,
            labels: stand.labels.clone(),
            capacity_bytes: stand.capacity_bytes,
            weight_milli: stand.weight_milli,
        };
        Ok((node("nodes", id)?, stand))
    });
    let tables = w.tables.iter().map(|(id, table)| {
        let stand = TableStand {
            name: table.name.clone(),
            replicas: table.replicas,
            next_shard: table.next_shard,
            shards: table.shards.iter().map(|(shard, epoch)| (ShardId(*shard), Epoch(*epoch))).collect(),
        };
        Ok((table_id("tables", id)?, stand))
    });
    Ok(World {
        revision: w.revision,
        nodes: nodes.collect::<Result<_, Malformed>>()?,
        tables: tables.collect::<Result<_, Malformed>>()?,
        operations: w.operations.iter().copied().map(OperationId).collect(),
        holds: w.holds.iter().cloned().collect(),
    })
}

fn world_to_wire(m: World) -> wire::PlanWorld {
    let node = |(id, stand): (NodeId, NodeStand)| {
        let stand = wire::PlanNode {
            state: state_to_wire(stand.state),
            live: stand.live,
            labels: stand.labels,
            capacity_bytes: stand.capacity_bytes,
            weight_milli: stand.weight_milli,
        };
        (id.into(), stand)
    };
    let table = |(id, stand): (crate::model::TableId, TableStand)| {
        let stand = wire::PlanTable {
            name: stand.name,
            replicas: stand.replicas,
            next_shard: stand.next_shard,
            shards: stand.shards.into_iter().map(|(shard, epoch)| (shard.0, epoch.0)).collect(),
        };
        (id.to_string(), stand)
    };
    wire::PlanWorld {
        revision: m.revision,
        nodes: m.nodes.into_iter().map(node).collect(),
        tables: m.tables.into_iter().map(table).collect(),
        operations: m.operations.into_iter().map(|id| id.0).collect(),
        holds: m.holds.into_iter().collect(),
    }
}

fn state_from_wire(number: i32) -> Result<NodeState, Malformed> {
    use wire::NodeStateRecord as State;
    match State::try_from(number) {
        Ok(State::Active) => Ok(NodeState::Active),
        Ok(State::Cordoned) => Ok(NodeState::Cordoned),
        Ok(State::Draining) => Ok(NodeState::Draining),
        Ok(State::Unspecified) => Err(Malformed::absent("state")),
        Err(_) => Err(Malformed::new("state", format!("{number} is no node state known here"))),
    }
}

fn state_to_wire(state: NodeState) -> i32 {
    let wire = match state {
        NodeState::Active => wire::NodeStateRecord::Active,
        NodeState::Cordoned => wire::NodeStateRecord::Cordoned,
        NodeState::Draining => wire::NodeStateRecord::Draining,
    };
    wire.into()
}

fn split_from_wire(w: &wire::PlannedSplit) -> Result<PlannedSplit, Malformed> {
    Ok(PlannedSplit {
        table: table_id("table", &w.table)?,
        table_name: w.table_name.clone(),
        shard: ShardId(w.shard),
        cut: w.cut,
        left: ShardId(w.left),
        right: ShardId(w.right),
    })
}

fn split_to_wire(m: PlannedSplit) -> wire::PlannedSplit {
    let (left, right) = (m.left.0, m.right.0);
    let (table, table_name) = (m.table.to_string(), m.table_name);
    wire::PlannedSplit { table, table_name, shard: m.shard.0, cut: m.cut, left, right }
}

fn names(field: &str, texts: &[String]) -> Result<Vec<NodeId>, Malformed> {
    texts.iter().map(|text| node(field, text)).collect()
}

fn move_from_wire(w: &wire::PlannedMove) -> Result<PlannedMove, Malformed> {
    Ok(PlannedMove {
        table: table_id("table", &w.table)?,
        table_name: w.table_name.clone(),
        shard: ShardId(w.shard),
        nodes: names("nodes", &w.nodes)?,
        add: names("add", &w.add)?,
        remove: names("remove", &w.remove)?,
        bytes: w.bytes,
        reason: w.reason.clone(),
    })
}

fn move_to_wire(m: PlannedMove) -> wire::PlannedMove {
    let texts = |nodes: Vec<NodeId>| nodes.into_iter().map(String::from).collect();
    wire::PlannedMove {
        table: m.table.to_string(),
        table_name: m.table_name,
        shard: m.shard.0,
        nodes: texts(m.nodes),
        add: texts(m.add),
        remove: texts(m.remove),
        bytes: m.bytes,
        reason: m.reason,
    }
}

fn step_from_wire(w: &wire::PlannedStep) -> Result<PlannedStep, Malformed> {
    use wire::planned_step::Action;
    let action = match Action::try_from(w.action) {
        Ok(Action::Add) => StepAction::Add,
        Ok(Action::Await) => StepAction::Await,
        Ok(Action::Lead) => StepAction::Lead,
        Ok(Action::Remove) => StepAction::Remove,
        Ok(Action::Unspecified) => return Err(Malformed::absent("action")),
        Err(_) => return Err(Malformed::new("action", format!("{} is no action known here", w.action))),
    };
    Ok(PlannedStep {
        wave: w.wave,
        table: table_id("table", &w.table)?,
        shard: ShardId(w.shard),
        action,
        node: node("node", &w.node)?,
        replaces: optional_node("replaces", w.replaces.as_ref())?,
        bytes: w.bytes,
        after: w.after.clone(),
    })
}

fn step_to_wire(m: PlannedStep) -> wire::PlannedStep {
    use wire::planned_step::Action;
    let action = match m.action {
        StepAction::Add => Action::Add,
        StepAction::Await => Action::Await,
        StepAction::Lead => Action::Lead,
        StepAction::Remove => Action::Remove,
    };
    wire::PlannedStep {
        wave: m.wave,
        table: m.table.to_string(),
        shard: m.shard.0,
        action: action.into(),
        node: m.node.into(),
        replaces: m.replaces.map(String::from),
        bytes: m.bytes,
        after: m.after,
    }
}

fn stay_from_wire(w: &wire::PlannedStay) -> Result<PlannedStay, Malformed> {
    let (reason, why) = (w.reason.clone(), w.why.clone());
    let (table, table_name) = (table_id("table", &w.table)?, w.table_name.clone());
    Ok(PlannedStay { table, table_name, shard: ShardId(w.shard), reason, why })
}

fn stay_to_wire(m: PlannedStay) -> wire::PlannedStay {
    let (table, table_name) = (m.table.to_string(), m.table_name);
    wire::PlannedStay { table, table_name, shard: m.shard.0, reason: m.reason, why: m.why }
}

fn score_from_wire(w: wire::PlanScore) -> PlanScore {
    PlanScore {
        total: w.total,
        replicas: w.replicas,
        leaders: w.leaders,
        bytes: w.bytes,
        moved: w.moved,
        copied: w.copied,
        leader_changes: w.leader_changes,
    }
}

fn score_to_wire(m: PlanScore) -> wire::PlanScore {
    wire::PlanScore {
        total: m.total,
        replicas: m.replicas,
        leaders: m.leaders,
        bytes: m.bytes,
        moved: m.moved,
        copied: m.copied,
        leader_changes: m.leader_changes,
    }
}
