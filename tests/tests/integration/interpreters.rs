//! Threads in other interpreters than the main one: their own stacks, loops and GILs.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::alone;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::dump::{array, tool};
use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (version, own) in [
        ("3.8", false),
        ("3.10", false),
        ("3.12", true),
        ("3.13", true),
    ] {
        trials.push(alone(
            format!("interpreters::threads_have_their_own_stacks_and_gils::py{version}"),
            &watch_python(version),
            move || threads_have_their_own(version, own),
        ));
    }
    trials
}

/// Stacks and samples of a thread are of where it is, not of who has called the interpreter, or made it; and a wait for a GIL is one, also
/// where there are more GILs than an account has room for, from the first look on.
fn threads_have_their_own(version: &str, own: bool) -> Result<()> {
    let kind = if own { "own" } else { "shared" };
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, "interpreters.py", &[kind, "6"])?;
    let tids: BTreeMap<String, u32> = workload.said("tids")?;
    let outcome = Watch::pid(workload.pid(), "500ms", Some("5s"))?
        .finish(PATIENCE)?
        .ok()?;
    let process = outcome.summary()?.process(workload.pid())?;
    for (name, tid) in tids.iter().filter(|(name, _)| name.starts_with("fights")) {
        let ledger = &process.thread(*tid)?.ledger;
        let blocked = ledger.blocked_ns;
        let lock = blocked.by_name("lock").context("no such cause")?;
        ensure!(
            blocked.gil > 0 && (version == "3.8" || lock <= (blocked.gil + lock) / 6),
            "{name}: {blocked:?}"
        );
    }
    // There, looks beside so many threads that fight find the GIL late, and the loop too seldom.
    if version != "3.8" {
        let loops = tids["loops"];
        ensure!(
            process.loops.iter().any(|one| one.tid == loops),
            "no loop in thread {loops}"
        );
        made_by_another(workload.pid(), tids["rests"])?;
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture");
    let pid = workload.pid().to_string();
    let record = ["record", "-q", "-i", "500ms", "-d", "4s", "-p", &pid, "-o"];
    let recorded = Command::new(binary()?).args(record).arg(&file).output()?;
    ensure!(recorded.status.success(), "{recorded:?}");
    let by = |time: &str| {
        let export = ["export", "-f", "collapsed", "--by", time, "-i"];
        let output = Command::new(binary()?).args(export).arg(&file).output()?;
        anyhow::Ok(String::from_utf8(output.stdout)?)
    };
    let stacks = by("on-cpu")?;
    let of_main = stacks.lines().filter(|line| line.contains(";MainThread"));
    let mut of_main = of_main.filter(|line| line.contains("_inside"));
    ensure!(
        of_main.next().is_none(),
        "the main thread in others' code: {stacks}"
    );
    mostly_in(&stacks, "computes", "computes_inside", 90)?;
    mostly_in(&stacks, "fights-", "fights_inside", 90)?;
    if version != "3.8" {
        // It is seldom on a CPU, and where it was before the first look is not known.
        mostly_in(&by("wall")?, "rests", "rests_inside", 80)?;
    }
    Ok(())
}

/// So many percent of the time of threads whose names begin with `name` are in `function`, told by the last frames.
fn mostly_in(stacks: &str, name: &str, function: &str, percent: u64) -> Result<()> {
    let (mut inside, mut all) = (0, 0);
    for line in stacks.lines() {
        let (path, ns) = line.rsplit_once(' ').context("no count")?;
        let mut frames: Vec<&str> = path.split(';').collect();
        let thread = frames.get(1).context("no thread")?;
        if thread.starts_with(name) {
            let ns: u64 = ns.parse()?;
            // Behind the frames there may be a state.
            frames.pop_if(|last| last.starts_with('['));
            let last = frames.last().copied().unwrap_or_default();
            all += ns;
            inside += if last.starts_with(function) { ns } else { 0 };
        }
    }
    ensure!(
        all > 0 && inside >= all / 100 * percent,
        "{name}: {inside} of {all} ns are in {function}: {stacks}"
    );
    Ok(())
}

/// The thread that rests is inside of the interpreter, and the main thread, which has made it, is not. Up to 3.9, nothing
/// says who runs it.
fn made_by_another(pid: u32, rests: u32) -> Result<()> {
    let look = tool(&["dump", "--json"], pid)?.json()?;
    for thread in array(&look, "/processes/0/threads")? {
        let tid = thread["tid"].as_u64().context("no tid")?;
        let stack = thread["stack"].as_array().context("no stack")?;
        let is_inside = stack
            .iter()
            .any(|frame| frame["function"] == "rests_inside");
        ensure!(
            is_inside == (tid == u64::from(rests)),
            "thread {tid}, {rests} rests: {stack:?}"
        );
    }
    Ok(())
}
