//! The flight recorder: keeps the last stretch, and writes it out when something happens.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    outcome::{Failure, code, why},
    output, say,
};
use crate::{
    capture::{DiskRing, Ring, Store},
    cli::{Flight as Wanted, Trigger},
    model::{
        snapshot::{Process, Snapshot},
        timing::NewStall,
    },
    procfs::clocks::Clocks,
    views::{escape::escape, recording},
};

/// How long is written on after a trigger.
const AFTERMATH: Duration = Duration::from_secs(3);
/// Processes whose end is remembered at most.
const MAX_ENDED: usize = 4_096;

/// A condition, and whether it was true the last time: it triggers when it becomes so.
#[derive(Debug)]
struct Watched {
    trigger: Trigger,
    held: bool,
    /// For how long its condition has been true, ns.
    for_ns: u64,
}

/// A file that is being written.
#[derive(Debug)]
struct Writing {
    path: PathBuf,
    until_ns: u64,
}

/// A flight recorder.
#[derive(Debug)]
pub(super) struct Flight {
    ring: Ring,
    folder: PathBuf,
    /// The ring's own file, for the time that the recorder runs.
    mirror: Option<PathBuf>,
    keep: usize,
    triggers: Vec<Watched>,
    targets: BTreeSet<u32>,
    /// How often the kernel has killed somebody in the targets' cgroup for want of memory.
    oom: Option<OomKills>,
    ended: BTreeSet<(u32, u64)>,
    /// By which files are named.
    service: String,
    pid: u32,
    writing: Option<Writing>,
    failed: bool,
    quiet: bool,
}

impl Flight {
    /// One as it is wanted, for these targets.
    pub(super) fn new(
        wanted: &Wanted,
        folder: Option<&Path>,
        pids: &[u32],
        quiet: bool,
    ) -> Result<Self, Failure> {
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        if !folder.is_dir() {
            return Err(Failure::new(
                code::USAGE,
                format!(
                    "{} is no folder: with --ring, -o names the one where files go",
                    escape(&folder.to_string_lossy())
                ),
            ));
        }
        let pid = pids.first().copied().unwrap_or(0);
        let size = usize::try_from(wanted.ring_size).unwrap_or(usize::MAX);
        let mut mirror = None;
        let mut disk = None;
        if wanted.on_disk {
            // What a recorder before this one left behind stays.
            let path = folder.join(format!("ring-{pid}-{}.concmon", std::process::id()));
            let ring = DiskRing::new(output::create(&path)?, wanted.ring_size);
            disk = Some(ring.map_err(|error| {
                let name = escape(&path.to_string_lossy()).into_owned();
                Failure::new(
                    code::FAILURE,
                    format!("no room for the ring {name}: {error}"),
                )
            })?);
            mirror = Some(path);
        }
        let span_ns = u64::try_from(wanted.span.as_nanos()).unwrap_or(u64::MAX);
        let watched = |trigger: &Trigger| Watched {
            trigger: trigger.clone(),
            held: false,
            for_ns: 0,
        };
        Ok(Self {
            ring: Ring::new(span_ns, size, disk),
            folder,
            mirror,
            keep: wanted.keep,
            triggers: wanted.triggers.iter().map(watched).collect(),
            targets: pids.iter().copied().collect(),
            oom: OomKills::of(pid),
            ended: BTreeSet::new(),
            service: "unknown".to_owned(),
            pid,
            writing: None,
            failed: false,
            quiet,
        })
    }

    /// Where the recording goes.
    pub(super) fn store(&self) -> Box<dyn Store> {
        Box::new(self.ring.clone())
    }

    /// A stall has become known.
    pub(super) fn stalls(&mut self, stalls: &[NewStall], now_ns: u64) {
        let long = |of: &Trigger, stall: &NewStall| match of {
            Trigger::Stall(None) => true,
            Trigger::Stall(Some(than)) => u128::from(stall.stall.duration_ns) > than.as_nanos(),
            _ => false,
        };
        let any = stalls
            .iter()
            .any(|stall| self.triggers.iter().any(|of| long(&of.trigger, stall)));
        if any {
            self.write("stall", now_ns);
        }
    }

    /// A window has ended.
    pub(super) fn window(&mut self, window: &Snapshot, now_ns: u64) {
        let target = window.processes.iter().find(|one| one.pid == self.pid);
        if let Some(target) = target {
            self.service = service(target);
        }
        let mut reasons = Vec::new();
        for process in &window.processes {
            reasons.extend(self.end(process));
        }
        for watched in &mut self.triggers {
            let (holds, name) = condition(&watched.trigger, window);
            watched.for_ns = match holds {
                true => watched.for_ns.saturating_add(window.window.duration_ns),
                false => 0,
            };
            let patience = match &watched.trigger {
                Trigger::Gil { patience, .. } => patience.as_nanos(),
                _ => 0,
            };
            // Windows end a little before or after their time.
            let slack = u128::from(window.window.duration_ns / 8);
            let holds = holds && u128::from(watched.for_ns) + slack >= patience;
            if holds && !watched.held {
                reasons.push(name);
            }
            watched.held = holds;
        }
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
        if self.ended.len() >= MAX_ENDED || !self.ended.insert((process.pid, process.start_unix_ns))
        {
            return None;
        }
        match (exited.signal, exited.code) {
            (Some(9), _) if self.oom.as_ref().is_some_and(OomKills::has_killed) => {
                Some("oom-kill".to_owned())
            }
            (Some(signal), _) => Some(format!("signal-{signal}")),
            // Helpers of a program end with all kinds of codes.
            (_, Some(code)) if code != 0 && self.targets.contains(&process.pid) => {
                Some(format!("exit-{code}"))
            }
            _ => None,
        }
    }

    /// Writes out what there is, and goes on for a while.
    pub(super) fn write(&mut self, reason: &str, now_ns: u64) {
        if self.writing.is_some() {
            return;
        }
        let name = format!(
            "{}-{}-{}-{reason}.concmon",
            self.service,
            self.pid,
            recording::stamp(Clocks::now().unix_ns)
        );
        let path = self.folder.join(name);
        let shown = escape(&path.to_string_lossy()).into_owned();
        let written = output::create(&path)
            .map_err(|failure| failure.message)
            .and_then(|file| {
                let dumped = self.ring.dump(file, reason);
                dumped.map_err(|error| format!("cannot write {shown}: {}", why(&error)))
            });
        if let Err(message) = written {
            self.fail(&message);
            return;
        }
        if !self.quiet {
            say(&format!("concmon-bpf: {reason}: writing {shown}\n"));
        }
        let after_ns = u64::try_from(AFTERMATH.as_nanos()).unwrap_or(u64::MAX);
        self.writing = Some(Writing {
            path,
            until_ns: now_ns.saturating_add(after_ns),
        });
    }

    fn fail(&mut self, message: &str) {
        self.failed = true;
        say(&format!(
            "concmon-bpf: {message}; what was written before is whole, and so is the ring\n"
        ));
    }

    fn close(&mut self, now_ns: u64) {
        let Some(writing) = self.writing.take() else {
            return;
        };
        let shown = escape(&writing.path.to_string_lossy()).into_owned();
        match self.ring.close(now_ns) {
            Ok(bytes) => {
                if !self.quiet {
                    let size = recording::size(bytes);
                    say(&format!("concmon-bpf: wrote {shown}: {size}\n"));
                }
                self.forget_old();
            }
            Err(error) => self.fail(&format!("cannot write {shown}: {}", why(&error))),
        }
    }

    /// The watch is over. `false`: not everything could be written.
    pub(super) fn finish(mut self, last: &Snapshot, interrupted: bool, now_ns: u64) -> bool {
        self.window(last, now_ns);
        if interrupted {
            self.write("interrupt", now_ns);
        }
        self.close(now_ns);
        if let Some(mirror) = &self.mirror {
            // It is for the case that there is nobody left to write anything.
            let _ = std::fs::remove_file(mirror);
        }
        !self.failed
    }

    /// Deletes the oldest files of this service above the number that is kept.
    fn forget_old(&self) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else {
            return;
        };
        let mut files: Vec<(String, PathBuf)> = entries
            .filter_map(Result::ok)
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                Some((stamp(&name, &self.service)?.to_owned(), entry.path()))
            })
            .collect();
        files.sort();
        let many = files.len().saturating_sub(self.keep);
        for (_, path) in &files[..many] {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a condition is true in a window, and the reason in the name of a file.
fn condition(trigger: &Trigger, window: &Snapshot) -> (bool, String) {
    let loops = || window.processes.iter().flat_map(|process| &process.loops);
    let holds = match trigger {
        Trigger::Lag(than) => loops()
            .filter_map(|one| one.timing.as_ref()?.lag.as_ref()?.max_ns)
            .any(|lag_ns| u128::from(lag_ns) > than.as_nanos()),
        // They are told at once.
        Trigger::Stall(_) => false,
        Trigger::Gil { share, .. } => window
            .processes
            .iter()
            .filter_map(|process| process.gil.as_ref()?.utilization)
            .any(|utilization| utilization > *share),
        Trigger::Finding(rule) => window
            .processes
            .iter()
            .flat_map(|process| &process.findings)
            .any(|finding| finding.rule == rule),
    };
    let name = match trigger {
        Trigger::Lag(_) => "lag",
        Trigger::Stall(_) => "stall",
        Trigger::Gil { .. } => "gil",
        Trigger::Finding(rule) => rule,
    };
    (holds, name.to_owned())
}

/// What a process is called in names of files.
fn service(process: &Process) -> String {
    service_name(process.entry.as_deref(), &process.name)
}

fn service_name(entry: Option<&str>, process: &str) -> String {
    let module = entry.map(|entry| entry.strip_prefix("-m ").unwrap_or(entry));
    // Code that stands in the command line has no name.
    let name = module.filter(|name| !name.starts_with('-'));
    let name = name.unwrap_or(process);
    let name = name.rsplit('/').next().unwrap_or(name);
    let plain = |c: char| c.is_ascii_alphanumeric() || ['.', '_'].contains(&c);
    let mut text: String = name
        .chars()
        .take(40)
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if text.is_empty() || text.starts_with('.') {
        text.insert(0, '_');
    }
    text
}

/// The time in the name of a file that this service's recorder wrote; `None`: it is another's.
fn stamp<'a>(name: &'a str, service: &str) -> Option<&'a str> {
    let rest = name.strip_prefix(service)?.strip_prefix('-')?;
    let (pid, rest) = rest.split_once('-')?;
    let (stamp, reason) = rest.split_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (day, time) = stamp.strip_suffix('Z')?.split_once('T')?;
    let ours = digits(pid) && digits(day) && digits(time) && reason.ends_with(".concmon");
    ours.then_some(stamp)
}

/// The counter of a cgroup's kills for want of memory: `memory.events` of version 2, or
/// `memory.oom_control` of version 1 (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
#[derive(Debug)]
struct OomKills {
    path: PathBuf,
    before: u64,
}

impl OomKills {
    fn of(pid: u32) -> Option<Self> {
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let paths = groups.lines().filter_map(|line| {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/'));
            let root = Path::new("/sys/fs/cgroup");
            match controllers {
                "" => Some(root.join(group).join("memory.events")),
                "memory" => Some(root.join("memory").join(group).join("memory.oom_control")),
                _ => None,
            }
        });
        paths.into_iter().find_map(|path| {
            let before = Self::count(&path)?;
            Some(Self { path, before })
        })
    }

    fn count(path: &Path) -> Option<u64> {
        let events = std::fs::read_to_string(path).ok()?;
        let line = events
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill "))?;
        line.trim().parse().ok()
    }

    fn has_killed(&self) -> bool {
        Self::count(&self.path).is_some_and(|count| count > self.before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_by_what_they_run() {
        for (entry, name) in [
            (Some("/srv/shop/app.py"), "app.py"),
            (Some("-m uvicorn"), "uvicorn"),
            (Some("-c"), "python3.12"),
            (None, "python3.12"),
            (Some("/srv/..."), "_..."),
            (Some("/srv/"), "_"),
            (Some("my shop!"), "my_shop_"),
        ] {
            assert_eq!(service_name(entry, "python3.12"), name, "{entry:?}");
        }
    }

    #[test]
    fn only_own_files_are_old_ones() {
        let name = "app.py-12-20261125T201434.123Z-stall.concmon";
        assert_eq!(stamp(name, "app.py"), None);
        let name = "app.py-12-20261125T201434Z-stall.concmon";
        assert_eq!(stamp(name, "app.py"), Some("20261125T201434Z"));
        for other in [
            "app.py-notes.concmon",
            "app.py-12-20261125T201434Z-stall.txt",
            "web-12-20261125T201434Z-stall.concmon",
            "app.py-x-20261125T201434Z-stall.concmon",
        ] {
            assert_eq!(stamp(other, "app.py"), None, "{other}");
        }
    }
}
