//! Switches that are told for a part of the time: what nobody looked at is told as such, and CPU time is the kernel's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context, Result, ensure};
use concmon_tests::agent::{Agent, sum};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::spawn::Group;
use libtest_mimic::Trial;

use crate::agent::{config, counters};
use crate::watch_python;

pub(crate) fn trials() -> Vec<Trial> {
    let python = watch_python("3.13");
    vec![
        quiet(
            "duty::cpu_time_is_whole_and_the_rest_is_unobserved",
            &python,
            half_of_the_time,
        ),
        case(
            "duty::kernel_programs_stay_inside_the_budget",
            &python,
            inside_the_budget,
        ),
    ]
}

/// Turns that two threads take.
const TURNS: &str = "\
import os, threading
(a, b), (c, d) = os.pipe(), os.pipe()
def answer():
    while os.write(d, os.read(a, 1)):
        pass
threading.Thread(target=answer, daemon=True).start()
print('ready', flush=True)
while os.write(b, b'x'):
    os.read(c, 1)
";

/// What switches of a busy host take is more than a small budget: fewer of them are looked at, and that is told.
fn inside_the_budget() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let mut command = python.command();
    command.args([MARK, "-c", TURNS]).stdout(Stdio::piped());
    let mut program = Group::start(&mut command)?;
    let mut stdout = BufReader::new(program.stdout.take().context("no stdout")?);
    line(&mut stdout)?;
    let shed = "concmon_agent_shed{concmon_detail=\"switches\"}";
    let whole = Agent::start(&config(MARK), &[])?;
    let cpu = "concmon_cpu_time_seconds_total{service_name=\"shop\"";
    let metrics = whole.metrics_with("the service", |metrics| sum(metrics, cpu).is_some())?;
    ensure!(sum(&metrics, shed) == Some(0.0), "{metrics}");
    drop(whole);
    let small = config(MARK).replace("budget_cpu = \"100%\"", "budget_cpu = \"0.1%\"");
    let agent = Agent::start(&small, &[])?;
    let away = "concmon_agent_unobserved_time_seconds_total";
    agent.metrics_with("a pause", |metrics| {
        sum(metrics, shed) == Some(1.0) && sum(metrics, away).is_some_and(|s| s > 0.0)
    })?;
    Ok(())
}

/// A thread that works for half of the time, threads that begin and end, one that waits; each line it reads is a round,
/// after which it says how many threads there were.
const PROGRAM: &str = "\
import sys, threading, time
threading.Thread(target=threading.Event().wait, daemon=True).start()
def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
print('ready', flush=True)
for line in sys.stdin:
    end, threads = time.monotonic() + 4, 0
    while time.monotonic() < end:
        burn(0.02)
        short = threading.Thread(target=burn, args=(0.005,))
        short.start()
        short.join()
        threads += 1
        time.sleep(0.02)
    print(threads, flush=True)
";
const MARK: &str = "-Xconcmon-duty";

fn line(from: &mut BufReader<ChildStdout>) -> Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

/// What the kernel has counted of the living threads of a process, s (the first word of `schedstat`,
/// Documentation/scheduler/sched-stats.rst).
fn cpu_s(child: &Child) -> Result<f64> {
    let mut sum = 0.0;
    for task in fs::read_dir(format!("/proc/{}/task", child.id()))? {
        let text = fs::read_to_string(task?.path().join("schedstat"))?;
        sum += text.split(' ').next().context("no time")?.parse::<f64>()? / 1e9;
    }
    Ok(sum)
}

fn half_of_the_time() -> Result<()> {
    let python = Interpreter::find("3.13")?;
    let mut command = python.command();
    command
        .args([MARK, "-c", PROGRAM])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut program = Group::start(&mut command)?;
    let mut stdin = program.stdin.take().context("no stdin")?;
    let mut stdout = BufReader::new(program.stdout.take().context("no stdout")?);
    line(&mut stdout)?;
    let agent = Agent::start(&format!("duty = \"50%\"\n{}", config(MARK)), &[])?;
    let cpu = "concmon_cpu_time_seconds_total{service_name=\"shop\"";
    let first = agent.metrics_with("the service", |metrics| sum(metrics, cpu).is_some())?;
    let starts = "concmon_thread_starts_total{service_name=\"shop\"}";
    let cpu_before_s = cpu_s(&program)?;
    writeln!(stdin)?;
    let threads: f64 = line(&mut stdout)?.parse()?;
    let burnt_s = cpu_s(&program)? - cpu_before_s;
    let metrics = agent.metrics_with("all threads", |metrics| {
        let began = sum(metrics, starts).unwrap_or(0.0) - sum(&first, starts).unwrap_or(0.0);
        began >= threads && sum(metrics, cpu).is_some_and(|told_s| told_s > burnt_s * 0.9)
    })?;
    let grown =
        |series: &str| sum(&metrics, series).unwrap_or(0.0) - sum(&first, series).unwrap_or(0.0);
    ensure!(
        grown(starts) == threads,
        "{} threads, not {threads}",
        grown(starts)
    );
    let told_s = grown(cpu);
    // Threads that have ended are in no `schedstat`. Of one that ends while nobody looks, up to a clock tick is missing,
    // which is about what these take; and to begin and to end takes its time, too.
    let least_s = burnt_s * 0.97 - 0.02;
    let most_s = burnt_s * 1.03 + 0.02 + threads * 0.007;
    ensure!(
        (least_s..=most_s).contains(&told_s),
        "{told_s} s of CPU time, by the kernel {burnt_s} s"
    );
    let now = counters(&metrics);
    for (series, value) in counters(&first) {
        let later = now.get(series).with_context(|| format!("{series} went"))?;
        ensure!(*later >= value, "{series}: {value}, then {later}");
    }
    let states = |state: &str| -> f64 {
        let time = "concmon_thread_time_seconds_total{service_name=\"shop\"";
        let of = metrics.lines().filter(|line| line.starts_with(time));
        of.filter(|line| line.contains(state))
            .filter_map(|line| sum(line, ""))
            .sum()
    };
    let (all_s, unobserved_s) = (
        states("concmon_state="),
        states("concmon_state=\"unobserved\""),
    );
    let share = unobserved_s / all_s;
    ensure!((0.2..0.8).contains(&share), "{share} was not looked at");
    ensure!(
        states("concmon_state=\"unknown\"") <= all_s / 1_000.0,
        "{metrics}"
    );
    let coverage = "concmon_agent_coverage{service_name=\"shop\",concmon_part=\"time\"}";
    let covered = sum(&metrics, coverage).context("no coverage")?;
    ensure!(
        (covered - (1.0 - share)).abs() < 0.05,
        "{covered} is covered, {share} is not"
    );
    let away = "concmon_agent_unobserved_time_seconds_total";
    ensure!(sum(&metrics, away).is_some_and(|s| s > 0.0), "{metrics}");
    // Nobody ran half of the time that was looked at and none of the other.
    let watched_s = states("concmon_state=\"on_cpu\"");
    ensure!(
        watched_s > told_s * 0.2 && watched_s < told_s * 0.8,
        "{watched_s} of {told_s} s were seen"
    );
    Ok(())
}
