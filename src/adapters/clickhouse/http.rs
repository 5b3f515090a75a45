//! How statements travel: HTTP by the `clickhouse` crate. Deadlines, settings, and which failure means what.
//!
//! # One insert is one frame
//! A connection cut in mid-body looks to 18.16.1 like the body's end: it inserts what has arrived, with or without
//! `Content-Length`, even half a value of a CSV row. So statement and rows go together in **one** checksummed frame
//! (`decompress=1`, see `frame`): a server that did not get all of it has no statement to run. It follows that a
//! stalled sender holds no lock on the server: the statement is read only when its last byte is there.

use super::Error;
use super::errcode::{Doing, classify};
use super::frame::frame;
use super::statement::Statement;
use super::versions::Capabilities;
use super::{sql, tsv};
use crate::model::node::Secret;
use bytes::Bytes;
use clickhouse::{Client, Compression, error::Error as ClientError};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::future::Future;
use std::time::Duration;
use uuid::Uuid;

/// Largest insert: what a server takes as one frame is 1 GiB, less room for the statement.
pub const INSERT_BYTES_MAX: usize = (1 << 30) - (1 << 20);
/// Above this, framing goes to a thread where it may take its time.
const FRAME_INLINE_BYTES_MAX: usize = 256 << 10;

/// An answer is whole or an error, whatever the user's profile says: a look that is cut off would count as all that
/// there is. Every server knows these.
const WHOLE: &[(&str, &str)] = &[
    ("read_overflow_mode", "throw"),
    ("timeout_overflow_mode", "throw"),
    ("result_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("group_by_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
    // How much an answer holds is not ours to choose: as an error it would come again for ever.
    ("max_result_rows", "0"),
    ("max_result_bytes", "0"),
    // Would be read as rows.
    ("extremes", "0"),
];
/// The same by [`Capabilities::limit_setting`].
const WHOLE_BY_LIMIT: &[(&str, &str)] =
    &[("limit", "0"), ("offset", "0"), ("read_overflow_mode_leaf", "throw")];
/// The same by [`Capabilities::query_cache`]: an answer from before is none.
const WHOLE_BY_CACHE: &[(&str, &str)] = &[("use_query_cache", "0")];

/// Settings of one request.
pub type Settings = Vec<(String, String)>;

/// A server's address and credentials.
pub struct Transport {
    url: String,
    client: Client,
    /// It is to be spoken to by TLS, and there is no authority to trust.
    trusts_nobody: bool,
}

/// What is said then.
const TRUSTS_NOBODY: &str = "https needs authorities to trust, and this machine has none: install them (Debian: \
                             ca-certificates), or name a file of them in SSL_CERT_FILE, and start anew";
/// As the `clickhouse` crate has it: a server closes connections that are idle for 3 s.
const POOL_IDLE: Duration = Duration::from_secs(2);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// A client of a server that is spoken to without TLS. The crate's own default panics on a machine without CA
/// certificates, for plain HTTP too.
pub fn plain(url: &str) -> Client {
    let mut connector = HttpConnector::new();
    connector.set_keepalive(Some(TCP_KEEPALIVE));
    let plain = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
        .pool_idle_timeout(POOL_IDLE)
        .build(connector);
    Client::with_http_client(plain).with_url(url).with_validation(false)
}

impl Transport {
    /// `url` is `http(s)://host:port`. Connects with the first request.
    pub fn new(url: &str, user: &str, password: &Secret) -> Self {
        let url = url.trim_end_matches('/').to_owned();
        let secure = url.starts_with("https:");
        let trusts_nobody = secure && rustls_native_certs::load_native_certs().certs.is_empty();
        let client = match secure && !trusts_nobody {
            true => Client::default().with_url(&url).with_validation(false),
            false => plain(&url),
        };
        let mut client = client.with_compression(Compression::None);
        if !user.is_empty() {
            client = client.with_user(user);
        }
        if !password.expose().is_empty() {
            client = client.with_password(password.expose());
        }
        Self { url, client, trusts_nobody }
    }

    /// The address, for messages.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// With the settings of a request, over which none that makes answers whole can be lifted.
    fn with(&self, settings: &Settings, can: &Capabilities) -> Client {
        let client = self.client.clone();
        let client = settings.iter().fold(client, |client, (name, value)| client.with_setting(name, value));
        whole(can).fold(client, |client, (name, value)| client.with_setting(name, value))
    }

    fn prepared(&self, settings: &Settings, can: &Capabilities) -> Client {
        let client = self.with(settings, can);
        let client = if settings.iter().any(|(name, _)| name == "query_id") {
            client
        } else {
            // So that our own queries are known among the running ones.
            client.with_setting("query_id", format!("{}q-{}", sql::OWN_QUERY_PREFIX, Uuid::new_v4()))
        };
        // The whole answer is made before its first byte is sent, so an error always has a status of its own.
        client.with_setting("wait_end_of_query", "1").with_setting("max_query_size", "10485760")
    }

    /// Runs a statement that answers nothing.
    pub async fn execute(&self, call: Call<'_>, can: &Capabilities) -> Result<(), Error> {
        let text = sql::render(call.statement, can);
        let running = self.prepared(&call.settings, can).query_raw(&text).execute();
        self.finish(&call, running).await
    }

    /// The raw answer of a statement in a format.
    pub async fn bytes(&self, call: Call<'_>, can: &Capabilities, format: &str) -> Result<Bytes, Error> {
        let text = sql::render(call.statement, can);
        let query = self.prepared(&call.settings, can).query_raw(&text);
        let running = async { query.fetch_bytes(format)?.collect().await };
        self.finish(&call, running).await
    }

    /// The rows of an answer.
    pub async fn rows(&self, call: Call<'_>, can: &Capabilities) -> Result<Vec<Vec<String>>, Error> {
        Ok(tsv::rows(&self.bytes(call, can, "TabSeparated").await?))
    }

    /// An insert: statement and rows in one frame.
    pub async fn insert(&self, call: Call<'_>, can: &Capabilities, rows: Bytes) -> Result<(), Error> {
        if rows.len() > INSERT_BYTES_MAX {
            let message = format!("an insert of {} bytes is above {INSERT_BYTES_MAX}", rows.len());
            return Err(Error::Refused { code: 0, message });
        }
        let head = sql::render(call.statement, can);
        let client = self.with(&call.settings, can).with_setting("decompress", "1");
        let running = async {
            let frame = if rows.len() <= FRAME_INLINE_BYTES_MAX {
                frame(&head, rows)
            } else {
                let framing = tokio::task::spawn_blocking(move || frame(&head, rows)).await;
                framing.map_err(|failed| ClientError::Custom(failed.to_string()))?
            };
            let mut insert = client.insert_formatted_with("");
            insert.send(frame).await?;
            insert.end().await
        };
        self.finish(&call, running).await
    }

    async fn finish<T>(
        &self,
        call: &Call<'_>,
        running: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Error> {
        if self.trusts_nobody {
            return Err(Error::Unreachable { url: self.url.clone(), reason: TRUSTS_NOBODY.to_owned() });
        }
        let began = std::time::Instant::now();
        let ended = tokio::time::timeout(call.deadline, running).await;
        tracing::trace!(what = call.what, doing = ?call.doing, took_us = began.elapsed().as_micros(), "statement");
        match ended {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(self.failure(call, error)),
            Err(_) => Err(self.silence(call, format!("no answer within {} ms", call.deadline.as_millis()))),
        }
    }

    /// No answer: harmless if it was only a look.
    fn silence(&self, call: &Call<'_>, reason: String) -> Error {
        match call.doing {
            Doing::Read | Doing::Judge => Error::Unreachable { url: self.url.clone(), reason },
            Doing::Insert | Doing::Change => Error::OutcomeUnknown { what: call.what.to_owned(), reason },
        }
    }

    fn failure(&self, call: &Call<'_>, error: ClientError) -> Error {
        match error {
            ClientError::BadResponse(text) => {
                classify(call.doing, call.what, &sql::without_secrets(call.statement, &text))
            }
            ClientError::Network(source) => {
                let reason = causes(source.as_ref());
                let connect = source
                    .downcast_ref::<hyper_util::client::legacy::Error>()
                    .is_some_and(hyper_util::client::legacy::Error::is_connect);
                if connect {
                    Error::Unreachable { url: self.url.clone(), reason }
                } else {
                    self.silence(call, reason)
                }
            }
            ClientError::InvalidParams(source) => {
                Error::Refused { code: 0, message: causes(source.as_ref()) }
            }
            other => self.silence(call, other.to_string()),
        }
    }
}

/// One request.
pub struct Call<'a> {
    /// What.
    pub statement: &'a Statement<'a>,
    /// What its error codes mean.
    pub doing: Doing,
    /// Verb and object, for messages.
    pub what: &'a str,
    /// Settings beside those that every request has.
    pub settings: Settings,
    /// After this the outcome is unknown.
    pub deadline: Duration,
}

/// What makes a server's answers whole.
fn whole(can: &Capabilities) -> impl Iterator<Item = (&'static str, &'static str)> {
    let limit = if can.limit_setting { WHOLE_BY_LIMIT } else { &[] };
    let cache = if can.query_cache { WHOLE_BY_CACHE } else { &[] };
    WHOLE.iter().chain(limit).chain(cache).copied()
}

/// An error with what it came from, down to the system's word.
fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_trusts_nobody_says_so_and_needs_nobody_for_plain_http() {
        let secure = Transport::new("https://127.0.0.1:1", "", &Secret::new(""));
        let transport = Transport { trusts_nobody: true, ..secure };
        let call = || Call {
            statement: &Statement::Server,
            doing: Doing::Read,
            what: "a look",
            settings: Settings::new(),
            deadline: Duration::from_secs(5),
        };
        let told = transport.bytes(call(), &Capabilities::of(""), "TabSeparated").await.unwrap_err();
        assert!(
            matches!(&told, Error::Unreachable { reason, .. } if reason.contains("SSL_CERT_FILE")),
            "{told}"
        );
        let plain = Transport::new("http://127.0.0.1:1", "", &Secret::new(""));
        let told = plain.bytes(call(), &Capabilities::of(""), "TabSeparated").await.unwrap_err();
        assert!(matches!(&told, Error::Unreachable { reason, .. } if reason.contains("refused")), "{told}");
    }

    #[test]
    fn no_server_is_sent_a_setting_that_it_does_not_know() {
        let sent =
            |version: &str| whole(&Capabilities::of(version)).map(|(name, _)| name).collect::<Vec<_>>();
        let (oldest, newest) = (sent("18.16.1"), sent("26.9.1.1"));
        assert!(oldest.contains(&"result_overflow_mode") && !oldest.contains(&"limit"), "{oldest:?}");
        assert!(newest.starts_with(&oldest) && newest.contains(&"limit"), "{newest:?}");
        assert!(newest.contains(&"use_query_cache") && !sent("22.8.1.1").contains(&"use_query_cache"));
    }
}
