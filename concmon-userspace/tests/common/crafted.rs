//! Captures that nobody recorded: short files that ask for much.

use std::collections::BTreeMap;
use std::sync::Arc;

use concmon::event::{
    Event, Fork, HistFact, LedgerFact, LoopKind, Pid, ProcessFact, PyLoop, PyTask, PythonFact,
    PythonInfo, Sample, SampleKind, SampledStack, TaskState, ThreadState, Tick, Tid,
};
use concmon_ebpf::cause;

/// A capture, of which the preamble and the header are taken.
const WHOLE: &[u8] = include_bytes!("../../../tests/captures/1.0.concmon");
const PREAMBLE_BYTES: usize = 16;
const HEAD_BYTES: usize = 28;
const SYNC: [u8; 8] = [0xc7, 0x1e, 0x9d, 0x53, 0xb8, 0x06, 0xf2, 0x6b];
const CHUNK: u16 = 2;
/// Sections of a chunk: operations, and 13 columns of records.
const SECTIONS: u64 = 14;
/// Content of a chunk, before compression.
const CONTENT_BYTES: usize = 1 << 20;
/// Between two made-up instants, ns.
const STEP_NS: u64 = 1_000_000_000;

/// What is made much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Heads of frames within the bodies of frames, none of which is whole.
    NestedHeads,
    /// Chunks of nothing but zeros.
    Zeros,
    /// Chunks of as much as a chunk can say it has.
    HugeChunks,
    /// Operations of a kind that nobody knows.
    Unknown,
    /// One long string, and stacks that name it in every frame.
    OneString,
    /// Different stacks, and samples of each, which wait for their turn.
    HeldStacks,
    /// Facts that claim to wait for their turn.
    HeldFacts,
    /// Batches without a record.
    EmptyBatches,
    /// Nothing but instants up to which all may be passed on.
    Releases,
    /// Nothing but ticks.
    Ticks,
    /// Looks at tasks of which nothing is said.
    Tasks,
    /// Looks at loops and their tasks, many of both.
    Loops,
    /// Accounts with histograms of which nothing is said.
    Histograms,
    /// A thread in each account, and a tick now and then.
    Threads,
    /// A process in each fact.
    Processes,
    /// A name in each fork.
    Names,
    /// CPUs, none of them twice.
    Cpus,
}

impl Shape {
    pub(crate) const ALL: [Shape; 17] = [
        Shape::NestedHeads,
        Shape::Zeros,
        Shape::HugeChunks,
        Shape::Unknown,
        Shape::OneString,
        Shape::HeldStacks,
        Shape::HeldFacts,
        Shape::EmptyBatches,
        Shape::Releases,
        Shape::Ticks,
        Shape::Tasks,
        Shape::Loops,
        Shape::Histograms,
        Shape::Threads,
        Shape::Processes,
        Shape::Names,
        Shape::Cpus,
    ];

    /// A file of this shape, of about so many bytes of content before compression; of nested heads,
    /// of the file.
    pub(crate) fn file(self, bytes: usize) -> Vec<u8> {
        let mut file = beginning().to_vec();
        if self == Shape::NestedHeads {
            nested_heads(&mut file, bytes);
            return file;
        }
        let mut number = 0;
        let mut made = 0;
        let mut at = 0;
        while made < bytes {
            let content = match self {
                Shape::Zeros => vec![0; bytes.min(CONTENT_BYTES)],
                Shape::HugeChunks => content(&vec![0; (16 * bytes).min(30 << 20)]),
                _ => content(&self.operations(&mut at, bytes.min(CONTENT_BYTES))),
            };
            made += content.len();
            number += 1;
            chunk(&mut file, number, &content);
        }
        file
    }

    /// The operations of a chunk, from the `at`th thing on, of so many bytes.
    fn operations(self, at: &mut u64, bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if self == Shape::OneString {
            operation(&mut out, op::STRING, "x".repeat(400_000).as_bytes());
        }
        if matches!(self, Shape::HeldStacks) {
            for text in 0..64 {
                let text = format!("{at}-{text}-{}", "y".repeat(400));
                operation(&mut out, op::STRING, text.as_bytes());
            }
        }
        let mut stacks = 0;
        let begin_ns = start_ns();
        while out.len() < bytes {
            *at += 1;
            let now_ns = begin_ns + *at * STEP_NS;
            match self {
                Shape::NestedHeads | Shape::Zeros | Shape::HugeChunks => {}
                Shape::Unknown => out.extend([99, 0]),
                Shape::OneString => {
                    operation(&mut out, op::STACK, &stack(20_000, |_| [0, 0, 1]));
                }
                Shape::HeldStacks => {
                    let salt = *at;
                    let frames = stack(64, |frame| {
                        [frame % 64, (salt >> (frame % 16)) % 64, salt % 100]
                    });
                    operation(&mut out, op::STACK, &frames);
                    let sample = Sample {
                        at_ns: now_ns,
                        pid: Pid(1),
                        tid: Tid(1),
                        kind: SampleKind::OnCpu,
                        context_version: None,
                        iteration: None,
                        turns: None,
                        creator: None,
                        collecting: false,
                        code: None,
                        coroutine: None,
                        stack: Arc::new(SampledStack::default()),
                    };
                    operation(&mut out, op::SAMPLE, &stored(&sample, stacks));
                    stacks += 1;
                }
                Shape::HeldFacts => {
                    let mut body = vec![0];
                    body.extend(packed(&Event::Python(Arc::new(look(now_ns, 1, 0, 100)))));
                    operation(&mut out, op::ORDERED, &body);
                }
                Shape::EmptyBatches => operation(&mut out, op::BATCH, &[0, 1, 0, 0, 0]),
                Shape::Releases => operation(&mut out, op::RELEASE, &[2]),
                Shape::Ticks => now(&mut out, &tick(now_ns)),
                Shape::Tasks => {
                    now(
                        &mut out,
                        &Event::Python(Arc::new(look(now_ns, 1, 1, 10_000))),
                    );
                    now(&mut out, &tick(now_ns));
                }
                Shape::Loops => {
                    now(&mut out, &Event::Ledger(Box::new(account(now_ns, 1, 1))));
                    now(
                        &mut out,
                        &Event::Python(Arc::new(look(now_ns, 1, 5_000, 5_000))),
                    );
                    now(&mut out, &tick(now_ns));
                }
                Shape::Histograms => {
                    let mut account = account(now_ns, 1, 1);
                    account.off_cpu = vec![HistFact::default(); 100_000];
                    now(&mut out, &Event::Ledger(Box::new(account)));
                }
                Shape::Threads => {
                    now(
                        &mut out,
                        &Event::Ledger(Box::new(account(now_ns, 1, *at as u32))),
                    );
                    if at.is_multiple_of(10_000) {
                        now(&mut out, &tick(now_ns));
                    }
                }
                Shape::Processes => {
                    let fact = ProcessFact {
                        read_ns: now_ns,
                        pid: *at as u32,
                        start_boottime_ns: *at * STEP_NS,
                        ..ProcessFact::default()
                    };
                    now(&mut out, &Event::Process(Box::new(fact)));
                    now(
                        &mut out,
                        &Event::Python(Arc::new(look(now_ns, *at as u32, 1, 1))),
                    );
                    now(
                        &mut out,
                        &Event::Ledger(Box::new(account(now_ns, *at as u32, *at as u32))),
                    );
                    if at.is_multiple_of(10_000) {
                        now(&mut out, &tick(now_ns));
                    }
                }
                Shape::Names => now(
                    &mut out,
                    &Event::Fork(Fork {
                        at_ns: now_ns,
                        parent: Tid(1),
                        pid: Pid(1),
                        tid: Tid(*at as u32),
                        start_boottime_ns: now_ns,
                        comm: format!("{at}-{}", "n".repeat(1_000)),
                    }),
                ),
                Shape::Cpus => {
                    let mut body = Vec::new();
                    put(&mut body, *at);
                    body.extend([1, 0, 0, 0]);
                    operation(&mut out, op::BATCH, &body);
                }
            }
        }
        out
    }
}

mod op {
    pub(super) const BATCH: u8 = 1;
    pub(super) const NOW: u8 = 2;
    pub(super) const ORDERED: u8 = 3;
    pub(super) const RELEASE: u8 = 4;
    pub(super) const SAMPLE: u8 = 5;
    pub(super) const STRING: u8 = 6;
    pub(super) const STACK: u8 = 7;
}

/// The preamble and the frame of the header.
fn beginning() -> &'static [u8] {
    let length = u32::from_le_bytes(*WHOLE[PREAMBLE_BYTES + 16..].first_chunk().expect("a head"));
    &WHOLE[..PREAMBLE_BYTES + HEAD_BYTES + length as usize]
}

fn start_ns() -> u64 {
    let reader = concmon::capture::Reader::embedded(WHOLE).expect("a capture");
    reader.header().info.start_ns
}

/// The head of a frame.
fn head(kind: u16, number: u32, length: u32, body_crc: u32) -> [u8; HEAD_BYTES] {
    let mut bytes = [0; HEAD_BYTES];
    bytes[..8].copy_from_slice(&SYNC);
    bytes[8..10].copy_from_slice(&kind.to_le_bytes());
    bytes[12..16].copy_from_slice(&number.to_le_bytes());
    bytes[16..20].copy_from_slice(&length.to_le_bytes());
    bytes[20..24].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[8..24]);
    bytes[24..].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn nested_heads(file: &mut Vec<u8>, bytes: usize) {
    while file.len() < bytes {
        let length = bytes.saturating_sub(file.len()).min(60 << 20);
        file.extend(head(CHUNK, 1, length as u32, 7));
    }
}

/// Appends a frame with a chunk of this content.
fn chunk(file: &mut Vec<u8>, number: u32, content: &[u8]) {
    let mut body = vec![0; 32];
    let begin_ns = start_ns() + u64::from(number) * 1_000_000;
    body[..8].copy_from_slice(&begin_ns.to_le_bytes());
    body[8..16].copy_from_slice(&(begin_ns + 1).to_le_bytes());
    body[16] = 1;
    body[20..24].copy_from_slice(&(content.len() as u32).to_le_bytes());
    body.extend(zstd::bulk::compress(content, 9).expect("room"));
    let crc = crc32fast::hash(&body);
    file.extend(head(CHUNK, number, body.len() as u32, crc));
    file.extend(body);
}

/// The content of a chunk with these operations, and no records.
fn content(operations: &[u8]) -> Vec<u8> {
    let mut content = Vec::new();
    put(&mut content, SECTIONS);
    put(&mut content, operations.len() as u64);
    content.extend([0; SECTIONS as usize - 1]);
    content.extend_from_slice(operations);
    content
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn operation(out: &mut Vec<u8>, code: u8, body: &[u8]) {
    out.push(code);
    put(out, body.len() as u64);
    out.extend_from_slice(body);
}

/// An event that is applied at once, in as few bytes as can be: without the names of its fields.
fn now(out: &mut Vec<u8>, event: &Event) {
    operation(out, op::NOW, &packed(event));
}

fn packed(event: &Event) -> Vec<u8> {
    rmp_serde::to_vec(event).expect("an event")
}

/// A sample by the number of its stack.
fn stored(sample: &Sample, stack: u64) -> Vec<u8> {
    let fields: BTreeMap<&str, u64> = [
        ("at", sample.at_ns),
        ("pid", sample.pid.0.into()),
        ("tid", sample.tid.0.into()),
        ("stack", stack),
    ]
    .into();
    let mut body = vec![0];
    // A map of five: the kind is no number.
    body.push(0x85);
    body.extend_from_slice(&rmp_serde::to_vec("kind").expect("text"));
    body.extend_from_slice(&rmp_serde::to_vec(&sample.kind).expect("a kind"));
    for (name, value) in fields {
        body.extend_from_slice(&rmp_serde::to_vec(name).expect("text"));
        body.extend_from_slice(&rmp_serde::to_vec(&value).expect("a number"));
    }
    body
}

/// The body of a stack: function, file and line of each frame.
fn stack(frames: u64, frame: impl Fn(u64) -> [u64; 3]) -> Vec<u8> {
    let mut body = vec![0, 0];
    for at in 0..frames {
        for number in frame(at) {
            put(&mut body, number);
        }
    }
    body
}

fn tick(at_ns: u64) -> Event {
    Event::Tick(Tick {
        at_ns,
        unix_ns: at_ns,
    })
}

fn account(read_ns: u64, pid: u32, tid: u32) -> LedgerFact {
    LedgerFact {
        read_ns,
        pid: Pid(pid),
        tid: Tid(tid),
        start_boottime_ns: 0,
        seeded: true,
        folded: false,
        start_ns: 0,
        since_ns: read_ns,
        state: ThreadState::Running,
        sum_exec_ns: 0,
        on_cpu_ns: 0,
        woken_ns: 0,
        preempted_ns: 0,
        stolen_ns: 0,
        unknown_ns: 0,
        unobserved_ns: 0,
        unobserved_run_ns: 0,
        blocked_ns: [0; cause::COUNT],
        voluntary: 0,
        involuntary: 0,
        migrations: 0,
        hists_since_ns: 0,
        wakeup_latency: HistFact::default(),
        slice: HistFact::default(),
        off_cpu: Vec::new(),
    }
}

/// A look at so many loops and tasks, of which nothing is said.
fn look(read_ns: u64, pid: u32, loops: u64, tasks: u64) -> PythonFact {
    let info = PythonInfo {
        implementation: String::new(),
        version: None,
        free_threaded: false,
        supported: true,
        reason: None,
    };
    PythonFact {
        loops: (0..loops)
            .map(|id| PyLoop {
                tid: Tid(1),
                id: id % 128,
                kind: LoopKind::Asyncio,
                ready: None,
                scheduled: None,
                stall_threshold_ns: None,
                debug: None,
                tasks_created: None,
                queue: None,
            })
            .collect(),
        tasks: (0..tasks)
            .map(|id| PyTask {
                id: id % 128,
                loop_id: 0,
                name: String::new(),
                coroutine: String::new(),
                coroutine_id: 0,
                state: TaskState::Pending,
                awaiting: Vec::new(),
                waits_for: None,
                holds: Vec::new(),
                timeout_ns: None,
                in_timeout: false,
                client_port: None,
                hosts: Vec::new(),
                awaited_by: Vec::new(),
                cancel_requested: false,
                exception: None,
                retrieved: None,
                context: [(String::new(), String::new())].into(),
            })
            .collect(),
        ..PythonFact::new(Pid(pid), read_ns, info)
    }
}
