//! Statements to SQL: the one renderer, the one function that quotes names and the one that quotes literals.
//!
//! The user's expressions and types go in as they are: ClickHouse accepted them in `parse_ddl`.

use super::statement::Statement;
use super::versions::Capabilities;
use super::{RemoteReplica, ddl, guard};
use crate::model::TableName;
use crate::model::names::{self, LOCAL_TABLE, OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};
use crate::model::table::{Column, MessageFormat, Schema};

/// The table that gates stand on.
pub const GATE_SOURCE: &str = "gate_source";
/// What the ids of all our queries begin with.
pub const OWN_QUERY_PREFIX: &str = "cvh-";
/// The user that ClickHouse takes where none is named.
const DEFAULT_USER: &str = "default";
/// Guard column of a `Distributed` table.
pub const GUARD_COLUMN: &str = "_cvh_guard";

/// A name, quoted. Takes any character.
pub fn quote_name(name: &str) -> String {
    let mut out = String::with_capacity(name.len() + 2);
    out.push('`');
    push_escaped(&mut out, name, '`');
    out.push('`');
    out
}

/// A text literal, quoted.
pub fn quote_text(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    push_escaped(&mut out, text, '\'');
    out.push('\'');
    out
}

fn push_escaped(out: &mut String, text: &str, quote: char) {
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            _ => {
                if c == quote || c == '\\' {
                    out.push('\\');
                }
                out.push(c);
            }
        }
    }
}

/// `db.table`, quoted.
pub fn quote_table(name: &TableName) -> String {
    format!("{}.{}", quote_name(&name.database), quote_name(&name.table))
}

fn within(database: &str, table: &str) -> String {
    format!("{}.{}", quote_name(database), quote_name(table))
}

fn quote_names(names: &[String]) -> String {
    names.iter().map(|name| quote_name(name)).collect::<Vec<_>>().join(", ")
}

/// The text of a statement for a server that can do this much.
pub fn render(statement: &Statement<'_>, can: &Capabilities) -> String {
    match statement {
        Statement::CreateUserTable { .. }
        | Statement::CreatePlain { .. }
        | Statement::CreateLocal { .. }
        | Statement::CreateGateSource { .. }
        | Statement::CreateGate { .. }
        | Statement::CreateClosedGate { .. }
        | Statement::CreateTemporary { .. }
        | Statement::CreateDistributed { .. }
        | Statement::CreateInsertTable { .. } => create(statement, can),
        Statement::CreateDatabase(name) => format!("CREATE DATABASE IF NOT EXISTS {}", quote_name(name)),
        Statement::AttachDatabase(name) => {
            // Old servers want to be told the engine; newer ones read it.
            let engine = if can.exchange { "" } else { " ENGINE = Ordinary" };
            format!("ATTACH DATABASE IF NOT EXISTS {}{engine}", quote_name(name))
        }
        Statement::DetachDatabase(name) => format!("DETACH DATABASE IF EXISTS {}", quote_name(name)),
        Statement::DropDatabase(name) => {
            format!("DROP DATABASE IF EXISTS {}{}", quote_name(name), sync(can))
        }
        Statement::DropTable(name) => format!("DROP TABLE IF EXISTS {}{}", quote_table(name), sync(can)),
        Statement::DropTemporary(table) => format!("DROP TABLE IF EXISTS {}", quote_name(table)),
        Statement::Replace { name, fresh, retired } => {
            let (name, fresh, retired) = (quote_table(name), quote_table(fresh), quote_table(retired));
            if can.exchange {
                format!("EXCHANGE TABLES {fresh} AND {name}")
            } else {
                format!("RENAME TABLE {name} TO {retired}, {fresh} TO {name}")
            }
        }
        Statement::CreateProbe(name) => format!("CREATE VIEW {} AS SELECT 1", quote_table(name)),
        Statement::AttachTable { name, definition } => {
            format!("ATTACH TABLE {} {definition}", quote_table(name))
        }
        Statement::Rename { from, to } => {
            format!("RENAME TABLE {} TO {}", quote_table(from), quote_table(to))
        }
        Statement::DropPartition { .. }
        | Statement::ReplacePartition { .. }
        | Statement::FreezePartition { .. }
        | Statement::AttachPart { .. } => alter(statement),
        Statement::CopyRows { into, columns, source, partition } => {
            let columns = quote_names(columns);
            format!(
                "INSERT INTO {} ({columns}) SELECT {columns} FROM {} WHERE {} = {}",
                quote_table(into),
                remote(source, &source.database, LOCAL_TABLE),
                quote_name(PARTITION_COLUMN),
                partition.0
            )
        }
        Statement::KillQueries(prefix) => {
            format!("KILL QUERY WHERE startsWith(query_id, {}) ASYNC", quote_text(prefix))
        }
        Statement::ReloadConfig => "SYSTEM RELOAD CONFIG".to_owned(),
        Statement::Merges { name, allowed } => {
            format!("SYSTEM {} MERGES {}", if *allowed { "START" } else { "STOP" }, quote_table(name))
        }
        Statement::Insert { name, columns, format } => insert(&quote_table(name), columns, *format),
        Statement::InsertTemporary { table, columns, format } => insert(&quote_name(table), columns, *format),
        _ => look(statement, can),
    }
}

/// Changes of a table's partitions.
fn alter(statement: &Statement<'_>) -> String {
    match statement {
        Statement::DropPartition { name, partition_id } => {
            format!("ALTER TABLE {} DROP PARTITION ID {}", quote_table(name), quote_text(partition_id))
        }
        Statement::ReplacePartition { name, partition_id, source } => format!(
            "ALTER TABLE {} REPLACE PARTITION ID {} FROM {}",
            quote_table(name),
            quote_text(partition_id),
            quote_table(source)
        ),
        Statement::FreezePartition { name, partition_id, frozen } => format!(
            "ALTER TABLE {} FREEZE PARTITION ID {} WITH NAME {}",
            quote_table(name),
            quote_text(partition_id),
            quote_text(frozen)
        ),
        Statement::AttachPart { name, part } => {
            format!("ALTER TABLE {} ATTACH PART {}", quote_table(name), quote_text(part))
        }
        _ => unreachable!("render() sends only these here"),
    }
}

/// The table function that reads a table on a replica's server.
fn remote(source: &RemoteReplica, database: &str, table: &str) -> String {
    let RemoteReplica { host, port, user, password, secure, .. } = source;
    let bare = host.contains(':') && !host.starts_with('[');
    let address = if bare { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut arguments = vec![address.as_str(), database, table];
    if !(user.is_empty() && password.expose().is_empty()) {
        arguments.push(if user.is_empty() { DEFAULT_USER } else { user });
        arguments.push(password.expose());
    }
    let arguments = join(arguments.into_iter().map(quote_text));
    format!("{}({arguments})", if *secure { "remoteSecure" } else { "remote" })
}

/// A server's text about a statement, without the secrets of the statement: it may quote all or a piece of it.
pub fn without_secrets(statement: &Statement<'_>, text: &str) -> String {
    let (Statement::CopyRows { source, .. }
    | Statement::RemoteSizes(source)
    | Statement::RemoteMutations(source)) = statement
    else {
        return text.to_owned();
    };
    let quoted_from = ["remote(", "remoteSecure("].iter().filter_map(|call| text.find(call)).min();
    let mut text = quoted_from.map_or(text, |at| &text[..at]).to_owned();
    let password = source.password.expose();
    if !password.is_empty() {
        for form in [quote_text(password), password.to_owned()] {
            text = text.replace(&form, "***");
        }
    }
    text
}

fn sync(can: &Capabilities) -> &'static str {
    if can.drop_sync { " SYNC" } else { "" }
}

fn insert(into: &str, columns: &[String], format: MessageFormat) -> String {
    let list = if columns.is_empty() { String::new() } else { format!(" ({})", quote_names(columns)) };
    let format = match format {
        MessageFormat::JSONEachRow => "JSONEachRow",
        MessageFormat::CSV => "CSV",
        MessageFormat::TSV => "TabSeparated",
    };
    format!("INSERT INTO {into}{list} FORMAT {format}")
}

/// Looks at what the server tells of itself and of tables.
fn look(statement: &Statement<'_>, can: &Capabilities) -> String {
    match statement {
        Statement::Server => "SELECT version(), uptime()".to_owned(),
        Statement::Disk if can.disks => {
            "SELECT total_space, free_space FROM system.disks WHERE name = 'default'".to_owned()
        }
        Statement::Disk => "SELECT 0, 0".to_owned(),
        Statement::DataRoots => data_roots(can),
        Statement::DiskSpaces if can.disks => {
            "SELECT path, total_space, free_space FROM system.disks".to_owned()
        }
        Statement::DiskSpaces => "SELECT '/', 0, 0".to_owned(),
        Statement::DataPaths(name) => format!(
            "SELECT {} FROM system.tables WHERE database = {} AND name = {}",
            if can.disks { "arrayJoin(data_paths)" } else { "data_path" },
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::Databases => "SELECT name FROM system.databases ORDER BY name".to_owned(),
        Statement::Tables(database) => {
            format!("SELECT name FROM system.tables WHERE database = {} ORDER BY name", quote_text(database))
        }
        Statement::Table(name) => format!(
            "SELECT engine, engine_full, create_table_query, partition_key, sorting_key, primary_key, \
             sampling_key FROM system.tables WHERE database = {} AND name = {}",
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::Columns(name) => format!(
            "SELECT name, type, default_kind, default_expression, comment, {} FROM system.columns \
             WHERE database = {} AND table = {}",
            if can.codecs { "compression_codec" } else { "''" },
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::RunningQueries(prefix) => {
            format!("SELECT count() FROM system.processes WHERE startsWith(query_id, {})", quote_text(prefix))
        }
        Statement::UserQueries => {
            let others = if can.query_id { " AND query_id != queryID()" } else { "" };
            let ours = quote_text(OWN_QUERY_PREFIX);
            format!(
                "SELECT query_id FROM system.processes WHERE NOT startsWith(query_id, {ours}) \
                 AND NOT startsWith(initial_query_id, {ours}){others} ORDER BY query_id"
            )
        }
        Statement::Parts(name) => format!(
            "SELECT partition, partition_id, name, rows FROM system.parts \
             WHERE database = {} AND table = {} AND active",
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::Sizes => format!(
            "SELECT database, sum(bytes_on_disk), sum(rows), count() FROM system.parts \
             WHERE active AND table = {} GROUP BY database ORDER BY database",
            quote_text(LOCAL_TABLE)
        ),
        Statement::Cluster(name) => format!(
            "SELECT shard_num, shard_weight, replica_num, host_name, port, default_database \
             FROM system.clusters WHERE cluster = {} ORDER BY shard_num, replica_num",
            quote_text(name)
        ),
        Statement::Survey(question) => question.sql(),
        _ => scan(statement),
    }
}

/// Old servers have one disk, and tell where it begins by the folder of a database that each has.
fn data_roots(can: &Capabilities) -> String {
    if !can.disks {
        let root = "replaceRegexpOne(data_path, 'data/system/$', '')";
        return format!("SELECT {root}, 'local' FROM system.databases WHERE name = 'system'");
    }
    let kind = if can.encrypted_disks { "if(is_encrypted, 'encrypted', lower(type))" } else { "lower(type)" };
    format!("SELECT path, {kind} FROM system.disks ORDER BY name != 'default', name")
}

/// Looks at rows, here or elsewhere.
fn scan(statement: &Statement<'_>) -> String {
    match statement {
        Statement::Mutations(name) => format!(
            "SELECT mutation_id FROM system.mutations WHERE database = {} AND table = {}",
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::PendingMutations(name) => format!(
            "SELECT count() FROM system.mutations WHERE database = {} AND table = {} AND NOT is_done",
            quote_text(&name.database),
            quote_text(&name.table)
        ),
        Statement::RemoteMutations(source) => format!(
            "SELECT count() FROM {} WHERE database = {} AND table = {} AND NOT is_done",
            remote(source, "system", "mutations"),
            quote_text(&source.database),
            quote_text(LOCAL_TABLE)
        ),
        Statement::RemoteSizes(source) => format!(
            "SELECT partition, sum(bytes_on_disk), sum(rows), count() FROM {} WHERE active AND database = {} \
             AND table = {} GROUP BY partition",
            remote(source, "system", "parts"),
            quote_text(&source.database),
            quote_text(LOCAL_TABLE)
        ),
        Statement::TypeOf { table, expression, beside } => format!(
            // The line breaks keep a comment in the expression from taking the rest with it.
            "SELECT (\n{expression}\n), {} FROM {} LIMIT 0",
            quote_name(beside),
            quote_name(table)
        ),
        Statement::PartitionsOf { table, expression, partitions } => format!(
            // ClickHouse's sharding takes a negative key as unsigned of the same width; this does the same.
            "SELECT toUInt32(reinterpretAsUInt64(reinterpretAsString(\n{expression}\n)) % {partitions}) FROM {}",
            quote_name(table)
        ),
        Statement::HighestOffset { database, partition } => format!(
            "SELECT count(), max({offset}) FROM {} WHERE {} = {}",
            within(database, LOCAL_TABLE),
            quote_name(PARTITION_COLUMN),
            partition.0,
            offset = quote_name(OFFSET_COLUMN),
        ),
        Statement::Holdings { database, partition, from } => format!(
            "SELECT {offset}, {row} FROM {} WHERE {} = {} AND {offset} >= {from} \
             ORDER BY {offset}, {row}",
            within(database, LOCAL_TABLE),
            quote_name(PARTITION_COLUMN),
            partition.0,
            offset = quote_name(OFFSET_COLUMN),
            row = quote_name(ROW_COLUMN),
        ),
        Statement::Digest { database, partition, from, below, columns } => {
            let (offset, row) = (quote_name(OFFSET_COLUMN), quote_name(ROW_COLUMN));
            let names = [offset.clone(), row.clone()].into_iter();
            let hashed = join(names.chain(columns.iter().map(hashable)));
            format!(
                "SELECT count(), uniqExact({offset}, {row}), uniqExact({offset}), min({offset}), max({offset}), \
                 sum(cityHash64({hashed})) FROM {} WHERE {} = {} AND {offset} >= {from} AND {offset} < {below}",
                within(database, LOCAL_TABLE),
                quote_name(PARTITION_COLUMN),
                partition.0,
            )
        }
        _ => unreachable!("render() sends only reads here"),
    }
}

/// A column as `cityHash64` takes it on every version: a NULL would make the whole NULL, and some types are not known
/// to it.
fn hashable(column: &Column) -> String {
    let (name, kind) = (quote_name(&column.name), column.data_type.as_str());
    if kind.starts_with("Nullable(") || kind.starts_with("LowCardinality(Nullable(") {
        return format!("ifNull(toString({name}), ''), isNull({name})");
    }
    let odd = ["Nullable(", "Map(", "JSON", "Object(", "Variant(", "Dynamic"];
    if odd.iter().any(|word| kind.contains(word)) { format!("toString({name})") } else { name }
}

fn create(statement: &Statement<'_>, can: &Capabilities) -> String {
    match statement {
        Statement::CreateUserTable { name, definition } => {
            format!("CREATE TABLE {} {definition}", quote_table(name))
        }
        Statement::CreatePlain { name, schema } => {
            let columns = schema.columns.iter().map(|column| user_column(column, true));
            let keys = engine(schema, &schema.partition_key);
            format!("CREATE TABLE {} ({}) {keys}", quote_table(name), join(columns))
        }
        Statement::CreateLocal { name, schema } => {
            let user = schema.columns.iter().map(|column| user_column(column, true));
            let hidden = guard::local_columns(can).into_iter();
            let partition = match ddl::without_brackets(&schema.partition_key) {
                "" | "tuple()" => quote_name(PARTITION_COLUMN),
                key => format!("({}, {key})", quote_name(PARTITION_COLUMN)),
            };
            let keys = engine(schema, &partition);
            format!("CREATE TABLE {} ({}) {keys}", quote_table(name), join(hidden.chain(user)))
        }
        Statement::CreateGateSource { database, schema } => format!(
            "CREATE TABLE IF NOT EXISTS {} ({}) ENGINE = Null",
            within(database, GATE_SOURCE),
            gate_columns(schema)
        ),
        Statement::CreateGate { database, schema, number } => format!(
            "CREATE MATERIALIZED VIEW {} TO {} ({}) AS SELECT * FROM {}",
            within(database, &names::gate(*number)),
            within(database, LOCAL_TABLE),
            gate_columns(schema),
            within(database, GATE_SOURCE)
        ),
        Statement::CreateClosedGate { database, number } => {
            format!("CREATE VIEW {} AS SELECT 1", within(database, &names::shut_gate(*number)))
        }
        Statement::CreateTemporary { table, schema } => format!(
            "CREATE TEMPORARY TABLE {} ({})",
            quote_name(table),
            join(schema.columns.iter().map(|column| user_column(column, false)))
        ),
        Statement::CreateDistributed { name, user, schema, cluster, sharding_key } => {
            let columns = schema.columns.iter().map(|column| user_column(column, false));
            let guard = std::iter::once(guard::distributed_column(user, can));
            format!(
                "CREATE TABLE {} ({}) ENGINE = Distributed({}, '', {}, {sharding_key}\n)",
                quote_table(name),
                join(columns.chain(guard)),
                quote_text(cluster),
                quote_text(LOCAL_TABLE)
            )
        }
        Statement::CreateInsertTable { name, schema, url } => {
            let insertable = schema.columns.iter().filter(|column| column.insertable());
            format!(
                "CREATE TABLE {} ({}) ENGINE = URL({}, 'JSONEachRow')",
                quote_table(name),
                join(insertable.map(|column| user_column(column, false))),
                quote_text(url)
            )
        }
        _ => unreachable!("render() sends only creations here"),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join(", ")
}

/// A column as the user declared it; `stored` adds its comment and codec.
fn user_column(column: &Column, stored: bool) -> String {
    let mut out = format!("{} {}", quote_name(&column.name), column.data_type);
    if !column.default_kind.is_empty() {
        out.push_str(&format!(" {} {}", column.default_kind, column.default_expression));
    }
    if stored && !column.codec.is_empty() {
        out.push_str(&format!(" {}", column.codec));
    }
    out
}

/// A gate's columns: the hidden ones, plain, then all of the user's with their defaults. The gate must say them
/// itself: what comes through it is not completed by the table behind it (18.16 misses even `MATERIALIZED` ones).
fn gate_columns(schema: &Schema) -> String {
    let hidden = [(PARTITION_COLUMN, "UInt32"), (OFFSET_COLUMN, "UInt64"), (ROW_COLUMN, "UInt32")];
    let hidden = hidden.into_iter().map(|(name, kind)| format!("{} {kind}", quote_name(name)));
    join(hidden.chain(schema.columns.iter().map(|column| user_column(column, false))))
}

/// A key of several expressions needs brackets.
fn key(expressions: &str) -> String {
    let bracketed = format!("({expressions})");
    let several = ddl::bracketed(&bracketed).is_some_and(|(parts, _)| parts.len() > 1);
    if several { bracketed } else { expressions.to_owned() }
}

/// `ENGINE = …` with every clause of the schema; `partition_key` in its final form.
fn engine(schema: &Schema, partition_key: &str) -> String {
    let mut out = format!("ENGINE = {}{}", schema.engine, schema.engine_arguments);
    let mut clause = |words: &str, text: &str| {
        if !text.is_empty() {
            out.push_str(&format!(" {words} {text}"));
        }
    };
    clause("PARTITION BY", partition_key);
    clause("PRIMARY KEY", &key(&schema.primary_key));
    let sorting = key(&schema.sorting_key);
    clause("ORDER BY", if sorting.is_empty() { "tuple()" } else { &sorting });
    clause("SAMPLE BY", &schema.sampling_key);
    clause("TTL", &schema.ttl);
    clause("SETTINGS", &schema.settings);
    out
}

#[cfg(test)]
#[path = "sql_tests.rs"]
mod tests;
