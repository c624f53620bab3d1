//! What people call a process, and what it is for: from `/proc` and from what `multiprocessing` knows.

use crate::event::{ProcessFact, PyProcess};
use crate::schema::ProcessRole;

/// The name of a process that `multiprocessing` has not made.
const MAIN: &str = "MainProcess";
/// Modules whose functions say nothing about the work of a process: they take it from a queue.
const POOLS: [&str; 4] = ["multiprocessing.", "concurrent.", "billiard.", "joblib."];

/// Packages that have the modules of [`Helper`], by themselves or inside of others.
const PACKAGES: [&str; 3] = ["multiprocessing", "billiard", "loky.backend"];

/// What the command line of a process of `multiprocessing` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Helper {
    /// It cleans up what the others leave behind.
    ResourceTracker,
    /// It makes the others. These keep its command line.
    ForkServer,
    /// It was started to be one of them.
    Spawned,
}

impl Helper {
    /// `Lib/multiprocessing/{resource_tracker,semaphore_tracker,forkserver,spawn}.py` of CPython 3.8 to
    /// 3.15, and loky's and billiard's copies of them.
    fn of(cmdline: &[String]) -> Option<Self> {
        let mut words = cmdline.iter().skip(1);
        let code = words.find_map(|word| {
            let code = word.strip_prefix("from ")?;
            code.split_once(" import ").map(|(module, _)| module)
        })?;
        let (package, module) = code.rsplit_once('.')?;
        if !PACKAGES
            .iter()
            .any(|of| package == *of || package.ends_with(&format!(".{of}")))
        {
            return None;
        }
        match module {
            "resource_tracker" | "semaphore_tracker" => Some(Self::ResourceTracker),
            "forkserver" => Some(Self::ForkServer),
            "spawn" => Some(Self::Spawned),
            _ => None,
        }
    }
}

/// Who a process is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Identity<'a> {
    /// Of the program that it runs now.
    pub(super) fact: Option<&'a ProcessFact>,
    /// The kernel's name for it.
    pub(super) name: &'a str,
    pub(super) is_python: bool,
    /// What `multiprocessing` knows of it.
    pub(super) process: Option<&'a PyProcess>,
}

impl Identity<'_> {
    fn cmdline(&self) -> &[String] {
        self.fact.map_or(&[], |fact| &fact.cmdline)
    }

    /// One that `multiprocessing` has made.
    fn child(&self) -> Option<&PyProcess> {
        self.process
            .filter(|process| process.name != MAIN && !process.name.is_empty())
    }

    fn helper(&self) -> Option<Helper> {
        Helper::of(self.cmdline()).filter(|_| self.child().is_none())
    }

    /// What people call it; `None`: nothing of it is known.
    pub(super) fn title(&self) -> Option<String> {
        if let Some(process) = self.child() {
            return Some(match own_target(process) {
                Some(target) => format!("{} ({target})", process.name),
                None => process.name.clone(),
            });
        }
        match self.helper() {
            Some(Helper::ResourceTracker) => return Some("resource tracker".to_owned()),
            Some(Helper::ForkServer) => return Some("forkserver".to_owned()),
            Some(Helper::Spawned) => return Some("multiprocessing child".to_owned()),
            None => {}
        }
        let entry = self.fact.and_then(|fact| fact.entry.as_deref());
        let entry = entry.filter(|entry| !entry.is_empty());
        let title = match (self.cmdline(), entry) {
            // A title takes the place of the arguments.
            ([title], None) => Some(title.trim()),
            ([program, ..], None) if program.contains(' ') => Some(program.trim()),
            (_, entry) => entry.map(last_part),
        };
        let title = title.filter(|title| !title.is_empty());
        let title = title.unwrap_or(self.name);
        (!title.is_empty()).then(|| title.to_owned())
    }

    /// What it is for, or why that is not said. `parent`: of a watched process.
    pub(super) fn role(&self, parent: Option<&Self>) -> Result<ProcessRole, &'static str> {
        if !self.is_python {
            return Err("no Python interpreter was seen in this process");
        }
        if let Some(Helper::ResourceTracker | Helper::ForkServer) = self.helper()
            && parent.is_none_or(|parent| Helper::of(parent.cmdline()) != self.helper())
        {
            return Err("it serves the others of its program only");
        }
        let entry = |of: &Self| of.fact.and_then(|fact| fact.entry.clone());
        if self.child().is_none() && self.cmdline().is_empty() {
            return Err("its command line is not known");
        }
        let is_same = |parent: &Self| match entry(self).as_deref() {
            // The word says nothing of what runs.
            Some("-c") => parent.cmdline() == self.cmdline(),
            own => entry(parent).as_deref() == own,
        };
        let same_program = parent.is_some_and(|parent| parent.is_python && is_same(parent));
        let made = self.child().is_some() || Helper::of(self.cmdline()).is_some();
        Ok(match made || same_program {
            true => ProcessRole::Worker,
            false => ProcessRole::Main,
        })
    }
}

/// What a process runs, where its name does not tell: `consume` of `SpawnProcess-1`.
fn own_target(process: &PyProcess) -> Option<&str> {
    let stem = process
        .name
        .trim_end_matches(|c: char| c.is_ascii_digit() || c == ':');
    let target = process.target.as_deref()?;
    if !stem.ends_with("Process-") || POOLS.iter().any(|pool| target.starts_with(pool)) {
        return None;
    }
    let main = ["__mp_main__.", "__main__."];
    let short = main.iter().find_map(|main| target.strip_prefix(main));
    Some(short.unwrap_or(target))
}

/// `app.py` of `/srv/app.py`, `-m http.server` as it is.
fn last_part(entry: &str) -> &str {
    let path = entry.trim_end_matches('/');
    path.rsplit('/').next().unwrap_or(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fact(words: &[&str], entry: Option<&str>) -> ProcessFact {
        ProcessFact {
            cmdline: words.iter().map(|word| (*word).to_owned()).collect(),
            entry: entry.map(str::to_owned),
            ..ProcessFact::default()
        }
    }

    fn process(name: &str, target: Option<&str>) -> PyProcess {
        PyProcess {
            name: name.to_owned(),
            target: target.map(str::to_owned),
        }
    }

    fn identity<'a>(fact: &'a ProcessFact, process: Option<&'a PyProcess>) -> Identity<'a> {
        Identity {
            fact: Some(fact),
            name: "python3",
            is_python: true,
            process,
        }
    }

    const SPAWN: &str = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=6)";
    const TRACKER: &str = "from multiprocessing.resource_tracker import main;main(5)";
    const SERVER: &str = "from multiprocessing.forkserver import main; main(5, 7, ['__main__'])";

    #[test]
    fn titles() {
        for (words, entry, process, title) in [
            (
                &["python", "/srv/app.py"][..],
                Some("/srv/app.py"),
                None,
                "app.py",
            ),
            (
                &["python", "-m", "http.server"],
                Some("-m http.server"),
                None,
                "-m http.server",
            ),
            (
                &["gunicorn: worker [web:app]"],
                None,
                None,
                "gunicorn: worker [web:app]",
            ),
            (
                &["[celeryd: celery@host:MainProcess] -active- (worker)", ""],
                None,
                Some(process("MainProcess", None)),
                "[celeryd: celery@host:MainProcess] -active- (worker)",
            ),
            (&["uwsgi", "--ini", "x.ini"], None, None, "python3"),
            (
                &["python", "-c", TRACKER],
                Some("-c"),
                None,
                "resource tracker",
            ),
            (
                &["python", "-B", "-c", SERVER],
                Some("-c"),
                None,
                "forkserver",
            ),
            (
                &["python", "-c", SPAWN, "--multiprocessing-fork"],
                Some("-c"),
                None,
                "multiprocessing child",
            ),
            (
                &["python", "-c", SPAWN, "--multiprocessing-fork"],
                Some("-c"),
                Some(process("SpawnProcess-1:2", Some("__mp_main__.consume"))),
                "SpawnProcess-1:2 (consume)",
            ),
            (
                &["python", "-c", SERVER],
                Some("-c"),
                Some(process("consumer-0", Some("__main__.consume"))),
                "consumer-0",
            ),
            (
                &["python", "app.py"],
                Some("app.py"),
                Some(process(
                    "ForkPoolWorker-3",
                    Some("multiprocessing.pool.worker"),
                )),
                "ForkPoolWorker-3",
            ),
            (
                &["python", "app.py"],
                Some("app.py"),
                Some(process(
                    "ForkProcess-3",
                    Some("concurrent.futures.process._process_worker"),
                )),
                "ForkProcess-3",
            ),
            (
                &["python", "app.py"],
                Some("app.py"),
                Some(process("MainProcess", None)),
                "app.py",
            ),
            (&[], None, None, "python3"),
        ] {
            let fact = fact(words, entry);
            let identity = identity(&fact, process.as_ref());
            assert_eq!(identity.title().as_deref(), Some(title), "{words:?}");
        }
    }

    #[test]
    fn roles() {
        let app = fact(&["python", "app.py"], Some("app.py"));
        let other = fact(&["python", "job.py"], Some("job.py"));
        let tracker = fact(&["python", "-c", TRACKER], Some("-c"));
        let server = fact(&["python", "-c", SERVER], Some("-c"));
        let named = process("ForkServerProcess-1", None);
        let main = process("MainProcess", None);
        let [app, other, tracker] = [&app, &other, &tracker].map(|fact| identity(fact, None));
        let sibling = identity(&server, Some(&main));
        let made = identity(&server, Some(&named));
        assert_eq!(app.role(None), Ok(ProcessRole::Main));
        assert_eq!(app.role(Some(&app)), Ok(ProcessRole::Worker));
        assert_eq!(other.role(Some(&app)), Ok(ProcessRole::Main));
        assert!(tracker.role(Some(&app)).is_err());
        assert!(sibling.role(Some(&app)).is_err());
        // Before it was read, a child of a forkserver looks as its parent does.
        assert_eq!(sibling.role(Some(&sibling)), Ok(ProcessRole::Worker));
        assert_eq!(made.role(Some(&sibling)), Ok(ProcessRole::Worker));
        let shell = Identity {
            is_python: false,
            ..other
        };
        assert!(shell.role(Some(&app)).is_err());
        assert_eq!(app.role(Some(&shell)), Ok(ProcessRole::Main));
    }
}
