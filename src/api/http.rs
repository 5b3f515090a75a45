//! The HTTP server: metrics, probes, and inserts from ClickHouse.
//!
//! `INSERT INTO <table>__insert` in ClickHouse is a `POST` of [`insert_path`](crate::model::names::insert_path) here:
//! that table has the `URL` engine. Its names are in the query, since ClickHouse's HTTP client undoes `%2F` in a path;
//! `/insert/<db>/<table>` is the same for people.

use super::{Held, Room, stop_when, until_stopped};
use crate::adapters::peers::grpc::INSERT_BYTES_MAX;
use crate::adapters::peers::{Daemon, Error};
use crate::error::Coded;
use crate::model::control::InsertRows;
use crate::model::ids::InvalidId;
use crate::model::table::MessageFormat;
use axum::Router;
use axum::body::Body;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use prometheus::{Registry, TextEncoder};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// Why the daemon is not ready, one line each; empty if it is.
pub type Readiness = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// A body that brings nothing for so long is given up.
const BODY_IDLE_MS: u64 = 300_000;

#[derive(Clone)]
struct Edge {
    daemon: Arc<dyn Daemon>,
    registry: Registry,
    readiness: Readiness,
    room: Room,
}

/// Serves until `shutdown` completes; then requests under way get a few seconds. Bodies of inserts share `room` with
/// those that come in elsewhere.
pub async fn serve(
    listener: TcpListener,
    daemon: Arc<dyn Daemon>,
    registry: Registry,
    readiness: Readiness,
    room: Room,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let stop = stop_when(shutdown);
    let app = router(Edge { daemon, registry, readiness, room });
    let running = axum::serve(listener, app).with_graceful_shutdown(stop.clone());
    until_stopped(running.into_future(), stop).await
}

fn router(edge: Edge) -> Router {
    Router::new()
        .route("/", get(front))
        .route("/metrics", get(metrics))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/insert", get(only_inserts).post(insert))
        .route("/insert/{database}/{table}", get(only_inserts).post(insert))
        .fallback(nothing_here)
        .with_state(edge)
}

async fn front() -> String {
    format!(
        "converthouse {}\n\nGET  /metrics               Prometheus\nGET  /healthz               the process runs\n\
         GET  /readyz                it can do its work\nPOST /insert/<db>/<table>   \
         rows; ?format=JSONEachRow (default), CSV, TSV; &batch=<name>: whole, and once\n",
        env!("CARGO_PKG_VERSION")
    )
}

async fn nothing_here() -> Response {
    (StatusCode::NOT_FOUND, "nothing here; GET / lists what there is\n").into_response()
}

async fn only_inserts() -> Response {
    let text = "this address only takes inserts (POST); read from the table without `__insert`\n";
    (StatusCode::METHOD_NOT_ALLOWED, text).into_response()
}

async fn metrics(State(edge): State<Edge>) -> Response {
    match TextEncoder::new().encode_to_string(&edge.registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => refuse(&Error::Internal(format!("metrics: {error}"))),
    }
}

async fn ready(State(edge): State<Edge>) -> Response {
    let reasons = (edge.readiness)();
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let text = reasons.iter().map(|reason| format!("{reason}\n")).collect::<String>();
    (StatusCode::SERVICE_UNAVAILABLE, text).into_response()
}

#[derive(serde::Deserialize)]
struct InsertOptions {
    database: Option<String>,
    table: Option<String>,
    format: Option<String>,
    batch: Option<String>,
}

async fn insert(
    State(edge): State<Edge>,
    path: Result<Option<Path<(String, String)>>, PathRejection>,
    options: Result<Query<InsertOptions>, QueryRejection>,
    body: Body,
) -> Response {
    match take(&edge, path, options, body).await {
        Ok(text) => text.into_response(),
        Err((status, error)) => refuse_as(status, &error),
    }
}

async fn take(
    edge: &Edge,
    path: Result<Option<Path<(String, String)>>, PathRejection>,
    options: Result<Query<InsertOptions>, QueryRejection>,
    body: Body,
) -> Result<String, (StatusCode, Error)> {
    let invalid = |text: String| (StatusCode::BAD_REQUEST, Error::Invalid(text));
    let Query(options) = options.map_err(|e| invalid(e.body_text()))?;
    let (database, table) = match path.map_err(|e| invalid(e.body_text()))? {
        Some(Path(names)) => names,
        None => (options.database.unwrap_or_default(), options.table.unwrap_or_default()),
    };
    if database.is_empty() || table.is_empty() {
        let rule = "/insert?database=<db>&table=<table>, or /insert/<db>/<table>";
        return Err(invalid(format!("the address should be {rule}, and a name is missing")));
    }
    let format = options.format.as_deref().unwrap_or("JSONEachRow");
    let format: MessageFormat = format.parse().map_err(|e| invalid(format!("format: {e}")))?;
    let batch = options.batch.map(|batch| batch.parse()).transpose();
    let batch = batch.map_err(|e: InvalidId| invalid(e.to_string()))?;
    let held = edge.room.enter();
    let body = read(body, &held).await?;
    let request = InsertRows { database, table, format, body, batch };
    let daemon = edge.daemon.clone();
    // A task of its own: a client that goes away does not stop an insert half way, nor give back the room of its rows.
    let insert = async move {
        let inserted = daemon.insert(request).await;
        drop(held);
        inserted
    };
    let ended = tokio::spawn(insert).await;
    let outcome = ended.unwrap_or_else(|e| Err(Error::Internal(format!("the insert ended early: {e}"))));
    let inserted = outcome.map_err(|e| (status_of(&e), e))?;
    let before = if inserted.before { ", before: nothing was sent now" } else { "" };
    Ok(format!("{} rows into {} partitions{before}\n", inserted.rows, inserted.partitions))
}

async fn read(body: Body, held: &Held) -> Result<Bytes, (StatusCode, Error)> {
    let mut chunks = body.into_data_stream();
    let mut whole = BytesMut::new();
    loop {
        let idle = Duration::from_millis(BODY_IDLE_MS);
        let next = tokio::time::timeout(idle, chunks.next()).await;
        let broken = |why: String| (StatusCode::BAD_REQUEST, Error::Invalid(why));
        let chunk = match next {
            Err(_) => return Err(broken(format!("the body brought nothing for {BODY_IDLE_MS} ms"))),
            Ok(None) => return Ok(whole.freeze()),
            Ok(Some(Err(error))) => return Err(broken(format!("the body broke off: {error}"))),
            Ok(Some(Ok(chunk))) => chunk,
        };
        if whole.len() + chunk.len() > INSERT_BYTES_MAX {
            let text = format!(
                "more than {INSERT_BYTES_MAX} bytes in one insert; nothing was inserted; send it in smaller pieces"
            );
            return Err((StatusCode::PAYLOAD_TOO_LARGE, Error::Invalid(text)));
        }
        held.take(chunk.len()).map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error))?;
        whole.extend_from_slice(&chunk);
    }
}

fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::Invalid(_) => StatusCode::BAD_REQUEST,
        Error::NotFound(_) => StatusCode::NOT_FOUND,
        Error::Exists(_) | Error::Refused(_) | Error::Held(_) | Error::Stale(_) => StatusCode::CONFLICT,
        Error::NoLeader(_) | Error::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
        Error::OutcomeUnknown(_) | Error::BatchUnknown(_) => StatusCode::GATEWAY_TIMEOUT,
        Error::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn refuse(error: &Error) -> Response {
    refuse_as(status_of(error), error)
}

fn refuse_as(status: StatusCode, error: &Error) -> Response {
    let code = error.code().to_string();
    let text = format!("{code} {error}\nremedy: {}\n", error.remedy());
    (status, [("x-converthouse-code", code)], text).into_response()
}
