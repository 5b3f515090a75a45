//! The HTTP edge, byte by byte: probes, metrics, and inserts as ClickHouse's `URL` engine sends them.

use super::edge::{Asked, Edge, Mood};
use converthouse::adapters::peers::Error;
use converthouse::adapters::peers::grpc::INSERT_BYTES_MAX;
use converthouse::model::TableName;
use converthouse::model::names::insert_path;
use converthouse::model::table::MessageFormat;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends bytes as they are; the whole answer.
fn raw(edge: &Edge, request: &[u8]) -> String {
    let mut socket = TcpStream::connect(&edge.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // The server may answer and close before it has taken all of it.
    let _ = socket.write_all(request);
    let mut answer = Vec::new();
    let _ = socket.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

fn ask(edge: &Edge, line: &str, body: &str) -> String {
    let head =
        format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    raw(edge, format!("{head}{body}").as_bytes())
}

fn status(answer: &str) -> u16 {
    answer
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("no answer: {answer:?}"))
}

#[test]
fn probes_metrics_and_the_front_page() {
    let edge = Edge::start();
    assert!(ask(&edge, "GET /", "").contains("POST /insert/<db>/<table>"));
    assert_eq!(status(&ask(&edge, "GET /healthz", "")), 200);
    assert_eq!(status(&ask(&edge, "GET /readyz", "")), 200);
    edge.not_ready.lock().unwrap().extend(["no leader".to_owned(), "ClickHouse is down".to_owned()]);
    let answer = ask(&edge, "GET /readyz", "");
    assert_eq!(status(&answer), 503);
    assert!(answer.ends_with("no leader\nClickHouse is down\n"), "{answer}");
    edge.metrics.ingest_rows("shop.x").inc_by(5);
    let answer = ask(&edge, "GET /metrics", "");
    assert!(answer.contains("text/plain; version=0.0.4"), "{answer}");
    assert!(answer.contains("\nconverthouse_ingest_rows_total{table=\"shop.x\"} 5\n"), "{answer}");
    assert_eq!(status(&ask(&edge, "GET /nowhere", "")), 404);
}

#[test]
fn an_insert_names_its_table_percent_encoded() {
    let edge = Edge::start();
    let answer = ask(&edge, "POST /insert/a%2Fb.c/%C3%A9%20%60x%60%3F?format=CSV", "1\n2\n");
    assert_eq!(status(&answer), 200, "{answer}");
    assert!(answer.ends_with("2 rows into 7 partitions\n"), "{answer}");
    let Asked::Insert(insert) = edge.daemon.last() else { panic!() };
    assert_eq!((insert.database.as_str(), insert.table.as_str()), ("a/b.c", "é `x`?"));
    assert_eq!((insert.format, &insert.body[..]), (MessageFormat::CSV, &b"1\n2\n"[..]));
}

#[test]
fn an_insert_may_name_its_batch() {
    let edge = Edge::start();
    assert_eq!(status(&ask(&edge, "POST /insert/d/t?batch=load-7", "{}")), 200);
    let Asked::Insert(insert) = edge.daemon.last() else { panic!() };
    assert_eq!(insert.batch, Some("load-7".parse().unwrap()));
    let refused = ask(&edge, "POST /insert/d/t?batch=load%207", "{}");
    assert!(status(&refused) == 400 && refused.contains("batch name"), "{refused}");
}

#[test]
fn an_insert_of_clickhouse_finds_its_table_whatever_its_name() {
    let edge = Edge::start();
    let odd = TableName { database: "x/y?z%w#v&u+t s`r".into(), table: "é=p'o\"n\\m".into() };
    // As ClickHouse 18.16.1 was seen to send it: the query byte for byte.
    let answer = ask(&edge, &format!("POST {}", insert_path(&odd)), "{}\n");
    assert_eq!(status(&answer), 200, "{answer}");
    let Asked::Insert(insert) = edge.daemon.last() else { panic!() };
    assert_eq!((insert.database, insert.table), (odd.database, odd.table));
}

#[test]
fn chunked_bodies_that_wait_for_a_go_ahead_are_taken() {
    let edge = Edge::start();
    let mut socket = TcpStream::connect(&edge.http).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let head = "POST /insert/d/t HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\
                Expect: 100-continue\r\n\r\n";
    socket.write_all(head.as_bytes()).unwrap();
    let mut go = [0; 25];
    socket.read_exact(&mut go).unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket.write_all(b"8\r\n{\"a\":1}\n\r\n8\r\n{\"a\":2}\n\r\n0\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("2 rows into 7 partitions\n"), "{answer}");
    let Asked::Insert(insert) = edge.daemon.last() else { panic!() };
    assert_eq!((insert.format, insert.body.len()), (MessageFormat::JSONEachRow, 16));
}

#[test]
fn a_body_that_breaks_off_inserts_nothing() {
    let edge = Edge::start();
    let head =
        b"POST /insert/d/t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{\"a\":1}\n\r\n";
    let mut socket = TcpStream::connect(&edge.http).unwrap();
    socket.write_all(head).unwrap();
    socket.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    let _ = socket.read_to_string(&mut answer);
    assert!(!answer.contains("200 OK"), "{answer}");
    assert_eq!(status(&ask(&edge, "POST /insert/d/t", "{}")), 200);
    assert_eq!(edge.daemon.asked.lock().unwrap().len(), 1, "only the whole body got through");
}

#[test]
fn too_large_a_body_is_refused_while_it_comes() {
    let edge = Edge::start();
    let mut request = b"POST /insert/d/t HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_vec();
    request.extend(format!("Content-Length: {}\r\n\r\n", INSERT_BYTES_MAX + 1).bytes());
    request.extend(vec![b'\n'; INSERT_BYTES_MAX + 1]);
    let answer = raw(&edge, &request);
    // The answer may be lost when the server hangs up; that nothing was inserted may not.
    assert!(answer.is_empty() || status(&answer) == 413, "{answer}");
    assert!(edge.daemon.asked.lock().unwrap().is_empty());
}

#[test]
fn a_client_that_goes_away_gives_back_no_room_while_its_rows_are_in_memory() {
    let edge = Edge::start();
    assert_eq!(status(&ask(&edge, "POST /insert/d/t", "{}")), 200);
    assert_eq!(edge.room.held_bytes(), 0);
    edge.daemon.set(Mood::Hangs);
    let mut socket = TcpStream::connect(&edge.http).unwrap();
    socket.write_all(b"POST /insert/d/t HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}").unwrap();
    edge.until_asked(2);
    drop(socket);
    // Whoever is served after that is served after the server has seen it go.
    for _ in 0..20 {
        assert_eq!(status(&ask(&edge, "GET /healthz", "")), 200);
    }
    assert_eq!(edge.room.held_bytes(), 2);
    let other = edge.room.enter();
    other.take(8 * INSERT_BYTES_MAX - 2).unwrap();
    edge.daemon.set(Mood::Well);
    let refused = ask(&edge, "POST /insert/d/t", "{}");
    assert!(status(&refused) == 503 && refused.contains("nothing was inserted"), "{refused}");
    drop(other);
    assert_eq!(status(&ask(&edge, "POST /insert/d/t", "{}")), 200);
}

#[test]
fn bad_requests_say_what_is_wrong() {
    let edge = Edge::start();
    for (line, code, text) in [
        ("POST /insert/d/t?format=Parquet", 400, "\"Parquet\" is not a message format"),
        ("POST /insert/d/t?format=CSV&format=TSV", 400, "duplicate"),
        ("POST /insert/%FF/t", 400, "UTF-8"),
        ("POST /insert//t", 400, "a name is missing"),
        ("POST /insert/d", 404, "nothing here"),
        ("POST /insert?database=d", 400, "a name is missing"),
        ("GET /insert/d/t", 405, "only takes inserts"),
        ("POST /metrics", 405, ""),
    ] {
        let answer = ask(&edge, line, "{}");
        assert_eq!(status(&answer), code, "{line}: {answer}");
        assert!(answer.contains(text), "{line}: {answer}");
    }
    assert!(raw(&edge, b"\x16\x03\x01\x00\xff garbage\r\n\r\n").contains("400 Bad Request"));
    assert!(edge.daemon.asked.lock().unwrap().is_empty());
}

#[test]
fn errors_have_a_status_a_code_and_a_remedy() {
    let edge = Edge::start();
    let text = || "x".to_owned();
    for (error, code) in [
        (Error::Invalid(text()), 400),
        (Error::NotFound(text()), 404),
        (Error::Exists(text()), 409),
        (Error::Refused(text()), 409),
        (Error::NoLeader(text()), 503),
        (Error::Unavailable(text()), 503),
        (Error::OutcomeUnknown(text()), 504),
        (Error::Internal(text()), 500),
    ] {
        edge.daemon.set(Mood::Fails(error.clone()));
        let answer = ask(&edge, "POST /insert/d/t", "{}");
        assert_eq!(status(&answer), code, "{error}");
        assert!(answer.contains("x-converthouse-code: CVH-080"), "{answer}");
        assert!(answer.contains(&format!("{error}\nremedy: ")), "{answer}");
    }
    edge.daemon.set(Mood::Panics);
    assert_eq!(status(&ask(&edge, "POST /insert/d/t", "{}")), 500);
    edge.daemon.set(Mood::Well);
    assert_eq!(status(&ask(&edge, "POST /insert/d/t", "{}")), 200);
}
