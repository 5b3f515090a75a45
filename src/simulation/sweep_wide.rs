//! The wider vocabulary of the sweep, for seeds of its own: copies that take their time, machines and zones that are
//! lost, tables that come and go, operators who change their minds, clocks that go wrong.

use super::case::{Case, Size, Span, Timed};
use super::event::{Event, Named};
use super::setup::NewTable;
use super::sweep::Dice;
use crate::model::NodeState;

/// Draws what comes on top of a case that stands.
pub(super) fn widen(dice: &mut Dice, case: &mut Case) {
    if dice.one_in(2) {
        slow_copies(dice, case);
    }
    let lost = may_lose(case) && dice.one_in(2);
    if lost {
        lose(dice, case);
    }
    for number in 0..dice.small(2, 10) {
        let at = dice.range(0, case.faults_end.0);
        for (later, event) in further(dice, case, lost, number) {
            let at = Span((at + later).min(case.faults_end.0));
            case.events.push(Timed { at, event });
        }
    }
    open_all(case);
}

/// Rows weigh something, there is history, and a copy of a whole replica takes 1 to 30 s while it is alone.
fn slow_copies(dice: &mut Dice, case: &mut Case) {
    let mut largest = 0;
    for table in &mut case.tables {
        table.message = Size(dice.range(4, 64) << 10);
        table.history = dice.range(50, 500);
        let partitions = u64::from(table.partitions.div_ceil(table.shards));
        largest = largest.max(partitions * table.history * table.message.0);
    }
    let copy_bytes_per_s = largest / dice.range(1, 30);
    for number in 1..=case.world.nodes {
        let event = Event::SlowNode { node: format!("n{number}"), latency_ms: 0, copy_bytes_per_s };
        case.events.push(Timed { at: Span(0), event });
    }
}

/// Whether one node may be lost for good and every copy still be made again.
fn may_lose(case: &Case) -> bool {
    let nodes = case.world.nodes;
    nodes >= 3 && case.tables.iter().all(|table| (2..nodes).contains(&table.replicas))
}

/// A node is gone for good, and its copies are made elsewhere within the run.
fn lose(dice: &mut Dice, case: &mut Case) {
    case.policy.down_after = Some(Span(dice.range(10, 60) * 1_000));
    let (at, node) = (Span(dice.range(0, case.faults_end.0)), dice.node(case.world.nodes));
    case.events.push(Timed { at, event: Event::LoseNode { node } });
}

/// When all is to heal every node takes copies: those of a new table, and of a node that is lost.
fn open_all(case: &mut Case) {
    let joined = case.events.iter().filter(|timed| timed.event == Event::AddNode {}).count();
    for number in 1..=case.world.nodes as usize + joined {
        let event = Event::SetNode { node: format!("n{number}"), state: NodeState::Active };
        case.events.push(Timed { at: case.faults_end, event });
    }
}

/// What happens, each so much later than the first.
fn further(dice: &mut Dice, case: &Case, lost: bool, number: u32) -> Vec<(u64, Event)> {
    let node = dice.node(case.world.nodes);
    let table = &case.tables[dice.small(0, case.tables.len() as u32 - 1) as usize];
    let (name, shard) = (table.name.clone(), dice.small(0, table.shards + 1));
    let later = dice.range(50, 20_000);
    match dice.small(0, 13) {
        0 if case.world.zones > 0 => {
            let zone = format!("z{}", dice.small(1, case.world.zones));
            vec![(0, Event::StopZone { zone: zone.clone() }), (later, Event::StartZone { zone })]
        }
        0 | 1 => {
            let latency_ms = dice.range(50, 3_000);
            let slow = |latency_ms| Event::SlowNode { node: node.clone(), latency_ms, copy_bytes_per_s: 0 };
            vec![(0, slow(latency_ms)), (later, slow(0))]
        }
        2 => {
            let partitions = dice.one_in(2).then(|| (0, dice.small(1, table.partitions)));
            vec![(0, Event::Rate { table: name, messages_per_s: dice.range(0, 100), partitions })]
        }
        3 => vec![(0, Event::CreateTable(new_table(dice, case, lost, format!("x{number}"))))],
        // Whoever is lost never lets go of a dropped table.
        4 if !lost => {
            let again = new_table(dice, case, lost, name.clone());
            let mut events = vec![(0, Event::DropTable { table: name })];
            if dice.one_in(2) {
                events.push((later, Event::CreateTable(again)));
            }
            events
        }
        4 | 5 => {
            let weather = [Named::Rough, Named::Fair];
            weather
                .into_iter()
                .zip([0, later])
                .map(|(weather, at)| (at, Event::Weather { weather }))
                .collect()
        }
        6 => vec![(0, Event::CancelOperations { table: name })],
        7 => vec![(0, Event::AddReplica { table: name, shard, to: node })],
        8 => vec![(0, Event::RemoveReplica { table: name, shard, from: node })],
        // From its next start on a daemon's clock is wrong.
        9 | 10 => {
            let ppm = i64::from(dice.small(0, 400_000)) - 200_000;
            let (kill, start) =
                (Event::KillDaemon { node: node.clone() }, Event::StartDaemon { node: node.clone() });
            vec![(0, Event::Drift { node, ppm }), (1, kill), (later, start)]
        }
        _ => {
            let begun = begun(dice, (name.clone(), shard), node, case.world.nodes);
            vec![(0, begun), (dice.range(1, 5_000), Event::CancelOperations { table: name })]
        }
    }
}

/// Something that takes a while, and will be cancelled.
fn begun(dice: &mut Dice, (table, shard): (String, u32), node: String, nodes: u32) -> Event {
    match dice.small(0, 3) {
        0 => Event::Split { table, shard: Some(shard) },
        1 => Event::Merge { table, left: shard, right: shard + 1 },
        2 => Event::AddReplica { table, shard, to: node },
        _ => Event::Move { table, shard, from: node, to: dice.node(nodes) },
    }
}

fn new_table(dice: &mut Dice, case: &Case, lost: bool, name: String) -> NewTable {
    let nodes = case.world.nodes;
    let partitions = dice.small(1, 8);
    let (fewest, most) = if lost { (2, nodes - 1) } else { (1, nodes) };
    NewTable {
        name,
        partitions,
        shards: dice.small(1, partitions.min(3)),
        replicas: dice.small(fewest, most.min(3)),
    }
}
