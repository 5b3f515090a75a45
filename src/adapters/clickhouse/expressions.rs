//! Evaluates the user's partition expression by the server's own functions, in a temporary table of a session that
//! is used once. The server forgets it by itself: nothing is left behind, whatever fails.

use super::ddl::refused;
use super::errcode::Doing;
use super::http::{Call, Settings};
use super::real::{CHANGE_DEADLINE, HttpClickHouse, insert_settings};
use super::statement::Statement;
use super::{Error, tsv};
use crate::model::PartitionId;
use crate::model::table::{MessageFormat, Schema};
use bytes::Bytes;
use std::collections::BTreeMap;

/// After so long without a request the server drops a session and its tables.
const SESSION_TIMEOUT_S: &str = "60";

struct Session {
    table: String,
    settings: Settings,
}

impl HttpClickHouse {
    async fn session(&self, schema: &Schema) -> Result<Session, Error> {
        let id = format!("cvh_{}", uuid::Uuid::new_v4().simple());
        let settings = vec![
            ("session_id".to_owned(), id.clone()),
            ("session_timeout".to_owned(), SESSION_TIMEOUT_S.to_owned()),
        ];
        let session = Session { table: format!("_{id}"), settings };
        let create = Statement::CreateTemporary { table: &session.table, schema };
        self.change(&create, "temporary table", session.settings.clone()).await?;
        Ok(session)
    }

    async fn end(&self, session: Session) {
        // Only to free memory before the session's own end; a failure changes nothing.
        let drop = Statement::DropTemporary(&session.table);
        self.change(&drop, "temporary table", session.settings).await.ok();
    }

    pub(super) async fn expression_type(&self, schema: &Schema, expression: &str) -> Result<String, Error> {
        if expression.trim().is_empty() {
            return Err(refused("the partition expression is empty"));
        }
        let beside = schema.columns.first().ok_or_else(|| refused("the table has no columns"))?;
        let session = self.session(schema).await?;
        let statement = Statement::TypeOf { table: &session.table, expression, beside: &beside.name };
        let answer =
            self.in_session(&session, &statement, "TabSeparatedWithNamesAndTypes", Doing::Read).await;
        self.end(session).await;
        let lines = tsv::rows(&answer?);
        match lines.get(1).and_then(|types| types.first_chunk::<2>()) {
            Some([found, _]) if lines[1].len() == 2 => Ok(found.clone()),
            _ => Err(refused(format!("{expression:?} is not one expression"))),
        }
    }

    async fn in_session(
        &self,
        session: &Session,
        statement: &Statement<'_>,
        format: &str,
        doing: Doing,
    ) -> Result<Bytes, Error> {
        let can = self.capabilities().await?;
        let settings = session.settings.clone();
        let what = "partition expression";
        let call = Call { statement, doing, what, settings, deadline: CHANGE_DEADLINE };
        self.transport().bytes(call, &can, format).await
    }

    pub(super) async fn evaluate_partitions(
        &self,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error> {
        let session = self.session(schema).await?;
        let found = self.fill_and_ask(&session, schema, expression, partitions, format, body).await;
        self.end(session).await;
        found.map_err(|error| match error {
            // Whatever happened, it happened to a temporary table.
            Error::OutcomeUnknown { reason, .. } => {
                Error::Unreachable { url: self.transport().url().to_owned(), reason }
            }
            other => other,
        })
    }

    async fn fill_and_ask(
        &self,
        session: &Session,
        schema: &Schema,
        expression: &str,
        partitions: u32,
        format: MessageFormat,
        body: Bytes,
    ) -> Result<Vec<PartitionId>, Error> {
        let can = self.capabilities().await?;
        let columns: Vec<String> = match format {
            MessageFormat::JSONEachRow => Vec::new(),
            MessageFormat::CSV | MessageFormat::TSV => {
                let insertable = schema.columns.iter().filter(|column| column.insertable());
                insertable.map(|column| column.name.clone()).collect()
            }
        };
        let fill = Statement::InsertTemporary { table: &session.table, columns: &columns, format };
        let mut settings = insert_settings(&BTreeMap::new(), 0, &can);
        settings.extend(session.settings.clone());
        let call = Call {
            statement: &fill,
            doing: Doing::Judge,
            what: "rows to be looked at",
            settings,
            deadline: CHANGE_DEADLINE,
        };
        self.transport().insert(call, &can, body).await?;
        let ask = Statement::PartitionsOf { table: &session.table, expression, partitions };
        let answer = self.in_session(session, &ask, "RowBinary", Doing::Judge).await?;
        let (values, rest) = answer.as_chunks::<4>();
        if !rest.is_empty() {
            return Err(refused("the server's answer is cut off"));
        }
        Ok(values.iter().map(|value| PartitionId(u32::from_le_bytes(*value))).collect())
    }
}
