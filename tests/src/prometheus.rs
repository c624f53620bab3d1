//! Runs Prometheus, and asks it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::spawn::Group;

const PATIENCE: Duration = Duration::from_secs(30);

/// A running Prometheus, which reads one target each second.
#[derive(Debug)]
pub struct Prometheus {
    _child: Group,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it, at any free port, with a file of rules.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub fn start(target: SocketAddr, rules: &Path) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let config = folder.path().join("prometheus.yml");
        let rules = rules.display();
        std::fs::write(
            &config,
            format!(
                "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
                 rule_files: ['{rules}']\n\
                 scrape_configs:\n\
                 - job_name: concmon\n  \
                   static_configs: [targets: ['{target}']]\n"
            ),
        )?;
        let path = |option: &str, path: &Path| format!("--{option}={}", path.display());
        let mut command = Command::new("prometheus");
        command
            .arg(path("config.file", &config))
            .arg(path("storage.tsdb.path", &folder.path().join("data")))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = Group::start(&mut command)?;
        let stderr = child.stderr.take().context("no stderr")?;
        let (send, found) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(stderr).lines();
            let mut address = None;
            for line in lines.map_while(|line| line.ok()) {
                let listens = line.split_once("msg=\"Listening on\" address=");
                address = listens
                    .and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok())
                    .or(address);
                if let Some(address) = address
                    && line.contains("Server is ready")
                {
                    let _ = send.send(address);
                }
            }
        });
        let address = found
            .recv_timeout(PATIENCE)
            .context("Prometheus does not say that it is ready")?;
        Ok(Self {
            _child: child,
            address,
            _folder: folder,
        })
    }

    /// The samples that a query gives now.
    ///
    /// # Errors
    /// When it is refused.
    pub fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expression.bytes() {
            write!(path, "%{byte:02X}")?;
        }
        let mut data = self.get(&path)?;
        serde_json::from_value(data["result"].take()).context(data.to_string())
    }

    /// What an address of its interface gives.
    ///
    /// # Errors
    /// When it is no success.
    pub fn get(&self, path: &str) -> Result<Value> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Of this version, an answer is not in chunks.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: prometheus\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer.split_once("\r\n\r\n").context("no answer")?;
        let mut body: Value = serde_json::from_str(body).with_context(|| answer.clone())?;
        ensure!(body["status"] == "success", "{path}: {body}");
        Ok(body["data"].take())
    }
}
