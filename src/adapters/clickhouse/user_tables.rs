//! The tables that users see: `Distributed` under the user's name, and beside it `<table>__insert`, an URL table
//! whose rows go to the daemon.
//!
//! Ours are known by what the server says of them: a `Distributed` table over a cluster that begins with `cvh_`, and
//! an URL table of the insert table's name. Anything else of those names is somebody's, and is left alone.

use super::http::Settings;
use super::real::HttpClickHouse;
use super::scratch::Described;
use super::statement::Statement;
use super::{DistributedTable, Error, ddl};
use crate::model::{TableName, names};

/// What every cluster of ours begins with; see [`names::cluster`].
const CLUSTER_PREFIX: &str = "cvh_";

/// The cluster of a `Distributed` table of ours; `None` if the table is not ours.
fn our_cluster(table: &Described) -> Option<String> {
    if table.engine != "Distributed" {
        return None;
    }
    let cluster = ddl::engine_clauses(&table.engine_full).ok()?.first_text?;
    cluster.starts_with(CLUSTER_PREFIX).then_some(cluster)
}

/// A table's name and two of ours beside it, for replacing it.
struct Names {
    name: TableName,
    fresh: TableName,
    retired: TableName,
}

impl Names {
    fn of(name: &TableName) -> Self {
        let beside = |suffix| TableName {
            database: name.database.clone(),
            table: format!("{}__cvh_{suffix}", name.table),
        };
        Self { name: name.clone(), fresh: beside("fresh"), retired: beside("retired") }
    }
}

impl HttpClickHouse {
    pub(super) async fn make_distributed(&self, table: &DistributedTable) -> Result<(), Error> {
        let name = &table.name;
        self.change(&Statement::CreateDatabase(&name.database), &name.database, Settings::new()).await?;
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
        let Names { name, fresh, retired } = names;
        match self.change(&create(name), &name.to_string(), Settings::new()).await {
            Err(Error::Conflict(_)) => {}
            made => return made,
        }
        for left_over in [fresh, retired] {
            self.change(&Statement::DropTable(left_over), &left_over.to_string(), Settings::new()).await?;
        }
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
