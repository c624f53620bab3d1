//! What is read from a running interpreter is what the program in it says about itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::common::{Program, Python, pythons, pythons_in_turn};
use concmon::event::{LoopKind, Pid, PyTask, PythonFact, TaskState};
use concmon::python::{DetectError, Interpreter, MAX_TEXT_CHARS, ScanOptions};
use serde_json::{Value, json};

const ACCOUNT: &str = include_str!("../../../tests/workloads/interpreter.py");
const CHURN: &str = include_str!("../../../tests/workloads/interpreter_churn.py");

fn attach(program: &Program) -> Interpreter {
    Interpreter::attach(program.pid()).unwrap_or_else(|error| panic!("{}: {error}", program.pid()))
}

fn look(interpreter: &mut Interpreter) -> PythonFact {
    interpreter.scan(7, &ScanOptions::default())
}

/// Every supported interpreter with the account that the program gave, and two looks at it: what
/// is remembered between looks must not change what is seen.
fn for_each_account(check: impl Fn(&Python, &Value, &PythonFact)) {
    for python in pythons(8..=15) {
        let program = python.run(ACCOUNT);
        let account: Value = serde_json::from_str(&program.line()).expect("JSON");
        let mut interpreter = attach(&program);
        for _ in 0..2 {
            let fact = look(&mut interpreter);
            assert_eq!(
                fact.reads_failed,
                0,
                "{}: {:?}",
                python.label(),
                fact.limits
            );
            let mut limits = fact.limits.clone();
            limits.remove("loops.tasks_created");
            assert_eq!(limits, BTreeMap::new(), "{}", python.label());
            assert_eq!((fact.read_ns, fact.pid), (7, program.pid()));
            check(&python, &account, &fact);
        }
    }
}

#[test]
fn versions_are_what_the_program_says() {
    for_each_account(|python, account, fact| {
        assert_eq!(fact.info.version.as_deref(), account["version"].as_str());
        assert_eq!(fact.info.implementation, "cpython");
        assert!(
            fact.info.supported && !fact.info.free_threaded,
            "{}",
            python.label()
        );
        assert_eq!(fact.info.reason, None);
    });
}

#[test]
fn threads_are_what_the_program_says() {
    for_each_account(|python, account, fact| {
        let default_stack = account["stack_limit"].clone();
        let expected: BTreeMap<u64, Value> = account["threads"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|thread| {
                let mut thread = thread.clone();
                if thread["stack_bytes"].is_null() {
                    thread["stack_bytes"] = default_stack.clone();
                }
                thread["pool"] = json!(thread["entry"] == "concurrent.futures.thread._worker");
                (thread["native_id"].as_u64().expect("an id"), thread)
            })
            .collect();
        let found: BTreeMap<u64, Value> = fact
            .threads
            .iter()
            .map(|thread| {
                let value = json!({
                    "ident": thread.ident,
                    "native_id": thread.tid.0,
                    "name": thread.name,
                    "daemon": thread.daemon,
                    "main": thread.main,
                    "entry": thread.entry,
                    "stack_bytes": thread.stack_size_bytes,
                    "pool": thread.pool,
                });
                (thread.tid.0.into(), value)
            })
            .collect();
        assert!(expected.len() > 15);
        assert_eq!(found, expected, "{}", python.label());
    });
}

#[test]
fn loops_are_what_the_program_says() {
    for_each_account(|python, account, fact| {
        let idents: BTreeMap<u32, u64> = fact
            .threads
            .iter()
            .map(|thread| (thread.tid.0, thread.ident))
            .collect();
        let expected: BTreeSet<String> = account["loops"]
            .as_array()
            .expect("a list")
            .iter()
            .map(ToString::to_string)
            .collect();
        let found: BTreeSet<String> = fact
            .loops
            .iter()
            .map(|found| {
                assert_eq!(found.kind, LoopKind::Asyncio);
                json!({
                    "id": found.id,
                    "ident": idents[&found.tid.0],
                    "ready": found.ready,
                    "scheduled": found.scheduled,
                    "debug": found.debug,
                    "stall_threshold_ns": found.stall_threshold_ns,
                })
                .to_string()
            })
            .collect();
        assert_eq!(expected.len(), 2);
        assert_eq!(found, expected, "{}", python.label());
    });
}

fn as_json(task: &PyTask) -> Value {
    let chain: Vec<Value> = task
        .awaiting
        .iter()
        .map(|frame| json!([frame.function, frame.file, frame.line]))
        .collect();
    json!({
        "id": task.id,
        "loop": task.loop_id,
        "name": task.name,
        "coroutine": task.coroutine,
        "running": task.state == TaskState::Running,
        "chain": chain,
    })
}

/// A name as it is told: of a long one both ends.
fn told(name: &str) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= MAX_TEXT_CHARS {
        return name.to_owned();
    }
    let (first, rest) = chars.split_at(MAX_TEXT_CHARS / 2);
    let (between, last) = rest.split_at(rest.len() - MAX_TEXT_CHARS / 2);
    let [first, last] = [first, last].map(String::from_iter);
    format!("{first}[{} characters left out]{last}", between.len())
}

#[test]
fn tasks_and_await_chains_are_what_the_program_says() {
    for_each_account(|python, account, fact| {
        let expected: BTreeMap<u64, Value> = account["tasks"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|task| {
                let mut task = task.clone();
                let name = task["name"].as_str().expect("a name");
                task["name"] = told(name).into();
                (task["id"].as_u64().expect("an id"), task)
            })
            .collect();
        let (done, alive): (Vec<&PyTask>, Vec<&PyTask>) = fact
            .tasks
            .iter()
            .partition(|task| task.state == TaskState::Done);
        let found: BTreeMap<u64, Value> =
            alive.iter().map(|task| (task.id, as_json(task))).collect();
        assert!(expected.len() > 20);
        assert_eq!(
            found.len(),
            alive.len(),
            "{}: no task twice",
            python.label()
        );
        let ids: Vec<&u64> = found.keys().collect();
        assert_eq!(
            ids,
            expected.keys().collect::<Vec<_>>(),
            "{}",
            python.label()
        );
        for (id, expected) in &expected {
            assert_eq!(&found[id], expected, "{}", python.label());
        }
        let finished = account["finished"].as_array().expect("a list");
        for task in done {
            let value = json!({"id": task.id, "name": task.name, "coroutine": task.coroutine});
            assert!(finished.contains(&value), "{}: {value}", python.label());
            assert_eq!(task.awaiting, []);
        }
    });
}

/// Short-lived tasks, read while they come and go: what is reported is one of the few things
/// that can be true.
#[test]
fn no_task_is_torn_while_the_program_runs() {
    for python in pythons_in_turn(2) {
        let program = python.run(CHURN);
        program.line();
        let mut interpreter = attach(&program);
        let (mut seen, mut failed, mut smallest) = (0, 0, usize::MAX);
        for _ in 0..150 {
            let fact = look(&mut interpreter);
            for task in &fact.tasks {
                check_churned(task, &python);
            }
            seen += fact.tasks.len() as u64;
            failed += fact.reads_failed;
            smallest = smallest.min(fact.tasks.len());
        }
        eprintln!(
            "{}: {seen} tasks, {failed} dropped, {smallest} at least",
            python.label()
        );
        assert!(seen > 300, "{}: only {seen} tasks", python.label());
        // How many change while they are read depends on how much of a CPU the reader gets.
        assert!(failed * 10 < seen, "{}: {failed} of {seen}", python.label());
    }
}

fn check_churned(task: &PyTask, python: &Python) {
    let label = python.label();
    let functions: Vec<&str> = task
        .awaiting
        .iter()
        .map(|frame| frame.function.as_ref())
        .collect();
    if task.coroutine == "keep_going" {
        assert!(task.name.starts_with("Task-"), "{label}: {task:?}");
        assert!(functions.is_empty() || functions[0] == "keep_going");
        return;
    }
    let number = |text: &str, prefix: &str| text.strip_prefix(prefix)?.parse::<usize>().ok();
    let named = number(&task.name, "churn-");
    let depth = number(&task.coroutine, "step_").unwrap_or(usize::MAX);
    assert!(depth < 5, "{label}: {task:?}");
    // Until 3.13 asyncio names a task in a second step, before which it has a number only.
    let unnamed = named.is_none() && task.name.starts_with("Task-");
    assert!(unnamed || named == Some(depth), "{label}: {task:?}");
    if functions.is_empty() {
        assert_ne!(task.state, TaskState::Pending, "{label}: {task:?}");
        return;
    }
    if task.state == TaskState::Running {
        let own = (0..=depth).rev().map(|depth| format!("step_{depth}"));
        let fits = own.zip(&functions).all(|(own, found)| own == *found);
        assert!(fits, "{label}: {task:?}");
        return;
    }
    let chain: Vec<String> = (0..=depth)
        .rev()
        .map(|depth| format!("step_{depth}"))
        .collect();
    let mut whole: Vec<&str> = chain.iter().map(String::as_str).collect();
    whole.push("sleep");
    // A task that has not had its first step is at its own first line.
    let not_begun = functions.len() == 1 && functions[0] == whole[0];
    assert!(
        not_begun || (functions == whole && !unnamed),
        "{label}: {task:?}"
    );
}

#[test]
fn the_gil_is_where_waiting_threads_say_it_is() {
    const SPIN: &str = "
import threading
def spin():
    while True: pass
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
print('ready', flush=True)
import sys; sys.stdin.read()
";
    for python in pythons(8..=15) {
        let program = python.run(SPIN);
        program.line();
        let gils = attach(&program).gils().expect("readable");
        assert_eq!(gils.len(), 1, "{}", python.label());
        let range = gils[0].address..gils[0].address + gils[0].size_bytes;
        let (mut inside, mut outside) = (0, Vec::new());
        let deadline = Instant::now() + Duration::from_secs(10);
        while inside < 20 && Instant::now() < deadline {
            for address in spinning_threads_futexes(program.pid()) {
                if range.contains(&address) {
                    inside += 1;
                } else {
                    outside.push(address);
                }
            }
        }
        assert!(inside >= 20, "{}: {inside} in {range:x?}", python.label());
        assert_eq!(
            outside,
            Vec::<u64>::new(),
            "{}: not in {range:x?}",
            python.label()
        );
    }
}

/// The futex addresses that threads other than the main one wait on.
fn spinning_threads_futexes(pid: Pid) -> Vec<u64> {
    const FUTEX: &str = "202";
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("alive");
    tasks
        .flatten()
        .filter(|task| task.file_name().to_str() != Some(&pid.to_string()))
        .filter_map(|task| {
            let call = std::fs::read_to_string(task.path().join("syscall")).ok()?;
            let mut words = call.split_whitespace();
            (words.next()? == FUTEX).then_some(())?;
            u64::from_str_radix(words.next()?.strip_prefix("0x")?, 16).ok()
        })
        .collect()
}

#[test]
fn interpreters_with_their_own_gil_have_their_own_address() {
    const SOURCE: &str = "
import sys
if sys.version_info >= (3, 13):
    import _interpreters as interpreters
    one = interpreters.create('isolated')
else:
    import _xxsubinterpreters as interpreters
    one = interpreters.create(isolated=True)
print('ready', flush=True)
sys.stdin.read()
";
    for python in pythons(12..=15) {
        let program = python.run(SOURCE);
        program.line();
        let mut interpreter = attach(&program);
        let gils = interpreter.gils().expect("readable");
        assert_eq!(gils.len(), 2, "{}", python.label());
        assert_ne!(gils[0].address, gils[1].address);
        let fact = look(&mut interpreter);
        assert_eq!(fact.threads.len(), 1, "{}: {fact:?}", python.label());
    }
}

#[test]
fn interpreters_before_3_8_are_named_and_not_read() {
    const SOURCE: &str = "
import platform, sys
print(platform.python_version(), flush=True)
sys.stdin.read()
";
    for python in pythons(6..=7) {
        let program = python.run(SOURCE);
        let version = program.line();
        let mut interpreter = attach(&program);
        let info = interpreter.info().clone();
        assert!(
            !info.supported && info.reason.is_some(),
            "{}: {info:?}",
            python.label()
        );
        let found = info.version.as_deref().expect("a version");
        assert!(version.starts_with(found), "{}: {found}", python.label());
        assert!(interpreter.gils().expect("readable").is_empty());
        assert!(look(&mut interpreter).threads.is_empty());
    }
}

/// From the instant of its start a process is not Python yet, then a starting one, then one that
/// can be read; never an unsupported one.
#[test]
fn an_interpreter_is_met_while_it_starts() {
    for python in pythons(8..=15) {
        let program = python.run("import sys; sys.stdin.read()");
        let deadline = Instant::now() + Duration::from_secs(30);
        let interpreter = loop {
            assert!(
                Instant::now() < deadline,
                "{}: it never started",
                python.label()
            );
            match Interpreter::attach(program.pid()) {
                Ok(interpreter) => break interpreter,
                Err(DetectError::NotPython | DetectError::Starting) => {}
                Err(error) => panic!("{}: {error}", python.label()),
            }
        };
        let info = interpreter.info();
        assert!(info.supported, "{}: {info:?}", python.label());
    }
}

#[test]
fn a_program_that_ends_is_gone() {
    let Some(python) = pythons(8..=15).pop() else {
        return;
    };
    let program = python.run("import sys; print(1, flush=True); sys.stdin.read()");
    program.line();
    let mut interpreter = attach(&program);
    let pid = program.pid();
    drop(program);
    let fact = look(&mut interpreter);
    assert!(fact.reads_failed > 0 && fact.threads.is_empty(), "{fact:?}");
    assert!(matches!(Interpreter::attach(pid), Err(DetectError::Gone)));
}

#[test]
fn other_programs_are_not_python() {
    let program = Program::start(&["sleep".to_owned(), "60".to_owned()]);
    std::thread::sleep(Duration::from_millis(100));
    let error = Interpreter::attach(program.pid()).expect_err("not Python");
    assert!(matches!(error, DetectError::NotPython), "{error}");
}

/// The file of a running interpreter may be gone, as after an upgrade.
#[test]
fn a_deleted_executable_is_still_read() {
    let Some(python) = pythons(8..=15).into_iter().find(|python| {
        python
            .executable()
            .is_some_and(|path| path.starts_with("/usr/bin"))
    }) else {
        eprintln!("skipped: no interpreter in /usr/bin");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("python3");
    std::fs::copy(python.executable().expect("found"), &copy).expect("copied");
    let source = "import sys, threading; print(1, flush=True); sys.stdin.read()";
    let program = Program::start(&[
        copy.display().to_string(),
        "-c".to_owned(),
        source.to_owned(),
    ]);
    program.line();
    std::fs::remove_file(&copy).expect("removed");
    let mut interpreter = attach(&program);
    assert!(interpreter.info().supported, "{:?}", interpreter.info());
    assert_eq!(
        look(&mut interpreter).threads[0].name.as_deref(),
        Some("MainThread")
    );
}

/// A target in another PID namespace has other ids for its threads; facts have ours.
#[test]
fn ids_are_those_of_our_pid_namespace() {
    const SOURCE: &str = "
import sys, threading, os
threading.Thread(target=sys.stdin.read, name='other').start()
print(os.getpid(), flush=True)
";
    let Some(python) = pythons(8..=15)
        .into_iter()
        .find(|python| python.executable().is_some())
    else {
        return;
    };
    let command = ["unshare", "--pid", "--fork", "--kill-child"]
        .into_iter()
        .chain(python.executable())
        .chain(["-c", SOURCE])
        .map(str::to_owned)
        .collect::<Vec<_>>();
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: making a PID namespace needs root");
        return;
    }
    let program = Program::start(&command);
    assert_eq!(program.line(), "1", "its own id in its own namespace");
    let unshare = program.pid();
    let children =
        std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).expect("alive");
    let pid: u32 = children.trim().parse().expect("one child");
    let fact = look(&mut Interpreter::attach(Pid(pid)).expect("Python"));
    let ours: BTreeSet<u32> = std::fs::read_dir(format!("/proc/{pid}/task"))
        .expect("alive")
        .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    let found: BTreeSet<u32> = fact.threads.iter().map(|thread| thread.tid.0).collect();
    assert_eq!(ours.len(), 2);
    assert_eq!(found, ours);
    let main = fact
        .threads
        .iter()
        .find(|thread| thread.main)
        .expect("a main thread");
    assert_eq!(main.tid.0, pid);
}
