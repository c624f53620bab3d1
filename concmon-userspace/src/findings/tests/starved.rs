//! Loops that stand still for want of a CPU.

use super::*;
use crate::schema::Hang;

/// A stall of 300 ms, so much of which its thread waited for a CPU.
fn stalled_runnable(process: &mut Process, begin: u64, runnable_ms: u64) {
    stalled(process, CulpritKind::Runnable, begin, 300);
    let timing = process.loops[0].timing.as_mut().expect("a timing");
    let stall = timing.stalls.last_mut().expect("a stall");
    stall.cost.runnable_ns = runnable_ms * MS;
}

#[test]
fn what_the_host_took_is_not_advice_about_the_program() {
    let after = |runnable_ms: u64| after(|p, begin, _| stalled_runnable(p, begin, runnable_ms));
    let found = after(250);
    assert_eq!(names(&found), ["cpu-starved"]);
    assert_eq!(found[0].evidence["stalled_ns"], 300 * MS);
    let said = "an event loop stood still for 300 ms by that";
    assert!(found[0].summary.ends_with(said), "{}", found[0].summary);
    // The loop's threshold is 100 ms: it is a stall without that, too.
    assert_eq!(names(&after(160)), ["loop-blocked"]);
    // Once is no starvation.
    let mut story = Story::new();
    let found = story.window(|p, begin| stalled_runnable(p, begin, 250));
    assert_eq!(names(&found), [""; 0]);
}

#[test]
fn one_that_is_the_programs_is_told_beside_longer_ones_of_the_host() {
    let mut story = Story::new();
    let found = story.window(|p, begin| {
        stalled_runnable(p, begin, 250);
        stalled(p, CulpritKind::Sleep, begin + 400 * MS, 150);
    });
    assert_eq!(names(&found), ["loop-blocked"]);
    let evidence = &found[0].evidence;
    assert_eq!(
        (&evidence["stalls"], &evidence["longest_ns"]),
        (&1.into(), &(150 * MS).into())
    );
}

/// Threads that wake ten times a second for a moment, and wait some milliseconds each time.
#[test]
fn who_hardly_computes_loses_little() {
    let found = |running_ms: u64, waiting_ms: u64| {
        let found = after(move |process, _, _| {
            for thread in &mut process.threads {
                thread.ledger.on_cpu_ns = running_ms * MS;
                thread.ledger.runnable_ns = waiting_ms * MS;
                thread.switches.voluntary = 10;
            }
        });
        names(&found) == ["cpu-starved"]
    };
    assert!(!found(5, 150));
    assert!(!found(5, 600));
    assert!(found(5, 900));
    assert!(found(60, 150));
    assert!(!found(60, 5));
}

#[test]
fn a_hang_for_want_of_a_cpu_is_starvation() {
    let hanging = |cause: CulpritKind| {
        after(move |process, begin, _| {
            process.loops[0].hang = Some(Hang {
                since_unix_ns: begin,
                lasting_ns: 900 * MS,
                before_watch: false,
                cause,
                frame: Some(frame("slow")),
                holder_tid: None,
                task: None,
                coroutine: None,
                creator: None,
                stack: Vec::new(),
                context: BTreeMap::new(),
                trace: None,
                waiting: None,
                delayed: None,
                estimated: Vec::new(),
                limits: Vec::new(),
            });
        })
    };
    assert_eq!(names(&hanging(CulpritKind::Runnable)), ["cpu-starved"]);
    assert_eq!(names(&hanging(CulpritKind::Cpu)), ["loop-blocked"]);
}

#[test]
fn stalls_that_come_again_and_again_are_starvation() {
    let every = |windows: u64| {
        after(|p, begin, number| {
            if number % windows == 0 {
                stalled_runnable(p, begin, 250);
            }
        })
    };
    let found = every(2);
    assert_eq!(names(&found), ["cpu-starved"]);
    assert_eq!(found[0].evidence["stalled_ns"], 300 * MS);
    assert_eq!(names(&every(6)), [""; 0]);
}

#[test]
fn long_windows_tell_what_comes_again_and_is_not_the_quotas() {
    let of = |stalls: u64, took_ms: Option<u64>| {
        let mut story = Story::new();
        story.interval = 10 * SECOND;
        let found = story.window(|p, begin| {
            throttled::throttled(p, 0, took_ms);
            (0..stalls).for_each(|at| stalled_runnable(p, begin + 3 * at * SECOND, 250));
        });
        names(&found)
    };
    assert_eq!(of(3, Some(100)), ["cpu-starved"]);
    assert_eq!(of(1, Some(0)), [""; 0]);
    // Less than a tenth of the window, but of the stalls it is all.
    assert_eq!(of(3, Some(900)), [""; 0]);
    // Where nobody knows, it is told.
    assert_eq!(of(3, None), ["cpu-starved"]);
}
