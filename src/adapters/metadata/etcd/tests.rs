use super::*;
use crate::adapters::compute::process::free_port;
use crate::model::node::Secret;

fn invalid(options: &EtcdOptions) -> String {
    match EtcdStore::new(options) {
        Ok(_) => panic!("taken: {options:?}"),
        Err(Error::Invalid(text)) => text,
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn bad_options_are_named() {
    assert!(invalid(&EtcdOptions::new(Vec::<String>::new())).contains("no etcd endpoints"));
    for url in ["", "host:2379", "https://host:2379", "http://", "http://a b", "ftp://host"] {
        assert!(invalid(&EtcdOptions::new([url])).contains(&format!("{url:?}")), "{url}");
    }
    let tls = EtcdTls { ca_pem: String::new(), identity: None };
    let plain =
        EtcdOptions { endpoints: vec!["http://host:1".into()], tls: Some(tls), ..EtcdOptions::new(["x"]) };
    assert!(invalid(&plain).contains("with tls"));
}

#[test]
fn options_hide_the_password() {
    let options = EtcdOptions { password: Secret::new("hush"), ..EtcdOptions::new(["http://a:1"]) };
    assert!(!format!("{options:?}").contains("hush"));
}

#[test]
fn the_end_of_a_prefix_is_after_all_of_it_and_nothing_else() {
    assert_eq!(end_of("a/"), b"a0");
    assert_eq!(end_of(""), [0]);
    let all = "k\u{10FFFF}".as_bytes().to_vec();
    assert!(all < end_of("k") && end_of("k\u{10FFFF}") > all);
}

#[tokio::test]
async fn nobody_there_is_told_within_the_deadline_and_is_safe_to_retry() {
    let endpoints = (0..3).map(|_| format!("http://127.0.0.1:{}", free_port().unwrap()));
    let options = EtcdOptions { request_timeout_ms: 600, ..EtcdOptions::new(endpoints) };
    let store = EtcdStore::new(&options).unwrap();
    let start = Instant::now();
    let error = store.txn(vec![], vec![Write::Delete("a".into())]).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable(text) if text.contains("refused")), "{error}");
    assert!(matches!(store.watch("a", 1).await, Err(Error::Unreachable(_))));
    assert!(start.elapsed() < Duration::from_secs(3));
}

/// Takes connections and says nothing.
#[tokio::test]
async fn a_silent_server_makes_a_write_unclear_and_a_read_unreachable() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let silent = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            kept.push(connection);
        }
    });
    let options = EtcdOptions { request_timeout_ms: 400, ..EtcdOptions::new([url]) };
    let store = EtcdStore::new(&options).unwrap();
    let error = store.txn(vec![], vec![Write::Delete("a".into())]).await.unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(_)), "{error}");
    let error = store.get("a").await.unwrap_err();
    assert!(matches!(error, Error::Unreachable(_)), "{error}");
    silent.abort();
}
