//! Watching: processes that run already, or a program that is started for it.

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    rc::Rc,
    time::Duration,
};

use tokio::{signal::unix::SignalKind, time::timeout};

use super::{
    export::AtEnd,
    select::{Selected, select},
    start::{self, Waiting},
};
use crate::{
    capture::Store,
    cli::{Exact, Options, Selection},
    event::Pid,
    procfs::tree::Tree,
    python::ScanOptions,
    session::{
        Ended, Failure, Recording, code, confine, drive, ended, ending,
        files::{Recording as RecordingFile, Written},
        flight::Flight,
        names,
        output::{self, Output, Sink},
        privileges, say, signals,
        watch::{HttpPlan, Plan, Watch},
    },
    targets::{Selector, Targets, Wants},
};

/// A program that ends this soon after its watch is waited for without a word.
const MOMENT: Duration = Duration::from_secs(1);

pub(super) async fn watch_processes(
    options: &Options,
    selection: &Selection,
    recording: &Recording,
) -> Result<u8, Failure> {
    let mut targets = targets(options);
    let Selected {
        pids,
        selector,
        seen,
    } = select(selection, Duration::ZERO, |pid| targets.try_adopt(pid))?;
    let Some(&first) = pids.first() else {
        // A signal has ended the wait.
        return Ok(code::OK);
    };
    let plan = plan(
        options,
        pids.iter().copied().map(Pid).collect(),
        selector,
        seen,
    );
    let program = names::of_pid(first, options.redact);
    let kept = open_store(options, recording, &pids, program)?;
    // The first look may take a while.
    ending::note()?;
    let watch = Watch::start(plan, targets, kept.store)?;
    settle(options, recording, None);
    let output = open(options, recording, kept.sink, kept.written, false)?;
    let end = drive(watch, output, options, options.duration, None, kept.flight).await?;
    if end.targets_gone {
        log::warn!("the target has ended");
    }
    if let Some(at_end) = kept.at_end {
        at_end.write(options.quiet)?;
    }
    Ok(end.code())
}

pub(super) async fn watch_command(
    options: &Options,
    command: &[OsString],
    recording: &Recording,
) -> Result<u8, Failure> {
    let waiting = start::fork(command, false)?;
    let pid = waiting.pid;
    let program = names::of_command(command, options.redact);
    let kept = open_store(options, recording, &[pid.0], program)?;
    let (watch, started) = watch_child(waiting, options, kept.store)?;
    settle(options, recording, Some(pid));
    let output = open(options, recording, kept.sink, kept.written, true)?;
    let started = Some(started);
    let mut end = drive(
        watch,
        output,
        options,
        options.duration,
        started,
        kept.flight,
    )
    .await?;
    let never_ran = matches!(end.child, Some(Err(_)));
    if let Some(signal) = end.signal {
        // A terminal has sent it to the program, too; anybody else only to us.
        if signal != SignalKind::interrupt() || !io::stdin().is_terminal() {
            signals::send(pid, signal);
        }
    }
    // The program need not wait until a long recording has been drawn.
    let made = match kept.at_end {
        Some(at_end) if never_ran => {
            at_end.discard();
            Ok(())
        }
        Some(at_end) => at_end.write(options.quiet),
        None => Ok(()),
    };
    // The watch may end before the program does; its code is passed on all the same.
    if end.running.is_some() {
        let soon = timeout(MOMENT, ended(&mut end.running)).await;
        end.child = Some(match soon {
            Ok(status) => status,
            Err(_) => {
                if end.over && !options.quiet {
                    say(&format!(
                        "concmon-bpf: the watch is over; process {pid} goes on, and its exit code is waited for\n"
                    ));
                }
                ended(&mut end.running).await
            }
        });
    }
    made?;
    match end.child {
        // The program's own failure goes before a finding.
        Some(Ok(status)) if status.success() => Ok(end.code()),
        Some(Ok(status)) => Ok(start::exit_code(status)),
        Some(Err(error)) => {
            let name = command
                .first()
                .map(|name| name.to_string_lossy())
                .unwrap_or_default();
            Err(Failure::new(
                code::NOT_STARTED,
                format!("cannot start {name}: {error}"),
            ))
        }
        None => Ok(end.code()),
    }
}

fn open(
    options: &Options,
    recording: &Recording,
    sink: Sink,
    written: Rc<Written>,
    shared: bool,
) -> Result<Output, Failure> {
    let quiet = match recording {
        Recording::None => return Output::new(options, sink, shared),
        Recording::File | Recording::Export(..) => options.quiet,
        Recording::Flight(_) => true,
    };
    Output::of_recording(options, sink, written, quiet)
}

/// Where everything goes: what cannot be written is refused before a watch begins.
struct Kept {
    /// Of reports.
    sink: Sink,
    /// Of a recording, and what looks after it.
    store: Option<Box<dyn Store>>,
    flight: Option<Flight>,
    at_end: Option<AtEnd>,
    written: Rc<Written>,
}

/// `program` is the one that the first of the processes runs.
fn open_store(
    options: &Options,
    recording: &Recording,
    pids: &[u32],
    program: String,
) -> Result<Kept, Failure> {
    let mut store: Option<Box<dyn Store>> = None;
    let mut flight = None;
    let mut at_end = None;
    let mut written = Rc::default();
    match recording {
        Recording::None => {
            return Ok(Kept {
                sink: output::open(options)?,
                store,
                flight,
                at_end,
                written,
            });
        }
        Recording::File => {
            let stem = names::stem(&program, pids.first().copied().unwrap_or(0));
            let file = RecordingFile::new(options.output.as_deref(), &stem)?;
            written = file.written();
            store = Some(Box::new(file));
        }
        Recording::Export(format, by) => {
            let stem = names::stem(&program, pids.first().copied().unwrap_or(0));
            let (made, file) = AtEnd::new(options, (*format, *by), stem)?;
            written = file.written();
            at_end = Some(made);
            store = Some(Box::new(file));
        }
        Recording::Flight(wanted) => {
            let folder = options.output.as_deref();
            let recorder = Flight::new(wanted, folder, pids, program, options.quiet)?;
            store = Some(recorder.store());
            flight = Some(recorder);
        }
    }
    Ok(Kept {
        sink: output::open_for_recording(options, &written)?,
        store,
        flight,
        at_end,
        written,
    })
}

pub(super) fn watch_child(
    waiting: Waiting,
    options: &Options,
    store: Option<Box<dyn Store>>,
) -> Result<(Watch, Ended), Failure> {
    let selector = Selector::new(Selection::default());
    let plan = plan(options, vec![waiting.pid], selector, Tree::default());
    let watch = Watch::start(plan, targets(options), store)?;
    // The child has been forked: what is noted here does not keep it from being interrupted.
    ending::note()?;
    Ok((watch, waiting.go()?))
}

/// From here on, the watch can do what it still has to, and no more. The program that it started, if any,
/// runs already, so nothing of this reaches it.
pub(super) fn settle(options: &Options, recording: &Recording, child: Option<Pid>) {
    privileges::give_up_but(privileges::of_watch(options, recording, child.is_some()));
    confine::confine_or_warn(child);
}

/// A watch as the command line wants it.
fn plan(options: &Options, targets: Vec<Pid>, selector: Selector, seen: Tree) -> Plan {
    let watching = &options.watching;
    Plan {
        selector,
        seen,
        targets,
        follow_children: options.subprocesses(),
        rate: watching.rate,
        budget_cpu: watching.budget_cpu,
        budget_memory_bytes: watching.budget_memory,
        stall_threshold_ns: stall_threshold_ns(options),
        exact: !watching.exact.is_empty(),
        http: watching.http().map(|headers| HttpPlan {
            headers,
            is_asked_for: watching.http || !watching.request_id_header.is_empty(),
        }),
        redact: options.redact,
    }
}

/// Room for the processes of such a watch.
fn targets(options: &Options) -> Targets {
    let watching = &options.watching;
    let wants = Wants {
        samples: watching.rate > 0,
        stall_threshold_ns: stall_threshold_ns(options),
        exact_tasks: watching.exact.contains(&Exact::Tasks),
        exact_futures: watching.exact.contains(&Exact::Futures),
    };
    let looks = ScanOptions {
        context_vars: options.context_vars.clone(),
        // Their paths are the program's own words.
        routes: watching.http().is_some() && !options.redact,
        ..ScanOptions::default()
    };
    Targets::new(wants, looks)
}

fn stall_threshold_ns(options: &Options) -> Option<u64> {
    let threshold = options.watching.stall_threshold?;
    Some(u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX))
}
