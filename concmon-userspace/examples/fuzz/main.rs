//! Fuzzes the walkers with mutated images, and the parsers of a target's files and texts.
//!
//! `fuzz [--time SECONDS] [--jobs N] [--seed S] [--images DIR] [--only INPUT]... [CASE ...]`: with
//! cases, as earlier runs printed them, runs just these. Inputs are images and parsers. An execution
//! fails when it panics, takes more than 2 s of CPU, or more than 64 MB of memory. Ends with 1 when
//! one failed.
#![allow(clippy::print_stdout, reason = "its output is its product")]

mod capture;
mod case;
#[path = "../../tests/common/crafted.rs"]
mod crafted;
mod elf;
mod heap;
mod judge;
mod mutate;
mod random;
mod watchdog;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use case::{Case, PARSERS};
use judge::{Finding, Judge};
use random::mix;

#[global_allocator]
static HEAP: heap::Counting = heap::Counting;

/// One execution in so many is a parser's.
const PARSER_SHARE: u64 = 16;
/// After so many findings a run ends.
const MOST_FINDINGS: usize = 20;

struct Arguments {
    time: Duration,
    jobs: usize,
    seed: u64,
    images: PathBuf,
    only: Vec<String>,
    cases: Vec<Case>,
}

fn arguments() -> Result<Arguments, String> {
    let mut arguments = Arguments {
        time: Duration::from_secs(60),
        jobs: 1,
        seed: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        images: PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/images")),
        only: Vec::new(),
        cases: Vec::new(),
    };
    let mut given = std::env::args().skip(1);
    while let Some(name) = given.next() {
        let mut number = || -> Result<u64, String> {
            let value = given.next().ok_or(format!("{name} needs a value"))?;
            value.parse().map_err(|_| format!("{name}: `{value}`"))
        };
        match name.as_str() {
            "--time" => arguments.time = Duration::from_secs(number()?),
            "--jobs" => arguments.jobs = number()?.max(1) as usize,
            "--seed" => arguments.seed = number()?,
            "--images" => arguments.images = given.next().ok_or("--images needs a value")?.into(),
            "--only" => arguments
                .only
                .push(given.next().ok_or("--only needs a value")?),
            case => arguments.cases.push(case.parse()?),
        }
    }
    Ok(arguments)
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("fuzz: {error}");
            return ExitCode::FAILURE;
        }
    };
    let judge = match Judge::new(&arguments.images) {
        Ok(judge) => judge,
        Err(error) => {
            eprintln!("fuzz: {}: {error}", arguments.images.display());
            return ExitCode::FAILURE;
        }
    };
    let is_input = |name: &String| {
        PARSERS.contains(&name.as_str()) || judge.subjects.iter().any(|it| it.name == *name)
    };
    if let Some(name) = arguments.only.iter().find(|name| !is_input(name)) {
        eprintln!("fuzz: there is no input `{name}`");
        return ExitCode::FAILURE;
    }
    judge::keep_panics();
    watchdog::tell_of_abort();
    let findings = if arguments.cases.is_empty() {
        fuzz(&judge, &arguments)
    } else {
        let cases = arguments.cases.iter();
        cases
            .filter_map(|case| shown(case, judge.run(case, 1)))
            .collect()
    };
    for finding in &findings {
        println!("{finding}");
    }
    ExitCode::from(u8::from(!findings.is_empty()))
}

/// Runs one case, and says what it took.
fn shown(case: &Case, verdict: judge::Verdict) -> Option<Finding> {
    println!(
        "{case}: {} ms, {} kB",
        verdict.cpu.as_millis(),
        verdict.peak_bytes / 1000
    );
    verdict.finding
}

/// What the workers share.
#[derive(Default)]
struct Progress {
    executions: AtomicU64,
    peak_bytes: AtomicU64,
    longest_ms: AtomicU64,
    /// The cases with the highest peak and the longest time.
    worst: Mutex<[String; 2]>,
    findings: Mutex<Vec<Finding>>,
    over: AtomicBool,
}

fn fuzz(judge: &Judge, arguments: &Arguments) -> Vec<Finding> {
    let names = judge.subjects.iter().map(|subject| &*subject.name);
    let names: Vec<&str> = names.collect();
    println!(
        "{} jobs, {} s, seed {}, images {}",
        arguments.jobs,
        arguments.time.as_secs(),
        arguments.seed,
        names.join(" ")
    );
    let progress = Progress::default();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                let slot = watchdog::Slot::take();
                while begin.elapsed() < arguments.time && !progress.over.load(Ordering::Relaxed) {
                    let number = progress.executions.fetch_add(1, Ordering::Relaxed);
                    let case = nth(arguments, number, &names);
                    slot.begins(&case);
                    let verdict = judge.run(&case, 1);
                    slot.ends();
                    progress.take(&case, verdict);
                }
            });
        }
        scope.spawn(|| {
            while begin.elapsed() < arguments.time && !progress.over.load(Ordering::Relaxed) {
                watchdog::end_on_hang();
                std::thread::sleep(Duration::from_millis(200));
            }
        });
    });
    let worst = progress.worst.lock().map(|worst| worst.clone());
    let [largest, longest] = worst.unwrap_or_default();
    println!(
        "{} executions in {} s; at most {} kB ({largest}) and {} ms of CPU ({longest})",
        progress.executions.load(Ordering::Relaxed),
        begin.elapsed().as_secs(),
        progress.peak_bytes.load(Ordering::Relaxed) / 1000,
        progress.longest_ms.load(Ordering::Relaxed),
    );
    progress.findings.into_inner().unwrap_or_default()
}

/// The case of a number: the same for the same arguments, whoever runs it.
fn nth(arguments: &Arguments, number: u64, names: &[&str]) -> Case {
    let only = &arguments.only;
    let input = if !only.is_empty() {
        &only[number as usize % only.len()]
    } else if number.is_multiple_of(PARSER_SHARE) {
        PARSERS[(number / PARSER_SHARE) as usize % PARSERS.len()]
    } else {
        names[number as usize % names.len()]
    };
    Case {
        input: input.to_owned(),
        seed: mix(arguments.seed ^ mix(number)) >> 16,
    }
}

impl Progress {
    fn take(&self, case: &Case, verdict: judge::Verdict) {
        let ms = verdict.cpu.as_millis() as u64;
        let peak = self
            .peak_bytes
            .fetch_max(verdict.peak_bytes, Ordering::Relaxed);
        let longest = self.longest_ms.fetch_max(ms, Ordering::Relaxed);
        if let Ok(mut worst) = self.worst.lock() {
            if verdict.peak_bytes > peak {
                worst[0] = case.to_string();
            }
            if ms > longest {
                worst[1] = case.to_string();
            }
        }
        if let (Some(finding), Ok(mut findings)) = (verdict.finding, self.findings.lock()) {
            println!("{finding}");
            findings.push(finding);
            if findings.len() >= MOST_FINDINGS {
                self.over.store(true, Ordering::Relaxed);
            }
        }
    }
}
