//! How far a simulated server reads SQL: the columns and clauses of a plain `CREATE TABLE`, and partition
//! expressions that are a column or a function of columns. Expressions give stable numbers, not ClickHouse's own.

use super::Error;
use super::ddl::{self, refused};
use super::versions::Capabilities;
use crate::model::names::HIDDEN_PREFIX;
use crate::model::table::{Column, MessageFormat, Schema};
use crate::model::{PartitionId, TableName};

/// Reads a user's statement.
pub fn parse(text: &str, version: &str) -> Result<(TableName, Schema), Error> {
    let user = ddl::user_table(text)?;
    let definition = user.definition.as_str();
    let syntax = || Error::Refused { code: 62, message: format!("Syntax error in {definition:?}") };
    let (columns, tail) = ddl::bracketed(definition).ok_or_else(syntax)?;
    let columns: Vec<Column> =
        columns.iter().map(|text| column(text)).collect::<Option<_>>().ok_or_else(syntax)?;
    if let Some(column) = columns.iter().find(|column| column.name.starts_with(HIDDEN_PREFIX)) {
        return Err(refused(format!("column {}: such names are Converthouse's own; rename it", column.name)));
    }
    let (_, engine) = tail.split_once('=').ok_or_else(syntax)?;
    let engine_full = engine.trim();
    let name_len = engine_full.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(engine_full.len());
    let engine = &engine_full[..name_len];
    ddl::engine_allowed(engine, &Capabilities::of(version)).map_err(refused)?;
    let clauses = ddl::engine_clauses(engine_full)?;
    let clause = |words: &[&str]| ddl::clause(engine_full, words).unwrap_or_default();
    let sorting_key = ddl::without_brackets(&clause(&["ORDER", "BY"])).replace("tuple()", "");
    let schema = Schema {
        columns,
        engine: engine.to_owned(),
        engine_arguments: clauses.arguments,
        partition_key: clause(&["PARTITION", "BY"]),
        sorting_key,
        primary_key: ddl::without_brackets(&clause(&["PRIMARY", "KEY"])).to_owned(),
        sampling_key: clause(&["SAMPLE", "BY"]),
        ttl: clauses.ttl,
        settings: clauses.settings,
    };
    Ok((user.name, schema))
}

fn column(text: &str) -> Option<Column> {
    let (name, rest) = ddl::first_name(text)?;
    let (mut data_type, mut default_kind, mut default_expression) = (rest.to_owned(), "", String::new());
    for kind in ["DEFAULT", "MATERIALIZED", "ALIAS"] {
        if let Some((before, after)) = rest.split_once(&format!(" {kind} ")) {
            (data_type, default_kind, default_expression) =
                (before.trim().to_owned(), kind, after.to_owned());
        }
    }
    let declared = |data_type: &str| !data_type.is_empty();
    declared(&data_type).then(|| Column {
        name,
        data_type,
        default_kind: default_kind.to_owned(),
        default_expression,
        codec: String::new(),
    })
}

/// A column's own type, `String` for a text literal, `UInt64` for every function of columns that are there.
pub fn type_of(schema: &Schema, expression: &str) -> Result<String, Error> {
    let expression = expression.trim();
    if let Some(column) = schema.columns.iter().find(|column| column.name == expression.trim_matches('`')) {
        return Ok(column.data_type.clone());
    }
    if expression.starts_with('\'') {
        return Ok("String".to_owned());
    }
    match named(schema, expression) {
        Some(_) => Ok("UInt64".to_owned()),
        None => Err(Error::Refused { code: 47, message: format!("Unknown identifier in {expression:?}") }),
    }
}

/// The first column that an expression names.
fn named<'a>(schema: &'a Schema, expression: &str) -> Option<&'a Column> {
    let mut words =
        expression.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
    words.find_map(|word| schema.columns.iter().find(|column| column.name == word))
}

/// The value of the first column named: itself if it is a number, else a stable hash; mod `partitions`.
pub fn partitions(
    schema: &Schema,
    expression: &str,
    partitions: u32,
    format: MessageFormat,
    body: &[u8],
) -> Result<Vec<PartitionId>, Error> {
    let unknown = || Error::Refused { code: 47, message: format!("Unknown identifier in {expression:?}") };
    let bad = |line: &str| Error::BadRows { code: 117, message: format!("cannot parse {line:?}") };
    let column = named(schema, expression).ok_or_else(unknown)?;
    let at = schema.columns.iter().filter(|c| c.insertable()).position(|c| c.name == column.name);
    let text = String::from_utf8_lossy(body);
    let value = |line: &str| -> Option<String> {
        match format {
            MessageFormat::JSONEachRow => {
                let row: serde_json::Value = serde_json::from_str(line).ok()?;
                let value = row.as_object()?.get(&column.name).cloned().unwrap_or_default();
                Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
            }
            MessageFormat::CSV => Some(line.split(',').nth(at?)?.trim_matches('"').to_owned()),
            MessageFormat::TSV => Some(line.split('\t').nth(at?)?.to_owned()),
        }
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let partition = |line: &str| {
        let value = value(line).ok_or_else(|| bad(line))?;
        let hash = || u64::from(crc32fast::hash(value.as_bytes()));
        let key = value.parse::<u64>().unwrap_or_else(|_| hash());
        Ok(PartitionId(u32::try_from(key % u64::from(partitions)).expect("below a u32")))
    };
    lines.map(partition).collect()
}
