//! What asyncio's tasks wait for, who waits for them, how they ended, and what their contexts hold,
//! by the program's own account.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{Program, Python, pythons, pythons_in_turn};
use concmon::event::{PyTask, PythonFact, TaskState};
use concmon::python::{Interpreter, ScanOptions};
use serde_json::{Value, json};

const TASKS: &str = include_str!("../../../tests/workloads/interpreter_tasks.py");
const CONTEXTS: &str = include_str!("../../../tests/workloads/interpreter_contexts.py");
/// So many tasks as `COUNT` says, in a loop or, of none, without one.
const MANY: &str = "
import asyncio, json, sys
async def leaf():
    await asyncio.sleep(36000)
async def work():
    await leaf()
async def main():
    make = asyncio.get_running_loop().create_task
    name = lambda number: None if number % 2 else f'named-{number}'
    kept = [make(work(), name=name(number)) for number in range(COUNT - 1)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    print(json.dumps({id(task): task.get_name() for task in asyncio.all_tasks()}), flush=True)
    await asyncio.sleep(36000)
if COUNT:
    asyncio.run(main())
else:
    print('{}', flush=True)
    sys.stdin.read()
";

struct Watched {
    program: Program,
    interpreter: Interpreter,
    label: String,
}

impl Watched {
    /// Runs `source`, and gives its first line.
    fn start(python: &Python, source: &str) -> (Self, Value) {
        let program = python.run(source);
        let account = serde_json::from_str(&program.line()).expect("JSON");
        let interpreter = Interpreter::attach(program.pid()).expect("Python");
        let label = python.label();
        let watched = Self {
            program,
            interpreter,
            label,
        };
        (watched, account)
    }

    fn look(&mut self, options: &ScanOptions) -> PythonFact {
        let fact = self.interpreter.scan(0, options);
        let limits = &fact.limits;
        assert_eq!(fact.reads_failed, 0, "{}: {limits:?}", self.label);
        fact
    }

    fn next_line(&self) -> Value {
        serde_json::from_str(&self.program.line()).expect("JSON")
    }
}

fn by_id(fact: &PythonFact) -> BTreeMap<String, &PyTask> {
    let tasks: BTreeMap<String, &PyTask> = fact
        .tasks
        .iter()
        .map(|task| (task.id.to_string(), task))
        .collect();
    assert_eq!(tasks.len(), fact.tasks.len(), "no task twice");
    tasks
}

#[test]
fn what_tasks_wait_for_and_who_for_them() {
    for python in pythons(8..=15) {
        let (mut watched, account) = Watched::start(&python, TASKS);
        let label = watched.label.clone();
        let fact = watched.look(&ScanOptions::default());
        let tasks = by_id(&fact);
        for (id, expected) in account["tasks"].as_object().expect("tasks") {
            let name = expected["name"].as_str().expect("a name");
            let task = tasks
                .get(id)
                .unwrap_or_else(|| panic!("{label}: no task {name}"));
            let mut by = task.awaited_by.clone();
            by.sort_unstable();
            let wait = task.waits_for.as_ref();
            let mut found = json!({
                "name": task.name,
                "kind": wait.map(|wait| &wait.kind),
                "object": wait.and_then(|wait| wait.object),
                "by": by,
                "cancel": task.cancel_requested,
            });
            if expected["object"].is_null() {
                assert!(found["object"].is_u64(), "{label}: {found}");
                found["object"] = Value::Null;
            }
            assert_eq!(&found, expected, "{label}");
            assert_eq!((&task.exception, task.retrieved), (&None, None), "{label}");
        }
        check_count(&fact, &account, python.minor, &label);

        let pid = watched.program.pid().0.cast_signed();
        // SAFETY: it sends a signal to a child of ours that is still there.
        let sent = unsafe { libc::kill(pid, libc::SIGUSR1) };
        assert_eq!(sent, 0, "{label}");
        let ended = watched.next_line();
        let fact = watched.look(&ScanOptions::default());
        check_ended(&fact, &ended, python.minor, &label);
    }
}

/// Of tasks that are done, newer releases list none; those that failed unseen are remembered.
fn check_ended(fact: &PythonFact, ended: &Value, minor: u8, label: &str) {
    let found: BTreeMap<String, Value> = fact
        .tasks
        .iter()
        .filter(|task| task.exception.is_some())
        .map(|task| {
            assert_eq!(task.state, TaskState::Done, "{label}");
            (task.id.to_string(), json!([task.exception, task.retrieved]))
        })
        .collect();
    let expected: BTreeMap<String, Value> = ended
        .as_object()
        .expect("tasks")
        .iter()
        .filter(|(_, end)| minor < 14 || end[1] == false)
        .map(|(id, end)| (id.clone(), end.clone()))
        .collect();
    assert_eq!(found, expected, "{label}");
}

/// How many names asyncio made up; before 3.12 nothing that can be found counts them, and from 3.13
/// on named tasks do not count.
fn check_count(fact: &PythonFact, account: &Value, minor: u8, label: &str) {
    let created = account["created"].as_u64().filter(|_| minor >= 12);
    assert_eq!(fact.loops[0].tasks_created, created, "{label}");
    let is_limited = fact.limits.contains_key("loops.tasks_created");
    assert_eq!(is_limited, minor != 12, "{label}: {:?}", fact.limits);
}

#[test]
fn contexts_hold_what_the_program_put_into_them() {
    for python in pythons(8..=15) {
        let (mut watched, account) = Watched::start(&python, CONTEXTS);
        let label = watched.label.clone();
        let fact = watched.look(&ScanOptions::default());
        let tasks = by_id(&fact);
        let account = account.as_object().expect("tasks");
        assert_eq!((account.len(), tasks.len()), (1001, 1001), "{label}");
        for (id, expected) in account {
            assert_eq!(&json!(tasks[id].context), expected, "{label}");
        }
        let none = ScanOptions {
            context_vars: Vec::new(),
            ..ScanOptions::default()
        };
        let fact = watched.look(&none);
        assert!(fact.tasks.iter().all(|task| task.context.is_empty()));
    }
}

#[test]
fn any_number_of_tasks_is_read_to_the_last() {
    for (at, python) in pythons_in_turn(0).iter().enumerate() {
        // What a table of very many takes to print and to read is the same in all versions.
        let most = if at == 0 { 100_000 } else { 10_000 };
        for count in [0, 1, 10, 1_000, most] {
            let source = format!("COUNT = {count}\n{MANY}");
            let (mut watched, account) = Watched::start(python, &source);
            let label = format!("{}, {count} tasks", watched.label);
            let account = account.as_object().expect("tasks");
            assert_eq!(account.len(), count, "{label}");
            for chain in [64, 0] {
                let options = ScanOptions {
                    tasks: 200_000,
                    chain,
                    bytes: 1 << 30,
                    ..ScanOptions::default()
                };
                // The program has said its line a little before it goes to sleep.
                let deadline = Instant::now() + Duration::from_secs(10);
                let fact = loop {
                    let fact = watched.look(&options);
                    let is_parked = fact.tasks.iter().all(|t| t.state == TaskState::Pending);
                    if is_parked || Instant::now() > deadline {
                        break fact;
                    }
                };
                let limits = &fact.limits;
                assert!(!limits.contains_key("tasks"), "{label}: {limits:?}");
                assert!(!limits.contains_key("python"), "{label}: {limits:?}");
                let tasks = by_id(&fact);
                assert_eq!(tasks.len(), count, "{label}");
                for (id, name) in account {
                    let found = tasks.get(id).map(|task| task.name.as_str());
                    assert_eq!(found, name.as_str(), "{label}");
                }
                let innermost = (chain > 0).then_some("sleep");
                for task in &fact.tasks {
                    let found = task.awaiting.last().map(|frame| frame.function.as_ref());
                    assert_eq!(found, innermost, "{label}: {}", task.name);
                }
            }
        }
    }
}
