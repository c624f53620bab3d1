//! A run of the tool, from the parsed command line to the exit code: the one select loop.

mod allowance;
mod budget;
pub mod confine;
mod demo;
mod diff;
mod ending;
mod explain;
mod export;
mod files;
mod flight;
mod intake;
mod keep;
mod look;
mod names;
mod oom;
mod outcome;
mod output;
mod passes;
mod privileges;
mod record;
mod report;
mod schedule;
mod signals;
mod start;
mod stream;
mod watch;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _},
    os::fd::OwnedFd,
    path::Path,
    process::ExitStatus,
    rc::Rc,
    time::Duration,
};

use crossterm::event::Event as TerminalEvent;
use rustix::thread::CapabilitySet;
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::SignalKind,
    sync::{Notify, mpsc, oneshot},
    task::LocalSet,
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use files::{Recording as RecordingFile, Written};
use flight::Flight;
pub use outcome::{Failure, code};
use output::{Output, Sink};
use signals::{Request, Signals};
use start::{Started, Waiting};
pub use stream::{LogLines, end_of_messages, say};
use watch::{Plan, Watch};

use crate::{
    capture::Store,
    cli::{Cli, Exact, Flight as Wanted, Options, Target, Trigger, Watched},
    event::Pid,
    procfs::{clocks, rights, target::check_target},
    python::{DetectError, ScanOptions},
    targets::{Targets, Wants},
    views::screen::Action,
};

/// How often what has arrived is taken in when no batch says so, and ended threads are collected.
const PUMP: Duration = Duration::from_millis(50);
/// How long the demo is watched when no duration is given.
const DEMO: Duration = Duration::from_secs(15);
/// The bounds of the interval that `+` and `-` change.
const INTERVALS: [Duration; 8] = [
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
    Duration::from_secs(30),
];

/// Does what the command line says. Returns the exit code.
///
/// # Errors
/// [`Failure`]: one line for people, and a code.
pub fn run(cli: &Cli) -> Result<u8, Failure> {
    signals::survive_file_size_limit();
    let (target, recording) = match cli.target() {
        Target::Look(look, view) => return look::run(&cli.options, &look, view),
        Target::Watch(target) => (target, Recording::None),
        Target::Record(target, None) => (target, Recording::File),
        Target::Record(target, Some(flight)) => {
            for trigger in &flight.triggers {
                if let Trigger::Finding(rule) = trigger {
                    explain::check(std::slice::from_ref(rule))?;
                }
            }
            (target, Recording::Flight(flight))
        }
        Target::Report(report) => return report::run(&cli.options, &report),
        Target::Export(export) => return export::run(&cli.options, &export),
        Target::Diff(files) => return diff::run(&cli.options, &files),
        Target::Explain(rule) => return explain::run(&cli.options, rule.as_deref()),
        Target::Schema => return explain::schema(),
    };
    explain::check(&cli.options.watching.fail_on)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async {
        match target {
            Watched::Pids(pids) => watch_pids(&cli.options, &pids, &recording).await,
            Watched::Command(command) => watch_command(&cli.options, &command, &recording).await,
            Watched::Demo => watch_demo(&cli.options).await,
        }
    })
}

/// What becomes of what a watch is fed.
#[derive(Clone, Debug)]
enum Recording {
    None,
    File,
    Flight(Wanted),
}

async fn watch_pids(options: &Options, pids: &[u32], recording: &Recording) -> Result<u8, Failure> {
    let mut targets = targets(options);
    for &pid in pids {
        let target = check_target(pid).map_err(|error| Failure::from_target(&error))?;
        match targets.adopt(Pid(pid), true) {
            Ok(()) | Err(DetectError::Starting) => {}
            Err(error) => return Err(Failure::from_detect(pid, &target.name, &error)),
        }
    }
    let plan = plan(options, pids.iter().copied().map(Pid).collect());
    let program = names::of_pid(pids.first().copied().unwrap_or(0), options.redact);
    let kept = open_store(options, recording, pids, program)?;
    // The first look may take a while.
    ending::note()?;
    let watch = Watch::start(&plan, targets, kept.store)?;
    settle(options, recording, None);
    let output = open(options, recording, kept.sink, kept.written, false)?;
    let end = drive(watch, output, options, options.duration, None, kept.flight).await?;
    if end.targets_gone {
        log::warn!("the target has ended");
    }
    Ok(end.code())
}

async fn watch_command(
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
    if let Some(signal) = end.signal {
        // A terminal has sent it to the program, too; anybody else only to us.
        if signal != SignalKind::interrupt() || !io::stdin().is_terminal() {
            signals::send(pid, signal);
        }
    }
    // The watch may end before the program does; its code is passed on all the same.
    if end.running.is_some() {
        end.child = Some(ended(&mut end.running).await);
    }
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

async fn watch_demo(options: &Options) -> Result<u8, Failure> {
    let missing = rights::lacking(rights::LOADING);
    if !missing.is_empty() {
        let missing = rights::names(missing);
        return demo::play(options, &format!("loading kernel programs needs {missing}")).await;
    }
    let mut options = options.clone();
    if !options.watching.exact.contains(&Exact::Futures) {
        options.watching.exact.push(Exact::Futures);
    }
    let options = &options;
    let (_directory, program) = start::demo_program()?;
    let duration = options.duration.unwrap_or(DEMO);
    // The program ends by itself, should nobody be left to end it.
    let seconds = (duration.as_secs() + 30).to_string();
    let needs = |error| Failure::new(code::FAILURE, format!("the demo needs python3: {error}"));
    let command = [start::python3().map_err(needs)?, program, seconds.into()];
    let sink = output::open(options)?;
    let waiting = start::fork(&command, true)?;
    let pid = waiting.pid;
    let (watch, started) = match watch_child(waiting, options, None) {
        Err(failure) if [code::PERMISSION, code::UNSUPPORTED].contains(&failure.code) => {
            return demo::play(options, &failure.message).await;
        }
        watched => watched?,
    };
    if !options.quiet {
        say(
            "concmon-bpf: the demo has --exact futures on, which shows failures in thread pools that \
             nobody asks for; each probe takes 1 to 3 us: one per submit, one per frame an exception \
             passes\n",
        );
    }
    settle(options, &Recording::None, Some(pid));
    let output = Output::new(options, sink, false)?;
    let end = drive(watch, output, options, Some(duration), Some(started), None).await?;
    if let Some(Err(error)) = end.child {
        return Err(needs(error));
    }
    if end.running.is_some() {
        signals::send(pid, SignalKind::terminate());
    }
    Ok(end.code())
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
        Recording::File => options.quiet,
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
    let mut written = Rc::default();
    match recording {
        Recording::None => {
            return Ok(Kept {
                sink: output::open(options)?,
                store,
                flight,
                written,
            });
        }
        Recording::File => {
            let stem = names::stem(&program, pids.first().copied().unwrap_or(0));
            let file = RecordingFile::new(options.output.as_deref(), &stem)?;
            written = file.written();
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
        written,
    })
}

fn watch_child(
    waiting: Waiting,
    options: &Options,
    store: Option<Box<dyn Store>>,
) -> Result<(Watch, Started), Failure> {
    let plan = plan(options, vec![waiting.pid]);
    let watch = Watch::start(&plan, targets(options), store)?;
    // The child has been forked: what is noted here does not keep it from being interrupted.
    ending::note()?;
    Ok((watch, waiting.go()?))
}

/// From here on, the watch can do what it still has to, and no more. The program that it started, if any,
/// runs already, so nothing of this reaches it.
fn settle(options: &Options, recording: &Recording, child: Option<Pid>) {
    privileges::give_up_but(privileges::of_watch(options, recording, child.is_some()));
    confine::confine_or_warn(child);
}

/// The same for a run that only reads: captures, or processes.
fn settle_reader(keep: CapabilitySet, output: Option<&Path>) {
    let files = output.map_or(CapabilitySet::empty(), privileges::of_file);
    privileges::give_up_but(keep | files);
    confine::confine_or_warn(None);
}

/// How a watch came to its end.
#[derive(Debug, Default)]
struct End {
    targets_gone: bool,
    /// How the started program ended; `None`: there is none, or it still runs.
    child: Option<io::Result<ExitStatus>>,
    /// The started program, if it still runs.
    running: Option<Ended>,
    /// A rule of `--fail-on` has held.
    failed: bool,
    /// A signal ended the watch.
    signal: Option<SignalKind>,
    /// The recording is not whole.
    unrecorded: bool,
    /// Nobody has read the summary, or it could not be written.
    unread: bool,
}

impl End {
    /// The exit code of a watch that went well.
    fn code(&self) -> u8 {
        if self.unrecorded || self.unread {
            code::FAILURE
        } else if self.failed {
            code::FINDING
        } else {
            code::OK
        }
    }
}

/// What the loop wakes up for.
enum Wake {
    Tick,
    Pump,
    BeginReadings,
    Read,
    Over,
    Signal(Request),
    Child(io::Result<ExitStatus>),
    Key(TerminalEvent),
}

async fn drive(
    mut watch: Watch,
    mut output: Output,
    options: &Options,
    duration: Option<Duration>,
    started: Option<Started>,
    mut flight: Option<Flight>,
) -> Result<End, Failure> {
    let arrived = notify_of_records(&watch)?;
    let mut signals = Signals::new()?;
    let mut child = started.map(|started| started.ended);
    let owns_child = child.is_some();
    let mut keys = output.screen().is_some().then(read_keys).transpose()?;
    let start = Instant::now();
    let mut period = options.watching.interval;
    let mut tick_at = start + period;
    let mut pump = every(PUMP);
    let deadline = duration.map(|duration| start + duration);
    let mut end = End::default();
    let mut last = None;
    // Whoever read the output is gone, which ends the run quietly.
    let mut unread = false;

    loop {
        watch.passes.end();
        if let Some(Err(_)) = watch.recorded() {
            break;
        }
        if let Some(signal) = ending::asked() {
            end.signal = Some(signal);
            break;
        }
        let readings_at = match watch.has_begun_readings() {
            true => None,
            false => Some(tick_at - watch.lead(period)),
        };
        let wake = tokio::select! {
            biased;
            request = signals.next() => Wake::Signal(request),
            () = until(deadline) => Wake::Over,
            status = ended(&mut child) => Wake::Child(status),
            key = next_key(&mut keys) => Wake::Key(key),
            () = sleep_until(tick_at), if output.has_room() => Wake::Tick,
            () = arrived.notified() => Wake::Pump,
            _ = pump.tick() => Wake::Pump,
            () = until(readings_at) => Wake::BeginReadings,
            () = std::future::ready(()), if watch.is_reading() => Wake::Read,
        };
        watch.passes.begin();
        match wake {
            Wake::Over => break,
            Wake::Signal(Request::End(signal)) => {
                end.signal = Some(signal);
                break;
            }
            Wake::Child(status) => {
                end.child = Some(status);
                child = None;
                break;
            }
            Wake::Signal(Request::Write) => {
                if let Some(flight) = &mut flight {
                    flight.write("sigusr2", clocks::monotonic_ns());
                }
            }
            Wake::Pump => {
                watch.pump();
                let stalls = watch.take_stalls();
                if let Some(flight) = &mut flight {
                    flight.stalls(&stalls, clocks::monotonic_ns());
                }
                if let Err(error) = output.stalls(stalls) {
                    (unread, end.unread) = (true, is_failure(error));
                    break;
                }
                if !owns_child && watch.targets_gone() {
                    end.targets_gone = true;
                    break;
                }
            }
            Wake::BeginReadings => watch.begin_readings(),
            Wake::Read => watch.read_some(),
            Wake::Tick => {
                tick_at = Instant::now() + period;
                let snapshot = watch.tick();
                if let Err(error) = output.window(&snapshot) {
                    (unread, end.unread) = (true, is_failure(error));
                    break;
                }
                if let Some(flight) = &mut flight {
                    flight.window(&snapshot, clocks::monotonic_ns());
                } else if let Some(Ok(bytes)) = watch.recorded() {
                    output.progress(&snapshot, bytes);
                }
                last = Some(snapshot);
            }
            Wake::Key(key) => {
                let Some(screen) = output.screen() else {
                    continue;
                };
                match screen.on_event(&key) {
                    Action::Quit => break,
                    Action::None => {}
                    Action::Redraw => {
                        if let Some(snapshot) = &last
                            && let Err(error) = output.window(snapshot)
                        {
                            (unread, end.unread) = (true, is_failure(error));
                            break;
                        }
                    }
                    Action::Slower => {
                        period = step(period, 1);
                        tick_at = Instant::now() + period;
                    }
                    Action::Faster => {
                        period = step(period, -1);
                        tick_at = Instant::now() + period;
                    }
                }
            }
        }
    }
    if unread && end.signal.is_none() {
        signals.abort_from_now_on();
    }
    if let Some(Err(_)) = end.child {
        // It never ran: there is nothing to report.
        return Ok(end);
    }
    end.running = child;
    output.end();
    if unread {
        return Ok(end);
    }
    let last = watch.finish(&options.watching.fail_on);
    end.failed = last.failed;
    if let Some(recorded) = last.recorded {
        end.unrecorded = !output.recorded(recorded, &last.summary);
    }
    if let Some(flight) = flight {
        let now_ns = clocks::monotonic_ns();
        end.unrecorded |= !flight.finish(&last.window, end.signal.is_some(), now_ns);
    }
    let told = output
        .stalls(last.stalls)
        .and_then(|()| output.window(&last.window))
        .and_then(|()| output.summary(&last.summary));
    let drained = match told {
        Ok(()) => output.drain(&mut signals, &mut end.signal).await,
        Err(error) => Err(error),
    };
    match drained {
        Ok(whole) => end.unread = !whole,
        Err(error) => end.unread = is_failure(error),
    }
    // What came while something was read or written.
    end.signal = end.signal.or_else(ending::asked);
    if end.signal.is_none() {
        signals.abort_from_now_on();
    }
    Ok(end)
}

/// A watch as the command line wants it.
fn plan(options: &Options, targets: Vec<Pid>) -> Plan {
    let watching = &options.watching;
    Plan {
        targets,
        follow_children: options.subprocesses(),
        rate: watching.rate,
        budget_cpu: watching.budget_cpu,
        budget_memory_bytes: watching.budget_memory,
        stall_threshold_ns: stall_threshold_ns(options),
        exact: !watching.exact.is_empty(),
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
        ..ScanOptions::default()
    };
    Targets::new(wants, looks)
}

fn stall_threshold_ns(options: &Options) -> Option<u64> {
    let threshold = options.watching.stall_threshold?;
    Some(u64::try_from(threshold.as_nanos()).unwrap_or(u64::MAX))
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// The next longer or shorter of the intervals that keys can choose.
fn step(period: Duration, direction: i8) -> Duration {
    let longer = INTERVALS.iter().find(|other| **other > period);
    let shorter = INTERVALS.iter().rev().find(|other| **other < period);
    *if direction > 0 { longer } else { shorter }.unwrap_or(&period)
}

/// `false` when nobody reads any more, which ends the run quietly.
fn printed(result: io::Result<()>) -> Result<bool, Failure> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        // It says to what.
        Err(error) => Err(Failure::new(code::FAILURE, format!("cannot write {error}"))),
    }
}

/// The same within a watch, which has more to see to than its output: says what failed.
fn is_failure(error: io::Error) -> bool {
    let failed = printed(Err(error)).err();
    if let Some(failure) = &failed {
        say(&format!("concmon-bpf: {failure}\n"));
    }
    failed.is_some()
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

type Ended = oneshot::Receiver<io::Result<ExitStatus>>;

async fn ended(child: &mut Option<Ended>) -> io::Result<ExitStatus> {
    match child {
        Some(receiver) => receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Other))),
        None => std::future::pending().await,
    }
}

/// A notification for every batch that the kernel has sent.
fn notify_of_records(watch: &Watch) -> io::Result<Rc<Notify>> {
    let notify = Rc::new(Notify::new());
    for descriptor in watch.descriptors() {
        let own: OwnedFd = descriptor.try_clone_to_owned()?;
        // SAFETY: the descriptor is owned, not changed, and lives as long as its registration.
        let readable = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE)? };
        let notify = Rc::clone(&notify);
        tokio::task::spawn_local(async move {
            while let Ok(mut guard) = readable.readable().await {
                // The buffer is gone, with the watch.
                if guard.ready().is_read_closed() {
                    break;
                }
                notify.notify_one();
                guard.clear_ready();
            }
        });
    }
    Ok(notify)
}

/// Keys and resizes, read by a thread of their own: the terminal can only be waited for there.
fn read_keys() -> io::Result<mpsc::UnboundedReceiver<TerminalEvent>> {
    debug_assert!(io::stdin().is_terminal(), "there is a screen");
    let (sender, receiver) = mpsc::unbounded_channel();
    std::thread::Builder::new()
        .name("keys".to_owned())
        .spawn(move || {
            while let Ok(event) = crossterm::event::read() {
                if sender.send(event).is_err() {
                    break;
                }
            }
        })?;
    Ok(receiver)
}

async fn next_key(keys: &mut Option<mpsc::UnboundedReceiver<TerminalEvent>>) -> TerminalEvent {
    if let Some(receiver) = keys
        && let Some(event) = receiver.recv().await
    {
        return event;
    }
    std::future::pending().await
}
