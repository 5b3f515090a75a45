//! `converthouse shard list|split|merge|move|add|remove|lead`.

use super::operation::Begin;
use super::output::{Align, Table, bytes, or_dash};
use super::table::name_of;
use super::{Context, Failure, parse_name};
use crate::adapters::peers::known;
use crate::model::control::{Asked, ReplicaStatus, TableStatus};
use crate::model::{NodeId, PartitionId, ShardId, TableName};
use clap::Subcommand;
use serde::Serialize;

/// Subcommands of `shard`.
#[derive(Debug, Subcommand)]
pub(super) enum ShardCommand {
    /// List the shards of one table, or of all, with their replicas
    List {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: Option<TableName>,
    },
    /// Split a shard in two, without copying and without a pause for readers
    Split {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// Which; all that have more than one partition if none is named
        shard: Option<ShardId>,
        /// First partition of the right half [default: the middle]
        #[arg(long, value_name = "PARTITION", requires = "shard")]
        at: Option<PartitionId>,
        /// Cut where the halves have taken the most equal numbers of messages, as a measure of their bytes
        #[arg(long, conflicts_with = "at")]
        by_bytes: bool,
        #[command(flatten)]
        begin: Begin,
    },
    /// Merge two neighbouring shards; if they are on different nodes, copies are moved first
    Merge {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// The lower
        left: ShardId,
        /// The one right above it
        right: ShardId,
        #[command(flatten)]
        begin: Begin,
    },
    /// Move a replica to another node
    Move {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// Which
        shard: ShardId,
        /// Where it is
        from: NodeId,
        /// Where it goes
        to: NodeId,
        /// Also where its zone or rack has a copy already, or its disk would be filled above the watermark
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        begin: Begin,
    },
    /// Make a further replica; balancing takes away again what is more than the table wants
    Add {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// Which
        shard: ShardId,
        /// Where
        to: NodeId,
        /// Also where its zone or rack has a copy already, or its disk would be filled above the watermark
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        begin: Begin,
    },
    /// Take a replica away, of which there are more than the table wants
    Remove {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// Which
        shard: ShardId,
        /// Where
        from: NodeId,
        #[command(flatten)]
        begin: Begin,
    },
    /// Have another replica lead a shard, and prefer it from now on
    Lead {
        /// db.table
        #[arg(value_parser = parse_name)]
        name: TableName,
        /// Which
        shard: ShardId,
        /// Who
        to: NodeId,
        #[command(flatten)]
        begin: Begin,
    },
}

/// A shard with the table that it is of.
#[derive(Serialize)]
struct Listed<'a> {
    database: &'a str,
    table: &'a str,
    #[serde(flatten)]
    shard: &'a crate::model::control::ShardStatus,
}

impl ShardCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let name = match self {
            Self::List { name } => name,
            Self::Split { name, shard, at, by_bytes, begin } => {
                let cut = at.map(|partition| partition.0);
                return begin.run(context, name, Asked::Split { shard, cut, by_bytes });
            }
            Self::Add { name, shard, to, force, begin } => {
                return begin.run(context, name, Asked::Add { shard, to, force });
            }
            Self::Remove { name, shard, from, begin } => {
                return begin.run(context, name, Asked::Remove { shard, from });
            }
            Self::Merge { name, left, right, begin } => {
                return begin.run(context, name, Asked::Merge { left, right });
            }
            Self::Move { name, shard, from, to, force, begin } => {
                return begin.run(context, name, Asked::Move { shard, from, to, force });
            }
            Self::Lead { name, shard, to, begin } => {
                return begin.run(context, name, Asked::Lead { shard, to });
            }
        };
        let daemon = context.daemon()?;
        let tables = context.block_on(async move {
            Ok(match name {
                Some(name) => vec![daemon.table_status(name).await?],
                None => known(daemon.cluster_status().await?)?.tables,
            })
        })?;
        let mut listed = Vec::new();
        for TableStatus { database, table, shards, .. } in &tables {
            listed.extend(shards.iter().map(|shard| Listed { database, table, shard }));
        }
        context.print(&listed, || shards(&tables, true, 0, context.colour()))
    }
}

fn note(replica: &ReplicaStatus) -> String {
    let stalls = replica.stalls.len();
    let stalled = || {
        let (partition, stall) = replica.stalls.iter().next()?;
        let what = serde_json::to_value(stall).ok()?;
        let reason = what.get("reason")?.as_str()?.replace('_', " ");
        let more = if stalls > 1 { format!(" and {} more", stalls - 1) } else { String::new() };
        Some(format!("{partition} stands still: {reason}{more}"))
    };
    replica.problem.clone().or_else(stalled).unwrap_or_default()
}

/// One line a replica.
pub(super) fn shards(tables: &[TableStatus], with_table: bool, indent: usize, colour: bool) -> String {
    use Align::{Left, Right};
    let mut columns = vec![
        ("SHARD", Left),
        ("PARTITIONS", Left),
        ("EPOCH", Left),
        ("SPREAD", Right),
        ("NODE", Left),
        ("REPLICA", Left),
        ("LAG", Right),
        ("ROWS", Right),
        ("STORED", Right),
        ("DEAD LETTERS", Right),
        ("NOTE", Left),
    ];
    if with_table {
        columns.insert(0, ("TABLE", Left));
    }
    let mut out = Table::new(&columns);
    for table in tables {
        for shard in &table.shards {
            let front = |first: bool, text: String| if first { text } else { String::new() };
            let none = shard.replicas.is_empty().then(|| [front(true, shard.id.to_string())].to_vec());
            let lines = shard.replicas.iter().enumerate().map(|(at, replica)| {
                vec![
                    front(at == 0, shard.id.to_string()),
                    front(at == 0, shard.range.to_string()),
                    front(at == 0, shard.epoch.to_string()),
                    front(at == 0, or_dash(shard.spread)),
                    replica.node.to_string(),
                    replica.state.clone(),
                    or_dash(replica.lag),
                    replica.rows.to_string(),
                    bytes(replica.bytes),
                    replica.dead_letters.to_string(),
                    note(replica),
                ]
            });
            for (at, mut line) in none.into_iter().chain(lines).enumerate() {
                if with_table {
                    line.insert(0, front(at == 0, name_of(table)));
                }
                out.row(line);
            }
        }
    }
    out.text(indent, colour)
}
