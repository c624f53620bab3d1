//! Scans of noise, which must come to an end.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::event::{Pid, PyFrame, PythonInfo, Tid};
use crate::python::detect::LiveProcess;
use crate::python::layout::{Version, row};
use crate::python::objects::code::{CodeCache, CodePosition};
use crate::python::objects::synthetic::Noise;
use crate::python::walk::stacks::StackFrame;
use crate::python::walk::thread_states::ThreadRecord;
use crate::python::walk::waits::{self, Blocked};
use crate::python::walk::{tasks, threads};

/// Threads that are blocked somewhere, in functions that rules know.
fn scan_waits(reader: &mut Reader<'_>, address: &impl Fn(u64) -> u64) {
    let places: Vec<PyFrame> = ["wait", "get", "join", "_worker"]
        .iter()
        .zip(["threading.py", "queue.py", "threading.py", "x.py"])
        .map(|(function, file)| PyFrame {
            function: (*function).into(),
            file: format!("/lib/{file}").into(),
            line: 1,
        })
        .collect();
    let frames: Vec<StackFrame> = (0..400)
        .map(|index| StackFrame {
            address: address(index),
            position: CodePosition {
                code: address(index + 1),
                offset: 0,
            },
        })
        .collect();
    let blocked: Vec<Blocked<'_>> = (0..100)
        .map(|slot| Blocked {
            tid: Tid(8),
            futex: address(slot as u64),
            frames: &frames[4 * slot..4 * slot + 4],
            places: &places[slot % 4..],
        })
        .collect();
    let tids = (0..9).map(|ident| (ident, Tid(7))).collect();
    let found = waits::waits(reader, &blocked, &tids);
    assert_eq!(found.len(), blocked.len());
}

/// Looks at noise at everything there is, until it is over. Gives how many reads failed.
fn scan_noise(
    minor: u8,
    noise: &Noise,
    options: &ScanOptions,
    is_over: &IsOver<'_>,
) -> (u64, PythonFact) {
    let layout = row(Version { major: 3, minor }).unwrap();
    let memory = UntilOver {
        memory: noise,
        is_over,
    };
    let pid = Pid(std::process::id());
    let mut reader = Reader::new(&memory, layout.walk, options.bytes);
    let mut fact = PythonFact::new(
        pid,
        0,
        PythonInfo {
            implementation: String::new(),
            version: None,
            free_threaded: false,
            supported: true,
            reason: None,
        },
    );
    let address = |index: u64| noise.address(index);
    let mut remembered = Remembered::default();
    remembered.find_modules(&mut reader, address(0), &layout);
    remembered.dicts = vec![Some(address(1)), Some(address(2))];
    remembered.tasks = (0..50).map(address).collect();
    let mut scan = Scan {
        memory: &memory,
        runtime: address(3),
        layout: &layout,
        interpreter: address(3),
        is_entered: false,
        process: &mut ProcessView::of(Box::new(LiveProcess(pid))),
        codes: &mut CodeCache::default(),
        remembered: &mut remembered,
        options,
    };
    let records: Vec<ThreadRecord> = (0..20)
        .map(|index| ThreadRecord::read(noise, address(index), &reader.walk.thread))
        .collect::<Result<_, _>>()
        .unwrap();
    let tids = scan.add_threads(&mut reader, &records, &mut fact);
    scan.add_loops(&mut reader, &records, &tids, &mut fact);
    let stacks = scan.add_stacks(&mut reader, &records, &tids, &mut fact);
    scan.add_tasks(&mut reader, &records, &stacks, &mut fact);
    let objects: Vec<u64> = (0..200).map(address).collect();
    tasks::read(
        &mut reader,
        scan.codes,
        &objects,
        &HashSet::new(),
        &stacks,
        scan.options,
    );
    scan_waits(&mut reader, &address);
    for object in objects {
        if reader.is_over() {
            break;
        }
        reader.callable_name(object);
        threads::accounts(&mut reader, object);
        let _ = reader.set(object);
    }
    scan.run(&mut reader, &mut fact);
    fact.limits = reader.limits;
    (reader.failed, fact)
}

/// Whatever memory holds, a scan comes to an end, and says what it could not read.
#[test]
fn a_scan_of_noise_ends() {
    let options = ScanOptions {
        tasks: 100,
        chain: 16,
        bytes: 1 << 20,
        ..ScanOptions::default()
    };
    let mut failed = 0;
    for seed in 0..200 {
        let minor = 8 + (seed % 8) as u8;
        let noise = Noise::new(minor, seed);
        failed += scan_noise(minor, &noise, &options, &|| None).0;
    }
    assert!(failed > 200, "{failed}");
}

/// However large everything is that a target has made up, a scan ends soon when it has to.
#[test]
fn a_scan_of_huge_noise_ends_when_it_has_to() {
    /// Each part of the scan, and what the test adds to them, may find out for itself.
    const MOST_AFTER: usize = 3000;
    let options = ScanOptions {
        bytes: 1 << 24,
        ..ScanOptions::default()
    };
    for seed in 0..8 {
        let minor = 8 + seed as u8;
        let noise = Noise::huge(minor, seed);
        for most in [0, 1, 3, 10, 30, 100, 300, 1000] {
            let asked = AtomicUsize::new(0);
            let is_over = || {
                let before = asked.fetch_add(1, Ordering::Relaxed);
                (before >= most).then(|| "time is up".to_owned())
            };
            let (_, fact) = scan_noise(minor, &noise, &options, &is_over);
            let asked = asked.load(Ordering::Relaxed);
            assert!(asked <= most + MOST_AFTER, "{seed}: {asked} after {most}");
            let is_said = fact.limits.contains_key("tasks");
            assert!(asked <= most || is_said, "{seed}: {:?}", fact.limits);
        }
    }
}
