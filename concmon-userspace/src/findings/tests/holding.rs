//! When a rule holds, for how long, and what is told of several.

use super::*;

#[test]
fn a_rule_holds_after_its_patience_and_lingers() {
    let mut story = Story::new();
    let saturated = |process: &mut Process, _: u64| busy(process, 1_000);
    let quiet = |_: &mut Process, _: u64| ();
    assert!(story.window(saturated).is_empty());
    assert!(story.window(saturated).is_empty());
    let found = story.window(saturated);
    assert_eq!(names(&found), ["loop-saturated"]);
    assert_eq!(found[0].active_ns, 3 * SECOND);
    assert_eq!(found[0].since_unix_ns, 1_700_000_000 * SECOND);
    // One better second does not end it, two do.
    assert_eq!(names(&story.window(quiet)), ["loop-saturated"]);
    assert_eq!(names(&story.window(saturated)), ["loop-saturated"]);
    story.window(quiet);
    assert!(story.window(quiet).is_empty());
    // And it must be patient again.
    assert!(story.window(saturated).is_empty());
    assert!(story.judge.has_held("loop-saturated") && story.judge.has_held("any"));
    assert!(!story.judge.has_held("gc-heavy"));
    // What needs no patience does not linger.
    let mut story = Story::new();
    assert!(!story.judge.has_held("any"));
    let many = |process: &mut Process, _: u64| process.fds_count = Some(1_000);
    assert_eq!(names(&story.window(many)), ["fd-exhaustion"]);
    assert!(story.window(quiet).is_empty());
}

#[test]
fn while_nobody_looks_rules_stay_as_they_are() {
    let saturated = |process: &mut Process, _: u64| busy(process, 1_000);
    let mut story = Story::new();
    for _ in 0..2 {
        assert!(story.window(saturated).is_empty());
    }
    story.is_blind = true;
    for _ in 0..30 {
        assert!(story.window(|_, _| ()).is_empty());
    }
    story.is_blind = false;
    assert_eq!(names(&story.window(saturated)), ["loop-saturated"]);
    story.is_blind = true;
    for _ in 0..30 {
        assert_eq!(names(&story.window(|_, _| ())), ["loop-saturated"]);
    }
    story.is_blind = false;
    story.window(|_, _| ());
    assert!(story.window(|_, _| ()).is_empty());
}

#[test]
fn what_ends_and_what_is_open_is_told_while_nobody_looks() {
    let mut story = Story::new();
    story.is_blind = true;
    let found = story.window(|process, _| killed(process, 9));
    assert_eq!(names(&found), ["worker-killed"]);
    let many = |process: &mut Process, _: u64| process.fds_count = Some(1_000);
    assert_eq!(names(&story.window(many)), ["fd-exhaustion"]);
    assert!(story.window(|_, _| ()).is_empty());
    assert!(story.judge.has_held("worker-killed"));
}

#[test]
fn a_summary_has_the_worst_of_each_rule() {
    let mut story = Story::new();
    for ms in [150, 400, 200] {
        story.window(|process, begin| stalled(process, CulpritKind::Sleep, begin, ms));
        story.window(|_, _| ());
    }
    let found = story.summary();
    assert_eq!(names(&found), ["loop-blocked"]);
    assert_eq!(found[0].evidence["longest_ns"], 400 * MS);
    assert_eq!(found[0].active_ns, 3 * SECOND);
    assert_eq!(found[0].since_unix_ns, 1_700_000_000 * SECOND);
}

#[test]
fn the_critical_ones_come_first() {
    let mut story = Story::new();
    let found = story.window(|process, begin| {
        stalled(process, CulpritKind::Sleep, begin, 150);
        (process.fds_count, process.fds_limit) = (Some(1_020), Some(1_024));
    });
    assert_eq!(names(&found), ["fd-exhaustion", "loop-blocked"]);
    assert_eq!(
        (found[0].severity, found[1].severity),
        (Severity::Critical, Severity::Warning)
    );
}

/// What follows from another critical finding is a warning beside it.
#[test]
fn one_cause_is_one_critical_finding() {
    let critical = |rule: &'static str, kind: &str| Finding {
        rule,
        severity: Severity::Critical,
        summary: String::new(),
        evidence: [("kind", Value::from(kind))].into(),
        advice: String::new(),
        since_unix_ns: 0,
        active_ns: 0,
    };
    for (found, still) in [
        (
            &[
                ("cpu-starved", ""),
                ("gil-contention", ""),
                ("loop-blocked", "gil"),
            ][..],
            &["cpu-starved"][..],
        ),
        (
            &[("gil-contention", ""), ("loop-blocked", "gil")],
            &["gil-contention"],
        ),
        (
            &[("cpu-starved", ""), ("loop-blocked", "runnable")],
            &["cpu-starved"],
        ),
        (
            &[("cpu-starved", ""), ("loop-blocked", "sleep")],
            &["cpu-starved", "loop-blocked"],
        ),
        (&[("loop-blocked", "gil")], &["loop-blocked"]),
        (
            &[("gil-contention", ""), ("fd-exhaustion", "")],
            &["gil-contention", "fd-exhaustion"],
        ),
    ] {
        let found = found.iter();
        let mut found: Vec<Finding> = found.map(|(rule, kind)| critical(rule, kind)).collect();
        one_critical_per_cause(&mut found);
        let left = found
            .iter()
            .filter(|one| one.severity == Severity::Critical);
        assert_eq!(left.map(|one| one.rule).collect::<Vec<_>>(), still);
    }
}

/// Sustained is five of the last ten seconds, not one long window.
#[test]
fn stalls_are_sustained_by_seconds() {
    for (interval, windows, every, wanted) in [
        (SECOND, 12, 1, Severity::Critical),
        (SECOND, 12, 2, Severity::Critical),
        (SECOND, 12, 4, Severity::Warning),
        (100 * MS, 4, 1, Severity::Warning),
        (30 * SECOND, 2, 1, Severity::Warning),
    ] {
        let mut story = Story::new();
        story.interval = interval;
        let mut last = Severity::Info;
        for number in 0..windows {
            let found = story.window(|process, begin| {
                if number % every == 0 {
                    stalled(process, CulpritKind::Io, begin + interval / 2, 40);
                }
            });
            last = found.first().map_or(last, |finding| finding.severity);
        }
        assert_eq!(last, wanted, "{windows} of {interval}, every {every}");
    }
    let mut story = Story::new();
    let found =
        story.window(|process, begin| stalled(process, CulpritKind::Io, begin - 7 * SECOND, 7_500));
    assert_eq!(found[0].severity, Severity::Critical);
    assert!(found[0].summary.ends_with("; sustained"));
}

/// A crowd that is filled once is a pool, and threads that were there before are not born.
#[test]
fn windows_without_a_reading_neither_confirm_nor_clear() {
    let blind = |process: &mut Process, _| {
        contended(process, 900, 0.97);
        process.gil.as_mut().expect("a GIL").utilization = None;
    };
    let held = |process: &mut Process, _| contended(process, 900, 0.97);
    let has = |found: &[Finding]| names(found).contains(&"gil-contention");
    let mut feed = Story::new();
    // One reading in ten windows, as with the most that is left out.
    let mut raised = Vec::new();
    for number in 0..30 {
        let found = match number % 10 {
            0 => feed.window(held),
            _ => feed.window(blind),
        };
        raised.push(has(&found));
    }
    assert_eq!(raised.iter().position(|is| *is), Some(20), "{raised:?}");
    assert!(raised[20..].iter().all(|is| *is), "{raised:?}");
    // But not for ever; nor is anything found in windows that never had one.
    let after: Vec<bool> = (0..20).map(|_| has(&feed.window(blind))).collect();
    assert!(after[0] && !after[19], "{after:?}");
    let mut feed = Story::new();
    assert!((0..30).all(|_| !has(&feed.window(blind))));
    // Threads that do not wait have no contention, read or not.
    let mut feed = Story::new();
    for _ in 0..4 {
        feed.window(held);
    }
    let calm = |process: &mut Process, _| {
        contended(process, 1, 0.97);
        process.gil.as_mut().expect("a GIL").utilization = None;
    };
    let calm: Vec<bool> = (0..4).map(|_| has(&feed.window(calm))).collect();
    assert!(!calm[3], "{calm:?}");
}
