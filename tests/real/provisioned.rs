//! What provisioning promises is there and starts. The themes' own tests say what it can do.

use std::path::PathBuf;
use std::process::Command;

/// The folder that `scripts/provision.sh` fills.
fn folder() -> PathBuf {
    std::env::var_os("CONVERTHOUSE_PROVISION_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(".provision"), PathBuf::from)
}

/// What a program prints; fails with a remedy if it is not there.
fn output(program: &str, arguments: &[&str]) -> String {
    let ran = Command::new(program).args(arguments).output();
    let ran = ran.unwrap_or_else(|error| panic!("{program}: {error}; run scripts/provision.sh"));
    assert!(ran.status.success(), "{program} {arguments:?}: {ran:?}");
    String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr)
}

#[test]
fn the_servers_from_debian_are_installed() {
    assert!(output("etcd", &["--version"]).contains("etcd Version: 3."));
    assert!(output("promtool", &["--version"]).contains("promtool, version 2."));
    let server = std::env::var("CLICKHOUSE_BINARY").ok().filter(|named| !named.is_empty());
    let server = server.unwrap_or_else(|| "clickhouse-server".into());
    let found = output("sh", &["-c", "command -v \"$0\" || command -v \"${0% server}\"", &server]);
    assert!(found.contains("clickhouse"), "{server}");
}

#[test]
fn the_broker_is_complete() {
    let jars = folder().join("kafka");
    let class_path = format!("{}/*", jars.display());
    let shown = output("java", &["-cp", &class_path, "kafka.Kafka", "--version"]);
    assert!(shown.contains("4.1."), "{shown}");
    assert!(jars.join("log4j2.xml").is_file());
}

#[test]
fn the_current_clickhouse_engine_answers() {
    let python = folder().join("venv/bin/python");
    let script = "from chdb.session import Session; print(Session().query('SELECT version()', 'TSV'))";
    let version = output(&python.display().to_string(), &["-c", script]);
    assert!(version.starts_with("26.9."), "{version}");
}

#[test]
fn any_clickhouse_on_the_path_will_do_for_the_demo() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let [program, many] = ["clickhouse-server", "clickhouse"].map(|name| folder.path().join(name));
    for program in [&program, &many] {
        std::fs::write(program, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/provision.sh");
    let provision = |binary: &str| {
        let mut script = Command::new(&script);
        script.arg("server").env("PATH", &path).env("XDG_CACHE_HOME", folder.path());
        let ran = script.env("CLICKHOUSE_BINARY", binary).output().unwrap();
        String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr)
    };
    let shown = provision("");
    assert!(shown.contains(&format!("ready ({}, on the PATH)", program.display())), "{shown}");
    let many = many.display().to_string();
    for named in [program.display().to_string(), format!("{many} server"), many, "clickhouse server".into()] {
        let shown = provision(&named);
        assert!(shown.contains(&format!("ready ({named}, by CLICKHOUSE_BINARY)")), "{shown}");
    }
    for named in ["/nonexistent/clickhouse", "/nonexistent/clickhouse server", "no-clickhouse-here server"] {
        let shown = provision(named);
        assert!(shown.contains(&format!("names {named}, which is no program")), "{shown}");
    }
}
