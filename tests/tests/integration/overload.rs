//! More events than can be read: detail is lost and said to be, totals stay right.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::proc;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::{Workload, programs};
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::watch_python;

const RSS_LIMIT_BYTES: u64 = 200 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf, python] = watch_python("3.11");
    vec![case(
        "overload::totals_survive_a_stopped_reader",
        &[root, ebpf, python, Need::Cc],
        totals_survive_a_stopped_reader,
    )]
}

/// A player's own counters since its birth.
#[derive(Deserialize)]
struct Player {
    tid: u32,
    voluntary: u64,
    involuntary: u64,
    cpu_ns: u64,
    passes: u64,
}

/// Builds the C workload; it lives as long as the folder.
pub(crate) fn pingpong() -> Result<(TempDir, PathBuf)> {
    let folder = tempfile::tempdir()?;
    let program = folder.path().join("pingpong");
    let output = Command::new("cc")
        .args(["-O2", "-pthread", "-o"])
        .arg(&program)
        .arg(programs().join("pingpong.c"))
        .output()?;
    ensure!(
        output.status.success(),
        "cc: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok((folder, program))
}

fn totals_survive_a_stopped_reader() -> Result<()> {
    let (_folder, program) = pingpong()?;
    let program = program.to_str().context("a path that is no text")?;
    let mut workload = Workload::start(&Interpreter::find("3.11")?, "overload.py", &[program])?;
    let mut watch = Watch::pid(workload.pid(), "1s", None)?;
    watch.next(PATIENCE)?;
    let started = workload.ask(&json!({ "start": true }), "started")?;
    let child = started["child"].as_u64().context("no child")? as u32;

    workload.tell(&json!({ "burst_ms": 3000 }))?;
    std::thread::sleep(Duration::from_millis(800));
    watch.signal(libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(1));
    watch.signal(libc::SIGCONT);
    let players: Vec<Player> = serde_json::from_value(workload.line("burst")?["threads"].take())?;
    // Both are blocked now; the next window ends after it.
    watch.next(PATIENCE)?;
    let peak_rss = proc::status(watch.tool(), "VmHWM")? * 1024;
    let outcome = watch.interrupt()?;

    let summary = outcome.summary()?;
    ensure!(
        summary.monitor.events_lost > 0,
        "nothing was lost ({} events, {} passes): no overload",
        summary.monitor.events,
        players.iter().map(|p| p.passes).sum::<u64>()
    );
    ensure!(
        peak_rss < RSS_LIMIT_BYTES && summary.monitor.rss_bytes < RSS_LIMIT_BYTES,
        "the tool grew to {peak_rss} bytes"
    );
    let process = summary.process(child)?;
    for player in &players {
        let thread = process.thread(player.tid)?;
        // After its last look at its counters, each blocks a few times more and wakes the other.
        for (kind, seen, own) in [
            ("voluntary", thread.switches.voluntary, player.voluntary),
            (
                "involuntary",
                thread.switches.involuntary,
                player.involuntary,
            ),
        ] {
            ensure!(
                seen.abs_diff(own) <= 5,
                "thread {}: {seen} {kind} switches, the kernel counted {own}",
                player.tid
            );
        }
        let on_cpu = thread.ledger.on_cpu_ns;
        ensure!(
            on_cpu.abs_diff(player.cpu_ns) <= (player.cpu_ns / 100).max(2_000_000),
            "thread {}: on-CPU {on_cpu} ns, its own clock says {} ns",
            player.tid,
            player.cpu_ns
        );
    }
    Ok(())
}
