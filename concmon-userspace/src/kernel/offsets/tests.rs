//! Offsets of kernels that are made up.

use super::*;
use crate::kernel::btf::builder::Builder;

/// Which kernel the made-up one resembles.
#[derive(Clone, Copy, PartialEq)]
enum Era {
    V5_10,
    V6_12,
}

fn kernel(era: Era, arch: Arch, leave_out: &str) -> Vec<u8> {
    let mut b = Builder::new();
    let int = b.int("int", 4);
    let long = b.int("long", 8);
    let byte = b.int("unsigned char", 1);
    let volatile = b.volatile(long);
    let pointer = b.pointer(int);
    let name = b.array(byte, 16);
    let live = b.structure("", 4, &[("counter", int, 0)]);
    let atomic = b.typedef("atomic_t", live);
    let mut entity = vec![("load", long, 0), ("sum_exec_runtime", long, 64)];
    if era == Era::V6_12 {
        entity.push(("sched_delayed", byte, 136));
    }
    let entity = b.structure("sched_entity", 24, &entity);
    let (state, start) = match era {
        Era::V5_10 => (("state", volatile, 0), ("real_start_time", long, 512)),
        Era::V6_12 => (("__state", int, 192), ("start_boottime", long, 512)),
    };
    let task = [
        state,
        start,
        ("flags", int, 64),
        ("on_cpu", int, 96),
        ("on_rq", int, 128),
        ("se", entity, 256),
        ("exit_code", int, 576),
        ("pid", int, 608),
        ("tgid", int, 640),
        ("signal", pointer, 704),
        ("group_leader", pointer, 768),
        ("real_parent", pointer, 832),
        ("comm", name, 896),
        ("nvcsw", long, 1024),
        ("nivcsw", long, 1088),
        ("thread_pid", pointer, 1152),
    ];
    let task: Vec<_> = task.into_iter().filter(|m| m.0 != leave_out).collect();
    b.structure("task_struct", 152, &task);
    let upid = b.structure("upid", 16, &[("nr", int, 0), ("ns", pointer, 64)]);
    let (level, numbers) = match era {
        Era::V5_10 => (32, b.array(upid, 1)),
        Era::V6_12 => (64, b.array(upid, 0)),
    };
    let pid = [("level", int, level), ("numbers", numbers, 768)];
    b.structure("pid", 112, &pid);
    let signal = [
        ("live", atomic, 32),
        ("flags", int, 64),
        ("group_exit_code", int, 96),
    ];
    let signal: Vec<_> = signal.into_iter().filter(|m| m.0 != leave_out).collect();
    b.structure("signal_struct", 16, &signal);
    match arch {
        Arch::X86_64 => {
            b.structure(
                "pt_regs",
                48,
                &[
                    ("si", long, 0),
                    ("di", long, 64),
                    ("orig_ax", long, 128),
                    ("ip", long, 192),
                    ("r9", long, 256),
                    ("sp", long, 320),
                ],
            );
        }
        Arch::Aarch64 => {
            let regs = b.array(long, 31);
            let user = b.structure("user_pt_regs", 248, &[("regs", regs, 0)]);
            let inner = [("regs", regs, 0), ("sp", long, 1984), ("pc", long, 2048)];
            let inner = b.structure("", 264, &inner);
            let both = b.union("", 248, &[("user_regs", user, 0), ("", inner, 0)]);
            b.structure(
                "pt_regs",
                264,
                &[
                    ("", both, 0),
                    ("orig_x0", long, 1984),
                    ("syscallno", int, 2048),
                ],
            );
        }
    }
    b.bytes()
}

fn resolve(bytes: &[u8], arch: Arch) -> Result<Offsets, OffsetsError> {
    Offsets::resolve(&Btf::parse(bytes).unwrap(), arch)
}

#[test]
fn a_new_kernel_on_x86_64() {
    let offsets = resolve(&kernel(Era::V6_12, Arch::X86_64, ""), Arch::X86_64).unwrap();
    let expected = Offsets {
        task_pid: 76,
        task_tgid: 80,
        task_flags: 8,
        task_state: 24,
        task_start_boottime: 64,
        task_exit_code: 72,
        task_signal: 88,
        task_group_leader: 96,
        task_real_parent: 104,
        task_comm: 112,
        task_sum_exec_runtime: 40,
        task_nvcsw: 128,
        task_nivcsw: 136,
        task_on_cpu: 12,
        task_on_cpu_bytes: 4,
        task_on_rq: 16,
        task_on_rq_bytes: 4,
        task_sched_delayed: Some(49),
        signal_flags: 8,
        signal_group_exit_code: 12,
        signal_live: 4,
        regs_syscall: 16,
        regs_syscall_bytes: 8,
        regs_arg0: 8,
        regs_arg1: 0,
        regs_arg5: 32,
        task_restart_bits: None,
        regs_ip: 24,
        regs_sp: 40,
        task_tls: None,
        ids: Some(IdOffsets {
            task_thread_pid: 144,
            pid_level: 8,
            pid_numbers: 96,
        }),
        sockets: None,
    };
    assert_eq!(offsets, expected);
    let without = kernel(Era::V6_12, Arch::X86_64, "thread_pid");
    assert_eq!(resolve(&without, Arch::X86_64).unwrap().ids, None);
}

#[test]
fn an_old_kernel_on_aarch64() {
    let offsets = resolve(&kernel(Era::V5_10, Arch::Aarch64, ""), Arch::Aarch64).unwrap();
    assert_eq!(offsets.task_state, 0);
    assert_eq!(offsets.task_start_boottime, 64);
    assert_eq!(offsets.task_sched_delayed, None);
    assert_eq!(offsets.ids.map(|ids| ids.pid_level), Some(4));
    assert_eq!((offsets.regs_syscall, offsets.regs_syscall_bytes), (256, 4));
    assert_eq!((offsets.regs_arg0, offsets.regs_arg1), (248, 8));
    assert_eq!(offsets.regs_arg5, 40);
    assert_eq!((offsets.regs_ip, offsets.regs_sp), (256, 248));
}

#[test]
fn what_is_missing_is_named() {
    for (leave_out, message) in [
        ("tgid", "task_struct.tgid: the struct has no such member"),
        (
            "__state",
            "task_struct.__state or state: the struct has no such member",
        ),
        (
            "se",
            "task_struct.se.sum_exec_runtime: the struct has no such member",
        ),
        ("live", "signal_struct.live: the struct has no such member"),
    ] {
        let bytes = kernel(Era::V6_12, Arch::X86_64, leave_out);
        let error = resolve(&bytes, Arch::X86_64).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
    let empty = Builder::new().bytes();
    let error = resolve(&empty, Arch::X86_64).unwrap_err().to_string();
    assert!(
        error.contains("pt_regs.orig_ax: there is no such struct"),
        "{error}"
    );
}

#[test]
fn a_member_of_another_size_is_refused() {
    let mut b = Builder::new();
    let short = b.int("short", 2);
    b.structure("pt_regs", 2, &[("orig_ax", short, 0)]);
    let error = resolve(&b.bytes(), Arch::X86_64).unwrap_err();
    assert!(
        matches!(error, OffsetsError::Size { found: Some(2), .. }),
        "{error}"
    );
}

#[test]
fn files_that_are_none() {
    let error = Offsets::of_file(Path::new("/nowhere/vmlinux"), Arch::X86_64).unwrap_err();
    assert!(matches!(error, OffsetsError::Unreadable { .. }));
    assert!(
        error.to_string().contains("CONFIG_DEBUG_INFO_BTF"),
        "{error}"
    );
    let error = Offsets::of_file(Path::new("/proc/self/status"), Arch::X86_64).unwrap_err();
    assert!(matches!(
        error,
        OffsetsError::Malformed {
            source: BtfError::Magic,
            ..
        }
    ));
}

#[test]
fn of_this_kernel() {
    let Some(arch) = Arch::current().filter(|_| Path::new(VMLINUX).exists()) else {
        eprintln!("SKIPPED of_this_kernel: no {VMLINUX}, or an unknown architecture");
        return;
    };
    let (offsets, arguments) = Offsets::of_file(Path::new(VMLINUX), arch).unwrap();
    let version = super::super::version_of(&super::super::release().unwrap()).unwrap();
    assert_eq!(arguments, Some(if version >= (5, 18) { 5 } else { 4 }));
    assert_eq!(offsets.task_sched_delayed.is_some(), version >= (6, 12));
    // pid_t pid, tgid: neighbours in every kernel.
    assert_eq!(offsets.task_pid + 4, offsets.task_tgid);
}
