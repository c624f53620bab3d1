//! Python packages for interpreters, installed once for all runs to come.
//!
//! They are in `concmon/packages` of the user's cache folder, for an interpreter in another root
//! directory in that one's `/var/cache`; installed by whichever interpreter has pip.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::find::{Python, Version};
use crate::workspace;

/// A folder with the packages, as the interpreter sees it; an error says why there is none.
pub(super) fn folder(
    python: &Python,
    version: &Version,
    packages: &[&str],
    installers: &[Python],
) -> Result<PathBuf> {
    if version.free_threaded {
        bail!("no packages are installed for free-threaded builds");
    }
    let minor = format!("3.{}", version.minor);
    let (root, cache) = match &python.root {
        None => (Path::new("/"), workspace::cache_dir()?),
        Some(root) => (root.as_path(), root.join("var/cache/concmon")),
    };
    let folder = cache.join("packages").join(&minor).join(packages.join(","));
    if !folder.is_dir() {
        install(&minor, packages, &folder, installers)?;
    }
    let inside = Path::new("/").join(folder.strip_prefix(root)?);
    import(python, &inside, packages)?;
    Ok(inside)
}

/// Some packages do not run on every Python that pip installs them for.
fn import(python: &Python, inside: &Path, packages: &[&str]) -> Result<()> {
    let output = python
        .command()
        .arg("-c")
        .arg(format!("import {}", packages.join(", ")))
        .env("PYTHONPATH", inside)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        bail!("{} does not run on it: {last:.150}", packages.join(", "));
    }
    Ok(())
}

fn install(minor: &str, packages: &[&str], folder: &Path, installers: &[Python]) -> Result<()> {
    let parent = folder.parent().context("no parent folder")?;
    fs::create_dir_all(parent)?;
    let fresh = tempfile::tempdir_in(parent)?;
    let target = fresh.path().join("packages");
    // One of the same version, whose requirements are the right ones; else the newest one.
    let same = |python: &&Python| {
        python
            .version()
            .is_some_and(|version| minor == format!("3.{}", version.minor))
    };
    let able = || installers.iter().rev().filter(|python| has_pip(python));
    if let Some(python) = able().find(same).or_else(|| able().next()) {
        let output = python
            .command()
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary=:all:", "--python-version", minor, "--target"])
            .arg(&target)
            .args(packages)
            .stdin(Stdio::null())
            .output()?;
        if output.status.success() {
            // Another one may have been faster.
            return match fs::rename(&target, folder) {
                Err(_) if folder.is_dir() => Ok(()),
                moved => moved.with_context(|| format!("moving it to {}", folder.display())),
            };
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        bail!("not to be installed: {last:.150}");
    }
    bail!("no interpreter has pip")
}

fn has_pip(python: &Python) -> bool {
    if python.root.is_some() {
        return false;
    }
    let mut command: Command = python.command();
    command.args(["-c", "import pip"]).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
