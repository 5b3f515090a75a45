//! Renaming staging tables where a rename that fails does harm: 18.16.1.
//!
//! It moves the table's folder first, then writes the definition under the new name. If that fails (no space, or a
//! [spoilt](super::spoilt) name), the table goes on under its old name with its rows under the new one: it cannot be
//! dropped, and is empty after a restart. Another rename brings both together again. A crash between the two leaves a
//! folder without a table in the way of later renames to that name.

use super::http::Settings;
use super::real::HttpClickHouse;
use super::statement::Statement;
use super::{Error, ddl, spoilt};
use crate::model::TableName;
use crate::model::names;

/// What 18.16 answers if a folder is in the way.
const FOLDER_IN_THE_WAY: u32 = 84;

impl HttpClickHouse {
    /// Renames a staging table. If that fails it is whole under the old name or under a later generation's, as far as
    /// the server lets it.
    pub(super) async fn rename(&self, from: &TableName, to: &TableName) -> Result<(), Error> {
        let renamed = self.change(&Statement::Rename { from, to }, &from.to_string(), Settings::new()).await;
        if let Err(Error::Spoilt(_) | Error::Overloaded { .. }) = &renamed
            && let Err(error) = self.mend(from).await
        {
            tracing::warn!(table = %from, %error, "a failed RENAME has left the table in two places");
        }
        renamed
    }

    /// Gives a staging table a name by chance, of a later generation; tells it.
    pub(super) async fn mend(&self, from: &TableName) -> Result<TableName, Error> {
        let (nonce, generation) =
            names::parse_staging(&from.table).ok_or_else(|| Error::Missing(from.to_string()))?;
        let later = generation + 2 + u64::from(spoilt::by_chance());
        let to = TableName { database: from.database.clone(), table: names::staging(nonce, later) };
        self.change(&Statement::Rename { from, to: &to }, &from.to_string(), Settings::new()).await?;
        Ok(to)
    }

    /// Makes a filled staging table the local one, also where a failure or a crash has left something in the way.
    /// No gate is open yet and nobody reads, so the database may be gone for a moment.
    pub(super) async fn make_local(&self, staging: TableName, nonce: u64) -> Result<(), Error> {
        let local = Self::local(&staging.database);
        let wanted = self.contents(&staging).await?;
        match self.rename(&staging, &local).await {
            Err(Error::Spoilt(_)) => {
                let probe = TableName {
                    database: local.database.clone(),
                    table: format!("probe_{:08x}", spoilt::by_chance()),
                };
                self.load_anew(&Statement::CreateProbe(&probe), &probe).await?;
            }
            Err(Error::Refused { code: FOLDER_IN_THE_WAY, .. }) => {
                let described = self.described(&staging).await?;
                let described = described.ok_or_else(|| Error::Missing(staging.to_string()))?;
                let definition = ddl::definition_of(&described.create_table_query)?;
                // Taken up as a table, it can be dropped.
                let attach = Statement::AttachTable { name: &local, definition: &definition };
                self.change(&attach, &local.to_string(), Settings::new()).await?;
                self.change(&Statement::DropTable(&local), &local.to_string(), Settings::new()).await?;
            }
            renamed => return renamed,
        }
        let (staging, _) = self.staging(&local.database, nonce).await?;
        if self.contents(&staging).await? != wanted {
            return Err(Error::Spoilt(local.to_string()));
        }
        self.rename(&staging, &local).await
    }
}
