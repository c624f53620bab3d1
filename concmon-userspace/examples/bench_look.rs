//! Looks at one process again and again and prints what each look took, as JSON lines.
//!
//! `bench_look PID TASKS CHAIN LOOKS PAUSE_MS`: at most so many tasks, so many frames of a chain, so
//! many looks, with a pause between them.
#![allow(clippy::print_stdout, reason = "its standard output is its product")]

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use concmon::event::Pid;
use concmon::python::{Interpreter, ScanOptions};
use serde_json::json;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [pid, tasks, chain, looks, pause] = args.as_slice() else {
        bail!("usage: bench_look PID TASKS CHAIN LOOKS PAUSE_MS");
    };
    let options = ScanOptions {
        tasks: tasks.parse().context("TASKS")?,
        chain: chain.parse().context("CHAIN")?,
        bytes: 1 << 30,
        ..ScanOptions::default()
    };
    let pause = Duration::from_millis(pause.parse().context("PAUSE_MS")?);
    let mut interpreter = Interpreter::attach(Pid(pid.parse().context("PID")?))?;
    for look in 0..looks.parse::<usize>().context("LOOKS")? {
        if look > 0 {
            std::thread::sleep(pause);
        }
        let before = interpreter.cost();
        let cpu_before = cpu_time()?;
        let start = Instant::now();
        let fact = interpreter.scan(0, &options);
        let wall = start.elapsed();
        let cpu = cpu_time()?.saturating_sub(cpu_before);
        let cost = interpreter.cost();
        println!(
            "{}",
            json!({
                "look": look,
                "wall_ms": wall.as_secs_f64() * 1e3,
                "cpu_ms": cpu.as_secs_f64() * 1e3,
                "tasks": fact.tasks.len(),
                "chained": fact.tasks.iter().filter(|task| !task.awaiting.is_empty()).count(),
                "bytes": cost.bytes - before.bytes,
                "calls": cost.calls - before.calls,
                "reads_failed": fact.reads_failed,
                "limits": fact.limits,
            })
        );
    }
    Ok(())
}

/// User and system time of this process.
fn cpu_time() -> Result<Duration> {
    // SAFETY: an all-zero `rusage` is a valid one; the kernel fills it in.
    let usage = unsafe {
        let mut usage = std::mem::zeroed::<libc::rusage>();
        ensure!(libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0);
        usage
    };
    let time =
        |time: libc::timeval| Duration::new(time.tv_sec.unsigned_abs(), time.tv_usec as u32 * 1000);
    Ok(time(usage.ru_utime) + time(usage.ru_stime))
}
