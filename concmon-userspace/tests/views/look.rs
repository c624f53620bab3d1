//! `dump` and `tasks`, from what a look found to what a user sees.

use std::collections::BTreeMap;

use concmon::cli::{Arrangement, GroupBy};
use concmon::event::*;
use concmon::model::dump::{Activity, Dump, Findings, Kind};
use concmon::views::escape::is_hostile;
use concmon::views::{Form, Paint, dump, json, tasks};
use serde_json::Value;

const GROUPS: [GroupBy; 3] = [GroupBy::Await, GroupBy::Coroutine, GroupBy::Name];

fn frame(function: &str, file: &str, line: u32) -> PyFrame {
    PyFrame {
        function: function.into(),
        file: file.into(),
        line,
    }
}

fn thread(tid: u32, name: &str, stack: &[(&str, u32)]) -> PyThread {
    PyThread {
        tid: Tid(tid),
        ident: 0x7f00_0000_0000 + u64::from(tid),
        name: Some(name.to_owned()),
        daemon: Some(false),
        entry: Some("app.work".to_owned()),
        stack_size_bytes: Some(8 << 20),
        main: tid == 4242,
        pool: false,
        stack: stack
            .iter()
            .map(|(function, line)| frame(function, "/srv/app/app.py", *line))
            .collect(),
        stack_torn: false,
        waiting_for: None,
    }
}

fn wait(kind: WaitKind, purpose: WaitPurpose, owner: Option<u32>) -> Option<PyWait> {
    Some(PyWait {
        kind,
        purpose,
        object: Some(0x7f3a_0000_1000),
        owner: owner.map(Tid),
        futex: 0x7f3a_0000_1010,
        at_statement: false,
        holders: Vec::new(),
        inferred: false,
        owner_gone: false,
    })
}

/// A task whose id is `number`, and that those with the numbers `awaited_by` await.
fn task(number: u64, name: &str, chain: &[(&str, u32)], awaited_by: &[u64]) -> PyTask {
    PyTask {
        id: number,
        loop_id: 1,
        name: name.to_owned(),
        coroutine: chain.first().map_or("main", |(first, _)| first).to_owned(),
        coroutine_id: number,
        state: TaskState::Pending,
        awaiting: chain
            .iter()
            .map(|(function, line)| frame(function, "/srv/app/app.py", *line))
            .collect(),
        waits_for: None,
        timeout_ns: None,
        in_timeout: false,
        client_port: None,
        hosts: Vec::new(),
        holds: Vec::new(),
        awaited_by: awaited_by.to_vec(),
        cancel_requested: false,
        exception: None,
        retrieved: None,
        context: BTreeMap::new(),
    }
}

fn waits_for(kind: &str, object: Option<u64>) -> Option<TaskWait> {
    Some(TaskWait {
        kind: kind.to_owned(),
        object,
    })
}

fn process(pid: u32, words: &[&str]) -> ProcessFact {
    ProcessFact {
        pid,
        ppid: 1,
        start_unix_ns: 1_767_323_045_000_000_000,
        name: "python3".to_owned(),
        cmdline: words.iter().map(|word| (*word).to_owned()).collect(),
        entry: words.get(1).map(|word| (*word).to_owned()),
        rss_bytes: Some(46_240_000),
        threads: Some(6),
        ..ProcessFact::default()
    }
}

fn look() -> PythonFact {
    let info = PythonInfo {
        implementation: "cpython".to_owned(),
        version: Some("3.13.0".to_owned()),
        free_threaded: false,
        supported: true,
        reason: None,
    };
    PythonFact {
        loops: vec![PyLoop {
            tid: Tid(4242),
            id: 1,
            kind: LoopKind::Asyncio,
            ready: Some(3),
            scheduled: Some(1),
            stall_threshold_ns: Some(100_000_000),
            debug: Some(true),
            tasks_created: Some(21),
            queue: None,
        }],
        ..PythonFact::new(Pid(4242), 1, info)
    }
}

/// A service with something of everything.
fn service() -> PythonFact {
    let mut look = look();
    look.gils = vec![PyGil {
        read_ns: 0,
        address: 0x1000,
        cond: 0x1020,
        locked: true,
        last_holder: Some(Tid(4243)),
        switches: 90_210,
        samples: 0,
        locked_samples: 0,
    }];
    look.gc = Some(PyGc {
        generations: [(120, 3400), (11, 20), (1, 7)]
            .map(|(collections, collected)| PyGeneration {
                collections,
                collected,
                uncollectable: 0,
            })
            .to_vec(),
        collecting: true,
        generation: None,
    });
    look.threads = vec![
        thread(4243, "hog", &[("spin", 7), ("Hog.run", 4)]),
        PyThread {
            waiting_for: wait(WaitKind::Lock, WaitPurpose::Contended, Some(4243)),
            ..thread(4244, "wants", &[("wants", 12)])
        },
        PyThread {
            waiting_for: wait(WaitKind::SimpleQueue, WaitPurpose::Work, None),
            ..thread(4245, "crunch_0", &[("_worker", 90)])
        },
        PyThread {
            waiting_for: wait(WaitKind::Join, WaitPurpose::Join, Some(4243)),
            stack_torn: true,
            name: None,
            ..thread(4246, "", &[])
        },
        thread(4242, "MainThread", &[("select", 0), ("main", 88)]),
    ];
    look.executors = vec![
        PyExecutor {
            id: 5,
            queue: 0,
            kind: ExecutorKind::Thread,
            name_prefix: Some("crunch".to_owned()),
            workers: 2,
            workers_idle: Some(1),
            max_workers: Some(4),
            queued: Some(3),
            running: vec![PyWork {
                tid: Some(Tid(4243)),
                function: Some("app.resize".to_owned()),
                item: 1,
                future: 0,
            }],
            queued_futures: Vec::new(),
            borrowers: Vec::new(),
        },
        PyExecutor {
            id: 6,
            queue: 0,
            kind: ExecutorKind::Process,
            name_prefix: None,
            workers: 1,
            workers_idle: None,
            max_workers: None,
            queued: None,
            running: Vec::new(),
            queued_futures: Vec::new(),
            borrowers: Vec::new(),
        },
    ];
    let mut last = task(13, "Task-13", &[("boom", 5)], &[]);
    last.state = TaskState::Done;
    last.awaiting.clear();
    (last.exception, last.retrieved) = (Some("ValueError".to_owned()), Some(false));
    look.tasks = vec![
        task(
            1,
            "Task-1",
            &[("main", 88), ("TaskGroup.__aexit__", 75)],
            &[],
        ),
        PyTask {
            context: BTreeMap::from([("request_id".to_owned(), "r-17".to_owned())]),
            waits_for: waits_for("sleep", None),
            ..task(10, "Task-10", &[("handle", 20), ("query", 31)], &[1])
        },
        // Awaited by two: shown once.
        PyTask {
            waits_for: waits_for("Queue", Some(0x7f00)),
            ..task(3, "shared", &[("Queue.get", 186)], &[1, 2])
        },
        PyTask {
            cancel_requested: true,
            ..task(2, "Task-2", &[("handle", 22)], &[1])
        },
        PyTask {
            state: TaskState::Running,
            awaiting: Vec::new(),
            ..task(4, "Task-4", &[("busy", 9)], &[])
        },
        // In a circle, with something that hangs below.
        task(20, "A", &[("ping", 50)], &[21]),
        task(21, "B", &[("pong", 54)], &[20]),
        task(19, "0-below", &[("below", 60)], &[21]),
        last,
        // Awaits itself, if memory says so; and is awaited by what is not there.
        task(30, "self", &[("me", 70)], &[30, 30]),
        task(31, "orphan", &[("alone", 80)], &[0xdead]),
        PyTask {
            loop_id: 2,
            ..task(40, "elsewhere", &[("serve", 1)], &[])
        },
    ];
    look
}

fn found(kind: Kind, look: Option<&PythonFact>) -> Dump {
    let process = process(4242, &["python3", "/srv/app/app.py", "--port", "80"]);
    let activities = [4242, 4244, 4245]
        .map(|tid| (Tid(tid), Activity::Idle))
        .into_iter()
        .chain([(Tid(4243), Activity::Active)])
        .collect();
    let findings = Findings {
        process: &process,
        executable: Some("/usr/bin/python3.13".to_owned()),
        look,
        activities: &activities,
    };
    Dump::new(kind, 1_767_323_045_678_000_000, &[findings])
}

fn text_of(dump: &Dump) -> String {
    let mut out = Vec::new();
    dump::write(dump, Form::new(Paint::Plain, None, false), &mut out)
        .expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn tasks_of(dump: &Dump, arrangement: Arrangement) -> String {
    let mut out = Vec::new();
    tasks::write(
        dump,
        arrangement,
        Form::new(Paint::Plain, None, false),
        &mut out,
    )
    .expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

/// `all`: equal trees are shown one by one.
fn tree_of(dump: &Dump, all: bool) -> String {
    let mut out = Vec::new();
    let form = Form::new(Paint::Plain, None, all);
    tasks::write(dump, Arrangement::Tree, form, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn json_of(dump: &Dump) -> Value {
    let mut out = Vec::new();
    json::write(dump, &mut out).expect("a Vec takes everything");
    serde_json::from_slice(&out).expect("JSON")
}

#[test]
fn a_whole_dump() {
    insta::assert_snapshot!(text_of(&found(Kind::Dump, Some(&service()))));
}

#[test]
fn what_is_not_python_or_cannot_be_read() {
    insta::assert_snapshot!("dump_not_python", text_of(&found(Kind::Dump, None)));
    let mut look = look();
    look.loops.clear();
    look.info = PythonInfo {
        implementation: "pypy".to_owned(),
        version: Some("3.10.14".to_owned()),
        free_threaded: false,
        supported: false,
        reason: Some("PyPy is not read".to_owned()),
    };
    let dump = found(Kind::Dump, Some(&look));
    insta::assert_snapshot!("dump_unsupported", text_of(&dump));
}

#[test]
fn tasks_in_each_arrangement() {
    let dump = found(Kind::Tasks, Some(&service()));
    insta::assert_snapshot!("tasks_table", tasks_of(&dump, Arrangement::Table));
    insta::assert_snapshot!("tasks_tree", tasks_of(&dump, Arrangement::Tree));
    let mut crowd = look();
    for number in 0..10_000 {
        let (name, chain) = match number % 4 {
            0 => (format!("worker-{number}"), ("fetch", 10)),
            _ => (format!("Task-{}", number + 1), ("handle", 20)),
        };
        let mut one = task(number, &name, &[chain, ("sleep", 718)], &[]);
        one.awaiting[1].file = "/usr/lib/python3.13/asyncio/tasks.py".into();
        one.waits_for = waits_for(if number % 5 == 0 { "Lock" } else { "sleep" }, None);
        if number == 17 {
            (one.state, one.awaiting, one.waits_for) = (TaskState::Running, Vec::new(), None);
        }
        crowd.tasks.push(one);
    }
    // Of trio's frames, those below every wait say nothing.
    let mut nursery = task(
        10_000,
        "nursery",
        &[("serve", 5), ("NurseryManager", 9)],
        &[],
    );
    nursery.awaiting[1].file = "/usr/lib/python3/trio/_core/_run.py".into();
    nursery.waits_for = waits_for("Nursery", None);
    crowd.tasks.push(nursery);
    let crowd = found(Kind::Tasks, Some(&crowd));
    for by in GROUPS {
        let text = tasks_of(&crowd, Arrangement::Groups(by));
        insta::assert_snapshot!(format!("tasks_by_{by:?}").to_lowercase(), text);
    }
}

/// The published names; renaming one breaks other people's scripts.
#[test]
fn keys_are_those_of_the_contract() {
    let dump = json_of(&found(Kind::Dump, Some(&service())));
    let tasks = json_of(&found(Kind::Tasks, Some(&service())));
    let about = "pid ppid start_unix_ns name cmdline entry title role pid_inside container_id unit executable python rss_bytes vms_bytes \
                 threads_count loops reads_failed limits";
    for (from, pointer, keys) in [
        (&dump, "", "schema type at_unix_ns processes"),
        (
            &dump,
            "/processes/0",
            &*format!("{about} gil gc threads executors deadlocks"),
        ),
        (&tasks, "/processes/0", about),
        (&dump, "/processes/0/gil", "locked holder_tid switches"),
        (&dump, "/processes/0/gc", "collections collected collecting"),
        (
            &dump,
            "/processes/0/threads/0",
            "tid ident name role daemon entry stack_size_bytes state waiting_for stack limits",
        ),
        (
            &dump,
            "/processes/0/threads/2/waiting_for",
            "kind purpose object owner_tid",
        ),
        (
            &dump,
            "/processes/0/threads/0/stack/0",
            "function file line",
        ),
        (
            &dump,
            "/processes/0/executors/0",
            "kind name_prefix workers workers_idle max_workers queued running unfinished \
             submitted finished failed unretrieved limits",
        ),
        (&dump, "/processes/0/executors/0/running/0", "tid function"),
        (
            &tasks,
            "/processes/0/loops/0",
            "tid kind running debug ready scheduled pending_tasks tasks_created \
             stall_threshold_ns tasks limits",
        ),
        (
            &tasks,
            "/processes/0/loops/0/tasks/0",
            "id name coroutine state awaiting waits_for timeout_ns awaited_by cancel_requested exception \
             retrieved context",
        ),
        (
            &tasks,
            "/processes/0/loops/0/tasks/2/waits_for",
            "kind object",
        ),
    ] {
        let object = from.pointer(pointer).and_then(Value::as_object);
        let object = object.unwrap_or_else(|| panic!("{pointer} is an object"));
        let mut expected: Vec<&str> = keys.split_whitespace().collect();
        expected.sort_unstable();
        let mut got: Vec<&str> = object.keys().map(String::as_str).collect();
        got.sort_unstable();
        assert_eq!(got, expected, "{pointer}");
    }
    for (from, pointer, value) in [
        (&dump, "/type", Value::from("dump")),
        (&tasks, "/type", Value::from("tasks")),
        (&dump, "/processes/0/gil/holder_tid", Value::from(4243)),
        (&dump, "/processes/0/threads/1/state", Value::from("active")),
        (
            &dump,
            "/processes/0/threads/2/waiting_for/kind",
            Value::from("Lock"),
        ),
        (
            &dump,
            "/processes/0/threads/2/waiting_for/object",
            Value::from("0x7f3a00001000"),
        ),
        (&dump, "/processes/0/executors/0/unfinished", Value::from(4)),
        (&dump, "/processes/0/executors/0/failed", Value::Null),
        (
            &tasks,
            "/processes/0/loops/0/tasks/2/awaited_by/1",
            Value::from("0x2"),
        ),
        (
            &tasks,
            "/processes/0/loops/0/pending_tasks",
            Value::from(10),
        ),
        (&tasks, "/processes/0/loops/1/tid", Value::Null),
    ] {
        assert_eq!(from.pointer(pointer), Some(&value), "{pointer}");
    }
}

#[test]
fn nothing_hostile_is_printed() {
    let evil = "\x1b[2J\x1b]0;owned\x07\r\n\u{202e}txt.exe\u{9b}31m\u{200b}";
    let mut look = look();
    let mut one = task(1, evil, &[(evil, 1)], &[2, 3]);
    one.awaiting[0].file = evil.into();
    one.coroutine = evil.to_owned();
    one.waits_for = waits_for(evil, Some(7));
    one.context = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
    let mut done = one.clone();
    (done.id, done.state, done.exception) = (2, TaskState::Done, Some(evil.to_owned()));
    look.tasks = vec![one, done];
    look.threads = vec![PyThread {
        waiting_for: wait(WaitKind::Lock, WaitPurpose::Contended, Some(4242)),
        ..thread(4242, evil, &[(evil, 1)])
    }];
    look.executors = vec![PyExecutor {
        id: 1,
        queue: 0,
        kind: ExecutorKind::Thread,
        name_prefix: Some(evil.to_owned()),
        workers: 1,
        workers_idle: None,
        max_workers: None,
        queued: None,
        running: vec![PyWork {
            tid: None,
            function: Some(evil.to_owned()),
            item: 1,
            future: 0,
        }],
        queued_futures: Vec::new(),
        borrowers: Vec::new(),
    }];
    look.info.version = Some(evil.to_owned());
    look.limits = BTreeMap::from([(evil.to_owned(), evil.to_owned())]);
    let mut process = process(1, &["python3", evil]);
    process.name = evil.to_owned();
    let findings = Findings {
        process: &process,
        executable: Some(evil.to_owned()),
        look: Some(&look),
        activities: &BTreeMap::new(),
    };
    let dump = Dump::new(Kind::Dump, 1, &[findings]);
    let groups = GROUPS.map(Arrangement::Groups);
    let arrangements = [Arrangement::Table, Arrangement::Tree];
    let all = arrangements.into_iter().chain(groups);
    let mut texts: Vec<String> = all.map(|one| tasks_of(&dump, one)).collect();
    texts.push(text_of(&dump));
    let mut out = Vec::new();
    json::write(&dump, &mut out).expect("a Vec takes everything");
    texts.push(String::from_utf8(out).expect("text"));
    for text in texts {
        let hostile = text.chars().find(|c| *c != '\n' && is_hostile(*c));
        assert_eq!(hostile, None, "{:.200}", text);
    }
}

/// Equal trees are one, with their count; what differs in a line, or below it, is not equal. Each by itself is
/// there, too.
#[test]
fn equal_trees_are_shown_once() {
    let mut look = look();
    for number in 0..300 {
        // Each request awaits a query; every third one is elsewhere.
        let place = [("handle", 10 + u32::from(number % 3 == 0))];
        look.tasks
            .push(task(2 * number, &format!("request-{number}"), &place, &[]));
        let query = task(
            2 * number + 1,
            &format!("query-{number}"),
            &[("query", 99)],
            &[2 * number],
        );
        look.tasks.push(query);
    }
    look.tasks
        .push(task(1_000, "alone", &[("handle", 10)], &[]));
    let dump = found(Kind::Tasks, Some(&look));
    let folded = tree_of(&dump, false);
    let count = |text: &str, what: &str| text.matches(what).count();
    assert_eq!(count(&folded, "(T) request-# ×200\n"), 1, "{folded}");
    assert_eq!(count(&folded, "(T) request-# ×100\n"), 1, "{folded}");
    assert_eq!(count(&folded, "(T) query-"), 2, "{folded}");
    assert_eq!(count(&folded, "(T) alone\n"), 1, "{folded}");
    assert!(folded.lines().count() < 20, "{folded}");
    let whole = tree_of(&dump, true);
    assert_eq!(count(&whole, "(T) request-"), 300);
    assert_eq!(count(&whole, "(T) query-"), 300);
}

/// Gathers over the same tasks: a second one has a line for all that were shown under the first.
#[test]
fn tasks_shown_above_are_one_line_where_they_are_many() {
    let mut look = look();
    for gather in 0..3 {
        look.tasks
            .push(task(1_000 + gather, "group", &[("gather", 5)], &[]));
    }
    for number in 0..200 {
        // Each at a line of its own, so that no two trees are equal.
        let place = [("work", number)];
        let awaiters = [1_000, 1_001, 1_002];
        look.tasks.push(task(
            number.into(),
            &format!("work-{number}"),
            &place,
            &awaiters,
        ));
    }
    let dump = found(Kind::Tasks, Some(&look));
    let count = |text: &str, what: &str| text.matches(what).count();
    let folded = tree_of(&dump, false);
    assert_eq!(
        count(&folded, "(T) work-# ×200, see above\n"),
        2,
        "{folded}"
    );
    assert_eq!(count(&folded, "see above"), 2, "{folded}");
    let whole = tree_of(&dump, true);
    assert_eq!(count(&whole, ", see above\n"), 400);
    for number in 0..200 {
        let label = format!("(T) work-{number}\n");
        assert_eq!(
            [count(&folded, &label), count(&whole, &label)],
            [1, 1],
            "{label}"
        );
    }
}

/// Any graph is shown: each task once, nothing deeper than lines can be, and every cycle named.
#[test]
fn trees_of_any_graph_end_and_show_each_task_once() {
    let mut state = 1_u64;
    let mut random = |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for round in 0..200 {
        let count = 1 + random(40);
        let mut look = look();
        for number in 0..count {
            let awaiters: Vec<u64> = (0..random(4)).map(|_| random(count + 1)).collect();
            look.tasks
                .push(task(number, &format!("t{number}."), &[("f", 1)], &awaiters));
        }
        let dump = found(Kind::Tasks, Some(&look));
        let text = tree_of(&dump, true);
        for number in 0..count {
            let label = format!("(T) t{number}.\n");
            assert_eq!(text.matches(&label).count(), 1, "round {round}: {label}");
        }
        // Who awaits itself over however many others is in a cycle.
        let reaches = |from: u64, to: u64| {
            let mut open = vec![from];
            let mut met = vec![false; count as usize];
            while let Some(at) = open.pop() {
                for next in &look.tasks[at as usize].awaited_by {
                    if *next == to {
                        return true;
                    }
                    if *next < count && !std::mem::replace(&mut met[*next as usize], true) {
                        open.push(*next);
                    }
                }
            }
            false
        };
        let cyclic = (0..count).any(|number| reaches(number, number));
        assert_eq!(text.contains("cycle: "), cyclic, "round {round}");
    }
}

/// A chain of very many tasks is no tree of very many levels.
#[test]
fn long_chains_and_large_cycles_stay_narrow() {
    for closed in [false, true] {
        let mut look = look();
        let count = 20_000;
        for number in 0..count {
            let awaiter = match number {
                0 if closed => vec![count - 1],
                0 => Vec::new(),
                _ => vec![number - 1],
            };
            look.tasks
                .push(task(number, &format!("t{number}."), &[("f", 1)], &awaiter));
        }
        let text = tasks_of(&found(Kind::Tasks, Some(&look)), Arrangement::Tree);
        assert_eq!(
            text.matches("(T) ").count() as u64,
            count + text.matches(", see ").count() as u64
        );
        let widest = text.lines().map(|line| line.chars().count()).max();
        assert!(widest.is_some_and(|widest| widest < 500), "{widest:?}");
        assert!(text.len() < 64 << 20, "{}", text.len());
    }
}

#[test]
fn color_changes_the_looks_only() {
    let dump = found(Kind::Dump, Some(&service()));
    let mut colored = Vec::new();
    dump::write(&dump, Form::new(Paint::Ansi, None, false), &mut colored)
        .expect("a Vec takes everything");
    let colored = String::from_utf8(colored).expect("text");
    let plain = ["\x1b[0m", "\x1b[1m", "\x1b[1;31m"]
        .iter()
        .fold(colored.clone(), |text, code| text.replace(code, ""));
    assert_ne!(colored, plain);
    assert_eq!(plain, text_of(&dump));
}
