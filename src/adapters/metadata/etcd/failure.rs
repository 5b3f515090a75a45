//! What an etcd error means for us: was the call carried out, and is it worth asking another member?

use crate::adapters::metadata::{Error, LeaseId};
use etcd_client as etcd;
use tonic::Code;

/// How a call failed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// Certainly not carried out; another member may do it.
    NotDone(String),
    /// Not carried out, because the login is too old: log in again.
    StaleToken(String),
    /// Carried out or not.
    Unclear(String),
    /// The store's answer: any member would give it.
    Final(Error),
}

impl Failure {
    /// For a call that changes nothing.
    pub fn into_read_error(self) -> Error {
        match self {
            Self::NotDone(text) | Self::StaleToken(text) | Self::Unclear(text) => Error::Unreachable(text),
            Self::Final(error) => error,
        }
    }
}

/// What ends etcd's alarm: it takes no write before, only reads and deletes.
const NO_SPACE_REMEDY: &str =
    "etcd is full: compact its history, defragment every member, then `etcdctl alarm disarm`";

/// Sorts an error of the client library.
pub(super) fn classify(error: &etcd::Error) -> Failure {
    match error {
        etcd::Error::GRpcStatus(status) => {
            if connection_failed(status) {
                return Failure::NotDone(text_of(status));
            }
            by_status(status.code(), status.message()).unwrap_or_else(|| Failure::Unclear(text_of(status)))
        }
        etcd::Error::LeaseKeepAliveError(text) if text.contains("not found") => {
            Failure::Final(Error::LeaseGone(LeaseId(0)))
        }
        etcd::Error::InvalidArgs(_) | etcd::Error::InvalidUri(_) | etcd::Error::InvalidMetadataValue(_) => {
            Failure::Final(Error::Invalid(error.to_string()))
        }
        other => Failure::Unclear(other.to_string()),
    }
}

/// Why etcd ended a watch, from the text that it gives.
pub(super) fn canceled(reason: &str) -> Error {
    if reason.contains("permission denied") {
        return Error::Denied(reason.to_owned());
    }
    Error::Unreachable(format!("etcd ended the watch: {reason}"))
}

/// etcd's own answers, by code and text (its `rpctypes`; the texts have been stable since 3.0).
fn by_status(code: Code, text: &str) -> Option<Failure> {
    let has = |part: &str| text.contains(part);
    Some(match code {
        Code::Unauthenticated => Failure::StaleToken(text.to_owned()),
        _ if has("auth store is old") || has("revision in header is old") => {
            Failure::StaleToken(text.to_owned())
        }
        Code::PermissionDenied => Failure::Final(Error::Denied(text.to_owned())),
        Code::InvalidArgument | Code::FailedPrecondition
            if has("authentication") || has("user name is empty") || has("password") =>
        {
            Failure::Final(Error::Denied(text.to_owned()))
        }
        _ if has("requested lease not found") => Failure::Final(Error::LeaseGone(LeaseId(0))),
        Code::OutOfRange if has("compacted") => Failure::Final(Error::Compacted { oldest: 0 }),
        // The write that etcd finds to exceed its quota while it applies it is made, and answered by this all the same.
        _ if has("database space exceeded") => Failure::Unclear(format!("{text}; {NO_SPACE_REMEDY}")),
        // Refused before it was proposed to the cluster: nothing happened.
        Code::Unavailable if has("no leader") => Failure::NotDone(text.to_owned()),
        Code::ResourceExhausted => Failure::NotDone(text.to_owned()),
        // The library's words for a connection that is being closed: the call was not handed over to it.
        Code::Unknown if has("Service was not ready") => Failure::NotDone(text.to_owned()),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange | Code::Unimplemented => {
            Failure::Final(Error::Invalid(text.to_owned()))
        }
        _ => return None,
    })
}

/// Whether there was no connection, so that nothing can have been sent.
fn connection_failed(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost cause says most: `tcp connect error: Connection refused (os error 111)`.
fn text_of(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        let cause = error.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_have_been_done_is_unclear() {
        let told = |code, text: &str| classify(&etcd::Error::GRpcStatus(tonic::Status::new(code, text)));
        let unclear = [
            (Code::Unavailable, "etcdserver: request timed out, possibly due to connection lost"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unavailable, "error reading a body from connection: broken pipe"),
            (Code::DeadlineExceeded, "context deadline exceeded"),
            (Code::Cancelled, "Timeout expired"),
            (Code::Unknown, "h2 protocol error"),
            (Code::Internal, "anything"),
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            (Code::Unknown, "etcdserver: mvcc: database space exceeded"),
        ];
        for (code, text) in unclear {
            assert!(matches!(told(code, text), Failure::Unclear(_)), "{text}");
        }
        let full = told(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(&full, Failure::Unclear(text) if text.contains("alarm disarm")), "{full:?}");
        assert!(matches!(full.into_read_error(), Error::Unreachable(_)));
        assert!(matches!(told(Code::Unavailable, "etcdserver: no leader"), Failure::NotDone(_)));
        assert!(matches!(
            told(Code::ResourceExhausted, "etcdserver: too many requests"),
            Failure::NotDone(_)
        ));
        assert!(matches!(
            told(Code::Unauthenticated, "etcdserver: invalid auth token"),
            Failure::StaleToken(_)
        ));
        let denied = [
            (Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID or password"),
            (Code::FailedPrecondition, "etcdserver: authentication is not enabled"),
            (Code::InvalidArgument, "etcdserver: user name is empty"),
            (Code::PermissionDenied, "etcdserver: permission denied"),
        ];
        for (code, text) in denied {
            assert!(matches!(told(code, text), Failure::Final(Error::Denied(_))), "{text}");
        }
        let gone = told(Code::NotFound, "etcdserver: requested lease not found");
        assert_eq!(gone, Failure::Final(Error::LeaseGone(LeaseId(0))));
        let bad = told(Code::InvalidArgument, "etcdserver: duplicate key given in txn request");
        assert!(matches!(bad, Failure::Final(Error::Invalid(_))));
    }
}
