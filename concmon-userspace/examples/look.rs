//! Looks once into a running Python program and prints what it finds.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use concmon::event::Pid;
use concmon::python::{Interpreter, LookBudget};

fn main() -> anyhow::Result<()> {
    let pid = std::env::args().nth(1).unwrap_or_default().parse()?;
    let mut interpreter = Interpreter::attach(Pid(pid))?;
    println!("{:?}\n{:x?}", interpreter.info(), interpreter.gils());
    println!("{:#?}", interpreter.look(0, LookBudget::default()));
    Ok(())
}
