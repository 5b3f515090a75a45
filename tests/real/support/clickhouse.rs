//! Starts real ClickHouse servers for tests.

use converthouse::adapters::clickhouse::HttpClickHouse;
use converthouse::adapters::compute::clickhouse_server::{ClickHouseServer, Options};
use converthouse::model::node::Secret;
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
        };
        let mut server = ClickHouseServer::prepare(options).unwrap();
        server.start().await.unwrap_or_else(|error| panic!("{error}"));
        Self { server, password, folder }
    }

    /// The port of the daemon to it.
    pub fn client(&self) -> HttpClickHouse {
        HttpClickHouse::new(&self.server.url(), "default", &self.password)
    }

    /// Runs any statement, as a user would; panics with what the server says.
    pub async fn query(&self, sql: &str) -> String {
        self.try_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
    }

    /// The same, with the server's refusal as an error.
    pub async fn try_query(&self, sql: &str) -> Result<String, String> {
        let client = clickhouse::Client::default()
            .with_url(self.server.url())
            .with_user("default")
            .with_password(self.password.expose())
            .with_compression(clickhouse::Compression::None)
            .with_validation(false);
        let answer = async { client.query_raw(sql).fetch_bytes("TabSeparatedRaw")?.collect().await };
        match answer.await {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}
