//! A process: whether it can be watched, and what of its Python can be read.

use std::{thread, time::Duration};

use super::own_path;
use crate::{
    event::{Pid, PythonFact},
    procfs::{
        clocks, namespaces, now,
        target::{TargetIdentity, check_target},
        tree::Tree,
    },
    python::{DetectError, Interpreter, NotExact, ScanOptions},
    schema::{Check, CheckStatus},
    session::{Failure, code},
};

/// How often a process that has just started is looked at again, and the time between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);
/// As of a watch that nobody has told otherwise, ns.
const STALL_THRESHOLD_NS: u64 = 100_000_000;

/// What was found, and why a watch of it would not work.
pub(super) struct Target {
    pub(super) checks: Vec<Check>,
    pub(super) failure: Option<Failure>,
}

pub(super) fn look(pid: u32) -> Target {
    let mut checks = Vec::new();
    let failure = look_at(pid, &mut checks).err();
    for check in &mut checks {
        check.pid = Some(pid);
    }
    Target { checks, failure }
}

fn look_at(pid: u32, checks: &mut Vec<Check>) -> Result<(), Failure> {
    let target = check_target(pid).map_err(|error| {
        let failure = Failure::from_target(&error);
        checks.push(failed("process", pid, &failure));
        failure
    })?;
    checks.push(Check::ok("process", described(&target)));
    checks.push(container(pid));
    let attached = attach(pid);
    if let Err(DetectError::NotPython) = &attached {
        let tree = Tree::scan().map_err(Failure::from)?;
        let below = tree.descendants(pid);
        if let Some(python) = below
            .iter()
            .find(|pid| Interpreter::attach(Pid(**pid)).is_ok())
        {
            let said = format!("it is none, but process {python} below it is: that is watched");
            checks.push(Check::ok("python", said));
            return Ok(());
        }
    }
    if let Err(DetectError::Starting) = &attached {
        let said = "it has not finished starting; a watch waits for it";
        checks.push(Check::ok("python", said));
        return Ok(());
    }
    let mut interpreter = attached.map_err(|error| {
        let failure = Failure::from_detect(pid, &target.name, &error);
        checks.push(failed("python", pid, &failure));
        failure
    })?;
    let info = interpreter.info();
    let version = info.version.as_deref().unwrap_or("of unknown version");
    let found = format!("{} {version}", info.implementation);
    if !info.supported {
        let reason = info.reason.as_deref().unwrap_or("no reason known");
        checks.push(
            Check::not_ok(
                "python",
                CheckStatus::Degraded,
                format!("{found} cannot be read: {reason}; the kernel's columns are told"),
                Some("run the program with CPython 3.8 to 3.15, a build with a GIL".to_owned()),
            )
            .giving("Python threads, loops, tasks, the GIL"),
        );
        return Ok(());
    }
    checks.push(Check::ok("python", format!("{found}, supported")));
    let look = interpreter.scan(clocks::monotonic_ns(), &ScanOptions::default());
    checks.push(memory(pid, &look));
    checks.push(match interpreter.unwind_config(STALL_THRESHOLD_NS) {
        Ok(_) => Check::ok("stacks", "kernel programs can walk them"),
        Err(reason) => Check::not_ok(
            "stacks",
            CheckStatus::Degraded,
            format!("kernel programs cannot walk them: {reason}"),
            Some(format!(
                "{} dump -p {pid} reads them from outside",
                own_path()
            )),
        ),
    });
    checks.push(match interpreter.exact_tasks() {
        Ok(_) => Check::ok("exact-tasks", "places for probes were found"),
        Err(NotExact::NotYet) => Check::ok("exact-tasks", NotExact::NotYet.to_string()),
        Err(NotExact::Refused(reason)) => Check::not_ok(
            "exact-tasks",
            CheckStatus::Degraded,
            reason,
            Some("leave out --exact: the rest does not need it".to_owned()),
        ),
    });
    Ok(())
}

fn attach(pid: u32) -> Result<Interpreter, DetectError> {
    for _ in 0..TRIES {
        match Interpreter::attach(Pid(pid)) {
            Err(DetectError::Starting) => thread::sleep(PAUSE),
            attached => return attached,
        }
    }
    Interpreter::attach(Pid(pid))
}

fn failed(name: &'static str, pid: u32, failure: &Failure) -> Check {
    let fix = match failure.code {
        code::PERMISSION => format!("sudo {} doctor -p {pid}", own_path()),
        _ => "pgrep -af python tells which processes are".to_owned(),
    };
    Check::not_ok(
        name,
        CheckStatus::Failed,
        failure.message.clone(),
        Some(fix),
    )
}

fn described(target: &TargetIdentity) -> String {
    const MOST: usize = 100;
    let line = target.cmdline.join(" ");
    let line: String = line.chars().take(MOST).collect();
    format!("{} ({line})", target.name)
}

fn memory(pid: u32, look: &PythonFact) -> Check {
    let loops = look.loops.len();
    let tasks = look.tasks.len();
    let threads = look.threads.len();
    if threads == 0 {
        return Check::not_ok(
            "memory",
            CheckStatus::Degraded,
            "nothing could be read of its interpreter in this look",
            Some(format!("{} doctor -p {pid} looks again", own_path())),
        );
    }
    Check::ok(
        "memory",
        format!("read; Python threads {threads}, event loops {loops}, tasks {tasks}"),
    )
}

/// Whose ids and files it has.
fn container(pid: u32) -> Check {
    let mut parts = Vec::new();
    if namespaces::has_foreign_ids(Pid(pid)) {
        parts.push("it has other process ids for itself");
    }
    if namespaces::has_own_files(Pid(pid)) {
        parts.push("it has a file system of its own, which is read through /proc/PID/root");
    }
    let cgroups = now::cgroups(Pid(pid)).unwrap_or_default();
    let group = cgroups
        .lines()
        .last()
        .and_then(|line| line.rsplit(':').next());
    let place = match parts.is_empty() {
        true => "none: its namespaces are those of this program".to_owned(),
        false => parts.join("; "),
    };
    Check::ok(
        "container",
        format!("{place} (cgroup {})", group.unwrap_or("/")),
    )
}
