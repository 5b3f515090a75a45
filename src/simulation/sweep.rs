//! Random worlds and faults: one seed draws a case; many seeds are a sweep.
//!
//! A case drawn from a seed is the same on every machine. What it may draw: see [`draw`]; what must hold is what
//! always must (no invariant broken, heals once faults end, settles), no measure.

use super::Run;
use super::case::{Case, Expect, PolicySpec, Span, TableSpec, Timed, WorldSpec};
use super::event::{Event, Named};
use super::node::Port;
use super::sweep_wide;
use crate::adapters::offload;
use crate::model::NodeState;
use rand::{RngExt, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;
use std::ops::ControlFlow;

/// In the worlds of every so many seeds disks are replaced.
const DISKS_FAIL_EVERY: u64 = 10;

/// In the worlds of seeds that end on this digit more may happen than in others: see `sweep_wide`.
const WIDE_ENDS_ON: u64 = 2;

pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    pub(super) fn range(&mut self, from: u64, to: u64) -> u64 {
        self.0.random_range(from..=to)
    }

    pub(super) fn small(&mut self, from: u32, to: u32) -> u32 {
        self.0.random_range(from..=to)
    }

    pub(super) fn one_in(&mut self, sides: u32) -> bool {
        self.small(1, sides) == 1
    }

    pub(super) fn node(&mut self, nodes: u32) -> String {
        if self.one_in(4) { "leader".into() } else { format!("n{}", self.small(1, nodes)) }
    }
}

/// Plays the case of each seed as `play` does, on all cores, and tells each run as it ends, until `told` breaks off.
/// What was begun before is still told, so the smallest seed of some kind does not depend on the cores.
pub fn all(
    seeds: impl Iterator<Item = u64> + Send,
    play: impl Fn(&Case) -> Run + Sync,
    mut told: impl FnMut(u64, Run) -> ControlFlow<()>,
) {
    offload::spread(seeds, |seed| play(&draw(seed)), &mut told);
}

/// One number for the digests of many runs: equal where all of them are, in that order.
pub fn digest(runs: impl IntoIterator<Item = u64>) -> u64 {
    runs.into_iter().fold(0, |all: u64, run| all.rotate_left(7).wrapping_mul(0x0100_0000_01b3) ^ run)
}

/// The case of a seed.
pub fn draw(seed: u64) -> Case {
    let mut dice = Dice(Xoshiro256PlusPlus::seed_from_u64(seed));
    let nodes = dice.small(1, 5);
    let zones = if dice.one_in(2) { 0 } else { dice.small(1, 3) };
    let weather = if dice.one_in(2) { Named::Fair } else { Named::Rough };
    let world = WorldSpec { nodes, zones, readers: dice.small(1, 3), weather, ..WorldSpec::default() };
    let tables: Vec<TableSpec> =
        (0..dice.small(1, 2)).map(|number| table(&mut dice, number, nodes)).collect();
    let faults_end = Span(dice.range(30, 120) * 1_000);
    let mut events = Vec::new();
    for _ in 0..dice.small(1, 10) {
        let at = Span(dice.range(0, faults_end.0));
        let (event, undone) = fault(&mut dice, nodes, &tables);
        // Some faults are undone before all end.
        if let Some(undone) = undone
            && !dice.one_in(3)
        {
            let later = Span((at.0 + dice.range(50, 20_000)).min(faults_end.0));
            events.push(Timed { at: later, event: undone });
        }
        events.push(Timed { at, event });
    }
    // What came later is drawn last, and for seeds of its own: the others stay what they were when they found
    // something.
    if seed.is_multiple_of(DISKS_FAIL_EVERY) {
        for _ in 0..dice.small(1, 2) {
            let node = dice.node(nodes);
            let at = Span(dice.range(0, faults_end.0));
            let back = Span((at.0 + dice.range(50, 20_000)).min(faults_end.0));
            events.push(Timed { at, event: Event::ReplaceDisk { node: node.clone() } });
            events.push(Timed { at: back, event: Event::StartClickhouse { node } });
        }
    }
    let mut case = Case {
        name: format!("sweep-{seed}"),
        about: "drawn by the sweep".into(),
        seed,
        issue: None,
        world,
        nodes: Vec::new(),
        policy: PolicySpec::default(),
        tables,
        events,
        faults_end,
        expect: Expect::default(),
    };
    if seed % 10 == WIDE_ENDS_ON {
        sweep_wide::widen(&mut dice, &mut case);
    }
    case.events.sort_by_key(|timed| timed.at);
    case
}

fn table(dice: &mut Dice, number: u32, nodes: u32) -> TableSpec {
    let partitions = dice.small(1, 16);
    TableSpec {
        name: format!("t{number}"),
        partitions,
        shards: dice.small(1, partitions.min(4)),
        replicas: dice.small(1, nodes.min(3)),
        messages_per_s: dice.range(0, 20),
        ..TableSpec::default()
    }
}

/// A fault, and what undoes it.
fn fault(dice: &mut Dice, nodes: u32, tables: &[TableSpec]) -> (Event, Option<Event>) {
    let node = dice.node(nodes);
    let own = || node.clone();
    match dice.small(0, 18) {
        0 | 1 => (Event::KillDaemon { node: own() }, Some(Event::StartDaemon { node: own() })),
        2 => (Event::StallDaemon { node: own() }, Some(Event::ResumeDaemon { node: own() })),
        3 | 4 => {
            let port = Port::ALL[dice.small(0, 4) as usize];
            let (at_change, after) = (dice.small(1, 8), dice.one_in(2));
            let event = Event::CrashDaemon { node: own(), port, at_change, after };
            (event, Some(Event::StartDaemon { node: own() }))
        }
        5 => (Event::StopClickhouse { node: own() }, Some(Event::StartClickhouse { node: own() })),
        6 => (Event::StopNode { node: own() }, Some(Event::StartNode { node: own() })),
        7 => {
            let ports = Port::ALL.into_iter().filter(|_| dice.one_in(2)).collect();
            (Event::Cut { node: own(), ports }, Some(Event::Join { node: own() }))
        }
        8 => (Event::Part { from: own(), to: dice.node(nodes) }, None),
        9 => {
            let port = if dice.one_in(2) { Port::Store } else { Port::Kafka };
            (Event::Down { port }, Some(Event::Up { port }))
        }
        10 => (Event::FillDisk { node: own() }, Some(Event::FreeDisk { node: own() })),
        11 => {
            let ppm = i64::from(dice.small(0, 400_000)) - 200_000;
            (Event::Drift { node: own(), ppm }, Some(Event::KillDaemon { node: own() }))
        }
        12 => {
            let table = tables[dice.small(0, tables.len() as u32 - 1) as usize].name.clone();
            (Event::Produce { table, messages: dice.range(1, 5_000) }, None)
        }
        13 => (Event::AddNode {}, None),
        14 => {
            let state = if dice.one_in(2) { NodeState::Draining } else { NodeState::Cordoned };
            let active = Event::SetNode { node: own(), state: NodeState::Active };
            (Event::SetNode { node: own(), state }, Some(active))
        }
        _ => (operation(dice, nodes, tables, node), None),
    }
}

/// Something an operator may ask for, in the dark: numbers of shards are guessed.
fn operation(dice: &mut Dice, nodes: u32, tables: &[TableSpec], node: String) -> Event {
    let table = &tables[dice.small(0, tables.len() as u32 - 1) as usize];
    let (shard, shards) = (dice.small(0, table.shards + 1), table.shards);
    let table = table.name.clone();
    match dice.small(0, 4) {
        0 | 1 => Event::Split { table, shard: (!dice.one_in(3)).then_some(shard) },
        // The halves of a shard that was split lie on the same nodes, and have such numbers.
        2 => {
            let left = if dice.one_in(2) { shard } else { shards + 2 * dice.small(0, 2) };
            Event::Merge { table, left, right: left + 1 }
        }
        3 => Event::Move { table, shard, from: node, to: dice.node(nodes) },
        _ => Event::Lead { table, shard, to: node },
    }
}
