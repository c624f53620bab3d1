//! A trace for <https://ui.perfetto.dev>: threads by state, loops, steps, tasks, wakeups, counters.
//!
//! Written while the watch is taken in, so memory does not grow with it. Tracks: one per thread; of each
//! loop's thread one for sampled steps, one for stalls, and one for each task that looks have met.
//! Wakeups are arrows from an instant on the waker's track to where the woken thread gets runnable.

mod counters;
mod proto;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use prost::Message;

use crate::event::PyFrame;
use crate::model::WatchInfo;
use crate::model::intervals::settle::Correction;
use crate::model::intervals::steps::{Step, TaskStretch};
use crate::model::intervals::threads::Threads;
use crate::model::intervals::{Activity, Interval, Intervals, Sink};
use crate::schema::{Loop, Snapshot, Stall};
use crate::views::escape::escape;
use crate::views::export::stacks::state;
use proto::{
    BOOTTIME, Clock, ClockSnapshot, DebugAnnotation, INCREMENTAL_STATE_CLEARED, INSTANT,
    InternedData, MONOTONIC, NEEDS_INCREMENTAL_STATE, Name, ProcessDescriptor, REALTIME,
    SLICE_BEGIN, SLICE_END, ThreadDescriptor, Trace, TracePacket, TracePacketDefaults,
    TrackDescriptor, TrackEvent,
};

/// All packets are of one sequence.
const SEQUENCE: u32 = 1;
/// Arguments of a slice on a CPU: which, and how much of it was stolen.
const CPU_IID: u64 = 1;
const STOLEN_IID: u64 = 2;
/// Tracks of tasks, at most.
const MAX_TASK_TRACKS: usize = 4_096;

/// Identifies a track: the kind in the upper bits.
#[derive(Clone, Copy)]
enum Track {
    Process(u32),
    /// By index.
    Thread(usize),
    /// By index of the loop's thread.
    Steps(usize),
    Stalls(usize),
    Tasks(usize),
    /// By the number of its first appearance.
    Task(usize),
    Counter(usize),
}

impl Track {
    const fn uuid(self) -> u64 {
        let (kind, number) = match self {
            Track::Process(pid) => (1, pid as u64),
            Track::Thread(at) => (2, at as u64),
            Track::Steps(at) => (3, at as u64),
            Track::Stalls(at) => (4, at as u64),
            Track::Tasks(at) => (5, at as u64),
            Track::Task(at) => (6, at as u64),
            Track::Counter(at) => (7, at as u64),
        };
        kind << 40 | number
    }
}

/// Writes a trace. An error of the output is kept and comes out at [`Perfetto::finish`].
pub struct Perfetto<'a> {
    out: &'a mut dyn Write,
    info: WatchInfo,
    result: io::Result<()>,
    buffer: Vec<u8>,
    flows: u64,
    described: BTreeSet<u64>,
    tasks: BTreeMap<(usize, u64, String), usize>,
    counters: BTreeMap<(u32, Option<u32>, &'static str), usize>,
    /// Of threads that run loops, by id: what is needed to tell stalls.
    loops: BTreeMap<u32, usize>,
}

impl std::fmt::Debug for Perfetto<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Perfetto").finish_non_exhaustive()
    }
}

impl<'a> Perfetto<'a> {
    /// A trace of a watch that begins.
    pub fn new(info: &WatchInfo, out: &'a mut dyn Write) -> Self {
        let mut perfetto = Perfetto {
            out,
            info: info.clone(),
            result: Ok(()),
            buffer: Vec::with_capacity(64 * 1024),
            flows: 0,
            described: BTreeSet::new(),
            tasks: BTreeMap::new(),
            counters: BTreeMap::new(),
            loops: BTreeMap::new(),
        };
        perfetto.begin();
        perfetto
    }

    fn begin(&mut self) {
        let clock = |clock_id, timestamp| Clock {
            clock_id,
            timestamp,
        };
        let info = &self.info;
        let clocks = vec![
            clock(MONOTONIC, info.start_ns),
            clock(REALTIME, info.start_unix_ns),
            clock(BOOTTIME, info.start_boottime_ns),
        ];
        self.packet(TracePacket {
            clock_snapshot: Some(ClockSnapshot {
                clocks,
                primary_trace_clock: BOOTTIME,
            }),
            ..TracePacket::default()
        });
        let names = Activity::all().map(|activity| Name {
            iid: iid(activity),
            name: activity.name().to_owned(),
        });
        self.packet(TracePacket {
            sequence_flags: INCREMENTAL_STATE_CLEARED,
            trace_packet_defaults: Some(TracePacketDefaults {
                timestamp_clock_id: MONOTONIC,
            }),
            interned_data: Some(InternedData {
                event_names: names.collect(),
                debug_annotation_names: [(CPU_IID, "cpu"), (STOLEN_IID, "stolen_ns")]
                    .map(|(iid, name)| Name {
                        iid,
                        name: name.to_owned(),
                    })
                    .into(),
            }),
            ..TracePacket::default()
        });
    }

    /// Names the tracks of threads and processes, which are known by now, and ends the trace.
    ///
    /// # Errors
    /// The first of the output.
    pub fn finish(mut self, intervals: &Intervals, corrections: &[Correction]) -> io::Result<()> {
        self.corrections(intervals, corrections);
        let threads = intervals.threads();
        let mut processes = BTreeSet::new();
        for (at, thread) in threads.iter().enumerate() {
            let pid = i32::try_from(thread.pid.0).unwrap_or(i32::MAX);
            if processes.insert(thread.pid) {
                self.describe(TrackDescriptor {
                    uuid: Track::Process(thread.pid.0).uuid(),
                    process: Some(ProcessDescriptor {
                        pid,
                        process_name: threads.process_name(thread.pid).to_owned(),
                    }),
                    ..TrackDescriptor::default()
                });
            }
            self.describe(TrackDescriptor {
                uuid: Track::Thread(at).uuid(),
                thread: Some(ThreadDescriptor {
                    pid,
                    tid: i64::from(thread.tid.0),
                    thread_name: thread.name.clone(),
                }),
                ..TrackDescriptor::default()
            });
        }
        self.drain(0);
        self.result?;
        self.out.flush()
    }

    /// What the slices of a thread lack of its account, or have too much, ns by state: one instant of its track at
    /// the end.
    fn corrections(&mut self, intervals: &Intervals, corrections: &[Correction]) {
        for of_thread in corrections.chunk_by(|one, other| one.thread == other.thread) {
            let Some(first) = of_thread.first() else {
                continue;
            };
            let debug_annotations = of_thread.iter().map(|correction| DebugAnnotation {
                name: Some(state(correction.activity).to_owned()),
                int_value: Some(correction.ns),
                ..DebugAnnotation::default()
            });
            let event = TrackEvent {
                kind: INSTANT,
                track_uuid: Track::Thread(first.thread).uuid(),
                name: Some("not in slices, ns".to_owned()),
                categories: vec!["account".to_owned()],
                debug_annotations: debug_annotations.collect(),
                ..TrackEvent::default()
            };
            self.event(intervals.end_ns(), event);
        }
    }

    /// Takes the numbers and the stalls of a window.
    pub fn window(&mut self, snapshot: &Snapshot) {
        counters::write(self, snapshot);
        for process in &snapshot.processes {
            for one in &process.loops {
                for stall in one.timing.iter().flat_map(|timing| &timing.stalls) {
                    self.stall(process.pid, one, stall);
                }
            }
        }
    }

    fn stall(&mut self, pid: u32, one: &Loop, stall: &Stall) {
        let Some(&thread) = self.loops.get(&one.tid) else {
            return;
        };
        let track = Track::Stalls(thread);
        let name = format!("{} loop {}: stalls", one.kind, one.tid);
        self.describe_once(track, Track::Process(pid), &name);
        let place = stall.culprit.frame.as_ref();
        let place = place.map(|frame| place_of(&frame.function, &frame.file, frame.line));
        let title = match &place {
            Some(place) => format!("{}: {place}", stall.culprit.kind),
            None => stall.culprit.kind.to_string(),
        };
        let mut arguments = Vec::new();
        if let Some(task) = &stall.task {
            arguments.push(text("task", &task.name));
        }
        if let Some(coroutine) = &stall.coroutine {
            arguments.push(text("coroutine", coroutine));
        }
        for (name, value) in &stall.context {
            arguments.push(text(name, value));
        }
        let from_ns = self.monotonic_ns(stall.at_unix_ns);
        let span = (from_ns, from_ns.saturating_add(stall.duration_ns));
        let event = TrackEvent {
            name: Some(title),
            categories: vec!["stall".to_owned()],
            debug_annotations: arguments,
            ..TrackEvent::default()
        };
        self.slice(track, span, event);
    }

    /// `CLOCK_MONOTONIC` of an instant of the wall clock.
    const fn monotonic_ns(&self, unix_ns: u64) -> u64 {
        let since = unix_ns.saturating_sub(self.info.start_unix_ns);
        self.info.start_ns.saturating_add(since)
    }

    fn packet(&mut self, packet: TracePacket) {
        let packet = TracePacket {
            trusted_packet_sequence_id: SEQUENCE,
            ..shown(packet)
        };
        let trace = Trace {
            packet: vec![packet],
        };
        // A `Vec` takes whatever there is.
        let _ = trace.encode(&mut self.buffer);
        self.drain(48 * 1024);
    }

    fn drain(&mut self, above: usize) {
        if self.buffer.len() > above {
            if self.result.is_ok() {
                self.result = self.out.write_all(&self.buffer);
            }
            self.buffer.clear();
        }
    }

    fn event(&mut self, at_ns: u64, event: TrackEvent) {
        self.packet(TracePacket {
            timestamp: Some(at_ns),
            track_event: Some(event),
            sequence_flags: NEEDS_INCREMENTAL_STATE,
            ..TracePacket::default()
        });
    }

    fn describe(&mut self, descriptor: TrackDescriptor) {
        self.packet(TracePacket {
            track_descriptor: Some(descriptor),
            ..TracePacket::default()
        });
    }

    /// Names a track when it is first used.
    fn describe_once(&mut self, track: Track, parent: Track, name: &str) {
        let uuid = track.uuid();
        if self.described.insert(uuid) {
            self.describe(TrackDescriptor {
                uuid,
                name: Some(name.to_owned()),
                parent_uuid: Some(parent.uuid()),
                ..TrackDescriptor::default()
            });
        }
    }

    fn slice(&mut self, track: Track, span: (u64, u64), event: TrackEvent) {
        let track_uuid = track.uuid();
        self.event(
            span.0,
            TrackEvent {
                kind: SLICE_BEGIN,
                track_uuid,
                ..event
            },
        );
        self.event(
            span.1.max(span.0),
            TrackEvent {
                kind: SLICE_END,
                track_uuid,
                ..TrackEvent::default()
            },
        );
    }
}

/// The packet with its texts escaped: names are those of targets.
fn shown(mut packet: TracePacket) -> TracePacket {
    let show = |text: &mut String| {
        if let Cow::Owned(safe) = escape(text) {
            *text = safe;
        }
    };
    if let Some(track) = &mut packet.track_descriptor {
        track.name.iter_mut().for_each(show);
        if let Some(process) = &mut track.process {
            show(&mut process.process_name);
        }
        if let Some(thread) = &mut track.thread {
            show(&mut thread.thread_name);
        }
    }
    if let Some(event) = &mut packet.track_event {
        event.name.iter_mut().for_each(show);
        for argument in &mut event.debug_annotations {
            argument.name.iter_mut().for_each(show);
            argument.string_value.iter_mut().for_each(show);
        }
    }
    packet
}

/// The name of a loop's thread, and of the loop's process.
fn loop_of(thread: usize, threads: &Threads) -> Option<(Track, String)> {
    let thread = threads.get(thread)?;
    let name = match &*thread.name {
        "" => format!("loop {}", thread.tid),
        name => format!("{name} {}", thread.tid),
    };
    Some((Track::Process(thread.pid.0), name))
}

fn place_of(function: &str, file: &str, line: u32) -> String {
    format!("{function} ({file}:{line})")
}

fn text(name: &str, value: &str) -> DebugAnnotation {
    DebugAnnotation {
        name: Some(name.to_owned()),
        string_value: Some(value.to_owned()),
        ..DebugAnnotation::default()
    }
}

impl Sink for Perfetto<'_> {
    fn interval(&mut self, interval: &Interval, place: Option<&PyFrame>, threads: &Threads) {
        let mut begin = TrackEvent {
            name_iid: Some(iid(interval.activity)),
            ..TrackEvent::default()
        };
        let mut argument = |name_iid, value| {
            begin.debug_annotations.push(DebugAnnotation {
                name_iid: Some(name_iid),
                uint_value: Some(value),
                ..DebugAnnotation::default()
            });
        };
        if let Some(cpu) = interval.cpu {
            argument(CPU_IID, u64::from(cpu));
        }
        if interval.activity == Activity::OnCpu && interval.on_cpu_ns < interval.ns() {
            argument(STOLEN_IID, interval.ns() - interval.on_cpu_ns);
        }
        if let Some(frame) = place {
            begin.debug_annotations.push(text(
                "at",
                &place_of(&frame.function, &frame.file, frame.line),
            ));
        }
        if let Some(wakeup) = interval.wakeup
            && wakeup.waker != interval.thread
        {
            self.flows += 1;
            begin.terminating_flow_ids.push(self.flows);
            let name = threads
                .get(interval.thread)
                .map_or("", |thread| &thread.name);
            let instant = TrackEvent {
                kind: INSTANT,
                track_uuid: Track::Thread(wakeup.waker).uuid(),
                name: Some(format!("wakes {name}")),
                categories: vec!["wakeup".to_owned()],
                flow_ids: vec![self.flows],
                ..TrackEvent::default()
            };
            self.event(wakeup.at_ns.min(interval.from_ns), instant);
        }
        let track = Track::Thread(interval.thread);
        if let Some(thread) = threads.get(interval.thread)
            && thread.loop_kind.is_some()
        {
            self.loops.insert(thread.tid.0, interval.thread);
        }
        self.slice(track, (interval.from_ns, interval.to_ns), begin);
    }

    fn step(&mut self, step: &Step, threads: &Threads) {
        let Some((process, name)) = loop_of(step.thread, threads) else {
            return;
        };
        let track = Track::Steps(step.thread);
        self.describe_once(track, process, &format!("{name}: steps, as sampled"));
        let event = TrackEvent {
            name: Some(step.name.to_string()),
            categories: vec!["step".to_owned()],
            ..TrackEvent::default()
        };
        if step.samples > 1 {
            self.slice(track, (step.from_ns, step.to_ns), event);
        } else {
            let track_uuid = track.uuid();
            let kind = INSTANT;
            self.event(
                step.from_ns,
                TrackEvent {
                    kind,
                    track_uuid,
                    ..event
                },
            );
        }
    }

    fn task(&mut self, stretch: &TaskStretch, threads: &Threads) {
        let Some((process, name)) = loop_of(stretch.thread, threads) else {
            return;
        };
        let key = (stretch.thread, stretch.task, stretch.name.clone());
        let next = self.tasks.len();
        if next >= MAX_TASK_TRACKS && !self.tasks.contains_key(&key) {
            return;
        }
        let track = Track::Task(*self.tasks.entry(key).or_insert(next));
        let group = Track::Tasks(stretch.thread);
        self.describe_once(group, process, &format!("{name}: tasks, as looks met them"));
        self.describe_once(track, group, &stretch.name);
        let event = TrackEvent {
            name: Some(stretch.doing.clone()),
            categories: vec!["task".to_owned()],
            debug_annotations: vec![text("coroutine", &stretch.coroutine)],
            ..TrackEvent::default()
        };
        self.slice(track, (stretch.from_ns, stretch.to_ns), event);
    }
}

/// Interned names begin with 1.
const fn iid(activity: Activity) -> u64 {
    activity.number() as u64 + 1
}
