//! One child process: started with its output in a log file, waited for until it is ready, stopped, killed, paused.
//!
//! Nothing is left behind: dropping a [`Process`] kills it, and on Linux the kernel kills it when we die ourselves,
//! even by SIGKILL. The kernel's promise is tied to the *thread* that forked, so every fork happens on one thread
//! that lives as long as we do ([`Launch::start`] may therefore be called from any thread, also a short-lived one).
//!
//! Every process leads a process group of its own: a Ctrl-C in the terminal reaches us only, and a signal of ours
//! reaches what the process itself started. This module does not restart anything; see
//! [`ManagedEtcd`](super::etcd_member) for that.
#![allow(unsafe_code)] // `prctl` and `kill` have no safe form in the standard library

use crate::error::{Code, Coded, Retry, ranges};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);
/// How long a process that was sent SIGKILL may take to go (it can hang in the kernel on a broken disk).
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// Lines of the log that an error shows.
const TAIL_LINES: usize = 15;
/// At most so much of the log's end is looked at for those lines.
const TAIL_BYTES: u64 = 16 << 10;

/// Why a process could not be started or ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error("{name}: program {program:?} is not installed")]
    NotInstalled {
        /// The process's name.
        name: String,
        /// What was looked for.
        program: PathBuf,
    },
    /// The operating system refused to make the folder, the log file or the process.
    #[error("{name}: cannot {what}: {source}")]
    System {
        /// The process's name.
        name: String,
        /// What was being done.
        what: String,
        /// Its answer.
        source: std::io::Error,
    },
    /// It ended before it was ready.
    #[error("{name} ended at start ({status}); the end of {log:?}:\n{tail}")]
    Died {
        /// The process's name.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// It runs but was not ready in time.
    #[error("{name} was not ready after {waited_ms} ms ({last}); the end of {log:?}:\n{tail}")]
    NotReady {
        /// The process's name.
        name: String,
        /// How long was waited, in milliseconds.
        waited_ms: u128,
        /// What the last look at it said.
        last: String,
        /// Its log file.
        log: PathBuf,
        /// The log's last lines.
        tail: String,
    },
    /// It did not even go after SIGKILL.
    #[error("{name} (pid {pid}) does not end after SIGKILL")]
    Stuck {
        /// The process's name.
        name: String,
        /// Its id.
        pid: u32,
    },
    /// No port is free on 127.0.0.1.
    #[error("no free port found on 127.0.0.1")]
    NoPort,
    /// What is to be started makes no sense.
    #[error("{name}: {reason}")]
    Misconfigured {
        /// The process's name.
        name: String,
        /// What is wrong, and where.
        reason: String,
    },
}

impl Coded for Error {
    fn code(&self) -> Code {
        Code(
            ranges::COMPUTE
                + match self {
                    Self::NotInstalled { .. } => 1,
                    Self::System { .. } => 2,
                    Self::Died { .. } => 3,
                    Self::NotReady { .. } => 4,
                    Self::Stuck { .. } => 5,
                    Self::NoPort => 6,
                    Self::Misconfigured { .. } => 7,
                },
        )
    }

    fn retry(&self) -> Retry {
        match self {
            Self::NotInstalled { .. } | Self::Misconfigured { .. } => Retry::Never,
            Self::System { .. } | Self::Died { .. } | Self::NotReady { .. } | Self::NoPort => Retry::Safe,
            Self::Stuck { .. } => Retry::OutcomeUnknown,
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Self::NotInstalled { .. } => "install the program, or give its path in the configuration",
            Self::System { .. } => "check rights and free space of the folder, and the process limit",
            Self::Died { .. } => {
                "read the log's end: most often a port in use or a folder of another version"
            }
            Self::NotReady { .. } => "read the log; on a slow machine allow more time",
            Self::Stuck { .. } => {
                "look for a hanging disk (`ps` shows state D); it ends once the disk answers"
            }
            Self::NoPort => "end processes that hold ports on this machine",
            Self::Misconfigured { .. } => "correct the configuration as the message says",
        }
    }
}

/// What to start.
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    hidden: Vec<String>,
    folder: PathBuf,
}

impl Launch {
    /// `name` stands in errors and names the log file `<folder>/<name>.log`; `folder` is made if missing and is the
    /// working directory. The program is looked for in `PATH` unless it holds a slash.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, folder: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            hidden: Vec::new(),
            folder: folder.into(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// More arguments.
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Runs it by another program that becomes it, such as `nsenter --net=…`; no words, no change.
    pub fn within(mut self, words: &[String]) -> Self {
        if let Some((program, before)) = words.split_first() {
            let inner = std::mem::replace(&mut self.program, program.into());
            let before = before.iter().map(Into::into).chain([inner.into_os_string()]);
            self.arguments.splice(..0, before);
        }
        self
    }

    /// Sets an environment variable on top of ours.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Keeps variables of our environment from it whose name starts so (settings meant for another instance).
    pub fn hide_env(mut self, prefix: impl Into<String>) -> Self {
        self.hidden.push(prefix.into());
        self
    }

    /// Starts it. A log from an earlier start is kept and appended to.
    ///
    /// # Errors
    /// [`Error::NotInstalled`], [`Error::System`]. That it ends at once is told by [`Process::wait_ready`].
    pub fn start(&self) -> Result<Process, Error> {
        let system = |what: String| {
            let name = self.name.clone();
            move |source| Error::System { name, what, source }
        };
        std::fs::create_dir_all(&self.folder).map_err(system(format!("make folder {:?}", self.folder)))?;
        let folder = self.folder.canonicalize().map_err(system(format!("find folder {:?}", self.folder)))?;
        let log = folder.join(format!("{}.log", self.name));
        let opened = || {
            let mut file = OpenOptions::new().create(true).append(true).open(&log)?;
            let start = file.seek(SeekFrom::End(0))?;
            let second = file.try_clone()?;
            Ok((file, second, start))
        };
        let (out, err, log_start) = opened().map_err(system(format!("open {log:?}")))?;
        let mut command = Command::new(&self.program);
        let hidden = |name: &OsString| {
            self.hidden.iter().any(|prefix| name.to_string_lossy().starts_with(prefix.as_str()))
        };
        for (name, _) in std::env::vars_os().filter(|(name, _)| hidden(name)) {
            command.env_remove(name);
        }
        command
            .args(&self.arguments)
            .envs(&self.environment)
            .current_dir(&folder)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0);
        die_with_us(&mut command);
        let child = fork(command).map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => {
                Error::NotInstalled { name: self.name.clone(), program: self.program.clone() }
            }
            _ => system(format!("start {:?}", self.program))(source),
        })?;
        Ok(Process { name: self.name.clone(), pid: child.id(), log, log_start, child: Mutex::new(child) })
    }
}

/// Has the kernel kill the child when the forking thread ends.
fn die_with_us(command: &mut Command) {
    #[cfg(target_os = "linux")]
    {
        let parent = std::process::id();
        let tie = move || {
            // SAFETY: both are async-signal-safe system calls without pointers.
            let (tied, now) =
                unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
            if tied != 0 {
                return Err(std::io::Error::last_os_error());
            }
            // We may have died between fork and prctl; nobody would tell the child.
            if u32::try_from(now) == Ok(parent) {
                Ok(())
            } else {
                Err(std::io::ErrorKind::Interrupted.into())
            }
        };
        // SAFETY: the closure only makes the two system calls above and allocates nothing.
        unsafe {
            command.pre_exec(tie);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

type Fork = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Forks on the one thread that lives as long as this process.
fn fork(command: Command) -> std::io::Result<Child> {
    static FORKER: OnceLock<Mutex<mpsc::Sender<Fork>>> = OnceLock::new();
    let forker = FORKER.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Fork>();
        // If no thread can be made, the send below fails and says so.
        let _ = thread::Builder::new().name("forker".into()).spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let gone = |_| std::io::Error::other("the thread that starts processes could not be made");
    let (sender, receiver) = mpsc::channel();
    let sent = forker.lock().unwrap_or_else(PoisonError::into_inner).send((command, sender));
    sent.map_err(|_| gone(mpsc::RecvError))?;
    receiver.recv().map_err(gone)?
}

/// A running child process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    pid: u32,
    log: PathBuf,
    log_start: u64,
    child: Mutex<Child>,
}

impl Process {
    /// Its id (also of its process group).
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The name it was launched under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where its standard output and error go.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of what it wrote since this start.
    pub fn log_tail(&self, lines: usize) -> String {
        read_tail(&self.log, self.log_start, lines)
            .unwrap_or_else(|error| format!("(cannot read it: {error})"))
    }

    /// How it ended, if it did.
    pub fn ended(&self) -> Option<ExitStatus> {
        // `try_wait` fails only if somebody else reaped it: then it has ended as well.
        self.child().try_wait().unwrap_or_else(|_| Some(ExitStatus::from_raw(0)))
    }

    /// Whether it still runs (a paused one does).
    pub fn is_running(&self) -> bool {
        self.ended().is_none()
    }

    /// Waits until `probe` succeeds, looking every few milliseconds; blocks the thread. The probe's error text is
    /// shown if the time runs out.
    ///
    /// # Errors
    /// [`Error::Died`], [`Error::NotReady`].
    pub fn wait_ready(
        &self,
        deadline: Duration,
        mut probe: impl FnMut() -> Result<(), String>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let looked = probe();
            if self.judge(looked, start.elapsed(), deadline)? {
                return Ok(());
            }
            thread::sleep(POLL);
        }
    }

    /// [`Process::wait_ready`] for tokio. The probe must have a deadline of its own.
    ///
    /// # Errors
    /// [`Error::Died`], [`Error::NotReady`].
    pub async fn ready(
        &self,
        deadline: Duration,
        mut probe: impl AsyncFnMut() -> Result<(), String>,
    ) -> Result<(), Error> {
        let start = Instant::now();
        loop {
            let looked = probe().await;
            if self.judge(looked, start.elapsed(), deadline)? {
                return Ok(());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether it is ready; an error if it never will be.
    fn judge(&self, looked: Result<(), String>, waited: Duration, deadline: Duration) -> Result<bool, Error> {
        // Looked at first: a probe can be answered by another process on the same port.
        if let Some(status) = self.ended() {
            let (name, log, tail) = (self.name.clone(), self.log.clone(), self.log_tail(TAIL_LINES));
            return Err(Error::Died { name, status, log, tail });
        }
        match looked {
            Ok(()) => Ok(true),
            Err(_) if waited < deadline => Ok(false),
            Err(last) => {
                let (name, log, tail) = (self.name.clone(), self.log.clone(), self.log_tail(TAIL_LINES));
                Err(Error::NotReady { name, waited_ms: waited.as_millis(), last, log, tail })
            }
        }
    }

    /// Asks it to end (SIGTERM) and kills it if it has not after `deadline`; blocks the thread. A paused process is
    /// resumed first, so that it can hear.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn stop(&self, deadline: Duration) -> Result<ExitStatus, Error> {
        self.signal(libc::SIGTERM);
        self.signal(libc::SIGCONT);
        match self.wait(deadline) {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Kills it (SIGKILL) with all that it started, and waits until it is gone; blocks the thread.
    ///
    /// # Errors
    /// [`Error::Stuck`].
    pub fn kill(&self) -> Result<ExitStatus, Error> {
        self.signal(libc::SIGKILL);
        self.wait(KILL_DEADLINE).ok_or_else(|| Error::Stuck { name: self.name.clone(), pid: self.pid })
    }

    /// Stops it in its tracks (SIGSTOP): its connections stay open and nothing answers.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets a paused one go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Waits until it has ended by itself; `None` if it has not in time.
    pub fn wait(&self, deadline: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            match self.ended() {
                Some(status) => return Some(status),
                None if start.elapsed() >= deadline => return None,
                None => thread::sleep(POLL),
            }
        }
    }

    /// Signals its group, unless it has ended (its id may be another process's by then).
    fn signal(&self, signal: i32) {
        let mut child = self.child();
        if let (Ok(None), Ok(pid)) = (child.try_wait(), i32::try_from(self.pid)) {
            // SAFETY: a system call without pointers; the child is not reaped, so the id is still its own.
            unsafe {
                libc::kill(-pid, signal);
            }
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Not waited long for: Drop must not hang. A child not reaped here is reaped by init after us.
        self.signal(libc::SIGKILL);
        self.wait(Duration::from_secs(2));
    }
}

fn read_tail(path: &Path, start: u64, lines: usize) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<&str> = text.lines().collect();
    Ok(all[all.len().saturating_sub(lines)..].join("\n"))
}

/// A port of 127.0.0.1 on which nothing listens; never the same twice in this process.
///
/// Outside the range that outgoing connections take theirs from (32768 and up on Linux), so that a server that is
/// killed finds its port free when it is started again.
///
/// # Errors
/// [`Error::NoPort`].
pub fn free_port() -> Result<u16, Error> {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..2_000 {
        // Random, so that processes that look at the same time hardly meet.
        let [a, b, ..] = *uuid::Uuid::new_v4().as_bytes();
        let port = 10_000 + u16::from_le_bytes([a, b]) % 22_000;
        if !given.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            given.insert(port);
            return Ok(port);
        }
    }
    Err(Error::NoPort)
}

#[cfg(test)]
#[path = "process_tests.rs"]
mod tests;
