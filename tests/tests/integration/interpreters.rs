//! Threads in other interpreters than the main one: their own stacks, loops and GILs.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::alone;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (version, own) in [
        ("3.8", false),
        ("3.11", false),
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

/// Samples of a thread are of where it is, not of who has called the interpreter; and a wait for a GIL is one, also
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
            blocked.gil > 0 && lock <= (blocked.gil + lock) / 6,
            "{name}: {blocked:?}"
        );
    }
    let loops = tids["loops"];
    ensure!(
        process.loops.iter().any(|one| one.tid == loops),
        "no loop in thread {loops}"
    );
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("capture");
    let pid = workload.pid().to_string();
    let record = ["record", "-q", "-i", "500ms", "-d", "4s", "-p", &pid, "-o"];
    let recorded = Command::new(binary()?).args(record).arg(&file).output()?;
    ensure!(recorded.status.success(), "{recorded:?}");
    let export = ["export", "-f", "collapsed", "--by", "on-cpu", "-i"];
    let stacks = Command::new(binary()?).args(export).arg(&file).output()?;
    let stacks = String::from_utf8(stacks.stdout)?;
    for (name, function) in [
        ("computes", "computes_inside"),
        ("fights-", "fights_inside"),
    ] {
        let (mut inside, mut all) = (0, 0);
        for line in stacks.lines() {
            let (path, ns) = line.rsplit_once(' ').context("no count")?;
            let thread = path.split(';').nth(1).context("no thread")?;
            if thread.starts_with(name) {
                let ns: u64 = ns.parse()?;
                let last = path.rsplit(';').next().unwrap_or_default();
                all += ns;
                inside += if last.starts_with(function) { ns } else { 0 };
            }
        }
        ensure!(
            all > 0 && inside >= all / 100 * 90,
            "{name}: {inside} of {all} ns are in {function}: {stacks}"
        );
    }
    Ok(())
}
