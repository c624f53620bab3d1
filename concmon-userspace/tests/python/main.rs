//! What is read of interpreters is what programs say of themselves: one file for each thing that is read.

#[path = "../common/mod.rs"]
mod common;

mod collector;
mod endings;
mod executors;
mod gil;
mod live;
mod stacks;
mod targets;
mod tasks;
mod waits;
