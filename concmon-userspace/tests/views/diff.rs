//! What changed between two watches.

use concmon::schema::{Finding, Severity, Snapshot};
use concmon::views::Paint;
use concmon::views::diff::{Diff, Rates, Verdict, write_json, write_text};

use crate::fixture::{self, MS, START};

/// A watch of windows in which a worker runs for so many ms, and waits for the GIL for the rest.
fn watch(file: &str, on_cpu_ms: &[u64], change: impl Fn(&mut Snapshot)) -> Rates {
    let mut rates = Rates::new(file);
    let mut summary = None;
    for (at, &ms) in on_cpu_ms.iter().enumerate() {
        // The other one does the same in all windows.
        let worker = fixture::thread(2, "worker-12", [ms, 0, 1000 - ms, 0, 0, 0, 0, 0, 0]);
        let idle = fixture::thread(1, "MainThread", [0, 0, 0, 0, 1000, 0, 0, 0, 0]);
        let mut window =
            fixture::snapshot(vec![fixture::process(9, "srv/app.py", vec![idle, worker])]);
        window.window.start_unix_ns = START + at as u64 * 1000 * MS;
        change(&mut window);
        rates.add(&window);
        summary = Some(fixture::as_summary(window));
    }
    let mut summary = summary.expect("there are windows");
    summary.window.start_unix_ns = START;
    summary.window.duration_ns = on_cpu_ms.len() as u64 * 1000 * MS;
    rates.finish(&summary);
    rates
}

fn text(diff: &Diff) -> String {
    let mut out = Vec::new();
    write_text(diff, Paint::Plain, &mut out).expect("a Vec takes everything");
    String::from_utf8(out).expect("text")
}

fn verdict(diff: &Diff, tier: &str, what: &str) -> Option<Verdict> {
    let mut changes = diff.changes.iter();
    let change = changes.find(|change| change.tier == tier && change.what == what);
    change.map(|change| change.verdict)
}

#[test]
fn what_changed_is_told_apart_from_noise() {
    let before = watch("old.concmon", &[300, 320, 280, 310, 290], |_| {});
    let noisy = watch("same.concmon", &[330, 260, 300, 325, 290], |_| {});
    let after = watch("new.concmon", &[700, 730, 690, 720, 710], |window| {
        window.monitor.events_lost = 17;
        window.processes[0].rss_bytes = Some(92_480_000);
        window.processes[0].findings.push(Finding {
            rule: "gil-contention",
            severity: Severity::Warning,
            summary: "threads wait\u{1b}[2J for the GIL".to_owned(),
            evidence: Default::default(),
            advice: String::new(),
            since_unix_ns: START,
            active_ns: 1,
        });
    });
    let diff = Diff::of(&before, &noisy);
    assert_eq!(verdict(&diff, "thread", "gil"), Some(Verdict::WithinNoise));
    assert_eq!(verdict(&diff, "thread", "poll"), None);
    assert!(text(&diff).contains("nothing changed by more than the noise"));

    let diff = Diff::of(&before, &after);
    assert_eq!(verdict(&diff, "thread", "gil"), Some(Verdict::Changed));
    insta::assert_snapshot!("diff", text(&diff));
    let mut json = Vec::new();
    write_json(&diff, &mut json).expect("a Vec takes everything");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(json["type"], "diff");
    let mut changes = json["changes"].as_array().expect("changes").iter();
    let gil = changes
        .find(|change| change["what"] == "gil")
        .expect("the GIL");
    assert_eq!(
        (&gil["what"], &gil["unit"]),
        (&"gil".into(), &"ms/s".into())
    );
    assert_eq!(
        (&gil["before"], &gil["after"]),
        (&700.0.into(), &290.0.into())
    );
    assert_eq!(json["findings"][0]["new"], true);
}

#[test]
fn few_windows_tell_no_noise() {
    let diff = Diff::of(
        &watch("a", &[300, 300], |_| {}),
        &watch("b", &[400, 400], |_| {}),
    );
    assert_eq!(verdict(&diff, "thread", "gil"), Some(Verdict::Unknown));
    assert!(text(&diff).contains("too few windows"));
}
