//! Services: what their processes took, whichever of them live, against what the services say themselves.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::{case, quiet};
use concmon_tests::interpreter::Interpreter;
use concmon_tests::laws;
use concmon_tests::report::{Group, Report};
use concmon_tests::watch::{Outcome, PATIENCE, Watch};
use concmon_tests::workload::Workload;
use libtest_mimic::Trial;
use serde_json::{Value, json};

use crate::watch_python;

/// A service may be off by so much of what it says.
const MAX_ERROR: f64 = 0.01;
/// And by what its first process takes outside of what it counts, ns.
const MAX_OWN_NS: u64 = 10_000_000;

pub(crate) fn trials() -> Vec<Trial> {
    let needs = watch_python("3.13");
    vec![
        // Ids of processes are everybody's.
        case(
            "services::sums_outlive_the_workers",
            &needs,
            sums_outlive_the_workers,
        ),
        quiet("services::tasks_of_workers_are_counted", &needs, tasks),
        quiet(
            "services::a_capture_tells_the_same",
            &needs,
            a_capture_tells_the_same,
        ),
    ]
}

/// Two services of one name, watched together.
struct Services {
    both: [Workload; 2],
    watch: Watch,
}

impl Services {
    fn start(options: &[&str]) -> Result<Self> {
        let python = Interpreter::find("3.13")?;
        let both = [(); 2].map(|()| Workload::start(&python, "services.py", &[]));
        let [one, other] = both;
        let both = [one?, other?];
        let pids = both.each_ref().map(|service| service.pid().to_string());
        let args = ["-p", &pids[0], "-p", &pids[1], "-i", "1s", "--json"];
        let mut watch = Watch::start(&[&args, options].concat())?;
        watch.next(PATIENCE)?;
        let mut services = Self { both, watch };
        for at in 0..2 {
            services.ask(at, &json!({ "do": "mark" }))?;
        }
        Ok(services)
    }

    fn ask(&mut self, at: usize, command: &Value) -> Result<Value> {
        self.both[at].ask(command, "done")
    }

    /// Ends the watch, with what each service says and what is told of it.
    fn end(mut self) -> Result<(Outcome, [(Value, Group); 2])> {
        // What is over is known a window later.
        for _ in 0..2 {
            self.watch.next(PATIENCE)?;
        }
        let outcome = self.watch.interrupt()?.ok()?;
        let summary = outcome.summary()?;
        laws::services_sum_up(&outcome.snapshots(), summary)?;
        let [one, other] = &mut self.both;
        let told = |service: &mut Workload| -> Result<(Value, Group)> {
            // Asking again changes nothing.
            let said = service.ask(&json!({ "do": "short", "count": 0 }), "done")?;
            Ok((said, group_of(summary, service.pid())?.clone()))
        };
        let told = [told(one)?, told(other)?];
        Ok((outcome, told))
    }
}

fn group_of(report: &Report, pid: u32) -> Result<&Group> {
    let group = &report.process(pid)?.group;
    let name = group.as_ref().context("it is in no group")?;
    let mut groups = report.groups.iter();
    let group = groups.find(|group| group.name == *name);
    group.with_context(|| format!("there is no group {name}"))
}

fn count(said: &Value, field: &str) -> Result<u64> {
    let count = said[field].as_u64();
    count.with_context(|| format!("no {field} in {said}"))
}

/// What it took is what it says, and each of its children began and ended.
fn is_right(said: &Value, group: &Group) -> Result<()> {
    let cpu_ns = count(said, "cpu_ns")?;
    let most_ns = (cpu_ns as f64 * MAX_ERROR) as u64 + MAX_OWN_NS;
    ensure!(
        group.cpu_ns.abs_diff(cpu_ns) <= most_ns,
        "{} took {} ns, it says {cpu_ns} ns",
        group.name,
        group.cpu_ns
    );
    let children = count(said, "children")?;
    ensure!(
        (group.processes_started, group.processes_ended) == (children, children),
        "of {} {} processes began and {} ended, it says {children}",
        group.name,
        group.processes_started,
        group.processes_ended
    );
    ensure!(group.processes_count == 1, "{} live", group.processes_count);
    Ok(())
}

/// Workers are restarted time and again, children end before anything of them is read, and an id goes from a
/// child of the one to a child of the other.
fn sums_outlive_the_workers() -> Result<()> {
    let mut services = Services::start(&[])?;
    let free = services.ask(0, &json!({ "do": "restart", "count": 50, "work_s": 0.005 }))?;
    ensure!(count(&free, "children")? == 400, "{free}");
    services.ask(1, &json!({ "do": "short", "count": 1_500 }))?;
    let pid = 1_000 + std::process::id() % 20_000;
    let pid = (pid..).find(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists());
    let pid = pid.context("no id is free")?;
    for turn in 0..20 {
        let command = json!({ "do": "id", "pid": pid, "work_s": 0.002 * (1 + turn % 2) as f64 });
        services.ask(turn % 2, &command)?;
    }
    services.ask(0, &json!({ "do": "short", "count": 500 }))?;
    let (outcome, told) = services.end()?;
    for (said, group) in &told {
        is_right(said, group)?;
    }
    let names = told.map(|(_, group)| group.name);
    ensure!(names[0] != names[1], "both are {}", names[0]);
    let groups = outcome.summary()?.groups.len();
    ensure!(groups == 2, "there are {groups} services");
    Ok(())
}

/// Workers that ended are counted as well as those that live.
fn tasks() -> Result<()> {
    let mut services = Services::start(&["--exact", "tasks"])?;
    services.ask(0, &json!({ "do": "tasks", "workers": 6, "count": 300 }))?;
    let (_, told) = services.end()?;
    for ((said, group), own) in told.iter().zip([6, 0]) {
        is_right(said, group)?;
        let counted = group.tasks.exact.context("nothing is counted")?;
        // Each worker's loop has a task of its own, and two that end it.
        let tasks = count(said, "tasks")?;
        let expected = tasks..=tasks + 3 * own;
        ensure!(
            expected.contains(&counted.started) && counted.finished == counted.started,
            "{} has {counted:?}, it says {tasks}",
            group.name
        );
    }
    Ok(())
}

/// The sums of a replay are those of the watch.
fn a_capture_tells_the_same() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("services.concmon");
    let file = file.to_string_lossy();
    let python = Interpreter::find("3.13")?;
    let mut service = Workload::start(&python, "services.py", &[])?;
    let pid = service.pid().to_string();
    let watch = Watch::start(&["record", "-p", &pid, "-o", &file, "-d", "6s", "--json"])?;
    while !std::fs::exists(&*file)? {
        std::thread::sleep(Duration::from_millis(20));
    }
    service.ask(
        &json!({ "do": "restart", "count": 10, "work_s": 0.002 }),
        "done",
    )?;
    let outcome = watch.finish(PATIENCE)?.ok()?;
    let replay = Watch::start(&["report", "-i", &file, "--json"])?;
    let replay = replay.finish(PATIENCE)?.ok()?;
    let groups = |of: &Outcome| -> Result<String> { Ok(format!("{:?}", of.summary()?.groups)) };
    let (live, replay) = (groups(&outcome)?, groups(&replay)?);
    ensure!(live == replay, "{live}\n{replay}");
    let ended = outcome.summary()?.groups[0].processes_ended;
    ensure!(ended == 80, "{ended} processes ended");
    Ok(())
}
