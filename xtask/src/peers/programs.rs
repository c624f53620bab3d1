//! Programs whose tasks wait for each other: what CPython's tools say of them, and what these say with concmon in the
//! unwinder's place.
use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::root::Root;
use super::tree;
use super::{Outcome, Tally, Version};
use crate::workspace;

/// In `programs.py`.
const PROGRAMS: [&str; 11] = [
    "groups",
    "gathers",
    "shields",
    "timeouts",
    "queues",
    "generators",
    "eager",
    "completed",
    "crowd",
    "threads",
    "interpreters",
];

#[derive(Clone, Copy)]
enum Tool {
    /// `python -m asyncio pstree`.
    Tree,
    /// `python -m asyncio ps`.
    Table,
    /// The stacks of threads.
    Stacks,
}

impl Tool {
    const ALL: [(Tool, &str); 3] = [
        (Tool::Tree, "pstree"),
        (Tool::Table, "ps"),
        (Tool::Stacks, "stacks"),
    ];

    /// Why it is no judge of a program; `None`: it is one.
    fn excuse(self, version: Version, program: &str) -> Option<&'static str> {
        match (self, program) {
            (Tool::Tree | Tool::Table, "threads") if version < 15 => {
                Some("before 3.15 the unwinder tells the tasks of the main thread only")
            }
            (Tool::Stacks, "threads") if version < 15 => {
                Some("before 3.15 the unwinder's stacks end where C called Python")
            }
            (Tool::Stacks, "interpreters") if version < 15 => {
                Some("before 3.15 the unwinder tells the threads of one interpreter only")
            }
            (Tool::Tree | Tool::Table, "interpreters") => Some(
                "the unwinder tells the tasks of one interpreter only, which is not the main one",
            ),
            _ => None,
        }
    }

    /// What it says, in an order that does not depend on that of sets.
    fn ask(
        self,
        name: &str,
        root: &Root,
        version: Version,
        stands_in: bool,
        pid: u32,
    ) -> Result<BTreeSet<String>> {
        let mut command = root.python(version, stands_in);
        match self {
            Tool::Tree | Tool::Table => command.args(["-m", "asyncio", name]),
            Tool::Stacks => command.arg(root.inside("stacks.py")),
        };
        let said = workspace::output(command.arg(pid.to_string()))?;
        Ok(match self {
            Tool::Tree => tree::sorted(&said)?,
            Tool::Table => said.lines().map(str::to_owned).collect(),
            Tool::Stacks => {
                let threads: Value = serde_json::from_str(&said).context("reading stacks")?;
                let threads = threads.as_object().context("stacks without threads")?;
                threads
                    .iter()
                    .map(|(tid, frames)| format!("{tid} {frames}"))
                    .collect()
            }
        })
    }
}

/// Compares what tools say of programs, where tool and program contain `filter`.
pub(super) fn run(root: &Root, version: Version, filter: &str, tally: &mut Tally) -> Result<()> {
    for program in PROGRAMS {
        let of_program = |(_, tool): &(Tool, &str)| format!("{tool} {program}");
        let mut tools = Tool::ALL.to_vec();
        tools.retain(|tool| of_program(tool).contains(filter));
        if tools.is_empty() {
            continue;
        }
        let running = Running::start(root, version, program)?;
        for tool in tools {
            let outcome = match tool.0.excuse(version, program) {
                Some(reason) => Outcome::NotApplicable(reason.to_owned()),
                None => judge(root, version, tool, running.0.id())
                    .unwrap_or_else(|error| Outcome::Fail(format!("{error:#}"))),
            };
            tally.add(version, &of_program(&tool), outcome);
        }
    }
    Ok(())
}

fn judge(root: &Root, version: Version, (tool, name): (Tool, &str), pid: u32) -> Result<Outcome> {
    let peer = tool.ask(name, root, version, false, pid)?;
    let looks = root.looks()?;
    let ours = tool.ask(name, root, version, true, pid)?;
    ensure!(root.looks()? > looks, "concmon was not asked");
    ensure!(!peer.is_empty(), "the unwinder told nothing");
    Ok(compare(&peer, &ours))
}

fn compare(peer: &BTreeSet<String>, ours: &BTreeSet<String>) -> Outcome {
    let first = |one: &BTreeSet<String>, other| one.difference(other).next().cloned();
    let differences: Vec<String> = [
        ("only the unwinder", first(peer, ours)),
        ("only concmon", first(ours, peer)),
    ]
    .into_iter()
    .filter_map(|(who, what)| Some(format!("{who}: {}", what?)))
    .collect();
    if differences.is_empty() {
        Outcome::Pass
    } else {
        Outcome::Fail(differences.join("; "))
    }
}

/// A program; it ends when this is dropped.
struct Running(Child);

impl Running {
    /// Returns once the program is at rest.
    fn start(root: &Root, version: Version, program: &str) -> Result<Self> {
        let mut command = root.python(version, false);
        command.arg(root.inside("programs.py")).arg(program);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut running = Self(child.with_context(|| format!("starting {program}"))?);
        let stdout = running
            .0
            .stdout
            .take()
            .context("the program has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line == "ready\n", "{program} did not come to rest");
        Ok(running)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only where the process has been waited for already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
