//! The tables that users see: `Distributed` under the user's name, and beside it `<table>__insert`, an URL table
//! whose rows go to the daemon.
//!
//! Ours are known by what the server says of them: a `Distributed` table over a cluster that begins with `cvh_`, and
//! an URL table of the insert table's name. Anything else of those names is somebody's, and is left alone.

use super::http::Settings;
use super::real::HttpClickHouse;
use super::scratch::Described;
use super::statement::Statement;
use super::{DistributedTable, Error, ddl, spoilt};
use crate::model::{TableName, names};

/// What every cluster of ours begins with; see [`names::cluster`].
const CLUSTER_PREFIX: &str = "cvh_";
/// The new table, beside the one that it may replace.
const FRESH: &str = "fresh";
/// The old one, just after.
const RETIRED: &str = "retired";

/// The cluster of a `Distributed` table of ours; `None` if the table is not ours.
fn our_cluster(table: &Described) -> Option<String> {
    if table.engine != "Distributed" {
        return None;
    }
    let cluster = ddl::engine_clauses(&table.engine_full).ok()?.first_text?;
    cluster.starts_with(CLUSTER_PREFIX).then_some(cluster)
}

/// Whether a table is one of ours, by its name and description.
fn is_ours(table: &str, described: &Described) -> bool {
    our_cluster(described).is_some() || described.engine == "URL" && table.contains("__insert")
}

/// Two tables of a moment beside another, for replacing it.
struct Beside {
    fresh: TableName,
    retired: TableName,
}

/// A table's name, and names to try for what is made beside it.
struct Names {
    name: TableName,
    beside: [Beside; spoilt::NAMES],
}

impl Names {
    fn of(name: &TableName) -> Self {
        let table = |of: &str, suffix: &str| TableName {
            database: name.database.clone(),
            table: format!("{}{suffix}", Self::stem(name, of)),
        };
        let beside =
            |suffix: String| Beside { fresh: table(FRESH, &suffix), retired: table(RETIRED, &suffix) };
        Self { name: name.clone(), beside: spoilt::suffixes().map(beside) }
    }

    fn stem(name: &TableName, of: &str) -> String {
        format!("{}__cvh_{of}", name.table)
    }
}

impl HttpClickHouse {
    pub(super) async fn make_distributed(&self, table: &DistributedTable) -> Result<(), Error> {
        let name = &table.name;
        self.make_database(&name.database).await?;
        if self.described(name).await?.is_some_and(|found| our_cluster(&found).is_none()) {
            return Err(Error::Conflict(name.to_string()));
        }
        self.make_or_replace(&Names::of(name), |name| Statement::CreateDistributed {
            name,
            user: &table.name,
            schema: &table.schema,
            cluster: &table.cluster,
            sharding_key: &table.sharding_key,
        })
        .await?;
        let insert = names::insert_table(name);
        let found = self.described(&insert).await?;
        let Some(url) = &table.insert_url else {
            return match found {
                Some(found) if found.engine == "URL" => {
                    self.change(&Statement::DropTable(&insert), &insert.to_string(), Settings::new()).await
                }
                _ => Ok(()),
            };
        };
        if found.is_some_and(|found| found.engine != "URL") {
            return Err(Error::Conflict(insert.to_string()));
        }
        let create = |name| Statement::CreateInsertTable { name, schema: &table.schema, url };
        self.make_or_replace(&Names::of(&insert), create).await
    }

    /// Makes a table; one that is there is compared with a new one made beside it, and replaced if they differ.
    async fn make_or_replace<'a>(
        &self,
        names: &'a Names,
        create: impl Fn(&'a TableName) -> Statement<'a>,
    ) -> Result<(), Error> {
        let name = &names.name;
        let what = name.to_string();
        for beside in &names.beside {
            let made = match self.change(&create(name), &what, Settings::new()).await {
                Err(Error::Conflict(_)) => self.replace_if_it_differs(name, beside, &create).await,
                Err(Error::Spoilt(_)) => {
                    let [.., Beside { fresh: probe, .. }] = &names.beside;
                    self.clear_name(name, &create(probe), probe).await?;
                    continue;
                }
                made => made,
            };
            if !matches!(made, Err(Error::Spoilt(_))) {
                return made;
            }
        }
        Err(Error::Spoilt(what))
    }

    /// Makes a spoilt name usable if all tables of its database are ours: they hold no rows, and queries that miss
    /// one for a moment fail aloud. Another's tables are not taken away even so long.
    async fn clear_name(
        &self,
        name: &TableName,
        create: &Statement<'_>,
        probe: &TableName,
    ) -> Result<(), Error> {
        for table in self.names(&Statement::Tables(&name.database)).await? {
            let other = TableName { database: name.database.clone(), table };
            if self.described(&other).await?.is_some_and(|found| !is_ours(&other.table, &found)) {
                return Err(Error::Spoilt(name.to_string()));
            }
        }
        self.load_anew(create, probe).await?;
        self.drop_beside(name).await
    }

    /// Drops what an end in the middle left beside a table.
    async fn drop_beside(&self, name: &TableName) -> Result<(), Error> {
        for of in [FRESH, RETIRED] {
            self.drop_momentary(&name.database, &Names::stem(name, of)).await?;
        }
        Ok(())
    }

    async fn replace_if_it_differs<'a>(
        &self,
        name: &'a TableName,
        Beside { fresh, retired }: &'a Beside,
        create: &impl Fn(&'a TableName) -> Statement<'a>,
    ) -> Result<(), Error> {
        self.drop_beside(name).await?;
        self.change(&create(fresh), &fresh.to_string(), Settings::new()).await?;
        if !self.same_definition(name, fresh).await? {
            let replace = Statement::Replace { name, fresh, retired };
            self.change(&replace, &name.to_string(), Settings::new()).await?;
        }
        for left_over in [fresh, retired] {
            self.change(&Statement::DropTable(left_over), &left_over.to_string(), Settings::new()).await?;
        }
        Ok(())
    }

    pub(super) async fn remove_distributed(&self, name: &TableName, cluster: &str) -> Result<(), Error> {
        let of_cluster = |found: &Described| our_cluster(found).as_deref() == Some(cluster);
        match self.described(name).await? {
            Some(found) if !of_cluster(&found) => return Ok(()),
            Some(_) => {
                self.change(&Statement::DropTable(name), &name.to_string(), Settings::new()).await?;
            }
            None => {}
        }
        let insert = names::insert_table(name);
        if self.described(&insert).await?.is_some_and(|found| found.engine == "URL") {
            self.change(&Statement::DropTable(&insert), &insert.to_string(), Settings::new()).await?;
        }
        Ok(())
    }
}
