//! Records of the kernel programs to events.

use concmon_ebpf::{
    ExecRecord, ExitRecord, ForkRecord, Record, SliceRecord, Tagged, exit_flags, slice_flags,
};

use crate::{
    event::{Cause, Event, Exec, Exit, Fork, Pid, Slice, Tid, Wait},
    kernel::{Arch, syscalls},
};

/// Why a record gives no event.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Skip {
    Unknown,
    Invalid,
}

/// `arch`: the processor architecture of the host that the record is of, where that is known.
pub(super) fn event(record: &Record, cpu: u32, arch: Option<Arch>) -> Result<Event, Skip> {
    let tagged = record.tagged().ok_or(Skip::Unknown)?;
    // Thread 0 is the idle one of each CPU, which nobody watches.
    if record.head.tid == 0 {
        return Err(Skip::Invalid);
    }
    let event = match tagged {
        Tagged::Slice(record) => slice(&record, cpu, arch).map(Event::Slice),
        Tagged::Fork(record) => fork(&record).map(Event::Fork),
        Tagged::Exec(record) => exec(&record).map(Event::Exec),
        Tagged::Exit(record) => exit(&record).map(Event::Exit),
    };
    event.ok_or(Skip::Invalid)
}

/// `None` for a slice whose instants do not follow one another, or of an unknown cause.
fn slice(record: &SliceRecord, cpu: u32, arch: Option<Arch>) -> Option<Slice> {
    let (off_ns, in_ns, out_ns) = (record.off_ns, record.in_ns, record.head.at_ns);
    if off_ns > in_ns || in_ns > out_ns {
        return None;
    }
    let has = |flag| record.head.flags & flag != 0;
    let blocked = has(slice_flags::BLOCKED);
    let cause = match blocked {
        true => Some(Cause::from_wire(record.head.cause)?),
        false => None,
    };
    let waker = Some(record.waker_tid).filter(|tid| blocked && *tid != 0);
    let wait = Wait {
        off_ns,
        // A waker on another CPU takes its time before the sleeper has taken its own, at times.
        wake_ns: Some(record.wake_ns)
            .filter(|wake| blocked && *wake != 0)
            .map(|wake| wake.clamp(off_ns, in_ns)),
        cause,
        queue: u32::try_from(record.syscall)
            .ok()
            .filter(|_| blocked)
            .is_none_or(|number| match has(slice_flags::TOLD) {
                true => has(slice_flags::QUEUE),
                // Records of earlier versions.
                false => arch.is_none_or(|arch| syscalls::waits_on_queue(arch, number)),
            }),
        arg0: if blocked { record.arg0 } else { 0 },
        waker: waker.map(Tid),
    };
    Some(Slice {
        tid: Tid(record.head.tid),
        cpu,
        wait: Some(wait).filter(|_| off_ns != 0),
        in_ns,
        out_ns,
        on_cpu_ns: record.on_cpu_ns,
        voluntary: has(slice_flags::VOLUNTARY),
    })
}

fn fork(record: &ForkRecord) -> Option<Fork> {
    Some(Fork {
        at_ns: record.head.at_ns,
        parent: Tid(record.parent_tid),
        pid: process(record.tgid)?,
        tid: Tid(record.head.tid),
        start_boottime_ns: record.start_boottime_ns,
        comm: comm(record.comm),
    })
}

fn exec(record: &ExecRecord) -> Option<Exec> {
    Some(Exec {
        at_ns: record.head.at_ns,
        pid: process(record.tgid)?,
        comm: comm(record.comm),
    })
}

fn exit(record: &ExitRecord) -> Option<Exit> {
    let has = |flag| record.head.flags & flag != 0;
    Some(Exit {
        at_ns: record.head.at_ns,
        pid: process(record.tgid)?,
        tid: Tid(record.head.tid),
        start_boottime_ns: record.start_boottime_ns,
        status: u32::try_from(record.status).ok()?,
        last: has(exit_flags::LAST),
        group: has(exit_flags::GROUP),
    })
}

fn process(tgid: i32) -> Option<Pid> {
    u32::try_from(tgid).ok().filter(|pid| *pid != 0).map(Pid)
}

/// A thread's name as the kernel has it: 16 bytes, up to the first NUL, in no known encoding.
fn comm(words: [u64; 2]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
