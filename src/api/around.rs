//! What surrounds every gRPC call: the time that its caller gives it, and the room that an insert's body takes while it
//! arrives.

use super::room::Room;
use crate::adapters::peers::deadline;
use crate::adapters::peers::status::to_status;
use axum::body::Body as AxumBody;
use futures::StreamExt;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic::server::NamedService;
use tonic::{Code, Status};

/// Where inserts come in.
const INSERT_PATH: &str = "/converthouse.v1.Control/Insert";

/// A service, surrounded.
#[derive(Clone)]
pub(super) struct Around<S> {
    inner: S,
    room: Room,
}

impl<S> Around<S> {
    pub(super) fn new(inner: S, room: &Room) -> Self {
        Self { inner, room: room.clone() }
    }
}

impl<S: NamedService> NamedService for Around<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Around<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let until = deadline::of_request(request.headers());
        let request =
            if request.uri().path() == INSERT_PATH { counted(request, &self.room) } else { request };
        Box::pin(deadline::until(until, self.inner.call(request)))
    }
}

/// The same request, whose body takes room as it arrives. The handler finds what is held in the extensions, and keeps
/// it as long as the rows.
fn counted(request: Request<Body>, room: &Room) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    let held = Arc::new(room.enter());
    parts.extensions.insert(held.clone());
    let chunks = AxumBody::new(body).into_data_stream().map(move |chunk| {
        let chunk = chunk.map_err(Into::<tonic::codegen::StdError>::into)?;
        held.take(chunk.len()).map_err(|error| exhausted(&to_status(&error)))?;
        Ok::<_, tonic::codegen::StdError>(chunk)
    });
    Request::from_parts(parts, Body::new(AxumBody::from_stream(chunks)))
}

/// The same refusal under the code that gRPC has for it; its details say that it may be tried again.
fn exhausted(status: &Status) -> Status {
    let details = status.details().to_vec().into();
    Status::with_details(Code::ResourceExhausted, status.message(), details)
}
