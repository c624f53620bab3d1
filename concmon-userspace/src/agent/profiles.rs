//! Profiles of services: a recording of a service for as long as is asked for, then time by stack made of it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Read, Seek as _},
    thread::JoinHandle,
    time::Duration,
};

use hyper::StatusCode;
use tokio::{sync::oneshot, time::Instant};

use super::debug::{ProfileOf, Reply};
use crate::{
    capture::{FileStore, Reader},
    event::Pid,
    procfs::clocks,
    session::{
        flames, privileges,
        taps::{TapId, TapPlan},
        watch::{LATE, Watch},
    },
    source::replay::Replay,
    views::export::{By, FlameFormat},
};

/// Profiles at the same time.
const MAX_PROFILES: usize = 4;
/// All their recordings are at most so long, bytes: each may have half of what the others leave.
const MAX_RECORDINGS: u64 = 64 << 20;
/// What is made of one is at most so long, and making it takes about so much memory at most, bytes.
const MAX_PROFILE: usize = 8 << 20;
const MAX_MAKING: u64 = 192 << 20;
/// Windows are at least so long, and while a profile is made about so long at most: who has a lock is looked at once in
/// each.
const MIN_WINDOW: Duration = Duration::from_millis(100);
const WINDOW: Duration = Duration::from_secs(1);
/// So long before the first window it is known that this ends.
const LEAD: Duration = Duration::from_millis(50);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// It begins with the first window that ends then or later.
    Waiting(Instant),
    /// It ends with the first window that ends then or later.
    Running(TapId, Instant),
    /// It ends with the window that ends next.
    Ending(TapId),
    /// What belongs to it is still under way.
    Late(TapId, Instant),
    /// It waits to be made.
    Recorded,
}

/// One that is being made.
#[derive(Debug)]
struct Profile {
    of: ProfileOf,
    processes: BTreeSet<Pid>,
    /// Of the memory that the recording is in.
    file: File,
    /// The recording is at most so long; 0: it has not begun.
    most_bytes: u64,
    reply: oneshot::Sender<Reply>,
    phase: Phase,
}

/// One of which there is a whole recording, and the thread that makes it.
#[derive(Debug)]
struct Making {
    thread: JoinHandle<()>,
    most_bytes: u64,
}

/// All that are being made.
#[derive(Debug)]
pub(super) struct Profiles {
    all: Vec<Profile>,
    /// One at a time: it takes memory.
    making: Option<Making>,
    /// When the last window ended.
    window_at: Instant,
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            all: Vec::new(),
            making: None,
            window_at: Instant::now(),
        }
    }
}

impl Profiles {
    /// Begins one of these processes.
    pub(super) fn begin(
        &mut self,
        of: ProfileOf,
        processes: BTreeSet<Pid>,
        reply: oneshot::Sender<Reply>,
    ) {
        let making = self.making.iter();
        let making = making.filter(|making| !making.thread.is_finished());
        let refused = if processes.is_empty() {
            Reply::no_service()
        } else if self.all.len() + making.count() >= MAX_PROFILES {
            Reply::busy()
        } else {
            match memory() {
                Ok(file) => {
                    self.all.push(Profile {
                        of,
                        processes,
                        file,
                        most_bytes: 0,
                        reply,
                        phase: Phase::Waiting(Instant::now() + LEAD),
                    });
                    return;
                }
                Err(error) => failed(&error),
            }
        };
        let _ = reply.send(refused);
    }

    /// When something is to be done next, beside the end of a window.
    pub(super) fn due(&self) -> Option<Instant> {
        let closes = self.all.iter().filter_map(|profile| match profile.phase {
            Phase::Late(_, closes) => Some(closes),
            _ => None,
        });
        closes.min()
    }

    /// When the window that goes on is to end, where it would end at `otherwise`. It is told beforehand, so that who is
    /// read with it is read in time.
    pub(super) fn window_ends(&self, otherwise: Instant) -> Instant {
        let due = self
            .all
            .iter()
            .filter_map(|profile| self.window_due(profile));
        due.fold(otherwise, Instant::min)
    }

    fn window_due(&self, profile: &Profile) -> Option<Instant> {
        let next = self.window_at + WINDOW;
        match profile.phase {
            Phase::Waiting(since) => Some(self.soon(since)),
            Phase::Running(_, ends) if next + WINDOW / 2 < ends => Some(next),
            Phase::Running(_, ends) => Some(self.soon(ends)),
            Phase::Ending(_) | Phase::Late(..) | Phase::Recorded => None,
        }
    }

    /// When a window may end that is to end then.
    pub(super) fn soon(&self, at: Instant) -> Instant {
        at.max(self.window_at + MIN_WINDOW)
    }

    /// A window is about to end.
    pub(super) fn before_window(&mut self, watch: &mut Watch) {
        let now = Instant::now();
        let all = self.all.iter().map(|profile| profile.most_bytes);
        let mut taken: u64 = all
            .chain(self.making.iter().map(|making| making.most_bytes))
            .sum();
        for profile in &mut self.all {
            match profile.phase {
                Phase::Waiting(_) => match profile.open(watch, most_bytes(taken)) {
                    Ok(tap) => {
                        profile.most_bytes = most_bytes(taken);
                        taken += profile.most_bytes;
                        let ends = now + profile.of.length();
                        profile.phase = Phase::Running(tap, ends);
                    }
                    // Whoever waits is told by the end of the channel.
                    Err(error) => log::warn!("a profile cannot be kept: {error}"),
                },
                Phase::Running(tap, ends) if ends <= now => {
                    watch.taps().end_with_window(tap);
                    profile.phase = Phase::Ending(tap);
                }
                Phase::Running(..) | Phase::Ending(_) | Phase::Late(..) | Phase::Recorded => {}
            }
        }
        self.all
            .retain(|profile| !matches!(profile.phase, Phase::Waiting(_)));
    }

    /// A window has ended.
    pub(super) fn after_window(&mut self) {
        self.window_at = Instant::now();
        for profile in &mut self.all {
            if let Phase::Ending(tap) = profile.phase {
                profile.phase = Phase::Late(tap, self.window_at + LATE);
            }
        }
    }

    /// Makes those whose time is over, one after the other, and gives up those that nobody waits for any more.
    pub(super) fn step(&mut self, watch: &mut Watch) {
        if self.all.is_empty() && self.making.is_none() {
            return;
        }
        let now = Instant::now();
        let gone = |profile: &mut Profile| profile.reply.is_closed();
        for profile in self.all.extract_if(.., gone) {
            match profile.phase {
                Phase::Running(tap, _) | Phase::Ending(tap) | Phase::Late(tap, _) => {
                    watch.taps().abandon(tap);
                }
                Phase::Waiting(_) | Phase::Recorded => {}
            }
        }
        let is_over = |profile: &mut Profile| matches!(profile.phase, Phase::Late(_, closes) if closes <= now);
        let over: Vec<Profile> = self.all.extract_if(.., is_over).collect();
        for mut profile in over {
            let Phase::Late(tap, _) = profile.phase else {
                continue;
            };
            match watch.taps().close(tap) {
                Ok(_) => {
                    profile.phase = Phase::Recorded;
                    self.all.push(profile);
                }
                Err(error) => drop(profile.reply.send(failed(&error))),
            }
        }
        if let Some(made) = self.making.take_if(|making| making.thread.is_finished()) {
            drop(made.thread.join());
        }
        let next = |profile: &Profile| profile.phase == Phase::Recorded;
        if self.making.is_none()
            && let Some(at) = self.all.iter().position(next)
        {
            self.making = self.all.remove(at).make();
        }
        // What making takes is for who asked, too.
        let is_recorded = self.all.iter().any(next);
        watch.taps().hold(self.making.is_some() || is_recorded);
        watch.suit_taps();
    }
}

/// How long a recording may be where others have been promised so much, bytes.
const fn most_bytes(taken: u64) -> u64 {
    MAX_RECORDINGS.saturating_sub(taken) / 2
}

impl Profile {
    fn open(&self, watch: &mut Watch, most_bytes: u64) -> io::Result<TapId> {
        let store = Box::new(FileStore::new(self.file.try_clone()?));
        Ok(watch.open_tap(TapPlan {
            service: self.of.service.clone(),
            processes: self.processes.clone(),
            store,
            most_bytes,
            is_asked_for: true,
        }))
    }

    /// Has it made, by a thread that may do nothing else.
    fn make(self) -> Option<Making> {
        let Self {
            mut file,
            most_bytes,
            of,
            reply,
            ..
        } = self;
        let make = move || {
            privileges::give_up_all();
            let read = Wanted {
                file: &mut file,
                reply: &reply,
            };
            let said = match convert(read, of.by) {
                Ok(body) if body.len() > MAX_PROFILE => Reply::too_long(),
                Ok(body) => Reply {
                    status: StatusCode::OK.as_u16(),
                    content_type: "application/octet-stream".to_owned(),
                    body,
                },
                Err(error) => failed(&error),
            };
            drop(file);
            let _ = reply.send(said);
        };
        let thread = std::thread::Builder::new().name("profile".to_owned());
        match thread.spawn(make) {
            Ok(thread) => Some(Making { thread, most_bytes }),
            Err(error) => {
                log::warn!("a profile cannot be made: {error}");
                None
            }
        }
    }
}

/// A recording, for as long as somebody waits for what is made of it.
struct Wanted<'a> {
    file: &'a mut File,
    reply: &'a oneshot::Sender<Reply>,
}

impl Read for Wanted<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self.reply.is_closed() {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => self.file.read(into),
        }
    }
}

fn convert(recording: Wanted<'_>, by: By) -> io::Result<Vec<u8>> {
    recording.file.rewind()?;
    let reader = Reader::new(recording).map_err(io::Error::other)?;
    // Beside what the agent has already.
    let resident = clocks::process_rss_bytes()?;
    let replay = Replay::new(reader).granted(Some(resident + MAX_MAKING));
    let mut body = Vec::new();
    let summary = flames::write(replay, FlameFormat::Pprof, by, &mut body)??;
    if summary.limits.iter().any(|limit| limit.field == "capture") {
        let text = "it would not be whole: ask for a shorter time";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, text));
    }
    Ok(body)
}

/// A file that is nowhere but in memory.
fn memory() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create(c"concmon-profile", flags)?.into())
}

fn failed(error: &io::Error) -> Reply {
    let text = format!("no profile can be made: {error}\n");
    let status = match error.kind() {
        io::ErrorKind::FileTooLarge => StatusCode::INSUFFICIENT_STORAGE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Reply::text(status, &text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        capture::{Filters, Header, Input, Recorder},
        event::{Event, Tick},
        model::WatchInfo,
    };

    /// A recording of so many windows.
    fn recording(windows: u64) -> File {
        let file = memory().expect("memory");
        let header = Header {
            info: WatchInfo {
                version: "0".into(),
                start_ns: 1,
                start_unix_ns: 1,
                start_boottime_ns: 1,
                targets: vec![Pid(1)],
                stall_threshold_ns: None,
                knows_causes: true,
                place: crate::event::PlaceFact::default(),
                http: Default::default(),
            },
            wire: concmon_ebpf::WIRE_VERSION,
            architecture: std::env::consts::ARCH.to_owned(),
            host: String::new(),
            kernel: String::new(),
            command: Vec::new(),
            filters: Filters::default(),
            joins: true,
            reason: None,
            flight: None,
        };
        let store = FileStore::new(file.try_clone().expect("a file"));
        let mut recorder = Recorder::new(Box::new(store), &header);
        for at_ns in 2..windows + 2 {
            recorder.key(at_ns);
            recorder.input(&Input::Release { until_ns: at_ns });
            let unix_ns = at_ns;
            recorder.input(&Input::Now(Event::Tick(Tick { at_ns, unix_ns })));
        }
        recorder.finish().expect("room");
        file
    }

    /// Makes a profile of a recording that somebody waits for.
    fn made_of(file: &mut File) -> io::Result<Vec<u8>> {
        let (reply, _waits) = oneshot::channel();
        let reply = &reply;
        convert(Wanted { file, reply }, By::Wall)
    }

    #[test]
    fn what_the_agent_has_in_memory_already_cuts_no_profile_off() {
        let had = std::hint::black_box(vec![1_u8; 300 << 20]);
        let made = made_of(&mut recording(500));
        assert!(made.is_ok_and(|body| !body.is_empty()));
        drop(had);
    }

    #[test]
    fn a_profile_that_would_not_be_whole_is_none() {
        let mut file = recording(500);
        let length = file.metadata().expect("its length").len();
        file.set_len(length / 2).expect("it can be cut off");
        let error = made_of(&mut file).expect_err("it breaks off");
        assert_eq!(failed(&error).status, 507);
    }

    #[test]
    fn a_profile_that_nobody_waits_for_any_more_is_given_up() {
        let mut file = recording(500);
        file.rewind().expect("a file");
        let (reply, waits) = oneshot::channel();
        let mut wanted = Wanted {
            file: &mut file,
            reply: &reply,
        };
        assert_eq!(wanted.read(&mut [0]).expect("it is wanted"), 1);
        drop(waits);
        let error = wanted.read(&mut [0]).expect_err("it is not");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
        assert!(convert(wanted, By::Wall).is_err());
    }

    #[test]
    fn recordings_are_within_one_bound() {
        let mut taken = 0;
        for _ in 0..MAX_PROFILES {
            assert!(most_bytes(taken) >= 4 << 20);
            taken += most_bytes(taken);
        }
        assert!(taken <= MAX_RECORDINGS);
        assert_eq!(most_bytes(u64::MAX), 0);
    }
}
