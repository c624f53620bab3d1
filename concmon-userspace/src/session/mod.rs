//! A watch as it runs: the one select loop, what it is fed from, and where everything goes.

mod allowance;
mod budget;
pub mod confine;
mod duty;
pub(crate) mod ending;
pub(crate) mod files;
pub(crate) mod flames;
pub(crate) mod flight;
mod intake;
pub(crate) mod keep;
mod log_lines;
pub(crate) mod names;
mod oom;
pub(crate) mod outcome;
pub(crate) mod output;
mod passes;
pub(crate) mod privileges;
mod record;
mod schedule;
pub(crate) mod signals;
mod sources;
mod stream;
pub(crate) mod taps;
pub(crate) mod watch;

use std::{
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
    time::{Instant, Interval, MissedTickBehavior, interval_at, sleep_until},
};

use flight::Flight;
pub use log_lines::write_log_line;
pub use outcome::{Failure, code};
use output::Output;
use signals::{Request, Signals};
pub use stream::{LogLines, end_of_messages, say};
use watch::Watch;

use crate::{
    cli::{By, Flight as Wanted, Format, Options},
    procfs::clocks,
    schema::Snapshot,
    views::screen::Action,
};

/// How often what has arrived is taken in when no batch says so, and ended threads are collected.
pub(crate) const PUMP: Duration = Duration::from_millis(50);
/// The same where nothing has come for a while, and nobody runs a loop of which a step could begin to last.
pub(crate) const PUMP_AT_REST: Duration = Duration::from_millis(100);
/// The first window of a live view.
const FIRST_SCREEN: Duration = Duration::from_millis(80);
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

/// From here on, a run that only reads, captures or processes, can do what it still has to, and no more.
pub(crate) fn settle_reader(keep: CapabilitySet, output: Option<&Path>) {
    let files = output.map_or(CapabilitySet::empty(), privileges::of_file);
    privileges::give_up_but(keep | files);
    confine::confine_or_warn(None);
}

/// What becomes of what a watch is fed.
#[derive(Clone, Debug)]
pub(crate) enum Recording {
    None,
    File,
    /// A file without a name, of which something else is made at the end.
    Export(Format, By),
    Flight(Wanted),
}

/// How a watch came to its end.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) targets_gone: bool,
    /// Its time was over.
    pub(crate) over: bool,
    /// How the started program ended; `None`: there is none, or it still runs.
    pub(crate) child: Option<io::Result<ExitStatus>>,
    /// The started program, if it still runs.
    pub(crate) running: Option<Ended>,
    /// A rule of `--fail-on` has held.
    pub(crate) failed: bool,
    /// A signal ended the watch.
    pub(crate) signal: Option<SignalKind>,
    /// The recording is not whole.
    pub(crate) unrecorded: bool,
    /// Nobody has read the summary, or it could not be written.
    pub(crate) unread: bool,
}

impl End {
    /// The exit code of a watch that went well.
    pub(crate) fn code(&self) -> u8 {
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
    EndWindow,
    Tell,
    Pump,
    BeginReadings,
    Read,
    Done,
    Over,
    Signal(Request),
    Child(io::Result<ExitStatus>),
    Key(TerminalEvent),
}

/// Runs a watch to its end; `child` tells when the program ends that was started for it.
///
/// # Errors
/// The loop cannot be set up.
pub(crate) async fn drive(
    mut watch: Watch,
    mut output: Output,
    options: &Options,
    duration: Option<Duration>,
    mut child: Option<Ended>,
    mut flight: Option<Flight>,
) -> Result<End, Failure> {
    let arrived = notify_of_records(&watch)?;
    watch.start_worker()?;
    let done = watch.done();
    let mut signals = Signals::new()?;
    let owns_child = child.is_some();
    let mut keys = output.screen().is_some().then(read_keys).transpose()?;
    if output.screen().is_some() {
        watch.keep_intervals();
    }
    let start = Instant::now();
    let mut period = options.watching.interval;
    // Who looks at a screen wants to see something at once.
    let first = match output.screen() {
        Some(_) => period.min(FIRST_SCREEN),
        None => period,
    };
    let mut tick_at = start + first;
    let mut pump = every(PUMP);
    let deadline = duration.map(|duration| start + duration);
    let mut end = End::default();
    let mut last = None;
    // A window is to end next.
    let mut ending = false;
    // One that has ended, and is to be told of next.
    let mut told: Option<Snapshot> = None;
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
        let readings_at = watch.readings_at(tick_at, period);
        let wake = tokio::select! {
            biased;
            request = signals.next() => Wake::Signal(request),
            () = until(deadline) => Wake::Over,
            status = ended(&mut child) => Wake::Child(status),
            key = next_key(&mut keys) => Wake::Key(key),
            () = std::future::ready(()), if ending => Wake::EndWindow,
            () = std::future::ready(()), if told.is_some() => Wake::Tell,
            () = sleep_until(tick_at), if output.has_room() => Wake::Tick,
            () = arrived.notified() => Wake::Pump,
            _ = pump.tick() => Wake::Pump,
            () = done.notified() => Wake::Done,
            () = until(readings_at) => Wake::BeginReadings,
            () = std::future::ready(()), if watch.is_reading() => Wake::Read,
        };
        watch.passes.begin();
        match wake {
            Wake::Over => {
                end.over = true;
                break;
            }
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
                let notices = watch.take_notices();
                if let Some(flight) = &mut flight {
                    flight.notices(&notices, clocks::monotonic_ns());
                }
                if let Err(error) = output.notices(notices) {
                    (unread, end.unread) = (true, is_failure(error));
                    break;
                }
                if !owns_child && watch.targets_gone() {
                    end.targets_gone = true;
                    break;
                }
            }
            Wake::BeginReadings => watch.begin_readings(),
            Wake::Read => watch.take_turn_reading().await,
            Wake::Done => watch.take_done(),
            Wake::Tick => {
                tick_at = Instant::now() + period;
                watch.prepare_end();
                ending = true;
            }
            Wake::EndWindow => {
                ending = false;
                told = Some(watch.end_window());
            }
            Wake::Tell => {
                let Some(snapshot) = told.take() else {
                    continue;
                };
                match tell(snapshot, &watch, &mut output, flight.as_mut()) {
                    Ok(snapshot) => last = snapshot,
                    Err(error) => {
                        (unread, end.unread) = (true, is_failure(error));
                        break;
                    }
                }
            }
            Wake::Key(key) => {
                let Some(screen) = output.screen() else {
                    continue;
                };
                match screen.on_event(&key) {
                    Action::Quit => break,
                    Action::None => {}
                    Action::Redraw => {
                        let Some(snapshot) = last.take() else {
                            continue;
                        };
                        match output.window(snapshot, watch.intervals()) {
                            Ok(snapshot) => last = snapshot,
                            Err(error) => {
                                (unread, end.unread) = (true, is_failure(error));
                                break;
                            }
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
    if let Some(snapshot) = told
        && let Err(error) = tell(snapshot, &watch, &mut output, flight.as_mut())
    {
        (unread, end.unread) = (true, is_failure(error));
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
        .notices(last.notices)
        .and_then(|()| output.window(last.window, None))
        .and_then(|_| output.summary(&last.summary));
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

/// Tells everybody of a window that has ended; gives it back where it is on a screen.
fn tell(
    snapshot: Snapshot,
    watch: &Watch,
    output: &mut Output,
    flight: Option<&mut Flight>,
) -> io::Result<Option<Snapshot>> {
    if let Some(flight) = flight {
        flight.window(&snapshot, clocks::monotonic_ns());
    } else if let Some(Ok(bytes)) = watch.recorded() {
        output.progress(&snapshot, bytes);
    }
    output.window(snapshot, watch.intervals())
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
pub(crate) fn printed(result: io::Result<()>) -> Result<bool, Failure> {
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

pub(crate) async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Tells how a program has ended that was started.
pub(crate) type Ended = oneshot::Receiver<io::Result<ExitStatus>>;

pub(crate) async fn ended(child: &mut Option<Ended>) -> io::Result<ExitStatus> {
    match child {
        Some(receiver) => receiver
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::Other))),
        None => std::future::pending().await,
    }
}

/// A notification for every batch that the kernel has sent.
pub(crate) fn notify_of_records(watch: &Watch) -> io::Result<Rc<Notify>> {
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
