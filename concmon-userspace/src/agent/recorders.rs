//! Flight recorders of services: each keeps the last stretch of its service in memory, all of them within one bound.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, time::Duration};

use hyper::StatusCode;
use tokio::{sync::oneshot, time::Instant};

use super::{config, debug::Reply, roster::Roster};
use crate::{
    capture::Ring,
    model::timing::Notice,
    procfs::clocks,
    schema::{Process, Snapshot},
    session::{
        Failure,
        files::Folder,
        flight::{Flight, open_folder},
        keep::Kept,
        taps::{TapId, TapPlan},
        watch::{LATE, Watch},
    },
};

/// Where records would fill a ring before a window ends, one ends earlier, after so long at least.
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// A ring is at least so long, bytes: there are no more rings than fit.
const LEAST_RING: u64 = 1 << 20;
/// Copies of rings that are made after one window.
const MAX_WANTED: usize = 2;
/// After the end of its last process, a service's recorder goes, ns.
const PATIENCE_NS: u64 = 60_000_000_000;

/// The recorder of a service.
#[derive(Debug)]
struct Recorder {
    ring: Ring,
    tap: TapId,
    /// `None`: nothing is written unasked.
    flight: Option<Flight>,
    /// When a process of it was seen last, ns.
    seen_ns: u64,
}

/// Somebody who wants what a recorder has.
#[derive(Debug)]
struct Wanted {
    service: String,
    last: Duration,
    reply: oneshot::Sender<Reply>,
    /// Records of what was before it was asked for have arrived by then.
    ready: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Recorders {
    /// `None`: none are wanted.
    settings: Option<config::Flight>,
    /// Where files go, and which are there.
    folder: Option<(Rc<Folder>, Rc<RefCell<Kept>>)>,
    by_service: BTreeMap<String, Recorder>,
    /// They are answered after the first window that ends when they are ready, or later.
    wanted: Vec<Wanted>,
    /// When the last window ended.
    window_at: Instant,
    /// Services without one for want of room were told of.
    has_told: bool,
}

impl Recorders {
    /// # Errors
    /// There is no such folder.
    pub(super) fn new(settings: Option<&config::Flight>) -> Result<Self, Failure> {
        let mut folder = None;
        if let Some(settings) = settings
            && let Some(path) = &settings.folder
        {
            let open = open_folder(path, "flight.folder names")?;
            let kept = Kept::new(Rc::clone(&open), settings.folder_size);
            folder = Some((open, Rc::new(RefCell::new(kept))));
        }
        Ok(Self {
            folder,
            settings: settings.cloned(),
            by_service: BTreeMap::new(),
            wanted: Vec::new(),
            window_at: Instant::now(),
            has_told: false,
        })
    }

    /// Somebody wants the last stretch of a service.
    pub(super) fn ask(&mut self, service: String, last: Duration, reply: oneshot::Sender<Reply>) {
        if !self.by_service.contains_key(&service) {
            let text = match self.settings {
                None => {
                    "no flight recorders are kept: [flight] of the configuration asks for them\n"
                }
                Some(_) => {
                    "no flight recorder is kept of such a service: /debug/targets has services\n"
                }
            };
            let _ = reply.send(Reply::text(StatusCode::NOT_FOUND, text));
            return;
        }
        if self.wanted.len() >= MAX_WANTED {
            let _ = reply.send(Reply::busy());
            return;
        }
        self.wanted.push(Wanted {
            service,
            last,
            reply,
            ready: Instant::now() + LATE,
        });
    }

    /// When the window that goes on is to end, where it would end at `otherwise`.
    pub(super) fn window_ends(&self, otherwise: Instant) -> Instant {
        let wanted = self.wanted.iter().map(|wanted| wanted.ready);
        let mut recorders = self.by_service.values();
        let is_full = recorders.any(|recorder| recorder.ring.needs_window());
        let full = is_full.then(|| self.window_at + MIN_WINDOW);
        wanted.chain(full).fold(otherwise, Instant::min)
    }

    /// Stalls and hangs have become known.
    pub(super) fn notices(&mut self, notices: &[Notice], roster: &Roster) {
        let now_ns = clocks::monotonic_ns();
        for notice in notices {
            let recorder = roster
                .service_of(notice.pid())
                .and_then(|name| self.by_service.get_mut(name));
            if let Some(flight) = recorder.and_then(|recorder| recorder.flight.as_mut()) {
                flight.notices(std::slice::from_ref(notice), now_ns);
            }
        }
    }

    /// A window is about to end: the recorders of services that have come begin with it.
    pub(super) fn before_window(&mut self, watch: &mut Watch, roster: &Roster) {
        let Some(settings) = &self.settings else {
            return;
        };
        let now_ns = clocks::monotonic_ns();
        let most = usize::try_from((settings.memory / LEAST_RING).max(1)).unwrap_or(usize::MAX);
        let before = self.by_service.len();
        for (service, processes) in roster.services() {
            if let Some(recorder) = self.by_service.get_mut(&service) {
                recorder.seen_ns = now_ns;
                continue;
            }
            let is_asked_for = settings.services.is_empty() || settings.services.contains(&service);
            if !is_asked_for {
                continue;
            }
            if self.by_service.len() >= most {
                if !self.has_told {
                    self.has_told = true;
                    log::warn!(
                        "flight recorders fit for {most} services only: flight.memory has room for no more"
                    );
                }
                continue;
            }
            let span_ns = u64::try_from(settings.span.as_nanos()).unwrap_or(u64::MAX);
            let ring = Ring::new(span_ns, LEAST_RING as usize);
            let tap = watch.open_tap(TapPlan {
                service: service.clone(),
                processes,
                store: Box::new(ring.clone()),
                most_bytes: u64::MAX,
                is_asked_for: false,
            });
            let flight = self.folder.as_ref().map(|(folder, kept)| {
                let (folder, kept) = (Rc::clone(folder), Rc::clone(kept));
                Flight::of_service(ring.clone(), folder, kept, &settings.triggers, &service)
            });
            let recorder = Recorder {
                ring,
                tap,
                flight,
                seen_ns: now_ns,
            };
            self.by_service.insert(service, recorder);
        }
        let over = |_: &String, recorder: &mut Recorder| {
            let is_writing = recorder.flight.as_ref().is_some_and(Flight::is_writing);
            !is_writing && now_ns.saturating_sub(recorder.seen_ns) >= PATIENCE_NS
        };
        for (_, recorder) in self.by_service.extract_if(.., over) {
            watch.taps().abandon(recorder.tap);
        }
        if self.by_service.len() != before {
            let share = settings.memory / self.by_service.len().max(1) as u64;
            for recorder in self.by_service.values() {
                let share = usize::try_from(share).unwrap_or(usize::MAX);
                recorder.ring.set_most_bytes(share);
            }
        }
    }

    /// The agent ends: what is being written is whole then.
    pub(super) fn end(&mut self) {
        let now_ns = clocks::monotonic_ns();
        let recorders = self.by_service.values_mut();
        for flight in recorders.filter_map(|recorder| recorder.flight.as_mut()) {
            flight.close(now_ns);
        }
    }

    /// A window has ended.
    pub(super) fn after_window(&mut self, window: &Snapshot, watch: &mut Watch) {
        self.window_at = Instant::now();
        let now_ns = clocks::monotonic_ns();
        for (service, recorder) in &mut self.by_service {
            // Its facts are what a file ends with.
            watch.taps().seal(recorder.tap);
            let Some(flight) = &mut recorder.flight else {
                continue;
            };
            let processes = window.processes.iter();
            let of_service = processes.filter(|process| process.group.as_ref() == Some(service));
            let of_service: Vec<&Process> = of_service.collect();
            flight.processes(window, &of_service, now_ns);
        }
        let window_at = self.window_at;
        let is_ready = |wanted: &mut Wanted| wanted.ready <= window_at;
        for Wanted {
            service,
            last,
            reply,
            ..
        } in self.wanted.extract_if(.., is_ready)
        {
            let said = match self.by_service.get(&service) {
                Some(recorder) => copy(&recorder.ring, last, now_ns),
                None => Reply::no_service(),
            };
            let _ = reply.send(said);
        }
    }
}

fn copy(ring: &Ring, last: Duration, now_ns: u64) -> Reply {
    let last_ns = u64::try_from(last.as_nanos()).unwrap_or(u64::MAX);
    let since_ns = now_ns.saturating_sub(last_ns);
    match ring.copy("asked for", since_ns, now_ns) {
        Ok(body) => Reply {
            status: StatusCode::OK.as_u16(),
            content_type: "application/octet-stream".to_owned(),
            body,
        },
        Err(error) => {
            let text = format!("nothing can be handed out: {error}\n");
            Reply::text(StatusCode::INTERNAL_SERVER_ERROR, &text)
        }
    }
}
