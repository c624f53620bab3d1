//! Report lines and the final summary.

use std::io::{self, Write};

use concmon::model::timing::{NewStall, Notice};
use concmon::schema::{
    Address, CountedPool, CountedTasks, Delayed, Exact, Limit, LoopKind, Pools, Snapshot,
};
use concmon::views::escape::{is_hostile, width};
use concmon::views::{Form, Paint, json, lines, stalls, summary};

use crate::{fixture, services};

/// For a pipe.
fn plain() -> Form {
    Form::new(Paint::Plain, None, false)
}

fn ansi() -> Form {
    Form::new(Paint::Ansi, None, false)
}

fn lines_of(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    lines::write(snapshot, plain(), &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn summary_of(snapshot: &Snapshot) -> String {
    let mut out = Vec::new();
    summary::write(snapshot, plain(), &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

#[test]
fn report_lines() {
    for (name, snapshot) in fixture::all() {
        if name != "crowd" {
            insta::assert_snapshot!(format!("lines_{name}"), lines_of(&snapshot));
        }
    }
}

#[test]
fn summaries() {
    for (name, snapshot) in fixture::all() {
        if name != "crowd" {
            let snapshot = fixture::as_summary(snapshot);
            insta::assert_snapshot!(format!("summary_{name}"), summary_of(&snapshot));
        }
    }
}

/// A pool in C that idles is not what a program waits for.
#[test]
fn idle_threads_of_libraries_are_no_wait() {
    let mut snapshot = fixture::as_summary(fixture::gil_fight());
    let overview = |snapshot: &Snapshot| {
        let text = summary_of(snapshot);
        let lines = text.lines().skip_while(|line| !line.contains("WAITS FOR"));
        lines.take(2).last().expect("a process").to_owned()
    };
    let before = overview(&snapshot);
    let process = &mut snapshot.processes[0];
    for tid in 0..9 {
        let mut thread = process.threads[0].clone();
        thread.tid = 90_000 + tid;
        (thread.ident, thread.ledger) = (None, Default::default());
        thread.ledger.wall_ns = 50_000_000_000;
        thread.ledger.blocked_ns.lock = 50_000_000_000;
        process.threads.push(thread);
    }
    assert!(
        before.contains("gil ") && overview(&snapshot).contains("gil "),
        "{before}"
    );
    // Where there is nothing else, that is told.
    let threads = &mut snapshot.processes[0].threads;
    threads.retain(|thread| thread.ident.is_none());
    assert!(overview(&snapshot).contains("lock 100%"));
}

/// What probes counted is told by name; where there are none, the summary says why.
#[test]
fn counted_tasks() {
    let tasks = |name: &str, started: u64, ends: [u64; 3]| CountedTasks {
        tid: 1,
        name: name.to_owned(),
        started,
        finished: ends[0],
        failed: ends[1],
        cancelled: ends[2],
        gone: Some(started.saturating_sub(ends.iter().sum())),
        duration: fixture::histogram(started, 3_000_000),
    };
    let pool = |name: Option<&str>, submitted, failed, unretrieved| CountedPool {
        queue: Some(Address(0x7f00)),
        name_prefix: name.map(str::to_owned),
        submitted,
        failed,
        unretrieved,
        silent: unretrieved,
    };
    let mut snapshot = fixture::snapshot(vec![fixture::process(1, "app", Vec::new())]);
    snapshot.processes[0].exact = Some(Exact {
        since_unix_ns: Some(0),
        tasks: Some(vec![
            tasks("Server.handle", 12_000, [11_990, 7, 0]),
            tasks("poll-#", 40, [0, 0, 39]),
            tasks("evil\u{1b}[31m", 1, [1, 0, 0]),
            tasks("main", 0, [1, 0, 0]),
        ]),
        pools: Some(Pools {
            since_unix_ns: Some(0),
            rows: Some(vec![
                pool(Some("evil\u{1b}[31m"), 120, 3, 2),
                pool(None, 7, 0, 0),
            ]),
            limits: Vec::new(),
        }),
        limits: Vec::new(),
    });
    insta::assert_snapshot!("lines_counted", lines_of(&snapshot));
    insta::assert_snapshot!(
        "summary_counted",
        summary_of(&fixture::as_summary(snapshot.clone()))
    );
    let reason = "a function lies in no executable part of a file";
    snapshot.processes[0].exact = Some(Exact {
        since_unix_ns: None,
        tasks: None,
        pools: None,
        limits: vec![Limit {
            field: "tasks".into(),
            reason: reason.to_owned().into(),
        }],
    });
    assert!(!lines_of(&snapshot).contains("counted"));
    assert!(summary_of(&fixture::as_summary(snapshot)).contains(reason));
}

/// Long lists are cut, and what is cut is counted.
#[test]
fn crowds_are_summed_up() {
    let mut crowd = fixture::crowd();
    crowd.processes.truncate(1);
    insta::assert_snapshot!("lines_crowd", lines_of(&crowd));
    insta::assert_snapshot!("summary_crowd", summary_of(&fixture::as_summary(crowd)));
}

/// Services fit on a few pages, whatever the number of their workers and threads.
#[test]
fn services_are_short() {
    let most = [
        ("gunicorn", 20, 70),
        ("uvicorn", 50, 100),
        ("celery", 20, 40),
    ];
    for ((name, snapshot), (same, most_lines, most_summary)) in
        services::all().into_iter().zip(most)
    {
        assert_eq!(name, same);
        let lines = lines_of(&snapshot);
        let summary = summary_of(&fixture::as_summary(snapshot));
        for (text, most) in [(&lines, most_lines), (&summary, most_summary)] {
            let count = text.lines().count();
            assert!(count <= most, "{name}: {count} lines");
            assert!(text.lines().all(|line| width(line) <= 100), "{name}");
        }
        insta::assert_snapshot!(format!("lines_{name}"), lines);
        insta::assert_snapshot!(format!("summary_{name}"), summary);
    }
}

/// A stall is told when it is known, between the reports.
#[test]
fn a_stall_is_one_line() {
    let lines: Vec<String> = fixture::stalls().processes[0].loops[0]
        .timing
        .iter()
        .flat_map(|timing| &timing.stalls)
        .map(|stall| {
            let new = NewStall {
                pid: 4242,
                tid: 4242,
                kind: LoopKind::Asyncio,
                stall: stall.clone(),
                holder: None,
            };
            let mut out = Vec::new();
            stalls::write_line(&Notice::Stall(new), plain(), &mut out)
                .expect("a Vec takes everything");
            String::from_utf8(out).expect("text")
        })
        .collect();
    insta::assert_snapshot!(lines.concat());
}

/// What requests waited for one, in its line and in all of them.
#[test]
fn a_stall_names_the_requests_that_it_delayed() {
    let mut snapshot = fixture::stalls();
    let delayed = Some(Delayed {
        requests: 14,
        delay_ns: 3_100_000_000,
        unread_ns: 2_900_000_000,
    });
    let timing = snapshot.processes[0].loops[0].timing.as_mut();
    let timing = timing.expect("it was sampled");
    (timing.delayed, timing.stalls[0].delayed) = (delayed, delayed);
    let said = "delayed 14 requests, 3.10s in sum";
    let words: Vec<String> = summary_of(&snapshot)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    assert_eq!(words.join(" ").matches(said).count(), 2);
}

/// An idle pool is not in anybody's way; a queue before a lock is.
#[test]
fn only_contended_locks_hold_a_process_back() {
    let worker = fixture::thread(2, "worker", [5, 0, 0, 995, 0, 0, 0, 0, 0]);
    let mut snapshot = fixture::snapshot(vec![fixture::process(1, "pool", vec![worker])]);
    assert!(!lines_of(&snapshot).contains("=>"));
    assert!(summary_of(&fixture::as_summary(snapshot.clone())).contains("work 995ms"));
    let lock = &mut snapshot.processes[0].threads[0].lock_ns;
    (lock.contended, lock.waiting_for_work) = (lock.waiting_for_work, 0);
    assert!(lines_of(&snapshot).contains("=> ~contended lock"));
}

#[test]
fn nothing_hostile_is_printed() {
    for (name, snapshot) in fixture::all() {
        for text in [lines_of(&snapshot), summary_of(&snapshot)] {
            let hostile = text.chars().find(|c| *c != '\n' && is_hostile(*c));
            assert_eq!(hostile, None, "{name}");
        }
    }
}

/// The summary's tables stay aligned: every row of a table has its columns' right ends in place.
#[test]
fn tables_are_aligned_for_wide_characters_too() {
    let mut snapshot = fixture::gil_fight();
    snapshot.processes[0].threads[1].name = Some("线程-一".into());
    let mut out = Vec::new();
    let each = Form::new(Paint::Plain, None, true);
    summary::write(&snapshot, each, &mut out).expect("a Vec takes everything");
    let text = String::from_utf8(out).expect("text");
    let rows: Vec<&str> = text
        .lines()
        .skip_while(|line| !line.contains("WALL"))
        .take(6)
        .collect();
    let end_of = |row: &str, word: &str| row.find(word).map(|at| width(&row[..at + word.len()]));
    let wall = end_of(rows[0], "WALL");
    assert!(wall.is_some());
    for row in &rows[1..] {
        assert_eq!(end_of(row, "1.00s"), wall, "{row}");
    }
}

/// No line is wider than the page, whatever is on it.
#[test]
fn lines_fit_the_page() {
    for (name, snapshot) in fixture::all() {
        for cells in [40, 60, 80, 100, 132, 200] {
            for all in [false, true] {
                let form = Form::new(Paint::Plain, Some(cells), all);
                let mut out = Vec::new();
                lines::write(&snapshot, form, &mut out).expect("a Vec takes everything");
                summary::write(&snapshot, form, &mut out).expect("a Vec takes everything");
                let text = String::from_utf8(out).expect("text");
                for line in text.lines() {
                    assert!(width(line) <= cells, "{name} in {cells}: {line}");
                }
            }
        }
    }
}

#[test]
fn color_changes_the_looks_only() {
    let plain = |text: &str| {
        ["\x1b[0m", "\x1b[1m", "\x1b[1;31m"]
            .iter()
            .fold(text.to_owned(), |text, code| text.replace(code, ""))
    };
    for (name, snapshot) in fixture::all() {
        let (mut colored_lines, mut colored_summary) = (Vec::new(), Vec::new());
        lines::write(&snapshot, ansi(), &mut colored_lines).expect("written");
        summary::write(&snapshot, ansi(), &mut colored_summary).expect("written");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        let (colored_lines, colored_summary) = (text(colored_lines), text(colored_summary));
        assert!(colored_lines.contains("\x1b[1m"), "{name}");
        assert_eq!(plain(&colored_lines), lines_of(&snapshot), "{name}");
        assert_eq!(plain(&colored_summary), summary_of(&snapshot), "{name}");
    }
    let mut fight = Vec::new();
    lines::write(&fixture::gil_fight(), ansi(), &mut fight).expect("written");
    let fight = String::from_utf8(fight).expect("text");
    assert!(fight.contains("\x1b[1;31mgil 75%\x1b[0m"), "{fight}");
}

/// Counts flushes; fails as a closed pipe does when asked to.
struct Sink {
    broken: bool,
    flushes: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.broken {
            true => Err(io::ErrorKind::BrokenPipe.into()),
            false => Ok(bytes.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushes += 1;
        Ok(())
    }
}

#[test]
fn sinks_are_flushed_and_a_broken_pipe_is_an_error() {
    let snapshot = fixture::blocked_loop();
    type View = fn(&Snapshot, &mut dyn Write) -> io::Result<()>;
    let views: [View; 3] = [
        |snapshot, out| json::write(snapshot, out),
        |snapshot, out| lines::write(snapshot, plain(), out),
        |snapshot, out| summary::write(snapshot, plain(), out),
    ];
    for view in views {
        let mut sink = Sink {
            broken: false,
            flushes: 0,
        };
        view(&snapshot, &mut sink).expect("written");
        assert_eq!(sink.flushes, 1);
        let mut broken = Sink {
            broken: true,
            flushes: 0,
        };
        let error = view(&snapshot, &mut broken).expect_err("the pipe is closed");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
