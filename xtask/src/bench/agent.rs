//! `cargo xtask bench agent`: what the agent takes on a host full of Python: of its own processes, of the kernel for
//! its programs, of everybody who is not watched, and of whoever scrapes it.
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Tools, child::Owned, switch};

/// A loop that works for a fifth of a millisecond 50 times a second, and threads that wake up `rate` times a second
/// together with it.
const BUSY: &str = "\
import asyncio, sys, threading, time
threads, rate = int(sys.argv[1]), float(sys.argv[2])
pause = max(threads - 1, 1) / max(rate - 50, 1)
def wait():
    while True:
        time.sleep(pause)
async def main():
    for index in range(threads - 1):
        threading.Thread(target=wait, daemon=True).start()
        await asyncio.sleep(pause / threads)
    print('ready', flush=True)
    while True:
        await asyncio.sleep(0.02)
        end = time.perf_counter() + 0.0002
        while time.perf_counter() < end:
            pass
asyncio.run(main())
";
/// Children that wait for ever, which share the memory of their parent.
const IDLE: &str = "\
import os, signal, sys, time
for _ in range(int(sys.argv[1]) - 1):
    if os.fork() == 0:
        signal.pause()
        os._exit(0)
print('ready', flush=True)
signal.pause()
";
/// How the command lines of what is watched begin, behind the program.
const MARK: &str = "-Xconcmon-bench-agent";
/// Services that the processes are of.
const SERVICES: usize = 20;
/// Where the kernel is told to measure the run time of programs (bpf(2), `BPF_ENABLE_STATS`).
const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";
const SCRAPES: usize = 10;

/// What the agent takes, by case
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Processes that are busy
    #[arg(long, default_value_t = 100)]
    processes: usize,
    /// Threads of each
    #[arg(long, default_value_t = 20)]
    threads: usize,
    /// Context switches per second of all of them
    #[arg(long, default_value_t = 20_000)]
    switches: usize,
    /// Processes of the case in which nobody does anything
    #[arg(long, default_value_t = 1_000)]
    idle: usize,
    /// Seconds of one measurement, after `--settle`
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Seconds before it
    #[arg(long, default_value_t = 30)]
    settle: u64,
    /// More lines of the agent's configuration
    #[arg(long, default_value = "", value_name = "TOML")]
    config: String,
    #[command(flatten)]
    tools: Tools,
}

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    ensure!(args.seconds > 0, "--seconds must be at least 1");
    ensure!(args.processes > 0, "--processes must be at least 1");
    let binary = args.tools.binary_as_root()?;
    switch::warn_if_busy()?;
    let _stats = Stats::on()?;
    let busy = (0..args.processes)
        .map(|index| {
            let rate = args.switches as f64 / args.processes as f64;
            Owned::start_ready(
                Command::new(&args.tools.python)
                    .args([MARK, "-c", BUSY])
                    .args([args.threads.to_string(), rate.to_string()])
                    .env("OTEL_SERVICE_NAME", format!("service-{}", index % SERVICES)),
            )
        })
        .collect::<Result<Vec<_>>>()?;
    println!(
        "{} processes, {} threads",
        args.processes,
        args.processes * args.threads
    );
    let others = Agent::start(&binary, "nobody is called so", &args.config)?;
    let unwatched = others.measure(args)?;
    drop(others);
    unwatched.print("  none of them watched:");
    let agent = Agent::start(&binary, MARK, &args.config)?;
    let watched = agent.measure(args)?;
    watched.print("  all of them watched:");
    println!(
        "    bill of those who are not watched: {:.0} ns a switch, {:.2} % of a CPU for {:.0} switches/s",
        unwatched.kernel_share() / unwatched.switches * 1e9,
        unwatched.kernel_share() * 100.0,
        unwatched.switches,
    );
    agent.scrapes()?.print();
    drop(agent);
    drop(busy);
    if args.idle > 0 {
        let mut parent = Command::new(&args.tools.python);
        parent.args([MARK, "-c", IDLE, &args.idle.to_string()]);
        let group = Forked(Owned::start_ready(own_group(&mut parent))?);
        let agent = Agent::start(&binary, MARK, &args.config)?;
        println!("{} processes that do nothing", args.idle);
        agent.measure(args)?.print("  all of them watched:");
        drop(agent);
        drop(group);
    }
    Ok(ExitCode::SUCCESS)
}

fn own_group(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt as _;
    command.process_group(0)
}

/// A process and all that it has forked, which end with it.
struct Forked(Owned);

impl Drop for Forked {
    fn drop(&mut self) {
        // SAFETY: the group of our own child, which nobody has waited for.
        unsafe { libc::kill(-(self.0.0.id() as libc::pid_t), libc::SIGKILL) };
    }
}

/// Has the kernel measure the run time of programs.
struct Stats(String);

impl Stats {
    fn on() -> Result<Self> {
        let before = fs::read_to_string(STATS).with_context(|| format!("reading {STATS}"))?;
        fs::write(STATS, "1").with_context(|| format!("writing {STATS}"))?;
        Ok(Self(before))
    }
}

impl Drop for Stats {
    fn drop(&mut self) {
        if let Err(error) = fs::write(STATS, self.0.trim()) {
            eprintln!("{STATS} stays 1: {error}");
        }
    }
}

/// A running agent.
struct Agent {
    child: Owned,
    address: String,
    _config: tempfile::NamedTempFile,
}

impl Agent {
    /// One that watches whose command lines have `command` in them, and is ready.
    fn start(binary: &Path, command: &str, config: &str) -> Result<Self> {
        let mut file = tempfile::NamedTempFile::new()?;
        writeln!(file, "{config}\n[[allow]]\ncommand = '{command}'")?;
        let child = Command::new(binary)
            .args(["agent", "--listen", "127.0.0.1:0", "--config"])
            .arg(file.path())
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = Owned(child.with_context(|| format!("starting {}", binary.display()))?);
        let mut said = BufReader::new(child.0.stderr.take().context("no stderr")?).lines();
        let mut address = None;
        let mut is_ready = false;
        for line in said.by_ref() {
            let line = line?;
            if let Some((_, url)) = line.split_once("http://") {
                address = url.split('/').next().map(str::to_owned);
            }
            if line.contains("msg=\"ready\"") {
                is_ready = true;
                break;
            }
        }
        ensure!(is_ready, "the agent has ended");
        std::thread::spawn(move || {
            for line in said.map_while(Result::ok) {
                eprintln!("the agent: {line}");
            }
        });
        Ok(Self {
            child,
            address: address.context("the agent does not tell its address")?,
            _config: file,
        })
    }

    fn measure(&self, args: &Args) -> Result<Used> {
        sleep(Duration::from_secs(args.settle));
        let pids = self.processes()?;
        let before = Reading::of(&pids)?;
        sleep(Duration::from_secs(args.seconds));
        let after = Reading::of(&pids)?;
        let [resident] = self.child.memory_bytes(["VmRSS:"])?;
        Used::between(&before, &after, resident, &self.shed()?)
    }

    /// Its own process, and those that it has forked.
    fn processes(&self) -> Result<Vec<u32>> {
        let pid = self.child.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children = children
            .split_whitespace()
            .filter_map(|pid| pid.parse().ok());
        Ok(std::iter::once(pid).chain(children).collect())
    }

    /// What it leaves out now.
    fn shed(&self) -> Result<String> {
        let metrics = String::from_utf8(self.get("")?)?;
        let kinds = metrics.lines().filter_map(|line| {
            let kind = line.strip_prefix("concmon_agent_shed{concmon_detail=\"")?;
            kind.strip_suffix("\"} 1")
        });
        let kinds: Vec<&str> = kinds.collect();
        Ok(match kinds.as_slice() {
            [] => "nothing left out".to_owned(),
            kinds => format!("left out: {}", kinds.join(", ")),
        })
    }

    /// The body of the metrics.
    fn get(&self, fields: &str) -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect(&self.address)?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: agent\r\n{fields}\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        Ok(answer.split_off(end.context("no answer")? + 4))
    }

    fn scrapes(&self) -> Result<Scrapes> {
        let series = String::from_utf8(self.get("")?)?;
        let series = series.lines().filter(|line| !line.starts_with('#')).count();
        let mut took = Vec::new();
        let mut bytes = 0;
        for _ in 0..SCRAPES {
            let begin = Instant::now();
            bytes = self.get("Accept-Encoding: gzip\r\n")?.len();
            took.push(begin.elapsed());
        }
        took.sort_unstable();
        Ok(Scrapes {
            series,
            bytes,
            took,
        })
    }
}

/// What was used up to an instant.
struct Reading {
    at: Instant,
    /// CPU time by the name of the process, ns.
    cpu_ns: BTreeMap<String, u64>,
    /// Of all programs of the kernel that the first process holds: run time, ns, and runs.
    kernel: (u64, u64),
    /// Context switches of the host.
    switches: u64,
}

impl Reading {
    fn of(pids: &[u32]) -> Result<Self> {
        let mut cpu_ns = BTreeMap::new();
        for pid in pids {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).context("it has ended")?;
            *cpu_ns.entry(name.trim().to_owned()).or_insert(0) += cpu_of(*pid)?;
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().find_map(|line| line.strip_prefix("ctxt "));
        Ok(Self {
            at: Instant::now(),
            cpu_ns,
            kernel: programs_of(pids[0])?,
            switches: line.context("no ctxt in /proc/stat")?.trim().parse()?,
        })
    }
}

/// CPU time of all threads, which an agent keeps to its end, ns (the first word of `schedstat`,
/// Documentation/scheduler/sched-stats.rst).
fn cpu_of(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        let first = text.split(' ').next().context("no time")?;
        sum += first.parse::<u64>()?;
    }
    Ok(sum)
}

/// Run time, ns, and runs of the programs that a process has descriptors of, each counted once
/// (`bpf_prog_show_fdinfo`, kernel/bpf/syscall.c).
fn programs_of(pid: u32) -> Result<(u64, u64)> {
    let mut programs = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // It may have been closed meanwhile.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|value| value.trim().parse::<u64>().ok())
        };
        if let (Some(id), Some(ns), Some(runs)) =
            (field("prog_id:"), field("run_time_ns:"), field("run_cnt:"))
        {
            programs.insert(id, (ns, runs));
        }
    }
    let sums = programs.values();
    Ok(sums.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1)))
}

/// What was used in a measurement; shares are of one CPU.
struct Used {
    user: Vec<(String, f64)>,
    kernel: f64,
    runs: f64,
    /// Per second, of the host.
    switches: f64,
    resident_bytes: u64,
    shed: String,
}

impl Used {
    fn between(before: &Reading, after: &Reading, resident_bytes: u64, shed: &str) -> Result<Self> {
        let ns = after.at.duration_since(before.at).as_nanos() as f64;
        let user = after.cpu_ns.iter().map(|(name, now)| {
            let then = before.cpu_ns.get(name).copied().unwrap_or(0);
            (name.clone(), now.saturating_sub(then) as f64 / ns)
        });
        ensure!(
            after.kernel.1 > before.kernel.1,
            "the agent's kernel programs have not run"
        );
        Ok(Self {
            user: user.collect(),
            kernel: after.kernel.0.saturating_sub(before.kernel.0) as f64 / ns,
            runs: (after.kernel.1 - before.kernel.1) as f64 / ns * 1e9,
            switches: (after.switches - before.switches) as f64 / ns * 1e9,
            resident_bytes,
            shed: shed.to_owned(),
        })
    }

    fn kernel_share(&self) -> f64 {
        self.kernel
    }

    fn print(&self, title: &str) {
        println!("{title}");
        let sum: f64 = self.user.iter().map(|(_, share)| share).sum();
        let parts: Vec<String> = self
            .user
            .iter()
            .map(|(name, share)| format!("{name} {:.2} %", share * 100.0))
            .collect();
        println!(
            "    user space {:.2} % of a CPU ({})",
            sum * 100.0,
            parts.join(", ")
        );
        println!(
            "    kernel programs {:.2} % of a CPU: {:.0} runs/s, {:.0} ns each, at {:.0} switches/s of the host",
            self.kernel * 100.0,
            self.runs,
            self.kernel / self.runs * 1e9,
            self.switches
        );
        println!(
            "    resident {:.1} MB, {}",
            self.resident_bytes as f64 / 1e6,
            self.shed
        );
    }
}

struct Scrapes {
    series: usize,
    bytes: usize,
    took: Vec<Duration>,
}

impl Scrapes {
    fn print(&self) {
        let milliseconds = |of: Duration| of.as_secs_f64() * 1e3;
        println!(
            "    a scrape: {:.1} ms (longest of {}: {:.1} ms), {:.1} kB gzipped, {} series",
            milliseconds(self.took[self.took.len() / 2]),
            self.took.len(),
            milliseconds(self.took[self.took.len() - 1]),
            self.bytes as f64 / 1e3,
            self.series
        );
    }
}
