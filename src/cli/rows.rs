//! Where a stream of rows may be cut: after a row, never inside one. Pure.

use crate::model::table::MessageFormat;

/// Follows a stream of rows, chunk by chunk, and knows after which byte a row last ended.
#[derive(Debug)]
pub(super) struct Cutter {
    format: MessageFormat,
    quoted: bool,
    escaped: bool,
    depth: u32,
    seen: usize,
    boundary: usize,
}

impl Cutter {
    pub(super) fn new(format: MessageFormat) -> Self {
        Self { format, quoted: false, escaped: false, depth: 0, seen: 0, boundary: 0 }
    }

    /// Takes the next bytes of the stream.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.seen += 1;
            let ended = match self.format {
                MessageFormat::JSONEachRow => self.json(*byte),
                MessageFormat::CSV => self.csv(*byte),
                // A line end inside a value is written `\n` in this format.
                MessageFormat::TSV => *byte == b'\n',
            };
            if ended {
                self.boundary = self.seen;
            }
        }
    }

    fn json(&mut self, byte: u8) -> bool {
        if self.quoted {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.quoted = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.quoted = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0 && (byte == b'}' || byte == b'\n')
    }

    fn csv(&mut self, byte: u8) -> bool {
        // A doubled quote turns this off and on again: right at every line end.
        self.quoted ^= byte == b'"';
        byte == b'\n' && !self.quoted
    }

    /// How many of the bytes fed since the last call are whole rows; what follows starts anew at 0.
    pub(super) fn cut(&mut self) -> usize {
        let boundary = self.boundary;
        self.seen -= boundary;
        self.boundary = 0;
        boundary
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds byte by byte, cutting wherever it can, and shows the pieces.
    fn pieces(format: MessageFormat, text: &str) -> Vec<String> {
        let (mut cutter, mut pieces, mut from) = (Cutter::new(format), Vec::new(), 0);
        for at in 0..text.len() {
            cutter.feed(&text.as_bytes()[at..=at]);
            let whole = cutter.cut();
            if whole > 0 {
                pieces.push(text[from..from + whole].to_owned());
                from += whole;
            }
        }
        pieces.push(text[from..].to_owned());
        pieces
    }

    #[test]
    fn json_rows_may_span_lines_and_hold_braces_in_texts() {
        let text = "{\"a\":\n [1,\n 2]}\n{\"b\":\"}\\\"\n{\"}{\"c\":1";
        let expected = ["{\"a\":\n [1,\n 2]}", "\n", "{\"b\":\"}\\\"\n{\"}", "{\"c\":1"];
        assert_eq!(pieces(MessageFormat::JSONEachRow, text), expected);
    }

    #[test]
    fn csv_texts_may_hold_line_ends_and_quotes() {
        let text = "1,\"a\n\"\"b\"\n2,c\n3,";
        assert_eq!(pieces(MessageFormat::CSV, text), ["1,\"a\n\"\"b\"\n", "2,c\n", "3,"]);
    }

    #[test]
    fn tsv_rows_are_lines() {
        assert_eq!(pieces(MessageFormat::TSV, "1\ta\n2\t\"b\n"), ["1\ta\n", "2\t\"b\n", ""]);
    }
}
