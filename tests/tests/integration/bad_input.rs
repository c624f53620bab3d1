//! Bad input and missing abilities: one clear line, the right exit code.

use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use concmon_tests::btf;
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::proc;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{Outcome, PATIENCE, Watch, binary};
use concmon_tests::workload::{Programs, Workload};
use libtest_mimic::Trial;

use crate::{WATCH, watch_python};

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf, python] = watch_python("3.11");
    let unprivileged = [root, Need::User];
    vec![
        quiet("bad_input::no_such_pid", &WATCH, no_such_pid),
        quiet("bad_input::not_python", &WATCH, not_python),
        quiet(
            "bad_input::kernel_thread",
            &[root, ebpf, Need::KernelThread],
            kernel_thread,
        ),
        quiet("bad_input::unknown_flag", &[], unknown_flag),
        quiet(
            "bad_input::program_cannot_be_started",
            &WATCH,
            program_cannot_be_started,
        ),
        quiet(
            "bad_input::user_without_permission::own_python",
            &unprivileged,
            || user_without_permission(&own_python()?),
        ),
        quiet(
            "bad_input::user_without_permission::roots_python",
            &unprivileged,
            || user_without_permission(&roots_python()?),
        ),
        quiet(
            "bad_input::user_without_permission::roots_program_that_is_not_python",
            &unprivileged,
            || user_without_permission(&sleep()?),
        ),
        quiet("bad_input::no_btf", &[root, ebpf, python], no_btf),
        quiet(
            "bad_input::self_test_fails::tgid",
            &[root, ebpf, python],
            || self_test_fails("tgid"),
        ),
        quiet(
            "bad_input::self_test_fails::pid",
            &[root, ebpf, python],
            || self_test_fails("pid"),
        ),
    ]
}

/// One line on stderr that has one of `words` in it, nothing on stdout, and this exit code.
fn refused(outcome: &Outcome, code: i32, words: &[&str]) -> Result<()> {
    ensure!(
        outcome.code == code,
        "exit code {}, not {code}; stderr: {:?}",
        outcome.code,
        outcome.stderr
    );
    ensure!(
        outcome.stderr.trim_end().lines().count() == 1,
        "not one line on stderr: {:?}",
        outcome.stderr
    );
    ensure!(
        words.iter().any(|word| outcome.stderr.contains(word)),
        "stderr has none of {words:?}: {:?}",
        outcome.stderr
    );
    ensure!(
        outcome.reports.is_empty() && outcome.other.is_empty(),
        "something on stdout"
    );
    Ok(())
}

fn sleep() -> Result<Group> {
    Group::start(Command::new("sleep").arg("60").stdin(Stdio::null()))
}

fn roots_python() -> Result<Group> {
    let python = Interpreter::for_everyone()?;
    ready(python.command().args(["-c", SAYS_READY]))
}

fn own_python() -> Result<Group> {
    let python = Interpreter::for_everyone()?;
    ready(
        python
            .command()
            .args(["-c", SAYS_READY])
            .uid(UNPRIVILEGED)
            .gid(UNPRIVILEGED),
    )
}

const SAYS_READY: &str = "import time; print('ready', flush=True); time.sleep(60)";

/// Starts a program and waits for its first word.
fn ready(command: &mut Command) -> Result<Group> {
    use std::io::Read;
    let mut child = Group::start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?;
    let mut word = [0; 6];
    child
        .stdout
        .as_mut()
        .context("no stdout")?
        .read_exact(&mut word)?;
    Ok(child)
}

fn no_such_pid() -> Result<()> {
    let mut gone = Group::start(Command::new("true").stdin(Stdio::null()))?;
    gone.wait_for(PATIENCE)?;
    let outcome = Watch::pid(gone.id(), "1s", Some("1s"))?.finish(PATIENCE)?;
    refused(&outcome, 3, &[&gone.id().to_string()])
}

fn not_python() -> Result<()> {
    let sleep = sleep()?;
    let outcome = Watch::pid(sleep.id(), "1s", Some("1s"))?.finish(PATIENCE)?;
    refused(&outcome, 3, &[&sleep.id().to_string()])
}

fn kernel_thread() -> Result<()> {
    let pid = proc::kernel_thread().context("no kernel thread")?;
    let outcome = Watch::pid(pid, "1s", Some("1s"))?.finish(PATIENCE)?;
    refused(&outcome, 3, &[&pid.to_string()])
}

fn unknown_flag() -> Result<()> {
    let outcome = Watch::start(&["--no-such-flag"])?.finish(PATIENCE)?;
    ensure!(outcome.code == 2, "exit code {}", outcome.code);
    // The usage may follow; the first line says what is wrong.
    let first = outcome.stderr.lines().next().unwrap_or_default();
    ensure!(
        first.contains("--no-such-flag"),
        "the first line is {first:?}"
    );
    ensure!(outcome.other.is_empty(), "something on stdout");
    Ok(())
}

fn program_cannot_be_started() -> Result<()> {
    let program = "/no/such/program";
    let outcome = Watch::start(&["--json", "--", program])?.finish(PATIENCE)?;
    refused(&outcome, 127, &[program])
}

fn user_without_permission(target: &Group) -> Result<()> {
    let programs = Programs::copy(&Interpreter::for_everyone()?)?;
    let tool = programs.tool()?;
    let outcome = Watch::with(
        Command::new(tool)
            .args(["--pid", &target.id().to_string(), "-d", "1s", "--json"])
            .uid(UNPRIVILEGED)
            .gid(UNPRIVILEGED),
    )?
    .finish(PATIENCE)?;
    refused(&outcome, 4, &["root", "sudo", "CAP_"])
}

fn with_btf(path: &str) -> Result<Outcome> {
    let workload = Workload::start(&Interpreter::find("3.11")?, "clocks.py", &["sleeper"])?;
    Watch::with(
        Command::new(binary()?)
            .args(["--pid", &workload.pid().to_string(), "-d", "1s", "--json"])
            .env("CONCMON_BTF", path),
    )?
    .finish(PATIENCE)
}

fn no_btf() -> Result<()> {
    refused(&with_btf("/nonexistent/btf")?, 5, &["BTF"])
}

/// With one offset of `task_struct` that is wrong but aligned, nothing may be reported.
fn self_test_fails(member: &str) -> Result<()> {
    let mut bytes = std::fs::read("/sys/kernel/btf/vmlinux")?;
    btf::move_member(&mut bytes, "task_struct", member, 8)?;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("btf");
    std::fs::write(&path, bytes)?;
    let outcome = with_btf(path.to_str().context("a path that is no text")?)?;
    refused(&outcome, 5, &["self-test", "offset"])
}
