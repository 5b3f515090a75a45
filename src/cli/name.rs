//! Table names as they are typed: `db.table`, odd parts in backticks as in ClickHouse.

use crate::model::TableName;
use std::iter::Peekable;
use std::str::Chars;

const REMEDY: &str = "write db.table, with backticks round a part that is odd: `my.db`.`my table`";

/// Reads `db.table`. In backticks (or double quotes) everything may stand; the quote itself doubled or after `\`.
pub fn parse(text: &str) -> Result<TableName, String> {
    let mut chars = text.chars().peekable();
    let database = part(&mut chars, text)?;
    match chars.next() {
        Some('.') => {}
        None => return Err(format!("{text:?} has no database; {REMEDY}")),
        Some(other) => return Err(format!("{text:?}: {other:?} after the quoted database; {REMEDY}")),
    }
    let table = part(&mut chars, text)?;
    match chars.next() {
        None => Ok(TableName { database, table }),
        Some('.') => Err(format!("{text:?} has more than two parts; {REMEDY}")),
        Some(other) => Err(format!("{text:?}: {other:?} after the quoted table; {REMEDY}")),
    }
}

fn part(chars: &mut Peekable<Chars<'_>>, text: &str) -> Result<String, String> {
    let mut part = String::new();
    if let Some(quote) = chars.next_if(|c| *c == '`' || *c == '"') {
        loop {
            match chars.next() {
                None => return Err(format!("{text:?}: the {quote} is not closed; {REMEDY}")),
                Some('\\') => part.extend(chars.next()),
                Some(c) if c == quote && chars.next_if_eq(&quote).is_none() => break,
                Some(c) => part.push(c),
            }
        }
    } else {
        while let Some(c) = chars.next_if(|c| *c != '.') {
            if c == '`' || c == '"' || c.is_whitespace() || c.is_control() {
                return Err(format!("{text:?}: {c:?} needs quotes round its part; {REMEDY}"));
            }
            part.push(c);
        }
    }
    if part.is_empty() {
        return Err(format!("{text:?} has an empty part; {REMEDY}"));
    }
    Ok(part)
}

/// The name as it can be typed back.
pub fn quote(name: &TableName) -> String {
    let part = |text: &str| {
        let plain = |c: char| c == '_' || c == '-' || c.is_alphanumeric();
        if !text.is_empty() && text.chars().all(plain) {
            return text.to_owned();
        }
        format!("`{}`", text.replace('\\', "\\\\").replace('`', "``"))
    };
    format!("{}.{}", part(&name.database), part(&name.table))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, database: &str, table: &str) {
        let name = TableName { database: database.into(), table: table.into() };
        assert_eq!(parse(text), Ok(name), "{text}");
    }

    #[test]
    fn names_are_read_as_clickhouse_writes_them() {
        check("shop.events", "shop", "events");
        check("`a.b`.`c d`", "a.b", "c d");
        check("`a``b`.\"c\"\"d\"", "a`b", "c\"d");
        check(r"`a\`b\\`.x", r"a`b\", "x");
        check("データ.événements", "データ", "événements");
        check("select.from", "select", "from");
    }

    #[test]
    fn bad_names_say_what_is_wrong() {
        for bad in ["", "events", "a.b.c", ".t", "d.", "`a.b", "`a`b.c", "a b.c", "``.x", "a.`b`c", "a.b\n"] {
            let error = parse(bad).unwrap_err();
            assert!(error.contains("write db.table"), "{bad:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn every_name_can_be_typed_back(database in "\\PC{1,12}", table in ".{1,12}") {
            let name = TableName { database, table };
            prop_assert_eq!(parse(&quote(&name)), Ok(name));
        }
    }
}
