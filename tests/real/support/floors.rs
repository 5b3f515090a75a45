//! What every answer must show at least: the rows that each copy which could be asked held before the query began.
//!
//! Copies are looked at all the time, beside the queries: which ones the routes of each server name, and how many rows
//! each holds of each partition (parts are rows that are there, and a copy only grows). An answer is judged once a
//! look after it is there too, since routes may have changed while it was computed. No tolerance: a row less is lost.

use super::cluster::PARTITIONS;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// A server that does not answer by then is taken for what it said before.
const PATIENCE: Duration = Duration::from_secs(2);

/// A server's native port, as routes name it, and a replica's database there.
type Copy = (u16, String);
type Rows = BTreeMap<u64, u64>;

/// A server to be looked at.
#[derive(Clone)]
pub struct Watched {
    pub node: String,
    pub client: clickhouse::Client,
    /// As routes name it.
    pub port: u16,
    pub cluster: String,
    /// The settings that it has.
    pub knows: Arc<BTreeSet<String>>,
}

#[derive(Clone)]
struct Look {
    began: Instant,
    ended: Instant,
    routes: BTreeMap<String, BTreeSet<Copy>>,
    held: BTreeMap<Copy, Rows>,
}

/// What an answer lacks, given rows by partition that it must show at least.
pub type Least = fn(&str, &Rows) -> Option<String>;

/// An answer to be judged.
pub struct Seen {
    pub node: String,
    pub began: Instant,
    pub ended: Instant,
    pub sql: String,
    pub text: String,
    pub least: Least,
}

/// What was found.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// Answers that were compared with what the copies held, in all partitions.
    pub judged: u64,
    /// Answers to which nothing is known: routes or copies were not seen before.
    pub unjudged: u64,
    pub missing: Vec<String>,
}

#[derive(Default)]
struct State {
    looks: VecDeque<Look>,
    waiting: Vec<Seen>,
    found: Found,
}

/// See the module. Clones share it.
#[derive(Clone, Default)]
pub struct Floors(Arc<Mutex<State>>);

impl Floors {
    /// An answer that came.
    pub fn judge(&self, seen: Seen) {
        self.0.lock().unwrap().waiting.push(seen);
    }

    /// Everything that was found.
    pub fn found(&self) -> Found {
        self.0.lock().unwrap().found.clone()
    }

    /// Looks again and again; ends when told to, after all answers were judged.
    pub async fn watch(self, servers: Arc<Mutex<Vec<Watched>>>, stop: impl Fn() -> bool) {
        loop {
            let last = stop();
            let now = servers.lock().unwrap().clone();
            let before = self.0.lock().unwrap().looks.back().cloned();
            let look = look(&now, before).await;
            self.0.lock().unwrap().take(look);
            if last && self.0.lock().unwrap().waiting.is_empty() {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

impl State {
    fn take(&mut self, look: Look) {
        self.looks.push_back(look);
        let newest = self.looks.back().unwrap().began;
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|seen| seen.ended <= newest);
        self.waiting = waiting;
        let ready: Vec<Seen> = ready;
        for seen in ready {
            let Some(floor) = self.floor(&seen) else {
                self.found.unjudged += 1;
                continue;
            };
            self.found.judged += 1;
            let lacks = (seen.least)(&seen.text, &floor);
            let said = |why| format!("{}: {}: {why}:\n{}", seen.node, seen.sql, seen.text);
            self.found.missing.extend(lacks.map(said));
        }
        // Queries that run are not known here; the longest take some seconds.
        while self.looks.len() > 200 {
            self.looks.pop_front();
        }
    }

    /// By partition, the least that any copy held before the query, of those that it may have asked.
    fn floor(&self, seen: &Seen) -> Option<Rows> {
        let first = self.looks.iter().rposition(|look| look.ended <= seen.began)?;
        let last = self.looks.iter().position(|look| look.began >= seen.ended)?;
        let during = self.looks.range(first..=last);
        let routes = during.clone().filter_map(|look| look.routes.get(&seen.node));
        let copies: BTreeSet<&Copy> = routes.flatten().collect();
        let before = &self.looks[first].held;
        let mut floor = Rows::new();
        for copy in copies {
            let later = during.clone().filter_map(|look| look.held.get(copy));
            let partitions: BTreeSet<u64> = later.flat_map(|rows| rows.keys().copied()).collect();
            for partition in partitions {
                // A copy that was not seen before may have held anything.
                let held = before.get(copy)?.get(&partition).copied().unwrap_or(0);
                let least = floor.entry(partition).or_insert(held);
                *least = held.min(*least);
            }
        }
        Some(floor).filter(|floor| floor.len() as u64 == PARTITIONS)
    }
}

async fn look(servers: &[Watched], before: Option<Look>) -> Look {
    let began = Instant::now();
    let answers = servers.iter().map(|server| async move {
        let routes = format!(
            "SELECT port, default_database FROM system.clusters WHERE cluster = '{}'",
            server.cluster
        );
        let parts = "SELECT database, partition, sum(rows) FROM system.parts WHERE active AND table = 'local' \
                     GROUP BY database, partition";
        (server, ask(&server.client, &routes).await, ask(&server.client, parts).await)
    });
    let answers = futures::future::join_all(answers).await;
    let (routes, held) = before.map(|look| (look.routes, look.held)).unwrap_or_default();
    let mut look = Look { began, ended: began, routes, held };
    for (server, routes, parts) in answers {
        if let Some(routes) = routes {
            let copy = |line: Vec<String>| (line[0].parse().unwrap(), line[1].clone());
            look.routes.insert(server.node.clone(), routes.into_iter().map(copy).collect());
        }
        let Some(parts) = parts else { continue };
        look.held.retain(|(port, _), _| *port != server.port);
        for line in parts {
            let number = |word: &str| word.trim_matches(['(', ')']).split(',').next()?.trim().parse().ok();
            let Some(partition) = number(&line[1]) else { continue };
            let rows: u64 = line[2].parse().unwrap();
            *look.held.entry((server.port, line[0].clone())).or_default().entry(partition).or_default() +=
                rows;
        }
    }
    look.ended = Instant::now();
    look
}

/// `None` if the server does not answer.
async fn ask(client: &clickhouse::Client, sql: &str) -> Option<Vec<Vec<String>>> {
    let answer = async { client.query_raw(sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
    let bytes = tokio::time::timeout(PATIENCE, answer).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Some(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two copies of every partition, of which the second lags; a third comes later.
    fn state(asked: [&[u16]; 2]) -> (State, Seen) {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let copy = |port: &u16| (*port, "db".to_owned());
        let rows = |count| (0..PARTITIONS).map(|partition| (partition, count)).collect::<Rows>();
        let look = |ms, ports: &[u16], held: &[(u16, u64)]| Look {
            began: at(ms),
            ended: at(ms + 1),
            routes: BTreeMap::from([("n1".to_owned(), ports.iter().map(copy).collect())]),
            held: held.iter().map(|(port, count)| (copy(port), rows(*count))).collect(),
        };
        let mut state = State::default();
        state.take(look(0, asked[0], &[(1, 10), (2, 7)]));
        state.waiting.push(Seen {
            node: "n1".into(),
            began: at(5),
            ended: at(9),
            sql: String::new(),
            text: String::new(),
            least: |_, floor| Some(format!("{:?}", floor[&0])),
        });
        state.take(look(8, asked[0], &[(1, 12), (2, 8)]));
        assert_eq!(state.waiting.len(), 1, "that look began while the query ran");
        let seen = state.waiting.pop().unwrap();
        state.take(look(20, asked[1], &[(1, 20), (2, 9), (3, 1)]));
        (state, seen)
    }

    #[test]
    fn the_copy_that_held_least_before_the_query_is_the_floor() {
        let floor = |asked| {
            let (state, seen) = state(asked);
            state.floor(&seen).map(|floor| floor[&0])
        };
        assert_eq!(floor([&[1], &[1]]), Some(10));
        assert_eq!(floor([&[1], &[2]]), Some(7), "routes changed meanwhile: either may have been asked");
        assert_eq!(floor([&[1], &[3]]), None, "what the third held before is not known");
        assert_eq!(floor([&[], &[]]), None);
    }
}
