//! What files for other tools say, read by other means than the tool's own: time by thread and state.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::interpreter::Interpreter;
use crate::packages;
use crate::protobuf::Message;

/// Nanoseconds by thread id and state, as columns of reports are called.
pub type Sums = BTreeMap<(u64, String), u64>;

/// What a report has of each of its threads; of all that have no row of their own under thread 0.
pub fn of_report(report: &Value) -> Sums {
    let mut sums = Sums::new();
    let mut add = |tid: u64, ledger: &Value| {
        let blocked = ledger["blocked_ns"].as_object().into_iter().flatten();
        let plain = ["on_cpu", "runnable", "unknown"];
        let plain = plain.map(|state| (state, &ledger[format!("{state}_ns")]));
        let blocked = blocked.map(|(state, ns)| (state.as_str(), ns));
        for (state, ns) in plain.into_iter().chain(blocked) {
            *sums.entry((tid, state.to_owned())).or_default() += ns.as_u64().unwrap_or(0);
        }
    };
    for process in report["processes"].as_array().into_iter().flatten() {
        for thread in process["threads"].as_array().into_iter().flatten() {
            add(thread["tid"].as_u64().unwrap_or(0), thread);
        }
        add(0, &process["ended"]["ledger"]);
    }
    for group in report["groups"].as_array().into_iter().flatten() {
        add(0, &group["ended"]["ledger"]);
    }
    sums
}

/// The state of a stack: its innermost frame says it, unless `by` is one state's time.
fn state(innermost: &str, by: &str) -> String {
    let told = || innermost.strip_prefix('[')?.strip_suffix(']');
    match by {
        "wall" | "io" => {
            let told = told().unwrap_or(innermost);
            told.split(", ").next().unwrap_or(told).to_owned()
        }
        by => by.replace('-', "_"),
    }
}

fn last_number(text: &str) -> Result<u64> {
    let number = text.rsplit(' ').next().unwrap_or(text);
    number.parse().with_context(|| format!("no id: {text}"))
}

/// Of collapsed stacks.
///
/// # Errors
/// Where a line is none.
pub fn collapsed(text: &str, by: &str) -> Result<Sums> {
    let mut sums = Sums::new();
    for line in text.lines() {
        let (path, ns) = line.rsplit_once(' ').context("no count")?;
        let parts: Vec<&str> = path.split(';').collect();
        ensure!(parts.len() >= 3, "no stack: {line}");
        let key = (last_number(parts[1])?, state(parts[parts.len() - 1], by));
        *sums.entry(key).or_default() += ns.parse::<u64>()?;
    }
    Ok(sums)
}

/// Of speedscope's profiles.
///
/// # Errors
/// Where frames and weights do not fit.
pub fn speedscope(bytes: &[u8], by: &str) -> Result<Sums> {
    let file: Value = serde_json::from_slice(bytes)?;
    let frames = file["shared"]["frames"].as_array().context("no frames")?;
    let mut sums = Sums::new();
    for profile in file["profiles"].as_array().context("no profiles")? {
        ensure!(profile["type"] == "sampled" && profile["unit"] == "nanoseconds");
        let name = profile["name"].as_str().context("no name")?;
        let (thread, _) = name.rsplit_once(" (").context("no process")?;
        let tid = last_number(thread)?;
        let samples = profile["samples"].as_array().context("no samples")?;
        let weights = profile["weights"].as_array().context("no weights")?;
        ensure!(samples.len() == weights.len());
        for (sample, ns) in samples.iter().zip(weights) {
            let indices = sample.as_array().into_iter().flatten();
            let mut innermost = None;
            for index in indices {
                let at = usize::try_from(index.as_u64().context("no index")?)?;
                innermost = Some(frames.get(at).context("an unknown frame")?);
            }
            let innermost = innermost.context("no stack")?["name"].as_str();
            let key = (tid, state(innermost.context("no name")?, by));
            *sums.entry(key).or_default() += ns.as_u64().context("no weight")?;
        }
    }
    Ok(sums)
}

/// A profile as the published classes of `profile.proto` have it.
#[derive(Debug, Deserialize)]
pub struct Published {
    /// What its values are: name and unit.
    pub types: Vec<(String, String)>,
    /// The stack of each sample, the outermost frame first, each `FUNCTION FILE:LINE` with the last part of the file's
    /// path; and its value.
    pub samples: Vec<(String, u64)>,
}

const PUBLISHED: &str = r#"
import gzip, json, sys
from austin.format.pprof.profile_pb2 import Profile
profile = Profile.FromString(gzip.open(sys.argv[1]).read())
text = profile.string_table
functions = {one.id: (text[one.name], text[one.filename].split("/")[-1]) for one in profile.function}
def shown(line):
    name, file = functions[line.function_id]
    return f"{name} {file}:{line.line}" if file else name
frames = {one.id: shown(one.line[0]) for one in profile.location}
print(json.dumps({
    "types": [(text[one.type], text[one.unit]) for one in profile.sample_type],
    "samples": [
        (";".join(frames[at] for at in reversed(one.location_id)), sum(one.value)) for one in profile.sample
    ],
}))
"#;

/// Reads a profile by classes that others have made and published.
///
/// # Errors
/// They refuse it; [`crate::harness::Skip`]: they are not here.
pub fn published_pprof(file: &Path) -> Result<Published> {
    let python = Interpreter::find("3.13")?;
    let classes = packages::folder(&python, "3.13", &["austin-python"])?;
    let mut command = python.command();
    command.args(["-c", PUBLISHED]).arg(file);
    let read = run(command.env("PYTHONPATH", classes))?;
    Ok(serde_json::from_slice(&read)?)
}

/// The sum of a profile's values as `go tool pprof` tells it; `None`: there is no Go.
///
/// # Errors
/// It refuses the profile.
pub fn go_pprof(file: &Path) -> Result<Option<u64>> {
    let mut command = Command::new("go");
    command.args(["tool", "pprof", "-symbolize=none", "-raw"]);
    let output = match command.arg(file).env("GOTOOLCHAIN", "local").output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        output => output?,
    };
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {stderr}");
    let text = String::from_utf8(output.stdout)?;
    let samples = text.split_once("Samples:\n").context("no samples")?.1;
    let samples = samples.split("Locations\n").next().unwrap_or_default();
    // VALUE: LOCATIONS. Labels are below it.
    let values = samples.lines().filter_map(|line| {
        let (value, locations) = line.trim_start().split_once(": ")?;
        let ids = locations.split_whitespace();
        let are_ids = ids.map(|id| id.parse::<u64>().is_ok());
        are_ids.min()?.then(|| value.parse::<u64>().ok())?
    });
    Ok(Some(values.sum()))
}

/// Of pprof's samples. Field numbers are those of `profile.proto`.
///
/// # Errors
/// Where ids do not fit.
pub fn pprof(file: &Path) -> Result<Sums> {
    let unpack = "import gzip, sys; sys.stdout.buffer.write(gzip.open(sys.argv[1]).read())";
    let mut unpack_file = Interpreter::find("3.11")?.command();
    let output = run(unpack_file.args(["-c", unpack]).arg(file))?;
    let profile = Message::parse(&output)?;
    let strings = profile.texts(6)?;
    ensure!(strings.first() == Some(&""), "the first string is empty");
    let text = |number: Option<u64>| -> Result<&str> {
        let at = usize::try_from(number.unwrap_or(0))?;
        strings.get(at).copied().context("no such string")
    };
    let ids = |field| -> Result<Vec<Option<u64>>> {
        let messages = profile.messages(field)?;
        Ok(messages.iter().map(|one| one.number(1)).collect())
    };
    let (locations, functions) = (ids(4)?, ids(5)?);
    for location in profile.messages(4)? {
        for line in location.messages(4)? {
            ensure!(functions.contains(&line.number(1)), "an unknown function");
        }
    }
    for function in profile.messages(5)? {
        ensure!(
            !text(function.number(2))?.is_empty(),
            "a function without a name"
        );
    }
    let mut sums = Sums::new();
    for sample in profile.messages(2)? {
        let stack = sample.numbers(1)?;
        let is_known = |id: &u64| locations.contains(&Some(*id));
        ensure!(
            !stack.is_empty() && stack.iter().all(is_known),
            "an unknown location"
        );
        let (mut tid, mut state) = (None, None);
        for label in sample.messages(3)? {
            match text(label.number(1))? {
                "thread_id" => tid = Some(label.number(3).unwrap_or(0)),
                "state" => state = Some(text(label.number(2))?.to_owned()),
                _ => {}
            }
        }
        let key = (tid.context("no thread")?, state.context("no state")?);
        *sums.entry(key).or_default() += sample.numbers(2)?.iter().sum::<u64>();
    }
    Ok(sums)
}

/// Of the slices of Perfetto's tracks, and what these say that is in none. Field numbers are those of
/// `trace_packet.proto`, `track_event.proto`, `track_descriptor.proto`.
///
/// # Errors
/// Where slices do not follow one another.
pub fn perfetto(bytes: &[u8]) -> Result<Sums> {
    let trace = Message::parse(bytes)?;
    let mut names = BTreeMap::new();
    let mut tids = BTreeMap::new();
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
            tids.insert(descriptor.number(1), thread.number(2).unwrap_or(0));
        }
        if let Some(event) = packet.message(11)? {
            events.push((packet.number(8).context("no time")?, event));
        }
    }
    events.sort_by_key(|(at_ns, _)| *at_ns);
    let mut open = BTreeMap::new();
    let mut sums: BTreeMap<(u64, String), i128> = BTreeMap::new();
    for (at_ns, event) in events {
        let track = event.number(11);
        let Some(&tid) = tids.get(&track) else {
            continue;
        };
        let mut add =
            |state: &str, ns: i128| *sums.entry((tid, state.to_owned())).or_default() += ns;
        match event.number(9) {
            Some(1) => {
                let name = names.get(&event.number(10)).context("no name")?;
                let arguments = event.messages(4)?;
                let mut stolen = arguments.iter().filter(|one| one.number(1) == Some(2));
                let stolen = stolen.next().and_then(|one| one.number(3)).unwrap_or(0);
                let twice = open.insert(track, (at_ns, *name, stolen));
                ensure!(twice.is_none(), "two slices at a time");
            }
            Some(2) => {
                let slice = open.remove(&track).context("an end without a beginning")?;
                let (from_ns, name, stolen) = slice;
                if name != "unseen" {
                    add(name, i128::from(at_ns - from_ns - stolen));
                    add("runnable", i128::from(stolen));
                }
            }
            _ => {
                for argument in event.messages(4)? {
                    if let Some(ns) = argument.number(4) {
                        add(argument.text(10)?, i128::from(ns.cast_signed()));
                    }
                }
            }
        }
    }
    ensure!(open.is_empty(), "slices without an end: {open:?}");
    let whole = sums.into_iter();
    whole
        .map(|(key, ns)| Ok((key, u64::try_from(ns)?)))
        .collect()
}

fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    Ok(output.stdout)
}
