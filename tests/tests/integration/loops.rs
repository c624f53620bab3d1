//! Loops without tasks, several in several threads, restarted, run again and again: what blocks one is
//! its own, and nobody else's.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::packages;
use concmon_tests::told::{THRESHOLD_NS, made_up, told};
use concmon_tests::watch::{PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::json;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let cases = [
        ("3.9", "asyncio"),
        ("3.11", "asyncio"),
        ("3.13", "asyncio"),
        ("3.12", "uvloop"),
    ];
    let trial = |(version, on): (&'static str, &'static str)| {
        quiet(
            format!("loops::what_blocks_one_is_its_own::{on}::py{version}"),
            &watch_python(version),
            move || what_blocks_one_is_its_own(version, on),
        )
    };
    cases.into_iter().map(trial).collect()
}

/// That a loop's wall is idle and busy time, and busy time that of tasks, callbacks and unknown, is a
/// law that every report is held to.
fn what_blocks_one_is_its_own(version: &str, on: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let mut folder: Option<PathBuf> = None;
    if on != "asyncio" {
        folder = Some(packages::folder(&python, version, &[on])?);
    }
    let args = ["--loop", on];
    let mut workload = Workload::start_with(&python, folder.as_deref(), "loops.py", &args)?;
    let tids: BTreeMap<String, u32> = workload.said("tids")?;
    let mut watch = Watch::pid(workload.pid(), "500ms", None)?;
    watch.next(PATIENCE)?;
    let blocks = told(&workload.ask(&json!({}), "blocks")?["blocks"])?;
    std::thread::sleep(Duration::from_secs(1));
    let outcome = watch.interrupt()?;

    ensure!(blocks.len() == tids.len(), "{} blocks", blocks.len());
    for one in &blocks {
        let stall = one.found(&outcome.stalls);
        let stall = stall.with_context(|| format!("{one:?} was not found"))?;
        let function = stall.stack.iter().any(|of| of.function == one.function);
        ensure!(function, "{}: its stack is {:?}", one.function, stall.stack);
        ensure!(stall.is_called("sleep"), "{:?}", stall.culprit);
        let off = one.off_ns(stall);
        ensure!(off <= 3_000_000, "it took {off} ns longer or shorter");
        if one.function == "block_in_callback" {
            ensure!(stall.task.is_none(), "its task is {:?}", stall.task);
            let name = stall.coroutine.as_deref();
            ensure!(name == Some("block_in_callback"), "its name is {name:?}");
        } else {
            ensure!(stall.task.is_some(), "{}: it has no task", one.function);
        }
    }
    let others = made_up(&blocks, &outcome.stalls, THRESHOLD_NS);
    ensure!(others.is_empty(), "the program did not make {others:?}");

    let process = outcome.summary()?.process(workload.pid())?;
    for (name, tid) in &tids {
        let rows = process.loops.iter().filter(|row| row.tid == *tid);
        let rows: Vec<_> = rows.collect();
        ensure!(!rows.is_empty(), "no loop of thread {name}");
        ensure!(rows.iter().all(|row| row.kind == on), "{name}: {rows:?}");
        if name == "callbacks" {
            let timing = rows[0].timing.as_ref().context("no timing")?;
            let blocked_ns = blocks[0].length_ns();
            ensure!(
                timing.callbacks_ns > blocked_ns / 10 * 9,
                "callbacks took {} ns, one alone blocked for {blocked_ns}",
                timing.callbacks_ns
            );
            ensure!(
                timing.tasks_ns < timing.callbacks_ns / 10,
                "its tasks took {} ns",
                timing.tasks_ns
            );
        }
    }
    Ok(())
}
