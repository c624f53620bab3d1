//! The table: one row for each interpreter, one column for each thing that concmon reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::compare::differences;
use super::find::{Probe, Python, Version};
use super::program::{self, Folder, Program};
use super::{WANTED, gil, packages, trio};

const COLUMNS: &[&str] = &[
    "stacks",
    "names",
    "GIL",
    "tasks",
    "await chain",
    "contexts",
    "executors",
    "trio",
    "anyio",
    "uvloop",
];

/// How a program is compared with the dump.
enum Check {
    /// It prints its cells in the form of a dump.
    Account,
    Gil,
    Trio,
}

/// A program, the packages that it needs, and the columns that it is for.
struct Case {
    words: &'static [&'static str],
    packages: &'static [&'static str],
    columns: &'static [&'static str],
    check: Check,
}

const CASES: &[Case] = &[
    Case {
        words: &["truth_threads.py"],
        packages: &[],
        columns: &["stacks", "names"],
        check: Check::Account,
    },
    Case {
        words: &["truth_gil.py"],
        packages: &[],
        columns: &["GIL"],
        check: Check::Gil,
    },
    Case {
        words: &["truth_asyncio.py"],
        packages: &[],
        columns: &["tasks", "await chain"],
        check: Check::Account,
    },
    Case {
        words: &["truth_contexts.py"],
        packages: &[],
        columns: &["contexts"],
        check: Check::Account,
    },
    Case {
        words: &["truth_executors.py"],
        packages: &[],
        columns: &["executors"],
        check: Check::Account,
    },
    Case {
        words: &["interpreter_trio.py"],
        packages: &["trio"],
        columns: &["trio"],
        check: Check::Trio,
    },
    Case {
        words: &["truth_asyncio.py", "anyio"],
        packages: &["anyio", "trio"],
        columns: &["anyio"],
        check: Check::Account,
    },
    Case {
        words: &["interpreter_trio.py", "anyio"],
        packages: &["anyio", "trio"],
        columns: &["anyio"],
        check: Check::Trio,
    },
    Case {
        words: &["truth_asyncio.py", "uvloop"],
        packages: &["uvloop"],
        columns: &["uvloop"],
        check: Check::Account,
    },
];

#[derive(Clone)]
enum Outcome {
    Pass,
    /// What differs.
    Fail(Vec<String>),
    NotApplicable(String),
}

impl Outcome {
    fn fail(what: String) -> Self {
        Outcome::Fail(vec![what])
    }
}

/// Outcomes by column; a column may have several programs.
type Row = BTreeMap<&'static str, Vec<Outcome>>;

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
    not_applicable: Vec<String>,
}

/// Prints the table of the interpreters that the filters let through; false when a cell fails.
pub(super) fn run(
    pythons: &[Python],
    filters: &[String],
    monitor: &Path,
    verbose: bool,
) -> Result<bool> {
    let begin = Instant::now();
    let mut tally = Tally::default();
    println!("{:24}  {}", "interpreter", COLUMNS.join("  "));
    for python in pythons {
        let label = label(python);
        let wanted =
            |filter: &String| label.starts_with(filter.as_str()) || python.origin == filter;
        if !filters.is_empty() && !filters.iter().any(wanted) {
            continue;
        }
        let row = match &python.probe {
            Probe::Runs(version) if !WANTED.contains(&version.minor) => everywhere(
                &Outcome::NotApplicable("not a supported version".to_owned()),
            ),
            Probe::Runs(version) => row(python, version, pythons, monitor)?,
            Probe::NeedsRoot => everywhere(&Outcome::NotApplicable("needs root".to_owned())),
            Probe::Broken(error) => everywhere(&Outcome::fail(format!("it does not run: {error}"))),
        };
        print_row(&label, &row);
        tally.take(&label, row, verbose);
    }
    tally.print();
    println!("\nit took {:.0} s", begin.elapsed().as_secs_f64());
    Ok(tally.failed.is_empty() && tally.passed > 0)
}

/// `3.11.7 pyenv`.
fn label(python: &Python) -> String {
    let version = python.version().map_or("?", |version| &version.text);
    format!("{} {}", version.trim_end_matches(" GIL"), python.origin)
}

fn everywhere(outcome: &Outcome) -> Row {
    COLUMNS
        .iter()
        .map(|column| (*column, vec![outcome.clone()]))
        .collect()
}

/// Starts all programs, then looks at one after the other.
fn row(python: &Python, version: &Version, installers: &[Python], monitor: &Path) -> Result<Row> {
    let folder = Folder::new(python)?;
    let started: Vec<(&Case, Result<Program, Outcome>)> = CASES
        .iter()
        .map(|case| (case, start(python, version, installers, &folder, case)))
        .collect();
    let mut row = Row::new();
    for (case, program) in started {
        let outcomes = match program {
            Ok(mut program) => outcomes(case, monitor, &mut program),
            Err(outcome) => vec![(case.columns[0], outcome)],
        };
        for (column, outcome) in outcomes {
            row.entry(column).or_default().push(outcome);
        }
    }
    Ok(row)
}

fn start(
    python: &Python,
    version: &Version,
    installers: &[Python],
    folder: &Folder,
    case: &Case,
) -> Result<Program, Outcome> {
    if matches!(case.check, Check::Gil) && version.free_threaded {
        return Err(Outcome::NotApplicable("this build has none".to_owned()));
    }
    let packages = match case.packages {
        [] => None,
        names => match packages::folder(python, version, names, installers) {
            Ok(folder) => Some(folder),
            Err(error) => return Err(Outcome::NotApplicable(format!("{error:#}"))),
        },
    };
    Program::start(python, folder, case.words, packages.as_deref())
        .map_err(|error| Outcome::fail(format!("{error:#}")))
}

fn outcomes(case: &Case, monitor: &Path, program: &mut Program) -> Vec<(&'static str, Outcome)> {
    let found = match case.check {
        Check::Gil => gil::check(monitor, program).map(|()| vec![Outcome::Pass]),
        Check::Account | Check::Trio => compare(case, monitor, program),
    };
    match found {
        Ok(outcomes) => case.columns.iter().copied().zip(outcomes).collect(),
        Err(error) => case
            .columns
            .iter()
            .map(|column| (*column, Outcome::fail(format!("{error:#}"))))
            .collect(),
    }
}

/// One outcome for each column of the case, all from one dump.
fn compare(case: &Case, monitor: &Path, program: &Program) -> Result<Vec<Outcome>> {
    let account = program.line()?;
    let expected: Vec<Value> = match case.check {
        Check::Trio => vec![trio::expected(&account)?],
        _ => case
            .columns
            .iter()
            .map(|column| {
                let cell = account["cells"].get(column);
                cell.cloned()
                    .with_context(|| format!("the account has no {column}"))
            })
            .collect::<Result<_>>()?,
    };
    let dump = program::dump(monitor, program.pid())?;
    Ok(expected
        .iter()
        .map(|expected| match differences(expected, &dump) {
            none if none.is_empty() => Outcome::Pass,
            some => Outcome::Fail(some),
        })
        .collect())
}

/// What stands in a cell.
fn cell(outcomes: &[Outcome]) -> &'static str {
    let has = |is: fn(&Outcome) -> bool| outcomes.iter().any(is);
    if has(|one| matches!(one, Outcome::Fail(_))) {
        "fail"
    } else if has(|one| matches!(one, Outcome::Pass)) {
        "pass"
    } else {
        "n.a."
    }
}

fn print_row(label: &str, row: &Row) {
    let mut line = format!("{label:24}");
    for column in COLUMNS {
        let cell = row.get(column).map_or("n.a.", |outcomes| cell(outcomes));
        line.push_str(&format!("  {cell:width$}", width = column.len()));
    }
    println!("{}", line.trim_end());
}

impl Tally {
    fn take(&mut self, label: &str, row: Row, verbose: bool) {
        for (column, outcomes) in row {
            self.passed += usize::from(cell(&outcomes) == "pass");
            for outcome in outcomes {
                match outcome {
                    Outcome::Pass => {}
                    Outcome::Fail(what) => {
                        let shown = if verbose { what.len() } else { 1 };
                        let others = match what.len() - shown {
                            0 => String::new(),
                            others => format!(" (and {others} more)"),
                        };
                        let what = what[..shown].join("\n      ");
                        self.failed
                            .push(format!("{label}, {column}: {what}{others}"));
                    }
                    Outcome::NotApplicable(why) => {
                        self.not_applicable
                            .push(format!("{label}, {column}: {why}"));
                    }
                }
            }
        }
    }

    fn print(&self) {
        for (title, lines) in [
            ("failed", &self.failed),
            ("not applicable", &self.not_applicable),
        ] {
            if !lines.is_empty() {
                println!("\n{title}:");
            }
            for line in lines {
                println!("  {line}");
            }
        }
        println!(
            "\n{} cells pass, {} comparisons fail, {} not applicable",
            self.passed,
            self.failed.len(),
            self.not_applicable.len()
        );
    }
}
