//! The command line: one subcommand a file. Everything but `server`, `demo` and the offline commands is a client of
//! a daemon's gRPC.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done, 1 refused or failed,
//! 2 wrong usage, 3 unavailable or too late. `docs/cli.md` has the shapes of `--json`.

mod balance;
mod completions;
mod config;
mod create;
mod demo;
mod drain;
mod engine;
mod failure;
mod hold;
mod import;
mod insert;
mod name;
mod node;
mod operation;
mod output;
mod patience;
mod placement;
mod plan;
mod replay;
mod routes;
mod rows;
mod server;
mod shard;
mod sim;
mod status;
mod table;
mod trace;
mod verify;
mod what_if;

pub use failure::{Exit, Failure};
pub use name::{parse as parse_name, quote as quote_name};
pub use output::{Align, Table, bytes as human_bytes};

use crate::adapters::peers::grpc::{GrpcPeers, Options};
use crate::adapters::peers::{self, Daemon, Peers, Tls, TlsIdentity};
use clap::{Args, Parser, Subcommand};
use patience::Patience;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "converthouse",
    version,
    about = "Makes unmodified ClickHouse elastic: shards, replicas, leaders, routes and ingest of distributed tables",
    after_help = "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 unavailable or too late.",
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options of every subcommand.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Global {
    /// The daemon to ask; any one of the cluster
    #[arg(
        long,
        global = true,
        env = "CONVERTHOUSE_SERVER",
        default_value = "http://127.0.0.1:7400",
        value_name = "URL"
    )]
    server: String,
    /// Print JSON; errors too, on standard error
    #[arg(long, global = true)]
    json: bool,
    /// Give up after so many seconds [default: 10 for a question, 300 for a change, and as long as anything moves for
    /// splits, moves, drains and plans]
    #[arg(long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: Option<u64>,
    /// Certificates (PEM) that the daemon's is signed by, for https
    #[arg(long, global = true, env = "CONVERTHOUSE_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Certificate (PEM) to show to the daemon
    #[arg(long, global = true, env = "CONVERTHOUSE_CERT", requires = "key", value_name = "FILE")]
    cert: Option<PathBuf>,
    /// Private key (PEM) of that certificate
    #[arg(long, global = true, env = "CONVERTHOUSE_KEY", requires = "cert", value_name = "FILE")]
    key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon
    Server(server::Server),
    /// Show everything working on this machine, then clean up
    Demo(demo::Demo),
    /// Make, remove and show tables
    #[command(subcommand)]
    Table(table::TableCommand),
    /// Show nodes, empty them and take them back
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Show, split, merge and move shards
    #[command(subcommand)]
    Shard(shard::ShardCommand),
    /// Show and cancel operations: splits, moves and the like
    #[command(subcommand)]
    Op(operation::OperationCommand),
    /// Show what would bring the cluster into balance, save it, have it carried out
    Plan(plan::Plan),
    /// Say what the cluster may do by itself to stay in balance
    #[command(subcommand)]
    Balance(balance::BalanceCommand),
    /// Pause or freeze the cluster, a table or a shard for a time
    #[command(subcommand)]
    Hold(hold::HoldCommand),
    /// Show where a table's rows are read
    Routes(routes::Routes),
    /// Show the cluster: leader, nodes, tables, problems
    Status(status::Status),
    /// Compare a table's replicas with each other and with its topics
    Verify(verify::Verify),
    /// Put rows into a table, by way of its topics
    Insert(insert::Insert),
    /// Solve, judge and explain placements on instance files
    #[command(subcommand)]
    Placement(placement::PlacementCommand),
    /// Play cases and random faults in virtual time, without servers
    #[command(subcommand)]
    Sim(sim::SimCommand),
    /// Show traces of clusters, import one, or make one up
    #[command(subcommand)]
    Trace(trace::TraceCommand),
    /// Check a daemon's configuration, or print an example
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print completions for a shell
    Completions(completions::Completions),
}

/// What every subcommand works with.
pub struct Context {
    global: Global,
    /// Colours and progress are for people who look at it.
    colour: bool,
}

/// Parses the process's arguments, runs the command, reports. `colour`: allowed, where a terminal shows it.
pub fn main(colour: bool) -> ExitCode {
    let cli = Cli::parse();
    let context = Context { global: cli.global, colour: colour && std::io::stdout().is_terminal() };
    match context.run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => context.report(&failure),
    }
}

impl Context {
    fn run(&self, command: Command) -> Result<(), Failure> {
        match command {
            Command::Server(command) => command.run(self),
            Command::Demo(command) => command.run(self),
            Command::Table(command) => command.run(self),
            Command::Node(command) => command.run(self),
            Command::Shard(command) => command.run(self),
            Command::Op(command) => command.run(self),
            Command::Plan(command) => command.run(self),
            Command::Balance(command) => command.run(self),
            Command::Hold(command) => command.run(self),
            Command::Routes(command) => command.run(self),
            Command::Status(command) => command.run(self),
            Command::Verify(command) => command.run(self),
            Command::Insert(command) => command.run(self),
            Command::Placement(command) => command.run(self),
            Command::Sim(command) => command.run(self),
            Command::Trace(command) => command.run(self),
            Command::Config(command) => command.run(self),
            Command::Completions(command) => command.run(self),
        }
    }

    fn report(&self, failure: &Failure) -> ExitCode {
        if !failure.silent() {
            let colour = self.colour && std::io::stderr().is_terminal();
            let text = if self.global.json { failure.json() } else { failure.text(colour) };
            // Nobody is left to tell if this fails.
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
        failure.exit().into()
    }

    /// Whether `--json` was given.
    pub fn json(&self) -> bool {
        self.global.json
    }

    /// For commands that have no result to print.
    fn no_json(&self, command: &str, remedy: &str) -> Result<(), Failure> {
        if self.global.json {
            return Err(Failure::usage(format!("`{command}` has no result to print as JSON"), remedy));
        }
        Ok(())
    }

    /// Whether output may have colours.
    pub fn colour(&self) -> bool {
        self.colour
    }

    fn change_timeout_ms(&self) -> u64 {
        self.global.timeout.unwrap_or(300) * 1_000
    }

    /// How long to wait for what goes on by itself.
    fn patience(&self) -> Patience {
        Patience::new(self.global.timeout.map(Duration::from_secs))
    }

    /// Runs async work on this thread.
    pub fn block_on<T>(&self, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime =
            runtime.map_err(|e| Failure::failed(format!("cannot start: {e}"), "free some resources"))?;
        runtime.block_on(work)
    }

    /// The daemon of `--server`.
    pub fn daemon(&self) -> Result<Arc<dyn Daemon>, Failure> {
        let default = Options::default();
        let options = Options {
            read_timeout_ms: self.global.timeout.map_or(default.read_timeout_ms, |s| s * 1_000),
            write_timeout_ms: self.change_timeout_ms(),
            tls: self.tls()?,
            ..default
        };
        Ok(GrpcPeers::new(options).daemon(&self.global.server))
    }

    fn tls(&self) -> Result<Option<Tls>, Failure> {
        let Some(ca) = &self.global.ca else { return Ok(None) };
        let identity = match (&self.global.cert, &self.global.key) {
            (Some(cert), Some(key)) => {
                Some(TlsIdentity { certificate_pem: read_file(cert)?, key_pem: read_file(key)? })
            }
            _ => None,
        };
        Ok(Some(Tls { ca_pem: read_file(ca)?, identity }))
    }

    /// Prints a result: as JSON, or as text for people.
    pub fn print<T: serde::Serialize>(
        &self,
        result: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        if !self.global.json {
            return self.emit(&text());
        }
        let json = serde_json::to_string_pretty(result);
        let json = json.map_err(|e| Failure::from(peers::Error::Internal(format!("no JSON: {e}"))))?;
        self.emit(&format!("{json}\n"))
    }

    /// Writes to standard output; a reader that has had enough (`| head`) ends the command in peace.
    pub fn emit(&self, text: &str) -> Result<(), Failure> {
        let mut out = std::io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Failure::end()),
            Err(e) => Err(Failure::failed(format!("cannot write the result: {e}"), "make room for it")),
        }
    }
}

/// A text file named on the command line.
fn read_file(path: &Path) -> Result<String, Failure> {
    let unreadable =
        |e| Failure::usage(format!("{}: {e}", path.display()), "name a text file that may be read");
    std::fs::read_to_string(path).map_err(unreadable)
}
