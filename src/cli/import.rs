//! `converthouse trace import`: a trace made of a cluster's system tables.

use super::{Context, Exit, Failure, human_bytes};
use crate::adapters::clickhouse::{Error, HttpClickHouse};
use crate::config::units::url;
use crate::model::node::Secret;
use crate::model::trace::World;
use crate::simulation::trace;
use crate::simulation::trace::import::{Asked, Imported, lines};
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// `trace import`.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// HTTP addresses of the cluster's servers, all of them; with commas, or again
    #[arg(long, required = true, value_delimiter = ',', value_name = "URL", value_parser = address)]
    clickhouse: Vec<String>,
    /// The cluster in system.clusters [default: the one that most of these servers are in]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// User on all of them
    #[arg(long, env = "CONVERTHOUSE_CLICKHOUSE_USER", default_value = "default", value_name = "NAME")]
    user: String,
    /// Its password
    #[arg(
        long,
        env = "CONVERTHOUSE_CLICKHOUSE_PASSWORD",
        hide_env_values = true,
        default_value = "",
        hide_default_value = true
    )]
    password: String,
    /// How far back to look in system.part_log
    #[arg(long, default_value_t = 168, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=8784))]
    hours: u32,
    /// Where to; compressed if it ends in .zst
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

fn address(text: &str) -> Result<String, String> {
    url(text)?;
    Ok(text.trim_end_matches('/').to_owned())
}

impl Import {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let password = Secret::new(self.password);
        let (user, hours) = (self.user, self.hours);
        let urls = self.clickhouse;
        let asked = context.block_on(async {
            let mut asked = Vec::new();
            for url in urls {
                let server = HttpClickHouse::new(&url, &user, &password);
                let survey = server.survey(hours).await.map_err(|error| failed(&url, &error))?;
                asked.push(Asked { url, survey });
            }
            Ok(asked)
        })?;
        let coded = |error: trace::Error| Failure::coded(&error, Exit::Failed);
        let Imported { lines, cluster, notes } = lines(&asked, self.cluster.as_deref()).map_err(coded)?;
        trace::write(&self.out, &lines).map_err(coded)?;
        // Read as anybody will read it: what it amounts to, and that it is sound.
        let world: World = trace::read(&self.out).map_err(coded)?.world;
        let result = json!({
            "file": self.out.display().to_string(), "cluster": cluster, "lines": lines.len(),
            "nodes": world.nodes.len(), "tables": world.tables.len(), "shards": world.shards.len(),
            "bytes": world.stored_bytes(), "notes": notes,
        });
        notes.iter().for_each(|note| eprintln!("note: {}", super::output::printable(note)));
        context.print(&result, || {
            format!(
                "cluster {}: {} nodes, {} tables, {} shards, {}; {} lines in {}\n",
                super::output::printable(&cluster),
                world.nodes.len(),
                world.tables.len(),
                world.shards.len(),
                human_bytes(world.stored_bytes()),
                lines.len(),
                self.out.display()
            )
        })
    }
}

fn failed(url: &str, error: &Error) -> Failure {
    let told = |exit| Failure::coded(error, exit).after(url);
    // Their own remedies are of a daemon's configuration, which has no part in this.
    match error {
        Error::Unreachable { .. } => told(Exit::Unavailable)
            .with_remedy("check that the server runs and that --clickhouse names its HTTP address"),
        Error::Denied(_) => told(Exit::Failed).with_remedy("check --user and --password"),
        _ => told(Exit::Failed),
    }
}
