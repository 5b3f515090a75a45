//! One node of a cluster behind links, so that its network can fail.

use super::kafka::TestKafka;
use super::link::{Link, Weather};
use converthouse::adapters::compute::etcd_member::Peer;
use converthouse::adapters::compute::process::free_port;

/// The first node's network, if it is to fail: what its daemon reaches everything through, and what others reach it
/// and its server through.
#[derive(Default)]
pub struct Links {
    pub clickhouse: Vec<Link>,
    pub etcd: Vec<Link>,
    pub kafka: Vec<Link>,
    /// To the daemon.
    pub daemon: Vec<Link>,
    /// To the server, for the other servers.
    pub native: Vec<Link>,
}

#[allow(dead_code)] // for the proof, which shares this file
impl Links {
    /// To the members of the store, and to a broker of its own.
    pub async fn to_store_and_queue(peers: &[Peer]) -> (Self, TestKafka) {
        let mut links = Self::default();
        for peer in peers {
            let port = peer.client_url.rsplit_once(':').unwrap().1.parse().unwrap();
            links.etcd.push(Link::to(port).await);
        }
        // A client is sent to the address that the listener advertises which it came in by.
        let door = free_port().unwrap();
        let link = Link::to(door).await;
        let listeners = format!(
            "CLIENT://127.0.0.1:{{port}},INTERNAL://127.0.0.1:{{internal_port}},\
             CONTROLLER://127.0.0.1:{{controller_port}},LINKED://127.0.0.1:{door}"
        );
        let advertised = format!(
            "CLIENT://127.0.0.1:{{port}},INTERNAL://127.0.0.1:{{internal_port}},LINKED://127.0.0.1:{}",
            link.port()
        );
        let protocols = "CLIENT:PLAINTEXT,INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT,LINKED:PLAINTEXT";
        let settings = [
            ("listeners", listeners.as_str()),
            ("advertised.listeners", advertised.as_str()),
            ("listener.security.protocol.map", protocols),
        ];
        let kafka = TestKafka::start(1, &settings).await;
        links.kafka.push(link);
        (links, kafka)
    }

    /// By which ports others are to reach the daemon and its server.
    pub async fn doors(&mut self, grpc: u16, tcp: u16) -> (u16, u16) {
        self.daemon.push(Link::to(grpc).await);
        self.native.push(Link::to(tcp).await);
        (self.daemon[0].port(), self.native[0].port())
    }

    /// The daemon's part: what it reaches everything through, and what other daemons reach it through.
    pub fn set(&self, weather: Weather) {
        let out = self.clickhouse.iter().chain(&self.etcd).chain(&self.kafka);
        out.chain(&self.daemon).for_each(|link| link.set(weather));
    }

    /// The server's: what other servers reach it through.
    pub fn set_native(&self, weather: Weather) {
        self.native.iter().for_each(|link| link.set(weather));
    }
}
