//! The project's files as the rules see them: raw lines, and for Rust the code with comments and literals blanked.

use std::fs;
use std::path::{Path, PathBuf};

/// One text file of the project.
pub struct File {
    /// Relative to the project, with `/`.
    pub path: String,
    /// As it is.
    pub lines: Vec<String>,
    /// Rust only: the same lines, with comments, strings and characters blanked out.
    pub code: Vec<String>,
    /// Rust only: whether the line belongs to tests.
    pub test: Vec<bool>,
}

/// The project's folder.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every text file that a person writes, in order of its path.
pub fn files() -> Vec<File> {
    let mut paths = Vec::new();
    walk(&root(), &mut paths);
    let mut files: Vec<File> = paths.iter().filter_map(|path| read(path)).collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "src/lib.rs was not found");
    files
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let skipped = ["target", ".git", ".provision", "__pycache__", "node_modules"];
    for entry in fs::read_dir(folder).expect("a folder of the project").flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type().expect("a kind of file");
        if kind.is_dir() && !skipped.contains(&name.as_str()) {
            walk(&path, paths);
        } else if kind.is_file() && is_text(&name) {
            paths.push(path);
        }
    }
}

fn is_text(name: &str) -> bool {
    let endings = ["rs", "md", "toml", "py", "sh", "yml", "yaml", "json", "proto", "xml"];
    let ending = name.rsplit('.').next().unwrap_or("");
    endings.contains(&ending) || ["Makefile", "run"].contains(&name)
}

fn read(path: &Path) -> Option<File> {
    let text = fs::read_to_string(path).ok()?;
    let path = path.strip_prefix(root()).expect("inside the project").to_string_lossy().replace('\\', "/");
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let rust = path.ends_with(".rs");
    let code: Vec<String> = if rust { blank(&text).lines().map(str::to_owned).collect() } else { Vec::new() };
    let test = if rust { test_lines(&path, &code) } else { Vec::new() };
    Some(File { path, lines, code, test })
}

/// The file with everything but code replaced by spaces; lines stay where they are.
pub fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skipped_until(&chars, at);
        if end > at {
            out.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` if none begins there.
fn skipped_until(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match (chars[at], next) {
        ('/', Some('/')) => (at..chars.len()).find(|i| chars[*i] == '\n').unwrap_or(chars.len()),
        ('/', Some('*')) => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at + 1),
        ('r', Some('"' | '#')) if !word_before || chars[at - 1] == 'b' => raw_string_end(chars, at),
        // 'x' and '\n' are characters; 'static is a lifetime.
        ('\'', Some('\\')) => {
            (at + 3..chars.len()).find(|i| chars[*i] == '\'').map_or(chars.len(), |i| i + 1)
        }
        ('\'', _) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

fn block_comment_end(chars: &[char], at: usize) -> usize {
    let (mut depth, mut i) = (0, at);
    while i + 1 < chars.len() {
        match (chars[i], chars[i + 1]) {
            ('/', '*') => (depth, i) = (depth + 1, i + 2),
            ('*', '/') if depth == 1 => return i + 2,
            ('*', '/') => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
    }
    chars.len()
}

fn string_end(chars: &[char], mut i: usize) -> usize {
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            '"' => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string_end(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    let open = at + 1 + hashes;
    if chars.get(open) != Some(&'"') {
        return at;
    }
    let closes = |i: &usize| {
        chars[*i] == '"' && chars[*i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (open + 1..chars.len()).find(closes).map_or(chars.len(), |i| i + 1 + hashes)
}

/// Which lines are tests: whole files by their place, and `#[cfg(test)]` items.
fn test_lines(path: &str, code: &[String]) -> Vec<bool> {
    let by_place = path.starts_with("tests/")
        || path.starts_with("benches/")
        || path.trim_end_matches(".rs").split('/').any(is_test_name);
    let mut test = vec![by_place; code.len()];
    let mut line = 0;
    while line < code.len() {
        if code[line].trim_start().starts_with("#[cfg(test)]") {
            let end = item_end(code, line);
            test[line..=end].fill(true);
            line = end;
        }
        line += 1;
    }
    test
}

fn is_test_name(part: &str) -> bool {
    part == "tests" || part.ends_with("_tests") || part.starts_with("conformance")
}

/// The line on which the item that begins at `line` ends: its closing brace, or a semicolon outside brackets.
pub fn item_end(code: &[String], line: usize) -> usize {
    let (mut braces, mut brackets) = (0i32, 0i32);
    for (number, text) in code.iter().enumerate().skip(line) {
        for c in text.chars() {
            match c {
                '(' | '[' => brackets += 1,
                ')' | ']' => brackets -= 1,
                '{' => braces += 1,
                '}' => braces -= 1,
                _ => {}
            }
            if (c == '}' && braces == 0) || (c == ';' && braces == 0 && brackets == 0) {
                return number;
            }
        }
    }
    code.len() - 1
}

/// The identifiers of a line of code, with the column where each begins.
pub fn words(code: &str) -> Vec<(usize, &str)> {
    let mut words = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        let inside = c.is_alphanumeric() || c == '_';
        match (start, inside) {
            (None, true) => start = Some(at),
            (Some(from), false) => {
                words.push((from, &code[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    words
}

#[test]
fn blanking_leaves_only_code() {
    let text = "a(\"x // {\", 'y', '\\'', &'static b); // c {\n/* d /* e */ { */ r#\"f\"g\"#; br\"h\" i";
    let squeezed: String = blank(text).split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(squeezed, "a( , , , &'static b); ; b i");
}

#[test]
fn an_item_ends_at_its_own_brace() {
    let code: Vec<String> = ["fn a(x: [u8; 2]) {", "if b { c; }", "}", "fn d();"].map(str::to_owned).into();
    assert_eq!((item_end(&code, 0), item_end(&code, 3)), (2, 3));
}
