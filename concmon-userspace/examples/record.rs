//! Records what a look reads of a Python process: `record PID FILE`.
//!
//! The process should stand still. Whether the look can be made again from the file is checked at
//! once; what it found is printed in short.
#![allow(clippy::print_stdout, reason = "its output is its product")]

use std::process::ExitCode;

use concmon::event::Pid;
use concmon::python::ScanOptions;
use concmon::python::image::{Image, timeless};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [pid, file] = arguments.as_slice() else {
        eprintln!("usage: record PID FILE");
        return ExitCode::FAILURE;
    };
    match record(pid, file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("record: process {pid}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn record(pid: &str, file: &str) -> Result<(), Box<dyn std::error::Error>> {
    let options = ScanOptions::default();
    let (image, fact) = Image::record(Pid(pid.parse()?), &options)?;
    if fact.reads_failed > 0 {
        return Err(format!("{} reads failed: {:?}", fact.reads_failed, fact.limits).into());
    }
    let bytes = image.to_bytes()?;
    let again = Image::parse(&bytes)?.replay(None)?.scan(0, &options);
    let (again, first) = (timeless(&again), timeless(&fact));
    if format!("{again:?}") != format!("{first:?}") {
        return Err("the image gives another look than the process".into());
    }
    std::fs::write(file, &bytes)?;
    println!(
        "{} kB: {}, {} threads, {} loops, {} tasks",
        bytes.len().div_ceil(1000),
        image.header.version,
        fact.threads.len(),
        fact.loops.len(),
        fact.tasks.len()
    );
    Ok(())
}
