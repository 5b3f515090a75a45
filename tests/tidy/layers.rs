//! The layer rule of `src/lib.rs`: which module may name which.

use crate::source::{File, files, root, words};

/// For each top-level module, the others that its code may name. Tests may name any.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("wire", &[]),
    ("model", &["error"]),
    ("placement", &["model", "error"]),
    ("telemetry", &["model", "error"]),
    ("adapters", &["model", "error", "wire", "telemetry"]),
    ("actors", &["model", "error", "placement", "adapters", "telemetry", "wire"]),
    ("config", &["model", "error", "placement", "adapters", "actors", "telemetry"]),
    ("api", &["model", "error", "placement", "adapters", "actors", "telemetry", "config", "wire"]),
    ("simulation", &["model", "error", "placement", "adapters", "actors", "telemetry", "config"]),
    ("daemon", &["model", "error", "placement", "adapters", "actors", "telemetry", "config", "api"]),
    ("demo", &["model", "error", "adapters", "telemetry", "config", "daemon"]),
    (
        "cli",
        &[
            "daemon",
            "demo",
            "model",
            "error",
            "placement",
            "adapters",
            "actors",
            "telemetry",
            "config",
            "api",
            "simulation",
            "wire",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Parts of a port that are neither a real nor a simulated side: any layer above may name them.
const SHARED_PARTS: &[&str] = &["keys", "follow", "records", "faults", "render"];

/// A path of the crate that some code names: `["adapters", "kafka", "Lane"]`.
struct Named {
    line: usize,
    path: Vec<String>,
}

/// Every `crate::a::b` and every branch of `crate::{a::b, c}` in the file.
fn named(file: &File) -> Vec<Named> {
    let mut starts = Vec::new();
    let mut text = String::new();
    for line in &file.code {
        starts.push(text.len());
        text.push_str(line);
        text.push('\n');
    }
    let mut found = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let before = text[..at].chars().next_back().unwrap_or(' ');
        if before.is_alphanumeric() || before == '_' || before == '$' {
            continue;
        }
        let line = starts.partition_point(|start| *start <= at) - 1;
        let mut paths = Vec::new();
        branches(&text[at + "crate::".len()..], &[], &mut paths);
        found.extend(paths.into_iter().map(|path| Named { line, path }));
    }
    found
}

/// Reads one path or brace group; returns how much of the text it took.
fn branches(text: &str, prefix: &[String], out: &mut Vec<Vec<String>>) -> usize {
    let mut path = prefix.to_vec();
    let mut at = 0;
    loop {
        at += text[at..].len() - text[at..].trim_start().len();
        if text[at..].starts_with('{') {
            at += 1;
            while !text[at..].trim_start().starts_with('}') {
                at += branches(&text[at..], &path, out);
                let rest = text[at..].trim_start();
                at = text.len() - rest.len();
                if let Some(rest) = rest.strip_prefix(',') {
                    at = text.len() - rest.len();
                } else if !rest.starts_with('}') {
                    return at; // not a list of paths after all
                }
            }
            return text.len() - text[at..].trim_start().len() + 1;
        }
        let word: String = text[at..].chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += word.len();
        if !word.is_empty() {
            path.push(word);
        } else if text[at..].starts_with('*') {
            at += 1;
        }
        if let Some(rest) = text[at..].strip_prefix("::") {
            at = text.len() - rest.len();
            continue;
        }
        if let Some(rest) = text[at..].strip_prefix(" as ") {
            let alias = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').count();
            at = text.len() - rest.len() + alias;
        }
        out.push(path);
        return at;
    }
}

fn top_module(path: &str) -> &str {
    path.trim_start_matches("src/").split('/').next().unwrap_or("").trim_end_matches(".rs")
}

/// Whether `crate::adapters::<port>::<part>` is a file of its own, so a side of the port and not its contract.
fn is_side(port: &str, part: &str) -> bool {
    let base = root().join("src/adapters").join(port).join(part);
    (base.is_dir() || base.with_extension("rs").is_file()) && !SHARED_PARTS.contains(&part)
}

fn complaint(file: &File, named: &Named) -> Option<String> {
    let from = top_module(&file.path);
    let to = named.path.first()?.as_str();
    let place = format!("{}:{}: ", file.path, named.line + 1);
    let Some((_, allowed)) = MAY_NAME.iter().find(|(module, _)| *module == from) else {
        return Some(format!(
            "{place}module `{from}` is not in the table of tests/tidy/layers.rs: add it there"
        ));
    };
    let is_module = MAY_NAME.iter().any(|(module, _)| *module == to);
    if is_module && to != from && !allowed.contains(&to) {
        return Some(format!(
            "{place}`{from}` names `crate::{to}`, which the layer rule of src/lib.rs forbids: move the code, or \
             turn it round by a trait below both"
        ));
    }
    if to != "adapters" || !["adapters", "actors"].contains(&from) {
        return None;
    }
    let (port, part) = (named.path.get(1)?.as_str(), named.path.get(2)?.as_str());
    let own_port = file.path.starts_with(&format!("src/adapters/{port}/"));
    let contract = file.path == format!("src/adapters/{port}/mod.rs");
    let allowed = from == "adapters" && (own_port && !contract || port == "clock");
    (is_side(port, part) && !allowed).then(|| {
        format!("{place}names `adapters::{port}::{part}`, one side of a port: name its trait in adapters/{port}/mod.rs")
    })
}

#[test]
fn each_layer_names_only_what_stands_before_it() {
    let mut complaints = Vec::new();
    for file in files().iter().filter(|file| file.path.starts_with("src/")) {
        for named in named(file) {
            if !file.test[named.line] {
                complaints.extend(complaint(file, &named));
            }
        }
    }
    assert!(complaints.is_empty(), "{} breaches:\n{}", complaints.len(), complaints.join("\n"));
}

#[test]
fn every_source_file_is_declared_by_its_parent() {
    let files = files();
    let mut complaints = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".rs")) {
        let Some((folder, name)) = file.path.rsplit_once('/') else { continue };
        let in_scope = folder.starts_with("src") || folder.starts_with("tests/");
        if !in_scope || ["lib.rs", "main.rs"].contains(&name) {
            continue;
        }
        let (folder, module) = match name {
            "mod.rs" => folder.rsplit_once('/').expect("a module's folder stands in another"),
            _ => (folder, name.trim_end_matches(".rs")),
        };
        let parents = [
            format!("{folder}/mod.rs"),
            format!("{folder}/main.rs"),
            format!("{folder}/lib.rs"),
            format!("{folder}.rs"),
        ];
        let declares = |file: &File| {
            file.code
                .iter()
                .any(|line| words(line).windows(2).any(|two| two[0].1 == "mod" && two[1].1 == module))
        };
        // Or by `#[path = "..."]`, in any file.
        let attribute = |other: &File| {
            let ending = format!("{name}\"]");
            other.lines.iter().any(|line| line.starts_with("#[path = ") && line.ends_with(&ending))
        };
        // A folder right under `tests` is shared by the test targets beside it.
        let is_parent = |other: &&File| {
            let target = other.path.strip_prefix("tests/").is_some_and(|name| !name.contains('/'));
            parents.contains(&other.path) || (folder == "tests" && target)
        };
        let declared = files.iter().filter(is_parent).any(declares);
        if !declared && !files.iter().any(attribute) {
            complaints.push(format!("{}: no `mod {module};` in its parent: it is never compiled", file.path));
        }
    }
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn paths_are_read_through_groups() {
    let text = "model::{self, ids::{A, B as C}, d}, error";
    let mut paths = Vec::new();
    branches(text, &[], &mut paths);
    let shown: Vec<String> = paths.iter().map(|path| path.join("::")).collect();
    assert_eq!(shown, ["model::self", "model::ids::A", "model::ids::B", "model::d"]);
}
