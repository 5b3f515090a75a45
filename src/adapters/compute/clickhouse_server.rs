//! A real ClickHouse server of our own, for the demo and the tests: configuration, ports, start, crash, restart.
//!
//! One configuration serves 18.16 and current servers: root `<yandex>`, `users.xml`, nothing that either lacks. The
//! generated clusters go where a daemon in production puts them, `config.d/`. The server keeps its ports and its
//! folder over restarts. Nothing here is meant for production servers, which have their own packages.

use super::process::{Error, Launch, Process, free_port};
use crate::model::node::Secret;
use std::ffi::OsStr;
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
/// The environment variable that names the program: a path, a name on the `PATH`, or either with the word `server`.
pub const BINARY_VARIABLE: &str = "CLICKHOUSE_BINARY";
/// What makes a server of `clickhouse`, which alone is many tools.
const SERVER: &[&str] = &["server"];

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

/// Files (PEM) of a server that speaks TLS on all its ports, and to other servers.
#[derive(Debug, Clone)]
pub struct Secure {
    /// What it shows to whoever connects.
    pub certificate: PathBuf,
    /// The key of that.
    pub key: PathBuf,
    /// By whom the certificates of servers that it connects to have to be signed.
    pub ca: PathBuf,
}

/// A server: its folder and ports, and its process while it runs. Killed when dropped; the folder stays.
#[derive(Debug)]
pub struct ClickHouseServer {
    options: Options,
    secure: bool,
    launch: Launch,
    http_port: u16,
    tcp_port: u16,
    process: Option<Process>,
}

impl ClickHouseServer {
    /// Writes the configuration and chooses ports; starts nothing.
    ///
    /// # Errors
    /// [`Error::System`], [`Error::NoPort`], [`Error::Misconfigured`].
    pub fn prepare(options: Options) -> Result<Self, Error> {
        Self::prepare_with(options, None)
    }

    /// The same, with no port that speaks anything but TLS.
    ///
    /// # Errors
    /// As of [`ClickHouseServer::prepare`].
    pub fn prepare_secure(options: Options, secure: &Secure) -> Result<Self, Error> {
        Self::prepare_with(options, Some(secure))
    }

    fn prepare_with(options: Options, secure: Option<&Secure>) -> Result<Self, Error> {
        let (program, command) = program(&options)?;
        let (http_port, tcp_port, interserver_port) = (free_port()?, free_port()?, free_port()?);
        let folder = absolute(&options)?;
        let options = Options { folder, ..options };
        let config = config(&options, &ports([http_port, tcp_port, interserver_port], secure));
        let write = || {
            fs::create_dir_all(options.folder.join("config.d"))?;
            fs::create_dir_all(data_folder(&options))?;
            fs::write(options.folder.join("config.xml"), config)?;
            fs::write(options.folder.join("users.xml"), users(&options))
        };
        write().map_err(|source| system(&options, "write its configuration", source))?;
        let config_file = options.folder.join("config.xml");
        let launch = Launch::new(&options.name, program, &options.folder)
            .args(command)
            .arg(format!("--config-file={}", config_file.display()))
            .within(&options.place.command);
        Ok(Self { options, secure: secure.is_some(), launch, http_port, tcp_port, process: None })
    }

    /// Starts it, again after an end of any kind, and waits until it answers.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::Died`], [`Error::NotReady`] and what [`Launch::start`] tells.
    pub async fn start(&mut self) -> Result<(), Error> {
        let process = self.launch.start()?;
        let at = (self.options.place.address.as_str(), self.http_port);
        // Ports open when everything is loaded: with TLS, which would want a client of its own, that is enough.
        let answers = async || if self.secure { connect(at).await } else { ping(at).await };
        process.ready(START_DEADLINE, answers).await?;
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
        let scheme = if self.secure { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.options.place.address, self.http_port)
    }

    /// Port of the HTTP interface, over TLS if it is secure.
    pub fn http_port(&self) -> u16 {
        self.http_port
    }

    /// Port of the native protocol, over TLS if it is secure.
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

/// The program, and the words that make a server of it.
fn program(options: &Options) -> Result<(PathBuf, &'static [&'static str]), Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_name = |program: &Path| program.parent().is_some_and(|folder| folder.as_os_str().is_empty());
    let is_there = |program: &Path| {
        if is_name(program) {
            std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
        } else {
            program.is_file()
        }
    };
    let chosen = choose(std::env::var_os(BINARY_VARIABLE).as_deref(), is_there);
    let misnamed = |reason| Error::Misconfigured { name: options.name.clone(), reason };
    let (program, command) = chosen.map_err(misnamed)?;
    if is_name(&program) {
        return Ok((program, command));
    }
    // It is started in a folder of its own, where a path from here would lead elsewhere.
    let absolute = std::path::absolute(program);
    Ok((absolute.map_err(|source| system(options, "find its program", source))?, command))
}

/// The same by the variable's value, and by which paths, or names on the `PATH`, are programs.
fn choose(
    named: Option<&OsStr>,
    is_there: impl Fn(&Path) -> bool,
) -> Result<(PathBuf, &'static [&'static str]), String> {
    let of = |program: &Path| -> (PathBuf, &'static [&'static str]) {
        let is_server = program.file_name().is_some_and(|name| name.to_string_lossy().ends_with("server"));
        (program.to_owned(), if is_server { &[] } else { SERVER })
    };
    let Some(named) = named.filter(|named| !named.is_empty()) else {
        let known = ["clickhouse-server", "clickhouse"].map(Path::new);
        // If neither is there, starting it says so.
        return Ok(of(known.into_iter().find(|name| is_there(name)).unwrap_or(known[0])));
    };
    if is_there(Path::new(named)) {
        return Ok(of(Path::new(named)));
    }
    // As it is typed in a shell: `clickhouse server`.
    let program = named.to_str().and_then(|text| text.strip_suffix(" server")).map(Path::new);
    match program.filter(|program| is_there(program)) {
        Some(program) => Ok((program.to_owned(), SERVER)),
        None => Err(format!("{BINARY_VARIABLE} names {}, which is no program", named.to_string_lossy())),
    }
}

/// Connects, no more.
async fn connect(at: (&str, u16)) -> Result<(), String> {
    match tokio::time::timeout(PING_DEADLINE, tokio::net::TcpStream::connect(at)).await {
        Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
        Err(_) => Err("does not answer".to_owned()),
    }
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

/// Where it listens, and how; every line with its end.
fn ports([http, tcp, interserver]: [u16; 3], secure: Option<&Secure>) -> String {
    let Some(secure) = secure else {
        return format!(
            "    <http_port>{http}</http_port>
    <tcp_port>{tcp}</tcp_port>
    <interserver_http_port>{interserver}</interserver_http_port>
"
        );
    };
    let [certificate, key, ca] =
        [&secure.certificate, &secure.key, &secure.ca].map(|file| escape(&file.display().to_string()));
    // Without a handler of its own the server would ask its terminal what it thinks of a stranger's certificate.
    format!(
        "    <https_port>{http}</https_port>
    <tcp_port_secure>{tcp}</tcp_port_secure>
    <interserver_https_port>{interserver}</interserver_https_port>
    <openSSL>
        <server>
            <certificateFile>{certificate}</certificateFile>
            <privateKeyFile>{key}</privateKeyFile>
            <verificationMode>none</verificationMode>
            <loadDefaultCAFile>false</loadDefaultCAFile>
        </server>
        <client>
            <caConfig>{ca}</caConfig>
            <verificationMode>strict</verificationMode>
            <loadDefaultCAFile>false</loadDefaultCAFile>
            <invalidCertificateHandler><name>RejectCertificateHandler</name></invalidCertificateHandler>
        </client>
    </openSSL>
"
    )
}

fn config(options: &Options, ports: &str) -> String {
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
{ports}    <interserver_http_host>{address}</interserver_http_host>
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_is_what_the_variable_says_or_what_is_on_the_path() {
        let paths = ["/x/clickhouse", "/x/clickhouse-server", "/a server/clickhouse"];
        for (named, on_path, expected) in [
            ("/x/clickhouse", &[][..], Ok(("/x/clickhouse", SERVER))),
            ("/x/clickhouse-server", &[], Ok(("/x/clickhouse-server", &[][..]))),
            ("/x/clickhouse server", &[], Ok(("/x/clickhouse", SERVER))),
            ("/a server/clickhouse", &[], Ok(("/a server/clickhouse", SERVER))),
            ("clickhouse server", &["clickhouse"], Ok(("clickhouse", SERVER))),
            ("/x/clickhouse", &["clickhouse-server"], Ok(("/x/clickhouse", SERVER))),
            ("", &["clickhouse-server", "clickhouse"], Ok(("clickhouse-server", &[]))),
            ("", &["clickhouse-server"], Ok(("clickhouse-server", &[]))),
            ("", &["clickhouse"], Ok(("clickhouse", SERVER))),
            ("", &[], Ok(("clickhouse-server", &[]))),
            ("/y/clickhouse", &["clickhouse"], Err("/y/clickhouse")),
            ("/y/clickhouse server", &["clickhouse"], Err("/y/clickhouse server")),
            ("/x/clickhouse client", &["clickhouse"], Err("/x/clickhouse client")),
            ("clickhouse", &[], Err("clickhouse")),
        ] {
            let is_there = |program: &Path| on_path.iter().chain(&paths).any(|at| Path::new(at) == program);
            let expected = expected
                .map(|(program, command)| (PathBuf::from(program), command))
                .map_err(|named| format!("CLICKHOUSE_BINARY names {named}, which is no program"));
            assert_eq!(choose(Some(OsStr::new(named)), is_there), expected, "{named:?}, {on_path:?}");
            if named.is_empty() {
                assert_eq!(choose(None, is_there), expected, "not set, {on_path:?}");
            }
        }
    }
}
