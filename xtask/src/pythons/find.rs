//! Finds interpreters: pyenv's, the system's, and those of a Debian sid folder.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::sid;
use crate::workspace;

const PROBE: &str = "\
import asyncio, sys, threading
gil = getattr(sys, '_is_gil_enabled', lambda: True)()
print('.'.join(map(str, sys.version_info[:3])), 'GIL' if gil else 'free-threaded')
";

/// An interpreter.
#[derive(Clone, Debug)]
pub(crate) struct Python {
    pub(super) origin: &'static str,
    /// The folder that it takes for its root, where that is not ours.
    pub(super) root: Option<PathBuf>,
    /// As seen from its root.
    program: PathBuf,
    pub(super) probe: Probe,
}

/// What it says of itself when it is run.
#[derive(Clone, Debug)]
pub(crate) enum Probe {
    Runs(Version),
    NeedsRoot,
    Broken(String),
}

/// `3.11.7 GIL`.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) text: String,
    /// 11 of 3.11.
    pub(crate) minor: u32,
    pub(crate) free_threaded: bool,
}

impl Python {
    fn new(origin: &'static str, root: Option<&Path>, program: PathBuf) -> Self {
        let mut python = Self {
            origin,
            root: root.map(Path::to_owned),
            program,
            probe: Probe::NeedsRoot,
        };
        if root.is_none() || workspace::is_root() {
            python.probe = match python.ask() {
                Ok(version) => Probe::Runs(version),
                Err(error) => Probe::Broken(format!("{error:#}")),
            };
        }
        python
    }

    pub(crate) fn path(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join(self.program.strip_prefix("/").unwrap_or(&self.program)),
            None => self.program.clone(),
        }
    }

    pub(crate) fn version(&self) -> Option<&Version> {
        match &self.probe {
            Probe::Runs(version) => Some(version),
            Probe::NeedsRoot | Probe::Broken(_) => None,
        }
    }

    /// A command that runs it; the process that it starts becomes the interpreter.
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

    fn ask(&self) -> Result<Version> {
        let said = workspace::output(self.command().args(["-I", "-c", PROBE]))?;
        let text = said.trim().to_owned();
        let minor = text.split('.').nth(1).and_then(|minor| minor.parse().ok());
        Ok(Version {
            minor: minor.with_context(|| format!("{text} is no version"))?,
            free_threaded: text.ends_with("free-threaded"),
            text,
        })
    }
}

/// All interpreters, the oldest first.
pub(crate) fn all() -> Result<Vec<Python>> {
    let mut found = Vec::new();
    if let Some(versions) = pyenv_versions() {
        for dir in sorted(&versions)? {
            let program = dir.join("bin/python3");
            // Links are names for other versions, and virtual environments.
            if !dir.is_symlink() && program.exists() {
                found.push(Python::new("pyenv", None, program));
            }
        }
    }
    for dir in ["/usr/bin", "/usr/local/bin"] {
        for program in interpreters(Path::new(dir))? {
            found.push(Python::new("system", None, program));
        }
    }
    if let Some(root) = sid::find()? {
        for program in interpreters(&root.join("usr/bin"))? {
            let program = Path::new("/").join(program.strip_prefix(&root).unwrap_or(&program));
            found.push(Python::new("sid", Some(&root), program));
        }
    }
    found.sort_by_key(|python| python.version().map(|version| version.minor));
    Ok(found)
}

/// Programs called `python3.N` or `python3.Nt` in `dir`.
pub(super) fn interpreters(dir: &Path) -> Result<Vec<PathBuf>> {
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
