//! `converthouse config check|example`.

use super::{Context, Failure};
use crate::config::{self, StoreOptions, document};
use clap::Subcommand;
use serde_json::json;
use std::path::{Path, PathBuf};

/// Subcommands of `config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a configuration file, and the files that it names
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print a file with every key explained
    Example,
}

impl ConfigCommand {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::Check { file } => check(context, &file),
            Self::Example => context.emit(&document::example()),
        }
    }
}

/// Says that a file is good, or everything that is wrong with it.
pub(super) fn check(context: &Context, file: &Path) -> Result<(), Failure> {
    let config = config::load(file)?;
    let store = match &config.metadata.store {
        StoreOptions::Etcd { .. } => "etcd",
        StoreOptions::Managed { .. } => "managed etcd",
        StoreOptions::Embedded { .. } => "embedded",
    };
    let nodes: Vec<&str> = config.nodes.iter().map(|node| node.id.as_str()).collect();
    let kafka = config.kafka.brokers.as_ref().map_or("embedded".to_owned(), |brokers| brokers.join(","));
    let summary = json!({
        "ok": true,
        "cluster": &config.cluster,
        "node": &config.daemon.node,
        "nodes": nodes,
        "metadata": store,
        "kafka": kafka,
        "grpc": &config.daemon.grpc_advertise,
        "http": &config.daemon.http_advertise,
    });
    context.print(&summary, || {
        format!(
            "{} is good\n  cluster   {}\n  nodes     {}\n  metadata  {store}\n  kafka     {kafka}\n  grpc      {}\n  \
             http      {}\n",
            file.display(),
            config.cluster,
            nodes.join(", "),
            config.daemon.grpc_advertise,
            config.daemon.http_advertise,
        )
    })
}
