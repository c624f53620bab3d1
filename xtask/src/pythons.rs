//! `cargo xtask pythons`: which interpreters the tests will find here, and fetching the newest.
use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};

use crate::workspace;

/// Minor versions of CPython 3 that concmon is to be tried on.
const WANTED: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];
const SID_PACKAGES: &str = "python3.13,python3.14,python3.15";
const PROBE: &str = "\
import asyncio, sys, threading
gil = getattr(sys, '_is_gil_enabled', lambda: True)()
print('.'.join(map(str, sys.version_info[:3])), 'GIL' if gil else 'free-threaded')
";

/// List the Python interpreters found here
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Fetch Debian sid's interpreters into the cache folder (as root) when they are not there
    #[arg(long)]
    fetch: bool,
}

/// Runs the command; fails when an interpreter was found that does not run.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if args.fetch {
        match find_sid()? {
            Some(dir) => println!("sid: {} is there already", dir.display()),
            None => fetch_sid()?,
        }
    }
    let mut broken = false;
    let mut seen = BTreeSet::new();
    println!("{:8} {:24} interpreter", "from", "version");
    for python in find_all()? {
        let version = match python.probe() {
            Ok(Some(version)) => {
                let minor: Vec<&str> = version.split('.').take(2).collect();
                seen.insert(minor.join("."));
                version
            }
            Ok(None) => "not run: needs root".to_owned(),
            Err(error) => {
                broken = true;
                format!("BROKEN: {error:#}")
            }
        };
        println!(
            "{:8} {version:24} {}",
            python.origin,
            python.path().display()
        );
    }
    let missing: Vec<&str> = WANTED
        .into_iter()
        .filter(|version| !seen.contains(*version))
        .collect();
    if !missing.is_empty() {
        println!("\nnot found: {}", missing.join(", "));
        if !args.fetch && find_sid()?.is_none() {
            println!("`cargo xtask pythons --fetch` (as root) brings 3.13, 3.14 and 3.15");
        }
    }
    Ok(if broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

pub(crate) struct Python {
    origin: &'static str,
    /// The folder that it takes for its root, where that is not ours.
    root: Option<PathBuf>,
    /// As seen from its root.
    program: PathBuf,
}

impl Python {
    pub(crate) fn path(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join(self.program.strip_prefix("/").unwrap_or(&self.program)),
            None => self.program.clone(),
        }
    }

    /// A command that runs it; where it has a root of its own, that needs root.
    pub(crate) fn command(&self) -> Command {
        match &self.root {
            Some(root) => {
                let mut chroot = Command::new("chroot");
                chroot.arg(root).arg(&self.program);
                chroot
            }
            None => Command::new(&self.program),
        }
    }

    /// Its version as it says itself; none where only root can run it.
    pub(crate) fn probe(&self) -> Result<Option<String>> {
        if self.root.is_some() && !workspace::is_root() {
            return Ok(None);
        }
        let version = workspace::output(self.command().args(["-I", "-c", PROBE]))?;
        Ok(Some(version.trim().to_owned()))
    }
}

pub(crate) fn find_all() -> Result<Vec<Python>> {
    let mut found = Vec::new();
    if let Some(versions) = pyenv_versions() {
        for dir in sorted(&versions)? {
            let program = dir.join("bin/python3");
            // Links are names for other versions, and virtual environments.
            if !dir.is_symlink() && program.exists() {
                found.push(Python {
                    origin: "pyenv",
                    root: None,
                    program,
                });
            }
        }
    }
    for dir in ["/usr/bin", "/usr/local/bin"] {
        for program in interpreters(Path::new(dir))? {
            found.push(Python {
                origin: "system",
                root: None,
                program,
            });
        }
    }
    if let Some(root) = find_sid()? {
        for program in interpreters(&root.join("usr/bin"))? {
            let program = Path::new("/").join(program.strip_prefix(&root).unwrap_or(&program));
            found.push(Python {
                origin: "sid",
                root: Some(root.clone()),
                program,
            });
        }
    }
    Ok(found)
}

/// Programs called `python3.N` or `python3.Nt` in `dir`.
fn interpreters(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut paths = sorted(dir)?;
    paths.retain(|path| {
        path.file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_prefix("python3."))
            .map(|minor| minor.strip_suffix('t').unwrap_or(minor))
            .is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|b| b.is_ascii_digit()))
    });
    Ok(paths)
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .with_context(|| format!("listing {}", dir.display()))?;
    paths.sort();
    Ok(paths)
}

fn pyenv_versions() -> Option<PathBuf> {
    let root = env::var_os("PYENV_ROOT").map(PathBuf::from).or_else(|| {
        let home = env::var_os("HOME")?;
        Some(Path::new(&home).join(".pyenv"))
    })?;
    Some(root.join("versions")).filter(|dir| dir.is_dir())
}

/// The first folder that holds Debian sid with an interpreter.
fn find_sid() -> Result<Option<PathBuf>> {
    let mut candidates: Vec<PathBuf> = env::var_os("CONCMON_SID")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    candidates.push(workspace::cache_dir()?.join("sid"));
    candidates.push("/var/cache/concmon-sid".into());
    for dir in candidates {
        if !interpreters(&dir.join("usr/bin"))?.is_empty() {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

fn fetch_sid() -> Result<()> {
    ensure!(
        workspace::is_root(),
        "fetching Debian sid needs root: run `sudo -E cargo xtask pythons --fetch`"
    );
    if workspace::in_path("debootstrap").is_none() {
        if workspace::in_path("apt-get").is_none() {
            bail!("debootstrap is not installed, and there is no apt-get to install it with");
        }
        workspace::run(Command::new("apt-get").args(["-q", "update"]))?;
        workspace::run(
            Command::new("apt-get")
                .args([
                    "-q",
                    "-y",
                    "--no-install-recommends",
                    "install",
                    "debootstrap",
                ])
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )?;
    }
    let cache = workspace::cache_dir()?;
    let dir = cache.join("sid");
    ensure!(
        !dir.exists(),
        "{} exists but holds no interpreter; remove it first",
        dir.display()
    );
    // Not a self-deleting folder: where debootstrap fails it may leave /proc and /sys mounted there.
    let root = cache.join("sid.partial");
    ensure!(
        !root.exists(),
        "{} is left from a failed attempt: unmount what is mounted below it, and remove it",
        root.display()
    );
    workspace::run(
        Command::new("debootstrap")
            .args(["--variant=minbase", "--include", SID_PACKAGES, "sid"])
            .arg(&root),
    )?;
    fs::rename(&root, &dir).with_context(|| format!("moving it to {}", dir.display()))
}
