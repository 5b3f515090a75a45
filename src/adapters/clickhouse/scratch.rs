//! From the user's `CREATE TABLE` to a [`Schema`], by ClickHouse itself: the statement runs in a scratch database,
//! the server's description is read back, and the table is made a second time from the schema alone. If the two
//! descriptions differ, the schema has lost something (an index, a projection, a constraint, a column's TTL) and the
//! statement is refused rather than cut down in silence.
//!
//! The functions that look at descriptions are pure; the sequence of statements is at the end.

use super::ddl::{self, EngineClauses, refused};
use super::errcode::Doing;
use super::http::Settings;
use super::real::HttpClickHouse;
use super::statement::Statement;
use super::{Error, sql};
use crate::model::TableName;
use crate::model::names::{HIDDEN_PREFIX, SCRATCH_DATABASE_PREFIX};
use crate::model::table::{Column, Schema};

/// Scratch databases older than this were left by a crash.
const LEFT_BEHIND_AFTER_S: u64 = 600;
/// The scratch table's name.
const SCRATCH_TABLE: &str = "scratch";

/// A scratch database's name: when it was made, then the caller's nonce.
fn scratch_database(unix_s: u64, nonce: u64) -> String {
    format!("{SCRATCH_DATABASE_PREFIX}{unix_s}_{nonce:016x}")
}

/// Whether a database is scratch that nobody works in any more.
fn is_left_behind(database: &str, unix_s: u64) -> bool {
    let made = database.strip_prefix(SCRATCH_DATABASE_PREFIX).and_then(|tail| tail.split_once('_'));
    let made = made.and_then(|(made, _)| made.parse::<u64>().ok());
    made.is_some_and(|made| made.saturating_add(LEFT_BEHIND_AFTER_S) < unix_s)
}

/// A table as `system.tables` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub engine: String,
    pub engine_full: String,
    pub create_table_query: String,
    pub partition_key: String,
    pub sorting_key: String,
    pub primary_key: String,
    pub sampling_key: String,
}

impl Described {
    /// From a row of [`Statement::Table`].
    pub fn read(row: Vec<String>) -> Option<Self> {
        let mut fields = row.into_iter();
        let mut next = || fields.next();
        Some(Self {
            engine: next()?,
            engine_full: next()?,
            create_table_query: next()?,
            partition_key: next()?,
            sorting_key: next()?,
            primary_key: next()?,
            sampling_key: next()?,
        })
    }
}

/// A column from a row of [`Statement::Columns`].
pub(super) fn column(row: Vec<String>) -> Option<Column> {
    let [name, data_type, default_kind, default_expression, comment, codec] = row.try_into().ok()?;
    let comment = if comment.is_empty() { comment } else { format!("COMMENT {}", sql::quote_text(&comment)) };
    let declared = [comment, codec];
    let declared: Vec<&str> = declared.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    Some(Column { name, data_type, default_kind, default_expression, codec: declared.join(" ") })
}

/// The schema behind a description.
fn schema(table: &Described, columns: Vec<Column>) -> Result<Schema, Error> {
    if let Some(column) = columns.iter().find(|column| column.name.starts_with(HIDDEN_PREFIX)) {
        return Err(refused(format!(
            "column {}: names that begin with {HIDDEN_PREFIX} are Converthouse's own; rename it",
            column.name
        )));
    }
    if let Some(column) = columns.iter().find(|column| column.default_kind == "EPHEMERAL") {
        return Err(refused(format!(
            "column {}: EPHEMERAL columns are not supported; leave it out",
            column.name
        )));
    }
    schema_of(table, columns)
}

/// A description as a schema, with these columns.
pub(super) fn schema_of(table: &Described, columns: Vec<Column>) -> Result<Schema, Error> {
    let clauses = ddl::engine_clauses(&table.engine_full)?;
    let mut schema = Schema {
        columns,
        engine: table.engine.clone(),
        engine_arguments: clauses.arguments.clone(),
        partition_key: table.partition_key.clone(),
        sorting_key: table.sorting_key.clone(),
        primary_key: table.primary_key.clone(),
        sampling_key: table.sampling_key.clone(),
        ttl: clauses.ttl.clone(),
        settings: clauses.settings.clone(),
    };
    if schema.primary_key == schema.sorting_key {
        schema.primary_key.clear();
    }
    if !clauses.ordered {
        modernise(&mut schema, &clauses)?;
    }
    Ok(schema)
}

/// `MergeTree(date[, sample], (keys), granularity)`: the server tells the keys, the granularity stands last.
fn modernise(schema: &mut Schema, clauses: &EngineClauses) -> Result<(), Error> {
    let granularity = clauses.argument_list.last().filter(|last| last.bytes().all(|b| b.is_ascii_digit()));
    let (Some(granularity), 3 | 4) = (granularity, clauses.argument_list.len()) else {
        return Err(refused("the engine's arguments are not understood: use PARTITION BY … ORDER BY …"));
    };
    schema.engine_arguments.clear();
    schema.settings = format!("index_granularity = {granularity}");
    Ok(())
}

/// What must be the same of a table and of the one made from its schema: columns with all that belongs to them,
/// and the engine with its clauses. (Not the text as a whole: new servers keep brackets that mean nothing.)
fn essence(table: &Described) -> Result<[Vec<String>; 3], Error> {
    let definition = ddl::definition_of(&table.create_table_query)?;
    let columns = ddl::bracketed(&definition).map(|(parts, _)| parts).unwrap_or_default();
    let keys = [&table.partition_key, &table.sorting_key, &table.primary_key, &table.sampling_key];
    let clauses = ddl::engine_clauses(&table.engine_full)?;
    let engine = if clauses.ordered {
        vec![table.engine.clone(), clauses.arguments, clauses.ttl, clauses.settings]
    } else {
        // In the old syntax the arguments are the keys, and the granularity became a setting.
        Vec::new()
    };
    Ok([columns.into_iter().map(str::to_owned).collect(), keys.map(String::clone).to_vec(), engine])
}

/// Refuses if the table made from the schema is not the user's table.
fn nothing_lost(user: &Described, again: &Described) -> Result<(), Error> {
    let (of_user, mut of_schema) = (essence(user)?, essence(again)?);
    if of_user[2].is_empty() {
        of_schema[2].clear();
    }
    if of_user == of_schema {
        return Ok(());
    }
    let differs = |(user, schema): (&Vec<String>, &Vec<String>)| {
        (user != schema).then(|| (user.join(", "), schema.join(", ")))
    };
    let (wanted, made) = of_user.iter().zip(&of_schema).find_map(differs).unwrap_or_default();
    Err(refused(format!(
        "this table has something that cannot be carried to its shards (indexes, projections, constraints and TTLs \
         of columns cannot yet): leave it out. The server understood {wanted:?}; Converthouse would make {made:?}"
    )))
}

impl HttpClickHouse {
    pub(super) async fn schema_by_scratch(
        &self,
        ddl: &str,
        nonce: u64,
    ) -> Result<(TableName, Schema), Error> {
        let user = ddl::user_table(ddl)?;
        if user.name.database.starts_with(SCRATCH_DATABASE_PREFIX) || user.name.database == "system" {
            return Err(refused(format!("database {} cannot hold tables of yours", user.name.database)));
        }
        let now = self.unix_s();
        for database in self.names(&Statement::Databases).await? {
            if is_left_behind(&database, now) {
                self.remove_database(&database).await?;
            }
        }
        let database = scratch_database(now, nonce);
        self.make_database(&database).await?;
        let read = self.read_in_scratch(&database, &user.definition).await;
        let dropped = self.remove_database(&database).await;
        let schema = read?;
        dropped?;
        Ok((user.name, schema))
    }

    async fn read_in_scratch(&self, database: &str, definition: &str) -> Result<Schema, Error> {
        let name = TableName { database: database.to_owned(), table: SCRATCH_TABLE.to_owned() };
        self.change(&Statement::CreateUserTable { name: &name, definition }, "the table", Settings::new())
            .await?;
        let lost = || refused("the table is gone from the scratch database: try again");
        let user = self.described(&name).await?.ok_or_else(lost)?;
        let can = self.capabilities().await?;
        ddl::engine_allowed(&user.engine, &can).map_err(refused)?;
        let schema = schema(&user, self.columns_of(&name).await?)?;
        self.change(&Statement::DropTable(&name), "scratch table", Settings::new()).await?;
        let again = Statement::CreatePlain { name: &name, schema: &schema };
        self.change(&again, "the table read back", Settings::new()).await?;
        let again = self.described(&name).await?.ok_or_else(lost)?;
        nothing_lost(&user, &again)?;
        Ok(schema)
    }

    /// How the server describes a table; `None` if there is none.
    pub(super) async fn described(&self, name: &TableName) -> Result<Option<Described>, Error> {
        let rows = self.look(&Statement::Table(name), "system.tables", Doing::Read).await?;
        Ok(rows.into_iter().next().and_then(Described::read))
    }

    /// A table's columns, in order. Every table has some: without any, it was dropped or renamed since it was
    /// described, which is told as missing.
    pub(super) async fn columns_of(&self, name: &TableName) -> Result<Vec<Column>, Error> {
        let rows = self.look(&Statement::Columns(name), "system.columns", Doing::Read).await?;
        let columns: Vec<_> = rows.into_iter().filter_map(column).collect();
        if columns.is_empty() { Err(Error::Missing(name.to_string())) } else { Ok(columns) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_old_scratch_is_left_behind() {
        let database = scratch_database(1_000_000, 7);
        assert_eq!(database, "_cvh_scratch_1000000_0000000000000007");
        assert!(!is_left_behind(&database, 1_000_100));
        assert!(is_left_behind(&database, 1_000_601));
        assert!(!is_left_behind("_cvh_scratch_mine", u64::MAX) && !is_left_behind("default", u64::MAX));
    }

    fn described(engine_full: &str, keys: [&str; 4]) -> Described {
        let [partition_key, sorting_key, primary_key, sampling_key] = keys.map(str::to_owned);
        Described {
            engine: "MergeTree".into(),
            engine_full: engine_full.into(),
            create_table_query: format!("CREATE TABLE d.t ( a UInt32) ENGINE = {engine_full}"),
            partition_key,
            sorting_key,
            primary_key,
            sampling_key,
        }
    }

    #[test]
    fn the_old_syntax_becomes_the_new_one() {
        let old = described("MergeTree(d, a, (a, d), 8192)", ["toYYYYMM(d)", "a, d", "a, d", "a"]);
        let schema = schema(&old, Vec::new()).unwrap();
        assert_eq!((schema.engine_arguments.as_str(), schema.primary_key.as_str()), ("", ""));
        assert_eq!(schema.settings, "index_granularity = 8192");
        let odd = described("MergeTree(d, f(x))", ["toYYYYMM(d)", "a", "a", ""]);
        assert!(super::schema(&odd, Vec::new()).unwrap_err().to_string().contains("ORDER BY"));
    }

    #[test]
    fn what_the_schema_lost_is_refused() {
        let user = described("MergeTree ORDER BY (a) TTL b", ["", "a", "a", ""]);
        let same = described("MergeTree ORDER BY a TTL b", ["", "a", "a", ""]);
        assert!(nothing_lost(&user, &same).is_ok(), "brackets that mean nothing");
        let without_ttl = described("MergeTree ORDER BY a", ["", "a", "a", ""]);
        assert!(nothing_lost(&user, &without_ttl).unwrap_err().to_string().contains("TTL"));
        let mut indexed = user.clone();
        indexed.create_table_query =
            indexed.create_table_query.replace("UInt32)", "UInt32, INDEX i a TYPE minmax)");
        assert!(nothing_lost(&indexed, &same).unwrap_err().to_string().contains("INDEX i"));
        let mut other_key = same;
        other_key.sorting_key = "b".into();
        assert!(nothing_lost(&user, &other_key).is_err());
        let old = described("MergeTree(d, a, 8192)", ["toYYYYMM(d)", "a", "a", ""]);
        let new = described("MergeTree PARTITION BY toYYYYMM(d) ORDER BY a", ["toYYYYMM(d)", "a", "a", ""]);
        assert!(nothing_lost(&old, &new).is_ok(), "old syntax is compared by columns and keys");
    }
}
