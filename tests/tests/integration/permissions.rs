//! What the tool may do: exactly what it needs, named where it is missing, given up when it is over, and
//! confined to writing to nobody.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use concmon_tests::harness::quiet;
use concmon_tests::interpreter::Interpreter;
use concmon_tests::needs::{Need, UNPRIVILEGED};
use concmon_tests::proc;
use concmon_tests::spawn::Group;
use concmon_tests::watch::{PATIENCE, Watch, binary};
use concmon_tests::workload::Programs;
use libtest_mimic::Trial;

use crate::WATCH;

/// A user who is neither root nor the one that the tool runs as.
const OTHER: u32 = UNPRIVILEGED - 1;

/// What a watch of one's own processes needs, and of others'.
const OWN: [&str; 2] = ["bpf", "perfmon"];
const OTHERS: [&str; 4] = ["bpf", "perfmon", "sys_ptrace", "dac_read_search"];
const READ: [&str; 2] = ["sys_ptrace", "dac_read_search"];

/// Runs tasks, and has children that come and go.
const PROGRAM: &str = "\
import asyncio, subprocess, sys, time
async def short(): await asyncio.sleep(0.005)
async def main():
    print('ready', flush=True)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        await asyncio.gather(*[asyncio.create_task(short()) for _ in range(5)])
asyncio.run(main())
";

pub(crate) fn trials() -> Vec<Trial> {
    let [root, ebpf] = WATCH;
    let sets = [root, ebpf, Need::User, Need::OwnTrace, Need::Setpriv];
    let users = [root, ebpf, Need::User];
    vec![
        quiet("permissions::own_processes", &sets, own_processes),
        quiet(
            "permissions::processes_of_others",
            &sets,
            processes_of_others,
        ),
        quiet("permissions::exact", &sets, exact),
        quiet("permissions::locked_memory", &sets, locked_memory),
        quiet(
            "permissions::another_user_namespace",
            &users,
            another_user_namespace,
        ),
        quiet("permissions::given_up", &users, given_up),
        quiet("permissions::confined::watches", &users, confined_watches),
        quiet("permissions::confined::exact", &users, confined_exact),
        quiet("permissions::confined::ring", &users, confined_ring),
        quiet("permissions::confined::command", &users, confined_command),
        quiet("permissions::confined::demo", &users, confined_demo),
        quiet("permissions::confined::readers", &users, confined_readers),
        quiet("permissions::measuring_helper", &users, measuring_helper),
    ]
}

/// The tool where every user can run it.
struct Tool {
    programs: Programs,
    path: PathBuf,
}

impl Tool {
    fn copy() -> Result<Self> {
        let programs = Programs::copy(&Interpreter::for_everyone()?)?;
        let path = programs.tool()?;
        let folder = programs.folder().join("out");
        std::fs::create_dir(&folder)?;
        std::os::unix::fs::chown(&folder, Some(UNPRIVILEGED), Some(UNPRIVILEGED))?;
        Ok(Self { programs, path })
    }

    fn folder(&self) -> PathBuf {
        self.programs.folder().join("out")
    }

    /// Run as a user who has exactly these capabilities.
    fn with(&self, capabilities: &[&str], args: &[&str]) -> Command {
        let mut command = as_user_with(&self.path, capabilities);
        command.args(args).current_dir(self.folder());
        command
    }

    fn run(&self, capabilities: &[&str], args: &[&str]) -> Result<(i32, String, String)> {
        ended(&mut self.with(capabilities, args))
    }
}

fn ended(command: &mut Command) -> Result<(i32, String, String)> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output()?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((
        concmon_tests::spawn::code(status),
        text(stdout),
        text(stderr),
    ))
}

/// A program of this user, under way.
fn program(user: u32) -> Result<Group> {
    let mut command = Interpreter::for_everyone()?.command();
    command
        .args(["-c", PROGRAM])
        .uid(user)
        .gid(user)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = Group::start(&mut command)?;
    let stdout = child.stdout.as_mut().context("no stdout")?;
    stdout.read_exact(&mut [0; 6])?;
    Ok(child)
}

/// Every mode works on `pid` with these capabilities.
fn works(tool: &Tool, watching: &[&str], reading: &[&str], pid: &str) -> Result<()> {
    let none: &[&str] = &[];
    let capture = tool.folder().join("capture");
    let capture = capture.to_str().context("a path that is no text")?;
    for (set, args, shows) in [
        (watching, vec!["-p", pid, "-d", "1s"], "asyncio loop in"),
        (
            watching,
            vec!["record", "-p", pid, "-d", "1s", "-o", capture],
            "",
        ),
        (reading, vec!["dump", "-p", pid], "main"),
        (reading, vec!["tasks", "-p", pid], "short"),
        (none, vec!["report", "-i", capture], "asyncio loop in"),
    ] {
        let (code, stdout, stderr) = tool.run(set, &args)?;
        ensure!(code == 0, "{args:?} with {set:?}: code {code}: {stderr}");
        ensure!(stdout.contains(shows), "{args:?}: no {shows:?} in {stdout}");
        ensure!(!stderr.contains("WARN"), "{args:?}: {stderr}");
    }
    Ok(())
}

/// Without one of these, the message names that one, and the code is 4.
fn names_the_missing(tool: &Tool, set: &[&str], args: &[&str]) -> Result<()> {
    for missing in set {
        let rest: Vec<&str> = set.iter().copied().filter(|one| one != missing).collect();
        let (code, stdout, stderr) = tool.run(&rest, args)?;
        let name = missing.to_uppercase();
        let says = format!("needs CAP_{name}, which this process does not have (E");
        ensure!(
            code == 4 && stderr.contains(&says) && stderr.lines().count() == 1,
            "{args:?} without {missing}: code {code}: {stderr:?}"
        );
        ensure!(stdout.is_empty(), "{args:?}: {stdout}");
    }
    Ok(())
}

fn own_processes() -> Result<()> {
    let tool = Tool::copy()?;
    let own = program(UNPRIVILEGED)?;
    let pid = own.id().to_string();
    works(&tool, &OWN, &[], &pid)?;
    names_the_missing(&tool, &OWN, &["-p", &pid, "-d", "1s"])?;
    // A program that is started does not get what the tool was given.
    let python = Interpreter::for_everyone()?.words().join(" ");
    let show = "print(open('/proc/self/status').read()); import time; time.sleep(1)";
    let args: Vec<&str> = ["-d", "500ms", "--"]
        .into_iter()
        .chain(python.split(' '))
        .chain(["-c", show])
        .collect();
    let (code, stdout, stderr) = tool.run(&OWN, &args)?;
    ensure!(code == 0, "code {code}: {stderr}");
    ensure!(stdout.contains("  totals "), "no summary: {stdout}");
    for line in ["CapEff:\t0000000000000000", "CapAmb:\t0000000000000000"] {
        ensure!(stdout.contains(line), "no {line:?} in {stdout}");
    }
    names_the_missing(&tool, &OWN, &args)
}

fn processes_of_others() -> Result<()> {
    let tool = Tool::copy()?;
    for user in [OTHER, 0] {
        let other = program(user)?;
        let pid = other.id().to_string();
        works(&tool, &OTHERS, &READ, &pid)?;
        names_the_missing(&tool, &OTHERS, &["-p", &pid, "-d", "1s"])?;
        for command in ["dump", "tasks"] {
            names_the_missing(&tool, &READ, &[command, "-p", &pid])?;
        }
    }
    Ok(())
}

/// CAP_SYS_ADMIN includes the two of loading. Older kernels want less for probes.
fn exact() -> Result<()> {
    let tool = Tool::copy()?;
    let own = program(UNPRIVILEGED)?;
    let pid = own.id().to_string();
    let args = ["-p", &pid, "-d", "1s", "--exact", "tasks"];
    let (code, stdout, stderr) = tool.run(&["sys_admin"], &args)?;
    ensure!(code == 0 && stderr.is_empty(), "code {code}: {stderr}");
    ensure!(
        stdout.contains("each one counted") || stdout.contains("STARTED"),
        "{stdout}"
    );
    let (code, _, stderr) = tool.run(&OWN, &args)?;
    let says = "probing a process needs CAP_SYS_ADMIN, which this process does not have (EACCES";
    ensure!(
        code == 0 && (stderr.is_empty() || stderr.contains(says)),
        "code {code}: {stderr}"
    );
    Ok(())
}

/// Where the limit on locked memory is low, the buffers need one more.
fn locked_memory() -> Result<()> {
    let paranoid = std::fs::read_to_string("/proc/sys/kernel/perf_event_paranoid")?;
    if paranoid.trim() == "-1" {
        return Err(
            concmon_tests::harness::Skip("needs perf_event_paranoid above -1".to_owned()).into(),
        );
    }
    let tool = Tool::copy()?;
    let own = program(UNPRIVILEGED)?;
    let pid = own.id().to_string();
    let run = |set: &[&str]| {
        let command = tool.with(set, &["-p", &pid, "-d", "1s"]);
        let mut limited = Command::new("prlimit");
        limited
            .arg("--memlock=65536")
            .arg(command.get_program())
            .args(command.get_args())
            .stdin(Stdio::null());
        ended(&mut limited)
    };
    let (code, _, stderr) = run(&["bpf", "perfmon", "ipc_lock"])?;
    ensure!(code == 0, "code {code}: {stderr}");
    let (code, _, stderr) = run(&OWN)?;
    ensure!(
        code == 4 && stderr.contains("needs CAP_IPC_LOCK, which"),
        "code {code}: {stderr}"
    );
    Ok(())
}

/// Root of a namespace of its own has every capability, and may not read a process outside.
fn another_user_namespace() -> Result<()> {
    let tool = Tool::copy()?;
    let outside = program(0)?;
    let pid = outside.id().to_string();
    for args in [["dump", "-p", &pid], ["--json", "-p", &pid]] {
        let mut apart = Command::new("unshare");
        apart
            .args(["--user", "--map-root-user"])
            .arg(&tool.path)
            .args(args)
            .current_dir(tool.folder())
            .stdin(Stdio::null());
        let (code, _, stderr) = ended(&mut apart)?;
        ensure!(code == 4, "{args:?}: code {code}: {stderr}");
        ensure!(
            stderr.contains("user namespace of its own") && !stderr.contains("run as root"),
            "{args:?}: {stderr}"
        );
    }
    Ok(())
}

/// A field of the status of each thread of a process, as text.
fn each_thread(pid: u32, field: &str) -> Result<Vec<String>> {
    let key = format!("{field}:");
    let mut values = Vec::new();
    for tid in proc::threads(pid)? {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")) else {
            continue;
        };
        let line = status.lines().find_map(|line| line.strip_prefix(&key));
        values.push(
            line.with_context(|| format!("no {field}"))?
                .trim()
                .to_owned(),
        );
    }
    ensure!(!values.is_empty(), "process {pid} has no threads");
    Ok(values)
}

fn sets(pid: u32, field: &str) -> Result<Vec<u64>> {
    let texts = each_thread(pid, field)?;
    texts
        .iter()
        .map(|text| Ok(u64::from_str_radix(text, 16)?))
        .collect()
}

/// The filter is in force on every thread.
fn confined(pid: u32) -> Result<()> {
    for (field, value) in [("Seccomp", "2"), ("NoNewPrivs", "1")] {
        let values = each_thread(pid, field)?;
        ensure!(
            values.iter().all(|one| one == value),
            "process {pid}: {field} is {values:?}"
        );
    }
    Ok(())
}

/// Waits until the filter is in force; afterwards it is so on every thread.
fn waits_to_be_confined(pid: u32) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while confined(pid).is_err() {
        ensure!(Instant::now() < deadline, "{:?}", confined(pid));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The program at `path`, run as a user who has exactly these capabilities.
pub(crate) fn as_user_with(path: &Path, capabilities: &[&str]) -> Command {
    let set: String = capabilities
        .iter()
        .map(|name| format!(",+{name}"))
        .collect();
    let user = UNPRIVILEGED.to_string();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", &user, "--regid", &user, "--clear-groups"])
        .args(["--inh-caps", &format!("-all{set}")])
        .args(["--bounding-set", &format!("-all{set}")])
        .args(["--ambient-caps", &format!("-all{set}")])
        .arg(path)
        .stdin(Stdio::null());
    command
}

/// Bits of include/uapi/linux/capability.h.
const BITS: [(&str, u64); 7] = [
    ("bpf", 1 << 39),
    ("sys_ptrace", 1 << 19),
    ("dac_read_search", 1 << 2),
    ("checkpoint_restore", 1 << 40),
    ("perfmon", 1 << 38),
    ("sys_admin", 1 << 21),
    ("kill", 1 << 5),
];

fn bits(names: &[&str]) -> u64 {
    let of = |name: &str| {
        BITS.iter()
            .find(|(one, _)| *one == name)
            .map_or(0, |(_, bit)| *bit)
    };
    names.iter().map(|name| of(name)).sum()
}

/// What root's watches keep, in each of their threads.
fn given_up() -> Result<()> {
    let target = program(OTHER)?;
    let pid = target.id().to_string();
    let looks = ["bpf", "sys_ptrace", "dac_read_search", "checkpoint_restore"];
    let sleep = ["--", "sleep", "60"];
    let mine = sets(std::process::id(), "CapPrm")?[0];
    for (args, more) in [
        (vec!["-p", &pid], vec!["perfmon"]),
        (vec!["-p", &pid, "--rate", "0"], vec![]),
        (
            vec!["-p", &pid, "--exact", "tasks"],
            vec!["perfmon", "sys_admin"],
        ),
        (sleep.to_vec(), vec!["perfmon", "kill"]),
    ] {
        let mut all = vec!["--json", "-i", "200ms", "--budget-cpu", "100%"];
        all.extend(&args);
        let mut watch = Watch::start(&all)?;
        watch.next(PATIENCE)?;
        let keeps = bits(&looks) | bits(&more);
        for field in ["CapEff", "CapPrm"] {
            let found = sets(watch.tool(), field)?;
            ensure!(
                found.iter().all(|set| set & !keeps == 0),
                "{args:?}: {field} is {found:x?}, not {keeps:x}"
            );
            ensure!(
                found.contains(&(keeps & mine)),
                "{args:?}: {field} is {found:x?}, not {keeps:x}"
            );
        }
        for field in ["CapInh", "CapAmb", "CapBnd"] {
            let found = sets(watch.tool(), field)?;
            ensure!(
                found.iter().all(|set| *set == 0),
                "{args:?}: {field} is {found:x?}"
            );
        }
        // Windows go on with what it has kept, of a process that is somebody else's.
        for _ in 0..3 {
            watch.next(PATIENCE)?;
        }
        watch.signal(libc::SIGINT);
        let outcome = watch.finish(PATIENCE)?;
        let reads_failed = outcome.summary()?.monitor.reads_failed;
        ensure!(reads_failed == 0, "{args:?}: {reads_failed} reads failed");
    }
    Ok(())
}

fn confined_watches() -> Result<()> {
    let target = program(OTHER)?;
    let pid = target.id().to_string();
    let folder = tempfile::tempdir()?;
    let [lines, capture] = ["lines", "capture"].map(|name| folder.path().join(name));
    let lines = lines.to_str().context("a path that is no text")?;
    let capture = capture.to_str().context("a path that is no text")?;
    for args in [
        vec!["-p", &pid, "-i", "200ms"],
        vec!["-p", &pid, "-i", "200ms", "--json", "-o", lines],
        vec!["record", "-p", &pid, "-o", capture],
    ] {
        let mut tool = start(&args)?;
        waits_to_be_confined(tool.id())?;
        std::thread::sleep(Duration::from_millis(500));
        confined(tool.id())?;
        ends_well(&mut tool, &args)?;
    }
    Ok(())
}

fn start(args: &[&str]) -> Result<Group> {
    Group::start(
        Command::new(binary()?)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped()),
    )
}

/// Interrupted, it ends with code 0 and says nothing of a failure.
fn ends_well(tool: &mut Group, args: &[&str]) -> Result<()> {
    tool.signal(libc::SIGINT);
    let status = tool.wait_for(PATIENCE)?;
    let mut said = String::new();
    let stderr = tool.stderr.as_mut().context("no stderr")?;
    stderr.read_to_string(&mut said)?;
    ensure!(
        status.success() && !said.contains("WARN") && !said.contains("cannot"),
        "{args:?}: {status}: {said}"
    );
    Ok(())
}

/// Probes come late: to a child that starts, and imports asyncio, when the filter is in force.
fn confined_exact() -> Result<()> {
    let python = Interpreter::for_everyone()?;
    let parent = "\
import subprocess, sys, time
print('ready', flush=True)
time.sleep(2)
subprocess.run([sys.executable, '-c', sys.argv[1]], timeout=30)
";
    let mut command = python.command();
    command
        .args(["-c", parent, PROGRAM])
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut target = Group::start(&mut command)?;
    let stdout = target.stdout.as_mut().context("no stdout")?;
    stdout.read_exact(&mut [0; 6])?;
    let pid = target.id().to_string();
    let watch = Watch::start(&["-p", &pid, "-d", "6s", "--json", "--exact", "tasks,futures"])?;
    waits_to_be_confined(watch.tool())?;
    let outcome = watch.finish(PATIENCE)?.ok()?;
    ensure!(outcome.stderr.is_empty(), "{}", outcome.stderr);
    let counted = outcome.summary()?.processes.iter().any(|process| {
        let exact = process.exact.as_ref();
        exact.is_some_and(|exact| exact.tasks.iter().flatten().any(|row| row.started > 0))
    });
    ensure!(counted, "no task of the child was counted");
    Ok(())
}

/// Files that come later: two of a ring that keeps one, in a folder that is somebody else's.
fn confined_ring() -> Result<()> {
    let target = program(OTHER)?;
    let folder = tempfile::tempdir()?;
    std::os::unix::fs::chown(folder.path(), Some(OTHER), Some(OTHER))?;
    let mut command = Command::new(binary()?);
    command
        .args(["record", "-p", &target.id().to_string(), "--ring", "5s"])
        .args(["--keep", "1", "--on-disk", "-i", "200ms", "-o"])
        .arg(folder.path())
        .env("SUDO_UID", OTHER.to_string())
        .env("SUDO_GID", OTHER.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut tool = Group::start(&mut command)?;
    waits_to_be_confined(tool.id())?;
    let files = || -> Result<Vec<PathBuf>> {
        let files = std::fs::read_dir(folder.path())?.filter_map(|file| Some(file.ok()?.path()));
        Ok(files
            .filter(|path| !path.to_string_lossy().contains("/ring-"))
            .collect())
    };
    // Files are named, and kept, by what the first windows say.
    std::thread::sleep(Duration::from_secs(1));
    tool.signal(libc::SIGUSR2);
    let deadline = Instant::now() + PATIENCE;
    while files()?.is_empty() {
        ensure!(Instant::now() < deadline, "nothing was written");
        std::thread::sleep(Duration::from_millis(50));
    }
    let first = files()?;
    std::thread::sleep(Duration::from_secs(5));
    confined(tool.id())?;
    ends_well(&mut tool, &["record", "--ring"])?;
    let left = files()?;
    ensure!(left.len() == 1 && left != first, "{first:?}, then {left:?}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&left[0])?);
    ensure!(owner == OTHER, "it belongs to {owner}");
    Ok(())
}

/// What was started is as free as before.
fn confined_command() -> Result<()> {
    let mine = sets(std::process::id(), "CapPrm")?[0];
    let mut tool = start(&["--", "sleep", "60"])?;
    waits_to_be_confined(tool.id())?;
    let child = children(tool.id())?
        .into_iter()
        .find(|pid| name(*pid) == "sleep")
        .context("no child")?;
    ensure!(
        each_thread(child, "Seccomp")? == ["0"],
        "the program is filtered"
    );
    ensure!(
        each_thread(child, "NoNewPrivs")? == ["0"],
        "the program may not gain rights"
    );
    ensure!(
        sets(child, "CapPrm")? == [mine],
        "root's program lost rights"
    );
    tool.signal(libc::SIGTERM);
    let status = tool.wait_for(PATIENCE)?;
    // The signal was passed on.
    ensure!(status.code() == Some(128 + libc::SIGTERM), "{status}");
    Ok(())
}

fn children(pid: u32) -> Result<Vec<u32>> {
    let mut children = Vec::new();
    for tid in proc::threads(pid)? {
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"))?;
        children.extend(
            text.split_whitespace()
                .filter_map(|pid| pid.parse::<u32>().ok()),
        );
    }
    Ok(children)
}

fn name(pid: u32) -> String {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    name.trim_end().to_owned()
}

fn confined_demo() -> Result<()> {
    let mut tool = start(&["demo", "-d", "3s"])?;
    waits_to_be_confined(tool.id())?;
    let child = children(tool.id())?
        .into_iter()
        .find(|pid| name(*pid).starts_with("python"))
        .context("no program of the demo")?;
    ensure!(
        each_thread(child, "Seccomp")?
            .iter()
            .all(|mode| mode == "0"),
        "it is filtered"
    );
    let status = tool.wait_for(PATIENCE)?;
    ensure!(status.success(), "{status}");
    // It was ended by its signal.
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&format!("/proc/{child}")).exists() {
        ensure!(Instant::now() < deadline, "the demo's program goes on");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// What only reads is confined while it does: seen from outside, where it takes long enough.
fn confined_readers() -> Result<()> {
    let target = program(OTHER)?;
    let pid = target.id().to_string();
    let folder = tempfile::tempdir()?;
    let capture = folder.path().join("capture");
    let capture = capture.to_str().context("a path that is no text")?;
    let recorded = Command::new(binary()?)
        .args(["record", "-q", "-p", &pid, "-d", "2s", "-o", capture])
        .output()?;
    ensure!(recorded.status.success(), "{recorded:?}");
    let page = folder.path().join("page");
    let page = page.to_str().context("a path that is no text")?;
    for args in [
        vec!["dump", "-p", &pid],
        vec!["tasks", "-p", &pid],
        vec!["report", "-i", capture],
        vec!["report", "-i", capture, "--html", page],
        vec!["export", "-i", capture, "-f", "perfetto", "-o", page],
        vec!["diff", capture, capture],
    ] {
        // A reader is fast, so it is looked for some times.
        let mut seen = false;
        for _ in 0..50 {
            let mut tool = start(&args)?;
            while tool.try_wait()?.is_none() {
                seen |= confined(tool.id()).is_ok();
            }
            let status = tool.wait_for(PATIENCE)?;
            ensure!(status.success(), "{args:?}: {status}");
            if seen {
                break;
            }
        }
        ensure!(seen, "{args:?}: never seen confined");
    }
    Ok(())
}

/// The run time of kernel programs is measured by a process that can do nothing else.
fn measuring_helper() -> Result<()> {
    let target = program(OTHER)?;
    let mut watch = Watch::pid(target.id(), "200ms", None)?;
    watch.next(PATIENCE)?;
    watch.next(PATIENCE)?;
    let helper = children(watch.tool())?
        .into_iter()
        .find(|pid| name(*pid) == "concmon-stats")
        .context("no helper")?;
    confined(helper)?;
    ensure!(
        sets(helper, "CapPrm")? == [bits(&["sys_admin"])],
        "it has other capabilities"
    );
    let held: Vec<_> = std::fs::read_dir(format!("/proc/{helper}/fd"))?
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .map(|path| path.to_string_lossy().into_owned())
        .collect();
    ensure!(
        held.iter()
            .all(|one| one.starts_with("socket:") || one.contains("bpf-stats"))
            && held.len() <= 2,
        "it holds {held:?}"
    );
    let report = watch.next(PATIENCE)?;
    ensure!(
        report.monitor.kernel_run_ns.is_some_and(|ns| ns > 0),
        "nothing was measured"
    );
    watch.signal(libc::SIGKILL);
    watch.finish(PATIENCE)?;
    let deadline = Instant::now() + PATIENCE;
    let holds = |pid: u32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd"));
        fds.is_ok_and(|mut fds| fds.next().is_some())
    };
    while holds(helper) {
        ensure!(Instant::now() < deadline, "the helper goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
