//! `concmon-bpf`: parses the command line, runs, and turns the outcome into an exit code.

use std::process::ExitCode;

use concmon::{cli::Cli, commands, session};

fn main() -> ExitCode {
    keep_memory();
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    init_log(cli.options.verbose, cli.options.quiet);
    let code = commands::run(&cli).unwrap_or_else(|failure| {
        session::say(&format!("concmon-bpf: {failure}\n"));
        failure.code
    });
    session::end_of_messages();
    ExitCode::from(code)
}

/// A report is made and forgotten with each window: its memory is not given back to the kernel in between, which would
/// take a page fault for each page of the next one.
#[cfg(target_env = "gnu")]
fn keep_memory() {
    const KEPT_BYTES: libc::c_int = 16 << 20;
    // SAFETY: sets a number of the allocator; there is no other thread yet.
    unsafe {
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
    }
}

#[cfg(not(target_env = "gnu"))]
fn keep_memory() {}

/// Diagnostics go to standard error: warnings by default, more with `-v`, none with `-q`.
fn init_log(verbose: u8, quiet: bool) {
    use log::LevelFilter;
    let level = match (quiet, verbose) {
        (true, _) => LevelFilter::Off,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, _) => LevelFilter::Debug,
    };
    env_logger::Builder::new()
        .filter_level(LevelFilter::Off)
        .filter_module("concmon", level)
        .format_timestamp(None)
        .format_target(false)
        .target(env_logger::Target::Pipe(Box::new(session::LogLines)))
        .init();
}
