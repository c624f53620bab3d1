//! What windows come to, how long it stays, how much it may be, and how it reads in each format.

use std::collections::BTreeMap;

use super::collect::{Collected, MAX_SERIES, Services, width};
use super::text::Dialect;
use super::*;
use crate::agent::events::{Event, SpanIds, Step, What};
use crate::event::ThrottledFact;
use crate::model::testing::{Fixture, SECOND};
use crate::schema::{
    CulpritKind, Ended, Exits, Group, GroupFinding, GroupGc, GroupGil, GroupLoops, GroupSource,
    GroupTasks, Histogram, LedgerSum, LoopKind, Role, Roles, Severity, Snapshot,
};

const MINUTE_NS: u64 = 60_000_000_000;

/// A window in which nothing was watched.
pub(super) fn window() -> Snapshot {
    Fixture::new().tick(SECOND)
}

pub(super) fn group(name: &str) -> Group {
    Group {
        name: name.to_owned(),
        source: GroupSource::Script,
        processes_count: 1,
        processes_started: 0,
        processes_ended: 0,
        exits: Exits::default(),
        roles: Roles::default(),
        cpu_ns: 0,
        cpu_user_ns: 2_500_000_000,
        cpu_system_ns: 0,
        cpu_percent: 0.0,
        rss_bytes: Some(4096),
        threads_count: None,
        threads_started: 0,
        fds_count: None,
        ledger: LedgerSum::default(),
        lock_ns: Default::default(),
        by_role: BTreeMap::new(),
        context_switches: Default::default(),
        wakeup_latency: Histogram::default(),
        gil: None,
        gc: None,
        loops: Vec::new(),
        tasks: GroupTasks {
            pending: None,
            created: None,
            exact: None,
        },
        work: None,
        http: None,
        peers: Vec::new(),
        stalls: Vec::new(),
        ended: Ended::default(),
        findings: Vec::new(),
        estimated: Vec::new(),
        limits: Vec::new(),
    }
}

fn finding(rule: &'static str) -> GroupFinding {
    GroupFinding {
        rule,
        severity: Severity::Warning,
        processes_count: 2,
        pid: 1,
        summary: String::new(),
    }
}

fn value(collected: &Collected, of: Name, label: &str) -> Option<f64> {
    let mut samples = collected.samples.iter();
    let found = samples
        .find(|sample| sample.of == of && sample.labels.iter().skip(1).all(|one| one == label));
    match found?.value {
        Value::Number(number) => Some(number),
        Value::Histogram(_) => None,
    }
}

/// A service of which everything there is was seen.
fn full() -> Group {
    let ledger = LedgerSum {
        on_cpu_ns: 1,
        runnable_ns: 1,
        unknown_ns: 1,
        blocked_ns: crate::schema::Blocked {
            gil: 1,
            lock: 1,
            poll: 1,
            sleep: 1,
            io: 1,
            child: 1,
            disk: 1,
            stopped: 1,
            other: 1,
        },
        ..LedgerSum::default()
    };
    let some = Histogram {
        count: 3,
        buckets: vec![(1_024, 3)],
        ..Histogram::default()
    };
    let causes = [
        CulpritKind::Cpu,
        CulpritKind::Gc,
        CulpritKind::Gil,
        CulpritKind::Lock,
    ];
    let causes = causes
        .into_iter()
        .chain([CulpritKind::Io, CulpritKind::Poll]);
    let of_kind = |kind| GroupLoops {
        kind,
        running: 1,
        idle_ns: 1,
        busy_ns: 1,
        lag: Some(some.clone()),
        step: Some(some.clone()),
        stalls_count: 1,
        stalls_ns: 1,
        delayed: None,
        stalls_by_cause: causes.clone().map(|cause| (cause.name(), 1)).collect(),
        hung: 0,
        estimated: Vec::new(),
    };
    let roles = [Role::Main, Role::Loop, Role::Pool, Role::Other];
    Group {
        by_role: roles
            .map(|role| (role.name(), ledger))
            .into_iter()
            .collect(),
        gil: Some(GroupGil {
            wait_ns: 1,
            waits: some.clone(),
            held_ns: 1,
            estimated: Vec::new(),
        }),
        gc: Some(GroupGc {
            collections: vec![1, 2, 3],
            collected: vec![1, 2, 3],
        }),
        loops: [LoopKind::Asyncio, LoopKind::Uvloop, LoopKind::Trio]
            .map(of_kind)
            .to_vec(),
        ..group("full")
    }
}

#[test]
fn a_service_has_at_most_so_many_series() {
    let mut services = Services::default();
    let mut window = window();
    let mut told = full();
    window.groups = vec![told.clone()];
    let mut before = Vec::new();
    // More and more of it comes: what is there stays.
    for at in 0..30u64 {
        let rule: &'static str = Box::leak(format!("rule-{at}").into_boxed_str());
        window.groups[0].findings = vec![finding(rule)];
        told.exits.unknown = at;
        let collected = services.collect(&window, &[told.clone()], 1 + at);
        let count: usize = collected.samples.iter().map(width).sum();
        assert!(count <= MAX_SERIES, "{count} series");
        assert!(collected.refused > 0 && count > MAX_SERIES - 20, "{count}");
        let keys: Vec<_> = collected
            .samples
            .iter()
            .map(|of| (of.of, of.labels.clone()))
            .collect();
        assert!(before.iter().all(|key| keys.contains(key)), "a series went");
        before = keys;
    }
}

#[test]
fn a_common_service_has_room_for_all_of_it() {
    let common = Group {
        loops: full().loops[..1].to_vec(),
        by_role: full().by_role.into_iter().take(2).collect(),
        findings: Vec::new(),
        ..full()
    };
    let collected = Services::default().collect(&window(), &[common], 1);
    let count: usize = collected.samples.iter().map(width).sum();
    assert_eq!(collected.refused, 0, "{count} series");
}

#[test]
fn a_service_goes_five_minutes_after_its_last_process() {
    let mut services = Services::default();
    let window = window();
    let living = group("shop");
    let empty = Group {
        processes_count: 0,
        ..group("shop")
    };
    let shown = |collected: &Collected| value(collected, Name::CpuTime, "user");
    let first = services.collect(&window, std::slice::from_ref(&living), MINUTE_NS);
    assert_eq!(shown(&first), Some(2.5));
    let still = services.collect(&window, std::slice::from_ref(&empty), 5 * MINUTE_NS);
    assert!(shown(&still) == Some(2.5) && still.gone.is_empty());
    let gone = services.collect(&window, &[empty], 6 * MINUTE_NS);
    assert!(shown(&gone).is_none() && gone.gone == ["shop"] && gone.services == 0);
    // Unless its sums were forgotten, they go on where they were.
    let back = services.collect(&window, &[living], 7 * MINUTE_NS);
    assert_eq!(shown(&back), Some(2.5));
}

/// None of its processes ever lives at the end of a window.
#[test]
fn a_service_of_short_processes_stays() {
    let mut services = Services::default();
    let mut window = window();
    let told = Group {
        processes_count: 0,
        ..group("cron")
    };
    window.groups = vec![told.clone()];
    for minute in 1..20 {
        let collected = services.collect(&window, std::slice::from_ref(&told), minute * MINUTE_NS);
        assert!(collected.gone.is_empty(), "after {minute} minutes");
    }
}

/// Its container is another one after each start.
#[test]
fn what_is_known_of_a_service_may_change_as_often_as_it_will() {
    let mut services = Services::default();
    let mut told = group("shop");
    for at in 0..300 {
        told.source = match at % 2 {
            0 => GroupSource::Script,
            _ => GroupSource::Otel,
        };
        let mut fixture = Fixture::new();
        fixture.read(100, 100, SECOND, |_| {});
        fixture.proc(100, SECOND, |fact| {
            fact.place.container = Some(format!("{at:064x}"));
        });
        let mut window = fixture.tick(SECOND);
        for process in &mut window.processes {
            process.group = Some("shop".to_owned());
        }
        let collected = services.collect(&window, std::slice::from_ref(&told), 1 + at);
        let mut of = collected.samples.iter();
        let info = of.find(|sample| sample.of == Name::GroupInfo);
        let info = info.expect("it is told");
        assert_eq!(info.labels[2], format!("{at:064x}"));
        assert_eq!(collected.refused, 0, "after {at}");
    }
}

/// A worker is throttled, its parent waits for it in the same cgroup and is read when it ends.
#[test]
fn what_a_quota_takes_counts_once() {
    let mut services = Services::default();
    let mut fixture = Fixture::new();
    let mut after = |second: u64, read: &[(u32, u64)], ended: Option<u32>| {
        let at = second * SECOND;
        for (pid, throttled_ns) in read {
            fixture.read(*pid, *pid, at, |_| {});
            fixture.proc(*pid, at, |fact| {
                fact.quotas = vec![ThrottledFact {
                    cgroup: "/pod".to_owned(),
                    quota_ns: 1,
                    period_ns: 1,
                    throttled_ns: *throttled_ns,
                    count: 1,
                }];
            });
        }
        if let Some(pid) = ended {
            fixture.die(pid, pid, at);
        }
        let mut window = fixture.tick(at);
        for process in &mut window.processes {
            process.group = Some("shop".to_owned());
        }
        let collected = services.collect(&window, &[group("shop")], at);
        let mut of = collected.samples.iter();
        let sample = of.find(|sample| sample.of == Name::CpuThrottled);
        match sample.expect("it is told").value {
            Value::Number(number) => (number * 1e9).round() as u64,
            Value::Histogram(_) => panic!("it is a number"),
        }
    };
    const S: u64 = SECOND;
    // What was taken before is nobody's.
    assert_eq!(after(1, &[(100, 50 * S), (101, 50 * S)], None), 0);
    assert_eq!(after(2, &[(101, 51 * S)], None), S);
    assert_eq!(after(3, &[(101, 52 * S)], None), 2 * S);
    assert_eq!(after(4, &[(100, 53 * S), (101, 53 * S)], None), 3 * S);
    // One ends, after it was read.
    assert_eq!(after(5, &[(101, 54 * S)], Some(101)), 4 * S);
    // Others of the cgroup used it up while nobody was read.
    assert_eq!(after(6, &[], None), 4 * S);
    assert_eq!(after(7, &[(100, 56 * S)], None), 6 * S);
    // A new cgroup of that name.
    assert_eq!(after(8, &[(100, S)], None), 7 * S);
}

/// An alert that waits for a minute would never come if the series ended with each pause.
#[test]
fn loops_that_hang_do_so_while_nobody_looks() {
    let mut services = Services::default();
    let mut at = 0;
    let mut told = |hung: u64, is_blind: bool| {
        let mut window = window();
        if is_blind {
            window.monitor.unobserved_ns = window.window.duration_ns;
        }
        let mut service = group("shop");
        service.loops = full().loops;
        service.loops[0].hung = hung;
        at += 1;
        value(
            &services.collect(&window, &[service], at),
            Name::LoopHung,
            "",
        )
    };
    // A service that comes in a pause was never looked at.
    assert_eq!(told(0, true), None);
    assert_eq!(told(2, false), Some(2.0));
    assert_eq!((told(0, true), told(0, true)), (Some(2.0), Some(2.0)));
    assert_eq!((told(0, false), told(0, true)), (Some(0.0), Some(0.0)));
}

#[test]
fn a_rule_that_held_once_is_zero_from_then_on() {
    let mut services = Services::default();
    let mut window = window();
    let told = [group("shop")];
    window.groups = vec![group("shop")];
    let of = |collected: &Collected| value(collected, Name::FindingActive, "loop-blocked");
    assert_eq!(of(&services.collect(&window, &told, 1)), None);
    window.groups[0].findings = vec![finding("loop-blocked")];
    assert_eq!(of(&services.collect(&window, &told, 2)), Some(2.0));
    window.groups[0].findings.clear();
    assert_eq!(of(&services.collect(&window, &told, 3)), Some(0.0));
}

#[test]
fn every_family_is_declared_in_every_format() {
    let open = text::write(&[], Dialect::OpenMetrics);
    let plain = text::write(&[], Dialect::Prometheus);
    assert!(open.ends_with("# EOF\n"));
    for family in FAMILIES {
        let name = family.name;
        assert!(open.contains(&format!("# HELP {name} ")), "{name}");
        let suffix = family.suffix();
        assert!(plain.contains(&format!("# TYPE {name}{suffix} ")), "{name}");
        assert!(!family.help.contains(['\\', '\n']), "{name}");
        let is_info = matches!(family.kind, Kind::Info);
        assert!(is_info || !name.ends_with("_info"), "{name}");
        assert!(
            !name.ends_with("_total") && !name.ends_with("_ratio"),
            "{name}"
        );
    }
    let mut names: Vec<_> = FAMILIES.iter().map(|family| family.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), FAMILIES.len());
}

#[test]
fn series_are_written_as_the_format_wants() {
    let mut service = full();
    service.name = "a\"b\\c\nd".to_owned();
    let collected = Services::default().collect(&window(), &[service], 1);
    let out = text::write(&collected.samples, Dialect::Prometheus);
    let name = r#"service_name="a\"b\\c\nd""#;
    for line in [
        format!("concmon_cpu_time_seconds_total{{{name},concmon_mode=\"user\"}} 2.5"),
        format!("concmon_memory_usage_bytes{{{name}}} 4096"),
        format!(
            "concmon_loop_lag_seconds_bucket{{{name},concmon_kind=\"asyncio\",le=\"0.001\"}} 3"
        ),
        format!("concmon_loop_lag_seconds_bucket{{{name},concmon_kind=\"asyncio\",le=\"+Inf\"}} 3"),
        format!("concmon_loop_lag_seconds_count{{{name},concmon_kind=\"asyncio\"}} 3"),
        format!("concmon_group_info{{{name},concmon_source=\"script\"}} 1"),
    ] {
        assert!(out.lines().any(|known| known == line), "{line}\n{out}");
    }
}

/// The latest recorded one stays behind its series, wherever the bound lies; Prometheus's own text has none.
#[test]
fn stalls_of_traces_stand_behind_their_series() {
    let stall = |trace, sampled, duration_ns| Event {
        service: "shop".to_owned(),
        pid: 1,
        at_unix_ns: 1_700_000_000_000_000_000,
        duration_ns,
        what: What::Stall(Step {
            cause: "lock".to_owned(),
            kind: "asyncio".to_owned(),
            task: None,
            coroutine: None,
            stack: Vec::new(),
            trace: Some(SpanIds {
                trace_id: [trace; 16],
                span_id: Some([0xcd; 8]),
                sampled,
            }),
            context: BTreeMap::new(),
            delayed: None,
        }),
    };
    let mut exemplars = Exemplars::default();
    exemplars.take(&[
        stall(0xab, true, 500_000_000),
        stall(0x01, false, 700_000_000),
    ]);
    let mut service = full();
    service.name = "shop".to_owned();
    let mut samples = Services::default()
        .collect(&window(), &[service], 1)
        .samples;
    exemplars.give(&mut samples);
    let lines = |dialect| {
        let out = text::write(&samples, dialect);
        let shown = out.lines().filter(|line| line.contains(" # {"));
        shown.map(str::to_owned).collect::<Vec<_>>()
    };
    let behind = format!(
        " # {{trace_id=\"{}\",span_id=\"{}\"}} 0.5 1700000000.500",
        "ab".repeat(16),
        "cd".repeat(8)
    );
    let shown = lines(Dialect::OpenMetrics);
    assert_eq!(shown.len(), 2, "{shown:?}");
    assert!(
        shown.iter().all(|line| line.ends_with(&behind)),
        "{shown:?}"
    );
    assert!(lines(Dialect::Prometheus).is_empty());
    let bytes = proto::write(&samples);
    let text = "ab".repeat(16);
    let found = bytes
        .windows(text.len())
        .filter(|at| *at == text.as_bytes());
    assert_eq!(found.count(), 2);
    exemplars.forget(&["shop".to_owned()]);
    exemplars.give(&mut samples);
    assert!(samples.iter().all(|sample| sample.exemplar.is_none()));
}
