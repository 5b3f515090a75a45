//! `converthouse table create|drop|list|show`.

use super::create::Create;
use super::output::{Align, Table, bytes, or_dash, printable, yes_no};
use super::{Context, Failure, hold, parse_name, quote_name, shard};
use crate::adapters::peers::known;
use crate::model::control::{DropTable, TableStatus};
use crate::model::{TableName, TableState};
use clap::{Args, Subcommand};
use serde_json::json;

/// Subcommands of `table`.
#[derive(Debug, Subcommand)]
pub(super) enum TableCommand {
    /// Make a table out of a ClickHouse CREATE TABLE
    Create(Box<Create>),
    /// Remove a table from every node
    Drop(Drop),
    /// List tables
    List,
    /// Show one table: shards, replicas, lag, problems
    Show {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
    },
}

/// Options of `table drop`.
#[derive(Debug, Args)]
pub(super) struct Drop {
    /// db.table
    #[arg(value_parser = parse_name)]
    name: TableName,
    /// Also delete its topics: the messages are gone then
    #[arg(long)]
    delete_topics: bool,
    /// No error if there is none
    #[arg(long)]
    if_exists: bool,
    /// Do not wait until it is gone from every node
    #[arg(long)]
    no_wait: bool,
}

impl TableCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Create(create) => create.run(context),
            Self::Drop(drop) => drop.run(context),
            Self::List => list(context),
            Self::Show { name } => show(context, name),
        }
    }
}

/// The table's name, typed back.
pub(super) fn name_of(table: &TableStatus) -> String {
    quote_name(&TableName { database: table.database.clone(), table: table.table.clone() })
}

/// One word for how a table does.
pub(super) fn state(table: &TableStatus) -> &'static str {
    match table.state {
        TableState::Dropping => "dropping",
        _ if table.complete => "complete",
        _ if table.usable => "usable",
        TableState::Creating => "creating",
        TableState::Active => "not usable",
    }
}

/// Messages that the replica furthest behind has not taken, over all shards; `None` if none reports.
pub(super) fn lag(table: &TableStatus) -> Option<u64> {
    let worst =
        |shard: &crate::model::control::ShardStatus| shard.replicas.iter().filter_map(|r| r.lag).max();
    table.shards.iter().filter_map(worst).reduce(u64::saturating_add)
}

/// Rows as a query counts them: each shard once, by its fullest replica.
fn rows(table: &TableStatus) -> u64 {
    table.shards.iter().filter_map(|shard| shard.replicas.iter().map(|r| r.rows).max()).sum()
}

/// One line a table.
pub(super) fn tables(list: &[TableStatus], indent: usize, colour: bool) -> String {
    use Align::{Left, Right};
    let mut out = Table::new(&[
        ("TABLE", Left),
        ("STATE", Left),
        ("EPOCH", Left),
        ("PARTITIONS", Right),
        ("SHARDS", Right),
        ("REPLICAS", Right),
        ("ROWS", Right),
        ("STORED", Right),
        ("LAG", Right),
    ]);
    for table in list {
        let stored: u64 = table.shards.iter().flat_map(|shard| &shard.replicas).map(|r| r.bytes).sum();
        out.row([
            name_of(table),
            state(table).into(),
            table.epoch.to_string(),
            table.partitions.to_string(),
            table.shards.len().to_string(),
            table.replicas.to_string(),
            rows(table).to_string(),
            bytes(stored),
            or_dash(lag(table)),
        ]);
    }
    out.text(indent, colour)
}

fn list(context: &Context) -> Result<(), Failure> {
    let daemon = context.daemon()?;
    let status = context.block_on(async move { Ok(known(daemon.cluster_status().await?)?) })?;
    context.print(&status.tables, || {
        if status.tables.is_empty() {
            return "no tables; `converthouse table create` makes one\n".into();
        }
        tables(&status.tables, 0, context.colour())
    })
}

fn show(context: &Context, name: TableName) -> Result<(), Failure> {
    let daemon = context.daemon()?;
    let table = context.block_on(async move { Ok(daemon.table_status(name).await?) })?;
    context.print(&table, || details(&table, context.colour()))
}

/// Seconds with as many decimals as there are: `1`, `3.2`.
fn seconds(ms: u64) -> String {
    let text = format!("{}.{:03}", ms / 1_000, ms % 1_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Everything about one table.
pub(super) fn details(table: &TableStatus, colour: bool) -> String {
    let facts = [
        ("table", name_of(table)),
        ("id", table.id.to_string()),
        ("state", state(table).into()),
        ("usable", yes_no(table.usable)),
        ("epoch", table.epoch.to_string()),
        ("partitions", format!("{} by {}", table.partitions, table.partition_by)),
        ("replicas", table.replicas.to_string()),
        ("cluster", table.cluster.clone()),
        ("topics", format!("{} ({})", table.topic_prefix, table.format)),
        ("batch age", table.batch_age_ms.map_or("-".into(), |age| format!("{} s at most", seconds(age)))),
    ];
    let mut text = String::new();
    for (name, value) in facts {
        text.push_str(&format!("{name:<11} {}\n", printable(&value)));
    }
    text.push('\n');
    text.push_str(&shard::shards(std::slice::from_ref(table), false, 0, colour));
    let behind = table.acknowledged.iter().filter(|(_, epoch)| **epoch < table.epoch);
    let behind: Vec<String> = behind.map(|(node, epoch)| format!("{node} ({epoch})")).collect();
    if !behind.is_empty() {
        text.push_str(&format!("\nnot at {} yet: {}\n", table.epoch, behind.join(", ")));
    }
    if !table.holds.is_empty() {
        text.push('\n');
        text.push_str(&hold::text(&table.holds, colour));
    }
    if !table.waiting_for.is_empty() {
        text.push_str("\nwaiting for\n");
        for line in &table.waiting_for {
            text.push_str(&format!("  {}\n", printable(line)));
        }
    }
    text.push_str(&format!("\n{}\n", table.ddl.trim_end()));
    text
}

impl Drop {
    fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let name = self.name.clone();
        let request = DropTable {
            database: self.name.database.clone(),
            table: self.name.table.clone(),
            delete_topics: self.delete_topics,
            if_exists: self.if_exists,
        };
        let (gone, waiting_for) = context.block_on(async {
            daemon.drop_table(request).await?;
            if self.no_wait {
                return Ok((false, Vec::new()));
            }
            let left = super::create::wait_until_gone(context, daemon.as_ref(), &name).await?;
            Ok((true, left.map(|table| table.waiting_for).unwrap_or_default()))
        })?;
        let said = if gone { "is gone" } else { "is being dropped" };
        let result = json!({
            "database": self.name.database, "table": self.name.table, "gone": gone, "waiting_for": waiting_for,
        });
        context.print(&result, || {
            let rest = waiting_for.iter().map(|what| format!("  waiting for {}\n", printable(what)));
            format!("{} {said}\n{}", quote_name(&self.name), rest.collect::<String>())
        })
    }
}
