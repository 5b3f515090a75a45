//! etcd members run from the machine's own `etcd` binary (3.4 and later): one for a test, or one beside each daemon.
//!
//! [`EtcdMember`] knows the flags and starts one process. [`ManagedEtcd`] is `etcd = "managed"`: each daemon keeps
//! one member running, and the members find each other by the list that all daemons have in their configuration, so
//! that three daemons form their own store with no other step.
//!
//! What it does not do: change the list of a cluster that exists (a member whose folder is lost is removed and added
//! again by `etcdctl`, whereupon it joins by itself), and TLS (give the addresses of a network that only the daemons
//! share, or run etcd yourself).

use super::process::{Error, Launch, Process};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// etcd's data within the member's folder.
const DATA: &str = "data";
/// The largest that etcd's makers advise. Its own default, 2 GiB, is filled by half an hour's history of a large
/// cluster that changes fast; and a store that is full takes no write before somebody has made room by hand.
const QUOTA_BYTES: u64 = 8 << 30;
/// How often a managed member is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The first pause before a member that ended is started again; each further one is twice as long.
const BACK_OFF_MIN: Duration = Duration::from_millis(500);
/// The longest pause.
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// A member that ran so long had started well: the pauses begin anew.
const RAN_WELL: Duration = Duration::from_secs(60);
/// A member answers a health question within this time or counts as not well.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(2);

/// A member as all members know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its name, unique among the members; here the node's.
    pub name: String,
    /// Where other members reach it: `http://host:port`.
    pub peer_url: String,
    /// Where daemons reach it: `http://host:port`.
    pub client_url: String,
}

/// One member: everything needed to start it, and to start it again with what it holds.
#[derive(Debug, Clone)]
pub struct EtcdMember {
    /// The binary, looked for in `PATH` unless it holds a slash.
    pub program: PathBuf,
    /// Its own folder: data, log. It writes nowhere else.
    pub folder: PathBuf,
    /// Name of the cluster: members of others are refused.
    pub cluster: String,
    /// Which of `peers` it is.
    pub name: String,
    /// All members at the cluster's beginning, itself included.
    pub peers: Vec<Peer>,
    /// The address that it listens on; `None`: its URLs' host if that is an address, else every address, since etcd
    /// binds to no name.
    pub listen: Option<IpAddr>,
}

impl EtcdMember {
    /// Its own entry in the list.
    ///
    /// # Errors
    /// [`Error::Misconfigured`] if the list does not hold it once, or holds what etcd could not use.
    pub fn own(&self) -> Result<&Peer, Error> {
        let wrong = |reason: String| Error::Misconfigured { name: format!("etcd {}", self.name), reason };
        let mut seen = BTreeSet::new();
        for peer in &self.peers {
            if !seen.insert(&peer.name) {
                return Err(wrong(format!("member {:?} is listed twice", peer.name)));
            }
            if peer.name.is_empty() || peer.name.contains([',', '=']) {
                return Err(wrong(format!("{:?} cannot be a member's name", peer.name)));
            }
            for url in [&peer.peer_url, &peer.client_url] {
                if host_and_port(url).is_none() {
                    return Err(wrong(format!("{url:?} of member {:?} is not http://host:port", peer.name)));
                }
                if !seen.insert(url) {
                    return Err(wrong(format!("{url:?} is listed twice")));
                }
            }
        }
        let own = self.peers.iter().find(|peer| peer.name == self.name);
        own.ok_or_else(|| wrong(format!("the list of members does not hold {:?} itself", self.name)))
    }

    /// Starts it, without waiting: it is ready when most of the members run.
    ///
    /// # Errors
    /// [`Error::Misconfigured`], [`Error::NotInstalled`], [`Error::System`].
    pub fn start(&self) -> Result<Process, Error> {
        self.start_as("new")
    }

    /// What etcd is to be told of the cluster: that it exists, if this member has no data and the others were told to
    /// take one in that has never run; `None`: not to be started, since the others know of no such member (it would
    /// make itself one, which they would refuse for ever). A member that did run and lost its data must not go on as
    /// the same: it may have voted. etcd refuses that itself.
    async fn cluster_state(&self) -> Option<&'static str> {
        // A start that etcd refused leaves folders too, but no log.
        let log = std::fs::read_dir(self.folder.join(DATA).join("member").join("wal"));
        let is_log = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|end| end == "wal");
        if log.is_ok_and(|entries| entries.flatten().any(|entry| is_log(&entry))) {
            return Some("new");
        }
        let Ok(own) = self.own() else { return Some("new") };
        for other in self.peers.iter().filter(|peer| peer.name != self.name) {
            let asked = async {
                let mut client = etcd_client::Client::connect([&other.client_url], None).await?;
                client.member_list().await
            };
            let Ok(Ok(list)) = tokio::time::timeout(HEALTH_TIMEOUT, asked).await else { continue };
            let here = list.members().iter().find(|member| member.peer_urls().contains(&own.peer_url));
            // Members that the cluster began with have a name before they run, those that were added have none.
            return here.map(|member| if member.name().is_empty() { "existing" } else { "new" });
        }
        Some("new")
    }

    fn start_as(&self, cluster_state: &str) -> Result<Process, Error> {
        let own = self.own()?;
        let launch = Launch::new("etcd", &self.program, &self.folder);
        // etcd ends at once if a variable and a flag set the same thing.
        launch.args(self.flags(own, cluster_state)).hide_env("ETCD_").start()
    }

    fn flags(&self, own: &Peer, cluster_state: &str) -> Vec<String> {
        let peers: Vec<_> =
            self.peers.iter().map(|peer| format!("{}={}", peer.name, peer.peer_url)).collect();
        let flag = |name: &str, value: &str| format!("--{name}={value}");
        vec![
            flag("name", &own.name),
            // The working directory is the folder: nothing of its own path stands in the data.
            flag("data-dir", DATA),
            flag("listen-client-urls", &self.listens(&own.client_url)),
            flag("advertise-client-urls", &own.client_url),
            flag("listen-peer-urls", &self.listens(&own.peer_url)),
            flag("initial-advertise-peer-urls", &own.peer_url),
            flag("initial-cluster", &peers.join(",")),
            flag("initial-cluster-token", &self.cluster),
            // Of no effect once there is data.
            flag("initial-cluster-state", cluster_state),
            flag("logger", "zap"),
            flag("log-outputs", "stderr"),
            flag("log-level", "warn"),
            // History that nobody reads any more must go, or the file grows for ever.
            flag("auto-compaction-mode", "periodic"),
            flag("auto-compaction-retention", "30m"),
            flag("quota-backend-bytes", &QUOTA_BYTES.to_string()),
            // A member that was cut off does not depose the leader when it comes back.
            flag("pre-vote", "true"),
        ]
    }

    /// Where it listens, for one of its own URLs.
    fn listens(&self, url: &str) -> String {
        let Some((host, port)) = host_and_port(url).and_then(|authority| authority.rsplit_once(':')) else {
            return url.to_owned();
        };
        let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() || host == "localhost";
        match self.listen {
            Some(address) => format!("http://{}", SocketAddr::new(address, port.parse().unwrap_or_default())),
            None if is_address => url.to_owned(),
            None => format!("http://0.0.0.0:{port}"),
        }
    }

    /// Whether it takes writes: it runs, and knows a leader.
    ///
    /// # Errors
    /// What is not well, as text.
    pub fn health(&self) -> Result<(), String> {
        let own = self.own().map_err(|error| error.to_string())?;
        health(&own.client_url)
    }
}

/// Asks `/health`, as plain as can be.
fn health(url: &str) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{url}: {error}");
    let authority = host_and_port(url).ok_or_else(|| format!("{url} is no address"))?;
    let mut addresses = authority.to_socket_addrs().map_err(failed)?;
    let address = addresses.next().ok_or_else(|| format!("{url} has no address"))?;
    let mut stream = TcpStream::connect_timeout(&address, HEALTH_TIMEOUT).map_err(failed)?;
    stream.set_read_timeout(Some(HEALTH_TIMEOUT)).map_err(failed)?;
    stream
        .write_all(format!("GET /health HTTP/1.0\r\nHost: {authority}\r\n\r\n").as_bytes())
        .map_err(failed)?;
    let mut answer = Vec::new();
    stream.take(64 << 10).read_to_end(&mut answer).map_err(failed)?;
    let text = String::from_utf8_lossy(&answer);
    if text.contains("\"health\":\"true\"") {
        return Ok(());
    }
    Err(format!("{url}: {}", text.lines().last().unwrap_or("no answer")))
}

fn host_and_port(url: &str) -> Option<&str> {
    let authority = url.strip_prefix("http://")?.trim_end_matches('/');
    let (host, port) = authority.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(authority)
}

/// A member that is kept running until stopped or dropped.
#[derive(Debug)]
pub struct ManagedEtcd {
    member: Arc<EtcdMember>,
    process: Arc<Mutex<Option<Process>>>,
    supervision: JoinHandle<()>,
}

impl ManagedEtcd {
    /// Starts the member and its supervision (a task on this runtime). Does not wait for the other members.
    ///
    /// # Errors
    /// As [`EtcdMember::start`]; later failures to start are logged and tried again.
    pub async fn start(member: EtcdMember) -> Result<Self, Error> {
        let member = Arc::new(member);
        member.own()?;
        let first = member.cluster_state().await.map(|state| member.start_as(state)).transpose()?;
        let process = Arc::new(Mutex::new(first));
        let supervision = tokio::spawn(supervise(member.clone(), process.clone()));
        Ok(Self { member, process, supervision })
    }

    /// Where daemons reach all members, the own one first.
    pub fn endpoints(&self) -> Vec<String> {
        let (own, others): (Vec<&Peer>, Vec<&Peer>) =
            self.member.peers.iter().partition(|peer| peer.name == self.member.name);
        own.into_iter().chain(others).map(|peer| peer.client_url.clone()).collect()
    }

    /// The member's process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        lock(&self.process).as_ref().filter(|process| process.is_running()).map(Process::pid)
    }

    /// Waits until the member takes writes, which takes most of the members.
    ///
    /// # Errors
    /// What is not well when the time is up.
    pub async fn ready(&self, deadline: Duration) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let member = self.member.clone();
            let health = tokio::task::spawn_blocking(move || member.health()).await;
            match health.unwrap_or_else(|error| Err(error.to_string())) {
                Err(_) if start.elapsed() < deadline => sleep(LOOK_EVERY).await,
                done => return done,
            }
        }
    }

    /// Ends supervision and the member: asked first, killed after `deadline`.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub async fn stop(self, deadline: Duration) -> Result<(), Error> {
        self.supervision.abort();
        let process = lock(&self.process).take();
        let end = move || process.map_or(Ok(()), |process| process.stop(deadline).map(drop));
        tokio::task::spawn_blocking(end).await.unwrap_or(Ok(()))
    }
}

impl Drop for ManagedEtcd {
    fn drop(&mut self) {
        self.supervision.abort();
        lock(&self.process).take();
    }
}

fn lock(process: &Mutex<Option<Process>>) -> MutexGuard<'_, Option<Process>> {
    process.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn supervise(member: Arc<EtcdMember>, process: Arc<Mutex<Option<Process>>>) {
    let (mut pause, mut started) = (BACK_OFF_MIN, Instant::now());
    loop {
        sleep(LOOK_EVERY).await;
        let ended = match &*lock(&process) {
            Some(process) => process.ended().map(|status| (status.to_string(), process.log_tail(5))),
            None => Some(("not a member".to_owned(), "add it with `etcdctl member add`".to_owned())),
        };
        let Some((status, log)) = ended else { continue };
        if started.elapsed() >= RAN_WELL {
            pause = BACK_OFF_MIN;
        }
        let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        tracing::warn!(member = %member.name, status, log, pause_ms, "etcd does not run here: trying again");
        sleep(pause).await;
        pause = (pause * 2).min(BACK_OFF_MAX);
        started = Instant::now();
        let state = member.cluster_state().await;
        // No await between start and keeping it: `stop` finds it, or it is dropped (killed) with this task.
        match state.map(|state| member.start_as(state)).transpose() {
            Ok(again) => *lock(&process) = again,
            Err(error) => tracing::error!(member = %member.name, %error, "etcd member cannot be started"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, peers: &[(&str, &str, &str)]) -> EtcdMember {
        let peer = |(name, peer_url, client_url): &(&str, &str, &str)| Peer {
            name: (*name).into(),
            peer_url: (*peer_url).into(),
            client_url: (*client_url).into(),
        };
        EtcdMember {
            program: "etcd".into(),
            folder: "unused".into(),
            cluster: "test".into(),
            name: name.into(),
            peers: peers.iter().map(peer).collect(),
            listen: None,
        }
    }

    #[test]
    fn a_member_listens_on_addresses_whatever_its_urls_say() {
        let mut member = member("a", &[("a", "http://a.example.org:1", "http://a.example.org:2")]);
        assert_eq!(member.listens("http://a.example.org:2"), "http://0.0.0.0:2");
        for url in ["http://10.0.0.1:2", "http://[::1]:2", "http://localhost:2"] {
            assert_eq!(member.listens(url), url);
        }
        member.listen = Some("10.0.0.1".parse().unwrap());
        assert_eq!(member.listens("http://a.example.org:2"), "http://10.0.0.1:2");
        member.listen = Some("fe80::1".parse().unwrap());
        assert_eq!(member.listens("http://a.example.org:2"), "http://[fe80::1]:2");
    }

    #[test]
    fn a_member_has_room_and_forgets_history() {
        let member = member("a", &[("a", "http://h:1", "http://h:2")]);
        let flags = member.flags(member.own().unwrap(), "new");
        for flag in ["--quota-backend-bytes=8589934592", "--auto-compaction-retention=30m"] {
            assert!(flags.iter().any(|given| given == flag), "{flags:?}");
        }
    }

    #[test]
    fn a_list_that_cannot_work_is_refused_with_the_reason() {
        let good = ("a", "http://h:1", "http://h:2");
        assert_eq!(member("a", &[good]).own().unwrap().client_url, "http://h:2");
        for (peers, reason) in [
            (vec![("b", "http://h:1", "http://h:2")], "does not hold \"a\""),
            (vec![good, good], "listed twice"),
            (vec![good, ("b", "http://h:1", "http://h:3")], "\"http://h:1\" is listed twice"),
            (vec![("a", "http://h:1", "http://h:1")], "\"http://h:1\" is listed twice"),
            (vec![("a", "https://h:1", "http://h:2")], "not http://host:port"),
            (vec![("a", "http://h", "http://h:2")], "not http://host:port"),
            (vec![("a", "http://h:0", "http://h:2")], "not http://host:port"),
            (vec![good, ("b=c", "http://h:3", "http://h:4")], "cannot be a member's name"),
            (vec![], "does not hold \"a\""),
        ] {
            let error = member("a", &peers).start().unwrap_err();
            assert!(matches!(error, Error::Misconfigured { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn nobody_there_is_not_well() {
        assert!(health("http://127.0.0.1:1").unwrap_err().contains("refused"));
        assert!(health("http://nohost.invalid:1").is_err());
    }
}
