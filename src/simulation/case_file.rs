//! Reads cases from TOML. What is wrong with one is told with file, line and reason.

use super::case::{Case, Expect, NodeSpec, PolicySpec, Span, TableSpec, Timed, WorldSpec};
use super::event::Event;
use crate::error::{Code, Coded, Retry, ranges};
use serde::Deserialize;
use std::path::{Path, PathBuf};
use toml::Spanned;

/// Why a case cannot be played.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {reason}")]
pub struct Error {
    /// The file as named.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(ranges::SIMULATION + 1)
    }
    fn retry(&self) -> Retry {
        Retry::Never
    }
    fn remedy(&self) -> &'static str {
        "correct the case; `converthouse sim new` prints one with every field explained"
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    about: String,
    #[serde(default = "one")]
    seed: u64,
    issue: Option<String>,
    faults_end: Span,
    world: WorldSpec,
    #[serde(default)]
    node: Vec<NodeSpec>,
    #[serde(default)]
    policy: PolicySpec,
    #[serde(default)]
    table: Vec<TableSpec>,
    #[serde(default)]
    event: Vec<Spanned<toml::Table>>,
    #[serde(default)]
    expect: Expect,
}

fn one() -> u64 {
    1
}

pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn timed(mut table: toml::Table) -> Result<Timed, String> {
    let at = table.remove("at").ok_or("it has no time: write at = \"5s\"")?;
    let at: Span = at.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let event = Event::deserialize(table).map_err(|error| error.message().to_owned())?;
    Ok(Timed { at, event })
}

/// Reads a case from its text; `file` is named in errors and, without its ending, is the case's name.
pub fn parse(file: &str, text: &str) -> Result<Case, Error> {
    let wrong = |line, reason| Error { file: file.to_owned(), line, reason };
    let document: Document = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        wrong(line, error.message().to_owned())
    })?;
    let mut events = Vec::new();
    let mut lines = Vec::new();
    for (number, event) in document.event.into_iter().enumerate() {
        let line = line_at(text, event.span().start);
        let event = timed(event.into_inner());
        events.push(event.map_err(|reason| wrong(line, format!("event {}: {reason}", number + 1)))?);
        lines.push(line);
    }
    let stem = Path::new(file).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    let case = Case {
        name: stem,
        about: document.about,
        seed: document.seed,
        issue: document.issue,
        world: document.world,
        nodes: document.node,
        policy: document.policy,
        tables: document.table,
        events,
        faults_end: document.faults_end,
        expect: document.expect,
    };
    match case.impossible() {
        None => Ok(case),
        Some((Some(event), reason)) => Err(wrong(lines[event - 1], format!("event {event}: {reason}"))),
        Some((None, reason)) => Err(wrong(1, reason)),
    }
}

/// Reads a file.
pub fn read(path: &Path) -> Result<Case, Error> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|error| Error {
        file: file.clone(),
        line: 1,
        reason: error.to_string(),
    })?;
    parse(&file, &text)
}

/// The case files under the paths, in order: a folder stands for the `.toml` files in it.
pub fn find(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for path in paths {
        let unreadable = |error: std::io::Error| Error {
            file: path.display().to_string(),
            line: 1,
            reason: error.to_string(),
        };
        if !path.is_dir() {
            found.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in std::fs::read_dir(path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?.path();
            if entry.extension().is_some_and(|ending| ending == "toml") {
                inside.push(entry);
            }
        }
        inside.sort();
        found.extend(inside);
    }
    Ok(found)
}

/// A case with every field explained.
pub const TEMPLATE: &str = include_str!("template.toml");

#[cfg(test)]
mod tests {
    use super::*;

    fn says(text: &str) -> String {
        parse("c.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn the_template_is_a_case() {
        let case = parse("template.toml", TEMPLATE).unwrap();
        assert_eq!(case.name, "template");
        assert!(case.events.len() > 2);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_reason() {
        let head = "about = \"x\"\nfaults_end = \"10s\"\n[world]\nnodes = 2\n";
        let table = "[[table]]\nname = \"t\"\npartitions = 4\nshards = 2\nreplicas = 2\n";
        let event = |text: &str| format!("{head}{table}[[event]]\n{text}\n");
        let wrong = [
            ("about = ".to_owned(), "c.toml:1: "),
            (format!("{head}colour = 1\n"), "c.toml:5: unknown field `colour`"),
            (head.replace("10s", "10 parsecs"), "c.toml:2: \"10 parsecs\" is no length of time"),
            (head.replace("nodes = 2", "nodes = -2"), "c.toml:4: "),
            (head.replace("nodes = 2", "nodes = 0"), "c.toml:1: world: nodes must be 1"),
            (format!("{head}{table}").replace("replicas = 2", "replicas = 3"), "replicas must be 1 to 2"),
            (format!("{head}{table}{table}"), "table t is there twice"),
            (event("do = \"kill-daemon\"\nnode = \"n1\""), "c.toml:10: event 1: it has no time"),
            (
                head.replace("nodes = 2", "nodes = 2\ncapacity = -5"),
                "c.toml:5: a size of -5 bytes is below 0",
            ),
            (head.replace("nodes = 2", "nodes = 2\ncapacity = \"5 parsecs\""), "is no size: write 286MiB"),
            (format!("{head}{table}[[node]]\nname = \"n3\"\n"), "node \"n3\": there are only n1 to n2"),
            (format!("{head}[[node]]\nname = \"n1\"\n[[node]]\nname = \"n1\"\n"), "node n1 is there twice"),
            (
                format!("{head}[[node]]\nname = \"n1\"\nforeign = 5\ncapacity = 4\n"),
                "does not fit its capacity (4)",
            ),
            (format!("{head}{table}leaders_on = \"n7\"\n"), "leaders_on: there is no node \"n7\""),
            (format!("{head}{table}skew = [-1]\n"), "c.toml:10: "),
            (event("at = \"1s\"\ndo = \"stop-zone\"\nzone = \"z1\""), "there is no node in zone \"z1\""),
            (
                event("at = \"1s\"\ndo = \"rate\"\ntable = \"u\"\nmessages_per_s = 1"),
                "there is no table \"u\"",
            ),
            (event("at = \"1s\"\ndo = \"dance\""), "c.toml:10: event 1: unknown variant `dance`"),
            (
                event("at = \"1s\"\ndo = \"kill-daemon\"\nnode = \"n3\""),
                "event 1: there is no node \"n3\" then",
            ),
            (event("at = \"1s\"\ndo = \"kill-daemon\"\nnode = \"n1\"\nwhy = 1"), "unknown field `why`"),
            (event("at = \"11s\"\ndo = \"add-node\""), "it is after faults_end (10s)"),
            (
                event("at = \"5s\"\ndo = \"add-node\"\n[[event]]\nat = \"1s\"\ndo = \"add-node\""),
                "c.toml:13: event 2: it is earlier",
            ),
            (event("at = \"5s\"\ndo = \"produce\"\ntable = \"u\"\nmessages = 1"), "there is no table \"u\""),
            (event("at = \"5s\"\ndo = \"down\"\nport = \"peers\""), "only store and kafka are shared"),
        ];
        for (text, expected) in wrong {
            let said = says(&text);
            assert!(said.contains(expected), "{expected:?} is not in {said:?} of\n{text}");
        }
    }
}
