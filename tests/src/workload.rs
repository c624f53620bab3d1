//! Starts a workload program, reads its own account, and gives it commands.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::TempDir;

use crate::interpreter::Interpreter;
use crate::spawn::Group;
use crate::watch::binary;

const PATIENCE: Duration = Duration::from_secs(60);

/// Where the workload programs are.
pub fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads")
}

/// A copy of every workload program where an interpreter can read it.
#[derive(Debug)]
pub struct Programs {
    folder: TempDir,
    inside: PathBuf,
}

impl Programs {
    /// Copies the programs.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy(python: &Interpreter) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let (folder, inside) = python.folder()?;
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        for entry in std::fs::read_dir(programs())? {
            let path = entry?.path();
            if path.extension().is_some_and(|suffix| suffix == "py") {
                let name = path.file_name().context("a file without a name")?;
                std::fs::copy(&path, folder.path().join(name))
                    .with_context(|| format!("copying {}", path.display()))?;
            }
        }
        Ok(Self { folder, inside })
    }

    /// The path of a program as the interpreter sees it.
    pub fn path(&self, program: &str) -> String {
        self.inside.join(program).to_string_lossy().into_owned()
    }

    /// A copy of the tool, which may lie where only root can go.
    ///
    /// # Errors
    /// When there is no tool, or it cannot be copied.
    pub fn tool(&self) -> Result<PathBuf> {
        let path = self.folder().join("concmon-bpf");
        // Nobody forks while this process has it open for writing: it could not be run until that child execs.
        let status = Command::new("cp").arg(binary()?).arg(&path).status()?;
        ensure!(status.success(), "copying the tool: {status}");
        Ok(path)
    }

    /// The folder as the test sees it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    child: Group,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    ready: Value,
    program: String,
    _programs: Programs,
}

impl Workload {
    /// Starts `program` (a file of `workloads/`) and waits until it says that it is ready.
    ///
    /// # Errors
    /// When it cannot be started or does not say so in time.
    pub fn start(python: &Interpreter, program: &str, args: &[&str]) -> Result<Self> {
        Self::start_with(python, None, program, args)
    }

    /// The same, with a folder of packages that it can import.
    ///
    /// # Errors
    /// As [`Workload::start`].
    pub fn start_with(
        python: &Interpreter,
        packages: Option<&Path>,
        program: &str,
        args: &[&str],
    ) -> Result<Self> {
        let programs = Programs::copy(python)?;
        let path = programs.path(program);
        let mut command = python.command();
        if let Some(packages) = packages {
            command.env("PYTHONPATH", packages);
        }
        command
            .arg(&path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = Group::start(&mut command)?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("no stdout")?;
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(|line| line.ok()) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let mut workload = Self {
            child,
            stdin,
            lines,
            ready: Value::Null,
            program: path,
            _programs: programs,
        };
        let ready = workload.line("ready")?;
        ensure!(
            ready["pid"] == workload.pid(),
            "{program}: its pid is {}, started was {}",
            ready["pid"],
            workload.pid()
        );
        workload.ready = ready;
        Ok(workload)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The script's path, as the interpreter was given it.
    pub fn program(&self) -> &str {
        &self.program
    }

    /// A field of what the workload said when it was ready.
    ///
    /// # Errors
    /// When it is missing or of another type.
    pub fn said<T: DeserializeOwned>(&self, field: &str) -> Result<T> {
        serde_json::from_value(self.ready[field].clone())
            .with_context(|| format!("{}: its account's {field:?}", self.program))
    }

    /// Gives a command without waiting for the answer.
    ///
    /// # Errors
    /// When the workload no longer listens.
    pub fn tell(&mut self, command: &Value) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{command}").with_context(|| format!("telling {}", self.program))
    }

    /// Waits for the next line of the account, which must be of this kind.
    ///
    /// # Errors
    /// When another line comes, or none in time.
    pub fn line(&mut self, account: &str) -> Result<Value> {
        let line = self.lines.recv_timeout(PATIENCE).map_err(|error| {
            let what = match error {
                RecvTimeoutError::Timeout => format!("said nothing in {PATIENCE:?}"),
                RecvTimeoutError::Disconnected => "ended without a word".to_owned(),
            };
            anyhow!("{} {what} (waiting for {account:?})", self.program)
        })?;
        let value: Value = serde_json::from_str(&line)
            .with_context(|| format!("{} said {line:?}", self.program))?;
        if value["account"] != account {
            bail!("{}: expected {account:?}, got {line:?}", self.program);
        }
        Ok(value)
    }

    /// Gives a command and waits for its answer.
    ///
    /// # Errors
    /// As [`Workload::tell`] and [`Workload::line`].
    pub fn ask(&mut self, command: &Value, account: &str) -> Result<Value> {
        self.tell(command)?;
        self.line(account)
    }

    /// Closes stdin, which ends every workload, and waits for the end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(&mut self) -> Result<ExitStatus> {
        self.stdin = None;
        self.child.wait_for(PATIENCE)
    }

    /// Sends a signal to the workload's first process.
    pub fn signal(&self, signal: i32) {
        self.child.signal(signal);
    }
}
