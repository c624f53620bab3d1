//! The host, and what this program may do on it.

use std::{fs, path::Path};

use rustix::{
    process::{Resource, getrlimit},
    thread::CapabilitySet,
};

use super::granting;
use crate::{
    kernel::{
        self,
        features::{Feature, Features, Need, Row, TABLE},
        offsets::{Offsets, btf_path},
    },
    procfs::{host::kernel_setting, namespaces, rights},
    schema::{Check, CheckStatus},
    session::{Failure, code},
    source::live::{Live, LiveError, Sizes},
};

/// The first kernel that is supported.
const OLDEST: (u32, u32) = (5, 10);
/// As of a watch that nobody has told otherwise.
const RATE: u32 = 99;

/// What was found, and why a watch would not work.
pub(super) struct Host {
    pub(super) checks: Vec<Check>,
    pub(super) failure: Option<Failure>,
}

pub(super) fn look() -> Host {
    let mut checks = vec![kernel_version()];
    let found = Offsets::of_running_kernel();
    checks.push(match &found {
        Ok(_) => Check::ok("btf", format!("{} describes it", btf_path().display())),
        Err(error) => Check::not_ok(
            "btf",
            CheckStatus::Failed,
            error.to_string(),
            Some(
                "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (grep BTF= /boot/config-$(uname -r)), or: \
                 CONCMON_BTF=FILE concmon-bpf ..."
                    .to_owned(),
            ),
        ),
    });
    checks.push(lockdown());
    checks.extend(capabilities());
    let tried = try_it();
    checks.push(loading(&tried));
    let features = found
        .ok()
        .map(|(offsets, arguments)| Features::new(offsets, arguments));
    for row in &TABLE {
        checks.push(feature(row, &tried, features.as_ref()));
    }
    checks.push(uprobes());
    checks.push(locked_memory(&tried));
    checks.push(ptrace_scope());
    checks.push(perf_paranoid());
    checks.push(filter());
    checks.push(temporary());
    let own_proc = proc_is_ours();
    let has_own = own_proc.status == CheckStatus::Ok;
    checks.push(own_proc);
    let failure = tried.err().map(Failure::from);
    Host {
        checks,
        failure: failure.or_else(|| {
            let message = "/proc shows another PID namespace than the one that this program is in";
            (!has_own).then(|| Failure::new(code::UNSUPPORTED, message))
        }),
    }
}

/// Whether `/proc` has the ids that this program is told.
fn proc_is_ours() -> Check {
    match namespaces::is_proc_ours() {
        true => Check::ok(
            "proc",
            "/proc is of the PID namespace that this program is in",
        ),
        false => Check::not_ok(
            "proc",
            CheckStatus::Failed,
            "/proc shows another PID namespace than the one that this program is in",
            Some("unshare --pid --fork --mount-proc ..., or nsenter --pid --mount ...".to_owned()),
        ),
    }
}

/// Does what a watch does, with nobody to watch, and takes it back.
fn try_it() -> Result<Live, LiveError> {
    let mut live = Live::load(Sizes::for_threads(1, false))?;
    live.attach(RATE)?;
    live.detach();
    Ok(live)
}

fn kernel_version() -> Check {
    let release = kernel::release().unwrap_or_default();
    let found = format!("Linux {release}, {}", std::env::consts::ARCH);
    match kernel::version_of(&release) {
        Some(version) if version < OLDEST => Check::not_ok(
            "kernel",
            CheckStatus::Failed,
            found,
            Some("boot Linux 5.10 or later".to_owned()),
        )
        .needing("Linux 5.10 or later"),
        _ => Check::ok("kernel", found),
    }
}

/// `none [integrity] confidentiality`: the one in force.
fn lockdown() -> Check {
    const FILE: &str = "/sys/kernel/security/lockdown";
    let text = fs::read_to_string(FILE).unwrap_or_default();
    let inside = text
        .split_once('[')
        .and_then(|(_, rest)| rest.split_once(']'));
    match inside.map(|(mode, _)| mode) {
        Some("confidentiality") => Check::not_ok(
            "lockdown",
            CheckStatus::Failed,
            "confidentiality: kernel programs may not read the kernel's memory",
            Some(
                "boot without lockdown=confidentiality on the kernel's command line (cat /proc/cmdline)"
                    .to_owned(),
            ),
        ),
        Some(mode) => Check::ok("lockdown", mode),
        None => Check::ok("lockdown", format!("none: there is no {FILE}")),
    }
}

/// What each capability is for; without some of them no watch works.
fn capabilities() -> Vec<Check> {
    const WANTED: [(&str, CapabilitySet, bool, &str); 6] = [
        ("CAP_BPF", CapabilitySet::BPF, true, "kernel programs"),
        (
            "CAP_PERFMON",
            CapabilitySet::PERFMON,
            true,
            "kernel programs that read tasks, and sampling",
        ),
        (
            "CAP_SYS_PTRACE",
            CapabilitySet::SYS_PTRACE,
            false,
            "Python in processes of other users",
        ),
        (
            "CAP_DAC_READ_SEARCH",
            CapabilitySet::DAC_READ_SEARCH,
            false,
            "/proc of processes of other users",
        ),
        (
            "CAP_SYS_ADMIN",
            CapabilitySet::SYS_ADMIN,
            false,
            "--exact, and the run time of the tool's own kernel programs",
        ),
        (
            "CAP_CHECKPOINT_RESTORE",
            CapabilitySet::CHECKPOINT_RESTORE,
            false,
            "programs whose files were replaced",
        ),
    ];
    let check = |(name, set, must, gives): (&'static str, CapabilitySet, bool, &str)| {
        let missing = rights::lacking(set);
        // Without a user namespace of its own it may have it, and it counts for nothing.
        let check = match (missing.is_empty(), must) {
            (true, _) if rights::elsewhere().is_none() => Check::ok(name, "there"),
            (true, _) => Check::not_ok(
                name,
                CheckStatus::Degraded,
                rights::elsewhere().unwrap_or_default(),
                Some(granting(set)),
            ),
            (false, true) => Check::not_ok(
                name,
                CheckStatus::Failed,
                "missing",
                Some(granting(missing)),
            ),
            (false, false) => Check::not_ok(
                name,
                CheckStatus::Degraded,
                "missing",
                Some(granting(missing)),
            ),
        };
        check.giving(gives)
    };
    WANTED.into_iter().map(check).collect()
}

fn loading(tried: &Result<Live, LiveError>) -> Check {
    const NAME: &str = "kernel-programs";
    let error = match tried {
        Ok(_) => {
            return Check::ok(
                NAME,
                "loaded, checked on this process itself, attached, and taken away again",
            );
        }
        Err(error) => error,
    };
    let fix = match error {
        LiveError::Permission(_) => match rights::lacking(rights::LOADING) {
            missing if missing.is_empty() => granting(CapabilitySet::IPC_LOCK),
            missing => granting(missing),
        },
        LiveError::Unsupported(_) => {
            "what is said of kernel, btf and lockdown above; in a container: docker \
                                      run --pid=host --privileged, kubernetes: hostPID"
                .to_owned()
        }
        LiveError::Failed { .. } => "concmon-bpf doctor -vv says more".to_owned(),
    };
    Check::not_ok(NAME, CheckStatus::Failed, error.to_string(), Some(fix))
        .giving("all that is told of threads")
}

/// Of the table of what not every kernel has.
fn feature(row: &Row, tried: &Result<Live, LiveError>, found: Option<&Features>) -> Check {
    let name = match row.feature {
        Feature::Causes => "causes",
        Feature::Samples => "samples",
        Feature::SwitchState => "switch-state",
        Feature::DelayedDequeue => "delayed-dequeue",
        Feature::Probes => "probes",
        Feature::RunTime => "run-time",
        Feature::Requests => "requests",
    };
    let (major, minor) = row.since;
    let needs: Vec<String> = row.needs.iter().map(|(need, _)| need_of(need)).collect();
    let needs = format!("{} (Linux {major}.{minor})", needs.join(", "));
    let lacks = match (tried, found) {
        (Ok(live), _) => live.lacks(row.feature),
        (Err(_), Some(features)) => features.lacks(row.feature),
        (Err(_), None) => None,
    };
    let helpers = |(need, _): &(Need, _)| matches!(need, Need::Helpers(_));
    let check = match lacks {
        // Nothing is told worse: the kernel does otherwise, or tells it in another way.
        Some(said) if matches!(row.feature, Feature::SwitchState | Feature::DelayedDequeue) => {
            Check::ok(name, said)
        }
        Some(said) => Check::not_ok(
            name,
            CheckStatus::Degraded,
            said,
            Some(format!("boot Linux {major}.{minor} or later")),
        ),
        None if tried.is_err() && (found.is_none() || row.needs.iter().any(helpers)) => {
            Check::not_ok(
                name,
                CheckStatus::Unknown,
                "only loading kernel programs tells",
                None,
            )
        }
        None if row.feature == Feature::RunTime || row.feature == Feature::Probes => {
            let missing = rights::lacking(CapabilitySet::SYS_ADMIN);
            match missing.is_empty() {
                true => Check::ok(name, row.gives),
                false => Check::not_ok(
                    name,
                    CheckStatus::Degraded,
                    "it takes CAP_SYS_ADMIN, too",
                    Some(granting(missing)),
                ),
            }
        }
        None => Check::ok(name, row.gives),
    };
    check.giving(row.gives).needing(needs)
}

fn need_of(need: &Need) -> String {
    match need {
        Need::Helpers(names) => names.join(" and "),
        Need::Member(name, _) => (*name).to_owned(),
        Need::SwitchArguments(count) => format!("{count} arguments of sched_switch"),
        Need::Architecture(arch) => format!("{arch:?}").to_lowercase(),
        Need::Tracepoints(names, _) => names.join(" and "),
        Need::Command(name) => (*name).to_owned(),
    }
}

/// By which probes of `--exact` are placed; kernel tracepoints take neither this nor a tracefs.
fn uprobes() -> Check {
    const PMU: &str = "/sys/bus/event_source/devices/uprobe/type";
    const TRACEFS: [&str; 2] = [
        "/sys/kernel/tracing/uprobe_events",
        "/sys/kernel/debug/tracing/uprobe_events",
    ];
    let check = match TRACEFS.iter().find(|file| Path::new(file).exists()) {
        _ if Path::new(PMU).exists() => {
            Check::ok("uprobes", format!("{PMU}, so no tracefs is needed"))
        }
        Some(file) => Check::ok("uprobes", *file),
        None => Check::not_ok(
            "uprobes",
            CheckStatus::Degraded,
            format!("there is neither {PMU} nor a tracefs"),
            Some("sudo mount -t tracefs tracefs /sys/kernel/tracing".to_owned()),
        ),
    };
    check.giving("--exact")
}

fn locked_memory(tried: &Result<Live, LiveError>) -> Check {
    const NAME: &str = "locked-memory";
    let limit = match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("the limit is {} kB", bytes / 1024),
        None => "unlimited".to_owned(),
    };
    let missing = rights::lacking(CapabilitySet::IPC_LOCK);
    if missing.is_empty() {
        return Check::ok(NAME, format!("{limit}, which CAP_IPC_LOCK goes past"));
    }
    match tried {
        Ok(_) => Check::ok(
            NAME,
            format!("{limit}, which is enough for {} CPUs", cpus()),
        ),
        Err(LiveError::Permission(said)) if said.contains("ulimit -l") => Check::not_ok(
            NAME,
            CheckStatus::Failed,
            limit,
            Some(format!("ulimit -l unlimited, or {}", granting(missing))),
        ),
        Err(_) => Check::not_ok(NAME, CheckStatus::Unknown, limit, None),
    }
}

fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// `kernel.yama.ptrace_scope`, where there is one.
fn ptrace_scope() -> Check {
    const NAME: &str = "ptrace-scope";
    let scope = kernel_setting("yama/ptrace_scope").unwrap_or_default();
    let may = rights::lacking(CapabilitySet::SYS_PTRACE).is_empty();
    let check = match (scope.as_str(), may) {
        ("", _) => Check::ok(NAME, "no kernel.yama.ptrace_scope"),
        ("0", _) => Check::ok(NAME, "kernel.yama.ptrace_scope is 0"),
        ("3", _) => Check::not_ok(
            NAME,
            CheckStatus::Degraded,
            "kernel.yama.ptrace_scope is 3: nobody may read other processes",
            Some(
                "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d, and start the host anew"
                    .to_owned(),
            ),
        ),
        (scope, true) => Check::ok(
            NAME,
            format!("kernel.yama.ptrace_scope is {scope}, which CAP_SYS_PTRACE goes past"),
        ),
        (scope, false) => Check::not_ok(
            NAME,
            CheckStatus::Degraded,
            format!("kernel.yama.ptrace_scope is {scope}: only own children may be read"),
            Some("sudo sysctl kernel.yama.ptrace_scope=0, or run it with sudo".to_owned()),
        ),
    };
    check.giving("Python in own processes that are no children")
}

fn perf_paranoid() -> Check {
    const NAME: &str = "perf-paranoid";
    let level = kernel_setting("perf_event_paranoid").unwrap_or_else(|_| "not there".to_owned());
    let said = format!("kernel.perf_event_paranoid is {level}");
    match rights::lacking(CapabilitySet::PERFMON).is_empty() {
        true => Check::ok(NAME, format!("{said}, which CAP_PERFMON goes past")),
        // Kernel programs need that capability, whatever the setting is.
        false => Check::ok(NAME, format!("{said}; CAP_PERFMON is what counts")),
    }
}

fn filter() -> Check {
    let there = kernel_setting("seccomp/actions_avail").is_ok();
    match there {
        true => Check::ok("seccomp", "there"),
        false => Check::not_ok(
            "seccomp",
            CheckStatus::Degraded,
            "this kernel has no filters of system calls",
            Some("boot a kernel with CONFIG_SECCOMP_FILTER=y".to_owned()),
        ),
    }
    .giving("that the tool itself cannot write to other processes")
}

/// Where `record -f` and reports of pipes put what nobody keeps.
fn temporary() -> Check {
    let folder = std::env::temp_dir();
    let shown = folder.display();
    match tempfile::tempfile() {
        Ok(_) => Check::ok("temporary-files", format!("{shown} can be written")),
        Err(error) => Check::not_ok(
            "temporary-files",
            CheckStatus::Degraded,
            format!("{shown} cannot be written: {error}"),
            Some("TMPDIR=FOLDER concmon-bpf ...".to_owned()),
        ),
    }
    .giving("record -f, and parts of captures from a pipe")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::code;

    /// Whatever the host is like, a watch that would fail is told by a check that failed, with a fix.
    #[test]
    fn what_fails_is_said_and_mended() {
        let host = look();
        let failed = |check: &&Check| check.status == CheckStatus::Failed;
        let failing: Vec<&Check> = host.checks.iter().filter(failed).collect();
        assert_eq!(host.failure.is_some(), !failing.is_empty(), "{failing:?}");
        for check in &host.checks {
            let needs_fix = matches!(check.status, CheckStatus::Failed | CheckStatus::Degraded);
            assert_eq!(check.fix.is_some(), needs_fix, "{check:?}");
            assert!(!check.found.is_empty(), "{check:?}");
        }
        if let Some(failure) = &host.failure {
            let expected = [code::PERMISSION, code::UNSUPPORTED, code::FAILURE];
            assert!(expected.contains(&failure.code), "{failure}");
        }
    }
}
