//! What a server tells of itself and its cluster, for a trace made of system tables. Reads only.

use super::errcode::Doing;
use super::real::HttpClickHouse;
use super::statement::Statement;
use super::{ClickHouse, Error};

/// What is asked of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// Host name and clock.
    Host,
    /// All lines of `system.clusters`.
    Clusters,
    /// Bytes of active parts by table.
    Sizes,
    /// Whether there is a `system.part_log`.
    HasPartLog,
    /// Bytes of new parts by table and hour, of the last so many hours.
    Written(u32),
}

impl Question {
    /// As SQL.
    pub(super) fn sql(self) -> String {
        match self {
            Self::Host => "SELECT hostName(), toUInt32(now())".to_owned(),
            Self::Clusters => {
                "SELECT cluster, shard_num, replica_num, host_name, port, is_local FROM system.clusters \
                               ORDER BY cluster, shard_num, replica_num"
                    .to_owned()
            }
            Self::Sizes => "SELECT database, table, sum(bytes_on_disk) FROM system.parts \
                            WHERE active AND lower(database) NOT IN ('system', 'information_schema') \
                            GROUP BY database, table ORDER BY database, table"
                .to_owned(),
            Self::HasPartLog => {
                "SELECT count() FROM system.tables WHERE database = 'system' AND name = 'part_log'".to_owned()
            }
            // 18.16 says NEW_PART, later servers NewPart.
            Self::Written(hours) => format!(
                "SELECT database, table, toUInt32(toStartOfHour(event_time)) AS hour, sum(size_in_bytes) \
                 FROM system.part_log WHERE toString(event_type) IN ('NewPart', 'NEW_PART') \
                   AND event_time >= now() - {} \
                 GROUP BY database, table, hour ORDER BY hour, database, table",
                u64::from(hours) * 3_600
            ),
        }
    }
}

/// One line of `system.clusters`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterLine {
    /// Which cluster.
    pub cluster: String,
    /// Shard, from 1.
    pub shard: u32,
    /// Replica, from 1.
    pub replica: u32,
    /// `host:port` as the server names it.
    pub address: String,
    /// It is the server that was asked.
    pub is_local: bool,
}

/// What a server has of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// Bytes of active parts.
    pub bytes: u64,
}

/// What was written in an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// When the hour began.
    pub hour_unix_s: u64,
    /// Bytes of new parts.
    pub bytes: u64,
}

/// All of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// The server's host name.
    pub host: String,
    /// Its clock.
    pub now_unix_s: u64,
    /// Its disk; 0 where it does not tell.
    pub disk_total_bytes: u64,
    /// Clusters that it knows.
    pub clusters: Vec<ClusterLine>,
    /// What it holds.
    pub held: Vec<Held>,
    /// What was written; `None`: it keeps no `system.part_log`.
    pub written: Option<Vec<Written>>,
}

impl HttpClickHouse {
    /// Asks for all that a trace needs, with what was written in the last so many hours.
    ///
    /// # Errors
    /// The server does not answer, or refuses.
    pub async fn survey(&self, hours: u32) -> Result<Survey, Error> {
        let info = self.server_info().await?;
        let host = self.ask(Question::Host).await?.into_iter().next().unwrap_or_default();
        let has_log = self.ask(Question::HasPartLog).await?;
        let written = if has_log.first().is_some_and(|row| number(row, 0) > 0) {
            let rows = self.ask(Question::Written(hours)).await?;
            Some(rows.iter().map(|row| written(row)).collect())
        } else {
            None
        };
        Ok(Survey {
            host: text(&host, 0),
            now_unix_s: number(&host, 1),
            disk_total_bytes: info.disk_total_bytes,
            clusters: self.ask(Question::Clusters).await?.iter().map(|row| line(row)).collect(),
            held: self.ask(Question::Sizes).await?.iter().map(|row| held(row)).collect(),
            written,
        })
    }

    async fn ask(&self, question: Question) -> Result<Vec<Vec<String>>, Error> {
        self.look(&Statement::Survey(question), "system tables", Doing::Read).await
    }
}

fn text(row: &[String], at: usize) -> String {
    row.get(at).cloned().unwrap_or_default()
}

/// A field that the server itself has made a number of.
fn number(row: &[String], at: usize) -> u64 {
    row.get(at).and_then(|field| field.parse().ok()).unwrap_or(0)
}

fn small(row: &[String], at: usize) -> u32 {
    u32::try_from(number(row, at)).unwrap_or(u32::MAX)
}

fn line(row: &[String]) -> ClusterLine {
    ClusterLine {
        cluster: text(row, 0),
        shard: small(row, 1),
        replica: small(row, 2),
        address: format!("{}:{}", text(row, 3), text(row, 4)),
        is_local: number(row, 5) > 0,
    }
}

fn held(row: &[String]) -> Held {
    Held { database: text(row, 0), table: text(row, 1), bytes: number(row, 2) }
}

fn written(row: &[String]) -> Written {
    let (database, table) = (text(row, 0), text(row, 1));
    Written { database, table, hour_unix_s: number(row, 2), bytes: number(row, 3) }
}
