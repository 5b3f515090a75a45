//! Plays a case: the world stands, events happen (safety), then all faults end and it must heal (liveness).

use super::case::{Case, Span, TableSpec};
use super::cluster::Cluster;
use super::event::full_name;
use super::failure::Failure;
use super::measures::Measures;
use super::rows::stamp;
use super::setup::Setup;
use super::{Run, run};
use crate::adapters::faults::Weather;
use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// How long a cluster may take to heal where a case does not say.
const HEAL_WITHIN_MS: u64 = 300_000;
/// How long preferred leaders take to take their place.
const SETTLE_MS: u64 = 20_000;
/// Within this from healing on plans end (SETTLES).
const CALM_WITHIN_MS: u64 = 600_000;
/// And then nothing changes for so long.
const CALM_FOR_MS: u64 = 30_000;

/// A case's run, in virtual time.
pub fn play(case: &Case) -> Run {
    play_on(&case.setup(), case)
}

/// The same on another setup than the case's own.
pub fn play_on(setup: &Setup, case: &Case) -> Run {
    let mut played = run(setup, async |cluster| script(cluster, case).await);
    if let Some(issue) = &case.issue {
        played.failure = match played.failure.take() {
            Some(_) => None,
            None => Some(format!("expected to fail until {issue} is solved, and passed: remove `issue`")),
        };
        played.violations.clear();
    }
    played
}

/// Samples of a run, up to the end of faults.
const SAMPLES: u64 = 200;

async fn script(cluster: &Cluster, case: &Case) -> Result<(), Failure> {
    cluster.set_weather_everywhere(Weather::FAIR);
    cluster.start().await?;
    for table in &case.tables {
        cluster.create_table(&table.table()).await?;
    }
    // Preferred leaders take their place.
    cluster.advance(SETTLE_MS).await?;
    cluster.measure();
    cluster.start_samples((case.faults_end.0 / SAMPLES).max(1_000));
    cluster.start_readers(case.world.readers);
    cluster.set_weather_everywhere(case.world.weather.weather());
    let began_ms = cluster.now_ms();
    let flowing = Rc::new(Cell::new(true));
    case.tables.iter().for_each(|table| feed(cluster, table.clone(), flowing.clone()));
    for timed in &case.events {
        wait_until(cluster, began_ms + timed.at.0).await?;
        cluster.happen(&timed.event)?;
    }
    wait_until(cluster, began_ms + case.faults_end.0).await?;
    flowing.set(false);
    let ended_ms = cluster.now_ms();
    cluster.heal(HEAL_WITHIN_MS).await?;
    let healed_ms = cluster.now_ms() - ended_ms;
    cluster.row(&format!("script finds everything whole after {}", stamp(healed_ms)));
    calm(cluster).await?;
    expectations(cluster, case, healed_ms)
}

async fn wait_until(cluster: &Cluster, at_ms: u64) -> Result<(), Failure> {
    while cluster.now_ms() < at_ms {
        cluster.advance((at_ms - cluster.now_ms()).min(1_000)).await?;
    }
    Ok(())
}

/// Messages come into each partition every second.
fn feed(cluster: &Cluster, table: TableSpec, flowing: Rc<Cell<bool>>) {
    if table.messages_per_s == 0 {
        return;
    }
    let cluster = cluster.clone();
    tokio::task::spawn_local(async move {
        while flowing.get() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if let Some(record) = cluster.table(&full_name(&table.name)) {
                cluster.produce_everywhere(&record, table.messages_per_s);
            }
        }
    });
}

/// Without events plans end: within some time nothing changes any more.
async fn calm(cluster: &Cluster) -> Result<(), Failure> {
    let shape = |cluster: &Cluster| {
        let view = cluster.view();
        (view.tables.clone(), view.shards.clone())
    };
    let until_ms = cluster.now_ms() + CALM_WITHIN_MS;
    loop {
        let before = shape(cluster);
        cluster.advance(CALM_FOR_MS).await?;
        if shape(cluster) == before {
            return Ok(());
        }
        if cluster.now_ms() > until_ms {
            cluster.journal().violation("SETTLES", "records change though nothing happens");
            return Err(cluster.failure("it does not settle"));
        }
    }
}

fn expectations(cluster: &Cluster, case: &Case, healed_ms: u64) -> Result<(), Failure> {
    let expect = &case.expect;
    let measures = cluster.measures();
    let tally = cluster.tally();
    let answered = tally.get("answered").copied().unwrap_or(0);
    let asked: u64 = tally.values().sum();
    let percent = (answered * 100).checked_div(asked).unwrap_or(100);
    let span = |span: Option<Span>| span.map(|span| span.0);
    let at_most = [
        ("healed within ms", healed_ms, span(expect.heals_within)),
        ("leaderless shard-ms", measures.leaderless_shard_ms, span(expect.leaderless_max)),
        ("epochs", measures.epochs, expect.epochs_max),
        ("leader changes", measures.leader_changes, expect.leader_changes_max),
        ("replicas added", measures.replicas_added, expect.moves_max),
        ("replica spread in thousandths", measures.replica_spread_milli, expect.replica_spread_milli_max),
        ("leader spread in thousandths", measures.leader_spread_milli, expect.leader_spread_milli_max),
    ];
    for (what, value, max) in at_most {
        if let Some(max) = max
            && value > max
        {
            return Err(cluster.failure(format!("{what}: {value}, at most {max} expected")));
        }
    }
    let last = cluster.sample();
    for (what, bands) in [("replicas", &expect.replicas), ("leaders", &expect.leaders)] {
        for (node, (min, max)) in bands {
            let node = last.nodes.iter().find(|(id, _)| id.as_str() == node).map(|(_, node)| node.clone());
            let held = node.unwrap_or_default();
            let count = if what == "replicas" { held.replicas } else { held.leaders };
            if count < *min || count > *max {
                return Err(cluster.failure(format!("{what}: {count}, {min} to {max} expected ({held:?})")));
            }
        }
    }
    match expect.answered_percent_min {
        Some(min) if percent < min => {
            Err(cluster
                .failure(format!("{percent} % of {asked} queries answered, at least {min} % expected")))
        }
        _ => Ok(()),
    }
}

impl Cluster {
    /// Begins to measure anew.
    pub fn measure(&self) {
        *self.0.measures.borrow_mut() = Measures::begin(self.now_ms());
    }

    /// What was measured so far.
    pub fn measures(&self) -> Measures {
        let mut measures = self.0.measures.borrow().clone();
        measures.end(self.now_ms(), &self.view());
        measures
    }
}
