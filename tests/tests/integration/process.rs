//! The process tier: right in the first snapshot, against `/proc` and the program's own account.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use concmon_tests::clocks;
use concmon_tests::harness::case;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::proc;
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    ["3.11", "3.13"]
        .into_iter()
        .map(|version| {
            case(
                format!("process::first_snapshot_is_right::py{version}"),
                &watch_python(version),
                move || first_snapshot_is_right(version),
            )
        })
        .collect()
}

fn unix_ns() -> Result<u64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() as u64)
}

fn first_snapshot_is_right(version: &str) -> Result<()> {
    let before_start = unix_ns()?;
    let mut workload = Workload::start(&Interpreter::find(version)?, "process.py", &[])?;
    let after_start = unix_ns()?;
    let pid = workload.pid();
    let mut watch = Watch::pid(pid, "1s", None)?;
    let first = watch.next(PATIENCE)?;
    let rss = proc::status(pid, "VmRSS")? * 1024;
    let process = first.process(pid)?;

    let children: Vec<u32> = workload.said("children")?;
    let grandchildren: Vec<u32> = workload.said("grandchildren")?;
    let zombies: Vec<u32> = workload.said("zombies")?;
    let descendants = children.len() + grandchildren.len();
    let ppid: u32 = workload.said("ppid")?;
    ensure!(process.ppid == ppid, "ppid {}, is {ppid}", process.ppid);
    for (field, got, expected) in [
        (
            "children_count",
            process.children_count,
            children.len() as u64,
        ),
        (
            "descendants_count",
            process.descendants_count,
            descendants as u64,
        ),
        ("zombies_count", process.zombies_count, zombies.len() as u64),
        (
            "threads_count",
            process.threads_count,
            workload.said("threads_count")?,
        ),
        ("fds_count", process.fds_count, workload.said("fds_count")?),
        ("fds_limit", process.fds_limit, workload.said("fds_limit")?),
    ] {
        ensure!(
            got == Some(expected),
            "{field} is {got:?}, the program says {expected}"
        );
    }
    let seen = process.rss_bytes.context("rss_bytes is null")?;
    ensure!(
        seen.abs_diff(rss) <= rss / 50,
        "rss_bytes {seen}, /proc says {rss}"
    );
    ensure!(
        process.threads.len() as u64 == workload.said::<u64>("threads_count")?,
        "{} thread rows",
        process.threads.len()
    );
    // The kernel keeps start times in ticks of 10 ms.
    ensure!(
        (before_start - 20_000_000..after_start + 20_000_000).contains(&process.start_unix_ns),
        "started at {}, which is not within {before_start}..{after_start}",
        process.start_unix_ns
    );
    ensure!(
        process.entry.as_deref() == Some(workload.program()),
        "entry is {:?}, started was {:?}",
        process.entry,
        workload.program()
    );
    ensure!(
        process.cmdline.last().map(String::as_str) == Some(workload.program()),
        "cmdline is {:?}",
        process.cmdline
    );
    ensure!(process.exited.is_none(), "exited: {:?}", process.exited);

    let window = first.window;
    let answer = clocks::ask(&mut workload, &[window.start_unix_ns, window.end_unix_ns()])?;
    let own = answer.process(0, 1)?;
    let cpu_ns = process.cpu_ns as i64;
    ensure!(
        own.miss(cpu_ns) <= (own.middle() / 100).max(20_000_000),
        "cpu_ns {cpu_ns}, its own clock says {own:?}"
    );
    let percent = own.middle() as f64 / window.duration_ns as f64 * 100.0;
    ensure!(
        (process.cpu_percent - percent).abs() <= 2.0,
        "cpu_percent {}, its own clock says {percent:.2}",
        process.cpu_percent
    );
    watch.interrupt()?;
    Ok(())
}
