//! `--fail-on any`, a watch for each program of the table in `stuck.rs`: 6 where it is sick, 0 where it is not, beside a
//! busy program.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::case;
use concmon_tests::report::Stall;
use concmon_tests::spawn::{Group, Hogs, code};
use concmon_tests::told::{THRESHOLD_NS, made_up};
use concmon_tests::watch::{PATIENCE, binary};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::stuck::{BY_HOST, GIL, HEALTHY, Row, SICK, SOON, UNSTUCK, VERSIONS, WAITERS, start_all};
use crate::watch_python;

/// Programs that are watched at once, each by a watch of its own.
const AT_ONCE: usize = 6;
/// Programs at once that compute.
const COMPUTING: usize = 2;
/// What the slowest rule takes, and what a busy machine adds.
const SICK_SECONDS: u64 = 16;
/// A loop that had no CPU for long has stood still.
const STALLS: &str = "loop-blocked";

pub(super) fn trials(seconds: u64) -> Vec<Trial> {
    let of = |version| {
        let needs = watch_python(version);
        let name = |what| format!("healthy::exit_codes_of_{what}_programs::py{version}");
        [
            case(name("sick"), &needs, move || sick(version)),
            case(name("healthy"), &needs, move || healthy(version, seconds)),
        ]
    };
    VERSIONS.into_iter().flat_map(of).collect()
}

fn sick(version: &str) -> Result<()> {
    let wrong = codes_of(version, &SICK, AT_ONCE, SICK_SECONDS)?;
    let of_gil = codes_of(version, &GIL, COMPUTING, SOON as u64 + 1)?;
    ensure!(
        wrong.is_empty() && of_gil.is_empty(),
        "wrong: {wrong:?}, {of_gil:?}"
    );
    Ok(())
}

fn healthy(version: &str, seconds: u64) -> Result<()> {
    let waiters = WAITERS.map(|program| (UNSTUCK, program, &[][..], None));
    let rows: Vec<Row> = HEALTHY.into_iter().chain(waiters).collect();
    let _busy = Hogs::start(1)?;
    let wrong = codes_of(version, &rows, AT_ONCE, seconds)?;
    ensure!(wrong.is_empty(), "wrong: {wrong:?}");
    Ok(())
}

/// Prints a row for each of these programs, of which some are watched at once; gives those whose code is wrong.
fn codes_of(
    version: &str,
    rows: &[Row],
    at_once: usize,
    seconds: u64,
) -> Result<Vec<&'static str>> {
    let mut wrong = Vec::new();
    for some in rows.chunks(at_once) {
        wrong.extend(codes_at_once(version, some, seconds)?);
    }
    Ok(wrong)
}

fn codes_at_once(version: &str, rows: &[Row], seconds: u64) -> Result<Vec<&'static str>> {
    let mut watched = Vec::new();
    // Each is watched as soon as it is there: some are sick from then on only.
    for row in rows {
        for (row, workload) in start_all(version, std::slice::from_ref(row))? {
            let watch = Watch::start(workload.pid(), seconds)?;
            watched.push((row, workload, watch));
        }
    }
    let mut wrong = Vec::new();
    for ((_, program, _, rule), _workload, watch) in watched {
        let Told {
            code,
            all,
            by_program,
        } = watch.finish(seconds).context(program)?;
        let is_right = match rule {
            Some(rule) => code == 6 && by_program.len() == 1 && by_program.contains(rule),
            None => by_program.is_empty() && code == if all.is_empty() { 0 } else { 6 },
        };
        let mark = if is_right { "" } else { "  WRONG" };
        let wanted = rule.unwrap_or("none");
        eprintln!("{version:5} {program:34} wanted {wanted:22} exit {code} {all:?}{mark}");
        wrong.extend((!is_right).then_some(program));
    }
    Ok(wrong)
}

/// A watch of one program. So many at once read accounts late: the laws of reports are judged elsewhere.
struct Watch {
    tool: Group,
    lines: File,
}

/// The rules that held at any time, and those that did not only for want of a CPU.
struct Told {
    code: i32,
    all: BTreeSet<String>,
    by_program: BTreeSet<String>,
}

impl Watch {
    fn start(pid: u32, seconds: u64) -> Result<Self> {
        let lines = tempfile::tempfile()?;
        let mut command = Command::new(binary()?);
        command
            .args(["--json", "--fail-on", "any", "--budget-cpu", "100%"])
            .args(["-d", &format!("{seconds}s"), "-p", &pid.to_string()])
            .stdin(Stdio::null())
            .stdout(lines.try_clone()?)
            .stderr(Stdio::null());
        let tool = Group::start(&mut command)?;
        Ok(Self { tool, lines })
    }

    fn finish(mut self, seconds: u64) -> Result<Told> {
        let status = self
            .tool
            .wait_for(PATIENCE + Duration::from_secs(seconds))?;
        self.lines.rewind()?;
        let (mut all, mut stalls) = (BTreeSet::new(), Vec::new());
        for line in BufReader::new(self.lines).lines() {
            let line: Value = serde_json::from_str(&line?)?;
            if line["type"] == "stall" {
                stalls.push(serde_json::from_value::<Stall>(line)?);
                continue;
            }
            let processes = line["processes"].as_array().into_iter().flatten();
            let findings = processes.flat_map(|process| process["findings"].as_array());
            let rules = findings.flatten().filter_map(|one| one["rule"].as_str());
            all.extend(rules.map(str::to_owned));
        }
        let by_host = made_up(&[], &stalls, THRESHOLD_NS).is_empty();
        let mut by_program = all.clone();
        by_program.retain(|rule| rule != BY_HOST && !(by_host && rule == STALLS));
        Ok(Told {
            code: code(status),
            all,
            by_program,
        })
    }
}
