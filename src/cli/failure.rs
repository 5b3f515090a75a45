//! Why a command did not do what it should, as people and programs are told.

use super::output::printable;
use crate::adapters::peers;
use crate::config;
use crate::error::{Code, Coded, Retry};
use serde_json::json;
use std::process::ExitCode;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Nothing went wrong; there is nobody to tell any more.
    Done,
    /// Refused or failed.
    Failed,
    /// Wrong usage.
    Usage,
    /// Something needed does not answer, or not in time.
    Unavailable,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(match exit {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unavailable => 3,
        })
    }
}

/// One clear line, what to do, and how the process ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    exit: Exit,
    message: String,
    remedy: String,
    code: Option<Code>,
    retry: Retry,
}

impl Failure {
    fn new(exit: Exit, message: String, remedy: &str) -> Self {
        Self { exit, message, remedy: remedy.to_owned(), code: None, retry: Retry::Never }
    }

    /// Refused or failed.
    pub fn failed(message: impl Into<String>, remedy: &str) -> Self {
        Self::new(Exit::Failed, message.into(), remedy)
    }

    /// Wrong usage that clap cannot see.
    pub fn usage(message: impl Into<String>, remedy: &str) -> Self {
        Self::new(Exit::Usage, message.into(), remedy)
    }

    /// Too late, or not there.
    pub fn unavailable(message: impl Into<String>, remedy: &str) -> Self {
        Self { retry: Retry::Safe, ..Self::new(Exit::Unavailable, message.into(), remedy) }
    }

    /// Ends the command without a word.
    pub fn end() -> Self {
        Self::new(Exit::Done, String::new(), "")
    }

    /// An error that knows its code and remedy.
    pub fn coded(error: &dyn Coded, exit: Exit) -> Self {
        let new = Self::new(exit, error.to_string(), error.remedy());
        Self { code: Some(error.code()), retry: error.retry(), ..new }
    }

    /// The same, with what helps here.
    pub fn with_remedy(self, remedy: &str) -> Self {
        Self { remedy: remedy.to_owned(), ..self }
    }

    /// The same, with what happened before it.
    pub fn after(mut self, story: &str) -> Self {
        self.message = format!("{story}: {}", self.message);
        self
    }

    pub(super) fn exit(&self) -> Exit {
        self.exit
    }

    pub(super) fn silent(&self) -> bool {
        self.exit == Exit::Done
    }

    pub(super) fn text(&self, colour: bool) -> String {
        let (red, plain) = if colour { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let code = self.code.map_or(String::new(), |code| format!(" [{code}]"));
        let remedy =
            if self.remedy.is_empty() { String::new() } else { format!("remedy: {}\n", self.remedy) };
        // Lines are a message's own; whatever else a terminal would obey is shown.
        let message: Vec<String> = self.message.lines().map(printable).collect();
        format!("{red}error{plain}{code}: {}\n{remedy}", message.join("\n"))
    }

    pub(super) fn json(&self) -> String {
        let retry = match self.retry {
            Retry::Safe => "safe",
            Retry::Never => "never",
            Retry::OutcomeUnknown => "outcome_unknown",
        };
        let code = self.code.map(|code| code.to_string());
        let error = json!({ "code": code, "message": self.message, "remedy": self.remedy, "retry": retry });
        format!("{}\n", json!({ "error": error }))
    }
}

impl From<peers::Error> for Failure {
    fn from(error: peers::Error) -> Self {
        use peers::Error as E;
        let exit = match &error {
            E::NoLeader(_) | E::Unavailable(_) => Exit::Unavailable,
            E::OutcomeUnknown(_) | E::BatchUnknown(_) => Exit::Unavailable,
            E::Invalid(_) | E::NotFound(_) | E::Exists(_) | E::Refused(_) => Exit::Failed,
            E::Held(_) | E::Stale(_) | E::Internal(_) => Exit::Failed,
        };
        Self::coded(&error, exit)
    }
}

impl From<config::Error> for Failure {
    fn from(error: config::Error) -> Self {
        Self::coded(&error, Exit::Failed)
    }
}
