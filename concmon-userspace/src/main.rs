//! `concmon-bpf`: parses the command line, runs, and turns the outcome into an exit code.

use std::process::ExitCode;

use concmon::{
    cli::{Cli, Target},
    commands, session,
};

fn main() -> ExitCode {
    if let Some(code) = commands::dialer(std::env::args_os()) {
        return code;
    }
    let cli = match Cli::from_args(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    let is_agent = matches!(cli.target(), Target::Agent(_));
    init_log(cli.options.verbose, cli.options.quiet, is_agent);
    let code = commands::run(&cli).unwrap_or_else(|failure| {
        session::say(&format!("concmon-bpf: {failure}\n"));
        failure.code
    });
    session::end_of_messages();
    ExitCode::from(code)
}

/// Diagnostics go to standard error: warnings by default, more with `-v`, none with `-q`. The agent says by
/// default what it does, too, in lines for machines.
fn init_log(verbose: u8, quiet: bool, is_agent: bool) {
    use log::LevelFilter;
    let level = match (quiet, verbose + u8::from(is_agent)) {
        (true, _) => LevelFilter::Off,
        (false, 0) => LevelFilter::Warn,
        (false, 1) => LevelFilter::Info,
        (false, _) => LevelFilter::Debug,
    };
    let mut builder = env_logger::Builder::new();
    if is_agent {
        builder.format(|out, record| session::write_log_line(out, record));
    }
    builder
        .filter_level(LevelFilter::Off)
        .filter_module("concmon", level)
        .format_timestamp(None)
        .format_target(false)
        .target(env_logger::Target::Pipe(Box::new(session::LogLines)))
        .init();
}
