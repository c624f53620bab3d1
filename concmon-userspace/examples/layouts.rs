//! Prints the rows of layouts, or compares them with the interpreters of running processes.
//!
//! Without arguments: one line per field, one column per version. With process ids: what each
//! interpreter says otherwise itself, and whether its objects have the sizes that are relied on;
//! ends with 1 when a size is not the expected one.
#![allow(clippy::print_stdout, reason = "its output is its product")]

use std::collections::BTreeSet;
use std::process::ExitCode;

use concmon::event::Pid;
use concmon::python::layout::{MINORS, Version, fields, row};
use concmon::python::verify;

fn main() -> ExitCode {
    let pids: Vec<String> = std::env::args().skip(1).collect();
    if pids.is_empty() {
        print_rows();
        return ExitCode::SUCCESS;
    }
    let mut holds = true;
    for pid in pids {
        holds &= pid.parse().is_ok_and(|pid| compare(Pid(pid)));
    }
    ExitCode::from(u8::from(!holds))
}

fn print_rows() {
    let columns: Vec<_> = MINORS
        .filter_map(|minor| row(Version { major: 3, minor }))
        .map(|layout| fields(&layout))
        .collect();
    let names: BTreeSet<&String> = columns.iter().flat_map(|column| column.keys()).collect();
    print!("{:44}", "field");
    for minor in MINORS {
        print!(" {:>8}", format!("3.{minor}"));
    }
    println!();
    for name in names {
        print!("{name:44}");
        for column in &columns {
            print!(" {:>8}", column.get(name).map_or("-", String::as_str));
        }
        println!();
    }
}

fn compare(pid: Pid) -> bool {
    let verified = match verify(pid) {
        Ok(verified) => verified,
        Err(error) => {
            println!("  FAIL  {error}");
            return false;
        }
    };
    println!("  version {}", verified.version);
    for (name, row, own) in &verified.drift {
        println!("  drift   {name}: row {row}, the interpreter says {own}");
    }
    let mut holds = true;
    for (name, expected, size) in &verified.sizes {
        let verdict = match size {
            None => "absent",
            Some(size) if *size == u64::from(*expected) => "ok",
            // A coroutine before 3.11 is a generator with more behind it.
            Some(size) if *size > u64::from(*expected) && name.starts_with("types.") => "larger",
            Some(_) => {
                holds = false;
                "FAIL"
            }
        };
        let size = size.map_or("-".to_owned(), |size| size.to_string());
        println!("  {verdict:7} {name}: {expected} bytes expected, {size} found");
    }
    holds
}
