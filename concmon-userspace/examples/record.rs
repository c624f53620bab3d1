//! Records what a look reads of a Python process: `record PID FILE`.
//!
//! The process should stand still. Whether the look can be made again from the file is checked at
//! once; what it found is printed in short.
#![allow(clippy::print_stdout, reason = "its output is its product")]

use std::process::ExitCode;

use concmon::event::Pid;
use concmon::python::LookOptions;
use concmon::python::image::Image;

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
    let options = LookOptions::default();
    let (image, fact) = Image::record(Pid(pid.parse()?), &options)?;
    if fact.reads_failed > 0 {
        return Err(format!("{} reads failed: {:?}", fact.reads_failed, fact.limits).into());
    }
    let bytes = image.to_bytes()?;
    let again = Image::parse(&bytes)?.replay(None)?.look(0, &options);
    let (replayed, read) = (format!("{again:#?}"), format!("{fact:#?}"));
    let mut lines = replayed.lines().zip(read.lines());
    // When it was read, the two cannot agree on.
    let differ = |(replayed, read): &(&str, &str)| replayed != read && !read.contains("read_ns: ");
    if let Some((replayed, read)) = lines.find(differ) {
        return Err(format!("the process gives `{read}`, its image `{replayed}`").into());
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
