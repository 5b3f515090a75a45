//! The reference page and the commented example, made from the schema.

use super::schema::{Absent, Key, SECTIONS, Section};
use super::units;
use std::fmt::Write;

const INTRODUCTION: &str = "\
# Configuration

A daemon reads one TOML file: `converthouse server --config FILE`. Unknown keys are refused; all problems of a
file are told at once, by `converthouse config check FILE` too. `converthouse config example` prints a commented
file to begin with.

Relative paths start at the file's folder. Passwords can be in files of their own (`…_file`); nothing is read from
the environment.

This page is made from the code (`src/config/schema.rs`); a test keeps it current, and
`UPDATE_EXPECT=1 cargo test --lib config` rewrites it.
";

const PREAMBLE: &str = "A daemon's configuration. As it stands: one process, one ClickHouse on this machine, store \
    and message queue inside the process. Lines that begin with `#` and a key show what else there is, most with \
    their defaults.";

/// Longest line of the example's comments.
const COLUMNS: usize = 100;

fn header(section: &Section) -> String {
    if section.repeated { format!("[[{}]]", section.path) } else { format!("[{}]", section.path) }
}

fn absent(key: &Key) -> String {
    match key.absent {
        Absent::Required => "**required**".into(),
        Absent::Otherwise(text) => text.into(),
        Absent::Default(literal) => format!("`{literal}`"),
    }
}

/// `docs/configuration.md`.
pub fn reference() -> String {
    let mut page = String::from(INTRODUCTION);
    for section in SECTIONS {
        let _ = write!(page, "\n## `{}`\n\n{}\n\n", header(section), section.doc);
        page.push_str("| key | value | if not given | meaning |\n|---|---|---|---|\n");
        for key in section.keys {
            let value = units::expected(key.kind);
            let _ = writeln!(page, "| `{}` | {value} | {} | {} |", key.name, absent(key), key.doc);
        }
    }
    page
}

/// Words of a text as comment lines.
fn comment(page: &mut String, text: &str) {
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > COLUMNS {
            let _ = writeln!(page, "{line}");
            line = String::from("#");
        }
        let _ = write!(line, " {word}");
    }
    let _ = writeln!(page, "{line}");
}

/// A file with every section and key explained: a standalone daemon of one ClickHouse, the rest commented out.
pub fn example() -> String {
    let mut page = String::new();
    comment(&mut page, PREAMBLE);
    for section in SECTIONS {
        page.push('\n');
        comment(&mut page, section.doc);
        let off = if section.in_example { "" } else { "# " };
        let _ = writeln!(page, "{off}{}", header(section));
        for key in section.keys {
            comment(&mut page, &format!("{} If not given: {}.", key.doc, absent(key).replace("**", "")));
            let _ = match live(section, key) {
                Some(value) => writeln!(page, "{} = {value}", key.name),
                None => writeln!(page, "# {} = {}", key.name, shown(key)),
            };
        }
    }
    page
}

fn shown(key: &Key) -> &'static str {
    match key.absent {
        Absent::Default(literal) if literal != "{}" && literal != "0" => literal,
        _ => key.example,
    }
}

/// What the example sets, so that it runs on a laptop as it is.
fn live(section: &Section, key: &Key) -> Option<&'static str> {
    match (section.path, key.name) {
        ("cluster", "name") => Some("\"converthouse\""),
        ("metadata" | "kafka", "kind") => Some("\"embedded\""),
        ("node", "id") => Some("\"n1\""),
        ("node", "labels") => Some("{ zone = \"a\" }"),
        ("node", "clickhouse_url") => Some("\"http://127.0.0.1:8123\""),
        ("daemon", "data_dir") => Some("\"/var/lib/converthouse\""),
        _ => None,
    }
}
