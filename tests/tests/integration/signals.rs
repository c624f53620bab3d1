//! Signals, and readers that do not read: the watch goes on, memory stays bounded, and a signal ends it.

use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::proc;
use concmon_tests::report::Report;
use concmon_tests::schema;
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::captures::{run, text};
use crate::watch_python;

/// How soon a signal ends the tool although nobody reads: a couple of seconds of patience, and what it
/// takes to sum up, in a build without optimisation.
const SOON: Duration = Duration::from_secs(8);

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    vec![
        quiet("signals::nobody_reads::lines", &needs, || nobody_reads(&[])),
        quiet("signals::nobody_reads::json", &needs, || {
            nobody_reads(&["--json"])
        }),
        quiet(
            "signals::nobody_reads_standard_error",
            &needs,
            nobody_reads_standard_error,
        ),
        quiet(
            "signals::a_slow_reader_loses_nothing",
            &needs,
            a_slow_reader_loses_nothing,
        ),
        quiet(
            "signals::a_reader_that_leaves_keeps_the_code_of_the_program",
            &needs,
            a_reader_that_leaves,
        ),
        quiet(
            "signals::nobody_reads_a_recording",
            &needs,
            nobody_reads_a_recording,
        ),
        quiet("signals::two_at_once_are_one_request", &needs, two_at_once),
        quiet("signals::a_later_one_aborts", &needs, a_later_one_aborts),
        quiet("signals::a_hangup_ends_a_watch", &needs, a_hangup),
        quiet("signals::nohup", &needs, nohup),
        quiet(
            "signals::a_terminal_that_answers_nothing",
            &needs,
            a_terminal_that_answers_nothing,
        ),
        quiet("signals::a_dumb_terminal", &needs, a_dumb_terminal),
        quiet("signals::a_file_size_limit", &needs, a_file_size_limit),
    ]
}

fn workload() -> Result<Workload> {
    Workload::start(&Interpreter::find("3.11")?, "gil.py", &["3"])
}

/// A pipe that holds one page, and the tool that writes to it.
fn small_pipe(arguments: &[&str]) -> Result<(PipeReader, Group)> {
    let (reader, writer) = std::io::pipe()?;
    // SAFETY: no pointer is handed over.
    let size = unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4_096) };
    ensure!(size == 4_096, "the pipe holds {size} bytes");
    let mut command = Command::new(binary()?);
    command
        .args(arguments)
        .args(["--budget-cpu", "100%"])
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(Stdio::piped());
    Ok((reader, Group::start(&mut command)?))
}

/// Waits until a page is in the pipe, which is all that it holds, and `more` on.
fn full(reader: &PipeReader, more: Duration) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut unread: libc::c_int = 0;
        // SAFETY: an open descriptor, and room for the number.
        unsafe { libc::ioctl(reader.as_raw_fd(), libc::FIONREAD, &raw mut unread) };
        if unread > 3_000 {
            std::thread::sleep(more);
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "only {unread} bytes came");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn said(tool: &mut Group) -> Result<String> {
    let mut said = String::new();
    let mut stderr = tool.stderr.take().context("no stderr")?;
    stderr.read_to_string(&mut said)?;
    Ok(said)
}

fn rss_kb(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number.context("no VmRSS")?.parse()?)
}

fn nobody_reads(form: &[&str]) -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        let arguments = [&["-p", &pid, "-i", "100ms"], form].concat();
        let (reader, mut tool) = small_pipe(&arguments)?;
        full(&reader, Duration::from_secs(2))?;
        let before_kb = rss_kb(tool.id())?;
        std::thread::sleep(Duration::from_secs(3));
        let after_kb = rss_kb(tool.id())?;
        ensure!(
            after_kb < before_kb + 64 * 1_024,
            "memory grows: {before_kb} kB, then {after_kb} kB"
        );
        tool.signal(signal);
        let status = tool.wait_for(SOON)?;
        let said = said(&mut tool)?;
        ensure!(code(status) == 1, "code {}, stderr: {said}", code(status));
        let told: Vec<&str> = said
            .lines()
            .filter(|line| line.contains("dropped"))
            .collect();
        ensure!(
            told.len() == 1
                && told[0].contains("the summary were dropped: nobody reads standard output"),
            "{said}"
        );
        drop(reader);
    }
    Ok(())
}

/// Messages that nobody reads hold nothing up.
fn nobody_reads_standard_error() -> Result<()> {
    let workload = workload()?;
    let (_unread, writer) = std::io::pipe()?;
    // SAFETY: no pointer is handed over.
    unsafe { libc::fcntl(writer.as_raw_fd(), libc::F_SETPIPE_SZ, 4_096) };
    // It is full from the start.
    let mut full: File = OwnedFd::from(writer.try_clone()?).into();
    full.write_all(&[b'x'; 4_096])?;
    let folder = tempfile::tempdir()?;
    let pid = workload.pid().to_string();
    let mut command = Command::new(binary()?);
    command
        .args(["record", "-p", &pid, "--ring", "10s", "-o"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(writer);
    let mut tool = Group::start(&mut command)?;
    let files = || -> Result<usize> { Ok(std::fs::read_dir(folder.path())?.count()) };
    proc::catches(tool.id(), libc::SIGUSR2)?;
    std::thread::sleep(Duration::from_secs(3));
    tool.signal(libc::SIGUSR2);
    let deadline = Instant::now() + PATIENCE;
    while files()? == 0 {
        ensure!(Instant::now() < deadline, "nothing is written at SIGUSR2");
        std::thread::sleep(Duration::from_millis(50));
    }
    tool.signal(libc::SIGHUP);
    let status = tool.wait_for(SOON)?;
    ensure!(code(status) == 0, "code {}", code(status));
    Ok(())
}

/// Whoever reads, however slowly, gets every report, and they sum up to the summary.
fn a_slow_reader_loses_nothing() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    let (mut reader, mut tool) = small_pipe(&["-p", &pid, "-i", "100ms", "--json"])?;
    full(&reader, Duration::from_secs(4))?;
    let began = Instant::now();
    let (mut all, mut some, mut signalled) = (Vec::new(), [0; 4_096], false);
    loop {
        let bytes = reader.read(&mut some)?;
        if bytes == 0 {
            break;
        }
        all.extend_from_slice(&some[..bytes]);
        ensure!(began.elapsed() < 4 * PATIENCE, "it does not end");
        if !signalled && began.elapsed() > Duration::from_secs(3) {
            tool.signal(libc::SIGINT);
            signalled = true;
        }
        std::thread::sleep(Duration::from_millis(30));
    }
    let status = tool.wait_for(SOON)?;
    let said = said(&mut tool)?;
    ensure!(code(status) == 0, "code {}, stderr: {said}", code(status));
    let mut snapshots = Vec::new();
    let mut summary = None;
    for line in BufReader::new(&*all).lines() {
        let value = schema::line(line?.as_bytes())?;
        if value["type"] == "stall" {
            continue;
        }
        ensure!(summary.is_none(), "something comes after the summary");
        let report: Report = serde_json::from_value(value)?;
        laws::hold(&report)?;
        match report.kind.as_str() {
            "summary" => summary = Some(report),
            _ => snapshots.push(report),
        }
    }
    let longest_ns = snapshots.iter().map(|one| one.window.duration_ns).max();
    ensure!(
        longest_ns > Some(1_000_000_000),
        "the reader was not slow enough: {longest_ns:?}"
    );
    laws::sum_up(&snapshots, &summary.context("no summary")?)
}

/// The reader may leave: the run ends quietly, with the code of the program that it has started.
fn a_reader_that_leaves() -> Result<()> {
    let python = Interpreter::find("3.11")?;
    let mut words = vec!["-i".to_owned(), "100ms".to_owned(), "--json".to_owned()];
    let command = python.command();
    words.push("--".to_owned());
    words.push(command.get_program().to_string_lossy().into_owned());
    words.extend(["-c", "import time; time.sleep(4); raise SystemExit(7)"].map(str::to_owned));
    let mut tool = Command::new(binary()?);
    tool.args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut tool = Group::start(&mut tool)?;
    let mut line = String::new();
    BufReader::new(tool.stdout.take().context("no stdout")?).read_line(&mut line)?;
    let status = tool.wait_for(PATIENCE)?;
    let said = said(&mut tool)?;
    ensure!(code(status) == 7, "code {}, stderr: {said}", code(status));
    ensure!(said.is_empty(), "{said}");
    Ok(())
}

/// A capture that goes to a pipe which nobody reads: the recording ends, and so does the tool.
fn nobody_reads_a_recording() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    let (reader, mut tool) = small_pipe(&["record", "-p", &pid, "-i", "100ms", "-o", "-"])?;
    // It may have given up by itself.
    std::thread::sleep(Duration::from_secs(4));
    tool.signal(libc::SIGTERM);
    let status = tool.wait_for(SOON)?;
    drop(reader);
    let said = said(&mut tool)?;
    ensure!(
        code(status) == 1 && said.contains("nobody reads"),
        "{status}: {said}"
    );
    Ok(())
}

/// What `timeout` and service managers do: one request, and a summary.
fn two_at_once() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    for [first, second] in [
        [libc::SIGTERM, libc::SIGTERM],
        [libc::SIGTERM, libc::SIGHUP],
        [libc::SIGHUP, libc::SIGHUP],
        [libc::SIGINT, libc::SIGTERM],
    ] {
        let mut watch = Watch::start(&["-p", &pid, "-i", "200ms", "--json"])?;
        watch.next(PATIENCE)?;
        watch.signal(first);
        // Not merged into one by the kernel.
        std::thread::sleep(Duration::from_millis(20));
        watch.signal(second);
        watch.finish(PATIENCE)?.ok()?;
    }
    Ok(())
}

/// Somebody who asks again does not want to wait: here, for a program that does not end.
fn a_later_one_aborts() -> Result<()> {
    let mut command = Command::new(binary()?);
    let script = "trap '' INT; while true; do sleep 0.1; done";
    command
        .args(["--", "sh", "-c", script])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut tool = Group::start(&mut command)?;
    std::thread::sleep(Duration::from_secs(3));
    tool.signal(libc::SIGINT);
    std::thread::sleep(Duration::from_secs(3));
    ensure!(
        tool.try_wait()?.is_none(),
        "it did not wait for the program"
    );
    tool.signal(libc::SIGINT);
    let status = tool.wait_for(SOON)?;
    ensure!(code(status) == 128 + libc::SIGINT, "{status}");
    Ok(())
}

fn a_hangup() -> Result<()> {
    let workload = workload()?;
    let mut watch = Watch::pid(workload.pid(), "200ms", None)?;
    watch.next(PATIENCE)?;
    watch.signal(libc::SIGHUP);
    watch.finish(PATIENCE)?.ok()?;

    // A shell and its terminal may both say so: the capture is ended whole.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture.concmon");
    let pid = workload.pid().to_string();
    let mut record = Command::new(binary()?);
    record.args(["record", "-p", &pid, "-i", "200ms", "-o", text(&file)?]);
    let mut record = Group::start(record.stdin(Stdio::null()).stdout(Stdio::null()))?;
    std::thread::sleep(Duration::from_secs(3));
    record.signal(libc::SIGHUP);
    std::thread::sleep(Duration::from_millis(5));
    record.signal(libc::SIGHUP);
    let status = record.wait_for(PATIENCE)?;
    ensure!(code(status) == 0, "recording: code {}", code(status));
    let report = schema::line(&run(&["report", "--json", "-i", text(&file)?])?)?;
    let cut = |limit: &Value| limit["field"] == "capture";
    let limits = report["limits"].as_array().context("no limits")?;
    ensure!(!limits.iter().any(cut), "the capture is cut: {limits:?}");

    // It is passed on to a program of one's own.
    let mut command = Command::new(binary()?);
    command.args(["--json", "-i", "200ms", "--", "sleep", "60"]);
    let mut watch = Watch::with(&mut command)?;
    watch.next(PATIENCE)?;
    watch.signal(libc::SIGHUP);
    let outcome = watch.finish(PATIENCE)?;
    ensure!(outcome.code == 128 + libc::SIGHUP, "code {}", outcome.code);
    outcome.summary()?;
    Ok(())
}

/// What ignores SIGHUP from the start goes on.
fn nohup() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    let mut command = Command::new(binary()?);
    command.args(["-p", &pid, "-i", "200ms", "--json"]);
    // SAFETY: signal is async-signal-safe, and ignoring runs no code.
    unsafe {
        command.pre_exec(|| {
            libc::signal(libc::SIGHUP, libc::SIG_IGN);
            Ok(())
        });
    }
    let mut watch = Watch::with(&mut command)?;
    watch.next(PATIENCE)?;
    watch.signal(libc::SIGHUP);
    std::thread::sleep(Duration::from_secs(1));
    ensure!(watch.running()?, "SIGHUP has ended it");
    watch.next(PATIENCE)?;
    watch.interrupt()?;
    Ok(())
}

/// The tool on a terminal of its own, which nobody answers for.
struct OnTerminal {
    master: File,
    tool: Child,
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.tool.kill();
        let _ = self.tool.wait();
    }
}

impl OnTerminal {
    fn start(arguments: &[&str], kind: &str) -> Result<Self> {
        let (mut master, mut slave) = (-1, -1);
        let size = libc::winsize {
            ws_row: 40,
            ws_col: 120,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: there is room for two descriptors; the other pointers may be null.
        let opened = unsafe {
            libc::openpty(
                &raw mut master,
                &raw mut slave,
                std::ptr::null_mut(),
                std::ptr::null(),
                &raw const size,
            )
        };
        ensure!(opened == 0, "{}", std::io::Error::last_os_error());
        // SAFETY: the kernel has just given them to us.
        let (master, slave) =
            unsafe { (OwnedFd::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) };
        // SAFETY: no pointers. The tool must not keep its terminal open.
        unsafe { libc::fcntl(master.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) };
        let mut command = Command::new(binary()?);
        command
            .args(arguments)
            .env("TERM", kind)
            .stdin(slave.try_clone()?)
            .stdout(slave.try_clone()?)
            .stderr(slave);
        // SAFETY: both calls are async-signal-safe and take no pointers.
        unsafe {
            command.pre_exec(|| {
                libc::setsid();
                libc::ioctl(0, libc::TIOCSCTTY, 0);
                Ok(())
            });
        }
        let tool = command.spawn()?;
        Ok(Self {
            master: master.into(),
            tool,
        })
    }

    /// Reads what the tool writes until `part` is in it.
    fn read_until(&mut self, part: &str) -> Result<String> {
        let mut all = Vec::new();
        let mut some = [0; 4_096];
        while !String::from_utf8_lossy(&all).contains(part) {
            let bytes = self.master.read(&mut some).unwrap_or(0);
            ensure!(
                bytes > 0 && all.len() < 4 << 20,
                "no {part:?} in {:?}",
                String::from_utf8_lossy(&all)
            );
            all.extend_from_slice(&some[..bytes]);
        }
        Ok(String::from_utf8_lossy(&all).into_owned())
    }

    fn end(&mut self, limit: Duration) -> Result<i32> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.tool.try_wait()? {
                return Ok(code(status));
            }
            ensure!(Instant::now() < deadline, "the tool does not end");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

const TAKEN: &str = "\x1b[?1049h";
const GIVEN_BACK: &str = "\x1b[?1049l";

fn a_terminal_that_answers_nothing() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    let arguments = ["-p", &pid, "-i", "200ms"];
    let mut on = OnTerminal::start(&arguments, "xterm")?;
    let screen = on.read_until("MainThread")?;
    ensure!(screen.contains(TAKEN), "no live view: {screen:?}");
    ensure!(!screen.contains("\x1b[6n"), "it asks where the cursor is");
    on.master.write_all(b"q")?;
    let rest = on.read_until("where the time went")?;
    ensure!(rest.contains(GIVEN_BACK), "{rest:?}");
    ensure!(on.end(SOON)? == 0);

    // Nobody reads the screen, either.
    let mut on = OnTerminal::start(&["-p", &pid, "-i", "100ms"], "xterm")?;
    on.read_until(TAKEN)?;
    std::thread::sleep(Duration::from_secs(6));
    // SAFETY: our own child, which nobody has waited for yet.
    unsafe { libc::kill(on.tool.id() as i32, libc::SIGTERM) };
    let ended = on.end(SOON)?;
    ensure!([0, 1].contains(&ended), "code {ended}");

    // The terminal is closed, which the kernel says by SIGHUP.
    let mut on = OnTerminal::start(&arguments, "xterm")?;
    on.read_until("MainThread")?;
    on.master = File::open("/dev/null")?;
    let ended = on.end(SOON)?;
    ensure!(ended == 0, "code {ended} after a hangup");
    Ok(())
}

fn a_dumb_terminal() -> Result<()> {
    let workload = workload()?;
    let pid = workload.pid().to_string();
    let mut on = OnTerminal::start(&["-p", &pid, "-i", "200ms", "-d", "1s"], "dumb")?;
    let all = on.read_until("where the time went")?;
    ensure!(all.contains("report lines instead"), "{all}");
    ensure!(!all.contains(TAKEN), "a live view: {all:?}");
    ensure!(on.end(PATIENCE)? == 0);
    Ok(())
}

/// The signal of the limit does not kill; the file and the limit are named.
fn a_file_size_limit() -> Result<()> {
    let workload = workload()?;
    let folder = tempfile::tempdir()?;
    let pid = workload.pid().to_string();
    let file = folder.path().join("limited");
    let limited = |arguments: &[&str], file: &Path| -> Result<()> {
        let mut command = Command::new(binary()?);
        command.args(arguments).arg("-o").arg(file);
        // SAFETY: setrlimit is async-signal-safe, and the limit lives through the call.
        unsafe {
            command.pre_exec(|| {
                let limit = libc::rlimit {
                    rlim_cur: 16_384,
                    rlim_max: 16_384,
                };
                libc::setrlimit(libc::RLIMIT_FSIZE, &raw const limit);
                Ok(())
            });
        }
        let output = command.stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
        ensure!(
            said.contains("file size limit") && said.contains(text(file)?),
            "{arguments:?}: {said}"
        );
        Ok(())
    };
    let watch = ["-p", &pid, "-i", "100ms", "-d", "20s"];
    limited(&[&watch[..], &["--json"]].concat(), &file)?;
    limited(
        &[&["record"], &watch[..]].concat(),
        &file.with_extension("concmon"),
    )
}
