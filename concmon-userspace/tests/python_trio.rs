//! What is read of trio's runs and tasks, of anyio's on both backends and of uvloop's is what the
//! program says about them.
//!
//! The packages are installed once per version of Python, for all runs to come, in
//! `concmon/packages` of the user's cache folder, by whichever interpreter has pip.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Program, Python, in_turn, pythons};
use concmon::event::{ExecutorKind, LoopKind, PyTask, PythonFact, TaskState};
use concmon::python::{Interpreter, MAX_TEXT_CHARS, ScanOptions};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

const LIMITS: &str = include_str!("../../tests/workloads/interpreter_limits.py");
const TRIO: &str = include_str!("../../tests/workloads/interpreter_trio.py");

/// The one that needs the kernel, too.
const WATCHED: &str = "trio_is_watched";

/// What is tested: the packages that it needs, and the check.
type Case = (&'static str, &'static [&'static str], fn(&Python, &str));

const CASES: &[Case] = &[
    ("trio", &["trio"], trio),
    ("trio_0_25", &["trio==0.25.0"], trio),
    ("trio_0_16", &["trio==0.16.0"], trio),
    ("anyio_on_trio", &["anyio", "trio"], anyio_on_trio),
    ("anyio_on_asyncio", &["anyio", "trio"], anyio_on_asyncio),
    ("limiters_on_asyncio", &["anyio", "trio"], limiters),
    ("limiters_on_trio", &["anyio", "trio"], limiters_on_trio),
    ("waitress", &["waitress"], waitress),
    ("cheroot", &["cheroot"], cheroot),
    ("trio_that_never_rests", &["trio"], trio_that_never_rests),
    ("uvloop", &["uvloop"], uvloop),
    ("gevent", &["gevent"], gevent),
    (WATCHED, &["trio"], trio_is_watched),
];

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(1);
    let listing = arguments.list;
    let no_watch = why_no_watch();
    let mut trials = Vec::new();
    let run = versions_to_run(&arguments);
    for minor in 8..=15 {
        let found = pythons(minor..=minor);
        for (turn, case) in CASES.iter().enumerate() {
            let (name, ..) = case;
            if found.is_empty() {
                let reason = format!("no Python 3.{minor}");
                trials.push(skipped(format!("{name}::py3.{minor}"), &reason));
            }
            for python in &found {
                let name = format!("{name}::{}", python.label());
                if !run(turn).contains(&minor) {
                    trials.push(skipped(name, "left to cargo xtask test --pythons"));
                    continue;
                }
                trials.push(match missing(case, python, &no_watch, listing) {
                    Err(reason) => skipped(name, &reason),
                    Ok(folder) => trial(name, case, python.clone(), folder),
                });
            }
        }
    }
    if arguments.filter.is_none() && std::env::var_os("CONCMON_TESTS_QUICK").is_some() {
        let is_quick = |name: &str| name.starts_with("trio::") && name.contains("python3.11");
        let others = trials
            .iter()
            .map(Trial::name)
            .filter(|name| !is_quick(name));
        arguments.skip.extend(others.map(str::to_owned));
        arguments.exact = true;
    }
    libtest_mimic::run(&arguments, trials).exit();
}

/// Two versions for each case, in turn; all where a version is asked for.
fn versions_to_run(arguments: &Arguments) -> impl Fn(usize) -> Vec<u8> + use<> {
    let mut here: Vec<u8> = pythons(8..=15).iter().map(|python| python.minor).collect();
    here.sort_unstable();
    here.dedup();
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let asked_for = filter.contains("3.") || std::env::var_os("CONCMON_TESTS_QUICK").is_some();
    move |turn| match asked_for {
        true => here.clone(),
        false => in_turn(&here, turn),
    }
}

fn why_no_watch() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".to_owned());
    }
    let btf = Path::new("/sys/kernel/btf/vmlinux");
    (!btf.exists()).then(|| format!("needs {}", btf.display()))
}

/// The folder of the case's packages; what it needs and is not there.
fn missing(
    (name, packages, _): &Case,
    python: &Python,
    no_watch: &Option<String>,
    listing: bool,
) -> Result<String, String> {
    match no_watch {
        Some(reason) if *name == WATCHED => Err(reason.clone()),
        _ if listing => Ok(String::new()),
        _ => installed(python, packages),
    }
}

fn trial(name: String, (_, _, check): &Case, python: Python, folder: String) -> Trial {
    let check = *check;
    Trial::test(name, move || {
        check(&python, &folder);
        Ok(())
    })
}

fn skipped(name: String, reason: &str) -> Trial {
    let message = format!("cannot run: {reason}");
    Trial::test(name, move || Err(Failed::from(message)))
        .with_kind(format!("skipped: {reason}"))
        .with_ignored_flag(true)
}

/// A folder with the packages, as the interpreter sees it; the reason when there is none.
fn installed(python: &Python, packages: &[&str]) -> Result<String, String> {
    let root = match python.executable() {
        Some(_) => PathBuf::from("/"),
        None => PathBuf::from(std::env::var_os("CONCMON_TEST_ROOT").ok_or("no root folder")?),
    };
    let cache = match python.executable() {
        Some(_) => std::env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cache")))
            .ok_or("no cache folder")?,
        None => root.join("var/cache"),
    };
    let folder = cache
        .join("concmon/packages")
        .join(format!("3.{}", python.minor))
        .join(packages.join(","));
    if !folder.is_dir() {
        install(python.minor, packages, &folder)?;
    }
    let inside = folder
        .strip_prefix(&root)
        .map_err(|error| error.to_string())?;
    let inside = Path::new("/").join(inside).display().to_string();
    importable(python, &inside, packages)?;
    Ok(inside)
}

/// Old packages do not run on every Python that pip installs them for.
fn importable(python: &Python, folder: &str, packages: &[&str]) -> Result<(), String> {
    let names: Vec<&str> = packages
        .iter()
        .filter_map(|package| package.split("==").next())
        .collect();
    let source = format!(
        "
try:
    import {}
    print('imported', flush=True)
except Exception as error:
    print(type(error).__name__, error, flush=True)
",
        names.join(", ")
    );
    match run(python, folder, &source, &[]).line().as_str() {
        "imported" => Ok(()),
        error => Err(format!(
            "{} does not run on it: {error:.100}",
            packages.join(", ")
        )),
    }
}

fn install(minor: u8, packages: &[&str], folder: &Path) -> Result<(), String> {
    let parent = folder.parent().ok_or("no parent folder")?;
    std::fs::create_dir_all(parent).map_err(|error| error.to_string())?;
    let fresh = tempfile::tempdir_in(parent).map_err(|error| error.to_string())?;
    let target = fresh.path().join("packages");
    let mut said = "no interpreter has pip".to_owned();
    // Its own pip first; any other one can do it for it, best the newest.
    let mut installers = pythons(8..=15);
    installers.sort_by_key(|python| (python.minor != minor, std::cmp::Reverse(python.minor)));
    for executable in installers.iter().filter_map(Python::executable) {
        let output = Command::new(executable)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ])
            .args(["--only-binary=:all:", "--python-version"])
            .arg(format!("3.{minor}"))
            .arg("--target")
            .arg(&target)
            .args(packages)
            .output();
        match output {
            Ok(output) if output.status.success() => {
                return std::fs::rename(&target, folder).map_err(|error| error.to_string());
            }
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                if !text.contains("No module named pip") {
                    let line = text.lines().last().unwrap_or_default();
                    said = format!("pip: {line:.200}");
                    break;
                }
            }
            Err(error) => said = error.to_string(),
        }
    }
    Err(said)
}

fn run(python: &Python, folder: &str, source: &str, arguments: &[&str]) -> Program {
    let path = json!(folder);
    let arguments = json!(arguments);
    python.run(&format!(
        "import sys; sys.path.insert(0, {path}); sys.argv[1:] = {arguments}\n{source}"
    ))
}

fn attach(program: &Program) -> Interpreter {
    Interpreter::attach(program.pid()).unwrap_or_else(|error| panic!("{}: {error}", program.pid()))
}

fn look(interpreter: &mut Interpreter) -> PythonFact {
    interpreter.scan(7, &ScanOptions::default())
}

fn trio(python: &Python, folder: &str) {
    equals_account(python, folder, &[], 2, 45);
}

fn anyio_on_trio(python: &Python, folder: &str) {
    equals_account(python, folder, &["anyio"], 1, 6);
}

fn limiters(python: &Python, folder: &str) {
    equals_rows(python, folder, "asyncio");
}

fn limiters_on_trio(python: &Python, folder: &str) {
    equals_rows(python, folder, "trio");
}

fn waitress(python: &Python, folder: &str) {
    equals_rows(python, folder, "waitress");
}

fn cheroot(python: &Python, folder: &str) {
    equals_rows(python, folder, "cheroot");
}

/// The program's limiters, or its server's threads, are those that it says it has.
fn equals_rows(python: &Python, folder: &str, what: &str) {
    let label = python.label();
    let program = run(python, folder, LIMITS, &[what]);
    let account: Value = serde_json::from_str(&program.line()).expect("JSON");
    let mut interpreter = attach(&program);
    for _ in 0..2 {
        let fact = look(&mut interpreter);
        let rows = fact.executors.iter().map(|row| {
            json!({
                "kind": format!("{:?}", row.kind),
                "name_prefix": row.name_prefix,
                "workers": row.workers,
                "workers_idle": row.workers_idle,
                "max_workers": row.max_workers,
                "queued": row.queued,
            })
        });
        let rows: Vec<Value> = rows.collect();
        assert_eq!(Value::from(rows), account, "{label}");
        let waits = fact.tasks.iter().filter_map(|task| task.waits_for.as_ref());
        let waits: Vec<_> = waits
            .filter(|wait| wait.kind == "CapacityLimiter")
            .collect();
        let limiters = fact
            .executors
            .iter()
            .filter(|row| row.kind == ExecutorKind::Limiter);
        for row in limiters.clone() {
            let waiting = waits.iter().filter(|wait| wait.object == Some(row.id));
            assert_eq!(Some(waiting.count() as u64), row.queued, "{label}");
        }
        assert_eq!(
            limiters.filter_map(|row| row.queued).sum::<u64>(),
            waits.len() as u64
        );
        assert_eq!(fact.reads_failed, 0, "{label}: {:?}", fact.limits);
    }
}

fn equals_account(python: &Python, folder: &str, arguments: &[&str], runs: usize, least: usize) {
    let label = python.label();
    let program = run(python, folder, TRIO, arguments);
    let account: Value = serde_json::from_str(&program.line()).expect("JSON");
    let mut interpreter = attach(&program);
    for _ in 0..2 {
        let fact = look(&mut interpreter);
        assert_eq!(fact.reads_failed, 0, "{label}: {:?}", fact.limits);
        let limited: BTreeSet<&str> = fact.limits.keys().map(String::as_str).collect();
        let expected = BTreeSet::from([
            "loops.debug",
            "loops.stall_threshold_ns",
            "loops.tasks_created",
        ]);
        assert_eq!(limited, expected, "{label}");
        equals_runs(&label, &account, &fact, runs);
        equals_tasks(&label, &account, &fact, least);
    }
}

fn equals_runs(label: &str, account: &Value, fact: &PythonFact, count: usize) {
    let expected: BTreeSet<String> = account["runs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(ToString::to_string)
        .collect();
    let found: BTreeSet<String> = fact
        .loops
        .iter()
        .map(|found| {
            assert_eq!(found.kind, LoopKind::Trio);
            json!({
                "id": found.id,
                "tid": found.tid.0,
                "ready": found.ready,
                "scheduled": found.scheduled,
            })
            .to_string()
        })
        .collect();
    assert_eq!(expected.len(), count);
    assert_eq!(found, expected, "{label}");
}

fn equals_tasks(label: &str, account: &Value, fact: &PythonFact, least: usize) {
    let expected = account["tasks"].as_array().expect("a list");
    assert!(expected.len() >= least, "{label}: {}", expected.len());
    assert_eq!(fact.tasks.len(), expected.len(), "{label}");
    let mut found: BTreeMap<u64, &PyTask> = fact.tasks.iter().map(|task| (task.id, task)).collect();
    let mut kinds = 0;
    for own in expected {
        let id = own["id"].as_u64().expect("an id");
        let task = found
            .remove(&id)
            .unwrap_or_else(|| panic!("{label}: no task {}", own["name"]));
        let chain: Vec<Value> = task
            .awaiting
            .iter()
            .map(|frame| json!([frame.function, frame.file, frame.line]))
            .collect();
        let mut as_json = json!({
            "id": task.id,
            "loop": task.loop_id,
            "name": task.name,
            "coroutine": task.coroutine,
            "state": if task.state == TaskState::Running { "running" } else { "pending" },
            "chain": chain,
            "parent": task.awaited_by.first(),
            "cancelled": task.cancel_requested,
            "waits": task.waits_for.is_some(),
            "waits_for": task.waits_for.as_ref().map(|wait| &wait.kind),
        });
        // Of the others the program does not say it.
        if own["waits_for"].is_null() && own["waits"] == json!(true) {
            as_json["waits_for"] = Value::Null;
        } else {
            kinds += 1;
        }
        let mut own = own.clone();
        let name = own["name"].as_str().expect("a name").to_owned();
        assert!(name.chars().count() <= MAX_TEXT_CHARS);
        own["name"] = name.clone().into();
        let differs: Vec<String> = own
            .as_object()
            .expect("an object")
            .iter()
            .filter(|(field, value)| as_json[*field] != **value)
            .map(|(field, value)| format!("{field}: {} is {value}", as_json[field]))
            .collect();
        assert!(differs.is_empty(), "{label}: {name}: {differs:.300?}");
        assert!(task.awaited_by.len() <= 1, "{label}");
    }
    assert!(kinds >= 3, "{label}: {kinds}");
}

/// Tasks that come and go, read while they do: a task is a child of the one that made it.
fn trio_that_never_rests(python: &Python, folder: &str) {
    const SOURCE: &str = "
import trio
async def step_0(depth):
    await trio.sleep(0.02)
async def step_1(depth):
    await step_0(depth)
async def parent(index):
    while True:
        async with trio.open_nursery() as nursery:
            for depth, step in enumerate((step_0, step_1)):
                nursery.start_soon(step, depth, name='child-%d-%d' % (index, depth))
async def main():
    async with trio.open_nursery() as nursery:
        for index in range(20):
            nursery.start_soon(parent, index, name='parent-%d' % index)
        print('ready', flush=True)
trio.run(main)
";
    let label = python.label();
    let program = run(python, folder, SOURCE, &[]);
    program.line();
    let mut interpreter = attach(&program);
    let (mut children, mut failed, mut seen) = (0, 0, 0);
    for _ in 0..150 {
        let fact = look(&mut interpreter);
        let names: BTreeMap<u64, &str> = fact
            .tasks
            .iter()
            .map(|task| (task.id, task.name.as_str()))
            .collect();
        failed += fact.reads_failed;
        seen += fact.tasks.len() as u64;
        for task in &fact.tasks {
            let Some(child) = task.name.strip_prefix("child-") else {
                continue;
            };
            let (index, depth) = child.split_once('-').expect("two numbers");
            assert_eq!(task.coroutine, format!("step_{depth}"), "{label}: {task:?}");
            // An address may go from an ended parent to another one, never to none.
            let parent = task.awaited_by.first().and_then(|parent| names.get(parent));
            let expected = format!("parent-{index}");
            assert!(
                parent.is_none_or(|parent| **parent == *expected),
                "{label}: {task:?} of {parent:?}"
            );
            let functions: Vec<&str> = task
                .awaiting
                .iter()
                .map(|frame| frame.function.as_ref())
                .collect();
            let whole = ["step_1", "step_0", "sleep"];
            let whole = if depth == "1" {
                &whole[..]
            } else {
                &whole[1..]
            };
            assert!(
                functions.len() <= 1 || functions.starts_with(whole),
                "{label}: {functions:?}"
            );
            children += 1;
        }
    }
    eprintln!("{label}: {seen} tasks, {failed} dropped");
    // How many change while they are read depends on how much of a CPU the reader gets.
    assert!(children > 100, "{label}: only {children} children");
    assert!(failed * 10 < seen, "{label}: {failed} of {seen}");
}

/// The tasks of anyio on asyncio are asyncio's, with the names that the program gave them.
fn anyio_on_asyncio(python: &Python, folder: &str) {
    const SOURCE: &str = "
import anyio, asyncio, json, sys, threading
release = threading.Event()
async def waits(event):
    await event.wait()
async def main():
    async with anyio.create_task_group() as group:
        event = anyio.Event()
        for index in range(5):
            group.start_soon(waits, event, name='waits-%d' % index)
        group.start_soon(anyio.sleep, 3600, name='sleeps')
        group.start_soon(anyio.to_thread.run_sync, release.wait, name='thread')
        await anyio.sleep(0.2)
        print(json.dumps({hex(id(task)): task.get_name() for task in asyncio.all_tasks()}), flush=True)
        await anyio.sleep_forever()
anyio.run(main, backend='asyncio')
";
    let label = python.label();
    let program = run(python, folder, SOURCE, &[]);
    let account: BTreeMap<String, String> = serde_json::from_str(&program.line()).expect("JSON");
    let fact = look(&mut attach(&program));
    assert_eq!(fact.reads_failed, 0, "{label}: {:?}", fact.limits);
    assert_eq!(fact.loops.len(), 1, "{label}: {:?}", fact.loops);
    assert_eq!(fact.loops[0].kind, LoopKind::Asyncio);
    let alive: Vec<&PyTask> = fact
        .tasks
        .iter()
        .filter(|task| task.state != TaskState::Done)
        .collect();
    let found: BTreeMap<String, String> = alive
        .iter()
        .map(|task| (format!("{:#x}", task.id), task.name.clone()))
        .collect();
    assert!(account.len() >= 8, "{label}: {account:?}");
    assert_eq!(found, account, "{label}");
    let waiting = alive.iter().filter(|task| task.name.starts_with("waits-"));
    for task in waiting {
        let has = |name: &str| task.awaiting.iter().any(|frame| *frame.function == *name);
        assert!(has("waits"), "{label}: {:?}", task.awaiting);
    }
}

/// A loop of uvloop is one, with the tasks that the program says.
fn uvloop(python: &Python, folder: &str) {
    const SOURCE: &str = "
import asyncio, json, sys, time, uvloop
async def leaf():
    await asyncio.sleep(3600)
async def nested():
    await leaf()
async def main():
    tasks = [asyncio.get_running_loop().create_task(nested()) for _ in range(5)]
    await asyncio.sleep(0.1)
    for _ in range(7):
        asyncio.get_running_loop().call_soon(int)
    print(json.dumps({'loop': id(asyncio.get_running_loop()), 'tasks': {
        hex(id(task)): task.get_name() for task in asyncio.all_tasks()}}), flush=True)
    time.sleep(3600)
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
asyncio.run(main())
";
    let label = python.label();
    let program = run(python, folder, SOURCE, &[]);
    let account: Value = serde_json::from_str(&program.line()).expect("JSON");
    let fact = look(&mut attach(&program));
    assert_eq!(fact.reads_failed, 0, "{label}: {:?}", fact.limits);
    assert_eq!(fact.loops.len(), 1, "{label}: {:?}", fact.limits);
    assert_eq!(fact.loops[0].kind, LoopKind::Uvloop, "{label}");
    assert_eq!(json!(fact.loops[0].id), account["loop"], "{label}");
    assert_eq!(fact.loops[0].ready, Some(7), "{label}");
    assert_eq!(fact.loops[0].scheduled, None, "{label}");
    assert!(fact.limits.contains_key("loops.scheduled"), "{label}");
    assert!(!fact.limits.contains_key("loops.ready"), "{label}");
    let found: BTreeMap<String, &str> = fact
        .tasks
        .iter()
        .map(|task| (format!("{:#x}", task.id), task.name.as_str()))
        .collect();
    assert_eq!(json!(found), account["tasks"], "{label}");
    let nested = fact.tasks.iter().filter(|task| task.coroutine == "nested");
    let chains: Vec<Vec<&str>> = nested
        .map(|task| {
            task.awaiting
                .iter()
                .map(|frame| frame.function.as_ref())
                .collect()
        })
        .collect();
    assert_eq!(chains, vec![vec!["nested", "leaf", "sleep"]; 5], "{label}");
}

/// Greenlets are not read, and it is said.
fn gevent(python: &Python, folder: &str) {
    const SOURCE: &str = "
import gevent, gevent.hub
jobs = [gevent.spawn(gevent.sleep, 3600) for _ in range(3)]
gevent.sleep(0.1)
print('ready', flush=True)
gevent.joinall(jobs)
";
    let label = python.label();
    let program = run(python, folder, SOURCE, &[]);
    program.line();
    let fact = look(&mut attach(&program));
    assert_eq!(fact.reads_failed, 0, "{label}: {:?}", fact.limits);
    let reason = fact
        .limits
        .get("tasks")
        .map(String::as_str)
        .unwrap_or_default();
    assert!(reason.contains("gevent"), "{label}: {:?}", fact.limits);
    assert!(fact.tasks.is_empty() && fact.loops.is_empty(), "{label}");
    assert!(!fact.threads.is_empty(), "{label}");
}

/// A watch shows a run as a loop: idle while it waits for events, busy with whatever a task does.
fn trio_is_watched(python: &Python, folder: &str) {
    const SOURCE: &str = "
import threading, time, trio
async def hogs():
    while True:
        time.sleep(0.05)
        await trio.lowlevel.checkpoint()
async def rests():
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.sleep, 3600, name='sleeper')
threading.Thread(target=trio.run, args=(hogs,), name='hog', daemon=True).start()
threading.Thread(target=trio.run, args=(rests,), name='rest', daemon=True).start()
time.sleep(0.3)
print('ready', flush=True)
import sys; sys.stdin.read()
";
    let label = python.label();
    let program = run(python, folder, SOURCE, &[]);
    program.line();
    let pid = program.pid().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_concmon-bpf"))
        .args(["--pid", &pid, "-i", "1s", "-d", "2s", "--json"])
        .output()
        .expect("it runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report: Value = text
        .lines()
        .last()
        .and_then(|line| serde_json::from_str(line).ok())
        .unwrap_or_else(|| panic!("{label}: no report: {stderr:.300}"));
    let process = &report["processes"][0];
    let of_thread = |name: &str| {
        let threads = process["threads"].as_array().expect("a list");
        let thread = threads.iter().find(|thread| thread["name"] == *name);
        let thread = thread.unwrap_or_else(|| panic!("{label}: no thread {name}"));
        assert_eq!(thread["role"], "loop", "{label}: {name}");
        let loops = process["loops"].as_array().expect("a list");
        let found = loops.iter().find(|found| found["tid"] == thread["tid"]);
        found
            .unwrap_or_else(|| panic!("{label}: no loop of {name}"))
            .clone()
    };
    for (name, task, is_busy) in [("hog", "__main__.hogs", true), ("rest", "sleeper", false)] {
        let found = of_thread(name);
        assert_eq!(found["kind"], "trio", "{label}");
        let ns = |column: &str| found[column].as_u64().expect("a number");
        assert_eq!(ns("idle_ns") + ns("busy_ns"), ns("wall_ns"), "{label}");
        let busy = ns("busy_ns") as f64 / ns("wall_ns") as f64;
        assert_eq!(busy > 0.8, is_busy, "{label}: {name} was {busy} busy");
        assert_eq!(busy < 0.2, !is_busy, "{label}: {name} was {busy} busy");
        let tasks = found["tasks"].as_array().expect("a list");
        assert!(
            tasks.iter().any(|found| found["name"] == task),
            "{label}: {name}"
        );
    }
}
