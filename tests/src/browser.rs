//! A page in a headless Chromium, where there is one, driven by playwright-core for Node.js.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The program that opens a page and tells what it saw.
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/browser/page.js");

/// Chromium: `CHROMIUM`, else where distributions have it.
fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
    let usual = [
        "/usr/bin/chromium",
        "/usr/bin/chromium-browser",
        "/usr/bin/google-chrome",
    ];
    named
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .find(|path| path.is_file())
}

/// A folder with `playwright-core`: in `NODE_PATH`, else that of global packages.
fn modules() -> Option<PathBuf> {
    let named = std::env::var_os("NODE_PATH").into_iter();
    let named = named.flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>());
    let usual = ["/usr/lib/node_modules", "/usr/local/lib/node_modules"].map(PathBuf::from);
    named
        .chain(usual)
        .find(|path| path.join("playwright-core").is_dir())
}

/// Why there is none; `None` when there is.
pub fn missing() -> Option<String> {
    if chromium().is_none() {
        return Some("needs Chromium (CHROMIUM=...)".to_owned());
    }
    modules().is_none().then(|| {
        "needs playwright-core for Node.js (npm install -g playwright-core, or NODE_PATH)"
            .to_owned()
    })
}

/// The command that opens a page; it prints one JSON object.
///
/// # Errors
/// When there is no browser.
pub fn command(page: &Path) -> Result<Command> {
    let mut command = Command::new("node");
    command
        .arg(PROGRAM)
        .arg(page)
        .env("CHROMIUM", chromium().context("no Chromium")?)
        .env("NODE_PATH", modules().context("no playwright-core")?);
    Ok(command)
}
