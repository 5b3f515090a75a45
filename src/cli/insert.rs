//! `converthouse insert DB.T < rows`: rows into a table's topics, in pieces of whole rows.

use super::rows::Cutter;
use super::{Context, Failure, parse_name, quote_name};
use crate::adapters::peers::Daemon;
use crate::adapters::peers::grpc::INSERT_BYTES_MAX;
use crate::model::TableName;
use crate::model::batch::BatchName;
use crate::model::control::InsertRows;
use crate::model::table::MessageFormat;
use bytes::Bytes;
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

/// Bytes of a piece, about; each piece is one request, put into the topics as a whole.
const PIECE_BYTES: usize = 8 << 20;

/// Options of `insert`.
#[derive(Debug, Args)]
pub(super) struct Insert {
    /// db.table
    #[arg(value_parser = parse_name)]
    name: TableName,
    /// How the rows are written: JSONEachRow, CSV or TSV
    #[arg(long, default_value = "JSONEachRow")]
    format: MessageFormat,
    /// Give the rows a name: they go in whole or not at all, and once, however often the command is repeated with it.
    /// At most 64 MiB; letters, digits, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    batch: Option<BatchName>,
    /// Read the rows from a file rather than from standard input
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// What went in so far.
#[derive(Debug, Default, Clone, Copy)]
struct Sent {
    rows: u64,
    bytes: u64,
    requests: u64,
    before: bool,
}

impl Insert {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let daemon = context.daemon()?;
        let mut input: Box<dyn Read> = match &self.file {
            None if std::io::stdin().is_terminal() => {
                return Err(Failure::usage(
                    "no rows: standard input is a terminal",
                    "use --file, or `< rows.json`",
                ));
            }
            None => Box::new(std::io::stdin()),
            Some(file) => {
                let unreadable =
                    |e| Failure::usage(format!("{}: {e}", file.display()), "name a file that may be read");
                Box::new(std::fs::File::open(file).map_err(unreadable)?)
            }
        };
        let bar = progress(context);
        let mut sent = Sent::default();
        let work = self.send(daemon.as_ref(), input.as_mut(), &mut sent, &bar);
        let outcome = context.block_on(work);
        bar.finish_and_clear();
        outcome.map_err(|failure| match sent.requests {
            0 => failure,
            // Whoever goes on must know from where.
            _ => failure.after(&format!("after {} rows ({} bytes) went in", sent.rows, sent.bytes)),
        })?;
        let (rows, name) = (sent.rows, quote_name(&self.name));
        let result = json!({
            "rows": rows, "bytes": sent.bytes, "requests": sent.requests, "before": sent.before,
        });
        context.print(&result, || match &self.batch {
            Some(batch) if sent.before => {
                format!("batch {batch} was imported before, {rows} rows into {name}\n")
            }
            _ => format!("{rows} rows into {name}\n"),
        })
    }

    async fn send(
        &self,
        daemon: &dyn Daemon,
        input: &mut dyn Read,
        sent: &mut Sent,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        if self.batch.is_none() {
            return self.send_pieces(daemon, input, sent, bar).await;
        }
        let mut whole = Vec::new();
        input.take(INSERT_BYTES_MAX as u64 + 1).read_to_end(&mut whole).map_err(|e| unreadable(&e))?;
        if whole.len() > INSERT_BYTES_MAX {
            let what = format!("a batch has at most {INSERT_BYTES_MAX} bytes: nothing was sent");
            return Err(Failure::failed(what, "cut the rows into batches, each with a name of its own"));
        }
        self.put(daemon, whole.into(), sent).await
    }

    async fn send_pieces(
        &self,
        daemon: &dyn Daemon,
        input: &mut dyn Read,
        sent: &mut Sent,
        bar: &ProgressBar,
    ) -> Result<(), Failure> {
        let mut cutter = Cutter::new(self.format);
        let mut piece: Vec<u8> = Vec::new();
        loop {
            let held = piece.len();
            let read = input.take(PIECE_BYTES as u64).read_to_end(&mut piece).map_err(|e| unreadable(&e))?;
            cutter.feed(&piece[held..]);
            let whole = if read < PIECE_BYTES { piece.len() } else { cutter.cut() };
            if whole > 0 {
                let rest = piece.split_off(whole);
                self.put(daemon, std::mem::replace(&mut piece, rest).into(), sent).await?;
                bar.set_message(format!("{} rows", sent.rows));
                bar.set_position(sent.bytes);
            }
            if read < PIECE_BYTES {
                return Ok(());
            }
            if piece.len() > INSERT_BYTES_MAX {
                let what = format!("more than {INSERT_BYTES_MAX} bytes without the end of a row");
                return Err(Failure::failed(what, "check --format, and that quotes and brackets are closed"));
            }
        }
    }

    async fn put(&self, daemon: &dyn Daemon, body: Bytes, sent: &mut Sent) -> Result<(), Failure> {
        if self.batch.is_none() && body.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        let bytes = body.len() as u64;
        let request = InsertRows {
            database: self.name.database.clone(),
            table: self.name.table.clone(),
            format: self.format,
            body,
            batch: self.batch.clone(),
        };
        let inserted = daemon.insert(request).await?;
        sent.rows += inserted.rows;
        sent.bytes += bytes;
        sent.requests += 1;
        sent.before |= inserted.before;
        Ok(())
    }
}

fn unreadable(error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot read the rows: {error}"), "send them as a file or a pipe")
}

fn progress(context: &Context) -> ProgressBar {
    if context.json() || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{spinner} {elapsed} {msg} {bytes} ({bytes_per_sec})");
    bar.set_style(style.expect("the template is good"));
    bar
}
