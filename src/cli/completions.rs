//! `atlas completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Outcome;
use super::output::print;

const EXAMPLE: &str = "\
Example:
  source <(atlas completions bash)      for this shell; in ~/.bashrc, for every one
  atlas completions zsh > ~/.zfunc/_atlas";

/// Print the completions of a shell
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub struct Completions {
    /// Which shell.
    shell: Shell,
}

impl Completions {
    /// Prints them.
    pub fn run(self) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::Cli::command(), "atlas", &mut script);
        print(&String::from_utf8(script)?)?;
        Ok(Outcome::Done)
    }
}
