//! `perf sched` as another judge of threads' time on a CPU.
//!
//! Of each thread it has the kernel's own growth of its account (`sched_stat_runtime`), and when it came and went
//! (`sched_switch`). Both are incomplete now and then without a word of lost events: a task may tell no events at all, and
//! a thread that computed for milliseconds goes without an account of them. Either shows by the other: where its account
//! stands still while it was on a CPU, or a CPU is left by another thread than it was given to, it is not known for how
//! long the thread ran, and the judge says between what it lies.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::child::Owned;
const PERF: &str = "perf";
/// Of each CPU's buffer: it may have to wait for a CPU itself.
const BUFFER: &str = "32M";
/// What stands for events that perf knows to have lost.
const LOST: &str = "PERF_RECORD_LOST";
/// Says that events are recorded, and ends with its input.
const WAITS: &str = "echo recording; cat >/dev/null";
/// An account is brought up to date that close to a switch.
const CLOSE_NS: u64 = 50_000;

/// A recording under way of all switches.
pub(super) struct Recording {
    perf: Owned,
    file: tempfile::NamedTempFile,
}

/// How long a thread was on a CPU, ns, as far as perf's trace tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) least_ns: u64,
    /// With all for which its account is missing.
    pub(super) most_ns: u64,
}

impl Judged {
    /// By how much a time is outside.
    pub(super) fn miss(&self, told_ns: u64) -> u64 {
        let short = self.least_ns.saturating_sub(told_ns);
        short.max(told_ns.saturating_sub(self.most_ns))
    }
}

pub(super) type Times = BTreeMap<u32, Judged>;

impl Recording {
    /// Why there can be none.
    pub(super) fn refusal() -> Option<String> {
        match Self::start().and_then(Self::finish) {
            Ok(Some(_)) => None,
            Ok(None) => Some("it lost events at once, or its trace is not known".to_owned()),
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

    /// How long each thread was on a CPU by its id; `None` where perf says that events were lost, or there are none.
    pub(super) fn finish(mut self) -> Result<Option<Times>> {
        drop(self.perf.0.stdin.take());
        let status = self.perf.0.wait()?;
        ensure!(status.success(), "perf sched record: {status}");
        let mut command = Command::new(PERF);
        command.args(["script", "--ns", "--show-lost-events", "-i"]);
        command.arg(self.file.path());
        command.args(["-F", "tid,cpu,time,event,trace"]);
        command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut script = Owned(command.spawn().context("starting perf script")?);
        let stdout = script.0.stdout.take().context("perf has no output")?;
        let times = times(BufReader::new(stdout))?;
        let status = script.0.wait()?;
        ensure!(status.success(), "perf script: {status}");
        Ok(times)
    }
}

/// What is known of a thread that is on a CPU.
struct Stay {
    /// Up to when its account is known.
    known_ns: u64,
}

#[derive(Default)]
struct Trace {
    times: Times,
    stays: BTreeMap<u32, Stay>,
    /// Who was last given each CPU, and when.
    cpus: BTreeMap<u32, (u32, u64)>,
}

/// Of the lines that `perf script` prints.
fn times(lines: impl BufRead) -> Result<Option<Times>> {
    let mut trace = Trace::default();
    for line in lines.split(b'\n') {
        // Names of threads may be any bytes.
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        if line.contains(LOST) {
            return Ok(None);
        }
        trace.line(&line);
    }
    Ok(Some(trace.times).filter(|times| !times.is_empty()))
}

impl Trace {
    /// `TID [CPU] SECONDS.NANOSECONDS: GROUP:EVENT: FIELDS`; others are passed over.
    fn line(&mut self, line: &str) -> Option<()> {
        let (head, rest) = line.split_once(": ")?;
        let mut words = head.split_whitespace().skip(1);
        let cpu = words.next()?.trim_matches(['[', ']']).parse().ok()?;
        let (seconds, ns) = words.next()?.split_once('.')?;
        let at_ns = seconds.parse::<u64>().ok()? * 1_000_000_000 + ns.parse::<u64>().ok()?;
        let (event, fields) = rest.trim_start().split_once(": ")?;
        match event {
            "sched:sched_stat_runtime" => {
                let tid = number(fields, " pid=")?;
                self.account(tid, at_ns, u64::from(number(fields, " runtime=")?));
            }
            "sched:sched_switch" => {
                let (from, to) = fields.split_once(" ==> ")?;
                self.switch(
                    cpu,
                    at_ns,
                    thread(from, "prev_pid=")?,
                    thread(to, "next_pid=")?,
                );
            }
            _ => {}
        }
        Some(())
    }

    fn account(&mut self, tid: u32, at_ns: u64, runtime_ns: u64) {
        let judged = self.times.entry(tid).or_default();
        judged.least_ns += runtime_ns;
        judged.most_ns += runtime_ns;
        if let Some(stay) = self.stays.get_mut(&tid) {
            judged.most_ns += missing(at_ns.saturating_sub(stay.known_ns), runtime_ns);
            stay.known_ns = at_ns;
        }
    }

    fn switch(&mut self, cpu: u32, at_ns: u64, from: u32, to: u32) {
        let given = self.cpus.insert(cpu, (to, at_ns));
        let judged = self.times.entry(from).or_default();
        match (self.stays.remove(&from), given) {
            (Some(stay), _) => {
                judged.most_ns += missing(at_ns.saturating_sub(stay.known_ns), 0);
            }
            // When it came was not told; it was not before the one that was.
            (None, Some((other, since_ns))) if other != from => {
                judged.most_ns += at_ns.saturating_sub(since_ns);
            }
            _ => {}
        }
        self.stays.insert(to, Stay { known_ns: at_ns });
    }
}

/// What is on a CPU for so long and has no account of it, but for what is not booked yet.
fn missing(stay_ns: u64, runtime_ns: u64) -> u64 {
    let missing = stay_ns.saturating_sub(runtime_ns);
    if missing > CLOSE_NS { missing } else { 0 }
}

/// The last field of this name: others' values are before it.
fn number(fields: &str, name: &str) -> Option<u32> {
    let (_, value) = fields.rsplit_once(name)?;
    let end = value.find(|c: char| !c.is_ascii_digit());
    value[..end.unwrap_or(value.len())].parse().ok()
}

/// `NAME:TID [PRIORITY] ...`, or with fields by their names.
fn thread(side: &str, field: &str) -> Option<u32> {
    number(side, field).or_else(|| {
        let (name, _) = side.rsplit_once(" [")?;
        name.rsplit_once(':')?.1.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = " 7 [001] 10.000000000: sched:sched_switch: a:7 [120] S ==> b c:8 [120]\n";

    fn of(lines: &str) -> Option<Times> {
        times(lines.as_bytes()).expect("it can be read")
    }

    fn judged(lines: &str, tid: u32) -> (u64, u64) {
        let times = of(&format!("{HEAD}{lines}")).expect("nothing was lost");
        (times[&tid].least_ns, times[&tid].most_ns)
    }

    #[test]
    fn accounts_are_added_up_and_holes_in_them_are_known() {
        let whole = "\
 8 [001] 10.004000000: sched:sched_stat_runtime: comm=b c pid=8 runtime=3999000 [ns]
 8 [001] 10.004010000: sched:sched_switch: prev_comm=b c prev_pid=8 prev_prio=120 prev_state=R ==> next_comm=d pid=5 next_pid=9 next_prio=120
";
        assert_eq!(judged(whole, 8), (3_999_000, 3_999_000));
        let open = "\
 8 [001] 10.001000000: sched:sched_stat_runtime: comm=b c pid=8 runtime=999000 [ns]
 8 [001] 10.004000000: sched:sched_switch: b c:8 [120] R ==> d:9 [120]
";
        assert_eq!(judged(open, 8), (999_000, 3_999_000));
        // Of one account the event is missing, and the next is of its own time only.
        let between = "\
 8 [001] 10.004000000: sched:sched_stat_runtime: comm=b c pid=8 runtime=1000000 [ns]
 8 [001] 10.004010000: sched:sched_switch: b c:8 [120] R ==> d:9 [120]
";
        assert_eq!(judged(between, 8), (1_000_000, 4_000_000));
        // The thread that was given the CPU says nothing.
        let unseen = " 6 [001] 10.003000000: sched:sched_switch: e:6 [120] S ==> d:9 [120]\n";
        assert_eq!(judged(unseen, 6), (0, 3_000_000));
        assert_eq!(
            of(&format!("{HEAD} 0 [001] 10.1: PERF_RECORD_LOST lost 5\n")),
            None
        );
        assert_eq!(of("nothing\n"), None);
    }

    #[test]
    fn what_lies_within_is_no_miss() {
        let judged = Judged {
            least_ns: 10,
            most_ns: 20,
        };
        let misses = [5, 10, 20, 23].map(|ns| judged.miss(ns));
        assert_eq!(misses, [5, 0, 0, 3]);
    }
}
