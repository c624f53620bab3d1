//! Captures: what is reported from a file is what the live watch said, to the byte.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::needs::Need;
use concmon_tests::report::Report;
use concmon_tests::schema;
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::{PATIENCE, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::overload::pingpong;
use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    let [root, ebpf, python] = watch_python("3.11");
    vec![
        quiet("captures::replay_equals_live", &needs, replay_equals_live),
        quiet(
            "captures::a_range_is_its_windows",
            &needs,
            a_range_is_its_windows,
        ),
        quiet(
            "captures::a_suffix_is_as_in_the_whole",
            &needs,
            a_suffix_is_as_in_the_whole,
        ),
        quiet("captures::a_killed_recorder", &needs, a_killed_recorder),
        quiet("captures::a_full_disk", &needs, a_full_disk),
        case(
            "captures::replay_equals_live_after_loss",
            &[root, ebpf, python, Need::Cc],
            replay_equals_live_after_loss,
        ),
    ]
}

/// Runs the tool to its end; gives what it printed.
pub(crate) fn run(arguments: &[&str]) -> Result<Vec<u8>> {
    let output = Command::new(binary()?).args(arguments).output()?;
    ensure!(
        output.status.success(),
        "{arguments:?}: {}, stderr: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output.stdout)
}

/// The text of a path.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn replay_equals_live() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture.concmon");
    let file = text(&file)?;
    for (program, arguments, json) in [
        ("gil.py", &["3"][..], false),
        ("names.py", &[], true),
        ("findings.py", &["gil_contention"], true),
        ("findings.py", &["loop_blocked"], false),
    ] {
        let workload = Workload::start(&Interpreter::find("3.11")?, program, arguments)?;
        let pid = workload.pid().to_string();
        let mut record = vec!["record", "-p", &pid, "-o", file, "-d", "2s", "-i", "500ms"];
        let mut report = vec!["report", "-i", file];
        if json {
            record.push("--json");
            report.push("--json");
        }
        let live = run(&record)?;
        ensure!(!live.is_empty(), "{program}: no summary");
        ensure!(
            run(&report)? == live,
            "{program}: the report differs from the live summary"
        );
    }
    Ok(())
}

fn replay_equals_live_after_loss() -> Result<()> {
    let (folder, program) = pingpong()?;
    let program = text(&program)?;
    let file = folder.path().join("capture.concmon");
    let mut workload = Workload::start(&Interpreter::find("3.11")?, "overload.py", &[program])?;
    let pid = workload.pid().to_string();
    let summary = folder.path().join("summary.json");
    let mut recorder = Group::start(
        Command::new(binary()?)
            .args(["record", "--json", "-p", &pid, "-o", text(&file)?])
            .stdout(std::fs::File::create(&summary)?),
    )?;
    std::thread::sleep(Duration::from_secs(2));
    workload.ask(&json!({ "start": true }), "started")?;
    workload.tell(&json!({ "burst_ms": 2500 }))?;
    std::thread::sleep(Duration::from_millis(800));
    recorder.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(1));
    recorder.signal(libc::SIGCONT);
    workload.line("burst")?;
    recorder.signal(libc::SIGINT);
    let ended = code(recorder.wait_for(PATIENCE)?);
    ensure!(ended == 0, "exit code {ended}");

    let live = std::fs::read(&summary)?;
    let said = schema::line(&live)?;
    let lost = said["monitor"]["events_lost"].as_u64();
    ensure!(
        lost.is_some_and(|lost| lost > 0),
        "nothing was lost: {lost:?}"
    );
    let replayed = run(&["report", "--json", "-i", text(&file)?])?;
    ensure!(
        replayed == live,
        "the report differs from the live summary after the loss of {lost:?} records"
    );
    Ok(())
}

/// The reports in NDJSON; each holds the laws.
pub(crate) fn reports(printed: &[u8]) -> Result<Vec<Report>> {
    let lines = std::str::from_utf8(printed)?.lines();
    lines
        .map(|line| {
            let report: Report = serde_json::from_value(schema::line(line.as_bytes())?)?;
            laws::hold(&report)?;
            Ok(report)
        })
        .collect()
}

fn a_range_is_its_windows() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture.concmon");
    let file = text(&file)?;
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["3"])?;
    let pid = workload.pid().to_string();
    run(&["record", "-p", &pid, "-o", file, "-d", "4s", "-i", "500ms"])?;
    let all = reports(&run(&["report", "-i", file, "--json", "--per", "500ms"])?)?;
    let windows: Vec<&Report> = all.iter().filter(|one| one.kind == "snapshot").collect();
    ensure!(windows.len() >= 7, "{} windows", windows.len());
    // In the midst of windows: moved outwards to their ends.
    let inside = |window: &Report| {
        let ns = window.window.start_unix_ns + window.window.duration_ns / 2;
        format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
    };
    let (since, until) = (inside(windows[2]), inside(windows[5]));
    let range = ["--since", &since, "--until", &until];
    let found = reports(&run(
        &[&["report", "-i", file, "--json"], &range[..]].concat()
    )?)?;
    let [found] = &found[..] else {
        bail!("{} reports", found.len());
    };
    let part = &windows[2..=5];
    ensure!(found.window.start_unix_ns == part[0].window.start_unix_ns);
    let sum = |of: &dyn Fn(&Report) -> Result<u64>| -> Result<u64> {
        part.iter().map(|one| of(one)).sum()
    };
    let duration = sum(&|one| Ok(one.window.duration_ns))?;
    ensure!(found.window.duration_ns == duration);
    let target = workload.pid();
    let mut busy_ns = 0;
    for thread in &found.process(target)?.threads {
        let on_cpu = sum(&|one| {
            let thread = one.process(target)?.thread(thread.tid)?;
            Ok(thread.ledger.on_cpu_ns)
        })?;
        ensure!(
            thread.ledger.on_cpu_ns == on_cpu,
            "thread {}: {} ns on a CPU in the range, {on_cpu} ns in its windows",
            thread.tid,
            thread.ledger.on_cpu_ns
        );
        busy_ns += on_cpu;
    }
    ensure!(busy_ns > 0 && busy_ns < 64 * duration);
    // By the end, and what is empty is an error of no kind.
    run(&["report", "-i", file, "--since", "-1s"])?;
    run(&[
        "report",
        "-i",
        file,
        "--since",
        "-0s",
        "--until",
        "2001-01-01T00:00Z",
    ])?;
    Ok(())
}

/// A range that begins so late that what lies before it is not read has the ledgers of the whole. (What goes back further, such as the age of
/// findings or how CPU time is split before the first look, begins where reading does.)
fn a_suffix_is_as_in_the_whole() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture.concmon");
    let file = text(&file)?;
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["3"])?;
    let pid = workload.pid().to_string();
    run(&["record", "-p", &pid, "-o", file, "-d", "22s", "-i", "500ms"])?;
    let windows = |more: &[&str]| -> Result<Vec<Value>> {
        let told = run(&[&["report", "-i", file, "--json", "--per", "500ms"], more].concat())?;
        String::from_utf8(told)?
            .lines()
            .map(|line| schema::line(line.as_bytes()))
            .filter(|one: &Result<Value>| !matches!(one, Ok(one) if one["type"] != "snapshot"))
            .collect()
    };
    let (whole, part) = (windows(&[])?, windows(&["--since", "-3s"])?);
    ensure!(
        part.len() >= 5 && whole.len() >= part.len() + 35,
        "{} of {} windows",
        part.len(),
        whole.len()
    );
    for (mine, its) in part.iter().rev().zip(whole.iter().rev()) {
        ensure!(mine["window"] == its["window"], "other windows");
        let (mine, its) = (&mine["processes"][0], &its["processes"][0]);
        let rows = |process: &Value| {
            let threads = process["threads"].as_array().into_iter().flatten();
            let row = |thread: &Value| (thread["tid"].clone(), thread["ledger"].clone());
            threads.map(row).collect::<Vec<_>>()
        };
        ensure!(rows(mine).len() > 2, "no rows");
        ensure!(rows(mine) == rows(its), "{mine}\n{its}");
        for column in ["cpu_ns", "context_switches", "rss_bytes", "ended"] {
            ensure!(mine[column] == its[column], "{column}: {mine}\n{its}");
        }
    }
    Ok(())
}

/// Killed at any moment, a recorder leaves a file that can be read and says where it breaks off.
/// `CONCMON_KILLS` says how often it is tried.
fn a_killed_recorder() -> Result<()> {
    let kills = std::env::var("CONCMON_KILLS").ok();
    let kills: u64 = kills.map_or(Ok(4), |kills| kills.parse())?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture.concmon");
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["2"])?;
    let pid = workload.pid().to_string();
    for kill in 0..kills {
        let _ = std::fs::remove_file(&file);
        let arguments = [
            "record",
            "-p",
            &pid,
            "-o",
            text(&file)?,
            "-i",
            "300ms",
            "-q",
        ];
        let mut recorder = Group::start(
            Command::new(binary()?)
                .args(arguments)
                .stdout(std::process::Stdio::null()),
        )?;
        while std::fs::metadata(&file).map_or(0, |file| file.len()) == 0 {
            ensure!(recorder.try_wait()?.is_none(), "the recorder has ended");
            std::thread::sleep(Duration::from_millis(5));
        }
        // Spread over two seconds, in an order that repeats late.
        std::thread::sleep(Duration::from_millis(kill * 757 % 2_000));
        let killed = SystemTime::now();
        recorder.signal(libc::SIGKILL);
        recorder.wait_for(PATIENCE)?;

        let found = reports(&run(&["report", "--json", "-i", text(&file)?])?)?;
        let report = found.last().context("no report")?;
        let said = report.limits.iter().find(|limit| limit.field == "capture");
        let said = &said.context("it does not say that it breaks off")?.reason;
        ensure!(
            said.contains("broke off") || said.contains("breaks off"),
            "{said}"
        );
        let killed_ns = killed.duration_since(UNIX_EPOCH)?.as_nanos() as u64;
        let missing_ns = killed_ns.saturating_sub(report.window.end_unix_ns());
        ensure!(
            missing_ns < 1_000_000_000,
            "kill {kill}: the last {missing_ns} ns are missing"
        );
    }
    Ok(())
}

/// A disk that is full ends the recording: what is there is whole, and nobody else is harmed.
fn a_full_disk() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk)?;
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=96k", "tmpfs", text(&disk)?])
        .status()?;
    ensure!(mounted.success(), "cannot mount a small file system");
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["4"])?;
    let pid = workload.pid().to_string();
    let file = disk.join("capture.concmon");
    let output = Command::new(binary()?)
        .args([
            "record",
            "--json",
            "-p",
            &pid,
            "-o",
            text(&file)?,
            "-d",
            "60s",
        ])
        .output();
    let report = run(&["report", "--json", "-i", text(&file)?]);
    let exported = exports_on_a_full_disk(&file);
    let running = Path::new(&format!("/proc/{pid}")).exists();
    let unmounted = Command::new("umount").arg(&disk).status();
    let output = output?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("No space left on device"), "{said}");
    // The summary of what was watched comes all the same.
    ensure!(reports(&output.stdout)?.len() == 1);
    let report = reports(&report?)?;
    let limits = &report.last().context("no report")?.limits;
    ensure!(
        limits.iter().any(|limit| limit.field == "capture"),
        "it does not say what is missing: {limits:?}"
    );
    ensure!(running, "the target has ended");
    ensure!(unmounted?.success());
    exported
}

/// Nothing is left of an export or a page that could not be written to its end, and the capture
/// itself is never written over.
fn exports_on_a_full_disk(capture: &Path) -> Result<()> {
    let (capture, written) = (text(capture)?, capture.with_extension("out"));
    let bytes = std::fs::metadata(capture)?.len();
    // What was not enough for the next part of a recording may be enough for a short export.
    let filler = std::fs::File::create(written.with_extension("filler"))?;
    while (&filler).write(&[1; 4096]).is_ok_and(|count| count > 0) {}
    let into = |arguments: &[&str], path: &str, code: i32| {
        let all = [arguments, &["-i", capture, path]].concat();
        let (path, arguments) = all.split_last().context("arguments")?;
        let output = Command::new(binary()?).args(arguments).arg(path).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{all:?}: {said}");
        Ok(said)
    };
    let exports = [
        &["report", "--html"][..],
        &["export", "-f", "perfetto", "-o"],
        &["export", "-f", "speedscope", "-o"],
    ];
    for arguments in exports {
        let (option, command) = arguments.split_last().context("arguments")?;
        let given = |path: &str| format!("{option}={path}");
        let said = into(command, &given(text(&written)?), 1)?;
        ensure!(said.contains("No space left on device"), "{said}");
        ensure!(!written.exists(), "{arguments:?} leaves a part");
        let option = given(capture);
        let said = into(command, &option, 2)?;
        ensure!(said.contains("name another file"), "{said}");
    }
    ensure!(std::fs::metadata(capture)?.len() == bytes);
    Ok(())
}
