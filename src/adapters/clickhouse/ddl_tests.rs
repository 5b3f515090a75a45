//! What [`user_table`](super::user_table) takes and refuses.

use super::*;

fn name_of(ddl: &str) -> (String, String, String) {
    let user = user_table(ddl).unwrap();
    (user.name.database, user.name.table, user.definition)
}

fn refusal(ddl: &str) -> String {
    match user_table(ddl) {
        Err(Error::Refused { code: 0, message }) => message,
        other => panic!("{ddl}: {other:?}"),
    }
}

#[test]
fn the_name_is_found_however_it_is_written() {
    let three = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
    assert_eq!(name_of("CREATE TABLE t (a Int8)"), three("default", "t", "(a Int8)"));
    assert_eq!(name_of("create table if not exists d.t(a Int8);"), three("d", "t", "(a Int8)"));
    assert_eq!(
        name_of("/* x */ CREATE -- y ' `\nTABLE `a.b` . \"c\"\"d\" (a Int8)\n ; -- end"),
        three("a.b", "c\"d", "(a Int8)")
    );
    assert_eq!(name_of("CREATE TABLE `q``\\`\\\\e`.`日本` (a Int8)"), three("q``\\e", "日本", "(a Int8)"));
    assert_eq!(name_of("CREATE TABLE `select`.`table` (a Int8)"), three("select", "table", "(a Int8)"));
}

#[test]
fn what_is_no_plain_table_is_refused_with_its_remedy() {
    for (ddl, word) in [
        ("CREATE TABLE t ON CLUSTER c (a Int8) ENGINE = MergeTree", "ON CLUSTER"),
        ("CREATE TABLE t ENGINE = MergeTree ORDER BY a AS SELECT 1 AS a", "AS is not"),
        ("CREATE TABLE t AS u", "AS is not"),
        ("CREATE VIEW v AS SELECT 1", "view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT 1", "materialized view"),
        ("CREATE TEMPORARY TABLE t (a Int8)", "TEMPORARY"),
        ("CREATE OR REPLACE TABLE t (a Int8)", "OR REPLACE"),
        ("ATTACH TABLE t (a Int8)", "CREATE TABLE"),
        ("CREATE TABLE t (a Int8); DROP TABLE u", "one statement"),
        ("CREATE TABLE t UUID '1' (a Int8)", "UUID"),
        ("CREATE TABLE", "no table name"),
        ("CREATE TABLE (a Int8)", "no table name"),
        ("CREATE TABLE `t (a Int8)", "never closed"),
        ("CREATE TABLE t /* (a Int8)", "never closed"),
        ("CREATE DATABASE d", "CREATE TABLE"),
        ("", "CREATE TABLE"),
    ] {
        let message = refusal(ddl);
        assert!(message.contains(word), "{ddl}: {message}");
    }
}

#[test]
fn words_within_brackets_and_quotes_are_the_servers_business() {
    let ddl = "CREATE TABLE t (`as` Int8, on Int8 DEFAULT CAST(1 AS Int8), c String DEFAULT ';AS') ENGINE = MergeTree";
    assert!(user_table(ddl).is_ok());
}

#[test]
fn engine_clauses_are_cut_where_the_server_put_them() {
    let full = "MergeTree PARTITION BY tuple() ORDER BY (a, d) TTL d + toIntervalDay(1) SETTINGS k = 'SETTINGS', x = 1";
    let clauses = engine_clauses(full).unwrap();
    assert_eq!((clauses.arguments.as_str(), clauses.ordered), ("", true));
    assert_eq!(clauses.ttl, "d + toIntervalDay(1)");
    assert_eq!(clauses.settings, "k = 'SETTINGS', x = 1");
    let old = engine_clauses("MergeTree(d, a, (a, d), 8192)").unwrap();
    assert_eq!((old.argument_list.join("|"), old.ordered), ("d|a|(a, d)|8192".to_owned(), false));
    let remote = engine_clauses("Distributed('cvh_x', '', 'local', cityHash64(v))").unwrap();
    assert_eq!(remote.first_text.as_deref(), Some("cvh_x"));
}

#[test]
fn only_brackets_that_span_the_whole_are_taken_off() {
    assert_eq!(without_brackets("(a, f(b))"), "a, f(b)");
    assert_eq!(without_brackets("(a) + (b)"), "(a) + (b)");
    assert_eq!(without_brackets("toYYYYMM(ts)"), "toYYYYMM(ts)");
}

#[test]
fn definitions_are_compared_without_the_name() {
    let one = definition_of("CREATE TABLE `a.b`.local ( x Int8) ENGINE = Null").unwrap();
    let two = definition_of("CREATE TABLE c.`d``e` UUID 'abc' ( x Int8) ENGINE = Null").unwrap();
    assert_eq!(one, two);
}

#[test]
fn engines_that_lose_rows_are_refused_with_the_reason() {
    let old = Capabilities::of("18.16.1");
    assert_eq!(engine_allowed("MergeTree", &old), Ok(()));
    for engine in [
        "ReplacingMergeTree",
        "SummingMergeTree",
        "AggregatingMergeTree",
        "CollapsingMergeTree",
        "VersionedCollapsingMergeTree",
        "GraphiteMergeTree",
    ] {
        assert!(engine_allowed(engine, &old).unwrap_err().contains("offsets"), "{engine}");
        assert!(engine_allowed(engine, &Capabilities::of("26.9.1.1")).is_err(), "{engine}");
    }
    assert!(engine_allowed("ReplicatedMergeTree", &old).unwrap_err().contains("use MergeTree"));
    assert!(engine_allowed("Memory", &old).unwrap_err().contains("MergeTree family"));
}
