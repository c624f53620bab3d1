//! Starting a program so that it can be watched from its first instruction.
//!
//! The child stops before `exec` until the kernel hooks are in place; then it goes on. It is the
//! child itself that waits, on a pipe: nothing is attached to it and nobody stops it.

use std::{
    ffi::OsString,
    fs::Permissions,
    io::{self, PipeReader, PipeWriter, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{
            fs::PermissionsExt as _,
            process::{CommandExt as _, ExitStatusExt as _},
        },
    },
    process::{Command, ExitStatus, Stdio},
    thread,
};

use rustix::process::{Signal, set_parent_process_death_signal};
use tempfile::TempDir;
use tokio::sync::oneshot;

use crate::session::{
    Ended,
    outcome::{Failure, code},
    privileges,
};
use crate::{event::Pid, views::escape::escape};

/// A child that waits for permission to run its program.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) pid: Pid,
    gate: PipeWriter,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
}

/// Forks a child that will run `command`, and returns while it waits before `exec`.
///
/// `ours`: it is a program of the tool's own. It has no standard input and output (errors stay visible),
/// and it is told to end (SIGTERM) when the tool ends, however that does.
pub(super) fn fork(command: &[OsString], ours: bool) -> io::Result<Waiting> {
    let (program, arguments) = command
        .split_first()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let (mut pid_reader, pid_writer) = io::pipe()?;
    let (gate_reader, gate) = io::pipe()?;
    let mut child = Command::new(program);
    child.args(arguments);
    if ours {
        child.stdin(Stdio::null()).stdout(Stdio::null());
    }
    let parent = ours.then(std::process::id);
    // SAFETY: between fork and exec the closure makes only async-signal-safe calls (prctl, getppid,
    // getpid, write, close, read) and does not allocate.
    unsafe {
        let gate_writer = gate.as_raw_fd();
        child.pre_exec(move || {
            if let Some(parent) = parent {
                end_with(parent)?;
            }
            wait_before_exec(&pid_writer, &gate_reader, gate_writer)
        });
    }
    let (sender, ended) = oneshot::channel();
    // `spawn` returns only after `exec`, so it waits in a thread of its own. The death of this thread
    // is what `end_with` takes for that of the parent: it lives as long as the child, or the tool.
    thread::Builder::new()
        .name("child".to_owned())
        .spawn(move || {
            let status = child.spawn().and_then(|mut running| {
                drop(child);
                privileges::give_up_all();
                running.wait()
            });
            let _ = sender.send(status);
        })?;
    let mut pid = [0; 4];
    pid_reader.read_exact(&mut pid)?;
    Ok(Waiting {
        pid: Pid(u32::from_ne_bytes(pid)),
        gate,
        ended,
    })
}

/// Has the kernel send SIGTERM to this process when its parent dies.
fn end_with(parent: u32) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    match std::os::unix::process::parent_id() == parent {
        true => Ok(()),
        // It died in between.
        false => Err(io::Error::from(io::ErrorKind::Interrupted)),
    }
}

fn wait_before_exec(
    mut pid_writer: &PipeWriter,
    mut gate_reader: &PipeReader,
    gate_writer: i32,
) -> io::Result<()> {
    // SAFETY: the child's copy of the writing end, which would keep the gate from ever closing.
    unsafe { libc::close(gate_writer) };
    privileges::keep_from_program();
    pid_writer.write_all(&std::process::id().to_ne_bytes())?;
    match gate_reader.read(&mut [0])? {
        0 => Err(io::Error::from(io::ErrorKind::Interrupted)),
        _ => Ok(()),
    }
}

impl Waiting {
    /// Lets the child run its program. Dropping it instead lets the child end without having run it.
    pub(super) fn go(mut self) -> io::Result<Ended> {
        self.gate.write_all(&[1])?;
        Ok(self.ended)
    }
}

/// The exit code to pass on: the program's own, or 128+N when signal N killed it.
pub(super) fn exit_code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, Some(signal)) => 128_u8.saturating_add(signal as u8),
        (None, None) => 1,
    }
}

/// The embedded misbehaving program, in a directory of its own that goes away with the result. The
/// program removes it as soon as it runs, so that nothing is left even if the tool is killed.
pub(super) fn demo_program() -> Result<(TempDir, OsString), Failure> {
    const SOURCE: &str = include_str!("../demo/misbehave.py");
    let written = || {
        let directory = tempfile::Builder::new()
            .prefix("concmon-demo-")
            .permissions(Permissions::from_mode(0o700))
            .tempdir()?;
        let mut program = tempfile::Builder::new()
            .prefix("misbehave")
            .suffix(".py")
            .rand_bytes(0)
            .tempfile_in(&directory)?;
        program.write_all(SOURCE.as_bytes())?;
        let (_, path) = program.keep()?;
        Ok((directory, path.into_os_string()))
    };
    written().map_err(|error: io::Error| {
        let message = format!(
            "cannot write the demo's program into the temporary folder {}: {}; TMPDIR names another",
            escape(&std::env::temp_dir().to_string_lossy()),
            error.kind()
        );
        Failure::new(code::FAILURE, message)
    })
}

/// The interpreter behind `python3`, which may be a script of a version manager.
pub(super) fn python3() -> io::Result<OsString> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .stdin(Stdio::null())
        .output()?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() {
        return Err(io::Error::other("python3 does not run"));
    }
    Ok(path.into())
}
