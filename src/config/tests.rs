//! What a configuration file may hold, and what is said of a bad one.

use super::*;
use crate::model::node::Secret;
use expect_test::{Expect, expect, expect_file};
use std::collections::BTreeSet;

const STANDALONE: &str = "metadata.kind = 'embedded'\nkafka.kind = 'embedded'\n[[node]]\nid = 'n1'\n";

fn read(text: &str) -> Result<Config, Error> {
    parse(text, "f.toml", Path::new("/etc/cvh"))
}

fn check(text: &str, expect: Expect) {
    expect.assert_eq(&read(text).expect_err("it has problems").to_string());
}

#[test]
fn the_reference_page_is_current() {
    expect_file!["../../docs/configuration.md"].assert_eq(&document::reference());
}

#[test]
fn the_example_passes_and_so_do_its_commented_keys_one_by_one() {
    let example = document::example();
    let config = read(&example).unwrap();
    assert!(config.standalone() && config.nodes.len() == 1);
    for section in schema::SECTIONS {
        for key in section.keys {
            assert!(example.contains(&format!("{} = ", key.name)), "{} is not shown", key.name);
        }
    }
}

#[test]
fn every_key_of_the_schema_is_read_and_refuses_a_date() {
    for section in schema::SECTIONS {
        for key in section.keys {
            let header = if section.repeated {
                format!("[[{}]]", section.path)
            } else {
                format!("[{}]", section.path)
            };
            let error = read(&format!("{header}\n{} = 1979-05-27", key.name)).unwrap_err();
            let Error::Problems { problems, .. } = error else { panic!("{error}") };
            let path = if section.repeated { format!("{}[1]", section.path) } else { section.path.into() };
            let name = format!("{path}.{}", key.name);
            let found = problems.iter().find(|p| p.key == name && p.what.starts_with("is a datetime"));
            assert_eq!(found.and_then(|p| p.line), Some(2), "{name}: {problems:?}");
        }
    }
}

#[test]
fn names_of_keys_are_unique_and_examples_are_toml() {
    for section in schema::SECTIONS {
        let names: BTreeSet<_> = section.keys.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), section.keys.len());
        for key in section.keys {
            toml::de::DeValue::parse(key.example).expect(key.name);
        }
    }
}

#[test]
fn defaults_make_a_standalone_daemon_of_four_lines() {
    let config = read(STANDALONE).unwrap();
    assert_eq!(config.daemon.grpc_advertise, "http://127.0.0.1:7400");
    assert_eq!(config.daemon.http_advertise, "http://127.0.0.1:7401");
    assert_eq!(config.daemon.node.as_str(), "n1");
    assert_eq!(
        config.metadata.store,
        StoreOptions::Embedded { path: "/var/lib/converthouse/metadata.redb".into() }
    );
    let node = &config.nodes[0];
    assert_eq!((node.endpoint.host.as_str(), node.endpoint.port), ("127.0.0.1", 9000));
    assert_eq!((node.endpoint.user.as_str(), node.weight_milli), ("default", 1000));
    assert_eq!(config.failover.down_after_ms, 1_800_000);
    assert_eq!(config.ingest.daily_bytes_per_partition, 36_000_000_000);
}

#[test]
fn a_cluster_of_three_with_managed_etcd() {
    let config = read(
        r#"
        cluster.name = "prod"
        [daemon]
        grpc_listen = "0.0.0.0:7400"
        grpc_advertise = "http://n2:7400"
        [metadata]
        kind = "managed"
        listen = "10.0.0.2"
        member = [
            { node = "n1", client_url = "http://n1:2379", peer_url = "http://n1:2380" },
            { node = "n2", client_url = "http://n2:2379", peer_url = "http://n2:2380" },
            { node = "n3", client_url = "http://n3:2379", peer_url = "http://n3:2380" },
        ]
        [kafka]
        brokers = ["k1:9092", "[::1]:9092"]
        settings = { "sasl.password" = "s3cret", "socket.timeout.ms" = 1000 }
        [[node]]
        id = "n2"
        clickhouse_host = "n2"
        clickhouse_secure = true
        clickhouse_password = "s3cret"
        capacity_bytes = "2TB"
        weight = 1.5
        "#,
    )
    .unwrap();
    assert!(!config.standalone());
    let StoreOptions::Managed { members, binary, listen, .. } = &config.metadata.store else { panic!() };
    assert_eq!(*listen, Some([10, 0, 0, 2].into()));
    assert_eq!((members.len(), binary.to_str()), (3, Some("etcd")));
    assert_eq!(config.kafka.settings["socket.timeout.ms"], Secret::new("1000"));
    let node = &config.nodes[0];
    assert_eq!((node.endpoint.port, node.capacity_bytes, node.weight_milli), (9440, 2_000_000_000_000, 1500));
    assert_eq!(node.endpoint.password.expose(), "s3cret");
    assert!(!format!("{config:?}").contains("s3cret"), "secrets are not shown");
}

#[test]
fn every_problem_is_told_at_once_with_line_and_remedy() {
    let error = read(
        r#"
[cluster]
name = "my cluster"
[deamon]
node = "n1"
[daemon]
node = "n9"
grpc_listen = "0.0.0.0:7400"
http_listen = "localhost"
[metadata]
kind = "etcd"
listen = "n1"
lease_ttl_ms = 5
password = "geheim"
[[metadata.member]]
node = "N1"
[kafka]
kind = "embedded"
replication = 0
[[node]]
id = "n1"
wieght = 2
weight = 0
capacity_bytes = "2 terabytes"
clickhouse_url = "ch:8123"
clickhouse_password = 12
clickhouse_password_file = "nowhere.txt"
[[node]]
id = "n1"
clickhouse_port = 70000
routes_file = ["x"]
[failover]
down_after_ms = "30m"
[[route_group]]
name = "dc 1"
label = "dc"
[log]
level = "info,converthouse=loud"
format = "xml"
"#,
    );
    let golden = expect_file!["../../tests/golden/config_problems.txt"];
    golden.assert_eq(&error.expect_err("it has problems").to_string());
}

#[test]
fn what_depends_on_something_wrong_is_not_blamed_on_top() {
    check(
        "",
        expect![[r#"
            f.toml: 3 problems
              metadata.kind is missing
                  remedy: add kind = "etcd"
              node is missing: there is no ClickHouse to serve
                  remedy: add a [[node]] with id and clickhouse_url
              kafka.brokers is missing
                  remedy: add some: brokers = ["host:9092"]"#]],
    );
    check(
        "metadata.kind = 'consul'\nkafka.kind = 'embedded'\n[[node]]\nid = 'n1'",
        expect![[r#"
            f.toml: 1 problem
              line 1: metadata.kind is "consul" and should be "etcd" or "embedded" or "managed"
                  remedy: write, for example, kind = "etcd""#]],
    );
    check(
        "node = 3\nmetadata = 'etcd'\nkafka.brokers = 'k:1'",
        expect![[r#"
            f.toml: 3 problems
              line 1: node is an integer and should be a list of sections
                  remedy: write [[node]]
              line 2: metadata is a string and should be a section
                  remedy: write [metadata]
              line 3: kafka.brokers is a string and should be a list of texts
                  remedy: write, for example, brokers = ["kafka1:9092", "kafka2:9092"]"#]],
    );
}

#[test]
fn certificates_come_whole_or_not_at_all() {
    check(
        &format!("{STANDALONE}[daemon.tls]\nca = 'no.pem'\ncert = 'no.pem'\n"),
        expect![[r#"
            f.toml: 3 problems
              line 5: daemon.tls.key is missing, and cert is given
                  remedy: add the private key of cert
              line 6: daemon.tls.ca /etc/cvh/no.pem cannot be read: No such file or directory (os error 2)
                  remedy: name a file that the daemon's user may read
              line 7: daemon.tls.cert /etc/cvh/no.pem cannot be read: No such file or directory (os error 2)
                  remedy: name a file that the daemon's user may read"#]],
    );
}

#[test]
fn a_managed_etcd_has_no_login_and_no_tls_and_a_server_says_whom_it_trusts() {
    check(
        "[daemon.tls]\ncert = '/dev/null'\nkey = '/dev/null'\n[metadata]\nkind = 'managed'\nuser = 'u'\n\
         [metadata.tls]\n[[metadata.member]]\nnode = 'n9'\nclient_url = 'https://h:1'\npeer_url = 'http://h:2'\n\
         [kafka]\nbrokers = ['k:9092']\n[[node]]\nid = 'n1'\n",
        expect![[r#"
            f.toml: 6 problems
              line 1: daemon.tls.ca is missing
                  remedy: name the certificates of those who sign the clients': without, anybody would be let in
              line 1: daemon.grpc_listen is "127.0.0.1:7400", out of reach for daemons that meet at http://h:2
                  remedy: listen on "0.0.0.0:7400" and set grpc_advertise; if all run here, only the latter
              line 6: metadata.user is given, and a managed etcd has no login
                  remedy: drop it, or run etcd yourself and set kind = "etcd"
              line 7: metadata.tls is given, and a managed etcd has no TLS
                  remedy: drop it, or run etcd yourself and set kind = "etcd"
              line 8: metadata.member has https://h:1: a managed etcd speaks http only
                  remedy: write http://host:port, or run etcd yourself for TLS
              line 14: node[1].clickhouse_host is missing
                  remedy: add the name by which other ClickHouse servers reach this one"#]],
    );
}

#[test]
fn daemons_of_several_machines_say_where_they_can_be_reached() {
    let file = |daemon: &str, etcd: &str| {
        format!(
            "[daemon]\n{daemon}\n[metadata]\nkind = 'etcd'\nendpoints = ['http://{etcd}']\n\
             [kafka]\nbrokers = ['k:9092']\n[[node]]\nid = 'n1'\nclickhouse_host = 'n1'\n"
        )
    };
    check(
        &file("", "etcd1:2379"),
        expect![[r#"
        f.toml: 1 problem
          line 1: daemon.grpc_listen is "127.0.0.1:7400", out of reach for daemons that meet at http://etcd1:2379
              remedy: listen on "0.0.0.0:7400" and set grpc_advertise; if all run here, only the latter"#]],
    );
    for (daemon, etcd) in [
        ("", "localhost:2379"),
        ("", "[::1]:2379"),
        ("grpc_advertise = 'http://127.0.0.1:7400'", "etcd1:2379"),
        ("grpc_listen = '10.0.0.1:7400'", "etcd1:2379"),
    ] {
        assert!(read(&file(daemon, etcd)).is_ok(), "{daemon} {etcd}");
    }
}

#[test]
fn broken_toml_shows_the_place() {
    check(
        "[daemon\nnode = 'n1'",
        expect![[r#"
        f.toml is not TOML: line 1, column 8: unclosed table, expected `]`"#]],
    );
    check(
        "[log]\nlevel = 'info'\nlevel = 'debug'",
        expect![[r#"
        f.toml is not TOML: line 3, column 1: duplicate key"#]],
    );
}

#[test]
fn a_line_that_may_hold_a_password_is_not_shown() {
    for text in
        ["[[node]]\nid = 'n1'\nclickhouse_password = \"pa\"s3cret\"\n", "[metadata]\npassword = s3cret\n"]
    {
        let error = parse(text, "f.toml", Path::new("/etc/cvh")).unwrap_err().to_string();
        assert!(error.contains("line ") && !error.contains("s3cret"), "{error}");
    }
    let in_url = format!("{STANDALONE}clickhouse_url = 'http://u:s3cret@h:8123'\n");
    let error = parse(&in_url, "f.toml", Path::new("/etc/cvh")).unwrap_err().to_string();
    assert!(error.contains("keys of their own") && !error.contains("s3cret"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = load(Path::new("/nonexistent/f.toml")).unwrap_err();
    assert_eq!(error.code().to_string(), "CVH-0201");
    assert!(error.to_string().starts_with("/nonexistent/f.toml: "), "{error}");
}

#[test]
fn passwords_may_be_in_files() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pw"), "from file\n").unwrap();
    let path = folder.path().join("f.toml");
    std::fs::write(&path, format!("{STANDALONE}clickhouse_password_file = 'pw'\n")).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.nodes[0].clickhouse_password.expose(), "from file");
}
