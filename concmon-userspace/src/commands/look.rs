//! One look at processes, without the kernel's help: `dump` and `tasks`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::select::{STARTING, select};
use crate::session::{
    outcome::{Failure, code},
    output::{self, Sink},
    printed,
};
use crate::{
    cli::{Look, LookView, Options},
    event::{Pid, ProcessFact, PythonFact, Tid},
    model::dump::{Activity, Dump, Findings, Kind},
    procfs::{
        self,
        clocks::{self, Clocks},
        now, rights,
        target::TargetError,
        tree::Tree,
    },
    python::{DetectError, GilRange, Interpreter, ScanOptions},
    targets::unsupported,
    views::{dump, json, tasks},
};

/// Tasks of one process: nobody waits for a second look, so there is time for all.
const MAX_TASKS: usize = 1_000_000;
/// Bytes of a process's memory, enough for as many tasks.
const MAX_BYTES: usize = 4 << 30;
/// Frames of one stack; CPython's own limit on recursion is 1,000 unless it is raised.
const MAX_STACK: usize = 1_100;

/// How often it is asked whether a thread waits for the GIL, and how far apart.
const LOOKS: usize = 3;
const BETWEEN_LOOKS: Duration = Duration::from_micros(300);

/// What was read of one process.
struct Read {
    process: ProcessFact,
    executable: Option<String>,
    look: Option<PythonFact>,
    activities: BTreeMap<Tid, Activity>,
}

/// Looks at the processes and prints what is there. Returns the exit code.
pub(super) fn run(options: &Options, look: &Look, view: LookView) -> Result<u8, Failure> {
    let mut interpreters = BTreeMap::new();
    let selected = select(&look.processes, STARTING, |pid| {
        let interpreter = attach(pid)?;
        interpreters.insert(pid.0, interpreter);
        Ok(())
    })?;
    let asked = selected.pids;
    if asked.is_empty() {
        // A signal has ended the wait.
        return Ok(code::OK);
    }
    let starting = asked.iter().find(|pid| !interpreters.contains_key(pid));
    if let Some(pid) = starting {
        let name = procfs::command(*pid).map_or(String::new(), |(name, _)| name);
        return Err(Failure::from_detect(*pid, &name, &DetectError::Starting));
    }
    let Sink {
        mut writer, form, ..
    } = output::open(options)?;
    crate::session::settle_reader(rights::LOOKS, options.output.as_deref());
    let tree = Tree::scan()?;
    let clocks = Clocks::now();
    let kind = match view {
        LookView::Dump { .. } => Kind::Dump,
        LookView::Tasks(_) => Kind::Tasks,
    };
    let mut looks = look_options(options);
    looks.heap_scan = view == LookView::Dump { heap_scan: true };
    let mut found = asked.clone();
    if options.follows_descendants() {
        let descendants = asked.iter().flat_map(|pid| tree.descendants(*pid));
        for pid in descendants {
            if !found.contains(&pid) && !selected.selector.excludes(Pid(pid)) {
                // A child that is not Python, or cannot be read, is listed all the same.
                found.push(pid);
                if let Ok(interpreter) = attach(Pid(pid)) {
                    interpreters.insert(pid, interpreter);
                }
            }
        }
    }
    let mut reads = Vec::new();
    for pid in found {
        let is_named = look.processes.pids.contains(&pid);
        match read(pid, interpreters.remove(&pid), &looks, &clocks, &tree) {
            Ok(read) => reads.push(read),
            Err(failure) if is_named => return Err(failure),
            Err(_) => {}
        }
    }
    let findings: Vec<Findings<'_>> = reads
        .iter()
        .map(|read| Findings {
            process: &read.process,
            executable: read.executable.clone(),
            look: read.look.as_ref(),
            activities: &read.activities,
        })
        .collect();
    let dump = Dump::new(kind, clocks.unix_ns, &findings);
    let written = match view {
        _ if options.json => json::write(&dump, &mut writer),
        LookView::Dump { .. } => dump::write(&dump, form, &mut writer),
        LookView::Tasks(arrangement) => tasks::write(&dump, arrangement, form, &mut writer),
    };
    printed(written.and_then(|()| writer.finish()))?;
    Ok(code::OK)
}

fn look_options(options: &Options) -> ScanOptions {
    ScanOptions {
        tasks: MAX_TASKS,
        bytes: MAX_BYTES,
        // Where a task runs is what the stack of its thread says.
        stack: MAX_STACK,
        context_vars: options.context_vars.clone(),
        ..ScanOptions::default()
    }
}

/// Finds the interpreter of a process.
fn attach(pid: Pid) -> Result<Interpreter, DetectError> {
    let interpreter = Interpreter::attach(pid)?;
    if let Some(message) = unsupported(pid, interpreter.info()) {
        log::warn!("{message}");
    }
    Ok(interpreter)
}

/// What the threads of a process do.
fn activities(pid: Pid, gils: &[GilRange]) -> BTreeMap<Tid, Activity> {
    let is_frozen = now::is_frozen(pid);
    let of = |(tid, state)| match state {
        _ if is_frozen => (tid, Activity::Stopped),
        b'T' | b't' => (tid, Activity::Stopped),
        b'R' => (tid, Activity::Active),
        _ => (tid, Activity::Idle),
    };
    let mut activities: BTreeMap<Tid, Activity> =
        now::thread_states(pid).into_iter().map(of).collect();
    if gils.is_empty() || is_frozen {
        return activities;
    }
    let waits_for_gil = |tid: Tid| {
        let futex = now::blocking_futex(pid, tid).ok().flatten();
        futex.is_some_and(|futex| gils.iter().any(|gil| gil.contains(futex)))
    };
    // Who waits for it wakes up every few milliseconds to ask for it.
    for look in 0..LOOKS {
        if look > 0 {
            std::thread::sleep(BETWEEN_LOOKS);
        }
        // It is found asleep and runs a moment later, or the other way round.
        for (tid, activity) in &mut activities {
            let may_wait = matches!(activity, Activity::Active | Activity::Idle);
            if may_wait && waits_for_gil(*tid) {
                *activity = Activity::Gil;
            }
        }
    }
    activities
}

fn read(
    pid: u32,
    interpreter: Option<Interpreter>,
    options: &ScanOptions,
    clocks: &Clocks,
    tree: &Tree,
) -> Result<Read, Failure> {
    let gone = |_| Failure::from_target(&TargetError::NoSuchProcess(pid));
    let gils = interpreter.as_ref().map(Interpreter::gils);
    let gils = gils.and_then(Result::ok).unwrap_or_default();
    let mut activities = activities(Pid(pid), &gils);
    let look = interpreter.map(|mut interpreter| interpreter.scan(clocks::monotonic_ns(), options));
    // Who waited for it may have got it before that was read.
    let gils = look.iter().flat_map(|look| &look.gils);
    for holder in gils
        .filter(|gil| gil.locked)
        .filter_map(|gil| gil.last_holder)
    {
        if let Some(activity @ Activity::Gil) = activities.get_mut(&holder) {
            *activity = Activity::Active;
        }
    }
    // Half of what there was is nothing to tell.
    if !now::is_running(Pid(pid)) {
        return Err(Failure::from_target(&TargetError::NoSuchProcess(pid)));
    }
    let process = procfs::ProcessReader::new(pid)
        .read(clocks::monotonic_ns(), clocks, tree)
        .map_err(gone)?;
    Ok(Read {
        process,
        executable: now::executable(Pid(pid)),
        look,
        activities,
    })
}
