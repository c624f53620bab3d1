//! Who holds the GIL, read while a thread sleeps with it.

use std::time::Duration;

use crate::common::pythons;
use concmon::event::Tid;
use concmon::python::{GilSampler, Interpreter, ScanOptions};

/// `PyDLL` calls without giving the GIL up.
const HOLDER: &str = "
import ctypes, threading, time
usleep = ctypes.PyDLL(None).usleep
def hold():
    print(threading.get_native_id(), flush=True)
    for _ in range(15):
        usleep(100000)
holder = threading.Thread(target=hold)
holder.start()
holder.join()
print('free', flush=True)
time.sleep(600)
";

#[test]
fn the_holder_is_named_and_samples_tell_held_from_free() {
    for python in pythons(8..=15) {
        let label = python.label();
        let program = python.run(HOLDER);
        let holder = Tid(program.line().parse().expect("an id"));
        let pid = program.pid();
        let mut interpreter = Interpreter::attach(pid).expect("an interpreter");
        let gils = interpreter.gils().expect("GILs");
        assert_eq!(gils.len(), 1, "{label}");
        let address = gils[0].address;
        let mut sampler = GilSampler::default();
        sampler.watch(pid, &[address]).expect("a thread");

        std::thread::sleep(Duration::from_millis(300));
        let held = interpreter.scan(1, &ScanOptions::default()).gils[0];
        let counts = sampler.counts(pid, address);
        assert_eq!(held.address, address, "{label}");
        assert_eq!(held.last_holder, Some(holder), "{label}: {held:?}");
        assert!(held.locked, "{label}: {held:?}");
        assert!(counts.samples >= 3, "{label}: {counts:?}");
        assert!(
            counts.locked * 10 >= counts.samples * 9,
            "{label}: {counts:?}"
        );

        assert_eq!(program.line(), "free");
        std::thread::sleep(Duration::from_millis(50));
        let before = sampler.counts(pid, address);
        std::thread::sleep(Duration::from_millis(300));
        let after = sampler.counts(pid, address);
        let free = interpreter.scan(2, &ScanOptions::default()).gils[0];
        assert!(!free.locked, "{label}: {free:?}");
        assert!(free.switches > held.switches, "{label}: {held:?} {free:?}");
        assert!(free.read_ns > held.read_ns, "{label}");
        assert!(after.samples > before.samples, "{label}: {after:?}");
        assert!(
            (after.locked - before.locked) * 10 <= after.samples - before.samples,
            "{label}: {before:?} {after:?}"
        );
    }
}
