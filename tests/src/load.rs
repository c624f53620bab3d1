//! Load on an HTTP server on loopback: wrk where it is installed, else connections of our own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use crate::spawn::Group;

/// What wrk does between answer and request; its arguments are the paths.
const SCRIPT: &str = "
local paths, turn = {}, 0
init = function(args) for i, path in ipairs(args) do paths[i] = path end end
request = function() turn = turn % #paths + 1; return wrk.format('GET', paths[turn]) end
delay = function() return PAUSE end
";
const PATIENCE: Duration = Duration::from_secs(10);

/// What is asked for, how often at the same time, and how long a connection rests before each request.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub port: u16,
    pub paths: &'static [&'static str],
    pub connections: usize,
    pub pause: Duration,
    pub duration: Duration,
}

/// Load that is under way.
#[derive(Debug)]
pub enum Load {
    Wrk(Group, TempDir),
    Own(Vec<JoinHandle<Result<u64>>>),
}

impl Load {
    /// Starts it.
    ///
    /// # Errors
    /// When wrk cannot be started.
    pub fn start(plan: Plan) -> Result<Self> {
        if in_path("wrk") {
            return Self::wrk(plan);
        }
        let connection = move || std::thread::spawn(move || requests(plan));
        Ok(Self::Own(
            (0..plan.connections).map(|_| connection()).collect(),
        ))
    }

    fn wrk(plan: Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let script = folder.path().join("load.lua");
        let pause = plan.pause.as_millis().to_string();
        fs::write(&script, SCRIPT.replace("PAUSE", &pause))?;
        let mut command = Command::new("wrk");
        command
            .args(["-t1", "-c", &plan.connections.to_string()])
            .args(["-d", &format!("{}s", plan.duration.as_secs())])
            .arg("-s")
            .arg(&script)
            .arg(format!("http://127.0.0.1:{}", plan.port))
            .arg("--")
            .args(plan.paths)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        Ok(Self::Wrk(Group::start(&mut command)?, folder))
    }

    /// Waits for the end; how many answers there were.
    ///
    /// # Errors
    /// When an answer was none, or none came.
    pub fn finish(self) -> Result<u64> {
        match self {
            Self::Wrk(mut wrk, _folder) => {
                let mut said = String::new();
                let output = wrk.stdout.as_mut().context("wrk has no output")?;
                output.read_to_string(&mut said)?;
                for wrong in ["Non-2xx", "Socket errors"] {
                    ensure!(!said.contains(wrong), "wrk: {said}");
                }
                let mut words = said.split_whitespace().peekable();
                while let Some(word) = words.next() {
                    if words.peek() == Some(&"requests") {
                        return word.parse().with_context(|| format!("wrk: {said}"));
                    }
                }
                bail!("wrk said {said:?}")
            }
            Self::Own(connections) => {
                let mut count = 0;
                for connection in connections {
                    match connection.join() {
                        Ok(requests) => count += requests?,
                        Err(_) => bail!("a connection's thread panicked"),
                    }
                }
                Ok(count)
            }
        }
    }
}

fn in_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// One request after the other on one connection.
fn requests(plan: Plan) -> Result<u64> {
    let stream = TcpStream::connect(("127.0.0.1", plan.port))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut stream, end) = (stream, Instant::now() + plan.duration);
    let mut count = 0;
    for path in plan.paths.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        std::thread::sleep(plan.pause);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        answer(&mut reader)?;
        count += 1;
    }
    Ok(count)
}

/// Reads an answer, which must be a good one with its length in the header.
fn answer(reader: &mut impl BufRead) -> Result<()> {
    let mut status = String::new();
    reader.read_line(&mut status)?;
    ensure!(status.starts_with("HTTP/1.1 200"), "answered {status:?}");
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
    Ok(())
}
