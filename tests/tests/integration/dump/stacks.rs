//! Stacks that are hard to read: those that go on faster than that, and those of processes that C code has forked.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::spawn::Group;
use concmon_tests::watch::PATIENCE;
use serde_json::Value;

use super::{array, tool};

/// Two functions that call each other, up and down all the time.
const RECURSES: &str = "
import os, random, threading
def even(left):
    kept = (left, 1)
    return odd(left - 1) if left else 0
def odd(left):
    return even(left - 1) if left else 0
print(os.getpid(), flush=True)
while True:
    even(random.randint(200, 900))
";
/// Forks as C code does: Python is not told. The new thread gets the stack of one that only the parent has.
const FORKS: &str = "
import ctypes, os, threading, time
def only_in_parent():
    time.sleep(1000)
def only_in_child():
    time.sleep(1000)
def child_main():
    threading.Thread(target=only_in_child, name='new').start()
    time.sleep(1000)
threading.Thread(target=only_in_parent, name='old', daemon=True).start()
child = ctypes.PyDLL(None).fork()
if child == 0:
    child_main()
print(child, flush=True)
time.sleep(1000)
";

/// The program, and the id that it says.
fn start(version: &str, program: &str) -> Result<(Group, u32)> {
    let mut command = Interpreter::find(version)?.command();
    command.args(["-c", program]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut group = Group::start(&mut command)?;
    let mut line = String::new();
    let stdout = group.stdout.as_mut().context("no stdout")?;
    BufReader::new(stdout).read_line(&mut line)?;
    let pid = line.trim().parse().context("no id")?;
    Ok((group, pid))
}

/// The functions of each thread's stack, the outermost first, by the thread's name.
fn stacks(pid: u32) -> Result<BTreeMap<String, Vec<String>>> {
    let look = tool(&["dump", "--json"], pid)?.json()?;
    let threads = array(&look, "/processes/0/threads")?.iter();
    let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
    let stack = |thread: &Value| -> Result<(String, Vec<String>)> {
        let frames = array(thread, "/stack")?.iter().rev();
        let functions = frames.map(|frame| text(&frame["function"]));
        Ok((text(&thread["name"])?, functions.collect::<Result<_>>()?))
    };
    threads.map(stack).collect()
}

/// Its outer part is there each time, and is what the program can be in.
pub(super) fn recursion(version: &str) -> Result<()> {
    let (_program, pid) = start(version, RECURSES)?;
    let mut without = 0;
    for look in 0..8 {
        let stacks = stacks(pid)?;
        let stack = stacks.get("MainThread").context("no thread")?;
        // One may be without, though none of 1,500 was.
        let Some(outermost) = stack.first() else {
            without += 1;
            ensure!(without < 2, "look {look}: no stack, again");
            continue;
        };
        // It may be choosing how deep to go.
        let is_even = |name: &String| name == "even";
        let calls = stack.iter().skip(1).skip_while(|name| !is_even(name));
        let in_turn = calls
            .enumerate()
            .all(|(at, name)| is_even(name) == (at % 2 == 0));
        ensure!(outermost == "<module>" && in_turn, "look {look}: {stack:?}");
    }
    Ok(())
}

pub(super) fn forked(version: &str) -> Result<()> {
    let (_program, pid) = start(version, FORKS)?;
    let deadline = Instant::now() + PATIENCE;
    let is_there = |name: &str, stacks: &BTreeMap<String, Vec<String>>, wanted: &str| {
        let stack = stacks.get(name);
        stack.is_some_and(|stack| stack.last().is_some_and(|last| last == wanted))
    };
    loop {
        let found = stacks(pid)?;
        let is_all = is_there("MainThread", &found, "child_main")
            && is_there("new", &found, "only_in_child");
        if is_all && found.len() == 2 {
            return Ok(());
        }
        // Its thread may not have begun.
        ensure!(Instant::now() < deadline, "{found:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}
