//! The process handle on real processes: started, waited for, paused, killed, never left behind.

use super::*;

fn shell(folder: &Path, script: &str) -> Launch {
    Launch::new("child", "/bin/sh", folder).args(["-c", script])
}

fn exists(pid: u32) -> bool {
    // A zombie counts as gone.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "{what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_process_that_dies_at_start_shows_the_end_of_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "echo to-out; echo to-err >&2; exit 3").start().unwrap();
    let error = process.wait_ready(Duration::from_secs(5), || Err("not yet".into())).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Died { .. }), "{text}");
    assert!(text.contains("to-out\nto-err") && text.contains("exit status: 3"), "{text}");
    assert_eq!(error.code(), Code(1003));
}

#[test]
fn the_log_is_appended_to_and_its_tail_is_of_this_start_only() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["first", "second"] {
        let process = shell(folder.path(), &format!("echo {text}")).start().unwrap();
        process.wait(Duration::from_secs(5)).unwrap();
        assert_eq!(process.log_tail(10), text);
    }
    assert_eq!(std::fs::read_to_string(folder.path().join("child.log")).unwrap(), "first\nsecond\n");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Launch::new("x", "no-such-program-here", folder.path()).start().unwrap_err();
    assert!(matches!(error, Error::NotInstalled { .. }), "{error}");
    assert!(error.to_string().contains("no-such-program-here"), "{error}");
}

#[test]
fn readiness_is_polled_until_the_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let script = "echo up > ready; exec sleep 600";
    let process = shell(folder.path(), script).start().unwrap();
    let ready = folder.path().join("ready");
    let probe = || if ready.exists() { Ok(()) } else { Err("no file".into()) };
    process.wait_ready(Duration::from_secs(10), probe).unwrap();
    let error = process.wait_ready(Duration::from_millis(50), || Err("port closed".into())).unwrap_err();
    assert!(matches!(error, Error::NotReady { .. }) && error.to_string().contains("port closed"), "{error}");
}

#[tokio::test]
async fn readiness_can_be_awaited() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "exec sleep 600").start().unwrap();
    let mut looks = 0;
    let probe = async || {
        looks += 1;
        if looks < 3 { Err("early".into()) } else { Ok(()) }
    };
    process.ready(Duration::from_secs(10), probe).await.unwrap();
    assert_eq!(looks, 3);
}

#[test]
fn stop_is_graceful_and_kills_only_the_deaf() {
    let folder = tempfile::tempdir().unwrap();
    let polite = shell(folder.path(), "trap 'exit 7' TERM; touch up; while :; do sleep 0.02; done");
    let process = polite.start().unwrap();
    until("started", || folder.path().join("up").exists());
    process.pause();
    assert_eq!(process.stop(Duration::from_secs(5)).unwrap().code(), Some(7));
    assert_eq!(process.stop(Duration::from_secs(5)).unwrap().code(), Some(7), "stopping twice is no error");

    let deaf = shell(folder.path(), "trap '' TERM; touch up2; while :; do sleep 0.02; done").start().unwrap();
    until("started", || folder.path().join("up2").exists());
    assert_eq!(deaf.stop(Duration::from_millis(100)).unwrap().signal(), Some(libc::SIGKILL));
}

#[test]
fn pause_holds_it_and_resume_lets_it_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "exec sleep 600").start().unwrap();
    process.pause();
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", process.pid())).unwrap();
    until("it is paused", || state().contains(") T "));
    assert!(process.is_running());
    process.resume();
    until("it goes on", || !state().contains(") T "));
}

#[test]
fn dropping_kills_it_and_what_it_started() {
    let folder = tempfile::tempdir().unwrap();
    let process = shell(folder.path(), "sleep 600 & echo $! > grandchild; wait").start().unwrap();
    let file = folder.path().join("grandchild");
    let read = || std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    until("grandchild started", || read().is_some());
    let (child, grandchild) = (process.pid(), read().unwrap());
    assert!(exists(child) && exists(grandchild));
    drop(process);
    until("both are gone", || !exists(child) && !exists(grandchild));
}

#[test]
fn a_process_outlives_the_thread_that_asked_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let process = thread::spawn(move || shell(&path, "exec sleep 600").start().unwrap()).join().unwrap();
    assert!(process.wait(Duration::from_millis(200)).is_none(), "killed with its thread");
}

/// Run again as a child by the next test: starts a process and waits to be killed.
#[test]
#[ignore = "a part of `nothing_is_left_behind_when_we_are_killed`"]
fn child_that_starts_a_process() {
    let Ok(folder) = std::env::var("CVH_TEST_FOLDER") else { return };
    let process = shell(Path::new(&folder), "exec sleep 600").start().unwrap();
    std::fs::write(Path::new(&folder).join("pid"), format!("{} ", process.pid())).unwrap();
    thread::sleep(Duration::from_secs(60));
}

#[cfg(target_os = "linux")]
#[test]
fn nothing_is_left_behind_when_we_are_killed() {
    let folder = tempfile::tempdir().unwrap();
    let this = std::env::current_exe().unwrap();
    let ourselves = Launch::new("ourselves", this, folder.path())
        .args(["--exact", "adapters::compute::process::tests::child_that_starts_a_process", "--ignored"])
        .env("CVH_TEST_FOLDER", folder.path())
        .start()
        .unwrap();
    let text = || std::fs::read_to_string(folder.path().join("pid")).unwrap_or_default();
    until("it started its child", || text().ends_with(' '));
    let grandchild: u32 = text().trim().parse().unwrap();
    assert!(exists(grandchild));
    // Only the middle one, not its group (the grandchild has a group of its own anyway).
    ourselves.kill().unwrap();
    until("the kernel killed it", || !exists(grandchild));
}

#[test]
fn ports_are_free_and_never_given_twice() {
    let ports: BTreeSet<u16> = (0..50).map(|_| free_port().unwrap()).collect();
    assert_eq!(ports.len(), 50);
    for port in ports {
        assert!((10_000..32_000).contains(&port));
        TcpListener::bind(("127.0.0.1", port)).unwrap();
    }
}
