//! The little that must be read of a user's `CREATE TABLE` before ClickHouse parses it: the table's name, so that
//! the statement can run in a scratch database, and the few forms that would do more than describe a table.
//!
//! This is a tokenizer, no SQL parser: everything behind the name is ClickHouse's to judge. That nothing was
//! lost on the way into a [`Schema`](crate::model::table::Schema) is proven afterwards by creating the table again
//! from the schema and comparing what the server says of both (see `scratch`).

use super::Error;
use super::versions::Capabilities;
use crate::model::TableName;
use crate::model::names::parse_replica_database;

/// The database of a name without one.
pub const DEFAULT_DATABASE: &str = "default";

/// What a token is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A bare word or number.
    Word,
    /// A name in backticks or double quotes, unescaped.
    Name(String),
    /// A literal in single quotes, unescaped.
    Text(String),
    /// Any other character.
    Mark(char),
}

/// A token, where it stands, and how many brackets are open round it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Token {
    kind: Kind,
    start: usize,
    end: usize,
    depth: usize,
}

/// A refusal of our own; ClickHouse's codes are above 0.
pub(super) fn refused(message: impl Into<String>) -> Error {
    Error::Refused { code: 0, message: message.into() }
}

/// Refuses a database whose name is no replica's: what is not ours is neither made nor dropped.
pub(super) fn check_replica_database(database: &str) -> Result<(), Error> {
    let ours = parse_replica_database(database).is_some();
    let other = || refused(format!("{database} is no replica database; it is left alone"));
    ours.then_some(()).ok_or_else(other)
}

/// Splits SQL into tokens, leaving out blanks and comments.
fn tokens(sql: &str) -> Result<Vec<Token>, Error> {
    let mut found = Vec::new();
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
        } else if rest.starts_with("--") || rest.starts_with("#!") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").ok_or_else(|| refused("a comment /* is never closed"))?;
            at += end + 2;
        } else if matches!(c, '\'' | '"' | '`') {
            let (text, len) = quoted(rest, c)?;
            let kind = if c == '\'' { Kind::Text(text) } else { Kind::Name(text) };
            found.push(Token { kind, start: at, end: at + len, depth });
            at += len;
        } else if c.is_ascii_alphanumeric() || c == '_' {
            let inside = |c: char| c.is_ascii_alphanumeric() || c == '_';
            let len = rest.find(|c| !inside(c)).unwrap_or(rest.len());
            found.push(Token { kind: Kind::Word, start: at, end: at + len, depth });
            at += len;
        } else {
            if matches!(c, ')' | ']') {
                depth = depth.saturating_sub(1);
            }
            found.push(Token { kind: Kind::Mark(c), start: at, end: at + c.len_utf8(), depth });
            if matches!(c, '(' | '[') {
                depth += 1;
            }
            at += c.len_utf8();
        }
    }
    Ok(found)
}

/// The text within quotes at the start of `sql`, and how many bytes it takes with its quotes.
fn quoted(sql: &str, quote: char) -> Result<(String, usize), Error> {
    let mut text = String::new();
    let mut chars = sql.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.next_if(|(_, next)| *next == quote).is_none() {
                return Ok((text, at + 1));
            }
            text.push(quote);
        } else if c == '\\' {
            match chars.next() {
                Some((_, 'n')) => text.push('\n'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, '0')) => text.push('\0'),
                Some((_, other)) => text.push(other),
                None => break,
            }
        } else {
            text.push(c);
        }
    }
    Err(refused(format!("a quote {quote} is never closed")))
}

/// A user's statement, taken apart at the name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserTable {
    /// The name, with [`DEFAULT_DATABASE`] where none is said.
    pub name: TableName,
    /// Everything behind the name: columns, engine, settings.
    pub definition: String,
}

struct Cursor<'a> {
    sql: &'a str,
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// End of the last token taken.
    end: usize,
}

impl<'a> Cursor<'a> {
    fn new(sql: &'a str) -> Result<Self, Error> {
        Ok(Self { sql, tokens: tokens(sql)?.into_iter().peekable(), end: 0 })
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.tokens.next()?;
        self.end = token.end;
        Some(token)
    }

    fn take_word(&mut self, word: &str) -> bool {
        let sql = self.sql;
        let found = self.tokens.next_if(|token| is_word(sql, token, word));
        self.end = found.as_ref().map_or(self.end, |token| token.end);
        found.is_some()
    }

    fn take_mark(&mut self, mark: char) -> bool {
        let found = self.tokens.next_if(|token| token.kind == Kind::Mark(mark));
        self.end = found.as_ref().map_or(self.end, |token| token.end);
        found.is_some()
    }

    fn take_name(&mut self) -> Option<String> {
        let token = self.take()?;
        match token.kind {
            Kind::Word => Some(self.sql[token.start..token.end].to_owned()),
            Kind::Name(name) if !name.is_empty() => Some(name),
            _ => None,
        }
    }
}

fn is_word(sql: &str, token: &Token, word: &str) -> bool {
    token.kind == Kind::Word && sql[token.start..token.end].eq_ignore_ascii_case(word)
}

/// Takes a user's `CREATE TABLE` apart; refuses, with the remedy, what is no plain description of one table.
pub fn user_table(ddl: &str) -> Result<UserTable, Error> {
    let mut cursor = Cursor::new(ddl)?;
    if !cursor.take_word("CREATE") {
        return Err(refused("the statement must begin with CREATE TABLE"));
    }
    for (word, remedy) in [
        ("OR", "CREATE OR REPLACE is not supported: drop the table first, or leave OR REPLACE out"),
        ("TEMPORARY", "a temporary table cannot be distributed: leave TEMPORARY out"),
        ("MATERIALIZED", "a materialized view cannot be distributed: give a CREATE TABLE"),
        ("VIEW", "a view cannot be distributed: give a CREATE TABLE"),
    ] {
        if cursor.take_word(word) {
            return Err(refused(remedy));
        }
    }
    if !cursor.take_word("TABLE") {
        return Err(refused("the statement must begin with CREATE TABLE"));
    }
    if cursor.take_word("IF") && !(cursor.take_word("NOT") && cursor.take_word("EXISTS")) {
        return Err(refused("IF must be followed by NOT EXISTS"));
    }
    let no_name = || refused("no table name follows CREATE TABLE");
    let first = cursor.take_name().ok_or_else(no_name)?;
    let name = if cursor.take_mark('.') {
        TableName { database: first, table: cursor.take_name().ok_or_else(no_name)? }
    } else {
        TableName { database: DEFAULT_DATABASE.to_owned(), table: first }
    };
    let from = cursor.end;
    let mut to = ddl.len();
    while let Some(token) = cursor.take() {
        if token.depth > 0 {
            continue;
        }
        let says = |word: &str| is_word(ddl, &token, word);
        if says("ON") {
            return Err(refused(
                "ON CLUSTER is not needed: Converthouse makes the table on every node; leave it out",
            ));
        } else if says("AS") {
            return Err(refused(
                "CREATE TABLE … AS is not supported: name the columns and the engine, then insert the rows",
            ));
        } else if says("UUID") {
            return Err(refused("a UUID cannot be given: each node's table has its own; leave it out"));
        } else if token.kind == Kind::Mark(';') {
            to = token.start;
            if cursor.tokens.peek().is_some() {
                return Err(refused("one statement at a time: nothing may follow the semicolon"));
            }
        }
    }
    Ok(UserTable { name, definition: ddl[from..to].trim().to_owned() })
}

/// What stands behind the name in the server's own `create_table_query`: two tables of the same definition and
/// different names have the same.
pub fn definition_of(create_table_query: &str) -> Result<String, Error> {
    let mut cursor = Cursor::new(create_table_query)?;
    let mut named = cursor.take_word("CREATE") && cursor.take_word("TABLE") && cursor.take_name().is_some();
    if cursor.take_mark('.') {
        named &= cursor.take_name().is_some();
    }
    if cursor.take_word("UUID") {
        cursor.take();
    }
    if !named {
        return Err(refused(format!("the server describes a table in an unknown way: {create_table_query}")));
    }
    Ok(create_table_query[cursor.end..].trim().to_owned())
}

/// `engine_full` taken apart: `Engine(args) PARTITION BY … TTL … SETTINGS …`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EngineClauses {
    /// `(…)` or empty.
    pub arguments: String,
    /// Top-level arguments, as written.
    pub argument_list: Vec<String>,
    /// There is an `ORDER BY`: the engine is not in the syntax of before 2018.
    pub ordered: bool,
    /// What follows `TTL`.
    pub ttl: String,
    /// What follows `SETTINGS`.
    pub settings: String,
    /// The first argument, if it is a literal: a `Distributed` table's cluster.
    pub first_text: Option<String>,
}

/// Reads `engine_full` as the server wrote it.
pub fn engine_clauses(engine_full: &str) -> Result<EngineClauses, Error> {
    let all = tokens(engine_full)?;
    let mut clauses = EngineClauses::default();
    let top: Vec<&Token> = all.iter().filter(|token| token.depth == 0).collect();
    if let [_, open, close, ..] = top[..]
        && (&open.kind, &close.kind) == (&Kind::Mark('('), &Kind::Mark(')'))
    {
        clauses.arguments = engine_full[open.start..close.end].to_owned();
        let inside = all.iter().filter(|t| t.start >= open.end && t.end <= close.start);
        clauses.first_text = inside.clone().next().and_then(|token| match &token.kind {
            Kind::Text(text) => Some(text.clone()),
            _ => None,
        });
        let mut from = open.end;
        for comma in inside.filter(|t| t.depth == 1 && t.kind == Kind::Mark(',')) {
            clauses.argument_list.push(engine_full[from..comma.start].trim().to_owned());
            from = comma.end;
        }
        let last = engine_full[from..close.start].trim();
        if !last.is_empty() {
            clauses.argument_list.push(last.to_owned());
        }
    }
    let keyword = |word: &str| top.iter().find(|token| is_word(engine_full, token, word));
    let (ttl, settings) = (keyword("TTL"), keyword("SETTINGS"));
    clauses.ordered = keyword("ORDER").is_some();
    if let Some(ttl) = ttl {
        let to = settings.map_or(engine_full.len(), |settings| settings.start);
        clauses.ttl = engine_full[ttl.end..to].trim().to_owned();
    }
    if let Some(settings) = settings {
        clauses.settings = engine_full[settings.end..].trim().to_owned();
    }
    Ok(clauses)
}

/// What follows some words of `engine_full` up to the next clause, such as `["ORDER", "BY"]`.
pub fn clause(engine_full: &str, words: &[&str]) -> Option<String> {
    const CLAUSES: &[&str] = &["PARTITION", "PRIMARY", "ORDER", "SAMPLE", "TTL", "SETTINGS"];
    let all = tokens(engine_full).ok()?;
    let top: Vec<&Token> = all.iter().filter(|token| token.depth == 0).collect();
    let at = |i: usize, word: &str| top.get(i).is_some_and(|token| is_word(engine_full, token, word));
    let found = (0..top.len()).find(|i| words.iter().enumerate().all(|(k, word)| at(i + k, word)))?;
    let from = top[found + words.len() - 1].end;
    let next = (found + words.len()..top.len()).find(|i| CLAUSES.iter().any(|word| at(*i, word)));
    let to = next.map_or(engine_full.len(), |i| top[i].start);
    Some(engine_full[from..to].trim().to_owned())
}

/// The parts of a text's first bracket, cut at its commas, and what follows the bracket.
pub fn bracketed(text: &str) -> Option<(Vec<&str>, &str)> {
    let all = tokens(text).ok()?;
    let open = all.iter().find(|token| token.kind == Kind::Mark('('))?;
    let close = all.iter().find(|token| token.depth == open.depth && token.kind == Kind::Mark(')'))?;
    let commas = all.iter().filter(|token| {
        token.depth == open.depth + 1 && token.kind == Kind::Mark(',') && token.start < close.start
    });
    let mut parts = Vec::new();
    let mut from = open.end;
    for comma in commas {
        parts.push(text[from..comma.start].trim());
        from = comma.end;
    }
    parts.push(text[from..close.start].trim());
    Some((parts, &text[close.end..]))
}

/// A text's first name, unquoted, and what follows it.
pub fn first_name(text: &str) -> Option<(String, &str)> {
    let mut cursor = Cursor::new(text).ok()?;
    let name = cursor.take_name()?;
    Some((name, text[cursor.end..].trim()))
}

/// `(a, b)` without the brackets that span it wholly; anything else as it is.
pub fn without_brackets(expression: &str) -> &str {
    let Ok(all) = tokens(expression) else { return expression };
    let mut top = all.iter().filter(|token| token.depth == 0);
    match (top.next(), top.next(), top.next()) {
        (Some(open), Some(close), None)
            if (&open.kind, &close.kind) == (&Kind::Mark('('), &Kind::Mark(')')) =>
        {
            expression[open.end..close.start].trim()
        }
        _ => expression,
    }
}

/// Whether an engine keeps every row with its offset, so that ingest by log can be exact.
pub fn engine_allowed(engine: &str, capabilities: &Capabilities) -> Result<(), String> {
    if engine == "MergeTree" {
        return Ok(());
    }
    if engine.starts_with("Replicated") || engine.starts_with("Shared") {
        return Err(format!(
            "{engine}: replicas are fed from the topics here, each by itself; use {}",
            engine.trim_start_matches("Replicated").trim_start_matches("Shared")
        ));
    }
    if engine.ends_with("MergeTree") {
        let collapses = format!(
            "{engine} drops or merges rows, and with them the offsets that make ingest exact; use MergeTree"
        );
        return Err(if capabilities.deduplication_token {
            format!("{collapses} (tables of this engine by insert_deduplication_token are not built yet)")
        } else {
            format!("{collapses} (this server has no insert_deduplication_token to do without them)")
        });
    }
    Err(format!("{engine} is not of the MergeTree family; use MergeTree"))
}

#[cfg(test)]
#[path = "ddl_tests.rs"]
mod tests;
