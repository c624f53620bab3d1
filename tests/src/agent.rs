//! Runs `concmon-bpf agent`, and reads what it serves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::spawn::{Group, code};
use crate::watch::binary;

/// How long the agent may take to get ready, or to end.
const PATIENCE: Duration = Duration::from_secs(40);

/// A running agent.
#[derive(Debug)]
pub struct Agent {
    child: Group,
    address: SocketAddr,
    said: Arc<Mutex<String>>,
    folder: tempfile::TempDir,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// As they were sent, a line each.
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let at = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let at =
            at.with_context(|| format!("no answer in {:?}", String::from_utf8_lossy(bytes)))?;
        let head = String::from_utf8(bytes[..at].to_vec())?;
        let status = head.split(' ').nth(1).context("no status")?.parse()?;
        let body = bytes[at + 4..].to_vec();
        Ok(Self { status, head, body })
    }

    /// # Errors
    /// It is no text.
    pub fn text(&self) -> Result<&str> {
        Ok(std::str::from_utf8(&self.body)?)
    }
}

impl Agent {
    /// Starts it with a configuration, at any free port, and waits until it listens.
    ///
    /// # Errors
    /// When it ends instead.
    pub fn start(config: &str, environment: &[(&str, &str)]) -> Result<Self> {
        Self::of(Command::new(binary()?), config, environment)
    }

    /// The same with a command that begins the tool.
    ///
    /// # Errors
    /// As [`Agent::start`].
    pub fn of(mut command: Command, config: &str, environment: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        // It may run as another user.
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))?;
        let file = folder.path().join("agent.toml");
        std::fs::write(&file, config)?;
        command
            .args(["agent", "--listen", "127.0.0.1:0", "--config"])
            .arg(&file)
            // Each has its own, if any.
            .env("CONCMON_SOCKET", "none")
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Group::start(&mut command)?;
        let stderr = child.stderr.take().context("no stderr")?;
        let said = Arc::<Mutex<String>>::default();
        let lines = Arc::clone(&said);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(|line| line.ok()) {
                let mut said = lines.lock().unwrap_or_else(PoisonError::into_inner);
                said.push_str(&line);
                said.push('\n');
            }
        });
        let mut agent = Self {
            child,
            address: SocketAddr::from(([0, 0, 0, 0], 0)),
            said,
            folder,
        };
        let url = agent.wait_for_line("metrics are served at ")?;
        let address = url
            .split("://")
            .nth(1)
            .and_then(|rest| rest.split('/').next());
        agent.address = address.context("no address")?.parse()?;
        Ok(agent)
    }

    /// Its process id: the collector's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that it has said on standard error.
    pub fn said(&self) -> String {
        self.said
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Waits until it says something, and gives the line.
    ///
    /// # Errors
    /// When it does not.
    pub fn wait_for_line(&mut self, what: &str) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.said();
            if let Some(line) = said.lines().find(|line| line.contains(what)) {
                return Ok(line.to_owned());
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("it ended with {}: {said}", code(status));
            }
            ensure!(
                Instant::now() < deadline,
                "it does not say {what:?}: {said}"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: i32) {
        self.child.signal(signal);
    }

    /// Writes another configuration, and has it read.
    ///
    /// # Errors
    /// When it says nothing to that.
    pub fn reload(&mut self, config: &str, says: &str) -> Result<()> {
        std::fs::write(self.folder.path().join("agent.toml"), config)?;
        self.signal(libc::SIGHUP);
        self.wait_for_line(says).map(drop)
    }

    /// Waits for its end, and gives its exit code.
    ///
    /// # Errors
    /// When it does not end.
    pub fn end(mut self) -> Result<i32> {
        Ok(code(self.child.wait_for(PATIENCE)?))
    }

    /// Sends these bytes, and reads what comes until the end.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn send(&self, request: &[u8]) -> Result<Answer> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(request)?;
        answer(stream)
    }

    /// Asks for a page.
    ///
    /// # Errors
    /// When there is no answer.
    pub fn get(&self, path: &str, fields: &[&str]) -> Result<Answer> {
        let mut request = format!("GET {path} HTTP/1.1\r\nHost: agent\r\n");
        for field in fields {
            request += field;
            request += "\r\n";
        }
        self.send(format!("{request}\r\n").as_bytes())
    }

    /// The metrics as text.
    ///
    /// # Errors
    /// When they are not given.
    pub fn metrics(&self) -> Result<String> {
        let answer = self.get("/metrics", &[])?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(answer.text()?.to_owned())
    }

    /// Waits until the metrics are as they are wanted.
    ///
    /// # Errors
    /// When they do not get so.
    pub fn metrics_with(&self, what: &str, is: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let metrics = self.metrics()?;
            if is(&metrics) {
                return Ok(metrics);
            }
            ensure!(
                Instant::now() < deadline,
                "not {what}: {metrics}\n{}",
                self.said()
            );
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Asks at a local socket.
///
/// # Errors
/// When there is no answer.
pub fn ask(socket: &Path, path: &str) -> Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: agent\r\n\r\n")?;
    answer(stream)
}

fn answer(mut stream: impl Read) -> Result<Answer> {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    // What was not read of a request may end the connection at once.
    if bytes.is_empty() {
        read?;
    }
    Answer::parse(&bytes)
}

/// The sum of the series of a text that begin so, their labels with it; `None`: there is none.
pub fn sum(metrics: &str, series: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(series)?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.reduce(|sum, value| sum + value)
}
