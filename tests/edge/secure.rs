//! gRPC over TLS. The certificates in `tls/` are for these tests alone and are trusted by nothing else.

use super::edge::{Edge, cluster};
use converthouse::adapters::peers::grpc::{GrpcDaemon, Options};
use converthouse::adapters::peers::{Daemon, Error, Tls, TlsIdentity};
use converthouse::model::PartitionId;
use converthouse::model::control::DropTable;
use converthouse::model::parts::WantedParts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const CA: &str = include_str!("tls/ca.pem");

fn identity(certificate: &str, key: &str) -> Option<TlsIdentity> {
    Some(TlsIdentity { certificate_pem: certificate.into(), key_pem: key.into() })
}

fn daemon() -> Option<TlsIdentity> {
    identity(include_str!("tls/daemon.pem"), include_str!("tls/daemon.key"))
}

fn stranger() -> Option<TlsIdentity> {
    identity(include_str!("tls/stranger.pem"), include_str!("tls/stranger.key"))
}

fn wanted() -> WantedParts {
    WantedParts { database: "d".into(), partition: PartitionId(1), version: "1.1".into(), held: Vec::new() }
}

fn client(edge: &Edge, ca: &str, identity: Option<TlsIdentity>) -> GrpcDaemon {
    let tls = Some(Tls { ca_pem: ca.into(), identity });
    GrpcDaemon::new(&edge.grpc, Options { tls, ..Options::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn both_sides_show_a_certificate_that_the_other_trusts() {
    let edge = Edge::with_tls(Some(Tls { ca_pem: CA.into(), identity: daemon() }));
    assert_eq!(client(&edge, CA, daemon()).cluster_status().await.unwrap(), cluster());
    let strange = include_str!("tls/stranger.pem");
    for (what, outsider) in [
        ("no certificate", client(&edge, CA, None)),
        ("one that is not trusted", client(&edge, CA, stranger())),
        ("a daemon that is not trusted", client(&edge, strange, daemon())),
        ("no TLS", GrpcDaemon::new(&edge.grpc.replace("https", "http"), Options::default())),
    ] {
        let error = outsider.cluster_status().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{what}: {error}");
        let parts = outsider.send_partition("n1".parse().unwrap(), wanted()).await.err();
        assert!(matches!(parts, Some(Error::Unavailable(_))), "{what}: {parts:?}");
    }
    assert_eq!(edge.daemon.asked.lock().unwrap().len(), 1, "no outsider was heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_a_ca_of_its_own_a_server_takes_any_client() {
    let edge = Edge::with_tls(Some(Tls { ca_pem: String::new(), identity: daemon() }));
    assert_eq!(client(&edge, CA, None).cluster_status().await.unwrap(), cluster());
}

/// Takes connections, says `answer` to each, and then closes it, or waits until the other side does.
async fn speaks(answer: &'static [u8], closes: bool) -> GrpcDaemon {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(answer).await.ok();
                if !closes {
                    stream.read_to_end(&mut Vec::new()).await.ok();
                }
            });
        }
    });
    GrpcDaemon::new(&format!("http://127.0.0.1:{port}"), Options::default())
}

/// A side that speaks TLS, or anything but HTTP/2, refuses by an alert and by closing; which of them is noticed first
/// is chance, so each is tried alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_side_that_speaks_no_http2_is_not_there() {
    const ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 0x46];
    const HTTP1: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
    for (what, answer, closes) in [
        ("alert", ALERT, false),
        ("alert, closed", ALERT, true),
        ("HTTP/1", HTTP1, false),
        ("closed", b"", true),
    ] {
        let daemon = speaks(answer, closes).await;
        let error = daemon.cluster_status().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_)), "{what}: {error}");
        let drop =
            DropTable { database: "d".into(), table: "t".into(), delete_topics: true, if_exists: true };
        let error = daemon.drop_table(drop).await.unwrap_err();
        assert!(matches!(error, Error::Unavailable(_) | Error::OutcomeUnknown(_)), "{what}: {error}");
    }
}
