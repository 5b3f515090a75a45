//! A user's `CREATE TABLE`, read by a ClickHouse server: one beside the leader, else any other that is up. So one
//! server that is down stops no table from being made.

use super::Lead;
use super::create::of_clickhouse;
use crate::adapters::clickhouse::{self, ClickHouse};
use crate::adapters::clock::Clock;
use crate::adapters::peers::Error;
use crate::model::control::{DdlAsked, ParsedDdl};
use crate::model::observed::answers;
use std::collections::BTreeSet;
use std::sync::Arc;

/// By the first of these servers that answers.
///
/// # Errors
/// [`Error::Invalid`] is a server's word on the table; of those that do not answer the first one's reason is told.
pub async fn here(
    servers: Vec<Arc<dyn ClickHouse>>,
    clock: &dyn Clock,
    asked: &DdlAsked,
) -> Result<ParsedDdl, Error> {
    let mut first = None;
    for server in servers {
        match read(server.as_ref(), clock.random(), asked).await {
            Err(error) if !of_the_table(&error) => {
                first.get_or_insert(error);
            }
            read => return read.map_err(of_clickhouse),
        }
    }
    let none = || Error::Unavailable("no ClickHouse is beside this daemon".into());
    Err(first.map_or_else(none, of_clickhouse))
}

async fn read(server: &dyn ClickHouse, nonce: u64, asked: &DdlAsked) -> Result<ParsedDdl, clickhouse::Error> {
    let (name, schema) = server.parse_ddl(&asked.ddl, nonce).await?;
    let partition_by = match server.type_of(&schema, &asked.partition_by).await {
        Ok(data_type) => Ok(data_type),
        Err(clickhouse::Error::Refused { message, .. }) => Err(message),
        Err(error) => return Err(error),
    };
    Ok(ParsedDdl { name, schema, partition_by })
}

/// Whether another server would say the same.
fn of_the_table(error: &clickhouse::Error) -> bool {
    use clickhouse::Error as E;
    matches!(error, E::Refused { .. } | E::BadRows { .. } | E::Conflict(_))
}

/// By a server beside the leader, else by one beside another daemon.
///
/// # Errors
/// As [`here`]; if nobody answers, the reason of the leader's own.
pub async fn anywhere(lead: &Lead, asked: &DdlAsked) -> Result<ParsedDdl, Error> {
    let own = lead.neighbours.daemon(lead.neighbours.own_url());
    let first = match own.parse_ddl(asked.clone()).await {
        Err(error) if !matches!(error, Error::Invalid(_)) => error,
        parsed => return parsed,
    };
    for url in others(lead) {
        tracing::info!(url, error = %first, "the leader's ClickHouse cannot read a table: asking another daemon");
        match lead.neighbours.daemon(&url).parse_ddl(asked.clone()).await {
            Err(error) if !matches!(error, Error::Invalid(_)) => {
                tracing::warn!(url, %error, "nor does that one");
            }
            parsed => return parsed,
        }
    }
    Err(first)
}

/// The other daemons beside whose servers one is not known to be down.
fn others(lead: &Lead) -> BTreeSet<String> {
    let (view, reports) = (lead.view.read(), lead.observed.read());
    let nodes = view.nodes.iter().filter(|(id, _)| view.is_live(id) && answers(&reports.heartbeats, id));
    let urls = nodes.map(|(_, node)| node.record.daemon_url.clone());
    urls.filter(|url| url != lead.neighbours.own_url()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clickhouse::SimClickHouse;
    use crate::adapters::clock::SimClock;
    use crate::adapters::routes::SimRoutes;

    async fn parse(up: [bool; 2], ddl: &str) -> Result<ParsedDdl, Error> {
        let server = |up: bool| -> Arc<dyn ClickHouse> {
            let server = SimClickHouse::new(SimRoutes::new());
            server.set_up(up);
            Arc::new(server)
        };
        let asked = DdlAsked { ddl: ddl.into(), partition_by: "a".into() };
        here(up.map(server).into(), &SimClock::new(0, 1), &asked).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_leaves_the_word_to_the_next_and_a_refusal_is_the_last() {
        let ddl = "CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a";
        for up in [[true, true], [false, true], [true, false]] {
            let parsed = parse(up, ddl).await.unwrap();
            assert_eq!((parsed.name.table.as_str(), parsed.partition_by), ("t", Ok("UInt64".into())));
        }
        let error = parse([false, false], ddl).await.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(text) if text.contains("CVH-0401")), "{error}");
        let error = parse([false, true], "CREATE NOTHING").await.unwrap_err();
        assert!(matches!(error, Error::Invalid(_)), "{error}");
    }
}
