//! Plays a case: the world stands, events happen (safety), then all faults end and it must heal (liveness).

use super::case::{Case, Issue, TableSpec};
use super::cluster::Cluster;
use super::event::full_name;
use super::failure::Failure;
use super::measures::Measures;
use super::rows::stamp;
use super::setup::Setup;
use super::{PANICKED, Run, run};
use crate::adapters::faults::Weather;
use crate::adapters::offload;
use crate::adapters::peers::Daemon;
use crate::model::balance::{BalanceMode, SetBalance};
use crate::model::{NodeId, PartitionId, Table};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// How long a cluster may take to heal where a case does not say.
const HEAL_WITHIN_MS: u64 = 300_000;
/// How long preferred leaders take to take their place.
const SETTLE_MS: u64 = 20_000;
/// How long history takes to be in every replica.
const SETTLE_WITHIN_MS: u64 = 600_000;
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
        played.failure = unexpected(issue, &played);
        if played.failure.is_none() {
            played.violations.clear();
        }
    }
    played
}

/// What is wrong with a run that is known to fail, if anything: it must fail, and as it is known to.
fn unexpected(Issue { is, fails_with }: &Issue, played: &Run) -> Option<String> {
    let Some(failure) = &played.failure else {
        return Some(format!("expected to fail until {is} is solved, and passed: remove `issue`"));
    };
    if failure.starts_with(PANICKED) {
        return Some(failure.clone());
    }
    let all = [failure].into_iter().chain(&played.violations);
    let other = all.into_iter().find(|said| !said.contains(fails_with))?;
    Some(format!("expected to fail with {fails_with:?} until {is} is solved, and fails with: {other}"))
}

/// Plays cases on all cores and tells each as it ends; the runs are in the order of the cases.
pub fn play_all(cases: &[Case], mut told: impl FnMut(&Case, &Run)) -> Vec<Run> {
    let mut runs = BTreeMap::new();
    let case = |number: u64| &cases[usize::try_from(number).expect("one of them")];
    offload::spread(
        0..cases.len() as u64,
        |number| play(case(number)),
        |number, run| {
            told(case(number), &run);
            runs.insert(number, run);
            ControlFlow::Continue(())
        },
    );
    runs.into_values().collect()
}

/// Samples of a run, up to the end of faults.
const SAMPLES: u64 = 200;

/// In large worlds brokers tell the ends of idle partitions so many times a second in all.
const ENDS_PER_S: u64 = 300;

/// How often the end of an idle partition is told again.
fn end_every_ms(case: &Case) -> u64 {
    let replicas = case.tables.iter().map(|table| u64::from(table.partitions) * u64::from(table.replicas));
    (replicas.sum::<u64>() * 1_000 / ENDS_PER_S).max(1_000)
}

async fn script(cluster: &Cluster, case: &Case) -> Result<(), Failure> {
    cluster.kafka().set_end_every_ms(end_every_ms(case));
    cluster.set_weather_everywhere(Weather::FAIR);
    cluster.start().await?;
    for table in &case.tables {
        populate(cluster, table).await?;
    }
    // Preferred leaders take their place.
    cluster.advance(SETTLE_MS).await?;
    cluster.measure();
    cluster.start_samples((case.faults_end.0 / SAMPLES).max(1_000));
    cluster.start_readers(case.world.readers);
    cluster.set_weather_everywhere(case.world.weather.weather());
    let began_ms = cluster.now_ms();
    if case.tables.iter().any(|table| table.leaders_on.is_some()) {
        cluster.say_balance(None).await?;
    }
    let flowing = Rc::new(Cell::new(true));
    case.tables.iter().for_each(|table| feed(cluster, table.clone(), flowing.clone()));
    for timed in &case.events {
        wait_until(cluster, began_ms + timed.at.0).await?;
        cluster.happen(&timed.event)?;
    }
    wait_until(cluster, began_ms + case.faults_end.0).await?;
    flowing.set(false);
    let ended_ms = cluster.now_ms();
    let before_repair = cluster.seen();
    let last_event_ms = began_ms + case.events.last().map_or(0, |timed| timed.at.0);
    let settle_ms = before_repair.measures.changed_ms.saturating_sub(last_event_ms);
    cluster.0.settle_ms.set(settle_ms);
    cluster.heal(HEAL_WITHIN_MS).await?;
    let healed_ms = cluster.now_ms() - ended_ms;
    cluster.row(&format!("script finds everything whole after {}", stamp(healed_ms)));
    calm(cluster).await?;
    let seen = if case.expect.before_repair { before_repair } else { cluster.seen() };
    cluster.judge(case, &seen, (healed_ms, settle_ms)).await
}

/// Makes a table with its history and its leaders.
async fn populate(cluster: &Cluster, spec: &TableSpec) -> Result<(), Failure> {
    if spec.message.0 > 0 {
        cluster.weigh_rows(&full_name(&spec.name), spec.message.0);
    }
    let table = cluster.create_table(&spec.table()).await?;
    cluster.rate(&spec.name, None, spec.messages_per_s);
    if spec.history > 0 {
        (0..table.partitions)
            .for_each(|at| cluster.produce(&table, PartitionId(at), spec.history * spec.times(at)));
        cluster.until_nothing_lacks(SETTLE_WITHIN_MS).await?;
    }
    match &spec.leaders_on {
        Some(node) => {
            // Who is asked to lead before the preferred leaders have taken their place loses it to them.
            cluster.advance(SETTLE_MS).await?;
            cluster.gather_leaders(&table, node).await
        }
        None => Ok(()),
    }
}

async fn wait_until(cluster: &Cluster, at_ms: u64) -> Result<(), Failure> {
    while cluster.now_ms() < at_ms {
        cluster.advance((at_ms - cluster.now_ms()).min(1_000)).await?;
    }
    Ok(())
}

/// Messages come into each partition every second.
fn feed(cluster: &Cluster, table: TableSpec, flowing: Rc<Cell<bool>>) {
    let cluster = cluster.clone();
    tokio::task::spawn_local(async move {
        while flowing.get() {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let Some(record) = cluster.table(&full_name(&table.name)) else { continue };
            for partition in 0..record.partitions {
                let count = cluster.rate_of(&table.name, partition) * table.times(partition);
                if count > 0 {
                    cluster.produce(&record, PartitionId(partition), count);
                }
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

impl Cluster {
    /// Begins to measure anew.
    pub fn measure(&self) {
        *self.0.measures.borrow_mut() = Measures::begin(self.now_ms(), &self.view());
    }

    /// What was measured so far.
    pub fn measures(&self) -> Measures {
        let mut measures = self.0.measures.borrow().clone();
        measures.end(self.now_ms(), &self.view());
        let servers = self.node_ids().into_iter().filter_map(|id| self.server(id.as_str()));
        measures.copied_bytes = servers.map(|server| server.copied_bytes()).sum();
        measures
    }
}

/// What comes in, and who leads before anything happens.
impl Cluster {
    /// How many messages come into each of these partitions every second from now on; into all if none are named.
    pub(super) fn rate(&self, table: &str, partitions: Option<(u32, u32)>, messages_per_s: u64) {
        let all = self.table(&full_name(table)).map_or(0, |record| record.partitions);
        let (from, to) = partitions.unwrap_or((0, all));
        let mut rates = self.0.rates.borrow_mut();
        (from..to.min(all)).for_each(|at| {
            rates.insert((table.to_owned(), at), messages_per_s);
        });
    }

    fn rate_of(&self, table: &str, partition: u32) -> u64 {
        self.0.rates.borrow().get(&(table.to_owned(), partition)).copied().unwrap_or(0)
    }

    async fn say_balance(&self, mode: Option<BalanceMode>) -> Result<(), Failure> {
        let request = SetBalance { mode, reason: "the case puts leaders in place".into() };
        let set = |daemon: Arc<dyn Daemon>| {
            let request = request.clone();
            async move { daemon.set_balance(request).await }
        };
        self.ask("set the balance", set).await.map(|_| ())
    }

    /// Has one node lead every shard of a table that it has a replica of. The balancer rests meanwhile, and goes on
    /// when the case begins.
    async fn gather_leaders(&self, table: &Table, node: &str) -> Result<(), Failure> {
        self.say_balance(Some(BalanceMode::Off)).await?;
        let led = |shard: &&crate::model::Shard| {
            let holds = shard.replicas.iter().any(|replica| replica.node.as_str() == node);
            holds && shard.leader.as_ref().map(NodeId::as_str) != Some(node)
        };
        let shards: Vec<_> = self.view().shards_of(table.id).filter(led).map(|shard| shard.id).collect();
        for shard in shards {
            self.lead(&table.name, shard, node).await?;
        }
        let table = table.id;
        let all = |cluster: &Self| cluster.view().shards_of(table).filter(led).count() == 0;
        self.until("the leaders to be gathered", SETTLE_WITHIN_MS, all).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issue(fails_with: &str) -> Issue {
        Issue { is: "#12".into(), fails_with: fails_with.into() }
    }

    #[test]
    fn another_invariant_that_breaks_is_no_known_failure() {
        let run = run(&Setup::nodes(1), async |cluster: &Cluster| {
            cluster.journal().violation("RETIRE", "a shard is gone");
            cluster.journal().violation("ONE-EPOCH", "a row twice");
            Err(cluster.failure("RETIRE: a shard is gone"))
        });
        let said = unexpected(&issue("RETIRE"), &run).expect("it breaks more");
        assert!(said.contains("fails with: 00:00:00.000 ONE-EPOCH: a row twice"), "{said}");
        let only = Run { violations: run.violations[..1].to_vec(), ..run };
        assert_eq!(unexpected(&issue("RETIRE"), &only), None);
    }

    #[test]
    fn a_panic_is_no_known_failure_and_is_not_hidden_by_another() {
        let run = run(&Setup::nodes(1), async |cluster: &Cluster| {
            tokio::task::spawn_local(async { panic!("as known") });
            cluster.advance(10).await?;
            Err(cluster.failure("it fails as known"))
        });
        let said = unexpected(&issue("as known"), &run).expect("a panic always counts");
        assert!(said.starts_with(PANICKED) && said.ends_with("it fails as known"), "{said}");
    }
}
