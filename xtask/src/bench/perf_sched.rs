//! `perf sched` as another judge of threads' time on a CPU.
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::child::Owned;
const PERF: &str = "perf";
/// Of each CPU's buffer: it may have to wait for a CPU itself.
const BUFFER: &str = "32M";
/// What it says of events or samples that are missing.
const LOST: &str = "lost ";
/// Says that events are recorded, and ends with its input.
const WAITS: &str = "echo recording; cat >/dev/null";

/// A recording under way of all switches.
pub(super) struct Recording {
    perf: Owned,
    file: tempfile::NamedTempFile,
}

impl Recording {
    /// Why there can be none.
    pub(super) fn refusal() -> Option<String> {
        match Self::start().and_then(Self::finish) {
            Ok(Some(_)) => None,
            Ok(None) => Some("it lost events at once, or its table is not known".to_owned()),
            Err(error) => Some(format!("{error:#}")),
        }
    }

    pub(super) fn start() -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = Command::new(PERF);
        command.args(["sched", "record", "-q", "-m", BUFFER, "-o"]);
        command.arg(file.path()).args(["--", "sh", "-c", WAITS]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let child = command.stderr(Stdio::null()).spawn();
        let mut perf = Owned(child.context("starting perf")?);
        let stdout = perf.0.stdout.take().context("perf has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "recording", "perf said `{}`", line.trim());
        Ok(Self { perf, file })
    }

    /// How long each thread was on a CPU, ns, by its id; `None` where events were lost, or it names no threads.
    pub(super) fn finish(mut self) -> Result<Option<BTreeMap<u32, u64>>> {
        drop(self.perf.0.stdin.take());
        let status = self.perf.0.wait()?;
        ensure!(status.success(), "perf sched record: {status}");
        let mut command = Command::new(PERF);
        command.args(["sched", "latency", "-p", "-i"]);
        let output = command.arg(self.file.path()).output()?;
        ensure!(output.status.success(), "perf sched latency: {output:?}");
        let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // It says in either what was lost, and no more than that.
        let is_whole = !said(&output.stderr).contains(LOST);
        Ok(times(&said(&output.stdout)).filter(|_| is_whole))
    }
}

/// Of the table that `perf sched latency -p` prints.
fn times(text: &str) -> Option<BTreeMap<u32, u64>> {
    if text.contains(LOST) {
        return None;
    }
    let row = |line: &str| {
        let (task, rest) = line.split_once('|')?;
        let (_, tid) = task.trim().rsplit_once(':')?;
        let (whole, thousandths) = rest.split_once("ms")?.0.trim().split_once('.')?;
        let us = whole.parse::<u64>().ok()? * 1000 + thousandths.parse::<u64>().ok()?;
        Some((tid.parse().ok()?, us * 1000))
    };
    let times: BTreeMap<u32, u64> = text.lines().filter_map(row).collect();
    (!times.is_empty()).then_some(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_threads_unless_events_were_lost() {
        let text = "
 -----------------------------------------------------------------------------
  Task                  |   Runtime ms  | Switches | Avg delay ms    |
 -----------------------------------------------------------------------------
  python3:14107         |    113.916 ms |      204 | avg:   0.025 ms | max:   0.417 ms |
  a:b c:14111           |   1018.001 ms |        3 | avg:   0.000 ms | max:   0.000 ms |
 -----------------------------------------------------------------------------
  TOTAL:                |   2442.241 ms |     6254 |
";
        let found = times(text).expect("nothing was lost");
        let expected = [(14107, 113_916_000), (14111, 1_018_001_000)];
        assert_eq!(found, BTreeMap::from(expected));
        let lost = format!("{text}  INFO: 11.392% lost events (18881 out of 165735, in 1 chunks)");
        assert_eq!(times(&lost), None);
        assert_eq!(times(&text.replace(" ms", " s")), None);
    }
}
