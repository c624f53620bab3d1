//! Tests of the batch decoder: each record kind, damage, random bytes.

use concmon_ebpf::{
    ExecRecord, ExitRecord, ForkRecord, SliceRecord, exit_flags, record_kind, slice_flags,
};

use super::*;
use crate::event::{Cause, Pid, Slice, Tid, Wait};
use crate::testing::Rng;

const PLAIN: SliceRecord = SliceRecord {
    head: RecordHead {
        kind: record_kind::SLICE,
        cause: concmon_ebpf::cause::LOCK,
        flags: 0,
        reserved: 0,
        tid: 11,
        at_ns: 500,
    },
    off_ns: 100,
    wake_ns: 200,
    in_ns: 300,
    on_cpu_ns: 190,
    arg0: 0xfeed,
    waker_tid: 12,
    syscall: 202,
};

/// A head of another kind, at the same instant of the same thread.
const fn head(kind: u8, flags: u8) -> RecordHead {
    RecordHead {
        kind,
        flags,
        ..PLAIN.head
    }
}

/// A slice with these flags.
const fn flagged(flags: u8) -> SliceRecord {
    SliceRecord {
        head: head(record_kind::SLICE, flags),
        ..PLAIN
    }
}

fn header(count: u16) -> BatchHeader {
    BatchHeader {
        version: WIRE_VERSION,
        count,
        cpu: 3,
        produced_before: 40,
        opened_ns: 90,
    }
}

/// What the kernel would put into the buffer: the memory of the wire structs, without padding.
fn wire(header: BatchHeader, records: &[Record]) -> Vec<u8> {
    // SAFETY: the struct is `repr(C)` and, by its asserted size, has no padding.
    let head: [u8; HEADER_BYTES] = unsafe { std::mem::transmute(header) };
    let mut bytes = head.to_vec();
    for record in records {
        // SAFETY: as above.
        bytes.extend(unsafe { std::mem::transmute::<Record, [u8; RECORD_BYTES]>(*record) });
    }
    bytes
}

fn one(record: impl Into<Record>) -> Batch {
    batch(&wire(header(1), &[record.into()])).unwrap()
}

fn slice_of(record: SliceRecord) -> Slice {
    match one(record).events[..] {
        [Event::Slice(slice)] => slice,
        ref other => panic!("{other:?}"),
    }
}

const BLOCKED: u8 = slice_flags::BLOCKED;

#[test]
fn a_slice_after_a_block() {
    let slice = slice_of(flagged(BLOCKED | slice_flags::VOLUNTARY));
    let wait = Wait {
        off_ns: 100,
        wake_ns: Some(200),
        cause: Some(Cause::Lock),
        queue: false,
        arg0: 0xfeed,
        waker: Some(Tid(12)),
    };
    let expected = Slice {
        tid: Tid(11),
        cpu: 3,
        wait: Some(wait),
        in_ns: 300,
        out_ns: 500,
        on_cpu_ns: 190,
        voluntary: true,
    };
    assert_eq!(slice, expected);
}

#[test]
fn a_slice_after_a_preemption_has_no_cause() {
    let slice = slice_of(PLAIN);
    let wait = Wait {
        off_ns: 100,
        wake_ns: None,
        cause: None,
        queue: true,
        arg0: 0,
        waker: None,
    };
    assert_eq!((slice.wait, slice.voluntary), (Some(wait), false));
    assert_eq!(one(PLAIN).events[0].at_ns(), Some(500));
}

#[test]
fn what_a_slice_does_not_know() {
    assert_eq!(slice_of(SliceRecord { off_ns: 0, ..PLAIN }).wait, None);
    let unseen = SliceRecord {
        wake_ns: 0,
        waker_tid: 0,
        syscall: -1,
        ..flagged(BLOCKED)
    };
    let wait = slice_of(unseen).wait.unwrap();
    assert_eq!((wait.wake_ns, wait.waker, wait.queue), (None, None, true));
    assert_eq!(wait.cause, Some(Cause::Lock));
}

/// The kernel side tells; where it did not, the number tells, on the architecture it is of.
#[test]
fn waits_on_queues() {
    let (told, queue) = (slice_flags::TOLD, slice_flags::QUEUE);
    for (flags, syscall, arch, expected) in [
        (told | queue, 202, None, true),
        (told, 232, Some(Arch::X86_64), false),
        (told, -1, None, true),
        (0, 232, Some(Arch::X86_64), true),
        (0, 232, Some(Arch::Aarch64), false),
        (0, 22, Some(Arch::Aarch64), true),
        (0, 202, None, true),
        (0, -1, Some(Arch::X86_64), true),
    ] {
        let record = SliceRecord {
            syscall,
            ..flagged(BLOCKED | flags)
        };
        let bytes = wire(header(1), &[record.into()]);
        let batch = RawBatch::parse(&bytes).unwrap().decode(arch);
        let [Event::Slice(slice)] = batch.events[..] else {
            panic!("{:?}", batch.events);
        };
        assert_eq!(slice.wait.unwrap().queue, expected, "{flags} {syscall}");
    }
}

#[test]
fn a_wakeup_outside_of_its_wait_is_moved_to_its_edge() {
    for (wake, expected) in [(99, 100), (301, 300), (100, 100), (300, 300)] {
        let slice = slice_of(SliceRecord {
            wake_ns: wake,
            ..flagged(BLOCKED)
        });
        assert_eq!(slice.wait.unwrap().wake_ns, Some(expected));
    }
}

#[test]
fn forks_execs_exits() {
    let name = |text: &[u8; 16]| {
        let half = |i: usize| u64::from_le_bytes(text[i..i + 8].try_into().unwrap());
        [half(0), half(8)]
    };
    let fork = ForkRecord {
        head: head(record_kind::FORK, 0),
        start_boottime_ns: 77,
        comm: name(b"exactly sixteen!"),
        parent_tid: 12,
        tgid: 10,
        ..ForkRecord::default()
    };
    let exec = ExecRecord {
        head: head(record_kind::EXEC, 0),
        comm: name(b"nam\xff\0rubbish\0\0\0\0"),
        tgid: 10,
        ..ExecRecord::default()
    };
    let exit = ExitRecord {
        head: head(record_kind::EXIT, exit_flags::LAST | exit_flags::GROUP),
        start_boottime_ns: 77,
        status: 0x8b,
        tgid: 10,
        ..ExitRecord::default()
    };
    let records = [fork.into(), exec.into(), exit.into()];
    let batch = batch(&wire(header(3), &records)).unwrap();
    let [Event::Fork(fork), Event::Exec(exec), Event::Exit(exit)] = &batch.events[..] else {
        panic!("{:?}", batch.events);
    };
    assert_eq!(fork.comm, "exactly sixteen!");
    assert_eq!(
        (fork.pid, fork.tid, fork.parent),
        (Pid(10), Tid(11), Tid(12))
    );
    assert_eq!((fork.at_ns, fork.start_boottime_ns), (500, 77));
    assert_eq!(
        (exec.comm.as_str(), exec.pid, exec.at_ns),
        ("nam\u{fffd}", Pid(10), 500)
    );
    assert_eq!((exit.pid, exit.tid, exit.status), (Pid(10), Tid(11), 0x8b));
    assert_eq!(
        (exit.last, exit.group, exit.start_boottime_ns),
        (true, true, 77)
    );
}

#[test]
fn bad_records_are_counted_and_their_neighbours_kept() {
    let exit = ExitRecord {
        head: head(record_kind::EXIT, 0),
        tgid: 10,
        ..ExitRecord::default()
    };
    let fork = ForkRecord {
        head: head(record_kind::FORK, 0),
        ..ForkRecord::default()
    };
    let with = |head: RecordHead| -> Record { SliceRecord { head, ..PLAIN }.into() };
    for (record, unknown, invalid) in [
        (with(head(0, 0)), 1, 0),
        (
            with(RecordHead {
                tid: 0,
                ..head(5, 0)
            }),
            1,
            0,
        ),
        (
            with(RecordHead {
                tid: 0,
                ..PLAIN.head
            }),
            0,
            1,
        ),
        (
            with(RecordHead {
                cause: concmon_ebpf::cause::COUNT as u8,
                ..flagged(BLOCKED).head
            }),
            0,
            1,
        ),
        (
            SliceRecord {
                off_ns: 301,
                ..PLAIN
            }
            .into(),
            0,
            1,
        ),
        (
            SliceRecord {
                in_ns: 501,
                ..PLAIN
            }
            .into(),
            0,
            1,
        ),
        (
            ExitRecord {
                status: 1 << 32,
                ..exit
            }
            .into(),
            0,
            1,
        ),
        (ExitRecord { tgid: -1, ..exit }.into(), 0, 1),
        (fork.into(), 0, 1),
    ] {
        let batch = batch(&wire(header(3), &[PLAIN.into(), record, exit.into()])).unwrap();
        assert_eq!(
            (batch.unknown, batch.invalid),
            (unknown, invalid),
            "{record:?}"
        );
        assert!(matches!(
            batch.events[..],
            [Event::Slice(_), Event::Exit(_)]
        ));
    }
}

#[test]
fn headers() {
    let plain = Record::from(PLAIN);
    let late = Record {
        head: RecordHead {
            at_ns: 900,
            ..plain.head
        },
        ..plain
    };
    let mut bytes = wire(header(3), &[plain, late, plain]);
    bytes.extend([0xee; 4]);
    let whole = batch(&bytes).unwrap();
    assert_eq!((whole.header, whole.last_ns), (header(3), 900));
    assert_eq!(whole.events.len(), 3);
    let empty = batch(&wire(header(0), &[])).unwrap();
    assert_eq!((empty.events.len(), empty.last_ns), (0, 90));

    let full = vec![plain; BATCH_RECORDS];
    assert_eq!(
        batch(&wire(header(BATCH_RECORDS as u16), &full))
            .unwrap()
            .events
            .len(),
        BATCH_RECORDS
    );

    let error = |bytes: &[u8]| batch(bytes).unwrap_err();
    assert_eq!(error(&[]), DecodeError::Header(0));
    assert_eq!(error(&bytes[..23]), DecodeError::Header(23));
    let cut = 24 + 3 * 64 - 1;
    assert_eq!(
        error(&bytes[..cut]),
        DecodeError::Truncated {
            count: 3,
            bytes: cut
        }
    );
    let many = vec![plain; BATCH_RECORDS + 1];
    assert_eq!(
        error(&wire(header(BATCH_RECORDS as u16 + 1), &many)),
        DecodeError::Count(BATCH_RECORDS as u16 + 1)
    );
    let other = BatchHeader {
        version: WIRE_VERSION + 1,
        ..header(0)
    };
    assert_eq!(
        error(&wire(other, &[])),
        DecodeError::Version(WIRE_VERSION + 1)
    );
}

/// Every record of a batch that decodes is an event, unknown or invalid; and what a slice
/// promises its users holds for random bytes too.
#[test]
fn random_bytes() {
    let mut rng = Rng::new(3);
    let mut slices = 0;
    for round in 0..20_000 {
        let count = rng.below(6) as u16;
        let mut bytes = wire(header(count), &vec![PLAIN.into(); count.into()]);
        // From a flipped byte here and there to nothing but noise.
        let hits = match round % 3 {
            0 => bytes.len(),
            1 => 4,
            _ => 40,
        };
        for _ in 0..hits {
            let at = rng.below(bytes.len());
            // Small numbers make known kinds and causes likely.
            bytes[at] = (rng.next() >> rng.below(64)) as u8;
        }
        bytes.truncate(bytes.len() - rng.below(8).min(bytes.len()));
        let Ok(batch) = batch(&bytes) else { continue };
        let records = batch.events.len() as u64 + batch.unknown + batch.invalid;
        assert_eq!(records, u64::from(batch.header.count));
        for event in &batch.events {
            if let Event::Slice(slice) = event {
                slices += 1;
                assert!(slice.in_ns <= slice.out_ns && slice.out_ns <= batch.last_ns);
                if let Some(wait) = slice.wait {
                    assert!(wait.off_ns <= slice.in_ns);
                    let wake = wait.wake_ns.unwrap_or(wait.off_ns);
                    assert!((wait.off_ns..=slice.in_ns).contains(&wake));
                }
            }
        }
    }
    assert!(slices > 1000, "only {slices} slices got through");
}
