//! What kernel programs need to walk Python stacks by themselves, and what their samples mean.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use concmon_ebpf::{FRAME_BYTES, NO_OFFSET, Python, SampleFrame, SampleHead, sample_flags};

use super::interpreter::{Interpreter, ScanOptions};
use super::layout::{
    CollectorPlace, FrameRoot, GeneratorFrame, InstructionShape, Instructions, IntegerShape,
    Layout, WalkLayout,
};
use super::memory::{Batch, at, plausible, word};
use super::objects::object::Reader;
use super::walk::chain::Link;
use super::walk::contexts;
use super::walk::loops;
use super::walk::task_heads;
use super::walk::thread_states::{self, ThreadRecord};
use super::walk::timers;
use super::walk::trio;
use crate::decode::samples::RawSample;
use crate::event::{
    CodeKind, Iteration, Pid, PyFrame, Sample, SampledStack, StepFact, StepTask, Tid,
};
use crate::procfs::maps::{self, Mapping};

/// How far below and above a thread's TLS base its thread state may be noted: static TLS lies
/// below, the C library's own thread structure with the values of thread-specific keys above it.
const TLS_BELOW: u64 = 4096;
const TLS_ABOVE: u64 = 1536;
/// Where glibc keeps the first values of thread-specific keys (`specific_1stblock` of `struct
/// pthread` in nptl/descr.h of 2.36 and 2.43); only a preference, each offset is verified.
const KEYS: std::ops::Range<i64> = 784..1312;
/// Threads whose TLS is searched in one go.
const MAX_THREADS: usize = 16;
/// In how many scans the state of one thread is found in its TLS: what lies there by chance changes.
const SEARCHES: u8 = 3;
/// Local variables of `_run_once` that tell about its turn (Lib/asyncio/base_events.py).
const TURN_LOCALS: [&str; 3] = ["end_time", "i", "ntodo"];
/// Local variables of a function, at most.
const MAX_LOCALS: u64 = 256;
/// Stacks that are kept by their addresses, until the next scan.
const MAX_STACKS: usize = 4_096;
/// What one batch of samples may read, bytes.
const RESOLVE_BYTES: usize = 8 << 20;
/// What one look at a step may read, bytes.
const STEP_BYTES: usize = 1 << 20;

/// What is known for sampling the stacks of an interpreter.
#[derive(Debug, Default)]
pub(super) struct Unwinder {
    /// Distances from a thread's TLS base at which every thread so far had its thread state.
    tls: Option<BTreeSet<i64>>,
    /// Threads whose state was found in their TLS, by its base and their state, and in how many scans.
    searched: HashMap<(u64, u64), u8>,
    turn: Option<Turn>,
    /// The program has imported uvloop, whose loop has no Python frames.
    has_uvloop: bool,
    code: ExecutableMemory,
    stacks: HashMap<Vec<(u64, u64)>, Resolved>,
}

/// The function that is one turn of an asyncio loop.
#[derive(Clone, Copy, Debug)]
struct Turn {
    code: u64,
    locals: [u32; 3],
}

#[derive(Clone, Debug)]
struct Resolved {
    stack: Arc<SampledStack>,
    /// Which frame is the outermost of the step.
    outermost: Option<usize>,
}

impl Interpreter {
    /// What kernel programs need to walk this interpreter's stacks. To be asked after each scan, for
    /// it may change when asyncio is imported. A step is told at once when it is `long_ns` old.
    ///
    /// # Errors
    /// Why they cannot, in a sentence.
    pub fn unwind_config(&mut self, long_ns: u64) -> Result<Python, String> {
        let Some((runtime, layout)) = self.runtime else {
            return Err("this interpreter is not supported".to_owned());
        };
        let memory = Arc::clone(&self.memory);
        let mut reader = Reader::new(&*memory, layout.walk, STEP_BYTES);
        let interpreters = thread_states::interpreters(&*memory, runtime, &layout)
            .map_err(|error| format!("its interpreters cannot be read: {error}"))?;
        let Some(main) = interpreters.first().copied() else {
            return Err("it has no interpreter".to_owned());
        };
        // What is cached by address is good until the next scan.
        self.unwinder.stacks.clear();
        self.unwinder.code.begin_look(self.pid);
        let states = thread_states::threads(
            &*memory,
            main,
            layout.interpreter.threads_head,
            &layout.walk.thread,
            &[],
        )
        .map_err(|error| format!("its threads cannot be read: {error}"))?;
        self.unwinder.narrow(&mut reader, &states);
        let tls_offset = self.unwinder.tls_offset().ok_or(
            "where threads note their thread state was not found (the C library may be another one)",
        )?;
        self.unwinder.has_uvloop |= imports_uvloop(&mut reader, main, &layout);
        if self.unwinder.turn.is_none() {
            self.unwinder.turn = find_turn(&mut reader, main, &layout);
        }
        Ok(config(
            runtime,
            main,
            &layout,
            tls_offset,
            self.unwinder.turn,
            long_ns,
        ))
    }

    /// Turns stacks of addresses into stacks of names. Those of other processes are left out.
    pub fn resolve(&mut self, raw: &[RawSample]) -> Vec<Sample> {
        let Some((runtime, layout)) = self.runtime else {
            return Vec::new();
        };
        let memory = Arc::clone(&self.memory);
        let mut reader = Reader::new(&*memory, layout.walk, RESOLVE_BYTES);
        self.codes.begin(RESOLVE_BYTES);
        let unknown = raw
            .iter()
            .filter(|sample| !self.unwinder.stacks.contains_key(&key(sample)))
            .flat_map(|sample| sample.frames.iter().map(|frame| frame.code));
        self.codes
            .load(&mut reader, unknown.filter(|code| plausible(*code)));
        let mut samples = Vec::with_capacity(raw.len());
        let mut asked = self.unwinder.has_uvloop;
        for sample in raw {
            let key = key(sample);
            let resolved = match self.unwinder.stacks.get(&key) {
                Some(resolved) => resolved.clone(),
                None => {
                    let mut resolved = self.name_frames(&layout.walk, sample);
                    // It may have been imported since the last scan.
                    if resolved.outermost.is_none() && !asked && may_be_step(sample, &resolved) {
                        asked = true;
                        let main = thread_states::interpreters(&*memory, runtime, &layout);
                        if let Some(main) = main.ok().and_then(|found| found.first().copied())
                            && imports_uvloop(&mut reader, main, &layout)
                        {
                            self.unwinder.has_uvloop = true;
                            self.unwinder.stacks.clear();
                            resolved = self.name_frames(&layout.walk, sample);
                        }
                    }
                    if self.unwinder.stacks.len() < MAX_STACKS {
                        self.unwinder.stacks.insert(key, resolved.clone());
                    }
                    resolved
                }
            };
            samples.push(self.sample(sample, resolved));
        }
        samples
    }

    fn name_frames(&mut self, walk: &WalkLayout, sample: &RawSample) -> Resolved {
        let lines = walk.code.lines;
        let unknown = || PyFrame {
            function: "?".into(),
            file: "?".into(),
            line: 0,
        };
        let frames: Vec<PyFrame> = sample
            .frames
            .iter()
            .map(|frame| {
                offset_of(walk, frame.code, frame.instruction)
                    .and_then(|offset| {
                        let link = Link {
                            code: frame.code,
                            offset,
                        };
                        self.codes.frame(link, lines)
                    })
                    .unwrap_or_else(unknown)
            })
            .collect();
        let (mut in_loop, mut step_frames) = step_frames(&frames, self.unwinder.has_uvloop);
        if self.unwinder.has_uvloop && step_frames == 0 {
            // A coroutine that nothing in Python calls is called by the loop.
            let is_coroutine = |frame: &SampleFrame| frame.generator != 0;
            if let Some(outermost) = sample.frames.iter().rposition(is_coroutine) {
                (in_loop, step_frames) = (true, outermost + 1);
            }
        }
        Resolved {
            outermost: step_frames.checked_sub(1),
            stack: Arc::new(SampledStack {
                frames,
                step_frames,
                in_loop,
                truncated: sample.has(sample_flags::TRUNCATED | sample_flags::FAULT),
            }),
        }
    }

    fn sample(&mut self, raw: &RawSample, resolved: Resolved) -> Sample {
        let head = &raw.head;
        let on_cpu = !raw.has(sample_flags::BLOCK);
        Sample {
            at_ns: head.at_ns,
            pid: Pid(head.tgid),
            tid: Tid(head.tid),
            kind: raw.kind,
            context_version: raw.has(sample_flags::STATE).then_some(head.context_version),
            iteration: iteration(head),
            collecting: raw.has(sample_flags::COLLECTING),
            code: match (on_cpu, raw.has(sample_flags::USER)) {
                (false, _) => None,
                (true, false) => Some(CodeKind::Kernel),
                (true, true) => self.unwinder.code.kind(self.pid, head.ip),
            },
            coroutine: resolved
                .outermost
                .and_then(|frame| raw.frames.get(frame))
                .map(|frame| frame.generator)
                .filter(|generator| *generator != 0),
            stack: resolved.stack,
        }
    }

    /// Looks at the step that a thread is in, by the sample that has shown it. `None`: it is over, or
    /// could not be read.
    pub fn step(
        &mut self,
        read_ns: u64,
        head: &SampleHead,
        options: &ScanOptions,
    ) -> Option<StepFact> {
        let (runtime, layout) = self.runtime?;
        let walk = layout.walk;
        let memory = Arc::clone(&self.memory);
        let mut reader = Reader::new(&*memory, walk, STEP_BYTES);
        let state = head.thread_state;
        let version_at = at(state, walk.thread.context + 8);
        let still =
            |reader: &mut Reader<'_>| reader.pointer(version_at).ok() == Some(head.context_version);
        still(&mut reader).then_some(())?;
        let record = ThreadRecord::read(&*memory, state, &walk.thread).ok()?;
        let tid = Tid(head.tid);
        let loop_object = loops::running(&mut reader, std::slice::from_ref(&record))
            .pop()
            .flatten();
        let modules = thread_states::interpreters(&*memory, runtime, &layout)
            .ok()?
            .first()
            .and_then(|main| reader.pointer(at(*main, layout.interpreter.modules)).ok());
        let task = running_task(&mut reader, &record, loop_object, modules);
        let task = task
            .and_then(|task| name_task(&mut reader, task))
            .or_else(|| trio_task(&mut reader, &record, modules));
        let context = reader
            .pointer(at(state, walk.thread.context))
            .ok()
            .filter(|context| plausible(*context));
        let values = context.map(|context| {
            contexts::values(&mut reader, &[context], &options.context_vars)
                .remove(&context)
                .map(|values| (*values).clone())
                .unwrap_or_default()
        });
        let waiting = loop_object.map(|id| {
            let about = loops::read(&mut reader, id, tid);
            (about.ready, timers::overdue(&mut reader, id, read_ns))
        });
        // What was read in between is about the same step.
        still(&mut reader).then_some(())?;
        Some(StepFact {
            read_ns,
            pid: self.pid,
            tid,
            context_version: head.context_version,
            task,
            context: values.unwrap_or_default(),
            ready: waiting.and_then(|(ready, _)| ready),
            overdue: waiting.and_then(|(_, overdue)| overdue),
        })
    }
}

/// The task that a thread says it runs, or the one that its loop has current.
fn running_task(
    reader: &mut Reader<'_>,
    record: &ThreadRecord,
    loop_object: Option<u64>,
    modules: Option<u64>,
) -> Option<u64> {
    if let Some(offset) = reader.walk.thread.running_task {
        return Some(record.field(offset)).filter(|task| plausible(*task));
    }
    let tasks = reader.dict_values(modules?, &["asyncio.tasks"])?[0]?;
    let tasks = reader.module_dict(tasks)?;
    let current = reader.dict_values(tasks, &["_current_tasks"])?[0]?;
    let entries = reader.dict(current)?;
    entries
        .iter()
        .find(|(of, _)| Some(*of) == loop_object)
        .map(|(_, task)| *task)
}

fn trio_task(
    reader: &mut Reader<'_>,
    record: &ThreadRecord,
    modules: Option<u64>,
) -> Option<StepTask> {
    let module = reader.dict_values(modules?, &[trio::MODULE])?[0]?;
    let module = reader.module_dict(module)?;
    let (id, name, coroutine) = trio::running(reader, module, record)?;
    Some(StepTask {
        id,
        name,
        coroutine,
    })
}

fn name_task(reader: &mut Reader<'_>, task: u64) -> Option<StepTask> {
    let head = task_heads::read_heads(reader, &[task]).pop()??;
    let name = reader.labels(&[head.name]).pop()??;
    Some(StepTask {
        id: task,
        name: super::walk::tasks::name(&name),
        coroutine: Some(head.coroutine).filter(|coroutine| *coroutine != 0),
    })
}

impl Unwinder {
    /// Keeps the offsets at which each of these threads has its state, too.
    fn narrow(&mut self, reader: &mut Reader<'_>, states: &[ThreadRecord]) {
        let ident = reader.walk.thread.ident;
        let place = |record: &ThreadRecord| (record.field(ident), record.address);
        let before = std::mem::take(&mut self.searched);
        self.searched = states
            .iter()
            .map(place)
            .filter_map(|place| Some((place, *before.get(&place)?)))
            .collect();
        let mut batch = Batch::new();
        let mut searched = Vec::new();
        for record in states {
            let (base, state) = place(record);
            let is_stack = plausible(base) && base > TLS_BELOW;
            let times = self.searched.get(&(base, state)).copied().unwrap_or(0);
            if !is_stack || times >= SEARCHES {
                continue;
            }
            if searched.len() == MAX_THREADS {
                break;
            }
            // Apart, for static TLS of a small program may be shorter than this.
            for page in 0..TLS_BELOW / 512 {
                batch.push(base - TLS_BELOW + page * 512, 512);
            }
            batch.push(base, TLS_ABOVE as usize);
            searched.push((base, state));
        }
        if searched.is_empty() {
            return;
        }
        reader.fetch(&mut batch);
        let pieces = (TLS_BELOW / 512) as usize + 1;
        for (thread, (base, state)) in searched.iter().enumerate() {
            let mut found = BTreeSet::new();
            for piece in 0..pieces {
                let start = match piece + 1 == pieces {
                    true => 0,
                    false => piece as i64 * 512 - TLS_BELOW as i64,
                };
                let bytes = batch.prefix(thread * pieces + piece);
                for offset in (0..bytes.len() as u32).step_by(8) {
                    if word(bytes, offset) == Some(*state) {
                        found.insert(start + i64::from(offset));
                    }
                }
            }
            let narrowed = match &self.tls {
                Some(known) => known.intersection(&found).copied().collect(),
                None => found,
            };
            // A state without any is that of a thread that is ending, or was made elsewhere.
            if !narrowed.is_empty() {
                *self.searched.entry((*base, *state)).or_default() += 1;
                self.tls = Some(narrowed);
            }
        }
    }

    /// A thread-specific key first: interpreters that have one always keep it.
    fn tls_offset(&self) -> Option<i64> {
        let found = self.tls.as_ref()?;
        found
            .iter()
            .find(|offset| KEYS.contains(*offset))
            .or_else(|| found.first())
            .copied()
    }
}

/// The executable memory of a process, read when a sample needs it: its list of mappings is long, and
/// most processes are idle.
#[derive(Debug, Default)]
struct ExecutableMemory {
    /// Begin, end, and whether it is the interpreter's own or the C library's; by begin.
    ranges: Vec<(u64, u64, bool)>,
    /// It was read since the last scan.
    is_fresh: bool,
}

impl ExecutableMemory {
    /// What has been mapped or unmapped since the last scan is to be seen by the next sample.
    fn begin_look(&mut self, pid: Pid) {
        self.is_fresh = false;
        if self.ranges.is_empty() {
            self.read(pid);
        }
    }

    fn read(&mut self, pid: Pid) {
        self.is_fresh = true;
        let ranges = executable(pid);
        // The last samples of a process may come after its end.
        if !ranges.is_empty() {
            self.ranges = ranges;
        }
    }

    fn kind(&mut self, pid: Pid, ip: u64) -> Option<CodeKind> {
        if !self.is_fresh {
            self.read(pid);
        }
        let after = self.ranges.partition_point(|(start, _, _)| *start <= ip);
        let (_, end, own) = self.ranges.get(after.checked_sub(1)?)?;
        (ip < *end).then_some(if *own {
            CodeKind::Interpreter
        } else {
            CodeKind::Native
        })
    }
}

/// The executable memory of a process.
fn executable(pid: Pid) -> Vec<(u64, u64, bool)> {
    maps::mappings(pid)
        .unwrap_or_default()
        .iter()
        .filter(|mapping| mapping.executable)
        .map(|mapping| (mapping.start, mapping.end, is_interpreter(mapping)))
        .collect()
}

/// Memory of the interpreter, or of what every program shares: the C library, the loader. Extension
/// modules of the standard library (`json`, `re`) count as native code: they do not let go of the GIL.
fn is_interpreter(mapping: &Mapping) -> bool {
    let name = mapping.basename();
    let is_shared = ["libc.so", "libc-", "libpthread", "ld-linux", "[vdso]"];
    name.starts_with("python")
        || name.starts_with("libpython")
        || is_shared.iter().any(|prefix| name.starts_with(prefix))
}

fn key(sample: &RawSample) -> Vec<(u64, u64)> {
    let frames = sample.frames.iter();
    frames
        .map(|frame| (frame.code, frame.instruction))
        .collect()
}

/// Which instruction it is, bytes from the code object's first.
fn offset_of(walk: &WalkLayout, code: u64, instruction: u64) -> Option<i64> {
    match (walk.frame.instruction, walk.code.instructions) {
        (InstructionShape::Last { unit, .. }, _) => {
            Some(i64::from(instruction as u32 as i32) * i64::from(unit))
        }
        (InstructionShape::Pointer(_), Instructions::Inside(first)) => {
            Some(instruction.wrapping_sub(at(code, first)) as i64)
        }
        (InstructionShape::Pointer(_), Instructions::Bytes { .. }) => None,
    }
}

/// The frames of loops, which call steps: file and functions.
const LOOPS: &[(&str, &[&str])] = &[
    (
        "asyncio/base_events.py",
        &["_run_once", "run_forever", "run_until_complete"],
    ),
    ("asyncio/unix_events.py", &["run_forever"]),
    ("asyncio/events.py", &["_run"]),
    ("asyncio/runners.py", &["run"]),
    (
        "asyncio/tasks.py",
        &["__step", "__step_run_and_handle_result", "__wakeup"],
    ),
    ("uvloop/__init__.py", &["run"]),
    ("trio/_core/_run.py", &["run", "unrolled_run"]),
    (
        "nest_asyncio.py",
        &["run", "run_until_complete", "_run_once"],
    ),
];
/// Functions that call nothing but steps; what others call is their own work.
const CALLERS: &[&str] = &[
    "_run",
    "__step",
    "__step_run_and_handle_result",
    "__wakeup",
    "unrolled_run",
];

fn is_of_loop(frame: &PyFrame) -> bool {
    LOOPS.iter().any(|(file, functions)| {
        frame.file.ends_with(file) && functions.contains(&plain_name(frame))
    })
}

/// The last of a function's qualified names.
fn plain_name(frame: &PyFrame) -> &str {
    frame.function.rsplit('.').next().unwrap_or(&frame.function)
}

/// Whether it calls a loop that may be written in C.
fn is_runner(frame: &PyFrame) -> bool {
    plain_name(frame) == "run" && frame.file.ends_with("asyncio/runners.py")
}

/// Whether a stack without a step shows one, if its loop is written in C.
fn may_be_step(sample: &RawSample, resolved: &Resolved) -> bool {
    let frames = &resolved.stack.frames;
    let runner = frames.iter().position(is_runner);
    let by_runner = runner.is_some_and(|runner| runner > 0 && !is_of_loop(&frames[runner - 1]));
    by_runner || sample.frames.iter().any(|frame| frame.generator != 0)
}

/// Whether the program has imported uvloop.
fn imports_uvloop(reader: &mut Reader<'_>, interpreter: u64, layout: &Layout) -> bool {
    reader
        .pointer(at(interpreter, layout.interpreter.modules))
        .ok()
        .and_then(|modules| reader.dict_values(modules, &["uvloop"]))
        .is_some_and(|found| found[0].is_some())
}

/// Whether a loop runs on a stack, and how many of the innermost frames are its step. `in_c`: loops
/// may be written in C.
fn step_frames(frames: &[PyFrame], in_c: bool) -> (bool, usize) {
    let Some(first) = frames.iter().rposition(is_of_loop) else {
        return (false, 0);
    };
    // From there inwards, to the last of the loop's frames that follow one another.
    let mut last = first;
    while last > 0 && is_of_loop(&frames[last - 1]) {
        last -= 1;
    }
    let frame = &frames[last];
    let in_c = in_c || frames.iter().any(|frame| frame.file.contains("uvloop/"));
    if CALLERS.contains(&plain_name(frame)) || in_c && is_runner(frame) {
        (true, last)
    } else {
        (true, 0)
    }
}

fn iteration(head: &SampleHead) -> Option<Iteration> {
    let seconds = f64::from_bits(head.turn_start);
    let told = |number: u32| Some(number).filter(|number| *number != NO_OFFSET);
    (head.turn_start != 0 && (0.0..1.8e10).contains(&seconds)).then(|| Iteration {
        start_ns: ((seconds * 1e9) as u64).min(head.at_ns),
        index: told(head.turn_index),
        count: told(head.turn_count),
    })
}

/// Finds the function that is one turn of asyncio's loop.
fn find_turn(reader: &mut Reader<'_>, interpreter: u64, layout: &Layout) -> Option<Turn> {
    let modules = reader
        .pointer(at(interpreter, layout.interpreter.modules))
        .ok()?;
    let module = reader.dict_values(modules, &["asyncio.base_events"])?[0]?;
    let module = reader.module_dict(module)?;
    let class = reader.dict_values(module, &["BaseEventLoop"])?[0]?;
    reader.load_types([class]);
    let dict = reader.type_info(class)?.dict;
    let function = reader.dict_values(dict, &["_run_once"])?[0]?;
    let code = reader
        .pointer(at(function, reader.walk.callable.function_code))
        .ok()?;
    let names = reader
        .pointer(at(code, reader.walk.code.local_names))
        .ok()?;
    let names = reader.tuple(names, MAX_LOCALS)?;
    reader.load_texts(names.iter().copied());
    let local = |wanted: &str| {
        let mut names = names.iter();
        let index = names.position(|name| reader.text(*name).is_some_and(|text| **text == *wanted));
        index.and_then(|index| u32::try_from(index).ok())
    };
    let [start, index, count] = TURN_LOCALS.map(local);
    Some(Turn {
        code,
        locals: [start?, index?, count?],
    })
}

fn config(
    runtime: u64,
    interpreter: u64,
    layout: &Layout,
    tls_offset: i64,
    turn: Option<Turn>,
    long_ns: u64,
) -> Python {
    let walk = &layout.walk;
    let (thread_frame, root_frame) = match walk.thread.frame {
        FrameRoot::Field(field) => (field, NO_OFFSET),
        FrameRoot::Indirect { pointer, frame } => (pointer, frame),
    };
    let instruction = match walk.frame.instruction {
        InstructionShape::Last { index, .. } => index,
        InstructionShape::Pointer(pointer) => pointer,
    };
    let collector = match layout.collector.place {
        CollectorPlace::Runtime(offset) => at(runtime, offset),
        CollectorPlace::Interpreter(offset) => at(interpreter, offset),
    };
    let fields = [
        walk.frame.executable,
        walk.frame.previous,
        instruction,
        walk.frame.generator.unwrap_or(0),
        walk.frame.owner.unwrap_or(0) & !7,
    ];
    let [turn_start, turn_index, turn_count] = turn.map_or([0; 3], |turn| turn.locals);
    Python {
        tls_offset,
        collecting: at(collector, layout.collector.collecting),
        turn_code: turn.map_or(0, |turn| turn.code),
        long_ns,
        executable_mask: if walk.frame.tagged { !3 } else { !0 },
        thread_context: walk.thread.context,
        thread_frame,
        root_frame,
        frame_bytes: (fields.into_iter().max().unwrap_or(0) + 8).min(FRAME_BYTES as u32),
        executable: walk.frame.executable,
        previous: walk.frame.previous,
        instruction,
        owner: walk.frame.owner.unwrap_or(NO_OFFSET),
        generator_frame: match walk.generator.frame {
            GeneratorFrame::Inside(frame) => frame,
            GeneratorFrame::Object { .. } => 0,
        },
        frame_generator: walk.frame.generator.unwrap_or(0),
        locals: walk.frame.locals,
        turn_start,
        turn_index,
        turn_count,
        float_value: walk.containers.float_value,
        int_value: match walk.integer {
            IntegerShape::SignedSize { digits, .. } | IntegerShape::Tag { digits, .. } => digits,
        },
        reserved: [0; 4],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stack(frames: &[(&str, &str)]) -> Vec<PyFrame> {
        let frame = |(function, file): &(&str, &str)| PyFrame {
            function: (*function).into(),
            file: format!("/usr/lib/python3.11/{file}").into(),
            line: 1,
        };
        frames.iter().map(frame).collect()
    }

    const OUTER: [(&str, &str); 4] = [
        ("BaseEventLoop.run_forever", "asyncio/base_events.py"),
        ("BaseEventLoop.run_until_complete", "asyncio/base_events.py"),
        ("run", "asyncio/runners.py"),
        ("<module>", "app.py"),
    ];

    #[test]
    fn a_step_is_what_a_handle_runs() {
        let mut frames = vec![
            ("work", "app.py"),
            ("main", "app.py"),
            ("Handle._run", "asyncio/events.py"),
            ("BaseEventLoop._run_once", "asyncio/base_events.py"),
        ];
        frames.extend(OUTER);
        assert_eq!(step_frames(&stack(&frames), false), (true, 2));
    }

    #[test]
    fn the_loop_itself_is_no_step() {
        let mut frames = vec![
            ("EpollSelector.select", "selectors.py"),
            ("BaseEventLoop._run_once", "asyncio/base_events.py"),
        ];
        frames.extend(OUTER);
        assert_eq!(step_frames(&stack(&frames), false), (true, 0));
        assert_eq!(step_frames(&stack(&OUTER), false), (true, 0));
        assert_eq!(
            step_frames(&stack(&[("work", "app.py")]), false),
            (false, 0)
        );
        assert_eq!(step_frames(&[], false), (false, 0));
    }

    #[test]
    fn steps_of_loops_in_c_and_of_trio() {
        let uvloop = [
            ("handler", "app.py"),
            ("run.<locals>.wrapper", "site-packages/uvloop/__init__.py"),
            ("Runner.run", "asyncio/runners.py"),
            ("run", "site-packages/uvloop/__init__.py"),
        ];
        assert_eq!(step_frames(&stack(&uvloop), false), (true, 2));
        let callback = [
            ("callback", "app.py"),
            ("run", "asyncio/runners.py"),
            ("<module>", "app.py"),
        ];
        assert_eq!(step_frames(&stack(&callback), true), (true, 1));
        assert_eq!(step_frames(&stack(&callback), false), (true, 0));
        let trio = [
            ("work", "app.py"),
            ("main", "app.py"),
            ("unrolled_run", "site-packages/trio/_core/_run.py"),
            ("run", "site-packages/trio/_core/_run.py"),
            ("<module>", "app.py"),
        ];
        assert_eq!(step_frames(&stack(&trio), false), (true, 2));
    }

    #[test]
    fn an_implausible_turn_is_none() {
        let mut head = SampleHead {
            flags: 0,
            cause: 0,
            frames: 0,
            tid: 1,
            tgid: 1,
            turn_index: 3,
            turn_count: NO_OFFSET,
            reserved: 0,
            at_ns: 2_000_000_000,
            context: 0,
            context_version: 0,
            turn_start: 1.5f64.to_bits(),
            ip: 0,
            thread_state: 0,
        };
        let turn = iteration(&head).expect("a turn");
        assert_eq!((turn.start_ns, turn.index), (1_500_000_000, Some(3)));
        assert_eq!(turn.count, None);
        head.turn_start = f64::NAN.to_bits();
        assert!(iteration(&head).is_none());
        head.turn_start = 9f64.to_bits();
        assert_eq!(
            iteration(&head).map(|turn| turn.start_ns),
            Some(2_000_000_000)
        );
    }
}
