//! The command line as people and scripts meet it: the real binary against a daemon in memory.

// Clippy knows tests only by `#[test]`.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

#[path = "edge/mod.rs"]
mod edge;
#[path = "cli/placement.rs"]
mod placement;
#[path = "cli/simulation.rs"]
mod simulation;
#[path = "edge/steer_cli.rs"]
mod steer_cli;

use converthouse::adapters::peers::Error;
use converthouse::model::control::TableStatus;
use converthouse::model::table::{BatchLimits, MessageFormat, TableState, TopicLayout};
use edge::{Asked, Edge, Mood, name, routes, table};
use expect_test::{ExpectFile, expect, expect_file};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// The table's name, as typed.
const NAME: &str = "shop.`événements ``x```";

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn command(edge: Option<&Edge>, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_converthouse"));
    command.args(arguments).env_clear();
    if let Some(edge) = edge {
        command.env("CONVERTHOUSE_SERVER", &edge.grpc);
    }
    command
}

fn ran(output: Output) -> Ran {
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    Ran {
        code: output.status.code().expect("it ended by itself"),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

fn run(edge: &Edge, arguments: &[&str]) -> Ran {
    ran(command(Some(edge), arguments).stdin(Stdio::null()).output().unwrap())
}

fn offline(arguments: &[&str]) -> Ran {
    ran(command(None, arguments).stdin(Stdio::null()).output().unwrap())
}

fn feed(edge: &Edge, arguments: &[&str], input: &[u8]) -> Ran {
    let mut child = command(Some(edge), arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // It may end before it has read all.
    let _ = stdin.write_all(input);
    drop(stdin);
    ran(child.wait_with_output().unwrap())
}

/// What a command prints, which must go well.
fn golden(edge: &Edge, arguments: &[&str], file: ExpectFile) {
    let ran = run(edge, arguments);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{arguments:?}");
    file.assert_eq(&ran.out);
}

#[test]
fn verify_shows_what_differs_and_ends_with_1() {
    let edge = Edge::start();
    let ran = run(&edge, &["verify", NAME, "--rows-per-s", "7"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("1 of 2 partitions") && ran.err.contains("remedy"), "{}", ran.err);
    expect_file!["golden/cli_verify.txt"].assert_eq(&ran.out);
    assert!(matches!(edge.daemon.last(), Asked::Verify(_, 7)));
    let json = run(&edge, &["verify", NAME, "--json"]);
    assert_eq!(json.code, 1);
    expect_file!["golden/cli_verify.json"].assert_eq(&json.out);
}

#[test]
fn help_texts_are_as_agreed() {
    for (arguments, file) in [
        (&["--help"][..], expect_file!["golden/cli_help.txt"]),
        (&["table", "create", "--help"][..], expect_file!["golden/cli_help_create.txt"]),
        (&["insert", "--help"][..], expect_file!["golden/cli_help_insert.txt"]),
    ] {
        let ran = offline(arguments);
        assert_eq!(ran.code, 0);
        file.assert_eq(&ran.out);
    }
}

#[test]
fn what_people_see() {
    let edge = Edge::start();
    golden(&edge, &["status"], expect_file!["golden/cli_status.txt"]);
    golden(&edge, &["table", "show", NAME], expect_file!["golden/cli_table_show.txt"]);
    golden(&edge, &["table", "list"], expect_file!["golden/cli_table_list.txt"]);
    golden(&edge, &["node", "list"], expect_file!["golden/cli_node_list.txt"]);
    golden(&edge, &["shard", "list"], expect_file!["golden/cli_shard_list.txt"]);
    golden(&edge, &["op", "list"], expect_file!["golden/cli_op_list.txt"]);
    golden(&edge, &["op", "show", "o4"], expect_file!["golden/cli_op_show.txt"]);
    golden(&edge, &["routes", NAME], expect_file!["golden/cli_routes.txt"]);
    assert_eq!(edge.daemon.last(), Asked::Routes(name()));
}

#[test]
fn what_programs_see() {
    let edge = Edge::start();
    golden(&edge, &["status", "--json"], expect_file!["golden/cli_status.json"]);
    golden(&edge, &["--json", "table", "show", NAME], expect_file!["golden/cli_table_show.json"]);
    golden(&edge, &["shard", "list", NAME, "--json"], expect_file!["golden/cli_shard_list.json"]);
    golden(&edge, &["routes", NAME, "--json"], expect_file!["golden/cli_routes.json"]);
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(&edge, arguments).out).expect("it is JSON")
    };
    let status: serde_json::Value = json(&["status", "--json"]);
    assert_eq!(json(&["table", "list", "--json"]), status["tables"]);
    assert_eq!(json(&["node", "list", "--json"]), status["nodes"]);
    // What is printed reads back as what the daemon said.
    let read: TableStatus = serde_json::from_value(json(&["table", "show", NAME, "--json"])).unwrap();
    assert_eq!(read, table());
}

#[test]
fn an_unhealthy_cluster_can_end_a_script() {
    let edge = Edge::start();
    let ran = run(&edge, &["status", "--check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("cluster production is not healthy"), "{}", ran.err);
}

#[test]
fn wrong_usage_is_code_2_and_says_what_is_right() {
    let edge = Edge::start();
    fn create(more: &[&'static str]) -> Vec<&'static str> {
        [&["table", "create", "CREATE …", "--partition-by", "a"], more].concat()
    }
    for (arguments, text) in [
        (vec!["tabel", "list"], "similar subcommands exist: 'trace', 'table'"),
        (vec!["table", "show", "events"], "has no database; write db.table"),
        (vec!["table", "show", "a.b.c"], "has more than two parts"),
        (vec!["table", "show", "`a.b"], "the ` is not closed"),
        (vec!["table", "create", "CREATE …"], "--partition-by <EXPR>"),
        (vec!["table", "create", "--partition-by", "a"], "<DDL>"),
        (create(&["--shards", "9", "--partitions", "8"]), "9 shards of 8 partitions"),
        (create(&["--partitions", "0"]), "0 is not in 1..=65536"),
        (create(&["--setting", "x"]), "should be NAME=VALUE"),
        (create(&["--setting", "a b=1"]), "no setting's name"),
        (create(&["--format", "Parquet"]), "one of JSONEachRow, CSV, TSV"),
        (create(&["--first-node", "N1"]), "is not a node name"),
        (create(&["--no-wait", "--wait-complete"]), "cannot be used with"),
        (vec!["table", "create", "  ", "--partition-by", "a"], "the CREATE TABLE is empty"),
        (
            vec!["table", "create", "--file", "/nonexistent", "--partition-by", "a"],
            "/nonexistent: No such file",
        ),
        (vec!["status", "--timeout", "0"], "0 is not in 1..=86400"),
        (vec!["status", "--cert", "x"], "--key <FILE>"),
        (vec!["completions", "cmd"], "bash"),
        (vec!["completions", "bash", "--json"], "`completions` has no result to print as JSON"),
        (vec!["server", "--config", "/nonexistent", "--json"], "`server` has no result to print as JSON"),
        (vec!["demo", "--rows", "0"], "0 is not in 1.."),
        (vec!["insert", NAME, "--file", "/nonexistent"], "/nonexistent: No such file"),
    ] {
        let ran = run(&edge, &arguments);
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}: {}", ran.err);
        assert!(ran.err.contains(text), "{arguments:?}: {}", ran.err);
    }
    assert!(edge.daemon.asked.lock().unwrap().is_empty(), "nothing of it reached the daemon");
}

#[test]
fn the_daemons_errors_end_with_their_code_and_remedy() {
    let edge = Edge::start();
    let text = || "shop.x".to_owned();
    for (error, code) in [
        (Error::Invalid(text()), 1),
        (Error::NotFound(text()), 1),
        (Error::Exists(text()), 1),
        (Error::Refused(text()), 1),
        (Error::NoLeader(text()), 3),
        (Error::Unavailable(text()), 3),
        (Error::OutcomeUnknown(text()), 3),
        (Error::Internal(text()), 1),
    ] {
        edge.daemon.set(Mood::Fails(error.clone()));
        let ran = run(&edge, &["status"]);
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{error}");
        assert!(ran.err.starts_with("error [CVH-080") && ran.err.contains("\nremedy: "), "{}", ran.err);
    }
    edge.daemon.set(Mood::Fails(Error::NotFound(text())));
    expect![[r#"
        error [CVH-0802]: shop.x does not exist
        remedy: check the name with `converthouse table list` or `node list`
    "#]]
    .assert_eq(&run(&edge, &["table", "show", "shop.x"]).err);
    let error = run(&edge, &["table", "show", "shop.x", "--json"]).err;
    let error: serde_json::Value = serde_json::from_str(&error).unwrap();
    expect![[r#"
        {
          "error": {
            "code": "CVH-0802",
            "message": "shop.x does not exist",
            "remedy": "check the name with `converthouse table list` or `node list`",
            "retry": "never"
          }
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&error).unwrap());
}

#[test]
fn a_daemon_that_is_not_there_or_does_not_answer_is_code_3() {
    let edge = Edge::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ran = run(&edge, &["status", "--server", &format!("http://127.0.0.1:{port}")]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("cannot be reached") && ran.err.contains("refused"), "{}", ran.err);
    edge.daemon.set(Mood::Hangs);
    let ran = run(&edge, &["status", "--timeout", "1"]);
    assert_eq!(ran.code, 3);
    assert!(ran.err.contains("did not answer within 1000 ms"), "{}", ran.err);
    let ran = run(&edge, &["table", "drop", "a.b", "--timeout", "1"]);
    assert!(ran.err.contains("it may still be carried out") && ran.code == 3, "{}", ran.err);
    let ran = run(&edge, &["status", "--server", "localhost:7400"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("it must be http://host:port"), "{}", ran.err);
}

#[test]
fn create_sends_what_was_typed_and_waits_until_usable() {
    let edge = Edge::start();
    let waiting = TableStatus { usable: false, waiting_for: vec!["s0 on n1".into()], ..table() };
    let away = Error::NoLeader("changing".into());
    *edge.daemon.tables.lock().unwrap() = vec![Ok(waiting.clone()), Err(away), Ok(waiting), Ok(table())];
    let ddl = "CREATE TABLE shop.x (a UInt8) ENGINE = MergeTree ORDER BY a";
    let typed = "table create - -p 16 -s 4 -r 2 --partition-by a%16 --format tsv --topic-prefix e --topic-layout \
                 one-topic --topic-replication -1 --batch-rows 5 --batch-age-ms 50 --setting a=b=c --setting d= \
                 --first-node n1 --if-not-exists";
    let ran = feed(&edge, &typed.split_whitespace().collect::<Vec<_>>(), ddl.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.starts_with("usable; further replicas follow by themselves"), "{}", ran.out);
    let asked = edge.daemon.asked.lock().unwrap().clone();
    let Asked::Create(create) = &asked[0] else { panic!() };
    assert_eq!((create.ddl.as_str(), create.partition_by.as_str()), (ddl, "a%16"));
    assert_eq!((create.partitions, create.shards, create.replicas), (16, 4, 2));
    assert_eq!((create.format, create.layout), (MessageFormat::TSV, TopicLayout::OneTopic));
    assert_eq!(create.batch, BatchLimits { rows_max: 5, age_max_ms: 50, ..BatchLimits::default() });
    let settings: Vec<_> = create.format_settings.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(settings, [("a", "b=c"), ("d", "")]);
    assert_eq!((create.if_not_exists, create.dry_run), (true, false));
    assert_eq!(asked[1..], vec![Asked::Table(name()); 4], "asked until usable, also past a failure");
}

#[test]
fn create_can_go_ahead_without_waiting_or_give_up() {
    let edge = Edge::start();
    let create =
        |more: &[&str]| run(&edge, &[&["table", "create", "CREATE …", "--partition-by", "a"], more].concat());
    let ran = create(&["--no-wait"]);
    assert!(ran.code == 0 && ran.out.starts_with("being created\n"), "{}", ran.out);
    let ran = create(&["--dry-run"]);
    assert!(ran.code == 0 && ran.out.starts_with("would be created; nothing was changed\n"), "{}", ran.out);
    let ran = create(&["--wait-complete", "--timeout", "1"]);
    assert_eq!((ran.code, ran.out.as_str()), (3, ""));
    let late = "shop.`événements ``x```: still waiting for s0 on n2: its node is gone after 1 s";
    assert!(ran.err.contains(late), "{}", ran.err);
    *edge.daemon.tables.lock().unwrap() = vec![Err(Error::NotFound("shop.x".into()))];
    let ran = create(&[]);
    assert!(ran.code == 1 && ran.err.contains("CVH-0802"), "{}", ran.err);
}

#[test]
fn drop_waits_until_it_is_gone() {
    let edge = Edge::start();
    let dropping = |complete, waiting_for| {
        Ok(TableStatus { state: TableState::Dropping, complete, waiting_for, ..table() })
    };
    let down = vec!["node n3, which is down, to let go of the table".to_owned()];
    *edge.daemon.tables.lock().unwrap() =
        vec![dropping(false, vec![]), dropping(false, vec![]), Err(Error::NotFound(NAME.into()))];
    let ran = run(&edge, &["table", "drop", NAME, "--delete-topics"]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "shop.`événements ``x``` is gone\n"), "{}", ran.err);
    let Asked::Drop(drop) = edge.daemon.asked.lock().unwrap()[0].clone() else { panic!() };
    assert!(drop.delete_topics && !drop.if_exists);
    let ran = run(&edge, &["table", "drop", NAME, "--no-wait", "--json"]);
    assert!(ran.out.contains("\"gone\": false"), "{}", ran.out);
    *edge.daemon.tables.lock().unwrap() = vec![dropping(false, vec![]), dropping(true, down)];
    let ran = run(&edge, &["table", "drop", NAME]);
    assert_eq!(ran.code, 0, "nodes that are down are not waited for: {}", ran.err);
    assert!(
        ran.out.ends_with("is gone\n  waiting for node n3, which is down, to let go of the table\n"),
        "{}",
        ran.out
    );
}

#[test]
fn insert_sends_whole_rows_in_pieces() {
    let edge = Edge::start();
    let row = |n: usize| format!("{{\"a\": {n},\n\"text\": \"{}\"}}\n", "}\\\"".repeat(300));
    let rows: String = (0..12_000).map(row).collect();
    assert!(rows.len() > 10 << 20);
    let ran = feed(&edge, &["insert", NAME, "--json"], rows.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let bodies = |edge: &Edge| -> Vec<Vec<u8>> {
        let insert = |asked: &Asked| match asked {
            Asked::Insert(insert) => insert.body.to_vec(),
            other => panic!("{other:?}"),
        };
        edge.daemon.asked.lock().unwrap().iter().map(insert).collect()
    };
    let pieces = bodies(&edge);
    assert!(pieces.len() > 1);
    assert!(pieces.iter().all(|piece| piece.trim_ascii().ends_with(b"}")), "cut after a row");
    assert_eq!(pieces.concat(), rows.as_bytes(), "nothing lost, nothing twice");
    let ran = feed(&edge, &["insert", NAME], b" \n\n");
    assert_eq!(ran.out, "0 rows into shop.`événements ``x```\n");
    assert_eq!(bodies(&edge).len(), pieces.len(), "blank input needs no request");
}

#[test]
fn a_named_batch_is_one_request_and_may_be_repeated() {
    let edge = Edge::start();
    let rows = "{\"a\": 1}\n".repeat(1_000_000);
    let ran = feed(&edge, &["insert", "a.b", "--batch", "load-7", "--json"], rows.as_bytes());
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let Asked::Insert(insert) = edge.daemon.last() else { panic!() };
    assert_eq!(insert.batch, Some("load-7".parse().unwrap()));
    assert_eq!(insert.body.len(), rows.len(), "more than a piece");
    let said: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&said["rows"], &said["before"]), (&1_000_000.into(), &false.into()));
    let ran = feed(&edge, &["insert", "a.b", "--batch", "load 7"], b"{}\n");
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("1 to 200 letters, digits, '.', '_' or '-'"), "{}", ran.err);
    edge.daemon.set(Mood::Fails(Error::OutcomeUnknown("nothing was heard".into())));
    let ran = feed(&edge, &["insert", "a.b", "--batch", "load-7"], b"{}\n");
    assert_eq!(ran.code, 3);
    expect![[r#"
        error [CVH-0811]: it is not known whether the batch is in: nothing was heard
        remedy: repeat the insert with the same batch name: it goes in once
    "#]]
    .assert_eq(&ran.err);
}

#[test]
fn an_insert_that_fails_says_so() {
    let edge = Edge::start();
    edge.daemon.set(Mood::Fails(Error::Invalid("row 3 is no JSON".into())));
    let ran = feed(&edge, &["insert", "a.b"], b"{}\n");
    assert_eq!(ran.code, 1);
    expect![[r#"
        error [CVH-0801]: row 3 is no JSON
        remedy: correct the request
    "#]]
    .assert_eq(&ran.err);
}

/// The child's end, within ten seconds.
fn end(mut child: Child) -> i32 {
    for _ in 0..1_000 {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().expect("no signal");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    panic!("it did not end");
}

#[test]
fn a_watch_ends_in_peace_when_nobody_reads_any_more() {
    let edge = Edge::start();
    let mut child =
        command(Some(&edge), &["routes", NAME, "--watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let epoch = |line: String| serde_json::from_str::<serde_json::Value>(&line).unwrap()["epoch"].clone();
    assert_eq!(epoch(lines.next().unwrap().unwrap()), 3);
    edge.daemon.epochs.send(Ok(routes(4))).unwrap();
    assert_eq!(epoch(lines.next().unwrap().unwrap()), 4);
    drop(lines);
    edge.daemon.epochs.send(Ok(routes(5))).unwrap();
    assert_eq!(end(child), 0);
}

#[test]
fn a_watch_says_when_the_daemon_ends_it() {
    let mut edge = Edge::start();
    let mut command = command(Some(&edge), &["routes", NAME, "--watch"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 4];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    edge.stop();
    let ran = ran(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 3, "{}", ran.err);
}

#[test]
fn a_configuration_is_checked_and_an_example_passes() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.toml");
    let path = file.to_str().unwrap();
    std::fs::write(&file, offline(&["config", "example"]).out).unwrap();
    let ran = offline(&["config", "check", path]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(ran.out.contains("is good\n  cluster   converthouse\n"), "{}", ran.out);
    assert_eq!(offline(&["server", "--config", path, "--check"]).out, ran.out);
    std::fs::write(&file, "[metdata]\nkind = 'etcd'\n").unwrap();
    let said = ["config check", "server --config"].map(|words| {
        let ran = offline(&words.split(' ').chain([path]).collect::<Vec<_>>());
        assert_eq!((ran.code, ran.out.as_str()), (1, ""));
        ran.err.replace(path, "f.toml")
    });
    assert_eq!(said[0], said[1]);
    expect![[r#"
        error [CVH-0203]: f.toml: 4 problems
          line 1: metdata is not known
              remedy: did you mean `metadata`?
          metadata.kind is missing
              remedy: add kind = "etcd"
          node is missing: there is no ClickHouse to serve
              remedy: add a [[node]] with id and clickhouse_url
          kafka.brokers is missing
              remedy: add some: brokers = ["host:9092"]
        remedy: correct the lines; docs/configuration.md explains every key
    "#]]
    .assert_eq(&said[0]);
    assert!(offline(&["config", "check", "/nonexistent"]).err.contains("CVH-0201"));
}

#[test]
fn completions_come_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = offline(&["completions", shell]);
        assert!(ran.code == 0 && ran.out.contains("completions"), "{shell}");
    }
}

#[test]
fn names_that_look_like_terminal_commands_are_shown_not_obeyed() {
    let edge = Edge::start();
    let evil = TableStatus { table: "a\x1b[2Jb".into(), waiting_for: vec!["\x07".into()], ..table() };
    *edge.daemon.tables.lock().unwrap() = vec![Ok(evil)];
    let ran = run(&edge, &["table", "show", NAME]);
    assert!(!ran.out.contains(['\x1b', '\x07']), "{:?}", ran.out);
    edge.daemon.set(Mood::Fails(Error::Invalid("\x1b[2J".into())));
    assert!(!run(&edge, &["status"]).err.contains('\x1b'));
}
