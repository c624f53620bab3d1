//! Captures of made-up watches: written, read back, cut, damaged.

use std::{
    borrow::Cow,
    io::{Read as _, Seek as _},
    sync::Arc,
};

use concmon_ebpf::{BatchHeader, Record, RecordHead, SliceRecord, WIRE_VERSION, record_kind};

use super::*;
use crate::{
    event::{Pid, PyFrame, Sample, SampleKind, SampledStack, Tick, Tid},
    model::WatchInfo,
    testing::Rng,
};

const START_NS: u64 = 5_000_000_000;

pub(super) fn header() -> Header {
    Header {
        info: WatchInfo {
            version: Cow::Borrowed("0.0.0"),
            start_ns: START_NS,
            start_unix_ns: 1_700_000_000_000_000_000,
            start_boottime_ns: START_NS,
            targets: vec![Pid(7)],
            stall_threshold_ns: None,
            knows_causes: true,
            place: crate::event::PlaceFact::default(),
            http: Default::default(),
        },
        wire: WIRE_VERSION,
        architecture: std::env::consts::ARCH.to_owned(),
        host: "host".to_owned(),
        kernel: "6.0".to_owned(),
        command: vec!["record".to_owned()],
        filters: Filters::default(),
        joins: false,
        reason: None,
        flight: None,
    }
}

/// Inputs as a watch has them: batches of slices, samples, releases, ticks.
fn inputs(rng: &mut Rng, count: usize) -> Vec<Input> {
    let stacks: Vec<Arc<SampledStack>> = (0..5)
        .map(|stack| {
            Arc::new(SampledStack {
                frames: (0..rng.below(6))
                    .map(|frame| PyFrame {
                        function: format!("f{}", frame * stack).into(),
                        file: "app.py".into(),
                        line: rng.below(100) as u32,
                    })
                    .collect(),
                step_frames: 0,
                in_loop: rng.below(2) == 0,
                truncated: rng.below(2) == 0,
            })
        })
        .collect();
    let mut now_ns = START_NS;
    let mut produced = [0; 3];
    let mut inputs = Vec::new();
    for _ in 0..count {
        now_ns += rng.below(100_000_000) as u64;
        let cpu = rng.below(3) as u32;
        inputs.push(match rng.below(8) {
            0..4 => {
                let records: Vec<Record> = (0..rng.below(30) as u64)
                    .map(|at| {
                        let in_ns = now_ns + at * 1_000_000;
                        let slice = SliceRecord {
                            head: RecordHead {
                                kind: record_kind::SLICE,
                                cause: rng.below(9) as u8,
                                flags: rng.below(4) as u8,
                                reserved: 0,
                                tid: 7 + rng.below(4) as u32,
                                at_ns: in_ns + rng.below(900_000) as u64,
                            },
                            off_ns: in_ns - rng.below(900_000) as u64,
                            wake_ns: in_ns.saturating_sub(rng.below(1_000) as u64),
                            in_ns,
                            on_cpu_ns: rng.below(900_000) as u64,
                            arg0: rng.below(2) as u64,
                            waker_tid: 7,
                            syscall: 202,
                        };
                        slice.into()
                    })
                    .collect();
                let produced_before = produced[cpu as usize];
                produced[cpu as usize] += records.len() as u64;
                Input::Batch(RawBatch {
                    header: BatchHeader {
                        version: WIRE_VERSION,
                        count: records.len() as u16,
                        cpu,
                        produced_before,
                        opened_ns: now_ns,
                    },
                    records,
                })
            }
            4 => Input::Ordered {
                cpu,
                event: Event::Sample(Box::new(Sample {
                    at_ns: now_ns,
                    pid: Pid(7),
                    tid: Tid(7),
                    kind: SampleKind::OnCpu,
                    context_version: (rng.below(2) == 0).then_some(9),
                    iteration: None,
                    turns: None,
                    creator: None,
                    collecting: false,
                    code: None,
                    coroutine: None,
                    stack: Arc::clone(&stacks[rng.below(5)]),
                })),
            },
            5 => Input::Release { until_ns: now_ns },
            6 => Input::Ordered {
                cpu,
                event: Event::Exit(crate::event::Exit {
                    at_ns: now_ns,
                    pid: Pid(7),
                    tid: Tid(9),
                    start_boottime_ns: 3,
                    status: 9,
                    last: true,
                    group: false,
                }),
            },
            _ => Input::Now(Event::Tick(Tick {
                at_ns: now_ns,
                unix_ns: now_ns,
            })),
        });
    }
    inputs
}

/// A capture file of these inputs, which arrive 10 ms apart.
fn written(inputs: &[Input], end: bool) -> Vec<u8> {
    let mut file = tempfile::tempfile().expect("a file");
    let store = FileStore::new(file.try_clone().expect("a descriptor"));
    let mut recorder = Recorder::new(Box::new(store), &header());
    let mut now_ns = START_NS;
    for input in inputs {
        now_ns += 10_000_000;
        recorder.now(now_ns);
        if matches!(input, Input::Now(_)) {
            recorder.key(now_ns);
        }
        recorder.input(input);
    }
    if end {
        recorder.finish().expect("a whole recording");
    }
    let mut bytes = Vec::new();
    file.rewind().expect("a file");
    file.read_to_end(&mut bytes).expect("a file");
    bytes
}

/// What was read: the inputs, the gaps, whether it ended whole.
struct Found {
    inputs: Vec<String>,
    gaps: Vec<Gap>,
    whole: bool,
}

fn read(bytes: &[u8]) -> Result<Found, CaptureError> {
    let mut reader = Reader::new(bytes)?;
    let mut found = Found {
        inputs: Vec::new(),
        gaps: Vec::new(),
        whole: false,
    };
    while let Some(item) = reader.item()? {
        match item {
            Item::Chunk(chunk) => {
                let inputs = chunk.inputs().expect("sections");
                for input in inputs {
                    found.inputs.push(format!("{:?}", input.expect("an input")));
                }
            }
            Item::Gap(gap) => found.gaps.push(gap),
            Item::End => found.whole = true,
        }
    }
    Ok(found)
}

fn shown(inputs: &[Input]) -> Vec<String> {
    inputs.iter().map(|input| format!("{input:?}")).collect()
}

#[test]
fn what_is_written_is_read() {
    let mut rng = Rng::new(1);
    for count in [0, 1, 7, 300] {
        let inputs = inputs(&mut rng, count);
        let found = read(&written(&inputs, true)).expect("a capture");
        assert_eq!(found.inputs, shown(&inputs));
        assert!(found.whole && found.gaps.is_empty());
    }
}

#[test]
fn what_is_not_ended_breaks_off() {
    let inputs = inputs(&mut Rng::new(2), 200);
    let found = read(&written(&inputs, false)).expect("a capture");
    let all = shown(&inputs);
    assert!(!found.whole && found.gaps.len() == 1);
    assert_eq!(found.gaps[0].to_ns, None);
    assert_eq!(found.inputs, all[..found.inputs.len()]);
    // What arrived in the last 400 ms was not written yet.
    assert!(all.len() - found.inputs.len() <= 41, "{}", all.len());
}

/// A file that is cut anywhere is read up to its last whole frame.
#[test]
fn cut_anywhere() {
    let mut rng = Rng::new(3);
    let inputs = inputs(&mut rng, 300);
    let (bytes, all) = (written(&inputs, true), shown(&inputs));
    let mut lengths = Vec::new();
    for _ in 0..1_000 {
        let length = rng.below(bytes.len());
        let Ok(found) = read(&bytes[..length]) else {
            // The header is not there yet.
            assert!(length < 600, "{length}");
            continue;
        };
        assert!(!found.whole);
        assert_eq!(found.gaps.last().and_then(|gap| gap.to_ns), None);
        assert_eq!(found.inputs, all[..found.inputs.len()]);
        lengths.push((length, found.inputs.len()));
    }
    lengths.sort_unstable();
    assert!(lengths.is_sorted_by_key(|(_, inputs)| *inputs));
    assert!(lengths.last().is_some_and(|last| last.1 > 200));
}

/// The contents of all chunks, and whether the file claims to be whole.
fn contents(bytes: &[u8]) -> Result<(Vec<Vec<u8>>, bool), CaptureError> {
    let mut reader = Reader::new(bytes)?;
    let (mut contents, mut whole) = (Vec::new(), true);
    while let Some(item) = reader.item()? {
        match item {
            Item::Chunk(chunk) => contents.push(chunk.content().to_vec()),
            Item::Gap(_) => whole = false,
            Item::End => {}
        }
    }
    Ok((contents, whole))
}

/// Whatever bits are flipped, what is read was written, and what is missing is told.
#[test]
fn bits_flipped() {
    let mut rng = Rng::new(4);
    let bytes = written(&inputs(&mut rng, 60), true);
    let (all, whole) = contents(&bytes).expect("a capture");
    assert!(whole && all.len() > 5);
    let mut refused = 0;
    for _ in 0..10_000 {
        let mut damaged = bytes.clone();
        let bit = rng.below(8 * bytes.len());
        damaged[bit / 8] ^= 1 << (bit % 8);
        let Ok((found, whole)) = contents(&damaged) else {
            assert!(bit / 8 < 600, "{bit}");
            refused += 1;
            continue;
        };
        let mut rest = all.iter();
        let written = |content: &Vec<u8>| rest.any(|one| one == content);
        assert!(
            found.iter().all(written),
            "{bit}: what was read was not written"
        );
        // In the minor version and the reserved bytes of the preamble nothing can be damaged.
        assert_eq!(whole, bit / 8 < format::PREAMBLE_BYTES, "{bit}");
    }
    assert!(refused < 3_000, "{refused}");
}

/// A part that is taken out of the middle costs what was in it.
#[test]
fn a_missing_chunk_is_a_gap_in_time() {
    let inputs = inputs(&mut Rng::new(5), 300);
    let bytes = written(&inputs, true);
    let marks: Vec<usize> = bytes
        .windows(8)
        .enumerate()
        .filter(|(_, window)| *window == format::SYNC)
        .map(|(at, _)| at)
        .collect();
    let (from, to) = (marks[3], marks[5]);
    let rest = [&bytes[..from], &bytes[to..]].concat();
    let found = read(&rest).expect("a capture");
    assert!(found.whole);
    let [gap] = found.gaps[..] else {
        panic!("{:?}", found.gaps);
    };
    assert_eq!((gap.frames, gap.bytes), (2, 0));
    let to_ns = gap.to_ns.expect("a chunk behind it");
    assert!(to_ns > gap.from_ns && to_ns - gap.from_ns <= 900_000_000);
}

#[test]
fn what_is_no_capture_is_refused() {
    let bytes = written(&[], true);
    let refused = |bytes: &[u8]| match read(bytes) {
        Ok(_) => panic!("it was read"),
        Err(error) => error.to_string(),
    };
    assert_eq!(refused(b""), "the file is empty");
    assert!(refused(b"hello, world, this is text").starts_with("it is no capture"));
    let mut newer = bytes.clone();
    newer[8] = 2;
    assert!(refused(&newer).starts_with("it is a capture of format 2.0"));
    let mut damaged = bytes.clone();
    damaged[60] ^= 1;
    assert!(refused(&damaged).starts_with("its header is damaged"));
}

/// What claims to be long is bounded before anything is allocated.
#[test]
fn a_bomb_is_refused() {
    let raw = vec![0; 200 << 20];
    let body = [
        ChunkHead {
            raw_bytes: 1_000,
            ..ChunkHead::default()
        }
        .bytes()
        .to_vec(),
        zstd::bulk::compress(&raw, 1).expect("room"),
    ]
    .concat();
    assert!(Chunk::parse(&body).is_err());
    let far = ChunkHead {
        raw_bytes: u32::MAX,
        ..ChunkHead::default()
    };
    assert!(Chunk::parse(&far.bytes()).is_err());
}

/// Noise as the content of a chunk with a right checksum gives inputs or an error.
#[test]
fn noise_gives_no_panic() {
    let mut rng = Rng::new(6);
    let mut encoder = Encoder::default();
    for input in inputs(&mut rng, 60) {
        encoder.put(&input);
    }
    let sealed = encoder.seal(0, 1, false);
    let compressed = &sealed.body[ChunkHead::BYTES..];
    let raw = zstd::bulk::decompress(compressed, sealed.head.raw_bytes as usize).expect("content");
    for _ in 0..3_000 {
        let mut noise = raw.clone();
        for _ in 0..=rng.below(6) {
            let at = rng.below(noise.len());
            noise[at] = rng.next() as u8;
        }
        noise.truncate(1 + rng.below(noise.len()));
        let chunk = chunk_of(&noise).expect("a chunk");
        if let Ok(inputs) = chunk.inputs() {
            let _ = inputs.count();
        }
    }
}

/// What compresses better than a reader believes is written so that it does.
#[test]
fn equal_inputs_are_believed() {
    let mut encoder = Encoder::default();
    let release = Input::Release { until_ns: START_NS };
    for _ in 0..300_000 {
        encoder.put(&release);
    }
    let sealed = encoder.seal(0, 1, false);
    let chunk = Chunk::parse(&sealed.body).expect("a chunk");
    assert_eq!(chunk.inputs().expect("sections").count(), 300_000);
    // The same without what fills it up.
    let raw = chunk.content();
    let compressed = zstd::bulk::compress(raw, 3).expect("room");
    let short = [&sealed.head.bytes()[..], &compressed].concat();
    assert!(short.len() < sealed.body.len() && Chunk::parse(&short).is_err());
}

/// Heads within bodies, each of which claims what is behind it, hide nothing.
#[test]
fn nested_heads_hide_nothing() {
    let inputs = inputs(&mut Rng::new(8), 200);
    let whole = written(&inputs, true);
    let mut marks = memchr::memmem::find_iter(&whole, &format::SYNC);
    let at = marks.nth(1).expect("a chunk");
    let mut bytes = whole[..at].to_vec();
    let nested = 20_000;
    for _ in 0..nested {
        let head = format::Head {
            kind: format::frame::CHUNK,
            number: 1,
            length: 1_000,
            body_crc: 1,
        };
        bytes.extend(head.bytes());
    }
    bytes.extend_from_slice(&whole[at..]);
    let found = read(&bytes).expect("a capture");
    assert_eq!(found.inputs, shown(&inputs));
    let [gap] = found.gaps[..] else {
        panic!("{:?}", found.gaps);
    };
    assert_eq!(gap.bytes, nested * format::HEAD_BYTES as u64);
}
