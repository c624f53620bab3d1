//! Profiles of services: a recording of a service for as long as is asked for, then time by stack made of it.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{self, Seek as _},
    time::Duration,
};

use hyper::StatusCode;
use tokio::{sync::oneshot, time::Instant};

use super::debug::{ProfileOf, Reply};
use crate::{
    capture::{FileStore, Reader},
    event::Pid,
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
/// A recording is at most so long, and what is made of it, bytes.
const MAX_RECORDING: u64 = 64 << 20;
const MAX_PROFILE: usize = 8 << 20;
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
}

/// One that is being made.
#[derive(Debug)]
struct Profile {
    of: ProfileOf,
    processes: BTreeSet<Pid>,
    /// Of the memory that the recording is in.
    file: File,
    reply: oneshot::Sender<Reply>,
    phase: Phase,
}

/// All that are being made.
#[derive(Debug)]
pub(super) struct Profiles {
    all: Vec<Profile>,
    /// When the last window ended.
    window_at: Instant,
}

impl Default for Profiles {
    fn default() -> Self {
        Self {
            all: Vec::new(),
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
        let refused = if processes.is_empty() {
            Reply::no_service()
        } else if self.all.len() >= MAX_PROFILES {
            Reply::busy()
        } else {
            match memory() {
                Ok(file) => {
                    self.all.push(Profile {
                        of,
                        processes,
                        file,
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
            Phase::Ending(_) | Phase::Late(..) => None,
        }
    }

    /// When a window may end that is to end then.
    pub(super) fn soon(&self, at: Instant) -> Instant {
        at.max(self.window_at + MIN_WINDOW)
    }

    /// A window is about to end.
    pub(super) fn before_window(&mut self, watch: &mut Watch) {
        let now = Instant::now();
        for profile in &mut self.all {
            match profile.phase {
                Phase::Waiting(_) => match profile.open(watch) {
                    Ok(tap) => {
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
                Phase::Running(..) | Phase::Ending(_) | Phase::Late(..) => {}
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

    /// Makes those whose time is over, and gives up those that nobody waits for any more.
    pub(super) fn step(&mut self, watch: &mut Watch) {
        let now = Instant::now();
        let is_over = |profile: &mut Profile| {
            let is_late = matches!(profile.phase, Phase::Late(_, closes) if closes <= now);
            is_late || profile.reply.is_closed()
        };
        let over: Vec<Profile> = self.all.extract_if(.., is_over).collect();
        if over.is_empty() {
            return;
        }
        for profile in over {
            match profile.phase {
                Phase::Late(tap, _) if !profile.reply.is_closed() => {
                    let recorded = watch.taps().close(tap);
                    profile.make(recorded);
                }
                Phase::Running(tap, _) | Phase::Ending(tap) | Phase::Late(tap, _) => {
                    watch.taps().abandon(tap);
                }
                Phase::Waiting(_) => {}
            }
        }
        watch.suit_taps();
    }
}

impl Profile {
    fn open(&self, watch: &mut Watch) -> io::Result<TapId> {
        let store = Box::new(FileStore::new(self.file.try_clone()?));
        Ok(watch.open_tap(TapPlan {
            service: self.of.service.clone(),
            processes: self.processes.clone(),
            store,
            most_bytes: MAX_RECORDING,
            is_asked_for: true,
        }))
    }

    /// Has it made, by a thread that may do nothing else.
    fn make(self, recorded: io::Result<u64>) {
        let Self {
            mut file,
            of,
            reply,
            ..
        } = self;
        let make = move || {
            privileges::give_up_all();
            let made = recorded.and_then(|_| convert(&mut file, of.by));
            let said = match made {
                Ok(body) if body.len() > MAX_PROFILE => Reply::too_long(),
                Ok(body) => Reply {
                    status: StatusCode::OK.as_u16(),
                    content_type: "application/octet-stream".to_owned(),
                    body,
                },
                Err(error) => failed(&error),
            };
            let _ = reply.send(said);
        };
        let thread = std::thread::Builder::new().name("profile".to_owned());
        if let Err(error) = thread.spawn(make) {
            log::warn!("a profile cannot be made: {error}");
        }
    }
}

fn convert(file: &mut File, by: By) -> io::Result<Vec<u8>> {
    file.rewind()?;
    let reader = Reader::new(file).map_err(io::Error::other)?;
    // What a file of this length is worth, and no more.
    let replay = Replay::new(reader).granted(Some(0));
    let mut body = Vec::new();
    flames::write(replay, FlameFormat::Pprof, by, &mut body)??;
    Ok(body)
}

/// A file that is nowhere but in memory.
pub(super) fn memory() -> io::Result<File> {
    let flags = rustix::fs::MemfdFlags::CLOEXEC;
    Ok(rustix::fs::memfd_create(c"concmon-profile", flags)?.into())
}

fn failed(error: &io::Error) -> Reply {
    let text = format!("no profile can be made: {error}\n");
    Reply::text(StatusCode::INTERNAL_SERVER_ERROR, &text)
}
