//! How long whoever asked still waits. It travels with a call that a daemon serves to the calls that it makes on the
//! caller's behalf: `--timeout` of the command line means the same whichever daemon is asked.
//!
//! Between processes it is gRPC's `grpc-timeout`; within one it belongs to the task that serves the call. What an actor
//! does by itself has none, and keeps the deadlines of its own calls.

use std::time::Duration;
use tokio::time::Instant;
use tonic::codegen::http::HeaderMap;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// gRPC's header for the time that is left.
const HEADER: &str = "grpc-timeout";
/// What a daemon keeps of the caller's time to tell why it has no answer, at most.
const TO_TELL: Duration = Duration::from_millis(500);

tokio::task_local! {
    static UNTIL: Option<Instant>;
}

/// Runs work on behalf of a caller who waits until then; `None` if nobody said how long.
pub async fn until<T>(until: Option<Instant>, work: impl Future<Output = T>) -> T {
    UNTIL.scope(until, work).await
}

/// Until when the caller waits on whose behalf this task runs.
pub fn current() -> Option<Instant> {
    UNTIL.try_with(|until| *until).ok().flatten()
}

/// Until when work for a request should have ended, so that the caller still hears what became of it.
pub fn of_request(headers: &HeaderMap) -> Option<Instant> {
    let given = parse(headers.get(HEADER)?.to_str().ok()?)?;
    Instant::now().checked_add(given - TO_TELL.min(given / 10))
}

/// At most eight digits and a unit, as gRPC has it.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// Tells the other side how long this one waits.
#[derive(Debug, Clone, Copy)]
pub struct Telling;

impl Interceptor for Telling {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(until) = current() {
            request.set_timeout(until.saturating_duration_since(Instant::now()));
        }
        Ok(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_grpc_writes_them() {
        for (text, time) in [
            ("5S", Some(Duration::from_secs(5))),
            ("60000000u", Some(Duration::from_secs(60))),
            ("250m", Some(Duration::from_millis(250))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("2M", Some(Duration::from_secs(120))),
            ("24H", Some(Duration::from_secs(86_400))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5S", None),
            ("5s", None),
            ("123456789S", None),
            ("5é", None),
        ] {
            assert_eq!(parse(text), time, "{text:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_tenth_of_the_time_is_kept_to_tell_and_half_a_second_at_most() {
        let now = Instant::now();
        let left = |text: &str| {
            let headers = HeaderMap::from_iter([(HEADER.parse().unwrap(), text.parse().unwrap())]);
            of_request(&headers).map(|until| until - now)
        };
        assert_eq!(left("1S"), Some(Duration::from_millis(900)));
        assert_eq!(left("60S"), Some(Duration::from_millis(59_500)));
        assert_eq!(left("soon"), None);
        assert_eq!(of_request(&HeaderMap::new()), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_that_is_left_goes_along() {
        assert_eq!(current(), None);
        let told = |request: Request<()>| {
            request.metadata().get(HEADER).and_then(|left| parse(left.to_str().unwrap()))
        };
        assert_eq!(told(Telling.call(Request::new(())).unwrap()), None);
        let end = Instant::now() + Duration::from_secs(7);
        let later = until(Some(end), async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            Telling.call(Request::new(())).unwrap()
        });
        assert_eq!(told(later.await), Some(Duration::from_secs(4)));
    }
}
