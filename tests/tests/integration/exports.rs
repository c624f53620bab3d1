//! Exports of a recording, read by other means than the tool's own, against the report of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::browser;
use concmon_tests::exported;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::Need;
use concmon_tests::protobuf::Message;
use concmon_tests::schema;
use concmon_tests::spawn::Group;
use concmon_tests::watch::binary;
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::watch_python;

mod add_up;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    let [root, ebpf, python] = watch_python("3.11");
    vec![
        quiet(
            "exports::agree_with_the_report",
            &needs,
            agree_with_the_report,
        ),
        quiet("exports::add_up", &needs, add_up::every_format_has_all_time),
        quiet("exports::in_one_step", &needs, in_one_step),
        quiet(
            "exports::blame_names_who_made_others_wait",
            &needs,
            blame_names_who_made_others_wait,
        ),
        quiet(
            "exports::a_diff_names_what_changed",
            &needs,
            a_diff_names_what_changed,
        ),
        quiet(
            "exports::the_page_works_in_a_browser",
            &[root, ebpf, python, Need::Browser],
            the_page_works_in_a_browser,
        ),
    ]
}

/// One thread has the GIL, another one a lock, which two others want all the time.
fn blame_names_who_made_others_wait() -> Result<()> {
    let recorded = Recorded::of_program("hogs.py", &[], "4s")?;
    let lines = String::from_utf8(recorded.export("collapsed", "blame")?)?;
    let mut sums = BTreeMap::<&str, u64>::new();
    for line in lines.lines() {
        let (path, ns) = line.rsplit_once(' ').context("no count")?;
        let ns = ns.parse::<u64>()?;
        for (place, what) in [
            ("gil_hog (hogs.py:", "[had the GIL]"),
            ("lock_hog (hogs.py:", "[had a lock]"),
        ] {
            if path.ends_with(what) {
                *sums.entry(what).or_default() += ns;
                if path.contains(place) {
                    *sums.entry(place).or_default() += ns;
                }
            }
        }
    }
    let of = |what: &str| sums.get(what).copied().unwrap_or(0);
    for (place, what, column) in [
        ("gil_hog (hogs.py:", "[had the GIL]", "gil"),
        ("lock_hog (hogs.py:", "[had a lock]", "lock"),
    ] {
        ensure!(
            of(place) * 10 >= of(what) * 9,
            "{} of {} ns are {place}: {lines}",
            of(place),
            of(what)
        );
        // Waits for a lock are charged from the first look at it on.
        let victims = recorded.threads().filter(|thread| {
            // The main thread waits for ever, for nobody's lock.
            column == "gil" || thread["name"] == "lock_victim"
        });
        let waited = victims.filter_map(|thread| thread["blocked_ns"][column].as_u64());
        let waited_ns: u64 = waited.sum();
        ensure!(
            of(what) * 10 >= waited_ns * 6 && of(what) <= waited_ns / 100 * 102,
            "{} of {waited_ns} ns in {column} are charged: {lines}",
            of(what)
        );
    }
    Ok(())
}

/// A recording, and what is said of it.
struct Recorded {
    folder: tempfile::TempDir,
    file: PathBuf,
    summary: Value,
}

impl Recorded {
    /// Of threads that fight for the GIL.
    fn new(fighters: &str, duration: &str) -> Result<Self> {
        Self::of_program("gil.py", &[fighters], duration)
    }

    fn of_program(program: &str, arguments: &[&str], duration: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("capture.concmon");
        let workload = Workload::start(&Interpreter::find("3.11")?, program, arguments)?;
        let pid = workload.pid().to_string();
        let record = [
            "record", "-p", &pid, "-d", duration, "-i", "250ms", "--json", "-o",
        ];
        let said = run(Command::new(binary()?).args(record).arg(&file))?;
        let summary = schema::line(&said)?;
        Ok(Recorded {
            folder,
            file,
            summary,
        })
    }

    /// What is in a capture.
    fn of(file: PathBuf) -> Result<Self> {
        let said = run(Command::new(binary()?)
            .args(["report", "--json", "-i"])
            .arg(&file))?;
        let last = String::from_utf8(said)?;
        let last = last.lines().last().context("no report")?;
        Ok(Recorded {
            folder: tempfile::tempdir()?,
            file,
            summary: serde_json::from_str(last)?,
        })
    }

    fn export(&self, format: &str, by: &str) -> Result<Vec<u8>> {
        let out = self.folder.path().join(format);
        let export = ["export", "-f", format, "--by", by, "-i"];
        run(Command::new(binary()?)
            .args(export)
            .arg(&self.file)
            .arg("-o")
            .arg(&out))?;
        Ok(std::fs::read(out)?)
    }

    /// A sum over threads, ns.
    fn sum(&self, column: &str) -> u64 {
        self.threads()
            .map(|thread| thread.pointer(column).and_then(Value::as_u64).unwrap_or(0))
            .sum()
    }

    fn threads(&self) -> impl Iterator<Item = &Value> {
        let processes = self.summary["processes"].as_array().into_iter().flatten();
        processes.flat_map(|process| process["threads"].as_array().into_iter().flatten())
    }
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}, stderr: {said}",
        output.status
    );
    Ok(output.stdout)
}

fn agree_with_the_report() -> Result<()> {
    let recorded = Recorded::new("3", "2s")?;
    wakeups(&recorded)?;
    let on_cpu_ns = recorded.sum("/on_cpu_ns");
    let gil_ns = recorded.sum("/blocked_ns/gil");
    for (by, want_ns) in [
        ("on-cpu", on_cpu_ns),
        ("gil", gil_ns),
        ("wall", recorded.sum("/wall_ns")),
        // Who had it made others wait as long as they waited.
        ("blame", gil_ns),
    ] {
        let lines = String::from_utf8(recorded.export("collapsed", by)?)?;
        let sum_ns: u64 = exported::collapsed(&lines, by)?.values().sum();
        ensure!(sum_ns == want_ns, "by {by}: {sum_ns} is not {want_ns}");
        ensure!(lines.contains("burn (gil.py:"), "by {by}: {lines}");
    }
    let svg = String::from_utf8(recorded.export("svg", "on-cpu")?)?;
    ensure!(
        svg.contains("<svg") && svg.contains("burn (gil.py:"),
        "no flame graph"
    );
    let page = recorded.folder.path().join("page.html");
    run(Command::new(binary()?)
        .args(["report", "-i"])
        .arg(&recorded.file)
        .arg("--html")
        .arg(&page))?;
    let text = std::fs::read_to_string(page)?;
    let (_, data) = text.split_once(r#"id="data">"#).context("no data")?;
    let (data, _) = data.split_once("</script>").context("no end")?;
    let data: Value = serde_json::from_str(data)?;
    let rows = data["timeline"]["rows"].as_array().map_or(0, Vec::len);
    ensure!(rows == recorded.threads().count(), "{rows} lanes");
    ensure!(text.contains("gil.py"), "the page names no file");
    let bare = recorded.folder.path().join("bare.html");
    let report = ["report", "--redact", "-i"];
    run(Command::new(binary()?)
        .args(report)
        .arg(&recorded.file)
        .arg("--html")
        .arg(&bare))?;
    ensure!(
        !std::fs::read_to_string(bare)?.contains("gil.py"),
        "a path in a redacted page"
    );
    Ok(())
}

/// `record -f` leaves what was asked for, and nothing else, wherever it works.
fn in_one_step() -> Result<()> {
    let workload = Workload::start(&Interpreter::find("3.11")?, "gil.py", &["3"])?;
    let pid = workload.pid().to_string();
    let folder = tempfile::tempdir()?;
    let temporary = tempfile::tempdir()?;
    let tool = |args: &[&str]| -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .args(["record", &pid, "-i", "250ms"])
            .args(args)
            .current_dir(folder.path())
            .env("TMPDIR", temporary.path());
        Ok(command)
    };
    let left = || -> Result<Vec<String>> {
        let mut names = Vec::new();
        for place in [folder.path(), temporary.path()] {
            for file in std::fs::read_dir(place)? {
                names.push(file?.file_name().to_string_lossy().into_owned());
            }
        }
        Ok(names)
    };
    let said = run(
        tool(&["-f", "collapsed", "-d", "1500ms", "--json", "-o", "stacks"])?
            .stderr(Stdio::piped()),
    )?;
    let recorded = Recorded {
        file: folder.path().join("stacks"),
        summary: schema::line(&said)?,
        folder: tempfile::tempdir()?,
    };
    ensure!(left()? == ["stacks"], "{:?}", left()?);
    let lines = std::fs::read_to_string(&recorded.file)?;
    let ns = lines
        .lines()
        .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    let (sum_ns, want_ns) = (ns.sum::<u64>(), recorded.sum("/on_cpu_ns"));
    ensure!(sum_ns == want_ns, "{sum_ns} is not {want_ns}");
    ensure!(lines.contains("burn (gil.py:"), "{lines}");
    std::fs::remove_file(&recorded.file)?;

    // Ctrl-C writes it, and without a name it gets one.
    let mut watch = Group::start(
        tool(&["-f", "svg"])?
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while left()?.is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(2));
    watch.signal(libc::SIGINT);
    let status = watch.wait_for(Duration::from_secs(20))?;
    ensure!(status.code() == Some(0), "{status}");
    let names = left()?;
    let [name] = &names[..] else {
        bail!("what is left: {names:?}");
    };
    ensure!(
        name.starts_with(&format!("gil.py-{pid}-")) && name.ends_with("Z.svg"),
        "{name}"
    );
    let svg = std::fs::read_to_string(folder.path().join(name))?;
    ensure!(
        svg.contains("<svg") && svg.contains("burn (gil.py:"),
        "no flame graph"
    );

    // Whoever is killed leaves what was recorded, to be read.
    for name in left()? {
        let _ = std::fs::remove_file(folder.path().join(name));
    }
    let mut watch = Group::start(
        tool(&["-f", "svg", "-o", "picture"])?
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    )?;
    let kept = folder.path().join("picture.concmon");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !kept.is_file() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_secs(3));
    watch.signal(libc::SIGKILL);
    watch.wait_for(Duration::from_secs(20))?;
    ensure!(!folder.path().join("picture").exists());
    let exported = Command::new(binary()?)
        .args(["export", "-f", "svg", "-i"])
        .arg(&kept)
        .output()?;
    let svg = String::from_utf8(exported.stdout)?;
    ensure!(
        svg.contains("burn (gil.py:"),
        "no flame graph of what was left"
    );
    // And the picture that was begun, which cannot be taken away any more.
    for name in left()? {
        std::fs::remove_file(folder.path().join(name))?;
    }

    // The capture would be where the picture is.
    let refused = tool(&["-f", "svg", "--ring", "5s"])?.output()?;
    ensure!(refused.status.code() == Some(2), "{refused:?}");
    // Somebody's link is not written through, and nothing is left of the attempt.
    std::os::unix::fs::symlink("/nowhere", folder.path().join("link"))?;
    let refused = tool(&["-f", "svg", "-d", "1s", "-o", "link"])?.output()?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(left()?.len() == 1, "{:?}", left()?);
    Ok(())
}

/// Wakeups have two ends, in order of time.
///
/// Field numbers are those of Perfetto's `trace_packet.proto` and `track_event.proto`.
fn wakeups(recorded: &Recorded) -> Result<()> {
    let bytes = recorded.export("perfetto", "on-cpu")?;
    let (mut from, mut to) = (Vec::new(), Vec::new());
    for packet in Message::parse(&bytes)?.messages(1)? {
        let Some(event) = packet.message(11)? else {
            continue;
        };
        let at_ns = packet.number(8).context("no time")?;
        from.extend(event.numbers(47)?.into_iter().map(|id| (id, at_ns)));
        to.extend(event.numbers(48)?.into_iter().map(|id| (id, at_ns)));
    }
    ensure!(!from.is_empty(), "nobody woke anybody");
    from.sort_unstable();
    to.sort_unstable();
    ensure!(from.len() == to.len(), "arrows with one end");
    let mut arrows = from.iter().zip(&to);
    ensure!(arrows.all(|(from, to)| from.0 == to.0 && from.1 <= to.1));
    Ok(())
}

/// One thread more that wants the GIL is most of what changed.
fn a_diff_names_what_changed() -> Result<()> {
    let (before, after) = (Recorded::new("1", "2s")?, Recorded::new("4", "2s")?);
    let diff = |one: &Path, other: &Path| -> Result<Value> {
        let said = run(Command::new(binary()?)
            .args(["diff", "--json"])
            .arg(one)
            .arg(other))?;
        schema::line(&said)
    };
    let changed = diff(&before.file, &after.file)?;
    let changes = changed["changes"].as_array().context("no changes")?;
    let gil = changes
        .iter()
        .find(|change| change["tier"] == "thread" && change["what"] == "gil")
        .context("nothing of the GIL")?;
    ensure!(
        gil["verdict"] == "changed" && gil["change"].as_f64() > Some(1000.0),
        "{gil}"
    );
    let same = diff(&after.file, &after.file)?;
    ensure!(
        same["changes"].as_array().is_some_and(Vec::is_empty),
        "{same}"
    );
    Ok(())
}

fn the_page_works_in_a_browser() -> Result<()> {
    let recorded = Recorded::new("3", "2s")?;
    let page = recorded.folder.path().join("page.html");
    run(Command::new(binary()?)
        .args(["report", "-i"])
        .arg(&recorded.file)
        .arg("--html")
        .arg(&page))?;
    let said: Value = serde_json::from_slice(&run(&mut browser::command(&page)?)?)?;
    let errors = said["errors"].as_array().context("no answer")?;
    ensure!(errors.is_empty(), "{errors:?}");
    for scheme in ["light", "dark"] {
        let seen = &said[scheme];
        ensure!(seen["theme"] == scheme, "{scheme}: {seen}");
        for canvas in ["overview", "timeline", "flame", "chart"] {
            let colors = seen["colors"][canvas].as_u64();
            ensure!(colors > Some(2), "{scheme}: {canvas} is empty: {seen}");
        }
    }
    let seen = &said["light"];
    ensure!(
        seen["zoomed_ms"].as_f64() < seen["whole_ms"].as_f64().map(|ms| ms / 2.0),
        "no zoom: {seen}"
    );
    ensure!(seen["reset_ms"] == seen["whole_ms"], "no way back: {seen}");
    let found = seen["found"].as_str().unwrap_or_default();
    ensure!(found.contains("3 threads"), "search: {found}");
    ensure!(
        seen["tip"]
            .as_str()
            .is_some_and(|tip| tip.contains("burns-")),
        "hover: {seen}"
    );
    ensure!(
        seen["flame_zoom"] == true,
        "no zoom in the flame graph: {seen}"
    );
    Ok(())
}
