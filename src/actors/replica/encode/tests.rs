//! What comes out is what went in, with three columns in front; what could reach beyond its message is refused.

use super::{Unreadable, columns, encode};
use crate::model::ids::PartitionId;
use crate::model::names::{OFFSET_COLUMN, PARTITION_COLUMN, ROW_COLUMN};
use crate::model::table::MessageFormat::{self, CSV, JSONEachRow, TSV};
use crate::model::table::{Column, Schema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn run(format: MessageFormat, payload: &[u8]) -> Result<(u32, String), Unreadable> {
    let mut out = b"before".to_vec();
    let rows = encode(format, payload, PartitionId(7), 42, &|_| false, &mut out);
    if rows.is_err() {
        assert_eq!(out, b"before", "an error leaves the buffer alone");
    }
    rows.map(|rows| (rows, String::from_utf8_lossy(&out[6..]).into_owned()))
}

fn text(format: MessageFormat, payload: &str) -> String {
    let (rows, text) = run(format, payload.as_bytes()).expect("readable");
    assert!(rows as usize <= text.matches('\n').count());
    text
}

#[test]
fn json_objects_get_the_hidden_fields_whatever_stands_between_them() {
    let h = |row: u32, rest: &str| {
        let row = if row == 0 { String::new() } else { format!(",\"{ROW_COLUMN}\":{row}") };
        format!("{{\"{PARTITION_COLUMN}\":7,\"{OFFSET_COLUMN}\":42{row}{rest}\n")
    };
    let two = h(0, ",\"a\":1}") + &h(1, ",\"b\":{}}");
    for payload in [
        "{\"a\":1}{\"b\":{}}",
        "{\"a\":1}\n{\"b\":{}}\n",
        " { \"a\":1}\r\n\t{\"b\":{}} ",
        "[{\"a\":1},{\"b\":{}}]",
        "\n[ {\"a\":1} ,\n{\"b\":{}} ] \n",
        "{\"a\":1},{\"b\":{}}",
    ] {
        assert_eq!(text(JSONEachRow, payload), two, "{payload}");
    }
    assert_eq!(text(JSONEachRow, "{ }"), h(0, "}"), "an empty object has no comma");
    let numbered = |rest: &str| h(0, "").replace('\n', &format!(",\"{ROW_COLUMN}\":0{rest}\n"));
    assert_eq!(text(JSONEachRow, r#"{"a":"\\\"}{[","b":[{}]}"#), numbered(r#","a":"\\\"}{[","b":[{}]}"#));
    assert_eq!(text(JSONEachRow, "{\"a\":\n1}"), h(0, ",\"a\":\n1}"));
    let long = format!("{{\"a\":\"{}\\\"{}\"}}", "x".repeat(50), "}".repeat(50));
    assert_eq!(text(JSONEachRow, &long), numbered(&format!(",{}", &long[1..])));
    for own in [r#"{"_cvh_row":5}"#, r#"{"_CVH_ROW":5}"#, r#"{"\u005fcvh_row":5}"#, r#"{"a__cvh_row":5}"#] {
        assert_eq!(
            text(JSONEachRow, own),
            numbered(&format!(",{}", &own[1..])),
            "two are refused, one is believed"
        );
    }
    assert_eq!(text(JSONEachRow, r#"{"a_b":"_cv"}"#), h(0, r#","a_b":"_cv"}"#));
}

#[test]
fn messages_without_rows_write_nothing() {
    for format in [JSONEachRow, CSV, TSV] {
        assert_eq!(text(format, ""), "");
    }
    assert_eq!(text(JSONEachRow, " \n"), "");
    assert_eq!(text(JSONEachRow, " [ ] "), "");
}

#[test]
fn json_that_could_reach_beyond_its_message_is_refused() {
    use Unreadable::*;
    let deep = format!("{}1{}", "{\"a\":".repeat(129), "}".repeat(129));
    for (payload, reason) in [
        ("1", NotAnObject { at: 0 }),
        ("null", NotAnObject { at: 0 }),
        ("{\"a\":1} x", NotAnObject { at: 8 }),
        ("{\"a\":1},", NotAnObject { at: 8 }),
        ("[{},]", NotAnObject { at: 4 }),
        ("[1]", NotAnObject { at: 1 }),
        ("[{}", NotAnObject { at: 3 }),
        ("[", NotAnObject { at: 1 }),
        ("[{}]{}", NotAnObject { at: 4 }),
        ("[{} {}]", NotAnObject { at: 4 }),
        ("{}]", NotAnObject { at: 2 }),
        ("\u{feff}{}", NotAnObject { at: 0 }),
        ("{", Truncated { at: 0 }),
        ("{}\n{\"a\":\"}", Truncated { at: 3 }),
        ("{\"a\":\"\\", Truncated { at: 0 }),
        ("{\"a\":\"\\\"", Truncated { at: 0 }),
        ("{\"a\":[}", Unbalanced { at: 6 }),
        ("{\"a\":1]}", Unbalanced { at: 6 }),
        (&deep, TooDeep { at: 640 }),
    ] {
        assert_eq!(run(JSONEachRow, payload.as_bytes()), Err(reason), "{payload}");
    }
    let fits = format!("{}1{}", "{\"a\":".repeat(128), "}".repeat(128));
    assert!(run(JSONEachRow, fits.as_bytes()).is_ok());
}

#[test]
fn csv_rows_end_at_newlines_outside_quotes() {
    assert_eq!(text(CSV, "1,a\n2,b\n"), "7,42,0,1,a\n7,42,1,2,b\n");
    assert_eq!(text(CSV, "1,a\r\n2,b"), "7,42,0,1,a\n7,42,1,2,b\n");
    assert_eq!(text(CSV, "1,\"a\nb\"\n2,'c\n\"'\r\n"), "7,42,0,1,\"a\nb\"\n7,42,1,2,'c\n\"'\n");
    assert_eq!(text(CSV, "\"a\"\"\n\" , 'b'''\n3"), "7,42,0,\"a\"\"\n\" , 'b'''\n7,42,1,3\n");
    assert_eq!(text(CSV, "it's,5\" x\n2,b"), "7,42,0,it's,5\" x\n7,42,1,2,b\n", "quotes inside a value");
    assert_eq!(text(CSV, "a\n\nb"), "7,42,0,a\n7,42,1,\n7,42,2,b\n", "an empty row is the server's to judge");
}

#[test]
fn csv_with_an_open_quote_is_refused() {
    for (payload, reason) in [
        ("\"", Unreadable::OpenQuote { at: 0 }),
        ("1,2\n3, 'x\n", Unreadable::OpenQuote { at: 7 }),
        ("\"a\"\"", Unreadable::OpenQuote { at: 0 }),
        ("\"a\"b\"\n\"", Unreadable::TextAfterQuote { at: 3 }),
        ("\"a\"\rb", Unreadable::TextAfterQuote { at: 3 }),
    ] {
        assert_eq!(run(CSV, payload.as_bytes()), Err(reason), "{payload}");
    }
}

#[test]
fn tsv_rows_end_at_newlines_that_no_backslash_escapes() {
    assert_eq!(text(TSV, "1\ta\n2\tb\n"), "7\t42\t0\t1\ta\n7\t42\t1\t2\tb\n");
    assert_eq!(text(TSV, "1\ta\r\n2\tb\r\n"), "7\t42\t0\t1\ta\n7\t42\t1\t2\tb\n");
    assert_eq!(text(TSV, "a\\\nb\nc\\\\\nd"), "7\t42\t0\ta\\\nb\n7\t42\t1\tc\\\\\n7\t42\t2\td\n");
    assert_eq!(text(TSV, "a\\\n"), "7\t42\t0\ta\\\n\n", "the escaped newline is text, ours ends the row");
    assert_eq!(text(TSV, "a\\\r\nb"), "7\t42\t0\ta\\\r\n7\t42\t1\tb\n", "an escaped return is text");
    for bad in ["\\", "a\tb\\", "x\ny\\\\\\"] {
        let at = bad.len() - 1;
        assert_eq!(run(TSV, bad.as_bytes()), Err(Unreadable::DanglingBackslash { at }), "{bad}");
    }
}

#[test]
fn rows_that_are_there_already_are_left_out_and_the_others_keep_their_numbers() {
    for (format, payload, expected) in
        [(CSV, "a\nb\nc", "7,42,0,a\n7,42,2,c\n"), (TSV, "a\nb\nc", "7\t42\t0\ta\n7\t42\t2\tc\n")]
    {
        let mut out = Vec::new();
        let rows = encode(format, payload.as_bytes(), PartitionId(7), 42, &|row| row == 1, &mut out);
        assert_eq!((rows, String::from_utf8(out).unwrap()), (Ok(2), expected.to_owned()));
    }
}

#[test]
fn an_insert_names_hidden_columns_first_and_no_computed_ones() {
    let column = |name: &str, kind: &str| Column {
        name: name.into(),
        data_type: "UInt8".into(),
        default_kind: kind.into(),
        default_expression: String::new(),
        codec: String::new(),
    };
    let schema = Schema {
        columns: vec![
            column("a", ""),
            column("m", "MATERIALIZED"),
            column("d", "DEFAULT"),
            column("l", "ALIAS"),
        ],
        engine: "MergeTree".into(),
        engine_arguments: String::new(),
        partition_key: String::new(),
        sorting_key: "a".into(),
        primary_key: String::new(),
        sampling_key: String::new(),
        ttl: String::new(),
        settings: String::new(),
    };
    assert_eq!(columns(&schema), [PARTITION_COLUMN, OFFSET_COLUMN, ROW_COLUMN, "a", "d"]);
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        "[\\\\\"{}\\[\\]\n]{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn object() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("[a-z\"\\\\{}]{0,6}", value(), 0..5).prop_map(|map| map.into_iter().collect())
}

proptest! {
    #[test]
    fn json_comes_out_as_it_went_in(
        objects in prop::collection::vec(object(), 0..5),
        pretty: bool,
        array: bool,
        between in "[ \n\r\t]{0,2}",
        partition: u32,
        offset in 0..i64::MAX,
    ) {
        let written: Vec<String> = objects
            .iter()
            .map(|o| if pretty { serde_json::to_string_pretty(o) } else { serde_json::to_string(o) }.unwrap())
            .collect();
        let comma = format!("{between},");
        let separator = if array { &comma } else { &between };
        let mut payload = written.join(separator.as_str());
        if array {
            payload = format!("{between}[{payload}{between}]{between}");
        }
        let mut out = Vec::new();
        let rows = encode(
            JSONEachRow, payload.as_bytes(), PartitionId(partition), offset, &|row| row % 3 == 1, &mut out,
        ).unwrap();
        let read: Vec<Value> = serde_json::Deserializer::from_slice(&out)
            .into_iter()
            .collect::<Result<_, _>>()
            .unwrap();
        let mut expected = Vec::new();
        for (row, object) in objects.into_iter().enumerate().filter(|(row, _)| row % 3 != 1) {
            let mut object = object;
            object.insert(PARTITION_COLUMN.into(), json!(partition));
            object.insert(OFFSET_COLUMN.into(), json!(offset));
            if row > 0 || payload.contains('\\') {
                object.insert(ROW_COLUMN.into(), json!(row));
            }
            expected.push(Value::Object(object));
        }
        prop_assert_eq!(rows as usize, expected.len());
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_bytes_make_it_panic_and_errors_leave_nothing(
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..80),
            "[\\[\\]{},:\"'\\\\a\n\r\t ]{0,40}".prop_map(String::into_bytes),
        ],
    ) {
        for format in [JSONEachRow, CSV, TSV] {
            if let Ok((rows, out)) = run(format, &payload) {
                let marker = if format == JSONEachRow { "_cvh_offset" } else { "42" };
                prop_assert!(out.matches(marker).count() >= rows as usize);
                prop_assert!(rows == 0 || out.ends_with('\n'));
            }
        }
    }

    /// What a plain reader of the format cuts out of the rows is what the message held.
    #[test]
    fn csv_rows_survive_quoting(values in prop::collection::vec("[ab,\"'\n\r ]{0,8}", 1..12), single: bool) {
        let quote = if single { '\'' } else { '"' };
        let doubled = format!("{quote}{quote}");
        let rows: Vec<String> =
            values.iter().map(|v| format!("1,{quote}{}{quote},x", v.replace(quote, &doubled))).collect();
        let (count, out) = run(CSV, rows.join("\n").as_bytes()).unwrap();
        let expected: String =
            rows.iter().enumerate().map(|(n, row)| format!("7,42,{n},{row}\n")).collect();
        prop_assert_eq!(count as usize, rows.len());
        prop_assert_eq!(out, expected);
    }
}
