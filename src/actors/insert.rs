//! Rows from a client to their topics (C5): ClickHouse says which partition each row belongs to, each row becomes
//! one message of that partition's topic, and every replica's consumer takes it from there.
//!
//! All rows are acknowledged by Kafka, or the client is told otherwise. A client that repeats an insert whose answer
//! it never got sends its rows twice, as with any queue, unless it has given them a name (H6): a named batch goes in
//! whole or not at all, and once, as [`Kafka::produce_once`] has it.

use super::leader::create::{of_clickhouse, of_kafka};
use super::replica::encode;
use crate::adapters::clickhouse::ClickHouse;
use crate::adapters::kafka::{BatchFate, Kafka, NamedBatch, Outgoing};
use crate::adapters::peers::Error;
use crate::model::PartitionId;
use crate::model::batch::{BatchName, BatchNote};
use crate::model::control::Inserted;
use crate::model::names;
use crate::model::table::{MessageFormat, Table};
use bytes::Bytes;
use std::collections::BTreeSet;

/// Rows on their way to a table.
pub struct Rows<'a> {
    /// Where to.
    pub table: &'a Table,
    /// How `body` is written.
    pub format: MessageFormat,
    /// The rows.
    pub body: Bytes,
}

impl Rows<'_> {
    /// Sends the rows to their topics; with a name, as a batch.
    pub async fn insert(
        self,
        clickhouse: &dyn ClickHouse,
        kafka: &dyn Kafka,
        batch: Option<(&str, BatchName)>,
    ) -> Result<Inserted, Error> {
        if let Some(why) = kafka.no_transactions().filter(|_| batch.is_some()) {
            return Err(Error::Refused(format!("{why}: nothing was sent; insert without a batch name")));
        }
        let messages = self.messages(clickhouse).await?;
        let distinct: BTreeSet<_> = messages.iter().map(|message| &message.target).collect();
        let partitions = u32::try_from(distinct.len()).expect("partitions are u32");
        let rows = messages.len() as u64;
        let Some((cluster, batch)) = batch else {
            kafka.produce(messages).await.map_err(of_kafka)?;
            return Ok(Inserted { rows, partitions, before: false });
        };
        let note = BatchNote { rows, partitions, hash: self.hash() };
        let mark = names::topic_partition(&self.table.source, PartitionId(0));
        let name = names::import_batch(cluster, self.table.id, &batch);
        let whole = NamedBatch { name, mark, note: note.to_string(), messages };
        let fate = kafka.produce_once(whole).await.map_err(|error| of_kafka(error).of_batch())?;
        match fate {
            BatchFate::Sent => Ok(Inserted { rows, partitions, before: false }),
            BatchFate::SentBefore(told) => match BatchNote::decode(&told) {
                Some(before) if before.hash == note.hash => {
                    Ok(Inserted { rows: before.rows, partitions: before.partitions, before: true })
                }
                before => Err(other_rows(&batch, before.as_ref())),
            },
        }
    }

    async fn messages(&self, clickhouse: &dyn ClickHouse) -> Result<Vec<Outgoing>, Error> {
        let (table, format) = (self.table, self.format);
        if format != table.source.format {
            return Err(Error::Invalid(format!(
                "table {} takes its messages as {}, these rows are {format}",
                table.name, table.source.format
            )));
        }
        let rows =
            encode::split(format, &self.body).map_err(|reason| Error::Invalid(format!("rows: {reason}")))?;
        if rows.is_empty() {
            return Ok(Vec::new());
        }
        let partitions = clickhouse
            .partitions_of(&table.schema, &table.partition_by, table.partitions, format, self.body.clone())
            .await
            .map_err(of_clickhouse)?;
        if partitions.len() != rows.len() {
            return Err(Error::Invalid(format!(
                "the body has {} rows for us and {} for ClickHouse: check the format",
                rows.len(),
                partitions.len()
            )));
        }
        let outgoing = rows.into_iter().zip(partitions).map(|(row, partition)| Outgoing {
            target: names::topic_partition(&table.source, partition),
            payload: Some(row),
            headers: Vec::new(),
        });
        Ok(outgoing.collect())
    }

    /// Tells these rows from others under the same name.
    fn hash(&self) -> u128 {
        cityhash_rs::cityhash_102_128(&self.body)
    }
}

fn other_rows(batch: &BatchName, before: Option<&BatchNote>) -> Error {
    let count = before.map_or(String::new(), |note| format!(" ({} of them)", note.rows));
    Error::Exists(format!("nothing was sent: a batch {batch} with other rows than these{count}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapters::clickhouse::SimClickHouse;
    use crate::adapters::kafka::embedded::EmbeddedKafka;
    use crate::adapters::kafka::sim::Lost;
    use crate::adapters::kafka::{NewTopic, SimKafka};
    use crate::adapters::routes::SimRoutes;
    use crate::model::table::{BatchLimits, ReplicationMode, Source, TableState, TopicLayout};
    use crate::model::{Epoch, TableId};
    use std::collections::BTreeMap;

    async fn table(server: &SimClickHouse) -> Table {
        let ddl = "CREATE TABLE d.t (a UInt64) ENGINE = MergeTree ORDER BY a";
        let (name, schema) = server.parse_ddl(ddl, 1).await.unwrap();
        let source = Source {
            topic_prefix: "d.t".into(),
            layout: TopicLayout::OneTopic,
            format: MessageFormat::JSONEachRow,
            format_settings: BTreeMap::new(),
            batch: BatchLimits::default(),
        };
        Table {
            id: TableId(uuid::Uuid::nil()),
            name,
            state: TableState::Active,
            schema,
            ddl: ddl.into(),
            partitions: 4,
            replicas: 1,
            partition_by: "a".into(),
            mode: ReplicationMode::Log,
            source,
            epoch: Epoch(1),
            next_shard: 1,
            origin_offsets: Default::default(),
            delete_topics: false,
            published_by: BTreeMap::new(),
        }
    }

    async fn insert(
        (server, kafka, table): (&SimClickHouse, &dyn Kafka, &Table),
        batch: &str,
        body: &'static str,
    ) -> Result<Inserted, Error> {
        let rows = Rows { table, format: MessageFormat::JSONEachRow, body: body.into() };
        let batch = (!batch.is_empty()).then(|| ("c", batch.parse().unwrap()));
        rows.insert(server, kafka, batch).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_batch_is_sent_once_and_keeps_its_rows() {
        let server = SimClickHouse::new(SimRoutes::new());
        let (table, kafka) = (table(&server).await, SimKafka::new());
        let topic = NewTopic { name: "d.t".into(), partitions: 4, replication: 1, settings: Vec::new() };
        kafka.create_topics(&[topic]).await.unwrap();
        let all = (&server, &kafka as &dyn Kafka, &table);
        let messages =
            || (0..4).map(|p| kafka.waiting(&names::topic_partition(&table.source, PartitionId(p)), 0, 0));
        let rows = "{\"a\":1}\n{\"a\":2}\n{\"a\":5}\n";
        for before in [false, true, true] {
            let sent = Inserted { rows: 3, partitions: 2, before };
            assert_eq!(insert(all, "one", rows).await, Ok(sent));
            assert_eq!(messages().sum::<u64>(), 3);
        }
        let refused = insert(all, "one", "{\"a\":1}\n").await.unwrap_err();
        assert!(
            matches!(&refused, Error::Exists(text) if text.contains("one") && text.contains("3 of them"))
        );
        assert_eq!(messages().sum::<u64>(), 3);
        for (batch, lost) in [("two", Lost::Request), ("three", Lost::Answer)] {
            kafka.lose_next_send(lost);
            let unknown = insert(all, batch, rows).await;
            assert!(matches!(unknown, Err(Error::BatchUnknown(_))), "{unknown:?}");
            let before = lost == Lost::Answer;
            assert_eq!(insert(all, batch, rows).await, Ok(Inserted { rows: 3, partitions: 2, before }));
        }
        assert_eq!(messages().sum::<u64>(), 9);
        for before in [false, true] {
            assert_eq!(insert(all, "empty", "").await, Ok(Inserted { rows: 0, partitions: 0, before }));
        }
        assert!(matches!(insert(all, "empty", rows).await, Err(Error::Exists(_))));
        for _ in 0..2 {
            assert_eq!(insert(all, "", rows).await, Ok(Inserted { rows: 3, partitions: 2, before: false }));
        }
        assert_eq!(messages().sum::<u64>(), 15, "without a name, twice is twice");
    }

    #[tokio::test]
    async fn a_broker_without_transactions_takes_no_named_batch() {
        let server = SimClickHouse::new(SimRoutes::new());
        let (table, kafka) = (table(&server).await, EmbeddedKafka::start(1).unwrap());
        let refused = insert((&server, &kafka, &table), "one", "{\"a\":1}\n").await;
        assert!(
            matches!(&refused, Err(Error::Refused(text)) if text.contains("no transactions")),
            "{refused:?}"
        );
    }
}
