//! Looks into a running Python program and prints what it finds, and how long that took.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::time::Instant;

use concmon::event::Pid;
use concmon::python::{Interpreter, LookBudget};

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let pid = arguments.next().unwrap_or_default().parse()?;
    let looks: usize = arguments.next().map_or(Ok(1), |looks| looks.parse())?;
    let start = Instant::now();
    let mut interpreter = Interpreter::attach(Pid(pid))?;
    eprintln!("attached in {:?}", start.elapsed());
    println!("{:?}\n{:x?}", interpreter.info(), interpreter.gils());
    for look in 1..=looks {
        let start = Instant::now();
        let fact = interpreter.look(0, LookBudget::default());
        eprintln!(
            "look {look}: {:?}, {} threads, {} tasks, {} reads failed, {:?}",
            start.elapsed(),
            fact.threads.len(),
            fact.tasks.len(),
            fact.reads_failed,
            fact.limits
        );
        if looks == 1 {
            println!("{fact:#?}");
        }
    }
    Ok(())
}
