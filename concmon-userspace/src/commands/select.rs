//! Who is meant: the processes that the command line selects, as they are now, or as soon as there are some.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use crate::{
    cli::Selection,
    event::Pid,
    procfs::{clocks, namespaces, now, rights::Denied, target::check_target, tree::Tree},
    python::DetectError,
    session::{
        ending,
        outcome::{Failure, code},
    },
    targets::{Rules, Selector},
    views::escape::escape,
};

/// How long an interpreter may take to start until it can be looked at.
pub(super) const STARTING: Duration = Duration::from_secs(2);
/// Between two tries to find one that starts, and between two looks for somebody who matches.
const STARTING_PAUSE: Duration = Duration::from_millis(20);
const WAITING_PAUSE: Duration = Duration::from_millis(200);
/// One look in so many is at everybody; the others are at those who have come since.
const WHOLE_LOOK: usize = 5;
/// Processes that are named in one line, at most.
const MAX_NAMED: usize = 8;

/// The processes that were found; none: a signal came while they were waited for.
#[derive(Debug)]
pub(super) struct Selected {
    /// In ascending order.
    pub(super) pids: Vec<u32>,
    /// What knows who else is wanted.
    pub(super) selector: Selector,
    /// Who was there, and was judged.
    pub(super) seen: Tree,
}

/// Finds them. `attach` looks for the interpreter of a process; it is called once for each that is found, or again
/// where its interpreter is just starting. For that of a process that was named it waits for `patience`.
///
/// # Errors
/// Nobody matches, or somebody who was named may not be read or is no Python.
pub(super) fn select(
    selection: &Selection,
    patience: Duration,
    mut attach: impl FnMut(Pid) -> Result<(), DetectError>,
) -> Result<Selected, Failure> {
    is_proc_ours()?;
    let mut search = Search {
        selector: Selector::new(selection.clone()),
        patience,
        found: BTreeSet::new(),
        attach: &mut attach,
        denied: None,
        no_python: 0,
        seen: Tree::default(),
        looks: 0,
        ours: now::ancestors(Pid(std::process::id())).collect(),
    };
    let mut has_said = false;
    loop {
        match search.once(selection) {
            Ok(()) => break,
            // Once somebody has come, it goes on with whom there is.
            Err(failure) if !selection.wait || failure.code != code::NO_TARGET => {
                return Err(failure);
            }
            Err(_) if !search.found.is_empty() => break,
            Err(_) => {}
        }
        if !has_said {
            has_said = true;
            ending::note()?;
            log::warn!(
                "waiting for a process that matches {}",
                escape(&selection.words())
            );
        }
        if ending::asked().is_some() {
            break;
        }
        thread::sleep(WAITING_PAUSE);
    }
    Ok(Selected {
        pids: search.found.into_iter().collect(),
        selector: search.selector,
        seen: search.seen,
    })
}

/// Every Python process that is there now and that the rules let be watched; none is no failure.
///
/// # Errors
/// `/proc` cannot be read, or is that of another namespace.
pub(super) fn present(
    rules: Rules,
    mut attach: impl FnMut(Pid) -> Result<(), DetectError>,
) -> Result<Selected, Failure> {
    is_proc_ours()?;
    let selection = Selection {
        all: true,
        ..Selection::default()
    };
    let mut selector = Selector::new(selection);
    selector.set_rules(rules);
    let seen = Tree::scan()?;
    let mut pids = Vec::new();
    for &pid in seen.living().keys() {
        // One that is just starting is found a moment later.
        if selector.wants(Pid(pid)) && attach(Pid(pid)).is_ok() {
            pids.push(pid);
        }
    }
    Ok(Selected {
        pids,
        selector,
        seen,
    })
}

fn is_proc_ours() -> Result<(), Failure> {
    if !namespaces::is_proc_ours() {
        let message = "/proc shows another PID namespace than the one that this program is in: mount its own \
                       (unshare --mount-proc), or enter both (nsenter --pid --mount)";
        return Err(Failure::new(code::UNSUPPORTED, message));
    }
    Ok(())
}

struct Search<'a> {
    selector: Selector,
    patience: Duration,
    found: BTreeSet<u32>,
    attach: &'a mut dyn FnMut(Pid) -> Result<(), DetectError>,
    /// Somebody who matches may not be read.
    denied: Option<Pid>,
    /// How many match that are no Python.
    no_python: usize,
    /// Our own ancestors.
    ours: Vec<Pid>,
    seen: Tree,
    /// For somebody who matches, so far.
    looks: usize,
}

impl Search<'_> {
    fn once(&mut self, selection: &Selection) -> Result<(), Failure> {
        let tree = Tree::scan()?;
        (self.denied, self.no_python) = (None, 0);
        if selection.has_inner_pids() {
            self.inner(selection, &tree)?;
        } else {
            for pid in selection.pids() {
                self.named(pid, &tree)?;
            }
        }
        if selection.selects_later() {
            let is_whole = self.looks.is_multiple_of(WHOLE_LOOK);
            let before = if is_whole {
                Tree::default()
            } else {
                std::mem::take(&mut self.seen)
            };
            for (&pid, mark) in tree.living() {
                let is_new = before.living().get(&pid) != Some(mark);
                if is_new && !self.found.contains(&pid) && self.selector.wants(Pid(pid)) {
                    self.matching(Pid(pid));
                }
            }
        }
        self.seen = tree;
        self.looks += 1;
        match self.found.is_empty() {
            true => Err(self.nobody(selection)),
            false => Ok(()),
        }
    }

    /// A process that the user has named.
    fn named(&mut self, pid: u32, tree: &Tree) -> Result<(), Failure> {
        let target = check_target(pid).map_err(|error| Failure::from_target(&error))?;
        match self.attached(Pid(pid), self.patience) {
            // A watch goes on with the search.
            Ok(()) | Err(DetectError::Starting) => {
                self.found.insert(pid);
                Ok(())
            }
            Err(error @ DetectError::NotPython) => {
                let below: Vec<u32> = self.descendants(pid, tree);
                if below.is_empty() {
                    let mut failure = Failure::from_detect(pid, &target.name, &error);
                    if !tree.descendants(pid).is_empty() {
                        failure.message += ", and none of its descendants is";
                    }
                    return Err(failure);
                }
                log::warn!(
                    "process {pid} ({}) is not Python: watching its Python descendants {}",
                    escape(&target.name),
                    list(&below)
                );
                self.found.extend(below);
                self.selector.add_above(Pid(pid));
                Ok(())
            }
            Err(error) => Err(Failure::from_detect(pid, &target.name, &error)),
        }
    }

    fn descendants(&mut self, pid: u32, tree: &Tree) -> Vec<u32> {
        let mut all = tree.descendants(pid);
        all.retain(|pid| {
            !self.selector.excludes(Pid(*pid)) && self.attached(Pid(*pid), STARTING).is_ok()
        });
        all.into_iter().collect()
    }

    /// The processes of containers that have these ids there.
    fn inner(&mut self, selection: &Selection, tree: &Tree) -> Result<(), Failure> {
        let inner = self.selector.inner_pids(tree.living().keys().copied());
        for wanted in selection.pids() {
            let here: Vec<u32> = inner
                .iter()
                .filter(|(inner, _)| *inner == wanted)
                .map(|(_, pid)| *pid)
                .collect();
            if here.is_empty() {
                let message = format!(
                    "there is no process {wanted} in {}",
                    escape(&names("container", &selection.containers))
                );
                return Err(Failure::new(code::NO_TARGET, message));
            }
            for pid in here {
                self.named(pid, tree)?;
            }
        }
        Ok(())
    }

    /// A process that is what was asked for, if it is Python.
    fn matching(&mut self, pid: Pid) {
        let started_ns = now::start_boottime_ns(pid).unwrap_or(0);
        let age_ns = clocks::Clocks::now().boottime_ns.saturating_sub(started_ns);
        let starting = STARTING.saturating_sub(Duration::from_nanos(age_ns));
        match self.attached(pid, starting) {
            Ok(()) => drop(self.found.insert(pid.0)),
            Err(DetectError::NoPermission) => self.denied = Some(pid),
            // Whoever started this program has its command line in their own.
            Err(_) if self.ours.contains(&pid) => {}
            Err(_) => self.no_python += 1,
        }
    }

    /// Looks for an interpreter; one that is just starting is waited for.
    fn attached(&mut self, pid: Pid, starting: Duration) -> Result<(), DetectError> {
        let deadline = Instant::now() + starting;
        loop {
            match (self.attach)(pid) {
                Err(DetectError::Starting) if Instant::now() < deadline => {
                    thread::sleep(STARTING_PAUSE);
                }
                other => return other,
            }
        }
    }

    fn nobody(&self, selection: &Selection) -> Failure {
        if let Some(pid) = self.denied {
            let denied = Denied::reading(pid.0, "denied reading its memory");
            return Failure::new(code::PERMISSION, denied.to_string());
        }
        let words = selection.words();
        let tip = match (self.no_python, selection) {
            (0, Selection { units, .. }) if !units.is_empty() => {
                "; systemctl status shows what runs in a unit"
            }
            (0, Selection { containers, .. }) if !containers.is_empty() => {
                "; it takes a name or the begin of an id, as in `docker ps`, `podman ps` or `crictl ps`"
            }
            (0, Selection { cgroups, .. }) if !cgroups.is_empty() => {
                "; /proc/PID/cgroup shows where a process is"
            }
            (0, Selection { names, .. }) if !names.is_empty() => {
                "; it is compared with names and whole command lines"
            }
            _ => "",
        };
        let match_but = match self.no_python {
            0 => String::new(),
            1 => " (one process does, and is not Python)".to_owned(),
            count => format!(" ({count} processes do, and are not Python)"),
        };
        let message =
            format!("no Python process matches {words}{match_but}{tip}; --wait waits for one");
        Failure::new(code::NO_TARGET, escape(&message))
    }
}

/// "1, 2, 3", and how many more.
fn list(pids: &[u32]) -> String {
    let first: Vec<String> = pids.iter().take(MAX_NAMED).map(u32::to_string).collect();
    match pids.len().saturating_sub(MAX_NAMED) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}

/// "container a", "containers a and b".
fn names(what: &str, names: &[String]) -> String {
    match names {
        [one] => format!("{what} {one}"),
        all => format!("{what}s {}", all.join(" and ")),
    }
}
