//! Debian sid in a folder: interpreters that are newer than the system's.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use super::find;
use crate::workspace;

const PACKAGES: &str = "python3.13,python3.14,python3.15";

/// The first folder that holds Debian sid with an interpreter.
pub(super) fn find() -> Result<Option<PathBuf>> {
    let mut candidates: Vec<PathBuf> = env::var_os("CONCMON_SID")
        .map(PathBuf::from)
        .into_iter()
        .collect();
    candidates.push(workspace::cache_dir()?.join("sid"));
    candidates.push("/var/cache/concmon-sid".into());
    for dir in candidates {
        if !find::interpreters(&dir.join("usr/bin"))?.is_empty() {
            return Ok(Some(dir));
        }
    }
    Ok(None)
}

/// Makes the folder; needs root.
pub(super) fn fetch() -> Result<()> {
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
            .args(["--variant=minbase", "--include", PACKAGES, "sid"])
            .arg(&root),
    )?;
    fs::rename(&root, &dir).with_context(|| format!("moving it to {}", dir.display()))
}

/// Mounts `/proc` in it, which Python programs there need; it stays.
pub(crate) fn mount_proc(root: &Path) -> Result<()> {
    let proc = root.join("proc");
    if proc.join("self").exists() {
        return Ok(());
    }
    workspace::run(
        Command::new("mount")
            .args(["-t", "proc", "proc"])
            .arg(&proc),
    )
}
