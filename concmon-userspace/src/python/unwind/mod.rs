//! What kernel programs need to walk Python stacks by themselves, and what their samples mean.

mod by_hand;
mod config;
mod executable;
mod frames;
mod step;
mod thread_places;
mod turn;

use std::collections::HashMap;
use std::sync::Arc;

use concmon_ebpf::{Python, sample_flags};

use super::attached::Attached;
use super::layout::{InstructionShape, Instructions, Layout, WalkLayout};
use super::memory::{at, plausible};
use super::objects::Reader;
use super::objects::code::{CodeCache, CodePosition};
use super::walk::thread_states;
use crate::decode::samples::RawSample;
use crate::event::{CodeKind, Pid, PyFrame, Sample, SampledStack, Tid};
use executable::ExecutableMemory;
use frames::{eager_frames, is_of_loop, is_runner, step_frames};
use thread_places::ThreadPlaces;
use turn::Turns;

pub use step::StepAt;

/// Stacks that are kept by their addresses, until the next scan.
const MAX_STACKS: usize = 4_096;
/// What one batch of samples may read, bytes.
const RESOLVE_BYTES: usize = 8 << 20;
/// What finding out how to walk stacks may read, bytes.
const CONFIG_BYTES: usize = 1 << 20;

/// What is known for sampling the stacks of an interpreter.
#[derive(Debug, Default)]
pub(super) struct Unwinder {
    places: ThreadPlaces,
    turns: Turns,
    /// The program has imported uvloop, whose loop has no Python frames.
    has_uvloop: bool,
    code: ExecutableMemory,
    codes: CodeCache,
    stacks: HashMap<Vec<(u64, u64)>, Resolved>,
}

#[derive(Clone, Debug)]
struct Resolved {
    stack: Arc<SampledStack>,
    /// Which frame is the outermost of the step.
    outermost: Option<usize>,
    /// And of the step that has made an eager task, where that is the step.
    creator: Option<usize>,
}

impl Unwinder {
    /// What is cached by address is good until the next scan.
    pub(super) fn begin_scan(&mut self, pid: Pid) {
        self.stacks.clear();
        self.code.begin_scan(pid);
    }

    /// What kernel programs need to walk this interpreter's stacks.
    ///
    /// # Errors
    /// Why they cannot, in a sentence.
    pub(super) fn config(&mut self, attached: &Attached, long_ns: u64) -> Result<Python, String> {
        let Some((runtime, layout)) = attached.runtime else {
            return Err("this interpreter is not supported".to_owned());
        };
        let memory = &*attached.memory;
        let mut reader = Reader::new(memory, layout.walk, CONFIG_BYTES);
        let interpreters = thread_states::interpreters(memory, runtime, &layout)
            .map_err(|error| format!("its interpreters cannot be read: {error}"))?;
        let Some(main) = interpreters.first().copied() else {
            return Err("it has no interpreter".to_owned());
        };
        self.begin_scan(attached.pid);
        let states = thread_states::threads(
            memory,
            main,
            layout.interpreter.threads_head,
            &layout.walk.thread,
            &[],
        )
        .map_err(|error| format!("its threads cannot be read: {error}"))?;
        self.places.narrow(&mut reader, &states);
        let tls_offset = self.places.tls_offset().ok_or(
            "where threads note their thread state was not found (the C library may be another one)",
        )?;
        self.has_uvloop |= imports_uvloop(&mut reader, main, &layout);
        self.turns
            .find(&mut reader, &states, main, &layout, self.has_uvloop);
        Ok(config::config(
            runtime,
            main,
            &layout,
            tls_offset,
            &self.turns,
            long_ns,
        ))
    }

    /// Turns stacks of addresses into stacks of names. Those of other processes are left out.
    pub(super) fn resolve(&mut self, attached: &Attached, raw: &[RawSample]) -> Vec<Sample> {
        let Some((_, layout)) = attached.runtime else {
            return Vec::new();
        };
        let memory = Arc::clone(&attached.memory);
        let mut reader = Reader::new(&*memory, layout.walk, RESOLVE_BYTES);
        let mut codes = std::mem::take(&mut self.codes);
        codes.begin(RESOLVE_BYTES);
        let unknown = raw
            .iter()
            .filter(|sample| !self.stacks.contains_key(&key(sample)))
            .flat_map(|sample| sample.frames.iter().map(|frame| frame.code));
        codes.load(&mut reader, unknown.filter(|code| plausible(*code)));
        let mut samples = Vec::with_capacity(raw.len());
        let mut asked = self.has_uvloop;
        for sample in raw {
            let key = key(sample);
            let resolved = match self.stacks.get(&key) {
                Some(resolved) => resolved.clone(),
                None => {
                    let mut resolved = self.name_frames(&mut codes, &layout.walk, sample);
                    // It may have been imported since the last scan.
                    if resolved.outermost.is_none() && !asked && may_be_step(sample, &resolved) {
                        asked = true;
                        if let Some((_, _, main)) = attached.main()
                            && imports_uvloop(&mut reader, main, &layout)
                        {
                            self.has_uvloop = true;
                            self.stacks.clear();
                            resolved = self.name_frames(&mut codes, &layout.walk, sample);
                        }
                    }
                    if self.stacks.len() < MAX_STACKS {
                        self.stacks.insert(key, resolved.clone());
                    }
                    resolved
                }
            };
            samples.push(self.sample(attached.pid, sample, resolved));
        }
        self.codes = codes;
        samples
    }

    fn name_frames(
        &self,
        codes: &mut CodeCache,
        walk: &WalkLayout,
        sample: &RawSample,
    ) -> Resolved {
        let lines = walk.code.lines;
        let unknown = || PyFrame {
            function: "?".into(),
            file: "?".into(),
            line: 0,
        };
        let shown: Vec<usize> = (0..sample.frames.len())
            .filter(|frame| !codes.is_shim(sample.frames[*frame].code))
            .collect();
        let frames: Vec<PyFrame> = shown
            .iter()
            .map(|frame| {
                let frame = &sample.frames[*frame];
                offset_of(walk, frame.code, frame.instruction)
                    .and_then(|offset| {
                        let position = CodePosition {
                            code: frame.code,
                            offset,
                        };
                        codes.frame(position, lines)
                    })
                    .unwrap_or_else(unknown)
            })
            .collect();
        let (mut in_loop, mut step_frames) = step_frames(&frames, self.has_uvloop);
        if self.has_uvloop && step_frames == 0 {
            // A coroutine that nothing in Python calls is called by the loop.
            let is_coroutine = |frame: &usize| sample.frames[*frame].generator != 0;
            if let Some(outermost) = shown.iter().rposition(is_coroutine) {
                (in_loop, step_frames) = (true, outermost + 1);
            }
        }
        let eager = eager_frames(&frames[..step_frames.min(frames.len())], |frame| {
            let frame = shown.get(frame).map(|frame| &sample.frames[*frame]);
            frame.is_some_and(|frame| frame.generator != 0)
        });
        let creator = eager.and_then(|_| step_frames.checked_sub(1));
        let step_frames = eager.unwrap_or(step_frames);
        let in_sample = |frame: usize| shown.get(frame).copied();
        Resolved {
            outermost: step_frames.checked_sub(1).and_then(in_sample),
            creator: creator.and_then(in_sample),
            stack: Arc::new(SampledStack {
                frames,
                step_frames,
                in_loop,
                truncated: sample.has(sample_flags::TRUNCATED | sample_flags::FAULT),
            }),
        }
    }

    fn sample(&mut self, pid: Pid, raw: &RawSample, resolved: Resolved) -> Sample {
        let head = &raw.head;
        let on_cpu = !raw.has(sample_flags::BLOCK);
        let generator_of = |frame: Option<usize>| {
            let frame = raw.frames.get(frame?)?;
            Some(frame.generator).filter(|generator| *generator != 0)
        };
        Sample {
            at_ns: head.at_ns,
            pid: Pid(head.tgid),
            tid: Tid(head.tid),
            kind: raw.kind,
            context_version: raw.has(sample_flags::STATE).then_some(head.context_version),
            iteration: self.turns.iteration(head),
            turns: Some(head.turns).filter(|turns| *turns != 0),
            collecting: raw.has(sample_flags::COLLECTING),
            code: match (on_cpu, raw.has(sample_flags::USER)) {
                (false, _) => None,
                (true, false) => Some(CodeKind::Kernel),
                (true, true) => self.code.kind(pid, head.ip),
            },
            coroutine: generator_of(resolved.outermost),
            creator: generator_of(resolved.creator),
            stack: resolved.stack,
        }
    }
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
