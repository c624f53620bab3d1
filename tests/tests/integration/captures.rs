//! Captures: what is reported from a file is what the live watch said, to the byte.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
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
        case("captures::replay_equals_live", &needs, replay_equals_live),
        case(
            "captures::replay_equals_live_after_loss",
            &[root, ebpf, python, Need::Cc],
            replay_equals_live_after_loss,
        ),
    ]
}

/// Runs the tool to its end; gives what it printed.
fn run(arguments: &[&str]) -> Result<Vec<u8>> {
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
fn text(path: &Path) -> Result<&str> {
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
    let said: Value = serde_json::from_slice(&live)?;
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
