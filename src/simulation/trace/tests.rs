//! Traces that are written and read back, and each kind of trace that is refused.

use super::*;

const HEADER: &str = r#"{"header":{"version":1,"cluster":"c","start_unix_ms":0,"origin":"generated"}}"#;
const NODE: &str = r#"{"node":{"id":"n1"}}"#;
const TABLE: &str = concat!(
    r#"{"table":{"id":"00000000-0000-0000-0000-000000000001","database":"d","table":"t","#,
    r#""partitions":4,"replicas":1}}"#
);
const SHARD: &str = concat!(
    r#"{"shard":{"table":"00000000-0000-0000-0000-000000000001","shard":0,"lo":0,"hi":4,"#,
    r#""nodes":["n1"],"leader":"n1","bytes":10,"bytes_per_s":2}}"#
);

fn of(lines: &[&str]) -> Result<Summary, Error> {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    read_lines("t.ndjson", text.as_bytes())
}

#[test]
fn shards_grow_until_the_last_event() {
    let event = r#"{"event":{"at_ms":5000,"event":"node-died","node":"n1"}}"#;
    let summary = of(&[HEADER, NODE, TABLE, SHARD, event]).unwrap();
    assert_eq!(summary.world.stored_bytes(), 20);
    assert_eq!(summary.events, BTreeMap::from([("node-died", 1)]));
}

#[test]
fn what_is_wrong_is_told_with_file_line_and_reason() {
    let event =
        |at: u32, node: &str| format!(r#"{{"event":{{"at_ms":{at},"event":"node-died","node":"{node}"}}}}"#);
    let (five, four, strange) = (event(5, "n1"), event(4, "n1"), event(5, "n9"));
    let newer = HEADER.replace("\"version\":1", "\"version\":0");
    let (minus, far) = (SHARD.replace(":10,", ":-10,"), SHARD.replace("\"hi\":4", "\"hi\":5"));
    let (short, colour) = (SHARD.replace("\"hi\":4", "\"hi\":3"), NODE.replace("\"n1\"", "\"n1\",\"x\":1"));
    let led = SHARD.replace("\"leader\":\"n1\"", "\"leader\":\"n2\"");
    let (huge, twice) =
        (SHARD.replace(":10,", ":18446744073709551615,"), SHARD.replace("[\"n1\"]", "[\"n1\",\"n1\"]"));
    let disk = NODE.replace("\"n1\"", "\"n1\",\"capacity_bytes\":1152921504606846977");
    let (none, late) = (
        TABLE.replace("\"partitions\":4", "\"partitions\":0"),
        event(5, "n1").replace(":5,", ":3162240000001,"),
    );
    let wrong: [(&[&str], &str); 22] = [
        (&[], "t.ndjson:1: it is empty"),
        (&[NODE], "t.ndjson:1: the first line is not a header"),
        (&[&newer], "t.ndjson:1: version 0"),
        (&[HEADER, "{\"node\":"], "t.ndjson:2: it is no JSON"),
        (&[HEADER, &colour], "t.ndjson:2: unknown field `x`"),
        (&[HEADER, NODE, NODE], "t.ndjson:3: node n1 is there twice"),
        (&[HEADER, HEADER], "t.ndjson:2: a second header"),
        (&[HEADER, &disk], "t.ndjson:2: node n1 has 1152921504606846977 bytes: 2^60 at most"),
        (&[HEADER, NODE, &none], "t.ndjson:3: table d.t has no partitions"),
        (&[HEADER, NODE, TABLE, TABLE], "t.ndjson:4: table 00000000000000000000000000000001 is there twice"),
        (&[HEADER, NODE, TABLE, SHARD, SHARD], "t.ndjson:5: shard s0 of the table is there twice"),
        (&[HEADER, NODE, TABLE, &huge], "t.ndjson:4: shard s0 has 18446744073709551615 bytes: 2^60 at most"),
        (&[HEADER, NODE, TABLE, &twice], "t.ndjson:4: shard s0 has two copies on one node"),
        (&[HEADER, NODE, TABLE, SHARD, &five, NODE], "t.ndjson:6: the snapshot goes on after an event"),
        (&[HEADER, NODE, TABLE, SHARD, &late], "t.ndjson:5: it is 3162240000001 ms after the start"),
        (&[HEADER, NODE, TABLE, &minus], "t.ndjson:4: invalid value: integer `-10`"),
        (&[HEADER, NODE, TABLE, &far], "t.ndjson:4: shard s0 holds [0, 5)"),
        (&[HEADER, NODE, TABLE, &led], "t.ndjson:4: shard s0 is led by n2"),
        (&[HEADER, NODE, TABLE, &short, &five], "t.ndjson:5: the shards of d.t do not cover"),
        (&[HEADER, NODE, TABLE], "t.ndjson:4: the shards of d.t do not cover"),
        (&[HEADER, NODE, &five, &four], "t.ndjson:4: it is earlier (4 ms)"),
        (&[HEADER, NODE, &strange], "t.ndjson:3: there is no node n9 then"),
    ];
    for (lines, expected) in wrong {
        let error = of(lines).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{expected:?} is not in {error}");
        assert_eq!(error.code(), Code(1102));
    }
    let cut = read_lines("t.ndjson", &HEADER.as_bytes()[..20]).unwrap_err().to_string();
    assert!(cut.starts_with("t.ndjson:1: it has no end"), "{cut}");
}

#[test]
fn a_generated_week_is_the_same_each_time_and_is_read_back_as_it_was_written() {
    let wanted = generate::Wanted { nodes: 7, days: 2, seed: 3 };
    let lines = generate::lines(wanted);
    assert_eq!(lines, generate::lines(wanted));
    assert_ne!(lines, generate::lines(generate::Wanted { seed: 4, ..wanted }));
    let mut world = World::default();
    lines.iter().for_each(|line| world.take(line.clone()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    for name in ["t.ndjson", "t.ndjson.zst"] {
        let path = folder.path().join(name);
        write(&path, &lines).unwrap();
        assert_eq!(read(&path).unwrap().world, world);
    }
    let path = folder.path().join("t.ndjson.zst");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(read(&path), Err(Error::Malformed { .. })));
}

#[test]
fn the_trace_that_ships_can_be_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations/traces/week.ndjson.zst");
    assert!(std::fs::metadata(&path).unwrap().len() < 200_000);
    let summary = read(&path).unwrap();
    assert!(summary.world.nodes.len() >= 100, "{} nodes", summary.world.nodes.len());
    assert!(summary.events["node-died"] > 0 && summary.events["ingest"] > 0);
}
