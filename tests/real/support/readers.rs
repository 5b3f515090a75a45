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
/// Rows whose keys are asked for at once.
const KEYS: u64 = 2_000;
/// What counts as recent: offsets of a partition, and ids.
const RECENT: u64 = 20_000;
/// How often a query is asked that breaks off as a server goes away.
const TRIES: u64 = 4;
const TRY_AGAIN: Duration = Duration::from_millis(100);
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

    /// Whether more than one server was down since then: a shard may have had no replica.
    fn several(&self, since: Instant) -> bool {
        let all = self.0.lock().unwrap();
        let overlaps = |until: Option<Instant>| until.is_none_or(|until| until >= since);
        let down = all.iter().filter(|(node, _, until)| !node.starts_with(&way_to("")) && overlaps(*until));
        down.map(|(node, ..)| node).collect::<BTreeSet<_>>().len() > 1
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
    /// Queries that failed without a server being down, or again and again though only one was.
    pub unexplained: Vec<String>,
    /// Queries that broke off, and were answered when they were asked again.
    pub again: BTreeMap<&'static str, u64>,
    /// Queries that were not answered, while several servers were down.
    pub failed: u64,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, judged, unjudged, wrong, unexplained, again, failed } = self;
        let all = unexplained.len() as u64 + failed;
        writeln!(f, "queries answered {answered}, wrong {}, failed {all}", wrong.len())?;
        writeln!(
            f,
            "  {judged} compared with what every copy held before; not known what to compare {unjudged} with"
        )?;
        for (why, times) in again {
            writeln!(f, "  {times:>4}  answered when asked again, as {why}")?;
        }
        writeln!(f, "  {failed:>4}  failed while servers of all of a shard's replicas may have been down")?;
        writeln!(f, "  {:>4}  failed without a reason", unexplained.len())
    }
}

type Asked = Arc<Mutex<Vec<Watched>>>;

pub struct Readers {
    shared: Shared,
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
        let shared = Shared::default();
        let (floors, ended) = (Floors::default(), Arc::new(AtomicBool::new(false)));
        let read = |_| tokio::spawn(read(shared.clone(), outages.clone(), floors.clone()));
        let tasks = (0..readers).map(read).collect();
        let over = ended.clone();
        let watch = floors.clone().watch(shared.nodes.clone(), move || over.load(Ordering::Relaxed));
        let watching = tokio::spawn(watch);
        Self { shared, floors, tasks, watching, ended }
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
        let until = self.shared.answered.load(Ordering::Relaxed) + queries;
        while self.shared.answered.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A further node is asked from now on; it must have its routes and the table that users see.
    pub async fn add(&self, node: &Node, cluster: &str) {
        prepare(node, cluster).await;
        let (name, port, cluster) = (node.id.clone(), node.route_port, cluster.to_owned());
        let knows = node.query("SELECT name FROM system.settings").await.unwrap();
        let knows = Arc::new(knows.lines().map(str::to_owned).collect());
        let watched = Watched { node: name, client: node.client(), port, cluster, knows };
        self.shared.nodes.lock().unwrap().push(watched);
    }

    pub async fn end(self) -> Verdict {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut all = Verdict::default();
        for task in self.tasks {
            let one = task.await.unwrap();
            all.answered += one.answered;
            all.wrong.extend(one.wrong);
            all.unexplained.extend(one.unexplained);
            all.failed += one.failed;
            for (why, times) in one.again {
                *all.again.entry(why).or_default() += times;
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
struct Question {
    sql: String,
    judge: Judge,
    least: Least,
    settings: &'static [(&'static str, &'static str)],
}

/// A number that has nothing to do with its neighbours': which server is asked must not depend on what it is asked.
/// The last steps of splitmix64.
fn drawn(turn: u64) -> u64 {
    let mixed = (turn ^ (turn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

fn user_of(id: u64) -> u64 {
    let text = String::from_utf8(event(id).payload.unwrap().to_vec()).unwrap();
    serde_json::from_str::<serde_json::Value>(&text).unwrap()["user"].as_u64().unwrap()
}

/// `rows` is how many the table had a short while ago.
fn question(turn: u64, rows: u64) -> Question {
    let plain = |sql: String, judge, least| Question { sql, judge, least, settings: &[] };
    match turn % 6 {
        0 => plain(
            "SELECT _cvh_partition, count(), min(_cvh_offset), max(_cvh_offset), sum(_cvh_offset) FROM check.all \
             GROUP BY _cvh_partition ORDER BY _cvh_partition"
                .to_owned(),
            torn,
            short,
        ),
        1 => {
            let from = (rows / PARTITIONS).saturating_sub(RECENT);
            let recent = format!("WHERE _cvh_offset >= {from} GROUP BY _cvh_partition");
            let columns = "_cvh_partition, count(), uniqExact(_cvh_offset), min(_cvh_offset), max(_cvh_offset)";
            plain(format!("SELECT {columns} FROM check.all {recent}"), gaps, anything)
        }
        2 => plain("SELECT 0, count() FROM shop.events".to_owned(), |_| None, fewer),
        3 => {
            plain(format!("SELECT 0, count(), uniqExact(id) FROM shop.events WHERE id < {SOME}"), twice, some)
        }
        4 => {
            // Of the first rows it is known whether every copy held them; the last are in the shards' newest parts.
            let (from, least): (u64, Least) = match drawn(turn ^ 1) % 2 {
                0 => (drawn(turn) % (SOME - KEYS), keys),
                _ => (rows.saturating_sub(RECENT), anything),
            };
            let of = format!("WHERE id >= {from} AND id < {} GROUP BY user", from + KEYS);
            Question {
                sql: format!("SELECT user, count(), uniqExact(id) FROM shop.events {of}"),
                judge: key_twice,
                least,
                settings: &[("distributed_group_by_no_merge", "1")],
            }
        }
        _ => {
            let point = format!("WHERE user = {} GROUP BY id", user_of(drawn(turn) % SOME));
            Question {
                sql: format!("SELECT id, count(), uniqExact(id) FROM shop.events {point}"),
                judge: twice,
                least: one,
                settings: &[("optimize_skip_unused_shards", "1")],
            }
        }
    }
}

/// What all readers share: whether to stop, queries begun, queries answered, rows that were seen last.
#[derive(Clone, Default)]
struct Shared {
    nodes: Asked,
    stop: Arc<AtomicBool>,
    turn: Arc<AtomicU64>,
    answered: Arc<AtomicU64>,
    rows: Arc<AtomicU64>,
}

impl Shared {
    /// A server for one try of a query; none if there is none, or if nobody would hear from it.
    fn pick(&self, turn: u64, tries: u64, outages: &Outages) -> Option<Watched> {
        let (nodes, down) = (self.nodes.lock().unwrap(), outages.now());
        let at = |nodes: usize| (drawn(turn.wrapping_mul(3)) + tries) as usize % nodes;
        let asked = (!nodes.is_empty()).then(|| nodes[at(nodes.len())].clone());
        // Readers that all wait for one that is silent would ask nobody else.
        asked.filter(|asked| !down.contains(&way_to(&asked.node)))
    }
}

async fn ask(server: &Watched, question: &Question) -> Result<String, clickhouse::error::Error> {
    let mut client = server.client.clone().with_setting("load_balancing", "random");
    for (name, value) in question.settings.iter().filter(|(name, _)| server.knows.contains(*name)) {
        client = client.with_setting(*name, *value);
    }
    let bytes = client.query_raw(&question.sql).fetch_bytes("TabSeparatedRaw")?.collect().await?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

async fn read(shared: Shared, outages: Outages, floors: Floors) -> Verdict {
    let mut verdict = Verdict::default();
    while !shared.stop.load(Ordering::Relaxed) {
        let turn = shared.turn.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        read_once(&shared, turn, &outages, &floors, &mut verdict).await;
        // Full scans get longer with the table: readers that never rest would leave ingest nothing in the end.
        tokio::time::sleep(began.elapsed().clamp(REST_MIN, REST_MAX)).await;
    }
    verdict
}

/// One query, as a client asks it that has several servers: if one goes away, another.
async fn read_once(shared: &Shared, turn: u64, outages: &Outages, floors: &Floors, verdict: &mut Verdict) {
    let question = question(turn, shared.rows.load(Ordering::Relaxed));
    let mut broke_off = None;
    for tries in 0..TRIES {
        let began = Instant::now();
        let Some(server) = shared.pick(turn, tries, outages) else {
            tokio::time::sleep(TRY_AGAIN).await;
            continue;
        };
        let (node, sql) = (server.node.clone(), &question.sql);
        let error = match ask(&server, &question).await {
            Ok(text) => {
                if turn.is_multiple_of(6) {
                    shared.rows.store(lines(&text).iter().map(|line| line[1]).sum(), Ordering::Relaxed);
                }
                let why = (question.judge)(&text);
                verdict.wrong.extend(why.map(|why| format!("{node}: {sql}: {why}:\n{text}")));
                let least = question.least;
                floors.judge(Seen { node, began, ended: Instant::now(), sql: sql.clone(), text, least });
                verdict.answered += 1;
                shared.answered.fetch_add(1, Ordering::Relaxed);
                if let Some(why) = broke_off {
                    *verdict.again.entry(why).or_default() += 1;
                }
                return;
            }
            Err(error) => error,
        };
        match outages.explain(&node, began) {
            Some(why) => broke_off = Some(why),
            None => return verdict.unexplained.push(format!("{node}: {sql}: {error}")),
        }
        if tries + 1 == TRIES && !outages.several(began) {
            return verdict.unexplained.push(format!("{node}: {sql}: also when asked again: {error}"));
        }
        tokio::time::sleep(TRY_AGAIN).await;
    }
    if broke_off.is_some() {
        verdict.failed += 1;
    }
}

fn lines(text: &str) -> Vec<Vec<u64>> {
    text.lines().map(|line| line.split('\t').map(|word| word.parse().unwrap()).collect()).collect()
}

/// For answers of which nothing is known that they must show.
fn anything(_: &str, _: &BTreeMap<u64, u64>) -> Option<String> {
    None
}

/// Whether recent offsets of a partition are not each there, once.
fn gaps(text: &str) -> Option<String> {
    let gaps = lines(text).into_iter().find(|line| line[1] != line[2] || line[4] + 1 - line[3] != line[1]);
    gaps.map(|line| format!("{line:?}: an offset is there twice, or not at all"))
}

/// Whether a key comes from two shards, or a row of it twice.
fn key_twice(text: &str) -> Option<String> {
    let mut keys = BTreeSet::new();
    let again = lines(text).into_iter().find(|line| !keys.insert(line[0]));
    again.map(|line| format!("{line:?}: the key is in two shards")).or_else(|| twice(text))
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

/// Whether the table has fewer rows than every copy had told of.
fn fewer(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let (seen, least) = (lines(text)[0][1], floor.values().sum::<u64>());
    (seen < least).then(|| format!("{seen} rows, every copy held {least} before"))
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

/// The same of [`KEYS`] of them.
fn keys(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let seen: u64 = lines(text).iter().map(|line| line[1]).sum();
    (all_held(floor) && seen != KEYS).then(|| format!("{seen} of {KEYS} rows that every copy held"))
}

/// The same of a single row.
fn one(text: &str, floor: &BTreeMap<u64, u64>) -> Option<String> {
    let seen = lines(text).len();
    (all_held(floor) && seen != 1).then(|| format!("{seen} rows where every copy held one"))
}
