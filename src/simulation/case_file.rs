//! Reads cases from TOML. What is wrong with one is told with file, line and reason.

use super::case::{
    Case, Expect, Issue, NodeSpec, Part, PolicySpec, Span, TableSpec, Timed, WorldSpec, Wrong,
};
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
    fails_with: Option<String>,
    faults_end: Span,
    world: Spanned<WorldSpec>,
    #[serde(default)]
    node: Vec<Spanned<NodeSpec>>,
    #[serde(default)]
    policy: PolicySpec,
    #[serde(default)]
    table: Vec<Spanned<TableSpec>>,
    #[serde(default)]
    event: Vec<Spanned<toml::Table>>,
    expect: Option<Spanned<Expect>>,
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

/// Where each part of a case begins in its text.
#[derive(Default)]
struct Places {
    world: usize,
    nodes: Vec<usize>,
    tables: Vec<usize>,
    events: Vec<usize>,
    expect: usize,
}

impl Places {
    /// The line of a part's field; where it is not written, the line that the part begins with.
    fn line_of(&self, text: &str, wrong: &Wrong) -> usize {
        let begin = match wrong.part {
            Part::Case => 0,
            Part::World => self.world,
            Part::Node(at) => self.nodes[at],
            Part::Table(at) => self.tables[at],
            Part::Event(at) => self.events[at],
            Part::Expect => self.expect,
        };
        let mut offset = begin;
        for (number, line) in text[begin..].split_inclusive('\n').enumerate() {
            let written = line.trim_start();
            if number > 0 && written.starts_with('[') {
                break; // the next part
            }
            let value = written.strip_prefix(wrong.field).map(str::trim_start);
            if value.is_some_and(|value| value.starts_with('=')) {
                return line_at(text, offset);
            }
            offset += line.len();
        }
        line_at(text, begin)
    }
}

fn issue_of(issue: Option<String>, fails_with: Option<String>) -> Result<Option<Issue>, Wrong> {
    let wrong = |field, why: &str| Err(Wrong { part: Part::Case, field, why: why.into() });
    match (issue, fails_with) {
        (None, None) => Ok(None),
        (Some(is), Some(fails_with)) => Ok(Some(Issue { is, fails_with })),
        (Some(_), None) => wrong("issue", "issue: say also what the failure says: fails_with = \"...\""),
        (None, Some(_)) => wrong("fails_with", "fails_with: say also why that is known: issue = \"...\""),
    }
}

/// Takes spanned values apart.
fn spread<T>(values: Vec<Spanned<T>>) -> (Vec<usize>, Vec<T>) {
    values.into_iter().map(|value| (value.span().start, value.into_inner())).unzip()
}

/// Reads a case from its text; `file` is named in errors and, without its ending, is the case's name.
pub fn parse(file: &str, text: &str) -> Result<Case, Error> {
    let wrong = |line, reason| Error { file: file.to_owned(), line, reason };
    let document: Document = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_at(text, span.start));
        wrong(line, error.message().to_owned())
    })?;
    let (nodes_at, nodes) = spread(document.node);
    let (tables_at, tables) = spread(document.table);
    let (events_at, written) = spread(document.event);
    let mut events = Vec::new();
    for (number, (event, at)) in written.into_iter().zip(&events_at).enumerate() {
        let event = timed(event).map_err(|reason| format!("event {}: {reason}", number + 1));
        events.push(event.map_err(|reason| wrong(line_at(text, *at), reason))?);
    }
    let places = Places {
        world: document.world.span().start,
        nodes: nodes_at,
        tables: tables_at,
        events: events_at,
        expect: document.expect.as_ref().map_or(0, |expect| expect.span().start),
    };
    let blamed = |blame: Wrong| {
        let line = places.line_of(text, &blame);
        match blame.part {
            Part::Event(at) => wrong(line, format!("event {}: {}", at + 1, blame.why)),
            _ => wrong(line, blame.why),
        }
    };
    let stem = Path::new(file).file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into());
    let case = Case {
        name: stem,
        about: document.about,
        seed: document.seed,
        issue: issue_of(document.issue, document.fails_with).map_err(blamed)?,
        world: document.world.into_inner(),
        nodes,
        policy: document.policy,
        tables,
        events,
        faults_end: document.faults_end,
        expect: document.expect.map(Spanned::into_inner).unwrap_or_default(),
    };
    case.possible().map_err(blamed)?;
    Ok(case)
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
            (head.replace("nodes = 2", "nodes = 0"), "c.toml:4: world: nodes must be 1"),
            (
                format!("{head}{table}").replace("replicas = 2", "replicas = 3"),
                "c.toml:9: table t: replicas must be 1 to 2",
            ),
            (format!("{head}{table}{table}"), "c.toml:11: table t is there twice"),
            (event("do = \"kill-daemon\"\nnode = \"n1\""), "c.toml:10: event 1: it has no time"),
            (
                head.replace("nodes = 2", "nodes = 2\ncapacity = -5"),
                "c.toml:5: a size of -5 bytes is below 0",
            ),
            (head.replace("nodes = 2", "nodes = 2\ncapacity = \"5 parsecs\""), "is no size: write 286MiB"),
            (
                format!("{head}{table}[[node]]\nname = \"n3\"\n"),
                "c.toml:11: node \"n3\": there are only n1 to n2",
            ),
            (
                format!("{head}[[node]]\nname = \"n1\"\n[[node]]\nname = \"n1\"\n"),
                "c.toml:8: node n1 is there twice",
            ),
            (
                format!("{head}[[node]]\nname = \"n1\"\nforeign = 5\ncapacity = 4\n"),
                "c.toml:7: node n1: foreign data (5 bytes) does not fit its capacity (4)",
            ),
            (
                format!("{head}{table}leaders_on = \"n7\"\n"),
                "c.toml:10: table t: leaders_on: there is no node \"n7\"",
            ),
            (format!("{head}{table}skew = [-1]\n"), "c.toml:10: "),
            (
                format!("{head}{table}history = 2000000\nskew = [1, 1000]\n"),
                "c.toml:10: table t: history: at most 1000000000 messages",
            ),
            (
                format!("{head}{table}messages_per_s = 1000000001\n"),
                "c.toml:10: table t: messages_per_s: at most 1000000000 messages",
            ),
            (head.replace("10s", "18446744073709551615ms"), "c.toml:2: faults_end: at most ten years"),
            (event("at = \"1s\"\ndo = \"stop-zone\"\nzone = \"z1\""), "there is no node in zone \"z1\""),
            (
                event("at = \"1s\"\ndo = \"rate\"\ntable = \"u\"\nmessages_per_s = 1"),
                "there is no table \"u\"",
            ),
            (event("at = \"1s\"\ndo = \"dance\""), "c.toml:10: event 1: unknown variant `dance`"),
            (
                event("at = \"1s\"\ndo = \"kill-daemon\"\nnode = \"n3\""),
                "c.toml:13: event 1: there is no node \"n3\" then",
            ),
            (event("at = \"1s\"\ndo = \"kill-daemon\"\nnode = \"n1\"\nwhy = 1"), "unknown field `why`"),
            (event("at = \"11s\"\ndo = \"add-node\""), "it is after faults_end (10s)"),
            (
                event("at = \"5s\"\ndo = \"add-node\"\n[[event]]\nat = \"1s\"\ndo = \"add-node\""),
                "c.toml:14: event 2: it is earlier",
            ),
            (event("at = \"5s\"\ndo = \"produce\"\ntable = \"u\"\nmessages = 1"), "there is no table \"u\""),
            (event("at = \"5s\"\ndo = \"down\"\nport = \"peers\""), "only store and kafka are shared"),
        ];
        for (text, expected) in wrong {
            let said = says(&text);
            assert!(said.contains(expected), "{expected:?} is not in {said:?} of\n{text}");
        }
    }

    #[test]
    fn what_cannot_be_made_or_cannot_hold_is_told_with_its_line() {
        let head = "about = \"x\"\nfaults_end = \"10s\"\n[world]\nnodes = 2\n";
        let table = "[[table]]\nname = \"t\"\npartitions = 4\nshards = 2\nreplicas = 2\n";
        let made = "[[event]]\nat = \"1s\"\ndo = \"create-table\"\nname = \"u\"\n";
        let create = |rest: &str| format!("{head}{made}{rest}");
        let rate = |rest: &str| {
            format!(
                "{head}{table}[[event]]\nat = \"1s\"\ndo = \"rate\"\ntable = \"t\"\nmessages_per_s = 1\n{rest}"
            )
        };
        let expect = |text: &str| format!("{head}{table}[expect]\nbefore_repair = true\n{text}\n");
        let flow = "[[event]]\nat = \"2s\"\ndo = \"rate\"\ntable = \"u\"\nmessages_per_s = 1\n";
        let wrong = [
            (create("partitions = 0\nshards = 1\nreplicas = 1\n"), "c.toml:9: event 1: table u: partitions"),
            (
                create("partitions = 1\nshards = 2\nreplicas = 1\n"),
                "c.toml:10: event 1: table u: shards must",
            ),
            (
                create("partitions = 1\nshards = 1\nreplicas = 3\n"),
                "c.toml:11: event 1: table u: replicas must",
            ),
            (
                create(&format!("partitions = 1\nshards = 1\nreplicas = 1\n{flow}")),
                "c.toml:15: event 2: table",
            ),
            (
                rate("partitions = [2, 5]\n"),
                "c.toml:15: event 1: partitions [2, 5]: first and one past the last",
            ),
            (rate("partitions = [2, 2]\n"), "c.toml:15: event 1: partitions [2, 2]"),
            (expect("replicas = { n55 = [0, 0] }"), "c.toml:12: expect: replicas: there is no node \"n55\""),
            (expect("leaders = { n3 = [0, 0] }"), "c.toml:12: expect: leaders: there is no node \"n3\""),
            (expect("shards = { u = [1, 1] }"), "c.toml:12: expect: shards: there is no table \"u\""),
            (expect("leaders_each = [2, 1]"), "c.toml:12: expect: leaders_each: [2, 1] is fewest, then most"),
            (format!("issue = \"#1\"\n{head}"), "c.toml:1: issue: say also what the failure says"),
            (format!("fails_with = \"x\"\n{head}"), "c.toml:1: fails_with: say also why"),
            (format!("issue = \"#1\"\nfails_with = \" \"\n{head}"), "c.toml:2: fails_with: write what"),
            (
                expect("lag_max = 1")
                    .replace("partitions = 4\nshards = 2\n", "partitions = 2001\nshards = 2001\n"),
                "c.toml:12: expect: lag_max: lag is not looked at where there are more than 2000 shards",
            ),
        ];
        for (text, expected) in wrong {
            let said = says(&text);
            assert!(said.contains(expected), "{expected:?} is not in {said:?} of\n{text}");
        }
        assert!(parse("c.toml", &rate("partitions = [2, 4]\n")).is_ok());
    }

    #[test]
    fn a_part_may_be_written_in_any_form() {
        let dotted = "about = \"x\"\nfaults_end = \"10s\"\nworld.nodes = 2\n";
        assert!(parse("c.toml", dotted).is_ok());
        let inline = "about = \"x\"\nfaults_end = \"10s\"\nworld = { nodes = 0 }\n";
        assert!(says(inline).starts_with("c.toml:3: world: nodes"), "{}", says(inline));
    }
}
