//! The garbage collector's account is the one that the program has of it.

use std::time::{Duration, Instant};

use crate::common::pythons;
use concmon::event::PyGc;
use concmon::python::{Interpreter, ScanOptions};
use serde_json::{Value, json};

const PARKED: &str = "
import gc, json, sys
class Cycle:
    def __init__(self): self.me = self
gc.disable()
for generation in [0] * 14 + [1] * 5 + [2] * 4:
    cycles = [Cycle() for _ in range(10 + generation)]
    del cycles
    gc.collect(generation)
print(json.dumps(gc.get_stats()), flush=True)
sys.stdin.read()
";
/// Collects one generation again and again; nearly all of its time goes there.
const COLLECTING: &str = "
import gc, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), __import__('os')._exit(0)), daemon=True).start()
gc.disable()
keep = []
print('ready', flush=True)
while True:
    keep = [[] for _ in range(300_000)]
    gc.collect(GENERATION)
";

fn collector(interpreter: &mut Interpreter, label: &str) -> PyGc {
    let fact = interpreter.scan(7, &ScanOptions::default());
    assert!(
        !fact.limits.contains_key("gc"),
        "{label}: {:?}",
        fact.limits
    );
    fact.gc.expect("a collector")
}

#[test]
fn sums_are_what_the_program_says() {
    for python in pythons(8..=15) {
        let program = python.run(PARKED);
        let account: Vec<Value> = serde_json::from_str(&program.line()).expect("JSON");
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let found = collector(&mut interpreter, &python.label());
        let sums: Vec<Value> = found
            .generations
            .iter()
            .map(|generation| {
                json!([
                    generation.collections,
                    generation.collected,
                    generation.uncollectable
                ])
            })
            .collect();
        let expected: Vec<Value> = account
            .iter()
            .map(|sums| {
                json!([
                    sums["collections"],
                    sums["collected"],
                    sums["uncollectable"]
                ])
            })
            .collect();
        assert!(expected[0][1].as_u64().expect("a number") >= 100);
        assert_eq!(sums, expected, "{}", python.label());
        assert!(!found.collecting, "{}", python.label());
        assert_eq!(found.generation, None);
    }
}

#[test]
fn the_generation_that_is_collected_is_known() {
    const TIMES: u32 = 20;
    for python in pythons(8..=15) {
        for generation in 0..=2 {
            let source = COLLECTING.replace("GENERATION", &generation.to_string());
            let program = python.run(&source);
            program.line();
            let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
            let label = format!("{} generation {generation}", python.label());
            let deadline = Instant::now() + Duration::from_secs(60);
            let mut seen = 0;
            while seen < TIMES {
                assert!(Instant::now() < deadline, "{label}: seen {seen} times");
                let found = collector(&mut interpreter, &label);
                if found.collecting {
                    assert_eq!(found.generation, Some(generation), "{label}");
                    seen += 1;
                } else {
                    assert_eq!(found.generation, None, "{label}");
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
