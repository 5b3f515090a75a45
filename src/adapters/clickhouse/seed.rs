//! Seeding a replica on the real server.
//!
//! # What makes it a fence
//! A statement that was given up may still run, or wait in a socket. Each verb that changes a staging table therefore
//! first renames it to its next generation and waits for what still runs on it: later arrivals find no table of
//! their name. A copy goes into a table of its own, which nobody else ever names, and is linked from there, so a late
//! block of it lands nowhere. The last rename makes the staging table the local one.
//!
//! A table whose statements have all been answered needs no new name: nothing is on its way to it. That is known of
//! nonces of this process only, and forgotten while a verb changes the table. So the last link of a split, for which
//! its parents stand still, is a few statements.
//!
//! # Why a ClickHouse partition is cleared before it is replaced
//! On 18.16.1 `REPLACE PARTITION` over parts that are just being merged lets the merged part come back beside the new
//! ones (tried by hand: 6 000 010 rows instead of 10); `DROP PARTITION` stops merges first. The renaming waits for
//! merges too, but the next one may begin behind it. Nobody reads a staging table, so it need not be one step.

use super::elsewhere::{check_host, copy_is_late};
use super::errcode::Doing;
use super::gates::hash_of;
use super::http::{Call, Settings};
use super::real::{CHANGE_DEADLINE, HttpClickHouse};
use super::staging::{self, Change, Contents, Linked, Links};
use super::statement::Statement;
use super::{CopyLimits, Error, RemoteReplica, ReplicaTables, ddl};
use crate::model::names;
use crate::model::table::Schema;
use crate::model::{PartitionId, PartitionRange, TableName};
use futures::StreamExt;
use futures::future::{Either, select};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use uuid::Uuid;

/// How many ClickHouse partitions of a replica are linked at once.
const LINKS_AT_ONCE: usize = 8;

/// How long to wait for a copy's table to go: it may be in use until its killed copy notices.
const DISCARD_DEADLINE: Duration = Duration::from_secs(2);
/// How often a copy that is waited for is looked after.
const LOOK_AFTER_COPY: Duration = Duration::from_secs(10);
/// Looks in a row that find no such copy, after which it is given up.
const ABSENT_MAX: u32 = 2;
/// Silence of the other server after which a copy fails.
const SILENCE_S: &str = "30";

/// What is known of a staging table. Lost with the process, which costs links and renames.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// What was linked into it.
    links: Links,
    /// Every statement that was sent to it has been answered.
    quiet: bool,
    /// Nothing but links has come into it.
    only_links: bool,
    /// The server was told to merge nothing in it.
    unmerged: bool,
}

/// By replica database and nonce; each is held while the staging table changes.
pub(super) type Memory = BTreeMap<(String, u64), Arc<tokio::sync::Mutex<Known>>>;

/// What the ids of all statements begin with that change staging or copy tables of a nonce.
fn id_prefix(database: &str, nonce: u64) -> String {
    format!("{}{nonce}-", id_prefix_of_all(database))
}

/// What those of all nonces begin with.
pub(super) fn id_prefix_of_all(database: &str) -> String {
    format!("cvh-seed-{}-", hash_of(database))
}

/// Of those that link.
fn link_prefix(database: &str, nonce: u64) -> String {
    format!("{}link-", id_prefix(database, nonce))
}

/// Of those that copy a partition.
fn copy_prefix(database: &str, nonce: u64, partition: PartitionId) -> String {
    format!("{}copy-{}-", id_prefix(database, nonce), partition.0)
}

pub(super) fn with_id(prefix: &str) -> Settings {
    vec![("query_id".to_owned(), format!("{prefix}{}", Uuid::new_v4()))]
}

/// Settings of a copy, beside those that make it all rows or an error.
fn copy_settings(id_prefix: &str, limits: CopyLimits, unlimited_partitions: bool) -> Settings {
    let mut settings = with_id(id_prefix);
    let mut set = |name: &str, value: &str| settings.push((name.to_owned(), value.to_owned()));
    set("skip_unavailable_shards", "0");
    set("insert_deduplicate", "0");
    set("receive_timeout", SILENCE_S);
    set("send_timeout", SILENCE_S);
    // The statement holds a password.
    set("log_queries", "0");
    set("max_execution_time", &(limits.deadline_ms / 1_000 + 1).to_string());
    if limits.bytes_per_s > 0 {
        set("max_network_bandwidth", &limits.bytes_per_s.to_string());
    }
    if unlimited_partitions {
        set("max_partitions_per_insert_block", "0");
    }
    settings
}

impl HttpClickHouse {
    pub(super) async fn begin(&self, replica: &ReplicaTables, nonce: u64) -> Result<(), Error> {
        let (database, schema) = (replica.database.as_str(), &replica.schema);
        ddl::check_replica_database(database)?;
        self.make_database(database).await?;
        self.remove_staging(database, Some(nonce)).await?;
        // Not before: the last rename of an attempt whose answer was lost may land until now, and no longer.
        let local = Self::local(database);
        if self.described(&local).await?.is_some() {
            return Err(Error::Conflict(local.to_string()));
        }
        self.seeding().retain(|(seeded, of), _| seeded != database || *of == nonce);
        let source = Statement::CreateGateSource { database, schema };
        match self.change(&source, database, Settings::new()).await {
            Err(Error::Spoilt(name)) => {
                self.clear_names(replica, name).await?;
                self.change(&source, database, Settings::new()).await?;
            }
            made => made?,
        }
        match self.staging(database, nonce).await {
            Ok((name, _)) => self.check_local(&name, schema).await,
            Err(Error::Missing(_)) => {
                let name = TableName { database: database.to_owned(), table: names::staging(nonce, 1) };
                let made = Statement::CreateLocal { name: &name, schema };
                self.change(&made, &name.to_string(), Settings::new()).await?;
                let fresh = Known { quiet: true, only_links: true, ..Known::default() };
                *self.known(database, nonce).lock().await = fresh;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// A rename waits for merges under way, which in a staging table nobody needs: the larger what was linked, the
    /// longer its parents would stand still. They may go on as the replica's first gate opens.
    async fn keep_unmerged(&self, database: &str, nonce: u64) -> Result<(), Error> {
        let known = self.known(database, nonce);
        let mut known = known.lock().await;
        if !known.unmerged {
            self.merge(&self.staging(database, nonce).await?.0, false).await?;
            known.unmerged = true;
        }
        Ok(())
    }

    /// Lets the server merge a table's parts, or not. One that does not let us say so merges.
    pub(super) async fn merge(&self, name: &TableName, allowed: bool) -> Result<(), Error> {
        let merges = Statement::Merges { name, allowed };
        match self.change(&merges, &name.to_string(), Settings::new()).await {
            Err(Error::Refused { .. } | Error::Denied(_) | Error::Missing(_)) => Ok(()),
            told => told,
        }
    }

    fn known(&self, database: &str, nonce: u64) -> Arc<tokio::sync::Mutex<Known>> {
        self.seeding().entry((database.to_owned(), nonce)).or_default().clone()
    }

    pub(super) async fn link(
        &self,
        database: &str,
        nonce: u64,
        source: &str,
        range: PartitionRange,
    ) -> Result<u64, Error> {
        ddl::check_replica_database(source)?;
        let source = Self::local(source);
        if self.described(&source).await?.is_none() {
            return Err(Error::Missing(source.to_string()));
        }
        // Parts are linked as they are: what is still to be done to them would be done to the source's alone.
        let mutations = self.mutations(&source).await?;
        self.keep_unmerged(database, nonce).await?;
        let linked = self.link_from(database, nonce, &source, range).await?;
        self.check_mutations_since(&source, &mutations).await?;
        Ok(linked)
    }

    pub(super) async fn copy(
        &self,
        database: &str,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        limits: CopyLimits,
    ) -> Result<u64, Error> {
        check_host(&source.host)?;
        self.check_mutations_elsewhere(source).await?;
        let (_, tables) = self.staging(database, nonce).await?;
        let (target, prefix) = self.begin_copy(database, nonce, partition, tables).await;
        let copied = self.copy_by(&target, nonce, source, partition, (&prefix, limits)).await;
        self.end_copy(database, nonce, partition, (&target, &prefix), copied).await
    }

    /// Clears away what earlier copies of the partition left among these tables. Returns the name of the new one's
    /// table, and what the ids of its statements begin with.
    pub(super) async fn begin_copy(
        &self,
        database: &str,
        nonce: u64,
        partition: PartitionId,
        tables: Vec<String>,
    ) -> (TableName, String) {
        self.known(database, nonce).lock().await.only_links = false;
        let prefix = copy_prefix(database, nonce, partition);
        let own = names::copy_prefix(nonce, partition);
        for table in tables.into_iter().filter(|table| table.starts_with(&own)) {
            self.discard(&TableName { database: database.to_owned(), table }, &prefix).await;
        }
        let table = own + &Uuid::new_v4().simple().to_string();
        (TableName { database: database.to_owned(), table }, prefix)
    }

    /// Links what was copied into the staging table, if it went well, and removes the copy's table.
    pub(super) async fn end_copy(
        &self,
        database: &str,
        nonce: u64,
        partition: PartitionId,
        (target, prefix): (&TableName, &str),
        copied: Result<u64, Error>,
    ) -> Result<u64, Error> {
        let linked = match copied {
            Ok(rows) => {
                let one = PartitionRange::new(partition.0, partition.0 + 1).expect("not empty");
                self.link_from(database, nonce, target, one).await.map(|_| rows)
            }
            Err(error) => Err(error),
        };
        self.discard(target, prefix).await;
        linked
    }

    /// Makes a copy's table, which parts can be linked from into the staging table.
    pub(super) async fn make_copy_table(&self, target: &TableName, nonce: u64) -> Result<Schema, Error> {
        let mut known = self.staging(&target.database, nonce).await?.0;
        let schema = loop {
            match self.stored_schema(&known).await {
                // Another copy has just raised its generation.
                Err(Error::Missing(name)) => {
                    let now = self.staging(&target.database, nonce).await?.0;
                    if std::mem::replace(&mut known, now.clone()) == now {
                        return Err(Error::Missing(name));
                    }
                }
                schema => break schema?,
            }
        };
        let made = Statement::CreatePlain { name: target, schema: &schema };
        self.change(&made, &target.to_string(), Settings::new()).await?;
        Ok(schema)
    }

    pub(super) async fn finish(&self, database: &str, nonce: u64) -> Result<bool, Error> {
        let known = self.known(database, nonce);
        let mut known = known.lock().await;
        let gathered = if known.only_links { Vec::new() } else { self.taken_folders(database).await? };
        let local = Self::local(database);
        let ours = match self.unshared(database, nonce, &mut known).await {
            Ok(staging) => match self.make_local(staging, nonce).await {
                Ok(()) => true,
                // Somebody else finished before.
                Err(Error::Conflict(_)) => false,
                Err(error) => return Err(error),
            },
            Err(Error::Missing(name)) => {
                if self.described(&local).await?.is_none() {
                    return Err(Error::Missing(name));
                }
                false
            }
            Err(error) => return Err(error),
        };
        self.seeding().retain(|(seeded, _), _| seeded != database);
        self.remove_staging(database, None).await?;
        self.forget_taken(gathered).await;
        Ok(ours)
    }

    /// The staging table of a nonce, and the names of all tables of the database.
    pub(super) async fn staging(
        &self,
        database: &str,
        nonce: u64,
    ) -> Result<(TableName, Vec<String>), Error> {
        let tables = self.names(&Statement::Tables(database)).await?;
        let of_nonce = |table: &String| names::parse_staging(table).filter(|(of, _)| *of == nonce);
        let generation = tables.iter().filter_map(of_nonce).map(|(_, generation)| generation).max();
        let missing = || Error::Missing(format!("{database}.seed_{nonce}"));
        let table = names::staging(nonce, generation.ok_or_else(missing)?);
        Ok((TableName { database: database.to_owned(), table }, tables))
    }

    /// The staging table under a name to which nothing is on its way, to be changed by one verb alone.
    async fn unshared(&self, database: &str, nonce: u64, known: &mut Known) -> Result<TableName, Error> {
        match std::mem::take(&mut known.quiet) {
            true => Ok(self.staging(database, nonce).await?.0),
            false => self.next_generation(database, nonce).await,
        }
    }

    /// Gives the staging table its next name and waits for what runs on it: afterwards no earlier statement changes it.
    async fn next_generation(&self, database: &str, nonce: u64) -> Result<TableName, Error> {
        let (from, _) = self.staging(database, nonce).await?;
        let generation = names::parse_staging(&from.table).map_or(0, |(_, generation)| generation);
        let to = TableName { database: database.to_owned(), table: names::staging(nonce, generation + 1) };
        self.rename(&from, &to).await?;
        self.wait_for(&link_prefix(database, nonce), &from.to_string()).await?;
        Ok(to)
    }

    /// Links what differs; one call at a time, so that a generation is of one call.
    async fn link_from(
        &self,
        database: &str,
        nonce: u64,
        source: &TableName,
        range: PartitionRange,
    ) -> Result<u64, Error> {
        let known = self.known(database, nonce);
        let mut known = known.lock().await;
        let staging = self.unshared(database, nonce, &mut known).await?;
        // Taken out, and put back when all is done: after a failure, links are made again.
        let mut links = std::mem::take(&mut known.links);
        let (there, wanted) = (self.contents(&staging).await?, self.contents(source).await?);
        let changes = staging::changes(&there, (source, &wanted), &links, range);
        let count = changes.len() as u64;
        let prefix = link_prefix(database, nonce);
        let mut making = Vec::with_capacity(changes.len());
        for change in &changes {
            making.push(self.make(change, &staging, source, &prefix));
        }
        let made: Vec<_> = futures::stream::iter(making).buffer_unordered(LINKS_AT_ONCE).collect().await;
        made.into_iter().collect::<Result<(), Error>>()?;
        for Change { id, .. } in changes {
            match wanted.get(&id) {
                Some(content) => {
                    links.insert(id, Linked { source: source.clone(), parts: content.parts.clone() });
                }
                None => drop(links.remove(&id)),
            }
        }
        (known.links, known.quiet) = (links, true);
        Ok(count)
    }

    async fn make(
        &self,
        change: &Change,
        staging: &TableName,
        source: &TableName,
        id_prefix: &str,
    ) -> Result<(), Error> {
        let (name, partition_id) = (staging, change.id.as_str());
        let what = format!("partition {partition_id} of {name}");
        if change.clear {
            self.change(&Statement::DropPartition { name, partition_id }, &what, with_id(id_prefix)).await?;
        }
        if change.link {
            let link = Statement::ReplacePartition { name, partition_id, source };
            match self.change(&link, &what, with_id(id_prefix)).await {
                // New servers refuse when the source's partition has gone since we looked; old ones do nothing.
                Err(Error::Refused { .. }) if !self.contents(source).await?.contains_key(partition_id) => {}
                linked => return linked,
            }
        }
        Ok(())
    }

    pub(super) async fn contents(&self, table: &TableName) -> Result<Contents, Error> {
        let rows = self.look(&Statement::Parts(table), "system.parts", Doing::Read).await?;
        staging::contents(rows).map_err(ddl::refused)
    }

    /// Copies into a table of its own; returns its rows.
    async fn copy_by(
        &self,
        target: &TableName,
        nonce: u64,
        source: &RemoteReplica,
        partition: PartitionId,
        (id_prefix, limits): (&str, CopyLimits),
    ) -> Result<u64, Error> {
        let deadline = Duration::from_millis(limits.deadline_ms);
        let schema = self.make_copy_table(target, nonce).await?;
        let columns: Vec<String> = schema.columns.into_iter().map(|column| column.name).collect();
        let can = self.capabilities().await?;
        let call = Call {
            statement: &Statement::CopyRows { into: target, columns: &columns, source, partition },
            doing: Doing::Read,
            what: "copy of a partition",
            settings: copy_settings(id_prefix, limits, can.partitions_per_insert),
            deadline: deadline + CHANGE_DEADLINE,
        };
        let copy = async {
            let copy = std::pin::pin!(self.transport().execute(call, &can));
            match select(copy, std::pin::pin!(self.copy_is_gone(id_prefix))).await {
                Either::Left((ended, _)) => ended,
                Either::Right((gone, _)) => Err(gone),
            }
        };
        match tokio::time::timeout(deadline, copy).await {
            Ok(Ok(())) => Ok(self.contents(target).await?.values().map(|content| content.rows).sum()),
            // The target was made just now, so it is the source that is not there. Old servers tell it as 279.
            Ok(Err(Error::Missing(_))) => {
                let RemoteReplica { host, port, database, .. } = source;
                let message = format!("{host}:{port} has no {database}.{}", names::LOCAL_TABLE);
                Err(Error::Overloaded { code: 60, message })
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(copy_is_late(source, partition, deadline)),
        }
    }

    /// Ends when a copy is being waited for that does not run: its request or its answer was lost on the way, or the
    /// server was started anew. Its deadline is far too long to wait for.
    async fn copy_is_gone(&self, id_prefix: &str) -> Error {
        let mut absent = 0;
        while absent < ABSENT_MAX {
            tokio::time::sleep(LOOK_AFTER_COPY).await;
            let running = Statement::RunningQueries(id_prefix);
            match self.look(&running, "system.processes", Doing::Read).await {
                Ok(rows) if rows.first().is_some_and(|row| row != &["0"]) => absent = 0,
                // A server that cannot be asked does not answer the copy either.
                Ok(_) | Err(_) => absent += 1,
            }
        }
        let reason = "the server does not run it any more, and no answer came".to_owned();
        Error::OutcomeUnknown { what: "copy of a partition".to_owned(), reason }
    }

    /// A table's stored columns as they are, without what computes them, and its engine: parts of such a table can be
    /// linked into it, and every column can be inserted, also those that 18.16 wants computed.
    async fn stored_schema(&self, name: &TableName) -> Result<Schema, Error> {
        let described = self.described(name).await?.ok_or_else(|| Error::Missing(name.to_string()))?;
        let mut columns = self.columns_of(name).await?;
        columns.retain(|column| column.default_kind != "ALIAS");
        for column in &mut columns {
            column.default_kind.clear();
            column.default_expression.clear();
        }
        super::scratch::schema_of(&described, columns)
    }

    /// Stops a copy if it runs, and has the server remove its table once it has ended. That is not waited for: no
    /// copy uses the name again, and what cannot be removed now is removed when the seed is finished.
    async fn discard(&self, target: &TableName, id_prefix: &str) {
        let discard = async {
            self.kill(id_prefix).await?;
            let (statement, settings) = (Statement::DropTable(target), Settings::new());
            let (statement, doing, what) = (&statement, Doing::Change, "table of a copy");
            let call = Call { statement, doing, what, settings, deadline: DISCARD_DEADLINE };
            self.transport().execute(call, &self.capabilities().await?).await
        };
        if let Err(error) = discard.await {
            tracing::info!(table = %target, %error, "the table of a copy is not removed yet");
        }
    }

    /// Removes all staging and copy tables, except those of the nonce to keep.
    async fn remove_staging(&self, database: &str, keep: Option<u64>) -> Result<(), Error> {
        for table in self.names(&Statement::Tables(database)).await? {
            let copy = names::parse_copy(&table);
            let Some(nonce) = copy.or_else(|| names::parse_staging(&table).map(|(nonce, _)| nonce)) else {
                continue;
            };
            if Some(nonce) == keep {
                continue;
            }
            let name = TableName { database: database.to_owned(), table };
            if copy.is_some() {
                self.discard(&name, &id_prefix(database, nonce)).await;
                continue;
            }
            self.remove_one(name).await?;
        }
        Ok(())
    }

    /// Drops a staging table; one that a failed rename has parted from its rows is mended first.
    async fn remove_one(&self, name: TableName) -> Result<(), Error> {
        match self.change(&Statement::DropTable(&name), &name.to_string(), Settings::new()).await {
            Err(Error::Missing(_)) => {
                let mended = self.mend(&name).await?;
                self.change(&Statement::DropTable(&mended), &mended.to_string(), Settings::new()).await
            }
            dropped => dropped,
        }
    }
}
