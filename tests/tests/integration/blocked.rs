//! Threads and tasks that wait and do not come back: where, since when, and that nothing alarms.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::protobuf::Message;
use concmon_tests::report::Process;
use concmon_tests::told::{THRESHOLD_NS, clock_offset, made_up};
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in ["3.9", "3.11", "3.13"] {
        trials.push(quiet(
            format!("blocked::waits_have_their_age::py{version}"),
            &watch_python(version),
            move || waits_have_their_age(version),
        ));
        trials.push(quiet(
            format!("blocked::exports_and_the_page_say_where::py{version}"),
            &watch_python(version),
            move || exports_say_where(version),
        ));
    }
    trials
}

/// A thread that is about to block, by its own account.
#[derive(Clone, Debug, Deserialize)]
struct Blocked {
    tid: u32,
    /// The function that blocks, with a number.
    name: String,
    /// What Python calls what it waits for.
    kind: Option<String>,
    cause: String,
    owner: Option<u32>,
    since_ns: u64,
}

impl Blocked {
    fn function(&self) -> &str {
        self.name.split('-').next().unwrap_or(&self.name)
    }

    fn check(&self, process: &Process, before: bool, attached_unix_ns: u64) -> Result<()> {
        let thread = process.thread(self.tid)?;
        let wait = thread.wait.as_ref().context("it is not blocked")?;
        ensure!(wait.cause == self.cause, "it waits for {}", wait.cause);
        ensure!(wait.before_watch == before, "{wait:?}");
        let told_ns = i128::from(self.since_ns) + clock_offset();
        let off_ns = match before {
            // When the watch began is not told to the nanosecond.
            true => i128::from(wait.since_unix_ns) - i128::from(attached_unix_ns),
            false => i128::from(wait.since_unix_ns) - told_ns,
        };
        ensure!(
            (-50_000_000..2_000_000_000).contains(&off_ns),
            "it began {off_ns} ns later than it said"
        );
        // A lock that somebody else takes for a moment makes it no other wait.
        let waiting = thread.waiting_for.as_ref();
        let kind = waiting.and_then(|waiting| waiting["kind"].as_str());
        ensure!(kind == self.kind.as_deref(), "it waits for {kind:?}");
        if let Some(waiting) = waiting {
            ensure!(
                waiting["since_unix_ns"].as_u64() == Some(wait.since_unix_ns),
                "{waiting} since {}",
                wait.since_unix_ns
            );
            ensure!(
                waiting["owner_tid"].as_u64() == self.owner.map(u64::from),
                "{waiting}, held by {:?}",
                self.owner
            );
        }
        let on_stack = thread
            .stack
            .iter()
            .any(|frame| frame.function.ends_with(self.function()));
        ensure!(on_stack, "its stack is {:?}", thread.stack);
        Ok(())
    }
}

fn waits_have_their_age(version: &str) -> Result<()> {
    let mut workload = Workload::start(&Interpreter::find(version)?, "blocked.py", &[])?;
    let pid = workload.pid();
    let first: Vec<Blocked> = workload.said("threads")?;
    let mut watch = Watch::pid(pid, "500ms", None)?;
    watch.next(PATIENCE)?;
    let second = workload.ask(&json!({}), "blocked")?["threads"].clone();
    let second: Vec<Blocked> = serde_json::from_value(second)?;
    std::thread::sleep(Duration::from_secs(4));
    let outcome = watch.interrupt()?;
    let summary = outcome.summary()?;
    let process = summary.process(pid)?;
    let attached_unix_ns = summary.window.start_unix_ns;
    for (threads, before) in [(&first, true), (&second, false)] {
        for one in threads {
            one.check(process, before, attached_unix_ns)
                .with_context(|| format!("{}, {:?}", one.name, one.kind))?;
        }
    }
    let tasks = process.loops.iter().flat_map(|one| &one.tasks);
    for task in tasks {
        let end_unix_ns = summary.window.start_unix_ns + summary.window.duration_ns;
        let since = task.waits_for.as_ref().map(|wait| &wait["since_unix_ns"]);
        let since = since.and_then(Value::as_u64);
        let age_ns = since.map(|since| end_unix_ns.saturating_sub(since));
        match task.name.as_str() {
            "waits" => ensure!(age_ns > Some(2_000_000_000), "{:?}", task.waits_for),
            // It is sampled between any two looks, for it computes.
            "ticks" => ensure!(age_ns < Some(2_500_000_000), "{:?}", task.waits_for),
            _ => {}
        }
    }
    let findings: Vec<_> = process.findings.iter().map(|one| &*one.rule).collect();
    // Several of them want the same locks, which nobody gives back; what other programs take of the CPUs is the host's.
    let by_host = made_up(&[], &outcome.stalls, THRESHOLD_NS).is_empty();
    let is_right = |rule: &&str| match *rule {
        "lock-convoy" | "cpu-starved" => true,
        "loop-blocked" => by_host,
        _ => false,
    };
    ensure!(findings.iter().all(is_right), "{findings:?}");
    Ok(())
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(output.stdout)
}

fn export(format: &str, capture: &Path) -> Result<Vec<u8>> {
    let out = capture.with_extension(format);
    let args = ["export", "-f", format, "--by", "wall", "-i"];
    run(Command::new(binary()?)
        .args(args)
        .arg(capture)
        .arg("-o")
        .arg(&out))?;
    Ok(std::fs::read(out)?)
}

fn exports_say_where(version: &str) -> Result<()> {
    let python = Interpreter::find(version)?;
    let workload = Workload::start(&python, "blocked.py", &[])?;
    let threads: Vec<Blocked> = workload.said("threads")?;
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("capture.concmon");
    let pid = workload.pid().to_string();
    // With all rows of the summary.
    let record = ["record", "-p", &pid, "-d", "4s", "-v", "-o"];
    let said = run(Command::new(binary()?).args(record).arg(&capture))?;
    let summary = String::from_utf8(said)?;
    let collapsed = String::from_utf8(export("collapsed", &capture)?)?;
    let texts = ["speedscope", "svg"].map(|format| export(format, &capture));
    let [speedscope, svg] = texts.map(|text| Ok::<_, anyhow::Error>(String::from_utf8(text?)?));
    let (speedscope, svg) = (speedscope?, svg?);
    let packed = folder.path().join("packed.gz");
    std::fs::write(&packed, export("pprof", &capture)?)?;
    let unpack = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    let unpacked = run(python.command().args(["-c", unpack]).arg(&packed))?;
    let profile = Message::parse(&unpacked)?;
    let names = profile.texts(6)?;
    let places = places(&export("perfetto", &capture)?)?;
    let page = folder.path().join("page.html");
    run(Command::new(binary()?)
        .args(["report", "-i"])
        .arg(&capture)
        .arg("--html")
        .arg(&page))?;
    let page = std::fs::read_to_string(page)?;
    let (_, data) = page.split_once(r#"id="data">"#).context("no data")?;
    let (data, _) = data.split_once("</script>").context("no end")?;
    let data: Value = serde_json::from_str(data)?;
    let rows = data["processes"][0]["threads"].as_array();
    let frames = data["flames"]["frames"].as_array().context("no frames")?;
    for one in &threads {
        let (tid, function) = (one.tid.to_string(), one.function());
        let of_it = |line: &&str| line.contains(&one.name) && line.contains(&tid);
        let (mut all, mut there) = (0u64, 0u64);
        for line in collapsed.lines().filter(of_it) {
            let (path, ns) = line.rsplit_once(' ').context("no count")?;
            let ns: u64 = ns.parse()?;
            all += ns;
            if path.contains(&format!("{function} ("))
                && path.ends_with(&format!("[{}]", one.cause))
            {
                there += ns;
            }
        }
        ensure!(
            all > 0 && there >= all / 100 * 99,
            "{}: {there} of {all} ns in its function: {collapsed}",
            one.name
        );
        ensure!(speedscope.contains(function), "speedscope: {function}");
        ensure!(svg.contains(function), "svg: {function}");
        ensure!(
            names.iter().any(|name| name.ends_with(function)),
            "pprof: {function}"
        );
        ensure!(
            places
                .iter()
                .any(|(found, place)| *found == u64::from(one.tid) && !place.is_empty()),
            "perfetto: {function}"
        );
        ensure!(
            frames.iter().any(|frame| frame[0]
                .as_str()
                .is_some_and(|name| name.ends_with(function))),
            "page: {function} is in no stack"
        );
        let row = rows.and_then(|rows| rows.iter().find(|row| row["tid"] == one.tid));
        let place = row.and_then(|row| row["wait"]["place"].as_str());
        ensure!(
            place.is_some_and(|place| place.starts_with(function)),
            "page: {} is in {place:?}",
            one.name
        );
        // The summary has its place, cut in front where there is no room.
        let end = format!(
            "{} (blocked.py:",
            &function[function.len().saturating_sub(8)..]
        );
        ensure!(summary.contains(&end), "summary: {function}: {summary}");
    }
    Ok(())
}

/// Where slices of threads are, by the thread. Field numbers are those of Perfetto's `track_event.proto`,
/// `track_descriptor.proto`, `debug_annotation.proto`.
fn places(trace: &[u8]) -> Result<Vec<(u64, String)>> {
    let trace = Message::parse(trace)?;
    let mut tids = std::collections::BTreeMap::new();
    let mut found = Vec::new();
    for packet in trace.messages(1)? {
        if let Some(descriptor) = packet.message(60)?
            && let Some(thread) = descriptor.message(4)?
        {
            tids.insert(descriptor.number(1), thread.number(2).context("no tid")?);
        }
        if let Some(event) = packet.message(11)? {
            for argument in event.messages(4)? {
                if argument.text(10).is_ok_and(|name| name == "at") {
                    found.push((event.number(11), argument.text(6)?.to_owned()));
                }
            }
        }
    }
    let found = found.into_iter();
    Ok(found
        .filter_map(|(track, place)| Some((*tids.get(&track)?, place)))
        .collect())
}
