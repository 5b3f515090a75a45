//! Reads TOML by the schema and gathers every problem, instead of stopping at the first.
//!
//! A value that is absent or wrong is read as its default or as nothing; the problem is on the list, so that no
//! such reading ever leaves [`load`](super::load).

use super::Problem;
use super::schema::{Absent, Key, Kind, SECTIONS, Section, section};
use super::units;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// What is read, and what was found wrong so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    folder: PathBuf,
    problems: Vec<Problem>,
}

/// One table of the file, read as a section of the schema.
#[derive(Clone)]
pub(super) struct Part<'a> {
    section: &'static Section,
    /// As in the file, such as `node[2]`.
    path: String,
    table: Option<&'a DeTable<'a>>,
    line: Option<usize>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a str, folder: &Path) -> Self {
        Self { text, folder: folder.to_owned(), problems: Vec::new() }
    }

    pub(super) fn line(&self, span: &std::ops::Range<usize>) -> usize {
        1 + self.text.as_bytes()[..span.start.min(self.text.len())].iter().filter(|b| **b == b'\n').count()
    }

    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by_key(|problem| problem.line.unwrap_or(usize::MAX));
        self.problems
    }

    pub(super) fn add(&mut self, line: Option<usize>, key: String, what: String, remedy: String) {
        self.problems.push(Problem { line, key, what, remedy });
    }

    /// A problem with a key's value, or with its absence.
    pub(super) fn blame(&mut self, part: &Part<'_>, name: &str, what: &str, remedy: &str) {
        let line = part.value(name).map(|value| self.line(&value.span())).or(part.line);
        self.add(line, part.key(name), what.to_owned(), remedy.to_owned());
    }

    /// The section at the top or within `outer`; an absent one reads as empty.
    pub(super) fn part(&mut self, within: &'a DeTable<'a>, path: &'static str) -> Part<'a> {
        let found = section(path);
        let none = Part { section: found, path: path.to_owned(), table: None, line: None };
        let Some(value) = lookup(within, path) else { return none };
        let line = Some(self.line(&value.span()));
        match value.get_ref() {
            DeValue::Table(table) => self.known(Part { table: Some(table), line, ..none }),
            other => {
                let what = format!("is {} and should be a section", article(other.type_str()));
                self.add(line, path.to_owned(), what, format!("write [{path}]"));
                Part { line, ..none }
            }
        }
    }

    /// Every table of a repeated section.
    pub(super) fn parts(&mut self, within: &'a DeTable<'a>, path: &'static str) -> Vec<Part<'a>> {
        let Some(value) = lookup(within, path) else { return Vec::new() };
        let line = Some(self.line(&value.span()));
        let DeValue::Array(items) = value.get_ref() else {
            let what = format!("is {} and should be a list of sections", article(value.get_ref().type_str()));
            self.add(line, path.to_owned(), what, format!("write [[{path}]]"));
            return Vec::new();
        };
        let mut parts = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let line = Some(self.line(&item.span()));
            let path_at = format!("{path}[{}]", at + 1);
            if let DeValue::Table(table) = item.get_ref() {
                let part = Part { section: section(path), path: path_at, table: Some(table), line };
                parts.push(self.known(part));
            } else {
                let what = format!("is {} and should be a section", article(item.get_ref().type_str()));
                self.add(line, path_at, what, format!("write [[{path}]]"));
            }
        }
        parts
    }

    /// Refuses keys that the section does not have.
    fn known(&mut self, part: Part<'a>) -> Part<'a> {
        let prefix = format!("{}.", part.section.path);
        let inner = SECTIONS.iter().filter_map(|s| s.path.strip_prefix(&prefix));
        let names: Vec<&str> = part.section.keys.iter().map(|key| key.name).chain(inner).collect();
        for key in part.table.into_iter().flat_map(DeTable::keys) {
            self.expect_one_of(key, &names, &format!("{}.", part.path));
        }
        part
    }

    /// Refuses sections that there are not.
    pub(super) fn known_sections(&mut self, root: &DeTable<'_>) {
        let names: Vec<&str> = SECTIONS.iter().map(|s| s.path).filter(|path| !path.contains('.')).collect();
        for key in root.keys() {
            self.expect_one_of(key, &names, "");
        }
    }

    fn expect_one_of(&mut self, key: &Spanned<std::borrow::Cow<'_, str>>, names: &[&str], prefix: &str) {
        let name = key.get_ref().as_ref();
        if names.contains(&name) {
            return;
        }
        let remedy = match closest(name, names) {
            Some(close) => format!("did you mean `{close}`?"),
            None => format!("known here: {}", names.join(", ")),
        };
        let line = Some(self.line(&key.span()));
        self.add(line, format!("{prefix}{name}"), "is not known".into(), remedy);
    }

    fn mismatch(&mut self, part: &Part<'_>, key: &Key, value: &DeValue<'_>) {
        let what = format!("is {} and should be {}", article(value.type_str()), units::expected(key.kind));
        self.blame(part, key.name, &what, &format!("write, for example, {} = {}", key.name, key.example));
    }

    /// The value of a key: the file's, or the default, or a problem if it is required.
    fn value<T>(
        &mut self,
        part: &Part<'a>,
        name: &str,
        read: impl Fn(&DeValue<'_>) -> Option<Result<T, String>>,
    ) -> Option<T> {
        let key = part.schema(name);
        match (part.value(name), key.absent) {
            (Some(value), _) => match read(value.get_ref()) {
                None => self.mismatch(part, key, value.get_ref()),
                Some(Ok(read)) => return Some(read),
                Some(Err(what)) => {
                    self.blame(part, name, &what, &format!("write, for example, {name} = {}", key.example));
                }
            },
            // The whole section was refused already.
            (None, Absent::Required) if part.table.is_none() && part.line.is_some() => {}
            (None, Absent::Required) => {
                self.blame(part, name, "is missing", &format!("add {name} = {}", key.example));
            }
            (None, Absent::Otherwise(_)) => {}
            (None, Absent::Default(literal)) => {
                let value = DeValue::parse(literal).expect("defaults are TOML: a test reads each");
                let read = read(value.get_ref()).expect("defaults are of their kind: a test reads each");
                return Some(read.expect("defaults are good: a test reads each"));
            }
        }
        None
    }

    /// A text of any kind whose form is checked by its own type or here.
    pub(super) fn text(&mut self, part: &Part<'a>, name: &str) -> Option<String> {
        let kind = part.schema(name).kind;
        self.value(part, name, |value| value.as_str().map(|text| units::text(kind, text)))
    }

    /// A text that another type parses, such as a node's name.
    pub(super) fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(
        &mut self,
        part: &Part<'a>,
        name: &str,
    ) -> Option<T> {
        let parse = |text: &str| text.parse().map_err(|e: T::Err| e.to_string());
        self.value(part, name, |value| value.as_str().map(parse))
    }

    /// A path, taken from the configuration file's folder.
    pub(super) fn path(&mut self, part: &Part<'a>, name: &str) -> Option<PathBuf> {
        let folder = self.folder.clone();
        self.text(part, name).map(|text| folder.join(text))
    }

    /// The content of a file that a key names, without a line end at its end.
    pub(super) fn content(&mut self, part: &Part<'a>, name: &str) -> Option<String> {
        let path = self.path(part, name)?;
        match std::fs::read_to_string(&path) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => {
                let what = format!("{} cannot be read: {error}", path.display());
                self.blame(part, name, &what, "name a file that the daemon's user may read");
                None
            }
        }
    }

    pub(super) fn bool(&mut self, part: &Part<'a>, name: &str) -> bool {
        self.value(part, name, |value| value.as_bool().map(Ok)).unwrap_or_default()
    }

    pub(super) fn integer(&mut self, part: &Part<'a>, name: &str) -> Option<i64> {
        let Kind::Integer(min, max) = part.schema(name).kind else { unreachable!("{name} is no integer") };
        let within = |number: i64| {
            let limits = || match max {
                i64::MAX => format!("is {number} and should be at least {min}"),
                _ => format!("is {number} and should be {min} to {max}"),
            };
            (min..=max).contains(&number).then_some(number).ok_or_else(limits)
        };
        self.value(part, name, |value| Some(units::integer(value)?.and_then(within)))
    }

    /// A whole number whose limits make it fit.
    pub(super) fn number<T: TryFrom<i64> + Default>(&mut self, part: &Part<'a>, name: &str) -> T {
        self.integer(part, name).and_then(|number| T::try_from(number).ok()).unwrap_or_default()
    }

    /// A size in bytes.
    pub(super) fn bytes(&mut self, part: &Part<'a>, name: &str) -> u64 {
        self.value(part, name, units::bytes).unwrap_or_default()
    }

    /// A size that must not be too small.
    pub(super) fn bytes_at_least(&mut self, part: &Part<'a>, name: &str, least: u64) -> u64 {
        let enough = |bytes| {
            if bytes < least { Err(format!("is {bytes} bytes, below {least}")) } else { Ok(bytes) }
        };
        self.value(part, name, |value| Some(units::bytes(value)?.and_then(enough))).unwrap_or(least)
    }

    /// A weight, in thousandths.
    pub(super) fn weight_milli(&mut self, part: &Part<'a>, name: &str) -> u32 {
        self.value(part, name, units::weight_milli).unwrap_or(1_000)
    }

    pub(super) fn texts(&mut self, part: &Part<'a>, name: &str) -> Option<Vec<String>> {
        self.value(part, name, |value| {
            let items = value.as_array()?.iter();
            let one = |item: &Spanned<DeValue<'_>>| {
                item.get_ref().as_str().map(str::to_owned).ok_or("has something that is no text".to_owned())
            };
            Some(items.map(one).collect())
        })
    }

    /// A table of texts; numbers and truth values are taken as they are written.
    pub(super) fn map(&mut self, part: &Part<'a>, name: &str) -> BTreeMap<String, String> {
        let read = |value: &DeValue<'_>| {
            let one = |(key, value): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
                let text = units::plain(value.get_ref());
                let text = text.ok_or_else(|| format!("{:?} should be a text", key.get_ref()))?;
                Ok((key.get_ref().to_string(), text))
            };
            Some(value.as_table()?.iter().map(one).collect::<Result<BTreeMap<_, _>, String>>())
        };
        self.value(part, name, read).unwrap_or_default()
    }
}

impl<'a> Part<'a> {
    /// Whether the file has the section at all.
    pub(super) fn given(&self) -> bool {
        self.table.is_some()
    }

    /// Whether the file has the key.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Full name of a key.
    pub(super) fn key(&self, name: &str) -> String {
        if name.is_empty() { self.path.clone() } else { format!("{}.{name}", self.path) }
    }

    /// A text as it stands in the file, unchecked.
    pub(super) fn raw_text(&self, name: &str) -> Option<&'a str> {
        self.value(name)?.get_ref().as_str()
    }

    fn value(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        self.table?.get(name)
    }

    fn schema(&self, name: &str) -> &'static Key {
        let found = self.section.keys.iter().find(|key| key.name == name);
        found.unwrap_or_else(|| panic!("[{}] {name} is read and not in the schema", self.section.path))
    }
}

fn lookup<'a>(root: &'a DeTable<'a>, path: &str) -> Option<&'a Spanned<DeValue<'a>>> {
    match path.split_once('.') {
        None => root.get(path),
        Some((outer, inner)) => root.get(outer)?.get_ref().as_table()?.get(inner),
    }
}

fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// The known name that a mistyped one is most likely meant to be.
fn closest<'n>(name: &str, names: &[&'n str]) -> Option<&'n str> {
    let distance = |known: &&'n str| (edits(name, known), *known);
    let (edits, known) = names.iter().map(distance).min()?;
    let prefixed = known.starts_with(name) || name.starts_with(known);
    (edits <= 1 + name.chars().count() / 4 || (prefixed && name.len() >= 3)).then_some(known)
}

/// Levenshtein's distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
