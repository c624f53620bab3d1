//! What threads wait for is what the program in which they wait says.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{pythons, pythons_in_turn};
use concmon::event::{PyFrame, PythonFact};
use concmon::python::{Interpreter, ScanOptions};
use serde_json::{Value, json};

const WAITS: &str = include_str!("../../../tests/workloads/waits.py");
const BUSY: &str = include_str!("../../../tests/workloads/waits_busy.py");
/// Looks at each busy interpreter.
const LOOKS: usize = 200;
/// Other programs on a busy machine can spoil one now and then, while a defect spoils each.
const ATTEMPTS: usize = 4;
/// On a loaded machine, threads take their time to get where they say they wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// By thread identity, as the program says it.
fn waits_of(fact: &PythonFact) -> BTreeMap<String, Value> {
    let idents: BTreeMap<u32, u64> = fact
        .threads
        .iter()
        .map(|thread| (thread.tid.0, thread.ident))
        .collect();
    fact.threads
        .iter()
        .map(|thread| {
            let wait = thread.waiting_for.as_ref();
            let value = json!({
                "name": thread.name,
                "kind": wait.map(|wait| format!("{:?}", wait.kind)),
                "purpose": wait.map(|wait| format!("{:?}", wait.purpose)),
                "object": wait.and_then(|wait| wait.object),
                "owner": wait.and_then(|wait| wait.owner).map(|tid| idents[&tid.0]),
            });
            (thread.ident.to_string(), value)
        })
        .collect()
}

#[test]
fn threads_wait_for_what_the_program_says() {
    for python in pythons(8..=15) {
        let program = python.run(WAITS);
        let expected: BTreeMap<String, Value> =
            serde_json::from_str(&program.line()).expect("JSON");
        assert!(expected.len() > 30, "{} threads", expected.len());
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let fact = interpreter.scan(7, &ScanOptions::default());
            let found = waits_of(&fact);
            let wrong: Vec<String> = expected
                .iter()
                .filter(|(ident, wait)| found.get(*ident) != Some(wait))
                .map(|(ident, wait)| format!("{wait}\n  not {:?}", found.get(ident)))
                .collect();
            if wrong.is_empty() {
                break;
            }
            let label = python.label();
            assert!(
                Instant::now() < deadline,
                "{label}: {} wrong:\n{}\n{:?}",
                wrong.len(),
                wrong.join("\n"),
                fact.limits
            );
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}

/// What a busy program's threads were said to wait for, by kind, and what of it could not be true.
#[derive(Debug, Default)]
struct Told {
    kinds: BTreeMap<String, u32>,
    torn: Vec<(Value, Option<PyFrame>)>,
}

fn look_again_and_again(interpreter: &mut Interpreter, legal: &[Value], label: &str) -> Told {
    let mut told = Told::default();
    for _ in 0..LOOKS {
        let fact = interpreter.scan(7, &ScanOptions::default());
        for thread in &fact.threads {
            let Some(wait) = &thread.waiting_for else {
                continue;
            };
            let kind = format!("{:?}", wait.kind);
            let value = json!([kind, format!("{:?}", wait.purpose), wait.object]);
            // By its stack of a moment later it may be inside the statement that it waited to enter.
            let is_own = wait.owner == Some(thread.tid);
            assert!(wait.inferred || !is_own, "{label}: {value}");
            if is_own || !legal.contains(&value) {
                told.torn.push((value, thread.stack.first().cloned()));
            }
            *told.kinds.entry(kind).or_insert(0) += 1;
        }
    }
    // The stack may be that of a moment later: the lock inside a queue is then told as a lock.
    let is_lock = |value: &Value| value[0] == "Lock";
    assert!(
        told.torn.iter().all(|(value, _)| is_lock(value)),
        "{label}: {told:?}"
    );
    told
}

/// Threads go on between the reads of their stack and of what they are blocked on: what is told
/// is then one of the few things that can be true, or nothing, but for one in fifty. Where other programs
/// take the CPU between the two reads there may be more, now and then.
#[test]
fn no_wait_is_made_up_while_threads_go_on() {
    for python in pythons_in_turn(1) {
        let label = python.label();
        let program = python.run(BUSY);
        let legal: Vec<Value> = serde_json::from_str(&program.line()).expect("JSON");
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let mut is_right = || {
            let told = look_again_and_again(&mut interpreter, &legal, &label);
            let count: u32 = told.kinds.values().sum();
            eprintln!("{label}: {:?}, {} torn", told.kinds, told.torn.len());
            count >= 20 && told.torn.len() as u32 * 50 <= count
        };
        assert!((0..ATTEMPTS).any(|_| is_right()), "{label}: see above");
    }
}
