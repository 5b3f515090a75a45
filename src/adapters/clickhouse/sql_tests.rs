//! Every statement's text, for the oldest server and, where it differs, for the newest.

use super::*;
use crate::model::PartitionId;
use crate::model::node::Secret;
use expect_test::{Expect, expect};
use proptest::prelude::*;

fn column(name: &str, data_type: &str, default: (&str, &str), codec: &str) -> Column {
    let [name, data_type, kind, expression, codec] =
        [name, data_type, default.0, default.1, codec].map(str::to_owned);
    Column { name, data_type, default_kind: kind, default_expression: expression, codec }
}

fn schema() -> Schema {
    Schema {
        columns: vec![
            column("ts", "DateTime", ("", ""), "COMMENT 'when'"),
            column("o`d\\d", "String", ("DEFAULT", "'x'"), ""),
            column("up", "String", ("MATERIALIZED", "upper(`o\\`d\\\\d`)"), ""),
            column("al", "UInt64", ("ALIAS", "1 + 1"), ""),
        ],
        engine: "MergeTree".into(),
        engine_arguments: String::new(),
        partition_key: "(toYYYYMM(ts), up)".into(),
        sorting_key: "ts, up".into(),
        primary_key: "ts".into(),
        sampling_key: "intHash32(ts)".into(),
        ttl: "ts + toIntervalDay(1)".into(),
        settings: "index_granularity = 8192".into(),
    }
}

/// Both texts, the second only where it is another.
fn both(statement: &Statement<'_>) -> String {
    let old = render(statement, &Capabilities::of("18.16.1"));
    let new = render(statement, &Capabilities::of("26.9.1.1"));
    if old == new { old } else { format!("18.16: {old}\n26.9:  {new}") }
}

/// Breaks long lines at blanks, so that the texts can be read here.
fn wrap(text: &str) -> String {
    let mut out = String::new();
    let mut width = 0;
    for word in text.split_inclusive(' ') {
        if width + word.trim_end().len() > 90 && width > 0 {
            out.push_str("\n      ");
            width = 6;
        }
        out.push_str(word);
        width = word.rfind('\n').map_or(width + word.len(), |newline| word.len() - newline);
    }
    out.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[expect(clippy::needless_pass_by_value, reason = "expect! makes values")]
fn check(statements: &[Statement<'_>], expected: Expect) {
    let texts: Vec<String> = statements.iter().map(|statement| wrap(&both(statement))).collect();
    expected.assert_eq(&texts.join("\n"));
}

fn table(database: &str, table: &str) -> TableName {
    TableName { database: database.into(), table: table.into() }
}

/// What helps where a failed `CREATE` or `RENAME` of 18.16.1 has left a file in the way.
#[test]
fn databases_that_are_loaded_anew() {
    let (probe, local) = (table("d`b", "probe"), table("d`b", "local"));
    check(
        &[
            Statement::DetachDatabase("d`b"),
            Statement::AttachDatabase("d`b"),
            Statement::CreateProbe(&probe),
            Statement::AttachTable { name: &local, definition: "(a UInt8) ENGINE = Memory" },
        ],
        expect![[r#"
            DETACH DATABASE IF EXISTS `d\`b`
            18.16: ATTACH DATABASE IF NOT EXISTS `d\`b` ENGINE = Ordinary
            26.9:  ATTACH DATABASE IF NOT EXISTS `d\`b`
            CREATE VIEW `d\`b`.`probe` AS SELECT 1
            ATTACH TABLE `d\`b`.`local` (a UInt8) ENGINE = Memory"#]],
    );
}

#[test]
fn questions_about_system_tables() {
    use crate::adapters::clickhouse::survey::Question;
    let all =
        [Question::Host, Question::Clusters, Question::Sizes, Question::HasPartLog, Question::Written(24)];
    check(
        &all.map(Statement::Survey),
        expect![[r#"
            SELECT hostName(), toUInt32(now())
            SELECT cluster, shard_num, replica_num, host_name, port, is_local FROM system.clusters
                  ORDER BY cluster, shard_num, replica_num
            SELECT database, table, sum(bytes_on_disk) FROM system.parts WHERE active AND
                  lower(database) NOT IN ('system', 'information_schema') GROUP BY database, table
                  ORDER BY database, table
            SELECT count() FROM system.tables WHERE database = 'system' AND name = 'part_log'
            SELECT database, table, toUInt32(toStartOfHour(event_time)) AS hour, sum(size_in_bytes)
                  FROM system.part_log WHERE toString(event_type) IN ('NewPart', 'NEW_PART') AND
                  event_time >= now() - 86400 GROUP BY database, table, hour ORDER BY hour, database,
                  table"#]],
    );
}

#[test]
fn replicas() {
    let schema = schema();
    let local = table("d__t__cvh0_s1", "local");
    let mut plain = schema.clone();
    plain.partition_key = "tuple()".into();
    plain.sorting_key.clear();
    plain.primary_key.clear();
    check(
        &[
            Statement::CreateDatabase("d.b`'"),
            Statement::DropDatabase("d.b`'"),
            Statement::CreateLocal { name: &local, schema: &schema },
            Statement::CreateLocal { name: &local, schema: &plain },
            Statement::CreateGateSource { database: "d", schema: &schema },
            Statement::CreateGate { database: "d", schema: &schema, number: 7 },
            Statement::CreateClosedGate { database: "d", number: 8 },
            Statement::DropTable(&local),
            Statement::KillQueries("cvh-1-"),
            Statement::RunningQueries("cvh-1-"),
        ],
        expect![[r#"
            CREATE DATABASE IF NOT EXISTS `d.b\`'`
            18.16: DROP DATABASE IF EXISTS `d.b\`'`
            26.9:  DROP DATABASE IF EXISTS `d.b\`'` SYNC
            18.16: CREATE TABLE `d__t__cvh0_s1`.`local` (`_cvh_partition` UInt32 MATERIALIZED
                  toUInt32(throwIf(`_cvh_offset` >= 0)), `_cvh_offset` UInt64, `_cvh_row` UInt32, `ts`
                  DateTime COMMENT 'when', `o\`d\\d` String DEFAULT 'x', `up` String MATERIALIZED
                  upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1) ENGINE = MergeTree PARTITION BY
                  (`_cvh_partition`, toYYYYMM(ts), up) PRIMARY KEY ts ORDER BY (ts, up) SAMPLE BY
                  intHash32(ts) TTL ts + toIntervalDay(1) SETTINGS index_granularity = 8192
            26.9:  CREATE TABLE `d__t__cvh0_s1`.`local` (`_cvh_partition` UInt32 DEFAULT
                  toUInt32(throwIf(`_cvh_offset` >= 0, 'rows reach this table by its topics: insert
                  into the table that ends in __insert')) CODEC(ZSTD(1)), `_cvh_offset` UInt64
                  CODEC(Delta, ZSTD(1)), `_cvh_row` UInt32 CODEC(ZSTD(1)), `ts` DateTime COMMENT
                  'when', `o\`d\\d` String DEFAULT 'x', `up` String MATERIALIZED upper(`o\`d\\d`),
                  `al` UInt64 ALIAS 1 + 1) ENGINE = MergeTree PARTITION BY (`_cvh_partition`,
                  toYYYYMM(ts), up) PRIMARY KEY ts ORDER BY (ts, up) SAMPLE BY intHash32(ts) TTL ts +
                  toIntervalDay(1) SETTINGS index_granularity = 8192
            18.16: CREATE TABLE `d__t__cvh0_s1`.`local` (`_cvh_partition` UInt32 MATERIALIZED
                  toUInt32(throwIf(`_cvh_offset` >= 0)), `_cvh_offset` UInt64, `_cvh_row` UInt32, `ts`
                  DateTime COMMENT 'when', `o\`d\\d` String DEFAULT 'x', `up` String MATERIALIZED
                  upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1) ENGINE = MergeTree PARTITION BY
                  `_cvh_partition` ORDER BY tuple() SAMPLE BY intHash32(ts) TTL ts + toIntervalDay(1)
                  SETTINGS index_granularity = 8192
            26.9:  CREATE TABLE `d__t__cvh0_s1`.`local` (`_cvh_partition` UInt32 DEFAULT
                  toUInt32(throwIf(`_cvh_offset` >= 0, 'rows reach this table by its topics: insert
                  into the table that ends in __insert')) CODEC(ZSTD(1)), `_cvh_offset` UInt64
                  CODEC(Delta, ZSTD(1)), `_cvh_row` UInt32 CODEC(ZSTD(1)), `ts` DateTime COMMENT
                  'when', `o\`d\\d` String DEFAULT 'x', `up` String MATERIALIZED upper(`o\`d\\d`),
                  `al` UInt64 ALIAS 1 + 1) ENGINE = MergeTree PARTITION BY `_cvh_partition` ORDER BY
                  tuple() SAMPLE BY intHash32(ts) TTL ts + toIntervalDay(1) SETTINGS index_granularity
                  = 8192
            CREATE TABLE IF NOT EXISTS `d`.`gate_source` (`_cvh_partition` UInt32, `_cvh_offset`
                  UInt64, `_cvh_row` UInt32, `ts` DateTime, `o\`d\\d` String DEFAULT 'x', `up` String
                  MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1) ENGINE = Null
            CREATE MATERIALIZED VIEW `d`.`gate_7` TO `d`.`local` (`_cvh_partition` UInt32,
                  `_cvh_offset` UInt64, `_cvh_row` UInt32, `ts` DateTime, `o\`d\\d` String DEFAULT
                  'x', `up` String MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1) AS SELECT *
                  FROM `d`.`gate_source`
            CREATE VIEW `d`.`shut_8` AS SELECT 1
            18.16: DROP TABLE IF EXISTS `d__t__cvh0_s1`.`local`
            26.9:  DROP TABLE IF EXISTS `d__t__cvh0_s1`.`local` SYNC
            KILL QUERY WHERE startsWith(query_id, 'cvh-1-') ASYNC
            SELECT count() FROM system.processes WHERE startsWith(query_id, 'cvh-1-')"#]],
    );
}

#[test]
fn user_facing_tables() {
    let (schema, name, fresh, retired) =
        (schema(), table("a.b", "c'd"), table("a.b", "f"), table("a.b", "r"));
    check(
        &[
            Statement::CreateUserTable { name: &name, definition: "(a Int8) ENGINE = Log" },
            Statement::CreatePlain { name: &name, schema: &schema },
            Statement::CreateDistributed {
                name: &fresh,
                user: &name,
                schema: &schema,
                cluster: "cvh_a_b",
                sharding_key: "cityHash64(up) -- why",
            },
            Statement::CreateInsertTable { name: &name, schema: &schema, url: "http://h:1/insert?a='" },
            Statement::Replace { name: &name, fresh: &fresh, retired: &retired },
        ],
        expect![[r#"
            CREATE TABLE `a.b`.`c'd` (a Int8) ENGINE = Log
            CREATE TABLE `a.b`.`c'd` (`ts` DateTime COMMENT 'when', `o\`d\\d` String DEFAULT 'x', `up`
                  String MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1) ENGINE = MergeTree
                  PARTITION BY (toYYYYMM(ts), up) PRIMARY KEY ts ORDER BY (ts, up) SAMPLE BY
                  intHash32(ts) TTL ts + toIntervalDay(1) SETTINGS index_granularity = 8192
            18.16: CREATE TABLE `a.b`.`f` (`ts` DateTime, `o\`d\\d` String DEFAULT 'x', `up` String
                  MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1, `_cvh_guard` UInt8
                  MATERIALIZED throwIf(rand() >= 0)) ENGINE = Distributed('cvh_a_b', '', 'local',
                  cityHash64(up) -- why
            )
            26.9:  CREATE TABLE `a.b`.`f` (`ts` DateTime, `o\`d\\d` String DEFAULT 'x', `up` String
                  MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1, `_cvh_guard` UInt8
                  MATERIALIZED throwIf(rand() >= 0, 'insert into a.b.c\'d__insert or send to the
                  topics')) ENGINE = Distributed('cvh_a_b', '', 'local', cityHash64(up) -- why
            )
            CREATE TABLE `a.b`.`c'd` (`ts` DateTime, `o\`d\\d` String DEFAULT 'x') ENGINE =
                  URL('http://h:1/insert?a=\'', 'JSONEachRow')
            18.16: RENAME TABLE `a.b`.`c'd` TO `a.b`.`r`, `a.b`.`f` TO `a.b`.`c'd`
            26.9:  EXCHANGE TABLES `a.b`.`f` AND `a.b`.`c'd`"#]],
    );
}

#[test]
fn rows_and_expressions() {
    let (schema, gate) = (schema(), table("d", "gate_3"));
    let columns = ["a".to_owned(), "b`c".to_owned()];
    let insert = |columns, format| Statement::Insert { name: &gate, columns, format };
    check(
        &[
            insert(&[], MessageFormat::JSONEachRow),
            insert(&columns, MessageFormat::CSV),
            insert(&columns, MessageFormat::TSV),
            Statement::CreateTemporary { table: "_x", schema: &schema },
            Statement::InsertTemporary { table: "_x", columns: &columns, format: MessageFormat::CSV },
            Statement::TypeOf { table: "_x", expression: "a + 1 -- why", beside: "ts" },
            Statement::PartitionsOf { table: "_x", expression: "cityHash64(a)", partitions: 16 },
            Statement::DropTemporary("_x"),
        ],
        expect![[r#"
            INSERT INTO `d`.`gate_3` FORMAT JSONEachRow
            INSERT INTO `d`.`gate_3` (`a`, `b\`c`) FORMAT CSV
            INSERT INTO `d`.`gate_3` (`a`, `b\`c`) FORMAT TabSeparated
            CREATE TEMPORARY TABLE `_x` (`ts` DateTime, `o\`d\\d` String DEFAULT 'x', `up` String
                  MATERIALIZED upper(`o\`d\\d`), `al` UInt64 ALIAS 1 + 1)
            INSERT INTO `_x` (`a`, `b\`c`) FORMAT CSV
            SELECT (
            a + 1 -- why
            ), `ts` FROM `_x` LIMIT 0
            SELECT toUInt32(reinterpretAsUInt64(reinterpretAsString(
            cityHash64(a)
            )) % 16) FROM `_x`
            DROP TABLE IF EXISTS `_x`"#]],
    );
}

#[test]
fn looks() {
    let name = table("d'", "t");
    check(
        &[
            Statement::Server,
            Statement::Disk,
            Statement::Databases,
            Statement::Tables("d'"),
            Statement::Table(&name),
            Statement::Columns(&name),
            Statement::HighestOffset { database: "d", partition: PartitionId(3) },
            Statement::Holdings { database: "d", partition: PartitionId(3), from: 12 },
            Statement::Sizes,
            Statement::ReloadConfig,
            Statement::Cluster("c'"),
        ],
        expect![[r#"
            SELECT version(), uptime()
            18.16: SELECT 0, 0
            26.9:  SELECT total_space, free_space FROM system.disks WHERE name = 'default'
            SELECT name FROM system.databases ORDER BY name
            SELECT name FROM system.tables WHERE database = 'd\'' ORDER BY name
            SELECT engine, engine_full, create_table_query, partition_key, sorting_key, primary_key,
                  sampling_key FROM system.tables WHERE database = 'd\'' AND name = 't'
            18.16: SELECT name, type, default_kind, default_expression, comment, '' FROM
                  system.columns WHERE database = 'd\'' AND table = 't'
            26.9:  SELECT name, type, default_kind, default_expression, comment, compression_codec
                  FROM system.columns WHERE database = 'd\'' AND table = 't'
            SELECT count(), max(`_cvh_offset`) FROM `d`.`local` WHERE `_cvh_partition` = 3
            SELECT `_cvh_offset`, `_cvh_row` FROM `d`.`local` WHERE `_cvh_partition` = 3 AND
                  `_cvh_offset` >= 12 ORDER BY `_cvh_offset`, `_cvh_row`
            SELECT database, sum(bytes_on_disk), sum(rows), count() FROM system.parts WHERE active AND
                  table = 'local' GROUP BY database ORDER BY database
            SYSTEM RELOAD CONFIG
            SELECT shard_num, shard_weight, replica_num, host_name, port, default_database FROM
                  system.clusters WHERE cluster = 'c\'' ORDER BY shard_num, replica_num"#]],
    );
}

#[test]
fn seeds() {
    let (local, staging) = (table("d`", "local"), table("d`", "seed_7_1"));
    let columns = ["_cvh_partition".to_owned(), "a`b".to_owned()];
    let remote = |user: &str, password: &str, secure| RemoteReplica {
        host: if secure { "::1".into() } else { "h".into() },
        port: 9000,
        user: user.into(),
        password: Secret::new(password),
        secure,
        database: "d'1".into(),
    };
    let sources = [remote("", "", false), remote("u", "p'\\", true), remote("", "p", false)];
    let copy =
        |source| Statement::CopyRows { into: &staging, columns: &columns, source, partition: PartitionId(3) };
    check(
        &[
            Statement::Rename { from: &staging, to: &local },
            Statement::Parts(&local),
            Statement::DropPartition { name: &staging, partition_id: "7-202601" },
            Statement::ReplacePartition { name: &staging, partition_id: "7-202601", source: &local },
            copy(&sources[0]),
            copy(&sources[1]),
            copy(&sources[2]),
            Statement::UserQueries,
        ],
        expect![[r#"
            RENAME TABLE `d\``.`seed_7_1` TO `d\``.`local`
            SELECT partition, partition_id, name, rows FROM system.parts WHERE database = 'd`' AND
                  table = 'local' AND active
            ALTER TABLE `d\``.`seed_7_1` DROP PARTITION ID '7-202601'
            ALTER TABLE `d\``.`seed_7_1` REPLACE PARTITION ID '7-202601' FROM `d\``.`local`
            INSERT INTO `d\``.`seed_7_1` (`_cvh_partition`, `a\`b`) SELECT `_cvh_partition`, `a\`b`
                  FROM remote('h:9000', 'd\'1', 'local') WHERE `_cvh_partition` = 3
            INSERT INTO `d\``.`seed_7_1` (`_cvh_partition`, `a\`b`) SELECT `_cvh_partition`, `a\`b`
                  FROM remoteSecure('[::1]:9000', 'd\'1', 'local', 'u', 'p\'\\') WHERE
                  `_cvh_partition` = 3
            INSERT INTO `d\``.`seed_7_1` (`_cvh_partition`, `a\`b`) SELECT `_cvh_partition`, `a\`b`
                  FROM remote('h:9000', 'd\'1', 'local', 'default', 'p') WHERE `_cvh_partition` = 3
            18.16: SELECT query_id FROM system.processes WHERE NOT startsWith(query_id, 'cvh-') AND
                  NOT startsWith(initial_query_id, 'cvh-') ORDER BY query_id
            26.9:  SELECT query_id FROM system.processes WHERE NOT startsWith(query_id, 'cvh-') AND
                  NOT startsWith(initial_query_id, 'cvh-') AND query_id != queryID() ORDER BY query_id"#]],
    );
}

#[test]
fn parts() {
    let (local, copy) = (table("d`", "local"), table("d`", "copy_7_3_x"));
    let source = RemoteReplica {
        host: "h".into(),
        port: 9000,
        user: "u".into(),
        password: Secret::new("p'"),
        secure: false,
        database: "d'1".into(),
    };
    let columns = [
        column("k", "String", ("", ""), ""),
        column("n`", "Nullable(Int8)", ("", ""), ""),
        column("m", "Map(String, Int8)", ("", ""), ""),
    ];
    check(
        &[
            Statement::Merges { name: &local, allowed: false },
            Statement::Merges { name: &local, allowed: true },
            Statement::FreezePartition { name: &local, partition_id: "7-202601", frozen: "cvh_send_x" },
            Statement::AttachPart { name: &copy, part: "7-202601_1_5_1" },
            Statement::DataRoots,
            Statement::DataPaths(&local),
            Statement::DiskSpaces,
            Statement::Mutations(&local),
            Statement::PendingMutations(&local),
            Statement::RemoteMutations(&source),
            Statement::RemoteSizes(&source),
            Statement::Digest {
                database: "d",
                partition: PartitionId(3),
                from: 4,
                below: 9,
                columns: &columns,
            },
        ],
        expect![[r#"
            SYSTEM STOP MERGES `d\``.`local`
            SYSTEM START MERGES `d\``.`local`
            ALTER TABLE `d\``.`local` FREEZE PARTITION ID '7-202601' WITH NAME 'cvh_send_x'
            ALTER TABLE `d\``.`copy_7_3_x` ATTACH PART '7-202601_1_5_1'
            18.16: SELECT replaceRegexpOne(data_path, 'data/system/$', ''), 'local' FROM
                  system.databases WHERE name = 'system'
            26.9:  SELECT path, if(is_encrypted, 'encrypted', lower(type)) FROM system.disks ORDER BY
                  name != 'default', name
            18.16: SELECT data_path FROM system.tables WHERE database = 'd`' AND name = 'local'
            26.9:  SELECT arrayJoin(data_paths) FROM system.tables WHERE database = 'd`' AND name =
                  'local'
            18.16: SELECT '/', 0, 0
            26.9:  SELECT path, total_space, free_space FROM system.disks
            SELECT mutation_id FROM system.mutations WHERE database = 'd`' AND table = 'local'
            SELECT count() FROM system.mutations WHERE database = 'd`' AND table = 'local' AND NOT
                  is_done
            SELECT count() FROM remote('h:9000', 'system', 'mutations', 'u', 'p\'') WHERE database =
                  'd\'1' AND table = 'local' AND NOT is_done
            SELECT partition, sum(bytes_on_disk), sum(rows), count() FROM remote('h:9000', 'system',
                  'parts', 'u', 'p\'') WHERE active AND database = 'd\'1' AND table = 'local' GROUP BY
                  partition
            SELECT count(), uniqExact(`_cvh_offset`, `_cvh_row`), uniqExact(`_cvh_offset`),
                  min(`_cvh_offset`), max(`_cvh_offset`), sum(cityHash64(`_cvh_offset`, `_cvh_row`,
                  `k`, ifNull(toString(`n\``), ''), isNull(`n\``), toString(`m`))) FROM `d`.`local`
                  WHERE `_cvh_partition` = 3 AND `_cvh_offset` >= 4 AND `_cvh_offset` < 9"#]],
    );
}

#[test]
fn a_password_is_in_no_error() {
    let into = table("d", "t");
    let told = |password: &str, text: &str| {
        let source = RemoteReplica {
            host: "h".into(),
            port: 1,
            user: "u".into(),
            password: Secret::new(password),
            secure: true,
            database: "d".into(),
        };
        let statement =
            Statement::CopyRows { into: &into, columns: &[], source: &source, partition: PartitionId(1) };
        for asks in [Statement::RemoteSizes(&source), Statement::RemoteMutations(&source)] {
            let quoted = render(&asks, &Capabilities::of(""));
            assert!(quoted.contains("'u'") && !without_secrets(&asks, &quoted).contains("'u'"), "{quoted}");
        }
        let rendered = render(&statement, &Capabilities::of(""));
        without_secrets(&statement, &text.replace("STATEMENT", &rendered).replace("CUT", &rendered[..70]))
    };
    for password in ["s3cret", "it's\\", "p"] {
        let text =
            told(password, "Code: 62. Syntax error: STATEMENT and again s3cret, 'it\\'s\\\\' it's\\ CUT");
        assert_eq!(text, "Code: 62. Syntax error: INSERT INTO `d`.`t` () SELECT  FROM ");
    }
    assert_eq!(told("it's\\", "Wrong: 'it\\'s\\\\' or it's\\"), "Wrong: *** or ***");
    assert_eq!(told("", "nothing to hide"), "nothing to hide");
}

proptest! {
    #[test]
    fn no_text_ends_its_quotes_early(text in "\\PC*|[`'\\\\\"\n\t\0]*") {
        for (quoted, quote) in [(quote_name(&text), '`'), (quote_text(&text), '\'')] {
            let inside = &quoted[1..quoted.len() - 1];
            let mut escaped = false;
            for c in inside.chars() {
                prop_assert!(escaped || c != quote, "{}", quoted);
                escaped = !escaped && c == '\\';
            }
            prop_assert!(!escaped, "{}", quoted);
        }
    }
}
