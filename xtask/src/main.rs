//! `cargo xtask`: what building, testing and measuring concmon takes beyond plain cargo.
#![allow(
    clippy::print_stdout,
    reason = "a developer's tool: its standard output is its product"
)]

mod build_ebpf;
mod demo;
mod digest;
mod guests;
mod strip;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and measures concmon")]
enum Command {
    BuildEbpf(build_ebpf::Args),
    Test(test::Args),
    Demo(demo::Args),
    Guests(guests::Args),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Guests(args) => guests::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
