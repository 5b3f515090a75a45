//! `converthouse verify`: compares a table's replicas with each other and with its topics.

use super::output::{Align, Table};
use super::{Context, Failure, parse_name};
use crate::model::TableName;
use crate::model::verify::PartitionVerdict;
use clap::Args;
use futures::StreamExt;

/// Arguments.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// db.table
    #[arg(value_parser = parse_name)]
    name: TableName,
    /// Rows a second that the servers should have to read for it; 0 is no limit
    #[arg(long, value_name = "ROWS", default_value_t = 2_000_000)]
    rows_per_s: u64,
}

impl Verify {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (daemon, name) = (context.daemon()?, self.name.clone());
        let (verdicts, broken) = context.block_on(async move {
            let mut stream = daemon.verify(name, self.rows_per_s).await?;
            let (mut verdicts, mut broken) = (Vec::new(), None);
            while let Some(verdict) = stream.next().await {
                match verdict {
                    Ok(verdict) => verdicts.push(verdict),
                    Err(error) => broken = Some(error),
                }
            }
            Ok((verdicts, broken))
        })?;
        context.print(&verdicts, || text(&verdicts, context.colour()))?;
        // What was found so far is shown; it is not all.
        if let Some(error) = broken {
            return Err(error.into());
        }
        let count =
            |is: &dyn Fn(&PartitionVerdict) -> bool| verdicts.iter().filter(|verdict| is(verdict)).count();
        let (differing, unchecked) = (
            count(&|verdict| !verdict.differences.is_empty()),
            count(&|verdict| !verdict.unchecked.is_empty()),
        );
        let all = verdicts.len();
        if differing > 0 {
            let what = format!("{differing} of {all} partitions of {} are not as they should be", self.name);
            let remedy = "move the wrong replica to another node and back: it is made anew from another copy";
            return Err(Failure::failed(what, remedy));
        }
        if unchecked > 0 {
            let what =
                format!("{unchecked} of {all} partitions of {} could not be wholly compared", self.name);
            return Err(Failure::unavailable(what, "see the reasons above, and try again"));
        }
        Ok(())
    }
}

fn text(verdicts: &[PartitionVerdict], colour: bool) -> String {
    let columns = [
        ("PARTITION", Align::Right),
        ("SHARD", Align::Left),
        ("BELOW", Align::Right),
        ("ROWS", Align::Right),
        ("REPLICAS", Align::Right),
        ("DEAD", Align::Right),
        ("FOUND", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for verdict in verdicts {
        let differences = verdict.differences.iter().map(ToString::to_string);
        let found: Vec<String> =
            differences.chain(verdict.unchecked.iter().chain(&verdict.notes).cloned()).collect();
        let rows = verdict.replicas.values().map(|digest| digest.rows).max().unwrap_or(0);
        table.row([
            verdict.partition.0.to_string(),
            verdict.shard.to_string(),
            verdict.below.to_string(),
            rows.to_string(),
            verdict.replicas.len().to_string(),
            verdict.dead_letters.to_string(),
            if found.is_empty() { "the same".to_owned() } else { found.join("; ") },
        ]);
    }
    table.text(0, colour)
}
