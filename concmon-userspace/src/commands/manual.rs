//! `concmon-bpf completions` and `man`: the command line, for shells and for `man`.

use std::io::{self, Write as _};

use clap_mangen::Man;

use crate::cli::{Cli, Shell};
use crate::session::outcome::{Failure, code};

/// Prints what makes a shell complete command lines.
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut command = Cli::clap_command();
    let name = command.get_name().to_owned();
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, name, &mut text);
    print(&text)
}

/// Prints the manual page, in the form that `man` reads.
pub(super) fn page(subcommand: Option<&str>) -> Result<u8, Failure> {
    let mut command = Cli::clap_command();
    // Only then subcommands have the global options, and their whole names.
    command.build();
    let command = match subcommand {
        None => command,
        Some(name) => {
            let Some(found) = command.find_subcommand(name) else {
                let names: Vec<_> = command
                    .get_subcommands()
                    .map(clap::Command::get_name)
                    .collect();
                let message = format!(
                    "there is no subcommand `{}`; there are {}",
                    crate::escape::escape(name),
                    names.join(", ")
                );
                return Err(Failure::new(code::USAGE, message));
            };
            found.clone()
        }
    };
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    print(&text)
}

fn print(text: &[u8]) -> Result<u8, Failure> {
    crate::session::printed(io::stdout().lock().write_all(text))?;
    Ok(code::OK)
}
