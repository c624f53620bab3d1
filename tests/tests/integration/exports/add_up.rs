//! Time in exports against the report's, to the nanosecond.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};
use concmon_tests::exported;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::watch::binary;
use concmon_tests::workload::programs;

use super::Recorded;

/// Threads and processes that end at once.
const FORKS: &str = "
import os, subprocess, threading
for turn in range(40):
    thread = threading.Thread(target=sum, args=(range(300_000),))
    thread.start()
    thread.join()
    if os.fork() == 0:
        sum(range(100_000))
        os._exit(0)
    os.wait()
    if turn % 8 == 0:
        subprocess.run(['true'])
";

/// Every format has all of the report's time, to the nanosecond, by thread and cause: of threads and processes that
/// come and go, of a program that was started by the watch, and of captures of others.
pub(super) fn every_format_has_all_time() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let python = Interpreter::find("3.11")?;
    let own = |name: &str, arguments: &[&str]| -> Result<PathBuf> {
        let file = folder.path().join(name);
        let mut record = Command::new(binary()?);
        record.args(["record", "-q", "-i", "250ms", "-d", "3s", "-o"]);
        record
            .arg(&file)
            .arg("--")
            .args(python.words())
            .args(arguments);
        // Whose program is still running at the end has no success to tell.
        record.stdin(Stdio::null()).stdout(Stdio::null()).output()?;
        Ok(file)
    };
    let program = |name: &str| programs().join(name).to_string_lossy().into_owned();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let captures = [
        own("fight", &[&program("gil.py"), "3"])?,
        own("short", &[&program("short.py"), "0.3"])?,
        own("forks", &["-c", FORKS])?,
        tests.join("captures/1.0.concmon"),
        tests.join("../concmon-userspace/src/demo/misbehave.concmon"),
    ];
    for file in captures {
        let recorded = Recorded::of(file)?;
        let name = recorded.file.display();
        let report = exported::of_report(&recorded.summary);
        ensure!(report.values().sum::<u64>() > 0, "{name}: no time");
        let same = |what: &str, got: exported::Sums, states: &[&str]| -> Result<()> {
            for ((tid, state), want) in &report {
                let got = got.get(&(*tid, state.clone())).copied().unwrap_or(0);
                // All threads without a row are one sum: see below.
                let asked = *tid != 0 && (states.is_empty() || states.contains(&state.as_str()));
                ensure!(
                    !asked || got == *want,
                    "{name}, {what}, {tid}: {state} is {got}, not {want}"
                );
            }
            for state in report.keys().map(|(_, state)| state) {
                if !states.is_empty() && !states.contains(&state.as_str()) {
                    continue;
                }
                let of = |sums: &exported::Sums| -> u64 {
                    sums.iter()
                        .filter(|((_, is), _)| is == state)
                        .map(|(_, ns)| ns)
                        .sum()
                };
                let (got, want) = (of(&got), of(&report));
                ensure!(
                    got == want,
                    "{name}, {what}: all {state} is {got}, not {want}"
                );
            }
            Ok(())
        };
        same(
            "perfetto",
            exported::perfetto(&recorded.export("perfetto", "wall")?)?,
            &[],
        )?;
        let all: [(&str, &[&str]); 5] = [
            ("wall", &[]),
            ("on-cpu", &["on_cpu"]),
            ("gil", &["gil"]),
            ("lock", &["lock"]),
            ("io", &["io", "disk"]),
        ];
        for (by, states) in all {
            let text = String::from_utf8(recorded.export("collapsed", by)?)?;
            same(
                &format!("collapsed by {by}"),
                exported::collapsed(&text, by)?,
                states,
            )?;
            let speedscope = exported::speedscope(&recorded.export("speedscope", by)?, by)?;
            same(&format!("speedscope by {by}"), speedscope, states)?;
            recorded.export("pprof", by)?;
            let pprof = exported::pprof(&recorded.folder.path().join("pprof"))?;
            same(&format!("pprof by {by}"), pprof, states)?;
            let whole = exported::collapsed(&text, by)?.values().sum::<u64>();
            if whole > 0 {
                let svg = String::from_utf8(recorded.export("svg", by)?)?;
                let total = format!("total_samples=\"{whole}\"");
                ensure!(svg.contains(&total), "{name}, svg by {by}: not {total}");
            }
        }
    }
    Ok(())
}
