//! A real etcd cluster on this machine, members of which can be killed, paused and started again.

use converthouse::adapters::compute::etcd_member::{EtcdMember, Peer};
use converthouse::adapters::compute::process::{Process, free_port};
use converthouse::adapters::metadata::{EtcdOptions, EtcdStore};
use std::time::{Duration, Instant};

/// Everything on a loaded machine has happened by then.
const PATIENCE: Duration = Duration::from_secs(60);

/// Members on free ports of 127.0.0.1, data in a folder that goes with it.
pub struct EtcdCluster {
    members: Vec<EtcdMember>,
    processes: Vec<Option<Process>>,
    _folder: tempfile::TempDir,
}

impl EtcdCluster {
    /// Members that know of each other, not started.
    pub fn prepare(count: usize) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = || format!("http://127.0.0.1:{}", free_port().unwrap());
        let peer = |number| Peer { name: format!("n{number}"), peer_url: url(), client_url: url() };
        let peers: Vec<Peer> = (1..=count).map(peer).collect();
        let member = |peer: &Peer| EtcdMember {
            program: "etcd".into(),
            folder: folder.path().join(&peer.name),
            cluster: "test".into(),
            name: peer.name.clone(),
            peers: peers.clone(),
            listen: None,
        };
        let members: Vec<EtcdMember> = peers.iter().map(member).collect();
        Self { processes: members.iter().map(|_| None).collect(), members, _folder: folder }
    }

    /// Members that run and take writes.
    pub fn start(count: usize) -> Self {
        let mut cluster = Self::prepare(count);
        for index in 0..count {
            cluster.launch(index);
        }
        cluster.wait_healthy();
        cluster
    }

    /// What member `index` is started with.
    pub fn member(&self, index: usize) -> &EtcdMember {
        &self.members[index]
    }

    /// Where each member is reached.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.own().unwrap().client_url.clone()).collect()
    }

    /// A store that asks all members.
    pub fn store(&self) -> EtcdStore {
        EtcdStore::new(&EtcdOptions::new(self.endpoints())).unwrap()
    }

    /// A store that asks one member only.
    pub fn store_on(&self, index: usize) -> EtcdStore {
        EtcdStore::new(&EtcdOptions::new([&self.endpoints()[index]])).unwrap()
    }

    /// The library's own client, for what the port does not have.
    pub async fn client(&self) -> etcd_client::Client {
        etcd_client::Client::connect(self.endpoints(), None).await.unwrap()
    }

    /// Starts a member without waiting for it; it finds its data again.
    pub fn launch(&mut self, index: usize) {
        self.processes[index] = Some(self.members[index].start().unwrap());
    }

    /// Starts a member again and waits until it takes writes.
    pub fn restart(&mut self, index: usize) {
        self.launch(index);
        self.wait_healthy();
    }

    /// `kill -9`.
    pub fn kill(&mut self, index: usize) {
        self.processes[index].take().expect("it runs").kill().unwrap();
    }

    /// Holds a member in its tracks: its connections stay open.
    pub fn pause(&self, index: usize) {
        self.processes[index].as_ref().expect("it runs").pause();
    }

    /// Lets a paused one go on.
    pub fn resume(&self, index: usize) {
        self.processes[index].as_ref().expect("it runs").resume();
    }

    /// Waits until every member that runs takes writes.
    pub fn wait_healthy(&self) {
        let start = Instant::now();
        for (member, process) in self.members.iter().zip(&self.processes) {
            let Some(process) = process else { continue };
            process.wait_ready(PATIENCE.saturating_sub(start.elapsed()), || member.health()).unwrap();
        }
    }

    /// Which member leads.
    pub async fn leader(&self) -> usize {
        for (index, endpoint) in self.endpoints().iter().enumerate() {
            if self.processes[index].is_none() {
                continue;
            }
            let mut client = etcd_client::Client::connect([endpoint], None).await.unwrap();
            let status = client.status().await.unwrap();
            if status.header().unwrap().member_id() == status.leader() {
                return index;
            }
        }
        panic!("no member leads");
    }
}

/// The configuration of a store that the daemons form themselves.
pub fn managed(members: &[Peer]) -> String {
    let member = |peer: &Peer| {
        let Peer { name, client_url, peer_url } = peer;
        format!("{{ node = {name:?}, client_url = {client_url:?}, peer_url = {peer_url:?} }}")
    };
    let members: Vec<String> = members.iter().map(member).collect();
    format!("kind = \"managed\"\nlisten = \"127.0.0.1\"\nmember = [{}]\n", members.join(", "))
}

/// A member of that name, on free ports.
pub fn peer(name: String) -> Peer {
    let url = || format!("http://127.0.0.1:{}", free_port().unwrap());
    Peer { name, peer_url: url(), client_url: url() }
}

/// Three members, each in a folder of its own in that one; started, not waited for.
pub fn start_three(folder: &std::path::Path) -> Vec<(EtcdMember, Option<Process>)> {
    let peers: Vec<Peer> = (0..3).map(|number| peer(format!("e{number}"))).collect();
    let member = |peer: &Peer| EtcdMember {
        program: "etcd".into(),
        folder: folder.join(&peer.name),
        cluster: "test".into(),
        name: peer.name.clone(),
        peers: peers.clone(),
        listen: None,
    };
    let members: Vec<EtcdMember> = peers.iter().map(member).collect();
    members
        .into_iter()
        .map(|member| {
            let process = member.start().unwrap();
            (member, Some(process))
        })
        .collect()
}
