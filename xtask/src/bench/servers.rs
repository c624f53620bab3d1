//! `cargo xtask bench servers`: what a server at full load loses while it is watched, beside py-spy.
//!
//! The server has one CPU for itself, the load comes from another one. Each measurement with a monitor
//! has one without beside it, in turns before and behind it; pairs without any monitor show the noise.
//! Answers per CPU second of the server are shown, too: other programs on its CPU spoil them less.
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::tracer::Tracer;
use super::{
    Tools,
    switch::{self, median},
};
use crate::workspace;

const SOURCE: &str = include_str!("servers.py");
const KINDS: [&str; 4] = ["asyncio", "threads", SUBMITS, HTTP];
/// The one that submits each message to a pool, to price probes: the goal is not for it.
const SUBMITS: &str = "submits";
/// The one that is asked by HTTP, to price looking at requests.
const HTTP: &str = "http";
const REQUEST: &[u8] = b"GET /numbers?of=8 HTTP/1.1\r\nHost: localhost\r\n\r\n";
/// One that is answered by each connection at a time.
const MESSAGE: &[u8] =
    b"{\"id\": 1, \"name\": \"request\", \"numbers\": [1, 2, 3, 4, 5, 6, 7, 8]}\n";
pub(super) const CONNECTIONS: usize = 16;
/// What must be left of the throughput, percent.
const GOAL: f64 = 99.0;

/// Throughput of servers at full load, watched and not
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Pairs of measurements
    #[arg(long, default_value_t = 11)]
    pairs: usize,
    /// How long one measurement takes, seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    #[command(flatten)]
    tools: Tools,
    /// Only servers and monitors whose names contain this, as `asyncio, py-spy`
    #[arg(long)]
    only: Option<String>,
}

/// What watches the server.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Monitor {
    Nothing,
    Concmon,
    ExactTasks,
    ExactFutures,
    /// Compared to a watch that does not look at requests.
    Requests,
    NoRequests,
    PySpy,
}

impl Monitor {
    const ALL: [Self; 6] = [
        Self::Nothing,
        Self::Concmon,
        Self::ExactTasks,
        Self::ExactFutures,
        Self::Requests,
        Self::PySpy,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing (noise)",
            Self::Concmon => "concmon",
            Self::ExactTasks => "concmon --exact tasks",
            Self::ExactFutures => "concmon --exact futures",
            Self::Requests => "beside --no-http",
            Self::NoRequests => "concmon --no-http",
            Self::PySpy => "py-spy record -r 100",
        }
    }

    /// What it counts exactly.
    fn exact(self) -> Option<&'static str> {
        match self {
            Self::ExactTasks => Some("tasks"),
            Self::ExactFutures => Some("futures"),
            _ => None,
        }
    }

    /// Futures are counted where there are some for each answer.
    fn fits(self, kind: &str) -> bool {
        match self {
            Self::ExactTasks | Self::PySpy => kind != SUBMITS && kind != HTTP,
            Self::ExactFutures => kind == SUBMITS,
            Self::Requests => kind == HTTP,
            Self::Nothing | Self::Concmon => true,
            Self::NoRequests => false,
        }
    }
}

/// Runs the command; fails when concmon costs more than it may.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.pairs > 0, "--pairs must be at least 1");
    let cpus = thread::available_parallelism()?.get();
    ensure!(cpus > 1, "needs a CPU for the server and one for the load");
    let binary = args.tools.binary_as_root()?;
    switch::warn_if_busy()?;
    let folder = tempfile::tempdir().context("creating a temporary folder")?;
    let bench = Bench {
        args,
        knows_exact: workspace::output(Command::new(&binary).arg("--help"))?.contains("--exact"),
        binary,
        py_spy: py_spy(&args.tools.python).map_err(|error| format!("{error:#}")),
        folder: folder.path(),
    };
    println!(
        "{:32} {:>9} {:>7} {:>17} {:>11} {:>12} {:>12}",
        "answers per second",
        "without",
        "with",
        "min .. max",
        "of its CPU",
        "per answer",
        "monitor CPU"
    );
    let mut reached = true;
    for kind in KINDS {
        for monitor in Monitor::ALL {
            let name = format!("{kind}, {}", monitor.name());
            let asked = args.only.as_ref().is_none_or(|only| name.contains(only));
            if !asked || !monitor.fits(kind) {
                continue;
            }
            match bench.row(kind, monitor) {
                Ok(row) => {
                    row.print(&name);
                    let has_goal = monitor == Monitor::Concmon && kind != SUBMITS && kind != HTTP;
                    reached &= !has_goal || row.median() >= GOAL;
                }
                Err(error) if monitor == Monitor::Concmon => return Err(error.context(name)),
                Err(error) => println!("{name:32} not measured: {error:#}"),
            }
        }
    }
    println!(
        "\nper answer: CPU time of the server that is added; an answer of `{SUBMITS}` is a future\n\
         goal for concmon, but with `{SUBMITS}` and `{HTTP}`: {GOAL} % of the throughput, median of pairs"
    );
    Ok(ExitCode::from(u8::from(!reached)))
}

/// Pairs of measurements.
#[derive(Default)]
struct Row {
    /// Throughput with the monitor, percent of that without, sorted.
    percent: Vec<f64>,
    /// The same for answers per CPU second of the server.
    of_cpu: Vec<f64>,
    /// CPU time of the server that an answer takes more with the monitor, ns.
    added_ns: Vec<f64>,
    /// Answers per second, without.
    without: Vec<f64>,
    /// CPU time of the monitor, percent of one CPU.
    cpu: Vec<f64>,
}

impl Row {
    fn median(&self) -> f64 {
        median(&self.percent)
    }

    fn print(&self, name: &str) {
        let spread = format!(
            "{:.1} .. {:.1} %",
            self.percent[0],
            self.percent[self.percent.len() - 1]
        );
        let cpu = match self.cpu.is_empty() {
            true => "-".to_owned(),
            false => format!("{:.1} %", median(&self.cpu)),
        };
        println!(
            "{name:32} {:>9.0} {:>5.1} % {spread:>17} {:>9.1} % {:>9.0} ns {cpu:>12}",
            median(&self.without),
            self.median(),
            median(&self.of_cpu),
            median(&self.added_ns)
        );
    }
}

struct Bench<'a> {
    args: &'a Args,
    binary: PathBuf,
    knows_exact: bool,
    /// Where it is, or why there is none.
    py_spy: Result<PathBuf, String>,
    folder: &'a Path,
}

impl Bench<'_> {
    fn row(&self, kind: &str, monitor: Monitor) -> Result<Row> {
        if monitor.exact().is_some() {
            ensure!(self.knows_exact, "this concmon knows no --exact");
        }
        let server = Server::start(&self.args.tools.python, kind)?;
        self.load(&server)?;
        let mut row = Row::default();
        for pair in 0..self.args.pairs {
            let without = |server| match monitor {
                Monitor::Requests => self.watched(server, Monitor::NoRequests, &mut Row::default()),
                _ => self.load(server),
            };
            let with = |row: &mut Row| self.watched(&server, monitor, row);
            let (without, with) = if pair % 2 == 0 {
                let without = without(&server)?;
                (without, with(&mut row)?)
            } else {
                let with = with(&mut row)?;
                (without(&server)?, with)
            };
            row.percent
                .push(with.per_second / without.per_second * 100.0);
            row.of_cpu
                .push(with.per_cpu_second / without.per_cpu_second * 100.0);
            row.added_ns
                .push(1e9 / with.per_cpu_second - 1e9 / without.per_cpu_second);
            row.without.push(without.per_second);
        }
        for column in [
            &mut row.percent,
            &mut row.of_cpu,
            &mut row.added_ns,
            &mut row.without,
            &mut row.cpu,
        ] {
            column.sort_by(f64::total_cmp);
        }
        Ok(row)
    }

    /// Answers per second while the monitor runs.
    fn watched(&self, server: &Server, monitor: Monitor, row: &mut Row) -> Result<Speed> {
        let Some(mut command) = self.command(server, monitor)? else {
            return self.load(server);
        };
        let tracer = Tracer::start(&mut command, monitor != Monitor::PySpy)?;
        let (before, begin) = (cpu_ns(tracer.pid())?, Instant::now());
        let speed = self.load(server)?;
        let cpu_ns = cpu_ns(tracer.pid())?.saturating_sub(before) as f64;
        row.cpu
            .push(cpu_ns / begin.elapsed().as_nanos() as f64 * 100.0);
        tracer.stop()?;
        Ok(speed)
    }

    fn command(&self, server: &Server, monitor: Monitor) -> Result<Option<Command>> {
        let pid = server.child.id().to_string();
        let mut command = match monitor {
            Monitor::Nothing => return Ok(None),
            Monitor::Concmon
            | Monitor::ExactTasks
            | Monitor::ExactFutures
            | Monitor::Requests
            | Monitor::NoRequests => Command::new(&self.binary),
            Monitor::PySpy => match &self.py_spy {
                Ok(program) => Command::new(program),
                Err(reason) => bail!("{reason}"),
            },
        };
        match monitor {
            Monitor::PySpy => command
                .args(["record", "-r", "100", "-f", "raw", "-p", &pid, "-o"])
                .arg(self.folder.join("py-spy.txt")),
            _ => command.args(["--json", "--pid", &pid]),
        };
        if monitor == Monitor::NoRequests {
            command.arg("--no-http");
        }
        if let Some(what) = monitor.exact() {
            command.args(["--exact", what]);
        }
        Ok(Some(command))
    }

    /// Loads the server from another CPU.
    fn load(&self, server: &Server) -> Result<Speed> {
        let before = cpu_ns(server.child.id())?;
        let (asked, duration) = (server.asked(), Duration::from_secs_f64(self.args.seconds));
        // A thread of its own, for what it starts would inherit the CPU.
        let (answers, seconds) =
            match thread::spawn(move || load(asked, duration, CONNECTIONS)).join() {
                Ok(loaded) => loaded?,
                Err(_) => bail!("the load's thread panicked"),
            };
        let cpu_ns = cpu_ns(server.child.id())?.saturating_sub(before);
        Ok(Speed {
            per_second: answers as f64 / seconds,
            per_cpu_second: answers as f64 / cpu_ns as f64 * 1e9,
        })
    }
}

/// Answers of a server.
#[derive(Clone, Copy)]
struct Speed {
    per_second: f64,
    per_cpu_second: f64,
}

/// Keeps a message under way on each connection; how many answers came in how many seconds.
pub(super) fn load(
    (port, message): (u16, &[u8]),
    duration: Duration,
    connections: usize,
) -> Result<(u64, f64)> {
    pin(LOAD_CPU)?;
    let mut connections = (0..connections)
        .map(|_| {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            Ok(BufReader::new(stream))
        })
        .collect::<Result<Vec<_>>>()?;
    let mut line = Vec::new();
    for connection in &mut connections {
        connection.get_mut().write_all(message)?;
    }
    let (mut answers, begin) = (0u64, Instant::now());
    while begin.elapsed() < duration {
        for connection in &mut connections {
            // The answer itself is an object, in a line of its own.
            line.clear();
            while !line.starts_with(b"{") {
                line.clear();
                let count = connection.read_until(b'\n', &mut line)?;
                ensure!(count > 0, "the server has closed a connection");
            }
            connection.get_mut().write_all(message)?;
            answers += 1;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    // A connection with an answer that nobody reads would be reset, which the server takes amiss.
    for connection in &mut connections {
        line.clear();
        connection.read_until(b'\n', &mut line)?;
    }
    Ok((answers, seconds))
}

const SERVER_CPU: usize = 0;
const LOAD_CPU: usize = 1;

/// Binds the calling thread to a CPU.
fn pin(cpu: usize) -> Result<()> {
    // SAFETY: a set of CPUs is plain bits, and all zero is the empty one.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is there, and the number within its size.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set is as long as is said; 0 is the calling thread.
    let failed = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    ensure!(
        failed == 0,
        "binding to CPU {cpu}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// CPU time of a process so far, ns: the first field of each thread's `schedstat`.
fn cpu_ns(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(entry?.path().join("schedstat")).unwrap_or_default();
        let first = text.split(' ').next().unwrap_or_default();
        sum += first.parse::<u64>().unwrap_or(0);
    }
    Ok(sum)
}

/// py-spy from the cache folder, where pip puts it once.
fn py_spy(python: &Path) -> Result<PathBuf> {
    if let Some(program) = workspace::in_path("py-spy") {
        return Ok(program);
    }
    let folder = workspace::cache_dir()?.join("packages/py-spy");
    let program = folder.join("bin/py-spy");
    if !program.is_file() {
        let mut pip = Command::new(python);
        pip.args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--only-binary=:all:"])
            .arg("--target")
            .arg(&folder)
            .arg("py-spy");
        workspace::output(&mut pip).context("py-spy is not to be installed")?;
    }
    Ok(program)
}

/// A server that is ended when dropped.
pub(super) struct Server {
    pub(super) child: Child,
    port: u16,
    message: &'static [u8],
}

impl Server {
    pub(super) fn start(python: &Path, kind: &str) -> Result<Self> {
        let mut child = Command::new("taskset")
            .args(["-c", &SERVER_CPU.to_string()])
            .arg(python)
            .args(["-c", SOURCE, kind])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting taskset")?;
        let stdout = child.stdout.take().context("the server has no output")?;
        let mut server = Self {
            child,
            port: 0,
            message: if kind == HTTP { REQUEST } else { MESSAGE },
        };
        let mut line = String::new();
        BufReader::new(stdout.take(100)).read_line(&mut line)?;
        server.port = line
            .trim()
            .parse()
            .with_context(|| format!("the server said `{line}`"))?;
        Ok(server)
    }

    /// Where it listens, and what it answers.
    pub(super) fn asked(&self) -> (u16, &'static [u8]) {
        (self.port, self.message)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
