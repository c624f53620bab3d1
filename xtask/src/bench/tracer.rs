//! A tracer that runs while something is measured: started, known to be up, and ended.
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// How long a tracer may take to come up, and to end.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between a tracer's first sign of life and the measurement: probes may still be attaching.
const SETTLE: Duration = Duration::from_secs(2);

/// A running tracer; ended when dropped.
pub(crate) struct Tracer {
    child: Child,
    name: String,
}

impl Tracer {
    /// Starts a tracer and waits until it is up: until it has printed something to its standard
    /// output where `speaks`, then a while in any case.
    pub(crate) fn start(command: &mut Command, speaks: bool) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let stdout = child.stdout.take();
        let mut tracer = Self { child, name };
        let said = drain(stdout.context("a tracer has no output")?);
        if speaks {
            let begin = Instant::now();
            while said.recv_timeout(Duration::from_millis(100)).is_err() {
                tracer.must_run()?;
                ensure!(
                    begin.elapsed() < PATIENCE,
                    "{} said nothing for {} s",
                    tracer.name,
                    PATIENCE.as_secs()
                );
            }
        }
        thread::sleep(SETTLE);
        tracer.must_run()?;
        Ok(tracer)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends the tracer as ctrl-C does. An error when it was gone already, since then the
    /// measurement before was not a measurement of it.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.must_run()?;
        signal(&self.child, libc::SIGINT)?;
        let begin = Instant::now();
        while self.ended()?.is_none() {
            ensure!(
                begin.elapsed() < PATIENCE,
                "{} did not end on SIGINT",
                self.name
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} was not running: {status}", self.name);
        }
        Ok(())
    }

    fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads everything, so that the tracer never blocks; one message when the first bytes come.
fn drain(mut output: impl Read + Send + 'static) -> Receiver<()> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut buffer = [0; 65_536];
        while output.read(&mut buffer).is_ok_and(|count| count > 0) {
            // Nobody listens any more after the first message.
            let _ = sender.try_send(());
        }
        // Kept until the tracer ends: a closed channel must not look like a sign of life.
        drop(sender);
    });
    receiver
}

fn signal(child: &Child, number: libc::c_int) -> Result<()> {
    let pid = libc::pid_t::try_from(child.id()).context("a process id is out of range")?;
    // SAFETY: kill takes plain numbers; the child has not been waited for, so its id is its own.
    let result = unsafe { libc::kill(pid, number) };
    ensure!(
        result == 0,
        "sending a signal: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
