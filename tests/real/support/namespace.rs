//! A network of a node's own: a Linux network namespace, with a cable to this machine that can be pulled. Then nothing
//! comes and nothing goes, in either direction, and nobody is told: connections that are open stay open and silent.
//!
//! What is in it reaches this machine's 127.0.0.1 as if it were its own, so that etcd, Kafka and the other nodes need
//! no other address; it is reached itself at an address of its own. Needs root, and a kernel that allows it.

use converthouse::adapters::compute::clickhouse_server::Place;
use std::process::Command;

/// See the module. Taken away when dropped, once no process is in it.
pub struct Namespace {
    name: String,
    /// The first three bytes of its addresses, which tell this network from others on this machine.
    network: String,
}

impl Namespace {
    /// `None`, with a note, where it cannot be had.
    pub fn make() -> Option<Self> {
        sweep();
        let pid = std::process::id();
        let network = format!("10.213.{}", pid % 256);
        let made = Self { name: format!("cvh-{pid}"), network };
        let Self { name, network } = &made;
        let (outer, inner) = made.cable();
        let script = format!(
            "set -e; ip netns add {name}; ip link add {outer} type veth peer name {inner} netns {name}
             ip addr add {network}.1/30 dev {outer}; ip link set {outer} up
             echo 1 > /proc/sys/net/ipv4/conf/{outer}/route_localnet
             ip netns exec {name} sh -ec '
               ip link set lo up; ip addr del 127.0.0.1/8 dev lo; ip addr add {network}.2/32 dev lo
               echo 1 > /proc/sys/net/ipv4/conf/{inner}/route_localnet'"
        );
        match run(&script).and_then(|()| made.try_plug()) {
            Ok(()) => Some(made),
            Err(why) => {
                println!("no network namespace can be made here: {why}");
                None
            }
        }
    }

    /// Both ends.
    fn cable(&self) -> (String, String) {
        let number = &self.name["cvh-".len()..];
        (format!("cvo{number}"), format!("cvi{number}"))
    }

    /// Where servers are to run that live in it.
    pub fn place(&self) -> Place {
        let address = format!("{}.2", self.network);
        Place { allowed: allowed(&self.network), address, command: self.command() }
    }

    /// Where servers are to run that are reached from it.
    pub fn outside(&self) -> Place {
        Place { allowed: allowed(&self.network), ..Place::default() }
    }

    fn command(&self) -> Vec<String> {
        vec!["nsenter".into(), format!("--net=/run/netns/{}", self.name)]
    }

    fn try_plug(&self) -> Result<(), String> {
        let Self { name, network } = self;
        let (_, inner) = self.cable();
        run(&format!(
            "ip netns exec {name} sh -ec 'ip link set {inner} up
             ip route add {network}.1/32 dev {inner} src {network}.2
             ip route add 127.0.0.1/32 via {network}.1 dev {inner} src {network}.2'"
        ))
    }

    /// Puts the cable in again.
    pub fn plug(&self) {
        self.try_plug().unwrap();
    }

    /// Pulls the cable.
    pub fn pull(&self) {
        let (_, inner) = self.cable();
        run(&format!("ip netns exec {} ip link set {inner} down", self.name)).unwrap();
    }
}

fn allowed(network: &str) -> Vec<String> {
    vec!["127.0.0.1".into(), format!("{network}.0/30")]
}

impl Drop for Namespace {
    fn drop(&mut self) {
        run(&format!("ip link del {}; ip netns del {}", self.cable().0, self.name)).ok();
    }
}

/// Takes away what a run that was killed has left.
fn sweep() {
    let left = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in left.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name.strip_prefix("cvh-").filter(|pid| !std::path::Path::new("/proc").join(pid).exists());
        if let Some(pid) = pid.filter(|pid| pid.parse::<u32>().is_ok()) {
            run(&format!("ip link del cvo{pid}; ip netns del {name}")).ok();
        }
    }
}

fn run(script: &str) -> Result<(), String> {
    let done = Command::new("sh").args(["-c", script]).output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
    if done.status.success() { Ok(()) } else { Err(said) }
}
