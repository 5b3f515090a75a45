//! One batch on its way into the table: encoded, sent, and what the server cannot read found out.
//!
//! Effects only; what follows from the result is `work`'s and `state`'s to say. Sends nothing to the dead-letter topic.

use super::buffer::Batch;
use super::encode::{self, encode};
use super::work::Job;
use crate::adapters::clickhouse::{self, Insert};
use crate::error::Coded;
use crate::model::PartitionId;
use crate::model::table::{MessageFormat, Schema};
use bytes::Bytes;
use futures::future::BoxFuture;
use std::collections::BTreeSet;

/// Room for the hidden columns of a row.
const HIDDEN_BYTES: usize = 72;
/// Of the messages that the server left out of one batch, so many are sent again alone, for their own errors.
const OWN_ERRORS_MAX: usize = 16;

/// A message that cannot become rows.
pub(super) struct DeadLetter {
    pub(super) offset: i64,
    pub(super) payload: Bytes,
    pub(super) error: String,
}

/// A message of a batch.
#[derive(Clone, Copy)]
pub(super) struct Item<'a> {
    offset: i64,
    payload: &'a [u8],
}

impl Item<'_> {
    fn dead(&self, error: String) -> DeadLetter {
        DeadLetter { offset: self.offset, payload: Bytes::copy_from_slice(self.payload), error }
    }
}

/// What is in the table so far.
#[derive(Clone, Copy, Default)]
pub(super) struct Written {
    /// Rows.
    pub(super) rows: u64,
    /// Highest offset with rows.
    pub(super) last_row: Option<i64>,
    /// Whether any insert succeeded, counted or not.
    pub(super) landed: bool,
}

/// A batch's messages, in order.
pub(super) fn messages_of(batch: &Batch) -> Vec<Item<'_>> {
    let chunks = batch.chunks.iter();
    let items = chunks.flat_map(|chunk| chunk.messages.iter().map(move |message| (chunk, message)));
    items
        .map(|(chunk, message)| Item { offset: message.offset, payload: chunk.payload_of(message) })
        .collect()
}

/// What sending them takes: their rows, and those once more in their frame.
pub(super) fn memory_for(messages: &[Item<'_>]) -> usize {
    2 * rows_bytes(messages)
}

fn rows_bytes(messages: &[Item<'_>]) -> usize {
    messages.iter().map(|item| item.payload.len() + HIDDEN_BYTES).sum()
}

/// First and last offset.
fn ends(messages: &[Item<'_>]) -> (i64, i64) {
    (messages[0].offset, messages[messages.len() - 1].offset)
}

/// Whether an insert of one block may fail at a row when a part of it is in: there is a part for each of the table's
/// own partitions, and sorting key and expiry are computed part by part, as each is written.
fn parts_may_fail(schema: &Schema) -> bool {
    let plain = |char: char| char.is_alphanumeric() || matches!(char, '_' | '`' | ',' | ' ');
    let computes = !schema.ttl.is_empty() || !schema.sorting_key.chars().all(plain);
    !schema.partition_key.is_empty() && computes
}

/// See the module.
pub(super) struct Writer<'a> {
    job: &'a Job,
    partition: PartitionId,
    attempt: u32,
    gate: u64,
    held: BTreeSet<(i64, u32)>,
    sent: u32,
    written: Written,
    /// Whether the server has taken an insert without rows.
    vouched: bool,
}

struct Encoded {
    body: Bytes,
    rows: u32,
    last_row: Option<i64>,
    /// Offsets of messages without rows.
    empty: BTreeSet<i64>,
    dead_before: usize,
}

impl<'a> Writer<'a> {
    /// Nothing is written yet; rows in `held` will be left out.
    pub(super) fn new(
        job: &'a Job,
        partition: PartitionId,
        attempt: u32,
        gate: u64,
        held: BTreeSet<(i64, u32)>,
    ) -> Self {
        Self { job, partition, attempt, gate, held, sent: 0, written: Written::default(), vouched: false }
    }

    pub(super) fn written(&self) -> Written {
        self.written
    }

    /// Inserts the messages. What the server cannot read is added to `dead`, the rest goes in.
    pub(super) fn write<'b>(
        &'b mut self,
        messages: &'b [Item<'b>],
        dead: &'b mut Vec<DeadLetter>,
    ) -> BoxFuture<'b, Result<(), clickhouse::Error>> {
        Box::pin(async move {
            let encoded = self.encode(messages, dead).await;
            if encoded.rows == 0 {
                return Ok(());
            }
            let last = encoded.last_row;
            match self.send(encoded.body, encoded.rows, false).await {
                Ok(()) => {
                    self.count(u64::from(encoded.rows));
                    self.written.last_row = self.written.last_row.max(last);
                    Ok(())
                }
                Err(clickhouse::Error::BadRows { code, message }) => {
                    self.find_written(messages, encoded.rows).await?;
                    self.vouch().await?;
                    let error = format!("ClickHouse error {code}: {message}");
                    if let [single] = messages {
                        dead.push(single.dead(error));
                        return Ok(());
                    }
                    dead.truncate(encoded.dead_before);
                    if self.rows_stand_alone(messages) && self.write_readable(messages, &error, dead).await? {
                        return Ok(());
                    }
                    // Halves them until the bad one stands alone.
                    let (left, right) = messages.split_at(messages.len() / 2);
                    self.write(left, dead).await?;
                    self.write(right, dead).await
                }
                Err(error) => Err(error),
            }
        })
    }

    /// After an insert that was refused for a bad row: which rows of it are in all the same. They are left out from now
    /// on. It was answered, so what is not there now does not come later.
    async fn find_written(&mut self, messages: &[Item<'_>], rows: u32) -> Result<(), clickhouse::Error> {
        if rows < 2 || !parts_may_fail(&self.job.table.schema) {
            return Ok(());
        }
        // Some may be in, until the look says that none is.
        let landed = std::mem::replace(&mut self.written.landed, true);
        let mut new = self.rows_there(messages).await?;
        new.retain(|row| !self.held.contains(row));
        self.written.landed = landed || !new.is_empty();
        self.count(new.len() as u64);
        self.written.last_row = self.written.last_row.max(new.last().map(|(offset, _)| *offset));
        self.held.extend(new);
        Ok(())
    }

    /// Rows of these messages that the table holds.
    async fn rows_there(&self, messages: &[Item<'_>]) -> Result<Vec<(i64, u32)>, clickhouse::Error> {
        let (first, last) = ends(messages);
        let server = &self.job.ports.clickhouse;
        let holdings = server.holdings(&self.job.database, self.partition, first).await?;
        Ok(holdings.rows.into_iter().filter(|(offset, _)| *offset <= last).collect())
    }

    /// Before anything is put aside: whether the server takes inserts at all. It may refuse all of them, for its own
    /// settings or the table's, in words that it has for bad rows too.
    async fn vouch(&mut self) -> Result<(), clickhouse::Error> {
        if self.vouched || self.written.landed {
            return Ok(());
        }
        match self.send(Bytes::new(), 0, false).await {
            Ok(()) => {
                self.vouched = true;
                Ok(())
            }
            Err(clickhouse::Error::BadRows { code, message }) => {
                Err(clickhouse::Error::Refused { code, message })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the server, told to leave out rows that it cannot read, leaves out whole messages and nothing else: it
    /// goes on at the next line, and where a message has rows of which one is bad none of them may go in. Rows that may
    /// expire at once cannot be told from rows that were left out.
    fn rows_stand_alone(&self, messages: &[Item<'_>]) -> bool {
        let (first, last) = ends(messages);
        self.job.table.source.format == MessageFormat::JSONEachRow
            && self.job.table.schema.ttl.is_empty()
            && self.held.range((first, 0)..=(last, u32::MAX)).next().is_none()
            && messages.iter().all(|item| memchr::memchr(b'\n', item.payload.trim_ascii()).is_none())
    }

    /// Inserts what the server can read, and looks which messages that was. `false` if it refuses all the same, or
    /// the messages are not of one row each.
    async fn write_readable(
        &mut self,
        messages: &[Item<'_>],
        error: &str,
        dead: &mut Vec<DeadLetter>,
    ) -> Result<bool, clickhouse::Error> {
        let encoded = self.encode(messages, dead).await;
        let unsent = dead[encoded.dead_before..].iter().map(|letter| letter.offset);
        let unsent: BTreeSet<i64> = unsent.chain(encoded.empty.iter().copied()).collect();
        let some = |item: &&Item<'_>| !unsent.contains(&item.offset);
        let sent: Vec<Item<'_>> = messages.iter().filter(some).copied().collect();
        // Each of them has one row at least.
        if sent.len() != encoded.rows as usize {
            dead.truncate(encoded.dead_before);
            return Ok(false);
        }
        let landed = self.written.landed;
        match self.send(encoded.body, encoded.rows, true).await {
            Ok(()) => {}
            Err(clickhouse::Error::BadRows { .. }) => {
                self.find_written(messages, encoded.rows).await?;
                dead.truncate(encoded.dead_before);
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        let there: BTreeSet<i64> =
            self.rows_there(messages).await?.into_iter().map(|(offset, _)| offset).collect();
        self.written.landed = landed || !there.is_empty();
        self.count(there.len() as u64);
        self.written.last_row = self.written.last_row.max(there.last().copied());
        let left_out: Vec<Item<'_>> = sent.into_iter().filter(|item| !there.contains(&item.offset)).collect();
        let (alone, others) = left_out.split_at(left_out.len().min(OWN_ERRORS_MAX));
        for item in alone {
            self.write(std::slice::from_ref(item), dead).await?;
        }
        let error =
            format!("ClickHouse left it out with {} others of its batch; the first: {error}", others.len());
        dead.extend(others.iter().map(|item| item.dead(error.clone())));
        Ok(true)
    }

    async fn encode(&self, messages: &[Item<'_>], dead: &mut Vec<DeadLetter>) -> Encoded {
        let dead_before = dead.len();
        let (mut rows, mut last_row, mut empty) = (0, None, BTreeSet::new());
        let mut body = Vec::with_capacity(rows_bytes(messages));
        let format = self.job.table.source.format;
        for (index, item) in messages.iter().enumerate() {
            // Other actors share this thread: let them in between, some milliseconds of work each.
            if index % 16_384 == 16_383 {
                tokio::task::yield_now().await;
            }
            let skip = |row: u32| !self.held.is_empty() && self.held.contains(&(item.offset, row));
            match encode(format, item.payload, self.partition, item.offset, &skip, &mut body) {
                Ok(0) => {
                    empty.insert(item.offset);
                }
                Ok(written) => {
                    rows += written;
                    last_row = Some(item.offset);
                }
                Err(reason) => dead.push(item.dead(reason.told())),
            }
        }
        Encoded { body: body.into(), rows, last_row, empty, dead_before }
    }

    async fn send(&mut self, body: Bytes, rows: u32, skip_bad_rows: bool) -> Result<(), clickhouse::Error> {
        let source = &self.job.table.source;
        let mut format_settings = source.format_settings.clone();
        for (key, value) in encode::required_settings(source.format) {
            format_settings.insert((*key).to_owned(), (*value).to_owned());
        }
        self.sent += 1;
        let query_id = format!(
            "cvh-{}-g{}-{}-{:x}-{}-{}",
            self.job.database, self.gate, self.partition, self.job.ports.incarnation, self.attempt, self.sent
        );
        let insert = Insert {
            database: self.job.database.clone(),
            gate: self.gate,
            columns: encode::columns(&self.job.table.schema),
            format: source.format,
            format_settings,
            rows,
            skip_bad_rows,
            body,
            query_id,
            deadline_ms: self.job.ports.insert_deadline_ms,
        };
        let metrics = &self.job.ports.metrics;
        let began = self.job.ports.clock.now_ms();
        let bytes = insert.body.len() as u64;
        let result = self.job.ports.clickhouse.insert(insert).await;
        let took_ms = self.job.ports.clock.now_ms() - began;
        #[expect(clippy::cast_precision_loss, reason = "durations are small")]
        metrics.insert_seconds.observe(took_ms as f64 / 1_000.0);
        if result.is_ok() {
            self.written.landed |= rows > 0;
            metrics.ingest_bytes(&self.job.table.name.to_string()).inc_by(bytes);
        }
        result
    }

    fn count(&mut self, rows: u64) {
        self.job.ports.metrics.ingest_rows(&self.job.table.name.to_string()).inc_by(rows);
        self.written.rows += rows;
    }
}
