//! The filter in force, in a process of its own: what it denies, and what goes on.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::{ffi::OsStrExt as _, fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    process::{Command, Stdio},
};

use super::*;

/// Which part a process of its own plays.
const PART: &str = "CONCMON_CONFINE_TEST";

/// Runs one test of this file in a process of its own, where it finds its part in the environment.
fn apart(test: &str, part: &str) -> std::process::Output {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "--nocapture",
            &format!("session::confine::tests::{test}"),
        ])
        .env(PART, part)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn part() -> Option<String> {
    std::env::var(PART).ok()
}

/// What a raw system call gives: its result, or the error's number.
fn call(number: i64, arguments: [usize; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: pointers among the arguments are null, or outlive the call.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    match result {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        result => Ok(result),
    }
}

const EPERM: Result<i64, i32> = Err(libc::EPERM);

#[test]
fn denies_what_it_says() {
    if part().is_none() {
        let output = apart("denies_what_it_says", "denied");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {said}", output.status);
        return;
    }
    // It ends when this process does: nobody here may end it later.
    let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, "as it was").unwrap();
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let name = name.as_ptr() as usize;
    let mem = CString::new(format!("/proc/{}/mem", other.id())).unwrap();
    let mem = mem.as_ptr() as usize;
    let sh = c"/bin/sh".as_ptr() as usize;
    let (own, one) = (std::process::id() as usize, other.id() as usize);
    let here = libc::AT_FDCWD as usize;
    let word = [7_u64];
    let area = libc::iovec {
        iov_base: word.as_ptr() as *mut _,
        iov_len: 8,
    };
    let area = &raw const area as usize;
    let flags = |flags: i32| flags as usize;
    // `struct open_how` (include/uapi/linux/openat2.h): flags, mode, resolve.
    let how = [libc::O_RDONLY as u64, 0, 0];
    let how = how.as_ptr() as usize;
    let calls: Vec<(&str, i64, [usize; 6])> = vec![
        (
            "ptrace attach",
            libc::SYS_ptrace,
            [libc::PTRACE_ATTACH as usize, one, 0, 0, 0, 0],
        ),
        (
            "ptrace seize",
            libc::SYS_ptrace,
            [libc::PTRACE_SEIZE as usize, one, 0, 0, 0, 0],
        ),
        (
            "process_vm_writev",
            libc::SYS_process_vm_writev,
            [one, area, 1, area, 1, 0],
        ),
        ("execve", libc::SYS_execve, [sh, 0, 0, 0, 0, 0]),
        ("execveat", libc::SYS_execveat, [here, sh, 0, 0, 0, 0]),
        (
            "io_uring_setup",
            libc::SYS_io_uring_setup,
            [1, 0, 0, 0, 0, 0],
        ),
        ("openat2", libc::SYS_openat2, [here, name, how, 24, 0, 0]),
        ("truncate", libc::SYS_truncate, [name, 0, 0, 0, 0, 0]),
        (
            "memory, to write",
            libc::SYS_openat,
            [here, mem, flags(libc::O_RDWR), 0, 0, 0],
        ),
        (
            "memory, to write only",
            libc::SYS_openat,
            [here, mem, flags(libc::O_WRONLY), 0, 0, 0],
        ),
        (
            "memory, with O_CREAT",
            libc::SYS_openat,
            [here, mem, flags(libc::O_RDWR | libc::O_CREAT), 0, 0, 0],
        ),
        (
            "memory, with O_EXCL",
            libc::SYS_openat,
            [here, mem, flags(libc::O_RDWR | libc::O_EXCL), 0, 0, 0],
        ),
        (
            "a file, with both accesses",
            libc::SYS_openat,
            [here, name, flags(libc::O_ACCMODE), 0, 0, 0],
        ),
        (
            "a file, to cut",
            libc::SYS_openat,
            [here, name, flags(libc::O_TRUNC), 0, 0, 0],
        ),
        (
            "a file, to append",
            libc::SYS_openat,
            [here, name, flags(libc::O_WRONLY | libc::O_APPEND), 0, 0, 0],
        ),
        (
            "bits above an int",
            libc::SYS_openat,
            [here, name, flags(libc::O_WRONLY) | 1 << 40, 0, 0, 0],
        ),
        ("loading", libc::SYS_bpf, [5, 0, 0, 0, 0, 0]),
        ("kill", libc::SYS_kill, [one, 0, 0, 0, 0, 0]),
        ("kill a group", libc::SYS_kill, [0, 0, 0, 0, 0, 0]),
        ("kill all", libc::SYS_kill, [usize::MAX, 0, 0, 0, 0, 0]),
        ("tgkill", libc::SYS_tgkill, [one, one, 0, 0, 0, 0]),
        ("tkill", libc::SYS_tkill, [one, 0, 0, 0, 0, 0]),
        ("sigqueue", libc::SYS_rt_sigqueueinfo, [one, 0, 0, 0, 0, 0]),
        ("mount", libc::SYS_mount, [0; 6]),
        ("setns", libc::SYS_setns, [0; 6]),
        ("finit_module", libc::SYS_finit_module, [0; 6]),
        #[cfg(target_arch = "x86_64")]
        (
            "open",
            libc::SYS_open,
            [mem, flags(libc::O_RDWR), 0, 0, 0, 0],
        ),
        #[cfg(target_arch = "x86_64")]
        ("creat", libc::SYS_creat, [name, 0o600, 0, 0, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        (
            "x32 ptrace",
            i64::from(X32) | 521,
            [libc::PTRACE_SEIZE as usize, one, 0, 0, 0, 0],
        ),
        #[cfg(target_arch = "x86_64")]
        ("x32 getpid", i64::from(X32) | libc::SYS_getpid, [0; 6]),
    ];
    // A thread from before is confined, too.
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let before = std::thread::spawn(move || {
        gate.recv().unwrap();
        call(libc::SYS_kill, [one, 0, 0, 0, 0, 0])
    });
    // Nothing of it fails by itself.
    assert_eq!(call(libc::SYS_kill, [one, 0, 0, 0, 0, 0]), Ok(0));
    assert!(OpenOptions::new().write(true).open(&path).is_ok());
    assert!(
        OpenOptions::new()
            .write(true)
            .open(format!("/proc/{one}/mem"))
            .is_ok()
    );

    confine(Some(Pid(child.id()))).unwrap();

    go.send(()).unwrap();
    assert_eq!(before.join().unwrap(), EPERM, "a thread from before");
    for (what, number, arguments) in calls {
        assert_eq!(call(number, arguments), EPERM, "{what}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), b"as it was");
    let error = Command::new("true").spawn().unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));

    // What goes on: reading, own memory through the kernel, creating, threads, own signals, the child's.
    let mut text = String::new();
    File::open("/proc/self/status")
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    assert!(
        text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1"),
        "{text}"
    );
    let into = [0_u64];
    let local = libc::iovec {
        iov_base: into.as_ptr() as *mut _,
        iov_len: 8,
    };
    let local = &raw const local as usize;
    assert_eq!(
        call(libc::SYS_process_vm_readv, [own, local, 1, area, 1, 0]),
        Ok(8)
    );
    let new = folder.path().join("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .unwrap();
    file.write_all(b"new").unwrap();
    std::fs::rename(&new, &path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
    assert_eq!(call(libc::SYS_kill, [own, 0, 0, 0, 0, 0]), Ok(0));
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(other.try_wait().unwrap(), None);
    drop(folder);
}

/// A system call of 32 bits ends the process, and so does an abort, by its own signal.
#[test]
fn ends_as_it_should() {
    match part().as_deref() {
        None => {
            for (part, signal) in [("abort", libc::SIGABRT), ("int80", libc::SIGSYS)] {
                if part == "int80" && cfg!(not(target_arch = "x86_64")) {
                    continue;
                }
                let output = apart("ends_as_it_should", part);
                assert_eq!(output.status.signal(), Some(signal), "{part}: {output:?}");
            }
        }
        Some("abort") => {
            confine(None).unwrap();
            std::thread::spawn(|| std::process::abort()).join().unwrap();
        }
        Some(_) => {
            confine(None).unwrap();
            #[cfg(target_arch = "x86_64")]
            // SAFETY: getpid of the 32-bit table (20) has no arguments.
            unsafe {
                std::arch::asm!("int 0x80", inlateout("eax") 20 => _);
            }
        }
    }
}
