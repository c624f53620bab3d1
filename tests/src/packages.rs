//! Python packages for workloads, installed once per version of Python for all runs to come.
//!
//! They are in `concmon/packages` of the user's cache folder, for an interpreter in another root
//! directory in that one's `/var/cache`; installed by whichever interpreter has pip.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::harness::Skip;
use crate::interpreter::Interpreter;

/// The folder with packages, as the interpreter sees it.
///
/// # Errors
/// [`Skip`] where they cannot be installed or do not run.
pub fn folder(python: &Interpreter, version: &str, packages: &[&str]) -> Result<PathBuf> {
    let root = python.root().unwrap_or(Path::new("/"));
    let cache = match python.root() {
        Some(root) => root.join("var/cache"),
        None => own_cache()?,
    };
    let folder = cache
        .join("concmon/packages")
        .join(version)
        .join(packages.join(","));
    if !folder.is_dir() {
        install(version, packages, &folder)?;
    }
    let inside = Path::new("/").join(folder.strip_prefix(root)?);
    import(python, &inside, packages)?;
    Ok(inside)
}

/// Packages whose module is called otherwise.
const MODULES: &[(&str, &str)] = &[
    ("austin-python", "austin"),
    ("helm_python_sdk", "helm_python"),
    ("pyyaml", "yaml"),
];

fn module(package: &str) -> String {
    let named = MODULES.iter().find(|(of, _)| *of == package);
    named.map_or_else(
        || package.replace('-', "."),
        |(_, module)| (*module).to_owned(),
    )
}

fn own_cache() -> Result<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
        .context("no cache folder")
}

/// A dash in a package's name stands for the dot of a namespace. Some packages do not run on every Python that pip installs them for.
fn import(python: &Interpreter, inside: &Path, packages: &[&str]) -> Result<()> {
    let modules: Vec<String> = packages.iter().map(|package| module(package)).collect();
    let output = python
        .command()
        .arg("-c")
        .arg(format!("import {}", modules.join(", ")))
        .env("PYTHONPATH", inside)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    let names = packages.join(", ");
    Err(Skip(format!("{names} does not run on it: {last:.100}")).into())
}

fn install(version: &str, packages: &[&str], folder: &Path) -> Result<()> {
    let parent = folder.parent().context("no parent folder")?;
    std::fs::create_dir_all(parent)?;
    let fresh = tempfile::tempdir_in(parent)?;
    let target = fresh.path().join("packages");
    let output = with_pip(version)?
        .args(["-m", "pip", "install", "--quiet"])
        .args(["--disable-pip-version-check", "--only-binary=:all:"])
        .args(["--python-version", version, "--target"])
        .arg(&target)
        .args(packages)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        let names = packages.join(", ");
        return Err(Skip(format!("pip does not install {names}: {last:.150}")).into());
    }
    match std::fs::rename(&target, folder) {
        // Another run may have been faster.
        Err(_) if folder.is_dir() => Ok(()),
        moved => moved.with_context(|| format!("moving it to {}", folder.display())),
    }
}

/// A command of an interpreter that has pip. Best its own, for which packages are needed beside others
/// may depend on it; else the newest one, which knows most about what there is.
fn with_pip(version: &str) -> Result<Command> {
    let others = (8..=15).rev().map(|minor| format!("3.{minor}"));
    std::iter::once(version.to_owned())
        .chain(others)
        .filter_map(|version| Interpreter::find(&version).ok())
        .filter(|python| python.root().is_none())
        .find(|python| {
            let mut command = python.command();
            command.args(["-c", "import pip"]).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        })
        .map(|python| python.command())
        .ok_or_else(|| Skip("no interpreter has pip".to_owned()).into())
}
