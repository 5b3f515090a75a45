//! Names that a failed `CREATE` has spoilt.
//!
//! A server writes a table's definition into `<name>.sql.tmp`, which must not be there yet, and renames that file. If
//! the write fails, for lack of space say, 18.16 leaves it behind, and from then on no table of that name can be made
//! nor renamed to ([`Error::Spoilt`]), until the server loads the database anew, as it does when it starts. So
//! - a name of our own choice is given up for another: gates take a higher number, tables of a moment a name by chance;
//! - for a name that is given, the database is detached and attached again, which loads it anew. For that moment
//!   its tables are not there, so it is done only if nobody loses by it (the callers see to that), and only once the
//!   server has shown that it can make a table again: else each try would leave another such file.
//!
//! What it does not do: keep a long shortage from leaving an empty file for each try. They go when the server starts.

use super::Error;
use super::http::Settings;
use super::real::HttpClickHouse;
use super::statement::Statement;
use crate::model::TableName;

/// How many names a table of a moment may take: the usual one, and enough by chance that one of them may be used
/// before and one after the name beside it is found to be spoilt too.
pub(super) const NAMES: usize = 4;
/// What Poco throws, of a directory that is not empty among others.
const POCO: u32 = 1000;

/// A number by chance: which names are spoilt cannot be seen, but they are few.
pub(super) fn by_chance() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}

/// Suffixes to try for a table of a moment; the first is empty.
pub(super) fn suffixes() -> [String; NAMES] {
    std::array::from_fn(|at| if at == 0 { String::new() } else { format!("_{:08x}", by_chance()) })
}

fn is_suffix(text: &str) -> bool {
    let by_chance = |hex: &str| hex.len() == 8 && hex.bytes().all(|b| b.is_ascii_hexdigit());
    text.is_empty() || text.strip_prefix('_').is_some_and(by_chance)
}

impl HttpClickHouse {
    /// Makes a database if it is not there, also if its own name is spoilt: attaching writes no definition.
    pub(super) async fn make_database(&self, database: &str) -> Result<(), Error> {
        match self.change(&Statement::CreateDatabase(database), database, Settings::new()).await {
            Err(Error::Spoilt(_)) => {
                self.change(&Statement::AttachDatabase(database), database, Settings::new()).await
            }
            made => made,
        }
    }

    /// Removes a database and all in it. 18.16 does it by half if a failed `CREATE` has left something in its folders:
    /// the database is gone then, and loaded once more so that the rest can go too. What cannot (the folder of a
    /// table that never came to be) holds no rows.
    pub(super) async fn remove_database(&self, database: &str) -> Result<(), Error> {
        let remove = Statement::DropDatabase(database);
        let id = || super::seed::with_id(&super::gates::drop_prefix(database));
        match self.change(&remove, database, id()).await {
            Err(Error::Overloaded { code: POCO, .. }) => {}
            removed => return removed,
        }
        self.make_database(database).await?;
        let removed = self.change(&remove, database, id()).await;
        if matches!(removed, Err(Error::Overloaded { code: POCO, .. })) {
            let there = self.names(&Statement::Databases).await?;
            return if there.iter().any(|name| name == database) { removed } else { Ok(()) };
        }
        removed
    }

    /// Drops the tables of a moment that a crash may have left: of that name, with any of [`suffixes`].
    pub(super) async fn drop_momentary(&self, database: &str, stem: &str) -> Result<(), Error> {
        for table in self.names(&Statement::Tables(database)).await? {
            if table.strip_prefix(stem).is_some_and(is_suffix) {
                let name = TableName { database: database.to_owned(), table };
                self.change(&Statement::DropTable(&name), &name.to_string(), Settings::new()).await?;
            }
        }
        Ok(())
    }

    /// Loads a database anew, if the server can make tables again: `create` makes `probe`, which is not there yet.
    pub(super) async fn load_anew(&self, create: &Statement<'_>, probe: &TableName) -> Result<(), Error> {
        let (database, what) = (probe.database.as_str(), probe.to_string());
        self.change(create, &what, Settings::new()).await?;
        self.change(&Statement::DropTable(probe), &what, Settings::new()).await?;
        tracing::warn!(database, "a failed CREATE has left a file in the way: the database is loaded anew");
        self.change(&Statement::DetachDatabase(database), database, Settings::new()).await?;
        // If this is never reached, the next `make_database` does it.
        self.change(&Statement::AttachDatabase(database), database, Settings::new()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_suffixes_are_taken_for_them() {
        let made = suffixes();
        assert!(
            made.iter().all(|suffix| is_suffix(suffix)) && made[0].is_empty() && made[1] != made[2],
            "{made:?}"
        );
        for other in ["s", "_", "_1", "_0123456", "_0123456g", "0123456789"] {
            assert!(!is_suffix(other), "{other}");
        }
    }
}
