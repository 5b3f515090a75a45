//! ClickHouse servers that speak TLS alone, over HTTP and between themselves: the daemon reaches them, they reach each
//! other by the routes that it writes, and on both ways nobody takes a certificate of another authority.

use super::support::certificates;
use super::support::cluster::{LEASE_TTL_MS, program};
use converthouse::adapters::compute::clickhouse_server::{ClickHouseServer, Options, Place, Secure};
use converthouse::adapters::compute::process::{Launch, Process, free_port};
use converthouse::model::control::{ClusterStatus, TableStatus};
use converthouse::model::names;
use converthouse::model::node::Secret;
use converthouse::model::table::TableName;
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const SETTLES_WITHIN: Duration = Duration::from_secs(90);
const PASSWORD: &str = "pass'word";
const PARTITIONS: u64 = 8;
const ROWS: u64 = 1_000;
const COUNT: &str = "SELECT count(), uniqExact(id), max(id) FROM shop.events";

/// Two servers, and where their one daemon listens.
struct Secured {
    servers: Vec<ClickHouseServer>,
    url: String,
    // Dropped last.
    folder: TempDir,
}

impl Secured {
    /// Starts the servers and writes the daemon's file.
    async fn start() -> Self {
        let folder = TempDir::with_prefix("converthouse-secure-").unwrap();
        certificates::make(folder.path());
        let [certificate, key, ca] =
            ["server.pem", "server.key", "ca.pem"].map(|name| folder.path().join(name));
        let secure = Secure { certificate, key, ca };
        let (grpc, http) = (free_port().unwrap(), free_port().unwrap());
        let mut config = format!(
            "[cluster]\nname = \"secure\"\n[daemon]\nnode = \"n1\"\ndata_dir = {:?}\n\
             grpc_listen = \"127.0.0.1:{grpc}\"\nhttp_listen = \"127.0.0.1:{http}\"\n\
             [metadata]\nkind = \"embedded\"\nlease_ttl_ms = {LEASE_TTL_MS}\n[kafka]\nkind = \"embedded\"\n\
             [log]\nlevel = \"info,converthouse=debug\"\n",
            folder.path().join("daemon"),
        );
        let mut servers = Vec::new();
        for id in ["n1", "n2"] {
            let (name, password) = (format!("clickhouse-{id}"), Secret::new(PASSWORD));
            let own = folder.path().join(id);
            let options = Options { name, folder: own, data: None, password, place: Place::default() };
            let mut server = ClickHouseServer::prepare_secure(options, &secure).unwrap();
            server.start().await.unwrap_or_else(|error| panic!("{error}"));
            config += &format!(
                "[[node]]\nid = \"{id}\"\nlabels = {{ zone = \"{id}\" }}\nclickhouse_url = {:?}\n\
                 clickhouse_password = \"{PASSWORD}\"\nclickhouse_port = {}\nclickhouse_secure = true\n\
                 routes_file = {:?}\n",
                server.url(),
                server.tcp_port(),
                server.routes_file(),
            );
            servers.push(server);
        }
        std::fs::write(folder.path().join("converthouse.toml"), config).unwrap();
        Self { servers, url: format!("http://127.0.0.1:{grpc}"), folder }
    }

    /// The daemon, on a machine whose one authority is this.
    fn daemon(&self, ca: &str) -> Process {
        let folder = self.folder.path();
        Launch::new("daemon", program(), folder)
            .args(["server", "--config", "converthouse.toml"])
            .hide_env("SSL_CERT_")
            .env("SSL_CERT_FILE", folder.join(ca))
            .start()
            .unwrap()
    }

    fn cli(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = Command::new(program());
        let ran = command.args(["--server", &self.url]).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if ran.status.success() { Ok(text(&ran.stdout)) } else { Err(text(&ran.stderr)) }
    }

    /// Waits until both nodes' reports say whether their server answers.
    fn until_up(&self, daemon: &Process, up: bool) -> ClusterStatus {
        let began = Instant::now();
        loop {
            let said = self.cli(&["status", "--json"]);
            let status =
                said.and_then(|s| serde_json::from_str(&s).map_err(|e: serde_json::Error| e.to_string()));
            let so = |status: &ClusterStatus| {
                let seen = status.nodes.iter().filter(|node| node.live && node.clickhouse_up == Some(up));
                status.leader.is_some() && seen.count() == 2
            };
            match status {
                Ok(status) if so(&status) => return status,
                other => assert!(
                    began.elapsed() < SETTLES_WITHIN,
                    "waited for both to be up: {up}: {other:#?}\n{}",
                    daemon.log_tail(40)
                ),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks a server as a client does that trusts the authority alone; its refusal is an error.
    fn ask(&self, number: usize, sql: &str) -> Result<String, String> {
        let at = format!("127.0.0.1:{}", self.servers[number].http_port());
        let mut client = Command::new("timeout")
            .args(["60", "openssl", "s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1"])
            .args(["-CAfile", "ca.pem", "-connect", &at])
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let head = format!("X-ClickHouse-User: default\r\nX-ClickHouse-Key: {PASSWORD}");
        let request = format!("POST / HTTP/1.0\r\n{head}\r\nContent-Length: {}\r\n\r\n{sql}", sql.len());
        client.stdin.take().unwrap().write_all(request.as_bytes()).unwrap();
        let output = client.wait_with_output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((head, body)) = answer.split_once("\r\n\r\n") else {
            panic!("no answer over TLS: {answer:?}, {}", String::from_utf8_lossy(&output.stderr));
        };
        let body = body.trim_end().to_owned();
        if head.contains(" 200 ") { Ok(body) } else { Err(body) }
    }
}

/// What a port answers to plain text: ClickHouse's plain ones, native too, answer in HTTP.
fn in_the_clear(port: u16) -> String {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // It may well cut the connection.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Makes a table of which each server has one half, and fills it.
fn fill(secured: &Secured) -> TableStatus {
    let ddl = "CREATE TABLE shop.events (id UInt64) ENGINE = MergeTree ORDER BY id";
    let partitions = PARTITIONS.to_string();
    let numbers = ["--partitions", &partitions, "--shards", "2", "--replicas", "1", "--partition-by", "id"];
    let made = secured.cli(&[&["table", "create", ddl, "--wait-complete"], &numbers[..]].concat());
    made.unwrap_or_else(|error| panic!("{error}"));
    let rows: String = (0..ROWS).map(|id| format!("{{\"id\":{id}}}\n")).collect();
    let file = secured.folder.path().join("rows.json");
    std::fs::write(&file, rows).unwrap();
    let sent = secured.cli(&["insert", "shop.events", "--file", file.to_str().unwrap()]);
    sent.unwrap_or_else(|error| panic!("{error}"));
    serde_json::from_str(&secured.cli(&["table", "show", "shop.events", "--json"]).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_speak_tls_alone_are_reached_and_reach_each_other_and_strangers_are_refused() {
    let mut secured = Secured::start().await;
    for server in &secured.servers {
        for port in [server.http_port(), server.tcp_port()] {
            let answer = in_the_clear(port);
            assert!(!answer.contains("HTTP"), "{port} speaks plain text: {answer}");
        }
    }
    let stranger = secured.daemon("other.pem");
    let status = secured.until_up(&stranger, false);
    let told = status.problems.iter().filter(|problem| problem.contains("certificate"));
    assert_eq!(told.count(), 2, "it says why it does not reach them: {:#?}", status.problems);
    assert!(stranger.stop(Duration::from_secs(30)).unwrap().success());

    let daemon = secured.daemon("ca.pem");
    secured.until_up(&daemon, true);
    let table = fill(&secured);
    let whole = format!("{ROWS}\t{ROWS}\t{}", ROWS - 1);
    let began = Instant::now();
    for number in 0..2 {
        loop {
            let shown = secured.ask(number, COUNT);
            if shown.as_ref() == Ok(&whole) {
                break;
            }
            assert!(began.elapsed() < SETTLES_WITHIN, "{shown:?}\n{}", daemon.log_tail(40));
            std::thread::sleep(Duration::from_millis(200));
        }
        let routes = std::fs::read_to_string(secured.servers[number].routes_file()).unwrap();
        assert_eq!(routes.matches("<secure>1</secure>").count(), 2, "{routes}");
    }
    // Neither could have counted them without the other.
    let name = TableName { database: table.database.clone(), table: table.table.clone() };
    let mut holders = Vec::new();
    for shard in &table.shards {
        let [replica] = &shard.replicas[..] else { panic!("{shard:?}") };
        let number = usize::from(replica.node.as_str() == "n2");
        let database = names::replica_database(&name, table.id, shard.id);
        let held = secured.ask(number, &format!("SELECT count() FROM `{database}`.local")).unwrap();
        assert_eq!(held, (ROWS / 2).to_string(), "{shard:?}");
        holders.push(number);
    }
    holders.sort_unstable();
    assert_eq!(holders, [0, 1]);

    // One that trusts another authority reads from nobody, whatever its routes say; the other reads on.
    let file = secured.servers[1].folder().join("config.xml");
    let config = std::fs::read_to_string(&file).unwrap();
    assert_eq!(config.matches("/ca.pem<").count(), 1, "{config}");
    std::fs::write(&file, config.replace("/ca.pem<", "/other.pem<")).unwrap();
    secured.servers[1].kill().unwrap();
    secured.servers[1].start().await.unwrap_or_else(|error| panic!("{error}"));
    let refused = secured.ask(1, COUNT).unwrap_err();
    assert!(refused.contains("certificate verify failed"), "{refused}");
    assert_eq!(secured.ask(0, COUNT), Ok(whole));
    assert!(daemon.stop(Duration::from_secs(30)).unwrap().success());
}
