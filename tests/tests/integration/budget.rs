//! The tool's own cost: what it may take, what it leaves out, and that totals stay whole.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    vec![
        quiet(
            "budget::detail_is_left_out_and_totals_are_whole",
            &needs,
            a_budget_too_small,
        ),
        case(
            "budget::a_large_one_leaves_nothing_out",
            &needs,
            a_large_budget,
        ),
    ]
}

/// Watches a loop that is busy for a part of the time. Returns its process id, too.
fn watch(budget: &str, seconds: u64) -> Result<(Outcome, u32)> {
    let program = Workload::start(&Interpreter::find("3.11")?, "loads.py", &["busy"])?;
    let pid = program.pid().to_string();
    let duration = format!("{seconds}s");
    let args = [
        "--json",
        "-p",
        &pid,
        "-d",
        &duration,
        "--budget-cpu",
        budget,
    ];
    let outcome = Watch::start(&args)?.finish(PATIENCE + Duration::from_secs(seconds))?;
    Ok((outcome.ok()?, program.pid()))
}

fn a_budget_too_small() -> Result<()> {
    let (outcome, pid) = watch("0.001%", 18)?;
    let summary = outcome.summary()?;
    laws::hold(summary)?;
    let shed = &summary.monitor.shed;
    for what in ["samples: ", "looks: ", "slices: ", "requests: "] {
        ensure!(
            shed.iter().any(|words| words.starts_with(what)),
            "no {what}in {shed:?}"
        );
    }
    let lost = summary.monitor.events_lost;
    ensure!(lost > 0, "slices were left out and none counts as lost");
    // The last windows are whole, although nothing but totals is kept.
    let process = summary.process(pid)?;
    if let Some(http) = &process.http {
        let limits = http["limits"].as_array().context("no limits")?;
        let is_told = limits.iter().any(|limit| {
            let reason = limit["reason"].as_str().unwrap_or_default();
            reason.contains("to stay inside the budget")
        });
        ensure!(
            is_told,
            "of requests it is not told that they were left out"
        );
    }
    let wall_ns = process.loops.first().context("no loop")?.wall_ns;
    ensure!(
        wall_ns > summary.window.duration_ns / 10 * 8,
        "the loop's wall is {wall_ns} ns of {}",
        summary.window.duration_ns
    );
    Ok(())
}

fn a_large_budget() -> Result<()> {
    let (outcome, _) = watch("100%", 6)?;
    let shed = &outcome.summary()?.monitor.shed;
    ensure!(shed.is_empty(), "left out: {shed:?}");
    Ok(())
}
