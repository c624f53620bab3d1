//! The kernel programs that run by themselves: on tracepoints, and by the clock.

use std::{io::Read as _, os::fd::AsRawFd as _};

use aya::{
    Btf, Ebpf,
    programs::{
        BtfTracePoint, Iter, PerfEvent as Clock,
        perf_event::{
            PerfEventConfig, PerfEventLinkId, PerfEventScope, SamplePolicy, SoftwareEvent,
        },
        tp_btf::BtfTracePointLinkId,
    },
    util::online_cpus,
};

use crate::source::{
    error::{LiveError, failed, failing, permission_or},
    object::program,
};

/// Ticks per second and CPU that look for old batches.
const TICKS_PER_SECOND: u64 = 5;
/// Attached in this order: births first, so that no thread of a watched process is missed.
const LIVES: [&str; 3] = [
    "sched_process_fork",
    "sched_process_exec",
    "sched_process_exit",
];
/// Those that everybody pays for, who is watched or not.
const SWITCHES: [&str; 2] = ["sched_waking", "sched_switch"];
/// The low-rate clock, and the one that samples.
const TICK: &str = "tick";
const SAMPLE: &str = "sample";
/// Programs that walk all tasks.
pub(super) const SEED: &str = "seed";
pub(super) const SELF_TEST: &str = "self_test";

/// Whether a program is taken away where switches are not told.
pub(super) fn is_of_switches(name: &str) -> bool {
    SWITCHES.contains(&name) || name == SAMPLE
}

/// Loads all of them.
pub(super) fn load(ebpf: &mut Ebpf, btf: &Btf) -> Result<(), LiveError> {
    for name in LIVES.into_iter().chain(SWITCHES) {
        let hook: &mut BtfTracePoint = program(ebpf, name)?;
        hook.load(name, btf)
            .map_err(|error| permission_or(&error))?;
    }
    for name in [SEED, SELF_TEST] {
        let walk: &mut Iter = program(ebpf, name)?;
        walk.load("task", btf)
            .map_err(|error| permission_or(&error))?;
    }
    for name in [TICK, SAMPLE] {
        let clock: &mut Clock = program(ebpf, name)?;
        clock.load().map_err(|error| permission_or(&error))?;
    }
    Ok(())
}

/// Attaches the hooks, and the clock that looks for old batches.
pub(super) fn attach(ebpf: &mut Ebpf) -> Result<Links, LiveError> {
    for name in LIVES {
        let hook: &mut BtfTracePoint = program(ebpf, name)?;
        hook.attach().map_err(|error| permission_or(&error))?;
    }
    let switches = attach_switches(ebpf)?;
    attach_clock(ebpf, TICK, TICKS_PER_SECOND)?;
    Ok(switches)
}

/// Where hooks are attached, of those that are taken away and put back.
pub(super) type Links = Vec<(&'static str, BtfTracePointLinkId)>;

/// Attaches those that tell of switches.
pub(super) fn attach_switches(ebpf: &mut Ebpf) -> Result<Links, LiveError> {
    attach_each(ebpf, &SWITCHES)
}

/// Attaches hooks in this order: all of them, or none, for half of them would tell half.
pub(super) fn attach_each(ebpf: &mut Ebpf, names: &[&'static str]) -> Result<Links, LiveError> {
    let mut links = Links::new();
    for &name in names {
        let attached = program::<BtfTracePoint>(ebpf, name)
            .and_then(|hook| hook.attach().map_err(|error| permission_or(&error)));
        match attached {
            Ok(link) => links.push((name, link)),
            Err(error) => {
                detach_each(ebpf, links)?;
                return Err(error);
            }
        }
    }
    Ok(links)
}

/// Takes them away, the last one first: a switch that is still told has had its wakeup told. All are tried; the first error
/// is given.
pub(super) fn detach_each(ebpf: &mut Ebpf, links: Links) -> Result<(), LiveError> {
    let mut done = Ok(());
    for (name, link) in links.into_iter().rev() {
        let detached = program::<BtfTracePoint>(ebpf, name)
            .and_then(|hook| hook.detach(link).map_err(failing!("detaching a hook")));
        done = done.and(detached);
    }
    done
}

/// From now on, so many samples per second and CPU; 0: none. `links` are the clocks that sample.
pub(super) fn set_sample_rate(
    ebpf: &mut Ebpf,
    links: &mut Vec<PerfEventLinkId>,
    rate: u32,
) -> Result<(), LiveError> {
    let clock: &mut Clock = program(ebpf, SAMPLE)?;
    for link in links.drain(..) {
        clock.detach(link).map_err(failing!("detaching a clock"))?;
    }
    *links = attach_clock(ebpf, SAMPLE, u64::from(rate))?;
    Ok(())
}

/// Has a program run `rate` times a second on each CPU; 0: never.
fn attach_clock(
    ebpf: &mut Ebpf,
    name: &'static str,
    rate: u64,
) -> Result<Vec<PerfEventLinkId>, LiveError> {
    let Some(period_ns) = 1_000_000_000u64.checked_div(rate) else {
        return Ok(Vec::new());
    };
    let cpus = online_cpus().map_err(|(_, error)| failed("listing CPUs")(&error))?;
    let clock: &mut Clock = program(ebpf, name)?;
    cpus.iter()
        .map(|cpu| {
            clock
                .attach(
                    PerfEventConfig::Software(SoftwareEvent::CpuClock),
                    PerfEventScope::AllProcessesOneCpu { cpu: *cpu },
                    SamplePolicy::Period(period_ns),
                    false,
                )
                .map_err(|error| permission_or(&error))
        })
        .collect()
}

/// Takes hooks and clocks away.
pub(super) fn detach(ebpf: &mut Ebpf) {
    for name in LIVES.into_iter().chain(SWITCHES) {
        if let Ok(hook) = program::<BtfTracePoint>(ebpf, name) {
            let _ = hook.unload();
        }
    }
    for name in [TICK, SAMPLE] {
        if let Ok(clock) = program::<Clock>(ebpf, name) {
            let _ = clock.unload();
        }
    }
}

/// Walks all tasks with the program `name`; returns the descriptor it was read by.
pub(super) fn walk_tasks(ebpf: &mut Ebpf, name: &'static str) -> Result<i32, LiveError> {
    let walk: &mut Iter = program(ebpf, name)?;
    let link = walk.attach().map_err(|error| permission_or(&error))?;
    let link = walk
        .take_link(link)
        .map_err(failing!("attaching an iterator"))?;
    let mut file = link.into_file().map_err(failing!("opening an iterator"))?;
    let fd = file.as_raw_fd();
    let mut output = [0; 64];
    while file
        .read(&mut output)
        .map_err(failing!("walking the tasks"))?
        != 0
    {}
    Ok(fd)
}
