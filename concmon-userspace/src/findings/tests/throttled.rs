//! What a CPU quota takes, and what the kernel's sum over all CPUs makes of it.

use super::*;
use crate::schema::{CpuQuota, Throttled};

/// The worst thread waits so long, ms of each second, and the quota takes so much on all CPUs together.
pub(super) fn throttled(process: &mut Process, waits_ms: u64, took_ms: Option<u64>) {
    for thread in &mut process.threads {
        thread.ledger.runnable_ns = waits_ms * MS;
    }
    process.throttled = Some(Throttled {
        throttled_ns: took_ms.map(|ms| ms * MS),
        throttled_count: took_ms.map(|_| 10),
        cpu_quota: CpuQuota {
            cgroup: "/pod".to_owned(),
            cpus: 4.0,
        },
        readings: Vec::new(),
    });
}

#[test]
fn what_is_told_is_the_time_of_a_thread() {
    // 64 CPUs, for a fifth of the time.
    let found = after(|p, _, _| throttled(p, 200, Some(64 * 200)));
    assert_eq!(names(&found), ["cpu-throttled"]);
    assert_eq!(found[0].severity, Severity::Warning);
    let summary = "the quota of 4 CPUs of cgroup /pod kept a thread from running 20 % of the time";
    assert_eq!(found[0].summary, summary);
    assert_eq!(found[0].evidence["throttled_ns"], 64 * 200 * MS);
    assert_eq!(found[0].evidence["throttled_share"], 0.2);
    let found = after(|p, _, _| throttled(p, 600, Some(64 * 600)));
    assert_eq!(found[0].severity, Severity::Critical);
    // It is taken from others of the cgroup.
    assert_eq!(
        names(&after(|p, _, _| throttled(p, 20, Some(900)))),
        [""; 0]
    );
}

/// A window in which it was not read says nothing.
#[test]
fn a_window_that_is_not_known_ends_nothing() {
    let found = after(|p, _, number| {
        let is_read = number % 4 != 3;
        throttled(p, 200, is_read.then_some(200));
    });
    assert_eq!(names(&found), ["cpu-throttled"]);
    assert_eq!(names(&after(|p, _, _| throttled(p, 90, None))), [""; 0]);
}
