//! `doctor` against what a watch does: the same exit code, whatever is missing, and a fix for each line.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::schema;
use concmon_tests::spawn::{Group, code};
use concmon_tests::watch::binary;
use concmon_tests::workload::Programs;
use libtest_mimic::Trial;
use serde_json::Value;

use crate::WATCH;
use crate::permissions::as_user_with;

/// What doctor tells of, of those that a watch or a part of it needs.
const CAPABILITIES: [&str; 6] = [
    "bpf",
    "perfmon",
    "sys_ptrace",
    "dac_read_search",
    "sys_admin",
    "checkpoint_restore",
];

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf] = WATCH;
    let users = [root, ebpf, Need::User, Need::OwnTrace, Need::Setpriv];
    vec![
        quiet("doctor::as_root", &[root, ebpf], as_root),
        quiet("doctor::as_others", &users, as_others),
    ]
}

/// What it says, and its exit code; every line has to be as the schema says.
fn says(command: &mut Command) -> Result<(i32, Value)> {
    let output = command.stdin(Stdio::null()).output()?;
    let said = schema::line(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    ensure!(said["type"] == "doctor", "{said}");
    ensure!(said["exit_code"] == code(output.status), "{said}");
    for check in said["checks"].as_array().context("no checks")? {
        let is_wrong = check["status"] == "failed" || check["status"] == "degraded";
        ensure!(check["fix"].is_string() == is_wrong, "{check}");
    }
    Ok((code(output.status), said))
}

/// How a check of this process, or of the host, stands.
fn status<'a>(said: &'a Value, name: &str, pid: Option<u32>) -> &'a str {
    let checks = said["checks"].as_array().into_iter().flatten();
    let mut of_it =
        checks.filter(|check| check["name"] == name && check["pid"] == Value::from(pid));
    of_it
        .next()
        .and_then(|check| check["status"].as_str())
        .unwrap_or("none")
}

/// An event loop, of this user.
fn program(user: u32) -> Result<Group> {
    use std::os::unix::process::CommandExt as _;
    let code = "import asyncio; asyncio.run(asyncio.sleep(60))";
    let mut command = Interpreter::for_everyone()?.command();
    command
        .args(["-c", code])
        .uid(user)
        .gid(user)
        .stdin(Stdio::null());
    Group::start(&mut command)
}

fn as_root() -> Result<()> {
    let python = program(0)?;
    let sleep = Group::start(Command::new("sleep").arg("60"))?;
    let tool = |args: &[&str]| -> Result<(i32, Value)> {
        says(
            Command::new(binary()?)
                .args(["doctor", "--json"])
                .args(args),
        )
    };
    let (code, said) = tool(&[])?;
    ensure!(
        code == 0 && status(&said, "kernel-programs", None) == "ok",
        "{said}"
    );
    ensure!(
        said["checks"]
            .as_array()
            .is_some_and(|all| all.iter().all(|one| one["pid"].is_null()))
    );

    let (pid, other) = (python.id(), sleep.id());
    let (code, said) = tool(&["-p", &pid.to_string()])?;
    ensure!(code == 0, "{said}");
    for name in ["process", "container", "python", "memory", "stacks"] {
        ensure!(status(&said, name, Some(pid)) == "ok", "{name}: {said}");
    }
    let (code, said) = tool(&[&pid.to_string(), &other.to_string()])?;
    ensure!(
        code == 3 && status(&said, "python", Some(other)) == "failed",
        "{said}"
    );
    let (code, said) = tool(&["-p", "4194304"])?;
    ensure!(
        code == 3 && status(&said, "process", Some(4_194_304)) == "failed",
        "{said}"
    );

    // A kernel without its description cannot be watched.
    let (code, said) = says(
        Command::new(binary()?)
            .args(["doctor", "--json"])
            .env("CONCMON_BTF", "/dev/null"),
    )?;
    ensure!(
        code == 5 && status(&said, "btf", None) == "failed",
        "{said}"
    );
    Ok(())
}

/// With each capability missing, and with none: as a watch of the same process would end.
fn as_others() -> Result<()> {
    let programs = Programs::copy(&Interpreter::for_everyone()?)?;
    let path = programs.tool()?;
    let own = program(UNPRIVILEGED)?;
    let others = program(UNPRIVILEGED - 1)?;
    let run = |set: &[&str], args: &[&str]| {
        let mut command = as_user_with(&path, set);
        command.args(args).current_dir("/");
        command
    };
    let mut sets: Vec<Vec<&str>> = vec![Vec::new(), CAPABILITIES.to_vec()];
    for missing in CAPABILITIES {
        sets.push(
            CAPABILITIES
                .into_iter()
                .filter(|one| *one != missing)
                .collect(),
        );
    }
    for set in &sets {
        for target in [&own, &others] {
            let pid = target.id().to_string();
            let watched = run(set, &["-p", &pid, "-d", "200ms", "--json"]).output()?;
            let (doctor, said) = says(&mut run(set, &["doctor", "-p", &pid, "--json"]))?;
            ensure!(
                doctor == code(watched.status),
                "{set:?}: {watched:?}, {said}"
            );
            for capability in CAPABILITIES {
                let name = format!("CAP_{}", capability.to_uppercase());
                // The one that includes it stands for it.
                let implied =
                    ["bpf", "perfmon"].contains(&capability) && set.contains(&"sys_admin");
                let there = set.contains(&capability) || implied;
                ensure!(
                    (status(&said, &name, None) == "ok") == there,
                    "{name}, {set:?}: {said}"
                );
            }
        }
    }
    let (code, said) = says(&mut run(&[], &["doctor", "--json"]))?;
    ensure!(
        code == 4 && status(&said, "kernel-programs", None) == "failed",
        "{said}"
    );
    Ok(())
}
