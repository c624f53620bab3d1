//! What a test can require of the machine it runs on.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::interpreter::Interpreter;
use crate::{bpf, browser, proc};

/// Uid and gid that tests without privileges switch to (`nobody` on Linux distributions).
pub const UNPRIVILEGED: u32 = 65534;

/// One requirement of a test.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// The tests run as root.
    Root,
    /// Kernel programs can be loaded: BTF is there and the bpf system call is allowed.
    Ebpf,
    /// A Python of this minor version, for example `3.11`.
    Python(&'static str),
    /// A package for a Python of this minor version, which `cargo xtask pythons` installs.
    Package(&'static str, &'static str),
    /// A C compiler called `cc`.
    Cc,
    /// The command that makes certificates.
    Openssl,
    /// A command.
    Tool(&'static str),
    /// A user without privileges to switch to, and a Python that this user can run.
    User,
    /// Users may read the memory of their own processes.
    OwnTrace,
    /// setpriv and prlimit of util-linux, by which a command gets exactly these capabilities and limits.
    Setpriv,
    /// A kernel thread in sight (there is none in a PID namespace of one's own).
    KernelThread,
    /// A headless Chromium, and what drives it.
    Browser,
}

impl Need {
    /// Why the requirement is not met; `None` when it is.
    pub fn missing(&self) -> Option<String> {
        match self {
            // SAFETY: geteuid has no preconditions and cannot fail.
            Need::Root => (unsafe { libc::geteuid() } != 0).then(|| "needs root".to_owned()),
            Need::Ebpf => no_ebpf(),
            Need::Python(version) => Interpreter::find(version)
                .err()
                .map(|why| format!("{why:#}")),
            Need::Package(version, package) => Interpreter::package(version, package)
                .is_none()
                .then(|| format!("needs {package} for Python {version}: run cargo xtask pythons")),
            Need::Cc => runs(Command::new("cc").arg("--version"))
                .then_some(())
                .ok_or("needs the C compiler cc".to_owned())
                .err(),
            Need::Openssl => {
                (!runs(Command::new("openssl").arg("version"))).then(|| "needs openssl".to_owned())
            }
            Need::Tool(name) => {
                (!runs(Command::new(name).arg("--version"))).then(|| format!("needs {name}"))
            }
            Need::User => no_user(),
            Need::OwnTrace => no_own_trace(),
            Need::Setpriv => ["setpriv", "prlimit"]
                .into_iter()
                .find(|tool| !runs(Command::new(tool).arg("--version")))
                .map(|tool| format!("needs {tool} of util-linux")),
            Need::KernelThread => proc::kernel_thread()
                .is_none()
                .then(|| "needs a kernel thread in /proc".to_owned()),
            Need::Browser => browser::missing(),
        }
    }
}

fn no_ebpf() -> Option<String> {
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("needs a kernel with BTF (/sys/kernel/btf/vmlinux)".to_owned());
    }
    bpf::programs()
        .err()
        .map(|why| format!("needs the bpf system call: {why:#}"))
}

fn no_user() -> Option<String> {
    use std::os::unix::process::CommandExt;
    let python = match Interpreter::for_everyone() {
        Ok(python) => python,
        Err(why) => return Some(format!("{why:#}")),
    };
    let mut command = python.command();
    command
        .args(["-c", "pass"])
        .uid(UNPRIVILEGED)
        .gid(UNPRIVILEGED);
    (!runs(&mut command)).then(|| format!("needs to run Python as user {UNPRIVILEGED}"))
}

/// Without Yama, or with 0, the classic rule holds: users may trace what is theirs.
fn no_own_trace() -> Option<String> {
    let scope = std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default();
    let scope = scope.trim();
    (!matches!(scope, "" | "0")).then(|| {
        format!(
            "needs kernel.yama.ptrace_scope=0 for users to read their own processes, is {scope}"
        )
    })
}

fn runs(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
