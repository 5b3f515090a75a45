//! What a call may take of time and room: the caller's deadline through other daemons, and inserts' bodies in memory.

use super::edge::{Edge, Mood, cluster};
use super::{client, drop_table, hasty, insert};
use converthouse::adapters::peers::grpc::{GrpcDaemon, INSERT_BYTES_MAX, Options};
use converthouse::adapters::peers::{Daemon, Error};
use converthouse::api;
use converthouse::error::{Coded, Retry};
use converthouse::wire;
use std::sync::Arc;

/// A daemon that passes everything on, as one that does not lead does with what only the leader can answer.
async fn hop(to: &Edge, own_timeout_ms: u64) -> (String, tokio::task::JoinHandle<()>) {
    let (read_timeout_ms, write_timeout_ms) = (own_timeout_ms, own_timeout_ms);
    let options = Options { read_timeout_ms, write_timeout_ms, ..Options::default() };
    let daemon: Arc<dyn Daemon> = Arc::new(GrpcDaemon::new(&to.grpc, options));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let never = futures::future::pending();
    let serving = tokio::spawn(async move {
        let room = api::Room::default();
        api::grpc::serve(listener, daemon, None, Arc::new(Vec::new), room, never).await.unwrap();
    });
    (url, serving)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn the_callers_time_goes_along_to_whoever_answers() {
    let leader = Edge::start();
    // The hop's own patience is shorter than the caller's, then longer: neither counts.
    for own_timeout_ms in [50, 60_000] {
        leader.daemon.set(Mood::Hangs);
        let (url, serving) = hop(&leader, own_timeout_ms).await;
        let options = Options { read_timeout_ms: 4_000, write_timeout_ms: 4_000, ..Options::default() };
        let caller = GrpcDaemon::new(&url, options);
        let named = |text: &str| text.contains(&leader.grpc) && text.contains("did not answer within 3");
        let (plan, dropped) = futures::join!(caller.make_plan(), caller.drop_table(drop_table()));
        let error = plan.unwrap_err();
        assert!(matches!(&error, Error::Unavailable(text) if named(text)), "{error}");
        let error = dropped.unwrap_err();
        assert!(matches!(&error, Error::OutcomeUnknown(text) if named(text)), "{error}");
        leader.daemon.set(Mood::Well);
        assert_eq!(caller.cluster_status().await.unwrap(), cluster());
        serving.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn inserts_share_the_room_of_all_and_hold_theirs_until_they_end() {
    let edge = Edge::start();
    let other = edge.room.enter();
    other.take(8 * INSERT_BYTES_MAX).unwrap();
    let error = client(&edge).insert(insert(b"{}")).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("nothing was inserted")), "{error}");
    let channel = tonic::transport::Endpoint::from_shared(edge.grpc.clone()).unwrap().connect_lazy();
    let mut control = wire::control_client::ControlClient::new(channel);
    let request = wire::InsertRequest { database: "d".into(), table: "t".into(), ..Default::default() };
    let status = control.insert(request).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(edge.daemon.asked.lock().unwrap().is_empty());
    drop(other);
    client(&edge).insert(insert(b"{}")).await.unwrap();
    assert_eq!(edge.room.held_bytes(), 0);
    edge.daemon.set(Mood::Hangs);
    let error = hasty(&edge).insert(insert(&[b'x'; 1_000])).await.unwrap_err();
    assert_eq!(error.retry(), Retry::OutcomeUnknown, "{error}");
    assert!(edge.room.held_bytes() >= 1_000, "the caller has gone, the rows are still there");
}
