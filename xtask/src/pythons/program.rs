//! Programs that say what they are, and what concmon says of them.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;
use tempfile::TempDir;

use super::find::Python;
use crate::workspace;

/// How long a program may take to come to rest and to say what it is.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// The files that programs consist of, in `tests/workloads`.
const IS_PROGRAM: fn(&str) -> bool =
    |name| name.starts_with("truth") || name == "interpreter_trio.py";

/// The programs, where an interpreter finds them.
pub(super) struct Folder {
    here: TempDir,
    inside: PathBuf,
}

impl Folder {
    pub(super) fn new(python: &Python) -> Result<Self> {
        let (here, inside) = match &python.root {
            None => {
                let here = tempfile::tempdir()?;
                let inside = here.path().to_owned();
                (here, inside)
            }
            Some(root) => {
                let here = tempfile::tempdir_in(root.join("tmp"))?;
                let inside = Path::new("/").join(here.path().strip_prefix(root)?);
                (here, inside)
            }
        };
        let workloads = workspace::root().join("tests/workloads");
        for entry in fs::read_dir(&workloads)? {
            let entry = entry?;
            if IS_PROGRAM(&entry.file_name().to_string_lossy()) {
                fs::copy(entry.path(), here.path().join(entry.file_name()))?;
            }
        }
        Ok(Self { here, inside })
    }
}

/// A running program; it ends when this is dropped.
pub(super) struct Program {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    stderr: PathBuf,
}

impl Program {
    /// Starts a program of the folder with packages from another one.
    pub(super) fn start(
        python: &Python,
        folder: &Folder,
        words: &[&str],
        packages: Option<&Path>,
    ) -> Result<Self> {
        let stderr = folder
            .here
            .path()
            .join(format!("{}.stderr", words.join("-")));
        let mut command = python.command();
        command
            .arg(folder.inside.join(words[0]))
            .args(&words[1..])
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env_remove("PYTHONPATH")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&stderr)?);
        if let Some(packages) = packages {
            command.env("PYTHONPATH", packages);
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("starting {}", words[0]))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the program has no output")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            stdin,
            lines,
            stderr,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    pub(super) fn line(&self) -> Result<Value> {
        let line = self.lines.recv_timeout(START_TIMEOUT).map_err(|error| {
            let said = fs::read_to_string(&self.stderr).unwrap_or_default();
            let last = said.lines().last().unwrap_or("nothing on standard error");
            anyhow!("the program said nothing ({error}): {last:.200}")
        })?;
        serde_json::from_str(&line).context("the program wrote no JSON")
    }

    /// Has it do something, and waits until it has begun.
    pub(super) fn command(&mut self, command: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("the program has no input")?;
        writeln!(stdin, "{command}").context("writing to the program")?;
        self.line().map(drop)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have processes of its own, which end when it does.
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What `concmon-bpf dump` says of a process.
pub(super) fn dump(monitor: &Path, pid: u32) -> Result<Value> {
    let output = Command::new(monitor)
        .args(["dump", "--json", "--pid", &pid.to_string()])
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {}", monitor.display()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().last().unwrap_or_default();
        bail!("concmon-bpf dump ended with {}: {last:.200}", output.status);
    }
    let dump: Value = serde_json::from_slice(&output.stdout).context("the dump is no JSON")?;
    let process = dump["processes"]
        .as_array()
        .and_then(|all| all.iter().find(|one| one["pid"] == pid));
    process.cloned().context("the process is not in the dump")
}
