//! `cargo xtask`: what building, testing and measuring concmon takes beyond plain cargo.
#![allow(
    clippy::print_stdout,
    reason = "a developer's tool: its standard output is its product"
)]

mod apt;
mod bench;
mod build_ebpf;
mod demo;
mod digest;
mod fuzz;
mod guests;
mod healthy;
mod images;
mod instructions;
mod layouts;
mod peers;
mod pythons;
mod strip;
mod test;
mod tools;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, tests and measures concmon")]
enum Command {
    Bench(bench::Args),
    BuildEbpf(build_ebpf::Args),
    Test(test::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Guests(guests::Args),
    Healthy(healthy::Args),
    Images(images::Args),
    Layouts(layouts::Args),
    Peers(peers::Args),
    Pythons(pythons::Args),
}

fn main() -> ExitCode {
    let result = match Command::parse() {
        Command::Bench(args) => bench::run(&args),
        Command::BuildEbpf(args) => build_ebpf::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Fuzz(args) => fuzz::run(&args),
        Command::Guests(args) => guests::run(&args),
        Command::Healthy(args) => healthy::run(&args),
        Command::Images(args) => images::run(&args),
        Command::Layouts(args) => layouts::run(&args),
        Command::Peers(args) => peers::run(&args),
        Command::Pythons(args) => pythons::run(&args),
    };
    result.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}
