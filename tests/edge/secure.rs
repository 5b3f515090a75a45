//! gRPC over TLS. The certificates in `tls/` are for these tests alone and are trusted by nothing else.

use super::edge::{Edge, cluster};
use converthouse::adapters::peers::grpc::{GrpcDaemon, Options};
use converthouse::adapters::peers::{Daemon, Error, Tls, TlsIdentity};

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
    }
    assert_eq!(edge.daemon.asked.lock().unwrap().len(), 1, "no outsider was heard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn without_a_ca_of_its_own_a_server_takes_any_client() {
    let edge = Edge::with_tls(Some(Tls { ca_pem: String::new(), identity: daemon() }));
    assert_eq!(client(&edge, CA, None).cluster_status().await.unwrap(), cluster());
}
