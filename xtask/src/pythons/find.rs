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
pub(super) struct Python {
    pub(super) origin: &'static str,
    /// The folder that it takes for its root, where that is not ours.
    pub(super) root: Option<PathBuf>,
    /// As seen from its root.
    program: PathBuf,
}

impl Python {
    pub(super) fn path(&self) -> PathBuf {
        match &self.root {
            Some(root) => root.join(self.program.strip_prefix("/").unwrap_or(&self.program)),
            None => self.program.clone(),
        }
    }

    /// The minor version in the name of the program, links followed.
    pub(super) fn minor(&self) -> Option<u32> {
        let path = fs::canonicalize(self.path()).ok()?;
        let name = path.file_name()?.to_str()?;
        name.strip_prefix("python3.")?
            .trim_end_matches('t')
            .parse()
            .ok()
    }

    /// A command that runs it; the process that it starts becomes the interpreter.
    pub(super) fn command(&self) -> Command {
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
    pub(super) fn probe(&self) -> Result<Option<String>> {
        if self.root.is_some() && !workspace::is_root() {
            return Ok(None);
        }
        let version = workspace::output(self.command().args(["-I", "-c", PROBE]))?;
        Ok(Some(version.trim().to_owned()))
    }
}

/// `3.11` of `3.11.7 GIL`.
pub(super) fn minor_of(version: &str) -> String {
    let parts: Vec<&str> = version.split('.').take(2).collect();
    parts.join(".")
}

/// All interpreters, the same order every time.
pub(super) fn all() -> Result<Vec<Python>> {
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
    if let Some(root) = sid::find()? {
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
