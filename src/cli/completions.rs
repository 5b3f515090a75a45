//! `converthouse completions SHELL`.

use super::{Cli, Context, Failure};
use clap::{Args, CommandFactory};

/// Options of `completions`.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For which shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(super) fn run(self, context: &Context) -> Result<(), Failure> {
        context.no_json("completions", "leave --json out")?;
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "converthouse", &mut script);
        context.emit(&String::from_utf8_lossy(&script))
    }
}
