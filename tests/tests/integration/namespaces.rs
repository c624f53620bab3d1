//! PID namespaces and roots that are not the host's: the tool inside of one, and the tool outside of a container.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::report::Process;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::programs;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::{
    selectors::{line, program, run, word},
    watch_python,
};

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.11");
    vec![
        quiet("namespaces::watch_inside::pid", &needs, || {
            watch_inside("--pid $P")
        }),
        quiet("namespaces::watch_inside::all", &needs, || {
            watch_inside("--all")
        }),
        quiet(
            "namespaces::look_and_record_inside",
            &needs,
            look_and_record_inside,
        ),
        quiet("namespaces::proc_of_another", &needs, proc_of_another),
        quiet(
            "namespaces::a_container_from_outside",
            &needs,
            a_container_from_outside,
        ),
    ]
}

/// Runs a script as the first process of a PID namespace, with a `/proc` of its own.
fn inside(script: &str) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        "sh",
        "-c",
        script,
    ]);
    command
}

/// The ids are those that the namespace has, from 1 on, and a child that is forked under watch is followed.
fn watch_inside(selector: &str) -> Result<()> {
    let own = word();
    // One of the host, whose id inside is none.
    let _outside = program(&[&own])?;
    let script = format!(
        "{} & P=$!; sleep 2; {} {selector} -d 4s -i 500ms --json --budget-cpu 100%; kill $P",
        line(&[&own, "--fork"])?,
        binary()?.display()
    );
    let outcome = Watch::with(&mut inside(&script))?.finish(PATIENCE)?.ok()?;
    let summary = outcome.summary()?;
    let ids: Vec<u32> = summary
        .processes
        .iter()
        .map(|process| process.pid)
        .collect();
    ensure!(ids.len() == 2 && ids[0] == 2, "{ids:?}");
    let [parent, child] = &summary.processes[..] else {
        unreachable!("there are two");
    };
    ensure!(
        child.ppid == parent.pid,
        "{} and {}",
        child.ppid,
        parent.pid
    );
    for (process, name) in [(parent, own.as_str()), (child, "forked")] {
        ensure!(process.python.is_some(), "{} is no Python", process.pid);
        let thread = named(process, name)?;
        // It works for 5 ms of every 25, on a host with others.
        ensure!(thread > 50_000_000, "{name}: {thread} ns of CPU");
        ensure!(process.threads.iter().all(|thread| thread.tid < 10_000));
    }
    Ok(())
}

/// The CPU time of a thread by its name, ns.
fn named(process: &Process, name: &str) -> Result<u64> {
    let mut threads = process.threads.iter();
    let thread = threads.find(|thread| thread.name.as_deref() == Some(name));
    let thread = thread.with_context(|| format!("process {} has no thread {name}", process.pid))?;
    Ok(thread.ledger.on_cpu_ns)
}

fn look_and_record_inside() -> Result<()> {
    let own = word();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("f.concmon");
    let tool = binary()?;
    let script = format!(
        "{} & P=$!; sleep 2; set -e; {tool} dump --json --all; {tool} tasks --json --pid $P; \
         {tool} record --name {own} -d 1500ms -q --json -o {}; {tool} report -i {1} --json; kill $P",
        line(&[&own])?,
        file.display(),
        tool = tool.display(),
    );
    let output = inside(&script).stdin(Stdio::null()).output()?;
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    let lines: Vec<&str> = stdout.lines().collect();
    ensure!(
        lines.len() == 4,
        "{} lines: {stdout}, {stderr}",
        lines.len()
    );
    for line in &lines {
        let value: Value = serde_json::from_str(line)?;
        let processes = value["processes"].as_array().context("no processes")?;
        let ids: Vec<_> = processes.iter().map(|process| &process["pid"]).collect();
        ensure!(ids == [2], "{ids:?} in {line:.200}");
    }
    ensure!(
        lines[2] == lines[3],
        "the replay differs:\n{}\n{}",
        lines[2],
        lines[3]
    );
    Ok(())
}

/// Where `/proc` shows other ids than the tool's own, nothing that is read there would be true.
fn proc_of_another() -> Result<()> {
    let own = program(&[&word()])?;
    let pid = own.id().to_string();
    for args in [&["--pid", pid.as_str(), "-d", "1s"][..], &["dump", "--all"]] {
        let output = Command::new("unshare")
            .args(["--pid", "--fork"])
            .arg(binary()?)
            .args(args)
            .stdin(Stdio::null())
            .output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.code() == Some(5) && stderr.contains("--mount-proc"),
            "{args:?}: {}, {stderr}",
            output.status
        );
    }
    Ok(())
}

/// A root of its own, in which Python lies at a path that the host has not, and ids of its own.
fn a_container_from_outside() -> Result<()> {
    let own = word();
    let python = Interpreter::find("3.11")?.words().join(" ");
    let python = fs::canonicalize(&python).with_context(|| python.clone())?;
    let prefix = python.ancestors().nth(2).context("no prefix")?;
    let root = tempfile::tempdir()?;
    let root_path = root.path();
    for folder in ["proc", "dev", "tmp", "interpreter", "srv", "usr", "etc"] {
        fs::create_dir(root_path.join(folder))?;
    }
    for link in ["lib", "lib64", "bin"] {
        match fs::read_link(format!("/{link}")) {
            Ok(to) => symlink(to, root_path.join(link))?,
            Err(_) => fs::create_dir(root_path.join(link))?,
        }
    }
    fs::copy(programs().join("selected.py"), root_path.join("srv/app.py"))?;
    let script = format!(
        "set -e; R={}; for d in usr etc dev lib lib64 bin; do \
         [ -L $R/$d ] || [ ! -d /$d ] || mount --rbind /$d $R/$d; done; \
         mount --bind {} $R/interpreter; mount -t proc proc $R/proc; \
         chroot $R env PYTHONHOME=/interpreter /interpreter/bin/{} /srv/app.py {own} & wait",
        root_path.display(),
        prefix.display(),
        python.file_name().unwrap_or_default().to_string_lossy(),
    );
    let container = Group::start(
        Command::new("unshare")
            .args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "sh",
                "-c",
                &script,
            ])
            .stdin(Stdio::null()),
    )?;
    let look = || -> Result<Option<Value>> {
        let (code, _, stdout) = run(&["dump", "--json", "--name", &own])?;
        if code != 0 {
            return Ok(None);
        }
        let look: Value = serde_json::from_str(&stdout)?;
        Ok(look["processes"]
            .as_array()
            .and_then(|all| all.first().cloned()))
    };
    let deadline = Instant::now() + PATIENCE;
    let process = loop {
        if let Some(process) = look()? {
            break process;
        }
        ensure!(Instant::now() < deadline, "it does not start in its root");
        std::thread::sleep(Duration::from_millis(100));
    };
    let pid = process["pid"].as_u64().context("no pid")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let innermost = ids.and_then(|ids| ids.split_whitespace().last());
    let innermost: u64 = innermost.context("no NSpid")?.parse()?;
    ensure!(
        process["entry"] == "/srv/app.py" && process["pid_inside"] == innermost,
        "{} {}, expected {innermost}",
        process["entry"],
        process["pid_inside"]
    );
    // By the id of what started it, which is no Python.
    let shell = container.id().to_string();
    let outcome = Watch::start(&["--pid", &shell, "-d", "2s", "-i", "500ms", "--json"])?
        .finish(PATIENCE)?
        .ok()?;
    let found = outcome.summary()?.process(pid as u32)?;
    ensure!(found.python.is_some() && found.pid_inside == Some(innermost as u32));
    ensure!(named(found, &own)? > 20_000_000);
    ensure!(!found.loops.is_empty(), "no loop was found");
    Ok(())
}
