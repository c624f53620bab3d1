//! Stacks are those that the program gives itself, and never a mixture of two.

use std::collections::BTreeMap;

use crate::common::{pythons, pythons_in_turn};
use concmon::event::{PyFrame, PyThread};
use concmon::python::{Interpreter, ScanOptions};
use serde_json::{Value, json};

const PARKED: &str = include_str!("../../../tests/workloads/stacks.py");
const BUSY: &str = include_str!("../../../tests/workloads/stacks_busy.py");
/// Looks at each busy interpreter, three stacks in each; `CONCMON_STACK_LOOKS` asks for more.
const LOOKS: usize = 300;
/// At most this share of the stacks of a busy program may be given up as torn.
const TORN_SHARE: f64 = 0.03;

fn json_of(stack: &[PyFrame]) -> Value {
    stack
        .iter()
        .map(|frame| json!([frame.function, frame.file, frame.line]))
        .collect()
}

#[test]
fn parked_threads_are_where_the_program_says() {
    for python in pythons(8..=15) {
        let program = python.run(PARKED);
        let account: BTreeMap<String, Value> = serde_json::from_str(&program.line()).expect("JSON");
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let options = ScanOptions {
            stack: 1000,
            ..ScanOptions::default()
        };
        for _ in 0..2 {
            let fact = interpreter.scan(7, &options);
            assert_eq!(
                fact.reads_failed,
                0,
                "{}: {:?}",
                python.label(),
                fact.limits
            );
            assert!(account.len() >= 12, "{} threads", account.len());
            for (ident, expected) in &account {
                let found = fact
                    .threads
                    .iter()
                    .find(|thread| thread.ident.to_string() == *ident)
                    .map(|thread| json_of(&thread.stack));
                assert_eq!(found.as_ref(), Some(expected), "{}", python.label());
            }
        }
    }
}

/// Why a stack of the busy program cannot have been, if so.
fn wrong(thread: &PyThread) -> Option<String> {
    let names: Vec<&str> = thread.stack.iter().map(|f| f.function.as_ref()).collect();
    let Some(outermost) = names.iter().position(|name| *name == "climb") else {
        // A thread that was not in its loop yet has no more than what starts it.
        return (names.iter().any(|name| name.starts_with('f'))).then(|| names.join(" "));
    };
    let chain = names[..outermost].iter().rev().enumerate();
    let fits = chain
        .clone()
        .all(|(index, name)| *name == format!("f{index}"));
    let rest: Vec<&str> = names[outermost + 1..]
        .iter()
        .map(|name| name.rsplit('.').next().unwrap_or(name))
        .collect();
    (!fits || rest != ["run", "_bootstrap_inner", "_bootstrap"]).then(|| names.join(" "))
}

#[test]
fn stacks_of_busy_threads_are_right_or_marked() {
    let looks = std::env::var("CONCMON_STACK_LOOKS")
        .ok()
        .and_then(|looks| looks.parse().ok())
        .unwrap_or(LOOKS);
    for python in pythons_in_turn(1) {
        let program = python.run(BUSY);
        assert_eq!(program.line(), "ready");
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let (mut read, mut torn, mut depths) = (0, 0, BTreeMap::new());
        for _ in 0..looks {
            let fact = interpreter.scan(7, &ScanOptions::default());
            for thread in fact.threads.iter().filter(|thread| !thread.main) {
                read += 1;
                if thread.stack_torn {
                    assert!(thread.stack.is_empty(), "{}", python.label());
                    torn += 1;
                    continue;
                }
                *depths.entry(thread.stack.len()).or_insert(0) += 1;
                let wrong = wrong(thread);
                assert_eq!(wrong, None, "{} after {read}", python.label());
            }
        }
        let label = python.label();
        eprintln!("{label}: {read} read, {torn} torn, {} depths", depths.len());
        assert!(read >= 2 * looks, "{label}: {read} read");
        assert!(depths.len() > 5, "{label}: always as deep: {depths:?}");
        assert!(
            f64::from(torn) <= read as f64 * TORN_SHARE,
            "{label}: {torn} of {read} torn"
        );
    }
}
