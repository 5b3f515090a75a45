//! What is asked of another server by way of this one, and whether tables still have mutations to be done: what is
//! made of such a table would lack them.

use super::errcode::Doing;
use super::http::Call;
use super::real::HttpClickHouse;
use super::statement::Statement;
use super::versions::Capabilities;
use super::{Error, RemoteReplica, ReplicaSizes, ddl, staging};
use crate::model::names;
use crate::model::{PartitionId, TableName};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// For a look at another server.
const LOOK_DEADLINE: Duration = Duration::from_secs(15);

/// A copy that took too long. It changed nothing, so it is safe to try again.
pub(super) fn copy_is_late(source: &RemoteReplica, partition: PartitionId, deadline: Duration) -> Error {
    let message = format!(
        "partition {partition} of {} on {}:{} was not copied within {} ms",
        source.database,
        source.host,
        source.port,
        deadline.as_millis()
    );
    Error::Overloaded { code: 159, message }
}

/// `remote()` reads lists and patterns in an address; a host's name has nothing of the kind.
pub(super) fn check_host(host: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-:[]%".contains(c);
    if !host.is_empty() && host.chars().all(plain) {
        return Ok(());
    }
    Err(ddl::refused(format!("{host:?} is no name of a host: see clickhouse_host of the node")))
}

impl HttpClickHouse {
    /// Refuses a table of which some parts are still to be changed.
    pub(super) async fn check_mutations(&self, local: &TableName) -> Result<(), Error> {
        let pending = self.names(&Statement::PendingMutations(local)).await?;
        if pending.first().is_some_and(|count| count == "0") {
            return Ok(());
        }
        Err(Error::Mutating(local.to_string()))
    }

    /// The mutations that a table has had; refuses one of which some are still to be done.
    pub(super) async fn mutations(&self, local: &TableName) -> Result<BTreeSet<String>, Error> {
        // First: one that comes between the looks is then seen by the second, or by those that look later.
        let had = self.names(&Statement::Mutations(local)).await?;
        self.check_mutations(local).await?;
        Ok(had.into_iter().collect())
    }

    /// Refuses a table that has got mutations since: what was taken of it may have some parts before and some after
    /// them.
    pub(super) async fn check_mutations_since(
        &self,
        local: &TableName,
        had: &BTreeSet<String>,
    ) -> Result<(), Error> {
        let has = self.names(&Statement::Mutations(local)).await?;
        if has.iter().all(|id| had.contains(id)) { Ok(()) } else { Err(Error::Mutating(local.to_string())) }
    }

    /// See [`ClickHouse::remote_sizes`](super::ClickHouse::remote_sizes).
    pub(super) async fn sizes_elsewhere(
        &self,
        source: &RemoteReplica,
    ) -> Result<BTreeMap<PartitionId, ReplicaSizes>, Error> {
        let rows = self.elsewhere(source, &Statement::RemoteSizes(source), "sizes elsewhere").await?;
        staging::sizes(&rows).map_err(ddl::refused)
    }

    /// A select reads rows as they are at that moment, changed or not.
    pub(super) async fn check_mutations_elsewhere(&self, source: &RemoteReplica) -> Result<(), Error> {
        let pending = Statement::RemoteMutations(source);
        let rows = self.elsewhere(source, &pending, "mutations elsewhere").await?;
        if rows.iter().flatten().all(|count| count == "0") {
            return Ok(());
        }
        Err(Error::Mutating(format!("{}.{} on {}", source.database, names::LOCAL_TABLE, source.host)))
    }

    /// Asks another server by way of this one.
    async fn elsewhere(
        &self,
        source: &RemoteReplica,
        statement: &Statement<'_>,
        what: &'static str,
    ) -> Result<Vec<Vec<String>>, Error> {
        check_host(&source.host)?;
        let call = Call {
            statement,
            doing: Doing::Read,
            what,
            // The statement holds a password; and a server that does not answer is not an empty one.
            settings: [("log_queries", "0"), ("skip_unavailable_shards", "0")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            deadline: LOOK_DEADLINE,
        };
        // It may be older than this one, and is sent what this one is: only settings that every server knows.
        self.transport().rows(call, &Capabilities::of("")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_no_pattern() {
        for host in ["h", "a-b.c_d", "10.0.0.1", "::1", "[fe80::1%eth0]"] {
            check_host(host).unwrap();
        }
        for pattern in ["", "h{1..3}", "a,b", "a|b", "a b", "a'b"] {
            assert!(check_host(pattern).is_err(), "{pattern}");
        }
    }
}
