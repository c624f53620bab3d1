//! Pools that nobody gives back, and what only looks like it.

use super::*;

/// Work that would put something into the queue waits behind who waits for it.
#[test]
fn workers_that_all_wait_for_one_queue_have_exhausted_it() {
    let raised = |change: fn(&mut Process)| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..4 {
            found = story.window(|process, begin| {
                waiting(process, begin - 9 * SECOND, |wait| {
                    (wait.kind, wait.purpose) = (WaitKind::Queue, Purpose::WaitingForWork);
                });
                let tids: Vec<u32> = process.threads[1..3].iter().map(|one| one.tid).collect();
                let executor = &mut process.executors[0];
                executor.running = tids
                    .into_iter()
                    .map(|tid| Work {
                        tid: Some(tid),
                        function: None,
                        since_unix_ns: None,
                    })
                    .collect();
                executor.queued = Some(1);
                change(process);
            });
        }
        names(&found).contains(&"pool-exhausted")
    };
    assert!(raised(|_| {}));
    assert!(!raised(|process| process.executors[0].queued = Some(0)));
    assert!(!raised(|process| process.threads[1].waiting_for = None));
    assert!(!raised(|process| {
        let wait = process.threads[1].waiting_for.as_mut();
        wait.expect("it waits").object = Some(Address(0xb));
    }));
}

/// One thread maps a batch over a pool, and waits.
#[test]
fn a_batch_saturates_nothing() {
    let raised = |waiting_threads: usize, with_loop: bool| {
        let mut story = Story::new();
        let mut found = Vec::new();
        for _ in 0..6 {
            found = story.window(|process, begin| {
                process.executors[0].queued = Some(1_000);
                process.loops[0].running = with_loop;
                waiting(process, begin, |wait| {
                    (wait.kind, wait.purpose) = (WaitKind::Future, Purpose::Other);
                });
                for thread in process.threads.iter_mut().skip(1).take(waiting_threads) {
                    thread.stack = vec![Frame {
                        function: "Future.result".into(),
                        file: "/usr/lib/python3.11/concurrent/futures/_base.py".into(),
                        line: 7,
                    }];
                }
            });
        }
        names(&found).contains(&"executor-saturated")
    };
    assert!(!raised(1, false));
    assert!(raised(0, false));
    assert!(raised(2, false));
    assert!(raised(1, true));
}
