//! A real ClickHouse server of our own, for the demo and the tests: configuration, ports, start, crash, restart.
//!
//! One configuration serves 18.16 and current servers: root `<yandex>`, `users.xml`, nothing that either lacks. The
//! generated clusters go where a daemon in production puts them, `config.d/`. The server keeps its ports and its
//! folder over restarts. Nothing here is meant for production servers, which have their own packages.

use super::process::{Error, Launch, Process, free_port};
use crate::model::node::Secret;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// How long a server may take to answer after its start.
const START_DEADLINE: Duration = Duration::from_secs(60);
/// How long it may take to end when asked to.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// One look at whether it answers.
const PING_DEADLINE: Duration = Duration::from_secs(2);
/// The environment variable that names the program.
pub const BINARY_VARIABLE: &str = "CLICKHOUSE_BINARY";

/// Where a server runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The one address that it listens at.
    pub address: String,
    /// Who may connect: addresses, or networks as `10.0.0.0/30`.
    pub allowed: Vec<String>,
    /// Words before its command, such as those that enter another network.
    pub command: Vec<String>,
}

/// This machine, for this machine.
impl Default for Place {
    fn default() -> Self {
        let address = "127.0.0.1".to_owned();
        Self { allowed: vec![address.clone()], address, command: Vec::new() }
    }
}

/// What a server is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// Stands in errors.
    pub name: String,
    /// Where it keeps everything.
    pub folder: PathBuf,
    /// Where it keeps its data; `None` is within `folder`. Another disk, in tests of full ones.
    pub data: Option<PathBuf>,
    /// Password of the user `default`; empty for none.
    pub password: Secret,
    /// Its address and who may connect.
    pub place: Place,
}

/// A server: its folder and ports, and its process while it runs. Killed when dropped; the folder stays.
#[derive(Debug)]
pub struct ClickHouseServer {
    options: Options,
    launch: Launch,
    http_port: u16,
    tcp_port: u16,
    process: Option<Process>,
}

impl ClickHouseServer {
    /// Writes the configuration and chooses ports; starts nothing.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::NoPort`].
    pub fn prepare(options: Options) -> Result<Self, Error> {
        let (http_port, tcp_port, interserver_port) = (free_port()?, free_port()?, free_port()?);
        let folder = absolute(&options)?;
        let options = Options { folder, ..options };
        let config = config(&options, [http_port, tcp_port, interserver_port]);
        let write = || {
            fs::create_dir_all(options.folder.join("config.d"))?;
            fs::create_dir_all(data_folder(&options))?;
            fs::write(options.folder.join("config.xml"), config)?;
            fs::write(options.folder.join("users.xml"), users(&options))
        };
        write().map_err(|source| system(&options, "write its configuration", source))?;
        let config_file = options.folder.join("config.xml");
        let (program, command) = program();
        let launch = Launch::new(&options.name, program, &options.folder)
            .args(command)
            .arg(format!("--config-file={}", config_file.display()))
            .within(&options.place.command);
        Ok(Self { options, launch, http_port, tcp_port, process: None })
    }

    /// Starts it, again after an end of any kind, and waits until it answers.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::Died`], [`Error::NotReady`] and what [`Launch::start`] tells.
    pub async fn start(&mut self) -> Result<(), Error> {
        let process = self.launch.start()?;
        let at = (self.options.place.address.as_str(), self.http_port);
        process.ready(START_DEADLINE, async || ping(at).await).await?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it as an operator would; no error if it does not run.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn stop(&mut self) -> Result<(), Error> {
        self.process.take().map_or(Ok(()), |process| process.stop(STOP_DEADLINE).map(drop))
    }

    /// Kills it (SIGKILL); no error if it does not run.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn kill(&mut self) -> Result<(), Error> {
        self.process.take().map_or(Ok(()), |process| process.kill().map(drop))
    }

    /// Stops it in its tracks: connections stay open, nothing answers.
    pub fn pause(&self) {
        self.process.iter().for_each(Process::pause);
    }

    /// Lets a paused one go on.
    pub fn resume(&self) {
        self.process.iter().for_each(Process::resume);
    }

    /// Whether its process is there.
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// Of the HTTP interface, `http://127.0.0.1:port` by default.
    pub fn url(&self) -> String {
        format!("http://{}:{}", self.options.place.address, self.http_port)
    }

    /// Port of the HTTP interface.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Port of the native protocol.
    pub fn tcp_port(&self) -> u16 {
        self.tcp_port
    }

    /// Where a daemon writes the generated clusters.
    pub fn routes_file(&self) -> PathBuf {
        self.options.folder.join("config.d").join("converthouse.xml")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }

    /// The last lines of its own log.
    pub fn log(&self) -> PathBuf {
        self.options.folder.join("server.log")
    }
}

fn system(options: &Options, what: &str, source: std::io::Error) -> Error {
    Error::System { name: options.name.clone(), what: what.to_owned(), source }
}

fn absolute(options: &Options) -> Result<PathBuf, Error> {
    let made = fs::create_dir_all(&options.folder).and_then(|()| options.folder.canonicalize());
    made.map_err(|source| system(options, "make its folder", source))
}

fn data_folder(options: &Options) -> PathBuf {
    options.data.clone().unwrap_or_else(|| options.folder.join("data"))
}

/// The program, and the words that make a server of it: `clickhouse` alone is many tools.
fn program() -> (PathBuf, &'static [&'static str]) {
    let named = std::env::var_os(BINARY_VARIABLE).filter(|name| !name.is_empty()).map(PathBuf::from);
    let program = named.unwrap_or_else(|| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let on_path = |name: &&str| std::env::split_paths(&path).any(|folder| folder.join(name).is_file());
        let found = ["clickhouse-server", "clickhouse"].into_iter().find(on_path);
        PathBuf::from(found.unwrap_or("clickhouse-server"))
    });
    let name = program.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    (program, if name.ends_with("server") { &[] } else { &["server"] })
}

/// Asks `/ping`.
async fn ping(at: (&str, u16)) -> Result<(), String> {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(at).await?;
        stream.write_all(b"GET /ping HTTP/1.0\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    match tokio::time::timeout(PING_DEADLINE, ask).await {
        Ok(Ok(answer)) if answer.contains("Ok.") => Ok(()),
        Ok(Ok(answer)) => Err(format!("answers {answer:?}")),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("does not answer".to_owned()),
    }
}

fn escape(text: &str) -> String {
    quick_xml::escape::escape(text).into_owned()
}

fn config(options: &Options, [http, tcp, interserver]: [u16; 3]) -> String {
    let folder = escape(&options.folder.display().to_string());
    let data = escape(&data_folder(options).display().to_string());
    let address = escape(&options.place.address);
    format!(
        "<?xml version=\"1.0\"?>
<yandex>
    <logger>
        <level>information</level>
        <log>{folder}/server.log</log>
        <errorlog>{folder}/server.err.log</errorlog>
        <size>100M</size>
        <count>2</count>
    </logger>
    <listen_host>{address}</listen_host>
    <http_port>{http}</http_port>
    <tcp_port>{tcp}</tcp_port>
    <interserver_http_port>{interserver}</interserver_http_port>
    <interserver_http_host>{address}</interserver_http_host>
    <path>{data}/</path>
    <tmp_path>{data}/tmp/</tmp_path>
    <user_files_path>{data}/user_files/</user_files_path>
    <format_schema_path>{data}/format_schemas/</format_schema_path>
    <users_config>{folder}/users.xml</users_config>
    <default_profile>default</default_profile>
    <default_database>default</default_database>
    <timezone>UTC</timezone>
    <mlock_executable>false</mlock_executable>
    <max_concurrent_queries>200</max_concurrent_queries>
    <uncompressed_cache_size>0</uncompressed_cache_size>
    <mark_cache_size>67108864</mark_cache_size>
    <mark_cache_min_lifetime>0</mark_cache_min_lifetime>
    <remote_servers/>
</yandex>
"
    )
}

fn users(options: &Options) -> String {
    let password = escape(options.password.expose());
    let allowed = options.place.allowed.iter().map(|network| format!("<ip>{}</ip>", escape(network)));
    let allowed: String = allowed.collect();
    format!(
        "<?xml version=\"1.0\"?>
<yandex>
    <profiles>
        <default>
            <max_memory_usage>4000000000</max_memory_usage>
            <background_pool_size>4</background_pool_size>
            <load_balancing>random</load_balancing>
        </default>
    </profiles>
    <users>
        <default>
            <password>{password}</password>
            <networks>{allowed}</networks>
            <profile>default</profile>
            <quota>default</quota>
        </default>
    </users>
    <quotas>
        <default>
            <interval>
                <duration>3600</duration>
                <queries>0</queries>
                <errors>0</errors>
                <result_rows>0</result_rows>
                <read_rows>0</read_rows>
                <execution_time>0</execution_time>
            </interval>
        </default>
    </quotas>
</yandex>
"
    )
}
