//! Readers that ask random nodes all the time, as a user's client would, and judge every answer: of each partition a
//! gap-free prefix of offsets, no row twice, and none missing that the copies which could be asked held before. A
//! query that failed is looked at beside the servers' outages.

use super::cluster::{Cluster, Node, PARTITIONS, event};
use super::floors::{Floors, Least, Seen, Watched};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// Ids that the queries which count distinct ones look at: they must not get slower with the table.
const SOME: u64 = 100_000;
/// A reader rests as long as its query took, within these.
const REST_MIN: Duration = Duration::from_millis(20);
const REST_MAX: Duration = Duration::from_secs(2);

/// A server, when it was taken down, and when it was back.
type Outage = (String, Instant, Option<Instant>);

/// When which server was taken down, and when it was back.
#[derive(Clone, Default)]
pub struct Outages(Arc<Mutex<Vec<Outage>>>);

#[allow(dead_code)] // for the proof, which shares this file
impl Outages {
    pub fn begin(&self, node: &str) {
        self.0.lock().unwrap().push((node.to_owned(), Instant::now(), None));
    }

    pub fn end(&self, node: &str) {
        let mut all = self.0.lock().unwrap();
        let open = all.iter_mut().rev().find(|outage| outage.0 == node && outage.2.is_none());
        open.unwrap().2 = Some(Instant::now());
    }

    /// A server could not be reached by the others, though it ran: queries that were on their way broke off.
    pub fn cut(&self, node: &str) {
        let now = Instant::now();
        self.0.lock().unwrap().push((way_to(node), now, Some(now)));
    }

    /// Who is down now.
    pub fn now(&self) -> BTreeSet<String> {
        let all = self.0.lock().unwrap();
        all.iter().filter(|outage| outage.2.is_none()).map(|outage| outage.0.clone()).collect()
    }

    /// Why a query failed, if a server's outage says so.
    fn explain(&self, initiator: &str, began: Instant) -> Option<&'static str> {
        let all = self.0.lock().unwrap();
        let overlaps = |until: Option<Instant>| until.is_none_or(|until| until >= began);
        if all.iter().any(|(node, _, until)| node == initiator && overlaps(*until)) {
            return Some("the server that was asked was down");
        }
        // ClickHouse asks another replica if one cannot be reached, not if one goes away while it answers.
        let during = |from: Instant, until: Option<Instant>| from >= began && overlaps(until);
        let torn = all.iter().any(|(_, from, until)| during(*from, *until));
        torn.then_some("a server was killed or cut off while it answered")
    }
}

/// What an outage is called of a server that nobody reaches; while it lasts, readers do not ask that one.
pub fn way_to(node: &str) -> String {
    format!("the way to {node}")
}

/// What became of the queries.
#[derive(Debug, Default)]
pub struct Verdict {
    pub answered: u64,
    /// Of these, compared with what the copies held before.
    pub judged: u64,
    /// Of these, such that nothing was known to compare them with: routes or copies had just changed.
    pub unjudged: u64,
    /// Answers that are not true, as they were.
    pub wrong: Vec<String>,
    /// Queries that failed without a server being down.
    pub unexplained: Vec<String>,
    pub explained: BTreeMap<&'static str, u64>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, judged, unjudged, wrong, unexplained, explained } = self;
        let failed = unexplained.len() as u64 + explained.values().sum::<u64>();
        writeln!(f, "queries answered {answered}, wrong {}, failed {failed}", wrong.len())?;
        writeln!(
            f,
            "  {judged} compared with what every copy held before; not known what to compare {unjudged} with"
        )?;
        for (why, times) in explained {
            writeln!(f, "  {times:>4}  {why}")?;
        }
        writeln!(f, "  {:>4}  without a reason", unexplained.len())
    }
}

type Asked = Arc<Mutex<Vec<Watched>>>;

pub struct Readers {
    nodes: Asked,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    floors: Floors,
    tasks: Vec<JoinHandle<Verdict>>,
    watching: JoinHandle<()>,
    /// Set once no answer will come any more.
    ended: Arc<AtomicBool>,
}

/// Makes what readers ask on a node: a `Distributed` table that shows the hidden columns.
pub async fn prepare(node: &Node, cluster: &str) {
    let made = format!(
        "CREATE TABLE IF NOT EXISTS check.all (_cvh_partition UInt32, _cvh_offset UInt64) \
         ENGINE = Distributed('{cluster}', '', 'local')"
    );
    node.query("CREATE DATABASE IF NOT EXISTS check").await.unwrap();
    node.query(&made).await.unwrap();
}

impl Readers {
    /// So many readers, of no node yet.
    pub fn start(readers: u64, outages: Outages) -> Self {
        let (nodes, stop) = (Asked::default(), Arc::new(AtomicBool::new(false)));
        let (turn, answered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let shared = || (stop.clone(), turn.clone(), answered.clone());
        let (floors, ended) = (Floors::default(), Arc::new(AtomicBool::new(false)));
        let read = |_| tokio::spawn(read(nodes.clone(), outages.clone(), floors.clone(), shared()));
        let tasks = (0..readers).map(read).collect();
        let over = ended.clone();
        let watch = floors.clone().watch(nodes.clone(), move || over.load(Ordering::Relaxed));
        let watching = tokio::spawn(watch);
        Self { nodes, stop, answered, floors, tasks, watching, ended }
    }

    /// So many readers of all nodes that there are now, of which none goes down. Every partition must hold rows
    /// already.
    pub async fn of(cluster: &Cluster, readers: u64) -> Self {
        let name = cluster.table("shop.events").unwrap().cluster;
        let all = Self::start(readers, Outages::default());
        for node in &cluster.nodes {
            all.add(node, &name).await;
        }
        all
    }

    /// Waits until so many more queries have been answered.
    pub async fn flow(&self, queries: u64) {
        let until = self.answered.load(Ordering::Relaxed) + queries;
        while self.answered.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A further node is asked from now on; it must have its routes and the table that users see.
    pub async fn add(&self, node: &Node, cluster: &str) {
        prepare(node, cluster).await;
        let (name, port, cluster) = (node.id.clone(), node.route_port, cluster.to_owned());
        self.nodes.lock().unwrap().push(Watched { node: name, client: node.client(), port, cluster });
    }

    pub async fn end(self) -> Verdict {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Verdict::default();
        for task in self.tasks {
            let one = task.await.unwrap();
            all.answered += one.answered;
            all.wrong.extend(one.wrong);
            all.unexplained.extend(one.unexplained);
            for (why, times) in one.explained {
                *all.explained.entry(why).or_default() += times;
            }
        }
        self.ended.store(true, Ordering::Relaxed);
        self.watching.await.unwrap();
        let found = self.floors.found();
        (all.judged, all.unjudged) = (found.judged, found.unjudged);
        all.wrong.extend(found.missing);
        all
    }
}

/// Whether an answer cannot be true, whatever is known besides.
type Judge = fn(&str) -> Option<String>;

/// A query, what its answer is judged by at once, and what by when it is known how much it must show.
fn question(turn: u64) -> (String, Judge, Least) {
    match turn % 5 {
        0 | 1 => (
            "SELECT _cvh_partition, count(), min(_cvh_offset), max(_cvh_offset), sum(_cvh_offset) FROM check.all \
             GROUP BY _cvh_partition ORDER BY _cvh_partition"
                .to_owned(),
            torn,
            short,
        ),
        2 => (format!("SELECT 0, count(), uniqExact(id) FROM shop.events WHERE id < {SOME}"), twice, some),
        3 => {
            let keys = format!("FROM shop.events WHERE id < {SOME} GROUP BY k");
            (format!("SELECT user % 100 AS k, count(), uniqExact(id) {keys}"), twice, some)
        }
        _ => {
            let id = turn.wrapping_mul(7919) % SOME;
            let text = String::from_utf8(event(id).payload.unwrap().to_vec()).unwrap();
            let row: serde_json::Value = serde_json::from_str(&text).unwrap();
            let point = format!("WHERE user = {} GROUP BY id", row["user"]);
            (format!("SELECT id, count(), uniqExact(id) FROM shop.events {point}"), twice, one)
        }
    }
}

/// Whether to stop, queries begun, queries answered.
type Shared = (Arc<AtomicBool>, Arc<AtomicU64>, Arc<AtomicU64>);

async fn read(nodes: Asked, outages: Outages, floors: Floors, (stop, turn, answered): Shared) -> Verdict {
    let mut verdict = Verdict::default();
    while !stop.load(Ordering::Relaxed) {
        let turn = turn.fetch_add(1, Ordering::Relaxed);
        let asked = {
            let (nodes, down) = (nodes.lock().unwrap(), outages.now());
            let asked = (!nodes.is_empty()).then(|| nodes[turn as usize % nodes.len()].clone());
            // Readers that all wait for one that is silent would ask nobody else.
            asked.filter(|asked| !down.contains(&way_to(&asked.node)))
        };
        let Some(Watched { node, client, .. }) = asked else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let ((sql, judge, least), began) = (question(turn), Instant::now());
        let client = client.with_setting("load_balancing", "random");
        let answer = async { client.query_raw(&sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
        match answer.await {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                verdict.wrong.extend(judge(&text).map(|why| format!("{node}: {sql}: {why}:\n{text}")));
                floors.judge(Seen { node, began, ended: Instant::now(), sql, text, least });
                verdict.answered += 1;
                answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => match outages.explain(&node, began) {
                Some(why) => *verdict.explained.entry(why).or_default() += 1,
                None => verdict.unexplained.push(format!("{node}: {sql}: {error}")),
            },
        }
        // Full scans get longer with the table: readers that never rest would leave ingest nothing in the end.
        tokio::time::sleep(began.elapsed().clamp(REST_MIN, REST_MAX)).await;
    }
    verdict
}

fn lines(text: &str) -> Vec<Vec<u64>> {
    text.lines().map(|line| line.split('\t').map(|word| word.parse().unwrap()).collect()).collect()
}

/// Whether a row is seen twice.
fn twice(text: &str) -> Option<String> {
    let double = lines(text).into_iter().find(|line| line[1] != line[2]);
    double.map(|line| format!("{line:?}: a row is seen twice"))
}

/// Whether a partition is not a gap-free prefix of its offsets, each once, or not there at all.
fn torn(text: &str) -> Option<String> {
    let partitions = lines(text);
    if partitions.len() as u64 != PARTITIONS {
        return Some("a partition is not there".to_owned());
    }
    let torn = partitions.into_iter().find(|p| {
        let (count, first, last, sum) = (p[1], p[2], p[3], p[4]);
        first != 0 || last + 1 != count || sum != last * count / 2
    });
    torn.map(|partition| format!("partition {partition:?} is no prefix"))
}

/// Whether rows are missing of which every copy that could be asked had told.
fn short(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let seen: BTreeMap<u64, u64> = lines(text).into_iter().map(|line| (line[0], line[1])).collect();
    let short = floor.iter().find(|(partition, least)| seen.get(partition).unwrap_or(&0) < least);
    short.map(|(partition, least)| format!("partition {partition}: every copy held {least} rows before"))
}

/// Whether every copy held the first [`SOME`] ids: ids are sent in their order.
fn all_held(floor: &BTreeMap<u64, u64>) -> bool {
    static OF: std::sync::LazyLock<BTreeMap<String, u64>> = std::sync::LazyLock::new(|| {
        let mut of = BTreeMap::new();
        (0..SOME).for_each(|id| *of.entry(event(id).target.topic).or_default() += 1);
        of
    });
    let needs = |partition: &u64| OF.get(&format!("shop.events.{partition}")).copied().unwrap_or(0);
    floor.iter().all(|(partition, least)| *least >= needs(partition))
}

/// Whether one of the first [`SOME`] ids is missing that every copy held.
fn some(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let seen: u64 = lines(text).iter().map(|line| line[1]).sum();
    (all_held(floor) && seen != SOME).then(|| format!("{seen} of {SOME} rows that every copy held"))
}

/// The same of a single row.
fn one(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let seen = lines(text).len();
    (all_held(floor) && seen != 1).then(|| format!("{seen} rows where every copy held one"))
}
