//! `dump` and `tasks`: one look, without kernel programs and without root.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::schema;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{PATIENCE, binary};
use concmon_tests::workload::{Programs, Workload};
use libtest_mimic::Trial;
use serde_json::Value;

mod stacks;

const VERSIONS: [&str; 8] = ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14", "3.15"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for version in VERSIONS {
        let needs = [Need::Root, Need::Python(version)];
        trials.push(quiet(
            format!("dump::threads_and_tasks_equal_the_programs_own_account::py{version}"),
            &needs,
            move || equals_own_account(version),
        ));
        trials.push(quiet(
            format!("dump::every_arrangement_has_every_task::py{version}"),
            &needs,
            move || every_arrangement_has_every_task(version),
        ));
        trials.push(quiet(
            format!("dump::trees_show_awaiters_cycles_and_context::py{version}"),
            &needs,
            move || trees(version),
        ));
        trials.push(quiet(
            format!("dump::failed_futures_are_found_in_the_heap::py{version}"),
            &needs,
            move || failures(version),
        ));
    }
    for version in ["3.8", "3.9", "3.10"] {
        trials.push(quiet(
            format!("dump::a_recursion_that_goes_on_has_a_stack::py{version}"),
            &[Need::Root, Need::Python(version)],
            move || stacks::recursion(version),
        ));
    }
    for version in ["3.8", "3.11", "3.13"] {
        trials.push(quiet(
            format!("dump::what_c_code_has_forked_has_its_own_stacks::py{version}"),
            &[Need::Root, Need::Python(version)],
            move || stacks::forked(version),
        ));
    }
    let user = [Need::Root, Need::User];
    trials.extend([
        quiet("dump::no_such_pid", &[], no_such_pid),
        quiet("dump::not_python", &[Need::Root], not_python),
        quiet(
            "dump::user_without_permission",
            &user,
            user_without_permission,
        ),
        quiet(
            "dump::the_same_user_needs_no_root",
            &[Need::Root, Need::User, Need::OwnTrace],
            same_user,
        ),
        quiet(
            "dump::descendants_are_left_out_unless_asked_for",
            &user,
            descendants,
        ),
    ]);
    trials
}

/// What a run of the tool left behind.
pub(crate) struct Done {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Done {
    pub(crate) fn ok(self) -> Result<String> {
        // With -v it says what it does.
        let is_quiet = |line: &str| line.starts_with("[INFO ]");
        ensure!(
            self.code == 0 && self.stderr.lines().all(is_quiet),
            "exit code {}, stderr: {:?}",
            self.code,
            self.stderr
        );
        Ok(self.stdout)
    }

    pub(crate) fn json(self) -> Result<Value> {
        let text = self.ok()?;
        ensure!(text.lines().count() == 1, "not one line of JSON");
        schema::line(text.as_bytes())
    }

    /// One line on stderr with one of these words, nothing on stdout, and this exit code.
    fn refused(self, code: i32, words: &[&str]) -> Result<()> {
        ensure!(
            self.code == code
                && self.stdout.is_empty()
                && self.stderr.trim_end().lines().count() == 1
                && words.iter().any(|word| self.stderr.contains(word)),
            "exit code {}, not {code}; stderr: {:?}, stdout: {:.200?}",
            self.code,
            self.stderr,
            self.stdout
        );
        Ok(())
    }
}

pub(crate) fn run(command: &mut Command) -> Result<Done> {
    let output = command.stdin(Stdio::null()).output()?;
    Ok(Done {
        code: output.status.code().context("killed by a signal")?,
        stdout: String::from_utf8(output.stdout)?,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

pub(crate) fn tool(args: &[&str], pid: u32) -> Result<Done> {
    run(Command::new(binary()?)
        .args(args)
        .args(["-p", &pid.to_string()]))
}

pub(crate) fn array<'a>(value: &'a Value, pointer: &str) -> Result<&'a Vec<Value>> {
    value
        .pointer(pointer)
        .and_then(Value::as_array)
        .with_context(|| format!("{pointer} is no array"))
}

/// A field of each object, by another one that tells them apart.
fn by(objects: &[Value], key: &str, field: &str) -> BTreeMap<String, Value> {
    let pairs = objects
        .iter()
        .map(|object| (object[key].to_string(), object[field].clone()));
    pairs.collect()
}

fn equal(what: &str, seen: &BTreeMap<String, Value>, own: &BTreeMap<String, Value>) -> Result<()> {
    let differs = own.iter().find(|(id, value)| seen.get(*id) != Some(value));
    ensure!(
        seen == own,
        "{what}: {} seen, own {}; not so: {differs:?}",
        seen.len(),
        own.len()
    );
    Ok(())
}

fn equals_own_account(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "names.py", &[])?;
    let dump = tool(&["dump", "--json"], workload.pid())?.json()?;
    ensure!(
        dump["schema"] == "concmon/1" && dump["type"] == "dump",
        "schema {} type {}",
        dump["schema"],
        dump["type"]
    );
    let process = dump.pointer("/processes/0").context("no process")?;
    ensure!(process["pid"] == workload.pid(), "pid {}", process["pid"]);
    let own: String = workload.said("version")?;
    let python = &process["python"];
    ensure!(
        python["version"] == own.as_str() && python["supported"] == true,
        "python is {python}"
    );

    let threads: Vec<Value> = workload.said("threads")?;
    for field in ["name", "ident", "daemon", "role"] {
        let seen = by(array(process, "/threads")?, "tid", field);
        equal(field, &seen, &by(&threads, "tid", field))?;
    }
    let tasks: Vec<Value> = workload.said("tasks")?;
    let listed = tool(&["tasks", "--json"], workload.pid())?.json()?;
    ensure!(
        listed["type"] == "tasks" && listed.pointer("/processes/0/threads").is_none(),
        "type {} with threads",
        listed["type"]
    );
    for from in [&dump, &listed] {
        let mut left = Vec::new();
        for one in array(from, "/processes/0/loops")? {
            let before = left.len();
            let of_loop = array(one, "/tasks")?.iter();
            left.extend(of_loop.filter(|task| task["state"] != "done").cloned());
            ensure!(
                one["pending_tasks"] == left.len() - before,
                "pending_tasks {} of {}",
                one["pending_tasks"],
                left.len() - before
            );
        }
        for field in ["name", "coroutine", "state"] {
            equal(field, &by(&left, "id", field), &by(&tasks, "id", field))?;
        }
    }

    let text = tool(&["dump"], workload.pid())?.ok()?;
    let head = format!("Process {}: ", workload.pid());
    ensure!(text.starts_with(&head), "begins with {text:.80?}");
    ensure!(
        text.contains(&format!("\nPython v{own} (")),
        "no version line"
    );
    for thread in &threads {
        let line = format!("\nThread {} (", thread["tid"]);
        ensure!(text.contains(&line), "no {line:?}");
    }
    let raw = text.chars().find(|c| c.is_control() && *c != '\n');
    ensure!(raw.is_none(), "a control character: {raw:?}");
    Ok(())
}

fn every_arrangement_has_every_task(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "names.py", &[])?;
    let listed = tool(&["tasks", "--json"], workload.pid())?.json()?;
    let mut ids = BTreeSet::new();
    for one in array(&listed, "/processes/0/loops")? {
        for task in array(one, "/tasks")? {
            let id = task["id"].as_str().context("no id")?;
            ensure!(ids.insert(id.to_owned()), "{id} is listed twice");
        }
    }
    ensure!(ids.len() > 15, "only {} tasks", ids.len());
    let table = tool(&["tasks"], workload.pid())?.ok()?;
    for id in &ids {
        let word = format!(" {id} ");
        let lines = table.lines().filter(|line| line.contains(&word)).count();
        ensure!(lines == 1, "{id}: {lines} lines");
    }
    let tree = tool(&["tasks", "--tree", "-v"], workload.pid())?.ok()?;
    let shown = tree.matches("(T) ").count() - tree.matches(", see above\n").count();
    ensure!(
        shown == ids.len(),
        "{shown} tasks in trees, of {}",
        ids.len()
    );
    ensure!(tree.contains("(T) fetch-user"), "no task by its name");
    for key in ["await", "coroutine", "name"] {
        let groups = tool(&["tasks", "--group-by", key], workload.pid())?.ok()?;
        let counts = groups
            .lines()
            .skip_while(|line| !line.trim_start().starts_with("TASKS"))
            .skip(1)
            .map_while(|line| line.split_whitespace().next()?.parse::<usize>().ok());
        let sum: usize = counts.sum();
        ensure!(sum == ids.len(), "{key}: {sum} tasks, of {}", ids.len());
    }
    Ok(())
}

/// The program's tasks are made such that each line here follows from its source.
fn trees(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "awaits.py", &[])?;
    let tree = tool(&["tasks", "--tree", "-v"], workload.pid())?.ok()?;
    let lines: Vec<&str> = tree
        .lines()
        .map(|line| line.trim_start_matches([' ', '│', '├', '└', '─']))
        .collect();
    let count = |wanted: &str| lines.iter().filter(|line| **line == wanted).count();
    for (line, times) in [
        ("(T) left", 1),
        ("(T) right", 1),
        ("(T) shared  [request_id=request-3]", 1),
        ("(T) shared, see above", 1),
        ("(T) handler-0  [request_id=request-0]", 1),
        ("(T) handler-2  [request_id=request-2]", 1),
        ("cycle: ping -> pong -> ping", 1),
        ("(T) ping", 1),
        ("(T) pong", 1),
    ] {
        ensure!(count(line) == times, "{line:?}: {} times", count(line));
    }
    // From 3.14 on, a task is in no list any more when it is done.
    let minor: Option<u32> = version
        .split('.')
        .nth(1)
        .and_then(|minor| minor.parse().ok());
    let failed = count("(T) failed  done: LookupError, never retrieved");
    ensure!(
        failed == usize::from(minor.is_some_and(|minor| minor < 14)),
        "{failed} failed tasks"
    );
    // Under whom it is: one frame of the awaiting task lies between.
    let at = |wanted: &str| lines.iter().position(|line| line.starts_with(wanted));
    let (left, shared) = (at("(T) left"), at("(T) shared"));
    ensure!(
        left.is_some_and(|left| shared == Some(left + 2)),
        "left in line {left:?}, shared in {shared:?}"
    );
    let args = ["tasks", "--context-var", "user", "--context-var", "none"];
    let table = tool(&args, workload.pid())?.ok()?;
    ensure!(
        table.contains("user=user-1") && !table.contains("request-1"),
        "not the variable that was asked for"
    );
    Ok(())
}

/// What failed and is kept is counted, however it failed; what is gone is not.
fn failures(version: &str) -> Result<()> {
    let workload = Workload::start(&Interpreter::find(version)?, "failures.py", &[])?;
    let dump = tool(&["dump", "--heap-scan"], workload.pid())?.ok()?;
    let (_, found) = dump
        .split_once("Failed futures that somebody keeps")
        .context("nothing about failed futures")?;
    let found: Vec<&str> = found
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with(' '))
        .map(str::trim)
        .collect();
    let expected = [
        "3 asyncio.Future: __main__.Custom, never retrieved",
        "2 asyncio.Future: __main__.Custom, retrieved",
        "3 asyncio.Task: LookupError, never retrieved",
        "1 asyncio.Task: LookupError, retrieved",
        "6 concurrent.futures.Future: ValueError",
    ];
    ensure!(found == expected, "{found:?}");
    Ok(())
}

fn no_such_pid() -> Result<()> {
    let mut gone = Group::start(Command::new("true").stdin(Stdio::null()))?;
    gone.wait_for(PATIENCE)?;
    let pid = gone.id();
    tool(&["dump"], pid)?.refused(3, &[&pid.to_string()])?;
    tool(&["tasks", "--json"], pid)?.refused(3, &[&pid.to_string()])
}

fn not_python() -> Result<()> {
    let sleep = Group::start(Command::new("sleep").arg("60").stdin(Stdio::null()))?;
    tool(&["dump"], sleep.id())?.refused(3, &["is not Python"])
}

/// An interpreter that has begun to run `program`, as this user.
fn python(program: &str, user: u32) -> Result<Group> {
    let python = Interpreter::for_everyone()?;
    let mut command = python.command();
    command
        .args(["-c", program])
        .uid(user)
        .gid(user)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = Group::start(&mut command)?;
    let stdout = child.stdout.as_mut().context("no stdout")?;
    stdout.read_exact(&mut [0; 6])?;
    Ok(child)
}

const SLEEPER: &str = "import threading, time; print('ready', flush=True); time.sleep(60)";

/// The tool, run by a user without privileges.
fn as_user(args: &[&str], pid: u32) -> Result<Done> {
    let programs = Programs::copy(&Interpreter::for_everyone()?)?;
    let tool = programs.tool()?;
    run(Command::new(tool)
        .args(args)
        .args(["-p", &pid.to_string()])
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED))
}

/// Permission comes before the question whether it is Python.
fn user_without_permission() -> Result<()> {
    let roots = python(SLEEPER, 0)?;
    as_user(&["dump"], roots.id())?.refused(4, &["CAP_SYS_PTRACE"])?;
    let sleep = Group::start(Command::new("sleep").arg("60").stdin(Stdio::null()))?;
    as_user(&["tasks"], sleep.id())?.refused(4, &["CAP_SYS_PTRACE"])
}

fn same_user() -> Result<()> {
    let own = python(SLEEPER, UNPRIVILEGED)?;
    let text = as_user(&["dump"], own.id())?.ok()?;
    let line = format!("\nThread {} (", own.id());
    ensure!(text.contains(&line), "no {line:?}");
    ensure!(text.contains("\"MainThread\""), "no name of the thread");
    as_user(&["tasks"], own.id())?.ok()?;
    Ok(())
}

fn descendants() -> Result<()> {
    let parent = python(
        "import subprocess, time\n\
         child = subprocess.Popen(['sleep', '60'])\n\
         print('ready', flush=True); time.sleep(60)",
        0,
    )?;
    let count = |args: &[&str]| -> Result<usize> {
        let dump = tool(args, parent.id())?.json()?;
        Ok(array(&dump, "/processes")?.len())
    };
    let alone = count(&["dump", "--json"])?;
    let family = count(&["dump", "--json", "-s"])?;
    ensure!(
        (alone, family) == (1, 2),
        "{alone} processes, with descendants {family}"
    );
    Ok(())
}
