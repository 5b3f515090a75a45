//! [`Error`] as a gRPC status and back.
//!
//! Details follow gRPC's richer error model (`google.rpc.Status` with one `google.rpc.ErrorInfo`), so that tools
//! such as `grpcurl` show code and remedy. Texts are cut to what fits in headers. A status without our details
//! comes from gRPC itself or from something in between: [`from_status`] then asks whether the call could have
//! changed anything.

use super::Error;
use crate::error::{Coded, Retry};
use prost::Message;
use std::collections::BTreeMap;
use tonic::{Code, Status};

/// Longest text of an error on the wire; with its escapes it fits twice in 16 KiB of headers.
pub const TEXT_BYTES_MAX: usize = 1_500;

const DOMAIN: &str = "converthouse";
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<Any>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `google.rpc.ErrorInfo`.
#[derive(Clone, PartialEq, Message)]
struct ErrorInfo {
    #[prost(string, tag = "1")]
    reason: String,
    #[prost(string, tag = "2")]
    domain: String,
    #[prost(btree_map = "string, string", tag = "3")]
    metadata: BTreeMap<String, String>,
}

/// Whether a call that got no proper answer may have changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Only asks, or replaces what the next one replaces again.
    Read,
    /// Changes something.
    Write,
}

/// Cuts at a character's end, showing that it did.
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_owned();
    }
    let mut end = TEXT_BYTES_MAX;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}…", &text[..end])
}

fn parts(error: &Error) -> (&'static str, Code, &str) {
    match error {
        Error::Invalid(text) => ("invalid", Code::InvalidArgument, text),
        Error::NotFound(text) => ("not_found", Code::NotFound, text),
        Error::Exists(text) => ("exists", Code::AlreadyExists, text),
        Error::Refused(text) => ("refused", Code::FailedPrecondition, text),
        Error::NoLeader(text) => ("no_leader", Code::Unavailable, text),
        Error::Unavailable(text) => ("unavailable", Code::Unavailable, text),
        Error::OutcomeUnknown(text) => ("outcome_unknown", Code::DeadlineExceeded, text),
        Error::BatchUnknown(text) => ("batch_unknown", Code::DeadlineExceeded, text),
        Error::Held(text) => ("held", Code::FailedPrecondition, text),
        Error::Stale(text) => ("stale", Code::Aborted, text),
        Error::Internal(text) => ("internal", Code::Internal, text),
    }
}

fn by_kind(kind: &str, text: String) -> Option<Error> {
    Some(match kind {
        "invalid" => Error::Invalid(text),
        "not_found" => Error::NotFound(text),
        "exists" => Error::Exists(text),
        "refused" => Error::Refused(text),
        "no_leader" => Error::NoLeader(text),
        "unavailable" => Error::Unavailable(text),
        "outcome_unknown" => Error::OutcomeUnknown(text),
        "batch_unknown" => Error::BatchUnknown(text),
        "held" => Error::Held(text),
        "stale" => Error::Stale(text),
        "internal" => Error::Internal(text),
        _ => return None,
    })
}

fn retry_word(retry: Retry) -> &'static str {
    match retry {
        Retry::Safe => "safe",
        Retry::Never => "never",
        Retry::OutcomeUnknown => "outcome_unknown",
    }
}

/// What the server answers.
pub fn to_status(error: &Error) -> Status {
    let (kind, code, text) = parts(error);
    let metadata = [
        ("kind", kind.to_owned()),
        ("subject", cut(text)),
        ("retry", retry_word(error.retry()).to_owned()),
        ("remedy", error.remedy().to_owned()),
    ];
    let info = ErrorInfo {
        reason: error.code().to_string(),
        domain: DOMAIN.into(),
        metadata: metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
    };
    let details = vec![Any { type_url: ERROR_INFO.into(), value: info.encode_to_vec() }];
    let message = cut(&error.to_string());
    let rich = RpcStatus { code: code.into(), message: String::new(), details };
    Status::with_details(code, message, rich.encode_to_vec().into())
}

fn ours(status: &Status) -> Option<Error> {
    let rich = RpcStatus::decode(status.details()).ok()?;
    let info = rich.details.iter().find(|any| any.type_url == ERROR_INFO)?;
    let mut info = ErrorInfo::decode(info.value.as_slice()).ok()?;
    if info.domain != DOMAIN {
        return None;
    }
    let subject = info.metadata.remove("subject").unwrap_or_default();
    by_kind(info.metadata.get("kind")?, subject)
}

/// Whether the call's time was up, by this side's clock or the other's: tonic's own word, which has no details of ours.
pub fn is_expired(status: &Status) -> bool {
    let late = matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded);
    late && status.message().contains("Timeout expired") && status.details().is_empty()
}

/// Whether the connection could not even be made: then nothing was sent.
fn never_connected(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The innermost reason, which is the one that a person can use (`Connection refused`).
fn root(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

fn unanswered(reason: String, effect: Effect) -> Error {
    match effect {
        Effect::Read => Error::Unavailable(reason),
        Effect::Write => Error::OutcomeUnknown(reason),
    }
}

/// What the client makes of a status of the daemon at `url`.
pub fn from_status(status: &Status, url: &str, effect: Effect) -> Error {
    if let Some(error) = ours(status) {
        return error;
    }
    let reason = format!("the daemon at {url}: {}", root(status));
    match status.code() {
        _ if never_connected(status) => {
            Error::Unavailable(format!("the daemon at {url} cannot be reached: {}", root(status)))
        }
        // A broken HTTP/2 stream has a source and such codes, and it may break after the daemon has begun. So is what a
        // client without TLS makes of a server's TLS alert, if that comes before the connection's end.
        Code::Internal | Code::ResourceExhausted if std::error::Error::source(status).is_some() => {
            unanswered(reason, effect)
        }
        Code::InvalidArgument | Code::OutOfRange => Error::Invalid(reason),
        Code::Unimplemented => Error::Refused(format!("{reason} (another version, or no converthouse)")),
        Code::Unauthenticated | Code::PermissionDenied | Code::ResourceExhausted => Error::Refused(reason),
        Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded | Code::Unknown | Code::Aborted => {
            unanswered(reason, effect)
        }
        _ => Error::Internal(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(text: &str) -> Vec<Error> {
        let kinds = [
            "invalid",
            "not_found",
            "exists",
            "refused",
            "no_leader",
            "unavailable",
            "outcome_unknown",
            "batch_unknown",
            "internal",
        ];
        kinds.iter().map(|kind| by_kind(kind, text.to_owned()).expect("known")).collect()
    }

    #[test]
    fn every_error_survives_the_wire() {
        for error in every("tablé `x`\nline 2") {
            let back = from_status(&to_status(&error), "http://x", Effect::Write);
            assert_eq!(back, error);
        }
    }

    #[test]
    fn a_time_that_is_up_is_told_from_an_answer_that_says_so() {
        assert!(is_expired(&Status::cancelled("Timeout expired")));
        assert!(!is_expired(&Status::cancelled("the stream was reset")));
        assert!(!is_expired(&to_status(&Error::OutcomeUnknown("Timeout expired".into()))));
    }

    #[test]
    fn long_texts_are_cut_at_a_character() {
        let long = "é".repeat(5_000);
        for error in every(&long) {
            let back = from_status(&to_status(&error), "http://x", Effect::Read);
            assert_eq!(back.code(), error.code());
            assert!(back.to_string().len() < TEXT_BYTES_MAX + 200 && back.to_string().contains('…'));
        }
    }

    #[test]
    fn a_status_that_is_not_ours_depends_on_what_the_call_could_change() {
        let check = |code, effect| from_status(&Status::new(code, "gone"), "http://x", effect).retry();
        assert_eq!(check(Code::Unavailable, Effect::Read), Retry::Safe);
        assert_eq!(check(Code::Unavailable, Effect::Write), Retry::OutcomeUnknown);
        assert_eq!(check(Code::DeadlineExceeded, Effect::Write), Retry::OutcomeUnknown);
        assert_eq!(check(Code::Unimplemented, Effect::Write), Retry::Never);
        let broken = |code, effect| {
            let mut status = Status::new(code, "h2 protocol error");
            status.set_source(std::sync::Arc::new(std::io::Error::other("frame with invalid size")));
            from_status(&status, "http://x", effect).retry()
        };
        for code in [Code::Internal, Code::ResourceExhausted, Code::Unknown] {
            assert_eq!(broken(code, Effect::Read), Retry::Safe, "{code:?}");
            assert_eq!(broken(code, Effect::Write), Retry::OutcomeUnknown, "{code:?}");
        }
        assert_eq!(check(Code::Internal, Effect::Read), Retry::Never, "an answer that says so");
        let foreign = Status::with_details(Code::NotFound, "x", vec![1, 2, 3].into());
        assert!(matches!(from_status(&foreign, "http://x", Effect::Read), Error::Internal(_)));
    }
}
