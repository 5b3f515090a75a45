//! Everything killed at once: daemons, servers, the queue, the store. It comes back in the order that a test wants.

use super::cluster::{Cluster, Node};

/// Members of the store.
const MEMBERS: usize = 3;

impl Cluster {
    pub fn kill_everything(&mut self) {
        for node in &mut self.nodes {
            node.kill_daemon();
            node.server.kill().unwrap();
        }
        self.kafka.brokers.kill(0).unwrap();
        (0..MEMBERS).for_each(|member| self.kill_etcd(member));
    }

    pub fn start_daemons(&mut self) {
        self.nodes.iter_mut().for_each(Node::start_daemon);
    }

    pub fn start_store(&mut self) {
        (0..MEMBERS).for_each(|member| self.start_etcd(member));
    }

    pub async fn start_queue(&mut self) {
        self.kafka.brokers.restart(0).await.unwrap();
    }

    pub async fn start_servers(&mut self) {
        for node in &mut self.nodes {
            node.server.start().await.unwrap();
        }
    }
}
