//! A watch in which every text is hostile, through every picture, page and export.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::sync::Arc;

use super::diff::{self, Rates};
use super::export::{self, By, FlameFormat, perfetto::Perfetto};
use super::html::{self, Series};
use super::{Paint, escape::escape};
use crate::event::*;
use crate::model::intervals::Intervals;
use crate::model::testing::{
    MS, START, START_BOOT, START_UNIX, ledger, look, py_loop, py_task, py_thread,
};
use crate::model::{Model, WatchInfo};
use crate::schema::{Address, Culprit, Finding, Frame, Limit, Snapshot, Stall, StallTask};

/// What must come out of nothing: controls, bidirectional marks, overrides and isolates, what has no
/// width, separators of lines, tags, a noncharacter.
const DANGEROUS: [char; 40] = [
    '\0',
    '\x07',
    '\x08',
    '\t',
    '\n',
    '\x0b',
    '\r',
    '\x1b',
    '\x7f',
    '\u{80}',
    '\u{85}',
    '\u{9b}',
    '\u{ad}',
    '\u{34f}',
    '\u{61c}',
    '\u{180e}',
    '\u{200b}',
    '\u{200c}',
    '\u{200d}',
    '\u{200e}',
    '\u{200f}',
    '\u{2028}',
    '\u{2029}',
    '\u{202a}',
    '\u{202b}',
    '\u{202c}',
    '\u{202d}',
    '\u{202e}',
    '\u{2060}',
    '\u{2066}',
    '\u{2067}',
    '\u{2068}',
    '\u{2069}',
    '\u{3164}',
    '\u{feff}',
    '\u{fff9}',
    '\u{ffff}',
    '\u{e0001}',
    '\u{e0041}',
    '\u{e0100}',
];
/// What must not end an element, an attribute, a frame or a line of the formats.
const MARKUP: &str = "</script><!--]]>\"'&<b>;other_frame 7";

/// A text of a target, to be found again by its first word.
fn evil(mark: &str) -> String {
    let all: String = DANGEROUS.iter().map(|c| format!("x{c}y")).collect();
    format!("{mark}{all}{MARKUP}")
}

/// That nothing dangerous is in an output, and that the texts are.
fn check(name: &str, output: &[u8], marks: &[&str]) {
    let contains = |part: &[u8]| output.windows(part.len()).any(|window| window == part);
    for c in DANGEROUS {
        let raw = format!("x{c}y");
        assert!(!contains(raw.as_bytes()), "{name}: {:x}", u32::from(c));
    }
    for mark in marks {
        assert!(contains(mark.as_bytes()), "{name}: no {mark}");
    }
}

fn events() -> Vec<Event> {
    let account = |at: u64| {
        let mut fact = ledger(100, 100);
        fact.state = ThreadState::Blocked(Cause::Lock);
        (fact.read_ns, fact.since_ns) = (START + at * MS, START + at * MS);
        fact.on_cpu_ns = at * MS;
        Event::Ledger(Box::new(fact))
    };
    let frame = |mark: &str| PyFrame {
        function: evil(mark).into(),
        file: format!("/srv/{}", evil("file")).into(),
        line: 3,
    };
    let looked = |at: u64| {
        let mut fact = look(100, START + at * MS);
        fact.info.version = Some(evil("version"));
        fact.threads = vec![py_thread(100, &evil("thread"))];
        fact.loops = vec![py_loop(100, 1)];
        let mut task = py_task(7, 1, &evil("task"));
        task.coroutine = evil("coroutine");
        task.awaiting = vec![frame("awaiting")];
        task.context = BTreeMap::from([(evil("variable"), evil("value"))]);
        let mut done = task.clone();
        (done.id, done.state) = (8, TaskState::Done);
        done.exception = Some(evil("exception"));
        fact.tasks = vec![task, done];
        fact.limits = BTreeMap::from([(evil("field"), evil("reason"))]);
        Event::Python(fact.into())
    };
    let bare = PyFrame {
        file: "".into(),
        ..frame("inner")
    };
    let sample = |at: u64, kind| {
        Event::Sample(Box::new(Sample {
            at_ns: START + at * MS,
            pid: Pid(100),
            tid: Tid(100),
            kind,
            context_version: Some(4),
            iteration: None,
            turns: None,
            creator: None,
            collecting: false,
            code: None,
            coroutine: Some(7 ^ 0xc0),
            stack: Arc::new(SampledStack {
                frames: vec![bare.clone(), frame("outer")],
                ..SampledStack::default()
            }),
        }))
    };
    let slice = |off: u64, run: (u64, u64)| {
        Event::Slice(Slice {
            tid: Tid(100),
            cpu: 2,
            wait: Some(Wait {
                off_ns: START + off * MS,
                wake_ns: Some(START + (off + 1) * MS),
                cause: Some(Cause::Lock),
                queue: true,
                arg0: 0,
                waker: None,
            }),
            in_ns: START + run.0 * MS,
            out_ns: START + run.1 * MS,
            on_cpu_ns: (run.1 - run.0) * MS,
            voluntary: true,
        })
    };
    let process = ProcessFact {
        read_ns: START,
        pid: 100,
        ppid: 1,
        start_boottime_ns: START_BOOT - 5_000 * MS,
        start_unix_ns: START_UNIX - 5_000 * MS,
        name: evil("process"),
        cmdline: vec![evil("word")],
        // At the beginning of a line it would make a comment of it.
        entry: Some(format!("#{}", evil("entry"))),
        ..ProcessFact::default()
    };
    let tick = |at: u64| {
        Event::Tick(Tick {
            at_ns: START + at * MS,
            unix_ns: START_UNIX + at * MS,
        })
    };
    vec![
        account(0),
        Event::Process(Box::new(process)),
        looked(1),
        slice(0, (2, 40)),
        sample(10, SampleKind::OnCpu),
        sample(30, SampleKind::OnCpu),
        account(50),
        looked(50),
        tick(50),
        slice(50, (60, 90)),
        sample(70, SampleKind::OnCpu),
        account(100),
        looked(100),
        tick(100),
    ]
}

fn stall() -> Stall {
    let frame = || Frame {
        function: evil("stalled").into(),
        file: evil("file").into(),
        line: 7,
    };
    Stall {
        at_unix_ns: START_UNIX + 10 * MS,
        duration_ns: 20 * MS,
        cost: Default::default(),
        collecting_ns: 0,
        culprit: Culprit {
            kind: crate::schema::CulpritKind::Cpu,
            frame: Some(frame()),
            holder_tid: None,
        },
        task: Some(StallTask {
            id: Address(7),
            name: evil("delayed"),
        }),
        coroutine: Some(evil("coroutine")),
        creator: Some(StallTask {
            id: Address(8),
            name: evil("creator"),
        }),
        stack: vec![frame()],
        context: BTreeMap::from([(evil("variable"), evil("value"))]),
        trace: None,
        waiting: None,
        delayed: None,
        samples: 2,
        estimated: Vec::new(),
        limits: Vec::new(),
    }
}

/// What the events do not bring.
fn judged(mut snapshot: Snapshot) -> Snapshot {
    let limit = || Limit {
        field: evil("field").into(),
        reason: evil("reason").into(),
    };
    snapshot.limits.push(limit());
    snapshot.monitor.faults = BTreeMap::from([(evil("fault"), 1)]);
    let process = &mut snapshot.processes[0];
    process.limits.push(limit());
    process.findings.push(Finding {
        rule: "loop-blocked",
        severity: crate::schema::Severity::Critical,
        summary: evil("summary"),
        evidence: BTreeMap::from([("task", serde_json::Value::from(evil("evidence")))]),
        advice: evil("advice"),
        since_unix_ns: START_UNIX,
        active_ns: MS,
    });
    let timing = process.loops[0].timing.as_mut().expect("it has samples");
    timing.stalls.push(stall());
    snapshot
}

/// The watch: its intervals, its windows as a trace has them, its summary.
struct Watched {
    info: WatchInfo,
    intervals: Intervals,
    windows: Vec<Snapshot>,
    summary: Snapshot,
    trace: Vec<u8>,
}

fn watched() -> Watched {
    let info = WatchInfo {
        version: "0.0.0".into(),
        start_ns: START,
        start_unix_ns: START_UNIX,
        start_boottime_ns: START_BOOT,
        targets: vec![Pid(100)],
        stall_threshold_ns: None,
        knows_causes: true,
        place: PlaceFact::default(),
        http: Default::default(),
    };
    let mut model = Model::new(info.clone());
    let mut intervals = Intervals::new(&info);
    let mut trace = Vec::new();
    let mut perfetto = Perfetto::new(&info, &mut trace);
    let mut windows = Vec::new();
    for event in events() {
        model.apply(&event);
        intervals.apply(&event, &mut perfetto);
        if let Event::Tick(_) = event {
            let window = judged(model.snapshot());
            perfetto.window(&window);
            windows.push(window);
        }
    }
    intervals.finish(&mut perfetto);
    perfetto
        .finish(&intervals, &[])
        .expect("a Vec takes everything");
    Watched {
        info,
        intervals,
        windows,
        summary: judged(model.summary()),
        trace,
    }
}

fn exported(watched: &Watched, format: FlameFormat) -> Vec<u8> {
    let mut out = Vec::new();
    let (info, intervals) = (&watched.info, &watched.intervals);
    export::write(format, By::OnCpu, info, intervals, &mut out).expect("a Vec takes everything");
    out
}

#[test]
fn traces() {
    let watched = watched();
    let marks = [
        "entry",
        "thread",
        "task",
        "coroutine",
        "awaiting",
        "stalled",
        "delayed",
        "variable",
        "value",
    ];
    check("perfetto", &watched.trace, &marks);
}

/// One stack stays one line of four frames, whatever it is called.
#[test]
fn stacks() {
    let watched = watched();
    let marks = ["entry", "thread", "outer", "inner"];
    let collapsed = exported(&watched, FlameFormat::Collapsed);
    check("collapsed", &collapsed, &marks);
    let text = String::from_utf8(collapsed).expect("text");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 1, "{text}");
    let (stack, count) = lines[0].rsplit_once(' ').expect("a count");
    assert_eq!(count.parse(), Ok(68 * MS));
    assert_eq!(stack.split(';').count(), 4);
    // Neither a comment nor two counts, which would be a difference.
    assert!(!stack.starts_with('#'));
    let last = stack.rsplit(' ').next().expect("a word");
    assert!(last.parse::<f64>().is_err(), "{last}");

    let speedscope = exported(&watched, FlameFormat::Speedscope);
    check("speedscope", &speedscope, &marks);
    let file: serde_json::Value = serde_json::from_slice(&speedscope).expect("JSON");
    assert_eq!(file["shared"]["frames"].as_array().map(Vec::len), Some(2));
    check_strings("speedscope", &file);

    let pprof = exported(&watched, FlameFormat::Pprof);
    let mut profile = Vec::new();
    flate2::read::GzDecoder::new(&*pprof)
        .read_to_end(&mut profile)
        .expect("gzip");
    check("pprof", &profile, &marks);
}

#[test]
fn pictures() {
    let watched = watched();
    let svg = exported(&watched, FlameFormat::Svg);
    check("svg", &svg, &["entry", "thread", "outer", "inner"]);
    let text = String::from_utf8(svg).expect("text");
    // `all`, process, thread and two frames; the picture's own program has no titles.
    assert_eq!(text.matches("<title>").count(), 5);
    assert!(!text.contains("</script><!--") && !text.contains("<b>"));
    // The first of two counts would color by difference, and the second would be the time.
    assert!(text.contains("(68,000,000 ns"), "{text:.2000}");
}

#[test]
fn pages() {
    let watched = watched();
    let mut series = Series::default();
    for window in &watched.windows {
        series.add(window);
    }
    let mut page = Vec::new();
    let report = html::Report {
        summary: &watched.summary,
        intervals: &watched.intervals,
        series: &series,
    };
    html::write(&report, &mut page).expect("a Vec takes everything");
    let marks = [
        "process", "word", "entry", "version", "thread", "outer", "inner", "stalled", "delayed",
        "variable", "value", "summary", "evidence", "advice", "field", "reason", "fault",
    ];
    check("page", &page, &marks);
    let page = String::from_utf8(page).expect("text");
    assert_eq!(page.matches("</script>").count(), 2);
    assert!(!page.contains("<!--"));
    let (_, rest) = page.split_once(r#"id="data">"#).expect("there is data");
    let (json, _) = rest.split_once("</script>").expect("it ends");
    let data: serde_json::Value = serde_json::from_str(json).expect("it is JSON");
    check_strings("page", &data);
    assert_eq!(
        data["processes"][0]["threads"][0]["name"],
        &*escape(&evil("thread"))
    );
}

#[test]
fn differences() {
    let watched = watched();
    let rates = |file: &str, windows: usize| {
        let mut rates = Rates::new(&evil(file));
        for window in watched.windows.iter().take(windows) {
            rates.add(window);
        }
        rates.finish(&watched.summary);
        rates
    };
    let diff = diff::Diff::of(&rates("before", 1), &rates("after", 2));
    let (mut text, mut json) = (Vec::new(), Vec::new());
    diff::write_text(&diff, Paint::Plain, &mut text).expect("a Vec takes everything");
    diff::write_json(&diff, &mut json).expect("a Vec takes everything");
    check("diff", &text, &["before", "after"]);
    check("diff --json", &json, &["before", "after"]);
}

/// What is parsed and then shown is as safe as what is written.
fn check_strings(name: &str, value: &serde_json::Value) {
    match value {
        serde_json::Value::String(text) => check(name, text.as_bytes(), &[]),
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| check_strings(name, value));
        }
        serde_json::Value::Object(fields) => {
            for (key, value) in fields {
                check(name, key.as_bytes(), &[]);
                check_strings(name, value);
            }
        }
        _ => {}
    }
}
