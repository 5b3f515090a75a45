//! What goes on all the time while the cluster changes: rows come in, and queries are asked of every server and judged.

use super::steps::message;
use crate::adapters::clickhouse;
use crate::adapters::kafka::Kafka;
use crate::error::Coded as _;
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Rows sent at once, this often: 10 000 a second.
const ROWS: u64 = 500;
const EVERY: Duration = Duration::from_millis(50);
/// Between two queries.
const PAUSE: Duration = Duration::from_millis(20);

/// What came of it so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// Queries answered.
    pub answered: Cell<u64>,
    /// Answers that are not true.
    pub wrong: RefCell<Vec<String>>,
    /// Queries that failed, and why.
    pub failed: RefCell<Vec<String>>,
    /// Queries that were being answered when a server was killed, and broke off: nobody takes over in the middle.
    pub cut: Cell<u64>,
    /// Servers killed so far.
    pub kills: Cell<u64>,
    /// Rows sent.
    pub rows: Cell<u64>,
    /// Whom to ask, by HTTP address.
    pub servers: RefCell<BTreeSet<String>>,
    /// Why the producer ended, if it did.
    pub broken: RefCell<Option<String>>,
}

/// Runs until it is dropped or ended.
pub struct Traffic {
    /// What came of it so far.
    pub seen: Rc<Seen>,
    stop: Rc<Cell<bool>>,
    tasks: Vec<Task>,
}

/// Work beside the story; it ends when this is dropped.
pub struct Task(tokio::task::JoinHandle<()>);

impl Task {
    /// Begins it.
    pub fn start(work: impl Future<Output = ()> + 'static) -> Self {
        Self(tokio::task::spawn_local(work))
    }

    /// Ends it at once, and waits until it has.
    pub async fn ended(mut self) {
        self.0.abort();
        // That it was ended is what was wanted.
        let _ = (&mut self.0).await;
    }

    async fn done(mut self) {
        // A panic there shows in what was seen: too little.
        let _ = (&mut self.0).await;
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Traffic {
    /// Rows with ids from `base` on; queries of these servers. All rows below `base` are readable already.
    pub fn start(
        kafka: Arc<dyn Kafka>,
        prefix: &str,
        base: u64,
        servers: impl IntoIterator<Item = String>,
    ) -> Self {
        let seen = Rc::new(Seen::default());
        seen.rows.set(base);
        seen.servers.borrow_mut().extend(servers);
        let stop = Rc::new(Cell::new(false));
        let produce = Task::start(produce(kafka, prefix.to_owned(), seen.clone(), stop.clone()));
        let ask = Task::start(ask(base, seen.clone(), stop.clone()));
        Self { seen, stop, tasks: vec![produce, ask] }
    }

    /// Stops both and waits for them; returns how many rows there are.
    pub async fn end(self) -> u64 {
        self.stop.set(true);
        for task in self.tasks {
            task.done().await;
        }
        self.seen.rows.get()
    }
}

async fn produce(kafka: Arc<dyn Kafka>, prefix: String, seen: Rc<Seen>, stop: Rc<Cell<bool>>) {
    while !stop.get() {
        let next = seen.rows.get();
        if let Err(error) = kafka.produce((next..next + ROWS).map(|id| message(&prefix, id)).collect()).await
        {
            *seen.broken.borrow_mut() = Some(error.told());
            return;
        }
        seen.rows.set(next + ROWS);
        tokio::time::sleep(EVERY).await;
    }
}

async fn ask(base: u64, seen: Rc<Seen>, stop: Rc<Cell<bool>>) {
    let query = format!(
        "SELECT countIf(id < {base}), countIf(id >= {base}), uniqExactIf(id, id >= {base}) FROM shop.events"
    );
    let mut turn = 0;
    while !stop.get() {
        let server = {
            let servers = seen.servers.borrow();
            servers.iter().nth(turn % servers.len().max(1)).cloned()
        };
        turn += 1;
        let kills = seen.kills.get();
        if let Some(url) = server {
            let client = clickhouse::http::plain(&url);
            let answer = async { client.query(&query).fetch_bytes("TabSeparated")?.collect().await };
            match answer.await {
                Ok(bytes) => {
                    seen.answered.set(seen.answered.get() + 1);
                    let text = String::from_utf8_lossy(&bytes).trim_end().to_owned();
                    seen.wrong.borrow_mut().extend(judge(&text, base).map(|why| format!("{url}: {why}")));
                }
                Err(_) if seen.kills.get() > kills => seen.cut.set(seen.cut.get() + 1),
                Err(error) => seen.failed.borrow_mut().push(format!("{url}: {error}")),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What is wrong with an answer: rows that had been there before, new rows, distinct ones of them.
fn judge(text: &str, base: u64) -> Option<String> {
    let numbers: Vec<u64> = text.split('\t').filter_map(|word| word.parse().ok()).collect();
    let [old, rows, distinct] = numbers[..] else {
        return Some(format!("no answer to the question: {text:?}"));
    };
    if rows != distinct {
        return Some(format!("{} rows are counted twice", rows.abs_diff(distinct)));
    }
    match old.checked_sub(base) {
        Some(0) => None,
        Some(more) => Some(format!("{more} rows are counted twice")),
        None => Some(format!("{} rows are not counted", base - old)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_judged_by_what_it_counts() {
        assert_eq!(judge("10\t2\t2", 10), None);
        assert_eq!(judge("10\t3\t2", 10).unwrap(), "1 rows are counted twice");
        assert_eq!(judge("11\t2\t2", 10).unwrap(), "1 rows are counted twice");
        assert_eq!(judge("9\t2\t2", 10).unwrap(), "1 rows are not counted");
        assert!(judge("Code: 60", 10).unwrap().contains("no answer"));
    }
}
