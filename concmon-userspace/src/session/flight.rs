//! The flight recorder: keeps the last stretch, and writes it out when something happens.

mod watched;

use std::{
    cell::RefCell, collections::BTreeSet, ffi::OsStr, io, path::Path, rc::Rc, time::Duration,
};

use self::watched::{Watched, is_longer};
use super::{
    files::{FileError, Folder, NewFile},
    keep::{Kept, PART, forget_old},
    names,
    oom::OomKills,
    outcome::{Failure, code, why},
    say,
};
use crate::{
    capture::{DiskRing, Header, Ring, Sealed, Store},
    cli::{Flight as Wanted, Trigger},
    model::timing::Notice,
    schema::{Process, Snapshot},
    views::{escape::escape, recording},
};

/// How long is written on after a trigger.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Between the beginnings of two files of a service, where nobody sits at it.
const PAUSE_NS: u64 = 30_000_000_000;
/// How services are stopped that nothing is wrong with.
const ROUTINE: [u8; 3] = [libc::SIGHUP as u8, libc::SIGINT as u8, libc::SIGTERM as u8];

/// A file that is being written, under a random name until it is whole.
#[derive(Debug)]
struct Writing {
    new: NewFile,
    /// Of what its name will be.
    stem: String,
    reason: String,
    until_ns: u64,
}

/// The ring's own file, which is there as long as the recorder runs. It is for the case that there is
/// nobody left to write anything.
type Mirror = Rc<RefCell<Option<NewFile>>>;

/// Which files are kept.
#[derive(Debug)]
enum Keep {
    /// So many of the service.
    Newest(usize),
    /// As many as fit, of all services. Nobody sits at it: what it says goes to the log.
    Fitting(Rc<RefCell<Kept>>),
}

/// A flight recorder.
#[derive(Debug)]
pub(crate) struct Flight {
    ring: Ring,
    folder: Rc<Folder>,
    mirror: Mirror,
    /// Bytes of the ring's own file; `None`: it has none.
    mirrored: Option<u64>,
    keep: Keep,
    triggers: Vec<Watched>,
    targets: BTreeSet<u32>,
    /// How often the kernel has killed somebody in the targets' cgroup for want of memory.
    oom: Option<OomKills>,
    ended: BTreeSet<(u32, u64)>,
    /// By which files are named.
    service: String,
    pid: u32,
    writing: Option<Writing>,
    /// Where nobody sits at it: when the next file may begin.
    next_ns: u64,
    failed: bool,
    quiet: bool,
}

impl Flight {
    /// One as it is wanted, for these targets, the first of which runs `service`.
    pub(crate) fn new(
        wanted: &Wanted,
        folder: Option<&Path>,
        pids: &[u32],
        service: String,
        quiet: bool,
    ) -> Result<Self, Failure> {
        let folder = open_folder(folder.unwrap_or(Path::new(".")), "with --ring, -o names")?;
        let pid = pids.first().copied().unwrap_or(0);
        let size = usize::try_from(wanted.ring_size).unwrap_or(usize::MAX);
        let span_ns = u64::try_from(wanted.span.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            ring: Ring::new(span_ns, size),
            folder,
            mirror: Mirror::default(),
            mirrored: wanted.on_disk.then_some(wanted.ring_size),
            keep: Keep::Newest(wanted.keep),
            triggers: wanted.triggers.iter().map(Watched::new).collect(),
            targets: pids.iter().copied().collect(),
            oom: OomKills::of(pid),
            ended: BTreeSet::new(),
            service,
            pid,
            writing: None,
            next_ns: 0,
            failed: false,
            quiet,
        })
    }

    /// One of a service of the agent, whose ring is looked after by the caller.
    pub(crate) fn of_service(
        ring: Ring,
        folder: Rc<Folder>,
        kept: Rc<RefCell<Kept>>,
        triggers: &[Trigger],
        service: &str,
    ) -> Self {
        Self {
            ring,
            folder,
            mirror: Mirror::default(),
            mirrored: None,
            keep: Keep::Fitting(kept),
            triggers: triggers.iter().map(Watched::new).collect(),
            targets: BTreeSet::new(),
            oom: None,
            ended: BTreeSet::new(),
            service: names::of_service(service),
            pid: 0,
            writing: None,
            next_ns: 0,
            failed: false,
            quiet: true,
        }
    }

    fn is_attended(&self) -> bool {
        matches!(self.keep, Keep::Newest(_))
    }

    /// Where the recording goes.
    pub(crate) fn store(&self) -> Box<dyn Store> {
        Box::new(RingStore {
            ring: self.ring.clone(),
            mirrored: self.mirrored,
            mirror: Rc::clone(&self.mirror),
            folder: Rc::clone(&self.folder),
            stem: format!("ring-{}", self.pid),
        })
    }

    /// Stalls and hangs have become known.
    pub(crate) fn notices(&mut self, notices: &[Notice], now_ns: u64) {
        // Of a hang it was told before.
        let new = || {
            let all = notices.iter();
            all.filter(|notice| !matches!(notice, Notice::StillHangs(_)))
        };
        let long = |of: &Trigger| match of {
            Trigger::Stall(than) => new().any(|notice| is_longer(notice.length_ns(), *than)),
            _ => false,
        };
        let hangs = new().any(|notice| matches!(notice, Notice::Hang(_)));
        let mut any = false;
        for watched in &mut self.triggers {
            if long(&watched.trigger) {
                // The end of a window would tell of the same hang.
                watched.held |= hangs;
                any = true;
            }
        }
        if any {
            self.write("stall", now_ns);
        }
    }

    /// A window has ended.
    pub(crate) fn window(&mut self, window: &Snapshot, now_ns: u64) {
        let processes: Vec<&Process> = window.processes.iter().collect();
        self.processes(window, &processes, now_ns);
    }

    /// A window has ended, of whose processes these are watched.
    pub(crate) fn processes(&mut self, window: &Snapshot, processes: &[&Process], now_ns: u64) {
        let target = processes.iter().find(|one| one.pid == self.pid);
        if self.is_attended()
            && let Some(target) = target
        {
            self.service = names::of_process(target);
        }
        if !self.is_attended() && target.is_none_or(|target| target.exited.is_some()) {
            self.follow_another(processes);
        }
        let mut reasons = Vec::new();
        for process in processes {
            reasons.extend(self.end(process));
        }
        let ids: BTreeSet<(u32, u64)> = processes
            .iter()
            .map(|process| (process.pid, process.start_unix_ns))
            .collect();
        self.ended.retain(|id| ids.contains(id));
        let triggers = self.triggers.iter_mut();
        reasons.extend(triggers.filter_map(|watched| watched.window(window, processes)));
        if let Some(reason) = reasons.first() {
            self.write(reason, now_ns);
        }
        let over = |writing: &Writing| now_ns >= writing.until_ns;
        if self.writing.as_ref().is_some_and(over) {
            self.close(now_ns);
        }
    }

    /// Whether the end of a process is a reason to write.
    fn end(&mut self, process: &Process) -> Option<String> {
        let exited = process.exited?;
        if !self.ended.insert((process.pid, process.start_unix_ns)) {
            return None;
        }
        match (exited.signal, exited.code) {
            (Some(9), _) if self.oom.as_mut().is_some_and(OomKills::has_killed) => {
                Some("oom-kill".to_owned())
            }
            (Some(signal), _) if !self.is_attended() && ROUTINE.contains(&signal) => None,
            (Some(signal), _) => Some(format!("signal-{signal}")),
            // Helpers of a program end with all kinds of codes.
            (_, Some(code)) if code != 0 && self.targets.contains(&process.pid) => {
                Some(format!("exit-{code}"))
            }
            _ => None,
        }
    }

    /// The process that it was called by has ended: another one's cgroup is the one to look at.
    fn follow_another(&mut self, processes: &[&Process]) {
        let mut living = processes.iter().filter(|one| one.exited.is_none());
        if let Some(process) = living.next() {
            self.pid = process.pid;
            self.oom = OomKills::of(process.pid).or(self.oom.take());
        }
    }

    /// Something is being written out.
    pub(crate) const fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    /// Writes out what there is, and goes on for a while.
    pub(crate) fn write(&mut self, reason: &str, now_ns: u64) {
        if self.writing.is_some() || now_ns < self.next_ns {
            return;
        }
        if !self.is_attended() {
            self.next_ns = now_ns.saturating_add(PAUSE_NS);
        }
        let stem = names::stem(&self.service, self.pid);
        let shown = self.folder.shown(OsStr::new(&name(&stem, reason, 1)));
        let new = match self.begin(&stem, reason) {
            Ok(new) => new,
            Err(error) => {
                self.fail(&format!("cannot write {shown}: {}", why(&error)));
                return;
            }
        };
        if !self.is_attended() {
            log::info!("{reason}: writing {shown}");
        } else if !self.quiet {
            say(&format!("concmon-bpf: {reason}: writing {shown}\n"));
        }
        let after_ns = u64::try_from(AFTERMATH.as_nanos()).unwrap_or(u64::MAX);
        self.writing = Some(Writing {
            new,
            stem,
            reason: reason.to_owned(),
            until_ns: now_ns.saturating_add(after_ns),
        });
    }

    fn begin(&self, stem: &str, reason: &str) -> io::Result<NewFile> {
        let name = format!("{stem}-{reason}");
        let new = NewFile::make(&self.folder, OsStr::new(&name), PART)?;
        new.lock()?;
        let file = new.file().try_clone()?;
        self.ring.dump(file, &self.service, reason)?;
        Ok(new)
    }

    fn fail(&mut self, message: &str) {
        self.failed = true;
        if !self.is_attended() {
            log::warn!("{message}; no part of it is left");
            return;
        }
        say(&format!("concmon-bpf: {message}; no part of it is left\n"));
    }

    /// Ends the file that is being written, if any.
    pub(crate) fn close(&mut self, now_ns: u64) {
        let Some(mut writing) = self.writing.take() else {
            return;
        };
        let closed = self.ring.close(now_ns);
        let written = closed.and_then(|bytes| {
            let (stem, reason) = (writing.stem.clone(), writing.reason.clone());
            let name = writing
                .new
                .rename_to_free(|number| name(&stem, &reason, number))?;
            Ok((bytes, name))
        });
        match written {
            Ok((bytes, name)) => {
                let shown = self.folder.shown(OsStr::new(&name));
                let size = recording::size(bytes);
                match &self.keep {
                    Keep::Fitting(kept) => {
                        log::info!("wrote {shown}: {size}");
                        kept.borrow_mut().add(&name, bytes);
                    }
                    Keep::Newest(count) => {
                        if !self.quiet {
                            say(&format!("concmon-bpf: wrote {shown}: {size}\n"));
                        }
                        forget_old(&self.folder, &self.service, *count, &name);
                    }
                }
            }
            Err(error) => {
                let name = name(&writing.stem, &writing.reason, 1);
                let shown = self.folder.shown(OsStr::new(&name));
                self.fail(&format!("cannot write {shown}: {}", why(&error)));
            }
        }
    }

    /// The watch is over. `false`: not everything could be written.
    pub(crate) fn finish(mut self, last: &Snapshot, interrupted: bool, now_ns: u64) -> bool {
        self.window(last, now_ns);
        if interrupted {
            self.write("interrupt", now_ns);
        }
        self.close(now_ns);
        !self.failed
    }
}

/// The folder where files go; `named` says what names it.
pub(crate) fn open_folder(path: &Path, named: &str) -> Result<Rc<Folder>, Failure> {
    Folder::open(path).map_err(|error| {
        let shown = escape(&path.to_string_lossy()).into_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::new(
                code::USAGE,
                format!("{shown} is no folder: {named} the one where files go"),
            ),
            _ => FileError::io(shown, error).into(),
        }
    })
}

/// The ring, where a recording goes. Its own file is made when the header is known, so that it can be
/// read whenever this program is killed.
#[derive(Debug)]
struct RingStore {
    ring: Ring,
    mirrored: Option<u64>,
    mirror: Mirror,
    folder: Rc<Folder>,
    stem: String,
}

impl RingStore {
    fn begun(&mut self, header: &Header) -> io::Result<()> {
        if let Some(size) = self.mirrored {
            let new = NewFile::make(&self.folder, OsStr::new(&self.stem), "concmon")?;
            new.lock()?;
            self.ring
                .mirror(DiskRing::new(new.file().try_clone()?, size));
            *self.mirror.borrow_mut() = Some(new);
        }
        self.ring.begin(header)
    }

    fn shown(&self) -> String {
        match &*self.mirror.borrow() {
            Some(new) => new.shown(),
            None => self.folder.shown(OsStr::new(&self.stem)),
        }
    }
}

impl Store for RingStore {
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        self.begun(header).map_err(|error| {
            let text = format!("no room for the ring {}: {error}", self.shown());
            io::Error::new(error.kind(), text)
        })
    }

    fn chunk(&mut self, chunk: Sealed) -> io::Result<()> {
        self.ring.chunk(chunk).map_err(|error| {
            let text = format!("cannot write the ring {}: {}", self.shown(), why(&error));
            io::Error::new(error.kind(), text)
        })
    }

    fn end(&mut self, at_ns: u64) -> io::Result<()> {
        self.ring.end(at_ns)
    }

    fn bytes(&self) -> u64 {
        self.ring.bytes()
    }
}

/// The name of a dump; a number tells those apart that are of the same second.
fn name(stem: &str, reason: &str, number: u32) -> String {
    match number {
        1 => format!("{stem}-{reason}.concmon"),
        number => format!("{stem}-{number}-{reason}.concmon"),
    }
}
