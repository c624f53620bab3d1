//! Finds Python interpreters: pyenv's, the system's, and those of a Debian sid folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

/// A Python interpreter, directly or inside another root file system.
#[derive(Clone, Debug)]
pub struct Interpreter {
    /// Path of the executable, inside `root` when there is one.
    executable: PathBuf,
    root: Option<PathBuf>,
}

impl Interpreter {
    /// The interpreter of a minor version such as `3.11`.
    ///
    /// # Errors
    /// When there is none; the message names the places searched.
    pub fn find(version: &str) -> Result<Self> {
        if let Some(executable) = pyenv(version).or_else(|| system(version)) {
            return Ok(Self {
                executable,
                root: None,
            });
        }
        for root in sid_roots() {
            let executable = Path::new("/usr/bin").join(format!("python{version}"));
            if !root
                .join("usr/bin")
                .join(format!("python{version}"))
                .exists()
            {
                continue;
            }
            ensure!(
                root.join("proc/self").exists(),
                "needs /proc inside {0}: mount -t proc proc {0}/proc",
                root.display()
            );
            return Ok(Self {
                executable,
                root: Some(root),
            });
        }
        bail!(
            "needs Python {version} (searched pyenv, /usr/local/bin, /usr/bin and the sid folder, CONCMON_SID)"
        )
    }

    /// A Python from 3.8 on that every user can run: the system's.
    pub fn for_everyone() -> Result<Self> {
        (8..=15)
            .rev()
            .find_map(|minor| system(&format!("3.{minor}")))
            .map(|executable| Self {
                executable,
                root: None,
            })
            .context("needs a system Python from 3.8 on in /usr/bin or /usr/local/bin")
    }

    /// The folder that it takes for the root, where that is not ours.
    pub fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// A command that runs this interpreter; the process that it starts becomes the interpreter.
    pub fn command(&self) -> Command {
        match &self.root {
            None => Command::new(&self.executable),
            Some(root) => {
                let mut command = Command::new("chroot");
                command.arg(root).arg(&self.executable);
                command
            }
        }
    }

    /// The words of [`Interpreter::command`].
    pub fn words(&self) -> Vec<String> {
        let command = self.command();
        std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| word.to_string_lossy().into_owned())
            .collect()
    }

    /// A folder with a package for a minor version of Python outside other root file systems, as
    /// `cargo xtask pythons` installs them.
    pub fn package(version: &str, package: &str) -> Option<PathBuf> {
        let cache = cache()?.join("concmon/packages");
        let folder = cache.join(version).join(package);
        folder.is_dir().then_some(folder)
    }

    /// A folder that this interpreter can read, and its path as the interpreter sees it.
    ///
    /// # Errors
    /// When no folder can be made there.
    pub fn folder(&self) -> Result<(TempDir, PathBuf)> {
        let root = self.root.as_deref().unwrap_or(Path::new("/"));
        let base = match &self.root {
            Some(root) => root.join("tmp"),
            None => std::env::temp_dir(),
        };
        let folder = tempfile::Builder::new()
            .prefix("concmon-tests-")
            .tempdir_in(&base)
            .with_context(|| format!("making a folder in {}", base.display()))?;
        let inside = Path::new("/").join(folder.path().strip_prefix(root)?);
        Ok((folder, inside))
    }
}

fn pyenv(version: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PYENV_ROOT").map_or_else(
        || Some(PathBuf::from(std::env::var_os("HOME")?).join(".pyenv")),
        |root| Some(PathBuf::from(root)),
    )?;
    let mut found: Vec<PathBuf> = std::fs::read_dir(root.join("versions"))
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_prefix(version))
                // No builds with a suffix: `3.13.0t` is another interpreter.
                .is_some_and(|rest| {
                    rest.starts_with('.') && rest[1..].chars().all(|c| c.is_ascii_digit())
                })
        })
        .map(|path| path.join("bin").join(format!("python{version}")))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.pop()
}

fn system(version: &str) -> Option<PathBuf> {
    ["/usr/local/bin", "/usr/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(format!("python{version}")))
        .find(|path| path.exists())
}

/// The user's folder for what can be made again.
fn cache() -> Option<PathBuf> {
    std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))
}

fn sid_roots() -> Vec<PathBuf> {
    [
        std::env::var_os("CONCMON_SID").map(PathBuf::from),
        cache().map(|cache| cache.join("concmon/sid")),
        Some(PathBuf::from("/var/cache/concmon-sid")),
    ]
    .into_iter()
    .flatten()
    .filter(|root| root.is_dir())
    .collect()
}
