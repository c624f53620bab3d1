//! Exports of made-up watches, decoded again.
use std::sync::Arc;

use serde_json::Value;

use super::*;
use crate::event::*;
use crate::model::intervals::NoSink;
use crate::model::testing::{MS, START, START_BOOT, START_UNIX, ledger, look, py_thread};

pub(super) fn info() -> WatchInfo {
    WatchInfo {
        version: "0.0.0".into(),
        start_ns: START,
        start_unix_ns: START_UNIX,
        start_boottime_ns: START_BOOT,
        targets: vec![Pid(100)],
        stall_threshold_ns: None,
        knows_causes: true,
        place: PlaceFact::default(),
        http: Default::default(),
    }
}

fn sample(at: u64, kind: SampleKind, functions: &[&str]) -> Event {
    let frames = functions.iter().zip(1..).map(|(function, line)| PyFrame {
        function: (*function).into(),
        file: "/srv/app.py".into(),
        line,
    });
    Event::Sample(Box::new(Sample {
        at_ns: START + at * MS,
        pid: Pid(100),
        tid: Tid(100),
        kind,
        context_version: None,
        iteration: None,
        turns: None,
        creator: None,
        collecting: false,
        code: None,
        coroutine: None,
        stack: Arc::new(SampledStack {
            frames: frames.collect(),
            ..SampledStack::default()
        }),
    }))
}

/// One thread that runs, waits for a lock, for the GIL, and in a selector without a stack.
pub(super) fn watch() -> Vec<Event> {
    let slice = |off: u64, wake: u64, cause, run: (u64, u64)| {
        Event::Slice(Slice {
            tid: Tid(100),
            cpu: 2,
            wait: Some(Wait {
                off_ns: START + off * MS,
                wake_ns: Some(START + wake * MS),
                cause: Some(cause),
                queue: true,
                arg0: 0,
                waker: Some(Tid(101)),
            }),
            in_ns: START + run.0 * MS,
            out_ns: START + run.1 * MS,
            on_cpu_ns: (run.1 - run.0) * MS,
            voluntary: true,
        })
    };
    let account = |tid| {
        let mut fact = ledger(100, tid);
        fact.state = ThreadState::Blocked(Cause::Poll);
        Event::Ledger(Box::new(fact))
    };
    let mut names = look(100, START);
    names.threads = vec![py_thread(100, "main; \"loop\""), py_thread(101, "helper")];
    vec![
        account(100),
        account(101),
        Event::Python(Arc::new(names)),
        sample(12, SampleKind::OnCpu, &["inner", "outer"]),
        slice(0, 10, Cause::Poll, (11, 20)),
        sample(20, SampleKind::Block(Cause::Lock), &["acquire", "outer"]),
        slice(20, 50, Cause::Lock, (50, 55)),
        sample(55, SampleKind::Block(Cause::Gil), &["inner", "outer"]),
        slice(55, 60, Cause::Gil, (62, 70)),
        Event::Tick(Tick {
            at_ns: START + 70 * MS,
            unix_ns: START_UNIX + 70 * MS,
        }),
    ]
}

fn intervals() -> Intervals {
    let mut intervals = Intervals::new(&info());
    for event in watch() {
        intervals.apply(&event, &mut NoSink);
    }
    intervals.finish(&mut NoSink);
    intervals
}

fn written(format: FlameFormat, by: By) -> Vec<u8> {
    let mut out = Vec::new();
    write(format, by, &info(), &intervals(), &mut out).expect("a vector takes everything");
    out
}

#[test]
fn collapsed_stacks() {
    let told = [By::OnCpu, By::Gil, By::Lock, By::Io, By::Wall].map(|by| {
        let text = String::from_utf8(written(FlameFormat::Collapsed, by)).expect("text");
        format!("--by {}\n{text}", by.name())
    });
    insta::assert_snapshot!(told.concat());
}

#[test]
fn speedscope_profiles() {
    let file: Value =
        serde_json::from_slice(&written(FlameFormat::Speedscope, By::Wall)).expect("JSON");
    insta::assert_snapshot!(serde_json::to_string_pretty(&file).expect("text"));
}

#[test]
fn a_picture_needs_time() {
    let svg = String::from_utf8(written(FlameFormat::Svg, By::Lock)).expect("text");
    assert!(svg.contains("acquire (app.py:1)") && svg.trim_end().ends_with("</svg>"));
    let mut out = Vec::new();
    let nothing = write(FlameFormat::Svg, By::Io, &info(), &intervals(), &mut out);
    let error = nothing.expect_err("nothing to draw");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(out.is_empty());
}
