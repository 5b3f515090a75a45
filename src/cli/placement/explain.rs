//! `converthouse placement explain`: why a shard moves or stays, and what every other node would mean for it, term by
//! term of the score.

use super::run::{By, Limits, solved};
use super::{Wanted, broken_text, read_solution};
use crate::cli::{Align, Context, Failure, Table};
use crate::placement::candidates::{Candidate, Terms, Transfer, candidates, transfers};
use crate::placement::constraint::{Broken, broken};
use crate::placement::explain::{Untaken, Why, reasons, unmended};
use crate::placement::policy::Policy;
use crate::placement::problem::Problem;
use crate::placement::solution::Solution;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// `placement explain`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Explain {
    /// The instance
    instance: PathBuf,
    /// The shard, by its place in the instance, from 0
    shard: usize,
    /// A solution to explain; without it one is found first
    #[arg(long, value_name = "FILE")]
    solution: Option<PathBuf>,
    #[command(flatten)]
    by: By,
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    limits: Limits,
}

/// The answer, as in JSON.
#[derive(Serialize)]
struct Explained {
    shard: usize,
    present: Vec<u32>,
    placed: Vec<u32>,
    reason: Why,
    sentence: &'static str,
    unmended: Vec<Why>,
    broken_rules: Vec<Broken>,
    candidates: Vec<Candidate>,
    transfers: Vec<Transfer>,
}

impl Explain {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        let (instance, file) = self.wanted.read(&self.instance)?;
        let written = file.policy(self.wanted.base(instance.watermark));
        let policy = Policy { goal: self.by.goal(&written), ..written };
        let problem = Arc::new(instance.problem_with(&policy, &file));
        if self.shard >= problem.shards() {
            let shards = match problem.shards() {
                0 => "it has none".to_owned(),
                shards => format!("shards are 0 to {}", shards - 1),
            };
            let message = format!("there is no shard {}: {shards}", self.shard);
            return Err(Failure::usage(message, "count shards from 0"));
        }
        let (solution, why) = match &self.solution {
            Some(path) => {
                let (solution, _) = read_solution(&problem, &instance, path)?;
                let why = reasons(&problem, &solution, &Untaken::default());
                (solution, why[self.shard])
            }
            None => {
                let (decision, _) = solved(context, &problem, &self.by.engine, &self.limits)?;
                (decision.solution, decision.reasons[self.shard])
            }
        };
        let explained = Explained::new(&problem, &solution, self.shard, why);
        context.print(&explained, || explained.text(&problem, &solution, context))
    }
}

impl Explained {
    fn new(problem: &Problem, solution: &Solution, shard: usize, why: Why) -> Self {
        let unmended = unmended(problem, solution).into_iter();
        let unmended = unmended.filter(|(s, _)| *s as usize == shard).map(|(_, why)| why);
        Self {
            shard,
            present: problem.present(shard).to_vec(),
            placed: solution.of(problem, shard).to_vec(),
            reason: why,
            sentence: why.sentence(),
            unmended: unmended.collect(),
            broken_rules: concerning(problem, solution, shard),
            candidates: candidates(problem, solution, shard),
            transfers: transfers(problem, solution, shard),
        }
    }

    fn text(&self, problem: &Problem, solution: &Solution, context: &Context) -> String {
        let (present, placed) = (&self.present, &self.placed);
        let cannot = self.unmended.iter().map(|why| format!("cannot be mended: {}\n", why.sentence()));
        format!(
            "shard {}: {present:?} -> {placed:?} (the leader first)\n{}: {}\n{}{}{}",
            self.shard,
            self.reason.code(),
            self.sentence,
            cannot.collect::<String>(),
            broken_text(problem, solution, &self.broken_rules),
            self.tables(context)
        )
    }

    /// Other nodes, and other leaders, with what they would change of the score.
    fn tables(&self, context: &Context) -> String {
        let moves = self.candidates.iter().map(|candidate| &candidate.terms);
        let named = Named::of(moves.chain(self.transfers.iter().map(|transfer| &transfer.terms)));
        let place = [("NODE", Align::Right), ("IN PLACE OF", Align::Right)];
        let mut nodes = Table::new(&[&place[..], &named.heads(), &[("FORBIDDEN", Align::Left)]].concat());
        for candidate in &self.candidates {
            let instead = self.placed.get(candidate.slot).map_or(String::new(), ToString::to_string);
            let rule = candidate.forbidden.unwrap_or("").to_owned();
            let row = [vec![candidate.node.to_string(), instead], named.cells(&candidate.terms), vec![rule]];
            nodes.row(row.concat());
        }
        let mut text = format!("other nodes, the best first:\n{}", nodes.text(0, context.colour()));
        if !self.transfers.is_empty() {
            let mut leaders = Table::new(&[&[("NODE", Align::Right)][..], &named.heads()].concat());
            for transfer in &self.transfers {
                leaders.row([vec![transfer.node.to_string()], named.cells(&transfer.terms)].concat());
            }
            text += &format!("other leaders, the best first:\n{}", leaders.text(0, context.colour()));
        }
        text
    }
}

/// A term's name, and the term.
type Term = (&'static str, fn(&Terms) -> f64);

/// Every term, in the order of the score's formula.
const TERMS: [Term; 8] = [
    ("REPLICAS", |terms| terms.replicas),
    ("LEADERS", |terms| terms.leaders),
    ("BYTES", |terms| terms.bytes),
    ("WRITES", |terms| terms.writes),
    ("READS", |terms| terms.reads),
    ("TABLES", |terms| terms.per_table),
    ("COPY", |terms| terms.copied),
    ("LEADER", |terms| terms.leader_changes),
];

/// The terms that some change has.
struct Named(Vec<Term>);

impl Named {
    fn of<'a>(terms: impl Iterator<Item = &'a Terms>) -> Self {
        let terms: Vec<&Terms> = terms.collect();
        Self(TERMS.into_iter().filter(|(_, term)| terms.iter().any(|terms| term(terms) != 0.0)).collect())
    }

    fn heads(&self) -> Vec<(&'static str, Align)> {
        let terms = self.0.iter().map(|(name, _)| (*name, Align::Right));
        [("SCORE CHANGE", Align::Right)].into_iter().chain(terms).collect()
    }

    fn cells(&self, terms: &Terms) -> Vec<String> {
        let values = self.0.iter().map(|(_, term)| term(terms));
        [terms.sum()].into_iter().chain(values).map(|value| format!("{value:+.6}")).collect()
    }
}

/// The rules that a placement breaks for a shard, or on a node that holds it.
fn concerning(problem: &Problem, solution: &Solution, shard: usize) -> Vec<Broken> {
    let on = [problem.present(shard), solution.of(problem, shard)].concat();
    let here = |rule: &Broken| match *rule {
        Broken::Overfull { node } => on.contains(&node),
        Broken::Missing { shard: s }
        | Broken::SameNode { shard: s, .. }
        | Broken::Forbidden { shard: s, .. }
        | Broken::Crowded { shard: s }
        | Broken::Unpinned { shard: s, .. } => s as usize == shard,
    };
    broken(problem, solution).into_iter().filter(here).collect()
}
