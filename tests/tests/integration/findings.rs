//! Findings: each rule is raised by one program, and not by one that comes close to it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::Report;
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;

use crate::{WATCH, watch_python};

/// Programs that need little of the CPUs: watched together.
const QUIET: [&str; 7] = [
    "loop_blocked",
    "task_pileup",
    "task_exception_never_retrieved",
    "executor_saturated",
    "lock_convoy",
    "thread_churn",
    "fd_exhaustion",
];
/// Programs that compute: one at a time.
const BUSY: [&str; 5] = [
    "loop_saturated",
    "sleep_zero_spin",
    "gil_contention",
    "cpu_starved",
    "gc_heavy",
];
const VERSION: &str = "3.11";

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python(VERSION);
    let mut trials = vec![
        quiet("findings::quiet_programs", &needs, quiet_programs),
        quiet("findings::fail_on_gives_its_exit_code", &needs, fail_on),
        quiet("findings::unknown_rules_are_refused", &WATCH, unknown_rules),
    ];
    for name in BUSY {
        trials.push(case(format!("findings::{name}"), &needs, move || {
            busy_program(name)
        }));
    }
    trials
}

fn raised(report: &Report, pid: u32, name: &str) -> Result<bool> {
    let rule = name.replace('_', "-");
    let findings = &report.process(pid)?.findings;
    Ok(findings.iter().any(|finding| finding.rule == rule))
}

fn start(case: &str) -> Result<Workload> {
    Workload::start(&Interpreter::find(VERSION)?, "findings.py", &[case])
}

fn watch(pids: &[u32], seconds: u32) -> Result<Outcome> {
    let duration = format!("{seconds}s");
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    let mut args = vec!["--json", "-d", &duration];
    for pid in &pids {
        args.extend(["-p", pid]);
    }
    Watch::start(&args)?
        .finish(PATIENCE + Duration::from_secs(u64::from(seconds)))?
        .ok()
}

fn quiet_programs() -> Result<()> {
    let mut programs = Vec::new();
    for name in QUIET {
        programs.push((name, true, start(name)?));
        programs.push((name, false, start(&format!("{name}_near"))?));
    }
    let pids: Vec<u32> = programs.iter().map(|(_, _, one)| one.pid()).collect();
    let outcome = watch(&pids, 8)?;
    let summary = outcome.summary()?;
    for (name, wanted, program) in &programs {
        let found = raised(summary, program.pid(), name)?;
        ensure!(found == *wanted, "{name}: raised {found}, wanted {wanted}");
    }
    Ok(())
}

fn busy_program(name: &str) -> Result<()> {
    for (case, wanted) in [(name.to_owned(), true), (format!("{name}_near"), false)] {
        let program = start(&case)?;
        let outcome = watch(&[program.pid()], 5)?;
        let summary = outcome.summary()?;
        let found = raised(summary, program.pid(), name)?;
        // A program with one thread, which waits for a CPU, waits for what else is on the host.
        let ledger = summary
            .process(program.pid())?
            .thread(program.pid())?
            .ledger;
        let by_host = case == "cpu_starved_near" && ledger.host_share() > 0.1;
        ensure!(found == wanted || by_host, "{case}: raised {found}");
    }
    Ok(())
}

fn fail_on() -> Result<()> {
    let program = start("fd_exhaustion")?;
    let pid = program.pid().to_string();
    for (rule, code) in [("fd-exhaustion", 6), ("any", 6), ("gc-heavy", 0)] {
        let args = ["--json", "-d", "1s", "-p", &pid, "--fail-on", rule];
        let outcome = Watch::start(&args)?.finish(PATIENCE)?;
        ensure!(
            outcome.code == code,
            "--fail-on {rule}: exit code {}",
            outcome.code
        );
    }
    Ok(())
}

fn unknown_rules() -> Result<()> {
    for args in [
        &["--fail-on", "nonsense", "-p", "1"][..],
        &["explain", "nonsense"][..],
    ] {
        let outcome = Watch::start(args)?.finish(PATIENCE)?;
        ensure!(outcome.code == 2, "{args:?}: exit code {}", outcome.code);
        ensure!(
            outcome.stderr.contains("loop-blocked"),
            "{}",
            outcome.stderr
        );
    }
    let outcome = Watch::start(&["explain", "gil-contention"])?.finish(PATIENCE)?;
    let said = outcome.other.first().context("nothing was said")?;
    ensure!(outcome.code == 0 && said == "gil-contention", "{said}");
    Ok(())
}
