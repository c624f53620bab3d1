//! What `/proc` says of a process, look by look: what changes is read anew, the rest is kept for a while.

use std::fmt::Write;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, readlinkat, statat};

use super::cgroups::{self, Cgroups};
use super::clocks::{self, Clocks};
use super::entry;
use super::environ::{self, Said};
use super::file::{self, SMALL};
use super::kubernetes;
use super::namespaces;
use super::process_context::{self, Published};
use super::shown;
use super::stat::Stat;
use super::throttling::Quota;
use super::tree::Tree;
use crate::event::{KubernetesFact, Pid, PlaceFact, ProcessFact, ThreadStat, ThrottledFact, Tid};

/// Threads described one by one, at most; [`ProcessFact::threads`] is not limited by it.
pub const MAX_THREADS: usize = 4096;
/// Bytes of a command line that are read; the rest is left out.
const MAX_CMDLINE: u64 = 64 << 10;
/// How old what is kept gets: programs change their titles, and people the limits of programs.
const KEPT_NS: u64 = 10_000_000_000;
/// What a program publishes a while after its start is looked for so often, [`KEPT_NS`] apart.
const IDENTITY_LOOKS: u32 = 3;

/// Why a process could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    #[error("process {0} does not exist any more")]
    Gone(u32),
    #[error("cannot read {path}: {source}")]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{0} is not of the form that the kernel documents")]
    Malformed(PathBuf),
}

/// An open `/proc/PID`.
pub(super) struct Dir {
    pid: u32,
    pub(super) handle: OwnedFd,
}

impl Dir {
    pub(super) fn open(pid: u32) -> Result<Self, ProcError> {
        let path = format!("/proc/{pid}");
        match file::open(CWD, &path) {
            Ok(handle) => Ok(Dir { pid, handle }),
            Err(e) if is_gone(&e) => Err(ProcError::Gone(pid)),
            Err(source) => Err(ProcError::Unreadable {
                path: path.into(),
                source,
            }),
        }
    }

    pub(super) fn stat<'a>(&self, room: &'a mut [u8; SMALL]) -> Result<Stat<'a>, ProcError> {
        let path = || PathBuf::from(format!("/proc/{}/stat", self.pid));
        match file::small(&self.handle, "stat", room) {
            Ok(line) => Stat::parse(line).ok_or_else(|| ProcError::Malformed(path())),
            Err(e) if is_gone(&e) => Err(ProcError::Gone(self.pid)),
            Err(source) => Err(ProcError::Unreadable {
                path: path(),
                source,
            }),
        }
    }

    pub(super) fn cmdline(&self) -> Vec<String> {
        let own = file::bytes(&self.handle, "cmdline", MAX_CMDLINE).unwrap_or_default();
        if !own.is_empty() {
            return split_cmdline(&own);
        }
        let path = format!("/proc/{}/cmdline", shown::shown_by(Pid(self.pid)));
        split_cmdline(&file::bytes(file::CWD, path, MAX_CMDLINE).unwrap_or_default())
    }

    fn fds_limit(&self) -> Option<u64> {
        soft_limit(&file::text(&self.handle, "limits").ok()?, "Max open files")
    }

    /// `before`: what the same program said of itself.
    fn place(&self, before: Option<Identity>, cgroups: &Cgroups) -> (PlaceFact, Identity) {
        let pid = Pid(self.pid);
        let identity = before.unwrap_or_else(|| Identity {
            said: environ::said(&self.handle),
            ..Identity::default()
        });
        let identity = identity.look(&self.handle, cgroups);
        let Identity {
            said,
            published,
            kubernetes,
            ..
        } = identity.clone();
        let place = PlaceFact {
            own_pid: namespaces::own_id(pid),
            container: cgroups.container(),
            unit: cgroups.unit(),
            folder: self.folder(),
            service: said.service,
            rule: None,
            datadog: said.datadog,
            kubernetes,
            version: published.version.or(said.version),
            environment: published.environment.or(said.environment),
        };
        (place, identity)
    }

    fn folder(&self) -> Option<String> {
        let target = readlinkat(&self.handle, "cwd", Vec::new()).ok()?;
        Some(String::from_utf8_lossy(target.as_bytes()).into_owned())
    }

    /// Mapped and resident pages, the first two fields of `statm`, in bytes.
    fn memory_bytes(&self) -> [Option<u64>; 2] {
        let mut room = [0; SMALL];
        let text = file::small(&self.handle, "statm", &mut room).unwrap_or_default();
        let mut pages = std::str::from_utf8(text).unwrap_or_default().split(' ');
        [(); 2].map(|()| {
            let pages = pages.next()?.parse::<u64>().ok()?;
            pages.checked_mul(clocks::page_bytes())
        })
    }

    /// How many files are open, which is the size of their folder since Linux 6.2.
    fn fds(&self) -> Option<u64> {
        let size = statat(&self.handle, "fd", AtFlags::empty()).ok()?.st_size;
        if size > 0 {
            return u64::try_from(size).ok();
        }
        let mut count = 0;
        let folder = file::open(&self.handle, "fd").ok()?;
        let listed = file::ids(folder, |_| {
            count += 1;
            true
        });
        listed.ok().map(|()| count)
    }

    /// The threads, all from their `stat`: CPU times, start and name. (What is in `status` besides,
    /// counts of switches, the kernel's own accounts have.)
    fn threads(&self) -> Vec<ThreadStat> {
        let mut threads = Vec::new();
        let Ok(folder) = file::open(&self.handle, "task") else {
            return threads;
        };
        let mut room = [0; SMALL];
        let mut path = String::new();
        let listed = file::ids(&folder, |tid| {
            path.clear();
            let _ = write!(path, "{tid}/stat");
            let line = file::small(&folder, path.as_str(), &mut room).unwrap_or_default();
            threads.extend(Stat::parse(line).map(|stat| ThreadStat {
                tid: Tid(tid),
                comm: stat.name(),
                start_boottime_ns: clocks::ticks_to_ns(stat.start_ticks),
                cpu_user_ns: clocks::ticks_to_ns(stat.user_ticks),
                cpu_system_ns: clocks::ticks_to_ns(stat.system_ticks),
            }));
            threads.len() < MAX_THREADS
        });
        if let Err(error) = listed {
            log::debug!("the threads of {} cannot all be listed: {error}", self.pid);
        }
        threads
    }
}

/// Where process `pid` runs; nothing is known of one that is gone.
pub fn place(pid: u32) -> PlaceFact {
    let dir = Dir::open(pid);
    let place = |dir: Dir| dir.place(None, &Cgroups::of(Pid(pid))).0;
    dir.map(place).unwrap_or_default()
}

/// What process `pid` calls itself, and what it was started to run, where its command line tells.
///
/// # Errors
/// [`ProcError`], when there is no such process or its files cannot be read.
pub fn program(pid: u32) -> Result<(String, Option<String>), ProcError> {
    let dir = Dir::open(pid)?;
    let mut room = [0; SMALL];
    Ok((dir.stat(&mut room)?.name(), entry::entry_of(&dir.cmdline())))
}

/// What process `pid` calls itself, and its command line in one; `None`: there is none, or a kernel thread.
pub fn command(pid: u32) -> Option<(String, String)> {
    let dir = Dir::open(pid).ok()?;
    let mut room = [0; SMALL];
    let stat = dir.stat(&mut room).ok()?;
    (!stat.is_kernel_thread()).then(|| (stat.name(), dir.cmdline().join(" ")))
}

/// Reads one process time and again.
#[derive(Debug)]
pub struct ProcessReader {
    pid: u32,
    kept: Option<Kept>,
}

/// What is not read at each look.
#[derive(Clone, Debug)]
struct Kept {
    /// Of which program: start, name, addresses, and whether it has ended.
    of: (u64, Vec<u8>, [u64; 2], bool),
    read_ns: u64,
    cmdline: Vec<String>,
    entry: Option<String>,
    fds_limit: Option<u64>,
    /// As the kernel tells them.
    cgroups: String,
    place: PlaceFact,
    identity: Identity,
    quotas: Vec<Quota>,
}

/// What a program says of itself, which stays what it is once it is known.
#[derive(Clone, Debug, Default)]
struct Identity {
    said: Said,
    published: Published,
    kubernetes: Option<KubernetesFact>,
    /// How often it was looked for what comes a while after the start: for what it publishes, and for its pod.
    looks: u32,
    pod_looks: u32,
}

impl Identity {
    fn look(mut self, dir: &OwnedFd, cgroups: &Cgroups) -> Self {
        if self.looks < IDENTITY_LOOKS {
            self.looks += 1;
            if self.published.is_nothing() {
                self.published = process_context::published(dir);
            }
        }
        self.look_outside(cgroups)
    }

    /// Looks only for what others say of it.
    fn look_outside(mut self, cgroups: &Cgroups) -> Self {
        if self.pod_looks < IDENTITY_LOOKS {
            self.pod_looks += 1;
            // The links that tell the container come after the folder of the pod.
            let pod = self.kubernetes.as_ref();
            if pod.is_none_or(|pod| pod.container.is_none()) {
                self.kubernetes = kubernetes::of(cgroups).or(self.kubernetes);
            }
        }
        self
    }
}

impl ProcessReader {
    pub fn new(pid: u32) -> Self {
        Self { pid, kept: None }
    }

    /// One look.
    ///
    /// `read_ns` (`CLOCK_MONOTONIC`) becomes the fact's; `clocks` turns its start to wall-clock time
    /// and should be the same reading in each look, or the start wanders with the wall clock; `tree`
    /// is this tick's scan. CPU times have the kernel's tick resolution (10 ms).
    ///
    /// # Errors
    /// [`ProcError`] when not even `/proc/PID/stat` can be read; what else cannot is `None`.
    pub fn read(
        &mut self,
        read_ns: u64,
        clocks: &Clocks,
        tree: &Tree,
    ) -> Result<ProcessFact, ProcError> {
        self.read_since(None, read_ns, clocks, tree)
    }

    /// The same of a process in which nothing has run since `ran_ns`, which was before the last look, `before`: what it
    /// alone can change is not read again.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_at_rest(
        &mut self,
        before: &ProcessFact,
        ran_ns: u64,
        read_ns: u64,
        clocks: &Clocks,
        tree: &Tree,
    ) -> Result<ProcessFact, ProcError> {
        self.read_since(Some((before, ran_ns)), read_ns, clocks, tree)
    }

    fn read_since(
        &mut self,
        before: Option<(&ProcessFact, u64)>,
        read_ns: u64,
        clocks: &Clocks,
        tree: &Tree,
    ) -> Result<ProcessFact, ProcError> {
        let dir = Dir::open(self.pid)?;
        let mut room = [0; SMALL];
        let stat = dir.stat(&mut room)?;
        let before = before.filter(|(before, _)| rests(before, &stat));
        let (before, ran_ns) = before.unzip();
        let family = tree.family(self.pid);
        let start_boottime_ns = clocks::ticks_to_ns(stat.start_ticks);
        let kept = self.kept(&dir, &stat, read_ns, ran_ns);
        let [vms_bytes, rss_bytes] = dir.memory_bytes();
        Ok(ProcessFact {
            read_ns,
            pid: dir.pid,
            ppid: stat.ppid,
            start_boottime_ns,
            start_unix_ns: clocks.unix_of_boottime(start_boottime_ns),
            name: stat.name(),
            zombie: stat.is_zombie(),
            cpu_user_ns: Some(clocks::ticks_to_ns(stat.user_ticks)),
            cpu_system_ns: Some(clocks::ticks_to_ns(stat.system_ticks)),
            threads: Some(stat.threads),
            cmdline: kept.cmdline.clone(),
            entry: kept.entry.clone(),
            fds_limit: kept.fds_limit,
            rss_bytes,
            vms_bytes,
            fds: before.map_or_else(|| dir.fds(), |before| before.fds),
            place: kept.place.clone(),
            children: family.children,
            descendants: family.descendants,
            zombies: family.zombies,
            thread_stats: match before {
                Some(before) => before.thread_stats.clone(),
                None => dir.threads(),
            },
            quotas: kept.quotas.iter().filter_map(Quota::read).collect(),
        })
    }

    /// What the CPU quotas have taken by now; `None`: it was not read before.
    pub fn quotas(&self) -> Option<Vec<ThrottledFact>> {
        let kept = self.kept.as_ref()?;
        Some(kept.quotas.iter().filter_map(Quota::read).collect())
    }

    /// What is kept, read again after an exec and when it is old; where nothing has run after `ran_ns`, nor since that was
    /// read, what others can change.
    fn kept(&mut self, dir: &Dir, stat: &Stat<'_>, read_ns: u64, ran_ns: Option<u64>) -> &Kept {
        let is_of = |kept: &Kept| {
            let (start, name, image, ended) = &kept.of;
            (*start, name.as_slice(), *image, *ended)
                == (stat.start_ticks, stat.comm, stat.image, stat.has_ended())
                // It may just be starting, its arguments not in place yet.
                && !kept.cmdline.is_empty()
        };
        let is_fresh = |kept: &Kept| read_ns.saturating_sub(kept.read_ns) < KEPT_NS;
        let stands = |kept: &Kept| ran_ns.is_some_and(|ran_ns| ran_ns < kept.read_ns);
        let before = self.kept.take();
        let kept = match before {
            Some(kept) if is_of(&kept) && is_fresh(&kept) => kept,
            Some(kept) if is_of(&kept) && stands(&kept) => {
                let text = cgroups::text(Pid(dir.pid));
                let cgroups = Cgroups::parse(&text);
                let identity = kept.identity.look_outside(&cgroups);
                Kept {
                    read_ns,
                    fds_limit: dir.fds_limit(),
                    place: PlaceFact {
                        container: cgroups.container(),
                        unit: cgroups.unit(),
                        kubernetes: identity.kubernetes.clone(),
                        ..kept.place
                    },
                    identity,
                    // No quota takes anything from who does not run.
                    quotas: match text == kept.cgroups {
                        true => kept.quotas,
                        false => Quota::of(Pid(dir.pid), &text),
                    },
                    cgroups: text,
                    ..kept
                }
            }
            before => {
                let cmdline = dir.cmdline();
                let is_same = |kept: &Kept| {
                    (kept.of.0, kept.of.2) == (stat.start_ticks, stat.image)
                        && !kept.cmdline.is_empty()
                };
                let identity = before.filter(is_same).map(|kept| kept.identity);
                let cgroups = cgroups::text(Pid(dir.pid));
                let (place, identity) = dir.place(identity, &Cgroups::parse(&cgroups));
                Kept {
                    of: (
                        stat.start_ticks,
                        stat.comm.to_vec(),
                        stat.image,
                        stat.has_ended(),
                    ),
                    read_ns,
                    entry: entry::entry_of(&cmdline),
                    cmdline,
                    fds_limit: dir.fds_limit(),
                    place,
                    identity,
                    quotas: Quota::of(Pid(dir.pid), &cgroups),
                    cgroups,
                }
            }
        };
        self.kept.insert(kept)
    }
}

/// Whether nothing that `/proc` counts has run since `before`.
fn rests(before: &ProcessFact, stat: &Stat<'_>) -> bool {
    let ticks = |ticks| Some(clocks::ticks_to_ns(ticks));
    Some(before.start_boottime_ns) == ticks(stat.start_ticks)
        && (before.cpu_user_ns, before.cpu_system_ns)
            == (ticks(stat.user_ticks), ticks(stat.system_ticks))
        && before.threads == Some(stat.threads)
        && !before.zombie
        && !stat.has_ended()
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// Arguments end in a NUL each. Programs that change their title leave a row of NULs behind:
/// empty arguments at the end are dropped.
fn split_cmdline(bytes: &[u8]) -> Vec<String> {
    let end = bytes
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    if end == 0 {
        return Vec::new();
    }
    bytes[..end]
        .split(|b| *b == 0)
        .map(|argument| String::from_utf8_lossy(argument).into_owned())
        .collect()
}

/// A soft limit, from a `limits` file; `None` when there is none.
pub(super) fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let values = file::field(limits, name)?;
    values.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests;
