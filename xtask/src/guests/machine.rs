//! One boot of a guest under qemu's software emulation, and what it said.
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::digest;

/// How often a running guest is looked at.
const POLL: Duration = Duration::from_millis(100);

/// qemu and its libraries, unpacked into a folder of ours.
pub(crate) struct Qemu {
    pub(crate) root: PathBuf,
}

/// What came out of a guest that ran to its end.
pub(crate) struct Outcome {
    /// `uname -r` in the guest.
    pub(crate) kernel: String,
    pub(crate) python: String,
    /// Exit code of concmon-bpf.
    pub(crate) exit_code: i32,
    /// Its standard error, line by line.
    pub(crate) stderr: Vec<String>,
    /// Its standard output, whole.
    pub(crate) stdout: Vec<u8>,
    pub(crate) elapsed: Duration,
}

impl Qemu {
    /// Boots `kernel` with `initrd` and waits for the guest's own closing line.
    ///
    /// An error means that the machinery failed (timeout, panic, damaged output), not concmon.
    pub(crate) fn boot(
        &self,
        kernel: &Path,
        initrd: &Path,
        work: &Path,
        timeout: Duration,
    ) -> Result<Outcome> {
        let console = work.join("console");
        let result = work.join("result");
        let begin = Instant::now();
        let mut child = self
            .command()
            .args([
                "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "2",
            ])
            .args([
                "-m",
                "1024",
                "-nodefaults",
                "-display",
                "none",
                "-no-reboot",
            ])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .arg("-serial")
            .arg(format!("file:{}", result.display()))
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initrd)
            .args(["-append", "console=ttyS0 rdinit=/init quiet panic=-1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(work.join("qemu-stderr"))?)
            .spawn()
            .context("starting qemu")?;
        let ended = loop {
            if let Some(status) = child.try_wait().context("waiting for qemu")? {
                break Some(status);
            }
            if begin.elapsed() > timeout {
                child.kill().context("ending qemu")?;
                child.wait().context("waiting for qemu")?;
                break None;
            }
            thread::sleep(POLL);
        };
        let elapsed = begin.elapsed();
        let text = fs::read(&console).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let said = |key: &str| text.lines().find_map(|line| after(line, key));
        let Some(done) = said("guest-done ") else {
            let how = match ended {
                Some(status) => format!("qemu ended with {status}"),
                None => format!("no end after {} s", timeout.as_secs()),
            };
            let qemu = fs::read_to_string(work.join("qemu-stderr")).unwrap_or_default();
            let last: Vec<&str> = text.lines().rev().take(8).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            bail!("{how}; {}last lines:\n{}", qemu.trim(), last.join("\n"));
        };
        let mut words = done.split_whitespace();
        let exit_code = words
            .next()
            .and_then(|word| word.parse().ok())
            .context("the guest's closing line has no exit code")?;
        let stdout = fs::read(&result).context("reading the guest's second serial line")?;
        if words.next() != Some(&digest::sha256(&stdout)) {
            bail!("the output of concmon-bpf was damaged on its way out of the guest");
        }
        Ok(Outcome {
            kernel: said("guest-kernel ").unwrap_or_default().to_owned(),
            python: said("guest-python ").unwrap_or_default().to_owned(),
            exit_code,
            stderr: text
                .lines()
                .filter_map(|line| after(line, "guest-stderr "))
                .map(str::to_owned)
                .collect(),
            stdout,
            elapsed,
        })
    }

    /// qemu, run by the dynamic loader and with the libraries it came with.
    fn command(&self) -> Command {
        let usr = self.root.join("usr");
        let lib = usr.join("lib/x86_64-linux-gnu");
        let mut command = Command::new(usr.join("lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(&lib)
            .arg(usr.join("bin/qemu-system-x86_64"))
            .arg("-L")
            .arg(usr.join("share/qemu"))
            .arg("-L")
            .arg(usr.join("share/seabios"))
            .env("QEMU_MODULE_DIR", lib.join("qemu"));
        command
    }
}

/// What follows `key` in a console line; the kernel may have written before it.
fn after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    line.find(key)
        .map(|at| line[at + key.len()..].trim_end_matches('\r'))
}
