//! Reads `TabSeparated` answers. All our reads are few and small except offsets, which come as `RowBinary`.

/// Rows of unescaped fields. Bytes that are no UTF-8 are replaced: names that hold such are not ours.
pub fn rows(body: &[u8]) -> Vec<Vec<String>> {
    let text = String::from_utf8_lossy(body);
    let lines = text.strip_suffix('\n').unwrap_or(&text);
    if text.is_empty() {
        return Vec::new();
    }
    lines.split('\n').map(|line| line.split('\t').map(unescape).collect()).collect()
}

fn unescape(field: &str) -> String {
    if !field.contains('\\') {
        return field.to_owned();
    }
    let mut out = String::with_capacity(field.len());
    let mut chars = field.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('0') => out.push('\0'),
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_unescaped_and_empty_ones_kept() {
        let body = b"a\\tb\t\t\\'q\\'\\\\\nsecond\t\\n\t1\n";
        assert_eq!(rows(body), [vec!["a\tb", "", "'q'\\"], vec!["second", "\n", "1"]]);
        assert!(rows(b"").is_empty());
        assert_eq!(rows(b"\n"), [vec![""]], "one row with one empty field");
    }
}
