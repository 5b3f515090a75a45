//! A replica's tables and its gates.
//!
//! Inserts go through a materialized view `gate_<n>` whose target is the local table: writing into the view writes
//! straight into the target. Closing a gate is dropping the view. What makes that a fence, on every version:
//! 1. the server lists a query as running before it looks its table up, and until its last part is in place;
//! 2. so once the view is dropped and no query with the replica's id prefix runs, every insert through it has either
//!    ended or will not find its table.
//!
//! (18.16's `DROP` waits for running inserts by itself, newer ones' does with `SYNC`; the look at the list does not
//! rely on it.) An insert's statement travels in one frame with its rows, so nobody holds a gate by sending slowly.
//!
//! # Whoever renews last owns the only open gate
//! Two may renew at once, and one be held up for long between its look at the numbers and its `CREATE`. So whoever has
//! made a gate looks again: only if no number is higher does it close the others and go on with its own; else it
//! renews once more, above that one. That is enough:
//! - the highest gate ever made is there for good, since one is dropped only after a higher one was made;
//! - so what is the highest in its maker's look is above all gates made before. The maker of one made later either is
//!   above it, finds it in its own look, and closes it before it goes on; or is below it, finds that, and goes on
//!   with neither. A gate whose maker does not go on lets nothing in: nobody else learns its number;
//! - numbers go up by chance, so a late `CREATE` does not make anew a gate through which an insert is still under way.
//!
//! Two who overtake each other time and again end with an error, and are asked again.
//!
//! A gate that is shut (`shut_<n>`) lets nothing in and has a number as the others, above all that were open. Who finds
//! one as the newest shuts none above it: the halves of a split close their parent at the same moment, and each looks
//! afterwards whether the number is still that of its own closing.

use super::errcode::Doing;
use super::http::Settings;
use super::real::{CHANGE_DEADLINE, HttpClickHouse};
use super::statement::Statement;
use super::{Error, Insert, ReplicaTables, ddl, spoilt, sql};
use crate::model::TableName;
use crate::model::names::{self, HIDDEN_PREFIX};
use crate::model::table::Schema;
use std::time::Duration;

/// Between two looks at the list of running queries.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often a gate that was to be the highest may not be: others are faster, or a failed `CREATE` is in its way.
const TRIES_MAX: u32 = 20;
/// What the names of tables begin with that are made beside a local one for a moment, to be compared with it.
const SHAPE: &str = "shape";

/// A gate that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub number: u64,
    /// The replica never had a gate before: nobody has inserted anything.
    pub is_first: bool,
}

/// Gates that were closed for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Shut {
    /// What [`ClickHouse::newest_gate`](super::ClickHouse::newest_gate) goes on to say until somebody opens one again.
    pub number: u64,
    /// The gate that was the newest of all before: nobody has had another since it was opened. `None` if it is not
    /// known which that was.
    pub over: Option<u64>,
}

/// What the query ids of all inserts into a replica begin with: `cvh-<hash of its database>-`. Such ids come back
/// in HTTP headers, so the name itself, which may hold anything, is not in them.
fn query_id_prefix(database: &str) -> String {
    format!("{}{}-", sql::OWN_QUERY_PREFIX, hash_of(database))
}

/// A database's part of the query ids that concern it.
pub(super) fn hash_of(database: &str) -> String {
    format!("{:08x}", crc32fast::hash(database.as_bytes()))
}

/// What the ids of statements begin with that drop a database.
pub(super) fn drop_prefix(database: &str) -> String {
    format!("{}drop-{}-", sql::OWN_QUERY_PREFIX, hash_of(database))
}

/// The id under which an insert runs: prefix, gate, then what the caller chose, in header-safe characters.
pub(super) fn query_id(insert: &Insert) -> String {
    let chosen: String = insert.query_id.chars().filter(char::is_ascii_graphic).collect();
    format!("{}g{}-{chosen}", query_id_prefix(&insert.database), insert.gate)
}

/// A gate among the tables of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Gate {
    number: u64,
    is_open: bool,
}

/// The gate that a table is; `None` for other tables.
fn gate_of(table: &str) -> Option<Gate> {
    let (kind, number) = table.split_once('_')?;
    let number: u64 = number.parse().ok()?;
    let is_open = kind == "gate";
    let name = if is_open { names::gate(number) } else { names::shut_gate(number) };
    (name == table).then_some(Gate { number, is_open })
}

/// The one with the highest number.
fn newest_of(tables: &[String]) -> Option<Gate> {
    tables.iter().filter_map(|table| gate_of(table)).max()
}

impl HttpClickHouse {
    pub(super) async fn make_replica(&self, replica: &ReplicaTables) -> Result<(), Error> {
        let database = replica.database.as_str();
        ddl::check_replica_database(database)?;
        self.make_database(database).await?;
        match self.make_tables(replica).await {
            Err(Error::Spoilt(name)) => {
                self.clear_names(replica, name).await?;
                self.make_tables(replica).await
            }
            made => made,
        }
    }

    async fn make_tables(&self, replica: &ReplicaTables) -> Result<(), Error> {
        let database = replica.database.as_str();
        let local = Self::local(database);
        let made = Statement::CreateLocal { name: &local, schema: &replica.schema };
        match self.change(&made, &local.to_string(), Settings::new()).await {
            Err(Error::Conflict(_)) => self.check_local(&local, &replica.schema).await?,
            made => made?,
        }
        let source = Statement::CreateGateSource { database, schema: &replica.schema };
        self.change(&source, database, Settings::new()).await
    }

    /// Makes spoilt names usable, as long as there is nothing in the database but what makes a replica: no gate, so
    /// nothing is being inserted.
    pub(super) async fn clear_names(&self, replica: &ReplicaTables, spoilt: String) -> Result<(), Error> {
        let database = replica.database.as_str();
        self.drop_momentary(database, SHAPE).await?;
        let tables = self.names(&Statement::Tables(database)).await?;
        if tables.iter().any(|table| table != names::LOCAL_TABLE && table != sql::GATE_SOURCE) {
            return Err(Error::Spoilt(spoilt));
        }
        let table = format!("{SHAPE}_{:08x}", spoilt::by_chance());
        let probe = TableName { database: database.to_owned(), table };
        let create = Statement::CreateLocal { name: &probe, schema: &replica.schema };
        self.load_anew(&create, &probe).await
    }

    /// Conflict unless the local (or staging) table that is there is what it should be: a second one is made beside
    /// it and the server's descriptions are compared.
    pub(super) async fn check_local(&self, local: &TableName, schema: &Schema) -> Result<(), Error> {
        self.drop_momentary(&local.database, SHAPE).await?;
        for suffix in spoilt::suffixes() {
            let shape = TableName { database: local.database.clone(), table: format!("{SHAPE}{suffix}") };
            let what = shape.to_string();
            let made = Statement::CreateLocal { name: &shape, schema };
            match self.change(&made, &what, Settings::new()).await {
                Err(Error::Spoilt(_)) => continue,
                made => made?,
            }
            let same = self.same_definition(local, &shape).await;
            self.change(&Statement::DropTable(&shape), &what, Settings::new()).await?;
            return if same? { Ok(()) } else { Err(Error::Conflict(local.to_string())) };
        }
        Err(Error::Spoilt(format!("{}.{SHAPE}", local.database)))
    }

    /// Whether two tables differ in nothing but their names.
    pub(super) async fn same_definition(&self, one: &TableName, two: &TableName) -> Result<bool, Error> {
        let (Some(one), Some(two)) = (self.described(one).await?, self.described(two).await?) else {
            return Ok(false);
        };
        let (one, two) =
            (ddl::definition_of(&one.create_table_query)?, ddl::definition_of(&two.create_table_query)?);
        Ok(one == two)
    }

    pub(super) async fn renew(&self, database: &str) -> Result<Opened, Error> {
        // A removal whose answer did not come may still wait for a reader: what is begun here would go with the rest.
        self.wait_for(&drop_prefix(database), &format!("removal of {database}")).await?;
        let source = TableName { database: database.to_owned(), table: sql::GATE_SOURCE.to_owned() };
        let mut columns = self.columns_of(&source).await?;
        columns.retain(|column| !column.name.starts_with(HIDDEN_PREFIX));
        let schema = &Schema { columns, ..Schema::default() };
        let newest = self.newest(database).await?;
        if newest == 0 {
            // It was filled without merges. Said before there is a gate: as long as there is none, whoever comes next
            // says it again; afterwards an operator may have stopped them.
            self.merge(&Self::local(database), true).await?;
        }
        let gate = |number| Statement::CreateGate { database, schema, number };
        let (number, below) = self.make_highest(database, newest, gate).await?;
        Ok(Opened { number, is_first: below.is_none() })
    }

    pub(super) async fn newest(&self, database: &str) -> Result<u64, Error> {
        let tables = self.names(&Statement::Tables(database)).await?;
        Ok(newest_of(&tables).map_or(0, |gate| gate.number))
    }

    pub(super) async fn close(&self, database: &str) -> Result<Shut, Error> {
        let closed = self.closed().entry(database.to_owned()).or_default().clone();
        let mut closed = closed.lock().await;
        let tables = self.names(&Statement::Tables(database)).await?;
        let Some(Gate { number: newest, is_open }) = newest_of(&tables) else { return Ok(Shut::default()) };
        // Whoever shut it may not have come to the end.
        if !is_open && self.close_below(database, newest).await?.is_some() {
            return Ok(if closed.number == newest { *closed } else { Shut { number: newest, over: None } });
        }
        // A closed gate takes a number above, so that the number of an open one never comes again.
        let gate = |number| Statement::CreateClosedGate { database, number };
        match self.make_highest(database, newest, gate).await {
            Err(Error::Missing(_)) => Ok(Shut::default()),
            made => {
                let (number, below) = made?;
                let shut = Shut { number, over: below.filter(|gate| gate.is_open).map(|gate| gate.number) };
                *closed = shut;
                Ok(shut)
            }
        }
    }

    /// Asks the server to stop our queries whose id begins so.
    pub(super) async fn kill(&self, id_prefix: &str) -> Result<(), Error> {
        match self.change(&Statement::KillQueries(id_prefix), "queries", Settings::new()).await {
            // 18.16 cannot kill an insert (code 380).
            Ok(()) | Err(Error::Refused { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a gate above all others, of which the newest was just seen to be that one, and closes those; tells its
    /// number and the highest before.
    async fn make_highest<'a>(
        &self,
        database: &str,
        mut newest: u64,
        gate: impl Fn(u64) -> Statement<'a>,
    ) -> Result<(u64, Option<Gate>), Error> {
        for tries in 0..TRIES_MAX {
            if tries > 0 {
                newest = self.newest(database).await?;
            }
            // By chance: see above; a replica that is made again does not count on from the one before; and a shortage
            // may have spoilt many names in a row.
            let number = newest + 1 + u64::from(spoilt::by_chance());
            let (gate, what) = (gate(number), format!("{database}.{}", names::gate(number)));
            match self.change(&gate, &what, Settings::new()).await {
                Err(Error::Conflict(_) | Error::Spoilt(_)) => continue,
                made => made?,
            }
            // The new gate is made before the old ones go: a crash in between leaves a higher number, never none.
            if let Some(below) = self.close_below(database, number).await? {
                return Ok((number, below));
            }
        }
        let reason = "another is made above it each time".to_owned();
        Err(Error::OutcomeUnknown { what: format!("gate of {database}"), reason })
    }

    /// Removes the gates below a number and waits for the inserts through them; tells the highest of them. Does nothing
    /// if the number is not the highest, and tells nothing.
    async fn close_below(&self, database: &str, number: u64) -> Result<Option<Option<Gate>>, Error> {
        let tables = self.names(&Statement::Tables(database)).await?;
        if newest_of(&tables).map(|gate| gate.number) != Some(number) {
            return Ok(None);
        }
        let below =
            tables.iter().filter_map(|table| gate_of(table)).filter(|gate| gate.number < number).max();
        let prefix = query_id_prefix(database);
        // Only to be quick.
        self.kill(&prefix).await?;
        for table in tables {
            if gate_of(&table).is_some_and(|old| old.number < number) {
                let gate = TableName { database: database.to_owned(), table };
                self.change(&Statement::DropTable(&gate), &gate.to_string(), Settings::new()).await?;
            }
        }
        self.wait_for(&prefix, &format!("gate of {database}")).await?;
        Ok(Some(below))
    }

    /// Waits until none of our queries runs whose id begins so.
    pub(super) async fn wait_for(&self, prefix: &str, what: &str) -> Result<(), Error> {
        let wait = async {
            loop {
                let running = Statement::RunningQueries(prefix);
                let rows = self.look(&running, "system.processes", Doing::Read).await?;
                if rows.first().is_some_and(|row| row == &["0"]) {
                    return Ok(());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let late = || {
            let reason = "earlier statements still run".to_owned();
            Err(Error::OutcomeUnknown { what: what.to_owned(), reason })
        };
        tokio::time::timeout(CHANGE_DEADLINE, wait).await.unwrap_or_else(|_| late())
    }
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
