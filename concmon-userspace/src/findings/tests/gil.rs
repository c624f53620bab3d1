//! Who is named for waits for the GIL, and where.

use super::*;

#[test]
fn nobody_is_the_hog_where_it_is_not_known_who_held_the_gil() {
    let found = after(|process, _, _| {
        contended(process, 900, 0.97);
        let gil = process.gil.as_mut().expect("a GIL");
        for pair in &mut gil.pairs[..2] {
            pair.holder_tid = None;
        }
    });
    assert_eq!(names(&found), ["gil-contention"]);
    assert!(found[0].evidence["hog"].is_null(), "{:?}", found[0]);
    assert!(!found[0].summary.contains("holds it most"));
}

/// One call keeps the GIL for a second, again and again: the place where it does is named, though it is free for
/// half of the time.
#[test]
fn long_holds_of_the_gil_are_contention_between_which_it_is_free() {
    let mut story = Story::new();
    let mut found = Vec::new();
    for number in 0..8 {
        found = story.window(|process, _| {
            let holds = number % 2 == 0;
            contended(process, if holds { 900 } else { 0 }, 0.5);
            for thread in &mut process.threads {
                thread.ledger.on_cpu_ns = if holds && thread.tid == HOG {
                    900 * MS
                } else {
                    0
                };
            }
            let gil = process.gil.as_mut().expect("a GIL");
            gil.waits.as_mut().expect("waits").count = 1;
            // Between the calls, others wait for each other, a little.
            let (tid, wait_ns, place) = match holds {
                true => (HOG, 900 * MS, "scan"),
                false => (HOG + 1, MS, "other"),
            };
            gil.hog = Some(GilHog {
                tid,
                wait_ns,
                frame: Some(frame(place)),
            });
        });
    }
    assert_eq!(names(&found), ["gil-contention"]);
    assert!(
        found[0].summary.contains("at scan ("),
        "{}",
        found[0].summary
    );
    assert!(found[0].advice.contains("thread-101 (101) does at scan ("));
    assert_eq!(found[0].evidence["long_waits"], true);
}

/// Who has it waits for a CPU meanwhile: it would be free else.
#[test]
fn who_is_kept_from_running_keeps_nobody_waiting() {
    let is_told = |ran_ms: u64, runnable_ms: u64, wait_ms: u64| {
        let found = after(move |process, _, _| {
            // The longest wait is half of all.
            contended(process, 2 * wait_ms, 0.97);
            for thread in &mut process.threads {
                thread.ledger.on_cpu_ns = 50 * MS;
                if thread.tid == HOG {
                    thread.ledger.on_cpu_ns = ran_ms * MS;
                    thread.ledger.runnable_ns = runnable_ms * MS;
                }
            }
        });
        names(&found).contains(&"gil-contention")
    };
    assert!(!is_told(250, 460, 450));
    assert!(is_told(250, 300, 450));
    // It waits for a CPU now and then, also while nobody waits for it; what others wait for is that it runs.
    assert!(is_told(800, 190, 180));
}
