//! `converthouse table create`, and waiting for tables to come and go.

use super::table::details;
use super::{Context, Failure, quote_name};
use crate::adapters::peers::{Daemon, Error};
use crate::error::{Coded, Retry};
use crate::model::control::{CreateTable, TableStatus};
use crate::model::table::{BatchLimits, MessageFormat, TableState, TopicLayout};
use crate::model::{NodeId, TableName};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal, Read};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// How often a table's status is asked for while waiting, in milliseconds.
const POLL_MS: u64 = 250;
/// Questions that may fail in a row while waiting: a leader may be changing meanwhile.
const FAILURES_MAX: u32 = 40;

/// How partitions lie on Kafka, as typed.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layout {
    /// A topic of its own for each partition: <prefix>.<partition>
    TopicPerPartition,
    /// One topic with a Kafka partition for each
    OneTopic,
}

/// Options of `table create`.
#[derive(Debug, Args)]
pub(super) struct Create {
    /// The ClickHouse CREATE TABLE; `-` reads it from standard input
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    ddl: Option<String>,
    /// Read the CREATE TABLE from a file
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Hash buckets, fixed for ever; shards are ranges of them
    #[arg(long, short, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    partitions: u32,
    /// Shards to begin with
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    shards: u32,
    /// Replicas of each shard
    #[arg(long, short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    replicas: u32,
    /// Integer expression over the columns; a row's partition is its value modulo the number of partitions
    #[arg(long, value_name = "EXPR")]
    partition_by: String,
    /// How rows are written in messages: JSONEachRow, CSV or TSV
    #[arg(long, default_value = "JSONEachRow")]
    format: MessageFormat,
    /// Beginning of the topics' names [default: <db>.<table>]
    #[arg(long, value_name = "PREFIX")]
    topic_prefix: Option<String>,
    /// How partitions lie on Kafka
    #[arg(long, value_enum, default_value = "topic-per-partition")]
    topic_layout: Layout,
    /// Copies of a new topic on brokers; -1 is the brokers' default
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    topic_replication: i32,
    /// Insert at so many messages, which may have several rows each …
    #[arg(long, default_value_t = BatchLimits::default().rows_max, value_name = "ROWS")]
    #[arg(value_parser = clap::value_parser!(u32).range(batch_rows()))]
    batch_rows: u32,
    /// … or so many milliseconds after the first message
    #[arg(long, default_value_t = BatchLimits::default().age_max_ms, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(BatchLimits::AGE_MS))]
    batch_age_ms: u64,
    /// A ClickHouse setting for parsing messages (`input_format_…`, `format_…`)
    ///
    /// Such as input_format_skip_unknown_fields=1; none that has the server leave rows out.
    #[arg(long = "setting", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, String)>,
    /// Node that the first shards' first replicas go to
    #[arg(long, value_name = "NODE")]
    first_node: Option<NodeId>,
    /// No error if the same table is there already
    #[arg(long)]
    if_not_exists: bool,
    /// Check everything, change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until the table is usable
    #[arg(long)]
    no_wait: bool,
    /// Wait until every replica is ready, rather than one of each shard
    #[arg(long, conflicts_with = "no_wait")]
    wait_complete: bool,
}

/// What may be said of them, as clap takes it.
fn batch_rows() -> RangeInclusive<i64> {
    let rows = BatchLimits::ROWS;
    i64::from(*rows.start())..=i64::from(*rows.end())
}

fn setting(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} should be NAME=VALUE"))?;
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Err(format!("{name:?} is no setting's name"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

impl Create {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let ddl = self.ddl()?;
        if ddl.trim().is_empty() {
            let remedy = "give it as an argument, by --file, or by - on standard input";
            return Err(Failure::usage("the CREATE TABLE is empty", remedy));
        }
        if self.shards > self.partitions {
            let what = format!("{} shards of {} partitions", self.shards, self.partitions);
            return Err(Failure::usage(what, "give each shard a partition at least: more --partitions"));
        }
        let (dry_run, wait, complete) = (self.dry_run, !self.no_wait && !self.dry_run, self.wait_complete);
        let request = self.request(ddl);
        let daemon = context.daemon()?;
        let table = context.block_on(async {
            let created = daemon.create_table(request).await?;
            if !wait {
                return Ok(created);
            }
            wait_until_ready(context, daemon.as_ref(), created, complete).await
        })?;
        context.print(&table, || {
            let head = match (dry_run, table.complete, table.usable) {
                (true, ..) => "would be created; nothing was changed\n\n",
                (_, true, _) => "",
                (_, _, true) => "usable; further replicas follow by themselves\n\n",
                _ => "being created\n\n",
            };
            format!("{head}{}", details(&table, context.colour()))
        })
    }

    fn ddl(&self) -> Result<String, Failure> {
        match (&self.ddl, &self.file) {
            (Some(dash), _) if dash == "-" => {
                let mut text = String::new();
                let read = std::io::stdin().lock().read_to_string(&mut text);
                read.map_err(|e| {
                    Failure::usage(format!("standard input: {e}"), "send the CREATE TABLE as text")
                })?;
                Ok(text)
            }
            (Some(ddl), _) => Ok(ddl.clone()),
            (None, Some(file)) => super::read_file(file),
            (None, None) => Ok(String::new()),
        }
    }

    fn request(self, ddl: String) -> CreateTable {
        CreateTable {
            ddl,
            partitions: self.partitions,
            shards: self.shards,
            replicas: self.replicas,
            partition_by: self.partition_by,
            topic_prefix: self.topic_prefix,
            layout: match self.topic_layout {
                Layout::TopicPerPartition => TopicLayout::TopicPerPartition,
                Layout::OneTopic => TopicLayout::OneTopic,
            },
            topic_replication: self.topic_replication,
            format: self.format,
            format_settings: self.settings.into_iter().collect(),
            batch: BatchLimits {
                rows_max: self.batch_rows,
                age_max_ms: self.batch_age_ms,
                ..BatchLimits::default()
            },
            first_node: self.first_node,
            dry_run: self.dry_run,
            if_not_exists: self.if_not_exists,
        }
    }
}

/// A line that shows what is waited for, on a terminal only.
fn spinner(context: &Context) -> ProgressBar {
    if context.json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    bar.set_style(
        ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}").expect("the template is good"),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

/// Asks for the table until `ready` is content with the answer, or the time is over.
async fn poll(
    context: &Context,
    daemon: &dyn Daemon,
    name: &TableName,
    mut ready: impl FnMut(Result<TableStatus, Error>) -> Result<Option<TableStatus>, Progress>,
) -> Result<Option<TableStatus>, Failure> {
    let bar = spinner(context);
    let mut last = String::from("an answer");
    let limit_ms = context.change_timeout_ms();
    let asking = async {
        let mut failures = 0;
        loop {
            match ready(daemon.table_status(name.clone()).await) {
                Ok(done) => return Ok(done),
                Err(Progress::Waiting(what)) => (failures, last) = (0, what),
                Err(Progress::Failed(error)) => {
                    failures += 1;
                    if failures > FAILURES_MAX || error.retry() == Retry::Never {
                        return Err(Failure::from(error));
                    }
                    last = error.to_string();
                }
            }
            bar.set_message(format!("{}: waiting for {last}", quote_name(name)));
            tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
        }
    };
    let asked = tokio::time::timeout(Duration::from_millis(limit_ms), asking).await;
    bar.finish_and_clear();
    asked.unwrap_or_else(|_| {
        let what = format!("{}: still waiting for {last} after {} s", quote_name(name), limit_ms / 1000);
        let remedy = "it goes on by itself; see `converthouse table show`, or give a longer --timeout";
        Err(Failure::unavailable(what, remedy))
    })
}

enum Progress {
    Waiting(String),
    Failed(Error),
}

async fn wait_until_ready(
    context: &Context,
    daemon: &dyn Daemon,
    created: TableStatus,
    complete: bool,
) -> Result<TableStatus, Failure> {
    let name = TableName { database: created.database.clone(), table: created.table.clone() };
    let done = poll(context, daemon, &name, |answer| match answer {
        Ok(table) if table.complete || (table.usable && !complete) => Ok(Some(table)),
        Ok(table) => Err(Progress::Waiting(
            table.waiting_for.first().cloned().unwrap_or_else(|| "its shards".to_owned()),
        )),
        Err(error) => Err(Progress::Failed(error)),
    });
    Ok(done.await?.unwrap_or(created))
}

/// Waits until no live node has anything of the table; returns it while nodes that are down still do.
pub(super) async fn wait_until_gone(
    context: &Context,
    daemon: &dyn Daemon,
    name: &TableName,
) -> Result<Option<TableStatus>, Failure> {
    poll(context, daemon, name, |answer| match answer {
        Err(Error::NotFound(_)) => Ok(None),
        // Made again meanwhile.
        Ok(table) if table.state != TableState::Dropping => Ok(None),
        Ok(table) if table.complete => Ok(Some(table)),
        Ok(table) => Err(Progress::Waiting(
            table.waiting_for.first().cloned().unwrap_or_else(|| "the nodes to remove it".to_owned()),
        )),
        Err(error) => Err(Progress::Failed(error)),
    })
    .await
}
