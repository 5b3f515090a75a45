//! A lane over librdkafka: one thread that fetches, and the caller's side of its [`Mailbox`].
//!
//! The thread starts, stops, holds and releases partitions in the order they were asked for, so that what a batch
//! brings always belongs to the assignments it knows; the mailbox drops what the caller has given up meanwhile.

use super::absence::{Absence, Answer};
use super::budget::Budget;
use super::chunk::chunk;
use super::ends::{Ends, Tell};
use super::mailbox::{Command, Mailbox};
use super::options::Options;
use super::raw::{Item, RawConsumer, Topic, unknown};
use super::{Error, Fetched, Lane};
use crate::model::names::TopicPartition;
use async_trait::async_trait;
use rdkafka::types::RDKafkaErrorCode as Code;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Messages taken from librdkafka at once, and so the most that a chunk holds.
const BATCH_MAX: usize = 8_192;
/// Payload bytes of a chunk above which it is closed.
const CHUNK_MAX_BYTES: usize = 1 << 20;
/// How long the thread waits for messages before it looks round.
pub(super) const WAIT: Duration = Duration::from_millis(200);
/// How often ends are told, and open questions asked again.
const ROUND: Duration = Duration::from_secs(1);
/// The same trouble is told again after this.
const TROUBLE_AGAIN: Duration = Duration::from_secs(10);
/// How long the thread may wait for watermarks.
const ASK_WAIT: Duration = Duration::from_secs(3);
/// The same while brokers may be down: other partitions wait behind it.
const ABSENT_WAIT: Duration = Duration::from_secs(1);
/// How long it may ask, in a round, how far one can read.
const ASK_TURN: Duration = Duration::from_millis(100);
/// How long it may ask one partition after the other.
const ABSENT_TURN: Duration = Duration::from_millis(200);

/// How a lane's consumer is set up: for throughput, within bounded memory.
pub(super) fn config(options: &Options, name: &str) -> Result<rdkafka::ClientConfig, Error> {
    let mut config = options.config(name)?;
    let defaults = [
        ("fetch.min.bytes", "1"),
        ("fetch.wait.max.ms", "100"),
        ("fetch.error.backoff.ms", "200"),
        ("fetch.queue.backoff.ms", "50"),
        // librdkafka's own queue is not in our budget; a message there costs some hundreds of bytes beside its payload.
        ("fetch.message.max.bytes", "1048576"),
        ("fetch.max.bytes", "8388608"),
        ("queued.min.messages", "30000"),
        ("queued.max.messages.kbytes", "8192"),
        ("topic.metadata.propagation.max.ms", "5000"),
        ("topic.metadata.refresh.interval.ms", "30000"),
        ("check.crcs", "true"),
    ];
    for (setting, value) in
        defaults.into_iter().filter(|(setting, _)| !options.settings.contains_key(*setting))
    {
        config.set(setting, value);
    }
    config.set("enable.partition.eof", "true");
    config.set("enable.auto.commit", "false");
    config.set("enable.auto.offset.store", "false");
    config.set("auto.offset.reset", "error");
    config.set("isolation.level", "read_committed");
    Ok(config)
}

struct Shared {
    mailbox: Mutex<Mailbox>,
    /// Tells the caller that something arrived.
    arrived: Notify,
    /// Tells the thread that the mailbox has room, or that there is a command.
    called: Condvar,
    closed: AtomicBool,
    raw: RawConsumer,
    budget: Arc<Budget>,
}

impl Shared {
    fn mailbox(&self) -> MutexGuard<'_, Mailbox> {
        self.mailbox.lock().expect("no panic while held")
    }
}

/// The caller's side. Dropping it ends the thread.
pub(super) struct KafkaLane {
    shared: Arc<Shared>,
}

impl KafkaLane {
    /// Starts the lane's thread; no broker is asked before the first assignment.
    pub(super) fn start(options: &Options, name: &str, budget: &Arc<Budget>) -> Result<Self, Error> {
        let config = config(options, name)?;
        let shared = Arc::new(Shared {
            mailbox: Mutex::default(),
            arrived: Notify::new(),
            called: Condvar::new(),
            closed: AtomicBool::new(false),
            raw: RawConsumer::new(&config)?,
            budget: Arc::clone(budget),
        });
        let thread = Thread::new(Arc::clone(&shared));
        std::thread::Builder::new()
            .name(format!("lane-{name}"))
            .spawn(move || thread.run())
            .map_err(|failure| Error::Invalid(format!("no thread for lane {name}: {failure}")))?;
        Ok(Self { shared })
    }

    fn change<T>(&self, change: impl FnOnce(&mut Mailbox) -> T) -> T {
        let result = change(&mut self.shared.mailbox());
        self.shared.called.notify_one();
        self.shared.raw.wake();
        result
    }
}

impl Drop for KafkaLane {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.change(|_| ());
    }
}

#[async_trait]
impl Lane for KafkaLane {
    fn assign(&self, source: &TopicPartition, from: i64) {
        self.change(|mailbox| mailbox.assign(source, from));
    }

    fn unassign(&self, source: &TopicPartition) {
        self.change(|mailbox| mailbox.unassign(source));
    }

    fn pause(&self, source: &TopicPartition) {
        self.shared.mailbox().pause(source);
    }

    fn resume(&self, source: &TopicPartition) {
        if self.change(|mailbox| mailbox.resume(source)) {
            self.shared.arrived.notify_one();
        }
    }

    async fn next(&self) -> Fetched {
        loop {
            let was_full = {
                let mut mailbox = self.shared.mailbox();
                let was_full = mailbox.full();
                if let Some(fetched) = mailbox.next() {
                    if was_full && !mailbox.full() {
                        self.shared.called.notify_one();
                    }
                    return fetched;
                }
                was_full
            };
            debug_assert!(!was_full, "a full mailbox has something to yield");
            // One waiter at a time, and `notify_one` before this line leaves its permit: no wake-up is lost.
            self.shared.arrived.notified().await;
        }
    }
}

/// A partition that librdkafka reads for us.
struct Reading {
    source: TopicPartition,
    assignment: u64,
    topic: Topic,
    /// One past the last message taken.
    next: i64,
    ends: Ends,
    /// Said to be out of range there; the watermarks are still to be asked.
    doubtful: bool,
}

/// A partition's key and number, as librdkafka tells them.
type Place = (usize, i32);

struct Thread {
    shared: Arc<Shared>,
    reading: BTreeMap<Place, Reading>,
    places: BTreeMap<TopicPartition, Place>,
    told: Option<(String, Instant)>,
    round: Instant,
    absence: Absence<Place>,
}

impl Thread {
    fn new(shared: Arc<Shared>) -> Self {
        let (reading, places) = (BTreeMap::new(), BTreeMap::new());
        Self { shared, reading, places, told: None, round: Instant::now(), absence: Absence::default() }
    }

    fn run(mut self) {
        let mut batch = Vec::new();
        while !self.shared.closed.load(Ordering::Acquire) {
            let commands = self.shared.mailbox().take_commands();
            commands.into_iter().for_each(|command| self.obey(command));
            if self.wait_for_room() {
                self.shared.raw.take(BATCH_MAX, WAIT, &mut batch);
                // Before the batch is looked at: it may already hold messages of a topic's successor.
                self.listen();
                self.sort(&mut batch);
            } else {
                self.shared.raw.serve();
                self.listen();
            }
            let hold = self.shared.mailbox().hold_parked();
            hold.iter().for_each(|source| self.shared.raw.hold(source));
            if self.round.elapsed() >= ROUND {
                self.round = Instant::now();
                self.tell_ends();
                self.ask_absent();
            }
        }
        for (_, (key, partition)) in std::mem::take(&mut self.places) {
            self.stop((key, partition));
        }
    }

    /// Waits a little while the mailbox is full or the budget spent; whether there is room.
    fn wait_for_room(&self) -> bool {
        let room = |mailbox: &Mailbox| !mailbox.full() && !self.shared.budget.spent();
        let mailbox = self.shared.mailbox();
        if room(&mailbox) {
            return true;
        }
        // Nobody tells when buffers are let go.
        let woken = self.shared.called.wait_timeout(mailbox, Duration::from_millis(5));
        room(&woken.expect("no panic while held").0)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Start(source, from, assignment) => {
                self.stop_source(&source);
                match self.shared.raw.start(&source, from) {
                    Ok(topic) => {
                        let place = (topic.key(), source.partition);
                        self.places.insert(source.clone(), place);
                        let ends = Ends::default();
                        let reading =
                            Reading { source, assignment, topic, next: from, ends, doubtful: false };
                        self.reading.insert(place, reading);
                    }
                    Err(failure) => {
                        self.trouble(format!("{source} cannot be read: {failure}"));
                        let missing = Fetched::TopicMissing(source.clone());
                        self.wake_if(self.shared.mailbox().last(&source, assignment, missing));
                    }
                }
            }
            Command::Stop(source) => self.stop_source(&source),
            Command::Release(source) => {
                // It may have been paused and held again since the command was given.
                if !self.shared.mailbox().held(&source) {
                    self.release(&source);
                }
            }
        }
    }

    /// Lets a partition that was held go on where its last message was taken.
    fn release(&mut self, source: &TopicPartition) {
        let Some(reading) = self.places.get(source).and_then(|place| self.reading.get(place)) else { return };
        let (next, assignment) = (reading.next, reading.assignment);
        if self.shared.raw.release(source, next).is_err() {
            self.obey(Command::Start(source.clone(), next, assignment));
        }
    }

    fn stop_source(&mut self, source: &TopicPartition) {
        if let Some(place) = self.places.remove(source) {
            self.stop(place);
        }
    }

    fn stop(&mut self, place: Place) {
        if let Some(reading) = self.reading.remove(&place) {
            self.shared.raw.stop(&reading.topic, &reading.source);
        }
    }

    fn wake_if(&self, something: bool) {
        if something {
            self.shared.arrived.notify_one();
        }
    }

    /// Cuts a batch into runs of one partition.
    fn sort(&mut self, batch: &mut Vec<Item>) {
        let mut rest = &batch[..];
        while let Some(first) = rest.first() {
            let place = first.place();
            if let Some(code) = first.event() {
                self.event(place, code, first.offset(), &first.reason());
                rest = &rest[1..];
                continue;
            }
            let mut bytes = 0;
            let run = rest.iter().take_while(|item| {
                let more = bytes < CHUNK_MAX_BYTES && item.place() == place && item.event().is_none();
                bytes += item.len();
                more
            });
            let (run, later) = rest.split_at(run.count());
            rest = later;
            self.deliver(place, run);
        }
        batch.clear();
    }

    /// Hands on what has not been handed on before, wherever librdkafka may think that it is.
    fn deliver(&mut self, place: Place, mut run: &[Item]) {
        let Some(reading) = self.reading.get_mut(&place) else { return };
        let mut something = false;
        while let Some(at) = run.iter().position(|item| item.offset() >= reading.next) {
            let fresh = run[at..].iter().take_while(|item| {
                let fresh = item.offset() >= reading.next;
                if fresh {
                    reading.next = item.offset() + 1;
                }
                fresh
            });
            let (now, later) = run[at..].split_at(fresh.count());
            let chunk = chunk(reading.source.clone(), now, &self.shared.budget);
            something |= self.shared.mailbox().deliver(reading.assignment, chunk);
            self.absence.heard(&place);
            run = later;
        }
        self.wake_if(something);
    }

    fn event(&mut self, place: Place, code: Code, offset: i64, reason: &str) {
        let Some(reading) = self.reading.get_mut(&place) else { return };
        match code {
            Code::PartitionEOF => {
                let hole = offset > reading.next;
                reading.next = reading.next.max(offset);
                reading.ends.reach(offset);
                let mut mailbox = self.shared.mailbox();
                let mut something = mailbox.end(&reading.source, reading.assignment, offset);
                if hole {
                    something |= mailbox.passed(&reading.source, reading.assignment, offset);
                }
                drop(mailbox);
                self.wake_if(something);
            }
            Code::AutoOffsetReset | Code::OffsetOutOfRange => {
                reading.doubtful = true;
                self.ask_range(place);
            }
            code if unknown(code) => self.missing(place),
            _ => {
                let text = format!("{}: {code}: {reason}", reading.source);
                self.trouble(text);
            }
        }
    }

    fn missing(&mut self, place: Place) {
        if let Some(reading) = self.reading.get(&place) {
            let (source, assignment) = (reading.source.clone(), reading.assignment);
            let last = Fetched::TopicMissing(source.clone());
            let something = self.shared.mailbox().last(&source, assignment, last);
            self.wake_if(something);
            self.stop_source(&source);
        }
    }

    /// Finds out what the topic has instead; asked again each round until there is an answer. Nothing is reported that
    /// is not so: an offset that is there after all is read on from.
    fn ask_range(&mut self, place: Place) {
        let Some(reading) = self.reading.get(&place) else { return };
        let (source, assignment, wanted) = (reading.source.clone(), reading.assignment, reading.next);
        match self.shared.raw.ask_watermarks(&source, ASK_WAIT) {
            Ok((low, high)) if (low..=high).contains(&wanted) => {
                self.obey(Command::Start(source, wanted, assignment));
            }
            Ok((low, high)) => {
                let last = Fetched::OutOfRange { source: source.clone(), wanted, low, high };
                let something = self.shared.mailbox().last(&source, assignment, last);
                self.wake_if(something);
                self.stop_source(&source);
            }
            Err(Error::TopicMissing(_)) => self.missing(place),
            Err(failure) => self.trouble(format!("{source}: no answer about its offsets: {failure}")),
        }
    }

    /// Hands on what librdkafka said outside of any partition.
    fn listen(&mut self) {
        if let Some(text) = self.shared.raw.trouble() {
            self.absence.suspect(Instant::now());
            self.trouble(text);
        }
        for source in self.shared.raw.missing() {
            if let Some(place) = self.places.get(&source).copied() {
                self.missing(place);
            }
        }
        for topic in self.shared.raw.replaced() {
            let gone: Vec<_> = self
                .places
                .iter()
                .filter(|(source, _)| source.topic == topic)
                .map(|(_, place)| *place)
                .collect();
            gone.into_iter().for_each(|place| self.missing(place));
        }
    }

    fn trouble(&mut self, text: String) {
        let again = |(told, at): &(String, Instant)| *told == text && at.elapsed() < TROUBLE_AGAIN;
        if self.told.as_ref().is_some_and(again) {
            return;
        }
        self.told = Some((text.clone(), Instant::now()));
        self.shared.mailbox().trouble(text);
        self.shared.arrived.notify_one();
    }

    fn tell_ends(&mut self) {
        let doubtful: Vec<_> =
            self.reading.iter().filter(|(_, reading)| reading.doubtful).map(|(place, _)| *place).collect();
        doubtful.into_iter().for_each(|place| self.ask_range(place));
        let (mut something, began) = (false, Instant::now());
        for (place, reading) in &mut self.reading {
            if self.absence.is_away(place) {
                continue;
            }
            let Some(high) = self.shared.raw.known_end(&reading.source) else { continue };
            let end = match reading.ends.tell(reading.next, high) {
                Tell::End(end) => end,
                Tell::Ask if began.elapsed() >= ASK_TURN => high,
                Tell::Ask => match self.shared.raw.ask_watermarks(&reading.source, ASK_TURN) {
                    Ok((_, end)) => {
                        reading.ends.answered(high, end);
                        end
                    }
                    // Whoever does not answer is found out elsewhere.
                    Err(_) => high,
                },
            };
            something |= self.shared.mailbox().end(&reading.source, reading.assignment, end);
        }
        self.wake_if(something);
    }
}

impl Thread {
    /// Since librdkafka does not say which partitions a broker that is down concerns, nor when it is back, their
    /// ends are asked for, one after the other, until each has answered.
    fn ask_absent(&mut self) {
        let began = Instant::now();
        while let Some(place) = self.absence.next(Instant::now(), self.reading.keys()) {
            let Some(reading) = self.reading.get(&place) else { return };
            let (source, assignment) = (reading.source.clone(), reading.assignment);
            let told = match self.shared.raw.ask_watermarks(&source, ABSENT_WAIT) {
                Ok((_, high)) => match self.absence.answered(place) {
                    Answer::Back => self.shared.mailbox().end(&source, assignment, high),
                    Answer::AsBefore => false,
                },
                // Some broker answers. One that has just started may not know the topic yet: whether it is gone is
                // for librdkafka's own look at the topics to say.
                Err(Error::TopicMissing(_)) => {
                    self.absence.answered(place);
                    false
                }
                Err(failure) => {
                    let away = self.absence.silent(place, Instant::now(), self.reading.keys());
                    let told = away.into_iter().filter_map(|place| self.reading.get(&place)).map(|reading| {
                        self.shared.mailbox().away(&reading.source, reading.assignment, failure.to_string())
                    });
                    told.fold(false, |any, told| any | told)
                }
            };
            self.wake_if(told);
            if began.elapsed() >= ABSENT_TURN {
                return;
            }
        }
    }
}
