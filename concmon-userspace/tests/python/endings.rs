//! Targets that end, become another program, stand still or lose their pages while they are read:
//! a look says what it could not read, and is over.

use std::time::{Duration, Instant};

use crate::common::{Program, Python, pythons_in_turn};
use concmon::event::{Pid, PythonFact};
use concmon::python::image::timeless;
use concmon::python::{DetectError, Interpreter, ScanOptions};

/// Tasks enough that a look takes a while; ends or goes on as its input says.
const TASKS: &str = "
import asyncio, os, sys, threading

async def leaf():
    await asyncio.sleep(3600)

async def middle():
    await leaf()

def obey():
    if sys.stdin.readline():
        os.execv('/bin/sleep', ['sleep', '600'])

async def main():
    tasks = [asyncio.ensure_future(middle()) for _ in range(1000)]
    await asyncio.sleep(0)
    threading.Thread(target=obey, daemon=True).start()
    await asyncio.sleep(0.1)
    print('ready', flush=True)
    await asyncio.gather(*tasks)

asyncio.run(main())
";

fn look(interpreter: &mut Interpreter) -> PythonFact {
    interpreter.scan(7, &ScanOptions::default())
}

/// A look at a program that stands still by now: it is the same as the one before.
fn look_at_rest(interpreter: &mut Interpreter) -> PythonFact {
    let begin = Instant::now();
    let mut fact = look(interpreter);
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let next = look(interpreter);
        if format!("{:?}", timeless(&fact)) == format!("{:?}", timeless(&next)) {
            return next;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "it goes on");
        fact = next;
    }
}

fn for_each(check: impl Fn(&Python, Program, Interpreter, PythonFact)) {
    for python in pythons_in_turn(0) {
        let program = python.run(TASKS);
        assert_eq!(program.line(), "ready");
        let mut interpreter = Interpreter::attach(program.pid()).expect("an interpreter");
        let fact = look_at_rest(&mut interpreter);
        assert_eq!(
            fact.reads_failed,
            0,
            "{}: {:?}",
            python.label(),
            fact.limits
        );
        assert_eq!(fact.tasks.len(), 1001, "{}", python.label());
        check(&python, program, interpreter, fact);
    }
}

fn signal(pid: Pid, number: i32) {
    // SAFETY: a system call without pointers, on a child that nobody has waited for.
    assert_eq!(unsafe { libc::kill(pid.0 as i32, number) }, 0);
}

/// The letter of a process's state.
fn state(pid: Pid) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("a process");
    let rest = stat.rsplit(") ").next().unwrap_or_default();
    rest.chars().next().expect("a state")
}

fn wait_for(pid: Pid, expected: char) {
    let begin = Instant::now();
    while state(pid) != expected {
        assert!(begin.elapsed() < Duration::from_secs(30), "{}", state(pid));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a look at memory that is not there any more must say.
fn assert_nothing(fact: &PythonFact, label: &str) {
    assert!(fact.reads_failed > 0, "{label}");
    assert!(
        fact.limits.contains_key("python") || fact.limits.contains_key("threads"),
        "{label}: {:?}",
        fact.limits
    );
    let found = (fact.threads.len(), fact.loops.len(), fact.tasks.len());
    assert_eq!(found, (0, 0, 0), "{label}");
}

#[test]
fn a_target_may_die_during_a_look() {
    for_each(|python, program, mut interpreter, _| {
        let pid = program.pid();
        let begin = Instant::now();
        look(&mut interpreter);
        let usual = begin.elapsed();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(usual / 3);
            signal(pid, libc::SIGKILL);
        });
        while state(pid) != 'Z' {
            look(&mut interpreter);
        }
        killer.join().expect("the killer");
        // Nobody has waited for it: it is a zombie.
        assert_nothing(&look(&mut interpreter), &python.label());
        assert!(matches!(Interpreter::attach(pid), Err(DetectError::Gone)));
        assert!(interpreter.gils().is_err());
    });
}

#[test]
fn a_target_may_become_another_program_during_a_look() {
    for_each(|python, mut program, mut interpreter, _| {
        let pid = program.pid();
        program.say("go");
        let begin = Instant::now();
        let name = || std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        while name().trim() != "sleep" {
            look(&mut interpreter);
            assert!(begin.elapsed() < Duration::from_secs(30));
        }
        assert_nothing(&look(&mut interpreter), &python.label());
        assert!(matches!(
            Interpreter::attach(pid),
            Err(DetectError::NotPython)
        ));
    });
}

#[test]
fn a_target_that_is_stopped_is_read_and_stays_so() {
    for_each(|python, program, mut interpreter, before| {
        let pid = program.pid();
        signal(pid, libc::SIGSTOP);
        wait_for(pid, 'T');
        let fact = look(&mut interpreter);
        let mut anew = Interpreter::attach(pid).expect("an interpreter");
        for fact in [fact, look(&mut anew)] {
            assert_eq!(fact.reads_failed, 0, "{}", python.label());
            assert!(
                format!("{:?}", fact.tasks) == format!("{:?}", before.tasks),
                "{}: the tasks are the same",
                python.label()
            );
        }
        assert_eq!(state(pid), 'T');
        signal(pid, libc::SIGCONT);
    });
}

#[test]
fn pages_that_are_not_in_memory_are_read() {
    for_each(|python, program, mut interpreter, before| {
        let pid = program.pid();
        let rss = resident_pages(pid);
        if let Err(error) = page_out(pid) {
            eprintln!(
                "skipped: {}: pages cannot be put out: {error}",
                python.label()
            );
            return;
        }
        let out = rss.saturating_sub(resident_pages(pid));
        // Without swap, only pages of files go, and only those that nobody else has mapped.
        if out == 0 {
            eprintln!("skipped: {}: no page went out", python.label());
        }
        let fact = look(&mut interpreter);
        assert_eq!(fact.reads_failed, 0, "{}", python.label());
        assert!(
            format!("{:?}", (&fact.threads, &fact.tasks))
                == format!("{:?}", (&before.threads, &before.tasks)),
            "{}: threads and tasks are the same",
            python.label()
        );
        let mut anew = Interpreter::attach(pid).expect("an interpreter");
        assert_eq!(look(&mut anew).tasks.len(), before.tasks.len());
    });
}

fn resident_pages(pid: Pid) -> u64 {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).expect("a process");
    let resident = statm.split_whitespace().nth(1).expect("a number");
    resident.parse().expect("a number")
}

/// Puts all pages of a process out of memory that can be: to swap, or to their files.
fn page_out(pid: Pid) -> std::io::Result<()> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let areas: Vec<libc::iovec> = maps
        .lines()
        .filter(|line| !line.ends_with(']'))
        .filter_map(|line| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            let start = u64::from_str_radix(start, 16).ok()?;
            let end = u64::from_str_radix(end, 16).ok()?;
            Some(libc::iovec {
                iov_base: start as *mut libc::c_void,
                iov_len: (end - start) as usize,
            })
        })
        .collect();
    // SAFETY: system calls; the addresses are another process's, the kernel reads `areas` only.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid.0, 0);
        if process < 0 {
            return Err(std::io::Error::last_os_error());
        }
        let mut result = Ok(());
        for area in &areas {
            let done = libc::syscall(
                libc::SYS_process_madvise,
                process,
                std::ptr::from_ref(area),
                1,
                libc::MADV_PAGEOUT,
                0,
            );
            if done < 0 {
                let error = std::io::Error::last_os_error();
                // A mapping without pages, or one that may not go out.
                if error.raw_os_error() != Some(libc::EINVAL) {
                    result = Err(error);
                    break;
                }
            }
        }
        libc::close(process as i32);
        result
    }
}
