//! One look at processes, without a watch: what is there now, and nothing about time.
//!
//! The shape is a snapshot's, as far as a single look can fill it.

use std::collections::BTreeMap;

use super::deadlocks::deadlocks;
use super::interpreter::{PythonColumns, thread_limits, unsupported};
use super::process_row::place;
use super::rows::{created_limit, loop_kind, loop_limits};
use super::title::Identity;
use super::window::limit;
use crate::event::{self, ProcessFact, PyHeapScan, PyLoop, PyThread, PythonFact, Tid};
use crate::schema::{Executor, Limit, Python, SCHEMA, Task};

pub use crate::schema::dump::{
    Activity, Dump, Failures, FutureKind, Gc, Gil, HeapScan, Inside, Kind, Loop, Process, Thread,
};

/// What was read of one process.
#[derive(Debug)]
pub struct Findings<'a> {
    pub process: &'a ProcessFact,
    pub executable: Option<String>,
    /// `None`: it is not Python.
    pub look: Option<&'a PythonFact>,
    /// What each thread does, as far as it could be read.
    pub activities: &'a BTreeMap<Tid, Activity>,
}

impl Findings<'_> {
    fn identity(&self) -> Identity<'_> {
        Identity {
            fact: Some(self.process),
            name: &self.process.name,
            is_python: self.look.is_some(),
            process: self.look.and_then(|look| look.process.as_ref()),
        }
    }
}

impl Dump {
    pub fn new(kind: Kind, at_unix_ns: u64, findings: &[Findings<'_>]) -> Self {
        let parent = |child: &Findings<'_>| {
            let parent = child.process.ppid;
            findings.iter().find(|one| one.process.pid == parent)
        };
        let processes = findings.iter();
        let processes = processes.map(|one| Process::of(one, parent(one), kind));
        Dump {
            schema: SCHEMA,
            kind,
            at_unix_ns,
            processes: processes.collect(),
        }
    }
}

impl HeapScan {
    fn of(scan: &PyHeapScan) -> Self {
        let failures = scan.failures.iter().map(|failures| Failures {
            kind: match failures.kind {
                event::FutureKind::Future => FutureKind::Future,
                event::FutureKind::Task => FutureKind::Task,
                event::FutureKind::Concurrent => FutureKind::Concurrent,
            },
            exception: failures.exception.clone(),
            retrieved: failures.retrieved,
            count: failures.count,
        });
        HeapScan {
            bytes: scan.bytes,
            skipped: scan.skipped.clone(),
            failures: failures.collect(),
        }
    }
}

impl Process {
    fn of(findings: &Findings<'_>, parent: Option<&Findings<'_>>, kind: Kind) -> Self {
        let Findings { process, look, .. } = *findings;
        let mut limits = Vec::new();
        let title = findings.identity().title();
        if title.is_none() {
            limits.push(limit("title", "its name is not known"));
        }
        let parent = parent.map(Findings::identity);
        let role = findings.identity().role(parent.as_ref());
        if let Err(reason) = role {
            limits.push(limit("role", reason));
        }
        for (field, missing) in [
            ("rss_bytes", process.rss_bytes.is_none()),
            ("vms_bytes", process.vms_bytes.is_none()),
            ("threads_count", process.threads.is_none()),
            ("executable", findings.executable.is_none()),
        ] {
            if missing {
                limits.push(limit(field, "could not be read from /proc"));
            }
        }
        if process.entry.is_none() {
            let reason = "the command line names neither a script nor a module";
            limits.push(limit("entry", reason));
        }
        let inside = (kind == Kind::Dump).then(|| Inside::of(findings, &mut limits));
        match look {
            None => limits.push(limit(
                "python",
                "no Python interpreter was seen in this process",
            )),
            Some(look) => {
                if !look.info.supported {
                    limits.push(limit("loops", unsupported(look).to_owned()));
                }
                let said = look.limits.iter();
                limits.extend(said.map(|(field, reason)| limit(field.clone(), reason.clone())));
            }
        }
        Process {
            pid: process.pid,
            ppid: process.ppid,
            start_unix_ns: process.start_unix_ns,
            name: process.name.clone(),
            cmdline: process.cmdline.clone(),
            entry: process.entry.clone(),
            title,
            role: role.ok(),
            place: place(&process.place),
            executable: findings.executable.clone(),
            python: look.map(|look| Python::of(&look.info)),
            rss_bytes: process.rss_bytes,
            vms_bytes: process.vms_bytes,
            threads_count: process.threads,
            inside,
            loops: look.map_or_else(Vec::new, loops),
            reads_failed: look.map_or(0, |look| look.reads_failed),
            limits,
        }
    }
}

impl Inside {
    fn of(findings: &Findings<'_>, limits: &mut Vec<Limit>) -> Self {
        let look = findings.look;
        let gil = look.and_then(|look| look.gils.first()).map(|gil| Gil {
            locked: gil.locked,
            holder_tid: gil
                .last_holder
                .filter(|_| gil.locked)
                .map(|holder| holder.0),
            switches: gil.switches,
        });
        let gc = look.and_then(|look| look.gc.as_ref()).map(|gc| Gc {
            collections: gc.generations.iter().map(|one| one.collections).collect(),
            collected: gc.generations.iter().map(|one| one.collected).collect(),
            collecting: gc.collecting,
        });
        let unread = match look {
            None => "no Python interpreter was seen in this process",
            Some(look) if !look.info.supported => unsupported(look),
            Some(_) => "could not be read",
        };
        let said = |field: &str| look.is_some_and(|look| look.limits.contains_key(field));
        match (&gil, look) {
            (None, Some(look)) if look.info.free_threaded => {
                limits.push(limit("gil", "this build has none"));
            }
            (None, _) if !said("gil") => limits.push(limit("gil", unread.to_owned())),
            (Some(_), Some(look)) if look.gils.len() > 1 => {
                let reason = format!("the main interpreter's; there are {}", look.gils.len());
                limits.push(limit("gil", reason));
            }
            _ => {}
        }
        if gil.is_some_and(|gil| gil.locked && gil.holder_tid.is_none()) && !said("gil.holder_tid")
        {
            limits.push(limit("gil.holder_tid", "could not be read"));
        }
        if gc.is_none() && !said("gc") {
            limits.push(limit("gc", unread.to_owned()));
        }
        Inside {
            gil,
            gc,
            threads: look.map_or_else(Vec::new, |look| threads(look, findings.activities)),
            executors: look.map_or_else(Vec::new, |look| {
                let executors = look.executors.iter();
                executors.map(|one| Executor::of(one, |_| None)).collect()
            }),
            deadlocks: look.map_or_else(Vec::new, deadlocks),
            heap_scan: look.and_then(|look| look.heap.as_ref()).map(HeapScan::of),
        }
    }
}

/// The main thread first, the others in the order of their ids.
fn threads(look: &PythonFact, activities: &BTreeMap<Tid, Activity>) -> Vec<Thread> {
    let mut seen: Vec<&PyThread> = look.threads.iter().collect();
    seen.sort_by_key(|thread| (!thread.main, thread.tid));
    let rows = seen.into_iter().map(|thread| {
        let columns = PythonColumns::of(thread, look, None);
        let mut limits = thread_limits(Some(&columns), Some(look), true);
        limits.extend(columns.stack_limits(Some(look)));
        let state = activities.get(&thread.tid).copied();
        if state.is_none() {
            limits.push(limit("state", "could not be read from /proc"));
        }
        Thread {
            tid: thread.tid.0,
            ident: columns.ident,
            role: columns.role(),
            name: columns.name,
            daemon: columns.daemon,
            entry: columns.entry,
            stack_size_bytes: columns.stack_size_bytes,
            state,
            waiting_for: columns.waiting_for,
            stack: columns.stack,
            limits,
        }
    });
    rows.collect()
}

/// Those that run, then one row for the tasks of each that does not.
fn loops(look: &PythonFact) -> Vec<Loop> {
    let mut tasks: BTreeMap<u64, Vec<Task>> = BTreeMap::new();
    for task in &look.tasks {
        let of_loop = tasks.entry(task.loop_id).or_default();
        of_loop.push(Task::of(task, None));
    }
    let mut rows = Vec::new();
    for seen in &look.loops {
        let tasks = tasks.remove(&seen.id).unwrap_or_default();
        rows.push(running_loop(seen, tasks, look));
    }
    rows.extend(
        tasks
            .into_values()
            .map(|tasks| stopped_loop(tasks, tasks_limit(look))),
    );
    rows
}

fn tasks_limit(look: &PythonFact) -> Option<&str> {
    look.limits.get("tasks").map(String::as_str)
}

/// How many are not done, unless there may be more.
fn pending(tasks: &[Task], cut: Option<&str>) -> (Option<u64>, Vec<Limit>) {
    let pending = tasks.iter().filter(|task| !task.is_done()).count() as u64;
    match cut {
        None => (Some(pending), Vec::new()),
        Some(reason) => (
            None,
            ["pending_tasks", "tasks"]
                .map(|field| limit(field, reason.to_owned()))
                .into(),
        ),
    }
}

fn running_loop(seen: &PyLoop, tasks: Vec<Task>, look: &PythonFact) -> Loop {
    let (pending_tasks, mut limits) = pending(&tasks, tasks_limit(look));
    limits.extend(loop_limits(
        Some(look),
        &[
            ("debug", seen.debug.is_none()),
            ("ready", seen.ready.is_none()),
            ("scheduled", seen.scheduled.is_none()),
            ("stall_threshold_ns", seen.stall_threshold_ns.is_none()),
            ("tasks_created", seen.tasks_created.is_none()),
        ],
    ));
    if seen.tasks_created.is_some() {
        limits.extend(created_limit(Some(look)));
    }
    Loop {
        tid: Some(seen.tid.0),
        kind: Some(loop_kind(seen.kind)),
        running: true,
        debug: seen.debug,
        ready: seen.ready,
        scheduled: seen.scheduled,
        pending_tasks,
        tasks_created: seen.tasks_created,
        stall_threshold_ns: seen.stall_threshold_ns,
        tasks,
        limits,
    }
}

fn stopped_loop(tasks: Vec<Task>, cut: Option<&str>) -> Loop {
    let (pending_tasks, mut limits) = pending(&tasks, cut);
    let fields = [
        "tid",
        "kind",
        "debug",
        "ready",
        "scheduled",
        "tasks_created",
        "stall_threshold_ns",
    ];
    limits.extend(fields.map(|field| limit(field, "the loop of these tasks does not run")));
    Loop {
        tid: None,
        kind: None,
        running: false,
        debug: None,
        ready: None,
        scheduled: None,
        pending_tasks,
        tasks_created: None,
        stall_threshold_ns: None,
        tasks,
        limits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{PyFrame, PyGil, PyTask, TaskState};
    use crate::model::testing::{look, py_loop, py_task, py_thread};

    fn dump(look: Option<&PythonFact>, kind: Kind) -> Process {
        let process = ProcessFact {
            pid: 100,
            ..ProcessFact::default()
        };
        let activities = BTreeMap::from([(Tid(100), Activity::Active)]);
        let findings = Findings {
            process: &process,
            executable: None,
            look,
            activities: &activities,
        };
        Dump::new(kind, 7, &[findings]).processes.remove(0)
    }

    fn reason<'a>(limits: &'a [Limit], field: &str) -> Option<&'a str> {
        let limit = limits.iter().find(|limit| limit.field == field);
        limit.map(|limit| &*limit.reason)
    }

    #[test]
    fn tasks_go_to_their_loops_and_those_of_no_running_loop_are_there() {
        let mut look = look(100, 1);
        look.loops = vec![py_loop(100, 7)];
        look.tasks = vec![
            py_task(1, 7, "a"),
            PyTask {
                state: TaskState::Done,
                ..py_task(2, 7, "b")
            },
            py_task(3, 8, "c"),
        ];
        let row = dump(Some(&look), Kind::Tasks);
        assert!(row.inside.is_none());
        let of = |one: &Loop| {
            let names: Vec<_> = one.tasks.iter().map(|task| task.name.clone()).collect();
            (one.tid, one.pending_tasks, names)
        };
        assert_eq!(row.loops.len(), 2);
        assert_eq!(
            of(&row.loops[0]),
            (Some(100), Some(1), vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(of(&row.loops[1]), (None, Some(1), vec!["c".to_owned()]));
        assert!(reason(&row.loops[1].limits, "tid").is_some());
        look.limits = [("tasks".to_owned(), "torn".to_owned())].into();
        let row = dump(Some(&look), Kind::Tasks);
        assert_eq!(row.loops[0].pending_tasks, None);
        assert_eq!(reason(&row.loops[0].limits, "pending_tasks"), Some("torn"));
    }

    #[test]
    fn what_is_null_has_a_reason() {
        for (fact, says) in [
            (None, "no Python interpreter was seen in this process"),
            (Some(look(100, 1)), "could not be read"),
        ] {
            let row = dump(fact.as_ref(), Kind::Dump);
            let inside = row.inside.as_ref().expect("a whole dump");
            assert!(inside.gil.is_none() && inside.gc.is_none());
            assert_eq!(reason(&row.limits, "gil"), Some(says));
            assert_eq!(reason(&row.limits, "gc"), Some(says));
        }
        let mut free = look(100, 1);
        free.info.free_threaded = true;
        let row = dump(Some(&free), Kind::Dump);
        assert_eq!(reason(&row.limits, "gil"), Some("this build has none"));
    }

    #[test]
    fn threads_and_the_gil() {
        let mut look = look(100, 1);
        let gil = PyGil {
            read_ns: 0,
            address: 1,
            cond: 0,
            locked: true,
            last_holder: Some(Tid(101)),
            switches: 5,
            samples: 0,
            locked_samples: 0,
        };
        look.gils = vec![gil];
        look.threads = vec![
            py_thread(99, "low"),
            PyThread {
                main: true,
                stack: vec![PyFrame {
                    function: "f".into(),
                    file: "a.py".into(),
                    line: 3,
                }],
                ..py_thread(100, "MainThread")
            },
            PyThread {
                stack_torn: true,
                ..py_thread(101, "worker")
            },
        ];
        let row = dump(Some(&look), Kind::Dump);
        let inside = row.inside.expect("a whole dump");
        let tids: Vec<u32> = inside.threads.iter().map(|thread| thread.tid).collect();
        assert_eq!(tids, [100, 99, 101]);
        let states: Vec<_> = inside.threads.iter().map(|thread| thread.state).collect();
        assert_eq!(states, [Some(Activity::Active), None, None]);
        assert!(reason(&inside.threads[1].limits, "state").is_some());
        assert_eq!(inside.threads[0].stack[0].line, 3);
        assert!(reason(&inside.threads[2].limits, "stack").is_some());
        assert_eq!(inside.gil.and_then(|gil| gil.holder_tid), Some(101));
        // Whoever had a free GIL last does not have it now.
        look.gils = vec![PyGil {
            locked: false,
            ..gil
        }];
        let inside = dump(Some(&look), Kind::Dump).inside.expect("a whole dump");
        assert_eq!(inside.gil.and_then(|gil| gil.holder_tid), None);
    }
}
