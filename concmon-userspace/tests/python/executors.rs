//! Executors are those that the program says it has.

use std::time::{Duration, Instant};

use crate::common::{pythons, pythons_in_turn};
use concmon::event::PyExecutor;
use concmon::python::{Interpreter, ScanOptions};
use serde_json::{Value, json};

const EXECUTORS: &str = include_str!("../../../tests/workloads/executors.py");
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
            let fact = interpreter.scan(7, &ScanOptions::default());
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

/// Work that ends while it is read has no name or its own, never another's; and a pool whose work is
/// short is found as busy as the program says it was.
#[test]
fn short_work_has_no_wrong_names() {
    const SOURCE: &str = "
import concurrent.futures, functools, sys, threading, time
now = time.perf_counter
busy = [0.0] * 4
ids = {}
def timed(work):
    begin = now()
    work()
    busy[ids.setdefault(threading.get_ident(), len(ids))] += now() - begin
def quick(): timed(lambda: None)
def short(): timed(lambda: time.sleep(0.0005))
class Thing:
    def method(self): timed(lambda: time.sleep(0.0002))
pool = concurrent.futures.ThreadPoolExecutor(4)
ends = threading.Event()
def feed():
    while not ends.is_set():
        work = [quick, short, Thing().method, functools.partial(short)]
        concurrent.futures.wait([pool.submit(one) for one in work * 5])
feeder = threading.Thread(target=feed)
feeder.start()
time.sleep(0.3)
begin, before = now(), sum(busy)
print('ready', flush=True)
sys.stdin.readline()
print((sum(busy) - before) / (now() - begin), flush=True)
ends.set()
";
    const LOOKS: u32 = 200;
    let names = ["__main__.quick", "__main__.short", "__main__.Thing.method"];
    for python in pythons_in_turn(2) {
        let mut program = python.run(SOURCE);
        program.line();
        let mut interpreter = Interpreter::attach(program.pid()).expect("a Python");
        let options = ScanOptions {
            stack: 0,
            ..ScanOptions::default()
        };
        let (mut looks, mut seen, mut named) = (0, 0, 0);
        for _ in 0..LOOKS {
            let fact = interpreter.scan(7, &options);
            let [pool] = &fact.executors[..] else {
                continue;
            };
            looks += 1;
            assert!(pool.workers <= 4 && pool.running.len() <= 4);
            for work in &pool.running {
                seen += 1;
                if let Some(name) = work.function.as_deref() {
                    assert!(names.contains(&name), "{}: {name}", python.label());
                    named += 1;
                }
            }
            // Looks at equal distances might meet the program always at the same place.
            std::thread::sleep(Duration::from_micros(u64::from(looks * 977 % 10_000)));
        }
        assert!(
            looks * 10 >= LOOKS * 9,
            "{}: {looks} of {LOOKS}",
            python.label()
        );
        program.say("");
        let account: f64 = program.line().parse().expect("a number");
        let found = f64::from(seen) / f64::from(looks);
        eprintln!(
            "{}: {found:.2} workers busy, {account:.2} by its own account, {named} of {seen} named",
            python.label()
        );
        assert!(
            found > account * 0.2,
            "{}: {found} of {account}",
            python.label()
        );
    }
}
