//! The JSON contract: key names, line shape, escapes.

use std::collections::BTreeMap;

use concmon::model::timing::{NewStall, Notice};
use concmon::schema::{CulpritKind, LoopKind};
use concmon::views::escape::is_hostile;
use concmon::views::{Form, Paint, json as lines, stalls};
use serde_json::{Value, json};

use crate::fixture;

fn line(snapshot: &concmon::schema::Snapshot) -> String {
    let mut out = Vec::new();
    lines::write(snapshot, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("JSON is UTF-8")
}

fn parse(snapshot: &concmon::schema::Snapshot) -> Value {
    serde_json::from_str(&line(snapshot)).expect("JSON")
}

/// The published names; renaming one breaks other people's scripts.
#[test]
fn keys_are_those_of_the_contract() {
    let snapshot = parse(&fixture::stalls());
    let dead = parse(&fixture::dead_worker());
    let unsupported = parse(&fixture::unsupported());
    let fight = parse(&fixture::gil_fight());
    let histogram = "count sum_ns min_ns max_ns p50_ns p90_ns p99_ns buckets";
    let cost = "on_cpu_ns runnable_ns blocked_ns";
    let stall = "at_unix_ns duration_ns on_cpu_ns runnable_ns blocked_ns collecting_ns culprit task \
                 coroutine stack context waiting samples estimated limits";
    let ledger = "wall_ns on_cpu_ns runnable_ns preempted_ns stolen_ns blocked_ns unknown_ns";
    for (from, pointer, keys) in [
        (
            &snapshot,
            "",
            "schema type window monitor processes groups limits",
        ),
        (&snapshot, "/window", "start_unix_ns duration_ns"),
        (
            &snapshot,
            "/monitor",
            "version cpu_ns rss_bytes kernel_run_ns events events_lost reads_failed shed \
             budget estimated faults limits",
        ),
        (
            &snapshot,
            "/processes/0",
            "pid ppid start_unix_ns name cmdline entry title group role pid_inside container_id unit exited python cpu_ns cpu_percent \
             rss_bytes vms_bytes threads_count children_count descendants_count zombies_count fds_count fds_limit \
             context_switches ended gc gil threads loops executors deadlocks findings limits",
        ),
        (&dead, "/processes/1/exited", "code signal"),
        (
            &snapshot,
            "/processes/0/python",
            "implementation version free_threaded supported reason",
        ),
        (
            &snapshot,
            "/processes/0/context_switches",
            "voluntary involuntary",
        ),
        (&snapshot, "/processes/0/ended", "threads processes ledger"),
        (&snapshot, "/processes/0/ended/ledger", ledger),
        (
            &fight,
            "/processes/0/gil",
            "wait_ns waits waiters_max held_ns free_ns utilization estimated switches pairs limits",
        ),
        (&fight, "/processes/0/gil/waits", histogram),
        (
            &fight,
            "/processes/0/gil/pairs/0",
            "holder_tid victim_tid wait_ns count",
        ),
        (
            &snapshot,
            "/processes/0/threads/0",
            &format!(
                "tid ident name comm role daemon alive entry started_unix_ns ended_unix_ns \
                 stack_size_bytes {ledger} lock_ns cpu_user_ns cpu_system_ns estimated code switches \
                 migrations wakeup_latency slice off_cpu wakers wait waiting_for stack limits"
            ),
        ),
        (
            &snapshot,
            "/processes/0/threads/0/blocked_ns",
            "gil lock poll sleep io child disk stopped other",
        ),
        (
            &snapshot,
            "/processes/0/threads/0/lock_ns",
            "contended waiting_for_work join other",
        ),
        (
            &snapshot,
            "/processes/0/threads/0/switches",
            "voluntary involuntary",
        ),
        (
            &snapshot,
            "/processes/0/threads/0/wakeup_latency",
            histogram,
        ),
        (&snapshot, "/processes/0/threads/0/slice", histogram),
        (&snapshot, "/processes/0/threads/0/off_cpu/gil", histogram),
        (
            &snapshot,
            "/processes/0/threads/1/wakers/0",
            "tid cause count blocked_ns",
        ),
        (
            &snapshot,
            "/processes/0/loops/0",
            "tid kind running wall_ns idle_ns busy_ns utilization stall_threshold_ns ready \
             scheduled pending_tasks tasks_created queue queue_read_unix_ns watched missed_wakeup tasks_unchanged tasks_gone \
             tasks hang limits iterations lag step tasks_ns callbacks_ns unknown_ns busy stalls_count stalls_ns stalls saturation by_name \
             callbacks estimated",
        ),
        (&snapshot, "/processes/0/loops/0/lag", histogram),
        (&snapshot, "/processes/0/loops/0/step", histogram),
        (
            &snapshot,
            "/processes/0/loops/0/busy",
            "tasks callbacks unknown",
        ),
        (&snapshot, "/processes/0/loops/0/busy/tasks", cost),
        (
            &snapshot,
            "/processes/0/loops/0/saturation",
            "count busy_ns longest_ns top",
        ),
        (
            &snapshot,
            "/processes/0/loops/0/saturation/top/0",
            "name busy_ns samples",
        ),
        (&snapshot, "/processes/0/loops/0/stalls/0", stall),
        (
            &snapshot,
            "/processes/0/loops/0/stalls/0/culprit",
            "kind frame holder_tid",
        ),
        (&snapshot, "/processes/0/loops/0/stalls/0/task", "id name"),
        (
            &snapshot,
            "/processes/0/loops/0/stalls/0/waiting",
            "ready overdue",
        ),
        (
            &snapshot,
            "/processes/0/loops/0/by_name/0",
            "name pending started finished failed cancelled gone duration on_cpu_ns runnable_ns \
             blocked_ns samples estimated limits",
        ),
        (
            &snapshot,
            "/processes/0/findings/0",
            "rule severity summary evidence advice since_unix_ns active_ns",
        ),
        (
            &snapshot,
            "/processes/0/threads/0/code",
            "interpreter native kernel",
        ),
        (
            &snapshot,
            "/processes/0/loops/0/tasks/0",
            "id name coroutine state awaiting waits_for timeout_ns awaited_by cancel_requested exception \
             retrieved context first_seen_unix_ns age_ns",
        ),
        (
            &snapshot,
            "/processes/0/loops/0/tasks/2",
            "id name coroutine state awaiting waits_for timeout_ns awaited_by cancel_requested exception \
             retrieved context first_seen_unix_ns age_ns on_cpu_ns runnable_ns blocked_ns samples",
        ),
        (
            &snapshot,
            "/processes/0/loops/0/tasks/0/awaiting/0",
            "function file line",
        ),
        (&unsupported, "/processes/0/limits/0", "field reason"),
    ] {
        let object = from.pointer(pointer).and_then(Value::as_object);
        let object = object.unwrap_or_else(|| panic!("{pointer} is an object"));
        let mut expected: Vec<&str> = keys.split_whitespace().collect();
        expected.sort_unstable();
        let mut got: Vec<&str> = object.keys().map(String::as_str).collect();
        got.sort_unstable();
        assert_eq!(got, expected, "{pointer}");
    }
}

#[test]
fn values_that_scripts_match_on() {
    let snapshot = parse(&fixture::blocked_loop());
    for (pointer, value) in [
        ("/schema", Value::from("concmon/1")),
        ("/type", Value::from("snapshot")),
        ("/processes/0/exited", Value::Null),
        ("/processes/0/threads/0/role", Value::from("loop")),
        ("/processes/0/threads/1/role", Value::from("pool")),
        (
            "/processes/0/threads/0/blocked_ns/sleep",
            Value::from(960_000_000),
        ),
        ("/processes/0/threads/1/wakers/0/tid", Value::Null),
        ("/processes/0/loops/0/kind", Value::from("asyncio")),
        ("/processes/0/loops/0/tasks/2/state", Value::from("running")),
    ] {
        assert_eq!(snapshot.pointer(pointer), Some(&value), "{pointer}");
    }
    let summary = parse(&fixture::as_summary(fixture::blocked_loop()));
    assert_eq!(summary["type"], "summary");
}

#[test]
fn one_line_that_is_safe_to_print_and_means_the_same() {
    for (name, snapshot) in fixture::all() {
        let line = line(&snapshot);
        assert!(line.ends_with("}\n"), "{name}");
        assert_eq!(line.lines().count(), 1, "{name}");
        assert!(!line.trim_end().chars().any(is_hostile), "{name}");
        let plain = serde_json::to_value(&snapshot).expect("JSON");
        let parsed: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(parsed, plain, "{name}");
    }
}

/// Between the first snapshot and the summary, tasks that are as they were are a number; what has changed, what
/// is new, and what cost something is told.
#[test]
fn unchanged_tasks_are_a_number() {
    let second = || {
        let mut snapshot = fixture::blocked_loop();
        let tasks = &mut snapshot.processes[0].loops[0].tasks;
        for task in tasks.iter_mut() {
            if let Some(seen) = &mut task.seen {
                seen.age_ns += 1000 * fixture::MS;
            }
        }
        tasks[1].awaiting[0].line += 1;
        tasks[2].cost = fixture::stalls().processes[0].loops[0].tasks[2].cost;
        tasks.remove(0);
        let mut new = tasks[2].clone();
        new.id.0 += 1;
        tasks.push(new);
        snapshot
    };
    let lines = |all: bool| {
        let mut stream = lines::Stream::new(all).with_few(0);
        let mut out = Vec::new();
        for snapshot in [
            fixture::blocked_loop(),
            second(),
            second(),
            fixture::as_summary(second()),
        ] {
            stream
                .write(snapshot, &mut out)
                .expect("a Vec takes everything");
        }
        let text = String::from_utf8(out).expect("JSON is UTF-8");
        let line = |line: &str| {
            let value: Value = serde_json::from_str(line).expect("JSON");
            let row = value["processes"][0]["loops"][0].clone();
            let names = row["tasks"].as_array().expect("tasks").iter();
            let names: Vec<String> = names.map(|task| task["name"].to_string()).collect();
            (
                names.join(" "),
                row["tasks_unchanged"].as_u64(),
                row["pending_tasks"].as_u64(),
                row["tasks_gone"].as_array().map(Vec::len),
            )
        };
        text.lines().map(line).collect::<Vec<_>>()
    };
    let said = |names: &[u32], unchanged, gone| {
        let names = names.iter().map(|number| format!("\"Task-{number}\""));
        (
            names.collect::<Vec<_>>().join(" "),
            Some(unchanged),
            Some(4),
            Some(gone),
        )
    };
    assert_eq!(
        lines(false),
        [
            said(&[1, 101, 102, 103], 0, 0),
            said(&[101, 102, 103], 1, 1),
            // Who ran is told again.
            said(&[102], 3, 0),
            said(&[101, 102, 103, 103], 0, 0),
        ]
    );
    assert_eq!(lines(true)[1], said(&[101, 102, 103, 103], 0, 1));
}

/// Whoever takes over what each line has, and drops what has gone, has all tasks at each line.
#[test]
fn tasks_can_be_kept_from_line_to_line() {
    let first = fixture::crowd();
    let mut snapshots = vec![first.clone()];
    for round in 0..6_usize {
        let mut next = first.clone();
        for l in next.processes.iter_mut().flat_map(|one| &mut one.loops) {
            let mut number = 0;
            l.tasks.retain(|_| {
                number += 1;
                (number * 7 + round) % 5 != 0
            });
            for task in l.tasks.iter_mut().step_by(3 + round) {
                task.name = format!("in round {round}");
            }
        }
        snapshots.push(next);
    }
    for (all, few) in [(false, 0), (false, 10_000), (true, 0)] {
        let mut stream = lines::Stream::new(all).with_few(few);
        let mut kept: BTreeMap<String, BTreeMap<String, Value>> = BTreeMap::new();
        let (mut gone, mut unchanged) = (0, 0);
        for snapshot in &snapshots {
            let mut out = Vec::new();
            stream.write(snapshot.clone(), &mut out).expect("memory");
            let line: Value = serde_json::from_slice(&out).expect("JSON");
            let list = |value: &Value| value.as_array().cloned().expect("a list");
            for (process, row) in snapshot.processes.iter().zip(list(&line["processes"])) {
                for (l, row) in process.loops.iter().zip(list(&row["loops"])) {
                    let kept = kept
                        .entry(format!("{} {}", process.pid, l.tid))
                        .or_default();
                    for id in list(&row["tasks_gone"]) {
                        assert!(kept.remove(&id.to_string()).is_some(), "{id} was not there");
                        gone += 1;
                    }
                    for task in list(&row["tasks"]) {
                        kept.insert(task["id"].to_string(), task["name"].clone());
                    }
                    unchanged += row["tasks_unchanged"].as_u64().expect("a number");
                    let wanted: BTreeMap<String, Value> = l
                        .tasks
                        .iter()
                        .map(|task| (json!(task.id).to_string(), json!(task.name)))
                        .collect();
                    assert_eq!(*kept, wanted);
                }
            }
        }
        assert!(gone > 10, "{gone}");
        assert_eq!(unchanged > 0, !all && few == 0);
    }
}

#[test]
fn a_stall_is_a_line_with_its_request() {
    let new = |stall| {
        Notice::Stall(NewStall {
            pid: 4242,
            tid: 4243,
            kind: LoopKind::Asyncio,
            stall,
            holder: None,
        })
    };
    let mut out = Vec::new();
    let blocked = fixture::stall(CulpritKind::Sleep, 80, 310, "legacy_rate_limit");
    stalls::write_json(&new(blocked.clone()), &mut out).expect("a Vec takes everything");
    let line = String::from_utf8(out).expect("JSON is UTF-8");
    assert_eq!(line.lines().count(), 1);
    let parsed: Value = serde_json::from_str(&line).expect("JSON");
    for (pointer, value) in [
        ("/schema", Value::from("concmon/1")),
        ("/type", Value::from("stall")),
        ("/pid", Value::from(4242)),
        ("/tid", Value::from(4243)),
        ("/kind", Value::from("asyncio")),
        ("/context/request_id", Value::from("r-8812")),
        ("/duration_ns", Value::from(310_000_000)),
        ("/blocked_ns/sleep", Value::from(310_000_000)),
        ("/culprit/kind", Value::from("sleep")),
        ("/culprit/frame/function", Value::from("legacy_rate_limit")),
        ("/task/name", Value::from("Task-102")),
        ("/waiting/ready", Value::from(12)),
    ] {
        assert_eq!(parsed.pointer(pointer), Some(&value), "{pointer}");
    }
    let plain = serde_json::to_value(&blocked).expect("JSON");
    for (key, value) in plain.as_object().expect("an object") {
        assert_eq!(&parsed[key], value, "{key}");
    }
    let hostile = fixture::hostile().processes[0].loops[0].timing.clone();
    for stall in hostile.expect("it has stalls").stalls {
        let (mut json, mut text) = (Vec::new(), Vec::new());
        stalls::write_json(&new(stall.clone()), &mut json).expect("a Vec takes everything");
        stalls::write_line(&new(stall), Form::new(Paint::Plain, None, false), &mut text)
            .expect("a Vec takes everything");
        for bytes in [json, text] {
            let line = String::from_utf8(bytes).expect("text");
            assert!(!line.chars().any(|c| c != '\n' && is_hostile(c)), "{line}");
        }
    }
}
