//! Starts real ClickHouse servers for tests.

use converthouse::adapters::clickhouse::HttpClickHouse;
use converthouse::adapters::compute::clickhouse_server::{ClickHouseServer, Options, Place};
use converthouse::adapters::compute::process::{Launch, Process, free_port};
use converthouse::model::node::{ClickHouseEndpoint, Secret};
use tempfile::TempDir;

/// A running server in a folder of its own; both go when dropped.
pub struct Running {
    pub server: ClickHouseServer,
    pub password: Secret,
    // Dropped after the server.
    pub folder: TempDir,
}

impl Running {
    /// Starts a server with a password for its one user, `default`.
    pub async fn start(name: &str) -> Self {
        Self::start_with(name, None).await
    }

    /// The same, with its data elsewhere.
    pub async fn start_with(name: &str, data: Option<std::path::PathBuf>) -> Self {
        let folder = TempDir::with_prefix("converthouse-").unwrap();
        let password = Secret::new("s<e>c&r'e\"t");
        let options = Options {
            name: name.to_owned(),
            folder: folder.path().join(name),
            data,
            password: password.clone(),
            place: Place::default(),
        };
        let mut server = ClickHouseServer::prepare(options).unwrap();
        server.start().await.unwrap_or_else(|error| panic!("{error}"));
        Self { server, password, folder }
    }

    /// The port of the daemon to it.
    pub fn client(&self) -> HttpClickHouse {
        HttpClickHouse::new(&self.server.url(), "default", &self.password)
    }

    /// As other servers reach it.
    pub fn endpoint(&self) -> ClickHouseEndpoint {
        endpoint_at(self.server.tcp_port(), &self.password)
    }

    /// Runs any statement, as a user would; panics with what the server says.
    pub async fn query(&self, sql: &str) -> String {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, with the server's refusal as an error.
    pub async fn try_query(&self, sql: &str) -> Result<String, String> {
        query(&self.server.url(), self.password.expose(), sql).await
    }
}

/// Whatever is at a native port of this machine.
pub fn endpoint_at(port: u16, password: &Secret) -> ClickHouseEndpoint {
    let (host, user) = ("127.0.0.1".to_owned(), "default".to_owned());
    ClickHouseEndpoint { host, port, secure: false, user, password: password.clone() }
}

/// The current engine behind `tests/chdb_shim.py`; ends when dropped.
pub struct Current {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl Current {
    /// Starts it with the clusters of a cluster file. `None`, with a note, where it is not provisioned: never in CI.
    pub async fn start(clusters: &str) -> Option<Self> {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let provisioned = std::env::var_os("CONVERTHOUSE_PROVISION_DIR");
        let provisioned = provisioned.map_or_else(|| root.join(".provision"), std::path::PathBuf::from);
        let python = provisioned.join("venv/bin/python");
        if !python.exists() {
            super::missing(&format!("no {}; run scripts/provision.sh chdb", python.display()));
            return None;
        }
        let folder = TempDir::with_prefix("converthouse-chdb-").unwrap();
        let config = folder.path().join("config.xml");
        std::fs::write(&config, clusters).unwrap();
        let port = free_port().unwrap();
        let process = Launch::new("chdb", python, folder.path())
            .arg(root.join("tests/chdb_shim.py"))
            .arg(port.to_string())
            .arg(folder.path().join("data"))
            .arg(&config)
            .start()
            .unwrap();
        let answers = async || {
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
            stream.map(drop).map_err(|error| error.to_string())
        };
        let ready = process.ready(std::time::Duration::from_secs(60), answers).await;
        ready.unwrap_or_else(|error| panic!("{error}"));
        Some(Self { port, _process: process, _folder: folder })
    }

    /// The port of the daemon to it.
    pub fn client(&self) -> HttpClickHouse {
        HttpClickHouse::new(&format!("http://127.0.0.1:{}", self.port), "", &Secret::new(""))
    }

    /// Runs any statement, as a user would.
    pub async fn query(&self, sql: &str) -> Result<String, String> {
        query(&format!("http://127.0.0.1:{}", self.port), "", sql).await
    }
}

async fn query(url: &str, password: &str, sql: &str) -> Result<String, String> {
    let client = clickhouse::Client::default()
        .with_url(url)
        .with_user("default")
        .with_password(password)
        .with_compression(clickhouse::Compression::None)
        .with_validation(false);
    let answer = async { client.query_raw(sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
    match answer.await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(error.to_string()),
    }
}
