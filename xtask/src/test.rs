//! `cargo xtask test`: every test of the workspace, with one closing line for all of them.
use std::io::{BufRead as _, BufReader, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::workspace;

/// Build concmon-bpf and run all tests of the workspace
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    filter: Option<String>,
    /// Run unit tests, and a short one of each file of others: 3 minutes after the build
    #[arg(long, conflicts_with_all = ["filter", "pythons"])]
    quick: bool,
    /// Run everything on every version of Python that is here, not on two
    #[arg(long)]
    pythons: bool,
}

/// How many of the longest tests are listed.
const LONGEST: usize = 10;

/// Runs the command.
pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let begin = Instant::now();
    // What harnesses cannot say in the lines of a test runner; see `concmon_tests::harness`.
    let repeated = tempfile::NamedTempFile::new().context("making a temporary file")?;
    let times = tempfile::NamedTempFile::new().context("making a temporary file")?;
    let prepared = |mut cargo: Command| {
        cargo
            .env("CONCMON_TESTS_REPEATED", repeated.path())
            .env("CONCMON_TESTS_TIMES", times.path());
        if args.quick {
            cargo.env("CONCMON_TESTS_QUICK", "1");
        }
        if args.pythons {
            cargo.env("CONCMON_TESTS_PYTHONS", "1");
        }
        cargo
    };
    let mut build = workspace::cargo();
    workspace::run(build.args(["test", "--workspace", "--no-run", "--quiet"]))?;
    let built = begin.elapsed().as_secs_f64();
    let mut tally = Tally::default();
    for stage in stages(args) {
        tally.add(together(stage.into_iter().map(prepared).collect())?);
    }
    tell(&tally, &lines(repeated.path()), &lines(times.path()));
    let took = begin.elapsed().as_secs_f64();
    println!("\ncargo test took {took:.0} s, {built:.0} s of them the build");
    println!("\n{}", closing(args, &tally));
    Ok(if tally.failed == 0 && tally.total() > 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What measures has the machine to itself.
const ALONE: &str = "integration";
/// A file of the package of `concmon-bpf`, for which cargo builds it: those that run alone need it.
const WITH_BINARY: &str = "cli";
/// Files of tests that mostly wait for the programs that they look at: they run beside the others.
const WAITING: [&str; 2] = ["python", "python_trio"];
/// The others.
const OTHERS: [&str; 6] = [
    "captures",
    "fuzz",
    "hostile_captures",
    "images",
    "tidy",
    "views",
];
/// Those of which `--quick` runs some, and which. Of the others it runs everything, or they choose for themselves.
const QUICK_OF: [&str; 4] = ["fuzz", "hostile_captures", "images", "python"];
const QUICK_TESTS: [&str; 13] = [
    "cases_that_were_found_do_not_fail_again",
    "releases",
    "looks_at_images_are_pinned",
    "collector::sums_are_what_the_program_says",
    "endings::a_target_may_die_during_a_look",
    "executors::executors_are_what_the_program_says",
    "gil::the_holder_is_named_and_samples_tell_held_from_free",
    "live::the_gil_is_where_waiting_threads_say_it_is",
    "stacks::parked_threads_are_where_the_program_says",
    "targets::a_forked_child_has_no_workers",
    "tasks::contexts_hold_what_the_program_put_into_them",
    "waits::no_wait_is_made_up_while_threads_go_on",
    "no_shape_is_forgotten",
];

/// What cargo is to run, one stage after the other; what is in one stage runs together. All of it is of the
/// workspace: for one package alone cargo would build it with other features.
fn stages(args: &Args) -> Vec<Vec<Command>> {
    let cargo = |more: &[&str], files: &[&str]| {
        let mut cargo = workspace::cargo();
        cargo.args(["test", "--no-fail-fast", "--workspace"]);
        cargo.args(files.iter().flat_map(|file| ["--test", *file]));
        cargo.args(more);
        cargo
    };
    if let Some(filter) = &args.filter {
        return vec![vec![cargo(&["--", filter], &[])]];
    }
    let alone = vec![cargo(&[], &[ALONE, WITH_BINARY])];
    let units = ["--lib", "--bins"];
    if args.quick {
        let mut whole = [&OTHERS[..], &WAITING].concat();
        whole.retain(|file| !QUICK_OF.contains(file));
        let some = [&["--", "--exact"], &QUICK_TESTS[..]].concat();
        return vec![alone, vec![cargo(&units, &whole), cargo(&some, &QUICK_OF)]];
    }
    let others = vec![
        cargo(&units, &OTHERS),
        cargo(&[], &WAITING),
        cargo(&["--doc"], &[]),
    ];
    vec![alone, others]
}

/// Runs them at the same time: what the first one prints is shown as it comes, that of the others after it.
fn together(commands: Vec<Command>) -> Result<Tally> {
    std::thread::scope(|scope| {
        let mut commands = commands.into_iter();
        let first = commands.next();
        let others: Vec<_> = commands
            .map(|mut cargo| {
                scope.spawn(move || {
                    let mut said = Vec::new();
                    Ok((follow(&mut cargo, &mut said)?, said))
                })
            })
            .collect();
        let mut tally = Tally::default();
        if let Some(mut cargo) = first {
            tally.add(follow(&mut cargo, &mut std::io::stdout())?);
        }
        for other in others {
            let ended: Result<_> = other.join().unwrap_or_else(|_| bail!("a thread panicked"));
            let (more, said) = ended?;
            std::io::stdout().write_all(&said)?;
            tally.add(more);
        }
        Ok(tally)
    })
}

/// Runs it, passes on what it prints, and counts.
fn follow(cargo: &mut Command, out: &mut impl Write) -> Result<Tally> {
    let mut child = cargo
        .stdout(Stdio::piped())
        .spawn()
        .context("starting cargo test")?;
    let mut reader = BufReader::new(child.stdout.take().context("cargo test has no output")?);
    let mut tally = Tally::default();
    let mut line = Vec::new();
    while reader
        .read_until(b'\n', &mut line)
        .context("reading cargo test")?
        > 0
    {
        out.write_all(&line).and_then(|()| out.flush())?;
        tally.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    let status = child.wait().context("waiting for cargo test")?;
    if !status.success() && tally.failed == 0 {
        let line =
            format!("\ncargo test ended with {status}: something failed outside a test, see above");
        writeln!(out, "{line}")?;
        tally.failed += 1;
    }
    Ok(tally)
}

fn lines(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// What is behind the numbers of the closing line.
fn tell(tally: &Tally, repeated: &[String], times: &[String]) {
    if !tally.failures.is_empty() {
        println!("\nfailed:");
        for name in &tally.failures {
            println!("  {name}");
        }
    }
    if !repeated.is_empty() {
        println!("\nrepeated, since an attempt failed or could not be judged:");
        for what in repeated {
            println!("  {what}");
        }
    }
    if !tally.ignored.is_empty() {
        println!("\nskipped:");
        for (name, reason) in &tally.ignored {
            println!("  {name}: {reason}");
        }
    }
    let mut longest: Vec<(f64, &str)> = times
        .iter()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(seconds, name)| Some((seconds.parse().ok()?, name)))
        .collect();
    longest.sort_by(|one, other| other.0.total_cmp(&one.0));
    longest.truncate(LONGEST);
    if !longest.is_empty() {
        println!("\nthe longest, in seconds:");
        for (seconds, name) in longest {
            println!("  {seconds:6.1} {name}");
        }
    }
    if tally.total() == 0 {
        println!("\nno test ran");
    }
}

fn closing(args: &Args, tally: &Tally) -> String {
    let mut line = format!(
        "{} passed, {} failed, {} skipped",
        tally.passed, tally.failed, tally.skipped
    );
    if args.quick {
        line += &format!(", {} left out by --quick", tally.left_out);
    }
    line
}

/// What the outputs of the test binaries add up to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
    /// Kept from running by a filter.
    left_out: u64,
    failures: Vec<String>,
    /// Name, and the reason as its harness gave it.
    ignored: Vec<(String, String)>,
}

impl Tally {
    fn total(&self) -> u64 {
        self.passed + self.failed + self.skipped
    }

    fn add(&mut self, more: Self) {
        self.passed += more.passed;
        self.failed += more.failed;
        self.skipped += more.skipped;
        self.left_out += more.left_out;
        self.failures.extend(more.failures);
        self.ignored.extend(more.ignored);
    }

    /// Takes one line of libtest's (or libtest-mimic's) output.
    fn read(&mut self, line: &str) {
        let line = line.trim();
        if let Some(counts) = line.strip_prefix("test result: ") {
            // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s"
            let counts = counts.split_once(". ").map_or(counts, |(_, counts)| counts);
            for count in counts.split(';') {
                let Some((number, word)) = count.trim().split_once(' ') else {
                    continue;
                };
                let Ok(number) = number.parse::<u64>() else {
                    continue;
                };
                match word {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.skipped += number,
                    "filtered out" => self.left_out += number,
                    _ => {}
                }
            }
            return;
        }
        let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|test| test.rsplit_once(" ... "))
        else {
            return;
        };
        let name = name.trim().to_owned();
        if outcome == "FAILED" {
            self.failures.push(name);
        } else if let Some((reason, name)) = name
            .strip_prefix("[skipped: ")
            .and_then(|name| name.rsplit_once("] "))
        {
            let name = name.trim().to_owned();
            self.ignored.push((name, reason.to_owned()));
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ':', ' ']);
            let reason = if reason.is_empty() {
                "no reason given"
            } else {
                reason
            };
            self.ignored.push((name, reason.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Sources of the files of integration tests, by name.
    fn test_files() -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        for folder in ["concmon-userspace/tests", "tests/tests", "xtask/tests"] {
            let folder = workspace::root().join(folder);
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                let source = if path.join("main.rs").is_file() {
                    let parts = std::fs::read_dir(&path).expect("a folder");
                    let parts = parts.map(|part| part.expect("an entry").path());
                    let parts = parts.filter(|part| part.extension().is_some_and(|is| is == "rs"));
                    parts
                        .map(|part| std::fs::read_to_string(part).expect("text"))
                        .collect()
                } else if path.extension().is_some_and(|is| is == "rs") {
                    std::fs::read_to_string(&path).expect("text")
                } else {
                    continue;
                };
                let name = path.file_stem().expect("a name").to_string_lossy();
                files.insert(name.into_owned(), source);
            }
        }
        files
    }

    #[test]
    fn no_file_is_forgotten_and_quick_names_tests_that_are_there() {
        let files = test_files();
        let mut known = [&[ALONE, WITH_BINARY], &WAITING[..], &OTHERS].concat();
        known.sort_unstable();
        assert!(files.keys().eq(known.iter()), "{:?}", files.keys());
        for name in QUICK_TESTS {
            let function = name.rsplit("::").next().expect("a last part");
            let is_there = |file: &&str| {
                let source = &files[*file];
                [format!("fn {function}("), format!("    {function}: ")]
                    .iter()
                    .any(|text| source.contains(text))
            };
            assert!(QUICK_OF.iter().any(is_there), "{name}");
        }
    }

    #[test]
    fn adds_up_several_binaries() {
        let mut tally = Tally::default();
        for line in "\
running 3 tests
test one ... ok
test two::three ... ignored, needs root
test four ... FAILED
test five - should panic ... ok

test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s

     Running unittests
test src/lib.rs - thing (line 3) ... ignored
test dump     ... ignored
test [skipped: needs [root]] lag::three    ... ignored

test result: ok. 5 passed; 0 failed; 3 ignored; 0 measured; 0 filtered out; finished in 1.00s
"
        .lines()
        {
            tally.read(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 7,
                failed: 1,
                skipped: 4,
                left_out: 7,
                failures: vec!["four".into()],
                ignored: vec![
                    ("two::three".into(), "needs root".into()),
                    (
                        "src/lib.rs - thing (line 3)".into(),
                        "no reason given".into()
                    ),
                    ("dump".into(), "no reason given".into()),
                    ("lag::three".into(), "needs [root]".into()),
                ],
            }
        );
    }
}
