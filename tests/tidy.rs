//! The house rules, as tests: each failure names file, line and what to do.
//!
//! What clippy can see (`clippy.toml`, `[lints]`) is left to it; this holds the rest, and what clippy sees only
//! through types. The layer rule is in `tidy/layers.rs`. It reads files as text and knows no Rust beyond that.

#[path = "tidy/layers.rs"]
mod layers;
#[path = "tidy/source.rs"]
mod source;

use source::{File, files, item_end, root, words};
use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;
const TEST_FUNCTION_LINES_MAX: usize = 100;
/// rustfmt keeps code at 110; comments and other languages get a little more.
const COLUMNS_MAX: usize = 120;

/// In any Rust file, also in comments: what is unfinished belongs in an issue.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "FIXME", "XXX"];

/// Outside `adapters` and tests: what would make a run depend on more than its input. With what to use instead.
const NONDETERMINISTIC: &[(&str, &str)] = &[
    ("Instant::now", "ask the `Clock` port"),
    ("SystemTime::now", "ask the `Clock` port"),
    ("thread_rng", "ask the `Clock` port, or take a seed"),
    ("rand::rng(", "ask the `Clock` port, or take a seed"),
    ("Uuid::new_v4", "ask the `Clock` port for random numbers"),
    ("HashMap", "use BTreeMap: its order is the same in every run"),
    ("HashSet", "use BTreeSet: its order is the same in every run"),
    ("select!", "use futures::select_biased!: tokio's select! picks at random"),
    ("sync::watch", "use broadcast, Notify or actor messages: watch wakes in random order"),
    ("thread::sleep", "use tokio::time::sleep"),
    ("thread::spawn", "do blocking work behind a port, in `adapters`"),
];

/// (file or folder, word, why it may stand there).
const EXCEPTIONS: &[(&str, &str, &str)] = &[];

fn report(complaints: &[String]) {
    assert!(complaints.is_empty(), "{} breaches:\n{}", complaints.len(), complaints.join("\n"));
}

fn rust_files() -> Vec<File> {
    files().into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

fn is_tidy(file: &File) -> bool {
    file.path.starts_with("tests/tidy")
}

#[test]
fn files_and_lines_are_short() {
    let mut complaints = Vec::new();
    for file in files() {
        let ending = file.path.rsplit('.').next().unwrap_or("");
        if !["rs", "py", "sh", "proto"].contains(&ending) {
            continue;
        }
        if file.lines.len() > FILE_LINES_MAX {
            complaints.push(format!(
                "{}: {} lines, at most {FILE_LINES_MAX}: split it by duty",
                file.path,
                file.lines.len()
            ));
        }
        for (number, line) in file.lines.iter().enumerate() {
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !line.contains("https://") {
                complaints.push(format!(
                    "{}:{}: {columns} columns, at most {COLUMNS_MAX}: break the line",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    report(&complaints);
}

#[test]
fn functions_are_short() {
    let mut complaints = Vec::new();
    for file in rust_files() {
        for (number, line) in file.code.iter().enumerate() {
            let words = words(line);
            let Some(position) = words.iter().position(|word| word.1 == "fn") else { continue };
            let Some(name) = words.get(position + 1) else { continue };
            let lines = item_end(&file.code, number) - number + 1;
            let max = if file.test[number] { TEST_FUNCTION_LINES_MAX } else { FUNCTION_LINES_MAX };
            if lines > max {
                complaints.push(format!(
                    "{}:{}: `{}` has {lines} lines, at most {max}: give parts of it names of their own",
                    file.path,
                    number + 1,
                    name.1
                ));
            }
        }
    }
    report(&complaints);
}

#[test]
fn every_file_says_what_it_is_for() {
    let mut complaints = Vec::new();
    // Unit tests in a file of their own are said what they are by the module beside them.
    let own = |file: &File| file.path.starts_with("tests/") || !file.path.ends_with("tests.rs");
    for file in rust_files().iter().filter(|file| own(file)) {
        if !file.lines.first().is_some_and(|line| line.starts_with("//! ")) {
            complaints
                .push(format!("{}:1: begin with `//!`: what it holds, why, what it does not do", file.path));
        }
    }
    report(&complaints);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut complaints = Vec::new();
    for file in rust_files().iter().filter(|file| !is_tidy(file)) {
        for (number, line) in file.lines.iter().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(**word)) {
                complaints.push(format!(
                    "{}:{}: `{word}`: finish it or open an issue",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    report(&complaints);
}

#[test]
fn types_and_modules_are_named_by_duty() {
    let mut complaints = Vec::new();
    for file in rust_files() {
        for (number, line) in file.code.iter().enumerate() {
            for two in words(line).windows(2) {
                let (keyword, name) = (two[0].1, two[1].1);
                let vague = match keyword {
                    "struct" | "enum" | "trait" | "type" => {
                        ["Manager", "Helper", "Util", "Utils"].iter().any(|word| name.ends_with(word))
                    }
                    "mod" => {
                        ["manager", "helper", "helpers", "util", "utils", "common", "misc"].contains(&name)
                    }
                    _ => false,
                };
                if vague {
                    complaints.push(format!(
                        "{}:{}: `{name}` says nothing of its duty: name what it does",
                        file.path,
                        number + 1
                    ));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn decisions_depend_on_nothing_but_their_input() {
    let mut complaints = Vec::new();
    for file in rust_files().iter().filter(|file| file.path.starts_with("src/")) {
        if file.path.starts_with("src/adapters/") {
            continue;
        }
        for (number, line) in file.code.iter().enumerate().filter(|(number, _)| !file.test[*number]) {
            for (word, instead) in NONDETERMINISTIC.iter().filter(|(word, _)| line.contains(word)) {
                let excused = EXCEPTIONS
                    .iter()
                    .any(|(place, exception, _)| file.path.starts_with(place) && line.contains(exception));
                if !excused {
                    complaints.push(format!("{}:{}: `{word}`: {instead}", file.path, number + 1));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn nothing_panics_on_a_value_that_may_be_absent() {
    let mut complaints = Vec::new();
    for file in rust_files() {
        for (number, line) in file.code.iter().enumerate().filter(|(number, _)| !file.test[*number]) {
            if line.contains(".unwrap()") {
                complaints.push(format!(
                    "{}:{}: `.unwrap()`: return an error, or `expect` with the reason why it cannot fail",
                    file.path,
                    number + 1
                ));
            }
        }
    }
    report(&complaints);
}

/// `pub const METADATA: u16 = 300;` of `src/error.rs`.
fn code_ranges() -> BTreeMap<String, u16> {
    let error = rust_files().into_iter().find(|file| file.path == "src/error.rs").expect("src/error.rs");
    let mut ranges = BTreeMap::new();
    for line in &error.code {
        let words = words(line);
        if let [.., (_, "const"), (_, name), (_, "u16"), (_, number)] = words[..] {
            ranges.insert(name.to_owned(), number.parse().expect("a range's first code"));
        }
    }
    assert!(ranges.len() > 5, "the ranges of src/error.rs were not understood");
    ranges
}

/// Every code that an `impl Coded` can give, with the place of its `fn code`.
fn codes() -> Vec<(u16, String)> {
    let ranges = code_ranges();
    let mut codes = Vec::new();
    for file in rust_files().iter().filter(|file| file.path.starts_with("src/") && !is_tidy(file)) {
        for (number, line) in file.code.iter().enumerate() {
            if file.test[number] || !line.contains("fn code(&self) -> Code {") {
                continue;
            }
            let place = format!("{}:{}", file.path, number + 1);
            let body = file.code[number..=item_end(&file.code, number)].join("\n");
            let mut base = None;
            let mut previous = "";
            for word in body.split(|c: char| c.is_whitespace() || "(),;{}".contains(c)) {
                if let Some(name) = word.rsplit_once("ranges::").map(|(_, name)| name) {
                    base = Some(*ranges.get(name).unwrap_or_else(|| panic!("{place}: no range `{name}`")));
                } else if let (Some(base), "+" | "=>", Ok(n)) = (base, previous, word.parse::<u16>()) {
                    codes.push((base + n, place.clone()));
                }
                previous = if word.is_empty() { previous } else { word };
            }
        }
    }
    assert!(codes.len() > 10, "the codes of `impl Coded` were not understood");
    codes
}

#[test]
fn every_error_code_is_in_the_operators_list() {
    let path = "docs/operations.md";
    let text = fs::read_to_string(root().join(path)).expect("docs/operations.md");
    let mut listed = BTreeMap::new();
    let mut complaints = Vec::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| line.starts_with("| CVH-")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let code: u16 = cells[0].trim_start_matches("CVH-").parse().unwrap_or(0);
        if cells.len() != 4 || cells.iter().any(|cell| cell.is_empty()) {
            complaints.push(format!("{path}:{}: give code, meaning, retry and remedy", number + 1));
        }
        if listed.insert(code, number + 1).is_some() {
            complaints.push(format!("{path}:{}: {} is listed twice", number + 1, cells[0]));
        }
    }
    let mut given: BTreeMap<u16, String> = BTreeMap::new();
    for (code, place) in codes() {
        if !listed.contains_key(&code) {
            complaints.push(format!("{place}: CVH-{code:04} is not in {path}: add its line to the table"));
        }
        if let Some(other) = given.insert(code, place.clone()) {
            complaints.push(format!("{place}: CVH-{code:04} is also given by {other}: take a free one"));
        }
    }
    for (code, line) in listed.iter().filter(|(code, _)| !given.contains_key(code)) {
        complaints.push(format!("{path}:{line}: nothing gives CVH-{code:04} any more: remove the line"));
    }
    report(&complaints);
}

#[test]
fn the_front_page_names_the_two_commands() {
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for command in ["make demo", "make test"] {
        assert!(readme.contains(command), "README.md: name `{command}` in the quick start");
    }
    let ci = fs::read_to_string(root().join(".ci/run")).expect(".ci/run");
    assert!(ci.contains("make test"), ".ci/run: call `make test`");
}

#[test]
fn no_file_names_somebodys_machine() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| !is_tidy(file)) {
        for (number, line) in file.lines.iter().enumerate() {
            for folder in ["/work/", "/root/", "/Users/"] {
                // As the beginning of a path, not a part of one such as `docs/work/`.
                let begins = |at: usize| {
                    !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || "._-}".contains(c))
                };
                if line.match_indices(folder).any(|(at, _)| begins(at)) {
                    complaints.push(format!(
                        "{}:{}: `{folder}` is a path of one machine: use a relative one",
                        file.path,
                        number + 1
                    ));
                }
            }
        }
    }
    report(&complaints);
}

#[test]
fn scripts_can_be_read_by_their_interpreters() {
    let python = "import ast, sys; ast.parse(open(sys.argv[1]).read(), sys.argv[1])";
    let mut complaints = Vec::new();
    for file in files() {
        let mut command = match file.path.rsplit('.').next() {
            Some("py") => Command::new("python3"),
            Some("sh" | "ci/run") => Command::new("bash"),
            _ => continue,
        };
        let arguments: &[&str] = if file.path.ends_with(".py") { &["-c", python] } else { &["-n"] };
        let ran = command.args(arguments).arg(root().join(&file.path)).output().expect("bash and python3");
        if !ran.status.success() {
            complaints.push(format!("{}: {}", file.path, String::from_utf8_lossy(&ran.stderr)));
        }
    }
    report(&complaints);
}
