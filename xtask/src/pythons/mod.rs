//! `cargo xtask pythons`: what concmon says of programs on every interpreter found here, beside
//! what those programs say of themselves.

mod compare;
mod find;
mod gil;
mod packages;
mod program;
mod sid;
mod table;
mod trio;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::workspace;
use find::Probe;
pub(crate) use find::{Python, all};
pub(crate) use sid::mount_proc;

/// Minor versions of CPython 3 that concmon is to be tried on.
pub(crate) const WANTED: RangeInclusive<u32> = 8..=15;

/// Compare what concmon reads with what programs say of themselves, on every interpreter found
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only interpreters whose version begins with this, or that come from there (pyenv, system, sid)
    interpreters: Vec<String>,
    /// Only list the interpreters
    #[arg(long)]
    list: bool,
    /// Fetch Debian sid's interpreters into the cache folder (as root) when they are not there,
    /// and list all
    #[arg(long)]
    fetch: bool,
    /// Show every difference, not only the first of each program
    #[arg(long, short)]
    verbose: bool,
    /// Build and use the release build
    #[arg(long)]
    release: bool,
    /// Use this concmon-bpf instead of building one
    #[arg(long, value_name = "PATH", conflicts_with = "release")]
    monitor: Option<PathBuf>,
}

/// Runs the command; fails when a cell fails, or when an interpreter was found that does not run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.fetch {
        match sid::find()? {
            Some(dir) => println!("sid: {} is there already", dir.display()),
            None => sid::fetch()?,
        }
    }
    let pythons = all()?;
    let good = if args.list || args.fetch {
        list(&pythons)
    } else {
        let monitor = match &args.monitor {
            Some(path) => path.clone(),
            None => build(args.release)?,
        };
        ensure!(monitor.is_file(), "there is no {}", monitor.display());
        if let Some(root) = sid::find()?
            && workspace::is_root()
        {
            sid::mount_proc(&root)?;
        }
        table::run(&pythons, &args.interpreters, &monitor, args.verbose)?
    };
    print_missing(&pythons, args.fetch)?;
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Builds concmon-bpf and returns its path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut cargo = workspace::cargo();
    cargo.args(["build", "--package=concmon-userspace", "--bin=concmon-bpf"]);
    if release {
        cargo.arg("--release");
    }
    workspace::run(&mut cargo)?;
    let profile = if release { "release" } else { "debug" };
    Ok(workspace::target_dir()?.join(profile).join("concmon-bpf"))
}

/// Prints all interpreters; false when one does not run.
fn list(pythons: &[Python]) -> bool {
    let mut good = true;
    println!("{:8} {:24} interpreter", "from", "version");
    for python in pythons {
        let version = match &python.probe {
            Probe::Runs(version) => version.text.clone(),
            Probe::NeedsRoot => "not run: needs root".to_owned(),
            Probe::Broken(error) => {
                good = false;
                format!("BROKEN: {error}")
            }
        };
        println!(
            "{:8} {version:24} {}",
            python.origin,
            python.path().display()
        );
    }
    good
}

fn print_missing(pythons: &[Python], fetched: bool) -> Result<()> {
    let seen: BTreeSet<u32> = pythons
        .iter()
        .filter_map(|python| Some(python.version()?.minor))
        .collect();
    let missing: Vec<String> = WANTED
        .filter(|minor| !seen.contains(minor))
        .map(|minor| format!("3.{minor}"))
        .collect();
    if !missing.is_empty() {
        println!("\nnot found: {}", missing.join(", "));
        if !fetched && sid::find()?.is_none() {
            println!("`cargo xtask pythons --fetch` (as root) brings 3.13, 3.14 and 3.15");
        }
    }
    Ok(())
}
