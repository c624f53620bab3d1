//! Which processes are wanted: by name, unit, container, cgroup, by whom they descend from. Whether they are Python
//! is not its matter.

use std::{collections::BTreeMap, path::Path, sync::mpsc, thread, time::Duration};

use super::rules::{Rules, Subject};
use crate::{
    cli::Selection,
    event::Pid,
    procfs::{self, cgroups, cgroups::Cgroups, clocks, containers::Containers, namespaces, now},
    targets::TargetId,
};

/// Between two readings of what containers are called, for one that is not known.
const CONTAINERS_PAUSE: Duration = Duration::from_secs(3);
/// Containers without a name whose ids are kept, at most.
const MAX_NAMELESS: usize = 4_096;

/// Which processes are wanted.
#[derive(Debug)]
pub(crate) struct Selector {
    selection: Selection,
    /// What holds beside.
    rules: Rules,
    /// Paths of the cgroups that were named.
    cgroups: Vec<String>,
    containers: Containers,
    /// When the last reading of these began, ns; `None`: there was none.
    read_ns: Option<u64>,
    /// When the one began that is over.
    learned_ns: u64,
    /// Containers of which nothing was read, and since when that is wanted, ns.
    nameless: BTreeMap<String, u64>,
    /// Who was judged last is in a container that may be read of yet.
    is_unsure: bool,
    /// Somebody waits for a reading.
    is_awaited: bool,
    /// From now on, whoever asks does not wait for files: what is not known yet counts as not wanted.
    is_hurried: bool,
    /// They are read by another thread.
    coming: Option<mpsc::Receiver<Containers>>,
    /// Processes that are no Python, whose descendants are wanted.
    above: Vec<TargetId>,
    own: u32,
}

impl Selector {
    pub(crate) fn new(selection: Selection) -> Self {
        Self {
            cgroups: selection
                .cgroups
                .iter()
                .map(|path| cgroups::path_of(path))
                .collect(),
            selection,
            rules: Rules::default(),
            containers: Containers::default(),
            read_ns: None,
            learned_ns: 0,
            nameless: BTreeMap::new(),
            is_unsure: false,
            is_awaited: false,
            is_hurried: false,
            coming: None,
            above: Vec::new(),
            own: std::process::id(),
        }
    }

    /// From now on, these hold for whoever is judged.
    pub(crate) fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// From now on, what containers are called is read by another thread; [`Self::has_learned`] tells.
    pub(crate) fn hurry(&mut self) {
        self.is_hurried = true;
    }

    /// Whoever was judged last may be wanted, once it is known what its container is called.
    pub(crate) fn is_unsure(&self) -> bool {
        self.is_unsure
    }

    /// Whether more has become known of containers since this was asked last.
    pub(crate) fn has_learned(&mut self) -> bool {
        let Some(coming) = &self.coming else {
            if self.is_awaited {
                self.read_containers();
            }
            return false;
        };
        match coming.try_recv() {
            Ok(containers) => {
                self.containers = containers;
                self.learned_ns = self.read_ns.unwrap_or(0);
            }
            Err(mpsc::TryRecvError::Empty) => return false,
            Err(mpsc::TryRecvError::Disconnected) => {}
        }
        self.coming = None;
        self.is_awaited = false;
        true
    }

    /// Descendants of `pid` are wanted, those to come as well.
    pub(crate) fn add_above(&mut self, pid: Pid) {
        self.above.push(TargetId::of(pid));
    }

    /// Somebody who appears later may be wanted.
    pub(crate) fn may_want_more(&mut self) -> bool {
        self.above.retain(|id| {
            let start_ns = now::start_boottime_ns(id.pid).unwrap_or(0);
            now::is_running(id.pid) && clocks::same_start(start_ns, id.start_boottime_ns)
        });
        self.selection.selects_later() || !self.above.is_empty()
    }

    /// Whether `pid` is wanted for what it is; those that were named by their ids are not asked for here.
    pub(crate) fn wants(&mut self, pid: Pid) -> bool {
        self.is_unsure = false;
        if pid.0 == self.own {
            return false;
        }
        let Some((name, line)) = procfs::command(pid.0) else {
            return false;
        };
        if matches(&self.selection.exclude, &name, &line) {
            return false;
        }
        let of = Subject::new(pid, name, line);
        if !self.rules.is_empty() && !self.is_allowed(&of) {
            return false;
        }
        self.selection.all
            || matches(&self.selection.names, &of.name, &of.command)
            || self.is_in_place(pid)
            || self.is_descendant(pid)
    }

    /// Whether `pid` is not to be watched, whatever else holds.
    pub(crate) fn excludes(&self, pid: Pid) -> bool {
        let exclude = &self.selection.exclude;
        let denies =
            || Subject::of(pid).is_some_and(|of| self.rules.denies(&of, &self.knows_container()));
        // Whoever starts this tool may be watched by it; its own records would be about its records.
        pid.0 == self.own
            || (!exclude.is_empty()
                && procfs::command(pid.0)
                    .is_some_and(|(name, line)| matches(exclude, &name, &line)))
            || (!self.rules.deny.is_empty() && denies())
    }

    /// Rules say what services are called.
    pub(crate) fn names_services(&self) -> bool {
        !self.rules.services.is_empty()
    }

    /// What a rule calls the service that a process is.
    pub(crate) fn service(&self, of: &Subject) -> Option<&str> {
        self.rules.service(of, &self.knows_container())
    }

    /// Whether the rules let a process be watched.
    fn is_allowed(&mut self, of: &Subject) -> bool {
        if self.rules.ask_for_containers()
            && let Some(id) = of.cgroups().container()
        {
            self.learn_container(&id);
            if self.is_unsure {
                return false;
            }
        }
        let is_container = self.knows_container();
        self.rules.allows(of, &is_container) && !self.rules.denies(of, &is_container)
    }

    /// Reads what containers are called, unless this one is known, or has no name: a reading that began after it was
    /// asked for has none.
    fn learn_container(&mut self, id: &str) {
        if self.containers.has(id) {
            self.nameless.remove(id);
            return;
        }
        if self.nameless.len() >= MAX_NAMELESS {
            self.nameless.clear();
        }
        let now_ns = clocks::monotonic_ns();
        let asked_ns = *self.nameless.entry(id.to_owned()).or_insert(now_ns);
        self.read_containers();
        self.is_unsure = self.is_hurried && self.learned_ns < asked_ns;
        self.is_awaited |= self.is_unsure;
    }

    fn knows_container(&self) -> impl Fn(&str, &str) -> bool {
        |id, named| self.containers.is(id, named)
    }

    pub(crate) fn has_exclusions(&self) -> bool {
        !self.selection.exclude.is_empty() || !self.rules.deny.is_empty()
    }

    /// Those of the ids that were given as they are inside of containers, by the ids here.
    pub(crate) fn inner_pids(&mut self, living: impl Iterator<Item = u32>) -> Vec<(u32, u32)> {
        let wanted = self.selection.pids();
        let mut found = Vec::new();
        for pid in living.map(Pid) {
            let inner = namespaces::own_id(pid).unwrap_or(pid.0);
            if wanted.binary_search(&inner).is_ok() && self.is_in_container(&Cgroups::of(pid)) {
                found.push((inner, pid.0));
            }
        }
        found
    }

    fn is_in_place(&mut self, pid: Pid) -> bool {
        let selection = &self.selection;
        let by_container = !selection.containers.is_empty() && !selection.has_inner_pids();
        if selection.units.is_empty() && self.cgroups.is_empty() && !by_container {
            return false;
        }
        let own = Cgroups::of(pid);
        selection.units.iter().any(|unit| own.is_in_unit(unit))
            || self.cgroups.iter().any(|path| own.is_below(path))
            || (by_container && self.is_in_container(&own))
    }

    fn is_in_container(&mut self, own: &Cgroups) -> bool {
        let Some(id) = own.container() else {
            return false;
        };
        self.learn_container(&id);
        let mut named = self.selection.containers.iter();
        named.any(|named| self.containers.is(&id, named))
    }

    /// What they are called: one may have been made since, but not if that was read only just.
    fn read_containers(&mut self) {
        let now_ns = clocks::monotonic_ns();
        let pause_ns = CONTAINERS_PAUSE.as_nanos() as u64;
        let is_recent = |read_ns: u64| now_ns < read_ns + pause_ns;
        if self.coming.is_some() || self.read_ns.is_some_and(is_recent) {
            return;
        }
        self.read_ns = Some(now_ns);
        if self.is_hurried {
            self.begin_reading();
            return;
        }
        self.containers = Containers::read(Path::new("/"));
        self.learned_ns = now_ns;
    }

    fn begin_reading(&mut self) {
        let (sender, coming) = mpsc::channel();
        let read = move || {
            // The watch may be over by now.
            let _ = sender.send(Containers::read(Path::new("/")));
        };
        let builder = thread::Builder::new().name("containers".to_owned());
        match builder.spawn(read) {
            Ok(_) => self.coming = Some(coming),
            Err(error) => log::debug!("names of containers are not read: {error}"),
        }
    }

    fn is_descendant(&self, pid: Pid) -> bool {
        let is_above = |pid: Pid| self.above.iter().any(|id| id.pid == pid);
        !self.above.is_empty() && now::ancestors(pid).any(is_above)
    }
}

fn matches(patterns: &[crate::cli::Pattern], name: &str, line: &str) -> bool {
    patterns
        .iter()
        .any(|pattern| pattern.is_in(name) || pattern.is_in(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was read before somebody came says nothing of where that one is.
    #[test]
    fn a_container_is_unknown_until_a_reading_that_began_after_it_came() {
        let mut selector = Selector::new(Selection::default());
        selector.hurry();
        selector.learn_container("first");
        assert!(selector.is_unsure());
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while !selector.has_learned() {
            assert!(std::time::Instant::now() < deadline, "nothing is read");
            thread::sleep(Duration::from_millis(5));
        }
        selector.learn_container("first");
        assert!(!selector.is_unsure(), "it has no name");
        selector.learn_container("second");
        assert!(selector.is_unsure(), "it was not there");
        while !selector.has_learned() {
            assert!(std::time::Instant::now() < deadline, "nobody reads again");
            thread::sleep(Duration::from_millis(5));
        }
        selector.learn_container("second");
        assert!(!selector.is_unsure());
    }
}
