//! Apache Kafka on this machine, from a folder of jars: one broker, or three that replicate (KRaft, no ZooKeeper).
//!
//! For tests, benchmarks and demos: brokers are small, listen on 127.0.0.1 only, and notice a dead one within seconds.
//! Ports, folders and data outlive the processes, so a broker that was killed comes back as itself. Nothing here
//! restarts one by itself.

use super::process::{Error, Launch, Process, free_port};
use crate::adapters::kafka::{KafkaClient, Options};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sixteen bytes in base64, as the format wants it; the same for all our clusters.
const CLUSTER_ID: &str = "Y29udmVydGhvdXNlLWtmaw";
/// A JVM on a busy machine takes its time.
const START_DEADLINE: Duration = Duration::from_secs(120);

/// What to start.
#[derive(Debug, Clone)]
pub struct KafkaPlan {
    /// Folder with all jars of `org.apache.kafka:kafka_2.13` and, if there, a `log4j2.xml`.
    pub jars: PathBuf,
    /// Where data, configuration and logs go; one folder a broker within it.
    pub folder: PathBuf,
    /// 1 or 3.
    pub brokers: usize,
    /// User and password that clients must give (SASL/PLAIN); none if `None`.
    pub user: Option<(String, String)>,
    /// More server settings, by Kafka's names. `{port}`, `{internal_port}` and `{controller_port}` in a value stand
    /// for the broker's own.
    pub settings: Vec<(String, String)>,
}

struct Broker {
    port: u16,
    internal_port: u16,
    controller_port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

/// Brokers that form one cluster. Dropping it kills them.
pub struct KafkaBrokers {
    plan: KafkaPlan,
    brokers: Vec<Broker>,
}

impl KafkaBrokers {
    /// Makes folders and configuration, starts all brokers and waits until they know each other.
    ///
    /// # Errors
    /// [`Error::NotInstalled`] without jars or `java`; otherwise what the processes say.
    pub async fn start(mut plan: KafkaPlan) -> Result<Self, Error> {
        // The brokers work in folders of their own, so a relative path would mean another place to them.
        plan.jars = match plan.jars.canonicalize() {
            Ok(jars) if jars.is_dir() => jars,
            _ => return Err(Error::NotInstalled { name: "kafka".into(), program: plan.jars }),
        };
        let mut brokers = Vec::new();
        for number in 1..=plan.brokers {
            brokers.push(Broker {
                port: free_port()?,
                internal_port: free_port()?,
                controller_port: free_port()?,
                folder: plan.folder.join(format!("broker-{number}")),
                process: None,
            });
        }
        let mut cluster = Self { plan, brokers };
        for index in 0..cluster.brokers.len() {
            cluster.configure(index)?;
        }
        cluster.format().await?;
        for index in 0..cluster.brokers.len() {
            cluster.launch(index)?;
        }
        cluster.ready(cluster.brokers.len()).await?;
        Ok(cluster)
    }

    /// `host:port,…` of all brokers.
    pub fn bootstrap(&self) -> String {
        let address = |broker: &Broker| format!("127.0.0.1:{}", broker.port);
        self.brokers.iter().map(address).collect::<Vec<_>>().join(",")
    }

    /// How a client reaches them, with credentials.
    pub fn options(&self) -> Options {
        let mut options = Options::new(self.bootstrap());
        if let Some((user, password)) = &self.plan.user {
            let settings = [
                ("security.protocol", "SASL_PLAINTEXT"),
                ("sasl.mechanism", "PLAIN"),
                ("sasl.username", user),
                ("sasl.password", password),
            ];
            options.settings.extend(settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        options
    }

    /// Kills one broker (SIGKILL). Counted from 0.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn kill(&mut self, index: usize) -> Result<(), Error> {
        self.brokers[index].process.take().map_or(Ok(()), |process| process.kill().map(|_| ()))
    }

    /// Starts a killed broker again, on the same ports and data, and waits until all living ones know it.
    ///
    /// # Errors
    /// As [`KafkaBrokers::start`].
    pub async fn restart(&mut self, index: usize) -> Result<(), Error> {
        self.launch(index)?;
        let living = self.brokers.iter().filter(|broker| broker.process.is_some()).count();
        self.ready(living).await
    }

    /// The last lines that one wrote since its start.
    pub fn log_tail(&self, index: usize, lines: usize) -> String {
        self.brokers[index].process.as_ref().map_or_else(String::new, |process| process.log_tail(lines))
    }

    /// Stops one in its tracks, or lets it go on.
    pub fn pause(&self, index: usize, paused: bool) {
        if let Some(process) = &self.brokers[index].process {
            if paused { process.pause() } else { process.resume() }
        }
    }

    fn java(&self, index: usize, name: &str) -> Launch {
        let class_path = self.plan.jars.join("*");
        let log = self.plan.jars.join("log4j2.xml");
        let mut launch = Launch::new(name, "java", &self.brokers[index].folder).args([
            "-Xms64m",
            "-Xmx384m",
            "-XX:+UseSerialGC",
            "-XX:-UsePerfData",
        ]);
        // A broker that is killed does not remove what it has unpacked.
        launch = launch.arg(format!("-Djava.io.tmpdir={}", self.brokers[index].folder.display()));
        if log.is_file() {
            launch = launch.arg(format!("-Dlog4j2.configurationFile={}", log.display()));
        }
        launch.arg("-cp").arg(class_path)
    }

    fn launch(&mut self, index: usize) -> Result<(), Error> {
        let name = format!("kafka-{}", index + 1);
        let process = self.java(index, &name).args(["kafka.Kafka", "server.properties"]).start()?;
        self.brokers[index].process = Some(process);
        Ok(())
    }

    /// Prepares all data folders, side by side: each takes a JVM.
    async fn format(&self) -> Result<(), Error> {
        let mut running = Vec::new();
        for index in 0..self.brokers.len() {
            let tool = self.java(index, &format!("format-{}", index + 1)).args([
                "kafka.tools.StorageTool",
                "format",
                "--ignore-formatted",
                "-t",
                CLUSTER_ID,
                "-c",
                "server.properties",
            ]);
            running.push(tool.start()?);
        }
        for process in running {
            // Ready means ended well; `ready` says `Died` for any end, so the end is looked for here.
            let start = tokio::time::Instant::now();
            let status = loop {
                if let Some(status) = process.ended() {
                    break status;
                }
                if start.elapsed() > START_DEADLINE {
                    return Err(Error::Stuck { name: process.name().to_owned(), pid: process.pid() });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            if !status.success() {
                return Err(Error::Died {
                    name: process.name().to_owned(),
                    status,
                    log: process.log().to_owned(),
                    tail: process.log_tail(15),
                });
            }
        }
        Ok(())
    }

    async fn ready(&self, count: usize) -> Result<(), Error> {
        let mut options = self.options();
        options.deadline_ms = 2_000;
        let client = KafkaClient::new(options).map_err(|failure| failure.to_string());
        for process in self.brokers.iter().filter_map(|broker| broker.process.as_ref()) {
            process
                .ready(START_DEADLINE, async || {
                    let known = client.as_ref().map_err(Clone::clone)?.brokers().await;
                    match known.map_err(|failure| failure.to_string())? {
                        known if known >= count => Ok(()),
                        known => Err(format!("{known} of {count} brokers are there")),
                    }
                })
                .await?;
        }
        Ok(())
    }

    fn configure(&self, index: usize) -> Result<(), Error> {
        let broker = &self.brokers[index];
        let failed = |source| Error::System {
            name: "kafka".into(),
            what: format!("write into {:?}", broker.folder),
            source,
        };
        std::fs::create_dir_all(&broker.folder).map_err(failed)?;
        // Kafka reads paths relative to its working directory, but says them in errors: so a full one.
        let data = broker.folder.canonicalize().map_err(failed)?.join("data");
        std::fs::write(broker.folder.join("server.properties"), self.properties(index, &data)).map_err(failed)
    }

    fn properties(&self, index: usize, data: &Path) -> String {
        let Broker { port, internal_port, controller_port, .. } = self.brokers[index];
        let voter =
            |(index, broker): (usize, &Broker)| format!("{}@127.0.0.1:{}", index + 1, broker.controller_port);
        let voters: Vec<_> = self.brokers.iter().enumerate().map(voter).collect();
        let copies = self.brokers.len().min(3);
        let client = if self.plan.user.is_some() { "SASL_PLAINTEXT" } else { "PLAINTEXT" };
        let mut text = format!(
            "process.roles=broker,controller\nnode.id={}\ncontroller.quorum.voters={}\n\
             listeners=CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal_port},\
             CONTROLLER://127.0.0.1:{controller_port}\n\
             advertised.listeners=CLIENT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal_port}\n\
             listener.security.protocol.map=CLIENT:{client},INTERNAL:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             inter.broker.listener.name=INTERNAL\ncontroller.listener.names=CONTROLLER\nlog.dirs={}\n\
             offsets.topic.replication.factor={copies}\ntransaction.state.log.replication.factor={copies}\n\
             transaction.state.log.min.isr=1\ndefault.replication.factor={copies}\n",
            index + 1,
            voters.join(","),
            data.display(),
        );
        text.push_str(
            "offsets.topic.num.partitions=4\nauto.create.topics.enable=false\n\
             group.initial.rebalance.delay.ms=0\nnum.network.threads=2\nnum.io.threads=4\n\
             broker.heartbeat.interval.ms=500\n\
             controller.quorum.election.timeout.ms=1000\ncontroller.quorum.fetch.timeout.ms=2000\n\
             log.retention.check.interval.ms=1000\nlog.initial.task.delay.ms=500\nfile.delete.delay.ms=100\n\
             log.cleaner.dedupe.buffer.size=8388608\nlog.cleaner.threads=1\n",
        );
        text.push_str(&format!("broker.session.timeout.ms={}\n", session_ms(self.brokers.len())));
        if let Some((user, password)) = &self.plan.user {
            let module = "org.apache.kafka.common.security.plain.PlainLoginModule required";
            text.push_str(&format!(
                "sasl.enabled.mechanisms=PLAIN\n\
                 listener.name.client.plain.sasl.jaas.config={module} user_{user}=\"{password}\";\n"
            ));
        }
        let ports =
            [("{port}", port), ("{internal_port}", internal_port), ("{controller_port}", controller_port)];
        for (name, value) in &self.plan.settings {
            let fill = |value: String, (word, port): (&str, u16)| value.replace(word, &port.to_string());
            let value = ports.into_iter().fold(value.clone(), fill);
            text.push_str(&format!("{name}={value}\n"));
        }
        text
    }
}

/// How long a broker may be silent; one that comes back waits for so long too. Nobody takes over from one that is
/// alone, so that it may be the default. One that is fenced while it still loads groups' positions (a busy machine,
/// just after a start) may never serve those groups again: brokers 4.1.1 take the end of an earlier load for that of
/// the present one, find their state out of step with the log, load again, and so on until they give up
/// (NOT_COORDINATOR).
fn session_ms(brokers: usize) -> u32 {
    if brokers == 1 { 9_000 } else { 3_000 }
}
