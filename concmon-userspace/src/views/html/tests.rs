//! Pages of made-up watches: what they hold, how large they get, and what cannot break out.
use std::sync::Arc;

use super::*;
use crate::event::*;
use crate::model::intervals::NoSink;
use crate::model::testing::{MS, START, START_BOOT, START_UNIX, ledger, look, py_thread};
use crate::model::{HttpMode, Model, WatchInfo};
use crate::testing::Rng;
use crate::views::escape::escape;

/// A watch of process 100 that is taken in, and its page.
struct Fixture {
    model: Model,
    intervals: Intervals,
    series: Series,
}

impl Fixture {
    fn new() -> Self {
        let info = WatchInfo {
            version: "0.0.0".into(),
            start_ns: START,
            start_unix_ns: START_UNIX,
            start_boottime_ns: START_BOOT,
            targets: vec![Pid(100)],
            stall_threshold_ns: None,
            knows_causes: true,
            place: PlaceFact::default(),
            http: HttpMode::On,
        };
        Fixture {
            intervals: Intervals::new(&info),
            model: Model::new(info),
            series: Series::default(),
        }
    }

    fn apply(&mut self, event: &Event) {
        self.model.apply(event);
        self.intervals.apply(event, &mut NoSink);
        if let Event::Tick(_) = event {
            self.series.add(&self.model.snapshot());
        }
    }

    fn tick(&mut self, at_ns: u64) {
        self.apply(&Event::Tick(Tick {
            at_ns: START + at_ns,
            unix_ns: START_UNIX + at_ns,
        }));
    }

    fn page(mut self) -> String {
        self.intervals.finish(&mut NoSink);
        let mut page = Vec::new();
        let report = Report {
            summary: &self.model.summary(),
            intervals: &self.intervals,
            series: &self.series,
        };
        write(&report, &mut page).expect("a vector takes everything");
        String::from_utf8(page).expect("a page is text")
    }
}

fn sample(tid: u32, at_ns: u64, functions: &[String]) -> Event {
    let frames = functions.iter().map(|function| PyFrame {
        function: function.as_str().into(),
        file: format!("/srv/{function}.py").into(),
        line: 3,
    });
    Event::Sample(Box::new(Sample {
        at_ns,
        pid: Pid(100),
        tid: Tid(tid),
        kind: SampleKind::OnCpu,
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

fn slice(tid: u32, off_ns: u64, in_ns: u64, out_ns: u64, cause: Cause) -> Event {
    Event::Slice(Slice {
        tid: Tid(tid),
        cpu: 1,
        wait: Some(Wait {
            off_ns,
            wake_ns: Some(off_ns + (in_ns - off_ns) / 2),
            cause: Some(cause),
            queue: true,
            arg0: 0,
            waker: None,
        }),
        in_ns,
        out_ns,
        on_cpu_ns: out_ns - in_ns,
        voluntary: true,
    })
}

fn account(tid: u32, read_ns: u64) -> Event {
    let mut fact = ledger(100, tid);
    fact.state = ThreadState::Blocked(Cause::Sleep);
    fact.read_ns = read_ns;
    Event::Ledger(Box::new(fact))
}

/// The data of a page, as a browser reads it.
fn data(page: &str) -> serde_json::Value {
    let (_, rest) = page.split_once(r#"id="data">"#).expect("there is data");
    let (json, _) = rest.split_once("</script>").expect("it ends");
    serde_json::from_str(json).expect("it is JSON")
}

#[test]
fn names_of_a_target_stay_text() {
    let hostile = "</script><script>alert(1)</script><!-- data -->&\u{2028}\u{202e}";
    let mut fixture = Fixture::new();
    fixture.apply(&account(100, START));
    let mut fact = look(100, START + MS);
    fact.threads = vec![py_thread(100, hostile)];
    fixture.apply(&Event::Python(Arc::new(fact)));
    fixture.apply(&sample(100, START + 2 * MS, &[hostile.to_owned()]));
    fixture.apply(&slice(100, START, START + MS, START + 5 * MS, Cause::Io));
    fixture.tick(10 * MS);
    let page = fixture.page();
    assert_eq!(page.matches("</script>").count(), 2);
    assert_eq!(page.matches("<script").count(), 2);
    assert!(!page.contains("<!--") && !page.contains('\u{2028}'));
    let data = data(&page);
    let hostile = &*escape(hostile);
    assert_eq!(data["timeline"]["rows"][0]["name"], hostile);
    assert_eq!(data["flames"]["frames"][0][0], hostile);
    assert_eq!(data["processes"][0]["threads"][0]["name"], hostile);
}

/// Requests of one kind have one row, the most frequent first, wherever they took longest.
#[test]
fn requests_and_peers_are_in_the_page() {
    let mut fixture = Fixture::new();
    fixture.apply(&account(100, START));
    let event = |what| {
        Event::Http(Box::new(HttpEvent {
            at_ns: START + 2 * MS,
            pid: Pid(100),
            tid: Tid(100),
            what,
        }))
    };
    let kinds = [("/slow", 503, 50 * MS), ("/a", 200, MS), ("/a", 200, MS)];
    for (id, (path, status, duration_ns)) in (0..).zip(kinds) {
        let request = HttpRequest {
            method: "GET".into(),
            path: Some(path.into()),
            queue_ns: Some(MS),
        };
        let answered = HttpWhat::Answered {
            id,
            request,
            status,
            duration_ns,
        };
        fixture.apply(&event(answered));
    }
    fixture.apply(&event(HttpWhat::Waited {
        peer: HttpPeer {
            address: Some([127, 0, 0, 1].into()),
            port: 5432,
        },
        made: true,
        cause: Cause::Io,
        from_ns: START,
        wait_ns: MS,
    }));
    fixture.tick(10 * MS);
    let data = data(&fixture.page());
    let http = &data["processes"][0]["http"];
    let rows = http["rows"].as_array().expect("rows");
    let told: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row["learned_path"].as_str(),
                row["status"].as_u64(),
                row["count"].as_u64(),
            )
        })
        .collect();
    let expected = [
        (Some("/a"), Some(200), Some(2)),
        (Some("/slow"), Some(503), Some(1)),
    ];
    assert_eq!(told, expected);
    assert_eq!(http["count"], 3);
    assert_eq!(http["errors"], 1);
    assert_eq!(http["peers"][0]["name"], "127.0.0.1:5432");
    assert_eq!(http["peers"][0]["wait_ns"], MS);
}

#[test]
fn the_page_asks_for_nothing_from_outside() {
    let mut fixture = Fixture::new();
    fixture.tick(10 * MS);
    let page = fixture.page();
    for what in [
        "http:",
        "https:",
        "src=",
        "@import",
        "url(",
        "fetch(",
        "innerHTML",
        "eval(",
    ] {
        assert!(!page.contains(what), "{what}");
    }
    assert!(page.contains("default-src 'none'"));
}

/// Whatever is in it, a page stays small: here with more threads, bins, stacks and windows than it
/// holds, each as different as can be.
#[test]
fn a_page_is_small_however_long_the_watch() {
    let mut rng = Rng::new(11);
    let mut fixture = Fixture::new();
    const THREADS: usize = 1_500;
    for tid in 0..THREADS as u32 {
        fixture.apply(&account(100 + tid, START));
    }
    let mut pos_ns = [START; THREADS];
    for step in 0..150_000 {
        let thread = rng.below(THREADS);
        let tid = 100 + thread as u32;
        let off_ns = pos_ns[thread];
        let in_ns = off_ns + rng.below(40_000_000) as u64;
        let out_ns = in_ns + rng.below(40_000_000) as u64;
        if step % 4 == 0 {
            let frame = |depth| format!("handler_{}_{depth}_of_a_service", rng.below(5_000));
            let stack: Vec<String> = (0..12).map(frame).collect();
            fixture
                .intervals
                .apply(&sample(tid, out_ns, &stack), &mut NoSink);
        }
        let cause = Cause::ALL[rng.below(9)];
        fixture
            .intervals
            .apply(&slice(tid, off_ns, in_ns, out_ns, cause), &mut NoSink);
        pos_ns[thread] = out_ns;
    }
    fixture.tick(20_000 * MS);
    let window = fixture.model.snapshot();
    for _ in 0..5_000 {
        fixture.series.add(&window);
    }
    let page = fixture.page();
    assert!(page.len() < 10_000_000, "{} bytes", page.len());
    let data = data(&page);
    let rows = data["timeline"]["rows"].as_array().map_or(0, Vec::len);
    assert_eq!(rows, 1_000);
    let said = data["remarks"].to_string();
    assert!(
        said.contains("500 of 1500 threads of the timeline"),
        "{said}"
    );
}
