//! Exports of a recording, read by other means than the tool's own, against the report of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon_tests::browser;
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

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    let [root, ebpf, python] = watch_python("3.11");
    vec![
        quiet(
            "exports::agree_with_the_report",
            &needs,
            agree_with_the_report,
        ),
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
    let recorded = Recorded::of("hogs.py", &[], "4s")?;
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
        Self::of("gil.py", &[fighters], duration)
    }

    fn of(program: &str, arguments: &[&str], duration: &str) -> Result<Self> {
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

/// Two sums are the same but for where slices and ledgers part: `part` of the larger.
fn close(what: &str, one: u64, other: u64, part: f64) -> Result<()> {
    let off = one.abs_diff(other) as f64;
    ensure!(
        off <= part * one.max(other) as f64,
        "{what}: {one} is not {other}"
    );
    Ok(())
}

fn agree_with_the_report() -> Result<()> {
    let recorded = Recorded::new("3", "2s")?;
    perfetto(&recorded)?;
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
        let mut sum_ns = 0;
        for line in lines.lines() {
            let (path, ns) = line.rsplit_once(' ').context("no count")?;
            ensure!(path.split(';').count() >= 3, "no stack: {line}");
            sum_ns += ns.parse::<u64>()?;
        }
        close(&format!("collapsed by {by}"), sum_ns, want_ns, 0.02)?;
        ensure!(lines.contains("burn (gil.py:"), "by {by}: {lines}");
        close(
            &format!("speedscope by {by}"),
            speedscope(&recorded, by)?,
            sum_ns,
            1e-9,
        )?;
        close(
            &format!("pprof by {by}"),
            pprof(&recorded, by)?,
            sum_ns,
            1e-9,
        )?;
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
    close("collapsed", ns.sum(), recorded.sum("/on_cpu_ns"), 0.02)?;
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

/// Slices of each thread add up to its ledger, and wakeups have two ends.
///
/// Field numbers are those of Perfetto's `trace_packet.proto`, `track_event.proto`,
/// `track_descriptor.proto`.
fn perfetto(recorded: &Recorded) -> Result<()> {
    let bytes = recorded.export("perfetto", "on-cpu")?;
    let trace = Message::parse(&bytes)?;
    let mut names = BTreeMap::new();
    let mut tids = BTreeMap::new();
    let mut open = BTreeMap::new();
    let mut sums: BTreeMap<(u64, String), u64> = BTreeMap::new();
    let mut flows = (Vec::new(), Vec::new());
    let mut events = Vec::new();
    for packet in trace.messages(1)? {
        for data in packet.messages(12)? {
            for name in data.messages(2)? {
                names.insert(name.number(1), name.text(2)?);
            }
        }
        if let Some(descriptor) = packet.message(60)?
            && let Some(thread) = descriptor.message(4)?
        {
            tids.insert(descriptor.number(1), thread.number(2).context("no tid")?);
        }
        if let Some(event) = packet.message(11)? {
            events.push((packet.number(8).context("no time")?, event));
        }
    }
    events.sort_by_key(|(at_ns, _)| *at_ns);
    for (at_ns, event) in events {
        flows
            .0
            .extend(event.numbers(47)?.into_iter().map(|id| (id, at_ns)));
        flows
            .1
            .extend(event.numbers(48)?.into_iter().map(|id| (id, at_ns)));
        let Some(&tid) = tids.get(&event.number(11)) else {
            continue;
        };
        match event.number(9) {
            Some(1) => {
                let name = names.get(&event.number(10)).context("no name")?;
                let stolen = event
                    .messages(4)?
                    .iter()
                    .find_map(|one| (one.number(1) == Some(2)).then(|| one.number(3)))
                    .flatten()
                    .unwrap_or(0);
                ensure!(
                    open.insert(tid, (at_ns, *name, stolen)).is_none(),
                    "two slices at a time"
                );
            }
            Some(2) => {
                let (from_ns, name, stolen) =
                    open.remove(&tid).context("an end without a beginning")?;
                *sums.entry((tid, name.to_owned())).or_default() += at_ns - from_ns - stolen;
                *sums.entry((tid, "runnable".to_owned())).or_default() += stolen;
            }
            _ => {}
        }
    }
    ensure!(open.is_empty(), "slices without an end: {open:?}");
    ensure!(!flows.0.is_empty(), "nobody woke anybody");
    flows.0.sort_unstable();
    flows.1.sort_unstable();
    ensure!(flows.0.len() == flows.1.len(), "arrows with one end");
    ensure!(
        flows
            .0
            .iter()
            .zip(&flows.1)
            .all(|(from, to)| from.0 == to.0 && from.1 <= to.1)
    );
    for thread in recorded.threads() {
        let tid = thread["tid"].as_u64().context("no tid")?;
        let sum = |name: &str| sums.get(&(tid, name.to_owned())).copied().unwrap_or(0);
        let wall_ns = thread["wall_ns"].as_u64().unwrap_or(0);
        let columns = ["on_cpu", "runnable"].map(|name| (name, &thread[format!("{name}_ns")]));
        let blocked =
            ["gil", "lock", "poll", "sleep", "io"].map(|name| (name, &thread["blocked_ns"][name]));
        for (name, column) in columns.into_iter().chain(blocked) {
            let want_ns = column.as_u64().unwrap_or(0);
            let off_ns = sum(name).abs_diff(want_ns);
            ensure!(
                off_ns <= wall_ns / 50,
                "thread {tid}, {name}: slices have {}, the ledger {want_ns} of {wall_ns}",
                sum(name)
            );
        }
    }
    Ok(())
}

/// The time of all profiles, ns; frames and weights have to fit.
fn speedscope(recorded: &Recorded, by: &str) -> Result<u64> {
    let file: Value = serde_json::from_slice(&recorded.export("speedscope", by)?)?;
    let frames = file["shared"]["frames"]
        .as_array()
        .context("no frames")?
        .len() as u64;
    let mut sum_ns = 0;
    for profile in file["profiles"].as_array().context("no profiles")? {
        ensure!(profile["type"] == "sampled" && profile["unit"] == "nanoseconds");
        let samples = profile["samples"].as_array().context("no samples")?;
        let weights = profile["weights"].as_array().context("no weights")?;
        ensure!(samples.len() == weights.len());
        let mut indices = samples
            .iter()
            .flat_map(|sample| sample.as_array().into_iter().flatten());
        ensure!(
            indices.all(|at| at.as_u64().is_some_and(|at| at < frames)),
            "an unknown frame"
        );
        sum_ns += weights.iter().filter_map(Value::as_u64).sum::<u64>();
    }
    Ok(sum_ns)
}

/// The time of all samples, ns; ids have to fit. Field numbers are those of `profile.proto`.
fn pprof(recorded: &Recorded, by: &str) -> Result<u64> {
    let packed = recorded.folder.path().join("packed.gz");
    std::fs::write(&packed, recorded.export("pprof", by)?)?;
    let unpack = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    let bytes = run(Interpreter::find("3.11")?
        .command()
        .args(["-c", unpack])
        .arg(&packed))?;
    let profile = Message::parse(&bytes)?;
    let strings = profile.texts(6)?;
    ensure!(strings.first() == Some(&""), "the first string is empty");
    let ids = |field| -> Result<Vec<Option<u64>>> {
        Ok(profile
            .messages(field)?
            .iter()
            .map(|one| one.number(1))
            .collect())
    };
    let (locations, functions) = (ids(4)?, ids(5)?);
    for location in profile.messages(4)? {
        for line in location.messages(4)? {
            ensure!(functions.contains(&line.number(1)), "an unknown function");
        }
    }
    for function in profile.messages(5)? {
        let name = usize::try_from(function.number(2).unwrap_or(0))?;
        ensure!(
            strings.get(name).is_some_and(|name| !name.is_empty()),
            "a function without a name"
        );
    }
    let mut sum_ns = 0;
    for sample in profile.messages(2)? {
        let stack = sample.numbers(1)?;
        ensure!(
            !stack.is_empty() && stack.iter().all(|id| locations.contains(&Some(*id))),
            "an unknown location"
        );
        sum_ns += sample.numbers(2)?.iter().sum::<u64>();
    }
    Ok(sum_ns)
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
