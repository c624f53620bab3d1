//! `cargo xtask layouts`: what is known about the memory of each Python version, and whether it
//! holds for the interpreters found here.
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use anyhow::{Context, Result, ensure};

use crate::pythons::{self, Python};
use crate::workspace;

/// A program that has everything loaded whose layout is compared.
const PROGRAM: &str = "\
import _asyncio, _queue, asyncio, concurrent.futures.process, contextvars, sys, threading, types
print('ready', flush=True)
sys.stdin.read()
";

/// Print the layouts of all Python versions, and compare them with the interpreters found here
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only print the rows
    #[arg(long)]
    rows: bool,
}

/// Runs the command; fails when a layout does not hold for an interpreter.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    workspace::run(workspace::cargo().args([
        "build",
        "--package=concmon-userspace",
        "--example=layouts",
    ]))?;
    let layouts = workspace::target_dir()?.join("debug/examples/layouts");
    workspace::run(&mut Command::new(&layouts))?;
    if args.rows {
        return Ok(ExitCode::SUCCESS);
    }
    let mut holds = true;
    for python in pythons::all()? {
        println!("\n{}", python.path().display());
        match python.version() {
            None => println!("  not run"),
            Some(version) if version.minor < 8 || version.free_threaded => {
                println!("  {}: there is no row", version.text);
            }
            Some(_) => holds &= compare(&layouts, &python)?,
        }
    }
    Ok(ExitCode::from(u8::from(!holds)))
}

fn compare(layouts: &Path, python: &Python) -> Result<bool> {
    let mut child = Running(
        python
            .command()
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {}", python.path().display()))?,
    );
    let mut said = String::new();
    let stdout = child.0.stdout.take().context("it has no output")?;
    BufReader::new(stdout).read_line(&mut said)?;
    ensure!(said == "ready\n", "the program did not start");
    let status = Command::new(layouts)
        .arg(child.0.id().to_string())
        .status()
        .with_context(|| format!("running {}", layouts.display()))?;
    Ok(status.success())
}

/// A program that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
