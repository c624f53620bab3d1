//! Executors are those that the program says it has.

mod common;

use std::time::{Duration, Instant};

use common::pythons;
use concmon::event::PyExecutor;
use concmon::python::{Interpreter, LookOptions};
use serde_json::{Value, json};

const EXECUTORS: &str = include_str!("../../tests/workloads/executors.py");
/// Workers that have just got nothing to do need a moment until they wait for more.
const SETTLE: Duration = Duration::from_secs(30);

fn as_json(executor: &PyExecutor) -> Value {
    let mut running: Vec<(Option<u32>, Option<String>)> = executor
        .running
        .iter()
        .map(|work| (work.tid.map(|tid| tid.0), work.function.clone()))
        .collect();
    running.sort();
    json!({
        "id": executor.id,
        "kind": format!("{:?}", executor.kind),
        "prefix": executor.name_prefix,
        "workers": executor.workers,
        "idle": executor.workers_idle,
        "max": executor.max_workers,
        "queued": executor.queued,
        "running": running,
    })
}

fn sorted(mut executors: Vec<Value>) -> Vec<Value> {
    executors.sort_by_key(|executor| executor["id"].as_u64());
    executors
}

#[test]
fn executors_are_what_the_program_says() {
    for python in pythons(8..=15) {
        let program = python.run(EXECUTORS);
        let account: Vec<Value> = serde_json::from_str(&program.line()).expect("JSON");
        assert!(account.len() >= 9, "{} executors", account.len());
        let account = sorted(account);
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let deadline = Instant::now() + SETTLE;
        let mut equal = 0;
        while equal < 2 {
            let fact = interpreter.look(7, &LookOptions::default());
            assert_eq!(fact.reads_failed, 0, "{:?}", fact.limits);
            let found = sorted(fact.executors.iter().map(as_json).collect());
            if found == account {
                equal += 1;
                continue;
            }
            if Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            assert_eq!(found.len(), account.len(), "{}", python.label());
            for (found, expected) in found.iter().zip(&account) {
                assert_eq!(found, expected, "{}", python.label());
            }
        }
    }
}
